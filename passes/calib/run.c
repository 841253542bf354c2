/* The runner: ranges of @main's ops over sequences, on threads. */
#include "passes/calib/calib_int.h"

#include <cblas.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ir/base/meter.h"

i64 calib_elems(const Tensor *t)
{
    return tensor_rows(t) * tensor_cols(t);
}

/* ---- threads ---- */

static void drop_worker_eval(Worker *w)
{
    eval_free(w->e);
    w->e = NULL;
}

/* Constants may have been added since the last run: an Eval knows the values of its day. */
bool calib_evals(Calib *c)
{
    if (c->worker[0].e && c->worker[0].nvalues == c->m->values.n) return true;
    for (u32 i = 0; i < c->nt; i++) {
        Worker *w = &c->worker[i];
        drop_worker_eval(w);
        w->e = eval_new(&w->d, c->m, false);
        w->nvalues = c->m->values.n;
    }
    return eval_open(c->d, c->m);
}

typedef struct Job {
    Worker *w;
    bool (*run)(Worker *w);
} Job;

static void *job_main(void *arg)
{
    const Job *j = arg;
    j->w->failed = !j->run(j->w);
    if (j->w->failed) atomic_store(&j->w->c->stop, true);
    return NULL;
}

bool calib_parallel(Calib *c, bool (*job)(Worker *w))
{
    Job jobs[CALIB_MAX_THREADS];
    bool started[CALIB_MAX_THREADS] = {false}, ok = true, told = false;
    atomic_store(&c->stop, false);
    for (u32 i = 0; i < c->nt; i++)
        jobs[i] = (Job){&c->worker[i], job};
    for (u32 i = 1; i < c->nt; i++)
        started[i] = pthread_create(&c->worker[i].thread, NULL, job_main, &jobs[i]) == 0;
    job_main(&jobs[0]);
    for (u32 i = 1; i < c->nt; i++) {
        if (started[i])
            pthread_join(c->worker[i].thread, NULL);
        else
            job_main(&jobs[i]); /* no thread to be had: its share is done here */
    }
    for (u32 i = 0; i < c->nt; i++) {
        Worker *w = &c->worker[i];
        if (!told && w->failed && w->d.msgs.n) { /* others stopped for this one, and say nothing */
            told = true;
            const struct DiagMsg *msg = &w->d.msgs.at[0];
            const char *what = msg->loc.what ? msg->loc.what : "calibration";
            diag_error(c->d, msg->code, LOC_WHAT(arena_strdup(c->m->a, what, strlen(what))), "%s",
                       msg->text);
        }
        ok = ok && !w->failed;
        w->d.msgs.n = 0;
    }
    return ok;
}

/* ---- buffers of a thread ---- */

static void *pool_take(Worker *w, u64 bytes)
{
    PoolBuf *best = NULL;
    bytes = (bytes + 63) / 64 * 64;
    for (u32 i = 0; i < w->pool.n; i++) {
        PoolBuf *b = &w->pool.at[i];
        if (!b->used && b->bytes >= bytes && b->bytes <= 2 * bytes + 4096 &&
            (!best || b->bytes < best->bytes))
            best = b;
    }
    if (!best) {
        PoolBuf fresh = {.p = aligned_alloc(64, bytes ? bytes : 64), .bytes = bytes};
        if (!fresh.p) die_oom();
        vec_push(&w->a, &w->pool, fresh);
        best = &w->pool.at[w->pool.n - 1];
    }
    best->used = true;
    return best->p;
}

/* Buffers of the run in progress are few; memory that is not a pool's (a kept value's) is left
 * alone. */
static bool pool_give(Worker *w, const void *p)
{
    for (u32 i = 0; i < w->pool.n; i++)
        if (w->pool.at[i].p == p) {
            w->pool.at[i].used = false;
            return true;
        }
    return false;
}

static void pool_free(Worker *w)
{
    for (u32 i = 0; i < w->pool.n; i++)
        free(w->pool.at[i].p);
    w->pool.n = 0;
}

/* ---- one op ---- */

static bool shape_of(Worker *w, const Op *op, ValueId v, i64 rows, Tensor *out)
{
    const Type *t = type_of(w->c->m, v);
    *out = (Tensor){.dt = t->dt, .rank = t->rank};
    i64 n = 1;
    for (u32 i = 0; i < t->rank; i++) {
        out->dim[i] = t->dim[i] == DIM_T ? rows : t->dim[i];
        if (out->dim[i] < 0) return ev_fail(w->e, op, "has a dimension that @main does not bind");
        if (__builtin_mul_overflow(n, out->dim[i], &n) || n > INT64_MAX / 16 ||
            (u64)n > w->c->memory / 4)
            return ev_fail(w->e, op, "a value of %lld tokens does not fit this machine's memory",
                           (long long)rows);
    }
    return true;
}

static bool operand(Worker *w, const Op *op, u32 k, Tensor *out)
{
    const Calib *c = w->c;
    ValueId v = op->in[k];
    *out = (Tensor){0};
    if (!v) return true;
    if (!is_const(c->m, v)) {
        *out = w->val[v];
        return out->p || ev_fail(w->e, op, "operand %u has not been computed", k);
    }
    if (def_of(c->m, v)->kind == OP_STATE) return ev_fail(w->e, op, "reads a state");
    ev_tensor_shape(c->m, v, out);
    if (!dense_streams(c, op, k)) out->p = (void *)(uintptr_t)dense_find(c, v, true);
    return true;
}

/* A reshape of a value that nothing else reads is the value. */
static bool takes_over(const Worker *w, const Op *op, u32 at)
{
    ValueId v = op_in(op, 0);
    if (op->kind != OP_RESHAPE || is_const(w->c->m, v) || !def_of(w->c->m, v)->kind) return false;
    if (w->c->last[v] != at) return false;
    for (u32 i = 0; i < w->pool.n; i++)
        if (w->pool.at[i].p == w->val[v].p) return true;
    return false;
}

static bool run_op(Worker *w, u32 at, i64 sequence, i64 row, i64 rows)
{
    Calib *c = w->c;
    OpId id = c->m->fns.at[c->fn].body.at[at];
    const Op *op = op_at(c->m, id);
    Tensor out[2] = {0};
    bool taken = takes_over(w, op, at), ok = true;
    for (u32 i = 0; i < op->nout; i++) {
        if (!shape_of(w, op, op->out + i, rows, &out[i])) return false;
        out[i].p = taken ? w->val[op->in[0]].p : pool_take(w, (u64)calib_elems(&out[i]) * 4);
        w->val[op->out + i] = out[i];
    }
    Scope s = ev_scope(w->e);
    OpCall call = {.e = w->e, .op = op, .nin = op->nin, .out = out};
    call.in = ev_scratch(w->e, op->nin, sizeof *call.in);
    for (u32 k = 0; ok && k < op->nin; k++)
        ok = operand(w, op, k, &call.in[k]);
    call.rect = (Rect){0, tensor_rows(&out[0]), 0, tensor_cols(&out[0])};
    ok = ok && (taken || ev_run(&call));
    if (taken) w->val[op->in[0]].p = NULL;
    if (ok && c->hook) {
        CalibCall hooked = {w->id, sequence, row, id, op->nin, call.in, out};
        ok = c->hook(c->user, &hooked);
    }
    ev_scope_end(w->e, s);
    return ok;
}

static void release(Worker *w, ValueId v)
{
    if (w->val[v].p && pool_give(w, w->val[v].p)) w->val[v].p = NULL;
}

static void release_dead(Worker *w, u32 at)
{
    const Calib *c = w->c;
    const Op *op = op_at(c->m, c->m->fns.at[c->fn].body.at[at]);
    for (u32 k = 0; k < op->nin; k++)
        if (op->in[k] && !is_const(c->m, op->in[k]) && c->last[op->in[k]] == at)
            release(w, op->in[k]);
    for (u32 k = 0; k < op->nout; k++)
        if (c->last[op->out + k] == UINT32_MAX) release(w, op->out + k);
}

/* ---- one sequence ---- */

static void widen_ints(const Kept *k, const u8 *p, i64 n, i32 *out)
{
    if (k->esize == 2)
        for (i64 i = 0; i < n; i++)
            out[i] = ((const int16_t *)(const void *)p)[i];
    else if (k->is_unsigned)
        for (i64 i = 0; i < n; i++)
            out[i] = p[i];
    else
        for (i64 i = 0; i < n; i++)
            out[i] = (signed char)p[i];
}

/* Values kept before the range, and the parameters. */
static bool load_inputs(Worker *w, i64 sequence, i64 row, i64 rows)
{
    Calib *c = w->c;
    const Fn *f = &c->m->fns.at[c->fn];
    for (u32 i = 0; i < c->kept.n; i++) {
        const Kept *k = &c->kept.at[i];
        Tensor *t = &w->val[k->v];
        if (!k->map || c->last[k->v] < c->from) continue;
        if (!shape_of(w, def_of(c->m, k->v), k->v, rows, t)) return false;
        i64 n = calib_elems(t);
        const u8 *p = k->map + (u64)sequence * k->bytes + (u64)(n / rows * row) * k->esize;
        if (k->esize == 4) {
            t->p = (void *)(uintptr_t)p;
        } else {
            t->p = pool_take(w, (u64)n * 4);
            widen_ints(k, p, n, t->i);
        }
    }
    for (u32 i = 0; i < f->params.n; i++) {
        bool tokens = strcmp(ir_cstr(c->m, value_at(c->m, f->params.at[i])->name), "tokens") == 0;
        w->val[f->params.at[i]] =
            (Tensor){.dt = DT_I32,
                     .rank = 1,
                     .dim = {rows},
                     .i = tokens ? c->tokens + sequence * c->length + row : c->pos + row};
    }
    return true;
}

/* Writes what is to be kept; forgets everything. */
static bool save_outputs(Worker *w, i64 sequence, i64 row)
{
    Calib *c = w->c;
    bool ok = true;
    for (u32 i = 0; i < c->kept.n; i++) {
        const Kept *k = &c->kept.at[i];
        if (!k->map && ok && !kept_write(c, sequence, &w->val[k->v], k->v, row))
            ok = ev_fail(w->e, NULL, "cannot write a temporary file");
    }
    return ok;
}

static void forget(Worker *w)
{
    for (u32 i = 0; i < w->pool.n; i++)
        w->pool.at[i].used = false;
    memset(w->val, 0, w->c->nvalues * sizeof *w->val);
}

static bool run_rows(Worker *w, i64 sequence, i64 row, i64 rows)
{
    Calib *c = w->c;
    bool ok = load_inputs(w, sequence, row, rows);
    w->e->sym[-DIM_T] = rows;
    for (u32 at = c->from; ok && at < c->end; at++) {
        ok = run_op(w, at, sequence, row, rows);
        release_dead(w, at);
    }
    ok = ok && save_outputs(w, sequence, row);
    forget(w);
    return ok;
}

/* Whole sequences, thread by thread. */
static bool sequences_job(Worker *w)
{
    Calib *c = w->c;
    for (i64 s = w->id; s < c->run_sequences; s += c->nt)
        if (atomic_load(&c->stop) || !run_rows(w, s, 0, c->length)) return false;
    return true;
}

/* Blocks of rows of some sequences, thread by thread. */
static bool blocks_job(Worker *w)
{
    const CalibRows *b = &w->c->blocks;
    u64 n = 0;
    for (i64 s = b->s0; s < b->s1; s++)
        for (i64 r = b->r0; r < b->r1; r += b->step, n++) {
            if (n % w->c->nt != w->id) continue;
            i64 rows = b->r1 - r < b->step ? b->r1 - r : b->step;
            if (atomic_load(&w->c->stop) || !run_rows(w, s, r, rows)) return false;
        }
    return true;
}

static bool range_job(Worker *w)
{
    OpEval *const *reference = w->e->ops;
    w->e->ops = w->c->ops;
    bool ok = w->c->blocks.step ? blocks_job(w) : sequences_job(w);
    w->e->ops = reference;
    return ok;
}

/* ---- a range ---- */

/* Where a part that starts at `from` ends, so that its constants fit in memory together. */
static u32 part_end(const Calib *c, u32 from, u32 end)
{
    const Fn *f = &c->m->fns.at[c->fn];
    u64 bytes = 0;
    for (u32 i = from; i < end; i++) {
        const Op *op = op_at(c->m, f->body.at[i]);
        for (u32 k = 0; k < op->nin; k++)
            if (op->in[k] && is_const(c->m, op->in[k]) && !dense_streams(c, op, k))
                bytes += dense_bytes(c, op->in[k]);
        if (bytes > c->range_bytes && i > from) return i;
    }
    return end;
}

static bool run_part(Calib *c, u32 from, u32 end, bool keep, bool transient)
{
    c->from = from;
    c->end = end;
    return dense_load(c, from, end) && (!keep || kept_open(c, from, end, transient)) &&
           calib_evals(c) && calib_parallel(c, range_job) && kept_map(c);
}

static bool run_range(Calib *c, u32 end, bool advance)
{
    bool ok = true;
    for (u32 from = c->at, to; ok && from < end; from = to) {
        to = part_end(c, from, end);
        ok = run_part(c, from, to, advance || to < end, !advance);
        if (!ok || !advance) continue;
        c->at = to;
        kept_drop(c, to, false);
        dense_drop_past(c, to);
    }
    kept_drop(c, 0, true);
    return ok;
}

bool calib_run(Calib *c, u32 end, i64 sequences, bool advance, CalibHook *hook, void *user)
{
    if (end < c->at || end > c->m->fns.at[c->fn].body.n || sequences > c->sequences ||
        (advance && sequences > 0 && sequences < c->sequences))
        BUG("calib_run: a range or number of sequences that there is not");
    c->run_sequences = sequences > 0 ? sequences : c->sequences;
    c->blocks = (CalibRows){0};
    c->hook = hook;
    c->user = user;
    return run_range(c, end, advance);
}

bool calib_run_rows(Calib *c, u32 end, CalibRows rows, CalibHook *hook, void *user)
{
    for (u32 i = c->at; i < end; i++)
        if (op_at(c->m, c->m->fns.at[c->fn].body.at[i])->kind == OP_ATTENTION)
            BUG("calib_run_rows: attention needs whole sequences");
    c->run_sequences = c->sequences;
    c->blocks = rows;
    c->hook = hook;
    c->user = user;
    return run_range(c, end, false);
}

/* ---- life ---- */

static u64 xorshift(u64 *x) /* Marsaglia's xorshift64 */
{
    *x ^= *x << 13, *x ^= *x >> 7, *x ^= *x << 17;
    return *x >> 11;
}

static i32 *random_tokens(Calib *c, i64 n)
{
    const Fn *f = &c->m->fns.at[c->fn];
    i64 vocab = ir_meta_get_int(c->m, "vocab", 0);
    if (vocab < 1 && f->results.n) vocab = type_cols(type_of(c->m, f->results.at[0]));
    if (vocab < 1) vocab = 1;
    i32 *t = NEWN(&c->a, i32, n);
    u64 x = 0x9e3779b97f4a7c15u;
    for (i64 i = 0; i < n; i++)
        t[i] = (i32)(xorshift(&x) % (u64)vocab);
    return t;
}

/* Sequences from anywhere in the text, none twice: the first of a shuffle. */
static i32 *chosen_sequences(Arena *a, const CalibSource *s, i64 sequences, i64 length)
{
    i64 all = s->n / length;
    i64 *at = NEWN(a, i64, all);
    i32 *t = NEWN(a, i32, sequences * length);
    u64 x = 0x9e3779b97f4a7c15u ^ (u64)s->seed * 0xff51afd7ed558ccdu;
    for (i64 i = 0; i < all; i++)
        at[i] = i;
    for (i64 i = 0; i < sequences; i++) {
        i64 k = i + (i64)(xorshift(&x) % (u64)(all - i)), take = at[k];
        at[k] = at[i];
        memcpy(t + i * length, s->tokens + take * length, (size_t)length * sizeof *t);
    }
    return t;
}

static bool check_main(Calib *c)
{
    c->fn = pass_fn_index(c->m, "main");
    if (!c->fn)
        return diag_error(c->d, E_PASS_CALIB, LOC_NONE,
                          "the module has no @main to run on text; calibrating passes go before "
                          "`phases`");
    const Fn *f = &c->m->fns.at[c->fn];
    for (u32 i = 0; i < f->params.n; i++) {
        ValueId v = f->params.at[i];
        const Type *t = type_of(c->m, v);
        const char *name = ir_cstr(c->m, value_at(c->m, v)->name);
        if ((strcmp(name, "tokens") != 0 && strcmp(name, "pos") != 0) || t->dt != DT_I32 ||
            t->rank != 1 || t->dim[0] != DIM_T)
            return diag_error(c->d, E_PASS_CALIB, LOC_NONE,
                              "@main's parameter '%s' is not tokens i32[T] or pos i32[T]", name);
    }
    return true;
}

static void find_last_uses(Calib *c)
{
    const Fn *f = &c->m->fns.at[c->fn];
    c->nvalues = c->m->values.n;
    c->last = NEWN(&c->a, u32, c->nvalues);
    memset(c->last, 0xff, c->nvalues * sizeof *c->last);
    for (u32 i = 0; i < f->body.n; i++) {
        const Op *op = op_at(c->m, f->body.at[i]);
        for (u32 k = 0; k < op->nin; k++)
            c->last[op->in[k]] = i;
    }
    for (u32 i = 0; i < f->params.n; i++)
        c->last[f->params.at[i]] = UINT32_MAX; /* made anew for every range */
}

static void make_workers(Calib *c)
{
    u32 nt = c->cx->calib->threads ? c->cx->calib->threads : cpu_count();
    if (nt > CALIB_MAX_THREADS) nt = CALIB_MAX_THREADS;
    c->nt = (i64)nt < c->sequences ? nt : (u32)c->sequences;
    c->worker = NEWN(&c->a, Worker, c->nt);
    for (u32 i = 0; i < c->nt; i++) {
        Worker *w = &c->worker[i];
        w->c = c;
        w->id = i;
        diag_init(&w->d, &w->a);
        w->val = NEWN(&c->a, Tensor, c->nvalues);
    }
    openblas_set_num_threads(1); /* every sequence is on one thread */
}

static Calib *calib_make(PassCx *cx, const i32 *tokens, i64 sequences, i64 length, i64 pos0)
{
    if (sequences < 1 || length < 1 || length > INT32_MAX || sequences > INT64_MAX / 64 / length)
        BUG("calib_new: %lld sequences of %lld tokens", (long long)sequences, (long long)length);
    Calib *c = xmalloc(1, sizeof *c);
    *c = (Calib){.cx = cx,
                 .m = cx->m,
                 .d = cx->d,
                 .sequences = sequences,
                 .length = length,
                 .memory = (u64)sysconf(_SC_PHYS_PAGES) * (u64)sysconf(_SC_PAGESIZE),
                 .spare = {.fd = -1},
                 .range_bytes = RANGE_BYTES,
                 .stream_bytes = STREAM_BYTES};
    if (!check_main(c)) return calib_free(c), NULL;
    c->pos0 = pos0 + eval_prefix(c->m);
    if (c->pos0 > INT32_MAX - length) {
        diag_error(c->d, E_PASS_CALIB, LOC_NONE, "positions beyond %d", INT32_MAX);
        return calib_free(c), NULL;
    }
    if (tokens) {
        c->tokens = NEWN(&c->a, i32, sequences * length);
        memcpy(c->tokens, tokens, (size_t)(sequences * length) * sizeof *tokens);
    } else
        c->tokens = random_tokens(c, sequences * length);
    c->pos = NEWN(&c->a, i32, length);
    for (i64 i = 0; i < length; i++)
        c->pos[i] = (i32)(c->pos0 + i);
    find_last_uses(c);
    fast_ops(c->ops);
    make_workers(c);
    return c;
}

Calib *calib_new_tokens(PassCx *cx, const i32 *tokens, i64 sequences, i64 length, i64 pos0)
{
    return calib_make(cx, tokens, sequences, length, pos0);
}

Calib *calib_new(PassCx *cx, i64 sequences, i64 length)
{
    const CalibSource *src = cx->calib;
    if (!calib_enough(cx, sequences, length)) return NULL;
    const i32 *tokens =
        src->tokens && src->seed ? chosen_sequences(cx->a, src, sequences, length) : src->tokens;
    return calib_make(cx, tokens, sequences, length, 0);
}

void calib_free(Calib *c)
{
    if (!c) return;
    kept_free(c);
    for (u32 i = 0; i < c->dense.n; i++)
        free(c->dense.at[i].p);
    for (u32 i = 0; c->worker && i < c->nt; i++) {
        drop_worker_eval(&c->worker[i]);
        pool_free(&c->worker[i]);
        arena_free(&c->worker[i].a);
    }
    arena_free(&c->a);
    free(c);
}

/* ---- what passes ask ---- */

void calib_half(Calib *c)
{
    fast_half(c->ops);
}

u32 calib_at(const Calib *c)
{
    return c->at;
}

const i32 *calib_tokens(const Calib *c)
{
    return c->tokens;
}

u32 calib_threads(const Calib *c)
{
    return c->nt;
}

void calib_override(Calib *c, ValueId constant, const float *dense)
{
    u32 i = 0;
    while (i < c->over.n && c->over.at[i].v != constant)
        i++;
    if (dense && !dtype_info[type_of(c->m, constant)->dt].is_float)
        BUG("calib_override: the constant holds integers");
    if (!dense && i < c->over.n)
        c->over.at[i] = c->over.at[--c->over.n];
    else if (dense && i < c->over.n)
        c->over.at[i].p = dense;
    else if (dense)
        vec_push(&c->a, &c->over, ((Override){constant, dense}));
}

const float *calib_weight(Calib *c, ValueId constant)
{
    if (!dtype_info[type_of(c->m, constant)->dt].is_float)
        BUG("calib_weight: the constant holds integers");
    if (!dense_load_one(c, constant)) return NULL;
    for (u32 i = 0; i < c->dense.n; i++)
        if (c->dense.at[i].v == constant) c->dense.at[i].pinned = true;
    return dense_find(c, constant, false);
}

const float *calib_value(const Calib *c, ValueId v, i64 sequence)
{
    const Kept *k = kept_find(c, v);
    if (!k || !dtype_info[type_of(c->m, v)->dt].is_float) return NULL;
    return (const float *)(const void *)(k->map + (u64)sequence * k->bytes);
}
