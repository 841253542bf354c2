/* What both ways of attend.c (one token, many tokens) do with a row: reading queries, keys and
 * scales, adding the prefix, writing the result. Contract: attend.c.
 *
 * Integer scores: keys become u8 (what a cache holds as s8 plus 128, as s4 plus 8), queries are s8,
 * and the sum of a query's integers times 128 or 8 goes out again. Their products are taken in
 * quads of 4 columns of 16 keys: a dword of a row is one quad or, of nibbles, two: its 8 columns'
 * even ones (low nibbles) and odd ones. Queries are laid out in the same order.
 */
#ifndef PFQC_CODEGEN_CPU_ATTEND_H
#define PFQC_CODEGEN_CPU_ATTEND_H

#include "kv.h"
#include "lanes.h"

PFQ_CONST(int32_t, c_heads);
PFQ_CONST(int32_t, c_kv_heads);
PFQ_CONST(int32_t, c_window);
PFQ_CONST(int32_t, c_fmt);
PFQ_CONST(int32_t, c_q8);
PFQ_CONST(int32_t, c_prefix);
PFQ_CONST(float, c_scale);

#define NONE (-1e30f) /* below every score; -inf would make NaN of differences */

/* Columns of a head as the kernel keeps them: whole vectors. Also bytes of a query's integers. */
PFQ_INLINE int32_t dim16(void)
{
    return pfq_up(c_head_dim, 16);
}
PFQ_INLINE int32_t first_key(int32_t p)
{
    return c_window && p >= c_window ? p - c_window + 1 : 0;
}
/* Scores are integer products. */
PFQ_INLINE bool int_scores(void)
{
    return c_q8 && kv_ints();
}
/* Dwords of a row of a cache of integers, the last one perhaps not whole. */
PFQ_INLINE int32_t row_dwords(void)
{
    return ((int32_t)kv_row() + 3) / 4;
}
PFQ_INLINE int32_t row_quads(void)
{
    return row_dwords() * (kv_nibbles() ? 2 : 1);
}

/* What one kv head of a slot reads. */
typedef struct Kv {
    const char *k, *v;                 /* [ctx] rows */
    const uint16_t *ks, *km, *vs, *vm; /* [ctx] f16, if kv_scales, kv_minima */
    float k_scale, v_scale;            /* if c_kv_static, else 1 */
    int32_t head;
} Kv;

/* Of row t. */
PFQ_INLINE Kv kv_of(const PfqArgs *a, int64_t t, int32_t kv)
{
    const int64_t slot = pfq_slot(a, t), at = (int64_t)kv * a->ctx;
    Kv r = {(const char *)a->in[1] + slot + at * kv_row(),
            (const char *)a->in[2] + slot + at * kv_row(),
            (const uint16_t *)a->in[3] + slot / 2 + at,
            (const uint16_t *)a->in[4] + slot / 2 + at,
            (const uint16_t *)a->in[5] + slot / 2 + at,
            (const uint16_t *)a->in[6] + slot / 2 + at,
            1.0f,
            1.0f,
            kv};
    if (kv_ints() && c_kv_static) {
        r.k_scale = ((const float *)a->aux[2])[kv];
        r.v_scale = ((const float *)a->aux[3])[kv];
    }
    return r;
}

/* ---- queries ---- */

PFQ_INLINE int64_t s8_stride(void)
{
    return pfq_up(c_heads * c_head_dim, 64);
}

/* 16 integers of a query from column d on; columns past head_dim are 0. */
PFQ_INLINE B16 q_ints(const PfqArgs *a, int32_t t, int32_t h, int32_t d)
{
    const int32_t n = c_head_dim - d;
    const B16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const int8_t most = (int8_t)pfq_min(n, 16);
    const B16 mask = (B16)(lane < (B16){most, most, most, most, most, most, most, most, most, most,
                                        most, most, most, most, most, most});
    const uint8_t *row = (const uint8_t *)a->in[0] + t * s8_stride() + h * c_head_dim;
    return (load_bytes(row + d, n) ^ (int8_t)-128) & mask;
}

/* 16 columns of a query times c_scale. */
PFQ_INLINE F load_q(const PfqArgs *a, int32_t t, int32_t h, int32_t d)
{
    if (c_q8)
        return f_of_i(__builtin_convertvector(q_ints(a, t, h, d), I)) *
               f_set(((const float *)a->aux[4])[h] * c_scale);
    const float *row = (const float *)a->in[0] + ((int64_t)t * c_heads + h) * c_head_dim;
    return f_load_n(row + d, c_head_dim - d) * f_set(c_scale);
}

/* A query as integers in the order of quads, q[dim16]; returns their sum. */
PFQ_INLINE int32_t query_quads(const PfqArgs *a, int32_t t, int32_t h, int8_t *q)
{
    I sum = i_set(0);
    for (int32_t d = 0; d < c_head_dim; d += 16) {
        B16 b = q_ints(a, t, h, d);
        sum += __builtin_convertvector(b, I);
        if (kv_nibbles())
            b = __builtin_shufflevector(b, b, 0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
        *(B16U *)(q + d) = b;
    }
    return (int32_t)f_hsum(f_of_i(sum));
}

/* What was added to the keys' integers, times the sum of a query's. */
PFQ_INLINE int32_t quad_excess(int32_t sum)
{
    if (kv_unsigned()) return 0;
    return kv_nibbles() ? 8 * sum : 128 * sum;
}

/* ---- keys ---- */

/* The first n of 64 bytes, the others 0. */
PFQ_INLINE F load_row(const char *p, int32_t n)
{
    if (n >= 64) return f_load((const float *)p);
#if PFQ_VNNI
    return (F)_mm512_maskz_loadu_epi8(((__mmask64)1 << n) - 1, p);
#else
    B16 b[4] __attribute__((aligned(64)));
    PFQ_UNROLL for (int32_t i = 0; i < 4; i++) b[i] =
        n > 16 * i ? load_bytes(p + 16 * i, n - 16 * i) : (B16){0};
    return f_load((const float *)b);
#endif
}

/* Dwords [at, at + 16) of the rows of keys j .. j + 15, of which those past `last` repeat it: v[i]
 * is dword at + i of all of them. Dwords past the row are 0. */
PFQ_INLINE void key_dwords(const char *k, int32_t j, int32_t last, int32_t at, F v[16])
{
    const int32_t bytes = (int32_t)kv_row() - 4 * at;
    const char *row[16];
    PFQ_UNROLL for (int32_t i = 0; i < 16; i++) row[i] =
        k + pfq_min(j + i, last) * kv_row() + 4 * at;
    if (bytes > 32) {
        PFQ_UNROLL for (int32_t i = 0; i < 16; i++) v[i] = load_row(row[i], bytes);
        transpose16(v);
        return;
    }
    PFQ_UNROLL for (int32_t i = 0; i < 8; i++)
    {
        if (bytes == 32)
            v[i] = f_join(*(const F8U *)row[i], *(const F8U *)row[i + 8]);
        else
            v[i] = f_join(f_low(load_row(row[i], bytes)), f_low(load_row(row[i + 8], bytes)));
        v[i + 8] = f_set(0.0f);
    }
    transpose8(v);
}

/* The quads of a dword: one, or the even (half 0) and the odd columns. */
PFQ_INLINE I quad(F dword, int32_t half)
{
    I v = (I)dword;
    if (!kv_unsigned()) v ^= i_set((int32_t)(kv_nibbles() ? 0x88888888 : 0x80808080));
    if (!kv_nibbles()) return v;
    return (half ? v >> 4 : v) & i_set(0x0f0f0f0f);
}

/* acc[i] + the sum of 4 products of bytes 4i .. 4i + 3, u8 of k with s8 of q; exact. */
PFQ_INLINE I dot_quads(I acc, I k, I q)
{
#if PFQ_VNNI
    return (I)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)k, (__m512i)q);
#else
    __m256i sum[2];
    PFQ_UNROLL for (int32_t i = 0; i < 2; i++)
    {
        const __m256i x = (__m256i)(i ? f_high((F)k) : f_low((F)k));
        const __m256i y = (__m256i)(i ? f_high((F)q) : f_low((F)q));
        if (kv_nibbles()) { /* at most 2 * 15 * 128: does not saturate */
            sum[i] = _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), _mm256_set1_epi16(1));
        } else {
            const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(y, 8), 8);
            sum[i] = _mm256_add_epi32(
                _mm256_madd_epi16(_mm256_and_si256(x, _mm256_set1_epi16(255)), even),
                _mm256_madd_epi16(_mm256_srli_epi16(x, 8), _mm256_srai_epi16(y, 8)));
        }
    }
    return acc + (I)f_join((F8)sum[0], (F8)sum[1]);
#endif
}

/* Scores from products with 16 keys of these scales and minima. factor and sum (of the elements)
 * are those of the query. */
PFQ_INLINE F scored(F products, F scales, F minima, float factor, float sum)
{
    if (!kv_ints()) return products;
    if (kv_scales()) products *= scales;
    if (kv_minima()) products = f_fma(minima, f_set(sum), products);
    return products * f_set(factor);
}

/* ---- the end of a row ---- */

/* Adds the prefix to the softmax state of a row: o[dim16], the largest score and the sum. */
PFQ_INLINE void add_prefix(const PfqArgs *a, int32_t kv, int32_t t, int32_t h, float *o, float *top,
                           float *sum)
{
    const int32_t D = c_head_dim, stride = c_kv_heads * D;
    const uint16_t *keys = (const uint16_t *)a->aux[0] + kv * D;
    const uint16_t *values = (const uint16_t *)a->aux[1] + kv * D;
    for (int32_t j = 0; j < c_prefix; j += 16) {
        const int32_t n = pfq_min(16, c_prefix - j);
        float p[16] __attribute__((aligned(64)));
        f_store(p, f_set(NONE));
        for (int32_t i = 0; i < n; i++) {
            F s = f_set(0.0f);
            for (int32_t d = 0; d < D; d += 16)
                s = f_fma(load_q(a, t, h, d), load_halves(keys + (j + i) * stride + d, D - d), s);
            p[i] = f_hsum(s);
        }
        const F x = f_load(p);
        const float most = f_hmax(x), m = most > *top ? most : *top;
        const F e = f_exp(x - f_set(m)), corr = f_exp(f_set(*top - m));
        f_store(p, e);
        *top = m;
        *sum = *sum * corr[0] + f_hsum(e);
        for (int32_t d = 0; d < D; d += 16) {
            F v = f_load(o + d) * corr;
            for (int32_t i = 0; i < n; i++)
                v = f_fma(f_set(p[i]), load_halves(values + (j + i) * stride + d, D - d), v);
            f_store(o + d, v);
        }
    }
}

/* o[dim16], the sum of probabilities times values as they are in the cache, to the result of head h
 * of token t. minima is the sum of probabilities times minima. */
PFQ_INLINE void finish_row(const PfqArgs *a, const Kv *kv, int32_t t, int32_t h, float *o,
                           float top, float sum, float minima)
{
    const int32_t D = c_head_dim;
    if (kv_ints())
        for (int32_t d = 0; d < D; d += 16)
            f_store(o + d, f_fma(f_load(o + d), f_set(kv->v_scale), f_set(minima)));
    add_prefix(a, kv->head, t, h, o, &top, &sum);
    float factor = 1.0f / sum;
    uint8_t *ints = (uint8_t *)a->out[0] + t * s8_stride() + h * D;
    float *floats = (float *)a->out[0] + ((int64_t)t * c_heads + h) * D;
    if (c_fmt == PFQ_FMT_S8) factor *= quant_inv(*(const float *)a->aux[5]);
    for (int32_t d = 0; d < D; d += 16) {
        if (c_fmt == PFQ_FMT_S8)
            quant_put_n(ints + d, f_load(o + d), factor, D - d);
        else
            f_store_n(floats + d, f_load(o + d) * f_set(factor), D - d);
    }
}

#endif
