/* Norms of the persistent decode step. A struct C of constants: From, the op whose products are
 * added to the residual stream first; To, the op that reads; prior (From was the layer's before,
 * and layer 0 adds nothing); gain (column, -1: none), eps; and a quantiser's
 * (PfqWorker::fixed_scale).
 *
 * x += the products of op C::From; then RMSNorm of x, quantised as activations. Of several rows
 * each is one block's, which hands its activations to all: of a few as words with flags, of many as
 * a piece of bytes (PfqPieces).
 */
#ifndef PFQC_CODEGEN_CUDA_DECODE_NORM_CUH
#define PFQC_CODEGEN_CUDA_DECODE_NORM_CUH

#include "decode_pieces.cuh"

/* PFQ_AT_NORMED of a few rows: of each a word with a flag for four columns of a plane, two planes,
 * then one for its dynamic scale. */
template <class W> PFQ_DEVICE uint64_t *pfq_normed(const W &w, int32_t r)
{
    static_assert(W::most == 1 || W::hidden % 8 == 0, "words are read in pairs");
    return (uint64_t *)w.a.at[PFQ_AT_NORMED] + r * (W::hidden / 2 + 2);
}

template <class C, class W> PFQ_DEVICE void pfq_norm_gain(const W &w, float (&gain)[W::quads][4])
{
    PFQ_UNROLL
    for (int32_t i = 0; i < W::quads; i++) {
        const int32_t k = min(4 * (w.tid() + PFQ_WORKERS * i), W::hidden - 4);
        const PfqFour v = C::gain < 0 ? PfqFour{{1.0f, 1.0f, 1.0f, 1.0f}}
                                      : *(const PfqFour *)((const float *)w.column(C::gain) + k);
        PFQ_UNROLL
        for (int32_t j = 0; j < 4; j++)
            gain[i][j] = v.v[j];
    }
}

template <class C, class W>
PFQ_DEVICE void pfq_norm_put(W &w, float r, const float (&gain)[W::quads][4], float inv)
{
    typedef PfqPieces<W, typename C::To, W::hidden> Pieces;
    float m = 0.0f, y[4];
    PFQ_UNROLL
    for (int32_t i = 0; i < W::quads && !C::fixed; i++) {
        PFQ_UNROLL
        for (int32_t j = 0; j < 4; j++)
            m = fmaxf(m, fabsf(w.x[i][j] * r * gain[i][j]));
    }
    if (!C::fixed) inv = w.template dynamic_inverse<C>(w.own(), w.largest(m));
    PFQ_UNROLL
    for (int32_t i = 0; i < W::quads; i++) {
        const int32_t k = 4 * (w.tid() + PFQ_WORKERS * i);
        PFQ_UNROLL
        for (int32_t j = 0; j < 4; j++)
            y[j] = w.x[i][j] * r * gain[i][j];
        uint32_t word[2];
        w.template quantise4<C>(y, inv, word);
        PFQ_UNROLL
        for (int32_t p = 0; p < C::planes && k < W::hidden; p++) {
            if (W::most == 1)
                w.put4(p * C::plane, k, word[p]);
            else if (W::many)
                *(uint32_t *)(Pieces::row(w, PFQ_AT_NORMED, w.own(), p) + pfq_b_at(k)) = word[p];
            else
                pfq_put_word(pfq_normed(w, w.own()) + p * (W::hidden / 4) + k / 4, (int32_t)word[p],
                             w.flag());
        }
    }
    if (W::most > 1 && !C::fixed && threadIdx.x == 0) {
        if (W::many)
            Pieces::scales(w, PFQ_AT_NORMED)[w.own()] = w.scale_of(w.own());
        else
            pfq_put_word(pfq_normed(w, w.own()) + W::hidden / 2,
                         __float_as_int(w.scale_of(w.own())), w.flag());
    }
    if (!W::many) return;
    w.sync();
    if (threadIdx.x == 0) pfq_put_flag(Pieces::flags(w, PFQ_AT_NORMED) + w.own(), w.flag());
}

template <class C, class W> PFQ_DEVICE void pfq_norm_own(W &w)
{
    typedef typename C::From From;
    const bool add = !C::prior || w.l > 0;
    float s = 0.0f, factor[W::quads][4];
    PFQ_UNROLL
    for (int32_t i = 0; i < W::quads; i++)
        if (add) {
            const int32_t k = min(4 * (w.tid() + PFQ_WORKERS * i), W::hidden - 4);
            const uint64_t of = C::prior ? w.before(From::scale) : w.column(From::scale);
            const PfqFour v = *(const PfqFour *)((const float *)of + k);
            PFQ_UNROLL
            for (int32_t j = 0; j < 4; j++)
                factor[i][j] = From::fixed ? v.v[j] : v.v[j] * w.scale_of(w.own());
        }
    float gain[W::quads][4];
    pfq_norm_gain<C>(w, gain);
    const float scale = w.template fixed_scale<C>();
    w.await();
    PFQ_UNROLL
    for (int32_t i = 0; i < W::quads; i++) {
        const int32_t k = 4 * (w.tid() + PFQ_WORKERS * i);
        if (add && k < W::hidden) {
            constexpr int32_t plane = PfqDeal<From>::panels * 64;
            const int32_t *at = w.template place<From>(C::prior ? w.l - 1 : w.l) +
                                w.own() * From::planes * plane + k;
            const PfqInts high = pfq_fresh((const PfqInts *)at),
                          low = From::planes == 2 ? pfq_fresh((const PfqInts *)(at + plane)) : high;
            PFQ_UNROLL
            for (int32_t j = 0; j < 4; j++)
                w.x[i][j] = W::template whole<From>(high.v[j], low.v[j]) * factor[i][j] + w.x[i][j];
        }
        PFQ_UNROLL
        for (int32_t j = 0; j < 4; j++)
            s = fmaf(w.x[i][j], w.x[i][j], s);
    }
    const float r = 1.0f / sqrtf(w.sum(s) / (float)W::hidden + C::eps);
    pfq_norm_put<C>(w, r, gain, pfq_inv(scale));
}

/* A few rows' words to shared memory. */
template <class C, class W> PFQ_DEVICE void pfq_norm_take(W &w)
{
    constexpr int32_t half = W::hidden / 8, each = half * C::planes, /* pairs */
        deep = (W::most * half + PFQ_WORKERS - 1) / PFQ_WORKERS;
    const int32_t all = each * w.rows();
    for (int32_t i = w.tid(); i < all; i += PFQ_WORKERS * deep) {
        const uint64_t *p[deep];
        int32_t v[deep][2];
        PFQ_UNROLL
        for (int32_t j = 0; j < deep; j++) {
            const int32_t at = i + PFQ_WORKERS * j;
            p[j] = W::waits && at < all ? pfq_normed(w, at / each) + at % each * 2 : NULL;
        }
        pfq_get_pairs(p, w.flag(), v);
        PFQ_UNROLL
        for (int32_t j = 0; j < 2 * deep; j++) {
            const int32_t at = i + PFQ_WORKERS * (j / 2);
            if (at < all)
                w.put4(at / each * W::Room::act_row + at % each / half * C::plane,
                       at % half * 8 + j % 2 * 4, (uint32_t)v[j / 2][j % 2]);
        }
    }
    if (!C::fixed && w.tid() < w.rows() && w.tid() != w.own() && W::waits) {
        const uint64_t *p[1] = {pfq_normed(w, w.tid()) + W::hidden / 2};
        int32_t v[1];
        pfq_get_words(p, w.flag(), v);
        w.set_scale(w.tid(), __int_as_float(v[0]), w.tid());
    }
}

template <class C, class W> PFQ_DEVICE void pfq_norm(W &w)
{
    if (w.owns())
        pfq_norm_own<C>(w);
    else
        w.await();
    if constexpr (W::many) {
        typedef PfqPieces<W, typename C::To, W::hidden> Pieces;
        Pieces::fetch(w, PFQ_AT_NORMED);
        if (!C::fixed && w.tid() < w.rows())
            w.set_scale(w.tid(), pfq_fresh(Pieces::scales(w, PFQ_AT_NORMED) + w.tid()), w.tid());
    } else if constexpr (W::most > 1) {
        pfq_norm_take<C>(w);
    }
    w.sync();
    const int32_t k = W::many ? PfqDeal<typename C::To>::mine().first_k() : 0;
    w.template dump<C>(k, k + (W::many ? PfqDeal<typename C::To>::part_k : W::hidden), k);
}

#endif
