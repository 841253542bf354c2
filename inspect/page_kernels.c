/* Where bytes and operations are: weights by kind, kernels, and how far each is from what a machine
 * can do. */
#include "inspect/chart.h"
#include "inspect/page.h"
#include "inspect/sizes.h"
#include "inspect/work.h"

#include <math.h>

/* ---- weights ---- */

void page_weights(Page *g)
{
    const Sizes s = sizes_of(g->a, g->v);
    sb_printf(
        g->o,
        "<div class=\"wide\"><table><tr><th>weight</th><th>%s</th><th class=\"number\">%s</th>"
        "<th class=\"number\">bytes</th><th></th></tr>\n",
        g->p ? "layout" : "stored as", g->p ? "sections" : "tensors");
    for (u32 i = 0; i < s.list.n; i++) {
        const Size *z = &s.list.at[i];
        sb_str(g->o, "<tr>");
        html_element(g->o, "td", "name", z->role);
        html_element(g->o, "td", NULL, z->layout);
        page_number(g, z->n);
        html_element(g->o, "td", "number", str_c(html_bytes(g->a, z->bytes)));
        page_bar(g, (double)z->bytes / (double)s.most);
        sb_str(g->o, "</tr>\n");
    }
    sb_str(g->o, "</table></div>\n");
}

/* ---- kernels ---- */

enum { MAX_ROWS = 64, MAX_MARKS = 32 };

/* "3", "0-29", "outside". */
static const char *layers_text(Page *g, const Work *w)
{
    const i64 first = w->layers.n ? w->layers.at[0] : -1,
              last = w->layers.n ? w->layers.at[w->layers.n - 1] : -1;
    if (first < 0) return "outside";
    return arena_printf(g->a, first == last ? "%lld" : "%lld-%lld", (long long)first,
                        (long long)last);
}

/* Microseconds that a roof allows and that it took, and what share of the roof that is. */
static void times(Page *g, const Work *w, const Machine *roof)
{
    const double least = roof ? work_least_us(roof, w->flops, w->bytes) : 0;
    if (roof) sb_printf(g->o, "<td class=\"number\">%.2f</td>", least);
    if (!g->v->times) return;
    if (!(w->us > 0))
        sb_str(g->o, roof ? "<td></td><td></td>" : "<td></td>");
    else if (roof)
        sb_printf(g->o, "<td class=\"number\">%.2f</td><td class=\"number\">%.0f %%</td>", w->us,
                  100 * least / w->us);
    else
        sb_printf(g->o, "<td class=\"number\">%.2f</td>", w->us);
}

static void kernel_row(Page *g, const PlKernel *k, const Work *w, double all, const Machine *roof)
{
    page_text(g, "<tr id=\"k-", k->name, "\"><td class=\"name\">");
    if (g->p->cpu) page_text(g, "<a href=\"src/kernels/", k->name, ".c\">");
    page_text(g, "", k->name, g->p->cpu ? "</a></td>" : "</td>");
    html_element(g->o, "td", "name", k->file);
    page_number(g, w->calls);
    if (w->calls)
        sb_printf(g->o, "<td><a href=\"#s%lld\">%lld</a>, %s</td>", (long long)w->step,
                  (long long)w->step, layers_text(g, w));
    else
        sb_str(g->o, "<td></td>");
    page_number(g, w->one);
    html_element(g->o, "td", "number", str_c(html_bytes(g->a, (i64)w->bytes)));
    sb_printf(g->o, "<td class=\"number\">%.2f</td>", w->bytes > 0 ? w->flops / w->bytes : 0.0);
    times(g, w, roof);
    page_bar(g, w->bytes / all);
    sb_str(g->o, "</tr>\n");
}

static void cuda_row(Page *g, const PlCuda *k)
{
    const Str file = k->code_of.n ? k->code_of : k->name;
    sb_str(g->o, "<tr><td class=\"name\">");
    page_text(g, "<a href=\"src/cuda/", file, ".cu\">");
    page_text(g, "", k->name, "</a></td>");
    html_element(g->o, "td", "name", k->kind);
    html_element(g->o, "td", "name", k->file);
    const char *step = arena_printf(g->a, "%lld", (long long)k->step);
    page_text(g, "<td>", k->phase, " ");
    if (str_is(k->phase, "decode") && map_get(&g->shown, str_c(step)))
        sb_printf(g->o, "<a href=\"#s%s\">%s</a>", step, step);
    else if (k->step >= 0)
        sb_str(g->o, step);
    sb_str(g->o, "</td>");
    page_number(g, k->calls);
    page_number(g, k->block);
    html_element(g->o, "td", "number", str_c(html_bytes(g->a, k->shared)));
    html_element(g->o, "td", "number", str_c(html_bytes(g->a, k->bytes)));
    sb_str(g->o, "</tr>\n");
}

static void cuda_kernels(Page *g)
{
    sb_str(g->o, "<h3>on GPUs</h3>\n<div class=\"wide\"><table><tr><th>kernel</th><th>computes</th>"
                 "<th>template</th><th>phase, step</th><th class=\"number\">calls</th><th "
                 "class=\"number\">threads a block</th><th class=\"number\">shared memory</th><th "
                 "class=\"number\">code</th></tr>\n");
    for (u32 i = 0; i < g->p->cuda.n; i++)
        cuda_row(g, &g->p->cuda.at[i]);
    sb_str(g->o, "</table></div>\n");
}

/* What a token takes at least, and took. */
static void say_times(Page *g, const Work *w, const Machine *roof)
{
    const double least = work_least_of_all(g->p, w, roof), took = work_took(g->p, w, g->v->times);
    if (!roof && !(took > 0)) return;
    const double rows = work_rows(g->v->times), keys = work_keys(g->p, g->v->times);
    if (rows > 1)
        sb_printf(g->o, "<p>A token of each of %.0f sequences, behind %.0f others, takes ", rows,
                  keys);
    else
        sb_printf(g->o, "<p>A token behind %.0f others takes ", keys);
    if (roof)
        sb_printf(g->o, "at least %.0f microseconds by %s%s", least,
                  roof->ops > 0 ? "the data sheet of an " : "", roof->name);
    if (took > 0)
        sb_printf(g->o, "%s%.0f microseconds %s", roof ? ", and " : "", took,
                  g->v->times->whole > 0
                      ? "as one kernel (<code>bench --cuda-decode graph --trace</code> has the "
                        "times of many)"
                      : "in the kernels that were measured");
    if (took > 0 && roof) sb_printf(g->o, ": %.0f %% of the roof", 100 * least / took);
    sb_str(g->o, ".</p>\n");
}

void page_kernels(Page *g)
{
    Machine known;
    const Machine *roof = work_roof(g->p, g->v->times, &known) ? &known : NULL;
    const Times *t = g->v->times;
    const Work *w = work_of(g->a, g->p, t, work_rows(t), work_keys(g->p, t));
    const char *of = work_rows(t) > 1 ? "step" : "token";
    double all = 1;
    for (u32 i = 0; i < g->p->kernel.n; i++)
        all += w[i].bytes;
    say_times(g, w, roof);
    sb_printf(g->o,
              "<div class=\"wide\"><table><tr><th>kernel</th><th>template</th><th "
              "class=\"number\">calls a %s</th><th>first step, layers</th><th "
              "class=\"number\">operations a call%s</th><th class=\"number\">bytes a %s</th><th "
              "class=\"number\">operations a byte</th>",
              of, work_rows(t) > 1 ? " and row" : "", of);
    if (roof) sb_str(g->o, "<th class=\"number\">at least, us</th>");
    if (g->v->times) sb_str(g->o, "<th class=\"number\">measured, us</th>");
    if (roof && g->v->times) sb_str(g->o, "<th class=\"number\">of the roof</th>");
    sb_str(g->o, "<th></th></tr>\n");
    for (u32 i = 0; i < g->p->kernel.n; i++)
        kernel_row(g, &g->p->kernel.at[i], &w[i], all, roof);
    sb_str(g->o, "</table></div>\n");
    if (g->p->cuda.n) cuda_kernels(g);
}

/* ---- roofline ---- */

static u32 ridges(Page *g, ChartMark *mark)
{
    u32 n = 0;
    for (const Machine *m = work_machine; m->target; m++)
        for (u32 t = 0; t < g->p->target.n && n < MAX_MARKS; t++)
            if (str_is(g->p->target.at[t], m->target))
                mark[n++] = (ChartMark){m->name, m->ops / m->bytes};
    return n;
}

void page_roofline(Page *g)
{
    const double rows = g->p->chunk > 1 ? (double)g->p->chunk : 1;
    const double keys = work_keys(g->p, NULL);
    const Work *one = work_of(g->a, g->p, NULL, 1, keys),
               *many = work_of(g->a, g->p, NULL, rows, keys);
    ChartRow row[MAX_ROWS];
    ChartMark mark[MAX_MARKS];
    u32 n = 0;
    for (u32 i = 0; i < g->p->kernel.n && n < MAX_ROWS; i++) {
        if (!one[i].calls || one[i].flops <= 0 || one[i].bytes <= 0) continue;
        const double x = one[i].flops / one[i].bytes, y = many[i].flops / many[i].bytes;
        row[n++] = (ChartRow){
            g->p->kernel.at[i].name, x, y,
            arena_printf(g->a, "%.*s: %.3g operations a byte with one row, %.3g with %.0f",
                         STRF(g->p->kernel.at[i].name), x, y, rows),
            i};
    }
    if (!n) {
        sb_str(g->o, "<p>There is nothing to draw.</p>\n");
        return;
    }
    sb_str(g->o, "<figure><div class=\"wide\">\n");
    chart_rows(g->o, "operations a byte of the kernels", "operations a byte", row, n, mark,
               ridges(g, mark));
    sb_str(g->o, "</div></figure>\n");
}
