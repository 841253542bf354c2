/* Command lines from a table: one row per option gives parsing, --help, the environment name and
 * the documentation. Precedence: command line, then environment (PFQC_ and the long name in
 * capitals), then the default. */
#ifndef PFQC_IR_BASE_OPTIONS_H
#define PFQC_IR_BASE_OPTIONS_H

#include "ir/base/diag.h"

/* OPT_LIST: parts with commas between them; given again, the command line's are joined. Of the others
 * the last one counts. */
typedef enum OptKind { OPT_FLAG, OPT_STR, OPT_LIST, OPT_INT } OptKind;

typedef struct OptRow {
    const char *name; /* "dump-dir", without dashes */
    char letter;      /* 'o', or 0 */
    OptKind kind;
    u32 commands;      /* bit set of commands that take it */
    const char *value; /* "DIR" in help; NULL for flags */
    const char *doc;
} OptRow;

typedef struct OptVal {
    bool set;      /* given on the command line or in the environment */
    bool on_line;  /* on the command line */
    const char *s; /* OPT_STR, OPT_LIST */
    i64 i;         /* OPT_INT, within [0, 2^31) */
} OptVal;

/* Parses argv[first..argc) for the commands in `command`; values in rows' order, other words into
 * words[]. False after a diagnostic (E_USAGE). `--` ends the options. */
bool options_parse(Diag *d, Arena *a, const OptRow *rows, u32 n, u32 command, int argc, char **argv,
                   int first, OptVal *vals, const char **words, u32 *n_words, u32 max_words);
void options_help(StrBuf *b, const OptRow *rows, u32 n, u32 command);

#endif
