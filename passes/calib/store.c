/* What a calibration run holds: constants as dense f32, computed on all threads and dropped after
 * their last use, and the values between ranges, in files without a name. */
#include "passes/calib/calib_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- constants ---- */

static Dense *dense_at(const Calib *c, ValueId v)
{
    for (u32 i = 0; i < c->dense.n; i++)
        if (c->dense.at[i].v == v) return &c->dense.at[i];
    return NULL;
}

const void *dense_find(const Calib *c, ValueId v, bool overridden)
{
    for (u32 i = 0; overridden && i < c->over.n; i++)
        if (c->over.at[i].v == v) return c->over.at[i].p;
    const Dense *x = dense_at(c, v);
    return x ? x->p : NULL;
}

u64 dense_bytes(const Calib *c, ValueId v)
{
    i64 n = type_elems(type_of(c->m, v));
    return n > 0 && n < INT64_MAX / 8 ? (u64)n * 4 : 0;
}

bool dense_streams(const Calib *c, const Op *op, u32 k)
{
    if (op->kind == OP_EMBEDDING) return k == 1;
    return op->kind == OP_LINEAR && k == 1 && dense_bytes(c, op->in[1]) > c->stream_bytes;
}

static void dense_drop(Calib *c, u32 i)
{
    free(c->dense.at[i].p);
    c->dense.at[i] = c->dense.at[--c->dense.n];
}

void dense_drop_past(Calib *c, u32 at)
{
    for (u32 i = c->dense.n; i-- > 0;) {
        ValueId v = c->dense.at[i].v;
        if (v < c->nvalues && c->last[v] != UINT32_MAX && c->last[v] < at) dense_drop(c, i);
    }
}

/* Computes tiles until none is left. */
static bool tile_job(Worker *w)
{
    Calib *c = w->c;
    Eval *e = w->e;
    OpEval *const *reference = e->ops;
    bool ok = true;
    e->ops = c->ops;
    for (;;) {
        u32 i = (u32)atomic_fetch_add(&c->next, 1);
        if (!ok || i >= c->tiles.n) break;
        const Tile *t = &c->tiles.at[i];
        i64 cols = type_cols(type_of(c->m, t->v)),
            step = (1 << 16) / cols > 1 ? (1 << 16) / cols : 1;
        for (i64 r = 0; ok && r < t->nr; r += step) {
            i64 nr = t->nr - r < step ? t->nr - r : step;
            Scope s = ev_scope(e);
            Tensor x;
            ok = ev_const_rect(e, t->v, (Rect){t->r0 + r, nr, 0, cols}, &x);
            if (ok)
                memcpy((float *)t->p + (t->r0 + r) * cols, x.p,
                       (size_t)(nr * cols) * sizeof(float));
            ev_scope_end(e, s);
        }
    }
    e->ops = reference;
    free(e->mixed.p); /* a weight whose rows are mixed: it may be large */
    e->mixed.p = NULL;
    e->mixed_v = 0;
    return ok;
}

static void add_tiles(Calib *c, ValueId v, float *p)
{
    const Type *t = type_of(c->m, v);
    i64 rows = type_rows(t), cols = type_cols(t), step = ((i64)1 << 21) / cols;
    if (step < 1) step = 1;
    for (i64 r = 0; r < rows; r += step) {
        Tile tile = {p, v, r, rows - r < step ? rows - r : step};
        vec_push(&c->a, &c->tiles, tile);
    }
}

/* Transforms of whole weights are done in memory, by all threads together, and what they are
 * applied to may be rows of several weights: adds the tiles and transforms that make v at p.
 * Returns how many transforms lie over each other. */
static u32 expand(Calib *c, ValueId v, float *p, u32 depth)
{
    enum { MAX_DEPTH = 32 };
    const Op *op = def_of(c->m, v);
    const Type *t = type_of(c->m, v);
    if (depth < MAX_DEPTH && op->kind == OP_HADAMARD && t->dt == DT_F32 && t->rank == 2) {
        u32 level = expand(c, op->in[0], p, depth + 1) + 1;
        Stage s = {p, op, t->dim[0], t->dim[1], level};
        vec_push(&c->a, &c->stages, s);
        return level;
    }
    if (depth < MAX_DEPTH && op->kind == OP_CONCAT && t->dt == DT_F32 && t->rank == 2 &&
        op_int(op, A_AXIS) == 0) {
        u32 level = 0;
        for (u32 k = 0; k < op->nin; k++) {
            u32 l = expand(c, op->in[k], p, depth + 1);
            level = l > level ? l : level;
            p += type_elems(type_of(c->m, op->in[k]));
        }
        return level;
    }
    add_tiles(c, v, p);
    return 0;
}

/* A thread's share of every transform of one level. */
static bool stage_job(Worker *w)
{
    Calib *c = w->c;
    for (u32 i = 0; i < c->stages.n; i++) {
        const Stage *s = &c->stages.at[i];
        if (s->level != c->level) continue;
        Scope scope = ev_scope(w->e);
        transform_dense(w->e, s->op, s->p, s->rows, s->cols, w->id, c->nt);
        ev_scope_end(w->e, scope);
    }
    return true;
}

static bool compute_dense(Calib *c, u32 levels)
{
    atomic_store(&c->next, 0);
    bool ok = calib_evals(c) && calib_parallel(c, tile_job);
    for (c->level = 1; ok && c->level <= levels; c->level++)
        ok = calib_parallel(c, stage_job);
    return ok;
}

static bool load_dense(Calib *c, const ValueId *v, u32 n)
{
    u32 first = c->dense.n, levels = 0;
    c->tiles.n = 0;
    c->stages.n = 0;
    for (u32 i = 0; i < n; i++) {
        Dense x = {.v = v[i], .bytes = dense_bytes(c, v[i])};
        if (!x.bytes || x.bytes > c->memory)
            return diag_error(c->d, E_PASS_CALIB, LOC_NONE,
                              "constant '%s' does not fit this machine's memory",
                              ir_cstr(c->m, value_at(c->m, v[i])->name));
        x.p = xmalloc(x.bytes, 1);
        vec_push(&c->a, &c->dense, x);
        u32 l = expand(c, v[i], x.p, 0);
        levels = l > levels ? l : levels;
    }
    if (!n || compute_dense(c, levels)) return true;
    while (c->dense.n > first)
        dense_drop(c, c->dense.n - 1);
    return false;
}

bool dense_load_one(Calib *c, ValueId v)
{
    return dense_at(c, v) || load_dense(c, &v, 1);
}

bool dense_load(Calib *c, u32 from, u32 end)
{
    const Fn *f = &c->m->fns.at[c->fn];
    Arena a = {0};
    bool *need = NEWN(&a, bool, c->m->values.n);
    VEC(ValueId) want = {0};
    u64 bytes = 0, held = 0;
    for (u32 i = from; i < end; i++) {
        const Op *op = op_at(c->m, f->body.at[i]);
        for (u32 k = 0; k < op->nin; k++) {
            ValueId v = op->in[k];
            if (!v || !is_const(c->m, v) || need[v] || dense_streams(c, op, k) ||
                def_of(c->m, v)->kind == OP_STATE)
                continue;
            need[v] = true;
            if (dense_find(c, v, true)) continue;
            vec_push(&a, &want, v);
            bytes += dense_bytes(c, v);
        }
    }
    for (u32 i = 0; i < c->dense.n; i++)
        held += c->dense.at[i].bytes;
    for (u32 i = c->dense.n; held + bytes > c->range_bytes && i-- > 0;) {
        if (c->dense.at[i].pinned || need[c->dense.at[i].v]) continue;
        held -= c->dense.at[i].bytes;
        dense_drop(c, i);
    }
    bool ok = load_dense(c, want.at, want.n);
    arena_free(&a);
    return ok;
}

/* ---- kept values ---- */

Kept *kept_find(const Calib *c, ValueId v)
{
    for (u32 i = 0; i < c->kept.n; i++)
        if (c->kept.at[i].v == v) return &c->kept.at[i];
    return NULL;
}

static bool io_failed(Calib *c, const char *what)
{
    return diag_error(c->d, E_FILE_WRITE, LOC_WHAT("calibration"), "cannot %s a temporary file: %s",
                      what, strerror(errno));
}

/* In $TMPDIR, else /var/tmp, which is a disk more often than /tmp is. */
int calib_temp_file(Arena *a)
{
    const char *const dirs[] = {getenv("TMPDIR"), "/var/tmp", "/tmp"};
    for (u32 i = 0; i < 3; i++) {
        if (!dirs[i] || !*dirs[i]) continue;
        char *path = arena_printf(a, "%s/pfqc-XXXXXX", dirs[i]);
        int fd = mkostemp(path, O_CLOEXEC);
        if (fd < 0) continue;
        unlink(path);
        return fd;
    }
    return -1;
}

bool calib_write_at(int fd, const void *data, u64 n, u64 at)
{
    const u8 *p = data;
    while (n) {
        ssize_t got = pwrite(fd, p, n, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        p += got, n -= (u64)got, at += (u64)got;
    }
    return true;
}

/* Elements of a value of one sequence. */
static i64 sequence_elems(const Calib *c, ValueId v)
{
    const Type *t = type_of(c->m, v);
    i64 n = 1;
    for (u32 i = 0; i < t->rank; i++)
        if (__builtin_mul_overflow(n, t->dim[i] == DIM_T ? c->length : t->dim[i], &n)) return -1;
    return n;
}

/* The file of a value, as it is or as one that was dropped left it: its pages are in memory. */
static bool file_of(Calib *c, Kept *k)
{
    Kept *old = &c->spare;
    if (old->size == k->size && old->fd >= 0) {
        k->fd = old->fd;
        k->old = old->old;
        *old = (Kept){.fd = -1};
        return true;
    }
    k->fd = calib_temp_file(&c->a);
    return k->fd >= 0;
}

static bool open_one(Calib *c, ValueId v, bool transient)
{
    const DTypeInfo *dt = &dtype_info[type_of(c->m, v)->dt];
    Kept k = {.v = v, .transient = transient, .esize = 4};
    if (!dt->is_float && dt->lo >= -128 && dt->hi <= 255)
        k.esize = 1, k.is_unsigned = dt->lo >= 0;
    else if (!dt->is_float && dt->lo >= INT16_MIN && dt->hi <= INT16_MAX)
        k.esize = 2;
    i64 n = sequence_elems(c, v);
    u64 size = 0;
    if (n < 0 || !ckd_mul(&k.bytes, (u64)n, k.esize) || !ckd_add(&k.bytes, k.bytes, 63) ||
        !ckd_mul(&size, k.bytes /= 64, 64 * (u64)c->run_sequences) || size > INT64_MAX)
        return diag_error(c->d, E_PASS_CALIB, LOC_NONE, "a value of @main is too large to be kept");
    k.bytes *= 64;
    k.size = size;
    if (!file_of(c, &k)) return io_failed(c, "create");
    vec_push(&c->a, &c->kept, k);
    return ftruncate(k.fd, (off_t)size) == 0 || io_failed(c, "extend");
}

bool kept_open(Calib *c, u32 from, u32 end, bool transient)
{
    const Fn *f = &c->m->fns.at[c->fn];
    for (u32 i = from; i < end; i++) {
        const Op *op = op_at(c->m, f->body.at[i]);
        for (u32 k = 0; k < op->nout; k++) {
            ValueId v = op->out + k;
            if (c->last[v] == UINT32_MAX || c->last[v] < end || kept_find(c, v)) continue;
            if (!open_one(c, v, transient)) return false;
        }
    }
    return true;
}

static void narrow_ints(const i32 *x, i64 n, u32 esize, u8 *out)
{
    if (esize == 1)
        for (i64 i = 0; i < n; i++)
            out[i] = (u8)x[i];
    else
        for (i64 i = 0; i < n; i++)
            ((uint16_t *)(void *)out)[i] = (uint16_t)x[i];
}

bool kept_write(const Calib *c, i64 sequence, const Tensor *t, ValueId v, i64 row)
{
    enum { CHUNK = 1 << 16 };
    const Kept *k = kept_find(c, v);
    i64 n = calib_elems(t);
    u64 at = (u64)sequence * k->bytes + (u64)(row * (n / t->dim[0])) * k->esize;
    if (k->esize == 4) return calib_write_at(k->fd, t->p, (u64)n * 4, at);
    u8 buf[2 * CHUNK];
    for (i64 i = 0; i < n; i += CHUNK) {
        i64 m = n - i < CHUNK ? n - i : CHUNK;
        narrow_ints(t->i + i, m, k->esize, buf);
        if (!calib_write_at(k->fd, buf, (u64)m * k->esize, at + (u64)i * k->esize)) return false;
    }
    return true;
}

bool kept_map(Calib *c)
{
    for (u32 i = 0; i < c->kept.n; i++) {
        Kept *k = &c->kept.at[i];
        if (k->map) continue;
        void *p = k->old ? k->old : mmap(NULL, k->size, PROT_READ, MAP_SHARED, k->fd, 0);
        if (p == MAP_FAILED) return io_failed(c, "map");
        k->map = p;
        k->old = NULL;
    }
    return true;
}

static void kept_close(Kept *k)
{
    if (k->map) munmap(k->map, k->size);
    if (k->old) munmap(k->old, k->size);
    if (k->fd >= 0) close(k->fd);
    *k = (Kept){.fd = -1};
}

void kept_drop(Calib *c, u32 at, bool transient)
{
    for (u32 i = c->kept.n; i-- > 0;) {
        Kept *k = &c->kept.at[i];
        if (transient ? !k->transient : c->last[k->v] >= at) continue;
        kept_close(&c->spare);
        c->spare = (Kept){.fd = k->fd, .old = k->map ? k->map : k->old, .size = k->size};
        *k = c->kept.at[--c->kept.n];
    }
}

void kept_free(Calib *c)
{
    for (u32 i = 0; i < c->kept.n; i++)
        kept_close(&c->kept.at[i]);
    kept_close(&c->spare);
    c->kept.n = 0;
}
