/* A timeline of the kernel calls of CPU threads, or of a GPU's, for Perfetto or Chrome's
 * about:tracing (JSON, the "trace event format": complete events "X", times in microseconds).
 *
 * One track per thread, or one for the GPU; on it a slice per phase (a chunk of prefill, a block of
 * logits, a token, a token of each sequence of a batch), and in it one per call, with the step and
 * the ids of the ops that it computes as the IR has them (pfq_steps, abi.h); a batch's steps are
 * those of prefill and logits. Gaps are waiting: barriers, and what the caller does
 * between phases. On CPUs recording goes through a table of kernels of its own, so that programs
 * without --trace pay nothing; a call costs some 50 ns more. A GPU's calls are launched one by one,
 * between events (cuda_time.c), and tokens are chosen on the host: a call costs some microseconds
 * more. Every track writes to its own array, allocated at start; what does not fit is counted and
 * left out.
 */
#ifndef PFQC_RUNTIME_TRACE_H
#define PFQC_RUNTIME_TRACE_H

#include "runtime/abi.h"
#include "runtime/image.h"

typedef struct PfqTrace PfqTrace;

/* Opens the file. Of the two, the code that runs: a CPU's on so many threads, or a GPU's (threads
 * is 1). NULL and a sentence on failure. */
PfqTrace *pfq_trace_start(const char *path, const PfqModel *m, const PfqVariant *cpu,
                          const PfqCudaCode *gpu, int threads, PfqErr *err);

/* By each thread around its phase; the kernels between the two are called through the table that
 * begin returns. */
PfqKernel *const *pfq_trace_begin(PfqTrace *t, int tid, PfqPhaseId phase, const PfqExec *x);
void pfq_trace_end(PfqTrace *t, int tid);

/* A call of a GPU's phase for rows at positions from pos on, -1: the phase itself; in seconds of
 * pfq_now. */
void pfq_trace_gpu(PfqTrace *t, PfqCudaPhaseId phase, int32_t call, int32_t rows, int32_t pos,
                   double start, double end);

/* What a plain read of memory by all threads reached, for those who compare calls with it. */
void pfq_trace_read(PfqTrace *t, double gb_s);

/* Writes what was recorded, unless the command failed (`ok`), and frees. Returns ok, or false if
 * the file could not be written. *lost: slices that did not fit. */
bool pfq_trace_finish(PfqTrace *t, bool ok, int64_t *lost, PfqErr *err);

#endif
