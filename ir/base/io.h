/* Files: mapped inputs and outputs that appear whole or not at all.
 *
 * Inputs must be regular files; a mapping is checked against fstat's size, so a short file is an
 * error, never a fault at a later offset (a file that shrinks while mapped is caught by io_guard:
 * SIGBUS becomes a sentence). Outputs are written to a temporary name in the target's folder,
 * synced and renamed by io_commit; whatever ends the process before that removes them
 * (io_discard_outputs runs from atexit and from the signal handlers).
 */
#ifndef PFQC_IR_BASE_IO_H
#define PFQC_IR_BASE_IO_H

#include "ir/base/diag.h"

typedef struct MappedFile {
    const char *name; /* as the user wrote it */
    const u8 *data;   /* read-only mapping; NULL for an empty file */
    u64 size;
} MappedFile;

/* Maps a regular file. Errors: E_FILE_READ. io_unmap is optional. */
bool io_map(Diag *d, Arena *a, const char *path, MappedFile *out);
void io_unmap(MappedFile *f);
/* Reads a whole text file (at most `limit` bytes) as a Source. */
bool io_read_text(Diag *d, Arena *a, const char *path, u64 limit, Source *out);
bool io_is_dir(const char *path);
bool io_exists(const char *path);
/* "dir/name" or name itself when it is absolute; dir of a path ("." if none). */
char *io_join(Arena *a, const char *dir, const char *name);
char *io_dirname(Arena *a, const char *path);
bool io_mkdirs(Diag *d, const char *path);

typedef struct OutFile OutFile;
OutFile *io_create(Diag *d, Arena *a, const char *path); /* NULL on error (E_FILE_WRITE) */
bool io_write(OutFile *f, const void *data, size_t n);   /* buffered; false after any error */
u64 io_tell(const OutFile *f);
bool io_pwrite(OutFile *f, const void *data, size_t n,
               u64 at); /* anywhere; thread-safe, unbuffered */
const char *
io_temp_path(const OutFile *f);       /* for programs (the linker) that write the file themselves */
bool io_commit(OutFile *f, int mode); /* flush, fsync, rename; reports through the Diag */
void io_discard(OutFile *f);
void io_discard_outputs(void); /* every OutFile not committed; before their arena is freed */
/* SIGINT, SIGQUIT, SIGTERM, SIGHUP: discard, then die of the signal; SIGBUS: a sentence. A closed
 * pipe and the limit of a file's size are errors of a write. */
void io_install_handlers(void);

/* Writes a whole file atomically. */
bool io_write_file(Diag *d, Arena *a, const char *path, const void *data, size_t n);

#endif
