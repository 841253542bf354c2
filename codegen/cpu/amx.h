/* Tiles of AMX int8 (Intel SDM volume 1, chapter 18): eight registers of 16 rows x 64 bytes.
 *
 * PFQ_AMX is 1 in variants that have them, and in tests/kernels/amx_emulated.h, which defines the
 * same intrinsics in C. A kernel call that uses tiles calls amx_begin and amx_end on its thread, so
 * no tile state outlives a call: the cost is below a microsecond, and no switch of threads saves 8
 * KiB of tiles.
 */
#ifndef PFQC_CODEGEN_CPU_AMX_H
#define PFQC_CODEGEN_CPU_AMX_H

#include "kernel.h"

#if defined(__AMX_INT8__) || defined(PFQ_AMX_EMULATE)
#define PFQ_AMX 1

typedef struct AmxConfig {
    uint8_t palette, start, zero[14];
    uint16_t bytes[16]; /* of a row of tile i */
    uint8_t rows[16];
} AmxConfig;

/* Tiles 0 to 3 and 4, 5 have `rows` rows (sums and activations), 6 and 7 have 16 (weights). */
PFQ_INLINE void amx_begin(int32_t rows)
{
    AmxConfig c __attribute__((aligned(64))) = {.palette = 1};
    PFQ_UNROLL for (int32_t i = 0; i < 8; i++)
    {
        c.bytes[i] = 64;
        c.rows[i] = (uint8_t)(i < 6 ? rows : 16);
    }
    _tile_loadconfig(&c);
}

PFQ_INLINE void amx_end(void)
{
    _tile_release();
}

#else
#define PFQ_AMX 0
#endif

#endif
