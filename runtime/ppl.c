/* `ppl`: perplexity of a text file, by the protocol of chunks.h. */
#include "runtime/chunks.h"
#include "runtime/file.h"
#include "runtime/sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Ppl {
    PfqCli *cli;
    PfqNll nll;
    PfqSave save; /* of the logits */
    /* the block in work */
    double *value; /* [model->rows] */
    const int32_t *targets;
    const float *logits;
    int32_t n;
} Ppl;

static void score_job(void *arg, int tid, int nt)
{
    Ppl *p = arg;
    const int32_t vocab = p->cli->model->vocab;
    for (int32_t i = tid; i < p->n; i += nt) {
        const float *row = p->logits + (size_t)i * (size_t)vocab;
        p->value[i] = pfq_log_sum_exp(row, vocab) - (double)row[p->targets[i]];
    }
}

static void score_rows(void *user, const int32_t *targets, int32_t n, const float *logits)
{
    Ppl *p = user;
    p->targets = targets;
    p->logits = logits;
    p->n = n;
    pfq_pool_run(p->cli->engine.pool, score_job, p);
    for (int32_t i = 0; i < n; i++) {
        pfq_nll_add(&p->nll, p->value[i]);
    }
    pfq_save_write(&p->save, logits, (size_t)n * (size_t)p->cli->model->vocab * sizeof *logits);
}

static bool end_chunk(void *user, int64_t k, char note[64])
{
    const Ppl *p = user;
    if (!isfinite(p->nll.sum)) {
        return pfq_fail(&p->cli->err, "the model's logits are not finite in chunk %lld",
                        (long long)k);
    }
    if (p->save.error) { /* why go on? */
        return pfq_fail(&p->cli->err, "cannot write '%s': %s", p->save.path,
                        strerror(p->save.error));
    }
    snprintf(note, 64, "ppl %.4f", exp(p->nll.sum / (double)p->nll.n));
    return true;
}

static bool score(Ppl *p, PfqChunks *t)
{
    const PfqChunkUser user = {"ppl", score_rows, end_chunk, p};
    p->value = malloc((size_t)p->cli->model->rows * sizeof *p->value);
    if (!p->value) {
        return pfq_fail(&p->cli->err, "out of memory for %d likelihoods", p->cli->model->rows);
    }
    return pfq_chunks_load(t) && pfq_save_open(&p->save, p->cli->opt.save_logits, &p->cli->err) &&
           pfq_chunks_run(t, &user);
}

bool pfq_cmd_ppl(PfqCli *c)
{
    Ppl p = {.cli = c};
    PfqChunks t;
    bool ok = pfq_chunks_read(&t, c) && score(&p, &t);
    ok = pfq_save_close(&p.save, ok, &c->err);
    if (ok) {
        double ppl, se;
        pfq_nll_ppl(&p.nll, &ppl, &se);
        pfq_out_printf(c->out, "ppl %.4f se %.4f tokens %lld\n", ppl, se, (long long)p.nll.n);
    }
    pfq_chunks_free(&t);
    free(p.value);
    return ok;
}
