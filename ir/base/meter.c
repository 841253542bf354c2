#include "ir/base/meter.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static _Atomic u64 peak;

static void sample(void)
{
    /* statm: size resident shared ...; resident - shared is the anonymous part, in pages */
    char buf[128];
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    ssize_t n = read(fd, buf, sizeof buf - 1);
    close(fd);
    if (n <= 0) return;
    buf[n] = 0;
    unsigned long long size, resident, shared;
    if (sscanf(buf, "%llu %llu %llu", &size, &resident, &shared) != 3 || resident < shared) return;
    u64 bytes = (resident - shared) * (u64)sysconf(_SC_PAGESIZE), old = atomic_load(&peak);
    while (bytes > old && !atomic_compare_exchange_weak(&peak, &old, bytes)) {
    }
}

static void *sampler(void *arg)
{
    (void)arg;
    for (;;) {
        sample();
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    return NULL;
}

void meter_start(void)
{
    static bool started;
    pthread_t t;
    if (started) return;
    started = true;
    sample();
    if (pthread_create(&t, NULL, sampler, NULL) == 0) pthread_detach(t);
}

u64 meter_peak_anon_bytes(void)
{
    sample();
    return atomic_load(&peak);
}

u32 cpu_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    int n = CPU_COUNT(&set);
    return n > 0 ? (u32)n : 1;
}
