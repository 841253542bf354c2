/* linear.s8 of many tokens: the tiles of linear_mma_int.cuh as kernels, linear_mma_list.cuh. */
#define LIN_NIBBLES 0
#include "linear_mma_int.cuh"

#define MMA8(name, ...) MMA_KERNEL(name, __VA_ARGS__)
#include "linear_mma_list.cuh"
