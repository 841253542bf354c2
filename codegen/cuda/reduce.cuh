/* Sums and maxima over a warp or a block, in an order that depends on nothing but the block's size;
 * every thread gets the result. All threads of the warp or block take part.
 */
#ifndef PFQC_CODEGEN_CUDA_REDUCE_CUH
#define PFQC_CODEGEN_CUDA_REDUCE_CUH

#include "kernel.cuh"

PFQ_DEVICE float pfq_warp_sum(float v)
{
    for (int32_t h = 16; h; h >>= 1)
        v += __shfl_xor_sync(~0u, v, h);
    return v;
}

PFQ_DEVICE float pfq_warp_max(float v)
{
    for (int32_t h = 16; h; h >>= 1)
        v = fmaxf(v, __shfl_xor_sync(~0u, v, h));
    return v;
}

/* v of every warp to all threads: its warp's value in [0, warps) of the result, until the next
 * call. */
PFQ_DEVICE const float *pfq_of_warps(float v)
{
    __shared__ float part[32];
    __syncthreads(); /* the last call's values are read */
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
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
