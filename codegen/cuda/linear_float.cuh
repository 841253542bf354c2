/* linear.cuh for families whose sums are floats: they are the result. */
#ifndef PFQC_CODEGEN_CUDA_LINEAR_FLOAT_CUH
#define PFQC_CODEGEN_CUDA_LINEAR_FLOAT_CUH

#define LIN_SUM float
#include "linear.cuh"

PFQ_DEVICE float lin_finish(const Lin &l, const uint8_t *w, int32_t row, int32_t t, float hi,
                            float lo)
{
    (void)l, (void)w, (void)row, (void)t, (void)lo;
    return hi;
}

#endif
