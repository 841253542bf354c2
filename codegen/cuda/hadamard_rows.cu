/* hadamard of rows of a multiple of 32 columns: blocks of c_N elements times B (x) S, to f32 or
 * quantised to s8. Slots and constants are those of codegen/cpu/hadamard.c; c_N / c_base is a
 * multiple of 4, of 32 if there is a base.
 *
 * Launch: a block of HAD_THREADS takes a row (blockIdx.y), which it keeps in shared memory; of few
 * rows with a static scale, had_parts() blocks (blockIdx.x) share the results of one, and each
 * makes S of all of it. c_tiles: the result is tiles of so many rows (tiles.cuh).
 *
 * S runs in registers: up to 16 elements 32 apart as they come from global memory, then, if its
 * order is above 512, up to 16 further apart, then 32 in a row.
 *
 * The product with B runs on tensor cores, in tf32 with both sides split in two (the upper 11 bits
 * and what they lack), so that its products have 21 bits: B high times x high, times x low, and,
 * unless B is a matrix of small integers, B low times x high. A warp takes 32 columns; column 4 * n
 * + t of them is column n of product t, so that a lane reads four columns and writes eight.
 *
 * Shared memory: the row, 4 floats longer every 32 and 8 every row of [c_base, m], so that neither
 * 8 threads with 32 in a row each, nor a warp with 128 in a row, nor the 4 rows of a product meet
 * in a bank; then the fragments of B, high and low.
 *
 * Roofline, 14336 = 28 x 512: 57 KB read and 14 KB written a row are 49 us for 2048 rows of an
 * H100; shared memory is 14, products 14, other instructions some 30.
 */
#include "mma.cuh"
#include "overlap.cuh"
#include "quantise.cuh"
#include "tiles.cuh"

PFQ_CONST(int32_t, c_K);
PFQ_CONST(int32_t, c_N);
PFQ_CONST(int32_t, c_base);
PFQ_CONST(int32_t, c_fmt);
PFQ_CONST(int32_t, c_static);
PFQ_CONST(int32_t, c_tiles);
PFQ_CONST(int32_t, c_half);
PFQ_CONST(float, c_scale);

#ifndef HAD_THREADS
#define HAD_THREADS 256
#endif
#ifndef HAD_BLOCKS
#define HAD_BLOCKS 3
#endif
#ifndef HAD_FEW
#define HAD_FEW 16 /* rows that are shared by blocks */
#endif

struct Had {
    const PfqCudaArgs *a;
    float *x;    /* the row */
    PfqWords *b; /* [2][rows / 16][columns / 8][32] fragments of B: high, low */
    bool exact;  /* B low is 0 */
    int32_t t;
    int32_t part, parts; /* of the results */
};

PFQ_DEVICE int32_t order()
{
    return c_N / max(c_base, 1);
}
/* Products of 16 rows, and of 8 columns, of B. */
PFQ_DEVICE int32_t row_tiles()
{
    return (c_base + 15) / 16;
}
PFQ_DEVICE int32_t column_tiles()
{
    return (c_base + 7) / 8;
}
/* Where element k of the row lies. */
PFQ_DEVICE int32_t place(int32_t k)
{
    return k + (k >> 5) * 4 + (c_base > 1 ? k / max(order(), 1) * 8 : 0);
}

template <int R> PFQ_DEVICE void butterflies(float *v)
{
    PFQ_UNROLL
    for (int32_t h = 1; h < R; h *= 2)
        pfq_butterflies<R>(v, h);
}

/* Element k of the row as it was given. */
PFQ_DEVICE float given(const Had &s, int32_t k)
{
    const int64_t at = (int64_t)s.t * c_K + k;
    return c_half ? pfq_h_to_f(((const uint16_t *)s.a->in[0])[at])
                  : ((const float *)s.a->in[0])[at];
}

/* The stages of h, 2h .. R / 2 * h, of the row as it was given (`in`, times c_scale), or as it is
 * in shared memory. */
template <int R> PFQ_DEVICE void strided(const Had &s, bool in, int32_t h)
{
    for (int32_t u = (int32_t)threadIdx.x; u < c_K / R; u += HAD_THREADS) {
        const int32_t k = u / h * h * R + u % h;
        float v[R];
        PFQ_UNROLL
        for (int32_t i = 0; i < R; i++)
            v[i] = in ? given(s, k + i * h) * c_scale : s.x[place(k + i * h)];
        butterflies<R>(v);
        PFQ_UNROLL
        for (int32_t i = 0; i < R; i++)
            s.x[place(k + i * h)] = v[i];
    }
    __syncthreads();
}

PFQ_DEVICE void strided_any(const Had &s, bool in, int32_t h, int32_t r)
{
    if (r == 16)
        strided<16>(s, in, h);
    else if (r == 8)
        strided<8>(s, in, h);
    else if (r == 4)
        strided<4>(s, in, h);
    else if (r == 2)
        strided<2>(s, in, h);
    else
        strided<1>(s, in, h);
}

/* The stages below 32. */
PFQ_DEVICE void in_a_row(const Had &s)
{
    for (int32_t u = (int32_t)threadIdx.x; u < c_K / 32; u += HAD_THREADS) {
        PfqFour *at = (PfqFour *)(s.x + place(32 * u));
        float v[32];
        PFQ_UNROLL
        for (int32_t i = 0; i < 8; i++) {
            const PfqFour f = at[i];
            PFQ_UNROLL
            for (int32_t j = 0; j < 4; j++)
                v[4 * i + j] = f.v[j];
        }
        if (order() >= 32)
            butterflies<32>(v);
        else
            PFQ_UNROLL
        for (int32_t i = 0; i < 32; i += 4) {
            if (order() == 4) butterflies<4>(v + i);
            if (order() == 8 && i % 8 == 0) butterflies<8>(v + i);
            if (order() == 16 && i % 16 == 0) butterflies<16>(v + i);
        }
        PFQ_UNROLL
        for (int32_t i = 0; i < 8; i++)
            at[i] = {{v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]}};
    }
    __syncthreads();
}

/* S of the row, in shared memory. */
PFQ_DEVICE void sylvester(const Had &s)
{
    int32_t h = 32, r = min(max(order() / 32, 1), 16);
    strided_any(s, true, h, r);
    for (h *= r; h < order(); h *= r) {
        r = min(order() / h, 16);
        strided_any(s, false, h, r);
    }
    in_a_row(s);
}

/* Columns k .. k + 3 of the row. */
PFQ_DEVICE void put(const Had &s, int32_t k, const float *y, float inv)
{
    if (c_fmt == PFQ_FMT_F32) {
        *(PfqFour *)((float *)s.a->out[0] + (int64_t)s.t * c_K + k) = {{y[0], y[1], y[2], y[3]}};
        return;
    }
    const uint32_t w = pfq_quant_four(y, inv);
    uint8_t *out = (uint8_t *)s.a->out[0];
    if (c_tiles)
        *(uint32_t *)(out + pfq_tile_at(c_tiles, s.t, k)) = pfq_tiled(w);
    else
        *(uint32_t *)(out + (int64_t)s.t * pfq_up(c_K, 64) + k) = w ^ 0x80808080u;
}

/* What tf32 takes of x, and what is left. */
PFQ_DEVICE uint32_t high_of(float x)
{
    return __float_as_uint(x) & 0xffffe000u;
}
PFQ_DEVICE uint32_t low_of(float x)
{
    return __float_as_uint(x - __uint_as_float(high_of(x)));
}

/* B's fragments to shared memory; whether all of it are numbers of 11 bits. */
PFQ_DEVICE bool put_base(const Had &s)
{
    const int32_t n = row_tiles() * column_tiles() * 32 * 4;
    bool exact = true;
    for (int32_t i = (int32_t)threadIdx.x; i < n; i += HAD_THREADS) {
        const int32_t j = i & 3, lane = i >> 2 & 31, tile = i >> 7;
        const int32_t row = tile / column_tiles() * 16 + lane / 4 + 8 * (j & 1),
                      col = tile % column_tiles() * 8 + 4 * (j >> 1) + lane % 4;
        float x = 0.0f;
        if (row < c_base && col < c_base)
            x = ((const float *)s.a->w)[(row / 16 * c_base + col) * 16 + row % 16];
        ((uint32_t *)s.b)[i] = high_of(x);
        ((uint32_t *)s.b)[n + i] = low_of(x);
        exact = exact && low_of(x) == 0;
    }
    return exact;
}

/* 16 rows of B (tile `rows`) times 32 columns from k on of the block's first row, to y[t][4]: rows
 * g (0, 1) and g + 8 (2, 3), columns 4 * (2 * c + 0 or 1) + t. */
PFQ_DEVICE void product(const Had &s, int32_t rows, int32_t k, float y[4][4])
{
    const int32_t g = pfq_lane() >> 2, c = pfq_lane() & 3, all = row_tiles() * column_tiles() * 32;
    PFQ_UNROLL
    for (int32_t t = 0; t < 4; t++)
        y[t][0] = y[t][1] = y[t][2] = y[t][3] = 0.0f;
    for (int32_t j = 0; j < column_tiles(); j++) {
        const PfqWords *b = s.b + (rows * column_tiles() + j) * 32 + pfq_lane();
        const PfqWords high = b[0];
        PfqFour x[2];
        PFQ_UNROLL
        for (int32_t i = 0; i < 2; i++) /* rows of B's padding are 0: any x */
            x[i] =
                *(const PfqFour *)(s.x + place(k + min(8 * j + 4 * i + c, c_base - 1) * order()) +
                                   4 * g);
        PFQ_UNROLL
        for (int32_t t = 0; t < 4; t++) {
            const uint32_t hi[2] = {high_of(x[0].v[t]), high_of(x[1].v[t])},
                           lo[2] = {low_of(x[0].v[t]), low_of(x[1].v[t])};
            pfq_mma_tf32(y[t], high.v, lo);
            if (!s.exact) {
                const PfqWords low = b[all];
                pfq_mma_tf32(y[t], low.v, hi);
            }
            pfq_mma_tf32(y[t], high.v, hi);
        }
    }
}

/* All results of the block's part: put with inv, or (inv 0) the largest of the thread's. */
PFQ_DEVICE float results(const Had &s, float inv)
{
    float most = 0.0f;
    if (c_base == 1) {
        for (int32_t k = 4 * (int32_t)threadIdx.x; k < c_K; k += 4 * HAD_THREADS) {
            const PfqFour x = *(const PfqFour *)(s.x + place(k));
            PFQ_UNROLL
            for (int32_t c = 0; c < 4; c++)
                most = fmaxf(most, fabsf(x.v[c]));
            if (inv != 0.0f || c_fmt == PFQ_FMT_F32) put(s, k, x.v, inv);
        }
        return most;
    }
    const int32_t wide = order() / 32, units = c_K / max(c_N, 1) * max(wide, 1) * row_tiles();
    for (int32_t u = pfq_warp() * s.parts + s.part; u < units; u += HAD_THREADS / 32 * s.parts) {
        const int32_t rows = u % row_tiles(), at = u / row_tiles(),
                      k = at / max(wide, 1) * c_N + at % max(wide, 1) * 32;
        const int32_t g = pfq_lane() >> 2, c = pfq_lane() & 3;
        float y[4][4];
        product(s, rows, k, y);
        PFQ_UNROLL
        for (int32_t h = 0; h < 2; h++) {
            const int32_t row = 16 * rows + g + 8 * h;
            if (row >= c_base) continue;
            PFQ_UNROLL
            for (int32_t n = 0; n < 2; n++) {
                const float four[4] = {y[0][2 * h + n], y[1][2 * h + n], y[2][2 * h + n],
                                       y[3][2 * h + n]};
                PFQ_UNROLL
                for (int32_t t = 0; t < 4; t++)
                    most = fmaxf(most, fabsf(four[t]));
                if (inv != 0.0f || c_fmt == PFQ_FMT_F32)
                    put(s, k + row * order() + 8 * c + 4 * n, four, inv);
            }
        }
    }
    return most;
}

PFQ_DEVICE void padding(const Had &s)
{
    if (!c_tiles || c_fmt != PFQ_FMT_S8) return;
    for (int32_t k = c_K + 4 * (int32_t)threadIdx.x; k < pfq_up(c_K, 128); k += 4 * HAD_THREADS)
        *(uint32_t *)((uint8_t *)s.a->out[0] + pfq_tile_at(c_tiles, s.t, k)) = 0;
}

PFQ_KERNEL(pfq_cu_hadamard_rows, HAD_THREADS, HAD_BLOCKS)
{
    pfq_begin();
    pfq_follow();
    const bool shared = a.T <= HAD_FEW && c_static && c_fmt == PFQ_FMT_S8;
    Had s;
    s.a = &a;
    s.x = (float *)pfq_shared;
    s.b = (PfqWords *)(s.x + pfq_up(place(c_K), 4));
    s.t = (int32_t)blockIdx.y;
    s.part = (int32_t)blockIdx.x;
    s.parts = shared ? (int32_t)gridDim.x : 1;
    if (s.part >= s.parts) return;
    const bool exact = c_base == 1 || put_base(s);
    sylvester(s);
    s.exact = c_base == 1 || pfq_block_max(exact ? 0.0f : 1.0f) == 0.0f;
    float inv = 1.0f;
    if (c_fmt == PFQ_FMT_S8)
        inv = c_static
                  ? pfq_inv(*(const float *)a.aux[1])
                  : pfq_quant_dynamic(pfq_block_max(results(s, 0.0f)), (float *)a.out[1] + s.t);
    results(s, inv == 0.0f ? 1e-38f : inv); /* a scale of 0: all integers become 0 */
    if (s.part == 0) padding(s);
}
