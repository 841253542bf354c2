/* What the ops of attention compute, over `real`: included by eval_ops.h. Prefix rows come first
 * and no window hides them; positions count them, the cache's rows do not.
 */

static bool ev_rope(OpCall *c)
{
    const Tensor *x = &c->in[0], *freqs = &c->in[2];
    i64 heads = x->dim[1], d = x->dim[2], half = freqs->dim[0];
    real mscale = (real)op_float(c->op, A_MSCALE);
    if (2 * half > d)
        return ev_fail(c->e, c->op, "%lld frequencies for heads of %lld", (long long)half,
                       (long long)d);
    for (i64 t = 0; t < x->dim[0]; t++)
        for (i64 i = 0; i < half; i++) {
            real angle = (real)c->in[1].i[t] * REAL(freqs)[i];
            real cs = MATH(cos)(angle) * mscale, sn = MATH(sin)(angle) * mscale;
            for (i64 h = 0; h < heads; h++) {
                const real *v = REAL(x) + (t * heads + h) * d;
                real *y = REAL(&c->out[0]) + (t * heads + h) * d;
                y[i] = v[i] * cs - v[i + half] * sn;
                y[i + half] = v[i + half] * cs + v[i] * sn;
            }
        }
    for (i64 r = 0; r < x->dim[0] * heads; r++)
        for (i64 i = 2 * half; i < d; i++)
            REAL(&c->out[0])[r * d + i] = REAL(x)[r * d + i];
    return true;
}

/* Rows of keys or values that one head sees: row j is at p + j * stride. */
typedef struct HeadRows {
    const real *p;
    i64 stride;
} HeadRows;

/* [0]: the constant prefix, positions 0..prefix-1; [1]: the cache, whose row 0 is position prefix.
 */
typedef struct HeadView {
    HeadRows k[2], v[2];
    const real *q[2];       /* as it multiplies the rows of k */
    real factor[2];         /* of the products */
    const real *row_factor; /* one more factor for each row of k[1]; NULL: none */
    i64 prefix, d;
} HeadView;

/* Keys 0.. of what is seen: the whole prefix, then positions from lo on. */
static const real *seen_row(const HeadRows *rows, const HeadView *h, i64 j, i64 lo)
{
    bool cached = j >= h->prefix;
    const HeadRows *r = &rows[cached];
    return r->p + (cached ? lo - h->prefix + j - h->prefix : j) * r->stride;
}

/* y = softmax(factor * q.k) v over the prefix and positions lo..pos, lo >= prefix. score: room for
 * all of them. */
static void attend_row(const HeadView *h, i64 lo, i64 pos, real *score, real *y)
{
    real top = -INFINITY, sum = 0;
    i64 n = h->prefix + pos - lo + 1;
    for (i64 j = 0; j < n; j++) {
        bool cached = j >= h->prefix;
        real f = h->factor[cached];
        if (cached && h->row_factor) f *= h->row_factor[lo - h->prefix + j - h->prefix];
        score[j] = f * dot(h->q[cached], seen_row(h->k, h, j, lo), h->d);
        top = score[j] > top ? score[j] : top;
    }
    for (i64 i = 0; i < h->d; i++)
        y[i] = 0;
    for (i64 j = 0; j < n; j++) {
        real p = MATH(exp)(score[j] - top);
        const real *v = seen_row(h->v, h, j, lo);
        sum += p;
        for (i64 i = 0; i < h->d; i++)
            y[i] += p * v[i];
    }
    for (i64 i = 0; i < h->d; i++)
        y[i] /= sum;
}

enum { ABSENT = 63 }; /* an operand that no attention has */

typedef struct KvCache { /* element (head g, row j, i) is at g * head_stride + j * row_stride + i */
    const Tensor *k, *v;
    i64 heads, capacity, head_stride, row_stride;
    u32 ks, vs; /* operands that scale k and v; an offset follows each */
    u32 qs;
    u32 prefix_k, prefix_v;
    i64 prefix;
} KvCache;

/* The scale or offset (operand k) of row j of head g: a constant for all rows or a state. */
static real row_param(const OpCall *c, u32 k, i64 g, i64 j, real absent)
{
    if (!present(c, k)) return absent;
    const Tensor *t = &c->in[k];
    if (t->rank == 3) return REAL(t)[g * t->dim[1] + j];
    return REAL(t)[elems(t) == 1 ? 0 : g];
}

/* Rows [0, n) of head g of a cache of integers as floats, dequantized by operands `scale` and
 * `scale` + 1, or as they are. */
static HeadRows int_rows(OpCall *c, const KvCache *kv, const Tensor *t, u32 scale, i64 g, i64 n,
                         bool raw)
{
    i64 d = c->in[0].dim[2];
    real *rows = ev_scratch(c->e, n * d, sizeof *rows);
    for (i64 j = 0; j < n; j++) {
        const i32 *q = t->i + g * kv->head_stride + j * kv->row_stride;
        real s = raw ? 1 : row_param(c, scale, g, j, 1),
             m = raw ? 0 : row_param(c, scale + 1, g, j, 0);
        for (i64 i = 0; i < d; i++)
            rows[j * d + i] = (real)q[i] * s + m;
    }
    return (HeadRows){rows, d};
}

static HeadRows cache_rows(OpCall *c, const KvCache *kv, const Tensor *t, u32 scale, i64 g, i64 n,
                           bool raw)
{
    if (dtype_info[t->dt].is_float)
        return (HeadRows){REAL(t) + g * kv->head_stride, kv->row_stride};
    return int_rows(c, kv, t, scale, g, n, raw);
}

/* Integers of q and k are multiplied as they are, their scales afterwards: the sums are exact. */
static void view_head(OpCall *c, const KvCache *kv, i64 g, i64 n, HeadView *h)
{
    bool raw = present(c, kv->qs) && !dtype_info[kv->k->dt].is_float && !present(c, kv->ks + 1);
    h->k[1] = cache_rows(c, kv, kv->k, kv->ks, g, n, raw);
    h->v[1] = cache_rows(c, kv, kv->v, kv->vs, g, n, false);
    h->row_factor = NULL;
    if (raw) {
        real *f = ev_scratch(c->e, n, sizeof *f);
        for (i64 j = 0; j < n; j++)
            f[j] = row_param(c, kv->ks, g, j, 1);
        h->row_factor = f;
    }
    if (!kv->prefix) return;
    h->k[0] = (HeadRows){REAL(&c->in[kv->prefix_k]) + g * h->d, kv->heads * h->d};
    h->v[0] = (HeadRows){REAL(&c->in[kv->prefix_v]) + g * h->d, kv->heads * h->d};
}

/* The scale of q[t, head], whose shape broadcasts to [T, heads, 1]. */
static real query_scale(const OpCall *c, u32 k, i64 t, i64 head)
{
    const Tensor *s = &c->in[k];
    i64 heads = s->rank > 1 ? s->dim[s->rank - 2] : 1, rows = s->rank > 2 ? s->dim[0] : 1;
    return REAL(s)[(rows == 1 ? 0 : t) * heads + (heads == 1 ? 0 : head)];
}

/* The row of q as floats, and how it multiplies the keys. tmp: room for two rows. */
static void view_query(const OpCall *c, const KvCache *kv, i64 t, i64 head, real *tmp, HeadView *h)
{
    real scale = (real)op_float(c->op, A_SCALE);
    i64 at = (t * c->in[0].dim[1] + head) * h->d;
    h->factor[0] = h->factor[1] = scale;
    if (!present(c, kv->qs)) {
        h->q[0] = h->q[1] = REAL(&c->in[0]) + at;
        return;
    }
    real s = query_scale(c, kv->qs, t, head);
    for (i64 i = 0; i < h->d; i++) {
        tmp[h->d + i] = (real)c->in[0].i[at + i];
        tmp[i] = tmp[h->d + i] * s;
    }
    h->q[0] = h->q[1] = tmp;
    if (!h->row_factor) return;
    h->q[1] = tmp + h->d;
    h->factor[1] = scale * s;
}

/* The cache's row for a position behind the prefix. */
static bool cache_row(OpCall *c, i64 pos, i64 prefix, i64 capacity, i64 *row)
{
    *row = pos - prefix;
    if (pos >= 0 && pos < prefix)
        return ev_fail(c->e, c->op, "position %lld lies in the prefix of %lld", (long long)pos,
                       (long long)prefix);
    return index_ok(c, pos, prefix + capacity, "position");
}

/* All rows of q [T, heads, d]. */
static bool attend_all(OpCall *c, const Tensor *pos, const KvCache *kv)
{
    const Tensor *q = &c->in[0];
    i64 heads = q->dim[1], d = q->dim[2], window = op_int(c->op, A_WINDOW), rows = 0, row;
    if (heads % kv->heads)
        return ev_fail(c->e, c->op, "%lld heads do not divide over %lld", (long long)heads,
                       (long long)kv->heads);
    for (i64 t = 0; t < q->dim[0]; t++) {
        if (!cache_row(c, pos->i[t], kv->prefix, kv->capacity, &row)) return false;
        rows = row + 1 > rows ? row + 1 : rows;
    }
    HeadView h = {.d = d, .prefix = kv->prefix};
    real *score = ev_scratch(c->e, kv->prefix + rows, sizeof *score),
         *tmp = ev_scratch(c->e, 2 * d, sizeof *tmp);
    i64 share = heads / kv->heads;
    for (i64 g = 0; g < kv->heads; g++) {
        Scope s = ev_scope(c->e);
        view_head(c, kv, g, rows, &h);
        for (i64 t = 0; t < q->dim[0]; t++) {
            i64 p = pos->i[t], lo = window > 0 ? p - window + 1 : 0;
            for (i64 n = g * share; n < (g + 1) * share; n++) {
                view_query(c, kv, t, n, tmp, &h);
                attend_row(&h, lo > kv->prefix ? lo : kv->prefix, p, score,
                           REAL(&c->out[0]) + (t * heads + n) * d);
            }
        }
        ev_scope_end(c->e, s);
    }
    return true;
}

static bool ev_attention(OpCall *c)
{
    const Tensor *k = &c->in[1], *v = &c->in[2], *pos = &c->in[3];
    i64 row = k->dim[1] * k->dim[2], to;
    EvState *s = ev_cache(c->e, op_int(c->op, A_CACHE), k->dim[1], k->dim[2]);
    if (!s) return false;
    KvCache kv = {&s->t[0],
                  &s->t[1],
                  .heads = k->dim[1],
                  .capacity = s->t[0].dim[0],
                  .head_stride = k->dim[2],
                  .row_stride = row,
                  .ks = ABSENT,
                  .vs = ABSENT,
                  .qs = ABSENT,
                  .prefix_k = 4,
                  .prefix_v = 5,
                  .prefix = present(c, 4) ? c->in[4].dim[0] : 0};
    for (i64 t = 0; t < k->dim[0]; t++) {
        if (!cache_row(c, pos->i[t], kv.prefix, kv.capacity, &to)) return false;
        memcpy(REAL(&s->t[0]) + to * row, REAL(k) + t * row, (size_t)row * sizeof(real));
        memcpy(REAL(&s->t[1]) + to * row, REAL(v) + t * row, (size_t)row * sizeof(real));
    }
    return attend_all(c, pos, &kv);
}

/* Stores n elements of x in a state: floats rounded to its type, integers as they are. */
static bool store_row(OpCall *c, EvState *s, i64 to, const Tensor *x, i64 from, i64 n)
{
    Tensor row = {.dt = s->t[0].dt, .rank = 1, .dim = {n}};
    if (dtype_info[row.dt].is_float != dtype_info[x->dt].is_float)
        return ev_fail(c->e, c->op, "%s does not go into a state of %s", dtype_info[x->dt].name,
                       dtype_info[row.dt].name);
    if (!dtype_info[row.dt].is_float) {
        memcpy(s->t[0].i + to, x->i + from, (size_t)n * sizeof *x->i);
        return true;
    }
    row.p = REAL(&s->t[0]) + to;
    memcpy(row.p, REAL(x) + from, (size_t)n * sizeof(real));
    ev_round(c->e, &row);
    return true;
}

/* Operand x [T, g, n] goes to rows pos - prefix of the state that is operand `state`. */
static bool append_rows(OpCall *c, u32 x, u32 state)
{
    const Tensor *v = &c->in[x];
    i64 heads = v->dim[1], d = v->dim[2], prefix = op_int(c->op, A_PREFIX), row;
    EvState *s = ev_state(c->e, c->op->in[state]);
    if (!s) return false;
    i64 capacity = s->t[0].dim[1];
    if (s->t[0].dim[0] != heads || s->t[0].dim[2] != d)
        return ev_fail(c->e, c->op, "its operands and states differ in shape");
    for (i64 t = 0; t < v->dim[0]; t++) {
        if (!cache_row(c, c->in[2].i[t], prefix, capacity, &row)) return false;
        for (i64 h = 0; h < heads; h++)
            if (!store_row(c, s, (h * capacity + row) * d, v, (t * heads + h) * d, d)) return false;
    }
    return true;
}

static bool ev_kv_append(OpCall *c)
{
    static const u8 to[13] = {[0] = 3, [1] = 4, [5] = 9, [6] = 10, [7] = 11, [8] = 12};
    for (u32 k = 0; k < 9; k++)
        if (to[k] && present(c, k) && !append_rows(c, k, to[k])) return false;
    return true;
}

/* States may have been made when a symbol of their shapes had another value. */
static bool states_agree(const OpCall *c)
{
    const Tensor *k = &c->in[2], *v = &c->in[3];
    bool ok = c->in[0].dim[2] == k->dim[2];
    for (u32 i = 0; i < 3; i++)
        ok = ok && k->dim[i] == v->dim[i];
    for (u32 s = 5; s < 9; s++)
        if (present(c, s) && c->in[s].rank == 3)
            ok = ok && c->in[s].dim[0] == k->dim[0] && c->in[s].dim[1] == k->dim[1];
    return ok;
}

static bool ev_attend(OpCall *c)
{
    const Tensor *k = &c->in[2], *v = &c->in[3];
    if (!states_agree(c)) return ev_fail(c->e, c->op, "its operands and states differ in shape");
    KvCache kv = {k,
                  v,
                  .heads = k->dim[0],
                  .capacity = k->dim[1],
                  .head_stride = k->dim[1] * k->dim[2],
                  .row_stride = k->dim[2],
                  .ks = 5,
                  .vs = 7,
                  .qs = 4,
                  .prefix_k = 9,
                  .prefix_v = 10,
                  .prefix = op_int(c->op, A_PREFIX)};
    return attend_all(c, &c->in[1], &kv);
}
