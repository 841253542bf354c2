/* plan.json, read and checked: the tables that the page is made of. Strings lie in the arena of the
 * reader or in the file's text. */
#ifndef PFQC_INSPECT_PLAN_H
#define PFQC_INSPECT_PLAN_H

#include "ir/base/diag.h"

typedef struct PlRef { /* an operand of a call */
    Str place;         /* "act", "kv", "private"; "tokens", "logits" or a section of the weights */
    Str type;          /* "s8[T,576]"; empty: a section */
    Str name;          /* "%n1.0.q", of model.pfir; empty: not known */
    i64 off, bytes;
    u32 writer; /* of an input: 1 + the call that wrote it last; 0: none before */
    u32 last;   /* of an output: the last call that reads it; its own, if none does */
} PlRef;

typedef struct PlCall {
    i64 step, layer;  /* layer -1: none */
    u32 kernel;       /* of Plan.kernel */
    i64 flops, bytes; /* per row (attention: and key); of weights */
    bool barrier, each, per_key;
    PlRef *in, *out; /* without those that are null */
    PlRef w;         /* place empty: none */
    u32 n_in, n_out;
} PlCall;

typedef struct PlPhase {
    Str name;
    PlCall *call;
    u32 n;
    i64 barriers;
} PlPhase;

typedef struct PlKernel {
    Str name, kind, file; /* "norm_s8_576", "norm", "norm.c" */
} PlKernel;

typedef struct PlCuda {              /* a kernel for GPUs */
    Str name, kind, file, code_of;   /* code_of: the kernel whose code it is; empty: its own */
    i64 calls, block, shared, bytes; /* bytes of code, of the first GPU that uses it */
    Str phase;                       /* of a call that it computes, empty: none */
    i64 step;
} PlCuda;

typedef struct PlPass {
    Str name, options;
    i64 changes, ops;
} PlPass;

typedef struct PlFact { /* a number by name and layer */
    Str name;
    i64 layer; /* -1: none */
    double value;
} PlFact;

typedef struct PlToken { /* one of the largest of a layer */
    double ratio;        /* to the median of its sequence */
    i64 id, sequence, position;
    Str text; /* empty: not known */
} PlToken;

/* How large the tokens of a layer are beside the median: bin i counts those from
 * 2^((i - PL_BIN_ONE) / 2) on. */
enum { PL_BINS = 40, PL_BIN_ONE = 8 };
typedef struct PlTokens {
    Str when; /* "before" or "after" the prefix */
    i64 layer;
    i64 bin[PL_BINS];
    PlToken *top; /* [n_top], largest first */
    u32 n_top;
} PlTokens;

typedef struct PlSection {
    Str name, layout;
    i64 bytes;
} PlSection;

enum { PL_PHASES = 3 };

typedef struct Plan {
    Str version, model, recipe;
    Str text;  /* all of plan.json */
    i64 chunk; /* rows of @prefill */
    i64 context, activations, kv_per_token, weight_bytes, read_per_token;
    VEC(i64) prefix;
    VEC(Str) prefix_text; /* of its tokens; empty without a tokenizer */
    VEC(Str) target;
    bool cpu; /* one of the targets is a CPU, so that kernels have sources for it */
    VEC(PlPass) pass;
    VEC(PlFact) sqnr, weight_sqnr, outlier; /* of values, of weights; dB */
    VEC(PlTokens) tokens;
    VEC(PlKernel) kernel;
    VEC(PlCuda) cuda;
    VEC(PlSection) section;
    PlPhase phase[PL_PHASES]; /* prefill, logits, decode */
} Plan;

bool plan_read(Diag *d, Arena *a, const char *path, Plan *out);

/* The call behind those from `from` on that are of one layer. */
u32 plan_layer_end(const PlPhase *ph, u32 from);

/* What a tensor is in its layer, and the layer (-1: none):
 * "model.layers.3.mlp.down_proj.weight.rot.pack" is "mlp.down_proj" of 3. */
Str plan_role(Arena *a, Str name, i64 *layer);

#endif
