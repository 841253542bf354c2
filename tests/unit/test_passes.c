#include "passes/options.h"

#include "ir/text.h"
#include "passes/numerics.h"
#include "tests/unit/random.h"
#include "tests/unit/tiny_llama.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "ir/compare.h"

#include <stdio.h>
#include <stdlib.h>

static const char *const recipes[] = {"float", "bf16", "w4a16", "w8a8-dynamic"};
enum { N_RECIPES = sizeof recipes / sizeof *recipes };
/* Formats of their weights, embedding and activations. */
static const char *const formats[N_RECIPES][3] = {
    {"f32", "f32", "f32"}, {"bf16", "bf16", "f32"}, {"u4g32", "s8", "s16g32"}, {"s8", "s8", "s8"}};

static Module *compiled(Diag *d, const TinyLlama *t, const char *recipe)
{
    Module *m = tiny_llama(d, t);
    Recipe r;
    if (!recipe_load(d, d->a, recipe, &r)) return NULL;
    PassOptions o = {.verify_each = true, .print_after = getenv("PFQC_TEST_PRINT")};
    return passes_run(d, m, &r.pipeline, &o) ? m : NULL;
}

static bool kernel_is(const Module *m, const Fn *f, u32 step, const char *name)
{
    return strcmp(ir_cstr(m, f->steps.at[step].kernel), name) == 0;
}

/* ---- every recipe on every shape ---- */

typedef struct Live {
    i64 at, bytes;
    u32 first, last;
    bool used;
} Live;

/* Bytes of a value in the arena, written apart from the pass: strides of ARCHITECTURE.md. */
static i64 bytes_of(const Module *m, ValueId v)
{
    const Type *t = type_of(m, v);
    i64 rows = t->dim[0] == DIM_T   ? ir_meta_get_int(m, "chunk", 0)
               : t->dim[0] == DIM_R ? ir_meta_get_int(m, "rows", 0)
                                    : t->dim[0];
    i64 k = 1;
    for (u32 i = 1; i < t->rank; i++)
        k *= t->dim[i];
    if (t->dt == DT_S8 || t->dt == DT_S4) return rows * ((k + 63) / 64 * 64);
    if (t->dt == DT_S16)
        return rows *
               (op_int(def_of(m, v), A_GROUP) ? (k + 31) / 32 * 64 : 2 * ((k + 63) / 64 * 64));
    assert_int_equal(t->dt, DT_F32);
    return rows * k * 4;
}

static void check_memory(const Module *m, u32 fn)
{
    const Fn *f = &m->fns.at[fn];
    Live *live = calloc(m->values.n, sizeof *live);
    for (u32 i = 0; i < f->body.n; i++) {
        const Op *op = op_at(m, f->body.at[i]);
        for (u32 k = 0; k < op->nin; k++) {
            Live *l = &live[op->in[k]];
            if (l->used && op->step > l->last) l->last = op->step;
        }
        const Attr *at = op_attr(op, A_AT);
        for (u32 k = 0; k < op->nout; k++) {
            if (at->ints[k] < 0) continue;
            live[op->out + k] =
                (Live){at->ints[k], bytes_of(m, op->out + k), op->step, op->step, true};
            if (op->kind == OP_RESHAPE) assert_int_equal(at->ints[k], live[op->in[0]].at);
        }
    }
    for (ValueId a = 1; a < m->values.n; a++) {
        if (!live[a].used) continue;
        assert_int_equal(live[a].at % 64, 0);
        assert_true((u64)(live[a].at + live[a].bytes) <= f->act_bytes);
        for (ValueId b = 1; b < a; b++) {
            bool alias = def_of(m, a)->kind == OP_RESHAPE || def_of(m, b)->kind == OP_RESHAPE;
            if (!live[b].used || alias || live[a].first > live[b].last ||
                live[b].first > live[a].last)
                continue;
            assert_true(live[a].at + live[a].bytes <= live[b].at ||
                        live[b].at + live[b].bytes <= live[a].at);
        }
    }
    free(live);
}

/* A value read in another step than its own has a place; @hidden keeps its own. */
static void check_crossing(const Module *m, u32 fn)
{
    const Fn *f = &m->fns.at[fn];
    for (u32 i = 0; i < f->body.n; i++) {
        const Op *op = op_at(m, f->body.at[i]);
        for (u32 k = 0; k < op->nin; k++) {
            const Op *def = def_of(m, op->in[k]);
            if (def->kind && def->fn == fn && def->step != op->step)
                assert_true(op_attr(def, A_AT)->ints[op->in[k] - def->out] >= 0);
        }
    }
}

static void test_recipes(void **state)
{
    (void)state;
    for (u32 s = 0; s < N_SHAPES; s++)
        for (u32 r = 0; r < N_RECIPES; r++) {
            Arena a = {0};
            Diag d;
            diag_init(&d, &a);
            Module *m = compiled(&d, &shapes[s], recipes[r]);
            diag_flush(&d);
            assert_non_null(m);
            assert_int_equal(passes_stage(m), STAGE_PLANNED);
            assert_int_equal(m->fns.n, 4);
            for (u32 f = 1; f < m->fns.n; f++)
                check_memory(m, f), check_crossing(m, f);
            const char *w = formats[r][0], *x = formats[r][2];
            const bool quantises = strcmp(x, "f32") != 0;
            const Fn *p = ir_fn(m, "prefill");
            assert_int_equal(p->steps.n, 1 + shapes[s].layers * (quantises ? 9 : 7));
            u32 at = 0;
            assert_true(kernel_is(m, p, at++, arena_printf(&a, "embed.%s", formats[r][1])));
            assert_true(kernel_is(m, p, at++, arena_printf(&a, "norm.%s", x)));
            assert_true(kernel_is(m, p, at++, arena_printf(&a, "linear.%s.qkv", w)));
            assert_true(kernel_is(m, p, at++, "attend"));
            if (quantises) assert_true(kernel_is(m, p, at++, arena_printf(&a, "quant.%s", x)));
            assert_true(kernel_is(m, p, at++, arena_printf(&a, "linear.%s.residual", w)));
            arena_free(&a);
        }
}

/* ---- numerics: recipes and single passes against the evaluator, in f64 ---- */

static Pipeline pipeline(Diag *d, const char *text)
{
    Source *src = NEW(d->a, Source);
    *src = (Source){"test", text, strlen(text)};
    Pipeline p = {0};
    assert_true(pipeline_parse(d, d->a, src, &p));
    return p;
}

static bool run(Diag *d, Module *m, const char *text, const PassOptions *o)
{
    Pipeline p = pipeline(d, text);
    PassOptions each = {.verify_each = true};
    return passes_run(d, m, &p, o ? o : &each);
}

enum { TOKENS = 7 };

static double *logits(Diag *d, Module *m, bool decode, i64 *n)
{
    const i32 tokens[TOKENS] = {3, 1, 4, 1, 5, 9, 2};
    double *v = compare_logits(d, m, tokens, TOKENS, decode, d->a, n);
    diag_flush(d);
    assert_non_null(v);
    return v;
}

/* SQNR of the logits after the pipeline, in dB; the worse of prefill and decode. */
static double sqnr_after(const TinyLlama *t, const char *text)
{
    Arena a = {0};
    Diag d;
    diag_init(&d, &a);
    Module *m = tiny_llama(&d, t);
    i64 n, k;
    double *ref = logits(&d, m, false, &n);
    bool ok = run(&d, m, text, NULL);
    diag_flush(&d);
    assert_true(ok);
    double worst = compare_values(ref, logits(&d, m, false, &k), n).sqnr_db;
    assert_int_equal(n, k);
    if (ir_fn(m, "decode"))
        worst = fmin(worst, compare_values(ref, logits(&d, m, true, &k), n).sqnr_db);
    arena_free(&a);
    return worst;
}

static void test_exact_passes(void **state)
{
    (void)state;
    static const char *const text[] = {
        "canonicalise",
        "cse,dce",
        "fuse-norm",
        "untie,fuse-norm",
        "merge-linears",
        "fuse-norm,merge-linears,cse,dce",
        "untie,fuse-norm,rotate",
        "untie,fuse-norm,rotate{seed=7,block=4,skip=r3}",
        "rotate{skip=r1}",
        ("untie,fuse-norm,rotate{skip=r2+r4},merge-linears,phases{chunk=4,rows=4},fuse,layout,"
         "memory"),
        "phases{chunk=4,rows=4}",
        "phases{chunk=4,rows=4},fuse",
        "fuse-norm,merge-linears,phases{chunk=4,rows=4},cse,dce,fuse,layout,memory",
    };
    for (u32 s = 0; s < N_SHAPES; s++)
        for (u32 i = 0; i < sizeof text / sizeof *text; i++) {
            double db = sqnr_after(&shapes[s], text[i]);
            if (db < 240) fail_msg("%s on shape %u: %.1f dB", text[i], s, db);
        }
}

static void test_quantising_passes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double db; /* at least; far below what is measured, far above what a mistake gives */
    } row[] = {
        {"quantize-weights{bits=8,sym}", 40},
        {"quantize-weights{bits=8,group=16}", 40},
        {"quantize-weights{bits=4,group=8}", 20},
        {"quantize-weights{bits=8,sym},quantize-activations{dtype=s16}", 40},
        {"quantize-weights{bits=8,sym},quantize-activations{dtype=s8},lower,dce", 35},
        {"quantize-weights{bits=4,group=32,only=layers},quantize-activations{dtype=s16,group=32},"
         "lower,dce",
         22},
        {"cast-weights", 45},
        {"phases{chunk=4,rows=4,kv=f16}", 70},
    };
    for (u32 s = 0; s < N_SHAPES; s++)
        for (u32 i = 0; i < sizeof row / sizeof *row; i++) {
            double db = sqnr_after(&shapes[s], row[i].text);
            if (db < row[i].db)
                fail_msg("%s on shape %u: %.1f dB, expected %.0f", row[i].text, s, db, row[i].db);
        }
}

/* lower changes nothing but rounding: the integers are those of the quantisers. */
static void test_lower_is_exact(void **state)
{
    (void)state;
    static const char *const quantise[] = {
        "quantize-weights{bits=8,sym},quantize-activations{dtype=s16}",
        "quantize-weights{bits=4,group=32},quantize-activations{dtype=s16,group=32}",
        "quantize-weights{bits=4,group=8},quantize-activations{dtype=s8}",
    };
    for (u32 s = 0; s < N_SHAPES; s++)
        for (u32 i = 0; i < 3; i++) {
            Arena a = {0};
            Diag d;
            diag_init(&d, &a);
            Module *m = tiny_llama(&d, &shapes[s]);
            i64 n, k;
            assert_true(run(&d, m, quantise[i], NULL));
            double *ref = logits(&d, m, false, &n);
            assert_true(run(&d, m, "lower,dce", NULL));
            u32 lowered = 0, left = 0;
            for (OpId o = 1; o < m->ops.n; o++)
                lowered += op_at(m, o)->kind == OP_QLINEAR, left += op_at(m, o)->kind == OP_LINEAR;
            assert_int_equal(lowered, 7 * shapes[s].layers + 1);
            assert_int_equal(left, 0);
            assert_true(compare_values(ref, logits(&d, m, false, &k), n).sqnr_db > 60);
            arena_free(&a);
        }
}

static void test_recipes_numerics(void **state)
{
    (void)state;
    static const double bound[N_RECIPES] = {240, 45, 20, 36};
    for (u32 s = 0; s < N_SHAPES; s++)
        for (u32 r = 0; r < N_RECIPES; r++) {
            Arena a = {0};
            Diag d;
            diag_init(&d, &a);
            i64 n, k;
            Module *plain = tiny_llama(&d, &shapes[s]), *m = compiled(&d, &shapes[s], recipes[r]);
            double *ref = logits(&d, plain, false, &n);
            double prefill = compare_values(ref, logits(&d, m, false, &k), n).sqnr_db,
                   decode = compare_values(ref, logits(&d, m, true, &k), n).sqnr_db;
            if (prefill < bound[r] || decode < bound[r])
                fail_msg("%s on shape %u: %.1f and %.1f dB", recipes[r], s, prefill, decode);
            arena_free(&a);
        }
}

/* A change of meaning between start and check is blamed on the pass. */
static void test_numerics_names_the_pass(void **state)
{
    (void)state;
    Arena a = {0};
    Diag d;
    diag_init(&d, &a);
    d.silent = true;
    Module *m = tiny_llama(&d, &shapes[0]);
    Pipeline p = pipeline(&d, "cse");
    PassCx cx = {.m = m, .d = &d, .a = &a, .call = &p.calls.at[0], .changes = 1};
    const PassInfo *info = &pass_info[p.calls.at[0].pass];
    Numerics num = {0};
    assert_true(numerics_start(&num, &d, m));
    assert_true(numerics_check(&num, &cx, info));
    Fn *f = ir_fn(m, "main");
    for (u32 i = 0; i < f->body.n; i++) {
        Op *op = op_at(m, f->body.at[i]);
        if (op->kind == OP_ADD) op->in[1] = op->in[0];
    }
    assert_false(numerics_check(&num, &cx, info));
    numerics_end(&num);
    assert_int_equal(d.n_errors, 1);
    arena_free(&a);
}

/* ---- options ---- */

/* Whether an option declared so takes the text, and else what of it it does not. */
static bool takes(const char *declaration, const char *text, const char *wrong)
{
    Arena a = {0};
    OptDecl o;
    PassOpt opt = {0};
    Str part;
    assert_true(option_next(&declaration, &o));
    bool ok = option_set(&a, &o, str_c(text), &opt, &part);
    if (!ok) assert_true(str_is(part, wrong));
    arena_free(&a);
    return ok;
}

static void test_option_values(void **state)
{
    (void)state;
    static const struct {
        const char *declaration, *takes, *not, *wrong;
    } rows[] = {
        {"a:int", "-7", "1.5", "1.5"},
        {"a:int=3 b:flag", "9223372036854775807", "9223372036854775808", "9223372036854775808"},
        {"a:int(4|8|16)=8", "16", "12", "12"},
        {"a:int(1..65536)", "65536", "65537", "65537"},
        {"a:int(0..)", "0", "-1", "-1"},
        {"a:int(..5|9)", "-100", "6", "6"},
        {"a:int(..5|9)", "9", "8", "8"},
        {"a:num(0<..1)=1", "1e-9", "0", "0"},
        {"a:num(-1.5<..2.5)", "-1.4", "-1.5", "-1.5"},
        {"a:num(-1.5<..2.5)", "2.5", "2.6", "2.6"},
        {"a:num(0..)", "1e300", "nan", "nan"},
        {"a:num", "-3", "inf", "inf"},
        {"a:word(rtn|gptq)", "gptq", "gpt", "gpt"},
        {"a:word(rtn|gptq)", "rtn", "rtn|gptq", "rtn|gptq"},
        {"a:list(r1|r2|3..5)", "r2+4+r1", "r2+6+r1", "6"},
        {"a:list(r1|r2)", "r1", "r1+", ""},
        {"a:flag", "true", "1", "1"},
    };
    for (u32 i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_true(takes(rows[i].declaration, rows[i].takes, ""));
        assert_false(takes(rows[i].declaration, rows[i].not, rows[i].wrong));
    }
    assert_true(takes("a:word", "x.y|z", "") && takes("a:list", "*", ""));
}

/* Each declaration is one; what is printed of a call reads back as the call. */
static void test_declarations(void **state)
{
    (void)state;
    static const char *const types[] = {"int", "num", "flag", "word", "list"};
    for (u32 i = 0; i < pass_count; i++) {
        Arena a = {0};
        Diag d;
        diag_init(&d, &a);
        PassCall c = {.pass = i};
        options_default(&a, &pass_info[i], &c);
        assert_null(options_clash(&c));
        const char *p = pass_info[i].options;
        OptDecl o;
        for (u32 k = 0; option_next(&p, &o); k++) {
            u32 known = 0;
            for (u32 t = 0; t < sizeof types / sizeof *types; t++)
                known += str_is(o.type, types[t]);
            assert_int_equal(known, 1);
            assert_true(o.name.n > 0 && (*option_takes(&a, &o) || !o.values.n));
            if (str_is(o.type, "flag")) c.opt[k].i = 1;
        }
        StrBuf text = {.a = &a}, again = {.a = &a};
        Pipeline one = {0};
        vec_push(&a, &one.calls, c);
        pipeline_text(&one, 0, &text);
        Pipeline back = pipeline(&d, text.p);
        pipeline_text(&back, 0, &again);
        assert_string_equal(text.p, again.p);
        for (u32 k = 0; k < c.nopt; k++) {
            const PassOpt *x = &c.opt[k], *y = &back.calls.at[0].opt[k];
            assert_true(x->i == y->i && x->f == y->f && strcmp(x->s, y->s) == 0);
        }
        arena_free(&a);
    }
}

/* ---- random graphs ---- */

enum { WIDTH = 8, VALUES = 24 };

static ValueId random_value(Random *r, TinyBuild *z, const ValueId *v, u32 n, const ValueId *w,
                            u32 n_w)
{
    ValueId x = v[below(r, n)], y = v[below(r, n)];
    switch (below(r, 9)) {
    case 0: return ir_op(&z->b, OP_ADD, INS(x, y), NULL, 0, NULL);
    case 1:
        return ir_op(&z->b, OP_MUL, INS(ir_op(&z->b, OP_SILU, INS(x), NULL, 0, NULL), y), NULL, 0,
                     NULL);
    case 2: return ir_op(&z->b, OP_RMSNORM, INS(x), ATTRS({A_EPS, .f = 1e-5}), 0, NULL);
    case 3: return tiny_norm(z, "norm", x, WIDTH);
    case 4: return ir_op(&z->b, OP_GELU, INS(x), NULL, 0, NULL);
    case 5: { /* gated unit */
        ValueId g = tiny_linear(z, "gate", x, 2 * WIDTH, WIDTH),
                u = tiny_linear(z, "up", x, 2 * WIDTH, WIDTH);
        g = ir_op(&z->b, OP_SILU, INS(g), NULL, 0, NULL);
        g = below(r, 2) ? ir_op(&z->b, OP_MUL, INS(g, u), NULL, 0, NULL)
                        : ir_op(&z->b, OP_MUL, INS(u, g), NULL, 0, NULL);
        return tiny_linear(z, "down", g, WIDTH, 2 * WIDTH);
    }
    default: /* a linear, often the operand of a sum that a residual epilogue may take */
        x = ir_op(&z->b, OP_LINEAR, INS(x, w[below(r, n_w)]), NULL, 0, NULL);
        return below(r, 2)   ? x
               : below(r, 2) ? ir_op(&z->b, OP_ADD, INS(x, y), NULL, 0, NULL)
                             : ir_op(&z->b, OP_ADD, INS(y, x), NULL, 0, NULL);
    }
}

static Module *random_graph(Diag *d, u64 seed)
{
    static const TinyLlama t = {
        .layers = 1, .hidden = WIDTH, .heads = 2, .kv_heads = 1, .head_dim = 4, .vocab = 20};
    Random r = {seed * 2 + 1};
    Module *m = ir_module_new(d->a, "random", ".");
    u32 fn = ir_fn_new(m, "main");
    TinyBuild z = {
        .c = {.m = m, .d = d, .layer = -1}, .b = {.m = m, .d = d, .fn = fn, .layer = -1}, .t = &t};
    const i64 T = DIM_T;
    ValueId tokens = ir_param(m, fn, "tokens", ir_type(m, DT_I32, 1, &T)),
            pos = ir_param(m, fn, "pos", ir_type(m, DT_I32, 1, &T));
    ValueId v[VALUES], w[3], table = tiny_const(&z, "embed", 2, t.vocab, WIDTH, 1.0);
    for (u32 i = 0; i < 3; i++)
        w[i] = tiny_const(&z, "w", 2, WIDTH, WIDTH, 0.5);
    v[0] = ir_op(&z.b, OP_EMBEDDING, INS(tokens, table), NULL, 0, NULL);
    u32 attention = below(&r, VALUES);
    for (u32 i = 1; i < VALUES; i++) {
        v[i] = random_value(&r, &z, v, i, w, 3);
        if (i != attention) continue;
        z.b.layer = 0;
        ValueId freqs =
            ir_op(&z.c, OP_ROPE_FREQS, NULL, 0, ATTRS({A_DIM, .i = t.head_dim}), 0, "freqs");
        v[i] = tiny_attention(&z, v[i], pos, freqs);
        z.b.layer = -1;
    }
    ValueId sum = v[VALUES - 1]; /* every value counts */
    for (u32 i = 0; i + 1 < VALUES; i += 2)
        sum = ir_op(&z.b, OP_ADD, INS(sum, v[i]), NULL, 0, NULL);
    ValueId y =
        ir_op(&z.b, OP_LINEAR, INS(tiny_norm(&z, "last", sum, WIDTH), table), NULL, 0, NULL);
    vec_push(m->a, &m->fns.at[fn].results, y);
    return m;
}

static void test_random_graphs(void **state)
{
    (void)state;
    const char *const text = "canonicalise,cse,dce,fuse-norm,merge-linears,phases{chunk=4,rows=4},"
                             "cse,dce,fuse,layout,memory";
    for (u64 seed = 0; seed < 150; seed++) {
        Arena a = {0};
        Diag d;
        diag_init(&d, &a);
        Module *m = random_graph(&d, seed);
        i64 n, k;
        double *ref = logits(&d, m, false, &n);
        bool ok = run(&d, m, text, NULL);
        diag_flush(&d);
        if (!ok) fail_msg("seed %llu", (unsigned long long)seed);
        for (u32 f = 1; f < m->fns.n; f++)
            check_memory(m, f), check_crossing(m, f);
        double prefill = compare_values(ref, logits(&d, m, false, &k), n).sqnr_db,
               decode = compare_values(ref, logits(&d, m, true, &k), n).sqnr_db;
        if (prefill < 180 || decode < 180)
            fail_msg("seed %llu: %.1f and %.1f dB", (unsigned long long)seed, prefill, decode);
        StrBuf b = {.a = &a}, c = {.a = &a};
        ir_print(m, &b);
        const Source src = {"dump", b.p, b.n};
        Module *again = ir_parse(&d, &a, &src, ".");
        diag_flush(&d);
        assert_non_null(again);
        ir_print(again, &c);
        assert_string_equal(b.p, c.p);
        arena_free(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recipes),           cmocka_unit_test(test_exact_passes),
        cmocka_unit_test(test_quantising_passes), cmocka_unit_test(test_lower_is_exact),
        cmocka_unit_test(test_recipes_numerics),  cmocka_unit_test(test_numerics_names_the_pass),
        cmocka_unit_test(test_option_values),     cmocka_unit_test(test_declarations),
        cmocka_unit_test(test_random_graphs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
