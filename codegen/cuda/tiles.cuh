/* Activations as tiles, the form that sm_90a's linears read, and those of bf16 weights by mma.sync:
 * s8 (the signed value), or bf16, of which this page's columns are bytes: K is twice as many. In
 * x[K / 128][cap][128 bytes], K rounded up to 128, cap the rows that the buffer has room for, a
 * multiple of 8. The eight 16-byte pieces of a row's 128 bytes are swizzled: piece p of row t lies
 * at p ^ (t & 7). So 128 k of any rows from a multiple of 8 on are one contiguous piece, K-major
 * with the 128-byte swizzle that wgmma knows: a plain bulk copy brings it to shared memory.
 *
 * Buffers are 1024-byte aligned. Columns past K are 0; rows past T may hold anything. This is the
 * one place that knows the layout.
 */
#ifndef PFQC_CODEGEN_CUDA_TILES_CUH
#define PFQC_CODEGEN_CUDA_TILES_CUH

#include "intrin.cuh"
#include "lanes.cuh"

/* The byte of column k of row t. Aligned groups of up to 16 columns are contiguous. */
PFQ_DEVICE int64_t pfq_tile_at(int32_t cap, int32_t t, int32_t k)
{
    return ((int64_t)(k >> 7) * cap + t) * 128 + (((k >> 4 ^ t) & 7) << 4) + (k & 15);
}

/* The first byte of row t's 128 that hold byte column k, a multiple of 128. */
PFQ_DEVICE int64_t pfq_tile_row(int32_t cap, int32_t t, int32_t k)
{
    return ((int64_t)(k >> 7) * cap + t) * 128;
}

/* Bytes of a buffer for rows of K columns. */
PFQ_DEVICE int64_t pfq_tile_bytes(int32_t cap, int32_t K)
{
    return (int64_t)pfq_up(K, 128) * cap;
}

/* Column k of row t of K floats, or, with cap, of tiles of bf16. */
PFQ_DEVICE void pfq_float_put(uint64_t out, int32_t cap, int64_t t, int32_t K, int32_t k, float x)
{
    if (cap)
        *(uint16_t *)((uint8_t *)out + pfq_tile_at(cap, (int32_t)t, 2 * k)) =
            (uint16_t)pfq_two_bf16(x, 0.0f);
    else
        ((float *)out)[t * K + k] = x;
}

#endif
