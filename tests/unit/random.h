/* Pseudorandom choices for tests of random graphs: the same from the same seed. */
#ifndef PFQC_TESTS_RANDOM_H
#define PFQC_TESTS_RANDOM_H

#include "ir/base/arena.h"

typedef struct Random {
    u64 s;
} Random;

static inline u32 below(Random *r, u32 n)
{
    r->s = r->s * 6364136223846793005u + 1442695040888963407u;
    return (u32)((r->s >> 33) % n);
}

#endif
