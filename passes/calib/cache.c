/* Results of calibration by content: the key, and one safetensors file per key.
 *
 * The file's metadata hold the key and a checksum of the arrays; a file that does not hold what it
 * should (cut short, another format, a flipped bit) is computed again with a warning. Arrays go to
 * a temporary file as they are put, so that memory does not grow with the model.
 */
#include "passes/calib/calib_int.h"

#include "ir/base/cache.h"
#include "ir/base/json.h"
#include "ir/text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGN = 64, MAX_HEADER = 64 << 20 };

/* ---- the key ---- */

static bool hash_file(Diag *d, Arena *a, const char *path, const MappedFile *open, ContentHash *h)
{
    MappedFile f = {0};
    if (open)
        f = *open;
    else if (!io_map(d, a, path, &f))
        return false;
    content_add(h, f.data, f.size);
    if (!open) io_unmap(&f);
    return true;
}

/* The module's text with every path replaced by what the file holds. */
static bool hash_module(PassCx *cx, ContentHash *h)
{
    Module *m = cx->m;
    if (!eval_open(cx->d, m)) return false;
    StrId *path = NEWN(cx->a, StrId, m->files.n);
    for (u32 i = 0; i < m->files.n; i++) {
        ContentHash f = content_new();
        if (!hash_file(cx->d, cx->a, NULL, &m->files.at[i].map, &f)) return false;
        path[i] = m->files.at[i].path;
        m->files.at[i].path = ir_str(m, content_text(cx->a, &f));
    }
    StrBuf text = {.a = cx->a};
    ir_print(m, &text);
    for (u32 i = 0; i < m->files.n; i++)
        m->files.at[i].path = path[i];
    content_add(h, text.p, text.n);
    return true;
}

static void hash_call(PassCx *cx, ContentHash *h)
{
    const CalibSource *s = cx->calib;
    StrBuf b = {.a = cx->a};
    sb_printf(&b, "%s", pass_info[cx->call->pass].name);
    for (u32 i = 0; i < cx->call->nopt; i++) {
        const PassOpt *o = &cx->call->opt[i];
        sb_printf(&b, " %.*s=%lld,%s", STRF(o->name), (long long)o->i, o->s ? o->s : "");
    }
    sb_printf(&b, " effort=%d %lld %lld %lld bos=%d eos=%d prefix=%s", (int)s->effort,
              (long long)s->samples, (long long)s->length, (long long)s->seed, s->bos, s->eos,
              s->prefix ? s->prefix : "?");
    content_add(h, b.p, b.n);
    content_add(h, s->tokens, s->tokens ? (u64)s->n * sizeof *s->tokens : 0);
}

/* Results are those of this very program: another build may compute others. */
static const char *key_of(PassCx *cx)
{
    ContentHash h = content_new();
    Diag quiet;
    diag_init(&quiet, cx->a);
    quiet.silent = true;
    hash_file(&quiet, cx->a, "/proc/self/exe", NULL, &h);
    if (!hash_module(cx, &h)) return NULL;
    hash_call(cx, &h);
    return content_text(cx->a, &h);
}

/* ---- the file ---- */

typedef struct Entry {
    const char *name;
    DType dt;
    u32 rank;
    i64 dim[MAX_RANK];
    u64 at, bytes; /* in the data */
} Entry;

static const struct Form {
    DType dt;
    const char *safetensors, *enc;
    u64 size;
} forms[] = {
    {DT_F32, "F32", "f32", 4},
    {DT_F16, "F16", "f16", 2},
    {DT_S8, "I8", "i8", 1},
    {DT_I32, "I32", "i32", 4},
};
enum { N_FORMS = sizeof forms / sizeof *forms };

struct CalibCache {
    PassCx *cx;
    const char *key, *path;
    VEC(Entry) entries;
    int fd; /* arrays put so far; -1: none */
    u64 n;  /* their bytes */
    ContentHash sum;
    MappedFile file; /* once it can be read */
    u64 data;        /* offset of the arrays in it */
};

static const struct Form *form_of(DType dt)
{
    for (u32 i = 0; i < N_FORMS; i++)
        if (forms[i].dt == dt) return &forms[i];
    return NULL;
}

static Entry *entry_of(const CalibCache *c, const char *name)
{
    for (u32 i = 0; i < c->entries.n; i++)
        if (strcmp(c->entries.at[i].name, name) == 0) return &c->entries.at[i];
    return NULL;
}

static const char *cache_dir(PassCx *cx)
{
    const char *dir = cache_folder(cx->a, cx->calib->cache_dir);
    if (!dir) {
        diag_error(cx->d, E_FILE_WRITE, LOC_WHAT("calibration"),
                   "there is no folder to keep results in: HOME and XDG_CACHE_HOME are not set");
        diag_hint(cx->d, "name one with --cache DIR");
        return NULL;
    }
    if (!io_mkdirs(cx->d, dir)) {
        diag_hint(cx->d, "results of calibration are kept there; --cache DIR names another folder");
        return NULL;
    }
    char *real = realpath(dir, NULL); /* files of a module are relative to the module */
    if (!real) {
        diag_error(cx->d, E_FILE_WRITE, LOC_WHAT("calibration"), "cannot find the folder '%s': %s",
                   dir, strerror(errno));
        return NULL;
    }
    const char *out = arena_strdup(cx->m->a, real, strlen(real));
    free(real);
    return out;
}

static bool read_entry(const Json *v, u64 data_bytes, Entry *e)
{
    const Json *dtype = json_get(v, "dtype"), *shape = json_get(v, "shape"),
               *off = json_get(v, "data_offsets");
    if (!dtype || dtype->kind != JSON_STRING || !shape || shape->kind != JSON_ARRAY ||
        shape->n > MAX_RANK || !off || off->kind != JSON_ARRAY || off->n != 2)
        return false;
    const struct Form *f = NULL;
    for (u32 i = 0; i < N_FORMS; i++)
        if (str_is(dtype->str, forms[i].safetensors)) f = &forms[i];
    if (!f) return false;
    e->dt = f->dt;
    e->rank = shape->n;
    u64 bytes = f->size;
    for (u32 i = 0; i < e->rank; i++) {
        e->dim[i] = shape->at[i].i;
        if (!shape->at[i].is_int || e->dim[i] < 1 || !ckd_mul(&bytes, bytes, (u64)e->dim[i]))
            return false;
    }
    if (!off->at[0].is_int || !off->at[1].is_int || off->at[0].i < 0) return false;
    e->at = (u64)off->at[0].i;
    e->bytes = bytes;
    return e->at % f->size == 0 && e->at <= data_bytes && bytes <= data_bytes - e->at &&
           (u64)off->at[1].i == e->at + bytes;
}

static const char *read_header(CalibCache *c, Diag *quiet)
{
    u64 n;
    if (c->file.size < 8) return "is cut short";
    memcpy(&n, c->file.data, 8);
    if (n > MAX_HEADER || n > c->file.size - 8) return "is cut short";
    c->data = 8 + n;
    if (c->data % ALIGN) return "is not aligned";
    Source *src = NEW(c->cx->a, Source);
    *src = (Source){c->path, (const char *)c->file.data + 8, n};
    const Json *root = json_parse(quiet, c->cx->a, src);
    if (!root || root->kind != JSON_OBJECT) return "has no header";
    for (u32 i = 0; i < root->n; i++) {
        Entry e = {.name = root->key[i].p};
        if (str_is(root->key[i], "__metadata__")) continue;
        e.name = arena_strdup(c->cx->a, root->key[i].p, root->key[i].n);
        if (!read_entry(&root->at[i], c->file.size - c->data, &e)) return "has a damaged header";
        vec_push(c->cx->a, &c->entries, e);
    }
    const Json *meta = json_get(root, "__metadata__");
    const Json *key = meta ? json_get(meta, "key") : NULL,
               *sum = meta ? json_get(meta, "sum") : NULL;
    if (!key || key->kind != JSON_STRING || !str_is(key->str, c->key)) return "is of another model";
    ContentHash h = content_new();
    for (u32 i = 0; i < c->entries.n; i++)
        content_add(&h, c->file.data + c->data + c->entries.at[i].at, c->entries.at[i].bytes);
    if (!sum || sum->kind != JSON_STRING || !str_is(sum->str, content_text(c->cx->a, &h)))
        return "is damaged";
    return NULL;
}

/* True if the file is there and whole. */
static bool load(CalibCache *c)
{
    Diag quiet;
    diag_init(&quiet, c->cx->a);
    quiet.silent = true;
    if (!io_exists(c->path)) return false;
    const char *wrong = "cannot be read";
    if (io_map(&quiet, c->cx->m->a, c->path, &c->file)) wrong = read_header(c, &quiet);
    if (!wrong) return true;
    diag_warn(c->cx->d, LOC_WHAT(arena_strdup(c->cx->m->a, c->path, strlen(c->path))),
              "this file of calibration results %s; they are computed again", wrong);
    c->entries.n = 0;
    c->file = (MappedFile){0};
    return false;
}

CalibCache *calib_cache(PassCx *cx, bool *found)
{
    const char *dir = cache_dir(cx), *key = dir ? key_of(cx) : NULL;
    if (!key) return NULL;
    CalibCache *c = NEW(cx->a, CalibCache);
    *c = (CalibCache){.cx = cx, .key = key, .fd = -1, .sum = content_new()};
    c->path = arena_printf(cx->m->a, "%s/%s.safetensors", dir, key);
    *found = load(c);
    return c;
}

const char *calib_cache_path(const CalibCache *c)
{
    return c->path;
}

/* ---- putting ---- */

static bool put_failed(CalibCache *c)
{
    return diag_error(c->cx->d, E_FILE_WRITE, LOC_WHAT("calibration"),
                      "cannot write a temporary file: %s", strerror(errno));
}

void calib_put(CalibCache *c, const char *name, DType dt, u32 rank, const i64 *dim,
               const void *data)
{
    const struct Form *f = form_of(dt);
    if (!f || rank > MAX_RANK || c->file.data || entry_of(c, name))
        BUG("calib_put: '%s' cannot be put", name);
    Entry e = {.name = arena_strdup(c->cx->a, name, strlen(name)), .dt = dt, .rank = rank};
    e.bytes = f->size;
    for (u32 i = 0; i < rank; i++) {
        e.dim[i] = dim[i];
        if (dim[i] < 1 || !ckd_mul(&e.bytes, e.bytes, (u64)dim[i]))
            BUG("calib_put: '%s' has a dimension of %lld", name, (long long)dim[i]);
    }
    e.at = c->n;
    c->n = (c->n + e.bytes + ALIGN - 1) / ALIGN * ALIGN;
    vec_push(c->cx->a, &c->entries, e);
    content_add(&c->sum, data, e.bytes);
    if (c->fd < 0) c->fd = calib_temp_file(c->cx->a);
    if (c->fd < 0 || !calib_write_at(c->fd, data, e.bytes, e.at)) put_failed(c);
}

static void header_text(CalibCache *c, StrBuf *b)
{
    sb_printf(b, "{\"__metadata__\":{\"key\":\"%s\",\"sum\":\"%s\"}", c->key,
              content_text(c->cx->a, &c->sum));
    for (u32 i = 0; i < c->entries.n; i++) {
        const Entry *e = &c->entries.at[i];
        sb_ch(b, ',');
        sb_json_str(b, str_c(e->name));
        sb_printf(b, ":{\"dtype\":\"%s\",\"shape\":[", form_of(e->dt)->safetensors);
        for (u32 k = 0; k < e->rank; k++)
            sb_printf(b, "%s%lld", k ? "," : "", (long long)e->dim[k]);
        sb_printf(b, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)e->at,
                  (unsigned long long)(e->at + e->bytes));
    }
    sb_ch(b, '}');
    while ((b->n + 8) % ALIGN)
        sb_ch(b, ' ');
}

static bool copy_arrays(CalibCache *c, OutFile *f)
{
    enum { CHUNK = 1 << 20 };
    u8 *buf = xmalloc(CHUNK, 1);
    bool ok = true;
    for (u64 at = 0; ok && at < c->n;) {
        size_t want = c->n - at < CHUNK ? (size_t)(c->n - at) : CHUNK;
        ssize_t got = pread(c->fd, buf, want, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) ok = put_failed(c);
        if (got == 0) { /* the padding behind the last array was not written */
            memset(buf, 0, want);
            got = (ssize_t)want;
        }
        ok = ok && io_write(f, buf, (size_t)got);
        at += (u64)got;
    }
    free(buf);
    return ok;
}

bool calib_commit(CalibCache *c)
{
    if (c->cx->d->n_errors) return false;
    StrBuf b = {.a = c->cx->a};
    header_text(c, &b);
    const u64 n = b.n;
    OutFile *f = io_create(c->cx->d, c->cx->m->a, c->path);
    if (!f) return false;
    if (!io_write(f, &n, 8) || !io_write(f, b.p, b.n) || !copy_arrays(c, f)) {
        io_discard(f);
        return false;
    }
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    if (!io_commit(f, 0666) || !io_map(c->cx->d, c->cx->m->a, c->path, &c->file)) return false;
    c->data = 8 + n;
    return true;
}

/* ---- getting ---- */

bool calib_get(CalibCache *c, const char *name, Type *t, const void **data)
{
    const Entry *e = entry_of(c, name);
    if (!e || !c->file.data) return false;
    *t = (Type){.dt = e->dt, .rank = e->rank};
    memcpy(t->dim, e->dim, sizeof t->dim);
    *data = c->file.data + c->data + e->at;
    return true;
}

ValueId calib_constant(CalibCache *c, Builder *b, const char *name, TypeId type,
                       const char *value_name)
{
    const Entry *e = entry_of(c, name);
    Module *m = c->cx->m;
    i64 n = 1;
    for (u32 i = 0; e && i < e->rank; i++)
        n *= e->dim[i];
    if (!e || !c->file.data || type_elems(&m->types.at[type]) != n) {
        diag_error(c->cx->d, E_PASS_CALIB, LOC_WHAT(ir_cstr(m, ir_str(m, c->path))),
                   "the results hold no array '%s' of the shape that is needed", name);
        return 0;
    }
    u32 file = ir_file(m, c->path, c->file.size);
    File *f = &m->files.at[file];
    if (!f->open) f->map = c->file, f->open = true;
    return ir_op(b, OP_TENSOR, NULL, 0,
                 ATTRS({A_ENC, .s = form_of(e->dt)->enc}, {A_FILE, .i = file},
                       {A_OFFSET, .i = (i64)(c->data + e->at)}),
                 type, value_name);
}
