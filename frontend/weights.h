/* Weights of model.json as leaves of the IR: "@name" -> one `tensor` (or `synthetic`) constant per
 * stored tensor.
 *
 * A leaf has the name and the shape that the checkpoint gives it and type f32; the evaluator
 * decodes the stored encoding. Nothing is read but headers. The optional table "tensors" maps name
 * patterns ("blk.{l}.attn_q.weight";
 * {...} stands for a number) to the shapes that the model expects; synthetic weights take their
 * shape from there. Belongs to one Module; its memory is the module's arena. Not thread-safe.
 */
#ifndef PFQC_FRONTEND_WEIGHTS_H
#define PFQC_FRONTEND_WEIGHTS_H

#include "frontend/checkpoint.h"
#include "frontend/expr.h"
#include "ir/ir.h"

typedef struct FeShape { /* one row of "tensors" */
    Str pattern;
    const Json *at;
    u32 rank;
    i64 dim[MAX_RANK];
    bool bad; /* and reported */
} FeShape;

typedef struct FeWeights {
    Diag *d;
    Module *m;
    const Source *src;
    Checkpoint ck;
    const u32 *file; /* [ck.n_files] index in the module */
    bool synthetic;
    bool open; /* fe_weight may be called, even when fe_weights_open found errors */
    i64 seed;
    double scale;
    VEC(FeShape) shapes;
    Map leaf; /* stored name -> ValueId, or FE_FAILED */
    i64 streams;
    u64 params; /* elements of all leaves so far */
} FeWeights;

enum { FE_FAILED = -1, FE_MAX_SHAPES = 4096 };

/* Reads "weights" and "tensors" of the model (root) and opens the files. */
bool fe_weights_open(FeWeights *w, Diag *d, Module *m, const Source *src, const Json *root,
                     const FeEnv *dims);
/* The constant for a tensor name; 0 after a diagnostic at `loc` (once per tensor). */
ValueId fe_weight(FeWeights *w, Loc loc, Str name, i32 layer);

bool fe_pattern_match(Str pattern, Str name); /* {...} matches one or more digits */

#endif
