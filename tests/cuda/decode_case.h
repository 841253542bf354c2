/* A model of random weights for the persistent decode step, and a plain computation of what every
 * phase makes: shared by the test of emulated threads (test_decode.cu) and the program for a GPU
 * (decode_bench.cu). Memory is what the includer defines:
 *   void *mem_new(size_t bytes), zeroed; mem_put(to, from, bytes), mem_get(to, from, bytes);
 *   mem_random(to, words, seed): word i is case_word(seed, i).
 *
 * Each phase is judged on what the step itself made before it, so one difference is told once:
 * integer sums must be equal; quantised activations too, but within 1e-3 of a tie.
 */
#ifndef PFQC_TESTS_CUDA_DECODE_CASE_H
#define PFQC_TESTS_CUDA_DECODE_CASE_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __CUDACC__
#define CASE_BOTH __host__ __device__
#else
#define CASE_BOTH
#endif

CASE_BOTH inline uint32_t case_word(uint32_t seed, uint64_t i)
{
    uint64_t z = (i + ((uint64_t)seed << 40)) * 0x9e3779b97f4a7c15u + 0x1234567u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    return (uint32_t)(z >> 29);
}

/* A vector that is never freed: there is no C++ library where the tests are built. */
template <class T> struct List {
    T *at;
    size_t n;

    explicit List(size_t n_ = 0) : at((T *)calloc(n_ + 1, sizeof(T))), n(n_) {}
    template <class U> List(const U *begin, const U *end) : List((size_t)(end - begin))
    {
        for (size_t i = 0; i < n; i++)
            at[i] = (T)begin[i];
    }
    List(const List &from) : List((const T *)from.at, (const T *)from.at + from.n) {}
    List &operator=(const List &from) = default;
    T *begin() const { return at; }
    T *end() const { return at + n; }
    T &operator[](size_t i) const { return at[i]; }
    void resize(size_t to)
    {
        at = (T *)realloc(at, (to + 1) * sizeof(T));
        for (; n < to; n++)
            at[n] = 0;
        n = to;
    }
    void push(T v)
    {
        resize(n + 1);
        at[n - 1] = v;
    }
};
typedef List<float> Floats;
typedef List<double> Doubles;
typedef List<int32_t> Ints;
typedef List<int8_t> Bytes;

inline Floats case_floats(uint32_t seed, size_t n, float lo, float hi)
{
    Floats v(n);
    for (size_t i = 0; i < n; i++)
        v[i] = lo + (hi - lo) * (float)(case_word(seed, i) >> 8) * 0x1p-24f;
    return v;
}

template <class S> struct Case {
    typedef LlamaModel<S> M;
    enum {
        QKV = (S::heads + 2 * S::kv_heads) * S::D,
        ROW = S::kv == PFQ_KV_S8 ? S::D : S::D / 2,
        GROUP = S::heads / S::kv_heads
    };
    int32_t ctx, pos, grid;
    PfqDecodeArgs a = {};
    List<uint64_t> table = List<uint64_t>(S::layers * N_COLUMNS);
    Floats s_qkv, s_o, s_gu, s_down, s_head, embed, freq, q_scale, k_scale, v_scale, base, prefix_k,
        prefix_v;
    int failures = 0;
    const float x_qkv = 0.025f, x_o = 0.004f, x_gu = 0.025f, x_down = 0.011f;

    static size_t packed(int64_t n, int64_t k, int bits)
    {
        return (size_t)((n + 63) / 64 * ((k + 127) / 128) * 1024 * bits);
    }
    static uint64_t put(const Floats &v)
    {
        const size_t n = (v.n + 63) / 64 * 64; /* as the packer pads */
        Floats padded(v);
        padded.resize(n);
        void *p = mem_new(4 * n);
        mem_put(p, padded.at, 4 * n);
        return (uint64_t)p;
    }
    static uint64_t put_one(float x)
    {
        Floats v(1);
        v[0] = x;
        return put(v);
    }
    static uint64_t random(uint32_t seed, size_t bytes)
    {
        void *p = mem_new(bytes);
        mem_random(p, bytes / 4, seed);
        return (uint64_t)p;
    }
    static uint64_t zeros(size_t bytes) { return (uint64_t)mem_new(bytes); }
    static uint64_t halves(uint32_t seed, size_t n, Floats *v)
    {
        List<uint16_t> h(n);
        v->resize(n);
        for (size_t i = 0; i < n; i++) { /* multiples of 1/8: exact */
            const int q = (int)(case_word(seed, i) >> 20) % 17 - 8;
            (*v)[i] = (float)q / 8;
            int e = 0;
            const float m = frexpf(fabsf((*v)[i]), &e);
            h[i] = q ? (uint16_t)((q < 0) << 15 | (e + 14) << 10 | (int)(m * 2048) % 1024) : 0;
        }
        void *p = mem_new(2 * n);
        mem_put(p, h.at, 2 * n);
        return (uint64_t)p;
    }

    Case(int32_t ctx_, int32_t pos_, int32_t grid_) : ctx(ctx_), pos(pos_), grid(grid_)
    {
        const float w = 0.25f / sqrtf((float)S::hidden);
        s_qkv = case_floats(1, QKV, 0.5f * w * 0.025f, w * 0.025f);
        s_o = case_floats(2, S::hidden, w * 0.002f, w * 0.004f);
        s_gu = case_floats(3, 2 * ((S::ffn + 31) / 32 * 32), w * 0.0125f, w * 0.025f);
        s_down = case_floats(4, S::hidden, w * 0.002f, w * 0.004f);
        s_head = case_floats(5, S::vocab, w * 0.005f, w * 0.01f);
        embed = case_floats(6, (size_t)S::rows * S::hidden, -1.7f, 1.7f);
        freq.resize(S::D / 2);
        for (int i = 0; i < S::D / 2; i++)
            freq[(size_t)i] = powf(500000.0f, -2.0f * (float)i / S::D);
        q_scale = case_floats(7, S::heads, 0.02f, 0.03f);
        k_scale = case_floats(8, S::kv_heads, 0.2f, 0.3f);
        v_scale = case_floats(9, S::kv_heads, 0.2f, 0.3f);
        base = case_floats(10, (size_t)((S::base + 15) / 16 * 16 * S::base), -1.0f, 1.0f);
        const uint64_t fixed[] = {put(s_qkv),   put(s_o),      put(s_gu),
                                  put(s_down),  put(s_head),   put_one(x_qkv),
                                  put_one(x_o), put_one(x_gu), put_one(x_down)};
        const uint64_t scales[] = {
            put(q_scale), put(k_scale), put(v_scale),
            halves(11, (size_t)S::prefix * S::kv_heads * S::D + 1, &prefix_k),
            halves(12, (size_t)S::prefix * S::kv_heads * S::D + 1, &prefix_v)};
        a.ctx = ctx, a.rows = S::rows;
        a.slot = (uint64_t)S::kv_heads * (uint64_t)ctx * ROW;
        const uint64_t head = random(200, packed(S::vocab, S::hidden, 8));
        for (int l = 0; l < S::layers; l++) {
            uint64_t *row = &table[(size_t)l * N_COLUMNS];
            const uint32_t seed = 1000 + 10 * (uint32_t)l;
            row[W_QKV] = random(seed, packed(QKV, S::hidden, 4));
            row[W_O] = random(seed + 1, packed(S::hidden, S::heads * S::D, 4));
            row[W_GU] = random(seed + 2, packed(2 * S::ffn, S::hidden, 4));
            row[W_DOWN] = random(seed + 3, packed(S::hidden, S::ffn, 4));
            row[W_HEAD] = head;
            memcpy(row + S_QKV, fixed, sizeof fixed);
            row[CACHE_K] = random(seed + 4, (size_t)S::rows * a.slot);
            row[CACHE_V] = random(seed + 5, (size_t)S::rows * a.slot);
            memcpy(row + Q_SCALE, scales, sizeof scales);
            for (int32_t i = KN_K; i <= KN_VM; i++)
                row[i] = S::kv_fixed ? 0 : numbers();
        }
        a.at[PFQ_AT_CONTROL] = zeros(64);
        a.at[PFQ_AT_TABLE] = zeros(8 * table.n);
        mem_put((void *)a.at[PFQ_AT_TABLE], table.at, 8 * table.n);
        a.at[PFQ_AT_ROWS] = zeros(S::rows * sizeof(PfqRow));
        set_rows(false);
        a.at[PFQ_AT_IDS] = zeros(4 * S::rows);
        for (int32_t r = 0; r < S::rows; r++)
            mem_put((int32_t *)a.at[PFQ_AT_IDS] + r, &r, 4);
        a.at[PFQ_AT_FREQ] = put(freq);
        a.at[PFQ_AT_EMBED] = put(embed);
        a.at[PFQ_AT_PARTS] = zeros((size_t)S::rows * S::heads * 16 * (S::D + 2) * 8);
        a.at[PFQ_AT_MIXED] = zeros((size_t)S::rows * 8 * S::ffn);
        a.at[PFQ_AT_NORMED] = zeros((size_t)S::rows * 8 * (S::hidden / 2 + 2) + 256);
        a.at[PFQ_AT_TURNED] = zeros((size_t)S::rows * (S::ffn + 8 * S::outer) + 256);
        a.at[PFQ_AT_LOGITS] = zeros((size_t)S::rows * 4 * S::vocab);
        a.at[PFQ_AT_BEST] = zeros(S::rows * 8 * 1024);
        a.at[PFQ_AT_TOKEN] = zeros(4 * S::rows);
        a.at[PFQ_AT_DUMP] = zeros(5 * 65536);
        a.at[PFQ_AT_TRACE] = S::trace ? zeros((size_t)grid * PFQ_MARKS * 8) : 0;
        a.at[SUM_QKV] = zeros((size_t)S::rows * 8 * 8 * (QKV + 64));
        a.at[SUM_O] = zeros((size_t)S::rows * 8 * S::planes * (S::hidden + 64));
        a.at[SUM_GU] = zeros((size_t)S::rows * 8 * 8 * (2 * S::ffn + 128));
        a.at[SUM_DOWN] = zeros((size_t)S::rows * 8 * S::planes * (S::hidden + 64));
        a.at[SUM_HEAD] = zeros((size_t)S::rows * 8 * (S::vocab + 64));
        a.at[PFQ_AT_BASE] = put(base);
    }

    /* Scales of a cache's rows: 1/4. */
    uint64_t numbers()
    {
        List<uint16_t> h((size_t)S::rows * a.slot / 2);
        for (size_t i = 0; i < h.n; i++)
            h[i] = 0x3400;
        void *p = mem_new(2 * h.n);
        mem_put(p, h.at, 2 * h.n);
        return (uint64_t)p;
    }
    /* Row r is of slot r + 1, the last of slot 0; at pos, or apart: at pos / (r + 1). */
    void set_rows(bool apart)
    {
        for (int32_t r = 0; r < S::rows; r++) {
            const PfqRow row = {apart ? pos / (r + 1) : pos, (r + 1) % S::rows};
            mem_put((PfqRow *)a.at[PFQ_AT_ROWS] + r, &row, sizeof row);
        }
    }
    /* Arguments of row r as a step of its own. */
    PfqDecodeArgs alone(int32_t r) const
    {
        PfqDecodeArgs one = a;
        one.rows = 1;
        one.at[PFQ_AT_ROWS] += (uint64_t)r * sizeof(PfqRow);
        one.at[PFQ_AT_EMBED] += (uint64_t)r * S::hidden * sizeof(float);
        return one;
    }

    /* ---- what the step made ---- */

    Ints ints(uint64_t at, size_t n)
    {
        Ints v(n);
        mem_get(v.at, (void *)at, 4 * n);
        return v;
    }
    /* Sums of an op, [plane][N], however they were handed over. */
    template <class C> Ints sums()
    {
        typedef PfqDeal<C> Deal;
        const size_t n = (size_t)(C::planes * Deal::panels * 64);
        const int64_t each = (Deal::slots + grid - 1) / grid;
        const bool direct =
            C::words && Deal::unit_slots * grid / Deal::slots + 2 <= C::words &&
            (each + Deal::unit_slots - 2) / Deal::unit_slots + 1 <= M::units / C::planes;
        if (!direct) return ints(a.at[C::sums], n);
        Ints v(n), w = ints(a.at[C::sums], (size_t)(2 * C::words * S::rows * Deal::panels * 64));
        for (int64_t row = 0; row < (int64_t)n; row++) {
            const int64_t u = row / 64 * Deal::unit_slots;
            const int64_t first = ((u + 1) * grid - 1) / Deal::slots,
                          last = ((u + Deal::unit_slots) * grid - 1) / Deal::slots;
            for (int64_t j = 0; j <= last - first; j++)
                v[(size_t)row] += w[(size_t)(2 * (j * S::rows * Deal::panels * 64 + row))];
        }
        return v;
    }
    Floats floats(uint64_t at, size_t n)
    {
        Floats v(n);
        mem_get(v.at, (void *)at, 4 * n);
        return v;
    }
    Bytes dumped(int which, size_t n)
    {
        Bytes v(n);
        mem_get(v.at, (void *)(a.at[PFQ_AT_DUMP] + 65536 * (uint64_t)which), n);
        return v;
    }

    /* ---- what it should ---- */

    void say(const char *what, size_t i, double got, double want)
    {
        if (failures++ < 20) printf("FAIL %s %zu: %g, not %g\n", what, i, got, want);
    }
    void equal(const char *what, const Ints &got, const Ints &want)
    {
        size_t bad = 0, first = 0;
        for (size_t i = 0; i < want.n; i++)
            if (got[i] != want[i] && !bad++) first = i;
        if (bad) {
            say(what, first, got[first], want[first]);
            printf("  %zu of %zu\n", bad, want.n);
        }
    }
    /* Integers of want / scale. */
    void rounded(const char *what, const int8_t *got, const Doubles &want, double scale, int lo,
                 int hi, double most = 0.501)
    {
        int off = 0;
        for (size_t i = 0; i < want.n; i++) {
            const double v = want[i] / scale, c = v < lo ? lo : v > hi ? hi : v;
            if (fabs((double)got[i] - c) > most) say(what, i, got[i], c);
            off += fabs((double)got[i] - c) > 0.5;
        }
        if (off) printf("  %s: %d off by rounding at a tie\n", what, off);
    }

    /* Sums of packed weights of `seed` and x of each plane, [plane][N]. */
    static Ints product(uint32_t seed, int64_t N, int64_t K, int bits, const Bytes &x, int planes)
    {
        const int64_t padded = (N + 63) / 64 * 64, width = (K + 127) / 128 * 128;
        const int step = bits == 4 ? 64 : 32;
        Ints y((size_t)(padded * planes));
        for (int64_t b = 0; b < padded / 64 * (width / step); b++)
            for (int i = 0; i < 128; i++)
                for (int j = 0; j < 4; j++) {
                    const uint32_t w = case_word(seed, (uint64_t)(b * 512 + i * 4 + j));
                    const int r = 16 * (i / 32) + i % 32 / 4 + 8 * (j & 1);
                    const int64_t row =
                        b / (width / step) * 64 + (r & 7) + (r >> 4) * 8 + (r >> 3 & 1) * 32;
                    const int64_t k = b % (width / step) * step + 16 * (j >> 1) + 4 * (i & 3);
                    for (int p = 0; p < planes; p++)
                        for (int e = 0; e < 4; e++) {
                            const int8_t v = (int8_t)(w >> 8 * e);
                            const int8_t *xp = x.at + p * K;
                            int32_t *to = &y[(size_t)(p * padded + row)];
                            if (bits == 8) {
                                if (k + e < K) *to += v * xp[k + e];
                                continue;
                            }
                            if (k + e < K) *to += (v >> 4) * xp[k + e];
                            if (k + 32 + e < K) *to += ((int8_t)(v << 4) >> 4) * xp[k + 32 + e];
                        }
                }
        return y;
    }
    static Doubles normed(const Doubles &x)
    {
        double s = 0;
        for (double v : x)
            s += v * v;
        Doubles y(x);
        for (double &v : y)
            v /= sqrt(s / (double)x.n + 1e-5);
        return y;
    }
    static void sylvester(Doubles &v, size_t n)
    {
        for (size_t h = 1; h < n; h *= 2)
            for (size_t i = 0; i < v.n; i++)
                if (!(i & h)) {
                    const double x = v[i], y = v[i + h];
                    v[i] = x + y, v[i + h] = x - y;
                }
    }
    /* A head of q or k after RoPE and R3. */
    Doubles head(const Doubles &sums, int h)
    {
        Doubles v(S::D);
        for (int d = 0; d < S::D; d++)
            v[(size_t)d] = sums[(size_t)(h * S::D + d)] * s_qkv[(size_t)(h * S::D + d)];
        if (h >= S::heads + S::kv_heads) return v;
        for (int i = 0; i < S::D / 2; i++) {
            const double angle = (double)freq[(size_t)i] * (pos + S::prefix);
            double &x = v[(size_t)i], &y = v[(size_t)(i + S::D / 2)];
            const double c = cos(angle), s = sin(angle), u = x * c - y * s;
            y = y * c + x * s;
            x = u;
        }
        sylvester(v, S::D);
        for (double &e : v)
            e /= sqrt((double)S::D);
        return v;
    }
    static int nibble(const Bytes &row, int d)
    {
        const int n = (uint8_t)row[(size_t)(d / 2)] >> (d & 1) * 4 & 15;
        return (n ^ 8) - 8;
    }
    /* What the last layer's attention should make of sums; checks the token's rows of the caches.
     */
    Doubles attention(const Doubles &sums, uint64_t k_at, uint64_t v_at)
    {
        Doubles out((size_t)(S::heads * S::D));
        for (int g = 0; g < S::kv_heads; g++) {
            Bytes k((size_t)((pos + 1) * ROW)), v(k.n);
            mem_get(k.at, (void *)(k_at + (uint64_t)g * (uint64_t)ctx * ROW), k.n);
            mem_get(v.at, (void *)(v_at + (uint64_t)g * (uint64_t)ctx * ROW), v.n);
            for (int which = 0; which < 2; which++) {
                const Bytes &c = which ? v : k;
                Bytes row(c.end() - ROW, c.end()), got(S::D);
                for (int d = 0; d < S::D; d++)
                    got[(size_t)d] = (int8_t)nibble(row, d);
                rounded(which ? "value" : "key", got.at,
                        head(sums, S::heads + which * S::kv_heads + g),
                        (which ? v_scale : k_scale)[(size_t)g], -8, 7);
            }
            for (int h = g * GROUP; h < (g + 1) * GROUP; h++) {
                Doubles q = head(sums, h), p;
                const double qs = q_scale[(size_t)h];
                for (double &x : q)
                    x = fmin(fmax(rint(x * (1 / q_scale[(size_t)h])), -128), 127) * qs;
                for (int j = -S::prefix; j <= pos; j++) {
                    double s = 0;
                    const Bytes key(k.begin() + (j < 0 ? 0 : j) * ROW,
                                    k.begin() + ((j < 0 ? 0 : j) + 1) * ROW);
                    for (int d = 0; d < S::D; d++)
                        s += q[(size_t)d] *
                             (j < 0 ? prefix_k[(size_t)(((j + S::prefix) * S::kv_heads + g) * S::D +
                                                        d)]
                                    : nibble(key, d) * (double)k_scale[(size_t)g]);
                    p.push(s * (double)0.08838834764f);
                }
                double top = -1e300, sum = 0;
                for (double s : p)
                    top = fmax(top, s);
                for (double &s : p)
                    sum += s = exp(s - top);
                for (int j = -S::prefix; j <= pos; j++)
                    for (int d = 0; d < S::D; d++)
                        out[(size_t)(h * S::D + d)] +=
                            p[(size_t)(j + S::prefix)] / sum *
                            (j < 0 ? prefix_v[(size_t)(((j + S::prefix) * S::kv_heads + g) * S::D +
                                                       d)]
                                   : (double)v_scale[(size_t)g] *
                                         ((((uint8_t)v[(size_t)(j * ROW + d / 2)] >> (d & 1) * 4 &
                                            15) ^
                                           8) -
                                          8));
            }
        }
        return out;
    }
    Doubles gated(const Doubles &sums)
    {
        Doubles x(S::ffn), y(S::ffn);
        for (int c = 0; c < S::ffn; c++) {
            const int g = c / 32 * 64 + c % 32, u = g + 32;
            const double gate = sums[(size_t)g] * s_gu[(size_t)g],
                         up = sums[(size_t)u] * s_gu[(size_t)u];
            x[(size_t)c] = gate / (1 + exp(-gate)) * up * (double)S::glu_scale;
        }
        const int m = S::ffn / S::base;
        for (int i = 0; i < S::base; i++)
            for (int j = 0; j < S::base; j++)
                for (int k = 0; k < m; k++)
                    y[(size_t)(i * m + k)] +=
                        x[(size_t)(j * m + k)] *
                        (S::base == 1 ? 1.0
                                      : base[(size_t)(i / 16 * 16 * S::base + i % 16 + 16 * j)]);
        for (int i = 0; i < S::base; i++) {
            Doubles row(y.begin() + i * m, y.begin() + (i + 1) * m);
            sylvester(row, (size_t)m);
            memcpy(&y[(size_t)(i * m)], row.at, sizeof(double) * (size_t)m);
        }
        return y;
    }
    void add(Doubles &x, const Doubles &sums, const Floats &scale)
    {
        for (size_t i = 0; i < x.n; i++)
            x[i] += sums[i] * scale[i];
    }

    /* What op C read: integers of `want`, by the scale that is known or found of the largest. */
    template <class C>
    Doubles judged(const char *what, int which, uint32_t seed, const Doubles &want, double fixed)
    {
        const Bytes in = dumped(which, (size_t)(C::planes * C::K));
        double scale = fixed, m = 0;
        if (C::planes == 1) {
            /* Attention of many rows has probabilities of 11 bits. */
            rounded(what, in.at, want, fixed, -128, 127, M::many && which == 1 ? 0.6 : 0.501);
        } else {
            for (double v : want)
                m = fmax(m, fabs(v));
            scale = m / 32512;
        }
        for (size_t i = 0; i < want.n && C::planes == 2; i++) {
            const double got = 256.0 * in[i] + in[i + C::K];
            if (fabs(got - want[i] / scale) > 1) say(what, i, got, want[i] / scale);
        }
        const Ints sum = sums<C>();
        equal(what, sum, product(seed, C::N, C::K, C::bits, in, C::planes));
        Doubles y(sum.n / C::planes);
        for (size_t i = 0; i < y.n; i++)
            y[i] = C::planes == 1 ? sum[i] : scale * (256.0 * sum[i] + sum[i + y.n]);
        return y;
    }
    /* S of one layer, with `keep`. Planes: static scales are in the linears' own. */
    void check()
    {
        const uint64_t *row = table.at, slot = 1 % S::rows * a.slot; /* of row 0 */
        Doubles x(embed.begin(), embed.begin() + S::hidden);
        const Doubles qkv = judged<typename M::Qkv>("qkv", 0, 1000, normed(x), x_qkv);
        add(x,
            judged<typename M::O>("o", 1, 1001,
                                  attention(qkv, row[CACHE_K] + slot, row[CACHE_V] + slot), x_o),
            s_o);
        const Doubles gu = judged<typename M::GateUp>("gate and up", 2, 1002, normed(x), x_gu);
        add(x, judged<typename M::Down>("down", 3, 1003, gated(gu), x_down), s_down);
        check_logits(judged<typename M::Head>("head", 4, 200, normed(x), 0));
    }
    void check_logits(const Doubles &sums)
    {
        const Floats logits = floats(a.at[PFQ_AT_LOGITS], S::vocab);
        size_t best = 0;
        for (size_t i = 0; i < S::vocab; i++) {
            const double want = sums[i] * s_head[i];
            if (fabs(logits[i] - want) > 1e-4 * (1 + fabs(want))) say("logit", i, logits[i], want);
            if (logits[i] > logits[best]) best = i;
        }
        const Ints token = ints(a.at[PFQ_AT_TOKEN], 1);
        if (token[0] != (int32_t)best) say("token", 0, token[0], (double)best);
        printf("layer of %d at %d of %d: logit %g of token %d, %d failures\n", S::hidden, pos, ctx,
               logits[best], token[0], failures);
    }
};

#endif
