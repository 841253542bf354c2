/* Where the time of a command went: spans of the main thread, one inside another, for --time-passes
 * (a tree) and --time-trace (Chrome's JSON). Nothing is recorded before spans_start. Main thread
 * only.
 */
#ifndef PFQC_IR_BASE_SPANS_H
#define PFQC_IR_BASE_SPANS_H

#include "ir/base/str.h"

void spans_start(void);
/* Begins a span inside the one that is open; the name is copied. Returns what span_end takes. */
u32 span_begin(const char *name);
/* Ends it, unless something outside it did, and whatever is still open inside; a note, which may be
 * NULL, is shown beside it. */
void span_end(u32 span, const char *note);
/* The tree, a line a span, with its share of the whole. */
void spans_tree(StrBuf *out);
/* The trace event format that Chrome and Perfetto open: complete events, in microseconds. */
void spans_chrome(StrBuf *out);

#endif
