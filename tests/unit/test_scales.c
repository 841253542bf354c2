/* prefix, static-scales, dynamic-scales: what they find, and that the module computes what they
 * simulated. */
#include "passes/calib/calib.h"
#include "passes/outliers.h"

#include "ir/compare.h"
#include "ir/text.h"
#include "tests/unit/tiny_llama.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

enum { TEXT = 64 * 512 };

typedef struct Fix {
    Arena a;
    Diag d;
    Module *m;
    i32 *tokens;
    CalibSource src;
} Fix;

static char cache[] = "/tmp/pfqc-scales-XXXXXX";

static void fix_text(Fix *f, i64 vocab)
{
    f->tokens = NEWN(&f->a, i32, TEXT);
    u32 r = 1;
    for (i64 i = 0; i < TEXT; i++) {
        r = r * 1664525 + 1013904223;
        f->tokens[i] = (i32)((r >> 16) % (u32)vocab);
    }
    f->src = (CalibSource){.tokens = f->tokens,
                           .n = TEXT,
                           .bos = 1,
                           .eos = -1,
                           .threads = 2,
                           .cache_dir = cache,
                           .prefix = "none"};
}

static void fix_llama(Fix *f, const TinyLlama *t)
{
    *f = (Fix){0};
    diag_init(&f->d, &f->a);
    f->m = tiny_llama(&f->d, t);
    assert_non_null(f->m);
    fix_text(f, t->vocab);
}

static bool try_run(Fix *f, const char *text)
{
    Source *src = NEW(&f->a, Source);
    *src = (Source){"test", text, strlen(text)};
    Pipeline p = {0};
    PassOptions o = {.verify_each = true, .calib = &f->src};
    return pipeline_parse(&f->d, &f->a, src, &p) && passes_run(&f->d, f->m, &p, &o);
}

static void run(Fix *f, const char *text)
{
    bool ok = try_run(f, text);
    diag_flush(&f->d);
    assert_true(ok);
}

static double *logits(Fix *f, const i32 *tokens, i64 n, i64 *elems)
{
    double *y = compare_logits(&f->d, f->m, tokens, n, false, &f->a, elems);
    diag_flush(&f->d);
    assert_non_null(y);
    return y;
}

static void free_fix(Fix *f)
{
    arena_free(&f->a);
}

/* ---- prefix ---- */

static const i32 user_tokens[] = {3, 1, 4, 1, 5, 9, 2, 6};
enum { USER = sizeof user_tokens / sizeof *user_tokens };

/* A prefix in the module is the same as its tokens in front, but for the f16 of keys and values. */
static void prefix_equals_tokens(void **state)
{
    (void)state;
    static const i32 prefix[] = {7, 2, 7};
    for (u32 s = 0; s < N_SHAPES; s++) {
        if (shapes[s].window) continue; /* a window hides tokens in front, never the prefix */
        Fix f;
        fix_llama(&f, &shapes[s]);
        i32 all[3 + USER];
        memcpy(all, prefix, sizeof prefix);
        memcpy(all + 3, user_tokens, sizeof user_tokens);
        run(&f, "untie,fuse-norm,rotate");
        i64 n, k, vocab = shapes[s].vocab;
        double *want = logits(&f, all, 3 + USER, &n);
        f.src.prefix = "7 2 7";
        run(&f, "prefix");
        assert_int_equal(ir_meta_get_int(f.m, "prefix", 0), 3);
        assert_string_equal(ir_meta_get_str(f.m, "prefix_ids", ""), "7 2 7");
        double *y = logits(&f, user_tokens, USER, &k);
        assert_int_equal(n - 3 * vocab, k);
        Compare c = compare_values(want + 3 * vocab, y, k);
        if (c.sqnr_db < 60) fail_msg("shape %u: %.1f dB", s, c.sqnr_db);
        free_fix(&f);
    }
}

/* Two tokens drive gate and up in a direction of their own. */
static const char outlier_model[] =
    "pfir 1\n"
    "module @m {context = 64, vocab = 8}\n"
    "@embed = literal {values = [0, 0.1, 1, 0.3,  0, 1, 0.2, 0.1,  0, 1, 1, 0.2,  0, 0.2, 1, 1,"
    "  0, 1, 0.5, 1,  10, 0.1, 0, 0.2,  9, 0, 0.1, 0.3,  0, 0.5, 1, 0.5]} : f32[8,4]\n"
    "@w = synthetic {scale = 0.1, seed = 3} : f32[4,4]\n"
    "@gate = literal {values = [50, 0.1, 0.2, 0,  0, 1, 0.5, 0,  0, 0.5, 1, 0.2,  0, 0.1, 0, 1]}"
    " : f32[4,4]\n"
    "@freqs = rope_freqs {dim = 4} : f32[2]\n"
    "func @main(%tokens: i32[T], %pos: i32[T]) {\n"
    "  %x = embedding %tokens, @embed : f32[T,4]\n"
    "  %n = rmsnorm %x {eps = 1e-05} : f32[T,4]\n"
    "  %q = linear %n, @w : f32[T,4]\n"
    "  %qh = reshape %q {shape = [-1, 1, 4]} : f32[T,1,4]\n"
    "  %r = rope %qh, %pos, @freqs : f32[T,1,4]\n"
    "  %a = attention %r, %r, %qh, %pos {cache = 0, scale = 0.5} : f32[T,1,4]\n"
    "  %af = reshape %a {shape = [-1, 4]} : f32[T,4]\n"
    "  %o = linear %af, @w : f32[T,4]\n"
    "  %x1 = add %x, %o : f32[T,4]\n"
    "  %n1 = rmsnorm %x1 {eps = 1e-05} : f32[T,4]\n"
    "  %g = linear %n1, @gate : f32[T,4]\n"
    "  %s = silu %g : f32[T,4]\n"
    "  %m = mul %s, %g : f32[T,4]\n"
    "  %h = hadamard %m : f32[T,4]\n"
    "  %d = linear %h, @w : f32[T,4]\n"
    "  %x2 = add %x1, %d : f32[T,4]\n"
    "  %n2 = rmsnorm %x2 {eps = 1e-05} : f32[T,4]\n"
    "  %logits = linear %n2, @embed : f32[T,8]\n"
    "  return %logits\n"
    "}\n";

/* The outlier model, its ops in layer 0, and a text in which 5 comes twice and 6 once per 512. */
static void fix_outliers(Fix *f)
{
    *f = (Fix){0};
    diag_init(&f->d, &f->a);
    static const Source src = {"m.pfir", outlier_model, sizeof outlier_model - 1};
    f->m = ir_parse(&f->d, &f->a, &src, ".");
    diag_flush(&f->d);
    assert_non_null(f->m);
    Fn *fn = ir_fn(f->m, "main");
    for (u32 i = 1; i + 1 < fn->body.n; i++)
        op_at(f->m, fn->body.at[i])->layer = 0;
    fix_text(f, 5);
    for (i64 i = 0; i < TEXT; i += 512) {
        f->tokens[i + 100] = f->tokens[i + 300] = 5;
        f->tokens[i + 200] = 6;
    }
    f->src.prefix = NULL;
}

static void prefix_finds_outliers(void **state)
{
    (void)state;
    static const struct {
        i32 bos, eos;
        const char *want;
    } row[] = {{1, 2, "5 6 1"}, {-1, 2, "5 6 2"}, {-1, -1, "5 6"}};
    for (u32 i = 0; i < 3; i++) {
        Fix f;
        fix_outliers(&f);
        f.src.bos = row[i].bos;
        f.src.eos = row[i].eos;
        f.d.silent = true; /* no remark */
        run(&f, "prefix");
        assert_string_equal(ir_meta_get_str(f.m, "prefix_ids", ""), row[i].want);
        StrBuf b = {.a = &f.a};
        ir_print(f.m, &b);
        assert_non_null(strstr(b.p, "outlier.before.0 = "));
        assert_non_null(strstr(b.p, "outlier.after.0 = "));
        free_fix(&f);
    }
    Fix f; /* the same text without them */
    fix_outliers(&f);
    f.d.silent = true;
    for (i64 i = 0; i < TEXT; i++)
        f.tokens[i] %= 5;
    run(&f, "prefix");
    assert_int_equal(ir_meta_get_int(f.m, "prefix", 0), 0);
    free_fix(&f);
}

/* Sequences from all over the text: ids are those of the tokens that ran. */
static void prefix_of_chosen_sequences(void **state)
{
    (void)state;
    Fix f;
    fix_outliers(&f);
    f.d.silent = true;
    f.src.seed = 7;
    for (i64 i = 0; i < TEXT; i++) /* other places in each sequence */
        f.tokens[i] = i % 512 == 20 + i / 512 || i % 512 == 300 - i / 512 ? 5
                      : i % 512 == 150 + i / 512                          ? 6
                                                                          : f.tokens[i] % 5;
    run(&f, "prefix");
    assert_string_equal(ir_meta_get_str(f.m, "prefix_ids", ""), "5 6 1");
    free_fix(&f);
}

/* Facts about the tokens of two sequences: all are counted, the largest are named. */
static void prefix_reports_tokens(void **state)
{
    (void)state;
    Fix f;
    fix_outliers(&f);
    f.d.silent = true;
    run(&f, "prefix");
    i64 n = 0, count, at = 0, words[OUTLIER_TOP * 4];
    for (const char *p = ir_meta_get_str(f.m, "outlier_bins.before.0", ""); *p; at++) {
        const size_t len = strcspn(p, " ");
        assert_true(str_to_i64((Str){p, len}, &count));
        n += count;
        p += len + (p[len] == ' ');
    }
    assert_int_equal(at, OUTLIER_BINS);
    assert_int_equal(n, 2 * 512);
    at = 0;
    for (const char *p = ir_meta_get_str(f.m, "outlier_tokens.before.0", ""); *p; at++) {
        const size_t len = strcspn(p, " ");
        assert_true(at < OUTLIER_TOP * 4);
        if (at % 4) assert_true(str_to_i64((Str){p, len}, &words[at]));
        p += len + (p[len] == ' ');
    }
    assert_int_equal(at, OUTLIER_TOP * 4);
    for (i64 i = 0; i < 6; i++) { /* three a sequence stand out */
        const i64 *w = &words[i * 4];
        assert_int_equal(f.tokens[w[2] * 512 + w[3]], w[1]);
        assert_true(w[1] >= 5);
    }
    free_fix(&f);
}

/* The largest are kept in order, whatever the order they come in; of equal ones the first. */
static void outliers_keep_the_largest(void **state)
{
    (void)state;
    static const float ratio[] = {1, 3, 3, 2, 0, 9, 1, 70000, 5, 4, 1e-9f, 8};
    static const i32 want[] = {7, 5, 11, 8, 9, 1, 2, 3};
    Arena a = {0};
    Outliers o = outliers_new(&a, 2, 1);
    for (i32 i = 0; i < 12; i++)
        outliers_add(&o, 1, (OutlierToken){ratio[i], 100 + i, 0, i});
    for (i32 i = 0; i < OUTLIER_TOP; i++)
        assert_int_equal(o.top[OUTLIER_TOP + i].position, want[i]);
    static const struct {
        i32 bin, n;
    } row[] = {{0, 2},
               {OUTLIER_ONE, 2},
               {OUTLIER_ONE + 2, 1},
               {OUTLIER_ONE + 6, 2},
               {OUTLIER_BINS - 1, 1}};
    for (u32 i = 0; i < sizeof row / sizeof *row; i++)
        assert_int_equal(o.bins[OUTLIER_BINS + row[i].bin], row[i].n);
    arena_free(&a);
}

/* One rare token is chance: the layer's count goes down by one, which leaves BOS. */
static void prefix_drops_a_rare_token(void **state)
{
    (void)state;
    Fix f;
    fix_outliers(&f);
    f.d.silent = true;
    for (i64 i = 0; i < TEXT; i++)
        f.tokens[i] = i == 77 || i % 512 == 0 ? 5 : f.tokens[i] % 5;
    run(&f, "prefix");
    assert_string_equal(ir_meta_get_str(f.m, "prefix_ids", ""), "1");
    free_fix(&f);
}

static void refused(Fix *f, const char *text, const char *message)
{
    f->d.msgs.n = 0;
    assert_false(try_run(f, text));
    bool found = false;
    for (u32 i = 0; i < f->d.msgs.n; i++)
        found |= strstr(f->d.msgs.at[i].text, message) != NULL;
    if (!found) {
        diag_flush(&f->d);
        fail_msg("%s: no message with '%s'", text, message);
    }
    free_fix(f);
}

static void bad_requests(void **state)
{
    (void)state;
    static const struct {
        const char *prefix, *text, *message;
    } row[] = {
        {"1,8", "prefix", "is not below the vocabulary's 8"},
        {"1,x", "prefix", "is no token id"},
        {"", "prefix", "has no token ids"},
        {"1,2,3,4,5,6,7,0,1,2,3,4,5,6,7,0,1,2,3,4,5,6,7,0,1,2,3,4,5,6,7,0,1,2,3,4,5,6,7,0,1,2,3,"
         "4,5,6,7,0,1,2,3,4,5,6,7,0,1,2,3,4,5,6,7,0",
         "prefix", "leaves no room in a context of 64"},
        {"1", "prefix,prefix", "there is a prefix already"},
        {"none", "static-scales{a=5}", "option a is 4, 8 or 16, found '5'"},
        {"none", "static-scales{kv=2}", "option kv is 4, 8 or 16, found '2'"},
        {"none", "static-scales{q=4}", "option q is 0 or 8, found '4'"},
        {"none", "static-scales{max=-1}", "option max is above 0, at most 1e30, found '-1'"},
        {"none", "dynamic-scales{clip=1.5}", "option clip is above 0, at most 1, found '1.5'"},
        {"none", "dynamic-scales{kvclip=x}", "option kvclip is above 0, at most 1, found 'x'"},
    };
    for (u32 i = 0; i < sizeof row / sizeof *row; i++) {
        Fix f;
        fix_outliers(&f);
        f.src.prefix = row[i].prefix;
        f.src.cache_dir = cache;
        refused(&f, row[i].text, row[i].message);
    }
    Fix f;
    fix_outliers(&f);
    f.src.n = 1000;
    refused(&f, "static-scales", "tokens");
}

/* ---- quantisers ---- */

typedef struct Check { /* every quantised value against quantiser_apply on its input */
    Module *m;
    Sites sites;
    Quantiser *q;
    OpId *ints, *back; /* [sites] quantize, dequantize */
    float **x;         /* [sites] */
    u32 compared, different;
} Check;

static bool compare_site(void *user, const CalibCall *call)
{
    Check *c = user;
    for (u32 i = 0; i < c->sites.all.n; i++) {
        const Site *s = &c->sites.all.at[i];
        i64 rows = call->out->dim[0], n = rows * s->heads * s->width;
        if (call->op == c->ints[i]) {
            c->x[i] = malloc((size_t)n * sizeof(float));
            memcpy(c->x[i], call->in[0].f, (size_t)n * sizeof(float));
        }
        if (call->op != c->back[i]) continue;
        quantiser_apply(&c->q[i], c->x[i], rows);
        c->compared++;
        for (i64 k = 0; k < n; k++)
            c->different += c->x[i][k] != call->out->f[k];
        free(c->x[i]);
    }
    return true;
}

/* Quantisers as the ops of a module say they are. */
static void read_quantisers(Fix *f, Check *c)
{
    u32 n = c->sites.all.n;
    c->q = NEWN(&f->a, Quantiser, n);
    c->ints = NEWN(&f->a, OpId, n);
    c->back = NEWN(&f->a, OpId, n);
    c->x = NEWN(&f->a, float *, n);
    for (OpId i = 1; i < f->m->ops.n; i++) {
        const Op *op = op_at(f->m, i);
        if (op->kind != OP_DEQUANTIZE || !op->fn) continue;
        const Op *ints = def_of(f->m, op->in[0]), *scale = def_of(f->m, op->in[1]);
        u32 k = 0;
        while (k < n && c->sites.all.at[k].x != ints->in[0])
            k++;
        assert_true(k < n);
        const Site *s = &c->sites.all.at[k];
        float *init = NEWN(&f->a, float, s->heads), *factor = NEWN(&f->a, float, s->heads);
        bool is_static = scale->kind == OP_LITERAL;
        for (i64 h = 0; h < s->heads; h++) {
            init[h] = is_static ? (float)op_attr(scale, A_VALUES)->floats[h] : 0;
            factor[h] = is_static ? 1 : (float)op_float(scale, A_SCALE);
        }
        c->q[k] = (Quantiser){.site = s,
                              .dt = op_dtype(f->m, ints),
                              .full = op_int(ints, A_FULL) != 0,
                              .dynamic = !is_static,
                              .asym = scale->kind == OP_QPARAMS_ASYM,
                              .init = init,
                              .factor = factor};
        c->ints[k] = pass_def(f->m, op->in[0]);
        c->back[k] = i;
    }
}

/* Keys are quantised behind R3 where it has a kernel. */
static const char *before(const TinyLlama *t)
{
    return pass_turns_heads(t->head_dim) ? "untie,fuse-norm,rotate,merge-linears"
                                         : "untie,fuse-norm,rotate{skip=r3},merge-linears";
}

static void simulation_is_the_ops(void **state)
{
    (void)state;
    static const char *const text[] = {
        "static-scales{a=4,kv=4}",
        "static-scales{a=8,kv=8,q=0,skip=o-in+*.1}",
        "dynamic-scales{a=4,clip=0.9,kv=4,kvclip=0.95,kvasym}",
        "dynamic-scales{a=8,kv=8,full}",
    };
    static const u32 classes[] = {SITES_INPUTS | SITES_KV | 1u << SITE_Q, SITES_INPUTS | SITES_KV,
                                  SITES_INPUTS | SITES_KV, SITES_INPUTS | SITES_KV};
    for (u32 s = 0; s < N_SHAPES; s++)
        for (u32 i = 0; i < 4; i++) {
            Fix f;
            fix_llama(&f, &shapes[s]);
            run(&f, before(&shapes[s]));
            PassCall call = {0};
            PassCx cx = {.m = f.m, .d = &f.d, .a = &f.a, .call = &call, .calib = &f.src};
            Check c = {.m = f.m};
            assert_true(sites_find(&cx, classes[i], false, &c.sites));
            u32 per_layer = i ? 6 : 7, layers = (u32)shapes[s].layers;
            assert_int_equal(c.sites.all.n, per_layer * layers);
            assert_int_equal(c.sites.blocks.n, layers);
            run(&f, text[i]);
            read_quantisers(&f, &c);
            Calib *r = calib_new(&cx, 1, 40);
            assert_true(r && calib_run(r, ir_fn(f.m, "main")->body.n, 0, true, compare_site, &c));
            calib_free(r);
            assert_int_equal(c.compared, i == 1 ? 5 : per_layer * layers);
            assert_int_equal(c.different, 0);
            free_fix(&f);
        }
}

static double sqnr_of(const TinyLlama *t, const char *text)
{
    Fix f;
    fix_llama(&f, t);
    run(&f, before(t));
    i64 n, k;
    double *want = logits(&f, user_tokens, USER, &n);
    run(&f, text);
    double db = compare_values(want, logits(&f, user_tokens, USER, &k), n).sqnr_db;
    free_fix(&f);
    return db;
}

static void errors_are_small(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double db; /* at least: far below what is measured, far above what a mistake gives */
    } row[] = {
        {"static-scales{a=8,kv=8}", 25},
        {"static-scales{a=16,kv=8,q=0}", 25},
        {"static-scales{a=8,kv=8,search,joint}", 25},
        {"static-scales{a=4,kv=4,search}", 5},
        {"dynamic-scales{a=8,kv=8}", 30},
        {"dynamic-scales{a=8,kv=8,kvasym,search,joint}", 30},
        {"dynamic-scales{a=4,clip=0.9,kv=4,kvclip=0.95,kvasym}", 8},
    };
    for (u32 s = 0; s < N_SHAPES; s++)
        for (u32 i = 0; i < sizeof row / sizeof *row; i++) {
            double db = sqnr_of(&shapes[s], row[i].text);
            if (getenv("PFQC_TEST_PRINT")) fprintf(stderr, "%u %s: %.1f dB\n", s, row[i].text, db);
            if (db < row[i].db) fail_msg("%s on shape %u: %.1f dB", row[i].text, s, db);
        }
}

/* Results come from the cache the second time, and are the same. */
static void results_are_cached(void **state)
{
    (void)state;
    const char *text = "untie,fuse-norm,rotate,prefix,static-scales{a=4,kv=4,search}";
    StrBuf first = {0}, again = {0};
    Fix f, g;
    fix_llama(&f, &shapes[0]);
    fix_llama(&g, &shapes[0]);
    f.src.prefix = g.src.prefix = "3,1";
    f.d.silent = g.d.silent = true;
    first.a = &f.a;
    again.a = &g.a;
    run(&f, text);
    run(&g, text);
    ir_print(f.m, &first);
    ir_print(g.m, &again);
    assert_string_equal(first.p, again.p);
    assert_non_null(strstr(first.p, "sqnr.down-in.1 = "));
    free_fix(&f);
    free_fix(&g);
}

int main(void)
{
    if (!mkdtemp(cache)) return 1;
    const struct CMUnitTest all[] = {
        cmocka_unit_test(prefix_equals_tokens),
        cmocka_unit_test(prefix_finds_outliers),
        cmocka_unit_test(prefix_of_chosen_sequences),
        cmocka_unit_test(prefix_reports_tokens),
        cmocka_unit_test(outliers_keep_the_largest),
        cmocka_unit_test(prefix_drops_a_rare_token),
        cmocka_unit_test(bad_requests),
        cmocka_unit_test(simulation_is_the_ops),
        cmocka_unit_test(errors_are_small),
        cmocka_unit_test(results_are_cached),
    };
    int failed = cmocka_run_group_tests(all, NULL, NULL);
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", cache);
    return system(command) || failed;
}
