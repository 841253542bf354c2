/* The toy model's rule (fake_model.c says what it is), for its kernels of both kinds. */
#ifndef PFQC_TESTS_FAKE_RULE_H
#define PFQC_TESTS_FAKE_RULE_H

#include "fake_model.h"

#include <math.h>

/* Launches of the CUDA kernels: tokens of a block, dynamic shared memory of `hash`. */
enum {
    FAKE_ROWS_APPEND = 3,
    FAKE_ROWS_HASH = 1,
    FAKE_ROWS_HEAD = 2,
    FAKE_SHARED = 65536,
    FAKE_BLOCK = 64
};

static inline uint32_t fake_hash_of(const int32_t *lo, const int32_t *hi, int32_t last)
{
    uint32_t h = 7;
    for (int32_t i = 0; i <= last; i++) {
        h = h * 31 + (uint32_t)lo[i] + 1 + (uint32_t)(lo[i] ^ 0x5555 ^ hi[i]);
    }
    return h;
}

static inline float fake_mix(uint32_t h, int32_t v, float bias)
{
    uint32_t x = (h ^ (uint32_t)v * 2654435761u) * 2246822519u;
    return (float)((x ^ x >> 15) & 0xffff) / 8192.0f + bias;
}

static inline int32_t fake_forced(uint32_t last)
{
    switch (last) {
    case 'E': return 0xc3;
    case 0xc3: return 0xa9;
    case 'H': return 0xe2;
    case 0xa9:
    case 0xe2: return FAKE_EOS;
    default: return -1;
    }
}

static inline float fake_logit(uint32_t h, uint32_t last, int32_t v, float bias)
{
    return last == 'N' ? NAN : fake_forced(last) == v ? 100.0f : fake_mix(h, v, bias);
}

#endif
