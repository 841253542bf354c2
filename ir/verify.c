/* Rules that hold for every module at every stage. Type rules live in types.c and are checked again
 * here. */
#include "ir/text.h"

#include <stdlib.h>

typedef struct Verify {
    Diag *d;
    Module *m;
    bool *defined; /* [values] */
    bool ok;
} Verify;

static void breach(Verify *v, const Op *op, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void breach(Verify *v, const Op *op, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    const char *text = arena_vprintf(v->m->a, fmt, ap);
    va_end(ap);
    v->ok =
        diag_error(v->d, E_IR_VERIFY, LOC_WHAT(op ? op_info[op->kind].mnemonic : NULL), "%s", text);
    if (op) diag_note(v->d, "%s", ir_op_text(v->m, op));
}

/* Operands that may be states, as bits. Elsewhere a state has no value, and its size is not that of
 * the call. */
static u32 state_operands(OpKind k)
{
    switch (k) {
    case OP_ROWS: return 1 << 0;
    case OP_STORE: return 1 << 1;
    case OP_KV_APPEND: return 1 << 3 | 1 << 4 | 15 << 9;
    case OP_ATTEND: return 1 << 2 | 1 << 3 | 15 << 5;
    default: return 0;
    }
}

static void check_op(Verify *v, const Op *op, u32 fn)
{
    if (op->fn != fn) breach(v, op, "the op is listed in a body that it does not belong to");
    for (u32 i = 0; i < op->nin; i++) {
        ValueId x = op->in[i];
        if (!x) continue;
        const Value *val = value_at(v->m, x);
        if (val->def && op_at(v->m, val->def)->kind == OP_NONE)
            breach(v, op, "operand %u was erased", i);
        else if (val->fn != 0 && val->fn != fn)
            breach(v, op, "operand %u belongs to another function", i);
        else if (!v->defined[x])
            breach(v, op, "operand %u is used before it is defined", i);
        else if (def_of(v->m, x)->kind == OP_STATE &&
                 (i >= 32 || !(state_operands(op->kind) >> i & 1)))
            breach(v, op, "operand %u is a state", i);
    }
    if (!v->ok) return;
    TypeId out[2] = {op->nout ? value_at(v->m, op->out)->type : 0, 0};
    if (!ir_infer(v->d, v->m, op, out)) {
        v->ok = false;
        return;
    }
    for (u32 i = 0; i < op->nout; i++) {
        if (value_at(v->m, op->out + i)->type != out[i])
            breach(v, op, "result %u has type %s, the rule gives %s", i,
                   ir_type_text(v->m, type_of(v->m, op->out + i)),
                   ir_type_text(v->m, &v->m->types.at[out[i]]));
        v->defined[op->out + i] = true;
    }
}

/* Steps are runs of consecutive ops, numbered from 1 in order; once one op has a step, all have. */
static void check_steps(Verify *v, const Fn *f)
{
    u32 step = 0;
    for (u32 i = 0; i < f->body.n; i++) {
        const Op *op = op_at(v->m, f->body.at[i]);
        if (!f->steps.n && !op->step) continue;
        if (op->step == step + 1 && op->step <= f->steps.n)
            step = op->step;
        else if (op->step != step || !step)
            breach(v, op, "step %u follows step %u", op->step, step);
    }
    if (step != f->steps.n)
        breach(v, NULL, "function @%s has %u steps, its ops use %u", ir_cstr(v->m, f->name),
               f->steps.n, step);
    for (u32 i = 0; i < f->steps.n; i++) {
        ValueId w = f->steps.at[i].weights;
        if (w && def_of(v->m, w)->kind != OP_PACK)
            breach(v, def_of(v->m, w), "the weights of step %u are not a pack", i + 1);
    }
}

bool ir_verify(Diag *d, Module *m)
{
    Verify v = {d, m, calloc(m->values.n, sizeof(bool)), true};
    if (!v.defined) die_oom();
    for (u32 i = 0; i < m->consts.n; i++)
        check_op(&v, op_at(m, m->consts.at[i]), 0);
    for (u32 k = 1; k < m->fns.n; k++) {
        const Fn *f = &m->fns.at[k];
        for (u32 i = 0; i < f->params.n; i++)
            v.defined[f->params.at[i]] = true;
        for (u32 i = 0; i < f->body.n; i++)
            check_op(&v, op_at(m, f->body.at[i]), k);
        for (u32 i = 0; i < f->results.n; i++) {
            ValueId r = f->results.at[i];
            if (!v.defined[r] || (value_at(m, r)->fn != k && value_at(m, r)->fn != 0))
                breach(&v, NULL, "function @%s returns a value that it does not define",
                       ir_cstr(m, f->name));
        }
        check_steps(&v, f);
    }
    free(v.defined);
    return v.ok;
}
