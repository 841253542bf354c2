/* Strings: a byte-range view, a builder, and a map from strings or numbers to u32. */
#ifndef PFQC_IR_BASE_STR_H
#define PFQC_IR_BASE_STR_H

#include "ir/base/arena.h"

#include <string.h>

typedef struct Str { /* not terminated, may hold NULs; never owns */
    const char *p;
    size_t n;
} Str;

#define STR(lit) ((Str){(lit), sizeof(lit) - 1})
#define STRF(s)  (int)(s).n, (s).p /* for "%.*s" */

static inline Str str_c(const char *s)
{
    return (Str){s, strlen(s)};
}
static inline bool str_eq(Str a, Str b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}
static inline bool str_is(Str a, const char *b)
{
    return str_eq(a, str_c(b));
}
static inline bool str_starts(Str a, const char *b)
{
    size_t n = strlen(b);
    return a.n >= n && memcmp(a.p, b, n) == 0;
}
bool utf8_valid(Str s);
size_t utf8_prefix(Str s); /* bytes before the first that is not valid UTF-8 */

/* Builder: grows in an arena; sb.p is always NUL-terminated after the first append. */
typedef struct StrBuf {
    Arena *a;
    char *p;
    size_t n, cap;
} StrBuf;

void sb_add(StrBuf *b, const char *s, size_t n);
void sb_str(StrBuf *b, const char *s);
void sb_ch(StrBuf *b, char c);
void sb_printf(StrBuf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Shortest decimal form that reads back as the same double / float; locale-independent. */
void sb_f64(StrBuf *b, double v);
void sb_f32(StrBuf *b, float v);
/* Locale-independent strtod over s; false unless all of s is one finite number. */
bool str_to_f64(Str s, double *out);
bool str_to_i64(Str s, i64 *out);

/* Closest of n names to s (edit distance), or NULL if nothing is near: for "did you mean". */
const char *str_nearest(Str s, const char *const *names, size_t n);

/* Hash map from byte strings (or u64) to u32; keys are copied into the arena. Iteration is by
 * insertion. */
typedef struct Map {
    Arena *a;
    u32 *slot; /* index+1 into entries, 0 = empty */
    u32 mask;
    VEC(struct MapEntry {
        Str key;
        u64 hash;
        u32 val;
    })
    entries;
} Map;

u32 *map_put(Map *m, Str key, bool *added); /* value slot of key, 0 when just added */
const u32 *map_get(const Map *m, Str key);  /* NULL if absent */
u64 hash_bytes(const void *p, size_t n);    /* 64-bit, fixed seed: same on every machine */

#endif
