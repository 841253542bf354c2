/* What attend_split.cu divides over its blocks: items, and the line of their tiles. An item is
 * (sequence, kv head, up to 4 * NT of its query heads), a tile 32 keys of it, which start at a
 * multiple of 32. A part is what one block computes of an item at a time, and one softmax state.
 */
#ifndef PFQC_CODEGEN_CUDA_ATTEND_SPLIT_ITEMS_CUH
#define PFQC_CODEGEN_CUDA_ATTEND_SPLIT_ITEMS_CUH

#include "attend.cuh"
#include "lanes.cuh"

PFQ_CONST(int32_t, c_parts);

#ifndef DEC_COST
#define DEC_COST 4 /* what beginning and ending an item costs, in tiles */
#endif
#ifndef DEC_PART
#define DEC_PART 16 /* tiles of a part where rows are alone, while an item has c_parts of them */
#endif
enum { DEC_KEYS = 32 }; /* of a tile */

/* Items of a kv head, each of `wide` query heads or fewer. */
PFQ_DEVICE int32_t passes(int32_t wide)
{
    return (group() + wide - 1) / wide;
}
/* Tiles of a part, where an item of n tiles is divided by its own length alone: as many as a
 * block's four warps share evenly. */
PFQ_DEVICE int32_t part_tiles(int32_t n)
{
    const int32_t parts = min((n + DEC_PART - 1) / DEC_PART, max(c_parts, 1));
    return pfq_up((n + parts - 1) / parts, 4);
}
PFQ_DEVICE int32_t tiles_of(int32_t pos)
{
    return pos / DEC_KEYS - first_key(pos) / DEC_KEYS + 1;
}

/* An item and where its n tiles begin in the line of all tiles. */
struct Item {
    int32_t t, kv, pass;
    int32_t base, n;
    int32_t pos, first; /* of its keys; first is the first that it sees */
    uint64_t slot;      /* bytes in front of its slot of the cache */
};

PFQ_DEVICE void item_row(const PfqCudaArgs &a, Item &i)
{
    const PfqRow row = pfq_row(a, i.t);
    i.pos = row.pos;
    i.first = first_key(row.pos);
    i.slot = a.slot * (uint64_t)row.slot;
    i.n = tiles_of(row.pos);
}

/* The item of tile `at`, which may be one of the empty ones in front of it; n[T] are the tiles of
 * each sequence's items with these. All lanes together. */
PFQ_DEVICE Item item_at(const PfqCudaArgs &a, const int32_t *n, int32_t at, int32_t wide)
{
    const int32_t units = c_kv_heads * passes(wide);
    Item i;
    int32_t before = 0;
    i.t = 0;
    for (int32_t t0 = 0; t0 < a.T && a.T > 1; t0 += 32) {
        const int32_t mine = t0 + pfq_lane() < a.T ? n[t0 + pfq_lane()] * units : 0;
        int32_t upto = mine;
        for (int32_t h = 1; h < 32; h *= 2) {
            const int32_t o = __shfl_up_sync(~0u, upto, h);
            if (pfq_lane() >= h) upto += o;
        }
        const uint32_t behind = __ballot_sync(~0u, before + upto > at);
        const int32_t lane = behind ? __ffs((int32_t)behind) - 1 : 31;
        const int32_t start = before + __shfl_sync(~0u, upto - mine, lane);
        before += __shfl_sync(~0u, upto, 31);
        i.t = t0 + lane;
        if (behind) {
            before = start;
            break;
        }
    }
    item_row(a, i);
    const int32_t unit = (at - before) / (i.n + DEC_COST);
    i.kv = unit / passes(wide);
    i.pass = unit % passes(wide);
    i.base = before + unit * (i.n + DEC_COST) + DEC_COST;
    return i;
}

/* The item behind i, which is not the last. */
PFQ_DEVICE void item_next(const PfqCudaArgs &a, Item &i, int32_t wide)
{
    i.base += i.n + DEC_COST;
    if (++i.pass < passes(wide)) return;
    i.pass = 0;
    if (++i.kv < c_kv_heads) return;
    i.kv = 0;
    i.t++;
    item_row(a, i);
}

#endif
