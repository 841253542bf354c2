/* Expressions of chat templates, the tightest operators first. */
#include "frontend/tpl_parse.h"

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
    if (!tpl_parse_expression(p, out)) return false;
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
        if (!tpl_parse_expression(p, &v)) return false;
        add(p, &k, v);
        if (op != PFQ_T_DICT) continue;
        if (!need_op(p, ":") || !tpl_parse_expression(p, &v)) return false;
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

bool tpl_parse_tuple(Parse *p, bool conditions, const char *word, bool empty, u32 *out)
{
    TplKids k = {0};
    const u32 at = line(p);
    bool comma = false;
    while (!tuple_ends(p, word)) {
        u32 v;
        if (!(conditions ? tpl_parse_expression(p, &v) : condition_free(p, &v))) return false;
        add(p, &k, v);
        if (!skip_op(p, ",")) break;
        comma = true;
    }
    if (!comma && k.list.n == 1) {
        *out = k.list.at[0];
        return true;
    }
    if (k.list.n == 0 && !empty) return fail(p, "an expression");
    *out = node(p, at, PFQ_T_LIST, 1, 0, k.list.at, k.list.n);
    return true;
}

int tpl_constant(Str name)
{
    static const char *const words[] = {"none", "false", "true", "None", "False", "True"};
    const int which = FIND(words, name);
    return which < 0 ? -1 : which % 3;
}

static bool name(Parse *p, u32 *out)
{
    const TplTok *t = cur(p);
    const int which = tpl_constant(t->text);
    *out = which >= 0 ? node(p, line(p), PFQ_T_CONST, (u32)which, 0, NULL, 0)
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
    if (skip_op(p, "(")) return tpl_parse_tuple(p, true, NULL, true, out) && need_op(p, ")");
    if (skip_op(p, "[")) return list(p, "]", PFQ_T_LIST, out);
    if (skip_op(p, "{")) return list(p, "}", PFQ_T_DICT, out);
    return fail(p, "an expression");
}

static bool slice_part(Parse *p, u32 *out)
{
    *out = PFQ_TPL_NIL;
    return is_op(cur(p), ":") || is_op(cur(p), "]") || tpl_parse_expression(p, out);
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

bool tpl_parse_filter(Parse *p, u32 of, u32 *out)
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
            ok = tpl_parse_filter(p, *v, v);
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

bool tpl_parse_expression(Parse *p, u32 *out)
{
    if (!deeper(p) || !condition_free(p, out)) return false;
    for (u32 at = line(p); skip_name(p, "if"); at = line(p)) {
        u32 k[3] = {PFQ_TPL_NIL, *out, PFQ_TPL_NIL};
        if (!condition_free(p, &k[0])) return false;
        if (skip_name(p, "else") && !tpl_parse_expression(p, &k[2])) return false;
        *out = node(p, at, PFQ_T_COND, 0, 0, k, 3);
    }
    p->nest--;
    return true;
}
