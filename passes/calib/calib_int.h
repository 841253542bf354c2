/* Inside the calibration runner: run.c (ranges, threads, ops), store.c (constants and kept values),
 * fast_ops.c (ops in f32 by sgemm and simple loops), half_product.c. Not for passes. */
#ifndef PFQC_PASSES_CALIB_CALIB_INT_H
#define PFQC_PASSES_CALIB_CALIB_INT_H

#include "ir/eval_int.h"
#include "passes/calib/calib.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
    CALIB_MAX_THREADS = 64,
    RANGE_BYTES = 400 << 20,  /* constants in memory at a time; a range that reads more is cut */
    STREAM_BYTES = 480 << 20, /* a weight larger than this is read in tiles instead */
};

/* A constant in memory: f32, integers as i32. */
typedef struct Dense {
    ValueId v;
    void *p;
    u64 bytes;
    bool pinned; /* calib_weight gave it out: not dropped to make room */
} Dense;

/* A value that later ops read, of all sequences: an unlinked file, mapped. */
typedef struct Kept {
    ValueId v;
    int fd;
    u8 *map;         /* NULL until it is complete */
    u8 *old;         /* until then: the file, mapped for a value before */
    u64 bytes, size; /* of one sequence (a multiple of 64), of the file */
    u32 esize;       /* 4: f32 or i32; 2: i16; 1: i8, or u8 */
    bool is_unsigned;
    bool transient; /* between the parts of a replay */
} Kept;

typedef struct Override {
    ValueId v;
    const float *p;
} Override;

/* Buffers of a thread, reused by size. */
typedef struct PoolBuf {
    void *p;
    u64 bytes;
    bool used;
} PoolBuf;

typedef struct Worker {
    Calib *c;
    u32 id;
    Arena a;
    Diag d;
    Eval *e;
    u32 nvalues; /* of e */
    Tensor *val; /* [nvalues of the Calib] */
    VEC(PoolBuf) pool;
    pthread_t thread;
    bool failed;
} Worker;

typedef struct Tile { /* rows of a constant on their way to memory */
    void *p;
    ValueId v;
    i64 r0, nr;
} Tile;

typedef struct Stage { /* a transform of a constant in memory, in place */
    float *p;
    const Op *op;
    i64 rows, cols;
    u32 level; /* transforms of lower levels go before */
} Stage;

typedef struct CalibRows {
    i64 s0, s1, r0, r1, step;
} CalibRows;

struct Calib {
    PassCx *cx;
    Module *m;
    Diag *d;
    u32 fn;
    i64 sequences, length, pos0; /* pos0 counts the prefix */
    i32 *tokens;                 /* [sequences * length] */
    i32 *pos;                    /* [length] */
    u32 at, nt, nvalues;
    u32 *last; /* [nvalues] last op of @main's body that reads it; UINT32_MAX: none */
    VEC(Dense) dense;
    VEC(Kept) kept;
    Kept spare; /* the file dropped last, for a value of equal size; fd -1: none */
    VEC(Override) over;
    Arena a;
    Worker *worker; /* [nt] */
    OpEval *ops[OP_COUNT];
    u64 memory;                    /* of the machine: nothing larger is tried */
    u64 range_bytes, stream_bytes; /* RANGE_BYTES and STREAM_BYTES; tests make them small */
    /* the run in progress */
    u32 from, end;
    i64 run_sequences;
    CalibRows blocks; /* step 0: whole sequences */
    CalibHook *hook;
    void *user;
    atomic_bool stop;
    atomic_int next; /* tile of constants to compute */
    VEC(Tile) tiles;
    VEC(Stage) stages;
    u32 level; /* of the stages in work */
};

/* calib_run in blocks of `step` rows, for ranges without attention whose values are too large for
 * whole sequences (logits): rows [r0, r1) of sequences [s0, s1). Block i runs on thread i % nt. */
bool calib_run_rows(Calib *c, u32 end, CalibRows rows, CalibHook *hook, void *user);

/* ---- run.c ---- */
/* Runs job on every worker; false, with the first worker's diagnostic, if one fails. */
bool calib_parallel(Calib *c, bool (*job)(Worker *w));
bool calib_evals(Calib *c); /* an Eval per worker that knows the module as it stands */

/* ---- store.c ---- */
/* The dense constant, or NULL if it is none. An override goes before. */
const void *dense_find(const Calib *c, ValueId v, bool overridden);
bool dense_streams(const Calib *c, const Op *op, u32 k); /* read in tiles: never dense */
/* Makes the constants that ops [from, end) read dense, dropping others if there is no room. */
bool dense_load(Calib *c, u32 from, u32 end);
bool dense_load_one(Calib *c, ValueId v);
u64 dense_bytes(const Calib *c, ValueId v);
void dense_drop_past(Calib *c, u32 at); /* whose last use is before at */
Kept *kept_find(const Calib *c, ValueId v);
/* Files for the values of [from, end) that ops from `end` on read; kept_write fills them, kept_map
 * makes them readable. */
bool kept_open(Calib *c, u32 from, u32 end, bool transient);
bool kept_write(const Calib *c, i64 sequence, const Tensor *t, ValueId v, i64 row);
bool kept_map(Calib *c);
void kept_drop(Calib *c, u32 at,
               bool transient); /* those of no use from `at` on; or the transient */
void kept_free(Calib *c);       /* all, and the spare */

int calib_temp_file(Arena *a); /* without a name; -1 with errno */
bool calib_write_at(int fd, const void *data, u64 n, u64 at);

/* ---- cache.c ---- */
const char *calib_cache_path(const CalibCache *c);

/* ---- fast_ops.c ---- */
/* Fills out[OP_COUNT] with all ops in f32: the reference's, and faster ones with the same meaning.
 */
void fast_ops(OpEval **out);
void fast_half(OpEval **out); /* linears by half_product */
/* Share `part` of `parts` of a transform (op `hadamard`) of x[rows, cols], in place. */
void transform_dense(Eval *e, const Op *op, float *x, i64 rows, i64 cols, i64 part, i64 parts);
i64 calib_elems(const Tensor *t);

/* y[rows, n], its rows `stride` apart, = x[rows, k] w[n, k]^T; all f32 and dense but for the
 * stride. Scratch is taken from the Eval. */
typedef struct Product {
    const float *x, *w;
    float *y;
    i64 rows, k, n, stride;
} Product;
void product(Eval *e, const Product *p);

/* ---- half_product.c: the same of operands rounded to bf16 ---- */
void half_product(Eval *e, const Product *p);
void half_product_plain(Eval *e, const Product *p); /* on any CPU */

#endif
