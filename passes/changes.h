/* What a pass did to a module: the lines of its text form that went and that came, for passes.json
 * (docs/inspect.md). Internal to passes/.
 *
 * A module is seen as groups of lines, one a function (or the constants) and layer; each group is
 * compared with itself before the pass. Layers that changed alike, but for their own numbers, for
 * places in files and memory and for floats, are told once. All of it is bounded: lines of an edit,
 * edits of a pass, bytes of a line, numbers of a list.
 */
#ifndef PFQC_PASSES_CHANGES_H
#define PFQC_PASSES_CHANGES_H

#include "ir/ir.h"

typedef struct Snapshot Snapshot;

/* The module's text as it is now; lives in the arena, the module may change. */
const Snapshot *changes_snapshot(Arena *a, const Module *m);

/* Appends members of a JSON object: "inserted", "removed", "changed" (ops and steps), "edits". A
 * function that was not there before is compared with @main, if that was. */
void changes_write(Arena *a, const Snapshot *before, const Snapshot *after, StrBuf *out);

#endif
