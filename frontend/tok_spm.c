/* tokenizer.model in its two forms: SentencePiece's protobuf (BPE models) and Llama 3's tiktoken
 * ranks. */
#include "frontend/tok_build.h"

#include "ir/base/half.h"

/* ---- protobuf wire format ---- */

typedef struct Wire {
    const u8 *p, *end;
} Wire;

typedef struct Field {
    u32 number, type; /* wire types: 0 varint, 1 64-bit, 2 bytes, 5 32-bit */
    u64 value;        /* varint or fixed */
    Wire bytes;
} Field;

static bool varint(Wire *w, u64 *out)
{
    *out = 0;
    for (u32 shift = 0; shift < 64; shift += 7) {
        if (w->p == w->end) return false;
        u8 b = *w->p++;
        *out |= (u64)(b & 0x7f) << shift;
        if (b < 0x80) return true;
    }
    return false;
}

/* The next field; false at the end or when the message is damaged (then w->p is not at its end). */
static bool next_field(Wire *w, Field *f)
{
    u64 tag, n = 0;
    const u8 *start = w->p;
    *f = (Field){0};
    if (w->p == w->end || !varint(w, &tag)) return false;
    f->number = (u32)(tag >> 3);
    f->type = tag & 7;
    bool ok = f->type == 0 ? varint(w, &f->value) : true;
    if (f->type == 2) ok = varint(w, &n);
    if (f->type == 1) n = 8;
    if (f->type == 5) n = 4;
    if (!ok || f->type == 3 || f->type == 4 || f->type > 5 || n > (u64)(w->end - w->p)) {
        w->p = start;
        return false;
    }
    f->bytes = (Wire){w->p, w->p + n};
    if (f->type == 1 || f->type == 5) memcpy(&f->value, w->p, n);
    w->p += n;
    return true;
}

/* ---- SentencePiece ---- */

typedef struct Piece {
    Str text;
    double score;
    i64 type;
} Piece;

typedef struct Spm {
    VEC(Piece) piece;
    i64 model_type, unk, bos, eos; /* trainer_spec */
    bool dummy_prefix, squeeze, escape, charsmap, suffix;
} Spm;

static bool read_piece(Arena *a, Wire w, Spm *m)
{
    Piece p = {.text = {"", 0}, .type = TOKB_NORMAL};
    Field f;
    while (next_field(&w, &f)) {
        if (f.number == 1 && f.type == 2)
            p.text = (Str){(const char *)f.bytes.p, (size_t)(f.bytes.end - f.bytes.p)};
        if (f.number == 2 && f.type == 5) p.score = (double)f32_bits((u32)f.value);
        if (f.number == 3 && f.type == 0) p.type = (i64)f.value;
    }
    if (w.p != w.end || m->piece.n >= PFQ_TOK_MAX_VOCAB) return false;
    vec_push(a, &m->piece, p);
    return true;
}

static bool read_trainer(Wire w, Spm *m)
{
    Field f;
    while (next_field(&w, &f)) {
        if (f.type != 0) continue;
        if (f.number == 3) m->model_type = (i64)f.value;
        if (f.number == 24) m->suffix = f.value != 0;
        if (f.number == 40) m->unk = (i64)f.value;
        if (f.number == 41) m->bos = (i64)f.value;
        if (f.number == 42) m->eos = (i64)f.value;
    }
    return w.p == w.end;
}

static bool read_normalizer(Wire w, Spm *m)
{
    Field f;
    while (next_field(&w, &f)) {
        if (f.number == 2 && f.type == 2) m->charsmap = f.bytes.p != f.bytes.end;
        if (f.number == 3 && f.type == 0) m->dummy_prefix = f.value != 0;
        if (f.number == 4 && f.type == 0) m->squeeze = f.value != 0;
        if (f.number == 5 && f.type == 0) m->escape = f.value != 0;
    }
    return w.p == w.end;
}

static bool read_spm(Diag *d, Arena *a, const Source *src, Spm *m)
{
    Wire w = {(const u8 *)src->text, (const u8 *)src->text + src->n};
    Field f;
    *m = (Spm){.model_type = 1,
               .unk = 0,
               .bos = 1,
               .eos = 2,
               .dummy_prefix = true,
               .squeeze = true,
               .escape = true};
    while (next_field(&w, &f)) {
        bool ok = true;
        if (f.number == 1 && f.type == 2) ok = read_piece(a, f.bytes, m);
        if (f.number == 2 && f.type == 2) ok = read_trainer(f.bytes, m);
        if (f.number == 3 && f.type == 2) ok = read_normalizer(f.bytes, m);
        if (!ok) break;
    }
    if (w.p == w.end && m->piece.n > 0) return true;
    Loc loc = {.src = src, .off = (size_t)(w.p - (const u8 *)src->text)};
    return diag_error(d, E_TOKENIZER, loc, "not a SentencePiece model, or a damaged one");
}

static bool supported(Diag *d, Loc loc, const Spm *m)
{
    const char *what = m->model_type != 2 ? "a model type other than BPE"
                       : m->charsmap      ? "a normalisation other than identity"
                       : m->squeeze       ? "remove_extra_whitespaces"
                       : !m->escape       ? "escape_whitespaces false"
                       : m->suffix        ? "treat_whitespace_as_suffix"
                                          : NULL;
    if (!what) return true;
    diag_error(d, E_TOKENIZER_UNSUPPORTED, loc,
               "the SentencePiece model uses %s, which is not supported", what);
    diag_hint(d, "use the model's tokenizer.json");
    return false;
}

static i32 valid_id(const TokBuilder *b, i64 id)
{
    return id >= 0 && id < b->tok.n ? (i32)id : -1;
}

bool fe_tokenizer_from_spm(Diag *d, Arena *a, const Source *src, const TokSpecials *sp,
                           TokBlob *out)
{
    Spm m;
    TokBuilder b;
    Loc loc = {.src = src};
    if (!read_spm(d, a, src, &m) || !supported(d, loc, &m)) return false;
    tokb_init(&b, d, a, loc, m.piece.n);
    double *score = NEWN(a, double, m.piece.n);
    for (u32 i = 0; i < m.piece.n; i++) {
        Piece p = m.piece.at[i];
        score[i] = p.score;
        if (!tokb_typed_token(&b, loc, i, p.text, p.type, false)) return false;
        /* User-defined pieces are looked for after spaces became U+2581, unlike in GGUF files. */
        if (p.type == TOKB_USER && b.added.n) b.added.at[b.added.n - 1].normalised = true;
    }
    if (!tokb_merges_from_scores(&b, loc, score)) return false;
    b.flags = PFQ_TOKF_CHARS | PFQ_TOKF_METASPACE | PFQ_TOKF_FUSE_UNK |
              (m.dummy_prefix ? PFQ_TOKF_STRIP : 0);
    b.prefix = m.dummy_prefix ? PFQ_PREFIX_ALWAYS : PFQ_PREFIX_NEVER;
    b.unk = valid_id(&b, m.unk);
    b.bos = valid_id(&b, m.bos);
    b.eos = valid_id(&b, m.eos);
    tokb_specials(&b, sp);
    if (b.bos >= 0 && (!sp || sp->add_bos != 0)) b.flags |= PFQ_TOKF_ADD_BOS;
    return tokb_finish(&b, out);
}

/* ---- tiktoken: a line "base64 rank" per token; pattern and special tokens are the model's, not in
 * the file ---- */

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static bool base64(Arena *a, Str s, Str *out)
{
    char *p = arena_alloc(a, s.n + 1, 1, 1);
    size_t n = 0;
    u32 bits = 0, have = 0;
    while (s.n > 0 && s.p[s.n - 1] == '=')
        s.n--;
    for (size_t i = 0; i < s.n; i++) {
        int v = base64_digit(s.p[i]);
        if (v < 0) return false;
        bits = (bits << 6 | (u32)v) & 0xffffff;
        have += 6;
        if (have >= 8) p[n++] = (char)(bits >> (have -= 8));
    }
    *out = (Str){p, n};
    return n > 0;
}

enum { LLAMA3_RANKS = 128000, LLAMA3_SPECIAL = 256 };

/* The special tokens of Llama 3.1 and later, from its reference tokenizer: 256, most of them
 * reserved. */
static Str llama3_special(Arena *a, u32 k)
{
    static const char *const named[] = {"begin_of_text",
                                        "end_of_text",
                                        "reserved_special_token_0",
                                        "reserved_special_token_1",
                                        "finetune_right_pad_id",
                                        "reserved_special_token_2",
                                        "start_header_id",
                                        "end_header_id",
                                        "eom_id",
                                        "eot_id",
                                        "python_tag"};
    u32 n = sizeof named / sizeof *named;
    return str_c(k < n ? arena_printf(a, "<|%s|>", named[k])
                       : arena_printf(a, "<|reserved_special_token_%u|>", k - n + 3));
}

static bool read_ranks(TokBuilder *b, const Source *src)
{
    for (size_t at = 0; at < src->n;) {
        const char *nl = memchr(src->text + at, '\n', src->n - at);
        Str line = {src->text + at, nl ? (size_t)(nl - src->text) - at : src->n - at}, bytes;
        Loc loc = {.src = src, .off = at, .len = line.n};
        at += line.n + 1;
        if (line.n == 0) continue;
        const char *sp = memchr(line.p, ' ', line.n);
        i64 rank = 0;
        if (!sp || !base64(b->a, (Str){line.p, (size_t)(sp - line.p)}, &bytes) ||
            !str_to_i64((Str){sp + 1, line.n - (size_t)(sp - line.p) - 1}, &rank))
            return diag_error(b->d, E_TOKENIZER, loc, "expected base64, a space and a rank");
        if (!tokb_token(b, loc, rank, bytes, bytes, 0, true)) return false;
    }
    return true;
}

bool fe_tokenizer_from_tiktoken(Diag *d, Arena *a, const Source *src, const TokSpecials *sp,
                                TokBlob *out)
{
    TokBuilder b;
    Loc loc = {.src = src};
    tokb_init(&b, d, a, loc, LLAMA3_RANKS + LLAMA3_SPECIAL);
    if (!read_ranks(&b, src)) return false;
    if (b.tok.n != LLAMA3_RANKS) {
        diag_error(d, E_TOKENIZER_UNSUPPORTED, loc,
                   "a tiktoken file with %u ranks is not supported", b.tok.n);
        diag_hint(d, "supported: Llama 3 (%d ranks); the file does not hold its pattern",
                  LLAMA3_RANKS);
        return false;
    }
    u32 *rank = NEWN(a, u32, LLAMA3_RANKS);
    for (u32 i = 0; i < LLAMA3_RANKS; i++)
        rank[i] = i;
    if (!tokb_merges_from_ranks(&b, rank, false)) return false;
    for (u32 k = 0; k < LLAMA3_SPECIAL; k++) {
        Str name = llama3_special(a, k);
        if (!tokb_token(&b, loc, LLAMA3_RANKS + k, (Str){0}, name, PFQ_TOKK_SPECIAL, false))
            return false;
        tokb_added(&b, name, name, (i32)(LLAMA3_RANKS + k), false);
    }
    b.stage[0] = PFQ_SPLIT_LLAMA3;
    b.ignore_merges = true;
    b.bos = LLAMA3_RANKS;
    b.eos = LLAMA3_RANKS + 1;
    tokb_specials(&b, sp);
    if (!sp || sp->add_bos != 0) b.flags |= PFQ_TOKF_ADD_BOS;
    return tokb_finish(&b, out);
}
