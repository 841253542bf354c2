/* Sums and maxima over a warp, rounding to integers: what norms, quantisers, heads and attention
 * share.
 */
#ifndef PFQC_CODEGEN_CUDA_LANES_CUH
#define PFQC_CODEGEN_CUDA_LANES_CUH

#include "kernel.cuh"

/* In front of a loop whose bounds are constants where it is used: arrays that it indexes stay in
 * registers. */
#ifdef PFQ_SIMT
#define PFQ_UNROLL
#define PFQ_LOOP            /* the opposite: one copy of the body */
#define PFQ_CALL PFQ_DEVICE /* a function of which there is one copy */
#else
#define PFQ_UNROLL _Pragma("unroll")
#define PFQ_LOOP   _Pragma("unroll 1")
#define PFQ_CALL   static __device__ __noinline__
#endif

PFQ_DEVICE int32_t pfq_up(int32_t x, int32_t m)
{
    return (x + m - 1) / m * m;
}

/* The caller's number in its warp, and its warp's in the block. */
PFQ_DEVICE int32_t pfq_lane()
{
    return (int32_t)(threadIdx.x & 31);
}
PFQ_DEVICE int32_t pfq_warp()
{
    return (int32_t)(threadIdx.x >> 5);
}

/* A stage of a Walsh-Hadamard transform: sums and differences of v[i] and v[i + h]. */
template <int32_t N> PFQ_DEVICE void pfq_butterflies(float *v, int32_t h)
{
    PFQ_UNROLL
    for (int32_t i = 0; i < N; i++) {
        if (i & h) continue;
        const float x = v[i], y = v[i + h];
        v[i] = x + y;
        v[i + h] = x - y;
    }
}

/* Over the four lanes of a quad, which have a row of a fragment together, in each of them. */
PFQ_DEVICE float pfq_quad_sum(float x)
{
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}
PFQ_DEVICE float pfq_quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

/* Over all lanes, in every lane, in one order. */
PFQ_DEVICE float pfq_warp_sum(float x)
{
    for (int32_t h = 16; h; h /= 2)
        x += __shfl_xor_sync(~0u, x, h);
    return x;
}
PFQ_DEVICE float pfq_warp_max(float x)
{
    for (int32_t h = 16; h; h /= 2)
        x = fmaxf(x, __shfl_xor_sync(~0u, x, h));
    return x;
}

/* 1 / s, 0 for 0: integers of a scale of 0 are 0. */
PFQ_DEVICE float pfq_inv(float s)
{
    return s > 0.0f ? 1.0f / s : 0.0f;
}

/* clamp(round-half-even(x * inv), lo, hi), lo and hi below 2^22: clamped first, then 1.5 * 2^23 is
 * added, whose unit is 1, so that the low bits of the sum, which are enough for bytes, are the
 * integer's. */
PFQ_DEVICE int32_t pfq_quant_bits(float x, float inv, int32_t lo, int32_t hi)
{
    return __float_as_int(fminf(fmaxf(x * inv, (float)lo), (float)hi) + 12582912.0f);
}
PFQ_DEVICE int32_t pfq_quant(float x, float inv, int32_t lo, int32_t hi)
{
    return pfq_quant_bits(x, inv, lo, hi) - 0x4b400000;
}

/* The low bytes of four integers, the first's lowest. */
PFQ_DEVICE uint32_t pfq_four_bytes(int32_t a, int32_t b, int32_t c, int32_t d)
{
    return __byte_perm(__byte_perm((uint32_t)a, (uint32_t)b, 0x0040),
                       __byte_perm((uint32_t)c, (uint32_t)d, 0x0040), 0x5410);
}

#endif
