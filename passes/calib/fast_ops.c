/* The ops that a float forward spends its time in, over f32, with the meaning of ir/eval_ops.h.
 *
 * Products are OpenBLAS's sgemm on one thread (the caller runs a sequence per thread); everything
 * else is plain loops that compilers vectorise, compiled for AVX2 as well. exp is a polynomial with
 * a relative error below 2e-7. Ops that are not here, among them all that quantise, are the
 * reference's own code.
 */
#include "passes/calib/calib_int.h"
#include "passes/wide.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

enum { LANES = 16 };

static bool present(const OpCall *c, u32 k)
{
    return k < c->nin && c->in[k].p;
}

/* ---- loops ---- */

typedef float F8 __attribute__((vector_size(32)));
typedef i32 I8 __attribute__((vector_size(32)));

/* Up to 8 elements; what is missing is zero. */
static inline __attribute__((always_inline)) void load8(const float *x, i64 n, F8 *out)
{
    *out = (F8){0};
    if (n >= 8)
        memcpy(out, x, sizeof *out);
    else
        memcpy(out, x, (size_t)n * sizeof *x);
}

static inline __attribute__((always_inline)) void store8(float *y, i64 n, const F8 *v)
{
    if (n >= 8)
        memcpy(y, v, sizeof *v);
    else
        memcpy(y, v, (size_t)n * sizeof *y);
}

/* Bounds of exp's argument: exp(-87) is the least result, which is no less than zero for any use
 * here. NaN stays NaN. */
static inline __attribute__((always_inline)) void exp8(F8 *v)
{
    F8 x = *v;
    I8 low = x < -87.0f, high = x > 88.0f;
    x = (F8)(((I8)x & ~low) | ((I8)((F8){0} - 87.0f) & low));
    x = (F8)(((I8)x & ~high) | ((I8)((F8){0} + 88.0f) & high));
    F8 n = (x * 1.44269504f + 0x1.8p23f) - 0x1.8p23f; /* nearest integer */
    F8 r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    F8 p = r * 1.9875691500e-4f + 1.3981999507e-3f; /* Cephes' expf on |r| <= ln(2)/2 */
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    *v = p * (F8)((__builtin_convertvector(n, I8) + 127) << 23);
}

WIDE static void silu_n(const float *x, i64 n, float *y)
{
    for (i64 i = 0; i < n; i += 8) {
        F8 v, e;
        load8(x + i, n - i, &v);
        e = -v;
        exp8(&e);
        v /= 1.0f + e;
        store8(y + i, n - i, &v);
    }
}

/* The tanh form: x * (1 + tanh(u)) / 2 = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3). */
WIDE static void gelu_n(const float *x, i64 n, float *y)
{
    for (i64 i = 0; i < n; i += 8) {
        F8 v, e;
        load8(x + i, n - i, &v);
        e = -1.59576912f * (v + 0.044715f * v * v * v);
        exp8(&e);
        v /= 1.0f + e;
        store8(y + i, n - i, &v);
    }
}

/* x[i] = exp(scale * x[i] - top); returns the sum. */
WIDE static float exp_n(float *x, i64 n, float scale, float top)
{
    F8 s = {0}, v;
    i64 i = 0;
    for (; i < n; i += 8) {
        load8(x + i, n - i, &v);
        v = v * scale - top;
        exp8(&v);
        store8(x + i, n - i, &v);
        if (n - i >= 8) s += v;
    }
    float sum = 0;
    for (int j = 0; j < 8; j++)
        sum += s[j];
    for (i = n / 8 * 8; i < n; i++)
        sum += x[i];
    return sum;
}

WIDE static float max_n(const float *x, i64 n)
{
    F8 m = (F8){0} + x[0], v;
    i64 i = 0;
    for (; i + 8 <= n; i += 8) {
        load8(x + i, 8, &v);
        I8 more = v > m;
        m = (F8)(((I8)v & more) | ((I8)m & ~more));
    }
    float top = m[0];
    for (int j = 1; j < 8; j++)
        top = m[j] > top ? m[j] : top;
    for (; i < n; i++)
        top = x[i] > top ? x[i] : top;
    return top;
}

WIDE static float sum_squares(const float *x, i64 n)
{
    float s[LANES] = {0}, sum = 0;
    i64 i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            s[j] += x[i + j] * x[i + j];
    for (; i < n; i++)
        sum += x[i] * x[i];
    for (int j = 0; j < LANES; j++)
        sum += s[j];
    return sum;
}

WIDE static void scale_n(const float *x, i64 n, float f, const float *gain, float *y)
{
    if (gain)
        for (i64 i = 0; i < n; i++)
            y[i] = x[i] * f * gain[i];
    else
        for (i64 i = 0; i < n; i++)
            y[i] = x[i] * f;
}

WIDE static void turn_n(const float *x, i64 half, const float *cs, const float *sn, float *y)
{
    for (i64 i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        y[i] = a * cs[i] - b * sn[i];
        y[i + half] = b * cs[i] + a * sn[i];
    }
}

/* One stage of Sylvester's transform: blocks of 2h. */
WIDE static void butterflies(i64 n, i64 h, float *x)
{
    for (i64 i = 0; i < n; i += 2 * h)
        for (i64 j = i; j < i + h; j++) {
            float a = x[j], b = x[j + h];
            x[j] = a + b;
            x[j + h] = a - b;
        }
}

/* Stages h = 1, 2, 4, of 8 elements at a time. */
WIDE static void butterflies8(i64 n, float *x)
{
    for (i64 i = 0; i < n; i += 8) {
        float a[8], b[8];
        for (int j = 0; j < 4; j++) {
            a[j] = x[i + j] + x[i + j + 4];
            a[j + 4] = x[i + j] - x[i + j + 4];
        }
        for (int k = 0; k < 8; k += 4)
            for (int j = k; j < k + 2; j++) {
                b[j] = a[j] + a[j + 2];
                b[j + 2] = a[j] - a[j + 2];
            }
        for (int j = 0; j < 8; j += 2) {
            x[i + j] = b[j] + b[j + 1];
            x[i + j + 1] = b[j] - b[j + 1];
        }
    }
}

/* ---- products ---- */

static void add_bias(float *y, i64 rows, i64 n, i64 stride, const float *bias)
{
    for (i64 t = 0; t < rows; t++)
        for (i64 j = 0; j < n; j++)
            y[t * stride + j] += bias[j];
}

void product(Eval *e, const Product *p)
{
    (void)e;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)p->rows, (int)p->n, (int)p->k, 1,
                p->x, (int)p->k, p->w, (int)p->k, 0, p->y, (int)p->stride);
}

static bool linear_by(OpCall *c, void (*multiply)(Eval *e, const Product *p))
{
    enum { TILE = 1 << 21 }; /* elements of a weight that is not dense */
    i64 rows = c->in[0].dim[0], k = c->in[0].dim[1], n = c->in[1].dim[0];
    i64 step = c->in[1].p ? n : TILE / k > 1 ? TILE / k : 1;
    float *y = c->out[0].f;
    if (rows > INT32_MAX || k > INT32_MAX || n > INT32_MAX) return op_eval_f32[OP_LINEAR](c);
    for (i64 n0 = 0; n0 < n; n0 += step) {
        i64 nr = n - n0 < step ? n - n0 : step;
        Scope s = ev_scope(c->e);
        Tensor w;
        bool ok = ev_fetch(c, 1, (Rect){n0, nr, 0, k}, &w);
        if (ok) multiply(c->e, &(Product){c->in[0].f, w.f, y + n0, rows, k, nr, n});
        ev_scope_end(c->e, s);
        if (!ok) return false;
    }
    if (present(c, 2)) add_bias(y, rows, n, n, c->in[2].f);
    return true;
}

static bool fast_linear(OpCall *c)
{
    return linear_by(c, product);
}

static bool half_linear(OpCall *c)
{
    return linear_by(c, half_product);
}

/* ---- attention ---- */

typedef struct Heads { /* q and y are [T, heads, d]; k and v [T, kv, d]; pk and pv [prefix, kv, d]
                        */
    const float *q, *k, *v, *pk, *pv;
    float *y, *score; /* score: [BLOCK, prefix + T] */
    i64 tokens, heads, kv, d, prefix, window;
    float scale;
} Heads;

enum { BLOCK = 64 }; /* query rows at a time */

static void gemm(bool turned, i64 m, i64 n, i64 k, const float *a, i64 lda, const float *b, i64 ldb,
                 float beta, float *c, i64 ldc)
{
    if (m && n && k)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, turned ? CblasTrans : CblasNoTrans, (int)m, (int)n,
                    (int)k, 1, a, (int)lda, b, (int)ldb, beta, c, (int)ldc);
}

/* Row t's scores of the prefix and of keys [k0, k1) become probabilities; those it does not see, 0.
 */
static void softmax_row(const Heads *h, float *row, i64 t, i64 k0, i64 k1)
{
    i64 lo = h->window > 0 && t - h->window + 1 > k0 ? t - h->window + 1 : k0, p = h->prefix;
    float *keys = row + p - k0, top = max_n(keys + lo, t + 1 - lo), sum = 0;
    if (p) {
        float m = max_n(row, p);
        top = m > top ? m : top;
    }
    for (i64 j = k0; j < lo; j++)
        keys[j] = 0;
    for (i64 j = t + 1; j < k1; j++)
        keys[j] = 0;
    top *= h->scale;
    if (p) sum = exp_n(row, p, h->scale, top);
    sum += exp_n(keys + lo, t + 1 - lo, h->scale, top);
    scale_n(row, p, 1 / sum, NULL, row);
    scale_n(keys + lo, t + 1 - lo, 1 / sum, NULL, keys + lo);
}

static void attend_block(const Heads *h, i64 head, i64 t0, i64 nt)
{
    i64 g = head / (h->heads / h->kv), d = h->d, qs = h->heads * d, ks = h->kv * d, p = h->prefix;
    i64 k0 = h->window > 0 && t0 - h->window + 1 > 0 ? t0 - h->window + 1 : 0, k1 = t0 + nt;
    i64 width = p + k1 - k0;
    const float *q = h->q + t0 * qs + head * d;
    float *y = h->y + t0 * qs + head * d, *s = h->score;
    gemm(true, nt, p, d, q, qs, h->pk + (p ? g * d : 0), ks, 0, s, width);
    gemm(true, nt, k1 - k0, d, q, qs, h->k + k0 * ks + g * d, ks, 0, s + p, width);
    for (i64 t = 0; t < nt; t++)
        softmax_row(h, s + t * width, t0 + t, k0, k1);
    gemm(false, nt, d, k1 - k0, s + p, width, h->v + k0 * ks + g * d, ks, 0, y, qs);
    gemm(false, nt, d, p, s, width, h->pv + (p ? g * d : 0), ks, 1, y, qs);
}

/* Keys and values are those of this call: a sequence is run whole. */
static bool fast_attention(OpCall *c)
{
    static const float none[1] = {0};
    const Tensor *q = &c->in[0], *k = &c->in[1], *pos = &c->in[3];
    bool prefixed = present(c, 4);
    Heads h = {.q = q->f,
               .k = k->f,
               .v = c->in[2].f,
               .pk = none,
               .pv = none,
               .y = c->out[0].f,
               .tokens = q->dim[0],
               .heads = q->dim[1],
               .kv = k->dim[1],
               .d = q->dim[2],
               .window = op_int(c->op, A_WINDOW),
               .scale = (float)op_float(c->op, A_SCALE)};
    if (prefixed) h.prefix = c->in[4].dim[0], h.pk = c->in[4].f, h.pv = c->in[5].f;
    if (h.heads % h.kv || h.scale < 0 || k->dim[0] != h.tokens)
        return ev_fail(c->e, c->op, "has shapes or a scale that calibration does not cover");
    for (i64 t = 0; t < h.tokens; t++)
        if (pos->i[t] != pos->i[0] + t || pos->i[0] < h.prefix)
            return ev_fail(c->e, c->op,
                           "positions are not those of one sequence behind the prefix");
    h.score = ev_scratch(c->e, BLOCK * (h.prefix + h.tokens), sizeof *h.score);
    for (i64 head = 0; head < h.heads; head++)
        for (i64 t = 0; t < h.tokens; t += BLOCK)
            attend_block(&h, head, t, h.tokens - t < BLOCK ? h.tokens - t : BLOCK);
    return true;
}

/* ---- the rest ---- */

static bool fast_rope(OpCall *c)
{
    const Tensor *x = &c->in[0], *freqs = &c->in[2];
    i64 heads = x->dim[1], d = x->dim[2], half = freqs->dim[0];
    if (2 * half > d) return op_eval_f32[OP_ROPE](c);
    float mscale = (float)op_float(c->op, A_MSCALE);
    float *cs = ev_scratch(c->e, 2 * half, sizeof *cs), *sn = cs + half;
    for (i64 t = 0; t < x->dim[0]; t++) {
        for (i64 i = 0; i < half; i++) {
            float angle = (float)c->in[1].i[t] * freqs->f[i];
            cs[i] = cosf(angle) * mscale;
            sn[i] = sinf(angle) * mscale;
        }
        for (i64 h = 0; h < heads; h++) {
            const float *v = x->f + (t * heads + h) * d;
            float *y = c->out[0].f + (t * heads + h) * d;
            turn_n(v, half, cs, sn, y);
            memcpy(y + 2 * half, v + 2 * half, (size_t)(d - 2 * half) * sizeof *y);
        }
    }
    return true;
}

static bool fast_rmsnorm(OpCall *c)
{
    const Tensor *x = &c->in[0];
    i64 cols = tensor_cols(x);
    float eps = (float)op_float(c->op, A_EPS);
    const float *gain = present(c, 1) ? c->in[1].f : NULL;
    for (i64 r = 0; r < tensor_rows(x); r++) {
        const float *v = x->f + r * cols;
        float f = 1 / sqrtf(sum_squares(v, cols) / (float)cols + eps);
        scale_n(v, cols, f, gain, c->out[0].f + r * cols);
    }
    return true;
}

static bool fast_silu(OpCall *c)
{
    silu_n(c->in[0].f, calib_elems(&c->in[0]), c->out[0].f);
    return true;
}

static bool fast_gelu(OpCall *c)
{
    if (strcmp(op_str(c->e->m, c->op, A_MODE), "tanh") != 0) return op_eval_f32[OP_GELU](c);
    gelu_n(c->in[0].f, calib_elems(&c->in[0]), c->out[0].f);
    return true;
}

typedef struct Transform { /* of n = k * m elements: signs, Sylvester along m, the base along k */
    HadamardPlan p;
    float *sign;             /* [n], NULL: none */
    float *base, *wide, *to; /* [k, k] with the scale in it, [k, batch * m] twice; NULL if k is 1 */
    i64 batch;               /* rows at a time */
    float scale;
} Transform;

static Transform transform_of(Eval *e, i64 n, u64 seed)
{
    enum { WIDTH = 128 }; /* a row that is as wide is a product of its own */
    Transform t = {.p = ev_hadamard_plan(e, n), .batch = 1};
    const HadamardPlan *p = &t.p;
    t.scale = (float)(1 / sqrt((double)n));
    if (seed) {
        t.sign = ev_scratch(e, n, sizeof *t.sign);
        for (i64 i = 0; i < n; i++)
            t.sign[i] = (float)hadamard_sign(seed, i);
    }
    if (p->k == 1) return t;
    t.batch = p->m < WIDTH ? WIDTH / p->m : 1;
    t.base = ev_scratch(e, p->k * p->k, sizeof *t.base);
    t.wide = ev_scratch(e, t.batch * n, sizeof *t.wide);
    t.to = ev_scratch(e, t.batch * n, sizeof *t.to);
    for (i64 i = 0; i < p->k * p->k; i++)
        t.base[i] = (float)(p->b[i] / sqrt((double)n));
    return t;
}

/* The base along k, of up to `batch` rows side by side: one product. */
static void mix_base(const Transform *t, i64 rows, float *x)
{
    const i64 k = t->p.k, m = t->p.m, n = t->p.n;
    for (i64 r = 0; rows > 1 && r < rows; r++)
        for (i64 j = 0; j < k; j++)
            memcpy(t->wide + (j * rows + r) * m, x + r * n + j * m, (size_t)m * sizeof *x);
    gemm(false, k, rows * m, k, t->base, k, rows > 1 ? t->wide : x, rows * m, 0, t->to, rows * m);
    for (i64 r = 0; r < rows; r++)
        for (i64 j = 0; j < k; j++)
            memcpy(x + r * n + j * m, t->to + (j * rows + r) * m, (size_t)m * sizeof *x);
}

static void transform_rows(const Transform *t, i64 rows, float *x)
{
    const i64 n = t->p.n;
    for (i64 r = 0; r < rows; r++) { /* a row at a time, which stays in the first-level cache */
        float *row = x + r * n;
        i64 h = 1;
        if (t->sign) scale_n(row, n, 1, t->sign, row);
        if (t->p.m >= 8) butterflies8(n, row), h = 8;
        for (; h < t->p.m; h *= 2)
            butterflies(n, h, row);
        if (!t->base) scale_n(row, n, t->scale, NULL, row);
    }
    for (i64 r = 0; t->base && r < rows; r += t->batch)
        mix_base(t, rows - r < t->batch ? rows - r : t->batch, x + r * n);
}

/* Mode rows: columns [c0, c1) of x[nr, nc] are turned into rows, some at a time. y may be x. */
static void transform_columns(Eval *e, const Transform *t, i64 nr, i64 nc, i64 c0, i64 c1,
                              const float *x, float *y)
{
    enum { COLS = 16 };
    float *turned = ev_scratch(e, COLS * nr, sizeof *turned);
    for (i64 n; c0 < c1; c0 += n) {
        n = c1 - c0 < COLS ? c1 - c0 : COLS;
        for (i64 i = 0; i < nr; i++)
            for (i64 j = 0; j < n; j++)
                turned[j * nr + i] = x[i * nc + c0 + j];
        transform_rows(t, n * nr / t->p.n, turned);
        for (i64 i = 0; i < nr; i++)
            for (i64 j = 0; j < n; j++)
                y[i * nc + c0 + j] = turned[j * nr + i];
    }
}

/* The op's transform of a matrix [rows, cols]; *columns: along its rows' index. */
static Transform op_transform(Eval *e, const Op *op, i64 rows, i64 cols, bool *columns)
{
    i64 group = op_int(op, A_GROUP);
    *columns = *op_str(e->m, op, A_MODE) != 0;
    return transform_of(e, group ? group : *columns ? rows : cols, (u64)op_int(op, A_SEED));
}

/* The operand is a matrix, or in a function a value of any rank. */
static bool fast_hadamard(OpCall *c)
{
    const Tensor *x = &c->in[0];
    i64 rows = tensor_rows(x), cols = tensor_cols(x);
    bool columns;
    Transform t = op_transform(c->e, c->op, rows, cols, &columns);
    if (columns) {
        transform_columns(c->e, &t, rows, cols, 0, cols, x->f, c->out[0].f);
    } else {
        memcpy(c->out[0].f, x->f, (size_t)(rows * cols) * sizeof(float));
        transform_rows(&t, rows * cols / t.p.n, c->out[0].f);
    }
    return true;
}

void transform_dense(Eval *e, const Op *op, float *x, i64 rows, i64 cols, i64 part, i64 parts)
{
    bool columns;
    Transform t = op_transform(e, op, rows, cols, &columns);
    if (columns) {
        transform_columns(e, &t, rows, cols, cols * part / parts, cols * (part + 1) / parts, x, x);
    } else {
        i64 n = rows * cols / t.p.n, from = n * part / parts;
        transform_rows(&t, n * (part + 1) / parts - from, x + from * t.p.n);
    }
}

/* ---- the table ---- */

static OpEval *const table[OP_COUNT] = {
    [OP_LINEAR] = fast_linear,     [OP_ATTENTION] = fast_attention, [OP_ROPE] = fast_rope,
    [OP_RMSNORM] = fast_rmsnorm,   [OP_SILU] = fast_silu,           [OP_GELU] = fast_gelu,
    [OP_HADAMARD] = fast_hadamard,
};

void fast_ops(OpEval **out)
{
    for (u32 i = 0; i < OP_COUNT; i++)
        out[i] = table[i] ? table[i] : op_eval_f32[i];
}

void fast_half(OpEval **out)
{
    out[OP_LINEAR] = half_linear;
}
