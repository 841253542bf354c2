/* `bench`: tokens per second of prompt processing (pp) and generation (tg), in llama-bench's
 * columns.
 *
 * Beside each measurement the same threads read the weight bytes of one token, so that every figure
 * carries the memory speed of the same moment: hosts are noisy. gb_s is weight bytes streamed per
 * second (pp: once per chunk), bw_pct its share of the plain read. Tokens are synthetic and always
 * the same. One warm-up run comes before the measured ones. GPUs: bench_cuda.c.
 */
#include "runtime/backend.h"
#include "runtime/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_SECONDS 0.05 /* at least, per repetition */
#define READ_BLOCK   ((size_t)4096)

typedef struct Test {
    char name[64];
    int32_t n;     /* tokens of a sequence */
    int32_t batch; /* sequences; of a prompt 1 */
    bool prompt;   /* pp or tg */
    double passes; /* over the weights in one run */
    int32_t *ids;  /* [batch] of a step, as the next */
    PfqRow *rows;
    double *tok_s, *read_gb_s;
} Test;

/* ---- the plain read ---- */

typedef struct ReadJob {
    const char *data;
    size_t bytes;
} ReadJob;

/* Defines void NAME(arg, tid, nt): xors this thread's share of the data together, front to back,
 * with eight loads in flight. One stream a thread is what the hardware prefetcher likes best: two
 * streams reached 75 % of it, four 50 % (one thread of a Zen 4 host, 95 MB). The result goes to
 * memory, so that the loads cannot be left out. (A macro: see DEFINE_EXP in sample.c.) */
#define DEFINE_READ(NAME, TARGET, LANES)                                                           \
    typedef int64_t Lanes_##NAME __attribute__((vector_size(8 * LANES)));                          \
                                                                                                   \
    TARGET static void NAME(void *arg, int tid, int nt)                                            \
    {                                                                                              \
        const ReadJob *job = arg;                                                                  \
        size_t blocks = job->bytes / READ_BLOCK, from = blocks * (size_t)tid / (size_t)nt;         \
        size_t to = blocks * ((size_t)tid + 1) / (size_t)nt;                                       \
        const Lanes_##NAME *p = (const Lanes_##NAME *)(job->data + from * READ_BLOCK);             \
        const Lanes_##NAME *end = (const Lanes_##NAME *)(job->data + to * READ_BLOCK);             \
        Lanes_##NAME a = {0}, b = a, c = a, d = a, e = a, f = a, g = a, h = a;                     \
        for (; p < end; p += 8) {                                                                  \
            a ^= p[0];                                                                             \
            b ^= p[1];                                                                             \
            c ^= p[2];                                                                             \
            d ^= p[3];                                                                             \
            e ^= p[4];                                                                             \
            f ^= p[5];                                                                             \
            g ^= p[6];                                                                             \
            h ^= p[7];                                                                             \
        }                                                                                          \
        volatile Lanes_##NAME sink = a ^ b ^ c ^ d ^ e ^ f ^ g ^ h;                                \
        (void)sink;                                                                                \
    }

DEFINE_READ(read_sse2, , 2)
DEFINE_READ(read_avx2, __attribute__((target("avx2"))), 4)

static double read_gb_s(PfqEngine *e, uint64_t bytes)
{
    ReadJob job = {e->exec.weights, bytes};
    PfqJob *read = __builtin_cpu_supports("avx2") ? read_avx2 : read_sse2;
    double start = pfq_now(), now = start;
    int64_t passes = 0;
    do {
        pfq_pool_run(e->pool, read, &job);
        passes++;
        now = pfq_now();
    } while (now - start < READ_SECONDS);
    return (double)bytes * (double)passes / (now - start) / 1e9;
}

/* ---- measurements ---- */

static int32_t synthetic(const PfqModel *m, int64_t i)
{
    return (int32_t)((uint64_t)(i + 1) * 2654435761u % (uint64_t)m->vocab);
}

/* A token of each of the test's sequences. */
static bool step(PfqCli *c, const Test *t, const int32_t *tokens, int32_t i)
{
    PfqEngine *e = &c->engine;
    if (t->batch == 1) {
        return pfq_engine_decode(e, tokens[i], &c->err) != NULL;
    }
    for (int32_t s = 0; s < t->batch; s++) {
        t->ids[s] = synthetic(c->model, (int64_t)i * t->batch + s);
        t->rows[s] = (PfqRow){.pos = (int32_t)c->opt.n_depth + i, .slot = s};
    }
    return pfq_engine_batch(e, t->ids, t->rows, t->batch, NULL, &c->err);
}

static bool run_once(PfqCli *c, const Test *t, const int32_t *tokens, double *seconds)
{
    PfqEngine *e = &c->engine;
    pfq_engine_seek(e, 0, (int32_t)c->opt.n_depth);
    double start = pfq_now();
    if (t->prompt) {
        if (!pfq_engine_prefill(e, tokens, t->n, PFQ_WANT_LAST, NULL, NULL, &c->err)) {
            return false;
        }
    } else {
        for (int32_t i = 0; i < t->n; i++) {
            if (!step(c, t, tokens, i)) {
                return false;
            }
        }
    }
    *seconds = pfq_now() - start;
    return true;
}

/* What every sequence has in front of the tests. */
static bool fill_context(PfqCli *c, const int32_t *tokens)
{
    const int32_t depth = (int32_t)c->opt.n_depth;
    bool ok = depth == 0 ||
              pfq_engine_prefill(&c->engine, tokens, depth, PFQ_WANT_NONE, NULL, NULL, &c->err);
    for (int32_t s = 1; ok && depth && s < c->engine.slots; s++) {
        ok = pfq_engine_copy(&c->engine, (PfqRow){0}, (PfqRow){.slot = s}, depth, &c->err);
    }
    return ok;
}

static bool measure(PfqCli *c, Test *tests, int n_tests, const int32_t *tokens, uint64_t bytes)
{
    int64_t reps = c->opt.repetitions;
    PfqProgress progress;
    double seconds;
    if (!fill_context(c, tokens)) {
        return false;
    }
    for (int i = 0; i < n_tests; i++) {
        if (!run_once(c, &tests[i], tokens, &seconds)) {
            return false;
        }
    }
    pfq_progress_start(&progress, "bench");
    for (int64_t r = 0; r < reps; r++) {
        for (int i = 0; i < n_tests; i++) {
            tests[i].read_gb_s[r] = bytes ? read_gb_s(&c->engine, bytes) : 0;
            if (!run_once(c, &tests[i], tokens, &seconds)) {
                return false;
            }
            tests[i].tok_s[r] = (double)tests[i].n * tests[i].batch / seconds;
            pfq_progress(&progress, r * n_tests + i + 1, reps * n_tests, tests[i].name);
        }
    }
    pfq_progress_end(&progress);
    if (c->trace && n_tests > 0) {
        double mean, sd;
        pfq_mean_sd(tests[n_tests - 1].read_gb_s, (int)reps, &mean, &sd);
        pfq_trace_read(c->trace, mean);
    }
    return true;
}

/* ---- tables ---- */

typedef struct Row {
    double tok_s, sd, gb_s, read_gb_s, bw_pct;
} Row;

static Row summary(const Test *t, int reps, uint64_t bytes)
{
    Row r;
    double ignored;
    pfq_mean_sd(t->tok_s, reps, &r.tok_s, &r.sd);
    pfq_mean_sd(t->read_gb_s, reps, &r.read_gb_s, &ignored);
    r.gb_s = (double)bytes * t->passes / ((double)t->n * t->batch) * r.tok_s / 1e9;
    r.bw_pct = r.read_gb_s == 0 ? 0 : 100 * r.gb_s / r.read_gb_s;
    return r;
}

static void human(char *out, size_t cap, double v, bool bytes)
{
    if (bytes) {
        snprintf(out, cap, v >= 1073741824.0 ? "%.2f GiB" : "%.2f MiB",
                 v / (v >= 1073741824.0 ? 1073741824.0 : 1048576.0));
    } else if (v <= 0) {
        snprintf(out, cap, "?");
    } else {
        snprintf(out, cap, v >= 1e9 ? "%.2f B" : "%.2f M", v / (v >= 1e9 ? 1e9 : 1e6));
    }
}

static void print_md(PfqCli *c, const Test *tests, int n_tests, uint64_t bytes)
{
    char model[96], size[32], params[32], backend[192];
    const PfqEngine *e = &c->engine;
    snprintf(model, sizeof model, "%s %s", c->model->name, c->model->recipe);
    snprintf(backend, sizeof backend, "%s %s", e->backend->title, e->code);
    human(size, sizeof size, (double)c->model->weight_bytes, true);
    human(params, sizeof params, (double)c->model->params, false);
    pfq_out_printf(
        c->out, "| model | size | params | backend | threads | test | t/s | GB/s | %% of read |\n"
                "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |\n");
    for (int i = 0; i < n_tests; i++) {
        Row r = summary(&tests[i], (int)c->opt.repetitions, bytes);
        pfq_out_printf(c->out, "| %s | %s | %s | %s | %d | %s | %.2f \u00b1 %.2f | %.2f | %.1f |\n",
                       model, size, params, backend, c->engine.threads, tests[i].name, r.tok_s,
                       r.sd, r.gb_s, r.bw_pct);
    }
}

static void json_samples(PfqOut *out, const char *key, const double *v, int64_t n)
{
    pfq_out_printf(out, ", \"%s\": [", key);
    for (int64_t i = 0; i < n; i++) {
        pfq_out_printf(out, i ? ", " : "");
        pfq_out_json_number(out, v[i]);
    }
    pfq_out_printf(out, "]");
}

static void print_json(PfqCli *c, const Test *tests, int n_tests, uint64_t bytes)
{
    PfqOut *out = c->out;
    pfq_out_printf(out, "[");
    for (int i = 0; i < n_tests; i++) {
        Row r = summary(&tests[i], (int)c->opt.repetitions, bytes);
        const struct {
            const char *key;
            double v;
        } numbers[] = {
            {"size_bytes", (double)c->model->weight_bytes},
            {"params", (double)c->model->params},
            {"threads", c->engine.threads},
            {"n_prompt", tests[i].prompt ? tests[i].n : 0},
            {"n_gen", tests[i].prompt ? 0 : tests[i].n},
            {"n_depth", (double)c->opt.n_depth},
            {"batch", tests[i].batch},
            {"tok_s", r.tok_s},
            {"stddev", r.sd},
            {"gb_s", r.gb_s},
            {"read_gb_s", r.read_gb_s},
            {"bw_pct", r.bw_pct},
        };
        pfq_out_printf(out, "%s\n  {\"model\": ", i ? "," : "");
        pfq_out_json_string(out, c->model->name);
        pfq_out_printf(out, ", \"recipe\": ");
        pfq_out_json_string(out, c->model->recipe);
        pfq_out_printf(out, ", \"backend\": \"%s\", \"variant\": ", c->engine.backend->title);
        pfq_out_json_string(out, c->engine.code);
        pfq_out_printf(out, ", \"test\": ");
        pfq_out_json_string(out, tests[i].name);
        for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) {
            pfq_out_printf(out, ", \"%s\": ", numbers[k].key);
            pfq_out_json_number(out, numbers[k].v);
        }
        json_samples(out, "samples_tok_s", tests[i].tok_s, c->opt.repetitions);
        json_samples(out, "samples_read_gb_s", tests[i].read_gb_s, c->opt.repetitions);
        pfq_out_printf(out, "}");
    }
    pfq_out_printf(out, "\n]\n");
}

/* ---- command ---- */

static void add_test(PfqCli *c, Test *tests, int *n_tests, const char *kind, int64_t n)
{
    if (n == 0) {
        return;
    }
    Test *t = &tests[(*n_tests)++];
    t->n = (int32_t)n;
    t->prompt = kind[0] == 'p';
    t->batch = t->prompt ? 1 : (int32_t)c->opt.batch;
    t->passes = t->prompt ? (double)((n + c->model->chunk - 1) / c->model->chunk) : (double)n;
    int at = snprintf(t->name, sizeof t->name, "%s%lld", kind, (long long)n);
    if (t->batch > 1) {
        at += snprintf(t->name + at, sizeof t->name - (size_t)at, " b%d", t->batch);
    }
    if (c->opt.n_depth) {
        snprintf(t->name + at, sizeof t->name - (size_t)at, " @ d%lld", (long long)c->opt.n_depth);
    }
}

bool pfq_cmd_bench(PfqCli *c)
{
    Test tests[2] = {0};
    int n_tests = 0, reps = (int)c->opt.repetitions;
    int64_t longest = c->opt.n_prompt > c->opt.n_gen ? c->opt.n_prompt : c->opt.n_gen;
    int64_t ctx = longest + c->opt.n_depth;
    add_test(c, tests, &n_tests, "pp", c->opt.n_prompt);
    add_test(c, tests, &n_tests, "tg", c->opt.n_gen);
    if (n_tests == 0) {
        c->usage = true;
        return pfq_fail(&c->err, "'bench' has nothing to measure: -p and -n are both 0");
    }
    if (!pfq_cli_load(c, ctx, false)) {
        return false;
    }
    if (!c->engine.gpu && c->opt.per_kernel) {
        return pfq_fail(&c->err, "--per-kernel is for GPUs: on a CPU --trace has the kernels' "
                                 "times");
    }
    uint64_t bytes = c->model->weight_bytes_per_token;
    bytes = bytes < c->engine.image.header->data_bytes ? bytes : c->engine.image.header->data_bytes;
    int64_t n_tokens = longest > c->opt.n_depth ? longest : c->opt.n_depth;
    int32_t *tokens = malloc((size_t)n_tokens * sizeof *tokens);
    double *samples = calloc((size_t)(4 * reps), sizeof *samples);
    int32_t *ids = calloc((size_t)c->opt.batch, sizeof *ids);
    PfqRow *rows = calloc((size_t)c->opt.batch, sizeof *rows);
    bool ok = tokens && samples && ids && rows
                  ? true
                  : pfq_fail(&c->err, "out of memory for %lld tokens", (long long)n_tokens);
    for (int64_t i = 0; ok && i < n_tokens; i++) {
        tokens[i] = synthetic(c->model, i);
    }
    for (int i = 0; ok && i < n_tests; i++) {
        tests[i].tok_s = samples + 2 * i * reps;
        tests[i].read_gb_s = tests[i].tok_s + reps;
        tests[i].ids = ids;
        tests[i].rows = rows;
    }
    if (ok && c->engine.gpu) {
        ok = pfq_bench_cuda(c, tokens);
    } else if (ok && measure(c, tests, n_tests, tokens, bytes)) {
        bool json = c->opt.output && strcmp(c->opt.output, "json") == 0;
        (json ? print_json : print_md)(c, tests, n_tests, bytes);
    } else {
        ok = false;
    }
    free(samples);
    free(tokens);
    free(ids);
    free(rows);
    return ok;
}
