/* Which kernels OpenBLAS chose. It picks them by CPU model when it is loaded, and a release that is
 * older than the CPU falls back to kernels of SSE: 11.2 s instead of 4.0 s for the same 1022 tokens
 * of SmolLM2 (Zen 4, OpenBLAS 0.3.21, OPENBLAS_CORETYPE=Nehalem against SkylakeX).
 */
#include "passes/passes.h"

#include <cblas.h>
#include <stdlib.h>
#include <strings.h>

const char *calib_better_blas(void)
{
    static const char *const old[] = {"Prescott", "Core2",   "Penryn",      "Dunnington",
                                      "Atom",     "Nehalem", "Sandybridge", "Generic"};
    const char *name = openblas_get_corename();
    bool slow = false;
    for (u32 i = 0; i < sizeof old / sizeof *old; i++)
        slow |= strcasecmp(name, old[i]) == 0;
    if (!slow || getenv("OPENBLAS_CORETYPE")) return NULL;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return "SkylakeX";
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? "Haswell" : NULL;
}
