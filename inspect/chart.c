#include "inspect/chart_int.h"

#include <math.h>

void html_text(StrBuf *o, Str s)
{
    static const char *const names[] = {
        ['<'] = "&lt;", ['>'] = "&gt;", ['&'] = "&amp;", ['"'] = "&quot;", ['\''] = "&#39;"};
    for (size_t i = 0; i < s.n; i++) {
        const unsigned char c = (unsigned char)s.p[i];
        if (c < sizeof names / sizeof *names && names[c])
            sb_str(o, names[c]);
        else if (c >= 32)
            sb_ch(o, s.p[i]);
        else
            sb_ch(o, ' ');
    }
}

void html_element(StrBuf *o, const char *name, const char *class, Str text)
{
    sb_printf(o, class ? "<%s class=\"%s\">" : "<%s>", name, class);
    html_text(o, text);
    sb_printf(o, "</%s>", name);
}

const char *html_bytes(Arena *a, i64 bytes)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    double v = (double)bytes;
    u32 u = 0;
    for (; v >= 1000 && u + 1 < sizeof units / sizeof *units; u++)
        v /= 1000;
    return arena_printf(a, u == 0 || v >= 100 ? "%.0f %s" : "%.1f %s", v, units[u]);
}

/* The next of 1, 2, 5, 10, ... at or above v. */
static double nice(double v)
{
    const double ten = pow(10, floor(log10(v))), m = v / ten;
    return ten * (m <= 1 ? 1 : m <= 2 ? 2 : m <= 5 ? 5 : 10);
}

Axis axis_of(double lo, double hi, bool log)
{
    if (!(lo <= hi)) lo = 0, hi = 1; /* no point at all */
    if (log) return (Axis){floor(log10(lo)), fmax(ceil(log10(hi)), floor(log10(lo)) + 1), 1, true};
    const double step = nice(fmax(hi - lo, 1e-9) / 5);
    return (Axis){floor(lo / step) * step, fmax(ceil(hi / step), floor(lo / step) + 1) * step, step,
                  false};
}

double axis_place(const Axis *y, double v)
{
    const double at = y->log ? log10(v) : v;
    return HEIGHT - BOTTOM - (at - y->lo) / (y->hi - y->lo) * (HEIGHT - TOP - BOTTOM);
}

void chart_begin(StrBuf *o, const char *label, double height)
{
    sb_printf(o, "<svg viewBox=\"0 0 %d %.0f\" role=\"img\" aria-label=\"", WIDTH, height);
    html_text(o, str_c(label));
    sb_str(o, "\">\n");
}

const char *axis_number(Arena *a, const Axis *y, double v)
{
    (void)y;
    return arena_printf(a, "%g", v);
}

void axis_grid(StrBuf *o, const Axis *y, double right,
               const char *(*text)(Arena *a, const Axis *y, double v))
{
    for (i64 i = 0; i <= (i64)((y->hi - y->lo) / y->step + 0.5); i++) {
        const double at = y->lo + (double)i * y->step, v = y->log ? pow(10, at) : at,
                     down = axis_place(y, v);
        sb_printf(o,
                  "<line class=\"grid\" x1=\"%d\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>"
                  "<text class=\"tick\" text-anchor=\"end\" x=\"%d\" y=\"%.1f\">%s</text>\n",
                  LEFT, right, down, down, LEFT - 6, down + 4, text(o->a, y, v));
    }
}

void axis_x(StrBuf *o, u32 n, double y, double (*place)(const void *user, u32 i), const void *user)
{
    const u32 every = n > 16 ? (u32)nice(n / 8.0) : 1;
    for (u32 i = 0; i < n; i += every)
        sb_printf(o,
                  "<text class=\"tick\" text-anchor=\"middle\" x=\"%.1f\" y=\"%.1f\">%u</text>\n",
                  place(user, i), y, i);
}

void chart_x_name(StrBuf *o, double middle, double y, const char *name)
{
    sb_printf(o, "<text class=\"tick\" text-anchor=\"middle\" x=\"%.1f\" y=\"%.1f\">", middle, y);
    html_text(o, str_c(name));
    sb_str(o, "</text>\n");
}

void chart_row_name(StrBuf *o, double middle, Str name)
{
    sb_printf(o, "<text text-anchor=\"end\" x=\"%d\" y=\"%.1f\">", NAMES - 12, middle + 4);
    html_text(o, (Str){name.p, name.n < MAX_NAME ? name.n : utf8_prefix((Str){name.p, MAX_NAME})});
    sb_str(o, "</text>\n");
}

double chart_text_width(Str s)
{
    double w = 2;
    for (size_t i = 0; i < s.n; i++) {
        const unsigned char c = (unsigned char)s.p[i];
        if ((c & 0xc0) == 0x80) continue; /* inside a character */
        w += c >= 0x80 || strchr("mwMW@%", c) ? 11 : strchr("ijl.,:;'|!", c) ? 4.5 : 7.4;
    }
    return w;
}

/* ---- lines ---- */

static double x_of(const void *user, u32 i)
{
    const ChartLines *c = user;
    const double room = WIDTH - LEFT - RIGHT;
    return (double)LEFT + (c->n > 1 ? room * i / (c->n - 1) : room / 2);
}

/* Is there something to draw? Far numbers, which nobody measured, would leave no room for others.
 */
static bool is_point(const ChartLines *c, double v)
{
    return fabs(v) < 1e15 && (!c->log || v > 1e-15);
}

static Axis y_axis(const ChartLines *c)
{
    double lo = INFINITY, hi = -INFINITY;
    for (u32 s = 0; s < c->n_series; s++)
        for (u32 i = 0; i < c->n; i++) {
            const double v = c->series[s].y[i];
            if (!is_point(c, v)) continue;
            lo = fmin(lo, v);
            hi = fmax(hi, v);
        }
    return axis_of(lo, hi, c->log);
}

static void axes(StrBuf *o, const ChartLines *c, const Axis *y)
{
    axis_grid(o, y, WIDTH - RIGHT, axis_number);
    axis_x(o, c->n, HEIGHT - BOTTOM + 16, x_of, c);
    chart_x_name(o, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 4, c->x);
    sb_str(o, "<text class=\"tick\" x=\"2\" y=\"11\">");
    html_text(o, str_c(c->unit));
    sb_str(o, "</text>\n");
}

/* One series: its line, broken where there is no point, and a mark a point. Returns the height of
 * its right end, NAN if it has no point. */
static double draw(StrBuf *o, const ChartLines *c, const Axis *y, u32 s)
{
    const ChartSeries *line = &c->series[s];
    double end = NAN;
    bool pen = false;
    sb_printf(o, "<path class=\"line c%u\" d=\"", s % COLOURS);
    for (u32 i = 0; i < c->n; i++) {
        const double v = line->y[i];
        const bool there = is_point(c, v);
        if (there) sb_printf(o, "%s%.1f %.1f", pen ? "L" : "M", x_of(c, i), axis_place(y, v));
        pen = there;
    }
    sb_str(o, "\"/>\n");
    for (u32 i = 0; i < c->n; i++) {
        const double v = line->y[i];
        if (!is_point(c, v)) continue;
        end = axis_place(y, v);
        sb_printf(o, "<circle class=\"dot c%u\" r=\"3\" cx=\"%.1f\" cy=\"%.1f\"><title>",
                  s % COLOURS, x_of(c, i), end);
        html_text(o, line->name);
        sb_printf(o, ", %s %u: %.4g %s</title></circle>\n", c->x, i, v, c->unit);
    }
    return end;
}

/* Names beside the ends of their lines, from the top, each below the one before. */
static void draw_names(StrBuf *o, const ChartLines *c, double *end)
{
    double next = TOP;
    for (u32 done = 0; done < c->n_series; done++) {
        u32 top = c->n_series;
        for (u32 s = 0; s < c->n_series; s++)
            if (!isnan(end[s]) && (top == c->n_series || end[s] < end[top])) top = s;
        if (top == c->n_series) return;
        const double y = fmax(end[top], next);
        next = y + 15;
        end[top] = NAN;
        sb_printf(o,
                  "<circle class=\"dot c%u\" r=\"4\" cx=\"%d\" cy=\"%.1f\"/>"
                  "<text x=\"%d\" y=\"%.1f\">",
                  top % COLOURS, WIDTH - RIGHT + 16, y, WIDTH - RIGHT + 26, y + 4);
        html_text(o, c->series[top].name);
        sb_str(o, "</text>\n");
    }
}

void chart_lines(StrBuf *o, const ChartLines *c)
{
    const Axis y = y_axis(c);
    double *end = NEWN(o->a, double, c->n_series);
    chart_begin(o, c->label, HEIGHT);
    axes(o, c, &y);
    for (u32 s = 0; s < c->n_series; s++)
        end[s] = draw(o, c, &y, s);
    draw_names(o, c, end);
    sb_str(o, "</svg>\n");
}

/* ---- rows ---- */

enum { MARK = 13 };

typedef struct Rows {
    StrBuf *o;
    double lo, hi; /* powers of ten */
    i32 top, bottom;
} Rows;

static double across(const Rows *r, double v)
{
    return (double)NAMES + (log10(v) - r->lo) / (r->hi - r->lo) * (WIDTH - NAMES - 40);
}

static void row_axis(const Rows *r, const char *x)
{
    for (double p = r->lo; p <= r->hi; p++) {
        const double at = across(r, pow(10, p));
        sb_printf(r->o,
                  "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>"
                  "<text class=\"tick\" text-anchor=\"middle\" x=\"%.1f\" y=\"%d\">%g</text>\n",
                  at, at, r->top, r->bottom, at, r->bottom + 16, pow(10, p));
    }
    chart_x_name(r->o, (NAMES + WIDTH - 40) / 2.0, r->bottom + 32, x);
}

static void one_row(const Rows *r, const ChartRow *row, u32 i)
{
    const double y = (double)r->top + (double)ROW * (i + 0.5), x0 = across(r, row->from),
                 x1 = across(r, row->to);
    const u32 c = row->colour % COLOURS;
    chart_row_name(r->o, y, row->name);
    sb_printf(r->o,
              "<path class=\"line c%u\" d=\"M%.1f %.1fL%.1f %.1f\"/><circle class=\"dot "
              "c%u\" r=\"4\" cx=\"%.1f\" cy=\"%.1f\"><title>",
              c, x0, y, x1, y, c, x0, y);
    html_text(r->o, str_c(row->title));
    sb_printf(r->o,
              "</title></circle><circle class=\"ring c%u\" r=\"4\" cx=\"%.1f\" cy=\"%.1f\"><title>",
              c, x1, y);
    html_text(r->o, str_c(row->title));
    sb_str(r->o, "</title></circle>\n");
}

void chart_rows(StrBuf *o, const char *label, const char *x, const ChartRow *row, u32 n,
                const ChartMark *mark, u32 n_marks)
{
    double lo = INFINITY, hi = -INFINITY;
    for (u32 i = 0; i < n; i++) {
        lo = fmin(lo, fmin(row[i].from, row[i].to));
        hi = fmax(hi, fmax(row[i].from, row[i].to));
    }
    for (u32 i = 0; i < n_marks; i++)
        hi = fmax(hi, mark[i].x);
    const i32 top = TOP + MARK * (i32)n_marks; /* a line for the name of each mark */
    Rows r = {o, floor(log10(lo)), fmax(ceil(log10(hi)), floor(log10(lo)) + 1), top,
              top + ROW * (i32)n};
    chart_begin(o, label, r.bottom + 40);
    row_axis(&r, x);
    for (u32 i = 0; i < n_marks; i++) {
        const double at = across(&r, mark[i].x);
        sb_printf(o,
                  "<path class=\"ridge\" d=\"M%.1f %dV%d\"/><text class=\"tick\" "
                  "text-anchor=\"end\" x=\"%.1f\" y=\"%d\">%s</text>\n",
                  at, TOP - 10 + MARK * (i32)i, r.bottom, at - 4, TOP + MARK * (i32)i,
                  mark[i].name);
    }
    for (u32 i = 0; i < n; i++)
        one_row(&r, &row[i], i);
    sb_str(o, "</svg>\n");
}
