/* Sampling. Contract: sample.h. */
#include "runtime/sample.h"

#include <emmintrin.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

bool pfq_sampler_init(PfqSampler *s, int32_t vocab)
{
    s->vocab = vocab;
    s->cand = calloc(2 * (size_t)vocab, sizeof *s->cand);
    return s->cand != NULL;
}

void pfq_sampler_free(PfqSampler *s)
{
    free(s->cand);
    s->cand = NULL;
}

uint64_t pfq_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* ---- exp ---- */

/* Defines void exp_NAME(VEC *v): exp of each lane; run_mass_NAME(v, n, max, scale): sum_i exp((v[i]
 * - max) * scale); divergence_NAME, as pfq_divergence; both for n a multiple of 8. Arithmetic is
 * elementwise and never contracted, and the sum always has eight lanes: SSE2, AVX2 and AVX-512 give
 * the same bits. (A macro, because the compiler splits vectors of an inline function before it
 * knows who inlines it.)
 *
 * exp(x) = 2^k * exp(r), k = round(x / ln 2), |r| <= ln(2) / 2, exp(r) by its Taylor series to
 * r^13. Adding 1.5 * 2^52 leaves k in the low mantissa bits, ready to be shifted into the exponent.
 * Below -708 (and for NaN) the result is 0. */
#define DEFINE_EXP(NAME, TARGET, LANES)                                                            \
    typedef double Vec_##NAME __attribute__((vector_size(8 * LANES)));                             \
    typedef int64_t Bits_##NAME __attribute__((vector_size(8 * LANES)));                           \
    typedef float Floats_##NAME __attribute__((vector_size(4 * LANES), aligned(4)));               \
                                                                                                   \
    TARGET static inline void exp_##NAME(Vec_##NAME *v)                                            \
    {                                                                                              \
        Bits_##NAME live = *v >= -708.0;                                                           \
        Vec_##NAME x = (Vec_##NAME)((Bits_##NAME) * v & live);                                     \
        Vec_##NAME t = x * 0x1.71547652b82fep0 + 0x1.8p52;                                         \
        Vec_##NAME k = t - 0x1.8p52;                                                               \
        Vec_##NAME r = x - k * 0x1.62e42fefa38p-1 - k * 0x1.ef35793c7673p-45;                      \
        Vec_##NAME p = r * (1.0 / 6227020800) + 1.0 / 479001600;                                   \
        p = p * r + 1.0 / 39916800;                                                                \
        p = p * r + 1.0 / 3628800;                                                                 \
        p = p * r + 1.0 / 362880;                                                                  \
        p = p * r + 1.0 / 40320;                                                                   \
        p = p * r + 1.0 / 5040;                                                                    \
        p = p * r + 1.0 / 720;                                                                     \
        p = p * r + 1.0 / 120;                                                                     \
        p = p * r + 1.0 / 24;                                                                      \
        p = p * r + 1.0 / 6;                                                                       \
        p = p * r + 0.5;                                                                           \
        p = p * r + 1.0;                                                                           \
        p = p * r + 1.0;                                                                           \
        Bits_##NAME scale = ((Bits_##NAME)t << 52) + 0x3ff0000000000000;                           \
        *v = (Vec_##NAME)((Bits_##NAME)(p * (Vec_##NAME)scale) & live);                            \
    }                                                                                              \
                                                                                                   \
    TARGET static double run_mass_##NAME(const float *v, int32_t n, double max, double scale)      \
    {                                                                                              \
        Vec_##NAME sum[8 / LANES];                                                                 \
        double lane[8];                                                                            \
        memset(sum, 0, sizeof sum);                                                                \
        for (int32_t i = 0; i < n; i += 8) {                                                       \
            for (int32_t j = 0; j < 8 / LANES; j++) {                                              \
                const Floats_##NAME *f = (const Floats_##NAME *)(v + i + j * LANES);               \
                Vec_##NAME x = (__builtin_convertvector(*f, Vec_##NAME) - max) * scale;            \
                exp_##NAME(&x);                                                                    \
                sum[j] += x;                                                                       \
            }                                                                                      \
        }                                                                                          \
        memcpy(lane, sum, sizeof sum);                                                             \
        return add8(lane);                                                                         \
    }                                                                                              \
                                                                                                   \
    TARGET static double divergence_##NAME(const float *p, double zp, const float *q, double zq,   \
                                           int32_t n)                                              \
    {                                                                                              \
        Vec_##NAME sum[8 / LANES];                                                                 \
        double lane[8];                                                                            \
        memset(sum, 0, sizeof sum);                                                                \
        for (int32_t i = 0; i < n; i += 8) {                                                       \
            for (int32_t j = 0; j < 8 / LANES; j++) {                                              \
                const Floats_##NAME *fp = (const Floats_##NAME *)(p + i + j * LANES),              \
                                    *fq = (const Floats_##NAME *)(q + i + j * LANES);              \
                Vec_##NAME x = __builtin_convertvector(*fp, Vec_##NAME) - zp;                      \
                Vec_##NAME d = x - (__builtin_convertvector(*fq, Vec_##NAME) - zq);                \
                exp_##NAME(&x);                                                                    \
                sum[j] += x * d;                                                                   \
            }                                                                                      \
        }                                                                                          \
        memcpy(lane, sum, sizeof sum);                                                             \
        return add8(lane);                                                                         \
    }

static double add8(const double v[8])
{
    return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}

DEFINE_EXP(sse2, , 2)
DEFINE_EXP(avx2, __attribute__((target("avx2"))), 4)
DEFINE_EXP(avx512, __attribute__((target("avx512f,avx512dq"))), 8)

double pfq_exp(double x)
{
    Vec_sse2 v = {x, x};
    exp_sse2(&v);
    return v[0];
}

/* ---- the largest ---- */

static float max_of(const float *v, int32_t n)
{
    /* maxps gives its second operand when either is NaN, so a NaN in v never replaces the maximum
     * so far. */
    __m128 a = _mm_set1_ps(-INFINITY), b = a, c = a, d = a;
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        a = _mm_max_ps(_mm_loadu_ps(v + i), a);
        b = _mm_max_ps(_mm_loadu_ps(v + i + 4), b);
        c = _mm_max_ps(_mm_loadu_ps(v + i + 8), c);
        d = _mm_max_ps(_mm_loadu_ps(v + i + 12), d);
    }
    float lane[4], best = -INFINITY;
    _mm_storeu_ps(lane, _mm_max_ps(_mm_max_ps(a, b), _mm_max_ps(c, d)));
    for (int32_t j = 0; j < 4; j++) {
        best = lane[j] > best ? lane[j] : best;
    }
    for (; i < n; i++) {
        best = v[i] > best ? v[i] : best;
    }
    return best;
}

int32_t pfq_argmax(const float *v, int32_t n)
{
    float best = max_of(v, n);
    if (!isfinite(best)) {
        return -1;
    }
    __m128 top = _mm_set1_ps(best);
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m128 hit = _mm_or_ps(_mm_or_ps(_mm_cmpeq_ps(_mm_loadu_ps(v + i), top),
                                         _mm_cmpeq_ps(_mm_loadu_ps(v + i + 4), top)),
                               _mm_or_ps(_mm_cmpeq_ps(_mm_loadu_ps(v + i + 8), top),
                                         _mm_cmpeq_ps(_mm_loadu_ps(v + i + 12), top)));
        if (_mm_movemask_ps(hit)) {
            break;
        }
    }
    while (v[i] != best) {
        i++;
    }
    return i;
}

/* ---- runs ---- */

static int32_t run_length(int32_t n, int32_t at)
{
    return n - at < PFQ_SAMPLE_RUN ? n - at : PFQ_SAMPLE_RUN;
}

/* The mass of the run v[0..n), n <= PFQ_SAMPLE_RUN, whose largest is max. */
static double run_mass(const float *v, int32_t n, double max, double scale)
{
    float padded[PFQ_SAMPLE_RUN];
    if (n % 8) {
        for (int32_t i = 0; i < (n + 7) / 8 * 8; i++) {
            padded[i] = i < n ? v[i] : -INFINITY;
        }
        v = padded;
        n = (n + 7) / 8 * 8;
    }
    return __builtin_cpu_supports("avx512dq") ? run_mass_avx512(v, n, max, scale)
           : __builtin_cpu_supports("avx2")   ? run_mass_avx2(v, n, max, scale)
                                              : run_mass_sse2(v, n, max, scale);
}

/* What a run of that largest is worth beside one whose largest is `max`. */
static double run_factor(float largest, double max, double scale)
{
    return pfq_exp(((double)largest - max) * scale);
}

static double mass_of_run(const float *v, int32_t n, double max, double scale)
{
    const float largest = max_of(v, n);
    return run_mass(v, n, (double)largest, scale) * run_factor(largest, max, scale);
}

static double mass_of_runs(const float *v, int32_t n, double max, double scale)
{
    double mass = 0;
    for (int32_t at = 0; at < n; at += PFQ_SAMPLE_RUN) {
        mass += mass_of_run(v + at, run_length(n, at), max, scale);
    }
    return mass;
}

double pfq_log_sum_exp(const float *v, int32_t n)
{
    double max = (double)max_of(v, n);
    return isfinite(max) ? max + log(mass_of_runs(v, n, max, 1)) : max;
}

double pfq_divergence(const float *p, double zp, const float *q, double zq, int32_t n)
{
    int32_t even = n - n % 8;
    double sum = __builtin_cpu_supports("avx512dq") ? divergence_avx512(p, zp, q, zq, even)
                 : __builtin_cpu_supports("avx2")   ? divergence_avx2(p, zp, q, zq, even)
                                                    : divergence_sse2(p, zp, q, zq, even);
    for (int32_t i = even; i < n; i++) {
        double x = (double)p[i] - zp;
        sum += pfq_exp(x) * (x - ((double)q[i] - zq));
    }
    return sum > 0 ? sum : sum <= 0 ? 0 : sum; /* NaN stays */
}

/* ---- ranking ---- */

static bool before(PfqCandidate a, PfqCandidate b) /* a ranks higher */
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* Restores the heap below c[at] after that entry changed. The top is the worst candidate. */
static void sift(PfqCandidate *c, int32_t n, int32_t at)
{
    PfqCandidate moving = c[at];
    for (int32_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(c[child], c[child + 1])) {
            child++;
        }
        if (!before(moving, c[child])) {
            break;
        }
        c[at] = c[child];
    }
    c[at] = moving;
}

static void heapify(PfqCandidate *c, int32_t n)
{
    for (int32_t i = n / 2; i-- > 0;) {
        sift(c, n, i);
    }
}

/* Swaps the heap's top behind its end; returns the new size. */
static int32_t pop(PfqCandidate *c, int32_t n)
{
    PfqCandidate top = c[0];
    c[0] = c[n - 1];
    c[n - 1] = top;
    sift(c, n - 1, 0);
    return n - 1;
}

static PfqCandidate candidate(const float *v, int32_t i)
{
    return (PfqCandidate){isnan(v[i]) ? -INFINITY : v[i], i};
}

void pfq_top(const float *v, int32_t n, int32_t k, PfqCandidate *out)
{
    for (int32_t i = 0; i < k; i++) {
        out[i] = candidate(v, i);
    }
    heapify(out, k);
    for (int32_t i = k; i < n && k > 0; i++) {
        if (v[i] > out[0].logit) { /* equal logits: the smaller id is already in */
            out[0] = candidate(v, i);
            sift(out, k, 0);
        }
    }
    for (int32_t left = k; left > 0;) {
        left = pop(out, left);
    }
}

/* ---- drawing ---- */

double pfq_sample_scale(const PfqSampler *s)
{
    return s->temp <= 0 ? 0 : fmin(1 / s->temp, 1e300);
}

double pfq_sample_span(const PfqSampler *s)
{
    return s->min_p > 0 ? 1e-3 - log(s->min_p) : INFINITY;
}

static double uniform(PfqSampler *s)
{
    return (double)(pfq_random(&s->state) >> 11) * 0x1p-53;
}

/* Weights exp((logit - max) * scale) of c[0..8); 0 for those from n on. */
static void weights(const PfqCandidate *c, int32_t n, double max, double scale, double w[8])
{
    for (int32_t i = 0; i < 8; i += 2) {
        Vec_sse2 v = {-INFINITY, -INFINITY};
        for (int32_t j = 0; j < 2 && i + j < n; j++) {
            v[j] = ((double)c[i + j].logit - max) * scale;
        }
        exp_sse2(&v);
        memcpy(w + i, &v, sizeof v);
    }
}

static double mass_of(const PfqCandidate *c, int32_t n, double max, double scale)
{
    double mass = 0, w[8];
    for (int32_t i = 0; i < n; i += 8) {
        weights(c + i, n - i, max, scale, w);
        for (int32_t j = 0; j < 8; j++) {
            mass += w[j];
        }
    }
    return mass;
}

static int32_t draw(PfqSampler *s, const PfqCandidate *c, int32_t n, double max)
{
    const double scale = pfq_sample_scale(s);
    double left = uniform(s) * mass_of(c, n, max, scale), w[8];
    int32_t pick = 0;
    for (int32_t i = 0; i < n; i += 8) {
        weights(c + i, n - i, max, scale, w);
        for (int32_t j = 0; j < 8; j++) {
            pick = w[j] > 0
                       ? i + j
                       : pick; /* rounding may leave a little at the end: the last possible one */
            left -= w[j];
            if (left < 0) {
                return c[pick].id;
            }
        }
    }
    return c[pick].id;
}

/* True when candidate i, whose weight is w, ends the list: `mass` is what was kept before it. */
static bool cut_before(const PfqSampler *s, int32_t i, double w, double mass, double total)
{
    return i > 0 && (mass >= s->top_p * total || w < s->min_p);
}

/* The token in a run v[0..n) at which the weights before it reach `left`. */
static int32_t draw_in_run(const float *v, int32_t n, double max, double scale, double left)
{
    int32_t pick = -1;
    for (int32_t i = 0; i < n; i++) {
        const double w = pfq_exp(((double)v[i] - max) * scale);
        pick = w > 0 ? i : pick;
        left -= w;
        if (left < 0) {
            break;
        }
    }
    return pick;
}

/* Masses of runs lie in s->cand, which is free then. */
static void put_mass(PfqSampler *s, int32_t run, double mass)
{
    memcpy(&s->cand[run], &mass, sizeof mass);
}

static double mass_at(const PfqSampler *s, int32_t run)
{
    double mass;
    memcpy(&mass, &s->cand[run], sizeof mass);
    return mass;
}

/* Of all tokens, in the order of their ids. */
static int32_t draw_all(PfqSampler *s, const float *v, double max)
{
    const int32_t runs = (s->vocab + PFQ_SAMPLE_RUN - 1) / PFQ_SAMPLE_RUN;
    const double scale = pfq_sample_scale(s);
    double total = 0, rest = 0;
    for (int32_t r = 0; r < runs; r++) {
        const int32_t at = r * PFQ_SAMPLE_RUN;
        const double mass = mass_of_run(v + at, run_length(s->vocab, at), max, scale);
        put_mass(s, r, mass);
        total += mass;
    }
    double left = uniform(s) * total;
    int32_t pick = 0;
    for (int32_t r = 0; r < runs && left >= 0; r++) {
        const double mass = mass_at(s, r);
        if (mass > 0) {
            pick = r, rest = left;
        }
        left -= mass;
    }
    const int32_t at = pick * PFQ_SAMPLE_RUN, n = run_length(s->vocab, at);
    const float largest = max_of(v + at, n);
    return at +
           draw_in_run(v + at, n, (double)largest, scale, rest / run_factor(largest, max, scale));
}

/* Candidates of at least `floor`, all of them for -infinity, the last id first; returns how many.
 */
static int32_t gather(PfqSampler *s, const float *logits, double floor)
{
    int32_t n = 0;
    for (int32_t i = s->vocab; i-- > 0;) {
        s->cand[n] = candidate(logits, i);
        n += (double)s->cand[n].logit >= floor;
    }
    return n;
}

/* A number that orders as the logit does. */
static uint32_t key_of(PfqCandidate c)
{
    const float logit = c.logit + 0.0f; /* -0 is 0 */
    uint32_t bits;
    memcpy(&bits, &logit, sizeof bits);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* Sorts by logit, the worst first, a byte of the key at a time; equal ones stay as they are. A heap
 * took five times as long where thousands are kept. */
static void sort(PfqCandidate *c, PfqCandidate *spare, int32_t n)
{
    int32_t count[4][256] = {{0}};
    PfqCandidate *from = c, *to = spare;
    for (int32_t i = 0; i < n; i++) {
        for (int b = 0; b < 4; b++) {
            count[b][key_of(c[i]) >> 8 * b & 255]++;
        }
    }
    for (int b = 0; b < 4; b++) {
        for (int32_t k = 0, at = 0; k < 256; k++) {
            const int32_t these = count[b][k];
            count[b][k] = at;
            at += these;
        }
        for (int32_t i = 0; i < n; i++) {
            to[count[b][key_of(from[i]) >> 8 * b & 255]++] = from[i];
        }
        PfqCandidate *const done = to;
        to = from;
        from = done;
    }
}

/* Of the top_k first, those kept, best first; returns how many. */
static int32_t keep_of_top(PfqSampler *s, const float *logits, double max)
{
    PfqCandidate *c = s->cand;
    double mass = 0, w;
    pfq_top(logits, s->vocab, s->top_k, c);
    const double total = mass_of(c, s->top_k, max, 1);
    int32_t n = 0;
    for (; n < s->top_k; n++, mass += w) {
        w = pfq_exp((double)c[n].logit - max);
        if (cut_before(s, n, w, mass, total)) {
            break;
        }
    }
    return n;
}

/* Sorts candidates of at least `floor` and keeps them from the best down, until one is cut. They
 * lie from *left on, *kept of them, the worst first; false: none was cut. */
static bool keep_sorted(PfqSampler *s, const float *logits, double max, double total, double floor,
                        int32_t *left, int32_t *kept)
{
    const PfqCandidate *c = s->cand;
    double mass = 0, w;
    *left = gather(s, logits, floor);
    sort(s->cand, s->cand + s->vocab, *left);
    for (*kept = 0; *left > 0; ++*kept, --*left, mass += w) {
        w = pfq_exp((double)c[*left - 1].logit - max);
        if (cut_before(s, *kept, w, mass, total)) {
            return true;
        }
    }
    return false;
}

/* How far below the largest logit candidates are that may be kept. Those below min_p are not; and
 * all that are less likely than the mean of the tail which top_p leaves away are, together, less
 * than it. Of a tail of next to nothing, e^-16 is the end, unless the others then fall short. */
static double reach(const PfqSampler *s, double total)
{
    const double tail = (1 - s->top_p) * total / s->vocab;
    return s->min_p > 0 ? pfq_sample_span(s) : fmin(16, 1e-3 - log(fmax(tail, 1e-9)));
}

int32_t pfq_sample(PfqSampler *s, const float *logits)
{
    int32_t best = pfq_argmax(logits, s->vocab), left, n;
    if (best < 0 || s->temp <= 0) {
        return best;
    }
    const double max = (double)logits[best];
    if (s->top_k > 0 && s->top_k < s->vocab) {
        n = keep_of_top(s, logits, max);
        return draw(s, s->cand, n, max);
    }
    if (s->top_p >= 1 && s->min_p <= 0) {
        return draw_all(s, logits, max);
    }
    const double total = mass_of_runs(logits, s->vocab, max, 1), floor = max - reach(s, total);
    if (!keep_sorted(s, logits, max, total, floor, &left, &n) && s->min_p <= 0) {
        keep_sorted(s, logits, max, total, -INFINITY, &left, &n);
    }
    return draw(s, s->cand + left, n, max);
}
