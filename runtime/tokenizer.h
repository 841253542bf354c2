/* Text <-> token ids, over tables that pfqc builds at compile time (frontend/tok_*.c) and ships as one blob.
 *
 * The same code runs in the shipped binary and in the compiler (calibration). The blob is position
 * independent, little-endian, and is validated by pfq_tok_open: every offset and count is checked once, so
 * the functions below cannot read outside it whatever the text or the ids are. A PfqTokenizer is immutable
 * after open and may be shared by threads. Nothing here allocates except where said.
 */
#ifndef PFQC_RUNTIME_TOKENIZER_H
#define PFQC_RUNTIME_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct PfqTokenizer {
    const unsigned char *blob; /* not owned */
    size_t bytes;
    int32_t vocab;             /* ids are 0 .. vocab-1 */
    int32_t bos, eos, unk;     /* -1 if the tokenizer has none */
    bool add_bos;              /* the tokenizer's own policy (post-processor, GGUF key) */
    const void *priv[12];      /* tables inside blob, set by pfq_tok_open */
} PfqTokenizer;

enum {
    PFQ_TOK_BOS = 1u << 0,     /* put BOS in front (whatever the policy says) */
    PFQ_TOK_POLICY = 1u << 1,  /* follow the tokenizer's own BOS policy */
    PFQ_TOK_SPECIAL = 1u << 2, /* special tokens written in the text become their ids */
};

/* Returns NULL, or a static sentence saying what is wrong with the blob. */
const char *pfq_tok_open(PfqTokenizer *t, const void *blob, size_t bytes);

/* Encodes text[0..n) (any bytes; invalid UTF-8 is handled as the reference does). On success returns the
 * number of ids and a malloc'ed array in *ids (free it); returns -1 when out of memory. */
ptrdiff_t pfq_tok_encode(const PfqTokenizer *t, const char *text, size_t n, unsigned flags, int32_t **ids);

/* The bytes of one token as generation prints them: *len bytes, not terminated, may be part of a UTF-8
 * sequence. Out-of-range ids and unprinted special tokens (unless `special`) give *len = 0. `buf` (>= 16
 * bytes) is used for tokens that have no stored bytes. */
const char *pfq_tok_piece(const PfqTokenizer *t, int32_t id, bool special, char *buf, size_t *len);

/* Decodes ids into a malloc'ed, NUL-terminated string (may contain NULs before *len); NULL when out of
 * memory. A leading space that the tokenizer's own decoder strips is stripped. */
char *pfq_tok_decode(const PfqTokenizer *t, const int32_t *ids, size_t n, bool special, size_t *len);

bool pfq_tok_is_eog(const PfqTokenizer *t, int32_t id); /* end-of-generation: eos and its kin */
bool pfq_tok_is_special(const PfqTokenizer *t, int32_t id);

#endif
