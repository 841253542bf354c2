/* Many sequences on one engine. Contract: batch.h. */
#include "runtime/batch.h"

#include <stdlib.h>
#include <string.h>

/* Tokens that are copied to another slot rather than computed again. */
enum { WORTH_COPYING = 8 };

static int32_t least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* Pages of a slot of the cache. */
static int32_t pages_of(int32_t ctx)
{
    return (ctx + PFQ_PAGE - 1) / PFQ_PAGE;
}

int32_t pfq_batch_spare(int32_t ctx, int32_t pages)
{
    return (pages + pages_of(ctx) - 1) / pages_of(ctx);
}

bool pfq_batch_open(PfqBatch *b, PfqEngine *engine, bool deterministic, int32_t pages, PfqErr *err)
{
    const size_t slots = (size_t)engine->slots, ctx = (size_t)engine->ctx;
    *b = (PfqBatch){.engine = engine, .deterministic = deterministic, .last = &b->first};
    b->slot = calloc(slots, sizeof *b->slot);
    b->ids = calloc(slots, sizeof *b->ids);
    b->rows = calloc(slots, sizeof *b->rows);
    b->draw = calloc(slots, sizeof *b->draw);
    b->at = calloc((size_t)pages_of(engine->ctx), sizeof *b->at);
    bool ok = pfq_kept_open(&b->kept, pages) && b->slot && b->ids && b->rows && b->draw && b->at;
    for (size_t i = 0; ok && i < slots; i++) {
        b->slot[i].tokens = calloc(ctx, sizeof(int32_t));
        ok = b->slot[i].tokens != NULL;
    }
    return ok || pfq_fail(err, "out of memory for %zu sequences of %zu tokens", slots, ctx);
}

void pfq_batch_close(PfqBatch *b)
{
    for (int32_t i = 0; b->slot && i < b->engine->slots; i++) {
        free(b->slot[i].tokens);
    }
    free(b->slot);
    free(b->ids);
    free(b->rows);
    free(b->draw);
    free(b->at);
    pfq_kept_close(&b->kept);
    *b = (PfqBatch){0};
}

/* ---- in line ---- */

void pfq_batch_add(PfqBatch *b, PfqSeq *s)
{
    s->next_in_line = NULL;
    s->slot = -1;
    s->pos = s->cached = 0;
    *b->last = s;
    b->last = &s->next_in_line;
    b->waiting++;
}

static PfqSeq *take(PfqBatch *b, PfqSeq **at)
{
    PfqSeq *s = *at;
    *at = s->next_in_line;
    if (b->last == &s->next_in_line) {
        b->last = at;
    }
    b->waiting--;
    return s;
}

/* ---- slots ---- */

static void end(PfqBatch *b, PfqSeq *s, PfqSeqEnd how, const char *why)
{
    if (s->slot >= 0) {
        b->slot[s->slot].seq = NULL;
        b->slot[s->slot].used = b->step;
        b->running--;
    }
    s->calls->done(s, how, why);
}

/* The most tokens that a prompt may take from elsewhere. The last one's logits are wanted, so that
 * it is computed in any case; with one before it, because a chunk of one token is computed
 * otherwise. */
static int32_t most_shared(const PfqBatch *b, const PfqSeq *s)
{
    return s->all_rows ? 0 : s->n - 1 - b->deterministic;
}

/* Tokens that the prompt may take from a slot. */
static int32_t usable(const PfqBatch *b, const PfqSlot *slot, const PfqSeq *s)
{
    const int32_t most = least(slot->shared, most_shared(b, s));
    int32_t n = 0;
    while (n < most && slot->tokens[n] == s->ids[n]) {
        n++;
    }
    return n;
}

/* The slot that has most of the prompt, free or not. */
static PfqSlot *richest(const PfqBatch *b, const PfqSeq *s, int32_t *shared)
{
    PfqSlot *best = NULL;
    *shared = 0;
    for (int32_t i = 0; i < b->engine->slots; i++) {
        const int32_t n = usable(b, &b->slot[i], s);
        if (!best || n > *shared) {
            best = &b->slot[i];
            *shared = n;
        }
    }
    return best;
}

/* The free slot that was not used for longest. */
static PfqSlot *oldest_free(const PfqBatch *b)
{
    PfqSlot *best = NULL;
    for (int32_t i = 0; i < b->engine->slots; i++) {
        PfqSlot *slot = &b->slot[i];
        if (!slot->seq && (!best || slot->used < best->used)) {
            best = slot;
        }
    }
    return best;
}

/* ---- pages ---- */

static PfqRow row_of(const PfqBatch *b, const PfqSlot *slot, int32_t pos)
{
    return (PfqRow){.pos = pos, .slot = (int32_t)(slot - b->slot)};
}

/* Where a page lies: in spare slots, one behind the other. */
static PfqRow page_row(const PfqBatch *b, int32_t page)
{
    const int32_t n = pages_of(b->engine->ctx);
    return (PfqRow){.pos = page % n * PFQ_PAGE, .slot = b->engine->slots + page / n};
}

/* Pages first .. to-1 of b->at, to or from the slot; neighbours at once. */
static bool copy_pages(PfqBatch *b, const PfqSlot *slot, int32_t first, int32_t to, bool back,
                       PfqErr *err)
{
    for (int32_t i = first, n; i < to; i += n) {
        const PfqRow page = page_row(b, b->at[i]), row = row_of(b, slot, i * PFQ_PAGE);
        n = 1;
        while (i + n < to && b->at[i + n] == b->at[i] + n &&
               page_row(b, b->at[i + n]).slot == page.slot) {
            n++;
        }
        if (!pfq_engine_copy(b->engine, back ? page : row, back ? row : page, n * PFQ_PAGE, err)) {
            return false;
        }
    }
    return true;
}

/* Copies to pages what others may begin with of a slot's tokens, but for the first `stay`. */
static bool keep(PfqBatch *b, const PfqSlot *slot, int32_t stay, PfqErr *err)
{
    if (slot->shared / PFQ_PAGE <= stay / PFQ_PAGE) {
        return true;
    }
    const int32_t found = pfq_kept_find(&b->kept, slot->tokens, slot->shared, b->at);
    int32_t n = found;
    while (n < slot->shared / PFQ_PAGE && pfq_kept_add(&b->kept, slot->tokens, n, b->at)) {
        n++;
    }
    return copy_pages(b, slot, found, n, false, err);
}

/* ---- a slot for a sequence ---- */

/* The slot gets the first n tokens of the prompt, of which it has `have`. */
static bool fill(PfqBatch *b, PfqSeq *s, PfqSlot *to, int32_t have, int32_t *n, const PfqSlot *from,
                 PfqErr *err)
{
    const int32_t pages = pfq_kept_find(&b->kept, s->ids, most_shared(b, s), b->at),
                  kept = pages * PFQ_PAGE;
    bool ok = true;
    if (kept > *n) {
        ok = copy_pages(b, to, have / PFQ_PAGE, kept / PFQ_PAGE, true, err);
        *n = kept;
        b->hits++;
        b->from_kept += kept - have;
    } else if (*n > have) {
        ok = pfq_engine_copy(b->engine, row_of(b, from, 0), row_of(b, to, 0), *n, err);
    }
    memcpy(to->tokens, s->ids, (size_t)*n * sizeof *to->tokens);
    return ok;
}

/* A sequence goes on in the slot that has its beginning if little else is lost with it; else that
 * is copied, if it is worth the trouble, or what pages hold of it. */
static bool give_slot(PfqBatch *b, PfqSeq *s, PfqErr *err)
{
    int32_t n, have = 0;
    const PfqSlot *from = richest(b, s, &n);
    PfqSlot *to = oldest_free(b);
    if (!from->seq && n > 0 && n >= from->shared / 2) {
        to = &b->slot[from - b->slot];
    }
    if (from == to) {
        have = n;
    } else if (n < WORTH_COPYING) {
        n = 0;
    }
    /* Pages that are about to be used are not those that must go. */
    pfq_kept_find(&b->kept, s->ids, most_shared(b, s), b->at);
    if (!keep(b, to, have, err) || !fill(b, s, to, have, &n, from, err)) {
        return false;
    }
    to->seq = s;
    to->n = to->shared = n;
    to->used = b->step;
    s->slot = (int32_t)(to - b->slot);
    s->pos = s->cached = n;
    b->running++;
    s->calls->begin(s);
    return true;
}

/* Ends what nobody waits for, and lets those in line come in. */
static bool admit(PfqBatch *b, PfqErr *err)
{
    for (int32_t i = 0; i < b->engine->slots; i++) {
        PfqSeq *s = b->slot[i].seq;
        if (s && s->calls->gone(s)) {
            end(b, s, PFQ_SEQ_GONE, NULL);
        }
    }
    for (PfqSeq **at = &b->first; *at;) {
        if ((*at)->calls->gone(*at)) {
            end(b, take(b, at), PFQ_SEQ_GONE, NULL);
        } else {
            at = &(*at)->next_in_line;
        }
    }
    bool ok = true;
    while (ok && b->first && b->running < b->engine->slots) {
        PfqSeq *s = take(b, &b->first);
        ok = give_slot(b, s, err);
        if (!ok) {
            end(b, s, PFQ_SEQ_FAILED, err->text);
        }
    }
    return ok;
}

/* Row i of the logits that were computed last. */
static const float *logits_at(const PfqBatch *b, int32_t i)
{
    return b->engine->logits + (size_t)i * (size_t)b->engine->model->vocab;
}

/* ---- prompts ---- */

/* Notes that n tokens were appended. */
static void append(PfqSlot *slot, const int32_t *tokens, int32_t n)
{
    memcpy(slot->tokens + slot->n, tokens, (size_t)n * sizeof *tokens);
    slot->n += n;
}

/* What other sequences may begin with, once a chunk of n tokens is read. */
static void share_chunk(const PfqBatch *b, PfqSlot *slot, int32_t n)
{
    if (slot->shared == slot->n - n && (n > 1 || !b->deterministic)) {
        slot->shared = slot->n;
    }
}

/* The token behind a sequence's last one is drawn. */
static void go_on(PfqBatch *b, PfqSeq *s, int32_t drawn)
{
    const bool more = b->slot[s->slot].n < b->engine->ctx;
    s->token = s->calls->next(s, drawn, more);
    if (s->token < 0 || !more) {
        end(b, s, PFQ_SEQ_OVER, NULL);
    }
}

/* Tokens of the next chunk: no chunk leaves one token alone (it would be computed otherwise than
 * with company), and short ones let the others decode in between. */
static int32_t chunk_of(const PfqBatch *b, const PfqSeq *s, bool others)
{
    const int32_t chunk = b->engine->model->chunk, left = s->n - s->pos;
    const int32_t n = least(left, others ? least(chunk, b->engine->turn) : chunk);
    return left - n == 1 && n > 2 ? n - 1 : n;
}

static void rows_of(void *user, int32_t first, int32_t n, const float *logits)
{
    PfqSeq *s = user;
    s->calls->rows(s, s->pos + first, n, logits);
}

static bool read_chunk(PfqBatch *b, PfqSeq *s, bool others, PfqErr *err)
{
    PfqSlot *slot = &b->slot[s->slot];
    const int32_t n = chunk_of(b, s, others);
    const bool last = s->pos + n == s->n;
    const PfqWant want = s->all_rows ? PFQ_WANT_ALL : last ? PFQ_WANT_LAST : PFQ_WANT_NONE;
    pfq_engine_seek(b->engine, s->slot, s->pos);
    if (!pfq_engine_prefill(b->engine, s->ids + s->pos, n, want, s->all_rows ? rows_of : NULL, s,
                            err)) {
        return false;
    }
    append(slot, s->ids + s->pos, n);
    share_chunk(b, slot, n);
    s->pos += n;
    if (last) {
        const int32_t rows = b->engine->model->rows;
        const int32_t at = s->all_rows ? (n - 1) % rows : 0; /* of the last block of logits */
        go_on(b, s, s->calls->look(s, logits_at(b, at), 0));
    }
    return true;
}

/* ---- answers ---- */

typedef struct Looks {
    PfqBatch *b;
    int32_t n;
} Looks;

static void look_job(void *arg, int tid, int nt)
{
    const Looks *l = arg;
    for (int32_t i = tid; i < l->n; i += nt) {
        PfqDraw *d = &l->b->draw[i];
        PfqSeq *s = l->b->slot[l->b->rows[i].slot].seq;
        if (d->token == PFQ_NOT_DRAWN) {
            d->token = s->calls->look(s, logits_at(l->b, i), tid);
        }
    }
}

/* Rows that nobody drew are looked at by all threads at once: with the whole of a large vocabulary
 * to draw from, that is a fifth of what the row's step takes on one. */
static void look_at_rows(PfqBatch *b, int32_t n)
{
    int32_t left = 0;
    for (int32_t i = 0; i < n; i++) {
        left += b->draw[i].token == PFQ_NOT_DRAWN;
    }
    if (left) {
        pfq_engine_job(b->engine, left, look_job, &(Looks){b, n});
    }
}

/* One token of each of the n sequences that generated one before this step. */
static bool decode(PfqBatch *b, int32_t n, PfqErr *err)
{
    for (int32_t i = 0; i < n; i++) {
        PfqSeq *s = b->slot[b->rows[i].slot].seq;
        b->draw[i].sampler = s->calls->sampler(s);
    }
    if (!pfq_engine_batch(b->engine, b->ids, b->rows, n, b->draw, err)) {
        return false;
    }
    b->decoded++;
    look_at_rows(b, n);
    for (int32_t i = 0; i < n; i++) {
        PfqSlot *slot = &b->slot[b->rows[i].slot];
        append(slot, &b->ids[i], 1);
        if (!b->deterministic && slot->shared == slot->n - 1) {
            slot->shared = slot->n;
        }
        go_on(b, slot->seq, b->draw[i].token);
    }
    return true;
}

/* The sequences that have a token to compute, in the order of their slots; the one whose prompt has
 * waited longest for a chunk. */
static int32_t look(PfqBatch *b, PfqSeq **reads)
{
    int32_t n = 0;
    *reads = NULL;
    for (int32_t i = 0; i < b->engine->slots; i++) {
        PfqSlot *slot = &b->slot[i];
        PfqSeq *s = slot->seq;
        if (s && s->pos >= s->n) {
            b->ids[n] = s->token;
            b->rows[n++] = (PfqRow){.pos = slot->n, .slot = i};
        } else if (s && (!*reads || slot->used < b->slot[(*reads)->slot].used)) {
            *reads = s;
        }
    }
    return n;
}

bool pfq_batch_step(PfqBatch *b, PfqErr *err)
{
    PfqSeq *reads;
    b->step++;
    bool ok = admit(b, err);
    const int32_t n = ok ? look(b, &reads) : 0;
    if (ok && reads) {
        b->slot[reads->slot].used = b->step;
        ok = read_chunk(b, reads, n > 0, err);
    }
    ok = ok && (n == 0 || decode(b, n, err));
    if (!ok) {
        pfq_batch_stop(b, PFQ_SEQ_FAILED, err->text);
    }
    return ok;
}

void pfq_batch_stop(PfqBatch *b, PfqSeqEnd how, const char *why)
{
    for (int32_t i = 0; b->slot && i < b->engine->slots; i++) {
        if (b->slot[i].seq) {
            end(b, b->slot[i].seq, how, why);
        }
    }
    while (b->first) {
        end(b, take(b, &b->first), how, why);
    }
}
