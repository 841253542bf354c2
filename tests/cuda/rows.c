/* The emulated kernels under the entries of the CPU's: what test_kernels loads as the variant
 * "cuda".
 *
 * A call launches the whole grid of the row in codegen/cuda/kernels.def on thread 0 and does
 * nothing on others. With more than one thread, or PFQ_SHUFFLE in the environment, emulated threads
 * and blocks run in a pseudorandom order: the test compares the bits of both.
 */
#include "runtime/abi.h"
#include "tests/cuda/simt.h"

#include <stdlib.h>
#include <string.h>

#define CONSTANT(name, type, def, doc) extern type c_##name;
#define KERNEL(id, name, template, entry, scratch, doc)                                            \
    void call_##id(const PfqArgs *a, int tid, int nt) __asm__(entry);
#include "codegen/cpu/kernels.def"
#define CUDA_CONSTANT(name, type, def, doc) extern type c_##name;
#include "codegen/cuda/kernels.def"

typedef struct Launch {
    SimtKernel *kernel;
    int64_t block, grid_x, rows, shared;
} Launch;

static void launch(const PfqArgs *a, int tid, int nt, const Launch *l)
{
    if (tid) return;
    PfqRow *rows = malloc((size_t)a->T * sizeof *rows);
    PfqCudaArgs c = {.w = (uintptr_t)a->w, .rows = (uintptr_t)rows, .T = a->T, .ctx = a->ctx};
    for (int32_t t = 0; t < a->T; t++)
        rows[t] = (PfqRow){.pos = a->pos + t};
    for (int i = 0; i < 8; i++) {
        c.in[i] = (uintptr_t)a->in[i];
        c.out[i] = (uintptr_t)a->out[i];
        c.aux[i] = (uintptr_t)a->aux[i];
    }
    const int32_t grid[3] = {(int32_t)l->grid_x, (int32_t)((a->T + l->rows - 1) / l->rows), 1};
    simt_shuffle = nt > 1 || getenv("PFQ_SHUFFLE");
    l->kernel(&c, grid, (int32_t)l->block, (int32_t)l->shared);
    free(rows);
}

#define CUDA(id, template, entry, block, grid_x, rows, shared)                                     \
    extern SimtKernel simt_##id __asm__(entry "_simt");                                            \
    void call_##id(const PfqArgs *a, int tid, int nt)                                              \
    {                                                                                              \
        const int64_t N = c_N, K = c_K, H = c_heads, G = c_kv_heads, D = c_head_dim;               \
        (void)N, (void)K, (void)H, (void)G, (void)D;                                               \
        const Launch l = {simt_##id, block, grid_x, rows, shared};                                 \
        launch(a, tid, nt, &l);                                                                    \
    }
#include "codegen/cuda/kernels.def"

/* For gpu_rows.c on the stub of the driver: the constants as a kernel's module has them, which the
 * stub asks to be spread before each launch. */
typedef struct Constants {
#define CONSTANT(name, type, def, doc) type v_##name;
#include "codegen/cpu/kernels.def"
#define CUDA_CONSTANT(name, type, def, doc) type v_##name;
#include "codegen/cuda/kernels.def"
} Constants;
extern Constants pfq_test_constants;
Constants pfq_test_constants;
void pfq_before_launch(void);

void pfq_before_launch(void)
{
#define CONSTANT(name, type, def, doc) c_##name = pfq_test_constants.v_##name;
#include "codegen/cpu/kernels.def"
#define CUDA_CONSTANT(name, type, def, doc) c_##name = pfq_test_constants.v_##name;
#include "codegen/cuda/kernels.def"
}
