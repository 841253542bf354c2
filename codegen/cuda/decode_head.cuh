/* The ends of the persistent decode step: embeddings; logits from the head's sums, the greedy
 * token.
 *
 * embed:  x = the token's row of the table [N, hidden], times C::scale; C::format says how it lies
 *         (embed.cu).
 * logits: a block scales a run of the vocabulary, finds its largest, and zeroes the sums it read.
 * choose: block 0 takes the largest of all, the first of equals, and tells the next step where the
 *         meetings' counter stands. Each for all rows.
 */
#ifndef PFQC_CODEGEN_CUDA_DECODE_HEAD_CUH
#define PFQC_CODEGEN_CUDA_DECODE_HEAD_CUH

#include "decode.cuh"

/* Element k of row id of a table [N, K] at w. */
template <class C, int32_t K> PFQ_DEVICE float pfq_embedding(uint64_t w, int32_t id, int32_t k)
{
    if (C::format == PFQ_EMBED_ROWS) return ((const float *)w)[(int64_t)id * K + k];
    if (C::format == PFQ_EMBED_F32)
        return ((const float *)w)[(int64_t)(id / 16) * 16 * K + 16 * (int64_t)k + id % 16] *
               C::scale;
    if (C::format == PFQ_EMBED_S8) {
        const uint8_t *tile = (const uint8_t *)w + id / 16 * (128 + 64 * (int64_t)((K + 3) / 4));
        const int8_t q = (int8_t)tile[128 + 64 * (int64_t)(k / 4) + id % 16 * 4 + k % 4];
        return (float)q * ((const float *)tile)[id % 16] * C::scale;
    }
    const int32_t r = id % 16, i = k % 32;
    const uint8_t *group =
        (const uint8_t *)w + id / 16 * (320 * (int64_t)((K + 31) / 32)) + 320 * (int64_t)(k / 32);
    const uint16_t *head = (const uint16_t *)group;
    const uint8_t b = group[64 + 64 * (i / 8) + 4 * r + i % 4];
    return ((float)(i & 4 ? b >> 4 : b & 15) * pfq_h_to_f(head[r]) + pfq_h_to_f(head[16 + r])) *
           C::scale;
}

template <class C, class W> PFQ_DEVICE void pfq_embed(W &w)
{
    if (!w.owns()) return;
    const int32_t id = min(max(((const int32_t *)w.a.at[PFQ_AT_IDS])[w.own()], 0), C::N - 1);
    PFQ_UNROLL
    for (int32_t i = 0; i < W::quads; i++) {
        PFQ_UNROLL
        for (int32_t j = 0; j < 4; j++) {
            const int32_t k = 4 * (w.tid() + PFQ_WORKERS * i) + j;
            w.x[i][j] =
                k < W::hidden ? pfq_embedding<C, W::hidden>(w.a.at[PFQ_AT_EMBED], id, k) : 0.0f;
        }
    }
}

/* An integer in the order of floats. */
PFQ_DEVICE int32_t pfq_ordered(float x)
{
    const int32_t b = __float_as_int(x);
    return b < 0 ? b ^ 0x7fffffff : b;
}

/* Of all lanes: the largest value, and the least index that has it. */
PFQ_DEVICE void pfq_warp_best(int32_t &value, int32_t &index)
{
    const int32_t top = __reduce_max_sync(~0u, value);
    index = __reduce_min_sync(~0u, value == top ? index : 0x7fffffff);
    value = top;
}

/* The same of all workers, in the first warp. */
template <class W> PFQ_DEVICE void pfq_block_best(W &w, int32_t &value, int32_t &index)
{
    int32_t *part = w.template scratch<int32_t>();
    pfq_warp_best(value, index);
    w.sync();
    if (pfq_lane() == 0) part[pfq_warp()] = value, part[32 + pfq_warp()] = index;
    w.sync();
    if (w.tid() >= 32) return;
    const bool in = w.tid() < PFQ_WORKER_WARPS;
    value = in ? part[w.tid()] : (int32_t)0x80000000;
    index = in ? part[32 + w.tid()] : 0x7fffffff;
    pfq_warp_best(value, index);
}

template <class C, class W> PFQ_DEVICE void pfq_logits(W &w)
{
    const int32_t begin = pfq_share(C::N, (int32_t)blockIdx.x),
                  end = pfq_share(C::N, (int32_t)blockIdx.x + 1);
    constexpr int32_t stride = PfqDeal<C>::panels * 64, planes = C::planes, most = W::most;
    int32_t *sums = w.template place<C>(0), value[most], index[most];
    const float *scale = (const float *)w.column(C::scale);
    PFQ_UNROLL
    for (int32_t r = 0; r < most; r++)
        value[r] = (int32_t)0x80000000, index[r] = 0x7fffffff;
    w.await();
    for (int32_t i = begin + w.tid(); i < end; i += PFQ_WORKERS) {
        int32_t sum[most * planes];
        PFQ_UNROLL
        for (int32_t p = 0; p < most * planes; p++)
            sum[p] = p < w.rows() * planes ? pfq_fresh(sums + p * stride + i) : 0;
        PFQ_UNROLL
        for (int32_t r = 0; r < most; r++) {
            if (r >= w.rows()) continue;
            float v = W::template whole<C>(sum[r * planes], sum[(r + 1) * planes - 1]);
            v *= C::fixed ? scale[i] : scale[i] * w.scale_of(r);
            ((float *)w.a.at[PFQ_AT_LOGITS])[(int64_t)r * C::N + i] = v;
            for (int32_t p = 0; p < planes && !W::keep; p++)
                sums[(r * planes + p) * stride + i] = 0;
            if (pfq_ordered(v) > value[r]) value[r] = pfq_ordered(v), index[r] = i;
        }
    }
    PFQ_UNROLL
    for (int32_t r = 0; r < most; r++) {
        if (r >= w.rows()) continue;
        pfq_block_best(w, value[r], index[r]);
        if (w.tid() == 0) {
            int32_t *best = (int32_t *)w.a.at[PFQ_AT_BEST] + 2 * (r * gridDim.x + blockIdx.x);
            best[0] = value[r], best[1] = index[r];
        }
    }
}

template <class W> PFQ_DEVICE void pfq_choose(W &w)
{
    if (blockIdx.x) return;
    w.await();
    for (int32_t r = 0; r < w.rows(); r++) {
        int32_t value = (int32_t)0x80000000, index = 0x7fffffff;
        for (int32_t i = w.tid(); i < (int32_t)gridDim.x; i += PFQ_WORKERS) {
            const int32_t *best =
                (const int32_t *)w.a.at[PFQ_AT_BEST] + 2 * (r * (int32_t)gridDim.x + i);
            const int32_t v = pfq_fresh(best);
            if (v > value) value = v, index = pfq_fresh(best + 1);
        }
        pfq_block_best(w, value, index);
        if (w.tid() == 0) ((int32_t *)w.a.at[PFQ_AT_TOKEN])[r] = index;
    }
    if (w.tid() == 0)
        ((int32_t *)w.a.at[PFQ_AT_CONTROL])[1] = w.base + w.meetings * (int32_t)gridDim.x;
}

#endif
