/* Device instructions that CUDA gives no built-in function for, and a host twin of each for
 * tests/cuda. The one place for both.
 */
#ifndef PFQC_CODEGEN_CUDA_INTRIN_CUH
#define PFQC_CODEGEN_CUDA_INTRIN_CUH

#include "kernel.cuh"

#ifdef PFQ_SIMT

/* f16 to f32, exact. */
PFQ_DEVICE float pfq_h_to_f(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023;
    if (e == 0) return __uint_as_float(sign | __float_as_uint((float)m * 0x1p-24f));
    return __uint_as_float(sign | (e == 31 ? 0x7f800000u : (e + 112) << 23) | m << 13);
}

/* f32 to f16, to nearest even. */
PFQ_DEVICE uint16_t pfq_f_to_h(float x)
{
    const uint32_t b = __float_as_uint(x), sign = b >> 16 & 0x8000, a = b & 0x7fffffff;
    if (a > 0x7f800000) return (uint16_t)(sign | 0x7fff);
    if (a >= 0x47800000) return (uint16_t)(sign | 0x7c00); /* 65536 and above */
    if (a < 0x38800000) /* below the least normal: a multiple of 2^-24 */
        return (uint16_t)(sign | (uint32_t)rintf(fabsf(x) * 0x1p24f));
    return (uint16_t)(sign | (a - 0x38000000 + 0xfff + (a >> 13 & 1)) >> 13);
}

/* Two f32 to halves, lo in the low one. */
PFQ_DEVICE uint32_t pfq_two_halves(float lo, float hi)
{
    return pfq_f_to_h(lo) | (uint32_t)pfq_f_to_h(hi) << 16;
}
/* The same, what is too large for a half as the largest. */
PFQ_DEVICE uint32_t pfq_two_halves_clamped(float lo, float hi)
{
    return pfq_two_halves(fminf(fmaxf(lo, -65504.0f), 65504.0f),
                          fminf(fmaxf(hi, -65504.0f), 65504.0f));
}

/* Two f32 to bf16, lo in the low one. */
PFQ_DEVICE uint32_t pfq_two_bf16(float lo, float hi)
{
    const uint32_t x = __float_as_uint(lo), y = __float_as_uint(hi);
    return (x + 0x7fffu + (x >> 16 & 1)) >> 16 | ((y + 0x7fffu + (y >> 16 & 1)) & 0xffff0000u);
}

/* u8 times s8, four of each, plus c. */
PFQ_DEVICE int32_t pfq_dp4a_us(uint32_t u, int32_t v, int32_t c)
{
    for (int i = 0; i < 32; i += 8)
        c += (uint8_t)(u >> i) * (int8_t)(v >> i);
    return c;
}

#else

PFQ_DEVICE float pfq_h_to_f(uint16_t h)
{
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
    return x;
}

PFQ_DEVICE uint16_t pfq_f_to_h(float x)
{
    uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
}

PFQ_DEVICE uint32_t pfq_two_halves(float lo, float hi)
{
    uint32_t y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(hi), "f"(lo));
    return y;
}
PFQ_DEVICE uint32_t pfq_two_halves_clamped(float lo, float hi)
{
    uint32_t y = pfq_two_halves(lo, hi);
    asm("min.f16x2 %0, %0, %1;\n\tmax.f16x2 %0, %0, %2;"
        : "+r"(y)
        : "r"(0x7bff7bffu), "r"(0xfbfffbffu));
    return y;
}

PFQ_DEVICE uint32_t pfq_two_bf16(float lo, float hi)
{
    uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(hi), "f"(lo));
    return y;
}

PFQ_DEVICE int32_t pfq_dp4a_us(uint32_t u, int32_t v, int32_t c)
{
    asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(c) : "r"(u), "r"(v));
    return c;
}

#endif

#endif
