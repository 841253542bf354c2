/* What every CPU kernel template shares: constants, vector types, small mathematics, division of
 * work.
 *
 * A template is one C file that defines one or more entries of type PfqKernel (runtime/abi.h).
 * pfqc's build compiles it to LLVM bitcode once per ISA variant; a model's compile gives the
 * constants (PFQ_CONST) their values and optimises again, so a branch on a constant costs nothing.
 * The same files compile as ordinary C when the constants are defined in front of them, which is
 * what out/src contains and tests/kernels does.
 *
 * Rules of a template:
 *   - it calls nothing outside itself: no libc, no libm (a test looks for undefined symbols);
 *   - it divides its own work by (tid, nt), and no result depends on nt;
 *   - packed weights, caches, activation buffers and a->scratch start 64-byte aligned; nothing is
 * read in front of a buffer, and behind one only where the contract says so;
 *   - vectors are 16 lanes of f32 on every ISA (clang splits them in two on AVX2), so that only
 * integer dot products are written twice. Layouts of weights and activations: ARCHITECTURE.md,
 * "Packed weights" and "Activations a kernel reads". Not here: linears (linear.h), quantising
 * (quantise.h).
 */
#ifndef PFQC_CODEGEN_CPU_KERNEL_H
#define PFQC_CODEGEN_CPU_KERNEL_H

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/abi.h"

/* Tests compile the templates with PFQ_CONST(type, name) = `extern type name`, to set shapes at run
 * time. */
#ifndef PFQ_CONST
#define PFQ_CONST(type, name) extern const type name
#endif

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define PFQ_VNNI 1
#else
#define PFQ_VNNI 0
#endif

#define PFQ_INLINE static inline __attribute__((always_inline, unused))
#define PFQ_UNROLL _Pragma("clang loop unroll(full)")
#define PFQ_ROLLED _Pragma("clang loop unroll(disable)")
#pragma clang diagnostic ignored "-Wpsabi" /* vectors are passed to inlined functions only */

/* Formats of activations; values of c_fmt. */
enum { PFQ_FMT_F32 = 0, PFQ_FMT_S8 = 1, PFQ_FMT_S16 = 2, PFQ_FMT_S16G32 = 3 };

/* Activation functions; values of c_act. */
enum { PFQ_ACT_SILU = 0, PFQ_ACT_GELU_TANH = 1, PFQ_ACT_GELU = 2 };

/* ---- vectors ---- */

typedef float F __attribute__((vector_size(64)));    /* 16 f32 */
typedef int32_t I __attribute__((vector_size(64)));  /* 16 i32, also a lane mask (0 or -1) */
typedef int8_t B16 __attribute__((vector_size(16))); /* 16 bytes */
typedef float F8 __attribute__((vector_size(32)));
typedef int32_t I8 __attribute__((vector_size(32)));
typedef double D8 __attribute__((vector_size(64))); /* 8 f64 */
typedef F FU __attribute__((aligned(4), may_alias));
typedef F8 F8U __attribute__((aligned(4), may_alias));
typedef B16 B16U __attribute__((aligned(1), may_alias));
typedef int32_t I32U __attribute__((aligned(1), may_alias));

PFQ_INLINE F f_set(float x)
{
    return (F){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}
PFQ_INLINE I i_set(int32_t x)
{
    return (I){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}
PFQ_INLINE I i_lanes(void)
{
    return (I){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
}
PFQ_INLINE F f_load(const float *p)
{
    return *(const FU *)p;
}
PFQ_INLINE void f_store(float *p, F v)
{
    *(FU *)p = v;
}
PFQ_INLINE F f_fma(F a, F b, F c)
{
    return __builtin_elementwise_fma(a, b, c);
}
PFQ_INLINE F f_max(F a, F b)
{
    return __builtin_elementwise_max(a, b);
}
PFQ_INLINE F f_min(F a, F b)
{
    return __builtin_elementwise_min(a, b);
}
PFQ_INLINE F f_abs(F a)
{
    return __builtin_elementwise_abs(a);
}
PFQ_INLINE F f_sel(I m, F a, F b)
{
    return (F)((m & (I)a) | (~m & (I)b));
}
PFQ_INLINE F f_of_i(I v)
{
    return __builtin_convertvector(v, F);
}

PFQ_INLINE F8 f_low(F v)
{
    return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
}
PFQ_INLINE F8 f_high(F v)
{
    return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
}
PFQ_INLINE F f_join(F8 a, F8 b)
{
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

/* The first n lanes (n >= 0); the others are 0 and their memory is not touched. */
PFQ_INLINE F f_load_n(const float *p, int32_t n)
{
    if (n >= 16) return f_load(p);
#ifdef __AVX512F__
    return (F)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
#else
    F m = (F)(i_lanes() < i_set(n));
    return f_join((F8)_mm256_maskload_ps(p, (__m256i)f_low(m)),
                  (F8)_mm256_maskload_ps(p + 8, (__m256i)f_high(m)));
#endif
}

PFQ_INLINE void f_store_n(float *p, F v, int32_t n)
{
    if (n >= 16) {
        f_store(p, v);
        return;
    }
#ifdef __AVX512F__
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), (__m512)v);
#else
    F m = (F)(i_lanes() < i_set(n));
    _mm256_maskstore_ps(p, (__m256i)f_low(m), (__m256)f_low(v));
    _mm256_maskstore_ps(p + 8, (__m256i)f_high(m), (__m256)f_high(v));
#endif
}

/* 16 f16 at p (32 bytes, any alignment) as f32. */
PFQ_INLINE F f_load_h(const void *p)
{
#ifdef __AVX512F__
    return (F)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#else
    return f_join((F8)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                  (F8)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p + 1)));
#endif
}

PFQ_INLINE float h_to_f(uint16_t h)
{
    return _cvtsh_ss(h);
}
PFQ_INLINE uint16_t f_to_h(float x)
{
    return (uint16_t)_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
}

/* Round to nearest even and convert; |v| < 2^31. */
PFQ_INLINE I i_round(F v)
{
#ifdef __AVX512F__
    return (I)_mm512_cvtps_epi32((__m512)v);
#else
    return (I)f_join((F8)_mm256_cvtps_epi32((__m256)f_low(v)),
                     (F8)_mm256_cvtps_epi32((__m256)f_high(v)));
#endif
}

PFQ_INLINE float f_hsum(F v)
{
    F8 a = f_low(v) + f_high(v);
    a += __builtin_shufflevector(a, a, 4, 5, 6, 7, 4, 5, 6, 7);
    a += __builtin_shufflevector(a, a, 2, 3, 2, 3, 2, 3, 2, 3);
    return a[0] + a[1];
}

PFQ_INLINE float f_hmax(F v)
{
    F8 a = __builtin_elementwise_max(f_low(v), f_high(v));
    a = __builtin_elementwise_max(a, __builtin_shufflevector(a, a, 4, 5, 6, 7, 4, 5, 6, 7));
    a = __builtin_elementwise_max(a, __builtin_shufflevector(a, a, 2, 3, 2, 3, 2, 3, 2, 3));
    return a[0] > a[1] ? a[0] : a[1];
}

/* exp(x): relative error below 2^-22; 0 below -87.3, exp(88) above 88. Range reduction by ln2 in
 * two parts and a polynomial of degree 7 on |r| <= ln2 / 2 (the coefficients of Cephes' expf). */
PFQ_INLINE F f_exp(F x)
{
    F c = f_min(f_max(x, f_set(-87.3f)), f_set(88.0f));
    F n = __builtin_elementwise_rint(c * f_set(1.44269504f));
    F r = f_fma(n, f_set(-0.693359375f), c);
    r = f_fma(n, f_set(2.12194440e-4f), r);
    F p = f_set(1.9875691500e-4f);
    p = f_fma(p, r, f_set(1.3981999507e-3f));
    p = f_fma(p, r, f_set(8.3334519073e-3f));
    p = f_fma(p, r, f_set(4.1665795894e-2f));
    p = f_fma(p, r, f_set(1.6666665459e-1f));
    p = f_fma(p, r, f_set(5.0000001201e-1f));
    p = f_fma(p, r * r, r) + f_set(1.0f);
    F y = (F)((I)p + (i_round(n) << 23));
    return f_sel(x < f_set(-87.3f), f_set(0.0f), y);
}

PFQ_INLINE F f_silu(F x)
{
    return x / (f_set(1.0f) + f_exp(-x));
}

/* gelu with tanh: 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3). */
PFQ_INLINE F f_gelu_tanh(F x)
{
    F u = f_set(1.5957691216f) * f_fma(f_set(0.044715f) * x * x, x, x);
    return x / (f_set(1.0f) + f_exp(-u));
}

/* gelu with erf; erf by Abramowitz and Stegun 7.1.26, absolute error below 2e-7. */
PFQ_INLINE F f_gelu(F x)
{
    F z = f_abs(x) * f_set(0.70710678f);
    F t = f_set(1.0f) / f_fma(f_set(0.3275911f), z, f_set(1.0f));
    F p = f_set(1.061405429f);
    p = f_fma(p, t, f_set(-1.453152027f));
    p = f_fma(p, t, f_set(1.421413741f));
    p = f_fma(p, t, f_set(-0.284496736f));
    p = f_fma(p, t, f_set(0.254829592f));
    F e = f_set(1.0f) - p * t * f_exp(-z * z);
    return f_set(0.5f) * x * (f_set(1.0f) + f_sel(x < f_set(0.0f), -e, e));
}

PFQ_INLINE F f_act(int32_t act, F x)
{
    if (act == PFQ_ACT_GELU_TANH) return f_gelu_tanh(x);
    return act == PFQ_ACT_GELU ? f_gelu(x) : f_silu(x);
}

/* sin and cos of 8 angles in f64, |angle| < 2^30; absolute error below 1e-7 (the results are f32).
 */
PFQ_INLINE void d8_sincos(D8 x, F8 *sin_out, F8 *cos_out)
{
    D8 n = __builtin_elementwise_rint(x * 0.63661977236758134308);
    D8 r = __builtin_elementwise_fma(n, (D8){0} - 1.5707963267948965580, x);
    r = __builtin_elementwise_fma(n, (D8){0} - 6.1232339957367658e-17, r);
    D8 z = r * r;
    D8 s = z * (1.0 / 362880) - 1.0 / 5040;
    s = s * z + 1.0 / 120;
    s = s * z - 1.0 / 6;
    s = s * z * r + r;
    D8 c = z * (-1.0 / 3628800) + 1.0 / 40320;
    c = c * z - 1.0 / 720;
    c = c * z + 1.0 / 24;
    c = c * z - 0.5;
    c = c * z + 1.0;
    F8 sf = __builtin_convertvector(s, F8), cf = __builtin_convertvector(c, F8);
    I8 q = __builtin_convertvector(n, I8);
    I8 odd = -(q & 1);
    I8 a = (odd & (I8)cf) | (~odd & (I8)sf), b = (odd & (I8)sf) | (~odd & (I8)cf);
    *sin_out = (F8)(a ^ ((q & 2) << 30));
    *cos_out = (F8)(b ^ (((q + 1) & 2) << 30));
}

/* ---- work and memory ---- */

PFQ_INLINE int32_t pfq_min(int32_t a, int32_t b)
{
    return a < b ? a : b;
}
PFQ_INLINE int32_t pfq_max(int32_t a, int32_t b)
{
    return a > b ? a : b;
}
PFQ_INLINE int32_t pfq_up(int32_t x, int32_t m)
{
    return (x + m - 1) / m * m;
}

/* Thread tid's contiguous share [*b, *e) of n items. */
PFQ_INLINE void pfq_split(int64_t n, int tid, int nt, int64_t *b, int64_t *e)
{
    *b = n * tid / nt;
    *e = n * (tid + 1) / nt;
}

/* Position of row t in its sequence, and what is added to cache operands to reach its slot. */
PFQ_INLINE int32_t pfq_pos(const PfqArgs *a, int64_t t)
{
    return a->rows ? a->rows[t].pos : a->pos + (int32_t)t;
}
PFQ_INLINE int64_t pfq_slot(const PfqArgs *a, int64_t t)
{
    return a->rows ? (int64_t)a->slot * a->rows[t].slot : 0;
}

#endif
