/* How a kernel begins that may start before the launch in front of it has ended (PFQ_CUDA_OVERLAP).
 *
 * It lets the next launch start at once, before it waits for the one before it: what that may do
 * until its own wait depends on nothing that kernels write. So projections fetch weights while
 * attention or a norm in front of them runs.
 */
#ifndef PFQC_CODEGEN_CUDA_OVERLAP_CUH
#define PFQC_CODEGEN_CUDA_OVERLAP_CUH

#include "hopper.cuh"

PFQ_CONST(int32_t, c_overlap);

#if defined PFQ_SIMT || __CUDA_ARCH__ >= 900
enum { PFQ_CAN_OVERLAP = 1 };
#else
enum { PFQ_CAN_OVERLAP = 0 };
#endif

/* By all threads: first; and before they write global memory, or read what kernels of the same
 * phase write. Between the two a kernel reads its constants. */
PFQ_DEVICE void pfq_begin()
{
    if (PFQ_CAN_OVERLAP && c_overlap) pfq_let_next_start();
}
PFQ_DEVICE void pfq_follow()
{
    if (PFQ_CAN_OVERLAP && c_overlap) pfq_wait_previous();
}

#endif
