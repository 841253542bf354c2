#include "frontend/expr.h"

#include <math.h>

typedef struct Bound { /* a variable of each() */
    Str name;
    i64 value;
    const struct Bound *next;
} Bound;

typedef struct Ex {
    const FeEnv *env;
    const char *p, *end, *start;
    const Bound *bound;
    FeExprError *err;
    int depth, skip; /* skip > 0: parse without evaluating */
    u64 work;        /* elements of each(), bounded */
} Ex;

static bool fail(Ex *x, const char *at, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static bool fail(Ex *x, const char *at, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    size_t off = (size_t)(at - x->start);
    *x->err = (FeExprError){.text = arena_vprintf(x->env->a, fmt, ap),
                            .off = off,
                            .len = x->p > at ? (size_t)(x->p - at) : 1};
    va_end(ap);
    return false;
}

static const char *kind_name(FeKind k)
{
    static const char *const names[] = {"null", "a boolean", "an integer", "a number",
                                        "text", "a list",    "nothing"};
    return names[k];
}

FeVal fe_int(i64 i)
{
    return (FeVal){.kind = FE_INT, .i = i};
}
static FeVal of_bool(bool b)
{
    return (FeVal){.kind = FE_BOOL, .b = b};
}
static FeVal of_float(double f)
{
    return (FeVal){.kind = FE_FLOAT, .f = f};
}
static bool is_num(const FeVal *v)
{
    return v->kind == FE_INT || v->kind == FE_FLOAT;
}

double fe_number(const FeVal *v)
{
    return v->kind == FE_INT ? (double)v->i : v->f;
}

bool fe_equal(const FeVal *a, const FeVal *b)
{
    if (is_num(a) && is_num(b))
        return a->kind == FE_INT && b->kind == FE_INT
                   ? a->i == b->i
                   : !(fe_number(a) < fe_number(b)) && !(fe_number(a) > fe_number(b));
    if (a->kind != b->kind) return false;
    switch (a->kind) {
    case FE_BOOL: return a->b == b->b;
    case FE_STR: return str_eq(a->s, b->s);
    case FE_LIST:
        for (u32 i = 0; i < a->n && i < b->n; i++)
            if (!fe_equal(&a->at[i], &b->at[i])) return false;
        return a->n == b->n;
    default: return true;
    }
}

void fe_val_text(const FeVal *v, StrBuf *out)
{
    switch (v->kind) {
    case FE_NULL: sb_str(out, "null"); break;
    case FE_BOOL: sb_str(out, v->b ? "true" : "false"); break;
    case FE_INT: sb_printf(out, "%lld", (long long)v->i); break;
    case FE_FLOAT: sb_f64(out, v->f); break;
    case FE_STR: sb_add(out, v->s.p, v->s.n); break;
    case FE_LIST:
        sb_ch(out, '[');
        for (u32 i = 0; i < v->n; i++) {
            if (i) sb_str(out, ", ");
            fe_val_text(&v->at[i], out);
        }
        sb_ch(out, ']');
        break;
    case FE_BAD: sb_ch(out, '?'); break;
    }
}

FeVal fe_from_json(Arena *a, const Json *v)
{
    if (!v) return (FeVal){0};
    switch (v->kind) {
    case JSON_BOOL: return of_bool(v->b);
    case JSON_NUMBER: return v->is_int ? fe_int(v->i) : of_float(v->num);
    case JSON_STRING: return (FeVal){.kind = FE_STR, .s = v->str};
    case JSON_OBJECT: return of_bool(true);
    case JSON_ARRAY: {
        FeVal *at = NEWN(a, FeVal, v->n);
        for (u32 i = 0; i < v->n; i++)
            at[i] = v->at[i].kind == JSON_ARRAY ? of_bool(true) : fe_from_json(a, &v->at[i]);
        return (FeVal){.kind = FE_LIST, .at = at, .n = v->n};
    }
    default: return (FeVal){0};
    }
}

/* ---- tokens ---- */

static bool is_alpha(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static void space(Ex *x)
{
    while (x->p < x->end && *x->p == ' ')
        x->p++;
}

/* Takes an operator or word if it is next. Words end at a word's end, `<` is not taken from `<=`.
 */
static bool take(Ex *x, const char *tok)
{
    space(x);
    size_t n = strlen(tok);
    if ((size_t)(x->end - x->p) < n || memcmp(x->p, tok, n) != 0) return false;
    char next = (size_t)(x->end - x->p) > n ? x->p[n] : ' ';
    if (is_alpha(tok[0]) && (is_alpha(next) || is_digit(next) || next == '.')) return false;
    if (n == 1 && (tok[0] == '<' || tok[0] == '>') && next == '=') return false;
    if (n == 1 && tok[0] == '?' && next == '?') return false;
    x->p += n;
    return true;
}

static bool need(Ex *x, const char *tok)
{
    if (take(x, tok)) return true;
    return x->p < x->end ? fail(x, x->p, "expected '%s' before '%c'", tok, *x->p)
                         : fail(x, x->end - (x->end > x->start), "expected '%s' at the end", tok);
}

static Str word(Ex *x, bool dots)
{
    const char *p = x->p;
    while (x->p < x->end &&
           (is_alpha(*x->p) || is_digit(*x->p) || (dots && *x->p == '.' && x->p > p)))
        x->p++;
    return (Str){p, (size_t)(x->p - p)};
}

/* ---- grammar, one function per level ---- */

static bool expr(Ex *x, FeVal *v);
static bool unary(Ex *x, FeVal *v);

static bool number(Ex *x, FeVal *v)
{
    const char *p = x->p;
    while (x->p < x->end && (is_digit(*x->p) || *x->p == '.' || ((*x->p | 32) == 'e' && x->p > p) ||
                             ((*x->p == '-' || *x->p == '+') && (x->p[-1] | 32) == 'e')))
        x->p++;
    Str s = {p, (size_t)(x->p - p)};
    if (str_to_i64(s, &v->i))
        v->kind = FE_INT;
    else if (str_to_f64(s, &v->f))
        v->kind = FE_FLOAT;
    else
        return fail(x, p, "'%.*s' is not a number", STRF(s));
    return true;
}

static bool each(Ex *x, FeVal *v)
{
    space(x);
    const char *at = x->p;
    Str name = word(x, false);
    FeVal n = {0}, e;
    if (!name.n) return fail(x, at, "expected a name");
    if (!need(x, ",") || !expr(x, &n) || !need(x, ",")) return false;
    if (x->skip) n = fe_int(0);
    if (n.kind != FE_INT || n.i < 0 || n.i > x->env->max_list)
        return fail(x, at, "each() takes a count from 0 to %u, found %s", x->env->max_list,
                    kind_name(n.kind));
    x->work += (u64)n.i;
    if (x->work > x->env->max_list)
        return fail(x, at, "lists of more than %u elements", x->env->max_list);
    const char *body = x->p;
    FeVal *list = NEWN(x->env->a, FeVal, n.i);
    Bound b = {.name = name, .next = x->bound};
    x->bound = &b;
    x->skip++; /* once without a value, to know where it ends */
    bool ok = expr(x, &e);
    x->skip--;
    const char *after = x->p;
    for (b.value = 0; ok && b.value < n.i; b.value++) {
        x->p = body;
        ok = expr(x, &list[b.value]);
    }
    x->bound = b.next;
    if (!ok) return false;
    x->p = after;
    *v = (FeVal){.kind = FE_LIST, .at = list, .n = (u32)n.i};
    return need(x, ")");
}

static bool call(Ex *x, Str fn, FeVal *v)
{
    const char *at = fn.p;
    if (str_is(fn, "each")) return each(x, v);
    FeVal arg[4] = {0};
    u32 n = 0;
    if (!take(x, ")")) {
        do {
            if (n == 4) return fail(x, at, "too many arguments");
            if (!expr(x, &arg[n++])) return false;
        } while (take(x, ","));
        if (!need(x, ")")) return false;
    }
    if (x->skip) return true;
    bool num2 = n == 2 && is_num(&arg[0]) && is_num(&arg[1]);
    if (str_is(fn, "len") && n == 1 && arg[0].kind == FE_LIST)
        *v = fe_int(arg[0].n);
    else if (str_is(fn, "min") && num2)
        *v = fe_number(&arg[0]) <= fe_number(&arg[1]) ? arg[0] : arg[1];
    else if (str_is(fn, "max") && num2)
        *v = fe_number(&arg[0]) >= fe_number(&arg[1]) ? arg[0] : arg[1];
    else if (str_is(fn, "sqrt") && n == 1 && is_num(&arg[0]) && fe_number(&arg[0]) >= 0)
        *v = of_float(sqrt(fe_number(&arg[0])));
    else if (str_is(fn, "floor") && n == 1 && is_num(&arg[0]) && fabs(fe_number(&arg[0])) < 0x1p62)
        *v = fe_int((i64)floor(fe_number(&arg[0])));
    else if (str_is(fn, "lower") && n == 1 && arg[0].kind == FE_STR) {
        char *s = arena_strdup(x->env->a, arg[0].s.p, arg[0].s.n);
        for (size_t i = 0; i < arg[0].s.n; i++)
            if (s[i] >= 'A' && s[i] <= 'Z') s[i] = (char)(s[i] + 32);
        *v = (FeVal){.kind = FE_STR, .s = {s, arg[0].s.n}};
    } else {
        const char *wrong = x->env->call ? x->env->call(x->env->user, fn, arg, n, v)
                                         : "unknown function, or arguments that it does not take";
        if (wrong) return fail(x, at, "%.*s(): %s", STRF(fn), wrong);
    }
    return true;
}

static bool name_value(Ex *x, Str name, FeVal *v)
{
    if (x->skip) return true;
    for (const Bound *b = x->bound; b; b = b->next)
        if (str_eq(b->name, name)) {
            *v = fe_int(b->value);
            return true;
        }
    if (x->env->lookup(x->env->user, name, v)) {
        if (v->kind != FE_BAD) return true;
        fail(x, name.p, "'%.*s' is not known", STRF(name));
        x->err->reported = true;
        return false;
    }
    fail(x, name.p, "unknown name '%.*s'", STRF(name));
    if (x->env->names) {
        const char *near = str_nearest(name, x->env->names, x->env->n_names);
        if (near) x->err->hint = arena_printf(x->env->a, "did you mean '%s'?", near);
    }
    return false;
}

static bool list(Ex *x, FeVal *v)
{
    VEC(FeVal) items = {0};
    if (!take(x, "]")) {
        do {
            FeVal e = {0};
            if (!expr(x, &e)) return false;
            vec_push(x->env->a, &items, e);
        } while (take(x, ","));
        if (!need(x, "]")) return false;
    }
    *v = (FeVal){.kind = FE_LIST, .at = items.at, .n = items.n};
    return true;
}

static bool primary(Ex *x, FeVal *v)
{
    space(x);
    *v = (FeVal){0};
    if (x->p >= x->end)
        return fail(x, x->end - (x->end > x->start), "a value is missing at the end");
    char c = *x->p;
    if (is_digit(c)) return number(x, v);
    if (take(x, "(")) return expr(x, v) && need(x, ")");
    if (take(x, "[")) return list(x, v);
    if (c == '\'') {
        const char *q = memchr(x->p + 1, '\'', (size_t)(x->end - x->p - 1));
        if (!q) return fail(x, x->p, "unfinished text");
        *v = (FeVal){.kind = FE_STR, .s = {x->p + 1, (size_t)(q - x->p - 1)}};
        x->p = q + 1;
        return true;
    }
    if (!is_alpha(c))
        return fail(x, x->p, "expected a value, found '%c'", c > 32 && c < 127 ? c : '?');
    Str name = word(x, true);
    if (take(x, "(")) return call(x, name, v);
    if (str_is(name, "true") || str_is(name, "false"))
        *v = of_bool(name.n == 4);
    else if (!str_is(name, "null"))
        return name_value(x, name, v);
    return true;
}

static bool postfix(Ex *x, FeVal *v)
{
    if (!primary(x, v)) return false;
    while (take(x, "[")) {
        FeVal i = {0};
        const char *at = x->p;
        if (!expr(x, &i) || !need(x, "]")) return false;
        if (x->skip) continue;
        if (v->kind != FE_LIST || i.kind != FE_INT)
            return fail(x, at, "cannot index %s by %s", kind_name(v->kind), kind_name(i.kind));
        if (i.i < 0 || i.i >= v->n)
            return fail(x, at, "index %lld of a list of %u", (long long)i.i, v->n);
        *v = v->at[i.i];
    }
    return true;
}

static bool coalesce(Ex *x, FeVal *v)
{
    if (!postfix(x, v)) return false;
    while (take(x, "??")) {
        FeVal w = {0};
        bool keep = v->kind != FE_NULL;
        x->skip += keep;
        bool ok = postfix(x, &w);
        x->skip -= keep;
        if (!ok) return false;
        if (!keep) *v = w;
    }
    return true;
}

static bool unary(Ex *x, FeVal *v)
{
    const char *at = x->p;
    if (!take(x, "-")) return coalesce(x, v);
    if (!unary(x, v)) return false;
    if (x->skip) return true;
    if (v->kind == FE_FLOAT)
        v->f = -v->f;
    else if (v->kind != FE_INT)
        return fail(x, at, "cannot negate %s", kind_name(v->kind));
    else if (__builtin_sub_overflow((i64)0, v->i, &v->i))
        return fail(x, at, "the result does not fit 64 bits");
    return true;
}

static bool arith(Ex *x, const char *at, char op, FeVal *v, const FeVal *w)
{
    if (!is_num(v) || !is_num(w))
        return fail(x, at, "'%c' needs numbers, found %s and %s", op, kind_name(v->kind),
                    kind_name(w->kind));
    if (v->kind == FE_FLOAT || w->kind == FE_FLOAT) {
        double a = fe_number(v), b = fe_number(w),
               r = op == '+'   ? a + b
                   : op == '-' ? a - b
                   : op == '*' ? a * b
                   : op == '/' ? a / b
                               : fmod(a, b);
        if (!isfinite(r)) return fail(x, at, "the result is not a finite number");
        *v = of_float(r);
        return true;
    }
    i64 a = v->i, b = w->i;
    bool over = false;
    if ((op == '/' || op == '%') && b == 0) return fail(x, at, "division by zero");
    if (op == '+')
        over = __builtin_add_overflow(a, b, &v->i);
    else if (op == '-')
        over = __builtin_sub_overflow(a, b, &v->i);
    else if (op == '*')
        over = __builtin_mul_overflow(a, b, &v->i);
    else if (b == -1)
        over = op == '/' ? __builtin_sub_overflow((i64)0, a, &v->i) : (v->i = 0, false);
    else if (op == '%')
        v->i = a % b;
    else if (a % b)
        return fail(x, at, "%lld is not a multiple of %lld", (long long)a, (long long)b);
    else
        v->i = a / b;
    return over ? fail(x, at, "the result does not fit 64 bits") : true;
}

static bool product(Ex *x, FeVal *v)
{
    if (!unary(x, v)) return false;
    for (;;) {
        space(x);
        const char *at = x->p;
        char op = take(x, "*") ? '*' : take(x, "/") ? '/' : take(x, "%") ? '%' : 0;
        if (!op) return true;
        FeVal w = {0};
        if (!unary(x, &w) || (!x->skip && !arith(x, at, op, v, &w))) return false;
    }
}

static bool sum(Ex *x, FeVal *v)
{
    if (!product(x, v)) return false;
    for (;;) {
        space(x);
        const char *at = x->p;
        char op = take(x, "+") ? '+' : take(x, "-") ? '-' : 0;
        if (!op) return true;
        FeVal w = {0};
        if (!product(x, &w) || (!x->skip && !arith(x, at, op, v, &w))) return false;
    }
}

static bool compare(Ex *x, FeVal *v)
{
    static const char *const ops[] = {"==", "!=", "<=", ">=", "<", ">", "in"};
    if (!sum(x, v)) return false;
    space(x);
    const char *at = x->p;
    u32 k = 0;
    while (k < 7 && !take(x, ops[k]))
        k++;
    FeVal w = {0};
    if (k == 7) return true;
    if (!sum(x, &w)) return false;
    if (x->skip) return true;
    bool r = false;
    if (k < 2)
        r = fe_equal(v, &w) == (k == 0);
    else if (k == 6) {
        if (w.kind != FE_LIST) return fail(x, at, "'in' needs a list, found %s", kind_name(w.kind));
        for (u32 i = 0; i < w.n; i++)
            r |= fe_equal(v, &w.at[i]);
    } else {
        if (!is_num(v) || !is_num(&w))
            return fail(x, at, "'%s' needs numbers, found %s and %s", ops[k], kind_name(v->kind),
                        kind_name(w.kind));
        double a = fe_number(v), b = fe_number(&w);
        r = k == 2 ? a <= b : k == 3 ? a >= b : k == 4 ? a < b : a > b;
    }
    *v = of_bool(r);
    return true;
}

static bool need_bool(Ex *x, const char *at, const FeVal *v)
{
    return x->skip || v->kind == FE_BOOL ||
           fail(x, at, "expected true or false, found %s", kind_name(v->kind));
}

static bool negation(Ex *x, FeVal *v)
{
    space(x);
    const char *at = x->p;
    if (!take(x, "not")) return compare(x, v);
    if (!compare(x, v) || !need_bool(x, at, v)) return false;
    v->b = !v->b;
    return true;
}

static bool logic(Ex *x, FeVal *v, bool is_or)
{
    space(x);
    const char *at = x->p;
    if (!(is_or ? logic(x, v, false) : negation(x, v))) return false;
    while (take(x, is_or ? "or" : "and")) {
        if (!need_bool(x, at, v)) return false;
        FeVal w = {0};
        bool known = v->b == is_or;
        x->skip += known;
        bool ok = (is_or ? logic(x, &w, false) : negation(x, &w)) && need_bool(x, at, &w);
        x->skip -= known;
        if (!ok) return false;
        if (!known) *v = w;
    }
    return true;
}

static bool choice(Ex *x, FeVal *v)
{
    space(x);
    const char *at = x->p;
    if (!logic(x, v, true)) return false;
    if (!take(x, "?")) return true;
    if (!need_bool(x, at, v)) return false;
    FeVal a = {0}, b = {0};
    bool c = v->b;
    x->skip += !c;
    bool ok = expr(x, &a);
    x->skip -= !c;
    if (!ok || !need(x, ":")) return false;
    x->skip += c;
    ok = expr(x, &b);
    x->skip -= c;
    *v = c ? a : b;
    return ok;
}

static bool expr(Ex *x, FeVal *v)
{
    if (x->depth >= FE_EXPR_DEPTH)
        return fail(x, x->p < x->end ? x->p : x->end - 1, "the expression is nested too deeply");
    x->depth++;
    *v = (FeVal){0};
    bool ok = choice(x, v);
    x->depth--;
    return ok;
}

bool fe_eval(const FeEnv *env, Str text, FeVal *out, FeExprError *err)
{
    *err = (FeExprError){0};
    Ex x = {.env = env, .p = text.p, .end = text.p + text.n, .start = text.p, .err = err};
    if (text.n > FE_EXPR_MAX)
        return fail(&x, x.p, "an expression of more than %d bytes", FE_EXPR_MAX);
    if (!expr(&x, out)) return false;
    space(&x);
    return x.p == x.end || fail(&x, x.p, "expected the end of the expression, found '%c'",
                                *x.p > 32 && *x.p < 127 ? *x.p : '?');
}

bool fe_eval_json(Diag *d, const Source *src, const Json *str, const FeEnv *env, FeVal *out)
{
    FeExprError err;
    if (fe_eval(env, str->str, out, &err)) return true;
    if (err.reported) return false;
    Loc loc = json_loc(src, str);
    if (str->len == str->str.n + 2) { /* no escapes: the place inside is exact */
        loc.off += 1 + err.off;
        loc.len = err.len;
    }
    diag_error(d, E_JSON_VALUE, loc, "%s in the expression \"%.*s\"", err.text,
               (int)(str->str.n < 100 ? str->str.n : 100), str->str.p);
    if (err.hint) diag_hint(d, "%s", err.hint);
    return false;
}

bool fe_substitute(const FeEnv *env, Str text, StrBuf *out, FeExprError *err)
{
    for (size_t i = 0; i < text.n;) {
        const char *open = memchr(text.p + i, '{', text.n - i);
        if (!open) {
            sb_add(out, text.p + i, text.n - i);
            break;
        }
        size_t o = (size_t)(open - text.p);
        sb_add(out, text.p + i, o - i);
        const char *close = memchr(open, '}', text.n - o);
        if (!close) {
            *err = (FeExprError){.text = "'{' without '}'", .off = o, .len = 1};
            return false;
        }
        FeVal v;
        if (!fe_eval(env, (Str){open + 1, (size_t)(close - open - 1)}, &v, err)) {
            err->off += o + 1;
            return false;
        }
        fe_val_text(&v, out);
        i = (size_t)(close - text.p) + 1;
    }
    if (!out->p) sb_str(out, "");
    return true;
}
