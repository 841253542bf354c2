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

/* Constants of templates, codegen/cpu/kernels.def. */
typedef enum CgConstId {
#define CONSTANT(name, type, def, doc) C_##name,
#include "codegen/cpu/kernels.def"
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
typedef struct CgLaunch {
    i64 block, grid_x, rows, shared;
} CgLaunch;

typedef struct CgCudaRow {
    const char *template, *entry; /* NULL: there is none */
    CgLaunch (*launch)(i64 N, i64 K, i64 H, i64 G, i64 D);
} CgCudaRow;
extern const CgCudaRow cg_cuda_rows[CG_N_ROWS];

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
    CG_WEIGHT, /* section of the image */
} CgPlace;

typedef struct CgRef {
    CgPlace place;
    u32 section;
    u64 off, bytes;
} CgRef;

enum { CG_IN = 8, CG_OUT = 8, CG_AUX = 8 }; /* slots of PfqArgs */

typedef struct CgCall {
    u32 kernel, step;
    i32 layer;
    CgRef in[CG_IN], out[CG_OUT], aux[CG_AUX], w;
    bool barrier;     /* before it */
    bool each;        /* every thread does all of it, into private memory */
    u64 flops;        /* per row; of attend: per row and key */
    u64 weight_bytes; /* read by a call with one row */
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

typedef struct CgSection {
    ValueId value;
    CgSectionKind kind;
    const char *name;
    u64 read_per_token; /* by @decode */
} CgSection;

enum { CG_PREFILL, CG_LOGITS_PHASE, CG_DECODE, CG_N_PHASES };

typedef struct CgPlan {
    Module *m;
    Arena *a;
    CgPhase phase[CG_N_PHASES];
    VEC(CgKernel) kernels;
    VEC(CgSection) sections;
    PfqImageSection *image; /* [sections.n]; sums are filled by cg_write_weights */
    u64 data_offset, data_bytes, total_bytes; /* of the image */
    u64 act_bytes, kv_row_bytes;
    i64 context; /* of the user: without the prefix */
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
/* Those of the row's templates for CPUs and for GPUs: the plan does not depend on the targets. */
u64 cg_row_uses(CgRowId row);

/* ---- bind.c ---- */
bool cg_plan(Diag *d, Arena *a, Module *m, CgPlan *out); /* E_KERNEL */

/* ---- weights.c ---- */

/* Evaluates every section and writes the image at offset `at` of f; fills the plan's sums and
 * image_id. */
bool cg_write_weights(Diag *d, CgPlan *p, OutFile *f, u64 at, const CgOptions *opt);

/* ---- expect.c ---- */

/* Records what self-test compares with, unless the model is too large for the reference evaluator.
 */
bool cg_expect(Diag *d, CgPlan *p);

/* ---- cuda.c: kernels for GPUs ---- */

typedef struct CgCode { /* what one --gpu-architecture gives */
    const char *arch;   /* "sm_90a"; "compute_80" */
    i32 major, minor;
    bool exact, ptx;
    CgObject *image; /* [kernels.n] */
    u64 *at;         /* [kernels.n] offsets in the blob */
} CgCode;

typedef struct CgCuda {
    CgCode code[CG_MAX_GPUS + 1]; /* best first, PTX last */
    u32 n_codes, n_kernels;
    i32 driver; /* PfqCuda.driver */
    u8 *blob;   /* all images, each 64-byte aligned; malloc'ed */
    u64 bytes;
} CgCuda;

/* Compiles every kernel of the plan for every GPU, and as PTX for those that no target names.
 * E_KERNEL if the plan has steps that no CUDA template computes, E_NVRTC. cg_cuda_free also after
 * an error. */
bool cg_cuda(Diag *d, const CgPlan *p, const CgTargets *t, u32 threads, CgCuda *out);
void cg_cuda_free(CgCuda *c);
CgLaunch cg_launch(const CgKernel *k);
/* The call of a kernel that a reader sees first, in @decode if there is one. */
const CgCall *cg_first_call(const CgPlan *p, u32 kernel, const CgPhase **phase);

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
void cg_emit_cuda_kernel(const CgPlan *p, u32 kernel, StrBuf *out);
void cg_emit_cuda_tables(const CgBuild *b, StrBuf *out);
/* Pieces of both. */
void cg_emit_comment(StrBuf *o, const char *text);
void cg_emit_step_ops(StrBuf *o, Module *m, const CgPhase *ph, u32 step, const char *margin);
/* The operands of a call as initialisers, ", .in = {a, b}, .w = c", each printed by `emit`. */
typedef void CgEmitRef(StrBuf *o, const CgPlan *p, const CgRef *r);
void cg_emit_operands(StrBuf *o, const CgPlan *p, const CgCall *c, CgEmitRef *emit);
void cg_emit_constants(StrBuf *o, const CgKernel *k, u64 which);
void cg_emit_plan_json(const CgBuild *b, StrBuf *out);

#endif
