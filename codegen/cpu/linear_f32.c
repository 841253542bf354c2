/* linear.f32: f32 weights, f32 activations. Contract: linear.h; c_fmt is f32. Each product is one
 * fused multiply-add, summed over k in order: the same bits for any T and any number of threads.
 */
#include "linear.h"

enum { ROWS = PFQ_VNNI ? 8 : 4 }; /* tokens whose accumulators are kept in registers */

PFQ_INLINE void micro(const Lin *l, const float *w, int32_t t, int32_t n, int32_t m, int32_t col)
{
    const float *x = (const float *)l->a->in[0] + (int64_t)(l->t0 + t) * c_K;
    F acc[2][8];
    PFQ_UNROLL for (int32_t i = 0; i < m; i++) PFQ_UNROLL for (int32_t j = 0; j < n; j++)
        acc[i][j] = f_set(0.0f);
    for (int32_t k = 0; k < c_K; k++) {
        PFQ_UNROLL for (int32_t i = 0; i < m; i++)
        {
            F wk = f_load(w + 16 * ((int64_t)i * c_K + k));
            PFQ_UNROLL for (int32_t j = 0; j < n; j++) acc[i][j] =
                f_fma(wk, f_set(x[(int64_t)j * c_K + k]), acc[i][j]);
        }
    }
    PFQ_UNROLL for (int32_t i = 0; i < m; i++) PFQ_UNROLL for (int32_t j = 0; j < n; j++)
        f_store(l->y + (t + j) * l->ys + col + 16 * i, acc[i][j]);
}

PFQ_INLINE void tokens(const Lin *l, const float *w, int32_t m, int32_t col)
{
    int32_t t = 0;
    for (; t + ROWS <= l->tn; t += ROWS)
        micro(l, w, t, ROWS, m, col);
    for (; t + 2 <= l->tn; t += 2)
        micro(l, w, t, 2, m, col);
    if (t < l->tn) micro(l, w, t, 1, m, col);
}

PFQ_INLINE void lin_prepare(const Lin *l)
{
    (void)l;
}

PFQ_INLINE void lin_block(const Lin *l, int32_t tile, int32_t tiles)
{
    const float *w = (const float *)l->a->w + (int64_t)tile * c_K * 16;
    int32_t i = 0;
    if (PFQ_VNNI)
        for (; i + 2 <= tiles; i += 2)
            tokens(l, w + (int64_t)i * c_K * 16, 2, i * 16);
    for (; i < tiles; i++)
        tokens(l, w + (int64_t)i * c_K * 16, 1, i * 16);
}

void pfq_linear_f32(const PfqArgs *a, int tid, int nt)
{
    lin_run(a, tid, nt);
}
