/* Helpers of the evaluator's tests: modules from text, tensors from numbers, comparisons. */
#ifndef PFQC_TESTS_EVAL_UTIL_H
#define PFQC_TESTS_EVAL_UTIL_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "ir/eval.h"
#include "ir/text.h"

typedef struct Run {
    bool f64;
    Arena a;
    Diag d;
    Module *m;
    Eval *e;
} Run;

/* Fails the test (and prints the diagnostics) unless ok. */
static inline void must(Run *r, bool ok)
{
    if (ok) return;
    diag_flush(&r->d);
    fail_msg("%s", "unexpected diagnostics");
}

static inline void run_init(Run *r, bool f64)
{
    *r = (Run){.f64 = f64};
    diag_init(&r->d, &r->a);
}

static inline void run_free(Run *r)
{
    eval_free(r->e);
    arena_free(&r->a);
}

/* Starts over with the module of this text (without its header). */
static inline void load(Run *r, const char *text)
{
    bool f64 = r->f64;
    run_free(r);
    run_init(r, f64);
    Source *src = NEW(&r->a, Source);
    src->name = "test.pfir";
    src->text = arena_printf(&r->a, "pfir 1\nmodule @t\n%s", text);
    src->n = strlen(src->text);
    r->m = ir_parse(&r->d, &r->a, src, ".");
    must(r, r->m != NULL);
    r->e = eval_new(&r->d, r->m, f64);
}

static inline i64 tensor_count(const Tensor *t)
{
    i64 n = 1;
    for (u32 i = 0; i < t->rank; i++) n *= t->dim[i];
    return n;
}

static inline double get(const Run *r, const Tensor *t, i64 i)
{
    if (!dtype_info[t->dt].is_float) return t->i[i];
    return r->f64 ? t->d[i] : (double)t->f[i];
}

static inline void put(const Run *r, Tensor *t, i64 i, double v)
{
    if (!dtype_info[t->dt].is_float) t->i[i] = (i32)v;
    else if (r->f64) t->d[i] = v;
    else t->f[i] = (float)v;
}

/* A tensor of the given shape (0 ends it) with zeros. */
#define DIMS(...) (const i64[]){__VA_ARGS__, 0}
static inline Tensor tensor(Run *r, DType dt, const i64 *dim)
{
    Tensor t = {.dt = dt};
    for (; dim[t.rank]; t.rank++) t.dim[t.rank] = dim[t.rank];
    t.p = arena_alloc(&r->a, (size_t)tensor_count(&t), 8, 8);
    return t;
}

#define VALS(...) (const double[]){__VA_ARGS__}
static inline Tensor filled(Run *r, DType dt, const i64 *dim, const double *v)
{
    Tensor t = tensor(r, dt, dim);
    for (i64 i = 0; i < tensor_count(&t); i++) put(r, &t, i, v[i]);
    return t;
}

/* Pseudorandom values in [-scale, scale), the same in f32 and f64. */
static inline Tensor noise(Run *r, u64 stream, double scale, const i64 *dim)
{
    Tensor t = tensor(r, DT_F32, dim);
    for (i64 i = 0; i < tensor_count(&t); i++) put(r, &t, i, scale * (double)synthetic_value(7, stream, (u64)i));
    return t;
}

static inline void expect_near(double got, double want, double tol, const char *what, i64 i)
{
    if (fabs(got - want) <= tol || (isnan(got) && isnan(want)) || (isinf(want) && memcmp(&got, &want, 8) == 0)) return;
    fail_msg("%s[%lld]: %.17g, expected %.17g", what, (long long)i, got, want);
}

/* tol is relative to 1 for f32; f64 is held to 1e-9 of it. */
static inline void expect(const Run *r, const Tensor *t, i64 n, const double *want, double tol)
{
    assert_int_equal(tensor_count(t), n);
    for (i64 i = 0; i < n; i++) expect_near(get(r, t, i), want[i], r->f64 ? tol * 1e-9 : tol, "result", i);
}

/* All of constant `name`. */
static inline Tensor constant(Run *r, const char *name)
{
    const u32 *v = map_get(&r->m->const_map, str_c(name));
    assert_non_null(v);
    const Type *t = type_of(r->m, *v);
    Tensor out;
    must(r, eval_const(r->e, *v, 0, type_rows(t), 0, type_cols(t), &out));
    return out;
}

/* Calls @f and returns its first result. */
static inline Tensor call(Run *r, const Tensor *args)
{
    Tensor out[4] = {0};
    u32 fn = (u32)(ir_fn(r->m, "f") - r->m->fns.at);
    must(r, eval_call(r->e, fn, args, out));
    return out[0];
}
#define ARGS(...) (const Tensor[]){__VA_ARGS__}

/* True if the call fails with a diagnostic, which is then forgotten. */
static inline bool call_fails(Run *r, const Tensor *args)
{
    Tensor out[4];
    u32 fn = (u32)(ir_fn(r->m, "f") - r->m->fns.at), before = r->d.n_errors;
    bool ok = eval_call(r->e, fn, args, out);
    r->d.msgs.n = 0;
    return !ok && r->d.n_errors > before;
}

#endif
