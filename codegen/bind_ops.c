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

/* norm.XF, quant.XF: the outputs are one f32 value, or integers and scales. */
static bool bind_norm(Bind *b)
{
    const Op *n = b_find(b, OP_RMSNORM), *s = b_find(b, OP_QPARAMS), *q = b_find(b, OP_QUANTIZE);
    i64 fmt = cg_format(b->variant);
    if (fmt < 0) return b_refuse(b, "format '%s' is unknown", b->variant);
    if (b->row == ROW_NORM ? !n : !q) return b_refuse(b, "lacks the op that it is named after");
    if ((fmt != 0) != (q && s)) return b_refuse(b, "quantises to another format");
    const ValueId x = n ? n->in[0] : s->in[0];
    if (n && n->nin > 1 && n->in[1]) {
        if (!b_small_const(b, n->in[1], CG_SEC_F32, &b->call.aux[0])) return false;
        b_set(b, C_gain, 1);
    } else {
        b_set(b, C_gain, 0);
    }
    if (n) b_set(b, C_eps, op_float(n, A_EPS));
    b_set(b, C_fmt, (double)fmt);
    b_set(b, C_K, (double)b_cols(b, x));
    b->call.flops = (u64)b_cols(b, x) * 4;
    if (!b_place(b, x, &b->call.in[0])) return false;
    b_try_private(b);
    if (q)
        return b_place(b, q->out, &b->call.out[0]) && b_place(b, s->out, &b->call.out[1]) &&
               b_add_call(b);
    return b_place(b, b_output(b), &b->call.out[0]) && b_add_call(b);
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
        if (op->kind != OP_RESHAPE && op->kind != OP_ROPE && op->kind != OP_RMSNORM) break;
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

static bool kv_dtype(Bind *b, ValueId state)
{
    DType dt = type_of(b->m, state)->dt;
    b_set(b, C_kv_f16, dt == DT_F16);
    return dt == DT_F16 || dt == DT_F32 ||
           b_refuse(b, "no kernel keeps the KV cache in %s", dtype_info[dt].name);
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
    u32 ropes = 0, norms = 0;
    for (u32 i = 0; i < b->n_ops; i++) {
        const Op *op = op_at(b->m, b->ops[i]);
        const bool is_q = sliced_from(b, op->out) == 0;
        if (op->kind == OP_ROPE && (ropes++, !rope_consts(b, op))) return false;
        if (op->kind == OP_RMSNORM && (norms++, !head_norm_consts(b, op, is_q ? 2 : 3)))
            return false;
    }
    if (ropes % 2 || norms % 2 || ropes > 2 || norms > 2)
        return b_refuse(b, "q and k are not treated alike");
    ValueId q = b_output(b);
    if (sliced_from(b, q) != 0) return b_refuse(b, "its result is not q");
    return kv_dtype(b, kv->in[3]) && b_place(b, q, &b->call.out[0]) &&
           b_place(b, kv->in[3], &b->call.out[1]) && b_place(b, kv->in[4], &b->call.out[2]);
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
        fmt = x == DT_S8 && !grouped ? cg_format("s8")
              : x == DT_S16          ? cg_format(grouped ? "s16g32" : "s16")
                                     : -1;
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
           (!q || b_place(b, l->in[1], &b->call.in[1]));
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

static bool bind_attend(Bind *b)
{
    const Op *at = b_find(b, OP_ATTEND);
    if (!at) return b_refuse(b, "has no attend");
    const Type *q = type_of(b->m, at->in[0]), *k = type_of(b->m, at->in[2]);
    b_set(b, C_heads, (double)q->dim[1]);
    b_set(b, C_kv_heads, (double)k->dim[0]);
    b_set(b, C_head_dim, (double)q->dim[2]);
    b_set(b, C_window, (double)op_int(at, A_WINDOW));
    b_set(b, C_scale, op_float(at, A_SCALE));
    b->call.flops = 4 * (u64)(q->dim[1] * q->dim[2]);
    return kv_dtype(b, at->in[2]) && b_place(b, at->in[0], &b->call.in[0]) &&
           b_place(b, at->in[2], &b->call.in[1]) && b_place(b, at->in[3], &b->call.in[2]) &&
           b_place(b, b_output(b), &b->call.out[0]) && b_add_call(b);
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
    default: ok = ok && b_place(b, y, &b->call.in[1]);
    }
    return ok && b_place(b, b_output(b), &b->call.out[0]) && b_add_call(b);
}

static bool bind_hadamard(Bind *b)
{
    const Op *h = b_find(b, OP_HADAMARD);
    if (!h) return b_refuse(b, "has no hadamard");
    const Type *t = type_of(b->m, h->in[0]);
    i64 group = op_int(h, A_GROUP), n = group ? group : type_cols(t);
    b_set(b, C_K, (double)type_cols(t) * (t->rank == 3 ? (double)t->dim[1] : 1));
    b_set(b, C_N, (double)n);
    b_set(b, C_base, (double)hadamard_base_order(n));
    b_set(b, C_scale, 1 / sqrt((double)n));
    if (hadamard_base_order(n) > 1 && !b_packed(b)) return false;
    return b_place(b, h->in[0], &b->call.in[0]) && b_place(b, b_output(b), &b->call.out[0]) &&
           b_add_call(b);
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
    switch (b->row) {
    case ROW_EMBED_F32:
    case ROW_EMBED_S8:
    case ROW_EMBED_U4G32: return bind_embed(b);
    case ROW_NORM:
    case ROW_QUANT: return bind_norm(b);
    case ROW_LINEAR_F32:
    case ROW_LINEAR_S8:
    case ROW_LINEAR_U4G32: return bind_linear(b);
    case ROW_HEADS: return bind_heads(b);
    case ROW_ATTEND: return bind_attend(b);
    case ROW_ROWS: return bind_rows(b);
    case ROW_HADAMARD: return bind_hadamard(b);
    default: return bind_elem(b);
    }
}
