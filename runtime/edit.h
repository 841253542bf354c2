/* A line editor for terminals: UTF-8, history, lines longer than the screen, pastes of many lines.
 *
 * Keys: arrows, Home/End, Delete, Backspace; Ctrl-A/E/B/F/P/N as in a shell, Ctrl-K/U/W and
 * Alt-Backspace cut, Ctrl-left/right and Alt-B/F move by words, Ctrl-L redraws, Ctrl-Z suspends.
 * Enter ends the line, Alt-Enter (or a backslash before Enter) begins a new one in the same text;
 * what is pasted keeps its line ends (bracketed paste). Columns come from Unicode's widths, so that
 * wide and combining characters edit well.
 *
 * The terminal is in raw mode only inside pfq_edit_read: between calls Ctrl-C is a signal. SIGTERM,
 * SIGHUP and SIGQUIT inside restore it first. Memory: the text (1 MiB at most) and the history (200
 * texts), by malloc. Threading: one editor per process. Not here: what the text means.
 */
#ifndef PFQC_RUNTIME_EDIT_H
#define PFQC_RUNTIME_EDIT_H

#include <stdbool.h>
#include <stddef.h>

enum { PFQ_EDIT_MAX = 1 << 20, PFQ_EDIT_HISTORY = 200 };

typedef enum PfqEditEnd {
    PFQ_EDIT_LINE,      /* a text was entered */
    PFQ_EDIT_INTERRUPT, /* Ctrl-C: what was there is forgotten */
    PFQ_EDIT_EOF,       /* Ctrl-D on an empty text, or the terminal is gone */
} PfqEditEnd;

typedef struct PfqEdit {
    int in, out;
    char *text;     /* of the last LINE, NUL-terminated; valid until the next read */
    size_t n;       /* its bytes */
    bool was_empty; /* INTERRUPT: there was nothing to forget */
    struct PfqEditState *state;
} PfqEdit;

bool pfq_edit_open(PfqEdit *e, int in, int out); /* false: out of memory */
void pfq_edit_close(PfqEdit *e);
PfqEditEnd pfq_edit_read(PfqEdit *e, const char *prompt); /* prompt: ASCII */

#endif
