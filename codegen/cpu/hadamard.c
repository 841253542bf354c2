/* hadamard: blocks of c_N elements times the transform of ir/hadamard.h, H = B (x) S / sqrt(c_N).
 *
 *   in[0]   [T, c_K] f32, c_K a multiple of c_N
 *   out[0]  [T, c_K] f32; may be in[0]; c_fmt s8: integers of that format of the whole row c_K
 *   out[1]  c_fmt s8: scales [T] f32; unused if c_static
 *   aux[1]  the scale, one f32, if c_static
 *   w       base matrix B [c_base, c_base] as packed f32 tiles; NULL when c_base is 1
 *   scratch c_N f32
 *
 * c_N = c_base * m, m a power of two: S is log2(m) stages of sums and differences over the last
 * axis of [c_base, m], B a product along the first. Blocks are divided over threads. Bound by
 * arithmetic: c_N * (log2(m) + 2 c_base) per block.
 */
#include "kernel.h"

PFQ_CONST(int32_t, c_K);
PFQ_CONST(int32_t, c_N);
PFQ_CONST(int32_t, c_base);
PFQ_CONST(float, c_scale);

/* One stage inside a vector: lane i becomes x[i] + x[i ^ h], or x[i ^ h] - x[i] where bit h of i is
 * set. */
#define STAGE(v, h, ...)                                                                           \
    (__builtin_shufflevector(v, v, __VA_ARGS__) +                                                  \
     f_sel((i_lanes() & i_set(h)) != i_set(0), -(v), (v)))

PFQ_INLINE F sylvester16(F v)
{
    v = STAGE(v, 1, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    v = STAGE(v, 2, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    v = STAGE(v, 4, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    return STAGE(v, 8, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
}

/* x[0..m) <- S x, for any power of two m. */
PFQ_INLINE void sylvester(float *x, int32_t m)
{
    if (m < 16) {
        for (int32_t h = 1; h < m; h *= 2)
            for (int32_t i = 0; i < m; i++) {
                if (i & h) continue;
                float a = x[i], b = x[i + h];
                x[i] = a + b;
                x[i + h] = a - b;
            }
        return;
    }
    for (int32_t i = 0; i < m; i += 16)
        f_store(x + i, sylvester16(f_load(x + i)));
    for (int32_t h = 16; h < m; h *= 2)
        for (int32_t i = 0; i < m; i += 2 * h)
            for (int32_t j = i; j < i + h; j += 16) {
                F a = f_load(x + j), b = f_load(x + j + h);
                f_store(x + j, a + b);
                f_store(x + j + h, a - b);
            }
}

/* out[i,:] = c_scale * sum_j B[i][j] x[j,:] */
PFQ_INLINE void base(const float *b, const float *x, float *out, int32_t m)
{
    for (int32_t i = 0; i < c_base; i++) {
        const float *row =
            b + (int64_t)(i / 16) * 16 * c_base + i % 16; /* element j is 16 j further on */
        for (int32_t c = 0; c < m; c += 16) {
            F sum = f_set(0);
            for (int32_t j = 0; j < c_base; j++)
                sum = f_fma(f_set(row[16 * j]), f_load_n(x + (int64_t)j * m + c, m - c), sum);
            f_store_n(out + (int64_t)i * m + c, sum * f_set(c_scale), m - c);
        }
    }
}

void pfq_hadamard(const PfqArgs *a, int tid, int nt)
{
    const int32_t m = c_N / c_base, per_row = c_K / c_N;
    float *x = a->scratch;
    int64_t b, e;
    pfq_split((int64_t)a->T * per_row, tid, nt, &b, &e);
    for (int64_t u = b; u < e; u++) {
        const float *in = (const float *)a->in[0] + u * c_N;
        float *out = (float *)a->out[0] + u * c_N;
        for (int32_t i = 0; i < c_N; i += 16)
            f_store_n(x + i, f_load_n(in + i, c_N - i), c_N - i);
        for (int32_t j = 0; j < c_base; j++)
            sylvester(x + (int64_t)j * m, m);
        if (c_base > 1)
            base(a->w, x, out, m);
        else
            for (int32_t i = 0; i < c_N; i += 16)
                f_store_n(out + i, f_load_n(x + i, c_N - i) * f_set(c_scale), c_N - i);
    }
}
