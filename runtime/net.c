/* The server's loop. Contract: net.h. */
#include "runtime/net_int.h"

#include "runtime/out.h"

#include <errno.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SPARE = 16 };     /* connections beyond the limit, which are told so */
#define EVICT_AFTER  1.0 /* seconds that a request may take to arrive when room is needed */
#define ACCEPT_PAUSE 0.1 /* seconds, after the system had no room for a connection */

static PfqNetLimits with_defaults(PfqNetLimits l)
{
    l.head = l.head > 0 ? l.head : 10;
    l.body = l.body > 0 ? l.body : 30;
    l.idle = l.idle > 0 ? l.idle : 60;
    l.send = l.send > 0 ? l.send : 30;
    l.speed = l.speed > 0 ? l.speed : 16384;
    l.drain = l.drain > 0 ? l.drain : 30;
    l.stall = l.stall > 0 ? l.stall : 120;
    l.connections = l.connections > 0 ? l.connections : PFQ_NET_CONNECTIONS;
    l.bodies = l.bodies > 0 ? l.bodies : 256 << 20;
    return l;
}

static void name_url(PfqNet *net)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    char host[64] = "", port[8] = "";
    getsockname(net->listener, (struct sockaddr *)&a, &n);
    getnameinfo((struct sockaddr *)&a, n, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    const bool brackets = strchr(host, ':') != NULL;
    snprintf(net->url, sizeof net->url, "http://%s%s%s:%s", brackets ? "[" : "", host,
             brackets ? "]" : "", port);
}

static int bind_to(const struct addrinfo *a)
{
    const int on = 1;
    const int fd = socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, 512) != 0) {
        const int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

static bool listen_at(PfqNet *net, PfqErr *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *list = NULL;
    char port[8];
    snprintf(port, sizeof port, "%d", net->config.port & 0xffff);
    const int bad = getaddrinfo(net->config.host, port, &hints, &list);
    if (bad) {
        return pfq_fail(err, "'%.100s' is no address to listen at: %s", net->config.host,
                        gai_strerror(bad));
    }
    for (const struct addrinfo *a = list; a && net->listener < 0; a = a->ai_next) {
        net->listener = bind_to(a);
    }
    const int error = errno;
    freeaddrinfo(list);
    if (net->listener < 0) {
        return pfq_fail(err, "cannot listen at %.100s, port %d: %s%s", net->config.host,
                        net->config.port, strerror(error),
                        error == EADDRINUSE ? " (--port 0 takes any that is free)" : "");
    }
    name_url(net);
    return true;
}

/* ---- signals: behind the end of the server ignored, so that one more does not end the program
 * while it ends by itself ---- */

static const int signals[] = {SIGTERM, SIGINT};
static PfqNet *signalled;

static void on_signal(int sig)
{
    (void)sig;
    pfq_net_stop(signalled);
}

static void catch_signals(PfqNet *net, void (*handler)(int))
{
    const struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    signalled = net;
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        sigaction(signals[i], &action, NULL);
    }
}

/* ---- open, close ---- */

PfqNet *pfq_net_open(const PfqNetConfig *c, PfqErr *err)
{
    PfqNet *net = calloc(1, sizeof *net);
    if (!net) {
        pfq_fail(err, "out of memory for the server");
        return NULL;
    }
    net->config = *c;
    net->limits = with_defaults(c->limits);
    net->listener = -1;
    net->cap_conn = net->limits.connections + SPARE;
    net->conn = calloc((size_t)net->cap_conn, sizeof(PfqConn *));
    net->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    pthread_mutex_init(&net->lock, NULL);
    bool ok = (net->conn && net->wake >= 0) || pfq_fail(err, "no memory for the server");
    if (!ok || !listen_at(net, err)) {
        pfq_net_close(net);
        return NULL;
    }
    catch_signals(net, on_signal); /* before anyone can be told that it listens */
    return net;
}

void pfq_net_close(PfqNet *net)
{
    if (!net) {
        return;
    }
    if (signalled == net) {
        catch_signals(net, SIG_IGN);
        signalled = NULL; /* now that on_signal cannot begin any more */
    }
    if (net->listener >= 0) {
        close(net->listener);
    }
    if (net->wake >= 0) {
        close(net->wake);
    }
    pthread_mutex_destroy(&net->lock);
    free(net->conn);
    free(net);
}

const char *pfq_net_url(const PfqNet *net)
{
    return net->url;
}

/* ---- from other threads ---- */

static void ring(PfqNet *net)
{
    const uint64_t one = 1;
    const int error = errno;
    if (write(net->wake, &one, sizeof one) < 0) {
        /* full: the thread is awake */
    }
    errno = error;
}

void pfq_net_wake(PfqNet *net)
{
    if (!atomic_exchange(&net->woken, true)) {
        ring(net);
    }
}

void pfq_net_stop(PfqNet *net)
{
    net->stops++;
    ring(net);
}

bool pfq_net_stopping(const PfqNet *net)
{
    return net->stops > 0;
}

void pfq_net_health(PfqNet *net, PfqHealth health, const char *why)
{
    pthread_mutex_lock(&net->lock);
    if (net->health != PFQ_DEAD) {
        net->health = health;
        snprintf(net->why, sizeof net->why, "%s", health == PFQ_DEAD && why ? why : "");
    }
    pthread_mutex_unlock(&net->lock);
}

void pfq_net_pulse(PfqNet *net, bool begins)
{
    pthread_mutex_lock(&net->lock);
    net->pulse = begins ? pfq_now() : 0;
    pthread_mutex_unlock(&net->lock);
}

PfqHealth pfq_net_state(PfqNet *net, char *why, size_t cap)
{
    pthread_mutex_lock(&net->lock);
    const double at_it = net->pulse > 0 ? pfq_now() - net->pulse : 0;
    const bool stuck = net->health == PFQ_READY && at_it > net->limits.stall;
    const PfqHealth health = stuck ? PFQ_STUCK : net->health;
    if (cap && stuck) {
        snprintf(why, cap, "the model has been at one step for %.0f s", at_it);
    } else if (cap) {
        snprintf(why, cap, "%s", net->why);
    }
    pthread_mutex_unlock(&net->lock);
    return health;
}

/* ---- connections ---- */

static void drop(PfqNet *net, int i)
{
    pfq_conn_free(net, net->conn[i]);
    net->conn[i] = net->conn[--net->n_conn];
}

/* How little a connection would be missed, -1 for one with a reply: it has said its last; its
 * request takes long to arrive; it waits for a request. */
static int dispensable(const PfqNet *net, const PfqConn *c)
{
    return c->state == PFQ_CONN_REPLYING                        ? -1
           : c->state == PFQ_CONN_LINGERING                     ? 2
           : c->http.begun && net->now - c->since > EVICT_AFTER ? 1
                                                                : 0;
}

/* Makes room by closing the connection that is missed least, of several the oldest. */
static bool evict(PfqNet *net)
{
    int victim = -1, best = -1;
    for (int i = 0; i < net->n_conn; i++) {
        const PfqConn *c = net->conn[i];
        const int rank = dispensable(net, c);
        if (rank > best || (rank >= 0 && rank == best && c->since < net->conn[victim]->since)) {
            victim = i;
            best = rank;
        }
    }
    if (victim >= 0) {
        drop(net, victim);
        pfq_metric_add(net->config.metrics, PFQ_METRIC_EVICTED, 1);
    }
    return victim >= 0;
}

static void welcome(PfqNet *net, int fd)
{
    const int on = 1;
    const bool room = net->n_conn < net->limits.connections || evict(net);
    if (net->n_conn == net->cap_conn) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    PfqConn *c = pfq_conn_new(net, fd);
    if (!c) {
        return;
    }
    net->conn[net->n_conn++] = c;
    if (!room) {
        pfq_conn_refuse(net, c, 503, "too many connections");
    }
    if (!room && !pfq_conn_step(net, c, 0)) {
        drop(net, net->n_conn - 1);
    }
}

/* Returns when to try again, 0 for as soon as there is one. */
static double accept_some(PfqNet *net)
{
    for (int i = 0; i < 64; i++) {
        const int fd = accept4(net->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            welcome(net, fd);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            evict(net);
            return net->now + ACCEPT_PAUSE;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            break;
        }
    }
    return 0;
}

/* ---- the loop ---- */

typedef struct Loop {
    struct pollfd *fds; /* wake, listener, then a connection each */
    double accept_at;   /* no connection is accepted before */
    double end_at;      /* replies are cut off; INFINITY until the server drains */
} Loop;

/* Milliseconds to the next deadline, -1 for never. */
static int time_left(const PfqNet *net, const Loop *l)
{
    double first = fmin(l->end_at, l->accept_at > 0 ? l->accept_at : INFINITY);
    for (int i = 0; i < net->n_conn; i++) {
        first = fmin(first, pfq_conn_deadline(net, net->conn[i]));
    }
    const double left = first - pfq_now();
    return isinf(left) ? -1 : left <= 0 ? 0 : (int)fmin(1e3 * left + 1, 6e4);
}

static void wait_for_events(PfqNet *net, Loop *l)
{
    const int n = net->n_conn;
    const bool accepts = net->listener >= 0 && l->accept_at == 0;
    l->fds[0] = (struct pollfd){.fd = net->wake, .events = POLLIN};
    l->fds[1] = (struct pollfd){.fd = accepts ? net->listener : -1, .events = POLLIN};
    for (int i = 0; i < n; i++) {
        l->fds[2 + i] =
            (struct pollfd){.fd = net->conn[i]->fd, .events = pfq_conn_events(net->conn[i])};
    }
    if (poll(l->fds, (nfds_t)n + 2, time_left(net, l)) < 0) {
        for (int i = 0; i < n + 2; i++) {
            l->fds[i].revents = 0;
        }
    }
    net->now = pfq_now();
}

/* Backwards, because a connection that goes is replaced by the last. */
static void serve_connections(PfqNet *net, const Loop *l, bool woken)
{
    for (int i = net->n_conn - 1; i >= 0; i--) {
        PfqConn *c = net->conn[i];
        const short events = l->fds[2 + i].revents;
        bool ok = true;
        if (events || (woken && c->state == PFQ_CONN_REPLYING)) {
            ok = pfq_conn_step(net, c, events);
        }
        if (ok && net->now >= pfq_conn_deadline(net, c)) {
            ok = pfq_conn_late(net, c);
        }
        if (!ok) {
            drop(net, i);
        }
    }
}

/* Once it was asked to end: no listener, no new requests, and a last moment for replies. */
static void drain(PfqNet *net, Loop *l)
{
    if (net->listener >= 0) {
        close(net->listener);
        net->listener = -1;
        l->end_at = net->now + net->limits.drain;
    }
    const bool now = net->stops > 1 || net->now >= l->end_at;
    for (int i = net->n_conn - 1; i >= 0; i--) {
        if (now || net->conn[i]->state == PFQ_CONN_READING) {
            drop(net, i);
        }
    }
}

static void serve(PfqNet *net, Loop *l)
{
    net->now = pfq_now();
    while (!net->stops || net->n_conn) {
        uint64_t rings;
        wait_for_events(net, l);
        const bool woken = read(net->wake, &rings, sizeof rings) > 0;
        atomic_store(&net->woken, false); /* before the replies are looked at */
        serve_connections(net, l, woken);
        if (l->accept_at > 0 && net->now >= l->accept_at) {
            l->accept_at = 0;
        } else if (l->fds[1].revents) {
            l->accept_at = accept_some(net);
        }
        if (net->stops) {
            drain(net, l);
        }
    }
}

bool pfq_net_run(PfqNet *net, PfqErr *err)
{
    Loop l = {.fds = calloc((size_t)net->cap_conn + 2, sizeof *l.fds), .end_at = INFINITY};
    if (!l.fds) {
        return pfq_fail(err, "out of memory for the server");
    }
    serve(net, &l);
    free(l.fds);
    return true;
}
