/* embed: rows of a packed weight matrix [c_N, c_K] as f32, so that a tied head and the embedding
 * share bytes.
 *
 *   in[0]   token ids [T] i32; an id outside 0 .. c_N-1 reads as the nearest valid one
 *   w       packed tiles: f32 (embed.f32), bf16 (embed.bf16), s8 (embed.s8) or u4g32 (embed.u4g32)
 *   out[0]  [T, c_K] f32, times c_scale (1 unless the model scales its embedding)
 *
 * Tokens are divided over threads. A row is spread over its tile: c_K / 4 cache lines for s8, a few
 * microseconds per token from memory.
 */
#include "kernel.h"

PFQ_CONST(int32_t, c_N);
PFQ_CONST(int32_t, c_K);
PFQ_CONST(float, c_scale);

PFQ_INLINE void row_f32(const char *w, int32_t id, float *y)
{
    const float *p = (const float *)w + (int64_t)(id / 16) * c_K * 16 + id % 16;
    for (int32_t k = 0; k < c_K; k++)
        y[k] = p[16 * (int64_t)k] * c_scale;
}

PFQ_INLINE void row_bf16(const char *w, int32_t id, float *y)
{
    const int32_t pairs = (c_K + 1) / 2;
    const char *p = w + (id / 16) * 64 * (int64_t)pairs + id % 16 * 4;
    for (int32_t k = 0; k < c_K; k++) {
        const uint32_t two = *(const uint32_t *)(p + 64 * (int64_t)(k / 2)),
                       bits = k % 2 ? two & 0xffff0000u : two << 16;
        float v;
        __builtin_memcpy(&v, &bits, 4);
        y[k] = v * c_scale;
    }
}

PFQ_INLINE void row_s8(const char *w, int32_t id, float *y)
{
    const char *tile = w + (id / 16) * (128 + 16 * (int64_t)pfq_up(c_K, 4));
    const F scale = f_set(((const float *)tile)[id % 16] * c_scale);
    const char *p = tile + 128 + id % 16 * 4;
    const int32_t quads = (c_K + 3) / 4;
    for (int32_t q = 0; q < quads; q += 4) {
        typedef int32_t I4 __attribute__((vector_size(16)));
        I4 b = {0};
        for (int32_t j = 0; j < pfq_min(4, quads - q); j++)
            b[j] = *(const I32U *)(p + 64 * (int64_t)(q + j));
        f_store_n(y + 4 * q, __builtin_convertvector((B16)b, F) * scale, c_K - 4 * q);
    }
}

PFQ_INLINE void row_u4g32(const char *w, int32_t id, float *y)
{
    const int32_t r = id % 16;
    const char *p = w + (id / 16) * (int64_t)((c_K + 31) / 32) * 320;
    for (int32_t k = 0; k < c_K; k += 32, p += 320) {
        float scale = h_to_f(((const uint16_t *)p)[r]),
              offset = h_to_f(((const uint16_t *)p)[16 + r]);
        for (int32_t i = 0; i < pfq_min(32, c_K - k); i++) {
            uint8_t b = (uint8_t)p[64 + 64 * (i / 8) + 4 * r + i % 4];
            y[k + i] = ((float)(i & 4 ? b >> 4 : b & 15) * scale + offset) * c_scale;
        }
    }
}

PFQ_INLINE void embed(const PfqArgs *a, int tid, int nt, void row(const char *, int32_t, float *))
{
    int64_t b, e;
    pfq_split(a->T, tid, nt, &b, &e);
    for (int64_t t = b; t < e; t++) {
        int32_t id = pfq_min(pfq_max(((const int32_t *)a->in[0])[t], 0), c_N - 1);
        row(a->w, id, (float *)a->out[0] + t * c_K);
    }
}

void pfq_embed_f32(const PfqArgs *a, int tid, int nt)
{
    embed(a, tid, nt, row_f32);
}
void pfq_embed_bf16(const PfqArgs *a, int tid, int nt)
{
    embed(a, tid, nt, row_bf16);
}
void pfq_embed_s8(const PfqArgs *a, int tid, int nt)
{
    embed(a, tid, nt, row_s8);
}
void pfq_embed_u4g32(const PfqArgs *a, int tid, int nt)
{
    embed(a, tid, nt, row_u4g32);
}
