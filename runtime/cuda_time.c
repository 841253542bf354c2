/* What a GPU needs for a model: single calls, and the rate of its memory. Contract: cuda.h. */
#include "runtime/cuda_int.h"

#include "runtime/out.h"
#include "runtime/trace.h"

#include <stdlib.h>

enum { COPIES = 8 };
#define COPY_BYTES ((uint64_t)512 << 20) /* far larger than any cache */

PfqGpuWork pfq_gpu_call_work(const PfqCudaCall *c, int32_t n, double keys, bool each)
{
    const PfqCudaCost *k = &c->cost;
    const double rows = n;
    return (PfqGpuWork){
        .ops = rows * ((double)k->ops + (double)k->key_ops * keys),
        .bytes = (double)k->weights + rows * (double)k->row_bytes +
                 (double)k->cache_bytes * keys * (each ? rows : 1),
    };
}

PfqGpuWork pfq_gpu_work(const PfqGpu *g, PfqCudaPhaseId phase, int32_t n, double keys, bool each)
{
    /* A step is decoding in other launches. */
    phase = phase == PFQ_CUDA_STEP    ? PFQ_CUDA_DECODE
            : phase == PFQ_CUDA_STEPS ? PFQ_CUDA_BATCH
                                      : phase;
    const PfqCudaPhase *p = g->phase[phase].table;
    PfqGpuWork sum = {0};
    for (int32_t i = 0; i < p->n; i++) {
        const PfqGpuWork w = pfq_gpu_call_work(&p->call[i], n, keys, each);
        sum.ops += pfq_gpu_wanted(g, phase, &p->call[i], n) ? w.ops : 0;
        sum.bytes += pfq_gpu_wanted(g, phase, &p->call[i], n) ? w.bytes : 0;
    }
    return sum;
}

int32_t pfq_gpu_calls(const PfqGpu *g, PfqCudaPhaseId phase)
{
    return g->phase[phase].table->n;
}

/* ---- events ---- */

void pfq_gpu_drop_events(PfqGpu *g, Events *e)
{
    for (int32_t i = 0; i < e->n; i++) {
        g->driver.cuEventDestroy_v2(e->at[i]);
    }
    free(e->at);
    *e = (Events){0};
}

static bool make_events(PfqGpu *g, Events *e, int32_t n, PfqErr *err)
{
    *e = (Events){.at = calloc((size_t)n, sizeof *e->at)};
    if (!e->at) {
        return pfq_fail(err, "out of memory for %d events", n);
    }
    for (; e->n < n; e->n++) {
        if (!CALL(g, cuEventCreate, "measuring", &e->at[e->n], 0)) {
            return false;
        }
    }
    return true;
}

static bool mark(PfqGpu *g, const Events *e, int32_t i, PfqErr *err)
{
    return CALL(g, cuEventRecord, "measuring", e->at[i], g->stream);
}

/* Milliseconds between two events that have passed. */
static bool elapsed(PfqGpu *g, const Events *e, int32_t from, int32_t to, float *ms, PfqErr *err)
{
    return CALL(g, cuEventElapsedTime, "measuring", ms, e->at[from], e->at[to]);
}

/* ---- the calls of a phase ---- */

/* An event in front of the first call and one behind each. */
static bool launch_marked(PfqGpu *g, PfqCudaPhaseId phase, int32_t n, const Events *e, PfqErr *err)
{
    const PfqCudaPhase *p = g->phase[phase].table;
    bool ok = mark(g, e, 0, err);
    for (int32_t i = 0, k = 0; ok && i < p->n; i++) {
        if (pfq_gpu_wanted(g, phase, &p->call[i], n)) {
            ok = pfq_gpu_launch(g, (int)phase, i, n, err) && mark(g, e, ++k, err);
        }
    }
    return ok;
}

/* The calls that launch_marked made, once they are done: when they began and ended, in us. */
static bool read_marks(PfqGpu *g, PfqCudaPhaseId phase, int32_t n, const Events *e, PfqGpuTime *out,
                       int32_t *n_out, PfqErr *err)
{
    const PfqCudaPhase *p = g->phase[phase].table;
    float from = 0, to = 0;
    *n_out = 0;
    for (int32_t i = 0; i < p->n; i++, from = to) {
        if (!pfq_gpu_wanted(g, phase, &p->call[i], n)) {
            continue;
        }
        if (!elapsed(g, e, 0, *n_out + 1, &to, err)) {
            return false;
        }
        out[(*n_out)++] = (PfqGpuTime){.kernel = g->code->kernel[p->call[i].kernel].name,
                                       .call = i,
                                       .start = 1e3 * (double)from,
                                       .us = 1e3 * (double)(to - from)};
    }
    return true;
}

bool pfq_gpu_times(PfqGpu *g, PfqCudaPhaseId phase, int32_t n, double keys, bool each,
                   PfqGpuTime *out, int32_t *n_out, PfqErr *err)
{
    const PfqCudaPhase *p = g->phase[phase].table;
    Events e;
    bool ok = make_events(g, &e, p->n + 1, err) && launch_marked(g, phase, n, &e, err) &&
              CALL(g, cuStreamSynchronize, "measuring", g->stream) &&
              read_marks(g, phase, n, &e, out, n_out, err);
    for (int32_t i = 0; ok && i < *n_out; i++) {
        out[i].work = *n_out == 1 ? pfq_gpu_work(g, phase, n, keys, each)
                                  : pfq_gpu_call_work(&p->call[out[i].call], n, keys, each);
    }
    pfq_gpu_drop_events(g, &e);
    return ok;
}

/* ---- a trace ---- */

bool pfq_gpu_trace(PfqGpu *g, struct PfqTrace *t, PfqErr *err)
{
    int32_t most = 0;
    for (int i = 0; i < PFQ_CUDA_N_PHASES; i++) {
        most = g->phase[i].table->n > most ? g->phase[i].table->n : most;
    }
    g->times = calloc((size_t)most + 1, sizeof *g->times);
    g->trace = t;
    return (g->times || pfq_fail(err, "out of memory for %d times", most)) &&
           make_events(g, &g->events, most + 1, err);
}

bool pfq_gpu_launch_traced(PfqGpu *g, int phase, int32_t n, PfqErr *err)
{
    g->began = pfq_now();
    return launch_marked(g, (PfqCudaPhaseId)phase, n, &g->events, err);
}

bool pfq_gpu_tell_trace(PfqGpu *g, int phase, int32_t n, int32_t pos, PfqErr *err)
{
    const PfqCudaPhaseId id = (PfqCudaPhaseId)phase;
    int32_t calls;
    double end = g->began;
    if (!read_marks(g, id, n, &g->events, g->times, &calls, err)) {
        return false;
    }
    for (int32_t i = 0; i < calls; i++) {
        const double start = g->began + 1e-6 * g->times[i].start;
        end = start + 1e-6 * g->times[i].us;
        pfq_trace_gpu(g->trace, id, g->times[i].call, n, pos, start, end);
    }
    pfq_trace_gpu(g->trace, id, -1, n, pos, g->began, end);
    return true;
}

/* ---- memory ---- */

static bool copy(PfqGpu *g, uint64_t at, uint64_t bytes, const Events *e, float *ms, PfqErr *err)
{
    bool ok = true;
    for (int i = 0; ok && i <= COPIES; i++) { /* the first is not measured */
        ok = CALL(g, cuMemcpyDtoDAsync_v2, "measuring", at + bytes, at, bytes, g->stream) &&
             (i || mark(g, e, 0, err));
    }
    return ok && mark(g, e, 1, err) && CALL(g, cuStreamSynchronize, "measuring", g->stream) &&
           elapsed(g, e, 0, 1, ms, err);
}

bool pfq_gpu_copy_rate(PfqGpu *g, double *rate, PfqErr *err)
{
    size_t free_bytes = 0, all = 0;
    uint64_t at = 0, bytes = COPY_BYTES;
    Events e = {0};
    float ms = 0;
    *rate = 0;
    if (!CALL(g, cuMemGetInfo_v2, "measuring", &free_bytes, &all)) {
        return false;
    }
    while (2 * bytes > free_bytes / 2) {
        bytes /= 2;
    }
    if (bytes < 1 << 20) {
        return true;
    }
    bool ok = CALL(g, cuMemAlloc_v2, "measuring", &at, 2 * bytes) && make_events(g, &e, 2, err) &&
              copy(g, at, bytes, &e, &ms, err);
    pfq_gpu_drop_events(g, &e);
    if (at) {
        ok = CALL(g, cuMemFree_v2, "measuring", at) && ok;
    }
    *rate = ok && ms > 0 ? 2.0 * (double)bytes * (double)COPIES / ((double)ms * 1e-3) : 0;
    return ok;
}
