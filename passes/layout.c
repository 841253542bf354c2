/* layout: the weights of each embed and linear step as one packed constant, in the order its kernel
 * streams them (ir/pack.h). Phases, and a tied embedding and head, share one when operands, layout
 * and interleaving are equal.
 */
#include "passes/pass.h"

#include "ir/hadamard.h"
#include "ir/pack.h"

typedef struct Layout {
    PassCx *cx;
    Map packed; /* key of pack -> its value */
} Layout;

/* The column of scales ws * xs: with a static activation one constant per output channel holds
 * both, and the kernel reads no scale of the activation. Layouts that keep scales in f16 (u4g32)
 * would round the product and do without. */
static bool fold_static_scale(Layout *lay, const Op *op, ValueId *scale)
{
    Module *m = lay->cx->m;
    ValueId xs = op->in[1];
    if (!is_const(m, xs) || type_elems(type_of(m, xs)) != 1) return true;
    bool added;
    const char *key = arena_printf(lay->cx->a, "scale %u %u", *scale, xs);
    u32 *slot = map_put(&lay->packed, str_c(key), &added);
    if (added) {
        Builder b = {.m = m, .d = lay->cx->d, .layer = op->layer};
        const char *name = arena_printf(lay->cx->a, "%s" SUFFIX_SCALE SUFFIX_PACK,
                                        pass_base_name(lay->cx, *scale));
        *slot = ir_op(&b, OP_MUL, INS(*scale, xs), NULL, 0, name);
    }
    *scale = *slot;
    return *slot != 0;
}

/* Operands of pack for the weight of op: [w], [q, s] or [q, s, m]; their number, 0 after a
 * diagnostic. */
static u32 pack_operands(Layout *lay, const Op *op, const PackLayout *l, ValueId out[3])
{
    const Module *m = lay->cx->m;
    ValueId w = op->in[op->kind == OP_QLINEAR ? 2 : 1];
    if (op->kind == OP_QLINEAR) {
        for (u32 i = 0; i < 3; i++)
            out[i] = op_in(op, 2 + i);
        return l->operands != 2 || fold_static_scale(lay, op, &out[1]) ? l->operands : 0;
    }
    const Op *dq = def_of(m, w);
    if (l->operands == 1) {
        out[0] = w;
        return 1;
    }
    for (u32 i = 0; i < 3; i++)
        out[i] = op_in(dq, i);
    return l->operands;
}

static ValueId pack(Layout *lay, const Op *op, const char *layout, i64 interleave)
{
    Module *m = lay->cx->m;
    ValueId in[3] = {0};
    const PackLayout *l = pack_layout(layout);
    if (!l) {
        pass_fail(lay->cx, op, "the step's kernel names the layout '%s', expected one of %s",
                  layout, pack_layout_names());
        return 0;
    }
    u32 n = pack_operands(lay, op, l, in);
    if (!n) return 0;
    const char *key = arena_printf(lay->cx->a, "%s %u %u %u %lld", layout, in[0], n > 1 ? in[1] : 0,
                                   n > 2 ? in[2] : 0, (long long)interleave);
    bool added;
    u32 *slot = map_put(&lay->packed, str_c(key), &added);
    if (!added) return *slot;
    Builder b = {.m = m, .d = lay->cx->d, .layer = op->layer};
    const char *name = arena_printf(lay->cx->a, "%s" SUFFIX_PACK, pass_base_name(lay->cx, in[0]));
    *slot = ir_op(&b, OP_PACK, in, n,
                  ATTRS({A_LAYOUT, .s = layout}, {A_INTERLEAVE, .i = interleave}), 0, name);
    lay->cx->changes++;
    return *slot;
}

/* Word i of a kernel's name: linear.u4g32.swiglu. */
static const char *name_word(PassCx *cx, const char *name, u32 i)
{
    for (; i && *name; i--) {
        name += strcspn(name, ".");
        name += *name == '.';
    }
    return arena_strdup(cx->a, name, strcspn(name, "."));
}

/* The base matrix of an online transform, for its kernel to stream; 0 when the transform needs
 * none. */
static bool pack_base(Layout *lay, const Op *op, ValueId *out)
{
    Module *m = lay->cx->m;
    i64 group = op_int(op, A_GROUP), n = group ? group : type_cols(type_of(m, op->out));
    *out = 0;
    if (hadamard_base_order(n) == 1) return true;
    bool added;
    u32 *slot = map_put(&lay->packed,
                        str_c(arena_printf(lay->cx->a, "hadamard %lld", (long long)n)), &added);
    if (added) {
        Builder b = {.m = m, .d = lay->cx->d, .layer = -1};
        const char *name = arena_printf(lay->cx->a, "hadamard.%lld", (long long)n);
        ValueId base = ir_op(&b, OP_HADAMARD_BASE, NULL, 0, ATTRS({A_DIM, .i = n}), 0, name);
        if (!base) return false;
        *slot = ir_op(&b, OP_PACK, INS(base), ATTRS({A_LAYOUT, .s = "f32"}, {A_INTERLEAVE, .i = 1}),
                      0, arena_printf(lay->cx->a, "%s" SUFFIX_PACK, name));
        lay->cx->changes++;
    }
    *out = *slot;
    return *out != 0;
}

bool pass_layout(PassCx *cx)
{
    Module *m = cx->m;
    Layout lay = {.cx = cx, .packed = {.a = cx->a}};
    for (u32 f = 1; f < m->fns.n; f++)
        for (u32 i = 0; i < m->fns.at[f].body.n; i++) {
            Op op = *op_at(m, m->fns.at[f].body.at[i]);
            if (!op.step || (op.kind != OP_LINEAR && op.kind != OP_QLINEAR &&
                             op.kind != OP_EMBEDDING && op.kind != OP_HADAMARD))
                continue;
            Step *s = &m->fns.at[f].steps.at[op.step - 1];
            const char *kernel = ir_cstr(m, s->kernel), *family = name_word(cx, kernel, 0);
            if (op.kind == OP_HADAMARD) { /* one in a step of another name needs no matrix */
                ValueId base;
                if (strcmp(family, "hadamard")) continue;
                if (!pack_base(&lay, &op, &base)) return false;
                m->fns.at[f].steps.at[op.step - 1].weights = base;
                continue;
            }
            if (strcmp(family, "linear") && strcmp(family, "embed")) continue;
            i64 interleave = strcmp(name_word(cx, kernel, 2), "swiglu") == 0 ? 2 : 1;
            ValueId w = pack(&lay, &op, name_word(cx, kernel, 1), interleave);
            if (!w) return false;
            m->fns.at[f].steps.at[op.step - 1].weights = w;
        }
    return true;
}
