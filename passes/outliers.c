#include "passes/outliers.h"

#include <math.h>

enum { WORDS = 3 }; /* of a token: id, sequence, position */

Outliers outliers_new(Arena *a, i64 layers, i64 sequences)
{
    return (Outliers){layers, sequences, NEWN(a, i32, layers * sequences * OUTLIER_BINS),
                      NEWN(a, OutlierToken, layers * sequences * OUTLIER_TOP)};
}

static i64 bin_of(float ratio)
{
    const float at = ratio > 0 ? floorf(2 * log2f(ratio)) + (float)OUTLIER_ONE : 0;
    return (i64)fminf(fmaxf(at, 0), (float)(OUTLIER_BINS - 1));
}

/* Keeps `top` sorted; of equal ones the earlier stays in front. */
static void insert(OutlierToken *top, OutlierToken t)
{
    i64 at = OUTLIER_TOP;
    while (at > 0 && t.ratio > top[at - 1].ratio)
        at--;
    if (at == OUTLIER_TOP) return;
    memmove(top + at + 1, top + at, (size_t)(OUTLIER_TOP - 1 - at) * sizeof *top);
    top[at] = t;
}

void outliers_add(Outliers *o, i64 layer, OutlierToken t)
{
    const i64 slot = layer * o->sequences + t.sequence;
    o->bins[slot * OUTLIER_BINS + bin_of(t.ratio)]++;
    insert(o->top + slot * OUTLIER_TOP, t);
}

void outliers_put(PassCx *cx, CalibCache *cache, const char *when, const Outliers *o)
{
    const i64 bins_dim[] = {o->layers, OUTLIER_BINS}, top_dim[] = {o->layers, OUTLIER_TOP, WORDS};
    i32 *bins = NEWN(cx->a, i32, o->layers * OUTLIER_BINS),
        *token = NEWN(cx->a, i32, o->layers * OUTLIER_TOP * WORDS);
    float *ratio = NEWN(cx->a, float, o->layers *OUTLIER_TOP);
    for (i64 l = 0; l < o->layers; l++) {
        OutlierToken top[OUTLIER_TOP] = {{0}};
        for (i64 s = 0; s < o->sequences; s++) {
            const i64 slot = l * o->sequences + s;
            for (i64 i = 0; i < OUTLIER_BINS; i++)
                bins[l * OUTLIER_BINS + i] += o->bins[slot * OUTLIER_BINS + i];
            for (i64 i = 0; i < OUTLIER_TOP; i++)
                insert(top, o->top[slot * OUTLIER_TOP + i]);
        }
        for (i64 i = 0; i < OUTLIER_TOP; i++) {
            const i64 at = l * OUTLIER_TOP + i;
            ratio[at] = top[i].ratio;
            memcpy(token + at * WORDS,
                   (const i32[WORDS]){top[i].id, top[i].sequence, top[i].position},
                   WORDS * sizeof *token);
        }
    }
    calib_put(cache, arena_printf(cx->a, "%s.bins", when), DT_I32, 2, bins_dim, bins);
    calib_put(cache, arena_printf(cx->a, "%s.ratio", when), DT_F32, 2, top_dim, ratio);
    calib_put(cache, arena_printf(cx->a, "%s.token", when), DT_I32, 3, top_dim, token);
}

static const void *get(PassCx *cx, CalibCache *cache, const char *when, const char *what, i64 n)
{
    Type t = {0};
    const void *data;
    return calib_get(cache, arena_printf(cx->a, "%s.%s", when, what), &t, &data) &&
                   type_elems(&t) == n
               ? data
               : NULL;
}

static void report_layer(PassCx *cx, const char *when, i32 layer, const i32 *bins,
                         const float *ratio, const i32 *token)
{
    StrBuf b = {.a = cx->a}, t = {.a = cx->a};
    sb_str(&t, "");
    for (i64 i = 0; i < OUTLIER_BINS; i++)
        sb_printf(&b, "%s%d", i ? " " : "", bins[i]);
    for (i64 i = 0; i < OUTLIER_TOP && ratio[i] > 0; i++)
        sb_printf(&t, "%s%.4g %d %d %d", i ? " " : "", (double)ratio[i], token[i * WORDS],
                  token[i * WORDS + 1], token[i * WORDS + 2]);
    ir_meta_float(cx->m, arena_printf(cx->a, "outlier.%s.%d", when, layer), (double)ratio[0]);
    ir_meta_str(cx->m, arena_printf(cx->a, "outlier_bins.%s.%d", when, layer), b.p);
    ir_meta_str(cx->m, arena_printf(cx->a, "outlier_tokens.%s.%d", when, layer), t.p);
}

bool outliers_report(PassCx *cx, CalibCache *cache, const char *when, const Sites *down)
{
    const i64 n = down->all.n;
    const i32 *bins = get(cx, cache, when, "bins", n * OUTLIER_BINS),
              *token = get(cx, cache, when, "token", n * OUTLIER_TOP * WORDS);
    const float *ratio = get(cx, cache, when, "ratio", n * OUTLIER_TOP);
    if (!bins || !token || !ratio) return false;
    for (i64 i = 0; i < n; i++)
        report_layer(cx, when, down->all.at[i].layer, bins + i * OUTLIER_BINS,
                     ratio + i * OUTLIER_TOP, token + i * OUTLIER_TOP * WORDS);
    return true;
}
