/* How tensors are stored in checkpoint files, and what the bytes mean in f32.
 *
 * A tensor's elements are stored row-major in blocks of `block` elements; the innermost dimension
 * is a whole number of blocks, so a row (and the whole tensor) is one run of blocks. enc_decode
 * gives the f32 values that the format defines, bit for bit: same formula, same order of f32
 * operations as ggml's reference (products are rounded before they are added; nothing is fused).
 * f64, 32- and 64-bit integers round to the nearest f32. Sources need no alignment. All functions
 * are pure and may be called from any thread. Sizes that come from a file are checked by enc_bytes;
 * enc_decode trusts its caller that the bytes are there. Not here: encodings of values inside the
 * IR (dtypes), packed weight layouts (codegen).
 */
#ifndef PFQC_IR_ENCODING_H
#define PFQC_IR_ENCODING_H

#include "ir/base/str.h"

typedef enum EncId {
    ENC_NONE,
#define X(id, name, st, gguf, block, bytes, decoder) id,
#include "ir/encodings.def"
#undef X
    ENC_COUNT
} EncId;

typedef struct EncInfo {
    const char *name;        /* as in .pfir: "q4_1" */
    const char *safetensors; /* "BF16"; NULL if that format has no such dtype */
    int gguf;                /* ggml type number; -1 if none */
    u32 block, bytes;        /* elements and bytes of a block */
} EncInfo;

const EncInfo *enc_info(EncId enc); /* of any EncId but ENC_NONE */
EncId enc_by_name(Str name);        /* ENC_NONE if unknown */
EncId enc_by_safetensors(Str dtype);
EncId enc_by_gguf(u32 type);

/* Bytes of `elements` elements; false if they are not whole blocks or do not fit 64 bits. */
bool enc_bytes(EncId enc, u64 elements, u64 *bytes);

/* out[i] = element first + i of the run of blocks at src, for i < count. No alignment to blocks is
 * needed. */
void enc_decode(EncId enc, const u8 *src, u64 first, u64 count, float *out);

#endif
