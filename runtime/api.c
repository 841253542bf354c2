/* The routes of the model: from a request to an answer in the queue. Contract: serve.h; what the
 * fields are is in fields.def. */
#include "runtime/serve.h"

#include "runtime/prompt.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum { DEFAULT_TOKENS = 16 }; /* of a completion, as OpenAI's */

/* ---- a request in work ---- */

typedef struct Work {
    PfqServer *s;
    PfqReply *reply;
    PfqJson *nodes;
    PfqFields f;
    const char *param; /* the field at fault */
    const char *code;  /* what clients that know OpenAI's branch on; NULL: the status's */
    int status;
    PfqErr err;
} Work;

/* Notes what is wrong; returns false. */
static bool refuse(Work *w, int status, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static bool refuse(Work *w, int status, const char *param, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(w->err.text, sizeof w->err.text, fmt, ap);
    va_end(ap);
    w->status = status;
    w->param = param;
    return false;
}

static bool no_memory(Work *w)
{
    return refuse(w, 503, NULL, "out of memory");
}

static bool read_body(Work *w, PfqAsk *ask)
{
    size_t at, n = ask->n;
    w->status = 400;
    if (!ask->body) {
        return refuse(w, 400, NULL, "the body is empty; a JSON object is expected");
    }
    /* A value takes two bytes of text: itself, and what divides it from the next. */
    const size_t cap = n / 2 + 2 < PFQ_SERVE_NODES ? n / 2 + 2 : PFQ_SERVE_NODES;
    w->nodes = malloc(cap * sizeof *w->nodes);
    if (!w->nodes) {
        return no_memory(w);
    }
    PfqErr why;
    if (!pfq_json_parse(ask->body, n, w->nodes, (uint32_t)cap, &at, &why)) {
        return refuse(w, 400, NULL, "the body is not JSON: at byte %zu: %s", at, why.text);
    }
    return pfq_fields_read(&w->f, ask->route, w->nodes, &w->param, &w->err);
}

static void finish_work(Work *w, bool ok)
{
    if (!ok) {
        pfq_reply_refuse(w->reply, w->status, w->param, w->code, w->err.text);
    }
    free(w->nodes);
}

static bool is(const PfqJson *v, PfqJsonType type)
{
    return v && v->type == type;
}

static bool says(const PfqJson *v, const char *text)
{
    return is(v, PFQ_JSON_STRING) && v->n == strlen(text) && memcmp(v->s, text, v->n) == 0;
}

/* ---- tokens ---- */

static bool one_id(Work *w, const PfqJson *v, const char *param, int32_t *id)
{
    const int32_t vocab = w->s->cli->model->vocab;
    if (v->type != PFQ_JSON_INT || v->i < 0 || v->i >= vocab) {
        return refuse(w, 400, param, "'%s': token ids are whole numbers from 0 to %d", param,
                      vocab - 1);
    }
    *id = (int32_t)v->i;
    return true;
}

/* A list of ids, malloc'ed. */
static int32_t *ids_of(Work *w, const PfqJson *list, const char *param)
{
    int32_t *ids = malloc(((size_t)list->n + 1) * sizeof *ids);
    const PfqJson *v = list + 1;
    bool ok = ids || no_memory(w);
    for (uint32_t i = 0; ok && i < list->n; i++, v += v->span) {
        ok = one_id(w, v, param, &ids[i]);
    }
    if (!ok) {
        free(ids);
        ids = NULL;
    }
    return ids;
}

static const char too_large[] = "context_length_exceeded";

/* More bytes than a text of the context's length has, normalised (to a fourth) or not: it need not
 * be made tokens. */
static bool too_long(const PfqServer *s, size_t bytes)
{
    return bytes / 4 / pfq_tok_longest(&s->cli->tok) > (size_t)s->ctx;
}

/* A text's tokens as a prompt, all of which the client wrote: special tokens spelled out in it are
 * meant. An empty one is BOS alone, where there is one. */
static bool text_prompt(Work *w, const PfqJson *v, PfqPrompt *p)
{
    const PfqTokenizer *t = &w->s->cli->tok;
    if (too_long(w->s, v->n)) {
        w->code = too_large;
        return refuse(w, 400, "prompt", "the prompt is longer than the context of %d tokens",
                      w->s->ctx);
    }
    ptrdiff_t n = pfq_tok_encode(t, v->s, v->n, PFQ_TOK_POLICY | PFQ_TOK_SPECIAL, &p->ids);
    if (n == 0 && t->bos >= 0) {
        free(p->ids);
        n = pfq_tok_encode(t, "", 0, PFQ_TOK_BOS, &p->ids);
    }
    if (n < 0) {
        return no_memory(w);
    }
    p->n = n > INT32_MAX ? INT32_MAX : (int32_t)n;
    return true;
}

static bool keep_text(Work *w, const PfqJson *v, PfqPrompt *p)
{
    if (v->type != PFQ_JSON_STRING) {
        p->text = pfq_tok_decode(&w->s->cli->tok, p->ids, (size_t)p->n, false, &p->text_n);
        return p->text || no_memory(w);
    }
    p->text = malloc((size_t)v->n + 1);
    p->text_n = p->text ? v->n : 0;
    if (p->text) {
        memcpy(p->text, v->s, v->n);
    }
    return p->text || no_memory(w);
}

static bool read_prompt(Work *w, const PfqJson *v, PfqPrompt *p)
{
    if (v->type == PFQ_JSON_STRING) {
        if (!text_prompt(w, v, p)) {
            return false;
        }
    } else if (v->type == PFQ_JSON_ARRAY) {
        p->ids = ids_of(w, v, "prompt");
        p->n = (int32_t)v->n; /* PFQ_SERVE_NODES at most */
    } else {
        return refuse(w, 400, "prompt", "'prompt' must be a text, token ids, or a list of them");
    }
    if (!p->ids) {
        return false;
    }
    if (p->n == 0) {
        return refuse(w, 400, "prompt", "the prompt is empty");
    }
    p->skip = pfq_prompt_skip(w->s->cli->model, p->ids, p->n);
    return !w->f.echo || keep_text(w, v, p);
}

static bool read_prompts(Work *w, PfqAnswer *a)
{
    const PfqJson *v = w->f.prompt;
    if (!v) {
        return refuse(w, 400, "prompt", "'prompt' is missing");
    }
    const bool many = v->type == PFQ_JSON_ARRAY && v->n > 0 && v[1].type != PFQ_JSON_INT;
    const uint32_t n = many ? v->n : 1;
    if (n > PFQ_SERVE_PROMPTS) {
        return refuse(w, 400, "prompt", "%u prompts, at most %d are allowed", n, PFQ_SERVE_PROMPTS);
    }
    a->prompt = calloc(n, sizeof *a->prompt);
    if (!a->prompt) {
        return no_memory(w);
    }
    v += many;
    for (uint32_t i = 0; i < n; i++, v += v->span) {
        a->n_prompts++;
        if (!read_prompt(w, v, &a->prompt[i])) {
            return false;
        }
    }
    return true;
}

/* ---- a conversation ---- */

/* A part is a text if its type says so, or if it has none. */
static bool is_text(PfqVal part)
{
    const PfqVal type = pfq_val_get(part, "type");
    return pfq_val_get(part, "text").kind == PFQ_V_STR &&
           (type.kind == PFQ_V_UNDEF ||
            (type.kind == PFQ_V_STR && type.n == 4 && memcmp(type.s, "text", 4) == 0));
}

/* A content that is a list of texts becomes their text; other parts are refused. */
static bool flat_content(Work *w, PfqMem *m, PfqVal *content)
{
    size_t n = 0;
    if (content->kind != PFQ_V_LIST) {
        return content->kind == PFQ_V_STR || content->kind == PFQ_V_NONE ||
               content->kind == PFQ_V_UNDEF ||
               refuse(w, 400, "messages", "the content of a message must be a text or a list");
    }
    for (uint32_t i = 0; i < content->n; i++) {
        if (!is_text(content->at[i])) {
            return refuse(w, 400, "messages",
                          "a part of a message is no text; nothing else is supported");
        }
        n += pfq_val_get(content->at[i], "text").n;
    }
    char *all = pfq_mem(m, n + 1);
    if (!all) {
        return refuse(w, 400, "messages", "the conversation is too long");
    }
    n = 0;
    for (uint32_t i = 0; i < content->n; i++) {
        const PfqVal text = pfq_val_get(content->at[i], "text");
        memcpy(all + n, text.s, text.n);
        n += text.n;
    }
    *content = pfq_val_str(all, n);
    return true;
}

/* The message with its content as one text. */
static bool read_message(Work *w, PfqMem *m, PfqVal given, PfqVal *out)
{
    if (given.kind != PFQ_V_DICT || pfq_val_get(given, "role").kind != PFQ_V_STR) {
        return refuse(w, 400, "messages", "a message must be an object with a role");
    }
    PfqPair *pair = pfq_mem(m, ((size_t)given.n + 1) * sizeof *pair);
    if (!pair) {
        return refuse(w, 400, "messages", "the conversation is too long");
    }
    memcpy(pair, given.pair, given.n * sizeof *pair);
    *out = given;
    out->pair = pair;
    for (uint32_t i = 0; i < given.n; i++) {
        const PfqVal key = pair[i].key;
        if (key.n == 7 && memcmp(key.s, "content", 7) == 0 && !flat_content(w, m, &pair[i].val)) {
            return false;
        }
    }
    return true;
}

static bool read_messages(Work *w, PfqMem *m, PfqVal *out)
{
    PfqVal given;
    if (!is(w->f.messages, PFQ_JSON_ARRAY) || w->f.messages->n == 0) {
        return refuse(w, 400, "messages", "'messages' must be a list of at least one message");
    }
    PfqVal *list = pfq_val_from_json(m, w->f.messages, &given)
                       ? pfq_mem(m, ((size_t)given.n + 1) * sizeof *list)
                       : NULL;
    if (!list) {
        return refuse(w, 400, "messages", "the conversation is too long");
    }
    for (uint32_t i = 0; i < given.n; i++) {
        if (!read_message(w, m, given.at[i], &list[i])) {
            return false;
        }
    }
    *out = given;
    out->at = list;
    return true;
}

/* An optional value of a kind; absent: `none`. */
static bool read_value(Work *w, PfqMem *m, const PfqJson *v, const char *param, PfqJsonType type,
                       PfqVal *out)
{
    if (!v) {
        return true;
    }
    if (v->type != type) {
        return refuse(w, 400, param, "'%s' must be %s", param, pfq_json_type_name(type));
    }
    return pfq_val_from_json(m, v, out) || refuse(w, 400, param, "'%s' is too long", param);
}

/* What the template does not look at would be ignored in silence. */
static bool is_read(Work *w, const char *param, const char *name, size_t n)
{
    return pfq_tpl_reads(&w->s->tpl, name, n) ||
           refuse(w, 400, param, "this model's chat template has no use for '%.*s'",
                  (int)(n < 100 ? n : 100), name);
}

static bool all_read(Work *w, const PfqTalk *talk)
{
    if (talk->tools.kind == PFQ_V_LIST && talk->tools.n > 0 && !is_read(w, "tools", "tools", 5)) {
        return false;
    }
    for (uint32_t i = 0; i < talk->variables.n; i++) {
        const PfqVal key = talk->variables.pair[i].key;
        if (!is_read(w, "chat_template_kwargs", key.s, key.n)) {
            return false;
        }
    }
    return true;
}

static bool render(Work *w, PfqMem *m, PfqPrompt *p)
{
    PfqTalk talk = {.tools = {.kind = PFQ_V_NONE}};
    const bool no_tools = says(w->f.tool_choice, "none");
    if (w->f.tool_choice && !no_tools && !says(w->f.tool_choice, "auto")) {
        return refuse(w, 400, "tool_choice", "'tool_choice' may be \"auto\" or \"none\" only");
    }
    if (!read_messages(w, m, &talk.messages) ||
        !read_value(w, m, w->f.tools, "tools", PFQ_JSON_ARRAY, &talk.tools) ||
        !read_value(w, m, w->f.variables, "chat_template_kwargs", PFQ_JSON_OBJECT,
                    &talk.variables)) {
        return false;
    }
    if (no_tools) {
        talk.tools = (PfqVal){.kind = PFQ_V_NONE};
    }
    if (!all_read(w, &talk)) {
        return false;
    }
    w->param = "messages";
    p->ids = pfq_prompt_tokens(w->s->cli->model, &w->s->cli->tok, &w->s->tpl, &talk, m, &p->n,
                               &p->skip, &w->err);
    return p->ids != NULL;
}

static bool read_talk(Work *w, PfqAnswer *a)
{
    PfqMem m;
    if (!w->s->cli->model->chat) {
        return refuse(w, 400, "messages",
                      "this model was compiled without a chat template; /v1/completions continues "
                      "a text");
    }
    a->prompt = calloc(1, sizeof *a->prompt);
    if (!a->prompt) {
        return no_memory(w);
    }
    a->n_prompts = 1;
    pfq_mem_init(&m, PFQ_MEM_LIMIT);
    const bool ok = render(w, &m, a->prompt);
    pfq_mem_free(&m);
    return ok;
}

/* ---- the other fields ---- */

static bool add_stop(Work *w, PfqAnswer *a, const PfqJson *v)
{
    if (v->type != PFQ_JSON_STRING || v->n < 1 || v->n > PFQ_MAX_STOP ||
        memchr(v->s, 0, v->n) != NULL || a->n_stop == PFQ_MAX_STOPS) {
        return refuse(w, 400, "stop",
                      "'stop' must be a text, or a list of at most %d, of 1 to %d bytes without "
                      "NUL",
                      PFQ_MAX_STOPS, PFQ_MAX_STOP);
    }
    char *text = a->stop_text[a->n_stop];
    memcpy(text, v->s, v->n);
    text[v->n] = 0;
    a->stop[a->n_stop++] = text;
    return true;
}

static bool read_stops(Work *w, PfqAnswer *a)
{
    const PfqJson *v = w->f.stop;
    const bool list = is(v, PFQ_JSON_ARRAY);
    const uint32_t n = !v ? 0 : list ? v->n : 1;
    v = list ? v + 1 : v;
    for (uint32_t i = 0; i < n; i++, v += v->span) {
        if (!add_stop(w, a, v)) {
            return false;
        }
    }
    return true;
}

static bool add_bias(Work *w, PfqAnswer *a, const PfqJson *name, const PfqJson *add)
{
    int64_t id;
    const bool number = add->type == PFQ_JSON_INT || add->type == PFQ_JSON_REAL;
    if (!pfq_parse_int(name->s, &id) || strlen(name->s) != name->n || id < 0 ||
        id >= w->s->cli->model->vocab || !number || pfq_json_number(add) < -100 ||
        pfq_json_number(add) > 100) {
        return refuse(w, 400, "logit_bias",
                      "'logit_bias' must give token ids from 0 to %d numbers from -100 to 100",
                      w->s->cli->model->vocab - 1);
    }
    a->bias[a->n_bias++] = (PfqBias){(int32_t)id, (float)pfq_json_number(add)};
    return true;
}

static bool read_bias(Work *w, PfqAnswer *a)
{
    const PfqJson *v = w->f.logit_bias;
    if (!v) {
        return true;
    }
    if (v->type != PFQ_JSON_OBJECT || v->n > PFQ_SERVE_BIASES) {
        return refuse(w, 400, "logit_bias", "'logit_bias' must be an object of at most %d members",
                      PFQ_SERVE_BIASES);
    }
    a->bias = calloc((size_t)v->n + 1, sizeof *a->bias);
    if (!a->bias) {
        return no_memory(w);
    }
    const PfqJson *name = v + 1;
    for (uint32_t i = 0; i < v->n; i++) {
        const PfqJson *add = name + 1;
        if (!add_bias(w, a, name, add)) {
            return false;
        }
        name = add + add->span;
    }
    return true;
}

static bool read_stream(Work *w, PfqAnswer *a)
{
    const PfqJson *o = w->f.stream_options, *include = NULL, *unknown = NULL;
    const PfqJsonField fields[] = {{"include_usage", 1u << PFQ_JSON_BOOL, &include}};
    a->streams = w->f.stream;
    if (!o) {
        return true;
    }
    PfqErr why;
    if (!w->f.stream || o->type != PFQ_JSON_OBJECT ||
        !pfq_json_fields(o, fields, 1, &unknown, &why) || unknown) {
        return refuse(w, 400, "stream_options",
                      "'stream_options' may be {\"include_usage\": true or false}, with 'stream'");
    }
    a->usage = include && include->b;
    return true;
}

static bool read_format(Work *w)
{
    const PfqJson *o = w->f.response_format, *type = NULL, *unknown = NULL;
    const PfqJsonField fields[] = {{"type", 1u << PFQ_JSON_STRING, &type}};
    PfqErr why;
    return !o ||
           (o->type == PFQ_JSON_OBJECT && pfq_json_fields(o, fields, 1, &unknown, &why) &&
            !unknown && says(type, "text")) ||
           refuse(w, 400, "response_format",
                  "'response_format' is not supported: it may be {\"type\": \"text\"} only");
}

static bool is_model(Work *w, const char *name, size_t n)
{
    const char *ours = w->s->cli->model->name;
    if (strlen(ours) == n && memcmp(ours, name, n) == 0) {
        return true;
    }
    w->code = "model_not_found";
    return refuse(w, 404, "model", "there is no model '%.100s' here, only '%.200s'", name, ours);
}

static bool read_model(Work *w)
{
    return !w->f.model || is_model(w, w->f.model->s, w->f.model->n);
}

/* New tokens that the request may have: with the longest prompt they fit the context. */
static bool read_room(Work *w, PfqAnswer *a)
{
    const int32_t ctx = w->s->ctx;
    int32_t longest = 0;
    for (int i = 0; i < a->n_prompts; i++) {
        const int32_t n = a->prompt[i].n - a->prompt[i].skip;
        longest = n > longest ? n : longest;
    }
    const char *param = a->chat ? "messages" : "prompt";
    if (longest > ctx) {
        w->code = too_large;
        return refuse(w, 400, param, "the prompt has %d tokens, more than the context of %d",
                      longest, ctx);
    }
    if (w->f.chat_tokens >= 0 && w->f.max_completion_tokens >= 0) {
        return refuse(
            w, 400, "max_tokens",
            "'max_tokens' and 'max_completion_tokens' are the same; only one may be given");
    }
    const int64_t given = !a->chat                ? w->f.max_tokens
                          : w->f.chat_tokens >= 0 ? w->f.chat_tokens
                                                  : w->f.max_completion_tokens;
    const int32_t left = ctx - longest, few = left < DEFAULT_TOKENS ? left : DEFAULT_TOKENS;
    a->max_tokens = given >= 0 ? given : a->chat ? left : few;
    if (a->max_tokens > left) {
        w->code = too_large;
        return refuse(w, 400, "max_tokens",
                      "a prompt of %d tokens and %lld new ones are more than the context of %d",
                      longest, (long long)a->max_tokens, ctx);
    }
    return true;
}

static PfqSampler sampler_of(const Work *w)
{
    uint64_t seed = (uint64_t)w->f.seed;
    if (w->f.seed < 0 && getrandom(&seed, sizeof seed, GRND_NONBLOCK) != sizeof seed) {
        seed = (uint64_t)(pfq_now() * 1e9);
    }
    return (PfqSampler){.temp = w->f.temperature,
                        .top_p = w->f.top_p,
                        .min_p = w->f.min_p,
                        .top_k = (int32_t)w->f.top_k,
                        .state = seed,
                        .vocab = w->s->cli->model->vocab};
}

static bool read_answer(Work *w, PfqAnswer *a)
{
    const PfqSampler sampler = sampler_of(w);
    a->echo = w->f.echo;
    a->logprobs = a->chat ? w->f.chat_logprobs : w->f.logprobs >= 0;
    a->top = !a->logprobs ? 0 : (int32_t)(a->chat ? w->f.top_logprobs : w->f.logprobs);
    if (a->top > sampler.vocab) {
        a->top = sampler.vocab;
    }
    if (a->chat && w->f.top_logprobs > 0 && !a->logprobs) {
        return refuse(w, 400, "top_logprobs", "'top_logprobs' needs 'logprobs'");
    }
    return read_model(w) && read_format(w) && read_stream(w, a) && read_stops(w, a) &&
           read_bias(w, a) && (a->chat ? read_talk(w, a) : read_prompts(w, a)) && read_room(w, a) &&
           (pfq_answer_choices(a, (int)w->f.n, &sampler) || no_memory(w));
}

/* ---- what is asked ---- */

static void generate(PfqServer *s, PfqAsk *ask)
{
    static _Atomic uint64_t count;
    Work w = {.s = s, .reply = ask->reply};
    PfqAnswer *a = calloc(1, sizeof *a);
    if (!a) {
        pfq_reply_error(ask->reply, 503, NULL, "out of memory");
        return;
    }
    *a = (PfqAnswer){.server = s,
                     .reply = ask->reply,
                     .chat = ask->route == PFQ_API_CHAT,
                     .created = (int64_t)time(NULL),
                     .arrived = ask->arrived};
    snprintf(a->id, sizeof a->id, "%s-%llx%08llx", a->chat ? "chatcmpl" : "cmpl",
             (unsigned long long)s->started, (unsigned long long)++count);
    const bool ok = read_body(&w, ask) && read_answer(&w, a) &&
                    (pfq_serve_queue(s, a) ||
                     refuse(&w, 503, NULL, "%d requests are waiting already", PFQ_SERVE_QUEUE));
    finish_work(&w, ok);
    if (!ok) {
        pfq_answer_free(a);
    }
}

static bool tokenize_work(Work *w)
{
    int32_t *ids = NULL;
    const PfqJson *v = w->f.text;
    if (!read_model(w)) {
        return false;
    }
    if (!is(v, PFQ_JSON_STRING)) {
        return refuse(w, 400, "prompt", "'prompt' must be a text");
    }
    const unsigned bos = w->f.add_special_tokens ? PFQ_TOK_POLICY : 0;
    const ptrdiff_t n = pfq_tok_encode(&w->s->cli->tok, v->s, v->n, bos | PFQ_TOK_SPECIAL, &ids);
    if (n < 0) {
        return no_memory(w);
    }
    pfq_reply_start(w->reply, 200, "application/json", false);
    pfq_reply_printf(w->reply, "{\"count\": %td, \"max_model_len\": %d, \"tokens\": [", n,
                     w->s->ctx);
    for (ptrdiff_t i = 0; i < n; i++) {
        pfq_reply_printf(w->reply, "%s%d", i ? ", " : "", ids[i]);
    }
    pfq_reply_printf(w->reply, "]}\n");
    pfq_reply_end(w->reply);
    free(ids);
    return true;
}

static bool detokenize_work(Work *w)
{
    size_t n;
    if (!read_model(w)) {
        return false;
    }
    if (!is(w->f.tokens, PFQ_JSON_ARRAY)) {
        return refuse(w, 400, "tokens", "'tokens' must be a list of token ids");
    }
    int32_t *ids = ids_of(w, w->f.tokens, "tokens");
    if (!ids) {
        return false;
    }
    char *text = pfq_tok_decode(&w->s->cli->tok, ids, w->f.tokens->n, true, &n);
    free(ids);
    if (!text) {
        return no_memory(w);
    }
    pfq_reply_start(w->reply, 200, "application/json", false);
    pfq_reply_printf(w->reply, "{\"prompt\": ");
    pfq_reply_json(w->reply, text, n);
    pfq_reply_printf(w->reply, "}\n");
    pfq_reply_end(w->reply);
    free(text);
    return true;
}

void pfq_api_read(PfqServer *s, PfqAsk *ask)
{
    Work w = {.s = s, .reply = ask->reply};
    switch (ask->route) {
    case PFQ_API_TOKENIZE: finish_work(&w, read_body(&w, ask) && tokenize_work(&w)); break;
    case PFQ_API_DETOKENIZE: finish_work(&w, read_body(&w, ask) && detokenize_work(&w)); break;
    default: generate(s, ask);
    }
}

/* ---- from the I/O thread to a desk ---- */

static void ask(PfqServer *s, PfqHttpRequest *q, PfqReply *r, PfqApiRoute route)
{
    PfqAsk *a = malloc(sizeof *a);
    if (!a) {
        pfq_reply_error(r, 503, NULL, "out of memory");
        return;
    }
    *a = (PfqAsk){.reply = r, .n = q->body_n, .route = route, .arrived = pfq_now()};
    a->body = pfq_http_take_body(q);
    if (!pfq_desk_put(s, a)) {
        pfq_reply_error(r, 503, NULL, "too many large requests at once");
        free(a->body);
        free(a);
    }
}

static void completions(void *user, PfqHttpRequest *q, PfqReply *r)
{
    ask(user, q, r, PFQ_API_COMPLETIONS);
}

static void chat(void *user, PfqHttpRequest *q, PfqReply *r)
{
    ask(user, q, r, PFQ_API_CHAT);
}

static void tokenize(void *user, PfqHttpRequest *q, PfqReply *r)
{
    ask(user, q, r, PFQ_API_TOKENIZE);
}

static void detokenize(void *user, PfqHttpRequest *q, PfqReply *r)
{
    ask(user, q, r, PFQ_API_DETOKENIZE);
}

/* ---- what needs no reading ---- */

/* The model, between two texts. */
static void tell_model(const PfqServer *s, PfqReply *r, const char *before, const char *after)
{
    const char *name = s->cli->model->name;
    pfq_reply_start(r, 200, "application/json", false);
    pfq_reply_printf(r, "%s{\"id\": ", before);
    pfq_reply_json(r, name, strlen(name));
    pfq_reply_printf(r,
                     ", \"object\": \"model\", \"created\": %lld, \"owned_by\": \"pfqc\", "
                     "\"max_model_len\": %d, \"chat\": %s}%s\n",
                     (long long)s->started, s->ctx, s->cli->model->chat ? "true" : "false", after);
    pfq_reply_end(r);
}

static void models(void *user, PfqHttpRequest *q, PfqReply *r)
{
    (void)q;
    tell_model(user, r, "{\"object\": \"list\", \"data\": [", "]}");
}

static const char one_model[] = "/v1/models/";

static void model(void *user, PfqHttpRequest *q, PfqReply *r)
{
    Work w = {.s = user, .reply = r};
    const char *name = q->path + strlen(one_model);
    if (is_model(&w, name, strlen(name))) {
        tell_model(user, r, "", "");
    } else {
        finish_work(&w, false);
    }
}

/* Does this text, alone, become this token? */
static bool spells(const PfqTokenizer *t, const char *text, size_t n, int32_t id)
{
    int32_t *ids = NULL;
    const bool same = pfq_tok_encode(t, text, n, PFQ_TOK_SPECIAL, &ids) == 1 && ids[0] == id;
    free(ids);
    return same;
}

/* As a client spells it: some decoders print special tokens with a space in front. */
static void special_token(const PfqServer *s, PfqReply *r, const char *name, int32_t id)
{
    char buf[64];
    size_t n;
    pfq_reply_printf(r, "\"%s\": ", name);
    if (id < 0) {
        pfq_reply_printf(r, "null, \"%s_id\": null, ", name);
        return;
    }
    const char *p = pfq_tok_piece(&s->cli->tok, id, true, buf, &n);
    const bool space = n > 1 && *p == ' ' && spells(&s->cli->tok, p + 1, n - 1, id);
    pfq_reply_json(r, p + space, n - space);
    pfq_reply_printf(r, ", \"%s_id\": %d, ", name, id);
}

static void tokenizer_info(void *user, PfqHttpRequest *q, PfqReply *r)
{
    const PfqServer *s = user;
    const PfqTokenizer *t = &s->cli->tok;
    (void)q;
    pfq_reply_start(r, 200, "application/json", false);
    pfq_reply_printf(r, "{");
    special_token(s, r, "bos_token", t->bos);
    special_token(s, r, "eos_token", t->eos);
    special_token(s, r, "unk_token", t->unk);
    pfq_reply_printf(r,
                     "\"add_bos_token\": %s, \"vocab_size\": %d, \"model_max_length\": %d, "
                     "\"chat_template\": ",
                     t->add_bos ? "true" : "false", s->cli->model->vocab, s->ctx);
    if (s->cli->model->chat) {
        size_t n;
        const char *text = pfq_tpl_text(&s->tpl, pfq_tpl_choose(&s->tpl, false), &n);
        pfq_reply_json(r, text, n);
    } else {
        pfq_reply_write(r, "null", 4);
    }
    pfq_reply_write(r, "}\n", 2);
    pfq_reply_end(r);
}

const PfqRoute pfq_api_routes[] = {
    {.method = "GET", .path = "/v1/models", .handler = models},
    {.method = "GET", .path = one_model, .handler = model},
    {.method = "POST", .path = "/v1/completions", .handler = completions, .needs_engine = true},
    {.method = "POST", .path = "/v1/chat/completions", .handler = chat, .needs_engine = true},
    {.method = "POST", .path = "/tokenize", .handler = tokenize},
    {.method = "POST", .path = "/detokenize", .handler = detokenize},
    {.method = "GET", .path = "/tokenizer_info", .handler = tokenizer_info},
};
const int pfq_n_api_routes = sizeof pfq_api_routes / sizeof *pfq_api_routes;
