/* WIDE: a function of plain loops, compiled for AVX2 as well; the loader chooses. For the loops
 * that calibration spends its time in: pfqc itself runs on any x86-64. */
#ifndef PFQC_PASSES_WIDE_H
#define PFQC_PASSES_WIDE_H

#include "ir/base/arena.h"

/* Sanitizers instrument what the loader calls to choose a clone, before they are set up. */
#if defined(__has_feature)
#define WIDE_SANITIZED (__has_feature(address_sanitizer))
#elif defined(__SANITIZE_ADDRESS__)
#define WIDE_SANITIZED 1
#else
#define WIDE_SANITIZED 0
#endif
#if defined(__x86_64__) && !WIDE_SANITIZED
#define WIDE __attribute__((target_clones("avx2", "default")))
#else
#define WIDE
#endif

/* The largest magnitude; NaN if there is one; 0 of none. */
float wide_absmax(const float *x, i64 n);
/* top[i] = the larger of top[i] and |x[i]|; a NaN of x is passed over. */
void wide_raise(const float *x, i64 n, float *top);

#endif
