/* norm: RMSNorm of rows, as f32 or quantised in the same pass; quant: the same without the norm.
 * The twins of codegen/cpu/norm.c, which states the slots and constants.
 *
 * A block per row, which it keeps in shared memory: 4 * c_K bytes. Roofline: one read of x, one
 * write; a row of decoding is latency alone, two barriers for the sum and two for the largest.
 */
#include "quantise.cuh"

PFQ_CONST(int32_t, c_K);
PFQ_CONST(int32_t, c_fmt);
PFQ_CONST(int32_t, c_gain);
PFQ_CONST(int32_t, c_static);
PFQ_CONST(float, c_eps);

/* The block's row, y in shared memory, to the outputs. */
PFQ_DEVICE void finish(const PfqCudaArgs &a, const float *y)
{
    const int64_t t = blockIdx.y;
    if (c_fmt == PFQ_FMT_F32) {
        for (int32_t k = (int32_t)threadIdx.x; k < c_K; k += (int32_t)blockDim.x)
            pfq_float_put(a.out[0], c_tiles, t, c_K, k, y[k]);
        pfq_quant_pad(a.out[0], t, 2 * c_K);
        return;
    }
    if (c_static)
        pfq_quant_bytes(y, c_K, a.out[0], t, pfq_inv(*(const float *)a.aux[1]));
    else
        pfq_quant_row(c_fmt, y, c_K, a.out[0], t, (float *)a.out[1]);
}

PFQ_KERNEL(pfq_cu_norm, 256)
{
    const float *x = (const float *)a.in[0] + (int64_t)blockIdx.y * c_K,
                *gain = (const float *)a.aux[0];
    float *y = (float *)pfq_shared, s = 0.0f;
    for (int32_t k = (int32_t)threadIdx.x; k < c_K; k += (int32_t)blockDim.x) {
        const float v = x[k];
        y[k] = v;
        s = fmaf(v, v, s);
    }
    const float r = 1.0f / sqrtf(pfq_block_sum(s) / (float)c_K + c_eps);
    for (int32_t k = (int32_t)threadIdx.x; k < c_K; k += (int32_t)blockDim.x)
        y[k] = c_gain ? y[k] * r * gain[k] : y[k] * r;
    finish(a, y);
}

PFQ_KERNEL(pfq_cu_quant, 256)
{
    const float *x = (const float *)a.in[0] + (int64_t)blockIdx.y * c_K;
    float *y = (float *)pfq_shared;
    for (int32_t k = (int32_t)threadIdx.x; k < c_K; k += (int32_t)blockDim.x)
        y[k] = x[k];
    finish(a, y);
}
