/* Transforms of every size in use: orthogonal, equal to the dense product, undone by the inverse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "ir/hadamard.h"

#include <math.h>
#include <stdlib.h>

/* ffn and hidden sizes of the models people compile; K is the order of the base. */
static const struct Size {
    i64 n, k;
    HadamardBase base;
} sizes[] = {
    {1, 1, HB_NONE},          {64, 1, HB_NONE},         {128, 1, HB_NONE},        {8192, 1, HB_NONE},       {11008, 43, HB_HARTLEY},
    {13824, 108, HB_PALEY1},  {14336, 28, HB_PALEY2},   {28672, 28, HB_PALEY2},   {18944, 148, HB_PALEY2},  {27648, 108, HB_PALEY1},
    {8960, 140, HB_PALEY1},   {3072, 12, HB_PALEY1},    {6144, 12, HB_PALEY1},    {12288, 12, HB_PALEY1},   {4864, 76, HB_PALEY2},
    {9728, 76, HB_PALEY2},    {17408, 68, HB_PALEY1},   {25600, 100, HB_PALEY2},  {29568, 924, HB_PALEY2},  {5632, 44, HB_PALEY1},
    {3584, 28, HB_PALEY2},    {5120, 20, HB_PALEY1},    {2560, 20, HB_PALEY1},    {960, 60, HB_PALEY1},     {576, 36, HB_PALEY2},
    {1536, 12, HB_PALEY1},    {104, 52, HB_PALEY2},     {96, 12, HB_PALEY1},      {80, 20, HB_PALEY1},      {15, 15, HB_HARTLEY},
    {384, 12, HB_PALEY1},     {7, 7, HB_HARTLEY},       {6, 3, HB_HARTLEY},       {172, 43, HB_HARTLEY},    {1152, 36, HB_PALEY2},
};
enum { N = sizeof sizes / sizeof *sizes };

static void bases_are_orthogonal(void **state)
{
    (void)state;
    for (size_t t = 0; t < N; t++) {
        Arena a = {0};
        HadamardPlan p;
        assert_true(hadamard_plan(&a, sizes[t].n, &p));
        assert_int_equal(p.k, sizes[t].k);
        assert_int_equal(p.base, sizes[t].base);
        assert_int_equal(p.k * p.m, p.n);
        for (i64 i = 0; p.b && i < p.k; i++)
            for (i64 j = 0; j <= i; j++) {
                double dot = 0;
                for (i64 c = 0; c < p.k; c++) dot += p.b[i * p.k + c] * p.b[j * p.k + c];
                if (fabs(dot / (double)p.k - (i == j)) > 1e-12) fail_msg("n %lld: rows %lld, %lld: %g", (long long)p.n, (long long)i, (long long)j, dot);
                if (p.base != HB_HARTLEY) assert_true(fabs(fabs(p.b[i * p.k + j]) - 1) < 1e-15);
            }
        arena_free(&a);
    }
}

static double dense(const HadamardPlan *p, i64 i, i64 j)
{
    i64 bi = i / p->m, bj = j / p->m;
    double s = __builtin_parityll((unsigned long long)(i % p->m & j % p->m)) ? -1 : 1;
    return s * (p->b ? p->b[bi * p->k + bj] : 1) / sqrt((double)p->n);
}

static void fast_equals_dense(void **state)
{
    (void)state;
    for (size_t t = 0; t < N; t++) {
        Arena a = {0};
        HadamardPlan p;
        assert_true(hadamard_plan(&a, sizes[t].n, &p));
        double *x = NEWN(&a, double, p.n), *y = NEWN(&a, double, p.n), *tmp = NEWN(&a, double, p.n);
        srand(1);
        for (i64 i = 0; i < p.n; i++) y[i] = x[i] = rand() / (double)RAND_MAX - 0.5;
        hadamard_rows_f64(&p, 1, y, tmp, false);
        for (i64 i = 0; i < p.n; i += 1 + p.n / 97) { /* a sample of the outputs */
            double sum = 0;
            for (i64 j = 0; j < p.n; j++) sum += dense(&p, i, j) * x[j];
            if (fabs(sum - y[i]) > 1e-11) fail_msg("n %lld, output %lld: %g, dense %g", (long long)p.n, (long long)i, y[i], sum);
        }
        hadamard_rows_f64(&p, 1, y, tmp, true);
        for (i64 i = 0; i < p.n; i++) assert_true(fabs(y[i] - x[i]) < 1e-12);
        arena_free(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bases_are_orthogonal), cmocka_unit_test(fast_equals_dense)};
    return cmocka_run_group_tests_name("hadamard", tests, NULL, NULL);
}
