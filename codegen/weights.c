/* The weight image: every section evaluated piece by piece on all threads, written and summed in
 * order.
 *
 * A piece is a run of tiles (or a whole small constant). Threads evaluate pieces in parallel and
 * hand them over in order, because a checksum runs over its section in order; the hand-over is a
 * write to the page cache, fast beside evaluation. Memory: one piece per thread plus what the
 * evaluator needs for it.
 */
#include "codegen/plan.h"

#include "ir/base/half.h"
#include "ir/eval.h"
#include "ir/pack.h"

#include <pthread.h>
#include <stdlib.h>

enum { PIECE_ELEMS = 1 << 17, MAX_THREADS = 64 };

typedef struct Piece {
    u32 section;
    i64 t0, nt;     /* tiles; unused for small constants */
    u64 off, bytes; /* in the section */
} Piece;

typedef struct Writer {
    CgPlan *p;
    OutFile *f;
    u64 at;
    VEC(Piece) pieces;
    u64 biggest;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    u32 next, turn; /* next piece to take, next to hand over */
    bool stop;
    PfqSum sum; /* of the section in progress */
    u64 done;
} Writer;

typedef struct Worker {
    Writer *w;
    pthread_t tid;
    Arena a;
    Diag d;
    Eval *e;
    u8 *buf;
    const CgOptions *report; /* progress goes here; NULL but in the calling thread */
} Worker;

static void cut(Writer *w, u32 section)
{
    const CgSection *s = &w->p->sections.at[section];
    const u64 bytes = w->p->image[section].bytes;
    const Op *pack = def_of(w->p->m, s->value);
    Piece piece = {section, 0, 1, 0, bytes};
    if (s->generated) {
        PfqSum none;
        pfq_sum_init(&none);
        w->p->image[section].sum = pfq_sum_final(&none);
        return;
    }
    if (s->kind == CG_SEC_PACK) {
        const Type *t = type_of(w->p->m, pack->in[0]);
        const i64 tiles = pack_tiles(t->dim[0], op_int(pack, A_INTERLEAVE));
        const u64 tile_bytes = bytes / (u64)tiles;
        i64 step = PIECE_ELEMS / (PACK_ROWS * t->dim[1]);
        if (step < 1) step = 1;
        for (; piece.t0 < tiles; piece.t0 += piece.nt) {
            piece.nt = tiles - piece.t0 < step ? tiles - piece.t0 : step;
            piece.off = (u64)piece.t0 * tile_bytes;
            piece.bytes = (u64)piece.nt * tile_bytes;
            vec_push(w->p->a, &w->pieces, piece);
            if (piece.bytes > w->biggest) w->biggest = piece.bytes;
        }
        return;
    }
    vec_push(w->p->a, &w->pieces, piece);
    if (bytes > w->biggest) w->biggest = bytes;
}

/* Packed order of a vector of two blocks of F: 16 of the first, 16 of the second, and so on; short
 * tiles end in zeros. */
static void interleave(float *out, const float *v, u64 f)
{
    for (u64 tile = 0; tile < (f + 15) / 16; tile++)
        for (u64 block = 0; block < 2; block++)
            for (u64 r = 0; r < 16; r++) {
                const u64 i = 16 * tile + r;
                *out++ = i < f ? v[block * f + i] : 0;
            }
}

static bool evaluate(Worker *k, const Piece *pc)
{
    const CgSection *s = &k->w->p->sections.at[pc->section];
    eval_reset(k->e);
    if (s->kind == CG_SEC_PACK) return eval_pack(k->e, s->value, pc->t0, pc->nt, k->buf);
    const Type *t = type_of(k->w->p->m, s->value);
    Tensor v;
    if (!eval_const(k->e, s->value, 0, type_rows(t), 0, type_cols(t), &v)) return false;
    if (s->kind == CG_SEC_F32)
        memcpy(k->buf, v.f, pc->bytes);
    else if (s->kind == CG_SEC_F16)
        for (u64 i = 0; i < pc->bytes / 2; i++)
            ((u16 *)(void *)k->buf)[i] = f32_to_f16(v.f[i]);
    else
        interleave((float *)(void *)k->buf, v.f, (u64)type_elems(t) / 2);
    return true;
}

/* Called in the order of pieces. */
static bool hand_over(Worker *k, const Piece *pc)
{
    Writer *w = k->w;
    PfqImageSection *s = &w->p->image[pc->section];
    if (pc->off == 0) pfq_sum_init(&w->sum);
    pfq_sum_update(&w->sum, k->buf, pc->bytes);
    if (pc->off + pc->bytes == s->bytes) s->sum = pfq_sum_final(&w->sum);
    return io_pwrite(w->f, k->buf, pc->bytes, w->at + w->p->data_offset + s->offset + pc->off);
}

static void *work(void *arg)
{
    Worker *k = arg;
    Writer *w = k->w;
    pthread_mutex_lock(&w->lock);
    while (!w->stop && w->next < w->pieces.n) {
        const u32 i = w->next++;
        const Piece *pc = &w->pieces.at[i];
        pthread_mutex_unlock(&w->lock);
        bool ok = evaluate(k, pc);
        pthread_mutex_lock(&w->lock);
        while (!w->stop && w->turn != i)
            pthread_cond_wait(&w->moved, &w->lock);
        if (w->stop) break;
        pthread_mutex_unlock(&w->lock);
        ok = ok && hand_over(k, pc);
        pthread_mutex_lock(&w->lock);
        if (!ok) w->stop = true;
        w->turn++;
        w->done += pc->bytes;
        pthread_cond_broadcast(&w->moved);
        if (k->report)
            k->report->progress(k->report->progress_arg, "weights", w->done, w->p->data_bytes);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static bool start(Worker *k, Writer *w)
{
    k->w = w;
    diag_init(&k->d, &k->a);
    k->e = eval_new(&k->d, w->p->m, false);
    k->buf = xmalloc(w->biggest + 1, 1);
    return k->e != NULL;
}

/* Moves a worker's messages to the caller's Diag, whose thread this is. */
static void finish(Worker *k, Diag *d)
{
    for (u32 i = 0; i < k->d.msgs.n; i++) {
        const struct DiagMsg *m = &k->d.msgs.at[i];
        Loc loc = m->loc;
        if (loc.what) loc.what = arena_strdup(d->a, loc.what, strlen(loc.what));
        if (m->code != E_NONE)
            diag_error(d, m->code, loc, "%s", m->text);
        else
            diag_note(d, "%s", m->text);
    }
    if (k->e) eval_free(k->e);
    free(k->buf);
    arena_free(&k->a);
}

static bool run_workers(Diag *d, Writer *w, const CgOptions *opt, u32 threads)
{
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > w->pieces.n) threads = w->pieces.n ? w->pieces.n : 1;
    Worker *k = NEWN(w->p->a, Worker, threads);
    u32 started = 1;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 8u << 20);
    bool ok = start(&k[0], w);
    k[0].report = opt->progress ? opt : NULL;
    for (u32 i = 1; ok && i < threads; i++, started++)
        if (!start(&k[i], w) || pthread_create(&k[i].tid, &attr, work, &k[i]) != 0) break;
    pthread_attr_destroy(&attr);
    if (ok) work(&k[0]);
    for (u32 i = 1; i < started; i++)
        pthread_join(k[i].tid, NULL);
    for (u32 i = 0; i < threads; i++)
        if (k[i].w) finish(&k[i], d);
    return ok && !w->stop;
}

static bool write_header(CgPlan *p, OutFile *f, u64 at)
{
    /* The id covers names, places and checksums of all sections: equal ids, equal images. */
    PfqSum s;
    u64 id[2];
    for (u64 i = 0; i < 2; i++) {
        pfq_sum_init(&s);
        pfq_sum_update(&s, &i, sizeof i);
        pfq_sum_update(&s, p->image, p->sections.n * sizeof *p->image);
        id[i] = pfq_sum_final(&s);
    }
    memcpy(p->image_id, id, sizeof id);
    const size_t n = pfq_image_header_bytes(p->sections.n);
    u8 *header = xmalloc(n, 1);
    bool ok = pfq_image_header(p->image, p->sections.n, p->image_id, header) &&
              io_pwrite(f, header, n, at);
    free(header);
    /* The file's last byte, unless it is data: the gap before it becomes a hole of zeros. */
    static const u8 zero;
    if (p->data_offset + p->data_bytes == p->total_bytes) return ok;
    return ok && io_pwrite(f, &zero, 1, at + p->total_bytes - 1);
}

bool cg_write_weights(Diag *d, CgPlan *p, OutFile *f, u64 at, const CgOptions *opt)
{
    if (!eval_open(d, p->m)) return false;
    Writer w = {.p = p,
                .f = f,
                .at = at,
                .lock = PTHREAD_MUTEX_INITIALIZER,
                .moved = PTHREAD_COND_INITIALIZER};
    for (u32 i = 0; i < p->sections.n; i++)
        cut(&w, i);
    return run_workers(d, &w, opt, opt->threads) && write_header(p, f, at);
}
