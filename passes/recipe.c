/* Recipes: named pipelines in JSON, built in (passes/recipes) or from a file. */
#include "passes/pass.h"

#include "ir/base/json.h"

#include <string.h>

/* Made by CMake from passes/recipes (*.json), sorted by name; ends with a NULL name. */
typedef struct Embedded {
    const char *name; /* file name */
    const char *text;
    u64 n;
} Embedded;
extern const Embedded passes_recipes[];

const char *recipe_builtin_name(u32 i)
{
    for (u32 k = 0; k < i; k++)
        if (!passes_recipes[k].name) return NULL;
    return passes_recipes[i].name;
}

static const Embedded *find(const char *name)
{
    for (const Embedded *e = passes_recipes; e->name; e++)
        if (strcmp(e->name, name) == 0) return e;
    return NULL;
}

const char *recipe_builtin_text(const char *name)
{
    const Embedded *e = find(name);
    return e ? e->text : NULL;
}

static bool is_path(const char *s)
{
    size_t n = strlen(s);
    return strchr(s, '/') || (n > 5 && strcmp(s + n - 5, ".json") == 0);
}

static bool unknown(Diag *d, const char *which)
{
    const char *names[64], *list = "";
    u32 n = 0;
    for (; n < 64 && passes_recipes[n].name; n++) {
        names[n] = passes_recipes[n].name;
        list = arena_printf(d->a, "%s%s%s", list, n ? ", " : "", names[n]);
    }
    diag_error(d, E_RECIPE, LOC_WHAT("recipe"), "there is no recipe '%s' (there are: %s)", which,
               list);
    const char *near = str_nearest(str_c(which), names, n);
    if (near) diag_hint(d, "did you mean '%s'?", near);
    return false;
}

static bool load_source(Diag *d, Arena *a, const char *which, Source *src)
{
    if (is_path(which)) return io_read_text(d, a, which, 1u << 20, src);
    const Embedded *e = find(which);
    if (!e) return unknown(d, which);
    *src = (Source){.name = arena_printf(a, "recipe %s", which), .text = e->text, .n = e->n};
    return true;
}

bool recipe_load(Diag *d, Arena *a, const char *which, Recipe *out)
{
    static const char *const keys[] = {"name", "doc", "passes"};
    Source *src = NEW(a, Source);
    *out = (Recipe){0};
    if (!load_source(d, a, which, src)) return false;
    const Json *j = json_parse(d, a, src);
    if (!j) return false;
    if (j->kind != JSON_OBJECT)
        return diag_error(d, E_RECIPE, json_loc(src, j), "a recipe is an object, found %s",
                          json_kind_name(j->kind));
    bool ok = json_only(d, src, j, keys, sizeof keys / sizeof *keys);
    const Json *name = json_need(d, src, j, "name", JSON_STRING),
               *doc = json_need(d, src, j, "doc", JSON_STRING);
    const Json *passes = json_need(d, src, j, "passes", JSON_ARRAY);
    if (!name || !doc || !passes) return false;
    out->name = name->str.p;
    out->doc = doc->str.p;
    for (u32 i = 0; i < passes->n; i++) {
        const Json *p = &passes->at[i];
        if (p->kind != JSON_STRING) {
            ok = diag_error(d, E_RECIPE, json_loc(src, p), "a pass is a string, found %s",
                            json_kind_name(p->kind));
            continue;
        }
        Source *text = NEW(a, Source);
        *text = (Source){.name = arena_printf(a, "%s, passes[%u]", src->name, i),
                         .text = p->str.p,
                         .n = p->str.n};
        ok &= pipeline_parse(d, a, text, &out->pipeline);
    }
    return ok;
}
