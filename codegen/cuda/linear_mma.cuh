/* linear of many tokens by mma.sync: on every chip without wgmma, and where wgmma's tiles do not
 * fit. Slots, layouts and epilogues are those of linear.cuh; weights are read as the image has
 * them.
 *
 * A block of 8 warps makes S::ROWS rows of W times S::TOKENS tokens, S::WM x S::WN warps side by
 * side, S::WK along k; where these leave four over, those alone fill the ring. A ring of
 * S::STAGES stages of S::BLOCKS blocks is filled with cp.async while the stages before are
 * multiplied. A block is 64 bytes of a token's row: 64 k of s8, 32 of bf16, or a group of s16g32.
 * The sum over k of a product does not mind its order, so lane (g, c), g = lane / 4, c = lane % 4,
 * takes what lies side by side: of weights MMA_UNITS units of 16 bytes, each of 4 rows, g's. The
 * rows of a product are 4 of each g then, of 2 tiles: 2 products have 32 rows.
 *
 *   weights      [rows / 16][block][unit of 16 bytes], as they lie in the image, but that unit u of
 *                a run of 8 (behind MMA_TOP bytes of a block) is at u ^ 2 c
 *   activations  [block][token][64 bytes], of which unit u is at u ^ (token & 2)
 *   scales       [block][token] f32, if MMA_SCALES
 *
 * so that none meets itself in a bank.
 *
 * Sums of floats depend on their order, which must be the same for any number of tokens: with
 * MMA_CLASSES n there is a sum of each n-th block, from block 0, 1, .. on, and these are added up.
 * Either S::WK is n, or a warp makes one after the other.
 *
 * Launch: 256 threads, dynamic shared memory the ring, or what the epilogue takes of it: y of
 * S::CHUNK tokens. Blocks go through groups of MMA_GROUP token tiles, so that both operands come
 * from the L2.
 *
 * Roofline: few tokens are bound by the weights' bytes, many by the tensor cores: of an A100 1024
 * bf16, 2048 s8 or 4096 s4 multiply-adds a cycle and SM, of sm_86 and sm_89 half as many.
 *
 * A family (linear_mma*.cu) includes its linear_*.cuh and defines before this file
 *   MMA_HEAD     bytes of a tile in front of its blocks
 *   MMA_TOP      bytes of a block of a tile in front of its units
 *   MMA_UNITS    units of a lane in a block
 *   MMA_SCALES   is there a scale of each token and block?
 *   MMA_CLASSES  0: sums are exact
 * and then what is declared below.
 */
#ifndef PFQC_CODEGEN_CUDA_LINEAR_MMA_CUH
#define PFQC_CODEGEN_CUDA_LINEAR_MMA_CUH

#include "linear.cuh"
#include "mma.cuh"

enum { MMA_GROUP = 8, MMA_BYTES = 64 }; /* of a token in a block */
enum {
    MMA_TILE = MMA_TOP + 16 * 16 * MMA_UNITS, /* bytes of 16 rows of a block */
    MMA_X = MMA_BYTES + 4 * MMA_SCALES        /* and of a token */
};

/* x: bits of an activation; rows, tokens: of a block; wm, wn, wk: warps; blocks, stages: of the
 * ring
 */
template <int x, int rows, int tokens, int wm, int wn, int wk, int blocks, int stages>
struct MmaShape {
    static constexpr int X = x, ROWS = rows, TOKENS = tokens, WM = wm, WN = wn, WK = wk,
                         WARPS = wm * wn * wk, BLOCKS = blocks, STAGES = stages;
    /* Warps that fill the ring: the last four, if those are left over. */
    static constexpr int FILLERS = WARPS <= LIN_WARPS / 2 ? LIN_WARPS / 2 : LIN_WARPS;
    /* A warp's sums, one after the other. */
    static constexpr int PASSES = wk == 1 && MMA_CLASSES > 1 ? MMA_CLASSES : 1;
    static constexpr int PAIRS = rows / 32 / wm, GROUPS = tokens / 8 / wn; /* of a warp */
    static constexpr int W_BYTES = rows / 16 * blocks * MMA_TILE,
                         X_BYTES = blocks * tokens * MMA_BYTES,
                         STAGE = W_BYTES + blocks * tokens * MMA_X;
    static constexpr int CHUNK = tokens < 64 ? tokens : 64, STRIDE = rows + 4;
    static_assert(WARPS <= LIN_WARPS && blocks % wk == 0 && stages >= 2);
    static_assert(MMA_CLASSES == 0 || wk == 1 || wk == MMA_CLASSES);
    static_assert(PAIRS * 32 * wm == rows && GROUPS * 8 * wn == tokens &&
                  CHUNK % (8 * GROUPS) == 0);
};
template <class S> using MmaSums = LIN_SUM[S::PAIRS][2][S::GROUPS][4];

/* Bytes of a token's row; where byte k, a multiple of 16, of row t lies. */
PFQ_DEVICE int32_t mma_row_bytes();
PFQ_DEVICE const uint8_t *mma_x(const PfqCudaArgs &a, int32_t t, int32_t k);

/* Adds the products of block b of a stage, from the warp's rows and tokens on. */
struct MmaAt {
    const uint8_t *w, *x;
    const float *scales;
};
template <class S> PFQ_DEVICE void mma_block(const MmaAt &at, MmaSums<S> &d);

/* y of row `row` of the tile at w, and of token t of all, from its sum: of floats, the sum. */
template <class S>
PFQ_DEVICE float mma_finish(const Lin &l, const uint8_t *w, int32_t row, int32_t t, int32_t sum);
template <class S>
PFQ_DEVICE float mma_finish(const Lin &, const uint8_t *, int32_t, int32_t, float sum)
{
    return sum;
}

/* ---- a stage ---- */

/* Where unit u of a block of 16 rows lies, and unit u of a token's. */
PFQ_DEVICE int32_t mma_unit(int32_t u)
{
    return u ^ u / (4 * MMA_UNITS) % 4 * 2;
}
PFQ_DEVICE int32_t mma_w_unit(int32_t u)
{
    return u < MMA_TOP / 16 ? u : MMA_TOP / 16 + mma_unit(u - MMA_TOP / 16);
}
PFQ_DEVICE int32_t mma_x_unit(int32_t t, int32_t u)
{
    return u ^ (t & 2);
}

/* Every PASSES-th block from `block` on; what lies behind the last k or token is 0, and not read:
 * many blocks that read one token at a time meet in the L2. */
template <class S> PFQ_DEVICE void mma_fill(const Lin &l, uint8_t *stage, int32_t block)
{
    constexpr int32_t threads = 32 * S::FILLERS, units = MMA_TILE / 16,
                      w_all = S::ROWS / 16 * S::BLOCKS * units, x_all = S::X_BYTES / 16,
                      scales = S::BLOCKS * S::TOKENS * MMA_SCALES;
    const int32_t me = (int32_t)threadIdx.x - 32 * (LIN_WARPS - S::FILLERS);
    if (me < 0) return;
    PFQ_UNROLL
    for (int32_t j = 0; j < w_all; j += threads) {
        const int32_t i = j + me, tile = i / units / S::BLOCKS, b = i / units % S::BLOCKS,
                      u = i % units, at = (block + S::PASSES * b) * MMA_TILE + 16 * u;
        if (w_all % threads && i >= w_all) break;
        const uint8_t *from = lin_tile(l, min(l.tile + tile, lin_tiles() - 1)) + MMA_HEAD;
        pfq_copy16_or_zero(stage + (tile * S::BLOCKS + b) * MMA_TILE + mma_w_unit(u) * 16,
                           from + at, at < lin_tile_bytes() - MMA_HEAD);
    }
    PFQ_UNROLL
    for (int32_t j = 0; j < x_all; j += threads) {
        const int32_t i = j + me, t = i / 4 / S::BLOCKS, b = i / 4 % S::BLOCKS, u = i % 4,
                      k = (block + S::PASSES * b) * MMA_BYTES + 16 * u;
        if (x_all % threads && i >= x_all) break;
        pfq_copy16_or_zero(stage + S::W_BYTES + (b * S::TOKENS + t) * MMA_BYTES +
                               mma_x_unit(t, u) * 16,
                           mma_x(*l.a, lin_token(l, t), k), k < mma_row_bytes() && t < l.tn);
    }
    PFQ_UNROLL
    for (int32_t j = 0; j < scales; j += threads) {
        const int32_t i = j + me, t = i / S::BLOCKS, b = i % S::BLOCKS, g = block + S::PASSES * b,
                      n = mma_row_bytes() / MMA_BYTES;
        if (scales % threads && i >= scales) break;
        pfq_copy4_or_zero(stage + S::W_BYTES + S::X_BYTES + (b * S::TOKENS + t) * 4,
                          (const float *)l.a->in[1] + (int64_t)lin_token(l, t) * n + g,
                          g < n && t < l.tn);
    }
}

/* ---- results ---- */

struct alignas(16) MmaFour {
    LIN_SUM v[4];
};

/* The warp's sums, of turn `turn` along k, to y, where the first turns' are; the last one's sums
 * become results. row, t: its first of the block and of the chunk. */
template <class S>
PFQ_DEVICE void mma_leave(const Lin &l, int32_t turn, int32_t row, int32_t t, const MmaSums<S> &d)
{
    const int32_t g = pfq_lane() / 4, c = pfq_lane() % 4;
    PFQ_UNROLL
    for (int32_t p = 0; p < S::PAIRS; p++) {
        const int32_t n = row + 32 * p + g / 4 * 16, at = g % 4 * 4;
        const uint8_t *tile = lin_tile(l, min(l.tile + n / 16, lin_tiles() - 1));
        PFQ_UNROLL
        for (int32_t i = 0; i < 2 * S::GROUPS; i++) {
            const int32_t token = t + i / 2 * 8 + 2 * c + i % 2;
            float *to = l.y + token * S::STRIDE + n + at;
            MmaFour v = turn ? *(const MmaFour *)to : MmaFour{};
            PfqFour y;
            PFQ_UNROLL
            for (int32_t r = 0; r < 4; r++) {
                v.v[r] += d[p][r / 2][i / 2][r % 2 * 2 + i % 2];
                y.v[r] = mma_finish<S>(l, tile, at + r, lin_token(l, token), v.v[r]);
            }
            if (turn == S::WK - 1)
                *(PfqFour *)to = y;
            else
                *(MmaFour *)to = v;
        }
    }
}

/* ---- driver ---- */

/* The block's rows and tokens. */
template <class S> PFQ_DEVICE Lin mma_place(const PfqCudaArgs &a)
{
    const int32_t rows = (int32_t)gridDim.x, tokens = (int32_t)gridDim.y,
                  id = (int32_t)(blockIdx.y * gridDim.x + blockIdx.x), group = MMA_GROUP * rows;
    const int32_t first = id / group * MMA_GROUP, in = id % group,
                  wide = min((int32_t)MMA_GROUP, tokens - first);
    const int32_t tile = in / wide * (S::ROWS / 16), t0 = (first + in % wide) * S::TOKENS;
    return {&a,
            nullptr,
            (float *)pfq_shared,
            S::STRIDE,
            t0,
            min((int32_t)S::TOKENS, a.T - t0),
            tile,
            min(S::ROWS / 16, lin_tiles() - tile)};
}

/* The first block of stage i, of n a pass. */
template <class S> PFQ_DEVICE int32_t mma_first(int32_t i, int32_t n)
{
    return S::PASSES == 1 ? i * S::BLOCKS : i / n + i % n * S::BLOCKS * S::PASSES;
}

/* d += part, which becomes 0. */
template <class S> PFQ_DEVICE void mma_add(MmaSums<S> &d, MmaSums<S> &part)
{
    LIN_SUM *to = &d[0][0][0][0], *from = &part[0][0][0][0];
    PFQ_UNROLL
    for (int32_t i = 0; i < S::PAIRS * S::GROUPS * 8; i++) {
        to[i] += from[i];
        from[i] = 0;
    }
}

template <class S>
PFQ_DEVICE void mma_sum(const Lin &l, int32_t m, int32_t n, int32_t k, MmaSums<S> &d)
{
    constexpr int32_t bytes = S::PASSES * S::BLOCKS * MMA_BYTES;
    const int32_t each = (mma_row_bytes() + bytes - 1) / bytes, stages = each * S::PASSES;
    MmaSums<S> total = {}; /* of passes */
    PFQ_LOOP
    for (int32_t i = 0; i < S::STAGES - 1; i++) {
        if (i < stages) mma_fill<S>(l, pfq_shared + i * S::STAGE, mma_first<S>(i, each));
        pfq_copy_commit();
    }
    PFQ_LOOP
    for (int32_t i = 0; i < stages; i++) {
        const int32_t next = i + S::STAGES - 1;
        pfq_copy_wait<S::STAGES - 2>();
        __syncthreads(); /* all see the stage, and are done with the one that is filled now */
        if (next < stages)
            mma_fill<S>(l, pfq_shared + next % S::STAGES * S::STAGE, mma_first<S>(next, each));
        pfq_copy_commit();
        if (k >= S::WK) continue;
        const uint8_t *w = pfq_shared + i % S::STAGES * S::STAGE, *x = w + S::W_BYTES;
        PFQ_UNROLL
        for (int32_t j = 0; j < S::BLOCKS; j += S::WK) {
            const int32_t b = j + k, t = b * S::TOKENS + n * S::GROUPS * 8;
            mma_block<S>({w + (m * S::PAIRS * 2 * S::BLOCKS + b) * MMA_TILE, x + t * MMA_BYTES,
                          (const float *)(x + S::X_BYTES) + t},
                         d);
        }
        if (S::PASSES > 1 && (i + 1) % each == 0) mma_add<S>(total, d);
    }
    if (S::PASSES > 1) mma_add<S>(d, total);
    pfq_copy_wait<0>();
    __syncthreads(); /* the ring becomes y */
}

template <class S> PFQ_DEVICE void mma_linear(const PfqCudaArgs &a)
{
    const Lin l = mma_place<S>(a);
    const int32_t warp = pfq_warp(), m = warp % S::WM, n = warp / S::WM % S::WN,
                  k = warp / (S::WM * S::WN), first = n * S::GROUPS * 8;
    MmaSums<S> d = {};
    mma_sum<S>(l, m, n, k, d);
    PFQ_LOOP
    for (int32_t c = 0; c < l.tn; c += S::CHUNK) {
        Lin part = l;
        part.t0 += c;
        part.tn = min((int32_t)S::CHUNK, l.tn - c);
        PFQ_LOOP
        for (int32_t turn = 0; turn < S::WK; turn++) {
            if (k == turn && first / S::CHUNK == c / S::CHUNK)
                mma_leave<S>(part, turn, m * S::PAIRS * 32, first - c, d);
            __syncthreads();
        }
        lin_epilogue(part);
        __syncthreads();
    }
}

/* Of a specialised source, only the kernel that it wants is worth the compiler's time. */
template <class S, bool wanted> PFQ_DEVICE void mma_entry(const PfqCudaArgs &a)
{
    if constexpr (wanted) mma_linear<S>(a);
}
#define MMA_KERNEL(name, chips, when, from, to, per_sm, ...)                                       \
    PFQ_KERNEL(pfq_cu_##name, 256, per_sm)                                                         \
    {                                                                                              \
        mma_entry<MmaShape<__VA_ARGS__>, PFQ_WANTED(pfq_cu_##name)>(a);                            \
    }

#endif
