/* Pages of prompts, by hash. Contract: kept.h. */
#include "runtime/kept.h"

#include <stdlib.h>
#include <string.h>

enum { NONE = -1 };

struct PfqPage {
    int32_t tokens[PFQ_PAGE];
    int32_t prev; /* the page that it hangs on; NONE: it is a prompt's first */
    int32_t hang; /* pages that hang on it */
    int32_t next; /* in its bucket */
    uint64_t hash;
    int64_t used; /* 0: free */
};

bool pfq_kept_open(PfqKept *k, int32_t pages)
{
    *k = (PfqKept){.n = pages};
    k->page = calloc((size_t)pages + 1, sizeof *k->page);
    k->bucket = malloc(((size_t)pages + 1) * sizeof *k->bucket);
    if (!k->page || !k->bucket) {
        pfq_kept_close(k);
        return false;
    }
    for (int32_t i = 0; i < pages; i++) {
        k->bucket[i] = NONE;
    }
    return true;
}

void pfq_kept_close(PfqKept *k)
{
    free(k->page);
    free(k->bucket);
    *k = (PfqKept){0};
}

static uint64_t hash_of(const int32_t *tokens, int32_t prev)
{
    uint64_t h = (uint64_t)(uint32_t)prev + 1;
    for (int i = 0; i < PFQ_PAGE; i++) {
        h = (h ^ (uint32_t)tokens[i]) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    return h;
}

static int32_t *bucket_of(const PfqKept *k, uint64_t hash)
{
    return &k->bucket[hash % (uint64_t)k->n];
}

static int32_t find(const PfqKept *k, const int32_t *tokens, int32_t prev)
{
    const uint64_t hash = hash_of(tokens, prev);
    int32_t i = *bucket_of(k, hash);
    while (i != NONE) {
        const PfqPage *p = &k->page[i];
        if (p->hash == hash && p->prev == prev &&
            memcmp(p->tokens, tokens, sizeof p->tokens) == 0) {
            break;
        }
        i = p->next;
    }
    return i;
}

int32_t pfq_kept_find(PfqKept *k, const int32_t *ids, int32_t n, int32_t *at)
{
    int32_t found = 0, prev = NONE;
    k->now++;
    while (k->n && (int64_t)(found + 1) * PFQ_PAGE <= n) {
        prev = find(k, ids + found * PFQ_PAGE, prev);
        if (prev == NONE) {
            break;
        }
        k->page[prev].used = k->now;
        at[found++] = prev;
    }
    return found;
}

static void drop(PfqKept *k, int32_t i)
{
    PfqPage *p = &k->page[i];
    int32_t *link = bucket_of(k, p->hash);
    while (*link != i) {
        link = &k->page[*link].next;
    }
    *link = p->next;
    if (p->prev != NONE) {
        k->page[p->prev].hang--;
    }
    p->used = 0;
    k->used--;
    k->dropped++;
}

/* A free page, or the one that may go, but not `keep`; NONE: there is none. */
static int32_t take(PfqKept *k, int32_t keep)
{
    int32_t best = NONE;
    for (int32_t i = 0; i < k->n; i++) {
        const PfqPage *p = &k->page[i];
        if (p->hang == 0 && i != keep && (best == NONE || p->used < k->page[best].used)) {
            best = i;
        }
    }
    if (best != NONE && k->page[best].used) {
        drop(k, best);
    }
    return best;
}

bool pfq_kept_add(PfqKept *k, const int32_t *ids, int32_t found, int32_t *at)
{
    const int32_t prev = found ? at[found - 1] : NONE, i = take(k, prev);
    if (i == NONE) {
        return false;
    }
    PfqPage *p = &k->page[i];
    memcpy(p->tokens, ids + found * PFQ_PAGE, sizeof p->tokens);
    p->prev = prev;
    p->hash = hash_of(p->tokens, prev);
    p->used = k->now;
    int32_t *first = bucket_of(k, p->hash);
    p->next = *first;
    *first = i;
    if (prev != NONE) {
        k->page[prev].hang++;
    }
    k->used++;
    at[found] = i;
    return true;
}
