/* test_sample.c on a GPU, by the CUDA runtime:
 *   nvcc -std=c++17 -O2 -fmad=false -arch=native -I. -c tests/cuda/sample_gpu.cu
 *   cc -O2 -DSAMPLE_GPU -I. tests/cuda/test_sample.c runtime/sample.c sample_gpu.o -lcudart -lm
 */
#include "codegen/cuda/sample.cu"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *shared_memory(size_t bytes)
{
    void *p = NULL;
    if (cudaMallocManaged(&p, bytes) != cudaSuccess) abort();
    return p;
}

/* As `device` of test_sample.c; everything is copied to memory of both and back. */
extern "C" void sample_on_gpu(const float *v, PfqCudaSampler *s, int32_t *token, PfqRow *row)
{
    const size_t bytes = (size_t)s->vocab * sizeof *v,
                 ring_bytes = PFQ_CUDA_RING * sizeof(PfqCudaToken);
    const int32_t runs = (s->vocab + PFQ_RUN - 1) / PFQ_RUN;
    float *logits = (float *)shared_memory(bytes), *kept = (float *)shared_memory(bytes);
    PfqCudaSampler *sampler = (PfqCudaSampler *)shared_memory(sizeof *s);
    PfqCudaToken *ring = (PfqCudaToken *)shared_memory(ring_bytes);
    int32_t *next = (int32_t *)shared_memory(4);
    PfqRow *at = (PfqRow *)shared_memory(sizeof *at);
    void *work = shared_memory((size_t)runs * 40);
    memcpy(logits, v, bytes);
    memcpy(ring, (void *)s->ring, ring_bytes);
    memcpy(kept, (void *)s->kept, bytes);
    *sampler = *s, *next = *token, *at = *row;
    sampler->ring = (uint64_t)ring, sampler->kept = (uint64_t)kept;
    PfqCudaArgs a = {};
    a.in[0] = (uint64_t)logits, a.in[1] = (uint64_t)sampler, a.out[0] = (uint64_t)next;
    a.rows = (uint64_t)at, a.work = (uint64_t)work, a.T = 1;
    pfq_cu_sample_runs<<<(runs + 7) / 8, 64>>>(a);
    pfq_cu_sample_choose<<<1, 512>>>(a);
    if (cudaDeviceSynchronize() != cudaSuccess) {
        printf("FAIL %s\n", cudaGetErrorString(cudaGetLastError()));
        exit(1);
    }
    memcpy((void *)s->ring, ring, ring_bytes);
    memcpy((void *)s->kept, kept, bytes);
    sampler->ring = s->ring, sampler->kept = s->kept;
    *s = *sampler, *token = *next, *row = *at;
    void *all[] = {logits, kept, sampler, ring, next, at, work};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        cudaFree(all[i]);
}
