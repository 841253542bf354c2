/* Many sequences on one engine: which has which slot of the KV cache, what of a prompt is there
 * already, whose tokens are computed next.
 *
 * A step computes a chunk of the oldest prompt that is not read yet, then one token of each
 * sequence that generates, all in one call where the engine can. Sequences wait in line; a free
 * slot goes to the first. A slot keeps its tokens after its sequence has ended: a prompt that
 * begins as one of them does, also of one at work, goes on behind what they share; that is copied,
 * unless the new sequence takes over the slot itself. What another sequence's tokens take the place
 * of is copied to pages first (kept.h, in spare slots of the engine), and back for a prompt that
 * begins with them: kernels see nothing but slots, which are contiguous. A prefix that is part of
 * the model is in the kernels, and so shared by all.
 *
 * Deterministic (the default, of an engine that is exact, engine.h): a sequence gives the same
 * logits, to the bit, whatever runs beside it and ran before it. That costs a second look at the
 * answers of a conversation: keys and values of generated tokens are not taken for those of a
 * prompt, which differ in the last bits.
 *
 * Ownership: a PfqSeq is its owner's; from pfq_batch_add until `done` it must stay where it is.
 * Threading: one thread, the engine's. Memory: all at open. Errors: the engine's, after which
 * nothing runs any more. Not here: text, sampling, HTTP.
 */
#ifndef PFQC_RUNTIME_BATCH_H
#define PFQC_RUNTIME_BATCH_H

#include "runtime/engine.h"
#include "runtime/kept.h"

typedef struct PfqSeq PfqSeq;

typedef enum PfqSeqEnd {
    PFQ_SEQ_OVER, /* `next` said so, or there is no room for another token */
    PFQ_SEQ_GONE, /* `gone` said so */
    PFQ_SEQ_FAILED
} PfqSeqEnd;

/* What a sequence asks its owner. */
typedef struct PfqSeqCalls {
    bool (*gone)(PfqSeq *s);  /* does nobody want the rest? Asked before each step */
    void (*begin)(PfqSeq *s); /* it has a slot; may add another sequence */
    /* Logits [n, vocab] of prompt tokens first .. first+n-1, of all in order; only with `all_rows`.
     * The last token's come to `next` too. */
    void (*rows)(PfqSeq *s, int32_t first, int32_t n, const float *logits);
    /* What a GPU may draw its next token by; NULL: `look` wants the logits. Asked before each step
     * of decoding. */
    PfqSampler *(*sampler)(PfqSeq *s);
    /* The logits of its last token, unless a GPU drew: returns the next one, or -1 if none of them
     * was finite. Runs on thread tid of the engine (below slots), while others look at theirs. */
    int32_t (*look)(PfqSeq *s, const float *logits, int tid);
    /* The token that was drawn; returns it, or -1, which ends the sequence. `more`: there is room
     * for it in the context. */
    int32_t (*next)(PfqSeq *s, int32_t drawn, bool more);
    void (*done)(PfqSeq *s, PfqSeqEnd end, const char *why); /* the last call */
} PfqSeqCalls;

struct PfqSeq {
    const PfqSeqCalls *calls;
    const int32_t *ids; /* the prompt: [n], 1 <= n <= ctx */
    int32_t n;
    bool all_rows;  /* wants logits of every token of the prompt, of which nothing is shared then */
    int32_t cached; /* set before `begin`: tokens of the prompt that were there */
    /* the batch's */
    PfqSeq *next_in_line;
    int32_t slot, pos, token; /* token: to compute next, once pos >= n */
};

typedef struct PfqSlot {
    PfqSeq *seq;     /* NULL: free */
    int32_t *tokens; /* [ctx] what the slot holds ... */
    int32_t n;       /* ... and how many */
    int32_t shared;  /* of them, those that other sequences may begin with */
    int64_t used;    /* step in which it was last used */
} PfqSlot;

typedef struct PfqBatch {
    PfqEngine *engine;
    bool deterministic;
    PfqSlot *slot; /* [engine->slots] */
    int32_t *ids;  /* [slots] of a decode step, as the next two */
    PfqRow *rows;
    PfqDraw *draw;
    PfqSeq *first, **last; /* in line */
    int32_t waiting, running;
    int64_t step;
    PfqKept kept;
    int32_t *at; /* [ctx / PFQ_PAGE] pages of a prompt, and of what a slot loses */
    /* so far: */
    int64_t decoded;         /* decode steps */
    int64_t hits, from_kept; /* sequences that began with pages, tokens that these held */
} PfqBatch;

/* `pages`: of kept prompts, for which the engine has spare slots (pfq_batch_spare).
 * deterministic: the engine is exact. */
bool pfq_batch_open(PfqBatch *b, PfqEngine *engine, bool deterministic, int32_t pages, PfqErr *err);

/* Spare slots that so many pages need, each of ctx tokens. */
int32_t pfq_batch_spare(int32_t ctx, int32_t pages);

void pfq_batch_close(PfqBatch *b); /* no sequence may be left; also of a zeroed batch */

void pfq_batch_add(PfqBatch *b, PfqSeq *s); /* at the end of the line */

/* One step; nothing if there is no sequence. After an error every sequence has ended as FAILED. */
bool pfq_batch_step(PfqBatch *b, PfqErr *err);

/* Ends all sequences. */
void pfq_batch_stop(PfqBatch *b, PfqSeqEnd end, const char *why);

#endif
