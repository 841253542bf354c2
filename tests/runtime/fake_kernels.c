/* The toy model's kernels for the stub of the CUDA driver (tests/cuda/stub_driver.c), with the rule
 * of fake_model.c. A launch computes what its grid covers and no more, so wrong geometry shows. */
#include "fake_rule.h"
#include "runtime/sample.h"

#include <stdlib.h>
#include <string.h>

typedef void Kernel(const PfqCudaArgs *a, const int32_t grid[3], int32_t block, int32_t shared);
Kernel fake_append, fake_hash, fake_head, fake_choose;

static void *at(uint64_t address)
{
    return (void *)(uintptr_t)address;
}

static const PfqRow *row_of(const PfqCudaArgs *a, int32_t t)
{
    return (const PfqRow *)at(a->rows) + t;
}

/* The cache at `address`, in the slot of row t. */
static int32_t *slot_of(const PfqCudaArgs *a, uint64_t address, int32_t t)
{
    return at(address + a->slot * (uint64_t)row_of(a, t)->slot);
}

static int32_t rows_of(const PfqCudaArgs *a, const int32_t grid[3], int32_t rows)
{
    return grid[1] * rows < a->T ? grid[1] * rows : a->T;
}

void fake_append(const PfqCudaArgs *a, const int32_t grid[3], int32_t block, int32_t shared)
{
    const int32_t *tokens = at(a->in[0]), n = rows_of(a, grid, FAKE_ROWS_APPEND);
    int32_t *own = at(a->out[2]);
    (void)block, (void)shared;
    for (int32_t t = 0; t < n; t++) {
        const int32_t pos = row_of(a, t)->pos;
        slot_of(a, a->out[0], t)[pos] = tokens[t];
        slot_of(a, a->out[1], t)[pos] = tokens[t] ^ 0x5555;
        own[t] = tokens[t];
    }
}

void fake_hash(const PfqCudaArgs *a, const int32_t grid[3], int32_t block, int32_t shared)
{
    const int32_t *own = at(a->in[2]), n = rows_of(a, grid, FAKE_ROWS_HASH);
    uint32_t *act = at(a->out[0]);
    const bool ok = shared == FAKE_SHARED && a->ctx % 64 == 0;
    (void)block;
    for (int32_t t = 0; t < n; t++) {
        const int32_t *lo = slot_of(a, a->in[0], t), *hi = slot_of(a, a->in[1], t);
        const int32_t pos = row_of(a, t)->pos;
        act[2 * t] = fake_hash_of(lo, hi, pos) + (ok && own[t] == lo[pos] ? 0 : 1);
        act[2 * t + 1] = (uint32_t)lo[pos];
    }
}

void fake_head(const PfqCudaArgs *a, const int32_t grid[3], int32_t block, int32_t shared)
{
    const uint32_t *act = at(a->in[0]);
    const int32_t *rows = at(a->in[1]);
    const float *bias = at(a->w);
    float *out = at(a->out[0]);
    const int32_t n = rows_of(a, grid, FAKE_ROWS_HEAD), cols = grid[0] * block;
    (void)shared;
    for (int32_t r = 0; r < n; r++) {
        const uint32_t *row = act + 2 * (rows ? rows[r] : r);
        for (int32_t v = 0; v < FAKE_VOCAB && v < cols; v++) {
            out[r * FAKE_VOCAB + v] = fake_logit(row[0], row[1], v, bias[v]);
        }
    }
}

/* What codegen/cuda/sample.cu does, by the CPU's sampler. FAKE_ASK=n: every nth token is the host's
 * to choose. */
static void choose_row(const PfqCudaArgs *a, int32_t row)
{
    PfqCudaSampler *g = (PfqCudaSampler *)at(a->in[1]) + row;
    const float *logits = (const float *)at(a->in[0]) + (size_t)row * FAKE_VOCAB;
    PfqSampler s = {.temp = g->scale > 0 ? 1 / g->scale : 0,
                    .top_p = g->top_p,
                    .min_p = g->min_p,
                    .top_k = g->top_k,
                    .state = g->state};
    const char *ask = getenv("FAKE_ASK");
    if (g->halted || !pfq_sampler_init(&s, g->vocab)) {
        return;
    }
    int32_t token = PFQ_HOST_CHOOSES;
    if (ask && g->count % atoi(ask) == 0) {
        memmove(at(g->kept), logits, (size_t)g->vocab * sizeof *logits);
    } else {
        token = pfq_sample(&s, logits);
    }
    pfq_sampler_free(&s);
    g->halted = token < 0;
    g->state = s.state;
    if (token >= 0) {
        ((int32_t *)at(a->out[0]))[row] = token;
        ((PfqRow *)at(a->rows))[row].pos++;
    }
    PfqCudaToken *to = (PfqCudaToken *)at(g->ring) + g->count % PFQ_CUDA_RING;
    *to = (PfqCudaToken){(uint64_t)(uint32_t)g->count << 32 | (uint32_t)token, s.state};
    g->count++;
}

void fake_choose(const PfqCudaArgs *a, const int32_t grid[3], int32_t block, int32_t shared)
{
    for (int32_t row = 0; row < a->T; row++) {
        choose_row(a, row);
    }
    (void)grid, (void)block, (void)shared;
}
