/* The expression language of model.json and the architecture descriptions. */
#include "frontend/expr.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static bool lookup(void *user, Str name, FeVal *out)
{
    (void)user;
    static const FeVal two[] = {{.kind = FE_INT, .i = 10}, {.kind = FE_INT, .i = 20}};
    *out = (FeVal){0};
    if (str_is(name, "heads")) *out = fe_int(6);
    else if (str_is(name, "config.list")) *out = (FeVal){.kind = FE_LIST, .at = two, .n = 2};
    else if (str_is(name, "act")) *out = (FeVal){.kind = FE_STR, .s = STR("SiLU")};
    else return str_is(name, "config.none");
    return true;
}

static const char *const names[] = {"heads", "act"};

static bool eval(Arena *a, const char *text, FeVal *v, FeExprError *err)
{
    FeEnv env = {.a = a, .lookup = lookup, .max_list = FE_LIST_MAX, .names = names, .n_names = 2};
    return fe_eval(&env, str_c(text), v, err);
}

static void test_values(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"1", "1"},
        {"-3 + 2*4", "5"},
        {"2*(heads+1)", "14"},
        {"heads/3", "2"},
        {"7 % 4 - -1", "4"},
        {"1/2.0", "0.5"},
        {"1/sqrt(4)", "0.5"},
        {"9223372036854775807", "9223372036854775807"},
        {"-9223372036854775807 - 1", "-9223372036854775808"},
        {"1e-05", "1e-05"},
        {"heads == 6 and not heads == 7", "true"},
        {"heads > 6 or heads >= 6", "true"},
        {"heads != 6.0", "false"},
        {"lower(act) in ['silu', 'swish']", "true"},
        {"act", "SiLU"},
        {"config.none ?? 4", "4"},
        {"config.none ?? heads * 2", "12"},
        {"heads ?? nonsense(1)", "6"},
        {"config.none == null ? 1 : 2", "1"},
        {"true ? 1 : 1/0", "1"},
        {"false and 1/0 == 1", "false"},
        {"true or nonsense", "true"},
        {"config.list[1]", "20"},
        {"len(config.list)", "2"},
        {"each(i, 3, i*i)", "[0, 1, 4]"},
        {"each(i, 2, each(j, 2, i*10+j))[1][0]", "10"},
        {"each(i, 0, i)", "[]"},
        {"min(3, 2) + max(1, 1.5)", "3.5"},
        {"floor(2.9)", "2"},
        {"[1, 'a', [true]]", "[1, a, [true]]"},
        {"[1, 2] == [1, 2]", "true"},
        {"'a' == 1", "false"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Arena a = {0};
        FeVal v;
        FeExprError err;
        if (!eval(&a, rows[i][0], &v, &err)) fail_msg("%s: %s", rows[i][0], err.text);
        StrBuf b = {.a = &a};
        fe_val_text(&v, &b);
        if (strcmp(b.p, rows[i][1])) fail_msg("%s is %s, expected %s", rows[i][0], b.p, rows[i][1]);
        arena_free(&a);
    }
}

static void test_errors(void **state)
{
    (void)state;
    static const struct {
        const char *text, *error;
        size_t off;
    } rows[] = {
        {"", "a value is missing", 0},
        {"1 +", "a value is missing", 2},
        {"7/2", "7 is not a multiple of 2", 1},
        {"1 / 0", "division by zero", 2},
        {"9223372036854775807 + 1", "does not fit 64 bits", 20},
        {"2 * head", "unknown name 'head'", 4},
        {"(1", "expected ')' at the end", 1},
        {"1 2", "expected the end of the expression, found '2'", 2},
        {"'a' + 1", "needs numbers, found text and an integer", 4},
        {"1 ? 2 : 3", "expected true or false, found an integer", 0},
        {"not 1", "expected true or false", 0},
        {"config.list[2]", "index 2 of a list of 2", 12},
        {"heads[0]", "cannot index an integer", 6},
        {"each(i, -1, i)", "a count from 0", 5},
        {"each(i, 100000, each(j, 100000, j))", "lists of more than", 21},
        {"nonsense(1)", "unknown function", 0},
        {"sqrt(-1)", "arguments that it does not take", 0},
        {"1 in 2", "'in' needs a list", 2},
        {"$", "expected a value, found '$'", 0},
        {"'abc", "unfinished text", 0},
        {"1.2.3", "not a number", 0},
        {"((((((((((((((((((((((((((((((((((((((((((((((((1))))))))))))))))))))))))))))))))))))))))))))))))", "nested too deeply", 48},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Arena a = {0};
        FeVal v;
        FeExprError err;
        if (eval(&a, rows[i].text, &v, &err)) fail_msg("%s was accepted", rows[i].text);
        if (!strstr(err.text, rows[i].error)) fail_msg("%s: %s, expected %s", rows[i].text, err.text, rows[i].error);
        if (err.off != rows[i].off) fail_msg("%s: error at %zu, expected %zu", rows[i].text, err.off, rows[i].off);
        assert_true(err.off + err.len <= strlen(rows[i].text) + 1);
        arena_free(&a);
    }
    Arena a = {0};
    FeVal v;
    FeExprError err;
    assert_false(eval(&a, "2 * head", &v, &err));
    assert_string_equal(err.hint, "did you mean 'heads'?");
    arena_free(&a);
}

static void test_substitute(void **state)
{
    (void)state;
    Arena a = {0};
    FeEnv env = {.a = &a, .lookup = lookup};
    FeExprError err;
    StrBuf b = {.a = &a};
    assert_true(fe_substitute(&env, STR("blk.{heads}.attn{heads+1}.w"), &b, &err));
    assert_string_equal(b.p, "blk.6.attn7.w");
    assert_false(fe_substitute(&env, STR("blk.{heads"), &b, &err));
    assert_int_equal(err.off, 4);
    assert_false(fe_substitute(&env, STR("blk.{h}"), &b, &err));
    assert_int_equal(err.off, 5);
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_values), cmocka_unit_test(test_errors), cmocka_unit_test(test_substitute)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
