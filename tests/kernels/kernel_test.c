#include "tests/kernels/kernel_test.h"

#include "runtime/cpu.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static _Noreturn void die(const char *what, const char *name)
{
    fprintf(stderr, "%s: %s\n", what, name);
    exit(1);
}

/* ---- libraries ---- */

static const struct {
    const char *name, *cpu, *features;
    uint32_t bits;
} variants[] = {
#define X(name, cpu, features, bits) {#name, cpu, features, bits},
#include "codegen/variants.def"
#undef X
};

static size_t variant_of(const char *name)
{
    size_t n = strcspn(name, "-"); /* NAME-emulated is compiled as the best variant below it */
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++)
        if (!strncmp(name, variants[i].name, n) && !variants[i].name[n])
            return i;
    die("no such variant", name);
}

bool kt_variant_runs(const char *variant)
{
    if (!strcmp(variant, "cuda") || !strcmp(variant, "gpu"))
        return true;
    uint32_t need = variants[variant_of(variant)].bits;
    if (strchr(variant, '-'))
        need &= ~(uint32_t)PFQ_CPU_AMX_INT8;
    return (pfq_cpu_features() & need) == need;
}

const char *kt_variant_flags(const char *variant)
{
    static char text[200];
    size_t v = variant_of(variant), n;
    n = (size_t)snprintf(text, sizeof text, "-march=%s", variants[v].cpu);
    for (const char *f = variants[v].features; *f; f++) {
        if (*f == '+')
            n += (size_t)snprintf(text + n, sizeof text - n, " -m");
        else if (*f != ',' && n + 1 < sizeof text)
            text[n++] = *f, text[n] = 0;
    }
    return text;
}

static KtFindBlock find_block;

KtLib kt_open(const char *path, const char *variant)
{
    KtLib lib = {dlopen(path, RTLD_NOW | RTLD_LOCAL), variant};
    if (!lib.handle)
        die("cannot load", dlerror());
    KtFindBlock **hook = dlsym(lib.handle, "kt_find_block");
    if (hook)
        *hook = find_block;
    KtAlloc **alloc = dlsym(lib.handle, "kt_alloc_block");
    if (alloc)
        *alloc = kt_alloc;
    return lib;
}

void *kt_symbol(const KtLib *lib, const char *name)
{
    void *p = dlsym(lib->handle, name);
    if (!p)
        die("the library lacks", name);
    return p;
}

static const char *entry_of(const char *name)
{
#define KERNEL(id, kernel_name, template, kernel_entry, scratch, doc)                                              \
    if (!strcmp(name, kernel_name))                                                                                \
        return kernel_entry;
#include "codegen/cpu/kernels.def"
    die("no such kernel", name);
}

bool kt_has(const KtLib *lib, const char *name) { return dlsym(lib->handle, entry_of(name)) != NULL; }

PfqKernel *kt_kernel(const KtLib *lib, const char *name)
{
    void *p = kt_symbol(lib, entry_of(name));
    PfqKernel *k;
    memcpy(&k, &p, sizeof k);
    return k;
}

static void set_const(const KtLib *lib, const char *name, bool is_float, double value)
{
    char symbol[64];
    snprintf(symbol, sizeof symbol, "c_%s", name);
    void *p = kt_symbol(lib, symbol);
    if (is_float)
        *(float *)p = (float)value;
    else
        *(int32_t *)p = (int32_t)value;
}

void kt_set(const KtLib *lib, const KtConst *c, size_t n)
{
    static const struct {
        const char *name, *type;
        double value;
    } all[] = {
#define CONSTANT(name, type, def, doc) {#name, #type, def},
#include "codegen/cpu/kernels.def"
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        double v = all[i].value;
        for (size_t j = 0; j < n; j++)
            if (!strcmp(c[j].name, all[i].name))
                v = c[j].value;
        set_const(lib, all[i].name, !strcmp(all[i].type, "float"), v);
    }
}

size_t kt_scratch(const char *name, int64_t K, int64_t D)
{
    (void)K, (void)D;
#define KERNEL(id, kernel_name, template, entry, scratch, doc)                                                     \
    if (!strcmp(name, kernel_name))                                                                                \
        return (size_t)(scratch);
#include "codegen/cpu/kernels.def"
    die("no such kernel", name);
}

KtLib kt_compile(const char *source, const char *variant, const char *from, const char *to)
{
    char command[2000], path[700];
    snprintf(path, sizeof path, "%s.so", to);
    snprintf(command, sizeof command,
             "clang-19 -std=gnu17 -O3 -fno-builtin -fno-math-errno -fno-trapping-math -ffp-contract=off %s -mtune=native "
             "-mprefer-vector-width=512 -fPIC -fvisibility=protected -w -shared -I%s %s -o %s",
             kt_variant_flags(variant), source, from, path);
    if (system(command))
        die("cannot compile", from);
    return kt_open(path, variant);
}

PfqKernel *kt_specialise(const char *source, const char *variant, const char *path, const char *name, const KtConst *c,
                         size_t n)
{
    const char *template = NULL;
#define KERNEL(ident, kernel_name, file, entry, scratch, doc) \
    if (!strcmp(name, kernel_name))                           \
        template = file;
#include "codegen/cpu/kernels.def"
    FILE *f = fopen(path, "w");
    if (!f || !template)
        die("cannot write", path);
    fprintf(f, "#include <stdint.h>\n");
    static const struct {
        const char *name, *type;
        double value;
    } all[] = {
#define CONSTANT(cname, type, def, doc) {#cname, #type, def},
#include "codegen/cpu/kernels.def"
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        double v = all[i].value;
        for (size_t j = 0; j < n; j++)
            if (!strcmp(c[j].name, all[i].name))
                v = c[j].value;
        fprintf(f, "extern const %s c_%s; const %s c_%s = (%s)%.9g;\n", all[i].type, all[i].name, all[i].type,
                all[i].name, all[i].type, v);
    }
    fprintf(f, "#include \"%s/codegen/cpu/%s\"\n", source, template);
    fclose(f);
    KtLib lib = kt_compile(source, variant, path, path);
    return kt_kernel(&lib, name);
}

/* ---- memory ---- */

typedef struct Block {
    char *map;
    size_t bytes, body; /* of all; of what kt_alloc's caller may use */
} Block;

static Block blocks[256];
static size_t n_blocks;

void *kt_alloc(size_t bytes)
{
    size_t body = (bytes + 63) / 64 * 64, size = (body + 4095) / 4096 * 4096 + 4096;
    char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || n_blocks == sizeof blocks / sizeof *blocks)
        die("out of memory", "kt_alloc");
    mprotect(p + size - 4096, 4096, PROT_NONE);
    blocks[n_blocks++] = (Block){p, size, body};
    memset(p, 0xff, size - 4096);
    return p + size - 4096 - body;
}

static bool find_block(const void *p, void **block, size_t *bytes)
{
    for (size_t i = 0; i < n_blocks; i++) {
        char *end = blocks[i].map + blocks[i].bytes - 4096, *begin = end - blocks[i].body;
        if ((const char *)p < begin || (const char *)p > end)
            continue;
        *block = begin;
        *bytes = blocks[i].body;
        return true;
    }
    return false;
}

void kt_free_all(void)
{
    while (n_blocks) {
        n_blocks--;
        munmap(blocks[n_blocks].map, blocks[n_blocks].bytes);
    }
}

/* ---- numbers ---- */

static uint64_t state;

void kt_seed(uint64_t seed) { state = seed; }

static uint64_t next(void) /* splitmix64 */
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double kt_uniform(void) { return (double)(int64_t)next() * 0x1p-63; }
int32_t kt_int(int32_t lo, int32_t hi) { return lo + (int32_t)(next() % (uint64_t)(hi - lo + 1)); }

float kt_f16(uint16_t h)
{
    int32_t e = h >> 10 & 31, m = h & 1023;
    float v = e ? (float)(m | 1024) : (float)m;
    for (int32_t i = e ? e : 1; i < 25; i++)
        v *= 0.5f;
    for (int32_t i = 25; i < e; i++)
        v *= 2.0f;
    return h & 0x8000 ? -v : v;
}

uint16_t kt_to_f16(float x) /* of a small normal number; rounds to nearest even */
{
    uint32_t b;
    memcpy(&b, &x, 4);
    uint32_t sign = b >> 16 & 0x8000, e = (b >> 23 & 255) - 112, m = b & 0x7fffff;
    if ((b & 0x7fffffff) == 0 || (int32_t)e <= 0)
        return (uint16_t)sign;
    uint32_t h = e << 10 | m >> 13, rest = m & 0x1fff;
    h += rest > 0x1000 || (rest == 0x1000 && h & 1);
    return (uint16_t)(sign | h);
}

/* ---- data ---- */

typedef struct Packing {
    int layout;
    int32_t K;
    size_t tile_bytes;
} Packing;

static size_t tile_bytes(int layout, int32_t K)
{
    size_t k = (size_t)K;
    if (layout == KT_F32)
        return k * 64;
    if (layout == KT_BF16)
        return (k + 1) / 2 * 64;
    if (layout == KT_U4G32)
        return (k + 31) / 32 * 320;
    return 128 + (layout == KT_S8 ? (k + 3) / 4 : (k + 7) / 8) * 64;
}

/* Fills row r of a tile with random weights and writes what they stand for to w[K]. */
static void fill_row(const Packing *p, char *tile, int32_t r, double *w)
{
    if (p->layout == KT_F32) {
        for (int32_t k = 0; k < p->K; k++) {
            float v = (float)kt_uniform();
            ((float *)tile)[16 * k + r] = v;
            w[k] = (double)v;
        }
    } else if (p->layout == KT_BF16) {
        for (int32_t k = 0; k < p->K; k++) {
            float v = (float)kt_uniform();
            uint32_t b;
            memcpy(&b, &v, 4);
            ((uint16_t *)tile)[k / 2 * 32 + 2 * r + k % 2] = (uint16_t)(b >> 16);
            b &= 0xffff0000u;
            memcpy(&v, &b, 4);
            w[k] = (double)v;
        }
    } else if (p->layout != KT_U4G32) {
        const int32_t high = p->layout == KT_S8 ? 127 : 7;
        float scale = kt_int(0, 1) ? 0x1p-7f : 0x1p-8f; /* static linears are exact then */
        int32_t sum = 0, kind = kt_int(0, 4); /* some rows hold only the largest values */
        for (int32_t k = 0; k < p->K; k++) {
            int32_t q = kind == 0   ? (kt_int(0, 1) ? high : -high - 1)
                        : kind == 1 ? -high - 1
                                    : kt_int(-high - 1, high);
            sum += q;
            if (p->layout == KT_S8)
                tile[128 + k / 4 * 64 + r * 4 + k % 4] = (char)q;
            else
                tile[128 + k / 8 * 64 + r * 4 + k % 4] |= (char)(k & 4 ? q * 16 : q & 15);
            w[k] = (double)q * (double)scale;
        }
        ((float *)tile)[r] = scale;
        ((int32_t *)tile)[16 + r] = 128 * sum;
    } else {
        for (int32_t g = 0; g * 32 < p->K; g++) {
            uint16_t *head = (uint16_t *)(tile + 320 * g);
            uint8_t *body = (uint8_t *)tile + 320 * g + 64;
            head[r] = kt_to_f16((float)(0.02 + 0.01 * kt_uniform()));
            head[16 + r] = kt_to_f16((float)(0.2 * kt_uniform() - 0.1));
            int32_t extreme = kt_int(0, 3) == 0;
            for (int32_t i = 0; i < 32 && 32 * g + i < p->K; i++) {
                int32_t q = extreme ? 15 : kt_int(0, 15);
                body[64 * (i / 8) + 4 * r + i % 4] |= (uint8_t)(i & 4 ? q << 4 : q);
                w[32 * g + i] = (double)q * (double)kt_f16(head[r]) + (double)kt_f16(head[16 + r]);
            }
        }
    }
}

KtWeight kt_weight(int layout, int32_t N, int32_t K, int interleave)
{
    Packing p = {layout, K, tile_bytes(layout, K)};
    int32_t per = N / interleave;
    KtWeight w = {N, K, (per + 15) / 16 * interleave, NULL, NULL};
    w.packed = kt_alloc((size_t)w.tiles * p.tile_bytes);
    memset(w.packed, 0, (size_t)w.tiles * p.tile_bytes);
    w.w = kt_alloc((size_t)N * (size_t)K * sizeof(double));
    for (int32_t n = 0; n < N; n++) {
        int32_t tile = n % per / 16 * interleave + n / per;
        fill_row(&p, (char *)w.packed + (size_t)tile * p.tile_bytes, n % per % 16, w.w + (size_t)n * (size_t)K);
    }
    return w;
}

/* Rows of the largest magnitudes now and then, so that overflow would show. */
static int32_t some_int(int32_t low, int32_t high, int32_t kind)
{
    if (kind > 1)
        return kt_int(low, high);
    return kind == 1 || kt_int(0, 1) ? high : low;
}

KtAct kt_activation(int fmt, int32_t T, int32_t K, bool is_static)
{
    size_t wide = ((size_t)K + 63) / 64 * 64, groups = ((size_t)K + 31) / 32, n = (size_t)T;
    static const int32_t low[] = {0, -128, -32512, -32512}, most[] = {0, 127, 32512, 32512};
    KtAct a = {0};
    a.x = kt_alloc(n * (size_t)K * sizeof(double));
    size_t stride = fmt == 0 ? 4 * (size_t)K : fmt == 1 ? wide : fmt == 2 ? 2 * wide : 64 * groups;
    a.ints = kt_alloc(n * stride);
    a.scales = kt_alloc(n * groups * 4);
    if (fmt == 3)
        memset(a.ints, 0, n * stride);
    for (int32_t t = 0; t < T; t++) {
        uint8_t *row = (uint8_t *)a.ints + (size_t)t * stride;
        int32_t kind = kt_int(0, 4);
        float scale = 0;
        for (int32_t k = 0; k < K; k++) {
            size_t g = (size_t)k / 32, at = (size_t)k;
            if (k == 0 || (fmt == 3 && k % 32 == 0)) {
                scale = (float)((0.5 + 0.25 * kt_uniform()) / (fmt ? most[fmt] : 1));
                scale = is_static ? 1 : scale;
                a.scales[fmt == 3 ? (size_t)t * groups + g : (size_t)t] = scale;
            }
            double *x = a.x + (size_t)t * (size_t)K + k;
            if (fmt == 0) {
                float v = (float)kt_uniform();
                memcpy(row + 4 * at, &v, 4);
                *x = (double)v;
                continue;
            }
            int32_t q = some_int(low[fmt], most[fmt], kind);
            *x = (double)q * (double)scale;
            if (fmt == 1) {
                row[at] = (uint8_t)(q + 128);
            } else if (fmt == 2) {
                row[at] = (uint8_t)((q >> 8) + 128);
                row[wide + at] = (uint8_t)q;
            } else {
                row[64 * g + at % 32] = (uint8_t)((q + 128) >> 8);
                row[64 * g + 32 + at % 32] = (uint8_t)q;
            }
        }
    }
    return a;
}
