/* linear.bf16: bf16 weights. Contract, launch and roofline: linear.cuh. A step is two k.
 */
#ifndef PFQC_CODEGEN_CUDA_LINEAR_BF16_CUH
#define PFQC_CODEGEN_CUDA_LINEAR_BF16_CUH

#include "linear_float.cuh"

PFQ_DEVICE int32_t lin_steps()
{
    return (c_K + 1) / 2;
}
PFQ_DEVICE int64_t lin_tile_bytes()
{
    return 64 * (int64_t)((c_K + 1) / 2);
}
PFQ_DEVICE int32_t lin_planes()
{
    return 1;
}

PFQ_DEVICE void lin_add(const Lin &l, const uint8_t *const w[2], int32_t step, int32_t t, int32_t n,
                        float *v)
{
    const bool both = 2 * step + 1 < c_K; /* else an odd last column */
    float x0[LIN_TOKENS], x1[LIN_TOKENS];
    PFQ_UNROLL
    for (int32_t j = 0; j < n; j++) {
        const float *x = (const float *)l.a->in[0] + (int64_t)lin_token(l, t + j) * c_K + 2 * step;
        x0[j] = x[0];
        x1[j] = both ? x[1] : 0.0f;
    }
    PFQ_UNROLL
    for (int32_t i = 0; i < 2; i++) {
        const LinWords k = *(const LinWords *)(w[i] + 64 * (int64_t)step + 16 * (pfq_lane() % 4));
        PFQ_UNROLL
        for (int32_t j = 0; j < 4 * n; j++) {
            float *s = v + i * 4 * n + j; /* row j % 4 of token j / 4 */
            *s = fmaf(__uint_as_float(k.row[j % 4] << 16), x0[j / 4], *s);
            *s = fmaf(__uint_as_float(k.row[j % 4] & 0xffff0000u), x1[j / 4], *s);
        }
    }
}

#endif
