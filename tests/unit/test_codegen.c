/* The whole way for small llamas: passes, cg_compile, and the program's logits against the
 * reference evaluator run on the same module, prefill and decode, for every recipe. */
#include "codegen/plan.h"
#include "ir/base/json.h"
#include "ir/eval.h"
#include "passes/passes.h"
#include "tests/unit/tiny_quant.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { N_TOKENS = 11 };

/* Largest allowed |program - evaluator| as a part of the largest |logit|. The quantising recipes
 * round activations: a value that f32 and f64 put on two sides of a tie moves by one step, which is
 * 1/127 of a row's maximum in s8. */
static const struct {
    const char *name;
    double tolerance;
} recipes[] = {{"float", 2e-5}, {"bf16", 1e-3}, {"w4a16", 2e-3}, {"w8a8-dynamic", 2e-2}};
enum { N_RECIPES = sizeof recipes / sizeof *recipes };

static const i32 tokens[N_TOKENS] = {3, 17, 32, 0, 5, 5, 28, 9, 30, 1, 12};

/* Variants of each shape's programs: both for the first, one for the others, because LLVM takes
 * most of the time. */
static const char *const targets[] = {"cpu:x86-64-v3", "cpu:icelake-server"};
static const char *const variants[] = {"avx2", "avx512vnni"};
static const struct {
    u32 first, n;
} of_shape[N_SHAPES] = {{0, 2}, {0, 1}, {1, 1}};

static char *compile(Diag *d, Module *m, const char *dir, u32 shape)
{
    CgOptions o = {.out_dir = dir,
                   .targets = targets + of_shape[shape].first,
                   .n_targets = of_shape[shape].n,
                   .version = "test",
                   .recipe = "test"};
    CgResult r;
    ir_meta_int(m, "context", 64);
    if (!cg_compile(d, m, &o, &r)) {
        diag_flush(d);
        fail_msg("cg_compile");
    }
    assert_true(r.weight_bytes > 0 && r.binary_bytes > 0 && r.n_kernels > 0 &&
                r.n_variants == o.n_targets);
    return r.binary;
}

/* What a command of the program prints, and whether it succeeded. */
static bool output_of(const char *command, StrBuf *text)
{
    FILE *f = popen(command, "r");
    assert_non_null(f);
    char buf[4096];
    for (size_t n; (n = fread(buf, 1, sizeof buf, f)) > 0;)
        sb_add(text, buf, n);
    sb_ch(text, 0);
    return pclose(f) == 0;
}

/* The program's logits [N_TOKENS][vocab], or NULL if this CPU lacks the variant. */
static const Json *run(Diag *d, Arena *a, const char *binary, const char *variant, bool decode)
{
    StrBuf cmd = {.a = a}, text = {.a = a};
    sb_printf(&cmd, "'%s' logits --all --threads 3 --cpu %s %s --tokens ", binary, variant,
              decode ? "--decode" : "");
    for (u32 i = 0; i < N_TOKENS; i++)
        sb_printf(&cmd, "%s%d", i ? "," : "", tokens[i]);
    sb_str(&cmd, " 2>&1");
    if (!output_of(cmd.p, &text)) {
        if (!strstr(text.p, "needs") && !strstr(text.p, "lacks") &&
            !strstr(text.p, "does not have"))
            fail_msg("%s: %s", cmd.p, text.p);
        return NULL;
    }
    Source *src = NEW(a, Source);
    *src = (Source){"logits", text.p, strlen(text.p)};
    const Json *j = json_parse(d, a, src);
    assert_non_null(j);
    j = json_get(j, "logits");
    assert_non_null(j);
    assert_int_equal(j->n, N_TOKENS);
    return j;
}

static void compare(const char *what, const Json *got, const double *want, i64 vocab,
                    double tolerance)
{
    double worst = 0, top = 0;
    for (i64 i = 0; i < N_TOKENS * vocab; i++) {
        const double e = fabs(got->at[i / vocab].at[i % vocab].num - want[i]);
        if (!(e <= worst)) worst = e;
        if (fabs(want[i]) > top) top = fabs(want[i]);
    }
    if (getenv("PFQC_TEST_PRINT")) fprintf(stderr, "%s: %.2g of %.3g\n", what, worst, top);
    if (!(worst <= tolerance * top))
        fail_msg("%s: logits differ by %g, the largest is %g", what, worst, top);
}

/* The program knows its prefix, and that the context is shorter by it. */
static void check_info(Arena *a, const char *binary, const TinyQuant *q)
{
    StrBuf text = {.a = a};
    const char *prefix = q->prefix == 3 ? "prefix: 7 4 1\n"
                         : q->prefix    ? "prefix: 1\n"
                                        : "prefix: none\n";
    assert_true(output_of(arena_printf(a, "'%s' info", binary), &text));
    assert_non_null(strstr(text.p, prefix));
    assert_non_null(
        strstr(text.p, arena_printf(a, "context: %lld\n", (long long)(64 - q->prefix))));
}

static double *reference(Diag *d, Arena *a, Module *m, i64 vocab, bool decode)
{
    Eval *e = eval_new(d, m, true);
    Tensor y;
    eval_set_context(e, 64);
    if (!eval_model(e, tokens, N_TOKENS, 0, true, decode, &y)) {
        diag_flush(d);
        fail_msg("eval_model");
    }
    double *out = NEWN(a, double, N_TOKENS *vocab);
    memcpy(out, y.d, (size_t)(N_TOKENS * vocab) * sizeof *out);
    eval_free(e);
    return out;
}

/* Recipes by hand: their pipeline is of what follows calibration. A rounding that f32 and f64 put
 * on two sides of a tie would move logits by more than the tolerance: these modules have none. */
static const struct {
    const char *name;
    u32 shape;
    TinyQuant quant;
    const char *weights;
} quantised[] = {
    {"static w4a4kv4",
     0,
     {.act = "s4",
      .kv = "s4",
      .fixed = true,
      .q8 = true,
      .full = true,
      .r3 = true,
      .r4 = true,
      .prefix = 3},
     "bits=4,sym"},
    {"static w8a8kv8, window",
     1,
     {.act = "s8", .kv = "s8", .fixed = true, .full = true, .r4 = true, .prefix = 1},
     "bits=8,sym"},
    {"dynamic w4a4kv4",
     0,
     {.act = "s4", .kv = "u4", .r3 = true, .r4 = true, .clip = 0.9},
     "bits=4,sym"},
    {"dynamic w4a8kv8, q and k norms",
     2,
     {.act = "s8", .kv = "s8", .full = true, .prefix = 3, .clip = 1},
     "bits=4,sym"},
};
enum { N_QUANTISED = sizeof quantised / sizeof *quantised };

static bool by_recipe(Diag *d, Arena *a, const char *name, Pipeline *p)
{
    Recipe r;
    if (!recipe_load(d, a, name, &r)) return false;
    *p = r.pipeline;
    return true;
}

static bool parse(Diag *d, Arena *a, const char *text, Pipeline *p)
{
    Source *src = NEW(a, Source);
    *src = (Source){"pipeline", text, strlen(text)};
    return pipeline_parse(d, a, src, p);
}

static bool by_hand(Diag *d, Arena *a, u32 i, Module *m, Pipeline *p)
{
    Pipeline merge = {0};
    const PassOptions none = {0};
    if (!parse(d, a, "merge-linears", &merge) || !passes_run(d, m, &merge, &none)) return false;
    const char *text = arena_printf(a,
                                    "quantize-weights{%s,only=layers},phases{chunk=4,"
                                    "rows=3},lower,cse,dce,fuse,layout,memory",
                                    quantised[i].weights);
    tiny_quant(d, m, &quantised[i].quant);
    return parse(d, a, text, p);
}

/* recipe < N_RECIPES: a built-in one; from there on those by hand. */
static void one(u32 shape, u32 recipe, const char *dir)
{
    const TinyLlama *t = &shapes[shape];
    const bool hand = recipe >= N_RECIPES;
    const char *name = hand ? quantised[recipe - N_RECIPES].name : recipes[recipe].name;
    const double tolerance = hand ? 1e-4 : recipes[recipe].tolerance;
    Arena a = {0};
    Diag d;
    diag_init(&d, &a);
    Module *m = tiny_llama(&d, t);
    Pipeline p = {0};
    PassOptions po = {.verify_each = true};
    if (!(hand ? by_hand(&d, &a, recipe - N_RECIPES, m, &p) : by_recipe(&d, &a, name, &p)) ||
        !passes_run(&d, m, &p, &po)) {
        diag_flush(&d);
        fail_msg("passes: %s", name);
    }
    const char *binary = compile(&d, m, dir, shape);
    if (hand) check_info(&a, binary, &quantised[recipe - N_RECIPES].quant);
    for (u32 decode = 0; decode < 2; decode++) {
        const double *want = reference(&d, &a, m, t->vocab, decode);
        for (u32 v = of_shape[shape].first; v < of_shape[shape].first + of_shape[shape].n; v++) {
            const Json *got = run(&d, &a, binary, variants[v], decode);
            const char *what = arena_printf(&a, "%s, vocab %lld, %s, %s", name, (long long)t->vocab,
                                            variants[v], decode ? "decode" : "prefill");
            if (got) compare(what, got, want, t->vocab, tolerance);
        }
    }
    arena_free(&a);
}

static void run_all(bool hand)
{
    char dir[] = "/tmp/pfqc-test-XXXXXX", cmd[64];
    assert_non_null(mkdtemp(dir));
    if (hand)
        for (u32 i = 0; i < N_QUANTISED; i++)
            one(quantised[i].shape, N_RECIPES + i, dir);
    for (u32 s = 0; s < N_SHAPES && !hand; s++)
        for (u32 r = 0; r < N_RECIPES; r++)
            one(s, r, dir);
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    assert_int_equal(system(cmd), 0);
}

static void programs_agree_with_the_evaluator(void **state)
{
    (void)state;
    run_all(false);
}

static void quantised_programs_agree_with_the_evaluator(void **state)
{
    (void)state;
    run_all(true);
}

static void a_prefix_leaves_some_context(void **state)
{
    (void)state;
    static const struct {
        i64 context;
        const char *ids, *message;
    } cases[] = {
        {3, "7 4 1", "leaves nothing of the context of 3"},
        {64, "7 4", "names 2 of its 3 prefix tokens"},
        {64, "7 x 1", "names 1 of its 3 prefix tokens"},
        {64, "7 4 1", NULL},
    };
    for (u32 i = 0; i < sizeof cases / sizeof *cases; i++) {
        Arena a = {0};
        Diag d;
        diag_init(&d, &a);
        Module *m = tiny_llama(&d, &shapes[0]);
        Pipeline p = {0};
        const PassOptions none = {0};
        CgPlan plan;
        assert_true(by_hand(&d, &a, 0, m, &p) && passes_run(&d, m, &p, &none));
        ir_meta_int(m, "context", cases[i].context);
        ir_meta_str(m, "prefix_ids", cases[i].ids);
        assert_int_equal(cg_plan(&d, &a, m, &plan), !cases[i].message);
        if (cases[i].message) {
            assert_int_equal(d.msgs.n, 1);
            assert_non_null(strstr(d.msgs.at[0].text, cases[i].message));
        } else {
            assert_true(plan.prefix == 3 && plan.prefix_ids[1] == 4 && plan.context == 61);
        }
        arena_free(&a);
    }
}

/* A plan asks the rows of an ID in order, and gives numbers of tokens in front of a row's first to
 * the plain kernel: one listed behind a row of more tokens would never be asked. Rows of one chip
 * that fit a call take all that those behind them, for other chips too, would. */
static void fast_rows_ascend(void **state)
{
    (void)state;
    for (const CgCudaRow *x = cg_cuda_fast; x->template; x++) {
        assert_true(x->from >= 1 && (!x->to || x->to >= x->from));
        for (const CgCudaRow *y = x + 1; y->template; y++) {
            if (x->row == y->row && x->phases & y->phases && strcmp(x->chips, y->chips) == 0 &&
                x->from > y->from)
                fail_msg("%s takes %d tokens on, and is listed in front of %s, from %d on", x->name,
                         x->from, y->name, y->from);
        }
    }
}

/* The last byte of an image is data when the sections end on its alignment. */
static void an_image_may_end_with_data(void **state)
{
    (void)state;
    Arena a = {0};
    Diag d;
    diag_init(&d, &a);
    char dir[] = "/tmp/pfqc-test-XXXXXX", cmd[64];
    assert_non_null(mkdtemp(dir));
    for (i64 n = PFQ_IMAGE_ALIGN / 4 - 1; n <= PFQ_IMAGE_ALIGN / 4 + 1; n++) {
        Module *m = ir_module_new(&a, "m", ".");
        Builder b = {.m = m, .d = &d, .layer = -1};
        CgPlan p = {.m = m, .a = &a};
        PfqImageSection image = {.name = "x", .bytes = 4 * (u64)n};
        const CgSection s = {ir_op(&b, OP_SYNTHETIC, NULL, 0, ATTRS({A_SEED, .i = 1}),
                                   ir_type(m, DT_F32, 1, &n), "x"),
                             CG_SEC_F32, "x", 0, NULL};
        vec_push(&a, &p.sections, s);
        p.image = &image;
        assert_true(pfq_image_layout(&image, 1, &p.data_offset, &p.data_bytes, &p.total_bytes));
        const char *path = io_join(&a, dir, "x.weights");
        const CgOptions o = {.threads = 1};
        OutFile *f = io_create(&d, &a, path);
        assert_true(f && cg_write_weights(&d, &p, f, 0, &o) && io_commit(f, 0666));
        PfqImage im;
        PfqErr err;
        assert_true(pfq_image_open(&im, path, "m", p.image_id, &err));
        assert_true(pfq_image_verify(&im, NULL, &err));
        pfq_image_close(&im);
    }
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    assert_int_equal(system(cmd), 0);
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fast_rows_ascend),
        cmocka_unit_test(an_image_may_end_with_data),
        cmocka_unit_test(a_prefix_leaves_some_context),
        cmocka_unit_test(programs_agree_with_the_evaluator),
        cmocka_unit_test(quantised_programs_agree_with_the_evaluator),
    };
    if (getenv("PFQC_TEST_FILTER")) cmocka_set_test_filter(getenv("PFQC_TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
