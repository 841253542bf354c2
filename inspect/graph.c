#include "inspect/graph.h"

#include "ir/text.h"

/* ---- scales ---- */

static const char *literal_text(Arena *a, const Attr *v)
{
    double lo = v->floats[0], hi = v->floats[0];
    for (u32 i = 1; i < v->n; i++) {
        lo = v->floats[i] < lo ? v->floats[i] : lo;
        hi = v->floats[i] > hi ? v->floats[i] : hi;
    }
    if (v->n == 1) return arena_printf(a, "%.4g", lo);
    return arena_printf(a, "%.3g to %.3g (%u)", lo, hi, v->n);
}

static const char *describe_scale(Arena *a, const Module *m, ValueId s)
{
    const Op *def = def_of(m, s);
    const Attr *values = def->kind == OP_LITERAL ? op_attr(def, A_VALUES) : NULL;
    if (values && values->n) return literal_text(a, values);
    if (def->kind == OP_NONE) return "a parameter";
    if (is_const(m, s)) return def->kind == OP_STATE ? "one per token, beside it" : "one per row";
    if (op_int(def, A_GROUP)) return "one per group, at run time";
    return "one per row, at run time";
}

/* Values that only rename or cut another one have its scale. */
static ValueId source_of(const Module *m, ValueId v)
{
    for (u32 i = 0; i < 64; i++) {
        const Op *def = def_of(m, v);
        if (def->kind != OP_RESHAPE && def->kind != OP_SLICE && def->kind != OP_COPY) break;
        v = def->in[0];
    }
    return v;
}

static void find_appended(Arena *a, Graph *g)
{
    g->appended = NEWN(a, ValueId, g->m->values.n);
    for (OpId id = 1; id < g->m->ops.n; id++) {
        const Op *op = op_at(g->m, id);
        for (u32 i = 0; op->kind == OP_KV_APPEND && i < 2; i++)
            if (op_in(op, 3 + i)) g->appended[op->in[3 + i]] = op->in[i];
    }
}

static const char *find_scale(Arena *a, const Graph *g, ValueId v)
{
    if (!v || dtype_info[type_of(g->m, v)->dt].is_float) return "";
    if (def_of(g->m, v)->kind == OP_STATE) v = g->appended[v];
    const Op *def = v ? def_of(g->m, source_of(g->m, v)) : NULL;
    return def && def->kind == OP_QUANTIZE ? describe_scale(a, g->m, def->in[1]) : "";
}

const char *graph_scale(Arena *a, Graph *g, ValueId v)
{
    if (!g->scale[v]) g->scale[v] = find_scale(a, g, v);
    return g->scale[v];
}

/* ---- nodes ---- */

static void add_nodes(Arena *a, Graph *g)
{
    const Fn *f = &g->m->fns.at[g->fn];
    for (u32 i = 0; i < f->body.n; i++) {
        const Op *op = op_at(g->m, f->body.at[i]);
        GrNode *last = g->node.n ? &g->node.at[g->node.n - 1] : NULL;
        if (last && op->step && last->step == op->step) {
            last->n++;
            continue;
        }
        GrNode n = {.step = op->step ? op->step : i + 1,
                    .kernel = op_info[op->kind].mnemonic,
                    .layer = op->layer,
                    .first = i,
                    .n = 1};
        if (op->step) {
            n.kernel = ir_cstr(g->m, f->steps.at[op->step - 1].kernel);
            n.weights = f->steps.at[op->step - 1].weights;
        }
        for (u32 k = 0; !op->step && k < op->nin && !n.weights; k++)
            if (op->in[k] && is_const(g->m, op->in[k]) && type_of(g->m, op->in[k])->rank == 2)
                n.weights = op->in[k];
        vec_push(a, &g->node, n);
    }
}

/* ---- edges ---- */

typedef struct Link {
    Arena *a;
    Graph *g;
    u32 *node; /* [values] 1 + the node that made it; of a state: that wrote it last */
    u32 *seen; /* [values] 1 + the node that an edge of it went to last */
} Link;

static void add_edge(Link *l, ValueId v, u32 to)
{
    Graph *g = l->g;
    const bool state = def_of(g->m, v)->kind == OP_STATE;
    if ((is_const(g->m, v) && !state) || (to && l->node[v] == to) || l->seen[v] == to + 1) return;
    if (state && !l->node[v]) return; /* written by another function */
    l->seen[v] = to + 1;
    GrEdge e = {.from = l->node[v], .to = to, .value = v};
    e.name = is_const(g->m, v) ? arena_printf(l->a, "@%s", ir_cstr(g->m, value_at(g->m, v)->name))
                               : g->names[v];
    e.type = ir_type_text(g->m, type_of(g->m, v));
    e.scale = graph_scale(l->a, g, v);
    if (e.from) {
        GrNode *from = &g->node.at[e.from - 1];
        e.next = from->out; /* turned round when all are there */
        from->out = g->edge.n + 1;
    }
    vec_push(l->a, &g->edge, e);
}

/* Edges from a node in the order in which they were added. */
static void turn_lists(Graph *g)
{
    for (u32 n = 0; n < g->node.n; n++) {
        u32 done = 0;
        for (u32 at = g->node.at[n].out; at;) {
            GrEdge *e = &g->edge.at[at - 1];
            const u32 next = e->next;
            e->next = done;
            done = at;
            at = next;
        }
        g->node.at[n].out = done;
    }
}

static bool writes_states(OpKind k)
{
    return k == OP_KV_APPEND || k == OP_STORE;
}

static void link_op(Link *l, const Op *op, u32 node)
{
    for (u32 i = 0; i < op->nin; i++) {
        const ValueId v = op->in[i];
        if (!v) continue;
        const bool state = def_of(l->g->m, v)->kind == OP_STATE;
        if (state && writes_states(op->kind))
            l->node[v] = node;
        else
            add_edge(l, v, node);
    }
    for (u32 i = 0; i < op->nout; i++)
        l->node[op->out + i] = node;
}

static void add_edges(Arena *a, Graph *g)
{
    const Fn *f = &g->m->fns.at[g->fn];
    Link l = {a, g, NEWN(a, u32, g->m->values.n), NEWN(a, u32, g->m->values.n)};
    for (u32 n = 0; n < g->node.n; n++) {
        GrNode *node = &g->node.at[n];
        node->in = g->edge.n;
        for (u32 i = 0; i < node->n; i++)
            link_op(&l, op_at(g->m, f->body.at[node->first + i]), n + 1);
        node->n_in = g->edge.n - node->in;
    }
    for (u32 i = 0; i < f->results.n; i++)
        add_edge(&l, f->results.at[i], 0);
    turn_lists(g);
}

/* ---- layers that are the same ---- */

static bool same_op(const Module *m, const Op *x, const Op *y)
{
    if (x->kind != y->kind || x->nin != y->nin || x->nout != y->nout) return false;
    for (u32 i = 0; i < x->nout; i++)
        if (value_at(m, x->out + i)->type != value_at(m, y->out + i)->type) return false;
    return true;
}

static bool same_node(const Graph *g, const GrNode *x, const GrNode *y)
{
    const Fn *f = &g->m->fns.at[g->fn];
    bool same = x->n == y->n && strcmp(x->kernel, y->kernel) == 0;
    for (u32 i = 0; same && i < x->n; i++)
        same = same_op(g->m, op_at(g->m, f->body.at[x->first + i]),
                       op_at(g->m, f->body.at[y->first + i]));
    return same;
}

static u32 run_end(const Graph *g, u32 from)
{
    u32 i = from;
    while (i < g->node.n && g->node.at[i].layer == g->node.at[from].layer)
        i++;
    return i;
}

static bool same_run(const Graph *g, u32 x, u32 y, u32 n)
{
    if (run_end(g, y) - y != n) return false;
    for (u32 i = 0; i < n; i++)
        if (!same_node(g, &g->node.at[x + i], &g->node.at[y + i])) return false;
    return true;
}

static void add_folds(Arena *a, Graph *g)
{
    for (u32 at = 0; at < g->node.n;) {
        GrFold f = {at, run_end(g, at) - at, 1};
        for (u32 next = at + f.n; next < g->node.n; next += f.n, f.times++)
            if (g->node.at[at].layer < 0 ||
                g->node.at[next].layer != g->node.at[at].layer + (i32)f.times ||
                !same_run(g, at, next, f.n))
                break;
        vec_push(a, &g->fold, f);
        at += f.n * f.times;
    }
}

const char *graph_fold_title(Arena *a, const Graph *g, const GrFold *f)
{
    const i32 first = g->node.at[f->from].layer;
    if (first < 0) return "outside the layers";
    if (f->times == 1) return arena_printf(a, "layer %d", first);
    return arena_printf(a, "layers %d to %d, %u times the same", first, first + (i32)f->times - 1,
                        f->times);
}

u32 graph_shown(Module *m)
{
    const Fn *decode = ir_fn(m, "decode");
    return decode ? (u32)(decode - m->fns.at) : m->fns.n > 1 ? 1 : 0;
}

void graph_build(Arena *a, Module *m, u32 fn, Graph *out)
{
    *out = (Graph){.m = m, .fn = fn, .name = ir_cstr(m, m->fns.at[fn].name)};
    out->names = ir_value_names(m, fn, a);
    out->scale = NEWN(a, const char *, m->values.n);
    find_appended(a, out);
    add_nodes(a, out);
    add_edges(a, out);
    add_folds(a, out);
}
