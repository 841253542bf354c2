/* The plan: a module in steps, resolved to kernel calls with constants, places and weight sections.
 *
 * cg_plan reads the module and decides everything; the emitters (emit.c, report.c) and the weight
 * writer (weights.c) only print or evaluate what is here. All of it lives in one arena and does not
 * change once made, but for what is marked. Offsets and sizes are bytes.
 */
#ifndef PFQC_CODEGEN_PLAN_H
#define PFQC_CODEGEN_PLAN_H

#include "codegen/codegen_int.h"
#include "runtime/abi.h"
#include "runtime/image.h"

/* Constants of templates: codegen/cpu/kernels.def, which the plan sets, then those that only
 * templates for GPUs have. */
typedef enum CgConstId {
#define CONSTANT(name, type, def, doc) C_##name,
#include "codegen/cpu/kernels.def"
    CG_N_PLAN_CONSTS,
    CG_BEFORE_CUDA_CONSTS = CG_N_PLAN_CONSTS - 1,
#define CUDA_CONSTANT(name, type, def, doc) C_##name,
#include "codegen/cuda/kernels.def"
    CG_N_CONSTS
} CgConstId;

typedef struct CgConstInfo {
    const char *name; /* "c_K" */
    bool is_float;
    double def;
} CgConstInfo;
extern const CgConstInfo cg_const_info[CG_N_CONSTS];

/* Rows of codegen/cpu/kernels.def. */
typedef enum CgRowId {
#define KERNEL(id, name, template, entry, scratch, doc) ROW_##id,
#include "codegen/cpu/kernels.def"
    CG_N_ROWS
} CgRowId;

typedef struct CgRow {
    const char *name, *template, *entry; /* "linear.s8", "linear_s8.c", "pfq_linear_s8" */
    i64 (*scratch)(i64 K, i64 D);
} CgRow;
extern const CgRow cg_rows[CG_N_ROWS];

/* Rows of codegen/cuda/kernels.def: the same kernel for GPUs. */
typedef enum CgLayout {
    LAYOUT_IMAGE,
    LAYOUT_FRAG4,
    LAYOUT_FRAG8,
    LAYOUT_FRAG16
} CgLayout;                                                          /* of weights */
enum { IN_PREFILL = 1, IN_LOGITS = 2, IN_DECODE = 4, IN_BATCH = 8 }; /* phases */

typedef struct CgLaunch { /* kernels.def says what the fields are */
    i64 block, grid_x, rows, shared, per_sm, cluster, flags, work, sync;
    CgLayout w;
    bool tiles, half;
} CgLaunch;

typedef struct CgCudaRow {
    const char *name; /* of a row FAST; NULL: a plain one */
    CgRowId row;
    const char *chips; /* NULL: all */
    u32 phases;        /* IN_* */
    i32 from, to;      /* tokens */
    bool (*when)(const double *val);
    const char *template, *entry; /* NULL: there is none */
    CgLaunch (*launch)(const double *val);
} CgCudaRow;
extern const CgCudaRow cg_cuda_rows[CG_N_ROWS]; /* plain rows */
extern const CgCudaRow cg_cuda_fast[];          /* the others; ends with a NULL template */

/* Value of c_fmt, c_epi, c_kv, c_act by name; -1 if unknown. */
i64 cg_format(const char *name);
i64 cg_epilogue(const char *name);
i64 cg_kv_format(const char *name);
i64 cg_activation(const char *name);

typedef struct CgKernel { /* one specialisation, per variant one symbol */
    CgRowId row;
    u64 uses;                /* set of CgConstId that the templates declare */
    double val[CG_N_CONSTS]; /* 0 where not used */
    const char *name;        /* C identifier, unique: "linear_s8_qkv_960x576" */
    u32 calls;
} CgKernel;

typedef enum CgPlace {
    CG_NONE,
    CG_ACT,     /* activation arena + off */
    CG_KV,      /* KV cache + off * ctx; bytes is per token of capacity */
    CG_PRIVATE, /* behind the kernels' scratch of every thread + off */
    CG_TOKENS,
    CG_LOGITS,
    CG_WEIGHT,  /* section of the image; of a GPU's calls: the weights on it + off */
    CG_ORDER,   /* GPU: PFQ_AT_ORDER */
    CG_STAGED,  /* GPU: PFQ_AT_STAGED */
    CG_VALUE,   /* GPU: off itself */
    CG_SAMPLER, /* GPU: PFQ_AT_SAMPLER */
} CgPlace;

typedef struct CgRef {
    CgPlace place;
    u32 section;
    u64 off, bytes;
    ValueId value; /* of the module, which is there; 0: a weight, or the GPU's own */
} CgRef;

enum { CG_IN = 8, CG_OUT = 8, CG_AUX = 8 }; /* slots of PfqArgs */

typedef struct CgCall {
    u32 kernel, step;
    i32 layer;
    CgRef in[CG_IN], out[CG_OUT], aux[CG_AUX], w;
    const double *val; /* [CG_N_CONSTS] all constants of the step, also those not used */
    bool barrier;      /* before it */
    bool each;         /* every thread does all of it, into private memory */
    u64 flops;         /* per row; of attend: per row and key */
    u64 weight_bytes;  /* read by a call with one row */
} CgCall;

typedef struct CgPhase {
    const char *name; /* "prefill" */
    u32 fn;
    VEC(CgCall) calls;
    u32 barriers;
} CgPhase;

typedef enum CgSectionKind {
    CG_SEC_PACK,  /* packed tiles of a `pack` constant */
    CG_SEC_F32,   /* a constant as f32, row-major */
    CG_SEC_F16,   /* the same as f16 */
    CG_SEC_TILES2 /* a vector [2F] as f32 in the order of two interleaved blocks of 16-row tiles,
                     padded with 0 */
} CgSectionKind;

/* A weight that is RTN of a `synthetic` leaf, so that a GPU can make it (codegen/cuda/pack.cu). */
typedef struct CgGenerated {
    u64 seed, stream;
    double scale;       /* of the leaf */
    double top, factor; /* qparams: factor * max|w| / top */
    double times;       /* packed scales are multiplied by it */
    i64 lowest;         /* integers are clamped to -lowest */
} CgGenerated;

typedef struct CgSection {
    ValueId value;
    CgSectionKind kind;
    const char *name;
    u64 read_per_token;           /* by @decode */
    const CgGenerated *generated; /* the image has no bytes of it; NULL: it has */
} CgSection;

typedef struct CgKvState { /* PfqKvState */
    u64 off;
    u32 heads, bytes;
} CgKvState;

enum { CG_PREFILL, CG_LOGITS_PHASE, CG_DECODE, CG_N_PHASES };

typedef struct CgPlan {
    Module *m;
    Arena *a;
    CgPhase phase[CG_N_PHASES];
    VEC(CgKernel) kernels;
    VEC(CgSection) sections;
    VEC(CgKvState) kv;      /* in the order of their places */
    PfqImageSection *image; /* [sections.n]; sums are filled by cg_write_weights */
    u64 data_offset, data_bytes, total_bytes; /* of the image */
    u64 act_bytes, kv_row_bytes;
    bool generated; /* some sections are */
    i64 context;    /* of the user: without the prefix */
    u32 prefix;
    i32 *prefix_ids; /* [prefix] */
    u64 kernel_scratch,
        scratch_bytes; /* the kernels' own part, and with the private buffers behind it */
    u64 weight_bytes_per_token;
    u8 image_id[16];   /* filled by cg_write_weights */
    PfqExpect *expect; /* filled by cg_expect; NULL: nothing is recorded */
} CgPlan;

/* ---- kernels.c ---- */

/* The row that computes step kernel `name`, with what follows the row's name and a dot in *rest (""
 * if nothing). */
bool cg_row(const char *name, CgRowId *row, const char **rest);
/* Is the row of this family: "linear" has linear.s8 and so on. */
bool cg_row_is(CgRowId row, const char *family);
/* Set of the constants that a template of codegen/DIR and its headers declare. */
u64 cg_template_uses(const char *dir, const char *template);
/* Those of the row's templates for CPUs and for all GPUs, without the constants of GPUs alone: the
 * plan does not depend on the targets. */
u64 cg_row_uses(CgRowId row);

/* ---- bind.c ---- */
bool cg_plan(Diag *d, Arena *a, Module *m, CgPlan *out); /* E_KERNEL */
/* For programs of GPUs alone: takes out of the image what they can generate. */
bool cg_plan_generate(Diag *d, CgPlan *p);
/* Bytes of a section in the image's layout, also if the image has none. */
u64 cg_section_bytes(const CgPlan *p, u32 section);

/* ---- weights.c ---- */

/* Evaluates every section and writes the image at offset `at` of f; fills the plan's sums and
 * image_id. */
bool cg_write_weights(Diag *d, CgPlan *p, OutFile *f, u64 at, const CgOptions *opt);

/* ---- expect.c ---- */

/* Records what self-test compares with, unless the model is too large for the reference evaluator.
 */
bool cg_expect(Diag *d, CgPlan *p);

/* ---- cuda_plan.c: what follows from the chip, for each code of the program ---- */

#define CG_NO_KERNEL UINT32_MAX
enum { CG_NO_PHASE = CG_N_PHASES };

typedef struct CgCudaKernel { /* one specialisation; codes that choose the same share it */
    const CgCudaRow *row;
    const char *name;        /* C identifier, unique */
    const char *what;        /* for comments: "linear.s4" */
    double val[CG_N_CONSTS]; /* 0 where not used */
    u64 uses;
    CgLaunch launch;
    const char *prelude; /* source between the constants and the template: tables; NULL: none */
    u32 phase, step;     /* of a call that a reader may look at; CG_NO_PHASE: it has no step */
    const char *arch;    /* of the code whose calls are counted, the first */
    u32 source; /* the kernel whose code it is: itself, or the same code launched otherwise */
    u32 calls;
} CgCudaKernel;

typedef struct CgCudaCall {
    u32 kernel;   /* of CgCuda.kernels; CG_NO_KERNEL in a load that only copies */
    i32 from, to; /* rows; 0: no bound */
    CgCall c;     /* step, layer and operands; in what is CG_WEIGHT, off counts */
    u32 phase;    /* of the plan, which step belongs to */
    PfqCudaCost cost;
} CgCudaCall;

typedef struct CgCudaLoad { /* PfqCudaLoad */
    u32 section;            /* of the plan; from it the name, and the bytes if there are any */
    u64 from, bytes;
    CgCudaCall call;
} CgCudaLoad;

typedef struct CgPacked { /* a section in the layout that calls of this code want */
    u32 section;
    CgLayout layout;
    u64 off, bytes; /* in the code's weights */
} CgPacked;

enum { CG_MAX_CUDA_KERNELS = 512 };

typedef struct CgCode { /* what one --gpu-architecture gives */
    const char *arch;   /* "sm_90a"; "compute_80" */
    i32 major, minor;
    bool exact, ptx;
    i64 shared; /* bytes of shared memory that a block may have; 0: not known */
    VEC(CgCudaCall) call[PFQ_CUDA_N_PHASES];
    VEC(CgCudaLoad) load; /* empty: the image's data as they are */
    VEC(CgPacked) packed;
    const char *no_step; /* why decoding is no single kernel; NULL: it is, or the chip has none */
    bool packs;          /* the weights are in layouts of this code's own, or generated */
    bool used[CG_MAX_CUDA_KERNELS];      /* kernels */
    CgObject image[CG_MAX_CUDA_KERNELS]; /* no data where not used, or the code is another's */
    u64 at[CG_MAX_CUDA_KERNELS];         /* offsets in the blob */
    u64 act_bytes, own_bytes, weight_bytes;
} CgCode;

typedef struct CgCuda {
    const CgPlan *plan;
    VEC(CgCudaKernel) kernels; /* of all codes */
    bool full;                 /* there were to be more than CG_MAX_CUDA_KERNELS */
    CgCode *code;              /* [n_codes] best first, PTX last */
    u32 n_codes;
    i32 driver;    /* PfqCuda.driver */
    i32 step_rows; /* CgOptions.step_rows */
    u8 *blob;      /* all images, each 64-byte aligned; malloc'ed */
    u64 bytes;
} CgCuda;

extern const char *const cg_cuda_phase_names[PFQ_CUDA_N_PHASES];

/* Kernels and calls of one code, whose arch is set. E_KERNEL if the plan has steps that no CUDA
 * template computes. */
bool cg_cuda_plan(Diag *d, CgCuda *cuda, CgCode *code);
/* For those who add calls (a step as one kernel): the kernel of these constants, made if new. */
u32 cg_cuda_kernel(CgCuda *cuda, CgCode *code, const CgCudaKernel *want);

/* ---- cuda_load.c ---- */

/* A section's place in the code's weights, in this layout; gate and up are interleaved by 32 in
 * fragments. Only in a code that packs may the layout be another than the image's. */
CgRef cg_cuda_packed(CgCuda *cuda, CgCode *code, u32 section, CgLayout layout);
bool cg_cuda_can_pack(const CgPlan *p, u32 section, CgLayout layout);
/* How a section can be generated; NULL if it cannot. */
const CgGenerated *cg_generated(Arena *a, const Module *m, const CgSection *s);

/* ---- cuda.c: kernels for GPUs ---- */

/* The step that a refused kernel is called for, and its first ops. */
void cg_cuda_note_step(Diag *d, const CgPlan *p, u32 phase, u32 step);

/* Plans and compiles every kernel for every GPU, and as PTX for those that no target names.
 * E_KERNEL, E_NVRTC. cg_cuda_free also after an error. */
bool cg_cuda(Diag *d, const CgPlan *p, const CgTargets *t, const CgOptions *opt, CgCuda *out);
void cg_cuda_free(CgCuda *c);

/* ---- emit.c, emit_cuda.c, report.c: text ---- */
typedef struct CgBuild { /* what the emitters need besides the plan */
    const CgPlan *plan;
    const CgTargets *targets;
    const CgCuda *cuda; /* NULL: no CUDA target */
    const CgOptions *opt;
} CgBuild;

void cg_emit_model(const CgBuild *b, StrBuf *out);
void cg_emit_kernel(const CgBuild *b, u32 kernel, StrBuf *out);
/* The source of a template ("cpu/norm.c", "cuda/norm.cu") as it is written beside the kernels. */
void cg_emit_template(const char *file, StrBuf *out);
/* out/src/cuda/NAME.cu, and in model.c the tables of calls, kernels and code. */
void cg_emit_cuda_kernel(const CgCuda *cuda, u32 kernel, StrBuf *out);
void cg_emit_cuda_tables(const CgBuild *b, StrBuf *out);
/* A bound of what the tables of a code take in the program. */
u64 cg_cuda_table_bytes(const CgCuda *cuda, const CgCode *code);
/* Pieces of both. */
void cg_emit_comment(StrBuf *o, const char *text);
/* " In @decode, 30 times in layers 0 to 29, first step 4: ..." and its ops, in a comment. */
void cg_emit_uses(StrBuf *o, const CgPlan *p, const CgPhase *ph, u32 step);
void cg_emit_step_ops(StrBuf *o, Module *m, const CgPhase *ph, u32 step, const char *margin);
/* The operands of a call as initialisers, ", .in = {a, b}, .w = c", each printed by `emit`. */
typedef void CgEmitRef(StrBuf *o, const CgPlan *p, const CgRef *r);
void cg_emit_operands(StrBuf *o, const CgPlan *p, const CgCall *c, CgEmitRef *emit);
void cg_emit_constants(StrBuf *o, const double *val, u64 which);
void cg_emit_float(StrBuf *o, double v); /* as a literal of C */
void cg_emit_plan_json(const CgBuild *b, StrBuf *out);
void cg_emit_passes_json(const CgBuild *b, StrBuf *out);

#endif
