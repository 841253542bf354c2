#include "passes/gptq.h"

#include "ir/base/half.h"

#include <cblas.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* LAPACK, in OpenBLAS; there is no header of it in C. */
void spotrf_(const char *uplo, const int *n, float *a, const int *lda, int *info);

enum {
    STRIPE = 256, /* rows of H added to in one go */
    BLOCK = 128,  /* positions solved before their errors go to all others by one product */
    ROWS = 128,   /* rows of w that a thread solves at once */
};
#define PARTS_BYTES (1LL << 30)

/* ---- threads ---- */

typedef struct Jobs {
    void (*run)(void *user, i64 job);
    void *user;
    i64 n;
    atomic_llong next;
} Jobs;

static void *work(void *user)
{
    Jobs *j = user;
    for (i64 i; (i = atomic_fetch_add(&j->next, 1)) < j->n;)
        j->run(j->user, i);
    return NULL;
}

static void run_jobs(u32 threads, i64 n, void (*run)(void *user, i64 job), void *user)
{
    enum { MAX = 64 };
    pthread_t tid[MAX];
    Jobs j = {.run = run, .user = user, .n = n};
    u32 started = 0, want = threads < MAX ? threads : MAX;
    while (started + 1 < want && started + 1 < n &&
           pthread_create(&tid[started], NULL, work, &j) == 0)
        started++;
    work(&j);
    while (started)
        pthread_join(tid[--started], NULL);
}

/* ---- the Gram matrix ---- */

typedef struct Part { /* what some threads have added */
    pthread_mutex_t lock;
    float *h; /* [k, k], the elements at and below the diagonal */
    float *d; /* [k, k], NULL without drift */
} Part;

struct Gram {
    i64 k;
    u32 parts;
    Part *part;
    float *d;    /* part 0's */
    float *h;    /* part 0's; after gram_factor L, and what H was above the diagonal */
    i64 *column; /* [k] that stands at position i */
    float *diag; /* [k] of H by column */
};

static float *zeros(i64 k)
{
    float *p = xmalloc((size_t)k * sizeof(float), (size_t)k);
    memset(p, 0, (size_t)k * (size_t)k * sizeof(float));
    return p;
}

Gram *gram_new(i64 k, u32 threads, bool drift)
{
    Gram *g = xmalloc(1, sizeof *g);
    i64 fit = PARTS_BYTES / (k * k * (i64)sizeof(float) * (drift ? 2 : 1));
    *g = (Gram){.k = k, .parts = fit < 1 ? 1 : fit < threads ? (u32)fit : threads};
    g->part = xmalloc(g->parts, sizeof *g->part);
    for (u32 i = 0; i < g->parts; i++) {
        pthread_mutex_init(&g->part[i].lock, NULL);
        g->part[i].h = zeros(k);
        g->part[i].d = drift ? zeros(k) : NULL;
    }
    g->h = g->part[0].h;
    g->d = g->part[0].d;
    g->column = xmalloc((size_t)k, sizeof *g->column);
    g->diag = xmalloc((size_t)k, sizeof *g->diag);
    return g;
}

bool gram_may_drift(i64 k)
{
    return 2 * k * k * (i64)sizeof(float) <= PARTS_BYTES;
}

void gram_free(Gram *g)
{
    if (!g) return;
    for (u32 i = 0; i < g->parts; i++) {
        pthread_mutex_destroy(&g->part[i].lock);
        free(g->part[i].h);
        free(g->part[i].d);
    }
    free(g->part);
    free(g->column);
    free(g->diag);
    free(g);
}

i64 gram_size(const Gram *g)
{
    return g->k;
}

/* ssyrk, but in stripes, so that threads that share a part get their turns. */
void gram_add(Gram *g, u32 thread, const float *x, i64 rows, i64 stride)
{
    Part *p = &g->part[thread % g->parts];
    for (i64 at = 0; at < g->k; at += STRIPE) {
        i64 n = g->k - at < STRIPE ? g->k - at : STRIPE;
        float *h = p->h + at * g->k;
        pthread_mutex_lock(&p->lock);
        if (at)
            cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)n, (int)at, (int)rows, 1,
                        x + at, (int)stride, x, (int)stride, 1, h, (int)g->k);
        cblas_ssyrk(CblasRowMajor, CblasLower, CblasTrans, (int)n, (int)rows, 1, x + at,
                    (int)stride, 1, h + at, (int)g->k);
        pthread_mutex_unlock(&p->lock);
    }
}

void gram_add_drift(Gram *g, u32 thread, const float *x, const float *y, i64 rows)
{
    const i64 k = g->k;
    Part *p = &g->part[thread % g->parts];
    float *e = xmalloc((size_t)rows * sizeof *e, (size_t)k);
    for (i64 i = 0; i < rows * k; i++)
        e[i] = y[i] - x[i];
    gram_add(g, thread, x, rows, k);
    for (i64 at = 0; at < k; at += STRIPE) {
        i64 n = k - at < STRIPE ? k - at : STRIPE;
        pthread_mutex_lock(&p->lock);
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)n, (int)k, (int)rows, 1, e + at,
                    (int)k, x, (int)k, 1, p->d + at * k, (int)k);
        pthread_mutex_unlock(&p->lock);
    }
    free(e);
}

/* All parts into the first, in order. */
static void gather(Gram *g)
{
    const i64 k = g->k;
    for (u32 i = 1; i < g->parts; i++) {
        Part *p = &g->part[i];
        for (i64 r = 0; r < k; r++)
            for (i64 c = 0; c <= r; c++)
                g->h[r * k + c] += p->h[r * k + c];
        for (i64 j = 0; g->d && j < k * k; j++)
            g->d[j] += p->d[j];
        free(p->h);
        free(p->d);
        p->h = p->d = NULL;
    }
}

/* ---- the factor ---- */

typedef struct Weighted {
    float d;
    i64 column;
} Weighted;

static int by_diag(const void *a, const void *b)
{
    const Weighted *x = a, *y = b;
    if (x->d != y->d) return x->d < y->d ? -1 : 1;
    return x->column > y->column ? -1 : 1; /* equal ones are solved from first to last */
}

static void choose_order(Gram *g, bool order)
{
    Weighted *w = xmalloc((size_t)g->k, sizeof *w);
    for (i64 i = 0; i < g->k; i++)
        w[i] = (Weighted){order ? g->diag[i] : 0, i};
    qsort(w, (size_t)g->k, sizeof *w, by_diag);
    for (i64 i = 0; i < g->k; i++)
        g->column[i] = w[i].column;
    free(w);
}

/* Copies what is below the diagonal above it. */
static void mirror(float *h, i64 k)
{
    for (i64 r = 0; r < k; r += 64)
        for (i64 c = 0; c <= r; c += 64)
            for (i64 i = r; i < r + 64 && i < k; i++)
                for (i64 j = c; j < c + 64 && j < i; j++)
                    h[j * k + i] = h[i * k + j];
}

/* Position i gets row and column column[i] of the whole matrix h. */
static void permute(Gram *g)
{
    i64 k = g->k;
    float *row = xmalloc((size_t)k, sizeof *row);
    for (i64 i = 0; i < k; i++) {
        float *h = g->h + i * k;
        for (i64 j = 0; j < k; j++)
            row[j] = h[g->column[j]];
        memcpy(h, row, (size_t)k * sizeof *row);
    }
    for (i64 first = 0; first < k; first++) { /* cycles of rows; a placed row's column is ~column */
        if (g->column[first] < 0) continue;
        memcpy(row, g->h + first * k, (size_t)k * sizeof *row);
        for (i64 to = first, from;; to = from) {
            from = g->column[to];
            g->column[to] = ~from;
            memcpy(g->h + to * k, from == first ? row : g->h + from * k, (size_t)k * sizeof *row);
            if (from == first) break;
        }
    }
    for (i64 i = 0; i < k; i++)
        g->column[i] = ~g->column[i];
    free(row);
}

/* The mean of H's live diagonal; dead columns get it too. 0 if not finite. */
static float live_diagonal(Gram *g)
{
    double sum = 0;
    i64 live = 0;
    for (i64 i = 0; i < g->k; i++) {
        g->diag[i] = g->h[i * g->k + i];
        if (!isfinite(g->diag[i])) return 0;
        sum += g->diag[i];
        live += g->diag[i] > 0;
    }
    float mean = live ? (float)(sum / (double)live) : 1;
    if (!isfinite(mean)) return 0;
    for (i64 i = 0; i < g->k; i++)
        if (!(g->diag[i] > 0)) g->diag[i] = mean;
    return mean > 0 ? mean : 1;
}

bool gram_factor(Gram *g, double damp, bool order, u32 threads)
{
    const i64 k = g->k;
    gather(g);
    float mean = live_diagonal(g);
    if (mean == 0) return false;
    choose_order(g, order);
    mirror(g->h, k);
    permute(g);
    openblas_set_num_threads((int)(k >= 1024 ? threads : 1)); /* nothing else runs */
    int n = (int)k, info = 1;
    for (double d = damp; info > 0 && d < 100; d = d > 0 ? d * 10 : 1e-4) {
        for (i64 i = 0; i < k; i++) {
            for (i64 j = 0; j < i; j++) /* a failed attempt left half a factor below the diagonal */
                g->h[i * k + j] = g->h[j * k + i];
            g->h[i * k + i] = g->diag[g->column[i]] + (float)d * mean;
        }
        spotrf_("U", &n, g->h, &n, &info); /* what Fortran calls upper is lower by rows */
    }
    openblas_set_num_threads(1);
    return info == 0;
}

/* ---- rows ---- */

i64 weight_groups(const WeightForm *f, i64 k)
{
    return f->group > 0 ? (k + f->group - 1) / f->group : 1;
}

typedef struct Grid {
    float s, m;
} Grid;

static float half(float x)
{
    return f16_to_f32(f32_to_f16(x));
}

/* Nearest integer, half to even, of |x| < 2^22; what a vector of any width can do. */
static float nearest(float x)
{
    return (x + 12582912.0f) - 12582912.0f;
}

/* Scale and minimum that spread the integers over `part` of a range. */
static Grid grid_of(const WeightForm *f, float lo, float hi, float part)
{
    float steps = (float)((1 << f->bits) - 1);
    if (!f->asym) {
        float s = part * hi / (steps / 2);
        return (Grid){s > 0 ? s : 1, 0};
    }
    float s = half(part * (hi - lo) / steps);
    s = s > 0 ? s : 1;
    if (part < 1) lo = (hi + lo - part * (hi - lo)) / 2;
    return (Grid){s, half(f->zero ? nearest(lo / s) * s : lo)};
}

static float limited(float x, float lo, float hi)
{
    x = x < lo ? lo : x;
    return x > hi ? hi : x;
}

typedef struct Solve {
    const Gram *g; /* NULL: the identity */
    WeightForm f;
    WeightMethod method;
    const float *w;
    i64 n, k, groups;
    const i64 *column; /* [k] at a position */
    const i64 *place;  /* [k] position of a column */
    const QuantWeight *out;
} Solve;

typedef struct Tile { /* up to ROWS rows of w, by position: lane r of every vector is row r */
    i64 first, rows;
    float *w, *e, *q, *best; /* [k, ROWS]; best: q of the least error so far */
    float *s, *m, *bs, *bm;  /* [groups, ROWS] the grid tried, and that of best */
    float *lo, *hi;          /* [groups, ROWS] ranges of w; symmetric: hi is max|w| */
    float t[BLOCK][ROWS];    /* sums of L_ji e_j, then elements of L^T e */
    double err[ROWS], best_err[ROWS];
} Tile;

static i64 group_of(const Solve *z, i64 column)
{
    return z->f.group > 0 ? column / z->f.group : 0;
}

typedef struct Limits {
    float lo, hi;
} Limits;

static Limits limits_of(const WeightForm *f)
{
    float top = (float)(1 << f->bits);
    return f->asym ? (Limits){0, top - 1} : (Limits){-top / 2, top / 2 - 1};
}

/* Rounds position i of all lanes to the tile's grid, with the sums t of that position. */
static void round_position(const Solve *z, Tile *x, i64 i, float *t)
{
    const Limits lim = limits_of(&z->f);
    const i64 at = group_of(z, z->column[i]) * ROWS;
    const float *s = x->s + at, *m = x->m + at, *w = x->w + i * ROWS;
    float *q = x->q + i * ROWS, *e = x->e + i * ROWS;
    const float l = z->g ? z->g->h[i * z->k + i] : 1, heed = z->method == METHOD_GPTQ ? 1 / l : 0;
    for (i64 r = 0; r < ROWS; r++) {
        float v = (w[r] + t[r] * heed - m[r]) / s[r];
        q[r] = nearest(limited(v, lim.lo, lim.hi));
        e[r] = w[r] - (q[r] * s[r] + m[r]);
        t[r] += l * e[r];
    }
    for (i64 r = 0; r < ROWS; r++)
        x->err[r] += (double)t[r] * (double)t[r];
}

/* Positions [begin, end) of all lanes, those from end on being done. */
static void solve_block(const Solve *z, Tile *x, i64 begin, i64 end)
{
    const i64 k = z->k;
    memset(x->t, 0, sizeof x->t);
    if (z->g && end < k)
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)(end - begin), ROWS,
                    (int)(k - end), 1, z->g->h + end * k + begin, (int)k, x->e + end * ROWS, ROWS,
                    0, x->t[0], ROWS);
    for (i64 i = end - 1; i >= begin; i--) {
        round_position(z, x, i, x->t[i - begin]);
        const float *e = x->e + i * ROWS;
        for (i64 j = begin; z->g && j < i; j++) {
            const float l = z->g->h[i * k + j];
            for (i64 r = 0; r < ROWS; r++)
                x->t[j - begin][r] += l * e[r];
        }
    }
}

/* Integers on the tile's grid and their errors; keeps them where they are better. */
static void try_grid(const Solve *z, Tile *x)
{
    memset(x->err, 0, sizeof x->err);
    for (i64 end = z->k; end > 0; end = (end - 1) / BLOCK * BLOCK)
        solve_block(z, x, (end - 1) / BLOCK * BLOCK, end);
    for (i64 r = 0; r < x->rows; r++) {
        if (!(x->err[r] < x->best_err[r])) continue;
        x->best_err[r] = x->err[r];
        for (i64 i = r; i < z->k * ROWS; i += ROWS)
            x->best[i] = x->q[i];
        for (i64 i = r; i < z->groups * ROWS; i += ROWS)
            x->bs[i] = x->s[i], x->bm[i] = x->m[i];
    }
}

/* ---- ranges ---- */

/* Finer steps gain nothing: SmolLM2-135M, 4 bits, perplexity 23.57 with ten from 1 to 0.55, 23.51
 * with five. */
static const float parts[] = {1.0f, 0.93f, 0.86f, 0.79f, 0.72f, 0.65f, 0.58f};
enum { PARTS = sizeof parts / sizeof *parts };

static void set_grids(const Solve *z, Tile *x, float part)
{
    for (i64 i = 0; i < z->groups * ROWS; i++) {
        Grid d = grid_of(&z->f, x->lo[i], x->hi[i], part);
        x->s[i] = d.s, x->m[i] = d.m;
    }
}

/* Error of group `at` of lane r on a grid, each column by its own element of H alone. */
static double group_error(const Solve *z, const Tile *x, i64 at, i64 r, Grid d)
{
    const Limits lim = limits_of(&z->f);
    i64 begin = at * z->f.group, end = begin + z->f.group < z->k ? begin + z->f.group : z->k;
    double sum = 0;
    for (i64 c = begin; c < end; c++) {
        float w = x->w[z->place[c] * ROWS + r];
        float e = w - (nearest(limited((w - d.m) / d.s, lim.lo, lim.hi)) * d.s + d.m);
        sum += (double)(e * e) * (z->g ? (double)z->g->diag[c] : 1);
    }
    return sum;
}

/* Each group's own best part of its range: groups are too many to try together. */
static void search_groups(const Solve *z, Tile *x)
{
    for (i64 i = 0; i < z->groups; i++)
        for (i64 r = 0; r < x->rows; r++) {
            double least = INFINITY;
            for (i64 p = 0; p < PARTS; p++) {
                i64 at = i * ROWS + r;
                Grid d = grid_of(&z->f, x->lo[at], x->hi[at], parts[p]);
                double err = group_error(z, x, i, r, d);
                if (err < least) least = err, x->s[at] = d.s, x->m[at] = d.m;
            }
        }
}

static void search(const Solve *z, Tile *x)
{
    if (z->method != METHOD_RTN && z->groups > 1) {
        search_groups(z, x);
        try_grid(z, x);
        return;
    }
    for (i64 p = 0; p < (z->method == METHOD_RTN ? 1 : PARTS); p++) {
        set_grids(z, x, parts[p]);
        try_grid(z, x);
    }
}

/* ---- tiles ---- */

/* w by position and lane, and the ranges of its groups; lanes behind the last row are zero. */
static void load_tile(const Solve *z, Tile *x)
{
    for (i64 i = 0; i < z->groups * ROWS; i++)
        x->lo[i] = INFINITY, x->hi[i] = -INFINITY, x->bs[i] = 1, x->bm[i] = 0;
    memset(x->best, 0, (size_t)z->k * ROWS * sizeof(float)); /* for rows that are not finite */
    for (i64 i = 0; i < z->k; i++) {
        const i64 at = group_of(z, z->column[i]) * ROWS;
        for (i64 r = 0; r < ROWS; r++) {
            float w = r < x->rows ? z->w[(x->first + r) * z->k + z->column[i]] : 0;
            x->w[i * ROWS + r] = w;
            x->lo[at + r] = fminf(x->lo[at + r], w);
            x->hi[at + r] = fmaxf(x->hi[at + r], z->f.asym ? w : fabsf(w));
        }
    }
    for (i64 r = 0; r < ROWS; r++)
        x->best_err[r] = INFINITY;
}

static void store_tile(const Solve *z, const Tile *x)
{
    const QuantWeight *out = z->out;
    for (i64 r = 0; r < x->rows; r++) {
        int8_t *q = out->q + (x->first + r) * z->k;
        for (i64 i = 0; i < z->k; i++)
            q[z->column[i]] = (int8_t)(u8)(int)x->best[i * ROWS + r];
        for (i64 i = 0; i < z->groups; i++) {
            out->s[(x->first + r) * z->groups + i] = x->bs[i * ROWS + r];
            if (out->m) out->m[(x->first + r) * z->groups + i] = x->bm[i * ROWS + r];
        }
        if (out->err) out->err[x->first + r] = x->best_err[r];
    }
}

static Tile *tile_new(const Solve *z, i64 job)
{
    const size_t row = ROWS * sizeof(float);
    Tile *x = xmalloc(1, sizeof *x);
    x->first = job * ROWS;
    x->rows = z->n - x->first < ROWS ? z->n - x->first : ROWS;
    x->w = xmalloc(4 * (size_t)z->k, row);
    x->s = xmalloc(6 * (size_t)z->groups, row);
    float **by_k[] = {&x->e, &x->q, &x->best}, **group[] = {&x->m, &x->bs, &x->bm, &x->lo, &x->hi};
    for (i64 i = 0; i < 3; i++)
        *by_k[i] = x->w + (i + 1) * z->k * ROWS;
    for (i64 i = 0; i < 5; i++)
        *group[i] = x->s + (i + 1) * z->groups * ROWS;
    load_tile(z, x);
    return x;
}

static void tile_free(Tile *x)
{
    free(x->w);
    free(x->s);
    free(x);
}

static void solve_tile(void *user, i64 job)
{
    const Solve *z = user;
    Tile *x = tile_new(z, job);
    search(z, x);
    store_tile(z, x);
    tile_free(x);
}

static void energy_tile(void *user, i64 job)
{
    const Solve *z = user;
    Tile *x = tile_new(z, job);
    cblas_strmm(CblasRowMajor, CblasLeft, CblasLower, CblasTrans, CblasNonUnit, (int)z->k, ROWS, 1,
                z->g->h, (int)z->k, x->w, ROWS);
    for (i64 r = 0; r < x->rows; r++) {
        double sum = 0;
        for (i64 i = r; i < z->k * ROWS; i += ROWS)
            sum += (double)x->w[i] * (double)x->w[i];
        z->out->err[x->first + r] = sum;
    }
    tile_free(x);
}

/* Runs `job` on all tiles. */
static void on_tiles(Solve z, u32 threads, void (*job)(void *user, i64 job))
{
    i64 *column = xmalloc(2 * (size_t)z.k, sizeof *column), *place = column + z.k;
    for (i64 i = 0; i < z.k; i++) {
        column[i] = z.g ? z.g->column[i] : i;
        place[column[i]] = i;
    }
    z.column = column;
    z.place = place;
    z.groups = weight_groups(&z.f, z.k);
    run_jobs(threads, (z.n + ROWS - 1) / ROWS, job, &z);
    free(column);
}

void weight_solve(const Gram *g, const WeightForm *f, WeightMethod method, const float *w, i64 n,
                  i64 k, u32 threads, const QuantWeight *out)
{
    on_tiles((Solve){.g = g, .f = *f, .method = method, .w = w, .n = n, .k = k, .out = out},
             threads, solve_tile);
}

double gram_energy(const Gram *g, const float *w, i64 n, u32 threads)
{
    QuantWeight out = {.err = xmalloc((size_t)n, sizeof *out.err)};
    on_tiles((Solve){.g = g, .w = w, .n = n, .k = g->k, .out = &out}, threads, energy_tile);
    double sum = 0;
    for (i64 r = 0; r < n; r++)
        sum += out.err[r];
    free(out.err);
    return sum;
}

/* ---- drift ---- */

typedef struct Shift {
    const Gram *g;
    float part;
    const float *w;
    i64 n;
    float *out;
} Shift;

static void shift_tile(void *user, i64 job)
{
    const Shift *z = user;
    const Gram *g = z->g;
    const i64 k = g->k, first = job * ROWS, rows = z->n - first < ROWS ? z->n - first : ROWS;
    const float *w = z->w + first * k;
    float *t = xmalloc(2 * (size_t)rows * sizeof *t, (size_t)k), *p = t + rows * k;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)k, (int)k, z->part, w,
                (int)k, g->d, (int)k, 0, t, (int)k);
    for (i64 r = 0; r < rows; r++)
        for (i64 i = 0; i < k; i++)
            p[r * k + i] = t[r * k + g->column[i]];
    cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, (int)rows, (int)k,
                1, g->h, (int)k, p, (int)k);
    cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasNonUnit, (int)rows,
                (int)k, 1, g->h, (int)k, p, (int)k);
    for (i64 r = 0; r < rows; r++)
        for (i64 i = 0; i < k; i++)
            z->out[(first + r) * k + g->column[i]] = w[r * k + g->column[i]] + p[r * k + i];
    free(t);
}

void gram_shift(const Gram *g, float part, const float *w, i64 n, u32 threads, float *out)
{
    Shift z = {g, part, w, n, out};
    run_jobs(threads, (n + ROWS - 1) / ROWS, shift_tile, &z);
}
