/* A model on one GPU. Contract: cuda.h. */
#include "runtime/cuda_int.h"

#include "runtime/out.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SHARED = 8 };       /* CUfunction_attribute: dynamic shared memory */
enum { PLAIN_SHARED = 49152 }; /* bytes of it that need no asking */
enum { NON_BLOCKING = 1 };     /* CUstream_flags: no order with the default stream */
enum { RELAXED = 2 };          /* CUstreamCaptureMode */

#define PIECE ((uint64_t)64 << 20) /* of the weights, per copy */

static const char *const buffer_names[N_BUFFERS] = {
    "the activations", "the KV cache", "the kernels' own memory", "tokens and positions",
    "row numbers",     "the logits",   "the kernels' scratch",    "the kernels' counters",
    "sampling",        "the weights",  "packing the weights",
};
static const char *const phase_names[PFQ_CUDA_N_PHASES] = {
    "prefill", "logits", "decode", "decode", "a batch", "a batch", "sampling"};

/* A kernel's own failure shows only when it is waited for. */
static const char *const sync_names[PFQ_CUDA_N_PHASES] = {
    "a kernel of prefill, which --cuda-sync names",  "a kernel of logits, which --cuda-sync names",
    "a kernel of decode, which --cuda-sync names",   "a kernel of decode, which --cuda-sync names",
    "a kernel of a batch, which --cuda-sync names",  "a kernel of a batch, which --cuda-sync names",
    "a kernel of sampling, which --cuda-sync names",
};

/* Tiles of activations (codegen/cuda/tiles.cuh) lie at multiples of ALIGN; the driver promises
 * less. */
enum { ALIGN = 1024, DRIVERS_ALIGN = 256 };

/* ---- memory ---- */

static double mib(uint64_t bytes)
{
    return (double)bytes / 1048576.0;
}

static uint64_t up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

/* The most rows of a phase. */
static uint64_t max_rows(const PfqModel *m, int phase)
{
    return (uint64_t)(phase == PFQ_CUDA_PREFILL                            ? m->chunk
                      : phase == PFQ_CUDA_LOGITS                           ? m->rows
                      : phase == PFQ_CUDA_BATCH || phase == PFQ_CUDA_STEPS ? pfq_model_slots(m)
                                                                           : 1);
}

static uint64_t io_bytes(const PfqModel *m)
{
    const uint64_t n = (uint64_t)(m->chunk > m->rows ? m->chunk : m->rows);
    return up(4 * n, 64) + n * sizeof(PfqRow);
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static void size_scratch(PfqGpu *g)
{
    const PfqCudaCode *c = g->code;
    for (int32_t i = 0; i < c->n_kernels; i++) {
        g->sync_at[i] = g->buf[BUF_SYNC].bytes;
        g->buf[BUF_SYNC].bytes += c->kernel[i].image ? up(c->kernel[i].sync, 256) : 0;
        g->buf[BUF_WORK].bytes =
            larger(g->buf[BUF_WORK].bytes, c->kernel[i].image ? c->kernel[i].work : 0);
    }
    for (int32_t i = 0; i < c->n_loads; i++) {
        g->buf[BUF_STAGED].bytes =
            larger(g->buf[BUF_STAGED].bytes, c->load[i].call.kernel < 0 ? 0 : c->load[i].bytes);
    }
}

/* Sizes of all buffers; *total is what they take in blocks of the driver's alignment. */
static bool size_buffers(PfqGpu *g, uint64_t *total, PfqErr *err)
{
    const PfqModel *m = g->model;
    Buffer *b = g->buf;
    bool bad = __builtin_mul_overflow(m->kv_row_bytes, (uint64_t)g->ctx, &b[BUF_KV].bytes) ||
               __builtin_mul_overflow(b[BUF_KV].bytes, (uint64_t)g->slots, &b[BUF_KV].bytes) ||
               __builtin_mul_overflow((uint64_t)m->rows * (uint64_t)m->vocab, sizeof(float),
                                      &b[BUF_LOGITS].bytes);
    b[BUF_ACT].bytes = g->code->act_bytes;
    b[BUF_OWN].bytes = g->code->own_bytes;
    b[BUF_IO].bytes = io_bytes(m);
    b[BUF_ORDER].bytes = 4 * max_rows(m, PFQ_CUDA_BATCH);
    b[BUF_SAMPLER].bytes = pfq_gpu_kept_at(g) + (uint64_t)m->vocab * sizeof(float);
    b[BUF_WEIGHTS].bytes = g->code->weight_bytes;
    size_scratch(g);
    *total = 0;
    for (int i = 0; !bad && i < N_BUFFERS; i++) {
        bad = __builtin_add_overflow(*total, b[i].bytes, total) ||
              __builtin_add_overflow(*total, ALIGN + 511, total);
        *total &= ~(uint64_t)511;
    }
    return !bad || pfq_fail(err, "the size of the model's buffers overflows");
}

/* What buffer i is filled with. Kernels read nothing that none has written, except counters, which
 * begin at 0; whoever looks for an error with --cuda-sync finds NaN if they do. */
static unsigned char first_byte(const PfqGpu *g, int i)
{
    return g->sync && i != BUF_SYNC ? 0xff : 0;
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
                        "the GPU '%s' has too little free memory: with a context of %lld tokens "
                        "%.1f MiB are needed, %.1f MiB are free",
                        gpu_name, (long long)g->ctx * g->slots, mib(total), mib(free_bytes));
    }
    for (int i = 0; i < N_BUFFERS; i++) {
        Buffer *b = &g->buf[i];
        char what[96];
        snprintf(what, sizeof what, "%.1f MiB for %s", mib(b->bytes), buffer_names[i]);
        const uint64_t bytes = b->bytes ? b->bytes : 1;
        uint64_t block = 0;
        if (!CALL(g, cuMemAlloc_v2, what, &block, bytes + ALIGN - DRIVERS_ALIGN)) {
            return false;
        }
        b->block = block;
        b->at = up(block, ALIGN);
        if (i < BUF_WEIGHTS &&
            !CALL(g, cuMemsetD8Async, what, b->at, first_byte(g, i), bytes, g->stream)) {
            return false;
        }
    }
    return true;
}

typedef struct Loading {
    PfqProgress progress;
    int64_t done, total; /* bytes */
} Loading;

static bool upload(PfqGpu *g, uint64_t to, const char *data, uint64_t bytes, Loading *l,
                   PfqErr *err)
{
    for (uint64_t at = 0; at < bytes; at += PIECE) {
        const uint64_t n = bytes - at < PIECE ? bytes - at : PIECE;
        if (!CALL(g, cuMemcpyHtoDAsync_v2, "the weights", to + at, data + at, n, g->stream)) {
            return false;
        }
        l->done += (int64_t)n;
        pfq_progress(&l->progress, l->done, l->total, "");
    }
    return true;
}

/* ---- code ---- */

static bool load_kernel(PfqGpu *g, int32_t i, PfqErr *err)
{
    const PfqCudaKernel *k = &g->code->kernel[i];
    char what[192];
    snprintf(what, sizeof what, "kernel '%s', %s", k->name, g->code->target);
    if (!k->image) { /* of other codes */
        return true;
    }
    return CALL(g, cuModuleLoadData, what, &g->module[i], k->image) &&
           CALL(g, cuModuleGetFunction, what, &g->function[i], g->module[i], k->entry) &&
           (k->shared <= PLAIN_SHARED ||
            CALL(g, cuFuncSetAttribute, what, g->function[i], MAX_SHARED, k->shared));
}

/* An operand's address on the GPU. */
static uint64_t address(const PfqGpu *g, PfqCudaRef ref)
{
    const uint64_t off = ref.off;
    switch ((PfqPlace)ref.place) {
    case PFQ_AT_NONE: break;
    case PFQ_AT_ACT: return g->buf[BUF_ACT].at + off;
    case PFQ_AT_KV: return g->buf[BUF_KV].at + off * (uint64_t)g->ctx;
    case PFQ_AT_OWN: return g->buf[BUF_OWN].at + off;
    case PFQ_AT_TOKENS: return g->buf[BUF_IO].at + off;
    case PFQ_AT_LOGITS: return g->buf[BUF_LOGITS].at + off;
    case PFQ_AT_WEIGHT: return g->buf[BUF_WEIGHTS].at + off;
    case PFQ_AT_ORDER: return g->buf[BUF_ORDER].at + off;
    case PFQ_AT_STAGED: return g->buf[BUF_STAGED].at + off;
    case PFQ_AT_VALUE: return off;
    case PFQ_AT_SAMPLER: return g->buf[BUF_SAMPLER].at + off;
    }
    return 0;
}

static PfqCudaArgs resolve(const PfqGpu *g, const PfqCudaCall *call, uint64_t rows_at)
{
    PfqCudaArgs a = {.w = address(g, call->w),
                     .rows = g->buf[BUF_IO].at + rows_at,
                     .slot = g->model->kv_row_bytes * (uint64_t)g->ctx,
                     .work = g->buf[BUF_WORK].at,
                     .sync = g->buf[BUF_SYNC].at,
                     .T = 1,
                     .ctx = g->ctx,
                     .alone = g->alone};
    if (call->kernel >= 0) {
        a.sync += g->sync_at[call->kernel];
    }
    for (int i = 0; i < 8; i++) {
        a.in[i] = address(g, call->in[i]);
        a.out[i] = address(g, call->out[i]);
        a.aux[i] = address(g, call->aux[i]);
    }
    return a;
}

static uint32_t ceil_div(uint32_t n, uint32_t by)
{
    return (n + by - 1) / by;
}

/* The grid of a launch for n rows. */
static void grid_of(const PfqGpu *g, const PfqCudaKernel *k, int32_t n, uint32_t grid[3])
{
    grid[0] = (uint32_t)k->grid_x;
    grid[1] = k->rows ? ceil_div((uint32_t)n, (uint32_t)k->rows) : 1;
    grid[2] = 1;
    if (k->per_sm) {
        const uint64_t all = (uint64_t)grid[0] * grid[1];
        const uint32_t most = (uint32_t)(k->per_sm * g->sms);
        grid[0] = all < most ? (uint32_t)all : most;
        grid[1] = 1;
        if (k->cluster) {
            grid[0] -= all < most ? 0 : grid[0] % (uint32_t)k->cluster;
        }
    }
}

static int launch_kernel(const PfqGpu *g, const PfqCudaKernel *k, void *function, int32_t n,
                         PfqCudaArgs *args)
{
    uint32_t grid[3];
    void *params[] = {args};
    args->T = n;
    grid_of(g, k, n, grid);
    if (!k->flags && !k->cluster) {
        return g->driver.cuLaunchKernel(function, grid[0], grid[1], grid[2], (unsigned)k->block, 1,
                                        1, (unsigned)k->shared, g->stream, params, NULL);
    }
    PfqCudaAttribute attribute[3];
    memset(attribute, 0, sizeof attribute);
    uint32_t count = 0;
    if (k->flags & PFQ_CUDA_COOPERATIVE) {
        attribute[count].id = PFQ_LAUNCH_COOPERATIVE;
        attribute[count++].value.on = 1;
    }
    if (k->flags & PFQ_CUDA_OVERLAP) {
        attribute[count].id = PFQ_LAUNCH_OVERLAP;
        attribute[count++].value.on = 1;
    }
    if (k->cluster) {
        attribute[count].id = PFQ_LAUNCH_CLUSTER;
        attribute[count].value.cluster.x = (uint32_t)k->cluster;
        attribute[count].value.cluster.y = attribute[count].value.cluster.z = 1;
        count++;
    }
    const PfqCudaLaunch launch = {.grid = {grid[0], grid[1], grid[2]},
                                  .block = {(uint32_t)k->block, 1, 1},
                                  .shared = (uint32_t)k->shared,
                                  .stream = g->stream,
                                  .attribute = attribute,
                                  .n_attributes = count};
    return g->driver.cuLaunchKernelEx(&launch, function, params, NULL);
}

/* Launches call i of a phase for n rows, whose operands are *args. */
static bool launch(PfqGpu *g, const char *phase, int32_t i, const PfqCudaCall *c, int32_t n,
                   PfqCudaArgs *args, PfqErr *err)
{
    const PfqCudaKernel *k = &g->code->kernel[c->kernel];
    int r = launch_kernel(g, k, g->function[c->kernel], n, args);
    const char *call = k->flags || k->cluster ? "cuLaunchKernelEx" : "cuLaunchKernel";
    if (r == PFQ_CUDA_OK && g->sync) {
        r = g->driver.cuStreamSynchronize(g->stream);
        call = "cuStreamSynchronize";
    }
    if (r == PFQ_CUDA_OK) {
        return true;
    }
    char what[192];
    snprintf(what, sizeof what, "kernel '%s', call %d of %s", k->name, i, phase);
    return pfq_cuda_check(&g->driver, r, call, what, err);
}

bool pfq_gpu_wanted(const PfqGpu *g, PfqCudaPhaseId phase, const PfqCudaCall *c, int32_t n)
{
    const int32_t rows = phase == PFQ_CUDA_STEPS && g->alone ? g->rows : n;
    return rows >= c->from && (!c->to || rows <= c->to);
}

bool pfq_gpu_launch(PfqGpu *g, int phase, int32_t i, int32_t n, PfqErr *err)
{
    const Phase *p = &g->phase[phase];
    return launch(g, phase_names[phase], i, &p->table->call[i], n, &p->args[i], err);
}

bool pfq_gpu_launch_all(PfqGpu *g, int id, int32_t n, PfqErr *err)
{
    const PfqCudaPhase *t = g->phase[id].table;
    for (int32_t i = 0; i < t->n; i++) {
        if (pfq_gpu_wanted(g, (PfqCudaPhaseId)id, &t->call[i], n) &&
            !pfq_gpu_launch(g, id, i, n, err)) {
            return false;
        }
    }
    return true;
}

/* What pfq_gpu_enqueue does, launch by launch. */
static bool launch_phase(PfqGpu *g, int id, int32_t n, PfqErr *err)
{
    return (id != PFQ_CUDA_SAMPLE || pfq_gpu_launch_all(g, (int)pfq_gpu_decode_phase(g), n, err)) &&
           pfq_gpu_launch_all(g, id, n, err);
}

/* Records a phase's launches for n rows. Failing is no error: they are then launched one by one,
 * and what is wrong with them shows there. */
static void record(PfqGpu *g, int id, int32_t n)
{
    const PfqCudaDriver *d = &g->driver;
    Recorded *r = &g->recorded[id];
    PfqErr ignored;
    void *graph = NULL;
    if (r->graph) {
        d->cuGraphExecDestroy(r->graph);
    }
    *r = (Recorded){.n = n, .last = n};
    if (d->cuStreamBeginCapture_v2(g->stream, RELAXED) != PFQ_CUDA_OK) {
        return;
    }
    bool ok = launch_phase(g, id, n, &ignored);
    ok = d->cuStreamEndCapture(g->stream, &graph) == PFQ_CUDA_OK && ok;
    if (ok && d->cuGraphInstantiateWithFlags(&r->graph, graph, 0) != PFQ_CUDA_OK) {
        r->graph = NULL;
    }
    if (graph) {
        d->cuGraphDestroy(graph);
    }
}

/* ---- weights ---- */

static bool load_section(PfqGpu *g, int32_t i, const char *data, Loading *loading, PfqErr *err)
{
    const PfqCudaLoad *l = &g->code->load[i];
    PfqCudaArgs args = resolve(g, &l->call, 0);
    const uint64_t to = l->call.kernel < 0 ? args.out[0] : g->buf[BUF_STAGED].at;
    return upload(g, to, data + l->from, l->bytes, loading, err) &&
           (l->call.kernel < 0 || launch(g, "loading", i, &l->call, 1, &args, err));
}

static bool load_weights(PfqGpu *g, const PfqGpuConfig *c, PfqErr *err)
{
    const PfqCudaCode *code = g->code;
    Loading l = {.total = code->n_loads ? 0 : (int64_t)code->weight_bytes};
    for (int32_t i = 0; i < code->n_loads; i++) {
        l.total += (int64_t)code->load[i].bytes;
    }
    pfq_progress_start_quiet(&l.progress, "loading");
    bool ok =
        code->n_loads || upload(g, g->buf[BUF_WEIGHTS].at, c->weights, code->weight_bytes, &l, err);
    for (int32_t i = 0; ok && i < code->n_loads; i++) {
        ok = load_section(g, i, c->weights, &l, err);
    }
    pfq_progress_end(&l.progress);
    return ok && CALL(g, cuStreamSynchronize, "loading", g->stream);
}

static bool free_staged(PfqGpu *g, PfqErr *err)
{
    const uint64_t block = g->buf[BUF_STAGED].block;
    g->buf[BUF_STAGED].block = 0;
    return CALL(g, cuMemFree_v2, buffer_names[BUF_STAGED], block);
}

/* ---- open and close ---- */

static bool allocate_host(PfqGpu *g, PfqErr *err)
{
    const PfqCudaCode *c = g->code;
    const size_t order = (size_t)max_rows(g->model, PFQ_CUDA_BATCH);
    g->module = calloc((size_t)c->n_kernels + 1, sizeof *g->module);
    g->function = calloc((size_t)c->n_kernels + 1, sizeof *g->function);
    g->sync_at = calloc((size_t)c->n_kernels + 1, sizeof *g->sync_at);
    g->io = calloc(io_bytes(g->model), 1);
    g->order = calloc(order, sizeof *g->order);
    bool ok = g->module && g->function && g->sync_at && g->io && g->order;
    for (size_t i = 0; ok && i < order; i++) {
        g->order[i] = (int32_t)i;
    }
    for (int i = 0; i < PFQ_CUDA_N_PHASES; i++) {
        Phase *p = &g->phase[i];
        p->table = &c->phase[i];
        p->rows_at = up(4 * (i == PFQ_CUDA_PREFILL || i == PFQ_CUDA_LOGITS
                                 ? max_rows(g->model, i)
                                 : max_rows(g->model, PFQ_CUDA_BATCH)), /* where tokens are drawn */
                        64);
        p->args = calloc((size_t)p->table->n + 1, sizeof *p->args);
        ok = ok && p->args;
    }
    return ok || pfq_fail(err, "out of memory for the GPU's tables");
}

static bool open_context(PfqGpu *g, const char *gpu_name, PfqErr *err)
{
    return CALL(g, cuDevicePrimaryCtxRetain, gpu_name, &g->context, g->device) &&
           CALL(g, cuCtxSetCurrent, gpu_name, g->context) &&
           CALL(g, cuStreamCreate, gpu_name, &g->stream, NON_BLOCKING);
}

static bool load_kernels(PfqGpu *g, PfqErr *err)
{
    for (int32_t i = 0; i < g->code->n_kernels; i++) {
        if (!load_kernel(g, i, err)) {
            return false;
        }
    }
    for (int p = 0; p < PFQ_CUDA_N_PHASES; p++) {
        Phase *ph = &g->phase[p];
        for (int32_t i = 0; i < ph->table->n; i++) {
            ph->args[i] = resolve(g, &ph->table->call[i], ph->rows_at);
        }
    }
    return true;
}

PfqCudaPhaseId pfq_gpu_decode_phase(const PfqGpu *g)
{
    return g->phase[PFQ_CUDA_STEP].table->n && !g->plain ? PFQ_CUDA_STEP : PFQ_CUDA_DECODE;
}

/* One row is faster by the step, but with other sums than among others. */
PfqCudaPhaseId pfq_gpu_batch_phase(const PfqGpu *g, int32_t n)
{
    const PfqCudaPhase *t = g->phase[PFQ_CUDA_STEPS].table;
    const int32_t rows = g->alone ? g->rows : n;
    if (rows == 1) {
        return pfq_gpu_decode_phase(g);
    }
    return t->n && !g->plain && rows <= t->call[t->n - 1].to ? PFQ_CUDA_STEPS : PFQ_CUDA_BATCH;
}

/* Logits of many sequences are megabytes a step, which come several times as fast into memory that
 * stays where it is. Where that cannot be had they come all the same. */
static void pin(PfqGpu *g, const PfqGpuConfig *c)
{
    if (c->logits && g->driver.cuMemHostRegister_v2(c->logits, c->pinned_bytes, 0) == PFQ_CUDA_OK) {
        g->pinned = c->logits;
        g->pinned_bytes = c->pinned_bytes;
    }
}

static bool open_gpu(PfqGpu *g, const char *gpu_name, const PfqGpuConfig *c, PfqErr *err)
{
    uint64_t total;
    if (!allocate_host(g, err) || !size_buffers(g, &total, err) ||
        !open_context(g, gpu_name, err) || !allocate(g, gpu_name, total, err) ||
        !CALL(g, cuMemcpyHtoDAsync_v2, "row numbers", g->buf[BUF_ORDER].at, g->order,
              g->buf[BUF_ORDER].bytes, g->stream) ||
        !load_kernels(g, err) || !load_weights(g, c, err) || !free_staged(g, err) ||
        !pfq_gpu_open_ring(g, err)) {
        return false;
    }
    pin(g, c);
    if (!g->sync) {
        record(g, (int)pfq_gpu_decode_phase(g), 1);
        if (g->phase[PFQ_CUDA_SAMPLE].table->n) {
            record(g, PFQ_CUDA_SAMPLE, 1);
        }
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
    g->sms = choice->sms;
    g->ctx = c->ctx;
    g->slots = c->slots;
    g->rows = c->rows;
    g->plain = c->plain;
    g->alone = c->alone;
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
    for (int i = 0; i < PFQ_CUDA_N_PHASES; i++) {
        if (g->recorded[i].graph) {
            d->cuGraphExecDestroy(g->recorded[i].graph);
        }
    }
    pfq_gpu_close_ring(g);
    if (g->pinned) {
        d->cuMemHostUnregister(g->pinned);
    }
    pfq_gpu_drop_events(g, &g->events);
    for (int32_t i = g->code->n_kernels; g->module && i-- > 0;) {
        if (g->module[i]) {
            d->cuModuleUnload(g->module[i]);
        }
    }
    for (int i = N_BUFFERS; i-- > 0;) {
        if (g->buf[i].block) {
            d->cuMemFree_v2(g->buf[i].block);
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
    for (int i = 0; i < PFQ_CUDA_N_PHASES; i++) {
        free(g->phase[i].args);
    }
    free(g->times);
    free(g->order);
    free(g->io);
    free(g->sync_at);
    free(g->function);
    free(g->module);
    free(g);
}

/* ---- run ---- */

bool pfq_gpu_enqueue(PfqGpu *g, int id, int32_t n, PfqErr *err)
{
    Recorded *r = &g->recorded[id];
    if (g->trace) {
        return pfq_gpu_launch_traced(g, id, n, err);
    }
    if (!g->sync && r->n != n && r->last == n) {
        record(g, id, n);
    }
    r->last = n;
    return r->graph && r->n == n ? CALL(g, cuGraphLaunch, phase_names[id], r->graph, g->stream)
                                 : launch_phase(g, id, n, err);
}

/* Row i is at rows[i], or i positions behind `at`. */
static bool start(PfqGpu *g, int id, const int32_t *tokens, const PfqRow *rows, PfqRow at,
                  int32_t n, PfqErr *err)
{
    PfqRow *to = (PfqRow *)(void *)(g->io + g->phase[id].rows_at);
    memcpy(g->io, tokens, (size_t)n * sizeof *tokens);
    for (int32_t i = 0; i < n; i++) {
        to[i] = rows ? rows[i] : (PfqRow){.pos = at.pos + i, .slot = at.slot};
    }
    const uint64_t bytes = g->phase[id].rows_at + (uint64_t)n * sizeof(PfqRow);
    return CALL(g, cuMemcpyHtoDAsync_v2, phase_names[id], g->buf[BUF_IO].at, g->io, bytes,
                g->stream) &&
           pfq_gpu_enqueue(g, id, n, err);
}

/* Bytes [from, to) of the logits. */
static bool fetch(PfqGpu *g, int id, float *logits, uint64_t from, uint64_t to, PfqErr *err)
{
    return from >= to || CALL(g, cuMemcpyDtoHAsync_v2, phase_names[id], (char *)logits + from,
                              g->buf[BUF_LOGITS].at + from, to - from, g->stream);
}

/* Rows of a prompt may be more than there are slots. The driver refuses a copy that begins in
 * memory that is pinned and ends behind it. */
static bool finish(PfqGpu *g, int id, int32_t n, float *logits, PfqErr *err)
{
    const uint64_t all = logits ? (uint64_t)n * (uint64_t)g->model->vocab * sizeof(float) : 0,
                   first = all < g->pinned_bytes ? all : g->pinned_bytes;
    return fetch(g, id, logits, 0, first, err) && fetch(g, id, logits, first, all, err) &&
           CALL(g, cuStreamSynchronize, sync_names[id], g->stream);
}

bool pfq_gpu_keep_fault(PfqGpu *g, bool ok, PfqErr *err)
{
    g->broken = g->broken || !ok;
    if (g->broken) {
        *err = g->fault;
    }
    return !g->broken;
}

static bool run_rows(PfqGpu *g, int id, const int32_t *tokens, const PfqRow *rows, PfqRow at,
                     int32_t n, PfqDraw *draw, float *logits, PfqErr *err)
{
    bool ok = g->broken || (start(g, id, tokens, rows, at, n, &g->fault) &&
                            (draw ? pfq_gpu_draw(g, draw, n, logits, &g->fault)
                                  : finish(g, id, n, logits, &g->fault)));
    if (g->trace && !g->broken && ok) {
        ok = pfq_gpu_tell_trace(g, id, n, rows ? rows[0].pos : at.pos, &g->fault);
    }
    return pfq_gpu_keep_fault(g, ok, err);
}

bool pfq_gpu_run(PfqGpu *g, PfqPhaseId phase, const int32_t *tokens, int32_t n, PfqRow at,
                 float *logits, PfqErr *err)
{
    const int id = phase == PFQ_PREFILL  ? PFQ_CUDA_PREFILL
                   : phase == PFQ_LOGITS ? PFQ_CUDA_LOGITS
                                         : (int)pfq_gpu_decode_phase(g);
    return run_rows(g, id, tokens, NULL, at, n, NULL, phase == PFQ_PREFILL ? NULL : logits, err);
}

bool pfq_gpu_batch(PfqGpu *g, const int32_t *tokens, const PfqRow *rows, int32_t n, PfqDraw *draw,
                   float *logits, PfqErr *err)
{
    const int id = (int)pfq_gpu_batch_phase(g, n);
    return run_rows(g, id, tokens, rows, (PfqRow){0}, n, draw, logits, err);
}

bool pfq_gpu_start(PfqGpu *g, PfqCudaPhaseId phase, const int32_t *tokens, const PfqRow *rows,
                   int32_t n, PfqErr *err)
{
    return pfq_gpu_keep_fault(
        g, g->broken || start(g, (int)phase, tokens, rows, (PfqRow){0}, n, &g->fault), err);
}

bool pfq_gpu_wait(PfqGpu *g, PfqErr *err)
{
    return pfq_gpu_keep_fault(g, g->broken || finish(g, PFQ_CUDA_DECODE, 0, NULL, &g->fault), err);
}

static PfqCudaPlane plane(const PfqGpu *g, const PfqKvState *s, PfqRow row)
{
    const uint64_t ctx = (uint64_t)g->ctx, slot = g->model->kv_row_bytes * ctx;
    return (PfqCudaPlane){.kind = PFQ_CUDA_DEVICE,
                          .device = g->buf[BUF_KV].at + slot * (uint64_t)row.slot + s->off * ctx +
                                    (uint64_t)row.pos * s->bytes,
                          .pitch = s->bytes * ctx};
}

/* All heads of a part of the cache at once. */
static bool copy_state(PfqGpu *g, const PfqKvState *s, PfqRow from, PfqRow to, int32_t n,
                       PfqErr *err)
{
    const PfqCudaCopy2D copy = {.from = plane(g, s, from),
                                .to = plane(g, s, to),
                                .width = (size_t)n * s->bytes,
                                .height = s->heads};
    return CALL(g, cuMemcpy2DAsync_v2, "the cache of a sequence", &copy, g->stream);
}

bool pfq_gpu_copy(PfqGpu *g, PfqRow from, PfqRow to, int32_t n, PfqErr *err)
{
    bool ok = true;
    for (int32_t i = 0; !g->broken && ok && n > 0 && i < g->model->n_kv; i++) {
        ok = copy_state(g, &g->model->kv[i], from, to, n, &g->fault);
    }
    return pfq_gpu_keep_fault(g, ok, err);
}
