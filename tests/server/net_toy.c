/* A server without a model, for the tests of runtime/net.h: usage: net_toy [NAME=VALUE ...]
 *
 * Names: `host`, `port`; the limits of PfqNetLimits; `token`; `name` (one more of Host); `loading`
 * (stays so); `base` (says that it has no chat template); `starve` (the allocation of that number
 * fails) and `hunger` (as many after it too).
 *
 * Routes: GET /hello; POST /echo (the body; on the I/O thread); GET /big?N (a whole reply of N
 * bytes); GET /burst?N (three events of N bytes, at once); POST /count?N (N events, a tick each,
 * from the engine's thread); POST /later?N (the same as a whole reply after N ticks); GET /flood
 * (events until the client is gone); POST /fail?N (an error after N events); POST /die (the engine
 * dies), /ready (it is no more loading). For the page: GET /v1/models; POST /v1/chat/completions
 * and /v1/completions (an answer of many tokens, a tick each; short or an error where the request
 * says SHORT or FAIL); GET /last (the body of the last such request).
 *
 * The last line of the output counts the replies that were cancelled.
 */
#include "runtime/net.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <pthread.h>

enum { MAX_JOBS = 4096, TICK_US = 1000, FLOOD = 16 << 10 };

typedef enum Kind { COUNT, LATER, FLOODS, FAIL, CHAT } Kind;

typedef struct Job {
    PfqReply *reply;
    int kind, n, at; /* kind: a Kind */
} Job;

static struct {
    PfqNet *net;
    pthread_mutex_t lock;
    Job job[MAX_JOBS];
    int n_jobs, cancelled;
    char *last; /* the I/O thread's */
    bool end, base;
} toy = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- memory, by the linker's --wrap ---- */

static atomic_long n_allocated, starve_from, starve_to;

static bool starved(void)
{
    const long n = ++n_allocated;
    return n >= starve_from && n < starve_to;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

void *__wrap_malloc(size_t n)
{
    return starved() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return starved() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return starved() ? NULL : __real_realloc(p, n);
}

/* ---- on the I/O thread ---- */

static void hello(void *user, PfqHttpRequest *q, PfqReply *r)
{
    (void)user;
    (void)q;
    pfq_reply_start(r, 200, "text/plain", false);
    pfq_reply_write(r, "hello", 5);
    pfq_reply_end(r);
}

static void echo(void *user, PfqHttpRequest *q, PfqReply *r)
{
    (void)user;
    pfq_reply_start(r, 200, "text/plain", false);
    pfq_reply_write(r, q->body ? q->body : "", q->body_n);
    pfq_reply_end(r);
}

static void big(void *user, PfqHttpRequest *q, PfqReply *r)
{
    static const char line[] = "0123456789abcde\n";
    (void)user;
    pfq_reply_start(r, 200, "text/plain", false);
    for (int i = 0; i < atoi(q->query) / 16; i++)
        if (!pfq_reply_write(r, line, 16)) break;
    pfq_reply_end(r);
}

static void burst(void *user, PfqHttpRequest *q, PfqReply *r)
{
    static char bytes[FLOOD];
    (void)user;
    pfq_reply_start(r, 200, "text/event-stream", true);
    for (int k = 0; k < 3; k++) {
        pfq_reply_printf(r, "data: ");
        for (int i = 0; i < atoi(q->query) / FLOOD; i++)
            pfq_reply_write(r, memset(bytes, 'x', sizeof bytes), sizeof bytes);
        pfq_reply_printf(r, "\n\n");
        pfq_reply_send(r);
    }
    pfq_reply_end(r);
}

static void keep(int n, PfqReply *r, int kind)
{
    pthread_mutex_lock(&toy.lock);
    const bool room = toy.n_jobs < MAX_JOBS;
    if (room) toy.job[toy.n_jobs++] = (Job){.reply = r, .kind = kind, .n = n};
    pthread_mutex_unlock(&toy.lock);
    if (!room) pfq_reply_error(r, 503, NULL, "too many requests");
}

static void count_to(void *user, PfqHttpRequest *q, PfqReply *r)
{
    (void)user;
    keep(atoi(q->query), r, COUNT);
}

static void later(void *user, PfqHttpRequest *q, PfqReply *r)
{
    (void)user;
    keep(atoi(q->query), r, LATER);
}

static void flood(void *user, PfqHttpRequest *q, PfqReply *r)
{
    (void)user;
    keep(atoi(q->query), r, FLOODS);
}

static void fail(void *user, PfqHttpRequest *q, PfqReply *r)
{
    (void)user;
    keep(atoi(q->query), r, FAIL);
}

static void die(void *user, PfqHttpRequest *q, PfqReply *r)
{
    (void)user;
    (void)q;
    pfq_net_health(toy.net, PFQ_DEAD, "it was \"asked\" to");
    pfq_reply_error(r, 500, NULL, "the engine is dead");
}

static void ready(void *user, PfqHttpRequest *q, PfqReply *r)
{
    (void)user;
    (void)q;
    pfq_net_health(toy.net, PFQ_READY, NULL);
    pfq_reply_start(r, 200, "application/json", false);
    pfq_reply_end(r);
}

static void models(void *user, PfqHttpRequest *q, PfqReply *r)
{
    (void)user;
    (void)q;
    pfq_reply_start(r, 200, "application/json", false);
    pfq_reply_printf(r, "{\"object\": \"list\", \"data\": [{\"id\": \"toy\", \"chat\": %s}]}",
                     toy.base ? "false" : "true");
    pfq_reply_end(r);
}

static void chat(void *user, PfqHttpRequest *q, PfqReply *r)
{
    (void)user;
    free(toy.last);
    toy.last = pfq_http_take_body(q);
    if (!toy.last || strstr(toy.last, "FAIL"))
        pfq_reply_error(r, 400, "messages", "the <i>message</i> says so");
    else
        keep(strstr(toy.last, "SHORT") ? 20 : 3000, r, CHAT);
}

static void last(void *user, PfqHttpRequest *q, PfqReply *r)
{
    (void)user;
    (void)q;
    pfq_reply_start(r, 200, "application/json", false);
    pfq_reply_write(r, toy.last ? toy.last : "null", strlen(toy.last ? toy.last : "null"));
    pfq_reply_end(r);
}

/* ---- the engine's thread ---- */

static void chat_event(Job *j)
{
    static const char begin[] = "Here is **bold** `code`, <b>no HTML</b>:\n```c\nint x;\n```\n";
    char word[16];
    snprintf(word, sizeof word, "w%d ", j->at);
    const char *text = j->at ? word : begin;
    pfq_reply_printf(j->reply, "data: {\"choices\": [{\"index\": 0, %s: ",
                     toy.base ? "\"text\"" : "\"delta\": {\"content\"");
    pfq_reply_json(j->reply, text, strlen(text));
    pfq_reply_printf(j->reply, "%s, \"finish_reason\": null}]}\n\n", toy.base ? "" : "}");
}

static void chat_end(Job *j)
{
    pfq_reply_printf(j->reply,
                     "data: {\"choices\": [{\"index\": 0, \"delta\": {}, \"finish_reason\": "
                     "\"length\"}]}\n\ndata: {\"choices\": [], \"usage\": "
                     "{\"completion_tokens\": %d}}\n\ndata: [DONE]\n\n",
                     j->n);
    pfq_reply_end(j->reply);
}

static void event(Job *j)
{
    static char bytes[FLOOD];
    if (j->at == 0) pfq_reply_start(j->reply, 200, "text/event-stream", true);
    if (j->kind == FLOODS)
        pfq_reply_write(j->reply, memset(bytes, 'x', sizeof bytes), sizeof bytes);
    else if (j->kind == CHAT)
        chat_event(j);
    else
        pfq_reply_printf(j->reply, "data: %d\n\n", j->at);
    pfq_reply_send(j->reply);
}

/* One step of a job; false: it has ended. */
static bool step(Job *j)
{
    if (pfq_reply_gone(j->reply)) {
        toy.cancelled++;
        pfq_reply_end(j->reply);
        return false;
    }
    if (j->at < j->n || j->kind == FLOODS) {
        if (j->kind != LATER) event(j);
        j->at++;
        return true;
    }
    if (j->kind == CHAT) {
        chat_end(j);
        return false;
    }
    if (j->kind == FAIL) {
        pfq_reply_error(j->reply, 500, "n", "it failed after %d", j->n);
        return false;
    }
    if (j->kind == LATER || j->n == 0) pfq_reply_start(j->reply, 200, "text/plain", false);
    pfq_reply_printf(j->reply, j->kind == LATER ? "%d" : "data: [DONE]\n\n", j->n);
    pfq_reply_end(j->reply);
    return false;
}

static void *engine(void *arg)
{
    bool end = false;
    (void)arg;
    while (!end) {
        usleep(TICK_US);
        pthread_mutex_lock(&toy.lock);
        for (int i = toy.n_jobs - 1; i >= 0; i--)
            if (!step(&toy.job[i])) toy.job[i] = toy.job[--toy.n_jobs];
        end = toy.end && toy.n_jobs == 0;
        pthread_mutex_unlock(&toy.lock);
    }
    return NULL;
}

/* ---- options ---- */

static const char *option(int argc, char **argv, const char *name)
{
    const size_t n = strlen(name);
    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], name, n) == 0 && argv[i][n] == '=') return argv[i] + n + 1;
    return NULL;
}

static double number(int argc, char **argv, const char *name)
{
    const char *v = option(argc, argv, name);
    return v ? atof(v) : 0;
}

int main(int argc, char **argv)
{
    static const PfqRoute routes[] = {
        {"GET", "/hello", hello, false, false},
        {"POST", "/echo", echo, false, false},
        {"GET", "/big", big, false, false},
        {"GET", "/burst", burst, false, false},
        {"POST", "/count", count_to, true, false},
        {"POST", "/later", later, true, false},
        {"GET", "/flood", flood, true, false},
        {"POST", "/fail", fail, true, false},
        {"POST", "/die", die, true, false},
        {"POST", "/ready", ready, false, false},
        {"GET", "/v1/models", models, false, false},
        {"POST", "/v1/chat/completions", chat, true, false},
        {"POST", "/v1/completions", chat, true, false},
        {"GET", "/last", last, false, false},
    };
    static PfqMetrics metrics;
    const char *names[] = {option(argc, argv, "name"), NULL};
    const char *host = option(argc, argv, "host");
    const PfqNetConfig config = {.host = host ? host : "127.0.0.1",
                                 .port = (int)number(argc, argv, "port"),
                                 .token = option(argc, argv, "token"),
                                 .names = names,
                                 .routes = routes,
                                 .n = sizeof routes / sizeof *routes,
                                 .metrics = &metrics,
                                 .limits = {.head = number(argc, argv, "head"),
                                            .body = number(argc, argv, "body"),
                                            .idle = number(argc, argv, "idle"),
                                            .send = number(argc, argv, "send"),
                                            .speed = number(argc, argv, "speed"),
                                            .drain = number(argc, argv, "drain"),
                                            .bodies = (size_t)number(argc, argv, "bodies"),
                                            .connections = (int)number(argc, argv, "connections")}};
    PfqErr err;
    pthread_t thread;
    toy.base = option(argc, argv, "base");
    toy.net = pfq_net_open(&config, &err);
    if (!toy.net || pthread_create(&thread, NULL, engine, NULL) != 0) {
        fprintf(stderr, "net_toy: %s\n", toy.net ? "no thread" : err.text);
        return 1;
    }
    if (!option(argc, argv, "loading")) pfq_net_health(toy.net, PFQ_READY, NULL);
    printf("listening on %s\n", pfq_net_url(toy.net));
    fflush(stdout);
    const long starve = (long)number(argc, argv, "starve");
    starve_from = n_allocated + starve;
    starve_to = starve ? starve_from + 1 + (long)number(argc, argv, "hunger") : 0;
    const bool ok = pfq_net_run(toy.net, &err);
    pthread_mutex_lock(&toy.lock);
    toy.end = true;
    pthread_mutex_unlock(&toy.lock);
    pthread_join(thread, NULL);
    pfq_net_close(toy.net);
    free(toy.last);
    printf("cancelled %d\n", toy.cancelled);
    return ok ? 0 : 1;
}
