/* Results on stdout, messages on stderr.
 *
 * PfqOut buffers stdout, retries interrupted and short writes, and remembers the first failure:
 * callers need not check each write, but pfq_out_finish's result decides the exit code. Text of a
 * model passes pfq_out_text, which never writes half a UTF-8 sequence: incomplete bytes wait for
 * their rest, impossible ones become U+FFFD (one per maximal ill-formed part, Unicode 15
 * section 3.9). Nothing allocates. Threading: one thread.
 */
#ifndef PFQC_RUNTIME_OUT_H
#define PFQC_RUNTIME_OUT_H

#include "runtime/image.h"

/* Bytes of a model, one after another, to text that is valid UTF-8: what each byte completes is put
 * into `out` (its length is returned). */
typedef struct PfqUtf8 {
    unsigned char part[4]; /* an unfinished sequence */
    int n;
} PfqUtf8;

int pfq_utf8_feed(PfqUtf8 *u, unsigned char byte, char out[8]);
int pfq_utf8_end(PfqUtf8 *u, char out[8]); /* an unfinished sequence becomes U+FFFD */

typedef struct PfqOut {
    int fd;
    int error; /* errno of the first failed write, 0 if none */
    size_t n;
    PfqUtf8 text;
    char buf[1 << 16];
} PfqOut;

void pfq_out_init(PfqOut *o, int fd);
void pfq_out_write(PfqOut *o, const void *bytes, size_t n);
void pfq_out_printf(PfqOut *o, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));          /* at most 4 KiB */
void pfq_out_json_string(PfqOut *o, const char *s); /* with the quotes; UTF-8 repaired */
void pfq_out_json_number(PfqOut *o,
                         double v); /* %.9g; null when not finite, which JSON cannot say */
void pfq_out_text(PfqOut *o, const char *bytes, size_t n);
void pfq_out_text_end(PfqOut *o); /* an unfinished sequence becomes U+FFFD */
void pfq_out_flush(PfqOut *o);
bool pfq_out_finish(PfqOut *o, PfqErr *err); /* flushes and says what went wrong, if anything did */

/* One message to stderr, as it is; errors are ignored. */
void pfq_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A line on stderr that shows how far a long job is: redrawn on a terminal, else a new line every
 * few seconds. */
typedef struct PfqProgress {
    const char *what;
    bool tty;
    double start, shown; /* seconds */
    double quiet;        /* nothing is shown so many seconds long */
} PfqProgress;

void pfq_progress_start(PfqProgress *p, const char *what);
/* Of what seldom takes long: quiet for two seconds. */
void pfq_progress_start_quiet(PfqProgress *p, const char *what);
void pfq_progress(PfqProgress *p, int64_t done, int64_t total,
                  const char *note); /* note: "" or a short text */
void pfq_progress_end(PfqProgress *p);

double pfq_now(void); /* monotonic seconds */

#endif
