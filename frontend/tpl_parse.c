/* The parser of chat templates: Jinja 3.1's grammar (its parser.py is the reference), by recursive
 * descent, straight into the nodes of runtime/template.h. */
#include "frontend/tpl_parse.h"

/* Statements up to a block that begins with one of the names; that name is the current token. */
static bool body(Parse *p, const char *const *ends, u32 *out);

static bool body_to(Parse *p, const char *end, u32 *out)
{
    const char *const ends[] = {end, NULL};
    return body(p, ends, out) && need_name(p, end) && need_end(p, TK_BLOCK_END);
}

static bool target_name(Parse *p, bool spaces, u32 *out)
{
    const TplTok *t = cur(p);
    const u32 at = line(p);
    if (t->kind != TK_NAME || tpl_constant(t->text) >= 0) return fail(p, "a name to assign to");
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
        !tpl_parse_tuple(p, false, "recursive", false, &k[1]))
        return false;
    if (skip_name(p, "if") && !tpl_parse_expression(p, &k[2])) return false;
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
        if (!tpl_parse_tuple(p, false, NULL, false, &condition) || !need_end(p, TK_BLOCK_END) ||
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
        if (!tpl_parse_filter(p, *v, v)) return false;
    return true;
}

/* {% set a | filter %} ... {% endset %}: the filters are read before the body that they work on,
 * so they are read twice. */
static bool set_block(Parse *p, u32 at, u32 *k)
{
    const u32 filters = p->at;
    u32 text, unused = node(p, at, PFQ_T_CONST, 0, 0, NULL, 0);
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
        if (!tpl_parse_tuple(p, true, NULL, false, &k[1]) || !need_end(p, TK_BLOCK_END))
            return false;
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
        if (skip_op(p, "=") && !tpl_parse_expression(p, &def)) return false;
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
    if (!tpl_parse_expression(p, &both[0])) return false;
    if (p->t->node.at[both[0]].op != PFQ_T_CALL)
        return diag_error(p->d, E_TEMPLATE, loc_of(p, t), "expected the call of a macro");
    if (!macro_body(p, at, STR("caller"), "endcall", &k, &both[1])) return false;
    *out = node(p, at, PFQ_T_CALLER, 0, 0, both, 2);
    return true;
}

static bool filter_block(Parse *p, u32 at, u32 *out)
{
    const u32 filters = p->at;
    u32 text, unused = node(p, at, PFQ_T_CONST, 0, 0, NULL, 0);
    if (!tpl_parse_filter(p, unused, &unused) || !filter_chain(p, &unused) ||
        !need_end(p, TK_BLOCK_END) || !body_to(p, "endfilter", &text))
        return false;
    const u32 after = p->at;
    u32 v = node(p, at, PFQ_T_CAPTURE, 0, 0, &text, 1);
    p->at = filters;
    const bool ok = tpl_parse_filter(p, v, &v) && filter_chain(p, &v);
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
        if (!target_name(p, false, &name_node) || !need_op(p, "=") || !tpl_parse_expression(p, &v))
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
            if (!tpl_parse_tuple(p, true, NULL, false, &v) || !need_end(p, TK_VAR_END))
                return false;
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
