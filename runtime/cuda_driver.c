/* The CUDA driver's library, and the choice of a GPU and of code for it. Contract: cuda.h. */
#include "runtime/cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* CUdevice_attribute */
enum { CLOCK_RATE = 13, MULTIPROCESSORS = 16, CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76 };

typedef void AnyFunction(void);

/* Where each function goes. */
static const struct {
    const char *symbol;
    size_t at;
} entries[] = {
#define CUDA_CALL(symbol, params) {#symbol, offsetof(PfqCudaDriver, symbol)},
#include "runtime/cuda.def"
};

bool pfq_cuda_driver(PfqCudaDriver *d, const char *file, PfqErr *err)
{
    void *lib = dlopen(file ? file : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        return pfq_fail(err, "no NVIDIA driver is found: %s", dlerror());
    }
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        AnyFunction *f = (AnyFunction *)(uintptr_t)dlsym(lib, entries[i].symbol);
        if (!f) {
            return pfq_fail(err, "the NVIDIA driver is too old: it has no %s", entries[i].symbol);
        }
        memcpy((char *)d + entries[i].at, &f, sizeof f);
    }
    return true;
}

bool pfq_cuda_check(const PfqCudaDriver *d, int result, const char *call, const char *what,
                    PfqErr *err)
{
    if (result == PFQ_CUDA_OK) {
        return true;
    }
    char number[32];
    const char *name = NULL, *text = NULL;
    snprintf(number, sizeof number, "CUDA error %d", result);
    d->cuGetErrorName(result, &name);
    d->cuGetErrorString(result, &text);
    return pfq_fail(err, "%s (%s) failed: %s%s%s", call, what, name ? name : number,
                    text ? ", " : "", text ? text : "");
}

/* ---- choice ---- */

void pfq_gpu_targets(const PfqModel *m, char *out, size_t cap)
{
    size_t n = 0;
    snprintf(out, cap, "none");
    for (int32_t i = 0; m->cuda && i < m->cuda->n_codes && n < cap; i++) {
        n += (size_t)snprintf(out + n, cap - n, "%s%s", i ? ", " : "", m->cuda->code[i].target);
    }
}

/* How good the code is for a GPU of that capability; 0: it does not run there. Machine code beats
 * PTX, nearer beats farther, and code for that very chip beats what its family shares. */
static int32_t fitness(const PfqCudaCode *c, int32_t major, int32_t minor)
{
    const bool same = c->major == major && c->minor == minor,
               family = c->major == major && c->minor <= minor, older = c->major < major || family;
    if (c->ptx) {
        return older && (same || !c->exact) ? 1 + 100 * c->major + c->minor : 0;
    }
    return (c->exact ? same : family) ? 100000 + 2 * c->minor + c->exact : 0;
}

/* `name`: NULL, or the target that alone is considered. */
static const PfqCudaCode *best_code(const PfqCuda *cuda, int32_t major, int32_t minor,
                                    const char *name)
{
    const PfqCudaCode *best = NULL;
    for (int32_t i = 0; i < cuda->n_codes; i++) {
        const PfqCudaCode *c = &cuda->code[i];
        if ((!name || strcmp(name, c->target) == 0) &&
            fitness(c, major, minor) > (best ? fitness(best, major, minor) : 0)) {
            best = c;
        }
    }
    return best;
}

static bool check_version(const PfqCudaDriver *d, const PfqCuda *cuda, PfqErr *err)
{
    int have = 0;
    if (!pfq_cuda_check(d, d->cuDriverGetVersion(&have), "cuDriverGetVersion", "the driver", err)) {
        return false;
    }
    return have >= cuda->driver ||
           pfq_fail(err,
                    "the NVIDIA driver is too old: it supports CUDA %d.%d, this program needs "
                    "%d.%d",
                    have / 1000, have % 1000 / 10, cuda->driver / 1000, cuda->driver % 1000 / 10);
}

static bool find_device(PfqGpuChoice *g, int ordinal, PfqErr *err)
{
    const PfqCudaDriver *d = &g->driver;
    int count = 0, r = d->cuInit(0);
    if (r == PFQ_CUDA_OK) {
        r = d->cuDeviceGetCount(&count);
        if (!pfq_cuda_check(d, r, "cuDeviceGetCount", "the GPUs", err)) {
            return false;
        }
    } else if (r != PFQ_CUDA_NO_DEVICE) {
        return pfq_cuda_check(d, r, "cuInit", "the driver", err);
    }
    if (count == 0) {
        return pfq_fail(err, "no GPU is found: the NVIDIA driver sees none");
    }
    if (ordinal >= count) {
        return pfq_fail(err, "there is no GPU %d: the NVIDIA driver counts 0 to %d", ordinal,
                        count - 1);
    }
    return pfq_cuda_check(d, d->cuDeviceGet(&g->device, ordinal), "cuDeviceGet", "the GPU", err);
}

/* 8-bit integer operations of a multiprocessor's tensor cores (data sheets: their rate over SMs and
 * clock). */
static double ops_per_clock(int32_t major, int32_t minor)
{
    return major == 8 && minor == 0 ? 4096 : major == 9 ? 8192 : major == 10 ? 16384 : 2048;
}

static bool describe_device(PfqGpuChoice *g, PfqErr *err)
{
    const PfqCudaDriver *d = &g->driver;
    size_t bytes = 0;
    int r = d->cuDeviceGetName(g->name, (int)sizeof g->name, g->device);
    if (!pfq_cuda_check(d, r, "cuDeviceGetName", "the GPU", err)) {
        return false;
    }
    r = d->cuDeviceTotalMem_v2(&bytes, g->device);
    g->bytes = bytes;
    if (!pfq_cuda_check(d, r, "cuDeviceTotalMem_v2", g->name, err)) {
        return false;
    }
    r = d->cuDeviceGetAttribute(&g->major, CAPABILITY_MAJOR, g->device);
    r = r ? r : d->cuDeviceGetAttribute(&g->minor, CAPABILITY_MINOR, g->device);
    r = r ? r : d->cuDeviceGetAttribute(&g->sms, MULTIPROCESSORS, g->device);
    int khz = 0;
    r = r ? r : d->cuDeviceGetAttribute(&khz, CLOCK_RATE, g->device);
    g->ops_rate = 1e3 * (double)khz * g->sms * ops_per_clock(g->major, g->minor);
    return pfq_cuda_check(d, r, "cuDeviceGetAttribute", g->name, err);
}

bool pfq_gpu_choose(PfqGpuChoice *out, const PfqModel *m, const PfqGpuWish *wish, PfqErr *err)
{
    memset(out, 0, sizeof *out);
    if (!m->cuda) {
        return pfq_fail(err, "this program has no CUDA code");
    }
    if (!pfq_cuda_driver(&out->driver, wish->driver, err) ||
        !check_version(&out->driver, m->cuda, err) || !find_device(out, wish->device, err) ||
        !describe_device(out, err)) {
        return false;
    }
    out->code = best_code(m->cuda, out->major, out->minor, wish->code);
    if (!out->code) {
        char targets[256];
        pfq_gpu_targets(m, targets, sizeof targets);
        return pfq_fail(err, "this program has no %s%scode for the GPU '%s' (sm_%d%d); it has: %s",
                        wish->code ? wish->code : "", wish->code ? " " : "", out->name, out->major,
                        out->minor, targets);
    }
    return true;
}
