/* linear.u4g32: 4-bit weights, w = scale * q + offset per row and 32 k, activations s16g32.
 * Contract: linear.h.
 *
 * A group's sum is exact in int32: |256 * hi + lo| <= 32 * 15 * 32512 < 2^24, so it is exact in f32
 * too. The planes hi and lo are summed apart. On AVX2 pmaddubsw cannot saturate (15 * 128 * 2 =
 * 3840), nor can eight of its results added in int16 (30720). Per group: y += sum * (scale *
 * xscale) + offset * (xscale * sum(x)).
 */
#include "linear.h"

enum {
    GROUP = 320,
    ROWS = PFQ_VNNI ? 8 : 2
}; /* bytes of a group of a tile; tokens per micro kernel */

PFQ_INLINE int32_t groups(void)
{
    return (c_K + 31) / 32;
}
PFQ_INLINE int64_t tile_bytes(void)
{
    return (int64_t)groups() * GROUP;
}

#if PFQ_VNNI
typedef __m512i Wide[8]; /* 16 rows x 4 k each */

PFQ_INLINE void unpack(const char *p, Wide w)
{
    const __m512i low = _mm512_set1_epi8(15);
    PFQ_UNROLL for (int32_t j = 0; j < 4; j++)
    {
        __m512i v = _mm512_load_si512(p + 64 + 64 * j);
        w[2 * j] = _mm512_and_si512(v, low);
        w[2 * j + 1] = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
    }
}

PFQ_INLINE I group_dot(const Wide w, const uint8_t *x)
{
    __m512i hi = _mm512_setzero_si512(), lo = hi;
    PFQ_UNROLL for (int32_t j = 0; j < 8; j++)
    {
        hi = _mm512_dpbusd_epi32(hi, w[j], _mm512_set1_epi32(*(const I32U *)(x + 4 * j)));
        lo = _mm512_dpbusd_epi32(lo, w[j], _mm512_set1_epi32(*(const I32U *)(x + 32 + 4 * j)));
    }
    return ((I)hi << 8) + (I)lo;
}

PFQ_INLINE float group_sum(const uint8_t *x)
{
    __m512i s =
        _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), _mm512_loadu_si512(x));
    __m256i h = _mm512_castsi512_si256(s), l = _mm512_extracti64x4_epi64(s, 1);
    I8 v = ((I8)h << 8) + (I8)l;
    v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 4, 5, 6, 7);
    v += __builtin_shufflevector(v, v, 2, 3, 2, 3, 2, 3, 2, 3);
    return (float)(v[0] + v[1]);
}
#else
typedef __m256i Wide[16];

PFQ_INLINE void unpack(const char *p, Wide w)
{
    const __m256i low = _mm256_set1_epi8(15);
    PFQ_UNROLL for (int32_t j = 0; j < 8; j++)
    {
        __m256i v = _mm256_load_si256((const __m256i *)(p + 64 + 32 * j));
        int32_t at = j / 2 * 4 + j % 2; /* w[2 * step + half]; low nibbles are the even steps */
        w[at] = _mm256_and_si256(v, low);
        w[at + 2] = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
    }
}

PFQ_INLINE I group_dot(const Wide w, const uint8_t *x)
{
    __m256i s[2][2];
    s[0][0] = s[0][1] = s[1][0] = s[1][1] = _mm256_setzero_si256();
    PFQ_UNROLL for (int32_t j = 0; j < 8; j++)
        PFQ_UNROLL for (int32_t plane = 0; plane < 2; plane++)
    {
        __m256i xk = _mm256_set1_epi32(*(const I32U *)(x + 32 * plane + 4 * j));
        PFQ_UNROLL for (int32_t h = 0; h < 2; h++) s[plane][h] =
            _mm256_add_epi16(s[plane][h], _mm256_maddubs_epi16(w[2 * j + h], xk));
    }
    const __m256i one = _mm256_set1_epi16(1);
    I hi = (I)f_join((F8)_mm256_madd_epi16(s[0][0], one), (F8)_mm256_madd_epi16(s[0][1], one));
    I lo = (I)f_join((F8)_mm256_madd_epi16(s[1][0], one), (F8)_mm256_madd_epi16(s[1][1], one));
    return (hi << 8) + lo;
}

PFQ_INLINE float group_sum(const uint8_t *x)
{
    const __m256i b = _mm256_set1_epi8(1), one = _mm256_set1_epi16(1);
    __m256i h = _mm256_maddubs_epi16(b, _mm256_loadu_si256((const __m256i *)x));
    __m256i l = _mm256_maddubs_epi16(b, _mm256_loadu_si256((const __m256i *)(x + 32)));
    I8 v = ((I8)_mm256_madd_epi16(h, one) << 8) + (I8)_mm256_madd_epi16(l, one);
    v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 4, 5, 6, 7);
    v += __builtin_shufflevector(v, v, 2, 3, 2, 3, 2, 3, 2, 3);
    return (float)(v[0] + v[1]);
}
#endif

/* extra [tn][groups]: xscale * sum(x) of each group. */
PFQ_INLINE void lin_prepare(const Lin *l)
{
    const int64_t n = (int64_t)l->tn * groups(), from = (int64_t)l->t0 * groups();
    const uint8_t *x = (const uint8_t *)l->a->in[0] + from * 64;
    const float *xs = (const float *)l->a->in[1] + from;
    for (int64_t i = 0; i < n; i++)
        l->extra[i] = xs[i] * group_sum(x + 64 * i);
}

PFQ_INLINE void micro(const Lin *l, const char *w, int32_t t, int32_t n, int32_t col)
{
    const int64_t G = groups(), row = l->t0 + t;
    const uint8_t *x = (const uint8_t *)l->a->in[0] + row * G * 64;
    const float *xs = (const float *)l->a->in[1] + row * G, *sums = l->extra + t * G;
    F acc[8];
    PFQ_UNROLL for (int32_t j = 0; j < n; j++) acc[j] = f_set(0.0f);
    for (int64_t g = 0; g < G; g++) {
        const char *p = w + g * GROUP;
        F scale = f_load_h(p), offset = f_load_h(p + 32);
        Wide wide;
        unpack(p, wide);
        PFQ_UNROLL for (int32_t j = 0; j < n; j++)
        {
            F dot = f_of_i(group_dot(wide, x + (j * G + g) * 64));
            acc[j] = f_fma(dot, scale * f_set(xs[j * G + g]), acc[j]);
            acc[j] = f_fma(offset, f_set(sums[j * G + g]), acc[j]);
        }
    }
    PFQ_UNROLL for (int32_t j = 0; j < n; j++) f_store(l->y + (t + j) * l->ys + col, acc[j]);
}

PFQ_INLINE void lin_block(const Lin *l, int32_t tile, int32_t tiles)
{
    const char *w = (const char *)l->a->w + tile * tile_bytes();
    for (int32_t i = 0; i < tiles; i++, w += tile_bytes()) {
        int32_t t = 0;
        for (; t + ROWS <= l->tn; t += ROWS)
            micro(l, w, t, ROWS, i * 16);
        if (ROWS > 2)
            for (; t + 2 <= l->tn; t += 2)
                micro(l, w, t, 2, i * 16);
        if (t < l->tn) micro(l, w, t, 1, i * 16);
    }
}

void pfq_linear_u4g32(const PfqArgs *a, int tid, int nt)
{
    lin_run(a, tid, nt);
}
