#include "ir/base/spans.h"

#include "ir/base/json.h"
#include "ir/base/meter.h"

enum { MAX_SPANS = 1 << 16 };

typedef struct Span {
    const char *name, *note; /* note NULL: none */
    double begin, end;       /* seconds since the first began; end < 0: open */
    u32 depth;
} Span;

static struct {
    Arena a;
    bool on;
    double zero;
    VEC(Span) list; /* in order of their beginnings; span s is at s - 1 */
    u32 open;       /* how many are, the depth of the next */
} spans;

void spans_start(void)
{
    spans.on = true;
    spans.zero = now_seconds();
}

u32 span_begin(const char *name)
{
    if (!spans.on || spans.list.n == MAX_SPANS) return 0;
    const Span s = {arena_strdup(&spans.a, name, strlen(name)), NULL, now_seconds() - spans.zero,
                    -1, spans.open++};
    vec_push(&spans.a, &spans.list, s);
    return spans.list.n;
}

void span_end(u32 span, const char *note)
{
    if (!span || spans.list.at[span - 1].end >= 0) return;
    const double now = now_seconds() - spans.zero;
    for (u32 i = spans.list.n; i >= span; i--)
        if (spans.list.at[i - 1].end < 0) spans.list.at[i - 1].end = now;
    Span *s = &spans.list.at[span - 1];
    spans.open = s->depth;
    if (note) s->note = arena_strdup(&spans.a, note, strlen(note));
}

static double duration(const Span *s)
{
    return (s->end < 0 ? now_seconds() - spans.zero : s->end) - s->begin;
}

void spans_tree(StrBuf *out)
{
    sb_str(out, "");
    double all = 0;
    for (u32 i = 0; i < spans.list.n; i++)
        if (!spans.list.at[i].depth) all += duration(&spans.list.at[i]);
    for (u32 i = 0; i < spans.list.n; i++) {
        const Span *s = &spans.list.at[i];
        sb_printf(out, "%10.3f ms %5.1f %%  %*s%-*s%s%s\n", duration(s) * 1e3,
                  all > 0 ? 100 * duration(s) / all : 0.0, (int)(2 * s->depth), "",
                  (int)(s->note && s->depth < 12 ? 26 - 2 * s->depth : 0), s->name,
                  s->note ? " " : "", s->note ? s->note : "");
    }
}

void spans_chrome(StrBuf *out)
{
    sb_str(out, "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [");
    for (u32 i = 0; i < spans.list.n; i++) {
        const Span *s = &spans.list.at[i];
        sb_str(out, i ? ",\n  {\"name\": " : "\n  {\"name\": ");
        sb_json_str(out, str_c(s->name));
        sb_printf(out, ", \"ph\": \"X\", \"pid\": 1, \"tid\": 1, \"ts\": %.1f, \"dur\": %.1f",
                  s->begin * 1e6, duration(s) * 1e6);
        if (s->note) {
            sb_str(out, ", \"args\": {\"note\": ");
            sb_json_str(out, str_c(s->note));
            sb_ch(out, '}');
        }
        sb_ch(out, '}');
    }
    sb_str(out, "\n]}\n");
}
