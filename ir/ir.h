/* The intermediate representation: types, values, ops, functions, and weights as expressions.
 *
 * Semantics contract (what every evaluator, folder and kernel must agree on)
 * - Floats: results are f32 unless an op says otherwise; f16/bf16 exist as storage, reached by
 * `cast`, rounded half to even. The reference evaluator computes in f64 or f32 throughout; the
 * order of a float sum is free. NaN and infinity follow IEEE 754; no op is required to preserve NaN
 * payloads.
 * - Integers: products of quantised values are exact and their sums within a group exact in 32-bit
 * signed arithmetic. quantize rounds half to even after one f32 division, then clamps. Signed
 * symmetric types clamp to [-hi, hi], with attribute `full` to [lo, hi].
 * - Scales: of a whole row or group of it (qparams); or static, a constant that broadcasts: [1,1]
 * for an activation [T,K], [heads,1] for [T,heads,d].
 * - Integer states hold integers as they are; a row that attend reads is q * s + m. A state of
 * scales rounds them to its type.
 * - Shapes: row-major, rank 0..4. A dimension is a positive number or a symbol (T, R, C), equal
 * symbols are equal sizes. Broadcasting aligns shapes from the right; only size-1 and missing
 * leading dimensions of the second operand stretch.
 * - A function is a straight line: every operand is defined before its use, in the constant region,
 * or a parameter. Ops flagged STATEFUL keep their relative order. There is no aliasing but through
 * states.
 *
 * Ownership: a Module owns everything in its arena; handles are u32, 0 is "none"; handles of erased
 * ops are never reused. Threading: a Module may be read by many threads when none writes it. Not
 * here: text form (ir/text.h), evaluation (ir/eval.h), meaning of passes (passes/).
 */
#ifndef PFQC_IR_IR_H
#define PFQC_IR_IR_H

#include "ir/base/diag.h"
#include "ir/base/io.h"

typedef u32 TypeId, ValueId, OpId, StrId;

typedef enum DType {
    DT_NONE,
#define X(id, ...) DT_##id,
#include "ir/dtypes.def"
#undef X
    DT_COUNT
} DType;

typedef struct DTypeInfo {
    const char *name;
    u8 bits;
    bool is_float;
    i64 lo, hi; /* integer types */
} DTypeInfo;
extern const DTypeInfo dtype_info[DT_COUNT];
DType dtype_by_name(Str s); /* DT_NONE if unknown */

/* What qparams divides a range by. With `full` the largest element would lie half a step beyond the
 * highest integer, a tie that rounding errors decide; a millionth more puts it on one side. */
static inline double qparams_top(DType dt, bool full)
{
    const double hi = (double)dtype_info[dt].hi;
    return full ? (hi + 0.5) * (1 + 0x1p-20) : hi;
}

/* Symbolic dimensions are negative. */
enum { DIM_T = -1, DIM_R = -2, DIM_C = -3, DIM_SYMBOLS = 3, MAX_RANK = 4 };

typedef struct Type {
    DType dt;
    u32 rank;
    i64 dim[MAX_RANK];
} Type;

typedef enum OpKind {
    OP_NONE,
#define X(id, ...) OP_##id,
#include "ir/ops.def"
#undef X
    OP_COUNT
} OpKind;

typedef enum AttrId {
    A_NONE,
#define X(id, ...) A_##id,
#include "ir/attrs.def"
#undef X
    A_COUNT
} AttrId;

typedef enum AttrKind { AK_INT, AK_FLOAT, AK_STR, AK_INTS, AK_FLOATS } AttrKind;

typedef struct AttrInfo {
    const char *name;
    AttrKind kind;
    double def;
    const char *doc;
} AttrInfo;
extern const AttrInfo attr_info[A_COUNT];

typedef struct Attr {
    AttrId id;
    u32 n; /* of ints or floats */
    union {
        i64 i;
        double f;
        StrId s;
        const i64 *ints;
        const double *floats;
    };
} Attr;

enum { OPF_LEAF = 1, OPF_CONST = 2, OPF_STATEFUL = 4 };

typedef enum TileRule { /* locality of a constant op: see ir/eval.h */
                        TILE_NONE,
                        TILE_LEAF,
                        TILE_ELEM,
                        TILE_RESHAPE,
                        TILE_TRANSPOSE,
                        TILE_SLICE,
                        TILE_CONCAT,
                        TILE_UNPERMUTE,
                        TILE_MIX,
                        TILE_GROUPS,
                        TILE_PACK
} TileRule;

typedef struct Op {
    OpKind kind; /* OP_NONE: erased */
    u32 fn;      /* 0: constant region; else index into Module.fns */
    i32 layer;   /* transformer layer it came from, -1 if none */
    u32 step;    /* kernel step of its function, 0 before fuse */
    u32 nin, nout, nattr;
    ValueId *in; /* [nin], 0 = absent optional operand */
    ValueId out; /* first of nout consecutive values */
    Attr *attr;  /* [nattr], sorted by id */
} Op;

typedef struct Value {
    TypeId type;
    OpId def;   /* 0 for a parameter */
    u32 fn;     /* 0: constant region */
    u32 index;  /* which result of def, or which parameter */
    StrId name; /* without sigil; 0: printed as a number. Constants always have one */
} Value;

typedef struct Step { /* one kernel call: a run of consecutive ops with this step number */
    StrId kernel;     /* name in codegen's kernel tables, e.g. "linear.u4g32.qkv" */
    ValueId weights;  /* constant `pack` it streams, 0 if none */
} Step;

typedef struct Fn {
    StrId name;
    VEC(ValueId) params;
    VEC(OpId) body;
    VEC(ValueId) results;
    VEC(Step) steps; /* step number s is steps.at[s-1] */
    u64 act_bytes;   /* activation arena, set by the memory pass */
} Fn;

typedef struct File { /* a weight file; opened on demand */
    StrId path;       /* relative to Module.dir, as model.json or the .pfir names it */
    u64 bytes;        /* expected size, 0 = unknown */
    MappedFile map;
    bool open;
} File;

typedef struct KeyVal {
    StrId key;
    Attr val; /* id unused; kind in `kind` */
    AttrKind kind;
} KeyVal;

typedef struct Module {
    Arena *a;
    StrId name;
    const char *dir; /* folder that file paths are relative to */
    VEC(KeyVal)
    meta; /* facts for later stages: "arch", "context", "vocab", "layers", ... sorted by key */
    VEC(File) files;
    VEC(OpId) consts; /* constant region, in order */
    VEC(Fn) fns;      /* [0] is unused, so that 0 means the constant region */
    VEC(Type) types;
    VEC(Op) ops;
    VEC(Value) values;
    VEC(const char *) strs;
    Map type_map, str_map, const_map; /* const_map: name -> ValueId */
} Module;

typedef struct OpInfo {
    const char *mnemonic;
    u32 min_in, max_in, nout, flags;
    const char *attrs;
    TileRule tile;
    const char *effect;
} OpInfo;
extern const OpInfo op_info[OP_COUNT];
OpKind op_by_name(Str s); /* OP_NONE if unknown */

/* ---- ir.c: construction ---- */
Module *ir_module_new(Arena *a, const char *name, const char *dir);
StrId ir_str(Module *m, const char *s);
StrId ir_strn(Module *m, Str s);
const char *ir_cstr(const Module *m, StrId s); /* "" for 0 */
TypeId ir_type(Module *m, DType dt, u32 rank, const i64 *dim);
TypeId ir_type2(Module *m, DType dt, i64 rows, i64 cols);
const Type *type_of(const Module *m, ValueId v);
i64 type_elems(const Type *t); /* product of dimensions; -1 if any is symbolic or it overflows */
i64 type_cols(const Type *t);  /* last dimension, 1 for rank 0 */
i64 type_rows(const Type *t);  /* product of the others; -1 if symbolic */
u32 ir_fn_new(Module *m, const char *name);
ValueId ir_param(Module *m, u32 fn, const char *name, TypeId type);
u32 ir_file(Module *m, const char *path, u64 bytes); /* index into files; same path, same index */
Fn *ir_fn(Module *m, const char *name);              /* NULL if absent */

/* Metadata. Getters return the default when the key is absent. */
void ir_meta_int(Module *m, const char *key, i64 v);
void ir_meta_float(Module *m, const char *key, double v); /* finite: dumps are read back */
void ir_meta_str(Module *m, const char *key, const char *v);
i64 ir_meta_get_int(const Module *m, const char *key, i64 def);
const char *ir_meta_get_str(const Module *m, const char *key, const char *def);

/* Attributes for building: a terminated list, e.g. (AttrSpec[]){{A_EPS, .f = 1e-5}, {0}}. */
typedef struct AttrSpec {
    AttrId id;
    i64 i;
    double f;
    const char *s;
    u32 n;
    const i64 *ints;
    const double *floats;
} AttrSpec;

/* Where new ops go: the end of fn's body (or of the constant region when fn is 0), or before an op.
 */
typedef struct Builder {
    Module *m;
    Diag *d;
    u32 fn;
    OpId before; /* 0: at the end */
    i32 layer;
} Builder;

/* Adds an op and infers its result types (the table's type rule). Returns its first result, or 0
 * after a diagnostic (E_IR_VERIFY); for ops without results any non-zero value. `type` is for LEAF
 * ops, 0 otherwise. `name`: of the first result, without sigil; NULL for unnamed. Constant names
 * are made unique by a suffix. */
ValueId ir_op(Builder *b, OpKind kind, const ValueId *in, u32 nin, const AttrSpec *attrs,
              TypeId type, const char *name);
#define INS(...)                                                                                   \
    (const ValueId[]){__VA_ARGS__}, (u32)(sizeof((ValueId[]){__VA_ARGS__}) / sizeof(ValueId))
#define ATTRS(...)                                                                                 \
    (const AttrSpec[])                                                                             \
    {                                                                                              \
        __VA_ARGS__, {0}                                                                           \
    }

static inline Op *op_at(const Module *m, OpId id)
{
    return &m->ops.at[id];
}
static inline Value *value_at(const Module *m, ValueId v)
{
    return &m->values.at[v];
}
static inline Op *def_of(const Module *m, ValueId v)
{
    return &m->ops.at[m->values.at[v].def];
} /* kind OP_NONE for params */
static inline bool is_const(const Module *m, ValueId v)
{
    return m->values.at[v].fn == 0 && m->values.at[v].def;
}
static inline ValueId op_in(const Op *op, u32 i)
{
    return i < op->nin ? op->in[i] : 0;
}

const Attr *op_attr(const Op *op, AttrId id); /* NULL if absent */
i64 op_int(const Op *op, AttrId id);          /* default when absent */
double op_float(const Op *op, AttrId id);
const char *op_str(const Module *m, const Op *op, AttrId id); /* "" when absent */
void op_set_int(Module *m, OpId op, AttrId id, i64 v);
void op_set_ints(Module *m, OpId op, AttrId id, const i64 *v, u32 n);
DType op_dtype(const Module *m, const Op *op); /* attribute dtype */

/* ---- edit.c: rewriting ---- */
u32 ir_count_uses(const Module *m, ValueId v);
void ir_replace_uses(Module *m, ValueId from,
                     ValueId to); /* everywhere: operands, results, step weights */
void ir_replace_uses_in(Module *m, u32 fn, ValueId from, ValueId to);
void ir_erase(Module *m, OpId op); /* results must be unused */
void ir_rename(Module *m, ValueId v, const char *name);
void ir_fn_remove(Module *m, u32 fn); /* and its ops; functions behind it move up by one */
u32 ir_clone_fn(Module *m, u32 fn,
                const char *name); /* copies body; constants and states are shared */
/* Users of v among live ops, in order; at most cap are written; returns how many there are. */
u32 ir_users(const Module *m, ValueId v, OpId *out, u32 cap);
u32 ir_op_position(const Module *m, OpId op); /* index in its body */

/* ---- types.c / verify.c ---- */
/* Infers result types of an op whose operands and attributes are set; LEAF ops keep out[0]. */
bool ir_infer(Diag *d, Module *m, const Op *op, TypeId *out);
bool ir_verify(Diag *d, Module *m); /* every rule; reports all breaches, each printing its op */

#endif
