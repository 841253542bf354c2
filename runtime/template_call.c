/* Filters, tests, methods and functions of template.def, with the meaning of Jinja 3.1 and of
 * Python's str and dict. */
#include "runtime/template_int.h"
#include "runtime/unicode.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_RANGE = 100000 }; /* as the sandbox of Jinja has it */

typedef struct Row {
    const char *name, *params;
    int min;
} Row;

static const Row filters[] = {
#define FILTER(id, name, params, min) {name, params, min},
#include "runtime/template.def"
};
static const Row tests[] = {
#define TEST(id, name, args) {name, "*", args},
#include "runtime/template.def"
};
static const Row funcs[] = {
#define FUNC(id, name, params, min) {name, params, min},
#include "runtime/template.def"
};
enum { OF_STR = PFQ_V_STR, OF_DICT = PFQ_V_DICT, OF_LIST = PFQ_V_LIST, OF_LOOP = PFQ_V_LOOP };
static const struct {
    uint8_t type;
    Row row;
} methods[] = {
#define METHOD(id, type, name, params, min) {OF_##type, {name, params, min}},
#include "runtime/template.def"
};

static bool is(PfqVal s, const char *text)
{
    return s.kind == PFQ_V_STR && s.n == strlen(text) && memcmp(s.s, text, s.n) == 0;
}

/* ---- arguments ---- */

/* Which of the space-separated parameters is called `name`; -1: none. */
static int param(const char *params, PfqVal name)
{
    int i = 0;
    for (const char *p = params; *p; p += strspn(p, " "), i++) {
        const size_t n = strcspn(p, " ");
        if (n == name.n && memcmp(p, name.s, n) == 0) return i;
        p += n;
    }
    return -1;
}

static int count_params(const char *params)
{
    int n = *params != 0;
    for (; *params; params++)
        n += *params == ' ';
    return n;
}

/* The arguments in the order of the parameters, ABSENT where none was given; at most
 * PFQ_TPL_MAX_ARGS. */
static bool bind(Run *r, const Row *row, const Args *a, PfqVal *out)
{
    const int n = count_params(row->params);
    for (int i = 0; i < PFQ_TPL_MAX_ARGS; i++)
        out[i] = i < (int)a->n ? a->pos[i] : ABSENT;
    bool ok = *row->params == '*' || a->n <= (uint32_t)n;
    for (uint32_t i = 0; i < a->n_kw && ok; i++) {
        const int k = param(row->params, a->kw[i].key);
        ok = k >= 0 && !given(out[k]);
        if (ok) out[k] = a->kw[i].val;
    }
    for (int i = 0; i < row->min && ok; i++)
        ok = *row->params == '*' ? a->n > (uint32_t)i : given(out[i]);
    return ok || tpl_fail(r, "'%s' gets arguments that it does not take", row->name);
}

static bool flag(PfqVal v, bool def)
{
    return given(v) ? tpl_true(v) : def;
}

static int64_t whole(Run *r, PfqVal v, int64_t def)
{
    if (!given(v) || v.kind == PFQ_V_NONE) return def;
    if (v.kind != PFQ_V_INT && v.kind != PFQ_V_BOOL) tpl_no(r, "be an integer argument", v);
    return tpl_int(v);
}

static PfqVal text(Run *r, PfqVal v)
{
    if (v.kind != PFQ_V_STR) tpl_no(r, "stand where a string must", v);
    return v.kind == PFQ_V_STR ? v : pfq_val_str("", 0);
}

static PfqVal real(double f)
{
    return (PfqVal){.kind = PFQ_V_REAL, .f = f};
}

/* ---- filters over sequences ---- */

/* What map, select and their kin go over: nothing where the subject is false, as none is. */
static PfqVal if_true(Run *r, PfqVal v)
{
    return tpl_true(v) ? tpl_items(r, v) : list_of(NULL, 0);
}

/* The rest of the arguments of map, select and their kin: for the filter or test named first. */
static Args rest(const Args *a, uint32_t used)
{
    return (Args){a->pos + used, a->kw, a->n - used, a->n_kw};
}

static int find_row(const Row *rows, int n, PfqVal name)
{
    static const struct {
        const char *sign, *name;
    } signs[] = {{"==", "eq"}, {"!=", "ne"}, {">", "gt"}, {">=", "ge"}, {"<", "lt"}, {"<=", "le"}};
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (rows == tests && is(name, signs[i].sign)) name = pfq_val_str(signs[i].name, 2);
    for (int i = 0; i < n; i++)
        if (is(name, rows[i].name)) return i;
    return -1;
}

static PfqVal map(Run *r, PfqVal items, const Args *a)
{
    PfqVal *out = tpl_alloc(r, items.n, sizeof *out), attribute = ABSENT, def = ABSENT;
    int filter = -1;
    for (uint32_t i = 0; a->n == 0 && i < a->n_kw; i++) {
        if (is(a->kw[i].key, "attribute")) attribute = a->kw[i].val;
        if (is(a->kw[i].key, "default")) def = a->kw[i].val;
    }
    if (a->n > 0) filter = find_row(filters, PFQ_N_FILTERS, a->pos[0]);
    if (filter < 0 && !given(attribute)) tpl_fail(r, "'map' names no filter and no attribute");
    const Args more = a->n > 0 ? rest(a, 1) : (Args){0};
    for (uint32_t i = 0; i < items.n && tpl_charge(r, 1); i++) {
        out[i] = filter >= 0 ? tpl_filter(r, (uint32_t)filter, items.at[i], &more)
                             : tpl_path(r, items.at[i], attribute);
        if (filter < 0 && out[i].kind == PFQ_V_UNDEF && given(def)) out[i] = def;
    }
    return tpl_gen(r, list_of(out, r->bad ? 0 : items.n));
}

static PfqVal select_items(Run *r, PfqVal items, const Args *a, bool by_attr, bool want)
{
    PfqVal *out = tpl_alloc(r, items.n, sizeof *out), kept = list_of(out, 0);
    const uint32_t used = by_attr ? 1 : 0;
    int test = -1;
    if (by_attr && a->n < 1) tpl_fail(r, "'selectattr' names no attribute");
    if (!r->bad && a->n > used && (test = find_row(tests, PFQ_N_TESTS, a->pos[used])) < 0)
        tpl_fail(r, "a filter names no test that is supported");
    const Args more = a->n > used && !r->bad ? rest(a, used + 1) : (Args){0};
    for (uint32_t i = 0; i < items.n && tpl_charge(r, 1); i++) {
        const PfqVal v = by_attr ? tpl_path(r, items.at[i], a->pos[0]) : items.at[i];
        const bool so = test >= 0 ? tpl_test(r, (uint32_t)test, v, &more) : tpl_true(v);
        if (so == want && !r->bad) out[kept.n++] = items.at[i];
    }
    return tpl_gen(r, kept);
}

static PfqVal pairs(Run *r, PfqVal v, int what) /* 0: items, 1: keys, 2: values */
{
    PfqVal *out = tpl_charge(r, v.n / 2) ? tpl_alloc(r, v.n, sizeof *out) : NULL;
    for (uint32_t i = 0; out && i < v.n; i++) {
        if (what > 0) {
            out[i] = what == 1 ? v.pair[i].key : v.pair[i].val;
            continue;
        }
        PfqVal *two = tpl_alloc(r, 2, sizeof *two);
        if (!two) return list_of(NULL, 0);
        two[0] = v.pair[i].key;
        two[1] = v.pair[i].val;
        out[i] = list_of(two, 2);
        out[i].sub = PFQ_LIST_TUPLE;
    }
    return list_of(out, out ? v.n : 0);
}

static PfqVal items_filter(Run *r, PfqVal v)
{
    if (v.kind != PFQ_V_DICT && v.kind != PFQ_V_UNDEF) tpl_no(r, "have items", v);
    return tpl_gen(r, v.kind == PFQ_V_DICT ? pairs(r, v, 0) : list_of(NULL, 0));
}

static PfqVal dictsort(Run *r, PfqVal v, const PfqVal *a)
{
    if (v.kind != PFQ_V_DICT) tpl_no(r, "be sorted as a dict", v);
    if (r->bad) return ABSENT;
    const bool by_value = is(a[1], "value");
    return tpl_sorted(r, pairs(r, v, 0), pfq_val_int(by_value), flag(a[0], false),
                      flag(a[2], false));
}

static PfqVal reversed(Run *r, PfqVal v)
{
    const bool string = v.kind == PFQ_V_STR;
    const size_t from = r->n;
    const PfqVal items = tpl_items(r, v);
    PfqVal *out = tpl_charge(r, items.n / 4) ? tpl_alloc(r, items.n, sizeof *out) : NULL;
    for (uint32_t i = 0; out && i < items.n; i++) {
        out[i] = items.at[items.n - 1 - i];
        if (string) tpl_put(r, out[i].s, out[i].n);
    }
    return string ? tpl_take(r, from) : tpl_gen(r, list_of(out, out ? items.n : 0));
}

static PfqVal join(Run *r, PfqVal items, PfqVal sep, PfqVal attribute, bool strict)
{
    const size_t from = r->n;
    for (uint32_t i = 0; i < items.n && tpl_charge(r, 1); i++) {
        PfqVal v = items.at[i];
        if (given(attribute) && attribute.kind != PFQ_V_NONE) v = tpl_path(r, v, attribute);
        if (i && given(sep)) tpl_put_str(r, sep);
        if (strict) text(r, v);
        tpl_put_str(r, v);
    }
    return tpl_take(r, from);
}

static PfqVal sum(Run *r, PfqVal items, const PfqVal *a)
{
    PfqVal v = given(a[1]) ? a[1] : pfq_val_int(0);
    for (uint32_t i = 0; i < items.n && tpl_charge(r, 1); i++) {
        const bool attr = given(a[0]) && a[0].kind != PFQ_V_NONE;
        v = tpl_binary(r, PFQ_B_ADD, v, attr ? tpl_path(r, items.at[i], a[0]) : items.at[i]);
    }
    return v;
}

static PfqVal as_list(Run *r, PfqVal v)
{
    PfqVal items = tpl_items(r, v);
    items.sub = PFQ_LIST_PLAIN;
    return items;
}

static PfqVal first_or_last(Run *r, PfqVal v, bool last)
{
    if (last && v.kind == PFQ_V_GEN) tpl_no(r, "have a last item", v);
    const PfqVal items = tpl_items(r, v);
    if (items.n == 0) return undefined("no item", 7);
    return items.at[last ? items.n - 1 : 0];
}

/* ---- filters over text and numbers ---- */

static void spaces(Run *r, int64_t n)
{
    for (int64_t i = 0; i < n && tpl_charge(r, i % 16 == 0); i++)
        tpl_put(r, " ", 1);
}

static PfqVal indent(Run *r, PfqVal s, const PfqVal *a)
{
    const size_t from = r->n;
    if (a[0].kind != PFQ_V_STR) spaces(r, whole(r, a[0], 4));
    const PfqVal by = a[0].kind == PFQ_V_STR ? a[0] : tpl_take(r, from);
    return tpl_indent(r, s, by, flag(a[1], false), flag(a[2], false));
}

/* The whole of s as a number; false if it is none. Python also takes white space around it. */
static bool parse_real(Run *r, PfqVal s, double *out)
{
    char copy[64], *end;
    s = tpl_strip(r, s, ABSENT, STRIP_LEFT | STRIP_RIGHT);
    if (s.n == 0 || s.n >= sizeof copy) return false;
    memcpy(copy, s.s, s.n);
    copy[s.n] = 0;
    if (strlen(copy) != s.n || copy[strspn(copy, "0123456789+-.eE")]) return false;
    *out = strtod(copy, &end);
    return *end == 0;
}

static bool parse_int(Run *r, PfqVal s, int base, int64_t *out)
{
    char copy[80], *end;
    s = tpl_strip(r, s, ABSENT, STRIP_LEFT | STRIP_RIGHT);
    if (s.n == 0 || s.n >= sizeof copy || memchr(s.s, 0, s.n)) return false;
    memcpy(copy, s.s, s.n);
    copy[s.n] = 0;
    *out = strtoll(copy, &end, base);
    return *end == 0 && *out != INT64_MAX && *out != INT64_MIN;
}

static PfqVal to_int(Run *r, PfqVal v, const PfqVal *a)
{
    int64_t i;
    double f;
    const PfqVal def = given(a[0]) ? a[0] : pfq_val_int(0);
    const int64_t base = whole(r, a[1], 10);
    if (v.kind == PFQ_V_INT || v.kind == PFQ_V_BOOL) return pfq_val_int(tpl_int(v));
    if (v.kind == PFQ_V_UNDEF) tpl_no(r, "be a number", v);
    if (v.kind == PFQ_V_STR && base >= 2 && base <= 36 && parse_int(r, v, (int)base, &i))
        return pfq_val_int(i);
    if (v.kind == PFQ_V_REAL)
        f = v.f;
    else if (v.kind != PFQ_V_STR || !parse_real(r, v, &f))
        return def;
    return fabs(f) < 9.2e18 ? pfq_val_int((int64_t)f) : def;
}

static PfqVal to_float(Run *r, PfqVal v, const PfqVal *a)
{
    double f;
    if (tpl_is_number(v)) return real(tpl_real(v));
    if (v.kind == PFQ_V_UNDEF) tpl_no(r, "be a number", v);
    if (v.kind == PFQ_V_STR && parse_real(r, v, &f)) return real(f);
    return given(a[0]) ? a[0] : real(0);
}

static PfqVal rounded(Run *r, PfqVal v, const PfqVal *a)
{
    char copy[400];
    const int64_t digits = whole(r, a[0], 0);
    if (!tpl_is_number(v)) tpl_no(r, "be rounded", v);
    if (digits < 0 || digits > 30)
        tpl_fail(r, "'round' to %lld digits is not supported", (long long)digits);
    if (r->bad) return ABSENT;
    const bool common = !given(a[1]) || is(a[1], "common");
    if (common) {
        if (v.kind != PFQ_V_REAL) return pfq_val_int(tpl_int(v));
        snprintf(copy, sizeof copy, "%.*f", (int)digits, v.f); /* half to even, exactly */
        return real(isfinite(v.f) ? strtod(copy, NULL) : v.f);
    }
    const double scale = pow(10, (double)digits), x = tpl_real(v) * scale;
    if (!is(a[1], "ceil") && !is(a[1], "floor"))
        tpl_fail(r, "'round' knows common, ceil and floor");
    return real((is(a[1], "ceil") ? ceil(x) : floor(x)) / scale);
}

static PfqVal to_json(Run *r, PfqVal v, const PfqVal *a)
{
    const size_t from = r->n;
    JsonForm f = {.ascii = flag(a[0], false), .sort = flag(a[3], false), .indent = none()};
    if (given(a[1]) && a[1].kind != PFQ_V_NONE) {
        if (a[1].kind != PFQ_V_STR) spaces(r, whole(r, a[1], 0));
        f.indent = a[1].kind == PFQ_V_STR ? a[1] : tpl_take(r, from);
    }
    f.item = f.indent.kind == PFQ_V_STR ? pfq_val_str(",", 1) : pfq_val_str(", ", 2);
    f.colon = pfq_val_str(": ", 2);
    if (given(a[2]) && a[2].kind != PFQ_V_NONE) {
        if (a[2].kind != PFQ_V_LIST || a[2].n != 2) tpl_no(r, "be separators", a[2]);
        if (!r->bad) f.item = text(r, a[2].at[0]), f.colon = text(r, a[2].at[1]);
    }
    tpl_put_json(r, v, &f);
    return tpl_take(r, from);
}

static PfqVal or_default(PfqVal v, const PfqVal *a)
{
    const bool missing = v.kind == PFQ_V_UNDEF || (flag(a[1], false) && !tpl_true(v));
    return !missing ? v : given(a[0]) ? a[0] : pfq_val_str("", 0);
}

static PfqVal length(Run *r, PfqVal v)
{
    int64_t n;
    tpl_length(r, v, &n);
    return pfq_val_int(n);
}

static PfqVal absolute(Run *r, PfqVal v)
{
    if (!tpl_is_number(v)) tpl_no(r, "have an absolute value", v);
    if (v.kind == PFQ_V_REAL) return real(fabs(v.f));
    const int64_t i = tpl_is_number(v) ? tpl_int(v) : 0;
    return i < 0 ? tpl_binary(r, PFQ_B_SUB, pfq_val_int(0), pfq_val_int(i)) : pfq_val_int(i);
}

static PfqVal filter(Run *r, PfqTplFilter id, PfqVal v, const PfqVal *a, const Args *all)
{
    switch (id) {
    case PFQ_F_ABS: return absolute(r, v);
    case PFQ_F_ATTR: return tpl_attr(r, v, text(r, a[0]));
    case PFQ_F_CAPITALIZE: return tpl_case(r, tpl_str(r, v), CASE_CAPITAL);
    case PFQ_F_COUNT:
    case PFQ_F_LENGTH: return length(r, v);
    case PFQ_F_D:
    case PFQ_F_DEFAULT: return or_default(v, a);
    case PFQ_F_DICTSORT: return dictsort(r, v, a);
    case PFQ_F_E:
    case PFQ_F_ESCAPE: return tpl_escape(r, tpl_str(r, v));
    case PFQ_F_FIRST: return first_or_last(r, v, false);
    case PFQ_F_FLOAT: return to_float(r, v, a);
    case PFQ_F_INDENT: return indent(r, text(r, v), a);
    case PFQ_F_INT: return to_int(r, v, a);
    case PFQ_F_ITEMS: return items_filter(r, v);
    case PFQ_F_JOIN: return join(r, tpl_items(r, v), a[0], a[1], false);
    case PFQ_F_LAST: return first_or_last(r, v, true);
    case PFQ_F_LIST: return as_list(r, v);
    case PFQ_F_LOWER: return tpl_case(r, tpl_str(r, v), CASE_LOWER);
    case PFQ_F_MAP: return map(r, if_true(r, v), all);
    case PFQ_F_MAX: return tpl_extreme(r, tpl_items(r, v), a[1], flag(a[0], false), 1);
    case PFQ_F_MIN: return tpl_extreme(r, tpl_items(r, v), a[1], flag(a[0], false), -1);
    case PFQ_F_REJECT: return select_items(r, if_true(r, v), all, false, false);
    case PFQ_F_REJECTATTR: return select_items(r, if_true(r, v), all, true, false);
    case PFQ_F_REPLACE:
        return tpl_replace(r, tpl_str(r, v), tpl_str(r, a[0]), tpl_str(r, a[1]),
                           whole(r, a[2], -1));
    case PFQ_F_REVERSE: return reversed(r, v);
    case PFQ_F_ROUND: return rounded(r, v, a);
    case PFQ_F_SAFE: return v.kind == PFQ_V_STR ? v : tpl_str(r, v);
    case PFQ_F_SELECT: return select_items(r, if_true(r, v), all, false, true);
    case PFQ_F_SELECTATTR: return select_items(r, if_true(r, v), all, true, true);
    case PFQ_F_SORT:
        return tpl_sorted(r, tpl_items(r, v), a[2], flag(a[1], false), flag(a[0], false));
    case PFQ_F_STRING: return tpl_str(r, v);
    case PFQ_F_SUM: return sum(r, tpl_items(r, v), a);
    case PFQ_F_TITLE: return tpl_case(r, tpl_str(r, v), CASE_JINJA_TITLE);
    case PFQ_F_TOJSON: return to_json(r, v, a);
    case PFQ_F_TRIM: return tpl_strip(r, tpl_str(r, v), a[0], STRIP_LEFT | STRIP_RIGHT);
    case PFQ_F_UNIQUE: return tpl_unique(r, tpl_items(r, v), a[1], flag(a[0], false));
    case PFQ_F_UPPER: return tpl_case(r, tpl_str(r, v), CASE_UPPER);
    case PFQ_N_FILTERS: break;
    }
    return ABSENT;
}

PfqVal tpl_filter(Run *r, uint32_t id, PfqVal v, const Args *a)
{
    PfqVal bound[PFQ_TPL_MAX_ARGS];
    if (r->bad || !tpl_enter(r)) return ABSENT;
    PfqVal out = ABSENT;
    const bool named = filters[id].params[0] == '*'; /* looks at names itself */
    const Args positional = {a->pos, NULL, a->n, 0};
    if (bind(r, &filters[id], named ? &positional : a, bound))
        out = filter(r, (PfqTplFilter)id, v, bound, a);
    tpl_leave(r);
    return out;
}

/* ---- tests ---- */

static bool all_of(PfqVal s, unsigned bits)
{
    bool any = false;
    for (size_t i = 0; i < s.n; any = true)
        if (!(pfq_uc_bits(pfq_utf8_next(s.s, s.n, &i)) & bits)) return false;
    return any;
}

/* Python's islower (wanted: Ll) and isupper (Lu): there are such letters, and none of the other
 * case. */
static bool has_case(Run *r, PfqVal s, unsigned wanted)
{
    const unsigned other = (PFQ_UC_LU | PFQ_UC_LL | PFQ_UC_LT) & ~wanted;
    bool any = false;
    tpl_charge(r, s.n / 16);
    for (size_t i = 0; i < s.n;) {
        const unsigned bits = pfq_uc_bits(pfq_utf8_next(s.s, s.n, &i));
        if (bits & other) return false;
        any = any || (bits & wanted);
    }
    return any;
}

static int64_t remainder_of(Run *r, PfqVal v, int64_t by)
{
    const PfqVal m = tpl_binary(r, PFQ_B_MOD, v, pfq_val_int(by));
    return m.kind == PFQ_V_INT ? m.i : m.kind == PFQ_V_REAL ? m.f != 0 : 0;
}

static bool test(Run *r, PfqTplTest id, PfqVal v, PfqVal b)
{
    switch (id) {
    case PFQ_TEST_BOOLEAN: return v.kind == PFQ_V_BOOL;
    case PFQ_TEST_CALLABLE: return v.kind == PFQ_V_FUNC;
    case PFQ_TEST_DEFINED: return v.kind != PFQ_V_UNDEF;
    case PFQ_TEST_DIVISIBLEBY: return tpl_equal(r, tpl_binary(r, PFQ_B_MOD, v, b), pfq_val_int(0));
    case PFQ_TEST_EQ:
    case PFQ_TEST_EQUALTO: return tpl_equal(r, v, b);
    case PFQ_TEST_EVEN: return remainder_of(r, v, 2) == 0;
    case PFQ_TEST_FALSE: return v.kind == PFQ_V_BOOL && !v.b;
    case PFQ_TEST_FLOAT: return v.kind == PFQ_V_REAL;
    case PFQ_TEST_GE: return tpl_order(r, v, b) >= 0;
    case PFQ_TEST_GREATERTHAN:
    case PFQ_TEST_GT: return tpl_order(r, v, b) > 0;
    case PFQ_TEST_IN: return tpl_contains(r, v, b);
    case PFQ_TEST_INTEGER: return v.kind == PFQ_V_INT;
    case PFQ_TEST_ITERABLE:
        return v.kind == PFQ_V_STR || v.kind == PFQ_V_LIST || v.kind == PFQ_V_DICT ||
               v.kind == PFQ_V_GEN || v.kind == PFQ_V_UNDEF || v.kind == PFQ_V_LOOP;
    case PFQ_TEST_LE: return tpl_order(r, v, b) <= 0;
    case PFQ_TEST_LESSTHAN:
    case PFQ_TEST_LT: return tpl_order(r, v, b) < 0;
    case PFQ_TEST_LOWER: return has_case(r, tpl_str(r, v), PFQ_UC_LL);
    case PFQ_TEST_MAPPING: return v.kind == PFQ_V_DICT;
    case PFQ_TEST_NE: return !tpl_equal(r, v, b);
    case PFQ_TEST_NONE: return v.kind == PFQ_V_NONE;
    case PFQ_TEST_NUMBER: return tpl_is_number(v);
    case PFQ_TEST_ODD: return remainder_of(r, v, 2) == 1;
    case PFQ_TEST_SAMEAS:
        return v.kind == b.kind &&
               (tpl_is_number(v) || v.kind == PFQ_V_NONE ? tpl_equal(r, v, b) : v.p == b.p);
    case PFQ_TEST_SEQUENCE:
        return v.kind == PFQ_V_STR || v.kind == PFQ_V_DICT || v.kind == PFQ_V_UNDEF ||
               (v.kind == PFQ_V_LIST && v.sub != PFQ_LIST_VIEW);
    case PFQ_TEST_STRING: return v.kind == PFQ_V_STR;
    case PFQ_TEST_TRUE: return v.kind == PFQ_V_BOOL && v.b;
    case PFQ_TEST_UNDEFINED: return v.kind == PFQ_V_UNDEF;
    case PFQ_TEST_UPPER: return has_case(r, tpl_str(r, v), PFQ_UC_LU);
    case PFQ_N_TESTS: break;
    }
    return false;
}

bool tpl_test(Run *r, uint32_t id, PfqVal v, const Args *a)
{
    if (r->bad) return false;
    if (a->n != (uint32_t)tests[id].min || a->n_kw)
        return tpl_fail(r, "the test '%s' takes %d arguments", tests[id].name, tests[id].min);
    return test(r, (PfqTplTest)id, v, a->n ? a->pos[0] : ABSENT);
}

/* ---- methods ---- */

bool tpl_method_of(PfqVal v, PfqVal name, uint32_t *id)
{
    for (uint32_t i = 0; i < PFQ_N_METHODS; i++) {
        if (methods[i].type != v.kind || !is(name, methods[i].row.name)) continue;
        *id = i;
        return true;
    }
    return false;
}

/* Does s begin (end) with one of a string or tuple of them? */
static bool affix(Run *r, PfqVal s, PfqVal what, bool end)
{
    if (what.kind == PFQ_V_LIST && what.sub == PFQ_LIST_TUPLE) {
        for (uint32_t i = 0; i < what.n && tpl_charge(r, 1); i++)
            if (what.at[i].kind == PFQ_V_STR && affix(r, s, what.at[i], end)) return true;
        return false;
    }
    const PfqVal w = text(r, what);
    return w.n <= s.n && memcmp(end ? s.s + s.n - w.n : s.s, w.s, w.n) == 0;
}

static PfqVal find_char(Run *r, PfqVal s, PfqVal sub, bool last)
{
    size_t found = (size_t)s.n + 1;
    sub = text(r, sub);
    for (size_t from = 0; !r->bad;) {
        const size_t at = tpl_find(r, s, sub, from);
        if (at > s.n) break;
        found = at;
        if (!last) break;
        from = at + 1;
        tpl_charge(r, 1);
    }
    return pfq_val_int(found > s.n ? -1 : (int64_t)tpl_chars(pfq_val_str(s.s, found)));
}

static PfqVal count_of(Run *r, PfqVal s, PfqVal sub)
{
    int64_t n = 0;
    sub = text(r, sub);
    if (sub.n == 0) return pfq_val_int((int64_t)tpl_chars(s) + 1);
    for (size_t at = 0; (at = tpl_find(r, s, sub, at)) <= s.n && tpl_charge(r, 1); at += sub.n)
        n++;
    return pfq_val_int(n);
}

static PfqVal dict_get(Run *r, PfqVal d, PfqVal key, PfqVal def)
{
    for (uint32_t i = 0; i < d.n && tpl_charge(r, i % 8 == 0); i++)
        if (tpl_equal(r, d.pair[i].key, key)) return d.pair[i].val;
    return given(def) ? def : none();
}

static PfqVal in_list(Run *r, PfqVal list, PfqVal v, bool index)
{
    int64_t n = 0;
    for (uint32_t i = 0; i < list.n && tpl_charge(r, 1); i++) {
        if (!tpl_equal(r, list.at[i], v)) continue;
        if (index) return pfq_val_int(i);
        n++;
    }
    if (index) tpl_fail(r, "the list does not hold what 'index' looks for");
    return pfq_val_int(n);
}

static PfqVal cycle(const Loop *l, const Args *a)
{
    return a->pos[l->i % a->n];
}

static PfqVal view(PfqVal v)
{
    v.sub = PFQ_LIST_VIEW;
    return v;
}

static PfqVal strip_affix(Run *r, PfqVal s, PfqVal what, bool end)
{
    what = text(r, what);
    if (what.n == 0 || !affix(r, s, what, end)) return s;
    return pfq_val_str(end ? s.s : s.s + what.n, s.n - what.n);
}

static PfqVal method(Run *r, PfqTplMethod id, PfqVal s, const PfqVal *a, const Args *all)
{
    switch (id) {
    case PFQ_M_CAPITALIZE: return tpl_case(r, s, CASE_CAPITAL);
    case PFQ_M_STR_COUNT: return count_of(r, s, a[0]);
    case PFQ_M_ENDSWITH: return pfq_val_bool(affix(r, s, a[0], true));
    case PFQ_M_FIND: return find_char(r, s, a[0], false);
    case PFQ_M_ISALNUM: return pfq_val_bool(all_of(s, PFQ_UC_L | PFQ_UC_N));
    case PFQ_M_ISALPHA: return pfq_val_bool(all_of(s, PFQ_UC_L));
    case PFQ_M_ISDIGIT: return pfq_val_bool(all_of(s, 1u << 9));
    case PFQ_M_ISLOWER: return pfq_val_bool(has_case(r, s, PFQ_UC_LL));
    case PFQ_M_ISSPACE: return pfq_val_bool(s.n && tpl_strip(r, s, ABSENT, STRIP_LEFT).n == 0);
    case PFQ_M_ISUPPER: return pfq_val_bool(has_case(r, s, PFQ_UC_LU));
    case PFQ_M_JOIN: return join(r, tpl_items(r, a[0]), s, ABSENT, true);
    case PFQ_M_LOWER: return tpl_case(r, s, CASE_LOWER);
    case PFQ_M_LSTRIP: return tpl_strip(r, s, a[0], STRIP_LEFT);
    case PFQ_M_REMOVEPREFIX: return strip_affix(r, s, a[0], false);
    case PFQ_M_REMOVESUFFIX: return strip_affix(r, s, a[0], true);
    case PFQ_M_REPLACE: return tpl_replace(r, s, text(r, a[0]), text(r, a[1]), whole(r, a[2], -1));
    case PFQ_M_RFIND: return find_char(r, s, a[0], true);
    case PFQ_M_RSPLIT: return tpl_split(r, s, a[0], whole(r, a[1], -1), true);
    case PFQ_M_RSTRIP: return tpl_strip(r, s, a[0], STRIP_RIGHT);
    case PFQ_M_SPLIT: return tpl_split(r, s, a[0], whole(r, a[1], -1), false);
    case PFQ_M_SPLITLINES: return tpl_splitlines(r, s, flag(a[0], false));
    case PFQ_M_STARTSWITH: return pfq_val_bool(affix(r, s, a[0], false));
    case PFQ_M_STRIP: return tpl_strip(r, s, a[0], STRIP_LEFT | STRIP_RIGHT);
    case PFQ_M_TITLE: return tpl_case(r, s, CASE_TITLE);
    case PFQ_M_UPPER: return tpl_case(r, s, CASE_UPPER);
    case PFQ_M_GET: return dict_get(r, s, a[0], a[1]);
    case PFQ_M_ITEMS: return view(pairs(r, s, 0));
    case PFQ_M_KEYS: return view(pairs(r, s, 1));
    case PFQ_M_VALUES: return view(pairs(r, s, 2));
    case PFQ_M_LIST_COUNT: return in_list(r, s, a[0], false);
    case PFQ_M_LIST_INDEX: return in_list(r, s, a[0], true);
    case PFQ_M_CYCLE: return cycle(s.p, all);
    case PFQ_N_METHODS: break;
    }
    return ABSENT;
}

PfqVal tpl_method(Run *r, uint32_t id, PfqVal self, const Args *a)
{
    PfqVal bound[PFQ_TPL_MAX_ARGS];
    if (!bind(r, &methods[id].row, a, bound) || !tpl_enter(r)) return ABSENT;
    tpl_charge(r, self.kind == PFQ_V_STR ? self.n / 64 : 0);
    const PfqVal out = r->bad ? ABSENT : method(r, (PfqTplMethod)id, self, bound, a);
    tpl_leave(r);
    return out;
}

/* ---- global functions ---- */

static PfqVal range(Run *r, const Args *a)
{
    int64_t v[3] = {0, 0, 1};
    if (a->n > 3) tpl_fail(r, "'range' takes at most 3 arguments");
    for (uint32_t i = 0; i < a->n && i < 3; i++)
        v[a->n == 1 ? 1 : i] = whole(r, a->pos[i], 0);
    if (v[2] == 0) tpl_fail(r, "the step of 'range' is 0");
    if (r->bad) return ABSENT;
    const __int128 span = v[2] > 0 ? (__int128)v[1] - v[0] : (__int128)v[0] - v[1];
    const __int128 by = v[2] > 0 ? v[2] : -(__int128)v[2], n = span > 0 ? (span + by - 1) / by : 0;
    if (n > MAX_RANGE) tpl_fail(r, "'range' of more than %d numbers", MAX_RANGE);
    PfqVal *at =
        tpl_charge(r, r->bad ? 0 : (uint64_t)n / 4) ? tpl_alloc(r, (size_t)n, sizeof *at) : NULL;
    if (!at) return ABSENT;
    for (int64_t i = 0; i < (int64_t)n; i++)
        at[i] = pfq_val_int(v[0] + i * v[2]);
    return (PfqVal){.kind = PFQ_V_LIST, .sub = PFQ_LIST_RANGE, .n = (uint32_t)n, .at = at};
}

/* namespace(a=1), dict(a=1); one dict may go before. */
static PfqVal named(Run *r, const Args *a, bool space)
{
    Space *s = tpl_alloc(r, 1, sizeof *s);
    if (!s) return ABSENT;
    *s = (Space){0};
    if (a->n > 1 || (a->n == 1 && a->pos[0].kind != PFQ_V_DICT))
        tpl_fail(r, "'%s' takes a dict and named values", space ? "namespace" : "dict");
    for (uint32_t i = 0; !r->bad && a->n == 1 && i < a->pos[0].n; i++)
        tpl_space_set(r, s, a->pos[0].pair[i].key, a->pos[0].pair[i].val);
    for (uint32_t i = 0; i < a->n_kw; i++)
        tpl_space_set(r, s, a->kw[i].key, a->kw[i].val);
    return space ? (PfqVal){.kind = PFQ_V_SPACE, .p = s}
                 : (PfqVal){.kind = PFQ_V_DICT, .n = s->n, .pair = s->pair};
}

static PfqVal raise(Run *r, PfqVal message)
{
    const PfqVal s = tpl_str(r, message);
    tpl_fail(r, "%.*s", (int)(s.n < 180 ? s.n : 180), s.s);
    return ABSENT;
}

static PfqVal time_now(Run *r, PfqVal format)
{
    char form[256], out[512];
    struct tm tm;
    const time_t now = (time_t)r->now;
    const PfqVal f = text(r, format);
    if (f.n >= sizeof form || (f.n && memchr(f.s, 0, f.n)) || !localtime_r(&now, &tm)) {
        tpl_fail(r, "'strftime_now' gets a format that it cannot use");
        return ABSENT;
    }
    if (f.n) memcpy(form, f.s, f.n);
    form[f.n] = 0;
    const size_t from = r->n, n = f.n ? strftime(out, sizeof out, form, &tm) : 0;
    tpl_put(r, out, n);
    return tpl_take(r, from);
}

PfqVal tpl_global(Run *r, uint32_t id, const Args *a)
{
    PfqVal bound[PFQ_TPL_MAX_ARGS];
    if (funcs[id].params[1] == '*') return named(r, a, id == PFQ_FN_NAMESPACE);
    if (!bind(r, &funcs[id], a, bound)) return ABSENT;
    switch ((PfqTplFunc)id) {
    case PFQ_FN_RANGE: return range(r, a);
    case PFQ_FN_RAISE: return raise(r, bound[0]);
    case PFQ_FN_STRFTIME: return time_now(r, bound[0]);
    default: return ABSENT;
    }
}
