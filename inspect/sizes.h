/* Bytes by kind of weight: of a compile its packed sections, of a module the tensors that it reads.
 */
#ifndef PFQC_INSPECT_SIZES_H
#define PFQC_INSPECT_SIZES_H

#include "inspect/inspect.h"

typedef struct Size {
    Str role, layout; /* "mlp.down_proj"; a packed layout; "q4_1 [576,1536]" */
    i64 bytes;
    u32 n, first; /* how many; its place among the others in the order of their first */
} Size;

typedef struct Sizes {
    VEC(Size) list; /* the largest first */
    Map index;      /* while they are collected */
    i64 most;       /* bytes, at least 1 */
} Sizes;

Sizes sizes_of(Arena *a, const View *v);

#endif
