/* `ppl`: perplexity of a text file.
 *
 * The whole file is tokenised once, without BOS, and cut into non-overlapping chunks of c tokens; a
 * last shorter one is dropped. Each chunk is a sequence of its own. All its tokens but the first
 * are scored, also when --bos puts BOS in front (the chunk is then c + 1 long), so that both forms
 * score the same tokens. The negative log likelihood of a token is computed in double from the f32
 * logits; the sums are in order of position, so the result does not depend on -t. The standard
 * error is that of the mean, carried through exp: ppl * sd / sqrt(n).
 */
#include "runtime/cli.h"
#include "runtime/file.h"
#include "runtime/sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_CHUNK = 2048 };

typedef struct Score {
    PfqCli *cli;
    const int32_t *seq; /* tokens of this chunk, BOS included */
    int32_t n_seq;
    int32_t first; /* of the tokens scored, index in seq */
    double *nll;   /* [model->rows] of the block in work */
    double sum, sum2;
    int64_t n;
    const float *logits; /* the block: rows row .. row + rows - 1 of the sequence */
    int32_t row, rows;
    PfqSave save; /* of the logits */
} Score;

/* The row at position i holds the prediction of token i + 1. */
static void score_job(void *arg, int tid, int nt)
{
    Score *s = arg;
    int32_t vocab = s->cli->model->vocab;
    for (int32_t i = tid; i < s->rows; i += nt) {
        int32_t target = s->row + i + 1;
        if (target >= s->first && target < s->n_seq) {
            const float *row = s->logits + (size_t)i * (size_t)vocab;
            s->nll[i] = pfq_log_sum_exp(row, vocab) - (double)row[s->seq[target]];
        }
    }
}

static void score_rows(void *user, int32_t first, int32_t n, const float *logits)
{
    Score *s = user;
    s->logits = logits;
    s->row = first;
    s->rows = n;
    pfq_pool_run(s->cli->engine.pool, score_job, s);
    for (int32_t i = 0; i < n; i++) {
        int32_t target = first + i + 1;
        if (target >= s->first && target < s->n_seq) {
            if (s->save.f) {
                size_t vocab = (size_t)s->cli->model->vocab;
                fwrite(logits + (size_t)i * vocab, sizeof *logits, vocab, s->save.f);
            }
            s->sum += s->nll[i];
            s->sum2 += s->nll[i] * s->nll[i];
            s->n++;
        }
    }
}

/* BOS in front of each chunk, unless the model's prefix is just that. */
static bool wants_bos(const PfqCli *c)
{
    const PfqModel *m = c->model;
    return c->opt.bos && !(m->prefix == 1 && m->prefix_ids[0] == c->tok.bos);
}

static bool score_chunks(Score *s, int32_t *seq, const int32_t *ids, int64_t chunks, int32_t c)
{
    PfqCli *cli = s->cli;
    PfqProgress progress;
    bool bos = wants_bos(cli);
    s->seq = seq;
    s->n_seq = c + bos;
    s->first = 1 + bos;
    seq[0] = cli->tok.bos;
    pfq_progress_start(&progress, "ppl");
    for (int64_t k = 0; k < chunks; k++) {
        char note[48];
        memcpy(seq + bos, ids + k * c, (size_t)c * sizeof *seq);
        pfq_engine_rewind(&cli->engine, 0);
        if (!pfq_engine_prefill(&cli->engine, seq, s->n_seq, PFQ_WANT_ALL, score_rows, s,
                                &cli->err)) {
            return false;
        }
        if (!isfinite(s->sum)) {
            return pfq_fail(&cli->err, "the model's logits are not finite in chunk %lld",
                            (long long)k + 1);
        }
        snprintf(note, sizeof note, "ppl %.4f", exp(s->sum / (double)s->n));
        pfq_progress(&progress, k + 1, chunks, note);
    }
    pfq_progress_end(&progress);
    double n = (double)s->n, mean = s->sum / n, ppl = exp(mean);
    double var = s->n > 1 ? (s->sum2 - n * mean * mean) / (n - 1) : 0;
    pfq_out_printf(cli->out, "ppl %.4f se %.4f tokens %lld\n", ppl,
                   ppl * sqrt((var > 0 ? var : 0) / n), (long long)s->n);
    return true;
}

static bool score_tokens(PfqCli *c, const int32_t *ids, int64_t n)
{
    bool bos = wants_bos(c);
    if (c->opt.bos && c->tok.bos < 0) {
        return pfq_fail(&c->err, "--bos: this tokenizer has no BOS token");
    }
    int64_t len = c->opt.ctx;
    if (len == 0) {
        len = c->model->context - bos < DEFAULT_CHUNK ? c->model->context - bos : DEFAULT_CHUNK;
    }
    if (len < 2 || len + bos > c->model->context) {
        return pfq_fail(&c->err, "chunks of %lld tokens%s do not fit the model's context of %d",
                        (long long)len, bos ? " and BOS" : "", c->model->context);
    }
    int64_t chunks = n / len;
    if (chunks == 0) {
        return pfq_fail(&c->err, "the text has %lld tokens, fewer than one chunk of %lld (-c)",
                        (long long)n, (long long)len);
    }
    chunks = c->opt.chunks && c->opt.chunks < chunks ? c->opt.chunks : chunks;
    if (!pfq_cli_load(c, len + bos, false)) {
        return false;
    }
    Score s = {.cli = c, .nll = malloc((size_t)c->model->rows * sizeof *s.nll)};
    int32_t *seq = malloc((size_t)(len + bos) * sizeof *seq);
    bool ok = pfq_save_open(&s.save, c->opt.save_logits, &c->err);
    if (ok && (!s.nll || !seq)) {
        ok = pfq_fail(&c->err, "out of memory for a chunk of %lld tokens", (long long)len);
    }
    ok = ok && score_chunks(&s, seq, ids, chunks, (int32_t)len);
    ok = pfq_save_close(&s.save, ok, &c->err);
    free(seq);
    free(s.nll);
    return ok;
}

bool pfq_cmd_ppl(PfqCli *c)
{
    size_t n;
    int32_t *ids = NULL;
    char *text = pfq_read_file(c->opt.operands[0], &n, &c->err);
    if (!text) {
        return false;
    }
    ptrdiff_t n_ids = pfq_tok_encode(&c->tok, text, n, 0, &ids);
    free(text);
    if (n_ids < 0) {
        return pfq_fail(&c->err, "out of memory for the tokens of '%s'", c->opt.operands[0]);
    }
    bool ok = score_tokens(c, ids, n_ids);
    free(ids);
    return ok;
}
