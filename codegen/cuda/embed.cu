/* embed: rows of a packed weight matrix [c_N, c_K] as f32, times c_scale: the twin of
 * codegen/cpu/embed.c, which states the slots.
 *
 * A thread per element, blockIdx.x over columns, blockIdx.y over tokens. A row is spread over its
 * tile, so reads are a 32-byte sector for every 4 bytes (s8, u4: 4 or 8 columns); a few
 * microseconds for a token.
 */
#include "intrin.cuh"

PFQ_CONST(int32_t, c_N);
PFQ_CONST(int32_t, c_K);
PFQ_CONST(float, c_scale);

/* The row of the table that the thread's token reads. */
PFQ_DEVICE int32_t id_of(const PfqCudaArgs &a)
{
    return min(max(((const int32_t *)a.in[0])[blockIdx.y], 0), c_N - 1);
}

/* The tile that holds row id, of bytes each. */
PFQ_DEVICE const uint8_t *tile_of(const PfqCudaArgs &a, int32_t id, int64_t bytes)
{
    return (const uint8_t *)a.w + id / 16 * bytes;
}

PFQ_DEVICE void put(const PfqCudaArgs &a, int32_t k, float v)
{
    ((float *)a.out[0])[(int64_t)blockIdx.y * c_K + k] = v * c_scale;
}

PFQ_KERNEL(pfq_cu_embed_f32, 256)
{
    const int32_t id = id_of(a), k = pfq_column();
    if (k >= c_K) return;
    const float *tile = (const float *)tile_of(a, id, 64 * (int64_t)c_K);
    put(a, k, tile[16 * (int64_t)k + id % 16]);
}

PFQ_KERNEL(pfq_cu_embed_bf16, 256)
{
    const int32_t id = id_of(a), k = pfq_column();
    if (k >= c_K) return;
    const uint16_t *tile = (const uint16_t *)tile_of(a, id, 64 * (int64_t)((c_K + 1) / 2));
    put(a, k, __uint_as_float((uint32_t)tile[32 * (int64_t)(k / 2) + id % 16 * 2 + k % 2] << 16));
}

PFQ_KERNEL(pfq_cu_embed_s8, 256)
{
    const int32_t id = id_of(a), k = pfq_column();
    if (k >= c_K) return;
    const uint8_t *tile = tile_of(a, id, 128 + 64 * (int64_t)((c_K + 3) / 4));
    const int8_t q = (int8_t)tile[128 + 64 * (int64_t)(k / 4) + id % 16 * 4 + k % 4];
    put(a, k, (float)q * ((const float *)tile)[id % 16]);
}

PFQ_KERNEL(pfq_cu_embed_u4g32, 256)
{
    const int32_t id = id_of(a), k = pfq_column(), r = id % 16, i = k % 32;
    if (k >= c_K) return;
    const uint8_t *group =
        tile_of(a, id, 320 * (int64_t)((c_K + 31) / 32)) + 320 * (int64_t)(k / 32);
    const uint16_t *head = (const uint16_t *)group;
    const uint8_t b = group[64 + 64 * (i / 8) + 4 * r + i % 4];
    put(a, k, (float)(i & 4 ? b >> 4 : b & 15) * pfq_h_to_f(head[r]) + pfq_h_to_f(head[16 + r]));
}
