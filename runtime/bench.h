/* What bench.c (the command, and CPUs) and bench_cuda.c (GPUs) share. Internal to those two. */
#ifndef PFQC_RUNTIME_BENCH_H
#define PFQC_RUNTIME_BENCH_H

#include "runtime/cli.h"

/* Measures and prints what the options ask for on the engine's GPU. tokens: as many as the longest
 * test, or the context in front of it, needs. */
bool pfq_bench_cuda(PfqCli *c, const int32_t *tokens);

#endif
