/* Decides, token by token (of batches: step by step), whether decoding uses all threads of a small
 * team or the caller's alone.
 *
 * Beside other programs a team waits at each of some hundred barriers for its slowest member, and
 * two threads can be slower than one by far. Kernels give the same bits for any number of threads,
 * so the faster way is simply measured: the second token runs alone, to know what that costs; when
 * the team's recent time exceeds it, a stretch of tokens runs alone, then the team is tried again;
 * each failed try doubles the next stretch. Teams of more than PFQ_PACE_TEAM threads always stay
 * together.
 */
#ifndef PFQC_RUNTIME_PACE_H
#define PFQC_RUNTIME_PACE_H

#include <stdbool.h>
#include <stdint.h>

enum { PFQ_PACE_TEAM = 4, PFQ_PACE_STRETCH = 16, PFQ_PACE_LONGEST = 128 };

typedef struct PfqPace { /* zero to begin */
    double team, alone;  /* recent seconds per token, 0: not known */
    int32_t left;        /* tokens still to run alone */
    int32_t stretch;     /* the last stretch; 0: the team has kept up since */
} PfqPace;

bool pfq_pace_alone(const PfqPace *p, int threads); /* how the next token is to run */
void pfq_pace_learn(PfqPace *p, bool alone, double seconds);

#endif
