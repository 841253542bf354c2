/* Hadamard and related orthogonal transforms of any size, exact and fast.
 *
 * A transform of size n is H_n = B_k (x) S_m / sqrt(n') with n = k * m: S_m the Sylvester matrix of
 * order m = 2^e, B_k a base matrix of order k. A row x of n is seen as [k, m]: S acts on the last
 * axis, B on the first. The base is the smallest of
 *   - order 1 (n a power of two);
 *   - a Hadamard matrix k = odd * 2^j, j >= 2, by Paley's constructions: I, q = k - 1 = 3 mod 4;
 * II, q = k/2 - 1 = 1 mod 4; q a prime or the square of one (R. E. A. C. Paley, "On orthogonal
 * matrices", 1933);
 *   - the discrete Hartley matrix of the odd part, B[i][j] = cas(2 pi i j / k): orthogonal, entries
 * at most sqrt(2) in size, for the orders that have no Paley matrix small enough (43, 39). Every
 * base B satisfies B B^T = k I. QuaRot (arXiv:2404.00456) uses tables for the same purpose. Errors:
 * a base of more than HADAMARD_MAX_BASE rows is refused (order 0, plan false); so is n <= 0.
 * Threading: a plan is immutable.
 */
#ifndef PFQC_IR_HADAMARD_H
#define PFQC_IR_HADAMARD_H

#include "ir/base/arena.h"

typedef enum HadamardBase { HB_NONE, HB_PALEY1, HB_PALEY2, HB_HARTLEY } HadamardBase;

typedef struct HadamardPlan {
    i64 n, k, m; /* n = k * m, m a power of two */
    HadamardBase base;
    i64 q;           /* Paley's field order */
    const double *b; /* [k, k] row-major, B B^T = k I; NULL when k = 1 */
} HadamardPlan;

enum { HADAMARD_MAX_BASE = 4096 };

i64 hadamard_base_order(i64 n); /* k of the transform of n elements; 0 if there is none */
bool hadamard_plan(Arena *a, i64 n, HadamardPlan *out);
const char *hadamard_base_name(HadamardBase b);

/* x[rows, n] <- x H_n^T, in place; tmp has room for n. The inverse multiplies by H_n (transposed
 * base). */
void hadamard_rows_f32(const HadamardPlan *p, i64 rows, float *x, float *tmp, bool inverse);
void hadamard_rows_f64(const HadamardPlan *p, i64 rows, double *x, double *tmp, bool inverse);

/* +1 or -1 of element i of a randomised transform (x -> x diag(s) H^T); seed 0 gives +1 throughout.
 */
int hadamard_sign(u64 seed, i64 i);

#endif
