/* JSONTestSuite and vectors of numbers (tests/data/json-testsuite, SUITE), as the tests of pfqc's
 * two JSON readers go over them. Include cmocka.h first. */
#ifndef PFQC_TESTS_JSON_SUITE_H
#define PFQC_TESTS_JSON_SUITE_H

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of the suite's n bytes: whether the reader takes them. */
typedef bool JsonAccepts(const char *text, size_t n);

/* A number, which the reader is to take or refuse; fails the test otherwise. */
typedef void JsonNumber(const char *text, size_t n, bool ok);

static char *suite_file(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    char *text = malloc(1 << 20);
    assert_non_null(f);
    assert_non_null(text);
    *n = fread(text, 1, 1 << 20, f);
    fclose(f);
    return text;
}

static bool suite_is_one_of(const char *name, const char *const *list)
{
    while (*list && strcmp(name, *list) != 0)
        list++;
    return *list != NULL;
}

/* What RFC 8259 leaves open ("i_") and both readers take. */
static bool suite_expects(const char *name, const char *const *refused_y)
{
    static const char *const accepted_i[] = {
        "i_number_double_huge_neg_exp.json",   "i_number_real_underflow.json",
        "i_number_too_big_neg_int.json",       "i_number_too_big_pos_int.json",
        "i_number_very_big_negative_int.json", NULL};
    if (name[0] == 'y') return !suite_is_one_of(name, refused_y);
    return name[0] == 'i' && suite_is_one_of(name, accepted_i);
}

/* refused_y: what the reader refuses though RFC 8259 takes it, NULL at the end. */
static void judge_suite(JsonAccepts *accepts, const char *const *refused_y)
{
    unsigned seen[128] = {0};
    struct dirent **entry;
    const int n = scandir(SUITE "json", &entry, NULL, alphasort);
    assert_true(n > 300);
    for (int i = 0; i < n; i++) {
        const char *name = entry[i]->d_name;
        char path[600];
        size_t bytes;
        snprintf(path, sizeof path, SUITE "json/%s", name);
        if (name[0] != '.') {
            const bool want = suite_expects(name, refused_y);
            char *text = suite_file(path, &bytes);
            seen[name[0] & 127]++;
            if (accepts(text, bytes) != want)
                fail_msg("%s: expected it to be %s", name, want ? "accepted" : "refused");
            free(text);
        }
        free(entry[i]);
    }
    free(entry);
    assert_int_equal(seen['y'], 95);
    assert_int_equal(seen['n'], 187);
    assert_int_equal(seen['i'], 35);
}

/* One number a line; '#' begins a comment. */
static unsigned judge_number_file(const char *path, bool ok, JsonNumber *judge)
{
    size_t n;
    char *text = suite_file(path, &n);
    unsigned count = 0;
    for (const char *p = text, *end = text + n; p < end;) {
        const char *eol = memchr(p, '\n', (size_t)(end - p));
        size_t len = (size_t)((eol ? eol : end) - p);
        len -= len && p[len - 1] == '\r';
        if (len && *p != '#') {
            judge(p, len, ok);
            count++;
        }
        p = eol ? eol + 1 : end;
    }
    free(text);
    return count;
}

static void judge_numbers(JsonNumber *judge)
{
    static const struct {
        const char *file;
        bool ok;
        unsigned numbers;
    } files[] = {
        {SUITE "num/int.txt", true, 1697},     {SUITE "num/int-big.txt", true, 49},
        {SUITE "num/int-fail.txt", false, 30}, {SUITE "num/real-fail.txt", false, 110},
        {SUITE "num/real-inf.txt", false, 4},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        assert_int_equal(judge_number_file(files[i].file, files[i].ok, judge), files[i].numbers);
}

#endif
