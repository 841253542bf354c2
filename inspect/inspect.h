/* What is in a model or was decided by a compile, for people and tools, and in what two compiles
 * differ.
 *
 * A view is made of a folder that pfqc wrote (plan.json, and beside it passes.json and model.pfir,
 * where they are), of a .pfir, or of a module in memory. All files may have come from anywhere.
 * Forms: a page of HTML that needs nothing else (no script, no network; charts are SVG, colours
 * follow the reader's light or dark mode, a page prints as it looks), text for terminals, JSON
 * (docs/inspect.md has its schema), DOT for graphviz.
 */
#ifndef PFQC_INSPECT_INSPECT_H
#define PFQC_INSPECT_INSPECT_H

#include "ir/ir.h"

struct Plan;
struct Times;

typedef struct View {
    const char *source;         /* "out", "pfir", "model" */
    Module *m;                  /* NULL: an out folder without model.pfir */
    const struct Plan *plan;    /* NULL: no out folder */
    Str passes;                 /* passes.json; empty: there is none */
    const struct Json *changes; /* the same, read */
    const struct Times *times;  /* NULL: nothing was measured */
} View;

/* `path`: the folder that pfqc wrote, its plan.json, or a .pfir. False after a diagnostic:
 * E_FILE_READ, E_JSON_*, E_IR_*. */
bool inspect_open(Diag *d, Arena *a, const char *path, View *out);
View inspect_module(Module *m);
/* Adds the times of a timeline that the program wrote (--trace). E_FILE_READ, E_JSON_*. */
bool inspect_times(Diag *d, Arena *a, const char *path, View *v);

typedef void InspectWrite(Arena *a, const View *v, StrBuf *out);
typedef struct InspectForm {
    const char *name; /* "html" */
    InspectWrite *write;
} InspectForm;
extern const InspectForm inspect_form[]; /* ends with a NULL name; the first is the default */

/* In what two compiles differ, as text: a name, what the first has (-) and the second (+). Means
 * over layers stand for what was measured of each. */
bool inspect_diff(Diag *d, Arena *a, const char *first, const char *second, StrBuf *out);

#endif
