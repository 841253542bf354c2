/* Perplexity of a module with @main on text, by the calibration runner: the protocol and numbers of
 * a compiled program's `ppl` (runtime/ppl.c), before there are kernels. Public header for pfqc.c.
 */
#ifndef PFQC_PASSES_CALIB_PPL_H
#define PFQC_PASSES_CALIB_PPL_H

#include "ir/base/io.h"
#include "passes/passes.h"

typedef struct Ppl {
    double ppl, se;  /* and its standard error */
    double kl, top1; /* against another module: mean KL(its || this) in nats, share of positions
                        with the same most likely token */
    i64 tokens;      /* scored */
    double seconds;
    i64 run; /* tokens run */
} Ppl;

/* source->tokens is the text, without BOS: chunks of `length` tokens (0: the model's context, at
 * most 2048), each a sequence of its own, all but the first token scored; at most max_chunks (0:
 * all). against: another module of the same vocabulary, or NULL; or its logits, f32 [scored tokens,
 * vocabulary], as a compiled program's `ppl --save-logits` writes them. E_PASS_CALIB. */
bool calib_ppl(Diag *d, Module *m, Module *against, const MappedFile *logits,
               const CalibSource *source, i64 length, i64 max_chunks, Ppl *out);

#endif
