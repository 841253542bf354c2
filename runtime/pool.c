/* Thread pool and barrier. Contract: pool.h and abi.h. */
#include "runtime/pool.h"

#include <fcntl.h>
#include <immintrin.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    /* Longer than the threads of a decode step wait for each other (steps of 5 to 25 us, shares
     * that differ by some), or barriers sleep and pay for being woken. SmolLM2 w4a16, two threads
     * on two quiet cores, median tok/s of 7 interleaved runs: 10 us 256, 25 us 280, 60 us 296. A
     * thread that spins long looks greedy to the scheduler when other programs want the core: at a
     * load of 4, 10 us gave 214 and 50 us 192; at 10 and more, shorter was better still, and there
     * pace.h decodes on one thread. */
    SPIN_NS = 50000,
    SPIN_CROWDED_NS = 500 /* more threads than cores: the awaited thread may need ours */
};

/* A counter that threads wait on until it moves. It has a cache line of its own: waiters read it in
 * a loop. */
typedef struct Gate {
    _Alignas(64) _Atomic uint32_t value;
    _Atomic uint32_t sleepers;
} Gate;

struct PfqBarrier {
    Gate gate;
    _Alignas(64) _Atomic uint32_t arrived;
    _Alignas(64) uint32_t nt;
    uint32_t spins;
};

typedef struct Worker {
    PfqPool *pool;
    pthread_t thread;
    int tid;
} Worker;

struct PfqPool {
    PfqBarrier barrier; /* inside jobs */
    PfqBarrier done;    /* end of a job */
    Gate start;
    PfqJob *job; /* NULL: stop */
    void *arg;
    int nt, started;
    Worker worker[]; /* [nt - 1] */
};

static void futex_wait(_Atomic uint32_t *word, uint32_t old)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
}

static void gate_open(Gate *g)
{
    /* Both this and the waiter's increment of sleepers are sequentially consistent: either the
     * waiter sees the new value, or we see the sleeper. */
    atomic_fetch_add(&g->value, 1);
    if (atomic_load(&g->sleepers)) {
        syscall(SYS_futex, &g->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
    }
}

static void gate_wait(Gate *g, uint32_t old, uint32_t spins)
{
    for (uint32_t i = 0; i < spins; i++) {
        if (atomic_load_explicit(&g->value, memory_order_acquire) != old) {
            return;
        }
        _mm_pause();
    }
    /* No sched_yield before sleeping: on Linux 6.18 it cost up to 80 ms a step beside a busy
     * program. */
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&g->value) == old) {
        futex_wait(&g->value, old); /* EAGAIN and EINTR: look again */
    }
    atomic_fetch_sub(&g->sleepers, 1);
}

void pfq_barrier(PfqBarrier *b)
{
    if (b->nt == 1) {
        return;
    }
    uint32_t old = atomic_load_explicit(&b->gate.value, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&b->arrived, 1, memory_order_acq_rel) + 1 == b->nt) {
        atomic_store_explicit(&b->arrived, 0, memory_order_relaxed);
        gate_open(&b->gate);
    } else {
        gate_wait(&b->gate, old, b->spins);
    }
}

/* cgroup v2's "QUOTA PERIOD" in microseconds as a number of cores, rounded up; 0 when there is no
 * limit. */
static long quota_cores(void)
{
    char text[64];
    int fd = open("/sys/fs/cgroup/cpu.max", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    if (fd >= 0) {
        close(fd);
    }
    text[n > 0 ? n : 0] = 0;
    char *end;
    long quota = strtol(text, &end, 10), period = strtol(end, NULL, 10);
    return quota > 0 && period > 0 ? (quota - 1) / period + 1 : 0;
}

int pfq_usable_cores(void)
{
    cpu_set_t set;
    long n = sysconf(_SC_NPROCESSORS_ONLN), quota = quota_cores();
    if (sched_getaffinity(0, sizeof set, &set) ==
        0) { /* fails when the mask does not fit: over 1024 CPUs */
        n = CPU_COUNT(&set);
    }
    n = quota > 0 && quota < n ? quota : n;
    return n < 1 ? 1 : n > PFQ_MAX_THREADS ? PFQ_MAX_THREADS : (int)n;
}

/* How many pauses last ns. A pause takes from 10 ns to 150 ns, depending on the CPU. */
static uint32_t pauses_for(int64_t ns)
{
    enum { PROBE = 256 };
    int64_t best = INT64_MAX;
    for (int round = 0; round < 3; round++) {
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        for (int i = 0; i < PROBE; i++) {
            _mm_pause();
        }
        clock_gettime(CLOCK_MONOTONIC, &b);
        int64_t t = (b.tv_sec - a.tv_sec) * 1000000000 + (b.tv_nsec - a.tv_nsec);
        best = t < best ? t : best;
    }
    return (uint32_t)(ns * PROBE / (best < 1 ? 1 : best)) + 1;
}

static void *worker_main(void *arg)
{
    Worker *w = arg;
    PfqPool *p = w->pool;
    for (uint32_t turn = 0;; turn++) {
        gate_wait(&p->start, turn, p->done.spins);
        if (!p->job) {
            return NULL;
        }
        p->job(p->arg, w->tid, p->nt);
        pfq_barrier(&p->done);
    }
}

PfqPool *pfq_pool_start(int nt, PfqErr *err)
{
    size_t bytes = sizeof(PfqPool) + (size_t)nt * sizeof(Worker);
    PfqPool *p = NULL;
    if (posix_memalign((void **)&p, 64, bytes) != 0) {
        pfq_fail(err, "out of memory for %d threads", nt);
        return NULL;
    }
    memset(p, 0, bytes);
    p->nt = nt;
    uint32_t spins = nt == 1 ? 0 : pauses_for(nt <= pfq_usable_cores() ? SPIN_NS : SPIN_CROWDED_NS);
    p->barrier.nt = p->done.nt = (uint32_t)nt;
    p->barrier.spins = p->done.spins = spins;
    for (int i = 1; i < nt; i++) {
        Worker *w = &p->worker[i - 1];
        *w = (Worker){.pool = p, .tid = i};
        int rc = pthread_create(&w->thread, NULL, worker_main, w);
        if (rc != 0) {
            pfq_fail(err, "cannot start thread %d of %d: %s", i + 1, nt, strerror(rc));
            pfq_pool_stop(p);
            return NULL;
        }
        p->started++;
    }
    return p;
}

void pfq_pool_run(PfqPool *p, PfqJob *job, void *arg)
{
    if (p->nt == 1) {
        job(arg, 0, 1);
        return;
    }
    p->job = job;
    p->arg = arg;
    gate_open(&p->start);
    job(arg, 0, p->nt);
    pfq_barrier(&p->done);
}

void pfq_pool_run_alone(PfqPool *p, PfqJob *job, void *arg)
{
    /* The workers wait at the start gate and read nothing. */
    p->barrier.nt = 1;
    job(arg, 0, 1);
    p->barrier.nt = (uint32_t)p->nt;
}

void pfq_pool_stop(PfqPool *p)
{
    if (!p) {
        return;
    }
    p->job = NULL;
    gate_open(&p->start);
    for (int i = 0; i < p->started; i++) {
        pthread_join(p->worker[i].thread, NULL);
    }
    free(p);
}

int pfq_pool_threads(const PfqPool *p)
{
    return p->nt;
}

PfqBarrier *pfq_pool_barrier(PfqPool *p)
{
    return &p->barrier;
}
