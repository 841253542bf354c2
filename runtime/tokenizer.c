#include "runtime/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/tokenizer_int.h"
#include "runtime/unicode.h"

/* ---- opening: every offset, count and id is checked here, once ---- */

static const size_t sec_size[PFQ_SEC_COUNT] = {
    [PFQ_SEC_STR_OFF] = 4,
    [PFQ_SEC_STR] = 1,
    [PFQ_SEC_PRINT_OFF] = 4,
    [PFQ_SEC_PRINT] = 1,
    [PFQ_SEC_KIND] = 1,
    [PFQ_SEC_BYTE] = 4,
    [PFQ_SEC_HASH] = 4,
    [PFQ_SEC_MERGE] = sizeof(PfqTokMerge),
    [PFQ_SEC_ADDED] = sizeof(PfqTokNode),
    [PFQ_SEC_ADDED_NORM] = sizeof(PfqTokNode),
    [PFQ_SEC_JOIN] = 1,
};

static bool id_ok(int32_t id, uint32_t vocab)
{
    return id == -1 || (id >= 0 && (uint32_t)id < vocab);
}

static const char *check_head(const PfqTokHead *h, size_t bytes)
{
    if (memcmp(h->magic, PFQ_TOK_MAGIC, 4) != 0) return "tokenizer: not a tokenizer blob";
    if (h->version != PFQ_TOK_VERSION) return "tokenizer: made for another version of the runtime";
    if (h->bytes > bytes) return "tokenizer: the blob is truncated";
    if (h->vocab == 0 || h->vocab > PFQ_TOK_MAX_VOCAB || h->n_sym < h->vocab ||
        h->n_sym > 2u * PFQ_TOK_MAX_VOCAB)
        return "tokenizer: vocabulary size out of range";
    if (!id_ok(h->bos, h->vocab) || !id_ok(h->eos, h->vocab) || !id_ok(h->unk, h->vocab))
        return "tokenizer: a special id is outside the vocabulary";
    if (h->prefix >= PFQ_PREFIX_COUNT) return "tokenizer: unknown prefix rule";
    for (int i = 0; i < PFQ_TOK_MAX_STAGES; i++)
        if (h->stage[i] >= PFQ_SPLIT_COUNT) return "tokenizer: unknown splitter";
    return NULL;
}

static const char *check_sections(const PfqTokHead *h)
{
    const uint32_t want[PFQ_SEC_COUNT] = {[PFQ_SEC_STR_OFF] = h->n_sym + 1,
                                          [PFQ_SEC_PRINT_OFF] = h->vocab + 1,
                                          [PFQ_SEC_KIND] = h->vocab,
                                          [PFQ_SEC_BYTE] = 256};
    for (int i = 0; i < PFQ_SEC_COUNT; i++) {
        uint64_t size = (uint64_t)h->sec[i].count * sec_size[i];
        if (h->sec[i].off % 4 != 0 || h->sec[i].off > h->bytes || size > h->bytes - h->sec[i].off)
            return "tokenizer: a table lies outside the blob";
        if (want[i] && h->sec[i].count != want[i]) return "tokenizer: a table has the wrong size";
    }
    if (h->sec[PFQ_SEC_JOIN].count != 0 && h->sec[PFQ_SEC_JOIN].count != 8192)
        return "tokenizer: a table has the wrong size";
    return NULL;
}

static bool offsets_ok(const uint32_t *off, uint32_t n, uint32_t total)
{
    if (off[0] != 0 || off[n] != total) return false;
    for (uint32_t i = 0; i < n; i++)
        if (off[i] > off[i + 1] || off[i + 1] - off[i] > PFQ_TOK_MAX_PIECE) return false;
    return true;
}

static bool trie_ok(const PfqTokNode *node, uint32_t n, uint32_t vocab)
{
    for (uint32_t i = 0; i < n; i++) {
        const PfqTokNode *p = node + i;
        if (!id_ok(p->id, vocab) || p->n_child > 256) return false;
        if (p->n_child && (p->child <= i || p->child > n || p->n_child > n - p->child))
            return false;
    }
    return true;
}

static const char *check_tables(const PfqTokenizer *t, const PfqTokHead *h)
{
    const uint32_t *byte = t->priv[PFQ_SEC_BYTE], *slot = t->priv[PFQ_SEC_HASH];
    const PfqTokMerge *m = t->priv[PFQ_SEC_MERGE];
    if (!offsets_ok(t->priv[PFQ_SEC_STR_OFF], h->n_sym, h->sec[PFQ_SEC_STR].count) ||
        !offsets_ok(t->priv[PFQ_SEC_PRINT_OFF], h->vocab, h->sec[PFQ_SEC_PRINT].count))
        return "tokenizer: the string table is damaged";
    for (int i = 0; i < 256; i++)
        if (byte[i] != PFQ_TOK_NONE && byte[i] >= h->n_sym)
            return "tokenizer: a byte has no symbol";
    for (uint32_t i = 0; i < h->sec[PFQ_SEC_HASH].count; i++)
        if (slot[i] > h->n_sym) return "tokenizer: the vocabulary hash is damaged";
    for (uint32_t i = 0; i < h->sec[PFQ_SEC_MERGE].count; i++)
        if (m[i].left != PFQ_TOK_NONE && m[i].result >= h->n_sym)
            return "tokenizer: a merge makes no symbol";
    if (!trie_ok(t->priv[PFQ_SEC_ADDED], h->sec[PFQ_SEC_ADDED].count, h->vocab) ||
        !trie_ok(t->priv[PFQ_SEC_ADDED_NORM], h->sec[PFQ_SEC_ADDED_NORM].count, h->vocab))
        return "tokenizer: the table of added tokens is damaged";
    return NULL;
}

const char *pfq_tok_open(PfqTokenizer *t, const void *blob, size_t bytes)
{
    *t = (PfqTokenizer){.bos = -1, .eos = -1, .unk = -1};
    if (bytes < sizeof(PfqTokHead)) return "tokenizer: the blob is truncated";
    if ((uintptr_t)blob % sizeof(uint32_t) != 0) return "tokenizer: the blob is not aligned";
    const PfqTokHead *h = blob;
    const char *bad = check_head(h, bytes);
    if (!bad) bad = check_sections(h);
    if (bad) return bad;
    t->blob = blob;
    t->bytes = h->bytes;
    for (int i = 0; i < PFQ_SEC_COUNT; i++)
        t->priv[i] = t->blob + h->sec[i].off;
    bad = check_tables(t, h);
    if (bad) return bad;
    t->vocab = (int32_t)h->vocab;
    t->bos = h->bos;
    t->eos = h->eos;
    t->unk = h->unk;
    t->add_bos = (h->flags & PFQ_TOKF_ADD_BOS) && h->bos >= 0;
    return NULL;
}

/* ---- encoding ---- */

typedef struct Enc {
    const PfqTokenizer *t;
    const PfqTokHead *h;
    unsigned flags;
    bool failed; /* out of memory */
    int32_t *out;
    size_t n, cap;
    PfqMergeBuf merge;
} Enc;

static void emit(Enc *e, uint32_t id)
{
    if (e->n == e->cap) {
        size_t cap = e->cap * 2 + 64;
        int32_t *p = realloc(e->out, cap * sizeof *p);
        if (!p) {
            e->failed = true;
            return;
        }
        e->out = p;
        e->cap = cap;
    }
    e->out[e->n++] = (int32_t)id;
}

static const char *sym_str(const PfqTokenizer *t, uint32_t sym, size_t *n)
{
    const uint32_t *off = t->priv[PFQ_SEC_STR_OFF];
    *n = off[sym + 1] - off[sym];
    return (const char *)t->priv[PFQ_SEC_STR] + off[sym];
}

/* The symbol whose bytes are s[0..n), or PFQ_TOK_NONE. */
static uint32_t find_sym(const PfqTokenizer *t, const char *s, size_t n)
{
    const PfqTokHead *h = tok_head(t);
    const uint32_t *slot = t->priv[PFQ_SEC_HASH];
    uint32_t count = h->sec[PFQ_SEC_HASH].count;
    if (n > h->max_piece || count == 0) return PFQ_TOK_NONE;
    uint32_t i = pfq_tok_slot(pfq_tok_hash(s, n), count);
    for (uint32_t probes = 0; probes < count && slot[i]; probes++) {
        size_t len;
        const char *str = sym_str(t, slot[i] - 1, &len);
        if (len == n && memcmp(str, s, n) == 0) return slot[i] - 1;
        if (++i == count) i = 0;
    }
    return PFQ_TOK_NONE;
}

static uint8_t kind_of(const PfqTokenizer *t, uint32_t id)
{
    return ((const uint8_t *)t->priv[PFQ_SEC_KIND])[id];
}

static uint32_t byte_sym(const PfqTokenizer *t, unsigned char b)
{
    return ((const uint32_t *)t->priv[PFQ_SEC_BYTE])[b];
}

/* Appends the unknown symbol to a list of symbols; nothing where the vocabulary has none. */
static size_t put_unk(const PfqTokenizer *t, uint32_t *sym, size_t n)
{
    const PfqTokHead *h = tok_head(t);
    uint32_t unk = (uint32_t)h->unk;
    if (h->unk < 0 || (n > 0 && sym[n - 1] == unk && (h->flags & PFQ_TOKF_FUSE_UNK))) return n;
    sym[n] = unk;
    return n + 1;
}

/* Appends the bytes of one unknown character: byte symbols if the vocabulary has them all, else
 * unknown. */
static size_t put_bytes(const PfqTokenizer *t, const char *s, size_t len, uint32_t *sym, size_t n)
{
    bool all = true;
    for (size_t i = 0; i < len; i++)
        all = all && byte_sym(t, (unsigned char)s[i]) != PFQ_TOK_NONE;
    if (!all) return put_unk(t, sym, n);
    for (size_t i = 0; i < len; i++)
        sym[n++] = byte_sym(t, (unsigned char)s[i]);
    return n;
}

/* The symbols of a piece before merging; at most n of them. */
static size_t piece_symbols(const PfqTokenizer *t, const char *s, size_t n, uint32_t *sym)
{
    size_t out = 0;
    if (!(tok_head(t)->flags & PFQ_TOKF_CHARS)) {
        for (size_t i = 0; i < n; i++)
            out = put_bytes(t, s + i, 1, sym, out);
        return out;
    }
    for (size_t i = 0; i < n;) {
        size_t from = i;
        pfq_utf8_next(s, n, &i);
        uint32_t id = find_sym(t, s + from, i - from);
        if (id != PFQ_TOK_NONE)
            sym[out++] = id;
        else
            out = put_bytes(t, s + from, i - from, sym, out);
    }
    return out;
}

/* A character that occurs inside tokens but is none itself, and was not merged. */
static void emit_loose(Enc *e, uint32_t sym)
{
    size_t len, n = 0;
    const char *s = sym_str(e->t, sym, &len);
    uint32_t ids[4];
    if (len > sizeof ids / sizeof *ids) return;
    uint32_t unk = (uint32_t)e->h->unk;
    n = put_bytes(e->t, s, len, ids, 0);
    bool repeat = n == 1 && ids[0] == unk && e->n > 0 && (uint32_t)e->out[e->n - 1] == unk &&
                  (e->h->flags & PFQ_TOKF_FUSE_UNK);
    for (size_t i = 0; i < n && !repeat; i++)
        if (ids[i] < e->h->vocab) emit(e, ids[i]);
}

static void encode_piece(Enc *e, const char *s, size_t n)
{
    uint32_t whole = find_sym(e->t, s, n);
    if (whole < e->h->vocab && (kind_of(e->t, whole) & PFQ_TOKK_WHOLE)) {
        emit(e, whole);
        return;
    }
    if (n >= INT32_MAX || !pfq_merge_reserve(&e->merge, n)) {
        e->failed = true;
        return;
    }
    size_t k = piece_symbols(e->t, s, n, e->merge.sym);
    if (!pfq_merge(e->t, &e->merge, &k)) {
        e->failed = true;
        return;
    }
    for (size_t i = 0; i < k; i++) {
        if (e->merge.sym[i] < e->h->vocab)
            emit(e, e->merge.sym[i]);
        else
            emit_loose(e, e->merge.sym[i]);
    }
}

/* Vocabularies without a pre-tokenizer take the whole text as one piece. Where no merge can join
 * two neighbouring characters it may be cut all the same, with the same result, and most pieces are
 * then whole words. */
static void encode_long_piece(Enc *e, const char *s, size_t n)
{
    const uint8_t *join = e->t->priv[PFQ_SEC_JOIN];
    size_t from = 0;
    for (size_t i = 1; i < n && e->h->sec[PFQ_SEC_JOIN].count && !e->failed; i++) {
        unsigned pair = (unsigned)(unsigned char)s[i - 1] << 8 | (unsigned char)s[i];
        if (((unsigned char)s[i] & 0xc0) == 0x80 || (join[pair >> 3] >> (pair & 7) & 1)) continue;
        encode_piece(e, s + from, i - from);
        from = i;
    }
    if (!e->failed) encode_piece(e, s + from, n - from);
}

static void split(Enc *e, int stage, const char *s, size_t n)
{
    if (n == 0 || e->failed) return;
    PfqTokSplit kind = stage < PFQ_TOK_MAX_STAGES ? e->h->stage[stage] : PFQ_SPLIT_NONE;
    if (kind == PFQ_SPLIT_NONE) {
        encode_long_piece(e, s, n);
        return;
    }
    size_t start, end = 0, loose = 0; /* loose: start of what no match has claimed */
    while (pfq_split_next(kind, s, n, &start, &end)) {
        split(e, stage + 1, s + loose, start - loose);
        split(e, stage + 1, s + start, end - start);
        loose = end;
    }
    split(e, stage + 1, s + loose, n - loose);
}

/* ---- added tokens ---- */

typedef struct Found {
    size_t start, end; /* what to cut out; start == end: nothing found */
    int32_t id;
} Found;

static const PfqTokNode *trie_child(const PfqTokNode *root, const PfqTokNode *p, unsigned char b)
{
    uint32_t lo = p->child, hi = p->child + p->n_child;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (root[mid].byte == b) return root + mid;
        if (root[mid].byte < b)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

/* Regex `\w`: letters, marks, Nd, Nl, Pc and the two joiners. */
static bool is_word(uint32_t c)
{
    return (pfq_uc_bits(c) & (PFQ_UC_L | PFQ_UC_M | 1u << 9 | 1u << 10 | 1u << 12)) ||
           c == 0x200c || c == 0x200d;
}

/* The character that ends at s[i], i > 0. */
static uint32_t char_before(const char *s, size_t i)
{
    size_t at = i - 1;
    while (at > 0 && i - at < 4 && ((unsigned char)s[at] & 0xc0) == 0x80)
        at--;
    uint32_t c = pfq_utf8_next(s, i, &at);
    return at == i ? c : PFQ_UC_BAD;
}

static bool whole_word(const char *s, size_t n, size_t start, size_t end)
{
    if (start > 0 && is_word(char_before(s, start))) return false;
    return end == n || !is_word(pfq_utf8_next(s, n, &end));
}

/* Widens a match over the white space that its token swallows, not before `from`. */
static Found widen(const PfqTokenizer *t, const char *s, size_t n, size_t from, Found f)
{
    uint8_t kind = kind_of(t, (uint32_t)f.id);
    while ((kind & PFQ_TOKK_LSTRIP) && f.start > from) {
        uint32_t c = char_before(s, f.start);
        char tmp[4];
        if (!(pfq_uc_bits(c) & PFQ_UC_SPACE)) break;
        f.start -= pfq_utf8_put(c, tmp);
    }
    while ((kind & PFQ_TOKK_RSTRIP) && f.end < n) {
        size_t next = f.end;
        if (!(pfq_uc_bits(pfq_utf8_next(s, n, &next)) & PFQ_UC_SPACE)) break;
        f.end = next;
    }
    return f;
}

/* First added token in s[from..n): the leftmost, and the longest of those that start there. As in
 * the reference, one that may not be used here (special and not asked for, or not a whole word)
 * hides what it covers. */
static Found find_added(const Enc *e, PfqTokSection sec, const char *s, size_t n, size_t from)
{
    const PfqTokNode *root = e->t->priv[sec];
    if (e->h->sec[sec].count == 0) return (Found){n, n, -1};
    for (size_t i = from; i < n;) {
        Found best = {i, i + 1, -1};
        const PfqTokNode *p = trie_child(root, root, (unsigned char)s[i]);
        for (size_t j = i + 1; p; j++) {
            if (p->id >= 0) best = (Found){i, j, p->id};
            p = j < n ? trie_child(root, p, (unsigned char)s[j]) : NULL;
        }
        i = best.end;
        if (best.id < 0) continue;
        uint8_t kind = kind_of(e->t, (uint32_t)best.id);
        if ((kind & PFQ_TOKK_SPECIAL) && !(e->flags & PFQ_TOK_SPECIAL)) continue;
        if ((kind & PFQ_TOKK_WORD) && !whole_word(s, n, best.start, best.end)) continue;
        return widen(e->t, s, n, from, best);
    }
    return (Found){n, n, -1};
}

static const char META[3] = {'\xe2', '\x96', '\x81'}; /* U+2581 */

/* Puts the prefix in front and replaces spaces, into a buffer of its own if there is something to
 * do. */
static const char *metaspace(Enc *e, const char *s, size_t *n, bool first, char **own)
{
    bool meta = e->h->flags & PFQ_TOKF_METASPACE;
    size_t spaces = 0, len = *n, k = 0;
    for (size_t i = 0; i < len && meta; i++)
        spaces += s[i] == ' ';
    bool has = s[0] == ' ' || (meta && len >= 3 && memcmp(s, META, 3) == 0);
    bool prefix = e->h->prefix == PFQ_PREFIX_ALWAYS ||
                  (e->h->prefix == PFQ_PREFIX_IF_MISSING && !has) ||
                  (e->h->prefix == PFQ_PREFIX_FIRST_IF_MISSING && first && !has);
    *own = NULL;
    if (!spaces && !prefix) return s;
    char *out = len < SIZE_MAX / 4 ? malloc(len + 2 * spaces + 3) : NULL;
    if (!out) {
        e->failed = true;
        return NULL;
    }
    for (size_t i = prefix ? SIZE_MAX : 0; i != len; i++) { /* index -1 is the prefix */
        char c = i == SIZE_MAX ? ' ' : s[i];
        if (c == ' ' && meta) {
            memcpy(out + k, META, sizeof META);
            k += sizeof META;
        } else {
            out[k++] = c;
        }
    }
    *n = k;
    return *own = out;
}

/* A copy; NULL: out of memory. */
static char *without_guards(const char *s, size_t *n)
{
    char *out = malloc(*n + 1);
    size_t k = 0;
    for (size_t i = 0; out && i < *n; i++)
        if (s[i] != PFQ_TOK_GUARD) out[k++] = s[i];
    *n = k;
    return out;
}

/* Does a special token of this table begin at s? *open: one may, that the text ends in. */
static bool special_at(const PfqTokenizer *t, PfqTokSection sec, const char *s, size_t n,
                       bool *open)
{
    const PfqTokNode *root = t->priv[sec], *p = root;
    if (tok_head(t)->sec[sec].count == 0) return false;
    for (size_t j = 0; j < n; j++) {
        p = trie_child(root, p, (unsigned char)s[j]);
        if (!p) return false;
        if (p->id >= 0 && (kind_of(t, (uint32_t)p->id) & PFQ_TOKK_SPECIAL)) return true;
    }
    *open = true;
    return false;
}

size_t pfq_tok_guard(const PfqTokenizer *t, const char *s, size_t n, char *out)
{
    size_t k = 0;
    bool open = false;
    for (size_t i = 0; i < n; i++) {
        out[k++] = s[i];
        if (special_at(t, PFQ_SEC_ADDED, s + i, n - i, &open) ||
            special_at(t, PFQ_SEC_ADDED_NORM, s + i, n - i, &open))
            out[k++] = PFQ_TOK_GUARD;
    }
    if (open && out[k - 1] != PFQ_TOK_GUARD) out[k++] = PFQ_TOK_GUARD;
    return k;
}

/* A part between all added tokens: put the prefix in front if that is due only now, and cut it into
 * pieces. */
static void encode_part(Enc *e, const char *s, size_t n, bool first)
{
    char *own = NULL, *plain = NULL;
    if ((e->flags & PFQ_TOK_GUARDED) && memchr(s, PFQ_TOK_GUARD, n)) {
        s = plain = without_guards(s, &n);
        e->failed = e->failed || !s;
    }
    if (n == 0 || e->failed) {
        free(plain);
        return;
    }
    if (e->h->flags & PFQ_TOKF_LATE) s = metaspace(e, s, &n, first, &own);
    if (!e->failed) split(e, 0, s, n);
    free(own);
    free(plain);
}

/* A part that is normalised: cut out the added tokens that are looked for here. */
static void encode_normal(Enc *e, const char *s, size_t n, bool first)
{
    for (size_t at = 0; at < n && !e->failed;) {
        Found f = find_added(e, PFQ_SEC_ADDED_NORM, s, n, at);
        encode_part(e, s + at, f.start - at, first && at == 0);
        if (f.id >= 0) emit(e, (uint32_t)f.id);
        at = f.end;
    }
}

/* A part of the raw text between added tokens: normalise it. */
static void encode_raw(Enc *e, const char *s, size_t n, bool first)
{
    char *nfc = NULL, *own = NULL;
    size_t nfc_n;
    if (n == 0) return;
    if (e->h->flags & PFQ_TOKF_NFC) {
        if (!pfq_nfc(s, n, &nfc, &nfc_n)) e->failed = true;
        if (nfc) {
            s = nfc;
            n = nfc_n;
        }
    }
    if (!e->failed && !(e->h->flags & PFQ_TOKF_LATE)) s = metaspace(e, s, &n, first, &own);
    if (!e->failed) encode_normal(e, s, n, first);
    free(own);
    free(nfc);
}

ptrdiff_t pfq_tok_encode(const PfqTokenizer *t, const char *text, size_t n, unsigned flags,
                         int32_t **ids)
{
    Enc e = {.t = t, .h = tok_head(t), .flags = flags};
    *ids = NULL;
    e.cap = n / 4 + 16;
    e.out = malloc(e.cap * sizeof *e.out);
    if (!e.out) return -1;
    bool bos = (flags & PFQ_TOK_BOS) || ((flags & PFQ_TOK_POLICY) && t->add_bos);
    if (bos && t->bos >= 0) emit(&e, (uint32_t)t->bos);
    for (size_t at = 0; at < n && !e.failed;) {
        Found f = find_added(&e, PFQ_SEC_ADDED, text, n, at);
        encode_raw(&e, text + at, f.start - at, at == 0);
        if (f.id >= 0) emit(&e, (uint32_t)f.id);
        at = f.end;
    }
    pfq_merge_free(&e.merge);
    if (e.failed || e.n > PTRDIFF_MAX) {
        free(e.out);
        return -1;
    }
    *ids = e.out;
    return (ptrdiff_t)e.n;
}

uint32_t pfq_tok_unicode(void)
{
    return pfq_uc_version;
}

bool pfq_tok_merges_to(const PfqTokenizer *t, const char *piece, size_t n, int32_t id)
{
    PfqMergeBuf b = {0};
    if (n == 0 || n > PFQ_TOK_MAX_PIECE || !pfq_merge_reserve(&b, n)) return false;
    size_t k = piece_symbols(t, piece, n, b.sym);
    bool ok = pfq_merge(t, &b, &k) && k == 1 && b.sym[0] == (uint32_t)id;
    pfq_merge_free(&b);
    return ok;
}

/* ---- decoding ---- */

size_t pfq_tok_longest(const PfqTokenizer *t)
{
    const uint32_t n = tok_head(t)->max_piece;
    return n ? n : 1;
}

bool pfq_tok_is_special(const PfqTokenizer *t, int32_t id)
{
    return id >= 0 && id < t->vocab && (kind_of(t, (uint32_t)id) & PFQ_TOKK_SPECIAL);
}

bool pfq_tok_is_eog(const PfqTokenizer *t, int32_t id)
{
    return id >= 0 && id < t->vocab && (kind_of(t, (uint32_t)id) & PFQ_TOKK_EOG);
}

const char *pfq_tok_piece(const PfqTokenizer *t, int32_t id, bool special, char *buf, size_t *len)
{
    *len = 0;
    if (id < 0 || id >= t->vocab || (!special && pfq_tok_is_special(t, id))) return buf;
    const uint32_t *off = (const uint32_t *)t->priv[PFQ_SEC_PRINT_OFF] + id;
    *len = off[1] - off[0];
    return (const char *)t->priv[PFQ_SEC_PRINT] + off[0];
}

const char *pfq_tok_first_piece(const PfqTokenizer *t, int32_t id, char *buf, size_t *len)
{
    const char *p = pfq_tok_piece(t, id, false, buf, len);
    const bool strip = (tok_head(t)->flags & PFQ_TOKF_STRIP) && *len > 0 && *p == ' ';
    *len -= strip;
    return p + strip;
}

char *pfq_tok_decode(const PfqTokenizer *t, const int32_t *ids, size_t n, bool special, size_t *len)
{
    char buf[16];
    size_t total = 0, at = 0, k;
    for (size_t i = 0; i < n; i++) {
        pfq_tok_piece(t, ids[i], special, buf, &k);
        if (__builtin_add_overflow(total, k, &total)) return NULL;
    }
    char *out = total < SIZE_MAX ? malloc(total + 1) : NULL;
    if (!out) return NULL;
    for (size_t i = 0; i < n; i++) {
        const char *s = pfq_tok_piece(t, ids[i], special, buf, &k);
        memcpy(out + at, s, k);
        at += k;
    }
    if ((tok_head(t)->flags & PFQ_TOKF_STRIP) && at > 0 && out[0] == ' ')
        memmove(out, out + 1, --at);
    out[at] = '\0';
    *len = at;
    return out;
}
