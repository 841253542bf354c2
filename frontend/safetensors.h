/* Reader of safetensors headers (https://huggingface.co/docs/safetensors, with the rules of its
 * 2023 audit).
 *
 * The file (or any memory: MappedFile is only a name, a pointer and a size) must stay mapped while
 * the result is used. Only the header is read. Refused with one diagnostic (E_FILE_FORMAT,
 * E_JSON_*, E_TENSOR_DTYPE, E_LIMIT): a header longer than 100,000,000 bytes or than the file, or
 * not starting with '{'; duplicate names, unknown keys or dtypes; shape x dtype different from the
 * byte range; ranges with holes or overlaps; bytes after the last tensor. Tensors without elements
 * and scalars are allowed.
 */
#ifndef PFQC_FRONTEND_SAFETENSORS_H
#define PFQC_FRONTEND_SAFETENSORS_H

#include "frontend/ck_tensor.h"
#include "ir/base/io.h"
#include "ir/base/json.h"

enum { ST_MAX_HEADER = 100000000, ST_MAX_RANK = CK_MAX_RANK, ST_MAX_META = 65536 };

typedef struct StMeta { /* one entry of __metadata__ */
    Str key, value;
} StMeta;

typedef struct Safetensors {
    const CkTensor *tensor; /* [n_tensors], in the header's order */
    const StMeta *meta;     /* [n_meta] */
    u32 n_tensors, n_meta;
} Safetensors;

bool st_parse(Diag *d, Arena *a, const MappedFile *f, Safetensors *out);

#endif
