#include "frontend/tok_build.h"

#include <math.h>
#include <stdlib.h>

void tokb_init(TokBuilder *b, Diag *d, Arena *a, Loc loc, u64 n_tokens)
{
    *b = (TokBuilder){.d = d, .a = a, .loc = loc, .bos = -1, .eos = -1, .unk = -1};
    b->id_limit = n_tokens < PFQ_TOK_MAX_VOCAB / 4 ? (i64)n_tokens * 4 + 4096 : PFQ_TOK_MAX_VOCAB;
    b->sym.a = b->pair.a = a;
    for (int i = 0; i < 256; i++)
        b->byte[i] = PFQ_TOK_NONE;
}

bool tokb_token(TokBuilder *b, Loc loc, i64 id, Str model, Str print, u8 kind, bool in_model)
{
    if (id < 0 || id >= b->id_limit)
        return diag_error(b->d, E_TOKENIZER, loc, "token id %lld is outside 0..%lld", (long long)id,
                          (long long)b->id_limit - 1);
    if (model.n > PFQ_TOK_MAX_PIECE || print.n > PFQ_TOK_MAX_PIECE)
        return diag_error(b->d, E_LIMIT, loc, "token %lld is longer than %d bytes", (long long)id,
                          PFQ_TOK_MAX_PIECE);
    if (id >= b->tok.n) {
        u32 more = (u32)id + 1 - b->tok.n;
        vec_reserve(b->a, &b->tok, more);
        memset(b->tok.at + b->tok.n, 0, more * sizeof *b->tok.at);
        b->tok.n += more;
    }
    if (b->tok.at[id].set)
        return diag_error(b->d, E_TOKENIZER, loc, "two tokens have the id %lld", (long long)id);
    in_model = in_model && model.n > 0;
    b->tok.at[id] = (TokItem){model, print, kind, true, in_model};
    if (in_model) *map_put(&b->sym, model, NULL) = (u32)id;
    return true;
}

u32 tokb_sym(const TokBuilder *b, Str s)
{
    const u32 *v = map_get(&b->sym, s);
    return v ? *v : PFQ_TOK_NONE;
}

u32 tokb_sym_or_char(TokBuilder *b, Str s)
{
    bool added;
    u32 *v = map_put(&b->sym, s, &added);
    if (added) {
        *v = TOKB_EXTRA | b->extra.n;
        vec_push(b->a, &b->extra, s);
    }
    return *v;
}

bool tokb_merge(TokBuilder *b, Loc loc, u32 left, u32 right, u32 rank, u32 result, bool last)
{
    bool added;
    const u32 key[2] = {left, right};
    u32 *at = map_put(&b->pair, (Str){(const char *)key, sizeof key}, &added);
    PfqTokMerge m = {left, right, rank, result};
    if (!added) {
        if (last) b->merges.at[*at] = m;
        return true;
    }
    if (b->merges.n == PFQ_TOK_MAX_MERGES)
        return diag_error(b->d, E_LIMIT, loc, "the tokenizer has more than %d merges",
                          PFQ_TOK_MAX_MERGES);
    *at = b->merges.n;
    vec_push(b->a, &b->merges, m);
    return true;
}

static size_t char_len(Str s, size_t i)
{
    size_t n = 1;
    while (i + n < s.n && ((u8)s.p[i + n] & 0xc0) == 0x80 && n < 4)
        n++;
    return n;
}

bool tokb_merges_from_ranks(TokBuilder *b, const u32 *rank, bool chars)
{
    enum {
        MAX_CUT = 1024
    }; /* every cut of a token is looked up, which is quadratic in its length */
    u32 n = b->tok.n;
    for (u32 id = 0; id < n && chars; id++) {
        Str s = b->tok.at[id].model;
        if (rank[id] == PFQ_TOK_NONE || !b->tok.at[id].in_model) continue;
        for (size_t i = 0, k; i < s.n; i += k)
            tokb_sym_or_char(b, (Str){s.p + i, k = char_len(s, i)});
    }
    for (u32 id = 0; id < n; id++) {
        Str s = b->tok.at[id].model;
        if (rank[id] == PFQ_TOK_NONE || !b->tok.at[id].in_model) continue;
        if (s.n > MAX_CUT)
            return diag_error(b->d, E_LIMIT, b->loc, "token %u is longer than %d bytes", id,
                              MAX_CUT);
        for (size_t i = chars ? char_len(s, 0) : 1; i < s.n; i += chars ? char_len(s, i) : 1) {
            u32 left = tokb_sym(b, (Str){s.p, i}), right = tokb_sym(b, (Str){s.p + i, s.n - i});
            if (left == PFQ_TOK_NONE || right == PFQ_TOK_NONE) continue;
            if (!tokb_merge(b, b->loc, left, right, rank[id], tokb_sym(b, s), false)) return false;
        }
    }
    return true;
}

static int descending(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a < b) - (a > b);
}

bool tokb_merges_from_scores(TokBuilder *b, Loc loc, const double *score)
{
    u32 n = b->tok.n, distinct = 0;
    double *sorted = NEWN(b->a, double, n);
    u32 *rank = NEWN(b->a, u32, n);
    for (u32 i = 0; i < n; i++) {
        if (!isfinite(score[i]))
            return diag_error(b->d, E_TOKENIZER, loc, "the score of token %u is not finite", i);
        sorted[i] = score[i];
    }
    qsort(sorted, n, sizeof *sorted, descending);
    for (u32 i = 0; i < n; i++)
        if (i == 0 || sorted[i] != sorted[distinct - 1]) sorted[distinct++] = sorted[i];
    for (u32 i = 0; i < n; i++) {
        const double *at = bsearch(score + i, sorted, distinct, sizeof *sorted, descending);
        rank[i] = (u32)(at - sorted);
    }
    return tokb_merges_from_ranks(b, rank, true);
}

bool tokb_typed_token(TokBuilder *b, Loc loc, u32 id, Str text, i64 type, bool byte_level)
{
    bool special = type == TOKB_CONTROL || type == TOKB_UNKNOWN,
         written = special || type == TOKB_USER;
    bool in_model = !special && type != TOKB_BYTE;
    Str model = text, print = text;
    if (type < TOKB_NORMAL || type > TOKB_BYTE)
        return diag_error(b->d, E_TOKENIZER, loc, "token %u has the unknown type %lld", id,
                          (long long)type);
    if (type == TOKB_BYTE) {
        int byte = tokb_byte_name(text);
        if (byte < 0)
            return diag_error(b->d, E_TOKENIZER, loc, "byte token %u is not named <0xNN>", id);
        char *p = arena_strdup(b->a, "", 1);
        p[0] = (char)byte;
        print = (Str){p, 1};
        b->byte[byte] = id;
    } else if (!byte_level) {
        if (!written) print = tokb_meta_print(b->a, text);
    } else if (!tokb_from_byte_alphabet(b->a, text, &model)) {
        in_model = false;
    } else if (!written) {
        print = model;
    }
    if (written) tokb_added(b, text, text, (i32)id, false);
    return tokb_token(b, loc, id, model, print, special ? PFQ_TOKK_SPECIAL : 0, in_model);
}

void tokb_added(TokBuilder *b, Str text, Str name, i32 id, bool normalised)
{
    TokAdded t = {text, name, id, normalised};
    if (text.n > 0) vec_push(b->a, &b->added, t);
}

bool tokb_stage(TokBuilder *b, Loc loc, PfqTokSplit s)
{
    if (b->n_stage == PFQ_TOK_MAX_STAGES)
        return diag_error(b->d, E_TOKENIZER_UNSUPPORTED, loc,
                          "the pre-tokenizer has more than %d stages", PFQ_TOK_MAX_STAGES);
    b->stage[b->n_stage++] = (u8)s;
    return true;
}

/* Names of tokenizer.ggml.pre, grouped by what the tokenizer.json files they stand for say. NFC is
 * there too: llama.cpp leaves it out, the reference tokenizers of these models do not. */
enum { IGNORE_MERGES = 1, ADD_BOS = 2, NFC = 4, MAX_NAMES = 10 };
static const struct PreGroup {
    const char *name[MAX_NAMES];
    u8 stage[PFQ_TOK_MAX_STAGES];
    int how;
} pre_groups[] = {
    {{"gpt-2", "phi-2", "jais", "gigachat", "a.x-4.0", "mellum", "exaone4", "trillion",
      "granite-docling"},
     {PFQ_SPLIT_GPT2},
     0},
    {{"mpt", "olmo"}, {PFQ_SPLIT_GPT2}, NFC},
    {{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"},
     {PFQ_SPLIT_LLAMA3},
     IGNORE_MERGES | ADD_BOS},
    {{"dbrx", "smaug-bpe", "glm4", "chatglm-bpe"}, {PFQ_SPLIT_LLAMA3}, 0},
    {{"qwen2", "deepseek-r1-qwen", "stablelm2"}, {PFQ_SPLIT_QWEN2}, NFC},
    {{"megrez", "kormo", "hunyuan", "solar-open", "grok-2"}, {PFQ_SPLIT_QWEN2}, 0},
    {{"qwen35"}, {PFQ_SPLIT_QWEN35}, NFC},
    {{"gpt-4o", "llama4", "kanana2", "minimax-m2"}, {PFQ_SPLIT_O200K}, 0},
    {{"tekken"}, {PFQ_SPLIT_TEKKEN}, IGNORE_MERGES | ADD_BOS},
    {{"smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b"},
     {PFQ_SPLIT_DIGIT, PFQ_SPLIT_GPT2},
     0},
    {{"command-r"}, {PFQ_SPLIT_DIGIT, PFQ_SPLIT_GPT2}, NFC},
    {{"deepseek-coder"},
     {PFQ_SPLIT_NEWLINE, PFQ_SPLIT_WORD, PFQ_SPLIT_PUNCT, PFQ_SPLIT_CJK, PFQ_SPLIT_DIGIT},
     0},
    {{"deepseek-v3", "hunyuan-dense", "joyai-llm"},
     {PFQ_SPLIT_DIGIT3, PFQ_SPLIT_KANA, PFQ_SPLIT_DEEPSEEK3},
     0},
    {{"falcon"},
     {PFQ_SPLIT_FALCON_PUNCT, PFQ_SPLIT_GPT2, PFQ_SPLIT_BYTE_DIGITS, PFQ_SPLIT_ASCII3},
     0},
};

bool tokb_stages_by_name(TokBuilder *b, Loc loc, Str pre)
{
    StrBuf known = {.a = b->a};
    for (size_t i = 0; i < sizeof pre_groups / sizeof *pre_groups; i++) {
        const struct PreGroup *g = pre_groups + i;
        for (size_t k = 0; k < MAX_NAMES && g->name[k]; k++) {
            sb_printf(&known, "%s%s", known.n ? ", " : "", g->name[k]);
            if (!str_is(pre, g->name[k])) continue;
            memcpy(b->stage, g->stage, sizeof b->stage);
            b->ignore_merges = g->how & IGNORE_MERGES;
            if (g->how & NFC) b->flags |= PFQ_TOKF_NFC;
            if (g->how & ADD_BOS) b->flags |= PFQ_TOKF_ADD_BOS;
            return true;
        }
    }
    diag_error(b->d, E_TOKENIZER_UNSUPPORTED, loc, "pre-tokenizer '%.*s' is not supported",
               STRF(pre));
    diag_hint(b->d, "supported: %s", known.p);
    return false;
}

/* GPT-2's byte alphabet: printable Latin-1 characters stand for themselves, the other bytes for
 * U+0100 and up. */
static int byte_of_letter(u32 c)
{
    if ((c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff))
        return (int)c;
    if (c < 0x100 || c > 0x143) return -1;
    u32 k = c - 0x100;
    if (k <= 0x20) return (int)k;                 /* 00..20 */
    if (k <= 0x42) return (int)(k - 0x21 + 0x7f); /* 7f..a0 */
    return 0xad;
}

bool tokb_from_byte_alphabet(Arena *a, Str s, Str *out)
{
    char *p = arena_alloc(a, s.n + 1, 1, 1);
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) {
        u8 c = (u8)s.p[i];
        u32 cp = c;
        if (c >= 0xc2 && c <= 0xc5 && i + 1 < s.n)
            cp = (c & 0x1fu) << 6 | ((u8)s.p[++i] & 0x3fu);
        else if (c >= 0x80)
            return false;
        int byte = byte_of_letter(cp);
        if (byte < 0) return false;
        p[n++] = (char)byte;
    }
    *out = (Str){p, n};
    return true;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int tokb_byte_name(Str s)
{
    if (s.n != 6 || memcmp(s.p, "<0x", 3) != 0 || s.p[5] != '>') return -1;
    int hi = hex(s.p[3]), lo = hex(s.p[4]);
    return hi < 0 || lo < 0 ? -1 : hi * 16 + lo;
}

Str tokb_meta_print(Arena *a, Str s)
{
    char *p = arena_alloc(a, s.n + 1, 1, 1);
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) {
        bool meta = i + 2 < s.n && memcmp(s.p + i, "\xe2\x96\x81", 3) == 0;
        p[n++] = meta ? ' ' : s.p[i];
        if (meta) i += 2;
    }
    return (Str){p, n};
}

void tokb_mark_eog(TokBuilder *b)
{
    static const char *const names[] = {"<|im_end|>",
                                        "<|endoftext|>",
                                        "<|eot_id|>",
                                        "<|eom_id|>",
                                        "<|end_of_text|>",
                                        "<|end|>",
                                        "<|eot|>",
                                        "<|eom|>",
                                        "<|EOT|>",
                                        "<end_of_turn>",
                                        "<|end_of_turn|>",
                                        "<turn|>",
                                        "<|return|>",
                                        "<|call|>",
                                        "<|end_of_sentence|>",
                                        "<|END_OF_TURN_TOKEN|>",
                                        "<|user_end|>",
                                        "<EOT>",
                                        "_<EOT>",
                                        ("<\xef\xbd\x9c"
                                         "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>")};
    if (b->eos >= 0) b->tok.at[b->eos].kind |= PFQ_TOKK_EOG;
    for (u32 i = 0; i < b->added.n; i++) {
        u8 *kind = &b->tok.at[b->added.at[i].id].kind;
        for (size_t k = 0; k < sizeof names / sizeof *names; k++)
            if ((*kind & PFQ_TOKK_SPECIAL) && str_is(b->added.at[i].name, names[k]))
                *kind |= PFQ_TOKK_EOG;
    }
}

static i32 added_by_text(const TokBuilder *b, Str s)
{
    for (u32 i = 0; i < b->added.n; i++)
        if (str_eq(b->added.at[i].name, s)) return b->added.at[i].id;
    return -1;
}

/* An id by text, or else by number; the old value when the files name neither or name an unknown
 * token. */
static i32 pick(const TokBuilder *b, i32 id, Str text, i32 old)
{
    i32 by_text = text.n ? added_by_text(b, text) : -1;
    u32 sym = text.n ? tokb_sym(b, text) : PFQ_TOK_NONE;
    if (by_text < 0 && sym < b->tok.n) by_text = (i32)sym;
    if (by_text >= 0) return by_text;
    return id >= 0 && (u32)id < b->tok.n ? id : old;
}

void tokb_specials(TokBuilder *b, const TokSpecials *sp)
{
    if (sp) {
        b->bos = pick(b, sp->bos_id, sp->bos, b->bos);
        b->eos = pick(b, sp->eos_id, sp->eos, b->eos);
        for (u32 i = 0; i < sp->n_eog; i++)
            if (sp->eog[i] >= 0 && (u32)sp->eog[i] < b->tok.n)
                b->tok.at[sp->eog[i]].kind |= PFQ_TOKK_EOG;
    }
    tokb_mark_eog(b);
}
