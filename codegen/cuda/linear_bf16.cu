/* linear.bf16: bf16 weights, f32 activations, which are not rounded here: linear_bf16.cuh. */
#include "linear_bf16.cuh"

PFQ_KERNEL(pfq_cu_linear_bf16, 256)
{
    lin_run(a);
}
