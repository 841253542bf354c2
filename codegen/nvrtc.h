/* NVRTC, NVIDIA's compiler of CUDA C++ as a library, loaded when a CUDA target is asked for.
 *
 * pfqc is built without CUDA: nvrtc.c declares the few functions it calls and finds the library
 * with dlopen. It stays loaded until the process ends. nvrtc_compile is thread-safe; it reports
 * into its result, nvrtc_open into the Diag.
 */
#ifndef PFQC_CODEGEN_NVRTC_H
#define PFQC_CODEGEN_NVRTC_H

#include "codegen/codegen_int.h"

typedef struct Nvrtc Nvrtc;

typedef struct NvrtcSource {
    const char *name, *text; /* "src/cuda/norm_576.cu", for its messages */
    int n_headers;
    const char *const *header_names; /* as #include has them */
    const char *const *headers;
} NvrtcSource;

/* Finds and loads the library, and asks it whether it makes code for every GPU of `t`. E_NVRTC;
 * NULL after an error. Lives in `a`. */
const Nvrtc *nvrtc_open(Diag *d, Arena *a, const CgTargets *t);
const char *nvrtc_name(const Nvrtc *n); /* "NVRTC 13.0" */
/* All that its code depends on beside the source and the target: library and options. */
const char *nvrtc_identity(Arena *a, const Nvrtc *n);
/* PfqCuda.driver of its code: cubins load in every driver of the same CUDA major version. */
i32 nvrtc_driver(const Nvrtc *n);

/* One translation unit for `arch`: "sm_90a" gives a cubin, "compute_80" PTX with its NUL.
 * out->error is what the compiler said. */
void nvrtc_compile(const Nvrtc *n, const NvrtcSource *s, const char *arch, CgObject *out);

#endif
