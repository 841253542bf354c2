/* Requests whole, byte by byte and cut at random: the same outcome. What two parsers might read
 * differently is refused; limits hold at the limit and one beyond. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HOST "Host: a\r\n"

static uint32_t seed = 1;

static uint32_t below(uint32_t n)
{
    seed = seed * 1664525 + 1013904223;
    return (seed >> 8) % n;
}

/* Feeds in pieces of at most `step` bytes (0: random ones) from blocks of exactly their size; the
 * bytes used. */
static size_t feed(PfqHttp *p, const char *bytes, size_t n, size_t step)
{
    size_t i = 0;
    while (i < n && (p->state == PFQ_HTTP_MORE || p->state == PFQ_HTTP_READ_HEAD)) {
        size_t take = step ? step : 1 + below(40);
        take = take < n - i ? take : n - i;
        char *piece = malloc(take);
        assert_non_null(piece);
        memcpy(piece, bytes + i, take);
        const size_t used = pfq_http_feed(p, piece, take);
        free(piece);
        assert_true(used == take || p->state != PFQ_HTTP_MORE);
        assert_true(used > 0 || p->state == PFQ_HTTP_BAD);
        i += used;
    }
    return i;
}

static const size_t steps[] = {SIZE_MAX, 1, 2, 7, 0, 0, 0};
enum { N_STEPS = sizeof steps / sizeof *steps };

static void test_requests(void **state)
{
    static const struct {
        const char *text, *method, *path, *query, *body;
        int headers;
        bool keep_alive;
    } cases[] = {
        {"GET / HTTP/1.1\r\n" HOST "\r\n", "GET", "/", "", "", 1, true},
        {"\r\nGET / HTTP/1.1\r\n" HOST "\r\n", "GET", "/", "", "", 1, true},
        {"GET /a%20b/%2e%2E/c?d=%20&e HTTP/1.1\r\n" HOST "\r\n", "GET", "/a b/../c", "d=%20&e", "",
         1, true},
        {"GET http://a/x HTTP/1.1\r\n" HOST "\r\n", "GET", "/x", "", "", 1, true},
        {"GET / HTTP/1.0\r\n\r\n", "GET", "/", "", "", 0, false},
        {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "GET", "/", "", "", 1, true},
        {"GET / HTTP/1.1\r\n" HOST "connection: x , cLose\r\n\r\n", "GET", "/", "", "", 2, false},
        {"GET / HTTP/1.1\r\n" HOST "Empty:\r\nTabs:\t a \t b\t\r\n\r\n", "GET", "/", "", "", 3,
         true},
        {"POST /p HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello", "POST", "/p", "", "hello", 2,
         true},
        {"POST /p HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n", "POST", "/p", "", "", 2, true},
        {"POST /p HTTP/1.1\r\n" HOST "Transfer-Encoding: Chunked\r\n\r\n"
         "5\r\nhello\r\n1;x=\"y\"\r\n,\r\n00A\r\n world\r\n!!\r\n0\r\nT: v\r\n\r\n",
         "POST", "/p", "", "hello, world\r\n!!", 2, true},
        {"POST /p HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "POST", "/p",
         "", "", 2, true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int k = 0; k < N_STEPS; k++) {
            char text[512];
            PfqHttp p = {.state = PFQ_HTTP_MORE};
            const size_t n = strlen(cases[i].text);
            snprintf(text, sizeof text, "%sGET /next", cases[i].text); /* pipelined */
            assert_int_equal(feed(&p, text, n + 9, steps[k]), n);
            assert_int_equal(p.state, PFQ_HTTP_DONE);
            assert_string_equal(p.request.method, cases[i].method);
            assert_string_equal(p.request.path, cases[i].path);
            assert_string_equal(p.request.query, cases[i].query);
            assert_int_equal(p.request.n_headers, cases[i].headers);
            assert_int_equal(p.request.keep_alive, cases[i].keep_alive);
            assert_string_equal(p.request.body ? p.request.body : "", cases[i].body);
            assert_int_equal(p.request.body_n, strlen(cases[i].body));
            if (k % 2) free(pfq_http_take_body(&p.request));
            pfq_http_next(&p);
            assert_null(p.parts);
        }
}

static void test_headers(void **state)
{
    static const char text[] =
        "PUT /x HTTP/1.1\r\nhOST: a\r\nX: 1\r\nX: 2\r\nExpect: 100-Continue\r\n"
        "Content-Length: 2\r\n\r\nab";
    PfqHttp p = {.state = PFQ_HTTP_MORE};
    (void)state;
    const size_t head = strlen(text) - 2;
    assert_int_equal(pfq_http_feed(&p, text, sizeof text - 1), head);
    assert_int_equal(p.state, PFQ_HTTP_READ_HEAD); /* said once, before the body */
    assert_true(p.request.expects);
    assert_string_equal(pfq_http_header(&p.request, "Host"), "a");
    assert_string_equal(pfq_http_header(&p.request, "x"), "1");
    assert_null(pfq_http_header(&p.request, "Y"));
    assert_int_equal(pfq_http_feed(&p, text + head, 1), 1);
    assert_int_equal(p.state, PFQ_HTTP_MORE);
    assert_int_equal(pfq_http_feed(&p, text + head + 1, 1), 1);
    assert_int_equal(p.state, PFQ_HTTP_DONE);
    assert_int_equal(pfq_http_feed(&p, text, 1), 0);
    pfq_http_next(&p);
}

#define CHUNKED HOST "Transfer-Encoding: chunked\r\n\r\n"
static void test_refusals(void **state)
{
    static const struct {
        const char *text;
        int status;
    } cases[] = {
        /* the request line */
        {" GET / HTTP/1.1\r\n", 400},
        {"GET / HTTP/1.1 \r\n", 400},
        {"GET  / HTTP/1.1\r\n", 400},
        {"GET /\r\n", 400},
        {"GET\r\n", 400},
        {"\r\n\r\n", 400},
        {"G(T / HTTP/1.1\r\n", 400},
        {"GET /\xc3\xa9 HTTP/1.1\r\n", 400},
        {"GET /a#b HTTP/1.1\r\n", 400},
        {"GET /%0 HTTP/1.1\r\n", 400},
        {"GET /%zz HTTP/1.1\r\n", 400},
        {"GET /% HTTP/1.1\r\n", 400},
        {"GET /%00 HTTP/1.1\r\n", 400},
        {"GET * HTTP/1.1\r\n", 400},
        {"CONNECT a:1 HTTP/1.1\r\n", 400},
        {"GET https://a/ HTTP/1.1\r\n", 400},
        {"GET / http/1.1\r\n", 400},
        {"GET / HTTP/1.10\r\n", 400},
        {"GET / HTTP/2.0\r\n", 505},
        {"PRI * HTTP/2.0\r\n", 505},
        {"GET / HTTP/1.1\n", 400},
        {"GET / HTTP/1.1\rX", 400},
        {"GET /\t HTTP/1.1\r\n", 400},
        {"\x16\x03\x01\x02", 400}, /* TLS */
        /* headers */
        {"GET / HTTP/1.1\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400},
        {"GET http://b/ HTTP/1.1\r\n" HOST "\r\n", 400},
        {"GET / HTTP/1.1\r\n" HOST "Bad\r\n", 400},
        {"GET / HTTP/1.1\r\n" HOST ": x\r\n", 400},
        {"GET / HTTP/1.1\r\n" HOST "A : x\r\n", 400},
        {"GET / HTTP/1.1\r\n" HOST "A: x\r\n folded\r\n", 400},
        {"GET / HTTP/1.1\r\n" HOST "A: x\n", 400},
        {"GET / HTTP/1.1\r\n" HOST "A: \x01\r\n", 400},
        {"GET / HTTP/1.1\r\n" HOST "A: x\r\r\n", 400},
        {"GET / HTTP/1.1\r\n" HOST "Expect: 200-ok\r\n\r\n", 417},
        {"POST / HTTP/1.1\r\n" HOST "Content-Encoding: gzip\r\n\r\n", 415},
        {"POST / HTTP/1.1\r\n" HOST "Content-Encoding: identity, gzip\r\n\r\n", 415},
        {"GET / HTTP/1.1\r\n" HOST "Authorization: a\r\nauthorization: b\r\n\r\n", 400},
        /* lengths: what requests are smuggled with */
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1, 1\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: +5\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: -2\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: 0x5\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: 5 5\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: 8388609\r\n\r\n", 413},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: 18446744073709551621\r\n\r\n", 413},
        {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n", 501},
        {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: identity\r\n\r\n", 501},
        {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
         400},
        {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        /* chunks */
        {"POST / HTTP/1.1\r\n" CHUNKED "-2\r\n", 400},
        {"POST / HTTP/1.1\r\n" CHUNKED "+5\r\n", 400},
        {"POST / HTTP/1.1\r\n" CHUNKED "0x5\r\n", 400},
        {"POST / HTTP/1.1\r\n" CHUNKED " 5\r\n", 400},
        {"POST / HTTP/1.1\r\n" CHUNKED "5 \r\n", 400},
        {"POST / HTTP/1.1\r\n" CHUNKED "\r\n", 400},
        {"POST / HTTP/1.1\r\n" CHUNKED ";a\r\n", 400},
        {"POST / HTTP/1.1\r\n" CHUNKED "5\n", 400},
        {"POST / HTTP/1.1\r\n" CHUNKED "800001\r\n", 413},
        {"POST / HTTP/1.1\r\n" CHUNKED "fffffffffffffffff5\r\n", 413},
        {"POST / HTTP/1.1\r\n" CHUNKED "1\r\nab\r\n", 400},
        {"POST / HTTP/1.1\r\n" CHUNKED "1\r\na\n", 400},
        {"POST / HTTP/1.1\r\n" CHUNKED "1\r\na0\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" CHUNKED "0\r\nbad trailer\r\n", 400},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int k = 0; k < N_STEPS; k++) {
            PfqHttp p = {.state = PFQ_HTTP_MORE};
            feed(&p, cases[i].text, strlen(cases[i].text), steps[k]);
            if (p.state != PFQ_HTTP_BAD || p.status != cases[i].status)
                print_error("%s: %d %s\n", cases[i].text, p.status, p.why ? p.why : "");
            assert_int_equal(p.state, PFQ_HTTP_BAD);
            assert_int_equal(p.status, cases[i].status);
            assert_true(p.why && *p.why);
            assert_int_equal(pfq_http_feed(&p, "x", 1), 0);
            pfq_http_next(&p);
        }
}

static void test_nul(void **state)
{
    static const char text[] = "GET / HTTP/1.1\r\nHost: a\r\nA: b\0c\r\n\r\n";
    PfqHttp p = {.state = PFQ_HTTP_MORE};
    (void)state;
    feed(&p, text, sizeof text - 1, 0);
    assert_int_equal(p.status, 400);
    pfq_http_next(&p);
}

/* ---- limits ---- */

typedef struct Build {
    char *p;
    size_t n;
} Build;

static void add(Build *b, const char *text, size_t times)
{
    const size_t n = strlen(text);
    b->p = realloc(b->p, b->n + n * times + 1);
    assert_non_null(b->p);
    for (size_t i = 0; i < times; i++, b->n += n)
        memcpy(b->p + b->n, text, n + 1);
}

static int outcome(Build *b)
{
    PfqHttp p = {.state = PFQ_HTTP_MORE};
    feed(&p, b->p, b->n, 4096);
    const int status = p.state == PFQ_HTTP_BAD ? p.status : p.state == PFQ_HTTP_DONE ? 200 : 0;
    pfq_http_next(&p);
    free(b->p);
    *b = (Build){0};
    return status;
}

static void test_limits(void **state)
{
    (void)state;
    for (size_t more = 0; more < 2; more++) {
        Build b = {0};
        add(&b, "GET /", 1);
        add(&b, "x", PFQ_HTTP_LINE - 14 + more);
        add(&b, " HTTP/1.1\r\n" HOST "\r\n", 1);
        assert_int_equal(outcome(&b), more ? 414 : 200);

        add(&b, "GET / HTTP/1.1\r\n" HOST, 1);
        add(&b, "a:\r\n", PFQ_HTTP_HEADERS - 1 + more);
        add(&b, "\r\n", 1);
        assert_int_equal(outcome(&b), more ? 431 : 200);

        add(&b, "GET / HTTP/1.1\r\n" HOST "a:", 1); /* each line end counts as one */
        add(&b, "x", PFQ_HTTP_HEAD - strlen(HOST) - 1 + more);
        add(&b, "\r\n\r\n", 1);
        assert_int_equal(outcome(&b), more ? 431 : 200);

        add(&b, "POST / HTTP/1.1\r\n" CHUNKED "0\r\n", 1);
        add(&b, "a:\r\n", PFQ_HTTP_HEADERS + more);
        add(&b, "\r\n", 1);
        assert_int_equal(outcome(&b), more ? 431 : 200);

        add(&b, "POST / HTTP/1.1\r\n" CHUNKED, 1);
        add(&b, "0", PFQ_HTTP_CHUNK_LINE + more);
        add(&b, "\r\n\r\n", 1);
        assert_int_equal(outcome(&b), more ? 400 : 200);

        add(&b, "POST / HTTP/1.1\r\n" HOST, 1);
        add(&b, more ? "Content-Length: 8388609\r\n\r\n" : "Content-Length: 8388608\r\n\r\n", 1);
        add(&b, "x", PFQ_HTTP_BODY + more);
        assert_int_equal(outcome(&b), more ? 413 : 200);

        add(&b, "POST / HTTP/1.1\r\n" CHUNKED "7fffff\r\n", 1);
        add(&b, "x", PFQ_HTTP_BODY - 1);
        add(&b, more ? "\r\n2\r\nab\r\n0\r\n\r\n" : "\r\n1\r\na\r\n0\r\n\r\n", 1);
        assert_int_equal(outcome(&b), more ? 413 : 200);
    }
}

/* Nothing that a client promises is allocated before it comes. */
static void test_never_ends(void **state)
{
    (void)state;
    static const struct {
        const char *begin, *forever;
        int status;
    } cases[] = {{"", "a", 414},
                 {"GET / HTTP/1.1\r\n", "a", 431},
                 {"GET / HTTP/1.1\r\n", "a: b\r\n", 431},
                 {"POST / HTTP/1.1\r\n" CHUNKED, "0", 400}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Build b = {0};
        add(&b, cases[i].begin, 1);
        add(&b, cases[i].forever, 100000);
        assert_int_equal(outcome(&b), cases[i].status);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests), cmocka_unit_test(test_headers),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_nul),
        cmocka_unit_test(test_limits),   cmocka_unit_test(test_never_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
