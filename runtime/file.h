/* Whole files: read at once, and written under another name until they are complete. Errors: false
 * (or NULL) and a sentence that names the file. */
#ifndef PFQC_RUNTIME_FILE_H
#define PFQC_RUNTIME_FILE_H

#include "runtime/image.h"

#include <stdio.h>

/* The bytes of a regular file, malloc'ed, with a NUL behind them; *n does not count it. */
char *pfq_read_file(const char *path, size_t *n, PfqErr *err);

/* A file that is written to PATH.part, which becomes PATH when it is closed well. A pipe or a
 * device is written as it is. The first error of writing stays, so that pfq_save_close can tell. */
typedef struct PfqSave {
    FILE *f;   /* NULL: nothing is written */
    int error; /* errno of the first failed pfq_save_write */
    const char *path;
    char *part; /* NULL for a pipe */
} PfqSave;

/* Without a path: nothing is opened and all is well. */
bool pfq_save_open(PfqSave *s, const char *path, PfqErr *err);
void pfq_save_write(PfqSave *s, const void *bytes, size_t n);
/* `ok`: what was written is whole. Returns that, or false if it could not be written; then (and
 * after a failed open) no file is left. */
bool pfq_save_close(PfqSave *s, bool ok, PfqErr *err);

#endif
