/* Kernels for test_simt: one that is right, and one for each mistake that the emulation finds. */
#include "codegen/cuda/intrin.cuh"
#include "codegen/cuda/reduce.cuh"

#include <stddef.h>

/* out[i] = the sum of in[0 .. blockDim.x), f32. */
PFQ_KERNEL(right, 256)
{
    ((float *)a.out[0])[threadIdx.x] = pfq_block_sum(((const float *)a.in[0])[threadIdx.x]);
}

/* out[i] = in[n - 1 - i] through shared memory; in order of threads half of them read too early. */
PFQ_KERNEL(no_barrier, 256)
{
    float *x = (float *)pfq_shared;
    x[threadIdx.x] = ((const float *)a.in[0])[threadIdx.x];
    ((float *)a.out[0])[threadIdx.x] = x[blockDim.x - 1 - threadIdx.x];
}

PFQ_KERNEL(early_exit, 256)
{
    if (threadIdx.x >= (uint32_t)a.T) return;
    __syncthreads();
}

PFQ_KERNEL(lost_lane, 256)
{
    if (threadIdx.x % 32 < 31) pfq_warp_sum(1.0f);
    __syncthreads();
}

PFQ_KERNEL(two_operations, 256)
{
    if (threadIdx.x % 2)
        __syncwarp();
    else
        __ballot_sync(~0u, 1);
}

PFQ_KERNEL(unnamed_lane, 256)
{
    if (threadIdx.x % 32 < 16) __shfl_sync(0xffffu, 1, 16);
}

PFQ_KERNEL(behind_shared, 256)
{
    ((volatile float *)pfq_shared)[blockDim.x + threadIdx.x] = 1.0f;
}

PFQ_KERNEL(misaligned, 256)
{
    *(float *)(a.out[0] + 2) = 1.0f;
}

PFQ_KERNEL(too_wide, 32) {}

/* What the other side states in runtime/abi.h and codegen/cpu/kernels.def. */
extern "C" const size_t kernel_cuh_layout[] = {
    sizeof(PfqCudaArgs),      offsetof(PfqCudaArgs, in),  offsetof(PfqCudaArgs, out),
    offsetof(PfqCudaArgs, w), offsetof(PfqCudaArgs, aux), offsetof(PfqCudaArgs, pos),
    offsetof(PfqCudaArgs, T), offsetof(PfqCudaArgs, ctx)};
extern "C" const int kernel_cuh_values[] = {
    PFQ_FMT_F32,    PFQ_FMT_S8,  PFQ_FMT_S16,  PFQ_FMT_S16G32,    PFQ_EPI_NONE, PFQ_EPI_RESIDUAL,
    PFQ_EPI_SWIGLU, PFQ_EPI_QKV, PFQ_KV_F32,   PFQ_KV_F16,        PFQ_KV_S8,    PFQ_KV_S4,
    PFQ_KV_U8,      PFQ_KV_U4,   PFQ_ACT_SILU, PFQ_ACT_GELU_TANH, PFQ_ACT_GELU};

extern "C" float half_to_float(uint16_t h)
{
    return pfq_h_to_f(h);
}
extern "C" uint16_t float_to_half(float x)
{
    return pfq_f_to_h(x);
}
