/* Where a view comes from. */
#include "inspect/forms.h"
#include "inspect/inspect.h"
#include "inspect/plan.h"

#include "ir/base/json.h"
#include "ir/text.h"

enum { MAX_TEXT = 1 << 28 };

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

static Module *read_module(Diag *d, Arena *a, const char *path)
{
    Source *src = NEW(a, Source); /* diagnostics point into it */
    if (!io_read_text(d, a, path, MAX_TEXT, src)) return NULL;
    return ir_parse(d, a, src, io_dirname(a, path));
}

static bool bad_changes(Diag *d, const Source *src, const Json *v, const char *expected)
{
    return diag_error(d, E_JSON_VALUE, json_loc(src, v), "expected %s", expected);
}

static bool check_edit(Diag *d, const Source *src, const Json *e)
{
    static const char *const counts[] = {"alike", "inserted", "removed", "changed", "left_out"};
    i64 n;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (!json_need_int(d, src, e, counts[i], 0, UINT32_MAX, &n)) return false;
    const Json *lines = json_need(d, src, e, "lines", JSON_ARRAY);
    if (!lines || !json_need(d, src, e, "in", JSON_STRING) ||
        !json_need(d, src, e, "layers", JSON_STRING))
        return false;
    for (u32 i = 0; i < lines->n; i++)
        if (lines->at[i].kind != JSON_STRING || !lines->at[i].str.n)
            return bad_changes(d, src, &lines->at[i], "a line that begins with + or -");
    return true;
}

/* Everything that writers will ask of passes.json is there. */
static bool check_changes(Diag *d, const Source *src, const Json *root)
{
    static const char *const counts[] = {"changes", "ops",     "inserted",
                                         "removed", "changed", "left_out"};
    i64 n;
    const Json *passes = json_need_int(d, src, root, "changes", 1, 1, &n)
                             ? json_need(d, src, root, "passes", JSON_ARRAY)
                             : NULL;
    if (!passes) return false;
    for (u32 i = 0; i < passes->n; i++) {
        const Json *p = &passes->at[i];
        const Json *edits = json_need(d, src, p, "edits", JSON_ARRAY);
        if (!edits || !json_need(d, src, p, "pass", JSON_STRING) ||
            !json_need(d, src, p, "stage", JSON_STRING) ||
            !json_need(d, src, p, "options", JSON_STRING))
            return false;
        for (size_t k = 0; k < sizeof counts / sizeof *counts; k++)
            if (!json_need_int(d, src, p, counts[k], 0, UINT32_MAX, &n)) return false;
        for (u32 k = 0; k < edits->n; k++)
            if (!check_edit(d, src, &edits->at[k])) return false;
    }
    return true;
}

static bool read_changes(Diag *d, Arena *a, const char *path, View *v)
{
    Source *src = NEW(a, Source);
    if (!io_read_text(d, a, path, MAX_TEXT, src)) return false;
    v->changes = json_parse(d, a, src);
    v->passes = (Str){src->text, src->n};
    return v->changes && check_changes(d, src, v->changes);
}

bool inspect_open(Diag *d, Arena *a, const char *path, View *out)
{
    if (ends_with(path, ".pfir")) {
        *out = (View){.source = "pfir", .m = read_module(d, a, path)};
        return out->m != NULL;
    }
    const char *folder = io_is_dir(path) ? path : io_dirname(a, path);
    const char *passes = io_join(a, folder, "passes.json"), *ir = io_join(a, folder, "model.pfir");
    Plan *plan = NEW(a, Plan);
    *out = (View){.source = "out", .plan = plan};
    if (!plan_read(d, a, path, plan)) return false;
    if (io_exists(passes) && !read_changes(d, a, passes, out)) return false;
    return !io_exists(ir) || (out->m = read_module(d, a, ir)) != NULL;
}

View inspect_module(Module *m)
{
    return (View){.source = "model", .m = m};
}

const InspectForm inspect_form[] = {
    {"html", form_html}, {"text", form_text}, {"json", form_json}, {"dot", form_dot}, {0}};
