/* linear_mma.cuh on emulated threads (simt.h): every tile over edge shapes and epilogues against
 * the plain kernels of linear_int.cuh, whose bits it must have. Those test_kernels compares with
 * the reference. In order and in a pseudorandom order of threads.
 */
#include "runtime/abi.h"
#include "tests/cuda/constants.h"
#include "tests/cuda/simt.h"
#include "tests/cuda/wg_case.h"

#include <stdio.h>
#include <stdlib.h>

/* A kernel, and its launch by its row of kernels.def. */
typedef struct Row {
    const char *row;
    SimtKernel *kernel;
    int64_t threads, blocks, tokens, bytes;
    bool fits;
} Row;

extern SimtKernel pfq_cu_linear_s4_simt, pfq_cu_linear_s8_simt, pfq_cu_turns_simt;
#define MMA4(name, ...) extern SimtKernel pfq_cu_##name##_simt;
#define MMA8(name, ...) extern SimtKernel pfq_cu_##name##_simt;
#include "codegen/cuda/linear_mma_list.cuh"

static const struct Tile {
    const char *name;
    SimtKernel *kernel;
    int32_t bits, x, rows, tokens;
} tiles[] = {
#define MMA4(name, chips, when, from, to, per_sm, x, rows, tokens, ...)                            \
    {#name, pfq_cu_##name##_simt, 4, x, rows, tokens},
#define MMA8(name, chips, when, from, to, per_sm, x, rows, tokens, ...)                            \
    {#name, pfq_cu_##name##_simt, 8, x, rows, tokens},
#include "codegen/cuda/linear_mma_list.cuh"
};

#define C(name) ((int64_t)c_##name)
#define SHAPE                                                                                      \
    const int64_t N = C(N), K = C(K), H = C(heads), G = C(kv_heads), D = C(head_dim);              \
    (void)N, (void)K, (void)H, (void)G, (void)D

static Row plain_row(int32_t bits)
{
    SimtKernel *kernel = bits == 4 ? pfq_cu_linear_s4_simt : pfq_cu_linear_s8_simt;
    SHAPE;
#define CUDA(id, template, entry, block, grid_x, rows, shared)                                     \
    if (!strcmp(#id, bits == 4 ? "LINEAR_S4" : "LINEAR_S8"))                                       \
        return (Row){#id, kernel, block, grid_x, rows, shared, true};
#include "codegen/cuda/kernels.def"
    abort();
}

static Row fast_row(const struct Tile *t)
{
    const char *called = t->name;
    SHAPE;
#define FAST(name, id, chips, phases, when, from, to, template, entry, block, grid_x, rows,        \
             shared, ...)                                                                          \
    if (!strcmp(#name, called)) return (Row){#name, t->kernel, block, grid_x, rows, shared, when};
#include "codegen/cuda/kernels.def"
    abort();
}

/* ---- operands ---- */

static uint64_t state;
static uint32_t random_bits(void)
{
    state += 0x9e3779b97f4a7c15u;
    uint64_t z = state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}
static void *buffer(size_t bytes)
{
    uint8_t *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    for (size_t i = 0; i < bytes; i++)
        p[i] = (uint8_t)random_bits();
    return p;
}
static void *floats(size_t n, float lo, float hi)
{
    float *p = buffer(4 * n);
    for (size_t i = 0; i < n; i++)
        p[i] = lo + (hi - lo) * (float)(random_bits() >> 8) * 0x1p-24f;
    return p;
}

/* Packed weights (ARCHITECTURE.md): random, with the rows and columns of padding 0. */
static void *weights(const WgSpec *s)
{
    const int32_t per = s->bits == 4 ? 8 : 4, steps = (s->K + per - 1) / per,
                  n = s->epi == 2 ? 2 * ((s->N / 2 + 15) / 16) : (s->N + 15) / 16;
    const size_t bytes = 128 + 64 * (size_t)steps;
    uint8_t *w = buffer((size_t)n * bytes);
    for (int32_t row = 0; row < 16 * n; row++) {
        uint8_t *tile = w + (size_t)(row / 16) * bytes;
        const bool real = s->epi == 2 ? row / 32 * 16 + row % 16 < s->N / 2 : row < s->N;
        int32_t sum = 0;
        for (int32_t i = 0; i < 4 * steps; i++) {
            int8_t *b = (int8_t *)tile + 128 + i / 4 * 64 + row % 16 * 4 + i % 4;
            const int32_t k = i / 4 * per + i % 4; /* of the byte, or its low nibble */
            if (!real || k >= s->K) *b = 0;
            if (s->bits == 4 && k + 4 >= s->K) *b &= 15;
            sum += s->bits == 8 ? *b : (int8_t)(*b << 4) / 16 + (*b >> 4);
        }
        ((float *)tile)[row % 16] = 1e-3f * (float)(1 + random_bits() % 7);
        ((int32_t *)tile)[16 + row % 16] = 128 * sum;
    }
    return w;
}

static void *activations(const WgSpec *s, int32_t x)
{
    const size_t n = (size_t)s->T * (size_t)((s->K + 63) / 64 * 64);
    uint8_t *p = buffer(n);
    for (size_t i = 0; x == 4 && i < n; i++)
        p[i] = (uint8_t)(120 + p[i] % 16);
    return p;
}

/* ---- a case ---- */

enum { OUTPUTS = 7 };
static int failures, cases;

static void launch(const Row *r, const PfqCudaArgs *a)
{
    const int32_t grid[3] = {(int32_t)r->blocks, (int32_t)((a->T + r->tokens - 1) / r->tokens), 1};
    r->kernel(a, grid, (int32_t)r->threads, (int32_t)r->bytes);
}

/* RoPE's table, that of turns.cu. */
static void *turns(const PfqCudaArgs *a)
{
    PfqCudaArgs t = *a;
    t.out[0] = (uintptr_t)buffer(4 * (size_t)a->T * (size_t)(c_rot + 1));
    pfq_cu_turns_simt(&t, (const int32_t[]){1, (a->T + 7) / 8, 1}, 256, 0);
    return (void *)t.out[0];
}

static void run(const struct Tile *tile, const WgSpec *s)
{
    wg_constants(s, set);
    c_fmt = 1, c_xbits = tile->x;
    state = (uint64_t)++cases;
    const Row plain = plain_row(s->bits), fast = fast_row(tile);
    const size_t rows = (size_t)(s->N + 64), T = (size_t)s->T;
    const size_t D = (size_t)s->head_dim, heads = (size_t)s->heads;
    PfqCudaArgs a = {.w = (uintptr_t)weights(s), .T = s->T, .ctx = WG_CTX};
    a.in[0] = (uintptr_t)activations(s, tile->x);
    a.in[1] = (uintptr_t)floats(T, 0.5f, 2);
    a.in[2] = (uintptr_t)floats(T * (size_t)s->N, -2, 2);
    a.aux[0] = (uintptr_t)floats(rows, -1, 1);
    for (int i = 1; i < 7; i++)
        a.aux[i] = (uintptr_t)floats(D + heads + 1, 0.01f, 0.2f);
    PfqRow *at = buffer(8 * T);
    for (int32_t t = 0; t < s->T; t++)
        at[t] = (PfqRow){t % WG_CTX, t / WG_CTX};
    a.rows = (uintptr_t)at;
    a.slot = 4 * (size_t)s->kv_heads * WG_CTX * D;
    size_t bytes[OUTPUTS];
    uint8_t *want[OUTPUTS], *got[OUTPUTS];
    for (int i = 0; i < OUTPUTS; i++) {
        bytes[i] = i ? a.slot * (T / WG_CTX + 1) : 4 * T * (size_t)s->N;
        want[i] = memset(buffer(bytes[i]), 0x55, bytes[i]);
        got[i] = buffer(bytes[i]);
        a.out[i] = (uintptr_t)want[i];
    }
    simt_shuffle = false;
    a.aux[7] = (uintptr_t)turns(&a);
    c_turns = 0; /* plain kernels have no table */
    launch(&plain, &a);
    c_turns = s->turns;
    if (!fast.fits) {
        printf("FAIL %s does not fit its case\n", tile->name);
        failures++;
    }
    for (int order = 0; order < 2 && fast.fits; order++) {
        for (int i = 0; i < OUTPUTS; i++) {
            memset(got[i], 0x55, bytes[i]);
            a.out[i] = (uintptr_t)got[i];
        }
        simt_shuffle = order > 0;
        launch(&fast, &a);
        for (int i = 0; i < OUTPUTS; i++) {
            size_t b = 0;
            while (b < bytes[i] && want[i][b] == got[i][b])
                b++;
            if (b == bytes[i]) continue;
            printf("FAIL %s N %d K %d T %d epi %d order %d: out[%d] differs at byte %zu of %zu\n",
                   tile->name, s->N, s->K, s->T, s->epi, order, i, b, bytes[i]);
            failures++;
        }
    }
    for (int i = 0; i < OUTPUTS; i++) {
        free(want[i]);
        free(got[i]);
    }
    for (int i = 0; i < 8; i++)
        free((void *)a.aux[i]);
    for (int i = 0; i < 3; i++)
        free((void *)a.in[i]);
    free((void *)a.w);
    free(at);
}

static void test_tile(const struct Tile *t)
{
    const int32_t edge[] = {1, t->tokens - 1, t->tokens, t->tokens + 1, 2 * t->tokens + 3, 7};
    const int32_t N[] = {t->rows, t->rows + 1, t->rows - 1, 97, 2 * t->rows, 16};
    const int32_t K[] = {64, 300, 127, 1000, 192, 1};
    const int32_t few = t->tokens > 64 ? 1 : 2;
    for (int i = 0; i < 6; i++) {
        const WgSpec plain = {.bits = t->bits,
                              .N = N[i],
                              .K = K[i],
                              .T = edge[i],
                              .epi = i % 2,
                              .fixed = i / 2 % 2,
                              .bias = i % 3 == 0};
        run(t, &plain);
    }
    for (int i = 0; i < 3; i++) {
        const WgSpec glu = {.bits = t->bits,
                            .N = 2 * (i == 0   ? 100
                                      : i == 1 ? 16
                                               : t->rows),
                            .K = i ? 128 : 72,
                            .T = edge[3 * few - 3 + i],
                            .epi = 2,
                            .fixed = i % 2,
                            .bias = i == 1,
                            .act = i};
        run(t, &glu);
    }
    for (int32_t kv = 0; kv < 6; kv++) {
        const int32_t D = kv % 2 || t->rows < 64 ? 32 : t->rows;
        const WgSpec heads = {.bits = t->bits,
                              .N = 4 * D,
                              .K = 192,
                              .T = kv == 3 ? t->tokens + 1 : 5 + kv,
                              .epi = 3,
                              .fixed = kv % 2,
                              .bias = kv == 2,
                              .heads = 2,
                              .kv_heads = 1,
                              .head_dim = D,
                              .rot = kv == 4   ? 0
                                     : kv == 5 ? D / 2
                                               : D,
                              .qk_norm = kv == 3 || kv == 5,
                              .r3 = kv > 1,
                              .q8 = kv > 2 ? 127 : 0,
                              .kv = kv,
                              .kv_static = kv == 2 || kv == 3,
                              .turns = kv / 2 % 2};
        run(t, &heads);
    }
}

int main(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++)
        if (argc < 2 || strstr(tiles[i].name, argv[1])) test_tile(&tiles[i]);
    printf("%d cases, %d failures\n", cases, failures);
    return failures != 0;
}
