/* The fields of the server's requests, from the table fields.def: a JSON body to values in range.
 *
 * What has no row, comes twice, has another type or lies outside its range is refused with a
 * sentence and the field's name. Nothing is allocated; strings and values point into the body and
 * its tree.
 */
#ifndef PFQC_RUNTIME_FIELDS_H
#define PFQC_RUNTIME_FIELDS_H

#include "runtime/json.h"
#include "runtime/out.h"

typedef enum PfqApiRoute { /* bits: rows of the table name several */
                           PFQ_API_COMPLETIONS = 1,
                           PFQ_API_CHAT = 2,
                           PFQ_API_TOKENIZE = 4,
                           PFQ_API_DETOKENIZE = 8
} PfqApiRoute;

typedef struct PfqFields { /* those of other routes have their defaults */
#define PFQ_FIELD_INT(member)                  int64_t member;
#define PFQ_FIELD_REAL(member)                 double member;
#define PFQ_FIELD_BOOL(member)                 bool member;
#define PFQ_FIELD_TEXT(member)                 const PfqJson *member; /* NULL: not given */
#define PFQ_FIELD_JSON(member)                 const PfqJson *member;
#define PFQ_FIELD_ONLY(member)                 double member;
#define FIELD(routes, name, type, member, ...) PFQ_FIELD_##type(member)
#include "runtime/fields.def"
} PfqFields;

/* `body` is the whole tree. *param names the field at fault, or is NULL where there is none. */
bool pfq_fields_read(PfqFields *f, PfqApiRoute route, const PfqJson *body, const char **param,
                     PfqErr *err);

/* The table as a reference page (Markdown). */
void pfq_fields_doc(PfqOut *out);

#endif
