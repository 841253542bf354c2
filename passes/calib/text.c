/* How much text a calibrating pass reads, and where it reports its progress. */
#include "passes/calib/calib.h"

CalibBudget calib_budget(const PassCx *cx, CalibUse use)
{
    static const CalibBudget budget[2][3] = {
        [EFFORT_FAST] = {{64, 512}, {4, 512}, {64, 512}},
        [EFFORT_FULL] = {{64, 512}, {8, 1024}, {128, 2048}},
    };
    const CalibSource *s = cx->calib;
    CalibBudget b = budget[s->effort][use];
    bool most = use == CALIB_SEARCH; /* a search reads no more than what was measured */
    if (s->samples && !(most && b.sequences < s->samples)) b.sequences = s->samples;
    if (s->length && !(most && b.length < s->length)) b.length = s->length;
    return b;
}

void calib_progress(const PassCx *cx, const char *what, u64 done, u64 total)
{
    if (cx->calib->progress) cx->calib->progress(cx->calib->progress_arg, what, done, total);
}
