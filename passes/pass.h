/* What passes share: their context, options, use lists, classes of weights, copying of ops.
 * Internal to passes/. */
#ifndef PFQC_PASSES_PASS_H
#define PFQC_PASSES_PASS_H

#include "passes/passes.h"

typedef struct PassCx {
    Module *m;
    Diag *d;
    Arena *a; /* scratch, freed after the pass */
    const PassCall *call;
    u32 changes;              /* counted by the pass; for the timing table */
    const CalibSource *calib; /* never NULL */
} PassCx;

typedef bool PassFn(PassCx *cx);
#define X(id, name, fn, ...) bool fn(PassCx *cx);
#include "passes/passes.def"
#undef X

typedef enum PassKind {
    KIND_EXACT,
    KIND_QUANT,
    KIND_LOOSE,
    KIND_KV
} PassKind; /* KV: QUANT if it made states of f16, else EXACT */

typedef struct PassInfo {
    const char *name;
    PassFn *run;
    const char *options;
    u32 from;   /* set of StageId */
    StageId to; /* 0: the stage stays */
    PassKind kind;
    const char *doc;
} PassInfo;
extern const PassInfo pass_info[];
extern const u32 pass_count;

/* Options of the running pass. BUG if the pass has none of that name. */
i64 pass_int(const PassCx *cx, const char *name); /* flags too: 0 or 1 */
double pass_num(const PassCx *cx, const char *name);
const char *pass_word(const PassCx *cx, const char *name);
/* Precondition failure naming the pass; op may be NULL. */
bool pass_fail(PassCx *cx, const Op *op, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Users of every value among the live ops of a module, in order of ops. Valid until the next edit.
 */
typedef struct Uses {
    u32 *first;   /* [values + 1] */
    OpId *op;     /* users of v: op[first[v]] .. op[first[v + 1]); an op that uses v twice is there
                     twice */
    bool *result; /* [values] is a result of its function */
} Uses;
Uses uses_build(Arena *a, const Module *m);
static inline u32 uses_n(const Uses *u, ValueId v)
{
    return u->first[v + 1] - u->first[v];
}
static inline OpId uses_at(const Uses *u, ValueId v, u32 i)
{
    return u->op[u->first[v] + i];
}
/* v is used once, as an operand. */
static inline bool uses_once(const Uses *u, ValueId v)
{
    return uses_n(u, v) == 1 && !u->result[v];
}

u32 pass_fn_index(const Module *m, const char *name); /* 0 if absent */
OpId pass_def(const Module *m, ValueId v);            /* defining op, 0 for parameters */

/* Copies op to the builder's place with the operands in[]; in its types and shapes, symbol `sym`
 * becomes `to` (0: no substitution). Returns what ir_op returns. */
ValueId pass_copy_op(PassCx *cx, Builder *b, OpId op, const ValueId *in, i64 sym, i64 to);
/* The op's attributes as a list for ir_op, in the scratch arena. */
AttrSpec *pass_attr_specs(PassCx *cx, const Op *op, i64 sym, i64 to);
/* Text that identifies what an op computes: kind, operands, attributes, result type. Equal keys,
 * equal results. */
Str pass_op_key(PassCx *cx, const Op *op);

/* Ops that follow the final hidden states of a graph (norm, quantiser, head): reading backwards
 * from its only result along first operands, up to the last rmsnorm. */
typedef struct Tail {
    ValueId cut;  /* operand of the final norm (or of the head, if there is none) */
    ValueId head; /* the linear's (or qlinear's) result, 0 if there is none */
} Tail;
bool pass_tail(PassCx *cx, u32 fn, Tail *t);

/* Does a weight of class `cls` ("layers", "head", "embedding") named `name` pass the options only=
 * and skip=? */
bool pass_selected(const PassCx *cx, const char *cls, const char *name);
/* The sizes of heads that the step which quantises keys can transform (R3): c_head_dim of kernel
 * linear.*.qkv. */
static inline bool pass_turns_heads(i64 dim)
{
    return dim > 0 && dim <= 256 && (dim & (dim - 1)) == 0;
}
/* Of the pass prefix: the one that the command line, model.json or the recipe gives, NULL if it is
 * to be found; whether the model has tokens and room for it. */
const char *prefix_given(const PassCx *cx);
bool prefix_check(PassCx *cx);
bool pass_skips(const PassCx *cx, const char *part); /* is this part of a pass named by skip=? */

/* The name of the weight that a constant was made from, without the suffixes that passes add. */
const char *pass_base_name(PassCx *cx, ValueId v);
#define SUFFIX_Q     ".q"
#define SUFFIX_SCALE ".s"
#define SUFFIX_MIN   ".m"
#define SUFFIX_DQ    ".dq"
#define SUFFIX_CAST  ".bf16"
#define SUFFIX_PACK  ".pack"

#endif
