/* Replies: written by one thread, sent by another. Contract: net.h, net_int.h. */
#include "runtime/net_int.h"

#include "runtime/json.h"
#include "runtime/out.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- bytes ---- */

bool pfq_bytes_add(PfqBytes *b, const void *bytes, size_t n)
{
    if (n > b->cap - b->n) {
        const size_t need = b->n + n, cap = need < 512 ? 512 : need + need / 2;
        char *p = realloc(b->p, cap);
        if (!p) {
            return false;
        }
        b->p = p;
        b->cap = cap;
    }
    if (n) {
        memcpy(b->p + b->n, bytes, n);
        b->n += n;
    }
    return true;
}

void pfq_bytes_free(PfqBytes *b)
{
    free(b->p);
    *b = (PfqBytes){0};
}

static bool add_text(PfqBytes *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool add_text(PfqBytes *b, const char *fmt, ...)
{
    char text[4096];
    va_list ap;
    va_start(ap, fmt);
    const int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return n >= 0 && n < (int)sizeof text && pfq_bytes_add(b, text, (size_t)n);
}

/* ---- statuses ---- */

typedef struct Status {
    int status;
    const char *reason;
    const char *type, *code; /* of an error: OpenAI's names; code may be NULL */
    const char *extra;       /* a header that every reply of this status has */
} Status;

#define WRONG "invalid_request_error"
static const Status statuses[] = {
    {200, "OK", "", NULL, ""},
    {400, "Bad Request", WRONG, NULL, ""},
    {401, "Unauthorized", WRONG, "invalid_api_key", "WWW-Authenticate: Bearer\r\n"},
    {403, "Forbidden", "permission_error", NULL, ""},
    {404, "Not Found", WRONG, NULL, ""},
    {405, "Method Not Allowed", WRONG, NULL, ""},
    {408, "Request Timeout", WRONG, NULL, ""},
    {413, "Content Too Large", WRONG, NULL, ""},
    {414, "URI Too Long", WRONG, NULL, ""},
    {415, "Unsupported Media Type", WRONG, NULL, ""},
    {417, "Expectation Failed", WRONG, NULL, ""},
    {431, "Request Header Fields Too Large", WRONG, NULL, ""},
    {501, "Not Implemented", WRONG, NULL, ""},
    {503, "Service Unavailable", "server_error", "overloaded", "Retry-After: 1\r\n"},
    {505, "HTTP Version Not Supported", WRONG, NULL, ""},
    {500, "Internal Server Error", "server_error", NULL, ""}, /* also any other */
};

static const Status *find_status(int status)
{
    const Status *s = statuses;
    while (s->status != status && s->status != 500) {
        s++;
    }
    return s;
}

static void count(const PfqReply *r)
{
    const PfqMetric m = r->status < 300    ? PFQ_METRIC_REPLIES_2XX
                        : r->status < 500  ? PFQ_METRIC_REPLIES_4XX
                        : r->status == 503 ? PFQ_METRIC_REPLIES_503
                                           : PFQ_METRIC_REPLIES_5XX;
    pfq_metric_add(r->net->config.metrics, m, 1);
}

/* ---- a reply's life ---- */

PfqReply *pfq_reply_new(PfqNet *net, const PfqHttpRequest *q, bool keep_alive)
{
    PfqReply *r = calloc(1, sizeof *r);
    if (!r) {
        return NULL;
    }
    r->net = net;
    r->http10 = q->http10;
    r->head_only = q->method && strcmp(q->method, "HEAD") == 0;
    r->keep_alive = keep_alive;
    r->extra = "";
    r->owners = 2;
    pthread_mutex_init(&r->lock, NULL);
    return r;
}

/* Unlocks; the last owner frees. */
static void let_go(PfqReply *r)
{
    const bool last = --r->owners == 0;
    pthread_mutex_unlock(&r->lock);
    if (last) {
        pthread_mutex_destroy(&r->lock);
        pfq_bytes_free(&r->draft);
        pfq_bytes_free(&r->head);
        pfq_bytes_free(&r->out);
        free(r);
    }
}

bool pfq_reply_drop(PfqReply *r)
{
    pthread_mutex_lock(&r->lock);
    const bool whole = r->ended && !r->gone;
    r->gone = r->gone || !r->ended;
    let_go(r);
    return whole;
}

bool pfq_reply_gone(const PfqReply *r)
{
    return r->gone || r->over;
}

/* ---- the head ---- */

/* `length` of the body; -1: it is sent as it comes. Under the lock. */
static void make_head(PfqReply *r, int64_t length)
{
    const Status *s = find_status(r->status);
    char date[64], framing[64];
    struct tm tm;
    const time_t now = time(NULL);
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &tm));
    if (length >= 0) {
        snprintf(framing, sizeof framing, "Content-Length: %lld\r\n", (long long)length);
    } else {
        /* To HTTP/1.0 the end of the connection ends the body. */
        r->keep_alive = r->keep_alive && !r->http10;
        snprintf(framing, sizeof framing, "Cache-Control: no-cache\r\n%s",
                 r->http10 ? "" : "Transfer-Encoding: chunked\r\n");
    }
    r->keep_alive = r->keep_alive && !r->net->stops;
    r->gone = r->gone || !add_text(&r->head,
                                   "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: %s\r\n%s%s%s"
                                   "X-Content-Type-Options: nosniff\r\nConnection: %s\r\n\r\n",
                                   s->status, s->reason, date, r->type, framing, s->extra, r->extra,
                                   r->keep_alive ? "keep-alive" : "close");
}

/* ---- the handler's side ---- */

void pfq_reply_start(PfqReply *r, int status, const char *type, bool streaming)
{
    pthread_mutex_lock(&r->lock);
    r->status = find_status(status)->status;
    r->type = type;
    r->streaming = streaming;
    r->started = true;
    if (streaming) {
        make_head(r, -1);
    }
    pthread_mutex_unlock(&r->lock);
    if (streaming) {
        count(r);
        pfq_net_wake(r->net);
    }
}

/* More than a reply may hold: what was written and not sent is dropped, pfq_reply_end says why. */
static bool too_large(PfqReply *r)
{
    r->draft.n = 0;
    r->over = true;
    return false;
}

bool pfq_reply_write(PfqReply *r, const void *bytes, size_t n)
{
    if (pfq_reply_gone(r)) {
        return false;
    }
    if (n > PFQ_REPLY_MOST - r->draft.n) {
        return too_large(r);
    }
    if (!pfq_bytes_add(&r->draft, bytes, n)) {
        r->gone = true;
        pfq_net_wake(r->net);
        return false;
    }
    return true;
}

bool pfq_reply_printf(PfqReply *r, const char *fmt, ...)
{
    char text[4096];
    va_list ap;
    va_start(ap, fmt);
    const int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return pfq_reply_write(r, text, n < 0 ? 0 : n < (int)sizeof text ? (size_t)n : sizeof text - 1);
}

bool pfq_reply_json(PfqReply *r, const char *text, size_t n)
{
    return pfq_reply_json_pair(r, text, n, "", 0);
}

bool pfq_reply_json_pair(PfqReply *r, const char *a, size_t n, const char *b, size_t m)
{
    PfqUtf8 utf8 = {.n = 0};
    char out[1024] = "\"";
    size_t k = 1;
    for (size_t i = 0; i <= n + m; i++) { /* the last round is for an unfinished sequence */
        char whole[8];
        const int len = i < n + m
                            ? pfq_utf8_feed(&utf8, (unsigned char)(i < n ? a[i] : b[i - n]), whole)
                            : pfq_utf8_end(&utf8, whole);
        for (int j = 0; j < len; j++) {
            k += pfq_json_escape((unsigned char)whole[j], out + k);
        }
        if (k > sizeof out - 64) {
            pfq_reply_write(r, out, k);
            k = 0;
        }
    }
    out[k++] = '"';
    return pfq_reply_write(r, out, k);
}

/* The draft becomes what waits. Under the lock. */
static void publish(PfqReply *r)
{
    if (r->out.n == 0) {
        const PfqBytes empty = r->out;
        r->out = r->draft;
        r->draft = empty;
    } else if (!pfq_bytes_add(&r->out, r->draft.p, r->draft.n)) {
        r->gone = true;
    }
    r->draft.n = 0;
}

bool pfq_reply_send(PfqReply *r)
{
    pthread_mutex_lock(&r->lock);
    if (r->out.n + r->draft.n > PFQ_REPLY_MOST) {
        too_large(r);
    } else {
        publish(r);
    }
    pthread_mutex_unlock(&r->lock);
    pfq_net_wake(r->net);
    return !pfq_reply_gone(r);
}

void pfq_reply_end(PfqReply *r)
{
    PfqNet *net = r->net;
    if (r->over) {
        r->over = false;
        pfq_metric_add(net->config.metrics, PFQ_METRIC_TOO_LARGE, 1);
        pfq_reply_error(r, 400, NULL,
                        "the reply is too large: more than %d MiB of it would wait to be sent; ask "
                        "for less at once",
                        PFQ_REPLY_MOST >> 20);
        return;
    }
    if (r->started && !r->streaming) { /* a stream was counted when it began */
        count(r);
    }
    pthread_mutex_lock(&r->lock);
    if (!r->streaming) {
        make_head(r, (int64_t)r->draft.n);
    }
    publish(r);
    r->ended = true;
    let_go(r);
    pfq_net_wake(net);
}

void pfq_reply_error(PfqReply *r, int status, const char *param, const char *fmt, ...)
{
    char message[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    pfq_reply_refuse(r, status, param, NULL, message);
}

void pfq_reply_refuse(PfqReply *r, int status, const char *param, const char *code,
                      const char *message)
{
    const Status *s = find_status(status);
    const bool event = r->started && r->streaming;
    code = code ? code : s->code;
    r->draft.n = 0;
    r->over = false;
    if (!event) {
        pfq_reply_start(r, status, "application/json", false);
    }
    pfq_reply_printf(r, "%s{\"error\": {\"message\": ", event ? "data: " : "");
    pfq_reply_json(r, message, strlen(message));
    pfq_reply_printf(r, ", \"type\": \"%s\", \"param\": ", s->type);
    if (param) {
        pfq_reply_json(r, param, strlen(param));
    } else {
        pfq_reply_write(r, "null", 4);
    }
    pfq_reply_printf(r, code ? ", \"code\": \"%s\"}}%s" : ", \"code\": null%s}}%s",
                     code ? code : "", event ? "\n\n" : "\n");
    pfq_reply_end(r);
}

/* ---- the connection's side ---- */

enum { SMALL = 4 << 10 };

/* What was sent, as a chunk; to one that takes no chunks as it is, and without a copy. */
static bool pull_body(PfqReply *r, PfqBytes *out)
{
    bool ok = true;
    if (r->streaming && !r->http10) {
        ok = add_text(out, "%zx\r\n", r->out.n) && pfq_bytes_add(out, r->out.p, r->out.n) &&
             pfq_bytes_add(out, "\r\n", 2);
        r->out.n = 0;
    } else {
        const PfqBytes empty = *out;
        *out = r->out;
        r->out = empty;
    }
    return ok;
}

bool pfq_reply_pull(PfqReply *r, PfqBytes *out, bool *keep_alive)
{
    bool ok = true;
    pthread_mutex_lock(&r->lock);
    if (r->head_only) {
        r->out.n = 0;
    }
    if (r->head.n) {
        const size_t n = r->streaming || r->out.n > SMALL ? 0 : r->out.n; /* with its head */
        ok = pfq_bytes_add(out, r->head.p, r->head.n) && pfq_bytes_add(out, r->out.p, n);
        r->head.n = 0;
        r->out.n -= n;
    } else if (r->out.n) {
        ok = pull_body(r, out);
    } else if (r->ended && r->streaming && !r->http10 && !r->head_only) {
        ok = pfq_bytes_add(out, "0\r\n\r\n", 5);
        r->streaming = false;
    }
    r->gone = r->gone || !ok;
    const bool done = r->ended && ok && r->out.n == 0 && out->n == 0;
    *keep_alive = r->keep_alive;
    pthread_mutex_unlock(&r->lock);
    return done;
}
