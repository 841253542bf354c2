/* Packed weights as fragments, the form that sm_90a's linears read: what the packer, the kernels
 * and the tests share. The activations' side is tiles.cuh.
 *
 * [N, K], N padded to 64 and K to 128 (bf16: 64) with zeros, in panels of 64 rows; a panel is one
 * contiguous stream. A panel of 4-bit weights is blocks of 64 k, one of 8-bit weights blocks of 32
 * k, one of bf16 blocks of 16 k, of 2048 bytes each: 16 bytes, four words, for each of the 128
 * threads of a warpgroup. Word j of thread i is register j of the A fragment of wgmma m64nNk32
 * (s8): row 16 * (i / 32) + i % 32 / 4 + 8 * (j % 2),  k = 16 * (j / 2) + 4 * (i % 4) + byte of the
 * word bf16: of m64nNk16, whose elements lie as pairs of those bytes do. 4 bits: the high nibbles
 * hold the block's first 32 k, the low nibbles the other 32, in two's complement, so that `w &
 * 0xf0f0f0f0` and `(w << 4) & 0xf0f0f0f0` are s8 operands 16 times too large.
 *
 * Which row of the matrix a row of a fragment is: pfq_frag_row. An accumulator's pair of rows
 * (g, g + 8) are channels 32 apart, and the eight lanes that hold a column's rows are eight
 * channels in a row. Projections of gate and up are interleaved in runs of 32 channels (gate 0..31,
 * up 0..31, gate 32..63, ...), each padded to 32, so that a thread has both of a channel.
 *
 * Scales are f32 [N padded to 64], in the order of the matrix's rows, right behind the last panel;
 * bf16 has none.
 */
#ifndef PFQC_CODEGEN_CUDA_FRAGMENTS_CUH
#define PFQC_CODEGEN_CUDA_FRAGMENTS_CUH

#include "kernel.cuh"

enum { PFQ_FRAG_BYTES = 2048 };

/* Row 0..63 of a panel of the matrix that row r of the fragment holds, and the inverse. */
PFQ_DEVICE int32_t pfq_frag_row(int32_t r)
{
    return (r & 7) | (r >> 4) * 8 | (r >> 3 & 1) * 32;
}
PFQ_DEVICE int32_t pfq_frag_of_row(int32_t m)
{
    return (m & 7) | (m >> 3 & 3) * 16 | (m >> 5) * 8;
}

/* k of a block; bytes of a panel of a matrix with K columns. */
PFQ_DEVICE int32_t pfq_frag_k(int32_t bits)
{
    return 256 / bits;
}
PFQ_DEVICE int64_t pfq_panel_bytes(int32_t bits, int32_t K)
{
    const int32_t pad = bits == 16 ? 64 : 128;
    return (int64_t)((K + pad - 1) / pad) * pad * 8 * bits;
}

/* Bytes in front of the scales of a matrix of N rows. */
PFQ_DEVICE int64_t pfq_frag_bytes(int32_t bits, int32_t N, int32_t K)
{
    return (N + 63) / 64 * pfq_panel_bytes(bits, K);
}

/* The byte (of bf16 the first of two) of weight (n, k), and in *low whether it is the byte's low
 * nibble. */
PFQ_DEVICE int64_t pfq_frag_at(int32_t bits, int32_t K, int32_t n, int32_t k, bool *low)
{
    const int32_t row = pfq_frag_of_row(n % 64), kk = (bits == 16 ? 2 * k : k) % 32;
    const int32_t thread = row / 16 * 32 + row % 8 * 4 + kk / 4 % 4;
    const int32_t word = row / 8 % 2 + kk / 16 * 2;
    *low = bits == 4 && k % 64 >= 32;
    return n / 64 * pfq_panel_bytes(bits, K) + (int64_t)(k / pfq_frag_k(bits)) * PFQ_FRAG_BYTES +
           thread * 16 + word * 4 + kk % 4;
}

/* Row of the interleaved matrix of gate (half 0) and up (half 1) for channel c. */
PFQ_DEVICE int32_t pfq_glu_row(int32_t c, int32_t half)
{
    return c / 32 * 64 + half * 32 + c % 32;
}

#endif
