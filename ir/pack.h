/* Packed weight layouts: one table, the bytes they define, and their size.
 *
 * A weight [n, k] is packed in tiles of PACK_ROWS rows; a tile is one contiguous stream. Rows are
 * padded with zero rows to a multiple of PACK_ROWS (per interleaved part), k with zeros to a
 * multiple of `kpad`. With interleave p, the rows are p equal blocks and tile i of block j becomes
 * packed tile i*p + j. Layouts are described in ARCHITECTURE.md "Packed weights"; kernels in
 * codegen/cpu read them, the evaluator of `pack` writes them.
 */
#ifndef PFQC_IR_PACK_H
#define PFQC_IR_PACK_H

#include "ir/ir.h"

enum { PACK_ROWS = 16 };

typedef struct PackLayout {
    const char *name;
    DType dtype;    /* of the first operand */
    u32 operands;   /* w | q, s | q, s, m */
    i64 group;      /* k per scale; 0: one per row */
    i64 kpad;       /* k is padded to a multiple of this */
    i64 head_bytes; /* per tile, before the groups */
    i64 unit_bytes; /* per kpad columns of a tile */
    i64 max_cols;   /* longest row whose products sum exactly in i32; 0: any */
} PackLayout;

const PackLayout *pack_layout(const char *name); /* NULL if unknown */
const char *pack_layout_names(void);
i64 pack_tiles(i64 rows, i64 interleave);
i64 pack_tile_bytes(const PackLayout *l, i64 cols);                      /* -1 on overflow */
i64 pack_bytes(const PackLayout *l, i64 rows, i64 cols, i64 interleave); /* -1 on overflow */

/* Packs one tile. q: [PACK_ROWS, cols] integers (or w: floats for f32, bf16); s, m: [PACK_ROWS,
 * groups]; rows missing at the end are given as zeros by the caller. Writes pack_tile_bytes. */
void pack_tile(const PackLayout *l, i64 cols, const i32 *q, const float *w, const float *s,
               const float *m, u8 *out);

#endif
