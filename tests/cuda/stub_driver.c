/* A CUDA driver without a GPU, for tests: built as a shared library that PFQC_CUDA_DRIVER names.
 *
 * Device memory is host memory between guards, streams do their work at once, "modules" are any
 * bytes. It is strict where a real driver is forgiving: addresses must lie inside one allocation,
 * launches must obey the limits of sm_90, and at exit everything must have been released; else
 * it prints "stub: ..." and ends the program with status 70. Functions are looked up in the shared
 * object PFQ_STUB_KERNELS, by name, and called there:
 *     void NAME(const PfqCudaArgs *a, const int32_t grid[3], int32_t block, int32_t shared)
 * without it every name is found and a launch does nothing. The environment says what it pretends:
 *
 *   PFQ_STUB_DEVICES=1  PFQ_STUB_CAPABILITY=90  PFQ_STUB_DRIVER=13000  PFQ_STUB_MEMORY=1024 (MiB)
 *   PFQ_STUB_SMS=3      multiprocessors
 *   PFQ_STUB_GRAPHS=0   refuses to capture
 *   PFQ_STUB_FAIL=N:E   call N (from 1; or every call of the name N) returns the error E (OOM,
 * ...); LAUNCH_FAILED and ILLEGAL_ADDRESS then stay, as on a GPU: all later calls return them
 *   PFQ_STUB_LOG=FILE   gets the name of every call, a line each (cuGetError* are not counted)
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dladdr1 */
#endif
#include "runtime/cuda.h"

#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CUDA_CALL(symbol, params) int symbol params;
#include "runtime/cuda.def"
int cuModuleGetGlobal_v2(uint64_t *at, size_t *bytes, void *module,
                         const char *name); /* for tests */

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101 };
enum { INVALID_CONTEXT = 201, NO_BINARY = 209, INVALID_HANDLE = 400, NOT_FOUND = 500 };
enum { ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719, NOT_SUPPORTED = 801 };
enum { NOT_INITIALIZED = 3, TOO_LARGE = 720, CAPTURE_UNSUPPORTED = 900 };

static const struct {
    int code;
    const char *key, *name, *text;
} errors[] = {
    {INVALID_VALUE, "INVALID_VALUE", "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "OOM", "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "NOT_INITIALIZED", "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "NO_DEVICE", "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "INVALID_DEVICE", "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "INVALID_CONTEXT", "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {NO_BINARY, "NO_BINARY_FOR_GPU", "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image"},
    {INVALID_HANDLE, "INVALID_HANDLE", "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "NOT_FOUND", "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {ILLEGAL_ADDRESS, "ILLEGAL_ADDRESS", "CUDA_ERROR_ILLEGAL_ADDRESS", "illegal memory access"},
    {LAUNCH_FAILED, "LAUNCH_FAILED", "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {TOO_LARGE, "TOO_LARGE", "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", "too many blocks"},
    {CAPTURE_UNSUPPORTED, "CAPTURE", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "not permitted"},
};
enum { N_ERRORS = sizeof errors / sizeof *errors };

enum { GUARD = 256, GUARD_BYTE = 0xa5, PLAIN_SHARED = 49152, MAX_SHARED = 232448 };
enum { MAX_THREADS = 1024, MAX_GRID_Y = 65535, DYNAMIC_SHARED = 8 };
enum { CLOCK = 13, SMS = 16, MAJOR = 75, MINOR = 76 };

typedef enum Kind { MEMORY, STREAM, MODULE, FUNCTION, GRAPH, EXEC, EVENT, CONTEXT, PINNED } Kind;
static const char *const kind_names[] = {"memory", "stream", "module",  "function", "graph",
                                         "exec",   "event",  "context", "pinned"};

typedef void Kernel(const PfqCudaArgs *a, const int32_t grid[3], int32_t block, int32_t shared);

typedef struct Launch {
    Kernel *kernel;
    PfqCudaArgs args;
    int32_t grid[3], block, shared, cluster;
} Launch;

/* Anything with a handle. All live in one list until they are released. */
typedef struct Object {
    struct Object *next;
    Kind kind;
    uint64_t bytes;       /* memory; event: when it was recorded; pinned: its address */
    uint64_t end;         /* pinned: behind it */
    unsigned char *block; /* memory: guard, bytes, guard */
    Kernel *kernel;       /* function */
    int32_t shared;       /* function: allowed */
    struct Object *owner; /* function: its module */
    Launch *launches;     /* graph, exec */
    size_t n_launches;
} Object;

static struct {
    Object *objects;
    Object *context, *current; /* the primary one; what is current */
    Object *capture;           /* the graph in recording */
    uint64_t used;
    uint64_t variable, variable_bytes; /* of a module, the one that was asked for */
    void (*before)(void);              /* called before each launch: PFQ_STUB_KERNELS' function
                                          pfq_before_launch, if it has one */
    int32_t *cluster;                  /* its simt_cluster: blocks of a cluster of the launch */
    long calls;
    int sticky;
    bool initialised;
} stub;

/* ---- what every call does first ---- */

static long setting(const char *name, long otherwise)
{
    const char *v = getenv(name);
    return v ? strtol(v, NULL, 10) : otherwise;
}

_Noreturn static void bug(const char *call, const char *what)
{
    fprintf(stderr, "stub: %s: %s\n", call, what);
    _exit(70);
}

static int asked_failure(const char *call)
{
    const char *fail = getenv("PFQ_STUB_FAIL");
    const char *key = fail ? strchr(fail, ':') : NULL;
    if (!key ||
        (strtol(fail, NULL, 10) != stub.calls &&
         (strlen(call) != (size_t)(key - fail) || strncmp(fail, call, strlen(call)) != 0))) {
        return OK;
    }
    for (int i = 0; i < N_ERRORS; i++) {
        if (strcmp(errors[i].key, key + 1) == 0) {
            return errors[i].code;
        }
    }
    bug("PFQ_STUB_FAIL", "unknown error");
}

static int enter(const char *call)
{
    const char *log = getenv("PFQ_STUB_LOG");
    FILE *f = log ? fopen(log, "a") : NULL;
    if (f) {
        fprintf(f, "%s\n", call);
        fclose(f);
    }
    stub.calls++;
    int r = stub.sticky ? stub.sticky : asked_failure(call);
    if (r == LAUNCH_FAILED || r == ILLEGAL_ADDRESS) {
        stub.sticky = r;
    }
    return r;
}

/* What most calls need besides. */
static int enter_context(const char *call)
{
    int r = enter(call);
    if (!stub.initialised) {
        bug(call, "before cuInit");
    }
    if (!stub.current) {
        bug(call, "no context is current");
    }
    return r;
}

#define ENTER()                                                                                    \
    do {                                                                                           \
        int entered = enter(__func__);                                                             \
        if (entered) {                                                                             \
            return entered;                                                                        \
        }                                                                                          \
    } while (0)
#define ENTER_CONTEXT()                                                                            \
    do {                                                                                           \
        int entered = enter_context(__func__);                                                     \
        if (entered) {                                                                             \
            return entered;                                                                        \
        }                                                                                          \
    } while (0)

/* ---- objects ---- */

static Object *make(Kind kind)
{
    Object *o = calloc(1, sizeof *o);
    if (!o) {
        bug(kind_names[kind], "out of memory");
    }
    o->kind = kind;
    o->next = stub.objects;
    stub.objects = o;
    return o;
}

static Object *check(const void *handle, Kind kind, const char *call)
{
    for (Object *o = stub.objects; o; o = o->next) {
        if (o == handle && o->kind == kind) {
            return o;
        }
    }
    bug(call, "unknown or released handle");
}

static void drop(Object *o)
{
    Object **at = &stub.objects;
    while (*at != o) {
        at = &(*at)->next;
    }
    *at = o->next;
    free(o->launches);
    free(o->block);
    free(o);
}

static void check_guards(const Object *o, const char *call)
{
    for (size_t i = 0; i < GUARD; i++) {
        if (o->block[i] != GUARD_BYTE || o->block[GUARD + o->bytes + i] != GUARD_BYTE) {
            bug(call, "a kernel wrote outside its memory");
        }
    }
}

static Object *memory_at(uint64_t at, uint64_t bytes, const char *call)
{
    static Object variable;
    if (at >= stub.variable && at + bytes <= stub.variable + stub.variable_bytes) {
        return &variable;
    }
    for (Object *o = stub.objects; o; o = o->next) {
        const uint64_t base = (uint64_t)(uintptr_t)o->block + GUARD;
        if (o->kind == MEMORY && at >= base && at <= base + o->bytes &&
            bytes <= base + o->bytes - at) {
            return o;
        }
    }
    bug(call, "not inside an allocation");
}

__attribute__((destructor)) static void at_exit(void)
{
    for (const Object *o = stub.objects; o; o = o->next) {
        if (o->kind != FUNCTION) {
            bug("at exit", kind_names[o->kind]);
        }
    }
}

/* ---- errors, devices ---- */

int cuGetErrorName(int result, const char **name)
{
    for (int i = 0; i < N_ERRORS; i++) {
        if (errors[i].code == result) {
            *name = errors[i].name;
            return OK;
        }
    }
    return INVALID_VALUE;
}

int cuGetErrorString(int result, const char **text)
{
    for (int i = 0; i < N_ERRORS; i++) {
        if (errors[i].code == result) {
            *text = errors[i].text;
            return OK;
        }
    }
    return INVALID_VALUE;
}

int cuInit(unsigned flags)
{
    ENTER();
    (void)flags;
    stub.initialised = true;
    return setting("PFQ_STUB_DEVICES", 1) > 0 ? OK : NO_DEVICE;
}

int cuDriverGetVersion(int *version)
{
    ENTER();
    *version = (int)setting("PFQ_STUB_DRIVER", 13000);
    return OK;
}

int cuDeviceGetCount(int *count)
{
    ENTER();
    *count = (int)setting("PFQ_STUB_DEVICES", 1);
    return OK;
}

int cuDeviceGet(int *device, int ordinal)
{
    ENTER();
    *device = ordinal;
    return ordinal >= 0 && ordinal < setting("PFQ_STUB_DEVICES", 1) ? OK : INVALID_DEVICE;
}

int cuDeviceGetName(char *name, int cap, int device)
{
    ENTER();
    snprintf(name, (size_t)cap, "Stub %d", device);
    return OK;
}

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    ENTER();
    const int capability = (int)setting("PFQ_STUB_CAPABILITY", 90);
    (void)device;
    *value = attribute == MAJOR   ? capability / 10
             : attribute == MINOR ? capability % 10
             : attribute == CLOCK ? 1000000
                                  : (int)setting("PFQ_STUB_SMS", 3);
    return attribute == MAJOR || attribute == MINOR || attribute == CLOCK || attribute == SMS
               ? OK
               : INVALID_VALUE;
}

static size_t total_memory(void)
{
    return (size_t)setting("PFQ_STUB_MEMORY", 1024) << 20;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device)
{
    ENTER();
    (void)device;
    *bytes = total_memory();
    return OK;
}

int cuDevicePrimaryCtxRetain(void **context, int device)
{
    ENTER();
    (void)device;
    if (stub.context) {
        bug(__func__, "retained twice");
    }
    *context = stub.context = make(CONTEXT);
    return OK;
}

int cuDevicePrimaryCtxRelease_v2(int device)
{
    int r = enter(__func__);
    (void)device;
    for (Object *o = stub.objects, *next; o; o = next) {
        next = o->next;
        if (o->kind != CONTEXT && o->kind != FUNCTION) {
            bug(__func__, "something of the context is left");
        }
    }
    drop(check(stub.context, CONTEXT, __func__));
    stub.context = stub.current = NULL;
    return r;
}

int cuCtxSetCurrent(void *context)
{
    ENTER();
    stub.current = context ? check(context, CONTEXT, __func__) : NULL;
    return OK;
}

/* ---- memory ---- */

int cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
    ENTER_CONTEXT();
    *total = total_memory();
    *free_bytes = *total - stub.used;
    return OK;
}

static int allocate(uint64_t *at, size_t bytes, const char *call)
{
    int entered = enter_context(call);
    if (entered) {
        return entered;
    }
    if (bytes == 0) {
        return INVALID_VALUE;
    }
    if (stub.used + bytes > total_memory()) {
        return OUT_OF_MEMORY;
    }
    Object *o = make(MEMORY);
    o->bytes = bytes;
    /* Memory lies at a multiple of 256, all that CUDA promises, and of no more. */
    o->block =
        aligned_alloc(4 * GUARD, (2 * GUARD + bytes + 4 * GUARD - 1) & ~(size_t)(4 * GUARD - 1));
    if (!o->block) {
        bug(call, "out of memory");
    }
    memset(o->block, GUARD_BYTE, 2 * GUARD + bytes);
    stub.used += bytes;
    *at = (uint64_t)(uintptr_t)o->block + GUARD;
    return OK;
}

int cuMemAlloc_v2(uint64_t *at, size_t bytes)
{
    return allocate(at, bytes, __func__);
}

static int release(uint64_t at, const char *call)
{
    int r = enter_context(call);
    Object *o = memory_at(at, 0, call);
    if (at != (uint64_t)(uintptr_t)o->block + GUARD) {
        bug(call, "not the start of an allocation");
    }
    check_guards(o, call);
    stub.used -= o->bytes;
    drop(o);
    return r;
}

int cuMemFree_v2(uint64_t at)
{
    return release(at, __func__);
}

/* The host's memory that a GPU writes: here memory as any, but for the limit. */
int cuMemHostAlloc(void **at, size_t bytes, unsigned flags)
{
    uint64_t device = 0;
    (void)flags;
    int r = allocate(&device, bytes, __func__);
    *at = (void *)(uintptr_t)device;
    return r;
}

int cuMemHostGetDevicePointer_v2(uint64_t *at, void *host, unsigned flags)
{
    ENTER_CONTEXT();
    (void)flags;
    memory_at((uint64_t)(uintptr_t)host, 1, __func__);
    *at = (uint64_t)(uintptr_t)host;
    return OK;
}

int cuMemFreeHost(void *at)
{
    return release((uint64_t)(uintptr_t)at, __func__);
}

int cuMemHostRegister_v2(void *at, size_t bytes, unsigned flags)
{
    ENTER_CONTEXT();
    if (!at || !bytes || flags) {
        bug(__func__, "no memory to pin");
    }
    Object *o = make(PINNED);
    o->bytes = (uint64_t)(uintptr_t)at;
    o->end = o->bytes + bytes;
    return OK;
}

/* Memory of the host that a copy touches: all of it pinned, or nothing. */
static bool half_pinned(const void *at, size_t bytes)
{
    const uint64_t from = (uint64_t)(uintptr_t)at, to = from + bytes;
    for (const Object *o = stub.objects; o; o = o->next) {
        if (o->kind == PINNED && from < o->end && to > o->bytes &&
            (from < o->bytes || to > o->end)) {
            return true;
        }
    }
    return false;
}

int cuMemHostUnregister(void *at)
{
    const int r = enter_context(__func__);
    Object *o = stub.objects;
    while (o && (o->kind != PINNED || o->bytes != (uint64_t)(uintptr_t)at)) {
        o = o->next;
    }
    if (!o) {
        bug(__func__, "not pinned");
    }
    drop(o);
    return r;
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream)
{
    ENTER_CONTEXT();
    check(stream, STREAM, __func__);
    memory_at(to, bytes, __func__);
    memcpy((void *)(uintptr_t)to, from, bytes);
    return OK;
}

int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream)
{
    ENTER_CONTEXT();
    check(stream, STREAM, __func__);
    memory_at(from, bytes, __func__);
    if (half_pinned(to, bytes)) {
        return INVALID_VALUE;
    }
    memcpy(to, (const void *)(uintptr_t)from, bytes);
    return OK;
}

int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream)
{
    ENTER_CONTEXT();
    check(stream, STREAM, __func__);
    memory_at(from, bytes, __func__);
    memory_at(to, bytes, __func__);
    if (to < from + bytes && from < to + bytes) {
        bug(__func__, "the places overlap");
    }
    memcpy((void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes);
    return OK;
}

int cuMemcpy2DAsync_v2(const PfqCudaCopy2D *copy, void *stream)
{
    ENTER_CONTEXT();
    check(stream, STREAM, __func__);
    const PfqCudaPlane *from = &copy->from, *to = &copy->to;
    if (from->kind != PFQ_CUDA_DEVICE || to->kind != PFQ_CUDA_DEVICE || from->x || from->y ||
        to->x || to->y || copy->width > from->pitch || copy->width > to->pitch || !copy->height) {
        bug(__func__, "not two planes of device memory");
    }
    for (size_t i = 0; i < copy->height; i++) {
        const uint64_t src = from->device + i * from->pitch, dst = to->device + i * to->pitch;
        memory_at(src, copy->width, __func__);
        memory_at(dst, copy->width, __func__);
        if (dst < src + copy->width && src < dst + copy->width) {
            bug(__func__, "the places overlap");
        }
        memcpy((void *)(uintptr_t)dst, (const void *)(uintptr_t)src, copy->width);
    }
    return OK;
}

int cuMemsetD8Async(uint64_t at, unsigned char value, size_t bytes, void *stream)
{
    ENTER_CONTEXT();
    check(stream, STREAM, __func__);
    memory_at(at, bytes, __func__);
    memset((void *)(uintptr_t)at, value, bytes);
    return OK;
}

/* ---- streams, modules ---- */

int cuStreamCreate(void **stream, unsigned flags)
{
    ENTER_CONTEXT();
    (void)flags;
    *stream = make(STREAM);
    return OK;
}

int cuStreamSynchronize(void *stream)
{
    ENTER_CONTEXT();
    check(stream, STREAM, __func__);
    return stub.capture ? CAPTURE_UNSUPPORTED : OK;
}

int cuStreamQuery(void *stream)
{
    ENTER_CONTEXT();
    check(stream, STREAM, __func__);
    return OK;
}

int cuStreamDestroy_v2(void *stream)
{
    int r = enter_context(__func__);
    drop(check(stream, STREAM, __func__));
    return r;
}

int cuModuleLoadData(void **module, const void *image)
{
    ENTER_CONTEXT();
    if (!image) {
        return INVALID_VALUE;
    }
    *module = make(MODULE);
    return OK;
}

int cuModuleUnload(void *module)
{
    int r = enter_context(__func__);
    Object *m = check(module, MODULE, __func__);
    for (Object *o = stub.objects, *next; o; o = next) {
        next = o->next;
        if (o->kind == FUNCTION && o->owner == m) {
            drop(o);
        }
    }
    drop(m);
    return r;
}

static void nothing(const PfqCudaArgs *a, const int32_t grid[3], int32_t block, int32_t shared)
{
    (void)a, (void)grid, (void)block, (void)shared;
}

/* The library whose functions are the kernels; NULL: launches do nothing. */
static void *kernels_library(const char *call)
{
    const char *file = getenv("PFQ_STUB_KERNELS");
    void *lib = file ? dlopen(file, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (file && !lib) {
        bug(call, dlerror());
    }
    return lib;
}

/* A kernel is the function `name`, or name_simt, in a library of templates. */
int cuModuleGetFunction(void **function, void *module, const char *name)
{
    ENTER_CONTEXT();
    Object *m = check(module, MODULE, __func__);
    void *lib = kernels_library(__func__);
    Kernel *kernel = nothing;
    if (lib) {
        char longer[256];
        snprintf(longer, sizeof longer, "%s_simt", name);
        void *f = dlsym(lib, name);
        f = f ? f : dlsym(lib, longer);
        if (!f) {
            return NOT_FOUND;
        }
        kernel = (Kernel *)(uintptr_t)f;
        stub.before = (void (*)(void))(uintptr_t)dlsym(lib, "pfq_before_launch");
        stub.cluster = dlsym(lib, "simt_cluster");
    }
    Object *f = make(FUNCTION);
    f->owner = m;
    f->kernel = kernel;
    f->shared = PLAIN_SHARED;
    *function = f;
    return OK;
}

int cuModuleGetGlobal_v2(uint64_t *at, size_t *bytes, void *module, const char *name)
{
    ENTER_CONTEXT();
    check(module, MODULE, __func__);
    void *lib = kernels_library(__func__), *p = lib ? dlsym(lib, name) : NULL;
    Dl_info info;
    ElfW(Sym) * symbol;
    if (!p || !dladdr1(p, &info, (void **)&symbol, RTLD_DL_SYMENT)) {
        return NOT_FOUND;
    }
    *at = stub.variable = (uint64_t)(uintptr_t)p;
    *bytes = stub.variable_bytes = symbol->st_size;
    return OK;
}

int cuFuncSetAttribute(void *function, int attribute, int value)
{
    ENTER_CONTEXT();
    Object *f = check(function, FUNCTION, __func__);
    if (attribute != DYNAMIC_SHARED || value < 0 || value > MAX_SHARED) {
        return INVALID_VALUE;
    }
    f->shared = value;
    return OK;
}

/* ---- launches and graphs ---- */

static void record(Object *graph, const Launch *l)
{
    Launch *all = realloc(graph->launches, (graph->n_launches + 1) * sizeof *all);
    if (!all) {
        bug("graph", "out of memory");
    }
    all[graph->n_launches++] = *l;
    graph->launches = all;
}

static void play(const Launch *l)
{
    if (stub.before) {
        stub.before();
    }
    if (stub.cluster) {
        *stub.cluster = l->cluster;
    }
    l->kernel(&l->args, l->grid, l->block, l->shared);
}

static int launch(void *function, const uint32_t grid[3], const uint32_t block[3], uint32_t shared,
                  uint32_t cluster, void *stream, void **params, void **extra, const char *call)
{
    int entered = enter_context(call);
    if (entered) {
        return entered;
    }
    const Object *f = check(function, FUNCTION, call);
    check(stream, STREAM, call);
    if (!grid[0] || !grid[1] || !grid[2] || grid[1] > MAX_GRID_Y || grid[2] > MAX_GRID_Y ||
        !block[0] || block[0] > MAX_THREADS || block[1] != 1 || block[2] != 1 || extra ||
        shared > (unsigned)f->shared) {
        return INVALID_VALUE;
    }
    Launch l = {.kernel = f->kernel,
                .grid = {(int32_t)grid[0], (int32_t)grid[1], (int32_t)grid[2]},
                .block = (int32_t)block[0],
                .shared = (int32_t)shared,
                .cluster = (int32_t)cluster};
    memcpy(&l.args, params[0], sizeof l.args);
    if (stub.capture) {
        record(stub.capture, &l);
    } else {
        play(&l);
    }
    return OK;
}

int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                   void *stream, void **params, void **extra)
{
    const uint32_t grid[3] = {grid_x, grid_y, grid_z}, block[3] = {block_x, block_y, block_z};
    return launch(function, grid, block, shared, 1, stream, params, extra, __func__);
}

/* A cooperative grid must be on the chip at once: here, a block for each multiprocessor. */
int cuLaunchKernelEx(const PfqCudaLaunch *c, void *function, void **params, void **extra)
{
    unsigned cluster = 1;
    for (uint32_t i = 0; i < c->n_attributes; i++) {
        const PfqCudaAttribute *a = &c->attribute[i];
        if (a->id == PFQ_LAUNCH_CLUSTER) {
            cluster = a->value.cluster.x;
        } else if (a->id != PFQ_LAUNCH_COOPERATIVE && a->id != PFQ_LAUNCH_OVERLAP) {
            bug(__func__, "unknown attribute");
        } else if (a->value.on != 1) {
            bug(__func__, "an attribute is off");
        } else if (a->id == PFQ_LAUNCH_COOPERATIVE &&
                   c->grid[0] * c->grid[1] > (unsigned)setting("PFQ_STUB_SMS", 3)) {
            return TOO_LARGE;
        }
    }
    if (cluster < 1 || cluster > 8 || c->grid[0] % cluster) {
        return INVALID_VALUE;
    }
    return launch(function, c->grid, c->block, c->shared, cluster, c->stream, params, extra,
                  __func__);
}

/* ---- events: the clock counts those recorded ---- */

int cuEventCreate(void **event, unsigned flags)
{
    ENTER_CONTEXT();
    (void)flags;
    *event = make(EVENT);
    return OK;
}

int cuEventRecord(void *event, void *stream)
{
    ENTER_CONTEXT();
    static uint64_t clock;
    check(stream, STREAM, __func__);
    check(event, EVENT, __func__)->bytes = ++clock;
    return OK;
}

int cuEventElapsedTime(float *ms, void *from, void *to)
{
    ENTER_CONTEXT();
    const Object *a = check(from, EVENT, __func__), *b = check(to, EVENT, __func__);
    if (!a->bytes || !b->bytes) {
        return INVALID_HANDLE;
    }
    *ms = (float)(b->bytes - a->bytes) * 0.001f;
    return OK;
}

int cuEventDestroy_v2(void *event)
{
    int r = enter_context(__func__);
    drop(check(event, EVENT, __func__));
    return r;
}

int cuStreamBeginCapture_v2(void *stream, int mode)
{
    ENTER_CONTEXT();
    (void)mode;
    check(stream, STREAM, __func__);
    if (!setting("PFQ_STUB_GRAPHS", 1)) {
        return CAPTURE_UNSUPPORTED;
    }
    stub.capture = make(GRAPH);
    return OK;
}

/* Ends the recording also where it fails, as CUDA does. */
int cuStreamEndCapture(void *stream, void **graph)
{
    int r = enter_context(__func__);
    check(stream, STREAM, __func__);
    if (!stub.capture) {
        bug(__func__, "nothing is being captured");
    }
    if (r) {
        drop(stub.capture);
        *graph = NULL;
    } else {
        *graph = stub.capture;
    }
    stub.capture = NULL;
    return r;
}

int cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags)
{
    ENTER_CONTEXT();
    const Object *g = check(graph, GRAPH, __func__);
    Object *e = make(EXEC);
    (void)flags;
    for (size_t i = 0; i < g->n_launches; i++) {
        record(e, &g->launches[i]);
    }
    *exec = e;
    return OK;
}

int cuGraphLaunch(void *exec, void *stream)
{
    ENTER_CONTEXT();
    const Object *e = check(exec, EXEC, __func__);
    check(stream, STREAM, __func__);
    for (size_t i = 0; i < e->n_launches; i++) {
        play(&e->launches[i]);
    }
    return OK;
}

int cuGraphDestroy(void *graph)
{
    int r = enter_context(__func__);
    drop(check(graph, GRAPH, __func__));
    return r;
}

int cuGraphExecDestroy(void *exec)
{
    int r = enter_context(__func__);
    drop(check(exec, EXEC, __func__));
    return r;
}
