/* Rows FAST of codegen/cuda/kernels.def under the CPU's interface: weights become fragments,
 * quantised activations tiles, and results rows again. PFQ_FAST=1 takes a row wherever there is
 * one, PFQ_FAST=NAME,NAME... those alone, whatever chips they are for, NAME* all that begin so;
 * kernels that have none but can write tiles do that. With PFQ_GPU_EACH and names nothing else is
 * launched.
 * Contract: gpu_rows.h.
 */
#include "tests/cuda/gpu_rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* forms.cu */
int64_t forms_weight_bytes(int32_t bits, int32_t N, int32_t K, bool gated);
void forms_weights(const void *from, int32_t bits, int32_t N, int32_t K, bool gated, void *to);
int64_t forms_tile_bytes(int32_t cap, int32_t K);
void forms_tiles(const void *from, int32_t T, int32_t K, int32_t cap, void *to);
void forms_bf16_tiles(const void *from, int32_t T, int32_t K, int32_t cap, void *to);
void forms_halves(const float *from, int64_t n, uint16_t *to);
bool forms_from_bf16_tiles(const void *from, int32_t T, int32_t K, int32_t cap, void *to);
bool forms_from_tiles(const void *from, int32_t T, int32_t K, int32_t cap, void *to);

enum { IN_PREFILL = 1, IN_LOGITS = 2, IN_DECODE = 4, IN_BATCH = 8 };
enum { F32 = 0, S8 = 1, SWIGLU = 2 }; /* c_fmt, c_epi */

#define C(name) ((int64_t)c_##name)
#define SHAPE                                                                                      \
    const int64_t N = C(N), K = C(K), H = C(heads), G = C(kv_heads), D = C(head_dim);              \
    (void)N, (void)K, (void)H, (void)G, (void)D

#define FAST(name, id, chips, phases, when, from, to, file, symbol, block_, grid_x_, rows_,        \
             shared_, ...)                                                                         \
    static GpuLaunch launch_##name(void)                                                           \
    {                                                                                              \
        SHAPE;                                                                                     \
        return (GpuLaunch){.template = file,                                                       \
                           .entry = symbol,                                                        \
                           .block = block_,                                                        \
                           .grid_x = grid_x_,                                                      \
                           .rows = rows_,                                                          \
                           .shared = shared_ __VA_OPT__(, ) __VA_ARGS__};                          \
    }                                                                                              \
    static bool fits_##name(void)                                                                  \
    {                                                                                              \
        SHAPE;                                                                                     \
        return when;                                                                               \
    }
#include "codegen/cuda/kernels.def"

static struct FastRow {
    const char *name;
    RowId id;
    const char *chips;
    int phases;
    int32_t from, to;
    bool (*fits)(void);
    GpuLaunch (*launch)(void);
    long calls;
} fast[] = {
#define FAST(name, id, chips, phases, when, from, to, ...)                                         \
    {#name, ROW_##id, chips, phases, from, to, fits_##name, launch_##name, 0},
#include "codegen/cuda/kernels.def"
};
enum { N_FAST = sizeof fast / sizeof *fast };
static long with_tiles;

/* Attention on tensor cores has probabilities in 16 bits: as integers, or as f16; where the cache
 * is f16, queries, too, which alone is up to 1.9e-3 of results in these cases (f64 from rounded
 * queries). Linears of bf16 round activations, the transform of f16 those and its base. By how
 * names begin. */
static const struct {
    const char *name;
    double slack;
} slacks[] = {{"split", 0x1p-13},     {"wgmma", 0x1p-11}, {"half_cache", 0x1p-9},
              {"attend_mma", 0x1p-9}, {"wg16", 0x1p-8},   {"mma16", 0x1p-7},
              {"half", 0x1p-10}};
extern double kt_slack;
double kt_slack;

static double slack_of(const struct FastRow *f)
{
    for (size_t i = 0; f && i < sizeof slacks / sizeof *slacks; i++)
        if (strncmp(f->name, slacks[i].name, strlen(slacks[i].name)) == 0) return slacks[i].slack;
    return 0;
}

void gpu_fast_report(void)
{
    if (!getenv("PFQ_FAST")) return;
    for (int i = 0; i < N_FAST; i++)
        printf("gpu: %ld launches of %s\n", fast[i].calls, fast[i].name);
    printf("gpu: %ld of plain kernels that write tiles\n", with_tiles);
}

static bool is_linear(RowId id)
{
    return id == ROW_LINEAR_F32 || id == ROW_LINEAR_BF16 || id == ROW_LINEAR_S8 ||
           id == ROW_LINEAR_S4 || id == ROW_LINEAR_U4G32;
}

static bool for_chip(const struct FastRow *f)
{
    const char *chip = getenv("PFQ_GPU_ARCH");
    return strncmp(chip ? chip : "sm_90a", f->chips, strlen(f->chips)) == 0;
}

/* Linears that a chip has tiles of its own for, for any number of rows, take none of all chips':
 * no plan mixes them, and gated values differ in a bit. */
static bool has_own(RowId id)
{
    for (int i = 0; i < N_FAST; i++)
        if (fast[i].id == id && fast[i].chips[0] && for_chip(&fast[i]) && fast[i].fits())
            return true;
    return false;
}

/* Is it one of the list, or does it begin as one does up to its *? */
static bool named(const char *names, const char *name)
{
    for (const char *p = names, *end; *p; p = end + (*end != 0)) {
        end = p + strcspn(p, ",");
        const size_t n = (size_t)(end - p);
        const bool all = n && p[n - 1] == '*';
        if (strncmp(p, name, n - all) == 0 && (all || !name[n])) return true;
    }
    return false;
}

static bool takes(const struct FastRow *f, RowId id, int32_t T)
{
    const char *name = getenv("PFQ_FAST");
    if (f->id != id || T < f->from || (f->to && T > f->to) || !f->fits()) return false;
    if (strcmp(name, "1") != 0) return named(name, f->name);
    return for_chip(f) && (f->chips[0] || !is_linear(id) || !has_own(id));
}

/* Rows for any phase, because tokens of one sequence are a batch, too: each has its position. Of
 * several the shape of the call says which, so that the same call twice gives the same bits. */
static struct FastRow *pick(RowId id, const PfqArgs *a)
{
    const int32_t shape = id == ROW_HADAMARD
                              ? c_base / 4 + c_K / 1024 /* each has its own bits for a row */
                              : c_N + c_K + c_heads + c_head_dim + c_kv + a->T + a->pos;
    struct FastRow *found[N_FAST];
    int n = 0;
    for (int i = 0; i < N_FAST; i++)
        if (takes(&fast[i], id, a->T)) found[n++] = &fast[i];
    return n ? found[shape % n] : NULL;
}

static bool can_write_tiles(RowId id)
{
    return c_fmt == S8 &&
           (id == ROW_NORM || id == ROW_QUANT || id == ROW_HADAMARD || id == ROW_ATTEND);
}

/* Attention by rows FAST makes tiles of bf16 of floats; which calls do, their shape says. */
static bool writes_bf16(RowId id, const struct FastRow *f, const PfqArgs *a, int32_t K)
{
    return f && c_fmt == F32 && id == ROW_ATTEND && (a->T + K / 4) % 2;
}

static void give_linear(RowId id, PfqArgs *a, GpuLaunch *l)
{
    const bool gated = c_epi == SWIGLU;
    if (l->w != LAYOUT_IMAGE) {
        const int32_t bits = l->w == LAYOUT_FRAG4 ? 4 : l->w == LAYOUT_FRAG8 ? 8 : 16;
        void *w = kt_alloc_block((size_t)forms_weight_bytes(bits, c_N, c_K, gated));
        forms_weights(a->w, bits, c_N, c_K, gated, w);
        a->w = w;
        l->wide |= WIDE_W;
    }
    if (l->tiles) {
        const bool bf16 = id == ROW_LINEAR_BF16;
        void *x = kt_alloc_block((size_t)forms_tile_bytes(c_cap, (1 + bf16) * c_K));
        (bf16 ? forms_bf16_tiles : forms_tiles)(a->in[0], a->T, c_K, c_cap, x);
        a->in[0] = x;
        l->wide |= WIDE_IN;
    }
}

static void give_halves(PfqArgs *a)
{
    uint16_t *x = kt_alloc_block((size_t)(2 * a->T * c_K));
    forms_halves(a->in[0], (int64_t)a->T * c_K, x);
    a->in[0] = x;
}

/* The same cache of rows of `bytes` with room for ctx tokens; what is new is NaN. */
static const void *roomy(const void *from, const PfqArgs *a, int32_t ctx, size_t bytes)
{
    if (!from) return NULL;
    const size_t old = (size_t)a->ctx * bytes, now = (size_t)ctx * bytes;
    char *to = kt_alloc_block((size_t)c_kv_heads * now);
    memset(to, 0xff, (size_t)c_kv_heads * now);
    for (int32_t h = 0; h < c_kv_heads; h++)
        memcpy(to + (size_t)h * now, (const char *)from + (size_t)h * old, old);
    return to;
}

/* Programs' caches have room for a multiple of 64. */
static void give_attend(PfqArgs *b, const PfqArgs *a)
{
    static const int bits[] = {32, 16, 8, 4, 8, 4}; /* by c_kv */
    b->ctx = (a->ctx + 63) / 64 * 64;
    for (int i = 1; i < 7; i++)
        b->in[i] = roomy(a->in[i], a, b->ctx, i < 3 ? (size_t)(c_head_dim * bits[c_kv] / 8) : 2);
}

bool gpu_fast(RowId id, const PfqArgs *a, const GpuLaunch *plain)
{
    struct FastRow *f = pick(id, a);
    GpuLaunch l;
    PfqArgs b = *a;
    kt_slack = slack_of(f);
    void *tiles = NULL;
    const int32_t K = id == ROW_ATTEND ? c_heads * c_head_dim : c_K;
    if (!f && !gpu_judged() && strcmp(getenv("PFQ_FAST"), "1") != 0) return true;
    if (!f && !can_write_tiles(id)) return false;
    c_cap = (a->T + 7) / 8 * 8 + 8;
    c_seqs = a->T;
    c_parts = 1 + a->T % 3;
    l = f ? f->launch() : *plain; /* it may ask for these */
    c_each = f && !(f->phases & (IN_PREFILL | IN_LOGITS)) && a->T > 1;
    const bool bf16 = writes_bf16(id, f, a, K);
    c_tiles = !f || bf16 || (can_write_tiles(id) && f->calls % 2) ? c_cap : 0; /* or rows */
    c_overlap = (l.flags & PFQ_CUDA_OVERLAP) != 0;
    if (is_linear(id)) give_linear(id, &b, &l);
    if (id == ROW_ATTEND) give_attend(&b, a);
    if (l.half) give_halves(&b);
    if (!is_linear(id) && c_tiles && c_fmt == S8) {
        tiles = b.out[0] = kt_alloc_block((size_t)forms_tile_bytes(c_cap, K));
        l.wide |= WIDE_OUT;
    }
    if (bf16) {
        tiles = b.out[0] = kt_alloc_block((size_t)forms_tile_bytes(c_cap, 2 * K));
        l.wide |= WIDE_OUT;
        kt_slack = 0x1p-8;
    }
    gpu_call(&b, &l);
    if (gpu_judged() && bf16 && !forms_from_bf16_tiles(tiles, a->T, K, c_cap, a->out[0]))
        gpu_die(l.entry, "leaves columns of tiles behind the last that are not 0");
    if (gpu_judged() && !bf16 && tiles && !forms_from_tiles(tiles, a->T, K, c_cap, a->out[0]))
        gpu_die(l.entry, "leaves columns of tiles behind the last that are not 0");
    *(f ? &f->calls : &with_tiles) += 1;
    c_cap = c_tiles = c_each = c_overlap = c_seqs = 0;
    return true;
}
