/* Values of chat templates: what JSON can say, and what Jinja adds to it (undefined, tuples,
 * one-shot iterators, namespaces, functions).
 *
 * Values live in a PfqMem, an arena with a limit: nothing is freed singly, and asking for more than
 * the limit fails. A PfqVal is 16 bytes and copied freely; strings, elements and pairs it points to
 * are never changed once it exists. Strings are UTF-8 by convention; any bytes are safe. Threading:
 * one PfqMem per thread. Sources: Jinja 3.1 documentation, Python 3 library reference (str, repr,
 * json.dumps).
 */
#ifndef PFQC_RUNTIME_VALUE_H
#define PFQC_RUNTIME_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct PfqErr PfqErr;   /* image.h */
typedef struct PfqJson PfqJson; /* json.h */

typedef struct PfqMem {
    struct PfqMemBlock *top;
    size_t used, cap;    /* of top */
    size_t total, limit; /* bytes of all blocks */
} PfqMem;

enum { PFQ_MEM_LIMIT = 64 << 20 };

void pfq_mem_init(PfqMem *m, size_t limit);
void pfq_mem_free(PfqMem *m);
void *pfq_mem(PfqMem *m, size_t n); /* 16-byte aligned, not cleared; NULL: limit, or no memory */

typedef enum PfqKind {
    PFQ_V_UNDEF, /* s: the name that was looked for, n its bytes */
    PFQ_V_NONE,
    PFQ_V_BOOL,
    PFQ_V_INT,
    PFQ_V_REAL,
    PFQ_V_STR,
    PFQ_V_LIST,
    PFQ_V_DICT,
    PFQ_V_GEN,   /* an iterator that can be walked once */
    PFQ_V_SPACE, /* namespace() */
    PFQ_V_LOOP,
    PFQ_V_FUNC,
} PfqKind;

/* PfqVal.sub of a list */
enum { PFQ_LIST_PLAIN, PFQ_LIST_TUPLE, PFQ_LIST_RANGE, PFQ_LIST_VIEW };

typedef struct PfqVal PfqVal;
typedef struct PfqPair PfqPair;
struct PfqVal {
    uint8_t kind, sub;
    uint32_t n; /* bytes of a string, elements, pairs */
    union {
        bool b;
        int64_t i;
        double f;
        const char *s;
        const PfqVal *at;
        const PfqPair *pair; /* keys are distinct */
        void *p;
    };
};

struct PfqPair {
    PfqVal key, val;
};

/* A string that the caller keeps alive; it must be shorter than 4 GiB. */
PfqVal pfq_val_str(const char *s, size_t n);
PfqVal pfq_val_bool(bool b);
PfqVal pfq_val_int(int64_t i);

/* Value of a key of a dict, or undefined. */
PfqVal pfq_val_get(PfqVal dict, const char *key);

/* A JSON value (json.h), whose text and nodes stay where they are: strings point into them. Of
 * equal keys the last one counts, as in Python. False: more than the limit of `m`. */
bool pfq_val_from_json(PfqMem *m, const PfqJson *j, PfqVal *out);

/* The same from a text, which is copied. */
bool pfq_val_json(PfqMem *m, const char *text, size_t n, PfqVal *out, PfqErr *err);

#endif
