/* One function per family of kernels: finds constants and operands for the kernel that the step
 * names. The slots they fill are in the templates' contracts. */
#include "codegen/bind.h"

#include "ir/eval.h"
#include "ir/hadamard.h"
#include "ir/text.h"

#include <math.h>

static bool bind_embed(Bind *b)
{
    const Op *e = b_find(b, OP_EMBEDDING);
    if (!e) return b_refuse(b, "has no embedding");
    const Type *w = type_of(b->m, e->in[1]);
    b_set(b, C_N, (double)w->dim[0]);
    b_set(b, C_K, (double)w->dim[1]);
    return b_place(b, e->in[0], &b->call.in[0]) && b_packed(b) &&
           b_place(b, b_output(b), &b->call.out[0]) && b_add_call(b);
}

/* ---- quantising ---- */

static i64 clamp_low(const Op *quantize, DType dt)
{
    const DTypeInfo *t = &dtype_info[dt];
    return t->lo < 0 && !op_int(quantize, A_FULL) ? -t->hi : t->lo;
}

/* What the step's quantize of a matrix, if it has one, means to its kernel: the format `variant`,
 * and the scale as a constant (in aux[slot]) or how it is computed (`*s` is then the op). */
static bool quantised_output(Bind *b, const char *format, u32 slot, const Op **q, const Op **s)
{
    const i64 fmt = cg_format(format);
    *q = b_find(b, OP_QUANTIZE);
    *s = b_find(b, OP_QPARAMS);
    if (fmt < 0) return b_refuse(b, "format '%s' is unknown", format);
    if ((fmt != 0) != (*q != NULL)) return b_refuse(b, "quantises to another format");
    b_set(b, C_fmt, (double)fmt);
    if (!*q) return true;
    const DType dt = op_dtype(b->m, *q);
    b_set(b, C_qlo, (double)clamp_low(*q, dt));
    b_set(b, C_qhi, (double)dtype_info[dt].hi);
    b_set(b, C_static, *s == NULL);
    if (!*s) return b_small_const(b, (*q)->in[1], CG_SEC_F32, &b->call.aux[slot]);
    b_set(b, C_qtop, qparams_top(dt, op_int(*s, A_FULL) != 0));
    b_set(b, C_clip, op_float(*s, A_SCALE));
    return true;
}

/* Places of what quantised_output found, or of the step's only f32 output. */
static bool place_output(Bind *b, const Op *q, const Op *s)
{
    if (!q) return b_place(b, b_output(b), &b->call.out[0]);
    return b_place(b, q->out, &b->call.out[0]) && (!s || b_place(b, s->out, &b->call.out[1]));
}

/* norm.XF, quant.XF: the outputs are one f32 value, or integers and scales. */
static bool bind_norm(Bind *b)
{
    const Op *n = b_find(b, OP_RMSNORM), *s, *q;
    if (!quantised_output(b, b->variant, 1, &q, &s)) return false;
    if (b->row == ROW_NORM ? !n : !q) return b_refuse(b, "lacks the op that it is named after");
    const ValueId x = n ? n->in[0] : q->in[0];
    if (n && n->nin > 1 && n->in[1]) {
        if (!b_small_const(b, n->in[1], CG_SEC_F32, &b->call.aux[0])) return false;
        b_set(b, C_gain, 1);
    } else {
        b_set(b, C_gain, 0);
    }
    if (n) b_set(b, C_eps, op_float(n, A_EPS));
    b_set(b, C_K, (double)b_cols(b, x));
    b->call.flops = (u64)b_cols(b, x) * 4;
    if (!b_place(b, x, &b->call.in[0])) return false;
    b_try_private(b);
    return place_output(b, q, s) && b_add_call(b);
}

static bool act_kind(Bind *b, const Op *op)
{
    i64 act =
        op->kind == OP_SILU
            ? cg_activation("silu")
            : cg_activation(strcmp(op_str(b->m, op, A_MODE), "tanh") == 0 ? "gelu_tanh" : "gelu");
    b_set(b, C_act, (double)act);
    return act >= 0 || b_refuse(b, "no kernel computes this activation function");
}

/* First row of the linear's result that v was sliced from, following the step's ops backwards; -1
 * if none. */
static i64 sliced_from(const Bind *b, ValueId v)
{
    while (b_in_step(b, v)) {
        const Op *op = def_of(b->m, v);
        if (op->kind == OP_SLICE) return op_int(op, A_BEGIN);
        if (op->kind != OP_RESHAPE && op->kind != OP_ROPE && op->kind != OP_RMSNORM &&
            op->kind != OP_HADAMARD && op->kind != OP_QUANTIZE)
            break;
        v = op->in[0];
    }
    return -1;
}

/* RoPE's frequencies and factor, which all ropes of the step share. */
static bool rope_consts(Bind *b, const Op *rope)
{
    CgRef f;
    if (!b_small_const(b, rope->in[2], CG_SEC_F32, &f)) return false;
    const double n = 2.0 * (double)b_cols(b, rope->in[2]), scale = op_float(rope, A_MSCALE);
    const bool again = b->call.aux[1].place != CG_NONE;
    if (again && (b->call.aux[1].section != f.section || b->val[C_rope_scale] < scale ||
                  b->val[C_rope_scale] > scale))
        return b_refuse(b, "q and k are turned differently");
    b->call.aux[1] = f;
    b_set(b, C_rot, n);
    b_set(b, C_rope_scale, scale);
    b_set(b, C_prefix, (double)ir_meta_get_int(b->m, "prefix", 0));
    return true;
}

static bool head_norm_consts(Bind *b, const Op *norm, u32 slot)
{
    const double eps = op_float(norm, A_EPS);
    if (norm->nin < 2 || !norm->in[1]) return b_refuse(b, "a head's norm has no gain");
    if (b->val[C_qk_norm] > 0 && (b->val[C_eps] < eps || b->val[C_eps] > eps))
        return b_refuse(b, "q and k have norms with different eps");
    b_set(b, C_qk_norm, 1);
    b_set(b, C_eps, eps);
    return b_small_const(b, norm->in[1], CG_SEC_F32, &b->call.aux[slot]);
}

/* ---- the KV cache ---- */

static bool kv_dtype(Bind *b, ValueId state)
{
    const DType dt = type_of(b->m, state)->dt;
    const i64 format = cg_kv_format(dtype_info[dt].name);
    b_set(b, C_kv, (double)format);
    return format >= 0 || b_refuse(b, "no kernel keeps the KV cache in %s", dtype_info[dt].name);
}

/* Kernels have one constant for both. */
static bool kv_dtypes(Bind *b, ValueId k, ValueId v)
{
    const DType kt = type_of(b->m, k)->dt, vt = type_of(b->m, v)->dt;
    return kt == vt ? kv_dtype(b, k)
                    : b_refuse(b, "keys are kept in %s and values in %s, expected one format",
                               dtype_info[kt].name, dtype_info[vt].name);
}

static bool is_quantised(const Bind *b, ValueId v)
{
    return !dtype_info[type_of(b->m, v)->dt].is_float;
}

/* One f32 per head. */
static bool head_scales(Bind *b, ValueId v, i64 heads, CgRef *r)
{
    const Type *t = type_of(b->m, v);
    if (t->rank != 2 || t->dim[0] != heads || t->dim[1] != 1)
        return b_refuse(b, "a scale is not one per head");
    return b_small_const(b, v, CG_SEC_F32, r);
}

/* How k (which = 0) or v (1) is quantised: both alike. The scales are constants in aux[4], aux[5]
 * or states in out[3..6]. */
static bool kv_quantise(Bind *b, const Op *append, u32 which)
{
    const Op *q = def_of(b->m, append->in[which]);
    if (q->kind != OP_QUANTIZE || !b_in_step(b, q->out))
        return b_refuse(b, "k and v are not quantised in the step");
    const Op *s = def_of(b->m, q->in[1]);
    const bool fixed = is_const(b->m, q->in[1]);
    const DType dt = type_of(b->m, append->in[3])->dt;
    if (!fixed && s->kind != OP_QPARAMS && s->kind != OP_QPARAMS_ASYM)
        return b_refuse(b, "scales of k and v come from elsewhere");
    const struct {
        CgConstId id;
        double v;
    } set[] = {
        {C_kv_static, fixed},
        {C_kv_lo, (double)clamp_low(q, dt)},
        {C_kv_top, fixed ? b->val[C_kv_top] : qparams_top(dt, op_int(s, A_FULL) != 0)},
        {C_kv_clip, fixed ? b->val[C_kv_clip] : op_float(s, A_SCALE)},
    };
    for (u32 i = 0; i < sizeof set / sizeof *set; i++) {
        if (which && (b->val[set[i].id] < set[i].v || b->val[set[i].id] > set[i].v))
            return b_refuse(b, "k and v are quantised differently");
        b_set(b, set[i].id, set[i].v);
    }
    if (fixed) return head_scales(b, q->in[1], (i64)b->val[C_kv_heads], &b->call.aux[4 + which]);
    for (u32 i = 0; i < 2; i++) {
        const ValueId state = op_in(append, 9 + 2 * which + i);
        if (state && !b_place(b, state, &b->call.out[3 + 2 * which + i])) return false;
    }
    return true;
}

/* q as s8 with one scale per head, or as f32. */
static bool bind_q(Bind *b, ValueId q)
{
    const Op *quantize = def_of(b->m, q);
    if (quantize->kind != OP_QUANTIZE) return b_place(b, q, &b->call.out[0]);
    if (op_dtype(b->m, quantize) != DT_S8)
        return b_refuse(b, "q is quantised to another type than s8");
    b_set(b, C_q8, (double)-clamp_low(quantize, DT_S8));
    return head_scales(b, quantize->in[1], (i64)b->val[C_heads], &b->call.aux[6]) &&
           b_place(b, q, &b->call.out[0]);
}

/* The rope, norm and transform that q and k share. */
static bool qk_consts(Bind *b)
{
    u32 ropes = 0, norms = 0, mixes = 0;
    for (u32 i = 0; i < b->n_ops; i++) {
        const Op *op = op_at(b->m, b->ops[i]);
        const bool is_q = sliced_from(b, op->out) == 0;
        if (op->kind == OP_ROPE && (ropes++, !rope_consts(b, op))) return false;
        if (op->kind == OP_RMSNORM && (norms++, !head_norm_consts(b, op, is_q ? 2 : 3)))
            return false;
        mixes += op->kind == OP_HADAMARD;
    }
    b_set(b, C_r3, mixes != 0);
    return (ropes % 2 == 0 && norms % 2 == 0 && mixes % 2 == 0 && ropes <= 2 && norms <= 2 &&
            mixes <= 2) ||
           b_refuse(b, "q and k are not treated alike");
}

static bool bind_qkv(Bind *b)
{
    const Op *kv = b_find(b, OP_KV_APPEND);
    if (!kv) return b_refuse(b, "has no kv_append");
    const Type *ks = type_of(b->m, kv->in[3]);
    const i64 d = ks->dim[2], g = ks->dim[0], heads = ((i64)b->val[C_N] - 2 * g * d) / d;
    if (heads < 1 || (heads + 2 * g) * d != (i64)b->val[C_N])
        return b_refuse(b, "the weight's rows are not heads of q, k and v");
    if (sliced_from(b, kv->in[0]) != heads * d || sliced_from(b, kv->in[1]) != (heads + g) * d)
        return b_refuse(b, "q, k and v are not in this order");
    b_set(b, C_heads, (double)heads);
    b_set(b, C_kv_heads, (double)g);
    b_set(b, C_head_dim, (double)d);
    const ValueId q = b_output(b);
    if (sliced_from(b, q) != 0) return b_refuse(b, "its result is not q");
    if (!qk_consts(b) || !kv_dtypes(b, kv->in[3], kv->in[4])) return false;
    if (is_quantised(b, kv->in[3]) && (!kv_quantise(b, kv, 0) || !kv_quantise(b, kv, 1)))
        return false;
    return bind_q(b, q) && b_place(b, kv->in[3], &b->call.out[1]) &&
           b_place(b, kv->in[4], &b->call.out[2]);
}

/* Everything before the epilogue: input, weights, bias. *y is the product. */
static bool linear_base(Bind *b, ValueId *y)
{
    const Op *l = b_find2(b, OP_QLINEAR, OP_LINEAR);
    if (!l) return b_refuse(b, "has no linear");
    const bool q = l->kind == OP_QLINEAR;
    const Type *w = type_of(b->m, l->in[q ? 2 : 1]);
    b_set(b, C_N, (double)w->dim[0]);
    b_set(b, C_K, (double)w->dim[1]);
    i64 fmt = 0;
    if (q) {
        const bool grouped = op_int(l, A_GROUP) != 0;
        const DType x = type_of(b->m, l->in[0])->dt;
        fmt = (x == DT_S8 || x == DT_S4) && !grouped ? cg_format("s8")
              : x == DT_S16                          ? cg_format(grouped ? "s16g32" : "s16")
                                                     : -1;
        b_set(b, C_static, is_const(b->m, l->in[1]));
    }
    if (fmt < 0) return b_refuse(b, "no kernel reads activations in this format");
    b_set(b, C_fmt, (double)fmt);
    b->call.flops = 2 * (u64)w->dim[0] * (u64)w->dim[1];
    const ValueId bias = op_in(l, q ? 5 : 2);
    const bool tiles2 = strcmp(b->variant, "swiglu") == 0;
    b_set(b, C_bias, bias != 0);
    if (bias && !b_small_const(b, bias, tiles2 ? CG_SEC_TILES2 : CG_SEC_F32, &b->call.aux[0]))
        return false;
    *y = l->out;
    return b_packed(b) && b_place(b, l->in[0], &b->call.in[0]) &&
           (!q || is_const(b->m, l->in[1]) || b_place(b, l->in[1], &b->call.in[1]));
}

static bool bind_linear(Bind *b)
{
    ValueId y = 0;
    i64 epi = cg_epilogue(*b->variant ? b->variant : "none");
    if (epi < 0) return b_refuse(b, "epilogue '%s' is unknown", b->variant);
    b_set(b, C_epi, (double)epi);
    if (!linear_base(b, &y)) return false;
    if (strcmp(b->variant, "qkv") == 0) return bind_qkv(b) && b_add_call(b);
    if (strcmp(b->variant, "residual") == 0) {
        const Op *add = b_find(b, OP_ADD);
        if (!add || (add->in[0] != y && add->in[1] != y))
            return b_refuse(b, "does not add its product");
        if (!b_place(b, add->in[add->in[0] == y], &b->call.in[2])) return false;
    } else if (strcmp(b->variant, "swiglu") == 0) {
        const Op *act = b_find2(b, OP_SILU, OP_GELU);
        if (!act || !b_find(b, OP_MUL)) return b_refuse(b, "has no gated activation");
        if (sliced_from(b, act->in[0]) != 0)
            return b_refuse(b, "the gate is not the weight's first half");
        if (!act_kind(b, act)) return false;
    }
    return b_place(b, b_output(b), &b->call.out[0]) && b_add_call(b);
}

/* Operands of attend: q pos kstate vstate qs ks km vs vm prefix_k prefix_v. */
enum { AT_Q, AT_POS, AT_K, AT_V, AT_QS, AT_KS, AT_KM, AT_VS, AT_VM, AT_PK, AT_PV };

static bool attend_scales(Bind *b, const Op *at)
{
    if (!is_quantised(b, at->in[AT_K])) return true;
    const ValueId ks = op_in(at, AT_KS), vs = op_in(at, AT_VS);
    if (!ks || !vs) return b_refuse(b, "quantised keys and values have no scales");
    const bool fixed = def_of(b->m, ks)->kind != OP_STATE;
    const i64 heads = (i64)b->val[C_kv_heads];
    b_set(b, C_kv_static, fixed);
    if (fixed)
        return head_scales(b, ks, heads, &b->call.aux[2]) &&
               head_scales(b, vs, heads, &b->call.aux[3]);
    for (u32 i = 0; i < 4; i++) {
        const ValueId state = op_in(at, AT_KS + i);
        if (state && !b_place(b, state, &b->call.in[3 + i])) return false;
    }
    return true;
}

static bool attend_prefix(Bind *b, const Op *at)
{
    const ValueId pk = op_in(at, AT_PK), pv = op_in(at, AT_PV);
    const i64 n = op_int(at, A_PREFIX);
    b_set(b, C_prefix, (double)n);
    if (!pk || !pv) return n == 0 || b_refuse(b, "has no keys and values of its prefix");
    return b_small_const(b, pk, CG_SEC_F16, &b->call.aux[0]) &&
           b_small_const(b, pv, CG_SEC_F16, &b->call.aux[1]);
}

static bool bind_attend(Bind *b)
{
    const Op *at = b_find(b, OP_ATTEND), *quantize, *s;
    if (!at) return b_refuse(b, "has no attend");
    const Type *q = type_of(b->m, at->in[AT_Q]), *k = type_of(b->m, at->in[AT_K]);
    b_set(b, C_heads, (double)q->dim[1]);
    b_set(b, C_kv_heads, (double)k->dim[0]);
    b_set(b, C_head_dim, (double)q->dim[2]);
    b_set(b, C_window, (double)op_int(at, A_WINDOW));
    b_set(b, C_scale, op_float(at, A_SCALE));
    b->call.flops = 4 * (u64)(q->dim[1] * q->dim[2]);
    if (!kv_dtypes(b, at->in[AT_K], at->in[AT_V]) || !attend_scales(b, at) ||
        !attend_prefix(b, at) ||
        !quantised_output(b, *b->variant ? b->variant : "f32", 5, &quantize, &s))
        return false;
    if (is_quantised(b, at->in[AT_Q])) {
        /* The clamp is part of how q was made; here it only says that q is integers. */
        b_set(b, C_q8, (double)dtype_info[DT_S8].hi);
        if (!head_scales(b, op_in(at, AT_QS), q->dim[1], &b->call.aux[4])) return false;
    }
    return b_place(b, at->in[AT_Q], &b->call.in[0]) && b_place(b, at->in[AT_K], &b->call.in[1]) &&
           b_place(b, at->in[AT_V], &b->call.in[2]) && place_output(b, quantize, s) &&
           b_add_call(b);
}

static bool head_shape(Bind *b, ValueId x)
{
    const Type *t = type_of(b->m, x);
    if (t->rank != 3) return b_refuse(b, "works on heads, found %s", ir_type_text(b->m, t));
    b_set(b, C_heads, (double)t->dim[1]);
    b_set(b, C_head_dim, (double)t->dim[2]);
    return true;
}

static bool bind_heads(Bind *b)
{
    const Op *norm = b_find(b, OP_RMSNORM), *rope = b_find(b, OP_ROPE), *first = norm ? norm : rope;
    if (!first || !head_shape(b, first->in[0]))
        return first ? false : b_refuse(b, "has neither rope nor rmsnorm");
    if (norm && !head_norm_consts(b, norm, 2)) return false;
    if (rope && !rope_consts(b, rope)) return false;
    return b_place(b, first->in[0], &b->call.in[0]) && b_place(b, b_output(b), &b->call.out[0]) &&
           b_add_call(b);
}

/* kv_append on its own: two calls of `heads`, for k and for v. */
static bool bind_kv_append(Bind *b)
{
    const Op *kv = b_find(b, OP_KV_APPEND);
    b->row = ROW_HEADS;
    if (is_quantised(b, kv->in[3]))
        return b_refuse(b,
                        "no kernel keeps heads as integers outside the projection of q, k and v");
    for (u32 i = 0; i < 2; i++) {
        b_set(b, C_cache, 1);
        if (!head_shape(b, kv->in[i]) || !kv_dtype(b, kv->in[3 + i]) ||
            !b_place(b, kv->in[i], &b->call.in[0]) || !b_place(b, kv->in[3 + i], &b->call.out[0]) ||
            !b_add_call(b))
            return false;
    }
    return true;
}

static bool const_value(Bind *b, ValueId v, double *out)
{
    Eval *e = eval_new(b->d, b->m, false);
    Tensor t;
    bool ok = eval_const(e, v, 0, 1, 0, 1, &t);
    if (ok) *out = (double)t.f[0];
    eval_free(e);
    return ok;
}

static bool bind_elem(Bind *b)
{
    const Op *mul = b_find(b, OP_MUL), *op = b_find2(b, OP_ADD, OP_MUL),
             *act = b_find2(b, OP_SILU, OP_GELU);
    ValueId x = 0, y = 0;
    if (act) {
        x = act->in[0];
        if (!act_kind(b, act)) return false;
        if (b->row == ROW_GLU) y = mul ? mul->in[mul->in[0] == act->out] : 0;
    } else if (op) {
        x = op->in[0];
        y = op->in[1];
    }
    if (!x || (b->row != ROW_ACT && !y)) return b_refuse(b, "lacks the ops that it is named after");
    const Type *t = type_of(b->m, x);
    b_set(b, C_K, (double)b_cols(b, x) * (t->rank == 3 ? (double)t->dim[1] : 1));
    b->call.flops = (u64)b->val[C_K];
    bool ok = b_place(b, x, &b->call.in[0]);
    double scale = 1;
    switch (b->row) {
    case ROW_ACT: break;
    case ROW_SCALE:
        ok = ok && const_value(b, y, &scale);
        b_set(b, C_scale, scale);
        break;
    case ROW_MUL_ROW:
    case ROW_ADD_ROW: ok = ok && b_small_const(b, y, CG_SEC_F32, &b->call.aux[0]); break;
    default:
        if (type_of(b->m, y) != t)
            return b_refuse(b, "its operands are %s and %s, expected one shape",
                            ir_type_text(b->m, t), ir_type_text(b->m, type_of(b->m, y)));
        ok = ok && b_place(b, y, &b->call.in[1]);
    }
    return ok && b_place(b, b_output(b), &b->call.out[0]) && b_add_call(b);
}

static bool bind_hadamard(Bind *b)
{
    const Op *h = b_find(b, OP_HADAMARD), *q, *s;
    if (!h) return b_refuse(b, "has no hadamard");
    if (op_int(h, A_SEED) || *op_str(b->m, h, A_MODE))
        return b_refuse(b, "no kernel transforms activations with signs or by rows");
    const Type *t = type_of(b->m, h->in[0]);
    i64 group = op_int(h, A_GROUP), n = group ? group : type_cols(t);
    b_set(b, C_K, (double)type_cols(t) * (t->rank == 3 ? (double)t->dim[1] : 1));
    b_set(b, C_N, (double)n);
    b_set(b, C_base, (double)hadamard_base_order(n));
    b_set(b, C_scale, 1 / sqrt((double)n));
    if (!quantised_output(b, *b->variant ? b->variant : "f32", 1, &q, &s) ||
        (hadamard_base_order(n) > 1 && !b_packed(b)) || !b_place(b, h->in[0], &b->call.in[0]))
        return false;
    /* One row cannot be divided when its maximum, or its one block, is needed whole. */
    if (q || n == (i64)b->val[C_K]) b_try_private(b);
    return place_output(b, q, s) && b_add_call(b);
}

static bool bind_rows(Bind *b)
{
    const Op *r = b_find(b, OP_ROWS);
    if (!r) return b_refuse(b, "has no rows");
    const Type *t = type_of(b->m, r->in[0]);
    b_set(b, C_K, (double)t->dim[1]);
    b_set(b, C_rows, (double)(t->dim[0] < 0 ? b->chunk : t->dim[0]));
    return b_place(b, r->in[0], &b->call.in[0]) && b_place(b, r->in[1], &b->call.in[1]) &&
           b_place(b, b_output(b), &b->call.out[0]) && b_add_call(b);
}

/* store on its own: a copy, which is a scale by 1; nothing at all when the value was computed in
 * place. */
static bool bind_store(Bind *b)
{
    const Op *s = b_find(b, OP_STORE);
    b->row = ROW_SCALE;
    b_set(b, C_K, (double)b_cols(b, s->in[0]));
    b_set(b, C_scale, 1);
    if (!b_place(b, s->in[0], &b->call.in[0]) || !b_place(b, s->in[1], &b->call.out[0]))
        return false;
    if (b->call.in[0].place == b->call.out[0].place && b->call.in[0].off == b->call.out[0].off) {
        b->call = (CgCall){0};
        return true;
    }
    return b_add_call(b);
}

bool bind_step(Bind *b)
{
    const char *name = ir_cstr(b->m, b->st->kernel);
    b->call = (CgCall){0};
    for (u32 i = 0; i < CG_N_CONSTS; i++)
        b->val[i] = cg_const_info[i].def;
    b->variant = "";
    if (strcmp(name, "kv_append") == 0 && b_find(b, OP_KV_APPEND)) return bind_kv_append(b);
    if (strcmp(name, "store") == 0 && b_find(b, OP_STORE)) return bind_store(b);
    if (strcmp(name, "reshape") == 0) return true;
    if (!cg_row(name, &b->row, &b->variant)) return b_refuse(b, "there is no kernel of this name");
    if (cg_row_is(b->row, "embed")) return bind_embed(b);
    if (cg_row_is(b->row, "linear")) return bind_linear(b);
    switch (b->row) {
    case ROW_NORM:
    case ROW_QUANT: return bind_norm(b);
    case ROW_HEADS: return bind_heads(b);
    case ROW_ATTEND: return bind_attend(b);
    case ROW_ROWS: return bind_rows(b);
    case ROW_HADAMARD: return bind_hadamard(b);
    default: return bind_elem(b);
    }
}
