/* Type rules: each infers the result types of one op from its operands and attributes, or says why
 * it cannot. */
#include "ir/hadamard.h"
#include "ir/ir.h"
#include "ir/pack.h"
#include "ir/text.h"

typedef struct Ty {
    Diag *d;
    Module *m;
    const Op *op;
    TypeId *out;
} Ty;

static bool fail(Ty *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool fail(Ty *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    const char *text = arena_vprintf(t->m->a, fmt, ap);
    va_end(ap);
    diag_error(t->d, E_IR_VERIFY, LOC_WHAT(op_info[t->op->kind].mnemonic), "%s", text);
    diag_note(t->d, "%s", ir_op_text(t->m, t->op));
    return false;
}

static const Type *in(const Ty *t, u32 i)
{
    return type_of(t->m, t->op->in[i]);
}
static bool has(const Ty *t, u32 i)
{
    return i < t->op->nin && t->op->in[i];
}
static bool is_float(const Ty *t, u32 i)
{
    return dtype_info[in(t, i)->dt].is_float;
}
static const char *show(const Ty *t, u32 i)
{
    return ir_type_text(t->m, in(t, i));
}

static bool give(Ty *t, u32 k, DType dt, u32 rank, const i64 *dim)
{
    t->out[k] = ir_type(t->m, dt, rank, dim);
    return true;
}

static bool need_float(Ty *t, u32 i)
{
    return is_float(t, i) ||
           fail(t, "operand %u has type %s, expected a float type", i, show(t, i));
}

static bool need_int(Ty *t, u32 i)
{
    return !is_float(t, i) ||
           fail(t, "operand %u has type %s, expected an integer type", i, show(t, i));
}

static bool need_rank(Ty *t, u32 i, u32 rank)
{
    return in(t, i)->rank == rank ||
           fail(t, "operand %u has type %s, expected rank %u", i, show(t, i), rank);
}

static bool need_shape(Ty *t, u32 i, u32 rank, const i64 *dim)
{
    const Type *x = in(t, i);
    bool ok = x->rank == rank;
    for (u32 k = 0; ok && k < rank; k++)
        ok = x->dim[k] == dim[k];
    Type want = {.dt = x->dt, .rank = rank};
    for (u32 k = 0; k < rank; k++)
        want.dim[k] = dim[k];
    return ok ||
           fail(t, "operand %u has type %s, expected %s", i, show(t, i), ir_type_text(t->m, &want));
}

static bool ty_leaf(Ty *t)
{
    if (!t->out[0]) return fail(t, "the type must be written");
    const Type *x = &t->m->types.at[t->out[0]];
    if (t->op->kind != OP_STATE && type_elems(x) < 0)
        return fail(t, "a constant's shape must be numbers that multiply without overflow");
    return true;
}

static bool ty_literal(Ty *t)
{
    if (!ty_leaf(t)) return false;
    const Attr *v = op_attr(t->op, A_VALUES);
    i64 n = type_elems(&t->m->types.at[t->out[0]]);
    return v->n == n || fail(t, "%u values for a shape of %lld elements", v->n, (long long)n);
}

static bool ty_same(Ty *t)
{
    t->out[0] = value_at(t->m, t->op->in[0])->type;
    return true;
}

static bool ty_float(Ty *t)
{
    return need_float(t, 0) && ty_same(t);
}

static bool ty_rope_freqs(Ty *t)
{
    i64 dim = op_int(t->op, A_DIM);
    const char *mode = op_str(t->m, t->op, A_MODE);
    if (dim <= 0 || dim % 2 || dim > 65536)
        return fail(t, "dim is %lld, expected an even number up to 65536", (long long)dim);
    if (*mode && strcmp(mode, "linear") && strcmp(mode, "llama3"))
        return fail(t, "mode '%s', expected none, linear or llama3", mode);
    return give(t, 0, DT_F32, 1, (const i64[]){dim / 2});
}

static bool ty_cast(Ty *t)
{
    DType dt = op_dtype(t->m, t->op);
    if (!dt || !dtype_info[dt].is_float)
        return fail(t, "dtype '%s', expected a float type", op_str(t->m, t->op, A_DTYPE));
    return need_float(t, 0) && give(t, 0, dt, in(t, 0)->rank, in(t, 0)->dim);
}

static bool ty_reshape(Ty *t)
{
    const Attr *s = op_attr(t->op, A_SHAPE);
    const Type *x = in(t, 0);
    if (s->n > MAX_RANK) return fail(t, "shape of rank %u, at most %d", s->n, MAX_RANK);
    /* Symbols must agree one for one; the numbers' products must be equal. */
    i64 a = 1, b = 1;
    int sym[DIM_SYMBOLS + 1] = {0};
    bool ok = true;
    for (u32 i = 0; i < x->rank; i++) {
        if (x->dim[i] < 0)
            sym[-x->dim[i]]++;
        else
            ok &= !__builtin_mul_overflow(a, x->dim[i], &a);
    }
    for (u32 i = 0; i < s->n; i++) {
        if (s->ints[i] < -DIM_SYMBOLS) return fail(t, "unknown symbol in shape");
        if (s->ints[i] < 0)
            sym[-s->ints[i]]--;
        else
            ok &= !__builtin_mul_overflow(b, s->ints[i], &b);
    }
    for (int i = 1; i <= DIM_SYMBOLS; i++)
        ok &= sym[i] == 0;
    if (!ok || a != b) return fail(t, "shape does not hold the elements of %s", show(t, 0));
    return give(t, 0, x->dt, s->n, s->ints);
}

static bool ty_transpose(Ty *t)
{
    return need_rank(t, 0, 2) &&
           give(t, 0, in(t, 0)->dt, 2, (const i64[]){in(t, 0)->dim[1], in(t, 0)->dim[0]});
}

static bool axis_ok(Ty *t, u32 rank)
{
    i64 axis = op_int(t->op, A_AXIS);
    return (axis >= 0 && axis < (i64)rank) ||
           fail(t, "axis %lld of a value of rank %u", (long long)axis, rank);
}

static bool ty_slice(Ty *t)
{
    Type x = *in(t, 0);
    if (!axis_ok(t, x.rank)) return false;
    i64 *dim = &x.dim[op_int(t->op, A_AXIS)], lo = op_int(t->op, A_BEGIN),
        hi = op_int(t->op, A_END);
    if (*dim < 0) return fail(t, "cannot slice along a symbolic dimension of %s", show(t, 0));
    if (lo < 0 || lo >= hi || hi > *dim)
        return fail(t, "slice [%lld, %lld) of a dimension of %lld", (long long)lo, (long long)hi,
                    (long long)*dim);
    *dim = hi - lo;
    return give(t, 0, x.dt, x.rank, x.dim);
}

static bool ty_concat(Ty *t)
{
    Type x = *in(t, 0);
    if (!axis_ok(t, x.rank)) return false;
    u32 axis = (u32)op_int(t->op, A_AXIS);
    for (u32 i = 1; i < t->op->nin; i++) {
        const Type *y = in(t, i);
        bool ok = y->rank == x.rank && y->dt == x.dt;
        for (u32 k = 0; ok && k < x.rank; k++)
            ok = k == axis || x.dim[k] == y->dim[k];
        if (!ok)
            return fail(t, "operand %u has type %s, which does not join with %s", i, show(t, i),
                        show(t, 0));
        if (x.dim[axis] < 0 || y->dim[axis] < 0 ||
            __builtin_add_overflow(x.dim[axis], y->dim[axis], &x.dim[axis]))
            return fail(t, "cannot join along a symbolic or overflowing dimension");
    }
    return give(t, 0, x.dt, x.rank, x.dim);
}

static bool ty_rope_unpermute(Ty *t)
{
    i64 heads = op_int(t->op, A_HEADS);
    const Type *x = in(t, 0);
    if (x->rank < 1 || x->rank > 2)
        return fail(t, "operand has type %s, expected a weight or a bias", show(t, 0));
    if (x->dim[0] <= 0) return fail(t, "cannot reorder the symbolic rows of %s", show(t, 0));
    if (heads <= 0 || x->dim[0] % heads || x->dim[0] / heads % 2)
        return fail(t, "%lld rows do not divide into %lld heads of even size", (long long)x->dim[0],
                    (long long)heads);
    return ty_same(t);
}

static bool ty_rows(Ty *t)
{
    return need_rank(t, 0, 2) && need_int(t, 1) && need_rank(t, 1, 1) &&
           give(t, 0, in(t, 0)->dt, 2, (const i64[]){in(t, 1)->dim[0], in(t, 0)->dim[1]});
}

static bool ty_broadcast(Ty *t)
{
    const Type *a = in(t, 0), *b = in(t, 1);
    bool ok = b->rank <= a->rank;
    for (u32 i = 0; ok && i < b->rank; i++) {
        i64 da = a->dim[a->rank - 1 - i], db = b->dim[b->rank - 1 - i];
        ok = da == db || db == 1;
    }
    if (!ok) return fail(t, "%s does not broadcast to %s", show(t, 1), show(t, 0));
    return need_float(t, 0) && need_float(t, 1) && ty_same(t);
}

static bool ty_hadamard(Ty *t)
{
    const Type *x = in(t, 0);
    const char *mode = op_str(t->m, t->op, A_MODE);
    bool rows = strcmp(mode, "rows") == 0;
    if (*mode && !rows) return fail(t, "mode '%s', expected none or rows", mode);
    if (!need_float(t, 0)) return false;
    if (!x->rank || (rows && x->rank != 2))
        return fail(t, "operand has type %s, expected %s", show(t, 0),
                    rows ? "rank 2" : "rank 1 or more");
    i64 n = rows ? x->dim[0] : type_cols(x), g = op_int(t->op, A_GROUP);
    if (n <= 0) return fail(t, "cannot mix a symbolic dimension of %s", show(t, 0));
    if (g < 0 || (g && n % g))
        return fail(t, "%lld elements do not divide into groups of %lld", (long long)n,
                    (long long)g);
    return hadamard_base_order(g ? g : n)
               ? ty_same(t)
               : fail(t, "no transform of %lld elements: its base would have more than %d rows",
                      (long long)(g ? g : n), HADAMARD_MAX_BASE);
}

static bool ty_hadamard_base(Ty *t)
{
    i64 n = op_int(t->op, A_DIM), k = hadamard_base_order(n);
    return k > 0 ? give(t, 0, DT_F32, 2, (const i64[]){k, k})
                 : fail(t, "dim is %lld, expected a positive size whose base has at most %d rows",
                        (long long)n, HADAMARD_MAX_BASE);
}

/* ---- quantisation ---- */

/* Shape of the scales: last dimension becomes the number of groups. */
static Type scale_type(const Ty *t, const Type *x)
{
    Type s = *x;
    i64 g = op_int(t->op, A_GROUP), k = type_cols(x);
    s.dt = DT_F32;
    if (s.rank) s.dim[s.rank - 1] = g ? (k + g - 1) / g : 1;
    return s;
}

static bool quant_dtype(Ty *t, DType *dt)
{
    *dt = op_dtype(t->m, t->op);
    if (!*dt || dtype_info[*dt].is_float || *dt == DT_I32)
        return fail(t, "dtype '%s', expected s16, s8, u8, s4 or u4", op_str(t->m, t->op, A_DTYPE));
    const Type *x = in(t, 0);
    i64 g = op_int(t->op, A_GROUP);
    if (!x->rank || type_cols(x) < 0)
        return fail(t, "operand has type %s, expected a known last dimension", show(t, 0));
    return (g >= 0 && g <= type_cols(x)) ||
           fail(t, "group %lld of a row of %lld", (long long)g, (long long)type_cols(x));
}

/* `full` changes nothing for unsigned types and for s16, whose bounds are symmetric already. */
static bool full_ok(Ty *t, DType dt)
{
    i64 full = op_int(t->op, A_FULL);
    if (full != 0 && full != 1) return fail(t, "full is %lld, expected 0 or 1", (long long)full);
    return !full || dt == DT_S8 || dt == DT_S4 ||
           fail(t, "full is for s8 and s4, not for %s", dtype_info[dt].name);
}

static bool ty_qparams(Ty *t)
{
    DType dt;
    if (!need_float(t, 0) || !quant_dtype(t, &dt) || !full_ok(t, dt)) return false;
    Type s = scale_type(t, in(t, 0));
    return give(t, 0, s.dt, s.rank, s.dim);
}

static bool ty_qparams_asym(Ty *t)
{
    DType dt;
    if (!need_float(t, 0) || !quant_dtype(t, &dt)) return false;
    if (dtype_info[dt].lo != 0)
        return fail(t, "dtype '%s', expected an unsigned type", dtype_info[dt].name);
    i64 zero = op_int(t->op, A_ZERO);
    if (zero != 0 && (zero != 1 || !is_const(t->m, t->op->in[0])))
        return fail(t, "zero is %lld, expected 0, or 1 for a constant", (long long)zero);
    Type s = scale_type(t, in(t, 0));
    return give(t, 0, s.dt, s.rank, s.dim) && give(t, 1, s.dt, s.rank, s.dim);
}

/* A scale (or offset) operand fits x when it has the shape of qparams' result, or broadcasts:
 * static scales are rank 0 (per tensor) or have size 1 wherever they do not vary. */
static bool scale_fits(Ty *t, u32 i, const Type *x)
{
    const Type *s = in(t, i);
    i64 g = op_int(t->op, A_GROUP), k = type_cols(x);
    if (g < 0 || (g && (k < 0 || g > k)))
        return fail(t, "group %lld of a row of %lld", (long long)g, (long long)k);
    i64 groups = g ? (k + g - 1) / g : 1;
    bool ok = dtype_info[s->dt].is_float && s->rank <= x->rank;
    for (u32 j = 0; ok && j < s->rank; j++) {
        i64 ds = s->dim[s->rank - 1 - j], dx = j ? x->dim[x->rank - 1 - j] : groups;
        ok = ds == dx || ds == 1;
    }
    return ok || fail(t, "operand %u has type %s, which is no scale for %s with group %lld", i,
                      show(t, i), ir_type_text(t->m, x), (long long)g);
}

static bool ty_quantize(Ty *t)
{
    DType dt;
    const Type *x = in(t, 0);
    if (!need_float(t, 0) || !quant_dtype(t, &dt) || !full_ok(t, dt) || !scale_fits(t, 1, x) ||
        (has(t, 2) && !scale_fits(t, 2, x)))
        return false;
    return give(t, 0, dt, x->rank, x->dim);
}

static bool ty_dequantize(Ty *t)
{
    const Type *x = in(t, 0);
    if (!need_int(t, 0) || !scale_fits(t, 1, x) || (has(t, 2) && !scale_fits(t, 2, x)))
        return false;
    return give(t, 0, DT_F32, x->rank, x->dim);
}

static bool ty_pack(Ty *t)
{
    const PackLayout *l = pack_layout(op_str(t->m, t->op, A_LAYOUT));
    i64 parts = op_int(t->op, A_INTERLEAVE);
    if (!l)
        return fail(t, "layout '%s', expected one of %s", op_str(t->m, t->op, A_LAYOUT),
                    pack_layout_names());
    if (t->op->nin != l->operands)
        return fail(t, "layout %s takes %u operands, found %u", l->name, l->operands, t->op->nin);
    const Type *w = in(t, 0);
    if (!need_rank(t, 0, 2)) return false;
    if (w->dt != l->dtype)
        return fail(t, "operand 0 has type %s, layout %s packs %s", show(t, 0), l->name,
                    dtype_info[l->dtype].name);
    if (parts < 1 || w->dim[0] % parts)
        return fail(t, "%lld rows do not divide into %lld interleaved parts", (long long)w->dim[0],
                    (long long)parts);
    if (l->max_cols && w->dim[1] > l->max_cols)
        return fail(t, "rows of %lld elements; layout %s sums exactly up to %lld",
                    (long long)w->dim[1], l->name, (long long)l->max_cols);
    i64 groups = l->group ? (w->dim[1] + l->group - 1) / l->group : 1;
    for (u32 i = 1; i < t->op->nin; i++)
        if (!need_float(t, i) || !need_shape(t, i, 2, (const i64[]){w->dim[0], groups}))
            return false;
    i64 bytes = pack_bytes(l, w->dim[0], w->dim[1], parts);
    if (bytes < 0) return fail(t, "the packed size overflows");
    return give(t, 0, DT_U8, 1, &bytes);
}

/* ---- the model ---- */

static bool ty_embedding(Ty *t)
{
    return need_int(t, 0) && need_rank(t, 0, 1) && need_float(t, 1) && need_rank(t, 1, 2) &&
           give(t, 0, DT_F32, 2, (const i64[]){in(t, 0)->dim[0], in(t, 1)->dim[1]});
}

static bool ty_norm(Ty *t)
{
    i64 cols = type_cols(in(t, 0));
    return need_float(t, 0) && (!has(t, 1) || need_shape(t, 1, 1, &cols)) && ty_same(t);
}

static bool linear_result(Ty *t, u32 w, u32 b)
{
    const Type *x = in(t, 0), *wt = in(t, w);
    if (!need_rank(t, 0, 2) || !need_rank(t, w, 2)) return false;
    if (x->dim[1] != wt->dim[1])
        return fail(t, "rows of %s and of the weight %s differ in length", show(t, 0), show(t, w));
    if (has(t, b) && !need_shape(t, b, 1, &wt->dim[0])) return false;
    return give(t, 0, DT_F32, 2, (const i64[]){x->dim[0], wt->dim[0]});
}

static bool ty_linear(Ty *t)
{
    return need_float(t, 0) && need_float(t, 1) && linear_result(t, 1, 2);
}

static bool ty_qlinear(Ty *t)
{
    if (!need_int(t, 0) || !need_float(t, 1) || !need_int(t, 2) || !need_float(t, 3)) return false;
    if (!linear_result(t, 2, 5)) return false;
    i64 rows = in(t, 2)->dim[0], k = in(t, 2)->dim[1], g = op_int(t->op, A_GROUP);
    if (g < 0 || g > k) return fail(t, "group %lld of a row of %lld", (long long)g, (long long)k);
    i64 groups = g ? (k + g - 1) / g : 1;
    if (!need_shape(t, 3, 2, (const i64[]){rows, groups}) ||
        (has(t, 4) && !need_shape(t, 4, 2, (const i64[]){rows, groups})))
        return false;
    const Type *xs = in(t, 1);
    i64 xg = xs->rank ? xs->dim[xs->rank - 1] : 1;
    if (xs->rank && (xs->rank != 2 || (xs->dim[0] != in(t, 0)->dim[0] && xs->dim[0] != 1)))
        return fail(t, "operand 1 has type %s, expected one scale per row and group", show(t, 1));
    return xg == 1 || xg == groups ||
           fail(t, "operand 1 has %lld groups, expected 1 or %lld", (long long)xg,
                (long long)groups);
}

static bool ty_rope(Ty *t)
{
    const Type *x = in(t, 0);
    if (!need_float(t, 0) || !need_rank(t, 0, 3) || !need_int(t, 1) ||
        !need_shape(t, 1, 1, &x->dim[0]) || !need_rank(t, 2, 1))
        return false;
    if (in(t, 2)->dim[0] * 2 > x->dim[2])
        return fail(t, "%s turns more elements than a head of %s has", show(t, 2), show(t, 0));
    return ty_same(t);
}

static bool kv_shapes(Ty *t, const Type *q, const Type *k)
{
    if (k->dim[2] != q->dim[2]) return fail(t, "heads of q and k differ in size");
    if (k->dim[1] <= 0 || q->dim[1] % k->dim[1])
        return fail(t, "%lld query heads do not divide over %lld kv heads", (long long)q->dim[1],
                    (long long)k->dim[1]);
    return true;
}

static bool ty_attention(Ty *t)
{
    for (u32 i = 0; i < 3; i++)
        if (!need_float(t, i) || !need_rank(t, i, 3)) return false;
    const Type *q = in(t, 0), *k = in(t, 1);
    if (!need_shape(t, 1, 3, (const i64[]){q->dim[0], k->dim[1], k->dim[2]}) ||
        !need_shape(t, 2, 3, k->dim))
        return false;
    if (!need_int(t, 3) || !need_shape(t, 3, 1, &q->dim[0]) || !kv_shapes(t, q, k)) return false;
    if (has(t, 4) != has(t, 5)) return fail(t, "a prefix needs both its keys and its values");
    if (has(t, 4) && (!need_rank(t, 4, 3) ||
                      !need_shape(t, 4, 3, (const i64[]){in(t, 4)->dim[0], k->dim[1], k->dim[2]}) ||
                      !need_shape(t, 5, 3, in(t, 4)->dim)))
        return false;
    return ty_same(t);
}

static bool need_state(Ty *t, u32 i)
{
    return def_of(t->m, t->op->in[i])->kind == OP_STATE || fail(t, "operand %u must be a state", i);
}

static bool prefix_ok(Ty *t)
{
    i64 p = op_int(t->op, A_PREFIX);
    return (p >= 0 && p <= INT32_MAX) || fail(t, "prefix is %lld rows", (long long)p);
}

/* Operands `scale`, `offset` of kv_append belong to the integers of operand x; those at `state` and
 * `state` + 1 keep them. */
static bool append_scales(Ty *t, u32 x, u32 scale, u32 state)
{
    const Type *k = in(t, x);
    const i64 one[3] = {k->dim[0], k->dim[1], 1}, kept[3] = {k->dim[1], DIM_C, 1};
    for (u32 i = 0; i < 2; i++) {
        u32 from = scale + i, to = state + i;
        if (has(t, from) != has(t, to))
            return fail(t, "operand %u is %s, operand %u is %s", from,
                        has(t, from) ? "given" : "absent", to, has(t, to) ? "given" : "absent");
        if (!has(t, from)) continue;
        if (is_float(t, x)) return fail(t, "operand %u is a scale of floats", from);
        if (!need_float(t, from) || !need_shape(t, from, 3, one) || !need_state(t, to) ||
            !need_float(t, to) || !need_shape(t, to, 3, kept))
            return false;
    }
    return !has(t, scale + 1) || has(t, scale) ||
           fail(t, "operand %u is an offset without a scale", scale + 1);
}

static bool ty_kv_append(Ty *t)
{
    if (!need_rank(t, 0, 3) || !need_rank(t, 1, 3) || !need_state(t, 3) || !need_state(t, 4))
        return false;
    const Type *k = in(t, 0);
    i64 want[3] = {k->dim[1], DIM_C, k->dim[2]};
    if (!need_shape(t, 1, 3, k->dim) || !need_int(t, 2) || !need_shape(t, 2, 1, &k->dim[0]) ||
        !need_shape(t, 3, 3, want) || !need_shape(t, 4, 3, want) || !prefix_ok(t))
        return false;
    for (u32 i = 0; i < 2; i++)
        if (is_float(t, i) != is_float(t, 3 + i) ||
            (!is_float(t, i) && in(t, i)->dt != in(t, 3 + i)->dt))
            return fail(t, "operand %u has type %s, its state %s", i, show(t, i), show(t, 3 + i));
    return append_scales(t, 0, 5, 9) && append_scales(t, 1, 7, 11);
}

/* Operand i scales (or offsets) the heads of a state [g,C,d]: a constant [g,1] or a state [g,C,1].
 */
static bool head_scale(Ty *t, u32 i, const Type *kv)
{
    const Type *s = in(t, i);
    bool state = def_of(t->m, t->op->in[i])->kind == OP_STATE;
    const i64 kept[3] = {kv->dim[0], kv->dim[1], 1};
    if (!need_float(t, i)) return false;
    if (state) return need_shape(t, i, 3, kept);
    bool one = s->rank <= 2;
    for (u32 k = 0; k < s->rank; k++)
        one = one && (s->dim[k] == 1 || (k + 2 == s->rank && s->dim[k] == kv->dim[0]));
    return (one && is_const(t->m, t->op->in[i])) ||
           fail(t,
                "operand %u has type %s, expected a constant with one scale per head of %s or a "
                "state of them",
                i, show(t, i), ir_type_text(t->m, kv));
}

static bool state_scales(Ty *t, u32 state, u32 scale)
{
    bool ints = !is_float(t, state);
    if (has(t, scale) != ints)
        return fail(t,
                    ints ? "operand %u holds integers, its scale (operand %u) is absent"
                         : "operand %u holds floats, which take no scale (operand %u)",
                    state, scale);
    if (has(t, scale + 1) && !ints) return fail(t, "operand %u is an offset of floats", scale + 1);
    return !ints || (head_scale(t, scale, in(t, state)) &&
                     (!has(t, scale + 1) || head_scale(t, scale + 1, in(t, state))));
}

static bool attend_prefix(Ty *t, u32 k, const Type *kv)
{
    const i64 want[3] = {op_int(t->op, A_PREFIX), kv->dim[0], kv->dim[2]};
    if (!prefix_ok(t)) return false;
    if (has(t, k) != has(t, k + 1)) return fail(t, "a prefix needs both its keys and its values");
    if (!has(t, k))
        return !want[0] || fail(t, "the prefix of %lld rows is absent", (long long)want[0]);
    return need_float(t, k) && need_float(t, k + 1) && need_shape(t, k, 3, want) &&
           need_shape(t, k + 1, 3, want);
}

static bool ty_attend(Ty *t)
{
    if (!need_rank(t, 0, 3) || !need_state(t, 2) || !need_state(t, 3) || !need_rank(t, 2, 3))
        return false;
    const Type *q = in(t, 0), *k = in(t, 2);
    Type kt = {.rank = 3, .dim = {q->dim[0], k->dim[0], k->dim[2]}};
    if (!need_int(t, 1) || !need_shape(t, 1, 1, &q->dim[0]) || !need_shape(t, 3, 3, k->dim) ||
        !kv_shapes(t, q, &kt))
        return false;
    if (has(t, 4) == is_float(t, 0))
        return fail(t, "operand 0 has type %s: integers take a scale (operand 4), floats none",
                    show(t, 0));
    if (has(t, 4) && !scale_fits(t, 4, q)) return false;
    return state_scales(t, 2, 5) && state_scales(t, 3, 7) && attend_prefix(t, 9, k) &&
           give(t, 0, DT_F32, 3, q->dim);
}

static bool ty_store(Ty *t)
{
    if (!need_rank(t, 0, 2) || !need_state(t, 1) || !need_rank(t, 1, 2)) return false;
    return in(t, 0)->dim[1] == in(t, 1)->dim[1] ||
           fail(t, "rows of %s and of the state %s differ in length", show(t, 0), show(t, 1));
}

typedef bool TypeRule(Ty *t);
static TypeRule *const rules[OP_COUNT] = {
    NULL,
#define X(id, mnemonic, lo, hi, nout, flags, attrs, type, eval, tile, effect) type,
#include "ir/ops.def"
#undef X
};

/* Is attribute `name` in the op's list; *optional tells whether it may be left out. */
static bool attr_listed(const char *list, const char *name, bool *optional)
{
    size_t n = strlen(name);
    for (const char *p = list; *p; p += strcspn(p, " "), p += strspn(p, " ")) {
        size_t len = strcspn(p, " ");
        *optional = p[len - 1] == '?';
        if (len - *optional == n && memcmp(p, name, n) == 0) return true;
    }
    return false;
}

static bool attrs_ok(Ty *t)
{
    const OpInfo *info = &op_info[t->op->kind];
    bool opt;
    for (u32 i = 0; i < t->op->nattr; i++) {
        AttrId id = t->op->attr[i].id;
        if (id != A_AT && !attr_listed(info->attrs, attr_info[id].name, &opt))
            return fail(t, "has no attribute '%s'", attr_info[id].name);
    }
    for (int id = 1; id < A_COUNT; id++)
        if (attr_listed(info->attrs, attr_info[id].name, &opt) && !opt &&
            !op_attr(t->op, (AttrId)id))
            return fail(t, "the attribute '%s' is missing", attr_info[id].name);
    return true;
}

bool ir_infer(Diag *d, Module *m, const Op *op, TypeId *out)
{
    Ty t = {d, m, op, out};
    const OpInfo *info = &op_info[op->kind];
    if (op->nin < info->min_in || op->nin > info->max_in)
        return fail(&t, "takes %u to %u operands, found %u", info->min_in, info->max_in, op->nin);
    for (u32 i = 0; i < info->min_in; i++)
        if (!op->in[i]) return fail(&t, "operand %u is missing", i);
    if (op->fn == 0) {
        if (!(info->flags & OPF_CONST)) return fail(&t, "is not allowed in the constant region");
        for (u32 i = 0; i < op->nin; i++)
            if (op->in[i] && !is_const(m, op->in[i]))
                return fail(&t, "operand %u of a constant is not a constant", i);
    }
    return attrs_ok(&t) && rules[op->kind](&t);
}
