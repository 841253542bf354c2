/* Finds the tokenizer among a checkpoint's files, and what the files beside it say about special
 * tokens. */
#include "frontend/tok_build.h"

enum { MAX_TOKENIZER = 256 << 20, MAX_CONFIG = 16 << 20, MAX_EOG = 64 };

static Str token_text(const Json *v)
{
    if (v && v->kind == JSON_OBJECT) v = json_get(v, "content");
    return v && v->kind == JSON_STRING ? v->str : (Str){0};
}

/* Classes whose post-processor transformers rebuilds from add_bos_token, whatever tokenizer.json
 * says. */
static bool rebuilds_bos(Str class)
{
    return str_is(class, "LlamaTokenizer") || str_is(class, "LlamaTokenizerFast") ||
           str_is(class, "CodeLlamaTokenizer");
}

static void from_tokenizer_config(const Json *v, TokSpecials *sp)
{
    const Json *add = json_get(v, "add_bos_token");
    sp->bos = token_text(json_get(v, "bos_token"));
    sp->eos = token_text(json_get(v, "eos_token"));
    if (add && add->kind == JSON_BOOL && rebuilds_bos(sp->class)) sp->add_bos = add->b;
}

static i32 as_id(const Json *v)
{
    return v && v->is_int && v->i >= 0 && v->i < PFQ_TOK_MAX_VOCAB ? (i32)v->i : -1;
}

/* bos_token_id and eos_token_id (a number or a list) of generation_config.json or config.json. */
static void from_config(Arena *a, const Json *v, TokSpecials *sp)
{
    const Json *eos = json_get(v, "eos_token_id");
    u32 n = eos && eos->kind == JSON_ARRAY ? eos->n : eos ? 1 : 0;
    if (sp->bos_id < 0) sp->bos_id = as_id(json_get(v, "bos_token_id"));
    if (sp->n_eog || n == 0 || n > MAX_EOG) return;
    i32 *list = NEWN(a, i32, n);
    for (u32 i = 0; i < n; i++)
        list[i] = as_id(eos->kind == JSON_ARRAY ? eos->at + i : eos);
    sp->eog = list;
    sp->n_eog = n;
    sp->eos_id = list[0];
}

/* A file beside the tokenizer; NULL in *out if it does not exist. */
static bool neighbour(Diag *d, Arena *a, const char *dir, const char *name, const Json **out,
                      const Source **text)
{
    const char *path = io_join(a, dir, name);
    Source *src = NEW(a, Source);
    *out = NULL;
    if (text) *text = src;
    if (!io_exists(path)) return true;
    if (!io_read_text(d, a, path, MAX_CONFIG, src)) return false;
    return (*out = json_parse(d, a, src)) != NULL;
}

static bool read_specials(Diag *d, Arena *a, const char *dir, TokSpecials *sp)
{
    const Json *tok, *gen, *config;
    *sp = (TokSpecials){.bos_id = -1, .eos_id = -1, .add_bos = -1};
    if (!neighbour(d, a, dir, "tokenizer_config.json", &tok, &sp->src) ||
        !neighbour(d, a, dir, "generation_config.json", &gen, NULL) ||
        !neighbour(d, a, dir, "config.json", &config, NULL))
        return false;
    sp->added = json_get(tok, "added_tokens_decoder");
    if (sp->added && sp->added->kind != JSON_OBJECT) sp->added = NULL;
    sp->class = token_text(json_get(tok, "tokenizer_class"));
    from_tokenizer_config(tok, sp);
    from_config(a, gen, sp);
    from_config(a, config, sp);
    return true;
}

static bool ends_with(Str s, const char *end)
{
    size_t n = strlen(end);
    return s.n >= n && memcmp(s.p + s.n - n, end, n) == 0;
}

static bool load_gguf(Diag *d, Arena *a, const char *path, TokBlob *out)
{
    MappedFile f;
    Gguf g;
    if (!io_map(d, a, path, &f)) return false;
    bool ok = gguf_parse(d, a, &f, &g) && fe_tokenizer_from_gguf(d, a, &g, out);
    if (ok) io_unmap(&f); /* after an error the diagnostics may still point into it */
    return ok;
}

/* The pre-tokenizer of a folder with vocab.json and merges.txt, which only the tokenizer's class
 * tells. */
static bool load_vocab(Diag *d, Arena *a, const char *dir, TokBlob *out)
{
    static const struct {
        const char *class, *pre;
    } known[] = {{"GPT2Tokenizer", "gpt-2"},
                 {"GPT2TokenizerFast", "gpt-2"},
                 {"Qwen2Tokenizer", "qwen2"},
                 {"Qwen2TokenizerFast", "qwen2"},
                 {"CodeGenTokenizer", "gpt-2"}};
    TokSpecials sp;
    Source vocab, merges, added;
    const char *pre = NULL, *more = io_join(a, dir, "added_tokens.json");
    if (!read_specials(d, a, dir, &sp)) return false;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (str_is(sp.class, known[i].class)) pre = known[i].pre;
    if (!pre) {
        diag_error(d, E_TOKENIZER_UNSUPPORTED, LOC_WHAT(dir),
                   "tokenizer_class '%.*s' is not supported for vocab.json", STRF(sp.class));
        diag_hint(d, "supported in tokenizer_config.json: GPT2Tokenizer, Qwen2Tokenizer, "
                     "CodeGenTokenizer; or add tokenizer.json");
        return false;
    }
    return io_read_text(d, a, io_join(a, dir, "vocab.json"), MAX_TOKENIZER, &vocab) &&
           io_read_text(d, a, io_join(a, dir, "merges.txt"), MAX_TOKENIZER, &merges) &&
           (!io_exists(more) || io_read_text(d, a, more, MAX_CONFIG, &added)) &&
           fe_tokenizer_from_vocab(d, a, &vocab, &merges, io_exists(more) ? &added : NULL, pre, &sp,
                                   out);
}

static bool load_folder(Diag *d, Arena *a, const char *dir, TokBlob *out)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer.model"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *path = io_join(a, dir, names[i]);
        if (io_exists(path)) return fe_tokenizer_load(d, a, path, out);
    }
    if (io_exists(io_join(a, dir, "vocab.json"))) return load_vocab(d, a, dir, out);
    diag_error(d, E_FILE_READ, LOC_WHAT(dir), "the folder holds no tokenizer");
    diag_hint(d, "expected tokenizer.json, tokenizer.model, or vocab.json with merges.txt");
    return false;
}

/* A tokenizer.model: SentencePiece's protobuf starts with field 1 (byte 0x0a), tiktoken's text with
 * base64. */
static bool load_model(Diag *d, Arena *a, const char *path, const TokSpecials *sp, TokBlob *out)
{
    MappedFile f;
    if (!io_map(d, a, path, &f)) return false;
    Source *src = NEW(a, Source);
    if (f.size > MAX_TOKENIZER)
        return diag_error(d, E_LIMIT, LOC_WHAT(path), "the file exceeds %d MiB",
                          MAX_TOKENIZER >> 20);
    *src = (Source){.name = f.name, .text = (const char *)f.data, .n = f.size};
    bool spm = src->n > 0 && src->text[0] == '\n';
    return spm ? fe_tokenizer_from_spm(d, a, src, sp, out)
               : fe_tokenizer_from_tiktoken(d, a, src, sp, out);
}

bool fe_tokenizer_load(Diag *d, Arena *a, const char *path, TokBlob *out)
{
    TokSpecials sp;
    Source *src = NEW(a, Source);
    if (io_is_dir(path)) return load_folder(d, a, path, out);
    if (gguf_is_at(path)) return load_gguf(d, a, path, out);
    if (!read_specials(d, a, io_dirname(a, path), &sp)) return false;
    if (ends_with(str_c(path), ".model")) return load_model(d, a, path, &sp, out);
    if (!io_read_text(d, a, path, MAX_TOKENIZER, src)) return false;
    return fe_tokenizer_from_json(d, a, src, &sp, out);
}
