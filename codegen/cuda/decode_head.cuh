/* The end of the persistent decode step: logits from the head's sums, the greedy token.
 *
 * logits: a block scales a run of the vocabulary, finds its largest, and zeroes the sums it read.
 * choose: block 0 takes the largest of all, the first of equals, and tells the next step where the
 *         meetings' counter stands.
 */
#ifndef PFQC_CODEGEN_CUDA_DECODE_HEAD_CUH
#define PFQC_CODEGEN_CUDA_DECODE_HEAD_CUH

#include "decode.cuh"

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
    int32_t *sums = w.template place<C>(0), value = (int32_t)0x80000000, index = 0x7fffffff;
    const float *scale = (const float *)w.column(C::scale);
    constexpr int32_t stride = PfqDeal<C>::panels * 64;
    w.await();
    for (int32_t i = begin + w.tid(); i < end; i += PFQ_WORKERS) {
        float v = (float)pfq_fresh(sums + i);
        if (C::planes == 2) v = fmaf(v, 256.0f, (float)pfq_fresh(sums + stride + i));
        v *= C::fixed ? scale[i] : scale[i] * w.dynamic;
        ((float *)w.a.at[PFQ_AT_LOGITS])[i] = v;
        for (int32_t p = 0; p < C::planes && !W::keep; p++)
            sums[p * stride + i] = 0;
        if (pfq_ordered(v) > value) value = pfq_ordered(v), index = i;
    }
    pfq_block_best(w, value, index);
    if (w.tid() == 0) {
        int32_t *best = (int32_t *)w.a.at[PFQ_AT_BEST] + 2 * blockIdx.x;
        best[0] = value, best[1] = index;
    }
}

template <class W> PFQ_DEVICE void pfq_choose(W &w)
{
    if (blockIdx.x) return;
    int32_t value = (int32_t)0x80000000, index = 0x7fffffff;
    w.await();
    for (int32_t i = w.tid(); i < (int32_t)gridDim.x; i += PFQ_WORKERS) {
        const int32_t *best = (const int32_t *)w.a.at[PFQ_AT_BEST] + 2 * i;
        const int32_t v = pfq_fresh(best);
        if (v > value) value = v, index = pfq_fresh(best + 1);
    }
    pfq_block_best(w, value, index);
    if (w.tid() == 0) {
        *(int32_t *)w.a.at[PFQ_AT_TOKEN] = index;
        ((int32_t *)w.a.at[PFQ_AT_CONTROL])[1] = w.base + w.meetings * (int32_t)gridDim.x;
    }
}

#endif
