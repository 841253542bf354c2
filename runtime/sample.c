/* Sampling. Contract: sample.h. */
#include "runtime/sample.h"

#include <emmintrin.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

bool pfq_sampler_init(PfqSampler *s, int32_t vocab)
{
    s->vocab = vocab;
    s->cand = calloc((size_t)vocab, sizeof *s->cand);
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

/* ---- exp, two lanes at a time ---- */

/* exp(x) = 2^k * exp(r), k = round(x / ln 2), |r| <= ln(2) / 2, exp(r) by its Taylor series to
 * r^13. Adding 1.5 * 2^52 leaves k in the low mantissa bits, ready to be shifted into the exponent.
 */
static __m128d exp2lanes(__m128d x)
{
    const __m128d magic = _mm_set1_pd(0x1.8p52);
    const __m128d floor_x = _mm_set1_pd(-708.0);
    static const double c[] = {1.0 / 6227020800,
                               1.0 / 479001600,
                               1.0 / 39916800,
                               1.0 / 3628800,
                               1.0 / 362880,
                               1.0 / 40320,
                               1.0 / 5040,
                               1.0 / 720,
                               1.0 / 120,
                               1.0 / 24,
                               1.0 / 6,
                               0.5,
                               1.0,
                               1.0};
    __m128d live = _mm_cmpge_pd(x, floor_x); /* also false for NaN */
    x = _mm_and_pd(x, live);
    __m128d t = _mm_add_pd(_mm_mul_pd(x, _mm_set1_pd(0x1.71547652b82fep0)), magic);
    __m128d k = _mm_sub_pd(t, magic);
    __m128d r = _mm_sub_pd(x, _mm_mul_pd(k, _mm_set1_pd(0x1.62e42fefa38p-1)));
    r = _mm_sub_pd(r, _mm_mul_pd(k, _mm_set1_pd(0x1.ef35793c7673p-45)));
    __m128d p = _mm_set1_pd(c[0]);
    for (size_t i = 1; i < sizeof c / sizeof *c; i++) {
        p = _mm_add_pd(_mm_mul_pd(p, r), _mm_set1_pd(c[i]));
    }
    __m128i scale = _mm_slli_epi64(_mm_castpd_si128(t), 52);
    scale = _mm_add_epi64(scale, _mm_castpd_si128(_mm_set1_pd(1.0)));
    return _mm_and_pd(_mm_mul_pd(p, _mm_castsi128_pd(scale)), live);
}

double pfq_exp(double x)
{
    return _mm_cvtsd_f64(exp2lanes(_mm_set1_pd(x)));
}

/* sum_i exp(v[i] - max), summed in eight lanes whatever the machine. */
static double sum_exp(const float *v, int32_t n, double max)
{
    __m128d sum[4] = {_mm_setzero_pd(), _mm_setzero_pd(), _mm_setzero_pd(), _mm_setzero_pd()};
    __m128d top = _mm_set1_pd(max);
    int32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m128 a = _mm_loadu_ps(v + i), b = _mm_loadu_ps(v + i + 4);
        sum[0] = _mm_add_pd(sum[0], exp2lanes(_mm_sub_pd(_mm_cvtps_pd(a), top)));
        sum[1] = _mm_add_pd(sum[1], exp2lanes(_mm_sub_pd(_mm_cvtps_pd(_mm_movehl_ps(a, a)), top)));
        sum[2] = _mm_add_pd(sum[2], exp2lanes(_mm_sub_pd(_mm_cvtps_pd(b), top)));
        sum[3] = _mm_add_pd(sum[3], exp2lanes(_mm_sub_pd(_mm_cvtps_pd(_mm_movehl_ps(b, b)), top)));
    }
    __m128d all = _mm_add_pd(_mm_add_pd(sum[0], sum[1]), _mm_add_pd(sum[2], sum[3]));
    double total = _mm_cvtsd_f64(all) + _mm_cvtsd_f64(_mm_unpackhi_pd(all, all));
    for (; i < n; i++) {
        total += pfq_exp((double)v[i] - max);
    }
    return total;
}

/* ---- the largest ---- */

static float max_of(const float *v, int32_t n)
{
    /* maxps gives its second operand when either is NaN, so a NaN in v never replaces the maximum
     * so far. */
    __m128 m[4];
    m[0] = m[1] = m[2] = m[3] = _mm_set1_ps(-INFINITY);
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int32_t j = 0; j < 4; j++) {
            m[j] = _mm_max_ps(_mm_loadu_ps(v + i + 4 * j), m[j]);
        }
    }
    float lane[4], best = -INFINITY;
    _mm_storeu_ps(lane, _mm_max_ps(_mm_max_ps(m[0], m[1]), _mm_max_ps(m[2], m[3])));
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

double pfq_log_sum_exp(const float *v, int32_t n)
{
    double max = (double)max_of(v, n);
    return isfinite(max) ? max + log(sum_exp(v, n, max)) : max;
}

/* ---- ranking ---- */

static bool before(PfqCandidate a, PfqCandidate b) /* a ranks higher */
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* Restores the heap below c[at] after that entry changed. The top is the best candidate, or the
 * worst. */
static void sift(PfqCandidate *c, int32_t n, int32_t at, bool best_on_top)
{
    PfqCandidate moving = c[at];
    for (int32_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(c[child + 1], c[child]) == best_on_top) {
            child++;
        }
        if (before(c[child], moving) != best_on_top) {
            break;
        }
        c[at] = c[child];
    }
    c[at] = moving;
}

static void heapify(PfqCandidate *c, int32_t n, bool best_on_top)
{
    for (int32_t i = n / 2; i-- > 0;) {
        sift(c, n, i, best_on_top);
    }
}

/* Swaps the heap's top behind its end; returns the new size. */
static int32_t pop(PfqCandidate *c, int32_t n, bool best_on_top)
{
    PfqCandidate top = c[0];
    c[0] = c[n - 1];
    c[n - 1] = top;
    sift(c, n - 1, 0, best_on_top);
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
    heapify(out, k, false);
    for (int32_t i = k; i < n && k > 0; i++) {
        if (v[i] > out[0].logit) { /* equal logits: the smaller id is already in */
            out[0] = candidate(v, i);
            sift(out, k, 0, false);
        }
    }
    for (int32_t left = k; left > 0;) {
        left = pop(out, left, false);
    }
}

/* ---- drawing ---- */

static double uniform(PfqSampler *s)
{
    return (double)(pfq_random(&s->state) >> 11) * 0x1p-53;
}

/* Draws from c[0..n), with weights exp((logit - max) / temp). */
static int32_t draw(PfqSampler *s, const PfqCandidate *c, int32_t n, double max)
{
    double total = 0;
    for (int32_t i = 0; i < n; i++) {
        total += pfq_exp(((double)c[i].logit - max) / s->temp);
    }
    double left = uniform(s) * total;
    int32_t pick = 0;
    for (int32_t i = 0; i < n; i++) {
        double w = pfq_exp(((double)c[i].logit - max) / s->temp);
        if (w > 0) {
            pick = i;
            left -= w;
            if (left < 0) {
                break;
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

int32_t pfq_sample(PfqSampler *s, const float *logits)
{
    int32_t best = pfq_argmax(logits, s->vocab);
    if (best < 0 || s->temp <= 0) {
        return best;
    }
    double max = (double)logits[best], mass = 0;
    PfqCandidate *c = s->cand;
    if (s->top_k > 0 && s->top_k < s->vocab) {
        int32_t k = s->top_k, n = 0;
        double total = 0;
        pfq_top(logits, s->vocab, k, c);
        for (int32_t i = 0; i < k; i++) {
            total += pfq_exp((double)c[i].logit - max);
        }
        for (double w; n < k; n++, mass += w) {
            w = pfq_exp((double)c[n].logit - max);
            if (cut_before(s, n, w, mass, total)) {
                break;
            }
        }
        return draw(s, c, n, max);
    }
    for (int32_t i = 0; i < s->vocab; i++) {
        c[i] = candidate(logits, i);
    }
    if (s->top_p >= 1 && s->min_p <= 0) {
        return draw(s, c, s->vocab, max);
    }
    /* All candidates: take them off a heap from the best down, only as many as are kept. */
    int32_t left = s->vocab, n = 0;
    double total = sum_exp(logits, s->vocab, max);
    heapify(c, left, true);
    for (double w; left > 0; n++, mass += w) {
        w = pfq_exp((double)c[0].logit - max);
        if (cut_before(s, n, w, mass, total)) {
            break;
        }
        left = pop(c, left, true);
    }
    return draw(s, c + left, n, max);
}
