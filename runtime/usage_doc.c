/* Manual page and reference page. Contract: usage.h. */
#include "runtime/usage.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

void pfq_use_env(const PfqUseOption *o, char out[64])
{
    int n = snprintf(out, 64, "PFQC_%s", o->name);
    for (int i = 0; i < n && i < 63; i++) {
        out[i] = out[i] == '-' ? '_' : (char)toupper((unsigned char)out[i]);
    }
}

bool pfq_use_common(const PfqUse *u, const PfqUseOption *o)
{
    return 2 * __builtin_popcount(o->commands) > u->n_commands;
}

static bool takes(const PfqUseOption *o, int command)
{
    return o->commands >> command & 1;
}

/* ---- text ---- */

/* One character into the text of a page. */
typedef void Put(PfqOut *out, char c);

static void put_plain(PfqOut *out, char c)
{
    pfq_out_write(out, &c, 1);
}

static void put_man(PfqOut *out, char c)
{
    pfq_out_write(out, c == '\\' ? "\\e" : &c, c == '\\' ? 2 : 1);
}

/* `|` would end a cell of a table, `<` begin HTML. */
static void put_markdown(PfqOut *out, char c)
{
    pfq_out_write(out, "\\", strchr("|*_<", c) ? 1 : 0);
    pfq_out_write(out, &c, 1);
}

static void put_text(PfqOut *out, const PfqUse *u, Put *put, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '%' && i + 1 < n && text[i + 1] == 's') {
            for (const char *p = u->program; *p; p++) {
                put(out, *p);
            }
            i++;
        } else {
            put(out, text[i]);
        }
    }
}

/* A text's paragraphs: calls with each, and whether it is an example. */
typedef void Paragraph(PfqOut *out, const PfqUse *u, const char *text, size_t n, bool example,
                       bool first);

static void paragraphs(PfqOut *out, const PfqUse *u, const char *text, Paragraph *each)
{
    for (bool first = true; *text; first = false) {
        const char *end = strstr(text, "\n\n");
        const size_t n = end ? (size_t)(end - text) : strlen(text);
        each(out, u, text, n, strncmp(text, "    ", 4) == 0, first);
        text += n + (end ? 2 : 0);
    }
}

/* A help as a sentence, without its full stop. */
static void sentence(PfqOut *out, const PfqUse *u, Put *put, const char *help)
{
    put(out, (char)toupper((unsigned char)*help));
    put_text(out, u, put, help + 1, strlen(help + 1));
}

static void names(PfqOut *out, const PfqUse *u, const PfqUseOption *o, const char *quote)
{
    const char *between = "";
    for (int c = 0; c < u->n_commands; c++) {
        if (takes(o, c) && *u->command[c].name) {
            pfq_out_printf(out, "%s%s%s%s", between, quote, u->command[c].name, quote);
            between = ", ";
        }
    }
}

/* ---- mdoc ---- */

static void man_paragraph(PfqOut *out, const PfqUse *u, const char *text, size_t n, bool example,
                          bool first)
{
    pfq_out_printf(out, example ? ".Bd -literal -offset indent\n" : first ? "" : ".Pp\n");
    for (size_t i = 0; i < n;) {
        const char *eol = memchr(text + i, '\n', n - i);
        const size_t len = eol ? (size_t)(eol - text) - i : n - i;
        const size_t skip = example && len >= 4 ? 4 : 0;
        if (text[i + skip] == '.' || text[i + skip] == '\'') {
            pfq_out_printf(out, "\\&");
        }
        put_text(out, u, put_man, text + i + skip, len - skip);
        pfq_out_write(out, "\n", 1);
        i += len + 1;
    }
    pfq_out_printf(out, example ? ".Ed\n" : "");
}

static void man_text(PfqOut *out, const PfqUse *u, const char *text)
{
    paragraphs(out, u, text, man_paragraph);
}

/* An argument of a macro: quoted, since it may hold spaces and brackets. */
static void man_quoted(PfqOut *out, const PfqUse *u, const char *text)
{
    pfq_out_write(out, "\"", 1);
    put_text(out, u, put_man, text, strlen(text));
    pfq_out_write(out, "\"", 1);
}

static void man_option(PfqOut *out, const PfqUse *u, const PfqUseOption *o, bool common)
{
    char env[64];
    pfq_use_env(o, env);
    pfq_out_printf(out, ".It ");
    if (o->letter) {
        pfq_out_printf(out, "Fl %c , ", o->letter);
    }
    pfq_out_printf(out, "Fl Fl %s", o->name);
    if (*o->arg) {
        pfq_out_printf(out, " Ar ");
        man_quoted(out, u, o->arg);
    }
    pfq_out_write(out, "\n", 1);
    sentence(out, u, put_man, o->help);
    if (o->has_default) {
        pfq_out_printf(out, " (default %g)", o->def);
    }
    pfq_out_printf(out, ".\n");
    if (common && __builtin_popcount(o->commands) < u->n_commands) {
        pfq_out_printf(out, "For ");
        names(out, u, o, "");
        pfq_out_printf(out, ".\n");
    }
}

/* Options of a command alone (>= 0), or common ones (-1). */
static bool listed(const PfqUse *u, const PfqUseOption *o, int command)
{
    return command < 0 ? pfq_use_common(u, o) : takes(o, command) && !pfq_use_common(u, o);
}

static void man_options(PfqOut *out, const PfqUse *u, int command)
{
    bool any = false;
    for (int i = 0; i < u->n_options; i++) {
        if (listed(u, &u->option[i], command)) {
            pfq_out_printf(out, any ? "" : ".Bl -tag -width indent\n");
            man_option(out, u, &u->option[i], command < 0);
            any = true;
        }
    }
    pfq_out_printf(out, any ? ".El\n" : "");
}

static void upper(PfqOut *out, const char *s)
{
    for (; *s; s++) {
        char c = (char)toupper((unsigned char)*s);
        pfq_out_write(out, &c, 1);
    }
}

void pfq_use_man(PfqOut *out, const PfqUse *u)
{
    pfq_out_printf(out, ".\\\" By '%s man', from the table of its options.\n.Dd\n.Dt ", u->program);
    upper(out, u->program);
    pfq_out_printf(out, " 1\n.Os\n.Sh NAME\n.Nm %s\n.Nd ", u->program);
    put_text(out, u, put_man, u->summary, strlen(u->summary));
    pfq_out_printf(out, "\n.Sh SYNOPSIS\n");
    for (int c = 0; c < u->n_commands; c++) {
        const PfqUseCommand *cmd = &u->command[c];
        pfq_out_printf(out, ".Nm%s%s\n.Op Ar options\n", *cmd->name ? " Cm " : "", cmd->name);
        if (*cmd->operands) {
            pfq_out_printf(out, ".Ar ");
            man_quoted(out, u, cmd->operands);
            pfq_out_write(out, "\n", 1);
        }
    }
    pfq_out_printf(out, ".Sh DESCRIPTION\n");
    man_text(out, u, u->about);
    pfq_out_printf(out, ".Sh COMMANDS\n");
    for (int c = 0; c < u->n_commands; c++) {
        const PfqUseCommand *cmd = &u->command[c];
        pfq_out_printf(out, ".Ss %s%s%s%s%s\n", u->program, *cmd->name ? " " : "", cmd->name,
                       *cmd->operands ? " " : "", cmd->operands);
        sentence(out, u, put_man, cmd->help);
        pfq_out_printf(out, ".\n");
        man_options(out, u, c);
    }
    pfq_out_printf(out, ".Sh COMMON OPTIONS\n");
    man_options(out, u, -1);
    for (int i = 0; i < u->n_texts; i++) {
        pfq_out_printf(out, ".Sh ");
        upper(out, u->text[i].title);
        pfq_out_write(out, "\n", 1);
        man_text(out, u, u->text[i].text);
    }
}

/* ---- Markdown ---- */

static void markdown_paragraph(PfqOut *out, const PfqUse *u, const char *text, size_t n,
                               bool example, bool first)
{
    (void)example, (void)first; /* four spaces are code in Markdown too */
    put_text(out, u, put_plain, text, n);
    pfq_out_printf(out, "\n\n");
}

static void markdown_options(PfqOut *out, const PfqUse *u, int command)
{
    bool any = false;
    for (int i = 0; i < u->n_options; i++) {
        const PfqUseOption *o = &u->option[i];
        char env[64];
        if (!listed(u, o, command)) {
            continue;
        }
        pfq_use_env(o, env);
        pfq_out_printf(out, any ? "" : "| option | variable | meaning |\n|---|---|---|\n");
        any = true;
        pfq_out_printf(out, "| `--%s%s", o->name, *o->arg ? " " : "");
        for (const char *p = o->arg; *p; p++) { /* in code only the end of the cell matters */
            pfq_out_write(out, "\\", *p == '|' ? 1 : 0);
            pfq_out_write(out, p, 1);
        }
        pfq_out_write(out, "`", 1);
        if (o->letter) {
            pfq_out_printf(out, ", `-%c`", o->letter);
        }
        pfq_out_printf(out, o->no_variable ? " | | " : " | `%s` | ", env);
        put_text(out, u, put_markdown, o->help, strlen(o->help));
        if (o->has_default) {
            pfq_out_printf(out, " (default %g)", o->def);
        }
        if (command < 0 && __builtin_popcount(o->commands) < u->n_commands) {
            pfq_out_printf(out, "; for ");
            names(out, u, o, "`");
        }
        pfq_out_printf(out, " |\n");
    }
    pfq_out_printf(out, any ? "\n" : "");
}

void pfq_use_markdown(PfqOut *out, const PfqUse *u)
{
    pfq_out_printf(out, "# %s: ", u->program);
    put_text(out, u, put_plain, u->summary, strlen(u->summary));
    pfq_out_printf(out, "\n\n");
    paragraphs(out, u, u->about, markdown_paragraph);
    pfq_out_printf(out, "## Commands\n\n");
    for (int c = 0; c < u->n_commands; c++) {
        const PfqUseCommand *cmd = &u->command[c];
        pfq_out_printf(out, "### `%s%s%s%s%s`\n\n", u->program, *cmd->name ? " " : "", cmd->name,
                       *cmd->operands ? " " : "", cmd->operands);
        sentence(out, u, put_plain, cmd->help);
        pfq_out_printf(out, ".\n\n");
        markdown_options(out, u, c);
    }
    pfq_out_printf(out, "## Common options\n\n");
    markdown_options(out, u, -1);
    for (int i = 0; i < u->n_texts; i++) {
        pfq_out_printf(out, "## %s\n\n", u->text[i].title);
        paragraphs(out, u, u->text[i].text, markdown_paragraph);
    }
}
