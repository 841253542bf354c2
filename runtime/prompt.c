/* From a conversation to a prompt. Contract: prompt.h. */
#include "runtime/prompt.h"

#include <stdlib.h>
#include <string.h>

/* The variables that transformers always defines, then those of the talk. */
static bool context_of(const PfqTalk *talk, PfqMem *m, PfqVal *out)
{
    const PfqPair fixed[] = {
        {pfq_val_str("messages", 8), talk->messages},
        {pfq_val_str("tools", 5), talk->tools},
        {pfq_val_str("documents", 9), {.kind = PFQ_V_NONE}},
        {pfq_val_str("add_generation_prompt", 21), pfq_val_bool(true)},
    };
    enum { N = sizeof fixed / sizeof *fixed };
    const PfqVal more = talk->variables;
    const uint32_t n = more.kind == PFQ_V_DICT ? more.n : 0;
    PfqPair *all = pfq_mem(m, ((size_t)n + N) * sizeof *all);
    *out = (PfqVal){.kind = PFQ_V_DICT, .pair = all};
    if (!all) {
        return false;
    }
    for (uint32_t i = 0; i < N; i++) {
        if (!n || pfq_val_get(more, fixed[i].key.s).kind == PFQ_V_UNDEF) {
            all[out->n++] = fixed[i];
        }
    }
    if (n) {
        memcpy(all + out->n, more.pair, n * sizeof *all);
        out->n += n;
    }
    return true;
}

/* ---- what others wrote ---- */

typedef struct Guard {
    const PfqTokenizer *tok;
    PfqMem *m;
} Guard;

/* The value with guards in its strings; false: no memory. Depth is that of JSON. */
static bool guard(const Guard *g, PfqVal *v);

static bool guard_string(const Guard *g, PfqVal *v)
{
    char *out = pfq_mem(g->m, 2 * (size_t)v->n + 1);
    const size_t n = out ? pfq_tok_guard(g->tok, v->s, v->n, out) : 0;
    if (out && n <= UINT32_MAX && n > v->n) {
        *v = pfq_val_str(out, n);
    }
    return out != NULL;
}

static bool guard_list(const Guard *g, PfqVal *v)
{
    PfqVal *at = pfq_mem(g->m, ((size_t)v->n + 1) * sizeof *at);
    bool ok = at != NULL;
    for (uint32_t i = 0; ok && i < v->n; i++) {
        at[i] = v->at[i];
        ok = guard(g, &at[i]);
    }
    v->at = at;
    return ok;
}

static bool guard_dict(const Guard *g, PfqVal *v)
{
    PfqPair *pair = pfq_mem(g->m, ((size_t)v->n + 1) * sizeof *pair);
    bool ok = pair != NULL;
    for (uint32_t i = 0; ok && i < v->n; i++) {
        pair[i] = v->pair[i];
        ok = guard(g, &pair[i].key) && guard(g, &pair[i].val);
    }
    v->pair = pair;
    return ok;
}

static bool guard(const Guard *g, PfqVal *v)
{
    return v->kind == PFQ_V_STR    ? guard_string(g, v)
           : v->kind == PFQ_V_LIST ? guard_list(g, v)
           : v->kind == PFQ_V_DICT ? guard_dict(g, v)
                                   : true;
}

/* ---- the prompt ---- */

int32_t *pfq_prompt_tokens(const PfqModel *model, const PfqTokenizer *tok, const PfqTemplate *t,
                           const PfqTalk *talk, PfqMem *m, int32_t *n, int32_t *skip, PfqErr *err)
{
    PfqVal context, text;
    int32_t *ids = NULL;
    const Guard g = {tok, m};
    PfqTalk safe = *talk;
    if (!guard(&g, &safe.messages) || !guard(&g, &safe.tools) || !guard(&g, &safe.variables) ||
        !context_of(&safe, m, &context)) {
        pfq_fail(err, "the conversation is too long");
        return NULL;
    }
    const bool tools = safe.tools.kind == PFQ_V_LIST;
    if (!pfq_tpl_render(t, pfq_tpl_choose(t, tools), context, NULL, -1, m, &text, err)) {
        return NULL;
    }
    const ptrdiff_t got =
        pfq_tok_encode(tok, text.s, text.n, PFQ_TOK_SPECIAL | PFQ_TOK_GUARDED, &ids);
    if (got <= 0 || got > INT32_MAX) {
        pfq_fail(err, got < 0 ? "out of memory for the prompt's tokens"
                              : "the chat template makes an empty prompt");
        free(ids);
        return NULL;
    }
    *n = (int32_t)got;
    *skip = pfq_prompt_skip(model, ids, *n);
    return ids;
}
