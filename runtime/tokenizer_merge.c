#include "runtime/tokenizer_int.h"

#include <stdlib.h>
#include <string.h>

/* Pieces up to this many symbols are merged by scanning for the lowest rank: no heap, quadratic but
 * tiny. */
enum { SHORT_PIECE = 32 };
static const uint32_t END = UINT32_MAX; /* of the linked list; also "no merge" as a rank */

bool pfq_merge_reserve(PfqMergeBuf *b, size_t n)
{
    if (n <= b->cap) return true;
    size_t cap = n + n / 2 + 256;
    uint32_t *p = realloc(b->sym, cap * sizeof *p);
    if (!p) return false;
    b->sym = p;
    b->cap = cap;
    return true;
}

static void free_long(PfqMergeBuf *b)
{
    free(b->prev);
    free(b->heap);
    b->prev = NULL;
    b->heap = NULL;
    b->long_cap = 0;
}

static bool reserve_long(PfqMergeBuf *b, size_t n)
{
    if (n <= b->long_cap) return true;
    free_long(b);
    b->prev = malloc(4 * n * sizeof *b->prev);
    b->heap = malloc(2 * n * sizeof *b->heap);
    if (!b->prev || !b->heap) {
        free_long(b);
        return false;
    }
    b->next = b->prev + n;
    b->rank = b->next + n;
    b->result = b->rank + n;
    b->long_cap = n;
    return true;
}

void pfq_merge_free(PfqMergeBuf *b)
{
    free_long(b);
    free(b->sym);
    *b = (PfqMergeBuf){0};
}

/* Rank of merging (left, right) with *result, or END. */
static uint32_t find(const PfqTokenizer *t, uint32_t left, uint32_t right, uint32_t *result)
{
    const PfqTokMerge *m = t->priv[PFQ_SEC_MERGE];
    uint32_t n = tok_head(t)->sec[PFQ_SEC_MERGE].count;
    if (n == 0) return END;
    uint32_t i = pfq_tok_slot(pfq_tok_hash_pair(left, right), n);
    for (uint32_t probes = 0; probes < n && m[i].left != PFQ_TOK_NONE; probes++) {
        if (m[i].left == left && m[i].right == right) {
            *result = m[i].result;
            return m[i].rank;
        }
        if (++i == n) i = 0;
    }
    return END;
}

static size_t merge_short(const PfqTokenizer *t, uint32_t *sym, size_t n)
{
    uint32_t rank[SHORT_PIECE], result[SHORT_PIECE] = {0};
    for (size_t i = 0; i + 1 < n; i++)
        rank[i] = find(t, sym[i], sym[i + 1], &result[i]);
    for (;;) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (n < 2 || rank[best] == END) return n;
        sym[best] = result[best];
        n--;
        for (size_t i = best + 1; i < n; i++) {
            sym[i] = sym[i + 1];
            rank[i] = rank[i + 1];
            result[i] = result[i + 1];
        }
        if (best + 1 < n) rank[best] = find(t, sym[best], sym[best + 1], &result[best]);
        if (best > 0) rank[best - 1] = find(t, sym[best - 1], sym[best], &result[best - 1]);
    }
}

/* A heap entry is rank << 32 | position of the left symbol, so that its order is the merging order.
 */
static void heap_push(uint64_t *h, size_t *n, uint64_t x)
{
    size_t i = (*n)++;
    while (i > 0 && h[(i - 1) / 2] > x) {
        h[i] = h[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    h[i] = x;
}

static uint64_t heap_pop(uint64_t *h, size_t *n)
{
    uint64_t top = h[0], x = h[--*n];
    size_t i = 0;
    for (;;) {
        size_t k = 2 * i + 1;
        if (k >= *n) break;
        if (k + 1 < *n && h[k + 1] < h[k]) k++;
        if (h[k] >= x) break;
        h[i] = h[k];
        i = k;
    }
    h[i] = x;
    return top;
}

/* Looks the pair at `i` up and queues it. The heap holds at most 2n entries: n - 1 at first, and
 * every merge pops one and pushes at most two. */
static void queue_pair(const PfqTokenizer *t, PfqMergeBuf *b, size_t *n_heap, uint32_t i)
{
    b->rank[i] = END;
    if (b->next[i] == END) return;
    b->rank[i] = find(t, b->sym[i], b->sym[b->next[i]], &b->result[i]);
    if (b->rank[i] != END) heap_push(b->heap, n_heap, (uint64_t)b->rank[i] << 32 | i);
}

static size_t merge_long(const PfqTokenizer *t, PfqMergeBuf *b, size_t n)
{
    size_t n_heap = 0, out = 0;
    for (uint32_t i = 0; i < n; i++) {
        b->prev[i] = i ? i - 1 : END;
        b->next[i] = i + 1 < n ? i + 1 : END;
    }
    for (uint32_t i = 0; i < n; i++)
        queue_pair(t, b, &n_heap, i);
    while (n_heap > 0) {
        uint64_t x = heap_pop(b->heap, &n_heap);
        uint32_t i = (uint32_t)x, rank = (uint32_t)(x >> 32);
        if (b->rank[i] != rank) continue; /* one of the two was merged meanwhile */
        uint32_t gone = b->next[i];
        b->sym[i] = b->result[i];
        b->next[i] = b->next[gone];
        if (b->next[i] != END) b->prev[b->next[i]] = i;
        b->rank[gone] = END;
        queue_pair(t, b, &n_heap, i);
        if (b->prev[i] != END) queue_pair(t, b, &n_heap, b->prev[i]);
    }
    for (uint32_t i = 0; i != END; i = b->next[i])
        b->sym[out++] = b->sym[i];
    return out;
}

bool pfq_merge(const PfqTokenizer *t, PfqMergeBuf *b, size_t *n)
{
    if (*n < 2) return true;
    if (*n <= SHORT_PIECE) {
        *n = merge_short(t, b->sym, *n);
        return true;
    }
    if (!reserve_long(b, *n)) return false;
    *n = merge_long(t, b, *n);
    return true;
}
