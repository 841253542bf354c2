/* lower: linear(dequantize(xq, xs), dequantize(wq, ws, wm), b) = qlinear(xq, xs, wq, ws, wm, b),
 * where the sums of products are of integers. Needs symmetric activations, and scales of
 * activations for the whole value, per row or in the weight's groups. attend(dequantize(q, qs),
 * ...) over a cache of integers reads q and qs.
 */
#include "passes/pass.h"

static bool match(const Module *m, const Op *lin)
{
    if (lin->kind != OP_LINEAR || !is_const(m, lin->in[1]) || is_const(m, lin->in[0])) return false;
    const Op *x = def_of(m, lin->in[0]), *w = def_of(m, lin->in[1]);
    if (x->kind != OP_DEQUANTIZE || w->kind != OP_DEQUANTIZE || op_in(x, 2)) return false;
    i64 xg = op_int(x, A_GROUP), wg = op_int(w, A_GROUP);
    u32 rank = type_of(m, x->in[1])->rank;
    return (xg == 0 || xg == wg) && (rank == 0 || rank == 2);
}

static bool lower_linear(PassCx *cx, OpId i)
{
    Module *m = cx->m;
    const Op *lin = op_at(m, i);
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
    return true;
}

/* Queries whose products with a cache's integers are exact sums: symmetric bytes, one scale per
 * head. */
static bool match_attend(const Module *m, const Op *attend)
{
    if (attend->kind != OP_ATTEND || op_in(attend, 4) ||
        dtype_info[type_of(m, attend->in[2])->dt].is_float)
        return false;
    const Op *q = def_of(m, attend->in[0]);
    if (q->kind != OP_DEQUANTIZE || is_const(m, attend->in[0]) || op_in(q, 2)) return false;
    DType dt = type_of(m, q->in[0])->dt;
    return (dt == DT_S8 || dt == DT_S4) && type_cols(type_of(m, q->in[1])) == 1;
}

static bool lower_attend(PassCx *cx, OpId i)
{
    Module *m = cx->m;
    const Op *op = op_at(m, i), *q = def_of(m, op->in[0]);
    ValueId in[11];
    for (u32 k = 0; k < 11; k++)
        in[k] = op_in(op, k);
    in[0] = q->in[0];
    in[4] = q->in[1];
    Builder b = {.m = m, .d = cx->d, .fn = op->fn, .before = i, .layer = op->layer};
    const char *name = ir_cstr(m, value_at(m, op->out)->name);
    ValueId y =
        ir_op(&b, OP_ATTEND, in, op->nin, pass_attr_specs(cx, op, 0, 0), 0, *name ? name : NULL);
    if (!y) return false;
    ir_replace_uses(m, op_at(m, i)->out, y);
    ir_erase(m, i);
    cx->changes++;
    return true;
}

bool pass_lower(PassCx *cx)
{
    Module *m = cx->m;
    u32 known = m->ops.n;
    for (OpId i = 1; i < known; i++) {
        if (match(m, op_at(m, i)) && !lower_linear(cx, i)) return false;
        if (match_attend(m, op_at(m, i)) && !lower_attend(cx, i)) return false;
    }
    return true;
}
