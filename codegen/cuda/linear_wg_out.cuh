/* Epilogues of linear_wg.cuh. A warpgroup passes its sums through shared memory, S::CHUNK tokens at
 * a time: there a thread reads runs of rows of one token, which suits every epilogue's stores. The
 * integers are scaled behind that.
 *
 * Sum (token, row) of a chunk lies at token * S::STRIDE + row + row / 32 * 8.
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
    const int32_t *sums; /* the chunk */
    int32_t row, token;  /* the warpgroup's first row, the chunk's first token */
    int32_t me;          /* 0..127 */
    int32_t tokens;      /* of the chunk */
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

/* Scales of four rows; sums are 16 times too large for each operand in high nibbles. */
template <class S> PFQ_DEVICE WgFour wg_scale(const PfqCudaArgs &a, int32_t n)
{
    if (S::OF_FLOATS) return {{1.0f, 1.0f, 1.0f, 1.0f}};
    const float unit = (S::BITS == 4 ? 0.0625f : 1.0f) * (c_xshift == 4 ? 0.0625f : 1.0f);
    WgFour s = wg_four(wg_scales(a, S::BITS), n);
    PFQ_UNROLL
    for (int32_t i = 0; i < 4; i++)
        s.v[i] *= unit;
    return s;
}

/* Of token t, if scales are not constant. */
template <class S> PFQ_DEVICE float wg_token_scale(const PfqCudaArgs &a, int32_t t)
{
    return c_static || S::OF_FLOATS ? 1.0f : ((const float *)a.in[1])[t];
}

/* y of four rows. */
template <class S>
PFQ_DEVICE WgFour wg_finish(const int32_t *sums, const WgFour &scale, const WgFour &bias,
                            float token)
{
    const int4 v = *(const int4 *)sums;
    const int32_t x[4] = {v.x, v.y, v.z, v.w};
    WgFour y;
    PFQ_UNROLL
    for (int32_t i = 0; i < 4; i++) {
        y.v[i] = S::OF_FLOATS ? __int_as_float(x[i])
                              : (float)x[i] * (c_static ? scale.v[i] : scale.v[i] * token);
        if (c_bias) y.v[i] += bias.v[i];
    }
    return y;
}

/* The bias of row n, of swiglu in tiles of 16 rows of gate and of up; n + 1 .. n + 3, if n % 4 ==
 * 0, lie behind it. */
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

/* What the plain epilogue reads besides sums: asked for before they are there. */
template <class S> struct WgRest {
    static constexpr int32_t lanes = 16 * S::PANELS, tokens = 128 / lanes,
                             turns = (S::CHUNK + tokens - 1) / tokens;
    WgFour scale, bias, y[turns];
};

template <class S> PFQ_DEVICE void wg_ask(const WgOut &o, WgRest<S> &r)
{
    const PfqCudaArgs &a = *o.a;
    const int32_t n = o.row + o.me % r.lanes * 4;
    if (n >= c_N || c_epi == PFQ_EPI_QKV || c_epi == PFQ_EPI_SWIGLU) return;
    r.scale = wg_scale<S>(a, n);
    r.bias = c_bias ? wg_four(wg_bias(a, n), 0) : r.scale;
    PFQ_UNROLL
    for (int32_t i = 0; c_epi == PFQ_EPI_RESIDUAL && i < r.turns; i++)
        r.y[i] = wg_load(a, wg_token(o, i * r.tokens + o.me / r.lanes).t, c_N, n);
}

/* This and the next read all before they store anything, so that a thread waits once. */
template <class S> PFQ_DEVICE void wg_plain(const WgOut &o, WgRest<S> &r)
{
    const PfqCudaArgs &a = *o.a;
    const int32_t row = o.me % r.lanes * 4, n = o.row + row;
    if (n >= c_N) return;
    PFQ_UNROLL
    for (int32_t i = 0; i < r.turns; i++) {
        const WgToken k = wg_token(o, i * r.tokens + o.me / r.lanes);
        const WgFour v = wg_finish<S>(o.sums + k.in * S::STRIDE + row + row / 32 * 8, r.scale,
                                      r.bias, wg_token_scale<S>(a, k.t));
        PFQ_UNROLL
        for (int32_t j = 0; j < 4; j++)
            r.y[i].v[j] = c_epi == PFQ_EPI_RESIDUAL ? v.v[j] + r.y[i].v[j] : v.v[j];
    }
    PFQ_UNROLL
    for (int32_t i = 0; i < r.turns; i++) {
        const WgToken k = wg_token(o, i * r.tokens + o.me / r.lanes);
        if (k.real) wg_store(a, k.t, c_N, n, r.y[i]);
    }
}

template <class S> PFQ_DEVICE void wg_swiglu(const WgOut &o)
{
    constexpr int32_t lanes = 8 * S::PANELS, tokens = 128 / lanes,
                      turns = (S::CHUNK + tokens - 1) / tokens;
    const PfqCudaArgs &a = *o.a;
    const int32_t c = o.me % lanes * 4, row = c / 32 * 64 + c % 32, n = o.row + row;
    const int32_t width = c_N / 2, channel = o.row / 2 + c;
    if (channel >= width) return;
    const WgFour sg = wg_scale<S>(a, n), su = wg_scale<S>(a, n + 32),
                 bg = c_bias ? wg_four(wg_bias(a, n), 0) : sg,
                 bu = c_bias ? wg_four(wg_bias(a, n + 32), 0) : sg;
    WgFour y[turns];
    PFQ_UNROLL
    for (int32_t i = 0; i < turns; i++) {
        const WgToken k = wg_token(o, i * tokens + o.me / lanes);
        const int32_t *sums = o.sums + k.in * S::STRIDE + row + row / 32 * 8;
        const float st = wg_token_scale<S>(a, k.t);
        const WgFour g = wg_finish<S>(sums, sg, bg, st), u = wg_finish<S>(sums + 40, su, bu, st);
        PFQ_UNROLL
        for (int32_t j = 0; j < 4; j++)
            y[i].v[j] = wg_act(g.v[j]) * u.v[j];
    }
    PFQ_UNROLL
    for (int32_t i = 0; i < turns; i++) {
        const WgToken k = wg_token(o, i * tokens + o.me / lanes);
        if (!k.real) continue;
        if (c_tiles)
            wg_store_tile(a, k.t, channel, y[i]);
        else
            wg_store(a, k.t, width, channel, y[i]);
    }
}

#endif
