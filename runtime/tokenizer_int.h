/* Between the tokenizer's own files: splitters (tokenizer_split.c), merging (tokenizer_merge.c),
 * and the tables as tokenizer.c found them in the blob. Everything is thread-safe; scratch memory
 * belongs to the caller. */
#ifndef PFQC_RUNTIME_TOKENIZER_INT_H
#define PFQC_RUNTIME_TOKENIZER_INT_H

#include "runtime/tokenizer.h"

/* Finds the next match of the stage's pattern at or after *end (0 at first). False: no more. kind
 * is not NONE. */
bool pfq_split_next(PfqTokSplit kind, const char *s, size_t n, size_t *start, size_t *end);

static inline const PfqTokHead *tok_head(const PfqTokenizer *t)
{
    return (const PfqTokHead *)(const void *)t->blob;
}

/* Growable scratch of one encode call. `sym` is filled by the caller, merged in place. */
typedef struct PfqMergeBuf {
    uint32_t *sym; /* [cap] */
    size_t cap;
    uint32_t *prev, *next, *rank, *result; /* [long_cap], for long pieces */
    uint64_t *heap;                        /* [2 * long_cap] */
    size_t long_cap;
} PfqMergeBuf;

bool pfq_merge_reserve(PfqMergeBuf *b,
                       size_t n); /* room for n symbols in sym; false: out of memory */
void pfq_merge_free(PfqMergeBuf *b);

/* Merges b->sym[0..*n): always the pair of lowest rank, the leftmost among equals. n < 2^31. False:
 * out of memory. */
bool pfq_merge(const PfqTokenizer *t, PfqMergeBuf *b, size_t *n);

#endif
