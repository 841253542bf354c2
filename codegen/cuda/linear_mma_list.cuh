/* The tiles of linear_mma.cuh, and which calls each takes: rows FAST of kernels.def and kernels of
 * the templates are both made of this list.
 *
 * MMA4(name, chips, when, from, to, per_sm, x, rows, tokens, wm, wn, wk, blocks, stages), MMA8,
 * MMA16, MMAG
 *   weights of 4 and 8 bits, bf16, and u4g32; pfq_cu_NAME is the entry; n: of nibbles on both sides
 *   chips, when, from, to   as in kernels.def, but that heads must be whole: they fit the rows
 *   per_sm    blocks of an SM at the same time
 *   the rest  MmaShape (linear_mma.cuh)
 *
 * Ampere and Ada multiply nibbles; later chips take many instructions for that. Few rows want small
 * tiles, for there are too few large ones. Shared memory is 48 KB for integers, so that chips of
 * 100 KB have two blocks, up to 96 KB for bf16, where deep stages gain more. Up to 8 tokens dp4a
 * keeps up with the memory; tiles of bf16 and u4g32 take any number of tokens, because no other
 * kernel has their bits: which heads fit one of them must not depend on that number.
 * docs/performance.md has what was tried.
 *
 * Who includes this defines the macros of the rows that it wants.
 */
#ifndef MMA4
#define MMA4(...)
#endif
#ifndef MMA8
#define MMA8(...)
#endif
#ifndef MMA16
#define MMA16(...)
#endif
#ifndef MMAG
#define MMAG(...)
#endif
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
MMA16(mma16_32x8, "", N < 16384, 1, 8, 1, 16, 32, 8, 1, 1, 1, 8, 4)
MMA16(mma16_64x8, "", N < 16384, 1, 8, 1, 16, 64, 8, 2, 1, 1, 4, 4)
MMA16(mma16_128x8, "", 1, 1, 8, 1, 16, 128, 8, 4, 1, 1, 2, 5)
MMA16(mma16_32x32, "", N < 16384, 9, 32, 1, 16, 32, 32, 1, 4, 1, 8, 3)
MMA16(mma16_64x32, "", N < 16384, 9, 32, 1, 16, 64, 32, 2, 2, 1, 4, 3)
MMA16(mma16_128x32, "", 1, 9, 32, 1, 16, 128, 32, 4, 1, 1, 2, 4)
MMA16(mma16_32x64, "", N < 16384, 33, 64, 1, 16, 32, 64, 1, 4, 1, 4, 4)
MMA16(mma16_64x64, "", N < 16384, 33, 128, 1, 16, 64, 64, 2, 2, 1, 4, 3)
MMA16(mma16_128x64, "", N < 16384, 33, 1024, 1, 16, 128, 64, 4, 2, 1, 2, 4)
MMA16(mma16_128x64w, "", 1, 33, 256, 2, 16, 128, 64, 4, 2, 1, 1, 4)
MMA16(mma16_256x128, "", C(epi) != 3 || D <= 128, 33, 0, 1, 16, 256, 128, 4, 2, 1, 2, 2)
MMAG(mmag_32x8, "", N < 16384, 1, 8, 1, 8, 32, 8, 1, 1, 4, 16, 4)
MMAG(mmag_64x8, "", N < 16384, 1, 8, 1, 8, 64, 8, 2, 1, 4, 8, 4)
MMAG(mmag_128x8, "", N < 16384, 1, 8, 1, 8, 128, 8, 2, 1, 4, 8, 3)
MMAG(mmag_128x8w, "", 1, 1, 8, 2, 8, 128, 8, 4, 1, 1, 4, 4)
MMAG(mmag_32x16, "", N < 16384, 9, 32, 2, 8, 32, 16, 1, 1, 4, 8, 4)
MMAG(mmag_64x16, "", N < 16384, 9, 16, 2, 8, 64, 16, 2, 1, 4, 4, 4)
MMAG(mmag_128x16, "", N < 16384, 9, 16, 1, 8, 128, 16, 2, 1, 4, 4, 4)
MMAG(mmag_128x16w, "", 1, 9, 16, 2, 8, 128, 16, 4, 2, 1, 4, 3)
MMAG(mmag_64x32, "", N < 16384, 9, 256, 2, 8, 64, 32, 2, 1, 4, 4, 3)
MMAG(mmag_128x32, "", N < 16384, 9, 256, 1, 8, 128, 32, 2, 1, 4, 4, 3)
MMAG(mmag_128x32w, "", 1, 9, 32, 2, 8, 128, 32, 4, 2, 1, 2, 4)
MMAG(mmag_128x64, "", 1, 33, 128, 1, 8, 128, 64, 4, 2, 1, 4, 3)
MMAG(mmag_256x64, "", C(epi) != 3 || D <= 128, 33, 0, 1, 8, 256, 64, 4, 2, 1, 2, 3)
#undef MMA_N
#undef MMA4
#undef MMA8
#undef MMA16
#undef MMAG
