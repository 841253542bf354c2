/* Bodies of requests to the server's routes, from JSON to an answer in the queue: each is refused
 * with a status and a sentence, answered, or becomes an answer within its limits. The first byte
 * names the route. Replies, the queue, templates and the tokenizer are stubs. */
#include "runtime/prompt.h"
#include "runtime/serve.h"
#include "tests/fuzz/fuzz.h"
#include "tests/runtime/fake_tok.c"

#include <stdarg.h>

struct PfqReply {
    int status;
    bool started, ended;
};

static PfqAnswer *queued;

/* ---- stubs ---- */

bool pfq_serve_queue(PfqServer *s, PfqAnswer *a)
{
    (void)s;
    queued = a;
    return true;
}

bool pfq_desk_put(PfqServer *s, PfqAsk *a)
{
    pfq_api_read(s, a);
    free(a->body);
    free(a);
    return true;
}

void pfq_serve_begun(PfqServer *s)
{
    (void)s;
}

char *pfq_http_take_body(PfqHttpRequest *q)
{
    char *body = q->body;
    q->body = NULL;
    return body;
}

void pfq_reply_start(PfqReply *r, int status, const char *type, bool streaming)
{
    FUZZ_REQUIRE(!r->started && status == 200 && type && !streaming);
    r->started = true;
    r->status = status;
}

bool pfq_reply_write(PfqReply *r, const void *bytes, size_t n)
{
    FUZZ_REQUIRE(r->started && !r->ended && (bytes || n == 0));
    return true;
}

bool pfq_reply_printf(PfqReply *r, const char *fmt, ...)
{
    char line[4096];
    va_list ap;
    va_start(ap, fmt);
    const int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    FUZZ_REQUIRE(n >= 0 && (size_t)n < sizeof line);
    return pfq_reply_write(r, line, (size_t)n);
}

bool pfq_reply_json(PfqReply *r, const char *text, size_t n)
{
    return pfq_reply_write(r, text, n);
}

bool pfq_reply_json_pair(PfqReply *r, const char *a, size_t n, const char *b, size_t m)
{
    return pfq_reply_json(r, a, n) && pfq_reply_json(r, b, m);
}

bool pfq_reply_send(PfqReply *r)
{
    FUZZ_REQUIRE(r->started && !r->ended);
    return true;
}

void pfq_reply_end(PfqReply *r)
{
    FUZZ_REQUIRE(r->started && !r->ended);
    r->ended = true;
}

bool pfq_reply_gone(const PfqReply *r)
{
    return r->ended;
}

void pfq_reply_error(PfqReply *r, int status, const char *param, const char *fmt, ...)
{
    char text[2048];
    va_list ap;
    va_start(ap, fmt);
    const int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    FUZZ_REQUIRE(n > 0);
    pfq_reply_refuse(r, status, param, NULL, text);
}

void pfq_reply_refuse(PfqReply *r, int status, const char *param, const char *code,
                      const char *message)
{
    FUZZ_REQUIRE(!r->started && !r->ended && *message);
    FUZZ_REQUIRE(!code || strlen(code) < 64);
    FUZZ_REQUIRE(status == 400 || status == 404);
    FUZZ_REQUIRE(!param || strlen(param) < PFQ_HTTP_BODY);
    r->status = status;
    r->ended = true;
}

int32_t *pfq_prompt_tokens(const PfqModel *model, const PfqTokenizer *tok, const PfqTemplate *t,
                           const PfqTalk *talk, PfqMem *m, int32_t *n, int32_t *skip, PfqErr *err)
{
    (void)model, (void)tok, (void)t, (void)m, (void)err;
    FUZZ_REQUIRE(talk->messages.kind == PFQ_V_LIST && talk->messages.n > 0);
    int32_t *ids = calloc(talk->messages.n, sizeof *ids);
    *n = (int32_t)talk->messages.n;
    *skip = 0;
    return ids;
}

/* ---- the answer ---- */

static void check_answer(const PfqAnswer *a, const PfqServer *s)
{
    FUZZ_REQUIRE(a->n_prompts >= 1 && a->n_prompts <= PFQ_SERVE_PROMPTS);
    FUZZ_REQUIRE(a->n_choices >= a->n_prompts && a->n_choices <= 8 * a->n_prompts);
    FUZZ_REQUIRE(a->max_tokens >= 0 && a->max_tokens <= s->ctx);
    FUZZ_REQUIRE(a->top >= 0 && a->top <= 20 && a->n_bias <= PFQ_SERVE_BIASES);
    for (int i = 0; i < a->n_prompts; i++) {
        const PfqPrompt *p = &a->prompt[i];
        FUZZ_REQUIRE(p->n >= 1 && p->n - p->skip + a->max_tokens <= s->ctx);
        for (int32_t k = 0; k < p->n; k++)
            FUZZ_REQUIRE(p->ids[k] >= 0 && p->ids[k] < FAKE_VOCAB);
    }
    for (int i = 0; i < a->n_stop; i++)
        FUZZ_REQUIRE(*a->stop[i] && strlen(a->stop[i]) <= PFQ_MAX_STOP);
    for (int i = 0; i < a->n_bias; i++)
        FUZZ_REQUIRE(a->bias[i].id >= 0 && a->bias[i].id < FAKE_VOCAB);
    for (int i = 0; i < a->n_choices; i++) {
        const PfqSampler *p = &a->choice[i].sampler;
        FUZZ_REQUIRE(p->temp >= 0 && p->top_p >= 0 && p->top_p <= 1 && p->top_k >= 0);
    }
}

/* A template that looks at `tools` and, of the variables, at `a`. */
static const PfqTplNode nodes[] = {{.op = PFQ_T_NAME, .a = 0}, {.op = PFQ_T_NAME, .a = 1}};
static const PfqTplHead head = {.node.count = 2};
static const uint32_t ends[] = {0, 5, 6};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const PfqModel model = {.name = "fake_model",
                                   .vocab = FAKE_VOCAB,
                                   .context = 512,
                                   .chat = (const unsigned char *)"",
                                   .chat_bytes = 1};
    static PfqCli cli = {.model = &model};
    static PfqServer server = {
        .cli = &cli,
        .ctx = 512,
        .tpl = {.head = &head, .node = nodes, .str_off = ends, .str = "toolsa"}};
    static const char *const paths[] = {"/v1/completions", "/v1/chat/completions", "/tokenize",
                                        "/detokenize"};
    if (size < 1) return 0;
    pfq_tok_open(&cli.tok, "F", 1);
    PfqReply reply = {0};
    PfqHttpRequest q = {.method = "POST", .body = malloc(size), .body_n = size - 1};
    FUZZ_REQUIRE(q.body);
    memcpy(q.body, data + 1, size - 1);
    q.body[size - 1] = 0;
    queued = NULL;
    for (int i = 0; i < pfq_n_api_routes; i++)
        if (strcmp(pfq_api_routes[i].path, paths[data[0] & 3]) == 0)
            pfq_api_routes[i].handler(&server, &q, &reply);
    FUZZ_REQUIRE(reply.ended == !queued);
    if (queued) {
        check_answer(queued, &server);
        pfq_answer_free(queued);
    }
    free(q.body);
    return 0;
}
