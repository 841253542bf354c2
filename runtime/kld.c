/* `kld`: how far this program's probabilities are from another's, the base, on a text (chunks.h).
 *
 * Per scored token: KL(base || this) in nats, whether both find the same token likeliest, and both
 * likelihoods. Percentiles interpolate between the two nearest of the sorted values. Standard
 * errors are those of means; the one of the ratio of perplexities is of the mean of the differences
 * of log-likelihoods, which vary far less than either, carried through exp.
 */
#include "runtime/base.h"
#include "runtime/sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct Row { /* of the block in work */
    double kl, nll, base_nll;
    bool same;
} Row;

typedef struct Kld {
    PfqCli *cli;
    PfqBase base;
    double *kl; /* [tokens] */
    int64_t n;  /* of them known */
    int64_t same;
    double sum;             /* of kl */
    PfqNll nll, base_nll;   /* of the text's tokens */
    PfqNll more;            /* nll - base_nll */
    bool failed;            /* base could not be read */
    Row *row;               /* [model->rows] */
    float *base_logits;     /* [model->rows, vocab] */
    const int32_t *targets; /* the block in work */
    const float *logits;
    int32_t rows;
} Kld;

static void compare_job(void *arg, int tid, int nt)
{
    Kld *k = arg;
    const int32_t vocab = k->cli->model->vocab;
    for (int32_t i = tid; i < k->rows; i += nt) {
        const float *q = k->logits + (size_t)i * (size_t)vocab,
                    *p = k->base_logits + (size_t)i * (size_t)vocab;
        const double zq = pfq_log_sum_exp(q, vocab), zp = pfq_log_sum_exp(p, vocab);
        k->row[i] = (Row){.kl = pfq_divergence(p, zp, q, zq, vocab),
                          .nll = zq - (double)q[k->targets[i]],
                          .base_nll = zp - (double)p[k->targets[i]],
                          .same = pfq_argmax(p, vocab) == pfq_argmax(q, vocab)};
    }
}

static void compare_rows(void *user, const int32_t *targets, int32_t n, const float *logits)
{
    Kld *k = user;
    k->failed = k->failed ||
                !pfq_base_read(&k->base, k->base_logits, n, k->cli->model->vocab, &k->cli->err);
    if (k->failed) {
        return;
    }
    k->targets = targets;
    k->logits = logits;
    k->rows = n;
    pfq_pool_run(k->cli->engine.pool, compare_job, k);
    for (int32_t i = 0; i < n; i++) {
        const Row *r = &k->row[i];
        k->kl[k->n++] = r->kl;
        k->sum += r->kl;
        k->same += r->same;
        pfq_nll_add(&k->nll, r->nll);
        pfq_nll_add(&k->base_nll, r->base_nll);
        pfq_nll_add(&k->more, r->nll - r->base_nll);
    }
}

static bool end_chunk(void *user, int64_t chunk, char note[64])
{
    const Kld *k = user;
    if (k->failed) {
        return false;
    }
    if (!isfinite(k->nll.sum) || !isfinite(k->sum)) {
        return pfq_fail(&k->cli->err, "the logits of %s are not finite in chunk %lld",
                        isfinite(k->nll.sum) ? "the base" : "the model", (long long)chunk);
    }
    snprintf(note, 64, "kl %.4f top1 %.4f", k->sum / (double)k->n, (double)k->same / (double)k->n);
    return true;
}

/* ---- results ---- */

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of sorted values, 0 <= share <= 1. */
static double percentile(const double *v, int64_t n, double share)
{
    const double at = share * (double)(n - 1);
    const int64_t i = (int64_t)at;
    return i + 1 < n ? v[i] + (at - (double)i) * (v[i + 1] - v[i]) : v[n - 1];
}

static void print_results(Kld *k)
{
    const double n = (double)k->n, mean = k->sum / n, top1 = (double)k->same / n;
    double dev = 0, ppl, ppl_se, base, base_se, ratio, ratio_se;
    qsort(k->kl, (size_t)k->n, sizeof *k->kl, ascending);
    for (int64_t i = 0; i < k->n; i++) {
        dev += (k->kl[i] - mean) * (k->kl[i] - mean);
    }
    pfq_nll_ppl(&k->nll, &ppl, &ppl_se);
    pfq_nll_ppl(&k->base_nll, &base, &base_se);
    pfq_nll_ppl(&k->more, &ratio, &ratio_se);
    const double below = n > 1 ? n - 1 : 1;
    pfq_out_printf(k->cli->out, "ppl %.4f se %.4f base %.4f se %.4f\n", ppl, ppl_se, base, base_se);
    pfq_out_printf(k->cli->out, "kl median %.6f p90 %.6f p99 %.6f\n", percentile(k->kl, k->n, 0.5),
                   percentile(k->kl, k->n, 0.9), percentile(k->kl, k->n, 0.99));
    pfq_out_printf(k->cli->out, "stderr kl %.6f top1 %.4f ratio %.4f\n", sqrt(dev / below / n),
                   sqrt(top1 * (1 - top1) / below), ratio_se);
    pfq_out_printf(k->cli->out, "kl %.6f p99.9 %.6f max %.6f top1 %.4f ratio %.4f tokens %lld\n",
                   mean, percentile(k->kl, k->n, 0.999), k->kl[k->n - 1], top1, ratio,
                   (long long)k->n);
}

/* ---- command ---- */

static bool compare(Kld *k, PfqChunks *t)
{
    const PfqChunkUser user = {"kld", compare_rows, end_chunk, k};
    const size_t rows = (size_t)k->cli->model->rows, vocab = (size_t)k->cli->model->vocab;
    PfqErr *err = &k->cli->err;
    k->kl = calloc((size_t)t->n, (size_t)(t->length - 1) * sizeof *k->kl);
    k->row = calloc(rows, sizeof *k->row);
    k->base_logits = calloc(rows, vocab * sizeof *k->base_logits);
    if (!k->kl || !k->row || !k->base_logits) {
        return pfq_fail(err, "out of memory for the logits of %d tokens", k->cli->model->rows);
    }
    if (!pfq_base_open(&k->base, k->cli->opt.base, t, err) || !pfq_chunks_load(t) ||
        !pfq_chunks_run(t, &user)) {
        return false;
    }
    double base, se;
    pfq_nll_ppl(&k->base_nll, &base, &se);
    return pfq_base_finish(&k->base, base, k->n, err);
}

bool pfq_cmd_kld(PfqCli *c)
{
    Kld k = {.cli = c, .base = PFQ_BASE_CLOSED};
    PfqChunks t;
    if (!c->opt.base) {
        c->usage = true;
        return pfq_fail(&c->err, "'kld' needs a base to compare with (--base OTHER)");
    }
    bool ok = pfq_chunks_read(&t, c) && compare(&k, &t);
    pfq_base_close(&k.base);
    if (ok) {
        print_results(&k);
    }
    pfq_chunks_free(&t);
    free(k.kl);
    free(k.row);
    free(k.base_logits);
    return ok;
}
