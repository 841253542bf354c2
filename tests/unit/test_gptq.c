#include "passes/gptq.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A problem: weights, inputs whose columns depend on each other, and what the solver made of it. */
typedef struct Case {
    const char *name;
    i64 n, k, rows;
    WeightForm f;
    bool order;
    double damp;
    i64 dead; /* columns from 1 on that see only zeros */
} Case;

static const Case cases[] = {
    {"plain", 5, 40, 200, {4, false, 0, false}, false, 0.01, 0},
    {"order", 5, 40, 200, {4, false, 0, false}, true, 0.01, 0},
    {"blocks", 131, 300, 700, {4, false, 0, false}, false, 0.01, 0},
    {"blocks order", 131, 300, 700, {4, false, 0, false}, true, 0.01, 0},
    {"8 bits", 20, 140, 300, {8, false, 0, false}, true, 0.01, 0},
    {"asym", 20, 140, 300, {4, true, 0, false}, true, 0.01, 0},
    {"asym 8", 20, 140, 300, {8, true, 0, false}, false, 0.01, 0},
    {"groups", 20, 128, 300, {4, false, 32, false}, false, 0.01, 0},
    {"ragged groups", 20, 150, 300, {4, true, 64, false}, true, 0.01, 0},
    {"one long group", 20, 60, 300, {4, false, 64, false}, true, 0.01, 0},
    {"dead", 9, 70, 300, {4, false, 0, false}, true, 0.01, 7},
    {"all dead", 9, 30, 50, {4, false, 0, false}, true, 0.01, 29},
    {"singular", 9, 200, 30, {4, false, 0, false}, true, 0.01, 0},
    {"no damping, singular", 9, 200, 30, {4, false, 0, false}, false, 0, 0},
    {"k = 1", 7, 1, 20, {4, false, 0, false}, true, 0.01, 0},
    {"n = 1", 1, 129, 300, {4, true, 0, false}, true, 0.01, 0},
    {"zero", 20, 140, 300, {4, true, 32, true}, true, 0.01, 0},
};
enum { CASES = sizeof cases / sizeof *cases };

static u64 seed;
static double uniform(void) /* in [-1, 1) */
{
    seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (double)(seed >> 11) * 0x1p-52 - 1;
}

typedef struct Problem {
    Case c;
    i64 groups;
    float *w, *x; /* [n, k], [rows, k] */
    double *h;    /* [k, k] of x */
    QuantWeight got;
} Problem;

static Problem problem(const Case *c)
{
    Problem p = {.c = *c, .groups = weight_groups(&c->f, c->k)};
    size_t n = (size_t)c->n, k = (size_t)c->k;
    seed = 12345;
    p.w = xmalloc(n * k, sizeof(float));
    p.x = xmalloc((size_t)c->rows * k, sizeof(float));
    p.h = xmalloc(k * k, sizeof(double));
    for (size_t i = 0; i < n * k; i++)
        p.w[i] = (float)(uniform() * uniform() * uniform());
    for (i64 r = 0; r < c->rows; r++) {
        double common = uniform();
        for (i64 i = 0; i < c->k; i++) {
            bool dead = i >= 1 && i <= c->dead;
            p.x[r * c->k + i] =
                dead ? 0 : (float)((uniform() + common) * (1 + 5.0 * (double)(i % 7 == 3)));
        }
    }
    if (c->dead == c->k - 1)
        for (i64 r = 0; r < c->rows; r++)
            p.x[r * c->k] = 0;
    memset(p.h, 0, k * k * sizeof(double));
    for (i64 r = 0; r < c->rows; r++)
        for (i64 i = 0; i < c->k; i++)
            for (i64 j = 0; j < c->k; j++)
                p.h[i * c->k + j] += (double)p.x[r * c->k + i] * (double)p.x[r * c->k + j];
    p.got = (QuantWeight){.q = xmalloc(n * k, 1),
                          .s = xmalloc(n * (size_t)p.groups, sizeof(float)),
                          .m = c->f.asym ? xmalloc(n * (size_t)p.groups, sizeof(float)) : NULL,
                          .err = xmalloc(n, sizeof(double))};
    return p;
}

static void problem_free(Problem *p)
{
    free(p->w), free(p->x), free(p->h);
    free(p->got.q), free(p->got.s), free(p->got.m), free(p->got.err);
}

static Gram *gram_of(const Problem *p, u32 threads)
{
    Gram *g = gram_new(p->c.k, threads, false);
    i64 half = p->c.rows / 2;
    gram_add(g, 0, p->x, half, p->c.k);
    gram_add(g, 1, p->x + half * p->c.k, p->c.rows - half, p->c.k);
    assert_true(gram_factor(g, p->c.damp, p->c.order, threads));
    return g;
}

static double value(const Problem *p, i64 r, i64 c)
{
    i64 group = p->c.f.group ? c / p->c.f.group : 0;
    int q = p->got.q[r * p->c.k + c];
    if (p->c.f.asym) q = (u8)q;
    double m = p->got.m ? (double)p->got.m[r * p->groups + group] : 0;
    return q * (double)p->got.s[r * p->groups + group] + m;
}

/* e H e^T of a row, in f64. */
static double row_error(const Problem *p, i64 r)
{
    double sum = 0;
    for (i64 i = 0; i < p->c.k; i++) {
        double ei = (double)p->w[r * p->c.k + i] - value(p, r, i);
        for (i64 j = 0; j < p->c.k; j++)
            sum += ei * p->h[i * p->c.k + j] * ((double)p->w[r * p->c.k + j] - value(p, r, j));
    }
    return sum;
}

static double total_error(const Problem *p)
{
    double sum = 0;
    for (i64 r = 0; r < p->c.n; r++)
        sum += row_error(p, r);
    return sum;
}

static void test_methods_improve(void **state)
{
    (void)state;
    for (u32 i = 0; i < CASES; i++) {
        Problem p = problem(&cases[i]);
        Gram *g = gram_of(&p, 2);
        double err[3];
        for (u32 m = 0; m < 3; m++) {
            weight_solve(g, &p.c.f, (WeightMethod)m, p.w, p.c.n, p.c.k, 2, &p.got);
            err[m] = total_error(&p);
            for (i64 r = 0; r < p.c.n; r++) /* what it reports has damping in it */
                assert_true(p.got.err[r] >= row_error(&p, r) * 0.999 - 1e-4);
        }
        bool better = err[METHOD_CLIP] <= err[METHOD_RTN] * 1.0001 &&
                      err[METHOD_GPTQ] <= err[METHOD_CLIP] * 1.0001;
        if (!better || getenv("PFQC_TEST_PRINT"))
            print_message("%s: rtn %g clip %g gptq %g\n", p.c.name, err[0], err[1], err[2]);
        assert_true(better);
        gram_free(g);
        problem_free(&p);
    }
}

/* (H + damping)^-1 by Gauss-Jordan; H is positive definite: no pivots. */
static double *inverse(const Problem *p, double *mean)
{
    const i64 k = p->c.k;
    double *h = xmalloc((size_t)(k * k), 8), *v = xmalloc((size_t)(k * k), 8);
    i64 live = 0;
    *mean = 0;
    for (i64 i = 0; i < k; i++)
        *mean += p->h[i * k + i], live += p->h[i * k + i] > 0;
    *mean = live ? *mean / (double)live : 1;
    for (i64 i = 0; i < k; i++) {
        for (i64 j = 0; j < k; j++)
            h[i * k + j] = p->h[i * k + j], v[i * k + j] = i == j;
        if (!(h[i * k + i] > 0)) h[i * k + i] = *mean;
        h[i * k + i] += p->c.damp * *mean;
    }
    for (i64 i = 0; i < k; i++) {
        double d = 1 / h[i * k + i];
        for (i64 j = 0; j < k; j++)
            h[i * k + j] *= d, v[i * k + j] *= d;
        for (i64 o = 0; o < k; o++) {
            double f = o == i ? 0 : h[o * k + i];
            for (i64 j = 0; f != 0 && j < k; j++)
                h[o * k + j] -= f * h[i * k + j], v[o * k + j] -= f * v[i * k + j];
        }
    }
    free(h);
    return v;
}

/* The column that the published algorithm takes next. */
static i64 next_column(const Problem *p, const bool *done, double mean)
{
    i64 at = -1;
    float most = 0;
    for (i64 i = 0; i < p->c.k; i++) {
        double d = p->h[i * p->c.k + i];
        float h = (float)(d > 0 ? d : mean);
        if (done[i] || (at >= 0 && !(p->c.order && h > most))) continue;
        at = i;
        most = h;
    }
    return at;
}

static double nearest_of(const Problem *p, i64 r, i64 c, double x)
{
    i64 g = r * p->groups + (p->c.f.group ? c / p->c.f.group : 0);
    double s = (double)p->got.s[g], m = p->got.m ? (double)p->got.m[g] : 0;
    double lo = p->c.f.asym ? 0 : -(1 << (p->c.f.bits - 1)), hi = lo + (1 << p->c.f.bits) - 1;
    return fmin(fmax(nearbyint((x - m) / s), lo), hi) * s + m;
}

/* The published algorithm without blocks, in f64: one column at a time, each eliminated from the
 * inverse after use. Scales, and the errors that later columns make up for, are the solver's.
 * Returns the number of integers that differ: near ties may fall the other way in f32. */
static i64 reference_differences(const Problem *p)
{
    const i64 k = p->c.k;
    double mean, *v = inverse(p, &mean), *w = xmalloc((size_t)(p->c.n * k), 8);
    bool *done = xmalloc((size_t)k, 1);
    i64 differ = 0;
    for (i64 i = 0; i < p->c.n * k; i++)
        w[i] = (double)p->w[i];
    for (i64 i = 0; i < k; i++)
        done[i] = false;
    for (i64 step = 0; step < k; step++) {
        i64 at = next_column(p, done, mean);
        double d = v[at * k + at];
        done[at] = true;
        for (i64 r = 0; r < p->c.n; r++) {
            double got = value(p, r, at), e = (w[r * k + at] - got) / d;
            double s = (double)p->got.s[r * p->groups];
            differ += fabs(nearest_of(p, r, at, w[r * k + at]) - got) > 1e-9 + 1e-3 * s;
            for (i64 j = 0; j < k; j++)
                if (!done[j]) w[r * k + j] -= e * v[at * k + j];
        }
        for (i64 i = 0; i < k; i++)
            for (i64 j = 0; !done[i] && j < k; j++)
                if (!done[j]) v[i * k + j] -= v[i * k + at] / d * v[at * k + j];
    }
    free(v), free(w), free(done);
    return differ;
}

/* Given what was rounded before, each integer is the one that the published algorithm takes. */
static void test_equals_reference(void **state)
{
    (void)state;
    for (u32 i = 0; i < CASES; i++) {
        if (cases[i].damp == 0 || cases[i].n * cases[i].k > 10000) continue;
        Problem p = problem(&cases[i]);
        Gram *g = gram_of(&p, 1);
        weight_solve(g, &p.c.f, METHOD_GPTQ, p.w, p.c.n, p.c.k, 1, &p.got);
        i64 differ = reference_differences(&p);
        if (differ) print_message("%s: %lld differ\n", p.c.name, (long long)differ);
        assert_true(differ <= p.c.n * p.c.k / 200);
        gram_free(g);
        problem_free(&p);
    }
}

/* Threads change nothing; nor does the number of rows given at once. */
static void test_deterministic(void **state)
{
    (void)state;
    Problem p = problem(&cases[3]), one = problem(&cases[3]);
    Gram *g = gram_of(&p, 2);
    weight_solve(g, &p.c.f, METHOD_GPTQ, p.w, p.c.n, p.c.k, 2, &p.got);
    weight_solve(g, &p.c.f, METHOD_GPTQ, p.w, p.c.n, p.c.k, 1, &one.got);
    assert_memory_equal(p.got.q, one.got.q, (size_t)(p.c.n * p.c.k));
    assert_memory_equal(p.got.s, one.got.s, (size_t)p.c.n * sizeof(float));
    weight_solve(g, &p.c.f, METHOD_GPTQ, p.w + 130 * p.c.k, 1, p.c.k, 1, &one.got);
    assert_memory_equal(p.got.q + 130 * p.c.k, one.got.q, (size_t)p.c.k);
    gram_free(g);
    problem_free(&p);
    problem_free(&one);
}

/* The shift solves (out - w) (H + damping) = part * w D. */
static void test_drift(void **state)
{
    (void)state;
    Problem p = problem(&cases[3]);
    const i64 k = p.c.k;
    float *y = xmalloc((size_t)(p.c.rows * k), sizeof *y), *out = xmalloc((size_t)(p.c.n * k), 4);
    double *drift = xmalloc((size_t)(k * k), 8), mean = 0;
    for (i64 i = 0; i < p.c.rows * k; i++)
        y[i] = p.x[i] * 1.1f + (float)uniform();
    for (i64 i = 0; i < k * k; i++)
        drift[i] = 0;
    for (i64 r = 0; r < p.c.rows; r++)
        for (i64 i = 0; i < k; i++)
            for (i64 j = 0; j < k; j++)
                drift[i * k + j] +=
                    (double)(y[r * k + i] - p.x[r * k + i]) * (double)p.x[r * k + j];
    Gram *g = gram_new(k, 2, true);
    gram_add_drift(g, 1, p.x, y, 100);
    gram_add_drift(g, 0, p.x + 100 * k, y + 100 * k, p.c.rows - 100);
    assert_true(gram_factor(g, p.c.damp, true, 2));
    gram_shift(g, 0.5f, p.w, p.c.n, 2, out);
    for (i64 i = 0; i < k; i++)
        mean += p.h[i * k + i] / (double)k;
    double worst = 0, size = 0;
    for (i64 r = 0; r < p.c.n; r++)
        for (i64 j = 0; j < k; j++) {
            double left = p.c.damp * mean * (double)(out[r * k + j] - p.w[r * k + j]), right = 0;
            for (i64 i = 0; i < k; i++) {
                left += (double)(out[r * k + i] - p.w[r * k + i]) * p.h[i * k + j];
                right += 0.5 * (double)p.w[r * k + i] * drift[i * k + j];
            }
            worst = fmax(worst, fabs(left - right));
            size = fmax(size, fabs(right));
        }
    assert_true(worst < 1e-3 * size);
    free(y), free(out), free(drift);
    gram_free(g);
    problem_free(&p);
}

static void test_no_gram(void **state)
{
    (void)state;
    Problem p = problem(&cases[8]);
    weight_solve(NULL, &p.c.f, METHOD_RTN, p.w, p.c.n, p.c.k, 1, &p.got);
    for (i64 r = 0; r < p.c.n; r++)
        for (i64 i = 0; i < p.c.k; i++)
            assert_true(fabs((double)p.w[r * p.c.k + i] - value(&p, r, i)) <=
                        0.502 * (double)p.got.s[r * p.groups + i / 64] + 1e-3);
    double rtn = 0, clip = 0;
    for (i64 r = 0; r < p.c.n; r++)
        rtn += p.got.err[r];
    weight_solve(NULL, &p.c.f, METHOD_CLIP, p.w, p.c.n, p.c.k, 1, &p.got);
    for (i64 r = 0; r < p.c.n; r++)
        clip += p.got.err[r];
    assert_true(clip <= rtn);
    problem_free(&p);
}

static void test_hostile_values(void **state)
{
    (void)state;
    Problem p = problem(&cases[0]);
    p.x[17] = INFINITY;
    Gram *g = gram_new(p.c.k, 1, false);
    gram_add(g, 0, p.x, p.c.rows, p.c.k);
    assert_false(gram_factor(g, 0.01, true, 1));
    gram_free(g);
    p.x[17] = 0;
    memset(p.w, 0, (size_t)p.c.k * sizeof(float)); /* a row of zeros: scale 1 */
    p.w[p.c.k] = NAN;
    g = gram_of(&p, 1);
    weight_solve(g, &p.c.f, METHOD_GPTQ, p.w, p.c.n, p.c.k, 1, &p.got);
    assert_true(p.got.s[0] == 1 && p.got.q[0] == 0 && p.got.err[0] == 0);
    assert_true(p.got.q[p.c.k] == 0); /* a row with a NaN: zeros, and an infinite error */
    assert_true(isinf(p.got.err[1]));
    gram_free(g);
    problem_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_methods_improve), cmocka_unit_test(test_equals_reference),
        cmocka_unit_test(test_deterministic),   cmocka_unit_test(test_drift),
        cmocka_unit_test(test_no_gram),         cmocka_unit_test(test_hostile_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
