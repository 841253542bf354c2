/* Tokens chosen on the GPU, told to the host in a ring. Contract: cuda.h; the rule: sample.h; the
 * kernels: codegen/cuda/sample.cu.
 *
 * Tokens are numbered from 1 on through all generations, so that what steps of an earlier one still
 * tell is told apart. The stream orders everything else: an upload takes effect behind the steps
 * that were asked for before it.
 */
#include "runtime/cuda_int.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    AHEAD = 4,     /* steps that are asked for before their tokens are waited for */
    RANKED = 1024, /* candidates and, below it, runs that sample.cu has room for */
    MAPPED = 2,    /* cuMemHostAlloc: the GPU has an address of it */
    SPINS = 2000,  /* looks at the ring before the thread sleeps between them */
    NAP_NS = 20 * 1000
};

/* ---- the ring ---- */

/* Rows of a batch, at most. */
static size_t most_rows(const PfqGpu *g)
{
    return (size_t)pfq_model_slots(g->model);
}

uint64_t pfq_gpu_kept_at(const PfqGpu *g)
{
    return (most_rows(g) * sizeof(PfqCudaSampler) + 255) / 256 * 256;
}

bool pfq_gpu_open_ring(PfqGpu *g, PfqErr *err)
{
    const size_t bytes = (PFQ_CUDA_RING + most_rows(g)) * sizeof(PfqCudaToken);
    void *ring = NULL;
    if (!g->phase[PFQ_CUDA_SAMPLE].table->n) {
        return true;
    }
    if (!CALL(g, cuMemHostAlloc, "the tokens", &ring, bytes, MAPPED)) {
        return false;
    }
    memset(ring, 0, bytes);
    g->gen = (Generation){.ring = ring, .next = 1, .asked = 1};
    g->gen.sampler = calloc(most_rows(g), sizeof *g->gen.sampler);
    return g->gen.sampler
               ? CALL(g, cuMemHostGetDevicePointer_v2, "the tokens", &g->gen.ring_at, ring, 0)
               : pfq_fail(err, "out of memory for the samplers");
}

void pfq_gpu_close_ring(PfqGpu *g)
{
    if (g->gen.ring) {
        g->driver.cuMemFreeHost(g->gen.ring);
    }
    g->gen.ring = NULL;
    free(g->gen.sampler);
    g->gen.sampler = NULL;
}

/* ---- begin ---- */

bool pfq_gpu_samples(const PfqGpu *g, const PfqSampler *s, const char **why)
{
    const int32_t runs = (g->model->vocab + PFQ_SAMPLE_RUN - 1) / PFQ_SAMPLE_RUN;
    *why = !g->gen.ring                               ? "the program has no code for it"
           : g->trace                                 ? "of --trace"
           : runs > 2 * RANKED                        ? "of the size of the vocabulary"
           : s->top_k > RANKED && s->top_k < s->vocab ? "--top-k is above 1024"
                                                      : NULL;
    return !*why;
}

/* s for the GPU, which tells token number `count` in the ring at ring_at and copies logits that it
 * has no room to choose from to `kept`. */
static PfqCudaSampler sampler_there(const PfqSampler *s, uint64_t ring_at, uint64_t kept,
                                    uint32_t count)
{
    return (PfqCudaSampler){.scale = pfq_sample_scale(s),
                            .top_p = s->top_p,
                            .min_p = s->min_p,
                            .span = pfq_sample_span(s),
                            .state = s->state,
                            .ring = ring_at,
                            .kept = kept,
                            .top_k = s->top_k,
                            .vocab = s->vocab,
                            .count = (int32_t)count};
}

static bool upload_samplers(PfqGpu *g, int32_t n, PfqErr *err)
{
    return CALL(g, cuMemcpyHtoDAsync_v2, "sampling", g->buf[BUF_SAMPLER].at, g->gen.sampler,
                (size_t)n * sizeof *g->gen.sampler, g->stream);
}

/* Uploads the sampler; and the input of the next step, or what the first token makes one. */
static bool upload_state(PfqGpu *g, const PfqSampler *s, int32_t token, PfqRow row, PfqErr *err)
{
    Generation *n = &g->gen;
    const uint64_t rows_at = g->phase[PFQ_CUDA_SAMPLE].rows_at;
    *n->sampler =
        sampler_there(s, n->ring_at, g->buf[BUF_SAMPLER].at + pfq_gpu_kept_at(g), n->asked);
    n->next = n->asked;
    memcpy(g->io, &token, sizeof token);
    memcpy(g->io + rows_at, &row, sizeof row);
    return upload_samplers(g, 1, err) &&
           CALL(g, cuMemcpyHtoDAsync_v2, "sampling", g->buf[BUF_IO].at, g->io, rows_at + sizeof row,
                g->stream);
}

/* Steps on their way; not before the first token is known, because a step that follows none repeats
 * the one before it. */
static bool ask(PfqGpu *g, PfqErr *err)
{
    Generation *n = &g->gen;
    for (; n->asked - n->next < AHEAD && n->steps > 0; n->asked++, n->steps--) {
        if (!pfq_gpu_enqueue(g, PFQ_CUDA_SAMPLE, 1, err)) {
            return false;
        }
    }
    return true;
}

/* The first token's choice moves the position on by one, to its own. */
static bool begin(PfqGpu *g, const PfqSampler *s, PfqRow at, int64_t steps, PfqErr *err)
{
    g->gen.at = at;
    g->gen.steps = steps;
    if (!upload_state(g, s, 0, (PfqRow){.pos = at.pos - 1, .slot = at.slot}, err) ||
        !pfq_gpu_launch_all(g, PFQ_CUDA_SAMPLE, 1, err)) {
        return false;
    }
    g->gen.asked++;
    return true;
}

bool pfq_gpu_generate(PfqGpu *g, const PfqSampler *s, PfqRow at, int64_t steps, PfqErr *err)
{
    return pfq_gpu_keep_fault(g, g->broken || begin(g, s, at, steps, &g->fault), err);
}

/* ---- next ---- */

static bool told(const PfqGpu *g, PfqCudaToken *out)
{
    const PfqCudaToken *t = &g->gen.ring[g->gen.next % PFQ_CUDA_RING];
    out->word = __atomic_load_n(&t->word, __ATOMIC_ACQUIRE);
    out->state = __atomic_load_n(&t->state, __ATOMIC_ACQUIRE);
    return out->word >> 32 == g->gen.next;
}

static bool wait_told(PfqGpu *g, PfqCudaToken *out, PfqErr *err)
{
    const struct timespec nap = {.tv_nsec = NAP_NS};
    for (int64_t turn = 0; !told(g, out); turn++) {
        if (turn < SPINS) {
            __builtin_ia32_pause();
            continue;
        }
        const int r = g->driver.cuStreamQuery(g->stream);
        if (r == PFQ_CUDA_OK) {
            return told(g, out) || pfq_fail(err, "the GPU's steps ended without a token");
        }
        if (r != PFQ_CUDA_NOT_READY) {
            return pfq_cuda_check(&g->driver, r, "cuStreamQuery",
                                  "a kernel of generation, which --cuda-sync names", err);
        }
        nanosleep(&nap, NULL);
    }
    return true;
}

/* What the GPU had no room to choose from; then it goes on from there. */
static bool choose_here(PfqGpu *g, PfqSampler *s, int32_t *token, float *logits, PfqErr *err)
{
    Generation *n = &g->gen;
    const uint64_t bytes = (uint64_t)s->vocab * sizeof *logits;
    if (!CALL(g, cuMemcpyDtoHAsync_v2, "sampling", logits, n->sampler->kept, bytes, g->stream) ||
        !CALL(g, cuStreamSynchronize, "sampling", g->stream)) {
        return false;
    }
    n->steps += n->asked - n->next; /* they chose nothing */
    *token = pfq_sample(s, logits);
    return upload_state(g, s, *token < 0 ? 0 : *token, n->at, err);
}

static bool next(PfqGpu *g, PfqSampler *s, int32_t *token, float *logits, PfqErr *err)
{
    Generation *n = &g->gen;
    PfqCudaToken t;
    if (!wait_told(g, &t, err)) {
        return false;
    }
    n->next++;
    s->state = t.state;
    *token = (int32_t)(uint32_t)t.word;
    if (*token == PFQ_HOST_CHOOSES && !choose_here(g, s, token, logits, err)) {
        return false;
    }
    n->at.pos++;
    return *token < 0 || ask(g, err);
}

bool pfq_gpu_generate_next(PfqGpu *g, PfqSampler *s, int32_t *token, float *logits, PfqErr *err)
{
    return pfq_gpu_keep_fault(g, g->broken || next(g, s, token, logits, &g->fault), err);
}

/* ---- rows of a batch ---- */

/* Row i's entry of the ring: behind those of generation, which count % PFQ_CUDA_RING must find. */
static uint64_t row_ring(const PfqGpu *g, int32_t i)
{
    return g->gen.ring_at + ((uint64_t)(PFQ_CUDA_RING + i) * sizeof(PfqCudaToken));
}

static bool fetch_logits(PfqGpu *g, int32_t row, float *logits, PfqErr *err)
{
    const uint64_t vocab = (uint64_t)g->model->vocab, at = (uint64_t)row * vocab;
    return CALL(g, cuMemcpyDtoHAsync_v2, "logits", logits + at,
                g->buf[BUF_LOGITS].at + at * sizeof *logits, vocab * sizeof *logits, g->stream);
}

/* Enqueues what every row needs. Rows that are not drawn are halted; a row whose logits the GPU has
 * no room to choose from keeps them where they are. */
static bool ask_rows(PfqGpu *g, PfqDraw *draw, int32_t n, float *logits, PfqErr *err)
{
    const uint64_t vocab = (uint64_t)g->model->vocab * sizeof *logits;
    const char *why;
    bool any = false, ok = true;
    for (int32_t i = 0; ok && i < n; i++) {
        const PfqSampler *s = draw[i].sampler;
        const bool there = s && pfq_gpu_samples(g, s, &why);
        g->gen.sampler[i] = (PfqCudaSampler){.vocab = g->model->vocab, .halted = 1};
        if (there) {
            g->gen.sampler[i] = sampler_there(
                s, row_ring(g, i), g->buf[BUF_LOGITS].at + (uint64_t)i * vocab, PFQ_CUDA_RING);
            g->gen.ring[PFQ_CUDA_RING + i] = (PfqCudaToken){0};
        } else {
            ok = fetch_logits(g, i, logits, err);
        }
        any = any || there;
    }
    return ok &&
           (!any || (upload_samplers(g, n, err) && pfq_gpu_launch_all(g, PFQ_CUDA_SAMPLE, n, err)));
}

/* What was told of row i; the logits of one that the GPU did not draw are, or come, here. */
static bool take_row(PfqGpu *g, PfqDraw *draw, int32_t i, float *logits, PfqErr *err)
{
    const char *why;
    if (!draw->sampler || !pfq_gpu_samples(g, draw->sampler, &why)) {
        return true;
    }
    const PfqCudaToken t = g->gen.ring[PFQ_CUDA_RING + i];
    if (t.word >> 32 != PFQ_CUDA_RING) {
        return pfq_fail(err, "the GPU's batch ended without a token");
    }
    draw->sampler->state = t.state;
    if ((int32_t)(uint32_t)t.word != PFQ_HOST_CHOOSES) {
        draw->token = (int32_t)(uint32_t)t.word;
        return true;
    }
    return fetch_logits(g, i, logits, err) && CALL(g, cuStreamSynchronize, "sampling", g->stream);
}

bool pfq_gpu_draw(PfqGpu *g, PfqDraw *draw, int32_t n, float *logits, PfqErr *err)
{
    bool ok =
        ask_rows(g, draw, n, logits, err) &&
        CALL(g, cuStreamSynchronize, "a kernel of a batch, which --cuda-sync names", g->stream);
    for (int32_t i = 0; ok && i < n; i++) {
        ok = take_row(g, &draw[i], i, logits, err);
    }
    return ok;
}
