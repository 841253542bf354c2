#include "frontend/gguf.h"

#include <math.h>
#include <stdio.h>

/* Layout (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): "GGUF", u32 version, u64
 * tensors, u64 keys; per key: string name, u32 type, value; per tensor: string name, u32 rank, u64
 * dims (innermost first), u32 ggml type, u64 offset from the start of tensor data, which is the end
 * of all this rounded up to general.alignment. */

typedef struct Cur {
    Diag *d;
    Arena *a;
    const Source *src;
    const u8 *data;
    u64 at, size;
} Cur;

static bool fail(Cur *c, u64 at, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static bool fail(Cur *c, u64 at, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    const char *text = arena_vprintf(c->a, fmt, ap);
    va_end(ap);
    return diag_error(c->d, E_FILE_FORMAT, (Loc){.src = c->src, .off = at}, "%s", text);
}

static u64 left(const Cur *c)
{
    return c->size - c->at;
}

static bool take(Cur *c, void *out, u64 n, const char *what)
{
    if (n > left(c)) {
        fail(c, c->at, "the file ends inside %s", what);
        return false; /* spelt out, so that the compiler sees that *out is set on success */
    }
    memcpy(out, c->data + c->at, n);
    c->at += n;
    return true;
}

static bool take_u32(Cur *c, u32 *out, const char *what)
{
    return take(c, out, 4, what);
}
static bool take_u64(Cur *c, u64 *out, const char *what)
{
    return take(c, out, 8, what);
}

static bool take_str(Cur *c, Str *out, const char *what)
{
    u64 at = c->at, n;
    if (!take_u64(c, &n, what)) return false;
    if (n > left(c))
        return fail(c, at, "%s claims %llu bytes, but the file has %llu more", what,
                    (unsigned long long)n, (unsigned long long)left(c));
    if (n > GGUF_MAX_STRING)
        return diag_error(c->d, E_LIMIT, (Loc){.src = c->src, .off = at},
                          "%s has %llu bytes, more than the limit of %d", what,
                          (unsigned long long)n, GGUF_MAX_STRING);
    *out = (Str){(const char *)c->data + c->at, n};
    c->at += n;
    return true;
}

static const struct {
    const char *name;
    u32 bytes; /* 0: not of fixed size */
} types[GGUF_TYPE_COUNT] = {
    [GGUF_U8] = {"u8", 1},       [GGUF_I8] = {"i8", 1},     [GGUF_U16] = {"u16", 2},
    [GGUF_I16] = {"i16", 2},     [GGUF_U32] = {"u32", 4},   [GGUF_I32] = {"i32", 4},
    [GGUF_F32] = {"f32", 4},     [GGUF_BOOL] = {"bool", 1}, [GGUF_STRING] = {"string", 0},
    [GGUF_ARRAY] = {"array", 0}, [GGUF_U64] = {"u64", 8},   [GGUF_I64] = {"i64", 8},
    [GGUF_F64] = {"f64", 8},
};

const char *gguf_type_name(u32 type)
{
    return type < GGUF_TYPE_COUNT ? types[type].name : "?";
}

/* ---- metadata ---- */

static bool take_array_head(Cur *c, GgufKv *kv)
{
    u32 elem;
    u64 at = c->at;
    if (!take_u32(c, &elem, "an array's element type")) return false;
    if (elem == GGUF_ARRAY)
        return fail(c, at, "'%s' is an array of arrays, which pfqc does not read",
                    ck_show(c->a, kv->key));
    if (elem >= GGUF_TYPE_COUNT)
        return fail(c, at, "'%s' is an array of the unknown type %u", ck_show(c->a, kv->key), elem);
    at = c->at;
    if (!take_u64(c, &kv->count, "an array's length")) return false;
    u64 least = elem == GGUF_STRING ? 8 : types[elem].bytes;
    if (kv->count > left(c) / least)
        return fail(c, at, "array '%s' claims %llu elements, but the file has %llu more bytes",
                    ck_show(c->a, kv->key), (unsigned long long)kv->count,
                    (unsigned long long)left(c));
    kv->elem = (u8)elem;
    return true;
}

static bool take_value(Cur *c, GgufKv *kv)
{
    u32 type;
    u64 at = c->at;
    if (!take_u32(c, &type, "the type of a metadata value")) return false;
    if (type >= GGUF_TYPE_COUNT)
        return fail(c, at, "'%s' has the unknown type %u", ck_show(c->a, kv->key), type);
    kv->type = kv->elem = (u8)type;
    kv->count = 1;
    if (type == GGUF_ARRAY && !take_array_head(c, kv)) return false;
    kv->data = c->data + c->at;
    if (kv->elem == GGUF_STRING) {
        Str s;
        for (u64 i = 0; i < kv->count; i++)
            if (!take_str(c, &s, "a string of the metadata")) return false;
        return true;
    }
    u64 bytes;
    if (!ckd_mul(&bytes, kv->count, types[kv->elem].bytes) || bytes > left(c))
        return fail(c, c->at, "the file ends inside the value of '%s'", ck_show(c->a, kv->key));
    for (u64 i = 0; kv->elem == GGUF_BOOL && i < kv->count; i++)
        if (kv->data[i] > 1)
            return fail(c, c->at + i, "'%s' holds a boolean of %u, expected 0 or 1",
                        ck_show(c->a, kv->key), kv->data[i]);
    c->at += bytes;
    return true;
}

static bool take_kv(Cur *c, Gguf *g, GgufKv *kv, u32 i)
{
    u64 at = c->at;
    if (!take_str(c, &kv->key, "a metadata key")) return false;
    if (kv->key.n == 0 || kv->key.n > GGUF_MAX_KEY || !utf8_valid(kv->key))
        return fail(c, at, "the metadata key '%s' is not 1 to %d bytes of UTF-8",
                    ck_show(c->a, kv->key), GGUF_MAX_KEY);
    bool added;
    *map_put(&g->index, kv->key, &added) = i;
    if (!added) return fail(c, at, "the metadata key '%s' appears twice", ck_show(c->a, kv->key));
    return take_value(c, kv);
}

static bool find_alignment(Cur *c, Gguf *g)
{
    const GgufKv *kv = gguf_find(g, "general.alignment");
    g->alignment = 32;
    if (!kv) return true;
    u64 at = (u64)(kv->data - c->data);
    if (kv->type != GGUF_U32)
        return fail(c, at, "general.alignment is of type %s, expected u32",
                    gguf_type_name(kv->type));
    memcpy(&g->alignment, kv->data, 4);
    if (g->alignment < GGUF_MIN_ALIGNMENT || g->alignment > GGUF_MAX_ALIGNMENT ||
        (g->alignment & (g->alignment - 1)))
        return fail(c, at, "general.alignment is %u, expected a power of two from %d to %d",
                    g->alignment, GGUF_MIN_ALIGNMENT, GGUF_MAX_ALIGNMENT);
    return true;
}

/* ---- tensors ---- */

static bool bad_encoding(Cur *c, u64 at, Str name, u32 type)
{
    static const char *const known[] = {
        /* ggml types that pfqc does not decode */
        [9] = "q8_1",   [15] = "q8_k",  [16] = "iq2_xxs", [17] = "iq2_xs", [18] = "iq3_xxs",
        [19] = "iq1_s", [21] = "iq3_s", [22] = "iq2_s",   [23] = "iq4_xs", [29] = "iq1_m",
        [34] = "tq1_0", [35] = "tq2_0", [39] = "mxfp4",   [40] = "nvfp4",  [41] = "q1_0",
    };
    const char *text = type < sizeof known / sizeof *known ? known[type] : NULL;
    diag_error(c->d, E_TENSOR_DTYPE, (Loc){.src = c->src, .off = at},
               "tensor '%s' is stored in ggml type %u%s%s%s, which pfqc does not decode",
               ck_show(c->a, name), type, text ? " (" : "", text ? text : "", text ? ")" : "");
    ck_hint_encodings(c->d, c->a, true);
    return false;
}

/* Leaves the offset relative: tensor data starts where the table ends. */
static bool take_tensor(Cur *c, CkTensor *t)
{
    u64 start = c->at;
    u32 rank, type;
    if (!take_str(c, &t->name, "a tensor name") ||
        !ck_check_name(c->d, c->a, (Loc){.src = c->src, .off = start}, t->name))
        return false;
    u64 at = c->at;
    if (!take_u32(c, &rank, "a tensor's rank")) return false;
    if (rank > GGUF_MAX_RANK)
        return fail(c, at, "tensor '%s' has %u dimensions, more than %d", ck_show(c->a, t->name),
                    rank, GGUF_MAX_RANK);
    t->rank = (u8)rank;
    for (u32 i = rank; i-- > 0;) {
        at = c->at;
        if (!take_u64(c, &t->dim[i], "a tensor's dimensions")) return false;
        if (t->dim[i] == 0)
            return fail(c, at, "tensor '%s' has a dimension of 0", ck_show(c->a, t->name));
    }
    at = c->at;
    if (!take_u32(c, &type, "a tensor's type")) return false;
    t->enc = (u8)enc_by_gguf(type);
    if (!t->enc) return bad_encoding(c, at, t->name, type);
    return take_u64(c, &t->offset, "a tensor's offset") &&
           ck_size(c->d, c->a, (Loc){.src = c->src, .off = start}, t);
}

static bool place_tensor(Cur *c, const Gguf *g, CkTensor *t)
{
    u64 relative = t->offset, end;
    if (relative % g->alignment != 0)
        return fail(c, g->data_offset,
                    "tensor '%s' has the offset %llu, not a multiple of the alignment %u",
                    ck_show(c->a, t->name), (unsigned long long)relative, g->alignment);
    if (!ckd_add(&t->offset, g->data_offset, relative) || !ckd_add(&end, t->offset, t->bytes) ||
        end > c->size)
        return fail(
            c, c->size,
            "the data of tensor '%s' (%llu bytes at %llu behind the header) ends beyond the file",
            ck_show(c->a, t->name), (unsigned long long)t->bytes, (unsigned long long)relative);
    return true;
}

static bool take_tensors(Cur *c, Gguf *g, CkTensor *t)
{
    Arena tmp = {0};
    Map names = {.a = &tmp};
    bool ok = true;
    for (u32 i = 0; i < g->n_tensors && ok; i++) {
        u64 at = c->at;
        bool added = true;
        ok = take_tensor(c, &t[i]);
        if (ok) map_put(&names, t[i].name, &added);
        if (!added)
            ok = fail(c, at, "the tensor name '%s' appears twice", ck_show(c->a, t[i].name));
    }
    arena_free(&tmp);
    if (!ok) return false;
    if (!ckd_add(&g->data_offset, c->at, (0 - c->at) & (g->alignment - 1)))
        return fail(c, c->at, "the header does not fit the file");
    for (u32 i = 0; i < g->n_tensors; i++)
        if (!place_tensor(c, g, &t[i])) return false;
    u64 end;
    return ck_check_layout(c->d, c->a, c->src, t, g->n_tensors, g->data_offset, g->alignment, &end);
}

/* ---- the file ---- */

static bool take_version(Cur *c, u32 *version)
{
    char magic[4];
    if (!take(c, magic, 4, "the magic number")) return false;
    if (memcmp(magic, "GGUF", 4) != 0)
        return fail(c, 0, "not a GGUF file: it does not start with \"GGUF\"");
    if (!take_u32(c, version, "the version")) return false;
    if (*version && (*version & 0xffff) == 0)
        return fail(c, 4, "a big-endian GGUF file, which pfqc does not read");
    if (*version < 2 || *version > 3)
        return fail(c, 4, "GGUF version %u; pfqc reads versions 2 and 3", *version);
    return true;
}

/* A count with its upper bounds: a limit of pfqc's, and what the rest of the file could hold. */
static bool take_count(Cur *c, u32 *out, const char *what, u32 limit, u64 least_bytes)
{
    u64 at = c->at, n;
    if (!take_u64(c, &n, "the counts of the header")) return false;
    if (n > left(c) / least_bytes)
        return fail(c, at, "the header claims %llu %s, but the file has %llu more bytes",
                    (unsigned long long)n, what, (unsigned long long)left(c));
    if (n > limit)
        return diag_error(c->d, E_LIMIT, (Loc){.src = c->src, .off = at},
                          "%llu %s, more than the limit of %u", (unsigned long long)n, what, limit);
    *out = (u32)n;
    return true;
}

bool gguf_is(const MappedFile *f)
{
    return f->size >= 4 && memcmp(f->data, "GGUF", 4) == 0;
}

bool gguf_is_at(const char *path)
{
    Arena a = {0};
    Diag d = {.a = &a, .silent = true};
    MappedFile f = {0};
    const bool is = io_map(&d, &a, path, &f) && gguf_is(&f);
    io_unmap(&f);
    arena_free(&a);
    return is;
}

bool gguf_parse(Diag *d, Arena *a, const MappedFile *f, Gguf *out)
{
    enum { LEAST_TENSOR = 8 + 1 + 4 + 4 + 8, LEAST_KV = 8 + 1 + 4 + 1 };
    Source *src = NEW(a, Source);
    *src = (Source){.name = f->name, .n = f->size};
    Cur c = {.d = d, .a = a, .src = src, .data = f->data, .size = f->size};
    Gguf g = {.src = src, .data = f->data, .index = {.a = a}};
    if (!take_version(&c, &g.version) ||
        !take_count(&c, &g.n_tensors, "tensors", CK_MAX_TENSORS, LEAST_TENSOR) ||
        !take_count(&c, &g.n_kv, "metadata keys", GGUF_MAX_KV, LEAST_KV))
        return false;
    GgufKv *kv = NEWN(a, GgufKv, g.n_kv);
    g.kv = kv;
    for (u32 i = 0; i < g.n_kv; i++)
        if (!take_kv(&c, &g, &kv[i], i)) return false;
    if (!find_alignment(&c, &g)) return false;
    CkTensor *t = NEWN(a, CkTensor, g.n_tensors);
    g.tensor = t;
    if (!take_tensors(&c, &g, t)) return false;
    *out = g;
    return true;
}

/* ---- typed access ---- */

const GgufKv *gguf_find(const Gguf *g, const char *key)
{
    const u32 *i = map_get(&g->index, str_c(key));
    return i ? &g->kv[*i] : NULL;
}

Loc gguf_loc(const Gguf *g, const GgufKv *kv)
{
    return (Loc){.src = g->src, .off = (size_t)(kv->data - g->data)};
}

static bool is_float(u32 type)
{
    return type == GGUF_F32 || type == GGUF_F64;
}
static bool is_int(u32 type)
{
    return type <= GGUF_I32 || type == GGUF_U64 || type == GGUF_I64;
}

i64 gguf_elem_i64(const GgufKv *kv, u64 i)
{
    const u8 *p = kv->data + i * types[kv->elem].bytes;
    union {
        u8 u8;
        int8_t i8;
        u16 u16;
        int16_t i16;
        u32 u32;
        i32 i32;
        u64 u64;
        i64 i64;
    } v;
    memcpy(&v, p, types[kv->elem].bytes);
    switch (kv->elem) {
    case GGUF_U8:
    case GGUF_BOOL: return v.u8;
    case GGUF_I8: return v.i8;
    case GGUF_U16: return v.u16;
    case GGUF_I16: return v.i16;
    case GGUF_U32: return v.u32;
    case GGUF_I32: return v.i32;
    case GGUF_U64: return v.u64 > INT64_MAX ? INT64_MAX : (i64)v.u64;
    case GGUF_I64: return v.i64;
    default: break;
    }
    if (!is_float(kv->elem)) return 0;
    double x = gguf_elem_f64(kv, i);
    if (isnan(x)) return 0;
    return x >= 0x1p63 ? INT64_MAX : x <= -0x1p63 ? INT64_MIN : (i64)x;
}

double gguf_elem_f64(const GgufKv *kv, u64 i)
{
    const u8 *p = kv->data + i * types[kv->elem].bytes;
    float f;
    double d;
    u64 u;
    switch (kv->elem) {
    case GGUF_F32: memcpy(&f, p, 4); return (double)f;
    case GGUF_F64: memcpy(&d, p, 8); return d;
    case GGUF_U64: memcpy(&u, p, 8); return (double)u;
    default: return (double)gguf_elem_i64(kv, i);
    }
}

Str gguf_next_str(const u8 **p)
{
    u64 n;
    memcpy(&n, *p, 8);
    Str s = {(const char *)*p + 8, n};
    *p += 8 + n;
    return s;
}

static const GgufKv *need(Diag *d, const Gguf *g, const char *key)
{
    const GgufKv *kv = gguf_find(g, key);
    if (!kv)
        diag_error(d, E_FILE_FORMAT, (Loc){.src = g->src}, "the metadata key '%s' is missing", key);
    return kv;
}

static bool wrong(Diag *d, const Gguf *g, const GgufKv *kv, const char *key, const char *expected)
{
    if (kv->type == GGUF_ARRAY)
        return diag_error(d, E_FILE_FORMAT, gguf_loc(g, kv),
                          "'%s' is an array of type %s, expected %s", key, gguf_type_name(kv->elem),
                          expected);
    return diag_error(d, E_FILE_FORMAT, gguf_loc(g, kv), "'%s' is of type %s, expected %s", key,
                      gguf_type_name(kv->type), expected);
}

bool gguf_u64(Diag *d, const Gguf *g, const char *key, u64 *out)
{
    const GgufKv *kv = need(d, g, key);
    if (!kv) return false;
    if (!is_int(kv->type)) return wrong(d, g, kv, key, "an integer");
    i64 v = gguf_elem_i64(kv, 0);
    if (v < 0)
        return diag_error(d, E_FILE_FORMAT, gguf_loc(g, kv),
                          "'%s' is %lld, expected no negative number", key, (long long)v);
    *out = (u64)v;
    if (kv->type == GGUF_U64) memcpy(out, kv->data, 8);
    return true;
}

bool gguf_i64(Diag *d, const Gguf *g, const char *key, i64 *out)
{
    const GgufKv *kv = need(d, g, key);
    if (!kv) return false;
    if (!is_int(kv->type)) return wrong(d, g, kv, key, "an integer");
    u64 u = 0;
    if (kv->type == GGUF_U64) memcpy(&u, kv->data, 8);
    if (u > INT64_MAX)
        return diag_error(d, E_FILE_FORMAT, gguf_loc(g, kv), "'%s' is %llu, beyond 63 bits", key,
                          (unsigned long long)u);
    *out = gguf_elem_i64(kv, 0);
    return true;
}

bool gguf_f64(Diag *d, const Gguf *g, const char *key, double *out)
{
    const GgufKv *kv = need(d, g, key);
    if (!kv) return false;
    if (!is_int(kv->type) && !is_float(kv->type)) return wrong(d, g, kv, key, "a number");
    *out = gguf_elem_f64(kv, 0);
    return true;
}

bool gguf_bool(Diag *d, const Gguf *g, const char *key, bool *out)
{
    const GgufKv *kv = need(d, g, key);
    if (!kv) return false;
    if (kv->type != GGUF_BOOL) return wrong(d, g, kv, key, "a boolean");
    *out = kv->data[0] != 0;
    return true;
}

bool gguf_str(Diag *d, const Gguf *g, const char *key, Str *out)
{
    const GgufKv *kv = need(d, g, key);
    if (!kv) return false;
    if (kv->type != GGUF_STRING) return wrong(d, g, kv, key, "a string");
    const u8 *p = kv->data;
    *out = gguf_next_str(&p);
    return true;
}

const GgufKv *gguf_str_array(Diag *d, const Gguf *g, const char *key)
{
    const GgufKv *kv = need(d, g, key);
    if (kv && (kv->type != GGUF_ARRAY || kv->elem != GGUF_STRING))
        return wrong(d, g, kv, key, "an array of strings"), NULL;
    return kv;
}

const GgufKv *gguf_num_array(Diag *d, const Gguf *g, const char *key)
{
    const GgufKv *kv = need(d, g, key);
    if (kv && (kv->type != GGUF_ARRAY || kv->elem == GGUF_STRING))
        return wrong(d, g, kv, key, "an array of numbers"), NULL;
    return kv;
}
