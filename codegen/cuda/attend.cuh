/* What all attention over a cache asks: the query heads of a kv head, and the keys of a row. */
#ifndef PFQC_CODEGEN_CUDA_ATTEND_CUH
#define PFQC_CODEGEN_CUDA_ATTEND_CUH

#include "kv.cuh"

PFQ_CONST(int32_t, c_heads);
PFQ_CONST(int32_t, c_kv_heads);
PFQ_CONST(int32_t, c_window);

PFQ_DEVICE int32_t group()
{
    return c_heads / max(c_kv_heads, 1);
}
/* The first key that the row at `pos` sees; the prefix is no key of the cache. */
PFQ_DEVICE int32_t first_key(int32_t pos)
{
    return c_window && pos >= c_window ? pos - c_window + 1 : 0;
}

#endif
