/* The pass `weights` on small llamas: what it leaves, how good it is, and that results are found
 * again. */
#include "passes/pass.h"

#include "ir/eval.h"
#include "ir/text.h"
#include "tests/unit/tiny_llama.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TOKENS = 64 * 512 };
static char cache[] = "/tmp/pfqc-test-weights-XXXXXX";

typedef struct Fix {
    Arena a;
    Diag d;
    CalibSource src;
    i32 *tokens;
} Fix;

static void fix_init(Fix *f, i64 vocab, i64 n)
{
    *f = (Fix){0};
    diag_init(&f->d, &f->a);
    f->tokens = NEWN(&f->a, i32, n);
    for (i64 i = 0; i < n; i++)
        f->tokens[i] = (i32)((i * i / 3 + i / 5) % vocab);
    f->src = (CalibSource){
        .tokens = f->tokens, .n = n, .bos = -1, .eos = -1, .cache_dir = cache, .threads = 2};
}

static bool run(Fix *f, Module *m, const char *text)
{
    Source *src = NEW(&f->a, Source);
    *src = (Source){"test", text, strlen(text)};
    Pipeline p = {0};
    PassOptions o = {.verify_each = true, .calib = &f->src};
    return pipeline_parse(&f->d, &f->a, src, &p) && passes_run(&f->d, m, &p, &o);
}

static void must(Fix *f, bool ok)
{
    if (!ok) diag_flush(&f->d);
    assert_true(ok);
}

static const KeyVal *meta_of(const Module *m, const char *key)
{
    for (u32 i = 0; i < m->meta.n; i++)
        if (strcmp(ir_cstr(m, m->meta.at[i].key), key) == 0) return &m->meta.at[i];
    return NULL;
}

/* Linears of @main: their weights are integers of this type, the head's is as it was. */
static u32 check_linears(const Module *m, DType dt, bool sqnr)
{
    u32 n = 0;
    const Fn *f = &m->fns.at[pass_fn_index(m, "main")];
    ValueId head = f->results.at[0];
    for (u32 i = 0; i < f->body.n; i++) {
        const Op *op = op_at(m, f->body.at[i]);
        if (op->kind != OP_LINEAR) continue;
        const Op *w = def_of(m, op->in[1]);
        if (op->out == head) {
            assert_int_not_equal(w->kind, OP_DEQUANTIZE);
            continue;
        }
        assert_int_equal(w->kind, OP_DEQUANTIZE);
        assert_int_equal(type_of(m, w->in[0])->dt, dt);
        assert_int_equal(w->nin > 2 && w->in[2], dt == DT_U4);
        char base[256];
        snprintf(base, sizeof base, "sqnr.w.%s", ir_cstr(m, value_at(m, op->in[1])->name));
        *strrchr(base, '.') = 0; /* .dq */
        const KeyVal *kv = meta_of(m, base);
        assert_true(!sqnr || (kv && kv->kind == AK_FLOAT && kv->val.f > 3 && kv->val.f < 80));
        n++;
    }
    return n;
}

static const char front[] = "canonicalise,cse,dce,untie,fuse-norm,rotate,merge-linears,";

static void test_forms(void **state)
{
    (void)state;
    static const struct {
        const char *options;
        DType dt;
        bool rtn;
    } rows[] = {
        {"bits=4", DT_S4, false},
        {"order,damp=0.05", DT_S4, false},
        {"bits=8", DT_S8, false},
        {"group=32,order", DT_S4, false},
        {"group=24,asym", DT_U4, false},
        {"method=clip", DT_S4, false},
        {"method=clip,group=16", DT_S4, false},
        {"method=rtn", DT_S4, true},
        {"method=rtn,bits=8,group=16", DT_S8, true},
        {"method=rtn,asym,group=16", DT_U4, true},
        {"method=rtn,asym,zero,group=16", DT_U4, true},
        {"asym,zero,group=16", DT_U4, false},
    };
    for (u32 s = 0; s < N_SHAPES; s++)
        for (u32 i = 0; i < sizeof rows / sizeof *rows; i++) {
            Fix f;
            fix_init(&f, shapes[s].vocab, 4 * 512);
            Module *m = tiny_llama(&f.d, &shapes[s]);
            must(&f, run(&f, m, arena_printf(&f.a, "%sweights{%s}", front, rows[i].options)));
            assert_int_equal(check_linears(m, rows[i].dt, !rows[i].rtn), 4 * shapes[s].layers);
            arena_free(&f.a);
        }
}

/* Linears that read one value share its sums whether they are merged or not. */
static void test_unmerged(void **state)
{
    (void)state;
    Fix f;
    fix_init(&f, shapes[0].vocab, 4 * 512);
    Module *m = tiny_llama(&f.d, &shapes[0]);
    must(&f, run(&f, m, "canonicalise,cse,dce,weights{order}"));
    assert_int_equal(check_linears(m, DT_S4, true), 7 * shapes[0].layers);
    arena_free(&f.a);
}

/* Every dequantized weight of a module, joined. */
static Str weights_of(Fix *f, Module *m)
{
    StrBuf b = {.a = &f->a};
    must(f, eval_open(&f->d, m));
    Eval *e = eval_new(&f->d, m, false);
    for (u32 i = 0; i < m->consts.n; i++) {
        const Op *op = op_at(m, m->consts.at[i]);
        if (op->kind != OP_DEQUANTIZE) continue;
        const Type *t = type_of(m, op->out);
        Tensor w;
        must(f, eval_const(e, op->out, 0, t->dim[0], 0, t->dim[1], &w));
        sb_add(&b, (const char *)w.f, (size_t)(t->dim[0] * t->dim[1]) * sizeof(float));
        eval_reset(e);
    }
    eval_free(e);
    return (Str){b.p, b.n};
}

/* Quantisers of values that the graph has already change nothing. */
static void test_passes_by(void **state)
{
    (void)state;
    Fix f;
    fix_init(&f, shapes[0].vocab, 2 * 512);
    Module *plain = tiny_llama(&f.d, &shapes[0]), *with = tiny_llama(&f.d, &shapes[0]);
    must(&f, run(&f, plain, arena_printf(&f.a, "%sweights", front)));
    must(&f, run(&f, with, arena_printf(&f.a, "%sdynamic-scales{a=4,kv=4},weights", front)));
    Str a = weights_of(&f, plain), b = weights_of(&f, with);
    assert_int_not_equal(a.n, 0);
    assert_true(str_eq(a, b));
    arena_free(&f.a);
}

/* Mean square difference of logits on a text that was not calibrated on. */
static double logit_error(Fix *f, Module *m, Module *reference)
{
    enum { N = 64 };
    i32 tokens[N];
    for (i64 i = 0; i < N; i++)
        tokens[i] = f->tokens[1000 + i];
    Eval *e[2];
    Tensor y[2];
    double sum = 0;
    for (u32 i = 0; i < 2; i++) {
        Module *which = i ? reference : m;
        must(f, eval_open(&f->d, which));
        e[i] = eval_new(&f->d, which, false);
        eval_set_context(e[i], N);
        must(f, eval_model(e[i], tokens, N, 0, true, false, &y[i]));
    }
    i64 n = y[0].dim[0] * y[0].dim[1];
    for (i64 i = 0; i < n; i++)
        sum += ((double)y[0].f[i] - (double)y[1].f[i]) * ((double)y[0].f[i] - (double)y[1].f[i]);
    eval_free(e[0]);
    eval_free(e[1]);
    return sum / (double)n;
}

static void test_better(void **state)
{
    (void)state;
    static const char *const method[] = {"rtn", "clip", "gptq,order,drift=0", "gptq,order"};
    for (u32 s = 0; s < N_SHAPES; s++) {
        double err[4];
        for (u32 i = 0; i < 4; i++) {
            Fix f;
            fix_init(&f, shapes[s].vocab, 8 * 512);
            Module *m = tiny_llama(&f.d, &shapes[s]), *ref = tiny_llama(&f.d, &shapes[s]);
            must(&f, run(&f, m, arena_printf(&f.a, "%sweights{method=%s}", front, method[i])));
            err[i] = logit_error(&f, m, ref);
            arena_free(&f.a);
        }
        print_message("logits, shape %u: rtn %g clip %g gptq %g with drift %g\n", s, err[0], err[1],
                      err[2], err[3]);
        assert_true(err[1] < err[0] * 1.1 && err[2] < err[1] && err[3] < err[2] * 1.1);
    }
}

/* The second run finds the first one's arrays; another text does not. */
static void test_found_again(void **state)
{
    (void)state;
    Str text[3];
    Fix f[3];
    for (u32 i = 0; i < 3; i++) {
        fix_init(&f[i], shapes[1].vocab, 2 * 512);
        if (i == 2) f[i].tokens[700] ^= 1;
        Module *m = tiny_llama(&f[i].d, &shapes[1]);
        must(&f[i], run(&f[i], m, "weights{bits=8}"));
        StrBuf b = {.a = &f[i].a};
        ir_print(m, &b);
        text[i] = (Str){b.p, b.n};
    }
    assert_true(str_eq(text[0], text[1]));
    assert_false(str_eq(text[0], text[2]));
    for (u32 i = 0; i < 3; i++)
        arena_free(&f[i].a);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *pass, *says;
    } rows[] = {
        {"weights{bits=3}", "option bits is 4 or 8, found '3'"},
        {"weights{method=awq}", "option method is rtn, clip or gptq, found 'awq'"},
        {"weights{group=-1}", "option group is 0 or more, found '-1'"},
        {"weights{group=65}", "group 65 is longer than a row of 64"},
        {"weights{damp=much}", "option damp is 0 to 10, found 'much'"},
        {"weights{drift=1.5}", "option drift is 0 to 1, found '1.5'"},
        {"weights{damp=nan}", "option damp is 0 to 10, found 'nan'"},
        {"weights{zero}", "pass weights: zero is for asym: a symmetric grid has 0"},
        {"weights{bits=8,asym}", "pass weights: 8 bits are symmetric, but with method=rtn"},
    };
    for (u32 i = 0; i < sizeof rows / sizeof *rows; i++) {
        Fix f;
        fix_init(&f, shapes[0].vocab, 512);
        assert_false(run(&f, tiny_llama(&f.d, &shapes[0]), rows[i].pass));
        assert_true(f.d.msgs.n > 0);
        if (strcmp(f.d.msgs.at[0].text, rows[i].says)) print_message("%s\n", f.d.msgs.at[0].text);
        assert_string_equal(f.d.msgs.at[0].text, rows[i].says);
        arena_free(&f.a);
    }
}

/* No text at all: tokens are drawn. Too short a text is refused. */
static void test_texts(void **state)
{
    (void)state;
    Fix f;
    fix_init(&f, shapes[1].vocab, 511);
    assert_false(run(&f, tiny_llama(&f.d, &shapes[1]), "weights"));
    assert_int_equal(f.d.msgs.at[0].code, E_PASS_CALIB);
    f.d.msgs.n = 0;
    arena_free(&f.a);
    fix_init(&f, shapes[1].vocab, 512);
    f.src.tokens = NULL;
    must(&f, run(&f, tiny_llama(&f.d, &shapes[1]), "weights{method=clip,only=*attn_q*}"));
    arena_free(&f.a);
}

static int make_cache(void **state)
{
    (void)state;
    return mkdtemp(cache) ? 0 : -1;
}

static int remove_cache(void **state)
{
    (void)state;
    char command[sizeof cache + 16];
    snprintf(command, sizeof command, "rm -r %s", cache);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_passes_by),   cmocka_unit_test(test_forms),
        cmocka_unit_test(test_unmerged),    cmocka_unit_test(test_better),
        cmocka_unit_test(test_found_again), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_texts),
    };
    return cmocka_run_group_tests(tests, make_cache, remove_cache);
}
