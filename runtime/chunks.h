/* A text file as `ppl` and `kld` score it.
 *
 * The whole file is tokenised once, without BOS, and cut into non-overlapping chunks of c tokens; a
 * last shorter one is dropped. Each chunk is a sequence of its own. All its tokens but the first
 * are scored, also when --bos puts BOS in front (the chunk is then c + 1 long), so that both forms
 * score the same tokens. The negative log-likelihood of a token is computed in double from the f32
 * logits; sums are in order of position, so results do not depend on -t. The standard error of a
 * perplexity is that of the mean, carried through exp: ppl * sd / sqrt(n).
 */
#ifndef PFQC_RUNTIME_CHUNKS_H
#define PFQC_RUNTIME_CHUNKS_H

#include "runtime/cli.h"

typedef struct PfqChunks {
    PfqCli *cli;
    int32_t *ids;   /* of the text */
    int32_t length; /* tokens of a chunk, BOS not counted */
    bool bos;       /* in front of each */
    int64_t n;      /* chunks */
} PfqChunks;

/* Reads operand 0 by the options -c, --chunks and --bos. */
bool pfq_chunks_read(PfqChunks *t, PfqCli *c);
void pfq_chunks_free(PfqChunks *t); /* also after a failed read */

/* What is done with the chunks. `rows` gets the logits [n, vocab] of scored tokens in order,
 * model->rows at most at a time: row i predicts targets[i]. After chunk k (from 1), `chunk` says in
 * `note` how the result stands; or it ends the run: false, and a sentence in cli->err. */
typedef struct PfqChunkUser {
    const char *what; /* for the progress line */
    void (*rows)(void *user, const int32_t *targets, int32_t n, const float *logits);
    bool (*chunk)(void *user, int64_t k, char note[64]);
    void *user;
} PfqChunkUser;

/* The engine is open (pfq_chunks_load). */
bool pfq_chunks_load(PfqChunks *t);
bool pfq_chunks_run(PfqChunks *t, const PfqChunkUser *u);

typedef struct PfqNll {
    double sum, sum2;
    int64_t n;
} PfqNll;

void pfq_nll_add(PfqNll *s, double nll);
/* exp of the mean, and its standard error. */
void pfq_nll_ppl(const PfqNll *s, double *ppl, double *se);

#endif
