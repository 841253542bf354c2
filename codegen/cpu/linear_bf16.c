/* linear.bf16: bf16 weights, f32 activations. Contract: linear.h; c_fmt is f32. A weight is widened
 * exactly, each product is one fused multiply-add, summed over k in order: the bits of linear.f32
 * on the same weights, for any T and any number of threads. VDPBF16PS would round the activations
 * to bf16, too, and is not used.
 */
#include "linear.h"

enum { ROWS = PFQ_VNNI ? 8 : 4 }; /* tokens whose accumulators are kept in registers */

/* 16 rows' weights k and k + 1, k even. */
PFQ_INLINE void two(const char *w, F *even, F *odd)
{
    const I v = (I)f_load((const float *)w);
    *even = (F)(v << i_set(16));
    *odd = (F)(v & i_set((int32_t)0xffff0000));
}

PFQ_INLINE int64_t tile_bytes(void)
{
    return 64 * (int64_t)((c_K + 1) / 2);
}

PFQ_INLINE void micro(const Lin *l, const char *w, int32_t t, int32_t n, int32_t m, int32_t col)
{
    const float *x = (const float *)l->a->in[0] + (int64_t)(l->t0 + t) * c_K;
    F acc[2][8], even, odd;
    PFQ_UNROLL for (int32_t i = 0; i < m; i++) PFQ_UNROLL for (int32_t j = 0; j < n; j++)
        acc[i][j] = f_set(0.0f);
    int32_t k = 0;
    for (; k + 2 <= c_K; k += 2) {
        PFQ_UNROLL for (int32_t i = 0; i < m; i++)
        {
            two(w + i * tile_bytes() + 32 * (int64_t)k, &even, &odd);
            PFQ_UNROLL for (int32_t j = 0; j < n; j++)
            {
                acc[i][j] = f_fma(even, f_set(x[(int64_t)j * c_K + k]), acc[i][j]);
                acc[i][j] = f_fma(odd, f_set(x[(int64_t)j * c_K + k + 1]), acc[i][j]);
            }
        }
    }
    if (k < c_K) { /* an odd last column */
        PFQ_UNROLL for (int32_t i = 0; i < m; i++)
        {
            two(w + i * tile_bytes() + 32 * (int64_t)k, &even, &odd);
            PFQ_UNROLL for (int32_t j = 0; j < n; j++) acc[i][j] =
                f_fma(even, f_set(x[(int64_t)j * c_K + k]), acc[i][j]);
        }
    }
    PFQ_UNROLL for (int32_t i = 0; i < m; i++) PFQ_UNROLL for (int32_t j = 0; j < n; j++)
        f_store(l->y + (t + j) * l->ys + col + 16 * i, acc[i][j]);
}

#include "linear_float.h"

void pfq_linear_bf16(const PfqArgs *a, int tid, int nt)
{
    lin_run(a, tid, nt);
}
