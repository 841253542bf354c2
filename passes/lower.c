/* lower: linear(dequantize(xq, xs), dequantize(wq, ws, wm), b) = qlinear(xq, xs, wq, ws, wm, b),
 * where the sums of products are of integers. Needs symmetric activations, and scales of
 * activations per row or in the weight's groups.
 */
#include "passes/pass.h"

static bool match(const Module *m, const Op *lin)
{
    if (lin->kind != OP_LINEAR || !is_const(m, lin->in[1]) || is_const(m, lin->in[0])) return false;
    const Op *x = def_of(m, lin->in[0]), *w = def_of(m, lin->in[1]);
    if (x->kind != OP_DEQUANTIZE || w->kind != OP_DEQUANTIZE || op_in(x, 2)) return false;
    i64 xg = op_int(x, A_GROUP), wg = op_int(w, A_GROUP);
    return xg == 0 || xg == wg;
}

bool pass_lower(PassCx *cx)
{
    Module *m = cx->m;
    u32 known = m->ops.n;
    for (OpId i = 1; i < known; i++) {
        const Op *lin = op_at(m, i);
        if (!match(m, lin)) continue;
        const Op *x = def_of(m, lin->in[0]), *w = def_of(m, lin->in[1]);
        Builder b = {.m = m, .d = cx->d, .fn = lin->fn, .before = i, .layer = lin->layer};
        const char *name = ir_cstr(m, value_at(m, lin->out)->name);
        ValueId y = ir_op(&b, OP_QLINEAR,
                          INS(x->in[0], x->in[1], w->in[0], w->in[1], op_in(w, 2), op_in(lin, 2)),
                          ATTRS({A_GROUP, .i = op_int(w, A_GROUP)}), 0, *name ? name : NULL);
        if (!y) return false;
        ir_replace_uses(m, op_at(m, i)->out, y);
        ir_erase(m, i);
        cx->changes++;
    }
    return true;
}
