/* --verify-numerics: the logits of a few tokens in f64, before and after each pass. Internal to
 * passes/. */
#ifndef PFQC_PASSES_NUMERICS_H
#define PFQC_PASSES_NUMERICS_H

#include "passes/pass.h"

typedef struct Numerics {
    Arena a;        /* holds logits */
    double *logits; /* [n] after the last pass, n = tokens x vocab */
    i64 n;
} Numerics;

bool numerics_start(Numerics *s, Diag *d, Module *m);
/* Evaluates again and compares. An exact pass may change logits by rounding only, else
 * E_PASS_NUMERICS names it; for a quantising pass the signal to noise ratio goes to stderr. */
bool numerics_check(Numerics *s, const PassCx *cx, const PassInfo *info);
void numerics_end(Numerics *s);

#endif
