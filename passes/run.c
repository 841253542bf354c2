/* Running a pipeline: order of stages, verification, dumps, times. */
#include "passes/numerics.h"
#include "passes/pass.h"
#include "passes/rules.h"

#include "ir/base/json.h"
#include "ir/base/meter.h"
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

/* PassOptions.log's entry of a pass that was run. */
static void log_pass(const PassOptions *o, const PassCx *cx, const char *name)
{
    StrBuf *b = o->log, options = {.a = cx->a};
    if (!b) return;
    sb_str(&options, "");
    for (u32 i = 0; i < cx->call->nopt; i++) {
        const PassOpt *p = &cx->call->opt[i];
        if (p->s ? !*p->s || strcmp(p->s, "0") == 0 : !p->i) continue;
        sb_printf(&options, "%s%.*s=", options.n ? "," : "", STRF(p->name));
        if (p->s)
            sb_str(&options, p->s);
        else
            sb_printf(&options, "%lld", (long long)p->i);
    }
    sb_printf(b, "%s\n    {\"pass\": \"%s\", \"options\": ", b->n ? "," : "", name);
    sb_json_str(b, (Str){options.p, options.n});
    sb_printf(b, ", \"changes\": %u, \"ops\": %u}", cx->changes, count_ops(cx->m));
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

bool passes_run(Diag *d, Module *m, const Pipeline *p, const PassOptions *o)
{
    Arena a = {0};
    Numerics num = {0};
    const CalibSource no_text = {.bos = -1, .eos = -1};
    PassCx import = {.m = m, .d = d, .a = &a};
    bool ok = check_names(d, o) && ir_verify(d, m) && rules_of_module(&import, "the model") &&
              (!o->dump_dir || io_mkdirs(d, o->dump_dir)) && dump(d, &a, m, o, 0, "import");
    if (ok && o->verify_numerics) ok = numerics_start(&num, d, m);
    for (u32 i = 0; ok && i < p->calls.n; i++) {
        const PassInfo *info = &pass_info[p->calls.at[i].pass];
        PassCx cx = {.m = m,
                     .d = d,
                     .a = &a,
                     .call = &p->calls.at[i],
                     .calib = o->calib ? o->calib : &no_text};
        ArenaMark mark = arena_mark(&a);
        if (named(o->print_before, info->name)) print_to_stderr(m, &a, "before", info->name);
        double start = now_seconds();
        ok = run_pass(&cx, info, o);
        if (o->time_passes)
            fprintf(stderr, "%8.3f ms  %-22s %6u changes, %u ops\n", (now_seconds() - start) * 1e3,
                    info->name, cx.changes, count_ops(m));
        log_pass(o, &cx, info->name);
        if (ok && named(o->print_after, info->name)) print_to_stderr(m, &a, "after", info->name);
        ok = ok && dump(d, &a, m, o, i + 1, info->name) &&
             (!o->verify_numerics || numerics_check(&num, &cx, info));
        arena_reset(&a, mark);
        if (o->stop_after && strcmp(o->stop_after, info->name) == 0) break;
    }
    numerics_end(&num);
    arena_free(&a);
    return ok;
}
