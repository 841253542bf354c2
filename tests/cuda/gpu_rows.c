/* The CUDA kernels on a real GPU under the entries of the CPU's: what test_kernels loads as the
 * variant "gpu".
 *
 * Code comes from the folder PFQ_GPU_CODE/ARCH, which gpu_code makes: per template one module whose
 * constants are a variable in constant memory, set before each launch. A call copies every block
 * that its arguments point into to the GPU, launches the row of codegen/cuda/kernels.def once, on
 * thread 0, and copies back what lies behind out[]; other blocks, and the bytes between blocks,
 * must be as they were. Blocks begin 64 bytes behind a multiple of 128, which is all that plain
 * templates may ask for. Environment:
 *
 *   PFQ_GPU_ARCH     folder of the code instead of that of the GPU: compute_80 is PTX
 *   PFQ_GPU_EXACT    every block is an allocation of its own size, for compute-sanitizer (slow); of
 *                    emulated kernels it stays where it is, in front of an unreadable page
 *   PFQ_GPU_EACH     n: of each kernel the first n launches, then fewer and fewer; others are left
 *                    out and no result is judged but by compute-sanitizer, for which results and
 *                    scratch hold nothing
 *   PFQ_GPU_RECORD   no GPU, no launch: sources of some calls, specialised as in a model, are
 *                    written to this folder; compiled by gpu_code, they are what runs for these
 *                    calls
 *   PFQ_FAST         rows for some chips, see gpu_fast.c
 *   PFQC_CUDA_DRIVER, PFQ_STUB_KERNELS   the driver is stub_driver.c, the kernels are emulated
 */
#include "tests/cuda/gpu_rows.h"

#include "runtime/cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_SHARED_ATTRIBUTE = 8, PLAIN_SHARED = 49152, SLOTS = 8, MAX_ROWS = 1024 };
enum {
    MAX_BLOCKS = 3 * SLOTS + 1,
    GAP = 64,
    WIDE = 1024
}; /* GAP: bytes between blocks, at least */
enum { MULTIPROCESSORS = 16, CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76 };
enum { MAX_CODES = 256 };

#define KERNEL(id, name, template, entry, scratch, doc)                                            \
    void call_##id(const PfqArgs *a, int tid, int nt) __asm__(entry);
#include "codegen/cpu/kernels.def"

/* As gpu_code states it for the device. */
typedef struct Constants {
#define CONSTANT(name, type, def, doc) type v_##name;
#include "codegen/cpu/kernels.def"
#define CUDA_CONSTANT(name, type, def, doc) type v_##name;
#include "codegen/cuda/kernels.def"
} Constants;

typedef struct Code {
    const char *entry, *template; /* template: of generic code */
    void *module, *function;
    uint64_t constants; /* address of pfq_test_constants; 0: the code is specialised */
    uint64_t sync, sync_bytes;
    int64_t shared;       /* allowed so far */
    unsigned calls, next; /* next: of the calls that are launched, with PFQ_GPU_EACH */
    char last[64];        /* recorded */
    bool shares;          /* module and constants are another entry's */
} Code;

typedef struct Block {
    char *host;
    size_t bytes;
    uint64_t at, block; /* block: what was allocated for it; 0: nothing */
    bool in, out;
} Block;

static struct {
    PfqCudaDriver cuda;
    int (*global)(uint64_t *at, size_t *bytes, void *module, const char *name);
    void *context, *stream;
    char folder[600];
    bool emulated; /* the driver is the stub: there are no files of code */
    Code code[MAX_CODES];
    int sms;
    uint64_t work, work_bytes;
    uint64_t arena, arena_bytes, positions;
    char *staging;
    long launches, specialised;
} gpu;

KtFindBlock *kt_find_block; /* set by kt_open, as is: */
KtAlloc *kt_alloc_block;

_Noreturn void gpu_die(const char *what, const char *text)
{
    printf("FAIL %s: %s\n", what, text);
    fflush(stdout);
    _exit(1);
}

static void check(int result, const char *call, const char *what)
{
    PfqErr err;
    if (!pfq_cuda_check(&gpu.cuda, result, call, what, &err)) gpu_die("the GPU", err.text);
}

#define CALL(symbol, what, ...) check(gpu.cuda.symbol(__VA_ARGS__), #symbol, what)

/* ---- opening ---- */

static void at_exit(void)
{
    printf("gpu: %ld launches from %s, %ld of them of specialised code\n", gpu.launches, gpu.folder,
           gpu.specialised);
    gpu_fast_report();
    for (int i = 0; i < MAX_CODES; i++) {
        if (gpu.code[i].module && !gpu.code[i].shares)
            CALL(cuModuleUnload, gpu.code[i].entry, gpu.code[i].module);
        if (gpu.code[i].sync) CALL(cuMemFree_v2, "counters", gpu.code[i].sync);
    }
    if (gpu.work) CALL(cuMemFree_v2, "scratch", gpu.work);
    if (gpu.arena) CALL(cuMemFree_v2, "the arena", gpu.arena);
    CALL(cuMemFree_v2, "the rows", gpu.positions);
    CALL(cuStreamDestroy_v2, "the stream", gpu.stream);
    CALL(cuDevicePrimaryCtxRelease_v2, "GPU 0", 0);
    free(gpu.staging);
}

static void find_folder(void)
{
    const char *code = getenv("PFQ_GPU_CODE"), *arch = getenv("PFQ_GPU_ARCH");
    int major = 0, minor = 0;
    CALL(cuDeviceGetAttribute, "the GPU", &major, CAPABILITY_MAJOR, 0);
    CALL(cuDeviceGetAttribute, "the GPU", &minor, CAPABILITY_MINOR, 0);
    CALL(cuDeviceGetAttribute, "the GPU", &gpu.sms, MULTIPROCESSORS, 0);
    char name[32];
    snprintf(name, sizeof name, "sm_%d%d%s", major, minor, major >= 9 ? "a" : "");
    snprintf(gpu.folder, sizeof gpu.folder, "%s/%s", code ? code : "gpu", arch ? arch : name);
}

/* Why the tests cannot run; NULL if they can. test_kernels asks before the first call. */
const char *kt_skip(void);
const char *kt_skip(void)
{
    static PfqErr err;
    static char text[800];
    int count = 0;
    if (getenv("PFQ_GPU_RECORD")) return NULL;
    const char *driver = getenv("PFQC_CUDA_DRIVER");
    if (!pfq_cuda_driver(&gpu.cuda, driver, &err)) return err.text;
    if (gpu.cuda.cuInit(0) || gpu.cuda.cuDeviceGetCount(&count) || !count)
        return "the NVIDIA driver sees no GPU";
    find_folder();
    gpu.emulated = getenv("PFQ_STUB_KERNELS") != NULL;
    if (!gpu.emulated && access(gpu.folder, R_OK)) {
        snprintf(text, sizeof text, "there is no code in %s", gpu.folder);
        return text;
    }
    void *lib = dlopen(driver ? driver : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    *(void **)&gpu.global = dlsym(lib, "cuModuleGetGlobal_v2");
    CALL(cuDevicePrimaryCtxRetain, "GPU 0", &gpu.context, 0);
    CALL(cuCtxSetCurrent, "GPU 0", gpu.context);
    CALL(cuStreamCreate, "GPU 0", &gpu.stream, 1);
    CALL(cuMemAlloc_v2, "the rows", &gpu.positions, MAX_ROWS * sizeof(PfqRow));
    if (!getenv("PFQ_GPU_EXACT")) {
        gpu.arena_bytes = (uint64_t)256 << 20;
        gpu.staging = malloc(2 * gpu.arena_bytes);
        CALL(cuMemAlloc_v2, "the arena", &gpu.arena, gpu.arena_bytes);
        if (!gpu.staging) gpu_die("staging", "out of memory");
    }
    atexit(at_exit);
    return NULL;
}

/* A file, malloc'ed; NULL: there is none. */
static char *read_code(const char *path)
{
    FILE *f = fopen(path, "r");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    const size_t bytes = (size_t)ftell(f);
    rewind(f);
    char *image = calloc(1, bytes + 1);
    if (!image || fread(image, 1, bytes, f) != bytes) gpu_die(path, "cannot be read");
    fclose(f);
    return image;
}

/* false: there is no such code. */
static bool load(const char *name, const char *entry, bool generic, Code *out)
{
    char path[800];
    snprintf(path, sizeof path, "%s/%.*s.code", gpu.folder, (int)strcspn(name, "."), name);
    char *image = !gpu.emulated ? read_code(path) : generic ? calloc(1, 1) : NULL;
    if (!image) return false;
    CALL(cuModuleLoadData, path, &out->module, image);
    CALL(cuModuleGetFunction, path, &out->function, out->module, entry);
    free(image);
    size_t size = 0;
    if (generic)
        check(gpu.global(&out->constants, &size, out->module, "pfq_test_constants"),
              "cuModuleGetGlobal_v2", path);
    if (generic && size != sizeof(Constants))
        gpu_die(path, "was made of another table of constants");
    out->shared = PLAIN_SHARED;
    return true;
}

bool gpu_judged(void)
{
    return !getenv("PFQ_GPU_RECORD") && !getenv("PFQ_GPU_EACH");
}

/* ---- specialised code ---- */

static Constants constants(void)
{
    Constants c;
    memset(&c, 0, sizeof c);
#define CONSTANT(name, type, def, doc) c.v_##name = c_##name;
#include "codegen/cpu/kernels.def"
#define CUDA_CONSTANT(name, type, def, doc) c.v_##name = c_##name;
#include "codegen/cuda/kernels.def"
    return c;
}

static uint64_t hash(const void *data, size_t bytes, uint64_t h)
{
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ ((const unsigned char *)data)[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

static void special_name(const GpuLaunch *l, const Constants *c, char *out, size_t cap)
{
    snprintf(out, cap, "%s_%016llx", l->entry,
             (unsigned long long)hash(c, sizeof *c, 0xcbf29ce484222325u));
}

/* The place of a kernel's generic code. */
static Code *code_named(const char *entry)
{
    for (int i = 0; i < MAX_CODES; i++) {
        Code *c = &gpu.code[i];
        if (!c->entry) c->entry = entry;
        if (strcmp(c->entry, entry) == 0) return c;
    }
    gpu_die(entry, "is one kernel too many");
}

static void print_constant(FILE *f, const char *name, const char *type, double value)
{
    if (strcmp(type, "float") == 0)
        fprintf(f, "static const float c_%s = %af;\n", name, value);
    else
        fprintf(f, "static const int32_t c_%s = %d;\n", name, (int32_t)value);
}

/* One of many, evenly over kernels: there are thousands of shapes of linears and attention. */
static void record(const GpuLaunch *l)
{
    const Constants c = constants();
    const bool many = strstr(l->entry, "attend") || strstr(l->entry, "linear");
    Code *code = code_named(l->entry);
    char name[64], path[800];
    special_name(l, &c, name, sizeof name);
    if (strcmp(code->last, name) == 0) return; /* the second pass of a case */
    memcpy(code->last, name, sizeof name);
    if (code->calls++ % (many ? 61 : 7)) return;
    snprintf(path, sizeof path, "%s/%s.cu", getenv("PFQ_GPU_RECORD"), name);
    FILE *f = fopen(path, "w");
    if (!f) gpu_die(path, "cannot be written");
    fprintf(f,
            "#define PFQ_ENTRY\n#define PFQ_WANT_%s , PFQ_GLOBAL\n"
            "#include \"templates/kernel.cuh\"\n",
            l->entry);
#define CONSTANT(name, type, def, doc) print_constant(f, #name, #type, (double)c.v_##name);
#include "codegen/cpu/kernels.def"
#define CUDA_CONSTANT(name, type, def, doc) print_constant(f, #name, #type, (double)c.v_##name);
#include "codegen/cuda/kernels.def"
    fprintf(f, "#define %s %s\n#include \"templates/%s\"\n", l->entry, name, l->template);
    fclose(f);
}

/* The same, loaded; entries of one template share a module, of which the first is the owner. */
static Code *generic_code(const GpuLaunch *l)
{
    Code *code = code_named(l->entry);
    if (code->module) return code;
    code->template = l->template;
    for (Code *c = gpu.code; c->entry && !code->module; c++)
        if (c != code && c->module && strcmp(c->template, l->template) == 0) {
            code->module = c->module;
            code->constants = c->constants;
            code->shared = PLAIN_SHARED;
            code->shares = true;
            CALL(cuModuleGetFunction, l->entry, &code->function, code->module, l->entry);
        }
    if (!code->module && !load(l->template, l->entry, true, code))
        gpu_die(l->template, "has no code");
    return code;
}

/* The code of a call; *special is unloaded by the caller. */
static Code *code_of(const GpuLaunch *l, Code *special)
{
    const Constants c = constants();
    char name[64];
    special_name(l, &c, name, sizeof name);
    if (load(name, name, false, special)) {
        gpu.specialised++;
        return special;
    }
    Code *code = generic_code(l);
    CALL(cuMemcpyHtoDAsync_v2, "constants", code->constants, &c, sizeof c, gpu.stream);
    return code;
}

/* ---- memory ---- */

typedef struct Blocks {
    Block at[MAX_BLOCKS];
    int n;
    size_t total;
} Blocks;

/* Enters the block that p points into. */
static void add_block(Blocks *b, const void *p, bool out, bool wide)
{
    void *host;
    size_t bytes;
    if (!p) return;
    if (!kt_find_block(p, &host, &bytes))
        gpu_die("an argument", "points into no block of kt_alloc");
    for (int i = 0; i < b->n; i++)
        if (b->at[i].host == host) {
            b->at[i].out |= out;
            b->at[i].in |= !out;
            return;
        }
    Block *k = &b->at[b->n++];
    *k = (Block){.host = host, .bytes = bytes, .in = !out, .out = out};
    if (getenv("PFQ_GPU_EXACT") && gpu.emulated && !wide) {
        k->at = (uint64_t)(uintptr_t)host;
        return;
    }
    if (getenv("PFQ_GPU_EXACT")) {
        CALL(cuMemAlloc_v2, "a block", &k->block, wide ? bytes + WIDE : bytes ? bytes : 1);
        k->at = wide ? (k->block + WIDE - 1) / WIDE * WIDE : k->block;
        return;
    }
    b->total += GAP;
    if (wide)
        b->total = (b->total + WIDE - 1) / WIDE * WIDE;
    else if (b->total % 128 == 0)
        b->total += GAP;
    k->at = gpu.arena + b->total;
    b->total += bytes;
    if (b->total + GAP > gpu.arena_bytes) gpu_die("the arena", "is full");
}

static uint64_t device(const Blocks *b, const void *p)
{
    for (int i = 0; p && i < b->n; i++) {
        const Block *k = &b->at[i];
        if ((const char *)p >= k->host && (const char *)p <= k->host + k->bytes)
            return k->at + (uint64_t)((const char *)p - k->host);
    }
    return 0;
}

static void upload(const Blocks *b)
{
    if (getenv("PFQ_GPU_EXACT")) {
        for (int i = 0; i < b->n; i++)
            if (b->at[i].bytes && b->at[i].block && (b->at[i].in || gpu_judged()))
                CALL(cuMemcpyHtoDAsync_v2, "a block", b->at[i].at, b->at[i].host, b->at[i].bytes,
                     gpu.stream);
        return;
    }
    memset(gpu.staging, 0xff, b->total + GAP);
    for (int i = 0; i < b->n; i++)
        memcpy(gpu.staging + (b->at[i].at - gpu.arena), b->at[i].host, b->at[i].bytes);
    CALL(cuMemcpyHtoDAsync_v2, "the arena", gpu.arena, gpu.staging, b->total + GAP, gpu.stream);
}

static void take_back(const Block *k, const char *now, const char *entry)
{
    if (k->out)
        memcpy(k->host, now, k->bytes);
    else if (memcmp(k->host, now, k->bytes))
        gpu_die(entry, "changes what it may only read");
}

static void download_block(const Block *k, const char *entry)
{
    char *now = malloc(k->bytes + 1);
    if (k->bytes) CALL(cuMemcpyDtoHAsync_v2, entry, now, k->at, k->bytes, gpu.stream);
    CALL(cuStreamSynchronize, entry, gpu.stream);
    take_back(k, now, entry);
    free(now);
}

static void download(const Blocks *b, const char *entry)
{
    if (getenv("PFQ_GPU_EXACT")) {
        CALL(cuStreamSynchronize, entry, gpu.stream);
        for (int i = 0; i < b->n; i++) {
            const Block *k = &b->at[i];
            if (!k->block) continue;
            if (gpu_judged()) download_block(k, entry);
            CALL(cuMemFree_v2, "a block", k->block);
        }
        return;
    }
    char *now = gpu.staging + gpu.arena_bytes;
    CALL(cuMemcpyDtoHAsync_v2, entry, now, gpu.arena, b->total + GAP, gpu.stream);
    CALL(cuStreamSynchronize, entry, gpu.stream);
    size_t end = 0;
    for (int i = 0; i <= b->n; i++) {
        const size_t begin = i < b->n ? b->at[i].at - gpu.arena : b->total + GAP;
        for (size_t k = end; k < begin; k++)
            if ((unsigned char)now[k] != 0xff) gpu_die(entry, "writes outside its blocks");
        if (i == b->n) break;
        take_back(&b->at[i], now + begin, entry);
        end = begin + b->at[i].bytes;
    }
}

/* ---- calls ---- */

/* Memory of the kernels' own: scratch holds anything, counters are 0 before the first launch. */
static void give_memory(const GpuLaunch *l, Code *code, PfqCudaArgs *c)
{
    if ((uint64_t)l->work > gpu.work_bytes) {
        if (gpu.work) CALL(cuMemFree_v2, "scratch", gpu.work);
        CALL(cuMemAlloc_v2, "scratch", &gpu.work, (size_t)l->work);
        if (gpu_judged())
            CALL(cuMemsetD8Async, "scratch", gpu.work, 0xff, (size_t)l->work, gpu.stream);
        gpu.work_bytes = (uint64_t)l->work;
    }
    if ((uint64_t)l->sync > code->sync_bytes) {
        if (code->sync) CALL(cuMemFree_v2, "counters", code->sync);
        CALL(cuMemAlloc_v2, "counters", &code->sync, (size_t)l->sync);
        CALL(cuMemsetD8Async, "counters", code->sync, 0, (size_t)l->sync, gpu.stream);
        code->sync_bytes = (uint64_t)l->sync;
    }
    c->work = gpu.work;
    c->sync = code->sync;
}

static uint32_t least(int64_t a, int64_t b)
{
    return (uint32_t)(a < b ? a : b);
}

/* As runtime/cuda.c launches. */
static void launch(const GpuLaunch *l, const Code *code, PfqCudaArgs *c)
{
    const int64_t y = l->rows ? (c->T + l->rows - 1) / l->rows : 1, all = l->grid_x * y;
    PfqCudaAttribute attribute[3];
    memset(attribute, 0, sizeof attribute);
    uint32_t n = 0;
    for (int32_t i = 0; i < 2; i++) {
        static const int32_t flag[] = {PFQ_CUDA_COOPERATIVE, PFQ_CUDA_OVERLAP},
                             id[] = {PFQ_LAUNCH_COOPERATIVE, PFQ_LAUNCH_OVERLAP};
        if (!(l->flags & flag[i])) continue;
        attribute[n].id = id[i];
        attribute[n++].value.on = 1;
    }
    if (l->cluster) {
        attribute[n].id = PFQ_LAUNCH_CLUSTER;
        attribute[n].value.cluster.x = (uint32_t)l->cluster;
        attribute[n].value.cluster.y = attribute[n].value.cluster.z = 1;
        n++;
    }
    PfqCudaLaunch config = {.grid = {(uint32_t)l->grid_x, (uint32_t)y, 1},
                            .block = {(uint32_t)l->block, 1, 1},
                            .shared = (uint32_t)l->shared,
                            .stream = gpu.stream,
                            .attribute = attribute,
                            .n_attributes = n};
    if (l->per_sm) {
        config.grid[0] = least(all, l->per_sm * gpu.sms);
        config.grid[1] = 1;
        if (l->cluster && all > config.grid[0])
            config.grid[0] -= config.grid[0] % (uint32_t)l->cluster;
    }
    void *params[] = {c};
    CALL(cuLaunchKernelEx, l->entry, &config, code->function, params, NULL);
}

/* With gaps that grow by an n-th of the launches so far: of 10,000 there are n * ln(10,000 / n), of
 * small shapes and large ones. */
static bool left_out(const GpuLaunch *l)
{
    const char *each = getenv("PFQ_GPU_EACH");
    const unsigned n = each ? (unsigned)atoi(each) : 0;
    Code *code = code_named(l->entry);
    if (!n) return false;
    if (code->calls++ != code->next) return true;
    code->next = code->calls + code->calls / n;
    return false;
}

void gpu_call(const PfqArgs *a, const GpuLaunch *l)
{
    if (getenv("PFQ_GPU_RECORD")) {
        record(l);
        return;
    }
    if (left_out(l)) return;
    Blocks b = {0};
    for (int i = 0; i < SLOTS; i++) {
        add_block(&b, a->in[i], false, i == 0 && l->wide & WIDE_IN);
        add_block(&b, a->out[i], true, i == 0 && l->wide & WIDE_OUT);
        add_block(&b, a->aux[i], false, false);
    }
    add_block(&b, a->w, false, l->wide & WIDE_W);
    PfqCudaArgs c = {.w = device(&b, a->w),
                     .rows = gpu.positions,
                     .T = a->T,
                     .ctx = a->ctx,
                     .alone = c_each && a->T % 2};
    PfqRow position[MAX_ROWS];
    for (int32_t t = 0; t < a->T; t++)
        position[t] = (PfqRow){.pos = a->pos + t};
    CALL(cuMemcpyHtoDAsync_v2, "the rows", gpu.positions, position, (size_t)a->T * sizeof *position,
         gpu.stream);
    for (int i = 0; i < SLOTS; i++) {
        c.in[i] = device(&b, a->in[i]);
        c.out[i] = device(&b, a->out[i]);
        c.aux[i] = device(&b, a->aux[i]);
    }
    Code special = {0}, *code = code_of(l, &special);
    if (l->shared > code->shared) {
        CALL(cuFuncSetAttribute, l->entry, code->function, MAX_SHARED_ATTRIBUTE, (int)l->shared);
        code->shared = l->shared;
    }
    upload(&b);
    give_memory(l, code, &c);
    launch(l, code, &c);
    download(&b, l->entry);
    gpu.launches++;
    if (special.sync) CALL(cuMemFree_v2, "counters", special.sync);
    if (special.module) CALL(cuModuleUnload, l->entry, special.module);
}

static void call(RowId id, const PfqArgs *a, int tid, const GpuLaunch *l)
{
    if (tid || (getenv("PFQ_FAST") && gpu_fast(id, a, l))) return;
    gpu_call(a, l);
}

#define CUDA(id, file, symbol, block_, grid_x_, rows_, shared_)                                    \
    void call_##id(const PfqArgs *a, int tid, int nt)                                              \
    {                                                                                              \
        const int64_t N = c_N, K = c_K, H = c_heads, G = c_kv_heads, D = c_head_dim;               \
        (void)N, (void)K, (void)H, (void)G, (void)D, (void)nt;                                     \
        const GpuLaunch l = {.template = file,                                                     \
                             .entry = symbol,                                                      \
                             .block = block_,                                                      \
                             .grid_x = grid_x_,                                                    \
                             .rows = rows_,                                                        \
                             .shared = shared_};                                                   \
        call(ROW_##id, a, tid, &l);                                                                \
    }
#include "codegen/cuda/kernels.def"
