/* Generation on either device. Contract: generate.h. */
#include "runtime/generate.h"

bool pfq_gen_start(PfqGen *g, PfqEngine *e, PfqSampler *s, int64_t limit, PfqErr *err)
{
    *g = (PfqGen){.e = e, .s = s};
    const int64_t room = e->ctx - e->pos, wanted = limit < 0 ? room : limit - 1;
    g->on_gpu = e->gpu && limit != 0 && pfq_gpu_samples(e->gpu, s, &g->why);
    return !g->on_gpu || pfq_gpu_generate(e->gpu, s, (PfqRow){.pos = e->pos, .slot = e->slot},
                                          wanted < room ? wanted : room, err);
}

static bool next_here(PfqGen *g, int32_t *id, PfqErr *err)
{
    const float *logits = g->n ? pfq_engine_decode(g->e, g->last, err) : g->e->logits;
    *id = logits ? pfq_sample(g->s, logits) : -1;
    return logits != NULL;
}

static bool next_there(PfqGen *g, int32_t *id, PfqErr *err)
{
    if (!pfq_gpu_generate_next(g->e->gpu, g->s, id, g->e->logits, err)) {
        return false;
    }
    g->e->pos += g->n > 0;
    return true;
}

PfqGenEnd pfq_gen_next(PfqGen *g, int32_t *id, PfqErr *err)
{
    if (g->n && g->e->pos == g->e->ctx) {
        return PFQ_GEN_FULL;
    }
    if (!(g->on_gpu ? next_there : next_here)(g, id, err)) {
        return PFQ_GEN_FAILED;
    }
    g->last = *id;
    g->n++;
    return PFQ_GEN_TOKEN;
}
