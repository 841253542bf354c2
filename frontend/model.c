#include "frontend/model.h"

#include "frontend/graph.h"

enum { FE_MODEL_MAX = 4 << 20, FE_MAX_DIM = INT32_MAX, FE_MAX_DIMS = 256 };

typedef struct Load {
    Diag *d;
    Arena *a;
    const Source *src;
    const Json *root;
    FeModel *out;
    Map dims;        /* name -> index into values */
    VEC(i64) values; /* 0: bad, and reported */
    VEC(const char *) names;
} Load;

static Loc at(const Load *l, const Json *v)
{
    return json_loc(l->src, v);
}

bool fe_name_ok(Str s)
{
    bool ok = s.n > 0 && s.n <= 64;
    for (size_t i = 0; ok && i < s.n; i++) {
        char c = s.p[i];
        ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
             (i && (c == '.' || c == '_' || c == '-'));
    }
    return ok;
}

static bool dim_lookup(void *user, Str name, FeVal *out)
{
    const Load *l = user;
    const u32 *i = map_get(&l->dims, name);
    if (i) *out = l->values.at[*i] ? fe_int(l->values.at[*i]) : (FeVal){.kind = FE_BAD};
    return i != NULL;
}

/* ---- dims ---- */

static bool dim_name_ok(Str s)
{
    static const char *const taken[] = {"T",    "R",  "C",   "tokens", "pos", "true", "false",
                                        "null", "in", "and", "or",     "not", "arch", "params"};
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
        if (str_is(s, taken[i])) return false;
    bool ok = s.n > 0 && s.n <= 64;
    for (size_t i = 0; ok && i < s.n; i++) {
        char c = s.p[i];
        ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
             (i && c >= '0' && c <= '9');
    }
    return ok;
}

static i64 dim(const Load *l, const char *name)
{
    const u32 *i = map_get(&l->dims, str_c(name));
    return i ? l->values.at[*i] : 0;
}

static bool read_dims(Load *l)
{
    const Json *v = json_need(l->d, l->src, l->root, "dims", JSON_OBJECT);
    if (!v) return false;
    if (v->n > FE_MAX_DIMS)
        return diag_error(l->d, E_LIMIT, at(l, v), "more than %d dims", FE_MAX_DIMS);
    bool ok = true;
    FeEnv env = {.a = l->a, .lookup = dim_lookup, .user = l};
    for (u32 i = 0; i < v->n; i++) {
        const Json *e = &v->at[i];
        FeVal x = fe_from_json(l->a, e);
        env.names = l->names.at, env.n_names = l->names.n;
        if (!dim_name_ok(v->key[i]))
            ok = diag_error(l->d, E_JSON_VALUE, at(l, e), "\"%.*s\" cannot be the name of a dim",
                            STRF(v->key[i]));
        else if (e->kind == JSON_STRING && !fe_eval_json(l->d, l->src, e, &env, &x))
            ok = false; /* over the dims above it */
        else if (x.kind != FE_INT || x.i < 1 || x.i > FE_MAX_DIM)
            ok = diag_error(l->d, E_MODEL_DIM, at(l, e),
                            "the dim \"%.*s\" must be an integer from 1 to %d", STRF(v->key[i]),
                            FE_MAX_DIM);
        bool added;
        *map_put(&l->dims, v->key[i], &added) = l->values.n;
        vec_push(l->a, &l->values, x.kind == FE_INT && x.i > 0 && x.i <= FE_MAX_DIM ? x.i : 0);
        vec_push(l->a, &l->names, v->key[i].p);
    }
    static const char *const needed[] = {"vocab", "context"};
    for (u32 i = 0; i < 2; i++)
        if (!map_get(&l->dims, str_c(needed[i])))
            ok = diag_error(l->d, E_MODEL_DIM, (Loc){.src = l->src, .off = v->off, .len = 1},
                            "the dim \"%s\" is missing", needed[i]);
    i64 heads = dim(l, "heads"), kv = dim(l, "kv_heads");
    if (ok && heads && kv && heads % kv)
        ok = diag_error(l->d, E_MODEL_DIM, at(l, json_get(v, "kv_heads")),
                        "%lld heads are no multiple of %lld kv_heads", (long long)heads,
                        (long long)kv);
    return ok;
}

static void write_meta(Load *l, const char *arch)
{
    Module *m = l->out->m;
    for (u32 i = 0; i < l->names.n; i++)
        ir_meta_int(m, strcmp(l->names.at[i], "L") ? l->names.at[i] : "layers", l->values.at[i]);
    if (arch) ir_meta_str(m, "arch", arch);
    ir_meta_int(m, "params",
                (i64)(l->out->weights.params < INT64_MAX ? l->out->weights.params : INT64_MAX));
}

/* ---- choices ---- */

/* A list of strings, or one string. NULL and n = 0 when the key is absent. */
static bool strings(Load *l, const Json *obj, const char *key, const char *const **out, u32 *n)
{
    const Json *v = json_get(obj, key);
    *out = NULL, *n = 0;
    if (!v) return true;
    const Json *e = v->kind == JSON_ARRAY ? v->at : v;
    u32 count = v->kind == JSON_ARRAY ? v->n : 1;
    const char **list = NEWN(l->a, const char *, count);
    for (u32 i = 0; i < count; i++) {
        if (e[i].kind != JSON_STRING || e[i].str.n == 0)
            return diag_error(l->d, E_JSON_TYPE, at(l, &e[i]), "\"%s\" holds %s, expected text",
                              key, json_kind_name(e[i].kind));
        list[i] = e[i].str.p;
    }
    *out = list, *n = count;
    return true;
}

static bool opt_int(Load *l, const Json *obj, const char *key, i64 lo, i64 hi, i64 *out)
{
    return !json_get(obj, key) || json_need_int(l->d, l->src, obj, key, lo, hi, out);
}

/* "prefix": a list of ids, or a text as --prefix takes it. */
static bool read_prefix(Load *l, const Json *v)
{
    StrBuf b = {.a = l->a};
    if (v->kind == JSON_STRING && v->str.n) {
        l->out->calib_prefix = v->str.p;
        return true;
    }
    if (v->kind != JSON_ARRAY)
        return diag_error(l->d, E_JSON_TYPE, at(l, v),
                          "\"prefix\" is %s, expected a list of token ids or a text",
                          v->kind == JSON_STRING ? "empty" : json_kind_name(v->kind));
    for (u32 i = 0; i < v->n; i++) {
        const Json *e = &v->at[i];
        if (e->kind != JSON_NUMBER || !(e->num >= 0 && e->num <= INT32_MAX) ||
            e->num != (double)(i32)e->num)
            return diag_error(l->d, E_JSON_VALUE, at(l, e), "a token id is an integer from 0 on");
        sb_printf(&b, "%s%d", i ? "," : "", (i32)e->num);
    }
    l->out->calib_prefix = v->n ? b.p : "none";
    return true;
}

/* Nothing is measured of synthetic weights: "max" is what activations are taken to reach. */
static bool read_max(Load *l, const Json *v)
{
    FeModel *o = l->out;
    const Json *weights = json_get(l->root, "weights");
    const bool synthetic = weights && weights->kind == JSON_OBJECT;
    o->calib_max = synthetic ? 8 : 0;
    if (!v) return true;
    if (!synthetic)
        return diag_error(l->d, E_JSON_VALUE, at(l, v),
                          "\"max\" is for synthetic weights; scales of others are measured");
    o->calib_max = v->kind == JSON_NUMBER ? v->num : 0;
    return (o->calib_max > 0 && o->calib_max < 1e30) ||
           diag_error(l->d, E_JSON_VALUE, at(l, v), "\"max\" must be a positive number");
}

static bool read_calibration(Load *l)
{
    static const char *const keys[] = {"text", "seed", "samples", "length",
                                       "max",  "note", "prefix"};
    const Json *v = json_get(l->root, "calibration");
    FeModel *o = l->out;
    if (!v) return read_max(l, NULL);
    if (v->kind != JSON_OBJECT)
        return diag_error(l->d, E_JSON_TYPE, at(l, v), "\"calibration\" is %s, expected an object",
                          json_kind_name(v->kind));
    const char *const *text;
    bool ok = json_only(l->d, l->src, v, keys, 7);
    ok &= strings(l, v, "text", &text, &o->n_calib);
    const char **path = NEWN(l->a, const char *, o->n_calib);
    for (u32 i = 0; i < o->n_calib; i++)
        path[i] = io_join(l->a, o->dir, text[i]);
    o->calib_text = path;
    ok &= read_max(l, json_get(v, "max"));
    ok &= !json_get(v, "prefix") || read_prefix(l, json_get(v, "prefix"));
    ok &= opt_int(l, v, "seed", 0, INT64_MAX, &o->calib_seed);
    ok &= opt_int(l, v, "samples", 1, 1 << 20, &o->calib_samples);
    return ok & opt_int(l, v, "length", 1, 1 << 24, &o->calib_length);
}

static bool read_options(Load *l)
{
    static const char *const keys[] = {"embed_weights", "note"};
    const Json *v = json_get(l->root, "options");
    if (!v) return true;
    if (v->kind != JSON_OBJECT)
        return diag_error(l->d, E_JSON_TYPE, at(l, v), "\"options\" is %s, expected an object",
                          json_kind_name(v->kind));
    bool ok = json_only(l->d, l->src, v, keys, 2);
    const Json *e = json_get(v, "embed_weights")
                        ? json_need(l->d, l->src, v, "embed_weights", JSON_BOOL)
                        : NULL;
    l->out->embed_weights = e && e->b;
    return ok && (e || !json_get(v, "embed_weights"));
}

static bool read_text(Load *l, const char *key, const char **out)
{
    const Json *v = json_get(l->root, key);
    if (!v) return true;
    if (v->kind != JSON_STRING || v->str.n == 0)
        return diag_error(l->d, E_JSON_TYPE, at(l, v), "\"%s\" is %s, expected text", key,
                          v->kind == JSON_STRING ? "empty" : json_kind_name(v->kind));
    *out = v->str.p;
    return true;
}

/* "chat_template": the path of one, or false for none. */
static bool read_chat(Load *l)
{
    const Json *v = json_get(l->root, "chat_template");
    l->out->chat = !v || v->kind != JSON_BOOL;
    if (!v || (v->kind == JSON_BOOL && !v->b)) return true;
    if (v->kind != JSON_STRING || v->str.n == 0)
        return diag_error(l->d, E_JSON_TYPE, at(l, v),
                          "\"chat_template\" is %s, expected the path of a file, or false",
                          v->kind == JSON_BOOL ? "true" : json_kind_name(v->kind));
    l->out->chat_template = io_join(l->a, l->out->dir, v->str.p);
    return true;
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcmp(s + n - k, tail) == 0;
}

static bool read_choices(Load *l, const char **arch)
{
    FeModel *o = l->out;
    static const char *const cpu[] = {"cpu"};
    bool ok = true;
    const Json *name = json_need(l->d, l->src, l->root, "name", JSON_STRING);
    o->name = name && fe_name_ok(name->str) ? name->str.p : "model";
    if (!name)
        ok = false;
    else if (!fe_name_ok(name->str))
        ok = diag_error(l->d, E_JSON_VALUE, at(l, name),
                        "a name is made of letters, digits, '.', '_' and '-', at most 64, and "
                        "starts with a letter or digit");
    o->recipe = FE_DEFAULT_RECIPE;
    ok &= read_text(l, "tokenizer", &o->tokenizer) & read_text(l, "recipe", &o->recipe) &
          read_text(l, "arch", arch) & read_chat(l);
    if (o->tokenizer) o->tokenizer = io_join(l->a, o->dir, o->tokenizer);
    if (ends_with(o->recipe, ".json")) o->recipe = io_join(l->a, o->dir, o->recipe);
    ok &= strings(l, l->root, "targets", &o->targets, &o->n_targets);
    if (!o->n_targets) o->targets = cpu, o->n_targets = 1;
    return ok & read_calibration(l) & read_options(l);
}

/* ---- the file ---- */

static bool read_version(Load *l)
{
    const Json *v = json_need(l->d, l->src, l->root, "pfqc", JSON_NUMBER);
    if (!v) return false;
    return (v->is_int && v->i == 1) || diag_error(l->d, E_MODEL_VERSION, at(l, v),
                                                  "format version %.*s, this build reads version 1",
                                                  (int)v->len, l->src->text + v->off);
}

bool fe_model_parse(Diag *d, Arena *a, const Source *src, const char *dir, FeModel *out)
{
    static const char *const keys[] = {
        "pfqc",  "name",   "arch",        "weights", "tensors", "tokenizer", "dims",
        "graph", "recipe", "calibration", "targets", "options", "note",      "chat_template"};
    *out = (FeModel){.dir = dir};
    Load l = {.d = d, .a = a, .src = src, .out = out, .dims = {.a = a}};
    l.root = json_parse(d, a, src);
    if (!l.root) return false;
    if (l.root->kind != JSON_OBJECT)
        return diag_error(d, E_JSON_TYPE, at(&l, l.root), "model.json is %s, expected an object",
                          json_kind_name(l.root->kind));
    if (!read_version(&l)) return false; /* another version may have any keys */
    const char *arch = NULL;
    bool ok = json_only(d, src, l.root, keys, sizeof keys / sizeof *keys);
    ok &= read_choices(&l, &arch) & read_dims(&l);
    out->m = ir_module_new(a, out->name, dir);
    FeEnv env = {
        .a = a, .lookup = dim_lookup, .user = &l, .names = l.names.at, .n_names = l.names.n};
    ok &= fe_weights_open(&out->weights, d, out->m, src, l.root, &env);
    if (!out->weights.open) return false;
    const Json *graph = json_need(d, src, l.root, "graph", JSON_ARRAY);
    if (!graph || !fe_graph_build(&out->weights, graph, &env, dim(&l, "vocab"))) return false;
    write_meta(&l, arch);
    return ok;
}

bool fe_model_load(Diag *d, Arena *a, const char *path, FeModel *out)
{
    Source *src = NEW(a, Source);
    *out = (FeModel){0};
    return io_read_text(d, a, path, FE_MODEL_MAX, src) &&
           fe_model_parse(d, a, src, io_dirname(a, path), out);
}

void fe_model_close(FeModel *model)
{
    ck_close(&model->weights.ck);
}
