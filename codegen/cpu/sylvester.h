/* The Sylvester transform x <- S x of a power of two of floats, S[c][d] = (-1)^popcount(c & d), as
 * far as possible in registers. Shared by the kernel `hadamard` and by the heads of q and k.
 */
#ifndef PFQC_CODEGEN_CPU_SYLVESTER_H
#define PFQC_CODEGEN_CPU_SYLVESTER_H

#include "kernel.h"

enum { SYL_REGS = PFQ_VNNI ? 16 : 4 }; /* vectors of 16 that one pass keeps in registers */

/* Inside a vector: in the stage of h, lane i becomes x[i ^ h] + x[i], or x[i ^ h] - x[i] where bit
 * h of i is set. */
PFQ_INLINE F sylvester16(F v)
{
    const F s1 = {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1};
    const F s2 = {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1};
    const F s4 = {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1};
    const F s8 = {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1};
    v = f_fma(v, s1,
              __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
    v = f_fma(v, s2,
              __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    v = f_fma(v, s4,
              __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    return f_fma(
        v, s8, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
}

/* x[0 .. 16 n) = S (scale * in), n a power of two up to SYL_REGS and a constant. */
PFQ_INLINE void sylvester_regs(const float *in, float *x, float scale, int32_t n)
{
    F v[SYL_REGS];
    PFQ_UNROLL for (int32_t i = 0; i < n; i++) v[i] =
        sylvester16(f_load(in + 16 * i) * f_set(scale));
    PFQ_UNROLL for (int32_t h = 1; h < n; h *= 2) PFQ_UNROLL for (int32_t i = 0; i < n; i++)
    {
        if (i & h) continue;
        F a = v[i], b = v[i + h];
        v[i] = a + b;
        v[i + h] = a - b;
    }
    PFQ_UNROLL for (int32_t i = 0; i < n; i++) f_store(x + 16 * i, v[i]);
}

/* Two stages, of h and 2 h, over x[0 .. m), h a multiple of 16. */
PFQ_INLINE void sylvester_radix4(float *x, int32_t m, int32_t h)
{
    for (int32_t i = 0; i < m; i += 4 * h)
        for (int32_t j = i; j < i + h; j += 16) {
            F a = f_load(x + j), b = f_load(x + j + h);
            F c = f_load(x + j + 2 * h), d = f_load(x + j + 3 * h);
            F s = a + b, t = a - b, u = c + d, w = c - d;
            f_store(x + j, s + u);
            f_store(x + j + h, t + w);
            f_store(x + j + 2 * h, s - u);
            f_store(x + j + 3 * h, t - w);
        }
}

/* Less than a vector; x may be in. */
PFQ_INLINE void sylvester_small(const float *in, float *x, float scale, int32_t m)
{
    for (int32_t i = 0; i < m; i++)
        x[i] = in[i] * scale;
    for (int32_t h = 1; h < m; h *= 2)
        for (int32_t i = 0; i < m; i++) {
            if (i & h) continue;
            float a = x[i], b = x[i + h];
            x[i] = a + b;
            x[i + h] = a - b;
        }
}

/* x[0..m) = S (scale * in), m any power of two; x may be in. */
PFQ_INLINE void sylvester(const float *in, float *x, float scale, int32_t m)
{
    if (m < 16) {
        sylvester_small(in, x, scale, m);
        return;
    }
    const int32_t n = pfq_min(m / 16, SYL_REGS);
    for (int32_t i = 0; i < m; i += 16 * n) {
        if (n == 1) sylvester_regs(in + i, x + i, scale, 1);
        if (n == 2) sylvester_regs(in + i, x + i, scale, 2);
        if (n == 4) sylvester_regs(in + i, x + i, scale, 4);
        if (n == 8) sylvester_regs(in + i, x + i, scale, 8);
        if (n == 16) sylvester_regs(in + i, x + i, scale, pfq_min(16, SYL_REGS));
    }
    int32_t h = 16 * n;
    for (; 4 * h <= m; h *= 4)
        sylvester_radix4(x, m, h);
    if (h == m) return;
    for (int32_t j = 0; j < h; j += 16) {
        F a = f_load(x + j), b = f_load(x + j + h);
        f_store(x + j, a + b);
        f_store(x + j + h, a - b);
    }
}

#endif
