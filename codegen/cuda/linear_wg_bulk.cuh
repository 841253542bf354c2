/* Epilogues of wide tiles of linear_wg.cuh that leave as bulk copies: plain, gate and up, and sums
 * that are added in place. A thread finishes its sums where they are, in registers; shared memory
 * only puts a token's columns side by side. The copies run beside the next tile's products.
 */
#ifndef PFQC_CODEGEN_CUDA_LINEAR_WG_BULK_CUH
#define PFQC_CODEGEN_CUDA_LINEAR_WG_BULK_CUH

#include "linear_wg_out.cuh"

struct WgBulk {
    const PfqCudaArgs *a;
    const WgUnit *u;
    uint32_t out;  /* the warpgroup's part of shared memory */
    float *floats; /* the same */
    uint32_t bar;
    int32_t me, row;               /* thread of the warpgroup; its first row of W */
    int32_t first, columns;        /* of out[0]; columns that exist */
    float scale[2][2], bias[2][2]; /* of panel p, rows h */
};

PFQ_DEVICE bool wg_glu()
{
    return c_epi == PFQ_EPI_SWIGLU;
}
PFQ_DEVICE int32_t wg_width()
{
    return wg_glu() ? c_N / 2 : c_N;
}

/* Can the epilogue be bulk copies: 16-byte pieces, and of sums that are added, in place. */
template <class S> PFQ_DEVICE bool wg_can_bulk(const PfqCudaArgs &a)
{
    if (!S::BULK || c_epi == PFQ_EPI_QKV || wg_width() % 8) return false;
    if (c_tiles && (!S::OF_FLOATS || S::PANELS != 2)) return false;
    return c_epi != PFQ_EPI_RESIDUAL || (!c_half && a.in[2] == a.out[0]);
}

template <class S>
PFQ_DEVICE WgBulk wg_bulk(const PfqCudaArgs &a, const WgShared &m, const WgUnit &u, int32_t column)
{
    WgBulk b;
    int32_t *out = m.out + column * (S::OUT / 4);
    b.a = &a;
    b.u = &u;
    b.out = pfq_smem(out);
    b.floats = (float *)out;
    b.bar = 1 + (uint32_t)column;
    b.me = (int32_t)(threadIdx.x & 127);
    b.row = u.row + column * 64 * S::PANELS;
    b.first = wg_glu() ? b.row / 2 : b.row;
    b.columns = min((wg_glu() ? 32 : 64) * S::PANELS, wg_width() - b.first);
    const float unit = (S::BITS == 4 ? 0.0625f : 1.0f) * (c_xshift == 4 ? 0.0625f : 1.0f);
    const int32_t mine = b.row + b.me / 32 * 8 + pfq_lane() / 4;
    PFQ_UNROLL
    for (int32_t i = 0; i < 2 * S::PANELS; i++) { /* rows past the last panel repeat one of it */
        const int32_t n = min(mine + 32 * i, wg_panels() * 64 - 1);
        const bool there = (wg_glu() ? n / 64 * 32 + n % 32 : n) < wg_width();
        b.scale[i / 2][i % 2] = S::OF_FLOATS ? 1.0f : wg_scales(a, S::BITS)[n] * unit;
        b.bias[i / 2][i % 2] = c_bias && there ? *wg_bias(a, n) : 0.0f;
    }
    return b;
}

/* Of row h of panel p and token 8 * j + 2 * (lane % 4) + e. */
template <class S>
PFQ_DEVICE float wg_y(const WgBulk &b, const typename S::Sum (&d)[S::PANELS][S::SUMS], int32_t p,
                      int32_t h, int32_t j, int32_t e)
{
    float s = b.scale[p][h];
    if (!c_static && !S::OF_FLOATS)
        s *= wg_token_scale<S>(*b.a, min(b.u->token + 8 * j + pfq_lane() % 4 * 2 + e, b.a->T - 1));
    const float v = (float)d[p][4 * j + 2 * h + e], y = S::OF_FLOATS ? v : v * s;
    return c_bias ? y + b.bias[p][h] : y;
}

/* Column q of the thread's, 32 apart: a row of W, or a channel of gate and up. */
template <class S>
PFQ_DEVICE float wg_column(const WgBulk &b, const typename S::Sum (&d)[S::PANELS][S::SUMS],
                           int32_t q, int32_t j, int32_t e)
{
    if (wg_glu()) return wg_act(wg_y<S>(b, d, q, 0, j, e)) * wg_y<S>(b, d, q, 1, j, e);
    return wg_y<S>(b, d, q / 2, q % 2, j, e);
}

/* The 64 channels of two panels as tiles of bf16: rows of 128 bytes, which lie one after the other
 * in shared memory as they do there. */
template <class S>
PFQ_DEVICE void wg_bulk_tiles(const WgBulk &b, const typename S::Sum (&d)[S::PANELS][S::SUMS])
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

/* n columns 32 apart of all tokens as halves, then a copy for each token. */
template <class S, int n>
PFQ_DEVICE void wg_bulk_halves(const WgBulk &b, const typename S::Sum (&d)[S::PANELS][S::SUMS])
{
    constexpr uint32_t stride = 64 * n + 16;
    const uint32_t lane = (uint32_t)pfq_lane();
    pfq_bulk_read<0>();
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
    pfq_smem_to_async();
    pfq_bar_sync(b.bar, 128);
    for (int32_t t = b.me; t < min((int32_t)S::TOKENS, b.a->T - b.u->token); t += 128)
        pfq_bulk_store((uint16_t *)b.a->out[0] + (int64_t)(b.u->token + t) * wg_width() + b.first,
                       b.out + (uint32_t)t * stride, (uint32_t)b.columns * 2);
    pfq_bulk_commit();
}

/* The same as floats, 32 tokens at a time. */
template <class S, int n>
PFQ_DEVICE void wg_bulk_floats(const WgBulk &b, const typename S::Sum (&d)[S::PANELS][S::SUMS])
{
    constexpr int32_t stride = 32 * n + 4;
    const int32_t lane = pfq_lane();
    pfq_bulk_read<0>(); /* of the last tile */
    PFQ_UNROLL
    for (int32_t c = 0; c < S::TOKENS; c += 32) {
        if (b.u->token + c >= b.a->T) break;
        const int32_t half = c / 32 % 2 * (32 * stride);
        float *to = b.floats + half + lane % 4 * 2 * stride + b.me / 32 * 8 + lane / 4;
        pfq_bulk_read<1>();
        pfq_bar_sync(b.bar, 128);
        PFQ_UNROLL
        for (int32_t i = 0; i < 8 * n; i++) {
            const int32_t e = i % 2, q = i / 2 % n, j = i / 2 / n;
            to[(8 * j + e) * stride + 32 * q] = wg_column<S>(b, d, q, c / 8 + j, e);
        }
        pfq_smem_to_async();
        pfq_bar_sync(b.bar, 128);
        if (b.me < 32 && b.u->token + c + b.me < b.a->T) {
            float *out =
                (float *)b.a->out[0] + (int64_t)(b.u->token + c + b.me) * wg_width() + b.first;
            const uint32_t from = b.out + (uint32_t)(half + b.me * stride) * 4;
            if (c_epi == PFQ_EPI_RESIDUAL)
                pfq_bulk_add(out, from, (uint32_t)b.columns * 4);
            else
                pfq_bulk_store(out, from, (uint32_t)b.columns * 4);
        }
        pfq_bulk_commit();
    }
}

template <class S>
PFQ_DEVICE void wg_emit_bulk(const PfqCudaArgs &a, const WgShared &m, const WgUnit &u,
                             int32_t column, const typename S::Sum (&d)[S::PANELS][S::SUMS])
{
    const WgBulk b = wg_bulk<S>(a, m, u, column);
    constexpr int n = S::PANELS;
    if (b.columns <= 0) return;
    if constexpr (S::OF_FLOATS && n == 2)
        if (c_tiles) {
            wg_bulk_tiles<S>(b, d);
            return;
        }
    if (c_half && wg_glu())
        wg_bulk_halves<S, n>(b, d);
    else if (c_half)
        wg_bulk_halves<S, 2 * n>(b, d);
    else if (wg_glu())
        wg_bulk_floats<S, n>(b, d);
    else
        wg_bulk_floats<S, 2 * n>(b, d);
}

#endif
