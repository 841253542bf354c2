/* Quantised heads and KV caches: the qkv epilogue and the kernel `heads` (R3, the prefix's
 * positions, integer caches, integer queries), attention over every format of the cache, with a
 * prefix, to f32 and s8, and what norm, quant and hadamard write as s8. */
#include "tests/kernels/test_kernels.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { KV_F32, KV_F16, KV_S8, KV_S4, KV_U8, KV_U4 };

typedef struct Format {
    const char *name;
    int kv, lo, hi, minima;
    double top;
} Format;

static const Format formats[] = {
    {"f32", KV_F32, 0, 0, 0, 0},  {"f16", KV_F16, 0, 0, 0, 0},   {"s8", KV_S8, -128, 127, 0, 127.5},
    {"s4", KV_S4, -8, 7, 0, 7.5}, {"u8", KV_U8, 0, 255, 1, 255}, {"u4", KV_U4, 0, 15, 1, 15},
};

static size_t row_bytes(int kv, int D)
{
    static const int bits[] = {32, 16, 8, 4, 8, 4};
    return (size_t)(D * bits[kv] / 8);
}

static int read_int(const uint8_t *row, int kv, int d)
{
    if (kv == KV_S8 || kv == KV_U8) return kv == KV_S8 ? (int8_t)row[d] : row[d];
    const int n = row[d / 2] >> (d & 1 ? 4 : 0) & 15;
    return kv == KV_S4 && n > 7 ? n - 16 : n;
}

/* ---- attention ---- */

/* A cache of random rows: as the kernel reads it, and what it stands for. */
typedef struct Cache {
    void *rows;
    uint16_t *scales, *minima; /* [kv heads * ctx] */
    float *fixed;              /* [kv heads] */
    double *x;
} Cache;

static Cache random_cache(const Format *f, bool fixed, int kv_heads, int ctx, int D)
{
    const size_t rows = (size_t)(kv_heads * ctx), bytes = row_bytes(f->kv, D);
    Cache c = {kt_alloc(rows * bytes), kt_alloc(rows * 2), kt_alloc(rows * 2),
               kt_alloc((size_t)kv_heads * 4), kt_alloc(rows * (size_t)D * 8)};
    memset(c.rows, 0, rows * bytes);
    for (int g = 0; g < kv_heads; g++)
        c.fixed[g] = (float)((1.0 + 0.5 * kt_uniform()) / (f->hi + 1));
    for (size_t r = 0; r < rows; r++) {
        uint8_t *row = (uint8_t *)c.rows + r * bytes;
        const bool extreme = kt_int(0, 7) == 0;
        c.scales[r] = kt_to_f16((float)((1.0 + 0.5 * kt_uniform()) / (f->hi + 1)));
        c.minima[r] = kt_to_f16((float)(kt_uniform() - 1));
        const double s = (double)(fixed ? c.fixed[r / (size_t)ctx] : kt_f16(c.scales[r]));
        const double m = f->minima && !fixed ? (double)kt_f16(c.minima[r]) : 0;
        for (int d = 0; d < D; d++) {
            double *x = c.x + r * (size_t)D + d;
            if (f->kv < KV_S8) {
                const float v = (float)kt_uniform();
                const uint16_t h = kt_to_f16(v);
                memcpy(row + (f->kv ? 2 : 4) * d, f->kv ? (const void *)&h : (const void *)&v,
                       f->kv ? 2 : 4);
                *x = (double)(f->kv ? kt_f16(h) : v);
                continue;
            }
            const int q = extreme ? (kt_int(0, 1) ? f->hi : f->lo) : kt_int(f->lo, f->hi);
            if (f->hi > 15 || f->lo < -8)
                row[d] = (uint8_t)q;
            else
                row[d / 2] |= (uint8_t)((q & 15) << (d & 1 ? 4 : 0));
            *x = q * s + m;
        }
    }
    return c;
}

typedef struct Queries {
    void *in;
    float *scales; /* [heads] */
    double *x;
} Queries;

static Queries random_queries(bool ints, int T, int heads, int D)
{
    const size_t n = (size_t)(heads * D), stride = (n + 63) / 64 * 64;
    Queries q = {kt_alloc((size_t)T * (ints ? stride : 4 * n)), kt_alloc((size_t)heads * 4),
                 kt_alloc((size_t)T * n * 8)};
    for (int h = 0; h < heads; h++)
        q.scales[h] = (float)((1.0 + 0.5 * kt_uniform()) / 64);
    for (int t = 0; t < T; t++)
        for (size_t i = 0; i < n; i++) {
            const int v = kt_int(0, 15) ? kt_int(-128, 127) : kt_int(0, 1) * 255 - 128;
            const float f = (float)(2 * kt_uniform());
            if (ints)
                ((uint8_t *)q.in)[(size_t)t * stride + i] = (uint8_t)(v + 128);
            else
                ((float *)q.in)[(size_t)t * n + i] = f;
            q.x[(size_t)t * n + i] = ints ? v * (double)q.scales[i / (size_t)D] : (double)f;
        }
    return q;
}

typedef struct AttendCase {
    const Format *f;
    bool fixed, q8, s8; /* static scales, integer queries, integer result */
    int heads, kv_heads, D, T, pos, window, prefix;
} AttendCase;

static void attend_ref(const AttendCase *c, const Queries *q, const Cache *k, const Cache *v,
                       const double *pk, const double *pv, double scale, double *want)
{
    const int D = c->D, ctx = c->pos + c->T, group = c->heads / c->kv_heads;
    double *s = kt_alloc((size_t)(ctx + c->prefix) * 8);
    for (int t = 0; t < c->T; t++)
        for (int h = 0; h < c->heads; h++) {
            const int g = h / group, p = c->pos + t,
                      first = c->window && p >= c->window ? p - c->window + 1 : 0;
            const int n = c->prefix + p - first + 1;
            const double *x = q->x + (t * c->heads + h) * D;
            double *o = want + (t * c->heads + h) * D, top = -1e300, sum = 0;
#define ROW(prefix_rows, cache)                                                                    \
    (j < c->prefix ? (prefix_rows) + (j * c->kv_heads + g) * D                                     \
                   : (cache)->x + (size_t)(g * ctx + first + j - c->prefix) * (size_t)D)
            for (int j = 0; j < n; j++) {
                const double *y = ROW(pk, k);
                s[j] = 0;
                for (int d = 0; d < D; d++)
                    s[j] += x[d] * y[d] * scale;
                top = fmax(top, s[j]);
            }
            for (int d = 0; d < D; d++)
                o[d] = 0;
            for (int j = 0; j < n; j++) {
                const double *y = ROW(pv, v), e = exp(s[j] - top);
                sum += e;
                for (int d = 0; d < D; d++)
                    o[d] += e * y[d];
            }
#undef ROW
            for (int d = 0; d < D; d++)
                o[d] /= sum;
        }
}

static uint16_t *random_halves(size_t n, double *x)
{
    uint16_t *h = kt_alloc(n * 2 + 1);
    for (size_t i = 0; i < n; i++) {
        h[i] = kt_to_f16((float)kt_uniform());
        x[i] = (double)kt_f16(h[i]);
    }
    return h;
}

static void test_attend(const AttendCase *c)
{
    if (!tested("attend")) return;
    char what[200];
    snprintf(what, sizeof what,
             "%s attend %s %s q8 %d s8 %d heads %d/%d x %d T %d pos %d window %d prefix %d",
             lib.variant, c->f->name, c->fixed ? "static" : "dynamic", c->q8, c->s8, c->heads,
             c->kv_heads, c->D, c->T, c->pos, c->window, c->prefix);
    cases++;
    kt_seed((uint64_t)(c->heads * 1000 + c->D * 10 + c->T + c->pos + c->prefix));
    const double scale = 1.0 / sqrt((double)c->D);
    float *out_scale = kt_alloc(4);
    *out_scale = 0.01f;
    const KtConst consts[] = {{"heads", c->heads},
                              {"kv_heads", c->kv_heads},
                              {"head_dim", c->D},
                              {"window", c->window},
                              {"kv", c->f->kv},
                              {"kv_static", c->fixed},
                              {"q8", c->q8 ? 128 : 0},
                              {"prefix", c->prefix},
                              {"fmt", c->s8},
                              {"static", c->s8},
                              {"qlo", -8},
                              {"qhi", 7},
                              {"scale", scale}};
    kt_set(&lib, consts, COUNT(consts));
    const size_t n = (size_t)(c->heads * c->D), T = (size_t)c->T,
                 pre = (size_t)(c->prefix * c->kv_heads * c->D);
    const int ctx = c->pos + c->T;
    const Queries q = random_queries(c->q8, c->T, c->heads, c->D);
    const Cache k = random_cache(c->f, c->fixed, c->kv_heads, ctx, c->D);
    const Cache v = random_cache(c->f, c->fixed, c->kv_heads, ctx, c->D);
    double *pk = kt_alloc(pre * 8 + 8), *pv = kt_alloc(pre * 8 + 8), *want = kt_alloc(T * n * 8);
    uint16_t *hk = random_halves(pre, pk), *hv = random_halves(pre, pv);
    attend_ref(c, &q, &k, &v, pk, pv, scale, want);
    const size_t stride = (n + 63) / 64 * 64, bytes = c->s8 ? T * stride : T * n * 4;
    void *out[2];
    for (int pass = 0; pass < 2; pass++) {
        PfqArgs a = {.in = {q.in, k.rows, v.rows},
                     .aux = {hk, hv, k.fixed, v.fixed, q.scales, out_scale},
                     .T = c->T,
                     .pos = c->pos,
                     .ctx = ctx};
        if (!c->fixed)
            a.in[3] = k.scales, a.in[4] = k.minima, a.in[5] = v.scales, a.in[6] = v.minima;
        a.out[0] = out[pass] = filled(bytes);
        run("attend", &a, pass ? 3 : 1, 0, c->D);
    }
    if (memcmp(out[0], out[1], bytes)) fail(what, "1 and 3 threads differ");
    if (!c->s8) {
        compare(what, out[0], want, T * n, 1e-5);
    } else {
        int *got = kt_alloc(T * n * sizeof *got);
        for (size_t i = 0; i < T * n; i++) {
            got[i] = ((uint8_t *)out[0])[i / n * stride + i % n] - 128;
            want[i] /= (double)*out_scale;
        }
        compare_ints(what, got, want, T * n, -8, 7);
    }
    kt_free_all();
}

static void test_attends(void)
{
    static const int shapes[][3] = {{9, 3, 64},   {4, 4, 80}, {5, 1, 8},   {6, 2, 100},
                                    {12, 2, 128}, {3, 1, 2},  {2, 1, 256}, {3, 3, 34}};
    static const int spans[][2] = {{1, 0}, {1, 1},  {1, 15},   {1, 64}, {1, 300},
                                   {2, 0}, {7, 62}, {16, 130}, {70, 5}};
    static const int prefixes[] = {0, 1, 3, 17};
    for (size_t f = 0; f < COUNT(formats); f++)
        for (size_t i = 0; i < COUNT(shapes); i++)
            for (size_t j = 0; j < COUNT(spans); j++)
                for (int v = 0; v < 8; v++) {
                    AttendCase c = {.f = &formats[f],
                                    .fixed = v & 1,
                                    .q8 = v & 2,
                                    .s8 = v & 4,
                                    .heads = shapes[i][0],
                                    .kv_heads = shapes[i][1],
                                    .D = shapes[i][2],
                                    .T = spans[j][0],
                                    .pos = spans[j][1]};
                    if ((c.f->kv < KV_S8 || c.f->minima) && c.fixed)
                        continue; /* floats have no scales, minima are never constant */
                    c.window = (int)(i + j + (size_t)v) % 3 ? 0 : (int)(i + j) % 4 * 20 + 1;
                    c.prefix = prefixes[(i + 3 * j + (size_t)v) % COUNT(prefixes)];
                    test_attend(&c);
                }
}

/* ---- heads and the qkv epilogue ---- */

typedef struct HeadCase {
    const Format *f;
    bool fixed, q8, r3;
    int heads, kv_heads, D, T, prefix, norm;
} HeadCase;

enum { POS = 5, EXTRA = 2, COLS = 8 };

/* H v / sqrt(D), if r3. */
static void head_r3(bool r3, const float *v, int D, double *out)
{
    for (int i = 0; i < D; i++) {
        out[i] = r3 ? 0 : (double)v[i];
        for (int j = 0; r3 && j < D; j++)
            out[i] += (__builtin_parity((unsigned)(i & j)) ? -1 : 1) * (double)v[j] / sqrt(D);
    }
}

/* One row of a cache against what it should stand for. */
static void check_row(const char *what, const HeadCase *c, const void *row, const double *x,
                      float fixed, const uint16_t *scale, const uint16_t *minimum)
{
    const Format *f = c->f;
    const int D = c->D;
    if (f->kv < KV_S8) {
        float got[256];
        for (int d = 0; d < D; d++) {
            uint16_t h;
            memcpy(&h, (const char *)row + (f->kv ? 2 * d : 4 * d), 2);
            if (f->kv)
                got[d] = kt_f16(h);
            else
                memcpy(&got[d], (const char *)row + 4 * d, 4);
        }
        compare(what, got, x, (size_t)D, f->kv ? 1e-3 : 2e-6);
        return;
    }
    double s = (double)fixed, m = 0, top = 0, least = x[0], most = x[0], want[256];
    int got[256];
    for (int d = 0; d < D; d++) {
        top = fmax(top, fabs(x[d]));
        least = fmin(least, x[d]);
        most = fmax(most, x[d]);
        got[d] = read_int(row, f->kv, d);
    }
    if (!c->fixed) {
        s = (f->minima ? most - least : top) * 0.9 / f->top;
        if (fabs((double)kt_f16(*scale) - s) > s * 6e-4 + 1e-6 * top / f->top + 0x1p-24)
            fail(what, "another scale");
        if (f->minima) {
            m = (double)kt_f16(*minimum), s = (double)kt_f16(*scale);
            if (fabs(m - least * 0.9) > fabs(least) * 6e-4) fail(what, "another minimum");
        }
    }
    for (int d = 0; d < D; d++)
        want[d] = (x[d] - m) / s;
    compare_ints(what, got, want, (size_t)D, f->lo, f->hi);
}

/* The caches that `c` writes, all of them filled with a pattern. */
typedef struct Out {
    uint8_t *q, *cache[2];
    uint16_t *scales[2], *minima[2];
} Out;

static Out make_out(const HeadCase *c, size_t ctx)
{
    const size_t rows = (size_t)c->kv_heads * ctx, n = (size_t)(c->heads * c->D);
    Out o = {.q = filled((size_t)c->T * (c->q8 ? (n + 63) / 64 * 64 : 4 * n))};
    for (int i = 0; i < 2; i++) {
        o.cache[i] = filled(rows * row_bytes(c->f->kv, c->D));
        o.scales[i] = filled(rows * 2);
        o.minima[i] = filled(rows * 2);
    }
    return o;
}

static void set_head_consts(const HeadCase *c, int kv, int r3, int q8)
{
    const KtConst consts[] = {{"N", (c->heads + 2 * c->kv_heads) * c->D},
                              {"K", COLS},
                              {"epi", 3},
                              {"heads", c->heads},
                              {"kv_heads", c->kv_heads},
                              {"head_dim", c->D},
                              {"rot", c->D},
                              {"qk_norm", c->norm},
                              {"kv", kv},
                              {"eps", 1e-5},
                              {"prefix", c->prefix},
                              {"r3", r3},
                              {"q8", q8},
                              {"kv_static", c->fixed},
                              {"kv_lo", c->f->lo},
                              {"kv_top", c->f->top},
                              {"kv_clip", 0.9},
                              {"cache", 1}};
    kt_set(&lib, consts, COUNT(consts));
}

static void check_out(const char *what, const HeadCase *c, const Out *o, const Out *plain,
                      const float *const fixed[3], size_t ctx)
{
    const size_t D = (size_t)c->D, n = (size_t)c->heads * D, stride = (n + 63) / 64 * 64;
    const size_t bytes = row_bytes(c->f->kv, c->D);
    double x[256];
    for (size_t t = 0; t < (size_t)c->T; t++) {
        for (size_t h = 0; h < (size_t)c->heads; h++) {
            head_r3(c->r3, (const float *)plain->q + t * n + h * D, c->D, x);
            int got[256];
            for (size_t d = 0; c->q8 && d < D; d++) {
                got[d] = o->q[t * stride + h * D + d] - 128;
                x[d] /= (double)fixed[2][h];
            }
            if (c->q8)
                compare_ints(what, got, x, D, -128, 127);
            else
                compare(what, (const float *)o->q + t * n + h * D, x, D, 2e-6);
        }
        for (size_t i = 0; i < 2 * (size_t)c->kv_heads; i++) {
            const size_t w = i / (size_t)c->kv_heads, g = i % (size_t)c->kv_heads,
                         row = g * ctx + POS + t;
            head_r3(c->r3 && w == 0, (const float *)plain->cache[w] + row * D, c->D, x);
            check_row(what, c, o->cache[w] + row * bytes, x, fixed[w][g], &o->scales[w][row],
                      &o->minima[w][row]);
        }
    }
    for (size_t i = 0; i < 2 * (size_t)c->kv_heads * ctx; i++) {
        const size_t w = i / ((size_t)c->kv_heads * ctx), row = i % ((size_t)c->kv_heads * ctx),
                     p = row % ctx;
        if (p >= POS && p < POS + (size_t)c->T) continue;
        for (size_t d = 0; d < bytes; d++)
            if (o->cache[w][row * bytes + d] != 0x5a || o->scales[w][row] != 0x5a5a ||
                o->minima[w][row] != 0x5a5a) {
                fail(what, "wrote outside its rows of the cache");
                break;
            }
    }
}

/* The qkv epilogue against itself with an f32 cache, f32 queries and no R3, which test_kernels.c
 * tests; then the kernel `heads` on the keys. */
static void test_qkv(const HeadCase *c)
{
    if (!tested("linear.f32")) return;
    char what[200];
    snprintf(what, sizeof what, "%s qkv %s %s q8 %d r3 %d heads %d/%d x %d T %d prefix %d norm %d",
             lib.variant, c->f->name, c->fixed ? "static" : "dynamic", c->q8, c->r3, c->heads,
             c->kv_heads, c->D, c->T, c->prefix, c->norm);
    cases++;
    kt_seed((uint64_t)(c->heads * 1000 + c->D * 10 + c->T + c->prefix));
    const int N = (c->heads + 2 * c->kv_heads) * c->D;
    const size_t ctx = (size_t)c->T + POS + EXTRA;
    const KtWeight w = kt_weight(KT_F32, N, COLS, 1);
    float *x = random_floats((size_t)(c->T * COLS)), *freq = random_floats((size_t)c->D);
    float *gain = random_floats((size_t)c->D), *fixed[3];
    for (int i = 0; i < 3; i++) {
        fixed[i] = random_floats((size_t)c->heads);
        for (int h = 0; h < c->heads; h++)
            fixed[i][h] = (1.5f + 0.5f * fixed[i][h]) / (float)(i == 2 ? 128 : c->f->hi + 1);
    }
    PfqArgs a = {.in = {x},
                 .w = w.packed,
                 .aux = {NULL, freq, gain, gain, fixed[0], fixed[1], fixed[2]},
                 .T = c->T,
                 .pos = POS,
                 .ctx = (int32_t)ctx};
    HeadCase plain = *c;
    plain.f = &formats[0], plain.q8 = false;
    Out ref = make_out(&plain, ctx), out[2];
    set_head_consts(&plain, KV_F32, 0, 0);
    a.out[0] = ref.q, a.out[1] = ref.cache[0], a.out[2] = ref.cache[1];
    run("linear.f32", &a, 1, COLS, c->D);
    set_head_consts(c, c->f->kv, c->r3, c->q8 ? 128 : 0);
    for (int pass = 0; pass < 2; pass++) {
        out[pass] = make_out(c, ctx);
        a.out[0] = out[pass].q;
        for (int i = 0; i < 2; i++)
            a.out[1 + i] = out[pass].cache[i], a.out[3 + 2 * i] = out[pass].scales[i],
                      a.out[4 + 2 * i] = out[pass].minima[i];
        run("linear.f32", &a, pass ? 3 : 1, COLS, c->D);
    }
    const size_t cache_bytes = (size_t)c->kv_heads * ctx * row_bytes(c->f->kv, c->D);
    if (memcmp(out[0].cache[0], out[1].cache[0], cache_bytes) ||
        memcmp(out[0].cache[1], out[1].cache[1], cache_bytes))
        fail(what, "1 and 3 threads differ");
    check_out(what, c, &out[0], &ref, (const float *const *)fixed, ctx);
    kt_free_all();
}

static void test_qkvs(void)
{
    static const int shapes[][3] = {{9, 3, 64},  {4, 4, 80}, {5, 1, 8},  {6, 2, 100},
                                    {3, 1, 128}, {2, 2, 2},  {2, 1, 256}};
    for (size_t f = 0; f < COUNT(formats); f++)
        for (size_t i = 0; i < COUNT(shapes); i++)
            for (int v = 0; v < 8; v++) {
                HeadCase c = {.f = &formats[f],
                              .fixed = v & 1,
                              .q8 = v & 2,
                              .r3 = v & 4,
                              .heads = shapes[i][0],
                              .kv_heads = shapes[i][1],
                              .D = shapes[i][2],
                              .T = v % 3 ? 1 + 2 * v : 70,
                              .prefix = v % 4,
                              .norm = (int)i % 2};
                if ((c.f->kv < KV_S8 || c.f->minima) && c.fixed) continue;
                c.r3 = c.r3 && (c.D & (c.D - 1)) == 0;
                test_qkv(&c);
            }
}

/* The kernel `heads`: a cache and integer rows against its own f32 rows. */
static void test_unfused(const Format *f, bool fixed, int D, int r3)
{
    if (!tested("heads")) return;
    enum { HEADS = 3, T = 4 };
    const HeadCase c = {
        .f = f, .fixed = fixed, .heads = HEADS, .kv_heads = HEADS, .D = D, .T = T, .prefix = 2};
    char what[120];
    snprintf(what, sizeof what, "%s heads %s %s x %d r3 %d", lib.variant, f->name,
             fixed ? "static" : "dynamic", D, r3);
    cases++;
    kt_seed((uint64_t)D);
    const size_t n = (size_t)(HEADS * D), ctx = T + POS + EXTRA, stride = (n + 63) / 64 * 64;
    float *x = random_floats(T * n), *freq = random_floats((size_t)D),
          *scales = random_floats(HEADS), *y = filled(T * n * 4);
    for (int h = 0; h < HEADS; h++)
        scales[h] = (1.5f + 0.5f * scales[h]) / (float)(f->hi + 1);
    PfqArgs a = {
        .in = {x}, .aux = {NULL, freq, NULL, scales}, .T = T, .pos = POS, .ctx = (int32_t)ctx};
    set_head_consts(&c, f->kv, r3, 0);
    const size_t bytes = row_bytes(f->kv, D);
    uint8_t *cache = filled(HEADS * ctx * bytes), *ints = filled(T * stride);
    uint16_t *s = filled(HEADS * ctx * 2), *m = filled(HEADS * ctx * 2);
    a.out[0] = cache, a.out[1] = s, a.out[2] = m;
    run("heads", &a, 2, 0, D);
    const KtConst rows[] = {
        {"heads", HEADS}, {"head_dim", D}, {"rot", D}, {"prefix", 2}, {"r3", r3}};
    kt_set(&lib, rows, COUNT(rows));
    a.out[0] = y;
    run("heads", &a, 2, 0, D);
    const KtConst q8[] = {{"heads", HEADS}, {"head_dim", D}, {"rot", D},
                          {"prefix", 2},    {"r3", r3},      {"q8", 127}};
    kt_set(&lib, q8, COUNT(q8));
    a.out[0] = ints;
    run("heads", &a, 2, 0, D);
    for (size_t t = 0; t < T; t++)
        for (size_t h = 0; h < HEADS; h++) {
            double want[256];
            int got[256];
            for (size_t d = 0; d < (size_t)D; d++)
                want[d] = (double)y[t * n + h * (size_t)D + d];
            const size_t row = h * ctx + POS + t;
            check_row(what, &c, cache + row * bytes, want, scales[h], &s[row], &m[row]);
            for (size_t d = 0; d < (size_t)D; d++) {
                got[d] = ints[t * stride + h * (size_t)D + d] - 128;
                want[d] /= (double)scales[h];
            }
            compare_ints(what, got, want, (size_t)D, -127, 127);
        }
    kt_free_all();
}

/* ---- norm, quant, hadamard to s8 ---- */

/* Against the same kernel's f32 (quant: its input). */
static void test_quantised(const char *kernel, int K, int N, int base, int T, const Format *f,
                           bool fixed)
{
    if (!tested(kernel)) return;
    char what[120];
    snprintf(what, sizeof what, "%s %s to %s, %s, K %d N %d T %d", lib.variant, kernel, f->name,
             fixed ? "static" : "dynamic", K, N, T);
    cases++;
    kt_seed((uint64_t)(K + N + T));
    const size_t n = (size_t)(T * K), stride = ((size_t)K + 63) / 64 * 64;
    const KtWeight b = kt_weight(KT_F32, base, base, 1);
    float *x = random_floats(n), *gain = random_floats((size_t)K), *y = x,
          *scale = filled((size_t)T * 4);
    float *fixed_scale = kt_alloc(4);
    *fixed_scale = 1.5f / (float)(f->hi + 1);
    if (T > 1) memset(x, 0, (size_t)K * 4); /* a row of zeros, and what no integer holds */
    x[n - 1] = 1e30f * (strcmp(kernel, "quant") == 0), x[n - 2] = -x[n - 1];
    const double clip = 0.9;
    PfqArgs a = {.in = {x}, .w = base > 1 ? b.packed : NULL, .aux = {gain, fixed_scale}, .T = T};
    for (int pass = 0; pass < 2; pass++) {
        const KtConst consts[] = {{"K", K},       {"N", N},          {"base", base},
                                  {"eps", 1e-5},  {"scale", 0.3},    {"gain", 1},
                                  {"fmt", pass},  {"static", fixed}, {"qlo", f->lo},
                                  {"qhi", f->hi}, {"qtop", f->top},  {"clip", clip}};
        kt_set(&lib, consts, COUNT(consts));
        a.out[0] = filled(pass ? (size_t)T * stride : n * 4);
        a.out[1] = scale;
        if (pass == 0 && strcmp(kernel, "quant") == 0) continue;
        run(kernel, &a, 2, K, 0);
        if (pass == 0) y = a.out[0];
    }
    int *got = kt_alloc((size_t)K * sizeof *got);
    double *want = kt_alloc((size_t)K * 8);
    for (size_t t = 0; t < (size_t)T; t++) {
        double top = 0;
        for (size_t k = 0; k < (size_t)K; k++)
            top = fmax(top, fabs((double)y[t * (size_t)K + k]));
        const double s = fixed ? (double)*fixed_scale : top * clip / f->top;
        if (!fixed && fabs((double)scale[t] - s) > 1e-6 * s) fail(what, "another scale");
        for (size_t k = 0; k < (size_t)K; k++) {
            got[k] = ((uint8_t *)a.out[0])[t * stride + k] - 128;
            want[k] = top > 0 ? (double)y[t * (size_t)K + k] / s : 0;
        }
        compare_ints(what, got, want, (size_t)K, f->lo, f->hi);
    }
    kt_free_all();
}

static void test_quantisers(void)
{
    static const int cols[] = {8, 17, 64, 100, 576},
                     blocks[][3] = {/* K, N, base */
                                    {64, 64, 1},    {1536, 1536, 12},   {240, 80, 20},
                                    {14, 7, 7},     {172, 172, 43},     {8, 8, 1},
                                    {1024, 512, 1}, {14336, 14336, 28}, {32768, 32768, 1}};
    for (int v = 0; v < 8; v++) {
        const Format *f = &formats[v & 1 ? KV_S8 : KV_S4];
        const int T = v & 4 ? 5 : 1;
        for (size_t k = 0; k < COUNT(cols); k++) {
            test_quantised("norm", cols[k], 0, 1, T, f, v & 2);
            test_quantised("quant", cols[k], 0, 1, T, f, v & 2);
        }
        for (size_t k = 0; k < COUNT(blocks); k++)
            test_quantised("hadamard", blocks[k][0], blocks[k][1], blocks[k][2], T, f, v & 2);
    }
}

void test_kv(void)
{
    test_quantisers();
    test_attends();
    test_qkvs();
    static const int dims[] = {2, 64, 100, 128};
    for (size_t f = 0; f < COUNT(formats); f++)
        for (size_t d = 0; d < COUNT(dims); d++)
            for (int v = 0; v < 4; v++)
                if (!(v & 1) || (formats[f].kv >= KV_S8 && !formats[f].minima))
                    test_unfused(&formats[f], v & 1, dims[d], v & 2 && dims[d] != 100);
}
