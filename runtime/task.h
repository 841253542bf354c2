/* Task files for `eval`: one JSON object a line, of one of three shapes,
 *
 *     {"query": Q, "choices": [C...], "gold": K}                 which choice follows the query?
 *     {"context_options": [X...], "continuation": Y, "gold": K}  which context does Y follow?
 *     {"context": X, "continuation": Y}                          is Y what the model would say?
 *
 * to requests: how likely is a continuation after a context? The texts are joined by a delimiter
 * (unless told: "\nAnswer: " behind a query, which loses the white space at its end; else " ").
 * Tokens are those of lm-eval (lm_eval/api/model.py, TemplateLM): white space at the end of the
 * context goes to the continuation; both are encoded together and the context alone, with the BOS
 * that the tokenizer itself adds; the continuation is what the whole has more (where that is none,
 * because its words and the context's last are one token: what differs). An empty context is
 * BOS (or EOS). Of too long a context the end is kept. Other members of the objects are ignored;
 * all lines must be of the same kind, choices or not. Errors name file, line and column.
 */
#ifndef PFQC_RUNTIME_TASK_H
#define PFQC_RUNTIME_TASK_H

#include "runtime/image.h"
#include "runtime/tokenizer.h"

typedef struct PfqRequest {
    size_t at;        /* of its tokens in PfqTask.ids */
    int32_t n, first; /* tokens; those from `first` >= 1 on are the continuation */
    int32_t chars;    /* characters of the choice, >= 1: what acc_norm divides by */
} PfqRequest;

typedef struct PfqExample {
    size_t at; /* of its requests */
    int32_t n; /* requests: one per choice */
    int32_t gold;
} PfqExample;

typedef struct PfqTask {
    bool cloze;          /* the third shape: examples of one request */
    PfqExample *example; /* [n] */
    PfqRequest *request; /* [n_requests] */
    int32_t *ids;        /* [n_ids] */
    size_t n, n_requests, n_ids;
    size_t cap, cap_requests, cap_ids;
    int32_t longest; /* tokens of a request */
    size_t cut;      /* requests whose context was too long */
} PfqTask;

typedef struct PfqTaskOptions {
    const char *path;
    int64_t limit;         /* examples; 0: all */
    const char *delimiter; /* NULL: the shape's own */
    bool special;          /* special tokens in the texts count as such */
    int32_t context;       /* tokens that the model can see before the one it predicts */
} PfqTaskOptions;

bool pfq_task_read(PfqTask *t, const PfqTokenizer *tok, const PfqTaskOptions *o, PfqErr *err);
void pfq_task_free(PfqTask *t); /* also after a failed read */

#endif
