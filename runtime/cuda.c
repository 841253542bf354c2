/* A model on one GPU. Contract: cuda.h. */
#include "runtime/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SHARED = 8 };       /* CUfunction_attribute: dynamic shared memory */
enum { PLAIN_SHARED = 49152 }; /* bytes of it that need no asking */
enum { NON_BLOCKING = 1 };     /* CUstream_flags: no order with the default stream */
enum { RELAXED = 2 };          /* CUstreamCaptureMode */

#define PIECE     ((uint64_t)64 << 20) /* of the weights, per copy */
#define TOKENS_AT 64                   /* int32s: in the io buffer, behind the position */

/* What is allocated on the GPU; places of operands and buffers correspond one to one. */
enum { BUF_ACT, BUF_KV, BUF_OWN, BUF_IO, BUF_LOGITS, BUF_WEIGHTS, N_BUFFERS };
static const char *const buffer_names[N_BUFFERS] = {
    "the activations",     "the KV cache", "the kernels' own memory",
    "tokens and position", "the logits",   "the weights",
};
static const char *const phase_names[PFQ_N_PHASES] = {"prefill", "logits", "decode"};

/* A kernel's own failure shows only when it is waited for. */
static const char *const sync_names[PFQ_N_PHASES] = {"a kernel of prefill, which --cuda-sync names",
                                                     "a kernel of logits, which --cuda-sync names",
                                                     "a kernel of decode, which --cuda-sync names"};

typedef struct Buffer {
    uint64_t at, bytes; /* at: 0 until allocated */
} Buffer;

typedef struct Phase {
    const PfqCudaPhase *table;
    PfqCudaArgs *args; /* [table->n]; T is set at each run */
} Phase;

struct PfqGpu {
    PfqCudaDriver driver;
    const PfqModel *model;
    const PfqCudaCode *code;
    int32_t device, ctx;
    void *context, *stream;
    Buffer buf[N_BUFFERS];
    void **module, **function; /* [n_kernels]; NULL until loaded */
    Phase phase[PFQ_N_PHASES];
    void *graph;  /* decode's launches, recorded and ready; NULL: launched one by one */
    int32_t *io;  /* [TOKENS_AT + tokens]: the host's copy of BUF_IO */
    bool sync;    /* wait after every kernel */
    bool broken;  /* a run has failed: */
    PfqErr fault; /* with this sentence */
};

/* Calls the driver; false and a sentence on failure. `what` says what for. */
#define CALL(g, symbol, what, ...)                                                                 \
    pfq_cuda_check(&(g)->driver, (g)->driver.symbol(__VA_ARGS__), #symbol, what, err)

/* ---- memory ---- */

static double mib(uint64_t bytes)
{
    return (double)bytes / 1048576.0;
}

static int32_t max_tokens(const PfqModel *m)
{
    return m->chunk > m->rows ? m->chunk : m->rows;
}

/* Sizes of all buffers; *total is what they take in blocks of the driver's alignment. */
static bool size_buffers(PfqGpu *g, uint64_t weight_bytes, uint64_t *total, PfqErr *err)
{
    const PfqModel *m = g->model;
    Buffer *b = g->buf;
    bool bad = __builtin_mul_overflow(m->kv_row_bytes, (uint64_t)g->ctx, &b[BUF_KV].bytes) ||
               __builtin_mul_overflow((uint64_t)m->rows * (uint64_t)m->vocab, sizeof(float),
                                      &b[BUF_LOGITS].bytes);
    b[BUF_ACT].bytes = m->act_bytes;
    b[BUF_OWN].bytes = m->cuda->own_bytes;
    b[BUF_IO].bytes = (TOKENS_AT + (uint64_t)max_tokens(m)) * sizeof(int32_t);
    b[BUF_WEIGHTS].bytes = weight_bytes;
    *total = 0;
    for (int i = 0; !bad && i < N_BUFFERS; i++) {
        bad = __builtin_add_overflow(*total, b[i].bytes, total) ||
              __builtin_add_overflow(*total, 511, total);
        *total &= ~(uint64_t)511;
    }
    return !bad || pfq_fail(err, "the size of the model's buffers overflows");
}

/* Every buffer has an address, also one of no bytes, so that operands in it are not NULL. */
static bool allocate(PfqGpu *g, const char *gpu_name, uint64_t total, PfqErr *err)
{
    size_t free_bytes = 0, all = 0;
    if (!CALL(g, cuMemGetInfo_v2, gpu_name, &free_bytes, &all)) {
        return false;
    }
    if (total > free_bytes) {
        return pfq_fail(err,
                        "the GPU '%s' has too little free memory: with a context of %d tokens "
                        "%.1f MiB are needed, %.1f MiB are free",
                        gpu_name, g->ctx, mib(total), mib(free_bytes));
    }
    for (int i = 0; i < N_BUFFERS; i++) {
        Buffer *b = &g->buf[i];
        char what[96];
        snprintf(what, sizeof what, "%.1f MiB for %s", mib(b->bytes), buffer_names[i]);
        const uint64_t bytes = b->bytes ? b->bytes : 1;
        uint64_t at = 0;
        if (!CALL(g, cuMemAlloc_v2, what, &at, bytes)) {
            return false;
        }
        b->at = at;
        if (i != BUF_WEIGHTS && !CALL(g, cuMemsetD8Async, what, at, 0, bytes, g->stream)) {
            return false;
        }
    }
    return true;
}

static bool upload_weights(PfqGpu *g, const PfqGpuConfig *c, PfqErr *err)
{
    const char *data = c->weights;
    for (uint64_t at = 0; at < c->weight_bytes; at += PIECE) {
        const uint64_t n = c->weight_bytes - at < PIECE ? c->weight_bytes - at : PIECE;
        if (!CALL(g, cuMemcpyHtoDAsync_v2, "the weights", g->buf[BUF_WEIGHTS].at + at, data + at, n,
                  g->stream)) {
            return false;
        }
    }
    return true;
}

/* ---- code ---- */

static bool load_kernel(PfqGpu *g, int32_t i, PfqErr *err)
{
    const PfqCudaKernel *k = &g->model->cuda->kernel[i];
    char what[192];
    snprintf(what, sizeof what, "kernel '%s', %s", k->name, g->code->target);
    return CALL(g, cuModuleLoadData, what, &g->module[i], g->code->image[i]) &&
           CALL(g, cuModuleGetFunction, what, &g->function[i], g->module[i], k->entry) &&
           (k->shared <= PLAIN_SHARED ||
            CALL(g, cuFuncSetAttribute, what, g->function[i], MAX_SHARED, k->shared));
}

/* A slot's address on the GPU. */
static uint64_t address(const PfqGpu *g, PfqCudaRef ref)
{
    switch ((PfqPlace)ref.place) {
    case PFQ_AT_NONE: break;
    case PFQ_AT_ACT: return g->buf[BUF_ACT].at + ref.off;
    case PFQ_AT_KV: return g->buf[BUF_KV].at + ref.off * (uint64_t)g->ctx;
    case PFQ_AT_OWN: return g->buf[BUF_OWN].at + ref.off;
    case PFQ_AT_TOKENS: return g->buf[BUF_IO].at + TOKENS_AT * sizeof(int32_t) + ref.off;
    case PFQ_AT_LOGITS: return g->buf[BUF_LOGITS].at + ref.off;
    case PFQ_AT_WEIGHT: return g->buf[BUF_WEIGHTS].at + ref.off;
    }
    return 0;
}

static PfqCudaArgs resolve(const PfqGpu *g, const PfqCudaCall *call)
{
    PfqCudaArgs a = {.w = address(g, call->w), .pos = g->buf[BUF_IO].at, .T = 1, .ctx = g->ctx};
    for (int i = 0; i < 8; i++) {
        a.in[i] = address(g, call->in[i]);
        a.out[i] = address(g, call->out[i]);
        a.aux[i] = address(g, call->aux[i]);
    }
    return a;
}

static bool launch(PfqGpu *g, PfqPhaseId id, int32_t i, int32_t n, PfqErr *err)
{
    const Phase *p = &g->phase[id];
    const int32_t which = p->table->call[i].kernel;
    const PfqCudaKernel *k = &g->model->cuda->kernel[which];
    const unsigned blocks = (unsigned)((n + k->rows - 1) / k->rows);
    p->args[i].T = n;
    void *params[] = {&p->args[i]};
    int r = g->driver.cuLaunchKernel(g->function[which], (unsigned)k->grid_x, blocks, 1,
                                     (unsigned)k->block, 1, 1, (unsigned)k->shared, g->stream,
                                     params, NULL);
    const char *call = "cuLaunchKernel";
    if (r == PFQ_CUDA_OK && g->sync) {
        r = g->driver.cuStreamSynchronize(g->stream);
        call = "cuStreamSynchronize";
    }
    if (r == PFQ_CUDA_OK) {
        return true;
    }
    char what[192];
    snprintf(what, sizeof what, "kernel '%s', call %d of %s", k->name, i, phase_names[id]);
    return pfq_cuda_check(&g->driver, r, call, what, err);
}

static bool launch_all(PfqGpu *g, PfqPhaseId id, int32_t n, PfqErr *err)
{
    for (int32_t i = 0; i < g->phase[id].table->n; i++) {
        if (!launch(g, id, i, n, err)) {
            return false;
        }
    }
    return true;
}

/* Records decode's launches. Failing is no error: they are then launched one by one, and what is
 * wrong with them shows there. */
static void record_decode(PfqGpu *g)
{
    const PfqCudaDriver *d = &g->driver;
    PfqErr ignored;
    void *graph = NULL;
    if (d->cuStreamBeginCapture_v2(g->stream, RELAXED) != PFQ_CUDA_OK) {
        return;
    }
    bool ok = launch_all(g, PFQ_DECODE, 1, &ignored);
    ok = d->cuStreamEndCapture(g->stream, &graph) == PFQ_CUDA_OK && ok;
    if (ok && d->cuGraphInstantiateWithFlags(&g->graph, graph, 0) != PFQ_CUDA_OK) {
        g->graph = NULL;
    }
    if (graph) {
        d->cuGraphDestroy(graph);
    }
}

/* ---- open and close ---- */

static bool allocate_host(PfqGpu *g, PfqErr *err)
{
    const PfqCuda *cuda = g->model->cuda;
    const PfqCudaPhase *tables[PFQ_N_PHASES] = {&cuda->prefill, &cuda->logits, &cuda->decode};
    g->module = calloc((size_t)cuda->n_kernels, sizeof *g->module);
    g->function = calloc((size_t)cuda->n_kernels, sizeof *g->function);
    g->io = calloc(TOKENS_AT + (size_t)max_tokens(g->model), sizeof *g->io);
    bool ok = g->module && g->function && g->io;
    for (int i = 0; i < PFQ_N_PHASES; i++) {
        g->phase[i].table = tables[i];
        g->phase[i].args = calloc((size_t)tables[i]->n + 1, sizeof *g->phase[i].args);
        ok = ok && g->phase[i].args;
    }
    return ok || pfq_fail(err, "out of memory for the GPU's tables");
}

static bool open_context(PfqGpu *g, const char *gpu_name, PfqErr *err)
{
    return CALL(g, cuDevicePrimaryCtxRetain, gpu_name, &g->context, g->device) &&
           CALL(g, cuCtxSetCurrent, gpu_name, g->context) &&
           CALL(g, cuStreamCreate, gpu_name, &g->stream, NON_BLOCKING);
}

static bool open_gpu(PfqGpu *g, const char *gpu_name, const PfqGpuConfig *c, PfqErr *err)
{
    uint64_t total;
    if (!allocate_host(g, err) || !size_buffers(g, c->weight_bytes, &total, err) ||
        !open_context(g, gpu_name, err) || !allocate(g, gpu_name, total, err) ||
        !upload_weights(g, c, err)) {
        return false;
    }
    for (int32_t i = 0; i < g->model->cuda->n_kernels; i++) {
        if (!load_kernel(g, i, err)) {
            return false;
        }
    }
    for (int p = 0; p < PFQ_N_PHASES; p++) {
        for (int32_t i = 0; i < g->phase[p].table->n; i++) {
            g->phase[p].args[i] = resolve(g, &g->phase[p].table->call[i]);
        }
    }
    if (!g->sync) {
        record_decode(g);
    }
    return CALL(g, cuStreamSynchronize, "loading", g->stream);
}

PfqGpu *pfq_gpu_open(const PfqGpuChoice *choice, const PfqModel *m, const PfqGpuConfig *c,
                     PfqErr *err)
{
    PfqGpu *g = calloc(1, sizeof *g);
    if (!g) {
        pfq_fail(err, "out of memory for the GPU's tables");
        return NULL;
    }
    g->driver = choice->driver;
    g->model = m;
    g->code = choice->code;
    g->device = choice->device;
    g->ctx = c->ctx;
    g->sync = c->sync;
    if (!open_gpu(g, choice->name, c, err)) {
        pfq_gpu_close(g);
        return NULL;
    }
    return g;
}

/* Releases what the driver gave, last first. Results are ignored: after a fault every call fails,
 * and releases all the same. */
static void release(PfqGpu *g)
{
    const PfqCudaDriver *d = &g->driver;
    if (g->stream) {
        d->cuStreamSynchronize(g->stream); /* copies may still read the image */
    }
    if (g->graph) {
        d->cuGraphExecDestroy(g->graph);
    }
    for (int32_t i = g->model->cuda->n_kernels; g->module && i-- > 0;) {
        if (g->module[i]) {
            d->cuModuleUnload(g->module[i]);
        }
    }
    for (int i = N_BUFFERS; i-- > 0;) {
        if (g->buf[i].at) {
            d->cuMemFree_v2(g->buf[i].at);
        }
    }
    if (g->stream) {
        d->cuStreamDestroy_v2(g->stream);
    }
    if (g->context) {
        d->cuDevicePrimaryCtxRelease_v2(g->device);
    }
}

void pfq_gpu_close(PfqGpu *g)
{
    if (!g) {
        return;
    }
    release(g);
    for (int i = 0; i < PFQ_N_PHASES; i++) {
        free(g->phase[i].args);
    }
    free(g->io);
    free(g->function);
    free(g->module);
    free(g);
}

/* ---- run ---- */

static bool enqueue(PfqGpu *g, PfqPhaseId id, int32_t n, PfqErr *err)
{
    return id == PFQ_DECODE && g->graph
               ? CALL(g, cuGraphLaunch, phase_names[id], g->graph, g->stream)
               : launch_all(g, id, n, err);
}

static bool run(PfqGpu *g, PfqPhaseId id, int32_t n, float *logits, PfqErr *err)
{
    const uint64_t up = (TOKENS_AT + (uint64_t)n) * sizeof(int32_t),
                   row = (uint64_t)g->model->vocab * sizeof(float);
    const uint64_t down = id == PFQ_PREFILL ? 0 : (uint64_t)n * row;
    const char *what = phase_names[id];
    return CALL(g, cuMemcpyHtoDAsync_v2, what, g->buf[BUF_IO].at, g->io, up, g->stream) &&
           enqueue(g, id, n, err) &&
           (!down ||
            CALL(g, cuMemcpyDtoHAsync_v2, what, logits, g->buf[BUF_LOGITS].at, down, g->stream)) &&
           CALL(g, cuStreamSynchronize, sync_names[id], g->stream);
}

bool pfq_gpu_run(PfqGpu *g, PfqPhaseId phase, const int32_t *tokens, int32_t n, int32_t pos,
                 float *logits, PfqErr *err)
{
    if (!g->broken) {
        g->io[0] = pos;
        memcpy(g->io + TOKENS_AT, tokens, (size_t)n * sizeof *tokens);
        g->broken = !run(g, phase, n, logits, &g->fault);
    }
    if (g->broken) {
        *err = g->fault;
    }
    return !g->broken;
}
