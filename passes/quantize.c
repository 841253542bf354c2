/* quantize-weights, quantize-activations, cast-weights: quantise-dequantise pairs, or casts, on
 * what linears and the embedding read. Values keep their float types, so the graph means the same
 * but for the rounding; `lower` makes integers of it.
 */
#include "passes/pass.h"

#include <string.h>

static Builder const_builder(PassCx *cx, i32 layer)
{
    return (Builder){.m = cx->m, .d = cx->d, .layer = layer};
}

static bool check_group(PassCx *cx, const Op *op, ValueId x, i64 group)
{
    i64 cols = type_cols(type_of(cx->m, x));
    if (group < 0)
        return pass_fail(cx, NULL, "group is %lld, expected 0 (a whole row) or more",
                         (long long)group);
    if (group <= cols) return true;
    return pass_fail(cx, op, "group %lld is longer than a row of %lld", (long long)group,
                     (long long)cols);
}

/* ---- weights ---- */

typedef struct WeightFormat {
    const char *dtype;
    i64 group;
    bool sym;
} WeightFormat;

static ValueId quantized(PassCx *cx, ValueId w, const WeightFormat *f, i32 layer)
{
    const char *base = ir_cstr(cx->m, value_at(cx->m, w)->name);
    const char *q_name = arena_printf(cx->a, "%s" SUFFIX_Q, base),
               *s_name = arena_printf(cx->a, "%s" SUFFIX_SCALE, base);
    const char *dq_name = arena_printf(cx->a, "%s" SUFFIX_DQ, base);
    Builder b = const_builder(cx, layer);
    const AttrSpec *form = ATTRS({A_DTYPE, .s = f->dtype}, {A_GROUP, .i = f->group}),
                   *group = ATTRS({A_GROUP, .i = f->group});
    ValueId s = ir_op(&b, f->sym ? OP_QPARAMS : OP_QPARAMS_ASYM, INS(w), form, 0, s_name);
    if (!s) return 0;
    ValueId min = f->sym ? 0 : s + 1; /* the second result */
    ValueId q = ir_op(&b, OP_QUANTIZE, INS(w, s, min), form, 0, q_name);
    return q ? ir_op(&b, OP_DEQUANTIZE, INS(q, s, min), group, 0, dq_name) : 0;
}

/* The weight operand of op and its class; 0 if it has none that is a float constant. */
static ValueId weight_of(const Module *m, const Op *op, ValueId head, const char **cls)
{
    if (op->kind != OP_LINEAR && op->kind != OP_EMBEDDING) return 0;
    *cls = op->kind == OP_EMBEDDING ? "embedding" : op->out == head ? "head" : "layers";
    ValueId w = op->in[1];
    return is_const(m, w) && def_of(m, w)->kind != OP_DEQUANTIZE ? w : 0;
}

bool pass_quantize_weights(PassCx *cx)
{
    Module *m = cx->m;
    i64 bits = pass_int(cx, "bits");
    WeightFormat f = {.group = pass_int(cx, "group"), .sym = pass_int(cx, "sym") != 0};
    f.dtype = bits == 4 ? (f.sym ? "s4" : "u4") : (f.sym ? "s8" : "u8");
    u32 fn = pass_fn_index(m, "main");
    Tail t;
    if (!pass_tail(cx, fn, &t)) return false;
    Map done = {
        .a = cx->a}; /* weight -> its dequantized value, so that a shared weight stays shared */
    for (u32 i = 0; i < m->fns.at[fn].body.n; i++) {
        OpId id = m->fns.at[fn].body.at[i];
        const char *cls;
        ValueId w = weight_of(m, op_at(m, id), t.head, &cls);
        if (!w || !pass_selected(cx, cls, ir_cstr(m, value_at(m, w)->name))) continue;
        if (!check_group(cx, op_at(m, id), w, f.group)) return false;
        bool added;
        u32 *slot = map_put(&done, (Str){(const char *)&w, sizeof w}, &added);
        if (added) *slot = quantized(cx, w, &f, op_at(m, id)->layer);
        if (!*slot) return false;
        op_at(m, id)->in[1] = *slot;
        cx->changes++;
    }
    return true;
}

bool pass_cast_weights(PassCx *cx)
{
    Module *m = cx->m;
    u32 fn = pass_fn_index(m, "main");
    Tail t;
    if (!pass_tail(cx, fn, &t)) return false;
    Map done = {.a = cx->a}; /* weight -> its cast: a shared one stays shared */
    for (u32 i = 0; i < m->fns.at[fn].body.n; i++) {
        OpId id = m->fns.at[fn].body.at[i];
        const char *cls;
        ValueId w = weight_of(m, op_at(m, id), t.head, &cls);
        if (!w || type_of(m, w)->dt == DT_BF16) continue;
        if (!pass_selected(cx, cls, ir_cstr(m, value_at(m, w)->name))) continue;
        bool added;
        u32 *slot = map_put(&done, (Str){(const char *)&w, sizeof w}, &added);
        if (added) {
            Builder b = const_builder(cx, op_at(m, id)->layer);
            const char *name =
                arena_printf(cx->a, "%s" SUFFIX_CAST, ir_cstr(m, value_at(m, w)->name));
            *slot =
                ir_op(&b, OP_CAST, INS(w), ATTRS({A_DTYPE, .s = pass_word(cx, "dtype")}), 0, name);
        }
        if (!*slot) return false;
        op_at(m, id)->in[1] = *slot;
        cx->changes++;
    }
    return true;
}

/* ---- activations ---- */

/* "n1.0" -> "n1.0.q"; a value without a name gives none. */
static const char *suffixed(const PassCx *cx, ValueId v, const char *suffix)
{
    const char *name = ir_cstr(cx->m, value_at(cx->m, v)->name);
    return *name ? arena_printf(cx->a, "%s%s", name, suffix) : NULL;
}

bool pass_quantize_activations(PassCx *cx)
{
    Module *m = cx->m;
    const char *dtype = pass_word(cx, "dtype");
    i64 group = pass_int(cx, "group");
    u32 fn = pass_fn_index(m, "main");
    Tail t;
    if (!pass_tail(cx, fn, &t)) return false;
    Map done = {.a = cx->a};
    for (u32 i = 0; i < m->fns.at[fn].body.n; i++) {
        OpId id = m->fns.at[fn].body.at[i];
        Op *op = op_at(m, id);
        if (op->kind != OP_LINEAR || !is_const(m, op->in[1]) ||
            def_of(m, op->in[1])->kind != OP_DEQUANTIZE)
            continue;
        if (is_const(m, op->in[0]) || def_of(m, op->in[0])->kind == OP_DEQUANTIZE) continue;
        if (!pass_selected(cx, op->out == t.head ? "head" : "layers",
                           pass_base_name(cx, op->in[1])))
            continue;
        i64 wgroup = op_int(def_of(m, op->in[1]), A_GROUP);
        if (group && group != wgroup)
            return pass_fail(cx, op,
                             "group %lld of activations differs from group %lld of the weight",
                             (long long)group, (long long)wgroup);
        ValueId x = op->in[0];
        if (!check_group(cx, op, x, group)) return false;
        bool added;
        u32 *slot = map_put(&done, (Str){(const char *)&x, sizeof x}, &added);
        if (added) {
            Builder b = {.m = m, .d = cx->d, .fn = fn, .before = id, .layer = op->layer};
            const AttrSpec *form = ATTRS({A_DTYPE, .s = dtype}, {A_GROUP, .i = group}),
                           *grouped = ATTRS({A_GROUP, .i = group});
            ValueId s = ir_op(&b, OP_QPARAMS, INS(x), form, 0, suffixed(cx, x, SUFFIX_SCALE));
            ValueId q =
                s ? ir_op(&b, OP_QUANTIZE, INS(x, s), form, 0, suffixed(cx, x, SUFFIX_Q)) : 0;
            ValueId dq =
                q ? ir_op(&b, OP_DEQUANTIZE, INS(q, s), grouped, 0, suffixed(cx, x, SUFFIX_DQ)) : 0;
            if (!dq) return false;
            *slot = dq;
            i += 3;
        }
        op_at(m, id)->in[0] = *slot;
        cx->changes++;
    }
    return true;
}
