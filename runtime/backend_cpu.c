/* The phases on this machine's cores: buffers, pool, pace. Contract: backend.h. */
#include "runtime/backend.h"

#include "runtime/cpu.h"
#include "runtime/out.h"
#include "runtime/trace.h"

#include <string.h>
#include <sys/mman.h>

static bool cpu_choose(PfqEngine *e, const PfqEngineConfig *c, PfqErr *err)
{
    e->variant = pfq_cpu_variant(e->model, pfq_cpu_features(), c->cpu, err);
    e->code = e->variant ? e->variant->name : NULL;
    return e->variant != NULL;
}

static bool map_buffers(PfqEngine *e, const PfqEngineConfig *c, PfqErr *err)
{
    const PfqModel *m = e->model;
    const uint64_t slots = (uint64_t)(e->slots + e->spare);
    uint64_t kv, scratch;
    if (__builtin_mul_overflow(m->kv_row_bytes, (uint64_t)pfq_padded_ctx(e), &e->exec.slot) ||
        __builtin_mul_overflow(e->exec.slot, slots, &kv) ||
        __builtin_add_overflow(m->scratch_bytes, 127, &scratch) ||
        __builtin_mul_overflow((scratch & ~(uint64_t)63), (uint64_t)e->threads, &scratch)) {
        return pfq_fail(err, "the size of the model's buffers overflows");
    }
    e->scratch_stride = (m->scratch_bytes + 127) &
                        ~(uint64_t)63; /* a line apart, so that threads do not share one */
    e->exec.act = pfq_map_buffer(e, PFQ_MAP_ACT, m->act_bytes, true, "activations", err);
    e->kv = e->exec.act ? pfq_map_buffer(e, PFQ_MAP_KV, kv, !c->sparse, "KV cache", err) : NULL;
    e->scratch =
        e->kv ? pfq_map_buffer(e, PFQ_MAP_SCRATCH, scratch, true, "threads' scratch", err) : NULL;
    return e->scratch != NULL;
}

static void copy_job(void *arg, int tid, int nt)
{
    PfqEngine *e = arg;
    size_t pages = (e->image.header->data_bytes + PFQ_HUGE_PAGE - 1) / PFQ_HUGE_PAGE;
    size_t from = pages * (size_t)tid / (size_t)nt * PFQ_HUGE_PAGE,
           to = pages * ((size_t)tid + 1) / (size_t)nt * PFQ_HUGE_PAGE;
    to = to < e->image.header->data_bytes ? to : e->image.header->data_bytes;
    char *copy = (char *)(uintptr_t)e->exec.weights;
    memcpy(copy + from, e->image.data + from, to - from);
}

/* Huge pages make decoding faster where the file system has none to map; the price is time at start
 * and memory. */
static bool copy_weights(PfqEngine *e, PfqErr *err)
{
    uint64_t bytes = e->image.header->data_bytes;
    void *copy = pfq_map_buffer(e, PFQ_MAP_WEIGHTS, bytes, true, "copy of the weights", err);
    if (!copy) {
        return false;
    }
    e->exec.weights = copy;
    pfq_pool_run(e->pool, copy_job, e);
    mprotect(copy, bytes, PROT_READ);
    return true;
}

static bool cpu_open(PfqEngine *e, const PfqEngineConfig *c, PfqErr *err)
{
    if (!map_buffers(e, c, err)) {
        return false;
    }
    e->exec.weights = e->image.data;
    if (!c->copy) {
        pfq_image_prefault(&e->image);
    } else if (!copy_weights(e, err)) {
        return false;
    }
    e->exec.kernel = e->variant->kernel;
    e->exec.barrier = pfq_pool_barrier(e->pool);
    e->exec.ctx = pfq_padded_ctx(e);
    e->exec.nt = e->threads;
    e->exec.logits = e->logits;
    return true;
}

static void cpu_close(PfqEngine *e)
{
    (void)e; /* all it has are the engine's maps */
}

typedef struct PhaseCall {
    const PfqEngine *engine;
    PfqPhase *phase;
    PfqPhaseId id;
} PhaseCall;

static void phase_job(void *arg, int tid, int nt)
{
    const PhaseCall *call = arg;
    const PfqEngine *e = call->engine;
    PfqExec x = e->exec;
    x.tid = tid;
    x.nt = nt;
    x.scratch = e->scratch + (size_t)tid * e->scratch_stride;
    if (e->trace) {
        x.kernel = pfq_trace_begin(e->trace, tid, call->id, &x);
    }
    call->phase(&x);
    if (e->trace) {
        pfq_trace_end(e->trace, tid);
    }
}

static void run_phase(PfqEngine *e, PfqPhaseId phase, const int32_t *tokens, int32_t n, bool alone)
{
    const PfqModel *m = e->model;
    PhaseCall call = {e,
                      phase == PFQ_PREFILL  ? m->prefill
                      : phase == PFQ_LOGITS ? m->logits
                                            : m->decode,
                      phase};
    e->exec.tokens = tokens;
    e->exec.T = n;
    (alone ? pfq_pool_run_alone : pfq_pool_run)(e->pool, phase_job, &call);
}

static void decode(PfqEngine *e, const int32_t *token)
{
    const bool alone = pfq_pace_alone(&e->pace, e->threads);
    const double start = pfq_now();
    run_phase(e, PFQ_DECODE, token, 1, alone);
    pfq_pace_learn(&e->pace, alone, pfq_now() - start);
}

static bool cpu_run(PfqEngine *e, PfqPhaseId phase, const int32_t *tokens, int32_t n, PfqErr *err)
{
    (void)err;
    e->exec.kv = e->kv + e->exec.slot * (uint64_t)e->slot;
    e->exec.rows = NULL;
    e->exec.pos = e->pos;
    if (phase == PFQ_DECODE) {
        decode(e, tokens);
    } else {
        run_phase(e, phase, tokens, n, false);
    }
    return true;
}

static void run_batch(PfqEngine *e, const int32_t *tokens, const PfqRow *rows, int32_t n)
{
    e->exec.kv = e->kv;
    e->exec.rows = rows;
    e->exec.pos = rows[0].pos;
    for (int32_t i = 0; i < n; i++) {
        e->rows[i] = i;
    }
    const bool alone = pfq_pace_alone(&e->batch_pace, e->threads);
    const double start = pfq_now();
    run_phase(e, PFQ_PREFILL, tokens, n, alone);
    run_phase(e, PFQ_LOGITS, e->rows, n, alone);
    pfq_pace_learn(&e->batch_pace, alone, (pfq_now() - start) / n);
}

static bool cpu_batch(PfqEngine *e, const int32_t *tokens, const PfqRow *rows, int32_t n,
                      PfqDraw *draw, PfqErr *err)
{
    (void)draw; /* the caller has the logits */
    if (n == 1) {
        pfq_engine_seek(e, rows[0].slot, rows[0].pos);
        cpu_run(e, PFQ_DECODE, tokens, 1, err);
    } else {
        run_batch(e, tokens, rows, n);
    }
    return true;
}

typedef struct SlotCopy {
    const PfqEngine *engine;
    PfqRow from, to;
    int32_t n;
} SlotCopy;

static uint64_t place(const PfqEngine *e, const PfqKvState *s, PfqRow row)
{
    return e->exec.slot * (uint64_t)row.slot + (uint64_t)row.pos * s->bytes;
}

static void slot_job(void *arg, int tid, int nt)
{
    const SlotCopy *c = arg;
    const PfqEngine *e = c->engine;
    const size_t ctx = (size_t)e->exec.ctx;
    for (int32_t i = tid; i < e->model->n_kv; i += nt) {
        const PfqKvState *s = &e->model->kv[i];
        for (size_t h = 0; h < s->heads; h++) {
            char *at = e->kv + (s->off + h * s->bytes) * ctx;
            memcpy(at + place(e, s, c->to), at + place(e, s, c->from), (size_t)c->n * s->bytes);
        }
    }
}

static bool cpu_copy(PfqEngine *e, PfqRow from, PfqRow to, int32_t n, PfqErr *err)
{
    SlotCopy c = {e, from, to, n};
    (void)err;
    pfq_pool_run(e->pool, slot_job, &c);
    return true;
}

const PfqBackend pfq_backend_cpu = {.name = "cpu",
                                    .title = "CPU",
                                    .choose = cpu_choose,
                                    .open = cpu_open,
                                    .close = cpu_close,
                                    .run = cpu_run,
                                    .batch = cpu_batch,
                                    .copy = cpu_copy,
                                    .turn = 64, /* as many as a kernel's block of work has */
                                    .exact = true};
