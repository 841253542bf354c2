/* What the persistent kernel needs beyond hopper.cuh: words that blocks of a cooperative grid
 * share, loads that do not see a stale L1, products of one warp, and exp2. Each has a model for
 * tests/cuda.
 *
 * Blocks that wait for each other are all resident (a cooperative launch). Every wait is bounded as
 * in hopper.cuh: it ends the kernel with an error.
 */
#ifndef PFQC_CODEGEN_CUDA_GRID_CUH
#define PFQC_CODEGEN_CUDA_GRID_CUH

#include "hopper.cuh"
#include "intrin.cuh"

/* Members of structs. */
#ifdef PFQ_SIMT
#define PFQ_MEMBER inline __attribute__((always_inline))
#define PFQ_STATIC static PFQ_MEMBER
#else
#define PFQ_MEMBER __device__ __forceinline__
#define PFQ_STATIC static PFQ_MEMBER
#endif

/* Where part i of n equal ones begins, of `all`. */
PFQ_DEVICE int32_t pfq_share_of(int32_t all, int32_t i, int32_t n)
{
    return (int32_t)((int64_t)all * i / n);
}
PFQ_DEVICE int32_t pfq_share(int32_t all, int32_t i)
{
    return pfq_share_of(all, i, (int32_t)gridDim.x);
}

struct alignas(16) PfqFour {
    float v[4];
};
struct alignas(16) PfqInts {
    int32_t v[4];
};
struct alignas(16) PfqWords {
    uint32_t v[4];
};

#ifdef PFQ_SIMT

PFQ_DEVICE void pfq_red_release(int32_t *p, int32_t v)
{
    *p += v;
    simt_event();
}
PFQ_DEVICE void pfq_red_add(int32_t *p, int32_t v)
{
    *p += v;
}
PFQ_DEVICE void pfq_wait_count(const int32_t *p, int32_t target)
{
    while (*(volatile const int32_t *)p - target < 0)
        simt_park();
    simt_event();
}
template <class T> PFQ_DEVICE T pfq_fresh(const T *p)
{
    return *p;
}
PFQ_DEVICE void pfq_put_word(uint64_t *p, int32_t v, int32_t flag)
{
    *p = (uint64_t)(uint32_t)flag << 32 | (uint32_t)v;
    simt_event();
}
template <int32_t n>
PFQ_DEVICE void pfq_get_words(const uint64_t *const (&p)[n], int32_t flag, int32_t (&v)[n])
{
    for (int32_t i = 0; i < n; i++) {
        while (p[i] && (int32_t)(*(volatile const uint64_t *)p[i] >> 32) != flag)
            simt_park();
        v[i] = p[i] ? (int32_t)*p[i] : 0;
    }
    simt_event();
}
PFQ_DEVICE void pfq_put_pair(uint64_t *p, int32_t v0, int32_t v1, int32_t flag)
{
    pfq_put_word(p, v0, flag);
    pfq_put_word(p + 1, v1, flag);
}
PFQ_DEVICE void pfq_put_flag(int32_t *p, int32_t flag)
{
    *p = flag;
    simt_event();
}
PFQ_DEVICE void pfq_wait_flag(const int32_t *p, int32_t flag)
{
    while (*(volatile const int32_t *)p != flag)
        simt_park();
    simt_event();
}
template <int32_t n>
PFQ_DEVICE void pfq_get_pairs(const uint64_t *const (&p)[n], int32_t flag, int32_t (&v)[n][2])
{
    for (int32_t i = 0; i < n; i++) {
        const uint64_t *const both[2] = {p[i], p[i] ? p[i] + 1 : NULL};
        pfq_get_words(both, flag, v[i]);
    }
}
PFQ_DEVICE void pfq_mbar_arrive_n(uint32_t bar, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        simt_mbar_arrive(bar, 0);
}
PFQ_DEVICE float pfq_exp2(float x)
{
    return exp2f(x);
}
PFQ_DEVICE int64_t pfq_clock()
{
    return 0;
}
PFQ_DEVICE void pfq_bulk_stream(uint32_t to, const void *from, uint32_t bytes, uint32_t bar)
{
    pfq_bulk_load(to, from, bytes, bar);
}

/* Of all lanes: what the product reads. */
struct SimtMma {
    uint32_t a[4], b[2];
};
PFQ_DEVICE void pfq_mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    const int32_t lane = pfq_lane(), g = lane / 4, q = lane % 4;
    for (int32_t i = 0; i < 4; i++) {
        /* lane 4 * row + i holds k = 4i .. 4i + 3 (and + 16) of a row of a, and of a column of b */
        uint32_t w[4];
        for (int32_t j = 0; j < 4; j++)
            w[j] = __shfl_sync(~0u, a[j], 4 * g + i);
        for (int32_t c = 0; c < 2; c++) {
            const uint32_t x = __shfl_sync(~0u, b0, 4 * (2 * q + c) + i),
                           y = __shfl_sync(~0u, b1, 4 * (2 * q + c) + i);
            d[c] = __dp4a((int)w[2], (int)y, __dp4a((int)w[0], (int)x, d[c]));
            d[2 + c] = __dp4a((int)w[3], (int)y, __dp4a((int)w[1], (int)x, d[2 + c]));
        }
    }
}
/* The same of halves. */
PFQ_DEVICE void pfq_mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    const int32_t lane = pfq_lane(), g = lane / 4, q = lane % 4;
    const uint32_t b[2] = {b0, b1};
    for (int32_t i = 0; i < 4; i++)
        for (int32_t h = 0; h < 2; h++) { /* k = 8h + 2i, and 1 more */
            const uint32_t x = __shfl_sync(~0u, a[2 * h], 4 * g + i),
                           y = __shfl_sync(~0u, a[2 * h + 1], 4 * g + i);
            for (int32_t c = 0; c < 2; c++) {
                const uint32_t z = __shfl_sync(~0u, b[h], 4 * (2 * q + c) + i);
                for (int32_t e = 0; e < 32; e += 16) {
                    d[c] += pfq_h_to_f((uint16_t)(x >> e)) * pfq_h_to_f((uint16_t)(z >> e));
                    d[2 + c] += pfq_h_to_f((uint16_t)(y >> e)) * pfq_h_to_f((uint16_t)(z >> e));
                }
            }
        }
}
PFQ_DEVICE uint32_t pfq_fma_f16(uint32_t x, uint32_t y, uint32_t z)
{
    return pfq_two_halves(
        fmaf(pfq_h_to_f((uint16_t)x), pfq_h_to_f((uint16_t)y), pfq_h_to_f((uint16_t)z)),
        fmaf(pfq_h_to_f((uint16_t)(x >> 16)), pfq_h_to_f((uint16_t)(y >> 16)),
             pfq_h_to_f((uint16_t)(z >> 16))));
}

#else

/* Adds to a counter; all that the block's threads wrote before a barrier of the block can be read
 * by whoever sees the sum. */
PFQ_DEVICE void pfq_red_release(int32_t *p, int32_t v)
{
    asm volatile("red.release.gpu.global.add.s32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
PFQ_DEVICE void pfq_red_add(int32_t *p, int32_t v)
{
    asm volatile("red.relaxed.gpu.global.add.s32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
/* Until the counter has reached target; counters may wrap around. */
PFQ_DEVICE void pfq_wait_count(const int32_t *p, int32_t target)
{
    if (pfq_load_acquire(p) - target >= 0) return;
    const uint64_t end = pfq_nanoseconds() + 2000000000;
    for (int32_t i = 1; pfq_load_acquire(p) - target < 0; i++)
        if (i % 1024 == 0 && pfq_nanoseconds() > end)
            PFQ_TIMEOUT((uint32_t)pfq_load_acquire(p), (uint32_t)target);
}

/* A word and the flag that says that it is there, in one store; the word, once its flag is there.
 */
PFQ_DEVICE void pfq_put_word(uint64_t *p, int32_t v, int32_t flag)
{
    asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(p),
                 "l"((uint64_t)(uint32_t)flag << 32 | (uint32_t)v)
                 : "memory");
}
/* Two beside each other, from a multiple of 16 on. */
PFQ_DEVICE void pfq_put_pair(uint64_t *p, int32_t v0, int32_t v1, int32_t flag)
{
    asm volatile("st.relaxed.gpu.global.v2.b64 [%0], {%1, %2};" ::"l"(p),
                 "l"((uint64_t)(uint32_t)flag << 32 | (uint32_t)v0),
                 "l"((uint64_t)(uint32_t)flag << 32 | (uint32_t)v1)
                 : "memory");
}
PFQ_DEVICE uint64_t pfq_load_word(const uint64_t *p)
{
    uint64_t v;
    asm volatile("ld.relaxed.gpu.global.b64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
    return v;
}
/* n words at once, so that their loads overlap; NULL: 0. */
template <int32_t n>
PFQ_DEVICE void pfq_get_words(const uint64_t *const (&p)[n], int32_t flag, int32_t (&v)[n])
{
    uint64_t end = 0;
    for (int32_t turn = 0;; turn++) {
        uint64_t w[n];
        bool all = true;
        PFQ_UNROLL
        for (int32_t i = 0; i < n; i++)
            w[i] = p[i] ? pfq_load_word(p[i]) : (uint64_t)(uint32_t)flag << 32;
        PFQ_UNROLL
        for (int32_t i = 0; i < n; i++) {
            all = all && (int32_t)(w[i] >> 32) == flag;
            v[i] = (int32_t)w[i];
        }
        if (all) return;
        if (turn % 1024 == 0) {
            const uint64_t now = pfq_nanoseconds();
            if (!turn) end = now + 2000000000;
            if (now > end) PFQ_TIMEOUT((uint32_t)(w[0] >> 32), (uint32_t)flag);
        }
    }
}

/* The same beside what it is the flag of: all that the block's threads wrote before a barrier, or
 * the warp's, can be read behind a barrier by those of whom one has waited for it. */
PFQ_DEVICE void pfq_put_flag(int32_t *p, int32_t flag)
{
    asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(p), "r"(flag) : "memory");
}
PFQ_DEVICE void pfq_wait_flag(const int32_t *p, int32_t flag)
{
    if (pfq_load_acquire(p) == flag) return;
    const uint64_t end = pfq_nanoseconds() + 2000000000;
    for (int32_t i = 1; pfq_load_acquire(p) != flag; i++)
        if (i % 1024 == 0 && pfq_nanoseconds() > end)
            PFQ_TIMEOUT((uint32_t)pfq_load_acquire(p), (uint32_t)flag);
}

/* n pairs of words beside each other, each from a multiple of 16 on. */
template <int32_t n>
PFQ_DEVICE void pfq_get_pairs(const uint64_t *const (&p)[n], int32_t flag, int32_t (&v)[n][2])
{
    uint64_t end = 0;
    for (int32_t turn = 0;; turn++) {
        uint64_t w[n][2];
        bool all = true;
        PFQ_UNROLL
        for (int32_t i = 0; i < n; i++) {
            w[i][0] = w[i][1] = (uint64_t)(uint32_t)flag << 32;
            if (p[i])
                asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];"
                             : "=l"(w[i][0]), "=l"(w[i][1])
                             : "l"(p[i])
                             : "memory");
        }
        PFQ_UNROLL
        for (int32_t i = 0; i < 2 * n; i++) {
            all = all && (int32_t)(w[i / 2][i % 2] >> 32) == flag;
            v[i / 2][i % 2] = (int32_t)w[i / 2][i % 2];
        }
        if (all) return;
        if (turn % 1024 == 0) {
            const uint64_t now = pfq_nanoseconds();
            if (!turn) end = now + 2000000000;
            if (now > end) PFQ_TIMEOUT((uint32_t)(w[0][0] >> 32), (uint32_t)flag);
        }
    }
}

/* What other blocks have written. */
PFQ_DEVICE float pfq_fresh(const float *p)
{
    float v;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(v) : "l"(p) : "memory");
    return v;
}
PFQ_DEVICE int32_t pfq_fresh(const int32_t *p)
{
    int32_t v;
    asm volatile("ld.global.cg.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
PFQ_DEVICE PfqInts pfq_fresh(const PfqInts *p)
{
    PfqInts v;
    asm volatile("ld.global.cg.v4.s32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.v[0]), "=r"(v.v[1]), "=r"(v.v[2]), "=r"(v.v[3])
                 : "l"(p)
                 : "memory");
    return v;
}

PFQ_DEVICE void pfq_mbar_arrive_n(uint32_t bar, uint32_t n)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(n) : "memory");
}

/* pfq_bulk_load of what nobody reads again: leaves L2 first, so that what is small and read every
 * step stays there. */
PFQ_DEVICE void pfq_bulk_stream(uint32_t to, const void *from, uint32_t bytes, uint32_t bar)
{
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1], %2, [%3], %4;" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(bar), "l"(policy)
                 : "memory");
}

/* The multiprocessor's clock. */
PFQ_DEVICE int64_t pfq_clock()
{
    int64_t t;
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(t)::"memory");
    return t;
}

/* 2^x: relative error below 2^-22; 0 for very small x. */
PFQ_DEVICE float pfq_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* d[16, 8] += a[16, 32] b[8, 32]^T, s8 to s32, by a warp: registers of a as in fragments.cuh (the
 * rows of a warp), b0 and b1 of lane i: column i / 4, k = 4 * (i % 4) .. + 3 and 16 more; d[2 * h +
 * e]: row i / 4 + 8 * h, column 2 * (i % 4) + e. */
PFQ_DEVICE void pfq_mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* The same of halves to f32: d[16, 8] += a[16, 16] b[8, 16]^T; a[j]: row i / 4 + 8 * (j & 1), k = 8
 * * (j >> 1) + 2 * (i % 4) and one more; b0, b1: column i / 4, k = 2 * (i % 4) .. + 1 and 8 more.
 */
PFQ_DEVICE void pfq_mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/* x y + z of pairs of halves. */
PFQ_DEVICE uint32_t pfq_fma_f16(uint32_t x, uint32_t y, uint32_t z)
{
    uint32_t r;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(z));
    return r;
}

#endif

#endif
