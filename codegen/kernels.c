/* The tables of codegen/cpu/kernels.def and codegen/cuda/kernels.def, and what the templates'
 * sources say about themselves. */
#include "codegen/plan.h"

#include <stdio.h>

const CgConstInfo cg_const_info[CG_N_CONSTS] = {
#define CONSTANT(name, type, def, doc) {"c_" #name, #type[0] == 'f', def},
#include "codegen/cpu/kernels.def"
#define CUDA_CONSTANT(name, type, def, doc) {"c_" #name, #type[0] == 'f', def},
#include "codegen/cuda/kernels.def"
};

#define KERNEL(id, name, template, entry, scratch, doc)                                            \
    static i64 scratch_##id(i64 K, i64 D)                                                          \
    {                                                                                              \
        (void)K;                                                                                   \
        (void)D;                                                                                   \
        return (scratch);                                                                          \
    }
#include "codegen/cpu/kernels.def"

const CgRow cg_rows[CG_N_ROWS] = {
#define KERNEL(id, name, template, entry, scratch, doc) {name, template, entry, scratch_##id},
#include "codegen/cpu/kernels.def"
};

/* What the expressions of codegen/cuda/kernels.def see. */
#define C(name) ((i64)val[C_##name])
#define SHAPE                                                                                      \
    const i64 N = C(N), K = C(K), H = C(heads), G = C(kv_heads), D = C(head_dim);                  \
    (void)val, (void)N, (void)K, (void)H, (void)G, (void)D

#define CUDA(id, template, entry, block_, grid_x_, rows_, shared_)                                 \
    static CgLaunch launch_##id(const double *val)                                                 \
    {                                                                                              \
        SHAPE;                                                                                     \
        return (CgLaunch){.block = block_, .grid_x = grid_x_, .rows = rows_, .shared = shared_};   \
    }
#define FAST(name, id, chips, phases, when_, from, to, template, entry, block_, grid_x_, rows_,    \
             shared_, ...)                                                                         \
    static CgLaunch launch_##name(const double *val)                                               \
    {                                                                                              \
        SHAPE;                                                                                     \
        return (CgLaunch){.block = block_,                                                         \
                          .grid_x = grid_x_,                                                       \
                          .rows = rows_,                                                           \
                          .shared = shared_ __VA_OPT__(, ) __VA_ARGS__};                           \
    }                                                                                              \
    static bool fits_##name(const double *val)                                                     \
    {                                                                                              \
        SHAPE;                                                                                     \
        return when_;                                                                              \
    }
#include "codegen/cuda/kernels.def"

const CgCudaRow cg_cuda_rows[CG_N_ROWS] = {
#define CUDA(id, template, entry, block, grid_x, rows, shared)                                     \
    [ROW_##id] = {NULL, ROW_##id, NULL, ~0u, 0, 0, NULL, template, entry, launch_##id},
#include "codegen/cuda/kernels.def"
};

const CgCudaRow cg_cuda_fast[] = {
#define FAST(name, id, chips, phases, when, from, to, template, entry, ...)                        \
    {#name, ROW_##id, chips, phases, from, to, fits_##name, template, entry, launch_##name},
#include "codegen/cuda/kernels.def"
    {0},
};

typedef struct Named {
    const char *name;
    i64 value;
} Named;

static const Named formats[] = {
#define FORMAT(name, value) {name, value},
#include "codegen/cpu/kernels.def"
    {NULL, -1},
};
static const Named epilogues[] = {
#define EPILOGUE(name, value) {name, value},
#include "codegen/cpu/kernels.def"
    {NULL, -1},
};
static const Named activations[] = {
#define ACTIVATION(name, value) {name, value},
#include "codegen/cpu/kernels.def"
    {NULL, -1},
};

static const Named kv_formats[] = {
#define KV(name, value) {name, value},
#include "codegen/cpu/kernels.def"
    {NULL, -1},
};

static i64 lookup(const Named *t, const char *name)
{
    while (t->name && strcmp(t->name, name) != 0)
        t++;
    return t->value;
}

i64 cg_format(const char *name)
{
    return lookup(formats, name);
}
i64 cg_epilogue(const char *name)
{
    return lookup(epilogues, name);
}
i64 cg_kv_format(const char *name)
{
    return lookup(kv_formats, name);
}
i64 cg_activation(const char *name)
{
    return lookup(activations, name);
}

bool cg_row(const char *name, CgRowId *row, const char **rest)
{
    size_t best = 0;
    for (u32 i = 0; i < CG_N_ROWS; i++) {
        size_t n = strlen(cg_rows[i].name);
        if (n <= best || strncmp(name, cg_rows[i].name, n) != 0 || (name[n] && name[n] != '.'))
            continue;
        best = n;
        *row = (CgRowId)i;
        *rest = name[n] ? name + n + 1 : "";
    }
    return best > 0;
}

bool cg_row_is(CgRowId row, const char *family)
{
    const size_t n = strlen(family);
    return strncmp(cg_rows[row].name, family, n) == 0 &&
           (cg_rows[row].name[n] == 0 || cg_rows[row].name[n] == '.');
}

static bool declares(Str text, const char *name)
{
    size_t n = strlen(name);
    static const char mark[] = "PFQ_CONST(";
    const char *end = text.p + text.n;
    for (const char *p = text.p; (p = memmem(p, (size_t)(end - p), mark, sizeof mark - 1)); p++) {
        const char *close = memchr(p, ')', (size_t)(end - p));
        if (close && (size_t)(close - p) > n + 2 && memcmp(close - n, name, n) == 0 &&
            close[-(ptrdiff_t)n - 1] == ' ')
            return true;
    }
    return false;
}

static u64 uses_of(const char *dir, const char *file, u32 depth)
{
    char path[128];
    Str text;
    if (depth > 8 || strlen(file) > 100) BUG("template headers nest too deep at %s", file);
    snprintf(path, sizeof path, "%s/%s", dir, file);
    if (!cg_embedded_find(path, &text)) return 0;
    u64 set = 0;
    for (u32 i = 0; i < CG_N_CONSTS; i++)
        if (declares(text, cg_const_info[i].name)) set |= (u64)1 << i;
    static const char mark[] = "#include \"";
    const char *end = text.p + text.n;
    for (const char *p = text.p; (p = memmem(p, (size_t)(end - p), mark, sizeof mark - 1));) {
        p += sizeof mark - 1;
        const char *close = memchr(p, '"', (size_t)(end - p));
        char name[101];
        size_t n = close ? (size_t)(close - p) : sizeof name;
        if (n >= sizeof name) continue;
        memcpy(name, p, n);
        name[n] = 0;
        set |= uses_of(dir, name, depth + 1);
    }
    return set;
}

u64 cg_template_uses(const char *dir, const char *template)
{
    _Static_assert(CG_N_CONSTS <= 64, "a set of constants is a u64");
    return uses_of(dir, template, 0);
}

u64 cg_row_uses(CgRowId row)
{
    const char *cuda = cg_cuda_rows[row].template;
    const u64 plan = ((u64)1 << CG_N_PLAN_CONSTS) - 1;
    return (cg_template_uses("cpu", cg_rows[row].template) |
            (cuda ? cg_template_uses("cuda", cuda) : 0)) &
           plan;
}
