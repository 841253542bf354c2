/* A warp of attend_split.cu: its queries, the tiles it is given, and the softmax state that they
 * add up to.
 *
 * Scores: K rows are the rows of mma m16n8k32 (f16: m16n8k16), columns are 4 heads in two planes:
 * queries that are not integers are 256 * high + low byte of a per-head unit (f16: the value and
 * what it lacks), so that products are exact. A dot product may take its d in any order: a lane
 * takes the bytes of a key as they lie, high and low nibbles apart (times 16; taken out at the
 * end).
 *
 * Values: O^T = V^T P, with P as 16-bit fixed point of the running maximum, its high and low byte
 * being the two planes: exact int32 sums until the maximum changes. A lane takes the same bytes of
 * four keys and transposes them. f16: P is the sum of two halves.
 */
#ifndef PFQC_CODEGEN_CUDA_ATTEND_SPLIT_TILE_CUH
#define PFQC_CODEGEN_CUDA_ATTEND_SPLIT_TILE_CUH

#include "attend_split_items.cuh"
#include "mma.cuh"

PFQ_CONST(int32_t, c_q8);
PFQ_CONST(float, c_scale);

#ifndef DEC_SLACK
#define DEC_SLACK 0 /* a maximum stays as many powers of 2 below a score */
#endif
#define DEC_UNIT  (65535.0f / (1 << DEC_SLACK)) /* probability 1 as an integer of 16 bits */
#define DEC_LOG2E 1.44269504f

/* ---- a warp's state of an item ---- */

template <int D, int NT> struct State {
    uint32_t q[NT][D / 16][2]; /* its columns of mma, integers: D / 32 of them */
    float factor[NT][2], q_sum[NT][2];
    float top[NT][2], sum[NT][2], minima[NT][2];
    float v_top, v_inv;          /* largest scale of values, and 1 / it */
    int32_t ints[NT][D / 16][4]; /* sums since the last flush */
    float o[NT][D / 16][4];      /* and before it */
    int32_t since;
};

/* Columns D / 4 * (lane % 4) on of query head h of the group, D / 4 of them; of integers the
 * integers. 0 for heads there are not. */
template <int D> PFQ_DEVICE void query(const PfqCudaArgs &a, const Item &i, int32_t h, float *x)
{
    const int32_t col = (i.kv * group() + min(h, group() - 1)) * D + D / 4 * (pfq_lane() & 3);
    if (!c_q8) {
        const float *row = (const float *)a.in[0] + (int64_t)i.t * c_heads * D + col;
        PFQ_UNROLL
        for (int32_t k = 0; k < D / 4; k += 4) {
            const PfqFour y = *(const PfqFour *)(row + k);
            PFQ_UNROLL
            for (int32_t p = 0; p < 4; p++)
                x[k + p] = h < group() ? y.v[p] : 0.0f;
        }
        return;
    }
    const uint8_t *row = (const uint8_t *)a.in[0] + (int64_t)i.t * pfq_up(c_heads * D, 64) + col;
    PFQ_UNROLL
    for (int32_t k = 0; k < D / 4; k += 16) {
        const PfqWords y = *(const PfqWords *)(row + k);
        PFQ_UNROLL
        for (int32_t p = 0; p < 16; p++)
            x[k + p] =
                h < group() ? (float)(int32_t)(int8_t)((y.v[p / 4] >> 8 * (p % 4)) ^ 0x80) : 0.0f;
    }
}

/* Which of these columns byte (or half) `part` of b[half] of product `step` is: the order in which
 * the lane has the columns of a key. */
PFQ_DEVICE int32_t q_column(int32_t step, int32_t half, int32_t part)
{
    if (kv_nibbles()) return 8 * step + 2 * part + half;
    return kv_ints() ? 8 * step + 4 * half + part : 4 * step + 2 * half + part;
}

/* The unit of integers of a head's query: 1, or what makes its largest 32512; times x gives them.
 */
PFQ_DEVICE float q_unit(float most)
{
    if (!kv_ints() || c_q8) return 1.0f;
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
    return most > 0.0f ? 32512.0f / most : 0.0f;
}

/* What scores of head h's query as it is are multiplied by. */
PFQ_DEVICE float q_scale(const PfqCudaArgs &a, const Item &i, int32_t h)
{
    const float scale = c_scale * DEC_LOG2E;
    if (!c_q8) return scale;
    return h < group() ? scale * ((const float *)a.aux[4])[i.kv * group() + h] : 0.0f;
}

/* What products of the query's integers, x times unit, with keys' integers are multiplied by. */
PFQ_DEVICE float q_factor(const PfqCudaArgs &a, const Item &i, int32_t h, float unit)
{
    float factor = q_scale(a, i, h);
    if (!kv_ints()) return 1.0f;
    if (c_kv_static) factor *= ((const float *)a.aux[2])[i.kv];
    return unit > 0.0f ? factor / unit : 0.0f;
}

/* The high (plane 0) or low (plane 1) halves of two floats. */
PFQ_DEVICE uint32_t half_plane(float x, float y, int32_t plane)
{
    const uint32_t hi = pfq_two_halves(x, y);
    if (!plane) return hi;
    return pfq_two_halves(x - pfq_h_to_f((uint16_t)hi), y - pfq_h_to_f((uint16_t)(hi >> 16)));
}

/* Integer queries as they are: the lane's fragments, of plane 0 (plane 1 is 0); their sum. */
template <int D>
PFQ_DEVICE float query_words(const PfqCudaArgs &a, const Item &i, int32_t h, int32_t plane,
                             uint32_t (*q)[2])
{
    const int32_t col = (i.kv * group() + min(h, group() - 1)) * D + D / 4 * (pfq_lane() & 3);
    const uint8_t *row = (const uint8_t *)a.in[0] + (int64_t)i.t * pfq_up(c_heads * D, 64) + col;
    const bool none = plane || h >= group();
    int32_t sum = 0;
    PFQ_UNROLL
    for (int32_t k = 0; k < D / 64; k++) {
        const PfqWords y = *(const PfqWords *)(row + 16 * k);
        PFQ_UNROLL
        for (int32_t p = 0; p < 4; p++) {
            const uint32_t x = y.v[p & 2], z = y.v[(p & 2) + 1];
            uint32_t w = kv_nibbles() ? __byte_perm(x, z, p & 1 ? 0x7531 : 0x6420) : y.v[p];
            w = none ? 0 : w ^ 0x80808080u;
            sum = __dp4a((int32_t)w, 0x01010101, sum);
            q[2 * k + p / 2][p % 2] = w;
        }
    }
    return (float)sum;
}

/* The byte of a plane of integer v = 256 * byte 0 + byte 1. */
PFQ_DEVICE uint32_t byte_plane(int32_t v, int32_t plane)
{
    return (uint8_t)(plane ? v : (v + 128) >> 8);
}

/* Queries of the lane's column g: head g % 4 of each tile of 4, plane g / 4. */
template <int D, int NT>
PFQ_DEVICE void load_queries(const PfqCudaArgs &a, const Item &i, State<D, NT> &s)
{
    const int32_t g = pfq_lane() >> 2, c = pfq_lane() & 3, plane = g >> 2;
    PFQ_UNROLL
    for (int32_t nt = 0; nt < NT; nt++) {
        const int32_t h = i.pass * 4 * NT + 4 * nt + (g & 3);
        float x[D / 4], most = 0.0f, sum = 0.0f, unit = 1.0f;
        if (c_q8 && kv_ints()) {
            sum = query_words<D>(a, i, h, plane, s.q[nt]);
        } else {
            query<D>(a, i, h, x);
            PFQ_UNROLL
            for (int32_t k = 0; k < D / 4; k++)
                most = fmaxf(most, fabsf(x[k]));
            unit = q_unit(most);
        }
        if (c_q8 && kv_ints()) {
        } else if (!kv_ints()) {
            const float scale = q_scale(a, i, h);
            PFQ_UNROLL
            for (int32_t k = 0; k < D / 8; k++) {
                const int32_t at = q_column(k / 2, k % 2, 0);
                s.q[nt][k / 2][k % 2] = half_plane(x[at] * scale, x[at + 1] * scale, plane);
            }
        } else {
            PFQ_UNROLL
            for (int32_t k = 0; k < D / 16; k++) {
                uint32_t w = 0;
                PFQ_UNROLL
                for (int32_t p = 0; p < 4; p++) {
                    const float v = rintf(x[q_column(k / 2, k % 2, p)] * unit);
                    w |= byte_plane((int32_t)v, plane) << 8 * p;
                    sum += v;
                }
                s.q[nt][k / 2][k % 2] = w;
            }
        }
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        const float factor = q_factor(a, i, h, unit);
        /* To the lanes that have scores of the head: heads 2 * (c & 1) and one more. */
        PFQ_UNROLL
        for (int32_t p = 0; p < 2; p++) {
            const int32_t from = 4 * (2 * (c & 1) + p);
            s.factor[nt][p] = __shfl_sync(~0u, factor, from);
            s.q_sum[nt][p] = __shfl_sync(~0u, sum, from);
        }
    }
}

template <int D, int NT> PFQ_DEVICE void state_clear(State<D, NT> &s)
{
    PFQ_UNROLL
    for (int32_t nt = 0; nt < NT; nt++) {
        PFQ_UNROLL
        for (int32_t p = 0; p < 2; p++) {
            s.top[nt][p] = ATTEND_NONE;
            s.sum[nt][p] = s.minima[nt][p] = 0.0f;
        }
        PFQ_UNROLL
        for (int32_t i = 0; i < D / 16; i++) {
            PFQ_UNROLL
            for (int32_t j = 0; j < 4; j++) {
                s.ints[nt][i][j] = 0;
                s.o[nt][i][j] = 0.0f;
            }
        }
    }
    s.v_top = s.v_inv = 0.0f;
    s.since = 0;
}

/* ---- tiles ---- */

/* Starts the copies of tile `at` of the line, of item i, to a stage. Rows past the last key are
 * anything; of halves, which might be no numbers, they repeat it. */
PFQ_DEVICE void load_tile(const PfqCudaArgs &a, const Item &i, int32_t at, uint8_t *stage)
{
    const int32_t row = (int32_t)kv_row(), pieces = row / 16, lane = pfq_lane(),
                  j = (i.first / DEC_KEYS + at - i.base) * DEC_KEYS;
    const int64_t head = (int64_t)i.kv * a.ctx + j;
    const uint8_t *k = (const uint8_t *)(a.in[1] + i.slot) + head * row + 16 * lane,
                  *v = (const uint8_t *)(a.in[2] + i.slot) + head * row + 16 * lane;
    PFQ_UNROLL
    for (int32_t n = 0; n < pieces; n++) {
        int32_t off = 512 * n;
        if (!kv_ints()) off -= max((32 * n + lane) / pieces - (i.pos - j), 0) * row;
        pfq_copy16(stage + 512 * n + 16 * lane, k + off);
        pfq_copy16(stage + DEC_KEYS * row + 512 * n + 16 * lane, v + off);
    }
    if (kv_scales()) {
        const int32_t which = lane >> 2; /* K scales, K minima, V scales, V minima */
        if (which < 4 && (kv_minima() || !(which & 1)))
            pfq_copy16(stage + 2 * DEC_KEYS * row + 16 * lane,
                       (const uint16_t *)(a.in[3 + which] + i.slot) + head + 8 * (lane & 3));
    }
    pfq_copy_commit();
}

/* n words from 4-byte aligned shared memory that is aligned to 4 * n or 16. */
template <int N> PFQ_DEVICE void load_words(const uint8_t *from, uint32_t *w)
{
    if (N % 4 == 0) {
        PFQ_UNROLL
        for (int32_t i = 0; i + 3 < N; i += 4) {
            const PfqWords x = *(const PfqWords *)(from + 4 * i);
            w[i] = x.v[0], w[i + 1] = x.v[1], w[i + 2] = x.v[2], w[i + 3] = x.v[3];
        }
    } else if (N == 2) {
        const uint2 x = *(const uint2 *)from;
        w[0] = x.x, w[1] = x.y;
    } else
        w[0] = *(const uint32_t *)from;
}

/* Nibbles as the high halves of bytes: bytes' low ones (half 0) or high ones. */
PFQ_DEVICE uint32_t nibbles(uint32_t w, int32_t half)
{
    return (half ? w : w << 4) & 0xf0f0f0f0u;
}

/* a of product `step` of two keys' words. */
PFQ_DEVICE void key_fragment(const uint32_t *k0, const uint32_t *k1, int32_t step, uint32_t a[4])
{
    if (kv_nibbles()) {
        a[0] = nibbles(k0[step], 0), a[1] = nibbles(k1[step], 0);
        a[2] = nibbles(k0[step], 1), a[3] = nibbles(k1[step], 1);
    } else {
        a[0] = k0[2 * step], a[1] = k1[2 * step];
        a[2] = k0[2 * step + 1], a[3] = k1[2 * step + 1];
    }
}

template <int N>
PFQ_DEVICE void key_words(const uint8_t *k, int32_t row, uint32_t *k0, uint32_t *k1)
{
    const int32_t g = pfq_lane() >> 2, c = pfq_lane() & 3;
    load_words<N>(k + g * row + c * (row / 4), k0);
    load_words<N>(k + (g + 8) * row + c * (row / 4), k1);
}

/* Products x[nt][p] of key g + 8 * (c / 2) of 16 with heads 2 * (c % 2) + p. */
template <int D, int NT>
PFQ_DEVICE void products(const State<D, NT> &s, const uint8_t *k, float x[NT][2])
{
    const int32_t row = (int32_t)kv_row();
    const bool upper = pfq_lane() & 2; /* has the low plane's columns; takes keys 8 on */
    uint32_t k0[D / 8], k1[D / 8], a[4];
    if (kv_nibbles())
        key_words<D / 32>(k, row, k0, k1);
    else if (kv_ints())
        key_words<D / 16>(k, row, k0, k1);
    else
        key_words<D / 8>(k, row, k0, k1);
    if (!kv_ints()) {
        float y[NT][4] = {};
        PFQ_UNROLL
        for (int32_t step = 0; step < D / 16; step++) {
            key_fragment(k0, k1, step, a);
            PFQ_UNROLL
            for (int32_t nt = 0; nt < NT; nt++)
                pfq_mma_halves(y[nt], a, s.q[nt][step]);
        }
        PFQ_UNROLL
        for (int32_t nt = 0; nt < NT; nt++) {
            PFQ_UNROLL
            for (int32_t p = 0; p < 2; p++) {
                const float give = upper ? y[nt][p] : y[nt][2 + p];
                x[nt][p] = (upper ? y[nt][2 + p] : y[nt][p]) + __shfl_xor_sync(~0u, give, 2);
            }
        }
        return;
    }
    int32_t y[NT][4] = {};
    PFQ_UNROLL
    for (int32_t step = 0; step < D / 32; step++) {
        key_fragment(k0, k1, step, a);
        PFQ_UNROLL
        for (int32_t nt = 0; nt < NT; nt++)
            if (kv_unsigned())
                pfq_mma_bytes<false, true>(y[nt], a, s.q[nt][step]);
            else
                pfq_mma_bytes<true, true>(y[nt], a, s.q[nt][step]);
    }
    PFQ_UNROLL
    for (int32_t nt = 0; nt < NT; nt++) {
        PFQ_UNROLL
        for (int32_t p = 0; p < 2; p++) {
            const int32_t keep = upper ? y[nt][2 + p] : y[nt][p],
                          got = __shfl_xor_sync(~0u, upper ? y[nt][p] : y[nt][2 + p], 2);
            if (c_q8)
                x[nt][p] = (float)(upper ? got : keep);
            else
                x[nt][p] = (float)(upper ? 256 * got + keep : 256 * keep + got);
            if (kv_nibbles()) x[nt][p] *= 0.0625f;
        }
    }
}

/* Maximum over the lanes of equal c % 2. */
PFQ_DEVICE float max_of_keys(float x)
{
    for (int32_t h = 2; h < 32; h *= 2)
        x = fmaxf(x, __shfl_xor_sync(~0u, x, h));
    return x;
}
PFQ_DEVICE float sum_of_keys(float x)
{
    for (int32_t h = 2; h < 32; h *= 2)
        x += __shfl_xor_sync(~0u, x, h);
    return x;
}

/* New maxima: what was summed so far is brought to them. */
template <int D, int NT>
PFQ_DEVICE void flush(State<D, NT> &s, const float x[2][NT][2], const float v_scale[2])
{
    float v_corr = 1.0f;
    if (kv_scales()) {
        const float top = fmaxf(s.v_top, max_of_keys(fmaxf(v_scale[0], v_scale[1])));
        v_corr = top > 0.0f ? s.v_top / top : 0.0f;
        s.v_top = top;
        s.v_inv = top > 0.0f ? 1.0f / top : 0.0f;
    }
    PFQ_UNROLL
    for (int32_t nt = 0; nt < NT; nt++) {
        PFQ_UNROLL
        for (int32_t p = 0; p < 2; p++) {
            const float top = fmaxf(s.top[nt][p], max_of_keys(fmaxf(x[0][nt][p], x[1][nt][p])));
            const float corr = pfq_exp2(s.top[nt][p] - top);
            s.top[nt][p] = top;
            s.sum[nt][p] *= corr;
            s.minima[nt][p] *= corr;
            PFQ_UNROLL
            for (int32_t i = 0; i < D / 16; i++) {
                PFQ_UNROLL
                for (int32_t j = p; j < 4; j += 2) {
                    s.o[nt][i][j] = (s.o[nt][i][j] + (float)s.ints[nt][i][j]) * (corr * v_corr);
                    s.ints[nt][i][j] = 0;
                }
            }
        }
    }
    s.since = 0;
}

/* Scores x of the lane's keys 0 and 1 (g + 8e, 16 more) to probabilities in shared memory. */
template <int D, int NT>
PFQ_DEVICE void put_probs(State<D, NT> &s, uint32_t *probs, const float x[2][NT][2],
                          const float v_scale[2], const float v_min[2])
{
    const int32_t g = pfq_lane() >> 2, c = pfq_lane() & 3, e = c >> 1;
    PFQ_UNROLL
    for (int32_t nt = 0; nt < NT; nt++) {
        PFQ_UNROLL
        for (int32_t p = 0; p < 2; p++) {
            float y[2];
            PFQ_UNROLL
            for (int32_t m = 0; m < 2; m++) {
                y[m] = pfq_exp2(x[m][nt][p] - s.top[nt][p]);
                s.sum[nt][p] += y[m];
                if (kv_minima()) s.minima[nt][p] = fmaf(y[m], v_min[m], s.minima[nt][p]);
                if (kv_scales()) y[m] *= v_scale[m] * s.v_inv;
            }
            const int32_t column = 8 * nt + 2 * (c & 1) + p;
            if (!kv_ints()) {
                const uint32_t hi = pfq_two_halves(y[0], y[1]);
                probs[16 * column + g + 8 * e] = hi;
                probs[16 * (column + 4) + g + 8 * e] = pfq_two_halves(
                    y[0] - pfq_h_to_f((uint16_t)hi), y[1] - pfq_h_to_f((uint16_t)(hi >> 16)));
                continue;
            }
            /* Rounded by the addition of 2^23: the low 16 bits are the integer. */
            const uint32_t u0 = __float_as_uint(fmaf(y[0], DEC_UNIT, 8388608.0f)),
                           u1 = __float_as_uint(fmaf(y[1], DEC_UNIT, 8388608.0f));
            uint16_t *to = (uint16_t *)probs;
            to[2 * (8 * column + g) + e] = (uint16_t)__byte_perm(u0, u1, 0x0051);
            to[2 * (8 * (column + 4) + g) + e] = (uint16_t)__byte_perm(u0, u1, 0x0040);
        }
    }
}

/* y[b] = byte b of x[0..3]. */
PFQ_DEVICE void transpose(const uint32_t x[4], uint32_t y[4])
{
    const uint32_t a = __byte_perm(x[0], x[1], 0x5140), b = __byte_perm(x[2], x[3], 0x5140),
                   c = __byte_perm(x[0], x[1], 0x7362), d = __byte_perm(x[2], x[3], 0x7362);
    y[0] = __byte_perm(a, b, 0x5410);
    y[1] = __byte_perm(a, b, 0x7632);
    y[2] = __byte_perm(c, d, 0x5410);
    y[3] = __byte_perm(c, d, 0x7632);
}

template <int D, int NT>
PFQ_DEVICE void add_product(State<D, NT> &s, int32_t i, const uint32_t a[4],
                            const uint32_t b[NT][2])
{
    PFQ_UNROLL
    for (int32_t nt = 0; nt < NT; nt++)
        if (kv_unsigned())
            pfq_mma_bytes<false, false>(s.ints[nt][i], a, b[nt]);
        else
            pfq_mma_bytes<true, false>(s.ints[nt][i], a, b[nt]);
}

/* Byte j of a word of probabilities is key q + key_of(j), q its quad. */
PFQ_DEVICE int32_t key_of(int32_t j)
{
    return 8 * (j >> 1) + 16 * (j & 1);
}

/* o += probabilities times the 32 values at v; N words of a key are the lane's. */
template <int D, int NT, int N>
PFQ_DEVICE void int_values(State<D, NT> &s, const uint32_t *probs, const uint8_t *v)
{
    const int32_t g = pfq_lane() >> 2, c = pfq_lane() & 3, row = (int32_t)kv_row();
    uint32_t b[NT][2], x[2][4][N];
    PFQ_UNROLL
    for (int32_t nt = 0; nt < NT; nt++) {
        b[nt][0] = probs[8 * (8 * nt + g) + c];
        b[nt][1] = probs[8 * (8 * nt + g) + c + 4];
    }
    PFQ_UNROLL
    for (int32_t h = 0; h < 2; h++) {
        PFQ_UNROLL
        for (int32_t j = 0; j < 4; j++)
            load_words<N>(v + (c + 4 * h + key_of(j)) * row + g * (row / 8), x[h][j]);
    }
    PFQ_UNROLL
    for (int32_t w = 0; w < N; w++) {
        uint32_t y[2][4];
        PFQ_UNROLL
        for (int32_t h = 0; h < 2; h++) {
            const uint32_t four[4] = {x[h][0][w], x[h][1][w], x[h][2][w], x[h][3][w]};
            transpose(four, y[h]);
        }
        if (kv_nibbles()) {
            PFQ_UNROLL
            for (int32_t i = 0; i < 4; i++) {
                const uint32_t a[4] = {nibbles(y[0][i], 0), nibbles(y[0][i], 1),
                                       nibbles(y[1][i], 0), nibbles(y[1][i], 1)};
                if (4 * w + i < D / 16) add_product(s, 4 * w + i, a, b);
            }
        } else {
            PFQ_UNROLL
            for (int32_t i = 0; i < 2; i++) {
                const uint32_t a[4] = {y[0][2 * i], y[0][2 * i + 1], y[1][2 * i], y[1][2 * i + 1]};
                if (2 * w + i < D / 16) add_product(s, 2 * w + i, a, b);
            }
        }
    }
}

template <int D, int NT>
PFQ_DEVICE void half_values(State<D, NT> &s, const uint32_t *probs, const uint8_t *v)
{
    const int32_t g = pfq_lane() >> 2, c = pfq_lane() & 3, row = (int32_t)kv_row();
    PFQ_UNROLL
    for (int32_t t = 0; t < 2; t++) {
        uint32_t b[NT][2], x[4][D / 16];
        PFQ_UNROLL
        for (int32_t nt = 0; nt < NT; nt++) {
            b[nt][0] = probs[16 * (8 * nt + g) + 8 * t + c];
            b[nt][1] = probs[16 * (8 * nt + g) + 8 * t + c + 4];
        }
        PFQ_UNROLL
        for (int32_t j = 0; j < 4; j++)
            load_words<D / 16>(v + (c + 4 * (j >> 1) + 8 * t + 16 * (j & 1)) * row + g * (row / 8),
                               x[j]);
        PFQ_UNROLL
        for (int32_t i = 0; i < D / 16; i++) {
            const uint32_t a[4] = {
                __byte_perm(x[0][i], x[1][i], 0x5410), __byte_perm(x[0][i], x[1][i], 0x7632),
                __byte_perm(x[2][i], x[3][i], 0x5410), __byte_perm(x[2][i], x[3][i], 0x7632)};
            PFQ_UNROLL
            for (int32_t nt = 0; nt < NT; nt++)
                pfq_mma_halves(s.o[nt][i], a, b[nt]);
        }
    }
}

/* Tile `at` of item i, which lies in a stage. probs: the warp's, NT * 8 * 16 words. */
template <int D, int NT>
PFQ_DEVICE void tile(const Item &i, State<D, NT> &s, int32_t at, const uint8_t *stage,
                     uint32_t *probs)
{
    const int32_t row = (int32_t)kv_row(), g = pfq_lane() >> 2, e = pfq_lane() >> 1 & 1,
                  j = (i.first / DEC_KEYS + at - i.base) * DEC_KEYS;
    const uint16_t *scales = (const uint16_t *)(stage + 2 * DEC_KEYS * row);
    float x[2][NT][2], v_scale[2] = {1.0f, 1.0f}, v_min[2] = {0.0f, 0.0f};
    bool more = s.since >= 512; /* 2^31 / (65025 * 32) of them would overflow */
    PFQ_UNROLL
    for (int32_t m = 0; m < 2; m++) {
        const int32_t r = 16 * m + 8 * e + g;
        const bool out = j + r > i.pos || j + r < i.first;
        float k_scale = 1.0f, k_min = 0.0f;
        if (kv_scales()) {
            k_scale = pfq_h_to_f(scales[r]);
            v_scale[m] = out ? 0.0f : pfq_h_to_f(scales[2 * DEC_KEYS + r]);
            more |= v_scale[m] > s.v_top;
        }
        if (kv_minima()) {
            k_min = pfq_h_to_f(scales[DEC_KEYS + r]);
            v_min[m] = out ? 0.0f : pfq_h_to_f(scales[3 * DEC_KEYS + r]);
        }
        products(s, stage + 16 * m * row, x[m]);
        PFQ_UNROLL
        for (int32_t nt = 0; nt < NT; nt++) {
            PFQ_UNROLL
            for (int32_t p = 0; p < 2; p++) {
                float y = x[m][nt][p];
                if (kv_scales()) y = fmaf(k_min, s.q_sum[nt][p], y * k_scale);
                y = out ? ATTEND_NONE : y * s.factor[nt][p];
                x[m][nt][p] = y;
                more |= y > s.top[nt][p] + DEC_SLACK;
            }
        }
    }
    if (__any_sync(~0u, more)) flush(s, x, v_scale);
    s.since++;
    put_probs(s, probs, x, v_scale, v_min);
    __syncwarp();
    const uint8_t *v = stage + DEC_KEYS * row;
    if (kv_nibbles())
        int_values<D, NT, D / 64>(s, probs, v);
    else if (kv_ints())
        int_values<D, NT, D / 32>(s, probs, v);
    else
        half_values(s, probs, v);
}

#endif
