/* An answer while it is computed: what its sequences ask for, on the engine thread. Contract:
 * serve.h, batch.h. */
#include "runtime/serve.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static PfqChoice *choice_of(PfqSeq *s)
{
    return (PfqChoice *)(void *)s; /* its first member */
}

/* ---- log-probabilities ---- */

static int64_t characters(const char *s, size_t n)
{
    int64_t count = 0;
    for (size_t i = 0; i < n; i++) {
        count += ((unsigned char)s[i] & 0xc0) != 0x80;
    }
    return count;
}

/* Room for n more. */
static bool grow_probs(PfqChoice *c, size_t n)
{
    if (n <= c->cap_probs - c->n_probs) {
        return true;
    }
    const size_t cap = c->cap_probs * 2 + n + 16, top = (size_t)c->answer->top;
    PfqProb *prob = realloc(c->prob, cap * sizeof *prob);
    c->prob = prob ? prob : c->prob;
    PfqCandidate *tops = prob ? realloc(c->top, (cap * top + 1) * sizeof *tops) : NULL;
    c->top = tops ? tops : c->top;
    c->cap_probs = tops ? cap : c->cap_probs;
    return tops != NULL;
}

/* What of entry i is computed from the logits in front of its token. */
static void compute_prob(PfqChoice *c, size_t i, const float *logits)
{
    const int32_t vocab = c->answer->server->cli->model->vocab, k = c->answer->top;
    PfqCandidate *top = c->top + i * (size_t)k;
    const double z = pfq_log_sum_exp(logits, vocab);
    c->prob[i].logprob = (float)((double)logits[c->prob[i].id] - z);
    pfq_top(logits, vocab, k, top);
    for (int32_t j = 0; j < k; j++) {
        top[j].logit = (float)((double)top[j].logit - z);
    }
}

/* ---- what the batch calls ---- */

static bool gone(PfqSeq *seq)
{
    const PfqAnswer *a = choice_of(seq)->answer;
    return a->failed || pfq_reply_gone(a->reply);
}

static void fail(PfqAnswer *a, const char *why)
{
    if (!a->failed) {
        a->failed = true;
        pfq_fail(&a->fault, "%s", why);
    }
}

/* Characters of a token of the prompt. */
static int64_t piece_characters(const PfqTokenizer *t, int32_t id)
{
    char buf[64];
    size_t n;
    const char *p = pfq_tok_piece(t, id, false, buf, &n);
    return characters(p, n);
}

typedef struct Rows {
    PfqChoice *c;
    size_t from; /* the entry of row 0 */
    int32_t n;
    const float *logits;
} Rows;

static void rows_job(void *arg, int tid, int nt)
{
    const Rows *r = arg;
    const size_t vocab = (size_t)r->c->answer->server->cli->model->vocab;
    for (int32_t i = tid; i < r->n; i += nt) {
        compute_prob(r->c, r->from + (size_t)i, r->logits + (size_t)i * vocab);
    }
}

/* Entries for n tokens of the prompt, from `at` on. */
static void add_prompt(PfqChoice *c, int32_t at, int32_t n, bool none)
{
    for (int32_t i = at; i < at + n; i++) {
        const int32_t id = c->prompt->ids[i];
        c->prob[c->n_probs++] = (PfqProb){.id = id, .none = none, .at = c->chars};
        c->chars += piece_characters(&c->answer->server->cli->tok, id);
    }
}

/* Row i of the logits is of token i of seq.ids, which begin `skip` tokens into the prompt, and
 * predicts the next. The first token has no log-probability, and those that the lead saw have
 * theirs already. */
static void rows(PfqSeq *seq, int32_t first, int32_t n, const float *logits)
{
    PfqChoice *c = choice_of(seq);
    const int32_t at = first + (c->lead ? 0 : c->prompt->skip), left = c->prompt->n - at - 1;
    if (!grow_probs(c, (size_t)n + 1)) {
        fail(c->answer, "out of memory for log-probabilities");
        return;
    }
    if (at == 0) {
        add_prompt(c, 0, 1, true);
    }
    Rows r = {.c = c, .from = c->n_probs, .n = n < left ? n : left, .logits = logits};
    add_prompt(c, at + 1, r.n, false);
    pfq_engine_job(&c->answer->server->cli->engine, r.n, rows_job, &r);
}

static const float *with_bias(const PfqAnswer *a, const float *logits, int tid)
{
    const size_t vocab = (size_t)a->server->cli->model->vocab;
    float *biased = a->server->biased + (size_t)tid * vocab;
    if (a->n_bias == 0) {
        return logits;
    }
    memcpy(biased, logits, vocab * sizeof *logits);
    for (int i = 0; i < a->n_bias; i++) {
        biased[a->bias[i].id] += a->bias[i].add;
    }
    return biased;
}

/* Is a token wanted behind what the engine computes now? */
static bool draws(const PfqChoice *c)
{
    return !c->lead && c->answer->max_tokens > 0;
}

/* Of its choice alone: other threads look at choices of the same answer. */
static int32_t look(PfqSeq *seq, const float *logits, int tid)
{
    PfqChoice *c = choice_of(seq);
    const PfqAnswer *a = c->answer;
    if (!draws(c)) {
        return -1;
    }
    c->sampler.cand = a->server->cand + 2 * (size_t)tid * (size_t)c->sampler.vocab;
    const int32_t id = pfq_sample(&c->sampler, with_bias(a, logits, tid));
    if (a->logprobs && id >= 0) {
        c->starved = !grow_probs(c, 1);
        if (!c->starved) {
            c->prob[c->n_probs] = (PfqProb){.id = id, .at = c->chars};
            compute_prob(c, c->n_probs++, logits);
        }
    }
    return id;
}

/* Bytes of a token as the answer has them: in a chat without the space that the tokenizer puts in
 * front of a text. */
static const char *piece_of(PfqChoice *c, int32_t id, char *buf, size_t *n)
{
    const PfqTokenizer *t = &c->answer->server->cli->tok;
    const bool first = c->answer->chat && !c->spoke;
    const char *p =
        first ? pfq_tok_first_piece(t, id, buf, n) : pfq_tok_piece(t, id, false, buf, n);
    c->spoke = c->spoke || *n > 0;
    return p;
}

/* Adds a token to the text. */
static bool put_token(PfqChoice *c, int32_t id)
{
    char buf[64];
    size_t n;
    const char *p = piece_of(c, id, buf, &n);
    if (!pfq_stream_add(&c->stream, p, n)) {
        return false;
    }
    const size_t end = c->stream.n > c->chars_to ? c->stream.n : c->chars_to;
    c->chars += characters(c->stream.text + c->chars_to, end - c->chars_to);
    c->chars_to = end;
    return true;
}

static void count_token(PfqChoice *c)
{
    PfqMetrics *m = &c->answer->server->metrics;
    const double now = pfq_now();
    const bool first = c->n_new++ == 0;
    pfq_metric_add(m, PFQ_METRIC_NEW_TOKENS, 1);
    pfq_metric_time(m, first ? PFQ_METRIC_FIRST_TOKEN : PFQ_METRIC_NEXT_TOKEN,
                    now - (first ? c->answer->arrived : c->last));
    c->last = now;
}

/* The next token and its text; -1 where the answer ends. */
static int32_t take_token(PfqChoice *c, int32_t id, bool more)
{
    PfqAnswer *a = c->answer;
    if (id < 0) {
        fail(a, "the model's logits are not finite");
        return -1;
    }
    count_token(c);
    const bool eog = pfq_tok_is_eog(&a->server->cli->tok, id);
    if (c->starved || (!eog && !put_token(c, id))) {
        fail(a, "out of memory for the answer");
        return -1;
    }
    c->finish = eog || c->stream.stopped             ? "stop"
                : c->n_new == a->max_tokens || !more ? "length"
                                                     : NULL;
    if (a->streams && !c->finish && c->stream.to > c->sent_text) {
        pfq_answer_event(c, false);
    }
    return c->finish ? -1 : id;
}

/* A GPU draws unless logits are wanted for something else, too. */
static PfqSampler *sampler(PfqSeq *seq)
{
    PfqChoice *c = choice_of(seq);
    return c->answer->logprobs || c->answer->n_bias ? NULL : &c->sampler;
}

static int32_t next(PfqSeq *seq, int32_t drawn, bool more)
{
    PfqChoice *c = choice_of(seq);
    if (draws(c)) {
        return take_token(c, drawn, more);
    }
    c->finish = "length";
    return -1;
}

static void get_in_line(PfqAnswer *a)
{
    a->inside++;
    pfq_batch_add(&a->server->batch, &a->choice[a->begun].seq);
}

/* After the lead, the prompt. */
static void follow(PfqChoice *c)
{
    c->lead = false;
    c->seq.ids = c->prompt->ids + c->prompt->skip;
    c->seq.n = c->prompt->n - c->prompt->skip;
    pfq_batch_add(&c->answer->server->batch, &c->seq);
}

/* It has a slot: the next sequence of its request may get in line, behind those of others. */
static void begin(PfqSeq *seq)
{
    PfqChoice *c = choice_of(seq);
    PfqAnswer *a = c->answer;
    PfqServer *s = a->server;
    if (c->lead) {
        return;
    }
    pfq_metric_add(&s->metrics, PFQ_METRIC_PROMPT_TOKENS, seq->n);
    pfq_metric_add(&s->metrics, PFQ_METRIC_CACHED_TOKENS, seq->cached);
    if (a->begun++ == 0) {
        pfq_serve_begun(s);
    }
    if (a->begun < a->n_choices) {
        get_in_line(a);
    }
}

static void end_choice(PfqChoice *c)
{
    if (!pfq_stream_end(&c->stream)) {
        fail(c->answer, "out of memory for the answer");
    } else if (c->answer->streams) {
        pfq_answer_event(c, true);
    }
}

static void finish(PfqAnswer *a)
{
    if (a->failed) {
        pfq_reply_error(a->reply, 503, NULL, "%s", a->fault.text);
    } else if (pfq_reply_gone(a->reply)) {
        pfq_reply_end(a->reply);
    } else if (a->streams) {
        pfq_answer_events_end(a);
    } else {
        pfq_answer_whole(a);
    }
    pfq_answer_free(a);
}

/* The last of a request's sequences that are in the batch ends the request: each that began has let
 * the next one in, and one that never began was given up with all behind it. */
static void done(PfqSeq *seq, PfqSeqEnd end, const char *why)
{
    PfqChoice *c = choice_of(seq);
    PfqAnswer *a = c->answer;
    if (end == PFQ_SEQ_OVER && c->lead && !a->failed) {
        follow(c);
        return;
    }
    if (end == PFQ_SEQ_FAILED) {
        fail(a, why);
    } else if (end == PFQ_SEQ_OVER && !a->failed) {
        end_choice(c);
    }
    if (a->begun == 0) {
        pfq_serve_begun(a->server);
    }
    if (--a->inside == 0) {
        finish(a);
    }
}

static const PfqSeqCalls calls = {.begin = begin,
                                  .gone = gone,
                                  .rows = rows,
                                  .sampler = sampler,
                                  .look = look,
                                  .next = next,
                                  .done = done};

/* ---- the whole answer ---- */

void pfq_answer_begin(PfqAnswer *a)
{
    get_in_line(a);
}

bool pfq_answer_choices(PfqAnswer *a, int n, const PfqSampler *sampler)
{
    a->choice = calloc((size_t)(a->n_prompts * n), sizeof *a->choice);
    a->n_choices = a->choice ? a->n_prompts * n : 0;
    for (int i = 0; i < a->n_choices; i++) {
        PfqChoice *c = &a->choice[i];
        const PfqPrompt *p = &a->prompt[i / n];
        *c = (PfqChoice){.answer = a, .prompt = p, .index = i, .sampler = *sampler};
        c->sampler.state += (uint64_t)(i % n);
        c->lead = a->echo && a->logprobs && p->skip;
        c->seq = (PfqSeq){.calls = &calls,
                          .ids = p->ids + (c->lead ? 0 : p->skip),
                          .n = c->lead ? p->skip : p->n - p->skip,
                          .all_rows = a->echo && a->logprobs};
        pfq_stream_start(&c->stream, a->stop, a->n_stop);
        c->chars = a->echo && !a->logprobs ? characters(p->text, p->text_n) : 0;
    }
    return a->choice != NULL;
}

void pfq_answer_free(PfqAnswer *a)
{
    for (int i = 0; i < a->n_choices; i++) {
        pfq_stream_free(&a->choice[i].stream);
        free(a->choice[i].prob);
        free(a->choice[i].top);
    }
    for (int i = 0; i < a->n_prompts; i++) {
        free(a->prompt[i].ids);
        free(a->prompt[i].text);
    }
    free(a->choice);
    free(a->prompt);
    free(a->bias);
    free(a);
}
