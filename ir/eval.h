/* The reference evaluator: the meaning of every op in simple loops, in f64 or f32, and the values
 * of weights.
 *
 * One definition serves all uses: the interpreter of functions, the folder of constants, the packer
 * of weights, and the differential tests of kernels. ir/eval_ops.h is written once over `real` and
 * compiled twice (float, double).
 *
 * Constants are evaluated on demand, in rectangles: a constant is seen as a matrix [rows, cols]
 * whose last dimension is cols; eval_const asks each op for the rectangles of its operands
 * (TileRule) and computes only those. Nothing is cached but small values (norm gains, frequencies).
 * Memory is bounded by the rectangle and what the op's locality needs of its operands (a whole row
 * for a whole-row scale).
 *
 * Threading: one Eval per thread; many Evals may share a Module that nobody writes (files are
 * mapped by eval_open before the threads start).
 */
#ifndef PFQC_IR_EVAL_H
#define PFQC_IR_EVAL_H

#include "ir/ir.h"

/* A value of known shape. Floats are `real` (f or d by precision), integers i32 whatever their
 * storage type. */
typedef struct Tensor {
    DType dt;
    u32 rank;
    i64 dim[MAX_RANK];
    union {
        float *f;
        double *d;
        i32 *i;
        void *p;
    };
} Tensor;

typedef struct Eval Eval;

/* Maps the module's weight files and checks every `tensor` against their sizes. E_FILE_READ,
 * E_IR_EVAL. */
bool eval_open(Diag *d, Module *m);

Eval *eval_new(Diag *d, Module *m, bool f64);
void eval_free(Eval *e);

/* The rectangle [r0, r0+nr) x [c0, c0+nc) of a constant, as a rank-2 tensor in the evaluator's
 * scratch, valid until the next eval_reset. False after a diagnostic. */
bool eval_const(Eval *e, ValueId v, i64 r0, i64 nr, i64 c0, i64 nc, Tensor *out);
/* Packed bytes of tiles [t0, t0+nt) of a `pack` constant (ir/pack.h); out has room for them. */
bool eval_pack(Eval *e, ValueId v, i64 t0, i64 nt, u8 *out);
void eval_reset(Eval *e); /* forgets scratch results, keeps states */

/* Calls a function. args[i] is the value of parameter i; the call binds T (and R) from their
 * shapes. Results are written to out[0..n results), valid until eval_reset. States keep their
 * contents between calls; eval_set_context gives C (default 64) and zeroes all states. */
bool eval_call(Eval *e, u32 fn, const Tensor *args, Tensor *out);
void eval_set_context(Eval *e, i64 c);
/* Calls `watch` with the results of every op as they are computed (differential tests, observers);
 * NULL: none. */
typedef void EvalWatch(void *user, Eval *e, OpId op, const Tensor *results);
void eval_watch(Eval *e, EvalWatch *watch, void *user);

/* Runs the model on tokens at positions pos0.. and returns logits [rows, vocab]: of every token, or
 * of the last. Works before and after the `phases` pass (@main, or @prefill + @logits, or @decode
 * token by token when `decode`). Parameters are recognised by name: tokens, pos, rows. Behind a
 * constant prefix of p rows (ops `attention`, `attend`) positions start at p; neither the caller's
 * pos0 nor the context of eval_set_context counts it. */
bool eval_model(Eval *e, const i32 *tokens, i64 n, i64 pos0, bool all, bool decode, Tensor *logits);
i64 eval_prefix(const Module *m); /* rows of that prefix, 0 if there is none */

/* Synthetic weights (ir/synthetic.c): element i of a stream, uniform in [-1, 1), a function of
 * integers only so that a GPU computes the same value: the high 24 bits of a 64-bit mix of (seed,
 * stream, i), as a signed fraction. */
float synthetic_value(u64 seed, u64 stream, u64 i);
/* Where a stream starts in the sequence: unrelated places, so that equal elements of two tensors
 * are not correlated. Element i is a mix of the key and i alone. */
u64 synthetic_key(u64 seed, u64 stream);

#endif
