#include "ir/base/diag.h"

#include <stdio.h>

enum { MSG_ERROR, MSG_WARNING, MSG_HINT, MSG_NOTE };

static const struct ErrInfo {
    const char *name, *text;
} infos[] = {
    {"E0000", ""},
#define X(code, id, text) {id, text},
#include "ir/base/errors.def"
#undef X
};

const char *err_name(ErrCode c)
{
    return infos[c].name;
}

const char *err_explain(const char *name)
{
    for (size_t i = 1; i < E_COUNT; i++)
        if (strcmp(infos[i].name, name) == 0) return infos[i].text;
    return NULL;
}

void diag_doc(StrBuf *b)
{
    sb_str(b, "# Error codes\n\nMade by `pfqc doc errors` from ir/base/errors.def. `pfqc explain "
              "CODE` prints one.\n\n");
    for (size_t i = 1; i < E_COUNT; i++)
        sb_printf(b, "- **%s** %s\n", infos[i].name, infos[i].text);
}

void diag_init(Diag *d, Arena *a)
{
    *d = (Diag){.a = a};
}

/* Names from files may hold anything: a message does nothing to a terminal, and is one line unless
 * it is a note, which may quote a program's output. */
static char *printable(char *text, bool lines)
{
    bool utf8 = utf8_valid(str_c(text));
    for (char *p = text; *p; p++)
        if (((u8)*p < 0x20 && !(lines && *p == '\n')) || *p == 0x7f || (!utf8 && (u8)*p >= 0x80))
            *p = '?';
    return text;
}

static void add(Diag *d, int kind, ErrCode code, Loc loc, const char *fmt, va_list ap)
{
    if (d->silent) return;
    struct DiagMsg m = {kind, code, loc, printable(arena_vprintf(d->a, fmt, ap), kind == MSG_NOTE)};
    vec_push(d->a, &d->msgs, m);
}

bool diag_error(Diag *d, ErrCode code, Loc loc, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (d->n_errors++ < DIAG_MAX) add(d, MSG_ERROR, code, loc, fmt, ap);
    va_end(ap);
    return false;
}

void diag_warn(Diag *d, Loc loc, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    d->n_warnings++;
    add(d, MSG_WARNING, E_NONE, loc, fmt, ap);
    va_end(ap);
}

void diag_hint(Diag *d, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (d->n_errors <= DIAG_MAX) add(d, MSG_HINT, E_NONE, LOC_NONE, fmt, ap);
    va_end(ap);
}

void diag_note(Diag *d, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (d->n_errors <= DIAG_MAX) add(d, MSG_NOTE, E_NONE, LOC_NONE, fmt, ap);
    va_end(ap);
}

void loc_line_col(Loc loc, u32 *line, u32 *col)
{
    *line = 1, *col = 1;
    for (size_t i = 0; i < loc.off && i < loc.src->n; i++) {
        u8 c = (u8)loc.src->text[i];
        if (c == '\n')
            ++*line, *col = 1;
        else if ((c & 0xc0) != 0x80)
            ++*col;
    }
}

/* The source line with a caret under the range; long lines are cut around it, control characters
 * blanked. */
static void print_caret(Loc loc, u32 line)
{
    enum { WIDTH = 96 };
    const char *t = loc.src->text;
    size_t n = loc.src->n, at = loc.off < n ? loc.off : n, b = at, e = at;
    while (b > 0 && t[b - 1] != '\n' && at - b < WIDTH / 2)
        b--;
    while (e < n && t[e] != '\n' && e - b < WIDTH)
        e++;
    fprintf(stderr, "%5u | ", line);
    for (size_t i = b; i < e; i++)
        fputc((u8)t[i] < 32 ? ' ' : t[i], stderr);
    fputs("\n      | ", stderr);
    for (size_t i = b; i < at; i++)
        if (((u8)t[i] & 0xc0) != 0x80) fputc(' ', stderr);
    fputc('^', stderr);
    for (size_t i = 1; i < loc.len && at + i < e; i++)
        if (((u8)t[at + i] & 0xc0) != 0x80) fputc('~', stderr);
    fputc('\n', stderr);
}

static void print_json_text(const char *s)
{
    fputc('"', stderr);
    for (; *s; s++) {
        if ((u8)*s < 32)
            fprintf(stderr, "\\u%04x", (unsigned)(u8)*s);
        else {
            if (*s == '"' || *s == '\\') fputc('\\', stderr);
            fputc(*s, stderr);
        }
    }
    fputc('"', stderr);
}

static const char *const kind_name[] = {"error", "warning", "hint", "note"};

static void print_json(const struct DiagMsg *m)
{
    fprintf(stderr, "{\"kind\":\"%s\"", kind_name[m->kind]);
    if (m->code) fprintf(stderr, ",\"code\":\"%s\"", err_name(m->code));
    if (m->loc.src) {
        fputs(",\"file\":", stderr);
        print_json_text(m->loc.src->name);
        if (m->loc.src->text) {
            u32 line, col;
            loc_line_col(m->loc, &line, &col);
            fprintf(stderr, ",\"line\":%u,\"column\":%u", line, col);
        } else
            fprintf(stderr, ",\"offset\":%zu", m->loc.off);
    }
    if (m->loc.what) fputs(",\"where\":", stderr), print_json_text(m->loc.what);
    fputs(",\"text\":", stderr);
    print_json_text(m->text);
    fputs("}\n", stderr);
}

static void print_text(const struct DiagMsg *m)
{
    u32 line = 0, col = 0;
    if (m->kind >= MSG_HINT) {
        fprintf(stderr, "  %s: %s\n", kind_name[m->kind], m->text);
        return;
    }
    if (m->loc.src && m->loc.src->text) {
        loc_line_col(m->loc, &line, &col);
        fprintf(stderr, "%s:%u:%u: ", m->loc.src->name, line, col);
    } else if (m->loc.src)
        fprintf(stderr, "%s: at byte %zu: ", m->loc.src->name, m->loc.off);
    if (m->loc.what) fprintf(stderr, "%s: ", m->loc.what);
    if (!m->loc.src && !m->loc.what) fputs("pfqc: ", stderr);
    fputs(kind_name[m->kind], stderr);
    if (m->code) fprintf(stderr, "[%s]", err_name(m->code));
    fprintf(stderr, ": %s\n", m->text);
    if (line) print_caret(m->loc, line);
}

void diag_flush(Diag *d)
{
    fflush(stdout);
    for (u32 i = 0; i < d->msgs.n; i++)
        (d->json ? print_json : print_text)(&d->msgs.at[i]);
    if (d->n_errors > DIAG_MAX && d->msgs.n && !d->json)
        fprintf(stderr, "pfqc: %u more errors not shown\n", d->n_errors - DIAG_MAX);
    d->msgs.n = 0;
}
