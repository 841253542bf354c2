/* Reading task files. Contract: task.h. */
#include "runtime/task.h"

#include "runtime/file.h"
#include "runtime/json.h"
#include "runtime/unicode.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_LINE = 4 << 20, /* bytes; of a line, and of a text made from it */
    MAX_VALUES = 4096,  /* JSON values of a line */
    MAX_CHOICES = 256
};

typedef struct Text {
    const char *s;
    size_t n;
} Text;

typedef struct Reader {
    PfqTask *task;
    const PfqTokenizer *tok;
    const PfqTaskOptions *opt;
    PfqErr *err;
    PfqJson values[MAX_VALUES];
    char *text;     /* [2 * MAX_LINE] context and continuation of a request */
    size_t context; /* bytes of it that are the context */
    size_t n;
} Reader;

/* Room for `more` elements behind *n. */
static bool grow(void **array, size_t *cap, size_t n, size_t more, size_t size, PfqErr *err)
{
    size_t want = *cap ? *cap : 64, bytes;
    if (n + more <= *cap) {
        return true;
    }
    while (want < n + more) {
        want *= 2;
    }
    void *p = __builtin_mul_overflow(want, size, &bytes) ? NULL : realloc(*array, bytes);
    if (!p) {
        return pfq_fail(err, "out of memory for the task's tokens");
    }
    *array = p;
    *cap = want;
    return true;
}

/* ---- tokens ---- */

/* What Python's str.rstrip leaves: White_Space and the four separators U+001C to U+001F. */
static size_t without_space(const char *s, size_t n)
{
    size_t end = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c = pfq_utf8_next(s, n, &i);
        bool space =
            (c >= 0x1c && c <= 0x1f) || (!(c & PFQ_UC_BAD) && (pfq_uc_bits(c) & PFQ_UC_SPACE));
        end = space ? end : i;
    }
    return end;
}

static bool put(Reader *r, Text text)
{
    if (text.n > 2 * (size_t)MAX_LINE - r->n) {
        return pfq_fail(r->err, "a text of more than %d MiB", 2 * MAX_LINE >> 20);
    }
    memcpy(r->text + r->n, text.s, text.n);
    r->n += text.n;
    return true;
}

/* Appends tokens; n < 0: there was no memory for them. */
static bool add_ids(Reader *r, const int32_t *ids, ptrdiff_t n)
{
    PfqTask *t = r->task;
    if (n < 0) {
        return pfq_fail(r->err, "out of memory for the tokens of a text");
    }
    if (!grow((void **)&t->ids, &t->cap_ids, t->n_ids, (size_t)n, sizeof *t->ids, r->err)) {
        return false;
    }
    memcpy(t->ids + t->n_ids, ids, (size_t)n * sizeof *ids);
    t->n_ids += (size_t)n;
    return true;
}

/* Without a context: BOS or EOS stands for it, unless the text begins with that. */
static bool encode_alone(Reader *r, unsigned flags, size_t *n_context)
{
    const int32_t start = r->tok->bos >= 0 ? r->tok->bos : r->tok->eos;
    int32_t *ids = NULL;
    const ptrdiff_t n = pfq_tok_encode(r->tok, r->text, r->n, flags, &ids);
    bool ok = start >= 0 || pfq_fail(r->err, "the context is empty and this tokenizer has neither "
                                             "BOS nor EOS to stand for it");
    ok = ok && ((n > 0 && ids[0] == start) || add_ids(r, &start, 1)) && add_ids(r, ids, n);
    free(ids);
    *n_context = 1;
    return ok;
}

static bool encode_pair(Reader *r, size_t context, unsigned flags, size_t *n_context)
{
    int32_t *before = NULL, *whole = NULL;
    ptrdiff_t nb = pfq_tok_encode(r->tok, r->text, context, flags | PFQ_TOK_POLICY, &before),
              nw = pfq_tok_encode(r->tok, r->text, r->n, flags | PFQ_TOK_POLICY, &whole);
    if (nb >= 0 && nw <= nb) {
        nb = 0;
        while (nb < nw && before[nb] == whole[nb]) {
            nb++;
        }
    }
    const bool ok = add_ids(r, before, nw < 0 ? nw : nb) &&
                    add_ids(r, whole + (nw > nb ? nb : 0), nw > nb ? nw - nb : 0);
    free(before);
    free(whole);
    *n_context = ok ? (size_t)nb : 0;
    return ok;
}

/* The request for r->text; its tokens end with as many of the context as the model can see. */
static bool add_request(Reader *r, size_t chars)
{
    PfqTask *t = r->task;
    const size_t at = t->n_ids, most = (size_t)r->opt->context + 1;
    const unsigned flags = r->opt->special ? (unsigned)PFQ_TOK_SPECIAL : 0;
    const size_t context = without_space(r->text, r->context);
    size_t first;
    if (!(context ? encode_pair(r, context, flags, &first) : encode_alone(r, flags, &first)) ||
        !grow((void **)&t->request, &t->cap_requests, t->n_requests, 1, sizeof *t->request,
              r->err)) {
        return false;
    }
    size_t n = t->n_ids - at, scored = n - first, drop = n > most ? n - most : 0;
    if (first == 0) {
        return pfq_fail(r->err, "the context has no tokens");
    }
    if (scored == 0) {
        return pfq_fail(r->err, "the continuation adds no token to the context");
    }
    if (scored >= most) {
        return pfq_fail(r->err, "the continuation has %zu tokens, the context only %zu", scored,
                        most - 1);
    }
    memmove(t->ids + at, t->ids + at + drop, (n - drop) * sizeof *t->ids);
    t->n_ids -= drop;
    t->cut += drop > 0;
    n -= drop;
    t->longest = n > (size_t)t->longest ? (int32_t)n : t->longest;
    t->request[t->n_requests++] = (PfqRequest){
        .at = at, .n = (int32_t)n, .first = (int32_t)(first - drop), .chars = (int32_t)chars};
    return true;
}

static size_t characters(Text text)
{
    size_t n = 0;
    for (size_t i = 0; i < text.n; n++) {
        pfq_utf8_next(text.s, text.n, &i);
    }
    return n;
}

static bool request(Reader *r, Text context, const char *delimiter, Text continuation)
{
    if (continuation.n == 0) {
        return pfq_fail(r->err, "a continuation is empty");
    }
    if (r->opt->delimiter) {
        delimiter = r->opt->delimiter;
    }
    r->n = 0;
    if (!put(r, context) || !put(r, (Text){delimiter, strlen(delimiter)})) {
        return false;
    }
    r->context = r->n;
    return put(r, continuation) && add_request(r, characters(continuation));
}

/* ---- shapes ---- */

static Text text_of(const PfqJson *v)
{
    return (Text){v->s, v->n};
}

/* Adds an example of which option, before or behind `fixed`. */
static bool choices(Reader *r, const PfqJson *fixed, const PfqJson *options, const PfqJson *gold,
                    bool query)
{
    const PfqJson *v = options + 1;
    Text text = text_of(fixed);
    if (options->n < 2 || options->n > MAX_CHOICES) {
        return pfq_fail(r->err, "%u choices, expected 2 to %d", options->n, MAX_CHOICES);
    }
    if (gold->i < 0 || gold->i >= options->n) {
        return pfq_fail(r->err, "\"gold\" is %lld, expected 0 to %u", (long long)gold->i,
                        options->n - 1);
    }
    if (query) {
        text.n = without_space(text.s, text.n);
    }
    for (uint32_t i = 0; i < options->n; i++, v += v->span) {
        if (v->type != PFQ_JSON_STRING) {
            return pfq_fail(r->err, "choice %u is %s, expected a string", i,
                            pfq_json_type_name((PfqJsonType)v->type));
        }
        if (!(query ? request(r, text, "\nAnswer: ", text_of(v))
                    : request(r, text_of(v), " ", text))) {
            return false;
        }
    }
    return true;
}

static bool add_example(Reader *r, const PfqJson *object)
{
    enum { STRING = 1u << PFQ_JSON_STRING, ARRAY = 1u << PFQ_JSON_ARRAY };
    PfqTask *t = r->task;
    const PfqJson *query, *list, *gold, *options, *continuation, *context;
    const PfqJsonField fields[] = {
        {"query", STRING, &query},           {"choices", ARRAY, &list},
        {"gold", 1u << PFQ_JSON_INT, &gold}, {"context_options", ARRAY, &options},
        {"context", STRING, &context},       {"continuation", STRING, &continuation},
    };
    if (!pfq_json_fields(object, fields, sizeof fields / sizeof *fields, NULL, r->err) ||
        !grow((void **)&t->example, &t->cap, t->n, 1, sizeof *t->example, r->err)) {
        return false;
    }
    const bool ask = query && list && gold, prefer = options && continuation && gold,
               cloze = context && continuation;
    if (ask + prefer + cloze != 1) {
        return pfq_fail(r->err, "expected one of {query, choices, gold}, {context_options, "
                                "continuation, gold}, {context, continuation}");
    }
    if (t->n > 0 && cloze != t->cloze) {
        return pfq_fail(r->err, "an example %s choices, those before it are %s",
                        cloze ? "without" : "with", cloze ? "with" : "without");
    }
    t->cloze = cloze;
    PfqExample e = {.at = t->n_requests, .gold = cloze ? 0 : (int32_t)gold->i};
    if (!(cloze ? request(r, text_of(context), " ", text_of(continuation))
          : ask ? choices(r, query, list, gold, true)
                : choices(r, continuation, options, gold, false))) {
        return false;
    }
    e.n = (int32_t)(t->n_requests - e.at);
    t->example[t->n++] = e;
    return true;
}

/* ---- lines ---- */

static bool is_blank(const char *line, size_t n)
{
    return strspn(line, " \t\r") >= n;
}

static bool read_line(Reader *r, char *line, size_t n, size_t number)
{
    size_t at = 0;
    PfqErr err;
    if (n > MAX_LINE) {
        return pfq_fail(r->err, "%s:%zu: a line of %zu bytes, at most %d MiB are read",
                        r->opt->path, number, n, MAX_LINE >> 20);
    }
    if (!pfq_json_parse(line, n, r->values, MAX_VALUES, &at, &err)) {
        return pfq_fail(r->err, "%s:%zu:%zu: %s", r->opt->path, number, at + 1, err.text);
    }
    PfqErr *outer = r->err;
    r->err = &err;
    bool ok = add_example(r, r->values);
    r->err = outer;
    return ok || pfq_fail(r->err, "%s:%zu: %s", r->opt->path, number, err.text);
}

static bool read_lines(Reader *r, char *text, size_t n)
{
    size_t number = 1;
    for (char *line = text, *end = text + n, *next; line < end; line = next, number++) {
        char *eol = memchr(line, '\n', (size_t)(end - line));
        next = eol ? eol + 1 : end;
        eol = eol ? eol : end;
        *eol = 0;
        if (r->opt->limit && r->task->n == (size_t)r->opt->limit) {
            break;
        }
        if (!is_blank(line, (size_t)(eol - line)) &&
            !read_line(r, line, (size_t)(eol - line), number)) {
            return false;
        }
    }
    return r->task->n > 0 || pfq_fail(r->err, "'%s' has no examples", r->opt->path);
}

bool pfq_task_read(PfqTask *t, const PfqTokenizer *tok, const PfqTaskOptions *o, PfqErr *err)
{
    size_t n;
    *t = (PfqTask){0};
    char *text = pfq_read_file(o->path, &n, err);
    if (!text) {
        return false;
    }
    Reader *r = malloc(sizeof *r);
    bool ok = false;
    if (r) {
        *r = (Reader){.task = t, .tok = tok, .opt = o, .err = err, .text = malloc(2 * MAX_LINE)};
    }
    if (r && r->text) {
        ok = read_lines(r, text, n);
    } else {
        pfq_fail(err, "out of memory for a line of '%s'", o->path);
    }
    free(r ? r->text : NULL);
    free(r);
    free(text);
    return ok;
}

void pfq_task_free(PfqTask *t)
{
    free(t->example);
    free(t->request);
    free(t->ids);
    *t = (PfqTask){0};
}
