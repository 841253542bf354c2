/* The text form's tables of what the page draws: types and scales, tokens, kernels. */
#include "inspect/chart.h"
#include "inspect/forms.h"
#include "inspect/layers.h"
#include "inspect/work.h"

#include "ir/base/json.h"

/* A cell of a table, padded; cut where it is too long. */
static void cell(StrBuf *o, Str s, int width)
{
    if (s.n > (size_t)width) s.n = utf8_prefix((Str){s.p, (size_t)width});
    text_safe(o, s);
    sb_printf(o, "%*s ", width - (int)s.n, "");
}

static void scales(StrBuf *o, const Layers *l)
{
    Map seen = {.a = o->a};
    for (u32 i = 0; i < l->scale.n; i++) {
        LayerScale s = l->scale.at[i];
        bool added;
        map_put(&seen, s.name, &added);
        if (!added) continue;
        for (u32 k = i + 1; k < l->scale.n; k++) {
            const LayerScale *x = &l->scale.at[k];
            if (!str_eq(x->name, s.name)) continue;
            s.lo = x->lo < s.lo ? x->lo : s.lo;
            s.hi = x->hi > s.hi ? x->hi : s.hi;
        }
        cell(o, s.name, 34);
        sb_printf(o, "scale %.3g to %.3g\n", s.lo, s.hi);
    }
}

void text_layers(StrBuf *o, Module *m)
{
    const u32 fn = graph_shown(m);
    Graph g;
    if (!fn) return;
    graph_build(o->a, m, fn, &g);
    const Layers l = layers_of(o->a, &g);
    if (!l.types.n) return;
    sb_printf(o, "\n%-34s by layer\n", "type");
    for (u32 i = 0; i < l.types.n; i++) {
        cell(o, l.types.at[i].name, 34);
        sb_printf(o, "%s\n", layers_words(o->a, &l, i));
    }
    scales(o, &l);
}

/* The tokens of a layer at one time, the first three of them. */
static void layer_tokens(StrBuf *o, const Plan *p, i64 layer, const char *when)
{
    for (u32 i = 0; i < p->tokens.n; i++) {
        const PlTokens *t = &p->tokens.at[i];
        if (t->layer != layer || !str_is(t->when, when)) continue;
        StrBuf b = {.a = o->a};
        sb_str(&b, "");
        for (u32 k = 0; k < t->n_top && k < 3; k++) {
            sb_printf(&b, "%s%.3g ", k ? ", " : "", t->top[k].ratio);
            if (t->top[k].text.n)
                sb_json_str(&b, t->top[k].text);
            else
                sb_printf(&b, "%lld", (long long)t->top[k].id);
        }
        cell(o, (Str){b.p, b.n}, 44);
        return;
    }
}

void text_tokens(StrBuf *o, const Plan *p)
{
    i64 last = -1;
    for (u32 i = 0; i < p->tokens.n; i++)
        if (p->tokens.at[i].layer < LAYERS_MAX && p->tokens.at[i].layer > last)
            last = p->tokens.at[i].layer;
    if (last < 0) return;
    sb_printf(o, "\n%-6s %-44s behind the prefix\n", "layer",
              "largest tokens, x the median, before");
    for (i64 layer = 0; layer <= last; layer++) {
        sb_printf(o, "%-6lld ", (long long)layer);
        layer_tokens(o, p, layer, "before");
        layer_tokens(o, p, layer, "after");
        while (o->p[o->n - 1] == ' ')
            o->n--;
        sb_ch(o, '\n');
    }
}

/* Behind a kernel's cells: what a roof allows, what it took. */
static void took_cells(StrBuf *o, const Machine *roof, double least, double us)
{
    if (roof) sb_printf(o, " %10.2f", least);
    if (us > 0) sb_printf(o, " %13.2f", us);
    if (us > 0 && roof) sb_printf(o, " %3.0f %%", 100 * least / us);
    sb_ch(o, '\n');
}

void text_kernels(StrBuf *o, const View *v)
{
    const Plan *p = v->plan;
    Machine known;
    const Machine *roof = work_roof(p, v->times, &known) ? &known : NULL;
    const double rows = work_rows(v->times);
    const Work *w = work_of(o->a, p, v->times, rows, work_keys(p, v->times));
    sb_printf(o, "\n%-36s %6s %9s %8s%s%s\n", "kernel", "calls", "bytes", "ops/byte",
              roof ? "  least, us" : "", v->times ? "  measured, us" : "");
    for (u32 i = 0; i < p->kernel.n; i++) {
        if (!w[i].calls) continue;
        cell(o, p->kernel.at[i].name, 36);
        sb_printf(o, "%6lld %9s %8.2f", (long long)w[i].calls, html_bytes(o->a, (i64)w[i].bytes),
                  w[i].bytes > 0 ? w[i].flops / w[i].bytes : 0.0);
        const double least = roof ? work_least_us(roof, w[i].flops, w[i].bytes) : 0;
        took_cells(o, roof, least, w[i].us);
    }
    if (!v->times) return;
    const char *what = rows > 1 ? arena_printf(o->a, "%.0f tokens", rows) : "a token";
    sb_printf(o, "%-*s", v->times->whole > 0 ? 0 : 61, what);
    if (v->times->whole > 0) sb_printf(o, "%-*s", 61 - (int)strlen(what), ", as one kernel");
    took_cells(o, roof, work_least_of_all(p, w, roof), work_took(p, w, v->times));
}
