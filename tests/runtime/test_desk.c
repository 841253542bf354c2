/* What waits to be read: which desk a request comes to, and how much waits there. */
#include "runtime/serve.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static bool put(PfqServer *s, PfqAsk *a, size_t n)
{
    *a = (PfqAsk){.n = n};
    return pfq_desk_put(s, a);
}

/* Desks without threads: nothing is read. */
static void open_desks(PfqServer *s)
{
    for (int i = 0; i < 2; i++) {
        s->desk[i] = (PfqDesk){.server = s, .large = i == 1};
        s->desk[i].last = &s->desk[i].first;
        pthread_mutex_init(&s->desk[i].lock, NULL);
        pthread_cond_init(&s->desk[i].news, NULL);
    }
}

static void sizes_and_bounds(void **unused)
{
    (void)unused;
    static PfqServer s;
    static PfqAsk ask[8], small[PFQ_DESK_BYTES / PFQ_DESK_SMALL + 2];
    const size_t most = PFQ_DESK_BYTES / PFQ_DESK_SMALL;
    open_desks(&s);
    assert_true(put(&s, &ask[0], 0));
    assert_true(put(&s, &ask[1], PFQ_DESK_SMALL));
    assert_true(put(&s, &ask[2], PFQ_DESK_SMALL + 1));
    assert_ptr_equal(s.desk[0].first, &ask[0]);
    assert_ptr_equal(ask[0].next, &ask[1]);
    assert_ptr_equal(s.desk[1].first, &ask[2]);
    assert_true(put(&s, &ask[3], PFQ_DESK_BYTES - PFQ_DESK_SMALL - 2));
    assert_false(put(&s, &ask[4], PFQ_DESK_SMALL + 2)); /* one byte is left */
    assert_ptr_equal(ask[3].next, NULL);
    for (size_t i = 0; i < most - 1; i++) {
        assert_true(put(&s, &small[i], PFQ_DESK_SMALL));
    }
    assert_false(put(&s, &small[most], 1));
    assert_true(put(&s, &small[most + 1], 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sizes_and_bounds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
