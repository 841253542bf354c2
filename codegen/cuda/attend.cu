/* attend: causal attention of T query rows over the KV cache, with grouped heads, an optional
 * window and a prefix. The twin of codegen/cpu/attend.c, which states the slots.
 *
 * Launch: 128 threads take one query head (blockIdx.x) of ATT_ROWS tokens (blockIdx.y). Keys come
 * in blocks of 32, which start at multiples of 32, so a row's result depends on its own keys only.
 * The prefix comes first, as blocks of its own, and is so the state that the cache begins with.
 *
 * Many tokens: the keys of a block are brought to shared memory, as f32, or as bytes for integer
 * scores. A lane has a key, warp w rows w, w + 4, ...: scores, then a step of the online softmax,
 * whose state (maximum; per lane the sums) stays in registers. Then a thread has a column: o of all
 * rows = o * corr + p * v.
 *
 * One token: the warps deal out the blocks and go their own ways, each with the state of a softmax
 * and with its own o; these are added up at the end.
 *
 * With integer q and K scores are exact int32 products times one factor; else quantised keys are
 * taken as small f32 integers. Scales of values multiply the probabilities, minima are summed
 * apart.
 *
 * Roofline: many tokens are bound by shared memory, some 1/8 of the chip's f32 rate; one token by
 * the latency of memory: a block reads the keys of its head alone, 4 warps at a time, so a long
 * context wants them divided over blocks, which attend_split.cu does.
 *
 * Shared memory: q f32 [ATT_ROWS][D4], q bytes [ATT_ROWS][D4], keys [32][D4 + 1], o [ATT_ROWS][D],
 * p [32][ATT_P], per row corr, factor of q, sum of q; D4 is D rounded up to 4.
 */
#include "attend.cuh"
#include "math.cuh"
#include "quantise.cuh"

PFQ_CONST(int32_t, c_fmt);
PFQ_CONST(int32_t, c_q8);
PFQ_CONST(int32_t, c_prefix);
PFQ_CONST(float, c_scale);

enum {
    ATT_ROWS = 16,
    ATT_KEYS = 32,
    ATT_WARPS = 4,
    ATT_OWN = ATT_ROWS / ATT_WARPS, /* rows of a warp */
    ATT_P = ATT_ROWS + 4 /* floats of a key's probabilities: 4 past them, for the banks */
};

/* 4 columns of a query, 4 probabilities of a key. */
struct alignas(16) AttFour {
    float v[4];
};

struct Attend {
    const PfqCudaArgs *a;
    float *q;                      /* [ATT_ROWS][dim4], times everything but the keys' scale */
    uint32_t *ints;                /* [ATT_ROWS][dim4 / 4] s8 */
    float *keys;                   /* [ATT_KEYS][key_stride]; integer scores: words of 4 bytes */
    float *o;                      /* [ATT_ROWS][head_dim] */
    float *p;                      /* [ATT_KEYS][ATT_P] */
    float *corr, *factor, *sum;    /* [ATT_ROWS] */
    int32_t rows;                  /* tokens of a block */
    int32_t head, kv, t0, tn, pos; /* pos: of token t0 */
    uint64_t slot;                 /* bytes in front of its slot of the cache */
};

/* A lane's part of the softmax of the warp's rows. */
struct AttState {
    float top[ATT_OWN], sum[ATT_OWN], minima[ATT_OWN];
};

PFQ_DEVICE int32_t dim4()
{
    return pfq_up(c_head_dim, 4);
}
/* Odd, so that the lanes' keys lie in different banks. */
PFQ_DEVICE int32_t key_stride()
{
    return dim4() + 1;
}
/* Scores are integer products. */
PFQ_DEVICE bool int_scores()
{
    return c_q8 && kv_ints();
}

/* Row `row` of the head's keys (slot 1) or values (slot 2). */
PFQ_DEVICE const uint8_t *kv_at(const Attend &s, int32_t slot, int32_t row)
{
    return (const uint8_t *)s.a->in[slot] + s.slot + ((int64_t)s.kv * s.a->ctx + row) * kv_row();
}

/* The same row's f16 of slots 3 to 6: K scales, K minima, V scales, V minima. */
PFQ_DEVICE float kv_half(const Attend &s, int32_t slot, int32_t row)
{
    return pfq_h_to_f(((const uint16_t *)(s.a->in[slot] + s.slot))[(int64_t)s.kv * s.a->ctx + row]);
}

/* Scale of keys (which 0) or values (1) of a row. */
PFQ_DEVICE float kv_scale(const Attend &s, int32_t which, int32_t row)
{
    if (!kv_ints()) return 1.0f;
    return c_kv_static ? ((const float *)s.a->aux[2 + which])[s.kv]
                       : kv_half(s, 3 + 2 * which, row);
}

/* Row j of the prefix's keys (which 0) or values (1). */
PFQ_DEVICE const uint16_t *prefix_at(const Attend &s, int32_t which, int32_t j)
{
    return (const uint16_t *)s.a->aux[which] + ((int64_t)j * c_kv_heads + s.kv) * c_head_dim;
}

/* Columns d .. d + 3 of key (which 0) or value (1) j of the prefix or the cache; those past the
 * head are 0. */
PFQ_DEVICE void four(const Attend &s, bool prefix, int32_t which, int32_t j, int32_t d, float x[4])
{
    if (!prefix) {
        kv_four(kv_at(s, 1 + which, j), d, x);
        return;
    }
    const uint16_t *row = prefix_at(s, which, j);
    PFQ_UNROLL
    for (int32_t i = 0; i < 4; i++)
        x[i] = d + i < c_head_dim ? pfq_h_to_f(row[d + i]) : 0.0f;
}

/* ---- queries ---- */

/* Column d of row r, of integers the integer; 0 past the head. */
PFQ_DEVICE float query(const Attend &s, int32_t r, int32_t d)
{
    const int64_t t = s.t0 + r;
    const int32_t col = s.head * c_head_dim + d;
    if (d >= c_head_dim) return 0.0f;
    if (!c_q8) return ((const float *)s.a->in[0])[t * c_heads * c_head_dim + col];
    const uint8_t *row = (const uint8_t *)s.a->in[0] + t * pfq_up(c_heads * c_head_dim, 64);
    return (float)(row[col] - 128);
}

/* Queries to shared memory, o = 0. factor is what products with integer keys are multiplied by. */
PFQ_DEVICE void load_queries(const Attend &s)
{
    const float scale = c_q8 ? ((const float *)s.a->aux[4])[s.head] * c_scale : c_scale;
    for (int32_t r = pfq_warp(); r < s.tn; r += ATT_WARPS) {
        float sum = 0.0f;
        for (int32_t d = pfq_lane(); d < dim4(); d += 32) {
            const float x = query(s, r, d);
            s.q[r * dim4() + d] = x * scale;
            if (int_scores()) ((int8_t *)s.ints)[r * dim4() + d] = (int8_t)x;
            sum += int_scores() ? x : x * scale;
        }
        sum = pfq_warp_sum(sum);
        if (pfq_lane() == 0) {
            s.sum[r] = sum;
            s.factor[r] = int_scores() ? scale : 1.0f;
        }
    }
    for (int32_t i = (int32_t)threadIdx.x; i < ATT_ROWS * c_head_dim; i += 32 * ATT_WARPS)
        s.o[i] = 0.0f;
}

/* ---- keys ---- */

/* n keys from row j on, of the prefix or the cache; columns past the head are 0. */
PFQ_DEVICE void load_keys(const Attend &s, bool prefix, int32_t j, int32_t n)
{
    const int32_t quads = max(dim4() / 4, 1);
    for (int32_t i = (int32_t)threadIdx.x; i < n * quads; i += 32 * ATT_WARPS) {
        float x[4], *to = s.keys + i / quads * key_stride() + i % quads * 4;
        four(s, prefix, 0, j + i / quads, i % quads * 4, x);
        PFQ_UNROLL
        for (int32_t c = 0; c < 4; c++)
            to[c] = x[c];
    }
}

PFQ_DEVICE void load_int_keys(const Attend &s, int32_t j, int32_t n)
{
    const int32_t words = max(dim4() / 4, 1);
    for (int32_t i = (int32_t)threadIdx.x; i < n * words; i += 32 * ATT_WARPS)
        ((uint32_t *)s.keys)[i / words * key_stride() + i % words] =
            kv_bytes(kv_at(s, 1, j + i / words), i % words * 4);
}

/* ---- scores ---- */

/* x[i]: the product of the lane's key with the warp's row i of n. Rows past the last are anything.
 */
PFQ_DEVICE void float_scores(const Attend &s, int32_t n, float *x)
{
    const float *k = s.keys + pfq_lane() * key_stride();
    PFQ_UNROLL
    for (int32_t i = 0; i < n; i++)
        x[i] = 0.0f;
    for (int32_t d = 0; d < dim4(); d += 4) {
        const float k4[4] = {k[d], k[d + 1], k[d + 2], k[d + 3]};
        PFQ_UNROLL
        for (int32_t i = 0; i < n; i++) {
            const AttFour q = *(const AttFour *)(s.q + (pfq_warp() + ATT_WARPS * i) * dim4() + d);
            PFQ_UNROLL
            for (int32_t c = 0; c < 4; c++)
                x[i] = fmaf(q.v[c], k4[c], x[i]);
        }
    }
}

/* sum plus 4 products of a key's and a query's bytes. */
PFQ_DEVICE int32_t int_dot(uint32_t k, uint32_t q, int32_t sum)
{
    return c_kv == PFQ_KV_U8 ? pfq_dp4a_us(k, (int32_t)q, sum)
                             : __dp4a((int32_t)k, (int32_t)q, sum);
}

PFQ_DEVICE void int_scores_of(const Attend &s, int32_t n, float *x)
{
    const uint32_t *k = (const uint32_t *)s.keys + pfq_lane() * key_stride();
    int32_t sum[ATT_OWN];
    PFQ_UNROLL
    for (int32_t i = 0; i < n; i++)
        sum[i] = 0;
    for (int32_t w = 0; w < dim4() / 4; w++) {
        PFQ_UNROLL
        for (int32_t i = 0; i < n; i++)
            sum[i] = int_dot(k[w], s.ints[(pfq_warp() + ATT_WARPS * i) * dim4() / 4 + w], sum[i]);
    }
    PFQ_UNROLL
    for (int32_t i = 0; i < n; i++)
        x[i] = (float)sum[i];
}

/* Takes score x of the lane's key for the warp's i'th row; out: there is no such key. value and
 * minimum are those of the lane's value. */
PFQ_DEVICE void softmax(const Attend &s, AttState &st, int32_t i, float x, bool out, float value,
                        float minimum)
{
    const int32_t r = pfq_warp() + ATT_WARPS * i;
    const float top = fmaxf(st.top[i], pfq_warp_max(out ? ATTEND_NONE : x));
    const float corr = pfq_exp(st.top[i] - top), e = out ? 0.0f : pfq_exp(x - top);
    st.top[i] = top;
    st.sum[i] = fmaf(st.sum[i], corr, e);
    st.minima[i] = fmaf(st.minima[i], corr, e * minimum);
    s.p[pfq_lane() * ATT_P + r] = e * value;
    if (pfq_lane() == 0) s.corr[r] = corr;
}

/* Products x[own] of the lane's key, of rows j .. j + n of the cache, to probabilities of the
 * warp's first `own` rows; of one token, every warp has its only row. */
PFQ_DEVICE void cache_softmax(const Attend &s, AttState &st, int32_t j, int32_t n, int32_t own,
                              const float *x)
{
    const int32_t key = j + min(pfq_lane(), n - 1);
    const float scale = kv_scale(s, 0, key), value = kv_scale(s, 1, key);
    const float k_min = kv_minima() ? kv_half(s, 4, key) : 0.0f,
                v_min = kv_minima() ? kv_half(s, 6, key) : 0.0f;
    PFQ_UNROLL
    for (int32_t i = 0; i < own; i++) {
        const int32_t r = s.rows == 1 ? 0 : pfq_warp() + ATT_WARPS * i, p = s.pos + r;
        if (r >= s.tn) break;
        softmax(s, st, i, fmaf(k_min, s.sum[r], x[i] * scale) * s.factor[r],
                pfq_lane() >= n || key < first_key(p) || key > p, value, v_min);
    }
}

/* Keys in shared memory are n of the prefix, or rows j .. j + n of the cache. */
PFQ_DEVICE void scores(const Attend &s, AttState &st, bool prefix, int32_t j, int32_t n)
{
    float x[ATT_OWN];
    if (!prefix && int_scores())
        int_scores_of(s, ATT_OWN, x);
    else
        float_scores(s, ATT_OWN, x);
    if (!prefix) {
        cache_softmax(s, st, j, n, ATT_OWN, x);
        return;
    }
    PFQ_UNROLL
    for (int32_t i = 0; i < ATT_OWN; i++)
        if (pfq_warp() + ATT_WARPS * i < s.tn) softmax(s, st, i, x[i], pfq_lane() >= n, 1.0f, 0.0f);
}

/* ---- values ---- */

/* o of all rows: += p times the values of n keys from row j on, of the prefix or the cache; a
 * thread has a column. */
PFQ_DEVICE void values(const Attend &s, bool prefix, int32_t j, int32_t n)
{
    for (int32_t d = (int32_t)threadIdx.x; d < c_head_dim; d += 32 * ATT_WARPS) {
        float acc[ATT_ROWS];
        PFQ_UNROLL
        for (int32_t r = 0; r < ATT_ROWS; r++)
            acc[r] = s.o[r * c_head_dim + d] * s.corr[r];
        for (int32_t k = 0; k < n; k++) {
            const float v =
                prefix ? pfq_h_to_f(prefix_at(s, 1, j + k)[d]) : kv_float(kv_at(s, 2, j + k), d);
            PFQ_UNROLL
            for (int32_t r = 0; r < ATT_ROWS; r += 4) {
                const AttFour p = *(const AttFour *)(s.p + k * ATT_P + r);
                PFQ_UNROLL
                for (int32_t c = 0; c < 4; c++)
                    acc[r + c] = fmaf(p.v[c], v, acc[r + c]);
            }
        }
        PFQ_UNROLL
        for (int32_t r = 0; r < ATT_ROWS; r++)
            s.o[r * c_head_dim + d] = acc[r];
    }
}

/* Column d of row r, x times factor, to out[0]. */
PFQ_DEVICE void put(const Attend &s, int32_t r, int32_t d, float x, float factor)
{
    const int64_t t = s.t0 + r;
    const int32_t col = s.head * c_head_dim + d;
    if (c_fmt == PFQ_FMT_S8)
        pfq_quant_put(s.a->out[0], t, c_heads * c_head_dim, col, x,
                      factor * pfq_inv(*(const float *)s.a->aux[5]));
    else
        pfq_float_put(s.a->out[0], c_tiles, t, c_heads * c_head_dim, col, x * factor);
}

/* ---- many tokens ---- */

PFQ_DEVICE void many_block(const Attend &s, AttState &st, bool prefix, int32_t j, int32_t n)
{
    if (!prefix && int_scores())
        load_int_keys(s, j, n);
    else
        load_keys(s, prefix, j, n);
    __syncthreads();
    scores(s, st, prefix, j, n);
    __syncthreads();
    values(s, prefix, j, n);
}

PFQ_DEVICE void many(const Attend &s, AttState &st)
{
    const int32_t end = s.pos + s.tn;
    for (int32_t j = 0; j < c_prefix; j += ATT_KEYS)
        many_block(s, st, true, j, min(ATT_KEYS, c_prefix - j));
    for (int32_t j = first_key(s.pos) / ATT_KEYS * ATT_KEYS; j < end; j += ATT_KEYS)
        many_block(s, st, false, j, min(ATT_KEYS, end - j));
    __syncthreads();
    PFQ_UNROLL
    for (int32_t i = 0; i < ATT_OWN; i++) {
        const int32_t r = pfq_warp() + ATT_WARPS * i;
        if (r >= s.tn) break;
        const float factor = 1.0f / pfq_warp_sum(st.sum[i]), minima = pfq_warp_sum(st.minima[i]);
        for (int32_t d = pfq_lane(); d < c_head_dim; d += 32)
            put(s, r, d, s.o[r * c_head_dim + d] + minima, factor);
    }
}

/* ---- one token: o, p, corr of row w are warp w's ---- */

/* The product of the query with key j. */
PFQ_DEVICE float one_score(const Attend &s, bool prefix, int32_t j)
{
    float sum = 0.0f;
    int32_t ints = 0;
    if (!prefix && int_scores()) {
        for (int32_t d = 0; d < c_head_dim; d += 4)
            ints = int_dot(kv_bytes(kv_at(s, 1, j), d), s.ints[d / 4], ints);
        return (float)ints;
    }
    for (int32_t d = 0; d < c_head_dim; d += 4) {
        float k[4];
        four(s, prefix, 0, j, d, k);
        PFQ_UNROLL
        for (int32_t c = 0; c < 4; c++)
            sum = fmaf(s.q[d + c], k[c], sum);
    }
    return sum;
}

PFQ_DEVICE void one_values(const Attend &s, bool prefix, int32_t j, int32_t n)
{
    float *o = s.o + pfq_warp() * c_head_dim;
    for (int32_t d = 4 * pfq_lane(); d < c_head_dim; d += 128) {
        float acc[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (int32_t k = 0; k < n; k++) {
            const float p = s.p[k * ATT_P + pfq_warp()];
            float v[4];
            four(s, prefix, 1, j + k, d, v);
            PFQ_UNROLL
            for (int32_t c = 0; c < 4; c++)
                acc[c] = fmaf(p, v[c], acc[c]);
        }
        for (int32_t c = 0; c < 4 && d + c < c_head_dim; c++)
            o[d + c] = fmaf(o[d + c], s.corr[pfq_warp()], acc[c]);
    }
}

PFQ_DEVICE void one_block(const Attend &s, AttState &st, bool prefix, int32_t j, int32_t n)
{
    const float x = one_score(s, prefix, j + min(pfq_lane(), n - 1));
    if (prefix)
        softmax(s, st, 0, x, pfq_lane() >= n, 1.0f, 0.0f);
    else
        cache_softmax(s, st, j, n, 1, &x);
    __syncwarp();
    one_values(s, prefix, j, n);
    __syncwarp();
}

/* The warps' states, which corr has [3][ATT_WARPS] of (maxima, sums, sums of minima), and o to
 * out[0]. */
PFQ_DEVICE void one_result(const Attend &s)
{
    float e[ATT_WARPS], top = ATTEND_NONE, sum = 0.0f, minima = 0.0f;
    PFQ_UNROLL
    for (int32_t w = 0; w < ATT_WARPS; w++)
        top = fmaxf(top, s.corr[w]);
    PFQ_UNROLL
    for (int32_t w = 0; w < ATT_WARPS; w++) {
        e[w] = pfq_exp(s.corr[w] - top);
        sum = fmaf(e[w], s.corr[ATT_WARPS + w], sum);
        minima = fmaf(e[w], s.corr[2 * ATT_WARPS + w], minima);
    }
    for (int32_t d = (int32_t)threadIdx.x; d < c_head_dim; d += 32 * ATT_WARPS) {
        float x = minima;
        PFQ_UNROLL
        for (int32_t w = 0; w < ATT_WARPS; w++)
            x = fmaf(e[w], s.o[w * c_head_dim + d], x);
        put(s, 0, d, x, 1.0f / sum);
    }
}

PFQ_DEVICE void one(const Attend &s, AttState &st)
{
    const int32_t end = s.pos + 1, w = pfq_warp();
    if (w == 0)
        for (int32_t j = 0; j < c_prefix; j += ATT_KEYS)
            one_block(s, st, true, j, min(ATT_KEYS, c_prefix - j));
    for (int32_t j = (first_key(s.pos) / ATT_KEYS + w) * ATT_KEYS; j < end;
         j += ATT_KEYS * ATT_WARPS)
        one_block(s, st, false, j, min(ATT_KEYS, end - j));
    const float sum = pfq_warp_sum(st.sum[0]), minima = pfq_warp_sum(st.minima[0]);
    __syncthreads();
    if (pfq_lane() == 0) {
        s.corr[w] = st.top[0];
        s.corr[ATT_WARPS + w] = sum;
        s.corr[2 * ATT_WARPS + w] = minima;
    }
    __syncthreads();
    one_result(s);
}

/* ---- the whole ---- */

PFQ_DEVICE Attend attend_of(const PfqCudaArgs &a)
{
    Attend s;
    s.a = &a;
    s.q = (float *)pfq_shared;
    s.ints = (uint32_t *)(s.q + ATT_ROWS * dim4());
    s.keys = (float *)(s.ints + ATT_ROWS * dim4() / 4);
    s.o = s.keys + ATT_KEYS * key_stride();
    s.p = s.o + ATT_ROWS * c_head_dim;
    s.corr = s.p + ATT_KEYS * ATT_P;
    s.factor = s.corr + ATT_ROWS;
    s.sum = s.factor + ATT_ROWS;
    s.head = (int32_t)blockIdx.x;
    s.kv = s.head / max(c_heads / max(c_kv_heads, 1), 1);
    s.rows = (a.T + (int32_t)gridDim.y - 1) / (int32_t)gridDim.y;
    s.t0 = (int32_t)blockIdx.y * s.rows;
    s.tn = min(s.rows, a.T - s.t0);
    const PfqRow row = pfq_row(a, s.t0);
    s.pos = row.pos;
    s.slot = a.slot * (uint64_t)row.slot;
    return s;
}

PFQ_KERNEL(pfq_cu_attend, 128)
{
    const Attend s = attend_of(a);
    AttState st;
    PFQ_UNROLL
    for (int32_t i = 0; i < ATT_OWN; i++) {
        st.top[i] = ATTEND_NONE;
        st.sum[i] = st.minima[i] = 0.0f;
    }
    load_queries(s);
    if (s.head == 0)
        for (int32_t r = 0; r < s.tn; r++)
            pfq_quant_pad(a.out[0], s.t0 + r, c_heads * c_head_dim * (c_fmt == PFQ_FMT_S8 ? 1 : 2));
    for (int32_t i = (int32_t)threadIdx.x; i < ATT_KEYS * ATT_P; i += 32 * ATT_WARPS)
        s.p[i] = 0.0f; /* rows past the last stay 0 */
    if (threadIdx.x < ATT_ROWS) s.corr[threadIdx.x] = 0.0f;
    __syncthreads();
    if (s.rows == 1)
        one(s, st);
    else
        many(s, st);
}
