#include "frontend/safetensors.h"

/* Layout: u64 header length N, N bytes of JSON {"name": {"dtype", "shape", "data_offsets": [begin,
 * end]}, ..., "__metadata__": {string: string}}, then the data; offsets count from the end of the
 * header. The header is read without a JSON tree: a tree would take 20 times the header's size. */

typedef struct Reader {
    JsonPull j;         /* over the header's text */
    const Source *file; /* the whole file, without text */
    u64 data, size;     /* offset of the data; size of the file */
    VEC(CkTensor) tensor;
    VEC(StMeta) meta;
    Arena tmp;
    Map names; /* in tmp, to find duplicates */
} Reader;

/* The next value must be of this kind; steps into objects and arrays. The message starts with
 * BEFORE NAME AFTER. */
static bool expect(Reader *r, JsonKind kind, const char *before, Str name, const char *after)
{
    JsonKind got;
    Loc loc;
    if (!json_pull_peek(&r->j, &got, &loc)) return false;
    if (got != kind)
        return diag_error(r->j.d, E_JSON_TYPE, loc, "%s%s%s is %s, expected %s", before,
                          ck_show(r->j.a, name), after, json_kind_name(got), json_kind_name(kind));
    r->j.p += kind == JSON_OBJECT || kind == JSON_ARRAY;
    return true;
}

/* An integer from 0 to 2^63 - 1; ok is false for any other number, and for what is no number. */
static bool read_size(Reader *r, u64 *out, bool *ok, Loc *loc)
{
    JsonKind kind;
    Str text;
    i64 v;
    *ok = false;
    if (!json_pull_peek(&r->j, &kind, loc)) return false;
    if (kind != JSON_NUMBER) return true;
    if (!json_pull_number(&r->j, &text, loc)) return false;
    *ok = str_to_i64(text, &v) && v >= 0;
    *out = *ok ? (u64)v : 0;
    return true;
}

static bool appears_twice(Reader *r, Loc loc, Str key)
{
    return diag_error(r->j.d, E_JSON_SYNTAX, loc, "the key \"%s\" appears twice in this object",
                      ck_show(r->j.a, key));
}

static bool read_meta(Reader *r)
{
    Map seen = {.a = &r->tmp};
    if (!expect(r, JSON_OBJECT, "", STR("\"__metadata__\""), "")) return false;
    for (bool more;;) {
        StMeta m;
        Loc loc;
        bool added;
        if (!json_pull_more(&r->j, r->meta.n == 0, '}', &more)) return false;
        if (!more) return true;
        if (!json_pull_key(&r->j, &m.key, &loc)) return false;
        map_put(&seen, m.key, &added);
        if (!added) return appears_twice(r, loc, m.key);
        if (r->meta.n == ST_MAX_META)
            return diag_error(r->j.d, E_LIMIT, loc, "more than %d entries in \"__metadata__\"",
                              ST_MAX_META);
        if (!expect(r, JSON_STRING, "\"", m.key, "\" in \"__metadata__\"") ||
            !json_pull_str(&r->j, &m.value, &loc))
            return false;
        vec_push(r->j.a, &r->meta, m);
    }
}

static bool read_dtype(Reader *r, CkTensor *t)
{
    Str dtype;
    Loc loc;
    if (!expect(r, JSON_STRING, "the dtype of tensor '", t->name, "'") ||
        !json_pull_str(&r->j, &dtype, &loc))
        return false;
    t->enc = (u8)enc_by_safetensors(dtype);
    if (t->enc) return true;
    diag_error(r->j.d, E_TENSOR_DTYPE, loc,
               "tensor '%s' has the dtype \"%s\", which pfqc does not decode",
               ck_show(r->j.a, t->name), ck_show(r->j.a, dtype));
    ck_hint_encodings(r->j.d, r->j.a, false);
    return false;
}

static bool read_shape(Reader *r, CkTensor *t)
{
    if (!expect(r, JSON_ARRAY, "the shape of tensor '", t->name, "'")) return false;
    for (bool more, ok;;) {
        Loc loc;
        u64 dim;
        if (!json_pull_more(&r->j, t->rank == 0, ']', &more)) return false;
        if (!more) return true;
        if (!read_size(r, &dim, &ok, &loc)) return false;
        if (!ok)
            return diag_error(r->j.d, E_JSON_VALUE, loc,
                              "tensor '%s': a dimension must be an integer from 0 to 2^63 - 1",
                              ck_show(r->j.a, t->name));
        if (t->rank == ST_MAX_RANK)
            return diag_error(r->j.d, E_LIMIT, loc, "tensor '%s' has more than %d dimensions",
                              ck_show(r->j.a, t->name), ST_MAX_RANK);
        t->dim[t->rank++] = dim;
    }
}

static bool read_range(Reader *r, CkTensor *t, u64 range[2], Loc *loc)
{
    u32 n = 0;
    if (!expect(r, JSON_ARRAY, "data_offsets of tensor '", t->name, "'")) return false;
    const char *start = r->j.p - 1;
    *loc = (Loc){.src = r->j.src, .off = (size_t)(start - r->j.src->text), .len = 1};
    for (bool more, ok;; n++) {
        Loc at;
        u64 v = 0;
        if (!json_pull_more(&r->j, n == 0, ']', &more)) return false;
        loc->len = (size_t)(r->j.p - start);
        if (more && !read_size(r, &v, &ok, &at)) return false;
        if (more ? !ok || n == 2 : n < 2 || range[0] > range[1])
            return diag_error(r->j.d, E_JSON_VALUE, *loc,
                              "tensor '%s': data_offsets must be two integers, begin <= end",
                              ck_show(r->j.a, t->name));
        if (!more) return true;
        range[n] = v;
    }
}

static bool place(Reader *r, CkTensor *t, const u64 range[2], Loc loc)
{
    if (range[1] > r->size - r->data)
        return diag_error(r->j.d, E_FILE_FORMAT, loc,
                          "tensor '%s' ends at byte %llu of the data, but the file holds %llu",
                          ck_show(r->j.a, t->name), (unsigned long long)range[1],
                          (unsigned long long)(r->size - r->data));
    if (range[1] - range[0] != t->bytes)
        return diag_error(
            r->j.d, E_FILE_FORMAT, loc,
            "tensor '%s' has data_offsets of %llu bytes, but its shape and dtype need %llu",
            ck_show(r->j.a, t->name), (unsigned long long)(range[1] - range[0]),
            (unsigned long long)t->bytes);
    t->offset = r->data + range[0];
    return true;
}

static bool read_tensor(Reader *r, CkTensor *t, Loc name_loc)
{
    enum { DTYPE, SHAPE, RANGE, FIELDS };
    static const char *const fields[FIELDS] = {"dtype", "shape", "data_offsets"};
    bool seen[FIELDS] = {0};
    u64 range[2] = {0};
    Loc range_loc;
    if (!expect(r, JSON_OBJECT, "tensor '", t->name, "'")) return false;
    for (u32 i = 0;; i++) {
        bool more, ok = false;
        Str key;
        Loc loc;
        if (!json_pull_more(&r->j, i == 0, '}', &more)) return false;
        if (!more) break;
        if (!json_pull_key(&r->j, &key, &loc)) return false;
        u32 f = 0;
        while (f < FIELDS && !str_is(key, fields[f]))
            f++;
        if (f == FIELDS)
            return diag_error(r->j.d, E_JSON_UNKNOWN, loc, "unknown key \"%s\"",
                              ck_show(r->j.a, key));
        if (seen[f]) return appears_twice(r, loc, key);
        seen[f] = true;
        if (f == DTYPE)
            ok = read_dtype(r, t);
        else if (f == SHAPE)
            ok = read_shape(r, t);
        else
            ok = read_range(r, t, range, &range_loc);
        if (!ok) return false;
    }
    for (u32 f = 0; f < FIELDS; f++)
        if (!seen[f])
            return diag_error(r->j.d, E_JSON_MISSING, name_loc,
                              "the key \"%s\" of tensor '%s' is missing", fields[f],
                              ck_show(r->j.a, t->name));
    return ck_size(r->j.d, r->j.a, name_loc, t) && place(r, t, range, range_loc);
}

static bool read_entry(Reader *r)
{
    CkTensor t = {0};
    Loc loc;
    bool added;
    if (!json_pull_key(&r->j, &t.name, &loc)) return false;
    map_put(&r->names, t.name, &added);
    if (!added) return appears_twice(r, loc, t.name);
    if (str_is(t.name, "__metadata__")) return read_meta(r);
    if (!ck_check_name(r->j.d, r->j.a, loc, t.name)) return false;
    if (r->tensor.n == CK_MAX_TENSORS)
        return diag_error(r->j.d, E_LIMIT, loc, "more than %d tensors", CK_MAX_TENSORS);
    if (!read_tensor(r, &t, loc)) return false;
    vec_push(r->j.a, &r->tensor, t);
    return true;
}

static bool read_header(Reader *r)
{
    /* An entry has at least 50 bytes and a '{', so this is enough and no more than 8 x the header's
     * size in all. */
    u64 entries = 0;
    for (const char *p = r->j.p; p < r->j.end && (p = memchr(p, '{', (size_t)(r->j.end - p))); p++)
        entries++;
    if (entries > (u64)(r->j.end - r->j.p) / 50) entries = (u64)(r->j.end - r->j.p) / 50;
    vec_reserve(r->j.a, &r->tensor, entries);
    r->j.p++; /* the '{' */
    for (u32 i = 0;; i++) {
        bool more;
        if (!json_pull_more(&r->j, i == 0, '}', &more)) return false;
        if (!more) return json_pull_end(&r->j);
        if (!read_entry(r)) return false;
    }
}

static bool check_data(Reader *r)
{
    u64 end;
    if (!ck_check_layout(r->j.d, r->j.a, r->file, r->tensor.at, r->tensor.n, r->data, 1, &end))
        return false;
    if (end == r->size) return true;
    return diag_error(r->j.d, E_FILE_FORMAT, (Loc){.src = r->file, .off = end},
                      "%llu bytes behind the last tensor belong to no tensor",
                      (unsigned long long)(r->size - end));
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
    Reader r = {.file = file, .data = 8 + n, .size = f->size};
    r.names.a = &r.tmp;
    bool ok = json_pull_init(&r.j, d, a, header) && read_header(&r);
    arena_free(&r.tmp);
    if (!ok || !check_data(&r)) return false;
    *out = (Safetensors){r.tensor.at, r.meta.at, r.tensor.n, r.meta.n};
    return true;
}
