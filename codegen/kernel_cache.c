#include "codegen/kernel_cache.h"

#include "ir/base/cache.h"
#include "ir/base/io.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* MAGIC changes whenever nvrtc_compile makes something else of the same source. */
#define MAGIC "PFQKERN2"
enum { KEY = 32, MAX_CODE = 256 << 20 };

typedef struct Head {
    char magic[8];
    u64 bytes; /* of the code behind it */
    u64 serialised;
    char sum[KEY];
} Head;

struct KernelCache {
    Arena *a;
    const char *dir;  /* NULL: nothing is kept */
    ContentHash base; /* of what all sources share */
};

static void add_text(ContentHash *h, const char *s)
{
    content_add(h, s, strlen(s) + 1);
}

KernelCache *kernel_cache_open(Arena *a, const char *dir, const Nvrtc *n, const NvrtcSource *any)
{
    KernelCache *c = NEW(a, KernelCache);
    const char *folder = cache_folder(a, dir);
    *c = (KernelCache){.a = a, .base = content_new()};
    if (!folder) return c;
    c->dir = io_join(a, folder, "kernels");
    add_text(&c->base, nvrtc_identity(a, n));
    for (int i = 0; i < any->n_headers; i++) {
        add_text(&c->base, any->header_names[i]);
        add_text(&c->base, any->headers[i]);
    }
    return c;
}

static const char *path_of(const KernelCache *c, const NvrtcSource *s, const char *arch)
{
    ContentHash h = c->base;
    add_text(&h, arch);
    add_text(&h, s->name);
    add_text(&h, s->text);
    return io_join(c->a, c->dir, content_text(c->a, &h));
}

static void sum_of(Arena *a, const void *data, u64 n, char sum[KEY])
{
    ContentHash h = content_new();
    content_add(&h, data, n);
    memcpy(sum, content_text(a, &h), KEY);
}

static bool read_code(Arena *a, int fd, CgObject *out)
{
    struct stat st;
    Head head;
    char sum[KEY];
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) ||
        read(fd, &head, sizeof head) != sizeof head ||
        memcmp(head.magic, MAGIC, sizeof head.magic) != 0 || head.bytes > MAX_CODE ||
        (u64)st.st_size != sizeof head + head.bytes)
        return false;
    u8 *data = xmalloc(head.bytes + 1, 1);
    if (read(fd, data, head.bytes) == (ssize_t)head.bytes) {
        sum_of(a, data, head.bytes, sum);
        if (memcmp(sum, head.sum, KEY) == 0) {
            *out = (CgObject){.data = data, .bytes = head.bytes, .serialised = head.serialised};
            return true;
        }
    }
    free(data);
    return false;
}

bool kernel_cache_get(const KernelCache *c, const NvrtcSource *s, const char *arch, CgObject *out)
{
    if (!c->dir) return false;
    const int fd = open(path_of(c, s, arch), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return false;
    const bool ok = read_code(c->a, fd, out);
    close(fd);
    return ok;
}

static bool write_code(Arena *a, int fd, const CgObject *code)
{
    Head head = {.magic = MAGIC, .bytes = code->bytes, .serialised = code->serialised};
    sum_of(a, code->data, code->bytes, head.sum);
    return write(fd, &head, sizeof head) == sizeof head &&
           write(fd, code->data, code->bytes) == (ssize_t)code->bytes;
}

void kernel_cache_put(const KernelCache *c, const NvrtcSource *s, const char *arch,
                      const CgObject *code)
{
    Diag quiet;
    diag_init(&quiet, c->a);
    quiet.silent = true;
    if (!c->dir || !io_mkdirs(&quiet, c->dir)) return;
    const char *path = path_of(c, s, arch),
               *part = arena_printf(c->a, "%s.%ld", path, (long)getpid());
    const int fd = open(part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return;
    const bool ok = write_code(c->a, fd, code);
    if (close(fd) != 0 || !ok || rename(part, path) != 0) unlink(part);
}
