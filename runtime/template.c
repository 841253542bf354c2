/* Walking a template's tree. Contract: template.h. */
#include "runtime/template_int.h"
#include "runtime/image.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- bounds and errors ---- */

bool tpl_fail(Run *r, const char *fmt, ...)
{
    char what[200];
    va_list ap;
    if (r->bad) return false;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    r->bad = true;
    return pfq_fail(r->err, "chat template, line %u: %s", r->line, what);
}

bool tpl_charge(Run *r, uint64_t steps)
{
    if (r->bad) return false;
    if (steps > r->limit.steps - r->steps) {
        r->steps = r->limit.steps;
        return tpl_fail(r, "it takes more than %llu steps", (unsigned long long)r->limit.steps);
    }
    r->steps += steps;
    return true;
}

bool tpl_enter(Run *r)
{
    if (!tpl_charge(r, 1)) return false;
    if (r->depth >= r->limit.depth) return tpl_fail(r, "nesting of more than %u", r->limit.depth);
    r->depth++;
    return true;
}

void tpl_leave(Run *r)
{
    r->depth--;
}

void *tpl_alloc(Run *r, size_t count, size_t size)
{
    void *p = NULL;
    if (!r->bad && (count == 0 || size <= SIZE_MAX / count)) p = pfq_mem(r->m, count * size);
    if (!p) tpl_fail(r, "it needs too much memory");
    return p;
}

void tpl_put(Run *r, const char *s, size_t n)
{
    if (n == 0 || !tpl_charge(r, n / 64)) return;
    if (n > r->limit.output - r->n) {
        tpl_fail(r, "it puts out more than %zu bytes", r->limit.output);
        return;
    }
    if (n > r->cap - r->n) {
        const size_t cap = (r->n + n) * 2 < r->limit.output ? (r->n + n) * 2 : r->limit.output;
        char *p = realloc(r->out, cap);
        if (!p) {
            tpl_fail(r, "out of memory");
            return;
        }
        r->out = p;
        r->cap = cap;
    }
    memcpy(r->out + r->n, s, n);
    r->n += n;
}

PfqVal tpl_take(Run *r, size_t from)
{
    const size_t n = r->n > from ? r->n - from : 0;
    char *s = tpl_alloc(r, n + 1, 1);
    if (!s) return pfq_val_str("", 0);
    if (n) memcpy(s, r->out + from, n);
    s[n] = 0;
    r->n = from;
    return pfq_val_str(s, n);
}

/* ---- names ---- */

static void define(Run *r, uint32_t name, PfqVal v)
{
    for (Var *x = r->frame->var; x; x = x->next) {
        if (x->name == name) {
            x->val = v;
            return;
        }
    }
    Var *x = tpl_alloc(r, 1, sizeof *x);
    if (!x) return;
    *x = (Var){name, r->frame->var, v};
    r->frame->var = x;
}

static PfqVal look_up(Run *r, uint32_t name)
{
    uint64_t seen = 0;
    for (const Frame *f = r->frame; f; f = f->up) {
        for (const Var *x = f->var; x; x = x->next) {
            if (x->name != name) continue;
            tpl_charge(r, seen / 4);
            return x->val;
        }
        seen++;
    }
    tpl_charge(r, seen / 4);
    const PfqVal s = string_at(r->t, name);
    return undefined(s.s, s.n);
}

/* A new frame inside `up`; NULL after an error. */
static Frame *push(Run *r, Frame *up)
{
    Frame *f = tpl_alloc(r, 1, sizeof *f);
    if (f) *f = (Frame){.up = up};
    return f;
}

/* ---- expressions ---- */

static PfqVal eval(Run *r, uint32_t i);
static void exec(Run *r, uint32_t i);

static uint32_t kid(const Run *r, const PfqTplNode *n, uint32_t k)
{
    return k < n->c ? r->t->kid[n->b + k] : PFQ_TPL_NIL;
}

static PfqVal eval_kid(Run *r, const PfqTplNode *n, uint32_t k)
{
    return eval(r, kid(r, n, k));
}

static const PfqTplNode *node_at(const Run *r, uint32_t i, PfqTplOp op)
{
    return i != PFQ_TPL_NIL && r->t->node[i].op == op ? &r->t->node[i] : NULL;
}

static PfqVal capture(Run *r, uint32_t body)
{
    const size_t from = r->n;
    Frame *outer = r->frame, *f = push(r, outer);
    if (!f) return ABSENT;
    r->frame = f;
    exec(r, body);
    r->frame = outer;
    return tpl_take(r, from);
}

/* Room for one more element, of `size` bytes, after n. */
static void *grown(Run *r, void *old, uint32_t n, uint32_t *cap, size_t size)
{
    if (n < *cap) return old;
    void *p = tpl_alloc(r, *cap = *cap * 2 + 4, size);
    if (p && n) memcpy(p, old, n * size);
    return p;
}

typedef struct Collect { /* Args in the making */
    PfqVal *pos;
    PfqPair *kw;
    uint32_t n, n_kw, cap, cap_kw;
} Collect;

static void add_pos(Run *r, Collect *c, PfqVal v)
{
    c->pos = grown(r, c->pos, c->n, &c->cap, sizeof *c->pos);
    if (c->pos) c->pos[c->n++] = v;
}

static void add_kw(Run *r, Collect *c, PfqVal key, PfqVal v)
{
    c->kw = grown(r, c->kw, c->n_kw, &c->cap_kw, sizeof *c->kw);
    if (c->kw) c->kw[c->n_kw++] = (PfqPair){key, v};
}

static void spread(Run *r, Collect *c, PfqVal v, bool by_name)
{
    if (by_name && v.kind != PFQ_V_DICT) tpl_no(r, "be spread into named arguments", v);
    const PfqVal items = by_name ? list_of(NULL, 0) : tpl_items(r, v);
    for (uint32_t i = 0; i < items.n && tpl_charge(r, 1); i++)
        add_pos(r, c, items.at[i]);
    for (uint32_t i = 0; by_name && i < v.n && tpl_charge(r, 1); i++)
        if (v.pair[i].key.kind == PFQ_V_STR) add_kw(r, c, v.pair[i].key, v.pair[i].val);
}

/* Arguments of a call, filter or test: its kids from `first` on. */
static void arguments(Run *r, const PfqTplNode *n, uint32_t first, Args *a)
{
    Collect c = {0};
    for (uint32_t k = first; k < n->c && !r->bad; k++) {
        const PfqTplNode *named = node_at(r, kid(r, n, k), PFQ_T_KW),
                         *star = node_at(r, kid(r, n, k), PFQ_T_STAR);
        if (named)
            add_kw(r, &c, string_at(r->t, named->a), eval_kid(r, named, 0));
        else if (star)
            spread(r, &c, eval_kid(r, star, 0), star->sub);
        else
            add_pos(r, &c, eval_kid(r, n, k));
    }
    *a = (Args){c.pos, c.kw, c.n, c.n_kw};
}

static PfqVal eval_const(Run *r, const PfqTplNode *n)
{
    (void)r;
    return n->sub == 0 ? none() : pfq_val_bool(n->sub == 2);
}

static PfqVal eval_int(Run *r, const PfqTplNode *n)
{
    (void)r;
    return pfq_val_int((int64_t)((uint64_t)n->c << 32 | n->b));
}

static PfqVal eval_real(Run *r, const PfqTplNode *n)
{
    PfqVal v = eval_int(r, n);
    v.kind = PFQ_V_REAL; /* the same bits */
    return v;
}

static PfqVal eval_string(Run *r, const PfqTplNode *n)
{
    return string_at(r->t, n->a);
}

static PfqVal eval_name(Run *r, const PfqTplNode *n)
{
    return look_up(r, n->a);
}

static PfqVal eval_list(Run *r, const PfqTplNode *n)
{
    PfqVal *at = tpl_alloc(r, n->c, sizeof *at), v = list_of(at, 0);
    for (uint32_t k = 0; k < n->c && !r->bad; k++) {
        at[k] = eval_kid(r, n, k);
        v.n++;
    }
    v.sub = n->sub ? PFQ_LIST_TUPLE : PFQ_LIST_PLAIN;
    return v;
}

static PfqVal eval_dict(Run *r, const PfqTplNode *n)
{
    Space d = {0};
    for (uint32_t k = 0; k + 1 < n->c && !r->bad; k += 2) {
        const PfqVal key = eval_kid(r, n, k);
        if (key.kind == PFQ_V_LIST || key.kind >= PFQ_V_DICT) tpl_no(r, "be a key", key);
        tpl_space_set(r, &d, key, eval_kid(r, n, k + 1));
    }
    return (PfqVal){.kind = PFQ_V_DICT, .n = d.n, .pair = d.pair};
}

static PfqVal eval_attr(Run *r, const PfqTplNode *n)
{
    return tpl_attr(r, eval_kid(r, n, 0), string_at(r->t, n->a));
}

static PfqVal eval_item(Run *r, const PfqTplNode *n)
{
    const PfqVal v = eval_kid(r, n, 0);
    return tpl_item(r, v, eval_kid(r, n, 1));
}

static PfqVal eval_slice(Run *r, const PfqTplNode *n)
{
    PfqVal v[4];
    for (uint32_t k = 0; k < 4; k++)
        v[k] = kid(r, n, k) == PFQ_TPL_NIL ? none() : eval_kid(r, n, k);
    return tpl_slice(r, v[0], v[1], v[2], v[3]);
}

static PfqVal eval_call(Run *r, const PfqTplNode *n)
{
    Args a;
    const PfqVal f = eval_kid(r, n, 0);
    arguments(r, n, 1, &a);
    r->line = n->line;
    return tpl_call(r, f, &a);
}

static PfqVal eval_kw(Run *r, const PfqTplNode *n)
{
    tpl_fail(r, "the template is damaged (operation %d)", n->op);
    return ABSENT;
}

static PfqVal eval_filter(Run *r, const PfqTplNode *n)
{
    Args a;
    const PfqVal v = eval_kid(r, n, 0);
    arguments(r, n, 1, &a);
    r->line = n->line;
    return r->bad ? ABSENT : tpl_filter(r, n->a, v, &a);
}

static PfqVal eval_test(Run *r, const PfqTplNode *n)
{
    Args a;
    const PfqVal v = eval_kid(r, n, 0);
    arguments(r, n, 1, &a);
    r->line = n->line;
    return pfq_val_bool(!r->bad && tpl_test(r, n->a, v, &a) != n->sub);
}

static PfqVal eval_unary(Run *r, const PfqTplNode *n)
{
    const PfqVal v = eval_kid(r, n, 0);
    if (n->sub == 0) return pfq_val_bool(!tpl_true(v));
    if (v.kind == PFQ_V_REAL) return (PfqVal){.kind = v.kind, .f = n->sub == 1 ? -v.f : v.f};
    return tpl_binary(r, n->sub == 1 ? PFQ_B_SUB : PFQ_B_ADD, pfq_val_int(0), v);
}

static PfqVal eval_binary(Run *r, const PfqTplNode *n)
{
    const PfqVal a = eval_kid(r, n, 0);
    if (n->sub <= PFQ_B_AND) return tpl_true(a) == (n->sub == PFQ_B_OR) ? a : eval_kid(r, n, 1);
    const PfqVal b = eval_kid(r, n, 1);
    r->line = n->line;
    return tpl_binary(r, (PfqTplBinary)n->sub, a, b);
}

static bool compare(Run *r, PfqTplCompare op, PfqVal a, PfqVal b)
{
    switch (op) {
    case PFQ_C_EQ: return tpl_equal(r, a, b);
    case PFQ_C_NE: return !tpl_equal(r, a, b);
    case PFQ_C_LT: return tpl_order(r, a, b) < 0;
    case PFQ_C_LE: return tpl_order(r, a, b) <= 0;
    case PFQ_C_GT: return tpl_order(r, a, b) > 0;
    case PFQ_C_GE: return tpl_order(r, a, b) >= 0;
    case PFQ_C_IN: return tpl_contains(r, a, b);
    case PFQ_C_NOT_IN: return !tpl_contains(r, a, b);
    }
    return false;
}

static PfqVal eval_compare(Run *r, const PfqTplNode *n)
{
    PfqVal left = eval_kid(r, n, 0);
    bool so = true;
    for (uint32_t k = 1; k < n->c && so && !r->bad; k++) {
        const PfqTplNode *op = node_at(r, kid(r, n, k), PFQ_T_OPERAND);
        if (!op) return eval_kw(r, n);
        const PfqVal right = eval_kid(r, op, 0);
        r->line = n->line;
        so = compare(r, (PfqTplCompare)op->sub, left, right);
        left = right;
    }
    return pfq_val_bool(so);
}

static PfqVal eval_cond(Run *r, const PfqTplNode *n)
{
    const uint32_t k = tpl_true(eval_kid(r, n, 0)) ? 1 : 2;
    return kid(r, n, k) == PFQ_TPL_NIL ? undefined("else", 4) : eval_kid(r, n, k);
}

static PfqVal eval_capture(Run *r, const PfqTplNode *n)
{
    return capture(r, kid(r, n, 0));
}

static PfqVal (*const evals[PFQ_T_COUNT])(Run *, const PfqTplNode *) = {
    [PFQ_T_CONST] = eval_const,     [PFQ_T_INT] = eval_int,     [PFQ_T_REAL] = eval_real,
    [PFQ_T_STRING] = eval_string,   [PFQ_T_NAME] = eval_name,   [PFQ_T_LIST] = eval_list,
    [PFQ_T_DICT] = eval_dict,       [PFQ_T_ATTR] = eval_attr,   [PFQ_T_ITEM] = eval_item,
    [PFQ_T_SLICE] = eval_slice,     [PFQ_T_CALL] = eval_call,   [PFQ_T_FILTER] = eval_filter,
    [PFQ_T_TEST] = eval_test,       [PFQ_T_UNARY] = eval_unary, [PFQ_T_BINARY] = eval_binary,
    [PFQ_T_COMPARE] = eval_compare, [PFQ_T_COND] = eval_cond,   [PFQ_T_CAPTURE] = eval_capture,
};

static PfqVal eval(Run *r, uint32_t i)
{
    if (!tpl_enter(r)) return ABSENT;
    PfqVal v = ABSENT;
    const PfqTplNode *n = i == PFQ_TPL_NIL ? NULL : &r->t->node[i];
    if (n) r->line = n->line;
    if (n && evals[n->op])
        v = evals[n->op](r, n);
    else
        tpl_fail(r, "the template is damaged");
    tpl_leave(r);
    return v;
}

/* ---- statements ---- */

static void assign(Run *r, uint32_t target, PfqVal v)
{
    const PfqTplNode *n = target == PFQ_TPL_NIL ? NULL : &r->t->node[target];
    if (!n || !tpl_enter(r)) return;
    if (n->op == PFQ_T_NAME) {
        define(r, n->a, v);
    } else if (n->op == PFQ_T_ATTR) {
        const PfqVal space = eval_kid(r, n, 0);
        if (space.kind == PFQ_V_SPACE)
            tpl_space_set(r, space.p, string_at(r->t, n->a), v);
        else
            tpl_fail(r, "an attribute can be set only of a namespace, not of %s", tpl_kind(space));
    } else if (n->op == PFQ_T_LIST) {
        const PfqVal items = tpl_items(r, v);
        if (!r->bad && items.n != n->c)
            tpl_fail(r, "%u values cannot be unpacked into %u names", items.n, n->c);
        for (uint32_t k = 0; k < n->c && !r->bad; k++)
            assign(r, kid(r, n, k), items.at[k]);
    }
    tpl_leave(r);
}

static void exec_text(Run *r, const PfqTplNode *n)
{
    const PfqVal s = string_at(r->t, n->a);
    tpl_put(r, s.s, s.n);
}

static void exec_print(Run *r, const PfqTplNode *n)
{
    tpl_put_str(r, eval_kid(r, n, 0));
}

static void exec_seq(Run *r, const PfqTplNode *n)
{
    for (uint32_t k = 0; k < n->c && !r->bad && r->flow == FLOW_ON; k++)
        exec(r, kid(r, n, k));
}

static void exec_if(Run *r, const PfqTplNode *n)
{
    for (uint32_t k = 0; k < n->c && !r->bad; k += 2) {
        const bool last = k + 1 == n->c; /* else */
        if (!last && !tpl_true(eval_kid(r, n, k))) continue;
        exec(r, kid(r, n, last ? k : k + 1));
        return;
    }
}

/* The items for which the loop's condition holds. */
static PfqVal filtered(Run *r, const PfqTplNode *n, PfqVal items)
{
    PfqVal *at = tpl_alloc(r, items.n, sizeof *at), kept = list_of(at, 0);
    Frame *outer = r->frame;
    for (uint32_t i = 0; i < items.n && !r->bad; i++) {
        Frame *f = push(r, outer);
        if (!f) break;
        r->frame = f;
        assign(r, kid(r, n, 0), items.at[i]);
        if (tpl_true(eval_kid(r, n, 2)) && !r->bad) at[kept.n++] = items.at[i];
    }
    r->frame = outer;
    return kept;
}

static void exec_for(Run *r, const PfqTplNode *n)
{
    Frame *outer = r->frame, *f;
    PfqVal items = tpl_items(r, eval_kid(r, n, 1));
    if (kid(r, n, 2) != PFQ_TPL_NIL) items = filtered(r, n, items);
    Loop *loop = tpl_alloc(r, 1, sizeof *loop);
    if (!loop) return;
    *loop = (Loop){.list = items};
    for (uint32_t i = 0; i < items.n && tpl_charge(r, 1) && (f = push(r, outer)); i++) {
        loop->i = i;
        r->frame = f;
        define(r, PFQ_S_LOOP, (PfqVal){.kind = PFQ_V_LOOP, .p = loop});
        assign(r, kid(r, n, 0), items.at[i]);
        exec(r, kid(r, n, 3));
        const bool stop = r->flow == FLOW_BREAK;
        r->flow = FLOW_ON;
        if (stop) break;
    }
    r->frame = outer;
    if (items.n == 0 && kid(r, n, 4) != PFQ_TPL_NIL && (r->frame = push(r, outer)))
        exec(r, kid(r, n, 4));
    r->frame = outer;
}

static void exec_set(Run *r, const PfqTplNode *n)
{
    assign(r, kid(r, n, 0), eval_kid(r, n, 1));
}

typedef struct Macro {
    const PfqTplNode *node;
    Frame *frame; /* where it was defined */
} Macro;

static PfqVal macro(Run *r, const PfqTplNode *n)
{
    Macro *m = tpl_alloc(r, 1, sizeof *m);
    if (m) *m = (Macro){n, r->frame};
    return (PfqVal){.kind = PFQ_V_FUNC, .sub = FUNC_MACRO, .p = m};
}

static void exec_macro(Run *r, const PfqTplNode *n)
{
    define(r, n->a, macro(r, n));
}

static void exec_caller(Run *r, const PfqTplNode *n)
{
    Args a;
    const PfqTplNode *call = node_at(r, kid(r, n, 0), PFQ_T_CALL),
                     *body = node_at(r, kid(r, n, 1), PFQ_T_MACRO);
    if (!call || !body) {
        eval_kw(r, n);
        return;
    }
    const PfqVal f = eval_kid(r, call, 0);
    arguments(r, call, 1, &a);
    tpl_put_str(r, tpl_call_macro(r, f, &a, macro(r, body)));
}

static void exec_with(Run *r, const PfqTplNode *n)
{
    Frame *outer = r->frame, *f = push(r, outer);
    for (uint32_t k = 1; k + 1 < n->c && !r->bad; k += 2) {
        const PfqVal v = eval_kid(r, n, k + 1); /* sees the outer names */
        r->frame = f;
        assign(r, kid(r, n, k), v);
        r->frame = outer;
    }
    if (!r->bad) {
        r->frame = f;
        exec(r, kid(r, n, 0));
    }
    r->frame = outer;
}

static void exec_break(Run *r, const PfqTplNode *n)
{
    r->flow = n->op == PFQ_T_BREAK ? FLOW_BREAK : FLOW_CONTINUE;
}

static void (*const execs[PFQ_T_COUNT])(Run *, const PfqTplNode *) = {
    [PFQ_T_TEXT] = exec_text,   [PFQ_T_PRINT] = exec_print,    [PFQ_T_SEQ] = exec_seq,
    [PFQ_T_IF] = exec_if,       [PFQ_T_FOR] = exec_for,        [PFQ_T_SET] = exec_set,
    [PFQ_T_MACRO] = exec_macro, [PFQ_T_CALLER] = exec_caller,  [PFQ_T_WITH] = exec_with,
    [PFQ_T_BREAK] = exec_break, [PFQ_T_CONTINUE] = exec_break,
};

static void exec(Run *r, uint32_t i)
{
    if (!tpl_enter(r)) return;
    const PfqTplNode *n = i == PFQ_TPL_NIL ? NULL : &r->t->node[i];
    if (n) r->line = n->line;
    if (n && execs[n->op])
        execs[n->op](r, n);
    else
        tpl_fail(r, "the template is damaged");
    tpl_leave(r);
}

/* ---- calls ---- */

/* Parameter k of a macro from the arguments, else its default, else undefined. */
static void bind(Run *r, const PfqTplNode *n, uint32_t k, const Args *a, uint32_t *used)
{
    const PfqTplNode *name = node_at(r, kid(r, n, 1 + 2 * k), PFQ_T_NAME);
    const uint32_t def = kid(r, n, 2 + 2 * k);
    if (!name) return;
    const PfqVal s = string_at(r->t, name->a);
    PfqVal v = undefined(s.s, s.n);
    bool found = k < a->n;
    if (found) v = a->pos[k];
    for (uint32_t i = 0; i < a->n_kw && !found; i++) {
        if (a->kw[i].key.n != s.n || memcmp(a->kw[i].key.s, s.s, s.n) != 0) continue;
        v = a->kw[i].val;
        found = true;
        ++*used;
    }
    if (!found && def != PFQ_TPL_NIL) v = eval(r, def);
    define(r, name->a, v);
}

PfqVal tpl_call_macro(Run *r, PfqVal f, const Args *a, PfqVal caller)
{
    if (r->bad) return ABSENT;
    if (f.kind != PFQ_V_FUNC || f.sub != FUNC_MACRO) {
        tpl_no(r, "be called with a block", f);
        return ABSENT;
    }
    const Macro *m = f.p;
    const uint32_t params = (m->node->c - 1) / 2;
    uint32_t used = 0;
    const size_t from = r->n;
    Frame *outer = r->frame, *inner = push(r, m->frame);
    if (!inner || !tpl_enter(r)) return ABSENT;
    r->frame = inner;
    define(r, PFQ_S_CALLER, caller);
    for (uint32_t k = 0; k < params && !r->bad; k++)
        bind(r, m->node, k, a, &used);
    if (a->n > params || used < a->n_kw)
        tpl_fail(r, "a macro gets arguments that it does not take");
    if (!r->bad) exec(r, kid(r, m->node, 0));
    r->flow = FLOW_ON;
    r->frame = outer;
    tpl_leave(r);
    return tpl_take(r, from);
}

PfqVal tpl_call(Run *r, PfqVal f, const Args *a)
{
    if (r->bad) return ABSENT;
    if (f.kind != PFQ_V_FUNC) {
        tpl_no(r, "be called", f);
        return ABSENT;
    }
    if (f.sub == FUNC_MACRO) return tpl_call_macro(r, f, a, undefined("caller", 6));
    if (f.sub == FUNC_METHOD) return tpl_method(r, f.n, *(const PfqVal *)f.p, a);
    return tpl_global(r, f.n, a);
}

/* ---- rendering ---- */

/* The number of a string, or NIL: a name that no template mentions needs no variable. */
static uint32_t string_number(const PfqTemplate *t, PfqVal s)
{
    for (uint32_t i = 0; i < n_strings(t); i++) {
        const uint32_t n = t->str_off[i + 1] - t->str_off[i];
        if (n == s.n && memcmp(t->str + t->str_off[i], s.s, n) == 0) return i;
    }
    return PFQ_TPL_NIL;
}

static void define_text(Run *r, PfqVal name, PfqVal v)
{
    const uint32_t i = name.kind == PFQ_V_STR ? string_number(r->t, name) : PFQ_TPL_NIL;
    if (i != PFQ_TPL_NIL && tpl_charge(r, 1)) define(r, i, v);
}

/* From the outside in: functions, special tokens, the caller's variables, the template's own. */
static void define_all(Run *r, PfqVal context)
{
    static const char *const funcs[] = {
#define FUNC(id, name, params, min) name,
#include "runtime/template.def"
    };
    for (uint32_t i = 0; i < PFQ_N_FUNCS; i++)
        define_text(r, pfq_val_str(funcs[i], strlen(funcs[i])),
                    (PfqVal){.kind = PFQ_V_FUNC, .sub = FUNC_GLOBAL, .n = i});
    for (uint32_t i = 0; i < r->t->head->global.count; i++)
        define(r, r->t->global[i].name, string_at(r->t, r->t->global[i].value));
    for (uint32_t i = 0; context.kind == PFQ_V_DICT && i < context.n; i++)
        define_text(r, context.pair[i].key, context.pair[i].val);
}

bool pfq_tpl_render(const PfqTemplate *t, int i, PfqVal context, const PfqTplLimits *limits,
                    int64_t now, PfqMem *m, PfqVal *out, PfqErr *err)
{
    Frame base = {0}, top = {.up = &base};
    Run r = {
        .t = t, .m = m, .limit = limits ? *limits : PFQ_TPL_LIMITS, .err = err, .frame = &base};
    r.now = now < 0 ? (int64_t)time(NULL) : now;
    if (i < 0 || (uint32_t)i >= t->head->root.count)
        return pfq_fail(err, "there is no chat template number %d", i);
    define_all(&r, context);
    r.frame = &top;
    exec(&r, t->root[i].node);
    *out = tpl_take(&r, 0);
    free(r.out);
    return !r.bad;
}
