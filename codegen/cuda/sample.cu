/* The next token, from logits to where the next step reads it: runtime/sample.h's rule, to the bit,
 * so that a GPU draws what the CPU would of the same logits, seed and options.
 *
 *   in[0]  logits f32 [T][vocab]; in[1] PfqCudaSampler [T], which are also written
 *   out[0] int32 [T]: the tokens; rows: their positions, one further
 *   work   of each row, double [runs]: masses; then f32 [runs][8]: the largest of each lane
 *
 * Rows of T (blockIdx.y) know nothing of each other. sample_runs: a thread a lane of a run
 * (PFQ_SAMPLE_RUN ids, in lanes of every eighth), blocks of eight runs. sample_choose: one block.
 * What it ranks must fit shared memory: the PFQ_RANKED best at most, found by a bound that so many
 * lanes' largest reach. Where that is not enough (ties without end, a flat distribution that top_p
 * wants most of), it says PFQ_HOST_CHOOSES, keeps the logits, and does no more until the host has
 * chosen (PfqCudaSampler.halted). Each token goes to a ring that the host reads without a wait of
 * its own.
 *
 * Roofline: latency. Logits are read once from L2 by all; the rest is a few microseconds in one
 * block, of which sums in a fixed order are most.
 */
#include "reduce.cuh"

/* As in runtime/abi.h, which tests/cuda/test_sample.c reads results by. */
struct PfqCudaSampler {
    double scale, top_p, min_p, span;
    uint64_t state, ring, kept;
    int32_t top_k, vocab, count, halted;
};
struct PfqCudaToken {
    uint64_t word, state;
};
enum { PFQ_CUDA_RING = 64, PFQ_NOT_FINITE = -1, PFQ_HOST_CHOOSES = -2 };

enum {
    PFQ_RUN = 256,
    PFQ_RUN_LANES = 8,
    PFQ_RUNS_BLOCK = 64,
    PFQ_CHOOSE_BLOCK = 512,
    PFQ_RANKED = 1024,
    PFQ_MAX_RUNS = 2 * PFQ_RANKED
};

#define PFQ_INFINITY __int_as_float(0x7f800000)

/* pfq_exp of runtime/sample.c for x <= 0. */
PFQ_CALL double sample_exp(double x)
{
    if (!(x >= -708.0)) return 0.0;
    union {
        double d;
        int64_t i;
    } t, two;
    t.d = x * 0x1.71547652b82fep0 + 0x1.8p52;
    const double k = t.d - 0x1.8p52;
    const double r = x - k * 0x1.62e42fefa38p-1 - k * 0x1.ef35793c7673p-45;
    double p = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    two.i = (int64_t)((uint64_t)t.i << 52) + 0x3ff0000000000000;
    return p * two.d;
}

/* What is asked for. */
enum SampleKind { SAMPLE_GREEDY, SAMPLE_ALL, SAMPLE_TOP, SAMPLE_RANKED };

PFQ_DEVICE SampleKind kind_of(const PfqCudaSampler &s)
{
    if (s.scale <= 0.0) return SAMPLE_GREEDY;
    if (s.top_k > 0 && s.top_k < s.vocab) return SAMPLE_TOP;
    return s.top_p >= 1.0 && s.min_p <= 0.0 ? SAMPLE_ALL : SAMPLE_RANKED;
}
PFQ_DEVICE int32_t runs_of(const PfqCudaSampler &s)
{
    return (s.vocab + PFQ_RUN - 1) / PFQ_RUN;
}

/* What is the row's, of blocks along y. */
PFQ_DEVICE PfqCudaSampler *sampler_of(const PfqCudaArgs &a)
{
    return (PfqCudaSampler *)a.in[1] + blockIdx.y;
}
PFQ_DEVICE const float *logits_of(const PfqCudaArgs &a, int32_t vocab)
{
    return (const float *)a.in[0] + (int64_t)blockIdx.y * vocab;
}
PFQ_DEVICE double *work_of(const PfqCudaArgs &a, int32_t runs)
{
    return (double *)a.work + (int64_t)blockIdx.y * runs * (1 + PFQ_RUN_LANES / 2);
}

/* ---- runs ---- */

PFQ_KERNEL(pfq_cu_sample_runs, 64)
{
    __shared__ float top[PFQ_RUNS_BLOCK];
    __shared__ double part[PFQ_RUNS_BLOCK];
    const PfqCudaSampler &s = *sampler_of(a);
    const int32_t tid = (int32_t)threadIdx.x, lane = tid % PFQ_RUN_LANES, runs = runs_of(s),
                  run =
                      (int32_t)blockIdx.x * (PFQ_RUNS_BLOCK / PFQ_RUN_LANES) + tid / PFQ_RUN_LANES;
    const SampleKind kind = kind_of(s);
    const float *v = logits_of(a, s.vocab) + (int64_t)run * PFQ_RUN + lane;
    double *mass = work_of(a, runs);
    const int32_t left = s.vocab - run * PFQ_RUN - lane; /* elements from v on */
    float most = -PFQ_INFINITY;
    if (s.halted) return;
    for (int32_t i = 0; i < PFQ_RUN && i < left; i += PFQ_RUN_LANES)
        most = v[i] > most ? v[i] : most;
    top[tid] = most;
    __syncthreads();
    if (run < runs) ((float *)(mass + runs))[run * PFQ_RUN_LANES + lane] = most;
    if (kind != SAMPLE_ALL && kind != SAMPLE_RANKED) return;
    const double scale = kind == SAMPLE_ALL ? s.scale : 1.0;
    for (int32_t i = 0; i < PFQ_RUN_LANES; i++)
        most = fmaxf(most, top[tid - lane + i]);
    double sum = 0.0;
    for (int32_t i = 0; i < PFQ_RUN && i < left; i += PFQ_RUN_LANES)
        sum += sample_exp(((double)v[i] - (double)most) * scale);
    part[tid] = sum;
    __syncthreads();
    const double *p = part + tid;
    if (lane == 0 && run < runs)
        mass[run] = ((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7]));
}

/* ---- one block ---- */

/* Results of the runs. */
struct Runs {
    const float *v; /* logits */
    const double *mass;
    const float *most; /* [lanes] */
    int32_t vocab, n, lanes;
};

/* Over the block's threads, in every one. */
PFQ_CALL int32_t least_of_all(int32_t x)
{
    const int32_t *part = pfq_of_warps(__reduce_min_sync(~0u, x));
    for (int32_t i = 0; i < PFQ_CHOOSE_BLOCK / 32; i++)
        x = min(x, part[i]);
    return x;
}
PFQ_CALL int32_t sum_of_all(int32_t x)
{
    const int32_t *part = pfq_of_warps(__reduce_add_sync(~0u, x));
    x = 0;
    for (int32_t i = 0; i < PFQ_CHOOSE_BLOCK / 32; i++)
        x += part[i];
    return x;
}

/* The largest logit of run i. */
PFQ_DEVICE float most_of(const Runs &r, int32_t i)
{
    float most = r.most[i * PFQ_RUN_LANES];
    for (int32_t l = 1; l < PFQ_RUN_LANES; l++)
        most = fmaxf(most, r.most[i * PFQ_RUN_LANES + l]);
    return most;
}

/* put(id, logit) of all tokens of at least `bound` but those of -infinity. */
template <class Put> PFQ_DEVICE void each_from(const Runs &r, double bound, Put put)
{
    PFQ_LOOP
    for (int32_t l = (int32_t)threadIdx.x; l < r.lanes; l += PFQ_CHOOSE_BLOCK) {
        if (!((double)r.most[l] >= bound) || r.most[l] == -PFQ_INFINITY) continue;
        const int32_t first = l / PFQ_RUN_LANES * PFQ_RUN + l % PFQ_RUN_LANES;
        const int32_t end = min(r.vocab, first + PFQ_RUN);
        PFQ_LOOP
        for (int32_t at = first; at < end; at += PFQ_RUN_LANES) {
            const float x = r.v[at];
            if ((double)x >= bound && x > -PFQ_INFINITY) put(at, x);
        }
    }
}

/* Integers in the order of floats. */
PFQ_DEVICE uint32_t order_of(float x)
{
    const uint32_t b = __float_as_uint(x);
    return b >> 31 ? ~b : b | 0x80000000u;
}

/* A bound that `want` lanes' largest reach, and few more: to 16 bits. */
PFQ_DEVICE double bound_of(const Runs &r, int32_t want)
{
    uint32_t bound = 0;
    if (r.lanes < want) return (double)-PFQ_INFINITY;
    PFQ_LOOP
    for (uint32_t bit = 1u << 31; bit >= 1u << 16; bit >>= 1) {
        int32_t n = 0;
        PFQ_LOOP
        for (int32_t l = (int32_t)threadIdx.x; l < r.lanes; l += PFQ_CHOOSE_BLOCK)
            n += order_of(r.most[l]) >= (bound | bit);
        if (sum_of_all(n) >= want) bound |= bit;
    }
    if (bound <= order_of(-PFQ_INFINITY)) return (double)-PFQ_INFINITY;
    return (double)__uint_as_float(bound >> 31 ? bound & 0x7fffffffu : ~bound);
}

/* What the block works in. */
struct Desk {
    double value[2 * PFQ_RANKED];
    float logit[2][PFQ_RANKED]; /* as found; ranked */
    int32_t id[2][PFQ_RANKED];
    int32_t count, token;
    double total;
};

/* Mass of all tokens, in every thread; that of each run to value. */
PFQ_CALL double mass_of_all(Desk &d, const Runs &r, double max, double scale)
{
    PFQ_LOOP
    for (int32_t i = (int32_t)threadIdx.x; i < r.n; i += PFQ_CHOOSE_BLOCK) {
        d.value[i] = r.mass[i] * sample_exp(((double)most_of(r, i) - max) * scale);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        double sum = 0.0;
        for (int32_t i = 0; i < r.n; i++)
            sum += d.value[i];
        d.total = sum;
    }
    __syncthreads();
    return d.total;
}

PFQ_DEVICE double uniform(uint64_t &state)
{
    uint64_t z = state += 0x9e3779b97f4a7c15ul;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ul;
    z = (z ^ z >> 27) * 0x94d049bb133111ebul;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

/* Where in w[0..n), of which entry i counts only if it is above 0, `left` is used up. */
PFQ_CALL int32_t walk(const double *w, int32_t n, double &left, double &rest)
{
    int32_t pick = 0;
    for (int32_t i = 0; i < n; i++) {
        if (w[i] > 0.0) pick = i, rest = left;
        left -= w[i];
        if (left < 0.0) break;
    }
    return pick;
}

/* Of all tokens, by id. */
PFQ_DEVICE void draw_of_all(Desk &d, const Runs &r, double max, double scale, uint64_t &state)
{
    const double mass = mass_of_all(d, r, max, scale);
    double left = 0.0, rest = 0.0;
    if (threadIdx.x == 0) {
        left = uniform(state) * mass;
        d.token = walk(d.value, r.n, left, rest);
    }
    __syncthreads();
    const int32_t first = d.token * PFQ_RUN, n = min(PFQ_RUN, r.vocab - first);
    const float most = most_of(r, d.token);
    PFQ_LOOP
    for (int32_t i = (int32_t)threadIdx.x; i < n; i += PFQ_CHOOSE_BLOCK)
        d.value[i] = sample_exp(((double)r.v[first + i] - (double)most) * scale);
    __syncthreads();
    if (threadIdx.x == 0) {
        left = rest / sample_exp(((double)most - max) * scale);
        d.token = first + walk(d.value, n, left, rest);
    }
}

/* Tokens from `bound` on to the desk, ranked: how many; more than there is room for: none. */
PFQ_DEVICE int32_t rank_from(Desk &d, const Runs &r, double bound)
{
    each_from(r, bound, [&](int32_t at, float x) {
        const int32_t i = atomicAdd(&d.count, 1);
        if (i < PFQ_RANKED) d.logit[0][i] = x, d.id[0][i] = at;
    });
    __syncthreads();
    const int32_t n = d.count;
    PFQ_LOOP
    for (int32_t i = (int32_t)threadIdx.x; n <= PFQ_RANKED && i < n; i += PFQ_CHOOSE_BLOCK) {
        const float x = d.logit[0][i];
        const int32_t id = d.id[0][i];
        int32_t rank = 0;
        for (int32_t j = 0; j < n; j++)
            rank += d.logit[0][j] > x || (d.logit[0][j] == x && d.id[0][j] < id);
        d.logit[1][rank] = x, d.id[1][rank] = id;
    }
    __syncthreads();
    return n;
}

/* How many of n ranked candidates are kept; n: none is cut. total: below 0, the candidates' own. */
PFQ_DEVICE int32_t kept_of(Desk &d, const PfqCudaSampler &s, int32_t n, double max, double total)
{
    double *w = d.value, *before = d.value + PFQ_RANKED; /* masses in front of each */
    PFQ_LOOP
    for (int32_t i = (int32_t)threadIdx.x; i < n; i += PFQ_CHOOSE_BLOCK)
        w[i] = sample_exp((double)d.logit[1][i] - max);
    __syncthreads();
    if (threadIdx.x == 0) {
        double mass = 0.0;
        for (int32_t i = 0; i < n; i++)
            before[i] = mass, mass += w[i];
        d.total = total < 0.0 ? mass : total;
    }
    __syncthreads();
    int32_t cut = n;
    PFQ_LOOP
    for (int32_t i = (int32_t)threadIdx.x; i < n && cut == n; i += PFQ_CHOOSE_BLOCK)
        if (i > 0 && (before[i] >= s.top_p * d.total || w[i] < s.min_p)) cut = i;
    return least_of_all(cut);
}

/* Of the n best, from the best or (up) the worst on. */
PFQ_DEVICE void draw_of_ranked(Desk &d, int32_t n, bool up, double max, double scale,
                               uint64_t &state)
{
    PFQ_LOOP
    for (int32_t i = (int32_t)threadIdx.x; i < n; i += PFQ_CHOOSE_BLOCK)
        d.value[i] = sample_exp(((double)d.logit[1][up ? n - 1 - i : i] - max) * scale);
    __syncthreads();
    if (threadIdx.x) return;
    double mass = 0.0, rest;
    for (int32_t i = 0; i < n; i++)
        mass += d.value[i];
    double left = uniform(state) * mass;
    const int32_t i = walk(d.value, n, left, rest);
    d.token = d.id[1][up ? n - 1 - i : i];
}

/* By rank. false: the desk is too small. */
PFQ_DEVICE bool choose_ranked(Desk &d, const Runs &r, const PfqCudaSampler &s, bool top, double max,
                              uint64_t &state)
{
    const double total = top ? -1.0 : mass_of_all(d, r, max, 1.0);
    const double bound = r.vocab <= PFQ_RANKED ? (double)-PFQ_INFINITY
                         : top                 ? bound_of(r, s.top_k)
                         : s.min_p > 0.0       ? max - s.span
                                         : bound_of(r, min(r.lanes - r.lanes / 4, PFQ_RANKED / 2));
    int32_t n = rank_from(d, r, bound);
    if (n > PFQ_RANKED) return false;
    if (top) n = min(n, s.top_k);
    const int32_t kept = kept_of(d, s, n, max, total);
    if (kept == n && !top && s.min_p <= 0.0 && bound > (double)-PFQ_INFINITY) return false;
    draw_of_ranked(d, kept, !top, max, s.scale, state);
    return true;
}

/* The token, or PFQ_NOT_FINITE, to d.token; false: the host must choose. */
PFQ_DEVICE bool choose(Desk &d, const Runs &r, const PfqCudaSampler &s, uint64_t &state)
{
    float most = -PFQ_INFINITY;
    PFQ_LOOP
    for (int32_t l = (int32_t)threadIdx.x; l < r.lanes; l += PFQ_CHOOSE_BLOCK)
        most = fmaxf(most, r.most[l]);
    const double max = (double)pfq_block_max(most);
    const SampleKind kind = kind_of(s);
    if (!(max > -1e300 && max < 1e300)) {
        if (threadIdx.x == 0) d.token = PFQ_NOT_FINITE;
    } else if (kind == SAMPLE_GREEDY) {
        int32_t id = r.vocab;
        each_from(r, max, [&](int32_t at, float) { id = min(id, at); });
        id = least_of_all(id);
        if (threadIdx.x == 0) d.token = id;
    } else if (r.n > PFQ_MAX_RUNS) {
        return false;
    } else if (kind == SAMPLE_ALL) {
        draw_of_all(d, r, max, s.scale, state);
    } else {
        return choose_ranked(d, r, s, kind == SAMPLE_TOP, max, state);
    }
    return true;
}

/* Tells the host and the next step. */
PFQ_DEVICE void tell(const PfqCudaArgs &a, int32_t token, uint64_t state)
{
    PfqCudaSampler *s = sampler_of(a);
    volatile PfqCudaToken *to = (PfqCudaToken *)s->ring + (uint32_t)s->count % PFQ_CUDA_RING;
    s->state = state;
    s->halted = token < 0;
    if (token >= 0) {
        ((int32_t *)a.out[0])[blockIdx.y] = token;
        ((PfqRow *)a.rows)[blockIdx.y].pos++;
    }
    to->state = state;
    __threadfence_system();
    to->word = (uint64_t)(uint32_t)s->count << 32 | (uint32_t)token;
    s->count++;
}

PFQ_KERNEL(pfq_cu_sample_choose, 512)
{
    __shared__ Desk d;
    const PfqCudaSampler s = *sampler_of(a);
    const int32_t n = runs_of(s);
    const double *mass = work_of(a, n);
    const Runs r = {logits_of(a, s.vocab), mass, (const float *)(mass + n), s.vocab, n,
                    n * PFQ_RUN_LANES};
    uint64_t state = s.state;
    if (s.halted) return;
    if (threadIdx.x == 0) d.count = 0;
    __syncthreads();
    const bool done = choose(d, r, s, state);
    PFQ_LOOP
    for (int32_t i = (int32_t)threadIdx.x; !done && i < s.vocab; i += PFQ_CHOOSE_BLOCK)
        ((float *)s.kept)[i] = r.v[i];
    if (threadIdx.x == 0) tell(a, done ? d.token : PFQ_HOST_CHOOSES, state);
}
