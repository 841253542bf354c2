#include "passes/numerics.h"

#include "ir/compare.h"

#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = 8 };
static const double exact_bound =
    1e-9; /* relative difference of all logits; f64 rounding stays far below it */
static const double loose_bound =
    40; /* dB: what a few quantised values that round the other way may cost */
static const double broken_bound = 0; /* dB: noise as large as the signal is no quantisation */

static i64 vocab_of(const Module *m)
{
    u32 fn = pass_fn_index(m, "main");
    if (!fn) fn = pass_fn_index(m, "logits");
    return fn && m->fns.at[fn].results.n ? type_cols(type_of(m, m->fns.at[fn].results.at[0])) : 0;
}

/* Logits of tokens spread over the vocabulary, the same in every run. NULL after a diagnostic. */
static double *evaluate(Diag *d, Module *m, bool decode, Arena *a, i64 *n)
{
    i32 tokens[TOKENS];
    i64 vocab = vocab_of(m);
    if (vocab <= 0) {
        diag_error(d, E_PASS_NUMERICS, LOC_WHAT("--verify-numerics"),
                   "the module has no @main or @logits to evaluate");
        return NULL;
    }
    for (i64 i = 0; i < TOKENS; i++)
        tokens[i] = (i32)((i * 7919 + 13) % vocab);
    return compare_logits(d, m, tokens, TOKENS, decode, a, n);
}

/* Caches of f16, or of scales in f16, round what the graph kept in f32. */
static PassKind kind_of(const PassCx *cx, const PassInfo *info)
{
    const Module *m = cx->m;
    if (info->kind != KIND_KV) return info->kind;
    for (u32 i = 0; i < m->consts.n; i++) {
        const Op *op = op_at(m, m->consts.at[i]);
        if (op->kind == OP_STATE && type_of(m, op->out)->dt == DT_F16) return KIND_QUANT;
    }
    return KIND_EXACT;
}

static bool judge(const PassCx *cx, const PassInfo *info, const char *what, const Compare *c)
{
    PassKind kind = kind_of(cx, info);
    double need = kind == KIND_LOOSE ? loose_bound : broken_bound;
    bool ok = kind == KIND_EXACT ? c->rel <= exact_bound : c->sqnr_db >= need;
    if (kind == KIND_EXACT)
        fprintf(stderr, "%-22s %-8s difference %.1e\n", info->name, what, c->rel);
    else
        fprintf(stderr, "%-22s %-8s SQNR %.1f dB\n", info->name, what, c->sqnr_db);
    if (ok) return true;
    const char *pass = arena_printf(cx->m->a, "pass %s", info->name);
    if (kind != KIND_EXACT)
        return diag_error(cx->d, E_PASS_NUMERICS, LOC_WHAT(pass),
                          "changed the logits of %s: SQNR %.1f dB, expected at least %.0f dB", what,
                          c->sqnr_db, need);
    return diag_error(cx->d, E_PASS_NUMERICS, LOC_WHAT(pass),
                      "changed the logits of %s by %.1e, expected at most %.0e", what, c->rel,
                      exact_bound);
}

bool numerics_start(Numerics *s, Diag *d, Module *m)
{
    s->logits = evaluate(d, m, false, &s->a, &s->n);
    return s->logits != NULL;
}

/* Evaluates one way and compares with the logits before the pass. */
static double *check(Numerics *s, const PassCx *cx, const PassInfo *info, bool decode, Arena *a)
{
    i64 n = 0;
    const char *what = decode ? "decode" : pass_fn_index(cx->m, "main") ? "main" : "prefill";
    double *now = evaluate(cx->d, cx->m, decode, a, &n);
    if (!now || n != s->n) return diag_note(cx->d, "after pass %s", info->name), NULL;
    Compare c = compare_values(s->logits, now, n);
    return judge(cx, info, what, &c) ? now : NULL;
}

bool numerics_check(Numerics *s, const PassCx *cx, const PassInfo *info)
{
    if (!cx->changes) return true;
    Arena next = {0};
    double *now = check(s, cx, info, false, &next);
    bool ok = now && (!pass_fn_index(cx->m, "decode") || check(s, cx, info, true, &next));
    arena_free(&s->a);
    s->a = next;
    s->logits = now;
    return ok;
}

void numerics_end(Numerics *s)
{
    arena_free(&s->a);
}
