/* The page, a function a section. Its tables are Plan's; what they mean is in docs/inspect.md. */
#include "inspect/chart.h"
#include "inspect/forms.h"
#include "inspect/page.h"

#include "ir/text.h"

#include <math.h>

extern const struct InspectText { /* page.css, embedded; ends with zeros */
    const char *name, *text;
    u64 bytes;
} inspect_texts[];

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
    card(g, "prefix, tokens", page_prefix(g));
    card(g, "weights", html_bytes(g->a, p->weight_bytes));
    card(g, "weights read a token", html_bytes(g->a, p->read_per_token));
    card(g, "KV cache a token", html_bytes(g->a, p->kv_per_token));
    card(g, "activations", html_bytes(g->a, p->activations));
    const PlPhase *decode = &p->phase[PL_PHASES - 1];
    card(g, "a token's kernel calls, barriers",
         arena_printf(g->a, "%u, %lld", decode->n, (long long)decode->barriers));
    sb_str(g->o, "</dl>\n");
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
    {"Types and scales",
     "What each layer holds its numbers in, and the scales of those that are integers with a scale "
     "known before the program runs.",
     NEEDS_MODULE, page_types},
    {"How exact it is",
     "Signal to quantisation noise on the calibration text: how far quantised values are from "
     "their originals. 6 dB are one bit.",
     NEEDS_PLAN, page_quality},
    {"Outlier tokens",
     "How much larger tokens are than the median one of their sequence, where the down projection "
     "reads them. A prefix takes the outliers out of the sequence: before is without it, after "
     "with "
     "it. Shades say how many tokens lie where, points are the largest by name.",
     NEEDS_PLAN, page_outliers},
    {"Where the bytes of the weights are", NULL, 0, page_weights},
    {"Memory over time",
     "The arena of activations: a box is a value, from the call that writes it to the last one "
     "that reads it, in the colour of the kernel that wrote it. Boxes never overlap where two "
     "values live at the same time; layers that use the same places are drawn once.",
     NEEDS_PLAN, page_memory},
    {"How far from the roof",
     "Operations for each byte that a kernel moves, with one row at its left end and with a whole "
     "chunk of a prompt at its right; attention behind 1024 tokens. Left of a machine's ridge its "
     "memory bounds the time, right of it the arithmetic.",
     NEEDS_PLAN, page_roofline},
    {"Kernels",
     "Each links to its specialised source, and from there to the ops and layers that it computes. "
     "Bars are shares of the bytes that a token moves, which bounds its time. Operations are per "
     "row; of attention, per row and key. What stays in caches is read faster than memory.",
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
    const u32 fn = graph_shown(m);
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
