/* The page, a function a section. Its tables are Plan's; what they mean is in docs/inspect.md. */
#include "inspect/chart.h"
#include "inspect/inspect.h"
#include "inspect/plan.h"

#include <math.h>

extern const struct InspectText { /* page.css, embedded; ends with zeros */
    const char *name, *text;
    u64 bytes;
} inspect_texts[];

enum { MAX_LAYERS = 4096, MAX_SERIES = 24 };

typedef struct Page {
    Arena *a;
    StrBuf *o;
    const Plan *p;
} Page;

static void text(Page *g, const char *before, Str s, const char *after)
{
    sb_str(g->o, before);
    html_text(g->o, s);
    sb_str(g->o, after);
}

static void number(Page *g, i64 v)
{
    sb_printf(g->o, "<td class=\"number\">%lld</td>", (long long)v);
}

static void bar(Page *g, double part)
{
    sb_printf(g->o, "<td class=\"bar\"><span style=\"width:%.2f%%\"></span></td>",
              100 * fmin(fmax(part, 0), 1));
}

/* ---- at a glance ---- */

static void card(Page *g, const char *name, const char *value)
{
    sb_printf(g->o, "<div><dt>%s</dt><dd>", name);
    text(g, "", str_c(value), "</dd></div>\n");
}

static const char *prefix_text(Page *g)
{
    StrBuf b = {.a = g->a};
    for (u32 i = 0; i < g->p->prefix.n; i++)
        sb_printf(&b, "%s%lld", i ? ", " : "", (long long)g->p->prefix.at[i]);
    return b.n ? b.p : "none";
}

static void glance(Page *g)
{
    const Plan *p = g->p;
    StrBuf targets = {.a = g->a};
    sb_str(&targets, "");
    for (u32 i = 0; i < p->target.n; i++)
        sb_printf(&targets, "%s%.*s", i ? ", " : "", STRF(p->target.at[i]));
    sb_str(g->o, "<dl>\n");
    card(g, "targets", targets.p);
    card(g, "context, tokens", arena_printf(g->a, "%lld", (long long)p->context));
    card(g, "prefix, token ids", prefix_text(g));
    card(g, "weights", html_bytes(g->a, p->weight_bytes));
    card(g, "weights read a token", html_bytes(g->a, p->read_per_token));
    card(g, "KV cache a token", html_bytes(g->a, p->kv_per_token));
    card(g, "activations", html_bytes(g->a, p->activations));
    const PlPhase *decode = &p->phase[PL_PHASES - 1];
    card(g, "a token's kernel calls, barriers",
         arena_printf(g->a, "%u, %lld", decode->n, (long long)decode->barriers));
    sb_str(g->o, "</dl>\n");
}

/* ---- passes ---- */

static void passes(Page *g)
{
    i64 most = 1;
    for (u32 i = 0; i < g->p->pass.n; i++)
        most = g->p->pass.at[i].ops > most ? g->p->pass.at[i].ops : most;
    sb_str(g->o, "<div class=\"wide\"><table><tr><th>pass</th><th>options</th><th "
                 "class=\"number\">changes</th><th class=\"number\">ops</th><th></th></tr>\n");
    for (u32 i = 0; i < g->p->pass.n; i++) {
        const PlPass *s = &g->p->pass.at[i];
        sb_str(g->o, s->changes ? "<tr>" : "<tr class=\"nothing\">");
        html_element(g->o, "td", "name", s->name);
        html_element(g->o, "td", "name", s->options);
        number(g, s->changes);
        number(g, s->ops);
        bar(g, (double)s->ops / (double)most);
        sb_str(g->o, "</tr>\n");
    }
    sb_str(g->o, "</table></div>\n");
}

/* ---- the calls of a token ---- */

/* `times` runs of n calls that differ in their layer alone; the first begins at call `from`. */
typedef struct Fold {
    u32 from, n, times;
} Fold;

static bool same_refs(const PlRef *x, u32 nx, const PlRef *y, u32 ny)
{
    if (nx != ny) return false;
    for (u32 i = 0; i < nx; i++)
        if (!str_eq(x[i].type, y[i].type)) return false;
    return true;
}

static bool same_run(const PlPhase *ph, u32 x, u32 y, u32 n)
{
    for (u32 i = 0; i < n; i++) {
        const PlCall *a = &ph->call[x + i], *b = &ph->call[y + i];
        if (a->kernel != b->kernel || a->bytes != b->bytes || a->flops != b->flops ||
            a->barrier != b->barrier || a->each != b->each ||
            !same_refs(a->in, a->n_in, b->in, b->n_in) ||
            !same_refs(a->out, a->n_out, b->out, b->n_out))
            return false;
    }
    return true;
}

static u32 run_end(const PlPhase *ph, u32 from)
{
    u32 i = from;
    while (i < ph->n && ph->call[i].layer == ph->call[from].layer)
        i++;
    return i;
}

static Fold fold_at(const PlPhase *ph, u32 from)
{
    Fold f = {from, run_end(ph, from) - from, 1};
    for (;;) {
        const u32 next = from + f.times * f.n;
        if (next >= ph->n || ph->call[next].layer != ph->call[from].layer + f.times ||
            run_end(ph, next) - next != f.n || !same_run(ph, from, next, f.n))
            return f;
        f.times++;
    }
}

/* An operand: its type, and where it is from or in. */
static void operand(Page *g, const PlPhase *ph, const PlCall *c, const PlRef *r, bool in)
{
    html_element(g->o, "code", NULL, r->type.n ? r->type : r->place);
    const PlCall *w = in && r->writer ? &ph->call[r->writer - 1] : NULL;
    if (w && w->layer == c->layer)
        sb_printf(g->o, " of <a href=\"#s%lld\">%lld</a>", (long long)w->step, (long long)w->step);
    else if (w && w->layer >= 0)
        sb_str(g->o, " of the layer before");
    else if (w)
        sb_printf(g->o, " of %lld", (long long)w->step);
    else if (r->type.n)
        text(g, " in ", r->place, "");
}

static void operands(Page *g, const PlPhase *ph, const PlCall *c, bool in)
{
    const PlRef *r = in ? c->in : c->out;
    const u32 n = in ? c->n_in : c->n_out;
    sb_str(g->o, in ? "<div>in: " : "<div>out: ");
    for (u32 i = 0; i < n; i++) {
        if (i) sb_str(g->o, ", ");
        operand(g, ph, c, &r[i], in);
    }
    sb_str(g->o, "</div>");
}

static void one_call(Page *g, const PlPhase *ph, const PlCall *c)
{
    const PlKernel *k = &g->p->kernel.at[c->kernel];
    sb_printf(g->o, "<li class=\"call\" id=\"s%lld\">%lld <b>", (long long)c->step,
              (long long)c->step);
    html_text(g->o, k->kind);
    text(g, "</b> <a href=\"#k-", k->name, "\">");
    text(g, "", k->name, "</a>");
    if (c->barrier) sb_str(g->o, " <span class=\"barrier\">behind a barrier</span>");
    if (c->each) sb_str(g->o, " (every thread for itself)");
    operands(g, ph, c, true);
    if (c->w.place.n) {
        i64 layer;
        text(g, "<div>weights: <code>", plan_role(g->a, c->w.place, &layer), "</code>, ");
        sb_printf(g->o, "%s</div>", html_bytes(g->a, c->bytes));
    }
    operands(g, ph, c, false);
    sb_str(g->o, "</li>\n");
}

static void fold_title(Page *g, const PlPhase *ph, const Fold *f)
{
    const i64 first = ph->call[f->from].layer, last = first + f->times - 1;
    if (first < 0)
        sb_str(g->o, "<h3>outside the layers</h3>\n");
    else if (f->times == 1)
        sb_printf(g->o, "<h3>layer %lld</h3>\n", (long long)first);
    else
        sb_printf(g->o, "<h3>layers %lld to %lld, %u times the same</h3>\n", (long long)first,
                  (long long)last, f->times);
}

static void graph(Page *g)
{
    const PlPhase *ph = &g->p->phase[PL_PHASES - 1];
    for (u32 at = 0; at < ph->n;) {
        const Fold f = fold_at(ph, at);
        fold_title(g, ph, &f);
        sb_str(g->o, "<ol class=\"calls\">\n");
        for (u32 i = 0; i < f.n; i++)
            one_call(g, ph, &ph->call[at + i]);
        sb_str(g->o, "</ol>\n");
        at += f.n * f.times;
    }
}

/* ---- memory over time ---- */

static void memory(Page *g)
{
    for (u32 k = 0; k < PL_PHASES; k++) {
        const PlPhase *ph = &g->p->phase[k];
        VEC(ChartBox) box = {0};
        double most = 1;
        for (u32 i = 0; i < ph->n; i++)
            for (u32 n = 0; n < ph->call[i].n_out; n++) {
                const PlRef *r = &ph->call[i].out[n];
                if (!str_is(r->place, "act")) continue;
                const char *title =
                    arena_printf(g->a, "%.*s, %s, written by call %u, last read by %u",
                                 STRF(r->type), html_bytes(g->a, r->bytes), i, r->last);
                const ChartBox b = {
                    i,     r->last + 1.0,     (double)r->off, (double)r->off + (double)r->bytes,
                    title, ph->call[i].kernel};
                vec_push(g->a, &box, b);
                most = fmax(most, b.y1);
            }
        text(g, "<figure><figcaption>", ph->name, "</figcaption><div class=\"wide\">\n");
        chart_boxes(g->o, arena_printf(g->a, "activations of %.*s over its calls", STRF(ph->name)),
                    "call", ph->n ? ph->n : 1, most, box.at, box.n);
        sb_str(g->o, "</div></figure>\n");
    }
}

/* ---- facts by layer ---- */

/* Facts as series over layers; those of no layer, of too far a one and of too many names are left
 * out. */
static void facts(Page *g, const PlFact *f, u32 n, const char *label, const char *unit, bool log)
{
    ChartSeries series[MAX_SERIES];
    double *y[MAX_SERIES];
    ChartLines c = {.label = label, .x = "layer", .unit = unit, .series = series, .log = log};
    for (u32 i = 0; i < n; i++)
        if (f[i].layer < MAX_LAYERS && f[i].layer >= (i64)c.n) c.n = (u32)f[i].layer + 1;
    for (u32 i = 0; i < n; i++) {
        u32 s = 0;
        if (f[i].layer < 0 || f[i].layer >= MAX_LAYERS) continue;
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
    text(g, "<figure><figcaption>", str_c(label), "</figcaption><div class=\"wide\">\n");
    chart_lines(g->o, &c);
    sb_str(g->o, "</div></figure>\n");
}

static void quality(Page *g)
{
    const Plan *p = g->p;
    facts(g, p->sqnr.at, p->sqnr.n, "Activations, keys and values: SQNR by layer", "dB", false);
    if (p->weight_sqnr.n)
        facts(g, p->weight_sqnr.at, p->weight_sqnr.n, "Weights: SQNR by layer", "dB", false);
}

static void outliers(Page *g)
{
    facts(g, g->p->outlier.at, g->p->outlier.n,
          "Largest to median token in front of the down projection, by layer", "max / median",
          true);
}

/* ---- weights and kernels ---- */

typedef struct Size {
    Str role, layout;
    i64 bytes;
    u32 n;
} Size;

static void weights(Page *g)
{
    VEC(Size) size = {0};
    Map index = {.a = g->a};
    i64 most = 1;
    for (u32 i = 0; i < g->p->section.n; i++) {
        const PlSection *s = &g->p->section.at[i];
        i64 layer;
        bool added;
        const Str role = plan_role(g->a, s->name, &layer);
        const char *key = arena_printf(g->a, "%.*s %.*s", STRF(role), STRF(s->layout));
        u32 *at = map_put(&index, str_c(key), &added);
        if (added) {
            *at = size.n;
            vec_push(g->a, &size, ((Size){role, s->layout, 0, 0}));
        }
        Size *z = &size.at[*at];
        z->bytes += s->bytes;
        z->n++;
        most = z->bytes > most ? z->bytes : most;
    }
    sb_str(g->o, "<div class=\"wide\"><table><tr><th>weight</th><th>layout</th><th "
                 "class=\"number\">sections</th><th class=\"number\">bytes</th><th></th></tr>\n");
    for (u32 i = 0; i < size.n; i++) {
        sb_str(g->o, "<tr>");
        html_element(g->o, "td", "name", size.at[i].role);
        html_element(g->o, "td", NULL, size.at[i].layout);
        number(g, size.at[i].n);
        html_element(g->o, "td", "number", str_c(html_bytes(g->a, size.at[i].bytes)));
        bar(g, (double)size.at[i].bytes / (double)most);
        sb_str(g->o, "</tr>\n");
    }
    sb_str(g->o, "</table></div>\n");
}

/* What a token makes of a kernel. */
typedef struct Work {
    i64 calls, flops, bytes;
} Work;

static void kernels(Page *g)
{
    const PlPhase *ph = &g->p->phase[PL_PHASES - 1];
    Work *w = NEWN(g->a, Work, g->p->kernel.n);
    double all = 1;
    for (u32 i = 0; i < ph->n; i++) {
        const PlCall *c = &ph->call[i];
        w[c->kernel].calls++;
        w[c->kernel].flops = c->flops;
        w[c->kernel].bytes += c->bytes;
        all += (double)c->bytes;
    }
    sb_str(g->o,
           "<div class=\"wide\"><table><tr><th>kernel</th><th>template</th><th "
           "class=\"number\">calls a token</th><th class=\"number\">operations a call</th><th "
           "class=\"number\">weights a token</th><th></th></tr>\n");
    for (u32 i = 0; i < g->p->kernel.n; i++) {
        const PlKernel *k = &g->p->kernel.at[i];
        text(g, "<tr id=\"k-", k->name, "\"><td class=\"name\">");
        if (g->p->cpu) text(g, "<a href=\"src/kernels/", k->name, ".c\">");
        text(g, "", k->name, g->p->cpu ? "</a></td>" : "</td>");
        html_element(g->o, "td", "name", k->file);
        number(g, w[i].calls);
        number(g, w[i].flops);
        html_element(g->o, "td", "number", str_c(html_bytes(g->a, w[i].bytes)));
        bar(g, (double)w[i].bytes / all);
        sb_str(g->o, "</tr>\n");
    }
    sb_str(g->o, "</table></div>\n");
}

/* ---- the whole ---- */

static const struct {
    const char *title, *says;
    void (*write)(Page *g);
} sections[] = {
    {"At a glance", NULL, glance},
    {"What the passes did",
     "The pipeline, in order; grey passes found nothing to change. Ops are those of the module "
     "behind the pass, constants included.",
     passes},
    {"A token, kernel by kernel",
     "The schedule of one step of decoding. Each box is one kernel call with the types of what it "
     "reads and writes; layers that differ in their weights alone are shown once.",
     graph},
    {"How exact it is",
     "Signal to quantisation noise on the calibration text: how far quantised values are from "
     "their originals. 6 dB are one bit.",
     quality},
    {"Outlier tokens",
     "How much larger the largest token is than the median one. A prefix takes the outliers out "
     "of the sequence: before is without it, after with it.",
     outliers},
    {"Where the bytes of the weights are", NULL, weights},
    {"Memory over time",
     "The arena of activations: a box is a value, from the call that writes it to the last one "
     "that reads it. Boxes never overlap where two values live at the same time.",
     memory},
    {"Kernels",
     "Those of CPUs link to their specialised sources in src/kernels. Bars are shares of the "
     "weight bytes "
     "that a token reads, which bounds its time. Operations are per row; of attention, per row "
     "and key.",
     kernels},
};

static void head(Page *g)
{
    text(g,
         "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta "
         "name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>",
         g->p->model, ": what pfqc decided</title>\n<style>\n");
    sb_add(g->o, inspect_texts[0].text, inspect_texts[0].bytes);
    text(g, "</style>\n</head>\n<body>\n<h1>", g->p->model, "</h1>\n");
    text(g, "<p>Recipe <code>", g->p->recipe, "</code>, ");
    text(g, "pfqc ", g->p->version, "</p>\n");
}

bool inspect_html(Diag *d, Arena *a, const char *path, StrBuf *page)
{
    Plan plan;
    Page g = {a, page, &plan};
    if (!plan_read(d, a, path, &plan)) return false;
    head(&g);
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++) {
        sb_printf(page, "<section>\n<h2>%s</h2>\n", sections[i].title);
        if (sections[i].says) text(&g, "<p>", str_c(sections[i].says), "</p>\n");
        sections[i].write(&g);
        sb_str(page, "</section>\n");
    }
    sb_str(page, "</body>\n</html>\n");
    return true;
}
