#include "ir/base/str.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

size_t utf8_prefix(Str s)
{
    size_t i = 0;
    while (i < s.n) {
        u8 c = (u8)s.p[i];
        size_t k = c < 0x80                ? 1
                   : c >= 0xc2 && c < 0xe0 ? 2
                   : c >= 0xe0 && c < 0xf0 ? 3
                   : c >= 0xf0 && c < 0xf5 ? 4
                                           : 0;
        if (!k || s.n - i < k) return i;
        u32 cp = k == 1 ? c : c & (0xffu >> (k + 1));
        for (size_t j = 1; j < k; j++) {
            u8 d = (u8)s.p[i + j];
            if ((d & 0xc0) != 0x80) return i;
            cp = cp << 6 | (d & 0x3f);
        }
        if ((k == 3 && cp < 0x800) || (k == 4 && cp < 0x10000) || cp > 0x10ffff ||
            (cp >= 0xd800 && cp < 0xe000))
            return i;
        i += k;
    }
    return i;
}

bool utf8_valid(Str s)
{
    return utf8_prefix(s) == s.n;
}

static void sb_room(StrBuf *b, size_t more)
{
    if (b->cap - b->n > more) return;
    size_t cap = b->cap ? b->cap * 2 : 256;
    while (cap - b->n <= more)
        cap *= 2;
    char *p = arena_alloc(b->a, cap, 1, 1);
    if (b->n) memcpy(p, b->p, b->n);
    b->p = p;
    b->cap = cap;
}

void sb_add(StrBuf *b, const char *s, size_t n)
{
    sb_room(b, n);
    if (n) memcpy(b->p + b->n, s, n);
    b->n += n;
    b->p[b->n] = 0;
}

void sb_str(StrBuf *b, const char *s)
{
    sb_add(b, s, strlen(s));
}
void sb_ch(StrBuf *b, char c)
{
    sb_add(b, &c, 1);
}

void sb_printf(StrBuf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    if (n < 0) BUG("bad format '%s'", fmt);
    sb_room(b, (size_t)n);
    vsnprintf(b->p + b->n, (size_t)n + 1, fmt, again);
    b->n += (size_t)n;
    va_end(again);
    va_end(ap);
}

/* The C locale, so that a user's decimal comma never reaches a dump or a number we parse. */
static locale_t c_locale(void)
{
    static locale_t loc;
    if (!loc) loc = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    return loc;
}

bool str_to_f64(Str s, double *out)
{
    char buf[512];
    if (s.n == 0 || s.n >= sizeof buf) return false;
    if (!(s.p[0] == '-' || s.p[0] == '.' || (s.p[0] >= '0' && s.p[0] <= '9'))) return false;
    memcpy(buf, s.p, s.n);
    buf[s.n] = 0;
    if (strpbrk(buf, "xXpPnN")) return false; /* no hex floats, no nan, no inf */
    char *end;
    double v = strtod_l(buf, &end, c_locale());
    if (end != buf + s.n || !isfinite(v)) return false;
    *out = v;
    return true;
}

bool str_to_i64(Str s, i64 *out)
{
    char buf[32];
    if (s.n == 0 || s.n >= sizeof buf) return false;
    if (!(s.p[0] == '-' || (s.p[0] >= '0' && s.p[0] <= '9'))) return false;
    memcpy(buf, s.p, s.n);
    buf[s.n] = 0;
    char *end;
    errno = 0;
    long long v = strtoll(buf, &end, 10);
    if (errno || end != buf + s.n) return false;
    *out = v;
    return true;
}

static void shortest(StrBuf *b, double v, bool single)
{
    char buf[64];
    locale_t old = uselocale(c_locale());
    for (int prec = 1; prec <= 17; prec++) {
        snprintf(buf, sizeof buf, "%.*g", prec, v);
        double back = strtod(buf, NULL);
        if (single ? (float)back == (float)v : back == v) break;
    }
    uselocale(old);
    sb_str(b, buf);
    if (!strpbrk(buf, ".ein")) sb_str(b, ".0"); /* a float always looks like one */
}

void sb_f64(StrBuf *b, double v)
{
    shortest(b, v, false);
}
void sb_f32(StrBuf *b, float v)
{
    shortest(b, (double)v, true);
}

const char *str_nearest(Str s, const char *const *names, size_t n)
{
    enum { MAX = 64 };
    const char *best = NULL;
    size_t best_d = s.n / 3 + 1;
    if (s.n >= MAX) return NULL;
    for (size_t k = 0; k < n; k++) {
        size_t m = strlen(names[k]), row[MAX + 1];
        if (m >= MAX) continue;
        for (size_t j = 0; j <= m; j++)
            row[j] = j;
        for (size_t i = 1; i <= s.n; i++) {
            size_t diag = row[0];
            row[0] = i;
            for (size_t j = 1; j <= m; j++) {
                size_t d = diag + (s.p[i - 1] != names[k][j - 1]);
                diag = row[j];
                if (row[j] + 1 < d) d = row[j] + 1;
                if (row[j - 1] + 1 < d) d = row[j - 1] + 1;
                row[j] = d;
            }
        }
        if (row[m] <= best_d) best_d = row[m] - (row[m] > 0), best = names[k];
    }
    return best;
}

u64 hash_bytes(const void *p, size_t n)
{
    const u8 *s = p;
    u64 h = 0x9e3779b97f4a7c15u ^ n;
    while (n >= 8) {
        u64 w;
        memcpy(&w, s, 8);
        h = (h ^ w) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
        s += 8, n -= 8;
    }
    for (; n; n--)
        h = (h ^ *s++) * 0xc4ceb9fe1a85ec53u;
    h ^= h >> 33;
    h *= 0xff51afd7ed558ccdu;
    return h ^ h >> 33;
}

static void map_grow(Map *m)
{
    u32 size = m->mask ? (m->mask + 1) * 2 : 16;
    m->slot = NEWN(m->a, u32, size);
    m->mask = size - 1;
    for (u32 i = 0; i < m->entries.n; i++) {
        u32 h = (u32)m->entries.at[i].hash & m->mask;
        while (m->slot[h])
            h = (h + 1) & m->mask;
        m->slot[h] = i + 1;
    }
}

const u32 *map_get(const Map *m, Str key)
{
    if (!m->mask) return NULL;
    u64 hash = hash_bytes(key.p, key.n);
    for (u32 h = (u32)hash & m->mask; m->slot[h]; h = (h + 1) & m->mask) {
        struct MapEntry *e = &m->entries.at[m->slot[h] - 1];
        if (e->hash == hash && str_eq(e->key, key)) return &e->val;
    }
    return NULL;
}

u32 *map_put(Map *m, Str key, bool *added)
{
    const u32 *old = map_get(m, key);
    if (added) *added = !old;
    if (old) return (u32 *)(uintptr_t)old;
    if (m->entries.n >= (m->mask + 1) / 4 * 3) map_grow(m);
    u64 hash = hash_bytes(key.p, key.n);
    u32 h = (u32)hash & m->mask;
    while (m->slot[h])
        h = (h + 1) & m->mask;
    struct MapEntry e = {{arena_strdup(m->a, key.p, key.n), key.n}, hash, 0};
    vec_push(m->a, &m->entries, e);
    m->slot[h] = m->entries.n;
    return &m->entries.at[m->entries.n - 1].val;
}
