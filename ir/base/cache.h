/* What is kept between compiles, by content: a 128-bit hash of everything that a result follows
 * from is its key, the folder that the user's caches are in its place. Whoever keeps something
 * checks it when it is read again; a missing or damaged file costs time, no more.
 *
 * The hash is not for adversaries: a cache belongs to its user.
 */
#ifndef PFQC_IR_BASE_CACHE_H
#define PFQC_IR_BASE_CACHE_H

#include "ir/base/arena.h"

typedef struct ContentHash { /* four chains over 32-byte blocks */
    u64 lane[4];
} ContentHash;

ContentHash content_new(void);
void content_add(ContentHash *h, const void *data, u64 n);
const char *content_text(Arena *a, const ContentHash *h); /* 32 hexadecimal digits */

/* `given` (of --cache), else $XDG_CACHE_HOME/pfqc, else ~/.cache/pfqc; NULL: there is none. Nothing
 * is made. */
const char *cache_folder(Arena *a, const char *given);

#endif
