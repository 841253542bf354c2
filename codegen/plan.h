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

/* Value of c_fmt, c_epi, c_kv, c_act by name; -1 if unknown. */
i64 cg_format(const char *name);
i64 cg_epilogue(const char *name);
i64 cg_kv_format(const char *name);
i64 cg_activation(const char *name);

typedef struct CgKernel { /* one specialisation, per variant one symbol */
    CgRowId row;
    u64 uses;                /* set of CgConstId that the template declares */
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
/* Set of the constants that a template and its headers declare. */
u64 cg_template_uses(const char *template);

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

/* ---- emit.c, report.c: text ---- */
typedef struct CgBuild { /* what the emitters need besides the plan */
    const CgPlan *plan;
    const CgTarget *targets;
    u32 n_targets;
    const CgOptions *opt;
} CgBuild;

void cg_emit_model(const CgBuild *b, StrBuf *out);
void cg_emit_kernel(const CgBuild *b, u32 kernel, StrBuf *out);
/* A template's source as it is written to out/src/templates. */
void cg_emit_template(const char *file, StrBuf *out);
void cg_emit_plan_json(const CgBuild *b, StrBuf *out);

#endif
