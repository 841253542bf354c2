/* The toy model's tokenizer: ids 0-255 are bytes, then BOS, EOS and one more special token; the
 * rest print as "[id]". */
#include "fake_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/tokenizer.h"

static const char *const specials[] = {"<s>", "</s>", "<|x|>"};

const char *pfq_tok_open(PfqTokenizer *t, const void *blob, size_t bytes)
{
    *t = (PfqTokenizer){.blob = blob,
                        .bytes = bytes,
                        .vocab = FAKE_VOCAB,
                        .bos = FAKE_BOS,
                        .eos = FAKE_EOS,
                        .unk = -1};
    return bytes == 1 ? NULL : "its length is wrong";
}

ptrdiff_t pfq_tok_encode(const PfqTokenizer *t, const char *text, size_t n, unsigned flags,
                         int32_t **ids)
{
    int32_t *out = malloc((n + 2) * sizeof *out);
    ptrdiff_t k = 0;
    if (!out) {
        return -1;
    }
    if (flags & PFQ_TOK_BOS) {
        out[k++] = t->bos;
    }
    for (size_t i = 0; i < n;) {
        size_t len = 0;
        for (int s = 0; s < 3 && (flags & PFQ_TOK_SPECIAL) && !len; s++) {
            size_t m = strlen(specials[s]);
            if (i + m <= n && memcmp(text + i, specials[s], m) == 0) {
                out[k++] = FAKE_BOS + s;
                len = m;
            }
        }
        if (!len) {
            if (text[i] != PFQ_TOK_GUARD || !(flags & PFQ_TOK_GUARDED)) {
                out[k++] = (unsigned char)text[i];
            }
            len = 1;
        }
        i += len;
    }
    *ids = out;
    return k;
}

size_t pfq_tok_guard(const PfqTokenizer *t, const char *s, size_t n, char *out)
{
    size_t k = 0;
    (void)t;
    for (size_t i = 0; i < n; i++) {
        out[k++] = s[i];
        if (s[i] == '<') {
            out[k++] = PFQ_TOK_GUARD;
        }
    }
    return k;
}

const char *pfq_tok_piece(const PfqTokenizer *t, int32_t id, bool special, char *buf, size_t *len)
{
    if (id < 0 || id >= t->vocab || (pfq_tok_is_special(t, id) && !special)) {
        *len = 0;
        return buf;
    }
    if (id < 256) {
        buf[0] = (char)id;
        *len = 1;
    } else if (id <= FAKE_SPECIAL) {
        *len = strlen(specials[id - FAKE_BOS]);
        return specials[id - FAKE_BOS];
    } else {
        *len = (size_t)snprintf(buf, 16, "[%d]", id);
    }
    return buf;
}

const char *pfq_tok_first_piece(const PfqTokenizer *t, int32_t id, char *buf, size_t *len)
{
    return pfq_tok_piece(t, id, false, buf, len);
}

char *pfq_tok_decode(const PfqTokenizer *t, const int32_t *ids, size_t n, bool special, size_t *len)
{
    char *out = malloc(n * 16 + 1);
    *len = 0;
    for (size_t i = 0; out && i < n; i++) {
        char buf[16];
        size_t m;
        const char *p = pfq_tok_piece(t, ids[i], special, buf, &m);
        memcpy(out + *len, p, m);
        *len += m;
    }
    if (out) {
        out[*len] = 0;
    }
    return out;
}

bool pfq_tok_is_eog(const PfqTokenizer *t, int32_t id)
{
    return id == t->eos;
}

size_t pfq_tok_longest(const PfqTokenizer *t)
{
    (void)t;
    return 5;
}

bool pfq_tok_is_special(const PfqTokenizer *t, int32_t id)
{
    (void)t;
    return id >= FAKE_BOS && id <= FAKE_SPECIAL;
}
