/* What every op computes, over `real`: included by eval_f32.c and eval_f64.c, which define real,
 * OP_EVAL, REAL, MATH, HADAMARD_ROWS, ROUND_MAGIC and ROUND_F16. The equations are those of
 * ops.def; loops are plain, innermost over the contiguous dimension so that compilers vectorise
 * them. Ops with a TileRule see operands and results as dense matrices (const.c prepares them); the
 * others see whole values, except the weights they fetch in row tiles.
 */
#include "ir/base/half.h"
#include "ir/encoding.h"

enum {
    LANES = 32 / sizeof(real),
    WEIGHT_TILE = 1 << 15 /* elements of a weight in memory at a time */
};
typedef real Lanes __attribute__((vector_size(32), aligned(sizeof(real)), may_alias));

#define LOAD(p)                                                                                    \
    (*(const Lanes *)(p)) /* no function: passing vectors by value depends on the target's ABI */

static inline real sum_lanes(const Lanes *v)
{
    real s = 0;
    for (int i = 0; i < LANES; i++)
        s += (*v)[i];
    return s;
}

static i64 elems(const Tensor *t)
{
    return tensor_rows(t) * tensor_cols(t);
}
static bool present(const OpCall *c, u32 k)
{
    return k < c->nin && c->in[k].p;
}

/* ---- leaves ---- */

static bool ev_none(OpCall *c)
{
    return ev_fail(c->e, c->op, "cannot be evaluated");
}

static i32 to_int(DType dt, double x)
{
    double lo = (double)dtype_info[dt].lo, hi = (double)dtype_info[dt].hi;
    return (i32)(x > lo ? x < hi ? x : hi : lo); /* NaN gives lo */
}

/* n values decoded as float, to element `to` of the result. */
static void put_floats(Tensor *out, i64 to, const float *v, i64 n)
{
    if (!dtype_info[out->dt].is_float)
        for (i64 i = 0; i < n; i++)
            out->i[to + i] = to_int(out->dt, (double)v[i]);
    else
        for (i64 i = 0; i < n; i++)
            REAL(out)[to + i] = (real)v[i];
}

/* Calls fill(first element, count, where) over the rectangle, in runs that fit `buf`. */
typedef void LeafFill(const void *user, u64 first, i64 n, float *out);

static void fill_leaf(OpCall *c, LeafFill *fill, const void *user)
{
    enum { RUN = 2048 };
    float buf[RUN];
    const Rect r = c->rect;
    i64 cols = type_cols(type_of(c->e->m, c->op->out));
    for (i64 i = 0; i < r.nr; i++)
        for (i64 k = 0, n; k < r.nc; k += n) {
            n = r.nc - k < RUN ? r.nc - k : RUN;
            fill(user, (u64)((r.r0 + i) * cols + r.c0 + k), n, buf);
            put_floats(&c->out[0], i * r.nc + k, buf, n);
        }
}

typedef struct FileSlice {
    EncId enc;
    const u8 *bytes;
} FileSlice;

static void fill_slice(const void *user, u64 first, i64 n, float *out)
{
    const FileSlice *s = user;
    enc_decode(s->enc, s->bytes, first, (u64)n, out);
}

static bool ev_tensor(OpCall *c)
{
    const Module *m = c->e->m;
    i64 file = op_int(c->op, A_FILE);
    FileSlice s = {.enc = enc_by_name(str_c(op_str(m, c->op, A_ENC)))};
    if (!s.enc || file < 0 || file >= (i64)m->files.n || !m->files.at[file].map.data)
        return ev_fail(c->e, c->op, "its file is not open");
    s.bytes = m->files.at[file].map.data + op_int(c->op, A_OFFSET);
    fill_leaf(c, fill_slice, &s);
    return true;
}

static void fill_synthetic(const void *user, u64 first, i64 n, float *out)
{
    const u64 *seed = user;
    synthetic_fill(seed[0], seed[1], first, n, out);
}

static bool ev_synthetic(OpCall *c)
{
    u64 seed[2] = {(u64)op_int(c->op, A_SEED), (u64)op_int(c->op, A_STREAM)};
    Tensor *out = &c->out[0];
    if (!dtype_info[out->dt].is_float) return ev_fail(c->e, c->op, "has an integer type");
    fill_leaf(c, fill_synthetic, seed);
    real scale = (real)op_float(c->op, A_SCALE);
    for (i64 i = 0; i < c->rect.nr * c->rect.nc; i++)
        REAL(out)[i] *= scale;
    return true;
}

static bool ev_literal(OpCall *c)
{
    const double *v = op_attr(c->op, A_VALUES)->floats;
    const Rect r = c->rect;
    Tensor *out = &c->out[0];
    i64 cols = type_cols(type_of(c->e->m, c->op->out));
    for (i64 i = 0; i < r.nr * r.nc; i++) {
        double x = v[(r.r0 + i / r.nc) * cols + r.c0 + i % r.nc];
        if (dtype_info[out->dt].is_float)
            REAL(out)[i] = (real)x;
        else
            out->i[i] = to_int(out->dt, x);
    }
    return true;
}

static bool ev_rope_freqs(OpCall *c)
{
    i64 n = op_int(c->op, A_DIM) / 2;
    float *freq = ev_scratch(c->e, n, sizeof *freq);
    ev_rope_frequencies(c->e->m, c->op, freq);
    put_floats(&c->out[0], 0, freq + c->rect.c0, c->rect.nc);
    return true;
}

/* ---- elements ---- */

static bool ev_copy(OpCall *c)
{
    memcpy(c->out[0].p, c->in[0].p, (size_t)elems(&c->out[0]) * ev_esize(c->e, c->in[0].dt));
    return true;
}

static bool ev_cast(OpCall *c)
{
    return ev_copy(c);
} /* rounded to its type like every result (ev_run) */

#define ev_transpose      ev_move
#define ev_slice          ev_move
#define ev_concat         ev_move
#define ev_rope_unpermute ev_move

/* y = a OP b; b's tile has the rows and columns of a's, or one. */
#define BROADCAST_LOOP(OP)                                                                         \
    const Tensor *b = &c->in[1];                                                                   \
    i64 nr = c->rect.nr, nc = c->rect.nc, bc = b->dim[1];                                          \
    for (i64 r = 0; r < nr; r++) {                                                                 \
        const real *x = REAL(&c->in[0]) + r * nc, *z = REAL(b) + (b->dim[0] == 1 ? 0 : r * bc);    \
        real *y = REAL(&c->out[0]) + r * nc;                                                       \
        if (bc == nc)                                                                              \
            for (i64 k = 0; k < nc; k++)                                                           \
                y[k] = x[k] OP z[k];                                                               \
        else                                                                                       \
            for (i64 k = 0; k < nc; k++)                                                           \
                y[k] = x[k] OP z[0];                                                               \
    }                                                                                              \
    return true

static bool ev_add(OpCall *c)
{
    BROADCAST_LOOP(+);
}
static bool ev_mul(OpCall *c)
{
    BROADCAST_LOOP(*);
}
static bool ev_div(OpCall *c)
{
    BROADCAST_LOOP(/);
}

/* Element i of every block is multiplied by its sign, then each block of n is transformed. tile
 * [rows, blocks * n]. */
static void mix_rows(Eval *e, const HadamardPlan *p, u64 seed, i64 rows, real *x)
{
    real *tmp = ev_scratch(e, p->n, sizeof *tmp);
    for (i64 r = 0; r < rows; r++) {
        for (i64 i = 0; seed && i < p->n; i++)
            x[r * p->n + i] *= (real)hadamard_sign(seed, i);
        HADAMARD_ROWS(p, 1, x + r * p->n, tmp, false);
    }
}

/* With mode rows the result may be the operand. */
static bool ev_hadamard(OpCall *c)
{
    i64 nr = c->rect.nr, nc = c->rect.nc, group = op_int(c->op, A_GROUP);
    u64 seed = (u64)op_int(c->op, A_SEED);
    const real *x = REAL(&c->in[0]);
    real *y = REAL(&c->out[0]);
    if (!*op_str(c->e->m, c->op,
                 A_MODE)) { /* blocks are contiguous: a row of several is several rows of one */
        HadamardPlan p = ev_hadamard_plan(c->e, group ? group : nc);
        memcpy(y, x, (size_t)(nr * nc) * sizeof *y);
        mix_rows(c->e, &p, seed, nr * nc / p.n, y);
        return true;
    }
    enum { COLS = 32 }; /* columns turned into rows at a time */
    HadamardPlan p = ev_hadamard_plan(c->e, group ? group : nr);
    real *turned = ev_scratch(c->e, COLS * nr, sizeof *turned);
    for (i64 c0 = 0, n; c0 < nc; c0 += n) {
        n = nc - c0 < COLS ? nc - c0 : COLS;
        for (i64 i = 0; i < nr; i++)
            for (i64 j = 0; j < n; j++)
                turned[j * nr + i] = x[i * nc + c0 + j];
        mix_rows(c->e, &p, seed, n * nr / p.n, turned);
        for (i64 i = 0; i < nr; i++)
            for (i64 j = 0; j < n; j++)
                y[i * nc + c0 + j] = turned[j * nr + i];
    }
    return true;
}

static bool ev_hadamard_base(OpCall *c)
{
    const Rect r = c->rect;
    HadamardPlan p = ev_hadamard_plan(c->e, op_int(c->op, A_DIM));
    for (i64 i = 0; i < r.nr; i++)
        for (i64 j = 0; j < r.nc; j++)
            REAL(&c->out[0])[i * r.nc + j] = p.b ? (real)p.b[(r.r0 + i) * p.k + r.c0 + j] : 1;
    return true;
}

static bool ev_silu(OpCall *c)
{
    const real *x = REAL(&c->in[0]);
    for (i64 i = 0, n = elems(&c->in[0]); i < n; i++)
        REAL(&c->out[0])[i] = x[i] / (1 + MATH(exp)(-x[i]));
    return true;
}

static bool ev_gelu(OpCall *c)
{
    const char *mode = op_str(c->e->m, c->op, A_MODE);
    bool tanh_form = strcmp(mode, "tanh") == 0;
    if (*mode && !tanh_form) return ev_fail(c->e, c->op, "unknown mode '%s'", mode);
    const real *x = REAL(&c->in[0]), root2 = (real)1.41421356237309504880,
               root2_pi = (real)0.79788456080286535588;
    real *y = REAL(&c->out[0]);
    for (i64 i = 0, n = elems(&c->in[0]); i < n; i++) {
        real v = x[i];
        real phi = tanh_form ? MATH(tanh)(root2_pi * (v + (real)0.044715 * v * v * v))
                             : MATH(erf)(v / root2);
        y[i] = v * (1 + phi) / 2;
    }
    return true;
}

/* ---- quantisation: tiles of whole groups ---- */

static i64 group_of(const OpCall *c, i64 cols)
{
    i64 g = op_int(c->op, A_GROUP);
    return g > 0 && g < cols ? g : cols;
}

static void range(const real *x, i64 n, real *lo, real *hi)
{
    real l[LANES],
        h[LANES]; /* NaN loses every comparison: it never becomes a bound unless it comes first */
    for (int j = 0; j < LANES; j++)
        l[j] = h[j] = x[0];
    i64 i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) {
            l[j] = x[i + j] < l[j] ? x[i + j] : l[j];
            h[j] = x[i + j] > h[j] ? x[i + j] : h[j];
        }
    for (; i < n; i++) {
        l[0] = x[i] < l[0] ? x[i] : l[0];
        h[0] = x[i] > h[0] ? x[i] : h[0];
    }
    *lo = l[0];
    *hi = h[0];
    for (int j = 1; j < LANES; j++) {
        if (l[j] < *lo) *lo = l[j];
        if (h[j] > *hi) *hi = h[j];
    }
}

static bool ev_qparams(OpCall *c)
{
    const Tensor *x = &c->in[0];
    i64 cols = x->dim[1], group = group_of(c, cols), at = 0;
    real factor = (real)op_float(c->op, A_SCALE),
         top = (real)qparams_top(op_dtype(c->e->m, c->op), op_int(c->op, A_FULL) != 0);
    for (i64 r = 0; r < x->dim[0]; r++)
        for (i64 k = 0; k < cols; k += group) {
            real lo, hi;
            range(REAL(x) + r * cols + k, cols - k < group ? cols - k : group, &lo, &hi);
            real s = factor * (hi > -lo ? hi : -lo) / top;
            REAL(&c->out[0])[at++] = s > 0 || s < 0 ? s : 1;
        }
    return true;
}

static bool ev_qparams_asym(OpCall *c)
{
    const Tensor *x = &c->in[0];
    i64 cols = x->dim[1], group = group_of(c, cols), at = 0;
    real factor = (real)op_float(c->op, A_SCALE),
         top = (real)dtype_info[op_dtype(c->e->m, c->op)].hi;
    const bool zero = op_int(c->op, A_ZERO) != 0;
    for (i64 r = 0; r < x->dim[0]; r++)
        for (i64 k = 0; k < cols; k += group, at++) {
            real lo, hi;
            range(REAL(x) + r * cols + k, cols - k < group ? cols - k : group, &lo, &hi);
            real s = ROUND_F16(factor * (hi - lo) / top);
            s = s > 0 ? s : 1;
            lo *= factor;
            if (zero) lo = ((lo / s + ROUND_MAGIC) - ROUND_MAGIC) * s;
            REAL(&c->out[0])[at] = s;
            REAL(&c->out[1])[at] = ROUND_F16(lo);
        }
    return true;
}

/* Element (r, g) of a scale or offset that may have one row or one column. */
static real param(const OpCall *c, u32 k, i64 r, i64 g, real absent)
{
    if (!present(c, k)) return absent;
    const Tensor *t = &c->in[k];
    return REAL(t)[(t->dim[0] == 1 ? 0 : r) * t->dim[1] + (t->dim[1] == 1 ? 0 : g)];
}

static bool ev_quantize(OpCall *c)
{
    const Tensor *x = &c->in[0];
    const DTypeInfo *dt = &dtype_info[c->out[0].dt];
    i64 cols = x->dim[1], group = group_of(c, cols);
    bool full = present(c, 2) || op_int(c->op, A_FULL);
    real hi = (real)dt->hi, lo = dt->lo < 0 && !full ? -hi : (real)dt->lo;
    for (i64 r = 0; r < x->dim[0]; r++)
        for (i64 k = 0; k < cols; k += group) {
            real s = param(c, 1, r, k / group, 1), m = param(c, 2, r, k / group, 0);
            i64 n = cols - k < group ? cols - k : group;
            const real *v = REAL(x) + r * cols + k;
            i32 *q = c->out[0].i + r * cols + k;
            for (i64 i = 0; i < n; i++) {
                real y =
                    (v[i] - m) / s; /* the bounds are integers: clamping first gives the same */
                y = y > lo ? y : lo;
                y = y < hi ? y : hi;
                q[i] = (i32)((y + ROUND_MAGIC) - ROUND_MAGIC);
            }
        }
    return true;
}

static bool ev_dequantize(OpCall *c)
{
    const Tensor *x = &c->in[0];
    i64 cols = x->dim[1], group = group_of(c, cols);
    for (i64 r = 0; r < x->dim[0]; r++)
        for (i64 k = 0; k < cols; k += group) {
            real s = param(c, 1, r, k / group, 1), m = param(c, 2, r, k / group, 0);
            i64 n = cols - k < group ? cols - k : group;
            const i32 *q = x->i + r * cols + k;
            real *y = REAL(&c->out[0]) + r * cols + k;
            for (i64 i = 0; i < n; i++)
                y[i] = (real)q[i] * s + m;
        }
    return true;
}

static bool ev_pack(OpCall *c)
{
    return ev_none(c);
} /* bytes come from eval_pack (const.c) */

/* ---- the model ---- */

static bool index_ok(OpCall *c, i64 i, i64 n, const char *what)
{
    return (i >= 0 && i < n) ||
           ev_fail(c->e, c->op, "%s %lld is not below %lld", what, (long long)i, (long long)n);
}

static bool ev_rows(OpCall *c)
{
    const Tensor *x = &c->in[0], *idx = &c->in[1];
    i64 cols = x->dim[1];
    size_t row = (size_t)cols * ev_esize(c->e, x->dt);
    for (i64 r = 0; r < idx->dim[0]; r++) {
        if (!index_ok(c, idx->i[r], x->dim[0], "row")) return false;
        memcpy((u8 *)c->out[0].p + (size_t)r * row, (const u8 *)x->p + (size_t)idx->i[r] * row,
               row);
    }
    return true;
}

static bool ev_embedding(OpCall *c)
{
    const Tensor *tokens = &c->in[0], *w = &c->in[1];
    i64 cols = w->dim[1];
    for (i64 t = 0; t < tokens->dim[0]; t++) {
        if (!index_ok(c, tokens->i[t], w->dim[0], "token")) return false;
        Scope s = ev_scope(c->e);
        Tensor row;
        bool ok = ev_fetch(c, 1, (Rect){tokens->i[t], 1, 0, cols}, &row);
        if (ok) memcpy(REAL(&c->out[0]) + t * cols, row.p, (size_t)cols * sizeof(real));
        ev_scope_end(c->e, s);
        if (!ok) return false;
    }
    return true;
}

static bool ev_rmsnorm(OpCall *c)
{
    const Tensor *x = &c->in[0];
    i64 cols = tensor_cols(x);
    real eps = (real)op_float(c->op, A_EPS);
    for (i64 r = 0; r < tensor_rows(x); r++) {
        const real *v = REAL(x) + r * cols;
        real *y = REAL(&c->out[0]) + r * cols, sum = 0;
        for (i64 k = 0; k < cols; k++)
            sum += v[k] * v[k];
        real f = 1 / MATH(sqrt)(sum / (real)cols + eps);
        for (i64 k = 0; k < cols; k++)
            y[k] = v[k] * f * (present(c, 1) ? REAL(&c->in[1])[k] : 1);
    }
    return true;
}

static real dot(const real *a, const real *b, i64 n)
{
    Lanes s0 = {0}, s1 = {0};
    i64 i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        s0 += LOAD(a + i) * LOAD(b + i);
        s1 += LOAD(a + i + LANES) * LOAD(b + i + LANES);
    }
    s0 += s1;
    real s = sum_lanes(&s0);
    for (; i < n; i++)
        s += a[i] * b[i];
    return s;
}

/* Four rows of a, `stride` apart, with one b. */
static void dot4(const real *a, i64 stride, const real *b, i64 n, real *out)
{
    Lanes s[4] = {{0}, {0}, {0}, {0}};
    i64 i = 0;
    for (; i + LANES <= n; i += LANES) {
        Lanes w = LOAD(b + i);
        for (int j = 0; j < 4; j++)
            s[j] += LOAD(a + j * stride + i) * w;
    }
    for (int j = 0; j < 4; j++) {
        out[j] = sum_lanes(&s[j]);
        for (i64 k = i; k < n; k++)
            out[j] += a[j * stride + k] * b[k];
    }
}

static i64 tile_rows(i64 cols)
{
    return WEIGHT_TILE / cols > 1 ? WEIGHT_TILE / cols : 1;
}

static bool ev_linear(OpCall *c)
{
    i64 rows = c->in[0].dim[0], k = c->in[0].dim[1], n = c->in[1].dim[0], step = tile_rows(k);
    const real *x = REAL(&c->in[0]);
    for (i64 n0 = 0; n0 < n; n0 += step) {
        i64 nr = n - n0 < step ? n - n0 : step;
        Scope s = ev_scope(c->e);
        Tensor w;
        bool ok = ev_fetch(c, 1, (Rect){n0, nr, 0, k}, &w);
        for (i64 j = 0; ok && j < nr; j++) {
            real bias = present(c, 2) ? REAL(&c->in[2])[n0 + j] : 0, *y = REAL(&c->out[0]) + n0 + j,
                 v[4];
            i64 t = 0;
            for (; t + 4 <= rows; t += 4) {
                dot4(x + t * k, k, REAL(&w) + j * k, k, v);
                for (i64 i = 0; i < 4; i++)
                    y[(t + i) * n] = v[i] + bias;
            }
            for (; t < rows; t++)
                y[t * n] = dot(x + t * k, REAL(&w) + j * k, k) + bias;
        }
        ev_scope_end(c->e, s);
        if (!ok) return false;
    }
    return true;
}

/* ---- integer linear ---- */

typedef struct QLinear {
    i64 k, group, groups;
    i64 block; /* products that can be summed in 32 bits whatever their values */
    i64 limit; /* bound of a group's sum: 32-bit signed; kernels hold a 16-bit operand as two byte
                  planes */
} QLinear;

static i64 max_abs(DType dt)
{
    const DTypeInfo *i = &dtype_info[dt];
    return -i->lo > i->hi ? -i->lo : i->hi;
}

static i64 dot_int(const int16_t *a, const int16_t *b, i64 n, i64 block)
{
    i64 sum = 0;
    for (i64 i = 0; i < n; i += block) {
        i64 m = n - i < block ? n - i : block;
        i32 s = 0;
        for (i64 j = 0; j < m; j++)
            s += (i32)a[i + j] * b[i + j];
        sum += s;
    }
    return sum;
}

static const int16_t *narrow(OpCall *c, const Tensor *t)
{
    i64 n = elems(t);
    int16_t *v = ev_scratch(c->e, n, sizeof *v);
    for (i64 i = 0; i < n; i++)
        v[i] = (int16_t)t->i[i];
    return v;
}

/* Sums of x over the groups of every row: [T, groups]. */
static const i64 *group_sums(OpCall *c, const QLinear *q)
{
    const Tensor *x = &c->in[0];
    i64 *sum = ev_scratch(c->e, x->dim[0] * q->groups, sizeof *sum);
    for (i64 t = 0; t < x->dim[0]; t++)
        for (i64 g = 0; g < q->groups; g++) {
            i64 s = 0;
            for (i64 k = g * q->group; k < (g + 1) * q->group && k < q->k; k++)
                s += x->i[t * q->k + k];
            sum[t * q->groups + g] = s;
        }
    return sum;
}

/* One tile of weight rows: in[2..4] of `tile` are its integers, scales and offsets. */
static bool qlinear_tile(OpCall *c, const QLinear *q, const Tensor *tile, i64 n0, const int16_t *xq,
                         const i64 *sums)
{
    const int16_t *wq = narrow(c, &tile[0]);
    const Tensor *xs = &c->in[1];
    i64 n = c->in[2].dim[0], xcols = xs->rank ? tensor_cols(xs) : 1, xrows = tensor_rows(xs);
    for (i64 t = 0; t < c->in[0].dim[0]; t++)
        for (i64 j = 0; j < tile[0].dim[0]; j++) {
            real y = present(c, 5) ? REAL(&c->in[5])[n0 + j] : 0;
            for (i64 g = 0; g < q->groups; g++) {
                i64 k = g * q->group, len = q->k - k < q->group ? q->k - k : q->group;
                i64 sum = dot_int(xq + t * q->k + k, wq + j * q->k + k, len, q->block);
                if (sum > q->limit || sum < -q->limit)
                    return ev_fail(c->e, c->op, "a sum of products does not fit 32 bits");
                real scale = REAL(xs)[(xrows == 1 ? 0 : t) * xcols + (xcols == 1 ? 0 : g)];
                real v = REAL(&tile[1])[j * q->groups + g] * (real)sum;
                if (tile[2].p)
                    v += REAL(&tile[2])[j * q->groups + g] * (real)sums[t * q->groups + g];
                y += scale * v;
            }
            REAL(&c->out[0])[t * n + n0 + j] = y;
        }
    return true;
}

static bool ev_qlinear(OpCall *c)
{
    QLinear q = {.k = c->in[0].dim[1]};
    q.group = group_of(c, q.k);
    q.groups = (q.k + q.group - 1) / q.group;
    i64 mx = max_abs(c->in[0].dt), mw = max_abs(c->in[2].dt);
    if (mx > 1 << 15 || mw > 1 << 15)
        return ev_fail(c->e, c->op, "multiplies integers of more than 16 bits");
    q.block = INT32_MAX / (mx * mw);
    q.limit = mx > 255 || mw > 255 ? (i64)INT32_MAX * 256 : INT32_MAX;
    const int16_t *xq = narrow(c, &c->in[0]);
    const i64 *sums = group_sums(c, &q);
    bool asym = c->nin > 4 && c->in[4].dt != DT_NONE;
    i64 n = c->in[2].dim[0], step = tile_rows(q.k);
    for (i64 n0 = 0; n0 < n; n0 += step) {
        i64 nr = n - n0 < step ? n - n0 : step;
        Scope s = ev_scope(c->e);
        Tensor tile[3] = {0};
        bool ok = ev_fetch(c, 2, (Rect){n0, nr, 0, q.k}, &tile[0]);
        ok = ok && ev_fetch(c, 3, (Rect){n0, nr, 0, q.groups}, &tile[1]);
        if (asym) ok = ok && ev_fetch(c, 4, (Rect){n0, nr, 0, q.groups}, &tile[2]);
        ok = ok && qlinear_tile(c, &q, tile, n0, xq, sums);
        ev_scope_end(c->e, s);
        if (!ok) return false;
    }
    return true;
}

#include "ir/eval_attention.h"

static bool ev_store(OpCall *c)
{
    const Tensor *x = &c->in[0];
    EvState *s = ev_state(c->e, c->op->in[1]);
    if (!s) return false;
    if (x->dim[0] > s->t[0].dim[0] || x->dim[1] != s->t[0].dim[1])
        return ev_fail(c->e, c->op, "%lld rows do not fit a state of %lld", (long long)x->dim[0],
                       (long long)s->t[0].dim[0]);
    s->rows = x->dim[0];
    return store_row(c, s, 0, x, 0, elems(x));
}

OpEval *const OP_EVAL[OP_COUNT] = {
    ev_none,
#define X(id, mnemonic, lo, hi, nout, flags, attrs, type, eval, tile, effect) eval,
#include "ir/ops.def"
#undef X
};
