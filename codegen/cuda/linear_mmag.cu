/* linear.u4g32 of any number of tokens, as a family of linear_mma.cuh. A block is a group of 32 k.
 * Its sums, of each plane of the activations, are exact: they begin with the bits of 1.5 * 2^23,
 * whose unit is 1, and so are floats as they come, larger by that. Then, as the CPUs' kernels have
 * it, y += sum * (scale * xscale) + offset * (xscale * sum(x)): sum(x) is a product, too, with rows
 * of ones.
 *
 * Roofline: six multiply-adds or additions in f32 of each sum, beside two products: of an A100 some
 * 300 multiply-adds of weights a cycle and SM.
 */
#include "linear_u4g32.cuh"

enum {
    MMA_HEAD = 0,
    MMA_TOP = 64, /* scales and offsets */
    MMA_UNITS = 1,
    MMA_SCALES = 1,
    MMA_CLASSES = 4
};
#include "linear_mma.cuh"

PFQ_DEVICE int32_t mma_row_bytes()
{
    return MMA_BYTES * lin_groups();
}
PFQ_DEVICE const uint8_t *mma_x(const PfqCudaArgs &a, int32_t t, int32_t k)
{
    return (const uint8_t *)a.in[0] + (int64_t)t * mma_row_bytes() + k;
}

/* A lane's share of a token's group: 8 k of each plane. */
struct MmaPlanes {
    uint32_t hi[2], lo[2];
};
struct alignas(8) MmaTwo {
    uint32_t v[2];
};

PFQ_DEVICE MmaPlanes mma_planes(const uint8_t *token, int32_t g, int32_t c)
{
    const MmaTwo hi = *(const MmaTwo *)(token + mma_x_unit(g, c / 2) * 16 + c % 2 * 8),
                 lo = *(const MmaTwo *)(token + mma_x_unit(g, 2 + c / 2) * 16 + c % 2 * 8);
    return {{hi.v[0], hi.v[1]}, {lo.v[0], lo.v[1]}};
}

/* The sums of 4 products of a and a token's group. */
PFQ_DEVICE void mma_group(const uint32_t a[4], const MmaPlanes &x, float sum[4])
{
    const float zero = 12582912.0f;
    int32_t hi[4], lo[4];
    PFQ_UNROLL
    for (int32_t j = 0; j < 4; j++)
        hi[j] = lo[j] = __float_as_int(zero);
    pfq_mma_bytes<true, true>(hi, a, x.hi);
    pfq_mma_bytes<true, true>(lo, a, x.lo);
    PFQ_UNROLL
    for (int32_t j = 0; j < 4; j++)
        sum[j] = fmaf(__int_as_float(hi[j]) - zero, 256.0f, __int_as_float(lo[j]) - zero);
}

/* What a lane has of 32 rows' weights: of 4, the first two's operand and the other two's. */
struct MmaWeights {
    uint32_t a[2][4];
    float scale[4], offset[4];
};

PFQ_DEVICE MmaWeights mma_weights(const uint8_t *block, int32_t g, int32_t c)
{
    const int32_t q = g % 4;
    const LinHalves s = *(const LinHalves *)(block + 8 * q),
                    o = *(const LinHalves *)(block + 32 + 8 * q);
    const PfqWords k = *(const PfqWords *)(block + mma_w_unit(MMA_TOP / 16 + 4 * c + q) * 16);
    MmaWeights w;
    PFQ_UNROLL
    for (int32_t r = 0; r < 4; r++) {
        w.scale[r] = pfq_h_to_f(s.row[r]);
        w.offset[r] = pfq_h_to_f(o.row[r]);
        w.a[r / 2][r % 2] = k.v[r] & 0x0f0f0f0fu;
        w.a[r / 2][r % 2 + 2] = k.v[r] >> 4 & 0x0f0f0f0fu;
    }
    return w;
}

template <class S> PFQ_DEVICE void mma_block(const MmaAt &at, MmaSums<S> &d)
{
    const int32_t g = pfq_lane() / 4, c = pfq_lane() % 4;
    const uint32_t ones[4] = {0x01010101u, 0x01010101u, 0x01010101u, 0x01010101u};
    MmaWeights w[S::PAIRS];
    PFQ_UNROLL
    for (int32_t p = 0; p < S::PAIRS; p++)
        w[p] = mma_weights(at.w + (2 * p + g / 4) * S::BLOCKS * MMA_TILE, g, c);
    PFQ_UNROLL
    for (int32_t n = 0; n < S::GROUPS; n++) {
        const MmaPlanes x = mma_planes(at.x + (8 * n + g) * MMA_BYTES, g, c);
        const float2 scale = *(const float2 *)(at.scales + 8 * n + 2 * c);
        const float xs[2] = {scale.x, scale.y};
        float sum[4], all[4];
        mma_group(ones, x, all);
        PFQ_UNROLL
        for (int32_t i = 0; i < 2 * S::PAIRS; i++) {
            const MmaWeights &k = w[i / 2];
            mma_group(k.a[i % 2], x, sum);
            PFQ_UNROLL
            for (int32_t j = 0; j < 4; j++) {
                const int32_t r = i % 2 * 2 + j / 2;
                float &y = d[i / 2][i % 2][n][j];
                y = fmaf(sum[j], k.scale[r] * xs[j % 2], y);
                y = fmaf(k.offset[r], xs[j % 2] * all[j % 2], y);
            }
        }
    }
}

#define MMAG(name, ...) MMA_KERNEL(name, __VA_ARGS__)
#include "linear_mma_list.cuh"
