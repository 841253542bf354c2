/* `serve`: the model behind HTTP. Start-up, the queue and the engine's thread; contract: serve.h.
 */
#include "runtime/serve.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    SERVE_ROOM = 8192, /* tokens of context when -c does not say */
    SERVE_SLOTS = 8    /* sequences when --slots does not say */
};

/* ---- the queue ---- */

bool pfq_serve_queue(PfqServer *s, PfqAnswer *a)
{
    if (atomic_fetch_add(&s->waiting, 1) >= PFQ_SERVE_QUEUE) {
        atomic_fetch_sub(&s->waiting, 1);
        return false;
    }
    pfq_metric_add(&s->metrics, PFQ_METRIC_REQUESTS, 1);
    pfq_metric_add(&s->metrics, PFQ_METRIC_QUEUED, 1);
    a->next = NULL;
    pthread_mutex_lock(&s->lock);
    *s->last = a;
    s->last = &a->next;
    pthread_cond_signal(&s->news);
    pthread_mutex_unlock(&s->lock);
    return true;
}

void pfq_serve_begun(PfqServer *s)
{
    atomic_fetch_sub(&s->waiting, 1);
    pfq_metric_add(&s->metrics, PFQ_METRIC_QUEUED, -1);
}

/* What came since, once there is something to do; false when the server ends. */
static bool take_answers(PfqServer *s, PfqAnswer **list)
{
    const bool idle = s->batch.running == 0 && s->batch.waiting == 0;
    pthread_mutex_lock(&s->lock);
    while (idle && !s->first && !s->stop) {
        pthread_cond_wait(&s->news, &s->lock);
    }
    *list = s->first;
    s->first = NULL;
    s->last = &s->first;
    const bool stop = s->stop;
    pthread_mutex_unlock(&s->lock);
    return !stop;
}

/* ---- the engine's thread ---- */

static void begin_all(PfqAnswer *list)
{
    while (list) {
        PfqAnswer *a = list;
        list = a->next;
        pfq_answer_begin(a);
    }
}

/* What the batch counts, as metrics; `old`: as they were before the step. */
static void count_step(PfqServer *s, double start, const PfqBatch *old)
{
    const PfqBatch *b = &s->batch;
    const struct {
        PfqMetric metric;
        int64_t n;
    } news[] = {
        {PFQ_METRIC_STEPS, b->decoded - old->decoded},
        {PFQ_METRIC_RUNNING, b->running - old->running},
        {PFQ_METRIC_KEPT_HITS, b->hits - old->hits},
        {PFQ_METRIC_KEPT_TOKENS, b->from_kept - old->from_kept},
        {PFQ_METRIC_KEPT_PAGES, b->kept.used - old->kept.used},
        {PFQ_METRIC_KEPT_DROPPED, b->kept.dropped - old->kept.dropped},
    };
    pfq_metric_time(&s->metrics, PFQ_METRIC_BUSY, pfq_now() - start);
    for (size_t i = 0; i < sizeof news / sizeof *news; i++) {
        pfq_metric_add(&s->metrics, news[i].metric, news[i].n);
    }
}

static bool work(PfqServer *s)
{
    PfqAnswer *list;
    while (take_answers(s, &list)) {
        const double start = pfq_now();
        const PfqBatch old = s->batch;
        pfq_net_pulse(s->net, true);
        begin_all(list);
        const bool ok = pfq_batch_step(&s->batch, &s->err);
        pfq_net_pulse(s->net, false);
        count_step(s, start, &old);
        if (!ok) {
            return false;
        }
    }
    begin_all(list);
    pfq_batch_stop(&s->batch, PFQ_SEQ_FAILED, "the server ends");
    return true;
}

/* Once the engine is lost, every request says so until the server ends. */
static void refuse_all(PfqServer *s)
{
    PfqAnswer *list;
    pfq_net_health(s->net, PFQ_DEAD, s->err.text);
    pfq_note("%s: error: %s\n", s->cli->program, s->err.text);
    for (bool more = true; more;) {
        more = take_answers(s, &list);
        begin_all(list);
        pfq_batch_stop(&s->batch, PFQ_SEQ_FAILED, s->err.text);
    }
}

static bool open_engine(PfqServer *s)
{
    PfqCli *c = s->cli;
    if (!pfq_cli_load(c, s->ctx, true)) {
        s->err = c->err;
        return false;
    }
    const int32_t slots = c->engine.slots;
    const size_t most = (size_t)(c->engine.threads < slots ? c->engine.threads : slots),
                 vocab = (size_t)c->model->vocab;
    s->cand = calloc(most, 2 * vocab * sizeof *s->cand);
    s->biased = calloc(most, vocab * sizeof *s->biased);
    if (!s->cand || !s->biased) {
        return pfq_fail(&s->err, "out of memory for the samplers");
    }
    return pfq_batch_open(&s->batch, &c->engine, pfq_cli_deterministic(c), s->pages, &s->err);
}

static void *engine_main(void *arg)
{
    PfqServer *s = arg;
    if (!open_engine(s)) {
        s->failed = true;
        pfq_net_health(s->net, PFQ_DEAD, s->err.text); /* loading is over: join waits */
        pfq_net_stop(s->net);
        pfq_net_stop(s->net);
    } else {
        pfq_metric_add(&s->metrics, PFQ_METRIC_SLOTS, s->cli->engine.slots);
        if (!pfq_net_stopping(s->net)) {
            pfq_net_health(s->net, PFQ_READY, NULL);
            pfq_out_printf(s->cli->out, "listening on %s\n", pfq_net_url(s->net));
            pfq_out_flush(s->cli->out);
        }
        if (!work(s)) {
            refuse_all(s);
        }
    }
    if (s->batch.engine) {
        pfq_batch_close(&s->batch);
    }
    pfq_engine_close(&s->cli->engine);
    free(s->cand);
    free(s->biased);
    return NULL;
}

/* ---- start and end ---- */

static bool read_token(PfqCli *c, const char **token)
{
    *token = c->opt.api_key;
    return !*token || **token || pfq_fail(&c->err, "--api-key is empty");
}

/* Waits for the engine's thread, which ends behind its step; not for a step that hangs: then there
 * is nothing to be released any more. Nor for a model that is being loaded, which may take minutes:
 * no request has reached it. */
static void join(PfqServer *s, pthread_t engine, bool ok)
{
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    if (pfq_net_state(s->net, NULL, 0) == PFQ_LOADING) {
        pfq_note("%s: %s%s\n", s->cli->program, ok ? "" : "error: ",
                 ok ? "stopped while the model was being loaded" : s->cli->err.text);
        _exit(!ok);
    }
    for (end.tv_sec++; pthread_timedjoin_np(engine, NULL, &end) == ETIMEDOUT; end.tv_sec++) {
        char why[256];
        if (pfq_net_state(s->net, why, sizeof why) == PFQ_STUCK) {
            pfq_note("%s: error: %s; it is given up\n", s->cli->program, why);
            _exit(1);
        }
    }
}

static bool run_threads(PfqServer *s)
{
    PfqCli *c = s->cli;
    pthread_t engine;
    const int e = pthread_create(&engine, NULL, engine_main, s);
    if (e) {
        return pfq_fail(&c->err, "cannot start a thread: %s", strerror(e));
    }
    bool ok = pfq_desks_open(s, &c->err) && pfq_net_run(s->net, &c->err);
    pfq_desks_close(s);
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->news);
    pthread_mutex_unlock(&s->lock);
    join(s, engine, ok);
    if (s->failed) {
        c->err = s->err;
        ok = false;
    }
    return ok;
}

static bool is_loopback(const char *url)
{
    return strncmp(url, "http://127.", 11) == 0 || strncmp(url, "http://[::1]", 12) == 0;
}

static bool open_server(PfqServer *s, PfqNetConfig *config)
{
    PfqCli *c = s->cli;
    const PfqOptions *o = &c->opt;
    if (c->model->chat) {
        const char *bad = pfq_tpl_open(&s->tpl, c->model->chat, c->model->chat_bytes);
        if (bad) {
            return pfq_fail(&c->err, "%s", bad);
        }
    }
    const int64_t room = c->model->context < SERVE_ROOM ? c->model->context : SERVE_ROOM;
    if (!c->opt.slots) {
        const int32_t most = pfq_model_slots(c->model);
        c->opt.slots = most < SERVE_SLOTS ? most : SERVE_SLOTS;
    }
    s->ctx = (int32_t)(o->ctx ? o->ctx : room);
    if (s->ctx > c->model->context) {
        return pfq_fail(&c->err, "a context of %d tokens is out of range: the model has 1 to %d",
                        s->ctx, c->model->context);
    }
    s->pages = (int32_t)((o->prompt_cache < 0 ? 2 * (int64_t)s->ctx : o->prompt_cache) / PFQ_PAGE);
    c->spare = pfq_batch_spare(s->ctx, s->pages);
    for (int i = 0; i < o->allow_host.n; i++) {
        s->names[i] = o->allow_host.at[i];
    }
    *config = (PfqNetConfig){.host = o->host ? o->host : "127.0.0.1",
                             .port = (int)o->port,
                             .names = s->names,
                             .routes = pfq_api_routes,
                             .n = pfq_n_api_routes,
                             .user = s,
                             .limits = {.stall = (double)o->stall},
                             .metrics = &s->metrics};
    if (!read_token(c, &config->token)) {
        return false;
    }
    s->net = pfq_net_open(config, &c->err);
    if (s->net && !config->token && !is_loopback(pfq_net_url(s->net))) {
        pfq_note("%s: warning: there is no --api-key: whoever reaches %s can use the model\n",
                 c->program, pfq_net_url(s->net));
    }
    return s->net != NULL;
}

bool pfq_cmd_serve(PfqCli *c)
{
    static PfqServer s;
    PfqNetConfig config;
    s = (PfqServer){.cli = c, .started = (int64_t)time(NULL)};
    s.last = &s.first;
    pthread_mutex_init(&s.lock, NULL);
    pthread_cond_init(&s.news, NULL);
    const bool ok = open_server(&s, &config) && run_threads(&s);
    pfq_net_close(s.net);
    pthread_cond_destroy(&s.news);
    pthread_mutex_destroy(&s.lock);
    return ok;
}
