/* What template values do: truth, comparison, iteration, attributes, arithmetic, as Python does. */
#include "runtime/template_int.h"
#include "runtime/unicode.h"

#include <math.h>
#include <string.h>

bool tpl_true(PfqVal v)
{
    switch (v.kind) {
    case PFQ_V_UNDEF:
    case PFQ_V_NONE: return false;
    case PFQ_V_BOOL: return v.b;
    case PFQ_V_INT: return v.i != 0;
    case PFQ_V_REAL: return v.f != 0;
    case PFQ_V_STR:
    case PFQ_V_LIST:
    case PFQ_V_DICT: return v.n > 0;
    default: return true;
    }
}

bool tpl_is_number(PfqVal v)
{
    return v.kind == PFQ_V_BOOL || v.kind == PFQ_V_INT || v.kind == PFQ_V_REAL;
}

int64_t tpl_int(PfqVal v)
{
    return v.kind == PFQ_V_BOOL ? v.b : v.i;
}

double tpl_real(PfqVal v)
{
    return v.kind == PFQ_V_REAL ? v.f : (double)tpl_int(v);
}

/* ---- comparison ---- */

static bool lists_equal(Run *r, PfqVal a, PfqVal b)
{
    if (a.n != b.n || (a.sub == PFQ_LIST_TUPLE) != (b.sub == PFQ_LIST_TUPLE)) return false;
    for (uint32_t i = 0; i < a.n && !r->bad; i++)
        if (!tpl_equal(r, a.at[i], b.at[i])) return false;
    return true;
}

/* The pair of a key, or NULL. */
static const PfqPair *find_pair(Run *r, const PfqPair *pair, uint32_t n, PfqVal key)
{
    for (uint32_t i = 0; i < n && (i % 8 || tpl_charge(r, 1)); i++) {
        const PfqVal k = pair[i].key;
        const bool text = key.kind == PFQ_V_STR && k.kind == PFQ_V_STR;
        if (text ? k.n == key.n && memcmp(k.s, key.s, k.n) == 0 : tpl_equal(r, k, key))
            return &pair[i];
    }
    return NULL;
}

static bool dicts_equal(Run *r, PfqVal a, PfqVal b)
{
    if (a.n != b.n) return false;
    for (uint32_t i = 0; i < a.n && !r->bad; i++) {
        const PfqPair *p = find_pair(r, b.pair, b.n, a.pair[i].key);
        if (!p || !tpl_equal(r, p->val, a.pair[i].val)) return false;
    }
    return true;
}

static int order_numbers(PfqVal a, PfqVal b)
{
    if (a.kind != PFQ_V_REAL && b.kind != PFQ_V_REAL)
        return (tpl_int(a) > tpl_int(b)) - (tpl_int(a) < tpl_int(b));
    return (tpl_real(a) > tpl_real(b)) - (tpl_real(a) < tpl_real(b));
}

/* By code points, which is the order of UTF-8's bytes. */
static int order_strings(PfqVal a, PfqVal b)
{
    const uint32_t n = a.n < b.n ? a.n : b.n;
    const int c = n ? memcmp(a.s, b.s, n) : 0;
    return c ? (c > 0) - (c < 0) : (a.n > b.n) - (a.n < b.n);
}

bool tpl_equal(Run *r, PfqVal a, PfqVal b)
{
    bool same = false;
    if (tpl_is_number(a) && tpl_is_number(b)) return order_numbers(a, b) == 0;
    if (a.kind != b.kind || !tpl_enter(r)) return false;
    switch (a.kind) {
    case PFQ_V_UNDEF:
    case PFQ_V_NONE: same = true; break;
    case PFQ_V_STR:
        tpl_charge(r, a.n / 64);
        same = a.n == b.n && memcmp(a.s, b.s, a.n) == 0;
        break;
    case PFQ_V_LIST: same = lists_equal(r, a, b); break;
    case PFQ_V_DICT: same = dicts_equal(r, a, b); break;
    case PFQ_V_FUNC: same = a.p == b.p && a.sub == b.sub && a.n == b.n; break;
    default: same = a.p == b.p; break;
    }
    tpl_leave(r);
    return same;
}

static int order_lists(Run *r, PfqVal a, PfqVal b)
{
    for (uint32_t i = 0; i < a.n && i < b.n && !r->bad; i++)
        if (!tpl_equal(r, a.at[i], b.at[i])) return tpl_order(r, a.at[i], b.at[i]);
    return (a.n > b.n) - (a.n < b.n);
}

int tpl_order(Run *r, PfqVal a, PfqVal b)
{
    int order = 0;
    if (tpl_is_number(a) && tpl_is_number(b)) return order_numbers(a, b);
    if (a.kind == PFQ_V_STR && b.kind == PFQ_V_STR && tpl_charge(r, a.n / 64))
        return order_strings(a, b);
    const bool lists = a.kind == PFQ_V_LIST && b.kind == PFQ_V_LIST &&
                       (a.sub == PFQ_LIST_TUPLE) == (b.sub == PFQ_LIST_TUPLE);
    if (lists && tpl_enter(r)) {
        order = order_lists(r, a, b);
        tpl_leave(r);
    } else if (a.kind == PFQ_V_UNDEF || b.kind == PFQ_V_UNDEF) {
        tpl_no(r, "be compared", a.kind == PFQ_V_UNDEF ? a : b);
    } else {
        tpl_fail(r, "%s and %s cannot be compared", tpl_kind(a), tpl_kind(b));
    }
    return order;
}

bool tpl_contains(Run *r, PfqVal item, PfqVal in)
{
    switch (in.kind) {
    case PFQ_V_STR:
        if (item.kind != PFQ_V_STR) return tpl_no(r, "be looked for in a string", item);
        return tpl_find(r, in, item, 0) <= in.n;
    case PFQ_V_DICT: return find_pair(r, in.pair, in.n, item) != NULL;
    case PFQ_V_LIST:
    case PFQ_V_GEN:
    case PFQ_V_UNDEF: {
        const PfqVal items = tpl_items(r, in);
        for (uint32_t i = 0; i < items.n && !r->bad; i++)
            if (tpl_charge(r, 1) && tpl_equal(r, items.at[i], item)) return true;
        return false;
    }
    default: return tpl_no(r, "be searched with 'in'", in);
    }
}

/* ---- iteration ---- */

PfqVal tpl_gen(Run *r, PfqVal list)
{
    Gen *g = tpl_alloc(r, 1, sizeof *g);
    if (!g) return ABSENT;
    *g = (Gen){.list = list};
    return (PfqVal){.kind = PFQ_V_GEN, .p = g};
}

static PfqVal characters(Run *r, PfqVal s)
{
    PfqVal *at = tpl_charge(r, s.n / 4) ? tpl_alloc(r, s.n, sizeof *at) : NULL, v = list_of(at, 0);
    for (size_t i = 0; at && i < s.n;) {
        const size_t from = i;
        pfq_utf8_next(s.s, s.n, &i);
        at[v.n++] = pfq_val_str(s.s + from, i - from);
    }
    return v;
}

static PfqVal keys(Run *r, PfqVal v)
{
    PfqVal *at = tpl_charge(r, v.n / 4) ? tpl_alloc(r, v.n, sizeof *at) : NULL;
    for (uint32_t i = 0; at && i < v.n; i++)
        at[i] = v.pair[i].key;
    return list_of(at, at ? v.n : 0);
}

PfqVal tpl_items(Run *r, PfqVal v)
{
    const PfqVal none_at_all = list_of(NULL, 0);
    if (r->bad) return none_at_all;
    switch (v.kind) {
    case PFQ_V_UNDEF: return none_at_all;
    case PFQ_V_STR: return characters(r, v);
    case PFQ_V_LIST: return v;
    case PFQ_V_DICT: return keys(r, v);
    case PFQ_V_GEN: {
        Gen *g = v.p;
        const PfqVal list = g->used ? none_at_all : g->list;
        g->used = true;
        return list;
    }
    default: tpl_no(r, "be iterated over", v); return none_at_all;
    }
}

bool tpl_length(Run *r, PfqVal v, int64_t *n)
{
    *n = 0;
    switch (v.kind) {
    case PFQ_V_UNDEF: return true;
    case PFQ_V_STR: *n = tpl_charge(r, v.n / 64) ? (int64_t)tpl_chars(v) : 0; return true;
    case PFQ_V_LIST:
    case PFQ_V_DICT: *n = v.n; return true;
    case PFQ_V_LOOP: *n = ((const Loop *)v.p)->list.n; return true;
    default: return tpl_no(r, "have a length", v);
    }
}

/* ---- attributes and items ---- */

static PfqVal loop_attr(const Loop *l, PfqVal name)
{
    const int64_t i = l->i, n = l->list.n;
    const struct {
        const char *name;
        PfqVal v;
    } attrs[] = {
        {"index", pfq_val_int(i + 1)},
        {"index0", pfq_val_int(i)},
        {"revindex", pfq_val_int(n - i)},
        {"revindex0", pfq_val_int(n - i - 1)},
        {"first", pfq_val_bool(i == 0)},
        {"last", pfq_val_bool(i + 1 == n)},
        {"length", pfq_val_int(n)},
        {"depth", pfq_val_int(1)}, /* of recursion, which loops here do not have */
        {"depth0", pfq_val_int(0)},
        {"previtem", i > 0 ? l->list.at[i - 1] : undefined("previtem", 8)},
        {"nextitem", i + 1 < n ? l->list.at[i + 1] : undefined("nextitem", 8)},
    };
    for (size_t k = 0; k < sizeof attrs / sizeof *attrs; k++)
        if (name.n == strlen(attrs[k].name) && memcmp(name.s, attrs[k].name, name.n) == 0)
            return attrs[k].v;
    return undefined(name.s, name.n);
}

/* A method bound to v, or undefined. */
static PfqVal method(Run *r, PfqVal v, PfqVal name)
{
    uint32_t id;
    PfqVal *self;
    if (!tpl_method_of(v, name, &id) || !(self = tpl_alloc(r, 1, sizeof *self)))
        return undefined(name.s, name.n);
    *self = v;
    return (PfqVal){.kind = PFQ_V_FUNC, .sub = FUNC_METHOD, .n = id, .p = self};
}

/* Python's getattr. */
static PfqVal get_attr(Run *r, PfqVal v, PfqVal name)
{
    if (v.kind == PFQ_V_SPACE) {
        const Space *s = v.p;
        const PfqPair *p = find_pair(r, s->pair, s->n, name);
        return p ? p->val : undefined(name.s, name.n);
    }
    const PfqVal f = method(r, v, name);
    return f.kind == PFQ_V_UNDEF && v.kind == PFQ_V_LOOP ? loop_attr(v.p, name) : f;
}

static PfqVal get_index(Run *r, PfqVal v, int64_t i)
{
    int64_t n;
    tpl_length(r, v, &n);
    if (i < 0) i += n;
    if (i < 0 || i >= n || r->bad) return undefined("that item", 9);
    if (v.kind == PFQ_V_LIST) return v.at[i];
    size_t at = 0, from = 0;
    for (int64_t k = 0; k <= i; k++) {
        from = at;
        pfq_utf8_next(v.s, v.n, &at);
    }
    return pfq_val_str(v.s + from, at - from);
}

/* Python's v[key]; undefined where there is none. */
static PfqVal get_item(Run *r, PfqVal v, PfqVal key)
{
    if (v.kind == PFQ_V_DICT) {
        const PfqPair *p = find_pair(r, v.pair, v.n, key);
        if (p) return p->val;
    }
    if ((v.kind == PFQ_V_LIST || v.kind == PFQ_V_STR) &&
        (key.kind == PFQ_V_INT || key.kind == PFQ_V_BOOL))
        return get_index(r, v, tpl_int(key));
    if (key.kind == PFQ_V_STR) return undefined(key.s, key.n);
    return undefined("that item", 9);
}

PfqVal tpl_attr(Run *r, PfqVal v, PfqVal name)
{
    if (v.kind == PFQ_V_UNDEF) {
        tpl_no(r, "have attributes", v);
        return ABSENT;
    }
    const PfqVal got = get_attr(r, v, name);
    return got.kind == PFQ_V_UNDEF && v.kind != PFQ_V_SPACE ? get_item(r, v, name) : got;
}

PfqVal tpl_item(Run *r, PfqVal v, PfqVal key)
{
    if (v.kind == PFQ_V_UNDEF) {
        tpl_no(r, "have items", v);
        return ABSENT;
    }
    const PfqVal got = get_item(r, v, key);
    return got.kind == PFQ_V_UNDEF && key.kind == PFQ_V_STR ? get_attr(r, v, key) : got;
}

PfqVal tpl_path(Run *r, PfqVal v, PfqVal path)
{
    if (path.kind == PFQ_V_INT) return tpl_item(r, v, path);
    if (path.kind != PFQ_V_STR) {
        tpl_no(r, "name an attribute", path);
        return ABSENT;
    }
    for (uint32_t at = 0; at <= path.n && !r->bad;) {
        uint32_t end = at;
        int64_t index = 0;
        bool digits = true;
        for (; end < path.n && path.s[end] != '.'; end++) {
            digits = digits && path.s[end] >= '0' && path.s[end] <= '9' && end - at < 9;
            if (digits) index = index * 10 + (path.s[end] - '0');
        }
        digits = digits && end > at;
        v = tpl_item(r, v, digits ? pfq_val_int(index) : pfq_val_str(path.s + at, end - at));
        at = end + 1;
    }
    return v;
}

/* A bound of a slice; false after an error. `out` stays where it is left out. */
static bool bound(PfqVal v, int64_t *out)
{
    if (v.kind == PFQ_V_INT || v.kind == PFQ_V_BOOL) *out = tpl_int(v);
    return v.kind == PFQ_V_INT || v.kind == PFQ_V_BOOL || v.kind == PFQ_V_NONE;
}

static int64_t clamp(int64_t v, int64_t n, int64_t lo, int64_t hi)
{
    if (v < 0) v = v < -n ? -1 : v + n; /* -1 is below every index */
    return v < lo ? lo : v > hi ? hi : v;
}

PfqVal tpl_slice(Run *r, PfqVal v, PfqVal start, PfqVal stop, PfqVal step)
{
    int64_t n, by = 1, i = 0, end = 0;
    if ((v.kind != PFQ_V_LIST && v.kind != PFQ_V_STR) || !bound(step, &by) || !bound(start, &i) ||
        !bound(stop, &end)) {
        tpl_no(r, "be sliced so", v);
        return ABSENT;
    }
    if (by == 0) tpl_fail(r, "the step of a slice is 0");
    tpl_length(r, v, &n);
    const bool up = by > 0;
    const int64_t lo = up ? 0 : -1, hi = up ? n : n - 1;
    i = start.kind == PFQ_V_NONE ? (up ? 0 : n - 1) : clamp(i, n, lo, hi);
    end = stop.kind == PFQ_V_NONE ? (up ? n : -1) : clamp(end, n, lo, hi);
    const PfqVal from = v.kind == PFQ_V_STR ? characters(r, v) : v;
    PfqVal *at = tpl_charge(r, (uint64_t)n / 4) ? tpl_alloc(r, (size_t)n, sizeof *at) : NULL;
    PfqVal got = list_of(at, 0);
    while (at && !r->bad && (up ? i < end : i > end)) {
        at[got.n++] = from.at[i];
        if (__builtin_add_overflow(i, by, &i)) break;
    }
    if (v.kind == PFQ_V_LIST) {
        got.sub = v.sub == PFQ_LIST_TUPLE ? PFQ_LIST_TUPLE : PFQ_LIST_PLAIN;
        return got;
    }
    const size_t mark = r->n;
    for (uint32_t k = 0; k < got.n; k++)
        tpl_put(r, at[k].s, at[k].n);
    return tpl_take(r, mark);
}

void tpl_space_set(Run *r, Space *s, PfqVal key, PfqVal val)
{
    PfqPair *p = (PfqPair *)find_pair(r, s->pair, s->n, key);
    if (p) {
        p->val = val;
        return;
    }
    if (s->n == s->cap) {
        const uint32_t cap = s->cap ? s->cap * 2 : 4;
        PfqPair *more = tpl_alloc(r, cap, sizeof *more);
        if (!more) return;
        if (s->n) memcpy(more, s->pair, s->n * sizeof *more);
        s->pair = more;
        s->cap = cap;
    }
    s->pair[s->n++] = (PfqPair){key, val};
}

/* ---- arithmetic ---- */

static PfqVal real(double f)
{
    return (PfqVal){.kind = PFQ_V_REAL, .f = f};
}

static PfqVal no_binary(Run *r, const char *op, PfqVal a, PfqVal b)
{
    if (a.kind == PFQ_V_UNDEF || b.kind == PFQ_V_UNDEF)
        tpl_no(r, "be calculated with", a.kind == PFQ_V_UNDEF ? a : b);
    else
        tpl_fail(r, "'%s' does not work on %s and %s", op, tpl_kind(a), tpl_kind(b));
    return ABSENT;
}

static PfqVal real_binary(Run *r, PfqTplBinary op, double a, double b)
{
    if (b == 0 && (op == PFQ_B_DIV || op == PFQ_B_FLOORDIV || op == PFQ_B_MOD))
        tpl_fail(r, "division by zero");
    switch (op) {
    case PFQ_B_ADD: return real(a + b);
    case PFQ_B_SUB: return real(a - b);
    case PFQ_B_MUL: return real(a * b);
    case PFQ_B_DIV: return real(a / b);
    case PFQ_B_FLOORDIV: return real(floor(a / b));
    case PFQ_B_MOD: {
        const double m = fmod(a, b);
        return real(m != 0 && (m < 0) != (b < 0) ? m + b : m);
    }
    default: return real(pow(a, b));
    }
}

static bool int_power(int64_t base, int64_t exp, int64_t *out)
{
    bool fits = true;
    *out = 1;
    for (; exp > 0 && fits; exp >>= 1) {
        if (exp & 1) fits = !__builtin_mul_overflow(*out, base, out);
        if (exp > 1 && fits) fits = !__builtin_mul_overflow(base, base, &base);
    }
    return fits;
}

static PfqVal int_binary(Run *r, PfqTplBinary op, int64_t a, int64_t b)
{
    int64_t v = 0;
    bool fits = true;
    switch (op) {
    case PFQ_B_ADD: fits = !__builtin_add_overflow(a, b, &v); break;
    case PFQ_B_SUB: fits = !__builtin_sub_overflow(a, b, &v); break;
    case PFQ_B_MUL: fits = !__builtin_mul_overflow(a, b, &v); break;
    case PFQ_B_FLOORDIV:
    case PFQ_B_MOD:
        if (b == 0) {
            tpl_fail(r, "division by zero");
        } else if (b == -1) {
            fits = op == PFQ_B_MOD || !__builtin_sub_overflow((int64_t)0, a, &v);
        } else {
            const int64_t rest = a % b, off = rest != 0 && (rest < 0) != (b < 0);
            v = op == PFQ_B_MOD ? rest + (off ? b : 0) : a / b - off;
        }
        break;
    case PFQ_B_POW:
        if (b < 0) return real_binary(r, op, (double)a, (double)b);
        fits = int_power(a, b, &v);
        break;
    default: return real_binary(r, op, (double)a, (double)b);
    }
    if (!fits) tpl_fail(r, "an integer does not fit 64 bits");
    return pfq_val_int(v);
}

static PfqVal joined(Run *r, PfqVal a, PfqVal b)
{
    const uint64_t n = (uint64_t)a.n + b.n;
    PfqVal *at = tpl_charge(r, n / 4) && n < INT32_MAX ? tpl_alloc(r, n, sizeof *at) : NULL;
    if (!at) return list_of(NULL, 0);
    if (a.n) memcpy(at, a.at, a.n * sizeof *at);
    if (b.n) memcpy(at + a.n, b.at, b.n * sizeof *at);
    PfqVal v = list_of(at, (uint32_t)n);
    v.sub = a.sub;
    return v;
}

static PfqVal concat(Run *r, PfqVal a, PfqVal b)
{
    const size_t from = r->n;
    tpl_put_str(r, a);
    tpl_put_str(r, b);
    return tpl_take(r, from);
}

/* A string or list, so many times. */
static PfqVal repeated(Run *r, PfqVal v, int64_t times)
{
    const size_t from = r->n;
    PfqVal list = list_of(NULL, 0);
    list.sub = v.sub;
    for (int64_t i = 0; i < times && v.n && tpl_charge(r, 1); i++) {
        if (v.kind == PFQ_V_LIST)
            list = joined(r, list, v);
        else
            tpl_put(r, v.s, v.n);
    }
    return v.kind == PFQ_V_LIST ? list : tpl_take(r, from);
}

static bool repeats(PfqVal v, PfqVal times)
{
    return (v.kind == PFQ_V_STR || (v.kind == PFQ_V_LIST && v.sub <= PFQ_LIST_TUPLE)) &&
           (times.kind == PFQ_V_INT || times.kind == PFQ_V_BOOL);
}

PfqVal tpl_binary(Run *r, PfqTplBinary op, PfqVal a, PfqVal b)
{
    static const char *const signs[] = {"or", "and", "+", "-", "*", "/", "//", "%", "**", "~"};
    if (r->bad) return ABSENT;
    if (op == PFQ_B_CONCAT) return concat(r, a, b);
    if (tpl_is_number(a) && tpl_is_number(b))
        return a.kind == PFQ_V_REAL || b.kind == PFQ_V_REAL
                   ? real_binary(r, op, tpl_real(a), tpl_real(b))
                   : int_binary(r, op, tpl_int(a), tpl_int(b));
    if (op == PFQ_B_ADD && a.kind == PFQ_V_STR && b.kind == PFQ_V_STR) return concat(r, a, b);
    if (op == PFQ_B_ADD && a.kind == PFQ_V_LIST && b.kind == PFQ_V_LIST && a.sub == b.sub &&
        a.sub <= PFQ_LIST_TUPLE)
        return joined(r, a, b);
    if (op == PFQ_B_MUL && repeats(a, b)) return repeated(r, a, tpl_int(b));
    if (op == PFQ_B_MUL && repeats(b, a)) return repeated(r, b, tpl_int(a));
    return no_binary(r, signs[op], a, b);
}
