/* From logits to a token: greedy, temperature, top-k, top-p, min-p; and what perplexity and the
 * distance of two models are made of.
 *
 * Order, as llama.cpp's default chain: keep the top_k largest logits; of these, the fewest whose
 * probabilities (at temperature 1) reach top_p; of these, those at least min_p times as likely as
 * the likeliest; then draw with temperature. Equal logits are ranked by id. Arithmetic is IEEE
 * double with this file's own exp and without contraction, so that equal logits and an equal seed
 * give equal tokens on every machine, CPU or GPU (codegen/cuda/sample.cu). For that the order of
 * every sum is fixed:
 *   - the mass of all tokens, and a draw of all, is by runs of PFQ_SAMPLE_RUN ids: in a run weights
 *     are those beside its own largest, elements 8i + j make the sum of lane j, the lanes are added
 *     as ((0+1)+(2+3))+((4+5)+(6+7)); the run counts that much times its largest's weight. Runs are
 *     added, and the drawn one found, from the first on; in it, tokens by id
 *   - of ranked candidates, sums begin at the best. A draw of them begins at the best with top_k,
 *     else at the worst that is kept
 *
 * The random numbers are splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
 * generators", OOPSLA 2014): state += 0x9e3779b97f4a7c15 and a finaliser of two multiplications;
 * the seed is the first state. A draw uses the top 53 bits. Threading: one sampler per sequence.
 * Memory: pfq_sampler_init allocates, pfq_sample does not.
 */
#ifndef PFQC_RUNTIME_SAMPLE_H
#define PFQC_RUNTIME_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

enum { PFQ_SAMPLE_RUN = 256 };

typedef struct PfqCandidate {
    float logit;
    int32_t id;
} PfqCandidate;

typedef struct PfqSampler {
    double temp;         /* 0: greedy */
    double top_p, min_p; /* 0..1; 1 and 0 switch them off */
    int32_t top_k;       /* 0: all */
    uint64_t state;      /* the seed at first */
    int32_t vocab;
    PfqCandidate *cand; /* [2 * vocab] */
} PfqSampler;

/* Sets vocab and allocates; the other fields are the caller's. False when out of memory. */
bool pfq_sampler_init(PfqSampler *s, int32_t vocab);
void pfq_sampler_free(PfqSampler *s);

/* The next token for logits [vocab], or -1 when none of them is finite. */
int32_t pfq_sample(PfqSampler *s, const float *logits);

/* A row of a batch: what is wanted of its logits. */
enum { PFQ_NOT_DRAWN = -2 };
typedef struct PfqDraw {
    PfqSampler *sampler; /* may draw the next token; NULL: the logits themselves are wanted */
    int32_t token;       /* as pfq_sample, or PFQ_NOT_DRAWN: the logits are there; out */
} PfqDraw;

/* What logits' differences are multiplied by: 1 / temp, finite; 0: greedy. */
double pfq_sample_scale(const PfqSampler *s);

/* With min_p, logits that far below the largest may be kept: a bound that costs less than the rule.
 */
double pfq_sample_span(const PfqSampler *s);

/* The first index of the largest of n values, NaN counting as smallest; -1 when that is infinite or
 * there is none. */
int32_t pfq_argmax(const float *v, int32_t n);

/* The k largest of n values, descending, into out [k]; k <= n. */
void pfq_top(const float *v, int32_t n, int32_t k, PfqCandidate *out);

/* log(sum_i exp(v[i])) in double. */
double pfq_log_sum_exp(const float *v, int32_t n);

/* Kullback-Leibler divergence KL(P || Q) in nats, >= 0, of the distributions that logits p and q
 * make; zp and zq are their pfq_log_sum_exp. */
double pfq_divergence(const float *p, double zp, const float *q, double zq, int32_t n);

double pfq_exp(double x); /* for x <= 709; 0 below -708; within 2 ulp */
uint64_t pfq_random(uint64_t *state);

#endif
