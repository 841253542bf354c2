/* The JSON reader. Contract: json.h. */
#include "runtime/json.h"

#include "runtime/unicode.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Reader {
    char *p, *end; /* *end is NUL, which no value holds */
    PfqJson *node;
    uint32_t cap, n;
    PfqJson *open[PFQ_JSON_DEPTH]; /* containers around p */
    int depth;
    PfqErr *err;
} Reader;

static bool expected(const Reader *r, const char *what)
{
    unsigned char c = (unsigned char)*r->p;
    if (r->p == r->end) {
        return pfq_fail(r->err, "expected %s, found the end", what);
    }
    return c > 0x20 && c < 0x7f ? pfq_fail(r->err, "expected %s, found '%c'", what, c)
                                : pfq_fail(r->err, "expected %s, found byte 0x%02x", what, c);
}

static void skip_space(Reader *r)
{
    while (*r->p == ' ' || *r->p == '\n' || *r->p == '\r' || *r->p == '\t') {
        r->p++;
    }
}

static PfqJson *add(Reader *r, PfqJsonType type)
{
    if (r->n == r->cap) {
        pfq_fail(r->err, "more than %u values", r->cap);
        return NULL;
    }
    PfqJson *v = &r->node[r->n++];
    *v = (PfqJson){.type = (uint8_t)type, .span = 1};
    return v;
}

/* ---- strings ---- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* The four digits at p + 2 of an escape \uXXXX; p stays if there are none. */
static bool unicode_escape(Reader *r, uint32_t *unit)
{
    *unit = 0;
    for (int i = 2; i < 6; i++) {
        int digit = hex_digit(r->p[i]); /* stops at the NUL behind the text */
        if (digit < 0) {
            return pfq_fail(r->err, "expected four hexadecimal digits after \\u");
        }
        *unit = *unit << 4 | (uint32_t)digit;
    }
    r->p += 6;
    return true;
}

/* At a backslash: the character it stands for, U+0000 to U+10FFFF. */
static bool escape(Reader *r, uint32_t *c)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char *start = r->p;
    const char *known = r->p[1] ? strchr(from, r->p[1]) : NULL;
    if (known) {
        *c = (unsigned char)to[known - from];
        r->p += 2;
        return true;
    }
    if (r->p[1] != 'u') {
        r->p++;
        return expected(r, "one of \"\\/bfnrtu after a backslash");
    }
    if (!unicode_escape(r, c)) {
        return false;
    }
    if (*c < 0xd800 || *c > 0xdfff) {
        return true;
    }
    uint32_t low = 0;
    if (*c < 0xdc00 && r->p[0] == '\\' && r->p[1] == 'u' && !unicode_escape(r, &low)) {
        return false;
    }
    if (low < 0xdc00 || low > 0xdfff) {
        r->p = start;
        return pfq_fail(r->err, "half a surrogate pair is no character");
    }
    *c = 0x10000 + ((*c - 0xd800) << 10) + (low - 0xdc00);
    return true;
}

static bool string(Reader *r)
{
    PfqJson *v = add(r, PFQ_JSON_STRING);
    if (!v) {
        return false;
    }
    char *out = ++r->p;
    v->s = out;
    while (*r->p != '"') {
        unsigned char byte = (unsigned char)*r->p;
        uint32_t c = byte;
        if (byte == '\\') {
            if (!escape(r, &c)) {
                return false;
            }
            out += pfq_utf8_put(c, out);
        } else if (byte < 0x20) {
            return expected(r, "'\"' or an escape");
        } else if (byte < 0x80) {
            *out++ = *r->p++;
        } else {
            size_t len = 0;
            c = pfq_utf8_next(r->p, (size_t)(r->end - r->p), &len);
            if (c & PFQ_UC_BAD) {
                return expected(r, "UTF-8");
            }
            memmove(out, r->p, len);
            out += len;
            r->p += len;
        }
    }
    r->p++;
    *out = 0; /* at the closing quote or before */
    v->n = (uint32_t)(out - v->s);
    return true;
}

/* ---- numbers ---- */

static bool digits(Reader *r)
{
    char *start = r->p;
    while (*r->p >= '0' && *r->p <= '9') {
        r->p++;
    }
    return r->p > start || expected(r, "a digit");
}

/* The digits at `s` as an integer. False if there are too many, or for -0. */
static bool exact(const char *s, const char *end, int64_t *out)
{
    bool negative = *s == '-';
    int64_t v = 0;
    for (s += negative; s < end; s++) {
        int digit = *s - '0';
        if (__builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, negative ? -digit : digit, &v)) {
            return false;
        }
    }
    *out = v;
    return v != 0 || !negative;
}

static bool number(Reader *r)
{
    char *start = r->p;
    PfqJson *v = add(r, PFQ_JSON_INT);
    bool whole = true;
    if (!v) {
        return false;
    }
    r->p += *r->p == '-';
    if (*r->p == '0') {
        r->p++;
    } else if (!digits(r)) {
        return false;
    }
    if (*r->p == '.') {
        whole = false;
        r->p++;
        if (!digits(r)) {
            return false;
        }
    }
    if (*r->p == 'e' || *r->p == 'E') {
        whole = false;
        r->p++;
        r->p += *r->p == '+' || *r->p == '-';
        if (!digits(r)) {
            return false;
        }
    }
    if (whole && exact(start, r->p, &v->i)) {
        return true;
    }
    v->type = PFQ_JSON_REAL;
    v->d = strtod(start, NULL);
    if (!isfinite(v->d)) {
        r->p = start;
        return pfq_fail(r->err, "the number is too large");
    }
    return true;
}

/* ---- values ---- */

static bool word(Reader *r, const char *text, PfqJsonType type)
{
    size_t n = strlen(text);
    if (strncmp(r->p, text, n) != 0) {
        return expected(r, "a value");
    }
    PfqJson *v = add(r, type);
    if (!v) {
        return false;
    }
    v->b = *text == 't';
    r->p += n;
    return true;
}

static bool open_container(Reader *r, PfqJsonType type)
{
    if (r->depth == PFQ_JSON_DEPTH) {
        return pfq_fail(r->err, "values nested deeper than %d", PFQ_JSON_DEPTH);
    }
    PfqJson *v = add(r, type);
    if (!v) {
        return false;
    }
    r->open[r->depth++] = v;
    r->p++;
    return true;
}

/* A scalar, or the start of a container. */
static bool value(Reader *r)
{
    skip_space(r);
    switch (*r->p) {
    case '{': return open_container(r, PFQ_JSON_OBJECT);
    case '[': return open_container(r, PFQ_JSON_ARRAY);
    case '"': return string(r);
    case 't': return word(r, "true", PFQ_JSON_BOOL);
    case 'f': return word(r, "false", PFQ_JSON_BOOL);
    case 'n': return word(r, "null", PFQ_JSON_NULL);
    case '-': return number(r);
    default: return *r->p >= '0' && *r->p <= '9' ? number(r) : expected(r, "a value");
    }
}

static bool name_and_colon(Reader *r)
{
    skip_space(r);
    if (*r->p != '"') {
        return expected(r, "a name in quotes");
    }
    if (!string(r)) {
        return false;
    }
    skip_space(r);
    if (*r->p != ':') {
        return expected(r, "':'");
    }
    r->p++;
    return true;
}

/* Closes the containers that end here and reads up to the next value; *more: there is one. */
static bool up_to_value(Reader *r, bool *more)
{
    for (;;) {
        skip_space(r);
        *more = r->depth > 0;
        if (!*more) {
            return r->p == r->end || expected(r, "the end");
        }
        PfqJson *in = r->open[r->depth - 1];
        const bool object = in->type == PFQ_JSON_OBJECT;
        if (*r->p != (object ? '}' : ']')) {
            if (in->n > 0 && *r->p != ',') {
                return expected(r, object ? "',' or '}'" : "',' or ']'");
            }
            r->p += in->n > 0;
            in->n++;
            return !object || name_and_colon(r);
        }
        in->span = (uint32_t)(&r->node[r->n] - in);
        r->p++;
        r->depth--;
    }
}

bool pfq_json_parse(char *text, size_t n, PfqJson *nodes, uint32_t cap, size_t *at, PfqErr *err)
{
    Reader r = {.p = text, .end = text + n, .node = nodes, .cap = cap, .err = err};
    *r.end = 0;
    bool ok = n < UINT32_MAX || pfq_fail(err, "4 GiB of JSON are too much"), more = true;
    while (ok && more) {
        ok = value(&r) && up_to_value(&r, &more);
    }
    *at = (size_t)(r.p - text);
    return ok;
}

/* ---- trees ---- */

const char *pfq_json_type_name(PfqJsonType type)
{
    static const char *const names[] = {"null",     "true or false", "an integer", "a number",
                                        "a string", "an array",      "an object"};
    return names[type];
}

double pfq_json_number(const PfqJson *v)
{
    return v->type == PFQ_JSON_INT ? (double)v->i : v->d;
}

static void type_names(unsigned types, char out[128])
{
    size_t n = 0;
    *out = 0;
    if ((types & PFQ_JSON_NUMBER) == PFQ_JSON_NUMBER) {
        types &= ~(1u << PFQ_JSON_INT);
    }
    for (unsigned t = 0; t <= PFQ_JSON_OBJECT; t++) {
        if (types & 1u << t) {
            const char *name = pfq_json_type_name((PfqJsonType)t);
            size_t len = strlen(name);
            memcpy(out + n, n ? " or " : "", n ? 4 : 0);
            memcpy(out + n + (n ? 4 : 0), name, len + 1);
            n += len + (n ? 4 : 0);
        }
    }
}

static bool take_field(const PfqJsonField *f, const PfqJson *v, PfqErr *err)
{
    char want[128];
    if (*f->value) {
        return pfq_fail(err, "\"%s\" is given twice", f->name);
    }
    if (!(f->types & 1u << v->type)) {
        type_names(f->types, want);
        return pfq_fail(err, "\"%s\" is %s, expected %s", f->name,
                        pfq_json_type_name((PfqJsonType)v->type), want);
    }
    *f->value = v;
    return true;
}

bool pfq_json_fields(const PfqJson *object, const PfqJsonField *fields, size_t n,
                     const PfqJson **unknown, PfqErr *err)
{
    const PfqJson *first = NULL, *name = object + 1;
    for (size_t i = 0; i < n; i++) {
        *fields[i].value = NULL;
    }
    if (object->type != PFQ_JSON_OBJECT) {
        return pfq_fail(err, "%s, expected an object",
                        pfq_json_type_name((PfqJsonType)object->type));
    }
    for (uint32_t m = 0; m < object->n; m++, name += 1 + name[1].span) {
        size_t i = 0;
        while (i < n && (strlen(fields[i].name) != name->n || /* names may hold NULs */
                         memcmp(fields[i].name, name->s, name->n) != 0)) {
            i++;
        }
        if (i == n) {
            first = first ? first : name;
        } else if (!take_field(&fields[i], name + 1, err)) {
            return false;
        }
    }
    if (unknown) {
        *unknown = first;
    }
    return true;
}

size_t pfq_json_escape(unsigned char c, char out[8])
{
    static const char from[] = "\"\\\n\r\t", to[] = "\"\\nrt";
    const char *known = c ? strchr(from, c) : NULL;
    if (known) {
        out[0] = '\\';
        out[1] = to[known - from];
        return 2;
    }
    if (c < 0x20) {
        return (size_t)snprintf(out, 8, "\\u%04x", c);
    }
    out[0] = (char)c;
    return 1;
}
