/* heads: the qkv epilogue's work on its own, for projections that are not fused: RMSNorm of each
 * head (if c_qk_norm), RoPE (if c_rot), R3 (if c_r3), to rows or to a KV cache.
 *
 *   in[0]   x [T, c_heads * c_head_dim] f32
 *   aux[1]  inverse frequencies [c_rot / 2] f32 (pairs (i, i + c_rot / 2), angle
 *           (pos + t + c_prefix) * aux[1][i])
 *   aux[2]  gain [c_head_dim] f32 if c_qk_norm
 *   aux[3]  scales [c_heads] f32 if c_q8, or if the cache is quantised and c_kv_static
 *   out[0]  c_cache = 0: y [T, c_heads * c_head_dim] f32, may be in[0]; c_q8: format s8, clamped to
 *           -c_q8..127
 *           c_cache = 1: cache [c_heads][ctx][c_head_dim] in the format c_kv (kv.h), rows pos + t
 *   out[1], out[2] scales and minima [c_heads][ctx] f16, rows pos + t, of a quantised cache that is
 *           not c_kv_static
 *   scratch 8 * (c_rot / 2 rounded up to 16) + 4 * c_head_dim bytes
 *
 * Tokens are divided over threads.
 */
#include "heads.h"

PFQ_CONST(int32_t, c_heads);
PFQ_CONST(int32_t, c_cache);

/* Head h of token t from v to its place. */
PFQ_INLINE void put_head(const PfqArgs *a, int64_t t, int32_t h, const float *v)
{
    const float *scales = a->aux[3];
    if (c_cache) {
        KvOut o = kv_out(a, t, a->out[0], a->out[1], a->out[2]);
        if (kv_ints() && c_kv_static) o.scale = scales[h];
        kv_put(&o, (int64_t)h * a->ctx + pfq_pos(a, t), v);
    } else if (c_q8) {
        const int64_t stride = quant_stride(PFQ_FMT_S8, c_heads * c_head_dim);
        head_quant((uint8_t *)a->out[0] + t * stride + h * c_head_dim, v, scales[h]);
    } else {
        head_copy((float *)a->out[0] + (t * c_heads + h) * c_head_dim, v);
    }
}

void pfq_heads(const PfqArgs *a, int tid, int nt)
{
    int64_t b, e;
    pfq_split(a->T, tid, nt, &b, &e);
    float *table = a->scratch, *v = table + 2 * rope_half();
    for (int64_t t = b; t < e; t++) {
        if (c_rot) rope_table(table, a->aux[1], pfq_pos(a, t));
        for (int32_t h = 0; h < c_heads; h++) {
            head_copy(v, (const float *)a->in[0] + (t * c_heads + h) * c_head_dim);
            head_norm(v, a->aux[2]);
            head_rope(v, table);
            head_hadamard(v);
            put_head(a, t, h, v);
        }
    }
}
