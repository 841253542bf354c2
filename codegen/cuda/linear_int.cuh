/* linear.s8 and linear.s4: 8- or 4-bit weights with one scale per row, activations s8 or s16. The
 * twin of codegen/cpu/linear_int.h: LIN_NIBBLES says which. Contract: linear.cuh.
 *
 * Products are u8 (x + 128) times s8; a row's 128 * sum(w), which the tile holds, goes out of the
 * sum again. Sums of the low plane of s16 have no excess. Nibbles stay in the high half of a byte,
 * so that their sums are 16 times too large: shifted out at the end, exactly. Sums are exact in
 * int32: |sum| <= 255 * 128 * c_K, c_K < 65536.
 */
#ifndef PFQC_CODEGEN_CUDA_LINEAR_INT_CUH
#define PFQC_CODEGEN_CUDA_LINEAR_INT_CUH

#define LIN_SUM int32_t
#include "intrin.cuh"
#include "linear.cuh"

enum {
    LIN_HEAD = 128,                  /* bytes of a tile in front of its steps */
    LIN_PARTS = LIN_NIBBLES ? 2 : 1, /* dot products of 4 k in a step */
    LIN_STEP = 4 * LIN_PARTS         /* k of a step */
};

PFQ_DEVICE int32_t lin_steps()
{
    return (c_K + LIN_STEP - 1) / LIN_STEP;
}
PFQ_DEVICE int64_t lin_tile_bytes()
{
    return LIN_HEAD + 64 * (int64_t)lin_steps();
}
PFQ_DEVICE int32_t lin_planes()
{
    return c_fmt == PFQ_FMT_S16 ? 2 : 1;
}

/* Part p of a row's word: 4 bytes, k ascending. */
PFQ_DEVICE int32_t lin_part(uint32_t word, int32_t p)
{
    if (!LIN_NIBBLES) return (int32_t)word;
    return (int32_t)((p ? word : word << 4) & 0xf0f0f0f0u);
}

PFQ_DEVICE void lin_add(const Lin &l, const uint8_t *const w[2], int32_t step, int32_t t, int32_t n,
                        int32_t *v)
{
    const int32_t planes = lin_planes(), stride = pfq_up(c_K, 64);
    const uint8_t *x = (const uint8_t *)l.a->in[0] + LIN_STEP * step;
    LinWords k[2];
    PFQ_UNROLL
    for (int32_t i = 0; i < 2; i++)
        k[i] = *(const LinWords *)(w[i] + LIN_HEAD + 64 * (int64_t)step + 16 * (pfq_lane() % 4));
    PFQ_UNROLL
    for (int32_t j = 0; j < n * planes; j++) {
        const uint8_t *row =
            x + ((int64_t)lin_token(l, t + j / planes) * planes + j % planes) * stride;
        PFQ_UNROLL
        for (int32_t p = 0; p < LIN_PARTS; p++) {
            const uint32_t x4 = *(const uint32_t *)(row + 4 * p);
            PFQ_UNROLL
            for (int32_t r = 0; r < 8; r++) { /* of both tiles */
                int32_t *s = v + ((r / 4 * n + j / planes) * 4 + r % 4) * planes + j % planes;
                *s = pfq_dp4a_us(x4, lin_part(k[r / 4].row[r % 4], p), *s);
            }
        }
    }
}

/* y of a row's exact sum, v. */
PFQ_DEVICE float lin_scaled(const Lin &l, float v, float scale, int32_t t)
{
    if (!c_static) scale *= ((const float *)l.a->in[1])[t];
    return v * scale;
}

PFQ_DEVICE float lin_finish(const Lin &l, const uint8_t *w, int32_t row, int32_t t, int32_t hi,
                            int32_t lo)
{
    const int32_t shift = LIN_NIBBLES ? 4 : 0;
    float v = (float)((hi >> shift) - ((const int32_t *)w)[16 + row]);
    if (lin_planes() == 2) v = fmaf(v, 256.0f, (float)(lo >> shift));
    return lin_scaled(l, v, ((const float *)w)[row], t);
}

#endif
