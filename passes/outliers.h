/* How large each token is beside the median of its sequence, by layer, as `prefix` reports it: a
 * histogram over all tokens, and the largest of them by name. Internal to passes/.
 *
 * Facts of the module, by WHEN ("before" or "after" the prefix) and layer:
 *   outlier.WHEN.LAYER         the largest ratio
 *   outlier_bins.WHEN.LAYER    OUTLIER_BINS counts of tokens; bin i holds ratios from
 *                              2^((i - OUTLIER_ONE) / 2) on, the first and last also what is beyond
 *   outlier_tokens.WHEN.LAYER  "RATIO ID SEQUENCE POSITION" of at most OUTLIER_TOP, largest first
 */
#ifndef PFQC_PASSES_OUTLIERS_H
#define PFQC_PASSES_OUTLIERS_H

#include "passes/calib/calib.h"
#include "passes/quantisers.h"

enum {
    OUTLIER_BINS = 40,
    OUTLIER_ONE = 8, /* the bin that begins at 1 */
    OUTLIER_TOP = 8,
};

typedef struct OutlierToken {
    float ratio; /* 0: none */
    i32 id, sequence, position;
} OutlierToken;

typedef struct Outliers {
    i64 layers, sequences;
    i32 *bins;         /* [layers, sequences, OUTLIER_BINS] */
    OutlierToken *top; /* [layers, sequences, OUTLIER_TOP] */
} Outliers;

Outliers outliers_new(Arena *a, i64 layers, i64 sequences);
/* Counts a token of a sequence below o->sequences; sequences may be on threads of their own. */
void outliers_add(Outliers *o, i64 layer, OutlierToken t);
/* Puts the sequences together as arrays WHEN.bins, WHEN.ratio and WHEN.token. */
void outliers_put(PassCx *cx, CalibCache *cache, const char *when, const Outliers *o);
/* Makes facts of the arrays; false without a diagnostic where there are none of that many layers.
 */
bool outliers_report(PassCx *cx, CalibCache *cache, const char *when, const Sites *down);

#endif
