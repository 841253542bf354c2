/* A model on one GPU: the tables of PfqCudaCode (abi.h) carried out through the CUDA driver API.
 *
 * pfq_gpu_choose finds driver, GPU and code and touches no memory of the GPU; pfq_gpu_open then
 * allocates and loads everything, so that a call later allocates nothing; pfq_gpu_run enqueues a
 * phase and waits for it once. Decoding replays a recorded graph of its launches, where the driver
 * can record one.
 *
 * Ownership: the GPU's buffers, modules, stream and context belong to PfqGpu. The driver's library
 * stays loaded until the program ends, because its threads may outlive its handles.
 * Threading: one caller, always the same thread (the context is current in it). Errors: false (or
 * NULL) and a sentence that names the call, what it was for and CUDA's error; after one in
 * pfq_gpu_run the GPU's state is not known, and every further run repeats it.
 * Not here: chunks and positions (engine.c), kernels (codegen/cuda).
 */
#ifndef PFQC_RUNTIME_CUDA_H
#define PFQC_RUNTIME_CUDA_H

#include "runtime/abi.h"
#include "runtime/image.h"
#include "runtime/sample.h"

/* CUlaunchConfig and CUlaunchAttribute of the driver API. */
typedef struct PfqCudaAttribute {
    int32_t id;
    char pad[4];
    union {
        char bytes[64];
        int32_t on; /* PFQ_LAUNCH_COOPERATIVE, _OVERLAP */
        struct {
            uint32_t x, y, z;
        } cluster;
    } value;
} PfqCudaAttribute;

enum { PFQ_LAUNCH_COOPERATIVE = 2, PFQ_LAUNCH_CLUSTER = 4, PFQ_LAUNCH_OVERLAP = 6 };

typedef struct PfqCudaLaunch {
    uint32_t grid[3], block[3], shared;
    void *stream;
    const PfqCudaAttribute *attribute;
    uint32_t n_attributes;
} PfqCudaLaunch;

/* CUDA_MEMCPY2D, of device memory. */
typedef struct PfqCudaPlane {
    size_t x, y;
    int32_t kind; /* PFQ_CUDA_DEVICE */
    void *host;
    uint64_t device;
    void *array;
    size_t pitch;
} PfqCudaPlane;

typedef struct PfqCudaCopy2D {
    PfqCudaPlane from, to;
    size_t width, height; /* bytes, rows */
} PfqCudaCopy2D;

enum { PFQ_CUDA_DEVICE = 2 };

/* The driver's functions: runtime/cuda.def. */
typedef struct PfqCudaDriver {
#define CUDA_CALL(symbol, params) int(*symbol) params;
#include "runtime/cuda.def"
} PfqCudaDriver;

enum {
    PFQ_CUDA_OK = 0,
    PFQ_CUDA_OUT_OF_MEMORY = 2,
    PFQ_CUDA_NO_DEVICE = 100,
    PFQ_CUDA_NOT_READY = 600
};

/* Loads `file` (NULL: libcuda.so.1) and looks every function up. */
bool pfq_cuda_driver(PfqCudaDriver *d, const char *file, PfqErr *err);

/* True if `result` is success; else the sentence "CALL (WHAT) failed: NAME, text". */
bool pfq_cuda_check(const PfqCudaDriver *d, int result, const char *call, const char *what,
                    PfqErr *err);

typedef struct PfqGpuChoice {
    PfqCudaDriver driver;
    int32_t device, major, minor; /* the driver's handle of the GPU; its compute capability */
    int32_t sms;                  /* its multiprocessors */
    char name[128];               /* "NVIDIA H100 80GB HBM3" */
    uint64_t bytes;               /* of its memory */
    double ops_rate; /* of its tensor cores, 8-bit integer operations per second; 0: not known */
    const PfqCudaCode *code; /* the best for it */
} PfqGpuChoice;

typedef struct PfqGpuWish {
    const char *driver; /* file of its library; NULL: libcuda.so.1 */
    int device;         /* as the driver counts them */
    const char *code;   /* target whose code is wanted; NULL: the best that runs there */
} PfqGpuWish;

/* Finds the driver, the GPU and the model's code for it. */
bool pfq_gpu_choose(PfqGpuChoice *out, const PfqModel *m, const PfqGpuWish *wish, PfqErr *err);

/* The targets of the model's code, for messages: "sm_90a, compute_80". */
void pfq_gpu_targets(const PfqModel *m, char *out, size_t cap);

typedef struct PfqGpu PfqGpu;

typedef struct PfqGpuConfig {
    const void *weights;   /* the image's data, read only while opening */
    float *logits;         /* [rows of a call, vocab] the host's, or NULL */
    uint64_t pinned_bytes; /* of them, pinned until it is closed: whole pages */
    int32_t ctx;           /* capacity of a slot of the KV cache, a multiple of 64 */
    int32_t slots;         /* of the cache */
    int32_t rows;          /* the most of a batch */
    bool sync;  /* wait after every kernel, so that an error names it; nothing is recorded */
    bool plain; /* decode by kernels of single steps, though there is a whole step as one */
    bool alone; /* rows of a batch have the bits that each has alone, which may cost some speed */
} PfqGpuConfig;

PfqGpu *pfq_gpu_open(const PfqGpuChoice *choice, const PfqModel *m, const PfqGpuConfig *c,
                     PfqErr *err);
void pfq_gpu_close(PfqGpu *g); /* NULL is allowed */

/* Runs a phase on n tokens (or row numbers) of one sequence, the first of them at `at`; `logits`
 * gets the rows that the phase makes, f32 [rows, vocab]. */
bool pfq_gpu_run(PfqGpu *g, PfqPhaseId phase, const int32_t *tokens, int32_t n, PfqRow at,
                 float *logits, PfqErr *err);
/* Decodes one token of each of n sequences, and draws the next (NULL: nothing is drawn). logits[i]
 * is room for row i's logits, and gets those that are not drawn from. */
bool pfq_gpu_batch(PfqGpu *g, const int32_t *tokens, const PfqRow *rows, int32_t n, PfqDraw *draw,
                   float *logits, PfqErr *err);

/* n positions of a slot of the cache become those of another. */
bool pfq_gpu_copy(PfqGpu *g, PfqRow from, PfqRow to, int32_t n, PfqErr *err);

/* ---- generation: tokens are chosen on the GPU, by runtime/sample.h's rule, and each is the next
 * step's input, so that steps follow each other without the host. It reads what was chosen as it
 * comes, and a few steps are always on their way: those behind the last token asked for are of no
 * use, and leave nothing but rows of the cache behind it. ---- */

/* Whether it can, with these options; else *why is a phrase. Some draws the host makes even so
 * (PFQ_HOST_CHOOSES), which costs a wait. */
bool pfq_gpu_samples(const PfqGpu *g, const PfqSampler *s, const char **why);
/* The next token follows from the logits of the last run, whose step will be at `at`; steps may be
 * at `steps` positions from there on. s is read here and by pfq_gpu_generate_next, and its
 * random state kept in step with the tokens that were handed out. */
bool pfq_gpu_generate(PfqGpu *g, const PfqSampler *s, PfqRow at, int64_t steps, PfqErr *err);
/* Hands out the next, or -1 as pfq_sample; at most one more than there are steps. logits: room for
 * a row. */
bool pfq_gpu_generate_next(PfqGpu *g, PfqSampler *s, int32_t *token, float *logits, PfqErr *err);

/* From now on phases are launched call by call, between events that the trace gets; tokens are
 * not chosen on the GPU. */
struct PfqTrace;
bool pfq_gpu_trace(PfqGpu *g, struct PfqTrace *t, PfqErr *err);

/* ---- for bench: the same without waiting and without logits, and what single calls take ---- */

PfqCudaPhaseId pfq_gpu_decode_phase(const PfqGpu *g); /* what decoding one token is */
/* What decoding one of each of n sequences is. `alone`: the same whatever n is. */
PfqCudaPhaseId pfq_gpu_batch_phase(const PfqGpu *g, int32_t n);
bool pfq_gpu_start(PfqGpu *g, PfqCudaPhaseId phase, const int32_t *tokens, const PfqRow *rows,
                   int32_t n, PfqErr *err);
bool pfq_gpu_wait(PfqGpu *g, PfqErr *err);

/* Bytes per second, read plus written, that the GPU copies in its own memory. 0 if it has no room
 * for two buffers beside the model. */
bool pfq_gpu_copy_rate(PfqGpu *g, double *rate, PfqErr *err);

typedef struct PfqGpuWork { /* of a phase or a call */
    double ops, bytes;
} PfqGpuWork;

/* Of one call. */
PfqGpuWork pfq_gpu_call_work(const PfqCudaCall *c, int32_t n, double keys, bool each);
/* At least, for n rows that have `keys` keys each: of one sequence after the other, or (each) of
 * one sequence per row. */
PfqGpuWork pfq_gpu_work(const PfqGpu *g, PfqCudaPhaseId phase, int32_t n, double keys, bool each);

typedef struct PfqGpuTime {
    const char *kernel; /* PfqCudaKernel.name */
    int32_t call;       /* in its phase's table */
    double start, us;   /* from the first call on */
    PfqGpuWork work;
} PfqGpuTime;

/* The calls of a phase for n rows, one by one, between two events each: *out [pfq_gpu_calls] gets
 * the *n_out that are made. What pfq_gpu_start uploaded last for this phase is what they read. An
 * event costs about a microsecond, which is part of each time. */
int32_t pfq_gpu_calls(const PfqGpu *g, PfqCudaPhaseId phase);
bool pfq_gpu_times(PfqGpu *g, PfqCudaPhaseId phase, int32_t n, double keys, bool each,
                   PfqGpuTime *out, int32_t *n_out, PfqErr *err);

#endif
