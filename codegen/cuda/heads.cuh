/* What happens to one head of q, k or v after its projection: RMSNorm of the head, RoPE, R3, then a
 * row of f32 or s8, or the KV cache (kv.cuh). Shared by the qkv epilogue (linear.cuh) and the
 * unfused kernel (heads.cu). The twin of codegen/cpu/heads.h.
 *
 * A warp does a head, v[c_head_dim] in shared memory, which no other warp touches. Every function
 * but the last two ends with a barrier of the warp, and takes v as the lanes before it left it
 * behind one.
 */
#ifndef PFQC_CODEGEN_CUDA_HEADS_CUH
#define PFQC_CODEGEN_CUDA_HEADS_CUH

#include "kv.cuh"
#include "math.cuh"

PFQ_CONST(int32_t, c_rot);
PFQ_CONST(int32_t, c_qk_norm);
PFQ_CONST(int32_t, c_prefix);
PFQ_CONST(int32_t, c_r3);
PFQ_CONST(int32_t, c_q8);
PFQ_CONST(float, c_eps);
PFQ_CONST(float, c_rope_scale);

/* RMSNorm with gain, in place, if c_qk_norm. */
PFQ_DEVICE void head_norm(float *v, uint64_t gain)
{
    if (!c_qk_norm) return;
    float s = 0.0f;
    for (int32_t d = pfq_lane(); d < c_head_dim; d += 32)
        s = fmaf(v[d], v[d], s);
    const float r = 1.0f / sqrtf(pfq_warp_sum(s) / (float)max(c_head_dim, 1) + c_eps);
    for (int32_t d = pfq_lane(); d < c_head_dim; d += 32)
        v[d] = v[d] * r * ((const float *)gain)[d];
    __syncwarp();
}

/* Where a token's head is turned to: by frequencies and its position, the prefix not counted, or by
 * the token's row of the table that pfq_cu_turns makes, to the same bits. */
struct HeadTurn {
    const float *freq;
    int32_t pos;
    const float2 *table; /* NULL: none */
};

/* Cosine and sine of pair i. */
PFQ_DEVICE float2 head_angle(const HeadTurn &turn, int32_t i)
{
    if (turn.table) return turn.table[i];
    float s, c;
    pfq_sincos((double)turn.freq[i] * (double)(turn.pos + c_prefix), &s, &c);
    return {c * c_rope_scale, s * c_rope_scale};
}

/* Rotates pairs (i, i + c_rot / 2) in place. */
PFQ_DEVICE void head_rope(float *v, const HeadTurn &turn)
{
    const int32_t half = c_rot / 2;
    for (int32_t i = pfq_lane(); i < half; i += 32) {
        const float2 by = head_angle(turn, i);
        const float x = v[i], y = v[half + i];
        v[i] = x * by.x - y * by.y;
        v[half + i] = y * by.x + x * by.y;
    }
    __syncwarp();
}

/* H v, H = S / sqrt(c_head_dim), in place, if c_r3: a power of two. */
PFQ_DEVICE void head_hadamard(float *v)
{
    if (!c_r3) return;
    const float scale = 1.0f / sqrtf((float)c_head_dim);
    for (int32_t d = pfq_lane(); d < c_head_dim; d += 32)
        v[d] *= scale;
    __syncwarp();
    for (int32_t h = 1; h < c_head_dim; h *= 2) {
        for (int32_t i = pfq_lane(); i < c_head_dim / 2; i += 32) {
            const int32_t at = i / h * 2 * h + i % h;
            const float x = v[at], y = v[at + h];
            v[at] = x + y;
            v[at + h] = x - y;
        }
        __syncwarp();
    }
}

/* Norm, RoPE and R3 of a head of q or k. */
PFQ_DEVICE void head_turn(float *v, uint64_t gain, const HeadTurn &turn)
{
    head_norm(v, gain);
    head_rope(v, turn);
    head_hadamard(v);
}

/* Head h of `heads` of token t to rows: f32, or bytes q + 128 of format s8 if c_q8. */
PFQ_DEVICE void head_put(uint64_t rows, int64_t t, int32_t h, int32_t heads, uint64_t scales,
                         const float *v)
{
    if (!c_q8) {
        float *to = (float *)rows + (t * heads + h) * c_head_dim;
        for (int32_t d = pfq_lane(); d < c_head_dim; d += 32)
            to[d] = v[d];
        return;
    }
    const float inv = pfq_inv(((const float *)scales)[h]);
    uint8_t *to = (uint8_t *)rows + t * pfq_up(heads * c_head_dim, 64) + h * c_head_dim;
    for (int32_t d = pfq_lane(); d < c_head_dim; d += 32)
        to[d] = (uint8_t)(pfq_quant(v[d], inv, -c_q8, 127) + 128);
}

#endif
