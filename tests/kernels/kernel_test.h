/* Loading kernel templates as shared objects, memory that catches stray reads, and scalar references.
 *
 * A template library is all of codegen/cpu compiled for one ISA variant. In the test the constants are ordinary
 * variables of the library (one build serves every shape); in the benchmark they are constants, as in a compiled
 * model. Everything here exits with a message when something is missing: it is a test.
 */
#ifndef PFQC_TESTS_KERNEL_TEST_H
#define PFQC_TESTS_KERNEL_TEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/abi.h"

/* Constants by name, without the c_; those not listed take kernels.def's default. */
typedef struct KtConst {
    const char *name;
    double value;
} KtConst;

typedef struct KtLib {
    void *handle;
    const char *variant;
} KtLib;

/* A variant is a row of codegen/variants.def, or NAME-emulated: with tests/kernels/amx_emulated.h for AMX; or "cuda", which
 * is emulated everywhere, or "gpu" (tests/cuda). */
bool kt_variant_runs(const char *variant); /* this CPU has what the variant needs */
const char *kt_variant_flags(const char *variant); /* clang's, until the next call */
KtLib kt_open(const char *path, const char *variant);
void *kt_symbol(const KtLib *lib, const char *name);
PfqKernel *kt_kernel(const KtLib *lib, const char *name); /* name as in kernels.def */
bool kt_has(const KtLib *lib, const char *name);
void kt_set(const KtLib *lib, const KtConst *c, size_t n);
size_t kt_scratch(const char *name, int64_t K, int64_t D);

/* Compiles the file `from` with the templates of a source tree; the library is `to`.so. */
KtLib kt_compile(const char *source, const char *variant, const char *from, const char *to);
/* A kernel with its constants, as in a compiled model; writes its C to `path`. */
PfqKernel *kt_specialise(const char *source, const char *variant, const char *path, const char *name, const KtConst *c,
                         size_t n);

/* Zeroed-at-exit arena of one test case: 64-byte aligned blocks, filled with NaN bytes, whose end (rounded up to 64)
 * is followed by an unreadable page. */
void *kt_alloc(size_t bytes);
void kt_free_all(void);

/* The block of kt_alloc that p points into or right behind, without its padding in front. A library whose kernels run in
 * other memory has a variable kt_find_block, which kt_open sets to the function of that type. */
typedef bool KtFindBlock(const void *p, void **block, size_t *bytes);
/* A library's variable kt_slack, a double: what its last kernel may be off, relative to the largest of the results. */
typedef void *KtAlloc(size_t bytes); /* kt_alloc, in the same way as kt_alloc_block */

/* Numbers in [-1, 1) and integers in [lo, hi], from one seeded stream. */
void kt_seed(uint64_t seed);
double kt_uniform(void);
int32_t kt_int(int32_t lo, int32_t hi);

float kt_f16(uint16_t h);
uint16_t kt_to_f16(float x);

/* Packed weights with the floats they stand for: w[n * K + k], dequantised exactly. */
typedef struct KtWeight {
    int32_t N, K, tiles;
    void *packed;
    double *w;
} KtWeight;

enum { KT_F32, KT_S8, KT_U4G32, KT_S4, KT_BF16 };

/* interleave 2: rows are N/2 of gate, N/2 of up, packed in alternating tiles. */
KtWeight kt_weight(int layout, int32_t N, int32_t K, int interleave);

/* Activations with the values they stand for: x[t * K + k]. fmt as in kernel.h. Static: all scales are 1. */
typedef struct KtAct {
    void *ints;
    float *scales;
    double *x;
} KtAct;

KtAct kt_activation(int fmt, int32_t T, int32_t K, bool is_static);

#endif
