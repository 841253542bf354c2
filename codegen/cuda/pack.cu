/* Weights on their way into the form that a GPU's kernels read, one matrix a launch, once, while a
 * program starts. Integers [N, K] come from a section of the image (pack) or from the counter-based
 * generator of ir/synthetic.c, quantised as the compiler does it (fill), and go to fragments
 * (fragments.cuh; behind the last panel f32 scales [N padded to 64]) or to tiles of 16 rows, as the
 * image has them (ARCHITECTURE.md, "Packed weights": s4, s8).
 *
 * Slots: in[0] pack: the section; out[0] the packed matrix; the rest are numbers:
 *   aux[0] N, aux[1] K, aux[2] PACK_* flags
 *   fill: aux[3], aux[4] high and low half of the stream's key; f32 by their bits: aux[5] the
 *   generator's scale, aux[6] what qparams divides the largest by, aux[7] its factor, in[1] what
 * packed scales are multiplied by; in[2] the integers' lowest value, negated
 *
 * Launch: a block per row of what is written, in turns. Roofline: stores of 4 bytes that lie 16 or
 * more apart, at a quarter of the memory's rate or better; a model of 8B takes 30 ms.
 */
#include "fragments.cuh"
#include "intrin.cuh"
#include "reduce.cuh"

enum { PACK_S4 = 1, PACK_GATED = 2, PACK_TILES = 4, PACK_BF16 = 8 };
enum { PACK_THREADS = 256 };

struct Pack {
    const uint8_t *from;
    uint8_t *to;
    int32_t N, K, bits;
    bool gated, tiles;
};

struct Synthetic {
    uint64_t key;
    float scale, top, factor, times;
    int32_t lowest;
};

PFQ_DEVICE Pack pack_of(const PfqCudaArgs &a)
{
    const int32_t flags = (int32_t)a.aux[2];
    return {(const uint8_t *)a.in[0],
            (uint8_t *)a.out[0],
            (int32_t)a.aux[0],
            (int32_t)a.aux[1],
            flags & PACK_BF16 ? 16
            : flags & PACK_S4 ? 4
                              : 8,
            (flags & PACK_GATED) != 0,
            (flags & PACK_TILES) != 0};
}

/* ---- rows: of the matrix, gate and up interleaved by 16 (tiles) or 32 (fragments) ---- */

/* Rows to write. */
PFQ_DEVICE int32_t pack_rows(const Pack &p)
{
    const int32_t run = p.tiles ? 16 : 32;
    if (p.gated) return pfq_up(p.N / 2, run) * 2;
    return pfq_up(p.N, p.tiles ? 16 : 64);
}

/* The weight's row that row n of what is written is; -1: padding. */
PFQ_DEVICE int32_t pack_source(const Pack &p, int32_t n)
{
    const int32_t run = p.tiles ? 16 : 32;
    if (!p.gated) return n < p.N ? n : -1;
    const int32_t c = n / (2 * run) * run + n % run;
    return c >= p.N / 2 ? -1 : n / run % 2 ? p.N / 2 + c : c;
}

/* The row of tiles that holds the weight's row. */
PFQ_DEVICE int32_t pack_tile_row(const Pack &p, int32_t row)
{
    if (!p.gated) return row;
    const int32_t up = row >= p.N / 2, c = up ? row - p.N / 2 : row;
    return c / 16 * 32 + up * 16 + c % 16;
}

/* ---- tiles of 16 rows ---- */

PFQ_DEVICE int64_t pack_tile_bytes(const Pack &p)
{
    if (p.bits == 16) return (int64_t)pfq_up(p.K, 2) / 2 * 64;
    return 128 + (int64_t)(p.bits == 4 ? pfq_up(p.K, 8) / 8 : pfq_up(p.K, 4) / 4) * 64;
}

/* Where row n of tiles has its 4 bytes of word i: 8 k of 4 bits, 4 of 8, 2 of bf16. */
PFQ_DEVICE int64_t pack_tile_at(const Pack &p, int32_t n, int32_t i)
{
    return n / 16 * pack_tile_bytes(p) + (p.bits == 16 ? 0 : 128) + (int64_t)i * 64 + n % 16 * 4;
}

PFQ_DEVICE int32_t pack_read(const Pack &p, int32_t n, int32_t k)
{
    if (k >= p.K) return 0;
    if (p.bits == 8) return (int8_t)p.from[pack_tile_at(p, n, k / 4) + k % 4];
    const int32_t byte = p.from[pack_tile_at(p, n, k / 8) + k % 4];
    return ((byte >> (k & 4) & 15) ^ 8) - 8;
}

PFQ_DEVICE float pack_read_scale(const Pack &p, int32_t n)
{
    return *(const float *)(p.from + n / 16 * pack_tile_bytes(p) + n % 16 * 4);
}

/* ---- the generator ---- */

PFQ_DEVICE uint64_t synthetic_mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

PFQ_DEVICE float synthetic_at(const Synthetic &s, int64_t i)
{
    const uint64_t z = synthetic_mix(s.key + (uint64_t)i * 0x9e3779b97f4a7c15u);
    return (float)((int32_t)(z >> 40) - (1 << 23)) * 0x1p-23f * s.scale;
}

/* ---- one row of what is written ---- */

struct Row {
    const Pack *p;
    const Synthetic *s; /* NULL: of the image's section */
    int32_t from;       /* the weight's row, of a section its row of tiles; -1: padding */
    float scale;        /* of the integers, from qparams */
};

/* The row's integer k. */
PFQ_DEVICE int32_t row_int(const Row &r, int32_t k)
{
    if (r.from < 0 || k >= r.p->K) return 0;
    if (!r.s) return pack_read(*r.p, r.from, k);
    const float y = synthetic_at(*r.s, (int64_t)r.from * r.p->K + k) / r.scale;
    const float highest = r.p->bits == 4 ? 7.0f : 127.0f;
    return (int32_t)rintf(fminf(fmaxf(y, -(float)r.s->lowest), highest));
}

/* What qparams computes of a generated row. */
PFQ_DEVICE float row_scale(const Pack &p, const Synthetic &s, int32_t row)
{
    float m = 0.0f;
    for (int32_t k = (int32_t)threadIdx.x; row >= 0 && k < p.K; k += PACK_THREADS)
        m = fmaxf(m, fabsf(synthetic_at(s, (int64_t)row * p.K + k)));
    const float scale = s.factor * pfq_block_max(m) / s.top;
    return scale > 0.0f ? scale : 1.0f;
}

/* Columns k and k + 1 of the row, k even, as bf16. */
PFQ_DEVICE uint32_t row_two(const Row &r, int32_t k)
{
    const Pack &p = *r.p;
    if (r.from < 0 || k >= p.K) return 0;
    if (!r.s) return *(const uint32_t *)(p.from + pack_tile_at(p, r.from, k / 2));
    const int64_t at = (int64_t)r.from * p.K + k;
    return pfq_two_bf16(synthetic_at(*r.s, at), k + 1 < p.K ? synthetic_at(*r.s, at + 1) : 0.0f);
}

/* A row of bf16, which has no scale. */
PFQ_DEVICE void write_two(const Row &r, int32_t n)
{
    const Pack &p = *r.p;
    const int32_t columns = p.tiles ? p.K : pfq_up(p.K, 64);
    for (int32_t k = 2 * (int32_t)threadIdx.x; k < columns; k += 2 * PACK_THREADS) {
        bool low;
        *(uint32_t *)(p.to + (p.tiles ? pack_tile_at(p, n, k / 2)
                                      : pfq_frag_at(p.bits, p.K, n, k, &low))) = row_two(r, k);
    }
}

PFQ_DEVICE void write_fragments(const Row &r, int32_t n)
{
    const Pack &p = *r.p;
    const int32_t step = pfq_frag_k(p.bits), words = pfq_up(p.K, 128) / step * 8;
    for (int32_t i = (int32_t)threadIdx.x; i < words; i += PACK_THREADS) {
        const int32_t k = i / 8 * step + i % 8 * 4;
        uint32_t word = 0;
        for (int32_t b = 0; b < 4; b++) {
            uint32_t v = (uint32_t)row_int(r, k + b) & 255;
            if (p.bits == 4) v = (v & 15) << 4 | ((uint32_t)row_int(r, k + 32 + b) & 15);
            word |= v << 8 * b;
        }
        bool low;
        *(uint32_t *)(p.to + pfq_frag_at(p.bits, p.K, n, k, &low)) = word;
    }
}

/* The sum of the row's integers, an exact float. */
PFQ_DEVICE float write_tiles(const Row &r, int32_t n)
{
    const Pack &p = *r.p;
    const int32_t step = p.bits == 4 ? 8 : 4, words = (p.K + step - 1) / step;
    int32_t sum = 0;
    for (int32_t i = (int32_t)threadIdx.x; i < words; i += PACK_THREADS) {
        uint32_t word = 0;
        for (int32_t b = 0; b < 4; b++) {
            const int32_t lo = row_int(r, step * i + b),
                          hi = p.bits == 4 ? row_int(r, 8 * i + 4 + b) : 0;
            sum += lo + hi;
            const uint32_t v = (uint32_t)lo & 255;
            word |= (p.bits == 4 ? (v & 15) | ((uint32_t)hi & 15) << 4 : v) << 8 * b;
        }
        *(uint32_t *)(p.to + pack_tile_at(p, n, i)) = word;
    }
    return pfq_block_sum((float)sum);
}

/* Row n of what is written, its packed scale `scale`. */
PFQ_DEVICE void write_row(const Row &r, int32_t n, float scale)
{
    const Pack &p = *r.p;
    if (p.bits == 16) {
        write_two(r, n);
        return;
    }
    if (p.tiles) {
        const int32_t sum = (int32_t)write_tiles(r, n);
        uint8_t *head = p.to + n / 16 * pack_tile_bytes(p) + n % 16 * 4;
        if (threadIdx.x) return;
        *(float *)head = scale;
        *(int32_t *)(head + 64) = sum * 128;
        return;
    }
    write_fragments(r, n);
    float *scales = (float *)(p.to + pack_rows(p) / 64 * pfq_panel_bytes(p.bits, p.K));
    if (threadIdx.x == 0) scales[n] = scale;
}

PFQ_KERNEL(pfq_cu_pack, 256)
{
    const Pack p = pack_of(a);
    for (int32_t n = (int32_t)blockIdx.x; n < pack_rows(p); n += (int32_t)gridDim.x) {
        const int32_t row = pack_source(p, n);
        const Row r = {&p, nullptr, row < 0 ? -1 : pack_tile_row(p, row), 0.0f};
        write_row(r, n, row < 0 || p.bits == 16 ? 0.0f : pack_read_scale(p, r.from));
    }
}

PFQ_KERNEL(pfq_cu_fill, 256)
{
    const Pack p = pack_of(a);
    const Synthetic s = {a.aux[3] << 32 | a.aux[4],           __uint_as_float((uint32_t)a.aux[5]),
                         __uint_as_float((uint32_t)a.aux[6]), __uint_as_float((uint32_t)a.aux[7]),
                         __uint_as_float((uint32_t)a.in[1]),  (int32_t)a.in[2]};
    for (int32_t n = (int32_t)blockIdx.x; n < pack_rows(p); n += (int32_t)gridDim.x) {
        const int32_t row = pack_source(p, n);
        const Row r = {&p, &s, row, p.bits == 16 ? 0.0f : row_scale(p, s, row)};
        write_row(r, n, row < 0 ? 0.0f : r.scale * s.times);
    }
}
