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

template <class S> static void thread(const void *a)
{
    pfq_decode<LlamaModel<S>>(*(const PfqDecodeArgs *)a);
}
template <class S> static void step(Case<S> &c)
{
    const int32_t grid[3] = {c.grid, 1, 1};
    simt_launch_cooperative("decode", thread<S>, &c.a, grid, PFQ_DECODE_BLOCK, PFQ_DECODE_BLOCK,
                            PfqRoom<LlamaModel<S>>::bytes);
}

/* Logits of two steps, which add a row each. */
static Floats two_steps(int32_t grid)
{
    Case<LlamaTiny> c(64, 5, grid);
    step(c);
    c.pos++;
    mem_put((void *)c.a.at[PFQ_AT_POSITION], &c.pos, 4);
    step(c);
    return c.floats(c.a.at[PFQ_AT_LOGITS], LlamaTiny::vocab);
}

int main()
{
    static const int32_t grids[] = {1, 3, 5}, positions[] = {0, 1, 40, 130};
    int failures = 0;
    for (int order = 0; order < 2; order++)
        for (int32_t grid : grids)
            for (int32_t pos : positions) {
                simt_shuffle = order;
                Case<TinyLayer> c(192, pos, grid);
                step(c);
                c.check();
                failures += c.failures;
            }
    const Floats one = two_steps(1);
    for (int32_t grid = 2; grid < 6; grid += 2)
        if (memcmp(two_steps(grid).at, one.at, 4 * one.n)) {
            printf("FAIL two steps on %d blocks\n", grid);
            failures++;
        }
    printf("%d failures\n", failures);
    return failures != 0;
}
