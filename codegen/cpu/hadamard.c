/* hadamard: blocks of c_N elements times the transform of ir/hadamard.h, H = B (x) S / sqrt(c_N),
 * as f32 or quantised in the same pass.
 *
 *   in[0]   [T, c_K] f32, c_K a multiple of c_N
 *   out[0]  [T, c_K] f32; may be in[0]; c_fmt s8: integers of that format of the whole row c_K
 *   out[1]  c_fmt s8: scales [T] f32; unused if c_static
 *   aux[1]  the scale, one f32, if c_static
 *   w       base matrix B [c_base, c_base] as packed f32 tiles; NULL when c_base is 1
 *   scratch 4 * (c_N + c_K) bytes, and 128 of rounding
 *
 * c_N = c_base * m, m a power of two: S is log2(m) stages of sums and differences over the last
 * axis of [c_base, m], B a product along the first. Blocks, or rows if they are quantised, are
 * divided over threads; for T = 1 it is cheaper to call it as (0, 1) on every thread with private
 * outputs than to pay a barrier.
 *
 * Bound by arithmetic: c_N * (log2(m) + c_base) multiply-adds per block, which stay in the L1
 * cache; the product keeps a block of results in registers and reads each element of x once per BR
 * of them.
 */
#include "quantise.h"
#include "sylvester.h"

PFQ_CONST(int32_t, c_K);
PFQ_CONST(int32_t, c_N);
PFQ_CONST(int32_t, c_base);
PFQ_CONST(int32_t, c_fmt);
PFQ_CONST(int32_t, c_static);
PFQ_CONST(float, c_scale);

enum { BR = PFQ_VNNI ? 8 : 4, BV = PFQ_VNNI ? 2 : 1 }; /* register block: rows of B x vectors */

typedef struct Row {
    const float *b; /* base matrix */
    float *x;       /* [c_N]: S of the block */
    float *out;     /* where the row's floats go, unless they are quantised at once */
    uint8_t *ints;  /* where its integers go */
    float inv;      /* 1 / static scale */
} Row;

/* n results (16 if more) from element k of the row on. */
PFQ_INLINE void put(const Row *r, int32_t k, F v, int32_t n)
{
    if (c_fmt != PFQ_FMT_S8 || !c_static)
        f_store_n(r->out + k, v, n);
    else
        quant_put_n(r->ints + k, v, r->inv, n);
}

/* Rows [i, i + n) of B, of one packed tile, times columns [c, c + 16 v) of x [c_base, m]. */
PFQ_INLINE void base_block(const Row *r, int32_t at, int32_t i, int32_t n, int32_t c, int32_t v)
{
    const int32_t m = c_N / c_base;
    const float *b = r->b + (int64_t)(i / 16) * 16 * c_base + i % 16;
    F acc[BR][BV];
    PFQ_UNROLL for (int32_t p = 0; p < n; p++) PFQ_UNROLL for (int32_t q = 0; q < v; q++)
        acc[p][q] = f_set(0.0f);
    for (int32_t j = 0; j < c_base; j++) {
        F x[BV];
        PFQ_UNROLL for (int32_t q = 0; q < v; q++) x[q] =
            f_load_n(r->x + j * m + c + 16 * q, m - c - 16 * q);
        PFQ_UNROLL for (int32_t p = 0; p < n; p++)
        {
            const F f = f_set(b[16 * j + p]);
            PFQ_UNROLL for (int32_t q = 0; q < v; q++) acc[p][q] = f_fma(f, x[q], acc[p][q]);
        }
    }
    PFQ_UNROLL for (int32_t p = 0; p < n; p++)
    {
        if (i + p < c_base) /* not a row of padding */
            PFQ_UNROLL for (int32_t q = 0; q < v; q++)
                put(r, at + (i + p) * m + c + 16 * q, acc[p][q], m - c - 16 * q);
    }
}

PFQ_INLINE void base_rows(const Row *r, int32_t at, int32_t i, int32_t n)
{
    const int32_t m = c_N / c_base;
    int32_t c = 0;
    for (; c + 16 * BV <= m; c += 16 * BV)
        base_block(r, at, i, n, c, BV);
    for (; c < m; c += 16)
        base_block(r, at, i, n, c, 1);
}

/* The block that starts at column `at` of its row. */
PFQ_INLINE void block(const Row *r, const float *in, int32_t at)
{
    const int32_t m = c_N / c_base;
    for (int32_t j = 0; j < c_base; j++)
        sylvester(in + j * m, r->x + j * m, c_scale, m);
    if (c_base == 1) {
        for (int32_t k = 0; k < c_N; k += 16)
            put(r, at + k, f_load_n(r->x + k, c_N - k), c_N - k);
        return;
    }
    int32_t i = 0;
    for (; i + BR <= c_base; i += BR)
        base_rows(r, at, i, BR);
    for (; i < c_base; i += 4)
        base_rows(r, at, i, 4);
}

void pfq_hadamard(const PfqArgs *a, int tid, int nt)
{
    Row r = {.b = a->w, .x = a->scratch};
    const float *in = a->in[0];
    int64_t b, e;
    if (c_fmt != PFQ_FMT_S8) {
        pfq_split((int64_t)a->T * (c_K / c_N), tid, nt, &b, &e);
        for (int64_t u = b; u < e; u++) {
            r.out = (float *)a->out[0] + u * c_N;
            block(&r, in + u * c_N, 0);
        }
        return;
    }
    if (c_static) r.inv = quant_inv(*(const float *)a->aux[1]);
    r.out = r.x + pfq_up(c_N, 16);
    pfq_split(a->T, tid, nt, &b, &e);
    for (int64_t t = b; t < e; t++) {
        r.ints = (uint8_t *)a->out[0] + t * quant_stride(PFQ_FMT_S8, c_K);
        for (int32_t k = 0; k < c_K; k += c_N)
            block(&r, in + t * c_K + k, k);
        if (!c_static) quant_row_s8(r.out, c_K, r.ints, (float *)a->out[1] + t);
    }
}
