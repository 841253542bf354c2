#include "frontend/arch.h"

#include <math.h>

enum { MAX_BASES = 8 };

static bool is_gguf(const FeArch *x)
{
    return x->from->gguf != NULL;
}

/* ---- descriptions ---- */

/* They are part of pfqc and tested: an error in one is a bug, and says where. */
static const Json *parse_file(Arena *a, const FeArchFile *f)
{
    Diag d;
    diag_init(&d, a);
    Source *src = NEW(a, Source);
    *src = (Source){arena_printf(a, "arch/%s.json", f->name), f->text, f->n};
    const Json *j = json_parse(&d, a, src);
    if (j && j->kind == JSON_OBJECT) return j;
    diag_flush(&d);
    BUG("arch/%s.json is no JSON object", f->name);
}

static const FeArchFile *file_by_name(Str name)
{
    for (const FeArchFile *f = fe_arch_files; f->name; f++)
        if (str_is(name, f->name)) return f;
    return NULL;
}

/* RFC 7396: members of patch replace those of base, objects are merged, null removes. */
static const Json *merge(Arena *a, const Json *base, const Json *patch)
{
    if (patch->kind != JSON_OBJECT || !base || base->kind != JSON_OBJECT) return patch;
    Json *out = NEW(a, Json);
    Json *at = NEWN(a, Json, base->n + patch->n);
    Str *key = NEWN(a, Str, base->n + patch->n);
    *out = (Json){.kind = JSON_OBJECT, .at = at, .key = key};
    for (u32 i = 0; i < base->n; i++) {
        const Json *p = json_get(patch, base->key[i].p);
        if (p && p->kind == JSON_NULL) continue;
        key[out->n] = base->key[i];
        at[out->n++] = p ? *merge(a, &base->at[i], p) : base->at[i];
    }
    for (u32 i = 0; i < patch->n; i++) {
        if (json_get(base, patch->key[i].p) || patch->at[i].kind == JSON_NULL) continue;
        key[out->n] = patch->key[i];
        at[out->n++] = patch->at[i];
    }
    return out;
}

static const Json *description(Arena *a, const FeArchFile *f, int depth)
{
    const Json *j = parse_file(a, f), *base = json_get(j, "base");
    if (!base) return j;
    const FeArchFile *b = base->kind == JSON_STRING ? file_by_name(base->str) : NULL;
    if (!b || depth > MAX_BASES) BUG("arch/%s.json has no usable base", f->name);
    return merge(a, description(a, b, depth + 1), j);
}

static bool lists(const Json *match, const char *key, Str name)
{
    const Json *l = json_get(match, key);
    for (u32 i = 0; l && l->kind == JSON_ARRAY && i < l->n; i++)
        if (str_eq(l->at[i].str, name)) return true;
    return false;
}

const char *fe_arch_list(Arena *a)
{
    StrBuf b = {.a = a};
    sb_str(&b, "");
    for (const FeArchFile *f = fe_arch_files; f->name; f++) {
        if (!json_get(parse_file(a, f), "match")) continue; /* only a base */
        sb_printf(&b, "%s%s", b.n ? ", " : "", f->name);
    }
    return b.p;
}

/* ---- names and functions ---- */

/* Walks "a.b.c" through objects. */
static const Json *config_at(const Json *v, Str path)
{
    while (v && path.n) {
        const char *dot = memchr(path.p, '.', path.n);
        size_t n = dot ? (size_t)(dot - path.p) : path.n;
        const Json *next = NULL;
        for (u32 i = 0; v->kind == JSON_OBJECT && i < v->n && !next; i++)
            if (str_eq(v->key[i], (Str){path.p, n})) next = &v->at[i];
        v = next;
        path = dot ? (Str){dot + 1, path.n - n - 1} : (Str){0};
    }
    return v;
}

static const char *gguf_arch(const FeArch *x)
{
    const GgufKv *kv = gguf_find(x->from->gguf, "general.architecture");
    const u8 *p = kv && kv->type == GGUF_STRING ? kv->data : NULL;
    Str s = p ? gguf_next_str(&p) : (Str){0};
    return arena_strdup(x->a, s.p, s.n);
}

static const GgufKv *gguf_at(const FeArch *x, Str key)
{
    return gguf_find(x->from->gguf, arena_printf(x->a, "%s.%.*s", gguf_arch(x), STRF(key)));
}

/* The value of a key; after a diagnostic it counts as 1, as in value(). */
static FeVal gguf_value(FeArch *x, const GgufKv *kv)
{
    if (!kv) return (FeVal){0};
    if (kv->type == GGUF_STRING) {
        const u8 *p = kv->data;
        return (FeVal){.kind = FE_STR, .s = gguf_next_str(&p)};
    }
    bool list = kv->type == GGUF_ARRAY;
    if (kv->elem == GGUF_STRING || kv->count > FE_LIST_MAX)
        return (FeVal){.kind = FE_BOOL, .b = true};
    FeVal *at = NEWN(x->a, FeVal, kv->count);
    for (u64 i = 0; i < kv->count; i++) {
        const bool real = kv->elem == GGUF_F32 || kv->elem == GGUF_F64;
        if (real && !isfinite(gguf_elem_f64(kv, i))) {
            x->ok = diag_error(x->d, E_CONFIG_UNSUPPORTED, gguf_loc(x->from->gguf, kv),
                               "\"%.*s\" is %g, expected a finite number", STRF(kv->key),
                               gguf_elem_f64(kv, i));
            return fe_int(1);
        }
        if (real)
            at[i] = (FeVal){.kind = FE_FLOAT, .f = gguf_elem_f64(kv, i)};
        else if (kv->elem == GGUF_BOOL)
            at[i] = (FeVal){.kind = FE_BOOL, .b = gguf_elem_i64(kv, i) != 0};
        else
            at[i] = fe_int(gguf_elem_i64(kv, i));
        if (kv->elem ==
            GGUF_F32) { /* the shortest decimal that is this f32: 1e-5, not 9.999999747e-6 */
            StrBuf b = {.a = x->a};
            sb_f32(&b, (float)at[i].f);
            double f;
            if (str_to_f64((Str){b.p, b.n}, &f)) at[i].f = f;
        }
    }
    return list ? (FeVal){.kind = FE_LIST, .at = at, .n = (u32)kv->count} : at[0];
}

static const FeVal *value(FeArch *x, u32 i);

static bool lookup(void *user, Str name, FeVal *out)
{
    FeArch *x = user;
    *out = (FeVal){0};
    const u32 *i = map_get(&x->names, name);
    if (i)
        *out = *value(x, *i);
    else if (str_is(name, "arch"))
        *out = (FeVal){.kind = FE_STR, .s = str_c(x->name)};
    else if (str_starts(name, "config.")) {
        if (!is_gguf(x))
            *out = fe_from_json(x->a, config_at(x->from->config, (Str){name.p + 7, name.n - 7}));
    } else if (str_starts(name, "gguf.")) {
        if (is_gguf(x)) *out = gguf_value(x, gguf_at(x, (Str){name.p + 5, name.n - 5}));
    } else
        return false;
    return true;
}

static const char *call(void *user, Str fn, const FeVal *arg, u32 n, FeVal *out)
{
    FeArch *x = user;
    if (n != 1 || arg[0].kind != FE_STR)
        return "unknown function, or arguments that it does not take";
    const CkTensor *t = ck_find(x->from->ck, arg[0].s);
    if (str_is(fn, "exists"))
        *out = (FeVal){.kind = FE_BOOL, .b = t != NULL};
    else if (str_is(fn, "rows"))
        *out = t && t->rank && t->dim[0] <= INT64_MAX ? fe_int((i64)t->dim[0]) : (FeVal){0};
    else if (str_is(fn, "given"))
        *out = (FeVal){.kind = FE_BOOL,
                       .b = is_gguf(x) ? gguf_at(x, arg[0].s) != NULL
                                       : config_at(x->from->config, arg[0].s) != NULL};
    else
        return "unknown function";
    return NULL;
}

const Json *fe_arch_pick(const FeArch *x, const Json *v)
{
    if (!v || v->kind != JSON_OBJECT) return v;
    const Json *both = json_get(v, "both"), *one = json_get(v, is_gguf(x) ? "gguf" : "hf"),
               *other = json_get(v, is_gguf(x) ? "hf" : "gguf");
    return both ? both : one ? one : other ? NULL : v;
}

bool fe_arch_eval(const FeArch *x, const char *where, Str text, FeVal *out)
{
    FeExprError err;
    if (fe_eval(&x->env, text, out, &err)) return true;
    return diag_error(x->d, E_CONFIG_UNSUPPORTED, LOC_WHAT(where),
                      "%s in \"%.*s\" (architecture %s)", err.text, STRF(text), x->name);
}

/* ---- evaluation ---- */

static const char *origin(const FeArch *x)
{
    return is_gguf(x) ? x->from->gguf->src->name : x->from->config_src->name;
}

/* Evaluates the i-th value, once. A null is a setting that the checkpoint does not have; after an
 * error it counts as 1, so that what depends on it is still looked at. */
static const FeVal *value(FeArch *x, u32 i)
{
    FeEntry *e = &x->entries.at[i];
    if (e->state == FE_DONE) return &e->val;
    if (e->state == FE_BUSY) BUG("arch/%s.json: %s depends on itself", x->name, e->name);
    e->state = FE_BUSY;
    FeVal v;
    bool ok = fe_arch_eval(x, origin(x), e->expr, &v); /* may add no entries, so that e stays */
    if (ok && v.kind == FE_NULL)
        ok = diag_error(x->d, E_CONFIG_UNSUPPORTED, LOC_WHAT(origin(x)),
                        "the checkpoint does not say its %s (%.*s)", e->name, STRF(e->expr));
    else if (ok && e->is_dim && (v.kind != FE_INT || v.i < 1 || v.i > INT32_MAX)) {
        StrBuf b = {.a = x->a};
        fe_val_text(&v, &b);
        ok = diag_error(x->d, E_MODEL_DIM, LOC_WHAT(origin(x)),
                        "%s is %.60s (%.*s), expected a positive integer", e->name, b.p,
                        STRF(e->expr));
    }
    e->val = ok ? v : fe_int(1);
    e->state = FE_DONE;
    x->ok &= ok;
    return &e->val;
}

/* Names the values of "dims" or "let"; their order does not matter. */
static void declare(FeArch *x, const char *section)
{
    const Json *s = json_get(x->root, section);
    for (u32 i = 0; s && i < s->n; i++) {
        const Json *e = fe_arch_pick(x, &s->at[i]);
        if (!e) continue;
        if (e->kind != JSON_STRING)
            BUG("arch/%s.json: %s.%.*s is no expression", x->name, section, STRF(s->key[i]));
        bool added;
        *map_put(&x->names, s->key[i], &added) = x->entries.n;
        if (!added) BUG("arch/%s.json: %.*s is defined twice", x->name, STRF(s->key[i]));
        FeEntry entry = {
            .name = s->key[i].p, .expr = e->str, .is_dim = strcmp(section, "dims") == 0};
        vec_push(x->a, &x->entries, entry);
        vec_push(x->a, &x->known, entry.name);
    }
    x->env.names = x->known.at, x->env.n_names = x->known.n;
}

/* Where a requirement's setting stands: the first of its places that the checkpoint has. */
static Loc place(const FeArch *x, const Json *req)
{
    static const char *const keys[] = {"hf", "hf5"};
    Loc loc = LOC_WHAT(origin(x));
    if (is_gguf(x)) {
        const Json *p = json_get(req, "gguf");
        const GgufKv *kv = p && p->str.n > 5 ? gguf_at(x, (Str){p->str.p + 5, p->str.n - 5}) : NULL;
        return kv ? gguf_loc(x->from->gguf, kv) : loc;
    }
    for (u32 i = 0; i < 2; i++) {
        const Json *p = json_get(req, keys[i]);
        const Json *v = p && p->str.n > 7
                            ? config_at(x->from->config, (Str){p->str.p + 7, p->str.n - 7})
                            : NULL;
        if (v && v->kind != JSON_NULL) return json_loc(x->from->config_src, v);
    }
    return loc;
}

static bool requirements(FeArch *x)
{
    const Json *s = json_get(x->root, "require");
    bool ok = true;
    for (u32 i = 0; s && i < s->n; i++) {
        const Json *r = &s->at[i], *check = json_get(r, "check"), *error = json_get(r, "error");
        if (!check || !error || check->kind != JSON_STRING || error->kind != JSON_STRING)
            BUG("arch/%s.json: require.%.*s needs check and error", x->name, STRF(s->key[i]));
        FeVal v;
        StrBuf text = {.a = x->a};
        FeExprError err;
        if (!fe_arch_eval(x, origin(x), check->str, &v))
            ok = false;
        else if (v.kind != FE_BOOL)
            BUG("arch/%s.json: require.%.*s is no condition", x->name, STRF(s->key[i]));
        else if (!v.b) {
            if (!fe_substitute(&x->env, error->str, &text, &err))
                BUG("arch/%s.json: require.%.*s: %s", x->name, STRF(s->key[i]), err.text);
            ok = diag_error(x->d, E_CONFIG_UNSUPPORTED, place(x, r), "%s", text.p);
        }
    }
    return ok;
}

static bool choose(FeArch *x)
{
    const Json *type = NULL;
    Str name;
    Loc loc;
    if (is_gguf(x)) {
        const GgufKv *kv = gguf_find(x->from->gguf, "general.architecture");
        if (!gguf_str(x->d, x->from->gguf, "general.architecture", &name)) return false;
        loc = gguf_loc(x->from->gguf, kv);
    } else {
        type = json_need(x->d, x->from->config_src, x->from->config, "model_type", JSON_STRING);
        if (!type) return false;
        name = type->str;
        loc = json_loc(x->from->config_src, type);
    }
    for (const FeArchFile *f = fe_arch_files; f->name; f++) {
        const Json *j = parse_file(x->a, f);
        if (!lists(json_get(j, "match"), is_gguf(x) ? "gguf" : "hf", name)) continue;
        x->name = f->name;
        x->root = description(x->a, f, 0);
        return true;
    }
    diag_error(x->d, E_ARCH_UNKNOWN, loc, "the architecture \"%.*s\" is not known",
               (int)(name.n < 80 ? name.n : 80), name.p);
    diag_hint(x->d, "supported: %s", fe_arch_list(x->a));
    return false;
}

bool fe_arch_open(Diag *d, Arena *a, const FeOrigin *from, FeArch *out)
{
    *out = (FeArch){.d = d, .a = a, .from = from, .names = {.a = a}};
    out->env =
        (FeEnv){.a = a, .lookup = lookup, .call = call, .user = out, .max_list = FE_LIST_MAX};
    if (!choose(out)) return false;
    declare(out, "dims");
    declare(out, "let");
    out->ok = true;
    for (u32 i = 0; i < out->entries.n; i++)
        value(out, i);
    return requirements(out) && out->ok;
}
