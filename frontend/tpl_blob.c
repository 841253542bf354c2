/* The tree of a template's nodes, and the blob made of it. */
#include "frontend/tpl.h"

void tpl_tree_init(TplTree *t, Arena *a)
{
    static const char *const fixed[] = {PFQ_TPL_FIXED_STRINGS};
    *t = (TplTree){.a = a, .str_index = {.a = a}};
    for (u32 i = 0; i < PFQ_S_FIXED; i++)
        tpl_string(t, str_c(fixed[i]));
}

u32 tpl_string(TplTree *t, Str s)
{
    bool added;
    u32 *i = map_put(&t->str_index, s, &added);
    if (added) {
        *i = t->str.n;
        vec_push(t->a, &t->str, s);
    }
    return *i;
}

u32 tpl_node(TplTree *t, u32 line, PfqTplOp op, u32 sub, u32 a, const u32 *kids, u32 n)
{
    PfqTplNode node = {.op = (u8)op,
                       .sub = (u8)sub,
                       .line = (u16)(line < UINT16_MAX ? line : UINT16_MAX),
                       .a = a,
                       .b = n ? t->kid.n : 0,
                       .c = n};
    for (u32 i = 0; i < n; i++)
        vec_push(t->a, &t->kid, kids[i]);
    vec_push(t->a, &t->node, node);
    return t->node.n - 1;
}

u32 tpl_number(TplTree *t, u32 line, PfqTplOp op, u64 bits)
{
    const u32 i = tpl_node(t, line, op, 0, 0, NULL, 0);
    t->node.at[i].b = (u32)bits;
    t->node.at[i].c = (u32)(bits >> 32);
    return i;
}

static u64 section(u64 *at, u64 count, u64 size)
{
    const u64 off = *at;
    *at = (*at + count * size + 3) & ~(u64)3;
    return off;
}

bool tpl_write(Diag *d, const TplTree *t, TplBlob *out)
{
    u64 at = sizeof(PfqTplHead), text = 0;
    for (u32 i = 0; i < t->str.n; i++)
        text += t->str.at[i].n;
    const u64 node = section(&at, t->node.n, sizeof(PfqTplNode)), kid = section(&at, t->kid.n, 4),
              off = section(&at, (u64)t->str.n + 1, 4), str = section(&at, text, 1),
              root = section(&at, t->root.n, sizeof(PfqTplRoot)),
              global = section(&at, t->global.n, sizeof(PfqTplGlobal));
    if (at > PFQ_TPL_MAX_BYTES)
        return diag_error(d, E_LIMIT, LOC_WHAT("chat template"), "its tables exceed 64 MiB");
    u8 *data = arena_alloc(t->a, at, 1, 8);
    PfqTplHead h = {.version = PFQ_TPL_VERSION,
                    .bytes = (u32)at,
                    .node = {(u32)node, t->node.n},
                    .kid = {(u32)kid, t->kid.n},
                    .str_off = {(u32)off, t->str.n + 1},
                    .str = {(u32)str, (u32)text},
                    .root = {(u32)root, t->root.n},
                    .global = {(u32)global, t->global.n}};
    memcpy(h.magic, PFQ_TPL_MAGIC, 4);
    memcpy(data, &h, sizeof h);
    if (t->node.n) memcpy(data + node, t->node.at, t->node.n * sizeof *t->node.at);
    if (t->kid.n) memcpy(data + kid, t->kid.at, t->kid.n * sizeof *t->kid.at);
    if (t->root.n) memcpy(data + root, t->root.at, t->root.n * sizeof *t->root.at);
    if (t->global.n) memcpy(data + global, t->global.at, t->global.n * sizeof *t->global.at);
    u32 *offs = (u32 *)(void *)(data + off), p = 0;
    for (u32 i = 0; i < t->str.n; i++) {
        offs[i] = p;
        if (t->str.at[i].n) memcpy(data + str + p, t->str.at[i].p, t->str.at[i].n);
        p += (u32)t->str.at[i].n;
    }
    offs[t->str.n] = p;
    *out = (TplBlob){data, at};
    PfqTemplate check;
    const char *bad = pfq_tpl_open(&check, data, at);
    if (bad) BUG("%s", bad);
    return true;
}

/* Jinja knows one kind of line end. */
static const Source *one_line_end(Arena *a, const Source *src)
{
    if (!memchr(src->text, '\r', src->n)) return src;
    char *p = arena_alloc(a, src->n + 1, 1, 1);
    size_t n = 0;
    for (size_t i = 0; i < src->n; i++) {
        const bool cr = src->text[i] == '\r';
        p[n++] = cr ? '\n' : src->text[i];
        if (cr && i + 1 < src->n && src->text[i + 1] == '\n') i++;
    }
    Source *out = NEW(a, Source);
    *out = (Source){.name = src->name, .text = p, .n = n};
    return out;
}

static bool text_ok(Diag *d, const Source *src)
{
    if (src->n > TPL_MAX_TEXT)
        return diag_error(d, E_LIMIT, (Loc){.src = src}, "the chat template exceeds %d KiB",
                          TPL_MAX_TEXT >> 10);
    const size_t good = utf8_prefix((Str){src->text, src->n});
    return good == src->n || diag_error(d, E_TEMPLATE, (Loc){.src = src, .off = good, .len = 1},
                                        "the chat template is not valid UTF-8");
}

bool fe_template_compile(Diag *d, Arena *a, const TplSet *set, TplBlob *out)
{
    TplTree t;
    bool ok = true;
    tpl_tree_init(&t, a);
    for (u32 i = 0; i < set->text.n; i++) {
        const Source *src = set->text.at[i].src;
        PfqTplRoot root = {.name = tpl_string(&t, set->text.at[i].name),
                           .text = tpl_string(&t, (Str){src->text, src->n})};
        ok &= text_ok(d, src) && tpl_parse(d, &t, one_line_end(a, src), &root.node);
        vec_push(a, &t.root, root);
    }
    for (u32 i = 0; i < set->token.n; i++) {
        const PfqTplGlobal g = {tpl_string(&t, set->token.at[i].name),
                                tpl_string(&t, set->token.at[i].text)};
        vec_push(a, &t.global, g);
    }
    return ok && tpl_write(d, &t, out);
}
