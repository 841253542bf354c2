/* From a conversation to the tokens of a prompt: the chat template, then the tokenizer.
 *
 * The template writes the special tokens. What others wrote (messages, tools, variables) is text
 * and cannot: a special token spelled out in it is read as the characters it is made of.
 */
#ifndef PFQC_RUNTIME_PROMPT_H
#define PFQC_RUNTIME_PROMPT_H

#include "runtime/engine.h"
#include "runtime/template.h"
#include "runtime/tokenizer.h"

typedef struct PfqTalk {
    PfqVal messages;  /* a list */
    PfqVal tools;     /* a list, or none */
    PfqVal variables; /* a dict of more variables, or undefined */
} PfqTalk;

/* The prompt for an answer: malloc'ed ids [n], of which the model's prefix already is the first
 * `skip` (engine.h). NULL and a sentence. `m` is for what is made on the way. */
int32_t *pfq_prompt_tokens(const PfqModel *model, const PfqTokenizer *tok, const PfqTemplate *t,
                           const PfqTalk *talk, PfqMem *m, int32_t *n, int32_t *skip, PfqErr *err);

#endif
