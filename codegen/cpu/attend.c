/* attend: causal attention of T query rows over the KV cache, with grouped heads and an optional
 * window.
 *
 *   in[0]   q [T, c_heads * c_head_dim] f32; c_q8: format s8, bytes x + 128, with aux[4]
 *   in[1]   K cache of this layer [c_kv_heads][ctx][c_head_dim] in the format c_kv (kv.h)
 *   in[2]   V cache, likewise
 *   in[3..6] K scales, K minima, V scales, V minima, f16 [c_kv_heads][ctx], for quantised caches
 * that are not c_kv_static (minima: u8 and u4) aux[0], aux[1] keys and values of the prefix, f16
 * [c_prefix, c_kv_heads, c_head_dim] aux[2], aux[3] K and V scales, f32 [c_kv_heads], for quantised
 * caches that are c_kv_static aux[4]  Q scales, f32 [c_heads], if c_q8 aux[5]  c_fmt s8: the scale
 * of the output, one f32 out[0]  [T, c_heads * c_head_dim] f32; c_fmt s8: integers of that format,
 * clamped to c_qlo..c_qhi scratch PFQ_ATTEND_SCRATCH(c_head_dim) bytes
 *
 * Row t sees the prefix and positions max(0, p - c_window + 1) .. p, p its position (c_window = 0:
 * all), of its slot. Scores are q . k * c_scale; softmax is online over blocks of keys that start
 * at multiples of BLOCK, so no result depends on the number of threads; the prefix comes last, when
 * o has its unit.
 *
 * With integer q and K (attend.h) scores are exact int32 products times one factor; else quantised
 * keys are taken as small f32 integers. Probabilities are f32 always, and values f32 or small f32
 * integers: a static scale multiplies the sum once, one per token multiplies its probability.
 *
 * T = 1, and rows that are sequences of their own: heads of all rows are divided over threads,
 * each streams its keys and values once per group; what a row gives depends on no other. T > 1:
 * work items are (kv head, 64 rows), a row being a (token, head of the group) pair; keys are
 * transposed once per item and block, and both products run at f32 FMA rate (16 multiply-adds a
 * cycle and core on Zen 4), integer scores at 64.
 */
#include "attend.h"

enum {
    BLOCK = 64,            /* keys of a block */
    ROWS = 64,             /* query rows of an item */
    GROUP = 4,             /* heads that decode takes together */
    MR = PFQ_VNNI ? 4 : 2, /* register block: rows x vectors of 16 */
    MC = PFQ_VNNI ? 4 : 2
};

/* ---- one token of a sequence ---- */

/* Heads h0 .. h0 + g of one kv head. */
typedef struct Heads {
    Kv kv;
    float *q;  /* [GROUP][dim16], times c_scale; unused with integer scores */
    int8_t *i; /* [GROUP][dim16] in quads */
    float *o;  /* [GROUP][dim16] */
    float factor[GROUP], q_sum[GROUP], top[GROUP], sum[GROUP], minima[GROUP], corr[GROUP];
    int32_t excess[GROUP];
} Heads;

/* Products of g queries with keys j and j + 1, folded once. Keys past `last` repeat it. */
PFQ_INLINE void two_keys(const Heads *s, int32_t j, int32_t last, int32_t g, F *sums)
{
    const char *k0 = s->kv.k + pfq_min(j, last) * kv_row();
    const char *k1 = s->kv.k + pfq_min(j + 1, last) * kv_row();
    F acc[GROUP][2];
    PFQ_UNROLL for (int32_t h = 0; h < g; h++) acc[h][0] = acc[h][1] = f_set(0.0f);
    PFQ_ROLLED for (int32_t d = 0; d < c_head_dim; d += 16)
    { /* unrolled 8 times, it spills */
        F x0 = load_kv(k0, d), x1 = load_kv(k1, d);
        PFQ_UNROLL for (int32_t h = 0; h < g; h++)
        {
            F y = f_load(s->q + h * dim16() + d);
            acc[h][0] = f_fma(x0, y, acc[h][0]);
            acc[h][1] = f_fma(x1, y, acc[h][1]);
        }
    }
    PFQ_UNROLL for (int32_t h = 0; h < g; h++) sums[h] = fold8(acc[h][0], acc[h][1]);
}

/* Products of 16 keys from j on with g queries. */
PFQ_INLINE void sixteen_keys(const Heads *s, int32_t j, int32_t last, int32_t g, F *products)
{
    F a[GROUP], b[GROUP], four[4][GROUP];
    PFQ_UNROLL for (int32_t c = 0; c < 4; c++)
    {
        two_keys(s, j + 4 * c, last, g, a);
        two_keys(s, j + 4 * c + 2, last, g, b);
        PFQ_UNROLL for (int32_t h = 0; h < g; h++) four[c][h] = fold4(a[h], b[h]);
    }
    PFQ_UNROLL for (int32_t h = 0; h < g; h++) products[h] =
        fold1(fold2(four[0][h], four[1][h]), fold2(four[2][h], four[3][h]));
}

/* Adds the products of a quad of 16 keys with that of g queries at q to their sums `which`. */
PFQ_INLINE void quad_products(I k, const int8_t *q, int32_t g, I acc[GROUP][2], int32_t which)
{
    PFQ_UNROLL for (int32_t h = 0; h < g; h++) acc[h][which] =
        dot_quads(acc[h][which], k, i_set(*(const I32U *)(q + h * dim16())));
}

/* The same as sixteen_keys, of integers. */
PFQ_INLINE void sixteen_int_keys(const Heads *s, int32_t j, int32_t last, int32_t g, F *products)
{
    const int32_t halves = kv_nibbles() ? 2 : 1;
    I acc[GROUP][2];
    PFQ_UNROLL for (int32_t h = 0; h < g; h++)
    {
        acc[h][0] = i_set(-s->excess[h]);
        acc[h][1] = i_set(0);
    }
    for (int32_t at = 0; at < row_dwords(); at += 16) {
        F v[16];
        key_dwords(s->kv.k, j, last, at, v);
        PFQ_UNROLL for (int32_t i = 0; i < 16; i++)
        {
            const int8_t *q = s->i + 4 * halves * (at + i);
            if (at + i < row_dwords()) {
                quad_products(quad(v[i], 0), q, g, acc, i * halves % 2);
                if (halves == 2) quad_products(quad(v[i], 1), q + 4, g, acc, 1);
            }
        }
    }
    PFQ_UNROLL for (int32_t h = 0; h < g; h++) products[h] = f_of_i(acc[h][0] + acc[h][1]);
}

/* Scores of 16 keys from row j on, of which n are there, to p[h][0..16). */
PFQ_INLINE void sixteen_scores(const Heads *s, int32_t j, int32_t last, int32_t n, int32_t g,
                               float (*p)[BLOCK], F *top)
{
    F x[GROUP], scales = f_set(1.0f), minima = f_set(0.0f);
    if (int_scores())
        sixteen_int_keys(s, j, last, g, x);
    else
        sixteen_keys(s, j, last, g, x);
    if (kv_scales()) scales = load_halves(s->kv.ks + j, n);
    if (kv_minima()) minima = load_halves(s->kv.km + j, n);
    PFQ_UNROLL for (int32_t h = 0; h < g; h++)
    {
        F r = scored(x[h], scales, minima, s->factor[h], s->q_sum[h]);
        if (n < 16) r = f_sel(i_lanes() < i_set(n), r, f_set(NONE));
        f_store(p[h], r);
        top[h] = f_max(top[h], r);
    }
}

/* Scores of n <= BLOCK keys from row j on with g queries; those behind them, up to a multiple of
 * 16, are NONE. top[h] gets their maximum. */
PFQ_INLINE void decode_scores(const Heads *s, int32_t j, int32_t n, int32_t g,
                              float p[GROUP][BLOCK], F *top)
{
    PFQ_UNROLL for (int32_t h = 0; h < g; h++) top[h] = f_set(NONE);
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) /* no key needs a look whether it is there */
        sixteen_scores(s, j + i, j + i + 15, 16, g, (float(*)[BLOCK])(p[0] + i), top);
    if (i < n) sixteen_scores(s, j + i, j + n - 1, n - i, g, (float(*)[BLOCK])(p[0] + i), top);
}

/* Scores to probabilities, which a scale per token multiplies. Updates the state of head h. */
PFQ_INLINE void decode_softmax(Heads *s, int32_t h, int32_t j, int32_t n, float most, float *p)
{
    const float m = most > s->top[h] ? most : s->top[h];
    F sum = f_set(0.0f), minima = sum;
    s->corr[h] = f_exp(f_set(s->top[h] - m))[0];
    s->top[h] = m;
    for (int32_t i = 0; i < n; i += 16) {
        F e = f_exp(f_load(p + i) - f_set(m));
        sum += e;
        if (kv_minima()) minima = f_fma(e, load_halves(s->kv.vm + j + i, n - i), minima);
        if (kv_scales()) e *= load_halves(s->kv.vs + j + i, n - i);
        f_store(p + i, e);
    }
    s->sum[h] = s->sum[h] * s->corr[h] + f_hsum(sum);
    if (kv_minima()) s->minima[h] = s->minima[h] * s->corr[h] + f_hsum(minima);
}

/* Values of nibbles are added in the order of load_mixed, which costs one shuffle less. */
PFQ_INLINE bool mixed_columns(void)
{
    return PFQ_VNNI && kv_nibbles() && c_head_dim % 64 == 0;
}

/* Puts o[head_dim] in order; tmp has the same size. */
PFQ_INLINE void sort_columns(float *o, float *tmp)
{
    for (int32_t d = 0; d < c_head_dim; d += 16)
        f_store(tmp + d, f_load(o + d));
    for (int32_t d = 0; d < c_head_dim; d++)
        o[d] = tmp[d / 64 * 64 + mixed_column(d % 64)];
}

/* o[d .. d + 16 * m) of g heads: o = o * corr + sum of p * v over n keys. */
PFQ_INLINE void decode_values(const Heads *s, int32_t j, int32_t n, const float (*p)[BLOCK],
                              int32_t d, int32_t g, int32_t m)
{
    const char *v = s->kv.v + j * kv_row();
    float *o = s->o + d;
    F acc[GROUP][4];
    PFQ_UNROLL for (int32_t h = 0; h < g; h++) PFQ_UNROLL for (int32_t i = 0; i < m; i++)
        acc[h][i] = f_load(o + h * dim16() + 16 * i) * f_set(s->corr[h]);
    for (int32_t k = 0; k < n; k++)
        PFQ_UNROLL for (int32_t i = 0; i < m; i++)
        {
            const char *row = v + k * kv_row();
            F x = mixed_columns() ? load_mixed(row + d / 2, i) : load_kv(row, d + 16 * i);
            PFQ_UNROLL for (int32_t h = 0; h < g; h++) acc[h][i] =
                f_fma(f_set(p[h][k]), x, acc[h][i]);
        }
    PFQ_UNROLL for (int32_t h = 0; h < g; h++) PFQ_UNROLL for (int32_t i = 0; i < m; i++)
        f_store(o + h * dim16() + 16 * i, acc[h][i]);
}

PFQ_INLINE void decode_begin(const PfqArgs *a, Heads *s, int32_t t, int32_t h, int32_t head)
{
    float *o = s->o + h * dim16(), *q = s->q + h * dim16();
    F sum = f_set(0.0f);
    for (int32_t d = 0; d < dim16(); d += 16) {
        F x = load_q(a, t, head, d);
        f_store(o + d, f_set(0.0f));
        f_store(q + d, x);
        sum += x;
    }
    s->factor[h] = s->kv.k_scale;
    s->q_sum[h] = f_hsum(sum);
    s->excess[h] = 0;
    if (int_scores()) {
        const int32_t total = query_quads(a, t, head, s->i + h * dim16());
        s->factor[h] *= ((const float *)a->aux[4])[head] * c_scale;
        s->q_sum[h] = (float)total;
        s->excess[h] = quad_excess(total);
    }
    s->top[h] = NONE;
    s->sum[h] = s->minima[h] = 0.0f;
}

/* Heads h0 .. h0 + g of token t, all of one kv head. */
PFQ_INLINE void decode_heads(const PfqArgs *a, int32_t t, int32_t h0, int32_t g)
{
    const int32_t pos = pfq_pos(a, t), end = pos + 1;
    Heads s = {.kv = kv_of(a, t, h0 / (c_heads / c_kv_heads)), .o = a->scratch};
    s.q = s.o + GROUP * dim16();
    s.i = (int8_t *)(s.q + GROUP * dim16());
    float p[GROUP][BLOCK] __attribute__((aligned(64)));
    for (int32_t h = 0; h < g; h++)
        decode_begin(a, &s, t, h, h0 + h);
    for (int32_t j = first_key(pos), n; j < end; j += n) {
        n = pfq_min(BLOCK - j % BLOCK, end - j);
        F best[GROUP];
        decode_scores(&s, j, n, g, p, best);
        PFQ_UNROLL for (int32_t h = 0; h < g; h++)
            decode_softmax(&s, h, j, n, f_hmax(best[h]), p[h]);
        int32_t d = 0;
        for (; d + 64 <= dim16(); d += 64)
            decode_values(&s, j, n, (const float(*)[BLOCK])p, d, g, 4);
        for (; d < dim16(); d += 16)
            decode_values(&s, j, n, (const float(*)[BLOCK])p, d, g, 1);
    }
    for (int32_t h = 0; h < g; h++) {
        if (mixed_columns()) sort_columns(s.o + h * dim16(), s.q);
        finish_row(a, &s.kv, t, h0 + h, s.o + h * dim16(), s.top[h], s.sum[h], s.minima[h]);
    }
}

PFQ_INLINE void decode(const PfqArgs *a, int tid, int nt)
{
    const int32_t group = c_heads / c_kv_heads;
    int64_t at, e; /* heads of all tokens, one after the other */
    pfq_split((int64_t)a->T * c_heads, tid, nt, &at, &e);
    while (at < e) {
        const int32_t t = (int32_t)(at / c_heads), h = (int32_t)(at % c_heads);
        const int64_t left = e - at;
        int32_t n = pfq_min(GROUP, group - h % group);
        n = n < left ? n : (int32_t)left;
        if (n == 4)
            decode_heads(a, t, h, 4);
        else if (n == 3)
            decode_heads(a, t, h, 3);
        else if (n == 2)
            decode_heads(a, t, h, 2);
        else
            decode_heads(a, t, h, 1);
        at += n;
    }
}

/* ---- many tokens ---- */

typedef struct Item {
    Kv kv;
    float *q;    /* [ROWS][head_dim], times c_scale; unused with integer scores */
    int8_t *i;   /* [ROWS][dim16] in quads, in the same place */
    float *kt;   /* [dim16][BLOCK]: keys transposed */
    I32U *quads; /* [row_quads][BLOCK], in the same place */
    float *v;    /* [BLOCK][dim16] */
    float *o;    /* [ROWS][dim16] */
    float *s;    /* [ROWS][BLOCK]: scores, then probabilities */
    float *top, *sum, *minima, *factor, *q_sum; /* [ROWS] */
    float *ks, *km, *vs, *vm;                   /* [BLOCK] */
    int32_t *excess;                            /* [ROWS] */
    int32_t rows; /* rounded up to MR; rows past the end repeat the last */
} Item;

PFQ_INLINE void load_keys(const Item *it, const char *k, int32_t n)
{
    for (int32_t j = 0; j < n; j += 16)
        for (int32_t d = 0; d < c_head_dim; d += 16) {
            F v[16];
            PFQ_UNROLL for (int32_t i = 0; i < 16; i++) v[i] =
                j + i < n ? load_kv(k + (j + i) * kv_row(), d) : f_set(0.0f);
            transpose16(v);
            PFQ_UNROLL for (int32_t i = 0; i < 16; i++) f_store(it->kt + (d + i) * BLOCK + j, v[i]);
        }
}

PFQ_INLINE void load_int_keys(const Item *it, const char *k, int32_t n)
{
    const int32_t halves = kv_nibbles() ? 2 : 1;
    for (int32_t j = 0; j < n; j += 16)
        for (int32_t at = 0; at < row_dwords(); at += 16) {
            F v[16];
            key_dwords(k, j, n - 1, at, v);
            PFQ_UNROLL for (int32_t i = 0; i < 16; i++)
            {
                I32U *q = it->quads + (at + i) * halves * BLOCK + j;
                if (at + i < row_dwords()) {
                    f_store((float *)q, (F)quad(v[i], 0));
                    if (halves == 2) f_store((float *)(q + BLOCK), (F)quad(v[i], 1));
                }
            }
        }
}

PFQ_INLINE void load_scales(float *dst, const uint16_t *rows, int32_t n)
{
    for (int32_t j = 0; j < n; j += 16)
        f_store(dst + j, load_halves(rows + j, n - j));
}

PFQ_INLINE void load_block(const Item *it, int32_t j, int32_t n)
{
    const char *k = it->kv.k + j * kv_row(), *v = it->kv.v + j * kv_row();
    if (int_scores())
        load_int_keys(it, k, n);
    else
        load_keys(it, k, n);
    for (int32_t i = 0; i < n; i++)
        for (int32_t d = 0; d < c_head_dim; d += 16)
            f_store(it->v + i * dim16() + d, load_kv(v + i * kv_row(), d));
    if (kv_scales()) {
        load_scales(it->ks, it->kv.ks + j, n);
        load_scales(it->vs, it->kv.vs + j, n);
    }
    if (kv_minima()) {
        load_scales(it->km, it->kv.km + j, n);
        load_scales(it->vm, it->kv.vm + j, n);
    }
}

/* Products of rows r .. r + MR with keys j .. j + 16 * MC of the block. */
PFQ_INLINE void products(const Item *it, int32_t r, int32_t j, F acc[MR][MC])
{
    const int32_t D = c_head_dim;
    PFQ_UNROLL for (int32_t i = 0; i < MR; i++) PFQ_UNROLL for (int32_t c = 0; c < MC; c++)
        acc[i][c] = f_set(0.0f);
    for (int32_t d = 0; d < D; d++) {
        F k[MC];
        PFQ_UNROLL for (int32_t c = 0; c < MC; c++) k[c] = f_load(it->kt + d * BLOCK + j + 16 * c);
        PFQ_UNROLL for (int32_t i = 0; i < MR; i++)
        {
            F x = f_set(it->q[(r + i) * D + d]);
            PFQ_UNROLL for (int32_t c = 0; c < MC; c++) acc[i][c] = f_fma(x, k[c], acc[i][c]);
        }
    }
}

PFQ_INLINE void int_products(const Item *it, int32_t r, int32_t j, F products[MR][MC])
{
    I acc[MR][MC];
    PFQ_UNROLL for (int32_t i = 0; i < MR; i++) PFQ_UNROLL for (int32_t c = 0; c < MC; c++)
        acc[i][c] = i_set(-it->excess[r + i]);
    for (int32_t u = 0; u < row_quads(); u++) {
        I k[MC];
        PFQ_UNROLL for (int32_t c = 0; c < MC; c++) k[c] =
            (I)f_load((const float *)(it->quads + u * BLOCK + j + 16 * c));
        PFQ_UNROLL for (int32_t i = 0; i < MR; i++)
        {
            I x = i_set(*(const I32U *)(it->i + (r + i) * dim16() + 4 * u));
            PFQ_UNROLL for (int32_t c = 0; c < MC; c++) acc[i][c] = dot_quads(acc[i][c], k[c], x);
        }
    }
    PFQ_UNROLL for (int32_t i = 0; i < MR; i++) PFQ_UNROLL for (int32_t c = 0; c < MC; c++)
        products[i][c] = f_of_i(acc[i][c]);
}

/* Scores of n keys; what is behind them in the last vectors is anything. */
PFQ_INLINE void scores(const Item *it, int32_t n)
{
    for (int32_t j = 0; j < n; j += 16 * MC)
        for (int32_t r = 0; r < it->rows; r += MR) {
            F acc[MR][MC];
            if (int_scores())
                int_products(it, r, j, acc);
            else
                products(it, r, j, acc);
            PFQ_UNROLL for (int32_t i = 0; i < MR; i++) PFQ_UNROLL for (int32_t c = 0; c < MC; c++)
            {
                const int32_t k = j + 16 * c;
                f_store(it->s + (r + i) * BLOCK + k,
                        scored(acc[i][c], f_load(it->ks + k), f_load(it->km + k), it->factor[r + i],
                               it->q_sum[r + i]));
            }
        }
}

/* Scores of one row to probabilities; keys [lo, hi) of the block count. Scales the row's state. */
PFQ_INLINE void softmax_row(const Item *it, int32_t r, int32_t lo, int32_t hi)
{
    float *s = it->s + r * BLOCK;
    F x[BLOCK / 16], m = f_set(NONE);
    I in[BLOCK / 16];
    PFQ_UNROLL for (int32_t i = 0; i < BLOCK / 16; i++)
    {
        I lane = i_lanes() + i_set(16 * i);
        in[i] = (lane >= i_set(lo)) & (lane < i_set(hi));
        x[i] = f_sel(in[i], f_load(s + 16 * i), f_set(NONE));
        m = f_max(m, x[i]);
    }
    float old = it->top[r], top = f_hmax(m);
    top = top > old ? top : old;
    F sum = f_set(0.0f), minima = sum;
    PFQ_UNROLL for (int32_t i = 0; i < BLOCK / 16; i++)
    {
        F e = f_sel(in[i], f_exp(x[i] - f_set(top)), f_set(0.0f));
        sum += e;
        if (kv_minima()) minima += f_sel(in[i], e * f_load(it->vm + 16 * i), f_set(0.0f));
        if (kv_scales()) e = f_sel(in[i], e * f_load(it->vs + 16 * i), f_set(0.0f));
        f_store(s + 16 * i, e);
    }
    it->top[r] = top;
    const F corr = top == old ? f_set(1.0f) : f_exp(f_set(old - top));
    it->sum[r] = it->sum[r] * corr[0] + f_hsum(sum);
    if (kv_minima()) it->minima[r] = it->minima[r] * corr[0] + f_hsum(minima);
    if (top == old) return;
    for (int32_t d = 0; d < dim16(); d += 16)
        f_store(it->o + r * dim16() + d, f_load(it->o + r * dim16() + d) * corr);
}

PFQ_INLINE void values(const Item *it, int32_t r, int32_t d, int32_t m, int32_t n)
{
    F acc[MR][MC];
    float *o = it->o + r * dim16() + d;
    PFQ_UNROLL for (int32_t i = 0; i < MR; i++) PFQ_UNROLL for (int32_t c = 0; c < m; c++)
        acc[i][c] = f_load(o + i * dim16() + 16 * c);
    for (int32_t j = 0; j < n; j++) {
        F v[MC];
        PFQ_UNROLL for (int32_t c = 0; c < m; c++) v[c] = f_load(it->v + j * dim16() + d + 16 * c);
        PFQ_UNROLL for (int32_t i = 0; i < MR; i++)
        {
            F p = f_set(it->s[(r + i) * BLOCK + j]);
            PFQ_UNROLL for (int32_t c = 0; c < m; c++) acc[i][c] = f_fma(p, v[c], acc[i][c]);
        }
    }
    PFQ_UNROLL for (int32_t i = 0; i < MR; i++) PFQ_UNROLL for (int32_t c = 0; c < m; c++)
        f_store(o + i * dim16() + 16 * c, acc[i][c]);
}

/* Row r of the item: head h of token t. */
PFQ_INLINE void begin_row(const PfqArgs *a, const Item *it, int32_t r, int32_t t, int32_t h)
{
    const int32_t D = c_head_dim;
    it->factor[r] = it->kv.k_scale;
    it->top[r] = NONE;
    it->sum[r] = it->minima[r] = it->q_sum[r] = 0.0f;
    for (int32_t d = 0; d < dim16(); d += 16)
        f_store(it->o + r * dim16() + d, f_set(0.0f));
    if (int_scores()) {
        const int32_t sum = query_quads(a, t, h, it->i + r * dim16());
        it->factor[r] *= ((const float *)a->aux[4])[h] * c_scale;
        it->q_sum[r] = (float)sum;
        it->excess[r] = quad_excess(sum);
        return;
    }
    F sum = f_set(0.0f);
    for (int32_t d = 0; d < D; d += 16) {
        const F x = load_q(a, t, h, d);
        f_store_n(it->q + r * D + d, x, D - d);
        sum += x;
    }
    if (kv_minima()) it->q_sum[r] = f_hsum(sum);
}

/* Rows [r0, r0 + n) of kv head kv; row r is token r / group, head kv * group + r % group. */
PFQ_INLINE void attend_item(const PfqArgs *a, Item *it, int32_t kv, int32_t r0, int32_t n)
{
    const int32_t group = c_heads / c_kv_heads;
    it->kv = kv_of(a, 0, kv);
    it->rows = pfq_up(n, MR);
    for (int32_t r = 0; r < it->rows; r++) {
        const int32_t at = r0 + pfq_min(r, n - 1);
        begin_row(a, it, r, at / group, kv * group + at % group);
    }
    const int32_t last = a->pos + (r0 + n - 1) / group;
    for (int32_t j = first_key(a->pos + r0 / group) / BLOCK * BLOCK; j <= last; j += BLOCK) {
        int32_t keys = pfq_min(BLOCK, last + 1 - j);
        load_block(it, j, keys);
        scores(it, keys);
        for (int32_t r = 0; r < it->rows; r++) {
            int32_t p = a->pos + (r0 + pfq_min(r, n - 1)) / group;
            softmax_row(it, r, first_key(p) - j, p + 1 - j);
        }
        for (int32_t r = 0; r < it->rows; r += MR) {
            int32_t d = 0;
            for (; d + 16 * MC <= dim16(); d += 16 * MC)
                values(it, r, d, MC, keys);
            for (; d < dim16(); d += 16)
                values(it, r, d, 1, keys);
        }
    }
    for (int32_t r = 0; r < n; r++)
        finish_row(a, &it->kv, (r0 + r) / group, kv * group + (r0 + r) % group, it->o + r * dim16(),
                   it->top[r], it->sum[r], it->minima[r]);
}

PFQ_INLINE Item item_in(float *scratch)
{
    Item it = {.q = scratch};
    it.i = (int8_t *)it.q;
    it.kt = it.q + ROWS * dim16();
    it.quads = (I32U *)it.kt;
    it.v = it.kt + BLOCK * dim16();
    it.o = it.v + BLOCK * dim16();
    it.s = it.o + ROWS * dim16();
    it.top = it.s + ROWS * BLOCK;
    it.sum = it.top + ROWS;
    it.minima = it.sum + ROWS;
    it.factor = it.minima + ROWS;
    it.q_sum = it.factor + ROWS;
    it.ks = it.q_sum + ROWS;
    it.km = it.ks + BLOCK;
    it.vs = it.km + BLOCK;
    it.vm = it.vs + BLOCK;
    it.excess = (int32_t *)(it.vm + BLOCK);
    return it;
}

void pfq_attend(const PfqArgs *a, int tid, int nt)
{
    if (a->T == 1 || a->rows) {
        decode(a, tid, nt);
        return;
    }
    Item it = item_in(a->scratch);
    const int32_t rows = a->T * (c_heads / c_kv_heads), chunks = (rows + ROWS - 1) / ROWS;
    /* Later rows see more keys: longest items first, dealt to the threads back and forth. */
    for (int32_t i = 0; i < chunks * c_kv_heads; i++) {
        int32_t slot = i % nt, owner = i / nt % 2 ? nt - 1 - slot : slot;
        if (owner != tid) continue;
        int32_t r0 = (chunks - 1 - i / c_kv_heads) * ROWS;
        attend_item(a, &it, i % c_kv_heads, r0, pfq_min(ROWS, rows - r0));
    }
}
