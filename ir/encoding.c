#include "ir/encoding.h"

#include "ir/base/half.h"

/* A decoder expands whole blocks. Inner loops run over 16 or 32 elements with the scale outside,
 * which is what the compilers vectorise; f32 products are rounded before they are added (the build
 * sets -ffp-contract=off). */
typedef void Decoder(const u8 *src, u64 blocks, float *out);

static u16 load16(const u8 *p)
{
    u16 v;
    memcpy(&v, p, 2);
    return v;
}

static float load_f16(const u8 *p)
{
    return f16_to_f32(load16(p));
}

/* ---- plain elements: FN(name, C type in the file, value as f32) ---- */

#define PLAIN(name, T, value)                                                                      \
    static void enc_##name(const u8 *src, u64 n, float *out)                                       \
    {                                                                                              \
        for (u64 i = 0; i < n; i++) {                                                              \
            T v;                                                                                   \
            memcpy(&v, src + i * sizeof v, sizeof v);                                              \
            out[i] = value;                                                                        \
        }                                                                                          \
    }

/* f16_to_f32 without branches, so that it vectorises: rebias the exponent once, and once more for
 * inf and NaN; zero and subnormals are integers times 2^-24. */
static inline float half_select(u16 h)
{
    u32 sign = (u32)(h & 0x8000) << 16, mag = h & 0x7fff, exp = mag & 0x7c00;
    u32 normal = (mag << 13) + (exp == 0x7c00 ? 224u << 23 : 112u << 23);
    u32 sub = bits_f32((float)(i32)mag * 0x1p-24f);
    return f32_bits(sign | (exp ? normal : sub));
}

/* e4m3 as torch stores it (float8_e4m3fn, arXiv 2209.05433): bias 7, no infinities, 0x7f is NaN. */
static inline float e4m3_select(u8 b)
{
    u32 sign = (u32)(b & 0x80) << 24, mag = b & 0x7f;
    u32 normal = mag == 0x7f ? 0x7fc00000 : (mag << 20) + (120u << 23);
    u32 sub = bits_f32((float)(i32)mag * 0x1p-9f);
    return f32_bits(sign | (mag >= 8 ? normal : sub));
}

PLAIN(f16, u16, half_select(v))
PLAIN(bf16, u16, bf16_to_f32(v))
PLAIN(f64, double, (float)v)
PLAIN(i8, int8_t, (float)v)
PLAIN(i16, int16_t, (float)v)
PLAIN(i32, i32, (float)v)
PLAIN(i64, i64, (float)v)
PLAIN(u8, u8, (float)v)
PLAIN(u16, u16, (float)v)
PLAIN(u32, u32, (float)v)
PLAIN(u64, u64, (float)v)
PLAIN(f8_e4m3, u8, e4m3_select(v))
PLAIN(f8_e5m2, u8, half_select((u16)(v << 8))) /* the upper half of an f16 */

static void enc_f32(const u8 *src, u64 n, float *out)
{
    memcpy(out, src, n * sizeof *out);
}

/* ---- blocks of 32: element j in the low nibble of byte j, element 16 + j in its high nibble ----
 */

/* f16 d; 16 bytes: d * (q - 8) */
static void enc_q4_0(const u8 *src, u64 blocks, float *out)
{
    for (; blocks; blocks--, src += 18, out += 32) {
        float d = load_f16(src);
        const u8 *q = src + 2;
        for (int j = 0; j < 16; j++)
            out[j] = (float)((q[j] & 15) - 8) * d;
        for (int j = 0; j < 16; j++)
            out[16 + j] = (float)((q[j] >> 4) - 8) * d;
    }
}

/* f16 d, m; 16 bytes: d * q + m */
static void enc_q4_1(const u8 *src, u64 blocks, float *out)
{
    for (; blocks; blocks--, src += 20, out += 32) {
        float d = load_f16(src), m = load_f16(src + 2);
        const u8 *q = src + 4;
        for (int j = 0; j < 16; j++)
            out[j] = (float)(q[j] & 15) * d + m;
        for (int j = 0; j < 16; j++)
            out[16 + j] = (float)(q[j] >> 4) * d + m;
    }
}

/* The fifth bits of q5: bit j of a little-endian u32 belongs to element j. hi[j] is 0 or 16. */
static void fifth_bits(const u8 *qh, u8 hi[32])
{
    for (int k = 0; k < 4; k++)
        for (int j = 0; j < 8; j++)
            hi[8 * k + j] = (u8)((qh[k] >> j & 1) << 4);
}

/* f16 d; u32 fifth bits; 16 bytes: d * (q - 16) */
static void enc_q5_0(const u8 *src, u64 blocks, float *out)
{
    for (; blocks; blocks--, src += 22, out += 32) {
        float d = load_f16(src);
        const u8 *q = src + 6;
        u8 hi[32];
        fifth_bits(src + 2, hi);
        for (int j = 0; j < 16; j++)
            out[j] = (float)(((q[j] & 15) | hi[j]) - 16) * d;
        for (int j = 0; j < 16; j++)
            out[16 + j] = (float)(((q[j] >> 4) | hi[16 + j]) - 16) * d;
    }
}

/* f16 d, m; u32 fifth bits; 16 bytes: d * q + m */
static void enc_q5_1(const u8 *src, u64 blocks, float *out)
{
    for (; blocks; blocks--, src += 24, out += 32) {
        float d = load_f16(src), m = load_f16(src + 2);
        const u8 *q = src + 8;
        u8 hi[32];
        fifth_bits(src + 4, hi);
        for (int j = 0; j < 16; j++)
            out[j] = (float)((q[j] & 15) | hi[j]) * d + m;
        for (int j = 0; j < 16; j++)
            out[16 + j] = (float)((q[j] >> 4) | hi[16 + j]) * d + m;
    }
}

/* f16 d; 32 s8: d * q */
static void enc_q8_0(const u8 *src, u64 blocks, float *out)
{
    for (; blocks; blocks--, src += 34, out += 32) {
        float d = load_f16(src);
        const int8_t *q = (const int8_t *)src + 2;
        for (int j = 0; j < 32; j++)
            out[j] = (float)q[j] * d;
    }
}

/* f16 d; 16 bytes of indices into a fixed non-linear codebook: d * code[q] */
static void enc_iq4_nl(const u8 *src, u64 blocks, float *out)
{
    static const float code[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                   1,    13,   25,  38,  53,  69,  89,  113};
    for (; blocks; blocks--, src += 18, out += 32) {
        float d = load_f16(src);
        const u8 *q = src + 2;
        for (int j = 0; j < 16; j++)
            out[j] = code[q[j] & 15] * d;
        for (int j = 0; j < 16; j++)
            out[16 + j] = code[q[j] >> 4] * d;
    }
}

/* ---- super-blocks of 256: 8 groups of 32 or 16 groups of 16, each with a small integer scale ----
 */

/* 16 bytes: low nibble scale, high nibble minimum; 64 bytes of 2-bit q; f16 d, dmin: (d*scale) * q
 * - dmin*min. Bytes 32h..32h+31 hold elements 128h + 32s + (0..31) in bits 2s, 2s+1. */
static void enc_q2_k(const u8 *src, u64 blocks, float *out)
{
    for (; blocks; blocks--, src += 84, out += 256) {
        const u8 *q = src + 16;
        float d = load_f16(src + 80), dmin = load_f16(src + 82);
        for (int g = 0; g < 16; g++) {
            float dl = d * (float)(src[g] & 15), ml = dmin * (float)(src[g] >> 4);
            const u8 *p = q + 32 * (g >> 3) + 16 * (g & 1);
            int shift = 2 * (g >> 1 & 3);
            for (int j = 0; j < 16; j++)
                out[16 * g + j] = dl * (float)(p[j] >> shift & 3) - ml;
        }
    }
}

/* 32 bytes of third bits (bit g/2 of byte j); 64 bytes of low 2 bits as in q2_k; 12 bytes: sixteen
 * 6-bit scales; f16 d: (d * (scale - 32)) * (q - 4) */
static void enc_q3_k(const u8 *src, u64 blocks, float *out)
{
    for (; blocks; blocks--, src += 110, out += 256) {
        const u8 *hi = src, *q = src + 32, *s = src + 96;
        float d = load_f16(src + 108);
        for (int g = 0; g < 16; g++) {
            int low = g < 8 ? s[g] & 15 : s[g - 8] >> 4;
            int scale = low | (s[8 + (g & 3)] >> 2 * (g >> 2) & 3) << 4;
            float dl = d * (float)(scale - 32);
            const u8 *p = q + 32 * (g >> 3) + 16 * (g & 1), *h = hi + 16 * (g & 1);
            int shift = 2 * (g >> 1 & 3), bit = g >> 1;
            for (int j = 0; j < 16; j++)
                out[16 * g + j] = dl * (float)((p[j] >> shift & 3) + 4 * (h[j] >> bit & 1) - 4);
        }
    }
}

/* The eight 6-bit scales and minima of q4_k and q5_k in 12 bytes: the first four of each are the
 * low bits of bytes 0-3 and 4-7; the last four have their low nibbles in bytes 8-11 and their upper
 * bits on top of the first ones. */
static void six_bit_pair(const u8 s[12], int g, float *scale, float *min)
{
    bool first = g < 4;
    int k = g & 3;
    *scale = (float)(first ? s[k] & 63 : (s[8 + k] & 15) | s[k] >> 6 << 4);
    *min = (float)(first ? s[4 + k] & 63 : s[8 + k] >> 4 | s[4 + k] >> 6 << 4);
}

/* f16 d, dmin; 12 bytes of scales; 128 bytes: group g is the low (even g) or high nibbles of bytes
 * 32*(g/2)..+31: (d*scale) * q - dmin*min */
static void enc_q4_k(const u8 *src, u64 blocks, float *out)
{
    for (; blocks; blocks--, src += 144, out += 256) {
        float d = load_f16(src), dmin = load_f16(src + 2), scale, min;
        for (int g = 0; g < 8; g++) {
            six_bit_pair(src + 4, g, &scale, &min);
            float dl = d * scale, ml = dmin * min;
            const u8 *q = src + 16 + 32 * (g >> 1);
            int shift = 4 * (g & 1);
            for (int j = 0; j < 32; j++)
                out[32 * g + j] = dl * (float)(q[j] >> shift & 15) - ml;
        }
    }
}

/* As q4_k, with 32 bytes of fifth bits (bit g of byte j) before the nibbles. */
static void enc_q5_k(const u8 *src, u64 blocks, float *out)
{
    for (; blocks; blocks--, src += 176, out += 256) {
        float d = load_f16(src), dmin = load_f16(src + 2), scale, min;
        const u8 *hi = src + 16;
        for (int g = 0; g < 8; g++) {
            six_bit_pair(src + 4, g, &scale, &min);
            float dl = d * scale, ml = dmin * min;
            const u8 *q = src + 48 + 32 * (g >> 1);
            int shift = 4 * (g & 1);
            for (int j = 0; j < 32; j++)
                out[32 * g + j] = dl * (float)((q[j] >> shift & 15) | (hi[j] >> g & 1) << 4) - ml;
        }
    }
}

/* 128 bytes of low nibbles; 64 bytes of upper 2 bits; 16 s8 scales; f16 d: (d*scale) * (q - 32). In
 * each half of 128 elements, run r of 32 takes nibble r/2 of bytes 32*(r&1)..+31 and bits 2r, 2r+1
 * of the half's 32 upper bytes. */
static void enc_q6_k(const u8 *src, u64 blocks, float *out)
{
    for (; blocks; blocks--, src += 210, out += 256) {
        float d = load_f16(src + 208);
        for (int g = 0; g < 16; g++) {
            int half = g >> 3, r = g >> 1 & 3, odd = 16 * (g & 1);
            const u8 *lo = src + 64 * half + 32 * (r & 1) + odd, *hi = src + 128 + 32 * half + odd;
            float dl = d * (float)(int8_t)src[192 + g];
            int nib = 4 * (r >> 1), up = 2 * r;
            for (int j = 0; j < 16; j++)
                out[16 * g + j] = dl * (float)(((lo[j] >> nib & 15) | (hi[j] >> up & 3) << 4) - 32);
        }
    }
}

/* ---- the table ---- */

static const EncInfo infos[ENC_COUNT] = {
#define X(id, name, st, gguf, block, bytes, decoder) [id] = {name, st, gguf, block, bytes},
#include "ir/encodings.def"
#undef X
};

static Decoder *const decoders[ENC_COUNT] = {
#define X(id, name, st, gguf, block, bytes, decoder) [id] = enc_##decoder,
#include "ir/encodings.def"
#undef X
};

const EncInfo *enc_info(EncId enc)
{
    return &infos[enc];
}

EncId enc_by_name(Str name)
{
    for (int e = ENC_NONE + 1; e < ENC_COUNT; e++)
        if (str_is(name, infos[e].name)) return (EncId)e;
    return ENC_NONE;
}

EncId enc_by_safetensors(Str dtype)
{
    for (int e = ENC_NONE + 1; e < ENC_COUNT; e++)
        if (infos[e].safetensors && str_is(dtype, infos[e].safetensors)) return (EncId)e;
    return ENC_NONE;
}

EncId enc_by_gguf(u32 type)
{
    for (int e = ENC_NONE + 1; e < ENC_COUNT; e++)
        if (infos[e].gguf >= 0 && (u32)infos[e].gguf == type) return (EncId)e;
    return ENC_NONE;
}

bool enc_bytes(EncId enc, u64 elements, u64 *bytes)
{
    const EncInfo *e = &infos[enc];
    return elements % e->block == 0 && ckd_mul(bytes, elements / e->block, e->bytes);
}

void enc_decode(EncId enc, const u8 *src, u64 first, u64 count, float *out)
{
    enum { MAX_BLOCK = 256 };
    const EncInfo *e = &infos[enc];
    Decoder *decode = decoders[enc];
    u64 block = e->block, skip = first % block;
    src += first / block * e->bytes;
    while (count) {
        if (skip || count < block) { /* the first and the last block of a range may be partial */
            float tmp[MAX_BLOCK];
            u64 n = block - skip < count ? block - skip : count;
            decode(src, 1, tmp);
            memcpy(out, tmp + skip, n * sizeof *out);
            src += e->bytes, out += n, count -= n, skip = 0;
        } else {
            u64 n = count / block;
            decode(src, n, out);
            src += n * e->bytes, out += n * block, count -= n * block;
        }
    }
}
