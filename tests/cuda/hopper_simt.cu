/* Products of a warpgroup (codegen/cuda/hopper.cuh) for emulated threads: each computes its part of
 * the accumulator when it waits, reading the operands as they are then.
 */
#include "codegen/cuda/hopper.cuh"
#include "codegen/cuda/intrin.cuh"

SimtProducts simt_products[8 * 1024];

/* Column n, k to k + 3 of the K-major operand that desc describes: the swizzle is a function of the
 * address. */
static const int8_t *operand(uint64_t desc, int32_t n, int32_t k)
{
    const uint32_t start = (uint32_t)(desc & 0x3fff) << 4, eight = (uint32_t)(desc >> 32 & 0x3fff)
                                                                   << 4;
    const uint32_t at = start + (uint32_t)(n / 8) * eight + (uint32_t)(n % 8 * 128 + k);
    return (const int8_t *)simt_pointer(at ^ (at >> 3 & 0x70), 4);
}

static float of_16_bits(const SimtProduct &p, uint16_t x)
{
    return p.type == SimtProduct::BF16 ? __uint_as_float((uint32_t)x << 16) : pfq_h_to_f(x);
}

/* Column n, k of an operand of 16 bits, K-major or with 64 columns a row. */
static float element(const SimtProduct &p, int32_t n, int32_t k)
{
    if (p.type != SimtProduct::ACROSS)
        return of_16_bits(p, ((const uint16_t *)operand(p.desc, n, k / 2 * 4))[k % 2]);
    const uint32_t start = (uint32_t)(p.desc & 0x3fff) << 4,
                   next = (uint32_t)(p.desc >> 16 & 0x3fff) << 4,
                   eight = (uint32_t)(p.desc >> 32 & 0x3fff) << 4;
    const uint32_t at = start + (uint32_t)(n / 64) * next + (uint32_t)(k / 8) * eight +
                        (uint32_t)(k % 8 * 128 + n % 64 * 2);
    return pfq_h_to_f(*(const uint16_t *)simt_pointer(at ^ (at >> 3 & 0x70), 2));
}

/* Of 16 bits: the thread's two rows of 16 k. */
static void floats(const SimtProduct &p, const uint16_t *upper, const uint16_t *lower)
{
    for (int32_t n = 0; n < p.n / 4; n++) {
        const int32_t column = n / 2 * 8 + (int32_t)(threadIdx.x & 3) * 2 + n % 2;
        float sum[2] = {0, 0};
        for (int32_t k = 0; k < 16; k++) {
            const float b = element(p, column, k);
            sum[0] += of_16_bits(p, upper[k]) * b;
            sum[1] += of_16_bits(p, lower[k]) * b;
        }
        for (int32_t h = 0; h < 2; h++) {
            float *d = (float *)p.d + n / 2 * 4 + 2 * h + n % 2;
            *d = (p.add ? *d : 0) + sum[h];
        }
    }
}

void simt_product(const SimtProduct &p)
{
    const uint32_t lane = threadIdx.x & 31;
    alignas(4) int8_t row[2][32]; /* the thread's two rows */
    if (p.desc >> 62 != 1) __builtin_trap();
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t j = 0; j < 4; j++) {
            const uint32_t v = __shfl_sync(~0u, p.a[j], (int)((lane & ~3u) + i));
            memcpy(row[j & 1] + 16 * (j >> 1) + 4 * i, &v, 4);
        }
    if (p.type != SimtProduct::S8) {
        floats(p, (const uint16_t *)row[0], (const uint16_t *)row[1]);
        return;
    }
    for (int32_t n = 0; n < p.n / 4; n++) {
        const int32_t column = n / 2 * 8 + (int32_t)(lane & 3) * 2 + n % 2;
        int32_t sum[2] = {0, 0};
        for (int32_t k = 0; k < 32; k += 4) {
            const int8_t *b = operand(p.desc, column, k);
            for (int32_t i = 0; i < 4; i++)
                sum[0] += row[0][k + i] * b[i], sum[1] += row[1][k + i] * b[i];
        }
        for (int32_t h = 0; h < 2; h++) {
            int32_t *d = (int32_t *)p.d + n / 2 * 4 + 2 * h + n % 2;
            *d = (p.add ? *d : 0) + sum[h];
        }
    }
}

void simt_products_wait(int32_t keep)
{
    SimtProducts &q = simt_products[simt_thread()];
    const int32_t waited = q.groups - keep;
    if (q.groups > 16 || q.n > 16) __builtin_trap(); /* reset below */
    const int32_t end = waited > 0 ? q.group_end[waited - 1] : 0;
    for (int32_t i = 0; i < end; i++)
        simt_product(q.at[i]);
    for (int32_t i = end; i < q.n; i++)
        q.at[i - end] = q.at[i];
    q.n -= end;
    for (int32_t i = max(waited, 0); i < q.groups; i++)
        q.group_end[i - max(waited, 0)] = q.group_end[i] - end;
    q.groups -= max(waited, 0);
}
