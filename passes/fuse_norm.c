/* untie and fuse-norm: which weight a norm's gain may move into. */
#include "passes/pass.h"

/* untie: a head that shares the embedding's weight reads a copy, so that later passes may treat
 * them apart. */
bool pass_untie(PassCx *cx)
{
    Module *m = cx->m;
    u32 fn = pass_fn_index(m, "main");
    Tail t;
    if (!pass_tail(cx, fn, &t)) return false;
    OpId head = pass_def(m, t.head);
    ValueId w = op_at(m, head)->in[1];
    if (!is_const(m, w)) return true;
    bool shared = false;
    for (u32 i = 0; i < m->fns.at[fn].body.n; i++) {
        const Op *op = op_at(m, m->fns.at[fn].body.at[i]);
        shared |= op->kind == OP_EMBEDDING && op->in[1] == w;
    }
    if (!shared) return true;
    Builder b = {.m = m, .d = cx->d, .layer = -1};
    ValueId copy = ir_op(&b, OP_COPY, INS(w), NULL, 0,
                         arena_printf(cx->a, "%s.head", ir_cstr(m, value_at(m, w)->name)));
    if (!copy) return false;
    op_at(m, head)->in[1] = copy;
    cx->changes++;
    return true;
}

/* Every use of the norm's result is the input of a linear whose weight belongs to that linear
 * alone. */
static bool foldable(const Module *m, const Uses *u, ValueId y)
{
    if (u->result[y] || !uses_n(u, y)) return false;
    for (u32 i = 0; i < uses_n(u, y); i++) {
        const Op *op = op_at(m, uses_at(u, y, i));
        if (op->kind != OP_LINEAR || op->in[1] == y || op_in(op, 2) == y) return false;
        if (!is_const(m, op->in[1]) || !uses_once(u, op->in[1])) return false;
    }
    return true;
}

/* fuse-norm: linear(rmsnorm(x, g), W) = linear(rmsnorm(x), W * g), the product of a weight's
 * columns and the gain. */
bool pass_fuse_norm(PassCx *cx)
{
    Module *m = cx->m;
    Uses u = uses_build(cx->a, m);
    u32 known = m->ops.n;
    Builder b = {.m = m, .d = cx->d};
    for (OpId i = 1; i < known; i++) {
        ValueId y = op_at(m, i)->out, g = op_in(op_at(m, i), 1);
        if (op_at(m, i)->kind != OP_RMSNORM || !g || !is_const(m, g) || !foldable(m, &u, y))
            continue;
        for (u32 k = 0; k < uses_n(&u, y); k++) {
            OpId lin = uses_at(&u, y, k);
            ValueId w = op_at(m, lin)->in[1];
            b.layer = op_at(m, lin)->layer;
            w = ir_op(&b, OP_MUL, INS(w, g), NULL, 0,
                      arena_printf(cx->a, "%s.normed", ir_cstr(m, value_at(m, w)->name)));
            if (!w) return false;
            op_at(m, lin)->in[1] = w;
        }
        op_at(m, i)->nin = 1;
        cx->changes++;
    }
    return true;
}
