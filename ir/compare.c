#include "ir/compare.h"

#include <math.h>

double *compare_logits(Diag *d, Module *m, const i32 *tokens, i64 n, bool decode, Arena *a,
                       i64 *count)
{
    if (!eval_open(d, m)) return NULL;
    Eval *e = eval_new(d, m, true);
    eval_set_context(e, n);
    Tensor t;
    double *out = NULL;
    if (eval_model(e, tokens, n, 0, true, decode, &t)) {
        *count = t.dim[0] * t.dim[1];
        out = NEWN(a, double, *count);
        memcpy(out, t.d, (size_t)*count * sizeof *out);
    }
    eval_free(e);
    return out;
}

Compare compare_values(const double *ref, const double *got, i64 n)
{
    Compare c = {0};
    double num = 0, den = 0;
    for (i64 i = 0; i < n; i++) {
        if (memcmp(&ref[i], &got[i], sizeof *ref) == 0) {
            den += isfinite(ref[i]) ? ref[i] * ref[i] : 0;
            continue;
        }
        double diff = isfinite(ref[i]) && isfinite(got[i]) ? fabs(got[i] - ref[i]) : INFINITY;
        if (diff > c.max_abs) {
            c.max_abs = diff;
            c.at = i;
        }
        num += diff * diff;
        den += isfinite(ref[i]) ? ref[i] * ref[i] : 0;
    }
    c.rel = num > 0 ? sqrt(num / den)
                    : 0; /* infinite when the reference is zero and the other is not */
    c.sqnr_db = -20 * log10(c.rel);
    return c;
}
