/* Writes the Unicode tables of runtime/unicode.c from utf8proc, at build time.
 *
 * usage: gen_unicode OUTPUT
 * The output is C: a two-stage table from code point to property (general category and canonical
 * combining class), the canonical decompositions, the pairs that compose, and ranges of simple case
 * mappings and of characters that do not take one column. The shipped runtime
 * therefore needs no Unicode library. The Unicode version is that of utf8proc and is written into
 * the output.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { N_CP = 0x110000, BLOCK = 256, N_BLOCK = N_CP / BLOCK, MAX_PROP = 256, MAX_SEQ = 8 };
enum { HANGUL_FIRST = 0xAC00, HANGUL_LAST = 0xD7A3 }; /* composed by arithmetic, not by table */

typedef struct Prop {
    unsigned category, ccc;
} Prop;

static Prop props[MAX_PROP];
static unsigned n_prop;
static uint8_t prop_of[N_CP];
static uint16_t block_of[N_BLOCK];

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "gen_unicode: %s\n", what);
    exit(1);
}

static uint8_t prop_index(unsigned category, unsigned ccc)
{
    for (unsigned i = 0; i < n_prop; i++)
        if (props[i].category == category && props[i].ccc == ccc) return (uint8_t)i;
    if (n_prop == MAX_PROP) fail("more than 256 distinct properties");
    props[n_prop] = (Prop){category, ccc};
    return (uint8_t)n_prop++;
}

/* Two-stage table: equal blocks of 256 code points are stored once. */
static void write_properties(FILE *f)
{
    static uint8_t blocks[N_BLOCK][BLOCK];
    unsigned n_blocks = 0;
    prop_index(0, 0);
    for (int32_t c = 0; c < N_CP; c++) {
        const utf8proc_property_t *p = utf8proc_get_property(c);
        prop_of[c] = prop_index((unsigned)p->category, (unsigned)p->combining_class);
    }
    for (unsigned b = 0; b < N_BLOCK; b++) {
        const uint8_t *src = prop_of + (size_t)b * BLOCK;
        unsigned k = 0;
        while (k < n_blocks && memcmp(blocks[k], src, BLOCK) != 0)
            k++;
        if (k == n_blocks) memcpy(blocks[n_blocks++], src, BLOCK);
        block_of[b] = (uint16_t)k;
    }
    fprintf(f, "static const PfqUcProp uc_prop[%u] = {\n", n_prop);
    for (unsigned i = 0; i < n_prop; i++)
        fprintf(f, "    {%u, %u},\n", props[i].category, props[i].ccc);
    fprintf(f, "};\nstatic const uint16_t uc_stage1[%d] = {", N_BLOCK);
    for (unsigned b = 0; b < N_BLOCK; b++)
        fprintf(f, "%s%u,", b % 24 ? " " : "\n    ", (unsigned)block_of[b]);
    fprintf(f, "\n};\nstatic const uint8_t uc_stage2[%u][256] = {\n", n_blocks);
    for (unsigned b = 0; b < n_blocks; b++) {
        fprintf(f, "    {");
        for (unsigned i = 0; i < BLOCK; i++)
            fprintf(f, "%s%u,", i % 32 ? "" : "\n     ", (unsigned)blocks[b][i]);
        fprintf(f, "},\n");
    }
    fprintf(f, "};\n");
}

/* Full canonical decomposition of c into seq; 0 if c is its own decomposition. */
static int decompose(int32_t c, int32_t *seq)
{
    int boundary = 0;
    utf8proc_ssize_t n =
        utf8proc_decompose_char(c, seq, MAX_SEQ, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &boundary);
    if (n < 1 || n > MAX_SEQ) fail("unexpected decomposition length");
    return n == 1 && seq[0] == c ? 0 : (int)n;
}

/* NFC of a short sequence in place; the new length. */
static utf8proc_ssize_t compose(int32_t *seq, utf8proc_ssize_t n)
{
    return utf8proc_normalize_utf32(seq, n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
}

static void write_decompositions(FILE *f)
{
    static int32_t pool[1 << 14];
    unsigned n_pool = 0, n = 0;
    fprintf(f, "static const PfqUcDecomp uc_decomp[] = {\n");
    for (int32_t c = 0; c < N_CP; c++) {
        int32_t seq[MAX_SEQ];
        int len = 0;
        if (c >= HANGUL_FIRST && c <= HANGUL_LAST) continue;
        if (utf8proc_codepoint_valid(c)) len = decompose(c, seq);
        if (len == 0) continue;
        if (n_pool + (unsigned)len > sizeof pool / sizeof *pool) fail("decomposition pool is full");
        fprintf(f, "%s{0x%" PRIX32 ", %u, %d},", n % 6 ? " " : "\n    ", (uint32_t)c, n_pool, len);
        for (int i = 0; i < len; i++)
            pool[n_pool++] = seq[i];
        n++;
    }
    fprintf(f, "\n};\nstatic const uint32_t uc_decomp_seq[%u] = {", n_pool);
    for (unsigned i = 0; i < n_pool; i++)
        fprintf(f, "%s0x%" PRIX32 ",", i % 12 ? " " : "\n    ", (uint32_t)pool[i]);
    fprintf(f, "\n};\n");
}

typedef struct Pair {
    int32_t first, second, composite;
} Pair;

static int by_pair(const void *x, const void *y)
{
    const Pair *a = x, *b = y;
    if (a->first != b->first) return a->first < b->first ? -1 : 1;
    return (a->second > b->second) - (a->second < b->second);
}

/* A composite's pair is (NFC of all but the last character of its decomposition, that last
 * character); whatever NFC does not restore is a composition exclusion. */
static void write_compositions(FILE *f)
{
    static Pair pairs[4096];
    unsigned n = 0;
    for (int32_t c = 0; c < N_CP; c++) {
        int32_t seq[MAX_SEQ + 1], rest[MAX_SEQ + 1], whole[MAX_SEQ + 1];
        if ((c >= HANGUL_FIRST && c <= HANGUL_LAST) || !utf8proc_codepoint_valid(c)) continue;
        int len = decompose(c, seq);
        if (len < 2) continue;
        memcpy(whole, seq, sizeof seq);
        if (compose(whole, len) != 1 || whole[0] != c) continue;
        memcpy(rest, seq, sizeof seq);
        if (compose(rest, len - 1) != 1)
            fail("a composite does not end in one combining character");
        if (n == sizeof pairs / sizeof *pairs) fail("too many composites");
        pairs[n++] = (Pair){rest[0], seq[len - 1], c};
    }
    qsort(pairs, n, sizeof *pairs, by_pair);
    fprintf(f, "static const PfqUcPair uc_pair[%u] = {", n);
    for (unsigned i = 0; i < n; i++)
        fprintf(f, "%s{0x%" PRIX32 ", 0x%" PRIX32 ", 0x%" PRIX32 "},", i % 4 ? " " : "\n    ",
                (uint32_t)pairs[i].first, (uint32_t)pairs[i].second, (uint32_t)pairs[i].composite);
    fprintf(f, "\n};\n");
}

/* ---- ranges of equal deltas ---- */

static int32_t to_upper(int32_t c)
{
    return utf8proc_toupper(c) - c;
}

static int32_t to_lower(int32_t c)
{
    return utf8proc_tolower(c) - c;
}

static int32_t width(int32_t c)
{
    return utf8proc_charwidth(c);
}

/* Ranges of code points with one delta, other than `none`; in case mappings every second one too
 * (step 2), where upper and lower case alternate. Ranges are in order and do not overlap. */
static void write_ranges(FILE *f, const char *name, int32_t (*delta)(int32_t), int32_t none,
                         int max_step)
{
    fprintf(f, "static const PfqUcRange %s[] = {\n", name);
    for (int32_t c = 0; c < N_CP;) {
        const int32_t d = delta(c);
        int32_t last = c, step = 1;
        if (d == none) {
            c++;
            continue;
        }
        if (max_step == 2 && c + 2 < N_CP && delta(c + 1) == none && delta(c + 2) == d) step = 2;
        while (last + step < N_CP && delta(last + step) == d &&
               (step == 1 || delta(last + 1) == none))
            last += step;
        fprintf(f, "    {0x%" PRIX32 ", 0x%" PRIX32 ", %" PRId32 ", %" PRId32 "},\n", (uint32_t)c,
                (uint32_t)last, d, step);
        c = last + 1;
    }
    fprintf(f, "};\n");
}

int main(int argc, char **argv)
{
    unsigned v[3] = {0, 0, 0};
    if (argc != 2) fail("usage: gen_unicode OUTPUT");
    FILE *f = fopen(argv[1], "w");
    if (!f) fail("cannot write the output file");
    if (sscanf(utf8proc_unicode_version(), "%u.%u.%u", v, v + 1, v + 2) < 1)
        fail("utf8proc states no Unicode version");
    fprintf(f, "/* Generated by scripts/gen_unicode.c from utf8proc %s, Unicode %s. */\n",
            utf8proc_version(), utf8proc_unicode_version());
    fprintf(f, "#define UC_VERSION 0x%02X%02X%02Xu\n", v[0], v[1], v[2]);
    write_properties(f);
    write_decompositions(f);
    write_compositions(f);
    write_ranges(f, "uc_upper", to_upper, 0, 2);
    write_ranges(f, "uc_lower", to_lower, 0, 2);
    write_ranges(f, "uc_width", width, 1, 1);
    if (fclose(f) != 0) fail("cannot write the output file");
    return 0;
}
