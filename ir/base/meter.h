/* Time and memory of this process: wall clock, and the largest anonymous memory seen (RssAnon:
 * heap, stacks and private copies, not mapped files), sampled every few milliseconds by a thread.
 */
#ifndef PFQC_IR_BASE_METER_H
#define PFQC_IR_BASE_METER_H

#include "ir/base/arena.h"

double now_seconds(void); /* monotonic */

void meter_start(void);          /* starts the sampling thread; a second call does nothing */
u64 meter_peak_anon_bytes(void); /* samples once more, so it is never 0 on Linux */

/* Usable CPUs of this process (affinity mask), at least 1. */
u32 cpu_count(void);

#endif
