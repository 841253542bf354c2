/* Integers of a weight for the inputs that it meets: round to nearest, clip search, GPTQ.
 *
 * A weight w [n, k] becomes integers q with one scale per row, or per group of columns of a row,
 * and a minimum beside it in asymmetric formats: w^ = q * s + m. What matters of the error e = w -
 * w^ is what it does to the weight's inputs: sum_t |e x_t|^2 = sum over rows of e H e^T with the
 * Gram matrix H = sum_t x_t x_t^T [k, k].
 *
 * GPTQ (arXiv:2210.17323) rounds one column after the other and lets the columns still open make up
 * for the error made so far. With H + damping = L L^T, e H e^T = |L^T e|^2, and L^T is upper
 * triangular: solved from the last position to the first, position i rounds
 *     t_i = w_i + (sum over j > i of L_ji e_j) / L_ii
 * (Babai's nearest plane). That is GPTQ's result without its inverse of H; whatever is solved first
 * stands at the last position. All is f32 and tiled: one [k, k] matrix, and 128 rows of w at a
 * time.
 *
 * Ownership: a Gram owns its matrices (malloc; gram_free). Threading: gram_add may be called by
 * many threads; all else is for one, and starts threads of its own, on whose number results do not
 * depend.
 */
#ifndef PFQC_PASSES_GPTQ_H
#define PFQC_PASSES_GPTQ_H

#include "ir/base/arena.h"

typedef struct Gram Gram;
/* Of rows that `threads` threads add. Each sums on its own, so that the sums do not depend on
 * timing; only where that would take more than a GiB, threads share matrices. drift: for
 * gram_add_drift. */
Gram *gram_new(i64 k, u32 threads, bool drift);
void gram_free(Gram *g);      /* NULL: nothing */
i64 gram_size(const Gram *g); /* k */
bool gram_may_drift(i64 k);   /* within that GiB */
/* H += x^T x for x [rows, k], rows `stride` floats apart. */
void gram_add(Gram *g, u32 thread, const float *x, i64 rows, i64 stride);
/* Also D += (y - x)^T x, y being what the rows x [rows, k] are without any quantisation. */
void gram_add_drift(Gram *g, u32 thread, const float *x, const float *y, i64 rows);
/* Makes L in place of H, once, after the last gram_add. damp: part of the mean of H's diagonal that
 * is added to it; raised tenfold until H is positive definite in f32. order: columns are solved
 * from the largest diagonal element to the smallest, else from the first to the last. A column that
 * saw only zeros is as good as any other. False if H is not finite. */
bool gram_factor(Gram *g, double damp, bool order, u32 threads);
/* The weight that comes closest to w on y when it reads x, a `part` of the way from w: out = w +
 * part * w D H^-1 (GPTAQ's asymmetric calibration, arXiv:2504.02692, as one least-squares step). */
void gram_shift(const Gram *g, float part, const float *w, i64 n, u32 threads, float *out);

typedef struct WeightForm {
    u32 bits;  /* 4 or 8 */
    bool asym; /* u4, u8 with minima; s and m are values of f16. Else the full range of s4, s8 */
    i64 group; /* columns that share a scale; 0: a whole row. The last group may be shorter */
    bool zero; /* minima are whole numbers of scales (but for f16's rounding): 0 is on the grid */
} WeightForm;
i64 weight_groups(const WeightForm *f, i64 k);

typedef enum WeightMethod {
    METHOD_RTN,  /* the whole range of each group, nearest integers */
    METHOD_CLIP, /* the best of some smaller ranges, nearest integers */
    METHOD_GPTQ, /* the best of some ranges, integers solved one after the other */
} WeightMethod;

typedef struct QuantWeight {
    int8_t *q;   /* [n, k]; of u8 and u4 the bits */
    float *s;    /* [n, groups] */
    float *m;    /* [n, groups], NULL unless asymmetric */
    double *err; /* [n] e (H + damping) e^T, of |e|^2 without a Gram matrix; may be NULL */
} QuantWeight;

/* Quantises w [n, k] by a factored g; NULL: as if H were the identity. */
void weight_solve(const Gram *g, const WeightForm *f, WeightMethod method, const float *w, i64 n,
                  i64 k, u32 threads, const QuantWeight *out);

/* sum_t |w x_t|^2 of a factored g, with damping: what err is to be compared with. */
double gram_energy(const Gram *g, const float *w, i64 n, u32 threads);

#endif
