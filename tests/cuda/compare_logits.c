/* Two files of logits, of the same program on two devices: f32, of `NAME ppl --save-logits FILE`,
 * or JSON, of `NAME logits --all`.
 *
 *   compare_logits VOCABULARY A B KL TOP1
 *
 * Prints the mean Kullback-Leibler divergence of B from A in nats, how often the largest logit is
 * the same, and the largest difference of a logit; exit status 1 if the first is above KL, the
 * second below TOP1, or a logit is not finite. Rows whose two largest logits of A are within 1e-3
 * are no disagreement: they are told apart by rounding.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct Sums {
    double kl, difference;
    long rows, same, bad;
} Sums;

static double log_sum_exp(const float *x, int n, float top)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += exp((double)(x[i] - top));
    return (double)top + log(sum);
}

static int largest(const float *x, int n)
{
    int at = 0;
    for (int i = 1; i < n; i++)
        at = x[i] > x[at] ? i : at;
    return at;
}

static void add_row(Sums *s, const float *a, const float *b, int n)
{
    for (int i = 0; i < n; i++)
        if (!isfinite(a[i]) || !isfinite(b[i])) {
            s->bad++;
            return;
        }
    const int i = largest(a, n), j = largest(b, n);
    const double la = log_sum_exp(a, n, a[i]), lb = log_sum_exp(b, n, b[j]);
    double kl = 0;
    for (int k = 0; k < n; k++) {
        const double p = (double)a[k] - la, q = (double)b[k] - lb;
        kl += exp(p) * (p - q);
        s->difference = fmax(s->difference, fabs((double)a[k] - (double)b[k]));
    }
    s->kl += kl;
    s->same += i == j || a[i] - a[j] <= 1e-3f;
    s->rows++;
}

typedef struct Input {
    FILE *f;
    int text; /* JSON: all numbers behind "logits" */
} Input;

static Input open_input(const char *path)
{
    Input in = {fopen(path, "rb"), 0};
    if (!in.f) {
        perror(path);
        exit(2);
    }
    const int c = getc(in.f);
    in.text = c == '{';
    ungetc(c, in.f);
    if (in.text && fscanf(in.f, "%*[^l]logits\"") < 0) exit(2);
    return in;
}

/* Numbers of a row that are there: n, or fewer at the end. */
static size_t read_row(Input *in, float *x, size_t n)
{
    size_t got = 0;
    if (!in->text) return fread(x, sizeof *x, n, in->f);
    while (got < n) {
        int c = getc(in->f);
        while (c != EOF && c != '-' && (c < '0' || c > '9'))
            c = getc(in->f);
        if (c == EOF) break;
        ungetc(c, in->f);
        if (fscanf(in->f, "%f", &x[got]) != 1) break;
        got++;
    }
    return got;
}

int main(int argc, char **argv)
{
    const int n = argc == 6 ? atoi(argv[1]) : 0;
    if (n <= 0) {
        fprintf(stderr, "usage: compare_logits VOCABULARY A B KL TOP1\n");
        return 2;
    }
    Input fa = open_input(argv[2]), fb = open_input(argv[3]);
    float *a = malloc(sizeof(float) * (size_t)n), *b = malloc(sizeof(float) * (size_t)n);
    if (!a || !b) return 2;
    Sums s = {0};
    const size_t row = (size_t)n;
    size_t got_a = row, got_b = row;
    while (got_a == row && got_b == row) {
        got_a = read_row(&fa, a, row);
        got_b = read_row(&fb, b, row);
        if (got_a == row && got_b == row) add_row(&s, a, b, n);
    }
    if (got_a || got_b || s.rows + s.bad == 0) {
        fprintf(stderr, "compare_logits: the files have different lengths, or no whole row\n");
        return 1;
    }
    const double kl = s.kl / (double)s.rows, same = (double)s.same / (double)s.rows;
    printf("kl %.2e top1 %.4f difference %.2e rows %ld\n", kl, same, s.difference, s.rows);
    if (s.bad) printf("%ld rows are not finite\n", s.bad);
    return s.bad || !(kl <= atof(argv[4])) || !(same >= atof(argv[5]));
}
