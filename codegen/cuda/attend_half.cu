/* attend, for consecutive rows of one sequence over a cache of f16: prefill on sm_90a's tensor
 * cores. Slots and meaning are those of codegen/cpu/attend.c, for queries of f32 (rounded to f16
 * here), head_dim 64 and 128, up to HALF_ROWS query heads of a kv head and no prefix.
 *
 * Launch: HALF_THREADS threads take one kv head (blockIdx.x) of half_tokens() tokens (blockIdx.y,
 * the last tokens first, since they have the most keys): the rows (token, head of the group) of a
 * warpgroup are the 64 rows of its products. Keys and values come in tiles of 64, which start at
 * multiples of 64, by asynchronous copies into a ring of three; what lies behind the last key is 0.
 * Both are operands as they lie in the cache, in columns of 64: rows of 128 bytes with the 128-byte
 * swizzle, K-major for keys, transposed by the descriptor for values. While the softmax of a tile
 * runs, the products of the last one's values do; probabilities, halves, pass from accumulators to
 * operands in registers, and the sums are of floats.
 *
 *   c_tiles  0: out[0] f32; else tiles of so many rows (tiles.cuh) of bf16
 *
 * Roofline, 128 columns: 128 x 64 scores are 1024 cycles of products and 512 of exponentials.
 *
 * ctx is a multiple of 64.
 */
#include "attend.cuh"
#include "mma.cuh"
#include "overlap.cuh"
#include "tiles.cuh"

PFQ_CONST(int32_t, c_tiles);
PFQ_CONST(float, c_scale);

enum { HALF_KEYS = 64, HALF_GROUPS = 2, HALF_STAGES = 3 };
enum { HALF_THREADS = 128 * HALF_GROUPS, HALF_ROWS = 64 * HALF_GROUPS };
#define HALF_OUT   __int_as_float((int32_t)0xff800000) /* -inf: probability 0 */
#define HALF_LOG2E 1.44269504f

PFQ_DEVICE int32_t half_tokens()
{
    return HALF_ROWS / group();
}

struct Half {
    const PfqCudaArgs *a;
    PfqWords *q;            /* [D / 16][HALF_THREADS] fragments of queries */
    unsigned char *ring;    /* [HALF_STAGES] of keys, then values: [D / 64][HALF_KEYS][128 bytes] */
    const uint8_t *k, *v;   /* of the kv head */
    int32_t kv, t0, tokens; /* the block's */
    int32_t pos, end;       /* of token t0; behind the block's last key */
    int32_t begin;          /* the first tile's first key */
};

template <int D> struct Rows { /* of a thread: two rows of its warpgroup's 64 */
    int32_t t[2], pos[2];      /* token; < 0: none */
    int32_t head[2];
    float top[2], sum[2]; /* maximum; of the thread's columns */
    float o[D / 2];
};

/* ---- tiles ---- */

/* Starts the copies of tile i, if there is one. */
template <int D> PFQ_DEVICE void load_tile(const Half &s, int32_t i)
{
    constexpr int32_t row = 2 * D / 16, bytes = HALF_KEYS * 2 * D; /* pieces of a row */
    unsigned char *to = s.ring + i % HALF_STAGES * 2 * bytes;
    const int32_t first = s.begin + i * HALF_KEYS;
    if (first < s.end) {
        for (int32_t p = (int32_t)threadIdx.x; p < HALF_KEYS * row; p += HALF_THREADS) {
            const int32_t r = p / row, c = p % row;
            const int32_t at =
                c / 8 * (HALF_KEYS * 128) + r * 128 + ((c ^ r) & 7) * 16; /* both operands alike */
            const int64_t from = (int64_t)(first + r) * (2 * D) + 16 * c;
            if (first + r < s.end) {
                pfq_copy16(to + at, s.k + from);
                pfq_copy16(to + bytes + at, s.v + from);
            } else {
                const PfqWords none = {{0, 0, 0, 0}};
                *(PfqWords *)(to + at) = none;
                *(PfqWords *)(to + bytes + at) = none;
            }
        }
    }
    pfq_copy_commit();
}

/* The thread's queries, which are read anew for each tile: ptxas 13.0 lost those that stayed in
 * registers around a loop (docs/performance.md). */
template <int D> PFQ_DEVICE void fragments(const Half &s, uint32_t (&q)[D / 16][4])
{
    PFQ_UNROLL
    for (int32_t k = 0; k < D / 16; k++) {
        const PfqWords f = s.q[k * HALF_THREADS + (int32_t)threadIdx.x];
        PFQ_UNROLL
        for (int32_t j = 0; j < 4; j++)
            q[k][j] = f.v[j];
    }
}

/* Starts x = queries times tile i's keys. */
template <int D>
PFQ_DEVICE void products(const Half &s, const uint32_t (&q)[D / 16][4], int32_t i,
                         float (&x)[HALF_KEYS / 2])
{
    const uint32_t at = pfq_smem(s.ring) + (uint32_t)(i % HALF_STAGES * 4 * HALF_KEYS * D);
    pfq_wgmma_fence();
    PFQ_UNROLL
    for (int32_t k = 0; k < D / 16; k++)
        pfq_wgmma_halves<HALF_KEYS>(x, q[k],
                                    pfq_wgmma_desc(at + (uint32_t)(k / 4 * HALF_KEYS * 128)) +
                                        2 * (uint32_t)(k % 4),
                                    k > 0);
    pfq_wgmma_commit();
}

/* Starts o += probabilities times tile i's values. */
template <int D>
PFQ_DEVICE void add_values(const Half &s, Rows<D> &r, int32_t i,
                           const uint32_t (&p)[HALF_KEYS / 16][4])
{
    const uint32_t at =
        pfq_smem(s.ring) + (uint32_t)(i % HALF_STAGES * 4 * HALF_KEYS * D + 2 * HALF_KEYS * D);
    pfq_wgmma_fence();
    PFQ_UNROLL
    for (int32_t k = 0; k < HALF_KEYS / 16; k++)
        pfq_wgmma_halves_across<D>(
            r.o, p[k], pfq_wgmma_desc_across(at + (uint32_t)k * 2048, HALF_KEYS * 128), true);
    pfq_wgmma_commit();
}

/* ---- softmax ---- */

/* Keys of tile i that a row does not see. */
template <int D>
PFQ_DEVICE void mask(const Half &s, const Rows<D> &r, int32_t i, float (&x)[HALF_KEYS / 2])
{
    PFQ_UNROLL
    for (int32_t k = 0; k < HALF_KEYS / 2; k++) {
        const int32_t h = k >> 1 & 1,
                      j = s.begin + i * HALF_KEYS + k / 4 * 8 + 2 * (pfq_lane() & 3) + (k & 1);
        if (j > r.pos[h] || j < first_key(r.pos[h])) x[k] = HALF_OUT;
    }
}

/* Scores of tile i to probabilities; corr: what the sums before are worth. A row that sees no key
 * yet keeps its maximum below all. */
template <int D> PFQ_DEVICE void softmax(Rows<D> &r, float (&x)[HALF_KEYS / 2], float corr[2])
{
    const float factor = c_scale * HALF_LOG2E;
    PFQ_UNROLL
    for (int32_t h = 0; h < 2; h++) {
        float most = x[2 * h];
        PFQ_UNROLL
        for (int32_t k = 2 * h; k < HALF_KEYS / 2; k += 4)
            most = fmaxf(most, fmaxf(x[k], x[k + 1]));
        const float top = fmaxf(pfq_quad_max(most) * factor, r.top[h]);
        corr[h] = pfq_exp2(r.top[h] - top);
        r.top[h] = top;
        float sum = 0.0f;
        PFQ_UNROLL
        for (int32_t k = 2 * h; k < HALF_KEYS / 2; k += 4) {
            x[k] = pfq_exp2(fmaf(x[k], factor, -top));
            x[k + 1] = pfq_exp2(fmaf(x[k + 1], factor, -top));
            sum += x[k] + x[k + 1];
        }
        r.sum[h] = fmaf(r.sum[h], corr[h], sum);
    }
}

/* Scores of tile i, in x, to probabilities. */
template <int D>
PFQ_DEVICE void probabilities(const Half &s, Rows<D> &r, int32_t i, float (&x)[HALF_KEYS / 2],
                              float corr[2])
{
    const int32_t j = s.begin + i * HALF_KEYS, last = s.pos + s.tokens - 1;
    if (j + HALF_KEYS - 1 > s.pos || (c_window && j < first_key(last))) mask<D>(s, r, i, x);
    softmax<D>(r, x, corr);
}

PFQ_DEVICE void pack(const float (&x)[HALF_KEYS / 2], uint32_t (&p)[HALF_KEYS / 16][4])
{
    PFQ_UNROLL
    for (int32_t k = 0; k < HALF_KEYS / 4; k++)
        p[k / 4][k % 4] = pfq_two_halves(x[2 * k], x[2 * k + 1]);
}

/* The products of tile i's probabilities p and values; beside them tile i + 1's scores x, which
 * become p. */
template <int D>
PFQ_DEVICE void tile(const Half &s, Rows<D> &r, int32_t i, float (&x)[HALF_KEYS / 2],
                     uint32_t (&p)[HALF_KEYS / 16][4])
{
    float corr[2];
    uint32_t q[D / 16][4];
    fragments<D>(s, q);
    pfq_copy_wait<0>(); /* tile i + 1 */
    pfq_smem_to_async();
    __syncthreads(); /* all are done with tile i - 1 */
    load_tile<D>(s, i + 2);
    products<D>(s, q, i + 1, x);
    add_values<D>(s, r, i, p);
    pfq_wgmma_wait<1>();
    pfq_wgmma_done(x);
    probabilities<D>(s, r, i + 1, x, corr);
    pfq_wgmma_wait<0>(); /* so that nothing is in flight from one turn of the loop to the next */
    pfq_wgmma_done(r.o);
    PFQ_UNROLL
    for (int32_t k = 0; k < D / 2; k++)
        r.o[k] *= corr[k >> 1 & 1];
    pack(x, p);
}

/* ---- begin, end ---- */

/* Two columns of the query of row h, rounded to f16. */
template <int D> PFQ_DEVICE uint32_t query(const Half &s, const Rows<D> &r, int32_t h, int32_t d)
{
    if (r.t[h] < 0) return 0;
    const float *x = (const float *)s.a->in[0] + ((int64_t)r.t[h] * c_heads + r.head[h]) * D + d;
    return pfq_two_halves_clamped(x[0], x[1]);
}

template <int D> PFQ_DEVICE void begin_rows(const Half &s, Rows<D> &r)
{
    PFQ_UNROLL
    for (int32_t h = 0; h < 2; h++)
        attend_row(s, r, h);
    PFQ_UNROLL
    for (int32_t k = 0; k < D / 2; k++)
        r.o[k] = 0.0f;
    PFQ_UNROLL
    for (int32_t k = 0; k < D / 16; k++) {
        PfqWords f;
        PFQ_UNROLL
        for (int32_t j = 0; j < 4; j++)
            f.v[j] = query<D>(s, r, j & 1, 16 * k + 8 * (j >> 1) + 2 * (pfq_lane() & 3));
        s.q[k * HALF_THREADS + (int32_t)threadIdx.x] = f; /* nobody else's */
    }
}

template <int D> PFQ_DEVICE void put_rows(const Half &s, const Rows<D> &r)
{
    PFQ_UNROLL
    for (int32_t h = 0; h < 2; h++) {
        const float over = 1.0f / pfq_quad_sum(r.sum[h]);
        if (r.t[h] < 0) continue;
        const int32_t col = r.head[h] * D + 2 * (pfq_lane() & 3);
        PFQ_UNROLL
        for (int32_t j = 0; j < D / 8; j++) {
            const float2 y = {r.o[4 * j + 2 * h] * over, r.o[4 * j + 2 * h + 1] * over};
            if (c_tiles)
                *(uint32_t *)((uint8_t *)s.a->out[0] +
                              pfq_tile_at(c_tiles, r.t[h], 2 * (col + 8 * j))) =
                    pfq_two_bf16(y.x, y.y);
            else
                *(float2 *)((float *)s.a->out[0] + (int64_t)r.t[h] * c_heads * D + col + 8 * j) = y;
        }
    }
}

template <int D> PFQ_DEVICE void attend(const PfqCudaArgs &a)
{
    Half s;
    Rows<D> r;
    float x[HALF_KEYS / 2], corr[2];
    uint32_t q[D / 16][4];
    uint32_t p[HALF_KEYS / 16][4];
    const PfqRow row = pfq_row(a, 0);
    const uint64_t slot = a.slot * (uint64_t)row.slot;
    s.a = &a;
    s.kv = (int32_t)blockIdx.x;
    s.t0 = (int32_t)(gridDim.y - 1 - blockIdx.y) * half_tokens();
    s.tokens = min(half_tokens(), a.T - s.t0);
    s.pos = row.pos + s.t0;
    s.end = s.pos + s.tokens;
    s.begin = first_key(s.pos) / HALF_KEYS * HALF_KEYS;
    s.k = (const uint8_t *)(a.in[1] + slot) + (int64_t)s.kv * a.ctx * (2 * D);
    s.v = (const uint8_t *)(a.in[2] + slot) + (int64_t)s.kv * a.ctx * (2 * D);
    s.ring = pfq_shared + (1024 - (pfq_smem(pfq_shared) & 1023) & 1023);
    s.q = (PfqWords *)(s.ring + HALF_STAGES * HALF_KEYS * 4 * D);
    load_tile<D>(s, 0);
    load_tile<D>(s, 1);
    begin_rows<D>(s, r);
    fragments<D>(s, q);
    pfq_copy_wait<1>();
    pfq_smem_to_async();
    __syncthreads();
    products<D>(s, q, 0, x);
    pfq_wgmma_wait<0>();
    pfq_wgmma_done(x);
    probabilities<D>(s, r, 0, x, corr);
    pack(x, p);
    const int32_t last = (s.end - s.begin + HALF_KEYS - 1) / HALF_KEYS - 1;
    PFQ_LOOP
    for (int32_t i = 0; i < last; i++)
        tile<D>(s, r, i, x, p);
    add_values<D>(s, r, last, p);
    pfq_wgmma_wait<0>();
    pfq_wgmma_done(r.o);
    put_rows<D>(s, r);
}

PFQ_KERNEL(pfq_cu_attend_half, HALF_THREADS, 1)
{
    pfq_begin();
    pfq_follow();
    if (c_head_dim == 64)
        attend<64>(a);
    else
        attend<128>(a);
}
