/* linear.s4: 4-bit weights -8..7 with one scale per row, activations s8 (also those of 4 bits, one
 * to a byte) or s16. Contract: linear.h; computation: linear_int.h. */
#define NIBBLES 1
#include "linear_int.h"

void pfq_linear_s4(const PfqArgs *a, int tid, int nt)
{
    lin_int_run(a, tid, nt);
}
