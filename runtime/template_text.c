/* Template values as text (str, repr, JSON), and what can be done to text, as Python does it. */
#include "runtime/template_int.h"
#include "runtime/unicode.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Categories that Python's repr escapes: Cc Cf Cs Co Cn and, but for the space, Z. */
#define NOT_PRINTABLE (0xfu << 26 | PFQ_UC_CN | PFQ_UC_Z)

const char *tpl_kind(PfqVal v)
{
    static const char *const names[] = {
        [PFQ_V_UNDEF] = "an undefined value",
        [PFQ_V_NONE] = "none",
        [PFQ_V_BOOL] = "a boolean",
        [PFQ_V_INT] = "an integer",
        [PFQ_V_REAL] = "a number",
        [PFQ_V_STR] = "a string",
        [PFQ_V_LIST] = "a list",
        [PFQ_V_DICT] = "a dict",
        [PFQ_V_GEN] = "an iterator",
        [PFQ_V_SPACE] = "a namespace",
        [PFQ_V_LOOP] = "a loop",
        [PFQ_V_FUNC] = "a function",
    };
    return names[v.kind];
}

bool tpl_no(Run *r, const char *what, PfqVal v)
{
    if (v.kind == PFQ_V_UNDEF && v.s)
        return tpl_fail(r, "'%.*s' is undefined", (int)(v.n < 60 ? v.n : 60), v.s);
    return tpl_fail(r, "%s cannot %s", tpl_kind(v), what);
}

static void put(Run *r, const char *s)
{
    tpl_put(r, s, strlen(s));
}

/* ---- str and repr ---- */

/* Shortest decimal form that reads back, laid out as Python's repr does. */
static void put_real(Run *r, double f)
{
    char text[40], digits[24];
    if (!isfinite(f)) {
        put(r, isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    int n = 1;
    for (; n < 17; n++) {
        snprintf(text, sizeof text, "%.*e", n - 1, f);
        if (strtod(text, NULL) == f) break;
    }
    snprintf(text, sizeof text, "%.*e", n - 1, f);
    const char *mant = text + (*text == '-'), *e = strchr(text, 'e');
    const int exp = atoi(e + 1);
    digits[0] = *mant;
    memcpy(digits + 1, mant + 2, (size_t)n - 1); /* without the point */
    if (exp < -4 || exp >= 16) {
        char out[48];
        snprintf(out, sizeof out, "%s%c%s%.*se%c%02d", f < 0 ? "-" : "", digits[0],
                 n > 1 ? "." : "", n - 1, digits + 1, exp < 0 ? '-' : '+', abs(exp));
        put(r, out);
        return;
    }
    snprintf(text, sizeof text, "%.*f", n - 1 - exp > 1 ? n - 1 - exp : 1, f);
    put(r, text);
}

static void put_char_escape(Run *r, uint32_t c)
{
    char text[16];
    c = c & PFQ_UC_BAD ? c & 0xff : c;
    snprintf(text, sizeof text, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
    put(r, text);
}

static void put_quoted(Run *r, PfqVal s)
{
    const bool apostrophe = s.n && memchr(s.s, '\'', s.n), quote = s.n && memchr(s.s, '"', s.n);
    const char q = apostrophe && !quote ? '"' : '\'';
    static const char special[] = "\n\r\t\\";
    tpl_put(r, &q, 1);
    for (size_t i = 0; i < s.n && tpl_charge(r, 1);) {
        const size_t from = i;
        const uint32_t c = pfq_utf8_next(s.s, s.n, &i);
        const char *at = c && c < 0x80 ? strchr(special, (int)c) : NULL;
        if (at)
            tpl_put(r, &"\\n\\r\\t\\\\"[2 * (at - special)], 2);
        else if (c == (unsigned char)q)
            tpl_put(r, (char[]){'\\', q}, 2);
        else if (c != ' ' && (pfq_uc_bits(c) & NOT_PRINTABLE))
            put_char_escape(r, c);
        else
            tpl_put(r, s.s + from, i - from);
    }
    tpl_put(r, &q, 1);
}

static void put_list(Run *r, PfqVal v)
{
    const bool tuple = v.sub == PFQ_LIST_TUPLE;
    put(r, tuple ? "(" : "[");
    for (uint32_t i = 0; i < v.n && !r->bad; i++) {
        if (i) put(r, ", ");
        tpl_put_repr(r, v.at[i]);
    }
    put(r, tuple && v.n == 1 ? ",)" : tuple ? ")" : "]");
}

static void put_dict(Run *r, PfqVal v)
{
    put(r, "{");
    for (uint32_t i = 0; i < v.n && !r->bad; i++) {
        if (i) put(r, ", ");
        tpl_put_repr(r, v.pair[i].key);
        put(r, ": ");
        tpl_put_repr(r, v.pair[i].val);
    }
    put(r, "}");
}

void tpl_put_repr(Run *r, PfqVal v)
{
    char text[32];
    if (!tpl_enter(r)) return;
    switch (v.kind) {
    case PFQ_V_UNDEF: put(r, "Undefined"); break;
    case PFQ_V_NONE: put(r, "None"); break;
    case PFQ_V_BOOL: put(r, v.b ? "True" : "False"); break;
    case PFQ_V_INT:
        snprintf(text, sizeof text, "%lld", (long long)v.i);
        put(r, text);
        break;
    case PFQ_V_REAL: put_real(r, v.f); break;
    case PFQ_V_STR: put_quoted(r, v); break;
    case PFQ_V_DICT: put_dict(r, v); break;
    case PFQ_V_LIST:
        if (v.sub <= PFQ_LIST_TUPLE) {
            put_list(r, v);
            break;
        }
        tpl_fail(r, "a range or view cannot be printed; the filter 'list' makes a list of it");
        break;
    default: tpl_no(r, "be printed", v); break;
    }
    tpl_leave(r);
}

void tpl_put_str(Run *r, PfqVal v)
{
    if (v.kind == PFQ_V_STR)
        tpl_put(r, v.s, v.n);
    else if (v.kind != PFQ_V_UNDEF)
        tpl_put_repr(r, v);
}

PfqVal tpl_str(Run *r, PfqVal v)
{
    const size_t from = r->n;
    if (v.kind == PFQ_V_STR) return v;
    tpl_put_str(r, v);
    return tpl_take(r, from);
}

/* ---- JSON, as json.dumps writes it ---- */

static void put_json_unit(Run *r, uint32_t u)
{
    char text[8];
    snprintf(text, sizeof text, "\\u%04x", u & 0xffff);
    put(r, text);
}

static void put_json_string(Run *r, PfqVal s, bool ascii)
{
    static const char special[] = "\"\\\n\r\t\b\f", names[] = "\"\\nrtbf";
    put(r, "\"");
    for (size_t i = 0; i < s.n && tpl_charge(r, i % 4 == 0);) {
        const size_t from = i;
        const uint32_t c = pfq_utf8_next(s.s, s.n, &i);
        const char *at = c && c < 0x80 ? strchr(special, (int)c) : NULL;
        if (at)
            tpl_put(r, (char[]){'\\', names[at - special]}, 2);
        else if (c & PFQ_UC_BAD)
            put(r, ascii ? "\\ufffd" : "\xef\xbf\xbd");
        else if (c < 0x20 || (ascii && c >= 0x7f && c < 0x10000 && c != 0x7f))
            put_json_unit(r, c);
        else if (ascii && c >= 0x10000) {
            put_json_unit(r, 0xd800 + ((c - 0x10000) >> 10));
            put_json_unit(r, 0xdc00 + (c & 0x3ff));
        } else
            tpl_put(r, s.s + from, i - from);
    }
    put(r, "\"");
}

static void new_line(Run *r, const JsonForm *f, unsigned level)
{
    if (f->indent.kind != PFQ_V_STR) return;
    put(r, "\n");
    for (unsigned i = 0; i < level && !r->bad; i++)
        tpl_put(r, f->indent.s, f->indent.n);
}

static void put_json(Run *r, PfqVal v, const JsonForm *f, unsigned level);

/* Keys are strings; numbers, booleans and none become strings. */
static void put_json_key(Run *r, PfqVal key, const JsonForm *f)
{
    if (key.kind == PFQ_V_STR) {
        put_json_string(r, key, f->ascii);
        return;
    }
    put(r, "\"");
    put_json(r, key, f, 0);
    put(r, "\"");
}

static int by_key(const void *a, const void *b)
{
    const PfqVal x = ((const PfqPair *)a)->key, y = ((const PfqPair *)b)->key;
    const uint32_t n = x.n < y.n ? x.n : y.n;
    const int c = n ? memcmp(x.s, y.s, n) : 0;
    return c ? c : (x.n > y.n) - (x.n < y.n);
}

static const PfqPair *sorted_pairs(Run *r, PfqVal v)
{
    PfqPair *p = tpl_charge(r, v.n) ? tpl_alloc(r, v.n, sizeof *p) : NULL;
    for (uint32_t i = 0; p && i < v.n; i++) {
        p[i] = v.pair[i];
        if (p[i].key.kind != PFQ_V_STR) {
            tpl_no(r, "be a key to sort by", p[i].key);
            return NULL;
        }
    }
    if (p && v.n) qsort(p, v.n, sizeof *p, by_key);
    return p;
}

static void put_json_dict(Run *r, PfqVal v, const JsonForm *f, unsigned level)
{
    const PfqPair *pair = f->sort ? sorted_pairs(r, v) : v.pair;
    put(r, "{");
    for (uint32_t i = 0; i < v.n && !r->bad; i++) {
        if (i) tpl_put(r, f->item.s, f->item.n);
        new_line(r, f, level + 1);
        put_json_key(r, pair[i].key, f);
        tpl_put(r, f->colon.s, f->colon.n);
        put_json(r, pair[i].val, f, level + 1);
    }
    if (v.n) new_line(r, f, level);
    put(r, "}");
}

static void put_json_list(Run *r, PfqVal v, const JsonForm *f, unsigned level)
{
    put(r, "[");
    for (uint32_t i = 0; i < v.n && !r->bad; i++) {
        if (i) tpl_put(r, f->item.s, f->item.n);
        new_line(r, f, level + 1);
        put_json(r, v.at[i], f, level + 1);
    }
    if (v.n) new_line(r, f, level);
    put(r, "]");
}

static void put_json(Run *r, PfqVal v, const JsonForm *f, unsigned level)
{
    if (!tpl_enter(r)) return;
    switch (v.kind) {
    case PFQ_V_NONE: put(r, "null"); break;
    case PFQ_V_BOOL: put(r, v.b ? "true" : "false"); break;
    case PFQ_V_INT: tpl_put_repr(r, v); break;
    case PFQ_V_REAL:
        if (isfinite(v.f))
            put_real(r, v.f);
        else
            put(r, isnan(v.f) ? "NaN" : v.f < 0 ? "-Infinity" : "Infinity");
        break;
    case PFQ_V_STR: put_json_string(r, v, f->ascii); break;
    case PFQ_V_DICT: put_json_dict(r, v, f, level); break;
    case PFQ_V_LIST:
        if (v.sub <= PFQ_LIST_TUPLE)
            put_json_list(r, v, f, level);
        else
            tpl_no(r, "be written as JSON", v);
        break;
    default: tpl_no(r, "be written as JSON", v); break;
    }
    tpl_leave(r);
}

void tpl_put_json(Run *r, PfqVal v, const JsonForm *f)
{
    put_json(r, v, f, 0);
}

/* ---- characters ---- */

bool tpl_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

size_t tpl_chars(PfqVal s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.n; n++)
        pfq_utf8_next(s.s, s.n, &i);
    return n;
}

/* The character that ends at s[i], i > 0, and where it begins. */
static uint32_t char_before(PfqVal s, size_t i, size_t *begin)
{
    size_t at = i - 1;
    while (at > 0 && i - at < 4 && ((unsigned char)s.s[at] & 0xc0) == 0x80)
        at--;
    for (;; at++) { /* bytes that are no character are characters of their own */
        size_t next = at;
        const uint32_t c = pfq_utf8_next(s.s, i, &next);
        *begin = at;
        if (next == i) return c;
    }
}

static bool strips(PfqVal chars, uint32_t c)
{
    if (chars.kind != PFQ_V_STR) return tpl_is_space(c);
    for (size_t i = 0; i < chars.n;)
        if (pfq_utf8_next(chars.s, chars.n, &i) == c) return true;
    return false;
}

PfqVal tpl_strip(Run *r, PfqVal s, PfqVal chars, int sides)
{
    size_t from = 0, to = s.n, at = 0;
    if (chars.kind != PFQ_V_STR && chars.kind != PFQ_V_NONE && given(chars))
        tpl_no(r, "be stripped off a string", chars);
    const uint64_t cost = chars.kind == PFQ_V_STR ? chars.n / 16 : 0;
    while ((sides & STRIP_LEFT) && from < to && tpl_charge(r, cost) &&
           strips(chars, pfq_utf8_next(s.s, to, &at)))
        from = at;
    while ((sides & STRIP_RIGHT) && to > from && tpl_charge(r, cost) &&
           strips(chars, char_before(s, to, &at)))
        to = at;
    tpl_charge(r, (s.n - (to - from)) / 16);
    return pfq_val_str(s.s + from, to > from ? to - from : 0);
}

/* jinja's title: words begin after these and white space. */
static bool jinja_word_break(uint32_t c)
{
    return c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || tpl_is_space(c);
}

static void put_char(Run *r, uint32_t c)
{
    char text[4];
    tpl_put(r, text, pfq_utf8_put(c, text));
}

PfqVal tpl_case(Run *r, PfqVal s, int how)
{
    const size_t from = r->n;
    bool start = true;
    for (size_t i = 0; i < s.n && tpl_charge(r, i % 4 == 0);) {
        const uint32_t c = pfq_utf8_next(s.s, s.n, &i);
        const bool up = how == CASE_UPPER || (start && how != CASE_LOWER);
        if (up && c == 0xdf)
            put(r, how == CASE_UPPER || how == CASE_JINJA_TITLE ? "SS" : "Ss");
        else
            put_char(r, up ? pfq_uc_upper(c) : pfq_uc_lower(c));
        if (how == CASE_CAPITAL)
            start = false;
        else if (how == CASE_TITLE)
            start = !(pfq_uc_bits(c) & (PFQ_UC_LU | PFQ_UC_LL | PFQ_UC_LT));
        else
            start = jinja_word_break(c);
    }
    return tpl_take(r, from);
}

/* ---- searching and splitting ---- */

size_t tpl_find(Run *r, PfqVal s, PfqVal sub, size_t from)
{
    if (from > s.n || sub.n > s.n - from) return (size_t)s.n + 1;
    if (sub.n == 0) return from;
    tpl_charge(r, (s.n - from) / 64 + sub.n / 64);
    const char *at = memmem(s.s + from, s.n - from, sub.s, sub.n);
    return at ? (size_t)(at - s.s) : (size_t)s.n + 1;
}

/* An empty `old` stands before every character and at the end. */
static void replace_empty(Run *r, PfqVal s, PfqVal new, int64_t count)
{
    size_t i = 0;
    while (count-- > 0 && tpl_charge(r, 1)) {
        const size_t from = i;
        tpl_put(r, new.s, new.n);
        if (i == s.n) return;
        pfq_utf8_next(s.s, s.n, &i);
        tpl_put(r, s.s + from, i - from);
    }
    tpl_put(r, s.s + i, s.n - i);
}

PfqVal tpl_replace(Run *r, PfqVal s, PfqVal old, PfqVal new, int64_t count)
{
    const size_t mark = r->n;
    size_t from = 0;
    if (count < 0) count = INT64_MAX;
    if (old.n == 0) {
        replace_empty(r, s, new, count);
        return tpl_take(r, mark);
    }
    while (count-- > 0 && tpl_charge(r, 1)) {
        const size_t at = tpl_find(r, s, old, from);
        if (at > s.n) break;
        tpl_put(r, s.s + from, at - from);
        tpl_put(r, new.s, new.n);
        from = at + old.n;
    }
    tpl_put(r, s.s + from, s.n - from);
    return tpl_take(r, mark);
}

typedef struct Parts {
    PfqVal *at;
    uint32_t n, cap;
} Parts;

static void add_part(Run *r, Parts *p, const char *s, size_t n)
{
    if (p->n == p->cap) {
        const uint32_t cap = p->cap ? p->cap * 2 : 8;
        PfqVal *more = tpl_charge(r, p->n + 1) ? tpl_alloc(r, cap, sizeof *more) : NULL;
        if (!more) return;
        if (p->n) memcpy(more, p->at, p->n * sizeof *more);
        p->at = more;
        p->cap = cap;
    }
    p->at[p->n++] = pfq_val_str(s, n);
}

/* Cuts at runs of white space; parts are not empty. */
static void split_words(Run *r, PfqVal s, int64_t max, Parts *p)
{
    s = tpl_strip(r, s, ABSENT, STRIP_LEFT);
    for (size_t i = 0; i < s.n && !r->bad;) {
        size_t end = i, next = i;
        if (p->n == max) end = next = s.n;
        while (next < s.n && !tpl_is_space(pfq_utf8_next(s.s, s.n, &next)))
            end = next;
        add_part(r, p, s.s + i, end - i);
        const PfqVal rest = {.kind = PFQ_V_STR, .n = (uint32_t)(s.n - end), .s = s.s + end};
        i = (size_t)(tpl_strip(r, rest, ABSENT, STRIP_LEFT).s - s.s);
        if (p->n > max) break;
    }
}

static void split_words_right(Run *r, PfqVal s, int64_t max, Parts *p)
{
    s = tpl_strip(r, s, ABSENT, STRIP_RIGHT);
    while (s.n && !r->bad) {
        size_t at = s.n, begin = s.n;
        if (p->n == max) at = 0;
        while (p->n < max && at > 0 && !tpl_is_space(char_before(s, at, &begin)))
            at = begin;
        const bool last = p->n == max;
        add_part(r, p, s.s + at, s.n - at);
        if (last) break;
        s = tpl_strip(r, pfq_val_str(s.s, at), ABSENT, STRIP_RIGHT);
    }
}

static void split_at(Run *r, PfqVal s, PfqVal sep, int64_t max, Parts *p)
{
    size_t from = 0, at;
    while (p->n < max && (at = tpl_find(r, s, sep, from)) <= s.n && !r->bad) {
        add_part(r, p, s.s + from, at - from);
        from = at + sep.n;
    }
    add_part(r, p, s.s + from, s.n - from);
}

static void split_at_right(Run *r, PfqVal s, PfqVal sep, int64_t max, Parts *p)
{
    size_t end = s.n;
    for (size_t at = end; p->n < max && at-- > 0 && tpl_charge(r, at % 16 == 0);) {
        if (at + sep.n > end || memcmp(s.s + at, sep.s, sep.n) != 0) continue;
        add_part(r, p, s.s + at + sep.n, end - at - sep.n);
        end = at;
    }
    add_part(r, p, s.s, end);
}

PfqVal tpl_split(Run *r, PfqVal s, PfqVal sep, int64_t max, bool right)
{
    Parts p = {0};
    if (max < 0) max = INT64_MAX;
    if (!given(sep) || sep.kind == PFQ_V_NONE)
        (right ? split_words_right : split_words)(r, s, max, &p);
    else if (sep.kind != PFQ_V_STR || sep.n == 0)
        tpl_fail(r, "a string cannot be split at %s", sep.kind == PFQ_V_STR ? "''" : tpl_kind(sep));
    else
        (right ? split_at_right : split_at)(r, s, sep, max, &p);
    for (uint32_t i = 0; right && i < p.n / 2; i++) {
        const PfqVal v = p.at[i];
        p.at[i] = p.at[p.n - 1 - i];
        p.at[p.n - 1 - i] = v;
    }
    return list_of(p.at, p.n);
}

static bool breaks_line(uint32_t c)
{
    return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
}

PfqVal tpl_splitlines(Run *r, PfqVal s, bool keep)
{
    Parts p = {0};
    size_t from = 0;
    for (size_t i = 0; i < s.n && tpl_charge(r, i % 16 == 0);) {
        const size_t at = i;
        const uint32_t c = pfq_utf8_next(s.s, s.n, &i);
        if (!breaks_line(c)) continue;
        if (c == '\r' && i < s.n && s.s[i] == '\n') i++;
        add_part(r, &p, s.s + from, (keep ? i : at) - from);
        from = i;
    }
    if (from < s.n) add_part(r, &p, s.s + from, s.n - from);
    return list_of(p.at, p.n);
}

PfqVal tpl_escape(Run *r, PfqVal s)
{
    static const char special[] = "&<>'\"";
    static const char *const names[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    const size_t from = r->n;
    for (uint32_t i = 0; i < s.n && tpl_charge(r, i % 16 == 0); i++) {
        const char *at = s.s[i] ? strchr(special, s.s[i]) : NULL;
        if (at)
            tpl_put(r, names[at - special], strlen(names[at - special]));
        else
            tpl_put(r, s.s + i, 1);
    }
    return tpl_take(r, from);
}

PfqVal tpl_indent(Run *r, PfqVal s, PfqVal by, bool first, bool blank)
{
    const size_t from = r->n;
    const PfqVal lines = tpl_splitlines(r, s, false);
    if (first) tpl_put(r, by.s, by.n);
    for (uint32_t i = 0; i < lines.n && tpl_charge(r, 1); i++) {
        if (i) tpl_put(r, "\n", 1);
        if (i && (lines.at[i].n || blank)) tpl_put(r, by.s, by.n);
        tpl_put(r, lines.at[i].s, lines.at[i].n);
    }
    /* splitlines drops a last line end, Jinja keeps it */
    const PfqVal last = s.n ? tpl_splitlines(r, pfq_val_str(s.s + s.n - 1, 1), false) : s;
    if (s.n && last.n && last.at[0].n == 0) {
        tpl_put(r, "\n", 1);
        if (blank) tpl_put(r, by.s, by.n);
    }
    return tpl_take(r, from);
}
