/* Runs a harness without libFuzzer: usage: replay [--flips N] FILE|FOLDER...
 *
 * Runs every seed as it is; every truncation of it (every byte of seeds up to 4 KiB, 4,096 places
 * of longer ones); and N single-bit flips spread over all seeds, chosen by a fixed generator.
 * Inputs are heap blocks of exactly their size, so that AddressSanitizer sees one byte too many.
 * When a run dies, the case is printed.
 */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_TRUNCATIONS = 4096, MAX_FLIP_SIZE = 64 << 10 };

typedef struct Seed {
    const char *path;
    u8 *data;
    size_t n;
} Seed;

static Arena arena;
static VEC(Seed) seeds;
static char current[512]; /* what runs now, for the report of a death */

static void report(void)
{
    size_t n = strnlen(current, sizeof current);
    if (write(2, current, n) < 0) return;
}

static void on_signal(int sig)
{
    report();
    signal(sig, SIG_DFL);
    raise(sig);
}

extern void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void run(const Seed *s, const u8 *data, size_t n, const char *what, size_t at)
{
    snprintf(current, sizeof current, "replay: died in %s, %s %zu\n", s->path, what, at);
    u8 *copy = malloc(n ? n : 1);
    if (!copy) exit(1);
    if (n) memcpy(copy, data, n);
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
}

static void add_file(const char *path, off_t size)
{
    Seed s = {arena_strdup(&arena, path, strlen(path)), malloc((size_t)size + 1), (size_t)size};
    FILE *f = fopen(path, "rb");
    if (!f || !s.data || fread(s.data, 1, s.n, f) != s.n) {
        fprintf(stderr, "replay: cannot read %s\n", path);
        exit(1);
    }
    fclose(f);
    vec_push(&arena, &seeds, s);
}

static void add(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        fprintf(stderr, "replay: no file or folder %s\n", path);
        exit(1);
    }
    if (!S_ISDIR(st.st_mode)) {
        add_file(path, st.st_size);
        return;
    }
    struct dirent **entries;
    int n = scandir(path, &entries, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        if (entries[i]->d_name[0] != '.')
            add(arena_printf(&arena, "%s/%s", path, entries[i]->d_name));
        free(entries[i]);
    }
    if (n >= 0) free(entries);
}

static void truncate_seed(const Seed *s)
{
    size_t places = s->n < MAX_TRUNCATIONS ? s->n : MAX_TRUNCATIONS;
    for (size_t i = 0; i < places; i++) {
        size_t n = s->n <= MAX_TRUNCATIONS ? i : s->n * i / MAX_TRUNCATIONS;
        run(s, s->data, n, "cut to bytes", n);
    }
}

static u64 flip_seeds(u64 flips)
{
    u64 done = 0, state = 1;
    for (u32 idle = 0, k = 0; done < flips && idle < seeds.n; k = (k + 1) % seeds.n) {
        Seed *s = &seeds.at[k];
        idle++;
        if (s->n == 0 || s->n > MAX_FLIP_SIZE) continue;
        idle = 0;
        state = state * 6364136223846793005u + 1442695040888963407u;
        size_t bit = (size_t)((state >> 20) % (s->n * 8));
        s->data[bit / 8] ^= (u8)(1u << bit % 8);
        run(s, s->data, s->n, "flipped bit", bit);
        s->data[bit / 8] ^= (u8)(1u << bit % 8);
        done++;
    }
    return done;
}

int main(int argc, char **argv)
{
    u64 flips = 0, cuts = 0;
    signal(SIGABRT, on_signal);
    signal(SIGSEGV, on_signal);
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(report);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--flips") == 0 && i + 1 < argc)
            flips = strtoull(argv[++i], NULL, 10);
        else
            add(argv[i]);
    }
    for (u32 i = 0; i < seeds.n; i++)
        run(&seeds.at[i], seeds.at[i].data, seeds.at[i].n, "whole, bytes", seeds.at[i].n);
    for (u32 i = 0; i < seeds.n; i++) {
        truncate_seed(&seeds.at[i]);
        cuts += seeds.at[i].n < MAX_TRUNCATIONS ? seeds.at[i].n : MAX_TRUNCATIONS;
    }
    flips = flip_seeds(flips);
    printf("replay: %u seeds, %llu truncations, %llu bit flips\n", seeds.n,
           (unsigned long long)cuts, (unsigned long long)flips);
    for (u32 i = 0; i < seeds.n; i++)
        free(seeds.at[i].data);
    arena_free(&arena);
    return seeds.n ? 0 : 1;
}
