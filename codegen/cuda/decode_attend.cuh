/* Attention of the persistent decode step. A struct C of constants:
 *
 *   rows                  the most of a step
 *   heads, kv_heads, D    D a multiple of 8, at most 256; heads / kv_heads * D at most 512
 *   rot, r3, prefix       as c_rot, c_r3, c_prefix; rope_scale is in the table of cos and sin
 *   q8                    q is s8 clamped to -q8 .. 127; 0: f32
 *   kv, kv_static, kv_lo, kv_top, kv_clip    as the constants c_kv...
 *   score, tiny           factor of the scores (c_scale); eps of the heads' norms
 *   From                  the op whose sums are q, k and v
 *   cache                 column of k's cache; v's is the next. [kv heads][ctx][row]
 *   numbers               columns of f16 [kv heads][ctx]: scales of k, of v, minima of k, of v
 *   q_scale, k_scale, v_scale, q_gain, k_gain, prefix_k, prefix_v    columns; gains -1: no norm
 *
 * attend: a task is (row, kv head, split of the cached rows). Every block makes the task's queries
 * from the sums (scale, norm, RoPE, R3, quantiser); the head's last split also its key and value,
 * and appends them. Rows come through the ring; of a slot's rows a warp takes every 16th, a lane
 * four columns of a row: scores are dp4a and one reduction over the warp for each head, the
 * softmax's state is the warp's own. At the end the block's warps are added up: (o, m, l) of each
 * head, m in units of log2. PFQ_AT_PARTS: o f32 [rows][heads][splits][D], then (m, l) f32
 * [rows][heads][splits][2], as words; splits are PfqKeyDeal::most.
 *
 * combine: of the columns that the block's part of the next op reads, the sum over splits,
 * quantised.
 *
 * Integers of a cache are taken as bytes; those of half bytes 16 times too large, which is exact
 * and taken out of their scale. Roofline: latency. 64 rows of 4 heads are some 300 instructions a
 * warp.
 */
#ifndef PFQC_CODEGEN_CUDA_DECODE_ATTEND_CUH
#define PFQC_CODEGEN_CUDA_DECODE_ATTEND_CUH

#include "decode.cuh"

#define PFQ_NO_SCORE (-1e30f)
#define PFQ_LOG2E    1.44269504f

template <class C> struct PfqAttend {
    typedef PfqKeyDeal<C> Keys;
    static constexpr int32_t group = C::heads / C::kv_heads, runs = (C::D + 127) / 128;
    static constexpr bool ints = Keys::ints, sign = C::kv == PFQ_KV_S8 || C::kv == PFQ_KV_S4;
    static constexpr bool nibbles = C::kv == PFQ_KV_S4 || C::kv == PFQ_KV_U4;
    static constexpr bool int_scores = ints && C::q8;
    static constexpr float unit = nibbles ? 0.0625f : 1.0f;
    static constexpr int32_t deep = Keys::keys / PFQ_WORKER_WARPS; /* rows of a warp in a slot */

    /* Scratch. Until the end: heads, as they are made; then queries, the token's key and value. At
     * the end: the warps' o. Their (m, l) behind all. */
    static constexpr int32_t ml = PFQ_WORKER_WARPS * group * C::D * 4;
    static constexpr int32_t made = (group + 2) * C::D * 4; /* bytes of heads in f32 */
    static constexpr int32_t token =
        (made + (group + 4) * C::D + 4 * (group + 6) + 127) / 128 * 128;
    static constexpr int32_t bytes =
        (C::rows > PFQ_FEW ? token : 0) + ml + PFQ_WORKER_WARPS * group * 8;
    static_assert(group * C::D <= PFQ_WORKERS && group + 2 <= PFQ_WORKER_WARPS && C::D % 8 == 0,
                  "a thread for each column of a group's heads");

    /* A lane's columns of the group's queries: bytes or f32, and what all of a query share. */
    int32_t q[group][runs];
    float qf[group][runs][4], factor[group], sum[group];
    /* The warp's softmax. */
    float m[group], l[group], o[group][runs][4];
};

/* ---- rows ---- */

/* Four columns of a row of integers as bytes, in units of C's `unit`. */
template <class C> PFQ_DEVICE uint32_t pfq_row_bytes(const uint8_t *row, int32_t d)
{
    if (!PfqAttend<C>::nibbles) return *(const uint32_t *)(row + d);
    const uint32_t x = *(const uint16_t *)(row + d / 2), v = (x | x << 8) & 0x00ff00ffu;
    return (v << 4 | v << 8) & 0xf0f0f0f0u;
}
/* Byte i of them as a float. */
template <class C> PFQ_DEVICE float pfq_byte_float(uint32_t bytes, int32_t i)
{
    const uint32_t x = PfqAttend<C>::sign ? bytes ^ 0x80808080u : bytes;
    const float v = __uint_as_float(__byte_perm(x, 0x4b000000u, 0x7440u + (uint32_t)i));
    return v - (PfqAttend<C>::sign ? 8388608.0f + 128.0f : 8388608.0f);
}
/* Four columns of a row of a cache. */
template <class C> PFQ_DEVICE void pfq_row_floats(const uint8_t *row, int32_t d, float *v)
{
    const uint32_t bytes = PfqAttend<C>::ints ? pfq_row_bytes<C>(row, d) : 0;
    PFQ_UNROLL
    for (int32_t i = 0; i < 4; i++)
        v[i] = PfqAttend<C>::ints ? pfq_byte_float<C>(bytes, i)
                                  : pfq_h_to_f(((const uint16_t *)row)[d + i]);
}

/* What a row's integers k and v are worth. */
struct PfqNumbers {
    float k, v, k_min, v_min;
};

/* ---- one row ---- */

/* Scores of a row of integers against the group's queries, in every lane. */
template <class C>
PFQ_DEVICE void pfq_int_scores(const PfqAttend<C> &s, const uint32_t *bytes, const PfqNumbers &f,
                               float *x)
{
    typedef PfqAttend<C> A;
    PFQ_UNROLL
    for (int32_t h = 0; h < A::group; h++) {
        int32_t dot = 0;
        PFQ_UNROLL
        for (int32_t j = 0; j < A::runs; j++)
            dot = A::sign ? __dp4a((int32_t)bytes[j], s.q[h][j], dot)
                          : pfq_dp4a_us(bytes[j], s.q[h][j], dot);
        dot = __reduce_add_sync(~0u, dot);
        x[h] = PfqKeyDeal<C>::minima ? fmaf(f.k_min, s.sum[h], (float)dot * f.k) * s.factor[h]
                                     : (float)dot * (f.k * s.factor[h]);
    }
}
/* The same of floats (or integers as such), k [runs][4]. */
template <class C>
PFQ_DEVICE void pfq_float_scores(const PfqAttend<C> &s, const float *k, const PfqNumbers &f,
                                 float *x)
{
    typedef PfqAttend<C> A;
    PFQ_UNROLL
    for (int32_t h = 0; h < A::group; h++) {
        float dot = 0.0f;
        PFQ_UNROLL
        for (int32_t j = 0; j < 4 * A::runs; j++)
            dot = fmaf(s.qf[h][j / 4][j % 4], k[j], dot);
        x[h] = fmaf(f.k_min, s.sum[h], pfq_warp_sum(dot) * f.k) * s.factor[h];
    }
}
/* n rows' scores x[n][group] and values v[n][runs][4] into the softmax; the first is there. */
template <class C, int32_t n>
PFQ_DEVICE void pfq_take_rows(PfqAttend<C> &s, const float (&x)[n][PfqAttend<C>::group],
                              const float (&v)[n][PfqAttend<C>::runs * 4])
{
    typedef PfqAttend<C> A;
    PFQ_UNROLL
    for (int32_t h = 0; h < A::group; h++) {
        float top = s.m[h];
        PFQ_UNROLL
        for (int32_t i = 0; i < n; i++)
            top = fmaxf(top, x[i][h]);
        const float fade = pfq_exp2(s.m[h] - top);
        s.m[h] = top;
        s.l[h] *= fade;
        PFQ_UNROLL
        for (int32_t j = 0; j < 4 * A::runs; j++)
            s.o[h][j / 4][j % 4] *= fade;
        PFQ_UNROLL
        for (int32_t i = 0; i < n; i++) {
            const float p = pfq_exp2(x[i][h] - top);
            s.l[h] += p;
            PFQ_UNROLL
            for (int32_t j = 0; j < 4 * A::runs; j++)
                s.o[h][j / 4][j % 4] = fmaf(p, v[i][j], s.o[h][j / 4][j % 4]);
        }
    }
}

/* Scores and values of a row of the cache at k and v. */
template <class C>
PFQ_DEVICE void pfq_row(const PfqAttend<C> &s, const uint8_t *k, const uint8_t *v,
                        const PfqNumbers &f, float *x, float *values)
{
    typedef PfqAttend<C> A;
    uint32_t bytes[A::runs];
    float floats[A::runs * 4];
    PFQ_UNROLL
    for (int32_t j = 0; j < A::runs; j++) {
        const int32_t d = 4 * pfq_lane() + 128 * j;
        const bool in = C::D % 128 == 0 || d < C::D;
        bytes[j] = A::int_scores && in ? pfq_row_bytes<C>(k, d) : 0;
        PFQ_UNROLL
        for (int32_t i = 0; i < 4; i++)
            floats[4 * j + i] = values[4 * j + i] = 0.0f;
        if (!A::int_scores && in) pfq_row_floats<C>(k, d, floats + 4 * j);
        if (in) pfq_row_floats<C>(v, d, values + 4 * j);
    }
    if (A::int_scores)
        pfq_int_scores<C>(s, bytes, f, x);
    else
        pfq_float_scores<C>(s, floats, f, x);
    PFQ_UNROLL
    for (int32_t j = 0; j < 4 * A::runs; j++)
        values[j] = PfqKeyDeal<C>::minima ? fmaf(values[j], f.v, f.v_min) : values[j] * f.v;
}

/* ---- queries, keys, values of the token ---- */

/* RMSNorm with gain, RoPE and R3 of a head v[D] in shared memory, by a warp. */
template <class C> PFQ_DEVICE void pfq_turn_head(float *v, const float *gain, const float *turn)
{
    if (gain) {
        float s = 0.0f;
        for (int32_t d = pfq_lane(); d < C::D; d += 32)
            s = fmaf(v[d], v[d], s);
        const float r = 1.0f / sqrtf(pfq_warp_sum(s) / (float)C::D + C::tiny);
        for (int32_t d = pfq_lane(); d < C::D; d += 32)
            v[d] = v[d] * r * gain[d];
        __syncwarp();
    }
    for (int32_t i = pfq_lane(); i < C::rot / 2; i += 32) {
        const float c = turn[2 * i], s = turn[2 * i + 1], x = v[i], y = v[C::rot / 2 + i];
        v[i] = x * c - y * s;
        v[C::rot / 2 + i] = y * c + x * s;
    }
    __syncwarp();
    if (!C::r3) return;
    const float scale = 1.0f / sqrtf((float)C::D);
    for (int32_t d = pfq_lane(); d < C::D; d += 32)
        v[d] *= scale;
    __syncwarp();
    PFQ_UNROLL
    for (int32_t h = 1; h < C::D; h *= 2) {
        PFQ_UNROLL
        for (int32_t i = pfq_lane(); i < C::D / 2; i += 32) {
            const int32_t at = i / h * 2 * h + i % h;
            const float x = v[at], y = v[at + h];
            v[at] = x + y;
            v[at + h] = x - y;
        }
        __syncwarp();
    }
}

/* Greatest of sign * v[D]; of |v| if sign is 0. */
template <class C> PFQ_DEVICE float pfq_most(const float *v, float sign)
{
    float m = -3e38f;
    for (int32_t d = pfq_lane(); d < C::D; d += 32)
        m = fmaxf(m, sign == 0.0f ? fabsf(v[d]) : sign * v[d]);
    return pfq_warp_max(m);
}

/* Appends v[D] to row `row` of all of the cache of k (which 0) or v (1), by a warp, and leaves the
 * same bytes at `mine` and what they are worth at worth[0], worth[1] (a minimum). */
template <class C, class W>
PFQ_DEVICE void pfq_append(const W &w, int32_t which, int32_t head, const float *v, uint8_t *mine,
                           float *worth, float fixed)
{
    typedef PfqAttend<C> A;
    const int64_t row = (int64_t)head * w.a.ctx + w.pos();
    uint8_t *to = (uint8_t *)w.cache(C::cache + which) + row * PfqKeyDeal<C>::row;
    float scale = 1.0f, minimum = 0.0f, inv = 0.0f;
    if (A::ints && C::kv_static) {
        scale = fixed;
        inv = pfq_inv(scale);
    } else if (PfqKeyDeal<C>::minima) {
        const float lo = -pfq_most<C>(v, -1.0f), hi = pfq_most<C>(v, 1.0f);
        const uint16_t s = pfq_f_to_h((hi - lo) * C::kv_clip / C::kv_top);
        const uint16_t s1 = s ? s : 0x3c00, m1 = pfq_f_to_h(lo * C::kv_clip);
        scale = pfq_h_to_f(s1), minimum = pfq_h_to_f(m1);
        inv = 1.0f / scale;
        if (pfq_lane() == 0) {
            ((uint16_t *)w.cache(C::numbers + which))[row] = s1;
            ((uint16_t *)w.cache(C::numbers + 2 + which))[row] = m1;
        }
    } else if (A::ints) {
        const float m = pfq_most<C>(v, 0.0f) * C::kv_clip;
        const uint16_t s = pfq_f_to_h(m / C::kv_top);
        scale = pfq_h_to_f(s);
        inv = m > 0.0f ? C::kv_top / m : 0.0f;
        if (pfq_lane() == 0) ((uint16_t *)w.cache(C::numbers + which))[row] = s;
    }
    const int32_t top = A::sign ? (A::nibbles ? 7 : 127) : (A::nibbles ? 15 : 255);
    const int32_t low = A::sign ? C::kv_lo : 0;
    for (int32_t i = pfq_lane(); i < C::D / 2; i += 32) { /* two columns */
        if (!A::ints) {
            for (int32_t j = 2 * i; j < 2 * i + 2; j++)
                ((uint16_t *)to)[j] = ((uint16_t *)mine)[j] = pfq_f_to_h(v[j]);
            continue;
        }
        const int32_t x = pfq_quant(v[2 * i] - minimum, inv, low, top),
                      y = pfq_quant(v[2 * i + 1] - minimum, inv, low, top);
        if (A::nibbles) {
            to[i] = mine[i] = (uint8_t)((x & 15) | y << 4);
        } else {
            to[2 * i] = mine[2 * i] = (uint8_t)x;
            to[2 * i + 1] = mine[2 * i + 1] = (uint8_t)y;
        }
    }
    if (pfq_lane() == 0) {
        worth[0] = scale * A::unit;
        worth[1] = minimum;
    }
}

/* A query v[D] as s8. */
template <class C> PFQ_DEVICE void pfq_put_query(const float *v, float scale, int8_t *ints)
{
    const float inv = pfq_inv(scale);
    for (int32_t d = pfq_lane(); d < C::D; d += 32)
        ints[d] = (int8_t)pfq_quant(v[d], inv, -C::q8, 127);
}

/* Where a task's token lies in scratch: bytes of queries, of the key, of the value; their worth. */
template <class C> struct PfqToken {
    float *made;    /* [group + 2][D] */
    int8_t *q;      /* [group][D] */
    uint8_t *k, *v; /* a row each */
    float *worth;   /* [4]: of k, of v */
    float *scale;   /* [group + 2]: of queries, of the head's k and v, where they are constants */

    static PFQ_MEMBER PfqToken at(uint8_t *scratch)
    {
        typedef PfqAttend<C> A;
        uint8_t *p = scratch + A::made;
        return {(float *)scratch,
                (int8_t *)p,
                p + A::group * C::D,
                p + (A::group + 2) * C::D,
                (float *)(p + (A::group + 4) * C::D),
                (float *)(p + (A::group + 4) * C::D) + 4};
    }
};

/* The task's heads, from the sums of q, k and v: a warp each. `last`: k and v too, to the cache. */
template <class C, class W>
PFQ_DEVICE void pfq_make_token(W &w, const PfqToken<C> &t, int32_t g, bool last, bool prefix)
{
    typedef PfqAttend<C> A;
    typedef typename C::From From;
    const int32_t warp = pfq_warp(), lane = pfq_lane();
    const bool mine = warp < A::group + (last ? 2 : 0);
    const int32_t head = warp < A::group    ? g * A::group + warp
                         : warp == A::group ? C::heads + g
                                            : C::heads + C::kv_heads + g;
    constexpr int32_t each = (C::D + 31) / 32;
    float factor[each];
    PFQ_UNROLL
    for (int32_t i = 0; i < each; i++)
        if (mine && lane + 32 * i < C::D) {
            const float f = ((const float *)w.column(From::scale))[head * C::D + lane + 32 * i];
            factor[i] = From::fixed ? f : f * w.scale_of(w.here());
        }
    if (prefix)
        for (int32_t j = warp; j < C::prefix; j += PFQ_WORKER_WARPS) {
            const int64_t at = ((int64_t)j * C::kv_heads + g) * C::D + min(16 * lane, C::D - 1);
            pfq_prefetch((const uint16_t *)w.column(C::prefix_k) + at);
            pfq_prefetch((const uint16_t *)w.column(C::prefix_v) + at);
        }
    /* Thread i of the first asks for scale i of the task's; they are passed on behind the wait. */
    float scale = 0.0f;
    if (w.tid() < A::group && C::q8)
        scale = ((const float *)w.column(C::q_scale))[g * A::group + w.tid()];
    else if (w.tid() >= A::group && w.tid() < A::group + 2 && A::ints && C::kv_static)
        scale = ((const float *)w.column(w.tid() == A::group ? C::k_scale : C::v_scale))[g];
    w.template await_for<From>();
    if (w.tid() < A::group + 2) t.scale[w.tid()] = scale;
    w.sync();
    if (mine) {
        float *v = t.made + warp * C::D;
        int32_t of[each], row[each];
        float sum[each];
        PFQ_UNROLL
        for (int32_t i = 0; i < each; i++)
            of[i] = w.here(), row[i] = lane + 32 * i < C::D ? head * C::D + lane + 32 * i : -1;
        w.template sums_of<From>(of, row, sum);
        PFQ_UNROLL
        for (int32_t i = 0; i < each; i++)
            if (row[i] >= 0) v[lane + 32 * i] = sum[i] * factor[i];
        __syncwarp();
        const int32_t gain = warp < A::group ? C::q_gain : C::k_gain;
        if (warp <= A::group)
            pfq_turn_head<C>(v, gain < 0 ? NULL : (const float *)w.column(gain),
                             (const float *)(pfq_shared + W::Room::turn) + w.here() * C::rot);
        if (warp >= A::group)
            pfq_append<C>(w, warp - A::group, g, v, warp == A::group ? t.k : t.v,
                          t.worth + 2 * (warp - A::group), t.scale[warp]);
        else if (C::q8)
            pfq_put_query<C>(v, t.scale[warp], t.q + warp * C::D);
    }
    w.sync();
}

/* The lane's part of the queries, an empty softmax. */
template <class C> PFQ_DEVICE void pfq_begin(PfqAttend<C> &s, const PfqToken<C> &t)
{
    typedef PfqAttend<C> A;
    PFQ_UNROLL
    for (int32_t h = 0; h < A::group; h++) {
        float sum = 0.0f;
        PFQ_UNROLL
        for (int32_t j = 0; j < A::runs; j++) {
            const int32_t d = 4 * pfq_lane() + 128 * j;
            const bool in = C::D % 128 == 0 || d < C::D;
            s.q[h][j] = C::q8 && in ? *(const int32_t *)(t.q + h * C::D + d) : 0;
            PFQ_UNROLL
            for (int32_t i = 0; i < 4; i++) {
                const float f = C::q8 ? (float)(int8_t)(s.q[h][j] >> 8 * i)
                                : in  ? t.made[h * C::D + d + i]
                                      : 0.0f;
                s.qf[h][j][i] = f;
                s.o[h][j][i] = 0.0f;
                sum += f;
            }
        }
        s.sum[h] = PfqKeyDeal<C>::minima ? pfq_warp_sum(sum) : 0.0f;
        const float scale = C::q8 ? t.scale[h] : 1.0f;
        s.factor[h] = scale * C::score * PFQ_LOG2E;
        s.m[h] = PFQ_NO_SCORE;
        s.l[h] = 0.0f;
    }
}

/* ---- the task ---- */

/* The prefix's rows, f16 [prefix][kv heads][D]: a warp each. */
template <class C, class W> PFQ_DEVICE void pfq_take_prefix(const W &w, PfqAttend<C> &s, int32_t g)
{
    typedef PfqAttend<C> A;
    for (int32_t j = pfq_warp(); j < C::prefix; j += PFQ_WORKER_WARPS) {
        const int64_t at = ((int64_t)j * C::kv_heads + g) * C::D;
        const uint16_t *pk = (const uint16_t *)w.column(C::prefix_k) + at,
                       *pv = (const uint16_t *)w.column(C::prefix_v) + at;
        float k[A::runs * 4], x[1][A::group], v[1][A::runs * 4];
        PFQ_UNROLL
        for (int32_t i = 0; i < A::runs * 4; i++) {
            const int32_t d = 4 * pfq_lane() + 128 * (i / 4) + i % 4;
            k[i] = d < C::D ? pfq_h_to_f(pk[d]) : 0.0f;
            v[0][i] = d < C::D ? pfq_h_to_f(pv[d]) : 0.0f;
        }
        pfq_float_scores<C>(s, k, {1.0f, 1.0f, 0.0f, 0.0f}, x[0]);
        pfq_take_rows<C, 1>(s, x, v);
    }
}

/* The warp's rows of a slot that holds `rows` of the cache. */
template <class C>
PFQ_DEVICE void pfq_take_slot(PfqAttend<C> &s, const uint8_t *slot, int32_t rows,
                              const PfqNumbers &fixed)
{
    typedef PfqAttend<C> A;
    typedef PfqKeyDeal<C> Keys;
    float x[A::deep][A::group], v[A::deep][A::runs * 4];
    if (pfq_warp() >= rows) return;
    PFQ_UNROLL
    for (int32_t i = 0; i < A::deep; i++) {
        const int32_t j = pfq_warp() + PFQ_WORKER_WARPS * i;
        const uint8_t *k = slot + j * Keys::row;
        const uint16_t *number = (const uint16_t *)(slot + 2 * Keys::keys * Keys::row) + j;
        PfqNumbers f = fixed;
        if (Keys::runs) {
            f.k = pfq_h_to_f(number[0]) * A::unit;
            f.v = pfq_h_to_f(number[Keys::keys]) * A::unit;
            f.k_min = Keys::minima ? pfq_h_to_f(number[2 * Keys::keys]) : 0.0f;
            f.v_min = Keys::minima ? pfq_h_to_f(number[3 * Keys::keys]) : 0.0f;
        }
        pfq_row<C>(s, k, k + Keys::keys * Keys::row, f, x[i], v[i]);
        PFQ_UNROLL
        for (int32_t c = 0; c < A::group && j >= rows; c++)
            x[i][c] = PFQ_NO_SCORE;
        PFQ_UNROLL
        for (int32_t c = 0; c < 4 * A::runs && j >= rows; c++)
            v[i][c] = 0.0f;
    }
    pfq_take_rows<C, A::deep>(s, x, v);
}

/* The warps' states of a head added up: largest score, weighted sum of a column, of ones. o and ml
 * are the first warp's, of the column and of the head. */
template <class C>
PFQ_DEVICE void pfq_of_warps(const float *o, const float *ml, float &top, float &sum, float &all)
{
    constexpr int32_t group = PfqAttend<C>::group;
    top = PFQ_NO_SCORE, sum = all = 0.0f;
    PFQ_UNROLL
    for (int32_t i = 0; i < PFQ_WORKER_WARPS; i++)
        top = fmaxf(top, ml[i * group * 2]);
    PFQ_UNROLL
    for (int32_t i = 0; i < PFQ_WORKER_WARPS; i++) {
        const float e = pfq_exp2(ml[i * group * 2] - top);
        sum = fmaf(e, o[i * group * C::D], sum);
        all = fmaf(e, ml[i * group * 2 + 1], all);
    }
}

/* The warps' states added up, to PFQ_AT_PARTS. */
template <class C, class W>
PFQ_DEVICE void pfq_put_part(W &w, const PfqAttend<C> &s, int32_t g, int32_t split)
{
    typedef PfqAttend<C> A;
    float *o = w.template scratch<float>();
    float *ml = (float *)((uint8_t *)o + A::ml);
    constexpr int32_t width = A::group * C::D;
    PFQ_UNROLL
    for (int32_t h = 0; h < A::group; h++) {
        PFQ_UNROLL
        for (int32_t j = 0; j < A::runs; j++) {
            const int32_t d = 4 * pfq_lane() + 128 * j;
            if (C::D % 128 && d >= C::D) continue;
            const PfqFour v = {{s.o[h][j][0], s.o[h][j][1], s.o[h][j][2], s.o[h][j][3]}};
            *(PfqFour *)(o + pfq_warp() * width + h * C::D + d) = v;
        }
        if (pfq_lane() == 0) {
            ml[(pfq_warp() * A::group + h) * 2] = s.m[h];
            ml[(pfq_warp() * A::group + h) * 2 + 1] = s.l[h];
        }
    }
    w.sync();
    if (w.tid() < width) {
        const int32_t h = w.tid() / C::D, d = w.tid() % C::D;
        constexpr int32_t most = A::Keys::most;
        const int32_t at = (w.here() * C::heads + g * A::group + h) * most + split;
        float top, sum, all;
        pfq_of_warps<C>(o + w.tid(), ml + 2 * h, top, sum, all);
        w.put_float(PFQ_AT_PARTS, (int64_t)at * C::D + d, sum);
        if (d < 2)
            w.put_float(PFQ_AT_PARTS, (int64_t)C::rows * C::heads * most * C::D + 2 * at + d,
                        d ? all : top);
    }
    w.sync();
}

template <class C, class W> PFQ_DEVICE void pfq_attend(W &w)
{
    typedef PfqAttend<C> A;
    typedef PfqKeyDeal<C> Keys;
    const int32_t splits = Keys::splits(), tasks = w.rows() * C::kv_heads * splits;
    const PfqToken<C> t = PfqToken<C>::at(w.template scratch<uint8_t>());
    if ((int32_t)blockIdx.x >= tasks)
        w.template await_for<typename C::From>(); /* in step with the others */
    for (int32_t task = (int32_t)blockIdx.x; task < tasks; task += (int32_t)gridDim.x) {
        w.now = W::most == 1 ? 0 : task / (C::kv_heads * splits);
        const int32_t g = W::most == 1 ? task / splits : task / splits % C::kv_heads,
                      split = task % splits;
        const bool last = split == splits - 1;
        const Keys d = Keys::of(w.pos());
        PfqAttend<C> s;
        pfq_make_token<C>(w, t, g, last, split == 0);
        pfq_begin<C>(s, t);
        PfqNumbers fixed = {1.0f, 1.0f, 0.0f, 0.0f};
        if (A::ints && C::kv_static)
            fixed = {t.scale[A::group] * A::unit, t.scale[A::group + 1] * A::unit, 0.0f, 0.0f};
        if (split == 0) pfq_take_prefix<C>(w, s, g);
        if (last && pfq_warp() == PFQ_WORKER_WARPS - 1) {
            float x[1][A::group], v[1][A::runs * 4];
            const PfqNumbers f =
                A::ints ? PfqNumbers{t.worth[0], t.worth[2], t.worth[1], t.worth[3]} : fixed;
            pfq_row<C>(s, t.k, t.v, f, x[0], v[0]);
            pfq_take_rows<C, 1>(s, x, v);
        }
        for (int32_t j = d.begin(split); j < d.end(split); j += Keys::keys, w.n++) {
            w.ring.wait(w.n);
            pfq_take_slot<C>(s, pfq_shared + w.n % W::slots * PFQ_SLOT,
                             min(Keys::keys, d.end(split) - j), fixed);
            __syncwarp();
            if (pfq_lane() == 0) w.ring.release(w.n, 1);
        }
        w.sync();
        pfq_put_part<C>(w, s, g, split);
    }
}

/* ---- the splits added up: activations of op C::To, quantised as C says (PfqWorker::fixed_scale)
 * ----
 */

/* Over n lanes beside each other, a power of two. */
template <int32_t n> PFQ_DEVICE float pfq_lanes_sum(float x)
{
    PFQ_UNROLL
    for (int32_t h = n / 2; h; h /= 2)
        x += __shfl_xor_sync(~0u, x, h);
    return x;
}
template <int32_t n> PFQ_DEVICE float pfq_lanes_max(float x)
{
    PFQ_UNROLL
    for (int32_t h = n / 2; h; h /= 2)
        x = fmaxf(x, __shfl_xor_sync(~0u, x, h));
    return x;
}

/* What each split of `heads` heads from h0 on weighs, of every row: [rows][heads][most]. */
template <class At, class W>
PFQ_DEVICE void pfq_split_weights(W &w, int32_t h0, int32_t heads, float *weight)
{
    constexpr int32_t most = PfqKeyDeal<At>::most, each = 32 / most; /* heads of a warp */
    const int32_t s = pfq_lane() % most, all = w.rows() * heads;
    for (int32_t i = pfq_warp() * each; i < all; i += PFQ_WORKER_WARPS * each) {
        const int32_t of = i + pfq_lane() / most, r = of / heads, h = h0 + of % heads;
        const bool in = of < all && s < PfqKeyDeal<At>::splits();
        const int64_t at =
            (int64_t)At::rows * At::heads * most * At::D + ((r * At::heads + h) * most + s) * 2;
        const int64_t both[2] = {in ? at : -1, in ? at + 1 : -1};
        float ml[2];
        w.get_floats(PFQ_AT_PARTS, both, ml);
        const float m = in ? ml[0] : PFQ_NO_SCORE, e = pfq_exp2(m - pfq_lanes_max<most>(m)),
                    sum = pfq_lanes_sum<most>(e * ml[1]);
        if (of < all) weight[of * most + s] = e / sum;
    }
}

template <class C, class W> PFQ_DEVICE void pfq_combine(W &w)
{
    typedef typename C::From At; /* the attention */
    typedef PfqDeal<typename C::To> Deal;
    constexpr int32_t most = PfqKeyDeal<At>::most, rows = W::most;
    const Deal d = Deal::mine();
    const int32_t splits = PfqKeyDeal<At>::splits(), n = w.rows();
    const int32_t k0 = d.first_k(), k1 = d.end_k(), h0 = k0 / At::D,
                  heads = (k1 - 1) / At::D - h0 + 1;
    float *weight = w.template scratch<float>();
    const float scale = w.template fixed_scale<C>();
    w.sync();
    w.mark();
    const float inv = pfq_inv(scale);
    const auto column = [&](int32_t k, float(&o)[rows * most]) {
        int64_t at[rows * most];
        PFQ_UNROLL
        for (int32_t i = 0; i < rows * most; i++)
            at[i] = k < k1 && i % most < splits && i / most < n
                        ? ((int64_t)(i / most * At::heads + k / At::D) * most + i % most) * At::D +
                              k % At::D
                        : -1;
        w.get_floats(PFQ_AT_PARTS, at, o);
    };
    float o[rows * most];
    column(k0 + w.tid(), o);
    pfq_split_weights<At>(w, h0, heads, weight);
    w.sync();
    float *y = weight + n * heads * most; /* [rows][k1 - k0], to find the largest */
    for (int32_t k = k0 + w.tid(); k < k1; k += PFQ_WORKERS) {
        if (k >= k0 + PFQ_WORKERS) column(k, o);
        PFQ_UNROLL
        for (int32_t r = 0; r < rows; r++) {
            const float *e = weight + (r * heads + k / At::D - h0) * most;
            float v = 0.0f;
            if (r >= n) continue;
            PFQ_UNROLL
            for (int32_t s = 0; s < most; s++) {
                if (s < splits) v = fmaf(e[s], o[r * most + s], v);
            }
            if (C::fixed)
                w.template quantise<C>(r, k - d.window(), v, inv);
            else
                y[r * (k1 - k0) + k - k0] = v;
        }
    }
    for (int32_t r = 0; r < n && !C::fixed; r++) {
        const float *v = y + r * (k1 - k0) - k0;
        float m = 0.0f;
        for (int32_t k = k0 + w.tid(); k < k1; k += PFQ_WORKERS)
            m = fmaxf(m, fabsf(v[k]));
        const float dynamic = w.template dynamic_inverse<C>(r, w.largest(m));
        for (int32_t k = k0 + w.tid(); k < k1; k += PFQ_WORKERS)
            w.template quantise<C>(r, k - d.window(), v[k], dynamic);
    }
    w.sync();
    w.template dump<C>(k0, k1, d.window());
}

#endif
