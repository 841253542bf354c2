/* Memory for the compiler: arenas, growable vectors and checked size arithmetic.
 *
 * An Arena hands out zeroed memory and frees it all at once; single objects are never freed.
 * Vectors grow in an arena (the old storage is abandoned there, so total waste is below 2x).
 * Running out of memory ends the process with one sentence and exit status 1, after the output
 * files in progress were removed (io.h). An Arena is used by one thread at a time. The shipped
 * runtime does not use this file.
 */
#ifndef PFQC_IR_BASE_ARENA_H
#define PFQC_IR_BASE_ARENA_H

#include <stdalign.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t i32;
typedef int64_t i64;

typedef struct ArenaBlock ArenaBlock;
typedef struct Arena {
    ArenaBlock *top; /* newest block */
    size_t used;     /* bytes used in top */
} Arena;             /* {0} is an empty arena */

typedef struct ArenaMark {
    ArenaBlock *top;
    size_t used;
} ArenaMark;

void *arena_alloc(Arena *a, size_t count, size_t size,
                  size_t align); /* zeroed; count*size checked */
void arena_free(Arena *a);
ArenaMark arena_mark(const Arena *a);
void arena_reset(Arena *a, ArenaMark m);               /* frees everything since the mark */
char *arena_strdup(Arena *a, const char *s, size_t n); /* NUL-terminated copy of s[0..n) */
char *arena_printf(Arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
char *arena_vprintf(Arena *a, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));

#define NEW(a, T)     ((T *)arena_alloc((a), 1, sizeof(T), alignof(T)))
#define NEWN(a, T, n) ((T *)arena_alloc((a), (size_t)(n), sizeof(T), alignof(T)))

/* VEC(T) v = {0}; vec_push(arena, &v, x); v.at[i], v.n */
#define VEC(T)                                                                                     \
    struct {                                                                                       \
        T *at;                                                                                     \
        u32 n, cap;                                                                                \
    }
#define vec_reserve(a, v, more)                                                                    \
    ((v)->at = vec_grow((a), (v)->at, (v)->n, &(v)->cap, sizeof *(v)->at, (more)))
#define vec_push(a, v, x) (vec_reserve(a, v, 1), (void)((v)->at[(v)->n++] = (x)))
void *vec_grow(Arena *a, void *data, u32 n, u32 *cap, size_t size, size_t more);

/* Plain heap for big, short-lived buffers; same out-of-memory policy. Release with free(). */
void *xmalloc(size_t count, size_t size);
_Noreturn void die_oom(void);

/* Called before die_oom and BUG end the process (io.h removes unfinished outputs with it). */
void set_before_exit(void (*f)(void));

/* A bug in pfqc itself: prints the place and exits 70 (EX_SOFTWARE). Never for bad input. */
_Noreturn void bug_at(const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
#define BUG(...) bug_at(__FILE__, __LINE__, __VA_ARGS__)

/* *r = a*b or a+b; false when it does not fit */
static inline bool ckd_mul(u64 *r, u64 a, u64 b)
{
    return !__builtin_mul_overflow(a, b, r);
}
static inline bool ckd_add(u64 *r, u64 a, u64 b)
{
    return !__builtin_add_overflow(a, b, r);
}

#endif
