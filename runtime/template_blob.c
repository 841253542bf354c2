/* Opening a template's blob, where every index is checked, once; and what it holds by name.
 * Contract: template.h. */
#include "runtime/template_int.h"

#include <string.h>

enum { NO, STR, RAW, MANY = INT32_MAX };

static const struct {
    uint8_t a, sub;
    int32_t min, max;
} shapes[PFQ_T_COUNT] = {
#define X(id, a, min, max, sub) {a, sub, min, max},
    PFQ_TPL_OPS(X)
#undef X
};

static bool section_ok(const PfqTplHead *h, uint32_t off, uint32_t count, size_t size)
{
    return off % 4 == 0 && off >= sizeof *h && off <= h->bytes &&
           (uint64_t)count * size <= h->bytes - off;
}

static bool sections_ok(const PfqTplHead *h)
{
    return section_ok(h, h->node.off, h->node.count, sizeof(PfqTplNode)) &&
           section_ok(h, h->kid.off, h->kid.count, sizeof(uint32_t)) &&
           section_ok(h, h->str_off.off, h->str_off.count, sizeof(uint32_t)) &&
           section_ok(h, h->str.off, h->str.count, 1) &&
           section_ok(h, h->root.off, h->root.count, sizeof(PfqTplRoot)) &&
           section_ok(h, h->global.off, h->global.count, sizeof(PfqTplGlobal)) &&
           h->str_off.count > PFQ_S_FIXED && h->root.count > 0;
}

static bool strings_ok(const PfqTemplate *t)
{
    static const char *const fixed[] = {PFQ_TPL_FIXED_STRINGS};
    const uint32_t n = n_strings(t);
    if (t->str_off[0] != 0 || t->str_off[n] != t->head->str.count) return false;
    for (uint32_t i = 0; i < n; i++)
        if (t->str_off[i] > t->str_off[i + 1]) return false;
    for (uint32_t i = 0; i < PFQ_S_FIXED; i++)
        if (t->str_off[i + 1] - t->str_off[i] != strlen(fixed[i]) ||
            memcmp(t->str + t->str_off[i], fixed[i], strlen(fixed[i])) != 0)
            return false;
    return true;
}

/* Kids come before their parents, which makes a tree (or a graph without circles) of the nodes. */
static bool node_ok(const PfqTemplate *t, uint32_t i)
{
    const PfqTplNode *n = &t->node[i];
    if (n->op >= PFQ_T_COUNT || n->sub > shapes[n->op].sub) return false;
    if (shapes[n->op].a == STR && n->a >= n_strings(t)) return false;
    if (n->op == PFQ_T_FILTER && n->a >= PFQ_N_FILTERS) return false;
    if (n->op == PFQ_T_TEST && n->a >= PFQ_N_TESTS) return false;
    if (shapes[n->op].max == 0) return true;
    if (n->b > t->head->kid.count || n->c > t->head->kid.count - n->b) return false;
    if (n->c < (uint32_t)shapes[n->op].min || n->c > (uint32_t)shapes[n->op].max) return false;
    for (uint32_t k = 0; k < n->c; k++)
        if (t->kid[n->b + k] != PFQ_TPL_NIL && t->kid[n->b + k] >= i) return false;
    return true;
}

const char *pfq_tpl_open(PfqTemplate *t, const void *blob, size_t bytes)
{
    const PfqTplHead *h = blob;
    *t = (PfqTemplate){0};
    if (bytes < sizeof *h) return "chat template: the blob is truncated";
    if ((uintptr_t)blob % sizeof(uint32_t) != 0) return "chat template: the blob is not aligned";
    if (memcmp(h->magic, PFQ_TPL_MAGIC, 4) != 0) return "chat template: not a template blob";
    if (h->version != PFQ_TPL_VERSION)
        return "chat template: made for another version of the runtime";
    if (h->bytes > bytes || h->bytes < sizeof *h) return "chat template: the blob is truncated";
    if (!sections_ok(h)) return "chat template: a table lies outside the blob";
    t->blob = blob;
    t->bytes = h->bytes;
    t->head = h;
    t->node = (const void *)(t->blob + h->node.off);
    t->kid = (const void *)(t->blob + h->kid.off);
    t->str_off = (const void *)(t->blob + h->str_off.off);
    t->str = (const void *)(t->blob + h->str.off);
    t->root = (const void *)(t->blob + h->root.off);
    t->global = (const void *)(t->blob + h->global.off);
    if (!strings_ok(t)) return "chat template: the string table is damaged";
    for (uint32_t i = 0; i < h->node.count; i++)
        if (!node_ok(t, i)) return "chat template: a node is damaged";
    for (uint32_t i = 0; i < h->root.count; i++)
        if (t->root[i].name >= n_strings(t) || t->root[i].text >= n_strings(t) ||
            t->root[i].node >= h->node.count)
            return "chat template: a template is damaged";
    for (uint32_t i = 0; i < h->global.count; i++)
        if (t->global[i].name >= n_strings(t) || t->global[i].value >= n_strings(t))
            return "chat template: a special token is damaged";
    return NULL;
}

/* ---- what it holds ---- */

static bool is_text(PfqVal s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.s, text, s.n) == 0;
}

const char *pfq_tpl_name(const PfqTemplate *t, int i, size_t *n)
{
    if (i < 0 || (uint32_t)i >= t->head->root.count) return NULL;
    const PfqVal s = string_at(t, t->root[i].name);
    *n = s.n;
    return s.s;
}

const char *pfq_tpl_text(const PfqTemplate *t, int i, size_t *n)
{
    const PfqVal s = string_at(t, t->root[i].text);
    *n = s.n;
    return s.s;
}

int pfq_tpl_find(const PfqTemplate *t, const char *name)
{
    for (uint32_t i = 0; i < t->head->root.count; i++)
        if (is_text(string_at(t, t->root[i].name), name)) return (int)i;
    return -1;
}

int pfq_tpl_choose(const PfqTemplate *t, bool tools)
{
    int i = tools ? pfq_tpl_find(t, "tool_use") : -1;
    if (i < 0) i = pfq_tpl_find(t, "default");
    return i < 0 ? 0 : i;
}

bool pfq_tpl_reads(const PfqTemplate *t, const char *name, size_t n)
{
    for (uint32_t i = 0; i < t->head->node.count; i++) {
        if (t->node[i].op != PFQ_T_NAME) continue;
        const PfqVal s = string_at(t, t->node[i].a);
        if (s.n == n && memcmp(s.s, name, n) == 0) return true;
    }
    return false;
}
