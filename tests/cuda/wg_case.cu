/* The reference of wg_case.h: integers by a plain loop, epilogues as codegen/cuda/heads.cuh, kv.cuh
 * and math.cuh have them, a value at a time, so that all but silu are equal bit by bit.
 */
#include "tests/cuda/wg_case.h"

#include "codegen/cuda/fragments.cuh"
#include "codegen/cuda/heads.cuh"
#include "codegen/cuda/math.cuh"
#include "codegen/cuda/tiles.cuh"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct Rng {
    uint64_t s;
    uint64_t next()
    {
        s += 0x9e3779b97f4a7c15u;
        uint64_t z = s;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }
    int32_t below(int32_t n) { return (int32_t)((next() >> 32) * (uint64_t)n >> 32); }
    float uniform(float lo, float hi) { return lo + (hi - lo) * (float)(next() >> 40) * 0x1p-24f; }
};

struct Work { /* a case being made */
    WgCase *c;
    const WgSpec *s;
    int8_t *w, *x;           /* [rows of W][K], [T][K], the integers themselves */
    int32_t rows;            /* of W, padded */
    const float *scale, *xs; /* [rows], [T] */
    const float *bias;
    int threads;
};

extern "C" int32_t wg_cap(const WgSpec *s)
{
    return s->cap ? s->cap : (s->T + 7) / 8 * 8 + 8;
}

static WgBuffer buffer(size_t bytes)
{
    WgBuffer b = {aligned_alloc(1024, (bytes + 2047) / 1024 * 1024), bytes};
    memset(b.at, 0x55, (bytes + 2047) / 1024 * 1024);
    return b;
}

static WgBuffer floats(Rng &r, size_t n, float lo, float hi)
{
    WgBuffer b = buffer(n * 4);
    for (size_t i = 0; i < n; i++)
        ((float *)b.at)[i] = r.uniform(lo, hi);
    return b;
}

/* ---- operands ---- */

/* The matrix's row that holds row n of the logical one, or -1 for padding. */
static bool is_padding(const WgSpec *s, int32_t n)
{
    if (s->epi == PFQ_EPI_SWIGLU) return n / 64 * 32 + n % 32 >= s->N / 2;
    return n >= s->N;
}

/* Of a number that is one. */
static uint16_t bf16_of(float x)
{
    return (uint16_t)(__float_as_uint(x) >> 16);
}

static void make_weights(Work &k, Rng &r)
{
    const WgSpec *s = k.s;
    const int32_t K = s->K, top = s->bits == 4 ? 15 : s->bits == 8 ? 255 : 31;
    k.rows = s->epi == PFQ_EPI_SWIGLU ? (s->N / 2 + 31) / 32 * 64 : (s->N + 63) / 64 * 64;
    k.w = (int8_t *)calloc((size_t)k.rows, (size_t)K);
    const size_t packed = (size_t)pfq_frag_bytes(s->bits, k.rows, K);
    k.c->w = buffer(packed + (size_t)k.rows * 4);
    uint8_t *to = (uint8_t *)k.c->w.at;
    memset(to, 0, packed + (size_t)k.rows * 4);
    float *scale = (float *)(to + packed);
    for (int32_t n = 0; n < k.rows; n++) {
        if (is_padding(s, n)) continue;
        scale[n] = s->bits == 16
                       ? 0x1p-7f /* so small that all sums are exact */
                       : r.uniform(0.5f, 1.5f) / (float)top * 16.0f / sqrtf((float)K) / 64.0f;
        for (int32_t i = 0; i < K; i++) {
            const int32_t v = r.below(top + 1) - (top + 1) / 2;
            bool low;
            uint8_t *p = to + pfq_frag_at(s->bits, K, n, i, &low);
            k.w[(size_t)n * (size_t)K + (size_t)i] = (int8_t)v;
            if (s->bits == 16)
                *(uint16_t *)p = bf16_of((float)v * 0x1p-7f);
            else if (s->bits == 8)
                *p = (uint8_t)v;
            else
                *p |= (uint8_t)(low ? v & 15 : (v & 15) << 4);
        }
    }
    k.scale = scale;
}

static void make_activations(Work &k, Rng &r)
{
    const WgSpec *s = k.s;
    const int32_t cap = wg_cap(s),
                  top = s->bits == 16 ? 31
                        : s->xshift   ? 15
                                      : 255,
                  width = s->bits == 16 ? 2 : 1;
    k.x = (int8_t *)calloc((size_t)s->T, (size_t)s->K);
    k.c->in[0] = buffer((size_t)pfq_tile_bytes(cap, width * s->K));
    uint8_t *to = (uint8_t *)k.c->in[0].at;
    for (int32_t t = 0; t < s->T; t++)
        for (int32_t i = 0; i < pfq_up(s->K, 128 / width); i++) {
            const int32_t v = i < s->K ? r.below(top + 1) - (top + 1) / 2 : 0;
            if (s->bits == 16)
                *(uint16_t *)(to + pfq_tile_at(cap, t, 2 * i)) = bf16_of((float)v);
            else
                to[pfq_tile_at(cap, t, i)] = (uint8_t)(v << s->xshift);
            if (i < s->K) k.x[(size_t)t * (size_t)s->K + (size_t)i] = (int8_t)v;
        }
    if (!s->fixed && s->bits != 16) {
        k.c->in[1] = floats(r, (size_t)s->T, 0.5f, 2.0f);
        k.xs = (const float *)k.c->in[1].at;
    }
}

/* ---- values ---- */

static float value(const Work &k, int32_t n, int32_t t)
{
    const int8_t *w = k.w + (size_t)n * (size_t)k.s->K, *x = k.x + (size_t)t * (size_t)k.s->K;
    int32_t sum = 0;
    for (int32_t i = 0; i < k.s->K; i++)
        sum += w[i] * x[i];
    const float v = (float)sum * (k.xs ? k.scale[n] * k.xs[t] : k.scale[n]);
    return k.bias ? v + k.bias[n] : v;
}

static void put(const Work &k, size_t at, float v)
{
    const size_t width = (size_t)k.s->N / 2;
    if (k.s->tiles)
        *(uint16_t *)((uint8_t *)k.c->out[0].at +
                      pfq_tile_at(wg_cap(k.s), (int32_t)(at / width), (int32_t)(at % width * 2))) =
            (uint16_t)pfq_two_bf16(v, 0.0f);
    else if (k.s->half)
        ((uint16_t *)k.c->out[0].at)[at] = pfq_f_to_h(v);
    else
        ((float *)k.c->out[0].at)[at] = v;
}

static float residual(const Work &k, size_t at)
{
    return k.s->half ? pfq_h_to_f(((const uint16_t *)k.c->in[2].at)[at])
                     : ((const float *)k.c->in[2].at)[at];
}

static void plain_row(const Work &k, int32_t t)
{
    const WgSpec *s = k.s;
    const bool glu = s->epi == PFQ_EPI_SWIGLU;
    const int32_t width = glu ? s->N / 2 : s->N;
    for (int32_t n = 0; n < width; n++) {
        const size_t at = (size_t)t * (size_t)width + (size_t)n;
        if (glu)
            put(k, at,
                pfq_act(s->act, value(k, pfq_glu_row(n, 0), t)) * value(k, pfq_glu_row(n, 1), t));
        else
            put(k, at, value(k, n, t) + (s->epi == PFQ_EPI_RESIDUAL ? residual(k, at) : 0.0f));
    }
}

/* ---- heads ---- */

static int64_t cache_row(const WgSpec *s)
{
    static const int32_t eighths[] = {32, 16, 8, 4, 8, 4};
    return (int64_t)s->head_dim * eighths[s->kv] / 8;
}
static bool cache_minima(const WgSpec *s)
{
    return !s->kv_static && s->kv >= PFQ_KV_U8;
}

static void turn(const Work &k, float *v, const float *gain, int32_t pos)
{
    const WgSpec *s = k.s;
    const int32_t D = s->head_dim, half = s->rot / 2;
    if (s->qk_norm) {
        /* As the kernel sums: 32 columns, then over lanes 1, 2 apart. */
        float part[4] = {};
        for (int32_t d = 0; d < D; d++)
            part[d / 32] = fmaf(v[d], v[d], part[d / 32]);
        const float sum = D == 128 ? (part[0] + part[1]) + (part[2] + part[3]) : part[0] + part[1];
        const float r = 1.0f / sqrtf(sum / (float)D + 1e-5f);
        for (int32_t d = 0; d < D; d++)
            v[d] = v[d] * r * gain[d];
    }
    for (int32_t i = 0; i < half; i++) {
        float sine, cosine;
        pfq_sincos((double)((const float *)k.c->aux[1].at)[i] * (double)(pos + WG_PREFIX), &sine,
                   &cosine);
        const float x = v[i], y = v[half + i];
        v[i] = x * cosine - y * sine;
        v[half + i] = y * cosine + x * sine;
    }
    if (!s->r3) return;
    const float scale = 1.0f / sqrtf((float)D);
    for (int32_t d = 0; d < D; d++)
        v[d] *= scale;
    for (int32_t h = 1; h < D; h *= 2)
        for (int32_t d = 0; d < D; d++)
            if (!(d & h)) {
                const float x = v[d], y = v[d + h];
                v[d] = x + y;
                v[d + h] = x - y;
            }
}

static void keep(const Work &k, const float *v, int32_t which, int32_t g, PfqRow at)
{
    const WgSpec *s = k.s;
    const int64_t row = (int64_t)g * WG_CTX + at.pos, size = cache_row(s);
    uint8_t *to = (uint8_t *)k.c->out[1 + which].at + k.c->slot * (size_t)at.slot + row * size;
    const bool nibbles = s->kv == PFQ_KV_S4 || s->kv == PFQ_KV_U4, positive = s->kv >= PFQ_KV_U8;
    float inv = 0.0f, minimum = 0.0f;
    if (s->kv < PFQ_KV_S8) {
        for (int32_t d = 0; d < s->head_dim; d++)
            if (s->kv == PFQ_KV_F16)
                ((uint16_t *)to)[d] = pfq_f_to_h(v[d]);
            else
                ((float *)to)[d] = v[d];
        return;
    }
    float lo = 3e38f, hi = -3e38f, most = 0.0f;
    for (int32_t d = 0; d < s->head_dim; d++)
        lo = fminf(lo, v[d]), hi = fmaxf(hi, v[d]), most = fmaxf(most, fabsf(v[d]));
    uint16_t *scales =
                 (uint16_t *)((uint8_t *)k.c->out[3 + 2 * which].at + k.c->slot * (size_t)at.slot),
             *minima =
                 (uint16_t *)((uint8_t *)k.c->out[4 + 2 * which].at + k.c->slot * (size_t)at.slot);
    const float top = nibbles ? (positive ? 15.0f : 7.0f) : positive ? 255.0f : 127.0f;
    if (s->kv_static) {
        inv = pfq_inv(((const float *)k.c->aux[4 + which].at)[g]);
    } else if (cache_minima(s)) {
        scales[row] = pfq_f_to_h((hi - lo) * 1.0f / top);
        minima[row] = pfq_f_to_h(lo * 1.0f);
        inv = 1.0f / pfq_h_to_f(scales[row]), minimum = pfq_h_to_f(minima[row]);
    } else {
        scales[row] = pfq_f_to_h(most / top);
        inv = most > 0.0f ? top / most : 0.0f;
    }
    for (int32_t d = 0; d < s->head_dim; d++) {
        const int32_t q = pfq_quant(cache_minima(s) ? v[d] - minimum : v[d], inv,
                                    positive  ? 0
                                    : nibbles ? -8
                                              : -127,
                                    (int32_t)top);
        if (!nibbles)
            to[d] = (uint8_t)q;
        else
            to[d / 2] = (uint8_t)(d % 2 ? (to[d / 2] & 15) | q << 4 : (q & 15));
    }
}

static void heads_row(const Work &k, int32_t t)
{
    const WgSpec *s = k.s;
    const int32_t D = s->head_dim;
    const PfqRow at = ((const PfqRow *)k.c->rows.at)[t];
    for (int32_t h = 0; h < s->heads + 2 * s->kv_heads; h++) {
        float v[128];
        const int32_t kv = h - s->heads;
        for (int32_t d = 0; d < D; d++)
            v[d] = value(k, h * D + d, t);
        if (kv < s->kv_heads) turn(k, v, (const float *)k.c->aux[kv < 0 ? 2 : 3].at, at.pos);
        if (kv >= 0) {
            keep(k, v, kv >= s->kv_heads, kv % s->kv_heads, at);
            continue;
        }
        const float inv = pfq_inv(((const float *)k.c->aux[6].at)[h]);
        for (int32_t d = 0; d < D; d++)
            if (s->q8)
                ((uint8_t *)k.c->out[0]
                     .at)[(size_t)t * (size_t)pfq_up(s->heads * D, 64) + (size_t)(h * D + d)] =
                    (uint8_t)(pfq_quant(v[d], inv, -s->q8, 127) + 128);
            else
                ((float *)k.c->out[0]
                     .at)[((size_t)t * (size_t)s->heads + (size_t)h) * (size_t)D + (size_t)d] =
                    v[d];
    }
}

static void make_heads(Work &k, Rng &r)
{
    const WgSpec *s = k.s;
    WgCase *c = k.c;
    const size_t D = (size_t)s->head_dim;
    c->rows = buffer(8 * (size_t)s->T);
    for (int32_t t = 0; t < s->T; t++)
        ((PfqRow *)c->rows.at)[t] = {t % WG_CTX, t / WG_CTX};
    c->aux[1] = floats(r, D / 2, 0.001f, 1.0f);
    c->aux[2] = floats(r, D, 0.5f, 1.5f);
    c->aux[3] = floats(r, D, 0.5f, 1.5f);
    c->aux[4] = floats(r, (size_t)s->kv_heads, 0.05f, 0.2f);
    c->aux[5] = floats(r, (size_t)s->kv_heads, 0.05f, 0.2f);
    c->aux[6] = floats(r, (size_t)s->heads, 0.01f, 0.02f);
    if (s->turns) {
        c->aux[7] = buffer((size_t)s->T * D * 4);
        for (int32_t t = 0; t < s->T; t++)
            for (int32_t i = 0; i < s->rot / 2; i++) {
                float *to = (float *)c->aux[7].at + (t * (s->rot / 2) + i) * 2;
                pfq_sincos((double)((const float *)c->aux[1].at)[i] *
                               (double)(((const PfqRow *)c->rows.at)[t].pos + WG_PREFIX),
                           to + 1, to);
            }
    }
    const size_t q = s->q8 ? (size_t)pfq_up(s->heads * s->head_dim, 64) : 4 * D * (size_t)s->heads;
    c->out[0] = buffer(q * (size_t)s->T);
    c->slot = (size_t)s->kv_heads * WG_CTX * (size_t)cache_row(s);
    for (int i = 1; i < 3; i++)
        c->out[i] = buffer(c->slot * (size_t)((s->T + WG_CTX - 1) / WG_CTX));
    for (int i = 3; i < 7 && !s->kv_static; i++)
        c->out[i] = buffer(c->slot * (size_t)((s->T + WG_CTX - 1) / WG_CTX));
}

/* ---- threads ---- */

struct Part {
    const Work *k;
    int32_t from, step;
};

static void *part(void *arg)
{
    const Part *p = (const Part *)arg;
    for (int32_t t = p->from; t < p->k->s->T; t += p->step)
        if (p->k->s->epi == PFQ_EPI_QKV)
            heads_row(*p->k, t);
        else
            plain_row(*p->k, t);
    return NULL;
}

static void all_rows(const Work &k)
{
    pthread_t id[64];
    Part parts[64];
    for (int i = 0; i < k.threads; i++) {
        parts[i] = {&k, i, k.threads};
        if (i) pthread_create(&id[i], NULL, part, &parts[i]);
    }
    part(&parts[0]);
    for (int i = 1; i < k.threads; i++)
        pthread_join(id[i], NULL);
}

extern "C" WgCase *wg_case(const WgSpec *s, uint64_t seed, int threads)
{
    Rng r = {seed};
    WgCase *c = (WgCase *)calloc(1, sizeof *c);
    c->spec = *s;
    c->ctx = WG_CTX;
    void *bias = NULL;
    Work k = {c, s, NULL, NULL, 0, NULL, NULL, NULL, threads < 64 ? threads : 64};
    make_weights(k, r);
    make_activations(k, r);
    if (s->bias) {
        const WgBuffer by_row = floats(r, (size_t)k.rows, -1.0f, 1.0f);
        c->aux[0] = buffer(by_row.bytes);
        for (int32_t n = 0; n < k.rows; n++) { /* of swiglu 16 of gate, 16 of up, ... */
            const int32_t ch = n / 64 * 32 + n % 32,
                          to = s->epi == PFQ_EPI_SWIGLU ? ch / 16 * 32 + n / 32 % 2 * 16 + ch % 16
                                                        : n;
            ((float *)c->aux[0].at)[to] = ((const float *)by_row.at)[n];
        }
        k.bias = (const float *)by_row.at;
        bias = by_row.at;
    }
    if (s->epi == PFQ_EPI_QKV) {
        make_heads(k, r);
    } else {
        const size_t n = (size_t)s->T * (size_t)(s->epi == PFQ_EPI_SWIGLU ? s->N / 2 : s->N);
        c->out[0] = buffer(s->tiles ? (size_t)wg_cap(s) * (size_t)s->N : n * (s->half ? 2 : 4));
        if (s->epi == PFQ_EPI_RESIDUAL) {
            c->in[2] = floats(r, n, -2.0f, 2.0f);
            for (size_t i = 0; s->half && i < n; i++)
                ((uint16_t *)c->in[2].at)[i] = pfq_f_to_h(((float *)c->in[2].at)[i]);
            if (s->half) c->in[2].bytes /= 2;
        }
    }
    all_rows(k);
    free(k.w);
    free(k.x);
    free(bias);
    return c;
}

extern "C" void wg_case_free(WgCase *c)
{
    for (int i = 0; i < 8; i++) {
        free(c->out[i].at);
        free(c->aux[i].at);
        if (i < 3) free(c->in[i].at);
    }
    free(c->w.at);
    free(c->rows.at);
    free(c);
}

extern "C" void wg_constants(const WgSpec *s, void set(const char *, double))
{
    static const float kv_top[] = {127, 127, 127, 7, 255, 15};
    const struct {
        const char *name;
        int32_t v;
    } all[] = {{"N", s->N},
               {"K", s->K},
               {"epi", s->epi},
               {"static", s->fixed},
               {"half", s->half},
               {"xshift", s->xshift},
               {"bias", s->bias},
               {"act", s->act},
               {"heads", s->heads},
               {"kv_heads", s->kv_heads},
               {"head_dim", s->head_dim},
               {"rot", s->rot},
               {"qk_norm", s->qk_norm},
               {"r3", s->r3},
               {"q8", s->q8},
               {"kv", s->kv},
               {"kv_static", s->kv_static},
               {"turns", s->turns},
               {"cap", wg_cap(s)},
               {"tiles", s->tiles ? wg_cap(s) : 0},
               {"prefix", WG_PREFIX},
               {"kv_lo", s->kv == PFQ_KV_S4 ? -8 : -127}};
    for (const auto &x : all)
        set(x.name, x.v);
    set("eps", 1e-5);
    set("rope_scale", 1);
    set("kv_clip", 1);
    set("kv_top", (double)kv_top[s->kv]);
}

static bool differs(const WgCase *c, int i, const void *got, size_t at, size_t *width)
{
    const WgSpec *s = &c->spec;
    const bool values = i == 0 && s->epi != PFQ_EPI_QKV;
    *width = values && (s->half || s->tiles) ? 2 : values ? 4 : 1;
    const uint8_t *x = (const uint8_t *)c->out[i].at + at, *y = (const uint8_t *)got + at;
    if (!memcmp(x, y, *width)) return false;
    if (!values || s->epi != PFQ_EPI_SWIGLU) return true;
    /* silu is approximated */
    if (s->tiles) {
        const float u = __uint_as_float((uint32_t)*(const uint16_t *)x << 16),
                    v = __uint_as_float((uint32_t)*(const uint16_t *)y << 16);
        return !(fabsf(u - v) <= 1e-7f + fabsf(u) * 0x1p-7f);
    }
    const float a = s->half ? pfq_h_to_f(*(const uint16_t *)x) : *(const float *)x,
                b = s->half ? pfq_h_to_f(*(const uint16_t *)y) : *(const float *)y;
    return !(fabsf(a - b) <= 1e-7f + fabsf(a) * (s->half ? 1.1e-3f : 4e-6f));
}

extern "C" size_t wg_wrong(const WgCase *c, int i, const void *got, char *what, size_t cap)
{
    size_t wrong = 0, width = 1;
    for (size_t at = 0; at < c->out[i].bytes; at += width)
        if (differs(c, i, got, at, &width) && !wrong++) {
            uint32_t x = 0, y = 0;
            memcpy(&x, (const uint8_t *)c->out[i].at + at, width);
            memcpy(&y, (const uint8_t *)got + at, width);
            snprintf(what, cap, "out[%d] element %zu: %08x, expected %08x", i, at / width, y, x);
        }
    return wrong;
}
