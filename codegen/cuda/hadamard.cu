/* hadamard: blocks of c_N elements times B (x) S, to f32 or quantised to s8 in the same pass: the
 * twin of codegen/cpu/hadamard.c, which states the slots and constants.
 *
 * A block of threads per row, which it keeps in shared memory: 4 * c_K bytes. The stages of S below
 * 32 are shuffles, the others sums and differences in shared memory with a barrier each. The
 * product with B is out of place, straight to the output; dynamic quantisation makes it twice,
 * first for the largest, which takes less memory than to keep it. Bound by arithmetic on one
 * multiprocessor per row: c_K * (log2(m) + c_base) operations, m = c_N / c_base.
 */
#include "quantise.cuh"

PFQ_CONST(int32_t, c_K);
PFQ_CONST(int32_t, c_N);
PFQ_CONST(int32_t, c_base);
PFQ_CONST(int32_t, c_fmt);
PFQ_CONST(int32_t, c_static);
PFQ_CONST(float, c_scale);

/* x[0..c_K) = the row times c_scale, after the stages of S that lie within 32 elements. */
PFQ_DEVICE void load_row(const float *in, float *x)
{
    const int32_t m = c_N / c_base;
    for (int32_t k = (int32_t)threadIdx.x; k < pfq_up(c_K, 32); k += (int32_t)blockDim.x) {
        float v = k < c_K ? in[k] * c_scale : 0.0f;
        for (int32_t h = 1; h < min(m, 32); h *= 2) {
            const float o = __shfl_xor_sync(~0u, v, h);
            v = k & h ? o - v : v + o;
        }
        if (k < c_K) x[k] = v;
    }
    __syncthreads();
}

/* The other stages, each on all of the row. */
PFQ_DEVICE void sylvester(float *x)
{
    for (int32_t h = 32; h < c_N / c_base; h *= 2) {
        for (int32_t p = (int32_t)threadIdx.x; p < c_K / 2; p += (int32_t)blockDim.x) {
            const int32_t i = p / h * 2 * h + p % h;
            const float u = x[i], v = x[i + h];
            x[i] = u + v;
            x[i + h] = u - v;
        }
        __syncthreads();
    }
}

/* Element k of the result: a row of B times a column of x [c_base, m]. */
PFQ_DEVICE float result(const float *b, const float *x, int32_t k)
{
    if (c_base == 1) return x[k];
    const int32_t m = c_N / c_base, i = k % c_N / m;
    const float *row = b + (int64_t)(i / 16) * 16 * c_base + i % 16;
    x += k - i * m;
    float s = 0.0f;
    for (int32_t j = 0; j < c_base; j++)
        s = fmaf(row[16 * j], x[j * m], s);
    return s;
}

PFQ_DEVICE float largest(const float *b, const float *x)
{
    float m = 0.0f;
    for (int32_t k = (int32_t)threadIdx.x; k < c_K; k += (int32_t)blockDim.x)
        m = fmaxf(m, fabsf(result(b, x, k)));
    return pfq_block_max(m);
}

PFQ_KERNEL(pfq_cu_hadamard, 512)
{
    const int64_t t = blockIdx.y;
    const float *b = (const float *)a.w;
    float *x = (float *)pfq_shared;
    load_row((const float *)a.in[0] + t * c_K, x);
    sylvester(x);
    if (c_fmt != PFQ_FMT_S8) {
        float *out = (float *)a.out[0] + t * c_K;
        for (int32_t k = (int32_t)threadIdx.x; k < c_K; k += (int32_t)blockDim.x)
            out[k] = result(b, x, k);
        return;
    }
    const float inv = c_static ? pfq_inv(*(const float *)a.aux[1])
                               : pfq_quant_dynamic(largest(b, x), (float *)a.out[1] + t);
    for (int32_t k = (int32_t)threadIdx.x; k < c_K; k += (int32_t)blockDim.x)
        pfq_quant_put(a.out[0], t, c_K, k, result(b, x, k), inv);
    pfq_quant_pad(a.out[0], t, c_K);
}
