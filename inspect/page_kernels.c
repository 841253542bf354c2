/* Where bytes and operations are: weights by kind, kernels, and how far each is from what a machine
 * can do. */
#include "inspect/chart.h"
#include "inspect/page.h"
#include "inspect/sizes.h"

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

enum { KEYS = 1024, MAX_ROWS = 64 };

/* Dense 8-bit integer operations and bytes a second, from NVIDIA's data sheets (H100 SXM5, A100 80
 * GB SXM). Memory and arithmetic take equally long where ops / bytes are done for each byte: the
 * ridge. */
typedef struct Machine {
    const char *target, *name;
    double ops, bytes;
} Machine;
static const Machine machines[] = {
    {"sm_90a", "H100 SXM", 1979e12, 3.35e12},
    {"sm_80", "A100 SXM", 624e12, 2.039e12},
};
enum { N_MACHINES = sizeof machines / sizeof *machines };

/* The first of the targets that is known; NULL: none is. */
static const Machine *machine_of(const Plan *p)
{
    for (u32 t = 0; t < p->target.n; t++)
        for (u32 i = 0; i < N_MACHINES; i++)
            if (str_is(p->target.at[t], machines[i].target)) return &machines[i];
    return NULL;
}

static double least_us(const Machine *m, double flops, double bytes)
{
    return 1e6 * fmax(flops / m->ops, bytes / m->bytes);
}

/* What a phase makes of a kernel. */
typedef struct Work {
    i64 calls;
    double flops, bytes; /* of all calls */
    i64 one;             /* operations of a call and row; attention: and key */
    i64 step;            /* of its first call */
    VEC(i64) layers;
} Work;

static double bytes_of(const PlRef *r, u32 n, double rows, double keys)
{
    double sum = 0;
    for (u32 i = 0; i < n; i++) /* of the KV cache, bytes of one token */
        sum += (double)r[i].bytes * (str_is(r[i].place, "kv") ? keys : rows);
    return sum;
}

/* `rows` rows behind KEYS keys (or what the context has), by the calls of @decode, whose places are
 * of one row. */
static Work *work_of(Page *g, double rows)
{
    const PlPhase *ph = &g->p->phase[PL_PHASES - 1];
    Work *w = NEWN(g->a, Work, g->p->kernel.n);
    const double keys = g->p->context < KEYS ? (double)g->p->context : (double)KEYS;
    for (u32 i = 0; i < ph->n; i++) {
        const PlCall *c = &ph->call[i];
        Work *k = &w[c->kernel];
        if (!k->calls++) k->step = c->step;
        k->one = c->flops;
        k->flops += (double)c->flops * rows * (c->per_key ? keys : 1);
        k->bytes += (double)c->bytes + bytes_of(c->in, c->n_in, rows, keys) +
                    bytes_of(c->out, c->n_out, rows, rows);
        vec_push(g->a, &k->layers, c->layer);
    }
    return w;
}

/* "3", "0-29", "outside". */
static const char *layers_text(Page *g, const Work *w)
{
    const i64 first = w->layers.n ? w->layers.at[0] : -1,
              last = w->layers.n ? w->layers.at[w->layers.n - 1] : -1;
    if (first < 0) return "outside";
    return arena_printf(g->a, first == last ? "%lld" : "%lld-%lld", (long long)first,
                        (long long)last);
}

static void kernel_row(Page *g, const PlKernel *k, const Work *w, double all)
{
    const Machine *m = machine_of(g->p);
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
    if (m) sb_printf(g->o, "<td class=\"number\">%.2f</td>", least_us(m, w->flops, w->bytes));
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

void page_kernels(Page *g)
{
    const Work *w = work_of(g, 1);
    const Machine *m = machine_of(g->p);
    double all = 1, us = 0;
    for (u32 i = 0; i < g->p->kernel.n; i++) {
        all += w[i].bytes;
        if (m) us += least_us(m, w[i].flops, w[i].bytes);
    }
    if (m)
        sb_printf(g->o,
                  "<p>By the data sheet of an %s a token behind %d others takes at least %.0f "
                  "microseconds.</p>\n",
                  m->name, KEYS, us);
    sb_str(g->o,
           "<div class=\"wide\"><table><tr><th>kernel</th><th>template</th><th "
           "class=\"number\">calls a token</th><th>first step, layers</th><th "
           "class=\"number\">operations a call</th><th class=\"number\">bytes a token</th><th "
           "class=\"number\">operations a byte</th>");
    if (m) sb_str(g->o, "<th class=\"number\">at least, us</th>");
    sb_str(g->o, "<th></th></tr>\n");
    for (u32 i = 0; i < g->p->kernel.n; i++)
        kernel_row(g, &g->p->kernel.at[i], &w[i], all);
    sb_str(g->o, "</table></div>\n");
    if (g->p->cuda.n) cuda_kernels(g);
}

/* ---- roofline ---- */

static u32 ridges(Page *g, ChartMark *mark)
{
    u32 n = 0;
    for (u32 i = 0; i < N_MACHINES; i++)
        for (u32 t = 0; t < g->p->target.n; t++)
            if (str_is(g->p->target.at[t], machines[i].target))
                mark[n++] = (ChartMark){machines[i].name, machines[i].ops / machines[i].bytes};
    return n;
}

void page_roofline(Page *g)
{
    const double rows = g->p->chunk > 1 ? (double)g->p->chunk : 1;
    const Work *one = work_of(g, 1), *many = work_of(g, rows);
    ChartRow row[MAX_ROWS];
    ChartMark mark[N_MACHINES * 4];
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
               g->p->target.n <= 4 ? ridges(g, mark) : 0);
    sb_str(g->o, "</div></figure>\n");
}
