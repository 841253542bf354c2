/* linear.s4: 4-bit weights with one scale per row, activations s8 or s16. Contract, launch and
 * roofline: linear.cuh; computation: linear_int.cuh.
 */
#define LIN_NIBBLES 1
#include "linear_int.cuh"

PFQ_KERNEL(pfq_cu_linear_s4, 256)
{
    lin_run(a);
}
