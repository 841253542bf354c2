/* What a compile decided, as one page of HTML that needs nothing else (no script, no network), and
 * in what two compiles differ.
 *
 * All of it is read from out/plan.json (docs/inspect.md), which may have come from anywhere. Charts
 * are SVG, drawn here; colours follow the reader's light or dark mode; a page prints as it looks.
 */
#ifndef PFQC_INSPECT_INSPECT_H
#define PFQC_INSPECT_INSPECT_H

#include "ir/base/diag.h"

/* `path`: the folder that pfqc wrote, or a plan.json. Appends the page. False after a diagnostic:
 * E_FILE_READ, E_JSON_*. */
bool inspect_html(Diag *d, Arena *a, const char *path, StrBuf *page);

/* In what two compiles differ, as text: a name, what the first has (-) and the second (+). Means
 * over layers stand for what was measured of each. */
bool inspect_diff(Diag *d, Arena *a, const char *first, const char *second, StrBuf *out);

#endif
