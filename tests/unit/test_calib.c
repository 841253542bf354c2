/* The calibration runner against the reference evaluator, replay, overrides, hooks; the cache of results. */
#include "passes/calib/calib.h"

#include "ir/text.h"
#include "tests/unit/tiny_llama.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { S = 3, N = 150 }; /* sequences, tokens each: more than one block of attention */

typedef struct Fix {
    Arena a;
    Diag d;
    Module *m;
    i32 tokens[S * N];
    CalibSource src;
    PassCall call;
    PassCx cx;
} Fix;

static void fix_init(Fix *f)
{
    memset(f, 0, sizeof *f);
    diag_init(&f->d, &f->a);
    f->src = (CalibSource){.tokens = f->tokens, .n = S * N, .bos = -1, .eos = -1, .threads = 2};
}

static void fix_module(Fix *f, Module *m)
{
    if (!m) diag_flush(&f->d);
    assert_non_null(m);
    f->m = m;
    i64 vocab = ir_meta_get_int(m, "vocab", 1);
    for (i64 i = 0; i < S * N; i++)
        f->tokens[i] = (i32)((i * i * 31 + i / 7) % vocab);
    f->cx = (PassCx){.m = m, .d = &f->d, .a = &f->a, .call = &f->call, .calib = &f->src};
}

static void fix_free(Fix *f)
{
    arena_free(&f->a);
}

static void must(Fix *f, bool ok)
{
    if (!ok) diag_flush(&f->d);
    assert_true(ok);
}

/* Runs the passes of text on the module. */
static void passes(Fix *f, const char *text)
{
    Source src = {"test", text, strlen(text)};
    Pipeline p = {0};
    PassOptions o = {.verify_each = true};
    must(f, pipeline_parse(&f->d, &f->a, &src, &p) && passes_run(&f->d, f->m, &p, &o));
}

/* ---- the runner ---- */

typedef struct Seen { /* the last op's results */
    float *y[S];
    i64 elems;
    ValueId want;
    int ops;
} Seen;

static bool see(void *user, const CalibCall *call)
{
    Seen *s = user;
    if (call->thread == 0) s->ops++;
    (void)call;
    return true;
}

static bool keep_result(void *user, const CalibCall *call)
{
    Seen *s = user;
    const Tensor *t = &call->out[0];
    if (call->op != s->want) return true;
    s->elems = t->dim[0] * t->dim[1];
    s->y[call->sequence] = malloc((size_t)s->elems * sizeof(float));
    memcpy(s->y[call->sequence], t->f, (size_t)s->elems * sizeof(float));
    return true;
}

static OpId last_op(const Module *m)
{
    const Fn *f = &m->fns.at[1];
    return f->body.at[f->body.n - 1];
}

static void seen_free(Seen *s)
{
    for (int i = 0; i < S; i++)
        free(s->y[i]);
}

/* tol: relative to the largest logit. Roundings of a quantiser may fall the other way: then few may differ more. */
static void check_against_eval(Fix *f, const Seen *s, double tol)
{
    Eval *e = eval_new(&f->d, f->m, false);
    must(f, eval_open(&f->d, f->m));
    for (int k = 0; k < S; k++) {
        Tensor y;
        eval_set_context(e, N + eval_prefix(f->m));
        must(f, eval_model(e, f->tokens + k * N, N, 0, true, false, &y));
        assert_int_equal(y.dim[0] * y.dim[1], s->elems);
        double top = 0, sum = 0;
        for (i64 i = 0; i < s->elems; i++) {
            double diff = fabs((double)y.f[i] - (double)s->y[k][i]);
            top = fmax(top, fabs((double)y.f[i]));
            sum += diff * diff;
        }
        double rms = sqrt(sum / (double)s->elems);
        if (!(rms <= tol * top)) fail_msg("sequence %d: rms error %g of %g", k, rms, top);
    }
    eval_free(e);
}

/* The whole of @main in ranges that end after every `step` ops. */
static void run_in_steps(Fix *f, u32 step, double tol)
{
    Seen s = {.want = last_op(f->m)};
    Calib *c = calib_new(&f->cx, S, N);
    must(f, c != NULL);
    assert_int_equal(calib_threads(c), 2);
    u32 n = f->m->fns.at[1].body.n;
    while (calib_at(c) < n) {
        u32 end = calib_at(c) + step < n ? calib_at(c) + step : n;
        must(f, calib_run(c, end, 0, true, keep_result, &s));
        assert_int_equal(calib_at(c), end);
    }
    calib_free(c);
    check_against_eval(f, &s, tol);
    seen_free(&s);
}

static void equals_eval(void **state)
{
    (void)state;
    static const char *const pipelines[] = {
        "canonicalise,merge-linears", "untie,fuse-norm,rotate{seed=3}",
        "merge-linears,quantize-weights{bits=4,group=32},quantize-activations{dtype=s8},quantize-weights{bits=8,sym,only=head}"};
    for (u32 i = 0; i < N_SHAPES; i++)
        for (u32 p = 0; p < 3; p++) {
            Fix f;
            fix_init(&f);
            fix_module(&f, tiny_llama(&f.d, &shapes[i]));
            passes(&f, pipelines[p]);
            run_in_steps(&f, p == 0 ? 1 : p == 1 ? 7 : 1000, p == 2 ? 1e-3 : 1e-6);
            run_in_steps(&f, p == 0 ? 1000 : 3, p == 2 ? 1e-3 : 1e-6);
            fix_free(&f);
        }
}

int main(void)
{
    (void)see;
    const struct CMUnitTest all[] = {cmocka_unit_test(equals_eval)};
    return cmocka_run_group_tests(all, NULL, NULL);
}
