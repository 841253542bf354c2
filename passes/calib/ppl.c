#include "passes/calib/ppl.h"

#include "ir/base/meter.h"
#include "passes/calib/calib_int.h"
#include "runtime/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_LENGTH = 2048, LOGIT_BYTES = 32 << 20, STREAMED_BYTES = 512 << 20 };

typedef struct Side { /* a module on the text: up to the last hidden states, then the logits of some
                         rows */
    PassCx cx;
    Calib *c;
    u32 cut, end; /* positions in @main's body */
    OpId last;    /* computes the logits */
    i64 vocab;
    u64 done, total; /* ops, of thread 0 */
    double shown;
} Side;

typedef struct Score {
    Side side, ref; /* ref.c NULL: none */
    i64 step;       /* rows of a block of logits */
    float *logits;  /* ref's: rows row0.. of the sequence in work */
    i64 row0;
    const float *saved; /* logits of all scored tokens instead of ref; NULL: none */
    double *nll, *kl;   /* [sequences, length] */
    bool *same;         /* [sequences, length] */
} Score;

static void show(Side *s, const CalibCall *call)
{
    if (call->thread != 0) return;
    s->done++;
    double now = now_seconds();
    if (now - s->shown < 0.2) return;
    s->shown = now;
    calib_progress(&s->cx, "ppl", s->done < s->total ? s->done : s->total, s->total);
}

static bool only_show(void *user, const CalibCall *call)
{
    show(user, call);
    return true;
}

static bool capture(void *user, const CalibCall *call)
{
    Score *s = user;
    const Tensor *y = &call->out[0];
    if (call->op == s->ref.last)
        memcpy(s->logits + (call->row - s->row0) * s->ref.vocab, y->f,
               (size_t)(y->dim[0] * s->ref.vocab) * sizeof(float));
    return true;
}

static bool score(void *user, const CalibCall *call)
{
    Score *s = user;
    const Calib *c = s->side.c;
    show(&s->side, call);
    if (call->op != s->side.last) return true;
    const i32 *tokens = c->tokens + call->sequence * c->length;
    i64 vocab = s->side.vocab;
    for (i64 r = 0; r < call->out[0].dim[0]; r++) {
        i64 t = call->row + r, at = call->sequence * c->length + t;
        if (t + 1 >= c->length) break;
        if (tokens[t + 1] < 0 || tokens[t + 1] >= vocab) return false;
        const float *row = call->out[0].f + r * vocab;
        double z = pfq_log_sum_exp(row, (i32)vocab);
        s->nll[at] = z - (double)row[tokens[t + 1]];
        if (!s->ref.c && !s->saved) continue;
        const float *ref = s->saved ? s->saved + (call->sequence * (c->length - 1) + t) * vocab
                                    : s->logits + (t - s->row0) * vocab;
        s->kl[at] = pfq_divergence(ref, pfq_log_sum_exp(ref, (i32)vocab), row, z, (i32)vocab);
        s->same[at] = pfq_argmax(ref, (i32)vocab) == pfq_argmax(row, (i32)vocab);
    }
    return true;
}

static bool sum_up(const Score *s, Ppl *out)
{
    const Calib *c = s->side.c;
    double sum = 0, sum2 = 0, kl = 0, same = 0;
    i64 n = 0;
    for (i64 k = 0; k < c->sequences; k++)
        for (i64 t = 0; t + 1 < c->length; t++, n++) {
            double x = s->nll[k * c->length + t];
            sum += x;
            sum2 += x * x;
            kl += s->kl[k * c->length + t];
            same += s->same[k * c->length + t];
        }
    double mean = sum / (double)n;
    double var = n > 1 ? (sum2 - (double)n * mean * mean) / (double)(n - 1) : 0;
    if (!isfinite(mean))
        return diag_error(c->d, E_PASS_CALIB, LOC_WHAT("ppl"), "the model's logits are not finite");
    *out = (Ppl){.ppl = exp(mean), .kl = kl / (double)n, .top1 = same / (double)n, .tokens = n};
    out->se = out->ppl * sqrt((var > 0 ? var : 0) / (double)n);
    out->run = c->sequences * c->length;
    return true;
}

static bool start(Side *s, Module *m, Diag *d, Arena *a, PassCall *call, const CalibSource *source,
                  i64 chunks, i64 length)
{
    Tail tail;
    s->cx = (PassCx){.m = m, .d = d, .a = a, .call = call, .calib = source};
    s->c = calib_new_tokens(&s->cx, source->tokens, chunks, length, 0);
    if (!s->c || !pass_tail(&s->cx, s->c->fn, &tail)) return false;
    const Fn *f = &m->fns.at[s->c->fn];
    s->end = f->body.n;
    s->cut = ir_op_position(m, pass_def(m, tail.cut)) + 1;
    s->last = pass_def(m, f->results.at[0]);
    s->vocab = type_cols(type_of(m, f->results.at[0]));
    return true;
}

/* The logits of both sides, some rows of a sequence at a time. */
static bool run_pairs(Score *s)
{
    const Calib *c = s->side.c;
    i64 group = s->step * c->nt;
    s->logits = xmalloc((size_t)(group * s->side.vocab), sizeof *s->logits);
    for (i64 q = 0; q < c->sequences; q++)
        for (i64 r = 0; r < c->length; r += group) {
            CalibRows rows = {q, q + 1, r, r + group < c->length ? r + group : c->length, s->step};
            s->row0 = r;
            if (!calib_run_rows(s->ref.c, s->ref.end, rows, capture, s) ||
                !calib_run_rows(s->side.c, s->side.end, rows, score, s))
                return false;
        }
    return true;
}

/* Rows of logits at a time. A head too large for memory is decoded anew for each block: few, then.
 */
static i64 block_rows(const Side *s)
{
    const Fn *f = &s->cx.m->fns.at[s->c->fn];
    i64 bytes = LOGIT_BYTES, each = STREAMED_BYTES / s->c->nt;
    for (u32 i = s->cut; i < s->end; i++) {
        const Op *op = op_at(s->cx.m, f->body.at[i]);
        for (u32 k = 0; k < op->nin; k++)
            if (is_const(s->cx.m, op->in[k]) && dense_streams(s->c, op, k) && each > bytes)
                bytes = each;
    }
    i64 rows = bytes / 4 / s->vocab;
    return rows < 16 ? 16 : rows > s->c->length ? s->c->length : rows;
}

static bool run(Score *s)
{
    Side *a = &s->side, *ref = &s->ref;
    const i64 n = a->c->length;
    if (ref->c && ref->vocab != a->vocab)
        return diag_error(a->c->d, E_PASS_CALIB, LOC_WHAT("ppl"), "the vocabularies differ");
    s->step = block_rows(a);
    i64 blocks = (a->c->sequences * ((n + s->step - 1) / s->step) + a->c->nt - 1) / a->c->nt;
    i64 mine = (a->c->sequences + a->c->nt - 1) / a->c->nt;
    a->total = (u64)(mine * a->cut + blocks * (a->end - a->cut));
    if (ref->c) ref->total = (u64)(mine * ref->cut);
    bool ok = (!ref->c || calib_run(ref->c, ref->cut, 0, true, only_show, ref)) &&
              calib_run(a->c, a->cut, 0, true, only_show, a);
    CalibRows all = {0, a->c->sequences, 0, n, s->step};
    ok = ok && (ref->c ? run_pairs(s) : calib_run_rows(a->c, a->end, all, score, s));
    calib_progress(&a->cx, "ppl", 1, 1);
    return ok;
}

static bool count_chunks(Diag *d, Module *m, const CalibSource *source, i64 *length, i64 *chunks)
{
    i64 context = ir_meta_get_int(m, "context", DEFAULT_LENGTH) - eval_prefix(m);
    if (!*length) *length = context < DEFAULT_LENGTH ? context : DEFAULT_LENGTH;
    if (*length < 2 || *length > context)
        return diag_error(d, E_PASS_CALIB, LOC_WHAT("ppl"),
                          "chunks of %lld tokens do not fit the model's context of %lld",
                          (long long)*length, (long long)context);
    i64 all = source->n / *length;
    if (!all)
        return diag_error(d, E_PASS_CALIB, LOC_WHAT("ppl"),
                          "the text has %lld tokens, fewer than one chunk of %lld",
                          (long long)source->n, (long long)*length);
    *chunks = *chunks && *chunks < all ? *chunks : all;
    return true;
}

static bool use_saved(Score *s, const MappedFile *logits, i64 chunks, i64 length)
{
    if (!logits) return true;
    const u64 row = 4 * (u64)s->side.vocab, want = (u64)(chunks * (length - 1));
    if (logits->size % row || logits->size / row != want)
        return diag_error(s->side.c->d, E_PASS_CALIB, LOC_WHAT("--against"),
                          "the file has %llu bytes, expected logits of %llu tokens over a "
                          "vocabulary of %lld; -c and --chunks must be those of the program",
                          (unsigned long long)logits->size, (unsigned long long)want,
                          (long long)s->side.vocab);
    s->saved = (const float *)(const void *)logits->data;
    return true;
}

bool calib_ppl(Diag *d, Module *m, Module *against, const MappedFile *logits,
               const CalibSource *source, i64 length, i64 chunks, Ppl *out)
{
    Arena a = {0};
    PassCall call = {0};
    Score s = {0};
    double began = now_seconds();
    bool ok = count_chunks(d, m, source, &length, &chunks);
    ok = ok && (!against || start(&s.ref, against, d, &a, &call, source, chunks, length)) &&
         start(&s.side, m, d, &a, &call, source, chunks, length) &&
         use_saved(&s, logits, chunks, length);
    if (ok) {
        s.nll = NEWN(&a, double, chunks *length);
        s.kl = NEWN(&a, double, chunks *length);
        s.same = NEWN(&a, bool, chunks *length);
        ok = run(&s) && sum_up(&s, out);
    }
    if (ok) out->seconds = now_seconds() - began;
    if (!ok && !d->n_errors)
        diag_error(d, E_PASS_CALIB, LOC_WHAT("ppl"),
                   "a token of the text is not in the vocabulary");
    free(s.logits);
    calib_free(s.side.c);
    calib_free(s.ref.c);
    arena_free(&a);
    return ok;
}
