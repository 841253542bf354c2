/* Two compiles side by side: each is a list of named facts, and those that differ are printed. */
#include "inspect/chart.h"
#include "inspect/inspect.h"
#include "inspect/plan.h"

#include <math.h>

typedef struct Item {
    Str name;
    const char *text;
} Item;

typedef struct Items {
    Arena *a;
    VEC(Item) list;
    Map index; /* name -> list */
} Items;

/* The text of an item; a name that is there already gets a number: "pass cse, 2". */
static void item(Items *s, const char *name, const char *text)
{
    bool added;
    const char *key = name;
    for (u32 n = 2;; n++) {
        u32 *at = map_put(&s->index, str_c(key), &added);
        if (added) {
            *at = s->list.n;
            break;
        }
        key = arena_printf(s->a, "%s, %u", name, n);
    }
    vec_push(s->a, &s->list, ((Item){str_c(key), text}));
}

static const char *words(Arena *a, Str s)
{
    return arena_strdup(a, s.p, s.n);
}

static void scalars(Items *s, const Plan *p)
{
    const struct {
        const char *name;
        i64 bytes;
    } sizes[] = {
        {"weights", p->weight_bytes},
        {"weights read a token", p->read_per_token},
        {"KV cache a token", p->kv_per_token},
        {"activations", p->activations},
    };
    StrBuf prefix = {.a = s->a}, targets = {.a = s->a};
    sb_str(&prefix, p->prefix.n ? "" : "none");
    for (u32 i = 0; i < p->prefix.n; i++)
        sb_printf(&prefix, "%s%lld", i ? "," : "", (long long)p->prefix.at[i]);
    sb_str(&targets, "");
    for (u32 i = 0; i < p->target.n; i++)
        sb_printf(&targets, "%s%.*s", i ? "," : "", STRF(p->target.at[i]));
    item(s, "pfqc", words(s->a, p->version));
    item(s, "model", words(s->a, p->model));
    item(s, "recipe", words(s->a, p->recipe));
    item(s, "targets", targets.p);
    item(s, "context", arena_printf(s->a, "%lld", (long long)p->context));
    item(s, "prefix", prefix.p);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        item(s, sizes[i].name, html_bytes(s->a, sizes[i].bytes));
}

static void schedule(Items *s, const Plan *p)
{
    for (u32 i = 0; i < p->pass.n; i++)
        item(s, arena_printf(s->a, "pass %.*s", STRF(p->pass.at[i].name)),
             arena_printf(s->a, "%.*s (%lld changes)", STRF(p->pass.at[i].options),
                          (long long)p->pass.at[i].changes));
    for (u32 i = 0; i < PL_PHASES; i++)
        item(s, arena_printf(s->a, "%.*s", STRF(p->phase[i].name)),
             arena_printf(s->a, "%u calls, %lld barriers", p->phase[i].n,
                          (long long)p->phase[i].barriers));
    for (u32 i = 0; i < p->kernel.n; i++)
        item(s, arena_printf(s->a, "kernel %.*s", STRF(p->kernel.at[i].name)), "there");
}

/* Means over the layers: single layers differ with every calibration. */
static void means(Items *s, const char *what, const PlFact *f, u32 n)
{
    typedef struct Sum {
        double sum;
        u32 n;
    } Sum;
    VEC(Sum) sum = {0};
    Map index = {.a = s->a};
    for (u32 i = 0; i < n; i++) {
        bool added;
        u32 *at = map_put(&index, f[i].name, &added);
        if (added) {
            *at = sum.n;
            vec_push(s->a, &sum, ((Sum){0, 0}));
        }
        if (!isfinite(f[i].value)) continue;
        sum.at[*at].sum += f[i].value;
        sum.at[*at].n++;
    }
    for (u32 i = 0; i < index.entries.n; i++) {
        const Sum *x = &sum.at[index.entries.at[i].val];
        item(s, arena_printf(s->a, "%s %.*s", what, STRF(index.entries.at[i].key)),
             arena_printf(s->a, "%.2f", x->n ? x->sum / x->n : (double)NAN));
    }
}

static Items items_of(Arena *a, const Plan *p)
{
    Items s = {.a = a, .index = {.a = a}};
    scalars(&s, p);
    schedule(&s, p);
    means(&s, "sqnr, dB,", p->sqnr.at, p->sqnr.n);
    means(&s, "sqnr, dB, of weights", p->weight_sqnr.at, p->weight_sqnr.n);
    means(&s, "outliers", p->outlier.at, p->outlier.n);
    return s;
}

static const char *find(const Items *s, Str name)
{
    const u32 *at = map_get(&s->index, name);
    return at ? s->list.at[*at].text : NULL;
}

/* Names come from a file: nothing in them moves a terminal's cursor. */
static void text(StrBuf *o, const char *before, Str s)
{
    sb_str(o, before);
    for (size_t i = 0; i < s.n; i++)
        sb_ch(o, (unsigned char)s.p[i] < 32 || s.p[i] == 127 ? '?' : s.p[i]);
}

/* x, y: NULL where one has no such thing. */
static void line(StrBuf *o, Str name, const char *x, const char *y)
{
    text(o, "", name);
    if (x) text(o, "\n    - ", str_c(x));
    if (y) text(o, "\n    + ", str_c(y));
    sb_str(o, "\n");
}

bool inspect_diff(Diag *d, Arena *a, const char *first, const char *second, StrBuf *out)
{
    Plan p[2];
    if (!plan_read(d, a, first, &p[0]) || !plan_read(d, a, second, &p[1])) return false;
    const Items x = items_of(a, &p[0]), y = items_of(a, &p[1]);
    sb_str(out, "");
    for (u32 i = 0; i < x.list.n; i++) {
        const Item *t = &x.list.at[i];
        const char *other = find(&y, t->name);
        if (!other || strcmp(t->text, other) != 0) line(out, t->name, t->text, other);
    }
    for (u32 i = 0; i < y.list.n; i++)
        if (!find(&x, y.list.at[i].name)) line(out, y.list.at[i].name, NULL, y.list.at[i].text);
    if (!out->n) sb_str(out, "no difference\n");
    return true;
}
