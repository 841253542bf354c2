/* attend, for consecutive rows of one sequence: prefill on tensor cores by mma.sync, on chips
 * without wgmma and where wgmma's kernels do not fit. Slots and meaning are those of
 * codegen/cpu/attend.c, head_dim 64 and 128, caches of f16 and integers.
 *
 * Launch: 8 warps take one kv head (blockIdx.x) of AM_ROWS / group tokens (blockIdx.y, the last
 * tokens first, since they have the most keys): a warp has 16 rows (token, head of the group). Keys
 * come in tiles of 64, which start at multiples of 64, the prefix in front as tiles of its own: so
 * a row's result depends on its own keys only.
 *
 * Everything is multiplied as f16. Integers are that exactly: scores of s8 queries and integer keys
 * have no error but that of an f32 sum, and their scales come behind. Values of a constant scale
 * are integers, too, and the prefix's sums are divided by it; others are u * scale + minimum,
 * rounded once. Queries of f32 and probabilities are rounded, sums are f32.
 *
 * Products are sums over columns, whose order is free: lane (g, c) takes the 8 columns from 8 c of
 * 32 on, which lie side by side. Shared memory: keys [64][D + 32] halves, values [64][D + 8], for
 * the banks; scales and minima of the keys [64] each.
 *
 *   c_tiles  0: rows; else tiles of so many rows (tiles.cuh)
 *
 * Roofline: the tensor cores' f16 rate; bringing a tile to halves is some 1.5 instructions an
 * element, for 128 rows.
 */
#include "attend.cuh"
#include "mma.cuh"
#include "quantise.cuh"

PFQ_CONST(int32_t, c_fmt);
PFQ_CONST(int32_t, c_q8);
PFQ_CONST(int32_t, c_prefix);
PFQ_CONST(float, c_scale);

enum { AM_WARPS = 8, AM_THREADS = 32 * AM_WARPS, AM_ROWS = 16 * AM_WARPS, AM_KEYS = 64 };
#define AM_OUT __int_as_float((int32_t)0xff800000) /* -inf: probability 0 */

struct AttendMma {
    const PfqCudaArgs *a;
    uint16_t *k, *v;        /* the tile */
    float *scale, *minimum; /* of its keys */
    int32_t kv, t0, tokens; /* the block's */
    int32_t pos;            /* of token t0 */
    uint64_t slot;          /* bytes in front of its slot of the cache */
};

template <int D> struct AmRows { /* of a thread: two rows of its warp's 16 */
    int32_t t[2], pos[2];        /* token; < 0: none */
    int32_t head[2];
    float factor[2], total[2]; /* of products, log2(e) in it; sum of the query */
    float top[2], sum[2];      /* maximum; of the thread's keys */
    uint32_t q[D / 16][4];
    float o[D / 8][4];
};

PFQ_DEVICE int32_t am_tokens()
{
    return AM_ROWS / group();
}

/* ---- a tile ---- */

/* Four bytes of the cache as halves, exactly. */
PFQ_DEVICE void am_halves(uint32_t bytes, uint32_t to[2])
{
    const uint32_t u = kv_unsigned() ? bytes : bytes ^ 0x80808080u,
                   bias = kv_unsigned() ? 0x64006400u : 0x64806480u; /* 1024, 1024 + 128 */
    to[0] = pfq_sub_halves(__byte_perm(u, 0x64646464u, 0x4140), bias);
    to[1] = pfq_sub_halves(__byte_perm(u, 0x64646464u, 0x4342), bias);
}

/* Columns d .. d + 7 of key (which 0) or value (1) j of the prefix or the cache. */
PFQ_DEVICE PfqWords am_eight(const AttendMma &s, bool prefix, int32_t which, int32_t j, int32_t d)
{
    if (prefix)
        return *(const PfqWords *)((const uint16_t *)s.a->aux[which] +
                                   ((int64_t)j * c_kv_heads + s.kv) * c_head_dim + d);
    const uint8_t *row =
        (const uint8_t *)s.a->in[1 + which] + s.slot + ((int64_t)s.kv * s.a->ctx + j) * kv_row();
    if (!kv_ints()) return *(const PfqWords *)(row + 2 * d);
    PfqWords x;
    am_halves(kv_bytes(row, d), x.v);
    am_halves(kv_bytes(row, d + 4), x.v + 2);
    return x;
}

/* Key j's f16 of slots 3 to 6: K scales, K minima, V scales, V minima. */
PFQ_DEVICE uint32_t am_half(const AttendMma &s, int32_t slot, int32_t j)
{
    return ((const uint16_t *)(s.a->in[slot] + s.slot))[(int64_t)s.kv * s.a->ctx + j];
}

/* n keys from row j on, of the prefix or the cache; what lies behind them is 0. */
template <int D> PFQ_DEVICE void am_load(const AttendMma &s, bool prefix, int32_t j, int32_t n)
{
    PFQ_UNROLL
    for (int32_t i = (int32_t)threadIdx.x; i < AM_KEYS * D / 8; i += AM_THREADS) {
        const int32_t r = i / (D / 8), d = i % (D / 8) * 8;
        PfqWords k = {}, v = {};
        if (r < n) {
            k = am_eight(s, prefix, 0, j + r, d);
            v = am_eight(s, prefix, 1, j + r, d);
            if (!prefix && kv_scales()) {
                const uint32_t scale = am_half(s, 5, j + r) * 0x10001u,
                               minimum = kv_minima() ? am_half(s, 6, j + r) * 0x10001u : 0;
                PFQ_UNROLL
                for (int32_t w = 0; w < 4; w++)
                    v.v[w] = pfq_fma_halves(v.v[w], scale, minimum);
            }
        }
        *(PfqWords *)(s.k + r * (D + 32) + d) = k;
        *(PfqWords *)(s.v + r * (D + 8) + d) = v;
    }
    const int32_t r = (int32_t)threadIdx.x;
    if (r >= AM_KEYS) return;
    float scale = 1.0f, minimum = 0.0f;
    if (!prefix && r < n && kv_ints()) {
        scale = c_kv_static ? ((const float *)s.a->aux[2])[s.kv]
                            : pfq_h_to_f((uint16_t)am_half(s, 3, j + r));
        if (kv_minima()) minimum = pfq_h_to_f((uint16_t)am_half(s, 4, j + r));
    }
    s.scale[r] = scale;
    s.minimum[r] = minimum;
}

/* What constant scales of values leave to the end; 1: none. */
PFQ_DEVICE float am_unit(const AttendMma &s)
{
    if (!kv_ints() || !c_kv_static) return 1.0f;
    const float scale = ((const float *)s.a->aux[3])[s.kv];
    return scale > 0.0f ? scale : 1.0f;
}

/* ---- scores, values ---- */

template <int D>
PFQ_DEVICE void am_products(const AttendMma &s, const AmRows<D> &r, float (&x)[AM_KEYS / 8][4])
{
    const uint16_t *k = s.k + pfq_lane() / 4 * (D + 32) + pfq_lane() % 4 * 8;
    PFQ_UNROLL
    for (int32_t n = 0; n < AM_KEYS / 8; n++) {
        PFQ_UNROLL
        for (int32_t j = 0; j < 4; j++)
            x[n][j] = 0.0f;
        PFQ_UNROLL
        for (int32_t d = 0; d < D / 32; d++) {
            const PfqWords b = *(const PfqWords *)(k + 8 * n * (D + 32) + 32 * d);
            pfq_mma_halves(x[n], r.q[2 * d], b.v);
            pfq_mma_halves(x[n], r.q[2 * d + 1], b.v + 2);
        }
    }
}

/* Products to scores; keys are n from j on. */
template <int D>
PFQ_DEVICE void am_scores(const AttendMma &s, const AmRows<D> &r, bool prefix, int32_t j, int32_t n,
                          float (&x)[AM_KEYS / 8][4])
{
    PFQ_UNROLL
    for (int32_t i = 0; i < AM_KEYS / 8; i++) {
        PFQ_UNROLL
        for (int32_t e = 0; e < 4; e++) {
            const int32_t h = e >> 1, at = 8 * i + 2 * (pfq_lane() & 3) + (e & 1), key = j + at;
            const bool out = at >= n || (!prefix && (key > r.pos[h] || key < first_key(r.pos[h])));
            const float y = x[i][e] * s.scale[at],
                        z = kv_minima() ? fmaf(s.minimum[at], r.total[h], y) : y;
            x[i][e] = out ? AM_OUT : z * r.factor[h];
        }
    }
}

/* Scores to probabilities, of the sums before what they are worth now. A row that sees no key yet
 * keeps its maximum below all. */
template <int D> PFQ_DEVICE void am_softmax(AmRows<D> &r, float (&x)[AM_KEYS / 8][4])
{
    PFQ_UNROLL
    for (int32_t h = 0; h < 2; h++) {
        float most = r.top[h];
        PFQ_UNROLL
        for (int32_t i = 0; i < AM_KEYS / 8; i++)
            most = fmaxf(most, fmaxf(x[i][2 * h], x[i][2 * h + 1]));
        const float top = pfq_quad_max(most), corr = pfq_exp2(r.top[h] - top);
        float sum = 0.0f;
        PFQ_UNROLL
        for (int32_t i = 0; i < AM_KEYS / 8; i++) {
            PFQ_UNROLL
            for (int32_t e = 2 * h; e < 2 * h + 2; e++) {
                x[i][e] = pfq_exp2(x[i][e] - top);
                sum += x[i][e];
            }
        }
        r.top[h] = top;
        r.sum[h] = fmaf(r.sum[h], corr, sum);
        PFQ_UNROLL
        for (int32_t d = 0; d < D / 8; d++) {
            r.o[d][2 * h] *= corr;
            r.o[d][2 * h + 1] *= corr;
        }
    }
}

template <int D>
PFQ_DEVICE void am_values(const AttendMma &s, AmRows<D> &r, const float (&x)[AM_KEYS / 8][4])
{
    const int32_t lane = pfq_lane();
    const uint16_t *v = s.v + (lane & 15) * (D + 8) + lane / 16 * 8;
    PFQ_UNROLL
    for (int32_t i = 0; i < AM_KEYS / 16; i++) {
        uint32_t p[4];
        PFQ_UNROLL
        for (int32_t e = 0; e < 4; e++)
            p[e] = pfq_two_halves(x[2 * i + e / 2][e % 2 * 2], x[2 * i + e / 2][e % 2 * 2 + 1]);
        PFQ_UNROLL
        for (int32_t d = 0; d < D / 16; d++) {
            uint32_t b[4];
            pfq_load_transposed(v + 16 * i * (D + 8) + 16 * d, b);
            pfq_mma_halves(r.o[2 * d], p, b);
            pfq_mma_halves(r.o[2 * d + 1], p, b + 2);
        }
    }
}

template <int D>
PFQ_DEVICE void am_tile(const AttendMma &s, AmRows<D> &r, bool prefix, int32_t j, int32_t n)
{
    float x[AM_KEYS / 8][4];
    __syncthreads(); /* the last tile is read */
    am_load<D>(s, prefix, j, n);
    __syncthreads();
    am_products<D>(s, r, x);
    am_scores<D>(s, r, prefix, j, n, x);
    am_softmax<D>(r, x);
    am_values<D>(s, r, x);
}

/* ---- begin, end ---- */

/* Columns d and d + 1 of a row's query, as halves: the integers themselves. */
template <int D>
PFQ_DEVICE uint32_t am_query(const AttendMma &s, const AmRows<D> &r, int32_t h, int32_t d)
{
    if (r.t[h] < 0) return 0;
    const int32_t col = r.head[h] * D + d;
    if (c_q8) {
        const uint8_t *x =
            (const uint8_t *)s.a->in[0] + (int64_t)r.t[h] * pfq_up(c_heads * D, 64) + col;
        return pfq_two_halves((float)(x[0] - 128), (float)(x[1] - 128));
    }
    const float *x = (const float *)s.a->in[0] + (int64_t)r.t[h] * c_heads * D + col;
    return pfq_two_halves_clamped(x[0], x[1]);
}

template <int D> PFQ_DEVICE void am_begin(const AttendMma &s, AmRows<D> &r)
{
    PFQ_UNROLL
    for (int32_t h = 0; h < 2; h++) {
        attend_row(s, r, h);
        r.factor[h] =
            c_scale * 1.44269504f * (c_q8 ? ((const float *)s.a->aux[4])[r.head[h]] : 1.0f);
        float total = 0.0f;
        PFQ_UNROLL
        for (int32_t i = 0; i < D / 8; i++) {
            const uint32_t q =
                am_query<D>(s, r, h, i / 4 * 32 + pfq_lane() % 4 * 8 + i / 2 % 2 * 4 + i % 2 * 2);
            r.q[i / 2][i % 2 * 2 + h] = q;
            total += pfq_h_to_f((uint16_t)q) + pfq_h_to_f((uint16_t)(q >> 16));
        }
        r.total[h] = pfq_quad_sum(total);
    }
    PFQ_UNROLL
    for (int32_t i = 0; i < D / 2; i++)
        r.o[i / 4][i % 4] = 0.0f;
}

template <int D> PFQ_DEVICE void am_put(const AttendMma &s, const AmRows<D> &r, float unit)
{
    const int32_t width = c_heads * D;
    PFQ_UNROLL
    for (int32_t h = 0; h < 2; h++) {
        const float over = unit / pfq_quad_sum(r.sum[h]);
        if (r.t[h] < 0) continue;
        const float inv = c_fmt == PFQ_FMT_S8 ? pfq_inv(*(const float *)s.a->aux[5]) : 1.0f;
        PFQ_UNROLL
        for (int32_t i = 0; i < D / 4; i++) {
            const int32_t col = r.head[h] * D + i / 2 * 8 + 2 * (pfq_lane() & 3) + i % 2;
            const float y = r.o[i / 2][2 * h + i % 2] * over;
            if (c_fmt == PFQ_FMT_S8)
                pfq_quant_put(s.a->out[0], r.t[h], width, col, y, inv);
            else
                pfq_float_put(s.a->out[0], c_tiles, r.t[h], width, col, y);
        }
    }
    for (int32_t t = 0; s.kv == 0 && t < s.tokens; t++)
        pfq_quant_pad(s.a->out[0], s.t0 + t, width * (c_fmt == PFQ_FMT_S8 ? 1 : 2));
}

template <int D> PFQ_DEVICE void am_attend(const PfqCudaArgs &a)
{
    AttendMma s;
    AmRows<D> r;
    const PfqRow row = pfq_row(a, 0);
    s.a = &a;
    s.scale = (float *)pfq_shared;
    s.minimum = s.scale + AM_KEYS;
    s.k = (uint16_t *)(s.minimum + AM_KEYS);
    s.v = s.k + AM_KEYS * (D + 32);
    s.kv = (int32_t)blockIdx.x;
    s.t0 = (int32_t)(gridDim.y - 1 - blockIdx.y) * am_tokens();
    s.tokens = min(am_tokens(), a.T - s.t0);
    s.pos = row.pos + s.t0;
    s.slot = a.slot * (uint64_t)row.slot;
    am_begin<D>(s, r);
    const int32_t end = s.pos + s.tokens;
    const float unit = am_unit(s);
    PFQ_LOOP
    for (int32_t j = 0; j < c_prefix; j += AM_KEYS)
        am_tile<D>(s, r, true, j, min((int32_t)AM_KEYS, c_prefix - j));
    PFQ_UNROLL
    for (int32_t i = 0; i < D / 2; i++)
        r.o[i / 4][i % 4] *= 1.0f / unit;
    PFQ_LOOP
    for (int32_t j = first_key(s.pos) / AM_KEYS * AM_KEYS; j < end; j += AM_KEYS)
        am_tile<D>(s, r, false, j, min((int32_t)AM_KEYS, end - j));
    am_put<D>(s, r, unit);
}

PFQ_KERNEL(pfq_cu_attend_mma, 256, 1)
{
    if (c_head_dim == 64)
        am_attend<64>(a);
    else
        am_attend<128>(a);
}
