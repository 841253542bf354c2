/* The tiles of linear_wg.cuh as kernels: linear_wg_list.cuh. */
#include "linear_wg_bulk.cuh"
#include "linear_wg_heads.cuh"

/* Tokens at .. at + CHUNK of d, which is those from t on, as values to the warpgroup's part of
 * shared memory. */
template <class S>
PFQ_DEVICE void wg_stage(const PfqCudaArgs &a, float *out, int32_t t, int32_t at,
                         const WgRest<S> &r, const typename S::Sum (&d)[S::PANELS][S::SUMS])
{
    const int32_t me = (int32_t)(threadIdx.x & 127), lane = pfq_lane();
    out += (lane & 3) * 2 * S::STRIDE + me / 32 * 8 + lane / 4;
    PFQ_UNROLL
    for (int32_t i = 0; i < S::CHUNK / 4; i++, out += i % 2 ? S::STRIDE : 7 * S::STRIDE) {
        float y[2 * S::PANELS];
        PFQ_UNROLL
        for (int32_t q = 0; q < 2 * S::PANELS; q++)
            if (!wg_glu() || q < S::PANELS)
                y[q] = wg_column<S>(a, r.rows, d, t, q, at / 8 + i / 2, i % 2);
        if (wg_turns_early()) wg_turn_early<S>(r, i, y);
        PFQ_UNROLL
        for (int32_t q = 0; q < 2 * S::PANELS; q++)
            if (!wg_glu() || q < S::PANELS) out[40 * q] = y[q];
    }
}

/* What the epilogue reads of the tile; of the tokens from o.token on. */
template <class S> PFQ_DEVICE void wg_ask_once(const WgOut &o, WgRest<S> &r)
{
    r.rows = wg_rows<S>(*o.a, o.row);
    r.inv = wg_ask_head<S>(o);
}
template <class S> PFQ_DEVICE void wg_ask(const WgOut &o, WgRest<S> &r)
{
    wg_ask_turns<S>(o, o.token, r);
    wg_ask_residual<S>(o, r);
}

/* Finishes n tokens from o.token on, whose sums are the first of d; r has been asked for. out holds
 * a chunk. */
template <class S>
PFQ_DEVICE void wg_emit(WgOut &o, float *out, uint32_t bar, int32_t n, WgRest<S> &r,
                        typename S::Sum (&d)[S::PANELS][S::SUMS])
{
    const int32_t first = o.token;
    o.y = out;
    PFQ_LOOP
    for (int32_t c = 0; c < n && first + c < o.a->T; c += S::CHUNK) {
        o.token = first + c;
        o.tokens = min(n - c, (int32_t)S::CHUNK);
        if (c) wg_ask_residual<S>(o, r);
        PFQ_UNROLL
        for (int32_t p = 0; p < S::PANELS; p++)
            pfq_wgmma_done(d[p]); /* no value is made in front of the loop: registers are few */
        pfq_bar_sync(bar, 128);   /* what out held is read */
        PFQ_UNROLL
        for (int32_t at = 0; at < S::TOKENS; at += S::CHUNK)
            if (at == c) wg_stage<S>(*o.a, out, first, at, r, d); /* registers have no address */
        pfq_bar_sync(bar, 128);
        if (c + S::CHUNK < n) wg_ask_turns<S>(o, o.token + S::CHUNK, r);
        if (c_epi == PFQ_EPI_QKV)
            wg_heads<S>(o, r.inv);
        else
            wg_plain<S>(o, r);
    }
}

/* What a warpgroup finishes of a tile: all of its rows, or, of one whose k warpgroups and blocks
 * divide, some tokens of them, or none. */
template <class S>
PFQ_DEVICE WgOut wg_mine(const PfqCudaArgs &a, const WgUnit &u, const WgShare &w, int32_t column)
{
    const int32_t first = S::SPLIT ? w.part * w.slice : 0,
                  n = S::SPLIT ? min(w.slice, S::TOKENS - first) : S::TOKENS;
    return {&a,
            nullptr,
            u.row + column * S::PANELS * 64,
            u.token + first,
            (int32_t)(threadIdx.x & 127),
            min(n, (int32_t)S::CHUNK)};
}

/* The latter: its sums are brought together. r has been asked for, if early. */
template <class S>
PFQ_DEVICE void wg_emit_shared(const WgShared &m, const WgShare &w, int32_t group, WgOut &o,
                               WgRest<S> &r, int32_t (&d)[S::PANELS][S::SUMS])
{
    const int32_t n = min(w.slice, S::TOKENS - w.part * w.slice);
    int32_t *out = m.out + group * (wg_meeting<S>(w) / 4);
    if (n > 0 && o.me == 0)
        pfq_mbar_expect(m.met + 8 * (uint32_t)group,
                        (uint32_t)(n * (w.parts - S::DEEP) * S::SUMS_BYTES));
    if (!S::EARLY) {
        wg_ask_once<S>(o, r);
        wg_ask<S>(o, r);
    }
    wg_box<S>(m, w, group % S::ACROSS, d);
    pfq_bar_sync(15, 128 * S::GROUPS); /* what this block left is there, and what others did: */
    if (n <= 0) return;
    pfq_mbar_wait(m.met + 8 * (uint32_t)group, 0);
    wg_unbox<S>(out, w, d);
    wg_emit<S>(o, (float *)out, 1 + (uint32_t)group, n, r, d);
}

/* The scales of the block's rows, if there are any, to the L2: they are read once, when all waits
 * for them. */
template <class S> PFQ_DEVICE void wg_expect_scales(const PfqCudaArgs &a)
{
    WgUnit u;
    const int32_t mine = 32 * (int32_t)threadIdx.x;
    if (S::BITS == 16) return;
    for (int32_t i = 0; mine < S::ROWS && wg_unit<S>(a.T, i, &u); i++)
        if (u.row + mine < wg_panels() * 64) pfq_prefetch(wg_scales(a, S::BITS) + u.row + mine);
}

template <class S> PFQ_DEVICE void wg_consume(const PfqCudaArgs &a, const WgShared &m)
{
    const int32_t group = pfq_uniform((int32_t)threadIdx.x >> 7), column = group % S::ACROSS,
                  turn = group / S::ACROSS;
    WgRing r = {turn, -1, 0};
    typename S::Sum d[S::PANELS][S::SUMS];
    int32_t before = 0; /* stages of the units before */
    WgUnit u;
    wg_expect_scales<S>(a);
    const WgShare w = wg_share<S>(turn);
    pfq_wait_previous();
    if (S::SPLIT) pfq_cluster_wait(); /* all have begun */
    for (int32_t i = 0; wg_unit<S>(a.T, i, &u); i++) {
        const int32_t n = u.n;
        /* Of stages before .. before + n, those whose number is turn mod DEEP. */
        const int32_t skip = (turn - before % S::DEEP + S::DEEP) % S::DEEP;
        before += n;
        WgOut o = wg_mine<S>(a, u, w, column);
        WgRest<S> rest;
        if (!S::SPLIT || S::EARLY) wg_ask_once<S>(o, rest);
        if (S::SPLIT && S::EARLY) wg_ask<S>(o, rest);
        wg_sum<S>(m, r, column, (n - skip + S::DEEP - 1) / S::DEEP, d);
        if constexpr (S::SPLIT) {
            wg_emit_shared<S>(m, w, group, o, rest, d);
        } else {
            if constexpr (S::DEEP > 1)
                if (!wg_fold<S>(m, group, d)) continue;
            if (wg_can_bulk<S>()) {
                wg_emit_bulk<S>(a, m, u, column, rest.rows, d);
                continue;
            }
            wg_ask<S>(o, rest);
            wg_emit<S>(o, (float *)m.out + column * (S::OUT / 4), 1 + (uint32_t)column, S::TOKENS,
                       rest, d);
        }
    }
    pfq_bulk_done();
}

template <class S> PFQ_DEVICE void wg_linear(const PfqCudaArgs &a)
{
    const WgShared m = wg_shared<S>();
    WgFeed<S> f;
    bool more = false;
    f.me = pfq_warp() - S::WARPS;
    pfq_let_next_start();
    if (threadIdx.x == 0) { /* many threads would do it one after another */
        for (int32_t i = 0; i < S::STAGES; i++) {
            pfq_mbar_init(m.full + 8 * i, S::PRODUCERS);
            pfq_mbar_init(m.empty + 8 * i, 128 * S::ACROSS);
        }
        for (int32_t i = 0; S::SPLIT && i < S::GROUPS; i++)
            pfq_mbar_init(m.met + 8 * i, 1);
        pfq_mbar_ready();
    } else if (f.me >= 0) {
        more = wg_feed<S>(a, 0, f);
    }
    __syncthreads();
    if (S::SPLIT) pfq_cluster_arrive();
    if (f.me >= 0) {
        if (S::BIG) pfq_fewer_registers<40>();
        if (f.me < S::PRODUCERS && pfq_lane() == 0) wg_produce<S>(a, m, f, more);
    } else {
        if (S::BIG) pfq_more_registers<232>();
        wg_consume<S>(a, m);
    }
}

#ifdef WG_SHAPE /* a tile to be tried: tests/cuda/bench_wg.c */
PFQ_KERNEL(pfq_cu_wg_try, (WgShape<WG_SHAPE>::BLOCK), WG_BLOCKS)
{
    wg_linear<WgShape<WG_SHAPE>>(a);
}
#else
/* Of a specialised source, only the kernel that it wants is worth the compiler's time. */
template <class S, bool wanted> PFQ_DEVICE void wg_entry(const PfqCudaArgs &a)
{
    if constexpr (wanted) wg_linear<S>(a);
}
#define WG(name, id, when, from, to, per_sm, ...)                                                  \
    PFQ_KERNEL(pfq_cu_##name, (WgShape<__VA_ARGS__>::BLOCK), per_sm)                               \
    {                                                                                              \
        wg_entry<WgShape<__VA_ARGS__>, PFQ_WANTED(pfq_cu_##name)>(a);                              \
    }
#include "linear_wg_list.cuh"
#endif

#if defined PFQ_SIMT && !defined PFQ_ENTRY /* for tests/cuda/test_wg.c */
template <class S> struct WgFacts {
    static constexpr int32_t value[10] = {S::BITS,   S::ROWS,        S::TOKENS, S::BLOCK,
                                          S::SHARED, 64 * S::PANELS, S::SPLIT,  S::DEEP,
                                          S::ACROSS, S::CHUNKS};
};
#define WG(name, id, when, from, to, per_sm, ...)                                                  \
    extern "C" const int32_t pfq_cu_##name##_facts[10] = {                                         \
        WgFacts<WgShape<__VA_ARGS__>>::value[0], WgFacts<WgShape<__VA_ARGS__>>::value[1],          \
        WgFacts<WgShape<__VA_ARGS__>>::value[2], WgFacts<WgShape<__VA_ARGS__>>::value[3],          \
        WgFacts<WgShape<__VA_ARGS__>>::value[4], WgFacts<WgShape<__VA_ARGS__>>::value[5],          \
        WgFacts<WgShape<__VA_ARGS__>>::value[6], WgFacts<WgShape<__VA_ARGS__>>::value[7],          \
        WgFacts<WgShape<__VA_ARGS__>>::value[8], WgFacts<WgShape<__VA_ARGS__>>::value[9]};
#include "linear_wg_list.cuh"
#endif
