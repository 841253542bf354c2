/* The arena of activations over the calls of each phase; layers that use it alike are drawn once.
 */
#include "inspect/chart.h"
#include "inspect/diagram.h"
#include "inspect/page.h"

#include <math.h>

/* Where calls are drawn: call i from x[i] to x[i + 1]; those of layers like the one before take no
 * room. */
typedef struct Time {
    double *x; /* [calls + 1] */
    VEC(ChartSpan) span;
} Time;

static bool same_places(const PlCall *a, const PlCall *b)
{
    if (a->kernel != b->kernel || a->n_out != b->n_out) return false;
    for (u32 i = 0; i < a->n_out; i++) {
        const PlRef *x = &a->out[i], *y = &b->out[i];
        const bool act = str_is(x->place, "act");
        if (act != str_is(y->place, "act") ||
            (act && (x->off != y->off || x->bytes != y->bytes || !str_eq(x->type, y->type))))
            return false;
    }
    return true;
}

static bool same_run(const PlPhase *ph, u32 x, u32 y, u32 n)
{
    if (plan_layer_end(ph, y) - y != n) return false;
    for (u32 i = 0; i < n; i++)
        if (!same_places(&ph->call[x + i], &ph->call[y + i])) return false;
    return true;
}

static const char *span_name(Page *g, i64 layer, u32 times)
{
    if (layer < 0) return "";
    if (times == 1) return arena_printf(g->a, "layer %lld", (long long)layer);
    return arena_printf(g->a, "layers %lld to %lld, the same", (long long)layer,
                        (long long)layer + times - 1);
}

static Time time_of(Page *g, const PlPhase *ph)
{
    Time t = {.x = NEWN(g->a, double, ph->n + 1)};
    double x = 0;
    for (u32 from = 0; from < ph->n;) {
        const u32 n = plan_layer_end(ph, from) - from;
        u32 times = 1;
        while (from + times * n < ph->n && same_run(ph, from, from + times * n, n))
            times++;
        const double begin = x;
        for (u32 i = 0; i < n * times; i++) {
            t.x[from + i] = x;
            if (i < n) x++;
        }
        vec_push(g->a, &t.span, ((ChartSpan){begin, x, span_name(g, ph->call[from].layer, times)}));
        from += n * times;
    }
    t.x[ph->n] = x;
    return t;
}

static void phase(Page *g, const PlPhase *ph)
{
    const Time t = time_of(g, ph);
    VEC(ChartBox) box = {0};
    for (u32 i = 0; i < ph->n; i++)
        for (u32 n = 0; n < ph->call[i].n_out; n++) {
            const PlRef *r = &ph->call[i].out[n];
            if (!str_is(r->place, "act") || !(t.x[i] < t.x[r->last + 1])) continue;
            const PlKernel *k = &g->p->kernel.at[ph->call[i].kernel];
            const char *kind = arena_strdup(g->a, k->kind.p, k->kind.n),
                       *title = arena_printf(
                           g->a, "%.*s, %s, written by call %u (%s), last read by %u",
                           STRF(r->type), html_bytes(g->a, r->bytes), i, kind, r->last);
            const ChartBox b = {t.x[i],
                                t.x[r->last + 1],
                                (double)r->off,
                                (double)r->off + (double)r->bytes,
                                r->type,
                                title,
                                diagram_colour(kind)};
            vec_push(g->a, &box, b);
        }
    const char *label =
        arena_printf(g->a, "Activations of %.*s over its %u calls", STRF(ph->name), ph->n);
    page_text(g, "<figure><figcaption>", str_c(label), "</figcaption><div class=\"wide\">\n");
    chart_boxes(g->o, label, "call", box.at, box.n, t.span.at, t.span.n);
    sb_str(g->o, "</div></figure>\n");
}

void page_memory(Page *g)
{
    sb_str(g->o, "<p class=\"legend\">");
    for (u32 i = 0; diagram_family[i]; i++)
        sb_printf(g->o, "<span><i class=\"c%u\"></i>%s</span>", diagram_colour(diagram_family[i]),
                  diagram_family[i]);
    sb_printf(g->o, "<span><i class=\"c%u\"></i>others</span></p>\n", diagram_colour(""));
    for (u32 k = 0; k < PL_PHASES; k++)
        phase(g, &g->p->phase[k]);
}
