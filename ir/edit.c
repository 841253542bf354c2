#include "ir/ir.h"

#include <stdlib.h>

static bool live(const Op *op)
{
    return op->kind != OP_NONE;
}

u32 ir_users(const Module *m, ValueId v, OpId *out, u32 cap)
{
    u32 n = 0;
    for (OpId i = 1; i < m->ops.n; i++) {
        const Op *op = op_at(m, i);
        bool uses = false;
        for (u32 k = 0; live(op) && k < op->nin; k++)
            uses |= op->in[k] == v;
        if (uses && n++ < cap) out[n - 1] = i;
    }
    return n;
}

u32 ir_count_uses(const Module *m, ValueId v)
{
    u32 n = 0;
    for (OpId i = 1; i < m->ops.n; i++)
        for (u32 k = 0; live(op_at(m, i)) && k < op_at(m, i)->nin; k++)
            n += op_at(m, i)->in[k] == v;
    for (u32 f = 1; f < m->fns.n; f++) {
        const Fn *fn = &m->fns.at[f];
        for (u32 k = 0; k < fn->results.n; k++)
            n += fn->results.at[k] == v;
        for (u32 k = 0; k < fn->steps.n; k++)
            n += fn->steps.at[k].weights == v;
    }
    return n;
}

static void replace(Module *m, bool all, u32 only, ValueId from, ValueId to)
{
    for (OpId i = 1; i < m->ops.n; i++) {
        Op *op = op_at(m, i);
        if (!live(op) || (!all && op->fn != only)) continue;
        for (u32 k = 0; k < op->nin; k++)
            if (op->in[k] == from) op->in[k] = to;
    }
    for (u32 f = 1; f < m->fns.n; f++) {
        Fn *fn = &m->fns.at[f];
        if (!all && f != only) continue;
        for (u32 k = 0; k < fn->results.n; k++)
            if (fn->results.at[k] == from) fn->results.at[k] = to;
        for (u32 k = 0; k < fn->steps.n; k++)
            if (fn->steps.at[k].weights == from) fn->steps.at[k].weights = to;
    }
}

void ir_replace_uses(Module *m, ValueId from, ValueId to)
{
    replace(m, true, 0, from, to);
}
void ir_replace_uses_in(Module *m, u32 fn, ValueId from, ValueId to)
{
    replace(m, false, fn, from, to);
}

void ir_erase(Module *m, OpId id)
{
    Op *op = op_at(m, id);
    u32 at = ir_op_position(m, id);
    u32 *n = op->fn ? &m->fns.at[op->fn].body.n : &m->consts.n;
    OpId *body = op->fn ? m->fns.at[op->fn].body.at : m->consts.at;
    memmove(body + at, body + at + 1, (*n - 1 - at) * sizeof *body);
    --*n;
    if (!op->fn) /* the names become free again */
        for (u32 i = 0; i < op->nout; i++) {
            Str name = str_c(ir_cstr(m, value_at(m, op->out + i)->name));
            *map_put(&m->const_map, name, NULL) = 0;
        }
    op->kind = OP_NONE;
}

void ir_rename(Module *m, ValueId v, const char *name)
{
    Value *val = value_at(m, v);
    StrId id = ir_str(m, name);
    if (val->fn == 0 && val->def) {
        u32 *slot = map_put(&m->const_map, str_c(name), NULL);
        if (*slot && *slot != v) BUG("constant @%s exists", name);
        *map_put(&m->const_map, str_c(ir_cstr(m, val->name)), NULL) = 0;
        *map_put(&m->const_map, str_c(name), NULL) = v;
    }
    val->name = id;
}

u32 ir_clone_fn(Module *m, u32 fn, const char *name)
{
    u32 to = ir_fn_new(m, name);
    ValueId *map = xmalloc(m->values.n, sizeof *map);
    u32 known = m->values.n;
    for (u32 v = 0; v < known; v++)
        map[v] = v;
    for (u32 i = 0; i < m->fns.at[fn].params.n; i++) {
        ValueId p = m->fns.at[fn].params.at[i];
        map[p] = ir_param(m, to, ir_cstr(m, value_at(m, p)->name), value_at(m, p)->type);
    }
    for (u32 i = 0; i < m->fns.at[fn].body.n; i++) {
        Op op = *op_at(m, m->fns.at[fn].body.at[i]);
        ValueId old = op.out;
        op.fn = to;
        op.out = m->values.n;
        ValueId *in = NEWN(m->a, ValueId, op.nin);
        for (u32 k = 0; k < op.nin; k++)
            in[k] = map[op.in[k]];
        op.in = in;
        Attr *attr = NEWN(m->a, Attr, op.nattr);
        if (op.nattr) memcpy(attr, op.attr, op.nattr * sizeof *attr);
        op.attr = attr;
        for (u32 k = 0; k < op.nout; k++) {
            Value v = *value_at(m, old + k);
            v.def = m->ops.n;
            v.fn = to;
            map[old + k] = m->values.n;
            vec_push(m->a, &m->values, v);
        }
        vec_push(m->a, &m->ops, op);
        vec_push(m->a, &m->fns.at[to].body, m->ops.n - 1);
    }
    for (u32 i = 0; i < m->fns.at[fn].results.n; i++)
        vec_push(m->a, &m->fns.at[to].results, map[m->fns.at[fn].results.at[i]]);
    for (u32 i = 0; i < m->fns.at[fn].steps.n; i++)
        vec_push(m->a, &m->fns.at[to].steps, m->fns.at[fn].steps.at[i]);
    free(map);
    return to;
}

void ir_fn_remove(Module *m, u32 fn)
{
    Fn *f = &m->fns.at[fn];
    for (u32 i = 0; i < f->body.n; i++)
        op_at(m, f->body.at[i])->kind = OP_NONE;
    memmove(f, f + 1, (m->fns.n - 1 - fn) * sizeof *f);
    m->fns.n--;
    for (OpId i = 1; i < m->ops.n; i++)
        if (op_at(m, i)->fn > fn) op_at(m, i)->fn--;
    for (ValueId v = 1; v < m->values.n; v++)
        if (value_at(m, v)->fn > fn) value_at(m, v)->fn--;
}
