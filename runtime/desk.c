/* Where requests are read. Contract: serve.h. */
#include "runtime/serve.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The next one; NULL: the server ends. */
static PfqAsk *take(PfqDesk *d)
{
    pthread_mutex_lock(&d->lock);
    while (!d->first && !d->stop) {
        pthread_cond_wait(&d->news, &d->lock);
    }
    PfqAsk *a = d->first;
    if (a) {
        d->first = a->next;
        d->last = d->first ? d->last : &d->first;
        d->bytes -= a->n;
    }
    pthread_mutex_unlock(&d->lock);
    return a;
}

static void *desk_main(void *arg)
{
    PfqDesk *d = arg;
    PfqAsk *a;
    if (d->large) { /* the engine's threads wait for each other: they get more of a full machine */
        setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 5);
    }
    while ((a = take(d))) {
        if (d->stop) {
            pfq_reply_error(a->reply, 503, NULL, "the server ends");
        } else if (pfq_reply_gone(a->reply)) {
            pfq_reply_end(a->reply);
        } else {
            pfq_api_read(d->server, a);
        }
        free(a->body);
        free(a);
    }
    return NULL;
}

static bool open_desk(PfqServer *s, PfqDesk *d, bool large, PfqErr *err)
{
    *d = (PfqDesk){.server = s, .large = large};
    d->last = &d->first;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->news, NULL);
    const int e = pthread_create(&d->thread, NULL, desk_main, d);
    d->open = e == 0;
    return d->open || pfq_fail(err, "cannot start a thread: %s", strerror(e));
}

bool pfq_desks_open(PfqServer *s, PfqErr *err)
{
    return open_desk(s, &s->desk[0], false, err) && open_desk(s, &s->desk[1], true, err);
}

void pfq_desks_close(PfqServer *s)
{
    for (int i = 0; i < 2; i++) {
        PfqDesk *d = &s->desk[i];
        if (!d->open) {
            continue;
        }
        pthread_mutex_lock(&d->lock);
        d->stop = true;
        pthread_cond_signal(&d->news);
        pthread_mutex_unlock(&d->lock);
        pthread_join(d->thread, NULL);
        pthread_cond_destroy(&d->news);
        pthread_mutex_destroy(&d->lock);
    }
}

bool pfq_desk_put(PfqServer *s, PfqAsk *a)
{
    PfqDesk *d = &s->desk[a->n > PFQ_DESK_SMALL];
    pthread_mutex_lock(&d->lock);
    const bool ok = a->n <= PFQ_DESK_BYTES - d->bytes;
    if (ok) {
        d->bytes += a->n;
        *d->last = a;
        d->last = &a->next;
        pthread_cond_signal(&d->news);
    }
    pthread_mutex_unlock(&d->lock);
    return ok;
}
