/* Options of passes: their declarations, the values they take, and which do not go together. */
#include "passes/options.h"

#include <math.h>
#include <string.h>

/* ---- declarations ---- */

bool option_next(const char **p, OptDecl *o)
{
    const char *s = *p + strspn(*p, " ");
    if (!*s) return false;
    size_t len = strcspn(s, " "), colon = strcspn(s, ":"), eq = strcspn(s, "= ");
    size_t open = strcspn(s, "(= "), type_end = open < eq ? open : eq;
    o->name = (Str){s, colon};
    o->type = (Str){s + colon + 1, type_end - colon - 1};
    o->values = open < eq ? (Str){s + open + 1, eq - open - 2} : (Str){"", 0};
    o->def = eq < len ? (Str){s + eq + 1, len - eq - 1} : (Str){"", 0};
    *p = s + len;
    return true;
}

u32 option_count(const char *p)
{
    OptDecl o;
    u32 n = 0;
    while (option_next(&p, &o))
        n++;
    return n;
}

/* ---- values ---- */

/* The part of *rest in front of `sep`; *rest is what is behind it. False at the end. */
static bool next_part(Str *rest, char sep, Str *part)
{
    if (!rest->p) return false;
    const char *at = rest->n ? memchr(rest->p, sep, rest->n) : NULL;
    *part = (Str){rest->p, at ? (size_t)(at - rest->p) : rest->n};
    *rest = at ? (Str){at + 1, rest->n - part->n - 1} : (Str){NULL, 0};
    return true;
}

typedef struct Range { /* LO..HI, LO<..HI: without LO itself; an end may be missing */
    Str lo, hi;
    bool above;
} Range;

static bool read_range(Str s, Range *r)
{
    const char *dots = s.n > 1 ? memchr(s.p, '.', s.n) : NULL;
    while (dots && dots + 1 < s.p + s.n && dots[1] != '.')
        dots = memchr(dots + 1, '.', (size_t)(s.p + s.n - dots - 1));
    if (!dots || dots + 1 == s.p + s.n) return false;
    r->lo = (Str){s.p, (size_t)(dots - s.p)};
    r->hi = (Str){dots + 2, s.n - r->lo.n - 2};
    r->above = r->lo.n && r->lo.p[r->lo.n - 1] == '<';
    r->lo.n -= r->above;
    return true;
}

static bool in_range(const Range *r, double v)
{
    double lo = -INFINITY, hi = INFINITY;
    if (r->lo.n) str_to_f64(r->lo, &lo);
    if (r->hi.n) str_to_f64(r->hi, &hi);
    return (r->above ? v > lo : v >= lo) && v <= hi;
}

static bool listed(Str values, Str value)
{
    double v;
    Range r;
    for (Str one; next_part(&values, '|', &one);)
        if (read_range(one, &r) ? str_to_f64(value, &v) && in_range(&r, v) : str_eq(one, value))
            return true;
    return false;
}

bool option_set(Arena *a, const OptDecl *o, Str value, PassOpt *out, Str *wrong)
{
    *wrong = value;
    if (str_is(o->type, "flag")) {
        out->i = !value.p || str_is(value, "true");
        return !value.p || out->i || str_is(value, "false");
    }
    if (str_is(o->type, "int") && !str_to_i64(value, &out->i)) return false;
    if (str_is(o->type, "num") && !str_to_f64(value, &out->f)) return false;
    out->s = arena_strdup(a, value.p, value.n);
    if (!o->values.n) return true;
    if (!str_is(o->type, "list")) return listed(o->values, value);
    for (Str rest = value; next_part(&rest, '+', wrong);)
        if (!listed(o->values, *wrong)) return false;
    return true;
}

/* "4", "0 to 10", "above 0, at most 1", "0 or more" */
static void print_value(StrBuf *b, Str one)
{
    Range r;
    if (!read_range(one, &r))
        sb_printf(b, "%.*s", STRF(one));
    else if (r.above)
        sb_printf(b, "above %.*s%s%.*s", STRF(r.lo), r.hi.n ? ", at most " : "", STRF(r.hi));
    else if (r.lo.n)
        sb_printf(b, "%.*s%s%.*s", STRF(r.lo), r.hi.n ? " to " : " or more", STRF(r.hi));
    else
        sb_printf(b, "at most %.*s", STRF(r.hi));
}

const char *option_takes(Arena *a, const OptDecl *o)
{
    static const struct {
        const char *type, *takes;
    } any[] = {{"flag", "true or false"}, {"int", "an integer"}, {"num", "a number"}};
    StrBuf b = {.a = a};
    sb_str(&b, "");
    Str rest = o->values;
    for (Str one; o->values.n && next_part(&rest, '|', &one);) {
        print_value(&b, one);
        if (rest.p) sb_str(&b, memchr(rest.p, '|', rest.n) ? ", " : " or ");
    }
    for (u32 i = 0; !o->values.n && i < sizeof any / sizeof *any; i++)
        if (str_is(o->type, any[i].type)) sb_str(&b, any[i].takes);
    return b.p;
}

void options_default(Arena *a, const PassInfo *info, PassCall *c)
{
    const char *p = info->options;
    OptDecl o;
    c->nopt = option_count(p);
    c->opt = NEWN(a, PassOpt, c->nopt);
    for (u32 i = 0; option_next(&p, &o); i++) {
        Str wrong;
        PassOpt *opt = &c->opt[i];
        *opt = (PassOpt){.name = o.name, .s = ""};
        if (o.def.n && !option_set(a, &o, o.def, opt, &wrong))
            BUG("the default of %s.%.*s is none", info->name, STRF(o.name));
    }
}

void options_text(const PassCall *c, StrBuf *b)
{
    const char *p = pass_info[c->pass].options, *sep = "";
    OptDecl o;
    for (u32 i = 0; option_next(&p, &o); i++) {
        const PassOpt *opt = &c->opt[i];
        bool off = str_is(o.def, "0") && str_is(o.def, opt->s);
        if (off || (!*opt->s && !opt->i)) continue;
        sb_printf(b, "%s%.*s%s%s", sep, STRF(o.name), *opt->s ? "=" : "", opt->s);
        sep = ",";
    }
}

/* ---- what passes ask ---- */

static const PassOpt *find(const PassCall *c, const char *name)
{
    for (u32 i = 0; i < c->nopt; i++)
        if (str_is(c->opt[i].name, name)) return &c->opt[i];
    BUG("pass %s has no option %s", pass_info[c->pass].name, name);
}

i64 pass_int(const PassCx *cx, const char *name)
{
    return find(cx->call, name)->i;
}
double pass_num(const PassCx *cx, const char *name)
{
    return find(cx->call, name)->f;
}
const char *pass_word(const PassCx *cx, const char *name)
{
    return find(cx->call, name)->s;
}

/* ---- together ---- */

static bool more_rows(const PassCall *c)
{
    return find(c, "rows")->i > find(c, "chunk")->i;
}
static bool zero_alone(const PassCall *c)
{
    return find(c, "zero")->i && !find(c, "asym")->i;
}
static bool solved_bytes(const PassCall *c)
{
    return find(c, "asym")->i && find(c, "bits")->i == 8 && strcmp(find(c, "method")->s, "rtn");
}

const char *options_clash(const PassCall *c)
{
    static const struct {
        const char *pass;
        bool (*clash)(const PassCall *c);
        const char *says;
    } rows[] = {
        {"phases", more_rows, "rows is at most chunk"},
        {"weights", zero_alone, "zero is for asym: a symmetric grid has 0"},
        {"weights", solved_bytes, "8 bits are symmetric, but with method=rtn"},
    };
    for (u32 i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(pass_info[c->pass].name, rows[i].pass) == 0 && rows[i].clash(c))
            return rows[i].says;
    return NULL;
}
