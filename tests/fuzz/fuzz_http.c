/* Requests over HTTP, a stream of them, whole and byte by byte: the same requests come out, the
 * same bytes are left, and all that a request hands out is there. The first byte says how many are
 * fed at a time. */
#include "runtime/http.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static void check_text(const char *s)
{
    FUZZ_REQUIRE(s && strlen(s) <= PFQ_HTTP_LINE + PFQ_HTTP_HEAD);
}

static void check_request(const PfqHttpRequest *q)
{
    check_text(q->method);
    check_text(q->path);
    check_text(q->query);
    FUZZ_REQUIRE(*q->method && q->path[0] == '/' && q->n_headers <= PFQ_HTTP_HEADERS);
    for (int i = 0; i < q->n_headers; i++) {
        check_text(q->headers[i].name);
        check_text(q->headers[i].value);
        FUZZ_REQUIRE(*q->headers[i].name && pfq_http_header(q, q->headers[i].name));
    }
    FUZZ_REQUIRE(q->body_n <= PFQ_HTTP_BODY && (!q->body || q->body[q->body_n] == 0));
    FUZZ_REQUIRE(q->http10 || pfq_http_header(q, "host"));
}

/* Feeds at most `step` bytes at a time until the request ends; the bytes used. */
static size_t feed(PfqHttp *p, const uint8_t *data, size_t n, size_t step)
{
    size_t i = 0;
    int heads = 0;
    while (i < n && (p->state == PFQ_HTTP_MORE || p->state == PFQ_HTTP_READ_HEAD)) {
        const size_t take = step < n - i ? step : n - i;
        const size_t used = pfq_http_feed(p, (const char *)data + i, take);
        FUZZ_REQUIRE(used <= take);
        FUZZ_REQUIRE(used == take || p->state != PFQ_HTTP_MORE);
        heads += p->state == PFQ_HTTP_READ_HEAD;
        i += used;
    }
    FUZZ_REQUIRE(heads <= 1);
    return i;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const size_t step = size ? 1u + data[0] : 1;
    for (size_t i = 1; i < size;) {
        PfqHttp a = {.state = PFQ_HTTP_MORE}, b = {.state = PFQ_HTTP_MORE};
        const size_t n = feed(&a, data + i, size - i, step), m = feed(&b, data + i, size - i, 1);
        FUZZ_REQUIRE(a.state == b.state || (n == size - i && a.state != PFQ_HTTP_BAD));
        FUZZ_REQUIRE(n == m);
        if (a.state == PFQ_HTTP_BAD)
            FUZZ_REQUIRE(a.status == b.status && a.why == b.why && a.status >= 400);
        if (a.state == PFQ_HTTP_DONE) {
            check_request(&a.request);
            FUZZ_REQUIRE(strcmp(a.request.path, b.request.path) == 0);
            FUZZ_REQUIRE(a.request.n_headers == b.request.n_headers);
            FUZZ_REQUIRE(a.request.keep_alive == b.request.keep_alive);
            FUZZ_REQUIRE(a.request.body_n == b.request.body_n);
            FUZZ_REQUIRE(!a.request.body_n ||
                         memcmp(a.request.body, b.request.body, a.request.body_n) == 0);
        }
        const bool more = a.state == PFQ_HTTP_DONE;
        pfq_http_next(&a);
        pfq_http_next(&b);
        if (!more) break;
        i += n;
    }
    return 0;
}
