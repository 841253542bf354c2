/* A function of a module as a graph: kernels (steps; before `fuse`, ops) and the values between
 * them. What every picture and list of the model's structure is made from. Lives in the builder's
 * arena; the module must stay.
 */
#ifndef PFQC_INSPECT_GRAPH_H
#define PFQC_INSPECT_GRAPH_H

#include "ir/ir.h"

typedef struct GrNode {
    u32 step;           /* its number from 1: of the step, or of the op */
    const char *kernel; /* "linear.s8.qkv", or a mnemonic */
    i32 layer;          /* -1: none */
    ValueId weights; /* a packed constant; before `layout` the first constant matrix it reads; 0 */
    u32 first, n;    /* its ops are body[first .. first + n) */
    u32 in, n_in;    /* edges to it are edge[in .. in + n_in) */
    u32 out;         /* 1 + the first edge from it; GrEdge.next has the others */
} GrNode;

typedef struct GrEdge {
    u32 from, to; /* 1 + node; from 0: a parameter, to 0: a result */
    ValueId value;
    const char *name, *type;
    u32 next; /* 1 + the next edge from the same node, 0: none */
    const char *
        scale; /* "0.0131", "0.02 to 0.05 (3)" of three, "one per row, at run time"; "" of floats */
} GrEdge;

/* `times` runs of n nodes that differ in their layer alone; the first begins at node `from`. */
typedef struct GrFold {
    u32 from, n, times;
} GrFold;

typedef struct Graph {
    Module *m;
    u32 fn;
    const char *name;
    const char **names; /* ir_value_names */
    const char **scale; /* [values] of those that were asked for */
    ValueId *appended;  /* [values] of a state: what is appended to it */
    VEC(GrNode) node;
    VEC(GrEdge) edge; /* by `to`, in order; those of results last */
    VEC(GrFold) fold;
} Graph;

/* The function that pictures show: a token's, before `phases` the first one; 0: there is none. */
u32 graph_shown(Module *m);
void graph_build(Arena *a, Module *m, u32 fn, Graph *out);

/* The scales of a value of integers, as GrEdge has them. */
const char *graph_scale(Arena *a, Graph *g, ValueId v);
/* "layer 3", "layers 0 to 29, 30 times the same", "outside the layers" */
const char *graph_fold_title(Arena *a, const Graph *g, const GrFold *f);

#endif
