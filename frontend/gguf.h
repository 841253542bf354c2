/* Reader of GGUF versions 2 and 3, little-endian: header, metadata and tensor table.
 *
 * The file (or any memory: MappedFile is only a name, a pointer and a size) must stay mapped while
 * the result is used: strings and arrays are views into it, read with memcpy because nothing there
 * is aligned. Everything is checked once, in gguf_parse; the accessors need no further bounds.
 * Memory use is a small multiple of the header's bytes, whatever counts it declares. Refused with
 * one diagnostic (E_FILE_FORMAT, E_TENSOR_DTYPE, E_LIMIT): other versions, big-endian files, nested
 * arrays, duplicate keys or names, an alignment that is no power of two in 8..65536, more than 4
 * dimensions, a dimension of 0, rows that are not whole blocks, tensor data that overlaps, leaves
 * holes or ends beyond the file. Bytes after the last tensor are ignored, as in ggml.
 */
#ifndef PFQC_FRONTEND_GGUF_H
#define PFQC_FRONTEND_GGUF_H

#include "frontend/ck_tensor.h"
#include "ir/base/io.h"

typedef enum GgufType { /* numbers of the format */
                        GGUF_U8,
                        GGUF_I8,
                        GGUF_U16,
                        GGUF_I16,
                        GGUF_U32,
                        GGUF_I32,
                        GGUF_F32,
                        GGUF_BOOL,
                        GGUF_STRING,
                        GGUF_ARRAY,
                        GGUF_U64,
                        GGUF_I64,
                        GGUF_F64,
                        GGUF_TYPE_COUNT
} GgufType;

enum {
    GGUF_MAX_RANK = 4,
    GGUF_MAX_KV = 65536, /* metadata keys */
    GGUF_MAX_KEY = 65535,
    GGUF_MAX_STRING = 64 << 20,
    GGUF_MIN_ALIGNMENT = 8,
    GGUF_MAX_ALIGNMENT = 65536,
};

typedef struct GgufKv {
    Str key;
    const u8 *data; /* first element in the file, unaligned */
    u64 count;      /* elements of an array; 1 otherwise */
    u8 type, elem; /* GgufType; elem is the type of the elements (= type unless it is GGUF_ARRAY) */
} GgufKv;

typedef struct Gguf {
    const Source *src; /* for diagnostics */
    const u8 *data;    /* start of the file */
    u32 version, alignment;
    u64 data_offset; /* start of tensor data */
    const GgufKv *kv;
    const CkTensor *tensor; /* [n_tensors], in the file's order */
    u32 n_kv, n_tensors;
    Map index; /* key -> kv */
} Gguf;

/* By the content, whatever the name is: it starts with "GGUF". A path that cannot be read is not
 * one. */
bool gguf_is(const MappedFile *f);
bool gguf_is_at(const char *path);
bool gguf_parse(Diag *d, Arena *a, const MappedFile *f, Gguf *out);

const GgufKv *gguf_find(const Gguf *g, const char *key); /* NULL if absent */
Loc gguf_loc(const Gguf *g, const GgufKv *kv); /* where the value stands, for diagnostics */

/* Scalars. Absent, of another kind or outside the result's range: E_FILE_FORMAT, naming the key.
 * Any integer type is read by u64 and i64; any integer or float by f64. For optional keys ask
 * gguf_find first. */
bool gguf_u64(Diag *d, const Gguf *g, const char *key, u64 *out);
bool gguf_i64(Diag *d, const Gguf *g, const char *key, i64 *out);
bool gguf_f64(Diag *d, const Gguf *g, const char *key, double *out);
bool gguf_bool(Diag *d, const Gguf *g, const char *key, bool *out);
bool gguf_str(Diag *d, const Gguf *g, const char *key, Str *out);

/* Arrays: the entry, after a check that it is an array of strings, or of numbers or booleans; else
 * NULL. */
const GgufKv *gguf_str_array(Diag *d, const Gguf *g, const char *key);
const GgufKv *gguf_num_array(Diag *d, const Gguf *g, const char *key);
const char *gguf_type_name(u32 type); /* "u32"; "?" if unknown */

/* Element i < count of a number, boolean (0 or 1) or array of those. As i64, floats are cut towards
 * zero and saturate (NaN is 0), and u64 beyond i64 saturates. */
i64 gguf_elem_i64(const GgufKv *kv, u64 i);
double gguf_elem_f64(const GgufKv *kv, u64 i);

/* Strings of an array, in order:  const u8 *p = kv->data; for (i < kv->count) { Str s =
 * gguf_next_str(&p); ... } They may hold any bytes, also NUL and invalid UTF-8. */
Str gguf_next_str(const u8 **p);

#endif
