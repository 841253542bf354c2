/* ir/base/json against JSONTestSuite and number vectors; both readers; small stacks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "ir/base/json.h"

#include <math.h>
#include <pthread.h>

#define SUITE "tests/data/json-testsuite/"
#include "tests/json_suite.h"

static bool accepts(const char *text, size_t n)
{
    Arena a = {0};
    Diag d;
    Source src = {"test.json", text, n};
    diag_init(&d, &a);
    bool ok = json_parse(&d, &a, &src) != NULL;
    assert_int_equal(d.n_errors, !ok);
    arena_free(&a);
    return ok;
}

static void suite_is_judged_as_documented(void **state)
{
    (void)state;
    /* Allowed by RFC 8259, refused by json.h's rules: duplicate keys and NUL characters. */
    static const char *const refused_y[] = {
        "y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json",
        "y_object_escaped_null_in_key.json", "y_string_null_escape.json", NULL};
    judge_suite(accepts, refused_y);
    assert_true(accepts("\"\\n\"", 4));
    assert_false(accepts("\"\\\0\"", 4)); /* a backslash before a NUL byte */
    char *deep = xmalloc(100000, 1);
    memset(deep, '[', 100000);
    assert_false(accepts(deep, 100000));
    for (size_t i = 0; i < 100000; i++)
        deep[i] = "[{\"\":"[i % 5];
    assert_false(accepts(deep, 100000));
    free(deep);
}

/* Integers that fit i64 are exact; others are too large for it. */
static bool integer_is_exact(const Json *v, const char *text, size_t n)
{
    char back[32];
    if (!v->is_int) return fabs(v->num) >= 0x1p63;
    int k = snprintf(back, sizeof back, "%s%lld", v->i == 0 && *text == '-' ? "-" : "",
                     (long long)v->i);
    return (size_t)k == n && memcmp(back, text, n) == 0;
}

static void judge_number(const char *text, size_t n, bool ok)
{
    Arena a = {0};
    Diag quiet = {.a = &a, .silent = true};
    const Source src = {"number", text, n};
    const Json *v = json_parse(&quiet, &a, &src);
    if ((v && v->kind == JSON_NUMBER) != ok) fail_msg("'%.*s'", (int)n, text);
    if (ok && !integer_is_exact(v, text, n)) fail_msg("'%.*s' is not exact", (int)n, text);
    arena_free(&a);
}

static void numbers_are_judged(void **state)
{
    (void)state;
    judge_numbers(judge_number);
    char digits[JSON_MAX_NUMBER + 1];
    memset(digits, '0', sizeof digits);
    memcpy(digits, "0.", 2);
    assert_true(accepts(digits, JSON_MAX_NUMBER));
    assert_false(accepts(digits, JSON_MAX_NUMBER + 1));
}

static void *parse_deep(void *out)
{
    char text[300];
    memset(text, '[', 129);
    memset(text + 129, ']', 129);
    ((bool *)out)[0] = accepts(text + 1, 256);
    ((bool *)out)[1] = accepts(text, 258);
    return NULL;
}

static void nesting_limit_fits_a_small_stack(void **state)
{
    (void)state;
    pthread_t t;
    pthread_attr_t attr;
    bool ok[2] = {false, true};
    pthread_attr_init(&attr);
    assert_int_equal(pthread_attr_setstacksize(&attr, 256 << 10), 0);
    assert_int_equal(pthread_create(&t, &attr, parse_deep, ok), 0);
    pthread_join(t, NULL);
    pthread_attr_destroy(&attr);
    assert_true(ok[0]);
    assert_false(ok[1]);
}

static void pull_reader_reads_in_order(void **state)
{
    (void)state;
    static const char text[] =
        " {\"k\\u00e9y\" : [ 12 , -3.5e1 ] , \"e\" : [] , \"s\" : \"\\ud83d\\ude00\\n\" } ";
    Arena a = {0};
    Diag d;
    Source src = {"pull.json", text, sizeof text - 1};
    JsonPull j;
    JsonKind kind;
    Loc loc;
    Str s;
    bool more;
    diag_init(&d, &a);
    assert_true(json_pull_init(&j, &d, &a, &src));
    assert_true(json_pull_peek(&j, &kind, &loc) && kind == JSON_OBJECT && loc.off == 1);
    j.p++;
    assert_true(json_pull_more(&j, true, '}', &more) && more);
    assert_true(json_pull_key(&j, &s, &loc) && str_is(s, "k\xc3\xa9y"));
    assert_true(json_pull_peek(&j, &kind, &loc) && kind == JSON_ARRAY);
    j.p++;
    assert_true(json_pull_more(&j, true, ']', &more) && more && json_pull_number(&j, &s, &loc) &&
                str_is(s, "12"));
    assert_true(json_pull_more(&j, false, ']', &more) && more && json_pull_number(&j, &s, &loc) &&
                str_is(s, "-3.5e1"));
    assert_true(json_pull_more(&j, false, ']', &more) && !more);
    assert_true(json_pull_more(&j, false, '}', &more) && more && json_pull_key(&j, &s, &loc));
    assert_true(json_pull_peek(&j, &kind, &loc) && kind == JSON_ARRAY);
    j.p++;
    assert_true(json_pull_more(&j, true, ']', &more) && !more);
    assert_true(json_pull_more(&j, false, '}', &more) && more && json_pull_key(&j, &s, &loc));
    assert_true(json_pull_str(&j, &s, &loc) && str_is(s, "\xf0\x9f\x98\x80\n"));
    assert_true(json_pull_more(&j, false, '}', &more) && !more && json_pull_end(&j));
    assert_int_equal(d.n_errors, 0);

    assert_true(json_pull_init(&j, &d, &a, &src));
    assert_false(json_pull_str(&j, &s, &loc));
    assert_false(json_pull_number(&j, &s, &loc));
    assert_false(json_pull_end(&j));
    j.p++;
    assert_false(json_pull_more(&j, false, '}', &more)); /* a comma is missing */
    assert_int_equal(d.n_errors, 4);
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(suite_is_judged_as_documented),
        cmocka_unit_test(numbers_are_judged),
        cmocka_unit_test(nesting_limit_fits_a_small_stack),
        cmocka_unit_test(pull_reader_reads_in_order),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
