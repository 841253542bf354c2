/* Pages of prompts (runtime/kept.h) against a list of what every page holds. */
#include "runtime/kept.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

enum { PAGES = 12, DEEP = 6, N = DEEP * PFQ_PAGE };

/* A prompt by the kinds of its pages: page i is 64 times kind[i], but for its last token. */
static void prompt(const char *kinds, int32_t *ids)
{
    for (int i = 0; kinds[i]; i++) {
        for (int k = 0; k < PFQ_PAGE; k++) {
            ids[i * PFQ_PAGE + k] = k < PFQ_PAGE - 1 ? 7 : kinds[i];
        }
    }
}

/* Keeps the prompt; returns how many of its pages there were, *n: and now are. */
static int32_t put(PfqKept *k, const char *kinds, int32_t *n, int32_t *at)
{
    int32_t ids[N];
    prompt(kinds, ids);
    const int32_t pages = (int32_t)strlen(kinds),
                  found = pfq_kept_find(k, ids, pages * PFQ_PAGE, at);
    *n = found;
    while (*n < pages && pfq_kept_add(k, ids, *n, at)) {
        (*n)++;
    }
    return found;
}

static int32_t find(PfqKept *k, const char *kinds)
{
    int32_t ids[N], at[DEEP];
    prompt(kinds, ids);
    return pfq_kept_find(k, ids, (int32_t)strlen(kinds) * PFQ_PAGE, at);
}

static void test_chains(void **state)
{
    PfqKept k;
    int32_t n, at[DEEP], ids[N];
    (void)state;
    assert_true(pfq_kept_open(&k, PAGES));
    assert_int_equal(put(&k, "abc", &n, at), 0);
    assert_int_equal(n, 3);
    assert_int_equal(put(&k, "abd", &n, at), 2);
    assert_int_equal(find(&k, "abcd"), 3);
    assert_int_equal(find(&k, "abd"), 3);
    assert_int_equal(find(&k, "b"), 0); /* the same tokens elsewhere */
    assert_int_equal(find(&k, "ac"), 1);
    assert_int_equal(k.used, 4);
    prompt("ab", ids);
    assert_int_equal(pfq_kept_find(&k, ids, 2 * PFQ_PAGE - 1, at), 1); /* whole pages only */
    assert_int_equal(pfq_kept_find(&k, ids, -1, at), 0);
    pfq_kept_close(&k);
}

static void test_what_goes(void **state)
{
    PfqKept k;
    int32_t n, at[DEEP];
    (void)state;
    assert_true(pfq_kept_open(&k, 4));
    put(&k, "ab", &n, at);
    put(&k, "cd", &n, at);
    assert_int_equal(find(&k, "ab"), 2); /* used again: the other one goes */
    put(&k, "e", &n, at);
    assert_int_equal(find(&k, "ab"), 2);
    assert_int_equal(find(&k, "cd"), 1); /* from its end */
    assert_int_equal(find(&k, "e"), 1);
    put(&k, "123456", &n, at); /* more than there is room for: as much as there is */
    assert_int_equal(n, 4);
    assert_int_equal(k.used, 4);
    assert_int_equal(find(&k, "123456"), 4);
    assert_int_equal(k.dropped, 5);
    pfq_kept_close(&k);
    assert_true(pfq_kept_open(&k, 0));
    put(&k, "ab", &n, at);
    assert_int_equal(n, 0);
    pfq_kept_close(&k);
}

/* Random prompts over three kinds of pages: what is found is what was put there last, and all that
 * is there is found. */
static void test_random(void **state)
{
    PfqKept k;
    char held[PAGES][DEEP + 1] = {{0}};
    uint32_t seed = 1;
    (void)state;
    assert_true(pfq_kept_open(&k, PAGES));
    for (int turn = 0; turn < 20000; turn++) {
        char kinds[DEEP + 1] = {0};
        int32_t at[DEEP], n, there = 0;
        seed = seed * 1664525 + 1013904223;
        const int deep = 1 + (int)(seed >> 28) % DEEP;
        for (int i = 0; i < deep; i++) {
            kinds[i] = (char)('a' + (seed >> (8 + 2 * i)) % 3);
        }
        for (int i = 0; i < PAGES; i++) {
            const int32_t len = (int32_t)strlen(held[i]);
            there = len > there && strncmp(held[i], kinds, (size_t)len) == 0 ? len : there;
        }
        const int32_t found = put(&k, kinds, &n, at);
        assert_int_equal(found, there);
        for (int i = 0; i < n; i++) {
            if (i < found) {
                assert_int_equal(strlen(held[at[i]]), i + 1);
                assert_memory_equal(held[at[i]], kinds, (size_t)i + 1);
            } else {
                memset(held[at[i]], 0, sizeof held[at[i]]);
                memcpy(held[at[i]], kinds, (size_t)i + 1);
            }
        }
    }
    assert_true(k.used == PAGES && k.dropped > 0);
    pfq_kept_close(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_chains),
                                       cmocka_unit_test(test_what_goes),
                                       cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
