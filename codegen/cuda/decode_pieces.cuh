/* Many rows of the persistent decode step: what an op reads is made in pieces, each by whoever has
 * it, and handed to all as the bytes that shared memory holds (pfq_b_at), a flag a piece.
 *
 * The memory at an entry of PfqDecodeArgs.at: int32 flags [pieces of a row][rows], f32 dynamic
 * scales [rows], then, from a multiple of 128 on, bytes [rows][planes][K]. A flag is the number of
 * the phase (PfqWorker::flag), so nobody zeroes it; it may be set again once all blocks have met
 * behind their readers.
 */
#ifndef PFQC_CODEGEN_CUDA_DECODE_PIECES_CUH
#define PFQC_CODEGEN_CUDA_DECODE_PIECES_CUH

#include "decode.cuh"

/* What op To reads, in pieces of `each` columns. */
template <class W, class To, int32_t each> struct PfqPieces {
    static constexpr int32_t of_row = (To::K + each - 1) / each,
                             head = (4 * (of_row + 1) * W::most + 127) / 128 * 128;

    PFQ_STATIC int32_t *flags(const W &w, int32_t at) { return (int32_t *)w.a.at[at]; }
    PFQ_STATIC float *scales(const W &w, int32_t at)
    {
        return (float *)w.a.at[at] + of_row * W::most;
    }
    PFQ_STATIC uint8_t *row(const W &w, int32_t at, int32_t r, int32_t plane)
    {
        return (uint8_t *)w.a.at[at] + head + (r * To::planes + plane) * To::K;
    }
    /* The columns that the block's slots read, once they are there, to shared memory. Behind it, as
     * in front of it, all workers meet. */
    PFQ_STATIC void fetch(W &w, int32_t at)
    {
        constexpr int32_t width = PfqDeal<To>::part_k, quads = width / 16, deep = 8;
        static_assert(width % 64 == 0, "runs of 64 columns");
        const int32_t k0 = PfqDeal<To>::mine().first_k(), p0 = k0 / each,
                      pieces = (k0 + width + each - 1) / each - p0,
                      all = w.rows() * To::planes * quads;
        for (int32_t i = w.tid(); i < pieces * W::most && W::waits; i += PFQ_WORKERS)
            if (i % W::most < w.rows()) pfq_wait_flag(flags(w, at) + p0 * W::most + i, w.flag());
        w.sync();
        for (int32_t i = w.tid(); i < all; i += PFQ_WORKERS * deep) {
            PfqInts v[deep];
            PFQ_UNROLL
            for (int32_t j = 0; j < deep; j++) {
                const int32_t of = i + PFQ_WORKERS * j, r = of / quads;
                if (of < all)
                    v[j] = pfq_fresh((const PfqInts *)(row(w, at, r / To::planes, r % To::planes) +
                                                       k0 + of % quads * 16));
            }
            PFQ_UNROLL
            for (int32_t j = 0; j < deep; j++) {
                const int32_t of = i + PFQ_WORKERS * j, r = of / quads;
                if (of < all)
                    *(PfqInts *)(w.act() + r / To::planes * W::Room::act_row +
                                 r % To::planes * To::plane + of % quads * 16) = v[j];
            }
        }
    }
};

#endif
