/* Between gate/up and down of the persistent decode step: the gated activation and the Hadamard
 * transform of all ffn columns, B (x) S / sqrt(ffn), in two halves with one meeting between them. x
 * is seen as [outer][inner], inner a power of two that divides S's order: outer = base * 2^e.
 *
 * glu: a block takes some of the inner columns, makes act(gate) * up of them in all outer rows, and
 *      multiplies by the outer factor: B (x) S of order 2^e.
 * mix: S of order `inner` of the outer rows that the block's part of down reads, quantised.
 *
 * A struct C of constants: ffn, base, outer, inner, c_scale (`scale`), activation (`kind`), From
 * (gate and up; rows interleaved by pfq_glu_row), To (down), matrix: index in `at` of B, f32 packed
 * in tiles of 16 rows (-1: base is 1); and a quantiser's (PfqWorker::inverse).
 */
#ifndef PFQC_CODEGEN_CUDA_DECODE_FFN_CUH
#define PFQC_CODEGEN_CUDA_DECODE_FFN_CUH

#include "decode.cuh"

template <class C, class W> PFQ_DEVICE void pfq_glu(W &w)
{
    typedef typename C::From From;
    const int32_t c0 = pfq_share(C::inner, (int32_t)blockIdx.x),
                  cols = pfq_share(C::inner, (int32_t)blockIdx.x + 1) - c0;
    const int32_t *sums = (const int32_t *)w.a.at[From::sums];
    const float *scale = (const float *)w.column(From::scale);
    float *x = w.template scratch<float>(); /* [outer][cols] */
    w.await();
    for (int32_t i = w.tid(); i < C::outer * cols; i += PFQ_WORKERS) {
        const int32_t c = i / cols * C::inner + c0 + i % cols;
        const int32_t g = pfq_glu_row(c, 0), u = pfq_glu_row(c, 1);
        const float f = From::fixed ? 1.0f : w.dynamic;
        const float gate = (float)pfq_fresh(sums + g) * (scale[g] * f),
                    up = (float)pfq_fresh(sums + u) * (scale[u] * f);
        x[i] = pfq_act(C::kind, gate) * up * C::scale;
    }
    w.sync();
    const float *b = C::matrix < 0 ? NULL : (const float *)w.a.at[C::matrix < 0 ? 0 : C::matrix];
    constexpr int32_t twos = C::outer / C::base;
    for (int32_t i = w.tid(); i < C::outer * cols; i += PFQ_WORKERS) {
        const int32_t row = i / cols, col = i % cols;
        float s = 0.0f;
        PFQ_UNROLL
        for (int32_t j = 0; j < C::outer; j++) {
            const int32_t r = row / twos;
            const float e =
                C::base == 1 ? 1.0f : b[r / 16 * 16 * C::base + r % 16 + 16 * (j / twos)];
            const float v = x[j * cols + col];
            s = fmaf(__popc((uint32_t)(row % twos & j % twos)) & 1 ? -e : e, v, s);
        }
        ((float *)w.a.at[PFQ_AT_MIXED])[row * C::inner + c0 + col] = s;
    }
}

/* S of order `inner` of rows in shared memory: lanes first, then runs of 32 by threads. */
template <class C, class W> PFQ_DEVICE void pfq_mix(W &w)
{
    typedef PfqDeal<typename C::To> Deal;
    static_assert(C::inner % 32 == 0 && C::inner <= 1024, "a row is some warps' width");
    const Deal d = Deal::mine();
    const int32_t k0 = d.first_k(), k1 = d.end_k();
    constexpr int32_t runs = C::inner / 32, room = 8192 / C::inner * C::inner; /* floats a pass */
    float *x = w.template scratch<float>();
    const float inv = w.template inverse<C>(0.0f);
    w.await();
    for (int32_t at = k0; at < k1; at += room) {
        const int32_t n = min(room, k1 - at);
        for (int32_t i = w.tid(); i < n; i += PFQ_WORKERS) {
            float v = pfq_fresh((const float *)w.a.at[PFQ_AT_MIXED] + at + i);
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
            w.act()[pfq_b_at(at + i)] = (int8_t)pfq_quant(s, inv, C::lo, C::hi);
        }
        w.sync();
    }
    w.dump(C::dump, k0, k1, 0, 1);
}

#endif
