/* Answers cut into tokens anywhere, with stop strings that overlap: the same text as a search over
 * the whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/stream.h"

#include <stdlib.h>
#include <string.h>

static uint32_t seed = 1;

static uint32_t below(uint32_t n)
{
    seed = seed * 1664525 + 1013904223;
    return (seed >> 8) % n;
}

/* Feeds text[0..n) in random pieces; checks that what is shown only grows. Returns the answer. */
static char *feed(PfqStream *s, const char *text, size_t n, const char *const *stop, int n_stop)
{
    static char shown[4096];
    size_t k = 0;
    pfq_stream_start(s, stop, n_stop);
    for (size_t i = 0; i < n && !s->stopped;) {
        const size_t take = 1 + below(n - i < 5 ? (uint32_t)(n - i) : 5);
        assert_true(pfq_stream_add(s, text + i, take));
        memcpy(shown + k, s->text + s->from, s->to - s->from);
        k += s->to - s->from;
        i += take;
    }
    assert_true(pfq_stream_end(s));
    memcpy(shown + k, s->text + s->from, s->to - s->from);
    k += s->to - s->from;
    shown[k] = 0;
    assert_int_equal(k, s->to);
    assert_memory_equal(shown, s->text, k);
    return shown;
}

static void test_borders(void **state)
{
    static const char *const stops[] = {"</s>", "\xc3\xa9!", "aab", "ab"};
    static const struct {
        const char *text, *answer;
    } cases[] = {
        {"hello", "hello"},
        {"hello</s>x", "hello"},
        {"hello</s", "hello</s"},
        {"</s>", ""},
        {"x\xc3\xa9!y", "x"},
        {"x\xc3\xa9?y\xc3\xa9", "x\xc3\xa9?y\xc3\xa9"},
        {"caaab", "ca"},
        {"caab", "c"},
        {"<</s>", "<"},
        {"\xe4\xbd\xa0\xe5\xa5", "\xe4\xbd\xa0\xef\xbf\xbd"},
        {"\xff\xfe z", "\xef\xbf\xbd\xef\xbf\xbd z"},
        {"\xe2\x82", "\xef\xbf\xbd"},
        {"", ""},
    };
    PfqStream s = {0};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int round = 0; round < 50; round++)
            assert_string_equal(feed(&s, cases[i].text, strlen(cases[i].text), stops, 4),
                                cases[i].answer);
    pfq_stream_free(&s);
}

/* The reference: repair the whole, then look for the first stop string. */
static void test_random(void **state)
{
    static const char alphabet[] = {'a',        'b',        '\n',       (char)0xc3,
                                    (char)0xa9, (char)0xe2, (char)0x82, (char)0xac};
    PfqStream s = {0}, whole = {0};
    (void)state;
    for (int round = 0; round < 20000; round++) {
        char text[64], stop_text[3][6];
        const char *stop[3];
        const size_t n = below(sizeof text);
        for (size_t i = 0; i < n; i++)
            text[i] = alphabet[below(sizeof alphabet)];
        const int n_stop = (int)below(4);
        for (int k = 0; k < n_stop; k++) {
            const size_t len = 1 + below(4);
            for (size_t i = 0; i < len; i++)
                stop_text[k][i] = "ab\n"[below(3)];
            stop_text[k][len] = 0;
            stop[k] = stop_text[k];
        }
        const char *got = feed(&s, text, n, stop, n_stop);
        pfq_stream_start(&whole, NULL, 0);
        assert_true(pfq_stream_add(&whole, text, n) && pfq_stream_end(&whole));
        size_t end = whole.n, done = whole.n + 1;
        for (int k = 0; k < n_stop; k++) {
            const char *at = whole.n ? memmem(whole.text, whole.n, stop[k], strlen(stop[k])) : NULL;
            const size_t len = strlen(stop[k]), begin = at ? (size_t)(at - whole.text) : 0;
            if (!at || begin + len > done || (begin + len == done && begin > end)) continue;
            end = begin;
            done = begin + len;
        }
        assert_int_equal(strlen(got), end);
        assert_true(end == 0 || memcmp(got, whole.text, end) == 0);
    }
    pfq_stream_free(&s);
    pfq_stream_free(&whole);
}

/* Nothing waits that no stop string can begin with. */
static void test_shown_at_once(void **state)
{
    static const char *const stops[] = {"STOP"};
    PfqStream s = {0};
    (void)state;
    pfq_stream_start(&s, stops, 1);
    assert_true(pfq_stream_add(&s, "abc", 3));
    assert_int_equal(s.to, 3);
    assert_true(pfq_stream_add(&s, "ST", 2));
    assert_int_equal(s.to, 3);
    assert_true(pfq_stream_add(&s, "Sx", 2));
    assert_int_equal(s.to, 7);
    pfq_stream_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_borders),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_shown_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
