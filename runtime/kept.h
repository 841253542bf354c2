/* What is kept of prompts whose slot another sequence got: pages of the KV cache, found by what
 * they hold.
 *
 * A page is PFQ_PAGE tokens of a prompt, and the keys and values of all layers behind everything in
 * front of them; where those lie is the batch's affair (batch.c: page i, in slots that no sequence
 * gets). Pages form chains: the page of tokens 64..127 hangs on that of tokens 0..63 of the same
 * prompt, so that prompts share what they begin with. A page is found by a hash of its tokens and
 * of the page it hangs on, and both are compared, so that no collision can give one prompt
 * another's keys. With no page free the one goes that was not used for longest and on which none
 * hangs.
 *
 * Threading: one thread. Memory: all at open. Not here: the keys and values.
 */
#ifndef PFQC_RUNTIME_KEPT_H
#define PFQC_RUNTIME_KEPT_H

#include <stdbool.h>
#include <stdint.h>

enum { PFQ_PAGE = 64 }; /* tokens */

typedef struct PfqPage PfqPage;

typedef struct PfqKept {
    PfqPage *page;   /* [n] */
    int32_t *bucket; /* [n] the first page of a hash, -1: none */
    int32_t n, used;
    int64_t now;     /* counts calls */
    int64_t dropped; /* pages that had to go */
} PfqKept;

bool pfq_kept_open(PfqKept *k, int32_t pages); /* 0: none, ever; false: out of memory */
void pfq_kept_close(PfqKept *k);

/* Pages of tokens ids[0..n): at[i] holds tokens 64i .. 64i+63; returns how many, n / 64 at most.
 * They count as used now. */
int32_t pfq_kept_find(PfqKept *k, const int32_t *ids, int32_t n, int32_t *at);

/* Behind the `found` pages at[0..found) of ids, which pfq_kept_find gave: a page for the next 64
 * tokens, whose number goes to at[found]. False: there is none to be had. */
bool pfq_kept_add(PfqKept *k, const int32_t *ids, int32_t found, int32_t *at);

#endif
