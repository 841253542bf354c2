/* Collects a vocabulary and writes the blob; shared by the readers of frontend/tokenizer.h. Not
 * thread-safe. */
#ifndef PFQC_FRONTEND_TOK_BUILD_H
#define PFQC_FRONTEND_TOK_BUILD_H

#include "frontend/tokenizer.h"

/* Symbols after the vocabulary get their number when the blob is written; until then they carry
 * this bit. */
#define TOKB_EXTRA 0x80000000u

typedef struct TokItem {
    Str model; /* what merging sees; empty with !in_model */
    Str print; /* what decoding prints */
    u8 kind;   /* PFQ_TOKK_ bits */
    bool set, in_model;
} TokItem;

typedef struct TokAdded { /* text that becomes a token wherever it stands */
    Str text;             /* what is looked for: the name, normalised if `normalised` */
    Str name;             /* as the file writes it */
    i32 id;
    bool normalised; /* looked for after normalisation, else before */
} TokAdded;

typedef struct TokBuilder {
    Diag *d;
    Arena *a;
    Loc loc;      /* of the whole tokenizer, for errors that have no better place */
    i64 id_limit; /* ids may have gaps, but not be out of proportion to the number of tokens */
    VEC(TokItem) tok;
    VEC(Str) extra; /* symbols after the vocabulary: characters that are no tokens */
    Map sym;        /* model string -> symbol */
    Map pair;       /* (left, right) -> index in merges */
    VEC(PfqTokMerge) merges;
    VEC(TokAdded) added;
    u32 byte[256];
    i32 bos, eos, unk;
    u32 flags;
    PfqTokPrefix prefix;
    u8 stage[PFQ_TOK_MAX_STAGES];
    u32 n_stage;
    bool ignore_merges; /* a piece that is a token is that token, whatever the merges say */
} TokBuilder;

void tokb_init(TokBuilder *b, Diag *d, Arena *a, Loc loc,
               u64 n_tokens); /* how many the file declares */

/* Defines token `id` (grows the vocabulary). in_model: reachable by merging. False: id out of range
 * or taken. */
bool tokb_token(TokBuilder *b, Loc loc, i64 id, Str model, Str print, u8 kind, bool in_model);

/* Symbol of a model string, PFQ_TOK_NONE if there is none. */
u32 tokb_sym(const TokBuilder *b, Str s);
u32 tokb_sym_or_char(TokBuilder *b,
                     Str s); /* the same, making a symbol after the vocabulary if there is none */

/* A pair merged twice keeps its first rank, or with `last` its last one. */
bool tokb_merge(TokBuilder *b, Loc loc, u32 left, u32 right, u32 rank, u32 result, bool last);

/* Merges of a vocabulary without a merge list: every way to cut a token in two symbols, at the
 * token's rank. rank[id] = PFQ_TOK_NONE: the token is not made by merging. chars: cut between
 * characters, not bytes. */
bool tokb_merges_from_ranks(TokBuilder *b, const u32 *rank, bool chars);

/* The same for SentencePiece scores, one per token: highest first, the leftmost pair among equals.
 */
bool tokb_merges_from_scores(TokBuilder *b, Loc loc, const double *score);

/* Token types of SentencePiece and GGUF. */
enum { TOKB_NORMAL = 1, TOKB_UNKNOWN, TOKB_CONTROL, TOKB_USER, TOKB_UNUSED, TOKB_BYTE };

/* Defines a token by its type. byte_level: the text is in the byte alphabet, else U+2581 stands for
 * a space. rstrip: if special, it swallows the white space after it. */
bool tokb_typed_token(TokBuilder *b, Loc loc, u32 id, Str text, i64 type, bool byte_level);

void tokb_added(TokBuilder *b, Str text, Str name, i32 id, bool normalised);
bool tokb_stage(TokBuilder *b, Loc loc, PfqTokSplit s);

/* The stages and normalisation of a pre-tokenizer by its name in GGUF files (tokenizer.ggml.pre).
 */
bool tokb_stages_by_name(TokBuilder *b, Loc loc, Str pre);

/* The byte a token of the byte alphabet stands for: decodes s into *out; false if a character is
 * outside it. */
bool tokb_from_byte_alphabet(Arena *a, Str s, Str *out);
int tokb_byte_name(Str s);            /* value of "<0xNN>", else -1 */
Str tokb_meta_print(Arena *a, Str s); /* U+2581 -> space */

/* Marks the ids known to end a generation: eos and the special tokens with a well-known name. */
void tokb_mark_eog(TokBuilder *b);
void tokb_specials(TokBuilder *b,
                   const TokSpecials *sp); /* bos, eos and eog as the neighbouring files say */

bool tokb_finish(TokBuilder *b, TokBlob *out);

#endif
