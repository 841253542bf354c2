/* JSON with positions, over cJSON.
 *
 * cJSON parses; a scanner of our own runs first over the same text, because cJSON is laxer than RFC
 * 8259 (it truncates strings at \u0000, keeps duplicate keys, reads numbers of any length as
 * doubles) and keeps no positions. The scanner refuses what the rules below forbid and records
 * where every value starts, in the order in which cJSON stores them. Lookups are hashed and
 * case-sensitive. Refused: NUL in strings, lone surrogates, invalid UTF-8, duplicate keys, nesting
 * > 128, numbers > 511 bytes or beyond a double, anything after the document. Integers are exact up
 * to 64 bits.
 */
#ifndef PFQC_IR_BASE_JSON_H
#define PFQC_IR_BASE_JSON_H

#include "ir/base/diag.h"

typedef enum JsonKind {
    JSON_NULL,
    JSON_BOOL,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT
} JsonKind;

typedef struct Json Json;
struct Json {
    JsonKind kind;
    u32 off, len;   /* byte range of the value in its source */
    bool b, is_int; /* JSON_BOOL; number is an integer that fits i64 */
    double num;
    i64 i;
    Str str;        /* decoded, NUL-terminated in memory */
    u32 n;          /* elements or members */
    const Json *at; /* [n] elements or member values */
    const Str *key; /* [n] member names */
    const Map *map; /* name -> index, for objects of more than 8 members */
};

enum { JSON_MAX_DEPTH = 128, JSON_MAX_NUMBER = 511 };

/* NULL after a diagnostic (E_JSON_SYNTAX). Sources are limited to 4 GiB. */
const Json *json_parse(Diag *d, Arena *a, const Source *src);
const Json *json_get(const Json *obj, const char *key); /* NULL if absent or obj is not an object */
const char *json_kind_name(JsonKind k);
Loc json_loc(const Source *src, const Json *v);

/* Typed access with diagnostics: key absent -> E_JSON_MISSING; other type -> E_JSON_TYPE. */
const Json *json_need(Diag *d, const Source *src, const Json *obj, const char *key, JsonKind kind);
bool json_need_int(Diag *d, const Source *src, const Json *obj, const char *key, i64 lo, i64 hi,
                   i64 *out);
/* Reports every member whose name is not in names[0..n) (E_JSON_UNKNOWN, with the nearest name as a
 * hint). */
bool json_only(Diag *d, const Source *src, const Json *obj, const char *const *names, size_t n);

/* Pull reader: the same rules without a tree, for documents whose shape is fixed and which may be
 * huge. The caller asks for what must come next; a syntax error is reported (E_JSON_SYNTAX) and
 * false returned. Duplicate keys are the caller's to find, and there is no depth: it has none
 * beyond its own calls. A value must be read before the next json_pull_more. After peek said '{' or
 * '[', skip that character by j->p++ and loop: for (u32 i = 0;; i++) { if (!json_pull_more(j, i ==
 * 0, '}', &more)) return false; if (!more) break; ... } */
typedef struct JsonPull {
    Diag *d;
    Arena *a;
    const Source *src;
    const char *p, *end;
    VEC(u32) off, len; /* json_parse: of every value, in preorder */
} JsonPull;

bool json_pull_init(JsonPull *j, Diag *d, Arena *a,
                    const Source *src); /* also checks UTF-8 and size */
bool json_pull_end(JsonPull *j);        /* nothing may follow */
bool json_pull_peek(JsonPull *j, JsonKind *kind,
                    Loc *loc); /* kind of the next value, by its first byte */
bool json_pull_more(JsonPull *j, bool first, char close, bool *more);
bool json_pull_key(JsonPull *j, Str *out,
                   Loc *loc); /* and the ':'; a view into the text unless it has escapes */
bool json_pull_str(JsonPull *j, Str *out, Loc *loc);
bool json_pull_number(JsonPull *j, Str *out, Loc *loc); /* its text */

void sb_json_str(StrBuf *b, Str s); /* quoted and escaped */

#endif
