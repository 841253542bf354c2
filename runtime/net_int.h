/* Inside the server: what net.c (the loop), net_conn.c (a connection), net_reply.c (replies) and
 * site.c (own routes) share. Contract: net.h. */
#ifndef PFQC_RUNTIME_NET_INT_H
#define PFQC_RUNTIME_NET_INT_H

#include "runtime/net.h"

#include <pthread.h>

typedef struct PfqBytes {
    char *p;
    size_t n, cap;
} PfqBytes;

bool pfq_bytes_add(PfqBytes *b, const void *bytes, size_t n); /* false: out of memory */
void pfq_bytes_free(PfqBytes *b);

struct PfqReply {
    PfqNet *net;
    bool http10, head_only; /* head_only: the request was HEAD */
    const char *extra;      /* header lines of the reply, "" or a text that ends in CR LF */
    /* the handler's */
    PfqBytes draft; /* written, not sent */
    const char *type;
    int status;
    bool started, streaming;
    bool over; /* it has become larger than it may be */
    /* both threads', under the lock */
    pthread_mutex_t lock;
    bool keep_alive;    /* the connection stays open after it */
    PfqBytes head, out; /* what waits to be sent */
    bool ended;
    int owners; /* the connection and the handler; the last one frees the reply */
    _Atomic bool gone;
};

/* ---- net_reply.c ---- */

PfqReply *pfq_reply_new(PfqNet *net, const PfqHttpRequest *q, bool keep_alive);

/* Moves the next part of what waits into `out`, which must be empty; chunks are framed here.
 * Returns whether all was sent before; *keep_alive is then what the client was told. */
bool pfq_reply_pull(PfqReply *r, PfqBytes *out, bool *keep_alive);

/* The connection lets go of the reply, which is gone if it has not ended. Returns whether it had.
 */
bool pfq_reply_drop(PfqReply *r);

/* ---- net_conn.c: the I/O thread's alone ---- */

enum { PFQ_NET_READ = 16 << 10 }; /* bytes read at a time */

typedef enum PfqConnState {
    PFQ_CONN_READING,   /* a request, or waits for one */
    PFQ_CONN_REPLYING,  /* has a reply */
    PFQ_CONN_LINGERING, /* has said its last and reads on, so that the client can read it too */
} PfqConnState;

typedef struct PfqConn {
    int fd;
    PfqConnState state;
    PfqHttp http;
    const PfqRoute *route; /* of the request whose body comes in */
    char *in; /* PFQ_NET_READ bytes, or NULL; [in_at, in_n) belong to the next request */
    size_t in_at, in_n, body;
    PfqReply *reply;
    PfqBytes out; /* from `sent` on to be sent */
    size_t sent;
    bool fresh;                                /* no request came yet */
    double since, body_since, out_since, last; /* seconds: the state or the request began; its body;
                                                  what `out` holds; bytes went either way */
} PfqConn;

PfqConn *pfq_conn_new(PfqNet *net, int fd); /* owns fd; NULL: out of memory */
void pfq_conn_free(PfqNet *net, PfqConn *c);
short pfq_conn_events(const PfqConn *c); /* what to poll for */

/* Goes on after poll said `events`, or when the reply may hold more. False: to be closed. */
bool pfq_conn_step(PfqNet *net, PfqConn *c, short events);

/* When it is too late; false: to be closed at once. */
double pfq_conn_deadline(const PfqNet *net, const PfqConn *c);
bool pfq_conn_late(PfqNet *net, PfqConn *c);
void pfq_conn_refuse(PfqNet *net, PfqConn *c, int status, const char *why);

/* ---- net.c ---- */

struct PfqNet {
    PfqNetConfig config;
    PfqNetLimits limits; /* without zeros */
    int listener, wake;  /* wake: an eventfd */
    char url[128];
    PfqConn **conn;
    int n_conn, cap_conn;
    double now;    /* of this round of the loop */
    size_t bodies; /* bytes of bodies that are coming in */
    _Atomic bool woken;
    _Atomic int stops;    /* how often it was asked to end */
    pthread_mutex_t lock; /* of what follows */
    PfqHealth health;
    double pulse; /* when the engine's step began; 0: it is at none */
    char why[512];
};

void pfq_net_wake(PfqNet *net); /* the I/O thread looks at its replies */

/* ---- site.c ---- */

extern const PfqRoute pfq_site_routes[]; /* /health, /metrics, /; their `user` is the net */
extern const int pfq_n_site_routes;

#endif
