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
 * Launch: S::BLOCK threads, blocks as many as fit the GPU, dynamic shared memory S::SHARED. Blocks
 * take whole tiles in turn, in groups of WG_GROUP token tiles so that both operands come from the
 * L2; or, if S::SPLIT, equal shares of all tiles' k. A tile that several blocks share is summed by
 * the last of them to arrive, from work; sums are integers, so the order does not matter. sync
 * holds a counter for each tile and warpgroup, 0 between launches.
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

#ifndef WG_TRY_GROUP
#define WG_TRY_GROUP 8
#endif
#ifndef WG_TRY_PRODUCERS
#define WG_TRY_PRODUCERS 4
#endif
enum { WG_GROUP = WG_TRY_GROUP, WG_PRODUCERS = WG_TRY_PRODUCERS };

/* The sums of s8 products, and of bf16. */
template <int bits> struct WgSums {
    using Sum = int32_t;
};
template <> struct WgSums<16> {
    using Sum = float;
};

/* bits of a weight; panels, across, deep, tokens, stages: above; split: shares instead of tiles;
 * chunk: tokens that an epilogue takes at a time; batch: k steps of 32 of a group of products */
template <int bits, int panels, int across, int deep, int tokens, int stages, bool split, int chunk,
          int batch>
struct WgShape {
    static constexpr int BITS = bits, PANELS = panels, ACROSS = across, DEEP = deep,
                         TOKENS = tokens, STAGES = stages, CHUNK = chunk, BATCH = batch;
    static constexpr bool SPLIT = split, OF_FLOATS = bits == 16;
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
                         HALVES = tokens * (128 * panels + 16),
                         FLOATS = 2 * 32 * (256 * panels + 16);
    /* Wide tiles go out as bulk copies: all of it as halves, 32 tokens at a time as floats. */
    static constexpr bool BULK = tokens >= 128;
    static constexpr int OUT = !BULK             ? CHUNKS
                               : HALVES > CHUNKS ? (HALVES > FLOATS ? HALVES : FLOATS)
                                                 : (CHUNKS > FLOATS ? CHUNKS : FLOATS),
                         FOLD = (deep - 1) * across * panels * SUMS * 512;
    static constexpr int SHARED = 1024 + stages * STAGE + across * OUT + FOLD + 16 * stages + 128;
    /* Sums of floats depend on their order, which must be the same for any number of tokens. */
    static_assert(!OF_FLOATS || (!split && deep == 1));
    static_assert(tokens % chunk == 0 && chunk % 8 == 0 && stages % deep == 0);
};

struct WgShared {
    uint32_t ring, full, empty;  /* addresses: of the first stage, its barriers */
    const unsigned char *stages; /* the ring */
    int32_t *out, *fold, *flag;
};

template <class S> PFQ_DEVICE WgShared wg_shared()
{
    unsigned char *p = pfq_shared + (-pfq_smem(pfq_shared) & 1023);
    WgShared m;
    m.stages = p;
    m.ring = pfq_smem(p);
    p += S::STAGES * S::STAGE;
    m.out = (int32_t *)p;
    p += S::ACROSS * S::OUT;
    m.fold = (int32_t *)p;
    p += S::FOLD;
    m.full = pfq_smem(p);
    m.empty = m.full + 8 * S::STAGES;
    m.flag = (int32_t *)(p + 16 * S::STAGES);
    return m;
}

/* ---- what is to be done ---- */

struct WgUnit {
    int32_t tile, row, token; /* a tile, its first row of W and token */
    int32_t k0, k1;           /* of WG_K k each: what the block multiplies */
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

/* Of all units of k of all tiles, block b's share begins here. No share but those of the last
 * blocks is empty. */
PFQ_DEVICE int64_t wg_sharers(int64_t units)
{
    return min(units, (int64_t)gridDim.x);
}
PFQ_DEVICE int32_t wg_share(int64_t units, int64_t b)
{
    const int64_t n = wg_sharers(units);
    return (int32_t)(units * min(b, n) / n);
}
/* The block whose share unit x is of. */
PFQ_DEVICE int32_t wg_owner(int64_t units, int64_t x)
{
    return (int32_t)(((x + 1) * wg_sharers(units) - 1) / units);
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
    const int32_t tiles = wg_tiles<S>(T), depth = wg_depth<S>();
    if (S::SPLIT) {
        const int64_t units = (int64_t)tiles * depth;
        const int32_t from = wg_share(units, blockIdx.x), to = wg_share(units, blockIdx.x + 1);
        const int32_t at = i ? (from / depth + i) * depth : from;
        if (at >= to) return false;
        u->tile = at / depth;
        u->k0 = at % depth;
        u->k1 = min(depth, u->k0 + to - at);
    } else {
        u->tile = (int32_t)(blockIdx.x + i * gridDim.x);
        if (u->tile >= tiles) return false;
        u->k0 = 0;
        u->k1 = depth;
    }
    wg_place<S>(T, u);
    return true;
}

/* ---- producers: a thread of each warp ---- */

/* Bytes of a unit's tokens in a stage: eights of rows without a token are not read. */
template <class S> PFQ_DEVICE uint32_t wg_x_bytes(const PfqCudaArgs &a, const WgUnit &u)
{
    return (uint32_t)min((int32_t)S::TOKENS, pfq_up(a.T - u.token, 8)) * 128;
}

/* Panel p of the unit's rows from k on; panels past the last repeat it. */
template <class S>
PFQ_DEVICE const uint8_t *wg_panel(const PfqCudaArgs &a, const WgUnit &u, int32_t p, int32_t k)
{
    return (const uint8_t *)a.w + (int64_t)k * S::PANEL +
           min(u.row / 64 + p, wg_panels() - 1) * pfq_panel_bytes(S::BITS, c_K);
}

/* Copies of a stage are the tokens', 0, and one for each panel. A thread issues one in some 120 ns,
 * so several share them: producer `me` copies me, me + PRODUCERS, ... */
template <class S>
PFQ_DEVICE void wg_fill(const PfqCudaArgs &a, const WgShared &m, const WgUnit &u, int32_t k,
                        int32_t stage, int32_t me)
{
    const uint32_t to = m.ring + stage * S::STAGE, bar = m.full + 8 * stage;
    const int32_t panels = (S::COPIES - 1 - me) / S::PRODUCERS + (me > 0); /* of mine */
    const uint32_t x = me ? 0 : wg_x_bytes<S>(a, u);
    pfq_mbar_expect(bar, x + (uint32_t)(panels * S::PANEL));
    if (x)
        pfq_bulk_load(to + S::W_BYTES,
                      (const uint8_t *)a.in[0] + ((int64_t)k * c_cap + u.token) * 128, x, bar);
    PFQ_UNROLL
    for (int32_t i = 0; i < (S::COPIES - 1) / S::PRODUCERS + 1; i++) {
        const int32_t p = me + i * S::PRODUCERS - 1; /* panels past the last repeat it */
        if (p >= 0 && p < S::COPIES - 1)
            pfq_bulk_load(to + p * S::PANEL, wg_panel<S>(a, u, p, k), S::PANEL, bar);
    }
}

template <class S> PFQ_DEVICE void wg_produce(const PfqCudaArgs &a, const WgShared &m, int32_t me)
{
    WgUnit u;
    int32_t stage = 0;
    uint32_t parity = 1;
    if (me == 0) pfq_wait_previous(); /* weights do not depend on the kernels before this one */
    for (int32_t i = 0; wg_unit<S>(a.T, i, &u); i++) {
        for (int32_t k = u.k0; k < u.k1; k++) {
            pfq_mbar_wait(m.empty + 8 * stage, parity);
            wg_fill<S>(a, m, u, k, stage, me);
            if (++stage == S::STAGES) {
                stage = 0;
                parity ^= 1;
            }
        }
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
    for (int32_t i = 0; S::DEEP > 1 && i < S::PANELS * S::SUMS; i++) /* n may be 0 */
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

/* Where block b's warpgroup leaves the sums of a tile that it began or did not begin. */
template <class S>
PFQ_DEVICE int4 *wg_box(const PfqCudaArgs &a, int32_t b, bool begun, int32_t column)
{
    constexpr int32_t n = S::PANELS * S::SUMS / 4 * 128;
    return (int4 *)a.work + ((b * 2 + begun) * S::ACROSS + column) * n + (threadIdx.x & 127);
}

/* Adds what the other blocks of first .. last have left to d, some blocks' at a time, so that loads
 * overlap. */
template <class S>
PFQ_DEVICE void wg_gather(const PfqCudaArgs &a, int32_t first, int32_t last, int32_t column,
                          int32_t (&d)[S::PANELS][S::SUMS])
{
    constexpr int32_t n = S::PANELS * S::SUMS / 4, at_once = n > 8 ? 1 : n > 2 ? 2 : 4;
    PFQ_LOOP
    for (int32_t b = first; b <= last; b += at_once) {
        int4 v[at_once][n];
        PFQ_UNROLL
        for (int32_t j = 0; j < at_once; j++) {
            const int4 *box = wg_box<S>(a, min(b + j, last), b + j == first, column);
            const bool other = b + j <= last && b + j != (int32_t)blockIdx.x;
            PFQ_UNROLL
            for (int32_t i = 0; i < n; i++)
                v[j][i] = other ? pfq_load_l2(box + i * 128) : make_int4(0, 0, 0, 0);
        }
        PFQ_UNROLL
        for (int32_t i = 0; i < n * at_once; i++) {
            const int4 &x = v[i / n][i % n];
            int32_t *s = &d[i % n * 4 / S::SUMS][i % n * 4 % S::SUMS];
            s[0] += x.x, s[1] += x.y, s[2] += x.z, s[3] += x.w;
        }
    }
}

/* Of a tile that blocks share: leaves d for the last of them; that one gets all and returns true.
 * Of two blocks the second had its part of the tile when it began, so the first asks before it
 * leaves anything. */
template <class S>
PFQ_DEVICE bool wg_join(const PfqCudaArgs &a, const WgShared &m, const WgUnit &u, int32_t column,
                        int32_t (&d)[S::PANELS][S::SUMS])
{
    constexpr int32_t n = S::PANELS * S::SUMS / 4;
    const int64_t units = (int64_t)wg_tiles<S>(a.T) * wg_depth<S>(),
                  begin = (int64_t)u.tile * wg_depth<S>();
    const int32_t first = wg_owner(units, begin), last = wg_owner(units, begin + wg_depth<S>() - 1),
                  bar = 1 + column;
    int32_t *count = (int32_t *)a.sync + u.tile * S::ACROSS + column;
    const bool asks = u.k0 == 0 && last - first == 1, tells = (threadIdx.x & 127) == 0;
    if (asks) {
        if (tells) m.flag[S::ACROSS + column] = pfq_load_acquire(count);
        pfq_bar_sync((uint32_t)bar, 128);
    }
    if (!asks || !m.flag[S::ACROSS + column]) {
        int4 *box = wg_box<S>(a, (int32_t)blockIdx.x, u.k0 == 0, column);
        PFQ_UNROLL
        for (int32_t i = 0; i < n; i++) {
            const int32_t *s = &d[i * 4 / S::SUMS][i * 4 % S::SUMS];
            box[i * 128] = make_int4(s[0], s[1], s[2], s[3]);
        }
        pfq_bar_sync((uint32_t)bar, 128); /* what it orders, the atomic releases */
        if (tells) m.flag[column] = pfq_atomic_add_acq_rel(count, 1) == last - first;
        pfq_bar_sync((uint32_t)bar, 128);
        if (!m.flag[column]) return false;
    }
    if (tells) *count = 0;
    wg_gather<S>(a, first, last, column, d);
    return true;
}

#endif
