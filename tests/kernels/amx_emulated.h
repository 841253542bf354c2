/* AMX tiles in C, in front of a template (-include), so that its AMX code is tested on any CPU. One thread at a time;
 * traps where the instructions would fault: an unset configuration, shapes that do not fit. Rows and bytes behind a
 * tile's shape are zero, as in the hardware. */
#ifndef PFQC_TESTS_AMX_EMULATED_H
#define PFQC_TESTS_AMX_EMULATED_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define PFQ_AMX_EMULATE 1

static struct {
    uint8_t palette;
    int32_t rows[8], bytes[8];
    uint8_t tile[8][16][64];
} amx_state;

static inline void amx_zero(int t)
{
    for (int r = 0; r < 16; r++)
        for (int b = 0; b < 64; b++)
            ((volatile uint8_t *)amx_state.tile[t][r])[b] = 0;
}

static inline void amx_load_config(const void *config)
{
    const uint8_t *c = config;
    amx_state.palette = c[0];
    if (c[0] != 1 || c[1])
        __builtin_trap();
    for (int t = 0; t < 8; t++) {
        amx_state.bytes[t] = c[16 + 2 * t] | c[17 + 2 * t] << 8;
        amx_state.rows[t] = c[48 + t];
        if (amx_state.bytes[t] > 64 || amx_state.rows[t] > 16 || !amx_state.bytes[t] != !amx_state.rows[t])
            __builtin_trap();
        amx_zero(t);
    }
}

static inline int amx_used(int t)
{
    if (amx_state.palette != 1 || !amx_state.rows[t])
        __builtin_trap();
    return t;
}

static inline void amx_load(int t, const void *p, ptrdiff_t stride)
{
    amx_zero(amx_used(t));
    for (int r = 0; r < amx_state.rows[t]; r++)
        for (int b = 0; b < amx_state.bytes[t]; b++)
            amx_state.tile[t][r][b] = ((const uint8_t *)p)[r * stride + b];
}

static inline void amx_store(int t, void *p, ptrdiff_t stride)
{
    for (int r = 0; r < amx_state.rows[amx_used(t)]; r++)
        for (int b = 0; b < amx_state.bytes[t]; b++)
            ((uint8_t *)p)[r * stride + b] = amx_state.tile[t][r][b];
}

/* sums[m][n] += sum over k of u8 x[m][k] * s8 w[k / 4][4 n + k % 4] */
static inline void amx_dot(int sums, int x, int w)
{
    if (amx_state.rows[amx_used(sums)] != amx_state.rows[amx_used(x)] ||
        amx_state.bytes[x] != 4 * amx_state.rows[amx_used(w)] || amx_state.bytes[sums] != amx_state.bytes[w])
        __builtin_trap();
    for (int m = 0; m < amx_state.rows[sums]; m++)
        for (int n = 0; n < amx_state.bytes[sums] / 4; n++) {
            uint8_t *at = amx_state.tile[sums][m] + 4 * n;
            uint32_t s = (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
            for (int k = 0; k < amx_state.bytes[x]; k++)
                s += (uint32_t)(amx_state.tile[x][m][k] * (int8_t)amx_state.tile[w][k / 4][4 * n + k % 4]);
            for (int b = 0; b < 4; b++)
                at[b] = (uint8_t)(s >> 8 * b);
        }
}

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbusd
#define _tile_loadconfig amx_load_config
#define _tile_zero(t) amx_zero(amx_used(t))
#define _tile_loadd amx_load
#define _tile_stored amx_store
#define _tile_dpbusd amx_dot
#define _tile_release() (void)(amx_state.palette = 0)

#endif
