/* What every CUDA kernel template shares: types, the arguments, constants.
 *
 * A template is one file X.cu that defines one or more kernels with PFQ_KERNEL. A model's compile
 * puts `static const int32_t c_K = 576;` and so on in front (codegen/cuda/kernels.def says which)
 * and gives the text to NVRTC; nothing else is included, neither CUDA's headers nor the C
 * library's, so the emitted source also compiles alone with nvcc. tests/cuda compiles the same
 * files for the host, with the constants as variables and threads emulated (tests/cuda/simt.h).
 *
 * Rules of a template:
 *   - slots, shapes, layouts and formats are those of the CPU template of the same name
 * (codegen/cpu, ARCHITECTURE.md "Packed weights", "Activations a kernel reads", "The KV cache"), so
 * that both read one image and are judged by one reference. Rows outside T, and heads, are never
 * written;
 *   - launch geometry is the row of kernels.def: blockIdx.x divides what constants determine,
 * blockIdx.y tokens, kernels take any T >= 1;
 *   - a result depends on neither the geometry nor timing: no floating point atomics, reductions in
 * a fixed order; integers are exact;
 *   - constants are used in ordinary expressions and `if`: never as the size of an array or a
 * template argument, because tests set them at run time. Dynamic shared memory is pfq_shared;
 *   - every thread of a block reaches every __syncthreads and every warp operation of its warp;
 *   - no spin waits but those of hopper.cuh and grid.cuh, which are bounded.
 */
#ifndef PFQC_CODEGEN_CUDA_KERNEL_CUH
#define PFQC_CODEGEN_CUDA_KERNEL_CUH

#ifndef PFQ_SIMT /* tests/cuda/simt.h defines what follows for the host */
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t; /* as glibc has it, which nvcc reads before this */
typedef unsigned long uint64_t;
#define PFQ_CONST(type, name) /* it stands in front of the template */
/* PFQ_KERNEL(name, threads of a block) or (name, threads, blocks that an SM shall hold).
 * PFQ_COOPERATIVE: one whose blocks wait for each other, launched as PFQ_CUDA_COOPERATIVE. */
#define PFQ_GLOBAL(name, ...)                                                                      \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__)                                      \
        name(const __grid_constant__ PfqCudaArgs a)
/* A specialised source defines PFQ_ENTRY and, of its one kernel X, PFQ_WANT_X as `, PFQ_GLOBAL`;
 * the template's other kernels become functions that nobody calls, and give no code. */
#ifdef PFQ_ENTRY
#define PFQ_DROPPED(name, ...)         static __device__ void name(const PfqCudaArgs &a)
#define PFQ_SECOND(first, second, ...) second
#define PFQ_PICK(...)                  PFQ_SECOND(__VA_ARGS__, PFQ_DROPPED, )
#define PFQ_KERNEL(name, ...)          PFQ_PICK(PFQ_WANT_##name)(name, __VA_ARGS__)
#define PFQ_COOPERATIVE(name, ...)     PFQ_PICK(PFQ_WANT_##name)(name, __VA_ARGS__)
#else
#define PFQ_KERNEL(name, ...)      PFQ_GLOBAL(name, __VA_ARGS__)
#define PFQ_COOPERATIVE(name, ...) PFQ_GLOBAL(name, __VA_ARGS__)
#endif
#define PFQ_DEVICE static __device__ __forceinline__
extern __shared__ __align__(128) unsigned char pfq_shared[];
#endif

/* Is X the kernel that a specialised source wants? A tile of many is worth the compiler's time then
 * alone. */
#ifdef PFQ_ENTRY
#define PFQ_IS_PFQ_GLOBAL             true
#define PFQ_IS_PFQ_DROPPED            false
#define PFQ_IS(pick)                  PFQ_IS_##pick
#define PFQ_PICKED(pick)              PFQ_IS(pick)
#define PFQ_PICK_OF(first, pick, ...) pick
#define PFQ_WANT(...)                 PFQ_PICKED(PFQ_PICK_OF(__VA_ARGS__, PFQ_DROPPED, ))
#define PFQ_WANTED(name)              PFQ_WANT(PFQ_WANT_##name)
#else
#define PFQ_WANTED(name) true
#endif

/* runtime/abi.h; tests compare the two. */
struct PfqCudaArgs {
    uint64_t in[8], out[8];
    uint64_t w;
    uint64_t aux[8];
    uint64_t rows, slot, work, sync;
    int32_t T, ctx, alone;
};

struct PfqRow {
    int32_t pos, slot;
};

/* Values of c_fmt, c_epi, c_kv, c_act: codegen/cpu/kernels.def. */
enum { PFQ_FMT_F32 = 0, PFQ_FMT_S8 = 1, PFQ_FMT_S16 = 2, PFQ_FMT_S16G32 = 3 };
enum { PFQ_EPI_NONE = 0, PFQ_EPI_RESIDUAL = 1, PFQ_EPI_SWIGLU = 2, PFQ_EPI_QKV = 3 };
enum { PFQ_KV_F32 = 0, PFQ_KV_F16 = 1, PFQ_KV_S8 = 2, PFQ_KV_S4 = 3, PFQ_KV_U8 = 4, PFQ_KV_U4 = 5 };
enum { PFQ_ACT_SILU = 0, PFQ_ACT_GELU_TANH = 1, PFQ_ACT_GELU = 2 };

/* The thread's column, where a kernel has a thread per element: c_K or more is none. */
PFQ_DEVICE int32_t pfq_column()
{
    return (int32_t)(blockIdx.x * blockDim.x + threadIdx.x);
}

PFQ_DEVICE PfqRow pfq_row(const PfqCudaArgs &a, int32_t t)
{
    return ((const PfqRow *)a.rows)[t];
}

/* An address in the KV cache (of slot 0), in the slot of `row`. */
PFQ_DEVICE uint64_t pfq_slot(const PfqCudaArgs &a, uint64_t at, PfqRow row)
{
    return at ? at + a.slot * (uint64_t)row.slot : 0;
}

#endif
