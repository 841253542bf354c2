/* linear.u4g32: 4-bit weights in groups, activations s16g32: linear_u4g32.cuh. */
#include "linear_u4g32.cuh"

PFQ_KERNEL(pfq_cu_linear_u4g32, 256)
{
    lin_run(a);
}
