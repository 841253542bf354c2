/* linear_wg.cu on emulated threads (simt.h): every tile over edge shapes and epilogues, against
 * wg_case.h. In order and in pseudorandom orders of threads, which also let copies land late.
 */
#include "runtime/abi.h"
#include "tests/cuda/constants.h"
#include "tests/cuda/simt.h"
#include "tests/cuda/wg_case.h"

#include <stdio.h>
#include <stdlib.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))

#define WG(name, ...)                                                                              \
    extern SimtKernel pfq_cu_##name##_simt;                                                        \
    extern const int32_t pfq_cu_##name##_facts[10];
#include "codegen/cuda/linear_wg_list.cuh"

static int failures, cases;

static int32_t min_of(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* Of a tile that so many blocks share: tokens, rounded up so that its parts are equal; and the
 * kernel's shared memory, of which warpgroups that finish nothing need none. */
static int32_t slices_of(const int32_t *facts, int32_t cluster)
{
    const int32_t parts = cluster * facts[7];
    return (facts[2] / 8 + parts - 1) / parts * parts * 8;
}
static int32_t shared_of(const int32_t *facts, int32_t cluster)
{
    const int32_t sums = slices_of(facts, cluster) * 4 * facts[5],
                  meeting = sums > facts[9] ? sums : facts[9],
                  turns = facts[2] / 8 > cluster ? facts[7] : 1;
    return facts[4] + (facts[6] ? facts[8] * turns * meeting : 0);
}

/* On so many blocks; or, of tiles that are shared, on as many clusters as there are tiles. */
static void run(const char *name, SimtKernel *kernel, const int32_t *facts, const WgSpec *spec,
                int32_t blocks)
{
    const int32_t most = facts[6] ? (facts[2] > 64 ? facts[2] / 8 : 8) / facts[7] : 1,
                  panels = spec->epi == 2 ? (spec->N / 2 + 31) / 32 : (spec->N + 63) / 64,
                  tiles = (panels * 64 + facts[1] - 1) / facts[1] *
                          ((spec->T + facts[2] - 1) / facts[2]);
    simt_cluster = min_of((const int32_t[]){1, 2, 3, 4, 8}[cases % 5], most);
    if (facts[2] >= 64 && slices_of(facts, simt_cluster) * 8 > facts[2] * 9)
        simt_cluster = 1; /* as kernels.def */
    if (facts[6]) blocks = simt_cluster * tiles;
    if (getenv("V"))
        fprintf(stderr, "%s N %d K %d T %d epi %d blocks %d in clusters of %d\n", name, spec->N,
                spec->K, spec->T, spec->epi, blocks, simt_cluster);
    WgCase *c = wg_case(spec, 1 + (uint64_t)cases, 2);
    wg_constants(spec, set);
    void *got[8];
    PfqCudaArgs a = {.w = (uintptr_t)c->w.at,
                     .rows = (uintptr_t)c->rows.at,
                     .slot = c->slot,
                     .T = spec->T,
                     .ctx = c->ctx};
    for (int i = 0; i < 8; i++) {
        got[i] = c->out[i].at ? aligned_alloc(1024, (c->out[i].bytes + 2047) / 1024 * 1024) : NULL;
        a.out[i] = (uintptr_t)got[i], a.aux[i] = (uintptr_t)c->aux[i].at;
        if (i < 3) a.in[i] = (uintptr_t)c->in[i].at;
    }
    for (int order = 0; order < 2; order++) {
        for (int i = 0; i < 8; i++)
            if (got[i]) memset(got[i], 0x55, c->out[i].bytes);
        if (spec->epi == 1 && spec->T % 2) { /* in place */
            memcpy(got[0], c->in[2].at, c->out[0].bytes);
            a.in[2] = a.out[0];
        }
        simt_shuffle = order > 0;
        kernel(&a, (const int32_t[]){blocks, 1, 1}, facts[3], shared_of(facts, simt_cluster));
        for (int i = 0; i < 8; i++) {
            char what[128] = "";
            const size_t wrong = got[i] ? wg_wrong(c, i, got[i], what, sizeof what) : 0;
            if (!wrong) continue;
            printf("FAIL %s N %d K %d T %d epi %d blocks %d cluster %d order %d: %zu wrong, %s\n",
                   name, spec->N, spec->K, spec->T, spec->epi, blocks, simt_cluster, order, wrong,
                   what);
            failures++;
        }
    }
    for (int i = 0; i < 8; i++)
        free(got[i]);
    wg_case_free(c);
    cases++;
}

static int32_t edge(int i, int32_t tokens)
{
    const int32_t t[] = {1, 7, 8, 9, tokens - 1, tokens, tokens + 1, 2 * tokens + 3};
    return t[i];
}

static void test_tile(const char *name, SimtKernel *kernel, const int32_t *f)
{
    const int32_t bits = f[0], rows = f[1], tokens = f[2], head_dim = f[5];
    const bool big = (int64_t)rows * tokens > 8192;
    for (int i = 0; i < 8; i++) {
        if (edge(i, tokens) < 1 || (big && i % 3 == 1)) continue;
        const WgSpec plain = {.bits = bits,
                              .N = i % 2 ? 200 : 64 + rows,
                              .K = i % 3 ? 256 : 300,
                              .T = edge(i, tokens),
                              .epi = i % 3 == 1,
                              .fixed = i % 2,
                              .half = i / 2 % 2,
                              .xshift = i == 4 && bits < 16 ? 4 : 0,
                              .bias = i == 3};
        run(name, kernel, f, &plain, 1 + i % 3);
    }
    const WgSpec glu = {
        .bits = bits, .N = 2 * 100, .K = 128, .T = 9, .epi = 2, .fixed = 1, .half = 1};
    run(name, kernel, f, &glu, 2);
    const WgSpec rows16 = {/* of 16 bytes */
                           .bits = bits, .N = 2 * 104, .K = 128, .T = tokens + 3,
                           .epi = 2,     .fixed = 1,   .half = 1};
    run(name, kernel, f, &rows16, 2);
    const WgSpec glu32 = {.bits = bits, .N = 2 * 64, .K = 640, .T = tokens, .epi = 2, .bias = 1};
    run(name, kernel, f, &glu32, 3);
    const WgSpec tiles = {
        .bits = bits, .N = 2 * 192, .K = 100, .T = tokens + 9, .epi = 2, .tiles = 1, .bias = 1};
    if (bits == 16) run(name, kernel, f, &tiles, 2);
    const WgSpec odd = {.bits = bits, .N = 97, .K = 1536, .T = 3, .epi = 0, .fixed = 1};
    run(name, kernel, f, &odd, 7);
    run(name, kernel, f, &odd, 29); /* more blocks than tiles */
    for (int32_t kv = 0; kv < 6; kv++) {
        if (big && kv % 2) continue;
        const WgSpec heads = {.bits = bits,
                              .N = 4 * head_dim,
                              .K = 192,
                              .T = kv == 3 ? tokens : 5 + kv,
                              .epi = 3,
                              .fixed = kv % 2,
                              .bias = kv == 2,
                              .heads = 2,
                              .kv_heads = 1,
                              .head_dim = head_dim,
                              .rot = kv == 4 ? 0 : head_dim,
                              .qk_norm = kv == 3 || kv == 5,
                              .r3 = kv > 1,
                              .q8 = kv > 2 ? 127 : 0,
                              .kv = kv,
                              .kv_static = kv == 2 || kv == 3,
                              .turns = kv < 2 || kv == 5};
        run(name, kernel, f, &heads, 2);
    }
}

/* What kernels.def says of a tile is what the template says. */
static void test_launches(void)
{
    enum { LAYOUT_IMAGE, LAYOUT_FRAG4, LAYOUT_FRAG8, LAYOUT_FRAG16 };
    const int64_t N = 576, K = 320, H = 9, G = 3, D = 64;
    (void)N, (void)K, (void)H, (void)G, (void)D;
#define C(name) ((int64_t)c_##name)
#define FAST(name, id, chips, phases, when, from, to, template, entry, block_, grid_x_, rows_,     \
             shared_, ...)                                                                         \
    {                                                                                              \
        extern const int32_t pfq_cu_##name##_facts[10]                                             \
            __attribute__((weak)); /* NULL: another's */                                           \
        const struct {                                                                             \
            int64_t block, grid_x, rows, shared, per_sm, flags, work, sync, w, tiles, half,        \
                cluster;                                                                           \
        } l = {.block = block_,                                                                    \
               .grid_x = grid_x_,                                                                  \
               .rows = rows_,                                                                      \
               .shared = shared_ __VA_OPT__(, ) __VA_ARGS__};                                      \
        const int32_t *f = pfq_cu_##name##_facts;                                                  \
        const int32_t cluster = l.cluster > 1 ? (int32_t)l.cluster : 1,                            \
                      need = f ? shared_of(f, cluster) : 0;                                        \
        if (f && (l.block != f[3] || l.rows != f[2] || l.shared < need || l.shared > need + 256 || \
                  (l.cluster > 1 && !f[6]))) {                                                     \
            printf("FAIL the row of %s is not its template's\n", #name);                           \
            failures++;                                                                            \
        }                                                                                          \
    }
#include "codegen/cuda/kernels.def"
}

int main(int argc, char **argv)
{
#define WG(name, ...)                                                                              \
    if (argc < 2 || strstr(#name, argv[1]))                                                        \
        test_tile(#name, pfq_cu_##name##_simt, pfq_cu_##name##_facts);
#include "codegen/cuda/linear_wg_list.cuh"
    test_launches();
    printf("%d cases, %d failures\n", cases, failures);
    return failures != 0;
}
