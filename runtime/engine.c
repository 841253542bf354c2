/* Engine: buffers, chunks, phases. Contract: engine.h. */
#include "runtime/engine.h"

#include "runtime/cpu.h"
#include "runtime/out.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum { MAP_ACT, MAP_KV, MAP_SCRATCH, MAP_LOGITS, MAP_WEIGHTS };

#define CTX_ALIGN 64
#define HUGE_PAGE ((size_t)2 << 20)
#define BYTES_PER_THREAD                                                                           \
    ((uint64_t)1 << 20) /* weight bytes per token that keep one more thread busy */

/* Zeroed pages, aligned to huge pages, which are asked for if `huge`. Nothing is touched here. */
static void *map_buffer(PfqEngine *e, int which, uint64_t bytes, bool huge, const char *what,
                        PfqErr *err)
{
    uint64_t total;
    if (__builtin_add_overflow(bytes, 2 * HUGE_PAGE, &total) || total > INT64_MAX) {
        pfq_fail(err, "the size of the %s overflows", what);
        return NULL;
    }
    void *base = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        pfq_fail(err, "cannot allocate %.1f MiB for the %s: %s", (double)bytes / 1048576.0, what,
                 strerror(errno));
        return NULL;
    }
    e->map[which].base = base;
    e->map[which].bytes = total;
    uintptr_t at = ((uintptr_t)base + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1);
    if (huge) {
        madvise((void *)at, bytes < HUGE_PAGE ? HUGE_PAGE : bytes, MADV_HUGEPAGE);
    }
    return (void *)at;
}

static bool check_model(const PfqModel *m, PfqErr *err)
{
    if (m->abi != PFQ_ABI_VERSION) {
        return pfq_fail(err, "the model was generated for runtime ABI %u, this runtime has %u",
                        m->abi, PFQ_ABI_VERSION);
    }
    if (m->vocab < 1 || m->context < 1 || m->chunk < 1 || m->rows < 1 || m->n_variants < 1) {
        return pfq_fail(err, "the model's tables are incomplete");
    }
    return true;
}

/* Tokens that the KV cache has room for: offsets in it are so many bytes a token, and must be
 * aligned whatever those bytes are. */
static int32_t padded_ctx(const PfqEngine *e)
{
    return (e->ctx + CTX_ALIGN - 1) / CTX_ALIGN * CTX_ALIGN;
}

static bool map_buffers(PfqEngine *e, const PfqEngineConfig *c, PfqErr *err)
{
    const PfqModel *m = e->model;
    uint64_t kv, scratch, logits, rows = (uint64_t)m->rows * sizeof(int32_t);
    if (e->ctx > INT32_MAX - CTX_ALIGN ||
        __builtin_mul_overflow(m->kv_row_bytes, (uint64_t)padded_ctx(e), &kv) ||
        __builtin_add_overflow(m->scratch_bytes, 127, &scratch) ||
        __builtin_mul_overflow((scratch & ~(uint64_t)63), (uint64_t)e->threads, &scratch) ||
        __builtin_mul_overflow((uint64_t)m->rows * (uint64_t)m->vocab, sizeof(float), &logits)) {
        return pfq_fail(err, "the size of the model's buffers overflows");
    }
    logits = (logits + 63) & ~(uint64_t)63;
    e->scratch_stride = (m->scratch_bytes + 127) &
                        ~(uint64_t)63; /* a line apart, so that threads do not share one */
    e->exec.act = map_buffer(e, MAP_ACT, m->act_bytes, true, "activations", err);
    e->exec.kv = e->exec.act ? map_buffer(e, MAP_KV, kv, !c->sparse, "KV cache", err) : NULL;
    e->scratch =
        e->exec.kv ? map_buffer(e, MAP_SCRATCH, scratch, true, "threads' scratch", err) : NULL;
    e->logits = e->scratch ? map_buffer(e, MAP_LOGITS, logits + rows, true, "logits", err) : NULL;
    if (!e->logits) {
        return false;
    }
    e->rows = (int32_t *)((char *)e->logits + logits);
    return true;
}

static void copy_job(void *arg, int tid, int nt)
{
    PfqEngine *e = arg;
    size_t pages = (e->image.header->data_bytes + HUGE_PAGE - 1) / HUGE_PAGE;
    size_t from = pages * (size_t)tid / (size_t)nt * HUGE_PAGE,
           to = pages * ((size_t)tid + 1) / (size_t)nt * HUGE_PAGE;
    to = to < e->image.header->data_bytes ? to : e->image.header->data_bytes;
    char *copy = (char *)(uintptr_t)e->exec.weights;
    memcpy(copy + from, e->image.data + from, to - from);
}

/* Huge pages make decoding faster where the file system has none to map; the price is time at start
 * and memory. */
static bool copy_weights(PfqEngine *e, PfqErr *err)
{
    uint64_t bytes = e->image.header->data_bytes;
    void *copy = map_buffer(e, MAP_WEIGHTS, bytes, true, "copy of the weights", err);
    if (!copy) {
        return false;
    }
    e->exec.weights = copy;
    pfq_pool_run(e->pool, copy_job, e);
    mprotect(copy, bytes, PROT_READ);
    return true;
}

int pfq_engine_threads(const PfqModel *m)
{
    uint64_t busy = m->weight_bytes_per_token / BYTES_PER_THREAD + 1;
    int cores = pfq_usable_cores();
    return busy < (uint64_t)cores ? (int)busy : cores;
}

int32_t pfq_prompt_skip(const PfqModel *m, const int32_t *tokens, int32_t n)
{
    return m->prefix == 1 && n > 1 && tokens[0] == m->prefix_ids[0];
}

bool pfq_engine_open(PfqEngine *e, const PfqModel *m, const PfqEngineConfig *c, PfqErr *err)
{
    memset(e, 0, sizeof *e);
    e->model = m;
    if (!check_model(m, err)) {
        return false;
    }
    if (c->ctx < 1 || c->ctx > m->context) {
        return pfq_fail(err, "a context of %d tokens is out of range: the model has 1 to %d",
                        c->ctx, m->context);
    }
    e->ctx = c->ctx;
    e->threads = c->threads > 0 ? c->threads : pfq_engine_threads(m);
    e->variant = pfq_cpu_variant(m, pfq_cpu_features(), c->cpu, err);
    if (!e->variant || !pfq_image_open(&e->image, c->weights, m->name, m->image_id, err) ||
        !map_buffers(e, c, err)) {
        return false;
    }
    e->pool = pfq_pool_start(e->threads, err);
    if (!e->pool) {
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
    e->exec.ctx = padded_ctx(e);
    e->exec.nt = e->threads;
    e->exec.logits = e->logits;
    return true;
}

void pfq_engine_close(PfqEngine *e)
{
    pfq_pool_stop(e->pool);
    for (size_t i = 0; i < sizeof e->map / sizeof *e->map; i++) {
        if (e->map[i].base) {
            munmap(e->map[i].base, e->map[i].bytes);
        }
    }
    pfq_image_close(&e->image);
    memset(e, 0, sizeof *e);
}

void pfq_engine_rewind(PfqEngine *e, int32_t pos)
{
    e->pos = pos;
}

typedef struct PhaseCall {
    const PfqEngine *engine;
    PfqPhase *phase;
} PhaseCall;

static void phase_job(void *arg, int tid, int nt)
{
    const PhaseCall *call = arg;
    const PfqEngine *e = call->engine;
    PfqExec x = e->exec;
    x.tid = tid;
    x.nt = nt;
    x.scratch = e->scratch + (size_t)tid * e->scratch_stride;
    call->phase(&x);
}

static void run_phase(PfqEngine *e, PfqPhase *phase, const int32_t *tokens, int32_t n, bool alone)
{
    e->exec.tokens = tokens;
    e->exec.T = n;
    e->exec.pos = e->pos;
    PhaseCall call = {e, phase};
    (alone ? pfq_pool_run_alone : pfq_pool_run)(e->pool, phase_job, &call);
}

static bool check_tokens(const PfqEngine *e, const int32_t *tokens, int32_t n, PfqErr *err)
{
    if (n > e->ctx - e->pos) {
        return pfq_fail(err, "%d tokens after position %d do not fit the context of %d", n, e->pos,
                        e->ctx);
    }
    for (int32_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= e->model->vocab) {
            return pfq_fail(err, "token id %d is out of range: the vocabulary has 0 to %d",
                            tokens[i], e->model->vocab - 1);
        }
    }
    return true;
}

/* Logits of rows [from, to) of the chunk just computed, in blocks; `first` is the chunk's first
 * token. */
static void logits_of(PfqEngine *e, int32_t from, int32_t to, int32_t first, PfqRowsFn *fn,
                      void *user)
{
    while (from < to) {
        int32_t n = to - from < e->model->rows ? to - from : e->model->rows;
        for (int32_t i = 0; i < n; i++) {
            e->rows[i] = from + i;
        }
        run_phase(e, e->model->logits, e->rows, n, false);
        if (fn) {
            fn(user, first + from, n, e->logits);
        }
        from += n;
    }
}

bool pfq_engine_prefill(PfqEngine *e, const int32_t *tokens, int32_t n, PfqWant want, PfqRowsFn *fn,
                        void *user, PfqErr *err)
{
    if (!check_tokens(e, tokens, n, err)) {
        return false;
    }
    for (int32_t i = 0; i < n;) {
        int32_t t = n - i < e->model->chunk ? n - i : e->model->chunk;
        run_phase(e, e->model->prefill, tokens + i, t, false);
        if (want == PFQ_WANT_ALL) {
            logits_of(e, 0, t, i, fn, user);
        } else if (want == PFQ_WANT_LAST && i + t == n) {
            logits_of(e, t - 1, t, i, fn, user);
        }
        e->pos += t;
        i += t;
    }
    return true;
}

const float *pfq_engine_decode(PfqEngine *e, int32_t token, PfqErr *err)
{
    if (!check_tokens(e, &token, 1, err)) {
        return NULL;
    }
    bool alone = pfq_pace_alone(&e->pace, e->threads);
    double start = pfq_now();
    run_phase(e, e->model->decode, &token, 1, alone);
    pfq_pace_learn(&e->pace, alone, pfq_now() - start);
    e->pos++;
    return e->logits;
}
