/* A timeline of a program's calls to the time of each step of @decode. A batch's calls are those of
 * @prefill, with which @decode begins, and of @logits, with which it ends, but for what chooses
 * rows. */
#include "inspect/inspect.h"
#include "inspect/work.h"

#include "ir/base/io.h"
#include "ir/base/json.h"

#include <stdlib.h>

enum { MAX_TEXT = 1 << 28, MAX_STEPS = 1 << 20 };

typedef struct Took { /* by a call of a step, each time */
    VEC(double) us;
    u32 step;
} Took;

typedef struct Build {
    Arena *a;
    const Plan *plan; /* may be NULL */
    Times *out;
    Map index; /* step.call -> took */
    VEC(Took) took;
    double keys;
    u32 n; /* events */
} Build;

static bool is_text(const Json *obj, const char *key, const char *text)
{
    const Json *v = json_get(obj, key);
    return v && v->kind == JSON_STRING && str_is(v->str, text);
}

static bool whole(const Json *obj, const char *key, i64 lo, i64 hi, i64 *out)
{
    const Json *v = json_get(obj, key);
    if (!v || v->kind != JSON_NUMBER || !v->is_int || v->i < lo || v->i > hi) return false;
    *out = v->i;
    return true;
}

/* Which step of @decode does what step `step` of the phase of that name does in a batch; 0: none.
 */
static i64 decode_step(const Plan *p, const Json *name, i64 step)
{
    const PlPhase *decode = &p->phase[PL_PHASES - 1];
    for (u32 k = 0; k < PL_PHASES - 1; k++) {
        const PlPhase *ph = &p->phase[k];
        const u32 before = k && decode->n > ph->n ? decode->n - ph->n : 0;
        for (u32 i = 0; i < ph->n && before + i < decode->n; i++) {
            const PlCall *d = &decode->call[before + i];
            if (ph->call[i].step == step && str_eq(ph->name, name->str))
                return ph->call[i].layer == d->layer ? d->step : 0;
        }
    }
    return 0;
}

/* The step of @decode that a call of it or of a batch is; 0: none. */
static i64 step_of(const Build *b, const Json *e, const Json *args)
{
    const Json *phase = json_get(args, "phase");
    const bool decode = is_text(e, "cat", "decode"), batch = is_text(e, "cat", "batch");
    i64 step;
    if (!(decode || batch) || !whole(args, "step", 1, MAX_STEPS, &step)) return 0;
    if (decode || is_text(args, "phase", "decode")) return step; /* a batch's: by one kernel */
    return b->plan && phase && phase->kind == JSON_STRING ? decode_step(b->plan, phase, step) : 0;
}

/* A call of decoding counts, if it has as many rows as the first; all else that timelines hold is
 * left alone. */
static void event(Build *b, const Json *e)
{
    const Json *args = json_get(e, "args"), *us = json_get(e, "dur"), *read;
    i64 rows, call, pos;
    if (is_text(e, "name", "plain_read") && (read = json_get(args, "gb_s")) &&
        read->kind == JSON_NUMBER && read->num > 0 && read->num < 1e9)
        b->out->read = 1e9 * read->num;
    if (!is_text(e, "ph", "X") || !us || us->kind != JSON_NUMBER || !(us->num >= 0) ||
        !whole(args, "rows", 1, MAX_STEPS, &rows) || !whole(args, "call", 0, MAX_STEPS, &call) ||
        !whole(args, "pos", 0, INT32_MAX, &pos))
        return;
    const i64 step = step_of(b, e, args);
    if (!step || (b->n && (double)rows != b->out->rows)) return;
    bool added;
    const char *key = arena_printf(b->a, "%lld.%lld", (long long)step, (long long)call);
    u32 *at = map_put(&b->index, str_c(key), &added);
    b->out->rows = (double)rows;
    if (added) {
        *at = b->took.n;
        vec_push(b->a, &b->took, ((Took){.step = (u32)step}));
    }
    vec_push(b->a, &b->took.at[*at].us, us->num);
    b->keys += (double)pos + 1;
    b->n++;
}

static int by_value(const void *x, const void *y)
{
    const double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

/* A busy machine takes a thread away now and then, for much longer than a call lasts. */
static double median(double *x, u32 n)
{
    qsort(x, n, sizeof *x, by_value);
    return x[(n - 1) / 2];
}

bool inspect_times(Diag *d, Arena *a, const char *path, View *v)
{
    Source *src = NEW(a, Source); /* diagnostics point into it */
    Times *t = NEW(a, Times);
    Build b = {.a = a, .plan = v->plan, .out = t, .index = {.a = a}};
    if (!io_read_text(d, a, path, MAX_TEXT, src)) return false;
    const Json *root = json_parse(d, a, src),
               *list = root ? json_need(d, src, root, "traceEvents", JSON_ARRAY) : NULL;
    if (!list) return false;
    for (u32 i = 0; i < list->n; i++)
        event(&b, &list->at[i]);
    if (!b.n) {
        diag_error(
            d, E_JSON_VALUE, json_loc(src, list),
            "has no call of a token's decoding, which `bench --trace` or `run --trace` of the "
            "program writes");
        return false;
    }
    for (u32 i = 0; i < b.took.n; i++)
        t->n = b.took.at[i].step >= t->n ? b.took.at[i].step + 1 : t->n;
    t->us = NEWN(a, double, t->n);
    for (u32 i = 0; i < b.took.n; i++)
        t->us[b.took.at[i].step] += median(b.took.at[i].us.at, b.took.at[i].us.n);
    if (b.took.n == 1 && v->plan && v->plan->phase[PL_PHASES - 1].n > 1) {
        t->whole = t->us[t->n - 1];
        t->us[t->n - 1] = 0;
    }
    t->keys = b.keys / b.n;
    v->times = t;
    return true;
}
