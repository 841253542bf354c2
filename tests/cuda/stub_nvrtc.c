/* An NVRTC that compiles nothing (PFQC_NVRTC names its folder), where a test is not about code for
 * GPUs: NVRTC takes most of the time of such a compile.
 *
 * It calls itself 12.1, knows no sm_120a, and refuses every kernel; with PFQ_STUB_NVRTC=code it
 * gives a few bytes for each, which the stub of the driver takes. */
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_OPTION = 5, COMPILATION = 6 };
static const char refusal[] = "norm.cu(7): error: this stub compiles nothing";
static const char code[] = "stub of code";

int nvrtcVersion(int *major, int *minor)
{
    *major = 12, *minor = 1;
    return OK;
}
const char *nvrtcGetErrorString(int r)
{
    return r == COMPILATION ? "NVRTC_ERROR_COMPILATION" : "other";
}
int nvrtcCreateProgram(void **p, const char *text, const char *name, int n,
                       const char *const *headers, const char *const *names)
{
    (void)name, (void)n, (void)headers, (void)names;
    *p = (void *)(strlen(text) ? "text" : "");
    return OK;
}
int nvrtcDestroyProgram(void **p)
{
    *p = NULL;
    return OK;
}
int nvrtcCompileProgram(void *p, int n, const char *const *options)
{
    const char *what = getenv("PFQ_STUB_NVRTC");
    for (int i = 0; i < n; i++)
        if (strstr(options[i], "sm_120a")) return INVALID_OPTION;
    if (!*(char *)p || (what && strcmp(what, "code") == 0)) return OK;
    return COMPILATION;
}
int nvrtcGetProgramLogSize(void *p, size_t *n)
{
    (void)p;
    *n = sizeof refusal;
    return OK;
}
int nvrtcGetProgramLog(void *p, char *log)
{
    (void)p;
    memcpy(log, refusal, sizeof refusal);
    return OK;
}
int nvrtcGetCUBINSize(void *p, size_t *n)
{
    (void)p;
    *n = sizeof code;
    return OK;
}
int nvrtcGetCUBIN(void *p, char *to)
{
    (void)p;
    memcpy(to, code, sizeof code);
    return OK;
}
int nvrtcGetPTXSize(void *p, size_t *n)
{
    return nvrtcGetCUBINSize(p, n);
}
int nvrtcGetPTX(void *p, char *to)
{
    return nvrtcGetCUBIN(p, to);
}
