/* One case of linear_wg.cu: random operands in its layouts, what must come out, and the comparison.
 * Shared by the test with emulated threads (test_wg.c) and the program for a GPU (bench_wg.c).
 */
#ifndef PFQC_TESTS_CUDA_WG_CASE_H
#define PFQC_TESTS_CUDA_WG_CASE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct WgSpec { /* constants of kernels.def by their names */
    int32_t bits, N, K, T;
    int32_t epi, fixed, half, xshift, bias, act; /* fixed: c_static */
    int32_t heads, kv_heads, head_dim, rot, qk_norm, r3, q8, kv, kv_static, turns;
    int32_t cap;   /* rows of the tiles; 0: enough for T */
    int32_t tiles; /* of bf16: gate and up become tiles themselves */
} WgSpec;

enum { WG_CTX = 64, WG_PREFIX = 3 }; /* row t is in slot t / WG_CTX */

/* Rows of tiles, a multiple of 8. */
int32_t wg_cap(const WgSpec *s);

typedef struct WgBuffer {
    void *at;
    size_t bytes;
} WgBuffer;

/* Operands as PfqCudaArgs counts them; out[] holds what must come out. */
typedef struct WgCase {
    WgSpec spec;
    WgBuffer in[3], out[8], w, aux[8], rows;
    size_t slot; /* PfqCudaArgs.slot: all caches have the same number of bytes here */
    int32_t ctx;
} WgCase;

/* Constants other than the shapes. */
void wg_constants(const WgSpec *s, void set(const char *name, double value));

WgCase *wg_case(const WgSpec *s, uint64_t seed, int threads);
void wg_case_free(WgCase *c);
/* The number of wrong elements of out[i], as `got`; the first is described in `what`. */
size_t wg_wrong(const WgCase *c, int i, const void *got, char *what, size_t cap);

#ifdef __cplusplus
}
#endif

#endif
