/* Filters that go by an order: sort, min and max, unique. */
#include "runtime/template_int.h"

#include <string.h>

typedef struct Key {
    PfqVal key, val;
} Key;

/* What a sort or comparison goes by: an attribute, without its case. */
static PfqVal sort_key(Run *r, PfqVal v, PfqVal attribute, bool with_case)
{
    if (given(attribute) && attribute.kind != PFQ_V_NONE) {
        if (attribute.kind == PFQ_V_STR && memchr(attribute.s, ',', attribute.n))
            tpl_fail(r, "sorting by several attributes is not supported");
        v = tpl_path(r, v, attribute);
    }
    return v.kind == PFQ_V_STR && !with_case ? tpl_case(r, v, CASE_LOWER) : v;
}

/* Merge sort, stable; `to` is room for as many. */
static void merge_sort(Run *r, Key *at, Key *to, uint32_t n, bool reverse)
{
    if (n < 2 || !tpl_enter(r)) return;
    const uint32_t half = n / 2;
    merge_sort(r, at, to, half, reverse);
    merge_sort(r, at + half, to, n - half, reverse);
    uint32_t i = 0, j = half, k = 0;
    while (i < half && j < n && tpl_charge(r, 1)) {
        const int c = tpl_order(r, at[j].key, at[i].key);
        to[k++] = (reverse ? c > 0 : c < 0) ? at[j++] : at[i++];
    }
    while (i < half)
        to[k++] = at[i++];
    while (j < n)
        to[k++] = at[j++];
    memcpy(at, to, n * sizeof *at);
    tpl_leave(r);
}

PfqVal tpl_sorted(Run *r, PfqVal items, PfqVal attribute, bool with_case, bool reverse)
{
    Key *at = tpl_charge(r, items.n) ? tpl_alloc(r, items.n, 2 * sizeof *at) : NULL;
    PfqVal *out = tpl_alloc(r, items.n, sizeof *out);
    for (uint32_t i = 0; i < items.n && !r->bad; i++)
        at[i] = (Key){sort_key(r, items.at[i], attribute, with_case), items.at[i]};
    if (r->bad) return list_of(NULL, 0);
    merge_sort(r, at, at + items.n, items.n, reverse);
    for (uint32_t i = 0; i < items.n; i++)
        out[i] = at[i].val;
    return list_of(out, items.n);
}

PfqVal tpl_extreme(Run *r, PfqVal items, PfqVal attribute, bool with_case, int sign)
{
    PfqVal best = undefined("no item", 7), best_key = best;
    for (uint32_t i = 0; i < items.n && tpl_charge(r, 1); i++) {
        const PfqVal key = sort_key(r, items.at[i], attribute, with_case);
        if (i && tpl_order(r, key, best_key) * sign <= 0) continue;
        best = items.at[i];
        best_key = key;
    }
    return best;
}

PfqVal tpl_unique(Run *r, PfqVal items, PfqVal attribute, bool with_case)
{
    PfqVal *out = tpl_alloc(r, items.n, 2 * sizeof *out), *keys = out + items.n;
    uint32_t n = 0;
    for (uint32_t i = 0; i < items.n && !r->bad; i++) {
        const PfqVal key = sort_key(r, items.at[i], attribute, with_case);
        bool seen = false;
        for (uint32_t k = 0; k < n && !seen && tpl_charge(r, 1); k++)
            seen = tpl_equal(r, keys[k], key);
        if (seen) continue;
        keys[n] = key;
        out[n++] = items.at[i];
    }
    return tpl_gen(r, list_of(out, n));
}
