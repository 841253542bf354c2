/* What every tokenizer harness does with a blob that was accepted: encode, decode, ask for ids that
 * do not exist. */
#ifndef PFQC_TESTS_FUZZ_TOKENIZER_H
#define PFQC_TESTS_FUZZ_TOKENIZER_H

#include "frontend/tokenizer.h"
#include "tests/fuzz/fuzz.h"

static inline void fuzz_encode(const PfqTokenizer *t, const char *s, size_t n, unsigned flags)
{
    int32_t *ids;
    char buf[16];
    size_t len;
    ptrdiff_t k = pfq_tok_encode(t, s, n, flags, &ids);
    FUZZ_REQUIRE(k >= 0);
    for (ptrdiff_t i = 0; i < k; i++) {
        FUZZ_REQUIRE(ids[i] >= 0 && ids[i] < t->vocab);
        const char *p = pfq_tok_piece(t, ids[i], true, buf, &len);
        for (size_t j = 0; j < len; j++)
            FUZZ_REQUIRE(p[j] >= -128);
    }
    char *text = pfq_tok_decode(t, ids, (size_t)k, true, &len);
    FUZZ_REQUIRE(text && text[len] == '\0');
    free(text);
    free(ids);
}

static inline void fuzz_blob(const void *blob, size_t n, const char *more, size_t n_more)
{
    static const char text[] = " ab abc 12\xc3\xa9 e\xcc\x81 <e><s>[w] [w]  x\xff\xe2\x96\x81 "
                               "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab\n";
    static const int32_t bad[] = {-1, INT32_MIN, INT32_MAX, 0, 1};
    PfqTokenizer t;
    size_t len;
    if (pfq_tok_open(&t, blob, n)) return;
    for (unsigned flags = 0; flags < 8; flags++)
        fuzz_encode(&t, text, sizeof text, flags);
    fuzz_encode(&t, more, n_more < 4096 ? n_more : 4096, PFQ_TOK_SPECIAL);
    char *s = pfq_tok_decode(&t, bad, sizeof bad / sizeof *bad, false, &len);
    FUZZ_REQUIRE(s);
    free(s);
    FUZZ_REQUIRE(!pfq_tok_is_eog(&t, t.vocab) && !pfq_tok_is_special(&t, -1));
}

/* One reader over one input: it refuses with a diagnostic or gives a blob that opens. */
static inline void fuzz_reader(bool (*read)(Diag *, Arena *, const Source *, const TokSpecials *,
                                            TokBlob *),
                               const char *name, const uint8_t *data, size_t size)
{
    Arena a = {0};
    Diag d;
    Source src = {name, (const char *)data, size};
    TokBlob blob;
    PfqTokenizer t;
    diag_init(&d, &a);
    bool ok = read(&d, &a, &src, NULL, &blob);
    fuzz_verdict(&d, ok, DIAG_MAX);
    if (ok) {
        FUZZ_REQUIRE(!pfq_tok_open(&t, blob.data, blob.n));
        fuzz_blob(blob.data, blob.n, (const char *)data, size);
    }
    arena_free(&a);
}

#endif
