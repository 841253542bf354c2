/* Quantisation of one row of K f32 into the formats of ARCHITECTURE.md, "Activations a kernel
 * reads".
 *
 * s8 holds integers of up to 8 bits: q = clamp(round-half-even(x / s), c_qlo, c_qhi), s8 as well as
 * s4. Dynamic: s = c_clip * absmax / c_qtop, 0 for an all-zero row, whose integers are 0. Static: s
 * is given. Both multiply by 1 / s. s16 and s16g32 are dynamic: s = absmax / (127 * 256) of the row
 * or group (two s8 planes hold no more). `ints` is 64-byte aligned and has the stride of its
 * format; the source row is read only below K.
 */
#ifndef PFQC_CODEGEN_CPU_QUANTISE_H
#define PFQC_CODEGEN_CPU_QUANTISE_H

#include "kernel.h"

PFQ_CONST(int32_t, c_qlo);
PFQ_CONST(int32_t, c_qhi);
PFQ_CONST(float, c_qtop);
PFQ_CONST(float, c_clip);

/* Bytes of one row of integers. */
PFQ_INLINE int64_t quant_stride(int32_t fmt, int32_t K)
{
    if (fmt == PFQ_FMT_S8) return pfq_up(K, 64);
    return 2 * (int64_t)pfq_up(K, fmt == PFQ_FMT_S16 ? 64 : 32);
}

/* f32 scales per row. */
PFQ_INLINE int32_t quant_scales(int32_t fmt, int32_t K)
{
    return fmt == PFQ_FMT_S16G32 ? (K + 31) / 32 : 1;
}

PFQ_INLINE void store_bytes(uint8_t *p, I v)
{
    *(B16U *)p = __builtin_convertvector(v, B16);
}

/* The first n lanes (all if n > 16), nothing behind them. */
PFQ_INLINE void store_bytes_n(uint8_t *p, I v, int32_t n)
{
    const B16 b = __builtin_convertvector(v, B16);
    if (n >= 16) {
        *(B16U *)p = b;
        return;
    }
#if PFQ_VNNI
    _mm_mask_storeu_epi8(p, (__mmask16)((1u << n) - 1u), (__m128i)b);
#else
    for (int32_t i = 0; i < n; i++)
        ((volatile int8_t *)p)[i] = b[i];
#endif
}

PFQ_INLINE float row_absmax(const float *x, int32_t K)
{
    F m0 = f_set(0.0f), m1 = m0;
    int32_t k = 0;
    for (; k + 32 <= K; k += 32) {
        m0 = f_max(m0, f_abs(f_load(x + k)));
        m1 = f_max(m1, f_abs(f_load(x + k + 16)));
    }
    for (; k < K; k += 16)
        m0 = f_max(m0, f_abs(f_load_n(x + k, K - k)));
    return f_hmax(f_max(m0, m1));
}

/* 1 / s, 0 for 0: integers of a scale of 0 are 0. */
PFQ_INLINE float quant_inv(float s)
{
    return s > 0.0f ? 1.0f / s : 0.0f;
}

/* clamp(round(x * inv), lo, hi); clamped first, since the integers of large floats wrap. */
PFQ_INLINE I quant_clamp(F x, float inv, int32_t lo, int32_t hi)
{
    return i_round(f_min(f_max(x * f_set(inv), f_set((float)lo)), f_set((float)hi)));
}

/* 16 bytes x + 128 to p. */
PFQ_INLINE void quant_put(uint8_t *p, F x, float inv)
{
    store_bytes(p, quant_clamp(x, inv, c_qlo, c_qhi) + i_set(128));
}

/* n of them, and nothing behind. */
PFQ_INLINE void quant_put_n(uint8_t *p, F x, float inv, int32_t n)
{
    store_bytes_n(p, quant_clamp(x, inv, c_qlo, c_qhi) + i_set(128), n);
}

PFQ_INLINE void quant_row_static(const float *x, int32_t K, uint8_t *ints, float s)
{
    const float inv = quant_inv(s);
    for (int32_t k = 0; k < K; k += 16)
        quant_put(ints + k, f_load_n(x + k, K - k), inv);
}

PFQ_INLINE void quant_row_s8(const float *x, int32_t K, uint8_t *ints, float *scale)
{
    float m = row_absmax(x, K) * c_clip;
    *scale = m / c_qtop;
    const float inv = m > 0.0f ? c_qtop / m : 0.0f;
    for (int32_t k = 0; k < K; k += 16)
        quant_put(ints + k, f_load_n(x + k, K - k), inv);
}

PFQ_INLINE void quant_row_s16(const float *x, int32_t K, uint8_t *ints, float *scale)
{
    float m = row_absmax(x, K);
    *scale = m / 32512.0f;
    F inv = f_set(m > 0.0f ? 32512.0f / m : 0.0f);
    uint8_t *lo = ints + pfq_up(K, 64);
    for (int32_t k = 0; k < K; k += 16) {
        I v = i_round(f_load_n(x + k, K - k) * inv);
        store_bytes(ints + k, (v >> 8) + i_set(128));
        store_bytes(lo + k, v);
    }
}

PFQ_INLINE void quant_row_s16g32(const float *x, int32_t K, uint8_t *ints, float *scale)
{
    for (int32_t g = 0; g * 32 < K; g++) {
        F a = f_load_n(x + 32 * g, K - 32 * g);
        F b = f_load_n(x + 32 * g + 16, pfq_max(K - 32 * g - 16, 0));
        float m = f_hmax(f_max(f_abs(a), f_abs(b)));
        scale[g] = m / 32512.0f;
        F inv = f_set(m > 0.0f ? 32512.0f / m : 0.0f);
        I va = i_round(a * inv), vb = i_round(b * inv);
        I half = i_set(128); /* lo is signed, so hi = floor((v + 128) / 256) */
        store_bytes(ints + 64 * g, (va + half) >> 8);
        store_bytes(ints + 64 * g + 16, (vb + half) >> 8);
        store_bytes(ints + 64 * g + 32, va);
        store_bytes(ints + 64 * g + 48, vb);
    }
}

PFQ_INLINE void quant_row(int32_t fmt, const float *x, int32_t K, uint8_t *ints, float *scale)
{
    if (fmt == PFQ_FMT_S8)
        quant_row_s8(x, K, ints, scale);
    else if (fmt == PFQ_FMT_S16)
        quant_row_s16(x, K, ints, scale);
    else
        quant_row_s16g32(x, K, ints, scale);
}

#endif
