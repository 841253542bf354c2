/* CUDA's threads on the CPU, so that tests run the templates of codegen/cuda without a GPU.
 *
 * The file is included in front of a template (-include) that is compiled as C++ for the host. A
 * thread is a fiber; the fibers of a block run one after another until each waits at a barrier, at
 * an operation of its warp, or is done, and blocks, or clusters, run one after another. What the
 * rules of codegen/cuda/kernel.cuh forbid is told and aborts: a thread that ends, or waits for
 * something else, while others wait for it; a lane read that its mask does not name. Dynamic shared
 * memory holds NaN bytes when a block starts and ends at an unreadable page. With simt_shuffle,
 * threads and blocks take a pseudorandom order, which shows missing barriers.
 *
 * Waits of hopper.cuh park a thread until nothing else can run; when that changes nothing for any
 * of them, the process ends. With simt_shuffle a bulk copy lands when its barrier is looked at, not
 * when it is issued. Products of a warpgroup read their operands when their group is waited for.
 *
 * PFQ_KERNEL(name, threads) defines name_simt (SimtKernel); tests/cuda/rows.c makes the entries of
 * a CPU library of them. simt.c is the scheduler. One process, one thread; not here: timing, memory
 * coalescing, bank conflicts.
 */
#ifndef PFQC_TESTS_CUDA_SIMT_H
#define PFQC_TESTS_CUDA_SIMT_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct SimtDim {
    uint32_t x, y, z;
} SimtDim;

struct PfqCudaArgs;
typedef void SimtKernel(const struct PfqCudaArgs *a, const int32_t grid[3], int32_t block,
                        int32_t shared);

extern SimtDim threadIdx, blockIdx, blockDim, gridDim;
extern unsigned char *pfq_shared; /* 128-byte aligned */
extern bool simt_shuffle;

extern int32_t simt_cluster; /* blocks of a cluster, along x; 0, 1: none */

/* Runs thread(args) for every thread of the grid, the blocks of a cluster at once. limit: the
 * threads that the kernel's launch bounds allow. */
void simt_launch(const char *name, void (*thread)(const void *), const void *args,
                 const int32_t grid[3], int32_t block, int32_t limit, int32_t shared);

/* The same with all blocks at once, at most 8, which may wait for each other. Such a kernel keeps
 * nothing in __shared__ variables, of which there is one for all blocks: only in pfq_shared. */
void simt_launch_cooperative(const char *name, void (*thread)(const void *), const void *args,
                             const int32_t grid[3], int32_t block, int32_t limit, int32_t shared);

void simt_barrier(void);

/* An operation of the warp: waits for the lanes of mask, and returns for SHUFFLE the value of lane
 * `from` (of the caller's warp), for BALLOT a bit per lane, for the others the reduction of all
 * values. */
typedef enum SimtOp {
    SIMT_SYNC,
    SIMT_SHUFFLE,
    SIMT_BALLOT,
    SIMT_ADD,
    SIMT_MAX_S,
    SIMT_MIN_S,
    SIMT_MAX_U,
    SIMT_MIN_U
} SimtOp;
uint32_t simt_warp(SimtOp op, uint32_t mask, uint32_t value, uint32_t from);

/* Shared memory by 32-bit address, and what hopper.cuh states of its barriers and copies. */
uint32_t simt_address(const void *shared);
void *simt_pointer(uint32_t address, uint32_t bytes);
void simt_mbar_init(uint32_t bar, uint32_t count);
void simt_mbar_arrive(uint32_t bar, uint32_t tx); /* and expects tx bytes of copies */
bool simt_mbar_try(uint32_t bar, uint32_t parity);
void simt_bulk_load(uint32_t to, const void *from, uint32_t bytes, uint32_t bar);
/* From shared memory: read as late as simt_bulk_read allows. */
void simt_bulk_store(void *to, uint32_t from, uint32_t bytes);
void simt_bulk_commit(void);
void simt_bulk_read(int32_t keep);
/* The barrier of a cluster, for all threads that have not ended; an address in another block of it.
 */
void simt_cluster_arrive(void);
void simt_cluster_wait(void);
uint32_t simt_address_of(uint32_t address, int32_t rank);
void simt_store_of(uint32_t there, const void *v, uint32_t bytes, uint32_t bar);
/* The number of the thread among those of all resident blocks. */
int32_t simt_thread(void);
/* Arrives at barrier id (1..15) of that many threads, and waits for it or not. */
void simt_named_barrier(uint32_t id, uint32_t threads);
/* The thread goes on when others have done something that it may wait for. */
void simt_park(void);
void simt_event(void); /* something of that kind */

#ifdef __cplusplus
}

#define PFQ_SIMT               1
#define PFQ_CONST(type, name)  extern "C" type name
#define PFQ_DEVICE             static inline __attribute__((always_inline, unused))
#define SIMT_FIRST(first, ...) first
#define PFQ_KERNEL(name, ...)                                                                      \
    static void name##_body(const PfqCudaArgs &a);                                                 \
    static void name##_thread(const void *a)                                                       \
    {                                                                                              \
        name##_body(*(const PfqCudaArgs *)a);                                                      \
    }                                                                                              \
    extern "C" void name##_simt(const PfqCudaArgs *a, const int32_t grid[3], int32_t block,        \
                                int32_t shared)                                                    \
    {                                                                                              \
        simt_launch(#name, name##_thread, a, grid, block, SIMT_FIRST(__VA_ARGS__, ), shared);      \
    }                                                                                              \
    static void name##_body([[maybe_unused]] const PfqCudaArgs &a)
/* Written again: names do not survive a second macro, where they are macros themselves. */
#define PFQ_COOPERATIVE(name, ...)                                                                 \
    static void name##_body(const PfqCudaArgs &a);                                                 \
    static void name##_thread(const void *a)                                                       \
    {                                                                                              \
        name##_body(*(const PfqCudaArgs *)a);                                                      \
    }                                                                                              \
    extern "C" void name##_simt(const PfqCudaArgs *a, const int32_t grid[3], int32_t block,        \
                                int32_t shared)                                                    \
    {                                                                                              \
        simt_launch_cooperative(#name, name##_thread, a, grid, block, SIMT_FIRST(__VA_ARGS__, ),   \
                                shared);                                                           \
    }                                                                                              \
    static void name##_body([[maybe_unused]] const PfqCudaArgs &a)

#define __shared__      static
#define __align__(n)    __attribute__((aligned(n)))
#define __restrict__    __restrict
#define __forceinline__ inline

/* ---- vectors ---- */

#define SIMT_VECTOR2(name, type)                                                                   \
    struct alignas(8) name {                                                                       \
        type x, y;                                                                                 \
    };                                                                                             \
    PFQ_DEVICE name make_##name(type x, type y)                                                    \
    {                                                                                              \
        return {x, y};                                                                             \
    }
#define SIMT_VECTOR4(name, type, bytes)                                                            \
    struct alignas(bytes) name {                                                                   \
        type x, y, z, w;                                                                           \
    };                                                                                             \
    PFQ_DEVICE name make_##name(type x, type y, type z, type w)                                    \
    {                                                                                              \
        return {x, y, z, w};                                                                       \
    }
SIMT_VECTOR2(int2, int)
SIMT_VECTOR2(uint2, unsigned)
SIMT_VECTOR2(float2, float)
SIMT_VECTOR4(int4, int, 16)
SIMT_VECTOR4(uint4, unsigned, 16)
SIMT_VECTOR4(float4, float, 16)
SIMT_VECTOR4(char4, signed char, 4)
SIMT_VECTOR4(uchar4, unsigned char, 4)

/* ---- arithmetic ---- */

PFQ_DEVICE int min(int a, int b)
{
    return a < b ? a : b;
}
PFQ_DEVICE int max(int a, int b)
{
    return a > b ? a : b;
}
PFQ_DEVICE unsigned min(unsigned a, unsigned b)
{
    return a < b ? a : b;
}
PFQ_DEVICE unsigned max(unsigned a, unsigned b)
{
    return a > b ? a : b;
}
PFQ_DEVICE int64_t min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
PFQ_DEVICE int64_t max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
PFQ_DEVICE float rsqrtf(float x)
{
    return (float)(1 / sqrt((double)x));
}
PFQ_DEVICE int __float2int_rn(float x)
{
    return (int)rintf(x);
}

#define SIMT_BITS(name, from, to)                                                                  \
    PFQ_DEVICE to name(from x)                                                                     \
    {                                                                                              \
        to y;                                                                                      \
        memcpy(&y, &x, sizeof y);                                                                  \
        return y;                                                                                  \
    }
SIMT_BITS(__float_as_int, float, int)
SIMT_BITS(__float_as_uint, float, unsigned)
SIMT_BITS(__int_as_float, int, float)
SIMT_BITS(__uint_as_float, unsigned, float)

/* Byte i of a times byte i of b, summed, plus c; as signed or unsigned bytes. */
PFQ_DEVICE int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 32; i += 8)
        c += (int8_t)(a >> i) * (int8_t)(b >> i);
    return c;
}
PFQ_DEVICE unsigned __dp4a(unsigned a, unsigned b, unsigned c)
{
    for (int i = 0; i < 32; i += 8)
        c += (uint8_t)(a >> i) * (unsigned)(uint8_t)(b >> i);
    return c;
}

PFQ_DEVICE int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
PFQ_DEVICE int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
PFQ_DEVICE int __ffs(int x)
{
    return __builtin_ffs(x);
}
PFQ_DEVICE unsigned __byte_perm(unsigned a, unsigned b, unsigned s)
{
    const uint64_t bytes = (uint64_t)b << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++)
        r |= (unsigned)(bytes >> (s >> 4 * i & 7) * 8 & 255) << 8 * i;
    return r;
}

#define SIMT_LDG(type)                                                                             \
    PFQ_DEVICE type __ldg(const type *p)                                                           \
    {                                                                                              \
        return *p;                                                                                 \
    }
SIMT_LDG(int8_t)
SIMT_LDG(uint8_t)
SIMT_LDG(int16_t)
SIMT_LDG(uint16_t)
SIMT_LDG(int)
SIMT_LDG(unsigned)
SIMT_LDG(float)
SIMT_LDG(int2)
SIMT_LDG(uint2)
SIMT_LDG(float2)
SIMT_LDG(int4)
SIMT_LDG(uint4)
SIMT_LDG(float4)

/* ---- synchronisation and warps ---- */

PFQ_DEVICE void __syncthreads()
{
    simt_barrier();
}
PFQ_DEVICE void __syncwarp(unsigned mask = ~0u)
{
    simt_warp(SIMT_SYNC, mask, 0, 0);
}
PFQ_DEVICE void __threadfence_block() {}
PFQ_DEVICE void __threadfence() {}
PFQ_DEVICE void __threadfence_system() {}
PFQ_DEVICE unsigned __ballot_sync(unsigned mask, int p)
{
    return simt_warp(SIMT_BALLOT, mask, p != 0, 0);
}
PFQ_DEVICE int __any_sync(unsigned mask, int p)
{
    return __ballot_sync(mask, p) != 0;
}
PFQ_DEVICE int __all_sync(unsigned mask, int p)
{
    return __ballot_sync(mask, p) == mask;
}
PFQ_DEVICE unsigned __activemask()
{
    return ~0u;
}

/* The lane that a shuffle reads: its own where the source is outside its segment of `width` lanes.
 */
PFQ_DEVICE uint32_t simt_segment(int32_t from, int width)
{
    const int32_t lane = (int32_t)(threadIdx.x & 31), first = lane & -width;
    return (uint32_t)(from >= first && from < first + width ? from : lane);
}
PFQ_DEVICE uint32_t simt_idx(int from, int width)
{
    return simt_segment((int32_t)((threadIdx.x & 31) & (unsigned)-width) + (from & (width - 1)),
                        width);
}
PFQ_DEVICE uint32_t simt_xor(int bits, int width)
{
    return simt_segment((int32_t)(threadIdx.x & 31) ^ bits, width);
}
PFQ_DEVICE uint32_t simt_down(int by, int width)
{
    return simt_segment((int32_t)(threadIdx.x & 31) + by, width);
}
PFQ_DEVICE uint32_t simt_up(int by, int width)
{
    return simt_segment((int32_t)(threadIdx.x & 31) - by, width);
}

#define SIMT_SHUFFLES(suffix, from)                                                                \
    PFQ_DEVICE unsigned __shfl##suffix(unsigned mask, unsigned v, int n, int width = 32)           \
    {                                                                                              \
        return simt_warp(SIMT_SHUFFLE, mask, v, from(n, width));                                   \
    }                                                                                              \
    PFQ_DEVICE int __shfl##suffix(unsigned mask, int v, int n, int width = 32)                     \
    {                                                                                              \
        return (int)__shfl##suffix(mask, (unsigned)v, n, width);                                   \
    }                                                                                              \
    PFQ_DEVICE float __shfl##suffix(unsigned mask, float v, int n, int width = 32)                 \
    {                                                                                              \
        return __uint_as_float(__shfl##suffix(mask, __float_as_uint(v), n, width));                \
    }
SIMT_SHUFFLES(_sync, simt_idx)
SIMT_SHUFFLES(_xor_sync, simt_xor)
SIMT_SHUFFLES(_down_sync, simt_down)
SIMT_SHUFFLES(_up_sync, simt_up)

#define SIMT_REDUCE(name, type, op)                                                                \
    PFQ_DEVICE type __reduce_##name##_sync(unsigned mask, type v)                                  \
    {                                                                                              \
        return (type)simt_warp(op, mask, (unsigned)v, 0);                                          \
    }
SIMT_REDUCE(add, int, SIMT_ADD)
SIMT_REDUCE(add, unsigned, SIMT_ADD)
SIMT_REDUCE(max, int, SIMT_MAX_S)
SIMT_REDUCE(max, unsigned, SIMT_MAX_U)
SIMT_REDUCE(min, int, SIMT_MIN_S)
SIMT_REDUCE(min, unsigned, SIMT_MIN_U)

/* Integers only: kernels use no atomics on floating point. */
PFQ_DEVICE int atomicAdd(int *p, int v)
{
    const int old = *p;
    *p = old + v;
    return old;
}
PFQ_DEVICE int atomicMax(int *p, int v)
{
    const int old = *p;
    *p = max(old, v);
    return old;
}

/* ---- sm_90a (codegen/cuda/hopper.cuh) ---- */

PFQ_DEVICE uint32_t pfq_smem(const void *p)
{
    return simt_address(p);
}
PFQ_DEVICE void pfq_mbar_init(uint32_t bar, uint32_t count)
{
    simt_mbar_init(bar, count);
}
PFQ_DEVICE void pfq_mbar_ready() {}
PFQ_DEVICE void pfq_mbar_arrive(uint32_t bar)
{
    simt_mbar_arrive(bar, 0);
}
PFQ_DEVICE void pfq_mbar_expect(uint32_t bar, uint32_t bytes)
{
    simt_mbar_arrive(bar, bytes);
}
PFQ_DEVICE bool pfq_mbar_try(uint32_t bar, uint32_t parity)
{
    return simt_mbar_try(bar, parity);
}
PFQ_DEVICE void pfq_mbar_wait(uint32_t bar, uint32_t parity)
{
    while (!simt_mbar_try(bar, parity))
        simt_park();
}
PFQ_DEVICE int32_t pfq_cluster_size()
{
    return max(simt_cluster, 1);
}
PFQ_DEVICE int32_t pfq_cluster_rank()
{
    return (int32_t)blockIdx.x % pfq_cluster_size();
}
PFQ_DEVICE void pfq_cluster_arrive()
{
    simt_cluster_arrive();
}
PFQ_DEVICE void pfq_cluster_wait()
{
    simt_cluster_wait();
}
PFQ_DEVICE uint32_t pfq_smem_of(uint32_t at, int32_t rank)
{
    return simt_address_of(at, rank);
}
PFQ_DEVICE void pfq_store_of(uint32_t there, int4 v, uint32_t bar)
{
    simt_store_of(there, &v, 16, bar);
}
PFQ_DEVICE void pfq_bulk_load(uint32_t to, const void *from, uint32_t bytes, uint32_t bar)
{
    simt_bulk_load(to, from, bytes, bar);
}
PFQ_DEVICE void pfq_bulk_store(void *to, uint32_t from, uint32_t bytes)
{
    simt_bulk_store(to, from, bytes);
}
PFQ_DEVICE void pfq_bulk_commit()
{
    simt_bulk_commit();
}
template <int n> PFQ_DEVICE void pfq_bulk_read()
{
    simt_bulk_read(n);
}
PFQ_DEVICE void pfq_bulk_done()
{
    simt_bulk_read(0);
}
PFQ_DEVICE void pfq_smem_to_async() {}
PFQ_DEVICE void pfq_store_transposed(uint32_t at, const uint32_t (&r)[4])
{
    const int lane = (int)(threadIdx.x & 31);
    for (int m = 0; m < 4; m++)
        for (int e = 0; e < 2; e++) {
            const uint32_t to = __shfl_sync(~0u, at, 8 * m + 2 * (lane & 3) + e);
            *(uint16_t *)simt_pointer(to + 2 * (uint32_t)(lane / 4), 2) =
                (uint16_t)(r[m] >> 16 * e);
        }
}
PFQ_DEVICE void pfq_bar_sync(uint32_t id, uint32_t threads)
{
    simt_named_barrier(id, threads);
}
/* Of what is there. */
PFQ_DEVICE void pfq_prefetch(const void *p)
{
    (void)*(volatile const char *)p;
}
PFQ_DEVICE void pfq_wait_previous() {}
PFQ_DEVICE void pfq_let_next_start() {}
template <int n> PFQ_DEVICE void pfq_fewer_registers() {}
template <int n> PFQ_DEVICE void pfq_more_registers() {}
PFQ_DEVICE int32_t pfq_atomic_add_acq_rel(int32_t *p, int32_t v)
{
    return atomicAdd(p, v);
}
PFQ_DEVICE int32_t pfq_load_acquire(const int32_t *p)
{
    return *(volatile const int32_t *)p;
}

PFQ_DEVICE int4 pfq_load_l2(const int4 *p)
{
    return *p;
}
PFQ_DEVICE float pfq_exp2_fast(float x)
{
    return exp2f(x);
}
PFQ_DEVICE float pfq_inverse_fast(float x)
{
    return 1.0f / x;
}

/* Products that a thread has issued and not waited for. */
struct SimtProduct {
    void *d; /* int32_t, or of 16 bits float */
    const uint32_t *a;
    uint64_t desc;
    int32_t n;
    bool add;
    enum { S8, HALVES, ACROSS, BF16 } type;
};
struct SimtProducts {
    SimtProduct at[16];
    int32_t n, group_end[16], groups;
};
extern SimtProducts simt_products[8 * 1024]; /* hopper_simt.cu: of the resident threads */
void simt_product(const SimtProduct &p);
void simt_products_wait(int32_t keep);

PFQ_DEVICE void pfq_wgmma_fence() {}
PFQ_DEVICE void pfq_wgmma_commit()
{
    SimtProducts &q = simt_products[simt_thread()];
    q.group_end[q.groups++ & 15] = q.n;
}
template <int n> PFQ_DEVICE void pfq_wgmma_wait()
{
    simt_products_wait(n);
}
template <class E, int n> PFQ_DEVICE void pfq_wgmma_done(E (&)[n]) {}
template <int N>
PFQ_DEVICE void pfq_wgmma(int32_t (&d)[N / 2], const uint32_t (&a)[4], uint64_t desc, bool add)
{
    SimtProducts &q = simt_products[simt_thread()];
    q.at[q.n++ & 15] = {d, a, desc, N, add, SimtProduct::S8};
}
template <int N>
PFQ_DEVICE void pfq_wgmma_halves(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t desc, bool add)
{
    SimtProducts &q = simt_products[simt_thread()];
    q.at[q.n++ & 15] = {d, a, desc, N, add, SimtProduct::HALVES};
}
template <int N>
PFQ_DEVICE void pfq_wgmma_halves_across(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t desc,
                                        bool add)
{
    SimtProducts &q = simt_products[simt_thread()];
    q.at[q.n++ & 15] = {d, a, desc, N, add, SimtProduct::ACROSS};
}
template <int N>
PFQ_DEVICE void pfq_wgmma_bf16(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t desc, bool add)
{
    SimtProducts &q = simt_products[simt_thread()];
    q.at[q.n++ & 15] = {d, a, desc, N, add, SimtProduct::BF16};
}

#endif
#endif
