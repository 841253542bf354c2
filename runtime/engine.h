/* The engine: one model, its KV cache of one or more slots. Maps the weights, owns every buffer,
 * and drives the generated phases, on this machine's cores or on a GPU (backend.h).
 *
 * Everything is allocated by pfq_engine_open; after it nothing allocates. A slot holds one
 * sequence; calls append to that of the slot in work, which is slot 0 until pfq_engine_seek names
 * another. Positions do not count the model's prefix (kernels know of it, the engine does not).
 * Logits stay valid until the next call. Threading: one caller, on a GPU always the thread that
 * opened it; the work is spread over the pool inside. Errors: false (or NULL) and a sentence; after
 * an error of the GPU every further call repeats it. Not here: text, sampling, which sequence has
 * which slot (batch.h).
 */
#ifndef PFQC_RUNTIME_ENGINE_H
#define PFQC_RUNTIME_ENGINE_H

#include "runtime/abi.h"
#include "runtime/cuda.h"
#include "runtime/image.h"
#include "runtime/pace.h"
#include "runtime/pool.h"

typedef struct PfqEngineConfig {
    int threads;        /* 0: pfq_engine_threads */
    int32_t ctx;        /* capacity in tokens, 1..model context */
    const char *device; /* "cpu", "cuda", or NULL: a GPU if there is one that the model has code
                           for (and no `cpu` is named), else the CPU */
    const char *cpu;    /* variant to force, or NULL */
    int cuda_device;    /* the GPU, as the driver counts */
    const char *cuda_driver; /* file of the CUDA driver's library, or NULL */
    const char *cuda_code;   /* target whose code is used, or NULL: the best */
    bool cuda_sync;          /* wait after every kernel, so that an error names it */
    bool cuda_graph;         /* decode by a graph of kernels, though a step is one kernel */
    bool exact;              /* PfqEngine.exact is asked for; on a GPU it costs some speed */
    int32_t slots; /* sequences that the KV cache has room for, pfq_model_slots at most; 0: one */
    int32_t spare; /* slots of the cache behind those, which pfq_engine_copy alone reaches */
    const char *weights; /* weights file, or NULL to look beside and inside the binary */
    bool sparse; /* ctx is a guess, most of it may stay unused: no huge pages for the KV cache
                    (their zeroing would cost 0.1 s at start for a model of 135M) */
    bool copy; /* read the weights from a copy in anonymous huge pages, not from the mapped file */
} PfqEngineConfig;

typedef struct PfqBackend PfqBackend; /* backend.h */

typedef struct PfqEngine {
    const PfqModel *model;
    const PfqBackend *backend;
    const char *code; /* "avx512vnni", "sm_90a": which of the model's code runs */
    const char *chip; /* the GPU's name; NULL on the CPU */
    PfqPool *pool;
    PfqImage image;
    float *logits; /* [model->rows, vocab] f32 */
    int32_t *rows; /* [model->rows] row numbers for the logits phase */
    /* on the CPU */
    const PfqVariant *variant;
    PfqExec exec;  /* what all threads share; tid and scratch are set per thread */
    char *kv;      /* slot 0 */
    char *scratch; /* [threads] of scratch_stride bytes */
    size_t scratch_stride;
    PfqPace pace;           /* how decoding uses the threads */
    PfqPace batch_pace;     /* the same of batches, by row */
    struct PfqTrace *trace; /* NULL, or records the kernels' times; not the engine's */
    /* on a GPU */
    PfqGpuChoice gpu_choice;
    PfqGpu *gpu;

    bool exact;   /* a row of prefill, and one of a batch, has the same bits whatever rows are
                     computed   with it, but for a prefill of one token alone */
    int32_t turn; /* tokens of a prompt that are worth computing between two tokens of others */
    int threads;
    int32_t ctx, slots, spare;
    int32_t slot, pos; /* what the next call appends to */
    struct {
        void *base;
        size_t bytes;
    } map[5]; /* act, kv, scratch, logits + rows, copy of the weights: what close unmaps */
} PfqEngine;

typedef enum PfqWant { PFQ_WANT_NONE, PFQ_WANT_LAST, PFQ_WANT_ALL } PfqWant;

/* Gets logits [n, vocab] of tokens first .. first+n-1 of one prefill call, in order, model->rows at
 * most at a time. */
typedef void PfqRowsFn(void *user, int32_t first, int32_t n, const float *logits);

/* Threads to use unless told: one per usable core, but no more than the model keeps busy (a barrier
 * between a few microseconds of work each costs more than it saves, and far more on a busy
 * machine). */
int pfq_engine_threads(const PfqModel *m);

/* Tokens at the front of a prompt that the model's prefix already is: 1 where the prefix is one
 * token and the prompt begins with it (and goes on), else 0. That token would see nothing but its
 * own copy, so its hidden state would be the prefix's: a second attention sink. */
int32_t pfq_prompt_skip(const PfqModel *m, const int32_t *tokens, int32_t n);

bool pfq_engine_open(PfqEngine *e, const PfqModel *m, const PfqEngineConfig *c, PfqErr *err);
void pfq_engine_close(PfqEngine *e); /* also after a failed open, or of a zeroed engine */

void pfq_engine_rewind(PfqEngine *e,
                       int32_t pos); /* forgets positions >= pos; 0 <= pos <= e->pos */

/* Appends n >= 1 tokens. `fn` is called as `want` says and may be NULL with PFQ_WANT_NONE;
 * e->logits holds the last row after PFQ_WANT_LAST. Fails if an id is out of range or the context
 * would overflow. */
bool pfq_engine_prefill(PfqEngine *e, const int32_t *tokens, int32_t n, PfqWant want, PfqRowsFn *fn,
                        void *user, PfqErr *err);

/* Appends one token and returns its logits [vocab]; NULL on the same failures. */
const float *pfq_engine_decode(PfqEngine *e, int32_t token, PfqErr *err);

/* The next call appends to what the slot holds before pos. The caller knows what that is. */
void pfq_engine_seek(PfqEngine *e, int32_t slot, int32_t pos);

/* What n positions of the cache hold, from `from` on, to those from `to` on; in two slots, of which
 * either may be a spare one. A slot has ctx positions, up to a multiple of 64. */
bool pfq_engine_copy(PfqEngine *e, PfqRow from, PfqRow to, int32_t n, PfqErr *err);

/* One token of each of n sequences, in distinct slots: tokens[i] goes to rows[i], n at most
 * e->slots. draw [n]: a GPU draws the next tokens of rows that let it; NULL: of none. Logits
 * [n, vocab] of rows that are not drawn are in e->logits. Where e->exact, a row's bits are those
 * that it has in a batch of its own; pfq_engine_decode may round otherwise. Which slot is in work
 * is undefined after it. */
bool pfq_engine_batch(PfqEngine *e, const int32_t *tokens, const PfqRow *rows, int32_t n,
                      PfqDraw *draw, PfqErr *err);

/* Runs a job of n parts, which need no barrier: on all threads, or on the caller's alone where
 * there is one part, or where batches are faster so (pace.h). */
void pfq_engine_job(PfqEngine *e, int32_t n, PfqJob *job, void *arg);

#endif
