/* Weight image: checksums, writer's layout, reader's checks. Contract: image.h. */
#include "runtime/image.h"

#include "runtime/out.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

bool pfq_fail(PfqErr *err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    return false;
}

/* ---- checksum ---- */

#define SUM_MUL 0x9e3779b97f4a7c15u /* 2^64 / golden ratio, odd */

static uint64_t sum_step(uint64_t lane, uint64_t word)
{
    lane = (lane ^ word) * SUM_MUL;
    return lane ^ (lane >> 29);
}

static void sum_block(PfqSum *s, const unsigned char *p)
{
    uint64_t w[4];
    memcpy(w, p, sizeof w);
    for (int i = 0; i < 4; i++) {
        s->lane[i] = sum_step(s->lane[i], w[i]);
    }
}

void pfq_sum_init(PfqSum *s)
{
    *s = (PfqSum){.lane = {1, 2, 3, 4}};
}

void pfq_sum_update(PfqSum *s, const void *data, size_t n)
{
    const unsigned char *p = data;
    size_t have = (size_t)(s->bytes % sizeof s->tail);
    s->bytes += n;
    if (have) {
        size_t take = sizeof s->tail - have < n ? sizeof s->tail - have : n;
        memcpy(s->tail + have, p, take);
        p += take;
        n -= take;
        if (have + take < sizeof s->tail) {
            return;
        }
        sum_block(s, s->tail);
    }
    PfqSum run = *s; /* a local copy stays in registers */
    for (; n >= sizeof s->tail; n -= sizeof s->tail, p += sizeof s->tail) {
        sum_block(&run, p);
    }
    memcpy(s->lane, run.lane, sizeof s->lane);
    if (n) {
        memcpy(s->tail, p, n);
    }
}

uint64_t pfq_sum_final(const PfqSum *s)
{
    PfqSum end = *s;
    size_t have = (size_t)(s->bytes % sizeof s->tail);
    if (have) {
        memset(end.tail + have, 0, sizeof end.tail - have);
        sum_block(&end, end.tail);
    }
    uint64_t h = s->bytes;
    for (int i = 0; i < 4; i++) {
        h = sum_step(h, end.lane[i]);
    }
    return h ^ (h >> 32);
}

uint64_t pfq_sum(const void *data, size_t n)
{
    PfqSum s;
    pfq_sum_init(&s);
    pfq_sum_update(&s, data, n);
    return pfq_sum_final(&s);
}

/* ---- layout, shared by writer and reader ---- */

/* Rounds up to a power of two; false when the result does not fit 63 bits (file offsets are
 * signed). */
static bool align_up(uint64_t v, uint64_t to, uint64_t *out)
{
    if (__builtin_add_overflow(v, to - 1, out)) {
        return false;
    }
    *out &= ~(to - 1);
    return *out <= INT64_MAX;
}

size_t pfq_image_header_bytes(size_t n)
{
    return sizeof(PfqImageHeader) + n * sizeof(PfqImageSection);
}

bool pfq_image_layout(PfqImageSection *sections, size_t n, uint64_t *data_offset,
                      uint64_t *data_bytes, uint64_t *total)
{
    uint64_t at = 0;
    if (n > PFQ_IMAGE_MAX_SECTIONS) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (!align_up(at, PFQ_SECTION_ALIGN, &at)) {
            return false;
        }
        sections[i].offset = at;
        if (__builtin_add_overflow(at, sections[i].bytes, &at)) {
            return false;
        }
    }
    *data_bytes = at;
    uint64_t end;
    return align_up(pfq_image_header_bytes(n), PFQ_IMAGE_ALIGN, data_offset) &&
           !__builtin_add_overflow(*data_offset, at, &end) && align_up(end, PFQ_IMAGE_ALIGN, total);
}

static uint64_t table_sum(const PfqImageHeader *h, const void *sections)
{
    PfqImageHeader copy = *h;
    copy.table_sum = 0;
    PfqSum s;
    pfq_sum_init(&s);
    pfq_sum_update(&s, &copy, sizeof copy);
    pfq_sum_update(&s, sections, h->n_sections * sizeof(PfqImageSection));
    return pfq_sum_final(&s);
}

bool pfq_image_header(const PfqImageSection *sections, size_t n, const uint8_t id[16], void *out)
{
    PfqImageHeader h = {.magic = "PFQW",
                        .version = PFQ_IMAGE_VERSION,
                        .endian = PFQ_IMAGE_ENDIAN,
                        .n_sections = (uint32_t)n};
    if (n > PFQ_IMAGE_MAX_SECTIONS ||
        !align_up(pfq_image_header_bytes(n), PFQ_IMAGE_ALIGN, &h.data_offset)) {
        return false;
    }
    if (n && __builtin_add_overflow(sections[n - 1].offset, sections[n - 1].bytes, &h.data_bytes)) {
        return false;
    }
    uint64_t end;
    if (__builtin_add_overflow(h.data_offset, h.data_bytes, &end) ||
        !align_up(end, PFQ_IMAGE_ALIGN, &h.total_bytes)) {
        return false;
    }
    memcpy(h.id, id, sizeof h.id);
    h.table_sum = table_sum(&h, sections);
    memcpy(out, &h, sizeof h);
    if (n) {
        memcpy((char *)out + sizeof h, sections, n * sizeof *sections);
    }
    return true;
}

void pfq_image_trailer(PfqImageTrailer *t, uint64_t offset, uint64_t total_bytes,
                       const uint8_t id[16])
{
    *t = (PfqImageTrailer){
        .magic = {'P', 'F', 'Q', 'W', 'T', 'A', 'I', 'L'}, .offset = offset, .bytes = total_bytes};
    memcpy(t->id, id, sizeof t->id);
}

bool pfq_image_settle(int fd)
{
    if (fsync(fd) != 0) {
        return false;
    }
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    return true;
}

/* ---- reader ---- */

/* A mapped file that another process truncates raises SIGBUS on the next read. That is reported
 * like any other error; only async-signal-safe calls are used. */
static const char *volatile bus_lo, *volatile bus_hi;

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
    (void)context;
    const char *at = info->si_addr;
    if (at >= bus_lo && at < bus_hi) {
        static const char msg[] =
            "error: the weights file became shorter or unreadable while in use\n";
        ssize_t ignored = write(2, msg, sizeof msg - 1);
        (void)ignored;
        _exit(1);
    }
    signal(sig, SIG_DFL);
    raise(sig);
}

static void watch_sigbus(const PfqImage *im)
{
    bus_lo = im->map;
    bus_hi = (const char *)im->map + im->map_bytes;
    struct sigaction sa = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};
    sigemptyset(&sa.sa_mask);
    sigaction(SIGBUS, &sa, NULL);
}

static bool pread_all(int fd, void *buf, size_t n, uint64_t at)
{
    char *p = buf;
    while (n) {
        ssize_t got = pread(fd, p, n, (off_t)at);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return false;
        }
        p += got;
        at += (uint64_t)got;
        n -= (size_t)got;
    }
    return true;
}

/* Opens a regular file without waiting (a FIFO would block) and tells its size. */
static int open_regular(const char *path, uint64_t *bytes, PfqErr *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) {
        pfq_fail(err, "cannot open the weights file '%s': %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        pfq_fail(err, "the weights file '%s' is not a regular file", path);
    } else {
        *bytes = (uint64_t)st.st_size;
        return fd;
    }
    if (fd >= 0) {
        close(fd);
    }
    return -1;
}

static bool id_is(const uint8_t got[16], const uint8_t want[16], const char *path, PfqErr *err)
{
    if (memcmp(got, want, 16) == 0) {
        return true;
    }
    char a[33], b[33];
    for (int i = 0; i < 16; i++) {
        snprintf(a + 2 * i, 3, "%02x", got[i]);
        snprintf(b + 2 * i, 3, "%02x", want[i]);
    }
    return pfq_fail(err, "'%s' holds weights %s, but this binary was compiled with weights %s",
                    path, a, b);
}

static bool check_header(const PfqImageHeader *h, uint64_t available, const char *path, PfqErr *err)
{
    if (memcmp(h->magic, "PFQW", 4) != 0) {
        return pfq_fail(err, "'%s' is not a pfqc weight image", path);
    }
    if (h->endian != PFQ_IMAGE_ENDIAN) {
        return pfq_fail(err, "'%s' was written for a machine of the other byte order", path);
    }
    if (h->version != PFQ_IMAGE_VERSION) {
        return pfq_fail(err, "'%s' has weight image version %u, this binary reads version %u", path,
                        h->version, PFQ_IMAGE_VERSION);
    }
    uint64_t end;
    if (h->n_sections > PFQ_IMAGE_MAX_SECTIONS || h->data_offset % PFQ_IMAGE_ALIGN ||
        h->data_offset < pfq_image_header_bytes(h->n_sections) ||
        h->total_bytes % PFQ_IMAGE_ALIGN ||
        __builtin_add_overflow(h->data_offset, h->data_bytes, &end) || end > h->total_bytes) {
        return pfq_fail(err, "the header of the weights file '%s' is damaged", path);
    }
    if (h->total_bytes > available) {
        return pfq_fail(err, "the weights file '%s' is cut short: %llu bytes of %llu", path,
                        (unsigned long long)available, (unsigned long long)h->total_bytes);
    }
    return true;
}

static bool check_table(const PfqImage *im, PfqErr *err)
{
    const PfqImageHeader *h = im->header;
    if (table_sum(h, im->sections) != h->table_sum) {
        return pfq_fail(err, "the header of the weights file '%s' is damaged (checksum)", im->path);
    }
    for (uint32_t i = 0; i < h->n_sections; i++) {
        const PfqImageSection *s = &im->sections[i];
        uint64_t end;
        if (memchr(s->name, 0, sizeof s->name) == NULL || s->offset % PFQ_SECTION_ALIGN ||
            __builtin_add_overflow(s->offset, s->bytes, &end) || end > h->data_bytes) {
            return pfq_fail(err, "section %u of the weights file '%s' lies outside it", i,
                            im->path);
        }
    }
    return true;
}

#define HUGE_PAGE ((uint64_t)2 << 20)

/* Maps bytes of fd from `at`, so that huge pages of the file fall on huge pages of memory. */
static void *map_aligned(int fd, uint64_t at, uint64_t bytes)
{
    uint64_t span = bytes + 2 * HUGE_PAGE; /* bytes is a checked file size, far below 2^63 */
    char *base = mmap(NULL, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        return MAP_FAILED;
    }
    char *lo = base + (HUGE_PAGE - (uintptr_t)base % HUGE_PAGE) + at % HUGE_PAGE;
    void *map = mmap(lo, bytes, PROT_READ, MAP_SHARED | MAP_FIXED, fd, (off_t)at);
    if (map == MAP_FAILED) {
        int saved = errno;
        munmap(base, span);
        errno = saved;
        return MAP_FAILED;
    }
    munmap(base,
           (size_t)(lo - base)); /* both of at least a page: at and bytes are multiples of 64 KiB */
    munmap(lo + bytes, (size_t)(base + span - (lo + bytes)));
    madvise(map, bytes, MADV_HUGEPAGE);
    return map;
}

/* Maps [at, at + header's total) of fd. The fields are checked on a copy first, then again in the
 * mapping's header, which must be the same bytes. */
static bool map_image(PfqImage *im, int fd, uint64_t at, uint64_t available, const uint8_t id[16],
                      PfqErr *err)
{
    PfqImageHeader h;
    if (available < sizeof h || !pread_all(fd, &h, sizeof h, at)) {
        return pfq_fail(err, "'%s' is too short to be a pfqc weight image", im->path);
    }
    if (!check_header(&h, available, im->path, err) || !id_is(h.id, id, im->path, err)) {
        return false;
    }
    void *map = map_aligned(fd, at, h.total_bytes);
    if (map == MAP_FAILED) {
        return pfq_fail(err, "cannot map the weights file '%s': %s", im->path, strerror(errno));
    }
    im->map = map;
    im->map_bytes = h.total_bytes;
    im->header = map;
    im->sections = (const PfqImageSection *)((const char *)map + sizeof h);
    im->data = (const char *)map + h.data_offset;
    watch_sigbus(im);
    if (memcmp(&h, map, sizeof h) != 0) {
        return pfq_fail(err, "the weights file '%s' changed while it was opened", im->path);
    }
    return check_table(im, err);
}

/* Looks for an appended image in fd. Returns false with an empty err when there is none. */
static bool open_appended(PfqImage *im, int fd, uint64_t size, const uint8_t id[16], PfqErr *err)
{
    PfqImageTrailer t;
    err->text[0] = 0;
    if (size < sizeof t || !pread_all(fd, &t, sizeof t, size - sizeof t) ||
        memcmp(t.magic, "PFQWTAIL", 8) != 0) {
        return false;
    }
    uint64_t room = size - sizeof t;
    if (t.offset % PFQ_IMAGE_ALIGN || t.offset > room || t.bytes != room - t.offset) {
        return pfq_fail(err, "the weights appended to '%s' are damaged or cut short", im->path);
    }
    im->appended = true;
    return id_is(t.id, id, im->path, err) && map_image(im, fd, t.offset, t.bytes, id, err);
}

static bool open_file(PfqImage *im, const uint8_t id[16], PfqErr *err)
{
    uint64_t size = 0;
    int fd = open_regular(im->path, &size, err);
    if (fd < 0) {
        return false;
    }
    bool ok = map_image(im, fd, 0, size, id, err);
    close(fd);
    return ok;
}

/* Path of this binary without the last `/name`, for messages and to look beside it. */
static bool exe_path(char *out, size_t cap, PfqErr *err)
{
    ssize_t n = readlink("/proc/self/exe", out, cap - 1);
    if (n <= 0 || (size_t)n >= cap - 1) {
        return pfq_fail(err, "cannot tell where this binary is (/proc/self/exe); use --weights");
    }
    out[n] = 0;
    return true;
}

static bool open_beside(PfqImage *im, const char *exe, const char *model_name, const uint8_t id[16],
                        PfqErr *err)
{
    const char *slash = strrchr(exe, '/');
    int dir = slash ? (int)(slash - exe) + 1 : 0;
    char by_name[sizeof im->path];
    int a = snprintf(im->path, sizeof im->path, "%s%s", exe, PFQ_IMAGE_SUFFIX);
    int b = snprintf(by_name, sizeof by_name, "%.*s%s%s", dir, exe, model_name, PFQ_IMAGE_SUFFIX);
    if (a < 0 || b < 0 || (size_t)a >= sizeof im->path || (size_t)b >= sizeof by_name) {
        return pfq_fail(err, "the path of this binary is too long");
    }
    if (access(im->path, F_OK) != 0 && !strchr(model_name, '/') && access(by_name, F_OK) == 0) {
        memcpy(im->path, by_name, sizeof by_name);
    }
    return open_file(im, id, err);
}

bool pfq_image_open(PfqImage *im, const char *file, const char *model_name, const uint8_t id[16],
                    PfqErr *err)
{
    memset(im, 0, sizeof *im);
    err->text[0] = 0;
    if (file) {
        if (strlen(file) >= sizeof im->path) {
            return pfq_fail(err, "the path of the weights file is too long");
        }
        strcpy(im->path, file);
    }
    char exe[sizeof im->path - 16] = "";
    bool ok;
    if (file) {
        ok = open_file(im, id, err);
    } else {
        ok = exe_path(exe, sizeof exe, err);
        int fd = ok ? open("/proc/self/exe", O_RDONLY | O_CLOEXEC) : -1;
        if (fd >= 0) {
            struct stat st;
            strcpy(im->path, exe);
            ok = fstat(fd, &st) == 0 && open_appended(im, fd, (uint64_t)st.st_size, id, err);
            close(fd);
        }
        if (exe[0] && !ok && !im->appended && err->text[0] == 0) {
            ok = open_beside(im, exe, model_name, id, err);
        }
    }
    if (!ok) {
        pfq_image_close(im);
    }
    return ok;
}

void pfq_image_close(PfqImage *im)
{
    if (im->map) {
        munmap(im->map, im->map_bytes);
    }
    im->map = NULL;
    im->header = NULL;
    im->sections = NULL;
    im->data = NULL;
}

void pfq_image_prefault(const PfqImage *im)
{
    const size_t piece = (size_t)256 << 20;
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    PfqProgress progress;
    if (pages < 1 || page < 1 || im->map_bytes / 2 > (uint64_t)pages * (uint64_t)page / 4) {
        return;
    }
    pfq_progress_start_quiet(&progress, "loading");
    for (size_t at = 0; at < im->map_bytes; at += piece) {
        const size_t n = im->map_bytes - at < piece ? im->map_bytes - at : piece;
        /* Linux 5.14; else pages come when they are read */
        madvise((char *)im->map + at, n, MADV_POPULATE_READ);
        pfq_progress(&progress, (int64_t)(at + n), (int64_t)im->map_bytes, "");
    }
    pfq_progress_end(&progress);
}

bool pfq_image_verify(const PfqImage *im, struct PfqProgress *progress, PfqErr *err)
{
    int64_t done = 0;
    for (uint32_t i = 0; i < im->header->n_sections; i++) {
        const PfqImageSection *s = &im->sections[i];
        if (pfq_sum(im->data + s->offset, s->bytes) != s->sum) {
            return pfq_fail(err, "section %u '%s' of '%s' is damaged (checksum)", i, s->name,
                            im->path);
        }
        done += (int64_t)s->bytes;
        if (progress) {
            pfq_progress(progress, done, (int64_t)im->header->data_bytes, "");
        }
    }
    return true;
}
