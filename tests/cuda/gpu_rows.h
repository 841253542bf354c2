/* What the files of kernels-gpu.so share: gpu_rows.c launches kernels on operands of test_kernels,
 * gpu_fast.c chooses rows FAST of codegen/cuda/kernels.def and brings operands into their forms.
 */
#ifndef PFQC_TESTS_CUDA_GPU_ROWS_H
#define PFQC_TESTS_CUDA_GPU_ROWS_H

#include "runtime/abi.h"
#include "tests/kernels/kernel_test.h"

/* Rows of codegen/cpu/kernels.def. */
typedef enum RowId {
#define KERNEL(id, name, template, entry, scratch, doc) ROW_##id,
#include "codegen/cpu/kernels.def"
    N_ROWS
} RowId;

/* The constants of all templates, which tests/kernels/constants.c defines. */
#define CONSTANT(name, type, def, doc) extern type c_##name;
#include "codegen/cpu/kernels.def"
#define CUDA_CONSTANT(name, type, def, doc) extern type c_##name;
#include "codegen/cuda/kernels.def"

enum { LAYOUT_IMAGE, LAYOUT_FRAG4, LAYOUT_FRAG8, LAYOUT_FRAG16 };
enum { WIDE_IN = 1, WIDE_OUT = 2, WIDE_W = 4 };

typedef struct GpuLaunch { /* kernels.def says what the fields are */
    const char *template, *entry;
    int64_t block, grid_x, rows, shared, per_sm, cluster, flags, work, sync;
    int w;
    bool tiles, half;
    int wide; /* set of WIDE_: in[0], out[0], w lie at multiples of 1024; else behind one of 64 */
} GpuLaunch;

/* Launches once for all rows of `a`, whose pointers are into blocks of kt_alloc. */
void gpu_call(const PfqArgs *a, const GpuLaunch *l);
bool gpu_judged(void); /* results are: nothing is left out */
_Noreturn void gpu_die(const char *what, const char *text);

/* The same by a row FAST, or by the plain row `l` with tiles as its result, if there is a way;
 * false: there is none. */
bool gpu_fast(RowId id, const PfqArgs *a, const GpuLaunch *plain);
void gpu_fast_report(void);

extern KtAlloc *kt_alloc_block; /* kt_alloc, set by kt_open */

#endif
