/* The one call of the C compiler. */
#include "codegen/codegen_int.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* A memory file with the data, which a child inherits; -1 with errno. */
static int memory_file(const CgInput *in)
{
    int fd = memfd_create(in->name, 0);
    Str rest = in->data;
    while (fd >= 0 && rest.n) {
        ssize_t n = write(fd, rest.p, rest.n);
        if (n < 0 && errno == EINTR) continue;
        if (n > 0) {
            rest = (Str){rest.p + n, rest.n - (size_t)n};
            continue;
        }
        int err = errno;
        close(fd);
        errno = err;
        return -1;
    }
    return fd;
}

/* Runs argv (found through PATH), collecting what it says. Returns wait's status, or -1 with errno.
 */
static int run(char *const *argv, char *const *env, StrBuf *said)
{
    int fd[2];
    if (pipe2(fd, O_CLOEXEC) != 0) return -1;
    posix_spawn_file_actions_t fa;
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&fa, fd[1], 1);
    posix_spawn_file_actions_adddup2(&fa, fd[1], 2);
    pid_t pid;
    int err = posix_spawnp(&pid, argv[0], &fa, NULL, argv, env);
    posix_spawn_file_actions_destroy(&fa);
    close(fd[1]);
    if (err) {
        close(fd[0]);
        errno = err;
        return -1;
    }
    enum { KEEP = 16384 }; /* of the output; a broken tool may say more */
    char buf[4096];
    for (;;) {
        ssize_t n = read(fd[0], buf, sizeof buf);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        if (said->n < KEEP) sb_add(said, buf, (size_t)n);
    }
    close(fd[0]);
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return -1;
    return status;
}

/* The environment without what would change the compiler's output or the language of its messages.
 */
static char **clean_env(Arena *a)
{
    static const char *const drop[] = {"LC_ALL=",
                                       "LC_MESSAGES=",
                                       "LC_CTYPE=",
                                       "LANG=",
                                       "LANGUAGE=",
                                       "SOURCE_DATE_EPOCH=",
                                       "CPATH=",
                                       "C_INCLUDE_PATH=",
                                       "LIBRARY_PATH=",
                                       "GCC_COMPARE_DEBUG=",
                                       "LD_RUN_PATH=",
                                       "LDFLAGS=",
                                       "CFLAGS=",
                                       "DEPENDENCIES_OUTPUT=",
                                       "SUNPRO_DEPENDENCIES=",
                                       "TZ="};
    u32 n = 0;
    while (environ[n])
        n++;
    char **out = NEWN(a, char *, n + 2);
    u32 k = 0;
    for (u32 i = 0; i < n; i++) {
        bool keep = true;
        for (size_t j = 0; j < sizeof drop / sizeof *drop; j++)
            keep = keep && strncmp(environ[i], drop[j], strlen(drop[j])) != 0;
        if (keep) out[k++] = environ[i];
    }
    out[k] = arena_strdup(a, "LC_ALL=C", 8);
    return out;
}

static bool cc_failed(Diag *d, const char *cc, int status, int err, const StrBuf *said)
{
    if (status < 0) {
        diag_error(d, E_LINK, LOC_NONE, "the C compiler '%s' cannot be run: %s", cc, strerror(err));
        diag_hint(d, "install gcc or clang, or set PFQC_CC to the compiler's name");
        return false;
    }
    if (WIFSIGNALED(status))
        diag_error(d, E_LINK, LOC_NONE, "the C compiler '%s' was ended by signal %d", cc,
                   WTERMSIG(status));
    else
        diag_error(d, E_LINK, LOC_NONE, "the C compiler '%s' failed with status %d", cc,
                   WEXITSTATUS(status));
    if (said->n) diag_note(d, "it said:\n%.*s", (int)said->n, said->p);
    return false;
}

/* x86-64 baseline and no LTO: the schedule is glue, the kernels carry the instruction sets. */
static const char *const cc_flags[] = {"-std=gnu17",
                                       "-O2",
                                       "-g0",
                                       "-fPIE",
                                       "-pie",
                                       "-march=x86-64",
                                       "-fno-lto",
                                       "-fno-ident",
                                       "-fstack-protector-strong",
                                       "-fcf-protection=none",
                                       "-Wl,--build-id=none",
                                       "-Wl,-z,relro",
                                       "-Wl,-z,now",
                                       "-Wl,-z,noexecstack",
                                       "-Wl,--hash-style=gnu",
                                       "-Wl,--gc-sections"};
enum { N_FLAGS = sizeof cc_flags / sizeof *cc_flags };

static bool run_cc(Diag *d, Arena *a, const char *src_dir, const int *fd, u32 n_fd,
                   const char *output)
{
    const char *cc = getenv("PFQC_CC");
    if (!cc || !*cc) cc = "cc";
    const char **argv = NEWN(a, const char *, N_FLAGS + n_fd + 16);
    u32 n = 0;
    argv[n++] = cc;
    for (u32 i = 0; i < N_FLAGS; i++)
        argv[n++] = cc_flags[i];
    argv[n++] = arena_printf(a, "-ffile-prefix-map=%s=.", src_dir);
    argv[n++] = io_join(a, src_dir, "model.c");
    for (u32 i = 0; i < n_fd; i++)
        argv[n++] = arena_printf(a, "/proc/self/fd/%d", fd[i]);
    argv[n++] = "-lm";
    argv[n++] = "-lpthread";
    argv[n++] = "-ldl"; /* empty since glibc 2.34; the CUDA driver is opened with it */
    argv[n++] = "-o";
    argv[n++] = output;
    StrBuf said = {.a = a};
    int status = run((char *const *)argv, clean_env(a), &said);
    if (status != 0) return cc_failed(d, cc, status, errno, &said);
    struct stat st;
    if (stat(output, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0) return true;
    return diag_error(d, E_LINK, LOC_NONE, "the C compiler '%s' succeeded but wrote no program",
                      cc);
}

bool cg_link(Diag *d, Arena *a, const char *src_dir, const CgInput *in, u32 n_in,
             const char *output)
{
    int *fd = NEWN(a, int, n_in + 1);
    u32 n = 0;
    bool ok = true;
    while (ok && n < n_in) {
        fd[n] = memory_file(&in[n]);
        if (fd[n] < 0)
            ok = diag_error(d, E_LINK, LOC_WHAT(in[n].name), "cannot pass it to the linker: %s",
                            strerror(errno));
        else
            n++;
    }
    ok = ok && run_cc(d, a, src_dir, fd, n, output);
    for (u32 i = 0; i < n; i++)
        close(fd[i]);
    return ok;
}
