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

#include "decode.cuh"

template <class C, class W> PFQ_DEVICE void pfq_glu(W &w)
{
    typedef typename C::From From;
    const int32_t c0 = pfq_share(C::inner, (int32_t)blockIdx.x),
                  cols = pfq_share(C::inner, (int32_t)blockIdx.x + 1) - c0;
    const float *scale = (const float *)w.column(From::scale);
    constexpr int32_t twos = C::outer / C::base;
    float *x = w.template scratch<float>(); /* [outer][cols] */
    const float *b = (const float *)(pfq_shared + W::Room::base);
    const float f = From::fixed ? 1.0f : w.dynamic;
    /* The first element's scales are asked for before the wait; most threads have no other. */
    const auto channel = [&](int32_t i) {
        return cols ? min(i / cols, C::outer - 1) * C::inner + c0 + i % cols : 0;
    };
    const int32_t c1 = channel(w.tid());
    float gate_scale = scale[pfq_glu_row(c1, 0)], up_scale = scale[pfq_glu_row(c1, 1)];
    w.template await_for<From>();
    for (int32_t i = w.tid(); i < C::outer * cols; i += PFQ_WORKERS) {
        const int32_t c = channel(i);
        if (i >= PFQ_WORKERS) {
            gate_scale = scale[pfq_glu_row(c, 0)];
            up_scale = scale[pfq_glu_row(c, 1)];
        }
        const int32_t rows[2] = {pfq_glu_row(c, 0), pfq_glu_row(c, 1)};
        int32_t sum[2];
        w.template sums_of<From>(rows, sum);
        const float gate = (float)sum[0] * (gate_scale * f), up = (float)sum[1] * (up_scale * f);
        x[i] = pfq_act(C::kind, gate) * up * C::scale;
    }
    w.sync();
    for (int32_t i = w.tid(); i < C::outer * cols; i += PFQ_WORKERS) {
        const int32_t row = i / cols, col = i % cols, r = row / twos;
        float s = 0.0f;
        PFQ_UNROLL
        for (int32_t j = 0; j < C::outer; j++) {
            const float e =
                C::base == 1 ? 1.0f : b[r / 16 * 16 * C::base + r % 16 + 16 * (j / twos)];
            const float v = x[j * cols + col];
            s = fmaf(__popc((uint32_t)(row % twos & j % twos)) & 1 ? -e : e, v, s);
        }
        w.put_float(PFQ_AT_MIXED, row * C::inner + c0 + col, s);
    }
}

/* Column k of PFQ_AT_MIXED. */
template <class W> PFQ_DEVICE float pfq_mixed(const W &w, int32_t k)
{
    const int64_t at[1] = {k};
    float v[1];
    w.get_floats(PFQ_AT_MIXED, at, v);
    return v[0];
}

/* S of order `inner` of n columns of PFQ_AT_MIXED from `at` on, whole rows, each handed to
 * put(column of them, value): lanes first, then runs of 32 by threads. */
template <class C, class W, class Put>
PFQ_DEVICE void pfq_mix_rows(W &w, int32_t at, int32_t n, Put put)
{
    constexpr int32_t runs = C::turn ? C::inner / 32 : 1;
    float *x = w.template scratch<float>();
    if (!C::turn) {
        for (int32_t i = w.tid(); i < n; i += PFQ_WORKERS)
            put(i, pfq_mixed(w, at + i));
        return;
    }
    for (int32_t i = w.tid(); i < n; i += PFQ_WORKERS) {
        float v = pfq_mixed(w, at + i);
        PFQ_UNROLL
        for (int32_t h = 1; h < 32; h *= 2) {
            const float o = __shfl_xor_sync(~0u, v, h);
            v = i & h ? o - v : v + o;
        }
        x[i] = v;
    }
    w.sync();
    for (int32_t i = w.tid(); i < n; i += PFQ_WORKERS) {
        const float *row = x + i / C::inner * C::inner + i % 32;
        const int32_t mine = i % C::inner / 32;
        float s = 0.0f;
        PFQ_UNROLL
        for (int32_t j = 0; j < runs; j++)
            s += __popc((uint32_t)(mine & j)) & 1 ? -row[32 * j] : row[32 * j];
        put(i, s);
    }
    w.sync();
}

template <class C, class W> PFQ_DEVICE void pfq_mix(W &w)
{
    typedef PfqDeal<typename C::To> Deal;
    static_assert(!C::turn || (C::inner % 32 == 0 && C::inner <= 1024),
                  "a row is some warps' width");
    const Deal d = Deal::mine();
    const int32_t k0 = d.first_k(), k1 = d.end_k();
    constexpr int32_t room = C::turn ? 8192 / C::inner * C::inner : C::ffn; /* floats a pass */
    const float scale = w.template fixed_scale<C>();
    w.sync();
    w.mark();
    float inv = pfq_inv(scale), m = 0.0f;
    for (int32_t at = k0; at < k1 && !C::fixed; at += room)
        pfq_mix_rows<C>(w, at, min(room, k1 - at),
                        [&](int32_t, float v) { m = fmaxf(m, fabsf(v)); });
    if (!C::fixed) inv = w.template dynamic_inverse<C>(w.largest(m));
    for (int32_t at = k0; at < k1; at += room)
        pfq_mix_rows<C>(w, at, min(room, k1 - at),
                        [&](int32_t i, float v) { w.template quantise<C>(at + i, v, inv); });
    w.sync();
    w.dump(C::dump, k0, k1, 0, 1);
}

#endif
