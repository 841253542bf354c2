/* Tokens chosen on the GPU, told to the host in a ring. Contract: cuda.h; the rule: sample.h; the
 * kernels: codegen/cuda/sample.cu.
 *
 * Tokens are numbered from 1 on through all generations, so that what steps of an earlier one still
 * tell is told apart. The stream orders everything else: an upload takes effect behind the steps
 * that were asked for before it.
 */
#include "runtime/cuda_int.h"

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

bool pfq_gpu_open_ring(PfqGpu *g, PfqErr *err)
{
    const size_t bytes = PFQ_CUDA_RING * sizeof(PfqCudaToken);
    void *ring = NULL;
    if (!g->phase[PFQ_CUDA_SAMPLE].table->n) {
        return true;
    }
    if (!CALL(g, cuMemHostAlloc, "the tokens", &ring, bytes, MAPPED)) {
        return false;
    }
    memset(ring, 0, bytes);
    g->gen = (Generation){.ring = ring, .next = 1, .asked = 1};
    return CALL(g, cuMemHostGetDevicePointer_v2, "the tokens", &g->gen.ring_at, ring, 0);
}

void pfq_gpu_close_ring(PfqGpu *g)
{
    if (g->gen.ring) {
        g->driver.cuMemFreeHost(g->gen.ring);
    }
    g->gen.ring = NULL;
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

/* Uploads the sampler; and the input of the next step, or what the first token makes one. */
static bool upload_state(PfqGpu *g, const PfqSampler *s, int32_t token, PfqRow row, PfqErr *err)
{
    Generation *n = &g->gen;
    const uint64_t rows_at = g->phase[PFQ_CUDA_SAMPLE].rows_at;
    n->sampler = (PfqCudaSampler){.scale = pfq_sample_scale(s),
                                  .top_p = s->top_p,
                                  .min_p = s->min_p,
                                  .span = pfq_sample_span(s),
                                  .state = s->state,
                                  .ring = n->ring_at,
                                  .kept = g->buf[BUF_SAMPLER].at + PFQ_KEPT_LOGITS,
                                  .top_k = s->top_k,
                                  .vocab = s->vocab,
                                  .count = (int32_t)n->asked};
    n->next = n->asked;
    memcpy(g->io, &token, sizeof token);
    memcpy(g->io + rows_at, &row, sizeof row);
    return CALL(g, cuMemcpyHtoDAsync_v2, "sampling", g->buf[BUF_SAMPLER].at, &n->sampler,
                sizeof n->sampler, g->stream) &&
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
    if (!CALL(g, cuMemcpyDtoHAsync_v2, "sampling", logits, n->sampler.kept, bytes, g->stream) ||
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
