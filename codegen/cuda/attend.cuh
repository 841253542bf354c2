/* What all attention over a cache asks: the query heads of a kv head, and the keys of a row. */
#ifndef PFQC_CODEGEN_CUDA_ATTEND_CUH
#define PFQC_CODEGEN_CUDA_ATTEND_CUH

#include "kv.cuh"
#include "lanes.cuh"

PFQ_CONST(int32_t, c_heads);
PFQ_CONST(int32_t, c_kv_heads);
PFQ_CONST(int32_t, c_window);

/* The maximum of no scores: below every score; -inf would make NaN of differences. */
#define ATTEND_NONE (-1e30f)

PFQ_DEVICE int32_t group()
{
    return c_heads / max(c_kv_heads, 1);
}
/* The first key that the row at `pos` sees; the prefix is no key of the cache. */
PFQ_DEVICE int32_t first_key(int32_t pos)
{
    return c_window && pos >= c_window ? pos - c_window + 1 : 0;
}
/* Row h of the two that a thread has of its warp's 16, as fragments of mma lay them: its token (<
 * 0: none), head and position, no keys seen yet. S: tokens, t0, kv, pos of the block's; R: what a
 * thread keeps of its rows. */
template <class S, class R> PFQ_DEVICE void attend_row(const S &s, R &r, int32_t h)
{
    const int32_t row = 16 * pfq_warp() + (pfq_lane() >> 2) + 8 * h, t = row / group();
    r.t[h] = t < s.tokens ? s.t0 + t : -1;
    r.head[h] = s.kv * group() + row % group();
    r.pos[h] = s.pos + min(t, s.tokens - 1);
    r.top[h] = ATTEND_NONE;
    r.sum[h] = 0.0f;
}

#endif
