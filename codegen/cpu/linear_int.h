/* Integer weights with one scale per row, activations s8 or s16: what linear_s8.c and linear_s4.c
 * share. Contract: linear.h. A family defines NIBBLES (0: a byte is a weight, 1: it holds two)
 * before it includes this.
 *
 * A tile starts with 16 scales (f32) and 16 sums 128 * sum_k(w) (i32). Then every 64 bytes hold a
 * step: 16 rows x 4 k, or 16 rows x 8 k whose first four k are the low nibbles. A part is 4 k of a
 * step: PARTS = 1 or 2.
 *
 * A token is one row of u8 (s8: x + 128) or two (s16: planes hi = (x >> 8) + 128 and lo = x & 255).
 * Dot products of u8 and weights are exact in int32, and the tile's sums take the 128 out again:
 *   - bytes: 255 * 128 * K < 2^31 for K < 65793
 *   - nibbles with VNNI and AMX: nibble << 4 and nibble & 0xf0 are 16 * w as bytes, so the same
 *     limit holds, and the sum is a multiple of 16
 *   - nibbles with AVX2: pmaddubsw of w does not saturate (2 * 8 * 255 = 4080), nor do eight of its
 *     results added in int16 (32640)
 *   - bytes with AVX2: pmaddubsw could saturate, so both are widened to int16
 * The layout is one for all: what VNNI takes as one vector, AMX takes as a row of a tile of
 * weights.
 */
#ifndef PFQC_CODEGEN_CPU_LINEAR_INT_H
#define PFQC_CODEGEN_CPU_LINEAR_INT_H

#include "amx.h"
#include "linear.h"

enum {
    HEAD = 128,
    PARTS = NIBBLES ? 2 : 1,
    STEP = 4 * PARTS, /* k of 64 bytes */
    SHIFT = NIBBLES && PFQ_VNNI ? 4 : 0,
    ROWS = PFQ_VNNI  ? 8
           : NIBBLES ? 4
                     : 2 /* u8 rows of a micro kernel, at most 8 */
};

PFQ_INLINE int32_t steps(void)
{
    return (c_K + STEP - 1) / STEP;
}
PFQ_INLINE int64_t tile_bytes(void)
{
    return HEAD + 64 * (int64_t)steps();
}
PFQ_INLINE int32_t planes(void)
{
    return c_fmt == PFQ_FMT_S16 ? 2 : 1;
}
/* Bytes from one u8 row to the next. */
PFQ_INLINE int64_t x_stride(void)
{
    return pfq_up(c_K, 64);
}
/* The u8 rows of token t of the block. */
PFQ_INLINE const uint8_t *x_row(const Lin *l, int32_t t)
{
    return (const uint8_t *)l->a->in[0] + (l->t0 + t) * x_stride() * planes();
}

/* ---- dot products of n rows with m tiles ----
 *
 * Two tiles are two streams, which hardware does not prefetch from one pair of tiles to the next,
 * so `ahead` asks for the next pair (Zen 4, SmolLM2: 27 % less time at 8 tokens, 12 % at 32). */

#if PFQ_VNNI
/* A step's weights, times 1 << SHIFT. */
PFQ_INLINE void weights(const char *p, __m512i w[PARTS])
{
    __m512i v = _mm512_load_si512(p);
    w[0] = v;
#if NIBBLES
    const __m512i high = _mm512_set1_epi8((char)0xf0);
    w[0] = _mm512_and_si512(_mm512_slli_epi16(v, 4), high);
    w[1] = _mm512_and_si512(v, high);
#endif
}

PFQ_INLINE __m512i broadcast(const uint8_t *x)
{
    return _mm512_set1_epi32(*(const I32U *)x);
}

PFQ_INLINE void dots(const uint8_t *x, int64_t xs, const char *w, int32_t n, int32_t m, bool ahead,
                     I acc[2][8])
{
    const int64_t ws = tile_bytes();
    __m512i s[2][8];
    PFQ_UNROLL for (int32_t i = 0; i < m; i++) PFQ_UNROLL for (int32_t j = 0; j < n; j++) s[i][j] =
        _mm512_setzero_si512();
    for (int32_t k = 0; k < steps(); k++) {
        __m512i wk[2][PARTS];
        PFQ_UNROLL for (int32_t i = 0; i < m; i++)
        {
            const char *at = w + HEAD + i * ws + 64 * (int64_t)k;
            weights(at, wk[i]);
            if (ahead) __builtin_prefetch(at + m * ws, 0, 2);
        }
        PFQ_UNROLL for (int32_t p = 0; p < PARTS; p++) PFQ_UNROLL for (int32_t j = 0; j < n; j++)
        {
            __m512i xk = broadcast(x + j * xs + STEP * k + 4 * p);
            PFQ_UNROLL for (int32_t i = 0; i < m; i++) s[i][j] =
                _mm512_dpbusd_epi32(s[i][j], xk, wk[i][p]);
        }
    }
    PFQ_UNROLL for (int32_t i = 0; i < m; i++) PFQ_UNROLL for (int32_t j = 0; j < n; j++)
        acc[i][j] = (I)s[i][j];
}

#elif NIBBLES
/* Nibbles to signed bytes, by table. */
PFQ_INLINE __m256i signed_nibbles(__m256i v)
{
    const __m256i table = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1));
    return _mm256_shuffle_epi8(table, _mm256_and_si256(v, _mm256_set1_epi8(15)));
}

/* Two vectors of 8 rows x (2 sums of 2 products), which collect up to four steps in int16. */
PFQ_INLINE void dots(const uint8_t *x, int64_t xs, const char *w, int32_t n, int32_t m, bool ahead,
                     I acc[2][8])
{
    const __m256i one = _mm256_set1_epi16(1);
    (void)ahead;
    PFQ_UNROLL for (int32_t i = 0; i < m; i++)
    {
        __m256i s[ROWS][2];
        PFQ_UNROLL for (int32_t j = 0; j < n; j++) s[j][0] = s[j][1] = _mm256_setzero_si256();
        for (int32_t k = 0; k < steps();) {
            __m256i part[ROWS][2];
            PFQ_UNROLL for (int32_t j = 0; j < n; j++) part[j][0] = part[j][1] =
                _mm256_setzero_si256();
            for (int32_t end = pfq_min(k + 4, steps()); k < end; k++) {
                const char *at = w + HEAD + i * tile_bytes() + 64 * (int64_t)k;
                __m256i wk[2][2]; /* part, half of the rows */
                PFQ_UNROLL for (int32_t h = 0; h < 2; h++)
                {
                    __m256i v = _mm256_load_si256((const __m256i *)(at + 32 * h));
                    wk[0][h] = signed_nibbles(v);
                    wk[1][h] = signed_nibbles(_mm256_srli_epi16(v, 4));
                }
                PFQ_UNROLL for (int32_t j = 0; j < n; j++)
                    PFQ_UNROLL for (int32_t p = 0; p < 2; p++)
                {
                    __m256i xk = _mm256_set1_epi32(*(const I32U *)(x + j * xs + STEP * k + 4 * p));
                    PFQ_UNROLL for (int32_t h = 0; h < 2; h++) part[j][h] =
                        _mm256_add_epi16(part[j][h], _mm256_maddubs_epi16(xk, wk[p][h]));
                }
            }
            PFQ_UNROLL for (int32_t j = 0; j < n; j++) PFQ_UNROLL for (int32_t h = 0; h < 2; h++)
                s[j][h] = _mm256_add_epi32(s[j][h], _mm256_madd_epi16(part[j][h], one));
        }
        PFQ_UNROLL for (int32_t j = 0; j < n; j++) acc[i][j] = (I)f_join((F8)s[j][0], (F8)s[j][1]);
    }
}

#else
/* Four vectors of 4 rows x (2 sums of 2 products). */
PFQ_INLINE void dots(const uint8_t *x, int64_t xs, const char *w, int32_t n, int32_t m, bool ahead,
                     I acc[2][8])
{
    (void)ahead;
    PFQ_UNROLL for (int32_t i = 0; i < m; i++)
    {
        __m256i s[ROWS][4];
        PFQ_UNROLL for (int32_t j = 0; j < n; j++) PFQ_UNROLL for (int32_t v = 0; v < 4; v++)
            s[j][v] = _mm256_setzero_si256();
        for (int32_t k = 0; k < steps(); k++) {
            const char *p = w + HEAD + i * tile_bytes() + 64 * (int64_t)k;
            __m256i xk[ROWS];
            PFQ_UNROLL for (int32_t j = 0; j < n; j++) xk[j] = _mm256_unpacklo_epi8(
                _mm256_set1_epi32(*(const I32U *)(x + j * xs + 4 * k)), _mm256_setzero_si256());
            PFQ_UNROLL for (int32_t v = 0; v < 4; v++)
            {
                __m256i wk = _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)(p + 16 * v)));
                PFQ_UNROLL for (int32_t j = 0; j < n; j++) s[j][v] =
                    _mm256_add_epi32(s[j][v], _mm256_madd_epi16(xk[j], wk));
            }
        }
        PFQ_UNROLL for (int32_t j = 0; j < n; j++)
        {
            __m256i a = _mm256_hadd_epi32(s[j][0], s[j][1]),
                    b = _mm256_hadd_epi32(s[j][2], s[j][3]);
            a = _mm256_permute4x64_epi64(a, 0xd8);
            b = _mm256_permute4x64_epi64(b, 0xd8);
            acc[i][j] = (I)f_join((F8)a, (F8)b);
        }
    }
}
#endif

/* ---- from integers to y ---- */

/* Token t of the block, a tile's 16 rows: hi is the dot product of the token's row, lo that of its
 * second one (s16). */
PFQ_INLINE void finish(const Lin *l, const char *tile, int32_t t, int32_t col, I hi, I lo)
{
    F scale = f_load((const float *)tile);
    F v = f_of_i((hi >> SHIFT) - (I)f_load((const float *)tile + 16));
    if (planes() == 2) v = f_fma(v, f_set(256.0f), f_of_i(lo >> SHIFT));
    if (!c_static) scale *= f_set(((const float *)l->a->in[1])[l->t0 + t]);
    f_store(l->y + t * l->ys + col, v * scale);
}

/* Tokens from t on, n rows in all, m tiles. */
PFQ_INLINE void micro(const Lin *l, const char *w, int32_t t, int32_t n, int32_t m, bool ahead,
                      int32_t col)
{
    const int32_t per = planes();
    if (n < per) return;
    I acc[2][8];
    dots(x_row(l, t), x_stride(), w, n, m, ahead, acc);
    PFQ_UNROLL for (int32_t i = 0; i < m; i++) PFQ_UNROLL for (int32_t j = 0; j < n; j++)
    {
        if (per == 1)
            finish(l, w + i * tile_bytes(), t + j, col + 16 * i, acc[i][j], acc[i][j]);
        else if (j % 2 == 0)
            finish(l, w + i * tile_bytes(), t + j / 2, col + 16 * i, acc[i][j], acc[i][j | 1]);
    }
}

PFQ_INLINE void tokens(const Lin *l, const char *w, int32_t m, int32_t col)
{
    const int32_t per = planes();
    int32_t t = 0;
    if (m == 2 && ROWS / per <= l->tn) {
        micro(l, w, 0, ROWS, m, true, col);
        t = ROWS / per;
    }
    for (; t + ROWS / per <= l->tn; t += ROWS / per)
        micro(l, w, t, ROWS, m, false, col);
    if (ROWS > 4)
        for (; t + 4 / per <= l->tn; t += 4 / per)
            micro(l, w, t, 4, m, false, col);
    if (ROWS > 2)
        for (; t + 2 / per <= l->tn; t += 2 / per)
            micro(l, w, t, 2, m, false, col);
    if (t < l->tn) micro(l, w, t, 1, m, false, col);
}

#if PFQ_VNNI
/* One token: the weights are streamed once. Several sums per row hide the latency of dpbusd. */
PFQ_INLINE void stream(const Lin *l, const char *w, int32_t col)
{
    enum { U = 2 }; /* steps at a time */
    const uint8_t *x = x_row(l, 0);
    __m512i s[2][U * PARTS];
    PFQ_UNROLL for (int32_t u = 0; u < U * PARTS; u++) s[0][u] = s[1][u] = _mm512_setzero_si512();
    for (int32_t k = 0; k < steps(); k += U) {
        for (int32_t u = 0; u < pfq_min(U, steps() - k); u++) {
            __m512i wk[PARTS];
            weights(w + HEAD + 64 * (int64_t)(k + u), wk);
            PFQ_UNROLL for (int32_t p = 0; p < PARTS; p++)
            {
                const uint8_t *at = x + STEP * (k + u) + 4 * p;
                __m512i *sum = &s[0][u * PARTS + p];
                *sum = _mm512_dpbusd_epi32(*sum, broadcast(at), wk[p]);
                if (planes() == 1) continue;
                sum = &s[1][u * PARTS + p];
                *sum = _mm512_dpbusd_epi32(*sum, broadcast(at + x_stride()), wk[p]);
            }
        }
    }
    I hi = (I)s[0][0], lo = (I)s[1][0];
    PFQ_UNROLL for (int32_t u = 1; u < U * PARTS; u++)
    {
        hi += (I)s[0][u];
        lo += (I)s[1][u];
    }
    finish(l, w, 0, col, hi, lo);
}
#endif

#if PFQ_AMX
/* ---- AMX: 32 u8 rows x 2 tiles of weights at a time ---- */

enum { AMX_TOKENS = 4 }; /* fewer in a call are left to VNNI */

PFQ_INLINE bool use_amx(const PfqArgs *a)
{
    return a->T >= AMX_TOKENS;
}

/* Bytes of one tile's weights as rows of AMX tiles, 4 k x 16 rows each. */
PFQ_INLINE int64_t amx_bytes(void)
{
    return 16 * (int64_t)pfq_up(c_K, 64);
}

/* What AMX cannot load from the packed tiles goes to l->extra: bytes of unpacked nibbles, or the
 * last columns filled up with zeros to 64. */
PFQ_INLINE void amx_unpack(const Lin *l, const char *w, int32_t m)
{
    const int32_t per = 64 / STEP, from = NIBBLES ? 0 : steps() / per * per;
    for (int32_t i = 0; i < m; i++, w += tile_bytes()) {
        char *to = (char *)l->extra + i * amx_bytes();
        for (int32_t k = from; k < pfq_up(steps(), per); k++) {
            __m512i wk[PARTS];
            PFQ_UNROLL for (int32_t p = 0; p < PARTS; p++) wk[p] = _mm512_setzero_si512();
            if (k < steps()) weights(w + HEAD + 64 * (int64_t)k, wk);
            PFQ_UNROLL for (int32_t p = 0; p < PARTS; p++)
                _mm512_store_si512(to + 64 * (PARTS * (int64_t)k + p), wk[p]);
        }
    }
}

/* Sums of n groups of rows (x[0], x[1]) with m tiles to out[group][tile][row]. */
PFQ_INLINE void amx_dots(const Lin *l, const uint8_t *const x[2], int64_t xs, const char *w,
                         int32_t n, int32_t m, I out[2][2][16])
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int32_t k = 0; k < (c_K + 63) / 64; k++) {
        const bool packed = !NIBBLES && 16 * (k + 1) <= steps();
        const char *wk = (packed ? w + HEAD : (const char *)l->extra) + 1024 * (int64_t)k;
        _tile_loadd(4, x[0] + 64 * k, xs);
        _tile_loadd(6, wk, 64);
        _tile_dpbusd(0, 4, 6);
        if (m == 2) {
            _tile_loadd(7, wk + (packed ? tile_bytes() : amx_bytes()), 64);
            _tile_dpbusd(1, 4, 7);
        }
        if (n == 1) continue;
        _tile_loadd(5, x[1] + 64 * k, xs);
        _tile_dpbusd(2, 5, 6);
        if (m == 2) _tile_dpbusd(3, 5, 7);
    }
    _tile_stored(0, out[0][0], 64);
    if (m == 2) _tile_stored(1, out[0][1], 64);
    if (n == 1) return;
    _tile_stored(2, out[1][0], 64);
    if (m == 2) _tile_stored(3, out[1][1], 64);
}

/* The two groups of rows are 32 tokens, or the two planes of 16. Where fewer tokens are left, a
 * group starts earlier and its first ones are not used. */
PFQ_INLINE void amx_tokens(const Lin *l, const char *w, int32_t m, int32_t col)
{
    const int32_t T = l->a->T, rows = pfq_min(16, T), per = planes();
    const int64_t xs = x_stride() * per;
    I sums[2][2][16] __attribute__((aligned(64)));
    amx_unpack(l, w, m);
    for (int32_t t = 0; t < l->tn; t += 32 / per) {
        const int32_t n = per == 2 || t + 16 < l->tn ? 2 : 1;
        int32_t at[2]; /* first token of each group, in the block; may be negative */
        const uint8_t *x[2];
        for (int32_t g = 0; g < 2; g++) {
            at[g] = pfq_min(t + (per == 2 ? 0 : 16 * g), T - l->t0 - rows);
            x[g] = x_row(l, at[g]) + (per == 2 ? g * x_stride() : 0);
        }
        if (n == 2)
            amx_dots(l, x, xs, w, 2, m, sums);
        else
            amx_dots(l, x, xs, w, 1, m, sums);
        for (int32_t g = 0; g < n && (per == 1 || g == 0); g++)
            for (int32_t i = 0; i < m; i++)
                for (int32_t j = pfq_max(t + 16 * g - at[g], 0); j < rows; j++)
                    finish(l, w + i * tile_bytes(), at[g] + j, col + 16 * i, sums[g][i][j],
                           sums[1][i][j]);
    }
}
#endif

PFQ_INLINE void lin_prepare(const Lin *l)
{
    (void)l;
}

PFQ_INLINE void lin_block(const Lin *l, int32_t tile, int32_t tiles)
{
    const char *w = (const char *)l->a->w + tile * tile_bytes();
    int32_t i = 0;
#if PFQ_AMX
    if (use_amx(l->a)) {
        for (; i + 2 <= tiles; i += 2)
            amx_tokens(l, w + i * tile_bytes(), 2, i * 16);
        if (i < tiles) amx_tokens(l, w + i * tile_bytes(), 1, i * 16);
        return;
    }
#endif
#if PFQ_VNNI
    if (l->tn == 1) {
        for (; i < tiles; i++)
            stream(l, w + i * tile_bytes(), i * 16);
        return;
    }
    if (l->tn * planes() >= ROWS) /* fewer rows wait for memory, which is faster as one stream */
        for (; i + 2 <= tiles; i += 2)
            tokens(l, w + i * tile_bytes(), 2, i * 16);
#endif
    for (; i < tiles; i++)
        tokens(l, w + i * tile_bytes(), 1, i * 16);
}

PFQ_INLINE void lin_int_run(const PfqArgs *a, int tid, int nt)
{
#if PFQ_AMX
    if (use_amx(a)) amx_begin(pfq_min(16, a->T));
#endif
    lin_run(a, tid, nt);
#if PFQ_AMX
    if (use_amx(a)) amx_end();
#endif
}

#endif
