/* Element-wise kernels for what no fused step covers: the twin of codegen/cpu/elem.c, which states
 * the slots.
 *
 *   add, mul, act, glu, scale, mul_row, add_row     out[0] [T, c_K] f32; may be an operand
 *   rows                                            out[0][t] = in[0][in[1][t]]
 *
 * A thread per element, blockIdx.x over columns, blockIdx.y over tokens. Roofline: bound by memory,
 * 4 bytes per operand and result; a row of decoding (some KB) takes no longer than the launch.
 */
#include "math.cuh"

PFQ_CONST(int32_t, c_K);
PFQ_CONST(int32_t, c_act);
PFQ_CONST(int32_t, c_rows);
PFQ_CONST(float, c_scale);

PFQ_DEVICE float x_of(const PfqCudaArgs &a)
{
    return ((const float *)a.in[0])[(int64_t)blockIdx.y * c_K + pfq_column()];
}

PFQ_DEVICE float y_of(const PfqCudaArgs &a)
{
    return ((const float *)a.in[1])[(int64_t)blockIdx.y * c_K + pfq_column()];
}

PFQ_DEVICE float row_of(const PfqCudaArgs &a)
{
    return ((const float *)a.aux[0])[pfq_column()];
}

PFQ_DEVICE void put(const PfqCudaArgs &a, float v)
{
    ((float *)a.out[0])[(int64_t)blockIdx.y * c_K + pfq_column()] = v;
}

PFQ_KERNEL(pfq_cu_add, 256)
{
    if (pfq_column() < c_K) put(a, x_of(a) + y_of(a));
}

PFQ_KERNEL(pfq_cu_mul, 256)
{
    if (pfq_column() < c_K) put(a, x_of(a) * y_of(a));
}

PFQ_KERNEL(pfq_cu_act, 256)
{
    if (pfq_column() < c_K) put(a, pfq_act(c_act, x_of(a)));
}

PFQ_KERNEL(pfq_cu_glu, 256)
{
    if (pfq_column() < c_K) put(a, pfq_act(c_act, x_of(a)) * y_of(a));
}

PFQ_KERNEL(pfq_cu_scale, 256)
{
    if (pfq_column() < c_K) put(a, x_of(a) * c_scale);
}

PFQ_KERNEL(pfq_cu_mul_row, 256)
{
    if (pfq_column() < c_K) put(a, x_of(a) * row_of(a));
}

PFQ_KERNEL(pfq_cu_add_row, 256)
{
    if (pfq_column() < c_K) put(a, x_of(a) + row_of(a));
}

PFQ_KERNEL(pfq_cu_rows, 256)
{
    if (pfq_column() >= c_K) return;
    const int32_t r = min(max(((const int32_t *)a.in[1])[blockIdx.y], 0), c_rows - 1);
    put(a, ((const float *)a.in[0])[(int64_t)r * c_K + pfq_column()]);
}
