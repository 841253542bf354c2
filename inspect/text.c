/* For terminals: at most some 100 columns, nothing that moves a cursor. */
#include "inspect/chart.h"
#include "inspect/forms.h"
#include "inspect/graph.h"
#include "inspect/plan.h"
#include "inspect/sizes.h"

#include "ir/base/json.h"

#include <math.h>

void text_safe(StrBuf *o, Str s)
{
    for (size_t i = 0; i < s.n; i++)
        sb_ch(o, (unsigned char)s.p[i] < 32 || s.p[i] == 127 ? '?' : s.p[i]);
}

static void fact(StrBuf *o, const char *name, const char *value)
{
    sb_printf(o, "%-22s ", name);
    text_safe(o, str_c(value));
    sb_ch(o, '\n');
}

static void glance(StrBuf *o, const View *v)
{
    const Plan *p = v->plan;
    Arena *a = o->a;
    if (v->m) fact(o, "model", ir_cstr(v->m, v->m->name));
    for (u32 i = 0; v->m && i < v->m->meta.n; i++) {
        const KeyVal *kv = &v->m->meta.at[i];
        const char *key = ir_cstr(v->m, kv->key);
        if (strchr(key, '.')) continue; /* what was measured, by layer */
        if (kv->kind == AK_INT)
            fact(o, key, arena_printf(a, "%lld", (long long)kv->val.i));
        else if (kv->kind == AK_STR)
            fact(o, key, ir_cstr(v->m, kv->val.s));
    }
    if (!p) return;
    fact(o, "recipe", arena_printf(a, "%.*s", STRF(p->recipe)));
    fact(o, "weights", html_bytes(a, p->weight_bytes));
    fact(o, "weights read a token", html_bytes(a, p->read_per_token));
    fact(o, "KV cache a token", html_bytes(a, p->kv_per_token));
    fact(o, "activations", html_bytes(a, p->activations));
}

static i64 number(const Json *obj, const char *key)
{
    return json_get(obj, key)->i;
}

static void passes(StrBuf *o, const Json *root)
{
    const Json *list = json_get(root, "passes");
    sb_printf(o, "\n%-22s %8s %8s %8s %8s  options\n", "pass", "inserted", "removed", "changed",
              "ops");
    for (u32 i = 0; i < list->n; i++) {
        const Json *p = &list->at[i];
        const Str name = json_get(p, "pass")->str;
        text_safe(o, name);
        sb_printf(o, "%*s %8lld %8lld %8lld %8lld  ", name.n < 22 ? (int)(22 - name.n) : 0, "",
                  (long long)number(p, "inserted"), (long long)number(p, "removed"),
                  (long long)number(p, "changed"), (long long)number(p, "ops"));
        text_safe(o, json_get(p, "options")->str);
        sb_ch(o, '\n');
    }
}

static void weights(StrBuf *o, const View *v)
{
    const Sizes s = sizes_of(o->a, v);
    sb_printf(o, "\n%-34s %8s %10s  stored as\n", "weight", "how many", "bytes");
    for (u32 i = 0; i < s.list.n; i++) {
        const Size *z = &s.list.at[i];
        text_safe(o, z->role);
        sb_printf(o, "%*s %8u %10s  ", z->role.n < 34 ? (int)(34 - z->role.n) : 0, "", z->n,
                  html_bytes(o->a, z->bytes));
        text_safe(o, z->layout);
        sb_ch(o, '\n');
    }
}

static void edge(StrBuf *o, const Graph *g, const GrEdge *e, bool in)
{
    const u32 other = in ? e->from : e->to;
    sb_printf(o, "          %-4s", in ? "in" : "out");
    text_safe(o, str_c(e->name));
    sb_printf(o, " : %s%s", e->type, *e->scale ? ", scale " : "");
    text_safe(o, str_c(e->scale));
    if (other) sb_printf(o, ", %s %u", in ? "of" : "to", g->node.at[other - 1].step);
    sb_ch(o, '\n');
}

static void node(StrBuf *o, const Graph *g, u32 index)
{
    const GrNode *n = &g->node.at[index];
    sb_printf(o, "    %3u ", n->step);
    text_safe(o, str_c(n->kernel));
    if (n->weights) {
        sb_str(o, "  @");
        text_safe(o, str_c(ir_cstr(g->m, value_at(g->m, n->weights)->name)));
    }
    sb_ch(o, '\n');
    for (u32 i = 0; i < n->n_in; i++)
        edge(o, g, &g->edge.at[n->in + i], true);
    for (u32 at = n->out; at; at = g->edge.at[at - 1].next)
        edge(o, g, &g->edge.at[at - 1], false);
}

static void function(StrBuf *o, Module *m, u32 fn)
{
    Graph g;
    graph_build(o->a, m, fn, &g);
    sb_printf(o, "\n@%s: %u kernels or ops\n", g.name, g.node.n);
    for (u32 k = 0; k < g.fold.n; k++) {
        const GrFold *f = &g.fold.at[k];
        sb_printf(o, "  %s\n", graph_fold_title(o->a, &g, f));
        for (u32 i = 0; i < f->n; i++)
            node(o, &g, f->from + i);
    }
}

void form_text(Arena *a, const View *v, StrBuf *o)
{
    (void)a;
    glance(o, v);
    if (v->changes) passes(o, v->changes);
    weights(o, v);
    if (v->m) text_layers(o, v->m);
    if (v->plan) text_tokens(o, v->plan);
    if (v->plan) text_kernels(o, v);
    for (u32 f = 1; v->m && f < v->m->fns.n; f++)
        function(o, v->m, f);
}
