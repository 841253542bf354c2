/* The server's own routes: the page, /health, /metrics. Contract: net.h. */
#include "runtime/net_int.h"

#include <stdlib.h>
#include <string.h>

/* Files of the page, embedded by CMake (pfqc_embed_texts): name, text, bytes; zeros end them. */
extern const struct {
    const char *name, *text;
    size_t bytes;
} pfq_pages[] __attribute__((visibility("hidden")));

/* The page needs nothing but itself and the routes of its server. */
#define POLICY                                                                                     \
    "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; "                     \
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; "             \
    "form-action 'none'; frame-ancestors 'none'\r\n"                                               \
    "Referrer-Policy: no-referrer\r\nCache-Control: no-cache\r\n"

static void page(void *user, PfqHttpRequest *q, PfqReply *r)
{
    (void)user;
    (void)q;
    r->extra = POLICY;
    pfq_reply_start(r, 200, "text/html; charset=utf-8", false);
    pfq_reply_write(r, pfq_pages[0].text, pfq_pages[0].bytes);
    pfq_reply_end(r);
}

static void health(void *user, PfqHttpRequest *q, PfqReply *r)
{
    static const char *const names[] = {
        [PFQ_LOADING] = "loading", [PFQ_READY] = "ok", [PFQ_DEAD] = "dead", [PFQ_STUCK] = "stuck"};
    char why[1024];
    (void)q;
    const PfqHealth state = pfq_net_state(user, why, sizeof why);
    pfq_reply_start(r, state == PFQ_READY ? 200 : 503, "application/json", false);
    pfq_reply_printf(r, "{\"status\": \"%s\"", names[state]);
    if (*why) {
        pfq_reply_write(r, ", \"why\": ", 9);
        pfq_reply_json(r, why, strlen(why));
    }
    pfq_reply_write(r, "}\n", 2);
    pfq_reply_end(r);
}

static void metrics(void *user, PfqHttpRequest *q, PfqReply *r)
{
    size_t n;
    const PfqNet *net = user;
    char *text = pfq_metrics_text(net->config.metrics, &n);
    (void)q;
    if (!text) {
        pfq_reply_error(r, 503, NULL, "out of memory");
        return;
    }
    pfq_reply_start(r, 200, "text/plain; version=0.0.4; charset=utf-8", false);
    pfq_reply_write(r, text, n);
    pfq_reply_end(r);
    free(text);
}

const PfqRoute pfq_site_routes[] = {
    {.method = "GET", .path = "/", .handler = page, .open = true},
    {.method = "GET", .path = "/health", .handler = health, .open = true},
    {.method = "GET", .path = "/metrics", .handler = metrics},
};
const int pfq_n_site_routes = sizeof pfq_site_routes / sizeof *pfq_site_routes;
