/* Code generation for CPUs and NVIDIA GPUs: a module in steps -> out/NAME, its weights, its sources
 * and plan.json.
 *
 *   out/NAME            the program (position independent, dynamic glibc)
 *   out/NAME.weights    the weight image (runtime/image.h); with embed_weights it is appended to
 *                       out/NAME
 *   out/plan.json       memory map, kernels with their constants, steps with bytes and flops,
 * weight sections out/passes.json     what each pass changed out/model.pfir      the module that
 * all of it was made of out/src/model.c     the schedule that runs; beside it abi.h, kernels/ (one
 * file per specialised kernel) and templates/ (what those include); cuda/ holds the same for GPUs
 *
 * Input: @prefill, @logits and @decode, every op in a step, every value that crosses steps placed
 * by the memory pass, every streamed weight a packed constant. The same module, targets and pfqc
 * give the same bytes on any machine, in any folder, locale and time zone ("cpu" alone means this
 * machine, so it differs between CPU types). Files appear whole or not at all. Memory: bounded by
 * tiles per thread, never by the size of the weights. Threading: called by one thread, uses
 * opt.threads itself. Not here: packing (ir/), kernels (codegen/cpu/,
 * codegen/cuda/).
 */
#ifndef PFQC_CODEGEN_CODEGEN_H
#define PFQC_CODEGEN_CODEGEN_H

#include "ir/ir.h"

/* More than the default are slower than as a graph of kernels: docs/performance.md. */
enum { CG_STEP_ROWS = 4, CG_MAX_STEP_ROWS = 16 };

typedef struct CgOptions {
    const char *out_dir;        /* made if absent */
    const char *const *targets; /* "cpu", "cpu:NAME", "cuda:NAME" */
    u32 n_targets;
    bool embed_weights;
    u32 step_rows;         /* sequences that one kernel decodes, at most; 0: CG_STEP_ROWS */
    const char *cache_dir; /* where kernels for GPUs are kept (ir/base/cache.h) */
    u32 threads;           /* 0: one per CPU that this process may use */
    const void *tokenizer; /* blob for runtime/tokenizer.h; NULL: the program has no tokenizer */
    size_t tokenizer_bytes;
    const void *chat; /* blob for runtime/template.h; NULL: the program has no chat template */
    size_t chat_bytes;
    const char *version, *recipe; /* for `info` */
    /* What has been run, for plan.json and passes.json, as PassOptions.log and .changes have it;
     * may be NULL. */
    const char *passes, *changes;
    /* What a token prints, for plan.json; NULL: there is no tokenizer. */
    Str (*token_text)(void *arg, i32 id);
    void *token_text_arg;
    /* Called from the calling thread, now and then; done and total count bytes of weights. May be
     * NULL. */
    void (*progress)(void *arg, const char *what, u64 done, u64 total);
    void *progress_arg;
} CgOptions;

typedef struct CgResult {
    char *binary, *weights; /* paths; weights is NULL when embedded */
    u64 binary_bytes, weight_bytes;
    u32 n_kernels, n_variants; /* specialised kernels, per variant */
} CgResult;

bool cg_compile(Diag *d, Module *m, const CgOptions *opt, CgResult *res);

/* Are these targets that cg_compile accepts on this machine? E_TARGET, E_NVRTC otherwise. Asked
 * before hours of calibration, and by `pfqc --check`. */
bool cg_check_targets(Diag *d, Arena *a, const char *const *targets, u32 n);

#endif
