/* The persistent decode step of sm_90a: one cooperative kernel makes a token of each of a few
 * sequences (the step's rows), every thread block resident for the whole step.
 *
 * A step is a schedule (a function template over its role, which pfqc emits from the plan's calls):
 * a straight line of phases within a layer, in a loop over layers. It runs twice in each block: as
 * PfqLoader, by one thread, where the phases that read weights or the KV cache bring them to the
 * ring (decode_ring.cuh) and the others do nothing; and as PfqWorker, by PFQ_WORKERS threads, where
 * they compute. Constants of a phase are structs; addresses that differ between layers are rows of
 * a table, the others entries of the arguments.
 *
 * What every block needs it makes for itself: the residual stream lives in registers of every block
 * (PfqWorker::x), norms and quantisers run in each. Of several rows each stream is one block's,
 * which hands the norm's bytes to all: 4 KB a row, where sums are 16. Products are divided over
 * blocks (PfqDeal), the rows' columns side by side in the tensor cores', and meet as int32 sums in
 * memory, added atomically, so exact in any order; whoever reads them next scales them. A row's
 * result depends on neither the other rows nor their number, only on the most that the kernel takes
 * (M::rows), by how many parts attention is cut in. There are at least as many blocks as rows.
 * Where M::rows is more than PFQ_FEW what ops read is handed on in pieces (decode_pieces.cuh).
 *
 * So a layer has few points where all blocks meet:
 *
 *   - meet(): this block's results of the phase can be read
 *   - await(): those of all blocks can; phases call it themselves, behind what they can do before
 *   - clear<C>(layer): zeroes the sums of op C: between two meetings after their last reader and
 *     before their next writer
 *
 * Results that few blocks need are handed over without a meeting: as words that carry a flag, the
 * number of the phase, which readers wait for. Such words may be overwritten once all blocks have
 * met behind their readers: o and down of every layer end in a meeting.
 *
 * Every block arrives once at one counter and polls it with one thread (1.1 us a meeting on an
 * H100; the ring goes on filling meanwhile).
 *
 * Shared memory: the ring; activations as B fragments (pfq_b_at); sums of the block's units;
 * scratch of phases; cos and sin of the position; the layer table.
 */
#ifndef PFQC_CODEGEN_CUDA_DECODE_CUH
#define PFQC_CODEGEN_CUDA_DECODE_CUH

#include "decode_ring.cuh"
#include "intrin.cuh"
#include "lanes.cuh"
#include "math.cuh"

enum {
    PFQ_WORKERS = 512,
    PFQ_WORKER_WARPS = PFQ_WORKERS / 32,
    PFQ_DECODE_BLOCK = PFQ_WORKERS + 128 /* registers move between warpgroups */
};
enum { PFQ_GROUPS = PFQ_WORKER_WARPS / 4 }; /* of four warps, which take a slot together */
enum { PFQ_FEW = 4 };                       /* rows; of more, "many", M::rows differs in how */

/* Entries of PfqDecodeArgs.at that all models have; the sums of a model's ops follow. */
enum {
    PFQ_AT_CONTROL, /* int32 [2]: the counter of meetings; what it was when the step began */
    PFQ_AT_TABLE,   /* tests: uint64 [layers][columns] */
    PFQ_AT_WEIGHTS, /* where the weights begin */
    PFQ_AT_CACHE,   /* where slot 0 of the KV cache begins */
    PFQ_AT_ROWS,    /* PfqRow [rows]: positions, the prefix not counted, and slots */
    PFQ_AT_IDS,     /* int32 [rows]: the tokens */
    PFQ_AT_EMBED,   /* the table of embeddings */
    PFQ_AT_FREQ,    /* f32 [rot / 2], RoPE */
    PFQ_AT_BASE,    /* the transform's base, f32 in packed tiles of 16 rows */
    PFQ_AT_PARTS,   /* attention's results: see decode_attend.cuh; of many rows pieces */
    PFQ_AT_MIXED,   /* f32 [rows][ffn]: between the halves of the transform in front of down */
    PFQ_AT_NORMED,  /* several rows: what norms hand to all, see decode_norm.cuh */
    PFQ_AT_TURNED,  /* many rows: the same of the transform in front of down */
    PFQ_AT_LOGITS,  /* f32 [rows][vocabulary] */
    PFQ_AT_BEST, /* int32 [rows][blocks][2]: their largest logits, as ordered integers, and where */
    PFQ_AT_TOKEN, /* int32 [rows]: the greedy choice */
    PFQ_AT_DUMP,  /* tests: int8 activations of the ops, 64 KiB each */
    PFQ_AT_TRACE, /* measuring: int64 [blocks][PFQ_MARKS] of the clock */
    PFQ_AT_SUMS   /* a model's first */
};

enum { PFQ_MARKS = 2048 };

struct PfqDecodeArgs {
    uint64_t at[40];
    uint64_t slot; /* bytes of the KV cache from one slot to the next */
    int32_t ctx;
    int32_t rows;   /* that there are, of a model's */
    int32_t flight; /* instead of a model's, where that is 0 */
};

/* Formats of an embedding table. */
enum { PFQ_EMBED_ROWS = 0, PFQ_EMBED_F32 = 1, PFQ_EMBED_S8 = 2, PFQ_EMBED_U4G32 = 3 };

/* Tables of a model, in front of the kernel. */
#ifdef PFQ_SIMT
#define PFQ_TABLE static const
#else
#define PFQ_TABLE static __device__ const
#endif

/* Where the byte of column k lies in activations: 64 columns are 64 bytes, of which lane quarter q
 * reads 16: words of four columns 4q, 4q + 16, 4q + 32, 4q + 48. What an mma of 64 k needs, in one
 * load. */
PFQ_DEVICE int32_t pfq_b_at(int32_t k)
{
    return (k & ~63) | (k >> 2 & 3) << 4 | (k >> 4 & 3) << 2 | (k & 3);
}

/* Shared memory of model M: rows (the most of a step), layers, columns (of the table), slots (of
 * the ring), act (bytes of a row), units (whose sums it holds at once), scratch (bytes), rot. Of
 * several rows each begins in another bank. Of many, scratch is where activations are: no phase
 * needs both. */
template <class M> struct PfqRoom {
    static constexpr bool many = M::rows > PFQ_FEW;
    static constexpr int32_t act_row = (M::act + 127) / 128 * 128 + (M::rows > 1 ? 64 : 0);
    static constexpr int32_t acc_row = M::rows > 1 ? 68 : 64;
    static constexpr int32_t act = M::slots * (PFQ_SLOT + 16);
    static constexpr int32_t acts = (M::rows * act_row + 127) / 128 * 128,
                             scratches = (M::scratch + 127) / 128 * 128;
    static constexpr int32_t acc = act + (many && scratches > acts ? scratches : acts);
    static constexpr int32_t sums = (M::units * M::rows * acc_row * 4 + 127) / 128 * 128;
    static constexpr int32_t scratch = many ? act : acc + sums;
    static constexpr int32_t base = acc + sums + (many ? 0 : scratches); /* of the transform */
    static constexpr int32_t reduce = base + (M::base > 1 ? (M::base + 15) / 16 * 64 * M::base : 0);
    static constexpr int32_t scale = reduce + 2 * 4 * PFQ_WORKER_WARPS;
    static constexpr int32_t row = scale + (4 * M::rows + 7) / 8 * 8;
    static constexpr int32_t turn = row + 8 * M::rows;
    static constexpr int32_t table = (turn + 4 * M::rows * M::rot + 15) / 16 * 16;
    static constexpr int32_t bytes = table + 8 * M::layers * M::columns;
    static_assert(bytes <= 227 * 1024, "shared memory of a multiprocessor");
};

/* Rows that there are; row r's position and slot. */
template <class M> PFQ_DEVICE int32_t pfq_rows(const PfqDecodeArgs &a)
{
    return M::rows == 1 ? 1 : min(a.rows, M::rows);
}
template <class M> PFQ_DEVICE PfqRow pfq_row_at(int32_t r)
{
    return ((const PfqRow *)(pfq_shared + PfqRoom<M>::row))[r];
}

/* ---- the loader ---- */

template <class M> struct PfqLoader {
    const PfqDecodeArgs &a;
    PfqRing<M::slots> ring;
    uint32_t n; /* slots taken */
    int32_t l;

    PFQ_MEMBER uint64_t column(int32_t c) const
    {
        return ((const uint64_t *)(pfq_shared + PfqRoom<M>::table))[l * M::columns + c];
    }
    PFQ_MEMBER void layer(int32_t to) { l = to; }
    template <class C> PFQ_MEMBER void gemv()
    {
        typedef PfqDeal<C> Deal;
        const uint8_t *w = (const uint8_t *)column(C::w);
        const Deal d = Deal::mine();
        for (int32_t i = d.begin; i < d.end; i++, n++) {
            const int64_t block =
                (int64_t)Deal::panel(Deal::unit(i)) * Deal::blocks + Deal::block(i);
            const uint32_t size = (uint32_t)Deal::count(i) * PFQ_FRAG_BYTES;
            ring.take(n, size, M::flight ? M::flight : (uint32_t)a.flight);
            ring.stream(n, w + block * PFQ_FRAG_BYTES, size);
        }
    }
    /* Keys, values and what belongs to them, in this order, each from a multiple of 16 on. */
    template <class C> PFQ_MEMBER void attend()
    {
        typedef PfqKeyDeal<C> Keys;
        const int32_t splits = Keys::splits(), each = splits * C::kv_heads,
                      tasks = each * pfq_rows<M>(a);
        for (int32_t task = (int32_t)blockIdx.x; task < tasks; task += (int32_t)gridDim.x) {
            const PfqRow row = pfq_row_at<M>(M::rows == 1 ? 0 : task / each);
            const uint64_t slot = a.slot * (uint64_t)row.slot;
            const Keys d = Keys::of(row.pos);
            const int32_t begin = d.begin(task % splits), end = d.end(task % splits);
            const int32_t g = task / splits;
            const int64_t head = (int64_t)(M::rows == 1 ? g : g % C::kv_heads) * a.ctx;
            for (int32_t j = begin; j < end; j += Keys::keys, n++) {
                const int32_t rows = (min(Keys::keys, end - j) + 15) / 16 * 16;
                const uint32_t size = (uint32_t)rows * Keys::row, half = (uint32_t)rows * 2;
                ring.take(n, 2 * size + Keys::runs * half,
                          M::flight ? M::flight : (uint32_t)a.flight);
                for (uint32_t i = 0; i < 2; i++)
                    ring.load(n, i * Keys::keys * Keys::row,
                              (const uint8_t *)(column(C::cache + (int32_t)i) + slot) +
                                  (head + j) * Keys::row,
                              size);
                for (uint32_t i = 0; i < Keys::runs; i++)
                    ring.load(n, Keys::keys * (2 * Keys::row + 2 * i),
                              (const uint8_t *)(column(C::numbers + (int32_t)i) + slot) +
                                  (head + j) * 2,
                              half);
            }
        }
    }
    template <class C> PFQ_MEMBER void embed() {}
    template <class C> PFQ_MEMBER void norm() {}
    template <class C> PFQ_MEMBER void combine() {}
    template <class C> PFQ_MEMBER void glu() {}
    template <class C> PFQ_MEMBER void mix() {}
    template <class C> PFQ_MEMBER void logits() {}
    template <class C> PFQ_MEMBER void clear(int32_t) {}
    PFQ_MEMBER void meet() {}
    template <class C> PFQ_MEMBER void meet_for() {}
    PFQ_MEMBER void await() {}
    PFQ_MEMBER void choose() {}
};

/* ---- the workers ---- */

template <class C, class W> PFQ_DEVICE void pfq_norm(W &w);         /* decode_norm.cuh */
template <class C, class W> PFQ_DEVICE void pfq_attend(W &w);       /* decode_attend.cuh */
template <class C, class W> PFQ_DEVICE void pfq_combine(W &w);      /* decode_attend.cuh */
template <class C, class W> PFQ_DEVICE void pfq_glu(W &w);          /* decode_ffn.cuh */
template <class C, class W> PFQ_DEVICE void pfq_mix(W &w);          /* decode_ffn.cuh */
template <class C, class W> PFQ_DEVICE void pfq_embed(W &w);        /* decode_head.cuh */
template <class C, class W> PFQ_DEVICE void pfq_attend_many(W &w);  /* decode_attend_many.cuh */
template <class C, class W> PFQ_DEVICE void pfq_combine_many(W &w); /* decode_attend_many.cuh */
template <class C, class W> PFQ_DEVICE void pfq_glu_many(W &w);     /* decode_ffn.cuh */
template <class C, class W> PFQ_DEVICE void pfq_mix_many(W &w);     /* decode_ffn.cuh */
template <class C, class W> PFQ_DEVICE void pfq_logits(W &w);       /* decode_head.cuh */
template <class W> PFQ_DEVICE void pfq_choose(W &w);                /* decode_head.cuh */

template <class M> struct PfqWorker {
    typedef PfqRoom<M> Room;
    static constexpr int32_t quads = (M::hidden + 4 * PFQ_WORKERS - 1) / (4 * PFQ_WORKERS);

    const PfqDecodeArgs &a;
    PfqRing<M::slots> ring;
    uint32_t n; /* slots of the ring that the block has used */
    int32_t l, meetings, base, side, marks;
    int32_t now;       /* attention's row, of several */
    float dynamic;     /* one row: scale of the activations, where it is not a constant */
    float x[quads][4]; /* the residual stream: columns 4 * (thread + PFQ_WORKERS * i) on, of the one
                          row, or of row blockIdx.x */

    /* ---- places ---- */

    PFQ_MEMBER uint64_t column(int32_t c) const
    {
        return ((const uint64_t *)(pfq_shared + Room::table))[l * M::columns + c];
    }
    /* Of the layer before. */
    PFQ_MEMBER uint64_t before(int32_t c) const
    {
        return ((const uint64_t *)(pfq_shared + Room::table))[(l - 1) * M::columns + c];
    }
    template <class T> PFQ_MEMBER T *scratch() const { return (T *)(pfq_shared + Room::scratch); }
    PFQ_MEMBER int8_t *act() const { return (int8_t *)(pfq_shared + Room::act); }
    PFQ_MEMBER int32_t rows() const { return pfq_rows<M>(a); }
    /* The row whose residual stream the block has, if it is there. */
    PFQ_MEMBER int32_t own() const { return M::rows == 1 ? 0 : (int32_t)blockIdx.x; }
    PFQ_MEMBER bool owns() const { return own() < rows(); }
    /* Row r's dynamic scale. */
    PFQ_MEMBER float scale_of(int32_t r) const
    {
        return M::rows == 1 ? dynamic : ((const float *)(pfq_shared + Room::scale))[r];
    }
    /* Of several rows by one thread; the others may read it behind a sync(). */
    PFQ_MEMBER void set_scale(int32_t r, float v, int32_t by = 0)
    {
        if (M::rows == 1)
            dynamic = v;
        else if (tid() == by)
            ((float *)(pfq_shared + Room::scale))[r] = v;
    }
    PFQ_MEMBER int32_t tid() const { return (int32_t)threadIdx.x; }

    /* ---- together ---- */

    PFQ_MEMBER void sync() const { pfq_bar_sync(1, PFQ_WORKERS); }
    /* Measuring: when the first thread was here. */
    PFQ_MEMBER void mark()
    {
        if (!M::trace || threadIdx.x) return;
        ((int64_t *)a.at[PFQ_AT_TRACE])[blockIdx.x * PFQ_MARKS + (uint32_t)marks++] = pfq_clock();
    }
    PFQ_MEMBER void meet()
    {
        mark();
        sync();
        if (threadIdx.x == 0) pfq_red_release((int32_t *)a.at[PFQ_AT_CONTROL], 1);
        meetings++;
        mark();
    }
    PFQ_MEMBER void await()
    {
        if (threadIdx.x == 0 && meetings && M::wait)
            pfq_wait_count((const int32_t *)a.at[PFQ_AT_CONTROL],
                           base + meetings * (int32_t)gridDim.x);
        sync();
        mark();
    }
    /* The same for the sums of op C, which may come as words. */
    template <class C> PFQ_MEMBER bool direct() const
    {
        return PfqDeal<C>::direct(M::units / C::planes);
    }
    template <class C> PFQ_MEMBER void meet_for()
    {
        if (direct<C>())
            mark(), mark();
        else
            meet();
    }
    template <class C> PFQ_MEMBER void await_for()
    {
        if (direct<C>())
            sync(), mark();
        else
            await();
    }
    /* What flags say in this phase: of no phase before it. */
    PFQ_MEMBER int32_t flag() const { return base + meetings + 1; }
    /* Where the sums of op C are: ops that are added up in memory have two places, for layers of
     * either parity, so that one is zeroed while the other is used. */
    template <class C> PFQ_MEMBER int32_t *place(int32_t of) const
    {
        return (int32_t *)a.at[C::sums] +
               (C::twin ? of % 2 * M::rows * C::planes * (PfqDeal<C>::panels * 64) : 0);
    }
    /* The sums of both planes as one, rounded as single kernels do it (linear_int.cuh). */
    template <class C> PFQ_STATIC float whole(int32_t high, int32_t low)
    {
        return C::planes == 2 ? fmaf((float)high, 256.0f, (float)low) : (float)high;
    }
    template <class C> PFQ_MEMBER float sum_of(int32_t r, int32_t row) const
    {
        const int32_t *at = sum_at<C>(r * C::planes, row);
        return whole<C>(pfq_fresh(at),
                        C::planes == 2 ? pfq_fresh(at + PfqDeal<C>::panels * 64) : 0);
    }
    /* Rows' sums of n rows of op C's weights, behind await_for; a row of -1: 0. */
    template <class C, int32_t n>
    PFQ_MEMBER void sums_of(const int32_t (&r)[n], const int32_t (&row)[n], float (&sum)[n]) const
    {
        typedef PfqDeal<C> Deal;
        constexpr int32_t each = C::words ? C::words : 1;
        static_assert(!C::words || C::planes == 1, "words are of one plane");
        if (!direct<C>()) {
            PFQ_UNROLL
            for (int32_t i = 0; i < n; i++)
                sum[i] = row[i] < 0 ? 0.0f : sum_of<C>(r[i], row[i]);
            return;
        }
        const uint64_t *p[n * each];
        int32_t v[n * each];
        PFQ_UNROLL
        for (int32_t i = 0; i < n * each; i++) {
            const int32_t of = row[i / each];
            const bool is = M::wait && of >= 0 && i % each < Deal::blocks_of(max(of, 0) / 64);
            p[i] = is ? word_at<C>(i % each, r[i / each]) + of : NULL;
        }
        pfq_get_words(p, flag(), v);
        PFQ_UNROLL
        for (int32_t i = 0; i < n; i++) {
            int32_t all = 0;
            PFQ_UNROLL
            for (int32_t j = 0; j < each; j++)
                all += v[i * each + j];
            sum[i] = (float)all;
        }
    }
    /* Row r's words of the j-th of the blocks that share a unit. */
    template <class C> PFQ_MEMBER uint64_t *word_at(int32_t j, int32_t r) const
    {
        return (uint64_t *)a.at[C::sums] + (j * M::rows + r) * (PfqDeal<C>::panels * 64);
    }
    /* Floats that other blocks hand over as words: put, and get n of them. */
    PFQ_MEMBER void put_float(int32_t at_index, int64_t i, float v) const
    {
        pfq_put_word((uint64_t *)a.at[at_index] + i, __float_as_int(v), flag());
    }
    template <int32_t n>
    PFQ_MEMBER void get_floats(int32_t at_index, const int64_t (&i)[n], float (&v)[n]) const
    {
        const uint64_t *p[n];
        int32_t w[n];
        PFQ_UNROLL
        for (int32_t k = 0; k < n; k++)
            p[k] = i[k] < 0 || !M::wait ? NULL : (const uint64_t *)a.at[at_index] + i[k];
        pfq_get_words(p, flag(), w);
        PFQ_UNROLL
        for (int32_t k = 0; k < n; k++)
            v[k] = __int_as_float(w[k]);
    }

    /* Of all workers, in every one, in one order. */
    PFQ_MEMBER const float *of_warps(float v)
    {
        float *part = (float *)(pfq_shared + Room::reduce) + side * PFQ_WORKER_WARPS;
        side ^= 1; /* the other one may still be read */
        if (pfq_lane() == 0) part[pfq_warp()] = v;
        sync();
        return part;
    }
    PFQ_MEMBER float sum(float v)
    {
        const float *part = of_warps(pfq_warp_sum(v));
        float s = 0.0f;
        PFQ_UNROLL
        for (int32_t i = 0; i < PFQ_WORKER_WARPS; i++)
            s += part[i];
        return s;
    }
    PFQ_MEMBER float largest(float v)
    {
        const float *part = of_warps(pfq_warp_max(v));
        float m = part[0];
        PFQ_UNROLL
        for (int32_t i = 1; i < PFQ_WORKER_WARPS; i++)
            m = fmaxf(m, part[i]);
        return m;
    }

    PFQ_MEMBER void layer(int32_t to) { l = to; }
    /* Attention's row, its position, and a column of the cache, in its slot. */
    PFQ_MEMBER int32_t here() const { return M::rows == 1 ? 0 : now; }
    PFQ_MEMBER int32_t pos() const { return pfq_row_at<M>(here()).pos; }
    PFQ_MEMBER uint64_t cache(int32_t c) const
    {
        return column(c) + a.slot * (uint64_t)pfq_row_at<M>(here()).slot;
    }
    /* Those of layer `of`. */
    template <class C> PFQ_MEMBER void clear(int32_t of) const
    {
        const int32_t all = PfqDeal<C>::panels * 64 * C::planes * rows(),
                      begin = pfq_share(all, (int32_t)blockIdx.x),
                      end = pfq_share(all, (int32_t)blockIdx.x + 1);
        if (M::keep || direct<C>()) return;
        for (int32_t i = begin + tid(); i < end; i += PFQ_WORKERS)
            place<C>(of)[i] = 0;
    }

    /* ---- activations ---- */

    /* What a quantiser C (lo, hi, top, clip; fixed: its scale is the f32 at column C::scale_at,
     * else it follows from the largest, m) multiplies by. The scale's load is slow, so phases ask
     * for it before they wait. */
    template <class C> PFQ_MEMBER float fixed_scale() const
    {
        return C::fixed ? *(const float *)column(C::scale_at) : 0.0f;
    }
    template <class C> PFQ_MEMBER float dynamic_inverse(int32_t r, float m)
    {
        m *= C::clip;
        set_scale(r, m / C::top);
        return m > 0.0f ? C::top / m : 0.0f;
    }
    /* Column k alone, of those in shared memory, of row r. */
    template <class C> PFQ_MEMBER void quantise(int32_t r, int32_t k, float y, float inv) const
    {
        const int32_t v = pfq_quant(y, inv, C::lo, C::hi), lo = (int8_t)v;
        int8_t *to = act() + r * Room::act_row + pfq_b_at(k);
        to[0] = (int8_t)(C::planes == 2 ? (v - lo) >> 8 : v);
        if (C::planes == 2) to[C::plane] = (int8_t)lo;
    }
    /* Four columns: a word of each plane. */
    template <class C>
    PFQ_MEMBER void quantise4(const float *y, float inv, uint32_t (&word)[2]) const
    {
        word[0] = word[1] = 0;
        PFQ_UNROLL
        for (int32_t i = 0; i < 4; i++) {
            const int32_t v = pfq_quant(y[i], inv, C::lo, C::hi), lo = (int8_t)v;
            word[0] |= (uint32_t)((C::planes == 2 ? (v - lo) >> 8 : v) & 255) << 8 * i;
            word[1] |= (uint32_t)(lo & 255) << 8 * i;
        }
    }
    /* The same of columns k .. k + 3, in shared memory. */
    PFQ_MEMBER void put4(int32_t at, int32_t k, uint32_t word) const
    {
        *(uint32_t *)(act() + at + pfq_b_at(k)) = word;
    }
    /* Tests, of the first row: columns begin .. end of what op C::To reads, where `window` is the
     * first in shared memory. */
    template <class C> PFQ_MEMBER void dump(int32_t begin, int32_t end, int32_t window) const
    {
        if (!M::keep) return;
        int8_t *to = (int8_t *)a.at[PFQ_AT_DUMP] + C::dump * 65536;
        for (int32_t p = 0; p < C::planes; p++)
            for (int32_t k = begin + tid(); k < end; k += PFQ_WORKERS)
                to[p * C::To::K + k] = act()[p * C::plane + pfq_b_at(k - window)];
    }

    /* ---- products ---- */

    /* Columns of products: the planes of each row, eight a tile. */
    template <class C> static constexpr int32_t wide = M::rows * C::planes;
    template <class C> static constexpr int32_t tiles = (wide<C> + 7) / 8;

    /* The warp's 16 rows of a block times the activations of its columns, added to c. at: of the
     * lane's 16 bytes; b + k: of the lane's activations of the block. Two sums each, for latency.
     */
    template <class C>
    PFQ_MEMBER void product(int32_t (&c)[tiles<C>][2][4], const uint8_t *at,
                            const int8_t *const (&b)[tiles<C>], int32_t k) const
    {
        const PfqWords w = *(const PfqWords *)at;
        uint32_t high[4], low[4];
        PFQ_UNROLL
        for (int32_t i = 0; i < 4; i++) {
            high[i] = w.v[i] & 0xf0f0f0f0u;
            low[i] = w.v[i] << 4 & 0xf0f0f0f0u;
        }
        PFQ_UNROLL
        for (int32_t t = 0; t < tiles<C>; t++) {
            if (C::bits == 8) {
                const uint32_t *x8 = (const uint32_t *)(b[t] + k);
                pfq_mma_s8(c[t][0], w.v, x8[0], x8[1]);
                continue;
            }
            const PfqWords x4 = *(const PfqWords *)(b[t] + k);
            pfq_mma_s8(c[t][0], high, x4.v[0], x4.v[1]);
            pfq_mma_s8(c[t][1], low, x4.v[2], x4.v[3]);
        }
    }
    /* Adds the warp's sums to those of the unit that has place `of` in shared memory, and zeroes
     * them. */
    template <class C> PFQ_MEMBER void keep_sums(int32_t (&c)[tiles<C>][2][4], int32_t of) const
    {
        int32_t *acc = (int32_t *)(pfq_shared + Room::acc) + of * Room::acc_row * wide<C>;
        const int32_t row = pfq_warp() % 4 * 16 + pfq_lane() / 4;
        PFQ_UNROLL
        for (int32_t i = 0; i < 4 * tiles<C>; i++) {
            int32_t(&sum)[2][4] = c[i / 4];
            const int32_t v = sum[0][i % 4] + sum[1][i % 4], to = pfq_frag_row(row + i % 4 / 2 * 8),
                          column = i / 4 * 8 + pfq_lane() % 4 * 2 + i % 2;
            sum[0][i % 4] = sum[1][i % 4] = 0;
            if (column < rows() * C::planes) atomicAdd(acc + column * Room::acc_row + to, v);
        }
    }
    /* The sum of a row of weights and a column of products. */
    template <class C> PFQ_MEMBER int32_t *sum_at(int32_t column, int32_t row) const
    {
        return place<C>(l) + column * (PfqDeal<C>::panels * 64) + row;
    }
    /* Sums of op C over the activations, for the block's slots: of as many units at a time as
     * shared memory has room for. */
    template <class C> PFQ_MEMBER void gemv()
    {
        typedef PfqDeal<C> Deal;
        const Deal d = Deal::mine();
        const int32_t lane = pfq_lane();
        constexpr int32_t room = M::units / C::planes;
        const int8_t *b[tiles<C>];
        PFQ_UNROLL
        for (int32_t t = 0; t < tiles<C>; t++) {
            const int32_t column = 8 * t + lane / 4 < wide<C> ? 8 * t + lane / 4 : 0;
            b[t] = act() + column / C::planes * Room::act_row + column % C::planes * C::plane +
                   lane % 4 * 16 - d.window();
        }
        const uint32_t at = (uint32_t)(pfq_warp() % 4 * 512 + lane * 16);
        int32_t c[tiles<C>][2][4] = {}, i = d.begin + pfq_warp() / 4, begin = d.begin;
        mark();
        do {
            const int32_t first = Deal::unit(begin),
                          end = min(d.end, (first + room) * Deal::unit_slots);
            int32_t u = -1;
            for (; i < end; i += PFQ_GROUPS) {
                const uint32_t s = n + (uint32_t)(i - d.begin);
                const uint8_t *w = pfq_shared + s % M::slots * PFQ_SLOT + at;
                if (u >= 0 && Deal::unit(i) != u) keep_sums<C>(c, u - first);
                u = Deal::unit(i);
                const int32_t k = Deal::block(i), count = Deal::count(i);
                ring.wait(s);
                PFQ_UNROLL
                for (int32_t j = 0; j < PFQ_SLOT_BLOCKS; j++) {
                    const int32_t from =
                        C::bits == 4 ? (k + j) * 64 : (k + j) / 2 * 64 + (k + j) % 2 * 8;
                    if (j < count) product<C>(c, w + j * PFQ_FRAG_BYTES, b, from);
                }
                __syncwarp();
                if (lane == 0) ring.release(s, 4);
            }
            if (u >= 0) keep_sums<C>(c, u - first);
            sync();
            if (end == d.end) mark();
            send<C>({begin, end});
            begin = end;
            if (begin < d.end) sync();
        } while (begin < d.end);
        n += (uint32_t)(d.end - d.begin);
    }
    /* Sums of the units of these slots to memory; they are zero again. */
    template <class C> PFQ_MEMBER void send(const PfqDeal<C> &d) const
    {
        typedef PfqDeal<C> Deal;
        int32_t *acc = (int32_t *)(pfq_shared + Room::acc);
        const int32_t first = Deal::unit(d.begin);
        if (direct<C>()) {
            send_words<C>(d, first, acc);
            return;
        }
        if (d.begin == d.end) return;
        const int32_t units = Deal::unit(d.end - 1) - first + 1;
        for (int32_t i = tid(); i < units * 64 * wide<C>; i += PFQ_WORKERS) {
            const int32_t u = i / (64 * wide<C>), column = i / 64 % wide<C>,
                          row = Deal::panel(first + u) * 64 + i % 64;
            int32_t *sum = acc + i / 64 * Room::acc_row + i % 64;
            if (column >= rows() * C::planes) continue;
            pfq_red_add(sum_at<C>(column, row), C::bits == 4 ? *sum >> 4 : *sum);
            *sum = 0;
        }
    }
    /* The same as flagged words; of a block without slots inside a unit, zeros. */
    template <class C>
    PFQ_MEMBER void send_words(const PfqDeal<C> &d, int32_t first, int32_t *acc) const
    {
        typedef PfqDeal<C> Deal;
        const bool none = d.begin == d.end;
        if (none && d.begin % Deal::unit_slots == 0) return;
        const int32_t units = none ? 1 : Deal::unit(d.end - 1) - first + 1;
        for (int32_t i = tid(); i < units * 64 * M::rows; i += PFQ_WORKERS) {
            const int32_t u = first + i / (64 * M::rows), r = i / 64 % M::rows,
                          j = (int32_t)blockIdx.x - Deal::first_block(u);
            int32_t *sum = acc + i / 64 * Room::acc_row + i % 64;
            if (r >= rows()) continue;
            pfq_put_word(word_at<C>(j, r) + u * 64 + i % 64, C::bits == 4 ? *sum >> 4 : *sum,
                         flag());
            *sum = 0;
        }
    }

    /* ---- phases of the files named ---- */

    static constexpr uint32_t slots = M::slots;
    static constexpr int32_t most = M::rows, hidden = M::hidden;
    static constexpr bool keep = M::keep, waits = M::wait, many = Room::many;

    template <class C> PFQ_MEMBER void embed() { pfq_embed<C>(*this); }
    template <class C> PFQ_MEMBER void norm() { pfq_norm<C>(*this); }
/* Of many rows by a function of their own. */
#define PFQ_PHASE(name)                                                                            \
    template <class C> PFQ_MEMBER void name()                                                      \
    {                                                                                              \
        if constexpr (many)                                                                        \
            pfq_##name##_many<C>(*this);                                                           \
        else                                                                                       \
            pfq_##name<C>(*this);                                                                  \
    }
    PFQ_PHASE(attend)
    PFQ_PHASE(combine)
    PFQ_PHASE(glu)
    PFQ_PHASE(mix)
#undef PFQ_PHASE
    template <class C> PFQ_MEMBER void logits() { pfq_logits<C>(*this); }
    PFQ_MEMBER void choose() { pfq_choose(*this); }
};

/* ---- the step ---- */

/* M::schedule(role) is the model's. */
template <class M> PFQ_DEVICE void pfq_decode(const PfqDecodeArgs &a)
{
    typedef PfqRoom<M> Room;
    /* decode_ring.cuh says why. A group that waits for slot n has seen n - PFQ_GROUPS land, and the
     * loader, before it asked for that, all but `flight` in front of it. */
    static_assert(M::slots % PFQ_GROUPS == 0 ||
                      (M::flight > 0 && M::flight + PFQ_GROUPS <= M::slots),
                  "a slot may be waited for too early");
    const PfqRing<M::slots> ring = PfqRing<M::slots>::at(pfq_smem(pfq_shared));
    if (threadIdx.x == 0) ring.init(PFQ_WORKER_WARPS);
    for (int32_t i = (int32_t)threadIdx.x; i < M::layers * M::columns; i += PFQ_DECODE_BLOCK)
        ((uint64_t *)(pfq_shared + Room::table))[i] = M::address(a, i);
    for (int32_t i = (int32_t)threadIdx.x; i < Room::sums / 4; i += PFQ_DECODE_BLOCK)
        ((int32_t *)(pfq_shared + Room::acc))[i] = 0;
    for (int32_t i = (int32_t)threadIdx.x; i < (Room::reduce - Room::base) / 4;
         i += PFQ_DECODE_BLOCK)
        ((float *)(pfq_shared + Room::base))[i] = ((const float *)a.at[PFQ_AT_BASE])[i];
    const PfqRow *row = (const PfqRow *)a.at[PFQ_AT_ROWS];
    if ((int32_t)threadIdx.x < pfq_rows<M>(a))
        ((PfqRow *)(pfq_shared + Room::row))[threadIdx.x] = row[threadIdx.x];
    for (int32_t i = (int32_t)threadIdx.x; i < M::rot / 2 * pfq_rows<M>(a); i += PFQ_DECODE_BLOCK) {
        float *turn = (float *)(pfq_shared + Room::turn) + 2 * i;
        pfq_sincos((double)((const float *)a.at[PFQ_AT_FREQ])[i % (M::rot / 2)] *
                       (double)(row[i / (M::rot / 2)].pos + M::prefix),
                   turn + 1, turn);
        turn[0] *= M::rope_scale, turn[1] *= M::rope_scale;
    }
    __syncthreads();
    if (threadIdx.x >= PFQ_WORKERS) {
        pfq_fewer_registers<24>(); /* of 96 that a thread of 640 may have */
        PfqLoader<M> loader = {a, ring, 0, 0};
        if (threadIdx.x == PFQ_WORKERS) M::schedule(loader);
    } else {
        pfq_more_registers<112>();
        const int32_t base = ((const int32_t *)a.at[PFQ_AT_CONTROL])[1];
        PfqWorker<M> worker = {a, ring, 0, 0, 0, base, 0, 0, 0, 0.0f, {}};
        M::schedule(worker);
    }
}

#endif
