#include "codegen/codegen_int.h"

#include <pthread.h>
#include <stdatomic.h>

typedef struct Work {
    bool (*job)(void *arg, u32 i);
    void *arg;
    u32 n;
    atomic_uint next;
    atomic_bool stop;
} Work;

static void *work(void *arg)
{
    Work *w = arg;
    while (!w->stop) {
        const u32 i = atomic_fetch_add(&w->next, 1);
        if (i >= w->n) break;
        if (!w->job(w->arg, i)) w->stop = true;
    }
    return NULL;
}

void cg_parallel(u32 n, u32 threads, bool (*job)(void *arg, u32 i), void *arg)
{
    enum { MAX_THREADS = 64 };
    Work w = {.job = job, .arg = arg, .n = n};
    pthread_t tid[MAX_THREADS];
    u32 started = 0;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 16u << 20); /* compilers recurse */
    while (started < MAX_THREADS && started + 1 < threads && started + 1 < n) {
        if (pthread_create(&tid[started], &attr, work, &w) != 0) break;
        started++;
    }
    pthread_attr_destroy(&attr);
    work(&w);
    for (u32 i = 0; i < started; i++)
        pthread_join(tid[i], NULL);
}
