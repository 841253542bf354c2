/* Combinations of passes and models that are refused (E_PASS_COMBINATION); the table is in rules.c.
 * Internal to passes/ and its tests. */
#ifndef PFQC_PASSES_RULES_H
#define PFQC_PASSES_RULES_H

#include "passes/pass.h"

/* May this pass run on the module as it stands? The rules read the options of cx->call. */
bool rules_before(PassCx *cx, const char *pass);
/* What no module may hold, whichever pass made it; `what` is blamed. */
bool rules_of_module(PassCx *cx, const char *what);

const char *rules_name(u32 i, const char **sentence); /* of row i; NULL at the end */
void rules_list(StrBuf *b);                           /* a section of docs/passes.md */

#endif
