#include "ir/hadamard.h"

#include <math.h>

/* ---- finite fields of order p or p^2 ---- */

typedef struct Field {
    i64 p, q;         /* characteristic, order */
    i64 nonres;       /* for q = p^2: elements are a + b*r with r^2 = nonres, written a + b*p */
    signed char *chi; /* [q] quadratic character: 0, +1, -1 */
} Field;

static i64 smallest_factor(i64 n)
{
    for (i64 d = 2; d * d <= n; d++)
        if (n % d == 0) return d;
    return n;
}

/* p if q = p or q = p^2 for a prime p, else 0 */
static i64 characteristic(i64 q)
{
    if (q < 2) return 0;
    i64 p = smallest_factor(q);
    return p == q || p * p == q ? p : 0;
}

static i64 field_mul(const Field *f, i64 x, i64 y)
{
    if (f->q == f->p) return x * y % f->p;
    i64 a = x % f->p, b = x / f->p, c = y % f->p, d = y / f->p;
    return (a * c + b * d % f->p * f->nonres) % f->p + (a * d + b * c) % f->p * f->p;
}

static i64 field_sub(const Field *f, i64 x, i64 y)
{
    i64 lo = (x % f->p - y % f->p + f->p) % f->p, hi = (x / f->p - y / f->p + f->p) % f->p;
    return lo + hi * f->p;
}

static void field_make(Arena *a, i64 q, Field *f)
{
    *f = (Field){.p = characteristic(q), .q = q};
    if (f->q !=
        f->p) { /* the smallest non-residue of the prime field makes x^2 - nonres irreducible */
        bool square[1 << 10] = {0};
        for (i64 x = 1; x < f->p; x++)
            square[x * x % f->p] = true;
        for (f->nonres = 2; square[f->nonres]; f->nonres++) {
        }
    }
    f->chi = NEWN(a, signed char, q);
    for (i64 x = 1; x < q; x++)
        f->chi[x] = -1;
    for (i64 x = 1; x < q; x++)
        f->chi[field_mul(f, x, x)] = 1;
}

/* Jacobsthal matrix bordered by ones: S[i][j] of order q+1, S S^T = q I for the two kinds. */
static int bordered(const Field *f, i64 i, i64 j)
{
    if (i == 0 && j == 0) return 0;
    if (i == 0) return 1;
    if (j == 0) return f->q % 4 == 1 ? 1 : -1;
    return f->chi[field_sub(f, i - 1, j - 1)];
}

static void paley1(const Field *f, i64 k, double *b)
{
    for (i64 i = 0; i < k; i++)
        for (i64 j = 0; j < k; j++)
            b[i * k + j] = bordered(f, i, j) + (i == j);
}

/* Each entry of the symmetric conference matrix becomes a 2 x 2 block: s [[1,1],[1,-1]], the zeros
 * [[1,-1],[-1,-1]]. */
static void paley2(const Field *f, i64 k, double *b)
{
    static const double off[2][2] = {{1, 1}, {1, -1}}, diag[2][2] = {{1, -1}, {-1, -1}};
    for (i64 i = 0; i < k; i++)
        for (i64 j = 0; j < k; j++) {
            int s = bordered(f, i / 2, j / 2);
            b[i * k + j] = s ? s * off[i % 2][j % 2] : diag[i % 2][j % 2];
        }
}

static void hartley(i64 k, double *b)
{
    for (i64 i = 0; i < k; i++)
        for (i64 j = 0; j < k; j++) {
            double t = 2 * M_PI * (double)(i * j % k) / (double)k;
            b[i * k + j] = cos(t) + sin(t);
        }
}

/* Paley's constructions give order k when the field exists; the base stays small, so its product is
 * cheap. */
static bool paley(i64 k, HadamardPlan *p)
{
    enum { MAX_BASE = 1024 };
    if (k % 4 || k > MAX_BASE) return false;
    if ((k - 1) % 4 == 3 && characteristic(k - 1))
        p->base = HB_PALEY1, p->q = k - 1;
    else if ((k / 2 - 1) % 4 == 1 && characteristic(k / 2 - 1))
        p->base = HB_PALEY2, p->q = k / 2 - 1;
    else
        return false;
    p->k = k;
    return true;
}

/* Everything of a plan but the matrix. */
static bool choose(i64 n, HadamardPlan *p)
{
    if (n <= 0) return false;
    i64 odd = n;
    while (odd % 2 == 0)
        odd /= 2;
    *p = (HadamardPlan){.n = n, .k = odd, .base = odd == 1 ? HB_NONE : HB_HARTLEY};
    bool found = false;
    for (i64 k = odd; odd > 1 && !found && k <= n / 4 && n % (k * 4) == 0; k *= 2)
        found = paley(k * 4, p);
    p->m = n / p->k;
    return p->k <= HADAMARD_MAX_BASE;
}

i64 hadamard_base_order(i64 n)
{
    HadamardPlan p;
    return choose(n, &p) ? p.k : 0;
}

bool hadamard_plan(Arena *a, i64 n, HadamardPlan *p)
{
    if (!choose(n, p)) return false;
    if (p->k == 1) return true;
    double *b = NEWN(a, double, p->k * p->k);
    if (p->base != HB_HARTLEY) {
        Field f;
        field_make(a, p->q, &f);
        (p->base == HB_PALEY1 ? paley1 : paley2)(&f, p->k, b);
    } else
        hartley(p->k, b);
    p->b = b;
    return true;
}

const char *hadamard_base_name(HadamardBase b)
{
    static const char *const names[] = {"sylvester", "paley1", "paley2", "hartley"};
    return names[b];
}

int hadamard_sign(u64 seed, i64 i)
{
    if (!seed) return 1;
    u64 z = seed * 0x9e3779b97f4a7c15u + (u64)i; /* splitmix64 finaliser over (seed, i) */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) & 1 ? -1 : 1;
}

#define REAL    float
#define NAME(x) x##_f32
#include "ir/hadamard_rows.h"
#undef REAL
#undef NAME
#define REAL    double
#define NAME(x) x##_f64
#include "ir/hadamard_rows.h"
