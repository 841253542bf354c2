/* Lays the collected tables out as the blob of runtime/tokenizer.h. */
#include "frontend/tok_build.h"

#include <stdlib.h>

typedef struct Lay {
    TokBuilder *b;
    PfqTokHead head;
    u8 *data;
    u64 n; /* bytes laid out so far */
    u32 n_hash;
    const PfqTokNode *trie[2];
    u32 n_trie[2];
    bool join; /* the table of joints is valid and worth having */
} Lay;

/* Final number of a symbol: those after the vocabulary follow it. */
static u32 number(const Lay *l, u32 sym)
{
    return sym & TOKB_EXTRA ? l->b->tok.n + (sym & ~TOKB_EXTRA) : sym;
}

static void section(Lay *l, PfqTokSection s, u64 count, u64 size)
{
    l->n = (l->n + 3) & ~(u64)3;
    l->head.sec[s].off = (u32)l->n;
    l->head.sec[s].count = (u32)count;
    l->n += count * size;
}

/* ---- added tokens ---- */

static int by_text(const void *x, const void *y)
{
    const TokAdded *a = x, *b = y;
    size_t n = a->text.n < b->text.n ? a->text.n : b->text.n;
    int c = memcmp(a->text.p, b->text.p, n);
    if (c) return c;
    if (a->text.n != b->text.n) return a->text.n < b->text.n ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

typedef struct Todo { /* the added tokens [lo, hi) share their first `depth` bytes: node's subtree
                       */
    u32 lo, hi, depth;
} Todo;

/* Breadth first, so that children are neighbours and come after their parent. */
static void build_trie(Lay *l, int which)
{
    Arena *a = l->b->a;
    VEC(TokAdded) t = {0};
    VEC(PfqTokNode) node = {0};
    VEC(Todo) todo = {0};
    for (u32 i = 0; i < l->b->added.n; i++)
        if (l->b->added.at[i].normalised == (which == 1)) vec_push(a, &t, l->b->added.at[i]);
    if (t.n == 0) return;
    qsort(t.at, t.n, sizeof *t.at, by_text);
    vec_push(a, &node, ((PfqTokNode){0, 0, 0, -1}));
    vec_push(a, &todo, ((Todo){0, t.n, 0}));
    for (u32 i = 0; i < node.n; i++) {
        Todo w = todo.at[i];
        while (w.lo < w.hi && t.at[w.lo].text.n == w.depth)
            node.at[i].id = t.at[w.lo++].id;
        node.at[i].child = node.n;
        while (w.lo < w.hi) {
            u8 byte = (u8)t.at[w.lo].text.p[w.depth];
            u32 end = w.lo;
            while (end < w.hi && (u8)t.at[end].text.p[w.depth] == byte)
                end++;
            vec_push(a, &node, ((PfqTokNode){0, 0, byte, -1}));
            vec_push(a, &todo, ((Todo){w.lo, end, w.depth + 1}));
            node.at[i].n_child++;
            w.lo = end;
        }
        if (node.at[i].n_child == 0) node.at[i].child = 0;
    }
    l->trie[which] = node.at;
    l->n_trie[which] = node.n;
}

/* ---- joints ---- */

/* Whether characters that no merge joins may be merged apart. Byte and unknown symbols must take no
 * part in merges (their bytes are not their string), and no unknown symbols may arise (neighbours
 * would fuse). A string's whole token must come from its merges. */
static bool may_cut(const TokBuilder *b)
{
    if (!(b->flags & PFQ_TOKF_CHARS) || b->n_stage > 0 || b->ignore_merges) return false;
    bool *loose = NEWN(b->a, bool, b->tok.n);
    for (int i = 0; i < 256; i++) {
        if (b->byte[i] >= b->tok.n) return false;
        loose[b->byte[i]] = true;
    }
    if (b->unk >= 0) loose[b->unk] = true;
    for (u32 i = 0; i < b->merges.n; i++) {
        PfqTokMerge m = b->merges.at[i];
        if ((m.left < b->tok.n && loose[m.left]) || (m.right < b->tok.n && loose[m.right]))
            return false;
    }
    return true;
}

static void write_joints(const TokBuilder *b, u8 *join)
{
    for (u32 i = 0; i < b->merges.n; i++) {
        u32 sym = b->merges.at[i].result;
        Str s = sym & TOKB_EXTRA ? b->extra.at[sym & ~TOKB_EXTRA] : b->tok.at[sym].model;
        for (size_t k = 1; k < s.n; k++) {
            u32 pair = (u32)(u8)s.p[k - 1] << 8 | (u8)s.p[k];
            join[pair >> 3] |= (u8)(1u << (pair & 7));
        }
    }
}

/* ---- layout ---- */

static u32 table_size(u32 n)
{
    return n ? n + n / 3 * 2 + 2 : 0;
}

static bool plan(Lay *l)
{
    const TokBuilder *b = l->b;
    u64 str = 0, print = 0;
    for (u32 i = 0; i < b->tok.n; i++) {
        str += b->tok.at[i].in_model ? b->tok.at[i].model.n : 0;
        print += b->tok.at[i].print.n;
    }
    for (u32 i = 0; i < b->extra.n; i++)
        str += b->extra.at[i].n;
    build_trie(l, 0);
    build_trie(l, 1);
    l->join = may_cut(b);
    u32 n_sym = b->tok.n + b->extra.n;
    l->n = sizeof(PfqTokHead);
    section(l, PFQ_SEC_STR_OFF, n_sym + 1, 4);
    section(l, PFQ_SEC_STR, str, 1);
    section(l, PFQ_SEC_PRINT_OFF, b->tok.n + 1, 4);
    section(l, PFQ_SEC_PRINT, print, 1);
    section(l, PFQ_SEC_KIND, b->tok.n, 1);
    section(l, PFQ_SEC_BYTE, 256, 4);
    section(l, PFQ_SEC_HASH, table_size(b->sym.entries.n), 4);
    section(l, PFQ_SEC_MERGE, table_size(b->merges.n), sizeof(PfqTokMerge));
    section(l, PFQ_SEC_ADDED, l->n_trie[0], sizeof(PfqTokNode));
    section(l, PFQ_SEC_ADDED_NORM, l->n_trie[1], sizeof(PfqTokNode));
    section(l, PFQ_SEC_JOIN, l->join ? 8192 : 0, 1);
    if (l->n > INT32_MAX)
        return diag_error(b->d, E_LIMIT, b->loc, "the tokenizer's tables exceed 2 GiB");
    return true;
}

static void *table(const Lay *l, PfqTokSection s)
{
    return l->data + l->head.sec[s].off;
}

static void write_strings(Lay *l)
{
    const TokBuilder *b = l->b;
    u32 *off = table(l, PFQ_SEC_STR_OFF), *print_off = table(l, PFQ_SEC_PRINT_OFF), at = 0,
        print_at = 0;
    u8 *str = table(l, PFQ_SEC_STR), *print = table(l, PFQ_SEC_PRINT),
       *kind = table(l, PFQ_SEC_KIND);
    for (u32 i = 0; i < b->tok.n + b->extra.n; i++) {
        Str s = i >= b->tok.n           ? b->extra.at[i - b->tok.n]
                : b->tok.at[i].in_model ? b->tok.at[i].model
                                        : (Str){0};
        off[i] = at;
        if (s.n) memcpy(str + at, s.p, s.n);
        at += (u32)s.n;
        if (s.n > l->head.max_piece) l->head.max_piece = (u32)s.n;
    }
    off[b->tok.n + b->extra.n] = at;
    for (u32 i = 0; i < b->tok.n; i++) {
        Str s = b->tok.at[i].print;
        print_off[i] = print_at;
        if (s.n) memcpy(print + print_at, s.p, s.n);
        print_at += (u32)s.n;
        kind[i] = b->tok.at[i].kind;
    }
    print_off[b->tok.n] = print_at;
}

static void write_tables(Lay *l)
{
    const TokBuilder *b = l->b;
    u32 *byte = table(l, PFQ_SEC_BYTE), *slot = table(l, PFQ_SEC_HASH);
    u32 n_slot = l->head.sec[PFQ_SEC_HASH].count, n_merge = l->head.sec[PFQ_SEC_MERGE].count;
    PfqTokMerge *m = table(l, PFQ_SEC_MERGE);
    for (int i = 0; i < 256; i++)
        byte[i] = b->byte[i] == PFQ_TOK_NONE ? PFQ_TOK_NONE : number(l, b->byte[i]);
    for (u32 i = 0; i < b->sym.entries.n; i++) {
        Str key = b->sym.entries.at[i].key;
        u32 k = pfq_tok_slot(pfq_tok_hash(key.p, key.n), n_slot);
        while (slot[k])
            k = k + 1 == n_slot ? 0 : k + 1;
        slot[k] = number(l, b->sym.entries.at[i].val) + 1;
    }
    for (u32 i = 0; i < n_merge; i++)
        m[i].left = PFQ_TOK_NONE;
    for (u32 i = 0; i < b->merges.n; i++) {
        PfqTokMerge x = b->merges.at[i];
        x.left = number(l, x.left);
        x.right = number(l, x.right);
        x.result = number(l, x.result);
        u32 k = pfq_tok_slot(pfq_tok_hash_pair(x.left, x.right), n_merge);
        while (m[k].left != PFQ_TOK_NONE)
            k = k + 1 == n_merge ? 0 : k + 1;
        m[k] = x;
    }
    if (l->join) write_joints(b, table(l, PFQ_SEC_JOIN));
    for (int w = 0; w < 2; w++)
        if (l->n_trie[w])
            memcpy(table(l, w ? PFQ_SEC_ADDED_NORM : PFQ_SEC_ADDED), l->trie[w],
                   l->n_trie[w] * sizeof(PfqTokNode));
}

/* Tokens whose own bytes merge back to them need no merging when a piece equals them. */
static bool mark_whole(Lay *l)
{
    TokBuilder *b = l->b;
    PfqTokenizer t;
    const char *bad = pfq_tok_open(&t, l->data, l->n);
    if (bad) return diag_error(b->d, E_TOKENIZER, b->loc, "%s", bad);
    u8 *kind = table(l, PFQ_SEC_KIND);
    for (u32 i = 0; i < b->tok.n; i++) {
        const TokItem *k = b->tok.at + i;
        if (!k->in_model || tokb_sym(b, k->model) != i) continue;
        if (b->ignore_merges || pfq_tok_merges_to(&t, k->model.p, k->model.n, (i32)i))
            kind[i] |= PFQ_TOKK_WHOLE;
    }
    return true;
}

bool tokb_finish(TokBuilder *b, TokBlob *out)
{
    Lay l = {.b = b};
    if (b->tok.n == 0) return diag_error(b->d, E_TOKENIZER, b->loc, "the tokenizer has no tokens");
    if (!(b->flags & PFQ_TOKF_CHARS))
        for (u32 i = 0; i < 256; i++)
            b->byte[i] = tokb_sym(b, (Str){(const char[]){(char)i}, 1});
    if (!plan(&l)) return false;
    l.head.version = PFQ_TOK_VERSION;
    memcpy(l.head.magic, PFQ_TOK_MAGIC, 4);
    l.head.bytes = (u32)l.n;
    l.head.vocab = b->tok.n;
    l.head.n_sym = b->tok.n + b->extra.n;
    l.head.bos = b->bos;
    l.head.eos = b->eos;
    l.head.unk = b->unk;
    l.head.flags = b->flags;
    l.head.prefix = b->prefix;
    l.head.unicode = pfq_tok_unicode();
    memcpy(l.head.stage, b->stage, sizeof l.head.stage);
    l.data = arena_alloc(b->a, l.n, 1, 8);
    write_strings(&l);
    write_tables(&l);
    memcpy(l.data, &l.head, sizeof l.head);
    if (!mark_whole(&l)) return false;
    *out = (TokBlob){l.data, l.n};
    return true;
}
