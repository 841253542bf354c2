/* linear_wg.cu on a GPU: compares with wg_case.h, or measures.
 *
 *   bench_wg check < LIST           every line against the reference
 *   bench_wg time SUSTAIN_MS < LIST  us, TOPS and TB/s of weights of each line
 *
 * A line of LIST is a kernel and a case, key=value: file (cubin), entry, block, shared, per_sm,
 * rows, tokens (of a tile), cluster (blocks that share a tile), and the fields of WgSpec.
 * Measuring: weights come from 512 MB in turn, so that the L2 has none of them. T >= 128: the
 * median of 30 launches, each with its events, after SUSTAIN_MS of the same launches, or, if that
 * is 0, a quarter of a second's rest and 5 launches. Fewer tokens: the mean of a recorded graph of
 * 48 launches that may overlap. Needs libcuda.so.1 only.
 */
#define _GNU_SOURCE
#include "runtime/abi.h"
#include "tests/cuda/wg_case.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- the driver ---- */

typedef struct Config {
    unsigned grid[3], block[3], shared;
    void *stream;
    struct Attribute {
        int id, pad;
        union {
            char bytes[64];
            int value;
            unsigned cluster[3];
        } v;
    } *attribute;
    unsigned n;
} Config;

#define CALLS(X)                                                                                   \
    X(cuInit, (unsigned))                                                                          \
    X(cuDeviceGet, (int *, int))                                                                   \
    X(cuDeviceGetName, (char *, int, int))                                                         \
    X(cuDeviceGetAttribute, (int *, int, int))                                                     \
    X(cuDevicePrimaryCtxRetain, (void **, int))                                                    \
    X(cuCtxSetCurrent, (void *))                                                                   \
    X(cuModuleLoad, (void **, const char *))                                                       \
    X(cuModuleUnload, (void *))                                                                    \
    X(cuModuleGetFunction, (void **, void *, const char *))                                        \
    X(cuFuncSetAttribute, (void *, int, int))                                                      \
    X(cuMemAlloc_v2, (uint64_t *, size_t))                                                         \
    X(cuMemFree_v2, (uint64_t))                                                                    \
    X(cuMemcpyHtoD_v2, (uint64_t, const void *, size_t))                                           \
    X(cuMemcpyDtoH_v2, (void *, uint64_t, size_t))                                                 \
    X(cuMemsetD8_v2, (uint64_t, unsigned char, size_t))                                            \
    X(cuStreamCreate, (void **, unsigned))                                                         \
    X(cuStreamSynchronize, (void *))                                                               \
    X(cuOccupancyMaxActiveClusters, (int *, void *, const Config *))                               \
    X(cuLaunchKernelEx, (const Config *, void *, void **, void **))                                \
    X(cuEventCreate, (void **, unsigned))                                                          \
    X(cuEventDestroy_v2, (void *))                                                                 \
    X(cuEventRecord, (void *, void *))                                                             \
    X(cuEventElapsedTime, (float *, void *, void *))                                               \
    X(cuStreamBeginCapture_v2, (void *, int))                                                      \
    X(cuStreamEndCapture, (void *, void **))                                                       \
    X(cuGraphInstantiateWithFlags, (void **, void *, unsigned long long))                          \
    X(cuGraphLaunch, (void *, void *))                                                             \
    X(cuGraphExecDestroy, (void *))                                                                \
    X(cuGraphDestroy, (void *))                                                                    \
    X(cuGetErrorString, (int, const char **))
#define DECLARE(name, params) static int(*name) params;
CALLS(DECLARE)

static void check(int result, const char *call)
{
    if (!result) return;
    const char *text = "";
    cuGetErrorString(result, &text);
    fprintf(stderr, "%s: %d %s\n", call, result, text);
    fflush(stdout);
    _exit(1);
}
#define CU(call) check(call, #call)

static void *stream;
static int sms;

static void open_driver(void)
{
    void *lib = dlopen("libcuda.so.1", RTLD_NOW);
    if (!lib) {
        fprintf(stderr, "no libcuda.so.1\n");
        exit(1);
    }
#define LOOK_UP(name, params) *(void **)&name = dlsym(lib, #name);
    CALLS(LOOK_UP)
    int device;
    void *context;
    char name[128];
    CU(cuInit(0));
    CU(cuDeviceGet(&device, 0));
    CU(cuDeviceGetName(name, sizeof name, device));
    CU(cuDeviceGetAttribute(&sms, 16, device));
    CU(cuDevicePrimaryCtxRetain(&context, device));
    CU(cuCtxSetCurrent(context));
    CU(cuStreamCreate(&stream, 1));
    printf("%s, %d SMs\n", name, sms);
}

static uint64_t device_bytes(size_t n)
{
    uint64_t at;
    CU(cuMemAlloc_v2(&at, n + 4096));
    return at;
}

/* ---- lines ---- */

typedef struct Line {
    char name[64], file[256], entry[64];
    int32_t block, shared, per_sm, rows, tokens, cluster;
    WgSpec s;
} Line;

static bool read_line(Line *l)
{
    char text[2048];
    if (!fgets(text, sizeof text, stdin)) return false;
    *l = (Line){.per_sm = 1, .cluster = 1};
    for (char *w = strtok(text, " \n"); w; w = strtok(NULL, " \n")) {
        char *v = strchr(w, '=');
        if (!v) continue;
        *v++ = 0;
        if (!strcmp(w, "name")) snprintf(l->name, sizeof l->name, "%s", v);
        if (!strcmp(w, "file")) snprintf(l->file, sizeof l->file, "%s", v);
        if (!strcmp(w, "entry")) snprintf(l->entry, sizeof l->entry, "%s", v);
        const struct {
            const char *name;
            int32_t *at;
        } ints[] = {{"block", &l->block},
                    {"shared", &l->shared},
                    {"per_sm", &l->per_sm},
                    {"rows", &l->rows},
                    {"tokens", &l->tokens},
                    {"cluster", &l->cluster},
                    {"bits", &l->s.bits},
                    {"N", &l->s.N},
                    {"K", &l->s.K},
                    {"T", &l->s.T},
                    {"epi", &l->s.epi},
                    {"static", &l->s.fixed},
                    {"half", &l->s.half},
                    {"xshift", &l->s.xshift},
                    {"bias", &l->s.bias},
                    {"act", &l->s.act},
                    {"heads", &l->s.heads},
                    {"kv_heads", &l->s.kv_heads},
                    {"head_dim", &l->s.head_dim},
                    {"rot", &l->s.rot},
                    {"qk_norm", &l->s.qk_norm},
                    {"r3", &l->s.r3},
                    {"q8", &l->s.q8},
                    {"kv", &l->s.kv},
                    {"kv_static", &l->s.kv_static},
                    {"turns", &l->s.turns},
                    {"cap", &l->s.cap}};
        for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
            if (!strcmp(w, ints[i].name)) *ints[i].at = atoi(v);
    }
    return l->file[0] != 0;
}

typedef struct Kernel {
    void *module, *function;
    Config c;
    struct Attribute attribute[2];
} Kernel;

static int32_t tiles(const Line *l)
{
    const int32_t panels = l->s.epi == 2 ? (l->s.N / 2 + 31) / 32 : (l->s.N + 63) / 64;
    return (panels * 64 + l->rows - 1) / l->rows * ((l->s.T + l->tokens - 1) / l->tokens);
}

static void open_kernel(const Line *l, Kernel *k)
{
    memset(k, 0, sizeof *k);
    CU(cuModuleLoad(&k->module, l->file));
    CU(cuModuleGetFunction(&k->function, k->module, l->entry));
    CU(cuFuncSetAttribute(k->function, 8, l->shared));
    int blocks = l->per_sm * sms;
    if (tiles(l) * l->cluster < blocks || l->cluster > 1) blocks = tiles(l) * l->cluster;
    k->c = (Config){
        {(unsigned)blocks, 1, 1}, {(unsigned)l->block, 1, 1}, (unsigned)l->shared, stream, NULL, 0};
    k->attribute[0] = (struct Attribute){.id = 4, .v.cluster = {(unsigned)l->cluster, 1, 1}};
    k->attribute[1] = (struct Attribute){.id = 6, .v.value = 1}; /* overlap */
    k->c.attribute = k->attribute;
}

/* Clusters that are resident at once, and how many there are. */
static void print_clusters(Kernel *k, int32_t size)
{
    int resident;
    k->c.n = 1;
    CU(cuOccupancyMaxActiveClusters(&resident, k->function, &k->c));
    printf(" clusters of %d: %u of %d", size, k->c.grid[0] / (unsigned)size, resident);
}

static void launch(Kernel *k, PfqCudaArgs *a, bool overlap)
{
    void *params[] = {a};
    k->c.n = 1 + (unsigned)overlap;
    CU(cuLaunchKernelEx(&k->c, k->function, params, NULL));
}

/* ---- check ---- */

static uint64_t upload(const WgBuffer *b)
{
    if (!b->at) return 0;
    const uint64_t at = device_bytes(b->bytes);
    CU(cuMemcpyHtoD_v2(at, b->at, b->bytes));
    return at;
}

static int check_line(const Line *l)
{
    Kernel k;
    open_kernel(l, &k);
    WgCase *c = wg_case(&l->s, 7, (int)sysconf(_SC_NPROCESSORS_ONLN));
    PfqCudaArgs a = {
        .w = upload(&c->w), .rows = upload(&c->rows), .slot = c->slot, .T = l->s.T, .ctx = c->ctx};
    for (int i = 0; i < 8; i++) {
        a.aux[i] = upload(&c->aux[i]);
        if (i < 3) a.in[i] = upload(&c->in[i]);
        a.out[i] = c->out[i].at ? device_bytes(c->out[i].bytes) : 0;
    }
    size_t wrong = 0;
    char what[128] = "";
    for (int round = 0; round < 3; round++) { /* the second and third overlap */
        for (int i = 0; i < 8; i++)
            if (a.out[i]) CU(cuMemsetD8_v2(a.out[i], 0x55, c->out[i].bytes));
        const bool in_place = l->s.epi == 1 && l->s.T % 2;
        if (in_place) {
            a.in[2] = a.out[0];
            CU(cuMemcpyHtoD_v2(a.out[0], c->in[2].at, c->in[2].bytes));
        }
        CU(cuStreamSynchronize(NULL)); /* a copy from memory that can be paged returns early */
        launch(&k, &a, false);
        if (round && !in_place) launch(&k, &a, true);
        CU(cuStreamSynchronize(stream));
        for (int i = 0; i < 8; i++) {
            if (!a.out[i]) continue;
            void *got = malloc(c->out[i].bytes + 8);
            CU(cuMemcpyDtoH_v2(got, a.out[i], c->out[i].bytes));
            wrong += wg_wrong(c, i, got, what, sizeof what);
            free(got);
        }
    }
    if (wrong)
        printf("FAIL %s N %d K %d T %d epi %d: %zu wrong, %s\n", l->name, l->s.N, l->s.K, l->s.T,
               l->s.epi, wrong, what);
    fflush(stdout);
    uint64_t all[] = {a.w, a.rows};
    for (int i = 0; i < 2; i++)
        if (all[i]) CU(cuMemFree_v2(all[i]));
    for (int i = 0; i < 8; i++) {
        if (a.aux[i]) CU(cuMemFree_v2(a.aux[i]));
        if (a.out[i]) CU(cuMemFree_v2(a.out[i]));
        if (i < 3 && a.in[i] && a.in[i] != a.out[0]) CU(cuMemFree_v2(a.in[i]));
    }
    wg_case_free(c);
    CU(cuModuleUnload(k.module));
    return wrong != 0;
}

/* ---- time ---- */

enum { POOL = 512 << 20, LAUNCHES = 48 };

static uint64_t pool, x8, x4, zero, big[2], rows;

static void fill(uint64_t at, size_t bytes, uint32_t mask)
{
    enum { PIECE = 16 << 20 };
    static uint32_t p[PIECE / 4];
    uint64_t s = 88172645463325252u;
    for (size_t i = 0; i < PIECE / 4; i++) {
        s ^= s << 13, s ^= s >> 7, s ^= s << 17;
        p[i] = (uint32_t)(s >> 16) & mask;
    }
    for (size_t done = 0; done < bytes; done += PIECE)
        CU(cuMemcpyHtoD_v2(at + done, p, bytes - done < PIECE ? bytes - done : PIECE));
}

static void make_pools(void)
{
    enum { X = 2056 * 14336, OUT = 2056 * 28672 * 4 };
    pool = device_bytes(POOL + (1 << 20));
    const bool still = getenv("WG_ZEROS"); /* nothing toggles: what power costs */
    fill(pool, POOL, still ? 0 : ~0u);
    x8 = device_bytes(X + (1 << 20));
    fill(x8, X, still ? 0 : ~0u);
    x4 = device_bytes(X + (1 << 20));
    fill(x4, X, 0xf0f0f0f0u);
    zero = device_bytes(64 << 20);
    CU(cuMemsetD8_v2(zero, 0, 64 << 20));
    for (int i = 0; i < 2; i++)
        big[i] = device_bytes(OUT);
    PfqRow r[4096];
    for (int i = 0; i < 4096; i++)
        r[i] = (PfqRow){i, 0};
    rows = device_bytes(sizeof r);
    CU(cuMemcpyHtoD_v2(rows, r, sizeof r));
}

static int by_value(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

typedef struct Run {
    Kernel k;
    PfqCudaArgs a;
    size_t bytes; /* of weights, to the next */
    int n, turn;
} Run;

static void next_launch(Run *r, bool overlap)
{
    r->a.w = pool + (size_t)(r->turn++ % r->n) * r->bytes;
    launch(&r->k, &r->a, overlap);
}

/* Median and least us of single launches. */
static void time_launches(Run *r, double us, int sustain, float t[30])
{
    void *e[31];
    for (int i = 0; i < 31; i++)
        CU(cuEventCreate(&e[i], 0));
    if (!sustain) usleep(250000);
    const int warm = sustain ? (int)(sustain * 1e3 / us) : 5;
    for (int i = 0; i < warm; i++)
        next_launch(r, false);
    CU(cuEventRecord(e[0], stream));
    for (int i = 0; i < 30; i++) {
        next_launch(r, false);
        CU(cuEventRecord(e[i + 1], stream));
    }
    CU(cuStreamSynchronize(stream));
    for (int i = 0; i < 30; i++) {
        CU(cuEventElapsedTime(&t[i], e[i], e[i + 1]));
        t[i] *= 1e3f;
    }
    qsort(t, 30, sizeof *t, by_value);
    for (int i = 0; i < 31; i++)
        CU(cuEventDestroy_v2(e[i]));
}

/* us of a launch in a graph of launches that may overlap: 21 rounds. */
static void time_graph(Run *r, bool overlap, float t[21])
{
    void *graph, *exec, *e[2];
    for (int i = 0; i < 2; i++)
        CU(cuEventCreate(&e[i], 0));
    CU(cuStreamBeginCapture_v2(stream, 1));
    for (int i = 0; i < LAUNCHES; i++)
        next_launch(r, overlap);
    CU(cuStreamEndCapture(stream, &graph));
    CU(cuGraphInstantiateWithFlags(&exec, graph, 0));
    for (int i = 0; i < 2; i++)
        CU(cuGraphLaunch(exec, stream));
    for (int i = 0; i < 21; i++) {
        CU(cuEventRecord(e[0], stream));
        CU(cuGraphLaunch(exec, stream));
        CU(cuEventRecord(e[1], stream));
        CU(cuStreamSynchronize(stream));
        CU(cuEventElapsedTime(&t[i], e[0], e[1]));
        t[i] *= 1e3f / (float)LAUNCHES;
    }
    qsort(t, 21, sizeof *t, by_value);
    CU(cuGraphExecDestroy(exec));
    CU(cuGraphDestroy(graph));
}

static void time_line(const Line *l, int sustain)
{
    const WgSpec *s = &l->s;
    Run r = {.bytes = ((size_t)(s->N + 63) / 64 * 64 * (size_t)s->K * (size_t)s->bits / 8 +
                       (size_t)s->N * 4 + 1023) /
                      1024 * 1024};
    open_kernel(l, &r.k);
    r.n = (int)(POOL / r.bytes);
    if (r.n > 16) r.n = 16;
    r.a = (PfqCudaArgs){
        .in = {s->xshift ? x4 : x8, zero, big[1]}, .rows = rows, .T = s->T, .ctx = 4096};
    for (int i = 0; i < 8; i++)
        r.a.out[i] = i ? big[1] + (uint64_t)i * (16 << 20) : big[0],
        r.a.aux[i] = zero + (uint64_t)i * (4 << 20);
    float t[30];
    const double ops = 2.0 * s->T * (double)s->N * s->K, bytes = (double)s->N * s->K * s->bits / 8;
    printf("%-34s N %5d K %5d T %4d e%d", l->name, s->N, s->K, s->T, s->epi);
    if (l->cluster > 1) print_clusters(&r.k, l->cluster);
    if (s->T >= 128) {
        time_launches(&r, ops / 1.4e9, sustain, t);
        printf(" %8.2f us [%.2f %.2f] %6.0f TOPS", t[15], t[0], t[29], ops / t[15] * 1e-6);
    }
    if (s->T <= 512) {
        time_graph(&r, false, t);
        printf(" graph %7.2f us %5.2f TB/s", t[10], bytes / t[10] * 1e-6);
        time_graph(&r, true, t);
        printf(" overlapping %7.2f us %5.2f TB/s [%.2f %.2f]", t[10], bytes / t[10] * 1e-6, t[0],
               t[20]);
    }
    printf("\n");
    fflush(stdout);
    CU(cuModuleUnload(r.k.module));
}

int main(int argc, char **argv)
{
    const bool timing = argc > 2 && !strcmp(argv[1], "time");
    if (!timing && (argc != 2 || strcmp(argv[1], "check") != 0)) {
        fprintf(stderr, "usage: bench_wg check < LIST; bench_wg time SUSTAIN_MS < LIST\n");
        return 2;
    }
    open_driver();
    if (timing) make_pools();
    int lines = 0, failed = 0;
    for (Line l; read_line(&l); lines++)
        if (timing)
            time_line(&l, atoi(argv[2]));
        else
            failed += check_line(&l);
    if (!timing) printf("%d cases, %d failed\n", lines, failed);
    return failed != 0;
}
