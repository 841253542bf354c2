/* How much text a calibrating pass reads, and where it reports its progress. */
#include "passes/calib/calib.h"

#include <string.h>

CalibBudget calib_budget(const PassCx *cx, CalibUse use)
{
    static const CalibBudget budget[2][3] = {
        [EFFORT_FAST] = {{64, 512}, {4, 512}, {64, 512}},
        [EFFORT_FULL] = {{64, 512}, {8, 1024}, {128, 2048}},
    };
    const CalibSource *s = cx->calib;
    CalibBudget b = budget[s->effort][use];
    bool most = use == CALIB_SEARCH; /* a search reads no more than what was measured */
    if (s->samples && !(most && b.sequences < s->samples)) b.sequences = s->samples;
    if (s->length && !(most && b.length < s->length)) b.length = s->length;
    return b;
}

bool calib_enough(PassCx *cx, i64 sequences, i64 length)
{
    const CalibSource *s = cx->calib;
    if (!s->tokens || s->n / length >= sequences) return true;
    const char *what = arena_printf(cx->m->a, "pass %s", pass_info[cx->call->pass].name);
    diag_error(cx->d, E_PASS_CALIB, LOC_WHAT(what),
               "the calibration text has %lld tokens, expected at least %lld (%lld sequences of "
               "%lld)",
               (long long)s->n, (long long)(sequences * length), (long long)sequences,
               (long long)length);
    diag_hint(cx->d, "--calibration FILE names a longer text%s",
              s->effort == EFFORT_FULL ? "; --effort fast needs less" : "");
    return false;
}

/* The pass reads that much of the text, and refuses less. */
static bool reads(PassCx *cx, CalibUse *use)
{
    const char *pass = pass_info[cx->call->pass].name;
    *use = CALIB_STATISTICS;
    if (strcmp(pass, "prefix") == 0) return !prefix_given(cx);
    if (strcmp(pass, "static-scales") == 0) return !(pass_num(cx, "max") > 0);
    *use = CALIB_SEARCH;
    return strcmp(pass, "dynamic-scales") == 0 && pass_int(cx, "search");
}

bool calib_check(Diag *d, Module *m, const Pipeline *p, const CalibSource *s)
{
    Arena scratch = {0};
    bool ok = true;
    for (u32 i = 0; ok && i < p->calls.n; i++) {
        PassCx cx = {.m = m, .d = d, .a = &scratch, .call = &p->calls.at[i], .calib = s};
        CalibUse use;
        if (strcmp(pass_info[cx.call->pass].name, "prefix") == 0) ok = prefix_check(&cx);
        if (!ok || s->assumed > 0 || !reads(&cx, &use)) continue;
        CalibBudget b = calib_budget(&cx, use);
        ok = calib_enough(&cx, b.sequences, b.length);
    }
    arena_free(&scratch);
    return ok;
}

void calib_progress(const PassCx *cx, const char *what, u64 done, u64 total)
{
    if (cx->calib->progress) cx->calib->progress(cx->calib->progress_arg, what, done, total);
}
