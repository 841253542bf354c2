/* The schema is in docs/inspect.md; its version changes when a member changes or goes. */
#include "inspect/forms.h"
#include "inspect/graph.h"
#include "inspect/plan.h"

#include "ir/base/json.h"
#include "ir/text.h"

static void member(StrBuf *o, const char *key, const char *text)
{
    sb_printf(o, "\"%s\": ", key);
    sb_json_str(o, str_c(text));
}

static void write_meta(StrBuf *o, const Module *m)
{
    sb_str(o, "{");
    for (u32 i = 0; i < m->meta.n; i++) {
        const KeyVal *kv = &m->meta.at[i];
        if (i) sb_str(o, ", ");
        sb_json_str(o, str_c(ir_cstr(m, kv->key)));
        sb_str(o, ": ");
        if (!ir_json_number(o, kv))
            sb_json_str(o, str_c(kv->kind == AK_STR ? ir_cstr(m, kv->val.s) : ""));
    }
    sb_str(o, "}");
}

static void write_ops(StrBuf *o, const Graph *g, const GrNode *n)
{
    const Fn *f = &g->m->fns.at[g->fn];
    sb_str(o, ", \"ops\": [");
    for (u32 i = 0; i < n->n; i++) {
        StrBuf line = {.a = o->a};
        ir_print_op(g->m, g->names, op_at(g->m, f->body.at[n->first + i]), 16, &line);
        if (i) sb_str(o, ", ");
        sb_json_str(o, (Str){line.p, line.n});
    }
    sb_str(o, "]}");
}

static void write_node(StrBuf *o, const Graph *g, u32 i)
{
    const GrNode *n = &g->node.at[i];
    sb_printf(o, "%s\n        {\"id\": %u, \"step\": %u, \"layer\": %d, ", i ? "," : "", i + 1,
              n->step, n->layer);
    member(o, "kernel", n->kernel);
    if (n->weights) {
        sb_str(o, ", ");
        member(o, "weights", ir_cstr(g->m, value_at(g->m, n->weights)->name));
    }
    write_ops(o, g, n);
}

static void write_edge(StrBuf *o, const GrEdge *e, bool first)
{
    sb_printf(o, "%s\n        {\"from\": %u, \"to\": %u, ", first ? "" : ",", e->from, e->to);
    member(o, "value", e->name);
    sb_str(o, ", ");
    member(o, "type", e->type);
    if (*e->scale) {
        sb_str(o, ", ");
        member(o, "scale", e->scale);
    }
    sb_ch(o, '}');
}

static void write_fn(StrBuf *o, Module *m, u32 fn)
{
    Graph g;
    graph_build(o->a, m, fn, &g);
    sb_str(o, fn > 1 ? ",\n    {" : "\n    {");
    member(o, "name", g.name);
    sb_str(o, ",\n      \"nodes\": [");
    for (u32 i = 0; i < g.node.n; i++)
        write_node(o, &g, i);
    sb_str(o, "],\n      \"edges\": [");
    for (u32 i = 0; i < g.edge.n; i++)
        write_edge(o, &g.edge.at[i], i == 0);
    sb_str(o, "],\n      \"alike\": [");
    for (u32 i = 0; i < g.fold.n; i++)
        sb_printf(o, "%s{\"first\": %u, \"nodes\": %u, \"times\": %u}", i ? ", " : "",
                  g.fold.at[i].from + 1, g.fold.at[i].n, g.fold.at[i].times);
    sb_str(o, "]}");
}

static void write_constants(StrBuf *o, const Module *m)
{
    for (u32 i = 0; i < m->consts.n; i++) {
        StrBuf line = {.a = o->a};
        ir_print_op(m, NULL, op_at(m, m->consts.at[i]), 16, &line);
        sb_str(o, i ? ",\n    " : "\n    ");
        sb_json_str(o, (Str){line.p, line.n});
    }
}

static void verbatim(StrBuf *o, const char *key, Str json)
{
    sb_printf(o, ",\n  \"%s\": ", key);
    if (json.n)
        sb_add(o, json.p, json.n);
    else
        sb_str(o, "null");
}

void form_json(Arena *a, const View *v, StrBuf *o)
{
    (void)a;
    sb_str(o, "{\n  \"inspect\": 1,\n  ");
    member(o, "source", v->source);
    if (v->m) {
        sb_str(o, ",\n  ");
        member(o, "model", ir_cstr(v->m, v->m->name));
        sb_str(o, ",\n  \"meta\": ");
        write_meta(o, v->m);
        sb_str(o, ",\n  \"constants\": [");
        write_constants(o, v->m);
        sb_str(o, "],\n  \"functions\": [");
        for (u32 f = 1; f < v->m->fns.n; f++)
            write_fn(o, v->m, f);
        sb_str(o, "]");
    }
    verbatim(o, "passes", v->passes);
    verbatim(o, "plan", v->plan ? v->plan->text : (Str){0});
    sb_str(o, "}\n");
}
