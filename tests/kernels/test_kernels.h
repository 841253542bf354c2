/* What the files of test_kernels share: test_kernels.c runs all, test_kv.c holds the tests of
 * quantised heads, caches and attention. */
#ifndef PFQC_TESTS_TEST_KERNELS_H
#define PFQC_TESTS_TEST_KERNELS_H

#include "tests/kernels/kernel_test.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

extern KtLib lib;
extern int cases;

/* Whether the next case of kernel `name` runs. Not for the variants "cuda" and "gpu" if the kernel has no CUDA template yet,
 * which is said once; and since emulation is slow, a fixed quarter of the cases of linears and attention, unless PFQ_ALL is
 * set in the environment. "gpu" runs that quarter with PFQ_QUARTER, and a share of what
 * is left with PFQ_SHARD. */
bool tested(const char *name);
/* Runs kernel `name` for nt threads in sequence. */
void run(const char *name, PfqArgs *a, int nt, int64_t K, int64_t D);
void fail(const char *what, const char *detail);
/* |got - want| <= tol * (1 + bound), where bound is the size of the terms summed. */
void compare(const char *what, const float *got, const double *want, size_t n, double tol);
/* Integers of x / scale: equal, or off by one where x / scale is within 1e-4 of a tie. want: x /
 * scale. */
void compare_ints(const char *what, const int *got, const double *want, size_t n, int lo, int hi);

float *random_floats(size_t n);
/* A cache or output full of a pattern that must survive where nothing is written. */
void *filled(size_t bytes);

void test_kv(void);

#endif
