/* What binds steps to kernel calls: the state of cg_plan, shared by bind.c (places, sections,
 * barriers, the walk over a module) and bind_ops.c (one function per family of kernels). Internal
 * to those two. */
#ifndef PFQC_CODEGEN_BIND_H
#define PFQC_CODEGEN_BIND_H

#include "codegen/plan.h"

/* A block of every thread's private memory, held from its definition to its last use. */
typedef struct Private {
    ValueId v;
    u64 off, bytes;
    u32 last_step;
} Private;

typedef struct Bind {
    Diag *d;
    Arena *a;
    Module *m;
    CgPlan *p;
    CgPhase *phase;
    Fn *fn;
    u32 step; /* current, from 1 */
    const Step *st;
    const OpId *ops; /* of the step */
    u32 n_ops;
    const char *variant; /* what follows the row's name in st->kernel */
    CgRowId row;
    CgCall call;             /* being filled */
    double val[CG_N_CONSTS]; /* its constants */
    i64 chunk, rows;
    VEC(Private) priv;
    u64 priv_bytes;
    Map kernel_map, section_map;
} Bind;

/* ---- bind.c ---- */

/* E_KERNEL, naming the step and its ops. */
bool b_refuse(Bind *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The step's first op of this kind (of either kind), NULL if none. */
const Op *b_find(const Bind *b, OpKind kind);
const Op *b_find2(const Bind *b, OpKind k1, OpKind k2);
bool b_in_step(const Bind *b, ValueId v);
bool b_is_result(const Bind *b, ValueId v); /* of the function */
ValueId b_output(const Bind *b);            /* the step's last value that is seen outside it */
i64 b_cols(const Bind *b, ValueId v);

/* Where a value has its bytes. */
bool b_place(Bind *b, ValueId v, CgRef *r);
void b_set(Bind *b, CgConstId c, double v);
bool b_small_const(Bind *b, ValueId v, CgSectionKind kind, CgRef *r);
bool b_packed(Bind *b); /* the step's packed weights become the call's */

/* In decode: results become private to each thread, who all compute them. */
void b_try_private(Bind *b);
/* Finishes the call: finds or makes its kernel, notes what it reads, places the barrier. */
bool b_add_call(Bind *b);

/* ---- bind_ops.c ---- */

/* The calls of the current step. */
bool bind_step(Bind *b);

#endif
