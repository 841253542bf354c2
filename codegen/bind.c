/* Steps -> kernel calls: reads the ops of each step, finds constants and operands for the kernel
 * that the step names, and places barriers. One function per family of kernels; the slots they fill
 * are in the templates' contracts. */
#include "codegen/plan.h"

#include "ir/eval.h"
#include "ir/hadamard.h"
#include "ir/pack.h"
#include "ir/text.h"
#include <math.h>
#include <stdio.h>

/* A block of every thread's private memory, held from its definition to its last use. */
typedef struct Private {
    ValueId v;
    u64 off, bytes;
    u32 last_step;
} Private;

typedef struct Bind {
    Diag *d;
    Arena *a;
    Module *m;
    CgPlan *p;
    CgPhase *phase;
    Fn *fn;
    u32 step; /* current, from 1 */
    const Step *st;
    const OpId *ops; /* of the step */
    u32 n_ops;
    const char *variant; /* what follows the row's name in st->kernel */
    CgRowId row;
    CgCall call;             /* being filled */
    double val[CG_N_CONSTS]; /* its constants */
    i64 chunk, rows;
    VEC(Private) priv;
    u64 priv_bytes;
    Map kernel_map, section_map;
} Bind;

static bool refuse(Bind *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool refuse(Bind *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    const char *why = arena_vprintf(b->a, fmt, ap);
    va_end(ap);
    diag_error(b->d, E_KERNEL, LOC_NONE, "step %u (%s) of @%s: %s", b->step,
               ir_cstr(b->m, b->st->kernel), b->phase->name, why);
    for (u32 i = 0; i < b->n_ops && i < 6; i++)
        diag_note(b->d, "%s", ir_op_text(b->m, op_at(b->m, b->ops[i])));
    return false;
}

/* ---- the ops of the step ---- */

static const Op *find(const Bind *b, OpKind kind)
{
    for (u32 i = 0; i < b->n_ops; i++)
        if (op_at(b->m, b->ops[i])->kind == kind) return op_at(b->m, b->ops[i]);
    return NULL;
}

static const Op *find2(const Bind *b, OpKind k1, OpKind k2)
{
    const Op *op = find(b, k1);
    return op ? op : find(b, k2);
}

static bool in_step(const Bind *b, ValueId v)
{
    const Op *op = def_of(b->m, v);
    return op->kind != OP_NONE && op->fn == b->phase->fn && op->step == b->step;
}

/* Where a value has its bytes, -1 if nowhere of its own. */
static i64 place_of(const Bind *b, ValueId v)
{
    const Op *op = def_of(b->m, v);
    const Attr *at = op->kind ? op_attr(op, A_AT) : NULL;
    u32 k = v - op->out;
    return at && k < at->n ? at->ints[k] : -1;
}

static bool is_result(const Bind *b, ValueId v)
{
    for (u32 i = 0; i < b->fn->results.n; i++)
        if (b->fn->results.at[i] == v) return true;
    return false;
}

/* The step's last value that is seen outside it. */
static ValueId output(const Bind *b)
{
    for (u32 i = b->n_ops; i-- > 0;) {
        const Op *op = op_at(b->m, b->ops[i]);
        for (u32 k = 0; k < op_info[op->kind].nout; k++)
            if (place_of(b, op->out + k) >= 0 || is_result(b, op->out + k)) return op->out + k;
    }
    return 0;
}

static i64 cols(const Bind *b, ValueId v)
{
    return type_cols(type_of(b->m, v));
}

/* ---- places ---- */

/* Bytes of a row of integers with the format of a quantised activation (ARCHITECTURE.md). */
static u64 quant_row_bytes(const Bind *b, ValueId v)
{
    const Op *q = def_of(b->m, v);
    u64 k = (u64)cols(b, v);
    if (type_of(b->m, v)->dt == DT_S16)
        return q->kind && op_int(q, A_GROUP) ? (k + 31) / 32 * 64 : (k + 63) / 64 * 128;
    return (k + 63) / 64 * 64;
}

static u64 value_bytes(const Bind *b, ValueId v)
{
    const Type *t = type_of(b->m, v);
    u64 n = 1;
    for (u32 i = 0; i + 1 < t->rank; i++)
        n *= (u64)(t->dim[i] == DIM_T   ? b->chunk
                   : t->dim[i] == DIM_R ? b->rows
                   : t->dim[i] < 0      ? 0
                                        : t->dim[i]);
    return dtype_info[t->dt].is_float ? n * (u64)cols(b, v) * 4 : n * quant_row_bytes(b, v);
}

static bool is_kv(const Bind *b, ValueId v)
{
    const Type *t = type_of(b->m, v);
    return t->rank == 3 && t->dim[1] == DIM_C;
}

static bool place(Bind *b, ValueId v, CgRef *r)
{
    if (!v) return refuse(b, "an operand is missing");
    const Op *op = def_of(b->m, v);
    if (op->kind == OP_NONE) {
        if (value_at(b->m, v)->index != 0)
            return refuse(b, "reads parameter %u in a way no kernel does",
                          value_at(b->m, v)->index);
        *r = (CgRef){.place = CG_TOKENS};
        return true;
    }
    for (u32 i = 0; i < b->priv.n; i++) {
        if (b->priv.at[i].v != v) continue;
        *r = (CgRef){.place = CG_PRIVATE, .off = b->priv.at[i].off, .bytes = b->priv.at[i].bytes};
        return true;
    }
    i64 at = place_of(b, v);
    if (op->kind == OP_STATE && is_kv(b, v)) {
        const Type *t = type_of(b->m, v);
        if (at < 0) return refuse(b, "a state has no place");
        *r = (CgRef){.place = CG_KV,
                     .off = (u64)at,
                     .bytes = (u64)(t->dim[0] * t->dim[2]) * dtype_info[t->dt].bits / 8};
        return r->off + r->bytes <= b->p->kv_row_bytes ||
               refuse(b, "a state lies outside the KV cache");
    }
    if (at < 0 && is_result(b, v)) {
        *r = (CgRef){.place = CG_LOGITS};
        return true;
    }
    if (op->kind == OP_RESHAPE && !is_const(b->m, v))
        return place(b, op->in[0], r); /* moves nothing */
    if (at < 0) return refuse(b, "a value that it needs has no place");
    *r = (CgRef){.place = CG_ACT, .off = (u64)at, .bytes = value_bytes(b, v)};
    return r->off + r->bytes <= b->p->act_bytes ||
           refuse(b, "a value lies outside the activation arena");
}

/* ---- constants and sections ---- */

static void set(Bind *b, CgConstId c, double v)
{
    b->val[c] = v;
}

static CgRef section(Bind *b, ValueId v, CgSectionKind kind)
{
    char key[32];
    int n = snprintf(key, sizeof key, "%u/%d", v, (int)kind);
    bool added;
    u32 *slot = map_put(&b->section_map, (Str){key, (size_t)n}, &added);
    if (added) {
        *slot = b->p->sections.n;
        const CgSection s = {v, kind, ir_cstr(b->m, value_at(b->m, v)->name), 0};
        vec_push(b->a, &b->p->sections, s);
    }
    return (CgRef){.place = CG_WEIGHT, .section = *slot};
}

static u64 section_bytes(const Bind *b, const CgSection *s)
{
    u64 n = (u64)type_elems(type_of(b->m, s->value));
    if (s->kind == CG_SEC_PACK) return n;
    if (s->kind == CG_SEC_F32) return 4 * n;
    return 4 * 2 * ((n / 2 + 15) / 16 * 16);
}

static bool small_const(Bind *b, ValueId v, CgSectionKind kind, CgRef *r)
{
    if (!is_const(b->m, v)) return refuse(b, "an operand must be constant");
    if (!dtype_info[type_of(b->m, v)->dt].is_float)
        return refuse(b, "a constant operand must be a float");
    *r = section(b, v, kind);
    return true;
}

static bool packed(Bind *b)
{
    ValueId w = b->st->weights;
    if (!w || def_of(b->m, w)->kind != OP_PACK) return refuse(b, "has no packed weights");
    b->call.w = section(b, w, CG_SEC_PACK);
    return true;
}

/* ---- kernels ---- */

static const char *kernel_name(Bind *b)
{
    StrBuf s = {.a = b->a};
    for (const char *p = ir_cstr(b->m, b->st->kernel); *p; p++)
        sb_ch(&s, (*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9') ? *p : '_');
    if (b->val[C_N] > 0)
        sb_printf(&s, "_%.0fx%.0f", b->val[C_N], b->val[C_K]);
    else if (b->val[C_K] > 0)
        sb_printf(&s, "_%.0f", b->val[C_K]);
    else if (b->val[C_heads] > 0)
        sb_printf(&s, "_%.0fx%.0f", b->val[C_heads], b->val[C_head_dim]);
    for (u32 n = 2;; n++) { /* same shape, other constants: number them */
        bool taken = false;
        for (u32 i = 0; i < b->p->kernels.n; i++)
            taken = taken || strcmp(b->p->kernels.at[i].name, s.p) == 0;
        if (!taken) return s.p;
        if (n > 2) s.n = (size_t)(strrchr(s.p, '_') - s.p);
        sb_printf(&s, "_%u", n);
    }
}

static bool depends(const CgRef *x, const CgRef *y)
{
    if (x->place != y->place || x->place == CG_NONE || x->place == CG_PRIVATE ||
        x->place == CG_WEIGHT)
        return false;
    if (x->place != CG_ACT && x->place != CG_KV) return true;
    return x->off < y->off + y->bytes && y->off < x->off + x->bytes;
}

/* Calls since the last barrier that touch what this one writes, or write what it touches. */
static bool needs_barrier(const CgPhase *ph, const CgCall *c)
{
    for (u32 i = ph->calls.n; i-- > 0;) {
        const CgCall *e = &ph->calls.at[i];
        for (u32 o = 0; o < CG_OUT; o++) {
            for (u32 k = 0; k < CG_IN; k++)
                if (depends(&e->out[o], &c->in[k]) || depends(&c->out[o], &e->in[k])) return true;
            for (u32 k = 0; k < CG_OUT; k++)
                if (depends(&e->out[o], &c->out[k])) return true;
        }
        if (e->barrier) break;
    }
    return false;
}

/* Finishes the call: finds or makes its kernel, notes what it reads, places the barrier. */
static bool add_call(Bind *b)
{
    const u64 uses = cg_template_uses(cg_rows[b->row].template);
    CgKernel k = {.row = b->row, .uses = uses};
    StrBuf key = {.a = b->a};
    sb_printf(&key, "%u", (u32)b->row);
    for (u32 i = 0; i < CG_N_CONSTS; i++) {
        if (!(uses >> i & 1)) continue;
        k.val[i] = b->val[i];
        if (!cg_const_info[i].is_float && (k.val[i] < INT32_MIN || k.val[i] > INT32_MAX))
            return refuse(b, "constant %s does not fit 32 bits", cg_const_info[i].name);
        sb_ch(&key, ' ');
        sb_f64(&key, k.val[i]);
    }
    bool added;
    u32 *slot = map_put(&b->kernel_map, (Str){key.p, key.n}, &added);
    if (added) {
        *slot = b->p->kernels.n;
        k.name = kernel_name(b);
        vec_push(b->a, &b->p->kernels, k);
        i64 scratch = cg_rows[b->row].scratch((i64)b->val[C_K], (i64)b->val[C_head_dim]);
        u64 bytes = ((u64)(scratch < 0 ? 0 : scratch) + 63) / 64 * 64;
        if (bytes > b->p->kernel_scratch) b->p->kernel_scratch = bytes;
    }
    b->p->kernels.at[*slot].calls++;
    b->call.kernel = *slot;
    b->call.step = b->step;
    b->call.layer = op_at(b->m, b->ops[0])->layer;
    b->call.barrier = needs_barrier(b->phase, &b->call);
    b->phase->barriers += b->call.barrier;
    vec_push(b->a, &b->phase->calls, b->call);
    b->call = (CgCall){0};
    return true;
}

/* ---- private results ---- */

static u32 last_use(const Bind *b, ValueId v)
{
    u32 last = b->step;
    for (u32 i = 0; i < b->fn->body.n; i++) {
        const Op *op = op_at(b->m, b->fn->body.at[i]);
        for (u32 k = 0; k < op->nin; k++) {
            if (op->in[k] != v) continue;
            if (op->step > last) last = op->step;
            if (op->kind == OP_RESHAPE || op->kind == OP_STORE)
                return 0; /* seen under another name */
        }
    }
    return is_result(b, v) ? 0 : last;
}

/* With one row, a norm or quantiser costs less than a barrier: every thread computes it into its
 * own memory. */
static bool make_private(Bind *b, ValueId v)
{
    if (place_of(b, v) < 0) return true; /* not seen outside */
    const u32 last = last_use(b, v);
    if (!last) return false;
    u64 bytes = (value_bytes(b, v) + 63) / 64 * 64, off = 0;
    for (bool moved = true; moved;) {
        moved = false;
        for (u32 i = 0; i < b->priv.n; i++) {
            const Private *q = &b->priv.at[i];
            if (q->last_step < b->step || off + bytes <= q->off || q->off + q->bytes <= off)
                continue;
            off = q->off + q->bytes;
            moved = true;
        }
    }
    const Private p = {v, off, bytes, last};
    vec_push(b->a, &b->priv, p);
    if (off + bytes > b->priv_bytes) b->priv_bytes = off + bytes;
    return true;
}

static void try_private(Bind *b)
{
    if (b->phase != &b->p->phase[CG_DECODE]) return;
    const u32 before = b->priv.n;
    bool ok = true;
    for (u32 i = 0; i < b->n_ops; i++) {
        const Op *op = op_at(b->m, b->ops[i]);
        for (u32 k = 0; k < op_info[op->kind].nout; k++)
            ok = ok && make_private(b, op->out + k);
    }
    if (!ok) b->priv.n = before;
    b->call.each = ok && b->priv.n > before;
}

/* ---- families ---- */

static bool bind_embed(Bind *b)
{
    const Op *e = find(b, OP_EMBEDDING);
    if (!e) return refuse(b, "has no embedding");
    const Type *w = type_of(b->m, e->in[1]);
    set(b, C_N, (double)w->dim[0]);
    set(b, C_K, (double)w->dim[1]);
    return place(b, e->in[0], &b->call.in[0]) && packed(b) &&
           place(b, output(b), &b->call.out[0]) && add_call(b);
}

/* norm.XF, quant.XF: the outputs are one f32 value, or integers and scales. */
static bool bind_norm(Bind *b)
{
    const Op *n = find(b, OP_RMSNORM), *s = find(b, OP_QPARAMS), *q = find(b, OP_QUANTIZE);
    i64 fmt = cg_format(b->variant);
    if (fmt < 0) return refuse(b, "format '%s' is unknown", b->variant);
    if (b->row == ROW_NORM ? !n : !q) return refuse(b, "lacks the op that it is named after");
    if ((fmt != 0) != (q && s)) return refuse(b, "quantises to another format");
    const ValueId x = n ? n->in[0] : s->in[0];
    if (n && n->nin > 1 && n->in[1]) {
        if (!small_const(b, n->in[1], CG_SEC_F32, &b->call.aux[0])) return false;
        set(b, C_gain, 1);
    } else {
        set(b, C_gain, 0);
    }
    if (n) set(b, C_eps, op_float(n, A_EPS));
    set(b, C_fmt, (double)fmt);
    set(b, C_K, (double)cols(b, x));
    b->call.flops = (u64)cols(b, x) * 4;
    if (!place(b, x, &b->call.in[0])) return false;
    try_private(b);
    if (q)
        return place(b, q->out, &b->call.out[0]) && place(b, s->out, &b->call.out[1]) &&
               add_call(b);
    return place(b, output(b), &b->call.out[0]) && add_call(b);
}

static bool act_kind(Bind *b, const Op *op)
{
    i64 act =
        op->kind == OP_SILU
            ? cg_activation("silu")
            : cg_activation(strcmp(op_str(b->m, op, A_MODE), "tanh") == 0 ? "gelu_tanh" : "gelu");
    set(b, C_act, (double)act);
    return act >= 0 || refuse(b, "no kernel computes this activation function");
}

/* First row of the linear's result that v was sliced from, following the step's ops backwards; -1
 * if none. */
static i64 sliced_from(const Bind *b, ValueId v)
{
    while (in_step(b, v)) {
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
    if (!small_const(b, rope->in[2], CG_SEC_F32, &f)) return false;
    const double n = 2.0 * (double)cols(b, rope->in[2]), scale = op_float(rope, A_MSCALE);
    const bool again = b->call.aux[1].place != CG_NONE;
    if (again && (b->call.aux[1].section != f.section || b->val[C_rope_scale] < scale ||
                  b->val[C_rope_scale] > scale))
        return refuse(b, "q and k are turned differently");
    b->call.aux[1] = f;
    set(b, C_rot, n);
    set(b, C_rope_scale, scale);
    return true;
}

static bool head_norm_consts(Bind *b, const Op *norm, u32 slot)
{
    const double eps = op_float(norm, A_EPS);
    if (norm->nin < 2 || !norm->in[1]) return refuse(b, "a head's norm has no gain");
    if (b->val[C_qk_norm] > 0 && (b->val[C_eps] < eps || b->val[C_eps] > eps))
        return refuse(b, "q and k have norms with different eps");
    set(b, C_qk_norm, 1);
    set(b, C_eps, eps);
    return small_const(b, norm->in[1], CG_SEC_F32, &b->call.aux[slot]);
}

static bool kv_dtype(Bind *b, ValueId state)
{
    DType dt = type_of(b->m, state)->dt;
    set(b, C_kv_f16, dt == DT_F16);
    return dt == DT_F16 || dt == DT_F32 ||
           refuse(b, "no kernel keeps the KV cache in %s", dtype_info[dt].name);
}

static bool bind_qkv(Bind *b)
{
    const Op *kv = find(b, OP_KV_APPEND);
    if (!kv) return refuse(b, "has no kv_append");
    const Type *ks = type_of(b->m, kv->in[3]);
    const i64 d = ks->dim[2], g = ks->dim[0], heads = ((i64)b->val[C_N] - 2 * g * d) / d;
    if (heads < 1 || (heads + 2 * g) * d != (i64)b->val[C_N])
        return refuse(b, "the weight's rows are not heads of q, k and v");
    if (sliced_from(b, kv->in[0]) != heads * d || sliced_from(b, kv->in[1]) != (heads + g) * d)
        return refuse(b, "q, k and v are not in this order");
    set(b, C_heads, (double)heads);
    set(b, C_kv_heads, (double)g);
    set(b, C_head_dim, (double)d);
    u32 ropes = 0, norms = 0;
    for (u32 i = 0; i < b->n_ops; i++) {
        const Op *op = op_at(b->m, b->ops[i]);
        const bool is_q = sliced_from(b, op->out) == 0;
        if (op->kind == OP_ROPE && (ropes++, !rope_consts(b, op))) return false;
        if (op->kind == OP_RMSNORM && (norms++, !head_norm_consts(b, op, is_q ? 2 : 3)))
            return false;
    }
    if (ropes % 2 || norms % 2 || ropes > 2 || norms > 2)
        return refuse(b, "q and k are not treated alike");
    ValueId q = output(b);
    if (sliced_from(b, q) != 0) return refuse(b, "its result is not q");
    return kv_dtype(b, kv->in[3]) && place(b, q, &b->call.out[0]) &&
           place(b, kv->in[3], &b->call.out[1]) && place(b, kv->in[4], &b->call.out[2]);
}

/* Everything before the epilogue: input, weights, bias. *y is the product. */
static bool linear_base(Bind *b, ValueId *y)
{
    const Op *l = find2(b, OP_QLINEAR, OP_LINEAR);
    if (!l) return refuse(b, "has no linear");
    const bool q = l->kind == OP_QLINEAR;
    const Type *w = type_of(b->m, l->in[q ? 2 : 1]);
    set(b, C_N, (double)w->dim[0]);
    set(b, C_K, (double)w->dim[1]);
    i64 fmt = 0;
    if (q) {
        const bool grouped = op_int(l, A_GROUP) != 0;
        const DType x = type_of(b->m, l->in[0])->dt;
        fmt = x == DT_S8 && !grouped ? cg_format("s8")
              : x == DT_S16          ? cg_format(grouped ? "s16g32" : "s16")
                                     : -1;
    }
    if (fmt < 0) return refuse(b, "no kernel reads activations in this format");
    set(b, C_fmt, (double)fmt);
    b->call.flops = 2 * (u64)w->dim[0] * (u64)w->dim[1];
    const ValueId bias = op_in(l, q ? 5 : 2);
    const bool tiles2 = strcmp(b->variant, "swiglu") == 0;
    set(b, C_bias, bias != 0);
    if (bias && !small_const(b, bias, tiles2 ? CG_SEC_TILES2 : CG_SEC_F32, &b->call.aux[0]))
        return false;
    *y = l->out;
    return packed(b) && place(b, l->in[0], &b->call.in[0]) &&
           (!q || place(b, l->in[1], &b->call.in[1]));
}

static bool bind_linear(Bind *b)
{
    ValueId y = 0;
    i64 epi = cg_epilogue(*b->variant ? b->variant : "none");
    if (epi < 0) return refuse(b, "epilogue '%s' is unknown", b->variant);
    set(b, C_epi, (double)epi);
    if (!linear_base(b, &y)) return false;
    if (strcmp(b->variant, "qkv") == 0) return bind_qkv(b) && add_call(b);
    if (strcmp(b->variant, "residual") == 0) {
        const Op *add = find(b, OP_ADD);
        if (!add || (add->in[0] != y && add->in[1] != y))
            return refuse(b, "does not add its product");
        if (!place(b, add->in[add->in[0] == y], &b->call.in[2])) return false;
    } else if (strcmp(b->variant, "swiglu") == 0) {
        const Op *act = find2(b, OP_SILU, OP_GELU);
        if (!act || !find(b, OP_MUL)) return refuse(b, "has no gated activation");
        if (sliced_from(b, act->in[0]) != 0)
            return refuse(b, "the gate is not the weight's first half");
        if (!act_kind(b, act)) return false;
    }
    return place(b, output(b), &b->call.out[0]) && add_call(b);
}

static bool bind_attend(Bind *b)
{
    const Op *at = find(b, OP_ATTEND);
    if (!at) return refuse(b, "has no attend");
    const Type *q = type_of(b->m, at->in[0]), *k = type_of(b->m, at->in[2]);
    set(b, C_heads, (double)q->dim[1]);
    set(b, C_kv_heads, (double)k->dim[0]);
    set(b, C_head_dim, (double)q->dim[2]);
    set(b, C_window, (double)op_int(at, A_WINDOW));
    set(b, C_scale, op_float(at, A_SCALE));
    b->call.flops = 4 * (u64)(q->dim[1] * q->dim[2]);
    return kv_dtype(b, at->in[2]) && place(b, at->in[0], &b->call.in[0]) &&
           place(b, at->in[2], &b->call.in[1]) && place(b, at->in[3], &b->call.in[2]) &&
           place(b, output(b), &b->call.out[0]) && add_call(b);
}

static bool head_shape(Bind *b, ValueId x)
{
    const Type *t = type_of(b->m, x);
    if (t->rank != 3) return refuse(b, "works on heads, found %s", ir_type_text(b->m, t));
    set(b, C_heads, (double)t->dim[1]);
    set(b, C_head_dim, (double)t->dim[2]);
    return true;
}

static bool bind_heads(Bind *b)
{
    const Op *norm = find(b, OP_RMSNORM), *rope = find(b, OP_ROPE), *first = norm ? norm : rope;
    if (!first || !head_shape(b, first->in[0]))
        return first ? false : refuse(b, "has neither rope nor rmsnorm");
    if (norm && !head_norm_consts(b, norm, 2)) return false;
    if (rope && !rope_consts(b, rope)) return false;
    return place(b, first->in[0], &b->call.in[0]) && place(b, output(b), &b->call.out[0]) &&
           add_call(b);
}

/* kv_append on its own: two calls of `heads`, for k and for v. */
static bool bind_kv_append(Bind *b)
{
    const Op *kv = find(b, OP_KV_APPEND);
    b->row = ROW_HEADS;
    for (u32 i = 0; i < 2; i++) {
        set(b, C_cache, 1);
        if (!head_shape(b, kv->in[i]) || !kv_dtype(b, kv->in[3 + i]) ||
            !place(b, kv->in[i], &b->call.in[0]) || !place(b, kv->in[3 + i], &b->call.out[0]) ||
            !add_call(b))
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
    const Op *mul = find(b, OP_MUL), *op = find2(b, OP_ADD, OP_MUL),
             *act = find2(b, OP_SILU, OP_GELU);
    ValueId x = 0, y = 0;
    if (act) {
        x = act->in[0];
        if (!act_kind(b, act)) return false;
        if (b->row == ROW_GLU) y = mul ? mul->in[mul->in[0] == act->out] : 0;
    } else if (op) {
        x = op->in[0];
        y = op->in[1];
    }
    if (!x || (b->row != ROW_ACT && !y)) return refuse(b, "lacks the ops that it is named after");
    const Type *t = type_of(b->m, x);
    set(b, C_K, (double)cols(b, x) * (t->rank == 3 ? (double)t->dim[1] : 1));
    b->call.flops = (u64)b->val[C_K];
    bool ok = place(b, x, &b->call.in[0]);
    double scale = 1;
    switch (b->row) {
    case ROW_ACT: break;
    case ROW_SCALE:
        ok = ok && const_value(b, y, &scale);
        set(b, C_scale, scale);
        break;
    case ROW_MUL_ROW:
    case ROW_ADD_ROW: ok = ok && small_const(b, y, CG_SEC_F32, &b->call.aux[0]); break;
    default: ok = ok && place(b, y, &b->call.in[1]);
    }
    return ok && place(b, output(b), &b->call.out[0]) && add_call(b);
}

static bool bind_hadamard(Bind *b)
{
    const Op *h = find(b, OP_HADAMARD);
    if (!h) return refuse(b, "has no hadamard");
    const Type *t = type_of(b->m, h->in[0]);
    i64 group = op_int(h, A_GROUP), n = group ? group : type_cols(t);
    set(b, C_K, (double)type_cols(t) * (t->rank == 3 ? (double)t->dim[1] : 1));
    set(b, C_N, (double)n);
    set(b, C_base, (double)hadamard_base_order(n));
    set(b, C_scale, 1 / sqrt((double)n));
    if (hadamard_base_order(n) > 1 && !packed(b)) return false;
    return place(b, h->in[0], &b->call.in[0]) && place(b, output(b), &b->call.out[0]) &&
           add_call(b);
}

static bool bind_rows(Bind *b)
{
    const Op *r = find(b, OP_ROWS);
    if (!r) return refuse(b, "has no rows");
    const Type *t = type_of(b->m, r->in[0]);
    set(b, C_K, (double)t->dim[1]);
    set(b, C_rows, (double)(t->dim[0] < 0 ? b->chunk : t->dim[0]));
    return place(b, r->in[0], &b->call.in[0]) && place(b, r->in[1], &b->call.in[1]) &&
           place(b, output(b), &b->call.out[0]) && add_call(b);
}

/* store on its own: a copy, which is a scale by 1; nothing at all when the value was computed in
 * place. */
static bool bind_store(Bind *b)
{
    const Op *s = find(b, OP_STORE);
    b->row = ROW_SCALE;
    set(b, C_K, (double)cols(b, s->in[0]));
    set(b, C_scale, 1);
    if (!place(b, s->in[0], &b->call.in[0]) || !place(b, s->in[1], &b->call.out[0])) return false;
    if (b->call.in[0].place == b->call.out[0].place && b->call.in[0].off == b->call.out[0].off) {
        b->call = (CgCall){0};
        return true;
    }
    return add_call(b);
}

static bool bind_step(Bind *b)
{
    const char *name = ir_cstr(b->m, b->st->kernel);
    b->call = (CgCall){0};
    for (u32 i = 0; i < CG_N_CONSTS; i++)
        b->val[i] = cg_const_info[i].def;
    b->variant = "";
    if (strcmp(name, "kv_append") == 0 && find(b, OP_KV_APPEND)) return bind_kv_append(b);
    if (strcmp(name, "store") == 0 && find(b, OP_STORE)) return bind_store(b);
    if (strcmp(name, "reshape") == 0) return true;
    if (!cg_row(name, &b->row, &b->variant)) return refuse(b, "there is no kernel of this name");
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

/* ---- the whole module ---- */

static bool bind_fn(Bind *b)
{
    for (u32 i = 0; i < b->fn->body.n;) {
        const u32 step = op_at(b->m, b->fn->body.at[i])->step;
        u32 n = 1;
        while (i + n < b->fn->body.n && op_at(b->m, b->fn->body.at[i + n])->step == step)
            n++;
        if (step == 0 || step > b->fn->steps.n)
            return diag_error(
                b->d, E_KERNEL, LOC_NONE,
                "@%s is not in steps; the passes fuse, layout and memory must run first",
                b->phase->name);
        b->step = step;
        b->st = &b->fn->steps.at[step - 1];
        b->ops = &b->fn->body.at[i];
        b->n_ops = n;
        if (!bind_step(b)) return false;
        i += n;
    }
    return true;
}

/* An embedding reads one row of its weights per token, everything else all of them. */
static void count_weight_reads(CgPlan *p, const CgPhase *ph)
{
    for (u32 i = 0; i < ph->calls.n; i++) {
        CgCall *c = &ph->calls.at[i];
        const CgKernel *k = &p->kernels.at[c->kernel];
        const bool embed =
            k->row == ROW_EMBED_F32 || k->row == ROW_EMBED_S8 || k->row == ROW_EMBED_U4G32;
        for (u32 s = 0; s <= CG_AUX; s++) {
            const CgRef *r = s < CG_AUX ? &c->aux[s] : &c->w;
            if (r->place != CG_WEIGHT) continue;
            const u64 bytes = p->image[r->section].bytes / (embed ? (u64)k->val[C_N] : 1);
            if (s == CG_AUX) c->weight_bytes = bytes;
            /* A section that several calls of a token read comes from memory once. */
            u64 *read = &p->sections.at[r->section].read_per_token;
            if (ph == &p->phase[CG_DECODE] && *read < bytes) *read = bytes;
        }
    }
}

static bool lay_out_image(Bind *b)
{
    CgPlan *p = b->p;
    p->image = NEWN(b->a, PfqImageSection, p->sections.n + 1);
    for (u32 i = 0; i < p->sections.n; i++) {
        const CgSection *s = &p->sections.at[i];
        size_t n = strlen(s->name), cap = sizeof p->image[i].name - 1;
        memcpy(p->image[i].name, s->name, n < cap ? n : cap);
        p->image[i].bytes = section_bytes(b, s);
    }
    return pfq_image_layout(p->image, p->sections.n, &p->data_offset, &p->data_bytes,
                            &p->total_bytes) ||
           diag_error(b->d, E_LIMIT, LOC_WHAT("weights"), "the weight image is too large");
}

bool cg_plan(Diag *d, Arena *a, Module *m, CgPlan *out)
{
    static const char *const names[CG_N_PHASES] = {"prefill", "logits", "decode"};
    *out = (CgPlan){.m = m, .a = a, .kv_row_bytes = (u64)ir_meta_get_int(m, "kv_row_bytes", 0)};
    Bind b = {.d = d,
              .a = a,
              .m = m,
              .p = out,
              .chunk = ir_meta_get_int(m, "chunk", 0),
              .rows = ir_meta_get_int(m, "rows", 0)};
    b.kernel_map.a = b.section_map.a = a;
    for (u32 i = 0; i < CG_N_PHASES; i++) {
        Fn *fn = ir_fn(m, names[i]);
        if (!fn)
            return diag_error(d, E_KERNEL, LOC_NONE,
                              "the module has no @%s; the pass phases must run first", names[i]);
        out->phase[i] = (CgPhase){.name = names[i], .fn = (u32)(fn - m->fns.at)};
        if (fn->act_bytes > out->act_bytes) out->act_bytes = fn->act_bytes;
    }
    if (b.chunk < 1 || b.rows < 1)
        return diag_error(d, E_KERNEL, LOC_NONE, "the module does not say its chunk and rows");
    /* Decode first: sections are numbered, and so stored, in the order in which it streams them. */
    static const u32 order[CG_N_PHASES] = {CG_DECODE, CG_PREFILL, CG_LOGITS_PHASE};
    bool ok = true;
    for (u32 i = 0; i < CG_N_PHASES; i++) {
        b.phase = &out->phase[order[i]];
        b.fn = &m->fns.at[b.phase->fn];
        b.priv.n = 0;
        ok = bind_fn(&b) && ok;
    }
    if (!ok || !lay_out_image(&b)) return false;
    out->scratch_bytes = out->kernel_scratch + b.priv_bytes;
    for (u32 i = 0; i < CG_N_PHASES; i++)
        count_weight_reads(out, &out->phase[i]);
    for (u32 i = 0; i < out->sections.n; i++)
        out->weight_bytes_per_token += out->sections.at[i].read_per_token;
    return true;
}
