/* The parser of chat templates: Jinja 3.1's grammar (its parser.py is the reference), by recursive
 * descent, straight into the nodes of runtime/template.h. */
#include "frontend/tpl.h"

#include <stdio.h>

typedef struct Parse {
    Diag *d;
    TplTree *t;
    const Source *src;
    const TplTok *tok;
    u32 at;
    u32 nest;  /* expressions and statements within each other */
    u32 loops; /* around this place, in the same macro */
} Parse;

static const TplTok *cur(const Parse *p)
{
    return &p->tok[p->at];
}

static const TplTok *peek(const Parse *p)
{
    return cur(p)->kind == TK_END ? cur(p) : cur(p) + 1;
}

static Loc loc_of(const Parse *p, const TplTok *t)
{
    return (Loc){.src = p->src, .off = t->off, .len = t->len};
}

/* A token as a message names it. */
static Str seen(const Parse *p, const TplTok *t)
{
    static const Str end = {"the end of the template", 23}, tag_end = {"the end of the tag", 18};
    if (t->kind == TK_END) return end;
    if (t->kind == TK_BLOCK_END || t->kind == TK_VAR_END) return tag_end;
    return (Str){p->src->text + t->off, t->len < 40 ? t->len : 40};
}

static bool fail(Parse *p, const char *expected)
{
    const Str s = seen(p, cur(p));
    return diag_error(p->d, E_TEMPLATE, loc_of(p, cur(p)), "found %.*s, expected %s", STRF(s),
                      expected);
}

static bool unsupported(Parse *p, const TplTok *t, const char *what)
{
    return diag_error(p->d, E_TEMPLATE_UNSUPPORTED, loc_of(p, t), "%s is not supported", what);
}

static u32 line(const Parse *p)
{
    return cur(p)->line;
}

static bool is_op(const TplTok *t, const char *op)
{
    return t->kind == TK_OP && str_is(t->text, op);
}

static bool is_name(const TplTok *t, const char *name)
{
    return t->kind == TK_NAME && str_is(t->text, name);
}

static bool skip_op(Parse *p, const char *op)
{
    const bool yes = is_op(cur(p), op);
    p->at += yes;
    return yes;
}

static bool skip_name(Parse *p, const char *name)
{
    const bool yes = is_name(cur(p), name);
    p->at += yes;
    return yes;
}

static bool need_op(Parse *p, const char *op)
{
    char what[8];
    snprintf(what, sizeof what, "'%s'", op);
    return skip_op(p, op) || fail(p, what);
}

static bool need_name(Parse *p, const char *name)
{
    char what[32];
    snprintf(what, sizeof what, "'%s'", name);
    return skip_name(p, name) || fail(p, what);
}

static bool need_end(Parse *p, TplTokKind kind)
{
    if (cur(p)->kind != kind) return fail(p, kind == TK_BLOCK_END ? "%}" : "}}");
    p->at++;
    return true;
}

static bool deeper(Parse *p)
{
    if (p->nest == TPL_MAX_NEST)
        return diag_error(p->d, E_LIMIT, loc_of(p, cur(p)),
                          "the template is nested more than %d deep", TPL_MAX_NEST);
    p->nest++;
    return true;
}

static u32 node(Parse *p, u32 at, PfqTplOp op, u32 sub, u32 a, const u32 *kids, u32 n)
{
    return tpl_node(p->t, at, op, sub, a, kids, n);
}

static u32 text_node(Parse *p, u32 at, PfqTplOp op, Str s)
{
    return node(p, at, op, 0, tpl_string(p->t, s), NULL, 0);
}

static void add(Parse *p, TplKids *k, u32 kid)
{
    vec_push(p->t->a, &k->list, kid);
}

/* ---- names that may be called ---- */

static const char *const filter_names[] = {
#define FILTER(id, name, params, min) name,
#include "runtime/template.def"
};
static const char *const test_names[] = {
#define TEST(id, name, args) name,
#include "runtime/template.def"
};
static const int test_args[] = {
#define TEST(id, name, args) args,
#include "runtime/template.def"
};
static const char *const filter_params[] = {
#define FILTER(id, name, params, min) params,
#include "runtime/template.def"
};

/* Methods of Python's str, list and dict (and of Jinja's loop) that templates here cannot call;
 * transformers' sandbox refuses those that change a list or dict too. */
static const char *const no_methods[] = {
    "append",     "extend",     "insert",       "remove",      "pop",       "popitem",  "clear",
    "update",     "format",     "format_map",   "center",      "ljust",     "rjust",    "zfill",
    "encode",     "partition",  "rpartition",   "translate",   "maketrans", "swapcase", "casefold",
    "isnumeric",  "isdecimal",  "isidentifier", "isprintable", "istitle",   "isascii",  "rindex",
    "expandtabs", "setdefault", "copy",         "sort",        "reverse",   "fromkeys", "changed",
};
static const char *const no_functions[] = {"lipsum", "cycler", "joiner"};

static int index_of(const char *const *names, size_t n, Str name)
{
    for (size_t i = 0; i < n; i++)
        if (str_is(name, names[i])) return (int)i;
    return -1;
}

#define FIND(names, s) index_of(names, sizeof names / sizeof *names, s)

static bool unknown(Parse *p, const TplTok *t, const char *what, const char *const *names, size_t n)
{
    diag_error(p->d, E_TEMPLATE_UNSUPPORTED, loc_of(p, t), "the %s '%.*s' is not supported", what,
               STRF(t->text));
    const char *near = str_nearest(t->text, names, n);
    if (near) diag_hint(p->d, "did you mean '%s'?", near);
    return false;
}

/* A call of v.name() or name() that will not work is refused here. */
static bool callable(Parse *p, u32 callee, const TplTok *t)
{
    const PfqTplNode *f = &p->t->node.at[callee];
    if (f->op != PFQ_T_ATTR && f->op != PFQ_T_NAME) return true;
    const Str name = p->t->str.at[f->a];
    const bool method = f->op == PFQ_T_ATTR;
    if (method ? FIND(no_methods, name) < 0 : FIND(no_functions, name) < 0) return true;
    return diag_error(p->d, E_TEMPLATE_UNSUPPORTED, loc_of(p, t), "the %s '%.*s' is not supported",
                      method ? "method" : "function", STRF(name));
}

/* ---- expressions ---- */

static bool expression(Parse *p, u32 *out);
static bool condition_free(Parse *p, u32 *out); /* without a trailing "if" */
static bool unary(Parse *p, bool filters, u32 *out);

/* One argument: positional, named, or *list and **dict. */
static bool argument(Parse *p, bool *named, u32 *out)
{
    const TplTok *t = cur(p);
    const u32 at = line(p);
    const bool kw = t->kind == TK_NAME && is_op(peek(p), "="), two = is_op(t, "**"),
               star = two || is_op(t, "*");
    if (*named && !kw && !two) return fail(p, "a named argument, as after another one");
    p->at += kw ? 2 : star;
    if (!expression(p, out)) return false;
    *named = kw || two;
    if (kw) *out = node(p, at, PFQ_T_KW, 0, tpl_string(p->t, t->text), out, 1);
    if (star) *out = node(p, at, PFQ_T_STAR, two, 0, out, 1);
    return true;
}

/* Arguments up to ')', the '(' being read: into `k`. */
static bool arguments(Parse *p, TplKids *k)
{
    bool named = false;
    for (bool first = true; !skip_op(p, ")"); first = false) {
        u32 v;
        if (!first && !need_op(p, ",")) return false;
        if (!first && skip_op(p, ")")) break;
        if (!argument(p, &named, &v)) return false;
        add(p, k, v);
        if (k->list.n > PFQ_TPL_MAX_ARGS)
            return diag_error(p->d, E_LIMIT, loc_of(p, cur(p)), "a call has more than %d arguments",
                              PFQ_TPL_MAX_ARGS - 1);
    }
    return true;
}

static bool list(Parse *p, const char *close, PfqTplOp op, u32 *out)
{
    TplKids k = {0};
    const u32 at = line(p);
    for (bool first = true; !skip_op(p, close); first = false) {
        u32 v;
        if (!first && !need_op(p, ",")) return false;
        if (!first && skip_op(p, close)) break;
        if (!expression(p, &v)) return false;
        add(p, &k, v);
        if (op != PFQ_T_DICT) continue;
        if (!need_op(p, ":") || !expression(p, &v)) return false;
        add(p, &k, v);
    }
    *out = node(p, at, op, 0, 0, k.list.at, k.list.n);
    return true;
}

static bool tuple_ends(const Parse *p, const char *word)
{
    const TplTok *t = cur(p);
    return t->kind == TK_VAR_END || t->kind == TK_BLOCK_END || is_op(t, ")") ||
           (word && is_name(t, word));
}

/* One expression, or a tuple of them without brackets of its own. `word` ends it too. */
static bool tuple(Parse *p, bool conditions, const char *word, bool brackets, u32 *out)
{
    TplKids k = {0};
    const u32 at = line(p);
    bool comma = false;
    while (!tuple_ends(p, word)) {
        u32 v;
        if (!(conditions ? expression(p, &v) : condition_free(p, &v))) return false;
        add(p, &k, v);
        if (!skip_op(p, ",")) break;
        comma = true;
    }
    if (!comma && k.list.n == 1) {
        *out = k.list.at[0];
        return true;
    }
    if (k.list.n == 0 && !brackets) return fail(p, "an expression");
    *out = node(p, at, PFQ_T_LIST, 1, 0, k.list.at, k.list.n);
    return true;
}

static u32 constant(Parse *p, u32 at, u32 which)
{
    return node(p, at, PFQ_T_CONST, which, 0, NULL, 0);
}

static bool name(Parse *p, u32 *out)
{
    static const char *const words[] = {"none", "false", "true", "None", "False", "True"};
    const TplTok *t = cur(p);
    const int which = FIND(words, t->text);
    *out = which >= 0 ? constant(p, line(p), (u32)which % 3)
                      : text_node(p, line(p), PFQ_T_NAME, t->text);
    p->at++;
    return true;
}

static bool strings(Parse *p, u32 *out)
{
    StrBuf b = {.a = p->t->a};
    const u32 at = line(p);
    sb_str(&b, "");
    for (; cur(p)->kind == TK_STRING; p->at++)
        sb_add(&b, cur(p)->text.p, cur(p)->text.n);
    *out = text_node(p, at, PFQ_T_STRING, (Str){b.p, b.n});
    return true;
}

static bool primary(Parse *p, u32 *out)
{
    const TplTok *t = cur(p);
    const u32 at = line(p);
    u64 bits;
    switch (t->kind) {
    case TK_NAME: return name(p, out);
    case TK_STRING: return strings(p, out);
    case TK_INT:
    case TK_REAL:
        bits = (u64)t->i;
        if (t->kind == TK_REAL) memcpy(&bits, &t->f, sizeof bits);
        *out = tpl_number(p->t, at, t->kind == TK_INT ? PFQ_T_INT : PFQ_T_REAL, bits);
        p->at++;
        return true;
    default: break;
    }
    if (skip_op(p, "(")) return tuple(p, true, NULL, true, out) && need_op(p, ")");
    if (skip_op(p, "[")) return list(p, "]", PFQ_T_LIST, out);
    if (skip_op(p, "{")) return list(p, "}", PFQ_T_DICT, out);
    return fail(p, "an expression");
}

static bool slice_part(Parse *p, u32 *out)
{
    *out = PFQ_TPL_NIL;
    return is_op(cur(p), ":") || is_op(cur(p), "]") || expression(p, out);
}

/* From behind the '['. */
static bool subscript(Parse *p, u32 at, u32 of, u32 *out)
{
    u32 k[4] = {of, PFQ_TPL_NIL, PFQ_TPL_NIL, PFQ_TPL_NIL};
    if (is_op(cur(p), "]")) return fail(p, "an index");
    if (!slice_part(p, &k[1])) return false;
    const bool sliced = skip_op(p, ":");
    if (sliced && (!slice_part(p, &k[2]) || (skip_op(p, ":") && !slice_part(p, &k[3]))))
        return false;
    if (is_op(cur(p), ",")) return unsupported(p, cur(p), "an index of several parts");
    if (!need_op(p, "]")) return false;
    *out = sliced ? node(p, at, PFQ_T_SLICE, 0, 0, k, 4) : node(p, at, PFQ_T_ITEM, 0, 0, k, 2);
    return true;
}

static bool attribute(Parse *p, u32 at, u32 of, u32 *out)
{
    const TplTok *t = cur(p);
    if (t->kind != TK_NAME && t->kind != TK_INT) return fail(p, "the name of an attribute");
    p->at++;
    if (t->kind == TK_NAME) {
        *out = node(p, at, PFQ_T_ATTR, 0, tpl_string(p->t, t->text), &of, 1);
        return true;
    }
    const u32 k[2] = {of, tpl_number(p->t, at, PFQ_T_INT, (u64)t->i)};
    *out = node(p, at, PFQ_T_ITEM, 0, 0, k, 2);
    return true;
}

/* From behind the '('. */
static bool call(Parse *p, u32 at, u32 callee, const TplTok *t, u32 *out)
{
    TplKids k = {0};
    add(p, &k, callee);
    if (!callable(p, callee, t) || !arguments(p, &k)) return false;
    *out = node(p, at, PFQ_T_CALL, 0, 0, k.list.at, k.list.n);
    return true;
}

static bool postfix(Parse *p, u32 *v)
{
    for (;;) {
        const TplTok *before = p->at ? cur(p) - 1 : cur(p);
        const u32 at = line(p);
        bool ok;
        if (skip_op(p, "."))
            ok = attribute(p, at, *v, v);
        else if (skip_op(p, "["))
            ok = subscript(p, at, *v, v);
        else if (skip_op(p, "("))
            ok = call(p, at, *v, before, v);
        else
            return true;
        if (!ok) return false;
    }
}

/* A number of arguments that a filter cannot take is found here, not at run time. */
static bool filter_args_ok(Parse *p, const TplTok *t, int id, const TplKids *k)
{
    const char *params = filter_params[id];
    u32 most = *params != 0;
    for (const char *c = params; *c; c++)
        most += *c == ' ';
    if (*params == '*' || k->list.n - 1 <= most) return true;
    return diag_error(p->d, E_TEMPLATE, loc_of(p, t),
                      "the filter '%.*s' takes at most %u arguments", STRF(t->text), most);
}

/* map('upper'), select('odd'), selectattr('role', 'equalto', ...): the name inside must be known.
 */
static bool inner_name_ok(Parse *p, int id, const TplKids *k)
{
    const u32 which = id == PFQ_F_SELECTATTR || id == PFQ_F_REJECTATTR ? 2 : 1;
    const bool map = id == PFQ_F_MAP;
    static const char *const signs[] = {"==", "!=", ">", ">=", "<", "<="};
    if (!map && id != PFQ_F_SELECT && id != PFQ_F_REJECT && which == 1) return true;
    if (k->list.n <= which) return true;
    const PfqTplNode *n = &p->t->node.at[k->list.at[which]];
    if (n->op != PFQ_T_STRING) return true;
    const Str s = p->t->str.at[n->a];
    if (map ? FIND(filter_names, s) >= 0 : FIND(test_names, s) >= 0 || FIND(signs, s) >= 0)
        return true;
    return diag_error(p->d, E_TEMPLATE_UNSUPPORTED, loc_of(p, cur(p) - 1),
                      "the %s '%.*s' is not supported", map ? "filter" : "test", STRF(s));
}

/* From behind the '|'. */
static bool filter(Parse *p, u32 of, u32 *out)
{
    TplKids k = {0};
    const TplTok *t = cur(p);
    const u32 at = line(p);
    if (t->kind != TK_NAME) return fail(p, "the name of a filter");
    const int id = FIND(filter_names, t->text);
    if (id < 0)
        return unknown(p, t, "filter", filter_names, sizeof filter_names / sizeof *filter_names);
    p->at++;
    add(p, &k, of);
    if (skip_op(p, "(") && !arguments(p, &k)) return false;
    if (!filter_args_ok(p, t, id, &k) || !inner_name_ok(p, id, &k)) return false;
    *out = node(p, at, PFQ_T_FILTER, 0, (u32)id, k.list.at, k.list.n);
    return true;
}

/* Does an argument without brackets follow a test's name? Jinja takes every other name for one. */
static bool bare_argument(const Parse *p)
{
    const TplTok *t = cur(p);
    if (t->kind == TK_NAME) return !is_name(t, "else") && !is_name(t, "or") && !is_name(t, "and");
    return t->kind == TK_STRING || t->kind == TK_INT || t->kind == TK_REAL || is_op(t, "[") ||
           is_op(t, "{");
}

/* From behind "is". */
static bool test(Parse *p, u32 of, u32 *out)
{
    TplKids k = {0};
    u32 v;
    const u32 at = line(p);
    const bool negated = skip_name(p, "not");
    const TplTok *t = cur(p);
    if (t->kind != TK_NAME) return fail(p, "the name of a test");
    const int id = FIND(test_names, t->text);
    if (id < 0) return unknown(p, t, "test", test_names, sizeof test_names / sizeof *test_names);
    p->at++;
    add(p, &k, of);
    if (is_name(cur(p), "is")) return fail(p, "no second test");
    if (skip_op(p, "(")) {
        if (!arguments(p, &k)) return false;
    } else if (bare_argument(p)) {
        if (!primary(p, &v) || !postfix(p, &v)) return false;
        add(p, &k, v);
    }
    if (k.list.n != (u32)test_args[id] + 1)
        return diag_error(p->d, E_TEMPLATE, loc_of(p, t),
                          "the test '%s' takes %d arguments, not %u", test_names[id], test_args[id],
                          k.list.n - 1);
    *out = node(p, at, PFQ_T_TEST, negated, (u32)id, k.list.at, k.list.n);
    return true;
}

static bool filters_and_tests(Parse *p, u32 *v)
{
    for (;;) {
        const TplTok *before = cur(p) - 1;
        const u32 at = line(p);
        bool ok;
        if (skip_op(p, "|"))
            ok = filter(p, *v, v);
        else if (skip_name(p, "is"))
            ok = test(p, *v, v);
        else if (skip_op(p, "("))
            ok = call(p, at, *v, before, v);
        else
            return true;
        if (!ok) return false;
    }
}

static bool unary(Parse *p, bool filters, u32 *out)
{
    const u32 at = line(p);
    const bool minus = is_op(cur(p), "-"), sign = minus || is_op(cur(p), "+");
    if (sign) {
        p->at++;
        if (!deeper(p) || !unary(p, false, out)) return false;
        p->nest--;
        *out = node(p, at, PFQ_T_UNARY, minus ? 1 : 2, 0, out, 1);
    } else if (!primary(p, out)) {
        return false;
    }
    return postfix(p, out) && (!filters || filters_and_tests(p, out));
}

/* Binary operators by precedence, loosest first; all group to the left. */
static const struct Level {
    struct {
        const char *op;
        PfqTplBinary id;
    } ops[5];
} levels[] = {
    {{{"+", PFQ_B_ADD}, {"-", PFQ_B_SUB}}},
    {{{"~", PFQ_B_CONCAT}}},
    {{{"*", PFQ_B_MUL}, {"/", PFQ_B_DIV}, {"//", PFQ_B_FLOORDIV}, {"%", PFQ_B_MOD}}},
    {{{"**", PFQ_B_POW}}},
};
enum { N_LEVELS = sizeof levels / sizeof *levels };

static bool binary(Parse *p, size_t level, u32 *out)
{
    if (level == N_LEVELS) return unary(p, true, out);
    if (!binary(p, level + 1, out)) return false;
    for (;;) {
        size_t i = 0;
        while (levels[level].ops[i].op && !is_op(cur(p), levels[level].ops[i].op))
            i++;
        if (!levels[level].ops[i].op) return true;
        const u32 at = line(p);
        u32 k[2] = {*out};
        if (levels[level].ops[i].id == PFQ_B_MOD && p->t->node.at[k[0]].op == PFQ_T_STRING)
            return unsupported(p, cur(p), "formatting as printf does");
        p->at++;
        if (!binary(p, level + 1, &k[1])) return false;
        *out = node(p, at, PFQ_T_BINARY, levels[level].ops[i].id, 0, k, 2);
    }
}

/* The comparison that stands here, or -1. */
static int comparison(Parse *p)
{
    static const char *const ops[] = {"==", "!=", "<", "<=", ">", ">="}; /* PfqTplCompare's order */
    for (int i = 0; i < 6; i++)
        if (skip_op(p, ops[i])) return i;
    if (skip_name(p, "in")) return PFQ_C_IN;
    if (!is_name(cur(p), "not") || !is_name(peek(p), "in")) return -1;
    p->at += 2;
    return PFQ_C_NOT_IN;
}

static bool compare(Parse *p, u32 *out)
{
    TplKids k = {0};
    const u32 at = line(p);
    if (!binary(p, 0, out)) return false;
    add(p, &k, *out);
    for (int op; (op = comparison(p)) >= 0;) {
        u32 v;
        if (!binary(p, 0, &v)) return false;
        add(p, &k, node(p, at, PFQ_T_OPERAND, (u32)op, 0, &v, 1));
    }
    if (k.list.n > 1) *out = node(p, at, PFQ_T_COMPARE, 0, 0, k.list.at, k.list.n);
    return true;
}

static bool not_(Parse *p, u32 *out)
{
    const u32 at = line(p);
    if (!skip_name(p, "not")) return compare(p, out);
    if (!deeper(p) || !not_(p, out)) return false;
    p->nest--;
    *out = node(p, at, PFQ_T_UNARY, 0, 0, out, 1);
    return true;
}

static bool and_(Parse *p, u32 *out)
{
    if (!not_(p, out)) return false;
    for (u32 at = line(p); skip_name(p, "and"); at = line(p)) {
        u32 k[2] = {*out};
        if (!not_(p, &k[1])) return false;
        *out = node(p, at, PFQ_T_BINARY, PFQ_B_AND, 0, k, 2);
    }
    return true;
}

static bool condition_free(Parse *p, u32 *out)
{
    if (!and_(p, out)) return false;
    for (u32 at = line(p); skip_name(p, "or"); at = line(p)) {
        u32 k[2] = {*out};
        if (!and_(p, &k[1])) return false;
        *out = node(p, at, PFQ_T_BINARY, PFQ_B_OR, 0, k, 2);
    }
    return true;
}

static bool expression(Parse *p, u32 *out)
{
    if (!deeper(p) || !condition_free(p, out)) return false;
    for (u32 at = line(p); skip_name(p, "if"); at = line(p)) {
        u32 k[3] = {PFQ_TPL_NIL, *out, PFQ_TPL_NIL};
        if (!condition_free(p, &k[0])) return false;
        if (skip_name(p, "else") && !expression(p, &k[2])) return false;
        *out = node(p, at, PFQ_T_COND, 0, 0, k, 3);
    }
    p->nest--;
    return true;
}

/* ---- statements ---- */

/* Statements up to a block that begins with one of the names; that name is the current token. */
static bool body(Parse *p, const char *const *ends, u32 *out);

static bool body_to(Parse *p, const char *end, u32 *out)
{
    const char *const ends[] = {end, NULL};
    return body(p, ends, out) && need_name(p, end) && need_end(p, TK_BLOCK_END);
}

static bool target_name(Parse *p, bool spaces, u32 *out)
{
    static const char *const words[] = {"none", "false", "true", "None", "False", "True"};
    const TplTok *t = cur(p);
    const u32 at = line(p);
    if (t->kind != TK_NAME || FIND(words, t->text) >= 0) return fail(p, "a name to assign to");
    p->at++;
    *out = text_node(p, at, PFQ_T_NAME, t->text);
    if (!spaces || !skip_op(p, ".")) return true;
    t = cur(p);
    if (t->kind != TK_NAME) return fail(p, "the name of an attribute");
    p->at++;
    *out = node(p, at, PFQ_T_ATTR, 0, tpl_string(p->t, t->text), out, 1);
    return true;
}

/* Names to assign to, separated by commas, in brackets or not. */
static bool target(Parse *p, bool spaces, u32 *out)
{
    TplKids k = {0};
    const u32 at = line(p);
    const bool brackets = skip_op(p, "(");
    bool many = false;
    do {
        u32 v;
        if (many && cur(p)->kind != TK_NAME) break; /* a last comma */
        if (!target_name(p, spaces, &v)) return false;
        add(p, &k, v);
        many = many || is_op(cur(p), ",");
    } while (skip_op(p, ",") && !is_name(cur(p), "in"));
    if (brackets && !need_op(p, ")")) return false;
    *out = many ? node(p, at, PFQ_T_LIST, 1, 0, k.list.at, k.list.n) : k.list.at[0];
    return true;
}

static bool for_(Parse *p, u32 at, u32 *out)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    u32 k[5] = {PFQ_TPL_NIL, PFQ_TPL_NIL, PFQ_TPL_NIL, PFQ_TPL_NIL, PFQ_TPL_NIL};
    if (!target(p, false, &k[0]) || !need_name(p, "in") ||
        !tuple(p, false, "recursive", false, &k[1]))
        return false;
    if (skip_name(p, "if") && !expression(p, &k[2])) return false;
    if (is_name(cur(p), "recursive")) return unsupported(p, cur(p), "a recursive loop");
    p->loops++;
    const bool ok = need_end(p, TK_BLOCK_END) && body(p, ends, &k[3]);
    p->loops--;
    if (!ok) return false;
    if (skip_name(p, "else") && (!need_end(p, TK_BLOCK_END) || !body(p, ends + 1, &k[4])))
        return false;
    if (!need_name(p, "endfor") || !need_end(p, TK_BLOCK_END)) return false;
    *out = node(p, at, PFQ_T_FOR, 0, 0, k, 5);
    return true;
}

static bool if_(Parse *p, u32 at, u32 *out)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    TplKids k = {0};
    do {
        u32 condition, then;
        if (!tuple(p, false, NULL, false, &condition) || !need_end(p, TK_BLOCK_END) ||
            !body(p, ends, &then))
            return false;
        add(p, &k, condition);
        add(p, &k, then);
    } while (skip_name(p, "elif"));
    if (skip_name(p, "else")) {
        u32 other;
        if (!need_end(p, TK_BLOCK_END) || !body(p, ends + 2, &other)) return false;
        add(p, &k, other);
    }
    *out = node(p, at, PFQ_T_IF, 0, 0, k.list.at, k.list.n);
    return need_name(p, "endif") && need_end(p, TK_BLOCK_END);
}

static bool filter_chain(Parse *p, u32 *v)
{
    while (skip_op(p, "|"))
        if (!filter(p, *v, v)) return false;
    return true;
}

/* {% set a | filter %} ... {% endset %}: the filters are read before the body that they work on,
 * so they are read twice. */
static bool set_block(Parse *p, u32 at, u32 *k)
{
    const u32 filters = p->at;
    u32 text, unused = constant(p, at, 0);
    if (!filter_chain(p, &unused) || !need_end(p, TK_BLOCK_END) || !body_to(p, "endset", &text))
        return false;
    const u32 after = p->at;
    k[1] = node(p, at, PFQ_T_CAPTURE, 0, 0, &text, 1);
    p->at = filters;
    const bool ok = filter_chain(p, &k[1]);
    p->at = after;
    return ok;
}

static bool set(Parse *p, u32 at, u32 *out)
{
    u32 k[2];
    if (!target(p, true, &k[0])) return false;
    if (skip_op(p, "=")) {
        if (!tuple(p, true, NULL, false, &k[1]) || !need_end(p, TK_BLOCK_END)) return false;
    } else if (!set_block(p, at, k)) {
        return false;
    }
    *out = node(p, at, PFQ_T_SET, 0, 0, k, 2);
    return true;
}

/* Parameters up to ')', the '(' being read: NAME and default (or NIL) of each. */
static bool parameters(Parse *p, TplKids *k)
{
    bool defaults = false;
    for (bool first = true; !skip_op(p, ")"); first = false) {
        u32 v, def = PFQ_TPL_NIL;
        if (!first && !need_op(p, ",")) return false;
        if (!target_name(p, false, &v)) return false;
        if (skip_op(p, "=") && !expression(p, &def)) return false;
        if (defaults && def == PFQ_TPL_NIL) return fail(p, "a default, as after another one");
        defaults = def != PFQ_TPL_NIL;
        add(p, k, v);
        add(p, k, def);
    }
    return true;
}

/* The body of a macro or call block, whose kids `k` begin with a place for it. */
static bool macro_body(Parse *p, u32 at, Str name, const char *end, TplKids *k, u32 *out)
{
    const u32 loops = p->loops;
    p->loops = 0; /* nothing inside breaks a loop outside */
    const bool ok = need_end(p, TK_BLOCK_END) && body_to(p, end, &k->list.at[0]);
    p->loops = loops;
    if (ok) *out = node(p, at, PFQ_T_MACRO, 0, tpl_string(p->t, name), k->list.at, k->list.n);
    return ok;
}

static bool macro(Parse *p, u32 at, u32 *out)
{
    TplKids k = {0};
    const TplTok *t = cur(p);
    if (t->kind != TK_NAME) return fail(p, "the name of the macro");
    p->at++;
    add(p, &k, PFQ_TPL_NIL);
    return need_op(p, "(") && parameters(p, &k) && macro_body(p, at, t->text, "endmacro", &k, out);
}

static bool call_block(Parse *p, u32 at, u32 *out)
{
    TplKids k = {0};
    u32 both[2];
    add(p, &k, PFQ_TPL_NIL);
    if (skip_op(p, "(") && !parameters(p, &k)) return false;
    const TplTok *t = cur(p);
    if (!expression(p, &both[0])) return false;
    if (p->t->node.at[both[0]].op != PFQ_T_CALL)
        return diag_error(p->d, E_TEMPLATE, loc_of(p, t), "expected the call of a macro");
    if (!macro_body(p, at, STR("caller"), "endcall", &k, &both[1])) return false;
    *out = node(p, at, PFQ_T_CALLER, 0, 0, both, 2);
    return true;
}

static bool filter_block(Parse *p, u32 at, u32 *out)
{
    const u32 filters = p->at;
    u32 text, unused = constant(p, at, 0);
    if (!filter(p, unused, &unused) || !filter_chain(p, &unused) || !need_end(p, TK_BLOCK_END) ||
        !body_to(p, "endfilter", &text))
        return false;
    const u32 after = p->at;
    u32 v = node(p, at, PFQ_T_CAPTURE, 0, 0, &text, 1);
    p->at = filters;
    const bool ok = filter(p, v, &v) && filter_chain(p, &v);
    p->at = after;
    *out = node(p, at, PFQ_T_PRINT, 0, 0, &v, 1);
    return ok;
}

static bool with(Parse *p, u32 at, u32 *out)
{
    TplKids k = {0};
    add(p, &k, PFQ_TPL_NIL);
    while (cur(p)->kind != TK_BLOCK_END) {
        u32 name_node, v;
        if (k.list.n > 1 && !need_op(p, ",")) return false;
        if (!target_name(p, false, &name_node) || !need_op(p, "=") || !expression(p, &v))
            return false;
        add(p, &k, name_node);
        add(p, &k, v);
    }
    if (!need_end(p, TK_BLOCK_END) || !body_to(p, "endwith", &k.list.at[0])) return false;
    *out = node(p, at, PFQ_T_WITH, 0, 0, k.list.at, k.list.n);
    return true;
}

/* {% generation %} marks what the assistant said, for training; here it is a scope. */
static bool generation(Parse *p, u32 at, u32 *out)
{
    u32 inner;
    const u32 loops = p->loops;
    p->loops = 0;
    const bool ok = need_end(p, TK_BLOCK_END) && body_to(p, "endgeneration", &inner);
    p->loops = loops;
    if (ok) *out = node(p, at, PFQ_T_WITH, 0, 0, &inner, 1);
    return ok;
}

static bool leave_loop(Parse *p, u32 at, PfqTplOp op, u32 *out)
{
    if (!p->loops)
        return diag_error(p->d, E_TEMPLATE, loc_of(p, cur(p) - 1), "there is no loop around this");
    *out = node(p, at, op, 0, 0, NULL, 0);
    return need_end(p, TK_BLOCK_END);
}

static bool break_(Parse *p, u32 at, u32 *out)
{
    return leave_loop(p, at, PFQ_T_BREAK, out);
}

static bool continue_(Parse *p, u32 at, u32 *out)
{
    return leave_loop(p, at, PFQ_T_CONTINUE, out);
}

static const struct {
    const char *name;
    bool (*parse)(Parse *p, u32 at, u32 *out);
} statements[] = {
    {"for", for_},
    {"if", if_},
    {"set", set},
    {"macro", macro},
    {"call", call_block},
    {"filter", filter_block},
    {"with", with},
    {"break", break_},
    {"continue", continue_},
    {"generation", generation},
};
static const char *const no_statements[] = {"block", "extends", "include",    "import", "from",
                                            "print", "do",      "autoescape", "trans",  "debug"};

static bool statement(Parse *p, u32 *out)
{
    const TplTok *t = cur(p);
    const u32 at = line(p);
    if (t->kind != TK_NAME) return fail(p, "the name of a statement");
    p->at++;
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        if (!str_is(t->text, statements[i].name)) continue;
        if (!deeper(p) || !statements[i].parse(p, at, out)) return false;
        p->nest--;
        return true;
    }
    if (FIND(no_statements, t->text) >= 0) return unsupported(p, t, "this statement");
    return diag_error(p->d, E_TEMPLATE, loc_of(p, t), "there is no statement '%.*s' here",
                      STRF(t->text));
}

static bool is_end(const Parse *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (is_name(peek(p), *ends)) return true;
    return false;
}

static bool body(Parse *p, const char *const *ends, u32 *out)
{
    TplKids k = {0};
    const u32 at = line(p);
    for (u32 v; cur(p)->kind != TK_END; add(p, &k, v)) {
        const TplTok *t = cur(p);
        const u32 here = line(p);
        if (t->kind == TK_BLOCK && is_end(p, ends)) {
            p->at++;
            break;
        }
        p->at++;
        if (t->kind == TK_DATA) {
            v = text_node(p, here, PFQ_T_TEXT, t->text);
        } else if (t->kind == TK_VAR) {
            if (!tuple(p, true, NULL, false, &v) || !need_end(p, TK_VAR_END)) return false;
            v = node(p, here, PFQ_T_PRINT, 0, 0, &v, 1);
        } else if (!statement(p, &v)) {
            return false;
        }
    }
    if (ends && cur(p)->kind == TK_END) {
        while (ends[1])
            ends++;
        return need_name(p, *ends);
    }
    *out = node(p, at, PFQ_T_SEQ, 0, 0, k.list.at, k.list.n);
    return true;
}

bool tpl_parse(Diag *d, TplTree *t, const Source *src, u32 *root)
{
    TplTokens tokens;
    if (!tpl_lex(d, t->a, src, &tokens)) return false;
    Parse p = {.d = d, .t = t, .src = src, .tok = tokens.at};
    return body(&p, NULL, root);
}
