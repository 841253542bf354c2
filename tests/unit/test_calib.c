/* The calibration runner against the reference evaluator, replay, overrides, hooks; the cache of
 * results. */
#include "passes/calib/calib_int.h"
#include "passes/calib/ppl.h"

#include "ir/base/half.h"
#include "ir/text.h"
#include "tests/unit/random.h"
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
    OpId want;
} Seen;

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

/* tol: relative to the largest logit. Roundings of a quantiser may fall the other way: then few may
 * differ more. */
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

/* The whole of @main in ranges that end after every `step` ops; bytes: of constants in memory at a
 * time. */
static void run_in_steps(Fix *f, u32 step, u64 bytes, double tol)
{
    Seen s = {.want = last_op(f->m)};
    Calib *c = calib_new(&f->cx, S, N);
    must(f, c != NULL);
    assert_int_equal(calib_threads(c), 2);
    if (bytes) c->range_bytes = bytes, c->stream_bytes = bytes;
    u32 n = f->m->fns.at[1].body.n;
    while (calib_at(c) < n) {
        u32 end = calib_at(c) + step < n ? calib_at(c) + step : n;
        must(f, calib_run(c, end, 0, true, keep_result, &s));
        assert_int_equal(calib_at(c), end);
    }
    assert_int_equal(c->kept.n, 0); /* nothing is read after the end */
    calib_free(c);
    check_against_eval(f, &s, tol);
    seen_free(&s);
}

static const char *const pipelines[] = {
    "canonicalise,merge-linears", "untie,fuse-norm,rotate{seed=3}",
    ("merge-linears,quantize-weights{bits=4,group=32,skip=head},quantize-activations{dtype=s8},"
     "quantize-weights{bits=8,sym,only=head}")};
enum { N_PIPELINES = sizeof pipelines / sizeof *pipelines, QUANTISED = 2 };

static void equals_eval(void **state)
{
    (void)state;
    for (u32 i = 0; i < N_SHAPES; i++)
        for (u32 p = 0; p < N_PIPELINES; p++) {
            Fix f;
            fix_init(&f);
            fix_module(&f, tiny_llama(&f.d, &shapes[i]));
            passes(&f, pipelines[p]);
            double tol = p == QUANTISED ? 1e-3 : 1e-6;
            run_in_steps(&f, p == 0 ? 1 : p == 1 ? 7 : 1000, 0, tol);
            run_in_steps(&f, p == 0 ? 1000 : 3, 0, tol);
            run_in_steps(&f, 11, 1000, tol);
            fix_free(&f);
        }
}

/* A prefix of three rows of noise in every attention. */
static void add_prefix(Fix *f, const TinyLlama *t)
{
    Module *m = f->m;
    Builder b = {.m = m, .d = &f->d, .layer = -1};
    const i64 dim[3] = {3, t->kv_heads, t->head_dim};
    TypeId type = ir_type(m, DT_F16, 3, dim);
    for (u32 i = 0; i < m->fns.at[1].body.n; i++) {
        OpId id = m->fns.at[1].body.at[i];
        if (op_at(m, id)->kind != OP_ATTENTION) continue;
        ValueId *in = NEWN(m->a, ValueId, 6);
        memcpy(in, op_at(m, id)->in, 4 * sizeof *in);
        for (u32 k = 4; k < 6; k++)
            in[k] = ir_op(&b, OP_SYNTHETIC, NULL, 0,
                          ATTRS({A_SEED, .i = 3}, {A_STREAM, .i = i * 2 + k}, {A_SCALE, .f = 1.5}),
                          type, "prefix");
        op_at(m, id)->in = in;
        op_at(m, id)->nin = 6;
    }
    must(f, ir_verify(&f->d, m));
}

static void prefix_is_seen(void **state)
{
    (void)state;
    for (u32 i = 0; i < N_SHAPES; i++) {
        Fix f;
        fix_init(&f);
        fix_module(&f, tiny_llama(&f.d, &shapes[i]));
        passes(&f, pipelines[0]);
        add_prefix(&f, &shapes[i]);
        run_in_steps(&f, 1000, 0, 1e-6);
        run_in_steps(&f, 2, 0, 1e-6);
        fix_free(&f);
    }
}

/* ---- replay, overrides, hooks ---- */

typedef struct Probe {
    OpId op;
    double factor; /* what the hook does to op's result */
    double sum[S]; /* of the last op's */
    OpId last;
    bool refuse;
} Probe;

static bool probe(void *user, const CalibCall *call)
{
    Probe *p = user;
    Tensor *y = &call->out[0];
    i64 n = calib_elems(y);
    if (call->op == p->op)
        for (i64 i = 0; i < n; i++)
            y->f[i] *= (float)p->factor;
    if (call->op == p->last) {
        p->sum[call->sequence] = 0;
        for (i64 i = 0; i < n; i++)
            p->sum[call->sequence] += fabs((double)y->f[i]);
    }
    return !(p->refuse && call->op == p->last);
}

static OpId nth_linear(const Module *m, u32 n)
{
    const Fn *f = &m->fns.at[1];
    for (u32 i = 0; i < f->body.n; i++)
        if (op_at(m, f->body.at[i])->kind == OP_LINEAR && n-- == 0) return f->body.at[i];
    return 0;
}

static void replays(void **state)
{
    (void)state;
    Fix f;
    fix_init(&f);
    fix_module(&f, tiny_llama(&f.d, &shapes[0]));
    passes(&f, pipelines[0]);
    Module *m = f.m;
    Calib *c = calib_new(&f.cx, S, N);
    must(&f, c != NULL);
    OpId linear = nth_linear(m, 2); /* of layer 0: gate and up, after q, k, v and o */
    u32 at = ir_op_position(m, linear), end = at + 5;
    must(&f, calib_run(c, at, 0, true, NULL, NULL));
    for (int budget = 0; budget < 2; budget++) {
        if (budget) c->range_bytes = 1000;
        Probe base = {.last = m->fns.at[1].body.at[end - 1]}, p = base;
        must(&f, calib_run(c, end, 0, false, probe, &base));
        assert_int_equal(calib_at(c), at);
        assert_true(base.sum[0] > 0 && base.sum[S - 1] > 0);
        must(&f,
             calib_run(c, end, 2, false, probe, &p)); /* the same, but for the sequence left out */
        assert_true(p.sum[0] == base.sum[0] && p.sum[1] == base.sum[1] && p.sum[2] == 0);
        /* A weight times two is its product times two. */
        ValueId w = op_at(m, linear)->in[1];
        i64 n = type_elems(type_of(m, w));
        const float *dense = calib_weight(c, w);
        assert_non_null(dense);
        float *twice = malloc((size_t)n * sizeof *twice);
        for (i64 i = 0; i < n; i++)
            twice[i] = 2 * dense[i];
        Probe hooked = {.op = linear, .factor = 2, .last = base.last}, over = base;
        must(&f, calib_run(c, end, 0, false, probe, &hooked));
        calib_override(c, w, twice);
        must(&f, calib_run(c, end, 0, false, probe, &over));
        assert_true(calib_weight(c, w)[0] == dense[0]);
        calib_override(c, w, NULL);
        for (int s = 0; s < S; s++) {
            assert_true(hooked.sum[s] != base.sum[s]);
            assert_true(fabs(hooked.sum[s] - over.sum[s]) <= 1e-4 * hooked.sum[s]);
        }
        must(&f, calib_run(c, end, 0, false, probe, &over));
        assert_true(over.sum[1] == base.sum[1]);
        free(twice);
    }
    Probe refuse = {.last = m->fns.at[1].body.at[end - 1], .refuse = true};
    assert_false(calib_run(c, end, 0, false, probe, &refuse));
    assert_int_equal(f.d.n_errors, 0);
    must(&f, calib_run(c, m->fns.at[1].body.n, 0, true, NULL, NULL));
    calib_free(c);
    fix_free(&f);
}

/* What is kept at calib_at can be read; integers come back as they were. */
static void kept_values(void **state)
{
    (void)state;
    Fix f;
    fix_init(&f);
    fix_module(&f, tiny_llama(&f.d, &shapes[0]));
    passes(&f, "merge-linears,quantize-weights{bits=8,sym},quantize-activations{dtype=s16,only="
               "head},quantize-activations{dtype=s8,only=layers}");
    const Fn *fn = &f.m->fns.at[1];
    for (u32 i = 1; i < fn->body.n; i++) {
        const Op *op = op_at(f.m, fn->body.at[i]);
        if (op->kind != OP_DEQUANTIZE) continue;
        Calib *c = calib_new(&f.cx, S, N);
        must(&f, c && calib_run(c, i, 0, true, NULL, NULL));
        const Kept *k = kept_find(c, op->in[0]);
        assert_non_null(k);
        assert_int_equal(k->esize, type_of(f.m, op->in[0])->dt == DT_S8 ? 1 : 2);
        assert_null(calib_value(c, op->in[0], 0));
        const float *scale = calib_value(c, op->in[1], 2);
        assert_true(scale && scale[0] > 0 && scale[N - 1] > 0);
        assert_null(calib_value(c, op->out, 0));
        calib_free(c);
    }
    fix_free(&f);
}

/* Values that are kept in the file of a dropped one. */
static void files_are_used_again(void **state)
{
    (void)state;
    Fix f;
    fix_init(&f);
    fix_module(&f, tiny_llama(&f.d, &shapes[0]));
    const Fn *fn = &f.m->fns.at[1];
    Calib *walk = calib_new(&f.cx, S, N), *whole;
    u32 again = 0;
    for (u32 i = 1; i < fn->body.n; i++) {
        int spare = walk->spare.fd;
        must(&f, calib_run(walk, i, 0, true, NULL, NULL));
        ValueId v = op_at(f.m, fn->body.at[i - 1])->out;
        again += spare >= 0 && kept_find(walk, v) && kept_find(walk, v)->fd == spare;
        if (i % 5) continue;
        whole = calib_new(&f.cx, S, N);
        must(&f, calib_run(whole, i, 0, true, NULL, NULL));
        for (i64 s = 0; kept_find(whole, v) && s < S; s++)
            assert_memory_equal(calib_value(walk, v, s), calib_value(whole, v, s),
                                (size_t)(N * type_cols(type_of(f.m, v))) * sizeof(float));
        calib_free(whole);
    }
    assert_true(again > 2);
    calib_free(walk);
    fix_free(&f);
}

/* Ops of other families: gelu of both forms, a scaled and partial rope, gains and none, biases. */
static void other_ops(void **state)
{
    (void)state;
    static const char text[] =
        "pfir 1\nmodule @t {vocab = 20}\n@e = synthetic {scale = 3, seed = 1, stream = 1} : "
        "f32[20,24]\n"
        "@w = synthetic {seed = 1, stream = 2} : f32[24,24]\n@b = synthetic {seed = 1, stream = 3} "
        ": f32[24]\n"
        "@g = literal {values = [0.5, 1, 2, 1, 0.5, 1, 2, 1, 3, 1, 2, 1]} : f32[12]\n"
        "@f = rope_freqs {dim = 8} : f32[4]\n"
        "func @main(%tokens: i32[T], %pos: i32[T]) {\n"
        "  %x = embedding %tokens, @e : f32[T,24]\n  %a = gelu %x {mode = \"tanh\"} : f32[T,24]\n"
        "  %c = gelu %x : f32[T,24]\n  %d = mul %a, %c : f32[T,24]\n  %s = silu %d : f32[T,24]\n"
        "  %y = linear %s, @w, @b : f32[T,24]\n  %h = reshape %y {shape = [-1,2,12]} : "
        "f32[T,2,12]\n"
        "  %n = rmsnorm %h, @g {eps = 1e-05} : f32[T,2,12]\n  %m = rmsnorm %n {eps = 1e-05} : "
        "f32[T,2,12]\n"
        "  %r = rope %m, %pos, @f {mscale = 1.25} : f32[T,2,12]\n"
        "  %t = hadamard %r {group = 4} : f32[T,2,12]\n  %u = hadamard %t : f32[T,2,12]\n"
        "  %v = reshape %u {shape = [-1,24]} : f32[T,24]\n  %k = slice %v {axis = 1, begin = 3, "
        "end = 20} : f32[T,17]\n"
        "  %z = hadamard %v {seed = 9} : f32[T,24]\n  %p = slice %z {axis = 1, begin = 0, end = "
        "17} : f32[T,17]\n"
        "  %q = add %k, %p : f32[T,17]\n  return %q\n}\n";
    Fix f;
    fix_init(&f);
    Source src = {"ops.pfir", text, sizeof text - 1};
    fix_module(&f, ir_parse(&f.d, &f.a, &src, "."));
    run_in_steps(&f, 1000, 0, 1e-6);
    run_in_steps(&f, 1, 0, 1e-6);
    fix_free(&f);
}

/* ---- products of operands rounded to bf16 ---- */

static void check_product(const Product *p, const char *which)
{
    for (i64 r = 0; r < p->rows; r++)
        for (i64 j = 0; j < p->stride; j++) {
            double sum = 0, size = 0;
            for (i64 i = 0; i < p->k; i++) {
                double v = (double)bf16_to_f32(f32_to_bf16(p->x[r * p->k + i])) *
                           (double)bf16_to_f32(f32_to_bf16(p->w[j % p->n * p->k + i]));
                sum += v;
                size += fabs(v);
            }
            double y = (double)p->y[r * p->stride + j];
            if (j >= p->n) /* not its column */
                assert_true(y == -7);
            else if (!(fabs(y - sum) <= 1e-6 * size))
                fail_msg("%s: %lld x %lld x %lld: y[%lld, %lld] is %g, expected %g", which,
                         (long long)p->rows, (long long)p->n, (long long)p->k, (long long)r,
                         (long long)j, y, sum);
        }
}

static void half_products(void **state)
{
    (void)state;
    static const struct {
        void (*run)(Eval *e, const Product *p);
        const char *name;
    } kinds[] = {{half_product, "this CPU's"}, {half_product_plain, "any CPU's"}};
    static const i64 sizes[][3] = {{1, 1, 1},    {8, 48, 32},  {9, 49, 33},  {7, 47, 31},
                                   {17, 15, 34}, {3, 97, 130}, {64, 16, 63}, {130, 130, 17}};
    Fix f;
    fix_init(&f);
    fix_module(&f, tiny_llama(&f.d, &shapes[0]));
    Eval *e = eval_new(&f.d, f.m, false);
    Random rnd = {5};
    for (u32 s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (u32 i = 0; i < 2; i++) {
            const i64 rows = sizes[s][0], n = sizes[s][1], k = sizes[s][2], stride = n + 2 * i;
            Scope scope = ev_scope(e);
            /* of exactly their size: a sanitizer sees a step beyond */
            float *x = malloc((size_t)(rows * k) * sizeof *x),
                  *w = malloc((size_t)(n * k) * sizeof *w),
                  *y = malloc((size_t)(rows * stride) * sizeof *y);
            for (i64 j = 0; j < rows * k; j++)
                x[j] = (float)below(&rnd, 100001) / 30000.0f - 1;
            for (i64 j = 0; j < n * k; j++)
                w[j] = (float)below(&rnd, 100001) / 30000.0f - 2;
            for (u32 t = 0; t < 2; t++) {
                for (i64 j = 0; j < rows * stride; j++)
                    y[j] = -7;
                Product p = {x, w, y, rows, k, n, stride};
                kinds[t].run(e, &p);
                check_product(&p, kinds[t].name);
                float was = x[0];
                x[0] = NAN; /* is not lost on the way */
                kinds[t].run(e, &p);
                assert_true(isnan(y[0]) && (rows == 1 || isfinite(y[stride])));
                x[0] = was;
            }
            free(x), free(w), free(y);
            ev_scope_end(e, scope);
        }
    eval_free(e);
    fix_free(&f);
}

/* A whole model so, weights in memory and in pieces: near, and not the same. */
static void halves_a_model(void **state)
{
    (void)state;
    for (u32 i = 0; i < N_SHAPES; i++) {
        Fix f;
        fix_init(&f);
        fix_module(&f, tiny_llama(&f.d, &shapes[i]));
        passes(&f, pipelines[0]);
        Seen whole = {.want = last_op(f.m)}, pieces = whole, exact = whole,
             *seen[] = {&whole, &pieces, &exact};
        for (u32 t = 0; t < 3; t++) {
            Calib *c = calib_new(&f.cx, S, N);
            must(&f, c != NULL);
            if (t == 1) c->range_bytes = c->stream_bytes = 1000;
            if (t < 2) calib_half(c);
            must(&f, calib_run(c, f.m->fns.at[1].body.n, 0, true, keep_result, seen[t]));
            calib_free(c);
        }
        size_t bytes = (size_t)whole.elems * sizeof(float);
        for (int k = 0; k < S; k++) {
            assert_memory_equal(whole.y[k], pieces.y[k], bytes);
            assert_memory_not_equal(whole.y[k], exact.y[k], bytes);
        }
        check_against_eval(&f, &whole, 2e-2);
        for (u32 t = 0; t < 3; t++)
            seen_free(seen[t]);
        fix_free(&f);
    }
}

/* ---- text ---- */

static void short_text(void **state)
{
    (void)state;
    Fix f;
    fix_init(&f);
    fix_module(&f, tiny_llama(&f.d, &shapes[0]));
    assert_null(calib_new(&f.cx, S, N + 1));
    assert_int_equal(f.d.n_errors, 1);
    assert_int_equal(f.d.msgs.at[0].code, E_PASS_CALIB);
    assert_non_null(strstr(f.d.msgs.at[0].text, "450 tokens"));
    assert_non_null(strstr(f.d.msgs.at[1].text, "--calibration"));
    f.d.msgs.n = 0;
    f.src.seed = 5; /* sequences from all over the text, none twice, the same each time */
    Calib *x = calib_new(&f.cx, 4, 100), *y = calib_new(&f.cx, 4, 100);
    assert_memory_equal(x->tokens, y->tokens, 400 * sizeof *x->tokens);
    int from[4];
    for (int i = 0; i < 4; i++) {
        for (from[i] = 0; from[i] < 4; from[i]++)
            if (!memcmp(x->tokens + i * 100, f.tokens + from[i] * 100, 400)) break;
        assert_in_range(from[i], 0, 3);
        for (int k = 0; k < i; k++)
            assert_int_not_equal(from[i], from[k]);
    }
    calib_free(x);
    calib_free(y);
    f.src.tokens = NULL; /* none: the same noise each time */
    Calib *a = calib_new(&f.cx, 2, 40), *b = calib_new(&f.cx, 2, 40);
    assert_memory_equal(a->tokens, b->tokens, 80 * sizeof *a->tokens);
    for (int i = 0; i < 80; i++)
        assert_in_range(a->tokens[i], 0, 99);
    calib_free(a);
    calib_free(b);
    fix_free(&f);
}

static void tokens_outside(void **state)
{
    (void)state;
    Fix f;
    fix_init(&f);
    fix_module(&f, tiny_llama(&f.d, &shapes[0]));
    f.tokens[N + 3] = 100; /* as many as the vocabulary has */
    Calib *c = calib_new(&f.cx, S, N);
    assert_false(calib_run(c, 1, 0, false, NULL, NULL));
    assert_int_equal(f.d.msgs.at[0].code, E_IR_EVAL);
    f.d.msgs.n = 0;
    calib_free(c);
    fix_free(&f);
}

/* Perplexity of the runner against that of the reference's logits. */
static void perplexity(void **state)
{
    (void)state;
    Fix f;
    fix_init(&f);
    fix_module(&f, tiny_llama(&f.d, &shapes[1]));
    ir_meta_int(f.m, "context", N);
    Eval *e = eval_new(&f.d, f.m, true);
    double sum = 0;
    for (int k = 0; k < 2; k++) {
        Tensor y;
        eval_set_context(e, N);
        must(&f, eval_model(e, f.tokens + k * N, N, 0, true, false, &y));
        for (i64 t = 0; t + 1 < N; t++) {
            double z = 0;
            for (i64 i = 0; i < y.dim[1]; i++)
                z += exp(y.d[t * y.dim[1] + i]);
            sum += log(z) - y.d[t * y.dim[1] + f.tokens[k * N + t + 1]];
        }
    }
    eval_free(e);
    Ppl p;
    must(&f, calib_ppl(&f.d, f.m, NULL, NULL, &f.src, 0, 2, &p));
    assert_int_equal(p.tokens, 2 * (N - 1));
    double want = exp(sum / (2 * (N - 1)));
    assert_true(fabs(p.ppl - want) < 1e-5 * want && p.se > 0);
    must(&f, calib_ppl(&f.d, f.m, NULL, NULL, &f.src, 100, 0, &p));
    assert_int_equal(p.tokens, 4 * 99);
    /* Against itself, and against itself with the head's weights moved. */
    Ppl q;
    must(&f, calib_ppl(&f.d, f.m, f.m, NULL, &f.src, 100, 0, &q));
    assert_true(q.ppl == p.ppl && q.kl < 1e-12 && q.top1 == 1);
    Fix g;
    fix_init(&g);
    fix_module(&g, tiny_llama(&g.d, &shapes[1]));
    ir_meta_int(g.m, "context", N);
    passes(&g, "quantize-weights{bits=4,sym}");
    must(&f, calib_ppl(&f.d, f.m, g.m, NULL, &f.src, 100, 0, &q));
    assert_true(q.ppl == p.ppl && q.kl > 1e-4 && q.kl < 1 && q.top1 > 0.3 && q.top1 < 1);
    fix_free(&g);
    assert_false(calib_ppl(&f.d, f.m, NULL, NULL, &f.src, N + 1, 0, &p));
    f.src.n = 10;
    assert_false(calib_ppl(&f.d, f.m, NULL, NULL, &f.src, 0, 0, &p));
    f.d.msgs.n = 0;
    fix_free(&f);
}

/* ---- the cache ---- */

static char cache_folder[] = "/tmp/pfqc-test-XXXXXX";

static void file_of(const CalibCache *c, char *path, size_t n)
{
    snprintf(path, n, "%s", calib_cache_path(c));
}

static CalibCache *filled(Fix *f, u32 seed)
{
    bool found;
    CalibCache *c = calib_cache(&f->cx, &found);
    must(f, c != NULL);
    assert_false(found);
    float x[6] = {1.5f, -2, 3, 4, 5, (float)seed};
    const signed char q[4] = {-8, 7, 0, 3};
    const u16 h[2] = {0x3c00, 0xc000};
    calib_put(c, "x", DT_F32, 2, (const i64[]){2, 3}, x);
    calib_put(c, "layer.0 \"q\"", DT_S8, 2, (const i64[]){1, 4}, q);
    calib_put(c, "h", DT_F16, 1, (const i64[]){2}, h);
    must(f, calib_commit(c));
    return c;
}

static void check_results(Fix *f, CalibCache *c)
{
    Type t;
    const void *data;
    assert_true(calib_get(c, "x", &t, &data));
    assert_int_equal(t.dt, DT_F32);
    assert_int_equal(t.rank, 2);
    assert_true(t.dim[0] == 2 && t.dim[1] == 3 && ((const float *)data)[1] == -2);
    assert_false(calib_get(c, "y", &t, &data));
    Builder b = {.m = f->m, .d = &f->d, .layer = -1};
    ValueId v = calib_constant(c, &b, "layer.0 \"q\"", ir_type2(f->m, DT_S4, 2, 2), "w.q");
    ValueId h = calib_constant(c, &b, "h", ir_type2(f->m, DT_F16, 1, 2), "w.h");
    must(f, v && h && ir_verify(&f->d, f->m) && eval_open(&f->d, f->m));
    Eval *e = eval_new(&f->d, f->m, false);
    Tensor y;
    must(f, eval_const(e, v, 0, 2, 0, 2, &y));
    assert_true(y.i[0] == -8 && y.i[1] == 7 && y.i[2] == 0 && y.i[3] == 3);
    must(f, eval_const(e, h, 0, 1, 0, 2, &y));
    assert_true(y.f[0] == 1 && y.f[1] == -2);
    eval_free(e);
}

static void cache_init(Fix *f)
{
    fix_init(f);
    fix_module(f, tiny_llama(&f->d, &shapes[0]));
    f->src.cache_dir = cache_folder;
}

static void results_are_found_again(void **state)
{
    (void)state;
    Fix f, g;
    bool found;
    Type t;
    const void *data;
    char path[300];
    cache_init(&f);
    CalibCache *c = filled(&f, 6);
    file_of(c, path, sizeof path);
    check_results(&f, c);
    cache_init(&g); /* another module of the same content: a hit */
    CalibCache *hit = calib_cache(&g.cx, &found);
    must(&g, hit && found);
    check_results(&g, hit);
    /* What the results depend on: the module, the pass, the tokens, the effort. */
    assert_non_null(calib_cache(&g.cx, &found));
    assert_false(found); /* the module has two constants more */
    for (int i = 0; i < 5; i++) {
        fix_free(&g);
        cache_init(&g);
        if (i == 0) g.call.pass = 1;
        if (i == 1) g.tokens[5]++;
        if (i == 2) g.src.effort = EFFORT_FULL;
        if (i == 3) g.src.prefix = "1";
        if (i == 4) g.src.seed = 1;
        assert_non_null(calib_cache(&g.cx, &found));
        assert_false(found);
    }
    /* Damage anywhere is seen. */
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    for (off_t at = 0; at < st.st_size; at += 13) {
        int fd = open(path, O_RDWR);
        char was, now;
        assert_int_equal(pread(fd, &was, 1, at), 1);
        now = (char)(was ^ 0x11);
        assert_int_equal(pwrite(fd, &now, 1, at), 1);
        fix_free(&g);
        cache_init(&g);
        CalibCache *bad = calib_cache(&g.cx, &found);
        assert_non_null(bad);
        if (found) /* padding: nothing of the results */
            assert_true(calib_get(bad, "x", &t, &data) && ((const float *)data)[5] == 6);
        else
            assert_int_equal(g.d.n_warnings, 1);
        assert_int_equal(g.d.n_errors, 0);
        g.d.msgs.n = 0;
        assert_int_equal(pwrite(fd, &was, 1, at), 1);
        close(fd);
    }
    for (off_t n = 0; n < st.st_size - 64; n += 61) {
        assert_int_equal(truncate(path, n), 0);
        fix_free(&g);
        cache_init(&g);
        assert_true(calib_cache(&g.cx, &found) && !found);
        assert_int_equal(g.d.n_errors, 0);
        g.d.msgs.n = 0;
    }
    fix_free(&g);
    cache_init(&g);
    g.d.silent = true;
    check_results(&g, filled(&g, 6)); /* computed again over the damaged file */
    fix_free(&g);
    fix_free(&f);
}

static void no_folder(void **state)
{
    (void)state;
    Fix f;
    bool found;
    cache_init(&f);
    f.src.cache_dir = "/dev/null/x";
    assert_null(calib_cache(&f.cx, &found));
    assert_int_equal(f.d.msgs.at[0].code, E_FILE_WRITE);
    f.d.msgs.n = 0;
    fix_free(&f);
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(equals_eval),    cmocka_unit_test(other_ops),
        cmocka_unit_test(half_products),  cmocka_unit_test(halves_a_model),
        cmocka_unit_test(prefix_is_seen), cmocka_unit_test(replays),
        cmocka_unit_test(kept_values),    cmocka_unit_test(files_are_used_again),
        cmocka_unit_test(short_text),     cmocka_unit_test(tokens_outside),
        cmocka_unit_test(perplexity),     cmocka_unit_test(results_are_found_again),
        cmocka_unit_test(no_folder),
    };
    if (!mkdtemp(cache_folder)) return 1;
    int failed = cmocka_run_group_tests(all, NULL, NULL);
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", cache_folder);
    return system(command) == 0 ? failed : 1;
}
