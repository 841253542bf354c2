/* cse: equal ops on equal operands become one. dce: what nothing needs goes. */
#include "passes/pass.h"

/* May two equal ops of this kind be one? States are memory, copies exist to be apart, stateful ops
 * see time pass. */
static bool mergeable(const Op *op)
{
    return op->nout && op->kind != OP_COPY && !(op_info[op->kind].flags & OPF_STATEFUL);
}

bool pass_cse(PassCx *cx)
{
    Module *m = cx->m;
    Map seen = {.a = cx->a};
    for (u32 f = 0; f < m->fns.n; f++) {
        u32 n = f ? m->fns.at[f].body.n : m->consts.n;
        OpId *body = NEWN(cx->a, OpId, n);
        for (u32 i = 0; i < n; i++)
            body[i] = f ? m->fns.at[f].body.at[i] : m->consts.at[i];
        for (u32 i = 0; i < n; i++) {
            const Op *op = op_at(m, body[i]);
            if (!mergeable(op)) continue;
            bool added;
            u32 *slot = map_put(&seen, pass_op_key(cx, op), &added);
            if (added) {
                *slot = op->out;
                continue;
            }
            for (u32 k = 0; k < op->nout; k++)
                ir_replace_uses(m, op->out + k, *slot + k);
            ir_erase(m, body[i]);
            cx->changes++;
        }
    }
    return true;
}

typedef VEC(u32) Work;

static void need(bool *needed, Work *work, const Module *m, ValueId v)
{
    OpId def = v ? value_at(m, v)->def : 0;
    if (!def || needed[def]) return;
    needed[def] = true;
    work->at[work->n++] = def;
}

static void sweep(PassCx *cx, const bool *needed, const OpId *body, u32 n)
{
    for (u32 i = n; i-- > 0;)
        if (!needed[body[i]]) {
            ir_erase(cx->m, body[i]);
            cx->changes++;
        }
}

bool pass_dce(PassCx *cx)
{
    Module *m = cx->m;
    bool *needed = NEWN(cx->a, bool, m->ops.n);
    Work work = {.at = NEWN(cx->a, u32, m->ops.n)};
    for (u32 f = 1; f < m->fns.n; f++) {
        const Fn *fn = &m->fns.at[f];
        for (u32 i = 0; i < fn->results.n; i++)
            need(needed, &work, m, fn->results.at[i]);
        for (u32 i = 0; i < fn->steps.n; i++)
            need(needed, &work, m, fn->steps.at[i].weights);
        for (u32 i = 0; i < fn->body.n; i++)
            if (op_info[op_at(m, fn->body.at[i])->kind].flags & OPF_STATEFUL &&
                !needed[fn->body.at[i]]) {
                needed[fn->body.at[i]] = true;
                work.at[work.n++] = fn->body.at[i];
            }
    }
    while (work.n) {
        const Op *op = op_at(m, work.at[--work.n]);
        for (u32 k = 0; k < op->nin; k++)
            need(needed, &work, m, op->in[k]);
    }
    for (u32 f = 1; f < m->fns.n; f++)
        sweep(cx, needed, m->fns.at[f].body.at, m->fns.at[f].body.n);
    sweep(cx, needed, m->consts.at, m->consts.n);
    return true;
}
