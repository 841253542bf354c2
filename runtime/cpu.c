/* CPU features and the choice of a variant. Contract: cpu.h.
 * Bits: Intel SDM volume 2 (CPUID), volume 1 section 13.3 (XGETBV); AMX permission: Linux
 * Documentation/arch/x86/xstate. */
#include "runtime/cpu.h"

#include <cpuid.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 }; /* arch_prctl's code and argument */

/* CPUID leaf 7, EDX; the compilers' headers do not agree on names. */
#define AMX_TILE (1u << 24)
#define AMX_INT8 (1u << 25)

static const struct {
    uint32_t bit;
    const char *name;
} feature_names[] = {
    {PFQ_CPU_AVX2, "avx2"},
    {PFQ_CPU_AVX512, "avx512"},
    {PFQ_CPU_AVX512VNNI, "avx512vnni"},
    {PFQ_CPU_AVX512VBMI, "avx512vbmi"},
    {PFQ_CPU_AMX_INT8, "amx-int8"},
};

static uint64_t xcr0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

static bool has(uint32_t word, uint32_t bits)
{
    return (word & bits) == bits;
}

uint32_t pfq_cpu_features(void)
{
    uint32_t a, b1, c1, d1, b7 = 0, c7 = 0, d7 = 0;
    if (!__get_cpuid(1, &a, &b1, &c1, &d1) || !has(c1, bit_OSXSAVE) ||
        !__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) {
        return 0;
    }
    uint32_t ax = 0, bx = 0, cx = 0, dx = 0;
    (void)__get_cpuid(0x80000001, &ax, &bx, &cx, &dx);
    uint64_t saved = xcr0();
    bool os_avx = (saved & 0x6) == 0x6, os_avx512 = (saved & 0xe6) == 0xe6,
         os_amx = (saved & 0x60000) == 0x60000;
    uint32_t f = 0;
    /* All of x86-64-v3 and v4 that the compiler may use, since a hypervisor can hide any of it. */
    if (os_avx && has(c1, bit_AVX | bit_FMA | bit_F16C | bit_MOVBE | bit_POPCNT) &&
        has(b7, bit_AVX2 | bit_BMI | bit_BMI2) && has(cx, bit_LZCNT)) {
        f |= PFQ_CPU_AVX2;
    }
    if (f && os_avx512 &&
        has(b7, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL | bit_AVX512CD)) {
        f |= PFQ_CPU_AVX512;
        f |= has(c7, bit_AVX512VNNI) ? (uint32_t)PFQ_CPU_AVX512VNNI : 0;
        f |= has(c7, bit_AVX512VBMI) ? (uint32_t)PFQ_CPU_AVX512VBMI : 0;
    }
    if (os_amx && has(d7, AMX_TILE | AMX_INT8) &&
        syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XTILEDATA) == 0) {
        f |= PFQ_CPU_AMX_INT8;
    }
    return f;
}

void pfq_cpu_names(uint32_t features, char *out, size_t cap)
{
    size_t n = 0;
    snprintf(out, cap, "none");
    for (size_t i = 0; i < sizeof feature_names / sizeof *feature_names; i++) {
        if ((features & feature_names[i].bit) && n < cap) {
            n += (size_t)snprintf(out + n, cap - n, "%s%s", n ? " " : "", feature_names[i].name);
            features &= ~feature_names[i].bit;
        }
    }
    if (features && n < cap) {
        snprintf(out + n, cap - n, "%sunknown-%x", n ? " " : "", features);
    }
}

/* All variants' names, for messages. */
static void variant_names(const PfqModel *m, char *out, size_t cap)
{
    size_t n = 0;
    out[0] = 0;
    for (int32_t i = 0; i < m->n_variants && n < cap; i++) {
        n += (size_t)snprintf(out + n, cap - n, "%s%s", i ? ", " : "", m->variants[i].name);
    }
}

const PfqVariant *pfq_cpu_variant(const PfqModel *m, uint32_t have, const char *forced, PfqErr *err)
{
    char names[256], lacking[128];
    variant_names(m, names, sizeof names);
    if (m->n_variants == 0) {
        pfq_fail(err, "this program has no code for the CPU");
        return NULL;
    }
    for (int32_t i = 0; i < m->n_variants; i++) {
        const PfqVariant *v = &m->variants[i];
        bool fits = has(have, v->features);
        if (forced && strcmp(forced, v->name) == 0 && !fits) {
            pfq_cpu_names(v->features & ~have, lacking, sizeof lacking);
            pfq_fail(err, "this CPU cannot run the variant '%s': it lacks %s", v->name, lacking);
            return NULL;
        }
        if (forced ? strcmp(forced, v->name) == 0 : fits) {
            return v;
        }
    }
    if (forced) {
        pfq_fail(err, "this binary has no CPU variant '%s'; it has: %s", forced, names);
    } else {
        uint32_t need = m->variants[m->n_variants - 1].features;
        pfq_cpu_names(need & ~have, lacking, sizeof lacking);
        pfq_fail(err, "this binary was compiled for CPUs with %s; this CPU lacks %s", names,
                 lacking);
    }
    return NULL;
}
