/* Boxes over time. */
#include "inspect/chart_int.h"

#include <math.h>

enum { EDGE = 8 };

typedef struct Plane {
    StrBuf *o;
    Axis y;
    double scale; /* of x */
} Plane;

/* In one unit, with as many digits as tell one line from the next. */
static const char *bytes_number(Arena *a, const Axis *y, double v)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    double unit = 1;
    u32 u = 0;
    for (; y->hi >= 1000 * unit && u + 1 < sizeof units / sizeof *units; u++)
        unit *= 1000;
    const double digits = fmin(fmax(ceil(-log10(y->step / unit)), 0), 6);
    return arena_printf(a, "%.*f %s", (int)digits, v / unit, units[u]);
}

static double across(const Plane *p, double x)
{
    return (double)LEFT + p->scale * x;
}

static void one_box(const Plane *p, const ChartBox *b)
{
    const double top = axis_place(&p->y, b->y1), tall = fmax(axis_place(&p->y, b->y0) - top, 0.5),
                 left = across(p, b->x0), wide = p->scale * (b->x1 - b->x0);
    sb_printf(p->o,
              "<rect class=\"box c%u\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" "
              "height=\"%.2f\"><title>",
              b->colour % COLOURS, left, top, wide, tall);
    html_text(p->o, str_c(b->title));
    sb_str(p->o, "</title></rect>\n");
    if (tall < 15 || chart_text_width(b->name) > wide - 4) return;
    sb_printf(p->o, "<text class=\"in\" text-anchor=\"middle\" x=\"%.1f\" y=\"%.1f\">",
              left + wide / 2, top + tall / 2 + 4);
    html_text(p->o, b->name);
    sb_str(p->o, "</text>\n");
}

/* A line between spans, the name of each above it where there is room. */
static void one_span(const Plane *p, const ChartSpan *s)
{
    const double x0 = across(p, s->x0), x1 = across(p, s->x1);
    if (s->x0 > 0)
        sb_printf(p->o, "<path class=\"part\" d=\"M%.1f %dV%d\"/>\n", x0, TOP - 14,
                  HEIGHT - BOTTOM);
    if (!*s->name || chart_text_width(str_c(s->name)) > x1 - x0) return;
    sb_printf(p->o, "<text class=\"tick\" text-anchor=\"middle\" x=\"%.1f\" y=\"%d\">",
              (x0 + x1) / 2, TOP - 6);
    html_text(p->o, str_c(s->name));
    sb_str(p->o, "</text>\n");
}

void chart_boxes(StrBuf *o, const char *label, const char *x, const ChartBox *box, u32 n,
                 const ChartSpan *span, u32 n_spans)
{
    const double most = n_spans ? span[n_spans - 1].x1 : 1;
    double lo = INFINITY, hi = 1;
    for (u32 i = 0; i < n; i++) {
        lo = fmin(lo, box[i].y0);
        hi = fmax(hi, box[i].y1);
    }
    const Plane p = {o, axis_of(n ? lo : 0, hi, false), (WIDTH - LEFT - EDGE) / most};
    chart_begin(o, label, HEIGHT);
    axis_grid(o, &p.y, WIDTH - EDGE, bytes_number);
    for (u32 i = 0; i < n; i++)
        one_box(&p, &box[i]);
    for (u32 i = 0; i < n_spans; i++)
        one_span(&p, &span[i]);
    chart_x_name(o, (LEFT + WIDTH - EDGE) / 2.0, HEIGHT - 12, x);
    sb_str(o, "</svg>\n");
}
