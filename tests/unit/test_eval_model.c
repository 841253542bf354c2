/* Whole functions: a small model before and after it is split into phases, calls that carry states over, watching,
 * refused calls, and the comparison of logits. */
#include "tests/unit/eval_util.h"

#include "ir/compare.h"

#define WEIGHTS                                                                                                        \
    "@emb = synthetic {seed = 1, stream = 1} : f32[20,8]\n@wq = synthetic {seed = 1, stream = 2} : f32[8,8]\n"         \
    "@wk = synthetic {seed = 1, stream = 3} : f32[4,8]\n@wv = synthetic {seed = 1, stream = 4} : f32[4,8]\n"           \
    "@wo = synthetic {seed = 1, stream = 5} : f32[8,8]\n@g = synthetic {seed = 1, stream = 6} : f32[8]\n"              \
    "@freqs = rope_freqs {dim = 4} : f32[2]\n"
#define BLOCK(T, ATTENTION)                                                                                            \
    "  %x = embedding %tokens, @emb : f32[" T ",8]\n"                                                                  \
    "  %q0 = linear %x, @wq : f32[" T ",8]\n  %q1 = reshape %q0 {shape = [" T ",2,4]} : f32[" T ",2,4]\n"              \
    "  %q = rope %q1, %pos, @freqs : f32[" T ",2,4]\n"                                                                 \
    "  %k0 = linear %x, @wk : f32[" T ",4]\n  %k1 = reshape %k0 {shape = [" T ",1,4]} : f32[" T ",1,4]\n"              \
    "  %k = rope %k1, %pos, @freqs : f32[" T ",1,4]\n"                                                                 \
    "  %v0 = linear %x, @wv : f32[" T ",4]\n  %v = reshape %v0 {shape = [" T ",1,4]} : f32[" T ",1,4]\n" ATTENTION     \
    "  %a1 = reshape %a {shape = [" T ",8]} : f32[" T ",8]\n  %o = linear %a1, @wo : f32[" T ",8]\n"                   \
    "  %h = add %x, %o : f32[" T ",8]\n"
#define WHOLE(T) BLOCK(T, "  %a = attention %q, %k, %v, %pos {cache = 0, scale = 0.5} : f32[" T ",2,4]\n")
#define SPLIT(T) BLOCK(T, "  kv_append %k, %v, %pos, @ks, @vs\n  %a = attend %q, %pos, @ks, @vs {scale = 0.5} : f32[" T ",2,4]\n")
#define HEAD(ROWS, X) "  %n = rmsnorm " X ", @g {eps = 1e-05} : f32[" ROWS ",8]\n  %y = linear %n, @emb : f32[" ROWS ",20]\n  return %y\n}\n"

static const char *main_text = WEIGHTS "func @main(%tokens: i32[T], %pos: i32[T]) {\n" WHOLE("T") HEAD("T", "%h");
static const char *phases_text = WEIGHTS
    "@ks = state : f32[1,C,4]\n@vs = state : f32[1,C,4]\n@hidden = state : f32[3,8]\n"
    "func @prefill(%tokens: i32[T], %pos: i32[T]) {\n" SPLIT("T") "  store %h, @hidden\n  return\n}\n"
    "func @logits(%rows: i32[R]) {\n  %h = rows @hidden, %rows : f32[R,8]\n" HEAD("R", "%h")
    "func @decode(%tokens: i32[1], %pos: i32[1]) {\n" SPLIT("1") HEAD("1", "%h");

enum { N = 7, VOCAB = 20 };
static const i32 tokens[N] = {3, 19, 0, 7, 7, 12, 5};

/* The same module with another text for the shape symbol in attributes: a reshape names symbols by number. */
static void load_model(Run *r, const char *text)
{
    StrBuf b = {.a = &r->a};
    for (const char *p = text; *p; p++) {
        if (strncmp(p, "shape = [T", 10) == 0) {
            sb_str(&b, "shape = [-1");
            p += 9;
        } else sb_ch(&b, *p);
    }
    char *copy = xmalloc(b.n + 1, 1);
    memcpy(copy, b.p, b.n + 1);
    load(r, copy);
    free(copy);
    ir_meta_int(r->m, "chunk", 3); /* as many rows as @hidden has */
}

static void same(const Run *r, const Tensor *got, const double *want, i64 rows)
{
    assert_int_equal(got->rank, 2);
    assert_int_equal(got->dim[0], rows);
    assert_int_equal(got->dim[1], VOCAB);
    for (i64 i = 0; i < rows * VOCAB; i++) expect_near(get(r, got, i), want[i], r->f64 ? 1e-13 : 1e-5, "logits", i);
}

/* All ways to run a model give the logits of one call of @main. */
static void phases_agree(void **state)
{
    (void)state;
    for (int f64 = 0; f64 < 2; f64++) {
        Run r;
        run_init(&r, true);
        load_model(&r, main_text);
        Arena a = {0};
        i64 n;
        double *ref = compare_logits(&r.d, r.m, tokens, N, false, &a, &n);
        must(&r, ref != NULL);
        assert_int_equal(n, N * VOCAB);
        r.f64 = f64;
        for (int split = 0; split < 2; split++) {
            load_model(&r, split ? phases_text : main_text);
            Tensor y;
            must(&r, eval_model(r.e, tokens, N, 0, true, false, &y));
            same(&r, &y, ref, N);
            must(&r, eval_model(r.e, tokens, N, 0, false, false, &y));
            same(&r, &y, ref + (N - 1) * VOCAB, 1);
            eval_reset(r.e);
            eval_set_context(r.e, N); /* just enough, and in two calls */
            must(&r, eval_model(r.e, tokens, 4, 0, false, false, &y) && eval_model(r.e, tokens + 4, N - 4, 4, true, false, &y));
            same(&r, &y, ref + 4 * VOCAB, N - 4);
            assert_false(eval_model(r.e, tokens, 1, N, true, false, &y));
            r.d.msgs.n = 0;
        }
        eval_set_context(r.e, N);
        Tensor y;
        must(&r, eval_model(r.e, tokens, N, 0, true, true, &y));
        same(&r, &y, ref, N);
        eval_set_context(r.e, N);
        must(&r, eval_model(r.e, tokens, N, 0, false, true, &y));
        same(&r, &y, ref + (N - 1) * VOCAB, 1);
        run_free(&r);
        arena_free(&a);
    }
}

#define SPLIT_BEHIND(T) BLOCK(T, "  kv_append %k, %v, %pos, @ks, @vs {prefix = 2}\n"                                          \
    "  %a = attend %q, %pos, @ks, @vs, _, _, _, _, _, @p0, @p1 {prefix = 2, scale = 0.5} : f32[" T ",2,4]\n")
static const char *phases_behind = "@ks = state : f32[1,C,4]\n@vs = state : f32[1,C,4]\n@hidden = state : f32[3,8]\n"
    "func @prefill(%tokens: i32[T], %pos: i32[T]) {\n" SPLIT_BEHIND("T") "  store %h, @hidden\n  return\n}\n"
    "func @logits(%rows: i32[R]) {\n  %h = rows @hidden, %rows : f32[R,8]\n" HEAD("R", "%h")
    "func @decode(%tokens: i32[1], %pos: i32[1]) {\n" SPLIT_BEHIND("1") HEAD("1", "%h");

/* The phases behind the same prefix; text has its constants and the whole graph. The cache needs no room for it. */
static void prefix_in_phases(Run *r, const char *text, const double *want)
{
    const char *at = strstr(text, "func @main");
    char *copy = xmalloc(strlen(text) + strlen(phases_behind) + 1, 1);
    memcpy(copy, text, (size_t)(at - text));
    memcpy(copy + (at - text), phases_behind, strlen(phases_behind) + 1);
    load_model(r, copy);
    free(copy);
    assert_int_equal(eval_prefix(r->m), 2);
    Tensor y;
    for (int decode = 0; decode < 2; decode++) {
        eval_set_context(r->e, N - 2);
        must(r, eval_model(r->e, tokens + 2, N - 2, 0, true, decode, &y));
        same(r, &y, want, N - 2);
        assert_false(eval_model(r->e, tokens, 1, N - 2, true, decode, &y));
        r->d.msgs.n = 0;
    }
}

/* With a prefix, positions start behind it: the prefix rows being the keys and values of earlier tokens, the logits
 * are those of the whole text. */
static void prefix_is_earlier_tokens(void **state)
{
    (void)state;
    Run r;
    run_init(&r, true);
    load_model(&r, main_text);
    Tensor whole, y;
    must(&r, eval_model(r.e, tokens, N, 0, true, false, &whole));
    double want[N * VOCAB];
    memcpy(want, whole.d, sizeof want);
    /* Keys of tokens 0 and 1 come from functions that stop there. */
    load_model(&r, WEIGHTS "func @f(%tokens: i32[T], %pos: i32[T]) {\n" WHOLE("T") "  return %k, %v\n}\n");
    Tensor t = tensor(&r, DT_I32, DIMS(2)), p = tensor(&r, DT_I32, DIMS(2)), kv[4];
    for (int i = 0; i < 2; i++) t.i[i] = tokens[i], p.i[i] = i;
    must(&r, eval_call(r.e, 1, (const Tensor[]){t, p}, kv));
    StrBuf b = {.a = &r.a};
    for (int w = 0; w < 2; w++) {
        sb_printf(&b, "@p%d = literal {values = [", w);
        for (int i = 0; i < 8; i++) {
            if (i) sb_str(&b, ", ");
            sb_f64(&b, kv[w].d[i]);
        }
        sb_str(&b, "]} : f32[2,1,4]\n");
    }
    sb_str(&b, WEIGHTS "func @main(%tokens: i32[T], %pos: i32[T]) {\n" BLOCK("T", "  %a = attention %q, %k, %v, %pos, @p0, @p1 {cache = 0, scale = 0.5} : f32[T,2,4]\n") HEAD("T", "%h"));
    char *text = xmalloc(b.n + 1, 1);
    memcpy(text, b.p, b.n + 1);
    load_model(&r, text);
    must(&r, eval_model(r.e, tokens + 2, N - 2, 0, true, false, &y));
    same(&r, &y, want + 2 * VOCAB, N - 2);
    prefix_in_phases(&r, text, want + 2 * VOCAB);
    free(text);
    run_free(&r);
}

/* ---- calls ---- */

static void count_op(void *user, Eval *e, OpId op, const Tensor *results)
{
    (void)e;
    (void)op;
    int *n = user;
    n[0]++;
    if (results[0].p && results[0].dt == DT_F32) n[1]++;
}

static void watching(void **state)
{
    (void)state;
    Run r;
    run_init(&r, false);
    load_model(&r, main_text);
    int n[2] = {0};
    Tensor y;
    eval_watch(r.e, count_op, n);
    must(&r, eval_model(r.e, tokens, N, 0, true, false, &y));
    assert_int_equal(n[0], r.m->fns.at[1].body.n);
    assert_int_equal(n[1], n[0]); /* every op of this model has a float result */
    eval_watch(r.e, NULL, NULL);
    run_free(&r);
}

static void results_of_all_kinds(void **state)
{
    (void)state;
    Run r;
    run_init(&r, true);
    load(&r, "@c = literal {values = [1, 2]} : f32[2]\nfunc @f(%x: f32[T,2], %y: f32[T,2]) {\n  %z = add %x, %y : f32[T,2]\n  %w = add %z, @c : f32[T,2]\n  return %x, %w, @c, %w\n}\n");
    Tensor x = filled(&r, DT_F32, DIMS(1, 2), VALS(10, 20)), out[4];
    must(&r, eval_call(r.e, 1, ARGS(x, x), out));
    expect(&r, &out[0], 2, VALS(10, 20), 0);
    expect(&r, &out[1], 2, VALS(21, 42), 0);
    expect(&r, &out[2], 2, VALS(1, 2), 0);
    expect(&r, &out[3], 2, VALS(21, 42), 0);
    Tensor wide = tensor(&r, DT_F32, DIMS(2, 2)), flat = tensor(&r, DT_F32, DIMS(2)), whole = tensor(&r, DT_I32, DIMS(1, 2));
    assert_true(call_fails(&r, ARGS(x, wide))); /* T is 1 and 2 */
    assert_true(call_fails(&r, ARGS(x, flat)));
    assert_true(call_fails(&r, ARGS(x, whole)));
    run_free(&r);
}

static void models_are_refused(void **state)
{
    (void)state;
    Run r;
    Tensor y;
    run_init(&r, false);
    load_model(&r, main_text);
    assert_false(eval_model(r.e, tokens, N, 0, true, true, &y)); /* no @decode */
    assert_false(eval_model(r.e, tokens, 0, 0, true, false, &y));
    assert_false(eval_model(r.e, tokens, N, INT64_MAX - 3, true, false, &y));
    assert_false(eval_model(r.e, (const i32[]){VOCAB}, 1, 0, true, false, &y));
    assert_false(eval_model(r.e, (const i32[]){-1}, 1, 0, true, false, &y));
    load(&r, "func @main(%x: i32[T]) {\n  return %x\n}\n");
    assert_false(eval_model(r.e, tokens, N, 0, true, false, &y)); /* an unknown parameter */
    load(&r, "func @main(%tokens: i32[T]) {\n  return %tokens\n}\n");
    assert_false(eval_model(r.e, tokens, N, 0, true, false, &y)); /* no logits */
    load(&r, "@g = state : f32[4611686018427387904,C]\nfunc @f(%i: i32[R]) {\n  %y = rows @g, %i : f32[R,C]\n  return %y\n}\n");
    assert_true(call_fails(&r, ARGS(filled(&r, DT_I32, DIMS(1), VALS(0))))); /* a state that no memory holds */
    run_free(&r);
}

/* A state keeps the shape of the call that made it; scales that another call made do not fit its rows. */
static void states_of_other_calls(void)
{
    Run r;
    run_init(&r, false);
    load(&r, "@k = state : s8[1,R,2]\n@s = state : f32[1,R,1]\n@one = literal {values = [1]} : f32[]\n"
             "func @a(%q: f32[T,1,2], %p: i32[T], %r: i32[R]) {\n  %y = attend %q, %p, @k, @k, _, @one, _, @one {scale = 1} : f32[T,1,2]\n  return %y\n}\n"
             "func @f(%q: f32[T,1,2], %p: i32[T], %r: i32[R]) {\n  %y = attend %q, %p, @k, @k, _, @s, _, @one {scale = 1} : f32[T,1,2]\n  return %y\n}\n");
    Tensor q = noise(&r, 1, 1, DIMS(1, 1, 2)), p = tensor(&r, DT_I32, DIMS(1)), y;
    p.i[0] = 5;
    must(&r, eval_call(r.e, 1, ARGS(q, p, tensor(&r, DT_I32, DIMS(9))), &y));
    assert_true(call_fails(&r, ARGS(q, p, tensor(&r, DT_I32, DIMS(3)))));
    run_free(&r);
}

/* Symbols where a model has numbers: shapes that only a call can see are checked by the call. */
static void symbols_are_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "func @f(%x: f32[T,2,4], %p: i32[T], %f: f32[T]) {\n  %y = rope %x, %p, %f : f32[T,2,4]\n  return %y\n}\n",
        "@k = state : f32[T,C,4]\n@v = state : f32[T,C,4]\nfunc @f(%x: f32[T,T,4], %p: i32[T], %z: f32[T]) {\n  kv_append %x, %x, %p, @k, @v\n  return %z\n}\n",
        "@k = state : f32[2,C,T]\n@v = state : f32[2,C,T]\nfunc @f(%x: f32[T,2,T], %p: i32[T], %z: f32[T]) {\n  %y = attend %x, %p, @k, @v {scale = 1} : f32[T,2,T]\n  return %y\n}\n",
        "@k = state : f32[R,T]\nfunc @f(%x: f32[T,T,4], %p: i32[T], %z: f32[T]) {\n  %y = reshape %x {shape = [4,-1,-1]} : f32[4,T,T]\n  %s = slice %y {axis = 0, begin = 0, end = 1} : f32[1,T,T]\n  %r = reshape %s {shape = [-1,-1]} : f32[T,T]\n  store %r, @k\n  return %r\n}\n",
    };
    states_of_other_calls();
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        Run r;
        run_init(&r, i % 2);
        load(&r, texts[i]);
        i64 n = 70; /* the context is 64 */
        const Type *x = type_of(r.m, r.m->fns.at[1].params.at[0]);
        Tensor a = noise(&r, 1, 1, DIMS(n, x->dim[1] < 0 ? n : 2, x->dim[2] < 0 ? n : 4)), z = noise(&r, 2, 1, DIMS(n));
        assert_true(call_fails(&r, ARGS(a, tensor(&r, DT_I32, DIMS(n)), z)));
        run_free(&r);
    }
}

static void comparing(void **state)
{
    (void)state;
    const double ref[3] = {3, 0, 4}, off[3] = {3, 0.5, 4}, bad[3] = {3, 0, NAN};
    Compare c = compare_values(ref, off, 3);
    expect_near(c.max_abs, 0.5, 0, "max", 0);
    expect_near(c.rel, 0.1, 1e-15, "rel", 0);
    expect_near(c.sqnr_db, 20, 1e-12, "sqnr", 0);
    assert_int_equal(c.at, 1);
    c = compare_values(ref, ref, 3);
    assert_true(c.max_abs <= 0 && c.rel <= 0 && isinf(c.sqnr_db) && c.sqnr_db > 0);
    c = compare_values(ref, bad, 3);
    assert_true(isinf(c.max_abs) && isinf(c.rel) && c.sqnr_db < 0 && c.at == 2);
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(phases_agree),         cmocka_unit_test(prefix_is_earlier_tokens), cmocka_unit_test(watching),
        cmocka_unit_test(results_of_all_kinds), cmocka_unit_test(models_are_refused),       cmocka_unit_test(comparing),            cmocka_unit_test(symbols_are_refused),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
