/* heads: the qkv epilogue's work on its own, for projections that are not fused: RMSNorm of each
 * head (if c_qk_norm), RoPE (if c_rot), R3 (if c_r3), to rows or to a KV cache. The twin of
 * codegen/cpu/heads.c, which states the slots.
 *
 * Launch: a warp per head and token, 8 heads a block. Roofline: bound by memory (4 bytes read, up
 * to 4 written per column); with a sine and cosine per pair and token, chips with few f64 units are
 * bound by those five f64 operations a pair.
 */
#include "heads.cuh"

PFQ_CONST(int32_t, c_heads);
PFQ_CONST(int32_t, c_cache);

/* Head h of token t from v to its place. */
PFQ_DEVICE void put_head(const PfqCudaArgs &a, int32_t t, PfqRow row, int32_t h, const float *v)
{
    if (!c_cache) {
        head_put(a.out[0], t, h, c_heads, a.aux[3], v);
        return;
    }
    const bool fixed = kv_ints() && c_kv_static;
    const KvOut o = {pfq_slot(a, a.out[0], row), pfq_slot(a, a.out[1], row),
                     pfq_slot(a, a.out[2], row), fixed ? ((const float *)a.aux[3])[h] : 0.0f};
    kv_put(o, (int64_t)h * a.ctx + row.pos, v);
}

PFQ_KERNEL(pfq_cu_heads, 256)
{
    const int32_t h = (int32_t)blockIdx.x * 8 + pfq_warp(), t = (int32_t)blockIdx.y;
    float *v = (float *)pfq_shared + pfq_warp() * c_head_dim;
    if (h >= c_heads) return;
    const float *x = (const float *)a.in[0] + ((int64_t)t * c_heads + h) * c_head_dim;
    for (int32_t d = pfq_lane(); d < c_head_dim; d += 32)
        v[d] = x[d];
    __syncwarp();
    const PfqRow row = pfq_row(a, t);
    head_turn(v, a.aux[2], {(const float *)a.aux[1], row.pos, nullptr});
    put_head(a, t, row, h, v);
}
