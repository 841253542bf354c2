/* Every rule of passes/rules.c: a module or a pipeline that breaks it is refused with its sentence,
 * and what differs from it by the breach alone is not. */
#include "passes/rules.h"

#include "ir/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

/* A layer of attention; %s: context, constants, lines before the attention, its operands, weight of
 * its output. */
static const char model[] =
    "pfir 1\nmodule @m {context = %s}\n"
    "@embed = synthetic {seed = 1} : f32[32,8]\n@head = synthetic {seed = 2} : f32[32,8]\n@g = "
    "synthetic {seed = 3} : f32[8]\n"
    "@wq = synthetic {seed = 4} : f32[8,8]\n@wk = synthetic {seed = 5} : f32[4,8]\n@wv = synthetic "
    "{seed = 6} : f32[4,8]\n"
    "@wo = synthetic {seed = 7} : f32[8,8]\n@one = literal {values = [0.5]} : f32[1,1]\n%s"
    "func @main(%%tokens: i32[T], %%pos: i32[T]) {\n  %%x = embedding %%tokens, @embed : f32[T,8]\n"
    "  %%n = rmsnorm %%x, @g {eps = 1e-05} : f32[T,8]\n  %%q = linear %%n, @wq : f32[T,8]\n  %%k = "
    "linear %%n, @wk : f32[T,4]\n"
    "  %%v = linear %%n, @wv : f32[T,4]\n  %%qh = reshape %%q {shape = [-1, 2, 4]} : f32[T,2,4]\n"
    "  %%kh = reshape %%k {shape = [-1, 1, 4]} : f32[T,1,4]\n  %%vh = reshape %%v {shape = [-1, 1, "
    "4]} : f32[T,1,4]\n%s"
    "  %%a = attention %s {cache = 0, scale = 0.5} : f32[T,2,4]\n  %%am = reshape %%a {shape = "
    "[-1, 8]} : f32[T,8]\n"
    "  %%o = linear %%am, %s : f32[T,8]\n  %%x2 = add %%x, %%o : f32[T,8]\n  %%n2 = rmsnorm %%x2 "
    "{eps = 1e-05} : f32[T,8]\n"
    "  %%logits = linear %%n2, @head : f32[T,32]\n  return %%logits\n}\n";

typedef struct Case {
    const char *rule;
    const char
        *refused; /* pipeline; a pass alone, with `direct`, is asked about without being run */
    const char *accepted; /* pipeline on the same module; NULL: any is refused */
    const char *consts, *lines, *attention, *wo, *context;
    bool direct;
} Case;

#define PREFIX "@p = synthetic {seed = 9} : f16[2,1,4]\n"
#define BEHIND "%qh, %kh, %vh, %pos, @p, @p"
#define QUANTISED_K                                                                                \
    "  %kq = quantize %kh, @one {dtype = \"s8\"} : s8[T,1,4]\n  %kd = dequantize %kq, @one : "     \
    "f32[T,1,4]\n"
#define TURNED_Q "  %qt = hadamard %qh : f32[T,2,4]\n"
#define TURNED_K "  %kt = hadamard %kh : f32[T,1,4]\n"
#define GRID                                                                                       \
    "@wo.s = qparams @wo {dtype = \"s8\"} : f32[8,1]\n@wo.q = quantize @wo, @wo.s {dtype = "       \
    "\"s8\"} : s8[8,8]\n@wo.dq = dequantize @wo.q, @wo.s : f32[8,8]\n"
#define TURNED_HEAD                                                                                \
    "  %b = linear %n, @wb : f32[T,12]\n"                                                          \
    "  %bh = reshape %b {shape = [-1, 1, 12]} : f32[T,1,12]\n"                                     \
    "  %bt = hadamard %bh : f32[T,1,12]\n"                                                         \
    "  %ab = attention %bt, %bt, %bh, %pos {cache = 1, scale = 1.0} : f32[T,1,12]\n"
#define BIG_HEAD                                                                                   \
    "  %b = linear %n, @wb : f32[T,4099]\n  %bh = reshape %b {shape = [-1, 1, 4099]} : "           \
    "f32[T,1,4099]\n"                                                                              \
    "  %ab = attention %bh, %bh, %bh, %pos {cache = 1, scale = 1.0} : f32[T,1,4099]\n"

static const Case cases[] = {
    {.rule = "prefix-basis",
     .refused = "rotate{skip=r1}",
     .accepted = "fuse-norm,merge-linears",
     .consts = PREFIX,
     .attention = BEHIND},
    {.rule = "scale-basis",
     .refused = "rotate{skip=r1}",
     .accepted = "fuse-norm",
     .lines = QUANTISED_K,
     .attention = "%qh, %kd, %vh, %pos"},
    {.rule = "grid-last",
     .refused = "quantize-weights{bits=8,sym},fuse-norm",
     .accepted = "fuse-norm,quantize-weights{bits=8,sym}"},
    {.rule = "grid-last",
     .refused = "quantize-weights{bits=8,sym,only=layers},merge-linears",
     .accepted = "merge-linears,quantize-weights{bits=8,sym,only=layers}"},
    {.rule = "grid-last",
     .refused = "quantize-weights{bits=8,sym,only=head},rotate{skip=r1}",
     .accepted = "rotate{skip=r1},quantize-weights{bits=8,sym,only=head}"},
    {.rule = "rotate-once",
     .refused = "rotate{skip=r1+r2},rotate{skip=r1+r2}",
     .accepted = "rotate{skip=r1+r2},rotate{skip=r1+r3}"},
    {.rule = "rotate-once",
     .refused = "rotate{skip=r1+r2},rotate{skip=r1+r3}",
     .consts = "@down = synthetic {seed = 8} : f32[8,8]\n",
     .lines = "  %s = silu %n : f32[T,8]\n  %m = mul %s, %n : f32[T,8]\n  %d = linear %m, @down : "
              "f32[T,8]\n"},
    {.rule = "head-size",
     .refused = "rotate{skip=r1+r2}",
     .accepted = "rotate{skip=r1+r2+r3}",
     .consts = "@wb = synthetic {seed = 8} : f32[4099,8]\n",
     .lines = BIG_HEAD},
    {.rule = "head-size",
     .refused = "rotate{skip=r1+r3}",
     .accepted = "rotate{skip=r1+r2+r3}",
     .consts = "@wb = synthetic {seed = 8} : f32[4099,8]\n",
     .lines = BIG_HEAD},
    {.rule = "hidden-size",
     .refused = "fuse-norm,rotate",
     .accepted = "fuse-norm,rotate{skip=r1}",
     .consts = "@eb = synthetic {seed = 8} : f32[4,4099]\n",
     .lines = "  %e = embedding %tokens, @eb : f32[T,4099]\n"},
    {.rule = "r3-size",
     .refused = "static-scales{kv=4,max=1}",
     .accepted = "static-scales{kv=16,max=1}",
     .consts = "@wb = synthetic {seed = 8} : f32[12,8]\n",
     .lines = TURNED_HEAD},
    {.rule = "r3-size",
     .refused = "dynamic-scales{kv=8}",
     .accepted = "dynamic-scales{kv=8,skip=k+q}",
     .consts = "@wb = synthetic {seed = 8} : f32[12,8]\n",
     .lines = TURNED_HEAD},
    {.rule = "prefix-once",
     .refused = "prefix",
     .accepted = "dce",
     .consts = PREFIX,
     .attention = BEHIND,
     .direct = true},
    {.rule = "prefix-float",
     .refused = "prefix",
     .accepted = "dce",
     .lines = QUANTISED_K,
     .attention = "%qh, %kd, %vh, %pos",
     .direct = true},
    {.rule = "prefix-float",
     .refused = "prefix",
     .accepted = "dce",
     .consts = GRID,
     .wo = "@wo.dq",
     .direct = true},
    {.rule = "grid-owner",
     .refused = "quantize-weights{bits=8,sym,only=layers},quantize-weights{bits=4}",
     .accepted = "quantize-weights{bits=8,sym,only=layers},quantize-weights{bits=4,skip=layers}"},
    {.rule = "grid-owner",
     .refused =
         "quantize-weights{bits=8,sym,only=head},quantize-weights{bits=4,only=head+embedding}",
     .accepted = "quantize-weights{bits=8,sym,only=head},quantize-weights{bits=4,only=embedding}"},
    {.rule = "one-transform",
     .refused = "dce",
     .lines = TURNED_Q TURNED_K "  %kt2 = hadamard %kt : f32[T,1,4]\n",
     .attention = "%qt, %kt2, %vh, %pos"},
    {.rule = "quantise-once",
     .refused = "dce",
     .lines = QUANTISED_K "  %kr = quantize %kd, @one {dtype = \"s4\"} : s4[T,1,4]\n  %ke = "
                          "dequantize %kr, @one : f32[T,1,4]\n",
     .attention = "%qh, %ke, %vh, %pos"},
    {.rule = "quantise-once",
     .refused = "dce",
     .consts = GRID "@wo.r = quantize @wo.dq, @wo.s {dtype = \"s8\"} : s8[8,8]\n@wo.e = dequantize "
                    "@wo.r, @wo.s : f32[8,8]\n",
     .wo = "@wo.e"},
    {.rule = "on-grid",
     .refused = "dce",
     .consts = GRID "@wo.h = hadamard @wo.dq : f32[8,8]\n",
     .wo = "@wo.h"},
    {.rule = "integer-qk",
     .refused = "dce",
     .lines = "  %qq = quantize %qh, @one {dtype = \"s8\"} : s8[T,2,4]\n  %qd = dequantize %qq, "
              "@one : f32[T,2,4]\n",
     .attention = "%qd, %kh, %vh, %pos"},
    {.rule = "both-turn", .refused = "dce", .lines = TURNED_Q, .attention = "%qt, %kh, %vh, %pos"},
    {.rule = "both-turn", .refused = "dce", .lines = TURNED_K, .attention = "%qh, %kt, %vh, %pos"},
    {.rule = "both-turn",
     .refused = "dce",
     .lines = TURNED_Q "  %kt = hadamard %kh {group = 2} : f32[T,1,4]\n",
     .attention = "%qt, %kt, %vh, %pos"},
    {.rule = "both-turn",
     .refused = "dce",
     .lines = TURNED_Q "  %kt = hadamard %kh {seed = 3} : f32[T,1,4]\n",
     .attention = "%qt, %kt, %vh, %pos"},
    {.rule = "prefix-context",
     .refused = "dce",
     .consts = PREFIX,
     .attention = BEHIND,
     .context = "2"},
    {.rule = "prefix-layers",
     .refused = "dce",
     .consts = PREFIX,
     .lines = "  %b = attention %qh, %kh, %vh, %pos {cache = 1, scale = 0.5} : f32[T,2,4]\n",
     .attention = BEHIND},
    {.rule = "prefix-layers",
     .refused = "dce",
     .consts = PREFIX,
     .lines = "  %b = attention " BEHIND " {cache = 1, scale = 0.5} : f32[T,2,4]\n"},
    {.rule = "static-scale",
     .refused = "dce",
     .consts = "@bad = literal {values = [0.0]} : f32[1,1]\n",
     .lines = "  %kq = quantize %kh, @bad {dtype = \"s8\"} : s8[T,1,4]\n  %kd = dequantize %kq, "
              "@bad : f32[T,1,4]\n",
     .attention = "%qh, %kd, %vh, %pos"},
    {.rule = "static-scale",
     .refused = "dce",
     .consts = "@bad = literal {values = [-0.5]} : f32[1,1]\n",
     .lines = "  %kq = quantize %kh, @bad {dtype = \"s8\"} : s8[T,1,4]\n  %kd = dequantize %kq, "
              "@bad : f32[T,1,4]\n",
     .attention = "%qh, %kd, %vh, %pos"},
};
enum { N_CASES = sizeof cases / sizeof *cases };

static Module *parse(Diag *d, const Case *c)
{
    Source *src = NEW(d->a, Source);
    src->name = "test.pfir";
    src->text =
        arena_printf(d->a, model, c->context ? c->context : "64", c->consts ? c->consts : "",
                     c->lines ? c->lines : "", c->attention ? c->attention : "%qh, %kh, %vh, %pos",
                     c->wo ? c->wo : "@wo");
    src->n = strlen(src->text);
    Module *m = ir_parse(d, d->a, src, ".");
    diag_flush(d);
    assert_non_null(m);
    return m;
}

static bool run(Diag *d, Module *m, const char *text)
{
    Source src = {"test", text, strlen(text)};
    Pipeline p = {0};
    const PassOptions o = {.verify_each = true};
    assert_true(pipeline_parse(d, d->a, &src, &p));
    return passes_run(d, m, &p, &o);
}

static const char *sentence_of(const char *rule)
{
    const char *sentence, *name;
    for (u32 i = 0; (name = rules_name(i, &sentence)); i++)
        if (strcmp(name, rule) == 0) return sentence;
    fail_msg("there is no rule '%s'", rule);
    return NULL;
}

static void check_refused(const Case *c)
{
    Arena a = {0};
    Diag d;
    diag_init(&d, &a);
    Module *m = parse(&d, c);
    PassCx cx = {.m = m, .d = &d, .a = &a};
    bool ok = c->direct ? rules_before(&cx, c->refused) : run(&d, m, c->refused);
    if (ok || d.n_errors != 1) {
        diag_flush(&d);
        fail_msg("%s: %s with %u errors", c->rule, ok ? "accepted" : "refused", d.n_errors);
    }
    assert_int_equal(d.msgs.at[0].code, E_PASS_COMBINATION);
    if (strcmp(d.msgs.at[0].text, sentence_of(c->rule)) != 0)
        fail_msg("%s: '%s'", c->rule, d.msgs.at[0].text);
    arena_free(&a);
}

static void check_accepted(const Case *c)
{
    Arena a = {0};
    Diag d;
    diag_init(&d, &a);
    bool ok = run(&d, parse(&d, c), c->accepted);
    diag_flush(&d);
    if (!ok) fail_msg("%s: '%s' was refused", c->rule, c->accepted);
    arena_free(&a);
}

static void rules_refuse(void **state)
{
    (void)state;
    const Case plain = {"none", .accepted = "fuse-norm,rotate,merge-linears,quantize-weights{bits="
                                            "8,sym},quantize-activations,phases,lower,dce"};
    check_accepted(&plain);
    for (u32 i = 0; i < N_CASES; i++) {
        check_refused(&cases[i]);
        if (cases[i].accepted) check_accepted(&cases[i]);
    }
}

static void every_rule_has_a_case(void **state)
{
    (void)state;
    const char *sentence, *name;
    for (u32 i = 0; (name = rules_name(i, &sentence)); i++) {
        bool found = false;
        for (u32 k = 0; k < N_CASES; k++)
            found |= strcmp(cases[k].rule, name) == 0;
        if (!found) fail_msg("rule '%s' has no case", name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rules_refuse),
                                       cmocka_unit_test(every_rule_has_a_case)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
