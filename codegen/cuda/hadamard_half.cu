/* hadamard of whole rows of f16, quantised or as f32: slots, formats and meaning are those of
 * codegen/cpu/hadamard.c, but in[0] is f16 [T, c_K], and c_N = c_K. c_base is 12, 20 or 28, or 1
 * for powers of two; then the matrix of signs of order 32 takes its place, and S is of order c_K
 * / 32. So the base's entries are 1 and -1, the order m of S is 128 to 1024.
 *
 * A persistent line of blocks (blockIdx.x) takes rows in turn, the last first, which the L2 still
 * has; the next row's copies run beside the
 * second part. A row lies in shared memory as [base][m].
 *   1. Products with B by tensor cores: f16 times signs, summed in f32, so exact but for the sums.
 * A warp has 16 rows of B and `TILES` times 8 adjacent columns in registers, and with them the
 *      stages of S of columns 1, 8, 16 .. apart. Results go to shared memory as f32.
 *   2. A thread takes 8 adjacent columns at H places that are TILES * 8 apart: the other stages,
 * then c_scale, and the result leaves as 8 bytes, or 8 floats.
 *
 * Shared memory: rows of f16 are 16 bytes longer, so that 8 of them do not meet in a bank, rows of
 * f32 32 bytes, with the pieces of 16 bytes of every other 128 swapped in pairs, so that neither
 * the fragments of part 1 nor 8 threads of part 2 do.
 *
 * Roofline, 28 x 512, 2048 rows of an H100: 88 MB are 29 us; shared memory (200 KB a row) 14;
 * instructions, some 20 an element, 20.
 */
#include "mma.cuh"
#include "overlap.cuh"
#include "quantise.cuh"

PFQ_CONST(int32_t, c_K);
PFQ_CONST(int32_t, c_base);
PFQ_CONST(int32_t, c_fmt);
PFQ_CONST(int32_t, c_static);
PFQ_CONST(float, c_scale);

enum { HAD_THREADS = 256, HAD_WARPS = HAD_THREADS / 32 };

PFQ_DEVICE int32_t base()
{
    return c_base > 1 ? c_base : 32;
}
PFQ_DEVICE int32_t order()
{
    return c_K / base();
}
PFQ_DEVICE int32_t row_tiles()
{
    return (base() + 15) / 16;
}

struct Had {
    const PfqCudaArgs *a;
    uint16_t *x; /* [base][order + 8] */
    float *y;    /* [base][order + 8] */
    float inv;   /* 1 / the scale, where that is a constant */
};

/* Where column k of row i lies in y. */
PFQ_DEVICE int32_t place(int32_t i, int32_t k)
{
    return i * (order() + 8) + (k ^ (k >> 3 & 4));
}

/* Starts the copies of row t. */
PFQ_DEVICE void load(const Had &s, int32_t t)
{
    const uint16_t *in = (const uint16_t *)s.a->in[0] + (int64_t)t * c_K;
    for (int32_t i = (int32_t)threadIdx.x; t >= 0 && i < c_K / 8; i += HAD_THREADS)
        pfq_copy16(s.x + 8 * i / order() * (order() + 8) + 8 * i % order(), in + 8 * i);
    pfq_copy_commit();
}

/* Element (i, j) of B as a half. */
PFQ_DEVICE uint32_t sign(const Had &s, int32_t i, int32_t j)
{
    if (i >= base() || j >= base()) return 0;
    if (c_base == 1) return __popc((uint32_t)(i & j)) & 1 ? 0xbc00u : 0x3c00u;
    return pfq_f_to_h(((const float *)s.a->w)[(i / 16 * base() + j) * 16 + i % 16]);
}

/* Fragments of 16 rows of B. */
PFQ_DEVICE void fragments(const Had &s, int32_t rows, uint32_t (&b)[2][4])
{
    PFQ_UNROLL
    for (int32_t k = 0; k < 8; k++) {
        const int32_t i = 16 * rows + (pfq_lane() >> 2) + 8 * (k & 1),
                      j = k / 4 * 16 + (k >> 1 & 1) * 8 + 2 * (pfq_lane() & 3);
        b[k / 4][k % 4] = sign(s, i, j) | sign(s, i, j + 1) << 16;
    }
}

/* Part 1 of 16 rows of B, and 8 * TILES columns from k on. */
template <int TILES>
PFQ_DEVICE void products(const Had &s, int32_t rows, int32_t k, const uint32_t (&b)[2][4])
{
    float d[4 * TILES];
    const uint16_t *x = s.x + min(pfq_lane(), base() - 1) * (order() + 8) + k;
    PFQ_UNROLL
    for (int32_t t = 0; t < TILES; t++) {
        uint32_t f[4];
        pfq_load_transposed(x + 8 * t, f);
        PFQ_UNROLL
        for (int32_t j = 0; j < 4; j++)
            d[4 * t + j] = 0.0f;
        pfq_mma_halves(d + 4 * t, b[0], f);
        if (base() > 16) pfq_mma_halves(d + 4 * t, b[1], f + 2);
    }
    pfq_butterflies<4 * TILES>(d, 1);
    PFQ_UNROLL
    for (int32_t h = 4; h < 4 * TILES; h *= 2)
        pfq_butterflies<4 * TILES>(d, h);
    PFQ_UNROLL
    for (int32_t h = 0; h < 2; h++) {
        const int32_t i = 16 * rows + (pfq_lane() >> 2) + 8 * h;
        if (i >= base()) continue;
        PFQ_UNROLL
        for (int32_t t = 0; t < TILES; t++)
            *(float2 *)(s.y + place(i, k + 8 * t + 2 * (pfq_lane() & 3))) = {d[4 * t + 2 * h],
                                                                             d[4 * t + 2 * h + 1]};
    }
}

/* Eight results from column k of row t on. */
PFQ_DEVICE void put(const Had &s, int32_t t, int32_t k, const float *y, float inv)
{
    if (c_fmt == PFQ_FMT_F32) {
        PfqFour *out = (PfqFour *)((float *)s.a->out[0] + (int64_t)t * c_K + k);
        out[0] = {{y[0] * inv, y[1] * inv, y[2] * inv, y[3] * inv}};
        out[1] = {{y[4] * inv, y[5] * inv, y[6] * inv, y[7] * inv}};
        return;
    }
    const uint2 w = {pfq_quant_four(y, inv), pfq_quant_four(y + 4, inv)};
    uint8_t *out = (uint8_t *)s.a->out[0];
    if (c_tiles)
        *(uint2 *)(out + pfq_tile_at(c_tiles, t, k)) = {pfq_tiled(w.x), pfq_tiled(w.y)};
    else
        *(uint2 *)(out + (int64_t)t * pfq_up(c_K, 64) + k) = {w.x ^ 0x80808080u, w.y ^ 0x80808080u};
}

/* Part 2 of row t: all results times inv are put, or (inv 0) the largest of the thread's is found.
 */
template <int TILES, int H> PFQ_DEVICE float results(const Had &s, int32_t t, float inv)
{
    float most = 0.0f;
    for (int32_t u = (int32_t)threadIdx.x; u < base() * TILES; u += HAD_THREADS) {
        const int32_t i = u / TILES, k = u % TILES * 8;
        float v[8 * H];
        PFQ_UNROLL
        for (int32_t p = 0; p < 2 * H; p++) {
            const PfqFour four =
                *(const PfqFour *)(s.y + place(i, k + p / 2 * 8 * TILES + p % 2 * 4));
            PFQ_UNROLL
            for (int32_t j = 0; j < 4; j++)
                v[4 * p + j] = four.v[j];
        }
        pfq_butterflies<8 * H>(v, 2);
        pfq_butterflies<8 * H>(v, 4);
        PFQ_UNROLL
        for (int32_t h = 8; h < 8 * H; h *= 2)
            pfq_butterflies<8 * H>(v, h);
        PFQ_UNROLL
        for (int32_t p = 0; p < H; p++) {
            if (inv != 0.0f)
                put(s, t, i * order() + k + p * 8 * TILES, v + 8 * p, inv);
            else
                PFQ_UNROLL
            for (int32_t j = 0; j < 8; j++)
                most = fmaxf(most, fabsf(v[8 * p + j]));
        }
    }
    return most;
}

/* What results are multiplied by; not 0. */
template <int TILES, int H> PFQ_DEVICE float factor(const Had &s, int32_t t)
{
    if (c_fmt == PFQ_FMT_F32) return c_scale;
    const float inv =
        c_static ? s.inv
                 : pfq_quant_dynamic(pfq_block_max(results<TILES, H>(s, t, 0.0f)) * c_scale,
                                     (float *)s.a->out[1] + t);
    return inv == 0.0f ? 1e-38f : inv * c_scale; /* a scale of 0: all integers become 0 */
}

template <int TILES, int H> PFQ_DEVICE void rows_of(const Had &s)
{
    const int32_t mine = pfq_warp() % row_tiles(), units = row_tiles() * H;
    uint32_t b[2][4];
    fragments(s, mine, b);
    pfq_follow();
    load(s, s.a->T - 1 - (int32_t)blockIdx.x);
    for (int32_t t = s.a->T - 1 - (int32_t)blockIdx.x; t >= 0; t -= (int32_t)gridDim.x) {
        pfq_copy_wait<0>();
        __syncthreads();
        for (int32_t u = pfq_warp(); u < units; u += HAD_WARPS)
            products<TILES>(s, mine, u / row_tiles() * 8 * TILES, b);
        __syncthreads();
        load(s, t - (int32_t)gridDim.x);
        results<TILES, H>(s, t, factor<TILES, H>(s, t));
    }
}

PFQ_KERNEL(pfq_cu_hadamard_half, HAD_THREADS, 2)
{
    pfq_begin();
    Had s;
    s.a = &a;
    s.x = (uint16_t *)pfq_shared;
    s.y = (float *)(pfq_shared + base() * (order() + 8) * 2);
    s.inv = c_fmt == PFQ_FMT_S8 && c_static ? pfq_inv(*(const float *)a.aux[1]) : 0.0f;
    if (order() == 128)
        rows_of<4, 4>(s);
    else if (order() == 256)
        rows_of<8, 4>(s);
    else if (order() == 512)
        rows_of<16, 4>(s);
    else
        rows_of<16, 8>(s);
}
