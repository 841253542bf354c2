/* Options of passes as passes.def declares them: reading the declarations, and taking values. */
#ifndef PFQC_PASSES_OPTIONS_H
#define PFQC_PASSES_OPTIONS_H

#include "passes/pass.h"

typedef struct OptDecl { /* name:type(values)=default; what is not there is empty */
    Str name, type, values, def;
} OptDecl;

/* Reads the declaration at *p and moves on; false at the end. */
bool option_next(const char **p, OptDecl *o);
u32 option_count(const char *declarations);

/* Sets the option to what the text says. False: the option does not take it; *wrong is the part of
 * the text that it does not take. A flag without a value is true. */
bool option_set(Arena *a, const OptDecl *o, Str value, PassOpt *out, Str *wrong);
/* What the option (each part of a list) may be: "4, 8 or 16". */
const char *option_takes(Arena *a, const OptDecl *o);

void options_default(Arena *a, const PassInfo *info, PassCall *c);
/* The options, as pipeline text has them between braces, but what is empty or 0 by default. */
void options_text(const PassCall *c, StrBuf *b);
/* A sentence when options of the call do not go together, else NULL. */
const char *options_clash(const PassCall *c);

#endif
