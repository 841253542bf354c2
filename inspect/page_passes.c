/* The pipeline: a line a pass, and behind it what it changed in the module's text. */
#include "inspect/chart.h"
#include "inspect/page.h"

#include "ir/base/json.h"

static i64 count(const Json *obj, const char *key)
{
    return json_get(obj, key)->i;
}

static void edit_title(Page *g, const Json *e)
{
    static const struct {
        const char *key, *says;
    } counts[] = {{"inserted", "inserted"}, {"removed", "removed"}, {"changed", "changed"}};
    const Str layers = json_get(e, "layers")->str;
    const i64 alike = count(e, "alike");
    page_text(g, "<h4><code>", json_get(e, "in")->str, "</code>");
    if (layers.n) page_text(g, strpbrk(layers.p, ",-") ? ", layers " : ", layer ", layers, "");
    if (alike > 1) sb_printf(g->o, ", %lld times the same", (long long)alike);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (count(e, counts[i].key))
            sb_printf(g->o, ", %lld %s", (long long)count(e, counts[i].key), counts[i].says);
    sb_str(g->o, "</h4>\n");
}

static void edit(Page *g, const Json *e)
{
    const Json *lines = json_get(e, "lines");
    edit_title(g, e);
    sb_str(g->o, "<pre>");
    for (u32 i = 0; i < lines->n; i++) {
        const Str s = lines->at[i].str;
        sb_str(g->o, *s.p == '-' ? "<del>" : "<ins>");
        html_text(g->o, s);
        sb_str(g->o, *s.p == '-' ? "</del>\n" : "</ins>\n");
    }
    if (count(e, "left_out"))
        sb_printf(g->o, "... %lld lines more\n", (long long)count(e, "left_out"));
    sb_str(g->o, "</pre>\n");
}

static void pass(Page *g, const Json *p, i64 most)
{
    static const struct {
        const char *key, *sign, *class;
    } counts[] = {
        {"inserted", "+", "came"}, {"removed", "&minus;", "went"}, {"changed", "~", "other"}};
    const Json *edits = json_get(p, "edits");
    const char *tag = edits->n ? "details" : "div";
    sb_printf(g->o, "<%s class=\"pass%s\">%s", tag, edits->n ? "" : " nothing",
              edits->n ? "<summary>" : "");
    page_text(g, "<b>", json_get(p, "pass")->str, "</b>");
    page_text(g, "<code>", json_get(p, "options")->str, "</code>");
    sb_str(g->o, "<span class=\"counts\">");
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (count(p, counts[i].key))
            sb_printf(g->o, " <span class=\"%s\">%s%lld</span>", counts[i].class, counts[i].sign,
                      (long long)count(p, counts[i].key));
    sb_printf(g->o,
              "</span><span class=\"ops\"><i style=\"width:%.1f%%\"></i></span><span "
              "class=\"number\">%lld ops</span>",
              100.0 * (double)count(p, "ops") / (double)most, (long long)count(p, "ops"));
    sb_str(g->o, edits->n ? "</summary>\n" : "");
    for (u32 i = 0; i < edits->n; i++)
        edit(g, &edits->at[i]);
    if (count(p, "left_out"))
        sb_printf(g->o, "<p>%lld more are left out.</p>", (long long)count(p, "left_out"));
    sb_printf(g->o, "</%s>\n", tag);
}

void page_passes(Page *g)
{
    const Json *list = g->v->changes ? json_get(g->v->changes, "passes") : NULL;
    i64 most = 1;
    if (!list) {
        sb_str(g->o, "<p>There is no passes.json.</p>\n");
        return;
    }
    for (u32 i = 0; i < list->n; i++)
        most = count(&list->at[i], "ops") > most ? count(&list->at[i], "ops") : most;
    for (u32 i = 0; i < list->n; i++)
        pass(g, &list->at[i], most);
}
