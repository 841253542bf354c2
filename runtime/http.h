/* HTTP/1.1 requests: bytes in, one request out.
 *
 * The parser is a pure function of the bytes it is fed, however they are cut: no sockets, no clock.
 * It takes what RFC 9112 lets a client send and nothing looser: CRLF line ends, no folded lines, no
 * space before a colon, one length (Content-Length of digits, or Transfer-Encoding: chunked, never
 * both), sizes that fit. All that two parsers might read differently is refused, and after a
 * refusal the connection must be closed. Limits hold while reading (docs/limits.md lists them).
 *
 *     size_t used = pfq_http_feed(&p, bytes, n);    p.state: MORE, READ_HEAD, DONE, BAD
 *
 * READ_HEAD is said once, between the header section and a body: the request can be judged (and 100
 * Continue sent) before its body comes; feed again to go on. After DONE the bytes behind `used`
 * belong to the next request; pfq_http_next makes the parser ready for it. Memory: the head (at
 * most PFQ_HTTP_LINE + PFQ_HTTP_HEAD bytes) and the body, by malloc, as the bytes come: at most
 * twice what was received, and 4 KiB. Not here: routes, replies (net.h).
 */
#ifndef PFQC_RUNTIME_HTTP_H
#define PFQC_RUNTIME_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PFQ_HTTP_LINE = 8 << 10,  /* bytes of a request line */
    PFQ_HTTP_HEAD = 32 << 10, /* bytes of all headers; also of trailers */
    PFQ_HTTP_HEADERS = 100,   /* their number */
    PFQ_HTTP_BODY = 8 << 20,  /* bytes of a body */
    PFQ_HTTP_CHUNK_LINE = 64, /* bytes of a chunk's size line, its extension included */
};

typedef struct PfqHttpHeader {
    const char *name, *value; /* the value without space around it */
} PfqHttpHeader;

/* All strings end in NUL and hold none. They live as long as the request. */
typedef struct PfqHttpRequest {
    const char *method; /* as sent: "GET"; methods are case-sensitive */
    const char *path;   /* percent-decoded, begins with '/' */
    const char *query;  /* as sent, without its '?'; "" if there is none */
    const PfqHttpHeader *headers;
    int n_headers;
    bool http10;     /* HTTP/1.0: no chunks in the reply */
    bool keep_alive; /* what the client wants of the connection */
    bool expects;    /* waits for 100 Continue */
    char *body;      /* may be changed in place; body[body_n] is NUL. NULL: none, or empty */
    size_t body_n;
} PfqHttpRequest;

/* The value of a header, its name in any case; NULL: not sent. A header that came twice (which only
 * lists may) gives its first. */
const char *pfq_http_header(const PfqHttpRequest *q, const char *name);

/* The body, which becomes the caller's to free; NULL if there is none. */
char *pfq_http_take_body(PfqHttpRequest *q);

typedef enum PfqHttpState {
    PFQ_HTTP_MORE, /* wants bytes */
    PFQ_HTTP_READ_HEAD,
    PFQ_HTTP_DONE,
    PFQ_HTTP_BAD,
} PfqHttpState;

typedef struct PfqHttp {
    PfqHttpState state;
    int status;             /* BAD: the reply's status, 400, 413, 414, 417, 431, 501, 503 or 505 */
    const char *why;        /* BAD: what was wrong, a sentence that quotes nothing of the request */
    bool begun;             /* a byte of the request was seen */
    PfqHttpRequest request; /* whole when DONE; at READ_HEAD all but the body */
    struct PfqHttpParts *parts; /* NULL between requests of a connection that is idle */
} PfqHttp;

/* A zeroed PfqHttp is ready. */
size_t pfq_http_feed(PfqHttp *p, const char *bytes, size_t n); /* bytes used, <= n */
void pfq_http_next(PfqHttp *p); /* forgets the request; also frees the parser's memory */

#endif
