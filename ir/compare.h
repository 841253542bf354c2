/* How far apart two computations of the same logits are: used by --verify-numerics around every
 * pass, and by tests.
 *
 * A pass changes its module in place, so the logits before it are evaluated, kept, and compared
 * with those after: double *ref = compare_logits(d, m, tokens, n, false, &a, &count);  ... pass ...
 * got = compare_logits(...); Compare c = compare_values(ref, got, count); Evaluation is in f64 with
 * fresh states and an Eval of its own. Errors: NULL after a diagnostic.
 */
#ifndef PFQC_IR_COMPARE_H
#define PFQC_IR_COMPARE_H

#include "ir/eval.h"

typedef struct Compare {
    double max_abs; /* largest |got - ref|; infinite when a value is not finite or infinite on one
                       side only */
    double rel;     /* sqrt(sum (got - ref)^2 / sum ref^2); 0 for equal values */
    double sqnr_db; /* -20 log10(rel); infinite for equal values */
    i64 at;         /* index of the largest difference, 0 if all are equal */
} Compare;

/* Logits [n, vocab] of all tokens at positions 0.., count = n * vocab, in the arena. `decode` runs
 * @decode token by token instead of @main or @prefill. Opens the module's files if that has not
 * been done. */
double *compare_logits(Diag *d, Module *m, const i32 *tokens, i64 n, bool decode, Arena *a,
                       i64 *count);
Compare compare_values(const double *ref, const double *got, i64 n);

#endif
