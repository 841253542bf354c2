/* linear.s8 and linear.s4 as a family of linear_mma.cuh. Every bit of the results is that of
 * linear_int.cuh, whose kernels take the few tokens that these do not. Activations are s8 (c_fmt)
 * alone. Sums are int32, and exact. S::X is 4 if activations are of 4 bits and the chip multiplies
 * nibbles: the words of the weights are operands as they are, those of the activations are made in
 * registers. Else nibbles become bytes 16 times too large.
 */
#ifndef PFQC_CODEGEN_CUDA_LINEAR_MMA_INT_CUH
#define PFQC_CODEGEN_CUDA_LINEAR_MMA_INT_CUH

#include "linear_int.cuh"

enum {
    MMA_HEAD = LIN_HEAD,
    MMA_TOP = 0,
    MMA_UNITS = 4 / LIN_PARTS,
    MMA_SCALES = 0,
    MMA_CLASSES = 0
};
#include "linear_mma_words.cuh"

PFQ_DEVICE int32_t mma_row_bytes()
{
    return c_K;
}
PFQ_DEVICE const uint8_t *mma_x(const PfqCudaArgs &a, int32_t t, int32_t k)
{
    return (const uint8_t *)a.in[0] + (int64_t)t * pfq_up(c_K, 64) + k;
}

/* Bytes x + 128 of 8 k as nibbles x, in the order that the weights have them in. */
PFQ_DEVICE uint32_t mma_nibbles(uint32_t first, uint32_t second)
{
    return (first & 0x0f0f0f0fu) | (second << 4 & 0xf0f0f0f0u);
}

template <class S> PFQ_DEVICE void mma_prepare(PfqWords &b)
{
    if (S::X != 4) return;
    b.v[0] = mma_nibbles(b.v[0], b.v[1]);
    b.v[1] = mma_nibbles(b.v[2], b.v[3]);
}

/* The A operand of rows f, of 2, for the first or second 32 k; of nibbles for all 64. */
template <class S>
PFQ_DEVICE void mma_rows(const PfqWords (&u)[MMA_UNITS], int32_t f, int32_t half, uint32_t a[4])
{
    PFQ_UNROLL
    for (int32_t j = 0; j < 4; j++) {
        const int32_t r = 2 * f + j % 2, part = j / 2;
        if (S::X == 4)
            a[j] = u[part % MMA_UNITS].v[r];
        else if (LIN_NIBBLES)
            a[j] = (uint32_t)lin_part(u[half].v[r], part);
        else
            a[j] = u[(2 * half + part) % MMA_UNITS].v[r];
    }
}

template <class S>
PFQ_DEVICE void mma_step(const PfqWords (&u)[MMA_UNITS], const PfqWords (&b)[S::GROUPS], int32_t i,
                         int32_t (&d)[S::GROUPS][4])
{
    uint32_t a[4];
    mma_rows<S>(u, i % 2, i / 2, a);
    PFQ_UNROLL
    for (int32_t n = 0; n < S::GROUPS; n++)
        if (S::X == 4)
            pfq_mma_nibbles(d[n], a, b[n].v);
        else
            pfq_mma_bytes<true, false>(d[n], a, b[n].v + 2 * (i / 2));
}

template <class S>
PFQ_DEVICE float mma_finish(const Lin &l, const uint8_t *w, int32_t row, int32_t t, int32_t sum)
{
    const int32_t *head = (const int32_t *)w + row;
    const float v = (float)(S::X == 4 ? sum : (sum >> (LIN_NIBBLES ? 4 : 0)) - head[16]);
    return lin_scaled(l, v, *(const float *)head, t);
}

#endif
