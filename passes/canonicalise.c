/* canonicalise: ops that do nothing disappear. Each rule looks at one op and names the value that
 * its result equals, or rewrites its operands in place; rules run in order of the ops, constants
 * first, so one sweep is enough for chains.
 */
#include "passes/pass.h"

static bool same_type(const Module *m, ValueId a, ValueId b)
{
    return value_at(m, a)->type == value_at(m, b)->type;
}

/* A reshape of a reshape reads the first one's operand. */
static void look_through(Module *m, Op *op)
{
    const Op *from = def_of(m, op->in[0]);
    while (from->kind == OP_RESHAPE && from->fn == op->fn) {
        op->in[0] = from->in[0];
        from = def_of(m, op->in[0]);
    }
}

/* slice(slice(x)) along the same axis: one slice of x. */
static void join_slices(Module *m, OpId id)
{
    Op *op = op_at(m, id);
    const Op *from = def_of(m, op->in[0]);
    if (from->kind != OP_SLICE || from->fn != op->fn || op_int(from, A_AXIS) != op_int(op, A_AXIS))
        return;
    i64 begin = op_int(from, A_BEGIN) + op_int(op, A_BEGIN),
        end = op_int(from, A_BEGIN) + op_int(op, A_END);
    op->in[0] = from->in[0];
    op_set_int(m, id, A_BEGIN, begin);
    op_set_int(m, id, A_END, end);
}

static void constants_right(Module *m, Op *op)
{
    ValueId a = op->in[0], b = op->in[1];
    if (is_const(m, a) && !is_const(m, b) && same_type(m, a, b)) {
        op->in[0] = b;
        op->in[1] = a;
    }
}

/* The value that op's result equals, 0 if none. */
static ValueId same_as(Module *m, OpId id)
{
    Op *op = op_at(m, id);
    switch (op->kind) {
    case OP_RESHAPE: look_through(m, op); return same_type(m, op->out, op->in[0]) ? op->in[0] : 0;
    case OP_CAST: return same_type(m, op->out, op->in[0]) ? op->in[0] : 0;
    case OP_COPY:
        return op->fn ? op->in[0] : 0; /* among constants a copy keeps two weights apart */
    case OP_SLICE:
        join_slices(m, id);
        op = op_at(m, id);
        return same_type(m, op->out, op->in[0]) ? op->in[0] : 0;
    case OP_CONCAT: return op->nin == 1 ? op->in[0] : 0;
    case OP_TRANSPOSE: {
        const Op *from = def_of(m, op->in[0]);
        return from->kind == OP_TRANSPOSE ? from->in[0] : 0;
    }
    case OP_ADD:
    case OP_MUL: constants_right(m, op); return 0;
    default: return 0;
    }
}

bool pass_canonicalise(PassCx *cx)
{
    Module *m = cx->m;
    for (u32 f = 0; f < m->fns.n; f++) {
        u32 n = f ? m->fns.at[f].body.n : m->consts.n;
        OpId *body = NEWN(cx->a, OpId, n);
        for (u32 i = 0; i < n; i++)
            body[i] = f ? m->fns.at[f].body.at[i] : m->consts.at[i];
        for (u32 i = 0; i < n; i++) {
            ValueId to = same_as(m, body[i]);
            if (!to) continue;
            ir_replace_uses(m, op_at(m, body[i])->out, to);
            ir_erase(m, body[i]);
            cx->changes++;
        }
    }
    return true;
}
