#include "codegen/nvrtc.h"

#include "ir/base/io.h"

#include <dlfcn.h>
#include <glob.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

/* ---- the library's interface (docs.nvidia.com/cuda/nvrtc): F(result, name, parameters) ---- */

typedef struct NvrtcProgram NvrtcProgram;
enum { OK, INVALID_OPTION = 5 };

#define FUNCTIONS(F)                                                                               \
    F(int, Version, (int *major, int *minor))                                                      \
    F(const char *, GetErrorString, (int result))                                                  \
    F(int, CreateProgram,                                                                          \
      (NvrtcProgram * *p, const char *text, const char *name, int n, const char *const *headers,   \
       const char *const *names))                                                                  \
    F(int, DestroyProgram, (NvrtcProgram * *p))                                                    \
    F(int, CompileProgram, (NvrtcProgram * p, int n, const char *const *options))                  \
    F(int, GetProgramLogSize, (NvrtcProgram * p, size_t *n))                                       \
    F(int, GetProgramLog, (NvrtcProgram * p, char *log))                                           \
    F(int, GetCUBINSize, (NvrtcProgram * p, size_t *n))                                            \
    F(int, GetCUBIN, (NvrtcProgram * p, char *cubin))                                              \
    F(int, GetPTXSize, (NvrtcProgram * p, size_t *n))                                              \
    F(int, GetPTX, (NvrtcProgram * p, char *ptx))

struct Nvrtc {
    char name[32];
    i32 driver;
    u64 bytes; /* of the library's file: versions have builds */
#define F(result, name, parameters) result(*name) parameters;
    FUNCTIONS(F)
#undef F
};

const char *nvrtc_name(const Nvrtc *n)
{
    return n->name;
}

i32 nvrtc_driver(const Nvrtc *n)
{
    return n->driver;
}

/* ---- where it is ---- */

#define LIBRARY "libnvrtc.so.1[0-9]"
#define WHEELS  "/nvidia/{cu1[0-9],cuda_nvrtc}/lib/" LIBRARY

static const struct Place {
    const char *env;     /* a folder in front of the pattern; unset: the place is left out */
    const char *pattern; /* of glob(3); without a slash, names for the loader's own path */
    const char *what;    /* for the error */
} places[] = {
    {NULL, "libnvrtc.so.13", "libnvrtc.so.13"},
    {NULL, "libnvrtc.so.12", "libnvrtc.so.12"},
    {NULL, "libnvrtc.so", "libnvrtc.so on the loader's path"},
    {NULL, "/usr/local/cuda/lib64/" LIBRARY, "/usr/local/cuda/lib64"},
    {"VIRTUAL_ENV", "/lib/python3*/site-packages" WHEELS, "$VIRTUAL_ENV"},
    {"HOME", "/.local/lib/python3*/site-packages" WHEELS, "~/.local/lib/python3*/site-packages"},
    {NULL, "/usr/local/lib/python3*/{site,dist}-packages" WHEELS, "/usr/local/lib/python3*"},
    {NULL, "/usr/lib/python3*/{site,dist}-packages" WHEELS, "/usr/lib/python3*"},
};
enum { N_PLACES = sizeof places / sizeof *places };

/* The last match, which is the newest version. */
static void *open_pattern(Arena *a, const char *dir, const char *pattern)
{
    glob_t g;
    void *lib = NULL;
    if (glob(arena_printf(a, "%s%s", dir, pattern), GLOB_BRACE, NULL, &g) == 0)
        for (size_t i = g.gl_pathc; !lib && i-- > 0;)
            lib = dlopen(g.gl_pathv[i], RTLD_NOW | RTLD_LOCAL);
    globfree(&g);
    return lib;
}

static const char how_to_get[] = "install it with `pip install nvidia-cuda-nvrtc` (or the CUDA "
                                 "toolkit), or name the library or its folder in PFQC_NVRTC";

static void *open_named(Diag *d, Arena *a, const char *path)
{
    void *lib =
        io_is_dir(path) ? open_pattern(a, path, "/" LIBRARY) : dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (lib) return lib;
    diag_error(d, E_NVRTC, LOC_WHAT("PFQC_NVRTC"), "'%s' is no NVRTC library and no folder of one",
               path);
    diag_hint(d, "%s", how_to_get);
    return NULL;
}

static void *open_library(Diag *d, Arena *a)
{
    const char *named = getenv("PFQC_NVRTC");
    if (named && *named) return open_named(d, a, named);
    StrBuf looked = {.a = a};
    for (u32 i = 0; i < N_PLACES; i++) {
        const struct Place *p = &places[i];
        const char *dir = p->env ? getenv(p->env) : "";
        if (!dir || (p->env && !*dir)) continue;
        void *lib = strchr(p->pattern, '/') ? open_pattern(a, dir, p->pattern)
                                            : dlopen(p->pattern, RTLD_NOW | RTLD_LOCAL);
        if (lib) return lib;
        sb_printf(&looked, "%s%s", looked.n ? ", " : "", p->what);
    }
    diag_error(d, E_NVRTC, LOC_WHAT("target"),
               "NVRTC, NVIDIA's run-time compiler of CUDA, is not on this machine");
    diag_hint(d, "%s", how_to_get);
    diag_note(d, "looked for %s", looked.p);
    return NULL;
}

/* NVRTC opens a second library by its name alone, and finds it by its own run path, which does not
 * count where dlopen is wrapped (AddressSanitizer): opened before, it is found everywhere. */
static void open_builtins(Arena *a, void *lib)
{
    char folder[PATH_MAX];
    if (dlinfo(lib, RTLD_DI_ORIGIN, folder) == 0)
        (void)open_pattern(a, folder, "/libnvrtc-builtins.so*");
}

static u64 file_bytes(void *lib)
{
    struct link_map *map = NULL;
    struct stat st;
    return dlinfo(lib, RTLD_DI_LINKMAP, &map) == 0 && stat(map->l_name, &st) == 0 ? (u64)st.st_size
                                                                                  : 0;
}

static bool bind_functions(Diag *d, void *lib, Nvrtc *n)
{
    const char *missing = NULL;
#define F(result, name, parameters)                                                                \
    *(void **)&n->name = dlsym(lib, "nvrtc" #name);                                                \
    if (!n->name) missing = "nvrtc" #name;
    FUNCTIONS(F)
#undef F
    if (missing)
        return diag_error(d, E_NVRTC, LOC_NONE,
                          "the NVRTC library has no function %s: it is too old", missing);
    int major = 0, minor = 0, r = n->Version(&major, &minor);
    if (r != OK)
        return diag_error(d, E_NVRTC, LOC_NONE, "NVRTC does not work: %s", n->GetErrorString(r));
    n->driver = 1000 * major;
    n->bytes = file_bytes(lib);
    snprintf(n->name, sizeof n->name, "NVRTC %d.%d", major, minor);
    return true;
}

/* ---- compiling ---- */

/* Contraction off, as in the CPU's code and the reference evaluator: templates say fmaf where they
 * mean it, so a value and its rounding to integers is the same everywhere. Warnings have no reader:
 * the constants that a specialisation does not use would cause most. */
static const char *const flags[] = {"-std=c++17", "--fmad=false", "--disable-warnings"};
enum { N_FLAGS = sizeof flags / sizeof *flags };

const char *nvrtc_identity(Arena *a, const Nvrtc *n)
{
    StrBuf b = {.a = a};
    sb_printf(&b, "%s %llu", n->name, (unsigned long long)n->bytes);
    for (u32 i = 0; i < N_FLAGS; i++)
        sb_printf(&b, " %s", flags[i]);
    return b.p;
}

static int compile(const Nvrtc *n, NvrtcProgram *p, const char *arch)
{
    char option[64];
    const char *options[N_FLAGS + 1];
    snprintf(option, sizeof option, "--gpu-architecture=%s", arch);
    memcpy(options, flags, sizeof flags);
    options[N_FLAGS] = option;
    return n->CompileProgram(p, N_FLAGS + 1, options);
}

/* What the compiler said, malloc'ed; NULL: nothing. */
static char *log_text(const Nvrtc *n, NvrtcProgram *p)
{
    size_t bytes = 0;
    if (!p || n->GetProgramLogSize(p, &bytes) != OK || bytes <= 1) return NULL;
    char *text = xmalloc(bytes + 1, 1);
    text[bytes] = 0;
    if (n->GetProgramLog(p, text) == OK) return text;
    free(text);
    return NULL;
}

static char *error_text(const Nvrtc *n, NvrtcProgram *p, int result)
{
    char *text = log_text(n, p);
    if (!text) text = strdup(n->GetErrorString(result));
    if (!text) die_oom();
    return text;
}

/* ptxas says "Potential Performance Loss: wgmma.mma_async instructions are serialized", also where
 * warnings are off. */
static bool serialised(const Nvrtc *n, NvrtcProgram *p)
{
    char *text = log_text(n, p);
    const bool yes = text && strstr(text, "Potential Performance Loss");
    free(text);
    return yes;
}

/* PTX says that it needs the newest ISA its compiler knows, and drivers refuse what is newer than
 * they are, although nothing in it is: templates for PTX use what compute_80 has had from its first
 * day. It is made to ask for the first ISA of the same major version instead, that is for the
 * drivers on which cubins of the same compiler run: ".version 9.5" becomes 9.0. */
static void lower_ptx_version(char *ptx)
{
    static const char key[] = "\n.version ";
    char *p = strstr(ptx, key);
    if (!p) return;
    p += sizeof key - 1;
    p += strspn(p, "0123456789");
    if (*p++ != '.') return;
    for (char digit = '0'; *p >= '0' && *p <= '9'; p++, digit = ' ')
        *p = digit;
}

void nvrtc_compile(const Nvrtc *n, const NvrtcSource *s, const char *arch, CgObject *out)
{
    NvrtcProgram *p = NULL;
    const bool ptx = strncmp(arch, "sm_", 3) != 0;
    *out = (CgObject){0};
    int r = n->CreateProgram(&p, s->text, s->name, s->n_headers, s->headers, s->header_names);
    if (r == OK) r = compile(n, p, arch);
    if (r == OK) r = (ptx ? n->GetPTXSize : n->GetCUBINSize)(p, &out->bytes);
    if (r == OK) {
        out->data = xmalloc(out->bytes, 1);
        r = (ptx ? n->GetPTX : n->GetCUBIN)(p, (char *)out->data);
        if (r == OK && ptx) lower_ptx_version((char *)out->data);
    }
    if (r == OK)
        out->serialised = serialised(n, p);
    else
        out->error = error_text(n, p, r);
    if (p) n->DestroyProgram(&p);
}

static bool knows(const Nvrtc *n, const char *arch)
{
    NvrtcProgram *p = NULL;
    const bool ok = n->CreateProgram(&p, "", "empty.cu", 0, NULL, NULL) == OK &&
                    compile(n, p, arch) != INVALID_OPTION;
    if (p) n->DestroyProgram(&p);
    return ok;
}

const Nvrtc *nvrtc_open(Diag *d, Arena *a, const CgTargets *t)
{
    Nvrtc *n = NEW(a, Nvrtc);
    void *lib = open_library(d, a);
    if (!lib || !bind_functions(d, lib, n)) return NULL;
    open_builtins(a, lib);
    bool ok = true;
    for (u32 i = 0; i < t->n_gpu; i++) {
        if (knows(n, t->gpu[i]->name)) continue;
        ok = diag_error(d, E_NVRTC, LOC_WHAT("target"), "%s makes no code for %s", n->name,
                        t->gpu[i]->name);
        diag_hint(d, "take a newer one: `pip install -U nvidia-cuda-nvrtc`, and name its folder in "
                     "PFQC_NVRTC if an older one is found first");
    }
    return ok ? n : NULL;
}
