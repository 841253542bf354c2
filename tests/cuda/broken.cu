/* Kernels for test_simt: one that is right, and one for each mistake that the emulation finds. */
#include "codegen/cuda/hopper.cuh"
#include "codegen/cuda/intrin.cuh"
#include "codegen/cuda/reduce.cuh"
#include "codegen/cuda/fragments.cuh"
#include "codegen/cuda/tiles.cuh"

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

/* ---- sm_90a ---- */

/* out[0] [64][8] = fragments in[0] (8 bits, K 128) times tiles in[1] (8 tokens), copied by thread
 * 0. */
PFQ_KERNEL(product, 256)
{
    const uint32_t bar = pfq_smem(pfq_shared), tile = pfq_smem(pfq_shared + 1024);
    int32_t d[4];
    if (threadIdx.x == 0) {
        pfq_mbar_init(bar, 1);
        pfq_mbar_ready();
    }
    __syncthreads();
    if (threadIdx.x >= 128) return;
    if (threadIdx.x == 0) {
        pfq_mbar_expect(bar, 1024);
        pfq_bulk_load(tile, (const void *)a.in[1], 1024, bar);
    }
    pfq_mbar_wait(bar, 0);
    uint32_t w[4][4];
    for (int32_t k = 0; k < 4; k++)
        for (int32_t j = 0; j < 4; j++)
            w[k][j] = ((const uint32_t *)a.in[0])[k * 512 + threadIdx.x * 4 + j];
    pfq_wgmma_fence();
    for (int32_t k = 0; k < 4; k++)
        pfq_wgmma<8>(d, w[k], pfq_wgmma_desc(tile) + 2 * k, k > 0);
    pfq_wgmma_commit();
    pfq_wgmma_wait<0>();
    const int32_t lane = pfq_lane();
    for (int32_t i = 0; i < 4; i++) {
        const int32_t row = pfq_frag_row(pfq_warp() * 16 + lane / 4 + 8 * (i / 2));
        ((int32_t *)a.out[0])[row * 8 + lane % 4 * 2 + i % 2] = d[i];
    }
}

/* Reads what a copy brings without waiting for it. */
PFQ_KERNEL(no_wait, 256)
{
    const uint32_t bar = pfq_smem(pfq_shared);
    if (threadIdx.x == 0) {
        pfq_mbar_init(bar, 1);
        pfq_mbar_expect(bar, 1024);
        pfq_bulk_load(pfq_smem(pfq_shared + 1024), (const void *)a.in[0], 1024, bar);
    }
    __syncthreads();
    ((float *)a.out[0])[threadIdx.x] = ((const float *)pfq_shared)[256 + threadIdx.x];
    __syncthreads();
    pfq_mbar_wait(bar, 0);
}

/* One arrival too few. */
PFQ_KERNEL(no_arrival, 256)
{
    const uint32_t bar = pfq_smem(pfq_shared);
    if (threadIdx.x == 0) pfq_mbar_init(bar, 3);
    __syncthreads();
    if (threadIdx.x % 128 == 0) pfq_mbar_arrive(bar);
    pfq_mbar_wait(bar, 0);
}

PFQ_KERNEL(half_barrier, 256)
{
    if (threadIdx.x < 128) pfq_bar_sync(1, 256);
}

/* out[i] = in[i] through the shared memory of the cluster's next block. */
PFQ_KERNEL(neighbours, 256)
{
    const int32_t next = (pfq_cluster_rank() + 1) % pfq_cluster_size(), n = (int32_t)blockDim.x;
    const int32_t mine = (int32_t)blockIdx.x * n + (int32_t)threadIdx.x;
    const uint32_t bar = pfq_smem((int32_t *)pfq_shared + n);
    if (threadIdx.x == 0) {
        pfq_mbar_init(bar, 1);
        pfq_mbar_ready();
        pfq_mbar_expect(bar, 4 * (uint32_t)n);
    }
    __syncthreads();
    pfq_cluster_arrive();
    pfq_cluster_wait(); /* it has begun */
    if (threadIdx.x % 4 == 0)
        pfq_store_of(pfq_smem_of(pfq_smem((int32_t *)pfq_shared + threadIdx.x), next),
                     *(const int4 *)((const int32_t *)a.in[0] + mine), pfq_smem_of(bar, next));
    pfq_mbar_wait(bar, 0);
    const int32_t before = (pfq_cluster_rank() + pfq_cluster_size() - 1) % pfq_cluster_size();
    ((int32_t *)a.out[0])[mine + (before - pfq_cluster_rank()) * n] =
        ((const int32_t *)pfq_shared)[threadIdx.x];
}

/* A block that has ended has no shared memory. */
PFQ_KERNEL(gone, 256)
{
    const uint32_t there = pfq_smem_of(pfq_smem(pfq_shared), 0);
    if (pfq_cluster_rank()) pfq_store_of(there, make_int4(1, 1, 1, 1), there + 16);
}

extern "C" int64_t tile_at(int32_t rows, int32_t t, int32_t k)
{
    return pfq_tile_at(rows, t, k);
}
extern "C" int64_t frag_at(int32_t bits, int32_t K, int32_t n, int32_t k, bool *low)
{
    return pfq_frag_at(bits, K, n, k, low);
}

/* What the other side states in runtime/abi.h and codegen/cpu/kernels.def. */
extern "C" const size_t kernel_cuh_layout[] = {
    sizeof(PfqCudaArgs),         sizeof(PfqRow),
    offsetof(PfqCudaArgs, in),   offsetof(PfqCudaArgs, out),
    offsetof(PfqCudaArgs, w),    offsetof(PfqCudaArgs, aux),
    offsetof(PfqCudaArgs, rows), offsetof(PfqCudaArgs, slot),
    offsetof(PfqCudaArgs, work), offsetof(PfqCudaArgs, sync),
    offsetof(PfqCudaArgs, T),    offsetof(PfqCudaArgs, ctx),
    offsetof(PfqRow, slot)};
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
