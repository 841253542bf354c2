/* Running a pipeline: order of stages, verification, dumps, times. */
#include "passes/changes.h"
#include "passes/numerics.h"
#include "passes/options.h"
#include "passes/rules.h"

#include "ir/base/json.h"
#include "ir/base/spans.h"
#include "ir/text.h"

#include <stdio.h>

/* ---- stages ---- */

StageId passes_stage(const Module *m)
{
    StageId s = STAGE_PHASED;
    for (u32 f = 1; f < m->fns.n; f++) {
        const Fn *fn = &m->fns.at[f];
        if (strcmp(ir_cstr(m, fn->name), "main") == 0 && s < STAGE_STEPS) s = STAGE_GRAPH;
        if (fn->steps.n && s < STAGE_STEPS) s = STAGE_STEPS;
        for (u32 i = 0; i < fn->steps.n; i++)
            if (fn->steps.at[i].weights && s < STAGE_PACKED) s = STAGE_PACKED;
        for (u32 i = 0; i < fn->body.n; i++)
            if (op_attr(op_at(m, fn->body.at[i]), A_AT)) s = STAGE_PLANNED;
    }
    return s;
}

static const struct {
    StageId id;
    const char *name, *missing;
} stages[] = {
    {STAGE_GRAPH, "graph", "a module with @main"},
    {STAGE_PHASED, "phased", "a module after `phases` and before `fuse`"},
    {STAGE_STEPS, "steps", "a module after `fuse`"},
    {STAGE_PACKED, "packed", "a module after `layout`"},
    {STAGE_PLANNED, "planned", "a module after `memory`"},
};
enum { N_STAGES = sizeof stages / sizeof *stages };

const char *passes_stage_name(StageId s)
{
    for (size_t i = 0; i < N_STAGES; i++)
        if (stages[i].id == s) return stages[i].name;
    return "unknown";
}

static bool check_before(PassCx *cx, const PassInfo *info)
{
    StageId now = passes_stage(cx->m);
    if (now & info->from) return true;
    size_t i = 0;
    while (!(stages[i].id & info->from))
        i++;
    return pass_fail(cx, NULL, "needs %s; this one is at stage '%s'", stages[i].missing,
                     passes_stage_name(now));
}

static bool stage_rule(PassCx *cx, StageId now, const Op *op)
{
    const Fn *f = &cx->m->fns.at[op->fn];
    if (now != STAGE_GRAPH && op->kind == OP_ATTENTION)
        return pass_fail(cx, op, "left an attention that is not split");
    if (now >= STAGE_STEPS && !op->step) return pass_fail(cx, op, "left an op without a step");
    if (now >= STAGE_PACKED && !f->steps.at[op->step - 1].weights) {
        const char *k = ir_cstr(cx->m, f->steps.at[op->step - 1].kernel);
        if (strncmp(k, "linear.", 7) == 0 || strncmp(k, "embed.", 6) == 0)
            return pass_fail(cx, op, "left the step %s without weights", k);
    }
    const Attr *at = op_attr(op, A_AT);
    if (now == STAGE_PLANNED && op->nout && (!at || at->n != op->nout))
        return pass_fail(cx, op, "left a result without a place");
    return true;
}

/* What may appear at each stage, beyond what ir_verify checks at all of them. */
static bool check_after(PassCx *cx, const PassInfo *info)
{
    Module *m = cx->m;
    StageId now = passes_stage(m);
    if (info->to && now > info->to)
        return pass_fail(cx, NULL, "left the module at stage '%s', expected '%s'",
                         passes_stage_name(now), passes_stage_name(info->to));
    for (u32 f = 1; f < m->fns.n; f++)
        for (u32 i = 0; i < m->fns.at[f].body.n; i++)
            if (!stage_rule(cx, now, op_at(m, m->fns.at[f].body.at[i]))) return false;
    return true;
}

/* ---- reports ---- */

static bool named(const char *option, const char *pass)
{
    return option && (strcmp(option, "all") == 0 || strcmp(option, pass) == 0);
}

static void print_to_stderr(const Module *m, Arena *a, const char *when, const char *pass)
{
    StrBuf b = {.a = a};
    ir_print(m, &b);
    fprintf(stderr, "// %s %s\n%s", when, pass, b.p);
}

static bool dump(Diag *d, Arena *a, const Module *m, const PassOptions *o, u32 number,
                 const char *name)
{
    if (!o->dump_dir) return true;
    StrBuf b = {.a = a};
    ir_print(m, &b);
    return io_write_file(d, a, arena_printf(a, "%s/%02u-%s.pfir", o->dump_dir, number, name), b.p,
                         b.n);
}

static u32 count_ops(const Module *m)
{
    u32 n = m->consts.n;
    for (u32 f = 1; f < m->fns.n; f++)
        n += m->fns.at[f].body.n;
    return n;
}

/* What plan.json and passes.json say of a pass that was run, without the closing brace. */
static void log_pass(StrBuf *b, const PassCx *cx, const char *name)
{
    StrBuf options = {.a = cx->a};
    sb_str(&options, "");
    options_text(cx->call, &options);
    sb_printf(b, "%s\n    {\"pass\": \"%s\", \"options\": ", b->n ? "," : "", name);
    sb_json_str(b, (Str){options.p, options.n});
    sb_printf(b, ", \"changes\": %u, \"ops\": %u", cx->changes, count_ops(cx->m));
}

/* The module's text in front of the next pass, and what the passes so far changed of it. Two arenas
 * take turns: one holds what was, the other what is. */
typedef struct History {
    Arena a[2];
    const Snapshot *last;
    StrBuf *out; /* NULL: nobody asks */
    u32 turn;
} History;

static void history_add(History *h, const PassCx *cx, const char *name)
{
    if (!h->out) return;
    Arena *a = &h->a[++h->turn % 2];
    const Snapshot *now = changes_snapshot(a, cx->m);
    log_pass(h->out, cx, name);
    sb_printf(h->out, ", \"stage\": \"%s\",\n     ", passes_stage_name(passes_stage(cx->m)));
    changes_write(cx->a, h->last, now, h->out);
    sb_ch(h->out, '}');
    h->last = now;
    arena_free(&h->a[(h->turn + 1) % 2]);
}

static bool check_names(Diag *d, const PassOptions *o)
{
    const char *const given[] = {o->print_before, o->print_after, o->stop_after};
    static const char *const option[] = {"--print-ir-before", "--print-ir-after", "--stop-after"};
    bool ok = true;
    for (u32 i = 0; i < 3; i++) {
        if (!given[i] || (i < 2 && strcmp(given[i], "all") == 0)) continue;
        bool known = false;
        for (u32 p = 0; p < pass_count; p++)
            known |= strcmp(pass_info[p].name, given[i]) == 0;
        if (!known)
            ok = diag_error(d, E_PASS_UNKNOWN, LOC_WHAT(option[i]), "there is no pass '%s'",
                            given[i]);
    }
    return ok;
}

static bool run_pass(PassCx *cx, const PassInfo *info, const PassOptions *o)
{
    if (!check_before(cx, info) || !rules_before(cx, info->name)) return false;
    u32 errors = cx->d->n_errors;
    if (!info->run(cx) || cx->d->n_errors > errors) return false;
    if (!rules_of_module(cx, arena_printf(cx->a, "pass %s", info->name))) return false;
    if (!o->verify_each) return true;
    if (!ir_verify(cx->d, cx->m)) {
        diag_note(cx->d, "after pass %s", info->name);
        return false;
    }
    return check_after(cx, info);
}

/* Is this pass, number `number` from 1, behind the limit? Kernels need integers (lower, the only
 * loose pass) and the stages. */
static bool skipped(const PassOptions *o, const PassInfo *info, u32 number)
{
    if (!o->bisect) return false;
    const bool needed = info->to || info->kind == KIND_LOOSE, skip = number > o->limit && !needed;
    fprintf(stderr, "pfqc: pass %u: %s%s\n", number, info->name,
            skip                ? " (skipped)"
            : number > o->limit ? " (needed)"
                                : "");
    return skip;
}

/* Written in front of every pass, so that it is there however the pass ends. */
static bool keep_reproducer(const PassCx *cx, const PassOptions *o, const Pipeline *p, u32 from)
{
    StrBuf b = {.a = cx->a};
    if (!o->reproducer) return true;
    reproducer_text(cx->m, p, from, &b);
    return io_write_file(cx->d, cx->a, o->reproducer, b.p, b.n);
}

/* One pass with all that was asked for around it. */
static bool run_call(PassCx *cx, const PassOptions *o, Numerics *num, History *h, u32 number)
{
    const PassInfo *info = &pass_info[cx->call->pass];
    const u32 span = span_begin(info->name);
    if (named(o->print_before, info->name)) print_to_stderr(cx->m, cx->a, "before", info->name);
    const bool ok = run_pass(cx, info, o);
    span_end(span, arena_printf(cx->a, "%6u changes, %u ops", cx->changes, count_ops(cx->m)));
    if (!ok) return false;
    if (o->log) {
        log_pass(o->log, cx, info->name);
        sb_ch(o->log, '}');
    }
    history_add(h, cx, info->name);
    if (named(o->print_after, info->name)) print_to_stderr(cx->m, cx->a, "after", info->name);
    return dump(cx->d, cx->a, cx->m, o, number, info->name) &&
           (!o->verify_numerics || numerics_check(num, cx, info));
}

bool passes_run(Diag *d, Module *m, const Pipeline *p, const PassOptions *o)
{
    Arena a = {0};
    Numerics num = {0};
    History history = {.out = o->changes};
    StrBuf whole = {.a = &a};
    const CalibSource no_text = {.bos = -1, .eos = -1};
    const u32 span = span_begin("passes");
    PassCx import = {.m = m, .d = d, .a = &a};
    bool ok = check_names(d, o) && ir_verify(d, m) && rules_of_module(&import, "the model") &&
              (!o->dump_dir || io_mkdirs(d, o->dump_dir)) && dump(d, &a, m, o, 0, "import");
    if (ok && o->verify_numerics) ok = numerics_start(&num, d, m);
    if (ok && o->reproducer) reproducer_text(m, p, 0, &whole);
    if (ok && o->changes) history.last = changes_snapshot(&history.a[0], m);
    for (u32 i = 0; ok && i < p->calls.n; i++) {
        const PassCall *call = &p->calls.at[i];
        if (skipped(o, &pass_info[call->pass], i + 1)) continue;
        const ArenaMark mark = arena_mark(&a);
        PassCx cx = {
            .m = m, .d = d, .a = &a, .call = call, .calib = o->calib ? o->calib : &no_text};
        ok = keep_reproducer(&cx, o, p, i) && run_call(&cx, o, &num, &history, i + 1);
        arena_reset(&a, mark);
        if (o->stop_after && strcmp(o->stop_after, pass_info[call->pass].name) == 0) break;
    }
    if (ok && o->reproducer) ok = io_write_file(d, &a, o->reproducer, whole.p, whole.n);
    span_end(span, NULL);
    numerics_end(&num);
    arena_free(&history.a[0]);
    arena_free(&history.a[1]);
    arena_free(&a);
    return ok;
}
