/* Small expressions, used in model.json (integers over dims) and in architecture descriptions
 * (values of a config).
 *
 *   value     1  2.5  'text'  true  false  null  [a, b]  name  dotted.name  f(x, y)  x[i]  (x)
 *   operators, loosest first:  c ? a : b    or    and    not    == != < <= > >= in    + -    * / %
 * - (sign)    ?? a ?? b       b when a is null each(i, n, e)  the list of e for i = 0 .. n-1
 *   len(list) min(a, b) max(a, b) sqrt(x) floor(x) lower(s)
 *
 * Integers are i64 with checked arithmetic; `/` of two integers must be exact. Integers turn into
 * floats beside a float. `and`, `or`, `?:` and `??` do not evaluate what they do not need.
 * docs/arch-json.md has examples. Values live in the environment's arena and may point into the
 * Json documents that were looked up. Pure; one evaluation per environment at a time.
 */
#ifndef PFQC_FRONTEND_EXPR_H
#define PFQC_FRONTEND_EXPR_H

#include "ir/base/json.h"

/* FE_BAD: the value of a name whose own error has been reported; what uses it fails without another
 * message. */
typedef enum FeKind { FE_NULL, FE_BOOL, FE_INT, FE_FLOAT, FE_STR, FE_LIST, FE_BAD } FeKind;

typedef struct FeVal FeVal;
struct FeVal {
    FeKind kind;
    bool b;
    i64 i;
    double f;
    Str s;
    const FeVal *at; /* [n] of a list */
    u32 n;
};

/* How a name gets its value; false if there is no such name. */
typedef bool FeLookup(void *user, Str name, FeVal *out);
/* A function of the host beside the built-in ones. NULL, or what is wrong. */
typedef const char *FeCall(void *user, Str fn, const FeVal *arg, u32 n, FeVal *out);

typedef struct FeEnv {
    Arena *a;
    FeLookup *lookup;
    FeCall *call; /* may be NULL; sets *out or says "unknown function" */
    void *user;
    u32 max_list;             /* elements that each() may make in one evaluation */
    const char *const *names; /* [n_names] known names, for hints; may be NULL */
    u32 n_names;
} FeEnv;

enum {
    FE_EXPR_MAX = 4096,
    FE_EXPR_DEPTH = 48,
    FE_LIST_MAX = 100000 /* for descriptions; model.json has no use for each() */
};

typedef struct FeExprError {
    const char *text; /* in the arena */
    const char *hint; /* NULL if none */
    size_t off, len;  /* in the expression */
    bool reported;    /* it used an FE_BAD value: say nothing more */
} FeExprError;

bool fe_eval(const FeEnv *env, Str text, FeVal *out, FeExprError *err);
/* The same for an expression that stands in a JSON string; reports E_JSON_VALUE at its place
 * (nothing if a value was FE_BAD). */
bool fe_eval_json(Diag *d, const Source *src, const Json *str, const FeEnv *env, FeVal *out);
/* Replaces every {expression} in text by its value; false as fe_eval (offsets count in text). */
bool fe_substitute(const FeEnv *env, Str text, StrBuf *out, FeExprError *err);

double fe_number(const FeVal *v); /* of FE_INT and FE_FLOAT */
bool fe_equal(const FeVal *a, const FeVal *b);
void fe_val_text(const FeVal *v, StrBuf *out); /* as messages and substitutions show it */
FeVal fe_int(i64 i);
FeVal fe_from_json(
    Arena *a,
    const Json *v); /* objects become true, so that `x == null` tells whether they exist */

#endif
