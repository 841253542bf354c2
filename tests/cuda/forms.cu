/* What gpu_rows.c needs of the forms that sm_90a reads: packed weights and activations of the CPU's
 * kernels as fragments and tiles, and back. Host code, made of the same headers as the kernels. */
#include "codegen/cuda/fragments.cuh"
#include "codegen/cuda/intrin.cuh"
#include "codegen/cuda/tiles.cuh"

/* The row of 16-row tiles that holds row n of the matrix, and the row of fragments. */
static int32_t tile_row(int32_t n, int32_t N, bool gated)
{
    if (!gated) return n;
    const int32_t c = n % (N / 2);
    return (c / 16 * 2 + n / (N / 2)) * 16 + c % 16;
}
static int32_t frag_row(int32_t n, int32_t N, bool gated)
{
    return gated ? pfq_glu_row(n % (N / 2), n / (N / 2)) : n;
}

static int32_t frag_rows(int32_t N, bool gated)
{
    return gated ? pfq_up(N / 2, 32) * 2 : pfq_up(N, 64);
}

extern "C" int64_t forms_weight_bytes(int32_t bits, int32_t N, int32_t K, bool gated)
{
    const int32_t rows = frag_rows(N, gated);
    return rows / 64 * pfq_panel_bytes(bits, K) + 4 * rows;
}

/* Layout s4, s8 or bf16 of [N, K] as fragments with their scales. gated: the two halves
 * interleaved. */
extern "C" void forms_weights(const uint8_t *from, int32_t bits, int32_t N, int32_t K, bool gated,
                              uint8_t *to)
{
    const int32_t step = 32 / bits, rows = frag_rows(N, gated), head = bits == 16 ? 0 : 128;
    const int64_t tile = head + (int64_t)(pfq_up(K, step) / step) * 64;
    float *scales = (float *)(to + rows / 64 * pfq_panel_bytes(bits, K));
    memset(to, 0, (size_t)forms_weight_bytes(bits, N, K, gated));
    for (int32_t n = 0; n < N; n++) {
        const int32_t source = tile_row(n, N, gated), row = frag_row(n, N, gated);
        const uint8_t *t = from + source / 16 * tile;
        memcpy(&scales[row], t + source % 16 * 4, 4); /* bf16: not read */
        for (int32_t k = 0; k < K; k++) {
            if (bits == 16) {
                bool low;
                memcpy(to + pfq_frag_at(bits, K, row, k, &low),
                       t + k / 2 * 64 + source % 16 * 4 + k % 2 * 2, 2);
                continue;
            }
            const uint8_t byte = t[128 + k / step * 64 + source % 16 * 4 + k % 4];
            bool low;
            const int64_t at = pfq_frag_at(bits, K, row, k, &low);
            if (bits == 8)
                to[at] = byte;
            else
                to[at] |= (uint8_t)((byte >> (k & 4) & 15) << (low ? 0 : 4));
        }
    }
}

extern "C" int64_t forms_tile_bytes(int32_t cap, int32_t K)
{
    return pfq_tile_bytes(cap, K);
}

/* Rows of u8 = x + 128, a multiple of 64 bytes each, as tiles of cap rows; and the other way. */
extern "C" void forms_tiles(const uint8_t *from, int32_t T, int32_t K, int32_t cap, uint8_t *to)
{
    const int64_t stride = pfq_up(K, 64);
    for (int32_t t = 0; t < T; t++)
        for (int32_t k = 0; k < pfq_up(K, 128); k++)
            to[pfq_tile_at(cap, t, k)] = k < K ? from[t * stride + k] ^ 128 : 0;
}
extern "C" void forms_halves(const float *from, int64_t n, uint16_t *to)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = (uint16_t)pfq_f_to_h(from[i]);
}
/* Rows of f32 as tiles of bf16, and the other way. */
extern "C" void forms_bf16_tiles(const float *from, int32_t T, int32_t K, int32_t cap, uint8_t *to)
{
    for (int32_t t = 0; t < T; t++)
        for (int32_t k = 0; k < pfq_up(K, 64); k++) {
            const uint16_t v = (uint16_t)pfq_two_bf16(k < K ? from[(int64_t)t * K + k] : 0.0f, 0);
            memcpy(to + pfq_tile_at(cap, t, 2 * k), &v, 2);
        }
}
extern "C" bool forms_from_bf16_tiles(const uint8_t *from, int32_t T, int32_t K, int32_t cap,
                                      float *to)
{
    bool zeros = true;
    for (int32_t t = 0; t < T; t++)
        for (int32_t k = 0; k < pfq_up(K, 64); k++) {
            uint16_t v;
            memcpy(&v, from + pfq_tile_at(cap, t, 2 * k), 2);
            if (k < K)
                to[(int64_t)t * K + k] = __uint_as_float((uint32_t)v << 16);
            else
                zeros = zeros && v == 0;
        }
    return zeros;
}

/* False if a column past K is not 0. */
extern "C" bool forms_from_tiles(const uint8_t *from, int32_t T, int32_t K, int32_t cap,
                                 uint8_t *to)
{
    const int64_t stride = pfq_up(K, 64);
    bool zeros = true;
    for (int32_t t = 0; t < T; t++)
        for (int32_t k = 0; k < pfq_up(K, 128); k++) {
            const uint8_t byte = from[pfq_tile_at(cap, t, k)];
            if (k < K)
                to[t * stride + k] = byte ^ 128;
            else
                zeros = zeros && byte == 0;
        }
    return zeros;
}
