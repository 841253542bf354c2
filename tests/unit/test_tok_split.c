/* The splitters against their patterns run by PCRE2, and the Unicode tables against utf8proc and
 * PCRE2. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/tokenizer_int.h"
#include "runtime/unicode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef PFQC_PCRE2
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

typedef struct Regex {
    pcre2_code *code;
    pcre2_match_data *md;
} Regex;

/* `\s` and `\S` of the patterns are White_Space; PCRE2 counts U+180E too, so they are spelt out. */
static void spell_spaces(const char *p, char *out)
{
    bool in_class = false;
    for (; *p; p++) {
        if (p[0] == '\\' && (p[1] == 's' || p[1] == 'S')) {
            const char *open = in_class ? "" : p[1] == 'S' ? "[^" : "[";
            out += sprintf(out, "%s\\t-\\r\\x{85}\\p{Z}%s", open, in_class ? "" : "]");
            p++;
        } else if (p[0] == '\\') {
            *out++ = *p++;
            *out++ = *p;
        } else {
            if (*p == '[') in_class = true;
            if (*p == ']') in_class = false;
            *out++ = *p;
        }
    }
    *out = '\0';
}

static Regex regex(const char *pattern, bool utf)
{
    char text[2048];
    int err;
    size_t at;
    spell_spaces(pattern, text);
    Regex r = {.code = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED,
                                     utf ? PCRE2_UTF | PCRE2_UCP : 0, &err, &at, NULL)};
    if (!r.code) fail_msg("pattern %s: error %d at %zu", text, err, at);
    pcre2_jit_compile(r.code, PCRE2_JIT_COMPLETE);
    r.md = pcre2_match_data_create_from_pattern(r.code, NULL);
    return r;
}

static void regex_free(Regex r)
{
    pcre2_match_data_free(r.md);
    pcre2_code_free(r.code);
}

/* Marks every start and end of a match in cut[0..n]. */
static void cuts_by_regex(Regex r, const char *s, size_t n, bool *cut)
{
    for (size_t i = 0; i < n;) {
        if (pcre2_match(r.code, (PCRE2_SPTR)s, n, i, PCRE2_NO_UTF_CHECK, r.md, NULL) < 0) return;
        size_t *o = pcre2_get_ovector_pointer(r.md);
        if (o[1] == o[0]) return;
        cut[o[0]] = cut[o[1]] = true;
        i = o[1];
    }
}

static void cuts_by_us(PfqTokSplit kind, const char *s, size_t n, bool *cut)
{
    size_t start, end = 0;
    while (pfq_split_next(kind, s, n, &start, &end)) {
        assert_in_range(end, start + 1, n);
        cut[start] = cut[end] = true;
    }
}

enum { MAX_TEXT = 512 };

static void compare(PfqTokSplit kind, Regex r, const char *s, size_t n)
{
    bool a[MAX_TEXT + 1] = {0}, b[MAX_TEXT + 1] = {0};
    cuts_by_regex(r, s, n, a);
    cuts_by_us(kind, s, n, b);
    if (memcmp(a, b, n + 1) == 0) return;
    for (size_t i = 0; i < n; i++)
        fprintf(stderr, "%02x %s%s ", (unsigned char)s[i], a[i + 1] ? "|" : "",
                b[i + 1] ? "!" : "");
    fail_msg("splitter %d differs from its pattern (| = pattern, ! = ours)", kind);
}

static const char *const pattern[PFQ_SPLIT_COUNT] = {
#define X(id, text) [PFQ_SPLIT_##id] = text,
    PFQ_TOK_SPLITS(X)
#undef X
};

static uint64_t rng = 0x9e3779b97f4a7c15u;
static uint32_t rnd(uint32_t n)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)((rng >> 32) * n >> 32);
}

static void random_strings(void **state)
{
    (void)state;
    // clang-format off
    static const char *const part[] = {
        "a", "b", "s", "t", "re", "RE", "Ve", "LL", "ll", "m", "D", "'", "'", "''", " ", " ", "  ",
        "\n", "\r", "\t", "\r\n", "1", "23", "4567", "\xc2\xb2", "\xe2\x85\xa7", ".", ",", "/",
        "#", "$", "+", "<", "\xc3\xa9", "\xc3\x89", "\xc7\x85", "\xca\xb0", "\xce\xb1", "\xce\x91",
        "\xe4\xb8\xad", "\xe6\x96\x87", "\xe3\x81\x82", "\xea\xb0\x80", "\xcc\x81", "\xe0\xa4\xbe",
        "\xe2\x83\x9d", "\xc2\xa0", "\xe3\x80\x80", "\xe2\x80\xa8", "\xc2\x85", "\xc5\xbf",
        "\xf0\x9f\xa6\x99", "\xe2\x80\x8d", "\xe2\x96\x81", "A", "B", "Z", "\x01", "\xd9\xa3", "_",
        "-", "\xe2\x80\x94", "\xe1\xa0\x8e", "\xef\xbc\x81", "\xe2\x82\xac",
    };
    // clang-format on
    for (int kind = 1; kind < PFQ_SPLIT_COUNT; kind++) {
        Regex r = regex(pattern[kind], kind != PFQ_SPLIT_BYTE_DIGITS);
        for (int round = 0; round < 20000; round++) {
            char s[MAX_TEXT];
            size_t n = 0;
            for (uint32_t k = rnd(24); k > 0; k--) {
                const char *p = part[rnd(sizeof part / sizeof *part)];
                memcpy(s + n, p, strlen(p));
                n += strlen(p);
            }
            compare((PfqTokSplit)kind, r, s, n);
        }
        regex_free(r);
    }
}

static bool in_class(Regex r, uint32_t c)
{
    char s[4];
    size_t n = pfq_utf8_put(c, s);
    return pcre2_match(r.code, (PCRE2_SPTR)s, n, 0, PCRE2_NO_UTF_CHECK, r.md, NULL) >= 0;
}

/* PCRE2 and utf8proc follow different Unicode versions: code points only one of them knows are left
 * out. */
static uint8_t *known_to_both(void)
{
    uint8_t *known = calloc(0x110000, 1);
    assert_non_null(known);
    Regex cn = regex("\\p{Cn}", true);
    for (uint32_t c = 0; c < 0x110000; c++)
        known[c] = (c < 0xd800 || c > 0xdfff) && in_class(cn, c) == (pfq_uc_bits(c) == PFQ_UC_CN);
    regex_free(cn);
    return known;
}

static void classes_of_all_code_points(void **state)
{
    (void)state;
    static const struct {
        const char *pattern;
        uint32_t set;
    } cls[] = {{"\\p{L}", PFQ_UC_L},   {"\\p{M}", PFQ_UC_M},   {"\\p{N}", PFQ_UC_N},
               {"\\p{P}", PFQ_UC_P},   {"\\p{S}", PFQ_UC_S},   {"\\p{Z}", PFQ_UC_Z},
               {"\\s", PFQ_UC_SPACE},  {"\\p{Lu}", PFQ_UC_LU}, {"\\p{Ll}", PFQ_UC_LL},
               {"\\p{Lt}", PFQ_UC_LT}, {"\\p{Lm}", PFQ_UC_LM}, {"\\p{Lo}", PFQ_UC_LO}};
    uint8_t *known = known_to_both();
    uint32_t skipped = 0;
    for (uint32_t c = 0; c < 0x110000; c++)
        skipped += !known[c];
    assert_in_range(skipped, 0,
                    0x800 + 12000); /* surrogates, and what a few Unicode versions add */
    for (size_t k = 0; k < sizeof cls / sizeof *cls; k++) {
        Regex r = regex(cls[k].pattern, true);
        for (uint32_t c = 0; c < 0x110000; c++)
            if (known[c] && in_class(r, c) != ((pfq_uc_bits(c) & cls[k].set) != 0))
                fail_msg("U+%04X: %s differs", c, cls[k].pattern);
        regex_free(r);
    }
    free(known);
}

/* Every code point below U+3100 and a sample above (all with PFQC_TEST_FULL) beside letters, digits
 * and spaces. */
static void code_points_in_context(void **state)
{
    (void)state;
    uint8_t *known = known_to_both();
    bool full = getenv("PFQC_TEST_FULL") != NULL;
    for (int kind = 1; kind < PFQ_SPLIT_COUNT; kind++) {
        Regex r = regex(pattern[kind], kind != PFQ_SPLIT_BYTE_DIGITS);
        for (uint32_t c = 0; c < 0x110000; c += c < 0x3100 || full ? 1 : 61) {
            static const char *const around[] = {"a",        "a",  "",  "B",  " ",  "",  "1",
                                                 "1",        " 2", "x", "\n", " ",  "'", "a",
                                                 "\xcc\x81", ".",  "",  "  ", "\n", ""};
            char s[MAX_TEXT];
            size_t n = 0;
            if (!known[c]) continue;
            for (size_t k = 0; k < sizeof around / sizeof *around; k++) {
                memcpy(s + n, around[k], strlen(around[k]));
                n += strlen(around[k]);
                n += pfq_utf8_put(c, s + n);
            }
            compare((PfqTokSplit)kind, r, s, n);
        }
        regex_free(r);
    }
    free(known);
}
#endif

static void utf8_is_strict(void **state)
{
    (void)state;
    static const struct {
        const char *s;
        size_t n, len; /* of the first character */
        uint32_t c;
    } t[] = {{"a", 1, 1, 'a'},
             {"\xc3\xa9", 2, 2, 0xe9},
             {"\xe2\x96\x81", 3, 3, 0x2581},
             {"\xf0\x9f\xa6\x99", 4, 4, 0x1f999},
             {"\xf4\x8f\xbf\xbf", 4, 4, 0x10ffff},
             {"\xc3", 1, 1, PFQ_UC_BAD | 0xc3},
             {"\xc0\x80", 2, 1, PFQ_UC_BAD | 0xc0},
             {"\xe0\x80\x80", 3, 1, PFQ_UC_BAD | 0xe0},
             {"\xed\xa0\x80", 3, 1, PFQ_UC_BAD | 0xed},
             {"\xf4\x90\x80\x80", 4, 1, PFQ_UC_BAD | 0xf4},
             {"\xf5\x80\x80\x80", 4, 1, PFQ_UC_BAD | 0xf5},
             {"\xe2\x96", 2, 1, PFQ_UC_BAD | 0xe2},
             {"\x80", 1, 1, PFQ_UC_BAD | 0x80}};
    for (size_t k = 0; k < sizeof t / sizeof *t; k++) {
        size_t i = 0;
        assert_int_equal(pfq_utf8_next(t[k].s, t[k].n, &i), t[k].c);
        assert_int_equal(i, t[k].len);
    }
    for (uint32_t c = 0; c < 0x110000; c++) {
        char s[4];
        size_t i = 0, n = pfq_utf8_put(c, s);
        if (c >= 0xd800 && c < 0xe000) continue;
        assert_int_equal(pfq_utf8_next(s, n, &i), c);
        assert_int_equal(i, n);
    }
}

static void check_nfc(const char *in, const char *want)
{
    char *out;
    size_t n;
    assert_true(pfq_nfc(in, strlen(in), &out, &n));
    assert_int_equal(out ? n : strlen(in), strlen(want));
    assert_memory_equal(out ? out : in, want, strlen(want));
    free(out);
}

static void nfc_by_hand(void **state)
{
    (void)state;
    check_nfc("e\xcc\x81", "\xc3\xa9");
    check_nfc("\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81"); /* Hangul L V T */
    check_nfc("\xea\xb0\x80\xe1\x86\xa8", "\xea\xb0\x81");             /* LV T */
    check_nfc("a\xcc\x81\xcc\xa3", "\xe1\xba\xa1\xcc\x81");            /* reordered by class */
    check_nfc("a\xcc\x80\xcc\x81", "\xc3\xa0\xcc\x81");                /* the second is blocked */
    check_nfc("\xe2\x84\xab", "\xc3\x85");                             /* singleton */
    check_nfc("\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc");             /* composition exclusion */
    check_nfc("\xff"
              "e\xcc\x81\xff",
              "\xff\xc3\xa9\xff"); /* stray bytes are kept */
    check_nfc("", "");
}

#ifdef PFQC_UTF8PROC
#include <utf8proc.h>

static void nfc_against_utf8proc(void **state)
{
    (void)state;
    uint64_t x = 88172645463325252u;
    for (uint32_t c = 1; c < 0x110000; c++) {
        if (c >= 0xd800 && c < 0xe000) continue;
        char in[64], *out;
        size_t n = 0, out_n;
        x = x * 6364136223846793005u + 1442695040888963407u;
        const uint32_t seq[] = {'a',    c,     0x300 + (uint32_t)(x >> 58),
                                c,      0x323, 0x1161 + (uint32_t)(x >> 20) % 21,
                                0x11a8, c};
        for (size_t k = 0; k < sizeof seq / sizeof *seq; k++)
            n += pfq_utf8_put(seq[k], in + n);
        in[n] = '\0';
        utf8proc_uint8_t *want = utf8proc_NFC((const utf8proc_uint8_t *)in);
        assert_non_null(want);
        assert_true(pfq_nfc(in, n, &out, &out_n));
        if (strlen((char *)want) != (out ? out_n : n) ||
            memcmp(want, out ? out : in, out ? out_n : n) != 0)
            fail_msg("NFC around U+%04X differs", c);
        free(want);
        free(out);
    }
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utf8_is_strict),
        cmocka_unit_test(nfc_by_hand),
#ifdef PFQC_UTF8PROC
        cmocka_unit_test(nfc_against_utf8proc),
#endif
#ifdef PFQC_PCRE2
        cmocka_unit_test(classes_of_all_code_points),
        cmocka_unit_test(random_strings),
        cmocka_unit_test(code_points_in_context),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
