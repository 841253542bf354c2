/* Team or alone. Contract: pace.h. */
#include "runtime/pace.h"

bool pfq_pace_alone(const PfqPace *p, int threads)
{
    return threads > 1 && threads <= PFQ_PACE_TEAM && p->team > 0 && (p->alone <= 0 || p->left > 0);
}

/* A moving average in which one outlier counts no more than twice `limit`. */
static double average(double old, double now, double limit)
{
    now = limit > 0 && now > 2 * limit ? 2 * limit : now;
    return old > 0 ? 0.75 * old + 0.25 * now : now;
}

void pfq_pace_learn(PfqPace *p, bool alone, double seconds)
{
    if (alone) {
        p->alone = average(p->alone, seconds, p->alone);
        if (p->left > 0 && --p->left == 0) {
            p->team = 0.99 * p->alone; /* the next token decides */
        }
        return;
    }
    p->team = average(p->team, seconds, p->alone);
    if (p->alone > 0 && p->team > p->alone) {
        p->stretch = p->stretch == 0                     ? PFQ_PACE_STRETCH
                     : p->stretch * 2 < PFQ_PACE_LONGEST ? p->stretch * 2
                                                         : PFQ_PACE_LONGEST;
        p->left = p->stretch;
    } else if (p->team < 0.9 * p->alone) {
        p->stretch = 0;
    }
}
