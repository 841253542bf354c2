/* Charts over layers: where many lie and which are far from them; runs of what is alike. */
#include "inspect/chart_int.h"

#include <math.h>

/* ---- spread ---- */

enum { LEVELS = 6, EDGE = 8, MAX_LABELS = 40, MAX_LABEL = 16 };
static const double SHADES = LEVELS, RIGHT_END = WIDTH - EDGE,
                    LABEL = 13; /* of a label: its height */

typedef struct Room {
    double x0, y0, x1, y1;
} Room;

typedef struct Spread {
    StrBuf *o;
    const ChartSpread *c;
    Axis y;
    double column;
    VEC(Room) taken; /* by points and labels */
} Spread;

static double middle(const void *user, u32 x)
{
    const Spread *s = user;
    return (double)LEFT + s->column * (x + 0.5);
}

/* One path a shade, of all cells that have it. */
static void cells(const Spread *s, u32 level, double most)
{
    const ChartSpread *c = s->c;
    const double wide = fmax(s->column * 0.84, 1), lo = pow(10, s->y.lo), hi = pow(10, s->y.hi);
    bool any = false;
    for (u32 x = 0; x < c->n; x++)
        for (u32 b = 0; b < c->bins; b++) {
            const double n = (double)c->count[x * c->bins + b],
                         from = fmax(c->first * pow(c->step, b), lo),
                         to = fmin(c->first * pow(c->step, b + 1), hi);
            if (!(n > 0) || !(from < to)) continue;
            if ((u32)fmin(SHADES * log1p(n) / log1p(most), SHADES - 1) != level) continue;
            if (!any) sb_printf(s->o, "<path class=\"shade s%u c%u\" d=\"", level, c->colour);
            any = true;
            const double top = axis_place(&s->y, to);
            sb_printf(s->o, "M%.1f %.1fh%.1fv%.1fh-%.1fz", middle(s, x) - wide / 2, top, wide,
                      axis_place(&s->y, from) - top, wide);
        }
    if (any) sb_str(s->o, "\"/>\n");
}

static bool is_free(const Spread *s, const Room *r, u32 but)
{
    if (r->x0 < (double)LEFT || r->x1 > RIGHT_END || r->y0 < (double)(TOP - 12) ||
        r->y1 > (double)(HEIGHT - BOTTOM))
        return false;
    for (u32 i = 0; i < s->taken.n; i++) {
        const Room *t = &s->taken.at[i];
        if (i != but && r->x0 < t->x1 && t->x0 < r->x1 && r->y0 < t->y1 && t->y0 < r->y1)
            return false;
    }
    return true;
}

/* The same name in the same column right beside another is written once. */
static bool is_told(const ChartSpread *c, u32 i)
{
    for (u32 k = 0; k < i; k++)
        if (c->point[k].x == c->point[i].x && str_eq(c->point[k].name, c->point[i].name) &&
            fabs(log(c->point[k].y / c->point[i].y)) < 1)
            return true;
    return false;
}

/* Writes the name of a point at its right, left or above, if there is room. */
static bool name_point(Spread *s, u32 i)
{
    const ChartPoint *p = &s->c->point[i];
    const Str name = {p->name.p,
                      p->name.n < MAX_LABEL ? p->name.n : utf8_prefix((Str){p->name.p, MAX_LABEL})};
    const double w = chart_text_width(name), x = middle(s, p->x), y = axis_place(&s->y, p->y);
    const struct {
        const char *anchor;
        double x, y, left; /* left: of the text, from x */
    } at[] = {{"start", x + 6, y, 0}, {"end", x - 6, y, w}, {"middle", x, y - LABEL, w / 2}};
    for (u32 k = 0; k < sizeof at / sizeof *at; k++) {
        const double x0 = at[k].x - at[k].left;
        const Room r = {x0, at[k].y - LABEL / 2, x0 + w, at[k].y + LABEL / 2};
        if (!is_free(s, &r, i)) continue;
        vec_push(s->o->a, &s->taken, r);
        sb_printf(s->o, "<text class=\"edge\" text-anchor=\"%s\" x=\"%.1f\" y=\"%.1f\">",
                  at[k].anchor, at[k].x, at[k].y + 4);
        html_text(s->o, name);
        sb_str(s->o, "</text>\n");
        return true;
    }
    return false;
}

static void points(Spread *s)
{
    const ChartSpread *c = s->c;
    for (u32 i = 0; i < c->n_points; i++) {
        const ChartPoint *p = &c->point[i];
        const double x = middle(s, p->x), y = axis_place(&s->y, p->y);
        vec_push(s->o->a, &s->taken, ((Room){x - 4, y - 4, x + 4, y + 4}));
        sb_printf(s->o, "<circle class=\"dot c%u\" r=\"3\" cx=\"%.1f\" cy=\"%.1f\"><title>",
                  c->colour, x, y);
        html_text(s->o, p->name);
        sb_printf(s->o, ", %.*s, %s %u: %.4g %s</title></circle>\n", STRF(p->detail), c->x, p->x,
                  p->y, c->unit);
    }
    for (u32 i = 0, n = 0; i < c->n_points && n < MAX_LABELS; i++)
        if (c->point[i].named && !is_told(c, i)) n += name_point(s, i);
}

static void mark(Spread *s)
{
    const double y = axis_place(&s->y, s->c->mark), w = chart_text_width(str_c(s->c->mark_name));
    vec_push(s->o->a, &s->taken, ((Room){RIGHT_END - w, y - 4 - LABEL, RIGHT_END, y}));
    sb_printf(s->o,
              "<path class=\"ridge\" d=\"M%d %.1fH%d\"/><text class=\"edge\" "
              "text-anchor=\"end\" x=\"%d\" y=\"%.1f\">%s</text>\n",
              LEFT, y, WIDTH - EDGE, WIDTH - EDGE, y - 4, s->c->mark_name);
}

void chart_spread(StrBuf *o, const ChartSpread *c)
{
    Spread s = {.o = o,
                .c = c,
                .y = axis_of(c->lo, c->hi, true),
                .column = (double)(WIDTH - LEFT - EDGE) / (c->n ? c->n : 1)};
    double most = 1;
    for (u32 i = 0; i < c->n * c->bins; i++)
        most = fmax(most, (double)c->count[i]);
    chart_begin(o, c->label, HEIGHT);
    axis_grid(o, &s.y, WIDTH - EDGE, axis_number);
    axis_x(o, c->n, HEIGHT - BOTTOM + 16, middle, &s);
    chart_x_name(o, (LEFT + WIDTH - EDGE) / 2.0, HEIGHT - 4, c->x);
    sb_printf(o, "<text class=\"tick\" x=\"2\" y=\"11\">%s</text>\n", c->unit);
    for (u32 level = 0; level < LEVELS; level++)
        cells(&s, level, most);
    if (c->mark > 0) mark(&s);
    points(&s);
    sb_str(o, "</svg>\n");
}

/* ---- runs ---- */

typedef struct Runs {
    StrBuf *o;
    const ChartRuns *c;
    double column;
} Runs;

static double column_middle(const void *user, u32 x)
{
    const Runs *r = user;
    return (double)NAMES + r->column * (x + 0.5);
}

static void run(const Runs *r, u32 row, u32 from, u32 to, const char *word)
{
    const double x = (double)NAMES + r->column * from, w = r->column * (to - from),
                 y = (double)TOP + (double)ROW * row;
    sb_printf(r->o,
              "<rect class=\"run c%u\" rx=\"3\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" "
              "height=\"%d\"><title>",
              r->c->colour(word) % COLOURS, x + 0.5, y + 2, fmax(w - 1, 0.5), ROW - 4);
    html_text(r->o, r->c->name[row]);
    sb_printf(r->o, from + 1 == to ? ", %s %u: " : ", %s %u to %u: ", r->c->x, from, to - 1);
    html_text(r->o, str_c(word));
    sb_str(r->o, "</title></rect>\n");
    if (chart_text_width(str_c(word)) > w - 2) return;
    sb_printf(r->o, "<text class=\"tick\" text-anchor=\"middle\" x=\"%.1f\" y=\"%.1f\">", x + w / 2,
              y + (double)ROW / 2 + 4);
    html_text(r->o, str_c(word));
    sb_str(r->o, "</text>\n");
}

static void runs_of_row(const Runs *r, u32 row)
{
    const char *const *word = r->c->word + (size_t)row * r->c->n;
    for (u32 from = 0, to; from < r->c->n; from = to) {
        to = from + 1;
        if (!word[from]) continue;
        while (to < r->c->n && word[to] && strcmp(word[to], word[from]) == 0)
            to++;
        run(r, row, from, to, word[from]);
    }
}

void chart_runs(StrBuf *o, const ChartRuns *c)
{
    const Runs r = {o, c, (double)(WIDTH - NAMES - EDGE) / (c->n ? c->n : 1)};
    const double bottom = (double)TOP + (double)ROW * c->n_rows;
    chart_begin(o, c->label, bottom + 40);
    for (u32 i = 0; i < c->n_rows; i++) {
        chart_row_name(o, (double)TOP + (double)ROW * (i + 0.5), c->name[i]);
        runs_of_row(&r, i);
    }
    axis_x(o, c->n, bottom + 16, column_middle, &r);
    chart_x_name(o, (NAMES + WIDTH - EDGE) / 2.0, bottom + 32, c->x);
    sb_str(o, "</svg>\n");
}
