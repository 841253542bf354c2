/* Calibration in harnesses: two sequences of eight random tokens, results in a folder of temporary
 * files, and only modules that are computed in an instant. */
#ifndef PFQC_TESTS_FUZZ_CALIB_H
#define PFQC_TESTS_FUZZ_CALIB_H

#include "passes/passes.h"

static const CalibSource fuzz_calib = {
    .samples = 2, .length = 8, .bos = -1, .eos = -1, .threads = 2, .cache_dir = "/tmp/pfqc-fuzz"};

/* May this pipeline run on the module? */
static inline bool fuzz_calib_ok(const Module *m, const Pipeline *p)
{
    enum { MAX_ELEMS = 1 << 16 };
    for (u32 v = 1; pipeline_calibrates(p) && v < m->values.n; v++) {
        i64 n = 1;
        const Type *t = type_of(m, v);
        for (u32 i = 0; i < t->rank; i++)
            if (__builtin_mul_overflow(n, t->dim[i] < 0 ? 8 : t->dim[i], &n)) return false;
        if (n > MAX_ELEMS) return false;
    }
    return true;
}

#endif
