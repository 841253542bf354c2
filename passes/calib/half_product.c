/* Products of operands that are rounded to bf16, summed in f32.
 *
 * With AVX512_BF16: x is rounded once, rows k by pairs; PANEL rows of w become columns of pairs,
 * which stay in the second-level cache while all rows of x pass; a tile of TILE x PANEL sums is in
 * registers. 219 GFLOP/s on one core of Zen 4 where sgemm has 100 (512 rows, K 576 and 1536; of a
 * peak of 234), as much as oneDNN 2.6.3 (211-221), which would bring OpenMP and OpenCL along.
 * Without: sgemm of the rounded operands, the same but for the order of sums (and for subnormals,
 * which the instruction takes for zero).
 */
#include "passes/calib/calib_int.h"
#include "passes/wide.h"

#include "ir/base/half.h"

#include <cblas.h>

WIDE static void round_n(const float *x, i64 n, float *y)
{
    for (i64 i = 0; i < n; i++)
        y[i] = bf16_to_f32(f32_to_bf16(x[i]));
}

void half_product_plain(Eval *e, const Product *p)
{
    float *x = ev_scratch(e, p->rows * p->k, sizeof *x), *w = ev_scratch(e, p->n * p->k, sizeof *w);
    round_n(p->x, p->rows * p->k, x);
    round_n(p->w, p->n * p->k, w);
    Product rounded = *p;
    rounded.x = x, rounded.w = w;
    product(e, &rounded);
}

#if defined(__x86_64__)
#include <immintrin.h>

#define BF16   __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#define INLINE static inline __attribute__((always_inline))

enum {
    LANES = 16,
    TILE = 8,    /* rows of x */
    VECTORS = 3, /* of columns: 24 sums and 3 operands of 32 registers */
    PANEL = VECTORS * LANES,
};

INLINE BF16 __mmask16 first(i64 n)
{
    return (__mmask16)(n >= LANES ? 0xffff : n > 0 ? (1 << n) - 1 : 0);
}

/* Up to 32 elements as 16 pairs; what is missing is zero. */
INLINE BF16 __m512i narrow(const float *x, i64 n)
{
    __m512 lo = _mm512_maskz_loadu_ps(first(n), x),
           hi = _mm512_maskz_loadu_ps(first(n - LANES), x + LANES);
    return (__m512i)_mm512_cvtne2ps_pbh(hi, lo);
}

BF16 static void narrow_row(const float *x, i64 n, u32 *pair)
{
    for (i64 i = 0; i < n; i += 2 * LANES)
        _mm512_mask_storeu_epi32(pair + i / 2, first((n - i + 1) / 2), narrow(x + i, n - i));
}

/* 16 x 16: bit h of the index of vectors changes places with that of lanes. */
INLINE BF16 void turn(__m512i *v)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                  other = _mm512_set1_epi32(LANES); /* lanes of the second vector */
#pragma GCC unroll 4
    for (int h = 1; h < LANES; h *= 2) {
        const __m512i bit = _mm512_set1_epi32(h), flip = _mm512_xor_si512(lane, bit);
        const __mmask16 set = _mm512_test_epi32_mask(lane, bit);
        const __m512i low = _mm512_mask_or_epi32(lane, set, flip, other),
                      high = _mm512_mask_or_epi32(flip, set, lane, other);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            if (i & h) continue;
            const __m512i a = v[i], b = v[i | h];
            v[i] = _mm512_permutex2var_epi32(a, low, b);
            v[i | h] = _mm512_permutex2var_epi32(a, high, b);
        }
    }
}

/* Rows [0, n) of w, at most PANEL, as columns: pair p of column j at p * PANEL + j, for as many
 * pairs as make whole vectors; columns that are missing are zero. */
BF16 static void pack_panel(const float *w, i64 n, i64 k, u32 *panel)
{
    for (i64 j = 0; j < PANEL; j += LANES)
        for (i64 i = 0; i < k; i += 2 * LANES) {
            __m512i v[LANES];
#pragma GCC unroll 16
            for (int c = 0; c < LANES; c++)
                v[c] = j + c < n ? narrow(w + (j + c) * k + i, k - i) : _mm512_setzero_si512();
            turn(v);
#pragma GCC unroll 16
            for (int p = 0; p < LANES; p++)
                _mm512_storeu_si512(panel + (i / 2 + p) * PANEL + j, v[p]);
        }
}

/* y[rows, n) = x[TILE, pairs] panel; rows <= TILE, n <= PANEL. */
BF16 static void tile(const u32 *x, i64 pairs, const u32 *panel, i64 rows, i64 n, float *y,
                      i64 stride)
{
    __m512 sum[TILE][VECTORS] = {0};
    for (i64 p = 0; p < pairs; p++) {
        __m512i b[VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++)
            b[v] = _mm512_loadu_si512(panel + p * PANEL + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < TILE; r++) {
            __m512i a = _mm512_set1_epi32((i32)x[r * pairs + p]);
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; v++)
                sum[r][v] = _mm512_dpbf16_ps(sum[r][v], (__m512bh)a, (__m512bh)b[v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < TILE; r++)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) {
            if (r < rows)
                _mm512_mask_storeu_ps(y + r * stride + v * LANES, first(n - v * LANES), sum[r][v]);
        }
}

BF16 static void half_product_avx512(Eval *e, const Product *p)
{
    const i64 pairs = (p->k + 1) / 2, tiles = (p->rows + TILE - 1) / TILE;
    u32 *x = ev_scratch(e, tiles * TILE * pairs, sizeof *x),
        *panel = ev_scratch(e, PANEL * (pairs + LANES - 1), sizeof *panel);
    memset(x + p->rows * pairs, 0, (size_t)((tiles * TILE - p->rows) * pairs) * sizeof *x);
    for (i64 r = 0; r < p->rows; r++)
        narrow_row(p->x + r * p->k, p->k, x + r * pairs);
    for (i64 j = 0; j < p->n; j += PANEL) {
        i64 n = p->n - j < PANEL ? p->n - j : PANEL;
        pack_panel(p->w + j * p->k, n, p->k, panel);
        for (i64 r = 0; r < p->rows; r += TILE)
            tile(x + r * pairs, pairs, panel, p->rows - r < TILE ? p->rows - r : TILE, n,
                 p->y + r * p->stride + j, p->stride);
    }
}

static bool cpu_has_bf16(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16");
}
#else
static bool cpu_has_bf16(void)
{
    return false;
}
#define half_product_avx512 half_product_plain
#endif

void half_product(Eval *e, const Product *p)
{
    if (cpu_has_bf16())
        half_product_avx512(e, p);
    else
        half_product_plain(e, p);
}
