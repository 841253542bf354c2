/* Quantisers of what linears and attentions read: where they sit in @main, what they do to floats,
 * and the ops that they become. Shared by prefix, static-scales and dynamic-scales; internal to
 * passes/.
 *
 * A site is a value of @main that a quantiser may stand behind. Its class says who reads it; lists
 * of options name classes ("down-in") or single sites ("down-in.3", "*.3": all of layer 3). A
 * layer's ops are consecutive and make a block. Scale searches work on a block at a time: they
 * replay it with quantisers simulated in place, and the ops are inserted only when all is known.
 */
#ifndef PFQC_PASSES_QUANTISERS_H
#define PFQC_PASSES_QUANTISERS_H

#include "passes/pass.h"

typedef enum SiteClass {
    SITE_QKV_IN,   /* what the projections of q, k and v read */
    SITE_O_IN,     /* an attention's result, as its output projection reads it */
    SITE_GU_IN,    /* what gate and up read */
    SITE_DOWN_IN,  /* act(gate) * up, behind the transform that `rotate` puts there */
    SITE_OTHER_IN, /* what any other linear of a layer reads */
    SITE_K,        /* operands of attention */
    SITE_V,
    SITE_Q,
    SITE_CLASSES
} SiteClass;
extern const char *const site_class_name[SITE_CLASSES];

enum { SITES_INPUTS = 31, SITES_KV = 1 << SITE_K | 1 << SITE_V };

typedef struct Site {
    SiteClass cls;
    i32 layer;
    const char *name; /* "qkv-in.3" */
    ValueId x;        /* [T, heads * width] or [T, heads, width] */
    OpId def;         /* makes x; all its readers are readers of the site */
    u32 at;           /* position of def in @main's body */
    OpId reader;      /* the attention of k, v and q; else the first linear */
    i64 heads, width; /* scales per token, elements that share one */
} Site;

typedef struct Block { /* the ops of one layer: positions [begin, end) of the body */
    i32 layer;
    u32 begin, end;
    u32 site, n_sites; /* its sites are consecutive, in graph order */
    u32 out, n_outs;   /* values that ops behind it read: Sites.outs */
} Block;

typedef struct Sites {
    u32 fn;
    VEC(Site) all;
    VEC(Block) blocks;
    VEC(ValueId) outs;
} Sites;

/* Finds the sites of the classes in the set `classes` that are not quantised yet. With `options`,
 * the pass's lists only= and skip= choose among them, and a value that others read as well gets a
 * `copy` for its site. */
bool sites_find(PassCx *cx, u32 classes, bool options, Sites *out);
/* Where a walk over the blocks that looks at sites alone has seen a block's: its end, but in the
 * last block, whose results nobody reads, behind the last site. */
u32 sites_observed(const Sites *s, u32 block);
/* v behind ops that only move or mix it: reshape, hadamard, copy, cast, quantisers. */
ValueId site_source(const Module *m, ValueId v);

typedef struct Quantiser {
    const Site *site;
    DType dt;
    bool full;         /* symmetric, -8..7 and a scale of max / 7.5 */
    bool dynamic;      /* scales of each token; otherwise literal ones */
    bool asym;         /* dynamic: a minimum as well */
    const float *init; /* [heads] static: scales before the search */
    float *factor;     /* [heads] on them; of a dynamic one the clip factor, in all the same */
} Quantiser;

/* One token and head: what dequantize(quantize(x)) gives, at a factor of the caller's choice. y may
 * be x. */
void quantiser_head(const Quantiser *q, i64 head, float factor, const float *x, float *y);
/* x [rows, heads, width] in place. */
void quantiser_apply(const Quantiser *q, float *x, i64 rows);
/* Scale of max |x|, without clipping. */
float quantiser_scale(const Quantiser *q, float absmax);
/* Of 4, 8 or 16 bits: `four`, `eight` or DT_NONE, which is not to quantise. */
DType quantiser_type(i64 bits, DType four, DType eight);
/* Puts quantize and dequantize behind the site's value. */
bool quantiser_emit(PassCx *cx, const Quantiser *q);

/* ---- scale_stats.c, scale_search.c ---- */

/* First scales of static quantisers (Quantiser.init, allocated here), from the statistics of the
 * calibration text: per channel the largest magnitude of a sequence, averaged over sequences, the
 * largest of a head's channels. */
bool scale_statistics(PassCx *cx, const Sites *s, Quantiser *q);

typedef struct SearchOptions {
    bool search; /* false: only run, and measure the error of each site */
    bool joint;  /* quantisers found before stay on */
} SearchOptions;

/* Chooses Quantiser.factor of all, block by block, and measures: sqnr [sites] in dB, with all
 * quantisers of the model on. */
bool scale_search(PassCx *cx, const Sites *s, Quantiser *q, const SearchOptions *o, float *sqnr);
/* Meta "sqnr.CLASS.LAYER". */
void scale_report(PassCx *cx, const Sites *s, const float *sqnr);

#endif
