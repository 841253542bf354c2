/* The emulation itself: a right kernel gives its result in every order of threads, and each mistake
 * ends the process. Also what codegen/cuda states twice: arguments and values of constants
 * (kernel.cuh), half floats (intrin.cuh).
 */
#include "runtime/abi.h"
#include "tests/cuda/simt.h"

#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_THREADS 256
#define COUNT(a)  (sizeof(a) / sizeof *(a))

SimtKernel right_simt, no_barrier_simt, early_exit_simt, lost_lane_simt, two_operations_simt,
    unnamed_lane_simt, behind_shared_simt, misaligned_simt, too_wide_simt, product_simt,
    no_wait_simt, no_arrival_simt, half_barrier_simt, neighbours_simt, gone_simt;
int64_t tile_at(int32_t rows, int32_t t, int32_t k);
int64_t frag_at(int32_t bits, int32_t K, int32_t n, int32_t k, bool *low);
extern const size_t kernel_cuh_layout[13];
extern const int kernel_cuh_values[17];
float half_to_float(uint16_t h);
uint16_t float_to_half(float x);

static int failures;

static void expect(bool holds, const char *what)
{
    if (holds) return;
    printf("FAIL %s\n", what);
    failures++;
}

static float in[N_THREADS], out[N_THREADS + 16];

static void launch(SimtKernel *k)
{
    const PfqCudaArgs a = {.in = {(uintptr_t)in}, .out = {(uintptr_t)out}, .T = N_THREADS / 2};
    k(&a, (const int32_t[]){2, 1, 1}, N_THREADS, 4 * N_THREADS);
}

static void test_right(void)
{
    for (int i = 0; i < N_THREADS; i++)
        in[i] = (float)i;
    for (int order = 0; order < 3; order++) {
        simt_shuffle = order > 0;
        memset(out, 0, sizeof out);
        launch(right_simt);
        for (int i = 0; i < N_THREADS; i++)
            expect(out[i] == N_THREADS * (N_THREADS - 1) / 2, "sum of a block");
    }
    simt_shuffle = false;
    launch(no_barrier_simt);
    expect(out[0] != in[N_THREADS - 1], "a thread sees what a later one has not written yet");
    expect(out[0] != out[0], "shared memory holds NaN before it is written");
}

/* The signal that ends a process which launches k; 0: none. */
static int signal_of(SimtKernel *k)
{
    fflush(stdout);
    const pid_t child = fork();
    if (!child) {
        if (!freopen("/dev/null", "w", stderr)) _exit(1);
        launch(k);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void test_mistakes(void)
{
    static const struct {
        SimtKernel *kernel;
        const char *what;
    } mistakes[] = {
        {early_exit_simt, "a thread ends while others wait at a barrier"},
        {lost_lane_simt, "a lane does not come to an operation of its warp"},
        {two_operations_simt, "lanes wait at different operations"},
        {unnamed_lane_simt, "a lane reads one that the mask does not name"},
        {behind_shared_simt, "a write behind shared memory"},
        {misaligned_simt, "a misaligned write"},
        {too_wide_simt, "more threads than the launch bounds"},
        {no_arrival_simt, "a barrier in shared memory that is not arrived at"},
        {half_barrier_simt, "a named barrier that half of its threads reach"},
    };
    for (size_t i = 0; i < COUNT(mistakes); i++)
        expect(signal_of(mistakes[i].kernel) != 0, mistakes[i].what);
    simt_cluster = 2;
    expect(signal_of(gone_simt) != 0, "a write to a block of the cluster that has ended");
    simt_cluster = 0;
}

static void test_cluster(void)
{
    static _Alignas(16) int32_t x[8 * N_THREADS], y[8 * N_THREADS];
    const PfqCudaArgs a = {.in = {(uintptr_t)x}, .out = {(uintptr_t)y}};
    for (int i = 0; i < 8 * N_THREADS; i++)
        x[i] = i * 7;
    for (int order = 0; order < 3; order++)
        for (simt_cluster = 2; simt_cluster <= 8; simt_cluster *= 2) {
            simt_shuffle = order > 0;
            memset(y, 0, sizeof y);
            neighbours_simt(&a, (const int32_t[]){8, 1, 1}, N_THREADS, 4 * N_THREADS + 8);
            expect(!memcmp(x, y, sizeof x), "blocks of a cluster write to each other");
        }
    simt_shuffle = false;
    simt_cluster = 0;
}

/* y = w x through tiles and fragments, the copy and the products of sm_90a. */
static void test_product(void)
{
    static int8_t w[64][128], x[8][128];
    static _Alignas(1024) int8_t frag[64 * 128], tile[1024];
    static int32_t y[64][8];
    bool low;
    for (int i = 0; i < 64 * 128; i++) {
        w[i / 128][i % 128] = (int8_t)(i * 37 % 251 - 125);
        frag[frag_at(8, 128, i / 128, i % 128, &low)] = w[i / 128][i % 128];
    }
    for (int i = 0; i < 1024; i++) {
        x[i / 128][i % 128] = (int8_t)(i * 91 % 255 - 127);
        tile[tile_at(8, i / 128, i % 128)] = x[i / 128][i % 128];
    }
    const PfqCudaArgs a = {.in = {(uintptr_t)frag, (uintptr_t)tile}, .out = {(uintptr_t)y}};
    for (int order = 0; order < 3; order++) {
        simt_shuffle = order > 0;
        memset(y, 0x55, sizeof y);
        product_simt(&a, (const int32_t[]){1, 1, 1}, N_THREADS, 2048);
        bool same = true;
        for (int n = 0; n < 64; n++)
            for (int t = 0; t < 8; t++) {
                int32_t sum = 0;
                for (int k = 0; k < 128; k++)
                    sum += w[n][k] * x[t][k];
                same &= y[n][t] == sum;
            }
        expect(same, "a product of a warpgroup");
    }
    const PfqCudaArgs early = {.in = {(uintptr_t)in}, .out = {(uintptr_t)out}};
    no_wait_simt(&early, (const int32_t[]){1, 1, 1}, N_THREADS, 2048);
    simt_shuffle = false;
    expect(out[0] != out[0], "a copy may land as late as its barrier allows");
}

/* Both nibbles of every byte of a panel are one weight each; a tile's bytes one column each. */
static void test_layouts(void)
{
    enum { N = 128, K = 200 };
    static uint8_t seen[2][N * 256 / 2];
    bool low, once = true;
    for (int n = 0; n < N; n++)
        for (int k = 0; k < 256; k++) {
            const int64_t at = frag_at(4, K, n, k, &low);
            once &= at >= 0 && at < N * 128 && !seen[low][at]++;
        }
    expect(once, "every weight has a nibble of its own");
    static uint8_t column[2 * 16 * 128];
    once = true;
    for (int t = 0; t < 16; t++)
        for (int k = 0; k < 256; k++)
            once &= !column[tile_at(16, t, k)]++;
    expect(once, "every activation has a byte of its own");
}

static void test_contract(void)
{
    const size_t layout[] = {sizeof(PfqCudaArgs),         sizeof(PfqRow),
                             offsetof(PfqCudaArgs, in),   offsetof(PfqCudaArgs, out),
                             offsetof(PfqCudaArgs, w),    offsetof(PfqCudaArgs, aux),
                             offsetof(PfqCudaArgs, rows), offsetof(PfqCudaArgs, slot),
                             offsetof(PfqCudaArgs, work), offsetof(PfqCudaArgs, sync),
                             offsetof(PfqCudaArgs, T),    offsetof(PfqCudaArgs, ctx),
                             offsetof(PfqRow, slot)};
    expect(!memcmp(layout, kernel_cuh_layout, sizeof layout),
           "PfqCudaArgs of kernel.cuh is that of runtime/abi.h");
    static const int values[] = {
#define FORMAT(name, value)     value,
#define EPILOGUE(name, value)   value,
#define KV(name, value)         value,
#define ACTIVATION(name, value) value,
#include "codegen/cpu/kernels.def"
    };
    expect(sizeof values == sizeof kernel_cuh_values &&
               !memcmp(values, kernel_cuh_values, sizeof values),
           "values of constants are those of codegen/cpu/kernels.def");
}

static void test_halves(void)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        const float x = half_to_float((uint16_t)h), want = _cvtsh_ss((uint16_t)h);
        expect(x == want || (x != x && want != want), "f16 to f32");
        if (x == x) expect(float_to_half(x) == h, "f16 to f32 and back");
    }
    for (uint64_t b = 1; b < 1ull << 32; b += 40503) {
        float x;
        memcpy(&x, &(uint32_t){(uint32_t)b}, 4);
        if (x == x)
            expect(float_to_half(x) == _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT), "f32 to f16");
    }
}

bool test_pack(void);

int main(void)
{
    test_right();
    test_mistakes();
    test_cluster();
    test_product();
    test_layouts();
    test_contract();
    expect(test_pack(), "sections of the image become fragments");
    test_halves();
    printf("%d failures\n", failures);
    return failures != 0;
}
