/* The persistent decode step with emulated threads: one layer at a tiny shape against a plain
 * computation, over grids and positions, in order and shuffled; two layers and two steps, which
 * must not depend on the grid. */
#include "tests/cuda/decode_model.cuh"

static void *mem_new(size_t bytes)
{
    void *p = aligned_alloc(128, (bytes + 127) / 128 * 128 + 128);
    memset(p, 0, (bytes + 127) / 128 * 128 + 128);
    return p;
}
static void mem_put(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}
static void mem_get(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}
static void mem_random(void *to, size_t words, uint32_t seed);

#include "tests/cuda/decode_case.h"

static void mem_random(void *to, size_t words, uint32_t seed)
{
    for (size_t i = 0; i < words; i++)
        ((uint32_t *)to)[i] = case_word(seed, i);
}

struct TinyLayer : LlamaTiny {
    static constexpr int32_t layers = 1;
    static constexpr bool keep = true;
};
/* Linears read 16 bits, whose scales are found at run time. */
struct TinyWide : LlamaTiny {
    static constexpr int32_t o_parts = 1, down_parts = 1, words = 0, planes = 2;
    static constexpr bool fixed = false;
};
struct TinyWideLayer : TinyWide {
    static constexpr int32_t layers = 1;
    static constexpr bool keep = true;
};

template <class S> static void thread(const void *a)
{
    pfq_decode<LlamaModel<S>>(*(const PfqDecodeArgs *)a);
}
template <class S> static void launch(const PfqDecodeArgs &a, int32_t blocks)
{
    const int32_t grid[3] = {blocks, 1, 1};
    simt_launch_cooperative("decode", thread<S>, &a, grid, PFQ_DECODE_BLOCK, PFQ_DECODE_BLOCK,
                            PfqRoom<LlamaModel<S>>::bytes);
}
template <class S> static void step(Case<S> &c)
{
    launch<S>(c.a, c.grid);
}

/* Logits of two steps, which add a row each. */
static Floats two_steps(int32_t grid)
{
    Case<LlamaTiny> c(64, 5, grid);
    step(c);
    c.pos++;
    c.set_rows(false);
    step(c);
    return c.floats(c.a.at[PFQ_AT_LOGITS], LlamaTiny::vocab);
}

/* Rows of a step of several: each as a step of its own makes it, to the bit; rows that are not
 * there change nothing. */
struct TinyDynamic : LlamaTiny {
    static constexpr int32_t o_parts = 1, down_parts = 1, base = 3, outer = 3, inner = 128;
    static constexpr bool fixed = false, kv_fixed = false;
};
template <class S, int32_t rows_> struct Rows : S {
    static constexpr int32_t rows = rows_;
};
/* Many: attention, of heads that fit its products, is another; what one row makes there. */
struct TinyMany : LlamaTiny {
    static constexpr int32_t heads = 4, kv_heads = 2, D = 64, o_parts = 2, base = 3, outer = 3,
                             inner = 128, down_parts = 3, head_parts = 2, units = 4, rows = 8;
};
struct TinyManyBytes : TinyMany {
    static constexpr int32_t kv = PFQ_KV_S8, heads = 8, rows = 16;
};
struct TinyManyLayer : TinyMany {
    static constexpr int32_t layers = 1;
    static constexpr bool keep = true;
};
/* S of several rows, One of one; of few, on as many blocks as cut attention alike. */
template <class S, class One> static int together(int32_t grid, int32_t n, int32_t pos)
{
    Case<S> c(192, pos, grid);
    int failures = 0;
    c.set_rows(true);
    c.a.rows = n;
    for (int i = 0; i < 2; i++)
        step(c);
    const Floats all = c.floats(c.a.at[PFQ_AT_LOGITS], (size_t)S::rows * S::vocab);
    const Ints tokens = c.ints(c.a.at[PFQ_AT_TOKEN], (size_t)S::rows);
    for (int32_t r = 0; r < S::rows; r++) {
        if (r < n) {
            launch<One>(c.alone(r), One::rows == 1 ? 3 : 3 + r % 3);
            const Floats one = c.floats(c.a.at[PFQ_AT_LOGITS], S::vocab);
            const Ints token = c.ints(c.a.at[PFQ_AT_TOKEN], 1);
            if (!memcmp(&all[(size_t)r * one.n], one.at, 4 * one.n) &&
                tokens[(size_t)r] == token[0])
                continue;
        } else if (!tokens[(size_t)r]) {
            continue;
        }
        printf("FAIL row %d of %d of %d, on %d blocks, at %d\n", r, n, S::rows, grid, pos);
        failures++;
    }
    return failures;
}
template <class S, int32_t rows> static int few(int32_t grid, int32_t n, int32_t pos)
{
    return together<Rows<S, rows>, S>(grid, n, pos);
}
template <class S> static int many(int32_t grid, int32_t n, int32_t pos)
{
    return together<S, S>(grid, n, pos);
}

template <class S> static int layer(int32_t grid, int32_t pos)
{
    Case<S> c(192, pos, grid);
    step(c);
    c.check();
    return c.failures;
}

int main()
{
    static const int32_t grids[] = {1, 3, 5}, positions[] = {0, 1, 40, 130};
    int failures = 0;
    for (int order = 0; order < 2; order++)
        for (int32_t grid : grids)
            for (int32_t pos : positions) {
                simt_shuffle = order;
                failures += layer<TinyLayer>(grid, pos);
                if (pos < 130) failures += layer<TinyWideLayer>(grid, pos);
                failures += layer<TinyManyLayer>(grid + 7, pos);
            }
    const Floats one = two_steps(1);
    for (int32_t grid = 2; grid < 6; grid += 2)
        if (memcmp(two_steps(grid).at, one.at, 4 * one.n)) {
            printf("FAIL two steps on %d blocks\n", grid);
            failures++;
        }
    for (int order = 0; order < 2; order++) {
        simt_shuffle = order;
        failures += few<LlamaTiny, 2>(2, 2, 130) + few<LlamaTiny, 2>(7, 1, 40) +
                    few<LlamaTiny, 4>(5, 3, 130) + few<TinyDynamic, 4>(6, 4, 61) +
                    few<TinyWide, 4>(6, 3, 61);
        failures +=
            many<TinyMany>(8, 8, 130) + many<TinyMany>(5, 3, 61) + many<TinyManyBytes>(16, 16, 40);
    }
    printf("%d failures\n", failures);
    return failures != 0;
}
