/* Rearrangements between vectors of 16 lanes: sums of lanes, transposing blocks.
 */
#ifndef PFQC_CODEGEN_CPU_LANES_H
#define PFQC_CODEGEN_CPU_LANES_H

#include "kernel.h"

/* Folding: sums of lanes of two vectors side by side, until a lane is a whole sum. */
PFQ_INLINE F fold8(F a, F b)
{
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30,
                                   31);
}
PFQ_INLINE F fold4(F a, F b)
{
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30,
                                   31);
}
PFQ_INLINE F fold2(F a, F b)
{
    return __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
           __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30,
                                   31);
}
PFQ_INLINE F fold1(F a, F b)
{
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28,
                                   30) +
           __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

/* Rounds of a transposition of n vectors: round b exchanges bit b of a lane's number with bit b of
 * its vector's. */
PFQ_INLINE void exchange1(F *v, int32_t n)
{
    PFQ_UNROLL for (int32_t i = 0; i < n; i += 2)
    {
        F a = v[i], b = v[i + 1];
        v[i] = __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14,
                                       30);
        v[i + 1] = __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29,
                                           15, 31);
    }
}
PFQ_INLINE void exchange2(F *v, int32_t n)
{
    PFQ_UNROLL for (int32_t j = 0; j < n / 2; j++)
    {
        int32_t i = j / 2 * 4 + j % 2;
        F a = v[i], b = v[i + 2];
        v[i] =
            __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
        v[i + 2] = __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15,
                                           30, 31);
    }
}
PFQ_INLINE void exchange4(F *v, int32_t n)
{
    PFQ_UNROLL for (int32_t j = 0; j < n / 2; j++)
    {
        int32_t i = j / 4 * 8 + j % 4;
        F a = v[i], b = v[i + 4];
        v[i] =
            __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
        v[i + 4] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29,
                                           30, 31);
    }
}
PFQ_INLINE void exchange8(F *v, int32_t n)
{
    PFQ_UNROLL for (int32_t i = 0; i < n / 2; i++)
    {
        F a = v[i], b = v[i + 8];
        v[i] =
            __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
        v[i + 8] = __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28,
                                           29, 30, 31);
    }
}

/* 16 x 16, in place. */
PFQ_INLINE void transpose16(F v[16])
{
    exchange1(v, 16);
    exchange2(v, 16);
    exchange4(v, 16);
    exchange8(v, 16);
}

/* 16 rows of 8: v[i] is rows i and i + 8 side by side before, column i of all rows after. */
PFQ_INLINE void transpose8(F v[8])
{
    exchange1(v, 8);
    exchange2(v, 8);
    exchange4(v, 8);
}

#endif
