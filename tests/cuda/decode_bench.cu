/* The persistent decode step on a GPU: checks one layer at the shapes of Llama-3-8B and
 * Llama-3.2-1B against a plain computation, and the rows of a step of several against steps of
 * their own; then times whole steps of random weights, over sizes of the ring and contexts, with
 * parts of the work left out.
 *
 *   nvcc -std=c++17 -O3 -fmad=false -gencode=arch=compute_90a,code=sm_90a -I ROOT -o decode_bench
 *        tests/cuda/decode_bench.cu
 *   decode_bench [check] [time] [trace]      exit 1: check finds a difference
 */
#include <stdio.h>
#ifndef SLOTS
#define SLOTS 16 /* of the ring */
#endif
#ifndef SHAPES
#define SHAPES(f) f(Llama8b) f(Llama1b)
#endif
#define PFQ_TIMEOUT(of, wanted)                                                                    \
    (printf("block %u thread %u waits for %u: %u\n", blockIdx.x, threadIdx.x, wanted, of), __trap())
#include "codegen/cuda/kernel.cuh"
#include "tests/cuda/decode_model.cuh"

#include <algorithm>
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <vector>

static void check_call(cudaError_t e, const char *what)
{
    if (e == cudaSuccess) return;
    printf("%s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}
#define CALL(x) check_call(x, #x)

static std::size_t mem_all;
static void *mem_pool;
static void *mem_new(size_t bytes)
{
    /* One allocation, so that cases can be dropped at once. */
    const size_t n = (bytes + 1023) / 1024 * 1024;
    void *p = (char *)mem_pool + mem_all;
    mem_all += n;
    CALL(cudaMemset(p, 0, n));
    return p;
}
static void mem_put(void *to, const void *from, size_t bytes)
{
    CALL(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
}
static void mem_get(void *to, const void *from, size_t bytes)
{
    CALL(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
}
static void mem_random(void *to, size_t words, uint32_t seed);

#include "tests/cuda/decode_case.h"

__global__ void fill(uint32_t *to, size_t words, uint32_t seed)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < words;
         i += (size_t)gridDim.x * blockDim.x)
        to[i] = case_word(seed, i);
}
static void mem_random(void *to, size_t words, uint32_t seed)
{
    fill<<<1024, 256>>>((uint32_t *)to, words, seed);
    CALL(cudaGetLastError());
}

template <class S>
__global__ void __launch_bounds__(PFQ_DECODE_BLOCK, 1)
    decode_step(const __grid_constant__ PfqDecodeArgs a)
{
    pfq_decode<LlamaModel<S>>(a);
}

static int32_t sms;
static const char *only; /* names of variants contain it */

template <class S> static void prepare()
{
    CALL(cudaFuncSetAttribute((const void *)decode_step<S>,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              PfqRoom<LlamaModel<S>>::bytes));
}
template <class S> static void launch(const PfqDecodeArgs &a, int32_t blocks = sms)
{
    void *args[] = {(void *)&a};
    CALL(cudaLaunchCooperativeKernel((const void *)decode_step<S>, dim3((unsigned)blocks),
                                     dim3(PFQ_DECODE_BLOCK), args, PfqRoom<LlamaModel<S>>::bytes,
                                     0));
}

template <class Shape, int32_t slots_> struct Ring : Shape {
    static constexpr int32_t slots = slots_;
#ifdef FLIGHTS
    static constexpr int32_t flight = 0; /* at run time */
#endif
#ifdef WORDS
    static constexpr int32_t words = WORDS;
#endif
#ifdef O_PARTS
    static constexpr int32_t o_parts = O_PARTS, down_parts = DOWN_PARTS;
#endif
};
template <class Shape> struct Layer : Shape {
    static constexpr int32_t layers = 1;
    static constexpr bool keep = true;
};
static int failures;
template <class S> static void check_layer(int32_t pos)
{
    mem_all = 0;
    Case<S> c(1088, pos, sms);
    c.a.flight = 6;
    prepare<S>();
    launch<S>(c.a);
    CALL(cudaDeviceSynchronize());
    c.check();
    failures += c.failures;
}

enum { ROWS = 4 };
template <class Shape> struct Few : Ring<Shape, SLOTS> {
    static constexpr int32_t rows = ROWS, units = 16;
};
/* Many rows. */
#ifndef MANY_SLOTS
#define MANY_SLOTS  14
#define MANY_FLIGHT 4
#endif
template <class Shape, int32_t rows_ = 16> struct Many : Ring<Shape, MANY_SLOTS> {
    static constexpr int32_t rows = rows_, units = 6, o_parts = 4, down_parts = 4, head_parts = 2,
                             flight = MANY_FLIGHT, words = 3;
};
/* Rows as steps of their own, One, on so many blocks each. */
template <class S, class One, class Blocks> static void check_rows(int32_t pos, Blocks blocks)
{
    mem_all = 0;
    Case<S> c(1088, pos, sms);
    c.a.flight = 6;
    c.set_rows(true);
    prepare<S>();
    prepare<One>();
    launch<S>(c.a);
    const Floats all = c.floats(c.a.at[PFQ_AT_LOGITS], (size_t)S::rows * S::vocab);
    int bad = 0;
    for (int32_t r = 0; r < S::rows; r++) {
        launch<One>(c.alone(r), blocks(r));
        const Floats one = c.floats(c.a.at[PFQ_AT_LOGITS], S::vocab);
        bad += memcmp(&all[(size_t)r * one.n], one.at, 4 * one.n) != 0;
    }
    printf("%d rows of %d at %d and before: %d differ from steps of their own\n", S::rows,
           S::hidden, pos, bad);
    failures += bad;
}
/* Of a few, on as few blocks as cut attention in as many parts; of many by the same kernel, which
 * alone has their attention. */
template <class Shape> static void check_several(int32_t pos)
{
    check_rows<Few<Shape>, Ring<Shape, SLOTS>>(
        pos, [](int32_t) { return Shape::kv_heads * (16 / ROWS); });
    check_layer<Layer<Many<Shape>>>(pos);
    check_rows<Many<Shape>, Many<Shape>>(pos, [](int32_t r) { return sms - r; });
}

template <class S> static double bytes_of()
{
    typedef LlamaModel<S> M;
    typedef Case<S> C;
    return (double)S::layers *
               (double)(C::packed(C::QKV, S::hidden, 4) + C::packed(S::hidden, S::heads * S::D, 4) +
                        C::packed(2 * S::ffn, S::hidden, 4) + C::packed(S::hidden, S::ffn, 4)) +
           (double)C::packed(S::vocab, S::hidden, 8);
}

static void set_pos(const PfqDecodeArgs &a, int32_t pos)
{
    for (int32_t r = 0; r < a.rows; r++)
        mem_put((PfqRow *)a.at[PFQ_AT_ROWS] + r, &pos, 4);
}

/* Median and range of the time of a step, of `runs` runs of 10 launches. */
template <class S> static void time_step(const char *name, const PfqDecodeArgs &a, int32_t pos)
{
    if (only && !strstr(name, only)) return;
    cudaEvent_t b, e;
    CALL(cudaEventCreate(&b));
    CALL(cudaEventCreate(&e));
    prepare<S>();
    set_pos(a, pos);
    CALL(cudaMemset((void *)a.at[PFQ_AT_CONTROL], 0, 64));
    launch<S>(a);
    launch<S>(a);
    std::vector<float> t;
    for (int i = 0; i < 9; i++) {
        CALL(cudaEventRecord(b));
        for (int k = 0; k < 10; k++)
            launch<S>(a);
        CALL(cudaEventRecord(e));
        CALL(cudaEventSynchronize(e));
        float ms;
        CALL(cudaEventElapsedTime(&ms, b, e));
        t.push_back(ms / 10);
    }
    std::sort(t.begin(), t.end());
    int32_t token;
    mem_get(&token, (void *)a.at[PFQ_AT_TOKEN], 4);
    printf("%-34s pos %6d  %7.4f ms (%.4f .. %.4f)  %5.0f GB/s of weights  token %d\n", name, pos,
           t[4], t[0], t[8], bytes_of<S>() / t[4] * 1e-6, token);
    fflush(stdout);
}

template <class Shape> struct NoWait : Shape {
    static constexpr bool wait = false;
};
template <class Shape, int32_t what_> struct Products : Shape {
    static constexpr int32_t what = what_;
};
template <class Shape> struct Trace : Shape {
    static constexpr bool trace = true;
};

template <class Shape> static void time_all(const char *model)
{
    mem_all = 0;
    printf("%s: %.3f GB\n", model, bytes_of<Shape>() * 1e-9);
    Case<Shape> c(16384, 1024, sms);
    const int32_t ctx = 1024;
    for (int32_t flight : {4, 6, 8, 20})
        if (Ring<Shape, SLOTS>::flight == 0) {
            c.a.flight = flight;
            char name[32];
            snprintf(name, sizeof name, "step, %d on their way", flight);
            time_step<Ring<Shape, SLOTS>>(name, c.a, ctx);
        }
    c.a.flight = getenv("FLIGHT") ? atoi(getenv("FLIGHT")) : 6;
    time_step<Ring<Shape, SLOTS>>("step", c.a, ctx);
    time_step<Ring<Shape, SLOTS>>("step", c.a, 1);
    time_step<Ring<Shape, SLOTS>>("step", c.a, 4096);
    time_step<Ring<Shape, SLOTS>>("step", c.a, 16000);
#ifdef PARTS
    time_step<NoWait<Ring<Shape, SLOTS>>>("nobody waits", c.a, ctx);
    time_step<Products<Ring<Shape, SLOTS>, 1>>("products alone", c.a, ctx);
    time_step<Products<Ring<Shape, SLOTS>, 2>>("products and meetings", c.a, ctx);
#endif
    mem_all = 0;
    Case<Few<Shape>> few(2048, ctx, sms);
    few.a.flight = c.a.flight;
    time_step<Few<Shape>>("step of 4 rows", few.a, ctx);
    mem_all = 0;
    Case<Many<Shape>> many(2048, ctx, sms);
    for (int32_t rows : {16, 12, 8, 5}) {
        char name[32];
        many.a.rows = rows;
        snprintf(name, sizeof name, "step of many, %d rows", rows);
        time_step<Many<Shape>>(name, many.a, ctx);
    }
}

/* Mean and worst times of the segments of a layer, over blocks and layers in the middle. */
template <class Shape> static void trace(const char *model, int32_t rows)
{
    typedef Trace<Shape> S;
    /* Between two marks of PfqWorker; words are handed over without an arrival. */
    static const char *const names[] = {
        "qkv: await", "norm",     "products", "send",  "-",          "attend: await",
        "attend",     "combine",  "products", "send",  "arrive",     "gate/up: await",
        "norm",       "products", "send",     "-",     "glu: await", "glu",
        "mix",        "products", "send",     "arrive"};
    enum { EACH = sizeof names / sizeof *names };
    mem_all = 0;
    Case<S> c(2048, 1024, sms);
    c.a.flight = getenv("FLIGHT") ? atoi(getenv("FLIGHT")) : 6;
    c.a.rows = rows;
    prepare<S>();
    for (int i = 0; i < 3; i++)
        launch<S>(c.a);
    std::vector<int64_t> t((size_t)sms * PFQ_MARKS);
    mem_get(t.data(), (void *)c.a.at[PFQ_AT_TRACE], 8 * t.size());
    int clock = 0;
    CALL(cudaDeviceGetAttribute(&clock, cudaDevAttrClockRate, 0));
    const double us = 1e3 / clock;
    printf("%s, %d rows, segments of a layer, us (at %d MHz): mean, least, most of blocks\n", model,
           rows, clock / 1000);
    double all = 0;
    for (int i = 0; i < EACH; i++) {
        double sum = 0, least = 1e30, most = 0;
        for (int b = 0; b < sms; b++) {
            double s = 0;
            for (int l = 4; l < S::layers - 2; l++) {
                const int64_t *p = &t[(size_t)b * PFQ_MARKS + (size_t)(l * EACH + i)];
                s += (double)(p[0] - p[-1]) * us;
            }
            s /= S::layers - 6;
            sum += s / sms, least = std::min(least, s), most = std::max(most, s);
        }
        all += sum;
        printf("  %-16s %7.3f %7.3f %7.3f\n", names[i], sum, least, most);
    }
    printf("  %-16s %7.3f\n", "layer", all);
}

static bool wants(int argc, char **argv, const char *what)
{
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], what)) return true;
    return argc == 1;
}

int main(int argc, char **argv)
{
    cudaDeviceProp p;
    CALL(cudaGetDeviceProperties(&p, 0));
    sms = p.multiProcessorCount;
    only = getenv("ONLY");
    printf("%s, %d multiprocessors\n", p.name, sms);
    CALL(cudaMalloc(&mem_pool, (size_t)7 << 30));
#define CHECK(shape)                                                                               \
    check_layer<Layer<Ring<shape, SLOTS>>>(0), check_layer<Layer<Ring<shape, SLOTS>>>(1023),       \
        check_several<shape>(1023);
#define TIME(shape) time_all<shape>(#shape);
#define TRACE(shape)                                                                               \
    trace<Ring<shape, SLOTS>>(#shape, 1), trace<Many<shape>>(#shape, 8),                           \
        trace<Many<shape>>(#shape, 16);
    if (wants(argc, argv, "check")) {
        SHAPES(CHECK)
    }
    if (wants(argc, argv, "time")) {
        SHAPES(TIME)
    }
    if (wants(argc, argv, "trace")) {
        SHAPES(TRACE)
    }
    return failures != 0;
}
