/* linear: y = W x for T rows x, followed by an epilogue. This header is the part that all weight
 * formats share.
 *
 *   in[0]   activations: f32 [T, c_K], or integers of format c_fmt
 *   in[1]   scales of format c_fmt (quantised activations); NULL if c_static: then the scale of the
 *           activations is part of the weights' scales
 *   in[2]   residual [T, c_N] f32 (epilogue residual; may be out[0])
 *   w       packed tiles of 16 rows, ceil(c_N / 16) of them, 64-byte aligned
 *   aux[0]  bias f32 in the order of packed rows, if c_bias (c_N values; swiglu: 16 per tile)
 *
 * c_epi selects the epilogue:
 *   none      out[0] [T, c_N] f32 = y
 *   residual  out[0] [T, c_N] f32 = y + in[2]
 *   glu       W holds gate and up interleaved in tiles (16 rows gate, 16 rows up, ...), each
 *             padded to whole tiles: c_N = 2 * F, 2 * ceil(F / 16) tiles; out[0] [T, F] f32 =
 *             act(gate) * up, act is c_act
 *   qkv       rows are c_heads heads of q, then c_kv_heads of k, then c_kv_heads of v,
 *             c_head_dim rows each and nothing between them.
 *             - q and k: if c_qk_norm, RMSNorm of the head (c_eps) with gains aux[2] (q) and
 *               aux[3] (k), [c_head_dim] f32; then RoPE of the first c_rot columns, pairs
 *               (i, i + c_rot / 2), angle (pos + t + c_prefix) * aux[1][i], aux[1] = inverse
 *               frequencies [c_rot / 2] f32, cos and sin times c_rope_scale (c_rot = 0: no RoPE);
 *               then, if c_r3, the head times H / sqrt(c_head_dim)
 *             - out[0] = q [T, c_heads * c_head_dim] f32; c_q8: format s8 of the same shape,
 *               clamp(round_half_even(x / aux[6][head]), -c_q8, 127)
 *             - out[1], out[2] = K and V cache of this layer [c_kv_heads][ctx][c_head_dim],
 *               written at rows pos + t. c_kv is their format; rows are c_head_dim bytes (s8, u8)
 *               or c_head_dim / 2 (s4, u4: element 2i in the low nibble)
 *             - c_kv_static: k, v = clamp(round_half_even(x / s)), s = aux[4][kv head] of k,
 *               aux[5][kv head] of v, f32
 *             - other quantised caches: a scale (s8, s4), or a minimum and a scale (u8, u4; both
 *               are rounded to f16 before they are used) per token and head, written as f16 to
 *               out[3] K scales, out[4] K minima, out[5] V scales, out[6] V minima:
 *               [c_kv_heads][ctx], row pos + t
 *
 *   scratch   kernels.def says how much
 *
 * Work is divided in (64 tokens) x (unit of tiles); a unit of qkv is the smallest number of whole
 * heads that fills whole tiles. T = 1 streams the weights once: its roofline is memory bandwidth,
 * which the hardware's prefetchers reach on one contiguous stream per thread (software prefetch
 * cost 7 to 18 % on Zen 4). Large T is bound by the dot-product ports (VNNI on Zen 4: 64
 * multiply-adds of 8 bits, 16 of f32 a cycle and core).
 *
 * A family (linear_*.c) defines lin_prepare and lin_block; lin_run drives them.
 */
#ifndef PFQC_CODEGEN_CPU_LINEAR_H
#define PFQC_CODEGEN_CPU_LINEAR_H

#include "heads.h"
#include "quantise.h"

PFQ_CONST(int32_t, c_N);
PFQ_CONST(int32_t, c_K);
PFQ_CONST(int32_t, c_fmt);
PFQ_CONST(int32_t, c_epi);
PFQ_CONST(int32_t, c_bias);
PFQ_CONST(int32_t, c_static);
PFQ_CONST(int32_t, c_act);
PFQ_CONST(int32_t, c_heads);
PFQ_CONST(int32_t, c_kv_heads);

enum { PFQ_EPI_NONE = 0, PFQ_EPI_RESIDUAL = 1, PFQ_EPI_GLU = 2, PFQ_EPI_QKV = 3 };

enum { LIN_TOKENS = 64 }; /* tokens of one block of work */

typedef struct Lin {
    const PfqArgs *a;
    float *y;     /* [LIN_TOKENS][ys] f32, result of lin_block */
    float *rope;  /* rope table of the block's tokens */
    float *extra; /* the family's own */
    int32_t ys;   /* floats from one token of y to the next */
    int32_t t0;   /* first token of the block */
    int32_t tn;   /* tokens of the block */
} Lin;

/* Computes tiles [tile, tile + tiles) for the block's tokens into y; columns of y are packed rows.
 */
PFQ_INLINE void lin_block(const Lin *l, int32_t tile, int32_t tiles);

/* Called once for a block of tokens, before lin_block: what every tile needs of the activations. */
PFQ_INLINE void lin_prepare(const Lin *l);

PFQ_INLINE int32_t lin_tiles(void)
{
    return c_epi == PFQ_EPI_GLU ? 2 * ((c_N / 2 + 15) / 16) : (c_N + 15) / 16;
}

/* Tiles of a unit: for qkv, lcm(head_dim, 16) / 16. */
PFQ_INLINE int32_t lin_unit(int32_t T)
{
    if (c_epi == PFQ_EPI_QKV) {
        int32_t u = c_head_dim, m = 16;
        for (; m > 1 && u % 2 == 0; m /= 2)
            u /= 2;
        return u;
    }
    return T == 1 && c_epi != PFQ_EPI_GLU ? 1 : 2;
}

/* ---- epilogues: token t of the block, packed rows from row on, values v ---- */

PFQ_INLINE F lin_bias(const Lin *l, int32_t row, int32_t n, F v)
{
    return c_bias ? v + f_load_n((const float *)l->a->aux[0] + row, n) : v;
}

PFQ_INLINE void lin_epi_plain(const Lin *l, int32_t tile, int32_t tiles)
{
    const PfqArgs *a = l->a;
    for (int32_t t = 0; t < l->tn; t++) {
        int64_t at = (int64_t)(l->t0 + t) * c_N;
        for (int32_t i = 0; i < tiles; i++) {
            int32_t row = (tile + i) * 16, n = c_N - row;
            F v = lin_bias(l, row, n, f_load(l->y + t * l->ys + i * 16));
            if (c_epi == PFQ_EPI_RESIDUAL) v += f_load_n((const float *)a->in[2] + at + row, n);
            f_store_n((float *)a->out[0] + at + row, v, n);
        }
    }
}

PFQ_INLINE void lin_epi_glu(const Lin *l, int32_t tile, int32_t tiles)
{
    const int32_t width = c_N / 2;
    for (int32_t t = 0; t < l->tn; t++) {
        float *out = (float *)l->a->out[0] + (int64_t)(l->t0 + t) * width;
        for (int32_t i = 0; i < tiles; i += 2) {
            const float *y = l->y + t * l->ys + i * 16;
            int32_t row = (tile + i) * 16, col = row / 2;
            F g = lin_bias(l, row, 16, f_load(y)), u = lin_bias(l, row + 16, 16, f_load(y + 16));
            f_store_n(out + col, f_act(c_act, g) * u, width - col);
        }
    }
}

/* Bias, norm and RoPE of one head of one token, in place. */
PFQ_INLINE void lin_head(const Lin *l, int32_t t, int32_t head, float *v)
{
    const int32_t D = c_head_dim;
    if (c_bias)
        for (int32_t i = 0; i < D; i += 16)
            f_store_n(v + i, lin_bias(l, head * D + i, D - i, f_load_n(v + i, D - i)), D - i);
    if (head >= c_heads + c_kv_heads) return;
    head_norm(v, l->a->aux[head < c_heads ? 2 : 3]);
    head_rope(v, l->rope + t * 2 * rope_half());
    head_hadamard(v);
}

/* Head `head` of q of token t of all, from v. */
PFQ_INLINE void lin_put_q(const PfqArgs *a, int64_t t, int32_t head, const float *v)
{
    if (c_q8) {
        const int64_t stride = quant_stride(PFQ_FMT_S8, c_heads * c_head_dim);
        head_quant((uint8_t *)a->out[0] + t * stride + head * c_head_dim, v,
                   ((const float *)a->aux[6])[head]);
        return;
    }
    head_copy((float *)a->out[0] + (t * c_heads + head) * c_head_dim, v);
}

/* Kv head g of k (which 0) or v (1) of token t of all, from v. */
PFQ_INLINE void lin_put_kv(const PfqArgs *a, int64_t t, int32_t which, int32_t g, const float *v)
{
    KvOut o = kv_out(a, t, a->out[1 + which], a->out[3 + 2 * which], a->out[4 + 2 * which]);
    if (kv_ints() && c_kv_static) o.scale = ((const float *)a->aux[4 + which])[g];
    kv_put(&o, (int64_t)g * a->ctx + pfq_pos(a, t), v);
}

PFQ_INLINE void lin_epi_qkv(const Lin *l, int32_t tile, int32_t tiles)
{
    const PfqArgs *a = l->a;
    const int32_t D = pfq_max(c_head_dim, 1),
                  kv_heads = pfq_max(c_kv_heads, 1); /* 0 in dead code */
    const int32_t first = tile * 16 / D;
    for (int32_t j = 0; j < tiles * 16 / D; j++) {
        int32_t head = first + j, kv = head - c_heads, g = pfq_max(kv, 0) % kv_heads;
        if (kv >= 2 * c_kv_heads) break; /* rows of padding */
        for (int32_t t = 0; t < l->tn; t++) {
            float *v = l->y + t * l->ys + j * D;
            lin_head(l, t, head, v);
            if (kv < 0)
                lin_put_q(a, l->t0 + t, head, v);
            else
                lin_put_kv(a, l->t0 + t, kv >= c_kv_heads, g, v);
        }
    }
}

/* ---- driver ---- */

PFQ_INLINE void lin_run(const PfqArgs *a, int tid, int nt)
{
    const int32_t unit = lin_unit(a->T), tiles = lin_tiles(), units = (tiles + unit - 1) / unit;
    Lin l = {.a = a, .y = a->scratch, .ys = unit * 16};
    l.rope = l.y + LIN_TOKENS * l.ys;
    l.extra = l.rope + LIN_TOKENS * 2 * rope_half();
    int64_t w, end;
    pfq_split((int64_t)units * ((a->T + LIN_TOKENS - 1) / LIN_TOKENS), tid, nt, &w, &end);
    while (w < end) {
        int32_t u0 = (int32_t)(w % units),
                u1 = (int32_t)((end - w) < units - u0 ? u0 + (end - w) : units);
        l.t0 = (int32_t)(w / units) * LIN_TOKENS;
        l.tn = pfq_min(LIN_TOKENS, a->T - l.t0);
        lin_prepare(&l);
        if (c_epi == PFQ_EPI_QKV)
            for (int32_t t = 0; t < l.tn; t++)
                rope_table(l.rope + t * 2 * rope_half(), a->aux[1], pfq_pos(a, l.t0 + t));
        for (int32_t u = u0; u < u1; u++) {
            int32_t tile = u * unit, n = pfq_min(unit, tiles - tile);
            lin_block(&l, tile, n);
            if (c_epi == PFQ_EPI_GLU)
                lin_epi_glu(&l, tile, n);
            else if (c_epi == PFQ_EPI_QKV)
                lin_epi_qkv(&l, tile, n);
            else
                lin_epi_plain(&l, tile, n);
        }
        w += u1 - u0;
    }
}

#endif
