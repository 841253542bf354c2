/* An NVRTC that compiles nothing (PFQC_NVRTC names its folder), where a test is not about code for
 * GPUs: NVRTC takes most of the time of such a compile.
 *
 * It calls itself 12.1, knows no sm_120a, and refuses every kernel; with PFQ_STUB_NVRTC=code it
 * gives a few bytes for each, which the stub of the driver takes; with PFQ_STUB_NVRTC=slow it also
 * says what ptxas says of code whose products wait for one another. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_OPTION = 5, COMPILATION = 6 };
static const char refusal[] = "norm.cu(7): error: this stub compiles nothing";
static const char loss[] = "ptxas info    : (C7512) Potential Performance Loss: wgmma.mma_async "
                           "instructions are serialized due to insufficient register resources for "
                           "the function 'linear'\n";
static const char code[] = "stub of code";

static bool wants(const char *what)
{
    const char *asked = getenv("PFQ_STUB_NVRTC");
    return asked && strcmp(asked, what) == 0;
}
static const char *said(void)
{
    return wants("code") ? "" : wants("slow") ? loss : refusal;
}

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
    for (int i = 0; i < n; i++)
        if (strstr(options[i], "sm_120a")) return INVALID_OPTION;
    if (!*(char *)p || wants("code") || wants("slow")) return OK;
    return COMPILATION;
}
int nvrtcGetProgramLogSize(void *p, size_t *n)
{
    (void)p;
    *n = strlen(said()) + 1;
    return OK;
}
int nvrtcGetProgramLog(void *p, char *log)
{
    (void)p;
    strcpy(log, said());
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
