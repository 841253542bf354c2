/* Reproducers: a module and the passes still to run, in one .pfir whose first comments say how to
 * go on. */
#include "passes/options.h"

#include "ir/text.h"

static const char folder_is[] = "// folder: ", pipeline_is[] = "// pipeline: ";

void pipeline_text(const Pipeline *p, u32 from, StrBuf *b)
{
    sb_str(b, "");
    for (u32 i = from; i < p->calls.n; i++) {
        const PassCall *c = &p->calls.at[i];
        StrBuf options = {.a = b->a};
        sb_str(&options, "");
        options_text(c, &options);
        sb_printf(b, options.n ? "%s%s{%s}" : "%s%s%s", i > from ? "," : "",
                  pass_info[c->pass].name, options.p);
    }
}

void reproducer_text(const Module *m, const Pipeline *p, u32 from, StrBuf *b)
{
    sb_printf(b, "// pfqc opt --run-reproducer FILE, in the folder where pfqc ran\n%s%s\n%s",
              folder_is, m->dir, pipeline_is);
    pipeline_text(p, from, b);
    sb_ch(b, '\n');
    ir_print(m, b);
}

/* What follows `key` in one of the comments that the text begins with. */
static bool comment(const Source *src, const char *key, Str *out)
{
    for (Str rest = {src->text, src->n}; str_starts(rest, "//");) {
        const char *end = memchr(rest.p, '\n', rest.n);
        const size_t n = end ? (size_t)(end - rest.p) : rest.n, skip = strlen(key);
        *out = (Str){rest.p + skip, n - skip};
        if (n >= skip && memcmp(rest.p, key, skip) == 0) return true;
        if (!end) return false;
        rest = (Str){end + 1, rest.n - n - 1};
    }
    return false;
}

bool reproducer_read(Diag *d, Arena *a, const Source *src, const char **folder, Pipeline *p)
{
    Str where, what;
    if (!comment(src, folder_is, &where) || !comment(src, pipeline_is, &what)) {
        diag_error(d, E_IR_SYNTAX, (Loc){.src = src}, "this is not a reproducer");
        diag_hint(d, "one begins with the comments '%s' and '%s'", folder_is, pipeline_is);
        return false;
    }
    Source *text = NEW(a, Source);
    *text = (Source){"the reproducer's pipeline", arena_strdup(a, what.p, what.n), what.n};
    *folder = arena_strdup(a, where.p, where.n);
    return pipeline_parse(d, a, text, p);
}
