/* Quantises a tiny_llama by hand: what the calibrating passes write, with made-up scales. Static
 * scales are literals near the values' ranges, the prefix is noise: the meaning does not matter,
 * only that program and evaluator agree on it. */
#ifndef PFQC_TESTS_TINY_QUANT_H
#define PFQC_TESTS_TINY_QUANT_H

#include "tests/unit/tiny_llama.h"

typedef struct TinyQuant {
    const char *act, *kv; /* element types; u4 and u8 of kv have a minimum */
    bool fixed;           /* static scales, else computed */
    bool q8;              /* q is s8: needs `fixed` */
    bool full;
    bool r3, r4;
    i64 prefix;
    double clip;
} TinyQuant;

typedef struct QuantBuild {
    Builder c, b;
    const TinyQuant *t;
    u32 n; /* of constants made */
} QuantBuild;

/* rank 2: one scale; rank 3: one per head. */
static ValueId quant_scale(QuantBuild *z, ValueId x, double s)
{
    Module *m = z->b.m;
    const Type *t = type_of(m, x);
    const i64 rows = t->rank == 3 ? t->dim[1] : 1;
    double *v = NEWN(m->a, double, rows);
    for (i64 i = 0; i < rows; i++)
        v[i] = (double)(float)(s * (1 + 0.125 * (double)i));
    return ir_op(&z->c, OP_LITERAL, NULL, 0, ATTRS({A_VALUES, .n = (u32)rows, .floats = v}),
                 ir_type2(m, DT_F32, rows, 1), arena_printf(m->a, "scale.%u", z->n++));
}

/* range: the static scale covers about +-range. */
static ValueId quant_pair(QuantBuild *z, ValueId x, const char *dtype, double range)
{
    const TinyQuant *t = z->t;
    const DTypeInfo *info = &dtype_info[dtype_by_name(str_c(dtype))];
    const bool asym = info->lo == 0;
    ValueId s, min = 0;
    if (t->fixed) {
        s = quant_scale(z, x, range / (double)info->hi);
    } else if (asym) {
        s = ir_op(&z->b, OP_QPARAMS_ASYM, INS(x),
                  ATTRS({A_DTYPE, .s = dtype}, {A_SCALE, .f = t->clip}), 0, NULL);
        min = s + 1;
    } else {
        s = ir_op(&z->b, OP_QPARAMS, INS(x),
                  ATTRS({A_DTYPE, .s = dtype}, {A_FULL, .i = t->full}, {A_SCALE, .f = t->clip}), 0,
                  NULL);
    }
    ValueId q = ir_op(&z->b, OP_QUANTIZE, INS(x, s, min),
                      ATTRS({A_DTYPE, .s = dtype}, {A_FULL, .i = t->full && !asym}), 0, NULL);
    return ir_op(&z->b, OP_DEQUANTIZE, INS(q, s, min), NULL, 0, NULL);
}

static ValueId quant_prefix(QuantBuild *z, ValueId k, const char *which)
{
    Module *m = z->b.m;
    const i64 dim[3] = {z->t->prefix, type_of(m, k)->dim[1], type_of(m, k)->dim[2]};
    const char *name = arena_printf(m->a, "prefix.%d.%s", z->b.layer, which);
    ValueId x = ir_op(&z->c, OP_SYNTHETIC, NULL, 0,
                      ATTRS({A_SEED, .i = 9}, {A_STREAM, .i = ++z->n}, {A_SCALE, .f = 0.7}),
                      ir_type(m, DT_F32, 3, dim), NULL);
    return ir_op(&z->c, OP_CAST, INS(x), ATTRS({A_DTYPE, .s = "f16"}), 0, name);
}

static void quant_attention(QuantBuild *z, OpId id)
{
    Module *m = z->b.m;
    const TinyQuant *t = z->t;
    ValueId in[6] = {0};
    for (u32 i = 0; i < 4; i++)
        in[i] = op_at(m, id)->in[i];
    for (u32 i = 0; i < 2 && t->r3; i++)
        in[i] = ir_op(&z->b, OP_HADAMARD, INS(in[i]), NULL, 0, NULL);
    if (t->q8) in[0] = quant_pair(z, in[0], "s8", 2.0);
    in[1] = quant_pair(z, in[1], t->kv, 1.5);
    in[2] = quant_pair(z, in[2], t->kv, 1.0);
    if (t->prefix) {
        in[4] = quant_prefix(z, in[1], "k");
        in[5] = quant_prefix(z, in[1], "v");
    }
    const Op *old = op_at(m, id);
    ValueId y =
        ir_op(&z->b, OP_ATTENTION, in, t->prefix ? 6 : 4,
              ATTRS({A_CACHE, .i = op_int(old, A_CACHE)}, {A_SCALE, .f = op_float(old, A_SCALE)},
                    {A_WINDOW, .i = op_int(old, A_WINDOW)}),
              0, NULL);
    ir_replace_uses(m, op_at(m, id)->out, y);
    ir_erase(m, id);
}

/* The last linear, the head, stays as it is. */
static inline void tiny_quant(Diag *d, Module *m, const TinyQuant *t)
{
    const u32 fn = (u32)(ir_fn(m, "main") - m->fns.at), n = m->fns.at[fn].body.n;
    OpId *body = NEWN(m->a, OpId, n);
    memcpy(body, m->fns.at[fn].body.at, n * sizeof *body);
    QuantBuild z = {.c = {.m = m, .d = d, .layer = -1}, .b = {.m = m, .d = d, .fn = fn}, .t = t};
    ValueId last = 0, last_dq = 0;
    for (u32 i = 0; i + 1 < n; i++) {
        z.b.before = body[i];
        z.b.layer = op_at(m, body[i])->layer;
        if (op_at(m, body[i])->kind == OP_ATTENTION) quant_attention(&z, body[i]);
        if (op_at(m, body[i])->kind != OP_LINEAR) continue;
        const ValueId x = op_at(m, body[i])->in[0];
        if (x != last) {
            const bool down = def_of(m, x)->kind == OP_MUL;
            ValueId y = x;
            if (down && t->r4) y = ir_op(&z.b, OP_HADAMARD, INS(x), NULL, 0, NULL);
            last_dq = quant_pair(&z, y, t->act, def_of(m, x)->kind == OP_RMSNORM ? 1.4 : 0.5);
            last = x;
        }
        op_at(m, body[i])->in[0] = last_dq;
    }
    ir_meta_int(m, "prefix", t->prefix);
    ir_meta_str(m, "prefix_ids", t->prefix == 3 ? "7 4 1" : "1");
}

#endif
