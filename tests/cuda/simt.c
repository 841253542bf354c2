/* The scheduler of simt.h: the fibers of one block or cluster at a time, or of all blocks of a
 * cooperative grid. A fiber that waits switches to another of its warp that is ready, else of the
 * next warp; when none is ready, the scheduler opens the barrier or ends the block.
 */
#include "tests/cuda/simt.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { COPIES = 4096, BASE = 1024 /* address of the start of shared memory */ };
enum { RANK = 1u << 24 }; /* addresses in other blocks of the cluster: times 1 + its rank */
enum { BLOCKS = 16 };    /* of a cooperative grid, or of a cluster */
enum { THREADS = 1024, STACK = 64 << 10, PAGE = 4096, SHARED = 227 << 10, ROOM = 228 << 10 };

typedef struct Warp {
    uint32_t ready, waiting; /* lanes that can run; lanes that wait at an operation of the warp */
    uint32_t parked;
    SimtOp op[32]; /* of waiting lanes: what they wait for */
    uint32_t mask[32], value[32], from[32], result[32];
} Warp;

static struct {
    Warp warp[BLOCKS * THREADS / 32];
    void *sp[BLOCKS * THREADS];       /* where a thread stopped */
    int32_t n, blocks, current, done; /* threads of a block, resident blocks */
    int32_t at_barrier[BLOCKS];
    struct { /* the cluster's barrier: its phase; threads that have not ended, or not arrived */
        int32_t phase, live, missing;
        int32_t arrived[BLOCKS * THREADS]; /* the last phase a thread arrived in */
        int32_t ended[BLOCKS];             /* threads */
    } cluster;
    SimtDim index[BLOCKS];
    unsigned char *shared[BLOCKS];
    void *scheduler; /* where it stopped */
    void (*body)(const void *);
    const void *args;
    const char *name;
    char *stacks;
    unsigned char *rooms; /* of shared memory, each with an unreadable page behind it */
    int32_t shared_bytes;
    uint64_t random;
    uint64_t events, seen; /* what parked threads may wait for; when they last looked */
    struct {
        uint32_t arrived, threads;
        uint32_t waiting[THREADS / 32]; /* lanes */
    } named[BLOCKS][16];
    struct {
        uint32_t to, bytes, bar;
        const void *from;
        int32_t block;
    } copy[COPIES]; /* issued, not landed */
    int32_t copies;
    struct {
        uint32_t from, bytes;
        int32_t thread, group; /* of the thread: 0 is the one that is not closed */
        void *to;
    } store[COPIES];
    int32_t stores;
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
int32_t simt_cluster;

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

static int32_t max_of(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "simt: %s, block (%u, %u, %u), thread %d of %d: %s\n", s.name, blockIdx.x,
            blockIdx.y, blockIdx.z, s.current % max_of(s.n, 1), s.n, what);
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
    const int32_t warps = s.blocks * s.n / 32,
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
    const int32_t block = next / s.n;
    s.current = next;
    threadIdx.x = (uint32_t)(next % s.n);
    blockIdx = s.index[block];
    pfq_shared = s.shared[block];
    simt_switch(from, s.sp[next]);
}

/* The current thread is not ready until someone says so. */
static void pause_thread(void)
{
    const int32_t me = s.current;
    s.warp[me / 32].ready &= ~(1u << me % 32);
    leave(&s.sp[me]);
}

/* The resident block of the current thread. */
static int32_t block_of(void)
{
    return s.current / s.n;
}

/* One arrival less is missing. */
static void cluster_check(void)
{
    if (s.cluster.missing) return;
    s.cluster.phase++;
    s.cluster.missing = s.cluster.live;
    s.events++;
}

static void run_thread(void)
{
    s.body(s.args);
    s.done++;
    s.cluster.ended[block_of()]++;
    s.cluster.live--;
    s.cluster.missing -= s.cluster.arrived[s.current] != s.cluster.phase;
    cluster_check();
    pause_thread();
}

void simt_cluster_arrive(void)
{
    if (s.cluster.arrived[s.current] == s.cluster.phase)
        die("a thread arrives twice at its cluster's barrier");
    s.cluster.arrived[s.current] = s.cluster.phase;
    s.cluster.missing--;
    cluster_check();
}

void simt_cluster_wait(void)
{
    while (s.cluster.arrived[s.current] == s.cluster.phase)
        simt_park();
}

int32_t simt_thread(void)
{
    return s.current;
}

void simt_barrier(void)
{
    s.at_barrier[block_of()]++;
    pause_thread();
}

void simt_event(void)
{
    s.events++;
}

void simt_park(void)
{
    s.warp[s.current / 32].parked |= 1u << s.current % 32;
    pause_thread();
}

void simt_named_barrier(uint32_t id, uint32_t threads)
{
    if (id < 1 || id > 15 || threads % 32 || threads > (uint32_t)s.n)
        die("a barrier is 1 to 15, of whole warps of the block");
    const int32_t block = block_of(), first = block * s.n / 32;
    const uint32_t me = (uint32_t)(s.current % s.n);
    if (s.named[block][id].arrived && s.named[block][id].threads != threads)
        die("threads give one barrier different numbers of threads");
    s.named[block][id].threads = threads;
    s.named[block][id].waiting[me / 32] |= 1u << me % 32;
    if (++s.named[block][id].arrived < threads) {
        pause_thread();
        return;
    }
    s.named[block][id].arrived = 0;
    s.events++;
    for (int32_t w = 0; w < s.n / 32; w++) {
        s.warp[first + w].ready |= s.named[block][id].waiting[w];
        s.named[block][id].waiting[w] = 0;
    }
}

uint32_t simt_address(const void *shared)
{
    return (uint32_t)((const unsigned char *)shared - pfq_shared) + BASE;
}

uint32_t simt_address_of(uint32_t address, int32_t rank)
{
    if (rank < 0 || rank >= s.blocks) die("a rank outside of the cluster");
    return address + (uint32_t)(rank + 1) * RANK;
}

void *simt_pointer(uint32_t address, uint32_t bytes)
{
    const uint32_t rank = address / RANK;
    unsigned char *shared = rank ? s.shared[rank - 1] : pfq_shared;
    if (rank && s.cluster.ended[rank - 1] == s.n) die("a block of the cluster that has ended");
    address %= RANK;
    if (address < BASE || address + bytes > BASE + (uint32_t)s.shared_bytes)
        die("an address outside of shared memory");
    return shared + (address - BASE);
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
        if (s.copy[i].bar == bar && s.copy[i].block == block_of()) land(i);
    const bool over = b->phase != (parity & 1);
    s.events += over; /* the caller goes on */
    return over;
}

void simt_store_of(uint32_t there, const void *v, uint32_t bytes, uint32_t bar)
{
    if (there % bytes) die("a misaligned store to another block");
    if (there / RANK != bar / RANK) die("a store to one block that arrives in another");
    memcpy(simt_pointer(there, bytes), v, bytes);
    Mbar *b = mbar(bar);
    b->tx -= (int32_t)bytes;
    mbar_check(b);
}

void simt_bulk_load(uint32_t to, const void *from, uint32_t bytes, uint32_t bar)
{
    if (to % 16 || (uintptr_t)from % 16 || bytes % 16 || !bytes)
        die("a bulk copy that is not of aligned pieces of 16 bytes");
    if (s.copies == COPIES) die("too many bulk copies that nobody waits for");
    simt_pointer(to, bytes);
    mbar(bar);
    s.copy[s.copies].to = to, s.copy[s.copies].bytes = bytes, s.copy[s.copies].bar = bar;
    s.copy[s.copies].block = block_of();
    s.copy[s.copies++].from = from;
    s.events++;
    if (!simt_shuffle) land(s.copies - 1);
}

void simt_bulk_store(void *to, uint32_t from, uint32_t bytes)
{
    if (from % 16 || (uintptr_t)to % 16 || bytes % 16 || !bytes)
        die("a bulk copy that is not of aligned pieces of 16 bytes");
    if (s.stores == COPIES) die("too many bulk copies that nobody waits for");
    simt_pointer(from, bytes);
    s.store[s.stores].from = from, s.store[s.stores].bytes = bytes, s.store[s.stores].to = to;
    s.store[s.stores].thread = s.current, s.store[s.stores++].group = 0;
}

void simt_bulk_commit(void)
{
    for (int32_t i = 0; i < s.stores; i++)
        s.store[i].group += s.store[i].thread == s.current;
}

static void write_store(int32_t i)
{
    const void *from = simt_pointer(s.store[i].from, s.store[i].bytes);
    memcpy(s.store[i].to, from, s.store[i].bytes);
}

void simt_bulk_read(int32_t keep)
{
    for (int32_t i = s.stores - 1; i >= 0; i--) {
        if (s.store[i].thread != s.current || s.store[i].group <= keep) continue;
        write_store(i);
        s.store[i] = s.store[--s.stores];
    }
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
    const size_t step = STACK + PAGE, stacks = (size_t)BLOCKS * THREADS * step + PAGE;
    s.stacks = mmap(NULL, stacks + BLOCKS * (ROOM + PAGE), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (s.stacks == MAP_FAILED) die("out of memory");
    s.rooms = (unsigned char *)s.stacks + stacks;
    for (size_t i = 0; i < BLOCKS; i++)
        if (mprotect(s.rooms + i * (ROOM + PAGE) + ROOM, PAGE, PROT_NONE))
            die("cannot protect memory");
}

/* The pages below the stacks in use. */
static void guard_stacks(void)
{
    static int32_t guarded;
    for (; guarded <= s.blocks * s.n; guarded++)
        mprotect(s.stacks + (size_t)guarded * (STACK + PAGE), PAGE, PROT_NONE);
}

static void start_threads(void)
{
    s.done = s.current = 0;
    memset(s.at_barrier, 0, sizeof s.at_barrier);
    s.cluster.phase = 1;
    s.cluster.live = s.cluster.missing = s.blocks * s.n;
    memset(s.cluster.arrived, 0, sizeof s.cluster.arrived);
    memset(s.cluster.ended, 0, sizeof s.cluster.ended);
    for (int32_t i = 0; i < s.blocks * s.n; i++) {
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
    for (int32_t w = 0; w < s.blocks * s.n / 32; w++) {
        any |= s.warp[w].parked;
        s.warp[w].ready |= s.warp[w].parked;
        s.warp[w].parked = 0;
    }
    if (any && s.seen == s.events) die("threads wait for what does not happen");
    s.seen = s.events;
    return any;
}

/* Opens the barriers that all threads of a block have reached. */
static bool open_barriers(void)
{
    bool any = false;
    for (int32_t b = 0; b < s.blocks; b++) {
        if (s.at_barrier[b] != s.n) continue;
        any = true;
        s.at_barrier[b] = 0;
        for (int32_t i = 0; i < s.n / 32; i++)
            s.warp[b * s.n / 32 + i].ready = ~0u;
    }
    return any;
}

/* Runs the resident blocks to their end. */
static void run_blocks(void)
{
    int32_t waiting = 0;
    guard_stacks();
    start_threads();
    memset(s.named, 0, sizeof s.named);
    s.seen = s.events++;
    for (;;) {
        leave(&s.scheduler); /* comes back when no thread can run */
        if (s.done == s.blocks * s.n) {
            if (s.copies || s.stores) die("a bulk copy that nobody waited for");
            return;
        }
        if (open_barriers() || wake()) continue;
        for (int32_t b = 0; b < s.blocks; b++)
            waiting += s.at_barrier[b];
        die(waiting ? "a thread waits at a barrier that others do not reach"
                    : "a lane waits for lanes that do not come");
    }
}

static void check_launch(const int32_t grid[3], int32_t limit, int32_t shared, int32_t resident)
{
    if (s.n < 32 || s.n % 32 || s.n > limit || limit > THREADS)
        die("a block is some warps, within its bounds");
    if (shared < 0 || shared > SHARED) die("more shared memory than a chip has");
    if (grid[0] < 1 || grid[1] < 1 || grid[1] > 65535 || grid[2] != 1)
        die("the grid is out of range");
    if (resident > BLOCKS) die("more blocks than can be resident");
}

static void launch(const int32_t grid[3], int32_t limit, int32_t shared, int32_t resident)
{
    s.current = 0;
    s.blocks = resident;
    check_launch(grid, limit, shared, resident);
    map_memory();
    s.shared_bytes = (shared + 127) / 128 * 128;
    blockDim = (SimtDim){(uint32_t)s.n, 1, 1};
    gridDim = (SimtDim){(uint32_t)grid[0], (uint32_t)grid[1], 1};
    const int32_t blocks = grid[0] * grid[1];
    int32_t *order = malloc((size_t)blocks * sizeof *order); /* of groups that are resident */
    if (!order) die("out of memory");
    if (blocks % resident) die("a grid that is not of whole clusters");
    shuffle(order, blocks / resident);
    for (int32_t i = 0; i < blocks / resident; i++) {
        for (int32_t b = 0; b < resident; b++) {
            const int32_t at = order[i] * resident + b;
            s.index[b] = (SimtDim){(uint32_t)(at % grid[0]), (uint32_t)(at / grid[0]), 0};
            s.shared[b] = s.rooms + (size_t)b * (ROOM + PAGE) + ROOM - s.shared_bytes;
            memset(s.shared[b], 0xff, (size_t)s.shared_bytes);
        }
        run_blocks();
    }
    free(order);
}

void simt_launch(const char *name, void (*thread)(const void *), const void *args,
                 const int32_t grid[3], int32_t block, int32_t limit, int32_t shared)
{
    s.name = name, s.body = thread, s.args = args, s.n = block;
    launch(grid, limit, shared, max_of(simt_cluster, 1));
}

void simt_launch_cooperative(const char *name, void (*thread)(const void *), const void *args,
                             const int32_t grid[3], int32_t block, int32_t limit, int32_t shared)
{
    s.name = name, s.body = thread, s.args = args, s.n = block;
    launch(grid, limit, shared, grid[0] * grid[1]);
}
