/* The text of an answer while it is generated: bytes of tokens in, text that can be shown out.
 *
 * What is shown is valid UTF-8 (an unfinished character waits for its rest, what can be none
 * becomes U+FFFD) and holds no stop string and no part of one: text that may be the start of a stop
 * string waits until it is decided. Where a stop string is complete, the answer ends before it; of
 * several, the one that is complete first counts, and of those the longest. How bytes are divided
 * into tokens makes no difference.
 *
 *     pfq_stream_start(&s, stops, n);
 *     for each token: pfq_stream_add(&s, piece, len); show s.text[s.from .. s.to); s.stopped?
 *     pfq_stream_end(&s); show s.text[s.from .. s.to)
 *
 * s.text[0 .. s.to) is the answer so far. Memory: the answer, which grows by malloc;
 * pfq_stream_free releases it. Threading: one stream per answer.
 */
#ifndef PFQC_RUNTIME_STREAM_H
#define PFQC_RUNTIME_STREAM_H

#include "runtime/out.h"

enum { PFQ_MAX_STOPS = 16, PFQ_MAX_STOP = 256 }; /* stop strings; bytes of one */

typedef struct PfqStream {
    const char *const *stop; /* not empty, at most PFQ_MAX_STOP bytes each */
    int n_stop;
    PfqUtf8 utf8;
    char *text;
    size_t n, cap; /* n: also what waits */
    size_t from, to;
    bool stopped; /* a stop string was met */
} PfqStream;

/* Keeps the memory of the answer before. */
void pfq_stream_start(PfqStream *s, const char *const *stop, int n_stop);
bool pfq_stream_add(PfqStream *s, const char *bytes, size_t n); /* false: out of memory */
bool pfq_stream_end(PfqStream *s);
void pfq_stream_free(PfqStream *s);

#endif
