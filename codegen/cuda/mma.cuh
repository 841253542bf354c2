/* Tensor core products of a warp (mma.sync), asynchronous copies to shared memory and the few other
 * instructions that fast attention and its kin use: all of sm_80 and later. Beside each the same in
 * C for tests/cuda. The one place for both.
 *
 * Fragments, with g = lane / 4 and c = lane % 4:
 *   m16n8k32, bytes   a[j]: row g + 8 * (j & 1), k = 16 * (j >> 1) + 4 * c ..+3; b[j]: column g,
 *                     k = 16 * j + 4 * c ..+3; d[j]: row g + 8 * (j >> 1), column 2 * c + (j & 1)
 *   m16n8k64, nibbles as bytes, but of 8 elements a word, the first lowest: k = 32 * (j >> 1) + 8 *
 *                     c ..+7 and k = 32 * j + 8 * c ..+7. Real on sm_80, 86 and 89 alone: later
 *                     chips do it in software
 *   m16n8k8, tf32     a[j]: row g + 8 * (j & 1), k = 4 * (j >> 1) + c; b[j]: column g, k = 4 * j +
 *                     c; d as below. Operands are the bits of f32, of which the upper 19 count
 *   m16n8k16, halves or bf16: a[j]: row g + 8 * (j & 1), k = 8 * (j >> 1) + 2 * c ..+1; b[j]:
 * column g, k = 8 * j + 2 * c ..+1; d as above
 */
#ifndef PFQC_CODEGEN_CUDA_MMA_CUH
#define PFQC_CODEGEN_CUDA_MMA_CUH

#include "intrin.cuh"
#include "lanes.cuh"

struct alignas(16) PfqFour {
    float v[4];
};
struct alignas(16) PfqWords {
    uint32_t v[4];
};

#ifdef PFQ_SIMT

/* Element i of a word that holds bytes, halves, or one f32 as tf32 has it. */
template <bool SIGNED> PFQ_DEVICE int32_t pfq_simt_byte(uint32_t w, int32_t i)
{
    const uint8_t b = (uint8_t)(w >> 8 * i);
    return SIGNED ? (int8_t)b : b;
}
PFQ_DEVICE int32_t pfq_simt_nibble(uint32_t w, int32_t i)
{
    return (int32_t)(w << (28 - 4 * i)) >> 28;
}
PFQ_DEVICE float pfq_simt_half(uint32_t w, int32_t i)
{
    return pfq_h_to_f((uint16_t)(w >> 16 * i));
}
PFQ_DEVICE float pfq_simt_bf16(uint32_t w, int32_t i)
{
    return __uint_as_float(i ? w & 0xffff0000u : w << 16);
}
PFQ_DEVICE float pfq_simt_tf32(uint32_t w, int32_t)
{
    return __uint_as_float(w & 0xffffe000u);
}

/* What the lanes of each warp give to an operation that all see. */
static const uint32_t *pfq_simt_given[32][32];

/* d += a b of words of N elements, which A and B read. */
template <int N, class E, E (*A)(uint32_t, int32_t), E (*B)(uint32_t, int32_t)>
PFQ_DEVICE void pfq_simt_mma(E d[4], const uint32_t a[4], const uint32_t b[2])
{
    const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const uint32_t *const *all = pfq_simt_given[pfq_warp()];
    pfq_simt_given[pfq_warp()][pfq_lane()] = mine;
    __syncwarp();
    const int32_t g = pfq_lane() / 4, c = pfq_lane() % 4;
    for (int32_t j = 0; j < 4; j++)
        for (int32_t k = 0; k < 8 * N; k++) {
            const int32_t from = k % (4 * N) / N, half = k / (4 * N);
            const uint32_t x = all[4 * g + from][(j >> 1) + 2 * half],
                           y = all[4 * (2 * c + (j & 1)) + from][4 + half];
            d[j] += A(x, k % N) * B(y, k % N);
        }
    __syncwarp();
}

template <bool SA, bool SB>
PFQ_DEVICE void pfq_mma_bytes(int32_t d[4], const uint32_t a[4], const uint32_t b[2])
{
    pfq_simt_mma<4, int32_t, pfq_simt_byte<SA>, pfq_simt_byte<SB>>(d, a, b);
}
PFQ_DEVICE void pfq_mma_nibbles(int32_t d[4], const uint32_t a[4], const uint32_t b[2])
{
    pfq_simt_mma<8, int32_t, pfq_simt_nibble, pfq_simt_nibble>(d, a, b);
}
PFQ_DEVICE void pfq_mma_halves(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    pfq_simt_mma<2, float, pfq_simt_half, pfq_simt_half>(d, a, b);
}
PFQ_DEVICE void pfq_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    pfq_simt_mma<2, float, pfq_simt_bf16, pfq_simt_bf16>(d, a, b);
}
PFQ_DEVICE void pfq_mma_tf32(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    pfq_simt_mma<1, float, pfq_simt_tf32, pfq_simt_tf32>(d, a, b);
}

/* Four 8 x 8 matrices of 16 bits, transposed: lane 8 * m + i gives row i of matrix m, 16 bytes of
 * shared memory; r[m] are rows 2 * c and 2 * c + 1 of its column g, as b of a product with halves.
 */
PFQ_DEVICE void pfq_load_transposed(const void *row, uint32_t r[4])
{
    const uint16_t *const *all = (const uint16_t *const *)pfq_simt_given[pfq_warp()];
    pfq_simt_given[pfq_warp()][pfq_lane()] = (const uint32_t *)row;
    __syncwarp();
    const int32_t g = pfq_lane() / 4, c = pfq_lane() % 4;
    for (int32_t m = 0; m < 4; m++)
        r[m] = all[8 * m + 2 * c][g] | (uint32_t)all[8 * m + 2 * c + 1][g] << 16;
    __syncwarp();
}

PFQ_DEVICE void pfq_copy16(void *shared, const void *global)
{
    *(PfqWords *)shared = *(const PfqWords *)global;
}
PFQ_DEVICE void pfq_copy16_or_zero(void *shared, const void *global, bool real)
{
    *(PfqWords *)shared = real ? *(const PfqWords *)global : PfqWords{};
}
PFQ_DEVICE void pfq_copy4_or_zero(void *shared, const void *global, bool real)
{
    *(uint32_t *)shared = real ? *(const uint32_t *)global : 0;
}
PFQ_DEVICE void pfq_copy_commit() {}
template <int N> PFQ_DEVICE void pfq_copy_wait() {}

PFQ_DEVICE float pfq_exp2(float x)
{
    return exp2f(x);
}
PFQ_DEVICE PfqFour pfq_load_l2(const float *p)
{
    return *(const PfqFour *)p;
}
PFQ_DEVICE float pfq_load_l2_one(const float *p)
{
    return *p;
}
/* Differences of two pairs of halves. */
PFQ_DEVICE uint32_t pfq_sub_halves(uint32_t x, uint32_t y)
{
    return pfq_f_to_h(pfq_h_to_f((uint16_t)x) - pfq_h_to_f((uint16_t)y)) |
           (uint32_t)pfq_f_to_h(pfq_h_to_f((uint16_t)(x >> 16)) - pfq_h_to_f((uint16_t)(y >> 16)))
               << 16;
}

/* x y + z of pairs of halves. */
PFQ_DEVICE uint32_t pfq_fma_halves(uint32_t x, uint32_t y, uint32_t z)
{
    return pfq_two_halves(
        fmaf(pfq_h_to_f((uint16_t)x), pfq_h_to_f((uint16_t)y), pfq_h_to_f((uint16_t)z)),
        fmaf(pfq_h_to_f((uint16_t)(x >> 16)), pfq_h_to_f((uint16_t)(y >> 16)),
             pfq_h_to_f((uint16_t)(z >> 16))));
}

#else

template <bool SA, bool SB>
PFQ_DEVICE void pfq_mma_bytes(int32_t d[4], const uint32_t a[4], const uint32_t b[2])
{
#define PFQ_MMA(types)                                                                             \
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32." types                                    \
                 ".s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "                                    \
                 "{%0,%1,%2,%3};"                                                                  \
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
    if (SA && SB)
        PFQ_MMA("s8.s8");
    else if (SA)
        PFQ_MMA("s8.u8");
    else if (SB)
        PFQ_MMA("u8.s8");
    else
        PFQ_MMA("u8.u8");
#undef PFQ_MMA
}

PFQ_DEVICE void pfq_mma_nibbles(int32_t d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                 "{%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

PFQ_DEVICE void pfq_mma_halves(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

PFQ_DEVICE void pfq_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

PFQ_DEVICE void pfq_mma_tf32(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

PFQ_DEVICE void pfq_load_transposed(const void *row, uint32_t r[4])
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

/* 16 bytes to shared memory, past the registers and L1; all of a thread's copies since the last
 * commit are a group; wait<N>: all but the last N of the thread's groups are there. */
PFQ_DEVICE void pfq_copy16(void *shared, const void *global)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(shared)),
                 "l"(global)
                 : "memory");
}
/* 16 zeros if it is not real; then nothing is read. */
PFQ_DEVICE void pfq_copy16_or_zero(void *shared, const void *global, bool real)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(shared)),
                 "l"(global), "r"(real ? 16 : 0)
                 : "memory");
}
/* The same of 4 bytes. */
PFQ_DEVICE void pfq_copy4_or_zero(void *shared, const void *global, bool real)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(shared)),
                 "l"(global), "r"(real ? 4 : 0)
                 : "memory");
}
PFQ_DEVICE void pfq_copy_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int N> PFQ_DEVICE void pfq_copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* 2^x, relative error 2^-22; 0 below -126. */
PFQ_DEVICE float pfq_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* From L2: what other blocks of this launch wrote. */
PFQ_DEVICE PfqFour pfq_load_l2(const float *p)
{
    PfqFour x;
    asm volatile("ld.global.cg.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(x.v[0]), "=f"(x.v[1]), "=f"(x.v[2]), "=f"(x.v[3])
                 : "l"(p));
    return x;
}
PFQ_DEVICE float pfq_load_l2_one(const float *p)
{
    float x;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(x) : "l"(p));
    return x;
}

PFQ_DEVICE uint32_t pfq_sub_halves(uint32_t x, uint32_t y)
{
    uint32_t z;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(z) : "r"(x), "r"(y));
    return z;
}

PFQ_DEVICE uint32_t pfq_fma_halves(uint32_t x, uint32_t y, uint32_t z)
{
    uint32_t r;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(z));
    return r;
}

#endif

#endif
