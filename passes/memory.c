/* memory: where every value that crosses steps lives. Values are taken in the order of the steps
 * that write them; each gets the lowest free range that is large enough. A range is free again
 * after the last step that reads it.
 */
#include "passes/pass.h"

enum { ALIGN = 64 };

typedef struct Buffer { /* values that share memory: one, and reshapes of it */
    u32 first, last;    /* steps between which it is needed */
    u64 bytes;
    i64 at; /* -1: no memory */
} Buffer;

typedef struct Plan {
    PassCx *cx;
    Module *m;
    u32 fn;
    u64 reserved; /* bytes at the start of every arena that states use */
    u32 *buffer;  /* [values] index into buffers, 0 none */
    VEC(Buffer) buffers;
} Plan;

static u64 round_up(u64 x)
{
    return (x + ALIGN - 1) / ALIGN * ALIGN;
}

static bool is_kv_state(const Module *m, const Op *op)
{
    const Type *t = type_of(m, op->out);
    return op->kind == OP_STATE && t->rank == 3 && t->dim[1] == DIM_C;
}

/* ---- sizes: strides of ARCHITECTURE.md, "Activations a kernel reads" ---- */

static u64 element_bytes(DType dt)
{
    return (dtype_info[dt].bits + 7u) / 8;
}

static u64 row_bytes(const Module *m, ValueId v)
{
    const Op *def = def_of(m, v);
    const Type *t = type_of(m, v);
    u64 k = 1;
    for (u32 i = 1; i < t->rank; i++)
        k *= (u64)t->dim[i];
    if (def->kind != OP_QUANTIZE) return k * element_bytes(t->dt);
    u64 unit = op_int(def, A_GROUP) ? 32 : 64;
    return (k + unit - 1) / unit * unit * element_bytes(t->dt);
}

static bool value_bytes(Plan *p, ValueId v, u64 *bytes)
{
    const Type *t = type_of(p->m, v);
    i64 rows = t->rank ? t->dim[0] : 1;
    if (rows == DIM_T) rows = ir_meta_get_int(p->m, "chunk", 0);
    if (rows == DIM_R) rows = ir_meta_get_int(p->m, "rows", 0);
    bool ok = rows > 0;
    u64 dims = 1;
    for (u32 i = 1; i < t->rank; i++)
        ok = ok && t->dim[i] > 0 && ckd_mul(&dims, dims, (u64)t->dim[i]);
    /* 2^40 elements leave room for every product below */
    if (!ok || dims >> 40 || !ckd_mul(bytes, (u64)rows, row_bytes(p->m, v)) || *bytes >> 46)
        return pass_fail(p->cx, def_of(p->m, v), "the value has no size that fits in memory");
    return true;
}

/* ---- live ranges ---- */

static Buffer *buffer_of(Plan *p, ValueId v)
{
    u32 i = p->buffer[v];
    return i ? &p->buffers.at[i] : NULL;
}

static bool find_ranges(Plan *p)
{
    const Module *m = p->m;
    const Fn *fn = &m->fns.at[p->fn];
    for (u32 i = 0; i < fn->body.n; i++) {
        const Op *op = op_at(m, fn->body.at[i]);
        for (u32 k = 0; k < op->nin; k++) {
            Buffer *b = buffer_of(p, op->in[k]);
            if (b && b->last < op->step) b->last = op->step;
        }
        if (op->kind == OP_RESHAPE) {
            p->buffer[op->out] = p->buffer[op->in[0]];
            continue;
        }
        for (u32 k = 0; k < op->nout; k++) {
            Buffer b = {.first = op->step, .last = op->step, .at = -1};
            if (!value_bytes(p, op->out + k, &b.bytes)) return false;
            p->buffer[op->out + k] = p->buffers.n;
            vec_push(p->cx->a, &p->buffers, b);
        }
    }
    for (u32 i = 0; i < fn->results.n; i++) {
        Buffer *b = buffer_of(p, fn->results.at[i]);
        if (b && b->last > b->first)
            return pass_fail(p->cx, def_of(m, fn->results.at[i]),
                             "a result of the function is also read inside it");
    }
    /* With one row, many steps run without a barrier between them. A buffer that waits one more
     * step before it is reused does not force one. */
    const Type *first = fn->params.n ? type_of(m, fn->params.at[0]) : NULL;
    for (u32 i = 1; first && first->rank == 1 && first->dim[0] == 1 && i < p->buffers.n; i++)
        if (p->buffers.at[i].last > p->buffers.at[i].first) p->buffers.at[i].last++;
    return true;
}

/* A value stored by the step that makes it is made in its place. */
static void place_stored(Plan *p)
{
    const Module *m = p->m;
    const Fn *fn = &m->fns.at[p->fn];
    for (u32 i = 0; i < fn->body.n; i++) {
        const Op *op = op_at(m, fn->body.at[i]);
        if (op->kind != OP_STORE) continue;
        Buffer *b = buffer_of(p, op->in[0]);
        const Attr *at = op_attr(def_of(m, op->in[1]), A_AT);
        if (b && b->first == op->step && at) b->at = at->ints[0];
    }
}

/* ---- places ---- */

/* Lowest offset for b among the buffers placed before it that are still needed. */
static u64 find_place(const Plan *p, const Buffer *b)
{
    u64 at = p->reserved;
    for (bool moved = true; moved;) {
        moved = false;
        for (u32 i = 1; i < p->buffers.n; i++) {
            const Buffer *o = &p->buffers.at[i];
            bool both_live = o->at >= 0 && o->first <= b->last && b->first <= o->last;
            if (!both_live || at >= (u64)o->at + round_up(o->bytes) || (u64)o->at >= at + b->bytes)
                continue;
            at = (u64)o->at + round_up(o->bytes);
            moved = true;
        }
    }
    return at;
}

static u64 place_all(Plan *p)
{
    u64 end = p->reserved;
    for (u32 i = 1; i < p->buffers.n; i++) {
        Buffer *b = &p->buffers.at[i];
        if (b->at >= 0 || b->last == b->first) continue;
        u64 at = find_place(p, b);
        b->at = (i64)at;
        if (at + round_up(b->bytes) > end) end = at + round_up(b->bytes);
    }
    return end;
}

static void write_places(Plan *p)
{
    Module *m = p->m;
    Fn *fn = &m->fns.at[p->fn];
    for (u32 i = 0; i < fn->body.n; i++) {
        OpId id = fn->body.at[i];
        i64 at[2];
        u32 n = op_at(m, id)->nout;
        for (u32 k = 0; k < n; k++) {
            const Buffer *b = buffer_of(p, op_at(m, id)->out + k);
            at[k] = b ? b->at : -1;
        }
        if (n) op_set_ints(m, id, A_AT, at, n);
    }
}

/* Bytes of a state, or of one token's rows in a cache [g,C,d]: the row of a head is whole bytes, so
 * 4-bit elements lie two in each. */
static bool state_bytes(const Type *t, bool cache, u64 *bytes)
{
    u64 bits = dtype_info[t->dt].bits;
    if (cache) {
        u64 row = 0;
        return t->dim[0] > 0 && t->dim[2] > 0 && ckd_mul(&row, (u64)t->dim[2], bits) &&
               row >> 46 == 0 && ckd_mul(bytes, (row + 7) / 8, (u64)t->dim[0]);
    }
    *bytes = element_bytes(t->dt);
    for (u32 k = 0; k < t->rank; k++)
        if (t->dim[k] <= 0 || !ckd_mul(bytes, *bytes, (u64)t->dim[k])) return false;
    return true;
}

/* States: those of the KV cache by bytes per token, the others at the start of the arena. */
static bool place_states(Plan *p)
{
    Module *m = p->m;
    u64 kv = 0;
    for (u32 i = 0; i < m->consts.n; i++) {
        OpId id = m->consts.at[i];
        const Op *op = op_at(m, id);
        if (op->kind != OP_STATE) continue;
        const Type *t = type_of(m, op->out);
        bool cache = is_kv_state(m, op);
        u64 size;
        bool ok = state_bytes(t, cache, &size);
        u64 *end = cache ? &kv : &p->reserved;
        if (!ok || size >> 46 || *end >> 46)
            return pass_fail(p->cx, op, "the state has no size that fits in memory");
        i64 at = (i64)*end;
        *end += cache ? size : round_up(size); /* a multiple of 64 tokens aligns each cache */
        op_set_ints(m, id, A_AT, &at, 1);
    }
    ir_meta_int(m, "kv_row_bytes", (i64)kv);
    return true;
}

bool pass_memory(PassCx *cx)
{
    Module *m = cx->m;
    Plan p = {.cx = cx, .m = m};
    if (!place_states(&p)) return false;
    p.buffer = NEWN(cx->a, u32, m->values.n);
    for (p.fn = 1; p.fn < m->fns.n; p.fn++) {
        p.buffers.n = 0;
        vec_push(cx->a, &p.buffers, ((Buffer){.at = -1}));
        if (!find_ranges(&p)) return false;
        place_stored(&p);
        m->fns.at[p.fn].act_bytes = place_all(&p);
        write_places(&p);
        cx->changes += p.buffers.n - 1;
    }
    return true;
}
