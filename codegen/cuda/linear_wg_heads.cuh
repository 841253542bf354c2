/* The qkv epilogue of linear_wg.cuh: a warpgroup's panels are one head, c_head_dim = 64 *
 * S::PANELS. What happens to a head is heads.cuh's, in the same order of operations; here a thread
 * has 32 columns of a head and token in registers, the 2 or 4 lanes beside it the others.
 *
 * RoPE turns all of a head or nothing. Its cosines and sines come from a table if c_turns: aux[7],
 * f32 pairs [T][c_rot / 2] (pfq_cu_turns).
 */
#ifndef PFQC_CODEGEN_CUDA_LINEAR_WG_HEADS_CUH
#define PFQC_CODEGEN_CUDA_LINEAR_WG_HEADS_CUH

#include "heads.cuh"
#include "linear_wg_out.cuh"

PFQ_CONST(int32_t, c_turns);

struct WgHead {
    const PfqCudaArgs *a;
    const float *y;    /* of its token */
    int32_t row, head; /* of W; of q, k and v */
    int32_t t, part;   /* columns 32 * part .. */
};

/* The greatest, or the sum, over the lanes of a head. */
template <class S> PFQ_DEVICE float wg_over(float x, bool sum)
{
    PFQ_UNROLL
    for (int32_t h = 1; h < 2 * S::PANELS; h *= 2) {
        const float y = __shfl_xor_sync(~0u, x, h);
        x = sum ? x + y : fmaxf(x, y);
    }
    return x;
}

/* Does RoPE turn columns where the sums are? Norms of heads stand in front of it. */
PFQ_DEVICE bool wg_turns_early()
{
    return c_epi == PFQ_EPI_QKV && c_rot && c_turns && !c_qk_norm;
}

/* The head's inverse scale, if it has one for all tokens. */
template <class S> PFQ_DEVICE float wg_ask_head(const WgOut &o)
{
    const PfqCudaArgs &a = *o.a;
    const int32_t head = o.row / (64 * S::PANELS), kv = head - c_heads;
    if (c_epi != PFQ_EPI_QKV || kv >= 2 * c_kv_heads) return 0.0f;
    if (kv < 0) return c_q8 ? pfq_inv(((const float *)a.aux[6])[head]) : 0.0f;
    if (!kv_ints() || kv_scales()) return 0.0f;
    return pfq_inv(((const float *)a.aux[4 + kv / c_kv_heads])[kv % c_kv_heads]);
}

/* Cosines and sines of the thread's columns of the chunk from token `first` on; of v, which is not
 * turned, 1 and 0. */
template <class S> PFQ_DEVICE void wg_ask_turns(const WgOut &o, int32_t first, WgRest<S> &r)
{
    if (!wg_turns_early()) return;
    const bool turned = o.row / (64 * S::PANELS) < c_heads + c_kv_heads;
    const int32_t lane = pfq_lane(), i = o.me / 32 * 8 + lane / 4;
    PFQ_UNROLL
    for (int32_t j = 0; j < S::CHUNK / 4; j++) {
        const int32_t t = min(first + j / 2 * 8 + lane % 4 * 2 + j % 2, o.a->T - 1);
        const WgTwo *from = (const WgTwo *)o.a->aux[7] + t * (c_rot / 2) + i;
        PFQ_UNROLL
        for (int32_t h = 0; h < S::PANELS; h++)
            r.turn[h][j] = turned ? from[32 * h] : WgTwo{{1.0f, 0.0f}};
    }
}

/* Turns the thread's columns of token j of its own in a chunk, 32 apart. */
template <class S>
PFQ_DEVICE void wg_turn_early(const WgRest<S> &r, int32_t j, float (&y)[2 * S::PANELS])
{
    PFQ_UNROLL
    for (int32_t h = 0; h < S::PANELS; h++) {
        const float cosine = r.turn[h][j].v[0], sine = r.turn[h][j].v[1], x = y[h],
                    z = y[h + S::PANELS];
        y[h] = x * cosine - z * sine;
        y[h + S::PANELS] = z * cosine + x * sine;
    }
}

/* Cosines and sines of columns i, i + 1 of the lower half. */
PFQ_DEVICE WgFour wg_turn(const WgHead &h, int32_t i)
{
    const PfqCudaArgs &a = *h.a;
    const int32_t t = min(h.t, a.T - 1);
    if (c_turns) return wg_four((const float *)a.aux[7], (t * (c_rot / 2) + i) * 2);
    WgFour c;
    const double pos = (double)(pfq_row(a, t).pos + c_prefix);
    PFQ_UNROLL
    for (int32_t j = 0; j < 2; j++) {
        pfq_sincos((double)((const float *)a.aux[1])[i + j] * pos, &c.v[2 * j + 1], &c.v[2 * j]);
        c.v[2 * j] *= c_rope_scale;
        c.v[2 * j + 1] *= c_rope_scale;
    }
    return c;
}

/* RMSNorm of the head as a factor of its columns. */
template <class S> PFQ_DEVICE float wg_norm(const float (&v)[32])
{
    float s = 0.0f;
    PFQ_UNROLL
    for (int32_t i = 0; i < 32; i++)
        s = fmaf(v[i], v[i], s);
    return 1.0f / sqrtf(wg_over<S>(s, true) / (64.0f * S::PANELS) + c_eps);
}

/* The lane's columns of q or k, turned by RoPE. */
template <class S>
PFQ_DEVICE void wg_rope(const WgHead &h, float r, const float *gain, float (&v)[32])
{
    const int32_t other = h.part ^ S::PANELS, lower = h.part % S::PANELS * 32;
    const float sign = h.part < S::PANELS ? -1.0f : 1.0f;
    PFQ_UNROLL
    for (int32_t i = 0; i < 32; i += 4) {
        WgFour y = wg_four(h.y, 40 * other + i);
        const WgFour c[2] = {wg_turn(h, lower + i), wg_turn(h, lower + i + 2)};
        PFQ_UNROLL
        for (int32_t j = 0; j < 4; j++) {
            if (c_qk_norm) y.v[j] = y.v[j] * r * gain[32 * other + i + j];
            const float cosine = c[j / 2].v[j % 2 * 2], sine = c[j / 2].v[j % 2 * 2 + 1];
            const float x = v[i + j] * cosine, z = y.v[j] * sine;
            v[i + j] = fmaf(sign, z, x);
        }
    }
}

/* As head_hadamard: lanes beside each other are 32 and 64 columns apart. */
template <class S> PFQ_DEVICE void wg_hadamard(const WgHead &h, float (&v)[32])
{
    const float scale = 1.0f / sqrtf(64.0f * S::PANELS);
    PFQ_UNROLL
    for (int32_t i = 0; i < 32; i++)
        v[i] *= scale;
    PFQ_UNROLL
    for (int32_t s = 1; s < 32; s *= 2)
        pfq_butterflies<32>(v, s);
    PFQ_UNROLL
    for (int32_t s = 1; s < 2 * S::PANELS; s *= 2) {
        const float sign = h.part & s ? -1.0f : 1.0f;
        PFQ_UNROLL
        for (int32_t i = 0; i < 32; i++) {
            const float y = __shfl_xor_sync(~0u, v[i], s);
            v[i] = fmaf(sign, v[i], y);
        }
    }
}

/* ---- stores ---- */

/* 32 integers as bytes or, two a byte, the first in the low nibble, added to `zero`. */
PFQ_DEVICE void wg_put_ints(uint8_t *to, const int32_t (&q)[32], bool nibbles)
{
    PFQ_UNROLL
    for (int32_t i = 0; i < 32; i += 16) {
        uint32_t w[4];
        if (nibbles && i) break;
        PFQ_UNROLL
        for (int32_t j = 0; j < 4; j++) {
            w[j] = 0;
            PFQ_UNROLL
            for (int32_t b = 0; b < 8; b++) {
                if (nibbles)
                    w[j] |= (uint32_t)(q[8 * j + b] & 15) << 4 * b;
                else if (b < 4)
                    w[j] |= (uint32_t)(q[i + 4 * j + b] & 255) << 8 * b;
            }
        }
        *(uint4 *)(to + i) = make_uint4(w[0], w[1], w[2], w[3]);
    }
}

PFQ_DEVICE void wg_put_floats(float *to, const float (&v)[32])
{
    PFQ_UNROLL
    for (int32_t i = 0; i < 32; i += 4)
        *(WgFour *)(to + i) = {{v[i], v[i + 1], v[i + 2], v[i + 3]}};
}

PFQ_DEVICE void wg_put_halves(uint16_t *to, const float (&v)[32])
{
    PFQ_UNROLL
    for (int32_t i = 0; i < 32; i += 8)
        *(uint4 *)(to + i) =
            make_uint4(pfq_two_halves(v[i], v[i + 1]), pfq_two_halves(v[i + 2], v[i + 3]),
                       pfq_two_halves(v[i + 4], v[i + 5]), pfq_two_halves(v[i + 6], v[i + 7]));
}

PFQ_DEVICE void wg_put_q(const WgHead &h, float inv, const float (&v)[32])
{
    const PfqCudaArgs &a = *h.a;
    const int64_t at = (int64_t)h.head * c_head_dim + 32 * h.part;
    if (!c_q8) {
        wg_put_floats((float *)a.out[0] + (int64_t)h.t * c_heads * c_head_dim + at, v);
        return;
    }
    int32_t q[32];
    PFQ_UNROLL
    for (int32_t i = 0; i < 32; i++)
        q[i] = pfq_quant(v[i], inv, -c_q8, 127) + 128;
    wg_put_ints((uint8_t *)a.out[0] + (int64_t)h.t * pfq_up(c_heads * c_head_dim, 64) + at, q,
                false);
}

/* The scale and minimum of a token's head in a cache that has them per token: as kv_put. */
template <class S>
PFQ_DEVICE void wg_kv_scale(const WgHead &h, const KvOut &o, int64_t row, const float (&v)[32],
                            float *inv, float *minimum)
{
    const bool writes = h.part == 0 && h.t < h.a->T;
    float hi = -3e38f, lo = -3e38f;
    PFQ_UNROLL
    for (int32_t i = 0; i < 32; i++) {
        hi = fmaxf(hi, kv_minima() ? v[i] : fabsf(v[i]));
        lo = fmaxf(lo, -v[i]);
    }
    hi = wg_over<S>(hi, false);
    lo = -wg_over<S>(lo, false);
    if (!kv_minima()) {
        const float m = hi * c_kv_clip;
        if (writes) ((uint16_t *)o.scales)[row] = pfq_f_to_h(m / c_kv_top);
        *inv = m > 0.0f ? c_kv_top / m : 0.0f;
        return;
    }
    const uint16_t s = pfq_f_to_h((hi - lo) * c_kv_clip / c_kv_top);
    const uint16_t scale = s ? s : 0x3c00, m = pfq_f_to_h(lo * c_kv_clip);
    if (writes) {
        ((uint16_t *)o.scales)[row] = scale;
        ((uint16_t *)o.minima)[row] = m;
    }
    *inv = 1.0f / pfq_h_to_f(scale);
    *minimum = pfq_h_to_f(m);
}

template <class S> PFQ_DEVICE void wg_put_kv(const WgHead &h, float inv, const float (&v)[32])
{
    const PfqCudaArgs &a = *h.a;
    const int32_t kv = h.head - c_heads, which = kv >= c_kv_heads, g = kv - which * c_kv_heads;
    const PfqRow at = pfq_row(a, min(h.t, a.T - 1));
    const int64_t row = (int64_t)g * a.ctx + at.pos;
    const KvOut o = {pfq_slot(a, a.out[1 + which], at), pfq_slot(a, a.out[3 + 2 * which], at),
                     pfq_slot(a, a.out[4 + 2 * which], at), 0.0f};
    uint8_t *to = (uint8_t *)o.cache + row * kv_row() + h.part * (kv_row() / (2 * S::PANELS));
    if (!kv_ints()) {
        if (h.t >= a.T) return;
        if (c_kv == PFQ_KV_F16)
            wg_put_halves((uint16_t *)to, v);
        else
            wg_put_floats((float *)to, v);
        return;
    }
    float minimum = 0.0f;
    if (kv_scales()) wg_kv_scale<S>(h, o, row, v, &inv, &minimum);
    int32_t q[32];
    PFQ_UNROLL
    for (int32_t i = 0; i < 32; i++)
        q[i] = kv_round(v[i], inv, minimum);
    if (h.t < a.T) wg_put_ints(to, q, kv_nibbles());
}

/* All warps of the warpgroup come here together. */
template <class S> PFQ_DEVICE void wg_heads(const WgOut &o, float inv)
{
    constexpr int32_t parts = 2 * S::PANELS, tokens = 128 / parts;
    const PfqCudaArgs &a = *o.a;
    WgHead h = {&a, nullptr, o.row, o.row / (64 * S::PANELS), 0, o.me % parts};
    if (h.head >= c_heads + 2 * c_kv_heads) return;
    const bool turned = h.head < c_heads + c_kv_heads;
    const float *gain = (const float *)a.aux[h.head < c_heads ? 2 : 3];
    for (int32_t i = 0; i < o.tokens; i += tokens) {
        const int32_t in = min(i + o.me / parts, o.tokens - 1); /* a chunk may be less than this */
        float v[32];
        h.y = o.y + in * S::STRIDE;
        h.t = i + o.me / parts < o.tokens ? o.token + in : a.T;
        PFQ_UNROLL
        for (int32_t j = 0; j < 32; j += 4) {
            const WgFour y = wg_four(h.y, 40 * h.part + j);
            v[j] = y.v[0], v[j + 1] = y.v[1], v[j + 2] = y.v[2], v[j + 3] = y.v[3];
        }
        const float r = c_qk_norm && turned ? wg_norm<S>(v) : 1.0f;
        if (c_qk_norm && turned) {
            PFQ_UNROLL
            for (int32_t j = 0; j < 32; j++)
                v[j] = v[j] * r * gain[32 * h.part + j];
        }
        if (c_rot && turned && !wg_turns_early()) wg_rope<S>(h, r, gain, v);
        if (c_r3 && turned) wg_hadamard<S>(h, v);
        if (h.head >= c_heads)
            wg_put_kv<S>(h, inv, v);
        else if (h.t < a.T)
            wg_put_q(h, inv, v);
    }
}

#endif
