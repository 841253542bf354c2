/* One function per pattern of PFQ_TOK_SPLITS: where does a match that starts here end? They follow
 * the regex engine's order: alternatives from left to right, greedy repetition, backtracking only
 * where it can matter. */
#include "runtime/tokenizer_int.h"
#include "runtime/unicode.h"

typedef struct Text {
    const char *s;
    size_t n;
} Text;

typedef struct Ch {
    uint32_t c, bits; /* bits == 0: end of the text, in no class and in no negated class */
    size_t end;
} Ch;

static Ch ch_at(Text t, size_t i)
{
    if (i >= t.n) return (Ch){0, 0, t.n};
    Ch r = {.end = i};
    r.c = pfq_utf8_next(t.s, t.n, &r.end);
    r.bits = pfq_uc_bits(r.c);
    return r;
}

static bool is_newline(Ch c)
{
    return c.bits && (c.c == '\n' || c.c == '\r');
}

/* End of the longest run of characters in `set` that starts at i. */
static size_t run(Text t, size_t i, uint32_t set)
{
    for (Ch c = ch_at(t, i); c.bits & set; c = ch_at(t, i))
        i = c.end;
    return i;
}

static size_t run_outside(Text t, size_t i, uint32_t set)
{
    for (Ch c = ch_at(t, i); c.bits && !(c.bits & set); c = ch_at(t, i))
        i = c.end;
    return i;
}

static size_t run_newlines(Text t, size_t i, bool slash)
{
    while (i < t.n && (t.s[i] == '\n' || t.s[i] == '\r' || (slash && t.s[i] == '/')))
        i++;
    return i;
}

static size_t run_at_most(Text t, size_t i, uint32_t set, int max)
{
    Ch c = ch_at(t, i);
    for (int k = 0; k < max && (c.bits & set); k++, c = ch_at(t, i))
        i = c.end;
    return i;
}

/* "'s|'t|'re|'ve|'m|'ll|'d"; with `fold` in any case, where 's' is also U+017F (its case folding).
 */
static size_t contraction(Text t, size_t i, bool fold)
{
    if (i + 1 >= t.n || t.s[i] != '\'') return i;
    unsigned char lower = fold ? 0x20 : 0;
    unsigned char a = (unsigned char)t.s[i + 1] | lower;
    unsigned char b = i + 2 < t.n ? (unsigned char)t.s[i + 2] | lower : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return i + 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return i + 3;
    if (fold && i + 2 < t.n && (unsigned char)t.s[i + 1] == 0xc5 &&
        (unsigned char)t.s[i + 2] == 0xbf)
        return i + 3;
    return i;
}

/* "\s+(?!\S)|\s+": all of the white space, but for its last character if text follows two or more.
 */
static size_t spaces(Text t, size_t i)
{
    size_t last = i, j = i;
    for (Ch c = ch_at(t, i); c.bits & PFQ_UC_SPACE; c = ch_at(t, j)) {
        last = j;
        j = c.end;
    }
    return j == t.n || last == i ? j : last;
}

/* "\s*[\r\n]+": through the last line end of the white space that starts at i. */
static size_t spaces_newline(Text t, size_t i)
{
    size_t end = i, j = i;
    for (Ch c = ch_at(t, i); c.bits & PFQ_UC_SPACE; c = ch_at(t, j)) {
        j = c.end;
        if (is_newline(c)) end = j;
    }
    return end;
}

/* " ?X+" */
static size_t spaced_run(Text t, size_t i, uint32_t set)
{
    size_t from = i + (t.s[i] == ' ');
    size_t end = run(t, from, set);
    if (end > from) return end;
    return from > i ? run(t, i, set) : i;
}

static size_t spaced_run_outside(Text t, size_t i, uint32_t set)
{
    size_t from = i + (t.s[i] == ' ');
    size_t end = run_outside(t, from, set);
    return end > from ? end : i;
}

static const uint32_t SLN = PFQ_UC_SPACE | PFQ_UC_L | PFQ_UC_N;

static size_t match_GPT2(Text t, size_t i)
{
    size_t e = contraction(t, i, false);
    if (e == i) e = spaced_run(t, i, PFQ_UC_L);
    if (e == i) e = spaced_run(t, i, PFQ_UC_N);
    if (e == i) e = spaced_run_outside(t, i, SLN);
    return e > i ? e : spaces(t, i);
}

/* "[^\r\n OUT]?WORD+": one leading character that is neither a line end nor in `out`, then a run of
 * `word`. */
static size_t led_word(Text t, size_t i, uint32_t out, uint32_t word)
{
    Ch c = ch_at(t, i);
    if (!(c.bits & out) && !is_newline(c)) {
        size_t end = run(t, c.end, word);
        if (end > c.end) return end;
    }
    return run(t, i, word);
}

/* The common tail: " ?[^...]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+". */
static size_t symbols_or_space(Text t, size_t i, uint32_t set, bool slash)
{
    size_t e = spaced_run_outside(t, i, set);
    if (e > i) return run_newlines(t, e, slash);
    e = spaces_newline(t, i);
    return e > i ? e : spaces(t, i);
}

static size_t cl100k(Text t, size_t i, uint32_t word, int digits)
{
    size_t e = contraction(t, i, true);
    if (e == i) e = led_word(t, i, PFQ_UC_L | PFQ_UC_N, word);
    if (e == i) e = run_at_most(t, i, PFQ_UC_N, digits);
    return e > i ? e : symbols_or_space(t, i, SLN | word, false);
}

static size_t match_LLAMA3(Text t, size_t i)
{
    return cl100k(t, i, PFQ_UC_L, 3);
}
static size_t match_QWEN2(Text t, size_t i)
{
    return cl100k(t, i, PFQ_UC_L, 1);
}
static size_t match_QWEN35(Text t, size_t i)
{
    return cl100k(t, i, PFQ_UC_L | PFQ_UC_M, 1);
}

static const uint32_t UPPER = PFQ_UC_LU | PFQ_UC_LT | PFQ_UC_LM | PFQ_UC_LO | PFQ_UC_M;
static const uint32_t LOWER = PFQ_UC_LL | PFQ_UC_LM | PFQ_UC_LO | PFQ_UC_M;

/* "UPPER*LOWER+": when nothing lower follows the run, UPPER* gives back up to the last character in
 * both. */
static size_t upper_lower(Text t, size_t i)
{
    size_t both_end = i, j = i;
    for (Ch c = ch_at(t, i); c.bits & UPPER; c = ch_at(t, j)) {
        j = c.end;
        if (c.bits & LOWER) both_end = j;
    }
    size_t end = run(t, j, LOWER);
    return end > j ? end : both_end;
}

/* "UPPER+LOWER*" */
static size_t upper_then_lower(Text t, size_t i)
{
    size_t j = run(t, i, UPPER);
    return j > i ? run(t, j, LOWER) : i;
}

static size_t o200k(Text t, size_t i, bool suffix, int digits)
{
    Ch c = ch_at(t, i);
    bool lead = !(c.bits & (PFQ_UC_L | PFQ_UC_N)) && !is_newline(c);
    size_t e = lead ? upper_lower(t, c.end) : i;
    if (e == i || e == c.end) e = upper_lower(t, i);
    if (e == i && lead) {
        e = upper_then_lower(t, c.end);
        if (e == c.end) e = i;
    }
    if (e == i) e = upper_then_lower(t, i);
    if (e > i) return suffix ? contraction(t, e, true) : e;
    e = run_at_most(t, i, PFQ_UC_N, digits);
    return e > i ? e : symbols_or_space(t, i, SLN, true);
}

static size_t match_O200K(Text t, size_t i)
{
    return o200k(t, i, true, 3);
}
static size_t match_TEKKEN(Text t, size_t i)
{
    return o200k(t, i, false, 1);
}

static bool ascii_letter(Text t, size_t i)
{
    unsigned lower = i < t.n ? (unsigned char)t.s[i] | 0x20u : 0;
    return lower >= 'a' && lower <= 'z';
}

static bool ascii_punct(char c)
{
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
           (c >= '{' && c <= '~');
}

static size_t match_DEEPSEEK3(Text t, size_t i)
{
    if (ascii_punct(t.s[i]) && ascii_letter(t, i + 1)) {
        size_t e = i + 1;
        while (ascii_letter(t, e))
            e++;
        return e;
    }
    size_t e = led_word(t, i, PFQ_UC_L | PFQ_UC_P | PFQ_UC_S, PFQ_UC_L | PFQ_UC_M);
    if (e > i) return e;
    e = spaced_run(t, i, PFQ_UC_P | PFQ_UC_S);
    if (e > i) return run_newlines(t, e, false);
    e = spaces_newline(t, i);
    return e > i ? e : spaces(t, i);
}

static size_t match_DIGIT(Text t, size_t i)
{
    return run_at_most(t, i, PFQ_UC_N, 1);
}
static size_t match_DIGITS(Text t, size_t i)
{
    return run(t, i, PFQ_UC_N);
}
static size_t match_DIGIT3(Text t, size_t i)
{
    return run_at_most(t, i, PFQ_UC_N, 3);
}

static bool ascii_digit(Text t, size_t i)
{
    return i < t.n && t.s[i] >= '0' && t.s[i] <= '9';
}

static size_t match_ASCII3(Text t, size_t i)
{
    return ascii_digit(t, i) && ascii_digit(t, i + 1) && ascii_digit(t, i + 2) ? i + 3 : i;
}

static size_t match_NEWLINE(Text t, size_t i)
{
    return i + (t.s[i] == '\n' || t.s[i] == '\r');
}

/* "\s?X+" */
static size_t space_then(Text t, size_t i, uint32_t set)
{
    Ch c = ch_at(t, i);
    size_t from = c.bits & PFQ_UC_SPACE ? c.end : i;
    size_t end = run(t, from, set);
    return end > from ? end : i;
}

static size_t match_WORD(Text t, size_t i)
{
    return space_then(t, i, PFQ_UC_L);
}
static size_t match_PUNCT(Text t, size_t i)
{
    return space_then(t, i, PFQ_UC_P);
}

typedef struct Range {
    uint32_t first, last;
} Range;

static size_t run_ranges(Text t, size_t i, const Range *r, size_t n)
{
    for (;;) {
        Ch c = ch_at(t, i);
        size_t k = 0;
        while (k < n && !(c.c >= r[k].first && c.c <= r[k].last))
            k++;
        if (c.bits == 0 || k == n) return i;
        i = c.end;
    }
}

static size_t match_CJK(Text t, size_t i)
{
    static const Range r[] = {{0x4e00, 0x9fa5}, {0x800, 0x4e00}, {0xac00, 0xd7ff}};
    return run_ranges(t, i, r, sizeof r / sizeof *r);
}

static size_t match_KANA(Text t, size_t i)
{
    static const Range r[] = {{0x4e00, 0x9fa5}, {0x3040, 0x309f}, {0x30a0, 0x30ff}};
    return run_ranges(t, i, r, sizeof r / sizeof *r);
}

static size_t match_FALCON_PUNCT(Text t, size_t i)
{
    for (;;) {
        Ch c = ch_at(t, i);
        bool more = (c.bits & PFQ_UC_P) || (c.bits && c.c < 0x80 && ascii_punct((char)c.c));
        if (!more) return i;
        i = c.end;
    }
}

static size_t match_BYTE_DIGITS(Text t, size_t i)
{
    for (; i < t.n; i++) {
        unsigned char b = (unsigned char)t.s[i];
        bool digit = (b >= '0' && b <= '9') || b == 0xb2 || b == 0xb3 || b == 0xb9 ||
                     (b >= 0xbc && b <= 0xbe);
        if (!digit) break;
    }
    return i;
}

static size_t match_METASPACE(Text t, size_t i)
{
    i = ch_at(t, i).end;
    for (Ch c = ch_at(t, i); c.bits && c.c != 0x2581; c = ch_at(t, i))
        i = c.end;
    return i;
}

bool pfq_split_next(PfqTokSplit kind, const char *s, size_t n, size_t *start, size_t *end)
{
    static size_t (*const match[PFQ_SPLIT_COUNT])(Text, size_t) = {
#define X(id, pattern) [PFQ_SPLIT_##id] = match_##id,
        PFQ_TOK_SPLITS(X)
#undef X
    };
    for (size_t i = *end; i < n;) {
        *start = i;
        *end = match[kind]((Text){s, n}, i);
        if (*end > i) return true;
        if (kind == PFQ_SPLIT_BYTE_DIGITS)
            i++;
        else
            pfq_utf8_next(s, n, &i);
    }
    return false;
}
