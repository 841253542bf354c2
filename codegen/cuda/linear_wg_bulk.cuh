/* Epilogues of wide tiles of linear_wg.cuh whose values have 16 bits: all tokens pass through
 * shared memory at once, which puts a token's columns side by side.
 */
#ifndef PFQC_CODEGEN_CUDA_LINEAR_WG_BULK_CUH
#define PFQC_CODEGEN_CUDA_LINEAR_WG_BULK_CUH

#include "linear_wg_out.cuh"

template <class S> struct WgBulk {
    const PfqCudaArgs *a;
    const WgUnit *u;
    uint32_t out;          /* the warpgroup's part of shared memory */
    const int32_t *values; /* the same */
    uint32_t bar;
    int32_t me, row;        /* thread of the warpgroup; its first row of W */
    int32_t first, columns; /* of out[0]; columns that exist */
    WgRows<S> rows;
};

/* Are the values halves in pieces of 16 bytes, or tiles. */
template <class S> PFQ_DEVICE bool wg_can_bulk()
{
    if (!S::BULK || c_epi == PFQ_EPI_QKV || c_epi == PFQ_EPI_RESIDUAL || wg_width() % 8)
        return false;
    return c_tiles ? S::OF_FLOATS && S::PANELS == 2 : c_half;
}

template <class S>
PFQ_DEVICE WgBulk<S> wg_bulk(const PfqCudaArgs &a, const WgShared &m, const WgUnit &u,
                             int32_t column, const WgRows<S> &rows)
{
    WgBulk<S> b;
    int32_t *out = m.out + column * (S::OUT / 4);
    b.a = &a;
    b.u = &u;
    b.out = pfq_smem(out);
    b.values = out;
    b.bar = 1 + (uint32_t)column;
    b.me = (int32_t)(threadIdx.x & 127);
    b.row = u.row + column * 64 * S::PANELS;
    b.first = wg_glu() ? b.row / 2 : b.row;
    b.columns = min((wg_glu() ? 32 : 64) * S::PANELS, wg_width() - b.first);
    b.rows = rows;
    return b;
}

template <class S>
PFQ_DEVICE float wg_column(const WgBulk<S> &b, const typename S::Sum (&d)[S::PANELS][S::SUMS],
                           int32_t q, int32_t j, int32_t e)
{
    return wg_column<S>(*b.a, b.rows, d, b.u->token, q, j, e);
}

/* The 64 channels of two panels as tiles of bf16: rows of 128 bytes, which lie one after the other
 * in shared memory as they do there. */
template <class S>
PFQ_DEVICE void wg_bulk_tiles(const WgBulk<S> &b, const typename S::Sum (&d)[S::PANELS][S::SUMS])
{
    const uint32_t lane = (uint32_t)pfq_lane();
    const int32_t tokens = min((int32_t)S::TOKENS, b.a->T - b.u->token);
    pfq_bulk_read<0>();
    pfq_bar_sync(b.bar, 128);
    PFQ_UNROLL
    for (int32_t i = 0; i < S::TOKENS / 8 * 2; i += 4) { /* matrices: 8 tokens of 8 columns */
        uint32_t r[4];
        PFQ_UNROLL
        for (int32_t k = 0; k < 4; k++)
            r[k] = pfq_two_bf16(wg_column<S>(b, d, (i + k) % 2, (i + k) / 2, 0),
                                wg_column<S>(b, d, (i + k) % 2, (i + k) / 2, 1));
        const uint32_t mine = (uint32_t)i + lane / 8, piece = mine % 2 * 4 + (uint32_t)b.me / 32;
        pfq_store_transposed(b.out + (mine / 2 * 8 + lane % 8) * 128 + (piece ^ lane % 8) * 16, r);
    }
    pfq_smem_to_async();
    pfq_bar_sync(b.bar, 128);
    if (b.me == 0)
        pfq_bulk_store((uint8_t *)b.a->out[0] + pfq_tile_row(c_tiles, b.u->token, 2 * b.first),
                       b.out, (uint32_t)tokens * 128);
    pfq_bulk_commit();
}

/* n columns 32 apart of all tokens as halves. A copy for each token would be one instruction for
 * each, 3 us a tile. */
template <class S, int n>
PFQ_DEVICE void wg_bulk_halves(const WgBulk<S> &b, const typename S::Sum (&d)[S::PANELS][S::SUMS])
{
    constexpr uint32_t stride = 64 * n + 16;
    const uint32_t lane = (uint32_t)pfq_lane();
    pfq_bar_sync(b.bar, 128);
    PFQ_UNROLL
    for (int32_t i = 0; i < S::TOKENS / 8 * n; i += 4) { /* matrices: 8 tokens of 8 columns */
        uint32_t r[4];
        PFQ_UNROLL
        for (int32_t k = 0; k < 4; k++)
            r[k] = pfq_two_halves_clamped(wg_column<S>(b, d, (i + k) % n, (i + k) / n, 0),
                                          wg_column<S>(b, d, (i + k) % n, (i + k) / n, 1));
        const uint32_t mine = (uint32_t)i + lane / 8;
        pfq_store_transposed(b.out + (mine / n * 8 + lane % 8) * stride + mine % n * 64 +
                                 (uint32_t)b.me / 32 * 16,
                             r);
    }
    pfq_bar_sync(b.bar, 128);
    const int32_t tokens = min((int32_t)S::TOKENS, b.a->T - b.u->token);
    uint16_t *to = (uint16_t *)b.a->out[0] + (int64_t)b.u->token * wg_width() + b.first;
    PFQ_UNROLL
    for (int32_t i = 0; i < S::TOKENS * n / 32; i++) {
        const int32_t t = (i * 128 + b.me) / (4 * n), c = b.me % (4 * n) * 8;
        if (t < tokens && c < b.columns)
            *(uint4 *)(to + (int64_t)t * wg_width() + c) =
                *(const uint4 *)((const uint8_t *)b.values + (uint32_t)t * stride + c * 2);
    }
}

template <class S>
PFQ_DEVICE void wg_emit_bulk(const PfqCudaArgs &a, const WgShared &m, const WgUnit &u,
                             int32_t column, const WgRows<S> &rows,
                             const typename S::Sum (&d)[S::PANELS][S::SUMS])
{
    const WgBulk<S> b = wg_bulk<S>(a, m, u, column, rows);
    constexpr int n = S::PANELS;
    if (b.columns <= 0) return;
    if constexpr (S::OF_FLOATS && n == 2)
        if (c_tiles) {
            wg_bulk_tiles<S>(b, d);
            return;
        }
    if (wg_glu())
        wg_bulk_halves<S, n>(b, d);
    else
        wg_bulk_halves<S, 2 * n>(b, d);
}

#endif
