/* Rows of a KV cache in every format of c_kv: four columns of one, writing one. The twin of
 * codegen/cpu/kv.h.
 *
 * A cache is [kv heads][ctx][c_head_dim]; rows of s8 and u8 are bytes, of s4 and u4 half bytes,
 * element 2i in the low nibble. What an integer u of a quantised cache stands for is u * scale +
 * minimum, of its head (c_kv_static) or of its token and head; only u8 and u4 have minima.
 *
 * Nothing is read or written past the end of a row. c_head_dim is even.
 */
#ifndef PFQC_CODEGEN_CUDA_KV_CUH
#define PFQC_CODEGEN_CUDA_KV_CUH

#include "intrin.cuh"
#include "lanes.cuh"

PFQ_CONST(int32_t, c_head_dim);
PFQ_CONST(int32_t, c_kv);
PFQ_CONST(int32_t, c_kv_static);
PFQ_CONST(int32_t, c_kv_lo);
PFQ_CONST(float, c_kv_top);
PFQ_CONST(float, c_kv_clip);

PFQ_DEVICE bool kv_ints()
{
    return c_kv >= PFQ_KV_S8;
}
PFQ_DEVICE bool kv_nibbles()
{
    return c_kv == PFQ_KV_S4 || c_kv == PFQ_KV_U4;
}
PFQ_DEVICE bool kv_unsigned()
{
    return c_kv >= PFQ_KV_U8;
}
/* Quantised with a scale, and with a minimum, per token and head. */
PFQ_DEVICE bool kv_scales()
{
    return kv_ints() && !c_kv_static;
}
PFQ_DEVICE bool kv_minima()
{
    return kv_scales() && kv_unsigned();
}

PFQ_DEVICE int64_t kv_row()
{
    if (kv_ints()) return kv_nibbles() ? c_head_dim / 2 : c_head_dim;
    return (int64_t)c_head_dim * (c_kv == PFQ_KV_F16 ? 2 : 4);
}

/* ---- reading ---- */

/* Column d of a row of integers. */
PFQ_DEVICE int32_t kv_int(const uint8_t *row, int32_t d)
{
    if (kv_nibbles()) {
        const int32_t n = row[d / 2] >> (d & 1) * 4 & 15;
        return kv_unsigned() ? n : (n ^ 8) - 8;
    }
    return kv_unsigned() ? row[d] : (int8_t)row[d];
}

/* Column d of any row, of integers the integer. */
PFQ_DEVICE float kv_float(const uint8_t *row, int32_t d)
{
    if (c_kv == PFQ_KV_F32) return ((const float *)row)[d];
    if (c_kv == PFQ_KV_F16) return pfq_h_to_f(((const uint16_t *)row)[d]);
    return (float)kv_int(row, d);
}

/* Columns d .. d + 3 of a row of integers as bytes, those past c_head_dim 0; d is a multiple of 4.
 */
PFQ_DEVICE uint32_t kv_bytes(const uint8_t *row, int32_t d)
{
    if (c_head_dim % 4) {
        uint32_t v = 0;
        for (int32_t i = 0; i < 4 && d + i < c_head_dim; i++)
            v |= (uint32_t)(uint8_t)kv_int(row, d + i) << 8 * i;
        return v;
    }
    if (!kv_nibbles()) return *(const uint32_t *)(row + d);
    uint32_t v = *(const uint16_t *)(row + d / 2);
    v = (v | v << 8) & 0x00ff00ff;
    v = (v | v << 4) & 0x0f0f0f0f;
    if (kv_unsigned()) return v;
    return v | (v & 0x08080808) * 30; /* bit 3 to bits 4 .. 7 */
}

/* Columns d .. d + 3 of any row, of integers the integers; those past c_head_dim are 0. */
PFQ_DEVICE void kv_four(const uint8_t *row, int32_t d, float x[4])
{
    const uint32_t bytes = kv_ints() ? kv_bytes(row, d) : 0;
    PFQ_UNROLL
    for (int32_t i = 0; i < 4; i++) {
        const uint8_t b = (uint8_t)(bytes >> 8 * i);
        if (kv_ints())
            x[i] = kv_unsigned() ? (float)b : (float)(int8_t)b;
        else
            x[i] = d + i < c_head_dim ? kv_float(row, d + i) : 0.0f;
    }
}

/* ---- writing: by a whole warp, of v[c_head_dim] in shared memory ---- */

/* Where a key or value of one token and head goes. */
struct KvOut {
    uint64_t cache;
    uint64_t scales, minima; /* [kv heads][ctx] f16, dynamic */
    float scale;             /* static */
};

PFQ_DEVICE int32_t kv_round(float x, float inv, float minimum)
{
    const int32_t hi = kv_unsigned() ? (kv_nibbles() ? 15 : 255) : (kv_nibbles() ? 7 : 127);
    return pfq_quant(kv_minima() ? x - minimum : x, inv, kv_unsigned() ? 0 : c_kv_lo, hi);
}

PFQ_DEVICE void kv_put_ints(uint8_t *row, const float *v, float inv, float minimum)
{
    if (!kv_nibbles()) {
        for (int32_t d = pfq_lane(); d < c_head_dim; d += 32)
            row[d] = (uint8_t)kv_round(v[d], inv, minimum);
        return;
    }
    for (int32_t i = pfq_lane(); i < c_head_dim / 2; i += 32) {
        const int32_t lo = kv_round(v[2 * i], inv, minimum),
                      hi = kv_round(v[2 * i + 1], inv, minimum);
        row[i] = (uint8_t)((lo & 15) | hi << 4);
    }
}

/* Greatest of sign * v[c_head_dim]; of |v| if sign is 0. */
PFQ_DEVICE float kv_most(const float *v, float sign)
{
    float m = -3e38f;
    for (int32_t d = pfq_lane(); d < c_head_dim; d += 32)
        m = fmaxf(m, sign == 0.0f ? fabsf(v[d]) : sign * v[d]);
    return pfq_warp_max(m);
}

/* v to row `row` of a cache, counted over all heads. */
PFQ_DEVICE void kv_put(const KvOut &o, int64_t row, const float *v)
{
    uint8_t *to = (uint8_t *)o.cache + row * kv_row();
    if (!kv_ints()) {
        for (int32_t d = pfq_lane(); d < c_head_dim; d += 32)
            if (c_kv == PFQ_KV_F16)
                ((uint16_t *)to)[d] = pfq_f_to_h(v[d]);
            else
                ((float *)to)[d] = v[d];
        return;
    }
    float inv = pfq_inv(o.scale), minimum = 0.0f;
    if (kv_minima()) {
        const float lo = -kv_most(v, -1.0f), hi = kv_most(v, 1.0f);
        const uint16_t s = pfq_f_to_h((hi - lo) * c_kv_clip / c_kv_top);
        const uint16_t scale = s ? s : 0x3c00, m = pfq_f_to_h(lo * c_kv_clip);
        if (pfq_lane() == 0) {
            ((uint16_t *)o.scales)[row] = scale;
            ((uint16_t *)o.minima)[row] = m;
        }
        inv = 1.0f / pfq_h_to_f(scale);
        minimum = pfq_h_to_f(m);
    } else if (kv_scales()) {
        const float m = kv_most(v, 0.0f) * c_kv_clip;
        if (pfq_lane() == 0) ((uint16_t *)o.scales)[row] = pfq_f_to_h(m / c_kv_top);
        inv = m > 0.0f ? c_kv_top / m : 0.0f;
    }
    kv_put_ints(to, v, inv, minimum);
}

#endif
