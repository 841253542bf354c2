/* An answer as JSON, in OpenAI's forms: whole, or as events. Contract: serve.h. */
#include "runtime/serve.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void text(PfqReply *r, const char *s)
{
    pfq_reply_write(r, s, strlen(s));
}

/* ---- tokens ---- */

static bool is_utf8(const char *s, size_t n)
{
    PfqUtf8 u = {0};
    size_t whole = 0;
    for (size_t i = 0; i < n; i++) {
        char out[8];
        const int k = pfq_utf8_feed(&u, (unsigned char)s[i], out);
        whole += (size_t)k;
        if (k && memcmp(out, s + whole - (size_t)k, (size_t)k) != 0) {
            return false;
        }
    }
    return u.n == 0 && whole == n;
}

void pfq_answer_token(PfqReply *r, const PfqTokenizer *t, int32_t id)
{
    char buf[64];
    size_t n;
    const char *p = pfq_tok_piece(t, id, true, buf, &n);
    if (is_utf8(p, n)) {
        pfq_reply_json(r, p, n);
        return;
    }
    text(r, "\"bytes:");
    for (size_t i = 0; i < n; i++) {
        pfq_reply_printf(r, "\\\\x%02x", (unsigned)(unsigned char)p[i]);
    }
    text(r, "\"");
}

/* JSON has no infinity. */
static void logprob(PfqReply *r, float v)
{
    pfq_reply_printf(r, "%.9g", isfinite(v) ? (double)v : -9999.0);
}

/* The likeliest tokens at a place, and the one that is there. */
static int32_t n_top(const PfqChoice *c, size_t i)
{
    return c->prob[i].none ? 0 : c->answer->top;
}

static PfqCandidate top_of(const PfqChoice *c, size_t i, int32_t k)
{
    const PfqCandidate own = {c->prob[i].logprob, c->prob[i].id};
    return k < c->answer->top ? c->top[i * (size_t)c->answer->top + (size_t)k] : own;
}

/* Is the token that is there none of the likeliest? */
static bool is_extra(const PfqChoice *c, size_t i)
{
    for (int32_t k = 0; k < n_top(c, i); k++) {
        if (top_of(c, i, k).id == c->prob[i].id) {
            return false;
        }
    }
    return !c->prob[i].none;
}

/* ---- log-probabilities of completions ---- */

typedef void PrintProb(PfqReply *r, const PfqChoice *c, size_t i);

static void print_token(PfqReply *r, const PfqChoice *c, size_t i)
{
    pfq_answer_token(r, &c->answer->server->cli->tok, c->prob[i].id);
}

static void print_logprob(PfqReply *r, const PfqChoice *c, size_t i)
{
    if (c->prob[i].none) {
        text(r, "null");
    } else {
        logprob(r, c->prob[i].logprob);
    }
}

static void print_top(PfqReply *r, const PfqChoice *c, size_t i)
{
    if (c->prob[i].none) {
        text(r, "null");
        return;
    }
    const int32_t n = n_top(c, i) + is_extra(c, i);
    text(r, "{");
    for (int32_t k = 0; k < n; k++) {
        const PfqCandidate t = top_of(c, i, k);
        text(r, k ? ", " : "");
        pfq_answer_token(r, &c->answer->server->cli->tok, t.id);
        text(r, ": ");
        logprob(r, t.logit);
    }
    text(r, "}");
}

static void print_offset(PfqReply *r, const PfqChoice *c, size_t i)
{
    pfq_reply_printf(r, "%lld", (long long)c->prob[i].at);
}

static void list(PfqReply *r, const PfqChoice *c, const char *name, PrintProb *print)
{
    pfq_reply_printf(r, "\"%s\": [", name);
    for (size_t i = c->sent; i < c->n_probs && !pfq_reply_gone(r); i++) {
        text(r, i > c->sent ? ", " : "");
        print(r, c, i);
    }
    text(r, "]");
}

static void completion_probs(PfqReply *r, const PfqChoice *c)
{
    text(r, "{");
    list(r, c, "tokens", print_token);
    text(r, ", ");
    list(r, c, "token_logprobs", print_logprob);
    text(r, ", ");
    list(r, c, "top_logprobs", print_top);
    text(r, ", ");
    list(r, c, "text_offset", print_offset);
    text(r, "}");
}

/* ---- of chats ---- */

static void chat_token(PfqReply *r, const PfqTokenizer *t, PfqCandidate p)
{
    char buf[64];
    size_t n;
    const char *bytes = pfq_tok_piece(t, p.id, true, buf, &n);
    text(r, "{\"token\": ");
    pfq_answer_token(r, t, p.id);
    text(r, ", \"logprob\": ");
    logprob(r, p.logit);
    text(r, ", \"bytes\": [");
    for (size_t i = 0; i < n; i++) {
        pfq_reply_printf(r, "%s%u", i ? ", " : "", (unsigned)(unsigned char)bytes[i]);
    }
    text(r, "]");
}

static void print_chat_prob(PfqReply *r, const PfqChoice *c, size_t i)
{
    const PfqTokenizer *t = &c->answer->server->cli->tok;
    chat_token(r, t, (PfqCandidate){c->prob[i].logprob, c->prob[i].id});
    text(r, ", \"top_logprobs\": [");
    for (int32_t k = 0; k < n_top(c, i); k++) {
        text(r, k ? ", " : "");
        chat_token(r, t, top_of(c, i, k));
        text(r, "}");
    }
    text(r, "]}");
}

static void probs(PfqReply *r, PfqChoice *c)
{
    const PfqAnswer *a = c->answer;
    text(r, ", \"logprobs\": ");
    if (!a->logprobs) {
        text(r, "null");
    } else if (a->chat) {
        text(r, "{");
        list(r, c, "content", print_chat_prob);
        text(r, ", \"refusal\": null}");
    } else {
        completion_probs(r, c);
    }
    c->sent = c->n_probs;
}

/* ---- the answer ---- */

static void head(const PfqAnswer *a, const char *object)
{
    PfqReply *r = a->reply;
    pfq_reply_printf(r,
                     "{\"id\": \"%s\", \"object\": \"%s\", \"created\": %lld, \"model\": ", a->id,
                     object, (long long)a->created);
    pfq_reply_json(r, a->server->cli->model->name, strlen(a->server->cli->model->name));
    text(r, ", \"choices\": [");
}

static void tail_of(PfqReply *r, const PfqChoice *c, bool last)
{
    if (last) {
        pfq_reply_printf(r, ", \"finish_reason\": \"%s\"}", c->finish ? c->finish : "length");
    } else {
        text(r, ", \"finish_reason\": null}");
    }
}

static void usage(const PfqAnswer *a)
{
    int64_t prompt = 0, cached = 0, made = 0;
    for (int i = 0; i < a->n_prompts; i++) {
        prompt += a->prompt[i].n;
    }
    for (int i = 0; i < a->n_choices; i++) {
        made += a->choice[i].n_new;
        cached += a->choice[i].seq.cached;
    }
    pfq_reply_printf(
        a->reply,
        "\"usage\": {\"prompt_tokens\": %lld, \"completion_tokens\": %lld, "
        "\"total_tokens\": %lld, \"prompt_tokens_details\": {\"cached_tokens\": %lld}}",
        (long long)prompt, (long long)made, (long long)(prompt + made), (long long)cached);
}

/* The text of a completion from a byte on; `echo`: behind the prompt's. */
static void completion_text(PfqReply *r, const PfqChoice *c, size_t from, bool echo)
{
    const PfqStream *s = &c->stream;
    const PfqPrompt *p = c->prompt;
    pfq_reply_json_pair(r, echo ? p->text : "", echo ? p->text_n : 0, s->text ? s->text + from : "",
                        s->to - from);
}

void pfq_answer_whole(PfqAnswer *a)
{
    PfqReply *r = a->reply;
    pfq_reply_start(r, 200, "application/json", false);
    head(a, a->chat ? "chat.completion" : "text_completion");
    for (int i = 0; i < a->n_choices; i++) {
        PfqChoice *c = &a->choice[i];
        pfq_reply_printf(r, "%s{\"index\": %d, ", i ? ", " : "", c->index);
        text(r, a->chat ? "\"message\": {\"role\": \"assistant\", \"content\": " : "\"text\": ");
        completion_text(r, c, 0, a->echo);
        text(r, a->chat ? ", \"refusal\": null}" : "");
        probs(r, c);
        tail_of(r, c, true);
    }
    text(r, "], ");
    usage(a);
    text(r, "}\n");
    pfq_reply_end(r);
}

static void begin_event(PfqAnswer *a)
{
    if (!a->head) {
        pfq_reply_start(a->reply, 200, "text/event-stream", true);
        a->head = true;
    }
    text(a->reply, "data: ");
    head(a, a->chat ? "chat.completion.chunk" : "text_completion");
}

static void end_event(PfqAnswer *a)
{
    text(a->reply, a->usage ? "], \"usage\": null}\n\n" : "]}\n\n");
}

/* Says who speaks. */
static void role_event(PfqChoice *c)
{
    PfqAnswer *a = c->answer;
    begin_event(a);
    pfq_reply_printf(a->reply,
                     "{\"index\": %d, \"delta\": {\"role\": \"assistant\", \"content\": \"\"}, "
                     "\"logprobs\": null, \"finish_reason\": null}",
                     c->index);
    end_event(a);
}

void pfq_answer_event(PfqChoice *c, bool last)
{
    PfqAnswer *a = c->answer;
    PfqReply *r = a->reply;
    const size_t from = c->sent_text;
    const bool first = !c->begun;
    if (a->chat && first) {
        role_event(c);
    }
    c->begun = true;
    begin_event(a);
    pfq_reply_printf(r, "{\"index\": %d, ", c->index);
    if (!a->chat) {
        text(r, "\"text\": ");
        completion_text(r, c, from, a->echo && first);
    } else if (c->stream.to > from) {
        text(r, "\"delta\": {\"content\": ");
        completion_text(r, c, from, false);
        text(r, "}");
    } else {
        text(r, "\"delta\": {}");
    }
    c->sent_text = c->stream.to;
    probs(r, c);
    tail_of(r, c, last);
    end_event(a);
    pfq_reply_send(r);
}

void pfq_answer_events_end(PfqAnswer *a)
{
    if (a->usage) {
        begin_event(a);
        text(a->reply, "], ");
        usage(a);
        text(a->reply, "}\n\n");
    }
    text(a->reply, "data: [DONE]\n\n");
    pfq_reply_end(a->reply);
}
