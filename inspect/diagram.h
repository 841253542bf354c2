/* A run of kernels as a drawing: a box a kernel from top to bottom, the values between them as
 * arrows with type and scale. Values that pass over kernels (residuals) run in lanes at the left.
 */
#ifndef PFQC_INSPECT_DIAGRAM_H
#define PFQC_INSPECT_DIAGRAM_H

#include "inspect/graph.h"

void diagram(StrBuf *o, const Graph *g, const GrFold *f, const char *label);

#endif
