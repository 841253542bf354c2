#include "frontend/weights.h"

#include <math.h>

bool fe_pattern_match(Str pattern, Str name)
{
    size_t i = 0, k = 0;
    while (i < pattern.n) {
        if (pattern.p[i] == '{') {
            const char *close = memchr(pattern.p + i, '}', pattern.n - i);
            if (!close || k >= name.n || name.p[k] < '0' || name.p[k] > '9') return false;
            while (k < name.n && name.p[k] >= '0' && name.p[k] <= '9')
                k++;
            i = (size_t)(close - pattern.p) + 1;
        } else if (k < name.n && pattern.p[i] == name.p[k])
            i++, k++;
        else
            return false;
    }
    return k == name.n;
}

static bool read_synthetic(FeWeights *w, const Json *v)
{
    static const char *const keys[] = {"synthetic", "scale", "note"};
    w->synthetic = w->open = true;
    w->scale = 1;
    bool ok = json_only(w->d, w->src, v, keys, 3) &
              json_need_int(w->d, w->src, v, "synthetic", 0, INT64_MAX, &w->seed);
    const Json *scale = json_get(v, "scale");
    if (!scale) return ok;
    if (scale->kind != JSON_NUMBER || !(scale->num > 0))
        return diag_error(w->d, E_JSON_VALUE, json_loc(w->src, scale),
                          "\"scale\" must be a positive number");
    w->scale = scale->num;
    return ok;
}

static bool read_files(FeWeights *w, const Json *v)
{
    if (!v->n)
        return diag_error(w->d, E_JSON_VALUE, json_loc(w->src, v), "\"weights\" names no file");
    const char **path = NEWN(w->m->a, const char *, v->n);
    for (u32 i = 0; i < v->n; i++) {
        if (v->at[i].kind != JSON_STRING)
            return diag_error(w->d, E_JSON_TYPE, json_loc(w->src, &v->at[i]),
                              "a weight file is %s, expected a path",
                              json_kind_name(v->at[i].kind));
        path[i] = v->at[i].str.p;
    }
    if (!ck_open(w->d, w->m->a, w->m->dir, path, v->n, &w->ck)) return false;
    u32 *file = NEWN(w->m->a, u32, w->ck.n_files);
    for (u32 i = 0; i < w->ck.n_files; i++)
        file[i] = ir_file(w->m, w->ck.file[i].path, w->ck.file[i].map.size);
    w->file = file;
    return w->open = true;
}

static bool read_dims(FeWeights *w, const FeEnv *dims, const Json *v, FeShape *s)
{
    if (v->kind != JSON_ARRAY || v->n > MAX_RANK)
        return diag_error(w->d, E_JSON_TYPE, json_loc(w->src, v),
                          "a shape is an array of at most %d numbers or expressions", MAX_RANK);
    for (u32 i = 0; i < v->n; i++) {
        const Json *e = &v->at[i];
        FeVal x = fe_from_json(w->m->a, e);
        if (e->kind == JSON_STRING && !fe_eval_json(w->d, w->src, e, dims, &x)) return false;
        if (x.kind != FE_INT || x.i <= 0)
            return diag_error(w->d, E_JSON_VALUE, json_loc(w->src, e),
                              "a dimension must be a positive integer");
        s->dim[i] = x.i;
    }
    s->rank = v->n;
    Type t = {.dt = DT_F32, .rank = s->rank};
    memcpy(t.dim, s->dim, sizeof t.dim);
    i64 n = type_elems(&t);
    return (n >= 0 && n <= INT64_MAX / 8) ||
           diag_error(w->d, E_MODEL_DIM, json_loc(w->src, v),
                      "the shape's number of elements does not fit 60 bits");
}

static bool read_shape(FeWeights *w, const FeEnv *dims, Str pattern, const Json *v)
{
    FeShape s = {.pattern = pattern, .at = v};
    s.bad = !read_dims(w, dims, v, &s);
    vec_push(w->m->a, &w->shapes, s);
    return !s.bad;
}

bool fe_weights_open(FeWeights *w, Diag *d, Module *m, const Source *src, const Json *root,
                     const FeEnv *dims)
{
    *w = (FeWeights){.d = d, .m = m, .src = src, .leaf = {.a = m->a}};
    const Json *v = json_get(root, "weights"), *t = json_get(root, "tensors");
    bool ok = true;
    if (t && t->kind != JSON_OBJECT)
        ok = diag_error(d, E_JSON_TYPE, json_loc(src, t),
                        "\"tensors\" is %s, expected an object of shapes", json_kind_name(t->kind));
    else if (t && t->n > FE_MAX_SHAPES)
        ok = diag_error(d, E_LIMIT, json_loc(src, t), "\"tensors\" has more than %d rows",
                        FE_MAX_SHAPES);
    else if (t)
        for (u32 i = 0; i < t->n; i++)
            ok &= read_shape(w, dims, t->key[i], &t->at[i]);
    if (v && v->kind == JSON_OBJECT) return read_synthetic(w, v) && ok;
    v = json_need(d, src, root, "weights", JSON_ARRAY);
    return v && read_files(w, v) && ok;
}

/* ---- leaves ---- */

static const FeShape *shape_of(const FeWeights *w, Str name)
{
    for (u32 i = 0; i < w->shapes.n; i++)
        if (fe_pattern_match(w->shapes.at[i].pattern, name)) return &w->shapes.at[i];
    return NULL;
}

static const char *shape_text(Arena *a, const u64 *dim, u32 rank)
{
    StrBuf b = {.a = a};
    sb_ch(&b, '[');
    for (u32 i = 0; i < rank; i++)
        sb_printf(&b, "%s%llu", i ? ", " : "", (unsigned long long)dim[i]);
    sb_ch(&b, ']');
    return b.p;
}

static ValueId synthetic_leaf(FeWeights *w, Builder *b, Loc loc, Str name)
{
    const FeShape *s = shape_of(w, name);
    if (!s) {
        diag_error(w->d, E_TENSOR_SHAPE, loc,
                   "the shape of the synthetic tensor \"%.*s\" is not known", STRF(name));
        diag_hint(w->d, "give it in \"tensors\": {\"%.*s\": [rows, columns]}", STRF(name));
        return 0;
    }
    if (s->bad) return 0;
    return ir_op(
        b, OP_SYNTHETIC, NULL, 0,
        ATTRS({A_SEED, .i = w->seed}, {A_STREAM, .i = ++w->streams}, {A_SCALE, .f = w->scale}),
        ir_type(w->m, DT_F32, s->rank, s->dim), arena_strdup(w->m->a, name.p, name.n));
}

/* A tensor name as near as possible to one that is missing, for the hint. */
static const char *nearest_tensor(const FeWeights *w, Str name)
{
    u32 n = w->ck.n_tensors < 4096 ? w->ck.n_tensors : 4096;
    const char **names = NEWN(w->m->a, const char *, n);
    for (u32 i = 0; i < n; i++)
        names[i] = arena_strdup(w->m->a, w->ck.tensor[i].name.p, w->ck.tensor[i].name.n);
    return str_nearest(name, names, n);
}

static bool leaf_type(FeWeights *w, Loc loc, const CkTensor *t, Type *out)
{
    const FeShape *s = shape_of(w, t->name);
    if (s && s->bad) s = NULL;
    const char *path = w->ck.file[t->file].path;
    *out = (Type){.dt = DT_F32, .rank = t->rank};
    bool fits = t->rank <= MAX_RANK, same = fits && (!s || s->rank == t->rank);
    for (u32 i = 0; fits && i < t->rank; i++) {
        out->dim[i] = (i64)t->dim[i];
        fits = t->dim[i] > 0 && t->dim[i] <= INT64_MAX;
        same = same && (!s || s->dim[i] == out->dim[i]);
    }
    if (fits && type_elems(out) < 0) fits = false;
    if (!fits)
        return diag_error(w->d, E_TENSOR_SHAPE, loc,
                          "tensor \"%.*s\" in %s has shape %s, which no weight can have",
                          STRF(t->name), path, shape_text(w->m->a, t->dim, t->rank));
    if (!same) {
        u64 want[MAX_RANK];
        for (u32 i = 0; i < s->rank; i++)
            want[i] = (u64)s->dim[i];
        return diag_error(w->d, E_TENSOR_SHAPE, loc,
                          "tensor \"%.*s\" in %s has shape %s, the model needs %s", STRF(t->name),
                          path, shape_text(w->m->a, t->dim, t->rank),
                          shape_text(w->m->a, want, s->rank));
    }
    switch ((EncId)t->enc) {
    case ENC_I8:
    case ENC_I16:
    case ENC_I32:
    case ENC_I64:
    case ENC_U8:
    case ENC_U16:
    case ENC_U32:
    case ENC_U64:
    case ENC_BOOL:
        diag_error(w->d, E_TENSOR_DTYPE, loc,
                   "tensor \"%.*s\" in %s is stored as %s, which is no weight's type",
                   STRF(t->name), path, enc_info((EncId)t->enc)->name);
        diag_hint(w->d, "a packed checkpoint (GPTQ, AWQ, bitsandbytes) cannot be read; take the "
                        "float one, or a GGUF file");
        return false;
    default: return true;
    }
}

static ValueId stored_leaf(FeWeights *w, Builder *b, Loc loc, const CkTensor *t)
{
    Type type;
    if (!leaf_type(w, loc, t, &type)) return 0;
    return ir_op(b, OP_TENSOR, NULL, 0,
                 ATTRS({A_ENC, .s = enc_info((EncId)t->enc)->name}, {A_FILE, .i = w->file[t->file]},
                       {A_OFFSET, .i = (i64)t->offset}),
                 ir_type(w->m, type.dt, type.rank, type.dim),
                 arena_strdup(w->m->a, t->name.p, t->name.n));
}

ValueId fe_weight(FeWeights *w, Loc loc, Str name, i32 layer)
{
    const CkTensor *t = w->synthetic ? NULL : ck_use(&w->ck, name);
    bool added;
    u32 *slot =
        map_put(&w->leaf, t ? t->name : name, &added); /* an alias is the tensor it stands for */
    if (!added) return *slot == (u32)FE_FAILED ? 0 : *slot;
    *slot = (u32)FE_FAILED;
    Builder b = {.m = w->m, .d = w->d, .layer = layer};
    ValueId v = 0;
    if (w->synthetic)
        v = synthetic_leaf(w, &b, loc, name);
    else if (t)
        v = stored_leaf(w, &b, loc, t);
    else {
        diag_error(w->d, E_TENSOR_MISSING, loc, "the checkpoint has no tensor \"%.*s\"",
                   STRF(name));
        const char *near = nearest_tensor(w, name);
        if (near) diag_hint(w->d, "did you mean \"%s\"?", near);
    }
    if (!v) return 0;
    i64 n = type_elems(type_of(w->m, v));
    w->params += (u64)n;
    return *slot = v;
}
