/* linear.u4g32: 4-bit weights, w = scale * q + offset per row and 32 k, activations s16g32.
 * Contract, launch and roofline: linear.cuh (four dp4a per word of weights and token instead of
 * one).
 *
 * A step is 8 k, four are a group. A step's sum of products is exact in int32 and in f32: |256 * hi
 * + lo| <= 8 * 15 * 32512 < 2^22. Per step: y += sum * (scale * xscale) + offset * (xscale *
 * sum(x)).
 */
#ifndef PFQC_CODEGEN_CUDA_LINEAR_U4G32_CUH
#define PFQC_CODEGEN_CUDA_LINEAR_U4G32_CUH

#include "intrin.cuh"
#include "linear_float.cuh"

enum { LIN_GROUP = 320 }; /* bytes of a group of a tile: 16 scales, 16 offsets f16, 4 steps */

PFQ_DEVICE int32_t lin_groups()
{
    return (c_K + 31) / 32;
}
PFQ_DEVICE int32_t lin_steps()
{
    return 4 * lin_groups();
}
PFQ_DEVICE int64_t lin_tile_bytes()
{
    return LIN_GROUP * (int64_t)lin_groups();
}
PFQ_DEVICE int32_t lin_planes()
{
    return 1;
}

/* 4 f16 of 4 rows. */
struct alignas(8) LinHalves {
    uint16_t row[4];
};

/* What a lane reads of a step of a tile: 4 rows, k = 8j + i in low[row], 8j + 4 + i in high[row].
 */
struct LinGroup {
    float scale[4], offset[4];
    int32_t low[4], high[4];
};

PFQ_DEVICE LinGroup lin_group(const uint8_t *w, int32_t step)
{
    const uint8_t *p = w + LIN_GROUP * (int64_t)(step / 4);
    const int32_t quarter = pfq_lane() % 4;
    const LinHalves s = *(const LinHalves *)(p + 8 * quarter),
                    o = *(const LinHalves *)(p + 32 + 8 * quarter);
    const LinWords k = *(const LinWords *)(p + 64 + 64 * (step % 4) + 16 * quarter);
    LinGroup g;
    PFQ_UNROLL
    for (int32_t r = 0; r < 4; r++) {
        g.scale[r] = pfq_h_to_f(s.row[r]);
        g.offset[r] = pfq_h_to_f(o.row[r]);
        g.low[r] = (int32_t)(k.row[r] & 0x0f0f0f0fu);
        g.high[r] = (int32_t)(k.row[r] >> 4 & 0x0f0f0f0fu);
    }
    return g;
}

/* 256 times the sum of hi's products with 8 weights, plus that of lo's. */
PFQ_DEVICE float lin_dot(const int32_t hi[2], const int32_t lo[2], int32_t low, int32_t high)
{
    const int32_t h = __dp4a(hi[1], high, __dp4a(hi[0], low, 0));
    return (float)__dp4a(lo[1], high, __dp4a(lo[0], low, 256 * h));
}

PFQ_DEVICE void lin_add(const Lin &l, const uint8_t *const w[2], int32_t step, int32_t t, int32_t n,
                        float *v)
{
    const LinGroup g[2] = {lin_group(w[0], step), lin_group(w[1], step)};
    const int64_t at = (int64_t)l.t0 * lin_groups() + step / 4;
    const int32_t *x = (const int32_t *)l.a->in[0] + 16 * at + 2 * (step % 4);
    const float *scales = (const float *)l.a->in[1] + at;
    PFQ_UNROLL
    for (int32_t j = 0; j < n; j++) {
        const int32_t row = (lin_token(l, t + j) - l.t0) * lin_groups();
        const int32_t hi[2] = {x[16 * row], x[16 * row + 1]},
                      lo[2] = {x[16 * row + 8], x[16 * row + 9]};
        const float scale = scales[row];
        const float sum = scale * lin_dot(hi, lo, 0x01010101, 0x01010101);
        PFQ_UNROLL
        for (int32_t r = 0; r < 8; r++) { /* of both tiles */
            const LinGroup &k = g[r / 4];
            float *s = v + (r / 4 * n + j) * 4 + r % 4;
            const float dot = lin_dot(hi, lo, k.low[r % 4], k.high[r % 4]);
            *s = fmaf(dot, k.scale[r % 4] * scale, *s);
            *s = fmaf(k.offset[r % 4], sum, *s);
        }
    }
}

#endif
