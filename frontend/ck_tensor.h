/* One tensor of a checkpoint, as every file format describes it, and the checks that the formats
 * share.
 *
 * Names are views into the mapped file or the arena of the reader. Data is never touched: `offset`
 * is absolute in the file, and offset + bytes <= its size. */
#ifndef PFQC_FRONTEND_CK_TENSOR_H
#define PFQC_FRONTEND_CK_TENSOR_H

#include "ir/base/diag.h"
#include "ir/encoding.h"

enum {
    CK_MAX_RANK = 8,
    CK_MAX_NAME = 1024,       /* bytes, valid UTF-8, at least 1 */
    CK_MAX_TENSORS = 1000000, /* in one checkpoint */
};

typedef struct CkTensor {
    Str name;
    u64 dim[CK_MAX_RANK]; /* row-major: dim[rank-1] is contiguous (the reverse of GGUF's order) */
    u64 offset, bytes;    /* absolute in the file */
    u32 file;             /* index into Checkpoint.file; 0 from the single-file readers */
    u8 enc, rank;         /* EncId; rank 0 = one element */
} CkTensor;

u64 ck_elements(const CkTensor *t); /* product of the dims; the readers checked that it fits */

/* A name for a message: at most 80 bytes, control characters and invalid UTF-8 escaped. */
const char *ck_show(Arena *a, Str s);

/* E_LIMIT or E_FILE_FORMAT at loc unless name has 1..CK_MAX_NAME bytes of UTF-8. */
bool ck_check_name(Diag *d, Arena *a, Loc loc, Str name);

/* Sets t->bytes from enc and dims; E_FILE_FORMAT when rows are not whole blocks or the product
 * overflows. */
bool ck_size(Diag *d, Arena *a, Loc loc, CkTensor *t);

/* Tensor data must cover the file from `start` on without overlap; holes must be smaller than
 * `align` (1: no holes). *end is where the last tensor ends. */
bool ck_check_layout(Diag *d, Arena *a, const Source *src, const CkTensor *t, u32 n, u64 start,
                     u64 align, u64 *end);

/* "supported: F32, F16..." under the error before it. */
void ck_hint_encodings(Diag *d, Arena *a, bool gguf);

#endif
