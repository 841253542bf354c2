/* linear of float activations: what is the same whatever the weights are. A family defines ROWS,
 * the tokens whose accumulators are kept in registers, tile_bytes() and micro(), which computes n
 * tokens from t on of m tiles from w on, before it includes this.
 */
#ifndef PFQC_CODEGEN_CPU_LINEAR_FLOAT_H
#define PFQC_CODEGEN_CPU_LINEAR_FLOAT_H

PFQ_INLINE void tokens(const Lin *l, const char *w, int32_t m, int32_t col)
{
    int32_t t = 0;
    for (; t + ROWS <= l->tn; t += ROWS)
        micro(l, w, t, ROWS, m, col);
    for (; t + 2 <= l->tn; t += 2)
        micro(l, w, t, 2, m, col);
    if (t < l->tn) micro(l, w, t, 1, m, col);
}

PFQ_INLINE void lin_prepare(const Lin *l)
{
    (void)l;
}

PFQ_INLINE void lin_block(const Lin *l, int32_t tile, int32_t tiles)
{
    const char *w = (const char *)l->a->w + tile * tile_bytes();
    int32_t i = 0;
    if (PFQ_VNNI)
        for (; i + 2 <= tiles; i += 2)
            tokens(l, w + i * tile_bytes(), 2, i * 16);
    for (; i < tiles; i++)
        tokens(l, w + i * tile_bytes(), 1, i * 16);
}

#endif
