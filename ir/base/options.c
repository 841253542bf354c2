#include "ir/base/options.h"

#include <stdlib.h>

static bool set_value(Diag *d, const OptRow *row, const char *where, const char *text, OptVal *v)
{
    v->set = true;
    v->s = text;
    if (row->kind != OPT_INT) return true;
    if (!str_to_i64(str_c(text), &v->i) || v->i < 0 || v->i > INT32_MAX)
        return diag_error(d, E_USAGE, LOC_WHAT(where), "'%s' is not a number from 0 to %d", text,
                          INT32_MAX);
    return true;
}

static const char *env_name(Arena *a, const OptRow *row)
{
    char *e = arena_printf(a, "PFQC_%s", row->name);
    for (char *p = e; *p; p++)
        *p = *p == '-' ? '_' : *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : *p;
    return e;
}

static bool read_env(Diag *d, Arena *a, const OptRow *row, OptVal *v)
{
    const char *name = env_name(a, row), *text = getenv(name);
    if (!text || !*text) return true;
    if (row->kind == OPT_FLAG) {
        v->set = strcmp(text, "0") != 0;
        return true;
    }
    return set_value(d, row, name, text, v);
}

static bool unknown(Diag *d, const OptRow *rows, u32 n, u32 command, const char *arg, Str name)
{
    const char *names[64];
    u32 k = 0;
    for (u32 i = 0; i < n && k < 64; i++)
        if (rows[i].commands & command) names[k++] = rows[i].name;
    diag_error(d, E_USAGE, LOC_WHAT(arg), "unknown option");
    const char *near = str_nearest(name, names, k);
    if (near) diag_hint(d, "did you mean --%s?", near);
    return false;
}

bool options_parse(Diag *d, Arena *a, const OptRow *rows, u32 n, u32 command, int argc, char **argv,
                   int first, OptVal *vals, const char **words, u32 *n_words, u32 max_words)
{
    bool ok = true, only_words = false;
    for (u32 i = 0; i < n; i++)
        if (rows[i].commands & command) ok &= read_env(d, a, &rows[i], &vals[i]);
    *n_words = 0;
    for (int i = first; i < argc; i++) {
        const char *arg = argv[i];
        if (only_words || arg[0] != '-' || !arg[1]) {
            if (*n_words < max_words)
                words[(*n_words)++] = arg;
            else /* the rest is read too: it may say how diagnostics are printed */
                ok = diag_error(d, E_USAGE, LOC_WHAT(arg), "unexpected argument");
            continue;
        }
        if (strcmp(arg, "--") == 0) {
            only_words = true;
            continue;
        }
        bool is_long = arg[1] == '-';
        const char *eq = is_long ? strchr(arg, '=') : NULL;
        Str name = {arg + 1 + is_long, eq ? (size_t)(eq - arg - 2) : strlen(arg + 1 + is_long)};
        u32 r = 0;
        while (r < n && !((rows[r].commands & command) &&
                          (is_long ? str_is(name, rows[r].name) : rows[r].letter == arg[1])))
            r++;
        if (r == n) {
            ok = unknown(d, rows, n, command, arg, name);
            continue;
        }
        const char *text = eq ? eq + 1 : !is_long && arg[2] ? arg + 2 : NULL;
        if (rows[r].kind == OPT_FLAG) {
            if (text) ok = diag_error(d, E_USAGE, LOC_WHAT(arg), "takes no value");
            vals[r].set = true;
            continue;
        }
        if (!text && i + 1 < argc) text = argv[++i];
        if (!text) return diag_error(d, E_USAGE, LOC_WHAT(arg), "needs a value: %s", rows[r].value);
        if (rows[r].kind == OPT_LIST && vals[r].on_line)
            text = arena_printf(a, "%s,%s", vals[r].s, text);
        ok &= set_value(d, &rows[r], arg, text, &vals[r]);
        vals[r].on_line = true;
    }
    return ok;
}

void options_help(StrBuf *b, const OptRow *rows, u32 n, u32 command)
{
    for (u32 i = 0; i < n; i++) {
        if (!(rows[i].commands & command)) continue;
        size_t at = b->n;
        sb_str(b, rows[i].letter ? "  " : "      ");
        if (rows[i].letter) sb_printf(b, "-%c, ", rows[i].letter);
        sb_printf(b, "--%s%s%s", rows[i].name, rows[i].value ? " " : "",
                  rows[i].value ? rows[i].value : "");
        while (b->n - at < 30)
            sb_ch(b, ' ');
        sb_printf(b, "  %s\n", rows[i].doc);
    }
}
