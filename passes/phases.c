/* phases: the graph of a whole text becomes the three functions that a runtime calls: @prefill
 * extends the caches by a chunk and keeps final hidden states, @logits reads some of them, @decode
 * does both for one token. `attention` becomes kv_append and attend over states: of integers when
 * it reads dequantized keys or values, else of floats.
 */
#include "passes/pass.h"

#include "ir/text.h"

typedef struct Cache { /* states of one side, keys or values, of one attention; 0: none */
    ValueId rows, scale, offset;
} Cache;

typedef struct CachePair {
    Cache side[2]; /* k, v */
} CachePair;

typedef struct Phase {
    PassCx *cx;
    u32 from; /* @main */
    Tail tail;
    bool *is_tail; /* [ops] computed from the cut by nothing but rows of its own */
    bool *unread;  /* [ops] dequantize ops whose integers go to caches instead */
    i64 prefix;    /* rows that every attention begins with (rules.c: the same number) */
    ValueId hidden;
    VEC(CachePair) caches; /* by cache number */
} Phase;

static ValueId state(PassCx *cx, const char *name, DType dt, u32 rank, const i64 *dim)
{
    Builder b = {.m = cx->m, .d = cx->d, .layer = -1};
    return ir_op(&b, OP_STATE, NULL, 0, NULL, ir_type(cx->m, dt, rank, dim), name);
}

static bool check_signature(PassCx *cx, u32 fn)
{
    const Module *m = cx->m;
    const Fn *f = &m->fns.at[fn];
    const i64 T = DIM_T;
    bool ok = f->params.n == 2 && f->results.n == 1;
    for (u32 i = 0; ok && i < 2; i++) {
        const Type *t = type_of(m, f->params.at[i]);
        ok = t->dt == DT_I32 && t->rank == 1 && t->dim[0] == T;
    }
    if (ok) {
        const Type *t = type_of(m, f->results.at[0]);
        ok = t->dt == DT_F32 && t->rank == 2 && t->dim[0] == T;
    }
    return ok || pass_fail(cx, NULL, "@main is not (tokens i32[T], pos i32[T]) -> f32[T,vocab]");
}

/* Which ops are the tail: those that depend on the cut. They may read nothing else but constants.
 */
static bool find_tail(Phase *p)
{
    Module *m = p->cx->m;
    const Fn *f = &m->fns.at[p->from];
    if (!pass_tail(p->cx, p->from, &p->tail)) return false;
    bool *dep = NEWN(p->cx->a, bool, m->values.n);
    p->is_tail = NEWN(p->cx->a, bool, m->ops.n);
    dep[p->tail.cut] = true;
    for (u32 i = 0; i < f->body.n; i++) {
        const Op *op = op_at(m, f->body.at[i]);
        bool any = false, all = true;
        for (u32 k = 0; k < op->nin; k++) {
            if (!op->in[k] || is_const(m, op->in[k])) continue;
            any |= dep[op->in[k]];
            all &= dep[op->in[k]];
        }
        if (!any) continue;
        if (!all || op->kind == OP_ATTENTION)
            return pass_fail(
                p->cx, op,
                "the final hidden states are read by more than the final norm and the head");
        p->is_tail[f->body.at[i]] = true;
        for (u32 k = 0; k < op->nout; k++)
            dep[op->out + k] = true;
    }
    const Type *t = type_of(m, p->tail.cut);
    return (t->rank == 2 && t->dim[1] > 0) ||
           pass_fail(p->cx, def_of(m, p->tail.cut), "the final hidden states are no matrix");
}

/* The dequantize op that makes keys or values of v, NULL when they are floats. */
static const Op *dequantized(const Module *m, ValueId v)
{
    const Op *op = def_of(m, v);
    return op->kind == OP_DEQUANTIZE && !is_const(m, v) ? op : NULL;
}

/* Integers that a cache holds come with one scale per head, fixed, or one per token and head; their
 * offset likewise. */
static bool check_scales(Phase *p, const Op *attention, const Op *dq, const char *what)
{
    Module *m = p->cx->m;
    const Type *q = type_of(m, dq->in[0]);
    if (q->dt != DT_S4 && q->dt != DT_S8 && q->dt != DT_U4 && q->dt != DT_U8)
        return pass_fail(p->cx, attention, "%s are quantised to %s; caches hold s8, u8, s4 and u4",
                         what, dtype_info[q->dt].name);
    for (u32 i = 1; i < 3 && op_in(dq, i); i++) {
        const Type *t = type_of(m, dq->in[i]);
        bool per_head = t->rank <= 2 && type_cols(t) == 1,
             per_token =
                 t->rank == 3 && t->dim[0] == DIM_T && t->dim[1] == q->dim[1] && t->dim[2] == 1;
        if (is_const(m, dq->in[i]) ? !per_head : !per_token)
            return pass_fail(p->cx, attention,
                             "%s have scales %s; caches take one per head (a constant [%lld,1]) or "
                             "one per token and head",
                             what, ir_type_text(m, t), (long long)q->dim[1]);
    }
    return !op_in(dq, 2) || is_const(m, dq->in[2]) == is_const(m, dq->in[1]) ||
           pass_fail(p->cx, attention, "of scale and offset of %s one is constant, the other not",
                     what);
}

static ValueId cache_state(Phase *p, const Op *attention, const char *suffix, DType dt, i64 cols)
{
    const Type *k = type_of(p->cx->m, attention->in[1]);
    const i64 dim[3] = {k->dim[1], DIM_C, cols};
    const char *name =
        arena_printf(p->cx->a, "kv.%lld.%s", (long long)op_int(attention, A_CACHE), suffix);
    return state(p->cx, name, dt, 3, dim);
}

/* States of keys (side 0) or values (side 1). */
static bool make_side(Phase *p, const Op *attention, u32 side, DType kv, Cache *c)
{
    static const char *const suffix[2][3] = {{"k", "k.s", "k.m"}, {"v", "v.s", "v.m"}};
    const Module *m = p->cx->m;
    const Op *dq = dequantized(m, attention->in[1 + side]);
    i64 d = type_cols(type_of(m, attention->in[1]));
    if (!dq) return (c->rows = cache_state(p, attention, suffix[side][0], kv, d)) != 0;
    if (!check_scales(p, attention, dq, side ? "values" : "keys")) return false;
    bool constant = is_const(m, dq->in[1]), offset = op_in(dq, 2) != 0;
    c->rows = cache_state(p, attention, suffix[side][0], type_of(m, dq->in[0])->dt, d);
    if (constant) return c->rows != 0;
    c->scale = cache_state(p, attention, suffix[side][1], DT_F16, 1);
    if (offset) c->offset = cache_state(p, attention, suffix[side][2], DT_F16, 1);
    return c->rows && c->scale && (!offset || c->offset);
}

static bool make_states(Phase *p, DType kv)
{
    Module *m = p->cx->m;
    for (u32 i = 0; i < m->fns.at[p->from].body.n; i++) {
        OpId id = m->fns.at[p->from].body.at[i];
        if (op_at(m, id)->kind != OP_ATTENTION) continue;
        const Op op = *op_at(m, id); /* states are new ops: the table moves */
        i64 n = op_int(&op, A_CACHE);
        if (n < 0 || n > 65535)
            return pass_fail(p->cx, &op, "cache %lld, expected 0 to 65535", (long long)n);
        while (p->caches.n <= (u32)n)
            vec_push(p->cx->a, &p->caches, ((CachePair){0}));
        CachePair *c = &p->caches.at[n];
        if (c->side[0].rows)
            return pass_fail(p->cx, &op, "cache %lld belongs to an attention before this one",
                             (long long)n);
        p->prefix = op_in(&op, 4) ? type_of(m, op.in[4])->dim[0] : 0;
        if (!make_side(p, &op, 0, kv, &c->side[0]) || !make_side(p, &op, 1, kv, &c->side[1]))
            return false;
    }
    return true;
}

/* Dequantize ops that only attentions read, as keys or values. */
static void find_unread(Phase *p)
{
    Module *m = p->cx->m;
    Uses u = uses_build(p->cx->a, m);
    p->unread = NEWN(p->cx->a, bool, m->ops.n);
    for (u32 i = 0; i < m->fns.at[p->from].body.n; i++) {
        OpId id = m->fns.at[p->from].body.at[i];
        const Op *op = op_at(m, id);
        if (op->kind != OP_DEQUANTIZE || u.result[op->out] || !uses_n(&u, op->out)) continue;
        bool unread = true;
        for (u32 k = 0; k < uses_n(&u, op->out); k++) {
            const Op *user = op_at(m, uses_at(&u, op->out, k));
            unread = unread && user->kind == OP_ATTENTION && user->in[0] != op->out;
        }
        p->unread[id] = unread;
    }
}

static u32 without_trailing(const ValueId *in, u32 n)
{
    while (n && !in[n - 1])
        n--;
    return n;
}

/* attention of the op `id`; map takes its operands, and what they are dequantized from, to values
 * of the new function. */
static ValueId split_attention(Phase *p, Builder *b, OpId id, const ValueId *map)
{
    Module *m = p->cx->m;
    const Op op = *op_at(m, id);
    const CachePair c = p->caches.at[op_int(&op, A_CACHE)];
    ValueId append[13] = {0, 0, map[op.in[3]], c.side[0].rows, c.side[1].rows},
            attend[11] = {map[op.in[0]], map[op.in[3]], c.side[0].rows, c.side[1].rows};
    for (u32 s = 0; s < 2; s++) {
        const Op *dq = dequantized(m, op.in[1 + s]);
        const Cache *side = &c.side[s];
        append[s] = map[dq ? dq->in[0] : op.in[1 + s]];
        if (!dq) continue;
        ValueId scale = map[dq->in[1]], offset = op_in(dq, 2) ? map[dq->in[2]] : 0;
        attend[5 + 2 * s] = side->scale ? side->scale : scale;
        attend[6 + 2 * s] = side->scale ? side->offset : offset;
        if (!side->scale) continue;
        append[5 + 2 * s] = scale;
        append[6 + 2 * s] = offset;
        append[9 + 2 * s] = side->scale;
        append[10 + 2 * s] = side->offset;
    }
    for (u32 k = 4; k < 6; k++)
        attend[5 + k] = op_in(&op, k);
    const AttrSpec prefix = {A_PREFIX, .i = p->prefix};
    const char *name = arena_printf(p->cx->a, "%s", ir_cstr(m, value_at(m, op.out)->name));
    b->layer = op.layer;
    if (!ir_op(b, OP_KV_APPEND, append, without_trailing(append, 13), ATTRS(prefix), 0, NULL))
        return 0;
    return ir_op(b, OP_ATTEND, attend, without_trailing(attend, 11),
                 ATTRS({A_SCALE, .f = op_float(&op, A_SCALE)},
                       {A_WINDOW, .i = op_int(&op, A_WINDOW)}, prefix),
                 0, *name ? name : NULL);
}

/* Copies ops of @main (those of the tail, or the others, or all) to fn; map takes old values to new
 * ones. */
static bool copy_ops(Phase *p, u32 fn, bool tail, bool others, i64 sym, i64 to, ValueId *map)
{
    Module *m = p->cx->m;
    Builder b = {.m = m, .d = p->cx->d, .fn = fn};
    for (u32 i = 0; i < m->fns.at[p->from].body.n; i++) {
        OpId id = m->fns.at[p->from].body.at[i];
        if (p->unread[id] || (p->is_tail[id] ? !tail : !others)) continue;
        ValueId in[64];
        for (u32 k = 0; k < op_at(m, id)->nin; k++)
            in[k] = map[op_at(m, id)->in[k]];
        bool attention = op_at(m, id)->kind == OP_ATTENTION;
        ValueId out =
            attention ? split_attention(p, &b, id, map) : pass_copy_op(p->cx, &b, id, in, sym, to);
        if (!out) return false;
        for (u32 k = 0; k < op_at(m, id)->nout; k++)
            map[op_at(m, id)->out + k] = out + k;
    }
    return true;
}

static ValueId *identity(Phase *p)
{
    ValueId *map = NEWN(p->cx->a, ValueId, p->cx->m->values.n);
    for (ValueId v = 0; v < p->cx->m->values.n; v++)
        map[v] = v;
    return map;
}

static void copy_params(Phase *p, u32 fn, i64 rows, ValueId *map)
{
    Module *m = p->cx->m;
    for (u32 i = 0; i < m->fns.at[p->from].params.n; i++) {
        ValueId old = m->fns.at[p->from].params.at[i];
        const char *name = ir_cstr(m, value_at(m, old)->name);
        map[old] = ir_param(m, fn,
                            *name ? name
                            : i   ? "pos"
                                  : "tokens",
                            ir_type(m, DT_I32, 1, &rows));
    }
}

static bool make_prefill(Phase *p)
{
    Module *m = p->cx->m;
    ValueId *map = identity(p);
    u32 fn = ir_fn_new(m, "prefill");
    copy_params(p, fn, DIM_T, map);
    if (!copy_ops(p, fn, false, true, 0, 0, map)) return false;
    Builder b = {.m = m, .d = p->cx->d, .fn = fn, .layer = -1};
    return ir_op(&b, OP_STORE, INS(map[p->tail.cut], p->hidden), NULL, 0, NULL) != 0;
}

static bool make_logits(Phase *p)
{
    Module *m = p->cx->m;
    ValueId *map = identity(p);
    const i64 R = DIM_R;
    u32 fn = ir_fn_new(m, "logits");
    ValueId rows = ir_param(m, fn, "rows", ir_type(m, DT_I32, 1, &R));
    Builder b = {.m = m, .d = p->cx->d, .fn = fn, .layer = -1};
    map[p->tail.cut] = ir_op(&b, OP_ROWS, INS(p->hidden, rows), NULL, 0, NULL);
    if (!map[p->tail.cut] || !copy_ops(p, fn, true, false, DIM_T, DIM_R, map)) return false;
    vec_push(m->a, &m->fns.at[fn].results, map[m->fns.at[p->from].results.at[0]]);
    return true;
}

static bool make_decode(Phase *p)
{
    Module *m = p->cx->m;
    ValueId *map = identity(p);
    u32 fn = ir_fn_new(m, "decode");
    copy_params(p, fn, 1, map);
    if (!copy_ops(p, fn, true, true, DIM_T, 1, map)) return false;
    vec_push(m->a, &m->fns.at[fn].results, map[m->fns.at[p->from].results.at[0]]);
    return true;
}

bool pass_phases(PassCx *cx)
{
    Module *m = cx->m;
    Phase p = {.cx = cx, .from = pass_fn_index(m, "main")};
    i64 chunk = pass_int(cx, "chunk"), rows = pass_int(cx, "rows");
    DType kv = dtype_by_name(str_c(pass_word(cx, "kv")));
    static const char *const made[] = {"prefill", "logits", "decode"};
    for (u32 i = 0; i < 3; i++)
        if (pass_fn_index(m, made[i]))
            return pass_fail(cx, NULL, "there is a function @%s beside @main", made[i]);
    if (!check_signature(cx, p.from) || !find_tail(&p)) return false;
    const i64 dim[2] = {chunk, type_cols(type_of(m, p.tail.cut))};
    p.hidden = state(cx, "hidden", DT_F32, 2, dim);
    if (!p.hidden || !make_states(&p, kv)) return false;
    find_unread(&p);
    if (!make_prefill(&p) || !make_logits(&p) || !make_decode(&p)) return false;
    ir_fn_remove(m, p.from);
    ir_meta_int(m, "chunk", chunk);
    ir_meta_int(m, "rows", rows);
    cx->changes++;
    return true;
}
