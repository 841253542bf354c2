/* Times attention over every format of the KV cache, and the Hadamard transform, one thread, in CPU
 * time.
 *
 *   bench_heads SOURCE_DIR VARIANT [pos=2047] [rounds=9]
 *
 * Decode: ns per key and kv head with the caches of 30 layers in turn, as a model reads them.
 * Prefill: 256 tokens from position 0, ns per pair of query row and key. Both as a ratio to f16.
 * Hadamard: ns per row. Medians of the rounds, in which the formats take turns; ratios hold on a
 * busy machine, times do not.
 */
#include "tests/kernels/kernel_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { LAYERS = 30, PREFILL = 256, MAX_ROUNDS = 99 };

#define COUNT(a) (sizeof(a) / sizeof *(a))

typedef struct Format {
    const char *name;
    int kv, bits, fixed, q8;
} Format;

static const Format formats[] = {
    {"f16", 1, 16, 0, 0},         {"f32", 0, 32, 0, 0},         {"s8, q s8", 2, 8, 1, 128},
    {"s4, q s8", 3, 4, 1, 128},   {"s8, q f32", 2, 8, 1, 0},    {"s4, q f32", 3, 4, 1, 0},
    {"s4 per token", 3, 4, 0, 0}, {"u4 per token", 5, 4, 0, 0},
};

static const char *source, *variant;
static char folder[] = "/tmp/pfq-bench-XXXXXX";
static int rounds = 9, compiled;

static PfqKernel *kernel(const char *name, const KtConst *c, size_t n)
{
    char path[64];
    snprintf(path, sizeof path, "%s/%d.c", folder, compiled++);
    return kt_specialise(source, variant, path, name, c, n);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v)
{
    qsort(v, (size_t)rounds, sizeof *v, by_value);
    return v[rounds / 2];
}

static char *big(size_t bytes)
{
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) exit(1);
    madvise(p, bytes, MADV_HUGEPAGE);
    for (size_t i = 0; i < bytes; i += 2) /* f16 of about 0.01: also harmless f32 and integers */
        p[i] = (char)(i * 37), p[i + 1] = 0x21;
    return p;
}

static void attention(int heads, int kv_heads, int D, int pos)
{
    PfqKernel *run[COUNT(formats)];
    static double decode[COUNT(formats)][MAX_ROUNDS], prefill[COUNT(formats)][MAX_ROUNDS];
    const size_t ctx = (size_t)pos + PREFILL, rows = (size_t)kv_heads * ctx,
                 cache = rows * (size_t)D * 4;
    char *k = big(LAYERS * cache), *v = big(LAYERS * cache), *scales = big(rows * 2);
    char *q = big((size_t)(PREFILL * heads * D) * 4), *o = big((size_t)(PREFILL * heads * D) * 4);
    char *scratch = big(kt_scratch("attend", 0, D));
    float head_scales[64];
    for (int i = 0; i < 64; i++)
        head_scales[i] = 0.01f;
    for (size_t f = 0; f < COUNT(formats); f++) {
        const KtConst c[] = {
            {"heads", heads},      {"kv_heads", kv_heads},          {"head_dim", D},
            {"kv", formats[f].kv}, {"kv_static", formats[f].fixed}, {"q8", formats[f].q8},
            {"scale", 0.125}};
        run[f] = kernel("attend", c, COUNT(c));
    }
    for (int r = -1; r < rounds; r++)
        for (size_t f = 0; f < COUNT(formats); f++) {
            PfqArgs a = {.in = {q, NULL, NULL, scales, scales, scales, scales},
                         .out = {o},
                         .scratch = scratch,
                         .T = 1,
                         .pos = pos,
                         .ctx = (int32_t)ctx,
                         .aux = {NULL, NULL, head_scales, head_scales, head_scales}};
            const size_t layer = rows * (size_t)(D * formats[f].bits / 8);
            double t = now();
            for (size_t l = 0; l < LAYERS; l++) {
                a.in[1] = k + l * layer, a.in[2] = v + l * layer;
                run[f](&a, 0, 1);
            }
            if (r >= 0) decode[f][r] = (now() - t) * 1e9 / (double)LAYERS / (pos + 1) / kv_heads;
            a.T = PREFILL, a.pos = 0;
            t = now();
            run[f](&a, 0, 1);
            if (r >= 0)
                prefill[f][r] =
                    (now() - t) * 1e9 / (heads * (double)(PREFILL * (PREFILL + 1)) / 2.0);
        }
    printf("attend %s, %d/%d heads x %d, position %d\n", variant, heads, kv_heads, D, pos);
    const double d0 = median(decode[0]), p0 = median(prefill[0]);
    for (size_t f = 0; f < COUNT(formats); f++) {
        const double d = median(decode[f]), p = median(prefill[f]);
        printf("  %-13s decode %7.2f ns per key and kv head, %5.2f x f16   prefill %6.3f ns per "
               "pair, %5.2f x f16\n",
               formats[f].name, d, d0 / d, p, p0 / p);
    }
    munmap(k, LAYERS * cache);
    munmap(v, LAYERS * cache);
}

static void hadamard(int n, int base)
{
    enum { ROWS = 64 };
    static const char *const results[] = {"f32", "s8, static", "s8, dynamic"};
    char *x = big((size_t)(ROWS * n) * 4), *y = big((size_t)(ROWS * n) * 4),
         *scratch = big((size_t)n * 8 + 256);
    char *b = big((size_t)((base + 15) / 16 * 16 * base) * 4), *scales = big(ROWS * 4);
    printf("hadamard %s, %d = %d x %d, ns per row:", variant, n, base, n / base);
    for (int i = 0; i < 3; i++) {
        const KtConst c[] = {{"K", n},        {"N", n},       {"base", base},
                             {"scale", 0.02}, {"fmt", i > 0}, {"static", i == 1}};
        PfqKernel *run = kernel("hadamard", c, COUNT(c));
        const PfqArgs a = {.in = {x},
                           .aux = {NULL, scales},
                           .out = {y, scales},
                           .w = b,
                           .scratch = scratch,
                           .T = ROWS};
        double best[MAX_ROUNDS];
        run(&a, 0, 1);
        for (int r = 0; r < rounds; r++) {
            const double t = now();
            run(&a, 0, 1);
            best[r] = (now() - t) * 1e9 / (double)ROWS;
        }
        const double middle = median(best); /* sorts */
        printf(" %s %.0f (best %.0f)", results[i], middle, best[0]);
    }
    printf("\n");
}

int main(int argc, char **argv)
{
    const int pos = argc > 3 ? atoi(argv[3]) : 2047;
    rounds = argc > 4 ? atoi(argv[4]) : rounds;
    if (argc < 3 || pos < 0 || pos > 32767 || rounds < 1 || rounds > MAX_ROUNDS ||
        !mkdtemp(folder)) {
        fprintf(stderr, "usage: bench_heads SOURCE_DIR VARIANT [pos] [rounds]\n");
        return 2;
    }
    source = argv[1], variant = argv[2];
    attention(9, 3, 64, pos);
    attention(32, 8, 128, pos);
    hadamard(1536, 12);
    hadamard(8192, 1);
    hadamard(11008, 43);
    hadamard(18944, 148);
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command) != 0;
}
