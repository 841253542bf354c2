/* attend: causal attention of T query rows over the KV cache, with grouped heads and an optional
 * window.
 *
 *   in[0]   q [T, c_heads * c_head_dim] f32; c_q8: format s8, bytes x + 128, with aux[4]
 *   in[1]   K cache of this layer [c_kv_heads][ctx][c_head_dim], f32 or (c_kv_f16) f16
 *   in[2]   V cache, likewise; c_kv says the format of both: rows of s8, u8 are c_head_dim bytes, of
 *           s4, u4 c_head_dim / 2, element 2i in the low nibble
 *   in[3..6] K scales, K minima, V scales, V minima, f16 [c_kv_heads][ctx], for quantised caches that
 *           are not c_kv_static (minima: u8 and u4)
 *   aux[0], aux[1] keys and values of the prefix, f16 [c_prefix, c_kv_heads, c_head_dim]
 *   aux[2], aux[3] K and V scales, f32 [c_kv_heads], for quantised caches that are c_kv_static
 *   aux[4]  Q scales, f32 [c_heads], if c_q8
 *   aux[5]  c_fmt s8: the scale of the output, one f32
 *   out[0]  [T, c_heads * c_head_dim] f32; c_fmt s8: integers of that format, clamped to
 *           c_qlo..c_qhi
 *   scratch PFQ_ATTEND_SCRATCH(c_head_dim) bytes
 *
 * Row t sees positions max(0, p - c_window + 1) .. p with p = pos + t (c_window = 0: all). Scores
 * are q . k * c_scale; softmax is online over blocks of keys that start at multiples of BLOCK, so
 * no result depends on the number of threads.
 *
 * T = 1: heads are divided over threads, each streams its keys and values once per group. T > 1:
 * work items are (kv head, 64 rows), a row being a (token, head of the group) pair; keys are
 * transposed once per item and block, and both products run at f32 FMA rate (16 multiply-adds a
 * cycle and core on Zen 4). The softmax state (m, l, o) of a row starts empty; a constant prefix
 * would be its initial value.
 */
#include "kernel.h"

PFQ_CONST(int32_t, c_heads);
PFQ_CONST(int32_t, c_kv_heads);
PFQ_CONST(int32_t, c_head_dim);
PFQ_CONST(int32_t, c_window);
PFQ_CONST(int32_t, c_kv_f16);
PFQ_CONST(float, c_scale);

enum {
    BLOCK = 64,            /* keys of a block */
    ROWS = 64,             /* query rows of an item */
    GROUP = 4,             /* heads that decode takes together */
    MR = PFQ_VNNI ? 4 : 2, /* register block: rows x vectors of 16 */
    MC = PFQ_VNNI ? 4 : 2
};

#define NONE (-1e30f) /* below every score; -inf would make NaN of differences */

PFQ_INLINE int32_t dim16(void)
{
    return pfq_up(c_head_dim, 16);
}
PFQ_INLINE int32_t first_key(int32_t p)
{
    return c_window && p >= c_window ? p - c_window + 1 : 0;
}
PFQ_INLINE int64_t kv_row(void)
{
    return (int64_t)c_head_dim * (c_kv_f16 ? 2 : 4);
}

/* 16 columns from d on of a row; columns past head_dim are 0. */
PFQ_INLINE F load_kv(const char *row, int32_t d)
{
    if (c_head_dim - d >= 16) return f_load_kv(row, d, c_kv_f16);
    if (!c_kv_f16) return f_load_n((const float *)row + d, c_head_dim - d);
    float v[16] = {0};
    for (int32_t i = 0; i < c_head_dim - d; i++)
        v[i] = h_to_f(((const uint16_t *)row)[d + i]);
    return f_load(v);
}

/* Folding: sums of lanes of two vectors side by side, until a lane is a whole sum. */
PFQ_INLINE F fold8(F a, F b)
{
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30,
                                   31);
}
PFQ_INLINE F fold4(F a, F b)
{
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30,
                                   31);
}
PFQ_INLINE F fold2(F a, F b)
{
    return __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
           __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30,
                                   31);
}
PFQ_INLINE F fold1(F a, F b)
{
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28,
                                   30) +
           __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

/* Transposes a 16 x 16 block in place: four rounds of exchanging halves. */
PFQ_INLINE void transpose16(F v[16])
{
    PFQ_UNROLL for (int32_t i = 0; i < 16; i += 2)
    {
        F a = v[i], b = v[i + 1];
        v[i] = __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14,
                                       30);
        v[i + 1] = __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29,
                                           15, 31);
    }
    PFQ_UNROLL for (int32_t j = 0; j < 8; j++)
    {
        int32_t i = j / 2 * 4 + j % 2;
        F a = v[i], b = v[i + 2];
        v[i] =
            __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
        v[i + 2] = __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15,
                                           30, 31);
    }
    PFQ_UNROLL for (int32_t j = 0; j < 8; j++)
    {
        int32_t i = j / 4 * 8 + j % 4;
        F a = v[i], b = v[i + 4];
        v[i] =
            __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
        v[i + 4] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29,
                                           30, 31);
    }
    PFQ_UNROLL for (int32_t i = 0; i < 8; i++)
    {
        F a = v[i], b = v[i + 8];
        v[i] =
            __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
        v[i + 8] = __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28,
                                           29, 30, 31);
    }
}

/* ---- one token ---- */

/* Products of g queries with keys j and j + 1, folded once. Keys past `last` repeat it. */
PFQ_INLINE void two_keys(const float *q, const char *k, int32_t j, int32_t last, int32_t g, F *sums)
{
    const int32_t D = c_head_dim;
    const char *k0 = k + pfq_min(j, last) * kv_row(), *k1 = k + pfq_min(j + 1, last) * kv_row();
    F acc[GROUP][2];
    PFQ_UNROLL for (int32_t h = 0; h < g; h++) acc[h][0] = acc[h][1] = f_set(0.0f);
    for (int32_t d = 0; d < D; d += 16) {
        F x0 = load_kv(k0, d), x1 = load_kv(k1, d);
        PFQ_UNROLL for (int32_t h = 0; h < g; h++)
        {
            F y = f_load_n(q + h * D + d, D - d);
            acc[h][0] = f_fma(x0, y, acc[h][0]);
            acc[h][1] = f_fma(x1, y, acc[h][1]);
        }
    }
    PFQ_UNROLL for (int32_t h = 0; h < g; h++) sums[h] = fold8(acc[h][0], acc[h][1]);
}

/* Scores of 16 keys from j on with g queries. */
PFQ_INLINE void sixteen_keys(const float *q, const char *k, int32_t j, int32_t last, int32_t g,
                             F *scores)
{
    F a[GROUP], b[GROUP], four[4][GROUP];
    PFQ_UNROLL for (int32_t c = 0; c < 4; c++)
    {
        two_keys(q, k, j + 4 * c, last, g, a);
        two_keys(q, k, j + 4 * c + 2, last, g, b);
        PFQ_UNROLL for (int32_t h = 0; h < g; h++) four[c][h] = fold4(a[h], b[h]);
    }
    PFQ_UNROLL for (int32_t h = 0; h < g; h++) scores[h] =
        fold1(fold2(four[0][h], four[1][h]), fold2(four[2][h], four[3][h])) * f_set(c_scale);
}

/* Scores of n <= BLOCK keys with g queries, p[h][BLOCK]; those from n on are NONE. top[h] gets
 * their maximum. */
PFQ_INLINE void decode_scores(const float *q, const char *k, int32_t n, int32_t g,
                              float p[GROUP][BLOCK], F *top)
{
    F s[GROUP];
    PFQ_UNROLL for (int32_t h = 0; h < g; h++) top[h] = f_set(NONE);
    int32_t j = 0;
    for (; j + 16 <= n; j += 16) {
        sixteen_keys(q, k, j, j + 15, g, s);
        PFQ_UNROLL for (int32_t h = 0; h < g; h++)
        {
            f_store(p[h] + j, s[h]);
            top[h] = f_max(top[h], s[h]);
        }
    }
    for (; j < BLOCK; j += 16) {
        PFQ_UNROLL for (int32_t h = 0; h < g; h++) s[h] = f_set(NONE);
        if (j < n) sixteen_keys(q, k, j, n - 1, g, s);
        PFQ_UNROLL for (int32_t h = 0; h < g; h++)
        {
            F r = f_sel(i_lanes() < i_set(n - j), s[h], f_set(NONE));
            f_store(p[h] + j, r);
            top[h] = f_max(top[h], r);
        }
    }
}

/* o[d .. d + 16 * m) of g heads: o = o * corr + sum of p * v over n keys. */
PFQ_INLINE void decode_values(const char *v, int32_t n, const float (*p)[BLOCK], const float *corr,
                              float *o, int32_t d, int32_t g, int32_t m)
{
    F acc[GROUP][4];
    PFQ_UNROLL for (int32_t h = 0; h < g; h++) PFQ_UNROLL for (int32_t i = 0; i < m; i++)
        acc[h][i] = f_load(o + h * dim16() + d + 16 * i) * f_set(corr[h]);
    for (int32_t j = 0; j < n; j++)
        PFQ_UNROLL for (int32_t i = 0; i < m; i++)
        {
            F x = load_kv(v + j * kv_row(), d + 16 * i);
            PFQ_UNROLL for (int32_t h = 0; h < g; h++) acc[h][i] =
                f_fma(f_set(p[h][j]), x, acc[h][i]);
        }
    PFQ_UNROLL for (int32_t h = 0; h < g; h++) PFQ_UNROLL for (int32_t i = 0; i < m; i++)
        f_store(o + h * dim16() + d + 16 * i, acc[h][i]);
}

/* Heads h0 .. h0 + g, all of kv head kv, of the only token. */
PFQ_INLINE void decode_heads(const PfqArgs *a, int32_t kv, int32_t h0, int32_t g)
{
    const int32_t D = c_head_dim, end = a->pos + 1;
    const char *k = (const char *)a->in[1] + (int64_t)kv * a->ctx * kv_row();
    const char *v = (const char *)a->in[2] + (int64_t)kv * a->ctx * kv_row();
    const float *q = (const float *)a->in[0] + (int64_t)h0 * D;
    float *o = a->scratch; /* [GROUP][dim16] */
    float p[GROUP][BLOCK], top[GROUP], sum[GROUP], corr[GROUP];
    for (int32_t h = 0; h < g; h++) {
        top[h] = NONE;
        sum[h] = 0.0f;
        for (int32_t d = 0; d < dim16(); d += 16)
            f_store(o + h * dim16() + d, f_set(0.0f));
    }
    for (int32_t j = first_key(a->pos), n; j < end; j += n) {
        n = pfq_min(BLOCK - j % BLOCK, end - j);
        F best[GROUP];
        decode_scores(q, k + j * kv_row(), n, g, p, best);
        PFQ_UNROLL for (int32_t h = 0; h < g; h++)
        {
            float m = f_hmax(best[h]);
            m = m > top[h] ? m : top[h];
            corr[h] = f_exp(f_set(top[h] - m))[0];
            top[h] = m;
            F s = f_set(0.0f);
            for (int32_t i = 0; i < BLOCK; i += 16) {
                F e = f_exp(f_load(p[h] + i) - f_set(m));
                f_store(p[h] + i, e);
                s += e;
            }
            sum[h] = sum[h] * corr[h] + f_hsum(s);
        }
        int32_t d = 0;
        for (; d + 64 <= dim16(); d += 64)
            decode_values(v + j * kv_row(), n, (const float(*)[BLOCK])p, corr, o, d, g, 4);
        for (; d < dim16(); d += 16)
            decode_values(v + j * kv_row(), n, (const float(*)[BLOCK])p, corr, o, d, g, 1);
    }
    for (int32_t h = 0; h < g; h++)
        for (int32_t d = 0; d < D; d += 16)
            f_store_n((float *)a->out[0] + (int64_t)(h0 + h) * D + d,
                      f_load(o + h * dim16() + d) * f_set(1.0f / sum[h]), D - d);
}

PFQ_INLINE void decode(const PfqArgs *a, int tid, int nt)
{
    const int32_t group = c_heads / c_kv_heads;
    int64_t h, e;
    pfq_split(c_heads, tid, nt, &h, &e);
    while (h < e) {
        int32_t kv = (int32_t)h / group;
        int32_t n = pfq_min(GROUP, (int32_t)((e < (kv + 1) * group ? e : (kv + 1) * group) - h));
        if (n == 4)
            decode_heads(a, kv, (int32_t)h, 4);
        else if (n == 3)
            decode_heads(a, kv, (int32_t)h, 3);
        else if (n == 2)
            decode_heads(a, kv, (int32_t)h, 2);
        else
            decode_heads(a, kv, (int32_t)h, 1);
        h += n;
    }
}

/* ---- many tokens ---- */

typedef struct Item {
    float *q;     /* [ROWS][head_dim], times c_scale */
    float *kt;    /* [dim16][BLOCK]: keys transposed */
    float *v;     /* [BLOCK][dim16] */
    float *o;     /* [ROWS][dim16] */
    float *s;     /* [ROWS][BLOCK]: scores, then probabilities */
    float *top;   /* [ROWS] */
    float *sum;   /* [ROWS] */
    int32_t rows; /* rounded up to MR; rows past the end are zero */
} Item;

PFQ_INLINE void load_keys(const Item *it, const char *k, int32_t n)
{
    for (int32_t j = 0; j < BLOCK; j += 16)
        for (int32_t d = 0; d < c_head_dim; d += 16) {
            F v[16];
            PFQ_UNROLL for (int32_t i = 0; i < 16; i++) v[i] =
                j + i < n ? load_kv(k + (j + i) * kv_row(), d) : f_set(0.0f);
            transpose16(v);
            PFQ_UNROLL for (int32_t i = 0; i < 16; i++) f_store(it->kt + (d + i) * BLOCK + j, v[i]);
        }
}

PFQ_INLINE void load_values(const Item *it, const char *v, int32_t n)
{
    for (int32_t j = 0; j < n; j++)
        for (int32_t d = 0; d < c_head_dim; d += 16)
            f_store(it->v + j * dim16() + d, load_kv(v + j * kv_row(), d));
}

PFQ_INLINE void scores(const Item *it)
{
    const int32_t D = c_head_dim;
    for (int32_t j = 0; j < BLOCK; j += 16 * MC)
        for (int32_t r = 0; r < it->rows; r += MR) {
            F acc[MR][MC];
            PFQ_UNROLL for (int32_t i = 0; i < MR; i++) PFQ_UNROLL for (int32_t c = 0; c < MC; c++)
                acc[i][c] = f_set(0.0f);
            for (int32_t d = 0; d < D; d++) {
                F k[MC];
                PFQ_UNROLL for (int32_t c = 0; c < MC; c++) k[c] =
                    f_load(it->kt + d * BLOCK + j + 16 * c);
                PFQ_UNROLL for (int32_t i = 0; i < MR; i++)
                {
                    F x = f_set(it->q[(r + i) * D + d]);
                    PFQ_UNROLL for (int32_t c = 0; c < MC; c++) acc[i][c] =
                        f_fma(x, k[c], acc[i][c]);
                }
            }
            PFQ_UNROLL for (int32_t i = 0; i < MR; i++) PFQ_UNROLL for (int32_t c = 0; c < MC; c++)
                f_store(it->s + (r + i) * BLOCK + j + 16 * c, acc[i][c]);
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
    F sum = f_set(0.0f);
    PFQ_UNROLL for (int32_t i = 0; i < BLOCK / 16; i++)
    {
        F e = f_sel(in[i], f_exp(x[i] - f_set(top)), f_set(0.0f));
        f_store(s + 16 * i, e);
        sum += e;
    }
    it->top[r] = top;
    if (top == old) {
        it->sum[r] += f_hsum(sum);
        return;
    }
    F corr = f_exp(f_set(old - top));
    it->sum[r] = it->sum[r] * corr[0] + f_hsum(sum);
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

/* Rows [r0, r0 + n) of kv head kv; row r is token r / group, head kv * group + r % group. */
PFQ_INLINE void attend_item(const PfqArgs *a, Item *it, int32_t kv, int32_t r0, int32_t n)
{
    const int32_t D = c_head_dim, group = c_heads / c_kv_heads;
    const char *k = (const char *)a->in[1] + (int64_t)kv * a->ctx * kv_row();
    const char *v = (const char *)a->in[2] + (int64_t)kv * a->ctx * kv_row();
    it->rows = pfq_up(n, MR);
    for (int32_t r = 0; r < it->rows; r++) {
        int64_t at = ((int64_t)((r0 + r) / group) * c_heads + kv * group + (r0 + r) % group) * D;
        for (int32_t d = 0; d < D; d += 16) {
            F x = r < n ? f_load_n((const float *)a->in[0] + at + d, D - d) : f_set(0.0f);
            f_store_n(it->q + r * D + d, x * f_set(c_scale), D - d);
        }
        for (int32_t d = 0; d < dim16(); d += 16)
            f_store(it->o + r * dim16() + d, f_set(0.0f));
        it->top[r] = NONE;
        it->sum[r] = 0.0f;
    }
    const int32_t last = a->pos + (r0 + n - 1) / group;
    for (int32_t j = first_key(a->pos + r0 / group) / BLOCK * BLOCK; j <= last; j += BLOCK) {
        int32_t keys = pfq_min(BLOCK, last + 1 - j);
        load_keys(it, k + j * kv_row(), keys);
        load_values(it, v + j * kv_row(), keys);
        scores(it);
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
    for (int32_t r = 0; r < n; r++) {
        int64_t at = ((int64_t)((r0 + r) / group) * c_heads + kv * group + (r0 + r) % group) * D;
        F inv = f_set(1.0f / it->sum[r]);
        for (int32_t d = 0; d < D; d += 16)
            f_store_n((float *)a->out[0] + at + d, f_load(it->o + r * dim16() + d) * inv, D - d);
    }
}

void pfq_attend(const PfqArgs *a, int tid, int nt)
{
    if (a->T == 1) {
        decode(a, tid, nt);
        return;
    }
    Item it = {.q = a->scratch};
    it.kt = it.q + ROWS * dim16();
    it.v = it.kt + BLOCK * dim16();
    it.o = it.v + BLOCK * dim16();
    it.s = it.o + ROWS * dim16();
    it.top = it.s + ROWS * BLOCK;
    it.sum = it.top + ROWS;
    const int32_t rows = a->T * (c_heads / c_kv_heads), chunks = (rows + ROWS - 1) / ROWS;
    /* Later rows see more keys: longest items first, dealt to the threads back and forth. */
    for (int32_t i = 0; i < chunks * c_kv_heads; i++) {
        int32_t slot = i % nt, owner = i / nt % 2 ? nt - 1 - slot : slot;
        if (owner != tid) continue;
        int32_t r0 = (chunks - 1 - i / c_kv_heads) * ROWS;
        attend_item(a, &it, i % c_kv_heads, r0, pfq_min(ROWS, rows - r0));
    }
}
