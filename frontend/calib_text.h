/* Text to calibrate on, as tokens of the model's own tokenizer. */
#ifndef PFQC_FRONTEND_CALIB_TEXT_H
#define PFQC_FRONTEND_CALIB_TEXT_H

#include "frontend/tokenizer.h"

typedef struct FeText {
    const i32 *tokens; /* [n], in the arena */
    i64 n;
    i32 bos, eos; /* of the tokenizer, -1 if it has none */
} FeText;

/* The files of path[0..n) one after another, as one text; n = 0: the text that pfqc carries.
 * policy: BOS in front if the tokenizer puts it there. E_FILE_READ, E_TOKENIZER. */
bool fe_text_load(Diag *d, Arena *a, const TokBlob *tok, const char *const *path, u32 n,
                  bool policy, FeText *out);

/* The value of --prefix as ids separated by commas, or "none": it is one of these already, or a
 * text, in which special tokens may be written. */
bool fe_prefix_ids(Diag *d, Arena *a, const TokBlob *tok, const char *text, const char **out);

typedef struct FeTokenNames {
    Arena *a;
    PfqTokenizer t;
} FeTokenNames;
/* False without a tokenizer. */
bool fe_token_names(Arena *a, const TokBlob *tok, FeTokenNames *out);
/* What a token prints, for people; bytes that are no UTF-8 are written \xNN. names: FeTokenNames.
 */
Str fe_token_text(void *names, i32 id);

#endif
