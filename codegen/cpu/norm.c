/* norm: RMSNorm of rows, y = x / sqrt(mean(x^2) + eps) * gain, as f32 or quantised in the same
 * pass. quant: the same without the norm.
 *
 *   in[0]   x [T, c_K] f32
 *   aux[0]  gain [c_K] f32 if c_gain (norm only)
 *   out[0]  c_fmt f32: y [T, c_K] f32 (may be in[0]); otherwise integers of format c_fmt
 *   out[1]  scales of format c_fmt; unused if c_static
 *   aux[1]  the scale, one f32, if c_static (format s8)
 *   scratch 4 * c_K bytes (norm with c_fmt != f32)
 *
 * Rows are divided over threads. For T = 1 it is cheaper to call it as (0, 1) on every thread with
 * private outputs than to pay a barrier. Roofline: one read of x, one write; 576 columns take about
 * 0.2 us.
 */
#include "quantise.h"

PFQ_CONST(int32_t, c_K);
PFQ_CONST(int32_t, c_fmt);
PFQ_CONST(int32_t, c_gain);
PFQ_CONST(int32_t, c_static);
PFQ_CONST(float, c_eps);

PFQ_INLINE float row_rms_inv(const float *x, int32_t K)
{
    F s0 = f_set(0.0f), s1 = s0;
    int32_t k = 0;
    for (; k + 32 <= K; k += 32) {
        F a = f_load(x + k), b = f_load(x + k + 16);
        s0 = f_fma(a, a, s0);
        s1 = f_fma(b, b, s1);
    }
    for (; k < K; k += 16) {
        F a = f_load_n(x + k, K - k);
        s0 = f_fma(a, a, s0);
    }
    return 1.0f / __builtin_sqrtf(f_hsum(s0 + s1) / (float)K + c_eps);
}

PFQ_INLINE void norm_row(const float *x, const float *gain, int32_t K, float *y)
{
    F r = f_set(row_rms_inv(x, K));
    for (int32_t k = 0; k < K; k += 16) {
        F v = f_load_n(x + k, K - k) * r;
        if (c_gain) v *= f_load_n(gain + k, K - k);
        f_store_n(y + k, v, K - k);
    }
}

/* With a constant scale the row need not be kept: it is quantised as it is made. */
PFQ_INLINE void norm_row_static(const float *x, const float *gain, int32_t K, uint8_t *ints,
                                float scale)
{
    const F r = f_set(row_rms_inv(x, K));
    const float inv = quant_inv(scale);
    for (int32_t k = 0; k < K; k += 16) {
        F v = f_load_n(x + k, K - k) * r;
        if (c_gain) v *= f_load_n(gain + k, K - k);
        quant_put(ints + k, v, inv);
    }
}

void pfq_norm(const PfqArgs *a, int tid, int nt)
{
    int64_t b, e;
    pfq_split(a->T, tid, nt, &b, &e);
    const float *x = a->in[0], *gain = a->aux[0];
    for (int64_t t = b; t < e; t++) {
        if (c_fmt == PFQ_FMT_F32) {
            norm_row(x + t * c_K, gain, c_K, (float *)a->out[0] + t * c_K);
            continue;
        }
        uint8_t *ints = (uint8_t *)a->out[0] + t * quant_stride(c_fmt, c_K);
        if (c_static) {
            norm_row_static(x + t * c_K, gain, c_K, ints, *(const float *)a->aux[1]);
            continue;
        }
        float *y = a->scratch;
        norm_row(x + t * c_K, gain, c_K, y);
        quant_row(c_fmt, y, c_K, ints, (float *)a->out[1] + t * quant_scales(c_fmt, c_K));
    }
}

void pfq_quant(const PfqArgs *a, int tid, int nt)
{
    int64_t b, e;
    pfq_split(a->T, tid, nt, &b, &e);
    const float *x = a->in[0];
    for (int64_t t = b; t < e; t++) {
        uint8_t *ints = (uint8_t *)a->out[0] + t * quant_stride(c_fmt, c_K);
        if (c_static)
            quant_row_static(x + t * c_K, c_K, ints, *(const float *)a->aux[1]);
        else
            quant_row(c_fmt, x + t * c_K, c_K, ints,
                      (float *)a->out[1] + t * quant_scales(c_fmt, c_K));
    }
}
