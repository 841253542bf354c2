/* Facts of the toy model shared by its program, its weight image and the tests. */
#ifndef PFQC_TESTS_FAKE_MODEL_H
#define PFQC_TESTS_FAKE_MODEL_H

#include "runtime/abi.h"

enum {
    FAKE_VOCAB = 320,
#ifdef FAKE_CONTEXT_TOKENS
    FAKE_CONTEXT = FAKE_CONTEXT_TOKENS,
#else
    FAKE_CONTEXT = 64,
#endif
    FAKE_SCRATCH = 100,
    FAKE_BOS = 256,
    FAKE_EOS = 257,
    FAKE_SPECIAL = 258
};

#define FAKE_IMAGE_ID {0xfa, 0x4e}

static inline float fake_bias(int32_t v)
{
    return (float)(37 * v % 128) / 128.0f;
}

#endif
