/* linear.s8: 8-bit weights with one scale per row, activations s8 or s16. Contract: linear.h;
 * computation: linear_int.h. */
#define NIBBLES 0
#include "linear_int.h"

void pfq_linear_s8(const PfqArgs *a, int tid, int nt)
{
    lin_int_run(a, tid, nt);
}
