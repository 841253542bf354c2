/* Functions as graphs for graphviz: a node an op, a cluster a kernel, a cluster around it the
 * layers that are alike. Of those only the first is drawn; values that come from the last one are
 * drawn from the first. */
#include "inspect/forms.h"
#include "inspect/graph.h"

#include "ir/text.h"

static void quoted(StrBuf *o, const char *s)
{
    sb_ch(o, '"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\') sb_ch(o, '\\');
        sb_ch(o, (unsigned char)*s < 32 ? ' ' : *s);
    }
    sb_ch(o, '"');
}

typedef struct Dot {
    StrBuf *o;
    Graph g;
    u32 *node_of;  /* [ops of the function] */
    u32 *fold_of;  /* [nodes] */
    u32 *place_of; /* [ops of the module] in the function */
} Dot;

static const Op *op_of(const Dot *t, u32 place)
{
    return op_at(t->g.m, t->g.m->fns.at[t->g.fn].body.at[place]);
}

/* The node that is drawn for it: its twin in the first of the layers that are alike. */
static u32 drawn(const Dot *t, u32 node)
{
    const GrFold *f = &t->g.fold.at[t->fold_of[node]];
    return f->from + (node - f->from) % f->n;
}

static u32 drawn_op(const Dot *t, u32 place)
{
    const u32 node = t->node_of[place], twin = drawn(t, node);
    return t->g.node.at[twin].first + (place - t->g.node.at[node].first);
}

static void write_kernel(Dot *t, u32 node)
{
    const GrNode *n = &t->g.node.at[node];
    StrBuf *o = t->o;
    sb_printf(
        o, "    subgraph cluster_%u_%u { style=\"rounded,filled\" fillcolor=\"#8080801a\" label=",
        t->g.fn, n->step);
    quoted(o, arena_printf(o->a, "%u %s", n->step, n->kernel));
    sb_str(o, "\n");
    for (u32 i = 0; i < n->n; i++) {
        const Op *op = op_of(t, n->first + i);
        sb_printf(o, "      f%u_%u [label=", t->g.fn, n->first + i);
        quoted(o, op_info[op->kind].mnemonic);
        sb_str(o, "]\n");
    }
    sb_str(o, "    }\n");
}

static void write_edge(Dot *t, u32 to, ValueId v)
{
    const Module *m = t->g.m;
    const OpId def = value_at(m, v)->def;
    if (!def || is_const(m, v)) return;
    const char *scale = graph_scale(t->o->a, &t->g, v);
    sb_printf(t->o, "  f%u_%u -> f%u_%u [label=", t->g.fn, drawn_op(t, t->place_of[def]), t->g.fn,
              to);
    quoted(t->o, arena_printf(t->o->a, "%s%s%s", ir_type_text(t->g.m, type_of(m, v)),
                              *scale ? " x " : "", scale));
    sb_str(t->o, "]\n");
}

static void write_state_edges(Dot *t)
{
    for (u32 i = 0; i < t->g.edge.n; i++) {
        const GrEdge *e = &t->g.edge.at[i];
        if (!is_const(t->g.m, e->value) || !e->from || !e->to || drawn(t, e->to - 1) != e->to - 1)
            continue;
        const GrNode *x = &t->g.node.at[drawn(t, e->from - 1)], *y = &t->g.node.at[e->to - 1];
        sb_printf(t->o, "  f%u_%u -> f%u_%u [style=dashed label=", t->g.fn, x->first + x->n - 1,
                  t->g.fn, y->first);
        quoted(t->o, arena_printf(t->o->a, "%s %s%s%s", e->name, e->type, *e->scale ? " x " : "",
                                  e->scale));
        sb_str(t->o, "]\n");
    }
}

static void write_fn(Arena *a, StrBuf *o, Module *m, u32 fn)
{
    Dot t = {.o = o};
    graph_build(a, m, fn, &t.g);
    const Fn *f = &m->fns.at[fn];
    t.node_of = NEWN(a, u32, f->body.n);
    t.place_of = NEWN(a, u32, m->ops.n);
    t.fold_of = NEWN(a, u32, t.g.node.n);
    for (u32 i = 0; i < f->body.n; i++)
        t.place_of[f->body.at[i]] = i;
    for (u32 n = 0; n < t.g.node.n; n++)
        for (u32 i = 0; i < t.g.node.at[n].n; i++)
            t.node_of[t.g.node.at[n].first + i] = n;
    for (u32 k = 0; k < t.g.fold.n; k++)
        for (u32 i = 0; i < t.g.fold.at[k].n * t.g.fold.at[k].times; i++)
            t.fold_of[t.g.fold.at[k].from + i] = k;
    for (u32 k = 0; k < t.g.fold.n; k++) {
        const GrFold *fold = &t.g.fold.at[k];
        sb_printf(o, "  subgraph cluster_%u_fold%u { label=", fn, k);
        quoted(o, arena_printf(a, "%s, %s", t.g.name, graph_fold_title(a, &t.g, fold)));
        sb_str(o, "\n");
        for (u32 i = 0; i < fold->n; i++)
            write_kernel(&t, fold->from + i);
        sb_str(o, "  }\n");
    }
    for (u32 i = 0; i < f->body.n; i++) {
        if (drawn(&t, t.node_of[i]) != t.node_of[i]) continue;
        const Op *op = op_of(&t, i);
        for (u32 k = 0; k < op->nin; k++)
            if (op->in[k]) write_edge(&t, i, op->in[k]);
    }
    write_state_edges(&t);
}

void form_dot(Arena *a, const View *v, StrBuf *o)
{
    sb_str(o, "digraph ");
    quoted(o, v->m ? ir_cstr(v->m, v->m->name) : "");
    sb_str(o, " {\n  node [shape=box style=rounded fontname=\"monospace\" fontsize=10]\n"
              "  edge [fontname=\"monospace\" fontsize=9]\n  fontname=\"sans-serif\"\n");
    for (u32 f = 1; v->m && f < v->m->fns.n; f++)
        write_fn(a, o, v->m, f);
    sb_str(o, "}\n");
}
