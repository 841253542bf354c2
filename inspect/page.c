/* The page, a function a section. Its tables are Plan's; what they mean is in docs/inspect.md. */
#include "inspect/chart.h"
#include "inspect/forms.h"
#include "inspect/page.h"

#include "ir/base/json.h"
#include "ir/text.h"

#include <math.h>

extern const struct InspectText { /* page.css, embedded; ends with zeros */
    const char *name, *text;
    u64 bytes;
} inspect_texts[];

enum { MAX_LAYERS = 4096, MAX_SERIES = 24 };

void page_text(Page *g, const char *before, Str s, const char *after)
{
    sb_str(g->o, before);
    html_text(g->o, s);
    sb_str(g->o, after);
}

void page_number(Page *g, i64 v)
{
    sb_printf(g->o, "<td class=\"number\">%lld</td>", (long long)v);
}

void page_bar(Page *g, double part)
{
    sb_printf(g->o, "<td class=\"bar\"><span style=\"width:%.2f%%\"></span></td>",
              100 * fmin(fmax(part, 0), 1));
}

/* ---- at a glance ---- */

static void card(Page *g, const char *name, const char *value)
{
    sb_printf(g->o, "<div><dt>%s</dt><dd>", name);
    page_text(g, "", str_c(value), "</dd></div>\n");
}

/* Ids, and what they stand for: 260 " the", 198 "\n". */
static const char *prefix_text(Page *g)
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
    card(g, "prefix, tokens", prefix_text(g));
    card(g, "weights", html_bytes(g->a, p->weight_bytes));
    card(g, "weights read a token", html_bytes(g->a, p->read_per_token));
    card(g, "KV cache a token", html_bytes(g->a, p->kv_per_token));
    card(g, "activations", html_bytes(g->a, p->activations));
    const PlPhase *decode = &p->phase[PL_PHASES - 1];
    card(g, "a token's kernel calls, barriers",
         arena_printf(g->a, "%u, %lld", decode->n, (long long)decode->barriers));
    sb_str(g->o, "</dl>\n");
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
        page_text(g, "<figure><figcaption>", ph->name, "</figcaption><div class=\"wide\">\n");
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
    page_text(g, "<figure><figcaption>", str_c(label), "</figcaption><div class=\"wide\">\n");
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
    if (g->p->prefix.n)
        page_text(g, "<p>The prefix: <code>", str_c(prefix_text(g)), "</code></p>\n");
    facts(g, g->p->outlier.at, g->p->outlier.n,
          "Largest to median token in front of the down projection, by layer", "max / median",
          true);
}

/* ---- the whole ---- */

enum { NEEDS_PLAN = 1, NEEDS_MODULE = 2 };

static const struct {
    const char *title, *says;
    u32 needs;
    void (*write)(Page *g);
} sections[] = {
    {"At a glance", NULL, NEEDS_PLAN, glance},
    {"What the passes did",
     "The pipeline, in order; grey passes found nothing to change. Ops are those of the module "
     "behind the pass, constants included. A pass opens: what it took out of the module's text "
     "and what it put in, layers that changed alike told once.",
     NEEDS_PLAN, page_passes},
    {"The layers as kernels",
     "A box is a kernel with the ops it computes, at its right the weights it reads. Arrows are "
     "values in memory with type and shape; blue ones are integers, times their scale. Values that "
     "pass over kernels run at the left.",
     NEEDS_MODULE, page_diagram},
    {"A token, kernel by kernel",
     "The schedule of one step of decoding. Each box is one kernel call with the types of what it "
     "reads and writes; layers that differ in their weights alone are shown once.",
     NEEDS_PLAN, page_graph},
    {"How exact it is",
     "Signal to quantisation noise on the calibration text: how far quantised values are from "
     "their originals. 6 dB are one bit.",
     NEEDS_PLAN, quality},
    {"Outlier tokens",
     "How much larger the largest token is than the median one. A prefix takes the outliers out "
     "of the sequence: before is without it, after with it.",
     NEEDS_PLAN, outliers},
    {"Where the bytes of the weights are", NULL, 0, page_weights},
    {"Memory over time",
     "The arena of activations: a box is a value, from the call that writes it to the last one "
     "that reads it. Boxes never overlap where two values live at the same time.",
     NEEDS_PLAN, memory},
    {"How far from the roof",
     "Operations for each byte that a kernel moves, with one row at its left end and with a whole "
     "chunk of a prompt at its right; attention behind 1024 tokens. Left of a machine's ridge its "
     "memory bounds the time, right of it the arithmetic.",
     NEEDS_PLAN, page_roofline},
    {"Kernels",
     "Each links to its specialised source, and from there to the ops and layers that it computes. "
     "Bars are shares of the bytes that a token moves, which bounds its time. Operations are per "
     "row; of attention, per row and key.",
     NEEDS_PLAN, page_kernels},
};

static void head(Page *g)
{
    const Str model = g->p ? g->p->model : str_c(ir_cstr(g->v->m, g->v->m->name));
    page_text(g,
              "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta "
              "name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>",
              model, ": what pfqc decided</title>\n<style>\n");
    sb_add(g->o, inspect_texts[0].text, inspect_texts[0].bytes);
    page_text(g, "</style>\n</head>\n<body>\n<h1>", model, "</h1>\n");
    if (!g->p) return;
    page_text(g, "<p>Recipe <code>", g->p->recipe, "</code>, ");
    page_text(g, "pfqc ", g->p->version, "</p>\n");
}

/* The graph of a token, and its values by name. */
static void open_graph(Page *g)
{
    Module *m = g->v->m;
    const Fn *decode = ir_fn(m, "decode");
    const u32 fn = decode ? (u32)(decode - m->fns.at) : m->fns.n > 1 ? 1 : 0;
    bool added;
    if (!fn) return;
    g->g = NEW(g->a, Graph);
    graph_build(g->a, m, fn, g->g);
    for (u32 v = 1; v < m->values.n; v++)
        if (g->g->names[v]) *map_put(&g->values, str_c(g->g->names[v]), &added) = v;
}

void form_html(Arena *a, const View *v, StrBuf *o)
{
    Page g = {.a = a, .o = o, .v = v, .p = v->plan, .values = {.a = a}, .shown = {.a = a}};
    if (v->m) open_graph(&g);
    head(&g);
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++) {
        if ((sections[i].needs & NEEDS_PLAN && !g.p) || (sections[i].needs & NEEDS_MODULE && !g.g))
            continue;
        sb_printf(o, "<section>\n<h2>%s</h2>\n", sections[i].title);
        if (sections[i].says) page_text(&g, "<p>", str_c(sections[i].says), "</p>\n");
        sections[i].write(&g);
        sb_str(o, "</section>\n");
    }
    sb_str(o, "</body>\n</html>\n");
}
