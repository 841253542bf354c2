/* Tokenizers: from the files that ship with a checkpoint to the blob that runtime/tokenizer.h
 * reads.
 *
 * Readers: Hugging Face tokenizer.json; vocab.json with merges.txt; GGUF metadata (gpt2 with `pre`,
 * llama); SentencePiece tokenizer.model (BPE); tiktoken ranks (Llama 3). Ids must be exact, so
 * whatever a reader does not implement (a pattern, a normalizer, a model type) is an error that
 * names it and lists what is supported (E_TOKENIZER_UNSUPPORTED); damaged or inconsistent files are
 * E_TOKENIZER. All input is hostile. The blob lives in the arena; it is deterministic: the same
 * input gives the same bytes.
 */
#ifndef PFQC_FRONTEND_TOKENIZER_H
#define PFQC_FRONTEND_TOKENIZER_H

#include "frontend/gguf.h"
#include "ir/base/io.h"
#include "ir/base/json.h"
#include "runtime/tokenizer.h"

typedef struct TokBlob {
    const u8 *data; /* 8-byte aligned; pfq_tok_open accepts it */
    size_t n;
} TokBlob;

/* `path`: a GGUF file, a tokenizer.json, a tokenizer.model, or a folder that holds tokenizer.json,
 * else tokenizer.model, else vocab.json and merges.txt. Neighbouring tokenizer_config.json,
 * added_tokens.json, generation_config.json and config.json are read for the special tokens if they
 * are there. */
bool fe_tokenizer_load(Diag *d, Arena *a, const char *path, TokBlob *out);

/* Special tokens as the neighbouring files give them; ids are -1 and lists are empty when unknown.
 */
typedef struct TokSpecials {
    Str class;          /* tokenizer_class of tokenizer_config.json */
    Str bos, eos;       /* texts, empty if not named */
    i32 bos_id, eos_id; /* by number, for when the texts name no token */
    const i32 *eog;     /* further end-of-generation ids */
    u32 n_eog;
    int add_bos;       /* 1, 0, or -1: not stated */
    const Json *added; /* tokenizer_config.json's added_tokens_decoder (id: token), for vocab.json;
                          may be NULL */
    const Source *src; /* of `added` */
} TokSpecials;

/* The readers by themselves, over text in memory (fuzzing). `sp` may be NULL. */
bool fe_tokenizer_from_json(Diag *d, Arena *a, const Source *src, const TokSpecials *sp,
                            TokBlob *out);
bool fe_tokenizer_from_gguf(Diag *d, Arena *a, const Gguf *g, TokBlob *out);
bool fe_tokenizer_from_spm(Diag *d, Arena *a, const Source *src, const TokSpecials *sp,
                           TokBlob *out);
bool fe_tokenizer_from_tiktoken(Diag *d, Arena *a, const Source *src, const TokSpecials *sp,
                                TokBlob *out);
/* `pre` names the pre-tokenizer as GGUF does; `added` ({"text": id}) may be NULL, and sp->added
 * goes before it. */
bool fe_tokenizer_from_vocab(Diag *d, Arena *a, const Source *vocab, const Source *merges,
                             const Source *added, const char *pre, const TokSpecials *sp,
                             TokBlob *out);

#endif
