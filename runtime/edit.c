/* The line editor. Contract: edit.h. */
#include "runtime/edit.h"
#include "runtime/unicode.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

typedef struct Text {
    char *p;
    size_t n, cap;
} Text;

struct PfqEditState {
    Text text, out;
    size_t cursor; /* byte of text */
    unsigned char in[4096];
    size_t in_n, in_at;
    char *history[PFQ_EDIT_HISTORY]; /* oldest first */
    int n_history, at_history;
    char *draft;    /* what was there before the history was entered; NULL: outside it */
    int cursor_row; /* of the drawing that is on the screen */
    bool pasting, done;
    PfqEditEnd end;
};
typedef struct PfqEditState State;

/* ---- the terminal's mode ---- */

static struct termios cooked;
static int raw_fd = -1; /* the terminal that is in raw mode */

static void leave_raw(void)
{
    if (raw_fd >= 0) tcsetattr(raw_fd, TCSADRAIN, &cooked);
    raw_fd = -1;
}

static void on_end(int sig)
{
    leave_raw();
    signal(sig, SIG_DFL);
    raise(sig);
}

static const int endings[] = {SIGTERM, SIGHUP, SIGQUIT};
enum { N_ENDINGS = sizeof endings / sizeof *endings };

static void make_raw(int fd)
{
    if (tcgetattr(fd, &cooked) != 0) return;
    struct termios t = cooked;
    t.c_iflag &= ~(tcflag_t)(BRKINT | ICRNL | INPCK | ISTRIP | IXON);
    t.c_oflag &= ~(tcflag_t)OPOST;
    t.c_lflag &= ~(tcflag_t)(ECHO | ICANON | IEXTEN | ISIG);
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    raw_fd = fd;
    tcsetattr(fd, TCSADRAIN, &t);
}

static void enter_raw(int fd, struct sigaction old[N_ENDINGS])
{
    struct sigaction end = {.sa_handler = on_end};
    for (int i = 0; i < N_ENDINGS; i++)
        sigaction(endings[i], &end, &old[i]);
    make_raw(fd);
}

static void end_raw(const struct sigaction old[N_ENDINGS])
{
    leave_raw();
    for (int i = 0; i < N_ENDINGS; i++)
        sigaction(endings[i], &old[i], NULL);
}

/* ---- text ---- */

static bool room(Text *t, size_t more)
{
    if (t->cap - t->n > more) return true;
    const size_t cap = (t->n + more) * 2 + 64;
    char *p = realloc(t->p, cap);
    if (!p) return false;
    t->p = p;
    t->cap = cap;
    return true;
}

static void append(Text *t, const char *s, size_t n)
{
    if (!room(t, n)) return;
    memcpy(t->p + t->n, s, n);
    t->n += n;
}

static void append_str(Text *t, const char *s)
{
    append(t, s, strlen(s));
}

static void insert(State *s, const char *bytes, size_t n)
{
    if (s->text.n + n > PFQ_EDIT_MAX || !room(&s->text, n)) return;
    memmove(s->text.p + s->cursor + n, s->text.p + s->cursor, s->text.n - s->cursor);
    memcpy(s->text.p + s->cursor, bytes, n);
    s->text.n += n;
    s->cursor += n;
}

static void cut(State *s, size_t from, size_t to)
{
    memmove(s->text.p + from, s->text.p + to, s->text.n - to);
    s->text.n -= to - from;
    s->cursor = from;
}

/* Columns of the character at *i, which moves past it. Control characters are shown as ^X. */
static int width_at(const Text *t, size_t *i)
{
    const uint32_t c = pfq_utf8_next(t->p, t->n, i);
    return c == '\t' ? 4 : c < 0x20 || c == 0x7f ? 2 : c & PFQ_UC_BAD ? 1 : pfq_uc_width(c);
}

/* The next place a cursor can stand: combining characters belong to the one before. */
static size_t right_of(const State *s, size_t at)
{
    if (at >= s->text.n) return s->text.n;
    width_at(&s->text, &at);
    for (size_t next = at; at < s->text.n; at = next)
        if (s->text.p[at] == '\n' || width_at(&s->text, &next) > 0) break;
    return at;
}

static size_t left_of(const State *s, size_t at)
{
    size_t from = at > 64 ? at - 64 : 0, before = from;
    while (from > 0 && ((unsigned char)s->text.p[from] & 0xc0) == 0x80)
        before = --from;
    while (from < at) {
        before = from;
        from = right_of(s, from);
    }
    return before;
}

static bool word_at(const State *s, size_t i)
{
    const unsigned char c = (unsigned char)s->text.p[i];
    return c >= 0x80 || c == '_' || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
}

static size_t word_left(const State *s, size_t at)
{
    while (at > 0 && !word_at(s, at - 1))
        at--;
    while (at > 0 && word_at(s, at - 1))
        at--;
    return at;
}

static size_t word_right(const State *s, size_t at)
{
    while (at < s->text.n && !word_at(s, at))
        at++;
    while (at < s->text.n && word_at(s, at))
        at++;
    return at;
}

static size_t line_start(const State *s, size_t at)
{
    while (at > 0 && s->text.p[at - 1] != '\n')
        at--;
    return at;
}

static size_t line_end(const State *s, size_t at)
{
    while (at < s->text.n && s->text.p[at] != '\n')
        at++;
    return at;
}

/* ---- drawing ---- */

typedef struct Place {
    int row, col;
} Place;

typedef struct Draw {
    State *s;
    Place at, cursor;
    int columns, top, rows; /* only rows [top, top + rows) are put out */
} Draw;

static void put(Draw *d, const char *bytes, size_t n)
{
    if (d->at.row >= d->top && d->at.row < d->top + d->rows) append(&d->s->out, bytes, n);
}

static void new_row(Draw *d)
{
    d->at = (Place){d->at.row + 1, 0};
    if (d->at.row > d->top && d->at.row < d->top + d->rows) append_str(&d->s->out, "\r\n");
}

static void put_char(Draw *d, size_t from, size_t to, int width)
{
    const unsigned char c = (unsigned char)d->s->text.p[from];
    if (d->at.col + width > d->columns) new_row(d);
    if (c == '\t')
        put(d, "    ", 4);
    else if (c < 0x20 || c == 0x7f)
        put(d, (const char[]){'^', (char)(c ^ 0x40)}, 2);
    else
        put(d, d->s->text.p + from, to - from);
    d->at.col += width;
}

/* Walks over prompt and text; what is visible goes to s->out. */
static void lay_out(Draw *d, const char *prompt)
{
    const Text *t = &d->s->text;
    d->at = (Place){0, (int)strlen(prompt)};
    if (d->top == 0 && d->rows > 0) append_str(&d->s->out, prompt);
    for (size_t i = 0; i <= t->n;) {
        if (d->at.col >= d->columns) new_row(d);
        if (i == d->s->cursor) d->cursor = d->at;
        if (i == t->n) break;
        const size_t from = i;
        const int width = width_at(t, &i);
        if (t->p[from] == '\n')
            new_row(d);
        else
            put_char(d, from, i, width);
    }
}

static void flush_out(int fd, Text *t)
{
    for (size_t i = 0; i < t->n;) {
        const ssize_t put_n = write(fd, t->p + i, t->n - i);
        if (put_n < 0 && errno != EINTR && errno != EAGAIN) break;
        if (put_n > 0) i += (size_t)put_n;
    }
    t->n = 0;
}

static void move_by(Text *t, const char *form, int n)
{
    char code[16];
    if (n <= 0) return;
    snprintf(code, sizeof code, form, n);
    append_str(t, code);
}

/* Draws all anew, over what was drawn before; the cursor ends where it belongs, or behind the text
 * (`finish`). */
static void draw(PfqEdit *e, const char *prompt, bool finish)
{
    State *s = e->state;
    struct winsize w = {0};
    if (ioctl(e->out, TIOCGWINSZ, &w) != 0 || w.ws_col == 0) w = (struct winsize){24, 80, 0, 0};
    Draw d = {.s = s, .columns = w.ws_col > 8 ? w.ws_col : 8};
    s->out.n = 0;
    lay_out(&d, prompt); /* no rows: only to know where the cursor is */
    d.rows = finish ? d.at.row + 1 : w.ws_row > 2 ? w.ws_row : 2;
    d.top = finish || d.cursor.row < d.rows ? 0 : d.cursor.row - d.rows + 1;
    move_by(&s->out, "\x1b[%dA", s->cursor_row);
    append_str(&s->out, "\r\x1b[J");
    lay_out(&d, prompt);
    const int last = d.at.row < d.top + d.rows ? d.at.row : d.top + d.rows - 1;
    if (finish) {
        append_str(&s->out, "\r\n");
    } else {
        move_by(&s->out, "\x1b[%dA", last - d.cursor.row);
        append_str(&s->out, "\r");
        move_by(&s->out, "\x1b[%dC", d.cursor.col);
    }
    s->cursor_row = finish ? 0 : d.cursor.row - d.top;
    flush_out(e->out, &s->out);
}

/* ---- history ---- */

static void set_text(State *s, const char *text)
{
    s->text.n = s->cursor = 0;
    insert(s, text, strlen(text));
}

static void remember(State *s)
{
    const char *last = s->n_history ? s->history[s->n_history - 1] : "";
    char *copy = s->text.n && strcmp(last, s->text.p) != 0 ? strdup(s->text.p) : NULL;
    if (!copy) return;
    if (s->n_history == PFQ_EDIT_HISTORY) {
        free(s->history[0]);
        memmove(s->history, s->history + 1, (PFQ_EDIT_HISTORY - 1) * sizeof *s->history);
        s->n_history--;
    }
    s->history[s->n_history++] = copy;
}

static void browse(State *s, int step)
{
    const int at = s->at_history + step;
    if (at < 0 || at > s->n_history) return;
    if (!s->draft) {
        s->text.p[s->text.n] = 0;
        s->draft = strdup(s->text.p);
        if (!s->draft) return;
    }
    s->at_history = at;
    set_text(s, at == s->n_history ? s->draft : s->history[at]);
    if (at == s->n_history) {
        free(s->draft);
        s->draft = NULL;
    }
}

/* Up and down: between the lines of the text, past its ends through the history. */
static void vertical(State *s, int step)
{
    const size_t start = line_start(s, s->cursor), end = line_end(s, s->cursor);
    const size_t col = s->cursor - start;
    if (step < 0 && start > 0) {
        const size_t up = line_start(s, start - 1);
        s->cursor = up + col < start - 1 ? up + col : start - 1;
    } else if (step > 0 && end < s->text.n) {
        const size_t next_end = line_end(s, end + 1);
        s->cursor = end + 1 + col < next_end ? end + 1 + col : next_end;
    } else {
        browse(s, step);
        return;
    }
    while (s->cursor > 0 && s->cursor < s->text.n &&
           ((unsigned char)s->text.p[s->cursor] & 0xc0) == 0x80)
        s->cursor--;
}

/* ---- keys ---- */

/* The next byte, or -1: the terminal is gone. Draws before it waits. */
static int next_byte(PfqEdit *e, const char *prompt)
{
    State *s = e->state;
    if (s->in_at == s->in_n) {
        struct pollfd p = {.fd = e->in, .events = POLLIN};
        if (!s->pasting && poll(&p, 1, 0) == 0) draw(e, prompt, false);
        ssize_t n;
        do
            n = read(e->in, s->in, sizeof s->in);
        while (n < 0 && errno == EINTR);
        if (n <= 0) return -1;
        s->in_n = (size_t)n;
        s->in_at = 0;
    }
    return s->in[s->in_at++];
}

static void finish(State *s, PfqEditEnd end)
{
    s->done = true;
    s->end = end;
}

static void enter(State *s)
{
    if (s->cursor > 0 && s->text.p[s->cursor - 1] == '\\') {
        s->text.p[s->cursor - 1] = '\n';
        return;
    }
    finish(s, PFQ_EDIT_LINE);
}

static void control(State *s, int c)
{
    switch (c) {
    case 'A' - 64: s->cursor = line_start(s, s->cursor); break;
    case 'B' - 64: s->cursor = left_of(s, s->cursor); break;
    case 'C' - 64: finish(s, PFQ_EDIT_INTERRUPT); break;
    case 'D' - 64:
        if (s->text.n == 0)
            finish(s, PFQ_EDIT_EOF);
        else
            cut(s, s->cursor, right_of(s, s->cursor));
        break;
    case 'E' - 64: s->cursor = line_end(s, s->cursor); break;
    case 'F' - 64: s->cursor = right_of(s, s->cursor); break;
    case 'H' - 64:
    case 0x7f: cut(s, left_of(s, s->cursor), s->cursor); break;
    case 'I' - 64: insert(s, "\t", 1); break;
    case 'J' - 64:
    case 'M' - 64: enter(s); break;
    case 'K' - 64: cut(s, s->cursor, line_end(s, s->cursor)); break;
    case 'L' - 64:
        append_str(&s->out, "\x1b[H\x1b[2J");
        flush_out(STDOUT_FILENO, &s->out);
        s->cursor_row = 0;
        break;
    case 'N' - 64: vertical(s, 1); break;
    case 'P' - 64: vertical(s, -1); break;
    case 'U' - 64: cut(s, line_start(s, s->cursor), s->cursor); break;
    case 'W' - 64: cut(s, word_left(s, s->cursor), s->cursor); break;
    default: break;
    }
}

/* What ESC [ ... LAST means; n and modifier are its numbers. */
static void sequence(State *s, int last, int n, int modifier)
{
    const bool words = modifier >= 3; /* Alt or Ctrl */
    if (last == '~') last = n == 1 || n == 7 ? 'H' : n == 4 || n == 8 ? 'F' : n == 3 ? 'X' : n;
    switch (last) {
    case 'A': vertical(s, -1); break;
    case 'B': vertical(s, 1); break;
    case 'C': s->cursor = words ? word_right(s, s->cursor) : right_of(s, s->cursor); break;
    case 'D': s->cursor = words ? word_left(s, s->cursor) : left_of(s, s->cursor); break;
    case 'H': s->cursor = line_start(s, s->cursor); break;
    case 'F': s->cursor = line_end(s, s->cursor); break;
    case 'X': cut(s, s->cursor, right_of(s, s->cursor)); break;
    case 200: s->pasting = true; break;
    case 201: s->pasting = false; break;
    default: break;
    }
}

static void escape(PfqEdit *e, const char *prompt)
{
    State *s = e->state;
    int c = next_byte(e, prompt), number[2] = {0, 0}, k = 0;
    switch (c) {
    case '\r':
    case '\n': insert(s, "\n", 1); return;
    case 'b': s->cursor = word_left(s, s->cursor); return;
    case 'f': s->cursor = word_right(s, s->cursor); return;
    case 0x7f: cut(s, word_left(s, s->cursor), s->cursor); return;
    case '[':
    case 'O': break;
    default: return;
    }
    while ((c = next_byte(e, prompt)) >= 0 && (c == ';' || (c >= '0' && c <= '9'))) {
        if (c == ';')
            k = 1;
        else if (number[k] < 10000)
            number[k] = number[k] * 10 + (c - '0');
    }
    sequence(s, c, number[0], number[1]);
}

static void paste_mode(PfqEdit *e, bool on)
{
    append_str(&e->state->out, on ? "\x1b[?2004h" : "\x1b[?2004l");
    flush_out(e->out, &e->state->out);
}

/* Ctrl-Z: the shell gets its terminal back, and the text is drawn again when it lets us go on. */
static void suspend(PfqEdit *e, const char *prompt)
{
    draw(e, prompt, true);
    paste_mode(e, false);
    leave_raw();
    raise(SIGTSTP);
    make_raw(e->in);
    paste_mode(e, true);
}

static void key(PfqEdit *e, const char *prompt, int c)
{
    State *s = e->state;
    const char byte = (char)c;
    if (c == 0x1b)
        escape(e, prompt);
    else if (s->pasting && c)
        insert(s, c == '\r' ? "\n" : &byte, 1);
    else if (c == 'Z' - 64)
        suspend(e, prompt);
    else if (c < 0x20 || c == 0x7f)
        control(s, c);
    else
        insert(s, &byte, 1);
}

/* ---- the calls ---- */

bool pfq_edit_open(PfqEdit *e, int in, int out)
{
    *e = (PfqEdit){.in = in, .out = out, .state = calloc(1, sizeof(State))};
    return e->state && room(&e->state->text, 1) && room(&e->state->out, 1);
}

void pfq_edit_close(PfqEdit *e)
{
    State *s = e->state;
    for (int i = 0; s && i < s->n_history; i++)
        free(s->history[i]);
    if (s) {
        free(s->draft);
        free(s->text.p);
        free(s->out.p);
    }
    free(s);
    e->state = NULL;
}

PfqEditEnd pfq_edit_read(PfqEdit *e, const char *prompt)
{
    State *s = e->state;
    struct sigaction old[N_ENDINGS];
    s->text.n = s->cursor = 0;
    s->cursor_row = 0;
    s->at_history = s->n_history;
    s->done = s->pasting = false;
    enter_raw(e->in, old);
    paste_mode(e, true);
    while (!s->done) {
        const int c = next_byte(e, prompt);
        if (c < 0)
            finish(s, PFQ_EDIT_EOF);
        else
            key(e, prompt, c);
    }
    s->cursor = s->text.n;
    draw(e, prompt, true);
    paste_mode(e, false);
    end_raw(old);
    free(s->draft);
    s->draft = NULL;
    e->was_empty = s->text.n == 0;
    s->text.p[s->text.n] = 0;
    if (s->end == PFQ_EDIT_LINE) remember(s);
    e->text = s->text.p;
    e->n = s->text.n;
    return s->end;
}
