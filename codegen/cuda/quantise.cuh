/* Quantisation of one row of K f32 by a block, into the formats of ARCHITECTURE.md, "Activations a
 * kernel reads": the twin of codegen/cpu/quantise.h, which states rounding and scales.
 *
 * The row lies in shared memory. Thread i reads and writes its columns k = i (mod blockDim.x) only,
 * so a thread that made them needs no barrier; 32 columns of a group are the lanes of one warp.
 */
#ifndef PFQC_CODEGEN_CUDA_QUANTISE_CUH
#define PFQC_CODEGEN_CUDA_QUANTISE_CUH

#include "intrin.cuh"
#include "reduce.cuh"
#include "tiles.cuh"

PFQ_CONST(int32_t, c_qlo);
PFQ_CONST(int32_t, c_qhi);
PFQ_CONST(float, c_qtop);
PFQ_CONST(float, c_clip);
PFQ_CONST(int32_t, c_tiles);
PFQ_CONST(int32_t, c_xshift);

/* Bytes of one row of integers. */
PFQ_DEVICE int64_t pfq_quant_stride(int32_t fmt, int32_t K)
{
    if (fmt == PFQ_FMT_S8) return pfq_up(K, 64);
    return 2 * (int64_t)pfq_up(K, fmt == PFQ_FMT_S16 ? 64 : 32);
}

/* f32 scales per row. */
PFQ_DEVICE int32_t pfq_quant_scales(int32_t fmt, int32_t K)
{
    return fmt == PFQ_FMT_S16G32 ? (K + 31) / 32 : 1;
}

/* The byte x + 128 of format s8. */
PFQ_DEVICE uint8_t pfq_quant_byte(float x, float inv)
{
    return (uint8_t)(pfq_quant(x, inv, c_qlo, c_qhi) + 128);
}

/* Four integers as the bytes of tiles; those of rows are ^ 0x80 of them. */
PFQ_DEVICE uint32_t pfq_quant_four(const float *x, float inv)
{
    return pfq_four_bytes(
        pfq_quant_bits(x[0], inv, c_qlo, c_qhi), pfq_quant_bits(x[1], inv, c_qlo, c_qhi),
        pfq_quant_bits(x[2], inv, c_qlo, c_qhi), pfq_quant_bits(x[3], inv, c_qlo, c_qhi));
}

/* Four of these as tiles have them: with c_xshift 4, integers of 4 bits lie in the high half of
 * their bytes, as weights of 4 bits do: tensor cores then toggle less, and draw less power. */
PFQ_DEVICE uint32_t pfq_tiled(uint32_t w)
{
    return c_xshift == 4 ? w << 4 & 0xf0f0f0f0u : w;
}

/* 1 / scale of format s8 for values up to m; the scale to *scale, by one thread. */
PFQ_DEVICE float pfq_quant_dynamic(float m, float *scale)
{
    m *= c_clip;
    if (threadIdx.x == 0) *scale = m / c_qtop;
    return m > 0.0f ? c_qtop / m : 0.0f;
}

/* Column k of row t of format s8, or with c_tiles of tiles of c_tiles rows. */
PFQ_DEVICE void pfq_quant_put(uint64_t out, int64_t t, int32_t K, int32_t k, float x, float inv)
{
    const uint8_t byte = pfq_quant_byte(x, inv);
    if (c_tiles)
        ((uint8_t *)out)[pfq_tile_at(c_tiles, (int32_t)t, k)] = (uint8_t)pfq_tiled(byte ^ 128u);
    else
        ((uint8_t *)out)[t * pfq_quant_stride(PFQ_FMT_S8, K) + k] = byte;
}

/* The columns of padding that a tile's row of K bytes ends in, by the block. */
PFQ_DEVICE void pfq_quant_pad(uint64_t out, int64_t t, int32_t K)
{
    for (int32_t k = K + (int32_t)threadIdx.x; c_tiles && k < pfq_up(K, 128); k += blockDim.x)
        ((uint8_t *)out)[pfq_tile_at(c_tiles, (int32_t)t, k)] = 0;
}

/* Integers of row t, of format s8. */
PFQ_DEVICE void pfq_quant_bytes(const float *y, int32_t K, uint64_t out, int64_t t, float inv)
{
    for (int32_t k = (int32_t)threadIdx.x; k < K; k += (int32_t)blockDim.x)
        pfq_quant_put(out, t, K, k, y[k], inv);
    pfq_quant_pad(out, t, K);
}

PFQ_DEVICE float pfq_row_absmax(const float *y, int32_t K)
{
    float m = 0.0f;
    for (int32_t k = (int32_t)threadIdx.x; k < K; k += (int32_t)blockDim.x)
        m = fmaxf(m, fabsf(y[k]));
    return pfq_block_max(m);
}

PFQ_DEVICE void pfq_quant_row_s16(const float *y, int32_t K, uint8_t *ints, float *scale)
{
    const float m = pfq_row_absmax(y, K), inv = m > 0.0f ? 32512.0f / m : 0.0f;
    if (threadIdx.x == 0) *scale = m / 32512.0f;
    for (int32_t k = (int32_t)threadIdx.x; k < K; k += (int32_t)blockDim.x) {
        const int32_t v = (int32_t)rintf(y[k] * inv);
        ints[k] = (uint8_t)((v >> 8) + 128);
        ints[pfq_up(K, 64) + k] = (uint8_t)v;
    }
}

PFQ_DEVICE void pfq_quant_row_s16g32(const float *y, int32_t K, uint8_t *ints, float *scale)
{
    for (int32_t k = (int32_t)threadIdx.x; k < pfq_up(K, 32); k += (int32_t)blockDim.x) {
        const float x = k < K ? y[k] : 0.0f, m = pfq_warp_max(fabsf(x));
        const int32_t v = (int32_t)rintf(x * (m > 0.0f ? 32512.0f / m : 0.0f));
        if (k % 32 == 0) scale[k / 32] = m / 32512.0f;
        uint8_t *group = ints + 64 * (int64_t)(k / 32);
        group[k % 32] =
            (uint8_t)((v + 128) >> 8); /* lo is signed, so hi = floor((v + 128) / 256) */
        group[32 + k % 32] = (uint8_t)v;
    }
}

/* Dynamic quantisation of row t to fmt, which is not f32. */
PFQ_DEVICE void pfq_quant_row(int32_t fmt, const float *y, int32_t K, uint64_t out, int64_t t,
                              float *scales)
{
    uint8_t *ints = (uint8_t *)out + t * pfq_quant_stride(fmt, K);
    float *scale = scales + t * pfq_quant_scales(fmt, K);
    if (fmt == PFQ_FMT_S8)
        pfq_quant_bytes(y, K, out, t, pfq_quant_dynamic(pfq_row_absmax(y, K), scale));
    else if (fmt == PFQ_FMT_S16)
        pfq_quant_row_s16(y, K, ints, scale);
    else
        pfq_quant_row_s16g32(y, K, ints, scale);
}

#endif
