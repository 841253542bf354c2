/* What the two halves of the parser of chat templates share: the place in the tokens, and messages.
 * Expressions are tpl_expr.c's, statements tpl_parse.c's. Functions that return bool are false
 * after a message. */
#ifndef PFQC_FRONTEND_TPL_PARSE_H
#define PFQC_FRONTEND_TPL_PARSE_H

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

static inline const TplTok *cur(const Parse *p)
{
    return &p->tok[p->at];
}

static inline const TplTok *peek(const Parse *p)
{
    return cur(p)->kind == TK_END ? cur(p) : cur(p) + 1;
}

static inline Loc loc_of(const Parse *p, const TplTok *t)
{
    return (Loc){.src = p->src, .off = t->off, .len = t->len};
}

/* A token as a message names it. */
static inline Str seen(const Parse *p, const TplTok *t)
{
    static const Str end = {"the end of the template", 23}, tag_end = {"the end of the tag", 18};
    if (t->kind == TK_END) return end;
    if (t->kind == TK_BLOCK_END || t->kind == TK_VAR_END) return tag_end;
    return (Str){p->src->text + t->off, t->len < 40 ? t->len : 40};
}

static inline bool fail(Parse *p, const char *expected)
{
    const Str s = seen(p, cur(p));
    return diag_error(p->d, E_TEMPLATE, loc_of(p, cur(p)), "found %.*s, expected %s", STRF(s),
                      expected);
}

static inline bool unsupported(Parse *p, const TplTok *t, const char *what)
{
    return diag_error(p->d, E_TEMPLATE_UNSUPPORTED, loc_of(p, t), "%s is not supported", what);
}

static inline u32 line(const Parse *p)
{
    return cur(p)->line;
}

static inline bool is_op(const TplTok *t, const char *op)
{
    return t->kind == TK_OP && str_is(t->text, op);
}

static inline bool is_name(const TplTok *t, const char *name)
{
    return t->kind == TK_NAME && str_is(t->text, name);
}

static inline bool skip_op(Parse *p, const char *op)
{
    const bool yes = is_op(cur(p), op);
    p->at += yes;
    return yes;
}

static inline bool skip_name(Parse *p, const char *name)
{
    const bool yes = is_name(cur(p), name);
    p->at += yes;
    return yes;
}

static inline bool need_op(Parse *p, const char *op)
{
    char what[8];
    snprintf(what, sizeof what, "'%s'", op);
    return skip_op(p, op) || fail(p, what);
}

static inline bool need_name(Parse *p, const char *name)
{
    char what[32];
    snprintf(what, sizeof what, "'%s'", name);
    return skip_name(p, name) || fail(p, what);
}

static inline bool need_end(Parse *p, TplTokKind kind)
{
    if (cur(p)->kind != kind) return fail(p, kind == TK_BLOCK_END ? "%}" : "}}");
    p->at++;
    return true;
}

static inline bool deeper(Parse *p)
{
    if (p->nest == TPL_MAX_NEST)
        return diag_error(p->d, E_LIMIT, loc_of(p, cur(p)),
                          "the template is nested more than %d deep", TPL_MAX_NEST);
    p->nest++;
    return true;
}

static inline u32 node(Parse *p, u32 at, PfqTplOp op, u32 sub, u32 a, const u32 *kids, u32 n)
{
    return tpl_node(p->t, at, op, sub, a, kids, n);
}

static inline u32 text_node(Parse *p, u32 at, PfqTplOp op, Str s)
{
    return node(p, at, op, 0, tpl_string(p->t, s), NULL, 0);
}

static inline void add(Parse *p, TplKids *k, u32 kid)
{
    vec_push(p->t->a, &k->list, kid);
}

static inline int index_of(const char *const *names, size_t n, Str name)
{
    for (size_t i = 0; i < n; i++)
        if (str_is(name, names[i])) return (int)i;
    return -1;
}

#define FIND(names, s) index_of(names, sizeof names / sizeof *names, s)

/* ---- expressions ---- */

bool tpl_parse_expression(Parse *p, u32 *out);

/* One expression, or a tuple of them without brackets of its own. `word` ends it too. conditions:
 * "a if b" is one; empty: there may be none at all. */
bool tpl_parse_tuple(Parse *p, bool conditions, const char *word, bool empty, u32 *out);

/* A filter and its arguments, from behind the '|', of node `of`. */
bool tpl_parse_filter(Parse *p, u32 of, u32 *out);

/* 0 none, 1 false, 2 true; -1: another name. */
int tpl_constant(Str name);

#endif
