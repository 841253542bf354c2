/* One view over the files of a checkpoint: safetensors (one file, or shards named by an index) and
 * GGUF.
 *
 * Opening maps the files and reads headers only; tensor data is never copied. Everything lives in
 * the arena given to ck_open; the mappings last until ck_close. Names are unique over all files. A
 * tied tensor that was stored once (safetensors `__metadata__` {"alias": "stored name"}) is found
 * under both names. Not thread-safe while ck_use is called; everything else only reads.
 */
#ifndef PFQC_FRONTEND_CHECKPOINT_H
#define PFQC_FRONTEND_CHECKPOINT_H

#include "frontend/gguf.h"
#include "frontend/safetensors.h"

typedef enum CkFormat { CK_SAFETENSORS, CK_GGUF } CkFormat;

typedef struct CkFile {
    const char *path; /* as model.json would write it: relative to base_dir, or absolute */
    MappedFile map;
    CkFormat format;
    const Gguf *gguf;      /* metadata of a GGUF file, else NULL */
    const Safetensors *st; /* metadata of a safetensors file, else NULL */
} CkFile;

typedef struct Checkpoint {
    const CkFile *file; /* [n_files] */
    u32 n_files;
    const CkTensor *tensor; /* [n_tensors]: file by file, in the files' order */
    u32 n_tensors;
    u8 *used;  /* [n_tensors], set by ck_use */
    Map index; /* name or alias -> tensor */
} Checkpoint;

/* paths[0..n): each a .safetensors file, a .gguf file, a *.safetensors.index.json, or a folder that
 * holds model.safetensors.index.json, model.safetensors or exactly one .gguf (in this order of
 * preference). The content decides the format, not the name. Relative paths start at base_dir. One
 * diagnostic per bad file. */
bool ck_open(Diag *d, Arena *a, const char *base_dir, const char *const *paths, u32 n,
             Checkpoint *out);
void ck_close(Checkpoint *ck); /* unmaps; also right after a failed ck_open */

const CkTensor *ck_find(const Checkpoint *ck, Str name); /* NULL if absent */
const CkTensor *ck_use(Checkpoint *ck, Str name); /* ck_find, and remember that it was used */
const Gguf *ck_gguf(const Checkpoint *ck);        /* metadata of the first GGUF file, or NULL */

/* Decodes elements [first, first+count) of a tensor, counted row-major, to f32; the caller keeps
 * the range inside. */
void ck_decode(const Checkpoint *ck, const CkTensor *t, u64 first, u64 count, float *out);

#endif
