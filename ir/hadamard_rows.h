/* The transforms of ir/hadamard.h over REAL; included once for each precision, so it has no guard.
 */

static void NAME(sylvester)(i64 m, REAL *x)
{
    for (i64 h = 1; h < m; h *= 2)
        for (i64 i = 0; i < m; i += 2 * h)
            for (i64 j = i; j < i + h; j++) {
                REAL a = x[j], b = x[j + h];
                x[j] = a + b;
                x[j + h] = a - b;
            }
}

/* tmp[i,:] = sum_j B[i][j] x[j,:] (inverse: B[j][i]) */
static void NAME(base)(const HadamardPlan *p, const REAL *x, REAL *tmp, bool inverse)
{
    for (i64 i = 0; i < p->k; i++) {
        REAL *y = tmp + i * p->m;
        for (i64 c = 0; c < p->m; c++)
            y[c] = 0;
        for (i64 j = 0; j < p->k; j++) {
            REAL b = (REAL)(inverse ? p->b[j * p->k + i] : p->b[i * p->k + j]);
            const REAL *xj = x + j * p->m;
            for (i64 c = 0; c < p->m; c++)
                y[c] += b * xj[c];
        }
    }
}

void NAME(hadamard_rows)(const HadamardPlan *p, i64 rows, REAL *x, REAL *tmp, bool inverse)
{
    REAL scale = (REAL)(1 / sqrt((double)p->n));
    for (i64 r = 0; r < rows; r++, x += p->n) {
        for (i64 j = 0; j < p->k; j++)
            NAME(sylvester)(p->m, x + j * p->m);
        const REAL *y = x;
        if (p->k > 1) NAME(base)(p, x, tmp, inverse), y = tmp;
        for (i64 i = 0; i < p->n; i++)
            x[i] = y[i] * scale;
    }
}
