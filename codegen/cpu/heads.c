/* heads: the qkv epilogue's work on its own, for projections that are not fused: RMSNorm of each
 * head (if c_qk_norm), RoPE (if c_rot), to f32 rows or to a KV cache.
 *
 *   in[0]   x [T, c_heads * c_head_dim] f32
 *   aux[1]  inverse frequencies [c_rot / 2] f32 (pairs (i, i + c_rot / 2), angle
 *           (pos + t + c_prefix) * aux[1][i])
 *   aux[2]  gain [c_head_dim] f32 if c_qk_norm
 *   out[0]  c_cache = 0: y [T, c_heads * c_head_dim] f32, may be in[0]
 *           c_cache = 1: cache [c_heads][ctx][c_head_dim], f32 or (c_kv_f16) f16, rows pos + t
 *   scratch 8 * (c_rot / 2 rounded up to 16) + 4 * c_head_dim bytes
 *
 * Tokens are divided over threads.
 */
#include "heads.h"

PFQ_CONST(int32_t, c_heads);
PFQ_CONST(int32_t, c_cache);

void pfq_heads(const PfqArgs *a, int tid, int nt)
{
    int64_t b, e;
    pfq_split(a->T, tid, nt, &b, &e);
    float *table = a->scratch, *v = table + 2 * rope_half();
    for (int64_t t = b; t < e; t++) {
        if (c_rot) rope_table(table, a->aux[1], a->pos + (int32_t)t, 1);
        for (int32_t h = 0; h < c_heads; h++) {
            int64_t at = (t * c_heads + h) * c_head_dim;
            head_copy(v, (const float *)a->in[0] + at);
            head_norm(v, a->aux[2]);
            head_rope(v, table);
            if (c_cache)
                head_to_cache(a->out[0], (int64_t)h * a->ctx + a->pos + t, v);
            else
                head_copy((float *)a->out[0] + at, v);
        }
    }
}
