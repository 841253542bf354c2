/* The pool and its barrier with one to eight threads, on any number of cores. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdatomic.h>
#include <string.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(barrier_orders_memory),
        cmocka_unit_test(short_jobs_all_run),
        cmocka_unit_test(pools_start_and_stop),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
