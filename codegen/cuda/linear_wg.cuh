/* linear on sm_90a: y = W x for T rows x by wgmma, followed by an epilogue. Slots and epilogues are
 * those of codegen/cpu/linear.h, but for
 *   in[0]   integers as tiles (tiles.cuh) of c_cap rows; of c_xshift 4, all 16 times too large
 *   w       fragments (fragments.cuh) and scales; for swiglu gate and up interleaved by 32
 *   aux[0]  bias as the image has it: in the order of rows, of swiglu in tiles of 16 of gate and up
 *   out[0], in[2]  f32, or f16 if c_half
 *
 * A tile is S::ROWS rows of W times S::TOKENS tokens, the tokens being columns of the product: so
 * few tokens waste little, and 4-bit weights are the A operand, which goes through registers
 * anyway. One producer thread fills a ring of stages of 128 k (weights and activations, two or more
 * bulk copies and one barrier each); consumer warpgroups take S::PANELS panels of 64 rows each,
 * side by side (S::ACROSS), or turn about along k (S::DEEP). While a batch of products runs, the
 * next stage's weights are loaded and spread out into the other half of `a`. A stage is released
 * when the batch behind it is under way.
 *
 * Launch: S::BLOCK threads, dynamic shared memory S::SHARED and the meetings'. Blocks as many as
 * fit the GPU take whole tiles in turn, in groups of WG_GROUP token tiles so that both operands
 * come from the L2. Or, if S::SPLIT, clusters as many as there are tiles: the blocks of one take a
 * stage of k each in turn, as their warpgroups do, then leave their sums in each other's shared
 * memory, as registers hold them, so that each warpgroup finishes some of the tile's tokens. Sums
 * are integers, so the order does not matter.
 *
 * Roofline: large T is bound by the tensor cores (4096 multiply-adds a cycle and SM), few tokens by
 * the weights' bytes. docs/performance.md has what was measured.
 */
#ifndef PFQC_CODEGEN_CUDA_LINEAR_WG_CUH
#define PFQC_CODEGEN_CUDA_LINEAR_WG_CUH

#include "fragments.cuh"
#include "hopper.cuh"
#include "math.cuh"
#include "tiles.cuh"

PFQ_CONST(int32_t, c_N);
PFQ_CONST(int32_t, c_K);
PFQ_CONST(int32_t, c_epi);
PFQ_CONST(int32_t, c_static);
PFQ_CONST(int32_t, c_cap);
PFQ_CONST(int32_t, c_xshift);

enum { WG_GROUP = 8, WG_PRODUCERS = 4 };

/* The sums of s8 products, and of bf16. */
template <int bits> struct WgSums {
    using Sum = int32_t;
};
template <> struct WgSums<16> {
    using Sum = float;
};

/* bits of a weight; panels, across, deep, tokens, stages: above; split: blocks share a tile;
 * chunk: tokens that an epilogue takes at a time; batch: k steps of 32 of a group of products */
template <int bits, int panels, int across, int deep, int tokens, int stages, bool split, int chunk,
          int batch>
struct WgShape {
    static constexpr int BITS = bits, PANELS = panels, ACROSS = across, DEEP = deep,
                         TOKENS = tokens, STAGES = stages, CHUNK = chunk, BATCH = batch;
    static constexpr bool SPLIT = split, OF_FLOATS = bits == 16;
    /* What epilogues of few tokens read is asked for before the products. */
    static constexpr bool EARLY = split && tokens <= 64;
    using Sum = typename WgSums<bits>::Sum;
    static constexpr int GROUPS = across * deep, WARPS = 4 * GROUPS, ROWS = 64 * panels * across,
                         SUMS = tokens / 2; /* of a thread and panel */
    /* Many registers are for warpgroups alone, so the producer is one, too. */
    static constexpr bool BIG = panels * tokens >= 256;
    static constexpr int COPIES = panels * across + 1,
                         PRODUCERS = COPIES < WG_PRODUCERS ? COPIES : WG_PRODUCERS;
    static constexpr int BLOCK = 128 * GROUPS + (BIG ? 128 : 32 * PRODUCERS);
    static constexpr int DEPTH = OF_FLOATS ? 64 : 128, /* k of a stage */
        PANEL = 8 * DEPTH * bits, W_BYTES = panels * across * PANEL, STAGE = W_BYTES + tokens * 128;
    /* A row of 32 sums has 8 words behind it, and a token 4, so that neither side meets itself in a
     * bank. */
    static constexpr int STRIDE = 80 * panels + 4, CHUNKS = chunk * STRIDE * 4,
                         HALVES = tokens * (128 * panels + 16);
    /* Wide tiles go out at once, if as halves. */
    static constexpr bool BULK = tokens >= 128 && !split;
    static constexpr int OUT = split                     ? 0
                               : BULK && HALVES > CHUNKS ? HALVES
                                                         : CHUNKS,
                         FOLD = split ? 0 : (deep - 1) * across * panels * SUMS * 512;
    /* Of a tile that blocks share: bytes of a token's sums where they meet. */
    static constexpr int SUMS_BYTES = panels * 256;
    /* Without the meetings: wg_meeting. */
    static constexpr int SHARED = 1024 + stages * STAGE + across * OUT + FOLD + 16 * stages + 128;
    /* Sums of floats depend on their order, which must be the same for any number of tokens. */
    static_assert(!OF_FLOATS || (!split && deep == 1));
    static_assert(tokens % chunk == 0 && chunk % 8 == 0 && stages % deep == 0);
};

struct WgShared {
    uint32_t ring, full, empty;  /* addresses: of the first stage, its barriers */
    uint32_t met;                /* of the barrier of each warpgroup's meeting */
    const unsigned char *stages; /* the ring */
    int32_t *out, *fold;         /* out: of a tile that is shared, the warpgroups' meetings */
};

template <class S> PFQ_DEVICE WgShared wg_shared()
{
    unsigned char *p = pfq_shared + (-pfq_smem(pfq_shared) & 1023);
    WgShared m;
    m.stages = p;
    m.ring = pfq_smem(p);
    p += S::STAGES * S::STAGE;
    m.fold = (int32_t *)p;
    p += S::FOLD;
    m.full = pfq_smem(p);
    m.empty = m.full + 8 * S::STAGES;
    m.met = m.empty + 8 * S::STAGES;
    p += 16 * (S::STAGES + S::GROUPS);
    m.out = (int32_t *)p;
    return m;
}

/* ---- what is to be done ---- */

struct WgUnit {
    int32_t tile, row, token; /* a tile, its first row of W and token */
    int32_t k0, step, n;      /* stages k0, k0 + step, ..: what the block multiplies */
};

template <class S> PFQ_DEVICE int32_t wg_depth()
{
    return (c_K + S::DEPTH - 1) / S::DEPTH;
}
PFQ_DEVICE int32_t wg_panels()
{
    return c_epi == PFQ_EPI_SWIGLU ? (c_N / 2 + 31) / 32 : (c_N + 63) / 64;
}
template <class S> PFQ_DEVICE int32_t wg_row_tiles()
{
    return (wg_panels() * 64 + S::ROWS - 1) / S::ROWS;
}
template <class S> PFQ_DEVICE int32_t wg_tiles(int32_t T)
{
    return wg_row_tiles<S>() * ((T + S::TOKENS - 1) / S::TOKENS);
}

/* The blocks that divide a tile's k. */
template <class S> PFQ_DEVICE int32_t wg_ranks()
{
    return S::SPLIT ? pfq_cluster_size() : 1;
}
template <class S> PFQ_DEVICE int32_t wg_rank()
{
    return S::SPLIT ? pfq_cluster_rank() : 0;
}

template <class S> PFQ_DEVICE void wg_place(int32_t T, WgUnit *u)
{
    const int32_t tokens = (T + S::TOKENS - 1) / S::TOKENS, group = WG_GROUP * wg_row_tiles<S>();
    const int32_t first = u->tile / group * WG_GROUP, in = u->tile % group,
                  wide = min((int32_t)WG_GROUP, tokens - first);
    u->row = in / wide * S::ROWS;
    u->token = (first + in % wide) * S::TOKENS;
}

/* The block's unit i; false: there are fewer. */
template <class S> PFQ_DEVICE bool wg_unit(int32_t T, int32_t i, WgUnit *u)
{
    const int32_t depth = wg_depth<S>(), n = wg_ranks<S>(), me = wg_rank<S>();
    const int32_t blocks = (int32_t)(gridDim.x * gridDim.y);
    u->tile = ((int32_t)(blockIdx.y * gridDim.x + blockIdx.x) + i * blocks) / n;
    if (u->tile >= wg_tiles<S>(T)) return false;
    u->k0 = me;
    u->step = n;
    u->n = (depth - me + n - 1) / n;
    wg_place<S>(T, u);
    return true;
}

/* ---- producers: a thread of each warp ---- */

/* Bytes of a unit's tokens in a stage: eights of rows without a token are not read. */
template <class S> PFQ_DEVICE uint32_t wg_x_bytes(const PfqCudaArgs &a, const WgUnit &u)
{
    return (uint32_t)min((int32_t)S::TOKENS, pfq_up(a.T - u.token, 8)) * 128;
}

/* The first byte of panel p of the unit's rows; panels past the last repeat it. */
template <class S>
PFQ_DEVICE const uint8_t *wg_panel(const PfqCudaArgs &a, const WgUnit &u, int32_t p)
{
    return (const uint8_t *)a.w +
           min(u.row / 64 + p, wg_panels() - 1) * pfq_panel_bytes(S::BITS, c_K);
}

/* Copies of a stage are the tokens', 0, and one for each panel. A thread issues one in some 120 ns,
 * so several share them: producer `me` copies me, me + PRODUCERS, ... */
template <class S> struct WgFeed {
    static constexpr int32_t most = (S::COPIES - 1) / S::PRODUCERS + 1;
    int32_t me;
    WgUnit u;
    uint32_t bytes, x_bytes;   /* of a stage's copies, of that of the tokens */
    const uint8_t *from[most]; /* the first one's may be the tokens' */
};

/* What is copied for unit i of the block; false: there are fewer. */
template <class S> PFQ_DEVICE bool wg_feed(const PfqCudaArgs &a, int32_t i, WgFeed<S> &f)
{
    if (!wg_unit<S>(a.T, i, &f.u)) return false;
    f.bytes = f.x_bytes = f.me ? 0 : wg_x_bytes<S>(a, f.u);
    PFQ_UNROLL
    for (int32_t j = 0; j < f.most; j++) {
        const int32_t p = f.me + j * S::PRODUCERS - 1;
        f.from[j] = p < 0 ? (const uint8_t *)a.in[0] + ((int64_t)f.u.k0 * c_cap + f.u.token) * 128
                          : wg_panel<S>(a, f.u, p) + (int64_t)f.u.k0 * S::PANEL;
        f.bytes += p >= 0 && p < S::COPIES - 1 ? S::PANEL : 0;
    }
    return true;
}

/* f: of the first unit, if there is one. Between two stages a producer only adds: whatever one
 * thread computes there, all wait for. */
template <class S>
PFQ_DEVICE void wg_produce(const PfqCudaArgs &a, const WgShared &m, WgFeed<S> &f, bool more)
{
    int32_t stage = 0;
    uint32_t parity = 1;
    if (f.me == 0) pfq_wait_previous(); /* weights do not depend on the kernels before this one */
    for (int32_t i = 1; more; i++) {
        for (int32_t k = 0; k < f.u.n; k++) {
            const uint32_t bar = m.full + 8 * stage, to = m.ring + stage * S::STAGE;
            pfq_mbar_wait(m.empty + 8 * stage, parity);
            pfq_mbar_expect(bar, f.bytes);
            PFQ_UNROLL
            for (int32_t j = 0; j < f.most; j++) {
                const int32_t p = f.me + j * S::PRODUCERS - 1;
                if (p >= S::COPIES - 1) break;
                if (p < 0)
                    pfq_bulk_load(to + S::W_BYTES, f.from[j], f.x_bytes, bar);
                else
                    pfq_bulk_load(to + p * S::PANEL, f.from[j], S::PANEL, bar);
                f.from[j] += (int64_t)f.u.step * (p < 0 ? c_cap * 128 : S::PANEL);
            }
            if (++stage == S::STAGES) {
                stage = 0;
                parity ^= 1;
            }
        }
        more = wg_feed<S>(a, i, f);
    }
}

/* ---- consumers: a warpgroup's sums ---- */

struct WgRing {          /* a warpgroup's place in the ring */
    int32_t stage, last; /* last: to be released, or -1 */
    uint32_t parity;
};

/* Every thread arrives for what it has read: racecheck does not see that a meeting of the warp
 * would let one arrive for all. */
template <class S> PFQ_DEVICE void wg_release(const WgShared &m, WgRing &r)
{
    if (r.last >= 0) pfq_mbar_arrive(m.empty + 8 * r.last);
    r.last = -1;
}

/* k steps from..from + BATCH of the warpgroup's panels in a stage, as A operands. */
template <class S>
PFQ_DEVICE void wg_spread(const unsigned char *w, int32_t from,
                          uint32_t (&a)[S::PANELS][S::BATCH][4])
{
    PFQ_UNROLL
    for (int32_t p = 0; p < S::PANELS; p++) {
        PFQ_UNROLL
        for (int32_t i = 0; i < S::BATCH; i += S::BITS == 4 ? 2 : 1) {
            const uint4 v = *(const uint4 *)(w + p * S::PANEL +
                                             (from + i) / (S::BITS == 4 ? 2 : 1) * PFQ_FRAG_BYTES);
            const uint32_t x[4] = {v.x, v.y, v.z, v.w};
            PFQ_UNROLL
            for (int32_t j = 0; j < 4; j++) {
                a[p][i][j] = S::BITS == 4 ? x[j] & 0xf0f0f0f0u : x[j];
                if (S::BITS == 4) a[p][i + 1][j] = x[j] << 4 & 0xf0f0f0f0u;
            }
        }
    }
}

template <class S>
PFQ_DEVICE void wg_product(typename S::Sum (&d)[S::SUMS], const uint32_t (&a)[4], uint64_t desc,
                           bool add)
{
    if constexpr (S::OF_FLOATS)
        pfq_wgmma_bf16<S::TOKENS>(d, a, desc, add);
    else
        pfq_wgmma<S::TOKENS>(d, a, desc, add);
}

/* One stage; half: which half of a is free. */
template <class S, int half>
PFQ_DEVICE void wg_step(const WgShared &m, WgRing &r, int32_t column, bool first,
                        typename S::Sum (&d)[S::PANELS][S::SUMS],
                        uint32_t (&a)[2][S::PANELS][S::BATCH][4])
{
    const unsigned char *w =
        m.stages + r.stage * S::STAGE + column * S::PANELS * S::PANEL + (threadIdx.x & 127) * 16;
    const uint64_t x = pfq_wgmma_desc(m.ring + r.stage * S::STAGE + S::W_BYTES);
    pfq_mbar_wait(m.full + 8 * r.stage, r.parity);
    PFQ_UNROLL
    for (int32_t q = 0; q < 4; q += S::BATCH) {
        const int32_t buf = (half + q / S::BATCH) & 1;
        wg_spread<S>(w, q, a[buf]);
        pfq_wgmma_fence();
        PFQ_UNROLL
        for (int32_t s = 0; s < S::BATCH; s++) {
            PFQ_UNROLL
            for (int32_t p = 0; p < S::PANELS; p++)
                wg_product<S>(d[p], a[buf][p][s], x + 2 * (q + s),
                              S::DEEP > 1 || !first || q + s > 0);
        }
        pfq_wgmma_commit();
        pfq_wgmma_wait<1>();
        if (q == 0) wg_release<S>(m, r);
    }
    r.last = r.stage;
    r.stage += S::DEEP;
    if (r.stage >= S::STAGES) {
        r.stage -= S::STAGES;
        r.parity ^= 1;
    }
}

/* d = the sums of the next n stages. */
template <class S>
PFQ_DEVICE void wg_sum(const WgShared &m, WgRing &r, int32_t column, int32_t n,
                       typename S::Sum (&d)[S::PANELS][S::SUMS])
{
    uint32_t a[2][S::PANELS][S::BATCH][4];
    PFQ_UNROLL
    for (int32_t i = 0; (S::DEEP > 1 || S::SPLIT) && i < S::PANELS * S::SUMS; i++) /* n may be 0 */
        d[i / S::SUMS][i % S::SUMS] = 0;
    if (S::BATCH == 4) { /* halves of a alternate from stage to stage */
        if (n & 1) {
            wg_step<S, 1>(m, r, column, true, d, a);
            pfq_wgmma_wait<0>();
        }
        PFQ_LOOP
        for (int32_t i = n & 1; i < n; i += 2) {
            wg_step<S, 0>(m, r, column, i == 0, d, a);
            wg_step<S, 1>(m, r, column, false, d, a);
        }
    } else {
        PFQ_LOOP
        for (int32_t i = 0; i < n; i++)
            wg_step<S, 0>(m, r, column, i == 0, d, a);
    }
    pfq_wgmma_wait<0>();
    wg_release<S>(m, r);
    PFQ_UNROLL
    for (int32_t p = 0; p < S::PANELS; p++)
        pfq_wgmma_done(d[p]);
}

/* ---- sums of several warpgroups, and of several blocks ---- */

/* Adds the sums of warpgroups that took turns to those of the first, which returns true. */
template <class S>
PFQ_DEVICE bool wg_fold(const WgShared &m, int32_t group, int32_t (&d)[S::PANELS][S::SUMS])
{
    const int32_t column = group % S::ACROSS, turn = group / S::ACROSS, n = S::PANELS * S::SUMS / 4;
    const uint32_t filled = 4 + 2 * (uint32_t)column, free = filled + 1, threads = 128 * S::DEEP;
    int4 *box = (int4 *)m.fold + (threadIdx.x & 127);
    if (turn) {
        box += ((turn - 1) * S::ACROSS + column) * n * 128;
        PFQ_UNROLL
        for (int32_t i = 0; i < n; i++) {
            const int32_t *s = &d[i * 4 / S::SUMS][i * 4 % S::SUMS];
            box[i * 128] = make_int4(s[0], s[1], s[2], s[3]);
        }
    }
    /* Both sides wait at the same instruction, as synccheck wants; racecheck does not know
     * bar.arrive. */
    pfq_bar_sync(filled, threads);
    for (int32_t j = 0; j < S::DEEP - 1 && !turn; j++) {
        PFQ_UNROLL
        for (int32_t i = 0; i < n; i++) {
            const int4 v = box[((j * S::ACROSS + column) * n + i) * 128];
            int32_t *s = &d[i * 4 / S::SUMS][i * 4 % S::SUMS];
            s[0] += v.x, s[1] += v.y, s[2] += v.z, s[3] += v.w;
        }
    }
    pfq_bar_sync(free, threads);
    return !turn;
}

/* Of a tile that is shared: source `part` of `parts`, a warpgroup of a block, finishes `slice`
 * tokens, a multiple of 8, from part * slice on, the last ones fewer or none: first one warpgroup
 * of each block, then the next. Its sums meet those of the others in wg_meeting bytes, source by
 * source; later the same memory holds a chunk of what it finishes. */
struct WgShare {
    int32_t part, parts, slice, rank, blocks;
};
template <class S> PFQ_DEVICE WgShare wg_share(int32_t turn)
{
    const int32_t blocks = pfq_cluster_size(), rank = pfq_cluster_rank(), parts = blocks * S::DEEP,
                  slice = (S::TOKENS / 8 + parts - 1) / parts * 8;
    return {turn * blocks + rank, parts, slice, rank, blocks};
}
template <class S> PFQ_DEVICE int32_t wg_meeting(const WgShare &w)
{
    return max(w.parts * w.slice * S::SUMS_BYTES, (int32_t)S::CHUNKS);
}
/* The meeting in which `owner` finishes a column, and its barrier, which counts the bytes from
 * other blocks: offset in m.out if it is in this block, else addresses there. What stays in a block
 * is stored plainly, for the way to others is slow (32 KB a block: 0.8 us). */
struct WgMeeting {
    uint32_t at, bar;
    bool here;
};
template <class S>
PFQ_DEVICE WgMeeting wg_meeting_of(const WgShared &m, const WgShare &w, int32_t owner,
                                   int32_t column)
{
    static_assert(S::DEEP <= 2);
    const int32_t turn = owner >= w.blocks, rank = owner - turn * w.blocks,
                  group = turn * S::ACROSS + column;
    const uint32_t at = (uint32_t)(group * wg_meeting<S>(w)), bar = m.met + 8 * (uint32_t)group;
    if (rank == w.rank) return {at, bar, true};
    return {pfq_smem_of(pfq_smem(m.out) + at, rank), pfq_smem_of(bar, rank), false};
}
/* Leaves d for the warpgroups that finish it, as boxes of eight tokens and a panel: four words of
 * each thread as they are in d, those of source s from token s * slice on. */
template <class S>
PFQ_DEVICE void wg_box(const WgShared &m, const WgShare &w, int32_t column,
                       const int32_t (&d)[S::PANELS][S::SUMS])
{
    /* Asked of a lane, so that not all of this is computed, and kept, in front of the products. */
    const int32_t slice = pfq_uniform(w.slice);
    WgMeeting to = wg_meeting_of<S>(m, w, 0, column);
    int32_t owner = 0, in = 0;
    PFQ_UNROLL
    for (int32_t j = 0; j < S::TOKENS / 8; j++, in += 8) {
        if (in == slice) {
            to = wg_meeting_of<S>(m, w, ++owner, column);
            in = 0;
        }
        const uint32_t at =
            (uint32_t)((w.part * slice + in) * S::SUMS_BYTES) + (threadIdx.x & 127) * 16;
        PFQ_UNROLL
        for (int32_t p = 0; p < S::PANELS; p++) {
            const int32_t *x = &d[p][4 * j];
            const int4 v = make_int4(x[0], x[1], x[2], x[3]);
            if (to.here)
                *(int4 *)(m.out + (to.at + at) / 4 + p * 512) = v;
            else
                pfq_store_of(to.at + at + (uint32_t)p * 2048, v, to.bar);
        }
    }
}
/* The sums of the warpgroup's slice, to the first of d. */
template <class S>
PFQ_DEVICE void wg_unbox(const int32_t *out, const WgShare &w, int32_t (&d)[S::PANELS][S::SUMS])
{
    const int4 *box = (const int4 *)out + (threadIdx.x & 127);
    PFQ_UNROLL
    for (int32_t i = 0; i < S::PANELS * S::SUMS; i++)
        d[i / S::SUMS][i % S::SUMS] = 0;
    PFQ_LOOP
    for (int32_t s = 0; s < w.parts; s++, box += w.slice * S::SUMS_BYTES / 16) {
        PFQ_UNROLL
        for (int32_t i = 0; i < S::TOKENS / 8 * S::PANELS; i++) {
            if (i / S::PANELS * 8 >= w.slice) break;
            const int4 v = box[i * 128];
            int32_t *to = &d[i % S::PANELS][i / S::PANELS * 4];
            to[0] += v.x, to[1] += v.y, to[2] += v.z, to[3] += v.w;
        }
    }
}

#endif
