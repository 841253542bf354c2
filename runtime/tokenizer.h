/* Text <-> token ids, over tables that pfqc builds at compile time (frontend/tok_*.c) and ships as
 * one blob.
 *
 * The same code runs in the shipped binary and in the compiler (calibration). The blob is position
 * independent, little-endian, and is validated by pfq_tok_open: every offset and count is checked
 * once, so the functions below cannot read outside it whatever the text or the ids are. A
 * PfqTokenizer is immutable after open and may be shared by threads. Nothing here allocates except
 * where said.
 *
 * Encoding: text -> added tokens written in it are cut out -> each part is normalised (NFC, spaces
 * to U+2581, a prefix) -> cut into pieces by the splitter stages -> pieces become symbols (bytes or
 * characters) -> symbols are merged, lowest rank first, leftmost first among equals. Byte-level
 * BPE, BPE with byte fallback, SentencePiece BPE and tiktoken all are this with other tables; only
 * the tables' builder knows the difference. Invalid UTF-8: a byte outside any well-formed sequence
 * is one character of no class and keeps its value, so byte-level and byte-fallback vocabularies
 * round-trip any input. Not here: chat templates, sampling.
 */
#ifndef PFQC_RUNTIME_TOKENIZER_H
#define PFQC_RUNTIME_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct PfqTokenizer {
    const unsigned char *blob; /* not owned */
    size_t bytes;
    int32_t vocab;         /* ids are 0 .. vocab-1 */
    int32_t bos, eos, unk; /* -1 if the tokenizer has none */
    bool add_bos;          /* the tokenizer's own policy (post-processor, GGUF key) */
    const void *priv[12];  /* tables inside blob by PfqTokSection, set by pfq_tok_open */
} PfqTokenizer;

enum {
    PFQ_TOK_BOS = 1u << 0,     /* put BOS in front (whatever the policy says) */
    PFQ_TOK_POLICY = 1u << 1,  /* follow the tokenizer's own BOS policy */
    PFQ_TOK_SPECIAL = 1u << 2, /* special tokens written in the text become their ids */
    PFQ_TOK_GUARDED = 1u << 3, /* the text has guards: they are dropped, tokens end at them */
};

/* A byte that no UTF-8 has: where pfq_tok_guard puts it, an added token is not recognised. */
#define PFQ_TOK_GUARD '\xff'

/* Returns NULL, or a static sentence saying what is wrong with the blob. */
const char *pfq_tok_open(PfqTokenizer *t, const void *blob, size_t bytes);

/* Encodes text[0..n) (any bytes; invalid UTF-8 is handled as the reference does). On success
 * returns the number of ids and a malloc'ed array in *ids (free it); returns -1 when out of memory.
 */
ptrdiff_t pfq_tok_encode(const PfqTokenizer *t, const char *text, size_t n, unsigned flags,
                         int32_t **ids);

/* Copies s[0..n) to out [2 * n], with guards that keep the special tokens spelled out in it, or
 * begun at its end, from being read as such by PFQ_TOK_SPECIAL | PFQ_TOK_GUARDED. Returns the bytes
 * of out: n if it needs no guard. */
size_t pfq_tok_guard(const PfqTokenizer *t, const char *s, size_t n, char *out);

/* The bytes of one token as generation prints them: *len bytes, not terminated, may be part of a
 * UTF-8 sequence. Out-of-range ids and unprinted special tokens (unless `special`) give *len = 0.
 * `buf` (>= 16 bytes) is used for tokens that have no stored bytes. */
const char *pfq_tok_piece(const PfqTokenizer *t, int32_t id, bool special, char *buf, size_t *len);

/* The same for the first token of a text of its own: without the leading space that the tokenizer's
 * own decoder strips. */
const char *pfq_tok_first_piece(const PfqTokenizer *t, int32_t id, char *buf, size_t *len);

/* Decodes ids into a malloc'ed, NUL-terminated string (may contain NULs before *len); NULL when out
 * of memory. A leading space that the tokenizer's own decoder strips is stripped. */
char *pfq_tok_decode(const PfqTokenizer *t, const int32_t *ids, size_t n, bool special,
                     size_t *len);

bool pfq_tok_is_eog(const PfqTokenizer *t, int32_t id); /* end-of-generation: eos and its kin */
size_t pfq_tok_longest(const PfqTokenizer *t);          /* bytes of the longest token, at least 1 */
bool pfq_tok_is_special(const PfqTokenizer *t, int32_t id);

/* Unicode version of this runtime's category tables: 0x0F0000 is 15.0.0. */
uint32_t pfq_tok_unicode(void);

/* For the builder: merges one piece (no splitting, no normalisation) and says whether it becomes
 * `id` alone. */
bool pfq_tok_merges_to(const PfqTokenizer *t, const char *piece, size_t n, int32_t id);

/* ---- The blob: written by frontend/tok_blob.c, read by runtime/tokenizer.c. All fields
 * little-endian. ---- */

#define PFQ_TOK_MAGIC   "PFQT"
#define PFQ_TOK_VERSION 1u
#define PFQ_TOK_NONE    UINT32_MAX

enum {
    PFQ_TOK_MAX_VOCAB = 1 << 21,
    PFQ_TOK_MAX_MERGES = 1 << 22,
    PFQ_TOK_MAX_PIECE = 1 << 16, /* bytes of one token */
    PFQ_TOK_MAX_STAGES = 8,
};

/* Pre-tokenizer stages: each cuts every piece of the stage before into its matches and what lies
 * between them. The pattern is the specification: tests run it in PCRE2 beside our matcher, and
 * tokenizer.json's pattern strings are looked up here. `\s` is [\t-\r\x{85}\p{Z}]. X(ID, pattern)
 */
#define PFQ_TOK_CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define PFQ_TOK_O200K_WORD(suffix)                                                                 \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*"                                  \
    "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+" suffix                                                        \
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+"                                 \
    "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*" suffix
#define PFQ_TOK_O200K_TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define PFQ_TOK_SPLITS(X)                                                                          \
    X(GPT2, "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+")  \
    X(LLAMA3,                                                                                      \
      PFQ_TOK_CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"                             \
                          "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")        \
    X(QWEN2, PFQ_TOK_CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"                           \
                                 "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+") \
    X(QWEN35,                                                                                      \
      PFQ_TOK_CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}"                          \
                          "| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")  \
    X(O200K, PFQ_TOK_O200K_WORD(PFQ_TOK_CONTRACTION "?") "|\\p{N}{1,3}" PFQ_TOK_O200K_TAIL)        \
    X(TEKKEN, PFQ_TOK_O200K_WORD("") "|\\p{N}" PFQ_TOK_O200K_TAIL)                                 \
    X(DEEPSEEK3, "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"                           \
                 "|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*"         \
                 "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")                                                \
    X(DIGIT, "\\p{N}")                                                                             \
    X(DIGITS, "\\p{N}+")                                                                           \
    X(DIGIT3, "\\p{N}{1,3}")                                                                       \
    X(ASCII3, "[0-9][0-9][0-9]")                                                                   \
    X(NEWLINE, "[\\r\\n]")                                                                         \
    X(WORD, "\\s?\\p{L}+")                                                                         \
    X(PUNCT, "\\s?\\p{P}+")                                                                        \
    X(CJK, "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+")                          \
    X(KANA, "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+")                        \
    X(FALCON_PUNCT, "[\\p{P}$+<=>^~|`]+")                                                          \
    X(BYTE_DIGITS,                                                                                 \
      "[0-9\\xb2\\xb3\\xb9\\xbc-\\xbe]+") /* over bytes: digits after the byte alphabet */         \
    X(METASPACE, "\\x{2581}?[^\\x{2581}]*+")

typedef enum PfqTokSplit {
    PFQ_SPLIT_NONE,
#define X(id, pattern) PFQ_SPLIT_##id,
    PFQ_TOK_SPLITS(X)
#undef X
        PFQ_SPLIT_COUNT
} PfqTokSplit;

/* PfqTokHead.flags */
enum {
    PFQ_TOKF_ADD_BOS = 1u << 0,
    PFQ_TOKF_CHARS = 1u << 1,     /* symbols are characters, not bytes */
    PFQ_TOKF_METASPACE = 1u << 2, /* ' ' is U+2581 inside the vocabulary */
    PFQ_TOKF_FUSE_UNK = 1u << 3,  /* neighbouring unknowns are one */
    PFQ_TOKF_NFC = 1u << 4,
    PFQ_TOKF_STRIP = 1u << 5, /* decoding drops one leading space */
    PFQ_TOKF_LATE = 1u << 6,  /* prefix and U+2581 come after the cut at PFQ_SEC_ADDED_NORM */
};

/* The space put in front of a part of the text. */
typedef enum PfqTokPrefix {
    PFQ_PREFIX_NEVER,
    PFQ_PREFIX_ALWAYS,
    PFQ_PREFIX_IF_MISSING,       /* unless the part starts with one */
    PFQ_PREFIX_FIRST_IF_MISSING, /* the same, only for the part at the start of the text */
    PFQ_PREFIX_COUNT
} PfqTokPrefix;

/* PFQ_SEC_KIND, per token */
enum {
    PFQ_TOKK_SPECIAL = 1u << 0, /* not printed, and not read from text, unless asked */
    PFQ_TOKK_EOG = 1u << 1,
    PFQ_TOKK_WHOLE = 1u << 2,  /* a piece equal to this token is this token: no need to merge */
    PFQ_TOKK_LSTRIP = 1u << 3, /* added token that swallows the white space before it */
    PFQ_TOKK_RSTRIP = 1u << 4,
    PFQ_TOKK_WORD = 1u << 5, /* added token that matches whole words only */
};

typedef enum PfqTokSection {
    PFQ_SEC_STR_OFF,    /* u32 [n_sym + 1] into PFQ_SEC_STR: the bytes merging works on */
    PFQ_SEC_STR,        /* u8 */
    PFQ_SEC_PRINT_OFF,  /* u32 [vocab + 1] into PFQ_SEC_PRINT: the bytes decoding prints */
    PFQ_SEC_PRINT,      /* u8 */
    PFQ_SEC_KIND,       /* u8 [vocab] */
    PFQ_SEC_BYTE,       /* u32 [256]: symbol of a byte (alphabet or fallback), or PFQ_TOK_NONE */
    PFQ_SEC_HASH,       /* u32: string -> symbol + 1, open-addressed by pfq_tok_hash, 0 = empty */
    PFQ_SEC_MERGE,      /* PfqTokMerge: open-addressed (left, right), empty: left = PFQ_TOK_NONE */
    PFQ_SEC_ADDED,      /* PfqTokNode: trie of added tokens looked for in the raw text */
    PFQ_SEC_ADDED_NORM, /* the same, looked for in the normalised text */
    PFQ_SEC_JOIN, /* u8 [8192] or none: bit (left byte << 8 | right byte) says that some merge may
                     join two characters that meet in these bytes */
    PFQ_SEC_COUNT
} PfqTokSection;

typedef struct PfqTokMerge {
    uint32_t left, right, rank, result;
} PfqTokMerge;

/* Node 0 is the root; children are neighbours, sorted by byte, after their parent. */
typedef struct PfqTokNode {
    uint32_t child, n_child;
    uint32_t byte;
    int32_t id; /* token that ends here, or -1 */
} PfqTokNode;

/* Symbols are the tokens and, after them, characters that occur inside tokens without being one. */
typedef struct PfqTokHead {
    char magic[4];
    uint32_t version, bytes;
    uint32_t unicode; /* version of the category tables the splitters were built with */
    uint32_t vocab, n_sym;
    int32_t bos, eos, unk;
    uint32_t flags;
    uint32_t prefix;                   /* PfqTokPrefix */
    uint32_t max_piece;                /* longest string of a symbol, bytes */
    uint8_t stage[PFQ_TOK_MAX_STAGES]; /* PfqTokSplit, ended by NONE or the array's end */
    struct {
        uint32_t off, count; /* bytes from the blob's start, multiple of 4; elements */
    } sec[PFQ_SEC_COUNT];
} PfqTokHead;

static inline uint64_t pfq_tok_mix(uint64_t h)
{
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    return h ^ h >> 32;
}

static inline uint64_t pfq_tok_hash(const void *p, size_t n)
{
    const unsigned char *s = p;
    uint64_t h = n * 0x9e3779b97f4a7c15u;
    for (; n >= 8; n -= 8, s += 8) {
        uint64_t w;
        __builtin_memcpy(&w, s, 8);
        h = pfq_tok_mix(h ^ w);
    }
    for (; n > 0; n--)
        h = (h ^ *s++) * 0x100000001b3u;
    return pfq_tok_mix(h);
}

static inline uint64_t pfq_tok_hash_pair(uint32_t left, uint32_t right)
{
    return pfq_tok_mix(((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u);
}

/* First slot of a hash in a table of n slots (n < 2^32). */
static inline uint32_t pfq_tok_slot(uint64_t hash, uint32_t n)
{
    return (uint32_t)((hash >> 32) * n >> 32);
}

#endif
