#include "passes/calib/ppl.h"

#include "ir/base/meter.h"
#include "passes/calib/calib_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_LENGTH = 2048, LOGIT_BYTES = 64 << 20 };

typedef struct Score {
    Calib *c;
    OpId last;   /* op that computes the logits */
    double *nll; /* [sequences, length] of the token after each position */
    u64 done, total;
    double shown;
} Score;

/* log(sum(exp(x))), from the largest on. */
static double log_sum_exp(const float *x, i64 n)
{
    float top = calib_max(x, n);
    return (double)top + log(calib_exp_sum(x, n, top));
}

static bool score(void *user, const CalibCall *call)
{
    Score *s = user;
    const Calib *c = s->c;
    if (call->thread == 0) {
        s->done++;
        double now = now_seconds();
        if (now - s->shown > 0.2) {
            s->shown = now;
            calib_progress(c->cx, "ppl", s->done < s->total ? s->done : s->total, s->total);
        }
    }
    if (call->op != s->last) return true;
    const Tensor *y = &call->out[0];
    const i32 *tokens = c->tokens + call->sequence * c->length;
    i64 vocab = tensor_cols(y);
    for (i64 r = 0; r < y->dim[0]; r++) {
        i64 t = call->row + r;
        if (t + 1 >= c->length) break;
        if (tokens[t + 1] < 0 || tokens[t + 1] >= vocab) return false;
        const float *row = y->f + r * vocab;
        s->nll[call->sequence * c->length + t] =
            log_sum_exp(row, vocab) - (double)row[tokens[t + 1]];
    }
    return true;
}

static bool sum_up(const Score *s, Ppl *out)
{
    const Calib *c = s->c;
    double sum = 0, sum2 = 0;
    i64 n = 0;
    for (i64 k = 0; k < c->sequences; k++)
        for (i64 t = 0; t + 1 < c->length; t++, n++) {
            double x = s->nll[k * c->length + t];
            sum += x;
            sum2 += x * x;
        }
    double mean = sum / (double)n;
    double var = n > 1 ? (sum2 - (double)n * mean * mean) / (double)(n - 1) : 0;
    if (!isfinite(mean))
        return diag_error(c->d, E_PASS_CALIB, LOC_WHAT("ppl"), "the model's logits are not finite");
    out->ppl = exp(mean);
    out->se = out->ppl * sqrt((var > 0 ? var : 0) / (double)n);
    out->tokens = n;
    out->run = c->sequences * c->length;
    return true;
}

static bool run(PassCx *cx, Calib *c, Score *s)
{
    Tail tail;
    if (!pass_tail(cx, c->fn, &tail)) return false;
    const Fn *f = &cx->m->fns.at[c->fn];
    const u32 n = f->body.n, cut = ir_op_position(cx->m, pass_def(cx->m, tail.cut)) + 1;
    i64 vocab = type_cols(type_of(cx->m, f->results.at[0])), rows = LOGIT_BYTES / 4 / vocab;
    rows = rows < 16 ? 16 : rows > c->length ? c->length : rows;
    s->last = pass_def(cx->m, f->results.at[0]);
    i64 blocks = (c->length + rows - 1) / rows, mine = (c->sequences + c->nt - 1) / c->nt;
    s->total = (u64)(mine * (cut + blocks * (n - cut)));
    bool ok = calib_run(c, cut, 0, true, score, s) && calib_run_rows(c, n, rows, score, s);
    calib_progress(cx, "ppl", 1, 1);
    return ok;
}

bool calib_ppl(Diag *d, Module *m, const CalibSource *source, i64 length, i64 max_chunks, Ppl *out)
{
    Arena a = {0};
    PassCall call = {0};
    PassCx cx = {.m = m, .d = d, .a = &a, .call = &call, .calib = source};
    double start = now_seconds();
    i64 context = ir_meta_get_int(m, "context", DEFAULT_LENGTH) - eval_prefix(m);
    if (!length) length = context < DEFAULT_LENGTH ? context : DEFAULT_LENGTH;
    if (length < 2 || length > context)
        return diag_error(d, E_PASS_CALIB, LOC_WHAT("ppl"),
                          "chunks of %lld tokens do not fit the model's context of %lld",
                          (long long)length, (long long)context);
    i64 chunks = source->n / length;
    if (!chunks)
        return diag_error(d, E_PASS_CALIB, LOC_WHAT("ppl"),
                          "the text has %lld tokens, fewer than one chunk of %lld",
                          (long long)source->n, (long long)length);
    if (max_chunks && max_chunks < chunks) chunks = max_chunks;
    Calib *c = calib_new_tokens(&cx, source->tokens, chunks, length, 0);
    Score s = {.c = c};
    if (c) s.nll = xmalloc((size_t)(chunks * length), sizeof *s.nll);
    bool ok = c && run(&cx, c, &s) && sum_up(&s, out);
    if (ok) out->seconds = now_seconds() - start;
    if (!ok && !d->n_errors)
        diag_error(d, E_PASS_CALIB, LOC_WHAT("ppl"),
                   "a token of the text is not in the vocabulary");
    free(s.nll);
    calib_free(c);
    arena_free(&a);
    return ok;
}
