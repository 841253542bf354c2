#include "ir/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static bool fail_read(Diag *d, const char *path, const char *why)
{
    return diag_error(d, E_FILE_READ, LOC_WHAT(path), "cannot read the file: %s", why);
}

bool io_map(Diag *d, Arena *a, const char *path, MappedFile *out)
{
    /* O_NONBLOCK: opening a FIFO must not hang before fstat can refuse it. */
    path = arena_strdup(a, path, strlen(path));
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return fail_read(d, path, strerror(errno));
    struct stat st;
    bool ok = fstat(fd, &st) == 0;
    if (!ok)
        fail_read(d, path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        ok =
            fail_read(d, path, S_ISDIR(st.st_mode) ? "it is a folder" : "it is not a regular file");
    *out = (MappedFile){.name = path};
    if (ok && st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            ok = fail_read(d, path, strerror(errno));
        else
            *out = (MappedFile){path, p, (u64)st.st_size};
    }
    close(fd);
    return ok;
}

void io_unmap(MappedFile *f)
{
    if (f->data) munmap((void *)(uintptr_t)f->data, f->size);
    f->data = NULL;
}

bool io_read_text(Diag *d, Arena *a, const char *path, u64 limit, Source *out)
{
    MappedFile f;
    if (!io_map(d, a, path, &f)) return false;
    if (f.size > limit) {
        io_unmap(&f);
        return diag_error(d, E_LIMIT, LOC_WHAT(f.name),
                          "the file has %llu bytes, more than the limit of %llu",
                          (unsigned long long)f.size, (unsigned long long)limit);
    }
    *out = (Source){f.name, arena_strdup(a, (const char *)f.data, f.size), f.size};
    io_unmap(&f);
    return true;
}

bool io_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool io_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

char *io_join(Arena *a, const char *dir, const char *name)
{
    if (name[0] == '/' || strcmp(dir, ".") == 0 || !*dir)
        return arena_strdup(a, name, strlen(name));
    return arena_printf(a, "%s%s%s", dir, dir[strlen(dir) - 1] == '/' ? "" : "/", name);
}

char *io_dirname(Arena *a, const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash) return arena_strdup(a, ".", 1);
    return arena_strdup(a, path, slash == path ? 1 : (size_t)(slash - path));
}

bool io_mkdirs(Diag *d, const char *path)
{
    Arena a = {0};
    char *p = arena_strdup(&a, path, strlen(path));
    bool ok = true;
    for (char *s = p + 1; ok; s++) {
        if (*s && *s != '/') continue;
        char c = *s;
        *s = 0;
        if (mkdir(p, 0777) != 0 && !(errno == EEXIST && io_is_dir(p)))
            ok = diag_error(d, E_FILE_WRITE, LOC_WHAT(path), "cannot make the folder: %s",
                            strerror(errno == EEXIST ? ENOTDIR : errno));
        *s = c;
        if (!c) break;
    }
    arena_free(&a);
    return ok;
}

/* ---- outputs ---- */

enum { OUT_BUF = 1 << 16 };

struct OutFile {
    Diag *d;
    char *path, *temp;
    int fd;
    bool failed;
    u64 at;
    size_t n;
    OutFile *next, **prev; /* list of outputs in progress */
    u8 buf[OUT_BUF];
};

static OutFile *outputs;

OutFile *io_create(Diag *d, Arena *a, const char *path)
{
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        diag_error(d, E_FILE_WRITE, LOC_WHAT(path),
                   "cannot write: it exists and is not a regular file");
        return NULL;
    }
    OutFile *f = NEW(a, OutFile);
    f->d = d;
    f->path = arena_strdup(a, path, strlen(path));
    f->temp = arena_printf(a, "%s.tmp%ld", path, (long)getpid());
    f->fd = open(f->temp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (f->fd < 0) {
        diag_error(d, E_FILE_WRITE, LOC_WHAT(f->path), "cannot write: %s", strerror(errno));
        return NULL;
    }
    f->next = outputs;
    f->prev = &outputs;
    if (outputs) outputs->prev = &f->next;
    outputs = f;
    return f;
}

static bool out_fail(OutFile *f, int err)
{
    if (!f->failed)
        diag_error(f->d, E_FILE_WRITE, LOC_WHAT(f->path), "cannot write: %s", strerror(err));
    f->failed = true;
    return false;
}

bool io_pwrite(OutFile *f, const void *data, size_t n, u64 at)
{
    for (const u8 *p = data; n;) {
        ssize_t k = pwrite(f->fd, p, n, (off_t)at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return out_fail(f, k ? errno : ENOSPC);
        p += k, n -= (size_t)k, at += (u64)k;
    }
    return true;
}

static bool out_flush(OutFile *f)
{
    bool ok = io_pwrite(f, f->buf, f->n, f->at - f->n);
    f->n = 0;
    return ok;
}

bool io_write(OutFile *f, const void *data, size_t n)
{
    if (f->failed) return false;
    if (n > OUT_BUF - f->n && !out_flush(f)) return false;
    f->at += n;
    if (n >= OUT_BUF) return io_pwrite(f, data, n, f->at - n);
    if (n) memcpy(f->buf + f->n, data, n);
    f->n += n;
    return true;
}

u64 io_tell(const OutFile *f)
{
    return f->at;
}
const char *io_temp_path(const OutFile *f)
{
    return f->temp;
}

static void out_unlink(OutFile *f)
{
    if (!f->prev) return;
    *f->prev = f->next;
    if (f->next) f->next->prev = f->prev;
    f->prev = NULL;
    if (f->fd >= 0) close(f->fd);
    f->fd = -1;
}

bool io_commit(OutFile *f, int mode)
{
    if (f->failed || !out_flush(f)) {
        io_discard(f);
        return false;
    }
    /* A program may have replaced the temporary by a file of its own: sync and chmod by name. */
    mode_t mask = umask(0);
    umask(mask);
    int fd = open(f->temp, O_RDONLY | O_CLOEXEC);
    bool ok = fd >= 0 && fchmod(fd, (mode_t)mode & ~mask) == 0 && fsync(fd) == 0 &&
              rename(f->temp, f->path) == 0;
    if (!ok) out_fail(f, errno);
    if (fd >= 0) close(fd);
    if (!ok) {
        io_discard(f);
        return false;
    }
    Arena a = {0};
    int dir = open(io_dirname(&a, f->path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0) {
        (void)fsync(dir); /* best effort: some file systems refuse to sync a folder */
        close(dir);
    }
    arena_free(&a);
    out_unlink(f);
    return true;
}

void io_discard(OutFile *f)
{
    if (f->prev) unlink(f->temp);
    out_unlink(f);
}

void io_discard_outputs(void)
{
    for (OutFile *f = outputs; f; f = f->next)
        unlink(f->temp);
    outputs = NULL; /* the arena that holds them may go now */
}

static void on_signal(int sig)
{
    io_discard_outputs(); /* unlink is async-signal-safe */
    if (sig == SIGBUS) {
        static const char text[] = "pfqc: error[E0701]: an input file shrank while it was read\n";
        if (write(2, text, sizeof text - 1) < 0) _exit(1);
        _exit(1);
    }
    signal(sig, SIG_DFL);
    raise(sig);
}

void io_install_handlers(void)
{
    static const int sigs[] = {SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGBUS};
    for (size_t i = 0; i < sizeof sigs / sizeof *sigs; i++) {
        struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_NODEFER};
        sigaction(sigs[i], &sa, NULL);
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a write beyond the limit fails with EFBIG */
    atexit(io_discard_outputs);
    set_before_exit(io_discard_outputs);
}

bool io_write_file(Diag *d, Arena *a, const char *path, const void *data, size_t n)
{
    OutFile *f = io_create(d, a, path);
    if (f && io_write(f, data, n)) return io_commit(f, 0666);
    if (f) io_discard(f);
    return false;
}
