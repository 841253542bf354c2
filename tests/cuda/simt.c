/* The scheduler of simt.h: fibers of one block at a time, in rounds. */
#include "tests/cuda/simt.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { THREADS = 1024, WARPS = THREADS / 32, STACK = 64 << 10, PAGE = 4096, SHARED = 228 << 10 };

typedef enum Wait { READY, AT_BARRIER, AT_WARP, DONE } Wait;

typedef struct Thread {
    void *sp; /* where it stopped */
    Wait wait;
    SimtOp op; /* what it waits for, AT_WARP */
    uint32_t mask, value, from, result;
} Thread;

static struct {
    Thread thread[THREADS];
    uint32_t waiting[WARPS]; /* lanes that wait at an operation of their warp */
    int32_t order[THREADS];
    int32_t n, current, at_barrier, done;
    void *sp; /* the scheduler's */
    void (*body)(const void *);
    const void *args;
    const char *name;
    char *stacks;
    unsigned char *shared_end; /* an unreadable page begins here */
    uint64_t random;
} s;

SimtDim threadIdx, blockIdx, blockDim, gridDim;
unsigned char *pfq_shared;
bool simt_shuffle;

/* simt_switch(&from, to): keeps the callee's registers on the stack, which then is `from`;
 * continues at `to`. */
void simt_switch(void **from, void *to) __attribute__((visibility("hidden")));
__asm__(".text\n"
        ".hidden simt_switch\n"
        ".type simt_switch, @function\n"
        "simt_switch:\n"
        "push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
        "mov %rsp, (%rdi)\n mov %rsi, %rsp\n"
        "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n"
        "ret\n"
        ".size simt_switch, . - simt_switch\n");

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "simt: %s, block (%u, %u, %u), thread %d of %d: %s\n", s.name, blockIdx.x,
            blockIdx.y, blockIdx.z, s.current, s.n, what);
    abort();
}

static void pause_thread(Wait wait)
{
    Thread *t = &s.thread[s.current];
    t->wait = wait;
    simt_switch(&t->sp, s.sp);
}

static void run_thread(void)
{
    s.body(s.args);
    s.done++;
    pause_thread(DONE);
}

static void resume(int32_t i)
{
    s.current = i;
    threadIdx.x = (uint32_t)i;
    simt_switch(&s.sp, s.thread[i].sp);
}

void simt_barrier(void)
{
    s.at_barrier++;
    pause_thread(AT_BARRIER);
}

static uint32_t reduce(SimtOp op, uint32_t a, uint32_t b)
{
    switch (op) {
    case SIMT_ADD: return a + b;
    case SIMT_MAX_S: return (int32_t)a > (int32_t)b ? a : b;
    case SIMT_MIN_S: return (int32_t)a < (int32_t)b ? a : b;
    case SIMT_MAX_U: return a > b ? a : b;
    default: return a < b ? a : b;
    }
}

/* All lanes of the mask wait, the current one included: gives each its result and lets it go on. */
static void finish_warp(Thread *warp, const Thread *t)
{
    uint32_t all = 0;
    bool first = true;
    for (uint32_t i = 0; i < 32; i++) {
        if (!(t->mask >> i & 1)) continue;
        if (warp[i].op != t->op || warp[i].mask != t->mask)
            die("lanes of a warp wait at different operations");
        if (t->op == SIMT_SHUFFLE && !(t->mask >> warp[i].from & 1))
            die("a lane reads one that the mask does not name");
        all = t->op == SIMT_BALLOT ? all | warp[i].value << i
              : first              ? warp[i].value
                                   : reduce(t->op, all, warp[i].value);
        first = false;
    }
    for (uint32_t i = 0; i < 32; i++)
        if (t->mask >> i & 1) {
            warp[i].result = t->op == SIMT_SHUFFLE ? warp[warp[i].from].value : all;
            warp[i].wait = READY;
        }
}

uint32_t simt_warp(SimtOp op, uint32_t mask, uint32_t value, uint32_t from)
{
    Thread *t = &s.thread[s.current], *warp = &s.thread[s.current & ~31];
    uint32_t *waiting = &s.waiting[s.current / 32];
    const uint32_t lane = (uint32_t)s.current & 31;
    if (!(mask >> lane & 1)) die("a lane's mask does not name it");
    t->op = op, t->mask = mask, t->value = value, t->from = from;
    *waiting |= 1u << lane;
    if ((*waiting & mask) != mask) {
        pause_thread(AT_WARP);
        return t->result;
    }
    finish_warp(warp, t);
    *waiting &= ~mask;
    return t->result;
}

static uint32_t random_below(uint32_t n)
{
    s.random = s.random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((s.random >> 32) * n >> 32);
}

static void shuffle(int32_t *order, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        order[i] = i;
    for (int32_t i = n - 1; simt_shuffle && i > 0; i--) {
        const uint32_t j = random_below((uint32_t)i + 1);
        const int32_t x = order[i];
        order[i] = order[j];
        order[j] = x;
    }
}

/* Each stack has an unreadable page below it; so has shared memory behind it. */
static void map_memory(void)
{
    if (s.stacks) return;
    const size_t step = STACK + PAGE;
    s.stacks = mmap(NULL, THREADS * step + SHARED + PAGE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (s.stacks == MAP_FAILED) die("out of memory");
    for (size_t i = 0; i <= THREADS; i++)
        mprotect(s.stacks + i * step, PAGE, PROT_NONE);
    s.shared_end = (unsigned char *)s.stacks + THREADS * step + PAGE + SHARED;
    if (mprotect(s.shared_end - PAGE, PAGE, PROT_NONE)) die("cannot protect memory");
    s.shared_end -= PAGE;
}

static void start_threads(void)
{
    s.at_barrier = s.done = 0;
    memset(s.waiting, 0, sizeof s.waiting);
    for (int32_t i = 0; i < s.n; i++) {
        /* What simt_switch pops: six registers, then the address to return to; above it the stack
         * is aligned. */
        void **sp = (void **)(void *)(s.stacks + (size_t)(i + 1) * (STACK + PAGE) - 64);
        memset(sp, 0, 64);
        void (*entry)(void) = run_thread;
        memcpy(&sp[6], &entry, sizeof entry);
        s.thread[i] = (Thread){.sp = sp};
    }
}

static void run_block(void)
{
    start_threads();
    shuffle(s.order, s.n);
    while (s.done < s.n) {
        bool moved = false;
        for (int32_t i = 0; i < s.n; i++)
            if (s.thread[s.order[i]].wait == READY) {
                moved = true;
                resume(s.order[i]);
            }
        if (s.at_barrier == s.n) {
            s.at_barrier = 0;
            for (int32_t i = 0; i < s.n; i++)
                s.thread[i].wait = READY;
        } else if (!moved) {
            die(s.at_barrier ? "a thread waits at a barrier that others do not reach"
                             : "a lane waits for lanes that do not come");
        }
    }
}

void simt_launch(const char *name, void (*thread)(const void *), const void *args,
                 const int32_t grid[3], int32_t block, int32_t limit, int32_t shared)
{
    s.name = name, s.body = thread, s.args = args, s.n = block, s.current = 0;
    if (block < 32 || block % 32 || block > limit || limit > THREADS)
        die("a block is some warps, within its bounds");
    if (shared < 0 || shared > SHARED - PAGE - 128) die("more shared memory than a chip has");
    if (grid[0] < 1 || grid[1] < 1 || grid[1] > 65535 || grid[2] != 1)
        die("the grid is out of range");
    map_memory();
    const int32_t bytes = (shared + 127) / 128 * 128;
    pfq_shared = s.shared_end - bytes;
    blockDim = (SimtDim){(uint32_t)block, 1, 1};
    gridDim = (SimtDim){(uint32_t)grid[0], (uint32_t)grid[1], 1};
    const int32_t blocks = grid[0] * grid[1];
    int32_t *order = malloc((size_t)blocks * sizeof *order);
    if (!order) die("out of memory");
    shuffle(order, blocks);
    for (int32_t i = 0; i < blocks; i++) {
        blockIdx = (SimtDim){(uint32_t)(order[i] % grid[0]), (uint32_t)(order[i] / grid[0]), 0};
        memset(pfq_shared, 0xff, (size_t)bytes);
        run_block();
    }
    free(order);
}
