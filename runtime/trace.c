/* Recording and writing of timelines. Contract: trace.h. */
#include "runtime/trace.h"

#include "runtime/cuda.h"
#include "runtime/file.h"
#include "runtime/json.h"
#include "runtime/out.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_KERNELS = 256, MAX_EVENTS = 1 << 18 };

typedef struct Event {
    double start, end; /* seconds */
    int32_t call;      /* of its phase; -1: the phase itself */
    int32_t rows, pos; /* of the phase */
    int phase;         /* PfqPhaseId, PfqCudaPhaseId */
    bool batch;        /* of a CPU's: each row is a sequence of its own */
} Event;

typedef struct Thread {
    Event *event; /* [MAX_EVENTS] */
    int32_t n, call;
    int64_t lost;
    Event phase;              /* in work */
    PfqKernel *const *kernel; /* the variant's */
} Thread;

struct PfqTrace {
    const PfqModel *model;
    const PfqCudaCode *gpu;  /* NULL: CPU threads */
    double start, read_gb_s; /* 0: not measured */
    PfqSave save;
    int threads;
    Thread thread[]; /* [threads] */
};

/* ---- recording ---- */

/* initial-exec: programs would need the loader's own functions for any other model. */
static _Thread_local Thread *current __attribute__((tls_model("initial-exec")));

static void record(Thread *t, const Event *e)
{
    if (t->n < MAX_EVENTS) {
        t->event[t->n++] = *e;
    } else {
        t->lost++;
    }
}

static void traced(int kernel, const PfqArgs *a, int tid, int nt)
{
    Thread *t = current;
    Event e = t->phase;
    e.start = pfq_now();
    t->kernel[kernel](a, tid, nt);
    e.end = pfq_now();
    e.call = t->call++;
    record(t, &e);
}

/* A kernel is not told which it is: hence a function for each place in the table, 0x00 to 0xff. */
/* clang-format off */
#define HEX(X, high)                                                                               \
    X(high##0) X(high##1) X(high##2) X(high##3) X(high##4) X(high##5) X(high##6) X(high##7)        \
    X(high##8) X(high##9) X(high##a) X(high##b) X(high##c) X(high##d) X(high##e) X(high##f)
#define ALL(X)                                                                                     \
    HEX(X, 0x0) HEX(X, 0x1) HEX(X, 0x2) HEX(X, 0x3) HEX(X, 0x4) HEX(X, 0x5) HEX(X, 0x6)            \
    HEX(X, 0x7) HEX(X, 0x8) HEX(X, 0x9) HEX(X, 0xa) HEX(X, 0xb) HEX(X, 0xc) HEX(X, 0xd)            \
    HEX(X, 0xe) HEX(X, 0xf)
/* clang-format on */
#define DEFINE(i)                                                                                  \
    static void traced_##i(const PfqArgs *a, int tid, int nt)                                      \
    {                                                                                              \
        traced(i, a, tid, nt);                                                                     \
    }
#define NAME(i) traced_##i,
ALL(DEFINE)
static PfqKernel *const table[MAX_KERNELS] = {ALL(NAME)};

PfqKernel *const *pfq_trace_begin(PfqTrace *t, int tid, PfqPhaseId phase, const PfqExec *x)
{
    current = &t->thread[tid];
    current->call = 0;
    current->phase = (Event){.start = pfq_now(),
                             .call = -1,
                             .rows = x->T,
                             .pos = x->pos,
                             .phase = (int)phase,
                             .batch = x->rows != NULL};
    return table;
}

void pfq_trace_end(PfqTrace *t, int tid)
{
    Thread *thread = &t->thread[tid];
    thread->phase.end = pfq_now();
    record(thread, &thread->phase);
}

void pfq_trace_gpu(PfqTrace *t, PfqCudaPhaseId phase, int32_t call, int32_t rows, int32_t pos,
                   double start, double end)
{
    record(&t->thread[0], &(Event){.start = start,
                                   .end = end,
                                   .call = call,
                                   .rows = rows,
                                   .pos = pos,
                                   .phase = (int)phase});
}

void pfq_trace_read(PfqTrace *t, double gb_s)
{
    t->read_gb_s = gb_s;
}

/* ---- start, finish ---- */

static void release(PfqTrace *t)
{
    for (int i = 0; i < t->threads; i++) {
        free(t->thread[i].event);
    }
    free(t);
}

PfqTrace *pfq_trace_start(const char *path, const PfqModel *m, const PfqVariant *cpu,
                          const PfqCudaCode *gpu, int threads, PfqErr *err)
{
    if (cpu && m->n_kernels > MAX_KERNELS) {
        pfq_fail(err, "--trace: the program has %d kernels, at most %d can be traced", m->n_kernels,
                 MAX_KERNELS);
        return NULL;
    }
    PfqTrace *t = calloc(1, sizeof *t + (size_t)threads * sizeof *t->thread);
    bool ok = t != NULL;
    for (int i = 0; ok && i < threads; i++) {
        t->thread[i].kernel = cpu ? cpu->kernel : NULL;
        t->thread[i].event = malloc(MAX_EVENTS * sizeof *t->thread[i].event);
        ok = t->thread[i].event != NULL;
        t->threads = i + 1;
    }
    if (!ok) {
        pfq_fail(err, "out of memory for the trace of %d threads", threads);
    } else if (pfq_save_open(&t->save, path, err)) {
        t->model = m;
        t->gpu = gpu;
        t->start = pfq_now();
        return t;
    } else {
        pfq_save_close(&t->save, false, err);
    }
    if (t) {
        release(t);
    }
    return NULL;
}

/* ---- writing ---- */

static void json_text(FILE *f, const char *s)
{
    fputc('"', f);
    for (; *s; s++) {
        char code[8];
        fwrite(code, 1, pfq_json_escape((unsigned char)*s, code), f);
    }
    fputc('"', f);
}

/* The step of a phase; NULL if the program does not say. */
static const PfqStep *find_step(int phase, int32_t step)
{
    const PfqSteps *s = pfq_steps ? &pfq_steps[phase] : NULL;
    for (int32_t i = 0; s && step && i < s->n; i++) {
        if (s->call[i].step == step) {
            return &s->call[i];
        }
    }
    return NULL;
}

typedef struct Slice {
    const char *name, *phase;
    const char *of;          /* of a batch: the phase that has the step; else NULL */
    const PfqStep *step;     /* NULL: not known, or the phase itself */
    const PfqCudaCall *call; /* NULL: a CPU's, or the phase itself */
} Slice;

static Slice slice_of(const PfqTrace *t, const Event *e)
{
    static const char *const phases[] = {"prefill", "logits", "decode"};
    static const char *const gpu_phases[] = {"prefill", "logits", "decode", "decode",
                                             "batch",   "batch",  "sample"};
    Slice s = {.phase = e->batch ? "batch" : t->gpu ? gpu_phases[e->phase] : phases[e->phase]};
    if (t->gpu && e->call >= 0) {
        s.call = &t->gpu->phase[e->phase].call[e->call];
        s.step = find_step(s.call->phase, s.call->step);
    } else if (e->call >= 0 && pfq_steps && e->call < pfq_steps[e->phase].n) {
        s.step = &pfq_steps[e->phase].call[e->call];
    }
    if (strcmp(s.phase, "batch") == 0 && s.step) {
        s.of = phases[s.call ? s.call->phase : e->phase];
    }
    s.name = s.step        ? s.step->name
             : e->call < 0 ? s.phase
             : s.call      ? t->gpu->kernel[s.call->kernel].name
                           : "call";
    return s;
}

/* What a GPU's call reached of what it needs at least. */
static void write_rates(const PfqTrace *t, FILE *f, const Event *e, const PfqCudaCall *call)
{
    const bool each = e->phase == PFQ_CUDA_BATCH || e->phase == PFQ_CUDA_STEPS;
    const double keys = e->pos + (each ? 1 : 0.5 * (e->rows + 1)), us = 1e6 * (e->end - e->start);
    const PfqGpuWork w = pfq_gpu_call_work(call, e->rows, keys, each);
    fprintf(f, ", \"kernel\": ");
    json_text(f, t->gpu->kernel[call->kernel].name);
    if (us > 0 && w.bytes > 0) {
        fprintf(f, ", \"GB/s\": %.1f, \"TOPS\": %.2f", 1e-3 * w.bytes / us, 1e-6 * w.ops / us);
    }
}

static void write_event(const PfqTrace *t, FILE *f, int tid, const Event *e)
{
    const Slice s = slice_of(t, e);
    fprintf(f,
            ",\n{\"ph\": \"X\", \"pid\": 1, \"tid\": %d, \"ts\": %.3f, \"dur\": %.3f, \"name\": ",
            tid, 1e6 * (e->start - t->start), 1e6 * (e->end - e->start));
    json_text(f, s.name);
    fprintf(f, ", \"cat\": \"%s\", \"args\": {\"rows\": %d, \"pos\": %d", s.phase, e->rows, e->pos);
    if (e->call >= 0) {
        fprintf(f, ", \"call\": %d", e->call);
    }
    if (s.step) {
        if (s.of) {
            fprintf(f, ", \"phase\": \"%s\"", s.of);
        }
        fprintf(f, ", \"step\": %d, \"layer\": %d, \"ops\": ", s.step->step, s.step->layer);
        json_text(f, s.step->ops);
    }
    if (s.call) {
        write_rates(t, f, e, s.call);
    }
    fprintf(f, "}}");
}

static void write_events(PfqTrace *t)
{
    FILE *f = t->save.f;
    fprintf(f, "{\"displayTimeUnit\": \"ns\", \"traceEvents\": [\n"
               "{\"ph\": \"M\", \"pid\": 1, \"name\": \"process_name\", \"args\": {\"name\": ");
    json_text(f, t->model->name);
    fprintf(f, "}}");
    if (t->read_gb_s > 0) {
        fprintf(
            f,
            ",\n{\"ph\": \"M\", \"pid\": 1, \"name\": \"plain_read\", \"args\": {\"gb_s\": %.2f}}",
            t->read_gb_s);
    }
    for (int i = 0; i < t->threads; i++) {
        fprintf(f,
                ",\n{\"ph\": \"M\", \"pid\": 1, \"tid\": %d, \"name\": \"thread_name\", \"args\": "
                "{\"name\": \"%s %d\"}}",
                i, t->gpu ? "GPU stream" : "thread", i);
        for (int32_t k = 0; k < t->thread[i].n; k++) {
            write_event(t, f, i, &t->thread[i].event[k]);
        }
    }
    fprintf(f, "\n]}\n");
}

bool pfq_trace_finish(PfqTrace *t, bool ok, int64_t *lost, PfqErr *err)
{
    *lost = 0;
    for (int i = 0; i < t->threads; i++) {
        *lost += t->thread[i].lost;
    }
    if (ok) {
        write_events(t);
    }
    ok = pfq_save_close(&t->save, ok, err);
    release(t);
    return ok;
}
