/* Hugging Face tokenizer.json with a BPE model. What each component means is defined by
 * huggingface/tokenizers; the reader accepts the combinations that the runtime reproduces exactly,
 * and names what it refuses. */
#include "frontend/tok_build.h"

typedef struct Reader {
    TokBuilder b;
    Diag *d;
    const Source *src;
    const TokSpecials *sp;
    Map vocab;       /* the vocabulary as the file spells it -> id */
    bool byte_level; /* a ByteLevel pre-tokenizer: the vocabulary is written in the byte alphabet */
    bool meta_early; /* the normalizer turns spaces into U+2581 */
    bool strip;      /* the decoder drops a leading space, */
    bool print_meta; /* turns U+2581 into spaces, */
    bool print_bytes; /* turns <0xNN> into bytes, */
    bool fused;       /* has joined the tokens */
} Reader;

static const char META[] = "\xe2\x96\x81";

static bool refuse(Reader *r, const Json *at, const char *what, Str name, const char *supported)
{
    diag_error(r->d, E_TOKENIZER_UNSUPPORTED, json_loc(r->src, at), "%s '%.*s' is not supported",
               what, STRF(name));
    diag_hint(r->d, "supported: %s", supported);
    return false;
}

static Str str_or_empty(const Json *v)
{
    return v && v->kind == JSON_STRING ? v->str : (Str){"", 0};
}
static bool flag(const Json *obj, const char *key, bool absent)
{
    const Json *v = json_get(obj, key);
    return v && v->kind == JSON_BOOL ? v->b : absent;
}
static bool is_null(const Json *v)
{
    return !v || v->kind == JSON_NULL;
}

/* The type of a component and, in *list, its parts: those of a Sequence, or itself. */
static bool component(Reader *r, const Json *v, const char *parts, Str *type, const Json **list,
                      u32 *n)
{
    const Json *t = json_need(r->d, r->src, v, "type", JSON_STRING);
    if (!t) return false;
    *type = t->str;
    *list = v;
    *n = 1;
    if (!str_is(*type, "Sequence")) return true;
    const Json *seq = json_need(r->d, r->src, v, parts, JSON_ARRAY);
    if (!seq) return false;
    *list = seq->at;
    *n = seq->n;
    return true;
}

static const Json *part_type(Reader *r, const Json *v, Str *type)
{
    const Json *t = json_need(r->d, r->src, v, "type", JSON_STRING);
    if (t) *type = t->str;
    return t;
}

/* {"String": s} or a bare string; empty with `regex` set for {"Regex": s}. */
static Str pattern_of(const Json *v, bool *regex)
{
    const Json *re = json_get(v, "Regex");
    *regex = re != NULL;
    if (re) return str_or_empty(re);
    return v && v->kind == JSON_STRING ? v->str : str_or_empty(json_get(v, "String"));
}

/* ---- normalizer ---- */

static bool normalizer_part(Reader *r, const Json *v)
{
    Str type;
    bool regex;
    if (!part_type(r, v, &type)) return false;
    if (str_is(type, "NFC") && !r->meta_early) {
        r->b.flags |= PFQ_TOKF_NFC;
        return true;
    }
    if (str_is(type, "Prepend")) {
        Str s = str_or_empty(json_get(v, "prepend"));
        if (!str_is(s, META)) return refuse(r, v, "prepended text", s, "U+2581");
        if (r->b.prefix != PFQ_PREFIX_NEVER) return refuse(r, v, "normalizer", type, "one Prepend");
        r->b.prefix = PFQ_PREFIX_ALWAYS;
        return true;
    }
    if (str_is(type, "Replace")) {
        Str from = pattern_of(json_get(v, "pattern"), &regex),
            to = str_or_empty(json_get(v, "content"));
        if (regex || !str_is(from, " ") || !str_is(to, META))
            return refuse(r, v, "replacement of", from, "\" \" by U+2581");
        r->meta_early = true;
        return true;
    }
    return refuse(r, v, "normalizer", type, "NFC, Prepend, Replace, Sequence");
}

static bool read_normalizer(Reader *r, const Json *v)
{
    Str type;
    const Json *part;
    u32 n;
    if (is_null(v)) return true;
    if (!component(r, v, "normalizers", &type, &part, &n)) return false;
    for (u32 i = 0; i < n; i++)
        if (!normalizer_part(r, part + i)) return false;
    if (r->b.prefix != PFQ_PREFIX_NEVER && !r->meta_early)
        return refuse(r, v, "normalizer", STR("Prepend"), "Prepend together with Replace of \" \"");
    if (r->meta_early) r->b.flags |= PFQ_TOKF_METASPACE;
    return true;
}

/* ---- pre-tokenizer ---- */

/* Pattern strings found in tokenizer.json files that mean the same as an entry of PFQ_TOK_SPLITS.
 */
static const struct Alias {
    const char *pattern;
    PfqTokSplit split;
} aliases[] = {
#define X(id, text) {text, PFQ_SPLIT_##id},
    PFQ_TOK_SPLITS(X)
#undef X
        {"'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
         PFQ_SPLIT_GPT2},
    {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| "
     "?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|"
     "\\s+(?!\\S)|\\s+",
     PFQ_SPLIT_LLAMA3},
    {"[\xe4\xb8\x80-\xe9\xbe\xa5\xe0\xa0\x80-\xe4\xb8\x80\xea\xb0\x80-\xed\x9f\xbf]+",
     PFQ_SPLIT_CJK},
    {"[\xe4\xb8\x80-\xe9\xbe\xa5\xe3\x81\x80-\xe3\x82\x9f\xe3\x82\xa0-\xe3\x83\xbf]+",
     PFQ_SPLIT_KANA},
    {"[!\"#$%&'()*+,\\-./"
     ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
     "?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
     PFQ_SPLIT_DEEPSEEK3},
    {"[\r\n]", PFQ_SPLIT_NEWLINE},
};

static bool covers_all(PfqTokSplit s)
{
    return s == PFQ_SPLIT_GPT2 || s == PFQ_SPLIT_LLAMA3 || s == PFQ_SPLIT_QWEN2 ||
           s == PFQ_SPLIT_QWEN35 || s == PFQ_SPLIT_O200K || s == PFQ_SPLIT_TEKKEN;
}

static bool unknown_pattern(Reader *r, const Json *v, Str pattern)
{
    StrBuf known = {.a = r->b.a};
#define X(id, text) sb_printf(&known, "\n    %s", text);
    PFQ_TOK_SPLITS(X)
#undef X
    diag_error(r->d, E_TOKENIZER_UNSUPPORTED, json_loc(r->src, v),
               "pre-tokenizer pattern is not supported: %.*s", STRF(pattern));
    diag_hint(r->d, "supported:%s", known.p);
    return false;
}

static bool read_split(Reader *r, const Json *v)
{
    bool regex;
    Str pattern = pattern_of(json_get(v, "pattern"), &regex);
    Str behavior = str_or_empty(json_get(v, "behavior"));
    /* Gemma splits at spaces, of which its normalizer has left none. */
    if (!regex && str_is(pattern, " ") && r->meta_early) return true;
    PfqTokSplit s = PFQ_SPLIT_NONE;
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases && regex; i++)
        if (str_is(pattern, aliases[i].pattern)) s = aliases[i].split;
    if (s == PFQ_SPLIT_NONE) return unknown_pattern(r, v, pattern);
    bool removed = str_is(behavior, "Removed") && flag(v, "invert", false) && covers_all(s);
    if (!removed && !str_is(behavior, "Isolated"))
        return refuse(r, v, "split behaviour", behavior, "Isolated");
    if (r->byte_level &&
        s != PFQ_SPLIT_ASCII3) /* after ByteLevel the text is in the byte alphabet */
        return refuse(r, v, "Split after ByteLevel", pattern, "[0-9][0-9][0-9]");
    return tokb_stage(&r->b, json_loc(r->src, v), s);
}

static bool read_byte_level(Reader *r, const Json *v)
{
    if (r->byte_level) return refuse(r, v, "pre-tokenizer", STR("ByteLevel"), "one ByteLevel");
    if (flag(v, "add_prefix_space", true)) {
        if (r->b.n_stage > 0)
            return refuse(r, v, "add_prefix_space after", STR("another split"),
                          "ByteLevel first, or false");
        r->b.prefix = PFQ_PREFIX_IF_MISSING;
        r->b.flags |= PFQ_TOKF_LATE;
    }
    r->byte_level = true;
    return !flag(v, "use_regex", true) || tokb_stage(&r->b, json_loc(r->src, v), PFQ_SPLIT_GPT2);
}

static bool read_metaspace(Reader *r, const Json *v)
{
    Str with = str_or_empty(json_get(v, "replacement")),
        scheme = str_or_empty(json_get(v, "prepend_scheme"));
    if (!str_is(with, META)) return refuse(r, v, "replacement of spaces by", with, "U+2581");
    if (r->meta_early || r->b.n_stage > 0)
        return refuse(r, v, "pre-tokenizer", STR("Metaspace"), "Metaspace alone");
    if (scheme.n == 0) scheme = flag(v, "add_prefix_space", true) ? STR("always") : STR("never");
    if (str_is(scheme, "always"))
        r->b.prefix = PFQ_PREFIX_IF_MISSING;
    else if (str_is(scheme, "first"))
        r->b.prefix = PFQ_PREFIX_FIRST_IF_MISSING;
    else if (!str_is(scheme, "never"))
        return refuse(r, v, "prepend_scheme", scheme, "always, first, never");
    r->b.flags |= PFQ_TOKF_METASPACE | PFQ_TOKF_LATE;
    return !flag(v, "split", true) || tokb_stage(&r->b, json_loc(r->src, v), PFQ_SPLIT_METASPACE);
}

static bool pre_tokenizer_part(Reader *r, const Json *v)
{
    Str type;
    Loc loc = json_loc(r->src, v);
    if (!part_type(r, v, &type)) return false;
    if (str_is(type, "ByteLevel")) return read_byte_level(r, v);
    if (str_is(type, "Split")) return read_split(r, v);
    if (str_is(type, "Metaspace")) return read_metaspace(r, v);
    if (str_is(type, "Digits")) {
        bool single = flag(v, "individual_digits", false);
        if (!r->byte_level)
            return tokb_stage(&r->b, loc, single ? PFQ_SPLIT_DIGIT : PFQ_SPLIT_DIGITS);
        if (!single) return tokb_stage(&r->b, loc, PFQ_SPLIT_BYTE_DIGITS);
        return refuse(r, v, "individual digits after", STR("ByteLevel"), "individual_digits false");
    }
    if (str_is(type, "Punctuation")) {
        Str behavior = str_or_empty(json_get(v, "behavior"));
        if (r->byte_level || !str_is(behavior, "Contiguous"))
            return refuse(r, v, "Punctuation with behaviour", behavior,
                          "Contiguous, before ByteLevel");
        return tokb_stage(&r->b, loc, PFQ_SPLIT_FALCON_PUNCT);
    }
    return refuse(r, v, "pre-tokenizer", type,
                  "ByteLevel, Split, Digits, Punctuation, Metaspace, Sequence");
}

static bool read_pre_tokenizer(Reader *r, const Json *v)
{
    Str type;
    const Json *part;
    u32 n;
    if (is_null(v)) return true;
    if (!component(r, v, "pretokenizers", &type, &part, &n)) return false;
    for (u32 i = 0; i < n; i++)
        if (!pre_tokenizer_part(r, part + i)) return false;
    if (r->byte_level && r->meta_early)
        return refuse(r, v, "U+2581 together with", STR("ByteLevel"), "one of them");
    if (r->byte_level && (r->b.flags & PFQ_TOKF_METASPACE))
        return refuse(r, v, "Metaspace together with", STR("ByteLevel"), "one of them");
    return true;
}

/* ---- decoder ---- */

static bool decoder_part(Reader *r, const Json *v)
{
    Str type;
    bool regex;
    if (!part_type(r, v, &type)) return false;
    if (r->byte_level) {
        if (str_is(type, "ByteLevel")) return true;
        return refuse(r, v, "decoder of a byte-level vocabulary", type, "ByteLevel");
    }
    if (str_is(type, "ByteFallback")) return r->print_bytes = true;
    if (str_is(type, "Fuse")) return r->fused = true;
    if (str_is(type, "Replace") && str_is(pattern_of(json_get(v, "pattern"), &regex), META) &&
        !regex && str_is(str_or_empty(json_get(v, "content")), " "))
        return r->print_meta = true;
    if (str_is(type, "Metaspace") && str_is(str_or_empty(json_get(v, "replacement")), META)) {
        r->print_meta = true;
        Str scheme = str_or_empty(json_get(v, "prepend_scheme"));
        r->strip = scheme.n ? !str_is(scheme, "never") : flag(v, "add_prefix_space", true);
        return true;
    }
    if (str_is(type, "Strip") && r->fused && str_is(str_or_empty(json_get(v, "content")), " ")) {
        i64 start = 0, stop = 0;
        if (!json_need_int(r->d, r->src, v, "start", 0, 1, &start) ||
            !json_need_int(r->d, r->src, v, "stop", 0, 0, &stop))
            return false;
        r->strip = start == 1;
        return true;
    }
    return refuse(
        r, v, "decoder", type,
        "ByteLevel, Metaspace, or Replace of U+2581, ByteFallback, Fuse, Strip of one space");
}

static bool read_decoder(Reader *r, const Json *root, const Json *v)
{
    Str type;
    const Json *part;
    u32 n;
    if (is_null(v))
        return refuse(r, root, "decoder", STR("null"), "ByteLevel, Metaspace, Sequence");
    if (!component(r, v, "decoders", &type, &part, &n)) return false;
    for (u32 i = 0; i < n; i++)
        if (!decoder_part(r, part + i)) return false;
    if (r->strip) r->b.flags |= PFQ_TOKF_STRIP;
    return true;
}

/* ---- model ---- */

/* What merging sees of a vocabulary string; false if it cannot be reached by merging. */
static bool model_string(Reader *r, Str s, Str *out)
{
    *out = s;
    return !r->byte_level || tokb_from_byte_alphabet(r->b.a, s, out);
}

static bool read_vocab(Reader *r, const Json *vocab)
{
    for (u32 i = 0; i < vocab->n; i++) {
        const Json *v = vocab->at + i;
        Str key = vocab->key[i], model, print;
        Loc loc = json_loc(r->src, v);
        if (v->kind != JSON_NUMBER || !v->is_int)
            return diag_error(r->d, E_JSON_TYPE, loc, "a token's id must be an integer, found %s",
                              json_kind_name(v->kind));
        bool in_model = model_string(r, key, &model);
        print = in_model ? model : key;
        int byte = r->byte_level ? -1 : tokb_byte_name(key);
        if (byte >= 0 && (r->b.flags & PFQ_TOKF_CHARS)) r->b.byte[byte] = (u32)v->i;
        if (byte >= 0 && r->print_bytes) {
            char *p = arena_strdup(r->b.a, "", 1);
            p[0] = (char)byte;
            print = (Str){p, 1};
        } else if (r->print_meta) {
            print = tokb_meta_print(r->b.a, key);
        }
        if (!tokb_token(&r->b, loc, v->i, model, print, 0, in_model)) return false;
        *map_put(&r->vocab, key, NULL) = (u32)v->i;
    }
    return true;
}

static u32 merge_side(Reader *r, Loc loc, Str s)
{
    Str model;
    u32 sym = model_string(r, s, &model) ? tokb_sym(&r->b, model) : PFQ_TOK_NONE;
    if (sym == PFQ_TOK_NONE)
        diag_error(r->d, E_TOKENIZER, loc, "a merge uses '%.*s', which is not in the vocabulary",
                   STRF(s));
    return sym;
}

static bool read_merge(Reader *r, Loc loc, Str left, Str right, u32 rank)
{
    StrBuf both = {.a = r->b.a};
    u32 a = merge_side(r, loc, left), b = a == PFQ_TOK_NONE ? a : merge_side(r, loc, right);
    if (b == PFQ_TOK_NONE) return false;
    sb_add(&both, left.p, left.n);
    sb_add(&both, right.p, right.n);
    u32 result = merge_side(r, loc, (Str){both.p, both.n});
    return result != PFQ_TOK_NONE && tokb_merge(&r->b, loc, a, b, rank, result, true);
}

/* "a b": exactly one space. */
static bool cut_merge(Str s, Str *left, Str *right)
{
    const char *sp = s.n ? memchr(s.p, ' ', s.n) : NULL;
    if (!sp) return false;
    *left = (Str){s.p, (size_t)(sp - s.p)};
    *right = (Str){sp + 1, s.n - left->n - 1};
    return left->n > 0 && right->n > 0 && !memchr(right->p, ' ', right->n);
}

static bool read_merges(Reader *r, const Json *merges)
{
    u32 rank = 0;
    for (u32 i = 0; i < merges->n; i++) {
        const Json *v = merges->at + i;
        Loc loc = json_loc(r->src, v);
        Str left, right;
        bool pair = v->kind == JSON_ARRAY && v->n == 2 && v->at[0].kind == JSON_STRING &&
                    v->at[1].kind == JSON_STRING;
        if (v->kind == JSON_STRING && str_starts(v->str, "#version")) continue;
        if (pair) {
            left = v->at[0].str;
            right = v->at[1].str;
        } else if (v->kind != JSON_STRING || !cut_merge(v->str, &left, &right)) {
            return diag_error(r->d, E_TOKENIZER, loc,
                              "a merge must be \"left right\" or [\"left\", \"right\"]");
        }
        if (!read_merge(r, loc, left, right, rank++)) return false;
    }
    return true;
}

static bool model_options(Reader *r, const Json *m)
{
    static const char *const names[] = {"type",
                                        "dropout",
                                        "unk_token",
                                        "continuing_subword_prefix",
                                        "end_of_word_suffix",
                                        "fuse_unk",
                                        "byte_fallback",
                                        "ignore_merges",
                                        "vocab",
                                        "merges"};
    const Json *type = json_get(m, "type"), *dropout = json_get(m, "dropout");
    Str t = type ? str_or_empty(type) : STR("BPE");
    if (!str_is(t, "BPE")) return refuse(r, type, "tokenizer model", t, "BPE");
    if (!json_only(r->d, r->src, m, names, sizeof names / sizeof *names)) return false;
    if (!is_null(dropout) && dropout->num != 0)
        return refuse(r, dropout, "model option", STR("dropout"), "none");
    for (int i = 3; i < 5; i++) {
        const Json *affix = json_get(m, names[i]);
        if (!is_null(affix) && str_or_empty(affix).n > 0)
            return refuse(r, affix, "model option", str_c(names[i]), "none");
    }
    if (!r->byte_level) r->b.flags |= PFQ_TOKF_CHARS;
    if (flag(m, "fuse_unk", false)) r->b.flags |= PFQ_TOKF_FUSE_UNK;
    r->b.ignore_merges = flag(m, "ignore_merges", false);
    return true;
}

static bool read_model(Reader *r, const Json *m)
{
    const Json *vocab = json_need(r->d, r->src, m, "vocab", JSON_OBJECT);
    const Json *merges = json_need(r->d, r->src, m, "merges", JSON_ARRAY);
    const Json *unk = json_get(m, "unk_token");
    if (!vocab || !merges || !model_options(r, m) || !read_vocab(r, vocab)) return false;
    if (r->byte_level && flag(m, "byte_fallback", false))
        return refuse(r, m, "byte_fallback with", STR("ByteLevel"), "one of them");
    if (!flag(m, "byte_fallback", false))
        for (int i = 0; i < 256; i++)
            r->b.byte[i] = PFQ_TOK_NONE;
    if (!is_null(unk)) {
        const u32 *id = map_get(&r->vocab, str_or_empty(unk));
        if (!id)
            return diag_error(r->d, E_TOKENIZER, json_loc(r->src, unk),
                              "unk_token is not in the vocabulary");
        r->b.unk = (i32)*id;
    }
    return read_merges(r, merges);
}

/* ---- added tokens ---- */

/* The text that a token with "normalized" is looked for as: normalised like the input. */
static Str normalised(Reader *r, Str s)
{
    StrBuf out = {.a = r->b.a};
    if (r->b.prefix == PFQ_PREFIX_ALWAYS && !(r->b.flags & PFQ_TOKF_LATE)) sb_str(&out, META);
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == ' ' && r->meta_early)
            sb_str(&out, META);
        else
            sb_ch(&out, s.p[i]);
    }
    return out.n ? (Str){out.p, out.n} : s;
}

static bool read_added_token(Reader *r, const Json *v, i64 id)
{
    const Json *content = json_need(r->d, r->src, v, "content", JSON_STRING);
    if (!content) return false;
    bool special = flag(v, "special", false), norm = flag(v, "normalized", !special);
    u8 kind =
        (u8)((special ? PFQ_TOKK_SPECIAL : 0) | (flag(v, "lstrip", false) ? PFQ_TOKK_LSTRIP : 0) |
             (flag(v, "rstrip", false) ? PFQ_TOKK_RSTRIP : 0) |
             (flag(v, "single_word", false) ? PFQ_TOKK_WORD : 0));
    const u32 *same = map_get(&r->vocab, content->str);
    bool taken = (u64)id < r->b.tok.n && r->b.tok.at[id].set;
    if ((same && (i64)*same != id) || (taken && !same))
        return diag_error(r->d, E_TOKENIZER, json_loc(r->src, v),
                          "added token '%.*s' has the id %lld, which the vocabulary contradicts",
                          STRF(content->str), (long long)id);
    Str text = norm ? normalised(r, content->str) : content->str;
    Str print = norm && r->meta_early && r->print_meta ? tokb_meta_print(r->b.a, text) : text;
    if (same) {
        r->b.tok.at[id].print = print;
        r->b.tok.at[id].kind |= kind;
    } else if (!tokb_token(&r->b, json_loc(r->src, v), id, (Str){0}, print, kind, false)) {
        return false;
    }
    tokb_added(&r->b, text, content->str, (i32)id, norm);
    return true;
}

static bool read_added(Reader *r, const Json *list)
{
    if (is_null(list)) return true;
    if (list->kind != JSON_ARRAY)
        return diag_error(r->d, E_JSON_TYPE, json_loc(r->src, list),
                          "added_tokens must be an array, found %s", json_kind_name(list->kind));
    for (u32 i = 0; i < list->n; i++) {
        i64 id;
        if (!json_need_int(r->d, r->src, list->at + i, "id", 0, PFQ_TOK_MAX_VOCAB - 1, &id))
            return false;
        if (!read_added_token(r, list->at + i, id)) return false;
    }
    return true;
}

/* ---- post-processor ---- */

static bool read_template(Reader *r, const Json *v)
{
    const Json *single = json_need(r->d, r->src, v, "single", JSON_ARRAY);
    if (!single) return false;
    bool text = false;
    for (u32 i = 0; i < single->n; i++) {
        const Json *special = json_get(single->at + i, "SpecialToken");
        if (!special) {
            text = true;
            continue;
        }
        Str name = str_or_empty(json_get(special, "id"));
        const Json *all = json_get(v, "special_tokens");
        const Json *ids = json_get(json_get(all, arena_strdup(r->b.a, name.p, name.n)), "ids");
        if (text || i > 0)
            return refuse(r, single->at + i, "template that adds", name,
                          "one token in front of the text");
        if (!ids || ids->kind != JSON_ARRAY || ids->n != 1 || !ids->at[0].is_int ||
            ids->at[0].i < 0 || ids->at[0].i >= r->b.tok.n)
            return diag_error(r->d, E_TOKENIZER, json_loc(r->src, single->at + i),
                              "template names an unknown token");
        r->b.bos = (i32)ids->at[0].i;
        r->b.flags |= PFQ_TOKF_ADD_BOS;
    }
    return true;
}

static bool read_post_processor(Reader *r, const Json *v)
{
    Str type;
    const Json *part;
    u32 n;
    if (is_null(v)) return true;
    if (!component(r, v, "processors", &type, &part, &n)) return false;
    for (u32 i = 0; i < n; i++) {
        if (!part_type(r, part + i, &type)) return false;
        if (str_is(type, "ByteLevel")) continue;
        if (!str_is(type, "TemplateProcessing"))
            return refuse(r, part + i, "post-processor", type,
                          "ByteLevel, TemplateProcessing, Sequence");
        if (!read_template(r, part + i)) return false;
    }
    return true;
}

bool fe_tokenizer_from_json(Diag *d, Arena *a, const Source *src, const TokSpecials *sp,
                            TokBlob *out)
{
    Reader r = {.d = d, .src = src, .sp = sp};
    const Json *root = json_parse(d, a, src);
    if (!root) return false;
    const Json *model = json_need(d, src, root, "model", JSON_OBJECT);
    if (!model) return false;
    const Json *vocab = json_get(model, "vocab"), *added = json_get(root, "added_tokens");
    u64 declared = (vocab ? vocab->n : 0) + (u64)(added ? added->n : 0);
    tokb_init(&r.b, d, a, json_loc(src, root), declared);
    r.vocab.a = a;
    if (!read_normalizer(&r, json_get(root, "normalizer")) ||
        !read_pre_tokenizer(&r, json_get(root, "pre_tokenizer")) ||
        !read_decoder(&r, root, json_get(root, "decoder")) || !read_model(&r, model) ||
        !read_added(&r, added) || !read_post_processor(&r, json_get(root, "post_processor")))
        return false;
    i32 of_template = r.b.bos;
    tokb_specials(&r.b, sp);
    if (of_template >= 0) r.b.bos = of_template;
    if (sp && sp->add_bos == 0) r.b.flags &= ~(u32)PFQ_TOKF_ADD_BOS;
    if (sp && sp->add_bos == 1) r.b.flags |= PFQ_TOKF_ADD_BOS;
    return tokb_finish(&r.b, out);
}

/* ---- vocab.json and merges.txt ---- */

static bool read_merges_text(Reader *r, const Source *src)
{
    u32 rank = 0;
    const Source *json = r->src;
    r->src = src;
    for (size_t at = 0; at < src->n;) {
        const char *nl = memchr(src->text + at, '\n', src->n - at);
        Str line = {src->text + at, nl ? (size_t)(nl - src->text) - at : src->n - at}, left, right;
        Loc loc = {.src = src, .off = at, .len = line.n};
        at += line.n + 1;
        if (line.n && line.p[line.n - 1] == '\r') line.n--;
        if (line.n == 0 || str_starts(line, "#version")) continue;
        if (!cut_merge(line, &left, &right))
            return diag_error(r->d, E_TOKENIZER, loc,
                              "a merge must be two tokens separated by one space");
        if (!read_merge(r, loc, left, right, rank++)) return false;
    }
    r->src = json;
    return true;
}

/* {"id": {"content": ...}} */
static bool read_added_decoder(Reader *r, const TokSpecials *sp)
{
    r->src = sp->src;
    for (u32 i = 0; i < sp->added->n; i++) {
        i64 id;
        if (!str_to_i64(sp->added->key[i], &id) || id < 0 || id >= PFQ_TOK_MAX_VOCAB)
            return diag_error(r->d, E_TOKENIZER, json_loc(sp->src, sp->added->at + i),
                              "'%.*s' is not a token id", STRF(sp->added->key[i]));
        if (!read_added_token(r, sp->added->at + i, id)) return false;
    }
    return true;
}

/* {"content": id}, all special */
static bool read_added_map(Reader *r, const Source *src, const Json *map)
{
    for (u32 i = 0; i < map->n; i++) {
        const Json *id = map->at + i;
        if (!id->is_int)
            return diag_error(r->d, E_JSON_TYPE, json_loc(src, id),
                              "a token's id must be an integer, found %s",
                              json_kind_name(id->kind));
        if (!tokb_token(&r->b, json_loc(src, id), id->i, (Str){0}, map->key[i], PFQ_TOKK_SPECIAL,
                        false))
            return false;
        tokb_added(&r->b, map->key[i], map->key[i], (i32)id->i, false);
    }
    return true;
}

bool fe_tokenizer_from_vocab(Diag *d, Arena *a, const Source *vocab, const Source *merges,
                             const Source *added, const char *pre, const TokSpecials *sp,
                             TokBlob *out)
{
    Reader r = {.d = d, .src = vocab, .sp = sp, .byte_level = true};
    const Json *v = json_parse(d, a, vocab), *more = v && added ? json_parse(d, a, added) : NULL;
    if (!v || (added && !more)) return false;
    if (v->kind != JSON_OBJECT || (more && more->kind != JSON_OBJECT))
        return diag_error(d, E_JSON_TYPE, json_loc(vocab, v),
                          "a vocabulary must be an object of token: id");
    tokb_init(&r.b, d, a, json_loc(vocab, v), (u64)v->n + (more ? more->n : 0));
    r.vocab.a = a;
    if (!tokb_stages_by_name(&r.b, r.b.loc, str_c(pre)) || !read_vocab(&r, v) ||
        !read_merges_text(&r, merges))
        return false;
    if (sp && sp->added ? !read_added_decoder(&r, sp) : more && !read_added_map(&r, added, more))
        return false;
    u32 end = tokb_sym(&r.b, STR("<|endoftext|>")); /* GPT-2 has it in its vocabulary */
    if (r.b.added.n == 0 && end != PFQ_TOK_NONE) {
        r.b.tok.at[end].kind |= PFQ_TOKK_SPECIAL;
        tokb_added(&r.b, STR("<|endoftext|>"), STR("<|endoftext|>"), (i32)end, false);
        r.b.bos = r.b.eos = (i32)end;
    }
    tokb_specials(&r.b, sp);
    return tokb_finish(&r.b, out);
}
