#include "runtime/unicode.h"

#include <stdlib.h>
#include <string.h>

typedef struct PfqUcProp {
    uint8_t category, ccc;
} PfqUcProp;

typedef struct PfqUcDecomp {
    uint32_t c;
    uint16_t at, len; /* slice of uc_decomp_seq */
} PfqUcDecomp;

typedef struct PfqUcPair {
    uint32_t first, second, composite;
} PfqUcPair;

typedef struct PfqUcRange { /* first, first + step, ..., last */
    uint32_t first, last;
    int32_t delta; /* to the other case; columns */
    uint32_t step;
} PfqUcRange;

#include "unicode_tables.h"

const uint32_t pfq_uc_version = UC_VERSION;

enum { CAT_ZS = 23, CAT_ZP = 25 };
enum { S_BASE = 0xAC00, L_BASE = 0x1100, V_BASE = 0x1161, T_BASE = 0x11A7 };
enum { L_COUNT = 19, V_COUNT = 21, T_COUNT = 28, S_COUNT = L_COUNT * V_COUNT * T_COUNT };

static PfqUcProp prop(uint32_t c)
{
    if (c > 0x10FFFF) return uc_prop[0];
    return uc_prop[uc_stage2[uc_stage1[c >> 8]][c & 0xff]];
}

uint32_t pfq_uc_bits(uint32_t c)
{
    unsigned cat = prop(c).category;
    bool space = (cat >= CAT_ZS && cat <= CAT_ZP) || (c >= 9 && c <= 13) || c == 0x85;
    return (1u << cat) | (space ? PFQ_UC_SPACE : 0);
}

unsigned pfq_uc_ccc(uint32_t c)
{
    return prop(c).ccc;
}

/* The delta of the range that holds c, else `none`. */
static int32_t in_ranges(const PfqUcRange *at, size_t n, uint32_t c, int32_t none)
{
    size_t lo = 0, hi = n;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if (at[mid].last < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    const bool in = lo < n && at[lo].first <= c && (c - at[lo].first) % at[lo].step == 0;
    return in ? at[lo].delta : none;
}

#define IN_RANGES(table, c, none) in_ranges(table, sizeof table / sizeof *table, c, none)

uint32_t pfq_uc_upper(uint32_t c)
{
    return c + (uint32_t)IN_RANGES(uc_upper, c, 0);
}

uint32_t pfq_uc_lower(uint32_t c)
{
    return c + (uint32_t)IN_RANGES(uc_lower, c, 0);
}

int pfq_uc_width(uint32_t c)
{
    if (c >= 0x20 && c < 0x7f) return 1;
    return IN_RANGES(uc_width, c, 1);
}

uint32_t pfq_utf8_next(const char *s, size_t n, size_t *i)
{
    const unsigned char *p = (const unsigned char *)s + *i;
    size_t left = n - *i;
    unsigned need = p[0] < 0x80   ? 0
                    : p[0] < 0xc2 ? 4
                    : p[0] < 0xe0 ? 1
                    : p[0] < 0xf0 ? 2
                    : p[0] < 0xf5 ? 3
                                  : 4;
    uint32_t c = p[0];
    if (need == 0) {
        *i += 1;
        return c;
    }
    bool ok = need < 4 && left > need;
    if (ok) {
        c = p[0] & (0x3fu >> need);
        for (unsigned k = 1; k <= need; k++) {
            ok = ok && (p[k] & 0xc0) == 0x80;
            c = c << 6 | (p[k] & 0x3fu);
        }
        if (need == 2) ok = ok && c >= 0x800 && (c < 0xd800 || c > 0xdfff);
        if (need == 3) ok = ok && c >= 0x10000 && c <= 0x10ffff;
    }
    *i += ok ? need + 1 : 1;
    return ok ? c : PFQ_UC_BAD | p[0];
}

size_t pfq_utf8_put(uint32_t c, char out[4])
{
    if (c < 0x80 || (c & PFQ_UC_BAD)) {
        out[0] = (char)(c & 0xff);
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t k = n - 1; k > 0; k--, c >>= 6)
        out[k] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)(lead[n] | c);
    return n;
}

/* The longest canonical decomposition is four characters (as U+1F82). */
enum { MAX_DECOMP = 4 };

static size_t decompose(uint32_t c, uint32_t out[MAX_DECOMP])
{
    if (c >= S_BASE && c < S_BASE + S_COUNT) {
        uint32_t s = c - S_BASE, t = s % T_COUNT;
        out[0] = L_BASE + s / (V_COUNT * T_COUNT);
        out[1] = V_BASE + s % (V_COUNT * T_COUNT) / T_COUNT;
        out[2] = T_BASE + t;
        return t ? 3 : 2;
    }
    size_t lo = 0, hi = sizeof uc_decomp / sizeof *uc_decomp;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (uc_decomp[mid].c < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == sizeof uc_decomp / sizeof *uc_decomp || uc_decomp[lo].c != c) {
        out[0] = c;
        return 1;
    }
    size_t len = uc_decomp[lo].len;
    memcpy(out, uc_decomp_seq + uc_decomp[lo].at, len * sizeof *out);
    return len;
}

/* The primary composite of a pair, or 0. */
static uint32_t compose(uint32_t a, uint32_t b)
{
    if (a - L_BASE < L_COUNT && b - V_BASE < V_COUNT)
        return S_BASE + ((a - L_BASE) * V_COUNT + (b - V_BASE)) * T_COUNT;
    if (a - S_BASE < S_COUNT && (a - S_BASE) % T_COUNT == 0 && b > T_BASE && b < T_BASE + T_COUNT)
        return a + (b - T_BASE);
    size_t lo = 0, hi = sizeof uc_pair / sizeof *uc_pair;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        const PfqUcPair *p = uc_pair + mid;
        if (p->first < a || (p->first == a && p->second < b))
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == sizeof uc_pair / sizeof *uc_pair) return 0;
    return uc_pair[lo].first == a && uc_pair[lo].second == b ? uc_pair[lo].composite : 0;
}

/* Stable sort of a run of combining marks by class. Counting, so that a hostile run stays linear.
 */
static void order_run(uint32_t *run, uint32_t *tmp, size_t n)
{
    size_t at[257] = {0};
    for (size_t i = 0; i < n; i++)
        at[pfq_uc_ccc(run[i]) + 1]++;
    for (size_t k = 1; k < 257; k++)
        at[k] += at[k - 1];
    for (size_t i = 0; i < n; i++)
        tmp[at[pfq_uc_ccc(run[i])]++] = run[i];
    memcpy(run, tmp, n * sizeof *run);
}

static void order_marks(uint32_t *c, uint32_t *tmp, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t j = i;
        while (j < n && pfq_uc_ccc(c[j]) != 0)
            j++;
        if (j - i > 1) order_run(c + i, tmp, j - i);
        i = j + 1;
    }
}

/* Composes in place, returns the new length. `last` is the class of the mark kept since the
 * starter, -1 when nothing lies between: a mark is blocked from the starter by one of the same or a
 * higher class. */
static size_t compose_all(uint32_t *c, size_t n)
{
    size_t out = 0, starter = 0;
    bool have = false;
    int last = -1;
    for (size_t i = 0; i < n; i++) {
        int cc = (int)pfq_uc_ccc(c[i]);
        uint32_t both = have && last < cc ? compose(c[starter], c[i]) : 0;
        if (both) {
            c[starter] = both;
            continue;
        }
        if (cc == 0) {
            starter = out;
            have = true;
            last = -1;
        } else {
            last = cc;
        }
        c[out++] = c[i];
    }
    return out;
}

/* Everything below U+0300 is in form C and composes with nothing below U+0300. */
static bool surely_nfc(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] >= 0xcc) return false;
    return true;
}

bool pfq_nfc(const char *s, size_t n, char **out, size_t *out_n)
{
    *out = NULL;
    *out_n = 0;
    if (surely_nfc(s, n)) return true;
    if (n > SIZE_MAX / (2 * MAX_DECOMP * sizeof(uint32_t))) return false;
    size_t count = 0, total = 0;
    uint32_t one[MAX_DECOMP];
    for (size_t i = 0; i < n;)
        count += decompose(pfq_utf8_next(s, n, &i), one);
    uint32_t *c = malloc(2 * count * sizeof *c);
    if (!c) return false;
    count = 0;
    for (size_t i = 0; i < n;)
        count += decompose(pfq_utf8_next(s, n, &i), c + count);
    order_marks(c, c + count, count);
    count = compose_all(c, count);
    char *text = malloc(4 * count + 1);
    if (text) {
        for (size_t i = 0; i < count; i++)
            total += pfq_utf8_put(c[i], text + total);
        *out = text;
        *out_n = total;
    }
    free(c);
    return text != NULL;
}
