#include "frontend/calib_text.h"

#include <stdlib.h>

extern const struct FeCarriedText { /* frontend/text, embedded; ends with zeros */
    const char *name, *text;
    u64 bytes;
} fe_texts[];

enum { MAX_TEXT = 1 << 30 };

static bool open_tokenizer(Diag *d, const TokBlob *tok, PfqTokenizer *t)
{
    const char *wrong = tok->data ? pfq_tok_open(t, tok->data, tok->n) : "the model has none";
    return !wrong || diag_error(d, E_TOKENIZER, LOC_WHAT("calibration"),
                                "text needs a tokenizer, which cannot be used: %s", wrong);
}

static bool encode(Diag *d, Arena *a, const PfqTokenizer *t, const char *text, size_t n,
                   unsigned flags, FeText *out)
{
    int32_t *ids;
    ptrdiff_t count = pfq_tok_encode(t, text, n, flags, &ids);
    if (count < 0)
        return diag_error(d, E_LIMIT, LOC_WHAT("calibration"), "out of memory for tokens");
    i32 *copy = NEWN(a, i32, count);
    if (count) memcpy(copy, ids, (size_t)count * sizeof *copy);
    free(ids);
    *out = (FeText){copy, count, t->bos, t->eos};
    return true;
}

bool fe_text_load(Diag *d, Arena *a, const TokBlob *tok, const char *const *path, u32 n,
                  bool policy, FeText *out)
{
    PfqTokenizer t;
    StrBuf text = {.a = a};
    if (!open_tokenizer(d, tok, &t)) return false;
    if (!n) sb_add(&text, fe_texts[0].text, fe_texts[0].bytes);
    for (u32 i = 0; i < n; i++) {
        Source src;
        if (!io_read_text(d, a, path[i], MAX_TEXT, &src)) return false;
        sb_add(&text, src.text, src.n);
    }
    return encode(d, a, &t, text.p, text.n, policy ? PFQ_TOK_POLICY : 0, out);
}

static bool is_ids(const char *s)
{
    if (strspn(s, "0123456789, ") != strlen(s)) return false;
    return strpbrk(s, "0123456789") != NULL;
}

bool fe_prefix_ids(Diag *d, Arena *a, const TokBlob *tok, const char *text, const char **out)
{
    PfqTokenizer t;
    FeText ids;
    StrBuf b = {.a = a};
    *out = text;
    if (strcmp(text, "none") == 0 || is_ids(text)) return true;
    if (!*text)
        return diag_error(d, E_USAGE, LOC_WHAT("--prefix"),
                          "is empty; expected ids, a text, or none");
    if (!open_tokenizer(d, tok, &t) || !encode(d, a, &t, text, strlen(text), PFQ_TOK_SPECIAL, &ids))
        return false;
    for (i64 i = 0; i < ids.n; i++)
        sb_printf(&b, "%s%d", i ? "," : "", ids.tokens[i]);
    *out = b.p;
    return true;
}

bool fe_token_names(Arena *a, const TokBlob *tok, FeTokenNames *out)
{
    out->a = a;
    return tok->data && !pfq_tok_open(&out->t, tok->data, tok->n);
}

Str fe_token_text(void *names, i32 id)
{
    FeTokenNames *n = names;
    char buf[16];
    size_t len;
    StrBuf b = {.a = n->a};
    const char *piece = pfq_tok_piece(&n->t, id, true, buf, &len);
    sb_str(&b, "");
    if (utf8_valid((Str){piece, len}))
        sb_add(&b, piece, len);
    else
        for (size_t i = 0; i < len; i++)
            sb_printf(&b, "\\x%02x", (unsigned char)piece[i]);
    return (Str){b.p, b.n};
}
