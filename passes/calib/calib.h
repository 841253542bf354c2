/* Calibration: running @main on text in f32, a range of ops at a time, and keeping what was found.
 *
 * The runner. A Calib holds S sequences of N tokens at an op of @main's body (calib_at). calib_run
 * evaluates a range of ops from there on for all sequences; between ranges only the values that
 * later ops read are kept, in unlinked temporary files. So a pass walks through a model as far as
 * it needs: run to an op, look at values (a hook), replay a stretch with other constants
 * (calib_override, no advance), go on. Ops have the meaning of ir/eval.h, in f32; integers are
 * exact.
 * - Sequence s runs on thread s % calib_threads, always, and the sequences of a thread in order:
 * what hooks add up per thread is the same in every run with as many threads.
 * - Positions start behind the module's prefix (eval_prefix), at pos0. Each sequence stands alone:
 * its tokens attend to the prefix and to each other.
 * - The body of @main, and every op it depends on, must not change while a Calib lives. Adding
 * constants and names is allowed between runs.
 *
 * The cache. Results of a pass are arrays by name in one safetensors file, found again by content:
 * the module's text, the bytes of its weight files, the pass and its options, the tokens, the
 * effort, and pfqc itself. A pass asks calib_cache; if nothing is found it computes, puts and
 * commits; then, in both cases, it applies what calib_get and calib_constant give.
 *
 * Threading: all functions are called by the pass's own thread; only hooks run on others. A hook
 * may call nothing of this header. Errors: E_PASS_CALIB, E_IR_EVAL, E_FILE_READ, E_FILE_WRITE.
 */
#ifndef PFQC_PASSES_CALIB_CALIB_H
#define PFQC_PASSES_CALIB_CALIB_H

#include "ir/eval.h"
#include "passes/pass.h"

/* ---- run.c: the runner ---- */

typedef struct Calib Calib;

/* The first sequences * length tokens of the calibration text, sequence s being tokens [s * length,
 * (s + 1) * length); with a seed, such stretches from all over the text. NULL after a diagnostic:
 * the text is too short (E_PASS_CALIB), or there is no @main. Without a text (cx->calib->tokens is
 * NULL: a synthetic model, a .pfir) tokens are drawn at random from the vocabulary, always the same
 * ones. */
Calib *calib_new(PassCx *cx, i64 sequences, i64 length);
/* Tokens of the caller's choice, at positions pos0 .. (the prefix not counted). */
Calib *calib_new_tokens(PassCx *cx, const i32 *tokens, i64 sequences, i64 length, i64 pos0);
void calib_free(Calib *c); /* NULL: nothing */

/* From here on linears multiply operands rounded to bf16, with sums in f32: results are right to
 * some 8 bits, in half the time where the CPU has AVX512_BF16, and the same but for the order of
 * sums where it has not. For what compares magnitudes. */
void calib_half(Calib *c);

u32 calib_at(const Calib *c); /* index in @main's body of the next op */
u32 calib_threads(const Calib *c);
const i32 *calib_tokens(const Calib *c); /* [sequences, length] */

typedef struct CalibCall {
    u32 thread; /* below calib_threads */
    i64 sequence;
    i64 row; /* first row of out; 0 in calib_run */
    OpId op;
    u32 nin;
    const Tensor *in; /* [nin]; p NULL: an absent operand, or a weight that is read in pieces (the
                         table of an embedding, a weight too large to be in memory whole) */
    Tensor *out;      /* [nout of the op] */
} CalibCall;

/* After each op, on its thread; may change the floats of out in place (fake quantisation). False
 * ends the run; the pass reports why. */
typedef bool CalibHook(void *user, const CalibCall *call);

/* Ops [calib_at, end) on the first `sequences` (0: all). advance (needs all): keep the values that
 * later ops read, calib_at = end. Otherwise nothing changes: a replay, for searches. False after a
 * diagnostic, or when a hook returned false. */
bool calib_run(Calib *c, u32 end, i64 sequences, bool advance, CalibHook *hook, void *user);

/* Dense f32 [rows, cols] (or integers as f32) instead of a constant that ops of @main read
 * directly; it stays the caller's and must live until NULL ends it, or calib_free. */
void calib_override(Calib *c, ValueId constant, const float *dense);
/* A float constant as dense f32 [rows, cols] (overrides do not show). Stays valid until an
 * advancing run has passed the constant's last use in @main (for others: until calib_free). NULL
 * after a diagnostic. */
const float *calib_weight(Calib *c, ValueId constant);
/* A value that is kept at calib_at, of one sequence, as f32 [rows, cols]; valid until the next
 * advancing run. NULL if the value is not kept, or is no float. */
const float *calib_value(const Calib *c, ValueId v, i64 sequence);

/* ---- cache.c: results by content ---- */

typedef struct CalibCache CalibCache;

/* Looks for results of the running pass. *found: the arrays can be read right away; otherwise they
 * are to be put and committed. NULL after a diagnostic. Freed with the pass. */
CalibCache *calib_cache(PassCx *cx, bool *found);
/* Copies an array into the results; dt is f32, f16 (data: u16), s8 (data: i8) or i32. A name put
 * twice is a BUG. */
void calib_put(CalibCache *c, const char *name, DType dt, u32 rank, const i64 *dim,
               const void *data);
bool calib_commit(CalibCache *c); /* writes the file; arrays can be read from here on */
/* False without a diagnostic when there is no such array. The data lives as long as the module. */
bool calib_get(CalibCache *c, const char *name, Type *t, const void **data);
/* A constant named value_name that reads the array from the results file: an op `tensor` of this
 * type (s4 and s8 from i8 bytes, f16, f32), which has as many elements as the array. 0 after a
 * diagnostic (there is no such array). b->fn is 0. */
ValueId calib_constant(CalibCache *c, Builder *b, const char *name, TypeId type,
                       const char *value_name);

/* ---- text.c ---- */

/* Tokens of sequences for statistics, search and GPTQ at the source's effort. */
typedef struct CalibBudget {
    i64 sequences, length;
} CalibBudget;
typedef enum CalibUse { CALIB_STATISTICS, CALIB_SEARCH, CALIB_GPTQ } CalibUse;
CalibBudget calib_budget(const PassCx *cx, CalibUse use);
/* E_PASS_CALIB if there is a text, and it has fewer tokens. */
bool calib_enough(PassCx *cx, i64 sequences, i64 length);
/* Reports progress of the running pass (NULL-safe): done of total, in any unit. */
void calib_progress(const PassCx *cx, const char *what, u64 done, u64 total);

#endif
