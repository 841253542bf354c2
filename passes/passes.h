/* Passes: what is done to a module between the frontend and code generation, as text, and the
 * results they leave.
 *
 * A pipeline is a list of passes with options, `fuse-norm,quantize-weights{bits=4,group=32}`; a
 * recipe is a JSON file that names one. passes.def is the table of passes. Everything is
 * deterministic; nothing is printed to stdout. Errors: E_PASS_UNKNOWN, E_PASS_PRECONDITION,
 * E_PASS_NUMERICS, E_RECIPE. A failed pass leaves the module unusable.
 *
 * What the later passes leave for code generation
 *
 * phases: functions and states
 *   @prefill(tokens i32[T], pos i32[T])    extends the KV states; ends by storing final hidden
 * states in @hidden
 *   @logits(rows i32[R]) -> f32[R,vocab]   of rows of @hidden, by row number of the last prefill
 *   @decode(tokens i32[1], pos i32[1]) -> f32[1,vocab]
 *   @hidden f32[chunk,hidden] lives in the activation arena and survives from @prefill to @logits;
 *   @kv.L.k, @kv.L.v dtype[kv_heads,C,head_dim] live in the KV cache: f32, f16, or the integers s8,
 * u8, s4, u4 of quantised keys and values. Their scales and offsets are constants (static) or
 * states
 * @kv.L.k.s, .k.m, .v.s, .v.m f16[kv_heads,C,1] beside them. Behind a prefix of p rows (attribute
 * of kv_append and attend, whose last operands it is) position pos has row pos - p. T is at most
 * meta "chunk", R at most meta "rows".
 *
 * fuse: every op has a step; steps are runs of consecutive ops, numbered from 1 in order.
 * Step.kernel is the name of a kernel in codegen/cpu/kernels.def, followed for some by a dot and a
 * variant. WF is the layout of weights (f32, s8, s4, u4g32), XF the format of activations
 * (ARCHITECTURE.md), Q is quantize by a constant, or qparams and quantize:
 * - embed.WF: embedding
 * - norm.XF: rmsnorm [reshape] [Q], f32 when not quantised
 * - quant.XF: Q of a matrix
 * - linear.WF: linear or qlinear
 * - linear.WF.residual: .. add(x, y) or add(y, x) with x from before the step [store]
 * - linear.WF.swiglu: .. slices, silu or gelu of the first half, mul
 * - linear.WF.qkv: .. slices q, k, v; reshapes; of q and k [rmsnorm] [rope] [hadamard]; [quantize
 * of q by a constant per head]; [quantize of k and v by a constant per head, or by qparams or
 *   qparams_asym]; kv_append
 * - attend, attend.s8: attend [reshape]; .s8: .. and quantize by a constant
 * - hadamard, hadamard.s8: hadamard; .s8: .. and Q
 * - heads: rope, or rmsnorm of heads (rank 3), of one value outside a qkv step
 * - glu act add mul add_row mul_row scale rows: the ops of these names; act is silu or gelu, _row
 * and scale have a constant second operand ([K], or one element)
 * - kv_append store slice concat cast ...: other ops on their own, named by their mnemonic
 *
 * Reshapes move nothing: a reshape's result has the place of its operand, and belongs to the step
 * of its producer.
 *
 * layout: Step.weights of embed and linear steps is a `pack` constant.
 * The operand of the op itself stays, for its meaning; in layouts s8 and s4 the packed scales are
 * ws * xs when the activation's scale xs is one constant (static). A bias is the op's operand, in
 * the order of the weight's rows (swiglu: gate then up, not interleaved).
 *
 * memory: attribute `at` of each op, one entry per result:
 *   - a value that crosses steps: its byte offset in the activation arena, a multiple of 64. Its
 * bytes: rows (T: chunk, R: rows) times the row stride of its format. A value that is stored into
 * @hidden in its own step has @hidden's offset.
 *   - -1: it lives inside its step, or is a result of the function (which is written where the
 * caller says), or is a reshape of a parameter.
 *   - of a state in the KV cache: bytes per token of all states before it; its bytes are `at * ctx`
 * onwards: head after head, row after row, a row of one head being head_dim elements (s4, u4: two
 * in a byte, element 2i in the low nibble; an odd row's last high nibble is padding). ctx is a
 * multiple of 64, so that every state is aligned. Meta "kv_row_bytes" is the sum.
 * @hidden: its offset in the arena. Buffers are reused: a step may write where an earlier step
 * read. Code that leaves out a barrier between two steps must look at ranges, not only at operands.
 * Fn.act_bytes is the function's arena; the arenas of the three overlap.
 */
#ifndef PFQC_PASSES_PASSES_H
#define PFQC_PASSES_PASSES_H

#include "ir/ir.h"

/* Where a module stands; found from the module itself. */
typedef enum StageId {
    STAGE_GRAPH = 1,    /* @main, attention whole */
    STAGE_PHASED = 2,   /* no @main */
    STAGE_STEPS = 4,    /* ops have steps */
    STAGE_PACKED = 8,   /* steps have weights */
    STAGE_PLANNED = 16, /* values have places */
    STAGE_ANY = 31
} StageId;
StageId passes_stage(const Module *m);
const char *passes_stage_name(StageId s);

typedef struct PassOpt {
    Str name;
    i64 i;         /* int; flag: 0 or 1 */
    double f;      /* num */
    const char *s; /* its text; of a flag "" */
} PassOpt;

typedef struct PassCall {
    u32 pass; /* row of passes.def, from 0 */
    u32 nopt;
    PassOpt *opt; /* every option of the row, defaults filled in */
} PassCall;

typedef struct Pipeline {
    VEC(PassCall) calls;
} Pipeline;

/* Parses pipeline text and appends to p. Reports every error it finds, with the place in src. */
bool pipeline_parse(Diag *d, Arena *a, const Source *src, Pipeline *p);

/* Changes a pipeline as the command line asks: `without` lists passes to drop ("prefix,rotate"),
 * `set` options to change in every call of a pass ("rotate.seed=1,weights.method=rtn"). Either may
 * be NULL. A pass that the pipeline does not run is an error, so that a misspelt ablation is none.
 */
bool pipeline_edit(Diag *d, Arena *a, const char *set, const char *without, Pipeline *io);

/* Does it measure on text (CalibSource)? */
bool pipeline_calibrates(const Pipeline *p);
/* Drops the first call of this pass and all behind it; with NULL the first call that calibrates. */
void pipeline_cut(Pipeline *p, const char *pass);

/* The text that pipeline_parse makes the calls from number `from` on of. */
void pipeline_text(const Pipeline *p, u32 from, StrBuf *b);

/* A .pfir with a pipeline and the module's folder in its comments: all that it takes to run the
 * passes from number `from` on again, but for what calibration reads. */
void reproducer_text(const Module *m, const Pipeline *p, u32 from, StrBuf *b);
/* Appends the pipeline to p. E_IR_SYNTAX if the text is no reproducer. */
bool reproducer_read(Diag *d, Arena *a, const Source *src, const char **folder, Pipeline *p);

typedef struct Recipe {
    const char *name, *doc;
    Pipeline pipeline;
} Recipe;

/* `which` is the name of a built-in recipe or, if it ends in .json or has a slash, a file. */
bool recipe_load(Diag *d, Arena *a, const char *which, Recipe *out);
const char *recipe_builtin_text(const char *name); /* the JSON, or NULL */
const char *recipe_builtin_name(u32 i);            /* i-th name in order, NULL at the end */

/* What calibrating passes read (passes/calib/calib.h). */
typedef enum CalibEffort { EFFORT_FAST, EFFORT_FULL } CalibEffort;
typedef struct CalibSource {
    const i32
        *tokens; /* [n] of the calibration text; NULL: there is none (a synthetic model, a .pfir) */
    i64 n;
    i32 bos, eos; /* of the tokenizer, -1 if it has none */
    CalibEffort effort;
    i64 samples, length; /* of statistics and GPTQ, instead of the effort's; 0: the effort's */
    float assumed; /* 0: measure. Else nothing is: activations are taken to reach this magnitude,
                      weights are rounded to nearest, keys and values of a given prefix are
                      pseudorandom. For synthetic weights, of which text says nothing */
    i64 seed;      /* of a random choice of sequences; 0: the first of the text */
    const char *prefix;    /* --prefix: ids ("216,260,1"), "none", or NULL: find it */
    const char *cache_dir; /* NULL: $XDG_CACHE_HOME/pfqc, else ~/.cache/pfqc */
    u32 threads;           /* 0: the usable CPUs */
    void (*progress)(void *arg, const char *what, u64 done, u64 total); /* NULL: silent */
    void *progress_arg;
} CalibSource;

/* Refuses what calibrating passes of the pipeline would refuse of their text and prefix, without
 * running any: too short a text, tokens that the model has not, a prefix that leaves no room. */
bool calib_check(Diag *d, Module *m, const Pipeline *p, const CalibSource *s);

typedef struct PassOptions {
    bool verify_each; /* ir_verify and the stage's rules after each pass */
    bool
        verify_numerics; /* run a few tokens in f64 before and after each pass; reports to stderr */
    const char *dump_dir;     /* NN-pass.pfir after each pass, 00-import.pfir before the first */
    const char *print_before; /* name of a pass, or "all": print the module to stderr */
    const char *print_after;
    const char *stop_after; /* name of a pass: end after its first run */
    bool bisect; /* run the first `limit` passes, and of the others only those that code generation
                    cannot do without; reports to stderr */
    u32 limit;
    const char *reproducer;   /* a file, as reproducer_text makes it: of the module in front of the
                                 pass that failed, else of the one that came in */
    const CalibSource *calib; /* NULL: no text, defaults */
    /* NULL, or get a JSON object for each pass that was run, separated by commas. log: its name,
     * its options (options_text), changes, ops of the module then. changes: that, the stage and
     * what it changed in the module's text (passes/changes.h). */
    StrBuf *log, *changes;
} PassOptions;

/* Runs the pipeline on m. */
bool passes_run(Diag *d, Module *m, const Pipeline *p, const PassOptions *o);

void passes_list(StrBuf *b); /* docs/passes.md */

/* The value of OPENBLAS_CORETYPE that a program which calibrates should start with, when OpenBLAS
 * took this CPU for a much older one; NULL if there is none or the variable is set. */
const char *calib_better_blas(void);

#endif
