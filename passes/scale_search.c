/* Clip factors of quantisers, chosen block by block on the calibration text.
 *
 * Inputs of linears: the factor with the least squared error of the whole block's output, against
 * the block without quantisers on the same inputs, which come from the quantised blocks before.
 * Values and queries: the error of the tensor itself, per head. Keys: the error of the attention's
 * result, per kv head, on a sample of queries. Masks and the prefix are always those of the model;
 * factors apply to the first scale, never to one found before.
 *
 * With `joint` the search walks through the block: what stands before a site is computed once, with
 * the quantisers found so far, and each trial replays only what lies behind the site.
 */
#include "passes/calib/calib.h"
#include "passes/quantisers.h"
#include "passes/wide.h"

#include <math.h>
#include <stdlib.h>

enum { LANES = 16 };

typedef struct Search {
    PassCx *cx;
    const Sites *s;
    Quantiser *q;
    const SearchOptions *o;
    Calib *run;
    i64 sequences, length;
    u32 *site_of; /* [ops] 1 + site that the op makes */
    u32 *out_of;  /* [ops] 1 + output (Sites.outs) that the op makes */
    bool *on;     /* [sites] simulated now */
    const Block *b;
    float **target;         /* [outputs of the block] [sequences, length, cols] */
    double *err;            /* [sequences] of the block's outputs, in a trial */
    double *signal, *noise; /* [sites of the block, sequences] */
    bool keep, measure;     /* this run makes the target; measures signal and noise */
} Search;

/* ---- simulation ---- */

static void measured_apply(Search *s, u32 k, i64 sequence, float *x, i64 rows)
{
    i64 n = rows * s->s->all.at[k].heads * s->s->all.at[k].width;
    float *old = xmalloc((size_t)n, sizeof *old);
    double signal = 0, noise = 0;
    memcpy(old, x, (size_t)n * sizeof *old);
    quantiser_apply(&s->q[k], x, rows);
    for (i64 i = 0; i < n; i++) {
        double e = (double)x[i] - (double)old[i];
        signal += (double)old[i] * (double)old[i];
        noise += e * e;
    }
    free(old);
    i64 slot = (k - s->b->site) * s->sequences + sequence;
    s->signal[slot] += signal;
    s->noise[slot] += noise;
}

/* Squared error of a token, relative to its square: the norm of the next block makes all tokens
 * equally large. */
WIDE static double row_error(const float *y, const float *target, i64 n)
{
    float err[LANES] = {0}, square[LANES] = {0};
    double e = 0, t = 0;
    i64 i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) {
            float d = y[i + j] - target[i + j];
            err[j] += d * d;
            square[j] += target[i + j] * target[i + j];
        }
    for (; i < n; i++) {
        double d = (double)(y[i] - target[i]);
        e += d * d;
        t += (double)target[i] * (double)target[i];
    }
    for (int j = 0; j < LANES; j++) {
        e += (double)err[j];
        t += (double)square[j];
    }
    return t > 0 ? e / t : e;
}

static void output(Search *s, u32 o, const CalibCall *call)
{
    i64 n = call->out->dim[0] * type_cols(type_of(s->cx->m, s->s->outs.at[o]));
    float *target = s->target[o - s->b->out] + call->sequence * n;
    const float *y = call->out->f;
    if (s->keep) {
        memcpy(target, y, (size_t)n * sizeof *y);
        return;
    }
    i64 cols = type_cols(type_of(s->cx->m, s->s->outs.at[o]));
    double sum = 0;
    for (i64 i = 0; i < n; i += cols)
        sum += row_error(y + i, target + i, cols);
    s->err[call->sequence] += sum;
}

static bool simulate(void *user, const CalibCall *call)
{
    Search *s = user;
    u32 k = s->site_of[call->op], o = s->out_of[call->op];
    if (k && s->on[k - 1]) {
        if (s->measure)
            measured_apply(s, k - 1, call->sequence, call->out->f, call->out->dim[0]);
        else
            quantiser_apply(&s->q[k - 1], call->out->f, call->out->dim[0]);
    }
    if (o && !s->measure && o - 1 >= s->b->out && o - 1 < s->b->out + s->b->n_outs)
        output(s, o - 1, call);
    return true;
}

/* Moves on to position `end`, for good, with the quantisers that are on. */
static bool advance(Search *s, u32 end)
{
    if (end <= calib_at(s->run)) return true;
    s->measure = true;
    bool ok = calib_run(s->run, end, 0, true, simulate, s);
    s->measure = false;
    return ok;
}

/* ---- inputs of linears ---- */

static void set_factor(Quantiser *q, float factor)
{
    for (i64 h = 0; h < q->site->heads; h++)
        q->factor[h] = factor;
}

/* The error of the block's outputs over the first sequences, with the site's quantiser at a factor.
 */
static bool trial(Search *s, u32 site, float factor, i64 sequences, double *err)
{
    set_factor(&s->q[site], factor);
    for (i64 i = 0; i < sequences; i++)
        s->err[i] = 0;
    if (!calib_run(s->run, s->b->end, sequences, false, simulate, s)) return false;
    *err = 0;
    for (i64 i = 0; i < sequences; i++)
        *err += s->err[i];
    if (!(*err >= 0)) *err = INFINITY; /* NaN */
    return true;
}

enum { FEW = 2, STEPS = 8 };
static const float RATIO = 0.75f;

/* A factor on the grid of powers of RATIO with a least error near it, from a few sequences; 1 is
 * the highest of a dynamic quantiser. The error has one minimum: clipping grows on one side of it,
 * rounding on the other. */
static bool coarse_factor(Search *s, u32 site, float *best)
{
    i64 few = s->sequences < FEW ? s->sequences : FEW;
    double at, next;
    float factor = RATIO, by = RATIO;
    if (!trial(s, site, factor, few, &at) || !trial(s, site, factor * by, few, &next)) return false;
    if (next >= at) { /* not below: above */
        by = 1 / RATIO;
        if (!trial(s, site, factor * by, few, &next)) return false;
    }
    for (int i = 0; i < STEPS && next < at; i++) {
        factor *= by;
        at = next;
        if (s->q[site].dynamic && factor * by > 1) break;
        if (!trial(s, site, factor * by, few, &next)) return false;
    }
    *best = factor;
    return true;
}

/* log of the factor where the parabola through three points, `step` apart in log, is least; at most
 * a step from the middle. */
static double vertex(double below, double middle, double above, double step)
{
    double bend = below - 2 * middle + above, to = (below - above) / 2;
    if (!(bend > 0)) return below < above ? -step : step;
    to = to / bend * step;
    return to < -step ? -step : to > step ? step : to;
}

/* Half steps around the coarse factor and the vertex of their parabola, on all sequences. */
static bool search_input(Search *s, u32 site)
{
    const double step = -log((double)RATIO) / 2;
    const float limit = s->q[site].dynamic ? 1 : INFINITY;
    float middle, best = 1;
    double err[4], least = INFINITY;
    s->on[site] = true;
    if (!coarse_factor(s, site, &middle)) return false;
    for (int i = 0; i < 4; i++) {
        double by = i < 3 ? (i - 1) * step : vertex(err[0], err[1], err[2], step);
        float factor = middle * (float)exp(by);
        if (factor > limit) factor = limit;
        if (!trial(s, site, factor, s->sequences, &err[i])) return false;
        if (err[i] < least) least = err[i], best = factor;
    }
    set_factor(&s->q[site], best);
    s->on[site] = s->o->joint;
    return true;
}

/* ---- keys, values, queries ---- */

enum { FACTORS = 18, QUERIES = 32 };

static float factor_at(int i)
{
    return 1.1f - 0.05f * (float)i; /* 1.1 .. 0.25 */
}

typedef struct Heads {
    Search *s;
    OpId attention;
    u32 site[3]; /* 1 + site of q, k, v */
    double *err; /* [sequences, 3, heads, FACTORS] */
    i64 heads;   /* of q, the most there are */
} Heads;

static double *errors(const Heads *a, i64 sequence, u32 operand, i64 head)
{
    return a->err + ((sequence * 3 + operand) * a->heads + head) * FACTORS;
}

static void tensor_errors(const Heads *a, const CalibCall *call, u32 operand)
{
    const Quantiser *q = &a->s->q[a->site[operand] - 1];
    i64 heads = q->site->heads, d = q->site->width, rows = call->in[operand].dim[0];
    const float *x = call->in[operand].f;
    float *y = xmalloc((size_t)d, sizeof *y);
    for (i64 r = 0; r < rows; r++)
        for (i64 h = 0; h < heads; h++, x += d)
            for (int f = 0; f < FACTORS; f++) {
                quantiser_head(q, h, factor_at(f), x, y);
                float sum = 0;
                for (i64 i = 0; i < d; i++)
                    sum += (y[i] - x[i]) * (y[i] - x[i]);
                errors(a, call->sequence, operand, h)[f] += (double)sum;
            }
    free(y);
}

typedef struct OneHead {      /* what the queries of one kv head read */
    const float *kt;          /* [d, rows] keys, transposed */
    const float *v, *pk, *pv; /* row j at j * stride */
    i64 rows, prefix, d, stride, window;
    float scale;
    float *score; /* [prefix + rows] */
} OneHead;

/* y [d]: attention of the query at row t. */
WIDE static void attend(const OneHead *h, const float *q, i64 t, float *y)
{
    i64 lo = h->window > 0 && t - h->window + 1 > 0 ? t - h->window + 1 : 0;
    float *score = h->score + h->prefix, top = -INFINITY, sum = 0;
    for (i64 j = lo; j <= t; j++)
        score[j] = 0;
    for (i64 i = 0; i < h->d; i++) {
        const float *k = h->kt + i * h->rows, x = q[i] * h->scale;
        for (i64 j = lo; j <= t; j++)
            score[j] += x * k[j];
        y[i] = 0;
    }
    for (i64 j = 0; j < h->prefix; j++) {
        h->score[j] = 0;
        for (i64 i = 0; i < h->d; i++)
            h->score[j] += h->scale * q[i] * h->pk[j * h->stride + i];
        top = h->score[j] > top ? h->score[j] : top;
    }
    for (i64 j = lo; j <= t; j++)
        top = score[j] > top ? score[j] : top;
    for (i64 j = 0; j < h->prefix + t + 1; j++) {
        if (j >= h->prefix && j < h->prefix + lo) continue;
        const float *v = j < h->prefix ? h->pv + j * h->stride : h->v + (j - h->prefix) * h->stride;
        float p = expf(h->score[j] - top);
        sum += p;
        for (i64 i = 0; i < h->d; i++)
            y[i] += p * v[i];
    }
    for (i64 i = 0; i < h->d; i++)
        y[i] /= sum;
}

/* Results of the sampled queries of kv head g with keys at a factor (NULL: unquantised); y
 * [queries, heads of g, d]. */
static void attend_sample(const CalibCall *call, OneHead *one, float *kt, const Quantiser *q,
                          const float *factor, i64 g, float *y)
{
    const Tensor *tq = &call->in[0], *tk = &call->in[1];
    i64 d = one->d, rows = one->rows, group = tq->dim[1] / tk->dim[1];
    float *row = xmalloc((size_t)d, sizeof *row);
    for (i64 j = 0; j < rows; j++) {
        const float *k = tk->f + j * one->stride + g * d;
        if (factor) quantiser_head(q, g, *factor, k, row), k = row;
        for (i64 i = 0; i < d; i++)
            kt[i * rows + j] = k[i];
    }
    free(row);
    i64 sample = rows < QUERIES ? rows : QUERIES;
    for (i64 n = 0; n < sample; n++) {
        i64 t = (n + 1) * rows / sample - 1;
        for (i64 h = 0; h < group; h++, y += d)
            attend(one, tq->f + (t * tq->dim[1] + g * group + h) * d, t, y);
    }
}

static void key_errors(const Heads *a, const CalibCall *call)
{
    const Quantiser *q = &a->s->q[a->site[1] - 1];
    const Op *op = op_at(a->s->cx->m, call->op);
    const Tensor *k = &call->in[1], *v = &call->in[2];
    i64 d = k->dim[2], g = k->dim[1], rows = k->dim[0], group = call->in[0].dim[1] / g;
    bool prefixed = call->nin > 4 && call->in[4].p;
    OneHead one = {.rows = rows,
                   .prefix = prefixed ? call->in[4].dim[0] : 0,
                   .d = d,
                   .stride = g * d,
                   .window = op_int(op, A_WINDOW),
                   .scale = (float)op_float(op, A_SCALE)};
    size_t n = (size_t)((rows < QUERIES ? rows : QUERIES) * group * d);
    float *kt = xmalloc((size_t)(d * rows), sizeof *kt), *want = xmalloc(n, sizeof *want),
          *y = xmalloc(n, sizeof *y);
    one.kt = kt;
    one.score = xmalloc((size_t)(one.prefix + rows), sizeof *one.score);
    for (i64 h = 0; h < g; h++) {
        one.v = v->f + h * d;
        one.pk = prefixed ? call->in[4].f + h * d : NULL;
        one.pv = prefixed ? call->in[5].f + h * d : NULL;
        attend_sample(call, &one, kt, q, NULL, h, want);
        for (int f = 0; f < FACTORS; f++) {
            float factor = factor_at(f);
            attend_sample(call, &one, kt, q, &factor, h, y);
            double sum = 0;
            for (size_t i = 0; i < n; i++)
                sum += (double)((y[i] - want[i]) * (y[i] - want[i]));
            errors(a, call->sequence, 1, h)[f] += sum;
        }
    }
    free(kt);
    free(want);
    free(y);
    free(one.score);
}

static bool observe_heads(void *user, const CalibCall *call)
{
    Heads *a = user;
    if (call->op != a->attention) return simulate(a->s, call);
    if (a->site[0]) tensor_errors(a, call, 0);
    if (a->site[1]) key_errors(a, call);
    if (a->site[2]) tensor_errors(a, call, 2);
    return true;
}

/* The factor with the least error of one head, or (dynamic) of all. */
static void choose_heads(const Heads *a, u32 operand)
{
    Quantiser *q = &a->s->q[a->site[operand] - 1];
    for (i64 h = 0; h < q->site->heads; h++) {
        double least = INFINITY;
        for (int f = 0; f < FACTORS; f++) {
            double err = 0;
            if (q->dynamic && factor_at(f) > 1.001f) continue;
            for (i64 g = q->dynamic ? 0 : h; g < (q->dynamic ? q->site->heads : h + 1); g++)
                for (i64 s = 0; s < a->s->sequences; s++)
                    err += errors(a, s, operand, g)[f];
            if (err < least) least = err, q->factor[h] = factor_at(f);
        }
    }
}

/* All sites of the attention that site k is an operand of. */
static bool search_heads(Search *s, u32 k, bool *done)
{
    const Block *b = s->b;
    Module *m = s->cx->m;
    Heads a = {.s = s, .attention = s->s->all.at[k].reader};
    for (u32 i = b->site; i < b->site + b->n_sites; i++) {
        const Site *site = &s->s->all.at[i];
        if (site->cls < SITE_K || site->reader != a.attention) continue;
        a.site[site->cls == SITE_Q ? 0 : site->cls == SITE_K ? 1 : 2] = i + 1;
        done[i - b->site] = true;
    }
    a.heads = type_of(m, op_at(m, a.attention)->in[0])->dim[1];
    size_t n = (size_t)(s->sequences * 3 * a.heads * FACTORS);
    a.err = xmalloc(n, sizeof *a.err);
    for (size_t i = 0; i < n; i++)
        a.err[i] = 0;
    u32 end = ir_op_position(m, a.attention) + 1;
    bool ok = calib_run(s->run, end, 0, false, observe_heads, &a);
    for (u32 i = 0; ok && i < 3; i++)
        if (a.site[i]) {
            choose_heads(&a, i);
            s->on[a.site[i] - 1] = s->o->joint;
        }
    free(a.err);
    return ok;
}

/* ---- blocks ---- */

static bool make_target(Search *s)
{
    s->keep = true;
    bool ok = calib_run(s->run, s->b->end, 0, false, simulate, s);
    s->keep = false;
    return ok;
}

static bool search_block(Search *s)
{
    const Block *b = s->b;
    bool *done = NEWN(s->cx->a, bool, b->n_sites);
    bool ok = make_target(s);
    for (u32 k = b->site; ok && k < b->site + b->n_sites; k++) {
        if (done[k - b->site]) continue;
        const Site *site = &s->s->all.at[k];
        if (s->o->joint) ok = advance(s, site->at);
        if (ok) ok = site->cls >= SITE_K ? search_heads(s, k, done) : search_input(s, k);
    }
    return ok;
}

/* Finite, as meta of a module must be. */
static float decibels(double signal, double noise)
{
    const double most = 300;
    double db = noise > 0 && signal > 0 ? 10 * log10(signal / noise) : most;
    return (float)(db > most ? most : db < -most ? -most : db);
}

static bool run_block(Search *s, float *sqnr)
{
    const Block *b = s->b;
    s->target = NEWN(s->cx->a, float *, b->n_outs);
    for (u32 i = 0; s->o->search && i < b->n_outs; i++) {
        i64 cols = type_cols(type_of(s->cx->m, s->s->outs.at[b->out + i]));
        s->target[i] = xmalloc((size_t)(s->sequences * s->length), (size_t)cols * sizeof(float));
    }
    s->signal = NEWN(s->cx->a, double, b->n_sites * s->sequences);
    s->noise = NEWN(s->cx->a, double, b->n_sites * s->sequences);
    bool ok = !s->o->search || search_block(s);
    for (u32 i = 0; i < b->n_outs; i++)
        free(s->target[i]);
    for (u32 k = b->site; k < b->site + b->n_sites; k++)
        s->on[k] = true;
    ok = ok && advance(s, b->end);
    for (u32 k = 0; k < b->n_sites; k++) {
        double signal = 0, noise = 0;
        for (i64 i = 0; i < s->sequences; i++) {
            signal += s->signal[k * s->sequences + i];
            noise += s->noise[k * s->sequences + i];
        }
        sqnr[b->site + k] = decibels(signal, noise);
    }
    return ok;
}

bool scale_search(PassCx *cx, const Sites *sites, Quantiser *q, const SearchOptions *o, float *sqnr)
{
    CalibBudget budget = calib_budget(cx, o->search ? CALIB_SEARCH : CALIB_STATISTICS);
    if (!o->search && budget.sequences > FEW) budget.sequences = FEW;
    Search s = {.cx = cx,
                .s = sites,
                .q = q,
                .o = o,
                .run = calib_new(cx, budget.sequences, budget.length),
                .sequences = budget.sequences,
                .length = budget.length,
                .site_of = NEWN(cx->a, u32, cx->m->ops.n),
                .out_of = NEWN(cx->a, u32, cx->m->ops.n),
                .on = NEWN(cx->a, bool, sites->all.n),
                .err = NEWN(cx->a, double, budget.sequences)};
    const char *what = o->search ? "search of scales" : "error of quantisers";
    if (!s.run) return false;
    for (u32 i = 0; i < sites->all.n; i++)
        s.site_of[sites->all.at[i].def] = i + 1;
    for (u32 i = 0; i < sites->outs.n; i++)
        s.out_of[pass_def(cx->m, sites->outs.at[i])] = i + 1;
    bool ok = true;
    for (u32 i = 0; ok && i < sites->blocks.n; i++) {
        s.b = &sites->blocks.at[i];
        calib_progress(cx, what, i, sites->blocks.n);
        if (s.b->n_sites) ok = advance(&s, s.b->begin) && run_block(&s, sqnr);
    }
    calib_progress(cx, what, sites->blocks.n, sites->blocks.n);
    calib_free(s.run);
    return ok;
}

void scale_report(PassCx *cx, const Sites *s, const float *sqnr)
{
    for (u32 i = 0; i < s->all.n; i++)
        ir_meta_float(cx->m, arena_printf(cx->a, "sqnr.%s", s->all.at[i].name), (double)sqnr[i]);
}
