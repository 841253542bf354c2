/* One tensor of a checkpoint, as every file format describes it. Names are views into the mapped file or the arena
 * of the reader. Data is never touched: `offset` is absolute in the file, and offset + bytes <= its size. */
#ifndef PFQC_FRONTEND_CK_TENSOR_H
#define PFQC_FRONTEND_CK_TENSOR_H

#include "ir/encoding.h"

enum {
    CK_MAX_RANK = 8,
    CK_MAX_NAME = 1024,       /* bytes, valid UTF-8 */
    CK_MAX_TENSORS = 1000000, /* in one checkpoint */
};

typedef struct CkTensor {
    Str name;
    u64 dim[CK_MAX_RANK]; /* row-major: dim[rank-1] is contiguous (the reverse of GGUF's order) */
    u64 offset, bytes;    /* absolute in the file */
    u32 file;             /* index into Checkpoint.file; 0 from the single-file readers */
    u8 enc, rank;         /* EncId; rank 0 = one element */
} CkTensor;

#endif
