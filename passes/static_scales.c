/* static-scales: quantisers with literal scales on what the linears of layers read (one scale per
 * tensor) and on keys, values and queries (one per head). Scales come from statistics of the
 * calibration text, then from a search of clip factors; the module is edited when all are known.
 */
#include "passes/calib/calib.h"
#include "passes/quantisers.h"

typedef struct StaticOptions {
    DType a, kv, q; /* DT_NONE: left alone */
    float max;      /* > 0: the magnitude to assume everywhere, without calibration */
    SearchOptions search;
} StaticOptions;

static StaticOptions read_options(const PassCx *cx)
{
    double max = pass_num(cx, "max");
    DType kv = quantiser_type(pass_int(cx, "kv"), DT_S4, DT_S8);
    return (StaticOptions){
        .a = quantiser_type(pass_int(cx, "a"), DT_S4, DT_S8),
        .kv = kv,
        .q = pass_int(cx, "q") && kv ? DT_S8 : DT_NONE, /* integer queries are for integer keys */
        .max = max > 0 ? (float)max : cx->calib->assumed,
        .search = {.search = pass_int(cx, "search") != 0, .joint = pass_int(cx, "joint") != 0}};
}

static u32 classes_of(const StaticOptions *o)
{
    return (o->a ? SITES_INPUTS : 0) | (o->kv ? SITES_KV : 0) | (o->q ? 1u << SITE_Q : 0);
}

static Quantiser *make_quantisers(PassCx *cx, const Sites *s, const StaticOptions *o)
{
    Quantiser *q = NEWN(cx->a, Quantiser, s->all.n);
    for (u32 i = 0; i < s->all.n; i++) {
        const Site *site = &s->all.at[i];
        q[i] = (Quantiser){.site = site, .full = true};
        q[i].dt = site->cls == SITE_Q ? o->q : site->cls >= SITE_K ? o->kv : o->a;
        q[i].factor = NEWN(cx->a, float, site->heads);
        for (i64 h = 0; h < site->heads; h++)
            q[i].factor[h] = 1;
    }
    return q;
}

static u32 scale_count(const Sites *s)
{
    u32 n = 0;
    for (u32 i = 0; i < s->all.n; i++)
        n += (u32)s->all.at[i].heads;
    return n;
}

static bool measure(PassCx *cx, const Sites *s, Quantiser *q, const StaticOptions *o,
                    CalibCache *cache)
{
    const i64 scales = scale_count(s), sites = s->all.n;
    float *scale = NEWN(cx->a, float, scales), *sqnr = NEWN(cx->a, float, sites), *to = scale;
    if (!scale_statistics(cx, s, q) || !scale_search(cx, s, q, &o->search, sqnr)) return false;
    for (u32 i = 0; i < s->all.n; i++)
        for (i64 h = 0; h < s->all.at[i].heads; h++)
            *to++ = q[i].init[h] * q[i].factor[h];
    calib_put(cache, "scales", DT_F32, 1, &scales, scale);
    calib_put(cache, "sqnr", DT_F32, 1, &sites, sqnr);
    return calib_commit(cache);
}

/* Scales from the results, new or found; as Quantiser.init, so that new and found are the same. */
static bool take_results(PassCx *cx, const Sites *s, Quantiser *q, CalibCache *cache)
{
    Type t_scale, t_sqnr;
    const void *scales, *sqnr;
    if (!calib_get(cache, "scales", &t_scale, &scales) ||
        !calib_get(cache, "sqnr", &t_sqnr, &sqnr) || type_elems(&t_scale) != scale_count(s) ||
        type_elems(&t_sqnr) != s->all.n)
        return pass_fail(cx, NULL, "cached results do not fit the model; remove the cache");
    const float *from = scales;
    for (u32 i = 0; i < s->all.n; i++) {
        q[i].init = from;
        from += s->all.at[i].heads;
        for (i64 h = 0; h < s->all.at[i].heads; h++)
            q[i].factor[h] = 1;
    }
    scale_report(cx, s, sqnr);
    return true;
}

static void assume(PassCx *cx, const Sites *s, Quantiser *q, float max)
{
    for (u32 i = 0; i < s->all.n; i++) {
        float *init = NEWN(cx->a, float, s->all.at[i].heads);
        for (i64 h = 0; h < s->all.at[i].heads; h++)
            init[h] = quantiser_scale(&q[i], max);
        q[i].init = init;
    }
}

bool pass_static_scales(PassCx *cx)
{
    StaticOptions o = read_options(cx);
    Sites s;
    if (!sites_find(cx, classes_of(&o), true, &s)) return false;
    if (!s.all.n) return true;
    Quantiser *q = make_quantisers(cx, &s, &o);
    if (o.max > 0)
        assume(cx, &s, q, o.max);
    else {
        bool found;
        CalibCache *cache = calib_cache(cx, &found);
        if (!cache || (!found && !measure(cx, &s, q, &o, cache)) || !take_results(cx, &s, q, cache))
            return false;
    }
    for (u32 i = 0; i < s.all.n; i++)
        if (!quantiser_emit(cx, &q[i])) return false;
    return true;
}
