/* A pool of threads that all run the same function (SPMD), and the barrier inside it.
 *
 * The calling thread takes part as tid 0; the others wait between jobs. Waiting spins for a bounded
 * time, because phases follow each other within microseconds, and then sleeps in the kernel,
 * because hosts are shared: with more threads than cores the spin is cut short, so that the one
 * thread everybody waits for gets the core.
 *
 * Threading: start, run and stop are called by one thread. Nothing is allocated after start.
 */
#ifndef PFQC_RUNTIME_POOL_H
#define PFQC_RUNTIME_POOL_H

#include "runtime/abi.h"
#include "runtime/image.h"

#define PFQ_MAX_THREADS 1024

typedef struct PfqPool PfqPool;
typedef void PfqJob(void *arg, int tid, int nt);

/* Cores this process may keep busy, >= 1: the scheduler's affinity mask, cut to the container's CPU
 * quota if it has one (spinning threads beyond it would use up the quota waiting). */
int pfq_usable_cores(void);

/* 1 <= nt <= PFQ_MAX_THREADS. NULL when memory or threads cannot be had. */
PfqPool *pfq_pool_start(int nt, PfqErr *err);
void pfq_pool_run(PfqPool *p, PfqJob *job, void *arg);       /* returns when all threads are done */
void pfq_pool_run_alone(PfqPool *p, PfqJob *job, void *arg); /* only the caller, nt = 1 */
void pfq_pool_stop(PfqPool *p);                              /* NULL is allowed */

int pfq_pool_threads(const PfqPool *p);
PfqBarrier *pfq_pool_barrier(PfqPool *p); /* for pfq_barrier() inside a job */

#endif
