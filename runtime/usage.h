/* A program's commands and options as data, and what is printed of them: a manual page, a reference
 * in Markdown, completion for shells. Compiled binaries fill it from options.def, pfqc from its own
 * table, so that none of these can drift from what is parsed.
 *
 * Strings are plain text. An ARG or operand tells what may stand in its place: alternatives are
 * separated by '|' and words by spaces; a word in small letters stands for itself, FILE and its
 * like for a file, DIR for a folder. Texts are paragraphs separated by empty lines; one whose first
 * line is indented by four spaces is an example, printed as it is. `%s` in a text or help is the
 * program's name. Deterministic: no dates, no widths of terminals.
 */
#ifndef PFQC_RUNTIME_USAGE_H
#define PFQC_RUNTIME_USAGE_H

#include "runtime/out.h"

typedef struct PfqUseCommand {
    const char *name; /* "": what the program does without the name of a command */
    const char *operands, *help;
} PfqUseCommand;

typedef struct PfqUseOption {
    unsigned commands; /* bit i: command[i] takes it */
    char letter;       /* 0: none */
    bool has_default;
    bool no_variable;              /* PFQC_NAME does not set it */
    const char *name, *arg, *help; /* arg "": a flag */
    double def;
} PfqUseOption;

typedef struct PfqUseText {
    const char *title, *text;
} PfqUseText;

typedef struct PfqUse {
    const char *program, *summary; /* summary: a line without a full stop */
    const char *about;             /* a text */
    const PfqUseCommand *command;  /* at most 32 */
    const PfqUseOption *option;
    const PfqUseText *text; /* sections after the options */
    int n_commands, n_options, n_texts;
} PfqUse;

void pfq_use_man(PfqOut *out, const PfqUse *u);      /* mdoc(7) */
void pfq_use_markdown(PfqOut *out, const PfqUse *u); /* a page for docs/ */

/* False if there is no such shell; PFQ_USE_SHELLS names them. */
#define PFQ_USE_SHELLS "bash|zsh|fish"
bool pfq_use_completion(PfqOut *out, const PfqUse *u, const char *shell);

/* ---- for those above ---- */

typedef struct PfqUseValues { /* what an ARG or operands stand for */
    char words[128];          /* separated by spaces */
    bool files, folders;
} PfqUseValues;

PfqUseValues pfq_use_values(const char *arg);
void pfq_use_env(const PfqUseOption *o, char out[64]);       /* "PFQC_TOP_K" */
bool pfq_use_common(const PfqUse *u, const PfqUseOption *o); /* most commands take it */

#endif
