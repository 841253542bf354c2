/* First scales of static quantisers. Statistics as PrefixQuant keeps them (arXiv:2410.05265): the
 * largest magnitude of a channel in each sequence, averaged over sequences with the factor 0.99
 * from the first one on. The average lies below the true maximum, which clips rare outliers. */
#include "passes/calib/calib.h"
#include "passes/quantisers.h"
#include "passes/wide.h"

#include <math.h>
#include <stdlib.h>

typedef struct Stats {
    const Sites *s;
    const Block *b;
    const u32 *site_of; /* [ops] 1 + site that the op makes */
    i64 sequences;
    float **top; /* [sites of the block] [sequences, channels] */
} Stats;

static i64 channels(const Site *s)
{
    return s->heads * s->width;
}

static bool observe(void *user, const CalibCall *call)
{
    const Stats *st = user;
    u32 k = st->site_of[call->op];
    if (!k || k - 1 < st->b->site || k - 1 >= st->b->site + st->b->n_sites) return true;
    i64 n = channels(&st->s->all.at[k - 1]), rows = call->out->dim[0];
    float *top = st->top[k - 1 - st->b->site] + call->sequence * n;
    const float *x = call->out->f;
    for (i64 r = 0; r < rows; r++)
        wide_raise(x + r * n, n, top);
    return true;
}

/* Averages the sequences; the result stays in the first one's row. */
static void average(float *top, i64 sequences, i64 n)
{
    for (i64 s = 1; s < sequences; s++)
        for (i64 i = 0; i < n; i++)
            top[i] = 0.99f * top[i] + 0.01f * top[s * n + i];
}

static bool set_scales(PassCx *cx, Quantiser *q, const float *top)
{
    const Site *s = q->site;
    float *init = NEWN(cx->a, float, s->heads);
    for (i64 h = 0; h < s->heads; h++) {
        float max = 0;
        for (i64 i = 0; i < s->width; i++) {
            float v = top[h * s->width + i];
            if (!isfinite(v))
                return pass_fail(cx, op_at(cx->m, s->def),
                                 "a value of %s is not finite on the calibration text", s->name);
            max = v > max ? v : max;
        }
        init[h] = quantiser_scale(q, max);
    }
    q->init = init;
    return true;
}

static bool block_statistics(PassCx *cx, Calib *run, Stats *st, Quantiser *q)
{
    const Block *b = st->b;
    for (u32 k = 0; k < b->n_sites; k++) {
        st->top[k] = xmalloc((size_t)st->sequences * (size_t)channels(&st->s->all.at[b->site + k]),
                             sizeof(float));
        memset(st->top[k], 0,
               (size_t)st->sequences * (size_t)channels(&st->s->all.at[b->site + k]) *
                   sizeof(float));
    }
    u32 block = (u32)(b - st->s->blocks.at);
    bool last = block + 1 == st->s->blocks.n,
         ok = calib_run(run, sites_observed(st->s, block), 0, !last, observe, st);
    for (u32 k = 0; k < b->n_sites; k++) {
        if (ok) {
            average(st->top[k], st->sequences, channels(&st->s->all.at[b->site + k]));
            ok = set_scales(cx, &q[b->site + k], st->top[k]);
        }
        free(st->top[k]);
    }
    return ok;
}

bool scale_statistics(PassCx *cx, const Sites *s, Quantiser *q)
{
    CalibBudget budget = calib_budget(cx, CALIB_STATISTICS);
    Calib *run = calib_new(cx, budget.sequences, budget.length);
    if (!run) return false;
    u32 *site_of = NEWN(cx->a, u32, cx->m->ops.n);
    for (u32 i = 0; i < s->all.n; i++)
        site_of[s->all.at[i].def] = i + 1;
    bool ok = true;
    for (u32 i = 0; ok && i < s->blocks.n; i++) {
        Stats st = {.s = s,
                    .b = &s->blocks.at[i],
                    .site_of = site_of,
                    .sequences = budget.sequences,
                    .top = NEWN(cx->a, float *, s->blocks.at[i].n_sites)};
        calib_progress(cx, "statistics of activations", i, s->blocks.n);
        ok = block_statistics(cx, run, &st, q);
    }
    calib_progress(cx, "statistics of activations", s->blocks.n, s->blocks.n);
    calib_free(run);
    return ok;
}
