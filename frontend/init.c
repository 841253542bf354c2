#include "frontend/init.h"

#include "frontend/arch.h"
#include "frontend/model.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>

enum { CONFIG_MAX = 4 << 20 };

typedef struct Alias { /* a node that was left out -> its first input */
    Str id, to;
} Alias;

typedef struct Init {
    Diag *d;
    Arena *a;
    FeInit *in;
    FeOrigin from;
    Checkpoint ck;
    FeArch arch;
    StrBuf out;
    const char *dir;     /* of the output */
    const char *weights; /* path of the weights as ck_open takes it */
    const char *tokenizer;
    VEC(Alias) alias;
    Map used; /* roles of stored tensors that the graph uses, in order */
} Init;

/* ---- paths and names ---- */

static const char *base_name(Arena *a, const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    size_t s = n;
    while (s > 0 && path[s - 1] != '/')
        s--;
    return arena_strdup(a, path + s, n - s);
}

/* The real path of path's folder, with its last component as it is (a link stays one). NULL if
 * there is none. */
static const char *absolute(Arena *a, const char *path, bool is_dir)
{
    char buf[PATH_MAX];
    if (!realpath(is_dir ? path : io_dirname(a, path), buf)) return NULL;
    if (is_dir) return arena_strdup(a, buf, strlen(buf));
    return arena_printf(a, "%s/%s", strcmp(buf, "/") ? buf : "", base_name(a, path));
}

/* path as seen from the folder dir; both may be relative to the working directory. */
static const char *relative(Arena *a, const char *dir, const char *path)
{
    const char *from = absolute(a, dir, true), *to = absolute(a, path, false);
    if (!from || !to) return path;
    size_t common = 0, i = 0;
    for (; from[i] && from[i] == to[i]; i++)
        if (from[i] == '/') common = i + 1;
    if ((!from[i] || from[i] == '/') && (!to[i] || to[i] == '/'))
        common = i + 1; /* one is the other, or a folder above it */
    StrBuf b = {.a = a};
    if (common <= strlen(from))
        for (const char *p = from + common; *p; p++)
            if (p == from + common || *p == '/') sb_str(&b, "../");
    if (common < strlen(to))
        sb_str(&b, to + common);
    else if (b.n) /* a folder above dir: ".." */
        b.p[--b.n] = 0;
    return b.n ? b.p : ".";
}

/* Lower case; runs of other characters become one '-'. */
static const char *clean_name(Arena *a, Str s)
{
    StrBuf b = {.a = a};
    sb_str(&b, "");
    for (size_t i = 0; i < s.n && b.n < 64; i++) {
        char c = s.p[i];
        if (c >= 'A' && c <= 'Z') c = (char)(c + 32);
        bool keep =
            (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (b.n && (c == '.' || c == '_'));
        if (keep)
            sb_ch(&b, c);
        else if (b.n && b.p[b.n - 1] != '-')
            sb_ch(&b, '-');
    }
    while (b.n && (b.p[b.n - 1] == '-' || b.p[b.n - 1] == '.'))
        b.p[--b.n] = 0;
    return b.n ? b.p : "model";
}

static const char *strip_suffix(Arena *a, const char *s, const char *suffix)
{
    size_t n = strlen(s), k = strlen(suffix);
    return n > k && strcmp(s + n - k, suffix) == 0 ? arena_strdup(a, s, n - k) : s;
}

static const char *model_name(Init *x)
{
    if (x->in->name) return x->in->name;
    static const char *const keys[] = {"general.basename", "general.name"};
    for (u32 i = 0; x->from.gguf && i < 2; i++) {
        const GgufKv *kv = gguf_find(x->from.gguf, keys[i]);
        const u8 *p = kv && kv->type == GGUF_STRING ? kv->data : NULL;
        Str s = p ? gguf_next_str(&p) : (Str){0};
        if (s.n) return clean_name(x->a, s);
    }
    const char *path = x->in->checkpoint;
    char buf[PATH_MAX];
    bool dir = io_is_dir(path);
    if (dir && realpath(path, buf)) path = buf;
    const char *base = base_name(x->a, path);
    if (!dir && !x->from.gguf)
        base = base_name(x->a, io_dirname(x->a, path)); /* DIR/model.safetensors */
    return clean_name(x->a, str_c(strip_suffix(x->a, base, ".gguf")));
}

/* ---- the checkpoint ---- */

static bool read_config(Init *x, const char *dir)
{
    Source *src = NEW(x->a, Source);
    const char *path = io_join(x->a, dir, "config.json");
    if (!io_read_text(x->d, x->a, path, CONFIG_MAX, src)) return false;
    src->name = path;
    x->from.config_src = src;
    x->from.config = json_parse(x->d, x->a, src);
    if (!x->from.config) return false;
    return x->from.config->kind == JSON_OBJECT ||
           diag_error(x->d, E_JSON_TYPE, json_loc(src, x->from.config), "config.json is no object");
}

static bool open_checkpoint(Init *x)
{
    const char *path = x->in->checkpoint;
    bool dir = io_is_dir(path);
    x->from.ck = &x->ck;
    if (!ck_open(x->d, x->a, ".", &path, 1, &x->ck)) return false;
    x->from.gguf = ck_gguf(&x->ck);
    const char *index = dir ? io_join(x->a, path, "model.safetensors.index.json") : NULL;
    x->weights = dir && !x->from.gguf && io_exists(index) ? index
                 : dir && x->ck.n_files                   ? x->ck.file[0].path
                                                          : path;
    if (x->from.gguf) {
        if (gguf_find(x->from.gguf, "tokenizer.ggml.model"))
            x->tokenizer = x->weights;
        else
            diag_warn(x->d, LOC_WHAT(path),
                      "the file has no tokenizer: the model will take and give token ids only");
        return true;
    }
    const char *folder = dir ? path : io_dirname(x->a, path);
    static const char *const files[] = {"tokenizer.json", "tokenizer.model"};
    for (u32 i = 0; i < 2 && !x->tokenizer; i++) {
        const char *t = io_join(x->a, folder, files[i]);
        if (io_exists(t)) x->tokenizer = t;
    }
    if (!x->tokenizer && io_exists(io_join(x->a, folder, "vocab.json")) &&
        io_exists(io_join(x->a, folder, "merges.txt")))
        x->tokenizer = folder;
    if (!x->tokenizer)
        diag_warn(x->d, LOC_WHAT(folder),
                  "the folder has no tokenizer: the model will take and give token ids only");
    return read_config(x, folder);
}

/* ---- writing ---- */

static void put_json(Init *x, const Json *v);

static void put_val(StrBuf *b, const FeVal *v)
{
    if (v->kind == FE_STR)
        sb_json_str(b, v->s);
    else if (v->kind == FE_FLOAT && fabs(v->f) < 1e15 && !(v->f < floor(v->f)) &&
             !(v->f > floor(v->f)))
        sb_printf(b, "%.1f", v->f);
    else if (v->kind != FE_LIST)
        fe_val_text(v, b);
    else {
        bool same = v->n > 0;
        for (u32 i = 1; i < v->n; i++)
            same &= fe_equal(&v->at[0], &v->at[i]);
        if (same)
            put_val(b, &v->at[0]);
        else
            fe_val_text(v, b);
    }
}

/* "{expr}" -> its value; a string with {..} inside -> the string with values; another string ->
 * itself. */
static bool template_value(Init *x, Str s, FeVal *out)
{
    if (s.n > 2 && s.p[0] == '{' && s.p[s.n - 1] == '}')
        return fe_arch_eval(&x->arch, "graph", (Str){s.p + 1, s.n - 2}, out);
    *out = (FeVal){.kind = FE_STR, .s = s};
    return true;
}

static bool is_default(AttrId id, const FeVal *v)
{
    const AttrInfo *info = &attr_info[id];
    if (info->kind == AK_STR) return v->kind == FE_STR && v->s.n == 0;
    FeVal def = {.kind = FE_FLOAT, .f = info->def};
    return (info->kind == AK_INT || info->kind == AK_FLOAT) && fe_equal(v, &def);
}

static AttrId attr_by_name(Str s)
{
    for (int i = 1; i < A_COUNT; i++)
        if (str_is(s, attr_info[i].name)) return (AttrId)i;
    return A_NONE;
}

static bool when(Init *x, const Json *obj)
{
    const Json *w = json_get(obj, "when");
    FeVal v = {.kind = FE_BOOL, .b = true};
    if (w && !fe_arch_eval(&x->arch, "when", w->str, &v)) return false;
    if (v.kind == FE_BOOL) return v.b;
    return diag_error(x->d, E_CONFIG_UNSUPPORTED, LOC_WHAT(x->in->checkpoint),
                      "\"%.*s\" is neither true nor false", STRF(w->str));
}

/* A role's row; NULL when it does not apply to this checkpoint. */
static const Json *role_row(Init *x, Str role)
{
    const Json *row = json_get(json_get(x->arch.root, "weights"), role.p);
    if (!row) BUG("arch/%s.json: no weight \"%.*s\"", x->arch.name, STRF(role));
    return when(x, row) ? row : NULL;
}

static Str resolve(const Init *x, Str id)
{
    for (u32 i = x->alias.n; i-- > 0;)
        if (str_eq(x->alias.at[i].id, id)) return x->alias.at[i].to;
    return id;
}

static void put_input(Init *x, Str s)
{
    if (s.n == 0 || s.p[0] != '@') {
        sb_json_str(&x->out, resolve(x, s));
        return;
    }
    Str role = {s.p + 1, s.n - 1};
    const Json *row = role_row(x, role), *name = row ? fe_arch_pick(&x->arch, row) : NULL;
    if (!name || name == row)
        BUG("arch/%s.json: weight \"%.*s\" has no name here", x->arch.name, STRF(role));
    if (name->kind == JSON_OBJECT) {
        put_json(x, name);
        return;
    }
    bool added;
    map_put(&x->used, role, &added);
    StrBuf b = {.a = x->a};
    sb_printf(&b, "@%.*s", STRF(name->str));
    sb_json_str(&x->out, (Str){b.p, b.n});
}

static void put_inputs(Init *x, const Json *in)
{
    u32 n = in->n;
    while (n > 0 && in->at[n - 1].str.n && in->at[n - 1].str.p[0] == '@' &&
           !role_row(x, (Str){in->at[n - 1].str.p + 1, in->at[n - 1].str.n - 1}))
        n--;
    sb_ch(&x->out, '[');
    for (u32 i = 0; i < n; i++) {
        if (i) sb_str(&x->out, ", ");
        put_input(x, in->at[i].str);
    }
    sb_ch(&x->out, ']');
}

/* A value of the description, with its templates filled in; "in" lists weights by role. */
static void put_json(Init *x, const Json *v)
{
    StrBuf *b = &x->out;
    FeVal val = fe_from_json(x->a, v);
    switch (v->kind) {
    case JSON_STRING:
        if (template_value(x, v->str, &val)) put_val(b, &val);
        break;
    case JSON_ARRAY:
        sb_ch(b, '[');
        for (u32 i = 0; i < v->n; i++) {
            if (i) sb_str(b, ", ");
            put_json(x, &v->at[i]);
        }
        sb_ch(b, ']');
        break;
    case JSON_OBJECT: {
        const char *sep = "";
        sb_ch(b, '{');
        for (u32 i = 0; i < v->n; i++) {
            Str k = v->key[i];
            AttrId id = attr_by_name(k);
            if (str_is(k, "when")) continue;
            if (id && v->at[i].kind == JSON_STRING &&
                (!template_value(x, v->at[i].str, &val) || is_default(id, &val)))
                continue;
            if (str_is(k, "in") && v->at[i].n == 0) continue;
            sb_str(b, sep);
            sb_json_str(b, k);
            sb_str(b, ": ");
            if (str_is(k, "in"))
                put_inputs(x, &v->at[i]);
            else
                put_json(x, &v->at[i]);
            sep = ", ";
        }
        sb_ch(b, '}');
        break;
    }
    default: put_val(b, &val);
    }
}

/* Of alternatives with the same id one stays, and the others leave nothing behind. */
static void leave_out(Init *x, const Json *nodes, u32 i)
{
    const Json *in = json_get(&nodes->at[i], "in"), *id = json_get(&nodes->at[i], "id");
    if (!in || !in->n || !id)
        BUG("arch/%s.json: a node with `when` needs an id and an input", x->arch.name);
    for (u32 k = 0; k < nodes->n; k++) {
        const Json *other = json_get(&nodes->at[k], "id");
        if (k != i && other && str_eq(other->str, id->str)) return;
    }
    Alias alias = {id->str, resolve(x, in->at[0].str)};
    vec_push(x->a, &x->alias, alias);
}

/* Nodes one per line; a node whose `when` is false stands for its first input. */
static void put_nodes(Init *x, const Json *nodes, const char *indent)
{
    const char *sep = "";
    for (u32 i = 0; i < nodes->n; i++) {
        const Json *n = &nodes->at[i], *inner = json_get(n, "nodes");
        if (!when(x, n)) {
            leave_out(x, nodes, i);
            continue;
        }
        sb_printf(&x->out, "%s\n%s", sep, indent);
        sep = ",";
        if (!inner) {
            put_json(x, n);
            continue;
        }
        sb_ch(&x->out, '{');
        for (u32 k = 0; k < n->n; k++) {
            if (str_is(n->key[k], "nodes")) continue;
            sb_json_str(&x->out, n->key[k]);
            sb_str(&x->out, ": ");
            put_json(x, &n->at[k]);
            sb_str(&x->out, ", ");
        }
        sb_str(&x->out, "\"nodes\": [");
        put_nodes(x, inner, arena_printf(x->a, "%s  ", indent));
        sb_printf(&x->out, "\n%s]}", indent);
    }
}

static void put_key(Init *x, const char *key, const char *value)
{
    sb_printf(&x->out, ",\n  \"%s\": ", key);
    sb_json_str(&x->out, str_c(value));
}

static void put_dims(Init *x)
{
    const Json *dims = json_get(x->arch.root, "dims");
    sb_str(&x->out, ",\n  \"dims\": {");
    for (u32 i = 0; i < dims->n; i++) {
        sb_str(&x->out, i ? ", " : "");
        sb_json_str(&x->out, dims->key[i]);
        sb_str(&x->out, ": ");
        put_val(&x->out, &x->arch.entries.at[*map_get(&x->arch.names, dims->key[i])].val);
    }
    sb_ch(&x->out, '}');
}

/* The stored tensors' shapes: checked against the files, and what synthetic weights are made from.
 */
static void put_shapes(Init *x)
{
    sb_str(&x->out, ",\n  \"tensors\": {");
    for (u32 i = 0; i < x->used.entries.n; i++) {
        const Json *row = role_row(x, x->used.entries.at[i].key), *shape = json_get(row, "shape");
        if (!shape)
            BUG("arch/%s.json: weight \"%.*s\" has no shape", x->arch.name,
                STRF(x->used.entries.at[i].key));
        sb_printf(&x->out, "%s\n    ", i ? "," : "");
        sb_json_str(&x->out, fe_arch_pick(&x->arch, row)->str);
        sb_str(&x->out, ": ");
        put_json(x, shape);
    }
    sb_str(&x->out, "\n  }");
}

static void write_text(Init *x)
{
    put_nodes(x, json_get(x->arch.root, "graph"), "    ");
    StrBuf graph = x->out;
    x->out = (StrBuf){.a = x->a};
    sb_str(&x->out, "{\n  \"pfqc\": 1");
    put_key(x, "name", model_name(x));
    put_key(x, "arch", x->arch.name);
    sb_str(&x->out, ",\n  \"weights\": [");
    sb_json_str(&x->out, str_c(relative(x->a, x->dir, x->weights)));
    sb_ch(&x->out, ']');
    if (x->tokenizer) put_key(x, "tokenizer", relative(x->a, x->dir, x->tokenizer));
    put_dims(x);
    put_shapes(x);
    sb_printf(&x->out, ",\n  \"graph\": [%s\n  ]", graph.p);
    put_key(x, "recipe", x->in->recipe ? x->in->recipe : FE_DEFAULT_RECIPE);
    sb_str(&x->out, ",\n  \"targets\": [\"cpu\"]\n}\n");
}

/* ---- checks ---- */

static bool ignored(Init *x, Str name)
{
    const Json *l = json_get(json_get(x->arch.root, "ignore"), x->from.gguf ? "gguf" : "hf");
    for (u32 i = 0; l && i < l->n; i++)
        if (fe_pattern_match(l->at[i].str, name)) return true;
    return false;
}

static bool all_used(Init *x, const FeModel *model)
{
    const Checkpoint *ck = &model->weights.ck;
    u32 n = 0;
    StrBuf names = {.a = x->a};
    for (u32 i = 0; i < ck->n_tensors; i++) {
        if (ck->used[i] || ignored(x, ck->tensor[i].name)) continue;
        if (n++ < 5) sb_printf(&names, "%s%.*s", n > 1 ? ", " : "", STRF(ck->tensor[i].name));
    }
    if (!n) return true;
    diag_error(x->d, E_TENSOR_UNUSED, LOC_WHAT(x->in->checkpoint),
               "the checkpoint holds %u tensor%s that a %s model does not use: %s%s", n,
               n > 1 ? "s" : "", x->arch.name, names.p, n > 5 ? ", ..." : "");
    diag_hint(x->d, "an unknown tensor often is an unsupported feature; nothing was written");
    return false;
}

/* Loads what was written, as pfqc will; errors point into the text that would have been written. */
static bool check(Init *x)
{
    FeModel model;
    Source *src = NEW(x->a, Source);
    *src = (Source){x->in->output ? x->in->output : "model.json", x->out.p, x->out.n};
    const char *dir = absolute(x->a, x->dir, true);
    bool ok = fe_model_parse(x->d, x->a, src, dir ? dir : x->dir, &model) && all_used(x, &model);
    fe_model_close(&model);
    return ok;
}

bool fe_init(Diag *d, Arena *a, FeInit *init)
{
    Init x = {.d = d, .a = a, .in = init, .out = {.a = a}, .used = {.a = a}};
    x.dir = init->output ? io_dirname(a, init->output) : ".";
    if (init->name && !fe_name_ok(str_c(init->name)))
        return diag_error(d, E_USAGE, LOC_WHAT("--name"),
                          "a name is made of letters, digits, '.', '_' and '-', at most 64, and "
                          "starts with a letter or digit");
    bool ok = open_checkpoint(&x) && fe_arch_open(d, a, &x.from, &x.arch);
    u32 before = d->n_errors;
    if (ok) {
        write_text(&x);
        init->text = x.out.p;
        ok = d->n_errors == before && check(&x);
    }
    ck_close(&x.ck);
    return ok && (!init->output || io_write_file(d, a, init->output, x.out.p, x.out.n));
}
