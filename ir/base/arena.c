#include "ir/base/arena.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ArenaBlock {
    ArenaBlock *below;
    size_t size; /* of data */
    alignas(64) u8 data[];
};

enum { BLOCK = 64 << 10 };

static void (*before_exit)(void);

void set_before_exit(void (*f)(void))
{
    before_exit = f;
}

_Noreturn void die_oom(void)
{
    if (before_exit) before_exit();
    fputs("pfqc: error: out of memory\n", stderr);
    exit(1);
}

_Noreturn void bug_at(const char *file, int line, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (before_exit) before_exit();
    fprintf(stderr, "pfqc: internal error at %s:%d: ", file, line);
    vfprintf(stderr, fmt, ap);
    fputs("\n  this is a bug in pfqc: please report it with the command and the input\n", stderr);
    va_end(ap);
    exit(70);
}

void *xmalloc(size_t count, size_t size)
{
    u64 bytes;
    void *p = ckd_mul(&bytes, count, size) ? malloc(bytes ? bytes : 1) : NULL;
    if (!p) die_oom();
    return p;
}

void *arena_alloc(Arena *a, size_t count, size_t size, size_t align)
{
    u64 bytes;
    if (!ckd_mul(&bytes, count, size) || bytes > SIZE_MAX / 2) die_oom();
    size_t at = (a->used + align - 1) & ~(align - 1);
    if (!a->top || at > a->top->size || a->top->size - at < bytes) {
        size_t want = bytes > BLOCK / 4 ? bytes : BLOCK;
        ArenaBlock *b = calloc(1, sizeof *b + want);
        if (!b) die_oom();
        b->size = want;
        b->below = a->top;
        a->top = b;
        at = 0;
    }
    a->used = at + bytes;
    return a->top->data + at;
}

void arena_free(Arena *a)
{
    arena_reset(a, (ArenaMark){0});
}

ArenaMark arena_mark(const Arena *a)
{
    return (ArenaMark){a->top, a->used};
}

void arena_reset(Arena *a, ArenaMark m)
{
    bool older =
        a->top !=
        m.top; /* then a->used is of a block that goes, and all of m.top may have been used */
    while (a->top != m.top) {
        ArenaBlock *b = a->top;
        a->top = b->below;
        free(b);
    }
    if (a->top) memset(a->top->data + m.used, 0, (older ? a->top->size : a->used) - m.used);
    a->used = m.used;
}

char *arena_strdup(Arena *a, const char *s, size_t n)
{
    char *p = arena_alloc(a, n + 1, 1, 1);
    if (n) memcpy(p, s, n);
    return p;
}

char *arena_vprintf(Arena *a, const char *fmt, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    if (n < 0) BUG("bad format '%s'", fmt);
    char *p = arena_alloc(a, (size_t)n + 1, 1, 1);
    vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return p;
}

char *arena_printf(Arena *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *p = arena_vprintf(a, fmt, ap);
    va_end(ap);
    return p;
}

void *vec_grow(Arena *a, void *data, u32 n, u32 *cap, size_t size, size_t more)
{
    if (more <= *cap - n) return data;
    u64 want = *cap ? (u64)*cap * 2 : 8;
    if (want < (u64)n + more) want = (u64)n + more;
    if (want > UINT32_MAX) die_oom();
    void *p = arena_alloc(a, want, size, 16);
    if (n) memcpy(p, data, n * size);
    *cap = (u32)want;
    return p;
}
