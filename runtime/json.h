/* JSON text to a tree, for texts that anyone may have written: task files, request bodies.
 *
 * RFC 8259 to the letter: one value; valid UTF-8 without a byte order mark; escapes of surrogates
 * only in pairs; numbers that a double can hold. Nesting ends at PFQ_JSON_DEPTH, the tree at the
 * caller's array. Parsing is one pass without recursion or allocation, and it works in place:
 * escapes shrink, so that decoded strings lie where they were written, each ending in NUL (they may
 * hold others). The nodes point into the text; both are the caller's and must live as long as they
 * are read.
 *
 * A tree is its nodes in the order of the text. A container's first child is the next node; its
 * members are pairs of nodes, name and value. `span` leads past a value:
 *
 *     const PfqJson *v = array + 1;
 *     for (uint32_t i = 0; i < array->n; i++, v += v->span) ...
 *
 * Two members of one name are no error of the text; pfq_json_fields refuses them where they matter.
 * Integers without fraction or exponent that fit 64 bits are exact, all other numbers are doubles.
 * Not here: files and lines; the printer (out.h).
 */
#ifndef PFQC_RUNTIME_JSON_H
#define PFQC_RUNTIME_JSON_H

#include "runtime/image.h"

enum { PFQ_JSON_DEPTH = 64 };

typedef enum PfqJsonType {
    PFQ_JSON_NULL,
    PFQ_JSON_BOOL,
    PFQ_JSON_INT,
    PFQ_JSON_REAL,
    PFQ_JSON_STRING,
    PFQ_JSON_ARRAY,
    PFQ_JSON_OBJECT
} PfqJsonType;

typedef struct PfqJson {
    uint8_t type;  /* PfqJsonType */
    uint32_t n;    /* bytes of a string, elements of an array, members of an object */
    uint32_t span; /* nodes of this value, itself counted */
    union {
        bool b;
        int64_t i;
        double d;
        const char *s;
    };
} PfqJson;

/* Parses text[0..n) into nodes[0..cap); nodes[0] is the value. text[n] must exist: a NUL is put
 * there. On failure *at is the byte (0..n) where the text is wrong, and err says what was expected
 * there and what was found. */
bool pfq_json_parse(char *text, size_t n, PfqJson *nodes, uint32_t cap, size_t *at, PfqErr *err);

/* What a program wants to know of an object: a name, the types it may have (bits 1 << PfqJsonType),
 * and where its value goes. */
#define PFQ_JSON_NUMBER (1u << PFQ_JSON_INT | 1u << PFQ_JSON_REAL)
typedef struct PfqJsonField {
    const char *name;
    unsigned types;
    const PfqJson **value; /* set to NULL if there is no such member */
} PfqJsonField;

/* Looks the members of `object` up, each once. A sentence names the first that has another type or
 * comes twice; *unknown (may be NULL) is the name of the first that is none of the n fields, or
 * NULL. */
bool pfq_json_fields(const PfqJson *object, const PfqJsonField *fields, size_t n,
                     const PfqJson **unknown, PfqErr *err);

const char *pfq_json_type_name(PfqJsonType type); /* "a string" */
double pfq_json_number(const PfqJson *v);         /* of an INT or a REAL */

/* ---- for writers ---- */

/* One byte of valid UTF-8 as a string of JSON has it: the byte, or an escape. Returns how many. */
size_t pfq_json_escape(unsigned char c, char out[8]);

#endif
