/* The whole way for small llamas: passes, cg_compile, and the program's logits against the
 * reference evaluator run on the same module, prefill and decode, for every recipe. */
#include "codegen/codegen.h"
#include "ir/base/json.h"
#include "ir/eval.h"
#include "passes/passes.h"
#include "tests/unit/tiny_llama.h"

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
} recipes[] = {{"float", 2e-5}, {"w4a16", 2e-3}, {"w8a8-dynamic", 2e-2}};
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

/* The program's logits [N_TOKENS][vocab], or NULL if this CPU lacks the variant. */
static const Json *run(Diag *d, Arena *a, const char *binary, const char *variant, bool decode)
{
    StrBuf cmd = {.a = a}, text = {.a = a};
    sb_printf(&cmd, "'%s' logits --all --threads 3 --cpu %s %s --tokens ", binary, variant,
              decode ? "--decode" : "");
    for (u32 i = 0; i < N_TOKENS; i++)
        sb_printf(&cmd, "%s%d", i ? "," : "", tokens[i]);
    sb_str(&cmd, " 2>&1");
    FILE *f = popen(cmd.p, "r");
    assert_non_null(f);
    char buf[4096];
    for (size_t n; (n = fread(buf, 1, sizeof buf, f)) > 0;)
        sb_add(&text, buf, n);
    if (pclose(f) != 0) {
        if (!strstr(text.p, "needs") && !strstr(text.p, "lacks") &&
            !strstr(text.p, "does not have"))
            fail_msg("%s: %s", cmd.p, text.p);
        return NULL;
    }
    Source *src = NEW(a, Source);
    *src = (Source){"logits", text.p, text.n};
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

static void one(u32 shape, u32 recipe, const char *dir)
{
    const TinyLlama *t = &shapes[shape];
    Arena a = {0};
    Diag d;
    diag_init(&d, &a);
    Module *m = tiny_llama(&d, t);
    Recipe r;
    PassOptions po = {.verify_each = true};
    if (!recipe_load(&d, &a, recipes[recipe].name, &r) || !passes_run(&d, m, &r.pipeline, &po)) {
        diag_flush(&d);
        fail_msg("passes");
    }
    const char *binary = compile(&d, m, dir, shape);
    for (u32 decode = 0; decode < 2; decode++) {
        const double *want = reference(&d, &a, m, t->vocab, decode);
        for (u32 v = of_shape[shape].first; v < of_shape[shape].first + of_shape[shape].n; v++) {
            const Json *got = run(&d, &a, binary, variants[v], decode);
            const char *what =
                arena_printf(&a, "%s, vocab %lld, %s, %s", recipes[recipe].name,
                             (long long)t->vocab, variants[v], decode ? "decode" : "prefill");
            if (got) compare(what, got, want, t->vocab, recipes[recipe].tolerance);
        }
    }
    arena_free(&a);
}

static void programs_agree_with_the_evaluator(void **state)
{
    (void)state;
    char dir[] = "/tmp/pfqc-test-XXXXXX", cmd[64];
    assert_non_null(mkdtemp(dir));
    for (u32 s = 0; s < N_SHAPES; s++)
        for (u32 r = 0; r < N_RECIPES; r++)
            one(s, r, dir);
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    assert_int_equal(system(cmd), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(programs_agree_with_the_evaluator)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
