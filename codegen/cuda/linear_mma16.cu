/* linear.bf16 of any number of tokens, as a family of linear_mma.cuh: activations as tiles
 * (tiles.cuh) of bf16, of c_cap rows, f32 sums, one product of 16 k after the other. Its tiles,
 * which all chips but sm_90a have, are linear_mma_list.cuh.
 */
#include "linear_bf16.cuh"

enum { MMA_HEAD = 0, MMA_TOP = 0, MMA_UNITS = 4, MMA_SCALES = 0, MMA_CLASSES = 1 };
#include "linear_mma_words.cuh"

PFQ_CONST(int32_t, c_cap);

PFQ_DEVICE int32_t mma_row_bytes()
{
    return 2 * c_K;
}
PFQ_DEVICE const uint8_t *mma_x(const PfqCudaArgs &a, int32_t t, int32_t k)
{
    return (const uint8_t *)a.in[0] + pfq_tile_at(c_cap, t, k);
}

template <class S> PFQ_DEVICE void mma_prepare(PfqWords &) {}

template <class S>
PFQ_DEVICE void mma_step(const PfqWords (&u)[MMA_UNITS], const PfqWords (&b)[S::GROUPS], int32_t i,
                         float (&d)[S::GROUPS][4])
{
    const int32_t r = i % 2 * 2, k = i / 2 * 2;
    const uint32_t a[4] = {u[k].v[r], u[k].v[r + 1], u[k + 1].v[r], u[k + 1].v[r + 1]};
    PFQ_UNROLL
    for (int32_t n = 0; n < S::GROUPS; n++)
        pfq_mma_bf16(d[n], a, b[n].v + k);
}

#define MMA16(name, ...) MMA_KERNEL(name, __VA_ARGS__)
#include "linear_mma_list.cuh"
