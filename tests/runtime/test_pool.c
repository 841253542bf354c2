/* The pool and its barrier with one to eight threads, on any number of cores. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdatomic.h>
#include <string.h>

#include "runtime/pace.h"
#include "runtime/pool.h"

enum { MAX = 8, STEPS = 300 };

typedef struct Shared {
    PfqBarrier *barrier;
    int32_t cell[2][MAX]; /* plain memory: the barrier must order it */
    _Atomic int wrong, ran;
} Shared;

/* Each step every thread reads what all wrote in the step before. */
static void neighbours(void *arg, int tid, int nt)
{
    Shared *s = arg;
    s->ran++;
    for (int step = 0; step < STEPS; step++) {
        int32_t *now = s->cell[step % 2], *before = s->cell[(step + 1) % 2];
        for (int i = 0; i < nt && step > 0; i++) {
            s->wrong += before[i] != (step - 1) * 100 + i;
        }
        now[tid] = step * 100 + tid;
        pfq_barrier(s->barrier);
    }
}

static void barrier_orders_memory(void **state)
{
    (void)state;
    PfqErr err;
    for (int nt = 1; nt <= MAX; nt++) {
        PfqPool *p = pfq_pool_start(nt, &err);
        assert_non_null(p);
        assert_int_equal(pfq_pool_threads(p), nt);
        for (int job = 0; job < 20; job++) {
            Shared s = {.barrier = pfq_pool_barrier(p)};
            pfq_pool_run(p, neighbours, &s);
            assert_int_equal(s.wrong, 0);
            assert_int_equal(s.ran, nt);
        }
        pfq_pool_stop(p);
    }
}

static void add_tid(void *arg, int tid, int nt)
{
    int64_t *sum = arg;
    sum[tid * 8] += tid + nt;
}

static void short_jobs_all_run(void **state)
{
    (void)state;
    PfqErr err;
    for (int nt = 1; nt <= 4; nt++) {
        int64_t sum[4 * 8] = {0};
        PfqPool *p = pfq_pool_start(nt, &err);
        for (int job = 0; job < 2000; job++) {
            pfq_pool_run(p, add_tid, sum);
        }
        pfq_pool_stop(p);
        for (int t = 0; t < nt; t++) {
            assert_int_equal(sum[t * 8], 2000 * (t + nt));
        }
    }
}

static void pools_start_and_stop(void **state)
{
    (void)state;
    PfqErr err;
    assert_true(pfq_usable_cores() >= 1);
    for (int i = 0; i < 50; i++) {
        pfq_pool_stop(pfq_pool_start(1 + i % 5, &err));
    }
    pfq_pool_stop(NULL);
}

/* Tokens run alone and seconds spent over n tokens, when a token takes `team` or `alone` seconds.
 */
static int32_t decode(PfqPace *p, int32_t n, double team, double alone)
{
    int32_t by_itself = 0;
    for (int32_t i = 0; i < n; i++) {
        bool a = pfq_pace_alone(p, 2);
        pfq_pace_learn(p, a, a ? alone : team);
        by_itself += a;
    }
    return by_itself;
}

static void pace_takes_the_faster_way(void **state)
{
    (void)state;
    PfqPace p = {0};
    assert_int_equal(decode(&p, 1000, 5, 8), 1); /* quiet: one token to know */
    assert_int_equal(decode(&p, 1, 500, 8), 0);  /* one hiccup changes nothing */
    assert_int_equal(decode(&p, 100, 5, 8), 0);
    int32_t n = decode(&p, 1000, 30, 9); /* crowded: alone, but for a try now and then */
    assert_true(n > 970 && n < 1000);
    n = decode(&p, 200, 5, 8); /* quiet again: back within a stretch */
    assert_true(n <= PFQ_PACE_LONGEST);
    assert_int_equal(decode(&p, 100, 5, 8), 0);
    decode(&p, 200, 40, 50); /* slower both ways: the team still wins */
    assert_int_equal(decode(&p, 200, 40, 50), 0);
    assert_false(pfq_pace_alone(&p, 1));
    p.left = 5;
    assert_true(pfq_pace_alone(&p, 2) && !pfq_pace_alone(&p, PFQ_PACE_TEAM + 1));
}

static void alone_is_without_barriers(void **state)
{
    (void)state;
    PfqErr err;
    PfqPool *p = pfq_pool_start(3, &err);
    for (int i = 0; i < 50; i++) {
        Shared s = {.barrier = pfq_pool_barrier(p)};
        pfq_pool_run_alone(p, neighbours, &s);
        assert_int_equal(s.ran, 1);
        pfq_pool_run(p, neighbours, &s);
        assert_int_equal(s.ran, 4);
        assert_int_equal(s.wrong, 0);
    }
    pfq_pool_stop(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(barrier_orders_memory),     cmocka_unit_test(short_jobs_all_run),
        cmocka_unit_test(pools_start_and_stop),      cmocka_unit_test(pace_takes_the_faster_way),
        cmocka_unit_test(alone_is_without_barriers),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
