#include "frontend/graph.h"

#include "ir/text.h"

typedef struct Graph {
    FeWeights *w;
    Diag *d;
    Module *m;
    Arena *a;
    const Source *src;
    const FeEnv *dims;
    FeEnv env; /* dims and the repeat variable */
    u32 fn;
    Map outer, inner; /* names outside and inside the current repeat -> ValueId */
    bool repeating;
    Str var;       /* the repeat variable */
    i64 at, count; /* its index from 0, and how many */
    i64 layer;     /* its value; -1 outside */
    u32 nodes;     /* built, and iterations */
    u64 elements;  /* of list attributes */
    Map bad;       /* offsets of failed nodes: reported once, not per layer */
} Graph;

static const u32 FAILED = UINT32_MAX;

/* Bounds the work that a hostile graph can ask for. */
static bool go_on(const Graph *g)
{
    return g->nodes <= FE_MAX_NODES && g->d->n_errors < DIAG_MAX;
}

static bool spend(Graph *g, const Json *v)
{
    return ++g->nodes <= FE_MAX_NODES ||
           diag_error(g->d, E_LIMIT, json_loc(g->src, v), "the graph has more than %d nodes",
                      FE_MAX_NODES);
}

static Loc at(const Graph *g, const Json *v)
{
    return json_loc(g->src, v);
}
static bool absent(const Json *v)
{
    return !v || v->kind == JSON_NULL;
}

static bool lookup(void *user, Str name, FeVal *out)
{
    Graph *g = user;
    if (g->repeating && str_eq(name, g->var)) {
        *out = fe_int(g->layer);
        return true;
    }
    return g->dims->lookup(g->dims->user, name, out);
}

static bool is_ident(Str s)
{
    bool ok = s.n > 0 && s.n <= 64;
    for (size_t i = 0; ok && i < s.n; i++) {
        char c = s.p[i];
        ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
             (i && c >= '0' && c <= '9');
    }
    return ok;
}

/* ---- attributes ---- */

/* A symbol, an integer, or an expression. */
static bool int_value(Graph *g, const Json *v, bool symbols, i64 *out)
{
    static const char *const sym[DIM_SYMBOLS] = {"T", "R", "C"};
    for (int i = 0; symbols && v->kind == JSON_STRING && i < DIM_SYMBOLS; i++)
        if (str_is(v->str, sym[i])) {
            *out = -1 - i;
            return true;
        }
    FeVal x = fe_from_json(g->a, v);
    if (v->kind == JSON_STRING && !fe_eval_json(g->d, g->src, v, &g->env, &x)) return false;
    if (x.kind != FE_INT)
        return diag_error(g->d, E_JSON_TYPE, at(g, v),
                          "expected an integer or an expression of integers");
    *out = x.i;
    return true;
}

static bool float_value(Graph *g, const Json *v, double *out)
{
    FeVal x = fe_from_json(g->a, v);
    if (v->kind == JSON_STRING && !fe_eval_json(g->d, g->src, v, &g->env, &x)) return false;
    if (x.kind != FE_INT && x.kind != FE_FLOAT)
        return diag_error(g->d, E_JSON_TYPE, at(g, v), "expected a number or an expression");
    *out = fe_number(&x);
    return true;
}

static bool list_value(Graph *g, const Json *v, AttrSpec *s, bool ints)
{
    if (v->kind != JSON_ARRAY)
        return diag_error(g->d, E_JSON_TYPE, at(g, v), "found %s, expected an array",
                          json_kind_name(v->kind));
    g->elements += v->n;
    if (g->elements > FE_MAX_ELEMENTS)
        return diag_error(g->d, E_LIMIT, at(g, v),
                          "the lists of the graph hold more than %d elements", FE_MAX_ELEMENTS);
    i64 *iv = ints ? NEWN(g->a, i64, v->n) : NULL;
    double *fv = ints ? NULL : NEWN(g->a, double, v->n);
    for (u32 i = 0; i < v->n; i++)
        if (ints ? !int_value(g, &v->at[i], true, &iv[i]) : !float_value(g, &v->at[i], &fv[i]))
            return false;
    s->n = v->n, s->ints = iv, s->floats = fv;
    return true;
}

static bool attr_value(Graph *g, const Json *v, AttrSpec *s)
{
    const AttrInfo *info = &attr_info[s->id];
    bool list = info->kind == AK_INTS || info->kind == AK_FLOATS;
    if (g->repeating && v->kind == JSON_ARRAY &&
        (!list || (v->n && v->at[0].kind == JSON_ARRAY))) { /* one value per layer */
        if (v->n != g->count)
            return diag_error(g->d, E_JSON_VALUE, at(g, v),
                              "\"%s\" lists %u values for %lld layers", info->name, v->n,
                              (long long)g->count);
        v = &v->at[g->at];
    }
    switch (info->kind) {
    case AK_INT: return int_value(g, v, false, &s->i);
    case AK_FLOAT: return float_value(g, v, &s->f);
    case AK_STR:
        if (v->kind != JSON_STRING)
            return diag_error(g->d, E_JSON_TYPE, at(g, v), "\"%s\" is %s, expected text",
                              info->name, json_kind_name(v->kind));
        s->s = v->str.p;
        return true;
    default: return list_value(g, v, s, info->kind == AK_INTS);
    }
}

/* The attributes an op takes, as names; n of them. */
static u32 attr_names(Graph *g, OpKind kind, const char **names, u32 cap)
{
    u32 n = 0;
    for (const char *p = op_info[kind].attrs; *p && n < cap;) {
        size_t len = strcspn(p, " ");
        size_t bare = len - (p[len - 1] == '?');
        names[n++] = arena_strdup(g->a, p, bare);
        p += len;
        p += strspn(p, " ");
    }
    return n;
}

static AttrId attr_by_name(Str s)
{
    for (int i = 1; i < A_COUNT; i++)
        if (str_is(s, attr_info[i].name)) return (AttrId)i;
    return A_NONE;
}

static bool attrs_of(Graph *g, OpKind kind, const Json *node, AttrSpec **out)
{
    static const char *const fixed[] = {"id", "op", "in", "note", "type"};
    const char *names[A_COUNT + 5];
    bool leaf = op_info[kind].flags & OPF_LEAF;
    u32 n_fixed = leaf ? 5 : 4, n = 0;
    for (u32 i = 0; i < n_fixed; i++)
        names[i] = fixed[i];
    u32 n_names = n_fixed + attr_names(g, kind, names + n_fixed, A_COUNT);
    if (!json_only(g->d, g->src, node, names, n_names)) return false;
    AttrSpec *spec = NEWN(g->a, AttrSpec, node->n + 1);
    bool ok = true;
    for (u32 i = 0; i < node->n; i++) {
        bool is_fixed = false;
        for (u32 k = 0; k < n_fixed; k++)
            is_fixed |= str_is(node->key[i], fixed[k]);
        if (is_fixed) continue;
        spec[n].id = attr_by_name(node->key[i]);
        ok &= attr_value(g, &node->at[i], &spec[n++]);
    }
    *out = spec;
    return ok;
}

/* "type": ["f32", 4, "hidden"] of a leaf op. */
static bool leaf_type(Graph *g, const Json *node, TypeId *out)
{
    const Json *v = json_need(g->d, g->src, node, "type", JSON_ARRAY);
    if (!v) return false;
    DType dt = v->n && v->at[0].kind == JSON_STRING ? dtype_by_name(v->at[0].str) : DT_NONE;
    if (!dt || v->n > MAX_RANK + 1)
        return diag_error(g->d, E_JSON_VALUE, at(g, v),
                          "a type is [\"f32\", dimensions...] with at most %d dimensions",
                          MAX_RANK);
    i64 dim[MAX_RANK];
    for (u32 i = 1; i < v->n; i++) {
        if (!int_value(g, &v->at[i], true, &dim[i - 1])) return false;
        if (dim[i - 1] == 0 || dim[i - 1] < -DIM_SYMBOLS)
            return diag_error(g->d, E_JSON_VALUE, at(g, &v->at[i]), "a dimension must be positive");
    }
    *out = ir_type(g->m, dt, v->n - 1, dim);
    return true;
}

/* ---- operands ---- */

static ValueId build(Graph *g, const Json *node, bool constant);

/* An error about part of a JSON string; exact when the string has no escapes. */
static Loc inside(const Graph *g, const Json *v, size_t off, size_t len)
{
    Loc l = at(g, v);
    if (v->len == v->str.n + 2) l.off += 1 + off, l.len = len;
    return l;
}

static ValueId weight(Graph *g, const Json *v)
{
    StrBuf name = {.a = g->a};
    FeExprError err;
    if (!fe_substitute(&g->env, (Str){v->str.p + 1, v->str.n - 1}, &name, &err)) {
        if (err.reported) return FAILED;
        diag_error(g->d, E_JSON_VALUE, inside(g, v, err.off + 1, err.len), "%s", err.text);
        if (err.hint) diag_hint(g->d, "%s", err.hint);
        return FAILED;
    }
    ValueId w = fe_weight(g->w, at(g, v), (Str){name.p, name.n}, (i32)g->layer);
    return w ? w : FAILED;
}

static const char *nearest_name(Graph *g, Str s)
{
    const Map *maps[] = {&g->inner, &g->outer};
    u32 n = 0, cap = g->inner.entries.n + g->outer.entries.n;
    const char **names = NEWN(g->a, const char *, cap);
    for (u32 k = 0; k < 2; k++)
        for (u32 i = 0; i < maps[k]->entries.n; i++)
            names[n++] = maps[k]->entries.at[i].key.p;
    return str_nearest(s, names, n);
}

/* A value by name: "id", or "id.1" for the second result of a node. */
static ValueId named(Graph *g, const Json *v, Str s)
{
    const char *dot = memchr(s.p, '.', s.n);
    Str id = dot ? (Str){s.p, (size_t)(dot - s.p)} : s;
    const u32 *slot = g->repeating ? map_get(&g->inner, id) : NULL;
    if (!slot) slot = map_get(&g->outer, id);
    if (!slot) {
        diag_error(g->d, E_MODEL_GRAPH, at(g, v), "\"%.*s\" is not defined here",
                   (int)(s.n < 80 ? s.n : 80), s.p);
        const char *near = nearest_name(g, id);
        if (near)
            diag_hint(g->d, "did you mean \"%s\"?", near);
        else
            diag_hint(g->d, "inputs are ids of nodes above, \"tokens\", \"pos\", or \"@tensor\"");
        return FAILED;
    }
    if (!dot || *slot == FAILED) return *slot;
    i64 k;
    const Op *def = def_of(g->m, *slot);
    if (!str_to_i64((Str){dot + 1, s.n - id.n - 1}, &k) || k < 0 || def->kind == OP_NONE ||
        k >= def->nout) {
        diag_error(g->d, E_MODEL_GRAPH, at(g, v), "\"%.*s\" has no result \"%.*s\"", STRF(id),
                   (int)(s.n - id.n), dot);
        return FAILED;
    }
    return *slot + (u32)k;
}

static ValueId operand(Graph *g, const Json *v, bool constant)
{
    if (absent(v)) return 0;
    if (v->kind == JSON_OBJECT) return build(g, v, true);
    if (v->kind != JSON_STRING || v->str.n == 0) {
        diag_error(g->d, E_JSON_TYPE, at(g, v),
                   "an input is %s, expected a name, \"@tensor\", an object or null",
                   json_kind_name(v->kind));
        return FAILED;
    }
    if (v->str.p[0] == '@') return weight(g, v);
    ValueId x = named(g, v, v->str);
    if (constant && x && x != FAILED && !is_const(g->m, x)) {
        diag_error(g->d, E_MODEL_GRAPH, at(g, v),
                   "\"%.*s\" is computed from the tokens, expected a constant here", STRF(v->str));
        return FAILED;
    }
    return x;
}

/* ---- nodes ---- */

/* Re-reports what a type rule said, at the node's place. */
static void graph_error(Graph *g, const Json *node, const Diag *said, OpKind kind)
{
    const char *text = "the op is not valid here", *note = NULL;
    for (u32 i = 0; i < said->msgs.n; i++) {
        if (said->msgs.at[i].code)
            text = said->msgs.at[i].text;
        else if (!note)
            note = said->msgs.at[i].text;
    }
    const Json *op = json_get(node, "op");
    diag_error(g->d, E_MODEL_GRAPH, at(g, op ? op : node), "%s: %s", op_info[kind].mnemonic, text);
    if (g->repeating)
        diag_note(g->d, "in layer %lld: %s", (long long)g->layer, note ? note : "");
    else if (note)
        diag_note(g->d, "%s", note);
}

static const char *value_name(Graph *g, const Json *id, const ValueId *in, u32 nin, OpKind kind)
{
    if (id)
        return g->repeating ? arena_printf(g->a, "%s.%lld", id->str.p, (long long)g->layer)
                            : id->str.p;
    for (u32 i = 0; i < nin; i++) /* an inline constant is called after its first operand */
        if (in[i])
            return arena_printf(g->a, "%s.%s", ir_cstr(g->m, value_at(g->m, in[i])->name),
                                op_info[kind].mnemonic);
    return NULL;
}

/* Builds one node or inline constant. FAILED after a diagnostic, 0 for ops without results. */
static ValueId build(Graph *g, const Json *node, bool constant)
{
    const Json *op = json_need(g->d, g->src, node, "op", JSON_STRING);
    if (!op) return FAILED;
    OpKind kind = op_by_name(op->str);
    if (!kind || kind == OP_TENSOR) {
        diag_error(g->d, E_MODEL_GRAPH, at(g, op),
                   kind ? "\"%.*s\" cannot be written here; name the tensor as \"@name\""
                        : "unknown op \"%.*s\"",
                   STRF(op->str));
        const char *names[OP_COUNT];
        for (int i = 1; i < OP_COUNT; i++)
            names[i - 1] = op_info[i].mnemonic;
        const char *near = kind ? NULL : str_nearest(op->str, names, OP_COUNT - 1);
        if (near) diag_hint(g->d, "did you mean \"%s\"?", near);
        return FAILED;
    }
    const Json *in = json_get(node, "in");
    if (in && in->kind != JSON_ARRAY) {
        diag_error(g->d, E_JSON_TYPE, at(g, in), "\"in\" is %s, expected an array",
                   json_kind_name(in->kind));
        return FAILED;
    }
    u32 nin = in ? in->n : 0;
    if (!spend(g, node)) return FAILED;
    if (nin > op_info[kind].max_in) {
        diag_error(g->d, E_MODEL_GRAPH, at(g, op), "%s: takes at most %u operands, found %u",
                   op_info[kind].mnemonic, op_info[kind].max_in, nin);
        return FAILED;
    }
    ValueId *v = NEWN(g->a, ValueId, nin);
    bool ok = true, all_const = true;
    for (u32 i = 0; i < nin; i++) {
        v[i] = operand(g, &in->at[i], constant);
        if (v[i] == FAILED)
            ok = false;
        else
            all_const &= !v[i] || is_const(g->m, v[i]);
    }
    AttrSpec *attrs;
    TypeId type = 0;
    ok &= attrs_of(g, kind, node, &attrs);
    if (ok && op_info[kind].flags & OPF_LEAF) ok = leaf_type(g, node, &type);
    if (!ok) return FAILED;
    Diag said;
    diag_init(&said, g->a);
    bool to_const = constant || (all_const && op_info[kind].flags & OPF_CONST);
    Builder b = {.m = g->m, .d = &said, .fn = to_const ? 0 : g->fn, .layer = (i32)g->layer};
    const Json *id = json_get(node, "id");
    if (id && id->kind != JSON_STRING) id = NULL;
    ValueId r = ir_op(&b, kind, v, nin, attrs, type, value_name(g, id, v, nin, kind));
    if (r) return op_info[kind].nout ? r : 0;
    graph_error(g, node, &said, kind);
    return FAILED;
}

static bool define(Graph *g, const Json *place, Str id, ValueId v)
{
    bool added;
    u32 *slot = map_put(g->repeating ? &g->inner : &g->outer, id, &added);
    if (added) *slot = v;
    return added ||
           diag_error(g->d, E_MODEL_GRAPH, at(g, place), "\"%.*s\" is defined twice", STRF(id));
}

static bool bad_before(Graph *g, const Json *node)
{
    return map_get(&g->bad, (Str){(const char *)&node->off, sizeof node->off}) != NULL;
}

static void mark_bad(Graph *g, const Json *node)
{
    bool added;
    map_put(&g->bad, (Str){(const char *)&node->off, sizeof node->off}, &added);
}

static bool node(Graph *g, const Json *n)
{
    if (n->kind != JSON_OBJECT) {
        if (bad_before(g, n)) return false;
        mark_bad(g, n);
        return diag_error(g->d, E_JSON_TYPE, at(g, n), "a node is %s, expected an object",
                          json_kind_name(n->kind));
    }
    const Json *id = json_get(n, "id");
    if (bad_before(g, n)) { /* its users in this layer must not complain either */
        if (id && id->kind == JSON_STRING)
            *map_put(g->repeating ? &g->inner : &g->outer, id->str, &(bool){false}) = FAILED;
        return false;
    }
    ValueId v = FAILED;
    bool ok = true;
    const Json *op = json_get(n, "op");
    OpKind kind = op && op->kind == JSON_STRING ? op_by_name(op->str) : OP_NONE;
    if (!id && (!kind || op_info[kind].nout))
        ok = json_need(g->d, g->src, n, "id", JSON_STRING) != NULL;
    else if (id && (id->kind != JSON_STRING || !is_ident(id->str)))
        ok = diag_error(g->d, E_JSON_VALUE, at(g, id),
                        "an id is a name of letters, digits and _, at most 64");
    if (ok) v = build(g, n, false);
    if (id && v == 0) {
        diag_error(g->d, E_MODEL_GRAPH, at(g, id), "%s has no result that an id could name",
                   op_info[kind].mnemonic);
        v = FAILED;
    }
    if (v == FAILED) mark_bad(g, n);
    if (ok && id) ok = define(g, id, id->str, v);
    return ok && v != FAILED;
}

/* ---- repeat ---- */

static bool type_kept(Graph *g, const Json *place, ValueId from, ValueId to)
{
    if (from == FAILED || to == FAILED || value_at(g->m, from)->type == value_at(g->m, to)->type)
        return true;
    return diag_error(
        g->d, E_MODEL_GRAPH, at(g, place), "the carried value changes its type from %s to %s",
        ir_type_text(g->m, type_of(g->m, from)), ir_type_text(g->m, type_of(g->m, to)));
}

static bool iteration(Graph *g, const Json *carry, const Json *nodes, ValueId *cur)
{
    g->inner = (Map){.a = g->a};
    bool ok = true;
    for (u32 i = 0; carry && i < carry->n; i++)
        *map_put(&g->inner, carry->key[i], &(bool){false}) = cur[i];
    for (u32 i = 0; i < nodes->n && go_on(g); i++) {
        if (json_get(&nodes->at[i], "repeat")) {
            if (bad_before(g, &nodes->at[i])) continue;
            mark_bad(g, &nodes->at[i]);
            ok = diag_error(g->d, E_MODEL_GRAPH, at(g, &nodes->at[i]), "a repeat inside a repeat");
        } else
            ok &= node(g, &nodes->at[i]);
    }
    for (u32 i = 0; carry && i < carry->n; i++) {
        const Json *to = &carry->at[i];
        ValueId next = bad_before(g, to) ? FAILED : named(g, to, to->str);
        if (next == FAILED || !type_kept(g, to, cur[i], next)) {
            mark_bad(g, to);
            ok = false;
            next = FAILED;
        }
        cur[i] = next;
    }
    return ok;
}

static bool repeat(Graph *g, const Json *r)
{
    static const char *const keys[] = {"repeat", "count", "start", "carry", "nodes", "note"};
    bool ok = json_only(g->d, g->src, r, keys, 6);
    const Json *var = json_need(g->d, g->src, r, "repeat", JSON_STRING),
               *nodes = json_need(g->d, g->src, r, "nodes", JSON_ARRAY);
    const Json *count = json_get(r, "count"), *start = json_get(r, "start"),
               *carry = json_get(r, "carry");
    if (!count)
        ok = diag_error(g->d, E_JSON_MISSING, (Loc){.src = g->src, .off = r->off, .len = 1},
                        "the key \"count\" is missing");
    if (!var || !nodes || !count) return false;
    FeVal unused;
    if (!is_ident(var->str) || lookup(g, var->str, &unused) || map_get(&g->outer, var->str))
        return diag_error(g->d, E_JSON_VALUE, at(g, var),
                          "the variable of a repeat must be a name that is no dim and no id");
    i64 first = 0;
    if (!int_value(g, count, false, &g->count) || (start && !int_value(g, start, false, &first)))
        return false;
    if (g->count < 1 || g->count > FE_MAX_REPEAT || first < 0 || first > FE_MAX_REPEAT)
        return diag_error(g->d, E_MODEL_DIM, at(g, count),
                          "a repeat runs 1 to %d times, found %lld", FE_MAX_REPEAT,
                          (long long)g->count);
    if (carry && carry->kind != JSON_OBJECT)
        return diag_error(g->d, E_JSON_TYPE, at(g, carry), "\"carry\" is %s, expected an object",
                          json_kind_name(carry->kind));
    if (carry && carry->n > FE_MAX_CARRY)
        return diag_error(g->d, E_LIMIT, at(g, carry), "more than %d carried values", FE_MAX_CARRY);
    ValueId *cur = NEWN(g->a, ValueId, carry ? carry->n : 0);
    for (u32 i = 0; carry && i < carry->n; i++) {
        if (carry->at[i].kind != JSON_STRING)
            return diag_error(g->d, E_JSON_TYPE, at(g, &carry->at[i]),
                              "a carried value is named by text");
        cur[i] = named(g, &carry->at[i], carry->key[i]);
        ok &= cur[i] != FAILED;
    }
    g->repeating = true, g->var = var->str;
    for (g->at = 0; g->at < g->count && go_on(g) && spend(g, r); g->at++) {
        g->layer = first + g->at;
        ok &= iteration(g, carry, nodes, cur);
    }
    g->repeating = false, g->layer = -1, g->inner = (Map){.a = g->a};
    for (u32 i = 0; carry && i < carry->n; i++)
        *map_put(&g->outer, carry->key[i], &(bool){false}) = cur[i];
    return ok;
}

/* ---- the function ---- */

static bool finish(Graph *g, const Json *graph, i64 vocab)
{
    const u32 *r = map_get(&g->outer, STR("logits"));
    if (!r)
        return diag_error(g->d, E_MODEL_GRAPH, at(g, graph),
                          "no node has the id \"logits\", which is the model's result");
    if (*r == FAILED) return false;
    const Type *t = type_of(g->m, *r);
    if (value_at(g->m, *r)->fn != g->fn || t->dt != DT_F32 || t->rank != 2 || t->dim[0] != DIM_T ||
        (vocab && t->dim[1] != vocab))
        return diag_error(g->d, E_MODEL_GRAPH, at(g, graph),
                          "\"logits\" has type %s, expected f32[T,%lld]", ir_type_text(g->m, t),
                          (long long)vocab);
    Fn *f = &g->m->fns.at[g->fn];
    vec_push(g->m->a, &f->results, *r);
    return true;
}

bool fe_graph_build(FeWeights *w, const Json *graph, const FeEnv *dims, i64 vocab)
{
    Module *m = w->m;
    Graph g = {.w = w, .d = w->d, .m = m, .a = m->a, .src = w->src, .dims = dims, .layer = -1};
    g.env = *dims;
    g.env.lookup = lookup, g.env.user = &g;
    g.outer.a = g.inner.a = g.bad.a = g.a;
    g.fn = ir_fn_new(m, "main");
    static const char *const params[] = {"tokens", "pos"};
    for (u32 i = 0; i < 2; i++)
        *map_put(&g.outer, str_c(params[i]), &(bool){false}) =
            ir_param(m, g.fn, params[i], ir_type(m, DT_I32, 1, (const i64[]){DIM_T}));
    bool ok = true;
    for (u32 i = 0; i < graph->n && go_on(&g); i++) {
        const Json *n = &graph->at[i];
        ok &= json_get(n, "repeat") ? repeat(&g, n) : node(&g, n);
    }
    return go_on(&g) && finish(&g, graph, vocab) && ok;
}
