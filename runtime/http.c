/* The request parser. Contract: http.h; sections are those of RFC 9112. */
#include "runtime/http.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef enum Place {
    AT_LINE,      /* the request line */
    AT_HEADERS,   /* header lines, and the empty one */
    AT_BODY,      /* bytes that Content-Length counts */
    AT_SIZE,      /* a chunk's size line */
    AT_CHUNK,     /* its bytes */
    AT_CHUNK_END, /* the line end behind them */
    AT_TRAILERS,
    AT_END
} Place;

typedef struct Text {
    char *p;
    size_t n, cap;
} Text;

struct PfqHttpParts {
    Place at;
    Text head; /* lines of the head, whole; later their parts, each ended by NUL */
    Text body;
    size_t line;                   /* where in the head the line begins that comes in */
    size_t section;                /* where the headers, or the trailers, begin */
    size_t path, query, authority; /* in the head; authority: 0 if the target has none */
    struct {
        size_t name, value; /* in the head */
    } header[PFQ_HTTP_HEADERS];
    int n_headers, n_trailers;
    uint64_t left; /* bytes that are to come of the body, or of the chunk */
    bool skipped;  /* the empty line that may stand before a request (2.2) */
    bool chunked;
    PfqHttpHeader headers[PFQ_HTTP_HEADERS]; /* for the request */
};
typedef struct PfqHttpParts Parts;

static bool bad(PfqHttp *p, int status, const char *why)
{
    p->state = PFQ_HTTP_BAD;
    p->status = status;
    p->why = why;
    return false;
}

/* Room for n bytes more and a NUL, for `times` what is needed now; no more than `most`, which the
 * caller knows to be enough. */
static bool reserve(PfqHttp *p, Text *t, size_t n, size_t times, size_t most)
{
    if (t->n + n + 1 <= t->cap) {
        return true;
    }
    size_t cap = times * (t->n + n) > 512 ? times * (t->n + n) : 512;
    cap = cap > most ? most : cap;
    cap = cap < t->n + n + 1 ? t->n + n + 1 : cap;
    char *q = realloc(t->p, cap);
    if (!q) {
        return bad(p, 503, "out of memory");
    }
    t->p = q;
    t->cap = cap;
    return true;
}

/* ---- characters ---- */

static bool is_token(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* ---- the request line ---- */

/* Percent-decodes `s` in place. */
static bool decode(char *s)
{
    char *out = s;
    while (*s) {
        char c = *s++;
        if (c == '%') {
            const int hi = hex_digit(s[0]), lo = hi < 0 ? -1 : hex_digit(s[1]);
            if (lo < 0 || hi + lo == 0) {
                return false;
            }
            c = (char)(hi << 4 | lo);
            s += 2;
        }
        *out++ = c;
    }
    *out = 0;
    return true;
}

static bool read_version(PfqHttp *p, const char *v)
{
    if (strncmp(v, "HTTP/", 5) != 0 || v[5] < '0' || v[5] > '9' || v[6] != '.' || v[7] < '0' ||
        v[7] > '9' || v[8]) {
        return bad(p, 400, "the request line does not end in a version of HTTP");
    }
    p->request.http10 = v[7] == '0';
    return v[5] == '1' || bad(p, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
}

/* The target: a path, also behind http:// and an authority (3.2.2), which then must be Host. The
 * path is moved to the front of the target, so that each part can end in NUL. */
static bool read_target(PfqHttp *p, char *t)
{
    Parts *s = p->parts;
    for (const char *c = t; *c; c++) {
        if (*c <= 0x20 || *c >= 0x7f || *c == '#') {
            return bad(p, 400, "the request's target has a character that must be percent-encoded");
        }
    }
    if (strncasecmp(t, "http://", 7) == 0) {
        const size_t n = strcspn(t + 7, "/?");
        memmove(t, t + 7, n); /* it ends before the path, which stays where it is */
        t[n] = 0;
        s->authority = (size_t)(t - s->head.p);
        t += 7 + n;
    }
    if (*t != '/') {
        return bad(p, 400, "the request's target is no path");
    }
    char *query = strchr(t, '?');
    s->query = (size_t)((query ? query + 1 : t + strlen(t)) - s->head.p);
    if (query) {
        *query = 0;
    }
    s->path = (size_t)(t - s->head.p);
    return decode(t) || bad(p, 400, "the request's path has a wrong percent-encoding");
}

static bool read_request_line(PfqHttp *p, char *line)
{
    Parts *s = p->parts;
    if (!*line && !s->skipped) {
        s->skipped = true;
        s->head.n = s->line; /* the line was empty: forget its NUL */
        return true;
    }
    char *target = strchr(line, ' '), *version = target ? strchr(target + 1, ' ') : NULL;
    if (!version || target == line) {
        return bad(p, 400, "the request line is not a method, a target and a version");
    }
    *target++ = 0;
    *version++ = 0;
    for (const char *c = line; *c; c++) {
        if (!is_token((unsigned char)*c)) {
            return bad(p, 400, "the request's method has a wrong character");
        }
    }
    s->at = AT_HEADERS;
    s->section = s->head.n;
    return read_version(p, version) && read_target(p, target);
}

/* ---- headers ---- */

/* Divides a line into name and value in place. */
static bool divide(PfqHttp *p, char *line, char **value)
{
    char *c = line;
    while (is_token((unsigned char)*c)) {
        c++;
    }
    if (c == line || *c != ':') {
        return bad(p, 400,
                   is_blank(*line) ? "a header is folded onto a second line"
                                   : "a header is not a name, a colon and a value");
    }
    *c++ = 0;
    while (is_blank(*c)) {
        c++;
    }
    char *end = c + strlen(c);
    while (end > c && is_blank(end[-1])) {
        end--;
    }
    *end = 0;
    *value = c;
    return true;
}

static bool read_header(PfqHttp *p, char *line)
{
    Parts *s = p->parts;
    char *value;
    int *n = s->at == AT_HEADERS ? &s->n_headers : &s->n_trailers;
    if (*n == PFQ_HTTP_HEADERS) {
        return bad(p, 431, "the request has too many headers");
    }
    if (!divide(p, line, &value)) {
        return false;
    }
    if (s->at == AT_HEADERS) {
        s->header[*n].name = (size_t)(line - s->head.p);
        s->header[*n].value = (size_t)(value - s->head.p);
    }
    ++*n;
    return true;
}

/* ---- what the headers say ---- */

/* Is `word` in a list of words between commas (RFC 9110, 5.6.1)? */
static bool lists(const char *list, const char *word)
{
    const size_t n = strlen(word);
    while (*list) {
        list += strspn(list, ", \t");
        size_t len = strcspn(list, ",");
        const char *end = list + len;
        while (len && is_blank(list[len - 1])) {
            len--;
        }
        if (len == n && strncasecmp(list, word, n) == 0) {
            return true;
        }
        list = end;
    }
    return false;
}

const char *pfq_http_header(const PfqHttpRequest *q, const char *name)
{
    for (int i = 0; i < q->n_headers; i++) {
        if (strcasecmp(q->headers[i].name, name) == 0) {
            return q->headers[i].value;
        }
    }
    return NULL;
}

/* Headers of which a request may have one. */
static const char *const single[] = {"host",          "content-length", "transfer-encoding",
                                     "authorization", "content-type",   "content-encoding",
                                     "origin",        "expect"};

static bool check_single(PfqHttp *p)
{
    for (size_t k = 0; k < sizeof single / sizeof *single; k++) {
        int found = 0;
        for (int i = 0; i < p->request.n_headers; i++) {
            found += strcasecmp(p->request.headers[i].name, single[k]) == 0;
        }
        if (found > 1) {
            return bad(p, 400, "a header came twice that may come once");
        }
    }
    return true;
}

/* 6.1-6.3: how long the body is. A request that says it in two ways is what smuggling is made of.
 */
static bool read_length(PfqHttp *p)
{
    const char *length = pfq_http_header(&p->request, "content-length");
    const char *coding = pfq_http_header(&p->request, "transfer-encoding");
    Parts *s = p->parts;
    if (coding) {
        s->chunked = true;
        return length              ? bad(p, 400, "both Content-Length and Transfer-Encoding")
               : p->request.http10 ? bad(p, 400, "Transfer-Encoding in a request of HTTP/1.0")
                                   : strcasecmp(coding, "chunked") == 0 ||
                                         bad(p, 501, "a Transfer-Encoding other than chunked");
    }
    if (length && (!*length || strspn(length, "0123456789") != strlen(length))) {
        return bad(p, 400, "Content-Length is no number");
    }
    for (; length && *length; length++) {
        s->left = s->left * 10 + (uint64_t)(*length - '0');
        if (s->left > PFQ_HTTP_BODY) {
            return bad(p, 413, "the request's body is too large");
        }
    }
    return true;
}

static bool read_host(PfqHttp *p)
{
    const char *host = pfq_http_header(&p->request, "host");
    const Parts *s = p->parts;
    if (!host && !p->request.http10) {
        return bad(p, 400, "the request has no Host");
    }
    return !s->authority || (host && strcasecmp(host, s->head.p + s->authority) == 0) ||
           bad(p, 400, "the request's target has another host than Host");
}

static bool read_expect(PfqHttp *p)
{
    const char *expect = pfq_http_header(&p->request, "expect");
    p->request.expects = expect && !p->request.http10;
    return !expect || strcasecmp(expect, "100-continue") == 0 ||
           bad(p, 417, "an Expect other than 100-continue");
}

static bool read_coding(PfqHttp *p)
{
    const char *coding = pfq_http_header(&p->request, "content-encoding");
    return !coding || strcasecmp(coding, "identity") == 0 ||
           bad(p, 415, "a Content-Encoding: bodies are taken as they are, not compressed");
}

/* The request's strings, which move when the head grows. */
static void hand_out_head(PfqHttp *p)
{
    Parts *s = p->parts;
    PfqHttpRequest *q = &p->request;
    for (int i = 0; i < s->n_headers; i++) {
        s->headers[i] =
            (PfqHttpHeader){s->head.p + s->header[i].name, s->head.p + s->header[i].value};
    }
    q->method = s->head.p;
    q->path = s->head.p + s->path;
    q->query = s->head.p + s->query;
    q->headers = s->headers;
    q->n_headers = s->n_headers;
}

/* The empty line behind the headers. */
static bool finish_head(PfqHttp *p)
{
    Parts *s = p->parts;
    PfqHttpRequest *q = &p->request;
    hand_out_head(p);
    if (!check_single(p) || !read_host(p) || !read_length(p) || !read_coding(p) ||
        !read_expect(p)) {
        return false;
    }
    const char *connection = pfq_http_header(q, "connection");
    q->keep_alive = !(connection && lists(connection, "close")) &&
                    (!q->http10 || (connection && lists(connection, "keep-alive")));
    s->at = s->chunked ? AT_SIZE : s->left ? AT_BODY : AT_END;
    p->state = s->at == AT_END ? PFQ_HTTP_DONE : PFQ_HTTP_READ_HEAD;
    return true;
}

/* ---- chunks (7.1) ---- */

static bool read_size(PfqHttp *p, const char *line)
{
    Parts *s = p->parts;
    const char *c = line;
    uint64_t n = 0;
    for (; hex_digit(*c) >= 0; c++) {
        n = n << 4 | (uint64_t)hex_digit(*c);
        if (n > PFQ_HTTP_BODY - s->body.n) {
            return bad(p, 413, "the request's body is too large");
        }
    }
    if (c == line || (*c && *c != ';')) {
        return bad(p, 400, "a chunk's size is no hexadecimal number");
    }
    s->left = n;
    s->at = n ? AT_CHUNK : AT_TRAILERS;
    s->section = s->line;
    return true;
}

/* ---- lines ---- */

/* Most bytes of the line that begins at s->line, its line end not counted, and the refusal. */
static bool check_room(PfqHttp *p)
{
    const Parts *s = p->parts;
    const size_t line = s->head.n - s->line, section = s->head.n - s->section;
    switch (s->at) {
    case AT_LINE: return line <= PFQ_HTTP_LINE || bad(p, 414, "the request line is too long");
    case AT_SIZE: return line <= PFQ_HTTP_CHUNK_LINE || bad(p, 400, "a chunk's size is too long");
    case AT_CHUNK_END: return bad(p, 400, "a chunk is longer than its size");
    default: return section <= PFQ_HTTP_HEAD || bad(p, 431, "the request's headers are too long");
    }
}

/* What is kept of a line: the head's stay, those of chunks make room for the next. */
static bool take_line(PfqHttp *p)
{
    Parts *s = p->parts;
    const Place at = s->at;
    char *line = s->head.p + s->line;
    bool ok = true;
    s->head.p[s->head.n - 1] = 0; /* the CR */
    switch (at) {
    case AT_LINE: ok = read_request_line(p, line); break;
    case AT_SIZE: ok = read_size(p, line); break;
    case AT_CHUNK_END: s->at = AT_SIZE; break;
    default:
        if (*line) {
            ok = read_header(p, line);
        } else if (at == AT_HEADERS) {
            ok = finish_head(p);
        } else {
            s->at = AT_END;
            p->state = PFQ_HTTP_DONE;
        }
    }
    if (at == AT_LINE || at == AT_HEADERS) {
        s->line = s->head.n;
    } else if (at != AT_TRAILERS) {
        s->head.n = s->line;
    } else {
        s->line = s->head.n; /* counted until the section ends */
    }
    return ok;
}

/* One byte of a line. Lines end in CR LF, and no other control character but a tab is in them. */
static bool take_byte(PfqHttp *p, char c)
{
    Parts *s = p->parts;
    const bool after_cr = s->head.n > s->line && s->head.p[s->head.n - 1] == '\r';
    if (after_cr != (c == '\n')) {
        return bad(p, 400, after_cr ? "a CR without LF" : "a line ends in LF alone");
    }
    if (c == '\n') {
        return take_line(p);
    }
    if ((c >= 0 && c < 0x20 && c != '\t' && c != '\r') || c == 0x7f) {
        return bad(p, 400, "a control character in the request's head");
    }
    /* Doubled, the smaller ones that heads of many connections leave behind would be as much again.
     */
    if (!reserve(p, &s->head, 1, 4, SIZE_MAX)) {
        return false;
    }
    s->head.p[s->head.n++] = c;
    return c == '\r' || check_room(p);
}

/* ---- bodies ---- */

/* Takes what is there of s->left bytes; the number of bytes taken. */
static size_t take_body(PfqHttp *p, const char *bytes, size_t n)
{
    Parts *s = p->parts;
    const size_t take = n < s->left ? n : (size_t)s->left;
    const size_t most = s->chunked ? PFQ_HTTP_BODY + 1 : s->body.n + (size_t)s->left + 1;
    if (!reserve(p, &s->body, take, 2, most)) {
        return 0;
    }
    memcpy(s->body.p + s->body.n, bytes, take);
    s->body.n += take;
    s->left -= take;
    if (s->left == 0) {
        s->at = s->chunked ? AT_CHUNK_END : AT_END;
        p->state = s->chunked ? PFQ_HTTP_MORE : PFQ_HTTP_DONE;
    }
    return take;
}

static void hand_out_body(PfqHttp *p)
{
    Text *t = &p->parts->body;
    if (t->p) {
        t->p[t->n] = 0;
    }
    p->request.body = t->p;
    p->request.body_n = t->n;
}

/* ---- the whole ---- */

static bool begin(PfqHttp *p)
{
    p->parts = calloc(1, sizeof *p->parts);
    return p->parts || bad(p, 503, "out of memory");
}

size_t pfq_http_feed(PfqHttp *p, const char *bytes, size_t n)
{
    size_t i = 0;
    if (p->state == PFQ_HTTP_READ_HEAD) {
        p->state = PFQ_HTTP_MORE;
    }
    p->begun |= n > 0;
    if (n && !p->parts && !begin(p)) {
        return 0;
    }
    while (i < n && p->state == PFQ_HTTP_MORE) {
        const Place at = p->parts->at;
        if (at == AT_BODY || at == AT_CHUNK) {
            i += take_body(p, bytes + i, n - i);
        } else {
            take_byte(p, bytes[i++]);
        }
    }
    if (p->state == PFQ_HTTP_DONE && i) {
        hand_out_head(p);
        hand_out_body(p);
    }
    return i;
}

char *pfq_http_take_body(PfqHttpRequest *q)
{
    char *body = q->body;
    q->body = NULL;
    q->body_n = 0;
    return body;
}

void pfq_http_next(PfqHttp *p)
{
    if (p->parts) {
        /* Before DONE the body is still the parser's; after it the request's, unless taken. */
        free(p->state == PFQ_HTTP_DONE ? p->request.body : p->parts->body.p);
        free(p->parts->head.p);
        free(p->parts);
    }
    *p = (PfqHttp){.state = PFQ_HTTP_MORE};
}
