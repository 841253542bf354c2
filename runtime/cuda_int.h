/* A model on one GPU, as cuda.c (buffers, launches) and cuda_time.c (measurements) share it.
 * Internal to those two. */
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
    bool plain;     /* PfqGpuConfig */
    bool sync;      /* wait after every kernel */
    bool broken;    /* a run has failed: */
    PfqErr fault;   /* with this sentence */
};

/* Calls the driver; false and a sentence on failure. `what` says what for. */
#define CALL(g, symbol, what, ...)                                                                 \
    pfq_cuda_check(&(g)->driver, (g)->driver.symbol(__VA_ARGS__), #symbol, what, err)

/* Launches call i of a phase (PfqCudaPhaseId), for n rows. */
bool pfq_gpu_launch(PfqGpu *g, int phase, int32_t i, int32_t n, PfqErr *err);
/* Is the call made for n rows? */
bool pfq_gpu_wanted(const PfqCudaCall *c, int32_t n);

#endif
