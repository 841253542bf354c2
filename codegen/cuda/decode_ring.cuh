/* The weight stream of the persistent decode step: how an op's blocks are dealt to thread blocks,
 * and the ring in shared memory that one loading warp fills ahead of everything.
 *
 * A linear op is a struct C of constants:
 *   - N, K: rows (gate and up: as pfq_glu_row interleaves them), columns; bits of a weight, 4 or 8
 *   - parts: its k is cut in that many equal runs. Units of work are (part, panel of 64 rows), all
 *     panels of a part before those of the next, so that a thread block sees few parts and makes
 * its activations for those alone. 1 where every block makes all of them
 *   - apart: a thread block works on one part alone, which takes as many blocks as parts
 *   - planes: bytes of an activation, 1 (s8) or 2 (s16: 256 * x1 + x0, both s8)
 *   - w, scale: columns of the layer table: its fragments (fragments.cuh), its rows' scales, f32
 * [N]
 *   - sums: index of the address of its sums, int32 [planes][N]: see decode.cuh
 *   - words: 0, or how many blocks at most share a row where sums are words that carry a flag,
 * uint64 [words][N]: readers then wait for the words themselves, and there is no meeting (one part)
 *
 * A slot of the ring holds up to four blocks of 2048 bytes of one unit. The slots of an op, in the
 * order of the units, are divided evenly and in runs over the thread blocks.
 *
 * The loader fills slots in the order of the schedule and waits for nothing but free slots, so that
 * it runs ahead over dependencies between ops by as much as the ring holds; consumers must
 * therefore take exactly the slots that it fills: both sides get them from PfqDeal and PfqKeyDeal.
 *
 * A wait for a slot's parity cannot tell use n from use n - 2, so use n - 1 must have landed when a
 * warp waits. It has where the same warps took it: so slots are a multiple of PFQ_GROUPS, which
 * take the slots of an op in turn. Else it must lie behind the copies that are in flight (see
 * pfq_decode); a ring of 19 with 20 in flight read slots that were not there yet.
 */
#ifndef PFQC_CODEGEN_CUDA_DECODE_RING_CUH
#define PFQC_CODEGEN_CUDA_DECODE_RING_CUH

#include "grid.cuh"
#include "fragments.cuh"

enum { PFQ_SLOT = 8192, PFQ_SLOT_BLOCKS = PFQ_SLOT / PFQ_FRAG_BYTES };

template <class C> struct PfqDeal {
    static constexpr int32_t panels = (C::N + 63) / 64;
    static constexpr int32_t blocks = (C::K + 127) / 128 * (C::bits == 4 ? 2 : 4); /* of a panel */
    static constexpr int32_t part_blocks = blocks / C::parts;
    static constexpr int32_t unit_slots = (part_blocks + PFQ_SLOT_BLOCKS - 1) / PFQ_SLOT_BLOCKS;
    static constexpr int32_t part_slots = panels * unit_slots, slots = C::parts * part_slots;
    static constexpr int32_t part_k = C::K / C::parts; /* where parts > 1 */
    static_assert(blocks % C::parts == 0, "parts of whole blocks");

    /* Slots begin .. end of all are the caller's. */
    int32_t begin, end;

    PFQ_STATIC PfqDeal mine()
    {
        const int32_t b = (int32_t)blockIdx.x;
        if (!C::apart) return {pfq_share(slots, b), pfq_share(slots, b + 1)};
        const int32_t p = own_part(), first = first_of(p), n = first_of(p + 1) - first;
        return {p * part_slots + pfq_share_of(part_slots, b - first, n),
                p * part_slots + pfq_share_of(part_slots, b + 1 - first, n)};
    }
    /* Apart: the block's part; the first block of part p. */
    PFQ_STATIC int32_t own_part() { return (int32_t)blockIdx.x * C::parts / (int32_t)gridDim.x; }
    PFQ_STATIC int32_t first_of(int32_t p)
    {
        return (p * (int32_t)gridDim.x + C::parts - 1) / C::parts;
    }
    PFQ_STATIC int32_t unit(int32_t slot) { return slot / unit_slots; }
    PFQ_STATIC int32_t panel(int32_t u) { return u % panels; }
    PFQ_STATIC int32_t part(int32_t u) { return u / panels; }
    /* First block of a slot in its panel; how many it holds. */
    PFQ_STATIC int32_t block(int32_t slot)
    {
        return part(unit(slot)) * part_blocks + slot % unit_slots * PFQ_SLOT_BLOCKS;
    }
    PFQ_STATIC int32_t count(int32_t slot)
    {
        return part_blocks % PFQ_SLOT_BLOCKS == 0
                   ? PFQ_SLOT_BLOCKS
                   : min(PFQ_SLOT_BLOCKS, part_blocks - slot % unit_slots * PFQ_SLOT_BLOCKS);
    }
    /* The block that a slot is dealt to, and of a unit's blocks the first; how many there are.
     * Blocks without slots count where they lie between two others. */
    PFQ_STATIC int32_t owner(int32_t slot) { return ((slot + 1) * (int32_t)gridDim.x - 1) / slots; }
    PFQ_STATIC int32_t first_block(int32_t u) { return owner(u * unit_slots); }
    PFQ_STATIC int32_t blocks_of(int32_t u)
    {
        return owner((u + 1) * unit_slots - 1) - first_block(u) + 1;
    }
    /* Sums are flagged words: where no unit has more blocks than C::words, and no block more units
     * than `room`. */
    PFQ_STATIC bool direct(int32_t room)
    {
        const int32_t grid = (int32_t)gridDim.x, each = (slots + grid - 1) / grid;
        return C::words && unit_slots * grid / slots + 2 <= C::words &&
               (each + unit_slots - 2) / unit_slots + 1 <= room;
    }

    /* Columns of x that the caller's slots read. */
    PFQ_MEMBER int32_t first_k() const
    {
        return C::parts == 1 ? 0 : (C::apart ? own_part() : part(unit(begin))) * part_k;
    }
    /* Where activations in shared memory begin. */
    PFQ_MEMBER int32_t window() const { return first_k() & ~63; }
    PFQ_MEMBER int32_t end_k() const
    {
        return C::parts == 1 ? C::K : end > begin ? (part(unit(end - 1)) + 1) * part_k : first_k();
    }
};

/* Where a ring lies: addresses of shared memory. The count of slots used so far is each side's own.
 */
template <int32_t slots> struct PfqRing {
    uint32_t data, full, empty;

    PFQ_STATIC uint32_t bytes() { return slots * (PFQ_SLOT + 16); }
    PFQ_STATIC PfqRing at(uint32_t base)
    {
        return {base, base + slots * PFQ_SLOT, base + slots * PFQ_SLOT + 8 * slots};
    }
    PFQ_MEMBER void init(uint32_t consumers) const
    {
        for (uint32_t i = 0; i < slots; i++) {
            pfq_mbar_init(full + 8 * i, 1);
            pfq_mbar_init(empty + 8 * i, consumers);
        }
        pfq_mbar_ready();
    }
    PFQ_MEMBER uint32_t slot(uint32_t n) const { return data + n % slots * PFQ_SLOT; }
    /* The loader takes slot n, for that many bytes, once all but `flight` of those before it have
     * landed. */
    PFQ_MEMBER void take(uint32_t n, uint32_t size, uint32_t flight) const
    {
        if (flight < slots && n >= flight) wait(n - flight);
        pfq_mbar_wait(empty + n % slots * 8, n / slots + 1 & 1);
        pfq_mbar_expect(full + n % slots * 8, size);
    }
    PFQ_MEMBER void load(uint32_t n, uint32_t at, const uint8_t *from, uint32_t size) const
    {
        pfq_bulk_load(slot(n) + at, from, size, full + n % slots * 8);
    }
    /* The same of weights, which are read once a step. */
    PFQ_MEMBER void stream(uint32_t n, const uint8_t *from, uint32_t size) const
    {
        pfq_bulk_stream(slot(n), from, size, full + n % slots * 8);
    }
    PFQ_MEMBER void wait(uint32_t n) const { pfq_mbar_wait(full + n % slots * 8, n / slots & 1); }
    PFQ_MEMBER void release(uint32_t n, uint32_t arrivals) const
    {
        pfq_mbar_arrive_n(empty + n % slots * 8, arrivals);
    }
};

/* Rows of a KV cache that a thread block attends to. An attention is a struct C of constants, see
 * decode_attend.cuh. Tasks are (row of the step, kv head, split); a split is a run of the cache's
 * rows before the token's own. Only with fewer thread blocks than heads has one several tasks. How
 * a row is split depends on no other row, nor on how many there are, but on the most there may be
 * (C::rows). */
template <class C> struct PfqKeyDeal {
    static constexpr int32_t row = C::kv == PFQ_KV_F16                        ? 2 * C::D
                                   : C::kv == PFQ_KV_S4 || C::kv == PFQ_KV_U4 ? C::D / 2
                                                                              : C::D;
    static constexpr bool ints = C::kv != PFQ_KV_F16;
    static constexpr bool minima = ints && !C::kv_static && C::kv >= PFQ_KV_U8;
    /* Runs of a row's numbers beside k and v: f16 scales and minima. */
    static constexpr int32_t runs = C::kv_static || !ints ? 0 : minima ? 4 : 2;
    static constexpr int32_t fit = PFQ_SLOT / (2 * row + 2 * runs) / 16 * 16;
    static constexpr int32_t keys = fit > 64 ? 64 : fit; /* of a slot */
    static_assert(keys >= 16 && row % 8 == 0, "16 rows of k and v fit a slot");

    static constexpr int32_t most = C::rows < 16 ? 16 / C::rows : 1; /* splits of a row */

    int32_t each, cached;

    PFQ_STATIC int32_t splits()
    {
        return min(max((int32_t)gridDim.x / (C::kv_heads * C::rows), 1), most);
    }
    /* pos: of the token, which is not in the cache yet. */
    PFQ_STATIC PfqKeyDeal of(int32_t pos)
    {
        const int32_t s = splits();
        return {((pos + s - 1) / s + 15) / 16 * 16, pos};
    }
    PFQ_MEMBER int32_t begin(int32_t split) const { return min(split * each, cached); }
    PFQ_MEMBER int32_t end(int32_t split) const { return min(begin(split) + each, cached); }
};

#endif
