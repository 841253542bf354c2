/* Times the kernels as a model runs them: 30 layers of SmolLM2-135M's shapes, specialised, on n threads with a barrier
 * after each step, beside a plain read of the same weights in the same minutes.
 *
 *   bench_kernels SOURCE_DIR[,SOURCE_DIR...] VARIANT RECIPE T [threads=2] [pos=0] [rounds=9] [huge=1]
 *
 * Several source trees are timed in turn on the same memory, to compare a change with what was before it.
 * RECIPE is w4a16, w8a8, w4a4 (static) or float; T = 1 is decode, more is prompt processing (logits of the last row
 * only). huge = 1 puts the weights in transparent huge pages, 0 in 4 KiB pages as a mapped file has them. Compiles the
 * templates with clang-19 into a temporary folder. Prints milliseconds per kind of step (thread 0, with the wait at its
 * barrier), medians (and the best) of the rounds, beside what the machine does in the same rounds: a plain read of the
 * weights, and (T > 1) int8 multiply-adds in registers (int8_peak.c; 1 multiply-add = 2 OP).
 */
#include "tests/kernels/kernel_test.h"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { HIDDEN = 576, FFN = 1536, VOCAB = 49152, LAYERS = 30, HEADS = 9, KV = 3, D = 64, QKV = (HEADS + 2 * KV) * D };
enum { MAX_SOURCES = 8, CTX = 4096, MAX_T = 2048, MAX_THREADS = 16 };

enum { NORM, QKV_LINEAR, ATTEND, QUANT_O, O_LINEAR, NORM_2, GLU_LINEAR, QUANT_D, DOWN_LINEAR, HEAD_NORM, HEAD, KINDS };
static const char *const kind_name[KINDS] = {"norm", "qkv", "attend", "quant o", "o", "norm 2", "gate up", "quant down",
                                             "down", "head norm", "head"};

typedef struct Recipe {
    const char *name, *linear, *head;
    int layout, fmt, head_layout, head_fmt;
    bool is_static;
} Recipe;

static const Recipe recipes[] = {
    {"w4a16", "linear.u4g32", "linear.s8", KT_U4G32, 3, KT_S8, 2, false},
    {"w8a8", "linear.s8", "linear.s8", KT_S8, 1, KT_S8, 1, false},
    {"w4a4", "linear.s4", "linear.s8", KT_S4, 1, KT_S8, 2, true},
    {"float", "linear.f32", "linear.f32", KT_F32, 0, KT_F32, 0, false},
    {"bf16", "linear.bf16", "linear.bf16", KT_BF16, 0, KT_BF16, 0, false},
};

typedef struct Kernel {
    PfqKernel *run;
    size_t weight_bytes;
    int layout, N, K;
    size_t at; /* of its weights in a layer */
} Kernel;

static Kernel trees[MAX_SOURCES][KINDS], *kernels;
static char *weights;
static size_t layer_bytes, total_bytes;
static int T, pos;
static char *activations[12], *cache[2], *private_mem[MAX_THREADS];
static double spent[KINDS];

static int threads = 2;

static double now(void) /* one thread is timed in CPU time, which other programs disturb less */
{
    struct timespec t;
    clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- specialisation ---- */

static const char *source, *variant;
static char folder[] = "/tmp/pfq-bench-XXXXXX";

static Kernel specialise(const char *name, int id, const KtConst *c, size_t n)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%td-%d.c", folder, (kernels - trees[0]) / KINDS, id);
    return (Kernel){.run = kt_specialise(source, variant, path, name, c, n)};
}

static size_t weight_bytes(int layout, int N, int K)
{
    size_t k = (size_t)K;
    return (size_t)(N + 15) / 16 * (layout == KT_F32   ? 64 * k
                                     : layout == KT_S8 ? 128 + 16 * k
                                     : layout == KT_S4 ? 128 + 8 * k
                                                       : (k + 31) / 32 * 320);
}

static void make_kernels(const Recipe *r)
{
#define C(...) (const KtConst[]){__VA_ARGS__}, sizeof((KtConst[]){__VA_ARGS__}) / sizeof(KtConst)
    const double fmt = r->fmt, head_fmt = r->head_fmt, fixed = r->is_static, eps = 1e-5, scale = 0.125;
    kernels[NORM] = specialise("norm", NORM, C({"K", HIDDEN}, {"fmt", fmt}, {"gain", 0}, {"eps", eps}));
    kernels[NORM_2] = kernels[NORM];
    kernels[HEAD_NORM] = specialise("norm", HEAD_NORM, C({"K", HIDDEN}, {"fmt", head_fmt}, {"eps", eps}, {"gain", 0}));
    kernels[QKV_LINEAR] = specialise(r->linear, QKV_LINEAR,
                                     C({"N", QKV}, {"K", HIDDEN}, {"fmt", fmt}, {"epi", 3}, {"heads", HEADS},
                                       {"kv_heads", KV}, {"head_dim", D}, {"rot", D}, {"kv", 1},
                                       {"static", fixed}));
    kernels[ATTEND] = specialise("attend", ATTEND, C({"heads", HEADS}, {"kv_heads", KV}, {"head_dim", D},
                                                     {"kv", 1}, {"scale", scale}));
    kernels[O_LINEAR] = specialise(r->linear, O_LINEAR, C({"N", HIDDEN}, {"K", HIDDEN}, {"fmt", fmt}, {"epi", 1},
                                                       {"static", fixed}));
    kernels[GLU_LINEAR] = specialise(r->linear, GLU_LINEAR, C({"N", 2 * FFN}, {"K", HIDDEN}, {"fmt", fmt}, {"epi", 2},
                                                       {"static", fixed}));
    kernels[DOWN_LINEAR] = specialise(r->linear, DOWN_LINEAR, C({"N", HIDDEN}, {"K", FFN}, {"fmt", fmt}, {"epi", 1},
                                                       {"static", fixed}));
    kernels[HEAD] = specialise(r->head, HEAD, C({"N", VOCAB}, {"K", HIDDEN}, {"fmt", head_fmt}));
    if (r->fmt) {
        kernels[QUANT_O] = specialise("quant", QUANT_O, C({"K", HIDDEN}, {"fmt", fmt}));
        kernels[QUANT_D] = specialise("quant", QUANT_D, C({"K", FFN}, {"fmt", fmt}));
    }
    static const int shapes[][3] = {{QKV_LINEAR, QKV, HIDDEN}, {O_LINEAR, HIDDEN, HIDDEN}, {GLU_LINEAR, 2 * FFN, HIDDEN},
                                    {DOWN_LINEAR, HIDDEN, FFN}, {HEAD, VOCAB, HIDDEN}};
    for (int i = 0; i < 5; i++) {
        Kernel *k = &kernels[shapes[i][0]];
        k->layout = shapes[i][0] == HEAD ? r->head_layout : r->layout;
        k->N = shapes[i][1], k->K = shapes[i][2];
        k->weight_bytes = weight_bytes(k->layout, k->N, k->K);
        if (i == 0)
            layer_bytes = 0;
        if (shapes[i][0] != HEAD) {
            k->at = layer_bytes;
            layer_bytes += k->weight_bytes;
        }
    }
    total_bytes = LAYERS * layer_bytes + kernels[HEAD].weight_bytes;
}

static void *big(size_t bytes, bool huge)
{
    size_t align = (size_t)2 << 20;
    char *p = mmap(NULL, bytes + align, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        exit(1);
    p += align - (uintptr_t)p % align;
    madvise(p, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    memset(p, 0, bytes);
    return p;
}

static void make_weights(bool huge)
{
    weights = big(total_bytes + 8192, huge);
    static const int kinds[] = {QKV_LINEAR, O_LINEAR, GLU_LINEAR, DOWN_LINEAR};
    for (int i = 0; i < 4; i++) {
        const Kernel *k = &kernels[kinds[i]];
        KtWeight w = kt_weight(k->layout, k->N, k->K, 1);
        for (size_t l = 0; l < LAYERS; l++)
            memcpy(weights + l * layer_bytes + k->at, w.packed, k->weight_bytes);
        kt_free_all();
    }
    KtWeight w = kt_weight(kernels[HEAD].layout, VOCAB, HIDDEN, 1);
    memcpy(weights + LAYERS * layer_bytes, w.packed, kernels[HEAD].weight_bytes);
    kt_free_all();
}

/* ---- one pass ---- */

static atomic_int arrived, phase;

static void barrier(void)
{
    if (threads == 1)
        return;
    int p = atomic_load_explicit(&phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&arrived, 1, memory_order_acq_rel) == threads - 1) {
        atomic_store_explicit(&arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&phase, p + 1, memory_order_release);
    } else {
        for (int spins = 0; atomic_load_explicit(&phase, memory_order_acquire) == p; spins++)
            if (spins < 20000)
                _mm_pause();
            else
                sched_yield();
    }
}

/* A step that every thread does for itself when T = 1 (private outputs, no barrier). */
static void small(int kind, const PfqArgs *a, int tid)
{
    if (T == 1) {
        kernels[kind].run(a, 0, 1);
        return;
    }
    kernels[kind].run(a, tid, threads);
    barrier();
}

static void pass(int tid)
{
    char *priv = private_mem[tid];
    PfqArgs base = {.T = T, .pos = pos, .ctx = CTX, .scratch = priv};
    char *ints = T == 1 ? priv + (1 << 20) : activations[4], *scales = T == 1 ? ints + 65536 : activations[5];
    void *x = activations[0], *q = activations[1], *o = activations[2], *h = activations[3];
    const bool quantised = kernels[QUANT_O].run != NULL;
    double before = now();
#define TICK(kind)                           \
    do {                                     \
        double t = now();                    \
        if (tid == 0)                        \
            spent[kind] += t - before;       \
        before = t;                          \
    } while (0)
    for (size_t l = 0; l < LAYERS; l++) {
        char *w = weights + l * layer_bytes;
        size_t kv = l * KV * CTX * D * 2;
        PfqArgs a = base;
        a.in[0] = x, a.out[0] = ints, a.out[1] = scales;
        small(NORM, &a, tid);
        TICK(NORM);
        a = base;
        a.in[0] = ints, a.in[1] = scales, a.w = w + kernels[QKV_LINEAR].at, a.aux[1] = activations[6];
        a.out[0] = q, a.out[1] = cache[0] + kv, a.out[2] = cache[1] + kv;
        kernels[QKV_LINEAR].run(&a, tid, threads);
        barrier();
        TICK(QKV_LINEAR);
        a = base;
        a.in[0] = q, a.in[1] = cache[0] + kv, a.in[2] = cache[1] + kv, a.out[0] = o;
        kernels[ATTEND].run(&a, tid, threads);
        barrier();
        TICK(ATTEND);
        a = base;
        a.in[0] = o, a.out[0] = ints, a.out[1] = scales;
        if (quantised)
            small(QUANT_O, &a, tid);
        TICK(QUANT_O);
        a = base;
        a.in[0] = quantised ? ints : o, a.in[1] = scales, a.in[2] = x, a.out[0] = x, a.w = w + kernels[O_LINEAR].at;
        kernels[O_LINEAR].run(&a, tid, threads);
        barrier();
        TICK(O_LINEAR);
        a = base;
        a.in[0] = x, a.out[0] = ints, a.out[1] = scales;
        small(NORM_2, &a, tid);
        TICK(NORM_2);
        a = base;
        a.in[0] = ints, a.in[1] = scales, a.out[0] = h, a.w = w + kernels[GLU_LINEAR].at;
        kernels[GLU_LINEAR].run(&a, tid, threads);
        barrier();
        TICK(GLU_LINEAR);
        a = base;
        a.in[0] = h, a.out[0] = ints, a.out[1] = scales;
        if (quantised)
            small(QUANT_D, &a, tid);
        TICK(QUANT_D);
        a = base;
        a.in[0] = quantised ? ints : h, a.in[1] = scales, a.in[2] = x, a.out[0] = x, a.w = w + kernels[DOWN_LINEAR].at;
        kernels[DOWN_LINEAR].run(&a, tid, threads);
        barrier();
        TICK(DOWN_LINEAR);
    }
    char *mine = priv + (1 << 20); /* one row of logits */
    PfqArgs a = base;
    a.T = 1, a.in[0] = x, a.out[0] = mine, a.out[1] = mine + 65536;
    kernels[HEAD_NORM].run(&a, 0, 1);
    TICK(HEAD_NORM);
    a = base;
    a.T = 1, a.in[0] = mine, a.in[1] = mine + 65536, a.out[0] = activations[7], a.w = weights + LAYERS * layer_bytes;
    kernels[HEAD].run(&a, tid, threads);
    barrier();
    TICK(HEAD);
}

static void read_all(int tid)
{
    size_t n = total_bytes / 256 * 256 / (size_t)threads / 256 * 256;
    const char *p = weights + n * (size_t)tid;
    __m256i s0 = _mm256_setzero_si256(), s1 = s0;
    for (size_t i = 0; i < n; i += 64) {
        s0 = _mm256_xor_si256(s0, _mm256_load_si256((const __m256i *)(p + i)));
        s1 = _mm256_xor_si256(s1, _mm256_load_si256((const __m256i *)(p + i + 32)));
    }
    volatile int sink = _mm256_extract_epi32(_mm256_xor_si256(s0, s1), 0);
    (void)sink;
    barrier();
}

static int64_t (*int8_peak)(int64_t, void *);
static int64_t peak_sums; /* multiply-adds of one thread */

static void multiply(int tid)
{
    int64_t n = int8_peak(50000, private_mem[tid]);
    if (tid == 0)
        peak_sums = n;
    barrier();
}

static void find_peak(void)
{
    char from[600], to[600];
    snprintf(from, sizeof from, "%s/tests/kernels/int8_peak.c", source);
    snprintf(to, sizeof to, "%s/peak", folder);
    KtLib lib = kt_compile(source, variant, from, to);
    void *p = kt_symbol(&lib, "int8_peak");
    memcpy(&int8_peak, &p, sizeof p);
}

static void (*volatile job)(int);
static atomic_int generation;
static bool stop;

static void *worker(void *arg)
{
    int tid = (int)(intptr_t)arg;
    for (int seen = 0; !stop; seen++) {
        while (atomic_load(&generation) == seen)
            sched_yield();
        if (job)
            job(tid);
    }
    return NULL;
}

static double timed(void (*f)(int))
{
    job = f;
    double t = now();
    atomic_fetch_add(&generation, 1);
    f(0);
    return now() - t;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n) /* sorts */
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}

int main(int argc, char **argv)
{
    const Recipe *r = NULL;
    for (size_t i = 0; argc >= 5 && i < sizeof recipes / sizeof *recipes; i++)
        if (!strcmp(argv[3], recipes[i].name))
            r = &recipes[i];
    if (!r || (T = atoi(argv[4])) < 1 || T > MAX_T) {
        fprintf(stderr, "usage: bench_kernels SOURCE_DIR VARIANT w4a16|w8a8|w4a4|float T [threads] [pos] [rounds] [huge]\n");
        return 2;
    }
    variant = argv[2];
    threads = argc > 5 ? atoi(argv[5]) : 2;
    pos = argc > 6 ? atoi(argv[6]) : 0;
    int rounds = argc > 7 ? atoi(argv[7]) : 9;
    bool huge = argc > 8 ? atoi(argv[8]) : 1;
    if (strchr(variant, '-') || !kt_variant_runs(variant)) { /* asks for AMX's tiles, too */
        fprintf(stderr, "this CPU cannot run %s\n", variant);
        return 1;
    }
    if (threads < 1 || threads > MAX_THREADS || pos < 0 || pos + T > CTX || rounds < 1 || rounds > 999 || !mkdtemp(folder))
        return 2;
    int n_trees = 0;
    for (source = strtok(argv[1], ","); source && n_trees < MAX_SOURCES; source = strtok(NULL, ",")) {
        kernels = trees[n_trees++];
        make_kernels(r);
        if (n_trees == 1)
            find_peak();
    }
    make_weights(huge);
    for (int i = 0; i < 12; i++)
        activations[i] = big((size_t)MAX_T * FFN * 4 + 65536, true);
    for (int i = 0; i < 2; i++)
        cache[i] = big((size_t)LAYERS * KV * CTX * D * 2, true);
    for (int i = 0; i < threads; i++)
        private_mem[i] = big((size_t)4 << 20, true);
    for (int i = 0; i < 32; i++)
        ((float *)activations[6])[i] = 1.0f / (float)(i + 1);
    for (int i = 0; i < T * HIDDEN; i++)
        ((float *)activations[0])[i] = (float)kt_uniform();
    pthread_t id[MAX_THREADS];
    for (int i = 1; i < threads; i++)
        pthread_create(&id[i], NULL, worker, (void *)(intptr_t)i);
    static double reads[999], peaks[999], passes[MAX_SOURCES][999], kinds[MAX_SOURCES][KINDS][999];
    for (int i = -1; i < rounds; i++) {
        double read = timed(read_all), peak = timed(multiply);
        if (i >= 0)
            reads[i] = read, peaks[i] = peak;
        for (int v = 0; v < n_trees; v++) {
            kernels = trees[v];
            memset(spent, 0, sizeof spent);
            double t = timed(pass);
            if (i < 0)
                continue;
            passes[v][i] = t;
            for (int k = 0; k < KINDS; k++)
                kinds[v][k][i] = spent[k];
        }
    }
    stop = true;
    job = NULL;
    atomic_fetch_add(&generation, 1);
    for (int i = 1; i < threads; i++)
        pthread_join(id[i], NULL);
    const double read = median(reads, rounds), read_rate = (double)total_bytes / read;
    const double peak_rate = 2 * threads * (double)peak_sums / median(peaks, rounds);
    printf("plain read %.1f GB/s, peak int8 %.0f GOP/s\n", read_rate * 1e-9, peak_rate * 1e-9);
    for (int v = 0; v < n_trees; v++) {
        double t = median(passes[v], rounds);
        printf("%s %s T %d threads %d pos %d huge %d: %.3f ms (%.3f .. %.3f), %.0f tok/s, %.1f GB/s, %.0f %% of a plain "
               "read\n",
               r->name, variant, T, threads, pos, huge, t * 1e3, passes[v][0] * 1e3, passes[v][rounds - 1] * 1e3, T / t,
               (double)total_bytes / t * 1e-9, 100 * read / t);
        for (int k = 0; k < KINDS; k++) {
            double ms = median(kinds[v][k], rounds) * 1e3;
            int times = k >= HEAD_NORM ? 1 : LAYERS;
            printf("  %-10s %9.3f ms %8.2f us each, best %8.2f", kind_name[k], ms, ms * 1e3 / times,
                   kinds[v][k][0] * 1e6 / times);
            const int rows = k == HEAD ? 1 : T;
            double bytes = (double)kernels[k].weight_bytes * times / ms * 1e3;
            double ops = 2.0 * kernels[k].N * kernels[k].K * times * rows / ms * 1e3;
            if (kernels[k].N)
                printf("  %6.1f GB/s %7.1f GOP/s, %3.0f %% of %s", bytes * 1e-9, ops * 1e-9,
                       rows == 1 ? 100 * bytes / read_rate : 100 * ops / peak_rate, rows == 1 ? "plain read" : "peak");
            printf("\n");
        }
    }
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command) != 0;
}
