/* The scheduler of simt.h: the fibers of one block at a time. A fiber that waits switches to
 * another of its warp that is ready, else of the next warp; when none is ready, the scheduler opens
 * the barrier or ends the block.
 */
#include "tests/cuda/simt.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { COPIES = 4096, BASE = 1024 /* address of the start of shared memory */ };
enum { THREADS = 1024, STACK = 64 << 10, PAGE = 4096, SHARED = 227 << 10, ROOM = 228 << 10 };

typedef struct Warp {
    uint32_t ready, waiting; /* lanes that can run; lanes that wait at an operation of the warp */
    uint32_t parked;
    SimtOp op[32]; /* of waiting lanes: what they wait for */
    uint32_t mask[32], value[32], from[32], result[32];
} Warp;

static struct {
    Warp warp[THREADS / 32];
    void *sp[THREADS]; /* where a thread stopped */
    int32_t n, current, at_barrier, done;
    void *scheduler; /* where it stopped */
    void (*body)(const void *);
    const void *args;
    const char *name;
    char *stacks;
    unsigned char *shared_end; /* an unreadable page begins here */
    uint64_t random;
    uint64_t events, seen; /* what parked threads may wait for; when they last looked */
    struct {
        uint32_t arrived, threads;
        uint32_t waiting[THREADS / 32]; /* lanes */
    } named[16];
    struct {
        uint32_t to, bytes, bar;
        const void *from;
    } copy[COPIES]; /* issued, not landed */
    int32_t copies;
} s;

/* A barrier in shared memory. */
typedef struct Mbar {
    uint32_t count : 12, pending : 12, phase : 1, magic : 7;
    int32_t tx;
} Mbar;
enum { MBAR_MAGIC = 0x2a };

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

static uint32_t random_below(uint32_t n)
{
    s.random = s.random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((s.random >> 32) * n >> 32);
}

/* A thread that can run, from the current warp on; -1: none. */
static int32_t pick(void)
{
    const int32_t warps = s.n / 32,
                  first = simt_shuffle ? (int32_t)random_below((uint32_t)warps) : s.current / 32;
    const uint32_t by = simt_shuffle ? random_below(32) : 0;
    for (int32_t i = 0, w = first; i < warps; i++, w = w + 1 == warps ? 0 : w + 1) {
        const uint32_t ready = s.warp[w].ready;
        if (!ready) continue;
        const uint32_t turned = ready >> by | ready << (-by & 31);
        return 32 * w + (int32_t)(((uint32_t)__builtin_ctz(turned) + by) & 31);
    }
    return -1;
}

/* Leaves the current thread, kept at *from, for one that can run or for the scheduler. */
static void leave(void **from)
{
    const int32_t next = pick();
    if (next < 0) {
        simt_switch(from, s.scheduler);
        return;
    }
    s.current = next;
    threadIdx.x = (uint32_t)next;
    simt_switch(from, s.sp[next]);
}

/* The current thread is not ready until someone says so. */
static void pause_thread(void)
{
    const int32_t me = s.current;
    s.warp[me / 32].ready &= ~(1u << me % 32);
    leave(&s.sp[me]);
}

static void run_thread(void)
{
    s.body(s.args);
    s.done++;
    pause_thread();
}

void simt_barrier(void)
{
    s.at_barrier++;
    pause_thread();
}

void simt_park(void)
{
    s.warp[s.current / 32].parked |= 1u << s.current % 32;
    pause_thread();
}

void simt_named_barrier(uint32_t id, uint32_t threads, bool wait)
{
    if (id < 1 || id > 15 || threads % 32 || threads > (uint32_t)s.n)
        die("a barrier is 1 to 15, of whole warps of the block");
    if (s.named[id].arrived && s.named[id].threads != threads)
        die("threads give one barrier different numbers of threads");
    s.named[id].threads = threads;
    if (wait) s.named[id].waiting[s.current / 32] |= 1u << s.current % 32;
    if (++s.named[id].arrived < threads) {
        if (wait) pause_thread();
        return;
    }
    s.named[id].arrived = 0;
    s.events++;
    for (int32_t w = 0; w < s.n / 32; w++) {
        s.warp[w].ready |= s.named[id].waiting[w];
        s.named[id].waiting[w] = 0;
    }
}

uint32_t simt_address(const void *shared)
{
    return (uint32_t)((const unsigned char *)shared - pfq_shared) + BASE;
}

void *simt_pointer(uint32_t address, uint32_t bytes)
{
    if (address < BASE || address + bytes > BASE + (uint32_t)(s.shared_end - pfq_shared))
        die("an address outside of shared memory");
    return pfq_shared + (address - BASE);
}

static Mbar *mbar(uint32_t bar)
{
    if (bar % 8) die("a misaligned barrier");
    Mbar *b = simt_pointer(bar, sizeof *b);
    if (b->magic != MBAR_MAGIC) die("a barrier that is not initialised");
    return b;
}

void simt_mbar_init(uint32_t bar, uint32_t count)
{
    if (bar % 8 || count < 1 || count > THREADS) die("a barrier is misaligned or has no arrivals");
    *(Mbar *)simt_pointer(bar, sizeof(Mbar)) =
        (Mbar){.count = count & 0xfff, .pending = count & 0xfff, .magic = MBAR_MAGIC};
}

static void mbar_check(Mbar *b)
{
    if (b->pending || b->tx) return;
    b->pending = b->count;
    b->phase ^= 1;
    s.events++;
}

void simt_mbar_arrive(uint32_t bar, uint32_t tx)
{
    Mbar *b = mbar(bar);
    if (!b->pending) die("more arrivals at a barrier than it counts");
    b->pending--;
    b->tx += (int32_t)tx;
    mbar_check(b);
}

static void land(int32_t i)
{
    memcpy(simt_pointer(s.copy[i].to, s.copy[i].bytes), s.copy[i].from, s.copy[i].bytes);
    Mbar *b = mbar(s.copy[i].bar);
    b->tx -= (int32_t)s.copy[i].bytes;
    s.copy[i] = s.copy[--s.copies];
    mbar_check(b);
}

bool simt_mbar_try(uint32_t bar, uint32_t parity)
{
    Mbar *b = mbar(bar);
    for (int32_t i = s.copies - 1; i >= 0; i--)
        if (s.copy[i].bar == bar) land(i);
    const bool over = b->phase != (parity & 1);
    s.events += over; /* the caller goes on */
    return over;
}

void simt_bulk_load(uint32_t to, const void *from, uint32_t bytes, uint32_t bar)
{
    if (to % 16 || (uintptr_t)from % 16 || bytes % 16 || !bytes)
        die("a bulk copy that is not of aligned pieces of 16 bytes");
    if (s.copies == COPIES) die("too many bulk copies that nobody waits for");
    simt_pointer(to, bytes);
    mbar(bar);
    s.copy[s.copies].to = to, s.copy[s.copies].bytes = bytes, s.copy[s.copies].bar = bar;
    s.copy[s.copies++].from = from;
    s.events++;
    if (!simt_shuffle) land(s.copies - 1);
}

static uint32_t reduce(SimtOp op, uint32_t a, uint32_t b)
{
    switch (op) {
    case SIMT_ADD: return a + b;
    case SIMT_MAX_S: return (int32_t)a > (int32_t)b ? a : b;
    case SIMT_MIN_S: return (int32_t)a < (int32_t)b ? a : b;
    case SIMT_MAX_U: return a > b ? a : b;
    case SIMT_MIN_U: return a < b ? a : b;
    default: return a | b; /* BALLOT: of bits in their places */
    }
}

/* All lanes of the mask wait: gives each its result and lets it go on. */
static void finish(Warp *w, SimtOp op, uint32_t mask)
{
    if (op == SIMT_SHUFFLE) {
        for (uint32_t i = 0; i < 32; i++)
            w->result[i] = mask >> i & 1 ? w->value[w->from[i]] : w->result[i];
    } else if (op != SIMT_SYNC) {
        uint32_t all = w->value[__builtin_ctz(mask)];
        for (uint32_t rest = mask & (mask - 1); rest; rest &= rest - 1)
            all = reduce(op, all, w->value[__builtin_ctz(rest)]);
        for (uint32_t rest = mask; rest; rest &= rest - 1)
            w->result[__builtin_ctz(rest)] = all;
    }
    w->waiting &= ~mask;
    w->ready |= mask;
}

uint32_t simt_warp(SimtOp op, uint32_t mask, uint32_t value, uint32_t from)
{
    Warp *w = &s.warp[s.current / 32];
    const uint32_t lane = (uint32_t)s.current & 31;
    if (!(mask >> lane & 1)) die("a lane's mask does not name it");
    if (op == SIMT_SHUFFLE && !(mask >> from & 1))
        die("a lane reads one that its mask does not name");
    const uint32_t others = w->waiting & mask;
    if (others) {
        const int first = __builtin_ctz(others);
        if (w->op[first] != op || w->mask[first] != mask)
            die("lanes of a warp wait at different operations");
    }
    w->op[lane] = op, w->mask[lane] = mask, w->from[lane] = from;
    w->value[lane] = op == SIMT_BALLOT ? value << lane : value;
    w->waiting |= 1u << lane;
    if ((w->waiting & mask) == mask)
        finish(w, op, mask);
    else
        pause_thread();
    return w->result[lane];
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
    s.stacks = mmap(NULL, THREADS * step + PAGE + ROOM + PAGE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (s.stacks == MAP_FAILED) die("out of memory");
    for (size_t i = 0; i <= THREADS; i++)
        mprotect(s.stacks + i * step, PAGE, PROT_NONE);
    s.shared_end = (unsigned char *)s.stacks + THREADS * step + PAGE + ROOM;
    if (mprotect(s.shared_end, PAGE, PROT_NONE)) die("cannot protect memory");
}

static void start_threads(void)
{
    s.at_barrier = s.done = s.current = 0;
    for (int32_t i = 0; i < s.n; i++) {
        if (i % 32 == 0) s.warp[i / 32] = (Warp){.ready = ~0u};
        /* What simt_switch pops: six registers, then the address to return to; above it the stack
         * is aligned. Tops of stacks lie at different offsets in their pages, so that they do not
         * all fall into one set of the cache. */
        char *top = s.stacks + (size_t)(i + 1) * (STACK + PAGE) - (size_t)(i % 32) * 128;
        void **sp = (void **)(void *)(top - 64);
        memset(sp, 0, 64);
        void (*entry)(void) = run_thread;
        memcpy(&sp[6], &entry, sizeof entry);
        s.sp[i] = sp;
    }
}

/* Lets parked threads look again; false: there are none. */
static bool wake(void)
{
    uint32_t any = 0;
    for (int32_t w = 0; w < s.n / 32; w++) {
        any |= s.warp[w].parked;
        s.warp[w].ready |= s.warp[w].parked;
        s.warp[w].parked = 0;
    }
    if (any && s.seen == s.events) die("threads wait for what does not happen");
    s.seen = s.events;
    return any;
}

static void run_block(void)
{
    start_threads();
    memset(s.named, 0, sizeof s.named);
    s.seen = s.events++;
    for (;;) {
        leave(&s.scheduler); /* comes back when no thread can run */
        if (s.done == s.n) {
            if (s.copies) die("a bulk copy that nobody waited for");
            return;
        }
        if (wake()) continue;
        if (s.at_barrier != s.n)
            die(s.at_barrier ? "a thread waits at a barrier that others do not reach"
                             : "a lane waits for lanes that do not come");
        s.at_barrier = 0;
        for (int32_t i = 0; i < s.n / 32; i++)
            s.warp[i].ready = ~0u;
    }
}

void simt_launch(const char *name, void (*thread)(const void *), const void *args,
                 const int32_t grid[3], int32_t block, int32_t limit, int32_t shared)
{
    s.name = name, s.body = thread, s.args = args, s.n = block, s.current = 0;
    if (block < 32 || block % 32 || block > limit || limit > THREADS)
        die("a block is some warps, within its bounds");
    if (shared < 0 || shared > SHARED) die("more shared memory than a chip has");
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
