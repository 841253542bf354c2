/* Texts in chunks. Contract: chunks.h. */
#include "runtime/chunks.h"

#include "runtime/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_CHUNK = 2048 };

/* Chooses the length and number of chunks for a text of n tokens. */
static bool cut(PfqChunks *t, int64_t n)
{
    PfqCli *c = t->cli;
    const PfqModel *m = c->model;
    if (c->opt.bos && c->tok.bos < 0) {
        return pfq_fail(&c->err, "--bos: this tokenizer has no BOS token");
    }
    t->bos = c->opt.bos && !(m->prefix == 1 && m->prefix_ids[0] == c->tok.bos); /* it is there */
    const int64_t room = m->context - t->bos;
    const int64_t length = c->opt.ctx ? c->opt.ctx : room < DEFAULT_CHUNK ? room : DEFAULT_CHUNK;
    if (length < 2 || length > room) {
        return pfq_fail(&c->err, "chunks of %lld tokens%s do not fit the model's context of %d",
                        (long long)length, t->bos ? " and BOS" : "", m->context);
    }
    if (n < length) {
        return pfq_fail(&c->err, "the text has %lld tokens, fewer than one chunk of %lld (-c)",
                        (long long)n, (long long)length);
    }
    t->length = (int32_t)length;
    t->n = c->opt.chunks && c->opt.chunks < n / length ? c->opt.chunks : n / length;
    return true;
}

bool pfq_chunks_read(PfqChunks *t, PfqCli *c)
{
    size_t n;
    *t = (PfqChunks){.cli = c};
    char *text = pfq_read_file(c->opt.operands[0], &n, &c->err);
    if (!text) {
        return false;
    }
    ptrdiff_t n_ids = pfq_tok_encode(&c->tok, text, n, 0, &t->ids);
    free(text);
    if (n_ids < 0) {
        return pfq_fail(&c->err, "out of memory for the tokens of '%s'", c->opt.operands[0]);
    }
    return cut(t, n_ids);
}

void pfq_chunks_free(PfqChunks *t)
{
    free(t->ids);
    *t = (PfqChunks){0};
}

bool pfq_chunks_load(PfqChunks *t)
{
    return pfq_cli_load(t->cli, t->length + t->bos, false);
}

typedef struct Chunk {
    const PfqChunkUser *u;
    const int32_t *seq; /* BOS included */
    int32_t n, first;   /* tokens; the first of those scored */
    int32_t vocab;
} Chunk;

/* The row at position p predicts token p + 1. */
static void scored_rows(void *user, int32_t first, int32_t n, const float *logits)
{
    const Chunk *c = user;
    int32_t from = first + 1 < c->first ? c->first - first - 1 : 0;
    int32_t to = first + n < c->n ? n : c->n - first - 1;
    if (from < to) {
        c->u->rows(c->u->user, c->seq + first + from + 1, to - from,
                   logits + (size_t)from * (size_t)c->vocab);
    }
}

static bool run(PfqChunks *t, const PfqChunkUser *u, int32_t *seq)
{
    PfqCli *cli = t->cli;
    PfqProgress progress;
    Chunk c = {u, seq, t->length + t->bos, 1 + t->bos, cli->model->vocab};
    seq[0] = cli->tok.bos;
    pfq_progress_start(&progress, u->what);
    for (int64_t k = 0; k < t->n; k++) {
        char note[64] = "";
        memcpy(seq + t->bos, t->ids + k * t->length, (size_t)t->length * sizeof *seq);
        pfq_engine_rewind(&cli->engine, 0);
        if (!pfq_engine_prefill(&cli->engine, seq, c.n, PFQ_WANT_ALL, scored_rows, &c, &cli->err) ||
            !u->chunk(u->user, k + 1, note)) {
            return false;
        }
        pfq_progress(&progress, k + 1, t->n, note);
    }
    pfq_progress_end(&progress);
    return true;
}

bool pfq_chunks_run(PfqChunks *t, const PfqChunkUser *u)
{
    int32_t *seq = malloc((size_t)(t->length + t->bos) * sizeof *seq);
    bool ok = seq ? run(t, u, seq)
                  : pfq_fail(&t->cli->err, "out of memory for a chunk of %d tokens", t->length);
    free(seq);
    return ok;
}

void pfq_nll_add(PfqNll *s, double nll)
{
    s->sum += nll;
    s->sum2 += nll * nll;
    s->n++;
}

void pfq_nll_ppl(const PfqNll *s, double *ppl, double *se)
{
    double n = (double)s->n, mean = s->sum / n;
    double var = s->n > 1 ? (s->sum2 - n * mean * mean) / (n - 1) : 0;
    *ppl = exp(mean);
    *se = *ppl * sqrt((var > 0 ? var : 0) / n);
}
