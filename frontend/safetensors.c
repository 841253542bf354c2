#include "frontend/safetensors.h"

/* Layout: u64 header length N, N bytes of JSON {"name": {"dtype", "shape", "data_offsets": [begin,
 * end]}, ..., "__metadata__": {string: string}}, then the data; offsets count from the end of the
 * header. */

typedef struct Reader {
    Diag *d;
    Arena *a;
    const Source *file;   /* the whole file, without text */
    const Source *header; /* the JSON text */
    u64 data, size;       /* offset of the data; size of the file */
} Reader;

static bool read_meta(Reader *r, const Json *v, Safetensors *out)
{
    if (v->kind != JSON_OBJECT)
        return diag_error(r->d, E_JSON_TYPE, json_loc(r->header, v),
                          "\"__metadata__\" is %s, expected an object", json_kind_name(v->kind));
    StMeta *m = NEWN(r->a, StMeta, v->n);
    for (u32 i = 0; i < v->n; i++) {
        const Json *e = &v->at[i];
        if (e->kind != JSON_STRING)
            return diag_error(r->d, E_JSON_TYPE, json_loc(r->header, e),
                              "\"%s\" in \"__metadata__\" is %s, expected a string",
                              ck_show(r->a, v->key[i]), json_kind_name(e->kind));
        m[i] = (StMeta){v->key[i], e->str};
    }
    out->meta = m;
    out->n_meta = v->n;
    return true;
}

static bool is_size(const Json *v)
{
    return v->kind == JSON_NUMBER && v->is_int && v->i >= 0;
}

static bool read_shape(Reader *r, const Json *shape, CkTensor *t)
{
    if (shape->n > ST_MAX_RANK)
        return diag_error(r->d, E_LIMIT, json_loc(r->header, shape),
                          "tensor '%s' has %u dimensions, more than the limit of %d",
                          ck_show(r->a, t->name), shape->n, ST_MAX_RANK);
    t->rank = (u8)shape->n;
    for (u32 i = 0; i < shape->n; i++) {
        if (!is_size(&shape->at[i]))
            return diag_error(r->d, E_JSON_VALUE, json_loc(r->header, &shape->at[i]),
                              "tensor '%s': a dimension must be an integer from 0 to 2^63 - 1",
                              ck_show(r->a, t->name));
        t->dim[i] = (u64)shape->at[i].i;
    }
    return true;
}

static bool read_range(Reader *r, const Json *range, CkTensor *t)
{
    Loc loc = json_loc(r->header, range);
    if (range->n != 2 || !is_size(&range->at[0]) || !is_size(&range->at[1]) ||
        range->at[0].i > range->at[1].i)
        return diag_error(r->d, E_JSON_VALUE, loc,
                          "tensor '%s': data_offsets must be two integers, begin <= end",
                          ck_show(r->a, t->name));
    u64 begin = (u64)range->at[0].i, end = (u64)range->at[1].i;
    if (end > r->size - r->data)
        return diag_error(r->d, E_FILE_FORMAT, loc,
                          "tensor '%s' ends at byte %llu of the data, but the file holds %llu",
                          ck_show(r->a, t->name), (unsigned long long)end,
                          (unsigned long long)(r->size - r->data));
    if (end - begin != t->bytes)
        return diag_error(
            r->d, E_FILE_FORMAT, loc,
            "tensor '%s' has data_offsets of %llu bytes, but its shape and dtype need %llu",
            ck_show(r->a, t->name), (unsigned long long)(end - begin),
            (unsigned long long)t->bytes);
    t->offset = r->data + begin;
    return true;
}

static bool read_tensor(Reader *r, Str name, const Json *v, CkTensor *t)
{
    static const char *const keys[] = {"dtype", "shape", "data_offsets"};
    Loc loc = json_loc(r->header, v);
    t->name = name;
    if (!ck_check_name(r->d, r->a, loc, name)) return false;
    if (v->kind != JSON_OBJECT)
        return diag_error(r->d, E_JSON_TYPE, loc, "tensor '%s' is %s, expected an object",
                          ck_show(r->a, name), json_kind_name(v->kind));
    if (!json_only(r->d, r->header, v, keys, 3)) return false;
    const Json *dtype = json_need(r->d, r->header, v, "dtype", JSON_STRING);
    const Json *shape = dtype ? json_need(r->d, r->header, v, "shape", JSON_ARRAY) : NULL;
    const Json *range = shape ? json_need(r->d, r->header, v, "data_offsets", JSON_ARRAY) : NULL;
    if (!range) return false;
    t->enc = (u8)enc_by_safetensors(dtype->str);
    if (!t->enc) {
        diag_error(r->d, E_TENSOR_DTYPE, json_loc(r->header, dtype),
                   "tensor '%s' has the dtype \"%s\", which pfqc does not decode",
                   ck_show(r->a, name), ck_show(r->a, dtype->str));
        ck_hint_encodings(r->d, r->a, false);
        return false;
    }
    return read_shape(r, shape, t) && ck_size(r->d, r->a, json_loc(r->header, shape), t) &&
           read_range(r, range, t);
}

static bool read_tensors(Reader *r, const Json *root, Safetensors *out)
{
    if (root->n > CK_MAX_TENSORS)
        return diag_error(r->d, E_LIMIT, (Loc){.src = r->file},
                          "%u tensors, more than the limit of %d", root->n, CK_MAX_TENSORS);
    CkTensor *t = NEWN(r->a, CkTensor, root->n);
    for (u32 i = 0; i < root->n; i++) {
        bool meta = str_is(root->key[i], "__metadata__");
        if (meta ? !read_meta(r, &root->at[i], out)
                 : !read_tensor(r, root->key[i], &root->at[i], &t[out->n_tensors]))
            return false;
        out->n_tensors += !meta;
    }
    out->tensor = t;
    u64 end;
    if (!ck_check_layout(r->d, r->a, r->file, t, out->n_tensors, r->data, 1, &end)) return false;
    if (end != r->size)
        return diag_error(r->d, E_FILE_FORMAT, (Loc){.src = r->file, .off = end},
                          "%llu bytes behind the last tensor belong to no tensor",
                          (unsigned long long)(r->size - end));
    return true;
}

bool st_parse(Diag *d, Arena *a, const MappedFile *f, Safetensors *out)
{
    Source *file = NEW(a, Source), *header = NEW(a, Source);
    *file = (Source){.name = f->name, .n = f->size};
    Loc loc = {.src = file};
    u64 n;
    if (f->size < 8)
        return diag_error(d, E_FILE_FORMAT, loc,
                          "the file has %llu bytes; a safetensors file starts with a length of 8",
                          (unsigned long long)f->size);
    memcpy(&n, f->data, 8);
    if (n > f->size - 8)
        return diag_error(d, E_FILE_FORMAT, loc,
                          "the header claims %llu bytes, but the file has %llu more",
                          (unsigned long long)n, (unsigned long long)(f->size - 8));
    if (n > ST_MAX_HEADER)
        return diag_error(d, E_LIMIT, loc, "the header has %llu bytes, more than the limit of %d",
                          (unsigned long long)n, ST_MAX_HEADER);
    if (n == 0 || f->data[8] != '{')
        return diag_error(d, E_FILE_FORMAT, (Loc){.src = file, .off = 8},
                          "the header does not start with '{'");
    *header = (Source){f->name, (const char *)f->data + 8, n};
    Reader r = {.d = d, .a = a, .file = file, .header = header, .data = 8 + n, .size = f->size};
    *out = (Safetensors){0};
    const Json *root = json_parse(d, a, header);
    return root && read_tensors(&r, root, out);
}
