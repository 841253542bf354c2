/* 16-bit floats: exact widening, round-half-even narrowing (IEEE 754; bfloat16 as the upper half of
 * a float). */
#ifndef PFQC_IR_BASE_HALF_H
#define PFQC_IR_BASE_HALF_H

#include "ir/base/arena.h"

#include <string.h>

static inline float f32_bits(u32 b)
{
    float f;
    memcpy(&f, &b, 4);
    return f;
}

static inline u32 bits_f32(float f)
{
    u32 b;
    memcpy(&b, &f, 4);
    return b;
}

static inline float bf16_to_f32(u16 h)
{
    return f32_bits((u32)h << 16);
}

static inline u16 f32_to_bf16(float f)
{
    u32 b = bits_f32(f);
    if ((b & 0x7fffffff) > 0x7f800000) return (u16)(b >> 16 | 0x40); /* keep NaNs quiet */
    return (u16)((b + 0x7fff + (b >> 16 & 1)) >> 16);
}

static inline float f16_to_f32(u16 h)
{
    u32 sign = (u32)(h & 0x8000) << 16, exp = h >> 10 & 31, man = h & 0x3ff;
    if (exp == 31) return f32_bits(sign | 0x7f800000 | man << 13);
    if (exp) return f32_bits(sign | (exp + 112) << 23 | man << 13);
    float sub = (float)man * 0x1p-24f; /* zero or subnormal: exact */
    return f32_bits(bits_f32(sub) | sign);
}

static inline u16 f32_to_f16(float f)
{
    u32 b = bits_f32(f), sign = b >> 16 & 0x8000, a = b & 0x7fffffff;
    if (a > 0x7f800000) return (u16)(sign | 0x7e00 | (a >> 13 & 0x3ff));
    if (a >= 0x477ff000) return (u16)(sign | 0x7c00); /* rounds to infinity: >= 65520 */
    if (a >= 0x38800000) {                            /* normal */
        u32 r = a - 0x38000000;
        return (u16)(sign | (r + 0xfff + (r >> 13 & 1)) >> 13);
    }
    /* Subnormal: adding 0.5 aligns the mantissa so that the FPU rounds half to even for us. */
    float t = f32_bits(a) + 0.5f;
    return (u16)(sign | (bits_f32(t) - 0x3f000000));
}

#endif
