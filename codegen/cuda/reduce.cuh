/* Sums and maxima over a block, in an order that depends on nothing but the block's size; every
 * thread gets the result. All threads of the block take part.
 */
#ifndef PFQC_CODEGEN_CUDA_REDUCE_CUH
#define PFQC_CODEGEN_CUDA_REDUCE_CUH

#include "lanes.cuh"

/* v of every warp to all threads: its warp's value in [0, warps) of the result, until the next
 * call. */
template <class T> PFQ_DEVICE const T *pfq_of_warps(T v)
{
    __shared__ T part[32];
    __syncthreads(); /* the last call's values are read */
    if (pfq_lane() == 0) part[pfq_warp()] = v;
    __syncthreads();
    return part;
}

PFQ_DEVICE float pfq_block_sum(float v)
{
    const float *part = pfq_of_warps(pfq_warp_sum(v));
    float s = 0.0f;
    for (uint32_t i = 0; i < blockDim.x / 32; i++)
        s += part[i];
    return s;
}

PFQ_DEVICE float pfq_block_max(float v)
{
    const float *part = pfq_of_warps(pfq_warp_max(v));
    float m = part[0];
    for (uint32_t i = 1; i < blockDim.x / 32; i++)
        m = fmaxf(m, part[i]);
    return m;
}

#endif
