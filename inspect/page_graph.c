/* A token, kernel by kernel: a drawing of its kernels, and a box a call with all that is known of
 * it. Layers that differ in their weights alone are shown once. */
#include "inspect/chart.h"
#include "inspect/diagram.h"
#include "inspect/page.h"

#include "ir/text.h"

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

static Fold fold_at(const PlPhase *ph, u32 from)
{
    Fold f = {from, plan_layer_end(ph, from) - from, 1};
    for (;;) {
        const u32 next = from + f.times * f.n;
        if (next >= ph->n || ph->call[next].layer != ph->call[from].layer + f.times ||
            plan_layer_end(ph, next) - next != f.n || !same_run(ph, from, next, f.n))
            return f;
        f.times++;
    }
}

/* The scale of the value that an operand is, in the module. */
static const char *scale_of(Page *g, const PlRef *r)
{
    if (!g->g || !r->name.n) return "";
    if (*r->name.p == '@') {
        const u32 *v = map_get(&g->g->m->const_map, (Str){r->name.p + 1, r->name.n - 1});
        return v ? graph_scale(g->a, g->g, *v) : "";
    }
    const u32 *v = map_get(&g->values, r->name);
    return v ? graph_scale(g->a, g->g, *v) : "";
}

/* An operand: its type and scale, and where it is from or in. */
static void operand(Page *g, const PlPhase *ph, const PlCall *c, const PlRef *r, bool in)
{
    const char *scale = scale_of(g, r);
    html_element(g->o, "code", NULL, r->type.n ? r->type : r->place);
    if (*scale) page_text(g, " \xc3\x97 ", str_c(scale), "");
    const PlCall *w = in && r->writer ? &ph->call[r->writer - 1] : NULL;
    if (w && w->layer == c->layer)
        sb_printf(g->o, " of <a href=\"#s%lld\">%lld</a>", (long long)w->step, (long long)w->step);
    else if (w && w->layer >= 0)
        sb_str(g->o, " of the layer before");
    else if (w)
        sb_printf(g->o, " of %lld", (long long)w->step);
    else if (r->type.n)
        page_text(g, " in ", r->place, "");
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

/* The ops that a call computes, as the module has them. */
static void call_ops(Page *g, const PlCall *c)
{
    const Graph *gr = g->g;
    const u64 i = (u64)c->step - 1; /* steps are numbered in order */
    if (!gr || i >= gr->node.n || gr->node.at[i].step != c->step) return;
    const GrNode *n = &gr->node.at[i];
    sb_printf(g->o, "<details><summary>%u op%s</summary><pre>", n->n, n->n == 1 ? "" : "s");
    for (u32 k = 0; k < n->n; k++) {
        StrBuf b = {.a = g->a};
        ir_print_op(gr->m, gr->names, op_at(gr->m, gr->m->fns.at[gr->fn].body.at[n->first + k]), 4,
                    &b);
        html_text(g->o, (Str){b.p, b.n});
        sb_ch(g->o, '\n');
    }
    sb_str(g->o, "</pre></details>");
}

static void one_call(Page *g, const PlPhase *ph, const PlCall *c)
{
    const PlKernel *k = &g->p->kernel.at[c->kernel];
    bool added;
    map_put(&g->shown, str_c(arena_printf(g->a, "%lld", (long long)c->step)), &added);
    sb_printf(g->o, "<li class=\"call\" id=\"s%lld\">%lld <b>", (long long)c->step,
              (long long)c->step);
    html_text(g->o, k->kind);
    page_text(g, "</b> <a href=\"#k-", k->name, "\">");
    page_text(g, "", k->name, "</a>");
    if (c->barrier) sb_str(g->o, " <span class=\"barrier\">behind a barrier</span>");
    if (c->each) sb_str(g->o, " (every thread for itself)");
    operands(g, ph, c, true);
    if (c->w.place.n) {
        i64 layer;
        page_text(g, "<div>weights: <code>", plan_role(g->a, c->w.place, &layer), "</code>, ");
        sb_printf(g->o, "%s</div>", html_bytes(g->a, c->bytes));
    }
    operands(g, ph, c, false);
    call_ops(g, c);
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

void page_graph(Page *g)
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

enum { MAX_DRAWN = 120, MAX_DRAWINGS = 40 }; /* kernels of one drawing; drawings */

void page_diagram(Page *g)
{
    for (u32 i = 0; i < g->g->fold.n && i < MAX_DRAWINGS; i++) {
        const GrFold *f = &g->g->fold.at[i];
        const char *title =
            arena_printf(g->a, "%s, %s", g->g->name, graph_fold_title(g->a, g->g, f));
        page_text(g, "<figure><figcaption>", str_c(title), "</figcaption>");
        if (f->n > MAX_DRAWN) {
            sb_printf(g->o, "<p>%u kernels are too many for a drawing.</p></figure>\n", f->n);
            continue;
        }
        sb_str(g->o, "<div class=\"wide\">\n");
        diagram(g->o, g->g, f, title);
        sb_str(g->o, "</div></figure>\n");
    }
}
