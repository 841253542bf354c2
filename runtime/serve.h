/* The server's parts, private to serve.c, api.c, answer.c and answer_json.c.
 *
 * Four threads. The I/O thread (net.h) calls the handlers of api.c; those of requests with bodies
 * put them on a desk (desk.c). The desks' threads read them, make their tokens and put a PfqAnswer
 * in the queue. The engine thread (serve.c) takes it, and its sequences (batch.h) call answer.c,
 * which writes to the reply. They meet on the desks, in the queue, under their locks, and in
 * replies; the tokenizer, the template and the numbers below do not change once the threads run.
 */
#ifndef PFQC_RUNTIME_SERVE_H
#define PFQC_RUNTIME_SERVE_H

#include <pthread.h>
#include <stdatomic.h>

#include "runtime/batch.h"
#include "runtime/cli.h"
#include "runtime/fields.h"
#include "runtime/net.h"
#include "runtime/sample.h"
#include "runtime/stream.h"
#include "runtime/template.h"

enum {
    PFQ_SERVE_QUEUE = 64,   /* requests that wait for their first slot; more are 503 */
    PFQ_SERVE_PROMPTS = 32, /* of one request */
    PFQ_SERVE_BIASES = 1024,
    PFQ_SERVE_NODES = 1 << 20, /* JSON values of a body */
    PFQ_DESK_SMALL = 64 << 10, /* bytes of a body that is read before larger ones */
    PFQ_DESK_BYTES = 128 << 20 /* bytes of bodies that wait on a desk; more are 503 */
};

typedef struct PfqAnswer PfqAnswer;

/* A request as it came. */
typedef struct PfqAsk {
    struct PfqAsk *next;
    PfqReply *reply;
    char *body; /* [n] and a NUL, malloc'ed; NULL: there is none */
    size_t n;
    PfqApiRoute route;
    double arrived;
} PfqAsk;

/* A thread that reads requests, one after the other. Text of some megabytes takes seconds to become
 * tokens; neither the I/O thread nor smaller requests wait for it. */
typedef struct PfqDesk {
    struct PfqServer *server;
    pthread_t thread;
    pthread_mutex_t lock; /* of the rest, but `open` and `large` */
    pthread_cond_t news;
    PfqAsk *first, **last;
    size_t bytes; /* of bodies that wait */
    _Atomic bool stop;
    bool open, large;
} PfqDesk;

typedef struct PfqServer {
    PfqCli *cli;
    PfqNet *net;
    PfqMetrics metrics;
    PfqTemplate tpl;                     /* of chat, if the model has one */
    int32_t ctx, pages;                  /* pages: of kept prompts */
    const char *names[PFQ_LIST_MAX + 1]; /* --allow-host, ended by NULL */
    int64_t started;                     /* seconds since 1970 */
    PfqDesk desk[2];                     /* for small requests, and for large ones */
    /* between the threads */
    pthread_mutex_t lock;
    pthread_cond_t news;
    PfqAnswer *first, **last;
    bool stop;
    atomic_int waiting; /* requests without a slot */
    /* the engine thread's */
    PfqBatch batch;
    PfqCandidate *cand; /* [threads][2 * vocab] what samplers work in; threads that look: batch.h */
    float *biased;      /* [threads][vocab] logits with a bias */
    PfqErr err;
    bool failed;
} PfqServer;

typedef struct PfqBias {
    int32_t id;
    float add;
} PfqBias;

typedef struct PfqPrompt {
    int32_t *ids;    /* [n] malloc'ed */
    int32_t n, skip; /* skip: of them, those that the model's prefix already is (engine.h) */
    char *text;      /* with echo: the prompt's text, malloc'ed */
    size_t text_n;
} PfqPrompt;

/* A token of a choice and its log-probability. */
typedef struct PfqProb {
    int32_t id;
    float logprob;
    bool none;  /* it has no log-probability: nothing stands before it */
    int64_t at; /* characters of the text in front of it */
} PfqProb;

typedef struct PfqChoice {
    PfqSeq seq;
    PfqAnswer *answer;
    const PfqPrompt *prompt;
    int32_t index;
    PfqSampler sampler; /* cand is the server's, of the thread that draws */
    PfqStream stream;
    int64_t n_new;
    const char *finish; /* "stop", "length"; NULL: goes on */
    bool lead;  /* with log-probabilities of a prompt whose BOS is the model's prefix: BOS alone is
                   computed first, for the token behind it */
    bool spoke; /* something that is printed was generated */
    bool starved;  /* there was no memory for a log-probability */
    double last;   /* when the last token came */
    int64_t chars; /* characters of the text, up to chars_to bytes of stream.text */
    size_t chars_to;
    bool begun;       /* its first event was sent */
    size_t sent_text; /* bytes of stream.text that were sent */
    /* with logprobs: n_probs tokens, sent of them sent */
    PfqProb *prob;
    PfqCandidate *top; /* [n_probs][answer.top] ids and log-probabilities */
    size_t n_probs, cap_probs, sent;
} PfqChoice;

/* A request for text, on its way. Made by a desk's thread, then the engine thread's. */
struct PfqAnswer {
    PfqServer *server;
    PfqReply *reply;
    PfqAnswer *next; /* in the queue */
    char id[40];
    int64_t created;
    double arrived;
    bool chat, streams, echo, usage, logprobs;
    int32_t top; /* of the likeliest tokens, with logprobs */
    int64_t max_tokens;
    /* Copies: the body goes as soon as it is read. */
    char stop_text[PFQ_MAX_STOPS][PFQ_MAX_STOP + 1];
    const char *stop[PFQ_MAX_STOPS];
    int n_stop;
    PfqBias *bias; /* [n_bias] */
    int n_bias;
    PfqPrompt *prompt; /* [n_prompts] */
    int n_prompts;
    PfqChoice *choice; /* [n_choices], n to a prompt */
    int n_choices;
    int begun, inside; /* choices that had a slot; that are in the batch */
    bool head;         /* the reply was started */
    PfqErr fault;      /* of the first sequence that failed */
    bool failed;
};

/* ---- serve.c ---- */

/* Gives an answer to the engine thread; false if the queue is full. */
bool pfq_serve_queue(PfqServer *s, PfqAnswer *a);
void pfq_serve_begun(PfqServer *s); /* one of them waits no more */

/* ---- desk.c ---- */

bool pfq_desks_open(PfqServer *s, PfqErr *err);
void pfq_desks_close(PfqServer *s); /* what waits is 503; also after a failed open */
/* False: too much waits, and the request is still the caller's. */
bool pfq_desk_put(PfqServer *s, PfqAsk *a);

/* ---- api.c ---- */

/* Answers a request, or puts it in the queue; its body is not needed any more. On a desk's thread.
 */
void pfq_api_read(PfqServer *s, PfqAsk *a);
extern const PfqRoute pfq_api_routes[];
extern const int pfq_n_api_routes;

/* ---- answer.c ---- */

/* A row of choices whose prompts are there, ready for pfq_answer_begin; false: out of memory. */
bool pfq_answer_choices(PfqAnswer *a, int n, const PfqSampler *sampler);
void pfq_answer_begin(PfqAnswer *a); /* on the engine thread: its sequences get in line */
void pfq_answer_free(PfqAnswer *a);  /* not the reply */

/* ---- answer_json.c ---- */

/* What is new of a choice, as an event; `last`: also its end. */
void pfq_answer_event(PfqChoice *c, bool last);
void pfq_answer_events_end(PfqAnswer *a);
void pfq_answer_whole(PfqAnswer *a);
/* A token as JSON text says it: bytes that are no whole characters as "bytes:\xe2\x80". */
void pfq_answer_token(PfqReply *r, const PfqTokenizer *t, int32_t id);

#endif
