/* merge-linears: linears that read one value and end in one consumer become one linear over joined
 * rows and slices of its result: q, k, v of an attention; gate and up of a gated unit. Linears of
 * different consumers stay apart, so that each merged linear is one that an epilogue can finish.
 */
#include "passes/pass.h"

enum { MERGE_MAX = 8 };

typedef struct Group {
    ValueId x; /* what all read */
    OpId consumer;
    OpId linear[MERGE_MAX];
    u32 n;
    bool finishable; /* by an epilogue */
} Group;

/* Ops between a projection and what consumes it. */
static bool passes_on(OpKind k)
{
    return k == OP_RESHAPE || k == OP_RMSNORM || k == OP_ROPE || k == OP_HADAMARD ||
           k == OP_QUANTIZE || k == OP_DEQUANTIZE || k == OP_SILU || k == OP_GELU;
}

/* The attention or gated product that the linear's result ends up in; 0 if there is none, or
 * another use on the way. */
static OpId consumer_of(const Module *m, const Uses *u, ValueId y)
{
    for (;;) {
        if (!uses_once(u, y)) return 0;
        OpId user = uses_at(u, y, 0);
        OpKind kind = op_at(m, user)->kind;
        if (!passes_on(kind)) return kind == OP_ATTENTION || kind == OP_MUL ? user : 0;
        y = op_at(m, user)->out;
    }
}

/* The place that the consumer's operand order gives y; the activated half of a gated unit comes
 * first. */
static u32 rank_of(const Module *m, const Uses *u, ValueId y)
{
    bool activated = false;
    for (;;) {
        const Op *user = op_at(m, uses_at(u, y, 0));
        if (!passes_on(user->kind)) {
            u32 k = 0;
            while (user->in[k] != y)
                k++;
            return activated ? 0 : k + 1;
        }
        activated |= user->kind == OP_SILU || user->kind == OP_GELU;
        y = user->out;
    }
}

/* Sorts the linears by the rank of their results. A product is a gated unit when one side is
 * activated (rank 0). */
static void sort_group(const Module *m, const Uses *u, Group *g)
{
    for (u32 i = 1; i < g->n; i++)
        for (u32 k = i; k > 0 && rank_of(m, u, op_at(m, g->linear[k])->out) <
                                     rank_of(m, u, op_at(m, g->linear[k - 1])->out);
             k--) {
            OpId t = g->linear[k];
            g->linear[k] = g->linear[k - 1];
            g->linear[k - 1] = t;
        }
    g->finishable = op_at(m, g->consumer)->kind == OP_ATTENTION ||
                    rank_of(m, u, op_at(m, g->linear[0])->out) == 0;
}

/* Joined weights, or biases (operand 2; zeros for a linear without one). */
static ValueId join(PassCx *cx, Builder *b, const Group *g, u32 operand)
{
    Module *m = cx->m;
    ValueId part[MERGE_MAX], first = 0;
    for (u32 i = 0; i < g->n; i++) {
        const Op *op = op_at(m, g->linear[i]);
        part[i] = op_in(op, operand);
        if (!first) first = part[i];
        if (part[i]) continue;
        TypeId type = ir_type(m, DT_F32, 1, &type_of(m, op->out)->dim[1]);
        part[i] = ir_op(b, OP_SYNTHETIC, NULL, 0, ATTRS({A_SEED, .i = 0}, {A_SCALE, .f = 0}), type,
                        "zeros");
        if (!part[i]) return 0;
    }
    const char *name = arena_printf(cx->a, "%s.merged", ir_cstr(m, value_at(m, first)->name));
    return ir_op(b, OP_CONCAT, part, g->n, ATTRS({A_AXIS, .i = 0}), 0, name);
}

static bool merge(PassCx *cx, const Group *g)
{
    Module *m = cx->m;
    bool biased = false;
    for (u32 i = 0; i < g->n; i++)
        biased |= op_in(op_at(m, g->linear[i]), 2) != 0;
    OpId first = g->linear[0];
    for (u32 i = 1; i < g->n; i++)
        if (ir_op_position(m, g->linear[i]) < ir_op_position(m, first)) first = g->linear[i];
    Builder c = {.m = m, .d = cx->d, .layer = op_at(m, first)->layer};
    ValueId w = join(cx, &c, g, 1), bias = biased ? join(cx, &c, g, 2) : 0;
    if (!w || (biased && !bias)) return false;
    Builder b = {.m = m, .d = cx->d, .fn = op_at(m, first)->fn, .before = first, .layer = c.layer};
    const char *name = ir_cstr(m, value_at(m, op_at(m, g->linear[0])->out)->name);
    name = *name ? arena_printf(cx->a, "%s.merged", name) : NULL;
    ValueId y = ir_op(&b, OP_LINEAR, INS(g->x, w, bias), NULL, 0, name);
    if (!y) return false;
    i64 row = 0;
    for (u32 i = 0; i < g->n; i++) {
        ValueId old = op_at(m, g->linear[i])->out;
        i64 n = type_of(m, old)->dim[1];
        const char *part = ir_cstr(m, value_at(m, old)->name);
        ValueId s = ir_op(&b, OP_SLICE, INS(y),
                          ATTRS({A_AXIS, .i = 1}, {A_BEGIN, .i = row}, {A_END, .i = row + n}), 0,
                          *part ? part : NULL);
        if (!s) return false;
        ir_replace_uses(m, old, s);
        row += n;
    }
    for (u32 i = 0; i < g->n; i++)
        ir_erase(m, g->linear[i]);
    cx->changes++;
    return true;
}

bool pass_merge_linears(PassCx *cx)
{
    Module *m = cx->m;
    Uses u = uses_build(cx->a, m);
    VEC(Group) groups = {0};
    for (OpId i = 1; i < m->ops.n; i++) {
        const Op *op = op_at(m, i);
        if (op->kind != OP_LINEAR || !is_const(m, op->in[1]) || type_of(m, op->in[1])->dt != DT_F32)
            continue;
        OpId consumer = consumer_of(m, &u, op->out);
        if (!consumer) continue;
        u32 k = 0;
        while (k < groups.n && (groups.at[k].x != op->in[0] || groups.at[k].consumer != consumer ||
                                groups.at[k].n == MERGE_MAX))
            k++;
        if (k == groups.n)
            vec_push(cx->a, &groups, ((Group){.x = op->in[0], .consumer = consumer}));
        groups.at[k].linear[groups.at[k].n++] = i;
    }
    for (u32 k = 0; k < groups.n; k++)
        sort_group(m, &u, &groups.at[k]);
    for (u32 k = 0; k < groups.n; k++)
        if (groups.at[k].n > 1 && groups.at[k].finishable && !merge(cx, &groups.at[k]))
            return false;
    return true;
}
