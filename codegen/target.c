#include "codegen/nvrtc.h"

#include "runtime/abi.h"

#include <llvm-c/Core.h>
#include <llvm-c/TargetMachine.h>

static const CgVariant variants[] = {
#define X(name, cpu, features, bits) {#name, cpu, features, bits},
#include "codegen/variants.def"
#undef X
};
enum { N_VARIANTS = sizeof variants / sizeof *variants };
_Static_assert((int)N_VARIANTS <= (int)CG_MAX_VARIANTS, "CG_MAX_VARIANTS holds every variant");

/* CPUs that can be named, with what they offer. The name picks the variant and the tuning. */
static const struct Cpu {
    const char *name;
    u32 bits;
} cpus[] = {
#define AVX2   PFQ_CPU_AVX2
#define AVX512 (PFQ_CPU_AVX2 | PFQ_CPU_AVX512)
#define VNNI   (PFQ_CPU_AVX2 | PFQ_CPU_AVX512 | PFQ_CPU_AVX512VNNI)
#define VBMI   (VNNI | PFQ_CPU_AVX512VBMI)
#define AMX    (VBMI | PFQ_CPU_AMX_INT8)
    {"x86-64-v3", AVX2},      {"x86-64-v4", AVX512},  {"haswell", AVX2},
    {"broadwell", AVX2},      {"skylake", AVX2},      {"skylake-avx512", AVX512},
    {"cascadelake", VNNI},    {"cooperlake", VNNI},   {"icelake-client", VBMI},
    {"icelake-server", VBMI}, {"tigerlake", VBMI},    {"alderlake", AVX2},
    {"sapphirerapids", AMX},  {"emeraldrapids", AMX}, {"graniterapids", AMX},
    {"znver1", AVX2},         {"znver2", AVX2},       {"znver3", AVX2},
    {"znver4", VBMI},         {"znver5", VBMI},
#undef AVX2
#undef AVX512
#undef VNNI
#undef VBMI
#undef AMX
};
enum { N_CPUS = sizeof cpus / sizeof *cpus };

static const CgGpu gpus[] = {
#define GPU(name, major, minor, exact, shared) {name, major, minor, exact, shared},
#include "codegen/cuda/targets.def"
};
enum { N_GPUS = sizeof gpus / sizeof *gpus };
_Static_assert((int)N_GPUS <= (int)CG_MAX_GPUS, "CG_MAX_GPUS holds every GPU");

static const CgVariant *best_variant(u32 bits)
{
    for (u32 i = 0; i < N_VARIANTS; i++)
        if ((variants[i].bits & ~bits) == 0) return &variants[i];
    return NULL;
}

/* What the host offers, from LLVM's list "+sse2,+avx,-amx-int8,...". */
static u32 host_bits(void)
{
    static const struct {
        u32 bit;
        const char *needs[8];
    } table[] = {
        {PFQ_CPU_AVX2, {"avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe", "popcnt"}},
        {PFQ_CPU_AVX512, {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"}},
        {PFQ_CPU_AVX512VNNI, {"avx512vnni"}},
        {PFQ_CPU_AVX512VBMI, {"avx512vbmi"}},
        {PFQ_CPU_AMX_INT8, {"amx-int8"}},
    };
    char *features = LLVMGetHostCPUFeatures();
    u32 bits = 0;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        bool all = true;
        for (size_t j = 0; j < 8 && table[i].needs[j]; j++) {
            const char *want = table[i].needs[j];
            size_t n = strlen(want);
            bool found = false;
            for (const char *p = features; !found && (p = strchr(p, '+')); p++)
                found = strncmp(p + 1, want, n) == 0 && (p[n + 1] == ',' || !p[n + 1]);
            all = all && found;
        }
        if (all) bits |= table[i].bit;
    }
    LLVMDisposeMessage(features);
    return bits;
}

static bool unknown(Diag *d, Arena *a, const char *spec)
{
    const char *colon = strchr(spec, ':'), *names[N_CPUS + N_GPUS];
    StrBuf list = {.a = a};
    sb_str(&list, "cpu (this machine)");
    for (u32 i = 0; i < N_CPUS + N_GPUS; i++) {
        const bool cpu = i < N_CPUS;
        names[i] = cpu ? cpus[i].name : gpus[i - N_CPUS].name;
        sb_printf(&list, ", %s:%s", cpu ? "cpu" : "cuda", names[i]);
    }
    diag_error(d, E_TARGET, LOC_WHAT("target"), "unknown target '%s'", spec);
    const char *near = str_nearest(str_c(colon ? colon + 1 : spec), names, N_CPUS + N_GPUS);
    if (near)
        diag_hint(d, "did you mean %s:%s?", strncmp(near, "sm_", 3) == 0 ? "cuda" : "cpu", near);
    diag_note(d, "targets: %s", list.p);
    return false;
}

static const CgGpu *find_gpu(const char *spec)
{
    for (u32 i = 0; i < N_GPUS && strncmp(spec, "cuda:", 5) == 0; i++)
        if (strcmp(spec + 5, gpus[i].name) == 0) return &gpus[i];
    return NULL;
}

static bool find_cpu(Diag *d, Arena *a, const char *spec, CgTarget *t)
{
    if (strcmp(spec, "cpu") == 0) {
        char *tune = LLVMGetHostCPUName();
        *t = (CgTarget){best_variant(host_bits()), arena_strdup(a, tune, strlen(tune))};
        LLVMDisposeMessage(tune);
        if (t->variant) return true;
        diag_error(d, E_TARGET, LOC_WHAT("target"),
                   "this machine's CPU (%s) has no AVX2, FMA and F16C", t->tune);
        diag_hint(d, "name the CPU that the program will run on, for example cpu:x86-64-v3");
        return false;
    }
    if (strncmp(spec, "cpu:", 4) != 0) return unknown(d, a, spec);
    for (u32 i = 0; i < N_CPUS; i++) {
        if (strcmp(spec + 4, cpus[i].name) != 0) continue;
        /* LLVM has no scheduling model for the x86-64 levels' names, "generic" is what clang uses
         * for them. */
        const char *tune = strncmp(cpus[i].name, "x86-64", 6) == 0 ? "generic" : cpus[i].name;
        *t = (CgTarget){best_variant(cpus[i].bits), tune};
        return true;
    }
    return unknown(d, a, spec);
}

bool cg_targets(Diag *d, Arena *a, const char *const *specs, u32 n, CgTargets *out)
{
    CgTarget by_variant[N_VARIANTS] = {{0}};
    bool wanted[N_GPUS] = {false}, ok = true;
    for (u32 i = 0; i < n; i++) {
        CgTarget t;
        const CgGpu *gpu = find_gpu(specs[i]);
        if (gpu) {
            wanted[gpu - gpus] = true;
            continue;
        }
        if (!find_cpu(d, a, specs[i], &t)) {
            ok = false;
            continue;
        }
        CgTarget *slot = &by_variant[t.variant - variants];
        if (!slot->variant) *slot = t;
    }
    if (n == 0)
        ok = diag_error(d, E_TARGET, LOC_WHAT("target"),
                        "no target is given; cpu means this machine");
    *out = (CgTargets){.n_cpu = 0};
    for (u32 i = 0; i < N_VARIANTS; i++)
        if (by_variant[i].variant) out->cpu[out->n_cpu++] = by_variant[i];
    for (u32 i = 0; i < N_GPUS; i++)
        if (wanted[i]) out->gpu[out->n_gpu++] = &gpus[i];
    return ok;
}

bool cg_check_targets(Diag *d, Arena *a, const char *const *specs, u32 n)
{
    CgTargets t;
    return cg_targets(d, a, specs, n, &t) && (t.n_gpu == 0 || nvrtc_open(d, a, &t));
}
