/* Two compiles side by side: each is a list of named facts, and those that differ are printed. */
#include "inspect/chart.h"
#include "inspect/forms.h"
#include "inspect/layers.h"
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

/* Means over the layers, as `format` has a double: single layers differ with every calibration. */
static void means(Items *s, const char *what, const char *format, const PlFact *f, u32 n)
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
             arena_printf(s->a, format, x->n ? x->sum / x->n : (double)NAN));
    }
}

/* Types by layer; of static scales the mean over layers, of several heads the largest. */
static void types(Items *s, Module *m)
{
    const u32 fn = graph_shown(m);
    Graph g;
    VEC(PlFact) f = {0};
    if (!fn) return;
    graph_build(s->a, m, fn, &g);
    const Layers l = layers_of(s->a, &g);
    for (u32 i = 0; i < l.types.n; i++)
        item(s, arena_printf(s->a, "type of %.*s", STRF(l.types.at[i].name)),
             layers_words(s->a, &l, i));
    for (u32 i = 0; i < l.scale.n; i++)
        vec_push(s->a, &f, ((PlFact){l.scale.at[i].name, l.scale.at[i].layer, l.scale.at[i].hi}));
    means(s, "scale of", "%.3g", f.at, f.n);
}

static Items items_of(Arena *a, const View *v, bool modules)
{
    const Plan *p = v->plan;
    Items s = {.a = a, .index = {.a = a}};
    scalars(&s, p);
    schedule(&s, p);
    if (modules) types(&s, v->m);
    means(&s, "sqnr, dB,", "%.2f", p->sqnr.at, p->sqnr.n);
    means(&s, "sqnr, dB, of weights", "%.2f", p->weight_sqnr.at, p->weight_sqnr.n);
    means(&s, "outliers", "%.2f", p->outlier.at, p->outlier.n);
    return s;
}

static const char *find(const Items *s, Str name)
{
    const u32 *at = map_get(&s->index, name);
    return at ? s->list.at[*at].text : NULL;
}

static void text(StrBuf *o, const char *before, Str s)
{
    sb_str(o, before);
    text_safe(o, s);
}

/* x, y: NULL where one has no such thing. */
static void line(StrBuf *o, Str name, const char *x, const char *y)
{
    text(o, "", name);
    if (x) text(o, "\n    - ", str_c(x));
    if (y) text(o, "\n    + ", str_c(y));
    sb_str(o, "\n");
}

static bool open_plan(Diag *d, Arena *a, const char *path, View *v)
{
    if (!inspect_open(d, a, path, v)) return false;
    if (v->plan) return true;
    diag_error(d, E_USAGE, LOC_WHAT(path), "is no folder that pfqc wrote");
    return false;
}

bool inspect_diff(Diag *d, Arena *a, const char *first, const char *second, StrBuf *out)
{
    View v[2];
    if (!open_plan(d, a, first, &v[0]) || !open_plan(d, a, second, &v[1])) return false;
    const bool modules = v[0].m && v[1].m;
    const Items x = items_of(a, &v[0], modules), y = items_of(a, &v[1], modules);
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
