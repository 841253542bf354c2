/* Loops over magnitudes, for what watches values of a run. */
#include "passes/wide.h"

#include <math.h>
#include <string.h>

WIDE float wide_absmax(const float *x, i64 n)
{
    u32 top = 0; /* magnitudes are in the order of their bits, NaN above all */
    for (i64 i = 0; i < n; i++) {
        u32 bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= INT32_MAX;
        top = bits > top ? bits : top;
    }
    float f;
    memcpy(&f, &top, sizeof f);
    return f;
}

WIDE void wide_raise(const float *x, i64 n, float *top)
{
    for (i64 i = 0; i < n; i++) {
        float v = fabsf(x[i]);
        top[i] = v > top[i] ? v : top[i];
    }
}
