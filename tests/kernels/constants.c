/* The templates' constants as variables, so that one library serves every shape of the test. */
#include <stdint.h>

#define CONSTANT(name, type, def, doc)                                                             \
    extern type c_##name;                                                                          \
    type c_##name = def;
#include "codegen/cpu/kernels.def"
#define CUDA_CONSTANT CONSTANT
#define CONSTANT(name, type, def, doc)                                                             \
    extern type c_##name;                                                                          \
    type c_##name = def;
#include "codegen/cuda/kernels.def"
