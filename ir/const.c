/* Rectangles of constants, and the ops that only move elements.
 *
 * Each TileRule maps a rectangle of an op's result to rectangles of its operands. Rules of ops that
 * compute (ELEM, GROUPS) fetch their operands' tiles and hand them to the op (eval_ops.h) as dense
 * matrices; rules that move (RESHAPE, TRANSPOSE, SLICE, CONCAT, UNPERMUTE) copy pieces of operands
 * into place. The same code serves operands that are in memory, so functions run these ops through
 * it too.
 */
#include "ir/eval_int.h"

#include "ir/pack.h"

#include <stdlib.h>

enum {
    DEPTH_MAX = 200,       /* nesting of constant expressions; a real model's is below 20 */
    SMALL_ELEMS = 1 << 16, /* constants of rank <= 1 up to this size are kept */
    TILE_ELEMS =
        1
        << 16, /* rectangles asked for from outside are computed in row tiles of about this size */
    PACK_COLS =
        2048, /* columns of a packed tile computed at once: what they pass through stays in L2 */
};

static size_t esize(const OpCall *c, const Tensor *t)
{
    return ev_esize(c->e, t->dt);
}

static Tensor matrix(DType dt, i64 rows, i64 cols, void *p)
{
    return (Tensor){.dt = dt, .rank = 2, .dim = {rows, cols}, .p = p};
}

static Tensor scratch_matrix(Eval *e, DType dt, i64 rows, i64 cols)
{
    i64 n;
    if (__builtin_mul_overflow(rows, cols, &n)) n = -1; /* refused by ev_scratch */
    return matrix(dt, rows, cols, ev_scratch(e, n, ev_esize(e, dt)));
}

static void copy_rows(void *dst, i64 dst_stride, const void *src, i64 src_stride, i64 rows,
                      i64 cols, size_t size)
{
    u8 *d = dst;
    const u8 *s = src;
    for (i64 r = 0; r < rows; r++, d += (size_t)dst_stride * size, s += (size_t)src_stride * size)
        memcpy(d, s, (size_t)cols * size);
}

static void *at(const Tensor *t, i64 elem, size_t size)
{
    return (u8 *)t->p + (size_t)elem * size;
}

/* ---- fetching ---- */

void ev_tensor_shape(const Module *m, ValueId v, Tensor *out)
{
    const Type *t = type_of(m, v);
    *out = (Tensor){.dt = t->dt, .rank = t->rank};
    memcpy(out->dim, t->dim, sizeof out->dim);
}

bool ev_fetch(OpCall *c, u32 k, Rect r, Tensor *out)
{
    const Tensor *t = &c->in[k];
    if (!t->p) return ev_const_rect(c->e, c->op->in[k], r, out);
    i64 cols = tensor_cols(t);
    size_t size = esize(c, t);
    if (r.nc == cols || r.nr == 1) {
        *out = matrix(t->dt, r.nr, r.nc, at(t, r.r0 * cols + r.c0, size));
        return true;
    }
    *out = scratch_matrix(c->e, t->dt, r.nr, r.nc);
    copy_rows(out->p, r.nc, at(t, r.r0 * cols + r.c0, size), cols, r.nr, r.nc, size);
    return true;
}

/* Copies a rectangle of operand k to dst, whose rows are `stride` elements apart. */
static bool fetch_to(OpCall *c, u32 k, Rect r, void *dst, i64 stride)
{
    Tensor t;
    if (!ev_fetch(c, k, r, &t)) return false;
    copy_rows(dst, stride, t.p, r.nc, r.nr, r.nc, esize(c, &t));
    return true;
}

/* Elements [lo, lo + n) of operand k in row-major order. */
static bool fetch_run(OpCall *c, u32 k, i64 lo, i64 n, u8 *dst)
{
    i64 cols = tensor_cols(&c->in[k]);
    size_t size = esize(c, &c->in[k]);
    while (n > 0) {
        i64 r = lo / cols, col = lo % cols, take = cols - col < n ? cols - col : n, rows = 1;
        if (col == 0 && n >= cols) {
            rows = n / cols;
            take = cols;
        }
        if (!fetch_to(c, k, (Rect){r, rows, col, take}, dst, take)) return false;
        dst += (size_t)(rows * take) * size;
        lo += rows * take;
        n -= rows * take;
    }
    return true;
}

/* ---- moving ---- */

static bool move_reshape(OpCall *c)
{
    const Rect r = c->rect;
    i64 cols = tensor_cols(&c->out[0]);
    const i64 whole = c->op->fn == 0 ? type_cols(type_of(c->e->m, c->op->out)) : cols;
    size_t size = esize(c, &c->in[0]);
    u8 *dst = c->out[0].p;
    if (whole == tensor_cols(&c->in[0])) return fetch_to(c, 0, r, dst, r.nc);
    if (r.nc == whole) return fetch_run(c, 0, r.r0 * whole, r.nr * whole, dst);
    for (i64 i = 0; i < r.nr; i++)
        if (!fetch_run(c, 0, (r.r0 + i) * whole + r.c0, r.nc, dst + (size_t)(i * r.nc) * size))
            return false;
    return true;
}

#define TRANSPOSE_LOOP(T)                                                                          \
    for (i64 i = 0; i < r.nr; i++)                                                                 \
        for (i64 j = 0; j < r.nc; j++)                                                             \
    ((T *)c->out[0].p)[i * r.nc + j] = ((const T *)x.p)[j * r.nr + i]

static bool move_transpose(OpCall *c)
{
    const Rect r = c->rect;
    Tensor x;
    if (!ev_fetch(c, 0, (Rect){r.c0, r.nc, r.r0, r.nr}, &x)) return false;
    if (esize(c, &x) == 8)
        TRANSPOSE_LOOP(u64);
    else
        TRANSPOSE_LOOP(u32);
    return true;
}

/* Product of the dimensions between `axis` and the last: rows of the matrix view per step along
 * axis. */
static i64 rows_below(const Tensor *t, u32 axis)
{
    i64 n = 1;
    for (u32 i = axis + 1; i + 1 < t->rank; i++)
        n *= t->dim[i];
    return n;
}

static bool move_slice(OpCall *c)
{
    const Rect r = c->rect;
    const Tensor *x = &c->in[0];
    u32 axis = (u32)op_int(c->op, A_AXIS);
    i64 begin = op_int(c->op, A_BEGIN), len = op_int(c->op, A_END) - begin;
    u8 *dst = c->out[0].p;
    if (axis + 1 == x->rank)
        return fetch_to(c, 0, (Rect){r.r0, r.nr, r.c0 + begin, r.nc}, dst, r.nc);
    i64 below = rows_below(x, axis), run;
    for (i64 row = r.r0, left = r.nr; left > 0; row += run, left -= run) {
        i64 outer = row / (len * below), rest = row % (len * below);
        run = len * below - rest < left ? len * below - rest : left;
        i64 from = (outer * x->dim[axis] + begin) * below + rest;
        if (!fetch_to(c, 0, (Rect){from, run, r.c0, r.nc}, dst, r.nc)) return false;
        dst += (size_t)(run * r.nc) * esize(c, x);
    }
    return true;
}

static bool concat_cols(OpCall *c)
{
    const Rect r = c->rect;
    i64 first = 0; /* column of the result where operand k starts */
    for (u32 k = 0; k < c->nin; k++) {
        i64 n = tensor_cols(&c->in[k]);
        i64 lo = r.c0 > first ? r.c0 : first,
            hi = r.c0 + r.nc < first + n ? r.c0 + r.nc : first + n;
        void *dst = at(&c->out[0], lo - r.c0, esize(c, &c->in[k]));
        if (lo < hi && !fetch_to(c, k, (Rect){r.r0, r.nr, lo - first, hi - lo}, dst, r.nc))
            return false;
        first += n;
    }
    return true;
}

static bool move_concat(OpCall *c)
{
    const Rect r = c->rect;
    u32 axis = (u32)op_int(c->op, A_AXIS);
    if (axis + 1 == c->in[0].rank) return concat_cols(c);
    i64 below = rows_below(&c->in[0], axis), total = 0, run;
    for (u32 k = 0; k < c->nin; k++)
        total += c->in[k].dim[axis] * below;
    u8 *dst = c->out[0].p;
    for (i64 row = r.r0, left = r.nr; left > 0; row += run, left -= run) {
        i64 outer = row / total, rest = row % total;
        u32 k = 0;
        while (rest >= c->in[k].dim[axis] * below)
            rest -= c->in[k++].dim[axis] * below;
        i64 n = c->in[k].dim[axis] * below;
        run = n - rest < left ? n - rest : left;
        if (!fetch_to(c, k, (Rect){outer * n + rest, run, r.c0, r.nc}, dst, r.nc)) return false;
        dst += (size_t)(run * r.nc) * esize(c, &c->in[k]);
    }
    return true;
}

/* Row i of the result's half order comes from this row of GGUF's pair order. */
static i64 unpermuted(i64 i, i64 head)
{
    i64 base = i / head * head, k = i % head;
    return base + (k < head / 2 ? 2 * k : 2 * (k - head / 2) + 1);
}

static bool move_unpermute(OpCall *c)
{
    const Rect r = c->rect;
    const Tensor *x = &c->in[0];
    i64 head = x->dim[0] / op_int(c->op, A_HEADS);
    bool bias = x->rank == 1; /* its one dimension is the columns of the matrix view */
    for (i64 i = 0; i < (bias ? r.nc : r.nr); i++) {
        i64 from = unpermuted((bias ? r.c0 : r.r0) + i, head);
        Rect src = bias ? (Rect){0, 1, from, 1} : (Rect){from, 1, r.c0, r.nc};
        if (!fetch_to(c, 0, src, at(&c->out[0], bias ? i : i * r.nc, esize(c, x)), r.nc))
            return false;
    }
    return true;
}

bool ev_move(OpCall *c)
{
    switch (op_info[c->op->kind].tile) {
    case TILE_RESHAPE: return move_reshape(c);
    case TILE_TRANSPOSE: return move_transpose(c);
    case TILE_SLICE: return move_slice(c);
    case TILE_CONCAT: return move_concat(c);
    case TILE_UNPERMUTE: return move_unpermute(c);
    default: BUG("%s does not only move elements", op_info[c->op->kind].mnemonic);
    }
}

/* ---- computing on tiles ---- */

/* Row of b that row `row` of a reads, when b's leading dimensions broadcast to a's from the right.
 */
static i64 broadcast_row(const Tensor *a, const Tensor *b, i64 row)
{
    i64 from = 0, stride = 1;
    for (u32 i = 2; i <= a->rank; i++) {
        i64 da = a->dim[a->rank - i], index = row % da;
        row /= da;
        if (i > b->rank) continue;
        i64 db = b->dim[b->rank - i];
        from += (db == 1 ? 0 : index) * stride;
        stride *= db;
    }
    return from;
}

/* Operand k as it broadcasts to rows [r.r0, r.r0 + r.nr) of operand 0: a tile of r.nr rows or one
 * row; r's columns are b's own, or one when b has one. */
static bool fetch_broadcast(OpCall *c, u32 k, Rect r, Tensor *out)
{
    const Tensor *a = &c->in[0], *b = &c->in[k];
    if (tensor_cols(b) == 1) r.c0 = 0, r.nc = 1;
    i64 rows = tensor_rows(b);
    if (rows == 1) return ev_fetch(c, k, (Rect){0, 1, r.c0, r.nc}, out);
    if (rows == tensor_rows(a)) return ev_fetch(c, k, r, out);
    *out = scratch_matrix(c->e, b->dt, r.nr, r.nc);
    for (i64 i = 0; i < r.nr; i++) {
        Rect row = {broadcast_row(a, b, r.r0 + i), 1, r.c0, r.nc};
        if (!fetch_to(c, k, row, at(out, i * r.nc, esize(c, b)), r.nc)) return false;
    }
    return true;
}

/* Runs the op on operand tiles, with its results seen as dense matrices. */
static bool on_tiles(OpCall *c, Tensor *tiles, Rect r)
{
    OpCall t = *c;
    Tensor out[2] = {c->out[0], c->op->nout > 1 ? c->out[1] : (Tensor){0}};
    t.in = tiles;
    t.out = out;
    t.rect = r;
    for (u32 i = 0; i < c->op->nout; i++)
        out[i] = matrix(out[i].dt, r.nr, r.nc, out[i].p);
    return c->e->ops[c->op->kind](&t);
}

static bool tile_elem(OpCall *c)
{
    Tensor in[2] = {0};
    for (u32 k = 0; k < c->nin; k++)
        if (!(k ? fetch_broadcast(c, k, c->rect, &in[k]) : ev_fetch(c, 0, c->rect, &in[0])))
            return false;
    return on_tiles(c, in, c->rect);
}

/* Scales from values: the result's columns are groups. */
static bool tile_scales(OpCall *c, i64 group)
{
    Rect r = c->rect, x = r;
    i64 cols = tensor_cols(&c->in[0]);
    x.c0 = r.c0 * group;
    x.nc = (r.c0 + r.nc) * group < cols ? r.nc * group : cols - x.c0;
    Tensor in[1];
    return ev_fetch(c, 0, x, &in[0]) && on_tiles(c, in, r);
}

/* Transforms need whole blocks of what they mix: columns, or with mode rows all rows of a block. */
static bool tile_mix(OpCall *c)
{
    Rect r = c->rect, x = r;
    const Tensor *a = &c->in[0];
    bool rows = *op_str(c->e->m, c->op, A_MODE) != 0;
    i64 n = rows ? tensor_rows(a) : tensor_cols(a),
        group = op_int(c->op, A_GROUP) ? op_int(c->op, A_GROUP) : n;
    i64 *lo = rows ? &x.r0 : &x.c0, *len = rows ? &x.nr : &x.nc;
    i64 end = (*lo + *len + group - 1) / group * group;
    *lo = *lo / group * group;
    *len = end - *lo;
    Tensor in;
    if (!ev_fetch(c, 0, x, &in)) return false;
    if (memcmp(&x, &r, sizeof r) == 0) return on_tiles(c, &in, r);
    Tensor wide = scratch_matrix(c->e, c->out[0].dt, x.nr, x.nc);
    OpCall part = *c;
    part.out = &wide;
    size_t size = esize(c, c->out);
    if (!on_tiles(&part, &in, x)) return false;
    copy_rows(c->out[0].p, r.nc, at(&wide, (r.r0 - x.r0) * x.nc + r.c0 - x.c0, size), x.nc, r.nr,
              r.nc, size);
    return true;
}

HadamardPlan ev_hadamard_plan(Eval *e, i64 n)
{
    for (u32 i = 0; i < e->plans.n; i++)
        if (e->plans.at[i].n == n) return e->plans.at[i];
    HadamardPlan p;
    hadamard_plan(&e->a, n, &p);
    vec_push(&e->a, &e->plans, p);
    return p;
}

/* Values and scales to values: computed for whole groups, so that a rectangle and its scales see
 * the same operand. */
static bool tile_groups(OpCall *c)
{
    Rect r = c->rect, x = r;
    i64 cols = tensor_cols(&c->in[0]), group = op_int(c->op, A_GROUP);
    if (group <= 0) group = cols;
    if (c->op->kind == OP_QPARAMS || c->op->kind == OP_QPARAMS_ASYM) return tile_scales(c, group);
    i64 g0 = r.c0 / group, g1 = (r.c0 + r.nc + group - 1) / group;
    x.c0 = g0 * group;
    x.nc = (g1 * group < cols ? g1 * group : cols) - x.c0;
    Tensor in[3] = {0};
    if (!ev_fetch(c, 0, x, &in[0])) return false;
    for (u32 k = 1; k < c->nin; k++)
        if (c->op->in[k] && !fetch_broadcast(c, k, (Rect){r.r0, r.nr, g0, g1 - g0}, &in[k]))
            return false;
    if (x.nc == r.nc) return on_tiles(c, in, r);
    Tensor wide = scratch_matrix(c->e, c->out[0].dt, x.nr, x.nc), *out = c->out;
    size_t size = esize(c, out);
    OpCall part = *c;
    part.out = &wide;
    if (!on_tiles(&part, in, x)) return false;
    copy_rows(out->p, r.nc, at(&wide, r.c0 - x.c0, size), x.nc, r.nr, r.nc, size);
    return true;
}

static bool pack_tiles_of(OpCall *c, i64 t0, i64 nt, u8 *out);

/* A packed constant as a value: its bytes. */
static bool tile_pack(OpCall *c)
{
    const PackLayout *l = pack_layout(op_str(c->e->m, c->op, A_LAYOUT));
    i64 bytes = pack_tile_bytes(l, c->in[0].dim[1]), lo = c->rect.c0, hi = lo + c->rect.nc;
    u8 *tile = ev_scratch(c->e, bytes, 1);
    for (i64 t = lo / bytes; t * bytes < hi; t++) {
        if (!pack_tiles_of(c, t, 1, tile)) return false;
        for (i64 i = t * bytes > lo ? t * bytes : lo; i < (t + 1) * bytes && i < hi; i++)
            c->out[0].i[i - lo] = tile[i - t * bytes];
    }
    return true;
}

bool ev_run(OpCall *c)
{
    bool ok;
    switch (op_info[c->op->kind].tile) {
    case TILE_RESHAPE:
    case TILE_TRANSPOSE:
    case TILE_SLICE:
    case TILE_CONCAT:
    case TILE_UNPERMUTE: return ev_move(c);
    case TILE_ELEM: ok = tile_elem(c); break;
    case TILE_MIX: ok = tile_mix(c); break;
    case TILE_GROUPS: ok = tile_groups(c); break;
    case TILE_PACK: ok = tile_pack(c); break;
    default: ok = c->e->ops[c->op->kind](c); break;
    }
    for (u32 i = 0; ok && i < c->op->nout; i++)
        ev_round(c->e, &c->out[i]);
    return ok;
}

/* ---- constants ---- */

static MemoEntry **memo_bucket(Eval *e, ValueId v, Rect r)
{
    u64 h = (v * 0x9e3779b1u) ^ (u64)r.r0 * 0x85ebca6bu ^ (u64)r.c0 * 0xc2b2ae35u ^ (u64)r.nc;
    return &e->memo->bucket[(h ^ h >> 17) % MEMO_BUCKETS];
}

static bool memo_find(Eval *e, ValueId v, Rect r, Tensor *out)
{
    for (MemoEntry *m = *memo_bucket(e, v, r); m; m = m->next)
        if (m->v == v && memcmp(&m->rect, &r, sizeof r) == 0) {
            *out = m->t;
            return true;
        }
    return false;
}

static void memo_add(Eval *e, ValueId v, Rect r, const Tensor *t)
{
    MemoEntry **b = memo_bucket(e, v, r), *m = ev_scratch(e, 1, sizeof *m);
    *m = (MemoEntry){v, r, *t, *b};
    *b = m;
}

/* Ops whose result is their operand, bit for bit. */
static bool is_alias(const Module *m, const Op *op)
{
    return op->kind == OP_COPY ||
           (op->kind == OP_CAST && type_of(m, op->out)->dt == type_of(m, op->in[0])->dt);
}

static bool compute(Eval *e, ValueId v, const Op *op, Rect r, Tensor *out)
{
    OpCall c = {.e = e, .op = op, .rect = r, .nin = op->nin};
    c.in = ev_scratch(e, op->nin, sizeof *c.in);
    for (u32 k = 0; k < op->nin; k++) {
        c.in[k] = (Tensor){0};
        if (op->in[k]) ev_tensor_shape(e->m, op->in[k], &c.in[k]);
    }
    Tensor res[2];
    for (u32 i = 0; i < op->nout; i++)
        res[i] = scratch_matrix(e, type_of(e->m, op->out + i)->dt, r.nr, r.nc);
    c.out = res;
    if (!ev_run(&c)) return false;
    for (u32 i = 0; i < op->nout; i++)
        if (op->nout > 1 || e->uses[op->out + i] > 1) memo_add(e, op->out + i, r, &res[i]);
    *out = res[v - op->out];
    return true;
}

/* All rows of op's operand, then mixed in place: a weight that is mixed exists once, not as operand
 * and result. */
static bool compute_mixed(Eval *e, const Op *op, Tensor *whole)
{
    enum { FILL_ELEMS = 1 << 20 };
    i64 rows = whole->dim[0], cols = whole->dim[1], step = FILL_ELEMS / (cols + 1) + 1;
    size_t size = ev_esize(e, whole->dt);
    for (i64 r0 = 0, n; r0 < rows; r0 += n) {
        n = rows - r0 < step ? rows - r0 : step;
        Scope s = ev_scope(e);
        Tensor part;
        bool ok = ev_const_rect(e, op->in[0], (Rect){r0, n, 0, cols}, &part);
        if (ok) memcpy(at(whole, r0 * cols, size), part.p, (size_t)(n * cols) * size);
        ev_scope_end(e, s);
        if (!ok) return false;
    }
    OpCall c = {.e = e, .op = op, .nin = op->nin, .in = whole, .out = whole};
    c.rect = (Rect){0, rows, 0, cols};
    if (!e->ops[op->kind](&c)) return false;
    ev_round(e, whole);
    return true;
}

/* A weight whose rows are mixed is computed whole once, not once per tile; the last such weight is
 * kept. */
static bool mixed_rect(Eval *e, ValueId v, const Op *op, Rect r, Tensor *out)
{
    const Type *t = type_of(e->m, v);
    i64 rows = type_rows(t), cols = type_cols(t);
    size_t size = ev_esize(e, t->dt);
    if (e->mixed_v != v) {
        free(e->mixed.p);
        e->mixed_v = 0;
        e->mixed.p = NULL;
        Tensor whole = matrix(t->dt, rows, cols, xmalloc((size_t)rows * (size_t)cols, size));
        if (!compute_mixed(e, op, &whole)) {
            free(whole.p);
            return false;
        }
        free(e->mixed.p); /* the operand's, if it was such a weight */
        e->mixed = whole;
        e->mixed_v = v;
    }
    *out = scratch_matrix(e, t->dt, r.nr, r.nc);
    copy_rows(out->p, r.nc, at(&e->mixed, r.r0 * cols + r.c0, size), cols, r.nr, r.nc, size);
    return true;
}

static bool mixes_rows(const Module *m, const Op *op)
{
    return op->kind == OP_HADAMARD && *op_str(m, op, A_MODE);
}

static bool compute_nested(Eval *e, ValueId v, Rect r, Tensor *out)
{
    const Op *op = def_of(e->m, v);
    if (op_info[op->kind].tile == TILE_NONE)
        return ev_fail(e, op, "has no value that is known when compiling");
    if (e->depth >= DEPTH_MAX)
        return ev_fail(e, op, "constant expressions nest deeper than %d", DEPTH_MAX);
    e->depth++;
    bool ok = is_alias(e->m, op)     ? ev_const_rect(e, op->in[0], r, out)
              : mixes_rows(e->m, op) ? mixed_rect(e, v, op, r, out)
                                     : compute(e, v, op, r, out);
    e->depth--;
    return ok;
}

static bool keep_small(Eval *e, ValueId v, i64 n)
{
    Tensor t;
    if (!compute_nested(e, v, (Rect){0, 1, 0, n}, &t)) return false;
    size_t bytes = (size_t)n * ev_esize(e, t.dt);
    e->small[v] = matrix(t.dt, 1, n, xmalloc(bytes, 1));
    memcpy(e->small[v].p, t.p, bytes);
    return true;
}

bool ev_const_rect(Eval *e, ValueId v, Rect r, Tensor *out)
{
    if (v >= e->nvalues) return ev_fail(e, NULL, "the module grew while it was evaluated");
    const Type *t = type_of(e->m, v);
    i64 n = type_elems(t);
    if (n < 0) return ev_fail(e, def_of(e->m, v), "has no value that is known when compiling");
    if (t->rank <= 1 && n <= SMALL_ELEMS) {
        if (!e->small[v].p && !keep_small(e, v, n)) return false;
        *out = matrix(t->dt, 1, r.nc, at(&e->small[v], r.c0, ev_esize(e, t->dt)));
        return true;
    }
    return memo_find(e, v, r, out) || compute_nested(e, v, r, out);
}

bool eval_const(Eval *e, ValueId v, i64 r0, i64 nr, i64 c0, i64 nc, Tensor *out)
{
    if (!is_const(e->m, v)) return ev_fail(e, NULL, "value %u is no constant", v);
    const Type *t = type_of(e->m, v);
    i64 rows = type_rows(t), cols = type_cols(t);
    if (r0 < 0 || nr < 1 || c0 < 0 || nc < 1 || r0 > rows - nr || c0 > cols - nc)
        return ev_fail(e, def_of(e->m, v), "a rectangle outside of the value was asked for");
    size_t size = ev_esize(e, t->dt);
    *out = matrix(t->dt, nr, nc, NULL);
    out->p = xmalloc((size_t)nr * (size_t)nc,
                     size); /* the product fits: it is at most the type's elements */
    vec_push(&e->a, &e->keep, out->p);
    i64 step = TILE_ELEMS / nc > 1 ? TILE_ELEMS / nc : 1;
    bool ok = true;
    for (i64 i = 0; ok && i < nr; i += step) {
        Rect r = {r0 + i, nr - i < step ? nr - i : step, c0, nc};
        Scope s = ev_scope(e);
        Tensor tile;
        ok = ev_const_rect(e, v, r, &tile);
        if (ok) memcpy(at(out, i * nc, size), tile.p, (size_t)(r.nr * nc) * size);
        ev_scope_end(e, s);
    }
    return ok;
}

/* ---- packing ---- */

/* Rows [r0, r0 + nr) of operand k, columns [c0, c0 + nc), as PACK_ROWS rows padded with zeros;
 * floats as float. */
static bool pack_operand(OpCall *c, u32 k, Rect r, void **out)
{
    Tensor t;
    if (!ev_fetch(c, k, r, &t)) return false;
    *out = t.p;
    bool narrow = esize(c, &t) == 8;
    if (r.nr == PACK_ROWS && !narrow) return true;
    float *pad = ev_scratch(c->e, PACK_ROWS * r.nc, 4);
    memset(pad, 0, (size_t)(PACK_ROWS * r.nc) * 4);
    if (narrow)
        for (i64 i = 0; i < r.nr * r.nc; i++)
            pad[i] = (float)t.d[i];
    else
        memcpy(pad, t.p, (size_t)(r.nr * r.nc) * 4);
    *out = pad;
    return true;
}

/* One tile: PACK_ROWS rows from r0 on (fewer at a block's end), in column chunks where the layout
 * lets us. */
static bool pack_one(OpCall *c, const PackLayout *l, i64 r0, i64 nr, u8 *out)
{
    i64 cols = c->in[0].dim[1], step = l->head_bytes ? cols : PACK_COLS;
    for (i64 c0 = 0; c0 < cols; c0 += step) {
        i64 nc = cols - c0 < step ? cols - c0 : step;
        Scope s = ev_scope(c->e);
        void *part[3] = {NULL, NULL, NULL};
        bool ok = true;
        for (u32 k = 0; ok && k < l->operands; k++) {
            i64 g0 = l->group ? c0 / l->group : 0,
                g1 = l->group ? (c0 + nc + l->group - 1) / l->group : 1;
            Rect r = k ? (Rect){r0, nr, g0, g1 - g0} : (Rect){r0, nr, c0, nc};
            ok = pack_operand(c, k, r, &part[k]);
        }
        bool ints = l->operands > 1;
        if (ok)
            pack_tile(l, nc, ints ? part[0] : NULL, ints ? NULL : part[0], part[1], part[2], out);
        ev_scope_end(c->e, s);
        if (!ok) return false;
        out += pack_tile_bytes(l, nc);
    }
    return true;
}

static bool pack_tiles_of(OpCall *c, i64 t0, i64 nt, u8 *out)
{
    const PackLayout *l = pack_layout(op_str(c->e->m, c->op, A_LAYOUT));
    i64 parts = op_int(c->op, A_INTERLEAVE), rows = c->in[0].dim[0] / parts;
    for (i64 t = t0; t < t0 + nt; t++) {
        i64 first = t / parts * PACK_ROWS, n = rows - first < PACK_ROWS ? rows - first : PACK_ROWS;
        if (!pack_one(c, l, t % parts * rows + first, n, out)) return false;
        out += pack_tile_bytes(l, c->in[0].dim[1]);
    }
    return true;
}

bool eval_pack(Eval *e, ValueId v, i64 t0, i64 nt, u8 *out)
{
    const Op *op = def_of(e->m, v);
    if (op->kind != OP_PACK) return ev_fail(e, op, "is no packed weight");
    Tensor in[3];
    for (u32 k = 0; k < op->nin; k++)
        ev_tensor_shape(e->m, op->in[k], &in[k]);
    if (t0 < 0 || nt < 0 || t0 > pack_tiles(in[0].dim[0], op_int(op, A_INTERLEAVE)) - nt)
        return ev_fail(e, op, "tiles outside of the value were asked for");
    OpCall c = {.e = e, .op = op, .nin = op->nin, .in = in};
    return pack_tiles_of(&c, t0, nt, out);
}
