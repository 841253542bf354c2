/* Compiled kernels between compiles: a file each in the user's cache folder, named by everything
 * that the code follows from: NVRTC, its options, the target, the source and all it may include.
 *
 * A file is read whole and checked, so one that is cut short or of another format is as good as
 * none. Nothing here fails: what cannot be kept is compiled again. One thread at a time.
 */
#ifndef PFQC_CODEGEN_KERNEL_CACHE_H
#define PFQC_CODEGEN_KERNEL_CACHE_H

#include "codegen/nvrtc.h"

typedef struct KernelCache KernelCache;

/* dir: CgOptions.cache_dir. Of all sources, which have the headers of `any`. Lives in `a`. */
KernelCache *kernel_cache_open(Arena *a, const char *dir, const Nvrtc *n, const NvrtcSource *any);
/* True: *out is what nvrtc_compile would make, malloc'ed. */
bool kernel_cache_get(const KernelCache *c, const NvrtcSource *s, const char *arch, CgObject *out);
void kernel_cache_put(const KernelCache *c, const NvrtcSource *s, const char *arch,
                      const CgObject *code);

#endif
