/* The "graph" of model.json -> the function @main(tokens: i32[T], pos: i32[T]) -> logits: f32[T,
 * vocab].
 *
 * Everything about an op comes from the IR's tables (op_info, attr_info): a node's "op" is a
 * mnemonic, its other keys are that op's attributes, and the op's type rule checks shapes.
 * docs/model-json.md is the format. Errors carry the place in model.json; a node that failed is not
 * reported again for other layers, nor are its users.
 */
#ifndef PFQC_FRONTEND_GRAPH_H
#define PFQC_FRONTEND_GRAPH_H

#include "frontend/weights.h"

enum { FE_MAX_NODES = 100000, FE_MAX_REPEAT = 4096, FE_MAX_CARRY = 64, FE_MAX_ELEMENTS = 1 << 22 };

/* dims: names and values of the expressions in attributes. vocab: columns that the logits must
 * have, 0 if not known. */
bool fe_graph_build(FeWeights *w, const Json *graph, const FeEnv *dims, i64 vocab);

#endif
