/* The template engine as a filter, for test_template.py, and blobs for other tests.
 *
 *     tpl_tool render < CASES
 *     tpl_tool source NAME FILE... > OUT.h
 *
 * A case is a line, a JSON object of "template" (text, or a list of {"name", "template"}), "context"
 * (object), "now" (seconds) and the limits "steps", "output", "depth". Answers are lines of JSON:
 * {"text": ...}, {"error": ...}, or {"refused": "line:column: code: text"} by the parser.
 *
 * `source` writes the blob of templates as an array in C, the first as "default", others by their
 * file's name.
 */
#include "frontend/template.h"
#include "runtime/image.h"
#include "runtime/out.h"

#include <stdio.h>
#include <stdlib.h>

static void add_text(Arena *a, TplSet *set, Str name, Str text)
{
    Source *src = NEW(a, Source);
    *src = (Source){.name = "template", .text = text.p, .n = text.n};
    vec_push(a, &set->text, ((TplText){name, src}));
}

static Str str(PfqVal v)
{
    return v.kind == PFQ_V_STR ? (Str){v.s, v.n} : (Str){"", 0};
}

static void answer(PfqOut *o, const char *key, const char *text, size_t n)
{
    pfq_out_printf(o, "{\"%s\": \"", key);
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == '"' || c == '\\')
            pfq_out_printf(o, "\\u%04x", c);
        else
            pfq_out_write(o, text + i, 1);
    }
    pfq_out_printf(o, "\"}\n");
    pfq_out_flush(o);
}

static void collect(Arena *a, PfqVal templates, TplSet *set)
{
    if (templates.kind == PFQ_V_STR) add_text(a, set, STR("default"), str(templates));
    for (u32 i = 0; templates.kind == PFQ_V_LIST && i < templates.n; i++)
        add_text(a, set, str(pfq_val_get(templates.at[i], "name")),
                 str(pfq_val_get(templates.at[i], "template")));
}

/* "line:col: text" of the first diagnostic. */
static void refused(PfqOut *o, Arena *a, const Diag *d)
{
    u32 line = 0, col = 0;
    if (d->msgs.at[0].loc.src) loc_line_col(d->msgs.at[0].loc, &line, &col);
    const char *s = arena_printf(a, "%u:%u: %s: %s", line, col, err_name(d->msgs.at[0].code),
                                 d->msgs.at[0].text);
    answer(o, "refused", s, strlen(s));
}

static u64 number(PfqVal v, u64 def)
{
    return v.kind == PFQ_V_INT ? (u64)v.i : def;
}

static void render_case(PfqOut *o, const char *line, size_t n)
{
    Arena a = {0};
    Diag d;
    PfqMem m;
    PfqErr err;
    PfqVal c, text;
    TplSet set = {0};
    TplBlob blob;
    PfqTemplate t;
    diag_init(&d, &a);
    pfq_mem_init(&m, PFQ_MEM_LIMIT);
    if (!pfq_val_json(&m, line, n, &c, &err)) {
        answer(o, "error", err.text, strlen(err.text));
    } else {
        const PfqTplLimits def = PFQ_TPL_LIMITS,
                           limits = {number(pfq_val_get(c, "steps"), def.steps),
                                     number(pfq_val_get(c, "output"), def.output),
                                     (unsigned)number(pfq_val_get(c, "depth"), def.depth)};
        const PfqVal context = pfq_val_get(c, "context");
        collect(&a, pfq_val_get(c, "template"), &set);
        if (!fe_template_compile(&d, &a, &set, &blob) || pfq_tpl_open(&t, blob.data, blob.n))
            refused(o, &a, &d);
        else if (pfq_tpl_render(
                     &t, pfq_tpl_choose(&t, pfq_val_get(context, "tools").kind == PFQ_V_LIST),
                     context, &limits, (i64)number(pfq_val_get(c, "now"), 0), &m, &text, &err))
            answer(o, "text", text.s, text.n);
        else
            answer(o, "error", err.text, strlen(err.text));
    }
    pfq_mem_free(&m);
    arena_free(&a);
}

static int render(void)
{
    static PfqOut o;
    char *line = NULL;
    size_t cap = 0;
    pfq_out_init(&o, 1);
    for (ssize_t n; (n = getline(&line, &cap, stdin)) > 0;)
        render_case(&o, line, (size_t)n);
    free(line);
    return 0;
}

static int source(const char *array, int n, char **paths)
{
    Arena a = {0};
    Diag d;
    TplSet set = {0};
    TplBlob out;
    diag_init(&d, &a);
    bool ok = true;
    for (int i = 0; i < n && ok; i++) {
        Source *src = NEW(&a, Source);
        ok = io_read_text(&d, &a, paths[i], TPL_MAX_TEXT, src);
        const char *name = strrchr(paths[i], '/') ? strrchr(paths[i], '/') + 1 : paths[i];
        if (ok)
            vec_push(&a, &set.text,
                     ((TplText){i ? (Str){name, strcspn(name, ".")} : STR("default"), src}));
    }
    ok = ok && fe_template_compile(&d, &a, &set, &out);
    if (ok) printf("static _Alignas(8) const unsigned char %s[] = {", array);
    for (size_t i = 0; ok && i < out.n; i++)
        printf("%s%d,", i % 24 ? " " : "\n    ", out.data[i]);
    if (ok) puts("\n};");
    diag_flush(&d);
    arena_free(&a);
    return ok ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "render") == 0) return render();
    if (argc > 3 && strcmp(argv[1], "source") == 0) return source(argv[2], argc - 3, argv + 3);
    fprintf(stderr, "usage: tpl_tool render | source NAME FILE...\n");
    return 2;
}
