/* The transforms of ir/hadamard.h over REAL; included once for each precision, so it has no guard.
 */

/* Stages 1, 2 and 4, of 8 elements at a time. */
static void NAME(stages8)(i64 m, REAL *x)
{
    for (i64 i = 0; i < m; i += 8) {
        REAL a[8], b[8];
        for (int j = 0; j < 8; j += 2) {
            a[j] = x[i + j] + x[i + j + 1];
            a[j + 1] = x[i + j] - x[i + j + 1];
        }
        for (int k = 0; k < 8; k += 4)
            for (int j = k; j < k + 2; j++) {
                b[j] = a[j] + a[j + 2];
                b[j + 2] = a[j] - a[j + 2];
            }
        for (int j = 0; j < 4; j++) {
            x[i + j] = b[j] + b[j + 4];
            x[i + j + 4] = b[j] - b[j + 4];
        }
    }
}

static void NAME(sylvester)(i64 m, REAL *x)
{
    i64 h = 1;
    if (m >= 8) NAME(stages8)(m, x), h = 8;
    for (; h < m; h *= 2)
        for (i64 i = 0; i < m; i += 2 * h)
            for (i64 j = i; j < i + h; j++) {
                REAL a = x[j], b = x[j + h];
                x[j] = a + b;
                x[j + h] = a - b;
            }
}

/* y[c] += b[0] x[c] + b[1] x[m + c] + .., of m columns, four rows of x at a time: in their order.
 */
static void NAME(add_rows)(i64 k, i64 m, const double *b, i64 step, const REAL *x, REAL *y)
{
    i64 j = 0;
    for (; j + 4 <= k; j += 4, b += 4 * step, x += 4 * m) {
        const REAL b0 = (REAL)b[0], b1 = (REAL)b[step], b2 = (REAL)b[2 * step],
                   b3 = (REAL)b[3 * step];
        for (i64 c = 0; c < m; c++)
            y[c] = y[c] + b0 * x[c] + b1 * x[m + c] + b2 * x[2 * m + c] + b3 * x[3 * m + c];
    }
    for (; j < k; j++, b += step, x += m)
        for (i64 c = 0; c < m; c++)
            y[c] += (REAL)b[0] * x[c];
}

/* tmp[i,:] = sum_j B[i][j] x[j,:] (inverse: B[j][i]) */
static void NAME(base)(const HadamardPlan *p, const REAL *x, REAL *tmp, bool inverse)
{
    const i64 k = p->k, m = p->m;
    for (i64 i = 0; i < k; i++) {
        REAL *y = tmp + i * m;
        for (i64 c = 0; c < m; c++)
            y[c] = 0;
        NAME(add_rows)(k, m, p->b + (inverse ? i : i * k), inverse ? k : 1, x, y);
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
