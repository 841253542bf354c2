/* linear_mma.cuh on emulated threads (simt.h): every tile over edge shapes and epilogues against
 * the plain kernels, whose bits it must have; of bf16 where sums are exact. Where they are not, and
 * of u4g32, all tiles must have the same bits. Plain kernels test_kernels compares with the
 * reference. In order and in a pseudorandom order of threads.
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

/* forms.cu */
int64_t forms_tile_bytes(int32_t cap, int32_t K);
void forms_bf16_tiles(const void *from, int32_t T, int32_t K, int32_t cap, void *to);

extern SimtKernel pfq_cu_linear_s4_simt, pfq_cu_linear_s8_simt, pfq_cu_linear_bf16_simt,
    pfq_cu_turns_simt;
#define MMA4(name, ...)  extern SimtKernel pfq_cu_##name##_simt;
#define MMA8(name, ...)  extern SimtKernel pfq_cu_##name##_simt;
#define MMA16(name, ...) extern SimtKernel pfq_cu_##name##_simt;
#define MMAG(name, ...)  extern SimtKernel pfq_cu_##name##_simt;
#include "codegen/cuda/linear_mma_list.cuh"

enum { U4G32 = 5 }; /* bits of a weight with its share of scale and offset */

static const struct Tile {
    const char *name;
    SimtKernel *kernel;
    int32_t bits, x, rows, tokens;
} tiles[] = {
#define MMA4(name, chips, when, from, to, per_sm, x, rows, tokens, ...)                            \
    {#name, pfq_cu_##name##_simt, 4, x, rows, tokens},
#define MMA8(name, chips, when, from, to, per_sm, x, rows, tokens, ...)                            \
    {#name, pfq_cu_##name##_simt, 8, x, rows, tokens},
#define MMA16(name, chips, when, from, to, per_sm, x, rows, tokens, ...)                           \
    {#name, pfq_cu_##name##_simt, 16, x, rows, tokens},
#define MMAG(name, chips, when, from, to, per_sm, x, rows, tokens, ...)                            \
    {#name, pfq_cu_##name##_simt, U4G32, x, rows, tokens},
#include "codegen/cuda/linear_mma_list.cuh"
};

#define C(name) ((int64_t)c_##name)
#define SHAPE                                                                                      \
    const int64_t N = C(N), K = C(K), H = C(heads), G = C(kv_heads), D = C(head_dim);              \
    (void)N, (void)K, (void)H, (void)G, (void)D

static Row plain_row(int32_t bits)
{
    SimtKernel *kernel = bits == 4   ? pfq_cu_linear_s4_simt
                         : bits == 8 ? pfq_cu_linear_s8_simt
                                     : pfq_cu_linear_bf16_simt;
    const char *called = bits == 4 ? "LINEAR_S4" : bits == 8 ? "LINEAR_S8" : "LINEAR_BF16";
    SHAPE;
#define CUDA(id, template, entry, block, grid_x, rows, shared)                                     \
    if (!strcmp(#id, called)) return (Row){#id, kernel, block, grid_x, rows, shared, true};
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

/* A random bf16: of few bits, so that sums of products are exact, or of all. */
static float bf16_value(bool exact)
{
    const uint32_t r = random_bits();
    const float x = exact ? (float)(r % 31) - 15 : (float)(int32_t)r * 0x1p-31f;
    uint32_t u;
    memcpy(&u, &x, 4);
    u &= 0xffff0000u;
    float y;
    memcpy(&y, &u, 4);
    return y;
}

/* Is it a row of weights, not of padding? */
static bool is_real(const WgSpec *s, int32_t row)
{
    return s->epi == 2 ? row / 32 * 16 + row % 16 < s->N / 2 : row < s->N;
}
static int32_t tiles_of_rows(const WgSpec *s)
{
    return s->epi == 2 ? 2 * ((s->N / 2 + 15) / 16) : (s->N + 15) / 16;
}

static void *bf16_weights(const WgSpec *s, bool exact)
{
    const size_t bytes = 64 * (size_t)((s->K + 1) / 2), n = (size_t)tiles_of_rows(s);
    uint8_t *w = memset(buffer(n * bytes), 0, n * bytes);
    for (int32_t row = 0; row < (int32_t)(16 * n); row++)
        for (int32_t k = 0; k < s->K && is_real(s, row); k++) {
            const float x = bf16_value(exact) * 0x1p-7f;
            const int32_t at = k / 2 * 64 + row % 16 * 4 + k % 2 * 2;
            memcpy(w + (size_t)(row / 16) * bytes + at, (const uint8_t *)&x + 2, 2);
        }
    return w;
}

/* Packed weights (ARCHITECTURE.md): random, with the rows and columns of padding 0. */
static void *weights(const WgSpec *s)
{
    const int32_t per = s->bits == 4 ? 8 : 4, steps = (s->K + per - 1) / per, n = tiles_of_rows(s);
    const size_t bytes = 128 + 64 * (size_t)steps;
    uint8_t *w = buffer((size_t)n * bytes);
    for (int32_t row = 0; row < 16 * n; row++) {
        uint8_t *tile = w + (size_t)(row / 16) * bytes;
        const bool real = is_real(s, row);
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

static int32_t groups(const WgSpec *s)
{
    return (s->K + 31) / 32;
}

/* Scales and offsets some 2^-7, of both signs. */
static void *grouped_weights(const WgSpec *s)
{
    const size_t n = (size_t)(tiles_of_rows(s) * groups(s));
    uint8_t *w = buffer(320 * n);
    for (size_t i = 0; i < 32 * n; i++) {
        const uint16_t half = (uint16_t)(0x2000 | (random_bits() & 0x83ff));
        memcpy(w + i / 32 * 320 + i % 32 * 2, &half, 2);
    }
    return w;
}

static void *float_activations(const WgSpec *s, bool exact)
{
    const size_t n = (size_t)s->T * (size_t)s->K;
    float *p = buffer(4 * n);
    for (size_t i = 0; i < n; i++)
        p[i] = bf16_value(exact);
    return p;
}

/* Rows of f32 as tiles of bf16, what is no row NaN. */
static void *tiles_of(const float *rows, const WgSpec *s)
{
    const size_t bytes = (size_t)forms_tile_bytes(wg_cap(s), 2 * s->K);
    void *p = memset(buffer(bytes), 0xff, bytes);
    forms_bf16_tiles(rows, s->T, s->K, wg_cap(s), p);
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

/* like: the tile whose bits the results must have, or NULL: the plain kernel's. */
static void run(const struct Tile *tile, const WgSpec *s, const struct Tile *like)
{
    wg_constants(s, set);
    const bool of_floats = s->bits == 16;
    c_fmt = !of_floats, c_xbits = tile->x;
    state = (uint64_t)++cases;
    const int32_t per_token = s->bits == U4G32 ? groups(s) : 1; /* scales */
    const Row plain = like ? fast_row(like) : plain_row(s->bits), fast = fast_row(tile);
    const size_t rows = (size_t)(s->N + 64), T = (size_t)s->T;
    const size_t D = (size_t)s->head_dim, heads = (size_t)s->heads;
    PfqCudaArgs a = {.w = (uintptr_t)(of_floats          ? bf16_weights(s, !like)
                                      : s->bits == U4G32 ? grouped_weights(s)
                                                         : weights(s)),
                     .T = s->T,
                     .ctx = WG_CTX};
    void *x = of_floats          ? float_activations(s, !like)
              : s->bits == U4G32 ? buffer(64 * T * (size_t)groups(s))
                                 : activations(s, tile->x),
         *x_tiles = of_floats ? tiles_of(x, s) : NULL;
    a.in[0] = (uintptr_t)(like && x_tiles ? x_tiles : x);
    a.in[1] = (uintptr_t)floats(T * (size_t)per_token, 0.5f, 2);
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
        bytes[i] = i          ? a.slot * (T / WG_CTX + 1)
                   : s->tiles ? (size_t)forms_tile_bytes(wg_cap(s), s->N)
                              : 4 * T * (size_t)s->N;
        want[i] = memset(buffer(bytes[i]), 0x55, bytes[i]);
        got[i] = buffer(bytes[i]);
        a.out[i] = (uintptr_t)want[i];
    }
    simt_shuffle = false;
    a.aux[7] = (uintptr_t)turns(&a);
    c_turns = 0; /* plain kernels have no table */
    launch(&plain, &a);
    c_turns = s->turns;
    if (x_tiles) a.in[0] = (uintptr_t)x_tiles;
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
    for (int i = 1; i < 3; i++)
        free((void *)a.in[i]);
    free(x);
    free(x_tiles);
    free((void *)a.w);
    free(at);
}

/* The tile that all heads fit, whose bits all of u4g32 must have. */
static const struct Tile *like_of(const struct Tile *t)
{
    for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++)
        if (t->bits == U4G32 && !strcmp(tiles[i].name, "mmag_128x8")) return &tiles[i];
    return NULL;
}

static void test_tile(const struct Tile *t)
{
    const struct Tile *like = like_of(t);
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
        run(t, &plain, like);
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
                            .act = i,
                            .tiles = t->bits == 16 && i != 1};
        run(t, &glu, like);
    }
    for (int32_t kv = 0; kv < 6; kv++) {
        const int32_t D = kv % 2 || t->rows < 64 ? 32 : t->rows < 128 ? 64 : 128;
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
        run(t, &heads, like);
    }
}

/* Sums that are rounded: as the first tile of bf16 has them. */
static void test_order(const struct Tile *t)
{
    static const struct Tile *first;
    if (t->bits != 16) return;
    if (!first) first = t;
    const WgSpec s = {.bits = 16, .N = 130, .K = 777, .T = t->tokens + 1, .epi = 1};
    run(t, &s, first);
}

int main(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++)
        if (argc < 2 || strstr(tiles[i].name, argv[1])) {
            test_tile(&tiles[i]);
            test_order(&tiles[i]);
        }
    printf("%d cases, %d failures\n", cases, failures);
    return failures != 0;
}
