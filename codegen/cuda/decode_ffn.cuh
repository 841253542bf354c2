/* Between gate/up and down of the persistent decode step: the gated activation and the Hadamard
 * transform of all ffn columns, B (x) S / sqrt(ffn), in two halves with one meeting between them. x
 * is seen as [outer][inner], inner a power of two that divides S's order: outer = base * 2^e.
 *
 * glu: a block takes some of the inner columns, makes act(gate) * up of them in all outer rows, and
 *      multiplies by the outer factor: B (x) S of order 2^e.
 * mix: S of order `inner` of the outer rows that the block's part of down reads, quantised.
 *
 * Without a transform (turn false) inner is ffn, and mix quantises alone.
 *
 * A struct C of constants: turn, ffn, base, outer, inner, c_scale (`scale`), activation (`kind`),
 * From (gate and up; rows interleaved by pfq_glu_row), To (down), matrix: index in `at` of B, f32
 * packed in tiles of 16 rows (-1: base is 1); and a quantiser's (PfqWorker::fixed_scale).
 */
#ifndef PFQC_CODEGEN_CUDA_DECODE_FFN_CUH
#define PFQC_CODEGEN_CUDA_DECODE_FFN_CUH

#include "decode_pieces.cuh"

/* Many rows: a block takes inner columns by fours. A thread has a channel of some rows, then four
 * columns of a result. */
template <class C, class W> PFQ_DEVICE void pfq_glu_many(W &w)
{
    typedef typename C::From From;
    static_assert(C::turn && C::inner % 64 == 0, "a transform of whole runs");
    constexpr int32_t twos = C::outer / C::base, each = 4 * C::outer; /* channels */
    constexpr int32_t across = PFQ_WORKERS / each, deep = 4; /* rows at once; of a thread */
    static_assert(across > 0, "a thread for each channel");
    const int32_t begin = pfq_share(C::inner / 4, (int32_t)blockIdx.x),
                  end = pfq_share(C::inner / 4, (int32_t)blockIdx.x + 1);
    const float *scale = (const float *)w.column(From::scale);
    float *x = w.template scratch<float>(); /* [rows][outer][4] */
    const float *b = (const float *)(pfq_shared + W::Room::base);
    const int32_t in = w.tid() % each, r0 = w.tid() / each;
    const auto channel = [&](int32_t four) { return in / 4 * C::inner + 4 * four + in % 4; };
    const int32_t c = channel(min(begin, C::inner / 4 - 1));
    float gate = scale[pfq_glu_row(c, 0)], up = scale[pfq_glu_row(c, 1)];
    w.template await_for<From>();
    for (int32_t four = begin; four < end; four++) {
        const int32_t gate_row = pfq_glu_row(channel(four), 0), up_row = gate_row + 32;
        if (four > begin) {
            gate = scale[gate_row], up = scale[up_row];
            w.sync();
        }
        for (int32_t r = r0; r0 < across && r < w.rows(); r += across * deep) {
            int32_t of[2 * deep], rows[2 * deep];
            float sum[2 * deep];
            PFQ_UNROLL
            for (int32_t j = 0; j < 2 * deep; j++) {
                of[j] = r + across * (j / 2);
                rows[j] = of[j] < w.rows() ? j % 2 ? up_row : gate_row : -1;
            }
            w.template sums_of<From>(of, rows, sum);
            PFQ_UNROLL
            for (int32_t j = 0; j < deep; j++) {
                if (of[2 * j] >= w.rows()) continue;
                const float f = From::fixed ? 1.0f : w.scale_of(of[2 * j]);
                x[of[2 * j] * each + in] = pfq_act(C::kind, sum[2 * j] * (gate * f)) *
                                           (sum[2 * j + 1] * (up * f)) * C::scale;
            }
        }
        w.sync();
        for (int32_t i = w.tid(); i < w.rows() * C::outer; i += PFQ_WORKERS) {
            const int32_t of = i / C::outer, row = i % C::outer, r = row / twos;
            float s[4] = {};
            PFQ_UNROLL
            for (int32_t j = 0; j < C::outer; j++) {
                const float e =
                    C::base == 1 ? 1.0f : b[r / 16 * 16 * C::base + r % 16 + 16 * (j / twos)];
                const PfqFour v = *(const PfqFour *)(x + of * each + 4 * j);
                const float f = __popc((uint32_t)(row % twos & j % twos)) & 1 ? -e : e;
                PFQ_UNROLL
                for (int32_t k = 0; k < 4; k++)
                    s[k] = fmaf(f, v.v[k], s[k]);
            }
            uint64_t *to =
                (uint64_t *)w.a.at[PFQ_AT_MIXED] + of * C::ffn + row * C::inner + 4 * four;
            PFQ_UNROLL
            for (int32_t k = 0; k < 4; k += 2)
                pfq_put_pair(to + k, __float_as_int(s[k]), __float_as_int(s[k + 1]), w.flag());
        }
    }
}

template <class C, class W> PFQ_DEVICE void pfq_glu(W &w)
{
    typedef typename C::From From;
    const int32_t c0 = pfq_share(C::inner, (int32_t)blockIdx.x),
                  cols = pfq_share(C::inner, (int32_t)blockIdx.x + 1) - c0;
    const float *scale = (const float *)w.column(From::scale);
    constexpr int32_t twos = C::outer / C::base;
    const int32_t each = C::outer * cols, all = w.rows() * each;
    float *x = w.template scratch<float>(); /* [rows][outer][cols] */
    const float *b = (const float *)(pfq_shared + W::Room::base);
    /* The first element's scales are asked for before the wait; most threads have no other. */
    const auto channel = [&](int32_t i) {
        if (!cols) return 0;
        const int32_t in = W::most == 1 ? min(i, each - 1) : i % each;
        return in / cols * C::inner + c0 + in % cols;
    };
    const int32_t c1 = channel(w.tid());
    float gate_scale = scale[pfq_glu_row(c1, 0)], up_scale = scale[pfq_glu_row(c1, 1)];
    w.template await_for<From>();
    for (int32_t i = w.tid(); i < all; i += PFQ_WORKERS) {
        const int32_t c = channel(i), r = W::most == 1 ? 0 : i / each;
        if (i >= PFQ_WORKERS) {
            gate_scale = scale[pfq_glu_row(c, 0)];
            up_scale = scale[pfq_glu_row(c, 1)];
        }
        const int32_t of[2] = {r, r}, rows[2] = {pfq_glu_row(c, 0), pfq_glu_row(c, 1)};
        float sum[2];
        w.template sums_of<From>(of, rows, sum);
        const float f = From::fixed ? 1.0f : w.scale_of(r);
        const float gate = sum[0] * (gate_scale * f), up = sum[1] * (up_scale * f);
        x[i] = pfq_act(C::kind, gate) * up * C::scale;
    }
    w.sync();
    for (int32_t i = w.tid(); i < all; i += PFQ_WORKERS) {
        const int32_t of = W::most == 1 ? 0 : i / each, in = i - of * each, row = in / cols,
                      col = in % cols, r = row / twos;
        float s = 0.0f;
        PFQ_UNROLL
        for (int32_t j = 0; j < C::outer; j++) {
            const float e =
                C::base == 1 ? 1.0f : b[r / 16 * 16 * C::base + r % 16 + 16 * (j / twos)];
            const float v = x[of * each + j * cols + col];
            s = fmaf(__popc((uint32_t)(row % twos & j % twos)) & 1 ? -e : e, v, s);
        }
        w.put_float(PFQ_AT_MIXED, of * C::ffn + row * C::inner + c0 + col, s);
    }
}

/* Of n values' transform the one of index `mine`: two values make one, added or, where the stage's
 * bit of `mine` is set, subtracted. */
template <int32_t n> PFQ_DEVICE float pfq_turned(float (&v)[n], int32_t mine)
{
    PFQ_UNROLL
    for (int32_t h = 1; h < n; h *= 2) {
        const uint32_t minus = mine & h ? 0x80000000u : 0;
        PFQ_UNROLL
        for (int32_t i = 0; i < n; i += 2 * h)
            v[i] += __uint_as_float(__float_as_uint(v[i + h]) ^ minus);
    }
    return v[0];
}

/* A lane's value of 32 that are transformed across the warp. */
PFQ_DEVICE float pfq_turn_lanes(float v)
{
    PFQ_UNROLL
    for (int32_t h = 1; h < 32; h *= 2) {
        const float o = __shfl_xor_sync(~0u, v, h);
        v = pfq_lane() & h ? o - v : v + o;
    }
    return v;
}

/* S of order `inner` of n columns, whole rows of it: column i is PFQ_AT_MIXED's at from(i), and is
 * handed to put(i, value). Lanes first, then runs of 32 by threads. */
template <class C, class W, class From, class Put>
PFQ_DEVICE void pfq_mix_rows(W &w, int32_t n, From from, Put put)
{
    constexpr int32_t runs = C::turn ? C::inner / 32 : 1, deep = W::most == 1 ? 1 : 2 * W::most;
    float *x = w.template scratch<float>();
    for (int32_t i = w.tid(); i < n; i += PFQ_WORKERS * deep) {
        int64_t at[deep];
        float v[deep];
        PFQ_UNROLL
        for (int32_t j = 0; j < deep; j++)
            at[j] = i + PFQ_WORKERS * j < n ? from(i + PFQ_WORKERS * j) : -1;
        w.get_floats(PFQ_AT_MIXED, at, v);
        PFQ_UNROLL
        for (int32_t j = 0; j < deep; j++) {
            const int32_t to = i + PFQ_WORKERS * j;
            if (to >= n) continue;
            if (C::turn)
                x[to] = pfq_turn_lanes(v[j]);
            else
                put(to, v[j]);
        }
    }
    w.sync();
    for (int32_t i = w.tid(); i < n && C::turn; i += PFQ_WORKERS) {
        const float *row = x + i / C::inner * C::inner + pfq_lane();
        float v[runs];
        PFQ_UNROLL
        for (int32_t j = 0; j < runs; j++)
            v[j] = row[32 * j];
        put(i, pfq_turned(v, i % C::inner / 32));
    }
    w.sync();
}

/* Many rows: a warp takes an inner run of a row, a lane pairs of its columns 64 apart, and hands it
 * to all as a piece. */
template <class C, class W> PFQ_DEVICE void pfq_mix_many(W &w)
{
    typedef PfqPieces<W, typename C::To, C::inner> Pieces;
    constexpr int32_t pairs = C::inner / 64;
    const int32_t all = W::most * C::outer, lane = pfq_lane();
    static_assert(C::fixed && C::planes == 1, "bytes of a static scale");
    const float inv = pfq_inv(w.template fixed_scale<C>());
    w.sync();
    w.mark();
    for (int32_t i = (int32_t)blockIdx.x + (int32_t)gridDim.x * pfq_warp(); i < all;
         i += (int32_t)gridDim.x * PFQ_WORKER_WARPS) {
        const int32_t of = i % W::most, row = i / W::most;
        if (of >= w.rows()) continue;
        const int64_t from = (int64_t)of * C::ffn + row * C::inner + 2 * lane;
        const uint64_t *p[pairs];
        int32_t word[pairs][2];
        float v[2 * pairs];
        PFQ_UNROLL
        for (int32_t j = 0; j < pairs; j++)
            p[j] = W::waits ? (const uint64_t *)w.a.at[PFQ_AT_MIXED] + from + 64 * j : NULL;
        pfq_get_pairs(p, w.flag(), word);
        PFQ_UNROLL
        for (int32_t j = 0; j < 2 * pairs; j++)
            v[j] = __int_as_float(word[j / 2][j % 2]);
        PFQ_UNROLL
        for (int32_t h = 1; h < 2 * pairs; h *= 2)
            pfq_butterflies<2 * pairs>(v, h);
        PFQ_UNROLL
        for (int32_t j = 0; j < 2 * pairs; j++)
            v[j] = pfq_turn_lanes(v[j]);
        uint8_t *to = Pieces::row(w, PFQ_AT_TURNED, of, 0);
        PFQ_UNROLL
        for (int32_t j = 0; j < pairs; j++) {
            const int32_t low = pfq_quant(v[2 * j], inv, C::lo, C::hi),
                          high = pfq_quant(v[2 * j + 1], inv, C::lo, C::hi);
            *(uint16_t *)(to + pfq_b_at(row * C::inner + 64 * j + 2 * lane)) =
                (uint16_t)((low & 255) | high << 8);
        }
        __syncwarp();
        if (lane == 0) pfq_put_flag(Pieces::flags(w, PFQ_AT_TURNED) + i, w.flag());
    }
    Pieces::fetch(w, PFQ_AT_TURNED);
    w.sync();
    const int32_t k = PfqDeal<typename C::To>::mine().first_k();
    w.template dump<C>(k, k + PfqDeal<typename C::To>::part_k, k);
}

/* Rows of one scale together: all, or each by itself. */
template <class C, class W> PFQ_DEVICE void pfq_mix(W &w)
{
    typedef PfqDeal<typename C::To> Deal;
    static_assert(!C::turn || (C::inner % 32 == 0 && C::inner <= 1024),
                  "a row is some warps' width");
    const Deal d = Deal::mine();
    const int32_t k0 = d.first_k(), width = d.end_k() - k0;
    constexpr int32_t room = C::turn ? 8192 / C::inner * C::inner : C::ffn; /* floats a pass */
    const float scale = w.template fixed_scale<C>();
    w.sync();
    w.mark();
    for (int32_t r0 = 0; r0 < w.rows(); r0 += C::fixed ? W::most : 1) {
        const int32_t all = (C::fixed ? w.rows() : 1) * width;
        float inv = pfq_inv(scale), m = 0.0f;
        const auto row = [&](int32_t i) { return W::most == 1 || !C::fixed ? r0 : i / width; };
        const auto column = [&](int32_t i) { return W::most == 1 || !C::fixed ? i : i % width; };
        for (int32_t at = 0; at < all && !C::fixed; at += room)
            pfq_mix_rows<C>(
                w, min(room, all - at),
                [&](int32_t i) { return row(at + i) * C::ffn + k0 + column(at + i); },
                [&](int32_t, float v) { m = fmaxf(m, fabsf(v)); });
        if (!C::fixed) inv = w.template dynamic_inverse<C>(r0, w.largest(m));
        for (int32_t at = 0; at < all; at += room)
            pfq_mix_rows<C>(
                w, min(room, all - at),
                [&](int32_t i) { return row(at + i) * C::ffn + k0 + column(at + i); },
                [&](int32_t i, float v) {
                    w.template quantise<C>(row(at + i), k0 - d.window() + column(at + i), v, inv);
                });
    }
    w.sync();
    w.template dump<C>(k0, k0 + width, d.window());
}

#endif
