/* Every architecture description against transformers in float64: init -> model.json -> IR -> evaluator in f64.
 * tests/golden/make.py made the checkpoints and the goldens (tests/data/arch/README.md). */
#include "frontend/frontend.h"
#include "ir/eval.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define DATA "tests/data/arch"

typedef struct Run {
    Arena a;
    Diag d;
    FeModel model;
    Eval *eval;
    const Json *golden;
} Run;

static void stop(Run *r)
{
    eval_free(r->eval);
    fe_model_close(&r->model);
    arena_free(&r->a);
}

static const Json *read_json(Run *r, const char *path)
{
    Source *src = NEW(&r->a, Source);
    return io_read_text(&r->d, &r->a, path, 1 << 24, src) ? json_parse(&r->d, &r->a, src) : NULL;
}

/* Loads what `pfqc init` writes for the checkpoint; "model.json" is the committed text of a sample. */
static void start(Run *r, const char *checkpoint, const char *model_json, const char *golden)
{
    *r = (Run){0};
    diag_init(&r->d, &r->a);
    FeInit init = {.checkpoint = checkpoint};
    Source *src = NEW(&r->a, Source);
    bool ok = (r->golden = read_json(r, golden)) != NULL;
    if (model_json) ok = ok && fe_model_load(&r->d, &r->a, model_json, &r->model);
    else ok = ok && fe_init(&r->d, &r->a, &init) && (*src = (Source){"model.json", init.text, strlen(init.text)}, fe_model_parse(&r->d, &r->a, src, ".", &r->model));
    ok = ok && ir_verify(&r->d, r->model.m) && eval_open(&r->d, r->model.m);
    u32 warnings = r->d.n_warnings; /* no tokenizer */
    diag_flush(&r->d);
    if (!ok) fail_msg("%s was refused", checkpoint);
    assert_true(warnings <= 1);
    r->eval = eval_new(&r->d, r->model.m, true);
    eval_set_context(r->eval, 1024);
}

static u32 ids(const Json *list, i32 *out, u32 cap)
{
    u32 n = list->n < cap ? list->n : cap;
    for (u32 i = 0; i < n; i++) out[i] = (i32)list->at[i].i;
    return n;
}

static const double *logits(Run *r, const i32 *tokens, u32 n, u32 pos, bool all, i64 *vocab)
{
    Tensor t;
    bool ok = eval_model(r->eval, tokens, n, pos, all, false, &t);
    diag_flush(&r->d);
    assert_true(ok && t.dt == DT_F32 && t.rank == 2);
    *vocab = t.dim[1];
    return t.d;
}

static i32 best(const double *x, i64 n)
{
    i64 k = 0;
    for (i64 i = 1; i < n; i++)
        if (x[i] > x[k]) k = i;
    return (i32)k;
}

static void check_greedy(Run *r, const Json *want, const double *last, i64 vocab, u32 pos)
{
    i32 id = best(last, vocab);
    for (u32 i = 0; i < want->n; i++) {
        if (id != want->at[i].i) fail_msg("greedy id %u is %d, expected %d", i, id, (int)want->at[i].i);
        eval_reset(r->eval);
        if (i + 1 < want->n) id = best(logits(r, &id, 1, pos + i, false, &vocab), vocab);
    }
}

static void one(const char *name)
{
    char folder[300], path[600], golden[600];
    snprintf(folder, sizeof folder, DATA "/%s", name);
    snprintf(golden, sizeof golden, "%s/golden.json", folder);
    snprintf(path, sizeof path, "%s/%s.gguf", folder, name);
    Run r;
    start(&r, io_exists(path) ? path : folder, NULL, golden);
    i32 tokens[256];
    i64 vocab;
    u32 n = ids(json_get(r.golden, "tokens"), tokens, 256);
    const double *y = logits(&r, tokens, n, 0, true, &vocab);
    const Json *rows = json_get(r.golden, "rows");
    double worst = 0;
    for (u32 i = 0; i < rows->n; i++) {
        assert_int_equal(rows->at[i].n, vocab);
        for (i64 k = 0; k < vocab; k++) worst = fmax(worst, fabs(rows->at[i].at[k].num - y[atoi(rows->key[i].p) * vocab + k]));
    }
    print_message("%-18s largest difference of a logit %.1e\n", name, worst);
    if (!(worst <= 1e-4)) fail_msg("%s: a logit differs by %g", name, worst);
    check_greedy(&r, json_get(r.golden, "greedy"), y + (n - 1) * vocab, vocab, n);
    stop(&r);
}

static int by_name(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static void test_goldens(void **state)
{
    (void)state;
    DIR *dir = opendir(DATA);
    assert_non_null(dir);
    char *names[64];
    u32 n = 0;
    for (struct dirent *e; (e = readdir(dir));) {
        char path[600];
        snprintf(path, sizeof path, DATA "/%s/golden.json", e->d_name);
        if (io_exists(path) && n < 64) names[n++] = strdup(e->d_name);
    }
    closedir(dir);
    assert_true(n >= 16);
    qsort(names, n, sizeof *names, by_name);
    for (u32 i = 0; i < n; i++) {
        one(names[i]);
        free(names[i]);
    }
}

/* The sample's committed model.json is what init writes, and computes what its golden says. */
static void test_tinystories(void **state)
{
    (void)state;
    Run r;
    start(&r, "samples/tinystories", "samples/tinystories/model.json", "samples/tinystories/golden.json");
    i32 tokens[256];
    i64 vocab;
    u32 n = ids(json_get(r.golden, "tokens"), tokens, 256);
    const double *y = logits(&r, tokens, n, 0, false, &vocab);
    const Json *top = json_get(r.golden, "top");
    for (u32 i = 0; i < top->n; i++)
        if (!(fabs(y[top->at[i].at[0].i] - top->at[i].at[1].num) <= 1e-4)) fail_msg("logit %d differs by %g", (int)top->at[i].at[0].i, y[top->at[i].at[0].i] - top->at[i].at[1].num);
    check_greedy(&r, json_get(r.golden, "greedy"), y, vocab, n);
    FeInit again = {.checkpoint = "samples/tinystories", .output = NULL};
    assert_true(fe_init(&r.d, &r.a, &again));
    stop(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_goldens), cmocka_unit_test(test_tinystories)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
