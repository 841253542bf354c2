/* Logits of another program. Contract: base.h. */
#include "runtime/base.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { CHILD_FD = 3, PIPE_BYTES = 1 << 20, MAX_SAID = 1 << 16 };

/* ---- what is it? ---- */

static bool is_program(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

/* The one executable file in a folder. */
static bool find_program(PfqBase *b, PfqErr *err)
{
    DIR *dir = opendir(b->name);
    int found = 0;
    if (!dir) {
        return pfq_fail(err, "cannot read the folder '%s': %s", b->name, strerror(errno));
    }
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        char path[4096];
        int n = snprintf(path, sizeof path, "%s/%s", b->name, e->d_name);
        if (n > 0 && n < (int)sizeof path && is_program(path)) {
            found++;
            free(b->path);
            b->path = strdup(path);
        }
    }
    closedir(dir);
    return (found == 1 && b->path) ||
           pfq_fail(err, "'%s' has %d programs, expected one: name it", b->name, found);
}

/* ---- the child ---- */

static char *said(const PfqBase *b, int which)
{
    static char text[MAX_SAID + 1];
    ssize_t n = pread(b->said[which], text, MAX_SAID, 0);
    text[n > 0 ? n : 0] = 0;
    return text;
}

/* Its last line, without the newline. */
static const char *last_line(char *text)
{
    size_t n = strlen(text);
    while (n && (text[n - 1] == '\n' || text[n - 1] == '\r')) {
        text[--n] = 0;
    }
    char *line = strrchr(text, '\n');
    return line ? line + 1 : text;
}

/* Waits for the child; a sentence if it did not end well. */
static bool reap(PfqBase *b, PfqErr *err)
{
    int status = 0;
    while (waitpid(b->child, &status, 0) < 0 && errno == EINTR) {
    }
    b->child = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        return true;
    }
    const char *line = last_line(said(b, 1));
    if (*line) {
        return pfq_fail(err, "the base failed: %.900s", line);
    }
    return WIFSIGNALED(status)
               ? pfq_fail(err, "the base '%s' was ended by signal %d", b->name, WTERMSIG(status))
               : pfq_fail(err, "the base '%s' ended with status %d", b->name, WEXITSTATUS(status));
}

/* Our variables without those of pfqc programs. NULL when out of memory. */
static char **child_environment(void)
{
    size_t n = 0, k = 0;
    while (environ[n]) {
        n++;
    }
    char **out = malloc((n + 1) * sizeof *out);
    for (size_t i = 0; out && i < n; i++) {
        if (strncmp(environ[i], "PFQC_", 5) != 0) {
            out[k++] = environ[i];
        }
    }
    if (out) {
        out[k] = NULL;
    }
    return out;
}

/* Starts b->path with its output in b->said and, if `pipe` >= 0, that as CHILD_FD. */
static bool start(PfqBase *b, char *const *argv, int pipe, PfqErr *err)
{
    posix_spawn_file_actions_t files;
    char **env = child_environment();
    int error = env ? posix_spawn_file_actions_init(&files) : ENOMEM;
    for (int i = 0; i < 2; i++) {
        if (b->said[i] < 0) {
            b->said[i] = memfd_create("pfqc-base", MFD_CLOEXEC);
        }
        error = error || b->said[i] >= 0 ? error : errno;
    }
    if (!error) {
        error = posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
        for (int i = 0; i < 2 && !error; i++) {
            error = ftruncate(b->said[i], 0) != 0 || lseek(b->said[i], 0, SEEK_SET) != 0
                        ? errno
                        : posix_spawn_file_actions_adddup2(&files, b->said[i], 1 + i);
        }
        if (!error && pipe >= 0) {
            error = posix_spawn_file_actions_adddup2(&files, pipe, CHILD_FD);
        }
        error = error ? error : posix_spawn(&b->child, b->path, &files, NULL, argv, env);
        posix_spawn_file_actions_destroy(&files);
    }
    free(env);
    b->child = error ? 0 : b->child;
    return !error || pfq_fail(err, "cannot start '%s': %s", b->path, strerror(error));
}

/* Is it a program of pfqc, with our vocabulary? */
static bool check_info(PfqBase *b, const PfqModel *m, PfqErr *err)
{
    static const char key[] = "\nvocabulary: ";
    char *argv[] = {b->path, "info", NULL};
    if (!start(b, argv, -1, err) || !reap(b, err)) {
        return false;
    }
    const char *at = strstr(said(b, 0), key);
    if (!at) {
        return pfq_fail(err, "'%s' is no program of pfqc: its 'info' names no vocabulary", b->path);
    }
    long vocab = strtol(at + strlen(key), NULL, 10);
    return vocab == m->vocab ||
           pfq_fail(err, "the base has a vocabulary of %ld tokens, this program one of %d", vocab,
                    m->vocab);
}

static bool start_ppl(PfqBase *b, const PfqChunks *t, PfqErr *err)
{
    const PfqOptions *o = &t->cli->opt;
    char length[16], chunks[24], threads[16];
    char *argv[16] = {b->path, "ppl"};
    int n = 2, ends[2];
    snprintf(length, sizeof length, "%d", t->length);
    snprintf(chunks, sizeof chunks, "%lld", (long long)t->n);
    snprintf(threads, sizeof threads, "%d", (int)o->threads);
    const struct {
        bool given;
        const char *name, *value;
    } options[] = {{true, "-c", length},
                   {true, "--chunks", chunks},
                   {true, "--save-logits", "/dev/fd/3"},
                   {o->bos, "--bos", NULL},
                   {o->threads > 0, "-t", threads},
                   {o->device != NULL, "--device", o->device},
                   {true, "--", o->operands[0]}};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        if (options[i].given) {
            argv[n++] = (char *)options[i].name;
            argv[n] = (char *)options[i].value;
            n += argv[n] != NULL;
        }
    }
    if (pipe2(ends, O_CLOEXEC) != 0) {
        return pfq_fail(err, "cannot make a pipe: %s", strerror(errno));
    }
    (void)fcntl(ends[0], F_SETPIPE_SZ,
                PIPE_BYTES); /* so that neither waits for the other's blocks */
    b->fd = ends[0];
    bool ok = start(b, argv, ends[1], err);
    close(ends[1]);
    return ok;
}

/* ---- rows ---- */

static bool open_file(PfqBase *b, const PfqChunks *t, PfqErr *err)
{
    struct stat st;
    const int64_t want = t->n * (t->length - 1) * t->cli->model->vocab * (int64_t)sizeof(float);
    b->fd = open(b->name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (b->fd < 0 || fstat(b->fd, &st) != 0) {
        return pfq_fail(err, "cannot open '%s': %s", b->name, strerror(errno));
    }
    if (!S_ISREG(st.st_mode)) {
        return pfq_fail(err, "'%s' is neither a program, nor its folder, nor a file of logits",
                        b->name);
    }
    return st.st_size == want ||
           pfq_fail(err,
                    "'%s' has %lld bytes, but logits of these chunks %lld: -c, --chunks and the "
                    "vocabulary must be those it was written with",
                    b->name, (long long)st.st_size, (long long)want);
}

bool pfq_base_open(PfqBase *b, const char *other, const PfqChunks *t, PfqErr *err)
{
    struct stat st;
    *b = PFQ_BASE_CLOSED;
    b->name = other;
    if (stat(other, &st) == 0 && S_ISDIR(st.st_mode)) {
        if (!find_program(b, err)) {
            return false;
        }
    } else if (!is_program(other)) {
        return open_file(b, t, err);
    } else if (!(b->path = strdup(other))) {
        return pfq_fail(err, "out of memory for the base's name");
    }
    return check_info(b, t->cli->model, err) && start_ppl(b, t, err);
}

/* Reads until n bytes are there or the stream ends; the bytes read, or -1. */
static ssize_t read_up_to(int fd, void *out, size_t n)
{
    size_t have = 0;
    while (have < n) {
        ssize_t got = read(fd, (char *)out + have, n - have);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return -1;
        }
        if (got == 0) {
            break;
        }
        have += (size_t)got;
    }
    return (ssize_t)have;
}

bool pfq_base_read(PfqBase *b, float *rows, int32_t n, int32_t vocab, PfqErr *err)
{
    const size_t want = (size_t)n * (size_t)vocab * sizeof *rows;
    ssize_t got = read_up_to(b->fd, rows, want);
    if (got == (ssize_t)want) {
        return true;
    }
    if (got >= 0 && b->child && !reap(b, err)) {
        return false;
    }
    return pfq_fail(err, "the logits of '%s' %s", b->name,
                    got < 0 ? strerror(errno) : "end too early: its tokens are others");
}

bool pfq_base_finish(PfqBase *b, double ppl, int64_t tokens, PfqErr *err)
{
    char more;
    if (!b->child) {
        return true; /* a file, of the right size */
    }
    if (read_up_to(b->fd, &more, 1) != 0) {
        return pfq_fail(err, "the logits of '%s' go on: its tokens are others", b->name);
    }
    if (!reap(b, err)) {
        return false;
    }
    double its = 0, se;
    long long n = 0;
    const char *line = last_line(said(b, 0));
    return (sscanf(line, "ppl %lf se %lf tokens %lld", &its, &se, &n) == 3 && n == tokens &&
            fabs(its - ppl) <= 1e-4 * ppl + 1e-4) ||
           pfq_fail(err,
                    "the base's '%.100s' is not the %.4f of its logits and this program's tokens: "
                    "its tokens are others",
                    line, ppl);
}

void pfq_base_close(PfqBase *b)
{
    if (b->child) {
        PfqErr ignored;
        kill(b->child, SIGTERM);
        reap(b, &ignored);
    }
    for (int i = 0; i < 2; i++) {
        if (b->said[i] >= 0) {
            close(b->said[i]);
        }
    }
    if (b->fd >= 0) {
        close(b->fd);
    }
    free(b->path);
    *b = PFQ_BASE_CLOSED;
}
