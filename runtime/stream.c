/* The text of an answer. Contract: stream.h. */
#include "runtime/stream.h"

#include <stdlib.h>
#include <string.h>

void pfq_stream_start(PfqStream *s, const char *const *stop, int n_stop)
{
    *s = (PfqStream){.stop = stop, .n_stop = n_stop, .text = s->text, .cap = s->cap};
}

void pfq_stream_free(PfqStream *s)
{
    free(s->text);
    *s = (PfqStream){0};
}

static bool append(PfqStream *s, const char *bytes, int n)
{
    if (s->cap - s->n < 8) {
        const size_t cap = s->cap * 2 + 1024;
        char *p = realloc(s->text, cap);
        if (!p) return false;
        s->text = p;
        s->cap = cap;
    }
    memcpy(s->text + s->n, bytes, (size_t)n);
    s->n += (size_t)n;
    return true;
}

/* Where the stop string that is complete first in text[to..n) begins, or n. */
static size_t find_stop(const PfqStream *s)
{
    size_t begin = s->n, end = s->n + 1;
    for (int i = 0; i < s->n_stop; i++) {
        const size_t len = strlen(s->stop[i]);
        const char *p = memmem(s->text + s->to, s->n - s->to, s->stop[i], len);
        const size_t at = p ? (size_t)(p - s->text) : s->n;
        if (!p || at + len > end || (at + len == end && at > begin)) continue;
        begin = at;
        end = at + len;
    }
    return begin;
}

/* Could text[i..n) be the start of a stop string? */
static bool may_stop(const PfqStream *s, size_t i)
{
    for (int k = 0; k < s->n_stop; k++)
        if (strlen(s->stop[k]) > s->n - i && memcmp(s->stop[k], s->text + i, s->n - i) == 0)
            return true;
    return false;
}

/* Moves `to` over what is decided. */
static void release(PfqStream *s)
{
    if (s->n == s->to) return;
    const size_t stop = find_stop(s);
    s->stopped = stop < s->n;
    size_t end = stop;
    if (!s->stopped) {
        end = s->n - s->to > PFQ_MAX_STOP ? s->n - PFQ_MAX_STOP : s->to;
        while (end < s->n && !may_stop(s, end))
            end++;
    }
    s->to = end;
    if (s->stopped) s->n = end;
}

bool pfq_stream_add(PfqStream *s, const char *bytes, size_t n)
{
    char out[8];
    s->from = s->to;
    for (size_t i = 0; i < n && !s->stopped; i++)
        if (!append(s, out, pfq_utf8_feed(&s->utf8, (unsigned char)bytes[i], out))) return false;
    if (!s->stopped) release(s);
    return true;
}

bool pfq_stream_end(PfqStream *s)
{
    char out[8];
    s->from = s->to;
    if (s->stopped) return true;
    if (!append(s, out, pfq_utf8_end(&s->utf8, out))) return false;
    release(s);
    s->to = s->n; /* nothing follows that what waits could be the start of */
    return true;
}
