/* Functions of one f32, by the same approximations as codegen/cpu/kernel.h.
 */
#ifndef PFQC_CODEGEN_CUDA_MATH_CUH
#define PFQC_CODEGEN_CUDA_MATH_CUH

#include "kernel.cuh"

/* exp(x): relative error below 2^-22; 0 below -87.3, exp(88) above 88. */
PFQ_DEVICE float pfq_exp(float x)
{
    const float c = fminf(fmaxf(x, -87.3f), 88.0f);
    const float n = rintf(c * 1.44269504f);
    float r = fmaf(n, -0.693359375f, c);
    r = fmaf(n, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    p = fmaf(p, r * r, r) + 1.0f;
    return x < -87.3f ? 0.0f
                      : __int_as_float(__float_as_int(p) + (int32_t)((uint32_t)(int32_t)n << 23));
}

PFQ_DEVICE float pfq_silu(float x)
{
    return x / (1.0f + pfq_exp(-x));
}

PFQ_DEVICE float pfq_gelu_tanh(float x)
{
    const float u = 1.5957691216f * fmaf(0.044715f * x * x, x, x);
    return x / (1.0f + pfq_exp(-u));
}

/* erf by Abramowitz and Stegun 7.1.26. */
PFQ_DEVICE float pfq_gelu(float x)
{
    const float z = fabsf(x) * 0.70710678f, t = 1.0f / fmaf(0.3275911f, z, 1.0f);
    float p = 1.061405429f;
    p = fmaf(p, t, -1.453152027f);
    p = fmaf(p, t, 1.421413741f);
    p = fmaf(p, t, -0.284496736f);
    p = fmaf(p, t, 0.254829592f);
    const float e = 1.0f - p * t * pfq_exp(-z * z);
    return 0.5f * x * (1.0f + (x < 0.0f ? -e : e));
}

/* sin and cos of |x| < 2^30, absolute error below 2e-7. The angle is reduced in f64, which large
 * positions need; the polynomials are f32, because most chips have few units of f64. */
PFQ_DEVICE void pfq_sincos(double x, float *sin_out, float *cos_out)
{
    const double n = rint(x * 0.63661977236758134308);
    const float r = (float)fma(n, -6.1232339957367658e-17, fma(n, -1.5707963267948965580, x));
    const float z = r * r;
    float s = fmaf(z, 1.0f / 362880, -1.0f / 5040);
    s = fmaf(s, z, 1.0f / 120);
    s = fmaf(s, z, -1.0f / 6);
    s = fmaf(s * z, r, r);
    float c = fmaf(z, -1.0f / 3628800, 1.0f / 40320);
    c = fmaf(c, z, -1.0f / 720);
    c = fmaf(c, z, 1.0f / 24);
    c = fmaf(c, z, -0.5f);
    c = fmaf(c, z, 1.0f);
    const int32_t q = (int32_t)n;
    const float a = q & 1 ? c : s, b = q & 1 ? s : c;
    *sin_out = q & 2 ? -a : a;
    *cos_out = (q + 1) & 2 ? -b : b;
}

/* act is c_act. */
PFQ_DEVICE float pfq_act(int32_t act, float x)
{
    if (act == PFQ_ACT_GELU_TANH) return pfq_gelu_tanh(x);
    return act == PFQ_ACT_GELU ? pfq_gelu(x) : pfq_silu(x);
}

#endif
