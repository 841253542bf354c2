#include "frontend/ck_tensor.h"

#include <stdlib.h>

u64 ck_elements(const CkTensor *t)
{
    u64 n = 1;
    for (u32 i = 0; i < t->rank; i++)
        n *= t->dim[i];
    return n;
}

const char *ck_show(Arena *a, Str s)
{
    enum { CUT = 80 };
    StrBuf b = {.a = a};
    size_t n = s.n < CUT ? s.n : CUT;
    bool utf8 = utf8_valid(s);
    while (utf8 && n < s.n && n && ((u8)s.p[n] & 0xc0) == 0x80)
        n--; /* do not cut inside a character */
    for (size_t i = 0; i < n; i++) {
        u8 c = (u8)s.p[i];
        if (c < 32 || c == 127 || (c >= 128 && !utf8))
            sb_printf(&b, "\\x%02x", c);
        else
            sb_ch(&b, (char)c);
    }
    sb_str(&b, n < s.n ? "..." : "");
    return b.p;
}

bool ck_check_name(Diag *d, Arena *a, Loc loc, Str name)
{
    if (name.n == 0) return diag_error(d, E_FILE_FORMAT, loc, "a tensor without a name");
    if (name.n > CK_MAX_NAME)
        return diag_error(d, E_LIMIT, loc,
                          "the tensor name '%s' has %zu bytes, more than the limit of %d",
                          ck_show(a, name), name.n, CK_MAX_NAME);
    if (!utf8_valid(name))
        return diag_error(d, E_FILE_FORMAT, loc, "the tensor name '%s' is not valid UTF-8",
                          ck_show(a, name));
    return true;
}

bool ck_size(Diag *d, Arena *a, Loc loc, CkTensor *t)
{
    const EncInfo *e = enc_info((EncId)t->enc);
    u64 n = 1;
    /* A dimension of 0 must not hide an overflow of the others: stride computations multiply those
     * alone. */
    for (u32 i = 0; i < t->rank; i++)
        if (!ckd_mul(&n, n, t->dim[i] ? t->dim[i] : 1) || n > INT64_MAX)
            return diag_error(d, E_FILE_FORMAT, loc,
                              "tensor '%s': the product of its dimensions does not fit 63 bits",
                              ck_show(a, t->name));
    u64 row = t->rank ? t->dim[t->rank - 1] : 1;
    if (row % e->block != 0)
        return diag_error(
            d, E_FILE_FORMAT, loc,
            "tensor '%s' is stored as %s, but its rows of %llu elements are not whole blocks of %u",
            ck_show(a, t->name), e->name, (unsigned long long)row, e->block);
    if (!enc_bytes((EncId)t->enc, ck_elements(t), &t->bytes))
        return diag_error(d, E_FILE_FORMAT, loc, "tensor '%s': its size does not fit 64 bits",
                          ck_show(a, t->name));
    return true;
}

/* qsort has no context argument: sort copies of what is compared. */
typedef struct Range {
    u64 offset, bytes;
    u32 index;
} Range;

static int by_offset(const void *x, const void *y)
{
    const Range *a = x, *b = y;
    if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
    if (a->bytes != b->bytes) return a->bytes < b->bytes ? -1 : 1;
    return a->index < b->index ? -1 : 1;
}

bool ck_check_layout(Diag *d, Arena *a, const Source *src, const CkTensor *t, u32 n, u64 start,
                     u64 align, u64 *end)
{
    Range *r = xmalloc(n, sizeof *r);
    for (u32 i = 0; i < n; i++)
        r[i] = (Range){t[i].offset, t[i].bytes, i};
    qsort(r, n, sizeof *r, by_offset);
    const CkTensor *before = NULL;
    bool ok = true;
    for (u32 i = 0; i < n && ok; i++) {
        const CkTensor *now = &t[r[i].index];
        Loc loc = {.src = src, .off = now->offset};
        if (now->offset < start)
            ok = diag_error(d, E_FILE_FORMAT, loc, "tensor '%s' overlaps %s%s%s",
                            ck_show(a, now->name), before ? "tensor '" : "the header",
                            before ? ck_show(a, before->name) : "", before ? "'" : "");
        else if (now->offset - start >= align)
            ok = diag_error(d, E_FILE_FORMAT, loc,
                            "%llu bytes before tensor '%s' belong to no tensor",
                            (unsigned long long)(now->offset - start), ck_show(a, now->name));
        start = now->offset + now->bytes;
        before = now;
    }
    free(r);
    *end = start;
    return ok;
}

void ck_hint_encodings(Diag *d, Arena *a, bool gguf)
{
    StrBuf b = {.a = a};
    for (int e = ENC_NONE + 1; e < ENC_COUNT; e++) {
        const EncInfo *i = enc_info((EncId)e);
        if (gguf ? i->gguf < 0 : !i->safetensors) continue;
        if (b.n) sb_str(&b, ", ");
        sb_str(&b, gguf ? i->name : i->safetensors);
    }
    diag_hint(d, "supported: %s", b.p);
}
