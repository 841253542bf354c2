/* What each layer holds its numbers in, and by which scales, found in a function: for page, text
 * and comparison. */
#ifndef PFQC_INSPECT_LAYERS_H
#define PFQC_INSPECT_LAYERS_H

#include "inspect/graph.h"

enum { LAYERS_MAX = 4096 };

typedef struct LayerRow {
    Str name;
    const char **word; /* [layers]; NULL: the layer has none */
} LayerRow;

typedef struct LayerScale {
    Str name; /* of the value that is quantised: "qkv-in" */
    i64 layer;
    double lo, hi; /* over heads */
} LayerScale;

typedef struct Layers {
    u32 n;
    VEC(LayerRow) types;   /* of weights, of what linears read, of keys and values */
    VEC(LayerScale) scale; /* that are known before a program runs */
} Layers;

Layers layers_of(Arena *a, Graph *g);

/* "s4", or "s4 0-3, s8 4-29" where layers differ: a row of types. */
const char *layers_words(Arena *a, const Layers *l, u32 row);

/* Bits of an element of a type or layout: 4 of "s4" and "u4g32", 16 of "bf16". */
u32 layers_bits(const char *word);

#endif
