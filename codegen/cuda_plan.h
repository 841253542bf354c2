/* What plans one GPU code: cuda_plan.c chooses kernels, cuda_arena.c places activations,
 * cuda_turns.c tables of RoPE, cuda_load.c the weights, cuda_step.c decoding as one kernel.
 * Internal to those five. */
#ifndef PFQC_CODEGEN_CUDA_PLAN_H
#define PFQC_CODEGEN_CUDA_PLAN_H

#include "codegen/plan.h"

typedef struct CgPick { /* a call of the plan in a phase of the code, for `from` to `to` rows */
    const CgCall *c;
    u32 phase; /* of the plan */
    u32 index; /* of the call in the code's phase: picks of one call have one */
    const CgCudaRow *row;
    CgLaunch launch;
    i32 from, to;
    bool reads_tiles,
        tiles; /* what it reads, or makes, is tiles; cuda_arena.c says so, as of the next */
    bool half; /* its rows of floats are f16 */
    CgRef in[CG_IN], out[CG_OUT];
} CgPick;

typedef struct CgTurns { /* a table of RoPE's cosines and sines */
    const CgCall *like;  /* a call that it serves, and all of the same frequencies */
    u32 phase;           /* of the plan */
    CgRef table;
} CgTurns;

typedef struct CgMake {
    Diag *d;
    Arena *a;
    CgCuda *cuda;
    CgCode *code;
    const CgPlan *p;
    VEC(CgPick) pick[PFQ_CUDA_N_PHASES];
    u32 n_calls[PFQ_CUDA_N_PHASES];
    /* [n_calls] rows that want tiles, or need f16, do not fit there. */
    bool *no_tiles[PFQ_CUDA_N_PHASES], *no_half[PFQ_CUDA_N_PHASES];
    VEC(CgTurns) turns[PFQ_CUDA_N_PHASES];
    bool told[CG_N_ROWS];
} CgMake;

/* The constants that a row's template declares. */
u64 cg_cuda_row_uses(const CgCudaRow *row);
/* Sequences that are decoded together, at most. */
i32 cg_cuda_sequences(const CgMake *mk);
/* Rows that tiles of activations have room for. */
i64 cg_cuda_capacity(const CgMake *mk);

/* Decides which activations are tiles, and sets their picks' `tiles`. False: some picks cannot have
 * the layout they want; no_tiles says so now, and the choice must be made again. */
bool cg_cuda_tiles(CgMake *mk);
/* Decides which floats are f16, and sets their picks' `half`. False: as above, of no_half. */
bool cg_cuda_halves(CgMake *mk);
/* Is operand i of a pick, out[i] or in[i], f16 then? */
bool cg_cuda_half(const CgMake *mk, const CgPick *pick, bool out, u32 i);
/* Places activations where they are of another size than the CPUs' plan says; else as there. */
void cg_cuda_arena(CgMake *mk);

/* ---- cuda_turns.c: RoPE's cosines and sines of all rows, once a phase ---- */

/* Places the tables, behind the other activations. */
void cg_cuda_place_turns(CgMake *mk);
/* Adds the calls that make a phase's. */
void cg_cuda_add_turns(CgMake *mk, u32 phase);
/* The table that a pick reads in aux[7] (c_turns); NULL: it makes its own cosines and sines. */
const CgRef *cg_cuda_turns(const CgMake *mk, u32 phase, const CgPick *pick);
/* Calls that load what cg_cuda_packed was asked for. */
void cg_cuda_loads(CgCuda *cuda, CgCode *code);

/* ---- cuda_step.c: decoding as one kernel ---- */

/* Whether the calls of @decode are what that kernel does. */
bool cg_cuda_step_fits(CgMake *mk);
/* Adds it as phase PFQ_CUDA_STEP, and as PFQ_CUDA_STEPS for as many rows as it can; false if it is
 * not there after all, and CgCode.no_step says why. */
bool cg_cuda_step(CgMake *mk);

#endif
