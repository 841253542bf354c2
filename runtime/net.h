/* A small HTTP server: connections on one thread, replies from any.
 *
 * pfq_net_run is the I/O thread: one poll loop that accepts, reads requests (http.h), finds their
 * routes, calls handlers and sends what replies hold. A handler runs on that thread and must not
 * block: it answers at once, or keeps the PfqReply for another thread (the engine's), which answers
 * when it can. The two threads meet in the reply's outbox alone, under its lock.
 *
 * A reply goes: pfq_reply_start, pfq_reply_write ..., pfq_reply_end - or pfq_reply_error, which is
 * all of that. A streaming reply also says pfq_reply_send where the client should get what was
 * written so far (after each event, say). Each reply must be ended, once, also when the client has
 * gone; the handle is invalid after it. Calls on one reply come from one thread at a time; none of
 * them blocks. What was sent waits in the outbox until the socket takes it: a whole reply, and what
 * waits of a streaming one, may be PFQ_REPLY_MOST bytes. One that becomes larger is gone for its
 * handler, and its end is an error, as by pfq_reply_error. A reader is cut off by time alone
 * (limits.send, limits.speed): the reply is then gone.
 *
 * pfq_reply_gone: there is no use in going on (the client closed, also its side alone; the reader
 * was too slow; memory ran out; the reply is too large; the server ends before replies do). Check
 * it once a token.
 *
 * Also here, for all routes: limits and timeouts (PfqNetLimits), keep-alive, Host and Origin (a
 * name that is not ours is refused, so that no web page reaches us by its own name), the bearer
 * token, 404 and 405, 503 while the engine loads, hangs or after it died, the routes /health,
 * /metrics and / (site.c). SIGTERM and SIGINT drain: no new connections or requests, replies may
 * end within limits.drain seconds, then pfq_net_run returns; a second signal cuts that short; once
 * the server is closed they are ignored. Errors: false and a sentence. Not here: TLS, HTTP/2,
 * files.
 */
#ifndef PFQC_RUNTIME_NET_H
#define PFQC_RUNTIME_NET_H

#include "runtime/http.h"
#include "runtime/image.h"
#include "runtime/metrics.h"

enum {
    PFQ_REPLY_MOST = 64 << 20, /* bytes of a whole reply; of a streaming one that wait to be sent */
    PFQ_NET_CONNECTIONS = 256,
};

typedef struct PfqNet PfqNet;
typedef struct PfqReply PfqReply;

/* `q` is valid until the handler returns (but see pfq_http_take_body). */
typedef void PfqHandler(void *user, PfqHttpRequest *q, PfqReply *r);

typedef struct PfqRoute {
    const char *method; /* "GET" serves HEAD too */
    const char *path;   /* the whole path, of one method; one that ends in '/': how it begins */
    PfqHandler *handler;
    bool needs_engine; /* 503 unless PFQ_READY */
    bool open;         /* needs no token */
} PfqRoute;

typedef struct PfqNetLimits { /* in seconds; 0: the default in brackets */
    double head;              /* [10] to receive a request line and headers */
    double body;     /* [30] between two bytes of a body; its mean speed is 4 KiB/s after that */
    double idle;     /* [60] between requests */
    double send;     /* [30] for the client to take anything of what waits */
    double speed;    /* [16384] bytes a second that it takes after that, on the mean */
    double drain;    /* [30] for replies to end after SIGTERM */
    double stall;    /* [120] for a step of the engine */
    int connections; /* [PFQ_NET_CONNECTIONS] */
    size_t bodies;   /* [256 MiB] bytes of all bodies that are coming in */
} PfqNetLimits;

typedef struct PfqNetConfig { /* all of it must live as long as the server */
    const char *host;         /* address or name to listen at: "127.0.0.1", "::", "localhost" */
    int port;                 /* 0: any */
    const char *token;        /* bearer token that routes need which are not open; NULL: none */
    const char *const *names; /* names that Host may have besides ours, NULL-terminated, or NULL */
    const PfqRoute *routes;   /* n of them, besides those of site.c */
    int n;
    void *user; /* the handlers' first argument */
    PfqMetrics *metrics;
    PfqNetLimits limits;
} PfqNetConfig;

/* Binds and listens; nothing is answered before pfq_net_run. */
PfqNet *pfq_net_open(const PfqNetConfig *c, PfqErr *err);
const char *pfq_net_url(const PfqNet *net); /* "http://127.0.0.1:8080" */

/* Serves until a signal or pfq_net_stop, and drains. */
bool pfq_net_run(PfqNet *net, PfqErr *err);

/* Like a signal, from any thread: the first call drains, the second ends at once. */
void pfq_net_stop(PfqNet *net);
bool pfq_net_stopping(const PfqNet *net);

/* After the run, when every reply that handlers kept has ended. NULL is allowed. */
void pfq_net_close(PfqNet *net);

/* What /health says, and whether routes that need the engine are served. From any thread; begins as
 * PFQ_LOADING. PFQ_DEAD is final. PFQ_STUCK is what READY looks like while the engine's thread has
 * been at one step for longer than limits.stall. */
typedef enum PfqHealth { PFQ_LOADING, PFQ_READY, PFQ_DEAD, PFQ_STUCK } PfqHealth;
void pfq_net_health(PfqNet *net, PfqHealth health, const char *why); /* why: of PFQ_DEAD; copied */

void pfq_net_pulse(PfqNet *net, bool begins); /* a step of the engine begins, or has ended */
PfqHealth pfq_net_state(PfqNet *net, char *why, size_t cap); /* cap 0: without the reason */

/* ---- replies ---- */

/* A status of the table in net_reply.c; `type` is a literal, as "application/json". Streaming: sent
 * as it comes (chunked; to HTTP/1.0 up to the end of the connection), else at the end with its
 * length. */
void pfq_reply_start(PfqReply *r, int status, const char *type, bool streaming);
bool pfq_reply_write(PfqReply *r, const void *bytes, size_t n); /* false: gone */
bool pfq_reply_printf(PfqReply *r, const char *fmt, ...)        /* at most 4 KiB */
    __attribute__((format(printf, 2, 3)));
/* A JSON string with its quotes, also of two texts as one; bytes that are no UTF-8 become U+FFFD.
 */
bool pfq_reply_json(PfqReply *r, const char *text, size_t n);
bool pfq_reply_json_pair(PfqReply *r, const char *a, size_t n, const char *b, size_t m);
bool pfq_reply_send(PfqReply *r); /* only streaming; false: gone */
void pfq_reply_end(PfqReply *r);
bool pfq_reply_gone(const PfqReply *r);

/* Ends a reply with an error in OpenAI's form; 503 brings Retry-After. `param`: the field at fault,
 * or NULL. What was written and not sent is dropped. In a streaming reply that was started, the
 * error becomes an event `data: {"error": ...}`. */
void pfq_reply_error(PfqReply *r, int status, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* The same with the error's `code`; NULL: the status's. */
void pfq_reply_refuse(PfqReply *r, int status, const char *param, const char *code,
                      const char *message);

#endif
