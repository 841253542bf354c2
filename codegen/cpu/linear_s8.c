/* linear.s8: 8-bit weights with one scale per row, activations s8 or s16. Contract: linear.h.
 *
 * A token is one row of u8 (s8: x + 128) or two (s16: planes hi = (x >> 8) + 128 and lo = x & 255);
 * a row's dot products with the s8 weights are exact in int32 (255 * 128 * K < 2^31 for K < 65793),
 * and 128 * sum(w) from the tile's header takes the 128 out again.
 */
#include "linear.h"

enum { HEAD = 128, ROWS = PFQ_VNNI ? 8 : 2 };

PFQ_INLINE int64_t tile_bytes(void)
{
    return HEAD + 4 * (int64_t)pfq_up(c_K, 4) * 4;
}
PFQ_INLINE int32_t planes(void)
{
    return c_fmt == PFQ_FMT_S16 ? 2 : 1;
}

/* Dot products of n rows (x, stride xs) with m tiles, as int32. */
PFQ_INLINE void dots(const uint8_t *x, int64_t xs, const char *w, int32_t n, int32_t m, I acc[2][8])
{
    const int32_t steps = (c_K + 3) / 4;
    const int64_t ws = tile_bytes();
    w += HEAD;
#if PFQ_VNNI
    __m512i s[2][8];
    PFQ_UNROLL for (int32_t i = 0; i < m; i++) PFQ_UNROLL for (int32_t j = 0; j < n; j++) s[i][j] =
        _mm512_setzero_si512();
    for (int32_t k = 0; k < steps; k++) {
        __m512i wk[2];
        PFQ_UNROLL for (int32_t i = 0; i < m; i++) wk[i] =
            _mm512_load_si512(w + i * ws + 64 * (int64_t)k);
        PFQ_UNROLL for (int32_t j = 0; j < n; j++)
        {
            __m512i xk = _mm512_set1_epi32(*(const I32U *)(x + j * xs + 4 * k));
            PFQ_UNROLL for (int32_t i = 0; i < m; i++) s[i][j] =
                _mm512_dpbusd_epi32(s[i][j], xk, wk[i]);
        }
    }
    PFQ_UNROLL for (int32_t i = 0; i < m; i++) PFQ_UNROLL for (int32_t j = 0; j < n; j++)
        acc[i][j] = (I)s[i][j];
#else
    /* Four vectors of 4 rows x (2 sums of 2 products) per tile; pmaddubsw would saturate. */
    PFQ_UNROLL for (int32_t i = 0; i < m; i++)
    {
        __m256i s[8][4];
        PFQ_UNROLL for (int32_t j = 0; j < n; j++) PFQ_UNROLL for (int32_t v = 0; v < 4; v++)
            s[j][v] = _mm256_setzero_si256();
        for (int32_t k = 0; k < steps; k++) {
            const char *p = w + i * ws + 64 * (int64_t)k;
            __m256i xk[8];
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
#endif
}

PFQ_INLINE void finish(const Lin *l, const char *w, int32_t t, int32_t n, int32_t m, int32_t col,
                       I acc[2][8])
{
    const int32_t per = planes();
    const float *scale = (const float *)l->a->in[1] + l->t0 + t;
    PFQ_UNROLL for (int32_t i = 0; i < m; i++)
    {
        const char *head = w + i * tile_bytes();
        F ws = f_load((const float *)head);
        I sum = (I)f_load((const float *)head + 16);
        for (int32_t j = 0; j < n / per; j++) {
            F v = f_of_i(acc[i][j * per] - sum);
            if (per == 2) v = f_fma(v, f_set(256.0f), f_of_i(acc[i][j * per + 1]));
            f_store(l->y + (t + j) * l->ys + col + 16 * i, v * (ws * f_set(scale[j])));
        }
    }
}

PFQ_INLINE void micro(const Lin *l, const char *w, int32_t t, int32_t n, int32_t m, int32_t col)
{
    const int64_t xs = pfq_up(c_K, 64);
    const uint8_t *x = (const uint8_t *)l->a->in[0] + (l->t0 + t) * xs * planes();
    I acc[2][8];
    if (planes() == 2 && n == 1) return;
    dots(x, xs, w, n, m, acc);
    finish(l, w, t, n, m, col, acc);
}

#if PFQ_VNNI
/* One token: the weights are streamed once. Two accumulators per plane hide the latency of dpbusd.
 */
PFQ_INLINE void stream(const Lin *l, const char *w, int32_t col)
{
    const int32_t steps = (c_K + 3) / 4, per = planes();
    const int64_t xs = pfq_up(c_K, 64);
    const uint8_t *x = (const uint8_t *)l->a->in[0] + l->t0 * xs * per;
    const char *p = w + HEAD;
    __m512i s[2][2];
    s[0][0] = s[0][1] = s[1][0] = s[1][1] = _mm512_setzero_si512();
    for (int32_t k = 0; k < steps; k += 2) {
        int32_t some = pfq_min(2, steps - k);
        for (int32_t u = 0; u < some; u++) {
            __m512i wk = _mm512_load_si512(p + 64 * (int64_t)(k + u));
            PFQ_UNROLL for (int32_t j = 0; j < per; j++) s[j][u] = _mm512_dpbusd_epi32(
                s[j][u], _mm512_set1_epi32(*(const I32U *)(x + j * xs + 4 * (k + u))), wk);
        }
    }
    I acc[2][8];
    acc[0][0] = (I)s[0][0] + (I)s[0][1];
    acc[0][1] = (I)s[1][0] + (I)s[1][1];
    finish(l, w, 0, per, 1, col, acc);
}
#endif

PFQ_INLINE void tokens(const Lin *l, const char *w, int32_t m, int32_t col)
{
    const int32_t per = planes(), step = ROWS / per;
    int32_t t = 0;
    for (; t + step <= l->tn; t += step)
        micro(l, w, t, ROWS, m, col);
    if (ROWS > 4)
        for (; t + 4 / per <= l->tn; t += 4 / per)
            micro(l, w, t, 4, m, col);
    if (ROWS > 2)
        for (; t + 2 / per <= l->tn; t += 2 / per)
            micro(l, w, t, 2, m, col);
    if (t < l->tn) micro(l, w, t, 1, m, col);
}

PFQ_INLINE void lin_prepare(const Lin *l)
{
    (void)l;
}

PFQ_INLINE void lin_block(const Lin *l, int32_t tile, int32_t tiles)
{
    const char *w = (const char *)l->a->w + tile * tile_bytes();
    int32_t i = 0;
#if PFQ_VNNI
    if (l->tn == 1) {
        for (; i < tiles; i++)
            stream(l, w + i * tile_bytes(), i * 16);
        return;
    }
    for (; i + 2 <= tiles; i += 2)
        tokens(l, w + i * tile_bytes(), 2, i * 16);
#endif
    for (; i < tiles; i++)
        tokens(l, w + i * tile_bytes(), 1, i * 16);
}

void pfq_linear_s8(const PfqArgs *a, int tid, int nt)
{
    lin_run(a, tid, nt);
}
