/* The pass table and pipelines as text. */
#include "passes/options.h"
#include "passes/rules.h"

#include <stdlib.h>

enum {
    GRAPH = STAGE_GRAPH,
    PHASED = STAGE_PHASED,
    STEPS = STAGE_STEPS,
    PACKED = STAGE_PACKED,
    PLANNED = STAGE_PLANNED,
    FLAT = STAGE_GRAPH | STAGE_PHASED,
    ANY = STAGE_ANY,
    SAME = 0
};

const PassInfo pass_info[] = {
#define X(id, name, fn, options, from, to, kind, doc)                                              \
    {name, fn, options, from, (StageId)(to), KIND_##kind, doc},
#include "passes/passes.def"
#undef X
};
const u32 pass_count = sizeof pass_info / sizeof *pass_info;

/* ---- text ---- */

typedef struct Parse {
    Diag *d;
    Arena *a;
    const Source *src;
    size_t at;
} Parse;

static Loc loc_of(const Parse *p, Str s)
{
    return (Loc){.src = p->src, .off = (size_t)(s.p - p->src->text), .len = s.n};
}

static void skip_space(Parse *p)
{
    while (p->at < p->src->n && strchr(" \t\r\n", p->src->text[p->at]))
        p->at++;
}

static bool accept(Parse *p, char c)
{
    skip_space(p);
    if (p->at == p->src->n || p->src->text[p->at] != c) return false;
    p->at++;
    return true;
}

static Str word(Parse *p)
{
    skip_space(p);
    size_t from = p->at;
    while (p->at < p->src->n && !strchr(" \t\r\n,{}=", p->src->text[p->at]))
        p->at++;
    return (Str){p->src->text + from, p->at - from};
}

static bool expected(Parse *p, const char *what)
{
    Str found = {p->src->text + p->at, p->at < p->src->n};
    if (!found.n)
        return diag_error(p->d, E_PASS_UNKNOWN, loc_of(p, found),
                          "the pipeline ends where %s was expected", what);
    return diag_error(p->d, E_PASS_UNKNOWN, loc_of(p, found), "found '%c', expected %s", *found.p,
                      what);
}

static bool unknown_pass(Parse *p, Str name)
{
    const char **names = NEWN(p->a, const char *, pass_count);
    for (u32 i = 0; i < pass_count; i++)
        names[i] = pass_info[i].name;
    diag_error(p->d, E_PASS_UNKNOWN, loc_of(p, name), "there is no pass '%.*s'", STRF(name));
    const char *near = str_nearest(name, names, pass_count);
    if (near) diag_hint(p->d, "did you mean '%s'?", near);
    return false;
}

static bool unknown_option(Parse *p, const PassInfo *info, Str name)
{
    diag_error(p->d, E_PASS_UNKNOWN, loc_of(p, name), "pass %s has no option '%.*s'", info->name,
               STRF(name));
    u32 n = option_count(info->options);
    const char **names = NEWN(p->a, const char *, n);
    const char *s = info->options;
    OptDecl o;
    for (u32 i = 0; option_next(&s, &o); i++)
        names[i] = arena_strdup(p->a, o.name.p, o.name.n);
    const char *near = str_nearest(name, names, n);
    if (near)
        diag_hint(p->d, "did you mean '%s'?", near);
    else if (n)
        diag_hint(p->d, "its options: %s", info->options);
    else
        diag_hint(p->d, "it takes no options");
    return false;
}

/* Without a value, value.p is NULL. */
static bool set_option(Parse *p, const PassInfo *info, PassCall *c, Str name, Str value)
{
    const char *s = info->options;
    OptDecl o;
    u32 i = 0;
    bool found = false;
    for (; !found && option_next(&s, &o); i += !found)
        found = str_eq(o.name, name);
    if (!found) return unknown_option(p, info, name);
    if (!value.n && !str_is(o.type, "flag"))
        return diag_error(p->d, E_PASS_UNKNOWN, loc_of(p, name), "option %.*s needs a value",
                          STRF(name));
    Str wrong;
    return option_set(p->a, &o, value, &c->opt[i], &wrong) ||
           diag_error(p->d, E_PASS_UNKNOWN, loc_of(p, wrong), "option %.*s is %s, found '%.*s'",
                      STRF(name), option_takes(p->a, &o), STRF(wrong));
}

static bool go_together(Diag *d, Loc where, const PassCall *c)
{
    const char *clash = options_clash(c);
    return !clash ||
           diag_error(d, E_PASS_UNKNOWN, where, "pass %s: %s", pass_info[c->pass].name, clash);
}

/* After the opening brace. */
static bool parse_options(Parse *p, const PassInfo *info, PassCall *c)
{
    bool ok = true;
    do {
        Str name = word(p);
        if (!name.n) return expected(p, "the name of an option");
        Str value = accept(p, '=') ? word(p) : (Str){0};
        if (info) ok &= set_option(p, info, c, name, value);
    } while (accept(p, ','));
    return accept(p, '}') ? ok : expected(p, "',' or '}'");
}

bool pipeline_parse(Diag *d, Arena *a, const Source *src, Pipeline *out)
{
    Parse p = {d, a, src, 0};
    bool ok = true;
    skip_space(&p);
    while (p.at < src->n) {
        Str name = word(&p);
        if (!name.n) return expected(&p, "the name of a pass");
        PassCall c = {.pass = 0};
        while (c.pass < pass_count && !str_is(name, pass_info[c.pass].name))
            c.pass++;
        const PassInfo *info = c.pass < pass_count ? &pass_info[c.pass] : NULL;
        if (info)
            options_default(a, info, &c);
        else
            ok = unknown_pass(&p, name);
        bool set = true;
        if (accept(&p, '{')) {
            size_t before = d->n_errors;
            set = parse_options(&p, info, &c);
            if (!set && p.src->text[p.at - 1] != '}' && d->n_errors > before)
                return false; /* lost: stop here */
        }
        ok &= set && (!info || go_together(d, loc_of(&p, name), &c));
        if (info) vec_push(a, &out->calls, c);
        skip_space(&p);
        if (p.at < src->n && !accept(&p, ',')) return expected(&p, "',' between passes");
        if (p.at == src->n) break;
    }
    return ok;
}

/* ---- edits: what the command line changes of a recipe ---- */

/* The next pass of `p` named by the text at the cursor up to one of `ends`; all of its calls are
 * meant. NULL after a diagnostic. */
static const PassInfo *named_pass(Parse *p, Str name, const Pipeline *in)
{
    u32 i = 0;
    while (i < pass_count && !str_is(name, pass_info[i].name))
        i++;
    if (i == pass_count) return unknown_pass(p, name), NULL;
    for (u32 k = 0; k < in->calls.n; k++)
        if (in->calls.at[k].pass == i) return &pass_info[i];
    diag_error(p->d, E_PASS_UNKNOWN, loc_of(p, name), "the recipe runs no pass '%.*s'", STRF(name));
    return NULL;
}

/* PASS.OPTION=VALUE or, for a flag, PASS.OPTION. */
static bool edit_option(Parse *p, Pipeline *io)
{
    Str target = word(p);
    Str value = accept(p, '=') ? word(p) : (Str){0};
    const char *dot = memchr(target.p, '.', target.n);
    if (!dot)
        return diag_error(p->d, E_PASS_UNKNOWN, loc_of(p, target),
                          "found '%.*s', expected PASS.OPTION=VALUE", STRF(target));
    Str pass = {target.p, (size_t)(dot - target.p)}, name = {dot + 1, target.n - pass.n - 1};
    const PassInfo *info = named_pass(p, pass, io);
    bool ok = info != NULL;
    for (u32 i = 0; ok && i < io->calls.n; i++)
        if (&pass_info[io->calls.at[i].pass] == info)
            ok = set_option(p, info, &io->calls.at[i], name, value);
    return ok;
}

static bool drop_pass(Parse *p, Pipeline *io)
{
    const PassInfo *info = named_pass(p, word(p), io);
    if (!info) return false;
    u32 n = 0;
    for (u32 i = 0; i < io->calls.n; i++)
        if (&pass_info[io->calls.at[i].pass] != info) io->calls.at[n++] = io->calls.at[i];
    io->calls.n = n;
    return true;
}

static bool edit_list(Diag *d, Arena *a, const char *option, const char *text, Pipeline *io,
                      bool (*edit)(Parse *p, Pipeline *io))
{
    if (!text) return true;
    Source *src = NEW(a, Source);
    *src = (Source){option, text, strlen(text)};
    Parse p = {d, a, src, 0};
    bool ok = true;
    do
        ok &= edit(&p, io);
    while (accept(&p, ','));
    skip_space(&p);
    return p.at == src->n ? ok : expected(&p, "','");
}

bool pipeline_edit(Diag *d, Arena *a, const char *set, const char *without, Pipeline *io)
{
    bool ok = edit_list(d, a, "--without", without, io, drop_pass) &
              edit_list(d, a, "--set", set, io, edit_option);
    for (u32 i = 0; ok && i < io->calls.n; i++)
        ok &= go_together(d, LOC_WHAT("--set"), &io->calls.at[i]);
    return ok;
}

static const char *const kind_text[] = {"exact", "quantising", "exact up to how quantisers round",
                                        "exact with kv=f32, else quantising"};

void passes_list(StrBuf *b)
{
    sb_str(b, "# Passes\n\nWritten by `pfqc doc passes` from passes/passes.def. A pipeline is a "
              "list of them, with options in braces:\n"
              "`fuse-norm,quantize-weights{bits=4,group=32}`. Lists are joined by `+`.\n");
    for (u32 i = 0; i < pass_count; i++) {
        sb_printf(b, "\n## %s\n\n%s. Numerics: %s.\n", pass_info[i].name, pass_info[i].doc,
                  kind_text[pass_info[i].kind]);
        const char *p = pass_info[i].options;
        OptDecl o;
        for (bool first = true; option_next(&p, &o); first = false)
            sb_printf(b, "%s- `%.*s`: %.*s%s%s%s%s%.*s\n", first ? "\n" : "", STRF(o.name),
                      STRF(o.type), o.values.n ? " (" : "",
                      o.values.n ? option_takes(b->a, &o) : "", o.values.n ? ")" : "",
                      o.def.n ? ", default " : "", STRF(o.def));
    }
    rules_list(b);
    sb_str(b, "\n# Recipes\n");
    for (u32 i = 0; recipe_builtin_name(i); i++) {
        Diag d;
        Recipe r;
        diag_init(&d, b->a);
        if (recipe_load(&d, b->a, recipe_builtin_name(i), &r))
            sb_printf(b, "\n- `%s`: %s\n", r.name, r.doc);
    }
}

static bool calibrates(const PassCall *c)
{
    static const char *const names[] = {"prefix", "static-scales", "dynamic-scales", "weights"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(pass_info[c->pass].name, names[i]) == 0) return true;
    return false;
}

bool pipeline_calibrates(const Pipeline *p)
{
    for (u32 i = 0; i < p->calls.n; i++)
        if (calibrates(&p->calls.at[i])) return true;
    return false;
}

void pipeline_cut(Pipeline *p, const char *pass)
{
    for (u32 i = 0; i < p->calls.n; i++) {
        const PassCall *c = &p->calls.at[i];
        if (pass ? strcmp(pass_info[c->pass].name, pass) == 0 : calibrates(c)) p->calls.n = i;
    }
}
