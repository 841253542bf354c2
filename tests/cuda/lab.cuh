/* What the programs that check and time fast kernels share (lab_*.cu): one source runs on a GPU
 * (nvcc) and, slowly and without times, on emulated threads (clang with simt.h). The template under
 * test is included with its constants as macros (-Dc_K=4096) on the GPU, as variables that the
 * command line sets (c_K=4096) in the emulation.
 *
 *   lab_numbers(argc, argv)     NAME=VALUE arguments; lab_arg(name, otherwise)
 *   Buffer                      the same bytes here (at) and on the device (dev); up() and down()
 *   lab_launch, lab_time        one launch; microseconds of a launch, of a recorded graph of many
 */
#ifndef PFQC_TESTS_CUDA_LAB_CUH
#define PFQC_TESTS_CUDA_LAB_CUH

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#ifndef PFQ_SIMT
#include <cuda_runtime.h>
#define LAB(call)                                                                                  \
    do {                                                                                           \
        const cudaError_t lab_error = (call);                                                      \
        if (lab_error != cudaSuccess) {                                                            \
            printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(lab_error));   \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)
#endif

static int lab_argc;
static char **lab_argv;

static double lab_arg(const char *name, double otherwise)
{
    const size_t n = strlen(name);
    for (int i = 1; i < lab_argc; i++)
        if (!strncmp(lab_argv[i], name, n) && lab_argv[i][n] == '=')
            return atof(lab_argv[i] + n + 1);
    return otherwise;
}

static uint64_t lab_seed = 88172645463325252ull;
static uint32_t lab_random()
{
    lab_seed ^= lab_seed << 13;
    lab_seed ^= lab_seed >> 7;
    lab_seed ^= lab_seed << 17;
    return (uint32_t)(lab_seed >> 32);
}
/* In [-1, 1). */
static float lab_uniform()
{
    return (float)(int32_t)lab_random() * 0x1p-31f;
}

[[maybe_unused]] static float half_of(uint16_t h)
{
    const int e = h >> 10 & 31, m = h & 1023;
    const double x = e ? ldexp(1 + m / 1024.0, e - 15) : ldexp(m, -24);
    return (float)(h & 0x8000 ? -x : x);
}
/* What is below a normal half's size becomes 0. */
[[maybe_unused]] static uint16_t to_half(float x)
{
    uint32_t b;
    memcpy(&b, &x, 4);
    const uint32_t a = b & 0x7fffffff;
    if (a < 0x38800000) return 0;
    return (uint16_t)((b >> 16 & 0x8000) | (a - 0x38000000 + 0xfff + (a >> 13 & 1)) >> 13);
}

struct Buffer {
    std::vector<uint8_t> host;
    uint64_t dev = 0;
    explicit Buffer(size_t bytes) : host(bytes + 1024)
    {
#ifdef PFQ_SIMT
        dev = ((uint64_t)host.data() + 1023) / 1024 * 1024;
#else
        void *p;
        LAB(cudaMalloc(&p, bytes + 1024));
        dev = (uint64_t)p;
#endif
    }
    Buffer(const Buffer &) = delete;
    uint8_t *at()
    {
#ifdef PFQ_SIMT
        return (uint8_t *)dev;
#else
        return host.data();
#endif
    }
    template <typename T> T *as() { return (T *)at(); }
    void up()
    {
#ifndef PFQ_SIMT
        LAB(cudaMemcpy((void *)dev, host.data(), host.size(), cudaMemcpyHostToDevice));
#endif
    }
    void down()
    {
#ifndef PFQ_SIMT
        LAB(cudaMemcpy(host.data(), (void *)dev, host.size(), cudaMemcpyDeviceToHost));
#endif
    }
    void fill(int byte)
    {
        memset(at(), byte, host.size() - 1024);
        up();
    }
};

#ifdef PFQ_SIMT
#define LAB_PASTE(kernel) kernel##_simt
#define lab_launch(kernel, gx, gy, block, shared, args)                                            \
    do {                                                                                           \
        const int32_t lab_grid[3] = {(int32_t)(gx), (int32_t)(gy), 1};                             \
        LAB_PASTE(kernel)(&(args), lab_grid, block, (int32_t)(shared));                            \
    } while (0)
#define lab_enqueue lab_launch
static double lab_time(int, const std::function<void(int)> &)
{
    return 0;
}
#define lab_prepare(kernel, shared)
[[maybe_unused]] static int lab_sms()
{
    return 5;
}
#else
#define lab_prepare(kernel, shared)                                                                \
    LAB(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(shared)))
static cudaStream_t lab_stream;
#define lab_enqueue(kernel, gx, gy, block, shared, args)                                           \
    kernel<<<dim3((unsigned)(gx), (unsigned)(gy)), block, shared, lab_stream>>>(args)
#define lab_launch(kernel, gx, gy, block, shared, args)                                            \
    do {                                                                                           \
        lab_enqueue(kernel, gx, gy, block, shared, args);                                          \
        LAB(cudaGetLastError());                                                                   \
        LAB(cudaDeviceSynchronize());                                                              \
    } while (0)

/* Microseconds of one of n launches, enqueued by f(0 .. n - 1): the median of 7 replays of a graph.
 */
static double lab_time(int n, const std::function<void(int)> &f)
{
    cudaStream_t capture;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t begin, end;
    LAB(cudaStreamCreate(&capture));
    LAB(cudaEventCreate(&begin));
    LAB(cudaEventCreate(&end));
    lab_stream = capture;
    LAB(cudaStreamBeginCapture(capture, cudaStreamCaptureModeGlobal));
    for (int i = 0; i < n; i++)
        f(i);
    LAB(cudaStreamEndCapture(capture, &graph));
    LAB(cudaGraphInstantiate(&exec, graph, 0));
    std::vector<float> us;
    for (int r = 0; r < 8; r++) {
        float ms;
        LAB(cudaEventRecord(begin, capture));
        LAB(cudaGraphLaunch(exec, capture));
        LAB(cudaEventRecord(end, capture));
        LAB(cudaEventSynchronize(end));
        LAB(cudaEventElapsedTime(&ms, begin, end));
        if (r) us.push_back(ms * 1000 / (float)n);
    }
    for (size_t i = 1; i < us.size(); i++)
        for (size_t j = i; j > 0 && us[j] < us[j - 1]; j--)
            std::swap(us[j], us[j - 1]);
    lab_stream = 0;
    return us[us.size() / 2];
}
[[maybe_unused]] static int lab_sms()
{
    int n;
    LAB(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, 0));
    return n;
}
#endif

#endif
