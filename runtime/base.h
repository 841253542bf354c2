/* The logits that another program gives a text, as a stream of rows: the base of `kld`.
 *
 * They come from a file that `ppl --save-logits` wrote, or from the other program itself, run as a
 * child: its `ppl` on the same file and chunks writes them into a pipe while they are read, so that
 * nothing is stored and both programs work at once. The child gets none of our PFQC_ variables
 * (they are meant for this program) and writes its messages to memory; what it says last is the
 * reason if it fails. Linux: /dev/fd, memfd_create. Errors: false, and a sentence.
 */
#ifndef PFQC_RUNTIME_BASE_H
#define PFQC_RUNTIME_BASE_H

#include "runtime/chunks.h"

#include <sys/types.h>

typedef struct PfqBase {
    const char *name; /* the program or the file, for messages */
    char *path;       /* malloc'ed: found in the folder that was named */
    int fd;           /* rows come from here; -1: closed */
    pid_t child;      /* 0: a file */
    int said[2];      /* memory files with the child's results and messages */
} PfqBase;

#define PFQ_BASE_CLOSED ((PfqBase){.fd = -1, .said = {-1, -1}})

/* `other`: a program, its folder, or a file of logits. */
bool pfq_base_open(PfqBase *b, const char *other, const PfqChunks *t, PfqErr *err);

/* The next n rows of the model's vocabulary. */
bool pfq_base_read(PfqBase *b, float *rows, int32_t n, int32_t vocab, PfqErr *err);

/* After the last row: there must be no more, the child must have ended well, and its perplexity be
 * the one found here (`ppl`, of its logits and our tokens), else its tokens were others. */
bool pfq_base_finish(PfqBase *b, double ppl, int64_t tokens, PfqErr *err);
void pfq_base_close(PfqBase *b); /* also after a failed open; ends a child that still runs */

#endif
