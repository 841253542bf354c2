/* A run of kernels as a drawing: a box a kernel from top to bottom, the values between them as
 * arrows with type and scale. Values that pass over kernels (residuals) run in lanes at the left.
 */
#ifndef PFQC_INSPECT_DIAGRAM_H
#define PFQC_INSPECT_DIAGRAM_H

#include "inspect/graph.h"

/* Kernels of a family have a colour: "linear.s8.qkv" that of "linear". */
extern const char *const diagram_family[]; /* ends with NULL */
u32 diagram_colour(const char *kernel);
void diagram(StrBuf *o, const Graph *g, const GrFold *f, const char *label);

#endif
