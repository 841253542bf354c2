/* `bench` on a GPU: time of a prompt and of steps of generation, for one sequence or a batch, and
 * of every kernel in them.
 *
 * Work is enqueued without waiting and without fetching logits: the tokens are made up, so a step
 * needs nothing of the one before it. Bytes and operations are what the calls need at least
 * (PfqCudaCost: weights once, activations, the keys of every sequence); the memory is compared with
 * a copy inside the GPU, measured in the same run, and integer products with the rate of the chip's
 * tensor cores at its highest clock, where that is known.
 */
#include "runtime/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct GpuTest {
    char name[64];
    bool prompt;
    int32_t n, batch;
    PfqGpuWork work; /* of a run */
    double *seconds; /* [repetitions] */
} GpuTest;

typedef struct GpuBench {
    PfqCli *c;
    PfqGpu *gpu;
    const int32_t *tokens;
    int32_t *some; /* [rows] tokens, row numbers */
    PfqRow *rows;
    int32_t depth;
    double copy_rate, ops_rate;
    GpuTest test[2];
    int n_tests;
} GpuBench;

/* ---- runs ---- */

static bool start(GpuBench *b, PfqCudaPhaseId phase, int32_t n)
{
    return pfq_gpu_start(b->gpu, phase, b->some, b->rows, n, &b->c->err);
}

/* Chunk of n tokens at position pos of slot 0. */
static bool start_chunk(GpuBench *b, int32_t pos, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        b->some[i] = b->tokens[i];
        b->rows[i] = (PfqRow){.pos = pos + i};
    }
    return start(b, PFQ_CUDA_PREFILL, n);
}

static bool start_prompt(GpuBench *b, int32_t pos, int32_t n, bool logits)
{
    const int32_t chunk = b->c->model->chunk;
    int32_t last = 0;
    for (int32_t i = 0; i < n; i += chunk) {
        last = n - i < chunk ? n - i : chunk;
        if (!start_chunk(b, pos + i, last)) {
            return false;
        }
    }
    b->some[0] = last - 1;
    return !logits || start(b, PFQ_CUDA_LOGITS, 1);
}

static PfqCudaPhaseId step_phase(const GpuBench *b, const GpuTest *t)
{
    return t->batch > 1 ? pfq_gpu_batch_phase(b->gpu, t->batch) : pfq_gpu_decode_phase(b->gpu);
}

static bool start_step(GpuBench *b, const GpuTest *t, int32_t i)
{
    for (int32_t s = 0; s < t->batch; s++) {
        b->some[s] = b->tokens[(i + s) % t->n];
        b->rows[s] = (PfqRow){.pos = b->depth + i, .slot = s};
    }
    return start(b, step_phase(b, t), t->batch);
}

static bool run_once(GpuBench *b, const GpuTest *t, double *seconds)
{
    const double begin = pfq_now();
    bool ok = t->prompt ? start_prompt(b, b->depth, t->n, true) : true;
    for (int32_t i = 0; ok && !t->prompt && i < t->n; i++) {
        ok = start_step(b, t, i);
    }
    ok = ok && pfq_gpu_wait(b->gpu, &b->c->err);
    *seconds = pfq_now() - begin;
    return ok;
}

/* The context that every sequence has before it is measured. */
static bool fill_context(GpuBench *b, int32_t batch)
{
    bool ok = !b->depth || start_prompt(b, 0, b->depth, false);
    for (int32_t s = 1; ok && b->depth && s < batch; s++) {
        ok = pfq_gpu_copy(b->gpu, (PfqRow){0}, (PfqRow){.slot = s}, b->depth, &b->c->err);
    }
    return ok && pfq_gpu_wait(b->gpu, &b->c->err);
}

/* What is measured call by call: a chunk, or a step. */
static PfqCudaPhaseId phase_of(const GpuBench *b, const GpuTest *t)
{
    return t->prompt ? PFQ_CUDA_PREFILL : step_phase(b, t);
}

static int32_t rows_of(const GpuBench *b, const GpuTest *t)
{
    const int32_t chunk = b->c->model->chunk;
    return !t->prompt ? t->batch : t->n < chunk ? t->n : chunk;
}

static void add(PfqGpuWork *sum, PfqGpuWork w)
{
    sum->ops += w.ops;
    sum->bytes += w.bytes;
}

static PfqGpuWork work_of(const GpuBench *b, const GpuTest *t)
{
    const int32_t chunk = b->c->model->chunk;
    PfqGpuWork sum = {0};
    for (int32_t i = 0; t->prompt && i < t->n; i += chunk) {
        const int32_t n = t->n - i < chunk ? t->n - i : chunk;
        add(&sum, pfq_gpu_work(b->gpu, PFQ_CUDA_PREFILL, n, b->depth + i + 0.5 * (n + 1), false));
    }
    if (t->prompt) {
        add(&sum, pfq_gpu_work(b->gpu, PFQ_CUDA_LOGITS, 1, 0, false));
    }
    for (int32_t i = 0; !t->prompt && i < t->n; i++) {
        add(&sum, pfq_gpu_work(b->gpu, step_phase(b, t), t->batch, b->depth + i + 1, true));
    }
    return sum;
}

static bool measure(GpuBench *b)
{
    const int64_t reps = b->c->opt.repetitions;
    PfqProgress progress;
    double ignored;
    for (int i = 0; i < 2 * b->n_tests; i++) { /* what comes twice is recorded */
        if (!run_once(b, &b->test[i / 2], &ignored)) {
            return false;
        }
    }
    pfq_progress_start(&progress, "bench");
    for (int64_t r = 0; r < reps; r++) {
        for (int i = 0; i < b->n_tests; i++) {
            if (!run_once(b, &b->test[i], &b->test[i].seconds[r])) {
                return false;
            }
            pfq_progress(&progress, r * b->n_tests + i + 1, reps * b->n_tests, b->test[i].name);
        }
    }
    pfq_progress_end(&progress);
    return true;
}

/* ---- tables ---- */

typedef struct Row {
    double ms, tok_s, sd, gb_s, copy_pct, tops;
} Row;

static Row summary(const GpuBench *b, const GpuTest *t)
{
    Row r;
    double mean, ignored, tok_s[64];
    const int reps = (int)b->c->opt.repetitions, n = reps < 64 ? reps : 64;
    const double tokens = (double)t->n * t->batch;
    pfq_mean_sd(t->seconds, reps, &mean, &ignored);
    for (int i = 0; i < n; i++) {
        tok_s[i] = tokens / t->seconds[i];
    }
    pfq_mean_sd(tok_s, n, &r.tok_s, &r.sd);
    r.ms = 1e3 * mean / (t->prompt ? 1 : t->n);
    r.gb_s = t->work.bytes / mean / 1e9;
    r.copy_pct = b->copy_rate > 0 ? 1e11 * r.gb_s / b->copy_rate : NAN;
    r.tops = t->work.ops / mean / 1e12;
    return r;
}

static void percent(char *out, size_t cap, double v)
{
    snprintf(out, cap, isfinite(v) ? "%.1f" : "-", v);
}

static void print_md(GpuBench *b)
{
    PfqCli *c = b->c;
    const PfqEngine *e = &c->engine;
    char copied[32];
    pfq_out_printf(c->out,
                   "%s %s on CUDA %s, %s; %.2f GiB of weights, copy %.0f GB/s\n\n"
                   "| test | ms | t/s | GB/s | %% of copy | TOPS |\n"
                   "| --- | ---: | ---: | ---: | ---: | ---: |\n",
                   c->model->name, c->model->recipe, e->code, e->chip,
                   (double)e->gpu_choice.code->weight_bytes / 1073741824.0, b->copy_rate / 1e9);
    for (int i = 0; i < b->n_tests; i++) {
        const Row r = summary(b, &b->test[i]);
        percent(copied, sizeof copied, r.copy_pct);
        pfq_out_printf(c->out, "| %s | %.3f | %.2f \u00b1 %.2f | %.1f | %s | %.1f |\n",
                       b->test[i].name, r.ms, r.tok_s, r.sd, r.gb_s, copied, r.tops);
    }
}

static void print_json(GpuBench *b)
{
    PfqCli *c = b->c;
    PfqOut *out = c->out;
    pfq_out_printf(out, "[");
    for (int i = 0; i < b->n_tests; i++) {
        const GpuTest *t = &b->test[i];
        const Row r = summary(b, t);
        const struct {
            const char *key;
            double v;
        } numbers[] = {
            {"size_bytes", (double)c->engine.gpu_choice.code->weight_bytes},
            {"params", (double)c->model->params},
            {"n_prompt", t->prompt ? t->n : 0},
            {"n_gen", t->prompt ? 0 : t->n},
            {"n_depth", b->depth},
            {"batch", t->batch},
            {"ms", r.ms},
            {"tok_s", r.tok_s},
            {"stddev", r.sd},
            {"gb_s", r.gb_s},
            {"copy_gb_s", b->copy_rate / 1e9},
            {"copy_pct", r.copy_pct},
            {"tops", r.tops},
        };
        pfq_out_printf(out, "%s\n  {\"model\": ", i ? "," : "");
        pfq_out_json_string(out, c->model->name);
        pfq_out_printf(out, ", \"recipe\": ");
        pfq_out_json_string(out, c->model->recipe);
        pfq_out_printf(out, ", \"backend\": \"CUDA\", \"variant\": ");
        pfq_out_json_string(out, c->engine.code);
        pfq_out_printf(out, ", \"device\": ");
        pfq_out_json_string(out, c->engine.chip);
        pfq_out_printf(out, ", \"test\": ");
        pfq_out_json_string(out, t->name);
        for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) {
            pfq_out_printf(out, ", \"%s\": ", numbers[k].key);
            pfq_out_json_number(out, numbers[k].v);
        }
        pfq_out_printf(out, ", \"samples_s\": [");
        for (int64_t k = 0; k < c->opt.repetitions; k++) {
            pfq_out_printf(out, k ? ", " : "");
            pfq_out_json_number(out, t->seconds[k]);
        }
        pfq_out_printf(out, "]}");
    }
    pfq_out_printf(out, "\n]\n");
}

/* ---- kernels ---- */

typedef struct KernelRow {
    const char *name;
    int calls;
    double us;
    PfqGpuWork work;
} KernelRow;

static int by_time(const void *x, const void *y)
{
    const double a = ((const KernelRow *)x)->us, b = ((const KernelRow *)y)->us;
    return (a < b) - (a > b);
}

static int gather(const PfqGpuTime *times, int32_t n, KernelRow *rows)
{
    int n_rows = 0;
    for (int32_t i = 0; i < n; i++) {
        int k = 0;
        while (k < n_rows && strcmp(rows[k].name, times[i].kernel) != 0) {
            k++;
        }
        if (k == n_rows) {
            rows[n_rows++] = (KernelRow){.name = times[i].kernel};
        }
        rows[k].calls++;
        rows[k].us += times[i].us;
        add(&rows[k].work, times[i].work);
    }
    qsort(rows, (size_t)n_rows, sizeof *rows, by_time);
    return n_rows;
}

/* The roofline: the time that memory and tensor cores allow. */
static void print_kernel(GpuBench *b, const KernelRow *k, double total)
{
    const double s = k->us * 1e-6, gb = k->work.bytes / s, ops = k->work.ops / s,
                 memory = b->copy_rate > 0 ? gb / b->copy_rate : 0,
                 tensor = b->ops_rate > 0 ? ops / b->ops_rate : 0;
    pfq_out_printf(b->c->out, "| %s | %d | %.2f | %.3f | %.1f | %.0f | %.1f | %.1f%% of %s |\n",
                   k->name, k->calls, k->us / k->calls, k->us * 1e-3, 100 * k->us / total, gb / 1e9,
                   ops / 1e12, 100 * (memory > tensor ? memory : tensor),
                   memory > tensor ? "copy" : "tensor");
}

/* The tests one behind the other. */
static void trace(GpuBench *b, const GpuTest *t, const PfqGpuTime *times, int32_t n)
{
    const PfqCudaPhaseId phase = phase_of(b, t);
    const double start = pfq_now();
    double end = start;
    for (int32_t i = 0; b->c->trace && i < n; i++) {
        const double at = start + 1e-6 * times[i].start;
        end = at + 1e-6 * times[i].us;
        pfq_trace_gpu(b->c->trace, phase, times[i].call, rows_of(b, t), b->depth, at, end);
    }
    if (b->c->trace) {
        pfq_trace_gpu(b->c->trace, phase, -1, rows_of(b, t), b->depth, start, end);
    }
}

/* Times of a test's calls, means over the repetitions, for a chunk or a step. */
static bool time_calls(GpuBench *b, const GpuTest *t, PfqGpuTime *out, int32_t *n)
{
    const PfqCudaPhaseId phase = phase_of(b, t);
    const int32_t rows = rows_of(b, t);
    const double keys = t->prompt ? b->depth + 0.5 * (rows + 1) : b->depth + 1;
    const int64_t reps = b->c->opt.repetitions;
    PfqGpuTime *one = calloc((size_t)pfq_gpu_calls(b->gpu, phase) + 1, sizeof *one);
    bool ok = one ? true : pfq_fail(&b->c->err, "out of memory for the times of kernels");
    for (int64_t r = 0; ok && r < reps; r++) {
        ok = (t->prompt ? start_chunk(b, b->depth, rows) : start_step(b, t, 0)) &&
             pfq_gpu_times(b->gpu, phase, rows, keys, !t->prompt, one, n, &b->c->err);
        for (int32_t i = 0; ok && i < *n; i++) {
            const PfqGpuTime sum = r ? out[i] : (PfqGpuTime){0};
            out[i] = one[i];
            out[i].us = sum.us + one[i].us / (double)reps;
            out[i].start = sum.start + one[i].start / (double)reps;
        }
    }
    free(one);
    return ok;
}

static bool per_kernel(GpuBench *b, int test)
{
    const GpuTest *t = &b->test[test];
    const int32_t calls = pfq_gpu_calls(b->gpu, phase_of(b, t));
    PfqGpuTime *times = calloc((size_t)calls + 1, sizeof *times);
    KernelRow *rows = calloc((size_t)calls + 1, sizeof *rows);
    int32_t n = 0;
    bool ok = times && rows ? true : pfq_fail(&b->c->err, "out of memory for the times of kernels");
    ok = ok && time_calls(b, t, times, &n);
    const int n_rows = ok ? gather(times, n, rows) : 0;
    double total = 0;
    for (int i = 0; i < n_rows; i++) {
        total += rows[i].us;
    }
    if (ok && b->c->opt.per_kernel) {
        pfq_out_printf(b->c->out,
                       "\n%s, %s: %d launches, %.3f ms one by one\n\n"
                       "| kernel | calls | us | ms | %% | GB/s | TOPS | roofline |\n"
                       "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
                       t->name, t->prompt ? "a chunk" : "a step", n, total * 1e-3);
        for (int i = 0; i < n_rows; i++) {
            print_kernel(b, &rows[i], total);
        }
    }
    if (ok) {
        trace(b, t, times, n);
    }
    free(rows);
    free(times);
    return ok;
}

static bool all_kernels(GpuBench *b)
{
    PfqCli *c = b->c;
    if (!c->opt.per_kernel && !c->opt.trace) {
        return true;
    }
    bool ok = true;
    for (int i = 0; ok && i < b->n_tests; i++) {
        ok = per_kernel(b, i);
    }
    return ok;
}

/* ---- command ---- */

static void add_test(GpuBench *b, bool prompt, int64_t n, int32_t batch, double *seconds)
{
    if (n == 0) {
        return;
    }
    GpuTest *t = &b->test[b->n_tests++];
    *t = (GpuTest){.prompt = prompt, .n = (int32_t)n, .batch = batch, .seconds = seconds};
    int at = snprintf(t->name, sizeof t->name, "%s%lld", prompt ? "pp" : "tg", (long long)n);
    if (batch > 1) {
        at += snprintf(t->name + at, sizeof t->name - (size_t)at, " b%d", batch);
    }
    if (b->depth) {
        snprintf(t->name + at, sizeof t->name - (size_t)at, " @ d%d", b->depth);
    }
}

bool pfq_bench_cuda(PfqCli *c, const int32_t *tokens)
{
    const size_t reps = (size_t)c->opt.repetitions,
                 rows =
                     (size_t)(c->model->chunk > c->model->rows ? c->model->chunk : c->model->rows);
    double *seconds = calloc(2 * reps, sizeof *seconds);
    GpuBench b = {.c = c,
                  .gpu = c->engine.gpu,
                  .tokens = tokens,
                  .some = calloc(rows, sizeof *b.some),
                  .rows = calloc(rows, sizeof *b.rows),
                  .depth = (int32_t)c->opt.n_depth,
                  .ops_rate = c->engine.gpu_choice.ops_rate};
    bool ok = seconds && b.some && b.rows ? true : pfq_fail(&c->err, "out of memory for the bench");
    if (ok) {
        add_test(&b, true, c->opt.n_prompt, 1, seconds);
        add_test(&b, false, c->opt.n_gen, (int32_t)c->opt.batch, seconds + reps);
    }
    ok = ok && pfq_gpu_copy_rate(b.gpu, &b.copy_rate, &c->err) &&
         fill_context(&b, (int32_t)c->opt.batch) && measure(&b);
    for (int i = 0; ok && i < b.n_tests; i++) {
        b.test[i].work = work_of(&b, &b.test[i]);
    }
    if (ok) {
        const bool json = c->opt.output && strcmp(c->opt.output, "json") == 0;
        (json ? print_json : print_md)(&b);
    }
    ok = ok && all_kernels(&b);
    free(b.rows);
    free(b.some);
    free(seconds);
    return ok;
}
