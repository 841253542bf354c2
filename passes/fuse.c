/* fuse: groups the ops of each function into steps, the runs of ops that one kernel computes.
 *
 * Patterns are data: a list of nodes, each an op whose operands are other nodes or anything. The
 * first node is the anchor; each later node is looked for among the users of its first operand that
 * is a node. Patterns are tried in the table's order on every op that has no step yet; ops that no
 * pattern takes become steps of their own. Values of a match that are used outside it must be
 * those its kernel writes (OUT), and no input of it may depend on an output (`convex`). Then steps
 * are put in an order that respects operands and the order of stateful ops, as near as possible to
 * the order that the ops had.
 */
#include "passes/pass.h"

#include "ir/pack.h"

enum { NODES_MAX = 19, OPERANDS = 8 };
enum { OPTIONAL = 1, OUT = 2, COMMUTES = 4, OR_CONST = 8 };

/* Kinds that stand for several. */
enum { K_LINEAR = OP_COUNT + 1, K_ACT, K_QPARAMS };

typedef struct Node {
    u32 kind;        /* 0: past the last node */
    u8 in[OPERANDS]; /* 1 + node whose result is the operand; 0: any value */
    /* An absent OPTIONAL node stands for its first operand; with OR_CONST, for a constant or no
     * operand at all. */
    u32 flags;
} Node;

typedef struct Match {
    OpId op[NODES_MAX]; /* 0: an optional node that is absent */
    u32 n;
} Match;

typedef struct Fuse {
    PassCx *cx;
    Module *m;
    u32 fn;
    Uses uses;
    u32 *group;        /* [ops] group number, 0 none yet */
    u32 *position;     /* [ops] index in the body */
    VEC(StrId) kernel; /* of group i + 1 */
} Fuse;

typedef bool CheckFn(const Fuse *f, const Match *k);
typedef const char *NameFn(Fuse *f, const Match *k, const char *text);

typedef struct Pattern {
    NameFn *name;     /* of its kernel; NULL refuses the match */
    const char *text; /* for name */
    CheckFn *check;   /* further conditions; may be NULL */
    Node node[NODES_MAX];
} Pattern;

/* ---- conditions ---- */

static const Type *out_type(const Fuse *f, OpId op)
{
    return type_of(f->m, op_at(f->m, op)->out);
}

/* Slices [from, from + n) of the columns of the match's linear; gives n. */
static bool slice_at(const Fuse *f, OpId slice, i64 from, i64 *n)
{
    const Op *op = op_at(f->m, slice);
    *n = op_int(op, A_END) - from;
    return op_int(op, A_AXIS) == 1 && op_int(op, A_BEGIN) == from;
}

static bool check_swiglu(const Fuse *f, const Match *k)
{
    i64 gate, up, all = out_type(f, k->op[0])->dim[1];
    return slice_at(f, k->op[1], 0, &gate) && slice_at(f, k->op[2], gate, &up) && gate == up &&
           gate + up == all;
}

static bool check_same_shape(const Fuse *f, const Match *k)
{
    const Op *add = op_at(f->m, k->op[1]);
    return value_at(f->m, add->in[0])->type == value_at(f->m, add->in[1])->type;
}

static bool same_gain_kind(const Fuse *f, OpId a, OpId b)
{
    if (!a || !b) return !a && !b;
    const Op *x = op_at(f->m, a), *y = op_at(f->m, b);
    double d = op_float(x, A_EPS) - op_float(y, A_EPS);
    return op_in(x, 1) && op_in(y, 1) && is_const(f->m, x->in[1]) && is_const(f->m, y->in[1]) &&
           !(d < 0) && !(d > 0);
}

static bool same_rope(const Fuse *f, OpId a, OpId b, ValueId pos)
{
    if (!a || !b) return !a && !b;
    const Op *x = op_at(f->m, a), *y = op_at(f->m, b);
    double d = op_float(x, A_MSCALE) - op_float(y, A_MSCALE);
    return x->in[1] == pos && y->in[1] == pos && x->in[2] == y->in[2] && is_const(f->m, x->in[2]) &&
           !(d < 0) && !(d > 0);
}

/* Nodes of the qkv pattern: slices, heads, norms, ropes, Hadamard transforms, scales, integers. */
enum {
    QKV_LINEAR,
    QKV_Q,
    QKV_K,
    QKV_V,
    QKV_QH,
    QKV_KH,
    QKV_VH,
    QKV_QN,
    QKV_KN,
    QKV_QR,
    QKV_KR,
    QKV_QM,
    QKV_KM,
    QKV_KS,
    QKV_KQ,
    QKV_VS,
    QKV_VQ,
    QKV_QQ,
    QKV_APPEND,
    QKV_NODES
};
_Static_assert((u32)QKV_NODES <= (u32)NODES_MAX, "the qkv pattern has its nodes");

/* The transforms of q and k are whole heads, of a size that the epilogue takes. */
static bool same_transform(const Fuse *f, OpId a, OpId b, i64 dim)
{
    if (!a || !b) return !a && !b;
    for (u32 i = 0; i < 2; i++) {
        const Op *op = op_at(f->m, i ? b : a);
        i64 group = op_int(op, A_GROUP);
        if ((group && group != dim) || op_int(op, A_SEED) || *op_str(f->m, op, A_MODE))
            return false;
    }
    return pass_turns_heads(dim);
}

/* One scale per head, or the one that the step computes per row; a minimum only from the step. */
static bool check_head_quant(const Fuse *f, OpId scale, OpId quantize)
{
    if (!quantize) return !scale;
    const Op *q = op_at(f->m, quantize);
    const Type *x = type_of(f->m, q->in[0]), *s = type_of(f->m, q->in[1]);
    if (op_int(q, A_GROUP) && op_int(q, A_GROUP) != x->dim[2]) return false;
    if (!scale)
        return is_const(f->m, q->in[1]) && !op_in(q, 2) && s->rank == 2 && s->dim[0] == x->dim[1] &&
               s->dim[1] == 1;
    const Op *p = op_at(f->m, scale);
    return q->in[1] == p->out && op_in(q, 2) == (p->nout > 1 ? p->out + 1 : 0) &&
           op_dtype(f->m, p) == op_dtype(f->m, q) && op_int(p, A_GROUP) == op_int(q, A_GROUP);
}

/* What kv_append stores beside the integers is what the step computed. */
static bool check_append_scales(const Fuse *f, const Match *k)
{
    const Op *append = op_at(f->m, k->op[QKV_APPEND]);
    for (u32 i = 0; i < 2; i++) {
        OpId id = k->op[i ? QKV_VS : QKV_KS];
        const Op *p = id ? op_at(f->m, id) : NULL;
        ValueId s = op_in(append, 5 + 2 * i), m = op_in(append, 6 + 2 * i);
        if (s != (p ? p->out : 0) || m != (p && p->nout > 1 ? p->out + 1 : 0)) return false;
    }
    return true;
}

/* q leaves the step in its last form: as it is turned, or as s8 with one scale per head. */
static bool check_q_out(const Fuse *f, const Match *k)
{
    static const u32 forms[] = {QKV_QH, QKV_QN, QKV_QR, QKV_QM, QKV_QQ};
    OpId quantize = k->op[QKV_QQ];
    if (quantize &&
        (op_dtype(f->m, op_at(f->m, quantize)) != DT_S8 || !check_head_quant(f, 0, quantize)))
        return false;
    bool later = false;
    for (u32 i = sizeof forms / sizeof *forms; i-- > 0;) {
        OpId id = k->op[forms[i]];
        if (!id) continue;
        if (later && !uses_once(&f->uses, op_at(f->m, id)->out)) return false;
        later = true;
    }
    return true;
}

static bool check_qkv(const Fuse *f, const Match *k)
{
    i64 q, kk, v, all = out_type(f, k->op[QKV_LINEAR])->dim[1];
    if (!slice_at(f, k->op[QKV_Q], 0, &q) || !slice_at(f, k->op[QKV_K], q, &kk) ||
        !slice_at(f, k->op[QKV_V], q + kk, &v))
        return false;
    const Type *qh = out_type(f, k->op[QKV_QH]), *kh = out_type(f, k->op[QKV_KH]),
               *vh = out_type(f, k->op[QKV_VH]);
    bool heads = qh->rank == 3 && kh->rank == 3 && vh->rank == 3 && qh->dim[2] == kh->dim[2] &&
                 kh->dim[2] == vh->dim[2] && qh->dim[2] % 2 == 0;
    const Fn *fn = &f->m->fns.at[f->fn];
    ValueId pos = op_at(f->m, k->op[QKV_APPEND])->in[2];
    return heads && fn->params.n > 1 && q + kk + v == all && kk == v &&
           same_gain_kind(f, k->op[QKV_QN], k->op[QKV_KN]) &&
           same_rope(f, k->op[QKV_QR], k->op[QKV_KR], pos) && pos == fn->params.at[1] &&
           same_transform(f, k->op[QKV_QM], k->op[QKV_KM], kh->dim[2]) &&
           check_head_quant(f, k->op[QKV_KS], k->op[QKV_KQ]) &&
           check_head_quant(f, k->op[QKV_VS], k->op[QKV_VQ]) && check_append_scales(f, k) &&
           check_q_out(f, k);
}

/* A quantize with one constant scale for everything. */
static bool is_static(const Fuse *f, const Op *q)
{
    return is_const(f->m, q->in[1]) && type_elems(type_of(f->m, q->in[1])) == 1 && !op_in(q, 2);
}

/* The last two nodes are the scale, which may be absent, and quantize: of one matrix, of one form.
 * 16-bit formats have scales at their plain meaning only. */
static bool check_quant(const Fuse *f, const Match *k)
{
    const Op *q = op_at(f->m, k->op[k->n - 1]);
    OpId scale = k->n > 1 ? k->op[k->n - 2] : 0;
    bool narrow = op_dtype(f->m, q) == DT_S8 || op_dtype(f->m, q) == DT_S4;
    if (type_of(f->m, q->in[0])->rank != 2) return false;
    if (!scale || op_at(f->m, scale)->kind != OP_QPARAMS) return narrow && is_static(f, q);
    const Op *s = op_at(f->m, scale);
    double d = op_float(s, A_SCALE) - 1;
    bool plain = !(d < 0) && !(d > 0) && !op_int(s, A_FULL) && !op_int(q, A_FULL);
    return s->in[0] == q->in[0] && q->in[1] == s->out && op_dtype(f->m, s) == op_dtype(f->m, q) &&
           op_int(s, A_GROUP) == op_int(q, A_GROUP) && (narrow || plain);
}

static bool check_hadamard(const Fuse *f, const Match *k)
{
    const Op *h = op_at(f->m, k->op[0]);
    return !op_int(h, A_SEED) && !*op_str(f->m, h, A_MODE) && check_quant(f, k);
}

static bool is_vector(const Fuse *f, ValueId v, i64 cols)
{
    const Type *t = type_of(f->m, v);
    return is_const(f->m, v) && t->rank == 1 && t->dim[0] == cols;
}

/* ---- names ---- */

/* Format of the activations that quantize writes: ARCHITECTURE.md. */
static const char *format_of(const Fuse *f, OpId quantize)
{
    const Op *op = op_at(f->m, quantize);
    DType dt = op_dtype(f->m, op);
    i64 group = op_int(op, A_GROUP);
    if ((dt == DT_S8 || dt == DT_S4) && !group) return "s8"; /* a byte per element either way */
    if (dt == DT_S16) return group == 32 ? "s16g32" : group ? NULL : "s16";
    return NULL;
}

static const char *name_with_format(Fuse *f, const Match *k, const char *kernel)
{
    const char *format = "f32";
    for (u32 i = 0; i < k->n; i++)
        if (k->op[i] && op_at(f->m, k->op[i])->kind == OP_QUANTIZE) format = format_of(f, k->op[i]);
    return format ? arena_printf(f->cx->a, "%s.%s", kernel, format) : NULL;
}

static const char *name_norm(Fuse *f, const Match *k, const char *kernel)
{
    u32 rank = out_type(f, k->op[0])->rank;
    if (rank == 2) return name_with_format(f, k, kernel);
    return rank == 3 && k->n == 1 ? "heads" : NULL;
}

/* The packed layout that holds a weight of this type and group: what its kernel is named after. */
static const char *weight_format(const Fuse *f, const Op *op)
{
    if (op->kind != OP_QLINEAR) {
        const Op *w = def_of(f->m, op->in[1]);
        if (op->kind == OP_EMBEDDING && w->kind == OP_DEQUANTIZE && is_const(f->m, op->in[1])) {
            DType dt = type_of(f->m, w->in[0])->dt;
            i64 group = op_int(w, A_GROUP);
            if (dt == DT_S8 && !group && !op_in(w, 2)) return "s8";
            if (dt == DT_U4 && group == 32 && op_in(w, 2)) return "u4g32";
        }
        return type_of(f->m, op->in[1])->dt == DT_BF16 ? "bf16" : "f32";
    }
    /* Activations: bytes or s16 with one scale per row for s8 weights, bytes for s4, s16 in the
     * weight's groups for u4g32. One scale for all rows is static: bytes only. */
    DType dt = type_of(f->m, op->in[2])->dt, xdt = type_of(f->m, op->in[0])->dt;
    const Type *xs = type_of(f->m, op->in[1]), *ws = type_of(f->m, op->in[3]);
    i64 group = op_int(op, A_GROUP);
    bool bytes = xdt == DT_S8 || xdt == DT_S4,
         fixed = is_const(f->m, op->in[1]) && type_elems(xs) == 1;
    if (is_const(f->m, op->in[1]) && !(fixed && bytes)) return NULL;
    if (dt == DT_S8 && !group && !op_in(op, 4) && (bytes || xdt == DT_S16)) return "s8";
    if (dt == DT_S4 && !group && !op_in(op, 4) && bytes) return "s4";
    if (dt == DT_U4 && group == 32 && op_in(op, 4) && xdt == DT_S16 &&
        type_cols(xs) == type_cols(ws))
        return "u4g32";
    return NULL;
}

static const char *name_linear(Fuse *f, const Match *k, const char *epilogue)
{
    const Op *op = op_at(f->m, k->op[0]);
    bool q = op->kind == OP_QLINEAR;
    ValueId w = op->in[q ? 2 : 1], bias = op_in(op, q ? 5 : 2);
    const char *format = weight_format(f, op);
    if (!is_const(f->m, w) || (bias && !is_const(f->m, bias)) || !format) return NULL;
    return arena_printf(f->cx->a, "linear.%s%s", format, epilogue);
}

/* Only bytes come out of these kernels. */
static const char *name_bytes(Fuse *f, const Match *k, const char *kernel)
{
    const char *format = format_of(f, k->op[k->n - 1]);
    return format && strcmp(format, "s8") == 0 ? arena_printf(f->cx->a, "%s.s8", kernel) : NULL;
}

static const char *name_fixed(Fuse *f, const Match *k, const char *kernel)
{
    (void)f, (void)k;
    return kernel;
}

static const char *name_embed(Fuse *f, const Match *k, const char *kernel)
{
    const Op *op = op_at(f->m, k->op[0]);
    return is_const(f->m, op->in[1]) ? arena_printf(f->cx->a, "%s.%s", kernel, weight_format(f, op))
                                     : NULL;
}

static const char *name_binary(Fuse *f, const Match *k, const char *name)
{
    const Op *op = op_at(f->m, k->op[0]);
    const Type *x = type_of(f->m, op->in[0]), *y = type_of(f->m, op->in[1]);
    if (value_at(f->m, op->in[0])->type == value_at(f->m, op->in[1])->type) return name;
    if (x->rank == 2 && is_vector(f, op->in[1], x->dim[1]))
        return arena_printf(f->cx->a, "%s_row", name);
    return op->kind == OP_MUL && is_const(f->m, op->in[1]) && type_elems(y) == 1 ? "scale" : NULL;
}

/* ---- the table ---- */

/* A node and its operands: letters of earlier nodes, in order; 0 or nothing: any value. */
#define NODE(kind, flags, ...) {kind, {__VA_ARGS__}, flags}
enum { A = 1, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P, Q, R };

/* clang-format off */
static const Pattern patterns[] = {
    {name_linear, ".qkv", check_qkv, {
        [QKV_LINEAR] = NODE(K_LINEAR, 0, 0),
        [QKV_Q]      = NODE(OP_SLICE, 0, A),
        [QKV_K]      = NODE(OP_SLICE, 0, A),
        [QKV_V]      = NODE(OP_SLICE, 0, A),
        [QKV_QH]     = NODE(OP_RESHAPE, OUT, B),
        [QKV_KH]     = NODE(OP_RESHAPE, 0, C),
        [QKV_VH]     = NODE(OP_RESHAPE, 0, D),
        [QKV_QN]     = NODE(OP_RMSNORM, OPTIONAL | OUT, E),
        [QKV_KN]     = NODE(OP_RMSNORM, OPTIONAL, F),
        [QKV_QR]     = NODE(OP_ROPE, OPTIONAL | OUT, H),
        [QKV_KR]     = NODE(OP_ROPE, OPTIONAL, I),
        [QKV_QM]     = NODE(OP_HADAMARD, OPTIONAL | OUT, J),
        [QKV_KM]     = NODE(OP_HADAMARD, OPTIONAL, K),
        [QKV_KS]     = NODE(K_QPARAMS, OPTIONAL | OR_CONST, M),
        [QKV_KQ]     = NODE(OP_QUANTIZE, OPTIONAL, M, N),
        [QKV_VS]     = NODE(K_QPARAMS, OPTIONAL | OR_CONST, G),
        [QKV_VQ]     = NODE(OP_QUANTIZE, OPTIONAL, G, P),
        [QKV_QQ]     = NODE(OP_QUANTIZE, OPTIONAL | OUT, L),
        [QKV_APPEND] = NODE(OP_KV_APPEND, 0, O, Q, 0, 0, 0, N, 0, P)}},
    {name_linear, ".swiglu", check_swiglu, {
        NODE(K_LINEAR, 0, 0),
        NODE(OP_SLICE, 0, A),
        NODE(OP_SLICE, 0, A),
        NODE(K_ACT, 0, B),
        NODE(OP_MUL, OUT | COMMUTES, D, C)}},
    {name_linear, ".residual", check_same_shape, {
        NODE(K_LINEAR, 0, 0),
        NODE(OP_ADD, OUT | COMMUTES, A),
        NODE(OP_STORE, OPTIONAL, B)}},
    {name_linear, "", NULL, {NODE(K_LINEAR, OUT, 0), NODE(OP_RESHAPE, OPTIONAL | OUT, A)}},
    {name_norm, "norm", check_quant, {
        NODE(OP_RMSNORM, 0, 0),
        NODE(OP_QPARAMS, OPTIONAL | OUT | OR_CONST, A),
        NODE(OP_QUANTIZE, OUT, A, B)}},
    {name_norm, "norm", NULL, {NODE(OP_RMSNORM, OUT, 0)}},
    {name_bytes, "hadamard", check_hadamard, {
        NODE(OP_HADAMARD, 0, 0),
        NODE(OP_QPARAMS, OPTIONAL | OUT | OR_CONST, A),
        NODE(OP_QUANTIZE, OUT, A, B)}},
    {name_bytes, "attend", check_quant, {
        NODE(OP_ATTEND, 0, 0),
        NODE(OP_RESHAPE, 0, A),
        NODE(OP_QUANTIZE, OUT, B)}},
    {name_with_format, "quant", check_quant, {NODE(OP_QPARAMS, OUT, 0), NODE(OP_QUANTIZE, OUT, 0, A)}},
    {name_with_format, "quant", check_quant, {NODE(OP_QUANTIZE, OUT, 0)}},
    {name_embed, "embed", NULL, {NODE(OP_EMBEDDING, OUT, 0)}},
    {name_fixed, "attend", NULL, {NODE(OP_ATTEND, OUT, 0), NODE(OP_RESHAPE, OPTIONAL | OUT, A)}},
    {name_fixed, "glu", NULL, {NODE(K_ACT, 0, 0), NODE(OP_MUL, OUT | COMMUTES, A)}},
    {name_fixed, "act", NULL, {NODE(K_ACT, OUT, 0)}},
    {name_fixed, "heads", NULL, {NODE(OP_ROPE, OUT, 0)}},
    {name_binary, "add", NULL, {NODE(OP_ADD, OUT, 0)}},
    {name_binary, "mul", NULL, {NODE(OP_MUL, OUT, 0)}},
};
/* clang-format on */
enum { N_PATTERNS = sizeof patterns / sizeof *patterns };

/* ---- matching ---- */

static bool kind_is(u32 want, OpKind kind)
{
    if (want == K_LINEAR) return kind == OP_LINEAR || kind == OP_QLINEAR;
    if (want == K_ACT) return kind == OP_SILU || kind == OP_GELU;
    if (want == K_QPARAMS) return kind == OP_QPARAMS || kind == OP_QPARAMS_ASYM;
    return want == (u32)kind;
}

static bool is_node(const Pattern *p, u32 i)
{
    return i < NODES_MAX && p->node[i].kind;
}

/* The value that a letter stands for: its op's first result, or what an absent op would read. */
static ValueId letter_value(const Fuse *f, const Pattern *p, const Match *k, u32 letter)
{
    while (!k->op[letter - 1])
        letter = p->node[letter - 1].in[0];
    return op_at(f->m, k->op[letter - 1])->out;
}

static bool operands_fit(const Fuse *f, const Pattern *p, const Match *k, const Node *n,
                         const Op *op, bool swap)
{
    for (u32 i = 0; i < OPERANDS; i++) {
        const u32 letter = n->in[i];
        if (!letter) continue;
        const ValueId v = op_in(op, swap && i < 2 ? 1 - i : i);
        if (!k->op[letter - 1] && p->node[letter - 1].flags & OR_CONST) {
            if (v && !is_const(f->m, v)) return false;
        } else if (v != letter_value(f, p, k, letter)) {
            return false;
        }
    }
    return true;
}

static bool taken(const Fuse *f, const Match *k, OpId id)
{
    bool t = f->group[id] != 0 || op_at(f->m, id)->fn != f->fn;
    for (u32 i = 0; i < k->n; i++)
        t |= k->op[i] == id;
    return t;
}

static bool in_match(const Match *k, OpId id)
{
    for (u32 i = 0; i < k->n; i++)
        if (k->op[i] == id) return true;
    return false;
}

/* Values of ops without OUT are used inside only. */
static bool closed(const Fuse *f, const Pattern *p, const Match *k)
{
    for (u32 i = 0; i < k->n; i++) {
        const Op *op = op_at(f->m, k->op[i]);
        if (!k->op[i] || p->node[i].flags & OUT) continue;
        for (u32 r = 0; r < op->nout; r++) {
            ValueId v = op->out + r;
            if (f->uses.result[v]) return false;
            for (u32 j = 0; j < uses_n(&f->uses, v); j++)
                if (!in_match(k, uses_at(&f->uses, v, j))) return false;
        }
    }
    return true;
}

/* No operand from outside depends on the match: follows it from its first op to its last. */
static bool convex(const Fuse *f, const Match *k)
{
    const Fn *fn = &f->m->fns.at[f->fn];
    u32 first = UINT32_MAX, last = 0;
    for (u32 i = 0; i < k->n; i++) {
        if (!k->op[i]) continue;
        if (f->position[k->op[i]] < first) first = f->position[k->op[i]];
        if (f->position[k->op[i]] > last) last = f->position[k->op[i]];
    }
    ArenaMark mark = arena_mark(f->cx->a);
    bool *after =
        NEWN(f->cx->a, bool, last - first + 1); /* does the op at first + i depend on it */
    bool ok = true;
    for (u32 i = first; ok && i <= last; i++) {
        OpId id = fn->body.at[i];
        const Op *op = op_at(f->m, id);
        bool inside = in_match(k, id);
        after[i - first] = inside;
        for (u32 j = 0; j < op->nin; j++) {
            OpId def = op->in[j] ? pass_def(f->m, op->in[j]) : 0;
            if (!def || op_at(f->m, def)->fn != f->fn || f->position[def] < first ||
                !after[f->position[def] - first])
                continue;
            after[i - first] = true;
            if (inside && !in_match(k, def)) ok = false;
        }
    }
    arena_reset(f->cx->a, mark);
    return ok;
}

/* How often the value of node i can be used by the rest of the pattern. */
static u32 uses_in_pattern(const Pattern *p, u32 i)
{
    u32 n = 0;
    for (u32 j = i + 1; is_node(p, j); j++)
        for (u32 k = 0; k < OPERANDS; k++)
            if (p->node[j].in[k] == i + 1)
                n += 1 + (p->node[j].flags & OPTIONAL ? uses_in_pattern(p, j) : 0);
    return n;
}

/* Early form of `closed`, which keeps the search small. */
static bool too_many_uses(const Fuse *f, const Pattern *p, u32 i, OpId id)
{
    const Op *op = op_at(f->m, id);
    return !(p->node[i].flags & OUT) && op->nout &&
           uses_n(&f->uses, op->out) > uses_in_pattern(p, i);
}

static bool match_from(const Fuse *f, const Pattern *p, Match *k, u32 i)
{
    if (!is_node(p, i)) return closed(f, p, k) && (!p->check || p->check(f, k)) && convex(f, k);
    const Node *n = &p->node[i];
    ValueId v = letter_value(f, p, k, n->in[0] ? n->in[0] : n->in[1]);
    for (u32 u = 0; u < uses_n(&f->uses, v); u++) {
        OpId id = uses_at(&f->uses, v, u);
        const Op *op = op_at(f->m, id);
        if (!kind_is(n->kind, op->kind) || taken(f, k, id) || too_many_uses(f, p, i, id)) continue;
        if (!operands_fit(f, p, k, n, op, false) &&
            !(n->flags & COMMUTES && operands_fit(f, p, k, n, op, true)))
            continue;
        k->op[i] = id;
        k->n = i + 1;
        if (match_from(f, p, k, i + 1)) return true;
    }
    k->op[i] = 0;
    k->n = i + 1;
    return n->flags & OPTIONAL && match_from(f, p, k, i + 1);
}

static void take(Fuse *f, const Match *k, const char *kernel)
{
    vec_push(f->cx->a, &f->kernel, ir_str(f->m, kernel));
    for (u32 i = 0; i < k->n; i++)
        if (k->op[i]) f->group[k->op[i]] = f->kernel.n;
}

static bool try_pattern(Fuse *f, const Pattern *p, OpId id)
{
    Match k = {.op = {id}, .n = 1};
    if (!kind_is(p->node[0].kind, op_at(f->m, id)->kind) || too_many_uses(f, p, 0, id) ||
        !match_from(f, p, &k, 1))
        return false;
    const char *name = p->name(f, &k, p->text);
    if (!name) return false;
    take(f, &k, name);
    return true;
}

static bool refuse_quantise(const Fuse *f, const Op *op)
{
    if (type_of(f->m, op->in[0])->rank != 2)
        return pass_fail(
            f->cx, op,
            "no kernel quantises heads but the one that makes q, k and v together "
            "(merge-linears); it takes a Hadamard transform of a power of two up to 256, "
            "and a constant scale per head or scales of k and v that it computes");
    return pass_fail(
        f->cx, op,
        "no kernel quantises this: s8 and s4 go by rows or by one constant, s16 by rows "
        "or in groups of 32");
}

/* Ops that no pattern took: reshapes join the step they read from, the others stand alone under
 * their mnemonic. */
static bool take_rest(Fuse *f)
{
    const Fn *fn = &f->m->fns.at[f->fn];
    for (u32 i = 0; i < fn->body.n; i++) {
        OpId id = fn->body.at[i];
        if (f->group[id]) continue;
        const Op *op = op_at(f->m, id);
        OpId from = op->kind == OP_RESHAPE ? pass_def(f->m, op->in[0]) : 0;
        if (from && op_at(f->m, from)->fn == f->fn)
            f->group[id] = f->group[from];
        else if (op->kind == OP_ATTENTION)
            return pass_fail(f->cx, op, "attention must be split by `phases` first");
        else if (op->kind == OP_LINEAR || op->kind == OP_QLINEAR)
            return pass_fail(f->cx, op, "no kernel multiplies these types (layouts of weights: %s)",
                             pack_layout_names());
        else if (op->kind == OP_QUANTIZE || op->kind == OP_QPARAMS || op->kind == OP_QPARAMS_ASYM)
            return refuse_quantise(f, op);
        else
            take(f, &(Match){.op = {id}, .n = 1}, op_info[op->kind].mnemonic);
    }
    return true;
}

/* ---- order ---- */

typedef struct Order {
    u32 n;             /* groups, numbered from 1 */
    u32 *waits;        /* [n + 1] groups that this one still waits for, with repeats */
    u32 *first, *next; /* edges of a group: next[first[g] .. first[g + 1]) wait for g */
    VEC(u64) edge;     /* from << 32 | to */
} Order;

static void depend(Fuse *f, Order *o, u32 from, u32 to)
{
    if (!from || from == to) return;
    vec_push(f->cx->a, &o->edge, (u64)from << 32 | to);
    o->waits[to]++;
}

static void find_edges(Fuse *f, Order *o)
{
    const Fn *fn = &f->m->fns.at[f->fn];
    u32 stateful = 0;
    for (u32 i = 0; i < fn->body.n; i++) {
        OpId id = fn->body.at[i];
        const Op *op = op_at(f->m, id);
        for (u32 k = 0; k < op->nin; k++) {
            OpId def = op->in[k] ? pass_def(f->m, op->in[k]) : 0;
            if (def && op_at(f->m, def)->fn == f->fn) depend(f, o, f->group[def], f->group[id]);
        }
        if (!(op_info[op->kind].flags & OPF_STATEFUL)) continue;
        depend(f, o, stateful, f->group[id]);
        stateful = f->group[id];
    }
    o->first = NEWN(f->cx->a, u32, o->n + 3);
    o->next = NEWN(f->cx->a, u32, o->edge.n);
    for (u32 e = 0; e < o->edge.n; e++)
        o->first[(o->edge.at[e] >> 32) + 2]++;
    for (u32 g = 1; g < o->n + 3; g++)
        o->first[g] += o->first[g - 1];
    for (u32 e = 0; e < o->edge.n; e++)
        o->next[o->first[(o->edge.at[e] >> 32) + 1]++] = (u32)o->edge.at[e];
}

/* step[g] of each group: always the ready group whose first op comes first. */
static bool number_groups(Fuse *f, Order *o, u32 *step)
{
    const Fn *fn = &f->m->fns.at[f->fn];
    u32 *by_first = NEWN(f->cx->a, u32, o->n), count = 0, done = 0;
    bool *seen = NEWN(f->cx->a, bool, o->n + 1);
    for (u32 i = 0; i < fn->body.n; i++) {
        u32 g = f->group[fn->body.at[i]];
        if (!seen[g]) by_first[count++] = g;
        seen[g] = true;
    }
    for (u32 low = 0; done < o->n;) {
        u32 at = low;
        while (at < count && (step[by_first[at]] || o->waits[by_first[at]]))
            at++;
        if (at == count)
            return pass_fail(f->cx, NULL, "the steps of @%s wait for each other",
                             ir_cstr(f->m, fn->name));
        u32 g = by_first[at];
        step[g] = ++done;
        for (u32 e = o->first[g]; e < o->first[g + 1]; e++)
            o->waits[o->next[e]]--;
        while (low < count && step[by_first[low]])
            low++;
    }
    return true;
}

/* Numbers the steps and puts the body in their order. */
static bool order_steps(Fuse *f)
{
    Fn *fn = &f->m->fns.at[f->fn];
    Order o = {.n = f->kernel.n, .waits = NEWN(f->cx->a, u32, f->kernel.n + 1)};
    find_edges(f, &o);
    u32 *step = NEWN(f->cx->a, u32, o.n + 1), *start = NEWN(f->cx->a, u32, o.n + 2);
    if (!number_groups(f, &o, step)) return false;
    fn->steps.n = 0;
    for (u32 s = 0; s < o.n; s++)
        vec_push(f->m->a, &fn->steps, ((Step){0}));
    for (u32 g = 1; g <= o.n; g++)
        fn->steps.at[step[g] - 1].kernel = f->kernel.at[g - 1];
    OpId *old = NEWN(f->cx->a, OpId, fn->body.n);
    for (u32 i = 0; i < fn->body.n; i++) {
        old[i] = fn->body.at[i];
        op_at(f->m, old[i])->step = step[f->group[old[i]]];
        start[op_at(f->m, old[i])->step + 1]++;
    }
    for (u32 s = 1; s < o.n + 2; s++)
        start[s] += start[s - 1];
    for (u32 i = 0; i < fn->body.n; i++)
        fn->body.at[start[op_at(f->m, old[i])->step]++] = old[i];
    return true;
}

bool pass_fuse(PassCx *cx)
{
    Module *m = cx->m;
    Fuse f = {.cx = cx,
              .m = m,
              .uses = uses_build(cx->a, m),
              .group = NEWN(cx->a, u32, m->ops.n),
              .position = NEWN(cx->a, u32, m->ops.n)};
    for (f.fn = 1; f.fn < m->fns.n; f.fn++) {
        f.kernel.n = 0;
        const Fn *fn = &m->fns.at[f.fn];
        for (u32 i = 0; i < fn->body.n; i++)
            f.position[fn->body.at[i]] = i;
        for (u32 p = 0; p < N_PATTERNS; p++)
            for (u32 i = 0; i < fn->body.n; i++)
                if (!f.group[fn->body.at[i]]) try_pattern(&f, &patterns[p], fn->body.at[i]);
        if (!take_rest(&f) || !order_steps(&f)) return false;
        cx->changes += f.kernel.n;
    }
    return true;
}
