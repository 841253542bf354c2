/* `pfqc init`: a checkpoint -> a complete model.json that a person can edit.
 *
 * The checkpoint is a Hugging Face folder (config.json, model.safetensors or an index,
 * tokenizer.json, tokenizer.model, or vocab.json with merges.txt) or a .gguf file. Its architecture
 * description (arch.h) gives the dims, the tensor names and the graph; everything that varies is
 * decided here and written out, so that model.json names no family's rules. The result is loaded
 * once before it is written: a tensor that is missing, has another shape or is not used is an error
 * now (E_TENSOR_*). Paths are written relative to the output file. The name is, in this order: the
 * given one; of a GGUF file general.basename, else general.name; the folder's or file's name; in
 * lower case, other characters as '-'.
 */
#ifndef PFQC_FRONTEND_INIT_H
#define PFQC_FRONTEND_INIT_H

#include "ir/base/diag.h"

typedef struct FeInit {
    const char
        *checkpoint;    /* folder, .gguf or .safetensors file (then config.json stands beside it) */
    const char *output; /* model.json to write; NULL: only *text is set */
    const char *name;   /* NULL: from the checkpoint */
    const char *recipe; /* NULL: the default */
    const char *text;   /* out: what was written */
} FeInit;

bool fe_init(Diag *d, Arena *a, FeInit *init);

#endif
