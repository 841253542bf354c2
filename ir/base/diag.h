/* Diagnostics: every refusal of pfqc is one of these.
 *
 * diag_error records an error and returns false, so that callers unwind with `return
 * diag_error(...)`. As many independent errors as possible are reported in one run (at most
 * DIAG_MAX). Text is lower-case, without a final period, and says what was found and what was
 * expected. Codes and their long explanations live in errors.def. Printed form: model.json:14:17:
 * error[E0112]: group size 96 does not divide in_features 4096 14 |     "group_size": 96, | ^~
 *       hint: use a divisor of 4096: 32, 64, 128
 * Not thread-safe: worker threads report through their caller.
 */
#ifndef PFQC_IR_BASE_DIAG_H
#define PFQC_IR_BASE_DIAG_H

#include "ir/base/str.h"

typedef struct Source { /* a text that diagnostics can point into; outlives its diagnostics */
    const char *name;   /* as the user wrote it */
    const char *text;   /* NULL for binary files */
    size_t n;
} Source;

typedef struct Loc {
    const Source *src; /* NULL: `what` alone */
    size_t off, len;   /* byte range in src; for binary sources off is the file offset */
    const char
        *what; /* "tensor 'x'", "--target": printed when there is no text range; may be NULL */
} Loc;

#define LOC_NONE    ((Loc){0})
#define LOC_WHAT(w) ((Loc){.what = (w)})

typedef enum ErrCode {
    E_NONE,
#define X(code, id, text) code,
#include "ir/base/errors.def"
#undef X
    E_COUNT
} ErrCode;

enum { DIAG_MAX = 20 };

typedef struct Diag {
    Arena *a;
    u32 n_errors, n_warnings;
    bool json;   /* --diagnostics=json */
    bool silent; /* count only (fuzzing) */
    VEC(struct DiagMsg {
        int kind;
        ErrCode code;
        Loc loc;
        const char *text;
    })
    msgs;
} Diag;

void diag_init(Diag *d, Arena *a);
bool diag_error(Diag *d, ErrCode code, Loc loc, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void diag_warn(Diag *d, Loc loc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Attach to the error before it. Both do nothing when that error was dropped by the limit. */
void diag_hint(Diag *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void diag_note(Diag *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Prints what was recorded to stderr and forgets the messages (the counts stay). */
void diag_flush(Diag *d);
const char *err_name(ErrCode c);                 /* "E0112" */
const char *err_explain(const char *name);       /* long text, or NULL if there is no such code */
void diag_doc(StrBuf *b);                        /* docs/errors.md */
void loc_line_col(Loc loc, u32 *line, u32 *col); /* 1-based; columns count code points */

#endif
