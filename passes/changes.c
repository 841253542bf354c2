#include "passes/changes.h"

#include "ir/base/json.h"
#include "ir/text.h"

enum {
    MAX_EDITS = 200,     /* of a pass */
    MAX_LINES = 80,      /* of an edit */
    MAX_LINE = 600,      /* bytes */
    MAX_NUMBERS = 4,     /* of a list in a line */
    MAX_TABLE = 1 << 22, /* cells of one comparison; beyond it all lines went and came */
};

typedef struct Group { /* the ops of one layer in one function, in order */
    const char *fn;    /* "" : the constants */
    i32 layer;
    VEC(const char *) line;
} Group;

struct Snapshot {
    Arena *a;
    VEC(Group) group;
    Map index; /* "layer fn" -> group */
    Map fns;   /* names of functions */
};

/* ---- a module as lines ---- */

static Str group_key(Arena *a, const char *fn, i32 layer)
{
    return str_c(arena_printf(a, "%d %s", layer, fn));
}

static Group *group_of(Snapshot *s, const char *fn, i32 layer)
{
    bool added;
    u32 *at = map_put(&s->index, group_key(s->a, fn, layer), &added);
    if (added) {
        *at = s->group.n;
        vec_push(s->a, &s->group, ((Group){.fn = fn, .layer = layer}));
        map_put(&s->fns, str_c(fn), &added);
    }
    return &s->group.at[*at];
}

static void add_line(Snapshot *s, const char *fn, i32 layer, StrBuf *line)
{
    Group *g = group_of(s, fn, layer);
    if (line->n > MAX_LINE) {
        line->n = utf8_prefix((Str){line->p, MAX_LINE});
        line->p[line->n] = 0;
        sb_str(line, " ...");
    }
    vec_push(s->a, &g->line, line->p);
}

/* Of a constant that says no layer, the first number among the parts of its name: @kv.3.k. */
static i32 layer_of_name(const Module *m, const Op *op)
{
    const i64 layers = ir_meta_get_int(m, "layers", 0);
    const char *p = op->nout ? ir_cstr(m, value_at(m, op->out)->name) : "";
    for (i64 n; *p; p += *p == '.') {
        const size_t len = strcspn(p, ".");
        if (str_to_i64((Str){p, len}, &n) && n >= 0 && n < layers) return (i32)n;
        p += len;
    }
    return -1;
}

static void add_op(Snapshot *s, const Module *m, const char *fn, const char **names, const Op *op)
{
    StrBuf b = {.a = s->a};
    ir_print_op(m, names, op, MAX_NUMBERS, &b);
    add_line(s, fn, op->layer < 0 && !*fn ? layer_of_name(m, op) : op->layer, &b);
}

static void add_fn(Snapshot *s, const Module *m, u32 index)
{
    const Fn *f = &m->fns.at[index];
    const char *name = arena_printf(s->a, "%s", ir_cstr(m, f->name));
    const char **names = ir_value_names(m, index, s->a);
    u32 step = 0;
    for (u32 i = 0; i < f->body.n; i++) {
        const Op *op = op_at(m, f->body.at[i]);
        if (op->step != step && op->step) {
            StrBuf b = {.a = s->a};
            const Step *t = &f->steps.at[op->step - 1];
            sb_printf(&b, "step \"%s\"", ir_cstr(m, t->kernel));
            if (t->weights) sb_printf(&b, " @%s", ir_cstr(m, value_at(m, t->weights)->name));
            add_line(s, name, op->layer, &b);
        }
        step = op->step;
        add_op(s, m, name, names, op);
    }
}

const Snapshot *changes_snapshot(Arena *a, const Module *m)
{
    Snapshot *s = NEW(a, Snapshot);
    *s = (Snapshot){.a = a, .index = {.a = a}, .fns = {.a = a}};
    for (u32 i = 0; i < m->consts.n; i++)
        add_op(s, m, "", NULL, op_at(m, m->consts.at[i]));
    for (u32 f = 1; f < m->fns.n; f++)
        add_fn(s, m, f);
    return s;
}

/* ---- two groups: a longest common subsequence of lines ---- */

typedef struct Edit {
    const char *fn;
    VEC(i32) layer;         /* that are alike; the lines are the first one's */
    VEC(const char *) line; /* "-..." and "+..." */
    u32 inserted, removed, changed;
} Edit;

typedef struct Differ {
    Arena *a;
    VEC(Edit) edit;
    Map alike; /* masked lines -> edit */
    u32 inserted, removed, changed, left_out;
} Differ;

static void take(Arena *a, Edit *e, char sign, const char *line)
{
    vec_push(a, &e->line, arena_printf(a, "%c%s", sign, line));
}

/* Lines of x[0..nx) and y[0..ny) that are not common, in order, without the ends they share. */
static void compare(Arena *a, const char *const *x, u32 nx, const char *const *y, u32 ny, Edit *e)
{
    while (nx && ny && strcmp(*x, *y) == 0)
        x++, y++, nx--, ny--;
    while (nx && ny && strcmp(x[nx - 1], y[ny - 1]) == 0)
        nx--, ny--;
    const bool small = (u64)(nx + 1) * (ny + 1) <= MAX_TABLE;
    u64 *hx = NEWN(a, u64, nx), *hy = NEWN(a, u64, ny);
    /* common[i][j]: of what is behind x[i] and y[j] */
    u32 *common = small ? NEWN(a, u32, (u64)(nx + 1) * (ny + 1)) : NULL;
    for (u32 i = 0; i < nx; i++)
        hx[i] = hash_bytes(x[i], strlen(x[i]));
    for (u32 j = 0; j < ny; j++)
        hy[j] = hash_bytes(y[j], strlen(y[j]));
    for (u32 i = nx; small && i-- > 0;)
        for (u32 j = ny; j-- > 0;) {
            u32 *c = &common[(u64)i * (ny + 1) + j], down = c[ny + 1], right = c[1];
            *c = hx[i] == hy[j] ? c[ny + 2] + 1 : down > right ? down : right;
        }
    u32 i = 0, j = 0;
    while (i < nx || j < ny) {
        const u32 *c = small ? &common[(u64)i * (ny + 1) + j] : NULL;
        if (small && i < nx && j < ny && hx[i] == hy[j])
            i++, j++;
        else if (i < nx && (j == ny || !small || c[ny + 1] >= c[1]))
            take(a, e, '-', x[i++]);
        else
            take(a, e, '+', y[j++]);
    }
}

/* The results that a line names: "%a, %b"; empty for steps and ops without results. */
static Str results_of(const char *line)
{
    const char *eq = *line == '%' || *line == '@' ? strstr(line, " = ") : NULL;
    return (Str){line, eq ? (size_t)(eq - line) : 0};
}

/* A result that both went and came was changed. */
static void count_lines(Arena *a, Edit *e)
{
    Map gone = {.a = a};
    bool added;
    for (u32 i = 0; i < e->line.n; i++) {
        const Str r = results_of(e->line.at[i] + 1);
        if (e->line.at[i][0] == '-' && r.n) map_put(&gone, r, &added);
        if (e->line.at[i][0] == '-') e->removed++;
    }
    for (u32 i = 0; i < e->line.n; i++) {
        if (e->line.at[i][0] != '+') continue;
        const Str r = results_of(e->line.at[i] + 1);
        const bool both = r.n && map_get(&gone, r);
        e->changed += both;
        e->removed -= both;
        e->inserted += !both;
    }
}

/* ---- layers that changed alike ---- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* The number at p within a name: the layer's own and its neighbours' are the same in all layers. */
static const char *mask_layer(StrBuf *o, const char *p, i32 layer)
{
    i64 n = 0;
    const char *end = p;
    while (is_digit(*end))
        end++;
    if (str_to_i64((Str){p, (size_t)(end - p)}, &n) && n >= layer - 1 && n <= layer + 1)
        sb_printf(o, "{%d}", (int)(n - layer));
    else
        sb_add(o, p, (size_t)(end - p));
    return end;
}

/* The value of attribute `key` at p. */
static const char *mask_number(StrBuf *o, const char *p, Str key)
{
    static const char *const own[] = {"layer", "cache", "offset", "at", "file", "stream"};
    const size_t n = strspn(p, "0123456789.eE+-");
    bool mask = memchr(p, '.', n) || memchr(p, 'e', n);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        mask |= str_is(key, own[i]);
    if (mask)
        sb_ch(o, '~');
    else
        sb_add(o, p, n);
    return p + n;
}

static void mask_line(StrBuf *o, const char *p, i32 layer)
{
    bool name = false, attrs = false;
    Str key = {0};
    for (char before = 0; *p;) {
        const char *from = p;
        const bool starts = !(before >= 'a' && before <= 'z') && !(before >= 'A' && before <= 'Z');
        if (*p == '%' || *p == '@')
            name = true;
        else if (!ir_name_char(*p))
            name = false;
        attrs = *p == '{' || (attrs && *p != '}');
        if (name && is_digit(*p) && starts)
            p = mask_layer(o, p, layer);
        else if (!name && attrs && (is_digit(*p) || (*p == '-' && is_digit(p[1]))) && starts)
            p = mask_number(o, p, key);
        else
            sb_ch(o, *p++);
        if (attrs && !name && (before == ' ' || before == '{') && *from >= 'a' && *from <= 'z')
            key = (Str){from, strcspn(from, " ,}")};
        before = p[-1];
    }
    sb_ch(o, '\n');
}

static void add_edit(Differ *d, Edit *e, i32 layer)
{
    StrBuf key = {.a = d->a};
    bool added;
    count_lines(d->a, e);
    d->inserted += e->inserted;
    d->removed += e->removed;
    d->changed += e->changed;
    sb_printf(&key, "%s %d\n", e->fn, layer >= 0);
    for (u32 i = 0; i < e->line.n; i++)
        mask_line(&key, e->line.at[i], layer);
    u32 *at = map_put(&d->alike, (Str){key.p, key.n}, &added);
    if (added && d->edit.n == MAX_EDITS) {
        *at = MAX_EDITS;
        d->left_out++;
        return;
    }
    if (added) {
        *at = d->edit.n;
        vec_push(d->a, &d->edit, *e);
    }
    if (*at < MAX_EDITS) vec_push(d->a, &d->edit.at[*at].layer, layer);
}

static void diff_group(Differ *d, const Group *x, const Group *y)
{
    Edit e = {.fn = x ? x->fn : y->fn};
    if (y) e.fn = y->fn;
    compare(d->a, x ? x->line.at : NULL, x ? x->line.n : 0, y ? y->line.at : NULL,
            y ? y->line.n : 0, &e);
    if (e.line.n) add_edit(d, &e, y ? y->layer : x->layer);
}

static const Group *find(const Snapshot *s, Arena *a, const char *fn, i32 layer)
{
    const u32 *at = map_get(&s->index, group_key(a, fn, layer));
    return at ? &s->group.at[*at] : NULL;
}

static bool has_fn(const Snapshot *s, const char *fn)
{
    return map_get(&s->fns, str_c(fn)) != NULL;
}

static void diff_all(Differ *d, const Snapshot *before, const Snapshot *after)
{
    for (u32 i = 0; i < after->group.n; i++) {
        const Group *y = &after->group.at[i];
        const bool was = !*y->fn || has_fn(before, y->fn);
        diff_group(d, find(before, d->a, was ? y->fn : "main", y->layer), y);
    }
    for (u32 i = 0; i < before->group.n; i++) {
        const Group *x = &before->group.at[i];
        const bool replaced = strcmp(x->fn, "main") == 0 && !has_fn(after, "main");
        if (!replaced && !find(after, d->a, x->fn, x->layer)) diff_group(d, x, NULL);
    }
}

/* ---- JSON ---- */

/* "0-29", "0,2-5"; "" for what has no layer. */
static void write_layers(StrBuf *o, const Edit *e)
{
    sb_ch(o, '"');
    for (u32 i = 0; i < e->layer.n && e->layer.at[0] >= 0;) {
        u32 k = i;
        while (k + 1 < e->layer.n && e->layer.at[k + 1] == e->layer.at[k] + 1)
            k++;
        sb_printf(o, "%s%d", i ? "," : "", e->layer.at[i]);
        if (k > i) sb_printf(o, "-%d", e->layer.at[k]);
        i = k + 1;
    }
    sb_ch(o, '"');
}

static void write_edit(StrBuf *o, const Edit *e)
{
    const u32 shown = e->line.n < MAX_LINES ? e->line.n : MAX_LINES;
    sb_str(o, "{\"in\": ");
    sb_json_str(o, str_c(*e->fn ? e->fn : "constants"));
    sb_str(o, ", \"layers\": ");
    write_layers(o, e);
    sb_printf(o,
              ", \"alike\": %u, \"inserted\": %u, \"removed\": %u, \"changed\": %u, \"lines\": [",
              e->layer.n, e->inserted, e->removed, e->changed);
    for (u32 i = 0; i < shown; i++) {
        sb_str(o, i ? ",\n        " : "\n        ");
        sb_json_str(o, str_c(e->line.at[i]));
    }
    sb_printf(o, "], \"left_out\": %u}", e->line.n - shown);
}

void changes_write(Arena *a, const Snapshot *before, const Snapshot *after, StrBuf *out)
{
    Differ d = {.a = a, .alike = {.a = a}};
    diff_all(&d, before, after);
    sb_printf(out, "\"inserted\": %u, \"removed\": %u, \"changed\": %u, \"edits\": [", d.inserted,
              d.removed, d.changed);
    for (u32 i = 0; i < d.edit.n; i++) {
        sb_str(out, i ? ",\n      " : "\n      ");
        write_edit(out, &d.edit.at[i]);
    }
    sb_printf(out, "], \"left_out\": %u", d.left_out);
}
