#include "passes/pass.h"

#include "ir/text.h"

#include <fnmatch.h>
#include <string.h>

bool pass_fail(PassCx *cx, const Op *op, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    const char *text = arena_vprintf(cx->m->a, fmt, ap);
    va_end(ap);
    const char *what = arena_printf(cx->m->a, "pass %s", pass_info[cx->call->pass].name);
    diag_error(cx->d, E_PASS_PRECONDITION, LOC_WHAT(what), "%s", text);
    if (op) diag_note(cx->d, "%s", ir_op_text(cx->m, op));
    return false;
}

Uses uses_build(Arena *a, const Module *m)
{
    Uses u = {.first = NEWN(a, u32, m->values.n + 2), .result = NEWN(a, bool, m->values.n)};
    u32 total = 0;
    for (OpId i = 1; i < m->ops.n; i++) {
        const Op *op = op_at(m, i);
        for (u32 k = 0; op->kind && k < op->nin; k++)
            u.first[op->in[k] + 2]++, total++;
    }
    for (ValueId v = 1; v < m->values.n + 2; v++)
        u.first[v] += u.first[v - 1];
    u.op = NEWN(a, OpId,
                total); /* first[v + 1] is now where v's users begin, and moves to their end */
    for (OpId i = 1; i < m->ops.n; i++) {
        const Op *op = op_at(m, i);
        for (u32 k = 0; op->kind && k < op->nin; k++)
            u.op[u.first[op->in[k] + 1]++] = i;
    }
    for (u32 f = 1; f < m->fns.n; f++)
        for (u32 k = 0; k < m->fns.at[f].results.n; k++)
            u.result[m->fns.at[f].results.at[k]] = true;
    return u;
}

u32 pass_fn_index(const Module *m, const char *name)
{
    for (u32 i = 1; i < m->fns.n; i++)
        if (strcmp(ir_cstr(m, m->fns.at[i].name), name) == 0) return i;
    return 0;
}

OpId pass_def(const Module *m, ValueId v)
{
    return value_at(m, v)->def;
}

static i64 subst(i64 dim, i64 sym, i64 to)
{
    return sym && dim == sym ? to : dim;
}

AttrSpec *pass_attr_specs(PassCx *cx, const Op *op, i64 sym, i64 to)
{
    AttrSpec *s = NEWN(cx->a, AttrSpec, op->nattr + 1);
    for (u32 i = 0; i < op->nattr; i++) {
        const Attr *at = &op->attr[i];
        s[i].id = at->id;
        s[i].n = at->n;
        switch (attr_info[at->id].kind) {
        case AK_INT: s[i].i = at->i; break;
        case AK_FLOAT: s[i].f = at->f; break;
        case AK_STR: s[i].s = ir_cstr(cx->m, at->s); break;
        case AK_FLOATS: s[i].floats = at->floats; break;
        case AK_INTS: {
            i64 *v = NEWN(cx->a, i64, at->n);
            for (u32 k = 0; k < at->n; k++)
                v[k] = at->id == A_SHAPE ? subst(at->ints[k], sym, to) : at->ints[k];
            s[i].ints = v;
            break;
        }
        }
    }
    return s;
}

ValueId pass_copy_op(PassCx *cx, Builder *b, OpId id, const ValueId *in, i64 sym, i64 to)
{
    const Op *op = op_at(cx->m, id);
    const char *name = op->nout ? ir_cstr(cx->m, value_at(cx->m, op->out)->name) : NULL;
    b->layer = op->layer;
    return ir_op(b, op->kind, in, op->nin, pass_attr_specs(cx, op, sym, to), 0,
                 name && *name ? name : NULL);
}

Str pass_op_key(PassCx *cx, const Op *op)
{
    StrBuf b = {.a = cx->a};
    sb_printf(&b, "%u %u %u", op->kind, op->fn, op->nout ? value_at(cx->m, op->out)->type : 0);
    for (u32 i = 0; i < op->nin; i++)
        sb_printf(&b, " %u", op->in[i]);
    for (u32 i = 0; i < op->nattr; i++) {
        const Attr *at = &op->attr[i];
        sb_printf(&b, ";%d=", at->id);
        switch (attr_info[at->id].kind) {
        case AK_INT: sb_printf(&b, "%lld", (long long)at->i); break;
        case AK_FLOAT: sb_f64(&b, at->f); break;
        case AK_STR: sb_printf(&b, "%u", at->s); break;
        case AK_INTS:
            for (u32 k = 0; k < at->n; k++)
                sb_printf(&b, "%lld,", (long long)at->ints[k]);
            break;
        case AK_FLOATS:
            for (u32 k = 0; k < at->n; k++)
                sb_f64(&b, at->floats[k]), sb_ch(&b, ',');
            break;
        }
    }
    return (Str){b.p, b.n};
}

bool pass_tail(PassCx *cx, u32 fn, Tail *t)
{
    Module *m = cx->m;
    const Fn *f = &m->fns.at[fn];
    *t = (Tail){0};
    if (f->results.n != 1)
        return pass_fail(cx, NULL, "@%s has %u results, expected the logits alone",
                         ir_cstr(m, f->name), f->results.n);
    for (ValueId v = f->results.at[0]; pass_def(m, v);) {
        const Op *op = def_of(m, v);
        if (op->fn != fn) break;
        if (op->kind == OP_LINEAR || op->kind == OP_QLINEAR) {
            if (t->head) return true; /* the layer before: there is no final norm */
            t->head = v;
        }
        if (!op->nin) break;
        t->cut = op->in[0];
        if (op->kind == OP_RMSNORM) break;
        v = t->cut;
    }
    if (t->head && pass_def(m, t->cut) && value_at(m, t->cut)->fn == fn) return true;
    return pass_fail(cx, NULL, "the result of @%s is not computed by a linear from hidden states",
                     ir_cstr(m, f->name));
}

/* Is `name` matched by one of the words of list, which + separates? */
static bool listed(const char *list, const char *cls, const char *name)
{
    for (const char *p = list; *p; p += *p == '+') {
        char word[256];
        size_t n = strcspn(p, "+");
        if (n < sizeof word) {
            memcpy(word, p, n);
            word[n] = 0;
            if (strcmp(word, cls) == 0 || fnmatch(word, name, 0) == 0) return true;
        }
        p += n;
    }
    return false;
}

bool pass_selected(const PassCx *cx, const char *cls, const char *name)
{
    const char *only = pass_word(cx, "only"), *skip = pass_word(cx, "skip");
    return (!*only || listed(only, cls, name)) && !listed(skip, cls, name);
}

bool pass_skips(const PassCx *cx, const char *part)
{
    return listed(pass_word(cx, "skip"), part, part);
}

const char *pass_base_name(PassCx *cx, ValueId v)
{
    static const char *const suffix[] = {SUFFIX_DQ, SUFFIX_Q, SUFFIX_SCALE, SUFFIX_CAST,
                                         SUFFIX_PACK};
    const char *name = ir_cstr(cx->m, value_at(cx->m, v)->name);
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof suffix / sizeof *suffix; i++) {
        size_t k = strlen(suffix[i]);
        if (n > k && strcmp(name + n - k, suffix[i]) == 0) return arena_strdup(cx->a, name, n - k);
    }
    return name;
}
