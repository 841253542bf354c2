/* Attention of the persistent decode step for many rows. C is decode_attend.cuh's, of a cache of
 * signed integers with static scales and of integer queries; Out, the quantiser of its results.
 *
 * A task is (row, kv head); nobody shares one, so that rows are nobody's business but their own and
 * there is nothing to add up. The prefix and the token itself are taken a key a warp
 * (decode_attend.cuh); of the cache four warps have a slot of the ring, a warp 16 keys of it:
 *
 *   - scores: q K^T by m16n8k32, rows the group's heads. A dot product may take its columns in any
 *     order: a lane takes the bytes of a key as they lie, low and high nibbles apart, times 16
 *   - softmax of the 16 keys, the warp's own, in the layout that the next product reads
 *   - o^T += V^T P by m16n8k16, halves: integers and probabilities of the warp's maximum
 *
 * Column d of a head is e of lane quad g where d = g * D / 8 + e. At the end the warps' o lie in
 * scratch as [e][head][g], behind the token.
 */
#ifndef PFQC_CODEGEN_CUDA_DECODE_ATTEND_MANY_CUH
#define PFQC_CODEGEN_CUDA_DECODE_ATTEND_MANY_CUH

#include "decode_attend.cuh"
#include "decode_pieces.cuh"

template <class C> struct PfqManyKeys {
    typedef PfqAttend<C> A;
    static constexpr int32_t steps = C::D / 32, runs = C::D / 8, row = PfqKeyDeal<C>::row;

    uint32_t q[steps][2]; /* of head lane / 4 */
    float factor, m, l;   /* of the same head; l of the lane's keys */
    float o[runs / 2][4]; /* e = 2 i + j / 2, head 2 * (lane % 4) + j % 2 */
};

/* n words of shared memory, from a multiple of their size, or of 16, on. */
template <int32_t n> PFQ_DEVICE void pfq_words(const uint8_t *from, uint32_t (&w)[n])
{
    PFQ_UNROLL
    for (int32_t i = 0; i < n; i += 4) {
        if (n % 4 == 0) {
            const PfqWords x = *(const PfqWords *)(from + 4 * i);
            w[i] = x.v[0], w[i + 1] = x.v[1], w[i + 2] = x.v[2], w[i + 3] = x.v[3];
        } else {
            PFQ_UNROLL
            for (int32_t j = i; j < n && j < i + 4; j++)
                w[j] = *(const uint32_t *)(from + 4 * j);
        }
    }
}

/* Values of two keys as a pair of halves: element e of `runs` of their words. */
template <class C, int32_t n>
PFQ_DEVICE uint32_t pfq_two_values(const uint32_t (&x)[n], const uint32_t (&y)[n], int32_t e)
{
    if (PfqAttend<C>::nibbles) { /* 1024 + v + 8, or 1024 + 16 * (v + 8) */
        const int32_t i = e / 8;
        const uint32_t both = __byte_perm(x[i], y[i], e & 4 ? 0x7632 : 0x5410) >> (e & 2 ? 8 : 0);
        return e & 1 ? pfq_fma_f16((both & 0x00f000f0u) ^ 0x64806480u, 0x2c002c00u, 0xd480d480u)
                     : pfq_fma_f16((both & 0x000f000fu) ^ 0x64086408u, 0x3c003c00u, 0xe408e408u);
    }
    const int32_t i = e / 4; /* 1024 + v + 128 */
    const uint32_t both = __byte_perm(x[i], y[i], e & 2 ? 0x7362 : 0x5140) ^ 0x80808080u;
    return pfq_fma_f16(__byte_perm(both, 0x64646464u, e & 1 ? 0x4342 : 0x4140), 0x3c003c00u,
                       0xe480e480u);
}

/* 16 keys of a slot, of which the first `rows` are there. */
template <class C>
PFQ_DEVICE void pfq_many_keys(PfqManyKeys<C> &s, const uint8_t *k, const uint8_t *v, int32_t rows)
{
    typedef PfqManyKeys<C> S;
    const int32_t g = pfq_lane() / 4, c = pfq_lane() % 4;
    float x[4], top = PFQ_NO_SCORE;
    PFQ_UNROLL
    for (int32_t n = 0; n < 2; n++) {
        uint32_t w[S::row / 16];
        int32_t d[4] = {};
        pfq_words(k + (8 * n + g) * S::row + c * (S::row / 4), w);
        PFQ_UNROLL
        for (int32_t i = 0; i < S::steps; i++) {
            const uint32_t a[4] = {s.q[i][0], 0, s.q[i][1], 0};
            if (S::A::nibbles)
                pfq_mma_s8(d, a, w[i] << 4 & 0xf0f0f0f0u, w[i] & 0xf0f0f0f0u);
            else
                pfq_mma_s8(d, a, w[2 * i % (S::row / 16)], w[(2 * i + 1) % (S::row / 16)]);
        }
        PFQ_UNROLL
        for (int32_t e = 0; e < 2; e++) {
            x[2 * n + e] = 8 * n + 2 * c + e < rows ? (float)d[e] * s.factor : PFQ_NO_SCORE;
            top = fmaxf(top, x[2 * n + e]);
        }
    }
    top = fmaxf(s.m, pfq_quad_max(top));
    if (__any_sync(~0u, top > s.m)) {
        const float fade = pfq_exp2(s.m - top), low = __shfl_sync(~0u, fade, 8 * c),
                    high = __shfl_sync(~0u, fade, 8 * c + 4);
        s.m = top;
        s.l *= fade;
        PFQ_UNROLL
        for (int32_t i = 0; i < S::runs / 2; i++) {
            s.o[i][0] *= low, s.o[i][1] *= high;
            s.o[i][2] *= low, s.o[i][3] *= high;
        }
    }
    PFQ_UNROLL
    for (int32_t i = 0; i < 4; i++) {
        x[i] = pfq_exp2(x[i] - s.m);
        s.l += x[i];
    }
    const uint32_t p0 = pfq_two_halves(x[0], x[1]), p1 = pfq_two_halves(x[2], x[3]);
    uint32_t w[4][S::row / 32];
    PFQ_UNROLL
    for (int32_t j = 0; j < 4; j++)
        pfq_words(v + (8 * (j / 2) + 2 * c + j % 2) * S::row + g * (S::row / 8), w[j]);
    PFQ_UNROLL
    for (int32_t i = 0; i < S::runs / 2; i++) {
        const uint32_t a[4] = {
            pfq_two_values<C>(w[0], w[1], 2 * i), pfq_two_values<C>(w[0], w[1], 2 * i + 1),
            pfq_two_values<C>(w[2], w[3], 2 * i), pfq_two_values<C>(w[2], w[3], 2 * i + 1)};
        pfq_mma_f16(s.o[i], a, p0, p1);
    }
}

/* A warp's key and value of the prefix, four halves a run, asked for before they are needed. */
template <class C> struct PfqManyPrefix {
    uint2 k[PfqAttend<C>::runs], v[PfqAttend<C>::runs];
};
template <class C, class W>
PFQ_DEVICE void pfq_many_prefix(const W &w, int32_t g, PfqManyPrefix<C> &p)
{
    static_assert(C::prefix <= PFQ_WORKER_WARPS, "a warp each");
    PFQ_UNROLL
    for (int32_t j = 0; j < PfqAttend<C>::runs; j++) {
        const int32_t d = 4 * pfq_lane() + 128 * j;
        const int64_t at = ((int64_t)pfq_warp() * C::kv_heads + g) * C::D + d;
        if (pfq_warp() >= C::prefix || d >= C::D) continue;
        p.k[j] = *(const uint2 *)((const uint16_t *)w.column(C::prefix_k) + at);
        p.v[j] = *(const uint2 *)((const uint16_t *)w.column(C::prefix_v) + at);
    }
}
PFQ_DEVICE void pfq_four_halves(uint2 x, float *v)
{
    v[0] = pfq_h_to_f((uint16_t)x.x), v[1] = pfq_h_to_f((uint16_t)(x.x >> 16));
    v[2] = pfq_h_to_f((uint16_t)x.y), v[3] = pfq_h_to_f((uint16_t)(x.y >> 16));
}

/* The warp's key of the prefix, or the token's own, at o and ml; what it has begins there. */
template <class C>
PFQ_DEVICE void pfq_many_first(const PfqToken<C> &t, const PfqManyPrefix<C> &p, float *o, float *ml)
{
    typedef PfqAttend<C> A;
    PfqAttend<C> s;
    pfq_begin<C>(s, t);
    if (pfq_warp() < C::prefix) {
        float k[A::runs * 4] = {}, x[1][A::group], v[1][A::runs * 4] = {};
        PFQ_UNROLL
        for (int32_t j = 0; j < A::runs; j++) {
            if (4 * pfq_lane() + 128 * j >= C::D) continue;
            pfq_four_halves(p.k[j], k + 4 * j);
            pfq_four_halves(p.v[j], v[0] + 4 * j);
        }
        pfq_float_scores<C>(s, k, {1.0f, 1.0f, 0.0f, 0.0f}, x[0]);
        pfq_take_rows<C, 1>(s, x, v);
    }
    if (pfq_warp() == PFQ_WORKER_WARPS - 1) {
        float x[1][A::group], v[1][A::runs * 4];
        pfq_row<C>(s, t.k, t.v, {t.worth[0], t.worth[2], 0.0f, 0.0f}, x[0], v[0]);
        pfq_take_rows<C, 1>(s, x, v);
    }
    const float inv = pfq_inv(t.scale[A::group + 1]);
    PFQ_UNROLL
    for (int32_t h = 0; h < A::group; h++) {
        PFQ_UNROLL
        for (int32_t j = 0; j < 4 * A::runs; j++) {
            const int32_t d = 4 * pfq_lane() + 128 * (j / 4) + j % 4;
            if (d < C::D)
                o[(d % (C::D / 8) * A::group + h) * 8 + d / (C::D / 8)] =
                    s.o[h][j / 4][j % 4] * inv;
        }
        if (pfq_lane() == 0) ml[2 * h] = s.m[h], ml[2 * h + 1] = s.l[h];
    }
    __syncwarp();
}

template <class C>
PFQ_DEVICE void pfq_many_begin(PfqManyKeys<C> &s, const PfqToken<C> &t, const PfqManyPrefix<C> &p,
                               float *o, float *ml)
{
    typedef PfqManyKeys<C> S;
    typedef PfqAttend<C> A;
    const int32_t g = pfq_lane() / 4, c = pfq_lane() % 4, h = min(g, A::group - 1);
    const bool first = pfq_warp() < C::prefix || pfq_warp() == PFQ_WORKER_WARPS - 1;
    if (first) pfq_many_first<C>(t, p, o, ml);
    PFQ_UNROLL
    for (int32_t i = 0; i < S::steps; i++) {
        const uint32_t *at = (const uint32_t *)(t.q + h * C::D + c * (C::D / 4) + 8 * i);
        const uint32_t x = g < A::group ? at[0] : 0, y = g < A::group ? at[1] : 0;
        s.q[i][0] = A::nibbles ? __byte_perm(x, y, 0x6420) : x;
        s.q[i][1] = A::nibbles ? __byte_perm(x, y, 0x7531) : y;
    }
    s.factor = t.scale[h] * C::score * PFQ_LOG2E * (t.scale[A::group] * A::unit);
    s.m = first ? ml[2 * h] : PFQ_NO_SCORE;
    s.l = first && c == 0 ? ml[2 * h + 1] : 0.0f;
    PFQ_UNROLL
    for (int32_t i = 0; i < 2 * S::runs; i++) {
        const int32_t of = 2 * c + i % 2;
        s.o[i / 4][i % 4] = first && of < A::group ? o[(i / 2 * A::group + of) * 8 + g] : 0.0f;
    }
    __syncwarp();
}

/* The warps' results added up, to all. */
template <class C, class W>
PFQ_DEVICE void pfq_many_put(W &w, PfqManyKeys<C> &s, int32_t g, float scale, float inv, float *all)
{
    typedef PfqManyKeys<C> S;
    typedef PfqAttend<C> A;
    typedef typename C::Out Out;
    typedef PfqPieces<W, typename Out::To, A::group * C::D> Pieces;
    constexpr int32_t width = A::group * C::D;
    float *ml = all + PFQ_WORKER_WARPS * width, *o = all + pfq_warp() * width;
    const int32_t quad = pfq_lane() / 4, c = pfq_lane() % 4;
    static_assert(Out::fixed && Out::planes == 1, "bytes of a static scale");
    PFQ_UNROLL
    for (int32_t i = 0; i < 2 * S::runs; i++) {
        const int32_t of = 2 * c + i % 2;
        if (of < A::group) o[(i / 2 * A::group + of) * 8 + quad] = s.o[i / 4][i % 4];
    }
    const float l = pfq_quad_sum(s.l);
    if (c == 0 && quad < A::group) {
        ml[(pfq_warp() * A::group + quad) * 2] = s.m;
        ml[(pfq_warp() * A::group + quad) * 2 + 1] = l;
    }
    w.sync();
    if (w.tid() < width) {
        const int32_t h = w.tid() / 8 % A::group,
                      d = w.tid() % 8 * (C::D / 8) + w.tid() / (8 * A::group);
        float top, sum, weight;
        pfq_of_warps<C>(all + w.tid(), ml + 2 * h, top, sum, weight);
        Pieces::row(w, PFQ_AT_PARTS, w.now, 0)[pfq_b_at(g * width + h * C::D + d)] =
            (uint8_t)pfq_quant(sum / weight * scale, inv, Out::lo, Out::hi);
    }
    w.sync();
    if (w.tid() == 0) pfq_put_flag(Pieces::flags(w, PFQ_AT_PARTS) + g * W::most + w.now, w.flag());
}

template <class C, class W> PFQ_DEVICE void pfq_attend_many(W &w)
{
    typedef PfqAttend<C> A;
    typedef PfqKeyDeal<C> Keys;
    static_assert(A::int_scores && A::sign && C::kv_static && Keys::row % 32 == 0, "see above");
    const int32_t tasks = w.rows() * C::kv_heads, in = pfq_warp() % 4 * 16;
    const PfqToken<C> t = PfqToken<C>::at(w.template scratch<uint8_t>());
    float *all = (float *)(w.template scratch<uint8_t>() + A::token),
          *o = all + pfq_warp() * A::group * C::D,
          *ml = all + PFQ_WORKER_WARPS * A::group * C::D + pfq_warp() * A::group * 2;
    const float scale = w.template fixed_scale<typename C::Out>();
    if ((int32_t)blockIdx.x >= tasks)
        w.template await_for<typename C::From>(); /* in step with the others */
    for (int32_t task = (int32_t)blockIdx.x; task < tasks; task += (int32_t)gridDim.x) {
        w.now = task / C::kv_heads;
        const int32_t g = task % C::kv_heads;
        const Keys d = Keys::of(w.pos());
        const int32_t n = (d.end(0) + Keys::keys - 1) / Keys::keys;
        PfqManyKeys<C> s;
        PfqManyPrefix<C> p;
        pfq_many_prefix<C>(w, g, p);
        pfq_make_token<C>(w, t, g, true, false);
        pfq_many_begin<C>(s, t, p, o, ml);
        for (int32_t i = pfq_warp() / 4; i < n; i += PFQ_GROUPS) {
            const uint32_t use = w.n + (uint32_t)i;
            const uint8_t *k = pfq_shared + use % W::slots * PFQ_SLOT + in * Keys::row;
            const int32_t rows = d.end(0) - i * Keys::keys - in;
            w.ring.wait(use);
            if (rows > 0 && in < Keys::keys)
                pfq_many_keys<C>(s, k, k + Keys::keys * Keys::row, rows);
            __syncwarp();
            if (pfq_lane() == 0) w.ring.release(use, 4);
        }
        w.n += (uint32_t)n;
        pfq_many_put<C>(w, s, g, t.scale[A::group + 1], pfq_inv(scale), all);
    }
}

template <class C, class W> PFQ_DEVICE void pfq_combine_many(W &w)
{
    typedef typename C::From At; /* the attention */
    typedef PfqDeal<typename C::To> Deal;
    w.sync();
    w.mark();
    PfqPieces<W, typename C::To, At::heads / At::kv_heads * At::D>::fetch(w, PFQ_AT_PARTS);
    w.sync();
    const int32_t k = Deal::mine().first_k();
    w.template dump<C>(k, k + Deal::part_k, k);
}

#endif
