/* Inside the template compiler: tokens (tpl_lex.c), the tree being built (tpl_blob.c), the parser
 * (tpl_parse.h). */
#ifndef PFQC_FRONTEND_TPL_H
#define PFQC_FRONTEND_TPL_H

#include "frontend/template.h"

typedef enum TplTokKind {
    TK_END,
    TK_DATA,
    TK_VAR, /* {{ */
    TK_VAR_END,
    TK_BLOCK, /* {% */
    TK_BLOCK_END,
    TK_NAME,
    TK_STRING,
    TK_INT,
    TK_REAL,
    TK_OP,
} TplTokKind;

typedef struct TplTok {
    TplTokKind kind;
    u32 off, len, line; /* in the source */
    Str text;           /* data; a string's value; a name or operator as written */
    i64 i;
    double f;
} TplTok;

typedef struct TplTokens {
    TplTok *at; /* ends with TK_END */
    u32 n;
} TplTokens;

/* Cuts a template into tokens, white space control applied. `src` has no '\r'. */
bool tpl_lex(Diag *d, Arena *a, const Source *src, TplTokens *out);

typedef struct TplTree {
    Arena *a;
    VEC(PfqTplNode) node;
    VEC(u32) kid;
    VEC(Str) str;
    Map str_index;
    VEC(PfqTplRoot) root;
    VEC(PfqTplGlobal) global;
} TplTree;

typedef struct TplKids { /* being collected */
    VEC(u32) list;
} TplKids;

void tpl_tree_init(TplTree *t, Arena *a);
u32 tpl_string(TplTree *t, Str s);
/* A node with kids; `a` as its op says. */
u32 tpl_node(TplTree *t, u32 line, PfqTplOp op, u32 sub, u32 a, const u32 *kids, u32 n);
u32 tpl_number(TplTree *t, u32 line, PfqTplOp op, u64 bits); /* INT, REAL */
bool tpl_write(Diag *d, const TplTree *t, TplBlob *out);

/* Parses one template; *root is its node. */
bool tpl_parse(Diag *d, TplTree *t, const Source *src, u32 *root);

#endif
