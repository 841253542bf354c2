/* synthesise: a weight computed from synthetic leaves alone becomes a synthetic leaf itself.
 *
 * Of made-up weights nothing is kept when they are rotated, scaled by gains or joined, but the
 * arithmetic: a compile that reads 8B of them pays for it, and a GPU could not make their integers
 * without it. Numbers of the same range drawn anew serve as well. Weights from files are left
 * alone.
 */
#include "passes/pass.h"

#define STREAMS ((i64)1 << 29) /* behind those of tensors */

typedef struct Leaves {
    const Op *matrix; /* the first of rank 2 */
    bool pure;        /* all are synthetic */
} Leaves;

static void find_leaves(const Module *m, ValueId v, Leaves *l)
{
    const Op *op = def_of(m, v);
    if (op_info[op->kind].flags & OPF_LEAF) {
        l->pure = l->pure && op->kind == OP_SYNTHETIC;
        if (!l->matrix && op->kind == OP_SYNTHETIC && type_of(m, v)->rank == 2) l->matrix = op;
    }
    for (u32 i = 0; i < op->nin; i++)
        if (op->in[i]) find_leaves(m, op->in[i], l);
}

/* The new leaf of weight w; w itself if it stays. 0 after an error. */
static ValueId renew(PassCx *cx, ValueId w, i64 stream)
{
    Module *m = cx->m;
    Leaves l = {.pure = true};
    if (!is_const(m, w) || def_of(m, w)->kind == OP_SYNTHETIC) return w;
    find_leaves(m, w, &l);
    if (!l.pure || !l.matrix) return w;
    Builder b = {.m = m, .d = cx->d, .layer = def_of(m, w)->layer};
    const AttrSpec *leaf =
        ATTRS({A_SEED, .i = op_int(l.matrix, A_SEED)}, {A_SCALE, .f = op_float(l.matrix, A_SCALE)},
              {A_STREAM, .i = STREAMS + stream});
    return ir_op(&b, OP_SYNTHETIC, NULL, 0, leaf, value_at(m, w)->type,
                 arena_printf(cx->a, "%s.new", ir_cstr(m, value_at(m, w)->name)));
}

bool pass_synthesise(PassCx *cx)
{
    Module *m = cx->m;
    const u32 fn = pass_fn_index(m, "main"), n = m->values.n;
    ValueId *renewed = NEWN(cx->a, ValueId, n);
    i64 stream = 0;
    for (u32 i = 0; i < m->fns.at[fn].body.n; i++) {
        const OpId id = m->fns.at[fn].body.at[i];
        const OpKind kind = op_at(m, id)->kind;
        if (kind != OP_LINEAR && kind != OP_EMBEDDING) continue;
        const ValueId w = op_at(m, id)->in[1];
        if (w < n && !renewed[w]) renewed[w] = renew(cx, w, stream++);
        if (w >= n || renewed[w] == w) continue;
        if (!renewed[w]) return false;
        op_at(m, id)->in[1] = renewed[w];
        cx->changes++;
    }
    return true;
}
