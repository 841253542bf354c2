/* The contract between generated code and the runtime that ships with it.
 *
 * pfqc emits one C file per model (out/src/model.c) that defines `pfq_model`, plus one object of
 * kernels specialised to the model's shapes. Both are linked with the runtime archive (everything
 * in runtime/). codegen/ may include this header; the runtime includes nothing above it.
 *
 * Ownership: everything reachable from pfq_model is const and lives as long as the program. The
 * runtime allocates the buffers named here once, at load; after that no allocation happens on the
 * token path. Threading: every thread of the pool runs the same phase function (SPMD). A kernel
 * divides its work by (tid, nt) alone; the phase calls pfq_barrier between steps that depend on
 * each other. Not here: how kernels work inside (codegen/cpu), the weight file's container
 * (runtime/image.h).
 */
#ifndef PFQC_RUNTIME_ABI_H
#define PFQC_RUNTIME_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PFQ_ABI_VERSION 8

/* Where a row of activations belongs: its position in its sequence (the prefix not counted, so also
 * its row in the KV cache) and the slot of the cache that the sequence has. */
typedef struct PfqRow {
    int32_t pos, slot;
} PfqRow;

/* What one kernel call reads and writes. Which slots a kernel uses, and their shapes, is in the
 * contract comment of its template. Unused slots are NULL. */
typedef struct PfqArgs {
    const void *in[8]; /* activations, KV cache */
    void *out[8];      /* activations, KV cache rows, logits */
    const void *w;     /* packed weights of this step (layout named in the template) */
    const void
        *aux[8];   /* small constants: norm gain, bias, scales, prefix, RoPE inverse frequencies */
    void *scratch; /* private to this thread; PfqModel.scratch_bytes, 64-byte aligned */
    const PfqRow *rows; /* [T], each a sequence of its own; NULL: consecutive rows of one, whose
                           slot the cache operands already are */
    uint64_t slot;      /* bytes from one slot of the KV cache to the next */
    int32_t T;          /* rows (tokens) in this call, >= 1 */
    int32_t pos;        /* without rows: position of row 0; row t has position pos + t */
    int32_t ctx;        /* capacity of a slot of the KV cache in tokens (the runtime's -c, or a
                           little more): a multiple of 64 */
} PfqArgs;

typedef void PfqKernel(const PfqArgs *a, int tid, int nt);

typedef struct PfqBarrier PfqBarrier; /* runtime/pool.c */

/* State of one phase call; every thread has its own copy, differing only in tid and scratch. */
typedef struct PfqExec {
    char *act; /* activation arena, PfqModel.act_bytes */
    char
        *kv; /* a slot of the KV cache: PfqModel.kv_row_bytes * ctx bytes; offsets scale with ctx */
    const char *
        weights; /* the mapped image's data (runtime/image.h): offsets count from its data_offset */
    const int32_t *tokens; /* [T] token ids (prefill, decode); [T] row numbers (logits) */
    float *logits;         /* [rows, vocab] f32 (decode: one row) */
    const PfqRow *rows;    /* PfqArgs.rows; kv is slot 0 then */
    uint64_t slot;
    void *scratch;
    PfqKernel *const *kernel; /* kernel table of the variant chosen at start-up */
    PfqBarrier *barrier;
    int32_t T, pos, ctx;
    int tid, nt;
} PfqExec;

typedef void PfqPhase(const PfqExec *x);

typedef enum PfqPhaseId { PFQ_PREFILL, PFQ_LOGITS, PFQ_DECODE, PFQ_N_PHASES } PfqPhaseId;

void pfq_barrier(PfqBarrier *b); /* all nt threads; spins, then sleeps */

/* CPU features a variant needs; bits of pfq_cpu_features() (runtime/cpu.c). */
enum {
    PFQ_CPU_AVX2 = 1u << 0,       /* x86-64-v3: avx2 fma f16c bmi1 bmi2 lzcnt movbe */
    PFQ_CPU_AVX512 = 1u << 1,     /* x86-64-v4: avx512 f bw dq vl cd */
    PFQ_CPU_AVX512VNNI = 1u << 2, /* avx512_vnni */
    PFQ_CPU_AVX512VBMI = 1u << 3,
    PFQ_CPU_AMX_INT8 = 1u << 4, /* with the kernel's permission (arch_prctl) */
};

typedef struct PfqVariant {
    const char *name;         /* "avx512vnni" */
    uint32_t features;        /* all must be present */
    PfqKernel *const *kernel; /* [n_kernels], same order in every variant */
} PfqVariant;

/* ---- CUDA: the calls as tables, one set per kind of chip, which runtime/cuda.c walks ---- */

/* What a CUDA kernel gets, by value: the slots of PfqArgs as device addresses (0: unused).
 * codegen/cuda/kernel.cuh states it again for the device. */
typedef struct PfqCudaArgs {
    uint64_t in[8], out[8];
    uint64_t w;
    uint64_t aux[8];
    uint64_t rows;  /* address of PfqRow [T]. In memory, so that a recorded graph of launches serves
                       every position. In prefill all rows are of one slot, at consecutive
                       positions; in decode and batch each is a sequence of its own */
    uint64_t slot;  /* bytes from one slot of the KV cache to the next */
    uint64_t work;  /* address of PfqCudaKernel.work bytes, which hold anything */
    uint64_t sync;  /* address of PfqCudaKernel.sync bytes of this kernel alone, 0 before its first
                       launch */
    int32_t T, ctx; /* as in PfqArgs */
    int32_t alone;  /* a row's result shall have the same bits whatever the other rows are */
} PfqCudaArgs;

/* Where an operand lies; off counts bytes from the start of the place. */
typedef enum PfqPlace {
    PFQ_AT_NONE,
    PFQ_AT_ACT, /* activation arena, PfqCudaCode.act_bytes */
    PFQ_AT_KV,  /* KV cache, slot 0; off is multiplied by ctx */
    PFQ_AT_OWN, /* what CPU threads keep for themselves: here one buffer, PfqCudaCode.own_bytes */
    PFQ_AT_TOKENS,  /* int32 [T] */
    PFQ_AT_LOGITS,  /* f32 [rows, vocab] */
    PFQ_AT_WEIGHT,  /* the weights as this code wants them, PfqCudaCode.weight_bytes */
    PFQ_AT_ORDER,   /* int32 0, 1, 2 ... */
    PFQ_AT_STAGED,  /* in PfqCudaLoad: the section's bytes as the image has them */
    PFQ_AT_VALUE,   /* nowhere: off is passed itself */
    PFQ_AT_SAMPLER, /* PfqCudaSampler */
} PfqPlace;

typedef struct PfqCudaRef {
    uint64_t place : 8, off : 56; /* PfqPlace */
} PfqCudaRef;

/* What a call computes and moves at least, for `bench`. */
typedef struct PfqCudaCost {
    uint64_t ops;         /* of a row */
    uint64_t key_ops;     /* of a row and each key it attends to */
    uint64_t weights;     /* bytes of a call */
    uint64_t row_bytes;   /* of a row: activations, and what it adds to the cache */
    uint64_t cache_bytes; /* of a sequence and each of its keys */
} PfqCudaCost;

typedef struct PfqCudaCall {
    int32_t kernel;
    int32_t from, to;    /* only for calls of this many rows; 0: no bound */
    int32_t phase, step; /* of pfq_steps, what it computes; step 0: nothing that the IR has */
    PfqCudaRef in[8], out[8], w, aux[8];
    PfqCudaCost cost;
} PfqCudaCall;

enum {
    PFQ_CUDA_COOPERATIVE = 1, /* all blocks run at once */
    PFQ_CUDA_OVERLAP = 2, /* may start before the launch in front of it has ended; the kernel waits
                             for that itself (griddepcontrol.wait) */
};

/* A specialised kernel and its launch: `block` threads; blocks (grid_x, ceil(T / rows)), or with
 * per_sm != 0 a line of as many, but no more than per_sm for each of the GPU's multiprocessors.
 * rows 0: their number does not depend on T. */
typedef struct PfqCudaKernel {
    const char *name;  /* as in plan.json, for messages */
    const char *entry; /* symbol in its code */
    int32_t block, grid_x, rows;
    int32_t shared;        /* bytes of dynamic shared memory */
    int32_t per_sm, flags; /* PFQ_CUDA_* */
    int32_t cluster;       /* blocks of a cluster along x, which divides the grid; 0: none */
    uint64_t work, sync;   /* bytes of PfqCudaArgs.work and .sync */
    const void *image;     /* cubin, or PTX text ending in NUL */
    uint64_t bytes;
} PfqCudaKernel;

typedef struct PfqCudaPhase {
    const PfqCudaCall *call; /* [n], in order; each may read what those before it wrote */
    int32_t n;
} PfqCudaPhase;

/* A section of the image on its way onto the GPU: its bytes are copied to call.out[0], or, where
 * the call has a kernel, to a buffer that the call then reads. */
typedef struct PfqCudaLoad {
    uint64_t from, bytes; /* in the image's data; 0 bytes: the call makes the weights of nothing */
    PfqCudaCall call;     /* kernel -1: none */
} PfqCudaLoad;

typedef enum PfqCudaPhaseId {
    PFQ_CUDA_PREFILL, /* as PfqPhaseId */
    PFQ_CUDA_LOGITS,
    PFQ_CUDA_DECODE,
    PFQ_CUDA_STEP,   /* decode again, as fewer launches; n is 0 if there is none */
    PFQ_CUDA_BATCH,  /* one token of each of T sequences -> KV cache and logits [T, vocab] */
    PFQ_CUDA_STEPS,  /* batch again, as one launch of few rows: a call for each range of them */
    PFQ_CUDA_SAMPLE, /* logits [T, vocab] -> each row's token of the next step, and its position:
                        what PfqCudaSampler [T] say */
    PFQ_CUDA_N_PHASES
} PfqCudaPhaseId;

/* How a GPU chooses tokens: runtime/sample.h's rule, with the same random numbers. The host writes
 * it before the first; then each is made the input of the next step, and told in a ring that the
 * host reads meanwhile. */
typedef struct PfqCudaSampler {
    double scale;        /* pfq_sample_scale; 0: greedy */
    double top_p, min_p; /* as PfqSampler */
    double span;         /* with min_p: logits that far below the largest may be kept */
    uint64_t state;      /* of the random numbers */
    uint64_t ring;       /* address of PfqCudaToken [PFQ_CUDA_RING] in the host's memory */
    uint64_t kept;       /* address of f32 [vocab]: logits of which the host must choose */
    int32_t top_k, vocab;
    int32_t count;  /* number of the next token */
    int32_t halted; /* the last was none, or none is wanted: nothing is chosen, and steps repeat
                       themselves */
} PfqCudaSampler;

typedef struct PfqCudaToken { /* of number n in entry n % PFQ_CUDA_RING */
    uint64_t word;            /* its number << 32 | the token, PFQ_NOT_FINITE or PFQ_HOST_CHOOSES */
    uint64_t state;           /* of the random numbers behind it */
} PfqCudaToken;

enum { PFQ_CUDA_RING = 64, PFQ_NOT_FINITE = -1, PFQ_HOST_CHOOSES = -2 };

/* All there is for one kind of chip. */
typedef struct PfqCudaCode {
    const char *target;   /* "sm_90a" */
    int32_t major, minor; /* compute capability it was made for */
    bool exact; /* runs on that capability only ("a"); else on the same major, minor or higher */
    bool ptx;   /* PTX: the driver compiles it for chips of that capability or higher */
    int32_t n_kernels, n_loads;
    const PfqCudaKernel *kernel;
    const PfqCudaLoad *load; /* in order; n_loads 0: the image's data as they are */
    PfqCudaPhase phase[PFQ_CUDA_N_PHASES];
    uint64_t act_bytes, own_bytes, weight_bytes;
} PfqCudaCode;

typedef struct PfqCuda {
    int32_t n_codes;
    int32_t driver; /* CUDA version that the driver must support for this code: 1000 * major +
                       10 * minor (NVRTC's); 0: any */
    const PfqCudaCode *code; /* best first */
} PfqCuda;

/* A recorded expectation for `self-test`: greedy logits of the last of n_tokens, made by pfqc's
 * evaluator. */
typedef struct PfqExpect {
    int32_t n_tokens;
    const int32_t *tokens;
    int32_t n_top;
    const int32_t *top_ids; /* the n_top largest logits, descending */
    const float *top_logits;
    float tolerance; /* allowed absolute difference of a logit */
} PfqExpect;

/* A part of the KV cache: [heads][ctx] rows of `bytes`. */
typedef struct PfqKvState {
    uint64_t off; /* in a slot, times ctx */
    uint32_t heads, bytes;
} PfqKvState;

typedef struct PfqModel {
    uint32_t abi;                        /* PFQ_ABI_VERSION */
    const char *name, *recipe, *version; /* model name, recipe name, pfqc version */
    const char *arch;                    /* architecture description it came from, "" if none */
    int32_t vocab, context, layers, hidden, heads, kv_heads, head_dim,
        ffn;                           /* context: of the user */
    int32_t prefix;                    /* tokens in front of every sequence, inside the kernels */
    const int32_t *prefix_ids;         /* [prefix] */
    int32_t chunk;                     /* largest T of `prefill` */
    int32_t rows;                      /* largest T of `logits` */
    uint64_t act_bytes, scratch_bytes; /* scratch is per thread */
    uint64_t kv_row_bytes;             /* KV bytes per token of context, all layers */
    int32_t n_kv;                      /* parts of the KV cache, without gaps between them */
    const PfqKvState *kv;              /* [n_kv] */
    uint64_t weight_bytes;             /* of the image, and bytes read per decoded token */
    uint64_t weight_bytes_per_token;
    uint8_t image_id[16]; /* identifies the weight image this binary belongs to */
    PfqPhase *prefill;    /* tokens -> KV cache, final hidden states kept in act */
    PfqPhase *logits;     /* row numbers of the last prefill -> logits */
    PfqPhase *decode;     /* one token -> KV cache and logits */
    int32_t n_variants, n_kernels;
    const PfqVariant *variants;     /* best first; n_variants is 0 in a program for CUDA alone */
    const PfqCuda *cuda;            /* NULL: no CUDA target */
    const unsigned char *tokenizer; /* tables for runtime/tokenizer.h */
    uint64_t tokenizer_bytes;
    const PfqExpect *expect;   /* NULL if none was recorded */
    uint64_t params;           /* parameters of the checkpoint, 0 if unknown (bench prints it) */
    const unsigned char *chat; /* chat templates for runtime/template.h; NULL: none */
    uint64_t chat_bytes;
} PfqModel;

extern const PfqModel pfq_model;

/* The most sequences that are decoded together: their rows pass `prefill`, then `logits`. */
static inline int32_t pfq_model_slots(const PfqModel *m)
{
    return m->chunk < m->rows ? m->chunk : m->rows;
}

/* What the calls of a CPU phase compute, in order, for --trace; a GPU's calls name the step
 * themselves. */
typedef struct PfqStep {
    int32_t step, layer; /* as in model.c and plan.json; layer -1: none */
    const char *name;    /* "linear.f32.qkv" */
    const char *ops;     /* ids of its ops in the IR, separated by spaces */
} PfqStep;

typedef struct PfqSteps {
    const PfqStep *call; /* [n] */
    int32_t n;
} PfqSteps;

extern const PfqSteps pfq_steps[PFQ_N_PHASES] __attribute__((weak));

#endif
