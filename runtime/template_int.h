/* Inside the template engine: what template*.c share.
 *
 * One error ends a render: tpl_fail records it, and from then on every function returns at once
 * with some value (undefined, an empty list), so that callers need not look at each result. What
 * recurses does so between tpl_enter and tpl_leave, what may take long calls tpl_charge.
 */
#ifndef PFQC_RUNTIME_TEMPLATE_INT_H
#define PFQC_RUNTIME_TEMPLATE_INT_H

#include "runtime/template.h"

typedef struct Var {
    uint32_t name; /* string */
    struct Var *next;
    PfqVal val;
} Var;

typedef struct Frame { /* names that a construct defines; lookups go on in `up` */
    struct Frame *up;
    Var *var;
} Frame;

typedef struct Run {
    const PfqTemplate *t;
    PfqMem *m;
    PfqTplLimits limit;
    uint64_t steps;
    unsigned depth;
    int64_t now;
    char *out; /* malloc'ed: the result, then what is being put together */
    size_t n, cap;
    Frame *frame;
    enum { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } flow;
    bool bad;
    uint16_t line;
    PfqErr *err;
} Run;

typedef struct Args {
    const PfqVal *pos;
    const PfqPair *kw; /* keys are strings */
    uint32_t n, n_kw;
} Args;

/* PfqVal.sub of a function. n is its number in template.def, p what it belongs to. */
enum { FUNC_GLOBAL, FUNC_METHOD, FUNC_MACRO };

typedef struct Gen {
    PfqVal list;
    bool used;
} Gen;

typedef struct Space {
    PfqPair *pair;
    uint32_t n, cap;
} Space;

typedef struct Loop {
    PfqVal list;
    uint32_t i;
} Loop;

/* An argument that was not given; not a value that templates meet. */
#define ABSENT ((PfqVal){.kind = PFQ_V_UNDEF, .sub = 1})

static inline bool given(PfqVal v)
{
    return v.kind != PFQ_V_UNDEF || v.sub != 1;
}

static inline PfqVal undefined(const char *name, uint32_t n)
{
    return (PfqVal){.kind = PFQ_V_UNDEF, .s = name, .n = n};
}

static inline PfqVal none(void)
{
    return (PfqVal){.kind = PFQ_V_NONE};
}

static inline PfqVal list_of(const PfqVal *at, uint32_t n)
{
    return (PfqVal){.kind = PFQ_V_LIST, .n = n, .at = at};
}

static inline uint32_t n_strings(const PfqTemplate *t)
{
    return t->head->str_off.count - 1;
}

static inline PfqVal string_at(const PfqTemplate *t, uint32_t i)
{
    return pfq_val_str(t->str + t->str_off[i], t->str_off[i + 1] - t->str_off[i]);
}

/* template.c */
bool tpl_fail(Run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* false */
bool tpl_charge(Run *r, uint64_t steps);
bool tpl_enter(Run *r); /* if true, tpl_leave must follow */
void tpl_leave(Run *r);
void *tpl_alloc(Run *r, size_t count, size_t size);
void tpl_put(Run *r, const char *s, size_t n);
PfqVal tpl_take(Run *r, size_t from); /* what was put since r->n was `from`, as a string */
PfqVal tpl_call(Run *r, PfqVal f, const Args *a);
PfqVal tpl_call_macro(Run *r, PfqVal f, const Args *a, PfqVal caller);

/* template_text.c: values and text */
const char *tpl_kind(PfqVal v);                  /* "a string" */
bool tpl_no(Run *r, const char *what, PfqVal v); /* fails: what cannot be done with v */
void tpl_put_str(Run *r, PfqVal v);              /* Python's str() */
void tpl_put_repr(Run *r, PfqVal v);
typedef struct JsonForm {
    bool ascii, sort;
    PfqVal indent;      /* string, or none */
    PfqVal item, colon; /* separators */
} JsonForm;
void tpl_put_json(Run *r, PfqVal v, const JsonForm *f);
PfqVal tpl_str(Run *r, PfqVal v); /* a string as it is, else str() */
enum { CASE_LOWER, CASE_UPPER, CASE_TITLE, CASE_CAPITAL, CASE_JINJA_TITLE };
PfqVal tpl_case(Run *r, PfqVal s, int how);
enum { STRIP_LEFT = 1, STRIP_RIGHT = 2 };
PfqVal tpl_strip(Run *r, PfqVal s, PfqVal chars, int sides); /* chars may be ABSENT or none */
bool tpl_is_space(uint32_t c);                               /* as Python's str.isspace */
size_t tpl_chars(PfqVal s);                                  /* code points */
/* Offset of `sub` in s[from..), or s.n + 1. */
size_t tpl_find(Run *r, PfqVal s, PfqVal sub, size_t from);
PfqVal tpl_replace(Run *r, PfqVal s, PfqVal old, PfqVal new, int64_t count);
PfqVal tpl_split(Run *r, PfqVal s, PfqVal sep, int64_t max, bool right);
PfqVal tpl_splitlines(Run *r, PfqVal s, bool keep);
PfqVal tpl_escape(Run *r, PfqVal s); /* of HTML, as markupsafe */
/* `by` in front of lines: of the first and of blank ones where asked for. */
PfqVal tpl_indent(Run *r, PfqVal s, PfqVal by, bool first, bool blank);

/* template_value.c: what values do */
bool tpl_true(PfqVal v);
bool tpl_is_number(PfqVal v); /* also booleans */
double tpl_real(PfqVal v);    /* of a number */
int64_t tpl_int(PfqVal v);    /* of an integer or boolean */
bool tpl_equal(Run *r, PfqVal a, PfqVal b);
int tpl_order(Run *r, PfqVal a, PfqVal b); /* -1, 0, 1 */
bool tpl_contains(Run *r, PfqVal item, PfqVal in);
PfqVal tpl_items(Run *r, PfqVal v); /* what a loop over v sees, as a list */
PfqVal tpl_gen(Run *r, PfqVal list);
bool tpl_length(Run *r, PfqVal v, int64_t *n);
PfqVal tpl_attr(Run *r, PfqVal v, PfqVal name); /* v.name */
PfqVal tpl_item(Run *r, PfqVal v, PfqVal key);  /* v[key] */
PfqVal tpl_slice(Run *r, PfqVal v, PfqVal start, PfqVal stop, PfqVal step);
PfqVal tpl_path(Run *r, PfqVal v, PfqVal path); /* the attribute "a.b.0" as filters name it */
PfqVal tpl_binary(Run *r, PfqTplBinary op, PfqVal a, PfqVal b);
void tpl_space_set(Run *r, Space *s, PfqVal key, PfqVal val);

/* template_sort.c. They go by an attribute of the items (ABSENT or none: by the items), strings by
 * their lower case unless with_case. */
PfqVal tpl_sorted(Run *r, PfqVal items, PfqVal attribute, bool with_case,
                  bool reverse);                                                      /* stable */
PfqVal tpl_extreme(Run *r, PfqVal items, PfqVal attribute, bool with_case, int sign); /* 1: most */
PfqVal tpl_unique(Run *r, PfqVal items, PfqVal attribute, bool with_case);

/* template_call.c: filters, tests, methods, global functions */
PfqVal tpl_filter(Run *r, uint32_t id, PfqVal v, const Args *a);
bool tpl_test(Run *r, uint32_t id, PfqVal v, const Args *a);
PfqVal tpl_method(Run *r, uint32_t id, PfqVal self, const Args *a);
PfqVal tpl_global(Run *r, uint32_t id, const Args *a);
bool tpl_method_of(PfqVal v, PfqVal name, uint32_t *id);

#endif
