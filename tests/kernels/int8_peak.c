/* What the machine's int8 multiply-adds reach with everything in registers: the roof of bench_kernels' linears with
 * integer weights. int8_peak runs `rounds` rounds and returns the multiply-adds it made.
 *
 * AMX: four tiles of sums. VNNI: 24 sums of 16 lanes. AVX2: pmaddubsw and an addition in int16, which is the most that
 * exact kernels of 4-bit weights can do; those of 8-bit weights take pmaddwd, half as much. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

int64_t int8_peak(int64_t rounds, void *sink);

#if defined(__AMX_INT8__)
int64_t int8_peak(int64_t rounds, void *sink)
{
    struct {
        uint8_t palette, start, zero[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } c;
    memset(&c, 0, sizeof c);
    c.palette = 1;
    for (int i = 0; i < 8; i++)
        c.bytes[i] = 64, c.rows[i] = 16;
    _tile_loadconfig(&c);
    _tile_zero(0), _tile_zero(1), _tile_zero(2), _tile_zero(3);
    _tile_zero(4), _tile_zero(5), _tile_zero(6), _tile_zero(7);
    for (int64_t r = 0; r < rounds; r++) {
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 4, 7);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
    }
    _tile_stored(0, sink, 64);
    _tile_release();
    return rounds * 4 * 16 * 16 * 64;
}
#elif defined(__AVX512VNNI__)
enum { SUMS = 24 };
int64_t int8_peak(int64_t rounds, void *sink)
{
    __m512i s[SUMS], x = _mm512_set1_epi8(1), w = x;
    for (int i = 0; i < SUMS; i++)
        s[i] = _mm512_setzero_si512();
    for (int64_t r = 0; r < rounds; r++) {
#pragma clang loop unroll(full)
        for (int i = 0; i < SUMS; i++)
            __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(s[i]) : "v"(x), "v"(w));
    }
    for (int i = 1; i < SUMS; i++)
        s[0] = _mm512_add_epi32(s[0], s[i]);
    _mm512_storeu_si512(sink, s[0]);
    return rounds * SUMS * 64;
}
#else
enum { SUMS = 8 };
int64_t int8_peak(int64_t rounds, void *sink)
{
    __m256i s[SUMS], x = _mm256_set1_epi8(1), w = x;
    for (int i = 0; i < SUMS; i++)
        s[i] = _mm256_setzero_si256();
    for (int64_t r = 0; r < rounds; r++) {
#pragma clang loop unroll(full)
        for (int i = 0; i < SUMS; i++) {
            __m256i p;
            __asm__ volatile("vpmaddubsw %2, %1, %0" : "=x"(p) : "x"(x), "x"(w));
            s[i] = _mm256_add_epi16(s[i], p);
        }
    }
    for (int i = 1; i < SUMS; i++)
        s[0] = _mm256_add_epi16(s[0], s[i]);
    _mm256_storeu_si256(sink, s[0]);
    return rounds * SUMS * 32;
}
#endif
