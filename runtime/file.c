/* Whole files. Contract: file.h. */
#include "runtime/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char *pfq_read_file(const char *path, size_t *n, PfqErr *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;
    char *text = NULL;
    *n = 0;
    if (fd < 0 || fstat(fd, &st) != 0) {
        pfq_fail(err, "cannot open '%s': %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        pfq_fail(err, "'%s' is not a regular file", path);
    } else if (!(text = malloc((size_t)st.st_size + 1))) {
        pfq_fail(err, "out of memory for the %lld bytes of '%s'", (long long)st.st_size, path);
    } else {
        ssize_t got = 1;
        while (got > 0 && *n < (size_t)st.st_size) {
            got = read(fd, text + *n, (size_t)st.st_size - *n);
            *n += got > 0 ? (size_t)got : 0;
            got = got < 0 && errno == EINTR ? 1 : got;
        }
        text[*n] = 0;
        if (got < 0) {
            pfq_fail(err, "cannot read '%s': %s", path, strerror(errno));
            free(text);
            text = NULL;
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    return text;
}

bool pfq_save_open(PfqSave *s, const char *path, PfqErr *err)
{
    struct stat st;
    *s = (PfqSave){.path = path};
    if (!path) {
        return true;
    }
    if (stat(path, &st) != 0 || S_ISREG(st.st_mode)) {
        size_t n = strlen(path);
        s->part = malloc(n + sizeof ".part");
        if (!s->part) {
            return pfq_fail(err, "out of memory for the name of '%s'", path);
        }
        memcpy(s->part, path, n);
        memcpy(s->part + n, ".part", sizeof ".part");
    }
    const char *name = s->part ? s->part : path;
    s->f = fopen(name, "wbe");
    return s->f || pfq_fail(err, "cannot write '%s': %s", name, strerror(errno));
}

void pfq_save_write(PfqSave *s, const void *bytes, size_t n)
{
    if (s->f && !s->error && fwrite(bytes, 1, n, s->f) != n) {
        s->error = errno;
    }
}

bool pfq_save_close(PfqSave *s, bool ok, PfqErr *err)
{
    if (s->f) {
        bool whole = !s->error && fflush(s->f) == 0 && !ferror(s->f);
        whole = (!s->part || fsync(fileno(s->f)) == 0) && whole;
        whole = fclose(s->f) == 0 && whole;
        if (ok && !(whole && (!s->part || rename(s->part, s->path) == 0))) {
            ok = pfq_fail(err, "cannot write '%s': %s", s->path,
                          strerror(s->error ? s->error : errno));
        }
        if (!ok && s->part) {
            unlink(s->part);
        }
    }
    free(s->part);
    *s = (PfqSave){0};
    return ok;
}
