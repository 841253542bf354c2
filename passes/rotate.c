/* rotate: orthogonal changes of basis that leave the model's function alone (QuaRot,
 * arXiv:2404.00456; SpinQuant's names, arXiv:2405.16406) and spread outliers over channels before
 * quantisers see them.
 *
 *   R1  the residual stream, folded: E <- E R, consumers W <- W R, producers W <- R^T W
 *   R2  every head between v and o, folded
 *   R3  every head of q and k after RoPE: one online transform each
 *   R4  the input of the down projection: one online transform, its inverse folded
 *
 * R1 and R2 have random signs. All are the op `hadamard`, in constants or in the function. Norms
 * must have no gain where R1 passes (fuse-norm), and a head that shares the embedding's weight must
 * own it if it has one (untie).
 */
#include "passes/pass.h"

typedef struct Rotate {
    PassCx *cx;
    Module *m;
    u32 fn;
    Uses uses;
    Builder consts; /* constant region */
    i64 seed;
} Rotate;

static ValueId weight_of(const Op *linear)
{
    return linear->in[1];
}

/* hadamard of constant v, under the weight's own name. */
static ValueId mixed(Rotate *r, ValueId v, i64 group, bool rows, i64 seed)
{
    return ir_op(
        &r->consts, OP_HADAMARD, INS(v),
        ATTRS({A_GROUP, .i = group}, {A_MODE, .s = rows ? "rows" : ""}, {A_SEED, .i = seed}), 0,
        arena_printf(r->cx->a, "%s.rot", pass_base_name(r->cx, v)));
}

static bool const_weight(Rotate *r, OpId linear)
{
    const Op *op = op_at(r->m, linear);
    bool ok = is_const(r->m, weight_of(op)) && (!op_in(op, 2) || is_const(r->m, op_in(op, 2)));
    return ok || pass_fail(r->cx, op, "its weight is not a constant");
}

/* The linear's input is in a rotated basis: blocks of `group` columns of its weight turn with it.
 */
static bool turn_input(Rotate *r, OpId linear, i64 group, i64 seed)
{
    if (!const_weight(r, linear)) return false;
    ValueId w = mixed(r, weight_of(op_at(r->m, linear)), group, false, seed);
    if (w) op_at(r->m, linear)->in[1] = w;
    r->cx->changes++;
    return w != 0;
}

/* The linear's output becomes rotated, in blocks of `group`. */
static bool turn_output(Rotate *r, OpId linear, i64 group, i64 seed)
{
    if (!const_weight(r, linear)) return false;
    ValueId w = mixed(r, weight_of(op_at(r->m, linear)), group, true, seed),
            bias = op_in(op_at(r->m, linear), 2);
    if (!w || (bias && !(bias = mixed(r, bias, group, false, seed)))) return false;
    op_at(r->m, linear)->in[1] = w;
    if (bias) op_at(r->m, linear)->in[2] = bias;
    r->cx->changes++;
    return true;
}

/* Through reshapes, each used once, down to a linear used once; 0 if there is none. */
static OpId linear_behind(const Rotate *r, ValueId v)
{
    while (pass_def(r->m, v) && uses_once(&r->uses, v)) {
        const Op *op = def_of(r->m, v);
        if (op->kind == OP_LINEAR) return pass_def(r->m, v);
        if (op->kind != OP_RESHAPE) break;
        v = op->in[0];
    }
    return 0;
}

/* ---- R1 ---- */

static bool r1_add(Rotate *r, const bool *turned, const Op *op)
{
    for (u32 k = 0; k < 2; k++) {
        if (turned[op->in[k]]) continue;
        OpId linear = linear_behind(r, op->in[k]);
        if (!linear)
            return pass_fail(r->cx, op,
                             "R1 needs a linear before the residual add; a norm or another op "
                             "after it cannot be rotated");
        if (!turn_output(r, linear, 0, r->seed)) return false;
    }
    return true;
}

static bool r1_op(Rotate *r, bool *turned, OpId id)
{
    const Op *op = op_at(r->m, id);
    bool touched = false;
    for (u32 k = 0; k < op->nin; k++)
        touched |= op->in[k] && turned[op->in[k]];
    if (op->kind == OP_EMBEDDING) {
        if (!is_const(r->m, op->in[1])) return pass_fail(r->cx, op, "its weight is not a constant");
        ValueId w = mixed(r, op->in[1], 0, false, r->seed);
        if (w) op_at(r->m, id)->in[1] = w;
        turned[op_at(r->m, id)->out] = true;
        return w != 0;
    }
    if (!touched) return true;
    switch (op->kind) {
    case OP_LINEAR: return turn_input(r, id, 0, r->seed);
    case OP_RMSNORM:
        if (op_in(op, 1))
            return pass_fail(r->cx, op,
                             "its gain would be rotated; run fuse-norm (and untie) first");
        break;
    case OP_ADD:
        if (!r1_add(r, turned, op)) return false;
        op = op_at(r->m, id);
        break;
    case OP_COPY:
    case OP_CAST:
    case OP_ROWS: break;
    case OP_MUL: /* a scalar factor on the stream commutes with R1 */
        if (type_elems(type_of(r->m, op->in[1])) == 1) break;
        /* fall through */
    default:
        return pass_fail(
            r->cx, op,
            "R1 is not legal through this op: it works on single channels of the residual stream");
    }
    turned[op->out] = true;
    return true;
}

static bool rotate_residual(Rotate *r)
{
    bool *turned = NEWN(r->cx->a, bool, r->m->values.n + 2);
    const Fn *f = &r->m->fns.at[r->fn];
    u32 n = f->body.n;
    for (u32 i = 0; i < n; i++)
        if (!r1_op(r, turned, r->m->fns.at[r->fn].body.at[i])) return false;
    for (u32 i = 0; i < r->m->fns.at[r->fn].results.n; i++)
        if (turned[r->m->fns.at[r->fn].results.at[i]])
            return pass_fail(r->cx, NULL,
                             "the function returns the residual stream, which R1 would rotate");
    return true;
}

/* ---- R2, R3: attention ---- */

/* The linear that reads the attention's result, through reshapes. */
static OpId linear_after(const Rotate *r, ValueId v)
{
    while (uses_once(&r->uses, v)) {
        OpId user = uses_at(&r->uses, v, 0);
        const Op *op = op_at(r->m, user);
        if (op->kind == OP_LINEAR && op->in[0] == v) return user;
        if (op->kind != OP_RESHAPE) break;
        v = op->out;
    }
    return 0;
}

static bool rotate_values(Rotate *r, OpId attention)
{
    const Op *op = op_at(r->m, attention);
    i64 d = type_of(r->m, op->in[2])->dim[2];
    OpId v = linear_behind(r, op->in[2]), o = linear_after(r, op->out);
    if (!v || !o)
        return pass_fail(r->cx, op, "R2 needs a linear that makes v and one that reads the result");
    return turn_output(r, v, d, r->seed + 1) && turn_input(r, o, d, r->seed + 1);
}

/* Puts an online transform of blocks of `group` between operand k of op `user` and what made it. */
static bool insert_online(Rotate *r, OpId user, u32 k, i64 group)
{
    Builder b = {
        .m = r->m, .d = r->cx->d, .fn = r->fn, .before = user, .layer = op_at(r->m, user)->layer};
    ValueId x = op_at(r->m, user)->in[k];
    const char *name = ir_cstr(r->m, value_at(r->m, x)->name);
    ValueId y = ir_op(&b, OP_HADAMARD, INS(x), ATTRS({A_GROUP, .i = group}), 0,
                      *name ? arena_printf(r->cx->a, "%s.rot", name) : NULL);
    if (y) op_at(r->m, user)->in[k] = y;
    r->cx->changes++;
    return y != 0;
}

/* ---- R4 ---- */

/* A linear that reads act(gate) * up, the gated product of an MLP. */
static bool is_down(const Rotate *r, const Op *op)
{
    if (op->kind != OP_LINEAR || !pass_def(r->m, op->in[0])) return false;
    const Op *mul = def_of(r->m, op->in[0]);
    if (mul->kind != OP_MUL || !uses_once(&r->uses, mul->out)) return false;
    for (u32 k = 0; k < 2; k++) {
        OpKind act = pass_def(r->m, mul->in[k]) ? def_of(r->m, mul->in[k])->kind : OP_NONE;
        if (act == OP_SILU || act == OP_GELU) return true;
    }
    return false;
}

/* The largest power of two that divides n, at most `block`. */
static i64 power_block(i64 n, i64 block)
{
    i64 g = 1;
    while (g * 2 <= block && n % (g * 2) == 0)
        g *= 2;
    return g;
}

bool pass_rotate(PassCx *cx)
{
    Module *m = cx->m;
    Rotate r = {.cx = cx,
                .m = m,
                .fn = pass_fn_index(m, "main"),
                .uses = uses_build(cx->a, m),
                .consts = {.m = m, .d = cx->d, .layer = -1}};
    i64 block = pass_int(cx, "block");
    r.seed = 2 * pass_int(cx, "seed") + 1; /* 0 would mean no signs */
    if (!pass_skips(cx, "r1") && !rotate_residual(&r)) return false;
    u32 known = m->ops.n;
    for (OpId i = 1; i < known; i++) {
        OpKind kind = op_at(m, i)->kind;
        if (kind == OP_ATTENTION) {
            if (!pass_skips(cx, "r2") && !rotate_values(&r, i)) return false;
            if (!pass_skips(cx, "r3") &&
                !(insert_online(&r, i, 0, 0) && insert_online(&r, i, 1, 0)))
                return false;
        }
        if (!pass_skips(cx, "r4") && is_down(&r, op_at(m, i))) {
            i64 n = type_cols(type_of(m, op_at(m, i)->in[0])),
                group = block ? power_block(n, block) : 0;
            if (!insert_online(&r, i, 0, group) || !turn_input(&r, i, group, 0)) return false;
        }
    }
    return true;
}
