/* What the files of codegen/ share: embedded files, targets, specialisation of kernel templates,
 * linking.
 *
 * Everything here lives for one cg_compile. cg_specialise is thread-safe (each call has its own
 * LLVM context); the rest belongs to the calling thread. Errors go to the Diag, or for
 * cg_specialise into CgObject.error. Not here: the public call (codegen.h), the container of the
 * weight image (runtime/image.h).
 */
#ifndef PFQC_CODEGEN_CODEGEN_INT_H
#define PFQC_CODEGEN_CODEGEN_INT_H

#include "codegen/codegen.h"

/* ---- embed.c: files carried inside pfqc (codegen/embed.cmake) ---- */

/* false if there is none of this name: "avx2/norm.bc", "cpu/norm.c", "cuda/norm.cu", "abi.h",
 * "libpfqrt.a" */
bool cg_embedded_find(const char *name, Str *out);
/* name of the i-th embedded file, NULL behind the last */
const char *cg_embedded_name(u32 i);

/* ---- target.c: which CPUs and GPUs to generate code for ---- */

typedef struct CgVariant {
    const char *name;           /* "avx512vnni" */
    const char *cpu, *features; /* LLVM's; every instruction set the code may use */
    u32 bits;                   /* PFQ_CPU_*, as the shipped binary checks them */
} CgVariant;

typedef struct CgTarget {
    const CgVariant *variant;
    const char *tune; /* LLVM CPU name that scheduling is tuned for; adds no instructions */
} CgTarget;

typedef struct CgGpu { /* a row of codegen/cuda/targets.def */
    const char *name;  /* "sm_90a" */
    i32 major, minor;
    bool exact;
    i64 shared;
} CgGpu;

enum { CG_MAX_VARIANTS = 8, CG_MAX_GPUS = 8 };

typedef struct CgTargets {
    CgTarget cpu[CG_MAX_VARIANTS]; /* best first */
    const CgGpu *gpu[CG_MAX_GPUS]; /* best first */
    u32 n_cpu, n_gpu;
} CgTargets;

/* Targets named by `specs` ("cpu", "cpu:znver4", "cuda:sm_90a"). Two CPUs that share a variant give
 * one, tuned for the one named first. Errors: E_TARGET. */
bool cg_targets(Diag *d, Arena *a, const char *const *specs, u32 n, CgTargets *out);

/* ---- parallel.c ---- */

/* Calls job(arg, i) for every i below n on up to `threads` threads, the calling one among them,
 * with stacks that compilers need. After one returns false no other begins. */
void cg_parallel(u32 n, u32 threads, bool (*job)(void *arg, u32 i), void *arg);

/* ---- llvm_spec.c: template + constants -> object ---- */

typedef struct CgConst { /* value of a template's `extern const` global */
    const char *name;
    bool is_float;
    i64 i;
    double f;
} CgConst;

typedef struct CgSpec {
    const char *what; /* template's name, for messages */
    Str bitcode;
    const char *entry;     /* function of the template that is wanted */
    const char *symbol;    /* its name in the object */
    const CgConst *consts; /* constants that the template does not mention are ignored */
    u32 n_consts;
    const CgTarget *target;
} CgSpec;

typedef struct CgObject {
    u8 *data; /* ELF relocatable, malloc'ed; NULL after an error */
    size_t bytes;
    char *error;     /* malloc'ed sentence, NULL if none */
    bool serialised; /* NVRTC: tensor cores' products wait for one another */
} CgObject;

void cg_specialise(const CgSpec *spec, CgObject *out);
/* All of them on `threads` threads. The first error becomes a diagnostic (E_LLVM) and stops the
 * others. */
bool cg_specialise_all(Diag *d, const CgSpec *specs, CgObject *out, u32 n, u32 threads);
/* A relocatable whose one symbol is `symbol`: `data`, 64-byte aligned, read-only. */
void cg_data_object(const char *symbol, Str data, CgObject *out);
void cg_object_free(CgObject *o);

/* ---- link.c: the one call of cc ---- */

typedef struct CgInput {
    const char *name; /* for messages */
    Str data;         /* an object or an archive */
} CgInput;

/* Compiles src_dir/model.c and links it with the inputs, in order, to the file `output`. The inputs
 * reach the linker as anonymous memory files, so nothing is left behind whatever ends the process.
 * E_LINK. */
bool cg_link(Diag *d, Arena *a, const char *src_dir, const CgInput *in, u32 n_in,
             const char *output);

#endif
