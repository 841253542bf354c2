/* Inside the evaluator: what eval.c (functions, states), const.c (rectangles of constants),
 * eval_ops.h (the ops, in float and double) and synthetic.c share.
 *
 * Every op runs as an OpCall: "compute the rectangle `rect` of the result, seen as a matrix [rows,
 * cols]". An operand is either in memory (in[k].p) or fetched piecewise by ev_fetch, which
 * evaluates constants on demand. Memory comes from a scratch stack; a Scope is a stretch of it with
 * a memo of the constant rectangles computed in it, so that an expression used twice (a weight by
 * its scale and by its integers) is computed once.
 */
#ifndef PFQC_IR_EVAL_INT_H
#define PFQC_IR_EVAL_INT_H

#include "ir/eval.h"
#include "ir/hadamard.h"

typedef struct Rect {
    i64 r0, nr, c0, nc;
} Rect;

typedef struct OpCall {
    Eval *e;
    const Op *op;
    Rect rect; /* of the results */
    u32 nin;
    Tensor *in;  /* [nin]; shape always set, p NULL: fetch it; dt DT_NONE: absent */
    Tensor *out; /* [nout]; memory allocated by the caller: rect of the result, dense */
} OpCall;

typedef bool OpEval(OpCall *c);
extern OpEval *const op_eval_f32[OP_COUNT], *const op_eval_f64[OP_COUNT];

/* Scratch stack: blocks are kept and reused, contents are not cleared. */
typedef struct ScratchBlock ScratchBlock;
typedef struct Scratch {
    ScratchBlock *first, *cur;
    size_t used; /* of cur */
} Scratch;

typedef struct MemoEntry {
    ValueId v;
    Rect rect;
    Tensor t;
    struct MemoEntry *next;
} MemoEntry;
enum { MEMO_BUCKETS = 64 };
typedef struct Memo {
    MemoEntry *bucket[MEMO_BUCKETS];
} Memo;

typedef struct Scope {
    ScratchBlock *cur;
    size_t used;
    Memo *outer;
} Scope;

typedef struct EvState { /* a `state` constant's memory, or the implicit cache of the op `attention`
                          */
    ValueId v;           /* 0: an implicit cache */
    i64 cache;
    Tensor t[2]; /* [0]: the state; implicit: keys and values [C, g, d] */
    i64 rows;    /* rows written by the last `store` */
} EvState;

struct Eval {
    Diag *d;
    Module *m;
    bool f64;
    OpEval *const *ops;
    u32 depth;     /* nesting of constant expressions being evaluated */
    u32 nvalues;   /* when the Eval was made */
    u32 *uses;     /* [nvalues] */
    Tensor *small; /* [nvalues] constants of rank <= 1, kept once computed */
    Scratch scratch;
    Memo *memo;               /* of the innermost scope */
    i64 sym[DIM_SYMBOLS + 1]; /* what T, R and C are bound to; -1: nothing */
    VEC(EvState) states;
    VEC(HadamardPlan) plans; /* one per size in use */
    ValueId mixed_v;  /* constant whose rows a transform mixes, kept whole while its tiles are asked
                         for */
    Tensor mixed;     /* heap */
    VEC(void *) keep; /* heap blocks that live until eval_reset */
    Arena a;          /* the vectors above and whatever lives as long as the Eval */
    EvalWatch *watch;
    void *watch_user;
};

/* ---- eval.c ---- */
bool ev_fail(Eval *e, const Op *op, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void *ev_scratch(Eval *e, i64 count, size_t size); /* until the innermost scope ends */
Scope ev_scope(Eval *e);
void ev_scope_end(Eval *e, Scope s);
static inline size_t ev_esize(const Eval *e, DType dt)
{
    return dtype_info[dt].is_float && e->f64 ? 8 : 4;
}
void ev_round(Eval *e,
              Tensor *t); /* elements to the nearest value of t's dtype, if that is f16 or bf16 */
double ev_round_to(DType dt, double x);
i64 tensor_cols(const Tensor *t);
i64 tensor_rows(const Tensor *t);
/* States. Both return NULL after a diagnostic. */
EvState *ev_state(Eval *e, ValueId v);
EvState *ev_cache(Eval *e, i64 cache, i64 heads, i64 head_dim);

/* ---- const.c ---- */
/* Rectangle of operand k: a view where possible, else in scratch. */
bool ev_fetch(OpCall *c, u32 k, Rect r, Tensor *out);
bool ev_run(OpCall *c);                                        /* any op, through its TileRule */
bool ev_move(OpCall *c);                                       /* the ops that only move elements */
bool ev_const_rect(Eval *e, ValueId v, Rect r, Tensor *out);   /* inside a scope */
void ev_tensor_shape(const Module *m, ValueId v, Tensor *out); /* of a constant; p stays NULL */

/* The transform of n elements; the plan lives as long as the Eval. */
HadamardPlan ev_hadamard_plan(Eval *e, i64 n);

/* ---- rope_freqs.c ---- */
void ev_rope_frequencies(const Module *m, const Op *op, float *out);

/* ---- synthetic.c ---- */
void synthetic_fill(u64 seed, u64 stream, u64 first, i64 n, float *out);

#endif
