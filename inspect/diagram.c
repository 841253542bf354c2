#include "inspect/diagram.h"

#include "inspect/chart.h"
#include "inspect/plan.h"

#include "ir/text.h"

enum {
    WIDTH = 760,
    LEFT = 250, /* of the boxes */
    BOX = 230,
    TALL = 44,
    LINE = 15, /* of labels */
    LANE = 18,
    NEAR = 22, /* from a box: the beginning of a stub */
    FAR = 110, /* the first lane */
    MAX_LANES = 6,
    MAX_LABELS = 6, /* of a gap */
    MIDDLE = LEFT + BOX / 2
};

typedef struct Drawing {
    StrBuf *o;
    const Graph *g;
    u32 from, n; /* nodes */
    double *top; /* [n + 1] of the boxes; of what is behind the last one */
    u32 *enters; /* [n] lanes and stubs that ended there so far */
    u32 lanes;
} Drawing;

const char *const diagram_family[] = {"linear", "norm", "attend", "hadamard", "embed", NULL};

u32 diagram_colour(const char *kernel)
{
    for (u32 i = 0; diagram_family[i]; i++)
        if (strncmp(kernel, diagram_family[i], strlen(diagram_family[i])) == 0) return i;
    return 7;
}

/* At most `most` characters. */
static void short_text(StrBuf *o, const char *s, size_t most)
{
    Str t = str_c(s);
    const bool cut = t.n > most;
    if (cut) t.n = utf8_prefix((Str){s, most - 3});
    html_text(o, t);
    if (cut) sb_str(o, "...");
}

static void label(StrBuf *o, double x, double y, const char *anchor, const GrEdge *e, size_t most)
{
    sb_printf(o, "<text class=\"edge\" text-anchor=\"%s\" x=\"%.1f\" y=\"%.1f\">", anchor, x, y);
    const bool state = *e->name == '@' || !e->from; /* its name says more than its type */
    short_text(o,
               arena_printf(o->a, "%s%s%s%s%s", state ? e->name : "", state ? " " : "", e->type,
                            *e->scale ? " \xc3\x97 " : "", e->scale),
               most);
    sb_str(o, "<title>");
    html_text(o, str_c(arena_printf(o->a, "%s : %s%s%s", e->name, e->type,
                                    *e->scale ? ", scale " : "", e->scale)));
    sb_str(o, "</title></text>\n");
}

static const char *edge_class(const GrEdge *e)
{
    return *e->scale ? "flow integer" : "flow";
}

/* Nodes of an edge within the drawing: -1 above it, n below it. */
static i32 at(const Drawing *d, u32 node)
{
    if (!node || node - 1 < d->from) return -1;
    return node - 1 - d->from < d->n ? (i32)(node - 1 - d->from) : (i32)d->n;
}

static i32 end_of(const Drawing *d, const GrEdge *e)
{
    return e->to ? at(d, e->to) : (i32)d->n;
}

/* The same value goes to the same place more than once: to other layers. */
static bool is_repeated(const Drawing *d, const GrEdge *e)
{
    for (const GrEdge *x = d->g->edge.at; x < e; x++)
        if (x->value == e->value && end_of(d, x) == end_of(d, e)) return true;
    return false;
}

/* Drawn between neighbours, in the gap above box `to`. */
static bool is_straight(const Drawing *d, const GrEdge *e, i32 to)
{
    const i32 x = at(d, e->from), y = end_of(d, e);
    return y == to && x + 1 == y && e->from && !is_repeated(d, e);
}

static u32 straight_edges(const Drawing *d, i32 to)
{
    u32 n = 0;
    for (u32 i = 0; i < d->g->edge.n; i++)
        n += is_straight(d, &d->g->edge.at[i], to);
    return n < MAX_LABELS ? n : MAX_LABELS;
}

static void place(Drawing *d)
{
    double y = 4;
    for (u32 i = 0; i <= d->n; i++) {
        y += 22 + (double)LINE * straight_edges(d, (i32)i);
        d->top[i] = y;
        y += (double)TALL;
    }
}

static void straight(Drawing *d, i32 to)
{
    u32 k = 0;
    bool integer = false;
    const double end = d->top[to], begin = to ? d->top[to - 1] + (double)TALL : 4;
    for (u32 i = 0; i < d->g->edge.n && k < MAX_LABELS; i++) {
        const GrEdge *e = &d->g->edge.at[i];
        if (!is_straight(d, e, to)) continue;
        integer |= *e->scale != 0;
        label(d->o, MIDDLE + 10, begin + 20 + LINE * k++, "start", e, 58);
    }
    if (k)
        sb_printf(d->o,
                  "<path class=\"flow%s\" marker-end=\"url(#tip%u)\" d=\"M%d %.1fL%d %.1f\"/>\n",
                  integer ? " integer" : "", d->from, MIDDLE, begin, MIDDLE, end - 2);
}

/* Over other boxes in a lane, or from nowhere in particular as a stub. */
static void far(Drawing *d, const GrEdge *e)
{
    const i32 x = at(d, e->from), y = end_of(d, e);
    if (y < 0 || x >= (i32)d->n || (x < 0 && y >= (i32)d->n) || (e->from && x + 1 == y) ||
        is_repeated(d, e))
        return;
    const bool stub = !e->from, below = y >= (i32)d->n;
    const u32 lane = stub ? 0 : d->lanes++ % MAX_LANES;
    const double in = below ? d->top[d->n] - 4 : d->top[y] + 12 + LINE * (d->enters[y] % 3),
                 left = LEFT - (stub ? NEAR : FAR) - (double)LANE * lane;
    if (!below) d->enters[y]++;
    sb_printf(d->o, "<path class=\"%s\"", edge_class(e));
    if (!below) sb_printf(d->o, " marker-end=\"url(#tip%u)\"", d->from);
    sb_str(d->o, " d=\"");
    if (stub)
        sb_printf(d->o, "M%.1f %.1f", left, in);
    else if (x < 0)
        sb_printf(d->o, "M%.1f 4V%.1f", left, in);
    else
        sb_printf(d->o, "M%d %.1fH%.1fV%.1f", LEFT, d->top[x] + (double)TALL - 6, left, in);
    sb_printf(d->o, below ? "\"/>\n" : "H%d\"/>\n", LEFT - 2);
    label(d->o, left - 6, in + 4, "end", e, 32);
}

static void kernel_ops(StrBuf *o, const Graph *g, const GrNode *n)
{
    const Fn *f = &g->m->fns.at[g->fn];
    StrBuf b = {.a = o->a};
    const char *last = "";
    sb_str(&b, "");
    for (u32 i = 0; i < n->n; i++) {
        const char *name = op_info[op_at(g->m, f->body.at[n->first + i])->kind].mnemonic;
        if (strcmp(name, last) != 0 && strcmp(name, "reshape") != 0)
            sb_printf(&b, "%s%s", b.n ? ", " : "", name);
        last = name;
    }
    short_text(o, b.p, 40);
}

static void box(Drawing *d, u32 i)
{
    const GrNode *n = &d->g->node.at[d->from + i];
    const double y = d->top[i];
    StrBuf *o = d->o;
    sb_printf(
        o,
        "<a href=\"#s%u\"><rect class=\"kernel c%u\" rx=\"6\" x=\"%d\" y=\"%.1f\" width=\"%d\" "
        "height=\"%d\"><title>",
        n->step, diagram_colour(n->kernel), LEFT, y, BOX, TALL);
    html_text(o, str_c(arena_printf(o->a, "step %u, %u ops", n->step, n->n)));
    sb_printf(o,
              "</title></rect><text class=\"name\" text-anchor=\"middle\" x=\"%d\" y=\"%.1f\">%u ",
              MIDDLE, y + 18, n->step);
    short_text(o, n->kernel, 28);
    sb_printf(o, "</text><text class=\"tick\" text-anchor=\"middle\" x=\"%d\" y=\"%.1f\">", MIDDLE,
              y + 35);
    kernel_ops(o, d->g, n);
    sb_str(o, "</text></a>\n");
    if (!n->weights) return;
    const Value *w = value_at(d->g->m, n->weights);
    i64 layer;
    const Str role = plan_role(o->a, str_c(ir_cstr(d->g->m, w->name)), &layer);
    const Op *pack = def_of(d->g->m, n->weights);
    const i64 bytes = type_elems(type_of(d->g->m, n->weights));
    sb_printf(o, "<text class=\"tick\" x=\"%d\" y=\"%.1f\">", LEFT + BOX + 12, y + 18);
    short_text(o, arena_printf(o->a, "%.*s", STRF(role)), 40);
    sb_printf(o, "</text><text class=\"tick\" x=\"%d\" y=\"%.1f\">", LEFT + BOX + 12, y + 34);
    if (pack->kind == OP_PACK)
        short_text(
            o,
            arena_printf(o->a, "%s, %s", op_str(d->g->m, pack, A_LAYOUT), html_bytes(o->a, bytes)),
            40);
    else
        short_text(o, ir_type_text(d->g->m, type_of(d->g->m, n->weights)), 40);
    sb_str(o, "</text>\n");
}

void diagram(StrBuf *o, const Graph *g, const GrFold *f, const char *label_text)
{
    Drawing d = {o, g, f->from, f->n, NEWN(o->a, double, f->n + 1), NEWN(o->a, u32, f->n), 0};
    place(&d);
    sb_printf(o, "<svg class=\"diagram\" viewBox=\"0 0 %d %.0f\" role=\"img\" aria-label=\"", WIDTH,
              d.top[f->n] + 4);
    html_text(o, str_c(label_text));
    sb_printf(o,
              "\">\n<defs><marker id=\"tip%u\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" "
              "markerUnits=\"userSpaceOnUse\" markerWidth=\"8\" markerHeight=\"8\" "
              "orient=\"auto\"><path class=\"tip\" d=\"M0 0L8 "
              "4L0 8z\"/></marker></defs>\n",
              f->from);
    for (u32 i = 0; i < g->edge.n; i++)
        far(&d, &g->edge.at[i]);
    for (u32 i = 0; i <= d.n; i++)
        straight(&d, (i32)i);
    for (u32 i = 0; i < d.n; i++)
        box(&d, i);
    sb_str(o, "</svg>\n");
}
