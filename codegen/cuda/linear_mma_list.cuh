/* The tiles of linear_mma.cuh, and which calls each takes: rows FAST of kernels.def and kernels of
 * the templates are both made of this list.
 *
 * MMA4(name, chips, when, from, to, per_sm, x, rows, tokens, wm, wn, wk, blocks, stages), MMA8
 *   weights of 4 and 8 bits; pfq_cu_NAME is the entry; n: of nibbles on both sides
 *   chips, when, from, to   as in kernels.def, but that heads must be whole: they fit the rows
 *   per_sm    blocks of an SM at the same time
 *   the rest  MmaShape (linear_mma.cuh)
 *
 * Ampere and Ada multiply nibbles; later chips take many instructions for that. Shared memory is
 * 48 KB, so that chips of 100 KB have two blocks. Up to 8 tokens dp4a keeps up with the memory; few
 * rows want small tiles, for there are too few large ones. docs/performance.md has what was tried.
 */
#define MMA_N (C(xbits) == 4)
MMA4(mma4n_32x16, "sm_8", N < 16384 && MMA_N, 9, 64, 2, 4, 32, 16, 1, 1, 8, 8, 3)
MMA4(mma4n_64x16, "sm_8", N < 16384 && MMA_N, 9, 64, 2, 4, 64, 16, 2, 1, 4, 4, 4)
MMA4(mma4n_128x32, "sm_8", MMA_N, 9, 32, 2, 4, 128, 32, 4, 1, 2, 2, 4)
MMA4(mma4n_128x64, "sm_8", MMA_N, 33, 256, 2, 4, 128, 64, 4, 2, 1, 2, 3)
MMA4(mma4n_128x128, "sm_8", MMA_N, 33, 0, 2, 4, 128, 128, 2, 4, 1, 2, 2)
MMA4(mma4_32x16, "", N < 16384, 9, 64, 2, 8, 32, 16, 1, 1, 8, 8, 3)
MMA4(mma4_64x16, "", N < 16384, 9, 64, 2, 8, 64, 16, 2, 1, 4, 4, 4)
MMA4(mma4_128x32, "", 1, 9, 32, 2, 8, 128, 32, 4, 1, 2, 2, 4)
MMA4(mma4_128x64, "", 1, 33, 256, 2, 8, 128, 64, 4, 2, 1, 2, 3)
MMA4(mma4_128x128, "", 1, 33, 0, 2, 8, 128, 128, 2, 4, 1, 2, 2)
MMA8(mma8_32x16, "", N < 16384, 9, 64, 2, 8, 32, 16, 1, 1, 8, 8, 2)
MMA8(mma8_64x16, "", N < 16384, 9, 64, 2, 8, 64, 16, 2, 1, 4, 4, 2)
MMA8(mma8_128x32, "", 1, 9, 32, 2, 8, 128, 32, 4, 1, 2, 2, 2)
MMA8(mma8_128x64, "", 1, 33, 256, 2, 8, 128, 64, 4, 2, 1, 1, 4)
MMA8(mma8_128x128, "", 1, 33, 0, 2, 8, 128, 128, 2, 4, 1, 1, 3)
#undef MMA_N
#undef MMA4
#undef MMA8
