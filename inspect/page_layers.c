/* What is known of each layer: types and scales, exactness, tokens beside the median. */
#include "inspect/chart.h"
#include "inspect/layers.h"
#include "inspect/page.h"

#include "ir/base/json.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_SERIES = 24, MAX_POINTS = 2048 };

static void figure(Page *g, const char *caption)
{
    page_text(g, "<figure><figcaption>", str_c(caption), "</figcaption><div class=\"wide\">\n");
}

static void end_figure(Page *g)
{
    sb_str(g->o, "</div></figure>\n");
}

/* ---- lines over layers ---- */

/* Facts as series over layers; those of no layer, of too far a one and of too many names are left
 * out. */
static void facts(Page *g, const PlFact *f, u32 n, const char *label, const char *unit, bool log)
{
    ChartSeries series[MAX_SERIES];
    double *y[MAX_SERIES];
    ChartLines c = {.label = label, .x = "layer", .unit = unit, .series = series, .log = log};
    for (u32 i = 0; i < n; i++)
        if (f[i].layer < LAYERS_MAX && f[i].layer >= (i64)c.n) c.n = (u32)f[i].layer + 1;
    for (u32 i = 0; i < n; i++) {
        u32 s = 0;
        if (f[i].layer < 0 || f[i].layer >= LAYERS_MAX) continue;
        while (s < c.n_series && !str_eq(series[s].name, f[i].name))
            s++;
        if (s == MAX_SERIES) continue;
        if (s == c.n_series) {
            y[s] = NEWN(g->a, double, c.n);
            for (u32 k = 0; k < c.n; k++)
                y[s][k] = NAN;
            series[c.n_series++] = (ChartSeries){f[i].name, y[s]};
        }
        y[s][f[i].layer] = f[i].value;
    }
    if (!c.n_series) {
        sb_str(g->o, "<p>Nothing was measured.</p>\n");
        return;
    }
    figure(g, label);
    chart_lines(g->o, &c);
    end_figure(g);
}

void page_quality(Page *g)
{
    const Plan *p = g->p;
    facts(g, p->sqnr.at, p->sqnr.n, "Activations, keys and values: SQNR by layer", "dB", false);
    if (p->weight_sqnr.n)
        facts(g, p->weight_sqnr.at, p->weight_sqnr.n, "Weights: SQNR by layer", "dB", false);
}

/* ---- types and scales ---- */

static u32 word_colour(const char *word)
{
    const u32 bits = layers_bits(word);
    return bits <= 4 ? 1 : bits <= 8 ? 0 : bits <= 16 ? 2 : 7;
}

static void types(Page *g, const Layers *l)
{
    ChartRuns c = {.label = "Types of weights, inputs of linears, keys and values, by layer",
                   .x = "layer",
                   .n = l->n,
                   .n_rows = l->types.n,
                   .colour = word_colour};
    Str *name = NEWN(g->a, Str, c.n_rows);
    const char **word = NEWN(g->a, const char *, c.n_rows *(size_t)c.n);
    for (u32 i = 0; i < c.n_rows; i++) {
        name[i] = l->types.at[i].name;
        memcpy(word + (size_t)i * c.n, l->types.at[i].word, c.n * sizeof *word);
    }
    c.name = name;
    c.word = word;
    figure(g, c.label);
    chart_runs(g->o, &c);
    end_figure(g);
}

void page_types(Page *g)
{
    const Layers l = layers_of(g->a, g->g);
    VEC(PlFact) f = {0};
    if (!l.types.n) {
        sb_str(g->o, "<p>There are no layers.</p>\n");
        return;
    }
    types(g, &l);
    for (u32 i = 0; i < l.scale.n; i++)
        vec_push(g->a, &f, ((PlFact){l.scale.at[i].name, l.scale.at[i].layer, l.scale.at[i].hi}));
    if (f.n)
        facts(g, f.at, f.n,
              "Scales of activations, keys and values, by layer; of several heads the largest",
              "scale", true);
    else
        sb_str(g->o, "<p>No scale is known before the program runs.</p>\n");
}

/* ---- tokens ---- */

static const double OUTLIER = 64; /* times the median: `prefix` takes such a token for one */
static const double FAR = 8;      /* a point of its own from here on */

/* 260 " the", 198 "\n". */
const char *page_prefix(Page *g)
{
    StrBuf b = {.a = g->a};
    for (u32 i = 0; i < g->p->prefix.n; i++) {
        sb_printf(&b, "%s%lld", i ? ", " : "", (long long)g->p->prefix.at[i]);
        if (i >= g->p->prefix_text.n) continue;
        sb_ch(&b, ' ');
        sb_json_str(&b, g->p->prefix_text.at[i]);
    }
    return b.n ? b.p : "none";
}

static Str token_name(Page *g, const PlToken *t)
{
    StrBuf b = {.a = g->a};
    if (t->text.n)
        sb_json_str(&b, t->text);
    else
        sb_printf(&b, "%lld", (long long)t->id);
    return (Str){b.p, b.n};
}

static bool is_seen(const PlTokens *t)
{
    return t->layer < LAYERS_MAX;
}

/* The range of both charts: from the lowest bin that has a token to above the largest one. */
static void range(const Plan *p, ChartSpread *c)
{
    c->lo = 1;
    c->hi = 2 * OUTLIER;
    for (u32 i = 0; i < p->tokens.n; i++) {
        const PlTokens *t = &p->tokens.at[i];
        if (!is_seen(t)) continue;
        c->n = t->layer >= (i64)c->n ? (u32)t->layer + 1 : c->n;
        for (u32 b = 0; b < PL_BINS; b++)
            if (t->bin[b] > 0) {
                c->lo = fmin(c->lo, c->first * pow(c->step, b));
                c->hi = fmax(c->hi, c->first * pow(c->step, b + 1));
            }
        for (u32 k = 0; k < t->n_top; k++)
            if (t->top[k].ratio < 1e15) c->hi = fmax(c->hi, t->top[k].ratio);
    }
}

static int by_height(const void *x, const void *y)
{
    const ChartPoint *a = x, *b = y;
    return a->y != b->y ? (a->y < b->y) - (a->y > b->y) : (a->x > b->x) - (a->x < b->x);
}

/* The largest token of a layer, and all that lie far out. */
static u32 points(Page *g, const PlTokens *t, ChartPoint *out, u32 room)
{
    u32 n = 0;
    for (u32 k = 0; k < t->n_top && n < room; k++) {
        const PlToken *x = &t->top[k];
        if (!(x->ratio > 1e-15) || !(x->ratio < 1e15) || (k && x->ratio < FAR)) continue;
        const char *where = arena_printf(g->a, "token %lld of sequence %lld",
                                         (long long)x->position, (long long)x->sequence);
        out[n++] =
            (ChartPoint){(u32)t->layer, x->ratio, token_name(g, x), str_c(where), x->ratio >= FAR};
    }
    return n;
}

static void spread(Page *g, ChartSpread c, const char *when)
{
    const Plan *p = g->p;
    i64 *count = NEWN(g->a, i64, (size_t)c.n * c.bins), all = 0;
    ChartPoint *point = NEWN(g->a, ChartPoint, MAX_POINTS);
    for (u32 i = 0; i < p->tokens.n; i++) {
        const PlTokens *t = &p->tokens.at[i];
        if (!is_seen(t) || !str_is(t->when, when)) continue;
        memcpy(count + t->layer * PL_BINS, t->bin, sizeof t->bin);
        c.n_points += points(g, t, point + c.n_points, MAX_POINTS - c.n_points);
        if (!all)
            for (u32 b = 0; b < PL_BINS; b++)
                all += t->bin[b] < 1 << 30 ? t->bin[b] : 0;
    }
    if (!all) return;
    qsort(point, c.n_points, sizeof *point, by_height);
    c.count = count;
    c.point = point;
    figure(g, arena_printf(g->a, "%s, %lld tokens by layer", c.label, (long long)all));
    chart_spread(g->o, &c);
    end_figure(g);
}

void page_outliers(Page *g)
{
    const double step = sqrt(2);
    ChartSpread c = {.x = "layer",
                     .unit = "token / median",
                     .bins = PL_BINS,
                     .first = pow(step, -PL_BIN_ONE),
                     .step = step,
                     .mark = OUTLIER,
                     .mark_name = "64: an outlier"};
    if (g->p->prefix.n)
        page_text(g, "<p>The prefix: <code>", str_c(page_prefix(g)), "</code></p>\n");
    facts(g, g->p->outlier.at, g->p->outlier.n,
          "Largest to median token in front of the down projection, by layer", "max / median",
          true);
    range(g->p, &c);
    c.label = "Before: each sequence alone";
    c.colour = 1;
    spread(g, c, "before");
    c.label = arena_printf(g->a, "After: behind the prefix %s", page_prefix(g));
    c.colour = 0;
    spread(g, c, "after");
}
