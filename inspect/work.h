/* What each kernel does for a token or a chunk, what a machine needs for it at least, and what it
 * took where that was measured. */
#ifndef PFQC_INSPECT_WORK_H
#define PFQC_INSPECT_WORK_H

#include "inspect/plan.h"

/* What a phase makes of a kernel. */
typedef struct Work {
    i64 calls;
    double flops, bytes; /* of all calls */
    double us;           /* that they took; 0: not measured */
    i64 one;             /* operations of a call and row; attention: and key */
    i64 step;            /* of its first call */
    VEC(i64) layers;
} Work;

struct Times;

/* [kernels] `rows` rows behind `keys` keys, by the calls of @decode, whose places are of one row. t
 * may be NULL; if it is not, each row is a sequence, with keys of its own. */
Work *work_of(Arena *a, const Plan *p, const struct Times *t, double rows, double keys);

/* Rows of what was measured, or 1. */
double work_rows(const struct Times *t);

/* Keys that a token is thought to have before it: those of the measurement, or 1024, or what the
 * context has. */
double work_keys(const Plan *p, const struct Times *t);

/* Memory and arithmetic take equally long where ops / bytes are done for each byte: the ridge. */
typedef struct Machine {
    const char *target, *name;
    double ops, bytes; /* a second; ops 0: not known */
} Machine;
extern const Machine work_machine[]; /* ends with a NULL target */

/* What the roof is measured by: the data sheet of the first target that is known, or the plain read
 * that was measured. False: neither. */
bool work_roof(const Plan *p, const struct Times *t, Machine *out);
double work_least_us(const Machine *m, double flops, double bytes);

/* The same of all kernels together (roof NULL: 0), and what was measured of them, or of the one. */
double work_least_of_all(const Plan *p, const Work *w, const Machine *roof);
double work_took(const Plan *p, const Work *w, const struct Times *t);

/* ---- times.c ---- */

/* From a timeline that a program wrote (--trace). */
typedef struct Times {
    double *us; /* [n] median of the calls that do what @decode's of this step number do; 0: none */
    u32 n;
    double rows;  /* of each: tokens, each of a sequence of its own */
    double whole; /* of them by one kernel, whose parts no timeline tells; 0: by many */
    double keys;  /* before the tokens, on average */
    double read;  /* bytes a second of a plain read by the same threads; 0: not measured */
} Times;

#endif
