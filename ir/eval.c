/* The evaluator's life: scratch memory, states, files, and running functions. Constants: const.c;
 * ops: eval_ops.h. */
#include "ir/eval_int.h"

#include "ir/base/half.h"
#include "ir/encoding.h"

#include <math.h>
#include <stdlib.h>

/* ---- diagnostics ---- */

static const char *op_name(const Eval *e, const Op *op)
{
    StrId name = op->nout && op->out < e->m->values.n ? value_at(e->m, op->out)->name : 0;
    const char *mnemonic = op_info[op->kind].mnemonic;
    return name ? arena_printf(e->d->a, "%s '%s'", mnemonic, ir_cstr(e->m, name)) : mnemonic;
}

bool ev_fail(Eval *e, const Op *op, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    const char *text = arena_vprintf(e->d->a, fmt, ap);
    va_end(ap);
    return diag_error(e->d, E_IR_EVAL, op ? LOC_WHAT(op_name(e, op)) : LOC_NONE, "%s", text);
}

/* ---- scratch ---- */

enum { SCRATCH_BLOCK = 1 << 20, SCRATCH_ALIGN = 64 };

struct ScratchBlock {
    ScratchBlock *next;
    size_t size;
    alignas(SCRATCH_ALIGN) u8 data[];
};

static ScratchBlock *scratch_block(size_t need)
{
    size_t size = need > SCRATCH_BLOCK ? need : SCRATCH_BLOCK;
    size = (size + SCRATCH_ALIGN - 1) / SCRATCH_ALIGN * SCRATCH_ALIGN;
    ScratchBlock *b = aligned_alloc(SCRATCH_ALIGN, sizeof *b + size);
    if (!b) die_oom();
    b->size = size;
    b->next = NULL;
    return b;
}

void *ev_scratch(Eval *e, i64 count, size_t size)
{
    Scratch *s = &e->scratch;
    u64 bytes;
    if (count < 0 || !ckd_mul(&bytes, (u64)count, size) || bytes > SIZE_MAX / 4) die_oom();
    bytes = (bytes + SCRATCH_ALIGN - 1) & ~(u64)(SCRATCH_ALIGN - 1);
    if (!s->cur || s->cur->size - s->used < bytes) {
        ScratchBlock **link = s->cur ? &s->cur->next : &s->first;
        if (!*link ||
            (*link)->size < bytes) { /* a block too small is only moved behind the new one */
            ScratchBlock *b = scratch_block(bytes);
            b->next = *link;
            *link = b;
        }
        s->cur = *link;
        s->used = 0;
    }
    void *p = s->cur->data + s->used;
    s->used += bytes;
    return p;
}

Scope ev_scope(Eval *e)
{
    Scope s = {e->scratch.cur, e->scratch.used, e->memo};
    e->memo = ev_scratch(e, 1, sizeof *e->memo);
    memset(e->memo, 0, sizeof *e->memo);
    return s;
}

void ev_scope_end(Eval *e, Scope s)
{
    e->scratch.cur = s.cur;
    e->scratch.used = s.used;
    e->memo = s.outer;
}

/* ---- life ---- */

static void count_uses(Eval *e)
{
    const Module *m = e->m;
    for (OpId i = 1; i < m->ops.n; i++) {
        const Op *op = op_at(m, i);
        for (u32 k = 0; op->kind && k < op->nin; k++)
            e->uses[op->in[k]]++;
    }
}

Eval *eval_new(Diag *d, Module *m, bool f64)
{
    Eval *e = xmalloc(1, sizeof *e);
    *e = (Eval){.d = d, .m = m, .f64 = f64, .nvalues = m->values.n};
    e->ops = f64 ? op_eval_f64 : op_eval_f32;
    e->uses = NEWN(&e->a, u32, e->nvalues);
    e->small = NEWN(&e->a, Tensor, e->nvalues);
    count_uses(e);
    eval_set_context(e, 64);
    return e;
}

static void drop_states(Eval *e)
{
    for (u32 i = 0; i < e->states.n; i++) {
        free(e->states.at[i].t[0].p);
        free(e->states.at[i].t[1].p);
    }
    e->states.n = 0;
}

void eval_reset(Eval *e)
{
    for (u32 i = 0; i < e->keep.n; i++)
        free(e->keep.at[i]);
    e->keep.n = 0;
}

void eval_free(Eval *e)
{
    if (!e) return;
    eval_reset(e);
    drop_states(e);
    free(e->mixed.p);
    for (u32 i = 0; i < e->nvalues; i++)
        free(e->small[i].p);
    for (ScratchBlock *b = e->scratch.first, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    arena_free(&e->a);
    free(e);
}

void eval_set_context(Eval *e, i64 c)
{
    drop_states(e);
    for (int i = 0; i <= DIM_SYMBOLS; i++)
        e->sym[i] = -1;
    e->sym[-DIM_C] = c;
}

void eval_watch(Eval *e, EvalWatch *watch, void *user)
{
    e->watch = watch;
    e->watch_user = user;
}

/* ---- tensors ---- */

i64 tensor_cols(const Tensor *t)
{
    return t->rank ? t->dim[t->rank - 1] : 1;
}

i64 tensor_rows(const Tensor *t)
{
    i64 n = 1;
    for (u32 i = 0; i + 1 < t->rank; i++)
        n *= t->dim[i];
    return n;
}

/* To `bits` significant bits, half to even, with the exponent range of IEEE formats: emin is that
 * of the smallest normal number (as frexp gives it), max the largest finite one. */
static double round_bits(double x, int bits, int emin, double max)
{
    int e;
    if (!isfinite(x)) return x;
    frexp(x, &e);
    int unit = (e > emin ? e : emin) - bits;
    double r = ldexp(nearbyint(ldexp(x, -unit)), unit);
    return fabs(r) > max ? copysign(INFINITY, x) : r;
}

double ev_round_to(DType dt, double x)
{
    switch (dt) {
    case DT_F16: return round_bits(x, 11, -13, 65504);
    case DT_BF16: return round_bits(x, 8, -125, 0x1.fep127);
    default: return x;
    }
}

void ev_round(Eval *e, Tensor *t)
{
    if (t->dt != DT_F16 && t->dt != DT_BF16) return;
    i64 n = tensor_rows(t) * tensor_cols(t);
    if (e->f64)
        for (i64 i = 0; i < n; i++)
            t->d[i] = ev_round_to(t->dt, t->d[i]);
    else if (t->dt == DT_F16)
        for (i64 i = 0; i < n; i++)
            t->f[i] = f16_to_f32(f32_to_f16(t->f[i]));
    else
        for (i64 i = 0; i < n; i++)
            t->f[i] = bf16_to_f32(f32_to_bf16(t->f[i]));
}

/* Shape of a type with T, R and C as bound now; false after a diagnostic. */
static bool resolve(Eval *e, const Op *op, const Type *t, Tensor *out)
{
    *out = (Tensor){.dt = t->dt, .rank = t->rank};
    i64 n = 1;
    for (u32 i = 0; i < t->rank; i++) {
        i64 dim = t->dim[i] >= 0 ? t->dim[i] : e->sym[-t->dim[i]];
        if (dim < 0)
            return ev_fail(e, op, "the size of a symbolic dimension is not known in this call");
        out->dim[i] = dim;
        if (__builtin_mul_overflow(n, dim, &n) || n > INT64_MAX / 16)
            return ev_fail(e, op, "a value has too many elements");
    }
    return true;
}

static void *tensor_alloc(Eval *e, Tensor *t)
{
    return t->p = xmalloc((size_t)(tensor_rows(t) * tensor_cols(t)), ev_esize(e, t->dt));
}

static void tensor_zero(Eval *e, Tensor *t)
{
    memset(tensor_alloc(e, t), 0, (size_t)(tensor_rows(t) * tensor_cols(t)) * ev_esize(e, t->dt));
}

/* ---- states ---- */

static EvState *find_state(Eval *e, ValueId v, i64 cache)
{
    for (u32 i = 0; i < e->states.n; i++)
        if (e->states.at[i].v == v && e->states.at[i].cache == cache) return &e->states.at[i];
    return NULL;
}

static EvState *add_state(Eval *e, EvState s)
{
    vec_push(&e->a, &e->states, s);
    return &e->states.at[e->states.n - 1];
}

EvState *ev_state(Eval *e, ValueId v)
{
    EvState *s = find_state(e, v, 0);
    if (s) return s;
    const Op *op = def_of(e->m, v);
    if (op->kind != OP_STATE) {
        ev_fail(e, op, "is used as a state and is none");
        return NULL;
    }
    EvState fresh = {.v = v};
    Type t = *type_of(e->m, v);
    for (u32 i = 0; i < t.rank; i++)
        if (t.dim[i] == DIM_T)
            t.dim[i] = DIM_C; /* room for a call of any size; `rows` says what is filled */
    if (!resolve(e, op, &t, &fresh.t[0])) return NULL;
    tensor_zero(e, &fresh.t[0]);
    return add_state(e, fresh);
}

EvState *ev_cache(Eval *e, i64 cache, i64 heads, i64 head_dim)
{
    EvState *s = find_state(e, 0, cache);
    if (s) {
        if (s->t[0].dim[1] == heads && s->t[0].dim[2] == head_dim) return s;
        ev_fail(e, NULL, "two attention ops of different shapes share the cache %lld",
                (long long)cache);
        return NULL;
    }
    EvState fresh = {.cache = cache};
    Type t = {.dt = DT_F32, .rank = 3, .dim = {DIM_C, heads, head_dim}};
    for (int i = 0; i < 2; i++) {
        if (!resolve(e, NULL, &t, &fresh.t[i])) {
            free(fresh.t[0].p);
            return NULL;
        }
        tensor_zero(e, &fresh.t[i]);
    }
    return add_state(e, fresh);
}

/* ---- functions ---- */

typedef struct Frame {
    Tensor *val; /* [values] heap tensors of live values */
    u32 *last;   /* [values] index of the last op that reads it; the body's length: a result */
} Frame;

static bool bind_args(Eval *e, const Fn *f, const Tensor *args)
{
    e->sym[-DIM_T] = e->sym[-DIM_R] = -1;
    for (u32 i = 0; i < f->params.n; i++) {
        const Type *t = type_of(e->m, f->params.at[i]);
        bool ok = args[i].rank == t->rank &&
                  dtype_info[args[i].dt].is_float == dtype_info[t->dt].is_float;
        for (u32 k = 0; ok && k < t->rank; k++) {
            i64 *want = t->dim[k] < 0 ? &e->sym[-t->dim[k]] : NULL;
            if (want && *want < 0) *want = args[i].dim[k];
            ok = args[i].dim[k] > 0 && args[i].dim[k] == (want ? *want : t->dim[k]);
        }
        const char *name = ir_cstr(e->m, f->name);
        if (!ok)
            return ev_fail(e, NULL, "argument %u of @%s has another shape than the parameter", i,
                           name);
    }
    return true;
}

/* Operands that an op reads in pieces of its own choosing: a weight need not be in memory whole. */
static bool streams(const Op *op, u32 k)
{
    switch (op->kind) {
    case OP_LINEAR:
    case OP_EMBEDDING: return k == 1;
    case OP_QLINEAR: return k >= 2 && k <= 4;
    default: return op_info[op->kind].tile != TILE_NONE;
    }
}

static bool state_operand(Eval *e, const Op *op, u32 k, Tensor *out)
{
    EvState *s = ev_state(e, op->in[k]);
    if (!s) return false;
    *out = s->t[0];
    if (op->kind == OP_ROWS) out->dim[0] = s->rows;
    return true;
}

static bool operand(Eval *e, const Frame *fr, const Op *op, u32 k, Tensor *out)
{
    ValueId v = op->in[k];
    *out = (Tensor){0};
    if (!v) return true;
    if (!is_const(e->m, v)) {
        *out = fr->val[v];
        return out->p || ev_fail(e, op, "operand %u has not been computed", k);
    }
    if (def_of(e->m, v)->kind == OP_STATE) return state_operand(e, op, k, out);
    ev_tensor_shape(e->m, v, out);
    if (streams(op, k)) return true;
    Tensor whole, shape = *out;
    if (!ev_const_rect(e, v, (Rect){0, tensor_rows(out), 0, tensor_cols(out)}, &whole))
        return false;
    *out = shape;
    out->p = whole.p;
    return true;
}

static bool run_op(Eval *e, Frame *fr, OpId id)
{
    const Op *op = op_at(e->m, id);
    Tensor out[2] = {0};
    for (u32 i = 0; i < op->nout; i++) {
        if (!resolve(e, op, type_of(e->m, op->out + i), &out[i])) return false;
        tensor_alloc(e, &out[i]);
        fr->val[op->out + i] = out[i];
    }
    Scope s = ev_scope(e);
    OpCall c = {.e = e, .op = op, .nin = op->nin, .out = out};
    c.in = ev_scratch(e, op->nin, sizeof *c.in);
    bool ok = true;
    for (u32 k = 0; ok && k < op->nin; k++)
        ok = operand(e, fr, op, k, &c.in[k]);
    c.rect = (Rect){0, tensor_rows(&out[0]), 0, tensor_cols(&out[0])};
    ok = ok && ev_run(&c);
    ev_scope_end(e, s);
    if (ok && e->watch) e->watch(e->watch_user, e, id, out);
    return ok;
}

static void release(Frame *fr, ValueId v)
{
    free(fr->val[v].p);
    fr->val[v].p = NULL;
}

/* Frees the operands that op number i read last, and results that nobody reads. */
static void release_dead(Frame *fr, const Module *m, const Op *op, u32 i)
{
    for (u32 k = 0; k < op->nin; k++) {
        ValueId v = op->in[k];
        bool computed =
            v && !is_const(m, v) && def_of(m, v)->kind; /* not a parameter, which is the caller's */
        if (computed && fr->last[v] == i) release(fr, v);
    }
    for (u32 k = 0; k < op->nout; k++)
        if (fr->last[op->out + k] == UINT32_MAX) release(fr, op->out + k);
}

static void find_last_uses(const Module *m, const Fn *f, Frame *fr)
{
    for (u32 i = 0; i < m->values.n; i++)
        fr->last[i] = UINT32_MAX;
    for (u32 i = 0; i < f->body.n; i++) {
        const Op *op = op_at(m, f->body.at[i]);
        for (u32 k = 0; k < op->nin; k++)
            fr->last[op->in[k]] = i;
    }
    for (u32 i = 0; i < f->results.n; i++)
        fr->last[f->results.at[i]] = f->body.n;
}

/* Copies a result out, so that a parameter or a constant may be a result as well. */
static bool give_result(Eval *e, Frame *fr, ValueId v, Tensor *out)
{
    Tensor src = fr->val[v], whole;
    Scope s = ev_scope(e);
    bool ok = true;
    if (is_const(e->m, v)) {
        ev_tensor_shape(e->m, v, &src);
        ok = ev_const_rect(e, v, (Rect){0, tensor_rows(&src), 0, tensor_cols(&src)}, &whole);
        src.p = ok ? whole.p : NULL;
    } else if (!src.p)
        ok = ev_fail(e, NULL, "a result has not been computed");
    *out = src;
    if (ok) {
        vec_push(&e->a, &e->keep, tensor_alloc(e, out));
        memcpy(out->p, src.p,
               (size_t)(tensor_rows(&src) * tensor_cols(&src)) * ev_esize(e, src.dt));
    }
    ev_scope_end(e, s);
    return ok;
}

bool eval_call(Eval *e, u32 fn, const Tensor *args, Tensor *out)
{
    const Module *m = e->m;
    const Fn *f = &m->fns.at[fn];
    if (!bind_args(e, f, args)) return false;
    Arena a = {0};
    Frame fr = {NEWN(&a, Tensor, m->values.n), NEWN(&a, u32, m->values.n)};
    find_last_uses(m, f, &fr);
    for (u32 i = 0; i < f->params.n; i++)
        fr.val[f->params.at[i]] = args[i];
    bool ok = true;
    for (u32 i = 0; ok && i < f->body.n; i++) {
        ok = run_op(e, &fr, f->body.at[i]);
        release_dead(&fr, m, op_at(m, f->body.at[i]), i);
    }
    for (u32 i = 0; ok && i < f->results.n; i++)
        ok = give_result(e, &fr, f->results.at[i], &out[i]);
    for (u32 i = 0; i < f->params.n; i++)
        fr.val[f->params.at[i]].p = NULL;
    for (u32 i = 0; i < m->values.n; i++)
        free(fr.val[i].p);
    arena_free(&a);
    return ok;
}

/* ---- files ---- */

static bool open_file(Diag *d, Module *m, File *f)
{
    if (!f->open && !io_map(d, m->a, io_join(m->a, m->dir, ir_cstr(m, f->path)), &f->map))
        return false;
    f->open = true;
    return !f->bytes || f->bytes == f->map.size ||
           diag_error(d, E_FILE_READ, LOC_WHAT(f->map.name),
                      "the file has %llu bytes, the module expects %llu",
                      (unsigned long long)f->map.size, (unsigned long long)f->bytes);
}

static bool check_tensor(Diag *d, const Module *m, const Op *op)
{
    const char *what = arena_printf(m->a, "tensor '%s'", ir_cstr(m, value_at(m, op->out)->name));
    const char *enc = op_str(m, op, A_ENC);
    EncId id = enc_by_name(str_c(enc));
    i64 file = op_int(op, A_FILE), offset = op_int(op, A_OFFSET);
    const Type *t = type_of(m, op->out);
    u64 bytes, end;
    if (!id) return diag_error(d, E_IR_EVAL, LOC_WHAT(what), "unknown encoding '%s'", enc);
    if (file < 0 || file >= (i64)m->files.n)
        return diag_error(d, E_IR_EVAL, LOC_WHAT(what), "the module has no file %lld",
                          (long long)file);
    const File *f = &m->files.at[file];
    if (!f->open) return false;
    if (type_cols(t) % (i64)enc_info(id)->block)
        return diag_error(d, E_IR_EVAL, LOC_WHAT(what),
                          "rows of %lld elements are not whole blocks of %u (%s)",
                          (long long)type_cols(t), enc_info(id)->block, enc);
    bool fits = offset >= 0 && enc_bytes(id, (u64)type_elems(t), &bytes) &&
                ckd_add(&end, (u64)offset, bytes);
    if (fits && end <= f->map.size) return true;
    return diag_error(d, E_FILE_READ, LOC_WHAT(what),
                      "its bytes lie outside '%s', which has %llu bytes", f->map.name,
                      (unsigned long long)f->map.size);
}

bool eval_open(Diag *d, Module *m)
{
    bool ok = true;
    for (u32 i = 0; i < m->files.n; i++)
        ok &= open_file(d, m, &m->files.at[i]);
    for (OpId i = 1; i < m->ops.n; i++)
        if (op_at(m, i)->kind == OP_TENSOR) ok &= check_tensor(d, m, op_at(m, i));
    return ok;
}
