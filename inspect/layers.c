#include "inspect/layers.h"

#include "inspect/plan.h"

typedef struct Build {
    Arena *a;
    Graph *g;
    Layers out;
    Map row; /* name -> types */
} Build;

u32 layers_bits(const char *word)
{
    i64 bits = 0;
    const char *digits = word + strcspn(word, "0123456789");
    const size_t n = strspn(digits, "0123456789");
    return str_to_i64((Str){digits, n < 4 ? n : 0}, &bits) ? (u32)bits : 0;
}

static bool same_word(const char *x, const char *y)
{
    return x && y ? strcmp(x, y) == 0 : x == y;
}

const char *layers_words(Arena *a, const Layers *l, u32 row)
{
    const char **word = l->types.at[row].word;
    StrBuf b = {.a = a};
    sb_str(&b, "");
    for (u32 from = 0, to; from < l->n; from = to) {
        to = from + 1;
        while (to < l->n && same_word(word[to], word[from]))
            to++;
        if (!word[from]) continue;
        sb_printf(&b, "%s%s", b.n ? ", " : "", word[from]);
        if (to - from < l->n) sb_printf(&b, to - from > 1 ? " %u-%u" : " %u", from, to - 1);
    }
    return b.p;
}

/* The first word of a layer stands. */
static void put(Build *b, const char *name, i64 layer, const char *word)
{
    bool added;
    if (layer < 0 || layer >= b->out.n) return;
    u32 *at = map_put(&b->row, str_c(name), &added);
    if (added) {
        *at = b->out.types.n;
        vec_push(b->a, &b->out.types,
                 ((LayerRow){str_c(name), NEWN(b->a, const char *, b->out.n)}));
    }
    const char **slot = &b->out.types.at[*at].word[layer];
    if (!*slot) *slot = word;
}

static const char *role_of(Build *b, ValueId v)
{
    i64 layer;
    const Str s = plan_role(b->a, str_c(ir_cstr(b->g->m, value_at(b->g->m, v)->name)), &layer);
    return arena_printf(b->a, "%.*s", STRF(s));
}

/* What the numbers of a value are held in: a packed layout, the checkpoint's encoding, the integers
 * behind a dequantize, or its type. */
static const char *type_word(const Build *b, ValueId v)
{
    const Module *m = b->g->m;
    const Op *def = def_of(m, v);
    if (def->kind == OP_ROPE_UNPERMUTE) def = def_of(m, def->in[0]); /* only moves rows */
    if (def->kind == OP_PACK) return op_str(m, def, A_LAYOUT);
    if (def->kind == OP_TENSOR) return op_str(m, def, A_ENC);
    if (def->kind == OP_DEQUANTIZE) v = def->in[0];
    return dtype_info[type_of(m, v)->dt].name;
}

/* A linear: its weights, and the first value that it reads. */
static void linear(Build *b, const GrNode *n)
{
    const Module *m = b->g->m;
    const char *role = role_of(b, n->weights);
    put(b, role, n->layer, type_word(b, n->weights));
    for (u32 i = 0; i < n->n_in; i++) {
        const GrEdge *e = &b->g->edge.at[n->in + i];
        if (!e->from || is_const(m, e->value)) continue;
        put(b, arena_printf(b->a, "%s, its input", role), n->layer, type_word(b, e->value));
        return;
    }
}

/* "kv.k": the elements of a cache, not what lies beside them. */
static void states(Build *b, i32 layer, const Op *op)
{
    for (u32 i = 0; op->kind == OP_KV_APPEND && i < 2 && op_in(op, 3 + i); i++)
        put(b, i ? "values in the cache" : "keys in the cache", layer, type_word(b, op->in[3 + i]));
}

static void scale(Build *b, const Op *op)
{
    const Module *m = b->g->m;
    const Op *def = op->kind == OP_QUANTIZE && op->layer >= 0 ? def_of(m, op->in[1]) : NULL;
    const Attr *v = def && def->kind == OP_LITERAL ? op_attr(def, A_VALUES) : NULL;
    if (!v || !v->n) return;
    i64 layer;
    Str name = plan_role(b->a, str_c(ir_cstr(m, value_at(m, op->in[1])->name)), &layer);
    if (name.n > 2 && name.p[name.n - 2] == '.' && name.p[name.n - 1] == 's') name.n -= 2;
    LayerScale s = {name, op->layer, v->floats[0], v->floats[0]};
    for (u32 i = 1; i < v->n; i++) {
        s.lo = v->floats[i] < s.lo ? v->floats[i] : s.lo;
        s.hi = v->floats[i] > s.hi ? v->floats[i] : s.hi;
    }
    vec_push(b->a, &b->out.scale, s);
}

Layers layers_of(Arena *a, Graph *g)
{
    Build b = {.a = a, .g = g, .row = {.a = a}};
    const Fn *f = &g->m->fns.at[g->fn];
    for (u32 i = 0; i < g->node.n; i++)
        if (g->node.at[i].layer < LAYERS_MAX && g->node.at[i].layer >= (i32)b.out.n)
            b.out.n = (u32)g->node.at[i].layer + 1;
    for (u32 i = 0; i < g->node.n; i++) {
        const GrNode *n = &g->node.at[i];
        if (n->weights && strncmp(n->kernel, "linear", 6) == 0) linear(&b, n);
        for (u32 k = 0; k < n->n; k++) {
            const Op *op = op_at(g->m, f->body.at[n->first + k]);
            states(&b, n->layer, op);
            scale(&b, op);
        }
    }
    return b.out;
}
