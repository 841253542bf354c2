/* Every CPU kernel, for one ISA variant, against scalar references in f64.
 *
 *   test_kernels VARIANT LIBRARY      exit 0: all equal within rounding, or this CPU cannot run VARIANT
 *
 * VARIANT "cuda": the templates of codegen/cuda on emulated threads; rows without a template are listed and skipped. VARIANT
 * "gpu": the same on a GPU (tests/cuda/gpu_rows.c); exit 77: there is none. PFQ_GPU_RECORD, PFQ_GPU_EACH: nothing is judged.
 *
 * LIBRARY holds the templates with their constants as variables. Every case runs on one and on three "threads"
 * (one after another), those of linears, norms, quantisers and transforms also as two calls, and the results must be the same
 * bits; buffers end at an unreadable page.
 */
#include "tests/kernels/test_kernels.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

KtLib lib;
int cases;
static int failures;

static int skipped;

/* Three of four in a fixed order without a period, which might leave out one kind of case. */
static bool left_out(const char *name)
{
    static uint32_t state = 1;
    const bool emulated = strcmp(lib.variant, "cuda") == 0, some = emulated ? !getenv("PFQ_ALL") : getenv("PFQ_QUARTER") != NULL;
    if (!some || (strncmp(name, "linear", 6) != 0 && strcmp(name, "attend") != 0))
        return false;
    state = state * 1664525u + 1013904223u;
    return state >> 30 != 0;
}

/* PFQ_SHARD=i/n: only every n-th case, from the i-th on, for n processes beside each other. */
static bool other_shard(void)
{
    static int count;
    const char *shard = getenv("PFQ_SHARD"), *n = shard ? strchr(shard, '/') : NULL;
    return n && atoi(n + 1) > 0 && count++ % atoi(n + 1) != atoi(shard);
}

bool tested(const char *name)
{
    static const char *missing[32];
    static size_t n;
    if (strcmp(lib.variant, "cuda") != 0 && strcmp(lib.variant, "gpu") != 0)
        return true;
    if (kt_has(&lib, name)) {
        const bool out = left_out(name) || other_shard();
        skipped += out;
        return !out;
    }
    for (size_t i = 0; i < n; i++)
        if (!strcmp(missing[i], name))
            return false;
    if (n < COUNT(missing))
        missing[n++] = name;
    printf("no CUDA template yet: %s\n", name);
    return false;
}

void run(const char *name, PfqArgs *a, int nt, int64_t K, int64_t D)
{
    size_t scratch = kt_scratch(name, K, D);
    a->scratch = kt_alloc(scratch);
    PfqKernel *k = kt_kernel(&lib, name);
    for (int tid = 0; tid < nt; tid++) {
        memset(a->scratch, 0xff, scratch);
        k(a, tid, nt);
    }
}

/* Bytes of a token in the operands that have any; 0: they are where they are for every token. */
typedef struct Rows {
    size_t in[3], out[2];
} Rows;

/* Tokens [from, to) of a call as a call of their own. */
static void run_some(const char *name, const PfqArgs *a, int from, int to, const Rows *r, int64_t K, int64_t D)
{
    PfqArgs b = *a;
    b.T = to - from;
    b.pos += from;
    for (size_t i = 0; i < COUNT(r->in) && from; i++)
        b.in[i] = b.in[i] ? (const char *)b.in[i] + (size_t)from * r->in[i] : NULL;
    for (size_t i = 0; i < COUNT(r->out) && from; i++)
        b.out[i] = b.out[i] ? (char *)b.out[i] + (size_t)from * r->out[i] : NULL;
    run(name, &b, 1, K, D);
}

/* Passes of a case: by one thread, by three, and in two calls, a third of the tokens and the others. All give the same bits:
 * neither threads nor other rows of a call change a row. */
enum { PASSES = 3 };
static void run_pass(int pass, const char *name, PfqArgs *a, const Rows *r, int64_t K, int64_t D)
{
    const int first = (a->T + 2) / 3;
    if (pass < 2) {
        run(name, a, pass ? 3 : 1, K, D);
        return;
    }
    run_some(name, a, 0, first, r, K, D);
    if (first < a->T)
        run_some(name, a, first, a->T, r, K, D);
}
static const char *const pass_differs[PASSES] = {NULL, "1 and 3 threads differ", "a row depends on the others of its call"};

/* Bytes of a token of quantised or float activations. */
static size_t row_bytes(int fmt, size_t K)
{
    const size_t wide = (K + 63) / 64 * 64, groups = (K + 31) / 32;
    return fmt == 0 ? 4 * K : fmt == 1 ? wide : fmt == 2 ? 2 * wide : 64 * groups;
}
static size_t scale_bytes(int fmt, size_t K)
{
    return fmt == 3 ? 4 * ((K + 31) / 32) : 4;
}

void fail(const char *what, const char *detail)
{
    if (getenv("PFQ_GPU_RECORD") || getenv("PFQ_GPU_EACH"))
        return;
    failures++;
    if (failures < 40)
        printf("FAIL %s: %s\n", what, detail);
}

/* What a library's last kernel may be off, relative to the largest result, besides: its kt_slack. */
static double slack(void)
{
    const double *p = dlsym(lib.handle, "kt_slack");
    return p ? *p : 0;
}

void compare(const char *what, const float *got, const double *want, size_t n, double tol)
{
    double top = 0;
    tol = fmax(tol, slack());
    for (size_t i = 0; i < n; i++)
        top = fmax(top, fabs(want[i]));
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <= tol * (top + 1e-3))) {
            char text[160];
            snprintf(text, sizeof text, "element %zu of %zu: %.9g, expected %.9g (largest %.4g)", i, n,
                     (double)got[i], want[i], top);
            fail(what, text);
            return;
        }
}

void compare_ints(const char *what, const int *got, const double *want, size_t n, int lo, int hi)
{
    double top = 0;
    for (size_t i = 0; i < n; i++)
        top = fmax(top, fabs(want[i]));
    for (size_t i = 0; i < n; i++) {
        const double x = fmin(fmax(want[i], lo), hi), tie = fabs(x - floor(x) - 0.5);
        if (fabs(got[i] - x) <= (tie < 1e-4 * (1 + fabs(x)) ? 0.501 + 1e-4 * fabs(x) : 0.5) + slack() * top)
            continue;
        char text[160];
        snprintf(text, sizeof text, "element %zu of %zu: %d, expected %.9g", i, n, got[i], x);
        fail(what, text);
        return;
    }
}

/* ---- linear ---- */

typedef struct LinCase {
    int layout, fmt, epi, bias, act, T, N, K;
    int heads, kv_heads, head_dim, rot, qk_norm, kv_f16;
    bool is_static;
} LinCase;

static const char *const linear_name[] = {"linear.f32", "linear.s8", "linear.u4g32", "linear.s4", "linear.bf16"};

static double act_ref(int act, double x)
{
    if (act == 1)
        return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    return act == 2 ? 0.5 * x * (1 + erf(x / M_SQRT2)) : x / (1 + exp(-x));
}

static void head_ref(double *v, const LinCase *c, const float *gain, const float *freq, int pos, double eps,
                     double rope_scale)
{
    const int D = c->head_dim, half = c->rot / 2;
    if (c->qk_norm) {
        double s = 0;
        for (int i = 0; i < D; i++)
            s += v[i] * v[i];
        for (int i = 0; i < D; i++)
            v[i] = v[i] / sqrt(s / D + eps) * (double)gain[i];
    }
    for (int i = 0; i < half; i++) {
        double x = v[i], y = v[i + half], angle = (double)freq[i] * pos;
        v[i] = (x * cos(angle) - y * sin(angle)) * rope_scale;
        v[i + half] = (y * cos(angle) + x * sin(angle)) * rope_scale;
    }
}

float *random_floats(size_t n)
{
    float *p = kt_alloc(n * 4);
    for (size_t i = 0; i < n; i++)
        p[i] = (float)kt_uniform();
    return p;
}

void *filled(size_t bytes)
{
    void *p = kt_alloc(bytes);
    memset(p, 0x5a, bytes);
    return p;
}

static void test_linear(const LinCase *c, bool always)
{
    if (!always && !tested(linear_name[c->layout]))
        return;
    enum { POS = 5, EXTRA = 3 };
    const double eps = 1e-5f, rope_scale = 1.25;
    char what[200];
    snprintf(what, sizeof what,
             "%s %s%s fmt %d epi %d bias %d T %d N %d K %d heads %d/%d x %d rot %d norm %d f16 %d", lib.variant,
             linear_name[c->layout], c->is_static ? " static" : "", c->fmt, c->epi, c->bias, c->T, c->N, c->K, c->heads, c->kv_heads,
             c->head_dim, c->rot, c->qk_norm, c->kv_f16);
    cases++;
    kt_seed((uint64_t)c->N * 1000003u + (uint64_t)c->K * 101u + (uint64_t)c->T + (uint64_t)c->epi);
    const KtConst consts[] = {{"N", c->N}, {"K", c->K}, {"fmt", c->fmt}, {"epi", c->epi}, {"bias", c->bias},
                              {"act", c->act}, {"heads", c->heads}, {"kv_heads", c->kv_heads},
                              {"head_dim", c->head_dim}, {"rot", c->rot}, {"qk_norm", c->qk_norm},
                              {"kv", c->kv_f16}, {"static", c->is_static}, {"eps", eps},
                              {"rope_scale", rope_scale}};
    kt_set(&lib, consts, COUNT(consts));
    const size_t T = (size_t)c->T, N = (size_t)c->N, K = (size_t)c->K, D = (size_t)c->head_dim;
    KtWeight w = kt_weight(c->layout, c->N, c->K, c->epi == 2 ? 2 : 1);
    KtAct x = kt_activation(c->fmt, c->T, c->K, c->is_static);
    float *bias = random_floats((size_t)w.tiles * 16), *gain = random_floats(2 * D + 2);
    float *residual = random_floats(T * N), *freq = random_floats((size_t)c->rot / 2 + 1);
    for (int i = 0; i < c->rot / 2; i++)
        freq[i] = 0.5f + 0.5f * freq[i];

    double *y = kt_alloc(T * N * sizeof *y);
    for (size_t t = 0; t < T; t++)
        for (size_t n = 0; n < N; n++) {
            double s = 0;
            for (size_t k = 0; k < K; k++)
                s += w.w[n * K + k] * x.x[t * K + k];
            /* swiglu: rows of a part lie in alternating packed tiles */
            size_t at = c->epi == 2 ? (n % (N / 2) / 16 * 2 + n / (N / 2)) * 16 + n % (N / 2) % 16 : n;
            y[t * N + n] = s + (c->bias ? (double)bias[at] : 0);
        }

    const size_t q_cols = (size_t)c->heads * D, ctx = T + POS + EXTRA, width = c->kv_f16 ? 2 : 4;
    const size_t out_n = c->epi == 2 ? T * N / 2 : c->epi == 3 ? T * q_cols : T * N;
    const size_t cache_bytes = (size_t)c->kv_heads * ctx * D * width;
    PfqArgs a = {.in = {x.ints, c->is_static ? NULL : x.scales, residual}, .w = w.packed, .aux = {bias, freq, gain, gain + D},
                 .T = c->T, .pos = POS, .ctx = (int32_t)ctx};
    const Rows rows = {.in = {row_bytes(c->fmt, K), scale_bytes(c->fmt, K), 4 * N}, .out = {out_n / T * 4}};
    float *out[PASSES];
    char *cache[PASSES][2];
    for (int pass = 0; pass < PASSES; pass++) {
        a.out[0] = out[pass] = filled(out_n * 4);
        a.out[1] = cache[pass][0] = filled(cache_bytes);
        a.out[2] = cache[pass][1] = filled(cache_bytes);
        run_pass(pass, linear_name[c->layout], &a, &rows, c->K, c->head_dim);
        if (memcmp(out[0], out[pass], out_n * 4) || memcmp(cache[0][0], cache[pass][0], cache_bytes) ||
            memcmp(cache[0][1], cache[pass][1], cache_bytes))
            fail(what, pass_differs[pass]);
    }

    double *want = kt_alloc(out_n * sizeof *want);
    if (c->epi == 0 && c->fmt == 1 && c->is_static && !c->bias) {
        for (size_t i = 0; i < out_n; i++)
            want[i] = (double)(float)y[i]; /* exact integers times a power of two */
        for (size_t i = 0; i < out_n; i++)
            if ((double)out[0][i] != want[i]) {
                fail(what, "not exact");
                break;
            }
    } else if (c->epi < 2) {
        for (size_t i = 0; i < out_n; i++)
            want[i] = y[i] + (c->epi == 1 ? (double)residual[i] : 0);
    } else if (c->epi == 2) {
        for (size_t t = 0; t < T; t++)
            for (size_t n = 0; n < N / 2; n++)
                want[t * (N / 2) + n] = act_ref(c->act, y[t * N + n]) * y[t * N + N / 2 + n];
    } else {
        for (size_t t = 0; t < T; t++)
            for (int h = 0; h < c->heads + c->kv_heads; h++)
                head_ref(y + t * N + (size_t)h * D, c, h < c->heads ? gain : gain + D, freq, POS + (int)t, eps,
                         rope_scale);
        for (size_t t = 0; t < T; t++)
            memcpy(want + t * q_cols, y + t * N, q_cols * sizeof *want);
        for (int kv = 0; kv < 2; kv++) {
            size_t n = (size_t)c->kv_heads * T * D;
            float *got = kt_alloc(n * 4), *p = got;
            double *ref = kt_alloc(n * sizeof *ref), *r = ref;
            char *at = cache[0][kv];
            for (int h = 0; h < c->kv_heads; h++)
                for (size_t row = 0; row < ctx; row++)
                    for (size_t d = 0; d < D; d++, at += width) {
                        if (row < POS || row >= POS + T) {
                            if (memcmp(at, "ZZZZ", width))
                                fail(what, "wrote outside its rows of the cache");
                            continue;
                        }
                        uint16_t half;
                        memcpy(&half, at, 2);
                        if (c->kv_f16)
                            *p++ = kt_f16(half);
                        else
                            memcpy(p++, at, 4);
                        *r++ = y[(row - POS) * N + (size_t)(c->heads + kv * c->kv_heads + h) * D + d];
                    }
            compare(what, got, ref, n, c->kv_f16 ? 1e-3 : 4e-6);
        }
    }
    compare(what, out[0], want, out_n, 4e-6);
    kt_free_all();
}

static void test_linears(void)
{
    static const int tokens[] = {1, 2, 3, 7, 8, 16, 33, 70}, rows[] = {16, 17, 48, 100}, cols[] = {8, 31, 32, 40, 576};
    static const int formats[][2] = {{KT_F32, 0}, {KT_S8, 1}, {KT_S8, 2}, {KT_U4G32, 3}, {KT_S4, 1}, {KT_BF16, 0}};
    static const int heads[][7] = {/* heads, kv heads, head_dim, rot, norm, f16, bias */
                                   {9, 3, 64, 64, 0, 0, 0}, {5, 1, 80, 80, 0, 1, 1}, {3, 3, 8, 8, 1, 0, 0},
                                   {6, 2, 100, 50, 1, 1, 1}, {4, 2, 2, 2, 0, 1, 0}, {2, 1, 48, 32, 1, 0, 1},
                                   {2, 1, 16, 0, 0, 0, 0}};
    for (size_t f = 0; f < COUNT(formats); f++)
        for (size_t t = 0; t < COUNT(tokens); t++)
            for (size_t k = 0; k < COUNT(cols); k++) {
                LinCase c = {.layout = formats[f][0], .fmt = formats[f][1], .T = tokens[t], .K = cols[k]};
                for (size_t n = 0; n < COUNT(rows); n++)
                    for (int v = 0; v < 4; v++) {
                        c.N = rows[n], c.epi = v / 2, c.bias = v % 2;
                        test_linear(&c, false);
                    }
                for (size_t n = 0; n < COUNT(rows); n++) {
                    c.N = 2 * rows[n], c.epi = 2, c.bias = n % 2, c.act = (int)(n + k) % 3;
                    test_linear(&c, false);
                }
                for (size_t h = 0; h < COUNT(heads); h++) {
                    const int *p = heads[h];
                    if ((int)h % 2 != (int)k % 2)
                        continue;
                    LinCase q = {.layout = c.layout, .fmt = c.fmt, .T = c.T, .K = c.K, .epi = 3, .heads = p[0],
                                 .kv_heads = p[1], .head_dim = p[2], .rot = p[3], .qk_norm = p[4], .kv_f16 = p[5],
                                 .bias = p[6], .N = (p[0] + 2 * p[1]) * p[2]};
                    test_linear(&q, false);
                }
            }
}

/* Integer weights over the edges of tiles: exact sums, static and dynamic scales. */
static void test_integer_linears(void)
{
    static const int tokens[] = {1, 2, 5, 15, 16, 17, 31, 64, 67, 97}, rows[] = {1, 15, 16, 17, 37, 64},
                     cols[] = {1, 3, 7, 9, 63, 64, 65, 251};
    for (int layout = 0; layout < 2; layout++)
        for (size_t t = 0; t < COUNT(tokens); t++)
            for (size_t k = 0; k < COUNT(cols); k++)
                for (size_t n = 0; n < COUNT(rows); n++) {
                    LinCase c = {.layout = layout ? KT_S4 : KT_S8, .fmt = 1, .T = tokens[t], .K = cols[k],
                                 .N = rows[n], .is_static = true};
                    test_linear(&c, false);
                    c.fmt = 2, c.epi = 1, c.bias = 1;
                    test_linear(&c, false);
                    c.fmt = 1, c.epi = 2, c.N *= 2, c.is_static = n % 2;
                    test_linear(&c, false);
                    LinCase q = {.layout = c.layout, .fmt = 1, .T = c.T, .K = c.K, .epi = 3, .heads = 3, .kv_heads = 1,
                                 .head_dim = 16 * (1 + (int)n % 3), .rot = 16, .is_static = true};
                    q.N = 5 * q.head_dim;
                    test_linear(&q, false);
                }
    LinCase large = {.layout = KT_S4, .fmt = 1, .T = 3, .K = 8191, .N = 33, .is_static = true};
    test_linear(&large, false);
    large.layout = KT_S8;
    test_linear(&large, false);
}

/* Shapes that a GPU's rows FAST for many tokens, rows or columns take; too much for the emulation of plain kernels. */
static void test_large_linears(void)
{
    static const LinCase large[] = {
        {.layout = KT_S4, .T = 6, .K = 8200, .N = 40, .epi = 1},    {.layout = KT_S4, .T = 6, .K = 40, .N = 16400},
        {.layout = KT_S4, .T = 13, .K = 8200, .N = 40, .epi = 1},   {.layout = KT_S4, .T = 13, .K = 40, .N = 16400},
        {.layout = KT_S4, .T = 30, .K = 8200, .N = 40, .epi = 1},   {.layout = KT_S4, .T = 30, .K = 40, .N = 16400},
        {.layout = KT_S4, .T = 70, .K = 8200, .N = 40, .epi = 1},   {.layout = KT_S4, .T = 67, .K = 40, .N = 16400},
        {.layout = KT_S4, .T = 530, .K = 136, .N = 96, .epi = 2},   {.layout = KT_S8, .T = 200, .K = 136, .N = 96, .epi = 1},
        {.layout = KT_S4, .T = 530, .K = 72, .N = 320, .epi = 3, .heads = 3, .kv_heads = 1, .head_dim = 64, .rot = 64},
        {.layout = KT_S4, .T = 140, .K = 72, .N = 640, .epi = 3, .heads = 3, .kv_heads = 1, .head_dim = 128, .rot = 128},
        {.layout = KT_S8, .T = 140, .K = 72, .N = 320, .epi = 3, .heads = 3, .kv_heads = 1, .head_dim = 64, .rot = 64},
    };
    if (strcmp(lib.variant, "cuda") == 0)
        return;
    for (size_t i = 0; i < 3 * COUNT(large); i++) {
        LinCase c = large[i / 3];
        c.fmt = 1, c.is_static = i % 2, c.T += (int)(i % 3); /* which of several rows takes it depends on the shape */
        if (kt_has(&lib, linear_name[c.layout]))
            test_linear(&c, true);
    }
}

/* ---- norm, quant ---- */

/* The values that quantised row t stands for, and its integers. */
static void read_quantised(int fmt, const void *ints, const float *scales, int K, int t, double *x, int *q)
{
    size_t wide = ((size_t)K + 63) / 64 * 64, groups = ((size_t)K + 31) / 32;
    const uint8_t *row = (const uint8_t *)ints + (size_t)t * (fmt == 1 ? wide : fmt == 2 ? 2 * wide : 64 * groups);
    for (size_t k = 0; k < (size_t)K; k++) {
        if (fmt == 1)
            q[k] = row[k] - 128;
        else if (fmt == 2)
            q[k] = 256 * (row[k] - 128) + row[wide + k];
        else
            q[k] = 256 * (int8_t)row[k / 32 * 64 + k % 32] + (int8_t)row[k / 32 * 64 + 32 + k % 32];
        x[k] = (double)q[k] * (double)scales[fmt == 3 ? (size_t)t * groups + k / 32 : (size_t)t];
    }
}

static void test_norm(int fmt, int gain, int norm, int T, int K)
{
    if (!tested(norm ? "norm" : "quant"))
        return;
    char what[120];
    snprintf(what, sizeof what, "%s %s fmt %d gain %d T %d K %d", lib.variant, norm ? "norm" : "quant", fmt, gain, T, K);
    cases++;
    kt_seed((uint64_t)(K * 100 + T + fmt));
    const double eps = 1e-5f;
    const KtConst consts[] = {{"K", K}, {"fmt", fmt}, {"gain", gain}, {"eps", eps}};
    kt_set(&lib, consts, COUNT(consts));
    size_t n = (size_t)T * (size_t)K;
    float *x = random_floats(n), *g = random_floats((size_t)K);
    if (T > 1)
        memset(x, 0, (size_t)K * 4); /* one row of zeros */
    double *want = kt_alloc(n * sizeof *want);
    for (int t = 0; t < T; t++) {
        double s = 0;
        for (int k = 0; k < K; k++)
            s += (double)x[t * K + k] * (double)x[t * K + k];
        for (int k = 0; k < K; k++)
            want[t * K + k] = (double)x[t * K + k] * (norm ? (gain ? (double)g[k] : 1) / sqrt(s / K + eps) : 1);
    }
    const Rows rows = {.in = {4 * (size_t)K}, .out = {row_bytes(fmt, (size_t)K), scale_bytes(fmt, (size_t)K)}};
    const size_t bytes = (size_t)T * rows.out[0], of_scales = (size_t)T * rows.out[1];
    void *out[PASSES];
    float *scale[PASSES];
    for (int pass = 0; pass < PASSES; pass++) {
        PfqArgs a = {.in = {x}, .aux = {g}, .T = T};
        a.out[0] = out[pass] = filled(bytes);
        a.out[1] = scale[pass] = filled(of_scales);
        run_pass(pass, norm ? "norm" : "quant", &a, &rows, K, 0);
        if (memcmp(out[0], out[pass], bytes) || memcmp(scale[0], scale[pass], of_scales))
            fail(what, pass_differs[pass]);
    }
    if (fmt == 0) {
        compare(what, out[0], want, n, 1e-6);
        kt_free_all();
        return;
    }
    const int most = fmt == 1 ? 127 : 32512;
    double *got = kt_alloc((size_t)K * sizeof *got);
    int *q = kt_alloc((size_t)K * sizeof *q);
    for (int t = 0; t < T; t++) {
        read_quantised(fmt, out[0], scale[0], K, t, got, q);
        int block = fmt == 3 ? 32 : K;
        for (int b = 0; b < K; b += block) {
            double top = 0;
            int largest = 0;
            for (int k = b; k < b + block && k < K; k++) {
                top = fmax(top, fabs(want[t * K + k]));
                largest = abs(q[k]) > largest ? abs(q[k]) : largest;
            }
            if (largest != (top > 0 ? most : 0))
                fail(what, "the largest of a group is not at the end of the range");
            for (int k = b; k < b + block && k < K; k++)
                if (!(fabs(got[k] - want[t * K + k]) <= top * (0.5 / most + 3e-7)))
                    fail(what, "off by more than half a step");
        }
    }
    kt_free_all();
}

static void test_norms(void)
{
    static const int tokens[] = {1, 2, 5}, cols[] = {8, 17, 32, 40, 64, 100, 576, 1536};
    for (int fmt = 0; fmt < 4; fmt++)
        for (size_t t = 0; t < COUNT(tokens); t++)
            for (size_t k = 0; k < COUNT(cols); k++) {
                test_norm(fmt, 1, 1, tokens[t], cols[k]);
                test_norm(fmt, 0, 1, tokens[t], cols[k]);
                if (fmt)
                    test_norm(fmt, 0, 0, tokens[t], cols[k]);
            }
}

/* ---- attention, heads ---- */

/* Random cache rows [n]; what they stand for to ref. */
static void *random_cache(size_t n, int f16, double *ref)
{
    char *p = kt_alloc(n * (f16 ? 2 : 4));
    for (size_t i = 0; i < n; i++) {
        float v = (float)kt_uniform();
        uint16_t h = kt_to_f16(v);
        memcpy(p + i * (f16 ? 2 : 4), f16 ? (void *)&h : (void *)&v, f16 ? 2 : 4);
        ref[i] = (double)(f16 ? kt_f16(h) : v);
    }
    return p;
}

static void test_attend(int heads, int kv_heads, int D, int T, int pos, int window, int f16, double scale)
{
    if (!tested("attend"))
        return;
    char what[160];
    snprintf(what, sizeof what, "%s attend heads %d/%d x %d T %d pos %d window %d f16 %d", lib.variant, heads, kv_heads,
             D, T, pos, window, f16);
    cases++;
    kt_seed((uint64_t)(heads * 1000 + D * 10 + T + pos));
    const KtConst consts[] = {{"heads", heads}, {"kv_heads", kv_heads}, {"head_dim", D}, {"window", window},
                              {"kv", f16}, {"scale", scale}};
    kt_set(&lib, consts, COUNT(consts));
    const int ctx = pos + T, group = heads / kv_heads;
    const size_t n = (size_t)T * (size_t)heads * (size_t)D, cache = (size_t)kv_heads * (size_t)ctx * (size_t)D;
    float *q = random_floats(n);
    for (size_t i = 0; i < n; i++)
        q[i] *= 4;
    double *k = kt_alloc(cache * 8), *v = kt_alloc(cache * 8), *want = kt_alloc(n * 8), *s = kt_alloc((size_t)ctx * 8);
    void *kc = random_cache(cache, f16, k), *vc = random_cache(cache, f16, v);
    for (int t = 0; t < T; t++)
        for (int h = 0; h < heads; h++) {
            const size_t base = (size_t)(h / group) * (size_t)ctx;
            const int p = pos + t, first = window && p >= window ? p - window + 1 : 0;
            double *o = want + ((size_t)t * (size_t)heads + (size_t)h) * (size_t)D, top = -1e30, sum = 0;
            for (int j = first; j <= p; j++) {
                s[j] = 0;
                for (int d = 0; d < D; d++)
                    s[j] += (double)q[(t * heads + h) * D + d] * k[(base + (size_t)j) * (size_t)D + (size_t)d] * scale;
                top = fmax(top, s[j]);
            }
            for (int d = 0; d < D; d++)
                o[d] = 0;
            for (int j = first; j <= p; j++) {
                double e = exp(s[j] - top);
                sum += e;
                for (int d = 0; d < D; d++)
                    o[d] += e * v[(base + (size_t)j) * (size_t)D + (size_t)d];
            }
            for (int d = 0; d < D; d++)
                o[d] /= sum;
        }
    float *out[2];
    for (int pass = 0; pass < 2; pass++) {
        PfqArgs a = {.in = {q, kc, vc}, .T = T, .pos = pos, .ctx = ctx};
        a.out[0] = out[pass] = filled(n * 4);
        run("attend", &a, pass ? 3 : 1, 0, D);
    }
    if (memcmp(out[0], out[1], n * 4))
        fail(what, "1 and 3 threads differ");
    compare(what, out[0], want, n, 1e-5); /* scores reach 30, so their f32 rounding alone is 4e-6 */
    kt_free_all();
}

static void test_attention(void)
{
    static const int shapes[][3] = {{9, 3, 64}, {4, 4, 80}, {5, 1, 8}, {6, 2, 100}, {12, 2, 128}, {3, 1, 2}, {71, 1, 16}};
    static const int spans[][2] = {{1, 0}, {1, 1}, {1, 15}, {1, 63}, {1, 64}, {1, 300}, {2, 0}, {3, 62}, {7, 0},
                                   {16, 130}, {33, 5}, {70, 0}, {100, 64}};
    for (size_t i = 0; i < COUNT(shapes); i++)
        for (size_t j = 0; j < COUNT(spans); j++)
            for (int v = 0; v < 4; v++) {
                int window = v & 2 ? (int)(i + j) % 3 * 20 + 1 : 0;
                test_attend(shapes[i][0], shapes[i][1], shapes[i][2], spans[j][0], spans[j][1], window, v & 1, 0.37);
            }
}

static void test_heads(int heads, int D, int rot, int norm, int cached, int f16, int T)
{
    enum { POS = 3 };
    if (!tested("heads"))
        return;
    char what[120];
    snprintf(what, sizeof what, "%s heads %d x %d rot %d norm %d cache %d f16 %d", lib.variant, heads, D, rot, norm,
             cached, f16);
    cases++;
    kt_seed((uint64_t)(heads * 1000 + D));
    const double eps = 1e-5f, rope_scale = 0.75;
    const KtConst consts[] = {{"heads", heads}, {"head_dim", D}, {"rot", rot}, {"qk_norm", norm}, {"kv", f16},
                              {"cache", cached}, {"eps", eps}, {"rope_scale", rope_scale}};
    kt_set(&lib, consts, COUNT(consts));
    const size_t n = (size_t)T * (size_t)heads * (size_t)D, ctx = (size_t)T + POS;
    float *x = random_floats(n), *freq = random_floats((size_t)rot / 2 + 1), *gain = random_floats((size_t)D);
    double *want = kt_alloc(n * 8);
    const LinCase c = {.head_dim = D, .rot = rot, .qk_norm = norm};
    for (size_t i = 0; i < n; i++)
        want[i] = (double)x[i];
    for (int t = 0; t < T; t++)
        for (int h = 0; h < heads; h++)
            head_ref(want + (t * heads + h) * D, &c, gain, freq, POS + t, eps, rope_scale);
    size_t width = cached && f16 ? 2 : 4, bytes = (cached ? (size_t)heads * ctx * (size_t)D : n) * width;
    char *out = filled(bytes);
    PfqArgs a = {.in = {x}, .aux = {NULL, freq, gain}, .out = {out}, .T = T, .pos = POS, .ctx = (int32_t)ctx};
    run("heads", &a, 2, 0, D);
    float *got = kt_alloc(n * 4);
    for (size_t t = 0; t < (size_t)T; t++)
        for (size_t h = 0; h < (size_t)heads; h++)
            for (size_t d = 0; d < (size_t)D; d++) {
                size_t i = (t * (size_t)heads + h) * (size_t)D + d;
                const char *p = out + (cached ? (h * ctx + POS + t) * (size_t)D + d : i) * width;
                uint16_t half;
                memcpy(&half, p, 2);
                if (width == 2)
                    got[i] = kt_f16(half);
                else
                    memcpy(&got[i], p, 4);
            }
    compare(what, got, want, n, width == 2 ? 1e-3 : 2e-6);
    kt_free_all();
}

/* ---- embed, element-wise ---- */

static void test_embed(int layout, int N, int K, int T)
{
    static const char *const name[] = {"embed.f32", "embed.s8", "embed.u4g32", NULL, "embed.bf16"};
    if (!name[layout] || !tested(name[layout]))
        return;
    cases++;
    kt_seed((uint64_t)(N * 1000 + K));
    const KtConst consts[] = {{"N", N}, {"K", K}, {"scale", 1.5}};
    kt_set(&lib, consts, COUNT(consts));
    KtWeight w = kt_weight(layout, N, K, 1);
    int32_t *ids = kt_alloc((size_t)T * 4);
    double *want = kt_alloc((size_t)(T * K) * 8);
    for (int t = 0; t < T; t++) {
        ids[t] = t == 0 ? -5 : t == 1 ? N + 7 : kt_int(0, N - 1);
        int id = t == 0 ? 0 : t == 1 ? N - 1 : ids[t];
        for (int k = 0; k < K; k++)
            want[t * K + k] = w.w[(size_t)id * (size_t)K + (size_t)k] * 1.5;
    }
    float *out = filled((size_t)(T * K) * 4);
    PfqArgs a = {.in = {ids}, .w = w.packed, .out = {out}, .T = T};
    run(name[layout], &a, 2, K, 0);
    compare(name[layout], out, want, (size_t)(T * K), 1e-6);
    kt_free_all();
}

static double elem_ref(int op, int act, double x, double y)
{
    switch (op) {
    case 0: case 6: return x + y;
    case 2: return act_ref(act, x);
    case 3: return act_ref(act, x) * y;
    case 4: return x * 0.3f;
    default: return x * y;
    }
}

static void test_elements(int K, int T)
{
    static const char *const name[] = {"add", "mul", "act", "glu", "scale", "mul_row", "add_row"};
    for (int op = 0; op < (int)COUNT(name); op++)
        for (int act = 0; act < 3; act++) {
            if (!tested(name[op]))
                continue;
            cases++;
            kt_seed((uint64_t)(K * 10 + op));
            const KtConst consts[] = {{"K", K}, {"act", act}, {"scale", 0.3f}};
            kt_set(&lib, consts, COUNT(consts));
            size_t n = (size_t)T * (size_t)K;
            float *x = random_floats(n), *y = random_floats(n);
            double *want = kt_alloc(n * 8);
            for (size_t i = 0; i < n; i++) {
                x[i] *= 8;
                want[i] = elem_ref(op, act, (double)x[i], (double)y[op < 5 ? i : i % (size_t)K]);
            }
            PfqArgs a = {.in = {x, y}, .aux = {y}, .out = {x}, .T = T};
            run(name[op], &a, 2, K, 0);
            compare(name[op], x, want, n, 1e-6);
            kt_free_all();
        }
    enum { ROWS = 9 };
    if (!tested("rows"))
        return;
    cases++;
    const KtConst consts[] = {{"K", K}, {"rows", ROWS}};
    kt_set(&lib, consts, COUNT(consts));
    float *x = random_floats((size_t)(ROWS * K)), *out = filled((size_t)(T * K) * 4);
    int32_t *ids = kt_alloc((size_t)T * 4);
    double *want = kt_alloc((size_t)(T * K) * 8);
    for (int t = 0; t < T; t++) {
        ids[t] = t == 0 ? ROWS : t % ROWS;
        for (int k = 0; k < K; k++)
            want[t * K + k] = (double)x[(t == 0 ? ROWS - 1 : t % ROWS) * K + k];
    }
    PfqArgs a = {.in = {x, ids}, .out = {out}, .T = T};
    run("rows", &a, 2, K, 0);
    compare("rows", out, want, (size_t)(T * K), 0);
    kt_free_all();
}

/* y[i * m + c] = scale * sum_jd B[i][j] (-1)^|c & d| x[j * m + d]; the kernel does not ask B to be orthogonal. */
static void test_hadamard(int n, int base, int blocks, int T)
{
    if (!tested("hadamard"))
        return;
    cases++;
    const int K = n * blocks, m = n / base;
    kt_seed((uint64_t)(n + base));
    const KtConst consts[] = {{"K", K}, {"N", n}, {"base", base}, {"scale", 0.25}};
    kt_set(&lib, consts, COUNT(consts));
    KtWeight b = kt_weight(KT_F32, base, base, 1);
    float *x = random_floats((size_t)(T * K)), *out = filled((size_t)(T * K) * 4);
    double *want = kt_alloc((size_t)(T * K) * 8);
    for (int u = 0; u < T * blocks; u++)
        for (int i = 0; i < n; i++) {
            double sum = 0;
            for (int j = 0; j < n; j++) {
                double s = __builtin_parity((unsigned)(i % m & j % m)) ? -1 : 1;
                sum += s * (base > 1 ? b.w[i / m * base + j / m] : 1) * (double)x[u * n + j];
            }
            want[u * n + i] = 0.25 * sum;
        }
    PfqArgs a = {.in = {x}, .w = base > 1 ? b.packed : NULL, .out = {out}, .T = T};
    run("hadamard", &a, 2, K, 0);
    compare("hadamard", out, want, (size_t)(T * K), 2e-6);
    const Rows rows = {.in = {4 * (size_t)K}, .out = {4 * (size_t)K}};
    float *again = a.out[0] = filled((size_t)(T * K) * 4);
    run_pass(2, "hadamard", &a, &rows, K, 0);
    if (memcmp(out, again, (size_t)(T * K) * 4))
        fail("hadamard", pass_differs[2]);
    a.out[0] = x; /* in place */
    run("hadamard", &a, 2, K, 0);
    compare("hadamard in place", x, want, (size_t)(T * K), 2e-6);
    kt_free_all();
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: test_kernels VARIANT LIBRARY\n");
        return 2;
    }
    if (!kt_variant_runs(argv[1])) {
        printf("this CPU cannot run %s: skipped\n", argv[1]);
        return 0;
    }
    lib = kt_open(argv[2], argv[1]);
    const char *(*skip)(void) = (const char *(*)(void))(uintptr_t)dlsym(lib.handle, "kt_skip");
    const char *reason = skip ? skip() : NULL;
    if (reason) {
        printf("%s: %s: skipped\n", argv[1], reason);
        return 77;
    }
    test_norms();
    for (int layout = 0; layout <= KT_BF16; layout++) {
        test_embed(layout, 100, 40, 5);
        test_embed(layout, 33, 576, 3);
    }
    test_elements(40, 3);
    test_elements(7, 5);
    test_hadamard(2, 1, 3, 2);
    test_hadamard(64, 1, 9, 3);
    test_hadamard(1024, 1, 1, 2);
    test_hadamard(384, 12, 1, 3);
    test_hadamard(80, 20, 2, 3);
    test_hadamard(7, 7, 2, 1);
    test_hadamard(1376, 43, 1, 1);
    test_hadamard(4096, 1, 1, 1);
    test_hadamard(1536, 12, 1, 2);
    test_hadamard(5120, 20, 1, 3);
    test_hadamard(8192, 1, 1, 2);
    test_heads(9, 64, 64, 0, 0, 0, 5);
    test_heads(3, 80, 40, 1, 1, 1, 4);
    test_heads(3, 8, 0, 1, 1, 0, 4);
    test_heads(2, 2, 2, 0, 0, 1, 3);
    test_attention();
    test_kv();
    test_linears();
    test_integer_linears();
    test_large_linears();
    if (skipped)
        printf("%s: %d cases of linears and attention left out%s\n", argv[1], skipped,
               strcmp(argv[1], "cuda") ? "" : "; PFQ_ALL=1 runs them");
    printf("%s: %d cases, %d failures\n", argv[1], cases, failures);
    return failures != 0;
}
