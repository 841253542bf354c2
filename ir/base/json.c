#include "ir/base/json.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- strict scanner ---- */

typedef JsonPull Scan;

static bool bad(Scan *s, const char *at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static bool bad(Scan *s, const char *at, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    Loc loc = {.src = s->src, .off = (size_t)(at - s->src->text), .len = 1};
    return diag_error(s->d, E_JSON_SYNTAX, loc, "%s", text);
}

static void skip_space(Scan *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\t' || *s->p == '\n' || *s->p == '\r'))
        s->p++;
}

static const char *found(const Scan *s)
{
    static char text[32];
    if (s->p >= s->end) return "the end of the file";
    u8 c = (u8)*s->p;
    snprintf(text, sizeof text, c > 32 && c < 127 ? "'%c'" : "byte 0x%02x", c);
    return text;
}

static bool scan_hex4(Scan *s, u32 *out)
{
    *out = 0;
    for (int i = 0; i < 4; i++, s->p++) {
        if (s->p >= s->end) return bad(s, s->p, "unfinished \\u escape");
        char c = *s->p;
        u32 v = c >= '0' && c <= '9'                 ? (u32)(c - '0')
                : (c | 32) >= 'a' && (c | 32) <= 'f' ? (u32)((c | 32) - 'a' + 10)
                                                     : 99;
        if (v == 99) return bad(s, s->p, "\\u needs four hexadecimal digits, found %s", found(s));
        *out = *out * 16 + v;
    }
    return true;
}

static bool scan_escape(Scan *s)
{
    const char *at = s->p++;
    if (s->p >= s->end) return bad(s, at, "unfinished string");
    char c = *s->p++;
    if (c != 'u')
        return (c && strchr("\"\\/bfnrt", c)) ||
               bad(s, at, "unknown escape '\\%c'", c > 32 ? c : '?');
    u32 hi, lo;
    if (!scan_hex4(s, &hi)) return false;
    if (hi == 0) return bad(s, at, "strings may not hold NUL characters");
    if (hi >= 0xdc00 && hi < 0xe000)
        return bad(s, at, "a low surrogate without its high surrogate");
    if (hi < 0xd800 || hi >= 0xdc00) return true;
    if (s->end - s->p < 6 || s->p[0] != '\\' || s->p[1] != 'u')
        return bad(s, at, "a high surrogate without its low surrogate");
    s->p += 2;
    if (!scan_hex4(s, &lo)) return false;
    return (lo >= 0xdc00 && lo < 0xe000) ? true
                                         : bad(s, at, "a high surrogate without its low surrogate");
}

static bool scan_string(Scan *s)
{
    const char *start = s->p++;
    for (;;) {
        if (s->p >= s->end) return bad(s, start, "unfinished string");
        u8 c = (u8)*s->p;
        if (c == '"') {
            s->p++;
            return true;
        }
        if (c < 0x20) return bad(s, s->p, "control character 0x%02x in a string", c);
        if (c == '\\') {
            if (!scan_escape(s)) return false;
        } else
            s->p++;
    }
}

static bool scan_number(Scan *s)
{
    const char *start = s->p;
    if (*s->p == '-') s->p++;
    const char *digits = s->p;
    while (s->p < s->end && *s->p >= '0' && *s->p <= '9')
        s->p++;
    if (s->p == digits) return bad(s, s->p, "a number needs a digit here, found %s", found(s));
    if (*digits == '0' && s->p - digits > 1) return bad(s, digits, "a number may not start with 0");
    if (s->p < s->end && *s->p == '.') {
        const char *frac = ++s->p;
        while (s->p < s->end && *s->p >= '0' && *s->p <= '9')
            s->p++;
        if (s->p == frac)
            return bad(s, s->p, "a digit must follow the decimal point, found %s", found(s));
    }
    if (s->p < s->end && (*s->p | 32) == 'e') {
        s->p++;
        if (s->p < s->end && (*s->p == '+' || *s->p == '-')) s->p++;
        const char *e = s->p;
        while (s->p < s->end && *s->p >= '0' && *s->p <= '9')
            s->p++;
        if (s->p == e) return bad(s, s->p, "an exponent needs a digit, found %s", found(s));
    }
    if (s->p - start > JSON_MAX_NUMBER)
        return bad(s, start, "a number of more than %d characters", JSON_MAX_NUMBER);
    double v;
    if (!str_to_f64((Str){start, (size_t)(s->p - start)}, &v))
        return bad(s, start, "the number does not fit a double");
    return true;
}

static bool scan_value(Scan *s, int depth);

static bool scan_members(Scan *s, int depth, char close)
{
    s->p++;
    skip_space(s);
    if (s->p < s->end && *s->p == close) {
        s->p++;
        return true;
    }
    for (;;) {
        skip_space(s);
        if (close == '}') {
            if (s->p >= s->end || *s->p != '"')
                return bad(s, s->p, "expected a key in quotes, found %s", found(s));
            if (!scan_string(s)) return false;
            skip_space(s);
            if (s->p >= s->end || *s->p != ':')
                return bad(s, s->p, "expected ':' after the key, found %s", found(s));
            s->p++;
        }
        if (!scan_value(s, depth + 1)) return false;
        skip_space(s);
        if (s->p < s->end && *s->p == close) {
            s->p++;
            return true;
        }
        if (s->p >= s->end || *s->p != ',')
            return bad(s, s->p, "expected ',' or '%c', found %s", close, found(s));
        s->p++;
    }
}

static bool scan_value(Scan *s, int depth)
{
    skip_space(s);
    if (s->p >= s->end) return bad(s, s->p, "expected a value, found the end of the file");
    if (depth >= JSON_MAX_DEPTH) return bad(s, s->p, "nesting deeper than %d", JSON_MAX_DEPTH);
    const char *start = s->p;
    u32 me = s->off.n;
    vec_push(s->a, &s->off, (u32)(start - s->src->text));
    vec_push(s->a, &s->len, 0);
    static const char *const words[] = {"true", "false", "null"};
    bool ok = false;
    char c = *s->p;
    if (c == '{')
        ok = scan_members(s, depth, '}');
    else if (c == '[')
        ok = scan_members(s, depth, ']');
    else if (c == '"')
        ok = scan_string(s);
    else if (c == '-' || (c >= '0' && c <= '9'))
        ok = scan_number(s);
    else {
        for (size_t i = 0; i < 3 && !ok; i++) {
            size_t n = strlen(words[i]);
            if ((size_t)(s->end - s->p) >= n && memcmp(s->p, words[i], n) == 0)
                s->p += n, ok = true;
        }
        if (!ok) return bad(s, s->p, "expected a value, found %s", found(s));
    }
    s->len.at[me] = (u32)(s->p - start);
    return ok;
}

/* ---- pull reader ---- */

bool json_pull_init(JsonPull *j, Diag *d, Arena *a, const Source *src)
{
    *j = (JsonPull){.d = d, .a = a, .src = src, .p = src->text, .end = src->text + src->n};
    if (src->n > UINT32_MAX)
        return diag_error(d, E_LIMIT, (Loc){.src = src}, "a JSON document of more than 4 GiB");
    size_t valid = utf8_prefix((Str){src->text, src->n});
    return valid == src->n || bad(j, src->text + valid, "the file is not valid UTF-8");
}

bool json_pull_end(JsonPull *j)
{
    skip_space(j);
    return j->p == j->end || bad(j, j->p, "expected the end of the file, found %s", found(j));
}

bool json_pull_peek(JsonPull *j, JsonKind *kind, Loc *loc)
{
    skip_space(j);
    char c = j->p < j->end ? *j->p : 0;
    *loc = (Loc){.src = j->src, .off = (size_t)(j->p - j->src->text), .len = 1};
    if (c == '{')
        *kind = JSON_OBJECT;
    else if (c == '[')
        *kind = JSON_ARRAY;
    else if (c == '"')
        *kind = JSON_STRING;
    else if (c == 't' || c == 'f')
        *kind = JSON_BOOL;
    else if (c == 'n')
        *kind = JSON_NULL;
    else if (c == '-' || (c >= '0' && c <= '9'))
        *kind = JSON_NUMBER;
    else
        return bad(j, j->p, "expected a value, found %s", found(j));
    return true;
}

bool json_pull_more(JsonPull *j, bool first, char close, bool *more)
{
    skip_space(j);
    *more = !(j->p < j->end && *j->p == close);
    if (!*more) return j->p++, true;
    if (first) return true;
    if (j->p >= j->end || *j->p != ',')
        return bad(j, j->p, "expected ',' or '%c', found %s", close, found(j));
    j->p++;
    return true;
}

static void put_utf8(char **out, u32 c)
{
    char *o = *out;
    if (c < 0x80)
        *o++ = (char)c;
    else if (c < 0x800)
        *o++ = (char)(0xc0 | c >> 6), *o++ = (char)(0x80 | (c & 63));
    else if (c < 0x10000)
        *o++ = (char)(0xe0 | c >> 12), *o++ = (char)(0x80 | (c >> 6 & 63)),
        *o++ = (char)(0x80 | (c & 63));
    else
        *o++ = (char)(0xf0 | c >> 18), *o++ = (char)(0x80 | (c >> 12 & 63)),
        *o++ = (char)(0x80 | (c >> 6 & 63)), *o++ = (char)(0x80 | (c & 63));
    *out = o;
}

/* The text between the quotes of a string that scan_string accepted; decoding never makes it
 * longer. */
static Str unescape(Scan *s, Str raw)
{
    if (!memchr(raw.p, '\\', raw.n)) return raw;
    char *start = arena_alloc(s->a, raw.n + 1, 1, 1), *o = start;
    Scan in = {.d = s->d, .a = s->a, .src = s->src, .p = raw.p, .end = raw.p + raw.n};
    while (in.p < in.end) {
        char c = *in.p++;
        if (c == '\\') {
            static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
            c = *in.p++;
            const char *at = strchr(from, c);
            u32 hi, lo;
            if (c != 'u')
                *o++ = at ? to[at - from] : c;
            else if (scan_hex4(&in, &hi)) {
                if (hi >= 0xd800 && hi < 0xdc00) {
                    in.p += 2;
                    if (scan_hex4(&in, &lo)) hi = 0x10000 + ((hi - 0xd800) << 10) + (lo - 0xdc00);
                }
                put_utf8(&o, hi);
            }
        } else
            *o++ = c;
    }
    return (Str){start, (size_t)(o - start)};
}

bool json_pull_str(JsonPull *j, Str *out, Loc *loc)
{
    skip_space(j);
    const char *start = j->p;
    if (start >= j->end || *start != '"')
        return bad(j, start, "expected a string in quotes, found %s", found(j));
    if (!scan_string(j)) return false;
    *loc =
        (Loc){.src = j->src, .off = (size_t)(start - j->src->text), .len = (size_t)(j->p - start)};
    *out = unescape(j, (Str){start + 1, loc->len - 2});
    return true;
}

bool json_pull_key(JsonPull *j, Str *out, Loc *loc)
{
    if (!json_pull_str(j, out, loc)) return false;
    skip_space(j);
    if (j->p >= j->end || *j->p != ':')
        return bad(j, j->p, "expected ':' after the key, found %s", found(j));
    j->p++;
    return true;
}

bool json_pull_number(JsonPull *j, Str *out, Loc *loc)
{
    skip_space(j);
    const char *start = j->p;
    if (start >= j->end) return bad(j, start, "expected a number, found the end of the file");
    if (!scan_number(j)) return false;
    *out = (Str){start, (size_t)(j->p - start)};
    *loc = (Loc){.src = j->src, .off = (size_t)(start - j->src->text), .len = out->n};
    return true;
}

/* ---- cJSON tree -> Json tree ---- */

static u32 count(const cJSON *c)
{
    u32 n = 0;
    for (const cJSON *e = c->child; e; e = e->next)
        n++;
    return n;
}

static bool dup_key(Scan *s, const Json *parent, Str key)
{
    Loc loc = {.src = s->src, .off = parent->off, .len = 1};
    return diag_error(s->d, E_JSON_SYNTAX, loc, "the key \"%.*s\" appears twice in this object",
                      (int)(key.n < 80 ? key.n : 80), key.p);
}

static bool convert(Scan *s, const cJSON *c, Json *out, u32 *next)
{
    u32 me = (*next)++;
    *out = (Json){.off = s->off.at[me], .len = s->len.at[me]};
    if (cJSON_IsString(c)) {
        size_t n = strlen(c->valuestring);
        out->kind = JSON_STRING;
        out->str = (Str){arena_strdup(s->a, c->valuestring, n), n};
        return true;
    }
    if (cJSON_IsNumber(c)) {
        Str text = {s->src->text + out->off, out->len};
        out->kind = JSON_NUMBER;
        out->is_int = str_to_i64(text, &out->i);
        (void)str_to_f64(text, &out->num);
        return true;
    }
    if (cJSON_IsBool(c)) {
        out->kind = JSON_BOOL;
        out->b = cJSON_IsTrue(c);
        return true;
    }
    if (cJSON_IsNull(c)) return true;
    bool object = cJSON_IsObject(c);
    out->kind = object ? JSON_OBJECT : JSON_ARRAY;
    out->n = count(c);
    Json *at = NEWN(s->a, Json, out->n);
    Str *key = object ? NEWN(s->a, Str, out->n) : NULL;
    Map *map = object && out->n > 8 ? NEW(s->a, Map) : NULL;
    if (map) map->a = s->a;
    out->at = at, out->key = key, out->map = map;
    u32 i = 0;
    for (const cJSON *e = c->child; e; e = e->next, i++) {
        if (object) {
            size_t n = strlen(e->string);
            bool added = true;
            key[i] = (Str){arena_strdup(s->a, e->string, n), n};
            if (map)
                *map_put(map, key[i], &added) = i;
            else
                for (u32 j = 0; j < i; j++)
                    added &= !str_eq(key[i], key[j]);
            if (!added) return dup_key(s, out, key[i]);
        }
        if (!convert(s, e, &at[i], next)) return false;
    }
    return true;
}

const Json *json_parse(Diag *d, Arena *a, const Source *src)
{
    Scan s;
    if (!json_pull_init(&s, d, a, src)) return NULL;
    if (!scan_value(&s, 0)) return NULL;
    if (!json_pull_end(&s)) return NULL;
    cJSON *c = cJSON_ParseWithLength(src->text, src->n);
    if (!c) {
        bad(&s, src->text, "the JSON library refused the document");
        return NULL;
    }
    Json *root = NEW(a, Json);
    u32 next = 0;
    bool ok = convert(&s, c, root, &next);
    cJSON_Delete(c);
    return ok ? root : NULL;
}

const Json *json_get(const Json *obj, const char *key)
{
    if (!obj || obj->kind != JSON_OBJECT) return NULL;
    if (obj->map) {
        const u32 *i = map_get(obj->map, str_c(key));
        return i ? &obj->at[*i] : NULL;
    }
    for (u32 i = 0; i < obj->n; i++)
        if (str_is(obj->key[i], key)) return &obj->at[i];
    return NULL;
}

const char *json_kind_name(JsonKind k)
{
    static const char *const names[] = {"null",     "a boolean", "a number",
                                        "a string", "an array",  "an object"};
    return names[k];
}

Loc json_loc(const Source *src, const Json *v)
{
    return (Loc){.src = src, .off = v->off, .len = v->len};
}

const Json *json_need(Diag *d, const Source *src, const Json *obj, const char *key, JsonKind kind)
{
    const Json *v = json_get(obj, key);
    if (!v) {
        Loc loc = {.src = src, .off = obj->off, .len = 1};
        diag_error(d, E_JSON_MISSING, loc, "the key \"%s\" is missing", key);
        return NULL;
    }
    if (v->kind != kind) {
        diag_error(d, E_JSON_TYPE, json_loc(src, v), "\"%s\" is %s, expected %s", key,
                   json_kind_name(v->kind), json_kind_name(kind));
        return NULL;
    }
    return v;
}

bool json_need_int(Diag *d, const Source *src, const Json *obj, const char *key, i64 lo, i64 hi,
                   i64 *out)
{
    const Json *v = json_need(d, src, obj, key, JSON_NUMBER);
    if (!v) return false;
    if (!v->is_int || v->i < lo || v->i > hi)
        return diag_error(d, E_JSON_VALUE, json_loc(src, v),
                          "\"%s\" is %.*s, expected an integer from %lld to %lld", key, (int)v->len,
                          src->text + v->off, (long long)lo, (long long)hi);
    *out = v->i;
    return true;
}

bool json_only(Diag *d, const Source *src, const Json *obj, const char *const *names, size_t n)
{
    bool ok = true;
    for (u32 i = 0; i < obj->n; i++) {
        bool known = false;
        for (size_t k = 0; k < n && !known; k++)
            known = str_is(obj->key[i], names[k]);
        if (known) continue;
        Loc loc = json_loc(src, &obj->at[i]);
        ok = diag_error(d, E_JSON_UNKNOWN, loc, "unknown key \"%.*s\"", STRF(obj->key[i]));
        const char *near = str_nearest(obj->key[i], names, n);
        if (near) diag_hint(d, "did you mean \"%s\"?", near);
    }
    return ok;
}

void sb_json_str(StrBuf *b, Str s)
{
    sb_ch(b, '"');
    for (size_t i = 0; i < s.n; i++) {
        u8 c = (u8)s.p[i];
        if (c == '"' || c == '\\')
            sb_ch(b, '\\'), sb_ch(b, (char)c);
        else if (c == '\n')
            sb_str(b, "\\n");
        else if (c < 0x20)
            sb_printf(b, "\\u%04x", c);
        else
            sb_ch(b, (char)c);
    }
    sb_ch(b, '"');
}
