/* Chat templates: from a conversation to the text of a prompt, by the Jinja template that the model
 * came with.
 *
 * pfqc parses the template when it compiles the model (frontend/template*.c) and ships a tree of
 * nodes as one blob beside the tokenizer's. pfq_tpl_open checks the whole blob once (every index,
 * and that children come before their parents, so that it is a tree); pfq_tpl_render walks it.
 * The meaning is that of Jinja 3.1 as Hugging Face transformers sets it up: trim_blocks,
 * lstrip_blocks, an immutable sandbox, the loop control and generation extensions, and the globals
 * raise_exception and strftime_now.
 *
 * A render is bounded by PfqTplLimits, does no input or output, and calls nothing but the clock
 * (strftime_now, unless `now` is given: the local time of day, C locale). Values that templates see
 * are those of value.h. Threading: a PfqTemplate is immutable after open; a render has its own
 * PfqMem. Errors: false and a sentence that names the template's line. Not here: parsing,
 * tokenisation.
 */
#ifndef PFQC_RUNTIME_TEMPLATE_H
#define PFQC_RUNTIME_TEMPLATE_H

#include "runtime/value.h"

typedef struct PfqTplNode PfqTplNode;

typedef struct PfqTemplate {
    const unsigned char *blob; /* not owned */
    size_t bytes;
    const struct PfqTplHead *head;
    const PfqTplNode *node;
    const uint32_t *kid, *str_off;
    const char *str;
    const struct PfqTplRoot *root;
    const struct PfqTplGlobal *global;
} PfqTemplate;

typedef struct PfqTplLimits {
    uint64_t steps; /* nodes, and 64 bytes or 4 elements that one of them handles */
    size_t output;  /* bytes of the result and of what is still being put together */
    unsigned depth; /* of nodes and values within each other */
} PfqTplLimits;

#define PFQ_TPL_LIMITS ((PfqTplLimits){10000000, 4u << 20, 300})

/* Returns NULL, or a static sentence saying what is wrong with the blob. */
const char *pfq_tpl_open(PfqTemplate *t, const void *blob, size_t bytes);

/* The template of that name ("default", "tool_use"): its number, or -1. */
int pfq_tpl_find(const PfqTemplate *t, const char *name);
const char *pfq_tpl_name(const PfqTemplate *t, int i, size_t *n); /* NULL past the last one */

/* Its text, as pfqc read it. */
const char *pfq_tpl_text(const PfqTemplate *t, int i, size_t *n);

/* The one that transformers would take: "tool_use" for a conversation with tools, if there is one,
 * else "default", else the first. */
int pfq_tpl_choose(const PfqTemplate *t, bool tools);

/* Does any of them look at a variable of this name? */
bool pfq_tpl_reads(const PfqTemplate *t, const char *name, size_t n);

/* Renders template number i. `context` is a dict of the variables (messages, tools,
 * add_generation_prompt, ...); the special tokens (bos_token, ...) come from the blob unless
 * the context has them. The result lies in `m`. `limits` may be NULL: PFQ_TPL_LIMITS. `now`:
 * seconds since 1970 for strftime_now, or negative for the clock. */
bool pfq_tpl_render(const PfqTemplate *t, int i, PfqVal context, const PfqTplLimits *limits,
                    int64_t now, PfqMem *m, PfqVal *out, PfqErr *err);

/* ---- The blob: written by frontend/template_blob.c. Little-endian, offsets from its start. ----
 */

#define PFQ_TPL_MAGIC   "PFQJ"
#define PFQ_TPL_VERSION 2u
#define PFQ_TPL_NIL     UINT32_MAX /* no node, no string */

enum { PFQ_TPL_MAX_BYTES = 64 << 20, PFQ_TPL_MAX_ARGS = 16 };

/* Operations: X(id, what `a` is, fewest kids, most kids, most `sub`). A kid is a node or NIL; kinds
 * of `a`: NO, STR (string), RAW. */
#define PFQ_TPL_OPS(X)                                                                             \
    /* statements */                                                                               \
    X(TEXT, STR, 0, 0, 0)                                                                          \
    X(PRINT, NO, 1, 1, 0)                                                                          \
    X(SEQ, NO, 0, MANY, 0)                                                                         \
    X(IF, NO, 2, MANY, 0)     /* condition, body, condition, body, ..., [else] */                  \
    X(FOR, NO, 5, 5, 0)       /* target, items, condition?, body, else? */                         \
    X(SET, NO, 2, 2, 0)       /* target, value */                                                  \
    X(MACRO, STR, 1, MANY, 0) /* body, then parameter (NAME), default? */                          \
    X(CALLER, NO, 2, 2, 0)    /* call, macro that it gets as `caller` */                           \
    X(WITH, NO, 1, MANY, 0)   /* body, then target, value */                                       \
    X(BREAK, NO, 0, 0, 0)                                                                          \
    X(CONTINUE, NO, 0, 0, 0)                                                                       \
    /* expressions */                                                                              \
    X(CONST, NO, 0, 0, 2) /* sub: none, false, true */                                             \
    X(INT, RAW, 0, 0, 0)  /* (b, c): the bits, low half first */                                   \
    X(REAL, RAW, 0, 0, 0)                                                                          \
    X(STRING, STR, 0, 0, 0)                                                                        \
    X(NAME, STR, 0, 0, 0)                                                                          \
    X(LIST, NO, 0, MANY, 1) /* sub 1: tuple */                                                     \
    X(DICT, NO, 0, MANY, 0) /* key, value, ... */                                                  \
    X(ATTR, STR, 1, 1, 0)                                                                          \
    X(ITEM, NO, 2, 2, 0)                                                                           \
    X(SLICE, NO, 4, 4, 0)   /* of, start?, stop?, step? */                                         \
    X(CALL, NO, 1, MANY, 0) /* function, arguments, then KW */                                     \
    X(KW, STR, 1, 1, 0)                                                                            \
    X(STAR, NO, 1, 1, 1)       /* the arguments in a list; sub 1: in a dict, by name */            \
    X(FILTER, RAW, 1, MANY, 0) /* a: PfqTplFilter; subject, arguments, then KW */                  \
    X(TEST, RAW, 1, MANY, 1)   /* a: PfqTplTest; sub 1: negated */                                 \
    X(UNARY, NO, 1, 1, 2)      /* sub: not, minus, plus */                                         \
    X(BINARY, NO, 2, 2, 9)     /* sub: PfqTplBinary */                                             \
    X(COMPARE, NO, 2, MANY, 0) /* left, then OPERAND */                                            \
    X(OPERAND, NO, 1, 1, 7)    /* sub: PfqTplCompare */                                            \
    X(COND, NO, 3, 3, 0)       /* condition, then, else? */                                        \
    X(CAPTURE, NO, 1, 1, 0)    /* what the statement puts out, as a string */

typedef enum PfqTplOp {
#define X(id, a, min, max, sub) PFQ_T_##id,
    PFQ_TPL_OPS(X)
#undef X
        PFQ_T_COUNT
} PfqTplOp;

typedef enum PfqTplBinary {
    PFQ_B_OR,
    PFQ_B_AND,
    PFQ_B_ADD,
    PFQ_B_SUB,
    PFQ_B_MUL,
    PFQ_B_DIV,
    PFQ_B_FLOORDIV,
    PFQ_B_MOD,
    PFQ_B_POW,
    PFQ_B_CONCAT,
} PfqTplBinary;

typedef enum PfqTplCompare {
    PFQ_C_EQ,
    PFQ_C_NE,
    PFQ_C_LT,
    PFQ_C_LE,
    PFQ_C_GT,
    PFQ_C_GE,
    PFQ_C_IN,
    PFQ_C_NOT_IN,
} PfqTplCompare;

typedef enum PfqTplFilter {
#define FILTER(id, name, params, min) PFQ_F_##id,
#include "runtime/template.def"
    PFQ_N_FILTERS
} PfqTplFilter;

typedef enum PfqTplTest {
#define TEST(id, name, args) PFQ_TEST_##id,
#include "runtime/template.def"
    PFQ_N_TESTS
} PfqTplTest;

typedef enum PfqTplMethod {
#define METHOD(id, type, name, params, min) PFQ_M_##id,
#include "runtime/template.def"
    PFQ_N_METHODS
} PfqTplMethod;

typedef enum PfqTplFunc {
#define FUNC(id, name, params, min) PFQ_FN_##id,
#include "runtime/template.def"
    PFQ_N_FUNCS
} PfqTplFunc;

struct PfqTplNode {
    uint8_t op, sub;
    uint16_t line;    /* 65535: that or later */
    uint32_t a, b, c; /* (b, c): first kid and number of kids, unless the op says otherwise */
};

/* Strings that every blob begins with. */
#define PFQ_TPL_FIXED_STRINGS "loop", "caller"
enum { PFQ_S_LOOP, PFQ_S_CALLER, PFQ_S_FIXED };

typedef struct PfqTplRoot {
    uint32_t name, node, text; /* name, text: strings */
} PfqTplRoot;

typedef struct PfqTplGlobal {
    uint32_t name, value; /* strings */
} PfqTplGlobal;

typedef struct PfqTplHead {
    char magic[4];
    uint32_t version, bytes;
    struct {
        uint32_t off, count; /* off: multiple of 4 */
    } node, kid, str_off, str, root, global;
} PfqTplHead;

#endif
