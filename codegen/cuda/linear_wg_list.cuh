/* The tiles of linear_wg.cu, and which calls each takes: rows FAST of kernels.def and kernels of
 * the template are both made of this list.
 *
 * WG(name, ID, when, from, to, per_sm, bits, panels, across, deep, tokens, stages, split, chunk,
 * batch)
 *
 * name      pfq_cu_NAME is the entry; bits of the weights, rows and tokens of a tile; s, k, p, h,
 *           g: blocks share tiles; k: of long rows; p: two tiles of tokens; h: warpgroups have two
 *           panels; w: of many rows
 * ID, when, from, to   as in kernels.def; WG_HEADS: heads are whole
 * per_sm    blocks of an SM at the same time
 * the rest  WgShape (linear_wg.cuh)
 *
 * A tile must hold whole heads, so heads of 128 columns want two panels. Few tokens: bound by the
 * weights; where rows are many, two blocks an SM take a tile each, so that the next launch's
 * weights come while these finish, else a cluster shares one, a block an SM, with a ring as deep as
 * fits or the k of its blocks. Many tokens: tiles as large as registers allow. What was measured is
 * in docs/performance.md.
 */
#define WG_HEADS(panels)                                                                           \
    (C(fmt) == 1 && (C(epi) != 3 || (D == 64 * (panels) && (C(rot) == 0 || C(rot) == D))))

/* Of bf16 gate and up may be tiles themselves, of 64 channels. */
#define WG_BF16(panels)                                                                            \
    (C(fmt) == 0 && (C(epi) != 2 || N % 128 == 0) &&                                               \
     (C(epi) != 3 || (D == 64 * (panels) && (C(rot) == 0 || C(rot) == D))))

WG(wg4_128x8w, LINEAR_S4, WG_HEADS(1) && N >= 16384, 1, 8, 2, 4, 1, 2, 1, 8, 11, false, 8, 2)
WG(wg4_64x8k, LINEAR_S4, WG_HEADS(1) && K >= 8192, 1, 8, 1, 4, 1, 1, 2, 8, 30, true, 8, 4)
WG(wg4_64x8s, LINEAR_S4, WG_HEADS(1), 1, 8, 2, 4, 1, 1, 2, 8, 16, true, 8, 2)
WG(wg4_128x8h, LINEAR_S4, WG_HEADS(2), 1, 8, 1, 4, 2, 1, 2, 8, 16, true, 8, 2)
WG(wg4_128x16w, LINEAR_S4, WG_HEADS(1) && N >= 16384, 9, 16, 2, 4, 1, 2, 1, 16, 10, false, 16, 2)
WG(wg4_64x16s, LINEAR_S4, WG_HEADS(1), 9, 16, 1, 4, 1, 1, 2, 16, 24, true, 8, 4)
WG(wg4_128x16h, LINEAR_S4, WG_HEADS(2), 9, 16, 1, 4, 2, 1, 2, 16, 16, true, 8, 2)
WG(wg4_128x32w, LINEAR_S4, WG_HEADS(1) && N >= 16384, 17, 32, 2, 4, 1, 2, 1, 32, 8, false, 16, 2)
WG(wg4_64x32s, LINEAR_S4, WG_HEADS(1), 17, 32, 1, 4, 1, 1, 2, 32, 20, true, 8, 4)
WG(wg4_128x32h, LINEAR_S4, WG_HEADS(2), 17, 32, 1, 4, 2, 1, 2, 32, 14, true, 8, 2)
WG(wg4_128x64w, LINEAR_S4, WG_HEADS(1) && N >= 16384, 33, 64, 2, 4, 1, 2, 1, 64, 6, false, 16, 2)
WG(wg4_64x64s, LINEAR_S4, WG_HEADS(1), 33, 64, 1, 4, 1, 1, 2, 64, 14, true, 16, 4)
WG(wg4_128x64h, LINEAR_S4, WG_HEADS(2), 33, 64, 1, 4, 2, 1, 2, 64, 10, true, 16, 2)
WG(wg4_256x128w, LINEAR_S4, WG_HEADS(2) && N >= 16384, 65, 0, 1, 4, 2, 2, 1, 128, 4, false, 32, 2)
WG(wg4_128x128s, LINEAR_S4, WG_HEADS(1), 65, 128, 1, 4, 1, 2, 1, 128, 6, true, 32, 4)
WG(wg4_128x128g, LINEAR_S4, WG_HEADS(2) && C(epi) == 3, 65, 128, 1, 4, 2, 1, 1, 128, 6, true, 32, 2)
WG(wg4_128x128p, LINEAR_S4, WG_HEADS(1), 129, 256, 1, 4, 1, 2, 1, 128, 6, true, 32, 4)
WG(wg4_128x128h, LINEAR_S4, WG_HEADS(2) && C(epi) == 3, 129, 512, 1, 4, 2, 1, 2, 128, 4, false, 32,
   2)
WG(wg4_128x128, LINEAR_S4, WG_HEADS(1), 257, 512, 1, 4, 1, 2, 1, 128, 7, false, 32, 2)
WG(wg4_256x128, LINEAR_S4, WG_HEADS(2), 513, 0, 1, 4, 2, 2, 1, 128, 4, false, 32, 2)
WG(wg4_128x128t, LINEAR_S4, WG_HEADS(1), 513, 0, 1, 4, 1, 2, 1, 128, 7, false, 32, 2)
WG(wg8_128x8w, LINEAR_S8, WG_HEADS(1) && N >= 16384, 1, 8, 2, 8, 1, 2, 1, 8, 6, false, 8, 4)
WG(wg8_64x8s, LINEAR_S8, WG_HEADS(1), 1, 8, 2, 8, 1, 1, 2, 8, 8, true, 8, 4)
WG(wg8_128x8h, LINEAR_S8, WG_HEADS(2), 1, 8, 1, 8, 2, 1, 2, 8, 10, true, 8, 2)
WG(wg8_128x16w, LINEAR_S8, WG_HEADS(1) && N >= 16384, 9, 16, 2, 8, 1, 2, 1, 16, 5, false, 16, 4)
WG(wg8_128x32w, LINEAR_S8, WG_HEADS(1) && N >= 16384, 9, 32, 2, 8, 1, 2, 1, 32, 4, false, 16, 4)
WG(wg8_64x32s, LINEAR_S8, WG_HEADS(1), 9, 32, 2, 8, 1, 1, 2, 32, 6, true, 32, 4)
WG(wg8_128x32h, LINEAR_S8, WG_HEADS(2), 9, 32, 1, 8, 2, 1, 2, 32, 8, true, 32, 2)
WG(wg8_128x64w, LINEAR_S8, WG_HEADS(1) && N >= 16384, 33, 64, 2, 8, 1, 2, 1, 64, 4, false, 16, 2)
WG(wg8_128x64s, LINEAR_S8, WG_HEADS(1), 33, 128, 1, 8, 1, 2, 1, 64, 7, true, 32, 4)
WG(wg8_128x64h, LINEAR_S8, WG_HEADS(2), 33, 128, 1, 8, 2, 1, 2, 64, 6, true, 32, 2)
WG(wg8_256x128, LINEAR_S8, WG_HEADS(2), 129, 0, 1, 8, 2, 2, 1, 128, 3, false, 32, 2)
WG(wg8_128x128, LINEAR_S8, WG_HEADS(1), 129, 0, 1, 8, 1, 2, 1, 128, 5, false, 32, 4)
WG(wg16_64x8, LINEAR_BF16, WG_BF16(1), 1, 8, 2, 16, 1, 1, 1, 8, 10, false, 8, 4)
WG(wg16_128x8h, LINEAR_BF16, WG_BF16(2), 1, 8, 1, 16, 2, 1, 1, 8, 12, false, 8, 2)
WG(wg16_64x32, LINEAR_BF16, WG_BF16(1), 9, 64, 2, 16, 1, 1, 1, 32, 6, false, 16, 4)
WG(wg16_128x32h, LINEAR_BF16, WG_BF16(2), 9, 64, 1, 16, 2, 1, 1, 32, 8, false, 16, 2)
WG(wg16_256x128, LINEAR_BF16, WG_BF16(2), 65, 0, 1, 16, 2, 2, 1, 128, 3, false, 32, 2)
WG(wg16_128x128, LINEAR_BF16, WG_BF16(1), 65, 0, 1, 16, 1, 2, 1, 128, 5, false, 32, 4)
#undef WG
#undef WG_HEADS
#undef WG_BF16
