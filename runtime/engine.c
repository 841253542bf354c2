/* Engine: buffers, chunks, phases. Contract: engine.h. */
#include "runtime/backend.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define CTX_ALIGN 64
#define BYTES_PER_THREAD                                                                           \
    ((uint64_t)1 << 20) /* weight bytes per token that keep one more thread busy */

void *pfq_map_buffer(PfqEngine *e, int which, uint64_t bytes, bool huge, const char *what,
                     PfqErr *err)
{
    uint64_t total;
    if (__builtin_add_overflow(bytes, 2 * PFQ_HUGE_PAGE, &total) || total > INT64_MAX) {
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
    uintptr_t at = ((uintptr_t)base + PFQ_HUGE_PAGE - 1) & ~(uintptr_t)(PFQ_HUGE_PAGE - 1);
    if (huge) {
        madvise((void *)at, bytes < PFQ_HUGE_PAGE ? PFQ_HUGE_PAGE : bytes, MADV_HUGEPAGE);
    }
    return (void *)at;
}

static bool check_model(const PfqModel *m, PfqErr *err)
{
    if (m->abi != PFQ_ABI_VERSION) {
        return pfq_fail(err, "the model was generated for runtime ABI %u, this runtime has %u",
                        m->abi, PFQ_ABI_VERSION);
    }
    if (m->vocab < 1 || m->context < 1 || m->chunk < 1 || m->rows < 1 ||
        (m->n_variants < 1 && !m->cuda)) {
        return pfq_fail(err, "the model's tables are incomplete");
    }
    return true;
}

int32_t pfq_padded_ctx(const PfqEngine *e)
{
    return (e->ctx + CTX_ALIGN - 1) / CTX_ALIGN * CTX_ALIGN;
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

/* ---- devices ---- */

static const PfqBackend *const backends[] = {&pfq_backend_cpu, &pfq_backend_cuda};

static bool choose(PfqEngine *e, const PfqBackend *b, const PfqEngineConfig *c, PfqErr *err)
{
    e->backend = b;
    e->exact = b->exact || c->exact;
    e->turn = b->turn;
    return b->choose(e, c, err);
}

/* The one asked for; else a GPU, if the program has code for one that is here; else the CPU, if it
 * has code for any. */
static bool choose_backend(PfqEngine *e, const PfqEngineConfig *c, PfqErr *err)
{
    for (size_t i = 0; c->device && i < sizeof backends / sizeof *backends; i++) {
        if (strcmp(c->device, backends[i]->name) == 0) {
            return choose(e, backends[i], c, err);
        }
    }
    if (c->device) {
        return pfq_fail(err, "there is no device '%s'", c->device);
    }
    const bool gpu = e->model->cuda && !c->cpu;
    if (gpu && choose(e, &pfq_backend_cuda, c, err)) {
        return true;
    }
    return (e->model->n_variants > 0 || !gpu) && choose(e, &pfq_backend_cpu, c, err);
}

static bool map_logits(PfqEngine *e, PfqErr *err)
{
    const PfqModel *m = e->model;
    uint64_t logits, rows = (uint64_t)m->rows * sizeof(int32_t);
    if (__builtin_mul_overflow((uint64_t)m->rows * (uint64_t)m->vocab, sizeof(float), &logits)) {
        return pfq_fail(err, "the size of the model's buffers overflows");
    }
    logits = (logits + 63) & ~(uint64_t)63;
    e->logits = pfq_map_buffer(e, PFQ_MAP_LOGITS, logits + rows, true, "logits", err);
    e->rows = e->logits ? (int32_t *)((char *)e->logits + logits) : NULL;
    return e->logits != NULL;
}

/* A file may carry the right id and hold less: what the calls read would lie behind its end. */
static bool open_image(PfqEngine *e, const char *file, PfqErr *err)
{
    const PfqModel *m = e->model;
    if (!pfq_image_open(&e->image, file, m->name, m->image_id, err)) {
        return false;
    }
    const unsigned long long got = e->image.header->data_bytes, want = m->weight_bytes;
    return got == want || pfq_fail(err,
                                   "the weights file '%s' is damaged: its header tells of %llu "
                                   "bytes of weights, this binary reads %llu; write it again by "
                                   "compiling the model",
                                   e->image.path, got, want);
}

bool pfq_engine_open(PfqEngine *e, const PfqModel *m, const PfqEngineConfig *c, PfqErr *err)
{
    memset(e, 0, sizeof *e);
    e->model = m;
    if (!check_model(m, err)) {
        return false;
    }
    if (c->ctx < 1 || c->ctx > m->context || c->ctx > INT32_MAX - CTX_ALIGN) {
        return pfq_fail(err, "a context of %d tokens is out of range: the model has 1 to %d",
                        c->ctx, m->context);
    }
    if (c->slots < 0 || c->slots > pfq_model_slots(m) || c->spare < 0 ||
        c->spare > INT32_MAX - c->slots) {
        return pfq_fail(err, "a batch of %d is too large: this program decodes up to %d together",
                        c->slots, pfq_model_slots(m));
    }
    e->ctx = c->ctx;
    e->slots = c->slots ? c->slots : 1;
    e->spare = c->spare;
    e->threads = c->threads > 0 ? c->threads : pfq_engine_threads(m);
    if (!choose_backend(e, c, err) || !open_image(e, c->weights, err) || !map_logits(e, err)) {
        return false;
    }
    e->pool = pfq_pool_start(e->threads, err);
    return e->pool && e->backend->open(e, c, err);
}

void pfq_engine_close(PfqEngine *e)
{
    if (e->backend) {
        e->backend->close(e);
    }
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

void pfq_engine_seek(PfqEngine *e, int32_t slot, int32_t pos)
{
    e->slot = slot;
    e->pos = pos;
}

static bool check_room(const PfqEngine *e, int32_t pos, int32_t n, PfqErr *err)
{
    return n <= e->ctx - pos ||
           pfq_fail(err, "%d tokens after position %d do not fit the context of %d", n, pos,
                    e->ctx);
}

static bool check_tokens(const PfqEngine *e, const int32_t *tokens, int32_t n, PfqErr *err)
{
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
static bool logits_of(PfqEngine *e, int32_t from, int32_t to, int32_t first, PfqRowsFn *fn,
                      void *user, PfqErr *err)
{
    while (from < to) {
        int32_t n = to - from < e->model->rows ? to - from : e->model->rows;
        for (int32_t i = 0; i < n; i++) {
            e->rows[i] = from + i;
        }
        if (!e->backend->run(e, PFQ_LOGITS, e->rows, n, err)) {
            return false;
        }
        if (fn) {
            fn(user, first + from, n, e->logits);
        }
        from += n;
    }
    return true;
}

bool pfq_engine_prefill(PfqEngine *e, const int32_t *tokens, int32_t n, PfqWant want, PfqRowsFn *fn,
                        void *user, PfqErr *err)
{
    if (!check_room(e, e->pos, n, err) || !check_tokens(e, tokens, n, err)) {
        return false;
    }
    for (int32_t i = 0; i < n;) {
        const int32_t t = n - i < e->model->chunk ? n - i : e->model->chunk;
        const int32_t from = want == PFQ_WANT_ALL                  ? 0
                             : want == PFQ_WANT_LAST && i + t == n ? t - 1
                                                                   : t;
        if (!e->backend->run(e, PFQ_PREFILL, tokens + i, t, err) ||
            !logits_of(e, from, t, i, fn, user, err)) {
            return false;
        }
        e->pos += t;
        i += t;
    }
    return true;
}

const float *pfq_engine_decode(PfqEngine *e, int32_t token, PfqErr *err)
{
    if (!check_room(e, e->pos, 1, err) || !check_tokens(e, &token, 1, err) ||
        !e->backend->run(e, PFQ_DECODE, &token, 1, err)) {
        return NULL;
    }
    e->pos++;
    return e->logits;
}

bool pfq_engine_copy(PfqEngine *e, PfqRow from, PfqRow to, int32_t n, PfqErr *err)
{
    return e->backend->copy(e, from, to, n, err);
}

bool pfq_engine_batch(PfqEngine *e, const int32_t *tokens, const PfqRow *rows, int32_t n,
                      PfqDraw *draw, PfqErr *err)
{
    if (n < 1 || n > e->slots) {
        return pfq_fail(err, "%d sequences in %d slots", n, e->slots);
    }
    for (int32_t i = 0; i < n; i++) {
        if (rows[i].slot < 0 || rows[i].slot >= e->slots || rows[i].pos < 0 ||
            !check_room(e, rows[i].pos, 1, err)) {
            return pfq_fail(err, "row %d of a batch is at position %d of slot %d", i, rows[i].pos,
                            rows[i].slot);
        }
    }
    if (!check_tokens(e, tokens, n, err)) {
        return false;
    }
    for (int32_t i = 0; draw && i < n; i++) {
        draw[i].token = PFQ_NOT_DRAWN;
    }
    return e->backend->batch(e, tokens, rows, n, draw, err);
}

void pfq_engine_job(PfqEngine *e, int32_t n, PfqJob *job, void *arg)
{
    if (n < 2 || pfq_pace_alone(&e->batch_pace, e->threads)) {
        job(arg, 0, 1);
    } else {
        pfq_pool_run(e->pool, job, arg);
    }
}
