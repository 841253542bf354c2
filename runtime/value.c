/* Memory and JSON of template values. Contract: value.h. */
#include "runtime/value.h"
#include "runtime/image.h"
#include "runtime/json.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCK = 64 << 10, ALIGN = 16 };

struct PfqMemBlock {
    struct PfqMemBlock *next;
    uint64_t pad; /* what follows is aligned */
};

void pfq_mem_init(PfqMem *m, size_t limit)
{
    *m = (PfqMem){.limit = limit};
}

void pfq_mem_free(PfqMem *m)
{
    while (m->top) {
        struct PfqMemBlock *next = m->top->next;
        free(m->top);
        m->top = next;
    }
    *m = (PfqMem){.limit = m->limit};
}

void *pfq_mem(PfqMem *m, size_t n)
{
    if (n > m->limit) return NULL;
    n = (n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (!m->top || m->cap - m->used < n) {
        const size_t cap = n > BLOCK ? n : BLOCK;
        if (cap > m->limit || m->total > m->limit - cap) return NULL;
        struct PfqMemBlock *b = malloc(sizeof *b + cap);
        if (!b) return NULL;
        b->next = m->top;
        m->top = b;
        m->used = 0;
        m->cap = cap;
        m->total += cap;
    }
    void *p = (char *)(m->top + 1) + m->used;
    m->used += n;
    return p;
}

PfqVal pfq_val_str(const char *s, size_t n)
{
    return (PfqVal){.kind = PFQ_V_STR, .n = (uint32_t)n, .s = s};
}

PfqVal pfq_val_bool(bool b)
{
    return (PfqVal){.kind = PFQ_V_BOOL, .b = b};
}

PfqVal pfq_val_int(int64_t i)
{
    return (PfqVal){.kind = PFQ_V_INT, .i = i};
}

PfqVal pfq_val_get(PfqVal dict, const char *key)
{
    const size_t n = strlen(key);
    for (uint32_t i = 0; dict.kind == PFQ_V_DICT && i < dict.n; i++) {
        const PfqVal k = dict.pair[i].key;
        if (k.kind == PFQ_V_STR && k.n == n && memcmp(k.s, key, n) == 0) return dict.pair[i].val;
    }
    return (PfqVal){.kind = PFQ_V_UNDEF, .s = key, .n = (uint32_t)n};
}

/* ---- JSON ---- */

typedef struct Key {
    const PfqPair *pair;
    uint32_t i;
} Key;

static int by_key(const void *x, const void *y)
{
    const Key *a = x, *b = y;
    const PfqVal k = a->pair->key, l = b->pair->key;
    const int c = memcmp(k.s, l.s, k.n < l.n ? k.n : l.n);
    if (c) return c;
    if (k.n != l.n) return k.n < l.n ? -1 : 1;
    return a->i < b->i ? -1 : 1;
}

/* Of equal keys the last value stays, in the first one's place. */
static bool drop_equal(PfqMem *m, PfqPair *pair, uint32_t *n)
{
    Key *key = pfq_mem(m, *n * sizeof *key);
    if (!key) return false;
    for (uint32_t i = 0; i < *n; i++)
        key[i] = (Key){&pair[i], i};
    qsort(key, *n, sizeof *key, by_key);
    uint32_t first = 0, kept = 0;
    for (uint32_t i = 1; i < *n; i++) {
        const PfqVal a = pair[key[first].i].key, b = pair[key[i].i].key;
        if (a.n == b.n && memcmp(a.s, b.s, a.n) == 0) {
            pair[key[first].i].val = pair[key[i].i].val;
            pair[key[i].i].val.kind = PFQ_V_UNDEF; /* which no JSON value is */
        } else {
            first = i;
        }
    }
    for (uint32_t i = 0; i < *n; i++)
        if (pair[i].val.kind != PFQ_V_UNDEF) pair[kept++] = pair[i];
    *n = kept;
    return true;
}

static bool from_array(PfqMem *m, const PfqJson *j, PfqVal *out)
{
    PfqVal *at = pfq_mem(m, j->n * sizeof *at);
    const PfqJson *v = j + 1;
    *out = (PfqVal){.kind = PFQ_V_LIST, .n = j->n, .at = at};
    for (uint32_t i = 0; at && i < j->n; i++, v += v->span)
        if (!pfq_val_from_json(m, v, &at[i])) return false;
    return at != NULL;
}

static bool from_object(PfqMem *m, const PfqJson *j, PfqVal *out)
{
    PfqPair *pair = pfq_mem(m, j->n * sizeof *pair);
    const PfqJson *v = j + 1;
    *out = (PfqVal){.kind = PFQ_V_DICT, .n = j->n, .pair = pair};
    for (uint32_t i = 0; pair && i < j->n; i++, v += v->span) {
        pair[i].key = pfq_val_str(v->s, v->n);
        v++;
        if (!pfq_val_from_json(m, v, &pair[i].val)) return false;
    }
    return pair && (j->n < 2 || drop_equal(m, pair, &out->n));
}

bool pfq_val_from_json(PfqMem *m, const PfqJson *j, PfqVal *out)
{
    switch ((PfqJsonType)j->type) {
    case PFQ_JSON_NULL: *out = (PfqVal){.kind = PFQ_V_NONE}; break;
    case PFQ_JSON_BOOL: *out = pfq_val_bool(j->b); break;
    case PFQ_JSON_INT: *out = pfq_val_int(j->i); break;
    case PFQ_JSON_REAL: *out = (PfqVal){.kind = PFQ_V_REAL, .f = j->d}; break;
    case PFQ_JSON_STRING: *out = pfq_val_str(j->s, j->n); break;
    case PFQ_JSON_ARRAY: return from_array(m, j, out);
    case PFQ_JSON_OBJECT: return from_object(m, j, out);
    }
    return true;
}

bool pfq_val_json(PfqMem *m, const char *text, size_t n, PfqVal *out, PfqErr *err)
{
    const size_t cap = n / 2 + 2; /* a value takes two bytes, but for the last one */
    char *copy = n < UINT32_MAX ? pfq_mem(m, n + 1) : NULL;
    PfqJson *nodes = copy ? pfq_mem(m, cap * sizeof *nodes) : NULL;
    size_t at;
    if (!nodes) return pfq_fail(err, "the JSON document is too large");
    if (n) memcpy(copy, text, n);
    return pfq_json_parse(copy, n, nodes, (uint32_t)cap, &at, err) &&
           (pfq_val_from_json(m, nodes, out) || pfq_fail(err, "the JSON document is too large"));
}
