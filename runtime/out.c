/* Output. Contract: out.h. */
#include "runtime/out.h"

#include "runtime/json.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

double pfq_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Writes everything or returns errno. A non-blocking pipe that is full is waited for. */
static int write_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t put = write(fd, p, n);
        if (put < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            poll(&wait, 1, -1);
        } else if (put < 0 && errno != EINTR) {
            return errno;
        } else if (put > 0) {
            p += put;
            n -= (size_t)put;
        }
    }
    return 0;
}

void pfq_out_init(PfqOut *o, int fd)
{
    o->fd = fd;
    o->error = 0;
    o->n = 0;
    o->text.n = 0;
}

void pfq_out_flush(PfqOut *o)
{
    if (o->n && !o->error) {
        o->error = write_all(o->fd, o->buf, o->n);
    }
    o->n = 0;
}

void pfq_out_write(PfqOut *o, const void *bytes, size_t n)
{
    const char *p = bytes;
    while (n && !o->error) {
        size_t room = sizeof o->buf - o->n, take = n < room ? n : room;
        memcpy(o->buf + o->n, p, take);
        o->n += take;
        p += take;
        n -= take;
        if (o->n == sizeof o->buf) {
            pfq_out_flush(o);
        }
    }
}

void pfq_out_printf(PfqOut *o, const char *fmt, ...)
{
    char line[4096];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (n > 0) {
        pfq_out_write(o, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
    }
}

bool pfq_out_finish(PfqOut *o, PfqErr *err)
{
    pfq_out_flush(o);
    return o->error ? pfq_fail(err, "cannot write to standard output: %s", strerror(o->error))
                    : true;
}

/* ---- UTF-8 ---- */

/* Bytes of the sequence that `lead` starts; 0 if no sequence starts so. */
static int utf8_length(unsigned char lead)
{
    return lead < 0x80   ? 1
           : lead < 0xc2 ? 0
           : lead < 0xe0 ? 2
           : lead < 0xf0 ? 3
           : lead < 0xf5 ? 4
                         : 0;
}

/* May b follow lead directly? Excludes overlong forms, surrogates and values past U+10FFFF (Unicode
 * table 3-7). */
static bool utf8_second(unsigned char lead, unsigned char b)
{
    unsigned lo = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    unsigned hi = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    return b >= lo && b <= hi;
}

int pfq_utf8_end(PfqUtf8 *u, char out[8])
{
    const int n = u->n ? 3 : 0;
    memcpy(out, "\xef\xbf\xbd", 3); /* U+FFFD */
    u->n = 0;
    return n;
}

int pfq_utf8_feed(PfqUtf8 *u, unsigned char byte, char out[8])
{
    const bool goes_on = u->n == 1 ? utf8_second(u->part[0], byte) : (byte & 0xc0) == 0x80;
    int n = u->n && !goes_on ? pfq_utf8_end(u, out) : 0; /* and the byte starts something */
    if (u->n == 0 && utf8_length(byte) == 0) {
        u->n = 1;
        return n + pfq_utf8_end(u, out + n);
    }
    u->part[u->n++] = byte;
    if (u->n < utf8_length(u->part[0])) {
        return n;
    }
    memcpy(out + n, u->part, (size_t)u->n);
    n += u->n;
    u->n = 0;
    return n;
}

void pfq_out_text(PfqOut *o, const char *bytes, size_t n)
{
    char out[8];
    for (size_t i = 0; i < n; i++) {
        const int k = pfq_utf8_feed(&o->text, (unsigned char)bytes[i], out);
        pfq_out_write(o, out, (size_t)k);
    }
}

void pfq_out_text_end(PfqOut *o)
{
    char out[8];
    pfq_out_write(o, out, (size_t)pfq_utf8_end(&o->text, out));
}

/* ---- JSON ---- */

void pfq_out_json_string(PfqOut *o, const char *s)
{
    pfq_out_write(o, "\"", 1);
    for (; *s; s++) {
        char code[8];
        const size_t n = pfq_json_escape((unsigned char)*s, code);
        if (n > 1) {
            pfq_out_text_end(o);
            pfq_out_write(o, code, n);
        } else {
            pfq_out_text(o, s, 1);
        }
    }
    pfq_out_text_end(o);
    pfq_out_write(o, "\"", 1);
}

void pfq_out_json_number(PfqOut *o, double v)
{
    char text[32];
    int n =
        isfinite(v) ? snprintf(text, sizeof text, "%.9g", v) : snprintf(text, sizeof text, "null");
    pfq_out_write(o, text, (size_t)n);
}

/* ---- stderr ---- */

void pfq_note(const char *fmt, ...)
{
    char line[4096];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (n > 0) {
        (void)write_all(2, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
    }
}

void pfq_progress_start(PfqProgress *p, const char *what)
{
    *p = (PfqProgress){.what = what, .tty = isatty(2) == 1, .start = pfq_now()};
    p->shown = p->start;
}

void pfq_progress_start_quiet(PfqProgress *p, const char *what)
{
    pfq_progress_start(p, what);
    p->quiet = 2;
}

static void duration(double seconds, char *out, size_t cap)
{
    long s = (long)(seconds + 0.5);
    if (s >= 3600) {
        snprintf(out, cap, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    } else {
        snprintf(out, cap, "%ld:%02ld", s / 60, s % 60);
    }
}

void pfq_progress(PfqProgress *p, int64_t done, int64_t total, const char *note)
{
    double now = pfq_now(), every = p->tty ? 0.1 : 5.0;
    if (done < 1 || total < 1 || now - p->start < p->quiet ||
        (now - p->shown < every && !(p->tty && done == total))) {
        return;
    }
    p->shown = now;
    char eta[32], bar[33];
    duration((now - p->start) / (double)done * (double)(total - done), eta, sizeof eta);
    int filled = (int)((double)(sizeof bar - 1) * (double)done / (double)total);
    for (int i = 0; i < (int)sizeof bar - 1; i++) {
        bar[i] = i < filled ? '#' : '.';
    }
    bar[sizeof bar - 1] = 0;
    pfq_note("%s%s [%s] %lld/%lld  ETA %s  %s%s", p->tty ? "\r" : "", p->what, bar, (long long)done,
             (long long)total, eta, note, p->tty ? "\033[K" : "\n");
}

void pfq_progress_end(PfqProgress *p)
{
    if (p->tty && p->shown > p->start) {
        pfq_note("\n");
    }
}
