/* Blocks of linear_mma.cuh of which a lane takes 16 bytes of each token: of s4, s8 and bf16. A
 * family defines mma_prepare and mma_step.
 */
#ifndef PFQC_CODEGEN_CUDA_LINEAR_MMA_WORDS_CUH
#define PFQC_CODEGEN_CUDA_LINEAR_MMA_WORDS_CUH

#include "linear_mma.cuh"

/* A lane's 16 bytes of a token become operands. */
template <class S> PFQ_DEVICE void mma_prepare(PfqWords &b);

/* Step i of the products of two tiles: i % 2 says which two rows of each 4. */
template <class S>
PFQ_DEVICE void mma_step(const PfqWords (&u)[MMA_UNITS], const PfqWords (&b)[S::GROUPS], int32_t i,
                         LIN_SUM (&d)[S::GROUPS][4]);

template <class S> PFQ_DEVICE void mma_block(const MmaAt &at, MmaSums<S> &d)
{
    const int32_t g = pfq_lane() / 4, c = pfq_lane() % 4;
    PfqWords b[S::GROUPS];
    PFQ_UNROLL
    for (int32_t n = 0; n < S::GROUPS; n++) {
        b[n] = *(const PfqWords *)(at.x + (8 * n + g) * MMA_BYTES + mma_x_unit(g, c) * 16);
        mma_prepare<S>(b[n]);
    }
    PFQ_UNROLL
    for (int32_t p = 0; p < S::PAIRS; p++) {
        PfqWords u[MMA_UNITS];
        PFQ_UNROLL
        for (int32_t i = 0; i < MMA_UNITS; i++)
            u[i] = *(const PfqWords *)(at.w + (2 * p + g / 4) * S::BLOCKS * MMA_TILE +
                                       mma_w_unit(4 * MMA_UNITS * c + 4 * i + g % 4) * 16);
        PFQ_UNROLL
        for (int32_t i = 0; i < (S::X == 4 ? 2 : 4); i++)
            mma_step<S>(u, b, i, d[p][i % 2]);
    }
}

#endif
