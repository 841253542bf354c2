/* What runs the phases for the engine: this machine's cores, or a GPU. One table each, private to
 * the engine.
 *
 * The engine opens the weight image, the host's buffer of logits and the pool before `open`, and
 * releases them after `close`. A new kind of device is a table in engine.c's list and a name in
 * options.def.
 */
#ifndef PFQC_RUNTIME_BACKEND_H
#define PFQC_RUNTIME_BACKEND_H

#include "runtime/engine.h"

struct PfqBackend {
    const char *name;  /* "cpu": --device */
    const char *title; /* "CPU": in tables */
    /* Can the model run there? Sets e->code and what open needs; no memory is taken. */
    bool (*choose)(PfqEngine *e, const PfqEngineConfig *c, PfqErr *err);
    bool (*open)(PfqEngine *e, const PfqEngineConfig *c, PfqErr *err);
    void (*close)(PfqEngine *e); /* also after a failed choose or open, and twice */
    /* Runs a phase at e->pos of e->slot on n tokens or row numbers; rows of logits go to
     * e->logits. */
    bool (*run)(PfqEngine *e, PfqPhaseId phase, const int32_t *tokens, int32_t n, PfqErr *err);
    bool (*batch)(PfqEngine *e, const int32_t *tokens, const PfqRow *rows, int32_t n, PfqDraw *draw,
                  PfqErr *err);
    bool (*copy)(PfqEngine *e, PfqRow from, PfqRow to, int32_t n, PfqErr *err);
    int32_t turn; /* PfqEngine.turn */
    bool exact;   /* PfqEngine.exact, whether asked for or not */
};

extern const PfqBackend pfq_backend_cpu, pfq_backend_cuda;

/* Zeroed pages, aligned to huge pages, which are asked for if `huge`; nothing is touched here.
 * NULL and a sentence about `what`. pfq_engine_close unmaps them. */
enum { PFQ_MAP_ACT, PFQ_MAP_KV, PFQ_MAP_SCRATCH, PFQ_MAP_LOGITS, PFQ_MAP_WEIGHTS };
#define PFQ_HUGE_PAGE ((size_t)2 << 20)
void *pfq_map_buffer(PfqEngine *e, int which, uint64_t bytes, bool huge, const char *what,
                     PfqErr *err);

/* Tokens that the KV cache has room for: offsets in it are so many bytes a token, and must be
 * aligned whatever those bytes are. */
int32_t pfq_padded_ctx(const PfqEngine *e);

#endif
