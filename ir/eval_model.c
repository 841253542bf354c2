/* Running a model: the functions of a module before and after the `phases` pass, as one call. */
#include "ir/eval_int.h"

#include <stdlib.h>

enum { CHUNK_DEFAULT = 64 };

static u32 fn_index(const Module *m, const char *name)
{
    for (u32 i = 1; i < m->fns.n; i++)
        if (strcmp(ir_cstr(m, m->fns.at[i].name), name) == 0) return i;
    return 0;
}

i64 eval_prefix(const Module *m)
{
    i64 rows = 0;
    for (OpId i = 1; i < m->ops.n; i++) {
        const Op *op = op_at(m, i);
        ValueId k = op->kind == OP_ATTENTION ? op_in(op, 4) : 0;
        i64 n = k ? type_of(m, k)->dim[0] : op->kind == OP_ATTEND ? op_int(op, A_PREFIX) : 0;
        if (n > rows) rows = n;
    }
    return rows < INT32_MAX ? rows
                            : INT32_MAX; /* a file may claim any number; no call reaches that far */
}

typedef struct Ints {
    Tensor tokens, pos, rows;
} Ints;

static Tensor ints(Eval *e, i64 n)
{
    Tensor t = {.dt = DT_I32, .rank = 1, .dim = {n}, .p = xmalloc((size_t)n, sizeof(i32))};
    vec_push(&e->a, &e->keep, t.p);
    return t;
}

/* Calls fn with the parameters it names, and takes its one result (or none). */
static bool call(Eval *e, u32 fn, const Ints *in, Tensor *out)
{
    const Fn *f = &e->m->fns.at[fn];
    const char *name = ir_cstr(e->m, f->name);
    Tensor args[3];
    if (f->params.n > 3 || f->results.n > 1)
        return ev_fail(e, NULL, "@%s has another signature than a model's function", name);
    for (u32 i = 0; i < f->params.n; i++) {
        const char *p = ir_cstr(e->m, value_at(e->m, f->params.at[i])->name);
        if (strcmp(p, "tokens") == 0)
            args[i] = in->tokens;
        else if (strcmp(p, "pos") == 0)
            args[i] = in->pos;
        else if (strcmp(p, "rows") == 0)
            args[i] = in->rows;
        else
            return ev_fail(e, NULL, "@%s has a parameter '%s'; models take tokens, pos and rows",
                           name, p);
    }
    *out = (Tensor){0};
    return eval_call(e, fn, args, out);
}

static Ints call_args(Eval *e, const i32 *tokens, i64 n, i64 pos0, bool all)
{
    Ints a = {ints(e, n), ints(e, n), ints(e, all ? n : 1)};
    memcpy(a.tokens.i, tokens, (size_t)n * sizeof *tokens);
    for (i64 i = 0; i < n; i++)
        a.pos.i[i] = (i32)(pos0 + i);
    for (i64 i = 0; i < a.rows.dim[0]; i++)
        a.rows.i[i] = (i32)(all ? i : n - 1);
    return a;
}

/* Where the logits of all calls are gathered. */
typedef struct Logits {
    Tensor *out;
    i64 want, have; /* rows */
} Logits;

static bool gather(Eval *e, Logits *l, const Tensor *part)
{
    if (part->rank != 2 || !dtype_info[part->dt].is_float)
        return ev_fail(e, NULL, "the model's result is no matrix of logits");
    i64 cols = part->dim[1],
        take = part->dim[0] < l->want - l->have ? part->dim[0] : l->want - l->have;
    size_t size = ev_esize(e, part->dt);
    if (!l->have) {
        *l->out = (Tensor){.dt = part->dt, .rank = 2, .dim = {l->want, cols}};
        l->out->p = xmalloc((size_t)(l->want * cols), size);
        vec_push(&e->a, &e->keep, l->out->p);
    }
    /* The last rows of what was computed: with one row wanted, the last one. */
    const u8 *from = (const u8 *)part->p + (size_t)((part->dim[0] - take) * cols) * size;
    memcpy((u8 *)l->out->p + (size_t)(l->have * cols) * size, from, (size_t)(take * cols) * size);
    l->have += take;
    return true;
}

/* Frees what the calls since `mark` kept, but the gathered logits: a decode of many tokens must not
 * pile up. */
static void drop_since(Eval *e, u32 mark, const void *keep)
{
    u32 n = mark;
    for (u32 i = mark; i < e->keep.n; i++) {
        if (e->keep.at[i] == keep)
            e->keep.at[n++] = e->keep.at[i];
        else
            free(e->keep.at[i]);
    }
    e->keep.n = n;
}

static bool run_main(Eval *e, u32 fn, const i32 *tokens, i64 n, i64 pos0, bool all, Logits *l)
{
    Ints a = call_args(e, tokens, n, pos0, all);
    Tensor part;
    return call(e, fn, &a, &part) && gather(e, l, &part);
}

static bool run_decode(Eval *e, u32 fn, const i32 *tokens, i64 n, i64 pos0, bool all, Logits *l)
{
    for (i64 i = 0; i < n; i++) {
        u32 mark = e->keep.n;
        Ints a = call_args(e, tokens + i, 1, pos0 + i, true);
        Tensor part;
        if (!call(e, fn, &a, &part) || ((all || i == n - 1) && !gather(e, l, &part))) return false;
        drop_since(e, mark, l->have ? l->out->p : NULL);
    }
    return true;
}

static bool run_phases(Eval *e, u32 prefill, u32 logits, const i32 *tokens, i64 n, i64 pos0,
                       bool all, Logits *l)
{
    i64 chunk = ir_meta_get_int(e->m, "chunk", CHUNK_DEFAULT);
    if (chunk < 1) return ev_fail(e, NULL, "the module's chunk is %lld", (long long)chunk);
    for (i64 i = 0; i < n; i += chunk) {
        u32 mark = e->keep.n;
        i64 t = n - i < chunk ? n - i : chunk;
        Ints a = call_args(e, tokens + i, t, pos0 + i, all);
        Tensor part;
        if (!call(e, prefill, &a, &part)) return false;
        if (!all && i + t < n) continue;
        if (!call(e, logits, &a, &part) || !gather(e, l, &part)) return false;
        drop_since(e, mark, l->out->p);
    }
    return true;
}

bool eval_model(Eval *e, const i32 *tokens, i64 n, i64 pos0, bool all, bool decode, Tensor *logits)
{
    u32 fmain = fn_index(e->m, "main"), one = fn_index(e->m, "decode");
    u32 prefill = fn_index(e->m, "prefill"), rows = fn_index(e->m, "logits");
    u32 first = decode ? one : prefill ? prefill : fmain;
    Logits l = {.out = logits, .want = all ? n : 1};
    if (n < 1 || n > INT32_MAX || pos0 < 0 || pos0 > INT32_MAX)
        return ev_fail(e, NULL, "%lld tokens at position %lld", (long long)n, (long long)pos0);
    if (!first || (first == prefill && !rows))
        return ev_fail(e, NULL, "the module has no @%s",
                       decode    ? "decode"
                       : prefill ? "logits"
                                 : "main");
    pos0 += eval_prefix(e->m);
    if (pos0 > INT32_MAX - n) return ev_fail(e, NULL, "positions beyond %d", INT32_MAX);
    if (decode) return run_decode(e, one, tokens, n, pos0, all, &l);
    if (prefill) return run_phases(e, prefill, rows, tokens, n, pos0, all, &l);
    return run_main(e, fmain, tokens, n, pos0, all, &l);
}
