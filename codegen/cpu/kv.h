/* Rows of a KV cache in every format of c_kv: their size, 16 columns as f32, writing one.
 *
 * A cache is [kv heads][ctx][c_head_dim]; rows of s8 and u8 are bytes, of s4 and u4 half bytes,
 * element 2i in the low nibble. What an integer u of a quantised cache stands for is u * scale +
 * minimum, of its head (c_kv_static) or of its token and head; only u8 and u4 have minima.
 *
 * Nothing is read or written past the end of a row. c_head_dim is even.
 */
#ifndef PFQC_CODEGEN_CPU_KV_H
#define PFQC_CODEGEN_CPU_KV_H

#include "quantise.h"

PFQ_CONST(int32_t, c_head_dim);
PFQ_CONST(int32_t, c_kv);
PFQ_CONST(int32_t, c_kv_static);
PFQ_CONST(int32_t, c_kv_lo);
PFQ_CONST(float, c_kv_top);
PFQ_CONST(float, c_kv_clip);

/* Values of c_kv. */
enum { KV_F32 = 0, KV_F16 = 1, KV_S8 = 2, KV_S4 = 3, KV_U8 = 4, KV_U4 = 5 };

typedef uint32_t U __attribute__((vector_size(64)));
typedef int64_t L8 __attribute__((vector_size(64)));
typedef int8_t B8 __attribute__((vector_size(8)));
typedef B8 B8U __attribute__((aligned(1), may_alias));
typedef uint8_t UB16 __attribute__((vector_size(16)));

PFQ_INLINE bool kv_ints(void)
{
    return c_kv >= KV_S8;
}
PFQ_INLINE bool kv_nibbles(void)
{
    return c_kv == KV_S4 || c_kv == KV_U4;
}
PFQ_INLINE bool kv_unsigned(void)
{
    return c_kv >= KV_U8;
}
/* Quantised with a scale, and with a minimum, per token and head. */
PFQ_INLINE bool kv_scales(void)
{
    return kv_ints() && !c_kv_static;
}
PFQ_INLINE bool kv_minima(void)
{
    return kv_scales() && kv_unsigned();
}

PFQ_INLINE int64_t kv_row(void)
{
    if (kv_ints()) return kv_nibbles() ? c_head_dim / 2 : c_head_dim;
    return (int64_t)c_head_dim * (c_kv == KV_F16 ? 2 : 4);
}

/* ---- reading ---- */

/* The first n of 16 bytes, the others 0. */
PFQ_INLINE B16 load_bytes(const void *p, int32_t n)
{
    if (n >= 16) return *(const B16U *)p;
#if PFQ_VNNI
    return (B16)_mm_maskz_loadu_epi8((__mmask16)((1u << n) - 1u), p);
#else
    int8_t b[16] __attribute__((aligned(16))) = {0};
    for (int32_t i = 0; i < n; i++)
        b[i] = ((const volatile int8_t *)p)[i];
    return *(const B16U *)b;
#endif
}

/* The first n of 16 f16, the others 0. */
PFQ_INLINE F load_halves(const uint16_t *p, int32_t n)
{
    if (n >= 16) return f_load_h(p);
    uint16_t h[16] __attribute__((aligned(32))) = {0};
    for (int32_t i = 0; i < n; i++)
        h[i] = ((const volatile uint16_t *)p)[i];
    return f_load_h(h);
}

/* 16 nibbles of 8 bytes, in order: lane i has nibble i in its lowest bits and others above it. */
PFQ_INLINE I nibble_lanes(const char *p, int32_t bytes)
{
    const I shift = {0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28};
    I both;
    if (bytes >= 8) {
        const int32_t lo = ((const I32U *)p)[0], hi = ((const I32U *)p)[1];
        both = (I){lo, lo, lo, lo, lo, lo, lo, lo, hi, hi, hi, hi, hi, hi, hi, hi};
    } else {
        I b = (I)f_join((F8)__builtin_shufflevector(load_bytes(p, bytes), (B16){0}, 0, 1, 2, 3, 4,
                                                    5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17,
                                                    18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29,
                                                    30, 31),
                        (F8){0});
        both = __builtin_shufflevector(b, b, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    }
    return (I)((U)both >> (U)shift);
}

/* Integers of lanes whose lowest 4 bits are a nibble. */
PFQ_INLINE F nibbles_to_f(I v)
{
#if PFQ_VNNI
    const F table = kv_unsigned() ? (F){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
                                  : (F){0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1};
    return (F)_mm512_permutexvar_ps((__m512i)v, (__m512)table);
#else
    return f_of_i(kv_unsigned() ? v & i_set(15) : (v << 28) >> 28);
#endif
}

PFQ_INLINE F load_nibbles(const char *p, int32_t bytes)
{
    return nibbles_to_f(nibble_lanes(p, bytes));
}

/* 16 of 64 nibbles at p (32 bytes), i < 4, in an order that costs least: lane l is column
 * 8 (l % 8) + 2 i + l / 8. */
PFQ_INLINE F load_mixed(const char *p, int32_t i)
{
    const F8 half = *(const F8U *)p;
    const I low = i_set(8 * i), high = i_set(8 * i + 4);
    const I shift = (I)f_join(f_low((F)low), f_low((F)high));
    return nibbles_to_f((I)((U)f_join(half, half) >> (U)shift));
}

/* Where load_mixed's order has column c of 64. */
PFQ_INLINE int32_t mixed_column(int32_t c)
{
    return c % 8 / 2 * 16 + c % 2 * 8 + c / 8;
}

/* 16 columns from d on of a row as f32, of integers the integers; columns past c_head_dim are 0. */
PFQ_INLINE F load_kv(const char *row, int32_t d)
{
    const int32_t n = c_head_dim - d;
    if (c_kv == KV_F32) return f_load_n((const float *)row + d, n);
    if (c_kv == KV_F16) return load_halves((const uint16_t *)row + d, n);
    if (kv_nibbles()) return load_nibbles(row + d / 2, pfq_min(n, 16) / 2);
    const B16 b = load_bytes(row + d, n);
    return f_of_i(kv_unsigned() ? __builtin_convertvector((UB16)b, I)
                                : __builtin_convertvector(b, I));
}

/* ---- writing ---- */

/* The first n lanes of v to column i of a row of f16, rounded to nearest even. */
PFQ_INLINE void store_halves(uint16_t *p, F v, int32_t n)
{
    uint16_t h[16] __attribute__((aligned(32)));
    F8 lo = f_low(v), hi = f_high(v);
    _mm_store_si128((__m128i *)h, _mm256_cvtps_ph((__m256)lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_store_si128((__m128i *)h + 1, _mm256_cvtps_ph((__m256)hi, _MM_FROUND_TO_NEAREST_INT));
    if (n >= 16) {
        _mm256_storeu_si256((__m256i *)p, _mm256_load_si256((const __m256i *)h));
        return;
    }
    for (int32_t j = 0; j < n; j++) /* volatile: the loop must not become a call of memcpy */
        ((volatile uint16_t *)p)[j] = h[j];
}

/* The first n of 16 integers as nibbles, n even. */
PFQ_INLINE void store_nibbles(uint8_t *p, I v, int32_t n)
{
    L8 pairs = (L8)(v & i_set(15));
    pairs |= pairs >> 28; /* byte 0: the even lane, above it the odd one */
    const B8 b = __builtin_convertvector(pairs, B8);
    if (n >= 16) {
        *(B8U *)p = b;
        return;
    }
    for (int32_t i = 0; i < n / 2; i++)
        ((volatile int8_t *)p)[i] = b[i];
}

/* v[c_head_dim] as integers round(v * inv + shift), clamped. */
PFQ_INLINE void kv_put_ints(uint8_t *row, const float *v, float inv, float minimum)
{
    const int32_t D = c_head_dim,
                  hi = kv_unsigned() ? (kv_nibbles() ? 15 : 255) : (kv_nibbles() ? 7 : 127);
    for (int32_t i = 0; i < D; i += 16) {
        F x = f_load_n(v + i, D - i);
        if (kv_minima()) x -= f_set(minimum);
        const I q = quant_clamp(x, inv, kv_unsigned() ? 0 : c_kv_lo, hi);
        if (kv_nibbles())
            store_nibbles(row + i / 2, q, D - i);
        else
            store_bytes_n(row + i, q, D - i);
    }
}

/* Least and greatest of v[c_head_dim]. */
PFQ_INLINE void kv_range(const float *v, float *least, float *greatest)
{
    const int32_t D = c_head_dim;
    F lo = f_set(v[0]), hi = lo;
    for (int32_t i = 0; i < D; i += 16) {
        const F x = f_sel(i_lanes() < i_set(D - i), f_load_n(v + i, D - i), f_set(v[0]));
        lo = f_min(lo, x);
        hi = f_max(hi, x);
    }
    *least = -f_hmax(-lo);
    *greatest = f_hmax(hi);
}

/* Where a key or value of one token and head goes. */
typedef struct KvOut {
    char *cache;
    uint16_t *scales, *minima; /* [kv heads][ctx] f16, dynamic */
    float scale;               /* static */
} KvOut;

/* Row t's part of what the operands cache, scales and minima are. */
PFQ_INLINE KvOut kv_out(const PfqArgs *a, int64_t t, void *cache, void *scales, void *minima)
{
    const int64_t slot = pfq_slot(a, t);
    KvOut o = {.cache = (char *)cache + slot};
    if (kv_scales()) o.scales = (uint16_t *)((char *)scales + slot);
    if (kv_minima()) o.minima = (uint16_t *)((char *)minima + slot);
    return o;
}

/* v[c_head_dim] to row `row` of a cache, counted over all heads. */
PFQ_INLINE void kv_put(const KvOut *o, int64_t row, const float *v)
{
    char *d = o->cache + row * kv_row();
    if (!kv_ints()) {
        for (int32_t i = 0; i < c_head_dim; i += 16) {
            const F x = f_load_n(v + i, c_head_dim - i);
            if (c_kv == KV_F16)
                store_halves((uint16_t *)d + i, x, c_head_dim - i);
            else
                f_store_n((float *)d + i, x, c_head_dim - i);
        }
        return;
    }
    float inv = quant_inv(o->scale), minimum = 0.0f;
    if (kv_minima()) {
        float lo, hi;
        kv_range(v, &lo, &hi);
        const uint16_t s = f_to_h((hi - lo) * c_kv_clip / c_kv_top), m = f_to_h(lo * c_kv_clip);
        o->scales[row] = s ? s : 0x3c00; /* 1 */
        o->minima[row] = m;
        inv = 1.0f / h_to_f(o->scales[row]);
        minimum = h_to_f(m);
    } else if (kv_scales()) {
        const float m = row_absmax(v, c_head_dim) * c_kv_clip;
        o->scales[row] = f_to_h(m / c_kv_top);
        inv = m > 0.0f ? c_kv_top / m : 0.0f;
    }
    kv_put_ints((uint8_t *)d, v, inv, minimum);
}

#endif
