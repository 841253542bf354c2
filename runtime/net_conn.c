/* One connection: requests in, replies out. Contract: net_int.h. */
#include "runtime/net_int.h"

#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINGER     1.0    /* seconds */
#define BODY_SPEED 4096.0 /* bytes a second, once the time between two bytes is used up */
enum { KEPT_OUT = 64 << 10 };

PfqConn *pfq_conn_new(PfqNet *net, int fd)
{
    PfqConn *c = calloc(1, sizeof *c);
    if (!c) {
        close(fd);
        return NULL;
    }
    c->fd = fd;
    c->fresh = true;
    c->since = c->last = net->now;
    pfq_metric_add(net->config.metrics, PFQ_METRIC_ACCEPTED, 1);
    pfq_metric_add(net->config.metrics, PFQ_METRIC_CONNECTIONS, 1);
    return c;
}

static void forget_body(PfqNet *net, PfqConn *c)
{
    net->bodies -= c->body;
    c->body = 0;
}

static void drop_reply(PfqNet *net, PfqConn *c)
{
    if (c->reply && !pfq_reply_drop(c->reply)) {
        pfq_metric_add(net->config.metrics, PFQ_METRIC_GONE, 1);
    }
    c->reply = NULL;
}

void pfq_conn_free(PfqNet *net, PfqConn *c)
{
    drop_reply(net, c);
    forget_body(net, c);
    pfq_http_next(&c->http);
    pfq_bytes_free(&c->out);
    free(c->in);
    close(c->fd);
    free(c);
    pfq_metric_add(net->config.metrics, PFQ_METRIC_CONNECTIONS, -1);
}

/* ---- refusals ---- */

static bool reply_with(PfqNet *net, PfqConn *c, bool keep_alive)
{
    c->reply = pfq_reply_new(net, &c->http.request, keep_alive);
    c->state = PFQ_CONN_REPLYING;
    c->out_since = net->now;
    return c->reply != NULL; /* without one the connection is closed in pfq_conn_step */
}

/* The refusal of a request that was read to its end leaves the connection open. */
static void refuse(PfqNet *net, PfqConn *c, int status, const char *extra, const char *why)
{
    const bool whole = c->http.state == PFQ_HTTP_DONE;
    if (reply_with(net, c, whole && c->http.request.keep_alive)) {
        c->reply->extra = extra;
        pfq_reply_error(c->reply, status, NULL, "%s", why);
    }
    forget_body(net, c);
    pfq_http_next(&c->http);
    c->route = NULL;
}

void pfq_conn_refuse(PfqNet *net, PfqConn *c, int status, const char *why)
{
    refuse(net, c, status, "", why);
}

/* ---- may this request be served? ---- */

static bool is_address(const char *name, size_t n)
{
    char text[INET6_ADDRSTRLEN], address[16];
    if (n >= sizeof text) {
        return false;
    }
    memcpy(text, name, n);
    text[n] = 0;
    return inet_pton(AF_INET, text, address) == 1 || inet_pton(AF_INET6, text, address) == 1;
}

/* A web page can give our address a name of its own and then speak to us as to itself (DNS
 * rebinding), but it cannot choose another Host than that name: addresses and our names are safe.
 */
static bool known_host(const PfqNetConfig *config, const char *host)
{
    const bool bracket = *host == '[';
    const char *name = host + bracket;
    const size_t n = strcspn(name, bracket ? "]" : ":");
    if (is_address(name, n) || (n == 9 && strncasecmp(name, "localhost", n) == 0)) {
        return true;
    }
    if (strlen(config->host) == n && strncasecmp(name, config->host, n) == 0) {
        return true;
    }
    for (const char *const *p = config->names; p && *p; p++) {
        if (strlen(*p) == n && strncasecmp(name, *p, n) == 0) {
            return true;
        }
    }
    return false;
}

/* An Origin must be that of our own page. */
static bool known_origin(const char *origin, const char *host)
{
    const char *name = strncmp(origin, "http://", 7) == 0    ? origin + 7
                       : strncmp(origin, "https://", 8) == 0 ? origin + 8
                                                             : NULL;
    return name && host && strcasecmp(name, host) == 0;
}

/* Takes as long wherever the first difference is. */
static bool has_token(const char *token, const char *authorization)
{
    const size_t n = strlen(token);
    if (!authorization || strncasecmp(authorization, "Bearer ", 7) != 0) {
        return false;
    }
    const char *given = authorization + 7;
    const size_t m = strlen(given);
    unsigned differ = n != m;
    for (size_t i = 0; i < m; i++) {
        differ |= (unsigned char)(given[i] ^ token[i % (n ? n : 1)]);
    }
    return differ == 0;
}

static bool is_path(const PfqRoute *route, const char *path)
{
    const size_t n = strlen(route->path);
    return n > 1 && route->path[n - 1] == '/' ? strncmp(path, route->path, n) == 0
                                              : strcmp(path, route->path) == 0;
}

static const PfqRoute *find_in(const PfqRoute *routes, int n, const char *path)
{
    for (int i = 0; i < n; i++) {
        if (is_path(&routes[i], path)) {
            return &routes[i];
        }
    }
    return NULL;
}

static bool takes(const PfqRoute *route, const char *method)
{
    return strcmp(route->method, method) == 0 ||
           (strcmp(route->method, "GET") == 0 && strcmp(method, "HEAD") == 0);
}

/* What a refusal of the method must say (RFC 9110, 15.5.6). */
static const char *allow(const PfqRoute *route)
{
    return takes(route, "HEAD") ? "Allow: GET, HEAD\r\n" : "Allow: POST\r\n";
}

static bool is_ours(const PfqRoute *route)
{
    return route >= pfq_site_routes && route < pfq_site_routes + pfq_n_site_routes;
}

/* NULL: it can. */
static const char *cannot_serve(PfqHealth health)
{
    static const char *const why[] = {
        [PFQ_LOADING] = "the model is being loaded",
        [PFQ_DEAD] = "the model has failed: /health says why",
        [PFQ_STUCK] = "the model does not get on: /health says for how long",
    };
    return health == PFQ_READY ? NULL : why[health];
}

/* The route of a request whose head is there; NULL: refused. */
static const PfqRoute *judge(PfqNet *net, PfqConn *c)
{
    const PfqHttpRequest *q = &c->http.request;
    const PfqNetConfig *config = &net->config;
    const char *host = pfq_http_header(q, "host"), *origin = pfq_http_header(q, "origin");
    const char *why = NULL, *extra = "";
    int status = 0;
    const PfqRoute *route = find_in(config->routes, config->n, q->path);
    route = route ? route : find_in(pfq_site_routes, pfq_n_site_routes, q->path);
    if (host && !known_host(config, host)) {
        status = 403;
        why = "the request's Host is no name of this server (--allow-host adds one)";
    } else if (origin && !known_origin(origin, host)) {
        status = 403;
        why = "the request comes from a web page of another origin";
    } else if (!route) {
        status = 404;
        why = "no such path";
    } else if (!takes(route, q->method)) {
        status = 405;
        why = "this path takes another method";
        extra = allow(route);
    } else if (!route->open && config->token &&
               !has_token(config->token, pfq_http_header(q, "authorization"))) {
        status = 401;
        why = "the request lacks this server's key (Authorization: Bearer KEY)";
    } else if (route->needs_engine) {
        why = cannot_serve(pfq_net_state(net, NULL, 0));
        status = why ? 503 : 0;
    }
    if (!status) {
        return route;
    }
    refuse(net, c, status, extra, why);
    return NULL;
}

/* ---- requests ---- */

static void dispatch(PfqNet *net, PfqConn *c)
{
    const PfqRoute *route = c->route ? c->route : judge(net, c);
    if (route && reply_with(net, c, c->http.request.keep_alive)) {
        route->handler(is_ours(route) ? net : net->config.user, &c->http.request, c->reply);
    }
    forget_body(net, c);
    pfq_http_next(&c->http);
    c->route = NULL;
}

static void begin_body(PfqNet *net, PfqConn *c)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    c->route = judge(net, c);
    c->body_since = net->now;
    if (c->route && c->http.request.expects && c->in_at == c->in_n) {
        pfq_bytes_add(&c->out, go_on, sizeof go_on - 1); /* sent before poll is asked again */
    }
}

static void count_body(PfqNet *net, PfqConn *c, size_t n)
{
    c->body += n;
    net->bodies += n;
    if (net->bodies > net->limits.bodies && c->http.state == PFQ_HTTP_MORE) {
        pfq_conn_refuse(net, c, 503, "too many large requests at once");
    }
}

/* Parses what was received, up to the end of a request. */
static void parse(PfqNet *net, PfqConn *c)
{
    while (c->state == PFQ_CONN_READING && c->in_at < c->in_n) {
        if (!c->http.begun && !c->fresh) {
            c->since = net->now;
        }
        const bool in_body = c->route != NULL;
        const size_t used = pfq_http_feed(&c->http, c->in + c->in_at, c->in_n - c->in_at);
        c->in_at += used;
        if (in_body) {
            count_body(net, c, used);
        }
        switch (c->state == PFQ_CONN_READING ? c->http.state : PFQ_HTTP_MORE) {
        case PFQ_HTTP_MORE: break;
        case PFQ_HTTP_READ_HEAD: begin_body(net, c); break;
        case PFQ_HTTP_DONE: dispatch(net, c); break;
        case PFQ_HTTP_BAD: pfq_conn_refuse(net, c, c->http.status, c->http.why); break;
        }
    }
}

/* False: the client has left, or the socket failed. */
static bool receive(PfqNet *net, PfqConn *c)
{
    if (!c->in && !(c->in = malloc(PFQ_NET_READ))) {
        return false;
    }
    const ssize_t n = recv(c->fd, c->in, PFQ_NET_READ, 0);
    if (n < 0) {
        return errno == EAGAIN || errno == EINTR;
    }
    c->in_at = 0;
    c->in_n = (size_t)n;
    c->last = net->now;
    return n > 0;
}

/* ---- replies ---- */

typedef enum Sent { SENT_ALL, SENT_SOME, SENT_FAILED } Sent;

static Sent send_out(PfqNet *net, PfqConn *c)
{
    while (c->sent < c->out.n) {
        const ssize_t n = send(c->fd, c->out.p + c->sent, c->out.n - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return errno == EAGAIN ? SENT_SOME : SENT_FAILED;
        }
        c->sent += (size_t)n;
        c->last = net->now;
    }
    c->out.n = c->sent = 0;
    if (c->out.cap > KEPT_OUT) {
        pfq_bytes_free(&c->out);
    }
    return SENT_ALL;
}

/* ALL: the reply has ended. */
static Sent send_reply(PfqNet *net, PfqConn *c, bool *keep_alive)
{
    for (;;) {
        const Sent sent = c->reply->gone ? SENT_FAILED : send_out(net, c);
        if (sent != SENT_ALL) {
            return sent;
        }
        if (pfq_reply_pull(c->reply, &c->out, keep_alive)) {
            return SENT_ALL;
        }
        if (c->out.n == 0) { /* the handler has more to say, unless memory ran out */
            return c->reply->gone ? SENT_FAILED : SENT_SOME;
        }
        c->last = c->out_since = net->now; /* the client's time to take it begins */
    }
}

static void next_request(PfqNet *net, PfqConn *c, bool keep_alive)
{
    drop_reply(net, c);
    c->fresh = false;
    c->since = net->now;
    if (keep_alive) {
        c->state = PFQ_CONN_READING;
    } else {
        c->state = PFQ_CONN_LINGERING;
        shutdown(c->fd, SHUT_WR);
    }
    if (!keep_alive || c->in_at == c->in_n) {
        free(c->in);
        c->in = NULL;
        c->in_at = c->in_n = 0;
    }
}

/* Reads and forgets: closing with bytes unread would reset the connection, and the client might
 * never see what was sent. */
static bool linger(const PfqConn *c)
{
    char bytes[4096];
    ssize_t n;
    do {
        n = recv(c->fd, bytes, sizeof bytes, 0);
    } while (n > 0);
    return n < 0 && (errno == EAGAIN || errno == EINTR);
}

/* ---- the loop's view ---- */

short pfq_conn_events(const PfqConn *c)
{
    const bool waits = c->sent < c->out.n;
    return (short)(c->state != PFQ_CONN_REPLYING ? POLLIN | (waits ? POLLOUT : 0)
                   : waits                       ? POLLOUT
                                                 : POLLRDHUP);
}

bool pfq_conn_step(PfqNet *net, PfqConn *c, short events)
{
    if (c->state == PFQ_CONN_LINGERING) {
        return linger(c);
    }
    if (c->state == PFQ_CONN_REPLYING && events & (POLLERR | POLLHUP | POLLNVAL | POLLRDHUP)) {
        return false;
    }
    if (c->state == PFQ_CONN_READING && events & (POLLIN | POLLERR | POLLHUP) && !receive(net, c)) {
        return false;
    }
    for (;;) {
        bool keep_alive = false;
        parse(net, c);
        if (c->state == PFQ_CONN_READING) {
            return send_out(net, c) != SENT_FAILED; /* 100 Continue */
        }
        const Sent sent = c->reply ? send_reply(net, c, &keep_alive) : SENT_FAILED;
        if (sent != SENT_ALL) {
            return sent == SENT_SOME;
        }
        next_request(net, c, keep_alive);
        if (!keep_alive) {
            return true;
        }
    }
}

double pfq_conn_deadline(const PfqNet *net, const PfqConn *c)
{
    const PfqNetLimits *l = &net->limits;
    const bool waits = c->sent < c->out.n;
    switch (c->state) {
    case PFQ_CONN_LINGERING: return c->since + LINGER;
    case PFQ_CONN_REPLYING:
        return waits ? fmin(c->last, c->out_since + (double)c->sent / l->speed) + l->send
                     : INFINITY;
    default: break;
    }
    if (c->route) {
        return fmin(c->last, c->body_since + (double)c->body / BODY_SPEED) + l->body;
    }
    return c->since + (c->fresh || c->http.begun ? l->head : l->idle);
}

bool pfq_conn_late(PfqNet *net, PfqConn *c)
{
    if (c->state != PFQ_CONN_LINGERING) {
        pfq_metric_add(net->config.metrics, PFQ_METRIC_TIMED_OUT, 1);
    }
    if (c->state != PFQ_CONN_READING || !c->http.begun) {
        return false;
    }
    pfq_conn_refuse(net, c, 408, "the request took too long to arrive");
    return pfq_conn_step(net, c, 0);
}
