/* runtime/json against JSONTestSuite and number vectors; trees, limits, messages, fields. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/json.h"
#include "tests/json_suite.h"

#include <math.h>

enum { CAP = 4096 };
static PfqJson nodes[CAP];
static size_t at;
static PfqErr err;

/* Parses a copy that is exactly as long as it must be, so that a sanitizer sees one byte too many.
 * The copy lives until the next call. */
static bool parse_n(const char *text, size_t n, uint32_t cap)
{
    static char *copy;
    free(copy);
    copy = malloc(n + 1);
    assert_non_null(copy);
    memcpy(copy, text, n);
    copy[n] = '7'; /* the parser puts the NUL there */
    *err.text = 0;
    bool ok = pfq_json_parse(copy, n, nodes, cap, &at, &err);
    assert_int_equal(ok, *err.text == 0);
    assert_true(at <= n);
    return ok;
}

static bool parse(const char *text)
{
    return parse_n(text, strlen(text), CAP);
}

static bool accepts(const char *text, size_t n)
{
    return parse_n(text, n, CAP);
}

static void suite_is_judged_by_the_rfc(void **state)
{
    (void)state;
    static const char *const none[] = {NULL};
    judge_suite(accepts, none);
}

static void judge_number(const char *text, size_t n, bool ok)
{
    char back[32];
    if (parse_n(text, n, 1) != ok) {
        fail_msg("'%.*s'", (int)n, text);
    }
    if (ok && nodes[0].type == PFQ_JSON_INT) {
        assert_int_equal(snprintf(back, sizeof back, "%lld", (long long)nodes[0].i), n);
        assert_memory_equal(back, text, n);
    } else if (ok) {
        assert_true(fabs(nodes[0].d) >= 0x1p63 || fabs(nodes[0].d) <= 0); /* -0 */
    }
}

static void numbers_are_judged(void **state)
{
    (void)state;
    judge_numbers(judge_number);
    assert_true(parse("-9223372036854775808") && nodes[0].i == INT64_MIN);
    assert_true(parse("-9223372036854775809") && nodes[0].type == PFQ_JSON_REAL);
    assert_true(parse("-0") && nodes[0].type == PFQ_JSON_REAL && signbit(nodes[0].d));
    assert_true(parse("1.5e3") && pfq_json_number(nodes) == 1500);
    assert_true(parse("7") && pfq_json_number(nodes) == 7);
}

static void trees_are_their_nodes_in_order(void **state)
{
    (void)state;
    assert_true(parse(" {\"a\": [1, [], {\"\": null}, \"x\\n\\u00e9\\ud83d\\ude00\\u0000y\"],"
                      " \"b\" : true, \"a\":-2.5} "));
    const PfqJson *list = nodes + 2, *v = list + 1;
    assert_int_equal(nodes[0].type, PFQ_JSON_OBJECT);
    assert_int_equal(nodes[0].n, 3);
    assert_int_equal(nodes[0].span, 13);
    assert_int_equal(list->n, 4);
    assert_int_equal(list->span, 7);
    assert_int_equal(v->i, 1);
    v += v->span;
    assert_true(v->type == PFQ_JSON_ARRAY && v->n == 0 && v->span == 1);
    v += v->span;
    assert_true(v->type == PFQ_JSON_OBJECT && v->n == 1 && v->span == 3);
    v += v->span;
    static const char text[] = "x\n\xc3\xa9\xf0\x9f\x98\x80\0y";
    assert_int_equal(v->n, sizeof text - 1);
    assert_memory_equal(v->s, text, sizeof text);
    v += v->span;
    assert_string_equal(v->s, "b");
    assert_true(v[1].b);
}

static void limits_hold(void **state)
{
    (void)state;
    char text[512];
    for (int depth = PFQ_JSON_DEPTH - 1; depth <= PFQ_JSON_DEPTH + 1; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        assert_int_equal(parse_n(text, 2 * (size_t)depth, CAP), depth <= PFQ_JSON_DEPTH);
    }
    assert_string_equal(err.text, "values nested deeper than 64");
    static const char all[] = "[1, {\"a\": null, \"b\": \"\"}, true]"; /* eight values */
    for (uint32_t cap = 0; cap <= 8; cap++) {
        assert_int_equal(parse_n(all, sizeof all - 1, cap), cap == 8);
    }
    for (size_t n = 0; n + 1 < sizeof all; n++) {
        assert_false(parse_n(all, n, CAP));
    }
}

static void errors_say_where_and_what(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t at;
        const char *message;
    } cases[] = {
        {"", 0, "expected a value, found the end"},
        {"[1,]", 3, "expected a value, found ']'"},
        {"[1 2]", 3, "expected ',' or ']', found '2'"},
        {"{,}", 1, "expected a name in quotes, found ','"},
        {"{\"a\" 1}", 5, "expected ':', found '1'"},
        {"{\"a\":1 \"b\"}", 7, "expected ',' or '}', found '\"'"},
        {"{} x", 3, "expected the end, found 'x'"},
        {"\xef\xbb\xbf{}", 0, "expected a value, found byte 0xef"},
        {"\"a\tb\"", 2, "expected '\"' or an escape, found byte 0x09"},
        {"\"\xc3(\"", 1, "expected UTF-8, found byte 0xc3"},
        {"\"\\x\"", 2, "expected one of \"\\/bfnrtu after a backslash, found 'x'"},
        {"\"\\u12g4\"", 1, "expected four hexadecimal digits after \\u"},
        {"\"\\ud800\\n\"", 1, "half a surrogate pair is no character"},
        {"01", 1, "expected the end, found '1'"},
        {"-", 1, "expected a digit, found the end"},
        {"1e999", 0, "the number is too large"},
        {"nul", 0, "expected a value, found 'n'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_false(parse(cases[i].text));
        assert_string_equal(err.text, cases[i].message);
        assert_int_equal(at, cases[i].at);
    }
}

static void fields_are_looked_up(void **state)
{
    (void)state;
    const PfqJson *a, *b, *unknown;
    const PfqJsonField fields[] = {{"a", PFQ_JSON_NUMBER, &a},
                                   {"b", 1u << PFQ_JSON_STRING | 1u << PFQ_JSON_NULL, &b}};
    assert_true(parse("{\"x\": [{\"a\": 0}], \"a\": 1, \"y\": 2}"));
    assert_true(pfq_json_fields(nodes, fields, 2, &unknown, &err));
    assert_true(a->i == 1 && !b);
    assert_string_equal(unknown->s, "x");
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"[]", "an array, expected an object"},
        {"{\"a\": \"1\"}", "\"a\" is a string, expected a number"},
        {"{\"b\": 1}", "\"b\" is an integer, expected null or a string"},
        {"{\"a\": 1, \"a\": 1}", "\"a\" is given twice"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_true(parse(bad[i].text));
        assert_false(pfq_json_fields(nodes, fields, 2, NULL, &err));
        assert_string_equal(err.text, bad[i].message);
    }
    assert_true(parse("{\"a\\u0000\": 1, \"b\": null}"));
    assert_true(pfq_json_fields(nodes, fields, 2, &unknown, &err));
    assert_true(!a && b && unknown->n == 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(suite_is_judged_by_the_rfc),     cmocka_unit_test(numbers_are_judged),
        cmocka_unit_test(trees_are_their_nodes_in_order), cmocka_unit_test(limits_hold),
        cmocka_unit_test(errors_say_where_and_what),      cmocka_unit_test(fields_are_looked_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
