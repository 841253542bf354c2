/* pack.cu under emulated threads: sections in tiles of 16 rows, written here from their definition
 * (ARCHITECTURE.md, "Packed weights"), come out as fragments; test_simt.c calls it. */
#include "runtime/abi.h"
#include "tests/cuda/simt.h"

#include <stdlib.h>

SimtKernel pfq_cu_pack_simt;
int64_t frag_at(int32_t bits, int32_t K, int32_t n, int32_t k, bool *low);

enum { S4 = 1, GATED = 2, BF16 = 8 }; /* flags of pack.cu */

static int32_t value(int32_t n, int32_t k, int32_t bits)
{
    const uint32_t h = ((uint32_t)n * 2654435761u ^ (uint32_t)k * 40503u) * 2246822519u;
    return bits == 4 ? (int32_t)(h >> 28) - 8 : (int32_t)(h >> 24) % 255 - 127;
}

static float scale(int32_t n)
{
    return 0.25f + (float)n;
}

static int32_t up(int32_t n, int32_t to)
{
    return (n + to - 1) / to * to;
}

/* Row of the weight [gate; up] as runs of `run` rows of each. */
static int32_t interleaved(int32_t row, int32_t half, int32_t run)
{
    const int32_t c = row % half;
    return c / run * 2 * run + row / half * run + c % run;
}

static int32_t bits_of(int32_t flags)
{
    return flags & BF16 ? 16 : flags & S4 ? 4 : 8;
}

static void make_section(uint8_t *out, int32_t N, int32_t K, int32_t flags)
{
    const int32_t bits = bits_of(flags), step = 32 / bits, head = bits == 16 ? 0 : 128;
    const int64_t tile = head + (int64_t)(up(K, step) / step) * 64;
    for (int32_t row = 0; row < N; row++) {
        const int32_t n = flags & GATED ? interleaved(row, N / 2, 16) : row;
        uint8_t *t = out + n / 16 * tile;
        const float s = scale(row);
        if (head) memcpy(t + n % 16 * 4, &s, 4);
        for (int32_t k = 0; k < K; k++) {
            if (bits == 16) {
                const uint16_t v = (uint16_t)value(row, k, bits);
                memcpy(t + k / 2 * 64 + n % 16 * 4 + k % 2 * 2, &v, 2);
                continue;
            }
            uint8_t *at = t + 128 + k / step * 64 + n % 16 * 4 + k % 4;
            const int32_t v = value(row, k, bits);
            *at = (uint8_t)(bits == 8 ? v : *at | (v & 15) << (k & 4));
        }
    }
}

static bool test_one(int32_t N, int32_t K, int32_t flags)
{
    const int32_t bits = bits_of(flags), half = flags & GATED ? N / 2 : N;
    const int32_t rows = flags & GATED ? up(half, 32) * 2 : up(N, 64);
    const int64_t bytes = (int64_t)rows * up(K, bits == 16 ? 64 : 128) * bits / 8,
                  all = bytes + (bits == 16 ? 0 : 4 * rows);
    uint8_t *section = calloc((size_t)up(N, 32) + 32, 2 * (size_t)K + 256),
            *out = malloc((size_t)all), *want = calloc((size_t)all, 1);
    make_section(section, N, K, flags);
    for (int32_t row = 0; row < N; row++) {
        const int32_t n = flags & GATED ? interleaved(row, half, 32) : row;
        const float s = scale(row);
        if (bits < 16) memcpy(want + bytes + 4 * n, &s, 4);
        for (int32_t k = 0; k < K; k++) {
            bool low;
            uint8_t *at = want + frag_at(bits, K, n, k, &low);
            const int32_t v = value(row, k, bits);
            if (bits == 16) {
                const uint16_t both = (uint16_t)v;
                memcpy(at, &both, 2);
                continue;
            }
            *at = (uint8_t)(bits == 8 ? v : *at | (v & 15) << (low ? 0 : 4));
        }
    }
    const PfqCudaArgs a = {.in = {(uintptr_t)section},
                           .out = {(uintptr_t)out},
                           .aux = {(uint64_t)N, (uint64_t)K, (uint64_t)flags}};
    memset(out, 0xff, (size_t)all);
    pfq_cu_pack_simt(&a, (const int32_t[]){7, 1, 1}, 256, 0);
    const bool ok = !memcmp(out, want, (size_t)all);
    free(section);
    free(out);
    free(want);
    return ok;
}

bool test_pack(void)
{
    static const int32_t shapes[][2] = {{64, 128}, {16, 64}, {130, 192}, {96, 576}, {34, 40}};
    bool ok = true;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int32_t flags = 0; flags <= (BF16 | GATED); flags++)
            if (flags < 4 || flags == BF16 || flags == (BF16 | GATED))
                ok = test_one(shapes[i][0], shapes[i][1], flags) && ok;
    return ok;
}
