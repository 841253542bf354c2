/* attend, for consecutive rows of one sequence over an integer cache: prefill on sm_90a's tensor
 * cores. Slots, formats and meaning are those of codegen/cpu/attend.c; head_dim 64 and 128, up to
 * WG_ROWS query heads of a kv head.
 *
 * Launch: WG_THREADS threads take one kv head (blockIdx.x) of wg_tokens() tokens (blockIdx.y, the
 * last tokens first, since they have the most keys): the rows (token, head of the group) of a
 * warpgroup are the 64 rows of its products. Keys come in tiles of 64, which start at multiples of
 * 64, as they lie in the cache, by bulk copies. All threads turn tiles into operands while
 * products run: K to s8 [64 keys][128 bytes], V to halves, transposed, [head_dim + 8][64 keys],
 * both with the 128-byte swizzle. A warpgroup has one tile's P V and the next one's Q K^T in flight
 * while it does so; there are three operands of each, so that one barrier a tile is enough and
 * warpgroups may be most of a tile apart.
 *
 * S = Q K^T in s8 (queries that are not integers: 256 * high + low byte of a unit per row, two
 * products), exact; softmax online in f32, in registers; O += P V with P in halves. A row's maximum
 * moves only when a score is 2^8 above it. The order of a key's columns is the one in which nibbles
 * come: bytes' low ones, then high ones, of 16 bytes; queries are brought into the same. Values are
 * subnormal halves: the integer, made unsigned by an excess of 8 or 128, in the low bits (nibbles
 * of odd columns 4 bits higher, so 16 times too large). V has a row of ones, which sums the rounded
 * probabilities: for the excess, and to divide by. Scales of K and of queries multiply the scores;
 * a static scale of V the result; dynamic ones the probabilities, minima are summed apart. The
 * prefix is computed first and is the state that the cache begins with.
 *
 * Roofline, 128 columns: 192 x 64 scores are 384 cycles of s8 products, 816 of halves, 768 of
 * exponentials and about 1000 of issuing some 330 instructions a thread.
 *
 * ctx is a multiple of 64: the last tile is read whole.
 */
#include "hopper.cuh"
#include "attend.cuh"
#include "mma.cuh"
#include "overlap.cuh"
#include "quantise.cuh"
#include "tiles.cuh"

PFQ_CONST(int32_t, c_fmt);
PFQ_CONST(int32_t, c_q8);
PFQ_CONST(int32_t, c_prefix);
PFQ_CONST(int32_t, c_tiles);
PFQ_CONST(float, c_scale);

#ifndef WG_GROUPS
#define WG_GROUPS 3 /* warpgroups of a block */
#endif
#ifndef WG_BLOCKS
#define WG_BLOCKS 1 /* blocks of an SM */
#endif
enum { WG_KEYS = 64, WG_THREADS = 128 * WG_GROUPS, WG_ROWS = 64 * WG_GROUPS };
#define WG_OUT    __int_as_float((int32_t)0xff800000) /* -inf: probability 0 */
#define WG_LOG2E  1.44269504f
#define WG_SLACK  8.0f /* a maximum stays that far below a score; probabilities are up to 2^8 */

PFQ_DEVICE int32_t wg_tokens()
{
    return WG_ROWS / group();
}

/* ---- shared memory: operands of three tiles, queries, two tiles as they lie in the cache ---- */

template <int D> struct Tile {
    enum {
        COLUMNS = D + 8,   /* of P V: the values', one of ones, padding */
        K = WG_KEYS * 128, /* bytes of the K operand */
        V = COLUMNS * 128, /* of the V operand */
        KS = 3 * K,        /* of all K operands */
        VS = 3 * V,
        SCALES = WG_KEYS * 16
    };
};

/* Rows of V are 16 bytes further apart every 8, so that 8 threads that each read one such row of
 * theirs do not meet in a bank. */
PFQ_DEVICE int32_t raw_v(int32_t r)
{
    return r * (int32_t)kv_row() + (r >> 3) * 16;
}
PFQ_DEVICE int32_t raw_k_bytes()
{
    return WG_KEYS * (int32_t)kv_row();
}
PFQ_DEVICE int32_t raw_v_bytes()
{
    return raw_v(WG_KEYS) + (kv_scales() ? 4 * 2 * WG_KEYS : 0);
}

struct Wg {
    const PfqCudaArgs *a;
    uint8_t *k_ops, *v_ops; /* [3] of each */
    float *scales;          /* [3][WG_KEYS][4], dynamic */
    PfqWords *q;            /* [planes][D / 32][WG_THREADS] fragments of queries */
    uint8_t *raw_k, *raw_v; /* [2] of each */
    int32_t kv, t0, tokens; /* the block's */
    int32_t pos, end;       /* of token t0; behind the block's last key */
    int32_t begin;          /* the first tile's first key */
    const uint8_t *k, *v;   /* of the head, from key `begin` on */
    uint64_t slot;
    uint32_t bar; /* of the copies that are under way */
};

PFQ_DEVICE bool is_tile(const Wg &w, int32_t i)
{
    return w.begin + i * WG_KEYS < w.end;
}

/* Copies of a phase of w.bar: keys, eight of eight rows of values, vectors of scales. */
PFQ_DEVICE int32_t pieces()
{
    return 9 + (kv_scales() ? 4 : 0);
}

/* One of the copies of the keys of n tiles from `key` on and of the values of one. */
PFQ_DEVICE void load_piece(const Wg &w, int32_t key, int32_t n, int32_t value, int32_t piece)
{
    const int32_t tile = raw_k_bytes(), eighth = tile / 8, which = piece - 9;
    uint8_t *to = w.raw_v + (value & 1) * raw_v_bytes() + (piece - 1) * (eighth + 16);
    const uint8_t *from = w.v + (int64_t)value * tile + (piece - 1) * eighth;
    int32_t bytes = is_tile(w, value) ? eighth : 0;
    if (piece == 0) {
        to = w.raw_k + (key & 1) * tile;
        from = w.k + (int64_t)key * tile;
        bytes = is_tile(w, key + n - 1) ? n * tile : is_tile(w, key) ? tile : 0;
    } else if (which >= 0) {
        to = w.raw_v + (value & 1) * raw_v_bytes() + raw_v(WG_KEYS) + which * 2 * WG_KEYS;
        from = (const uint8_t *)(w.a->in[3 + which] + w.slot) +
               ((int64_t)w.kv * w.a->ctx + w.begin + value * WG_KEYS) * 2;
        bytes = is_tile(w, value) && (kv_minima() || !(which & 1)) ? 2 * WG_KEYS : 0;
    }
    pfq_mbar_expect(w.bar, (uint32_t)bytes);
    if (bytes) pfq_bulk_load(pfq_smem(to), from, (uint32_t)bytes, w.bar);
}

/* All of them, by the first lanes of as many warps: a thread takes 0.1 us for one. The one before
 * must be over for all threads. */
PFQ_DEVICE void load(const Wg &w, int32_t key, int32_t n, int32_t value)
{
    for (int32_t i = pfq_warp(); pfq_lane() == 0 && i < pieces(); i += WG_THREADS / 32)
        load_piece(w, key, n, value, i);
}

/* ---- operands ---- */

/* What bytes of K operands are besides the integers: 16 times (s4), less 128 (u8). */
PFQ_DEVICE float k_unit()
{
    return c_kv == PFQ_KV_S4 ? 0.0625f : 1.0f;
}
PFQ_DEVICE float k_excess()
{
    return c_kv == PFQ_KV_U8 ? 128.0f : 0.0f;
}

/* 16 bytes of a key's row to its 16 or 32 columns. */
PFQ_DEVICE void put_keys(const uint8_t *raw, uint8_t *k, int32_t task)
{
    const int32_t pieces = (int32_t)kv_row() / 16, r = task / pieces, p = task % pieces;
    const PfqWords x = *(const PfqWords *)(raw + r * (int32_t)kv_row() + 16 * p);
    PfqWords lo, hi;
    PFQ_UNROLL
    for (int32_t i = 0; i < 4; i++) {
        if (c_kv == PFQ_KV_S4) {
            lo.v[i] = x.v[i] << 4 & 0xf0f0f0f0u;
            hi.v[i] = x.v[i] & 0xf0f0f0f0u;
        } else if (c_kv == PFQ_KV_U4) {
            lo.v[i] = x.v[i] & 0x0f0f0f0fu;
            hi.v[i] = x.v[i] >> 4 & 0x0f0f0f0fu;
        } else
            lo.v[i] = hi.v[i] = c_kv == PFQ_KV_U8 ? x.v[i] ^ 0x80808080u : x.v[i];
    }
    if (kv_nibbles()) {
        *(PfqWords *)(k + r * 128 + ((2 * p ^ r) & 7) * 16) = lo;
        *(PfqWords *)(k + r * 128 + (((2 * p + 1) ^ r) & 7) * 16) = hi;
    } else
        *(PfqWords *)(k + r * 128 + ((p ^ r) & 7) * 16) = lo;
}

/* What values are more than the integers; how much larger odd columns are than even ones. */
PFQ_DEVICE float v_excess()
{
    if (kv_unsigned()) return 0.0f;
    return kv_nibbles() ? 8.0f : 128.0f;
}
PFQ_DEVICE float odd_unit()
{
    return kv_nibbles() ? 16.0f : 1.0f;
}

/* Four columns of eight keys, transposed, as subnormal halves. */
PFQ_DEVICE void put_values(const uint8_t *raw, uint8_t *v, int32_t task)
{
    const int32_t eight = task & 7, four = task >> 3;
    uint32_t x[8];
    PfqWords y[4];
    PFQ_UNROLL
    for (int32_t j = 0; j < 8; j++) {
        const uint8_t *at = raw + raw_v(8 * eight + j) + four * (kv_nibbles() ? 2 : 4);
        x[j] = kv_nibbles() ? *(const uint16_t *)at : *(const uint32_t *)at;
    }
    PFQ_UNROLL
    for (int32_t j = 0; j < 4; j++) {
        if (kv_nibbles()) {
            const uint32_t flip = kv_unsigned() ? 0 : 0x88888888u,
                           both = __byte_perm(x[2 * j], x[2 * j + 1], 0x5410) ^ flip,
                           high = both >> 8;
            y[0].v[j] = both & 0x000f000fu;
            y[1].v[j] = both & 0x00f000f0u;
            y[2].v[j] = high & 0x000f000fu;
            y[3].v[j] = high & 0x00f000f0u;
            continue;
        }
        const uint32_t flip = kv_unsigned() ? 0 : 0x00800080u;
        PFQ_UNROLL
        for (int32_t i = 0; i < 4; i++)
            y[i].v[j] =
                (__byte_perm(x[2 * j], x[2 * j + 1], 0x4400 + 0x1111 * (uint32_t)i) & 0x00ff00ffu) ^
                flip;
    }
    PFQ_UNROLL
    for (int32_t i = 0; i < 4; i++) {
        const int32_t d = 4 * four + i;
        *(PfqWords *)(v + d * 128 + ((eight ^ d) & 7) * 16) = y[i];
    }
}

/* Tile i's scales as f32: of K, minimum of K, of V, minimum of V; 0 behind the end. */
PFQ_DEVICE void put_scales(const Wg &w, int32_t i)
{
    const int32_t r = (int32_t)threadIdx.x;
    const uint16_t *h = (const uint16_t *)(w.raw_v + (i & 1) * raw_v_bytes() + raw_v(WG_KEYS)) + r;
    PfqFour x = {{0.0f, 0.0f, 0.0f, 0.0f}};
    if (w.begin + i * WG_KEYS + r < w.end) {
        x.v[0] = pfq_h_to_f(h[0]);
        x.v[2] = pfq_h_to_f(h[2 * WG_KEYS]);
        if (kv_minima()) {
            x.v[1] = pfq_h_to_f(h[WG_KEYS]);
            x.v[3] = pfq_h_to_f(h[3 * WG_KEYS]);
        }
    }
    *(PfqFour *)(w.scales + (i % 3 * WG_KEYS + r) * 4) = x;
}

/* The keys of tile `key` and the values of tile `value`, as they lie in the cache, to operands. */
template <int D> PFQ_DEVICE void put_operands(const Wg &w, int32_t key, int32_t value)
{
    const int32_t values = 8 * (D / 4), keys = raw_k_bytes() / 16;
    for (int32_t i = (int32_t)threadIdx.x; i < values + keys; i += WG_THREADS)
        if (i < values)
            put_values(w.raw_v + (value & 1) * raw_v_bytes(), w.v_ops + value % 3 * Tile<D>::V, i);
        else
            put_keys(w.raw_k + (key & 1) * raw_k_bytes(), w.k_ops + key % 3 * Tile<D>::K,
                     i - values);
    if (kv_scales() && threadIdx.x < WG_KEYS) put_scales(w, value);
}

/* The row of ones of the V operands, and rows of 0 behind it. */
template <int D> PFQ_DEVICE void put_ones(const Wg &w)
{
    for (int32_t i = (int32_t)threadIdx.x; i < 3 * 8 * 32; i += WG_THREADS)
        *(uint32_t *)(w.v_ops + i / 256 * Tile<D>::V + D * 128 + i % 256 * 4) =
            i % 256 < 32 ? 0x00010001u : 0;
}

/* ---- a thread's rows: g and g + 8 of its warp's 16 ---- */

template <int D> struct Rows {
    int32_t t[2], head[2], pos[2], first[2]; /* t: of the call; < 0: no row */
    float factor[2], q_sum[2];
    float unit[2],
        score[2]; /* of queries that are not integers; what makes their products scores */
    float top[2], sum[2], minima[2]; /* sum: of the prefix; with dynamic scales of all */
    float o[D / 2 + 4]; /* fragment: o[4 * j + 2 * h + e] is row h, column 8 * j + 2 * c + e */
};

/* Column d of the query of row h; of integers the integer. */
template <int D> PFQ_DEVICE float query(const Wg &w, const Rows<D> &s, int32_t h, int32_t d)
{
    if (s.t[h] < 0) return 0.0f;
    const int32_t col = s.head[h] * D + d;
    if (!c_q8) return ((const float *)w.a->in[0])[(int64_t)s.t[h] * c_heads * D + col];
    const uint8_t *row = (const uint8_t *)w.a->in[0] + (int64_t)s.t[h] * pfq_up(c_heads * D, 64);
    return (float)(row[col] - 128);
}

/* Column of a head that byte `part` of register half of product `step` stands for. */
PFQ_DEVICE int32_t q_column(int32_t step, int32_t half, int32_t part)
{
    const int32_t k = 4 * (pfq_lane() & 3) + part;
    return kv_nibbles() ? 32 * step + 2 * k + half : 32 * step + 16 * half + k;
}

/* Word `half` of product `step` of the integer queries of row h. */
template <int D>
PFQ_DEVICE uint32_t query_word(const Wg &w, const Rows<D> &s, int32_t h, int32_t step, int32_t half)
{
    if (s.t[h] < 0) return 0;
    const uint8_t *row = (const uint8_t *)w.a->in[0] + (int64_t)s.t[h] * pfq_up(c_heads * D, 64) +
                         s.head[h] * D + 32 * step;
    const int32_t c = pfq_lane() & 3;
    if (!kv_nibbles()) return *(const uint32_t *)(row + 16 * half + 4 * c) ^ 0x80808080u;
    const uint2 x = *(const uint2 *)(row + 8 * c);
    return __byte_perm(x.x, x.y, half ? 0x7531 : 0x6420) ^ 0x80808080u;
}

/* Both planes' words of queries that are floats times unit; their sum is added to *sum. */
template <int D>
PFQ_DEVICE uint32_t query_planes(const Wg &w, const Rows<D> &s, int32_t h, int32_t step,
                                 int32_t half, float unit, uint32_t *low, int32_t *sum)
{
    uint32_t hi = 0, lo = 0;
    PFQ_UNROLL
    for (int32_t p = 0; p < 4; p++) {
        const int32_t v = (int32_t)rintf(query(w, s, h, q_column(step, half, p)) * unit);
        hi |= (uint32_t)(uint8_t)((v + 128) >> 8) << 8 * p;
        lo |= (uint32_t)(uint8_t)v << 8 * p;
        *sum += v;
    }
    *low = lo;
    return hi;
}

/* The thread's fragments of the queries of row h, to shared memory; its factor and sum. */
template <int D> PFQ_DEVICE void load_query(const Wg &w, Rows<D> &s, int32_t h)
{
    float unit = 1.0f, scale = c_scale * WG_LOG2E;
    int32_t sum = 0;
    if (c_q8) {
        scale *= ((const float *)w.a->aux[4])[s.head[h]];
    } else {
        float most = 0.0f;
        PFQ_UNROLL
        for (int32_t k = 0; k < D / 4; k++)
            most = fmaxf(most, fabsf(query(w, s, h, q_column(k / 8, k / 4 % 2, k % 4))));
        most = pfq_quad_max(most);
        unit = most > 0.0f ? 32512.0f / most : 0.0f;
        scale *= most / 32512.0f;
    }
    PFQ_UNROLL
    for (int32_t k = 0; k < D / 16; k++) {
        PfqWords *to = w.q + k / 2 * WG_THREADS + threadIdx.x;
        uint32_t word, low;
        if (c_q8) {
            word = query_word(w, s, h, k / 2, k % 2);
            sum = __dp4a((int32_t)word, 0x01010101, sum);
        } else {
            word = query_planes(w, s, h, k / 2, k % 2, unit, &low, &sum);
            to[D / 32 * WG_THREADS].v[2 * (k % 2) + h] = low;
        }
        to->v[2 * (k % 2) + h] = word;
    }
    s.q_sum[h] = pfq_quad_sum((float)sum);
    s.unit[h] = unit;
    s.score[h] = scale;
    /* Never 0, so that masked products stay -inf. */
    s.factor[h] = fmaxf(scale * (c_kv_static ? ((const float *)w.a->aux[2])[w.kv] : 1.0f), 1e-30f);
}

/* What o, even columns, is multiplied by in the end. */
PFQ_DEVICE float o_unit(const Wg &w)
{
    if (kv_scales()) return 16777216.0f;
    const float scale = ((const float *)w.a->aux[3])[w.kv];
    return 16777216.0f * (scale > 0.0f ? scale : 1.0f);
}

/* Columns d and d + 1 of the query of row h as halves: integers, or floats times s.unit, which need
 * a second pair. */
template <int D>
PFQ_DEVICE uint32_t query_halves(const Wg &w, const Rows<D> &s, int32_t h, int32_t d, uint32_t *low)
{
    *low = 0;
    if (s.t[h] < 0) return 0;
    const int32_t col = s.head[h] * D + d;
    if (c_q8) { /* 1024 + byte, less 1152 */
        const uint32_t b = *(const uint16_t *)((const uint8_t *)w.a->in[0] +
                                               (int64_t)s.t[h] * pfq_up(c_heads * D, 64) + col);
        return pfq_sub_halves(__byte_perm(b, 0x64, 0x4140), 0x64806480u);
    }
    const float *x = (const float *)w.a->in[0] + (int64_t)s.t[h] * c_heads * D + col;
    const float x0 = x[0] * s.unit[h], x1 = x[1] * s.unit[h];
    const uint32_t high = pfq_two_halves(x0, x1);
    *low = pfq_two_halves(x0 - pfq_h_to_f((uint16_t)high), x1 - pfq_h_to_f((uint16_t)(high >> 16)));
    return high;
}

/* Queries times eight of the prefix's keys, from j on: x[2 * h + e] is of row h and key j + 2 * c +
 * e. */
template <int D>
PFQ_DEVICE void prefix_products(const Wg &w, const Rows<D> &s, int32_t j, float x[4])
{
    const int32_t g = pfq_lane() >> 2, c = pfq_lane() & 3;
    const uint16_t *key = (const uint16_t *)w.a->aux[0] +
                          ((int64_t)min(j + g, c_prefix - 1) * c_kv_heads + w.kv) * D + 2 * c;
    x[0] = x[1] = x[2] = x[3] = 0.0f;
    PFQ_UNROLL
    for (int32_t k = 0; k < D / 16; k++) {
        uint32_t high[4], low[4];
        const uint32_t b[2] = {*(const uint32_t *)(key + 16 * k),
                               *(const uint32_t *)(key + 16 * k + 8)};
        PFQ_UNROLL
        for (int32_t i = 0; i < 4; i++)
            high[i] = query_halves(w, s, i & 1, 16 * k + (i >> 1) * 8 + 2 * c, &low[i]);
        pfq_mma_halves(x, high, b);
        if (!c_q8) pfq_mma_halves(x, low, b);
    }
}

/* o += p times the values of eight of the prefix, from j on. */
template <int D>
PFQ_DEVICE void prefix_values(const Wg &w, Rows<D> &s, int32_t j, const uint32_t (&p)[2])
{
    const int32_t g = pfq_lane() >> 2, c = pfq_lane() & 3;
    const uint16_t *v[2];
    const uint32_t a[4] = {p[0], p[1], 0, 0};
    const float unit = 1.0f / o_unit(w), odd = unit * odd_unit();
    PFQ_UNROLL
    for (int32_t e = 0; e < 2; e++)
        v[e] = (const uint16_t *)w.a->aux[1] +
               ((int64_t)min(j + 2 * c + e, c_prefix - 1) * c_kv_heads + w.kv) * D + g;
    PFQ_UNROLL
    for (int32_t i = 0; i < D / 8; i++) {
        float y[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        const uint32_t b[2] = {v[0][8 * i] | (uint32_t)v[1][8 * i] << 16, 0};
        pfq_mma_halves(y, a, b);
        PFQ_UNROLL
        for (int32_t k = 0; k < 4; k++)
            s.o[4 * i + k] = fmaf(y[k], k & 1 ? odd : unit, s.o[4 * i + k]);
    }
}

/* The prefix's keys and values: the state that the cache begins with. By tensor cores, all of a
 * warp's rows at once; probabilities are halves, as those of the cache. */
template <int D> PFQ_DEVICE void add_prefix(const Wg &w, Rows<D> &s)
{
    for (int32_t j = 0; j < c_prefix; j += 8) {
        float x[4];
        uint32_t p[2];
        prefix_products(w, s, j, x);
        PFQ_UNROLL
        for (int32_t h = 0; h < 2; h++) {
            const int32_t key = j + 2 * (pfq_lane() & 3);
            const float y0 = key < c_prefix ? x[2 * h] * s.score[h] : WG_OUT,
                        y1 = key + 1 < c_prefix ? x[2 * h + 1] * s.score[h] : WG_OUT,
                        top = fmaxf(s.top[h], pfq_quad_max(fmaxf(y0, y1))),
                        corr = pfq_exp2(s.top[h] - top);
            p[h] = pfq_two_halves(pfq_exp2(y0 - top), pfq_exp2(y1 - top));
            s.top[h] = top;
            s.sum[h] = fmaf(s.sum[h], corr,
                            pfq_h_to_f((uint16_t)p[h]) + pfq_h_to_f((uint16_t)(p[h] >> 16)));
            if (j == 0) continue;
            PFQ_UNROLL
            for (int32_t i = 2 * h; i < D / 2; i += i & 1 ? 3 : 1)
                s.o[i] *= corr;
        }
        prefix_values(w, s, j, p);
    }
}

template <int D> PFQ_DEVICE void begin_rows(const Wg &w, Rows<D> &s)
{
    PFQ_UNROLL
    for (int32_t h = 0; h < 2; h++) {
        const int32_t r = 16 * pfq_warp() + (pfq_lane() >> 2) + 8 * h, t = r / group();
        const bool is = t < w.tokens;
        s.t[h] = is ? w.t0 + t : -1;
        s.head[h] = w.kv * group() + r % group();
        s.pos[h] = w.pos + min(t, w.tokens - 1);
        s.first[h] = first_key(s.pos[h]);
        s.top[h] = ATTEND_NONE;
        s.sum[h] = s.minima[h] = 0.0f;
        load_query(w, s, h);
    }
    PFQ_UNROLL
    for (int32_t i = 0; i < D / 2 + 4; i++)
        s.o[i] = 0.0f;
    if (c_prefix > 0) add_prefix(w, s);
}

/* ---- a tile ---- */

/* Starts x (= or) += the plane's queries times tile i's keys. */
template <int D>
PFQ_DEVICE void products(const Wg &w, int32_t plane, int32_t i, uint32_t (&q)[D / 32][4],
                         int32_t (&x)[WG_KEYS / 2])
{
    const uint64_t desc = pfq_wgmma_desc(pfq_smem(w.k_ops + i % 3 * Tile<D>::K));
    PFQ_UNROLL
    for (int32_t k = 0; k < D / 32; k++)
        pfq_wgmma<WG_KEYS>(x, q[k], desc + 2 * (uint32_t)k, plane || k > 0);
}

template <int D> PFQ_DEVICE void fragments(const Wg &w, int32_t plane, uint32_t (&q)[D / 32][4])
{
    PFQ_UNROLL
    for (int32_t k = 0; k < D / 32; k++) {
        const PfqWords f = w.q[(plane * (D / 32) + k) * WG_THREADS + (int32_t)threadIdx.x];
        PFQ_UNROLL
        for (int32_t j = 0; j < 4; j++)
            q[k][j] = f.v[j];
    }
}

/* The second plane of queries that are not integers. */
template <int D> PFQ_DEVICE void low_products(const Wg &w, int32_t i, int32_t (&x)[WG_KEYS / 2])
{
    uint32_t q[D / 32][4];
    fragments<D>(w, 1, q);
    PFQ_UNROLL
    for (int32_t k = 0; k < WG_KEYS / 2; k++)
        x[k] *= 256;
    pfq_wgmma_fence();
    products<D>(w, 1, i, q, x);
    pfq_wgmma_commit();
    pfq_wgmma_wait<0>();
}

/* Products x of tile i's keys, to what times the row's factor is a score; masked if not all rows
 * see all of them. */
template <int D>
PFQ_DEVICE void finish_scores(const Wg &w, const Rows<D> &s, int32_t i, bool masked,
                              const int32_t *x, float *y)
{
    PFQ_UNROLL
    for (int32_t k = 0; k < WG_KEYS / 2; k++) {
        const int32_t h = k >> 1 & 1, key = k / 4 * 8 + 2 * (pfq_lane() & 3) + (k & 1),
                      j = w.begin + i * WG_KEYS + key;
        y[k] = (float)x[k];
        if (kv_scales()) {
            const PfqFour f = *(const PfqFour *)(w.scales + (i % 3 * WG_KEYS + key) * 4);
            y[k] = fmaf(f.v[1], s.q_sum[h], fmaf(k_excess(), s.q_sum[h], y[k] * k_unit()) * f.v[0]);
        }
        if (masked && (j > s.pos[h] || j < s.first[h])) y[k] = WG_OUT;
    }
}

/* To probabilities. A row that sees no key yet keeps its maximum below all. */
template <int D> PFQ_DEVICE void softmax(const Wg &w, Rows<D> &s, int32_t i, float *y)
{
    const float unit = kv_scales() ? 1.0f : k_unit();
    float top[2];
    PFQ_UNROLL
    for (int32_t h = 0; h < 2; h++) {
        float most = y[2 * h];
        PFQ_UNROLL
        for (int32_t k = 0; k < WG_KEYS / 2; k += 4)
            most = fmaxf(most, fmaxf(y[2 * h + k], y[2 * h + k + 1]));
        top[h] = fmaxf(pfq_quad_max(most) * (s.factor[h] * unit), ATTEND_NONE);
    }
    if (__any_sync(~0u, top[0] > s.top[0] + WG_SLACK || top[1] > s.top[1] + WG_SLACK)) {
        PFQ_UNROLL
        for (int32_t h = 0; h < 2; h++) {
            /* Each row for itself, so that its bits do not depend on those beside it. */
            const float above = top[h] > s.top[h] + WG_SLACK ? top[h] : s.top[h],
                        corr = pfq_exp2(s.top[h] - above);
            s.top[h] = above;
            s.sum[h] *= corr;
            s.minima[h] *= corr;
            PFQ_UNROLL
            for (int32_t k = 2 * h; k < D / 2 + 4; k += 4) {
                s.o[k] *= corr;
                s.o[k + 1] *= corr;
            }
        }
    }
    PFQ_UNROLL
    for (int32_t h = 0; h < 2; h++) {
        const float factor = s.factor[h] * unit;
        PFQ_UNROLL
        for (int32_t k = 2 * h; k < WG_KEYS / 2; k += (k & 1) ? 3 : 1) {
            y[k] = pfq_exp2(fmaf(y[k], factor, -s.top[h]));
            if (!kv_scales()) continue;
            const int32_t key = k / 4 * 8 + 2 * (pfq_lane() & 3) + (k & 1);
            const PfqFour f = *(const PfqFour *)(w.scales + (i % 3 * WG_KEYS + key) * 4);
            s.sum[h] += y[k];
            if (kv_minima()) s.minima[h] = fmaf(y[k], f.v[3], s.minima[h]);
            y[k] *= f.v[2];
        }
    }
}

template <int D> PFQ_DEVICE void tile(const Wg &w, Rows<D> &s, int32_t i, int32_t (&x)[WG_KEYS / 2])
{
    const int32_t j = w.begin + i * WG_KEYS, last = w.pos + w.tokens - 1;
    float y[WG_KEYS / 2];
    uint32_t p[WG_KEYS / 16][4], q[D / 32][4];
    if (!c_q8) low_products<D>(w, i, x);
    if (j + WG_KEYS - 1 > w.pos || (c_window && j < first_key(last)))
        finish_scores(w, s, i, true, x, y);
    else
        finish_scores(w, s, i, false, x, y);
    softmax(w, s, i, y);
    PFQ_UNROLL
    for (int32_t k = 0; k < WG_KEYS / 4; k++)
        p[k / 4][k % 4] = pfq_two_halves(y[2 * k], y[2 * k + 1]);
    put_operands<D>(w, i + 2, i + 1);
    pfq_mbar_wait(w.bar, (uint32_t)i & 1);
    pfq_smem_to_async(); /* before products are in flight, for which it would wait */
    fragments<D>(w, 0, q);
    const uint64_t v = pfq_wgmma_desc(pfq_smem(w.v_ops + i % 3 * Tile<D>::V));
    pfq_wgmma_fence();
    PFQ_UNROLL
    for (int32_t k = 0; k < WG_KEYS / 16; k++)
        pfq_wgmma_halves<Tile<D>::COLUMNS>(s.o, p[k], v + 2 * (uint32_t)k, true);
    products<D>(w, 0, i + 1, q, x); /* of what there is behind the last tile, too; not used */
    pfq_wgmma_commit();
    __syncthreads();
    load(w, i + 4, 1, i + 3);
    pfq_wgmma_wait<0>(); /* here, so that nothing is in flight from one turn of the loop to the next
                          */
}

/* ---- results ---- */

/* The bytes of two columns times two adjacent tiles of 8 columns, to the row's tiles: lanes of a
 * row exchange them so that each has four columns in a row. */
PFQ_DEVICE void put_bytes(const Wg &w, int32_t t, int32_t col, uint32_t first, uint32_t second)
{
    const bool odd = pfq_lane() & 1;
    const uint32_t got = __shfl_xor_sync(~0u, odd ? first : second, 1);
    const uint32_t word = odd ? got | second << 16 : first | got << 16;
    if (t < 0) return;
    const int32_t k = col + 8 * odd + 4 * (pfq_lane() >> 1 & 1);
    uint8_t *out = (uint8_t *)w.a->out[0];
    if (c_tiles)
        *(uint32_t *)(out + pfq_tile_at(c_tiles, t, k)) = pfq_tiled(word);
    else
        *(uint32_t *)(out + (int64_t)t * pfq_up(c_heads * c_head_dim, 64) + k) = word ^ 0x80808080u;
}

template <int D> PFQ_DEVICE void put_rows(const Wg &w, const Rows<D> &s)
{
    const float unit = o_unit(w), odd = unit / odd_unit(),
                inv = c_fmt == PFQ_FMT_S8 ? pfq_inv(*(const float *)w.a->aux[5]) : 1.0f;
    PFQ_UNROLL
    for (int32_t h = 0; h < 2; h++) {
        /* Lane 0 of a row's four has the sum of its probabilities. */
        const float all = __shfl_sync(~0u, s.o[D / 2 + 2 * h], pfq_lane() & ~3),
                    more = pfq_quad_sum(s.minima[h]) - all * unit * v_excess(),
                    over =
                        1.0f / (pfq_quad_sum(s.sum[h]) + (kv_scales() ? 0.0f : all * 16777216.0f));
        if (c_fmt == PFQ_FMT_S8) {
            PFQ_UNROLL
            for (int32_t j = 0; j < D / 8; j += 2) {
                uint32_t b[2];
                PFQ_UNROLL
                for (int32_t i = 0; i < 2; i++) {
                    const float *o = &s.o[4 * (j + i) + 2 * h];
                    const int32_t x = pfq_quant(fmaf(o[0], unit, more), over * inv, c_qlo, c_qhi),
                                  y = pfq_quant(fmaf(o[1], odd, more), over * inv, c_qlo, c_qhi);
                    b[i] = (uint32_t)(uint8_t)x | (uint32_t)(uint8_t)y << 8;
                }
                put_bytes(w, s.t[h], s.head[h] * D + 8 * j, b[0], b[1]);
            }
            continue;
        }
        if (s.t[h] < 0) continue;
        if (c_tiles) {
            PFQ_UNROLL
            for (int32_t j = 0; j < D / 8; j++)
                *(uint32_t *)((uint8_t *)w.a->out[0] +
                              pfq_tile_at(c_tiles, s.t[h],
                                          2 * (s.head[h] * D + 8 * j + 2 * (pfq_lane() & 3)))) =
                    pfq_two_bf16(fmaf(s.o[4 * j + 2 * h], unit, more) * over,
                                 fmaf(s.o[4 * j + 2 * h + 1], odd, more) * over);
            continue;
        }
        float *out = (float *)w.a->out[0] + ((int64_t)s.t[h] * c_heads + s.head[h]) * D +
                     2 * (pfq_lane() & 3);
        PFQ_UNROLL
        for (int32_t j = 0; j < D / 8; j++) {
            const float2 y = {fmaf(s.o[4 * j + 2 * h], unit, more) * over,
                              fmaf(s.o[4 * j + 2 * h + 1], odd, more) * over};
            *(float2 *)(out + 8 * j) = y;
        }
    }
}

/* Columns behind the last head, if its tile has some. */
PFQ_DEVICE void put_padding(const Wg &w)
{
    const int32_t K = c_heads * c_head_dim;
    if (!c_tiles || c_fmt != PFQ_FMT_S8 || K % 128 == 0 || w.kv + 1 < c_kv_heads) return;
    for (int32_t i = (int32_t)threadIdx.x; i < w.tokens * 16; i += WG_THREADS)
        *(uint32_t *)((uint8_t *)w.a->out[0] +
                      pfq_tile_at(c_tiles, w.t0 + i / 16, K + 4 * (i % 16))) = 0;
}

/* ---- the whole ---- */

template <int D> PFQ_DEVICE void attend(const PfqCudaArgs &a)
{
    Wg w;
    Rows<D> s;
    int32_t x[WG_KEYS / 2];
    uint32_t q[D / 32][4];
    const PfqRow row = pfq_row(a, 0);
    w.a = &a;
    w.kv = (int32_t)blockIdx.x;
    w.t0 = (int32_t)(gridDim.y - 1 - blockIdx.y) * wg_tokens();
    w.tokens = min(wg_tokens(), a.T - w.t0);
    w.pos = row.pos + w.t0;
    w.end = w.pos + w.tokens;
    w.slot = a.slot * (uint64_t)row.slot;
    w.begin = first_key(w.pos) / WG_KEYS * WG_KEYS;
    const int64_t head = ((int64_t)w.kv * a.ctx + w.begin) * kv_row();
    w.k = (const uint8_t *)(a.in[1] + w.slot) + head;
    w.v = (const uint8_t *)(a.in[2] + w.slot) + head;
    w.k_ops = pfq_shared + (1024 - (pfq_smem(pfq_shared) & 1023) & 1023);
    w.v_ops = w.k_ops + Tile<D>::KS;
    w.q = (PfqWords *)(w.v_ops + Tile<D>::VS);
    w.scales = (float *)(w.q + (c_q8 ? 1 : 2) * (D / 32) * WG_THREADS);
    w.raw_k = (uint8_t *)w.scales + (kv_scales() ? 3 * Tile<D>::SCALES : 0);
    w.raw_v = w.raw_k + 2 * raw_k_bytes();
    w.bar = pfq_smem(w.raw_v + 2 * raw_v_bytes());
    if (threadIdx.x == 0) {
        pfq_mbar_init(w.bar, (uint32_t)pieces());
        pfq_mbar_ready();
    }
    __syncthreads();
    load(w, 0, 2, 0);
    begin_rows(w, s);
    put_ones<D>(w);
    pfq_mbar_wait(w.bar, 0);
    __syncthreads();
    put_operands<D>(w, 0, 0);
    put_operands<D>(w, 1, 0);
    __syncthreads();
    load(w, 2, 1, 1);
    pfq_mbar_wait(w.bar, 1);
    pfq_smem_to_async();
    __syncthreads();
    fragments<D>(w, 0, q);
    pfq_wgmma_fence();
    products<D>(w, 0, 0, q, x);
    pfq_wgmma_commit();
    load(w, 3, 1, 2);
    pfq_wgmma_wait<0>();
    for (int32_t i = 0; w.begin + i * WG_KEYS < w.end; i++)
        tile(w, s, i, x);
    put_rows(w, s);
    put_padding(w);
}

PFQ_KERNEL(pfq_cu_attend_wgmma, WG_THREADS, WG_BLOCKS)
{
    pfq_begin();
    pfq_follow();
    if (c_head_dim == 64)
        attend<64>(a);
    else
        attend<128>(a);
}
