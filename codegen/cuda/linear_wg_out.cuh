/* Epilogues of linear_wg.cuh. A thread finishes its sums where they are, in registers: it has both
 * gate and up of a channel, and both columns that RoPE turns together. Then a warpgroup passes
 * S::CHUNK tokens at a time through shared memory, where a thread reads runs of columns of one
 * token, which suits every epilogue's stores.
 *
 * Column c of a chunk's token lies at token * S::STRIDE + c + c / 32 * 8; of gate and up, c is a
 * channel.
 */
#ifndef PFQC_CODEGEN_CUDA_LINEAR_WG_OUT_CUH
#define PFQC_CODEGEN_CUDA_LINEAR_WG_OUT_CUH

#include "kv.cuh"
#include "linear_wg.cuh"

PFQ_CONST(int32_t, c_bias);
PFQ_CONST(int32_t, c_act);
PFQ_CONST(int32_t, c_half);
PFQ_CONST(int32_t, c_tiles);
PFQ_CONST(int32_t, c_heads);
PFQ_CONST(int32_t, c_kv_heads);
PFQ_CONST(int32_t, c_rot);
PFQ_CONST(int32_t, c_qk_norm);
PFQ_CONST(int32_t, c_prefix);
PFQ_CONST(int32_t, c_r3);
PFQ_CONST(int32_t, c_q8);
PFQ_CONST(float, c_eps);

struct WgOut {
    const PfqCudaArgs *a;
    const float *y;     /* the chunk */
    int32_t row, token; /* the warpgroup's first row, the chunk's first token */
    int32_t me;         /* 0..127 */
    int32_t tokens;     /* of the chunk */
};

struct alignas(16) WgFour {
    float v[4];
};

/* ---- pieces ---- */

/* f32 of rows from n on, n % 4 == 0. */
PFQ_DEVICE WgFour wg_four(const float *p, int32_t n)
{
    return *(const WgFour *)(p + n);
}

PFQ_DEVICE const float *wg_scales(const PfqCudaArgs &a, int32_t bits)
{
    return (const float *)(a.w + (uint64_t)pfq_frag_bytes(
                                     bits, c_epi == PFQ_EPI_SWIGLU ? wg_panels() * 64 : c_N, c_K));
}

/* Of token t, if scales are not constant. */
template <class S> PFQ_DEVICE float wg_token_scale(const PfqCudaArgs &a, int32_t t)
{
    return c_static || S::OF_FLOATS ? 1.0f : ((const float *)a.in[1])[t];
}

/* The bias of row n, of swiglu in tiles of 16 rows of gate and of up. */
PFQ_DEVICE const float *wg_bias(const PfqCudaArgs &a, int32_t n)
{
    const int32_t c = n / 64 * 32 + n % 32;
    return (const float *)a.aux[0] +
           (c_epi == PFQ_EPI_SWIGLU ? c / 16 * 32 + n / 32 % 2 * 16 + c % 16 : n);
}

/* Four columns to row-major out[0] of `width` columns; n % 4 == 0, those past the end are dropped.
 */
PFQ_DEVICE void wg_store(const PfqCudaArgs &a, int64_t t, int32_t width, int32_t n, const WgFour &y)
{
    const int64_t at = t * width + n;
    if (width % 4) {
        for (int32_t i = 0; i < 4 && n + i < width; i++)
            if (c_half)
                ((uint16_t *)a.out[0])[at + i] = (uint16_t)pfq_two_halves_clamped(y.v[i], 0.0f);
            else
                ((float *)a.out[0])[at + i] = y.v[i];
    } else if (c_half) {
        *(uint2 *)((uint16_t *)a.out[0] + at) = make_uint2(pfq_two_halves_clamped(y.v[0], y.v[1]),
                                                           pfq_two_halves_clamped(y.v[2], y.v[3]));
    } else {
        *(WgFour *)((float *)a.out[0] + at) = y;
    }
}

/* Four columns to tiles of bf16; rows of channels end where tiles do. */
PFQ_DEVICE void wg_store_tile(const PfqCudaArgs &a, int32_t t, int32_t n, const WgFour &y)
{
    *(uint2 *)((uint8_t *)a.out[0] + pfq_tile_at(c_tiles, t, 2 * n)) =
        make_uint2(pfq_two_bf16(y.v[0], y.v[1]), pfq_two_bf16(y.v[2], y.v[3]));
}

PFQ_DEVICE WgFour wg_load(const PfqCudaArgs &a, int64_t t, int32_t width, int32_t n)
{
    const int64_t at = t * width + n;
    WgFour y = {};
    if (width % 4) {
        for (int32_t i = 0; i < 4 && n + i < width; i++)
            y.v[i] = c_half ? pfq_h_to_f(((const uint16_t *)a.in[2])[at + i])
                            : ((const float *)a.in[2])[at + i];
    } else if (c_half) {
        const uint2 h = *(const uint2 *)((const uint16_t *)a.in[2] + at);
        y.v[0] = pfq_h_to_f((uint16_t)h.x), y.v[1] = pfq_h_to_f((uint16_t)(h.x >> 16));
        y.v[2] = pfq_h_to_f((uint16_t)h.y), y.v[3] = pfq_h_to_f((uint16_t)(h.y >> 16));
    } else {
        y = *(const WgFour *)((const float *)a.in[2] + at);
    }
    return y;
}

/* silu to a relative error of 2^-20: half as many instructions as pfq_silu. */
PFQ_DEVICE float wg_act(float x)
{
    if (c_act != PFQ_ACT_SILU) return pfq_act(c_act, x);
    return x * pfq_inverse_fast(1.0f + pfq_exp2_fast(fminf(-1.44269504f * x, 126.0f)));
}

PFQ_DEVICE bool wg_glu()
{
    return c_epi == PFQ_EPI_SWIGLU;
}
PFQ_DEVICE int32_t wg_width()
{
    return wg_glu() ? c_N / 2 : c_N;
}

/* ---- sums to values ---- */

/* Of the thread's rows: h of panel p is row + 64 * p + 32 * h. Sums are 16 times too large for each
 * operand in high nibbles. */
template <class S> struct WgRows {
    float scale[S::PANELS][2], bias[S::PANELS][2];
};
template <class S> PFQ_DEVICE WgRows<S> wg_rows(const PfqCudaArgs &a, int32_t row)
{
    WgRows<S> r;
    const float unit = (S::BITS == 4 ? 0.0625f : 1.0f) * (c_xshift == 4 ? 0.0625f : 1.0f);
    const int32_t mine = row + (int32_t)(threadIdx.x & 127) / 32 * 8 + pfq_lane() / 4;
    PFQ_UNROLL
    for (int32_t i = 0; i < 2 * S::PANELS; i++) { /* rows past the last panel repeat one of it */
        const int32_t n = min(mine + 32 * i, wg_panels() * 64 - 1);
        const bool there = (wg_glu() ? n / 64 * 32 + n % 32 : n) < wg_width();
        r.scale[i / 2][i % 2] = S::OF_FLOATS ? 1.0f : wg_scales(a, S::BITS)[n] * unit;
        r.bias[i / 2][i % 2] = c_bias && there ? *wg_bias(a, n) : 0.0f;
    }
    return r;
}

/* Of row h of panel p and token 8 * j + 2 * (lane % 4) + e of those from t on. */
template <class S>
PFQ_DEVICE float wg_y(const PfqCudaArgs &a, const WgRows<S> &r,
                      const typename S::Sum (&d)[S::PANELS][S::SUMS], int32_t t, int32_t p,
                      int32_t h, int32_t j, int32_t e)
{
    float s = r.scale[p][h];
    if (!c_static && !S::OF_FLOATS)
        s *= wg_token_scale<S>(a, min(t + 8 * j + pfq_lane() % 4 * 2 + e, a.T - 1));
    const float v = (float)d[p][4 * j + 2 * h + e], y = S::OF_FLOATS ? v : v * s;
    return c_bias ? y + r.bias[p][h] : y;
}

/* Column q of the thread's, 32 apart: a row of W, or a channel of gate and up. */
template <class S>
PFQ_DEVICE float wg_column(const PfqCudaArgs &a, const WgRows<S> &r,
                           const typename S::Sum (&d)[S::PANELS][S::SUMS], int32_t t, int32_t q,
                           int32_t j, int32_t e)
{
    if (wg_glu()) return wg_act(wg_y<S>(a, r, d, t, q, 0, j, e)) * wg_y<S>(a, r, d, t, q, 1, j, e);
    return wg_y<S>(a, r, d, t, q / 2, q % 2, j, e);
}

/* ---- plain, residual, gate and up ---- */

/* The token of turn i, and whether it is one; its place in the chunk. */
struct WgToken {
    int32_t t, in;
    bool real;
};
PFQ_DEVICE WgToken wg_token(const WgOut &o, int32_t in)
{
    const int32_t t = o.token + in;
    return {min(t, o.a->T - 1), min(in, o.tokens - 1), t < o.a->T && in < o.tokens};
}

struct alignas(8) WgTwo {
    float v[2];
};

/* What an epilogue reads besides sums: asked for before they are there. */
template <class S> struct WgRest {
    static constexpr int32_t lanes = 16 * S::PANELS, tokens = 128 / lanes,
                             turns = (S::CHUNK + tokens - 1) / tokens;
    WgRows<S> rows;
    WgFour y[turns]; /* the residual of a chunk */
    WgTwo turn[S::PANELS]
              [S::CHUNK / 4]; /* of a chunk, RoPE's cosine and sine: linear_wg_heads.cuh */
    float inv;                /* of the head's integers */
};

template <class S> PFQ_DEVICE void wg_ask_residual(const WgOut &o, WgRest<S> &r)
{
    const int32_t n = o.row + o.me % r.lanes * 4;
    if (n >= c_N || c_epi != PFQ_EPI_RESIDUAL) return;
    PFQ_UNROLL
    for (int32_t i = 0; i < r.turns; i++)
        r.y[i] = wg_load(*o.a, wg_token(o, i * r.tokens + o.me / r.lanes).t, c_N, n);
}

/* Reads all before it stores anything, so that a thread waits once. */
template <class S> PFQ_DEVICE void wg_plain(const WgOut &o, WgRest<S> &r)
{
    const PfqCudaArgs &a = *o.a;
    const int32_t lanes = wg_glu() ? r.lanes / 2 : r.lanes, tokens = 128 / lanes;
    const int32_t c = o.me % lanes * 4, n = (wg_glu() ? o.row / 2 : o.row) + c;
    if (n >= wg_width()) return;
    PFQ_UNROLL
    for (int32_t i = 0; i < r.turns && i * tokens < S::CHUNK; i++) {
        const WgToken k = wg_token(o, i * tokens + o.me / lanes);
        const WgFour v = wg_four(o.y, k.in * S::STRIDE + c + c / 32 * 8);
        PFQ_UNROLL
        for (int32_t j = 0; j < 4; j++)
            r.y[i].v[j] = c_epi == PFQ_EPI_RESIDUAL ? v.v[j] + r.y[i].v[j] : v.v[j];
    }
    PFQ_UNROLL
    for (int32_t i = 0; i < r.turns && i * tokens < S::CHUNK; i++) {
        const WgToken k = wg_token(o, i * tokens + o.me / lanes);
        if (!k.real) continue;
        if (c_tiles)
            wg_store_tile(a, k.t, n, r.y[i]);
        else
            wg_store(a, k.t, wg_width(), n, r.y[i]);
    }
}

#endif
