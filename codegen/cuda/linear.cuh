/* linear: y = W x for T rows x, followed by an epilogue: the part that all weight formats share.
 * The twin of codegen/cpu/linear.h, which states slots and epilogues.
 *
 * Launch: 256 threads take LIN_TOKENS tokens (blockIdx.y) of one unit of tiles (blockIdx.x): two
 * tiles of 16 rows; for qkv the smallest number of whole heads that fills whole tiles. Dynamic
 * shared memory: 8 KiB of partial sums, then y [LIN_TOKENS][rows of the unit] f32.
 *
 * All packed layouts are runs of 64 bytes (a step: some k of 16 rows), so one scheme serves all:
 * four lanes take a step, 16 bytes or 4 rows each, a warp 8 steps at a time, the 8 warps deal out
 * such runs of 8. A lane has sums of 2 tiles x 4 rows x tokens in registers; they are folded over
 * the lanes that hold the same rows, then over warps in shared memory, in an order that depends on
 * c_K alone. Activations are read from global memory (L1): no two warps read the same.
 *
 * Roofline: a call of few tokens streams the weights once and is bound by memory; 4 x 16 bytes per
 * lane in flight reach maybe two thirds of an H100's 3.2 TB/s, and layers of fewer tiles than SMs
 * less. Many tokens read the weights from L2 every 8 tokens, and are bound by dp4a (64 x 4
 * multiply-adds a cycle and SM; f32: 128): rows FAST of kernels.def take those of integers and
 * bf16.
 *
 * A family (linear_*.cu) defines LIN_SUM, the type of a sum, before it includes this file, and
 *   lin_steps         runs of 64 bytes of a tile
 *   lin_tile_bytes    bytes of a tile
 *   lin_planes        sums per token and row: 2 if activations are two planes of bytes
 *   lin_add           adds one step of two tiles to a lane's sums
 *   lin_finish        a token's value of one row, from its sums
 */
#ifndef PFQC_CODEGEN_CUDA_LINEAR_CUH
#define PFQC_CODEGEN_CUDA_LINEAR_CUH

#include "heads.cuh"
#include "math.cuh"
#include "tiles.cuh"

PFQ_CONST(int32_t, c_N);
PFQ_CONST(int32_t, c_K);
PFQ_CONST(int32_t, c_fmt);
PFQ_CONST(int32_t, c_epi);
PFQ_CONST(int32_t, c_bias);
PFQ_CONST(int32_t, c_static);
PFQ_CONST(int32_t, c_act);
PFQ_CONST(int32_t, c_heads);
PFQ_CONST(int32_t, c_kv_heads);
PFQ_CONST(int32_t, c_turns);
PFQ_CONST(int32_t, c_tiles);

enum { LIN_TOKENS = 8, LIN_WARPS = 8, LIN_SUMS = 64 }; /* sums of a lane: 2 tiles x 8 x 4 rows */
enum { LIN_PARTIAL = LIN_SUMS / 8 * 32 }; /* sums that a warp leaves in shared memory */

/* 16 bytes of a tile, 4 rows. */
struct alignas(16) LinWords {
    uint32_t row[4];
};

struct Lin {
    const PfqCudaArgs *a;
    LIN_SUM *partial; /* [LIN_WARPS][LIN_PARTIAL] */
    float *y;         /* [LIN_TOKENS][ys] */
    int32_t ys;
    int32_t t0, tn;      /* the block's tokens */
    int32_t tile, tiles; /* the block's tiles */
};

PFQ_DEVICE int32_t lin_steps();
PFQ_DEVICE int64_t lin_tile_bytes();
PFQ_DEVICE int32_t lin_planes();

/* Adds step `step` of tiles w[0] and w[1], rows 4 * (lane % 4) on, times n tokens from t on (those
 * past the last repeat it), to v[tile][token][row of 4][plane]. */
PFQ_DEVICE void lin_add(const Lin &l, const uint8_t *const w[2], int32_t step, int32_t t, int32_t n,
                        LIN_SUM *v);

/* Row `row` of the tile at w for token t of all. */
PFQ_DEVICE float lin_finish(const Lin &l, const uint8_t *w, int32_t row, int32_t t, LIN_SUM hi,
                            LIN_SUM lo);

PFQ_DEVICE int32_t lin_tiles()
{
    return c_epi == PFQ_EPI_SWIGLU ? 2 * ((c_N / 2 + 15) / 16) : (c_N + 15) / 16;
}

/* Tiles of a unit: for qkv, lcm(head_dim, 16) / 16. The rows of kernels.def say the same. */
PFQ_DEVICE int32_t lin_unit()
{
    if (c_epi != PFQ_EPI_QKV) return 2;
    int32_t u = c_head_dim;
    for (int32_t m = 16; m > 1 && u % 2 == 0; m /= 2)
        u /= 2;
    return u;
}

PFQ_DEVICE const uint8_t *lin_tile(const Lin &l, int32_t tile)
{
    return (const uint8_t *)l.a->w + tile * lin_tile_bytes();
}

/* Token t of the block, of all; those past the last repeat it. */
PFQ_DEVICE int32_t lin_token(const Lin &l, int32_t t)
{
    return l.t0 + (t < l.tn ? t : l.tn - 1);
}

/* ---- sums ---- */

/* Of v[2 * n]: keeps the half that bit `bit` of the lane says, plus the other lane's. */
PFQ_DEVICE void lin_fold_once(LIN_SUM *v, int32_t n, int32_t bit)
{
    const bool upper = pfq_lane() & bit;
    PFQ_UNROLL
    for (int32_t i = 0; i < n; i++) {
        const LIN_SUM keep = upper ? v[i + n] : v[i], give = upper ? v[i] : v[i + n];
        v[i] = keep + __shfl_xor_sync(~0u, give, bit);
    }
}

/* Sums of v[8 * n] over the lanes of equal lane % 4; lane l has the (l / 4)th n of the result. */
PFQ_DEVICE void lin_fold(LIN_SUM *v, int32_t n)
{
    lin_fold_once(v, 4 * n, 16);
    lin_fold_once(v, 2 * n, 8);
    lin_fold_once(v, n, 4);
}

/* Sum `plane` of row `row` of 16, token t of n, tile i of 2, from what all warps left. */
PFQ_DEVICE LIN_SUM lin_total(const Lin &l, int32_t i, int32_t t, int32_t n, int32_t row,
                             int32_t plane)
{
    const int32_t each = n * lin_planes(); /* an eighth of a lane's sums */
    const int32_t at = ((i * n + t) * 4 + row % 4) * lin_planes() + plane;
    const LIN_SUM *p = l.partial + at % each * 32 + at / each * 4 + row / 4;
    LIN_SUM s = p[0];
    for (int32_t w = 1; w < LIN_WARPS; w++)
        s += p[w * LIN_PARTIAL];
    return s;
}

/* y of tiles i and i + 1 of the block, for n tokens from t on; a tile past the end repeats the
 * first and is dropped. n * lin_planes() is 8, or less for one token. */
PFQ_DEVICE void lin_pair(const Lin &l, int32_t i, int32_t t, int32_t n)
{
    const bool two = i + 1 < l.tiles;
    const uint8_t *const w[2] = {lin_tile(l, l.tile + i), lin_tile(l, l.tile + i + two)};
    const int32_t each = n * lin_planes(); /* sums that folding leaves a lane of 8 times as many */
    LIN_SUM v[LIN_SUMS];
    PFQ_UNROLL
    for (int32_t j = 0; j < 8 * each; j++)
        v[j] = 0;
    for (int32_t step = pfq_warp() * 8 + pfq_lane() / 4; step < lin_steps(); step += 8 * LIN_WARPS)
        lin_add(l, w, step, t, n, v);
    __syncwarp();
    lin_fold(v, each);
    PFQ_UNROLL
    for (int32_t j = 0; j < each; j++)
        l.partial[pfq_warp() * LIN_PARTIAL + j * 32 + pfq_lane()] = v[j];
    __syncthreads();
    const int32_t at = (int32_t)threadIdx.x, row = at % 16, j = at / 16 % n, half = at / 16 / n;
    if (half < 1 + two && t + j < l.tn) {
        const LIN_SUM hi = lin_total(l, half, j, n, row, 0),
                      lo = lin_total(l, half, j, n, row, lin_planes() - 1);
        l.y[(t + j) * l.ys + (i + half) * 16 + row] =
            lin_finish(l, lin_tile(l, l.tile + i + half), row, l.t0 + t + j, hi, lo);
    }
    __syncthreads();
}

/* ---- epilogues, of y and packed rows from row0 on ---- */

PFQ_DEVICE float lin_bias(const Lin &l, int32_t row, float v)
{
    return c_bias ? v + ((const float *)l.a->aux[0])[row] : v;
}

PFQ_DEVICE void lin_epi_plain(const Lin &l)
{
    const int32_t first = l.tile * 16, width = min(l.tiles * 16, c_N - first);
    for (int32_t t = pfq_warp(); t < l.tn; t += LIN_WARPS) {
        const int64_t at = (int64_t)(l.t0 + t) * c_N + first;
        for (int32_t i = pfq_lane(); i < width; i += 32) {
            float v = lin_bias(l, first + i, l.y[t * l.ys + i]);
            if (c_epi == PFQ_EPI_RESIDUAL) v += ((const float *)l.a->in[2])[at + i];
            ((float *)l.a->out[0])[at + i] = v;
        }
    }
}

/* Channel i of the block's, from y of a token. Tiles are of gate and of up in turn. */
PFQ_DEVICE float lin_gated(const Lin &l, const float *y, int32_t i)
{
    const int32_t row = i / 16 * 32 + i % 16;
    const float g = lin_bias(l, l.tile * 16 + row, y[row]),
                u = lin_bias(l, l.tile * 16 + row + 16, y[row + 16]);
    return pfq_act(c_act, g) * u;
}

/* To rows, or with c_tiles to tiles of bf16, where the block of the last channels has the padding.
 */
PFQ_DEVICE void lin_epi_swiglu(const Lin &l)
{
    const int32_t n = c_N / 2, first = l.tile * 8, width = min(l.tiles * 8, n - first),
                  pad = c_tiles && first + width == n ? pfq_up(n, 64) - n : 0;
    for (int32_t t = pfq_warp(); t < l.tn; t += LIN_WARPS)
        for (int32_t i = pfq_lane(); i < width + pad; i += 32)
            pfq_float_put(l.a->out[0], c_tiles, l.t0 + t, n, first + i,
                          i < width ? lin_gated(l, l.y + t * l.ys, i) : 0.0f);
}

/* Where kv head g of k (which 0) or v (1) of a row goes. */
PFQ_DEVICE KvOut lin_kv_out(const PfqCudaArgs &a, PfqRow row, int32_t which, int32_t g)
{
    const float *scales = (const float *)a.aux[4 + which];
    return {pfq_slot(a, a.out[1 + which], row), pfq_slot(a, a.out[3 + 2 * which], row),
            pfq_slot(a, a.out[4 + 2 * which], row), kv_ints() && c_kv_static ? scales[g] : 0.0f};
}

/* One head of one token, by a warp. */
PFQ_DEVICE void lin_head(const Lin &l, int32_t t, int32_t head, float *v)
{
    const PfqCudaArgs &a = *l.a;
    const int32_t kv = head - c_heads;
    const PfqRow row = pfq_row(a, t);
    if (c_bias)
        for (int32_t d = pfq_lane(); d < c_head_dim; d += 32)
            v[d] = lin_bias(l, head * c_head_dim + d, v[d]);
    __syncwarp();
    const float2 *table = c_turns ? (const float2 *)a.aux[7] + (int64_t)t * (c_rot / 2) : nullptr;
    if (kv < c_kv_heads)
        head_turn(v, a.aux[kv < 0 ? 2 : 3], {(const float *)a.aux[1], row.pos, table});
    if (kv < 0) {
        head_put(a.out[0], t, head, c_heads, a.aux[6], v);
        return;
    }
    const int32_t g = kv % max(c_kv_heads, 1);
    kv_put(lin_kv_out(a, row, kv >= c_kv_heads, g), (int64_t)g * a.ctx + row.pos, v);
}

PFQ_DEVICE void lin_epi_qkv(const Lin &l)
{
    const int32_t D = max(c_head_dim, 1); /* 0 in dead code */
    const int32_t n = l.tiles * 16 / D, first = l.tile * 16 / D;
    for (int32_t i = pfq_warp(); i < l.tn * n; i += LIN_WARPS) {
        const int32_t t = i / n, head = first + i % n;
        if (head < c_heads + 2 * c_kv_heads) /* else rows of padding */
            lin_head(l, l.t0 + t, head, l.y + t * l.ys + i % n * c_head_dim);
    }
}

PFQ_DEVICE void lin_epilogue(const Lin &l)
{
    if (c_epi == PFQ_EPI_SWIGLU)
        lin_epi_swiglu(l);
    else if (c_epi == PFQ_EPI_QKV)
        lin_epi_qkv(l);
    else
        lin_epi_plain(l);
}

/* ---- driver ---- */

PFQ_DEVICE void lin_run(const PfqCudaArgs &a)
{
    const int32_t unit = lin_unit(), tile = (int32_t)blockIdx.x * unit,
                  t0 = (int32_t)blockIdx.y * LIN_TOKENS;
    const Lin l = {&a,
                   (LIN_SUM *)pfq_shared,
                   (float *)pfq_shared + LIN_WARPS * LIN_PARTIAL,
                   unit * 16,
                   t0,
                   min(LIN_TOKENS, a.T - t0),
                   tile,
                   min(unit, lin_tiles() - tile)};
    for (int32_t i = 0; i < l.tiles; i += 2)
        if (l.tn == 1)
            lin_pair(l, i, 0, 1);
        else if (lin_planes() == 1)
            lin_pair(l, i, 0, 8);
        else
            for (int32_t t = 0; t < l.tn; t += 4)
                lin_pair(l, i, t, 4);
    lin_epilogue(l);
}

#endif
