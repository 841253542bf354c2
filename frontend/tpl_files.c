/* Finds a checkpoint's chat templates and the special tokens that they may name. */
#include "frontend/tpl.h"

#include <dirent.h>
#include <stdlib.h>

enum { MAX_CONFIG = 16 << 20 };

static const char *const token_names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                          "pad_token", "cls_token", "mask_token"};

static bool add_text(Diag *d, Arena *a, TplSet *set, Str name, const Source *src)
{
    if (src->n == 0) return true; /* transformers takes an empty one for none */
    if (set->text.n == TPL_MAX_TEMPLATES)
        return diag_error(d, E_LIMIT, (Loc){.src = src}, "more than %d chat templates",
                          TPL_MAX_TEMPLATES);
    vec_push(a, &set->text, ((TplText){name, src}));
    return true;
}

/* A text inside another file, so that diagnostics can show its lines. */
static const Source *inner(Arena *a, const char *file, Str name, Str text)
{
    Source *src = NEW(a, Source);
    *src = (Source){
        .name = arena_printf(a, "%s (%.*s)", file, STRF(name)), .text = text.p, .n = text.n};
    return src;
}

/* "chat_template": a text, or a list of {"name", "template"}. */
static bool from_json(Diag *d, Arena *a, const Source *src, const Json *root, TplSet *set)
{
    const Json *v = json_get(root, "chat_template");
    if (!v || v->kind == JSON_NULL) return true;
    if (v->kind == JSON_STRING)
        return add_text(d, a, set, STR("default"),
                        inner(a, src->name, STR("chat_template"), v->str));
    if (v->kind != JSON_ARRAY)
        return diag_error(d, E_JSON_TYPE, json_loc(src, v),
                          "\"chat_template\" is %s, expected text", json_kind_name(v->kind));
    for (u32 i = 0; i < v->n; i++) {
        const Json *name = json_need(d, src, &v->at[i], "name", JSON_STRING),
                   *text = json_need(d, src, &v->at[i], "template", JSON_STRING);
        if (!name || !text ||
            !add_text(d, a, set, name->str, inner(a, src->name, name->str, text->str)))
            return false;
    }
    return true;
}

static bool has_token(const TplSet *set, Str name)
{
    for (u32 i = 0; i < set->token.n; i++)
        if (str_eq(set->token.at[i].name, name)) return true;
    return false;
}

static void add_token(Arena *a, TplSet *set, const char *name, Str text)
{
    if (!has_token(set, str_c(name))) vec_push(a, &set->token, ((TplToken){str_c(name), text}));
}

/* Special tokens, as text or {"content": text}. */
static void tokens_from_json(Arena *a, const Json *root, TplSet *set)
{
    for (size_t i = 0; i < sizeof token_names / sizeof *token_names; i++) {
        const Json *v = json_get(root, token_names[i]);
        if (v && v->kind == JSON_OBJECT) v = json_get(v, "content");
        if (v && v->kind == JSON_STRING) add_token(a, set, token_names[i], v->str);
    }
}

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

static bool from_file(Diag *d, Arena *a, const char *path, bool templates, TplSet *set)
{
    Source *src = NEW(a, Source);
    if (!io_read_text(d, a, path, MAX_CONFIG, src)) return false;
    if (!ends_with(path, ".json")) return add_text(d, a, set, STR("default"), src);
    const Json *root = json_parse(d, a, src);
    if (!root) return false;
    tokens_from_json(a, root, set);
    return !templates || from_json(d, a, src, root, set);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* additional_chat_templates/NAME.jinja, which go with chat_template.jinja. */
static bool additional(Diag *d, Arena *a, const char *dir, TplSet *set)
{
    const char *folder = io_join(a, dir, "additional_chat_templates");
    VEC(char *) name = {0};
    DIR *list = opendir(folder);
    for (const struct dirent *e; list && name.n <= TPL_MAX_TEMPLATES && (e = readdir(list));)
        if (ends_with(e->d_name, ".jinja"))
            vec_push(a, &name, arena_strdup(a, e->d_name, strlen(e->d_name)));
    if (list) closedir(list);
    if (name.n) qsort(name.at, name.n, sizeof *name.at, by_name);
    for (u32 i = 0; i < name.n; i++) {
        Source *src = NEW(a, Source);
        const Str base = {name.at[i], strlen(name.at[i]) - strlen(".jinja")};
        if (!io_read_text(d, a, io_join(a, folder, name.at[i]), MAX_CONFIG, src) ||
            !add_text(d, a, set, base, src))
            return false;
    }
    return true;
}

/* In transformers' order: files of their own go before what a JSON holds. */
static bool from_folder(Diag *d, Arena *a, const char *dir, bool templates, TplSet *set)
{
    static const char *const names[] = {"chat_template.jinja", "tokenizer_config.json",
                                        "chat_template.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *path = io_join(a, dir, names[i]);
        const bool want = templates && set->text.n == 0;
        if ((want || ends_with(path, ".json")) && io_exists(path) &&
            !from_file(d, a, path, want, set))
            return false;
        if (i == 0 && templates && !additional(d, a, dir, set)) return false;
    }
    return true;
}

static bool gguf_template(Diag *d, Arena *a, const Gguf *g, const char *key, Str name, TplSet *set)
{
    Str text;
    if (!gguf_find(g, key)) return true;
    if (!gguf_str(d, g, key, &text)) return false;
    text.p = arena_strdup(a, text.p, text.n); /* the file will be unmapped */
    return add_text(d, a, set, name, inner(a, g->src->name, str_c(key), text));
}

/* tokenizer.chat_template, and tokenizer.chat_template.NAME for the names in
 * tokenizer.chat_templates. */
static bool from_gguf(Diag *d, Arena *a, const char *path, TplSet *set)
{
    MappedFile f;
    Gguf g;
    if (!io_map(d, a, path, &f) || !gguf_parse(d, a, &f, &g)) return false;
    if (!gguf_template(d, a, &g, "tokenizer.chat_template", STR("default"), set)) return false;
    const GgufKv *names = NULL;
    if (gguf_find(&g, "tokenizer.chat_templates") &&
        !(names = gguf_str_array(d, &g, "tokenizer.chat_templates")))
        return false;
    const u8 *p = names ? names->data : NULL;
    for (u64 i = 0; names && i < names->count; i++) {
        Str name = gguf_next_str(&p);
        name.p = arena_strdup(a, name.p, name.n);
        if (!gguf_template(d, a, &g, arena_printf(a, "tokenizer.chat_template.%.*s", STRF(name)),
                           name, set))
            return false;
    }
    io_unmap(&f);
    return true;
}

/* What no file names: the tokenizer's own bos and eos. */
static void tokens_from_tokenizer(Arena *a, const TokBlob *tok, TplSet *set)
{
    PfqTokenizer t;
    char buf[16];
    if (!tok->data || pfq_tok_open(&t, tok->data, tok->n)) return;
    const i32 ids[] = {t.bos, t.eos};
    for (int i = 0; i < 2; i++) {
        size_t n = 0;
        const char *s = ids[i] < 0 ? buf : pfq_tok_piece(&t, ids[i], true, buf, &n);
        if (n) add_token(a, set, token_names[i], (Str){arena_strdup(a, s, n), n});
    }
}

bool fe_template_load(Diag *d, Arena *a, const char *tokenizer, const char *file,
                      const TokBlob *tok, TplBlob *out)
{
    TplSet set = {0};
    const bool gguf = gguf_is_at(tokenizer);
    const char *dir = io_is_dir(tokenizer) ? tokenizer : io_dirname(a, tokenizer);
    *out = (TplBlob){0};
    if (file && !from_file(d, a, file, true, &set)) return false;
    if (!(gguf ? file || from_gguf(d, a, tokenizer, &set) : from_folder(d, a, dir, !file, &set)))
        return false;
    tokens_from_tokenizer(a, tok, &set);
    if (set.text.n == 0)
        return !file ||
               diag_error(d, E_TEMPLATE, LOC_WHAT(file), "the file holds no chat template");
    return fe_template_compile(d, a, &set, out);
}
