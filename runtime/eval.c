/* `eval`: scores a task file (task.h) by likelihoods, as lm-eval does.
 *
 * Choices: acc is the share of examples whose gold request has the largest log-likelihood (the
 * first of equals), acc_norm the same after dividing by the characters of the choice (lm-eval's
 * len() of it; where the contexts are the choices, the continuation is the same and so are the
 * two). Cloze: acc is the share of continuations of which every token is the likeliest one; ppl is
 * exp(-mean of the continuations' log-likelihoods), one a continuation, however many tokens it has.
 * Standard errors: sd / sqrt(n) of the sample, carried through exp for ppl (lm-eval bootstraps
 * that one).
 *
 * Requests run in the order of the file. What a request shares with the tokens that the KV cache
 * already holds is not computed again, be it the query of its own example or the examples that
 * every query begins with; requests of equal inputs (choices of one token each) share their logits.
 */
#include "runtime/cli.h"
#include "runtime/file.h"
#include "runtime/sample.h"
#include "runtime/task.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Logits of so many tokens that nobody asked for cost less than one more walk over the weights. */
enum { FEW = 8 };

typedef struct Score {
    double loglik; /* of all tokens of the continuation */
    bool greedy;   /* each of them was the likeliest */
} Score;

typedef struct Eval {
    PfqCli *cli;
    PfqTask task;
    Score *score; /* [task.n_requests] */
    PfqSave log;
    /* the prefill in work: requests r .. r + n - 1, whose inputs are the same */
    size_t r;
    int32_t n;
    int32_t base; /* position of its first token */
    /* the block in work */
    const float *logits;
    int32_t rows;
    double *sum;   /* [model->rows] log of the sum of exp */
    int32_t *best; /* [model->rows] likeliest token */
    int32_t *held; /* [engine.ctx] tokens in the KV cache */
    /* results: one value an example */
    double *acc, *other; /* 0 or 1; acc_norm or the log-likelihood */
} Eval;

/* ---- one request ---- */

static void rows_job(void *arg, int tid, int nt)
{
    Eval *e = arg;
    const int32_t vocab = e->cli->model->vocab;
    for (int32_t i = tid; i < e->rows; i += nt) {
        const float *row = e->logits + (size_t)i * (size_t)vocab;
        e->sum[i] = pfq_log_sum_exp(row, vocab);
        e->best[i] = pfq_argmax(row, vocab);
    }
}

/* The row at position p predicts token p + 1. */
static void score_rows(void *user, int32_t first, int32_t n, const float *logits)
{
    Eval *e = user;
    e->logits = logits;
    e->rows = n;
    pfq_pool_run(e->cli->engine.pool, rows_job, e);
    for (int32_t k = 0; k < e->n; k++) {
        const PfqRequest *q = &e->task.request[e->r + (size_t)k];
        Score *s = &e->score[e->r + (size_t)k];
        for (int32_t i = 0; i < n; i++) {
            const int32_t target = e->base + first + i + 1;
            if (target >= q->first && target < q->n) {
                const int32_t id = e->task.ids[q->at + (size_t)target];
                const float *row = logits + (size_t)i * (size_t)e->cli->model->vocab;
                s->loglik += (double)row[id] - e->sum[i];
                s->greedy = s->greedy && e->best[i] == id;
            }
        }
    }
}

/* How many of the first n tokens of a and b agree. */
static int32_t common(const int32_t *a, const int32_t *b, int32_t n)
{
    int32_t i = 0;
    while (i < n && a[i] == b[i]) {
        i++;
    }
    return i;
}

static int32_t least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* Runs requests e->r .. e->r + e->n - 1; `first` is the least of theirs. */
static bool run_group(Eval *e, int32_t first)
{
    const PfqRequest *q = &e->task.request[e->r];
    const int32_t *ids = e->task.ids + q->at, inputs = q->n - 1;
    PfqEngine *engine = &e->cli->engine;
    int32_t pos = common(e->held, ids, least(engine->pos, first - 1));
    pfq_engine_rewind(engine, pos);
    memcpy(e->held + pos, ids + pos, (size_t)(inputs - pos) * sizeof *ids);
    if (first - 1 - pos > FEW) {
        if (!pfq_engine_prefill(engine, ids + pos, first - 1 - pos, PFQ_WANT_NONE, NULL, NULL,
                                &e->cli->err)) {
            return false;
        }
        pos = first - 1;
    }
    e->base = pos;
    return pfq_engine_prefill(engine, ids + pos, inputs - pos, PFQ_WANT_ALL, score_rows, e,
                              &e->cli->err);
}

/* Requests of the example x, from k on, that have the inputs of k. */
static int32_t group_size(const PfqTask *t, const PfqExample *x, int32_t k, int32_t *first)
{
    const PfqRequest *q = &t->request[x->at + (size_t)k];
    int32_t n = 1;
    *first = q->first;
    for (; k + n < x->n && q[n].n == q->n; n++) {
        if (common(t->ids + q->at, t->ids + q[n].at, q->n - 1) < q->n - 1) {
            break;
        }
        *first = least(*first, q[n].first);
    }
    return n;
}

/* ---- one example ---- */

/* The first of the largest. */
static int32_t pick(const Eval *e, const PfqExample *x, bool norm)
{
    int32_t best = 0;
    double top = -INFINITY;
    for (int32_t k = 0; k < x->n; k++) {
        const double v = e->score[x->at + (size_t)k].loglik /
                         (norm ? e->task.request[x->at + (size_t)k].chars : 1);
        if (v > top) {
            top = v;
            best = k;
        }
    }
    return best;
}

static void log_example(Eval *e, size_t i)
{
    const PfqExample *x = &e->task.example[i];
    FILE *f = e->log.f;
    for (int32_t k = 0; f && k < x->n; k++) {
        const PfqRequest *q = &e->task.request[x->at + (size_t)k];
        const Score *s = &e->score[x->at + (size_t)k];
        fprintf(f, k ? ", " : "{\"example\": %zu, \"gold\": %d, \"requests\": [", i, x->gold);
        fprintf(f, "{\"loglik\": %.9g, \"greedy\": %s, \"context\": [", s->loglik,
                s->greedy ? "true" : "false");
        for (int32_t t = 0; t < q->n; t++) {
            fprintf(f, "%s%d",
                    t == q->first ? "], \"continuation\": ["
                    : t           ? ", "
                                  : "",
                    e->task.ids[q->at + (size_t)t]);
        }
        fprintf(f, k + 1 < x->n ? "]}" : "]}]}\n");
    }
}

static bool run_example(Eval *e, size_t i)
{
    const PfqExample *x = &e->task.example[i];
    for (int32_t k = 0, first; k < x->n; k += e->n) {
        e->r = x->at + (size_t)k;
        e->n = group_size(&e->task, x, k, &first);
        for (int32_t j = 0; j < e->n; j++) {
            e->score[e->r + (size_t)j] = (Score){.greedy = true};
        }
        if (!run_group(e, first)) {
            return false;
        }
        for (int32_t j = 0; j < e->n; j++) {
            if (!isfinite(e->score[e->r + (size_t)j].loglik)) {
                return pfq_fail(&e->cli->err, "the model's logits are not finite in example %zu",
                                i + 1);
            }
        }
    }
    const Score *s = &e->score[x->at];
    e->acc[i] = e->task.cloze ? s->greedy : pick(e, x, false) == x->gold;
    e->other[i] = e->task.cloze ? s->loglik : pick(e, x, true) == x->gold;
    log_example(e, i);
    return true;
}

/* ---- the task ---- */

/* Of tokens that are all but impossible: 60 digits tell nobody anything. */
static const char *perplexity(double v, char out[32])
{
    snprintf(out, 32, v < 1e6 ? "%.2f" : "%.4e", v);
    return out;
}

static void print_results(const Eval *e)
{
    double acc, acc_sd, other, other_sd;
    const int n = (int)e->task.n;
    const double root = sqrt(n);
    pfq_mean_sd(e->acc, n, &acc, &acc_sd);
    pfq_mean_sd(e->other, n, &other, &other_sd);
    if (e->task.cloze) {
        char ppl[32], se[32];
        pfq_out_printf(e->cli->out, "stderr acc %.4f ppl %s\nacc %.4f ppl %s n %d\n", acc_sd / root,
                       perplexity(exp(-other) * other_sd / root, se), acc,
                       perplexity(exp(-other), ppl), n);
    } else {
        pfq_out_printf(e->cli->out, "stderr acc %.4f acc_norm %.4f\nacc %.4f acc_norm %.4f n %d\n",
                       acc_sd / root, other_sd / root, acc, other, n);
    }
}

static bool run_examples(Eval *e)
{
    PfqProgress progress;
    double right = 0;
    pfq_progress_start(&progress, "eval");
    for (size_t i = 0; i < e->task.n; i++) {
        char note[32];
        if (!run_example(e, i)) {
            return false;
        }
        right += e->acc[i];
        snprintf(note, sizeof note, "acc %.4f", right / (double)(i + 1));
        pfq_progress(&progress, (int64_t)i + 1, (int64_t)e->task.n, note);
    }
    pfq_progress_end(&progress);
    print_results(e);
    return true;
}

/* A BOS that the model's prefix already is falls away (engine.h), unless it is the whole context.
 */
static void skip_prefix(Eval *e)
{
    for (size_t i = 0; i < e->task.n_requests; i++) {
        PfqRequest *q = &e->task.request[i];
        const int32_t skip = pfq_prompt_skip(e->cli->model, e->task.ids + q->at, q->first);
        q->at += (size_t)skip;
        q->n -= skip;
        q->first -= skip;
    }
}

static bool allocate(Eval *e)
{
    const size_t rows = (size_t)e->cli->model->rows, n = e->task.n;
    e->score = calloc(e->task.n_requests, sizeof *e->score);
    e->sum = calloc(rows, sizeof *e->sum);
    e->best = calloc(rows, sizeof *e->best);
    e->held = calloc((size_t)e->task.longest, sizeof *e->held);
    e->acc = calloc(n, sizeof *e->acc);
    e->other = calloc(n, sizeof *e->other);
    return (e->score && e->sum && e->best && e->held && e->acc && e->other) ||
           pfq_fail(&e->cli->err, "out of memory for the scores of %zu examples", n);
}

bool pfq_cmd_eval(PfqCli *c)
{
    Eval e = {.cli = c};
    const int64_t most = c->opt.ctx ? c->opt.ctx : c->model->context;
    const PfqTaskOptions o = {.path = c->opt.operands[0],
                              .limit = c->opt.limit,
                              .delimiter = c->opt.delimiter,
                              .special = c->opt.special,
                              .context =
                                  (int32_t)(most < c->model->context ? most : c->model->context)};
    bool ok = pfq_task_read(&e.task, &c->tok, &o, &c->err);
    if (ok && e.task.cut) {
        pfq_note("%s: %zu contexts do not fit the %d tokens of the model: their ends are used\n",
                 c->program, e.task.cut, o.context);
    }
    ok = ok && pfq_cli_load(c, e.task.longest - 1, false) && allocate(&e) &&
         pfq_save_open(&e.log, c->opt.log_samples, &c->err);
    if (ok) {
        skip_prefix(&e);
        ok = run_examples(&e);
    }
    ok = pfq_save_close(&e.log, ok, &c->err);
    free(e.score);
    free(e.sum);
    free(e.best);
    free(e.held);
    free(e.acc);
    free(e.other);
    pfq_task_free(&e.task);
    return ok;
}
