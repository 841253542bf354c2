/* What happens to one head of q, k or v after its projection: RMSNorm of the head, RoPE, R3, then a
 * row of f32 or s8, or the KV cache (kv.h). Shared by the qkv epilogue (linear.h) and the unfused
 * kernel (heads.c).
 */
#ifndef PFQC_CODEGEN_CPU_HEADS_H
#define PFQC_CODEGEN_CPU_HEADS_H

#include "kv.h"
#include "sylvester.h"

PFQ_CONST(int32_t, c_rot);
PFQ_CONST(int32_t, c_qk_norm);
PFQ_CONST(int32_t, c_prefix);
PFQ_CONST(int32_t, c_r3);
PFQ_CONST(int32_t, c_q8);
PFQ_CONST(float, c_eps);
PFQ_CONST(float, c_rope_scale);

/* Floats of cos (and of sin) of one token in a rope table. */
PFQ_INLINE int32_t rope_half(void)
{
    return pfq_up(c_rot / 2, 16);
}

/* table [2][rope_half] f32: cos then sin of position pos + c_prefix times freq[i], times
 * c_rope_scale. */
PFQ_INLINE void rope_table(float *table, const float *freq, int32_t pos)
{
    const int32_t half = rope_half();
    const double p = (double)(pos + c_prefix);
    for (int32_t i = 0; i < half; i += 16) {
        F f = f_load_n(freq + i, pfq_max(c_rot / 2 - i, 0));
        F8 s0, c0, s1, c1;
        d8_sincos(__builtin_convertvector(f_low(f), D8) * p, &s0, &c0);
        d8_sincos(__builtin_convertvector(f_high(f), D8) * p, &s1, &c1);
        f_store(table + i, f_join(c0, c1) * f_set(c_rope_scale));
        f_store(table + half + i, f_join(s0, s1) * f_set(c_rope_scale));
    }
}

/* RMSNorm with gain, in place, if c_qk_norm. */
PFQ_INLINE void head_norm(float *v, const float *gain)
{
    const int32_t D = c_head_dim;
    if (!c_qk_norm) return;
    F s = f_set(0.0f);
    for (int32_t i = 0; i < D; i += 16) {
        F x = f_load_n(v + i, D - i);
        s = f_fma(x, x, s);
    }
    F r = f_set(1.0f / __builtin_sqrtf(f_hsum(s) / (float)D + c_eps));
    for (int32_t i = 0; i < D; i += 16)
        f_store_n(v + i, f_load_n(v + i, D - i) * r * f_load_n(gain + i, D - i), D - i);
}

/* Rotates pairs (i, i + c_rot / 2) in place; table is this token's row of a rope table. */
PFQ_INLINE void head_rope(float *v, const float *table)
{
    const int32_t half = c_rot / 2;
    for (int32_t i = 0; i < half; i += 16) {
        int32_t n = half - i;
        F c = f_load(table + i), s = f_load(table + rope_half() + i);
        F x = f_load_n(v + i, n), y = f_load_n(v + half + i, n);
        f_store_n(v + i, x * c - y * s, n);
        f_store_n(v + half + i, y * c + x * s, n);
    }
}

PFQ_INLINE void head_copy(float *dst, const float *v)
{
    for (int32_t i = 0; i < c_head_dim; i += 16)
        f_store_n(dst + i, f_load_n(v + i, c_head_dim - i), c_head_dim - i);
}

/* H v, H = S / sqrt(c_head_dim), in place, if c_r3: a power of two up to 256. */
PFQ_INLINE void head_hadamard(float *v)
{
    if (c_r3) sylvester(v, v, 1.0f / __builtin_sqrtf((float)c_head_dim), c_head_dim);
}

/* The head as bytes q + 128 of format s8. */
PFQ_INLINE void head_quant(uint8_t *dst, const float *v, float scale)
{
    const float inv = quant_inv(scale);
    for (int32_t i = 0; i < c_head_dim; i += 16) {
        const I q = quant_clamp(f_load_n(v + i, c_head_dim - i), inv, -c_q8, 127);
        store_bytes_n(dst + i, q + i_set(128), c_head_dim - i);
    }
}

#endif
