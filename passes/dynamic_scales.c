/* dynamic-scales: quantisers with scales of every token, computed at run time and clipped by a
 * factor (QuaRot, arXiv:2404.00456; PrefixQuant-O1): inputs of linears by token, keys and values by
 * token and head.
 */
#include "passes/calib/calib.h"
#include "passes/quantisers.h"

typedef struct DynamicOptions {
    DType a, kv;
    float clip, kv_clip;
    bool full, kv_asym, search;
} DynamicOptions;

static DynamicOptions read_options(const PassCx *cx)
{
    bool asym = pass_int(cx, "kvasym") != 0;
    return (DynamicOptions){
        .a = quantiser_type(pass_int(cx, "a"), DT_S4, DT_S8),
        .kv = quantiser_type(pass_int(cx, "kv"), asym ? DT_U4 : DT_S4, asym ? DT_U8 : DT_S8),
        .clip = (float)pass_num(cx, "clip"),
        .kv_clip = (float)pass_num(cx, "kvclip"),
        .full = pass_int(cx, "full") != 0,
        .kv_asym = asym,
        .search = pass_int(cx, "search") != 0};
}

static Quantiser *make_quantisers(PassCx *cx, const Sites *s, const DynamicOptions *o)
{
    Quantiser *q = NEWN(cx->a, Quantiser, s->all.n);
    for (u32 i = 0; i < s->all.n; i++) {
        const Site *site = &s->all.at[i];
        bool kv = site->cls >= SITE_K, asym = kv && o->kv_asym;
        q[i] = (Quantiser){.site = site, .dynamic = true, .asym = asym, .full = o->full && !asym};
        q[i].dt = kv ? o->kv : o->a;
        q[i].factor = NEWN(cx->a, float, site->heads);
        for (i64 h = 0; h < site->heads; h++)
            q[i].factor[h] = kv ? o->kv_clip : o->clip;
    }
    return q;
}

/* Factors of the sites, one each, searched or as they are, and how exact they are. */
static bool measure(PassCx *cx, const Sites *s, Quantiser *q)
{
    bool found;
    CalibCache *cache = calib_cache(cx, &found);
    if (!cache) return false;
    const i64 n = s->all.n;
    if (!found) {
        const SearchOptions o = {.search = pass_int(cx, "search") != 0,
                                 .joint = pass_int(cx, "joint") != 0};
        float *factor = NEWN(cx->a, float, n), *sqnr = NEWN(cx->a, float, n);
        if (!scale_search(cx, s, q, &o, sqnr)) return false;
        for (i64 i = 0; i < n; i++)
            factor[i] = q[i].factor[0];
        calib_put(cache, "factors", DT_F32, 1, &n, factor);
        calib_put(cache, "sqnr", DT_F32, 1, &n, sqnr);
        if (!calib_commit(cache)) return false;
    }
    Type t_factor, t_sqnr;
    const void *factors, *sqnr;
    if (!calib_get(cache, "factors", &t_factor, &factors) ||
        !calib_get(cache, "sqnr", &t_sqnr, &sqnr) || type_elems(&t_factor) != n ||
        type_elems(&t_sqnr) != n)
        return pass_fail(cx, NULL, "cached results do not fit the model; remove the cache");
    for (u32 i = 0; i < s->all.n; i++)
        for (i64 h = 0; h < s->all.at[i].heads; h++)
            q[i].factor[h] = ((const float *)factors)[i];
    scale_report(cx, s, sqnr);
    return true;
}

bool pass_dynamic_scales(PassCx *cx)
{
    DynamicOptions o = read_options(cx);
    Sites s;
    if (!sites_find(cx, (o.a ? SITES_INPUTS : 0) | (o.kv ? SITES_KV : 0), true, &s)) return false;
    Quantiser *q = make_quantisers(cx, &s, &o);
    bool text = cx->calib->tokens != NULL; /* clip factors need none */
    bool run = (o.search || text) && !(cx->calib->assumed > 0);
    if (s.all.n && run && !measure(cx, &s, q)) return false;
    for (u32 i = 0; i < s.all.n; i++)
        if (!quantiser_emit(cx, &q[i])) return false;
    return true;
}
