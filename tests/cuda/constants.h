/* The templates' constants (tests/kernels/constants.c), set by name. */
#ifndef PFQC_TESTS_CUDA_CONSTANTS_H
#define PFQC_TESTS_CUDA_CONSTANTS_H

#include "runtime/abi.h"

#include <string.h>

#define CONSTANT(name, type, def, doc)      extern type c_##name;
#define CUDA_CONSTANT(name, type, def, doc) extern type c_##name;
#include "codegen/cpu/kernels.def"
#include "codegen/cuda/kernels.def"

static inline void set(const char *name, double v)
{
#define CONSTANT(n, type, def, doc)                                                                \
    if (!strcmp(name, #n)) c_##n = (type)v;
#define CUDA_CONSTANT(n, type, def, doc)                                                           \
    if (!strcmp(name, #n)) c_##n = (type)v;
#include "codegen/cpu/kernels.def"
#include "codegen/cuda/kernels.def"
}

#endif
