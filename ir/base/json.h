/* JSON with positions, over cJSON.
 *
 * cJSON parses; a scanner of our own runs first over the same text, because cJSON is laxer than RFC 8259 (it
 * truncates strings at \u0000, keeps duplicate keys, reads numbers of any length as doubles) and keeps no
 * positions. The scanner refuses what the rules below forbid and records where every value starts, in the order
 * in which cJSON stores them. Lookups are hashed and case-sensitive.
 * Refused: NUL in strings, lone surrogates, invalid UTF-8, duplicate keys, nesting > 128, numbers > 512 bytes or
 * beyond a double, anything after the document. Integers are exact up to 64 bits.
 */
#ifndef PFQC_IR_BASE_JSON_H
#define PFQC_IR_BASE_JSON_H

#include "ir/base/diag.h"

typedef enum JsonKind { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } JsonKind;

typedef struct Json Json;
struct Json {
    JsonKind kind;
    u32 off, len;    /* byte range of the value in its source */
    bool b, is_int;  /* JSON_BOOL; number is an integer that fits i64 */
    double num;
    i64 i;
    Str str;         /* decoded, NUL-terminated in memory */
    u32 n;           /* elements or members */
    const Json *at;  /* [n] elements or member values */
    const Str *key;  /* [n] member names */
    const Map *map;  /* name -> index, for objects of more than 8 members */
};

enum { JSON_MAX_DEPTH = 128, JSON_MAX_NUMBER = 512 };

/* NULL after a diagnostic (E_JSON_SYNTAX). Sources are limited to 4 GiB. */
const Json *json_parse(Diag *d, Arena *a, const Source *src);
const Json *json_get(const Json *obj, const char *key); /* NULL if absent or obj is not an object */
const char *json_kind_name(JsonKind k);
Loc json_loc(const Source *src, const Json *v);

/* Typed access with diagnostics: key absent -> E_JSON_MISSING; other type -> E_JSON_TYPE. */
const Json *json_need(Diag *d, const Source *src, const Json *obj, const char *key, JsonKind kind);
bool json_need_int(Diag *d, const Source *src, const Json *obj, const char *key, i64 lo, i64 hi, i64 *out);
/* Reports every member whose name is not in names[0..n) (E_JSON_UNKNOWN, with the nearest name as a hint). */
bool json_only(Diag *d, const Source *src, const Json *obj, const char *const *names, size_t n);

void sb_json_str(StrBuf *b, Str s); /* quoted and escaped */

#endif
