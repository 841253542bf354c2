/* What sm_90a has beyond other chips, in functions of a line or two of PTX, each with a model of it
 * for tests/cuda: barriers in shared memory (mbarrier), bulk copies that arrive at them, products
 * of a warpgroup (wgmma s8), division of registers, launches that overlap.
 *
 * Addresses of shared memory are 32 bits, of pfq_smem(pointer). Waits are bounded: one of
 * some seconds is a mistake, and ends the kernel with an error instead of hanging the GPU.
 *
 * The models in tests/cuda/simt.h are strict where hardware may be: with shuffled threads a bulk
 * copy lands as late as its barrier allows, and a product reads its operands when its group is
 * waited for.
 */
#ifndef PFQC_CODEGEN_CUDA_HOPPER_CUH
#define PFQC_CODEGEN_CUDA_HOPPER_CUH

#include "lanes.cuh"

/* The descriptor of a K-major operand with 128-byte swizzle at a 1024-byte aligned address; 32 k
 * further is + 2. (PTX ISA, "Shared memory matrix descriptor": address, leading and stride offset
 * in units of 16 bytes, of eight rows here; swizzle mode 1.) */
PFQ_DEVICE uint64_t pfq_wgmma_desc(uint32_t at)
{
    return (uint64_t)((at & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)64 << 32 |
           (uint64_t)1 << 62;
}

/* The same of 16-bit elements whose columns are rows here, 64 a row of 128 bytes: k by k; `next`
 * bytes from one 64 columns to the next. 16 k further is + 128. */
PFQ_DEVICE uint64_t pfq_wgmma_desc_across(uint32_t at, uint32_t next)
{
    return (uint64_t)((at & 0x3ffff) >> 4) | (uint64_t)(next >> 4) << 16 | (uint64_t)64 << 32 |
           (uint64_t)1 << 62;
}

/* The first lane's x, which is every lane's: so that the compiler knows. */
PFQ_DEVICE int32_t pfq_uniform(int32_t x)
{
    return __shfl_sync(~0u, x, 0);
}

#ifndef PFQ_SIMT /* the models are in tests/cuda/simt.h */

/* A wait that takes too long: of what, for what. A program for a GPU may say more. */
#ifndef PFQ_TIMEOUT
#define PFQ_TIMEOUT(of, wanted) asm volatile("trap;")
#endif

PFQ_DEVICE uint32_t pfq_smem(const void *p)
{
    uint64_t at;
    asm("cvta.to.shared.u64 %0, %1;" : "=l"(at) : "l"(p));
    return (uint32_t)at;
}

/* ---- barriers in shared memory: 8 bytes each ---- */

/* For `count` arrivals a phase. Behind the last one: pfq_mbar_ready, then a barrier of the block.
 */
PFQ_DEVICE void pfq_mbar_init(uint32_t bar, uint32_t count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}
PFQ_DEVICE void pfq_mbar_ready()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

PFQ_DEVICE void pfq_mbar_arrive(uint32_t bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
/* Arrives, and makes the phase wait for that many bytes of copies. */
PFQ_DEVICE void pfq_mbar_expect(uint32_t bar, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
                 : "memory");
}

PFQ_DEVICE bool pfq_mbar_try(uint32_t bar, uint32_t parity)
{
    uint32_t done;
    asm volatile("{\n\t.reg .pred p;\n\t"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
                 "selp.u32 %0, 1, 0, p;\n\t}"
                 : "=r"(done)
                 : "r"(bar), "r"(parity)
                 : "memory");
    return done;
}
PFQ_DEVICE uint64_t pfq_nanoseconds()
{
    uint64_t t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    return t;
}
/* Until the phase of that parity is over; the first phase is 0, and 1 is over when all begins. A
 * try takes 20 ns or more, so it gives up after some seconds. */
PFQ_DEVICE void pfq_mbar_wait(uint32_t bar, uint32_t parity)
{
    for (uint32_t left = 1u << 27; !pfq_mbar_try(bar, parity);)
        if (!--left) PFQ_TIMEOUT(bar, parity);
}

/* Copies to shared memory; addresses and size are multiples of 16. Arrives at bar with its bytes.
 */
PFQ_DEVICE void pfq_bulk_load(uint32_t to, const void *from, uint32_t bytes, uint32_t bar)
{
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(to),
        "l"(from), "r"(bytes), "r"(bar)
        : "memory");
}

/* ---- clusters: blocks that reach each other's shared memory ---- */

PFQ_DEVICE int32_t pfq_cluster_rank()
{
    uint32_t r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return (int32_t)r;
}
/* Blocks of the cluster; 1 without. */
PFQ_DEVICE int32_t pfq_cluster_size()
{
    uint32_t n;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(n));
    return (int32_t)n;
}
/* By all threads of all its blocks that have not ended: arrive, behind pfq_mbar_ready, then wait
 * for the others, whose barriers are there from then on, but nothing else that they wrote: a
 * release is a fence of all memory, 0.7 us. */
PFQ_DEVICE void pfq_cluster_arrive()
{
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
PFQ_DEVICE void pfq_cluster_wait()
{
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
/* The address in block `rank` of what is at `at` in this one, for the next: a store that arrives at
 * a barrier of that block with its bytes, as copies do. */
PFQ_DEVICE uint32_t pfq_smem_of(uint32_t at, int32_t rank)
{
    uint32_t there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at), "r"(rank));
    return there;
}
PFQ_DEVICE void pfq_store_of(uint32_t there, int4 v, uint32_t bar)
{
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.s32 [%0], "
                 "{%1, %2, %3, %4}, [%5];" ::"r"(there),
                 "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(bar)
                 : "memory");
}
/* Brings the line at p to the L2. */
PFQ_DEVICE void pfq_prefetch(const void *p)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

/* Copies from shared memory, by groups of the thread's own. The source stays untouched until
 * pfq_bulk_read. */
PFQ_DEVICE void pfq_bulk_store(void *to, uint32_t from, uint32_t bytes)
{
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from),
                 "r"(bytes)
                 : "memory");
}
PFQ_DEVICE void pfq_bulk_commit()
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/* Until the sources of all groups but the last n have been read; until all are where they belong.
 */
template <int n> PFQ_DEVICE void pfq_bulk_read()
{
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(n) : "memory");
}
PFQ_DEVICE void pfq_bulk_done()
{
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

/* What this thread wrote to shared memory can be read by products and copies that are started
 * behind the next barrier. */
PFQ_DEVICE void pfq_smem_to_async()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Four 8 x 8 matrices of 16 bits, transposed: r[m] of lane i is row i / 4, columns 2 * (i % 4) + 0,
 * 1 of matrix m; its column c becomes the 16 bytes at the address that lane 8 * m + c gives. */
PFQ_DEVICE void pfq_store_transposed(uint32_t at, const uint32_t (&r)[4])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

/* Waits at barrier `id` (1..15) for that many threads. */
PFQ_DEVICE void pfq_bar_sync(uint32_t id, uint32_t threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* ---- launches that overlap: nothing without the launch's attribute ---- */

/* Everything that the kernels before this one wrote can be read. */
PFQ_DEVICE void pfq_wait_previous()
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}
/* The next kernel may start, where there is room for it. */
PFQ_DEVICE void pfq_let_next_start()
{
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

/* Registers of a thread from here on, by all warps of a warpgroup. */
template <int n> PFQ_DEVICE void pfq_fewer_registers()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
}
template <int n> PFQ_DEVICE void pfq_more_registers()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
}

/* ---- memory that other blocks write ---- */

PFQ_DEVICE int32_t pfq_atomic_add_acq_rel(int32_t *p, int32_t v)
{
    int32_t old;
    asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], %2;"
                 : "=r"(old)
                 : "l"(p), "r"(v)
                 : "memory");
    return old;
}

PFQ_DEVICE int32_t pfq_load_acquire(const int32_t *p)
{
    int32_t v;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}

/* 16 bytes as the L2 has them. */
PFQ_DEVICE int4 pfq_load_l2(const int4 *p)
{
    int4 v;
    asm volatile("ld.global.cg.v4.s32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p)
                 : "memory");
    return v;
}

/* ---- arithmetic ---- */

/* 2^x and 1 / x: relative error below 2^-22; results below the least normal are 0. */
PFQ_DEVICE float pfq_exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
PFQ_DEVICE float pfq_inverse_fast(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* ---- products ---- */

PFQ_DEVICE void pfq_wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
PFQ_DEVICE void pfq_wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* Until all groups but the last n are done. */
template <int n> PFQ_DEVICE void pfq_wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
}

/* d[64 rows, N] (= or) += a[64, 32] b[N, 32]^T, s8 to s32: a in registers (fragments.cuh says how),
 * b in shared memory. d[4 * j + 2 * h + e] of thread i is row 16 * (i / 32) + i % 32 / 4 + 8 * h,
 * column 8 * j + 2 * (i % 4) + e. Operands stay untouched until pfq_wgmma_wait. */
template <int N> struct PfqWgmma;

#define PFQ_D4(i)  "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3])
#define PFQ_D8(i)  PFQ_D4(i), PFQ_D4(i + 4)
#define PFQ_D16(i) PFQ_D8(i), PFQ_D8(i + 8)
#define PFQ_D32(i) PFQ_D16(i), PFQ_D16(i + 16)
#define PFQ_D64(i) PFQ_D32(i), PFQ_D32(i + 32)
#define PFQ_R4     "%0, %1, %2, %3"
#define PFQ_R8     PFQ_R4 ", %4, %5, %6, %7"
#define PFQ_R16    PFQ_R8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define PFQ_R32                                                                                    \
    PFQ_R16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PFQ_R64                                                                                    \
    PFQ_R32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "   \
            "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PFQ_R128                                                                                   \
    PFQ_R64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "   \
            "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "     \
            "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, "     \
            "%110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, " \
            "%124, %125, %126, %127"
/* n columns; constraints and names of the accumulators; numbers of the other operands. */
#define PFQ_WGMMA(n, outs, names, a0, a1, a2, a3, b, p)                                            \
    template <> struct PfqWgmma<n> {                                                               \
        static __device__ __forceinline__ void run(int32_t (&d)[n / 2], const uint32_t (&a)[4],    \
                                                   uint64_t desc, int32_t add)                     \
        {                                                                                          \
            asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %" #p ", 0;\n\t"                    \
                         "wgmma.mma_async.sync.aligned.m64n" #n "k32.s32.s8.s8 {" names            \
                         "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #b ", p;\n\t}"           \
                         : outs                                                                    \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(desc), "r"(add));       \
        }                                                                                          \
    };
#define PFQ_OUTS(...) __VA_ARGS__
PFQ_WGMMA(8, PFQ_OUTS(PFQ_D4(0)), PFQ_R4, 4, 5, 6, 7, 8, 9)
PFQ_WGMMA(16, PFQ_OUTS(PFQ_D8(0)), PFQ_R8, 8, 9, 10, 11, 12, 13)
PFQ_WGMMA(32, PFQ_OUTS(PFQ_D16(0)), PFQ_R16, 16, 17, 18, 19, 20, 21)
PFQ_WGMMA(64, PFQ_OUTS(PFQ_D32(0)), PFQ_R32, 32, 33, 34, 35, 36, 37)
PFQ_WGMMA(128, PFQ_OUTS(PFQ_D64(0)), PFQ_R64, 64, 65, 66, 67, 68, 69)
PFQ_WGMMA(256, PFQ_OUTS(PFQ_D64(0), PFQ_D64(64)), PFQ_R128, 128, 129, 130, 131, 132, 133)

/* The accumulators are read from here on. */
template <int n> PFQ_DEVICE void pfq_wgmma_done(int32_t (&d)[n])
{
    PFQ_UNROLL
    for (int32_t i = 0; i < n; i++)
        asm volatile("" : "+r"(d[i])::"memory");
}

template <int N>
PFQ_DEVICE void pfq_wgmma(int32_t (&d)[N / 2], const uint32_t (&a)[4], uint64_t desc, bool add)
{
    PfqWgmma<N>::run(d, a, desc, add);
}

/* The same of 16 bits to f32: d[64, N] (= or) += a[64, 16] b[N, 16]^T, a[j]: row as above, k = 8 *
 * (j >> 1) + 2 * (i % 4) ..+1. */
template <int N> struct PfqWgmmaHalves;
template <int N> struct PfqWgmmaAcross; /* of halves, b as pfq_wgmma_desc_across has it */
template <int N> struct PfqWgmmaBf16;

#define PFQ_F4(i)  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define PFQ_F8(i)  PFQ_F4(i), PFQ_F4(i + 4)
#define PFQ_F16(i) PFQ_F8(i), PFQ_F8(i + 8)
#define PFQ_F32(i) PFQ_F16(i), PFQ_F16(i + 16)
#define PFQ_WGMMA_FLOATS(of, type, across, n, outs, names, a0, a1, a2, a3, b, p)                   \
    template <> struct of<n> {                                                                     \
        static __device__ __forceinline__ void run(float (&d)[n / 2], const uint32_t (&a)[4],      \
                                                   uint64_t desc, int32_t add)                     \
        {                                                                                          \
            asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %" #p ", 0;\n\t"                    \
                         "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type           \
                         " {" names "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #b            \
                         ", p, 1, 1, " across ";\n\t}"                                             \
                         : outs                                                                    \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(desc), "r"(add));       \
        }                                                                                          \
    };
PFQ_WGMMA_FLOATS(PfqWgmmaHalves, "f16", "0", 64, PFQ_OUTS(PFQ_F32(0)), PFQ_R32, 32, 33, 34, 35, 36,
                 37)
PFQ_WGMMA_FLOATS(PfqWgmmaHalves, "f16", "0", 128, PFQ_OUTS(PFQ_F32(0), PFQ_F32(32)), PFQ_R64, 64,
                 65, 66, 67, 68, 69)
PFQ_WGMMA_FLOATS(PfqWgmmaAcross, "f16", "1", 64, PFQ_OUTS(PFQ_F32(0)), PFQ_R32, 32, 33, 34, 35, 36,
                 37)
PFQ_WGMMA_FLOATS(PfqWgmmaAcross, "f16", "1", 128, PFQ_OUTS(PFQ_F32(0), PFQ_F32(32)), PFQ_R64, 64,
                 65, 66, 67, 68, 69)
PFQ_WGMMA_FLOATS(PfqWgmmaHalves, "f16", "0", 72, PFQ_OUTS(PFQ_F32(0), PFQ_F4(32)),
                 PFQ_R32 ", %32, %33, %34, %35", 36, 37, 38, 39, 40, 41)
PFQ_WGMMA_FLOATS(PfqWgmmaHalves, "f16", "0", 136, PFQ_OUTS(PFQ_F32(0), PFQ_F32(32), PFQ_F4(64)),
                 PFQ_R64 ", %64, %65, %66, %67", 68, 69, 70, 71, 72, 73)
PFQ_WGMMA_FLOATS(PfqWgmmaBf16, "bf16", "0", 8, PFQ_OUTS(PFQ_F4(0)), PFQ_R4, 4, 5, 6, 7, 8, 9)
PFQ_WGMMA_FLOATS(PfqWgmmaBf16, "bf16", "0", 32, PFQ_OUTS(PFQ_F16(0)), PFQ_R16, 16, 17, 18, 19, 20,
                 21)
PFQ_WGMMA_FLOATS(PfqWgmmaBf16, "bf16", "0", 64, PFQ_OUTS(PFQ_F32(0)), PFQ_R32, 32, 33, 34, 35, 36,
                 37)
PFQ_WGMMA_FLOATS(PfqWgmmaBf16, "bf16", "0", 128, PFQ_OUTS(PFQ_F32(0), PFQ_F32(32)), PFQ_R64, 64, 65,
                 66, 67, 68, 69)

template <int N>
PFQ_DEVICE void pfq_wgmma_halves(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t desc, bool add)
{
    PfqWgmmaHalves<N>::run(d, a, desc, add);
}
template <int N>
PFQ_DEVICE void pfq_wgmma_halves_across(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t desc,
                                        bool add)
{
    PfqWgmmaAcross<N>::run(d, a, desc, add);
}
template <int N>
PFQ_DEVICE void pfq_wgmma_bf16(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t desc, bool add)
{
    PfqWgmmaBf16<N>::run(d, a, desc, add);
}
template <int n> PFQ_DEVICE void pfq_wgmma_done(float (&d)[n])
{
    PFQ_UNROLL
    for (int32_t i = 0; i < n; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

#endif

#endif
