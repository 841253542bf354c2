/* Finds the tokenizer among a checkpoint's files, and what the files beside it say about special tokens. */
#include "frontend/tok_build.h"

enum { MAX_TOKENIZER = 256 << 20, MAX_CONFIG = 16 << 20, MAX_EOG = 64 };

static Str token_text(const Json *v)
{
    if (v && v->kind == JSON_OBJECT) v = json_get(v, "content");
    return v && v->kind == JSON_STRING ? v->str : (Str){0};
}

/* Classes whose post-processor transformers rebuilds from add_bos_token, whatever tokenizer.json says. */
static bool rebuilds_bos(Str class)
{
    return str_is(class, "LlamaTokenizer") || str_is(class, "LlamaTokenizerFast") || str_is(class, "CodeLlamaTokenizer");
}

static void from_tokenizer_config(const Json *v, TokSpecials *sp)
{
    const Json *add = json_get(v, "add_bos_token"), *class = json_get(v, "tokenizer_class");
    sp->bos = token_text(json_get(v, "bos_token"));
    sp->eos = token_text(json_get(v, "eos_token"));
    if (add && add->kind == JSON_BOOL && rebuilds_bos(token_text(class))) sp->add_bos = add->b;
}

static i32 as_id(const Json *v) { return v && v->is_int && v->i >= 0 && v->i < PFQ_TOK_MAX_VOCAB ? (i32)v->i : -1; }

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
static bool neighbour(Diag *d, Arena *a, const char *dir, const char *name, const Json **out)
{
    const char *path = io_join(a, dir, name);
    Source *src = NEW(a, Source);
    *out = NULL;
    if (!io_exists(path)) return true;
    if (!io_read_text(d, a, path, MAX_CONFIG, src)) return false;
    return (*out = json_parse(d, a, src)) != NULL;
}

static bool read_specials(Diag *d, Arena *a, const char *dir, TokSpecials *sp)
{
    const Json *tok, *gen, *config;
    *sp = (TokSpecials){.bos_id = -1, .eos_id = -1, .add_bos = -1};
    if (!neighbour(d, a, dir, "tokenizer_config.json", &tok) || !neighbour(d, a, dir, "generation_config.json", &gen) ||
        !neighbour(d, a, dir, "config.json", &config))
        return false;
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

static bool load_folder(Diag *d, Arena *a, const char *dir, TokBlob *out)
{
    static const char *const names[] = {"tokenizer.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *path = io_join(a, dir, names[i]);
        if (io_exists(path)) return fe_tokenizer_load(d, a, path, out);
    }
    diag_error(d, E_FILE_READ, LOC_WHAT(dir), "the folder holds no tokenizer");
    diag_hint(d, "expected tokenizer.json, tokenizer.model, or vocab.json with merges.txt");
    return false;
}

bool fe_tokenizer_load(Diag *d, Arena *a, const char *path, TokBlob *out)
{
    TokSpecials sp;
    Source *src = NEW(a, Source);
    if (io_is_dir(path)) return load_folder(d, a, path, out);
    if (ends_with(str_c(path), ".gguf")) return load_gguf(d, a, path, out);
    if (!read_specials(d, a, io_dirname(a, path), &sp) || !io_read_text(d, a, path, MAX_TOKENIZER, src)) return false;
    return fe_tokenizer_from_json(d, a, src, &sp, out);
}
