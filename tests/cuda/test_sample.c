/* sample.cu on emulated threads against runtime/sample.c: the same token and the same state of the
 * random numbers, bit for bit, or the host is asked; over vocabularies, options and kinds of
 * logits. Which kinds may ask the host is stated. With SAMPLE_GPU the same on a GPU, see
 * sample_gpu.cu. */
#include "runtime/abi.h"
#include "runtime/sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))

#ifdef SAMPLE_GPU
void sample_on_gpu(const float *v, PfqCudaSampler *s, int32_t *token, PfqRow *row);
static bool simt_shuffle;
#else
#include "tests/cuda/simt.h"
SimtKernel pfq_cu_sample_runs_simt, pfq_cu_sample_choose_simt;
#endif

enum { MAX_VOCAB = 40000, DRAWS = 2, ROWS = 3 };

static PfqCudaToken ring[PFQ_CUDA_RING];
static int failures, cases, asked;

/* ---- logits ---- */

static uint64_t seed;

static float uniform(void)
{
    return (float)(pfq_random(&seed) >> 40) * 0x1p-24f;
}

/* A sum of a few, so that some are far above the others. */
static float normal(void)
{
    float x = -6;
    for (int i = 0; i < 12; i++)
        x += uniform();
    return x;
}

typedef void Fill(float *v, int32_t n);

static void model_like(float *v, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        v[i] = 3 * normal();
}
static void peaked(float *v, int32_t n)
{
    model_like(v, n);
    v[n / 3] = 90;
}
static void flat(float *v, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        v[i] = 0.001f * uniform();
}
static void ties(float *v, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        v[i] = rintf(2 * normal()) / 2 * (i & 1 ? 1 : -1); /* zeros of both signs */
}
static void equal(float *v, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        v[i] = -2.5f;
}
static void holes(float *v, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        v[i] = i % 3 == 0 ? NAN : i % 3 == 1 ? -INFINITY : normal();
}
static void one(float *v, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        v[i] = i == n - 1 ? -1e30f : i % 2 ? NAN : -INFINITY;
}
static void none(float *v, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        v[i] = i % 2 ? NAN : -INFINITY;
}
static void endless(float *v, int32_t n)
{
    model_like(v, n);
    v[n / 2] = INFINITY;
}
static void far_apart(float *v, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        v[i] = 3e38f * (2 * uniform() - 1);
}

static const struct {
    const char *name;
    Fill *fill;
    bool asks; /* the desk may be too small for it */
} kinds[] = {
    {"model-like", model_like, false},
    {"peaked", peaked, false},
    {"flat", flat, true},
    {"ties", ties, true},
    {"equal", equal, true},
    {"holes", holes, true},
    {"one", one, false},
    {"none", none, false},
    {"endless", endless, false},
    {"far apart", far_apart, false},
};

/* ---- options ---- */

static const PfqSampler options[] = {
    {.temp = 0, .top_p = 1},
    {.temp = 1, .top_p = 1},
    {.temp = 0.7, .top_p = 1},
    {.temp = 1e-300, .top_p = 1},
    {.temp = 0.8, .top_p = 0.95, .min_p = 0.05, .top_k = 40}, /* the programs' */
    {.temp = 1, .top_p = 1, .top_k = 1},
    {.temp = 1.5, .top_p = 1, .top_k = 100},
    {.temp = 1, .top_p = 0, .top_k = 40},
    {.temp = 1, .top_p = 0.9, .top_k = 1000000},
    {.temp = 1, .top_p = 0.5},
    {.temp = 1.3, .top_p = 0.9},
    {.temp = 1, .top_p = 0},
    {.temp = 1, .top_p = 1, .min_p = 0.1},
    {.temp = 2, .top_p = 0.9, .min_p = 0.01},
    {.temp = 1, .top_p = 1, .min_p = 1},
};

/* ---- one draw ---- */

/* As the second row of a batch whose others draw nothing. */
static void device(const float *v, PfqCudaSampler *s, int32_t *token, PfqRow *row)
{
#ifdef SAMPLE_GPU
    sample_on_gpu(v, s, token, row);
#else
    const int32_t runs = (s->vocab + PFQ_SAMPLE_RUN - 1) / PFQ_SAMPLE_RUN,
                  grid[3] = {(runs + 7) / 8, ROWS, 1}, each[3] = {1, ROWS, 1};
    double *work = malloc(ROWS * (size_t)runs * 40);
    memset(work, 0xff, ROWS * (size_t)runs * 40);
    PfqCudaSampler samplers[ROWS] = {[0] = {.vocab = s->vocab, .halted = 1}, [1] = *s};
    samplers[2] = samplers[0];
    int32_t tokens[ROWS] = {-5, *token, -5};
    PfqRow rows[ROWS] = {{.pos = -5}, *row, {.pos = -5}};
    PfqCudaArgs a = {.in = {(uintptr_t)v - sizeof *v * (size_t)s->vocab, (uintptr_t)samplers},
                     .out = {(uintptr_t)tokens},
                     .work = (uintptr_t)work,
                     .rows = (uintptr_t)rows,
                     .T = ROWS};
    pfq_cu_sample_runs_simt((const struct PfqCudaArgs *)&a, grid, 64, 0);
    pfq_cu_sample_choose_simt((const struct PfqCudaArgs *)&a, each, 512, 0);
    free(work);
    if (memcmp(&samplers[0], &samplers[2], sizeof *samplers) || samplers[0].count ||
        tokens[0] != -5 || tokens[2] != -5 || rows[0].pos != -5 || rows[2].pos != -5) {
        failures++;
        printf("FAIL rows that draw nothing have changed\n");
    }
    *s = samplers[1], *token = tokens[1], *row = rows[1];
#endif
}

static void fail(const char *what, size_t kind, size_t option, int32_t n, int64_t got, int64_t want)
{
    if (failures++ < 10)
        printf("FAIL %s: %s, options %zu, %d tokens: %lld, not %lld\n", what, kinds[kind].name,
               option, n, (long long)got, (long long)want);
}

/* A nucleus may be larger than the desk, and few lanes' largest bound no large top_k. */
static bool may_ask(const PfqSampler *s)
{
    const bool top = s->top_k > 0 && s->top_k < s->vocab;
    return top ? s->top_k > s->vocab / 32 : s->top_p < 1 && s->top_p > 0 && s->min_p <= 0;
}

static void draws(const float *v, int32_t n, size_t kind, size_t option)
{
    static float kept[MAX_VOCAB];
    PfqSampler host = options[option];
    host.state = 77 + (uint64_t)n;
    if (!pfq_sampler_init(&host, n)) abort();
    PfqCudaSampler s = {.scale = pfq_sample_scale(&host),
                        .top_p = host.top_p,
                        .min_p = host.min_p,
                        .span = pfq_sample_span(&host),
                        .state = host.state,
                        .ring = (uintptr_t)ring,
                        .kept = (uintptr_t)kept,
                        .top_k = host.top_k,
                        .vocab = n,
                        .count = 61};
    for (int i = 0; i < DRAWS; i++, cases++) {
        const PfqCudaToken *told = &ring[s.count % PFQ_CUDA_RING];
        PfqRow row = {.pos = 100};
        int32_t token = 12345;
        device(v, &s, &token, &row);
        const int32_t got = (int32_t)(uint32_t)told->word;
        if (told->word >> 32 != (uint64_t)(s.count - 1))
            fail("number", kind, option, n, s.count, 0);
        if (got == PFQ_HOST_CHOOSES) {
            asked++;
            if (!kinds[kind].asks && !may_ask(&host)) fail("asks", kind, option, n, 0, 0);
            if (s.state != host.state || told->state != s.state || !s.halted || row.pos != 100 ||
                token != 12345 || memcmp(kept, v, (size_t)n * sizeof *v))
                fail("left behind", kind, option, n, 0, 0);
            s.halted = 0;
            continue;
        }
        const int32_t want = pfq_sample(&host, v);
        if (got != want) fail("token", kind, option, n, got, want);
        if (s.state != host.state || told->state != s.state)
            fail("state", kind, option, n, (int64_t)s.state, (int64_t)host.state);
        if (token != (want < 0 ? 12345 : want) || row.pos != 100 + (want >= 0) ||
            s.halted != (want < 0))
            fail("next step", kind, option, n, token, want);
        if (s.halted) { /* then nothing is told */
            const PfqCudaSampler before = s;
            device(v, &s, &token, &row);
            if (memcmp(&before, &s, sizeof s)) fail("halted", kind, option, n, 0, 0);
            s.halted = 0;
        }
    }
    pfq_sampler_free(&host);
}

int main(void)
{
    static const int32_t vocabs[] = {1, 7, 64, 256, 257, 1000, 1024, 1025, 2049, 6000, MAX_VOCAB};
    static float v[MAX_VOCAB];
    for (size_t n = 0; n < COUNT(vocabs); n++)
        for (size_t k = 0; k < COUNT(kinds); k++) {
            seed = n;
            kinds[k].fill(v, vocabs[n]);
            simt_shuffle = (n + k) % 2;
            for (size_t o = 0; o < COUNT(options); o++)
                draws(v, vocabs[n], k, o);
        }
    printf("%d draws, the host was asked %d times, %d failures\n", cases, asked, failures);
    return failures != 0;
}
