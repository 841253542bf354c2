/* A model on one GPU, as cuda.c (buffers, launches), cuda_time.c (measurements)
 and cuda_generate.c (tokens chosen there) share it.
 * Internal to those. */
#ifndef PFQC_RUNTIME_CUDA_INT_H
#define PFQC_RUNTIME_CUDA_INT_H

#include "runtime/cuda.h"

/* What is allocated on the GPU. Staged: sections of the image that a kernel packs; freed when all
 * are loaded. */
enum {
    BUF_ACT,
    BUF_KV,
    BUF_OWN,
    BUF_IO,
    BUF_ORDER,
    BUF_LOGITS,
    BUF_WORK,
    BUF_SYNC,
    BUF_SAMPLER, /* PfqCudaSampler [slots], then logits that the host must choose from */
    BUF_WEIGHTS,
    BUF_STAGED,
    N_BUFFERS
};
typedef struct Buffer {
    uint64_t block, at, bytes; /* block: what the driver gave, 0 until then; at: where it begins */
} Buffer;

typedef struct Phase {
    const PfqCudaPhase *table;
    PfqCudaArgs *args; /* [table->n]; T is set at each run */
    uint64_t rows_at;  /* in the io buffer, behind this phase's tokens */
} Phase;

typedef struct Recorded { /* a phase's launches for n rows, ready to go */
    void *graph;          /* NULL: launched one by one */
    int32_t n;            /* 0: not yet tried */
    int32_t last;         /* rows of the phase's last run: what comes twice is recorded */
} Recorded;

typedef struct Events {
    void **at; /* [n] */
    int32_t n;
} Events;

typedef struct Generation {
    PfqCudaToken *ring;      /* the host's memory, which the GPU writes: PFQ_CUDA_RING entries, and
                                an entry for each row of a batch; */
    uint64_t ring_at;        /* its address there */
    PfqCudaSampler *sampler; /* [the most rows of a batch] what was uploaded */
    uint32_t next, asked;    /* number of the token waited for; of the first not asked for */
    PfqRow at;               /* where the next token's step would be */
    int64_t steps;           /* that may still be asked for */
} Generation;

struct PfqGpu {
    PfqCudaDriver driver;
    const PfqModel *model;
    const PfqCudaCode *code;
    int32_t device, sms, ctx, slots;
    void *context, *stream;
    Buffer buf[N_BUFFERS];
    void **module, **function; /* [n_kernels]; NULL until loaded */
    uint64_t *sync_at;         /* [n_kernels] in BUF_SYNC */
    Phase phase[PFQ_CUDA_N_PHASES];
    Recorded recorded[PFQ_CUDA_N_PHASES];
    char *io;       /* the host's copy of BUF_IO: of a phase its tokens, then its PfqRows */
    int32_t *order; /* [max_rows] 0, 1, 2 ... */
    void *pinned;   /* the host's logits, or NULL */
    uint64_t pinned_bytes;
    Generation gen;
    struct PfqTrace *trace; /* NULL: none */
    Events events;          /* with a trace, for the longest phase; */
    PfqGpuTime *times;      /* its calls; */
    double began;           /* pfq_now of the first */
    bool plain, alone;      /* PfqGpuConfig */
    int32_t rows;           /* likewise */
    bool sync;              /* wait after every kernel */
    bool broken;            /* a run has failed: */
    PfqErr fault;           /* with this sentence */
};

/* Calls the driver; false and a sentence on failure. `what` says what for. */
#define CALL(g, symbol, what, ...)                                                                 \
    pfq_cuda_check(&(g)->driver, (g)->driver.symbol(__VA_ARGS__), #symbol, what, err)

/* Releases what pfq_gpu_open_ring got; allocates the ring that tokens are told in. */
void pfq_gpu_close_ring(PfqGpu *g);
bool pfq_gpu_open_ring(PfqGpu *g, PfqErr *err);
/* Enqueues the phase's launches for n rows; for PFQ_CUDA_SAMPLE, a step of decoding in front of
 * them. */
bool pfq_gpu_enqueue(PfqGpu *g, int phase, int32_t n, PfqErr *err);
/* Draws from the logits of a batch whose launches are on their way, and waits for it. */
bool pfq_gpu_draw(PfqGpu *g, PfqDraw *draw, int32_t n, float *logits, PfqErr *err);
/* Room for samplers, behind which kept logits lie. */
uint64_t pfq_gpu_kept_at(const PfqGpu *g);
/* The phase's launches alone. */
bool pfq_gpu_launch_all(PfqGpu *g, int phase, int32_t n, PfqErr *err);
/* After a failure nothing is run, and every call says what it was. */
bool pfq_gpu_keep_fault(PfqGpu *g, bool ok, PfqErr *err);
/* Launches call i of a phase (PfqCudaPhaseId), for n rows. */
bool pfq_gpu_launch(PfqGpu *g, int phase, int32_t i, int32_t n, PfqErr *err);
/* With a trace, what pfq_gpu_enqueue does; what the trace gets, once it is done; the end. */
bool pfq_gpu_launch_traced(PfqGpu *g, int phase, int32_t n, PfqErr *err);
bool pfq_gpu_tell_trace(PfqGpu *g, int phase, int32_t n, int32_t pos, PfqErr *err);
void pfq_gpu_drop_events(PfqGpu *g, Events *e);
/* Is the phase's call made for n rows? */
bool pfq_gpu_wanted(const PfqGpu *g, PfqCudaPhaseId phase, const PfqCudaCall *c, int32_t n);

#endif
