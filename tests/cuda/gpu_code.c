/* Kernels for test_kernels on a real GPU.
 *
 *   gpu_code FOLDER ARCH [SOURCE.cu ...]      ARCH: sm_90a, or compute_80 for PTX
 *
 * Compiles every template with its constants as one variable in constant memory, so that one build
 * serves every case: FOLDER/ARCH/attend.code, and the specialised sources, if any are named:
 * FOLDER/ARCH/SOURCE.code. PFQ_GPU_TEMPLATES="norm.cu attend.cu": only these. Exit status 77 where
 * there is no NVRTC. Needs no GPU; tests/cuda/ gpu_rows.c loads the results.
 */
#include "codegen/nvrtc.h"

#include "ir/base/io.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
    const char *file, *chips; /* chips: how ARCH begins, for which alone it is code */
} templates[] = {
#define CUDA(id, file, entry, block, grid_x, rows, shared)       {file, ""},
#define FAST(name, id, chips, phases, when, from, to, file, ...) {file, chips},
#include "codegen/cuda/kernels.def"
};
enum { N_TEMPLATES = sizeof templates / sizeof *templates };

typedef struct Unit {
    NvrtcSource source;
    const char *out; /* file */
} Unit;

typedef struct Jobs {
    const Nvrtc *nvrtc;
    const char *arch;
    Unit *unit;
} Jobs;

/* The constants of a template as members of one variable, in the order of kernels.def. */
static const char *generic_source(Arena *a, const char *file)
{
    StrBuf o = {.a = a};
    sb_str(&o, "#include \"templates/kernel.cuh\"\nstruct PfqTestConstants {\n");
#define CONSTANT(name, type, def, doc) sb_str(&o, "    " #type " v_" #name ";\n");
#include "codegen/cpu/kernels.def"
#define CUDA_CONSTANT(name, type, def, doc) sb_str(&o, "    " #type " v_" #name ";\n");
#include "codegen/cuda/kernels.def"
    sb_str(&o, "};\nextern \"C\" { __constant__ PfqTestConstants pfq_test_constants; }\n");
#define CONSTANT(name, type, def, doc)                                                             \
    sb_str(&o, "#define c_" #name " pfq_test_constants.v_" #name "\n");
#include "codegen/cpu/kernels.def"
#define CUDA_CONSTANT(name, type, def, doc)                                                        \
    sb_str(&o, "#define c_" #name " pfq_test_constants.v_" #name "\n");
#include "codegen/cuda/kernels.def"
    sb_printf(&o, "#include \"templates/%s\"\n", file);
    return o.p;
}

static void find_headers(Arena *a, NvrtcSource *s)
{
    VEC(const char *) names = {0}, texts = {0};
    const char *name;
    for (u32 i = 0; (name = cg_embedded_name(i)); i++) {
        Str text;
        if (strncmp(name, "cuda/", 5) != 0 || !cg_embedded_find(name, &text)) continue;
        const char *copy = arena_strdup(a, text.p, text.n);
        vec_push(a, &names, arena_printf(a, "templates/%s", name + 5));
        vec_push(a, &texts, copy);
        vec_push(a, &names, name + 5);
        vec_push(a, &texts, copy);
    }
    s->n_headers = (int)names.n;
    s->header_names = names.at;
    s->headers = texts.at;
}

static const char *base_name(Arena *a, const char *path)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    return arena_printf(a, "%.*s", (int)strcspn(base, "."), base);
}

static char *read_text(const char *path)
{
    FILE *f = fopen(path, "r");
    char *text = xmalloc(1 << 20, 1);
    if (!f) {
        perror(path);
        exit(1);
    }
    text[fread(text, 1, (1 << 20) - 1, f)] = 0;
    fclose(f);
    return text;
}

static bool compile(void *arg, u32 i)
{
    const Jobs *j = arg;
    const Unit *u = &j->unit[i];
    CgObject code;
    nvrtc_compile(j->nvrtc, &u->source, j->arch, &code);
    if (code.error) {
        fprintf(stderr, "%s for %s:\n%s\n", u->source.name, j->arch, code.error);
        return false;
    }
    FILE *f = fopen(u->out, "w");
    const bool ok = f && fwrite(code.data, 1, code.bytes, f) == code.bytes;
    if (!f || fclose(f) || !ok) {
        perror(u->out);
        return false;
    }
    free(code.data);
    return true;
}

static bool row_for(u32 i, const char *arch)
{
    return strncmp(arch, templates[i].chips, strlen(templates[i].chips)) == 0;
}

/* Rows of one file give it once, rows for other chips do not. */
static bool wanted(u32 i, const char *arch)
{
    const char *only = getenv("PFQ_GPU_TEMPLATES");
    bool first = row_for(i, arch) && (!only || strstr(only, templates[i].file));
    for (u32 k = 0; k < i; k++)
        first = first && !(row_for(k, arch) && strcmp(templates[i].file, templates[k].file) == 0);
    return first;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: gpu_code FOLDER ARCH [SOURCE.cu ...]\n");
        return 2;
    }
    Arena a = {0};
    Diag d;
    diag_init(&d, &a);
    const CgTargets none = {0};
    const Nvrtc *nvrtc = nvrtc_open(&d, &a, &none);
    if (!nvrtc) {
        printf("NVRTC is not on this machine: nothing is compiled\n");
        return 77;
    }
    const u32 most = N_TEMPLATES + (u32)argc - 3;
    const char *folder = arena_printf(&a, "%s/%s", argv[1], argv[2]);
    Jobs jobs = {nvrtc, argv[2], NEWN(&a, Unit, most)};
    NvrtcSource headers = {0};
    find_headers(&a, &headers);
    mkdir(argv[1], 0777);
    mkdir(folder, 0777);
    u32 n = 0;
    for (u32 i = 0; i < most; i++) {
        const bool generic = i < N_TEMPLATES;
        const char *name = generic ? templates[i].file : argv[3 + i - N_TEMPLATES];
        if (generic && !wanted(i, argv[2])) continue;
        Unit *u = &jobs.unit[n++];
        u->source = headers;
        u->source.name = name;
        u->source.text = generic ? generic_source(&a, name) : read_text(name);
        u->out = arena_printf(&a, "%s/%s.code", folder, base_name(&a, name));
        unlink(u->out);
    }
    /* cg_parallel stops at the first failure; each is told. */
    cg_parallel(n, (u32)sysconf(_SC_NPROCESSORS_ONLN), compile, &jobs);
    for (u32 i = 0; i < n; i++)
        if (access(jobs.unit[i].out, R_OK)) return 1;
    printf("%s: %u units for %s\n", nvrtc_name(nvrtc), n, argv[2]);
    return 0;
}
