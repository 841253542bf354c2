/* Tokens, one after the other, as a sampler chooses them: what `run` and `chat` write.
 *
 *     pfq_gen_start(&g, &engine, &sampler, limit, &err);   behind a prefill that kept its last
 * logits while (pfq_gen_next(&g, &id, &err) == PFQ_GEN_TOKEN) ...
 *
 * On a GPU that can (cuda.h), tokens are chosen there and steps follow each other without the host;
 * those behind the last one asked for are thrown away. Either way the tokens are the same, and when
 * k were handed out, the engine's position counts the first k - 1, the sampler's random numbers all
 * k. The engine's logits are of no use behind pfq_gen_start.
 */
#ifndef PFQC_RUNTIME_GENERATE_H
#define PFQC_RUNTIME_GENERATE_H

#include "runtime/engine.h"

typedef struct PfqGen {
    PfqEngine *e;
    PfqSampler *s;
    int32_t n, last; /* tokens handed out; the last of them */
    bool on_gpu;
    const char *why; /* on a GPU: a phrase, why the host chooses; NULL: it does not */
} PfqGen;

typedef enum PfqGenEnd { PFQ_GEN_TOKEN, PFQ_GEN_FULL, PFQ_GEN_FAILED } PfqGenEnd;

/* limit: tokens that will be asked for at most; below 0: not known. */
bool pfq_gen_start(PfqGen *g, PfqEngine *e, PfqSampler *s, int64_t limit, PfqErr *err);
/* *id: the next token, -1 where no logit is finite. FULL: the context has no room for the step. */
PfqGenEnd pfq_gen_next(PfqGen *g, int32_t *id, PfqErr *err);

#endif
