/* Combinations that mean nothing or compute something else, as one table: what may not come before
 * a pass, and what no module may hold. Each row has a name, where it is looked for, the test, and
 * the sentence that says what to do instead. docs/passes.md lists them.
 *
 * The reasons are of three kinds. A scale, a grid and a prefix belong to the basis and to the float
 * model they were found in, so what changes these comes first. A weight has one owner of its grid
 * and an edge one online transform. Positions count the prefix, in all layers alike.
 */
#include "passes/rules.h"

#include "ir/hadamard.h"
#include "ir/text.h"

#include <math.h>

typedef struct Look {
    PassCx *cx;
    const Module *m;
} Look;

typedef bool Breach(const Look *l, const Op *op);

/* ---- what ops are ---- */

/* Behind moves, which keep every element as it is. */
static const Op *behind_moves(const Module *m, ValueId v)
{
    for (;;) {
        const Op *op = def_of(m, v);
        switch (op->kind) {
        case OP_COPY:
        case OP_RESHAPE:
        case OP_TRANSPOSE:
        case OP_SLICE:
        case OP_ROPE_UNPERMUTE: v = op->in[0]; break;
        default: return op;
        }
    }
}

static bool in_graph(const Look *l, const Op *op)
{
    return op->fn && op->fn == pass_fn_index(l->m, "main");
}

/* The weight of a linear or an embedding, 0 for other ops. */
static ValueId weight_of(const Module *m, const Op *op)
{
    bool weighs = op->kind == OP_LINEAR || op->kind == OP_EMBEDDING;
    return weighs && is_const(m, op->in[1]) ? op->in[1] : 0;
}

static bool has_grid(const Look *l, const Op *op)
{
    ValueId w = weight_of(l->m, op);
    return w && behind_moves(l->m, w)->kind == OP_DEQUANTIZE;
}

/* The online transform that operand k of an attention went through, under its quantisers; 0. */
static const Op *online_transform(const Module *m, ValueId v)
{
    for (const Op *op = behind_moves(m, v); !is_const(m, v); op = behind_moves(m, v)) {
        if (op->kind == OP_HADAMARD) return op;
        if (op->kind != OP_DEQUANTIZE && op->kind != OP_QUANTIZE) break;
        v = op->in[0];
    }
    return NULL;
}

static bool dequantized(const Module *m, ValueId v)
{
    return !is_const(m, v) && behind_moves(m, v)->kind == OP_DEQUANTIZE;
}

/* Is part of the pass's work switched on: its option skip= does not name it. */
static bool rotates(const Look *l, const char *part)
{
    return !pass_skips(l->cx, part);
}

/* ---- before a pass ---- */

static bool quantises(const Look *l, const Op *op)
{
    return in_graph(l, op) && op->kind == OP_QUANTIZE;
}

static bool layer_has_grid(const Look *l, const Op *op)
{
    return in_graph(l, op) && has_grid(l, op);
}

static bool has_prefix(const Look *l, const Op *op)
{
    return in_graph(l, op) && op->kind == OP_ATTENTION && op_in(op, 4);
}

static bool not_float(const Look *l, const Op *op)
{
    return quantises(l, op) || layer_has_grid(l, op);
}

static bool rotated_before(const Look *l, const Op *op)
{
    if (!in_graph(l, op)) return false;
    if (op->kind == OP_LINEAR && rotates(l, "r4")) return online_transform(l->m, op->in[0]) != NULL;
    return op->kind == OP_ATTENTION && rotates(l, "r3") &&
           (online_transform(l->m, op->in[0]) || online_transform(l->m, op->in[1]));
}

static bool no_transform(i64 n)
{
    return n > 0 && !hadamard_base_order(n);
}

static bool heads_too_odd(const Look *l, const Op *op)
{
    if (!in_graph(l, op) || op->kind != OP_ATTENTION) return false;
    bool k = rotates(l, "r3") && no_transform(type_cols(type_of(l->m, op->in[1])));
    return k || (rotates(l, "r2") && no_transform(type_cols(type_of(l->m, op->in[2]))));
}

static bool stream_too_odd(const Look *l, const Op *op)
{
    return in_graph(l, op) && op->kind == OP_EMBEDDING && rotates(l, "r1") &&
           no_transform(type_cols(type_of(l->m, op->out)));
}

static bool keys_turned_apart(const Look *l, const Op *op)
{
    if (!in_graph(l, op) || op->kind != OP_ATTENTION || pass_int(l->cx, "kv") > 8 ||
        !pass_selected(l->cx, "k", "k"))
        return false;
    return online_transform(l->m, op->in[1]) &&
           !pass_turns_heads(type_cols(type_of(l->m, op->in[1])));
}

static bool selected_has_grid(const Look *l, const Op *op)
{
    if (!layer_has_grid(l, op)) return false;
    Tail t;
    if (!pass_tail(l->cx, op->fn, &t)) return false;
    const char *cls = op->kind == OP_EMBEDDING ? "embedding"
                      : op->out == t.head      ? "head"
                                               : "layers";
    return pass_selected(l->cx, cls, pass_base_name(l->cx, weight_of(l->m, op)));
}

/* ---- in any module ---- */

static bool two_transforms(const Look *l, const Op *op)
{
    return op->fn && op->kind == OP_HADAMARD && !is_const(l->m, op->in[0]) &&
           behind_moves(l->m, op->in[0])->kind == OP_HADAMARD;
}

static bool quantised_twice(const Look *l, const Op *op)
{
    return op->kind == OP_QUANTIZE && behind_moves(l->m, op->in[0])->kind == OP_DEQUANTIZE;
}

static bool left_its_grid(const Look *l, const Op *op)
{
    bool computes = op->kind == OP_HADAMARD || op->kind == OP_ADD || op->kind == OP_MUL ||
                    op->kind == OP_DIV || op->kind == OP_CAST;
    if (op->fn || !computes) return false;
    for (u32 i = 0; i < op->nin; i++)
        if (behind_moves(l->m, op->in[i])->kind == OP_DEQUANTIZE) return true;
    return false;
}

static bool q_without_k(const Look *l, const Op *op)
{
    return op->kind == OP_ATTENTION && dequantized(l->m, op->in[0]) &&
           !dequantized(l->m, op->in[1]);
}

static bool one_side_turned(const Look *l, const Op *op)
{
    if (op->kind != OP_ATTENTION) return false;
    const Op *q = online_transform(l->m, op->in[0]), *k = online_transform(l->m, op->in[1]);
    i64 d = type_cols(type_of(l->m, op->in[0]));
    if (!q || !k) return q || k;
    i64 gq = op_int(q, A_GROUP), gk = op_int(k, A_GROUP);
    return (gq ? gq : d) != (gk ? gk : d) || op_int(q, A_SEED) != op_int(k, A_SEED);
}

static i64 prefix_rows(const Module *m, const Op *op)
{
    if (op->kind == OP_ATTENTION) return op_in(op, 4) ? type_of(m, op->in[4])->dim[0] : 0;
    return op->kind == OP_ATTEND ? op_int(op, A_PREFIX) : -1;
}

static bool prefix_too_long(const Look *l, const Op *op)
{
    i64 context = ir_meta_get_int(l->m, "context", 0);
    return context > 0 && prefix_rows(l->m, op) >= context;
}

static bool prefix_differs(const Look *l, const Op *op)
{
    i64 rows = prefix_rows(l->m, op);
    if (rows < 0) return false;
    const Fn *f = &l->m->fns.at[op->fn];
    for (u32 i = 0; i < f->body.n; i++) {
        i64 first = prefix_rows(l->m, op_at(l->m, f->body.at[i]));
        if (first >= 0) return first != rows;
    }
    return false;
}

/* A literal scale that no values can be divided by. */
static bool bad_scale(const Look *l, const Op *op)
{
    if (op->kind != OP_QUANTIZE && op->kind != OP_DEQUANTIZE) return false;
    const Op *s = def_of(l->m, op->in[1]);
    const Attr *v = s->kind == OP_LITERAL ? op_attr(s, A_VALUES) : NULL;
    for (u32 i = 0; v && i < v->n; i++)
        if (!(v->floats[i] > 0) || !isfinite(v->floats[i])) return true;
    return false;
}

/* ---- the table ---- */

#define QUANTISING "quantize-weights, weights, static-scales and dynamic-scales"

static const struct Rule {
    const char *name;
    const char *before; /* passes, separated by spaces; NULL: in any module */
    Breach *breach;
    const char *sentence;
} rules[] = {
    {"prefix-basis", "rotate", has_prefix,
     "the prefix's keys and values are constants of the basis that rotate changes: put rotate "
     "before "
     "prefix"},
    {"scale-basis", "rotate", quantises,
     "a scale belongs to the basis it was found in: put rotate before " QUANTISING},
    {"grid-last", "rotate fuse-norm merge-linears", layer_has_grid,
     "it changes weights, and this one has its grid already: put it before " QUANTISING},
    {"rotate-once", "rotate", rotated_before,
     "an edge has at most one online transform, and this one has it already: rotate once, or skip "
     "what is done"},
    {"head-size", "rotate", heads_too_odd,
     "there is no transform of heads of this size (an odd factor above 4096): leave out r2 and r3 "
     "with skip=r2+r3"},
    {"hidden-size", "rotate", stream_too_odd,
     "there is no transform of this hidden size (an odd factor above 4096): leave out r1 with "
     "skip=r1"},
    {"r3-size", "static-scales dynamic-scales", keys_turned_apart,
     "keys are quantised behind R3 where heads are a power of two up to 256: leave it out with "
     "rotate{skip=r3}, or keys floats with kv=16"},
    {"prefix-once", "prefix", has_prefix, "there is a prefix already: a module has one"},
    {"prefix-float", "prefix", not_float,
     "the prefix's keys and values are those of the float model: put prefix before " QUANTISING},
    {"grid-owner", "quantize-weights weights", selected_has_grid,
     "this weight has its grid already, and a grid has one owner (rounding, clip search or GPTQ): "
     "select others with only= or skip="},
    {"one-transform", NULL, two_transforms,
     "an edge has at most one online transform: one of them belongs into the weight"},
    {"quantise-once", NULL, quantised_twice,
     "it quantises what was quantised before: a value has one grid"},
    {"on-grid", NULL, left_its_grid,
     "it computes with a weight that has its grid already: what comes out lies on none"},
    {"integer-qk", NULL, q_without_k,
     "queries are quantised and keys are not: products of integers need both (q=0 keeps queries "
     "floats)"},
    {"both-turn", NULL, one_side_turned,
     "of q and k one is transformed, or each in its own way: their products are kept by one "
     "transform "
     "of both"},
    {"prefix-context", NULL, prefix_too_long,
     "the prefix is as long as the context: no room is left for a prompt"},
    {"prefix-layers", NULL, prefix_differs,
     "its prefix is longer or shorter than that of an attention before: positions count the prefix "
     "in "
     "every layer"},
    {"static-scale", NULL, bad_scale, "a static scale is a positive number"},
};
enum { N_RULES = sizeof rules / sizeof *rules };

static bool check(PassCx *cx, const struct Rule *r, const char *what)
{
    const Look l = {cx, cx->m};
    u32 errors = cx->d->n_errors;
    for (OpId i = 1; i < cx->m->ops.n; i++) {
        const Op *op = op_at(cx->m, i);
        if (!op->kind || !r->breach(&l, op)) continue;
        diag_error(cx->d, E_PASS_COMBINATION, LOC_WHAT(what), "%s", r->sentence);
        diag_note(cx->d, "%s", ir_op_text(cx->m, op));
        return false;
    }
    return cx->d->n_errors == errors;
}

static bool named(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = strstr(list, name); p; p = strstr(p + 1, name))
        if ((p == list || p[-1] == ' ') && (p[n] == ' ' || !p[n])) return true;
    return false;
}

bool rules_before(PassCx *cx, const char *pass)
{
    const char *what = arena_printf(cx->m->a, "pass %s", pass);
    for (u32 i = 0; i < N_RULES; i++)
        if (rules[i].before && named(rules[i].before, pass) && !check(cx, &rules[i], what))
            return false;
    return true;
}

bool rules_of_module(PassCx *cx, const char *what)
{
    for (u32 i = 0; i < N_RULES; i++)
        if (!rules[i].before && !check(cx, &rules[i], what)) return false;
    return true;
}

const char *rules_name(u32 i, const char **sentence)
{
    if (i >= N_RULES) return NULL;
    *sentence = rules[i].sentence;
    return rules[i].name;
}

void rules_list(StrBuf *b)
{
    sb_str(b, "\n# Combinations that are refused\n\nBefore a pass, or after every pass.\n");
    for (u32 i = 0; i < N_RULES; i++)
        sb_printf(b, "\n- `%s` (%s): %s.\n", rules[i].name,
                  rules[i].before ? rules[i].before : "any module", rules[i].sentence);
}
