/* linear.f32: f32 weights, f32 activations. Contract: linear.h; c_fmt is f32. Each product is one
 * fused multiply-add, summed over k in order: the same bits for any T and any number of threads.
 */
#include "linear.h"

enum { ROWS = PFQ_VNNI ? 8 : 4 }; /* tokens whose accumulators are kept in registers */

PFQ_INLINE int64_t tile_bytes(void)
{
    return 64 * (int64_t)c_K;
}

PFQ_INLINE void micro(const Lin *l, const char *w, int32_t t, int32_t n, int32_t m, int32_t col)
{
    const float *x = (const float *)l->a->in[0] + (int64_t)(l->t0 + t) * c_K;
    F acc[2][8];
    PFQ_UNROLL for (int32_t i = 0; i < m; i++) PFQ_UNROLL for (int32_t j = 0; j < n; j++)
        acc[i][j] = f_set(0.0f);
    for (int32_t k = 0; k < c_K; k++) {
        PFQ_UNROLL for (int32_t i = 0; i < m; i++)
        {
            F wk = f_load((const float *)(w + i * tile_bytes()) + 16 * (int64_t)k);
            PFQ_UNROLL for (int32_t j = 0; j < n; j++) acc[i][j] =
                f_fma(wk, f_set(x[(int64_t)j * c_K + k]), acc[i][j]);
        }
    }
    PFQ_UNROLL for (int32_t i = 0; i < m; i++) PFQ_UNROLL for (int32_t j = 0; j < n; j++)
        f_store(l->y + (t + j) * l->ys + col + 16 * i, acc[i][j]);
}

#include "linear_float.h"

void pfq_linear_f32(const PfqArgs *a, int tid, int nt)
{
    lin_run(a, tid, nt);
}
