/* prefix: outlier tokens go in front of every sequence, once, as keys and values in the module
 * (PrefixQuant, arXiv:2410.05265).
 *
 * A token is an outlier where the largest magnitude of what a down projection reads, before any
 * online transform, exceeds 64 times the median over the tokens of its sequence. There are as many
 * per sequence as the layer with most of them has on average, rounded up. The prefix is the tokens
 * that are outliers most often at other places than the first (where every token is one), then BOS,
 * or EOS for a tokenizer without BOS. The method's code runs the model in 16 bits for this, and so
 * do linears here (bf16). Keys and values are those of the float model as it stands, as operands of
 * attention are: rotated, after RoPE; these are of products in f32.
 */
#include "passes/outliers.h"
#include "passes/wide.h"

#include "ir/base/half.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    THRESHOLD = 64,
    COMPARED = 2,     /* sequences whose tokens are reported, before and after */
    PREFIX_MAX = 256, /* tokens */
};

typedef struct Ids {
    u32 n;
    i32 id[PREFIX_MAX];
} Ids;

/* ---- outliers ---- */

typedef struct Detect {
    Sites down;
    u32 *product; /* [ops] 1 + layer (index into down) whose gated product the op makes */
    i64 sequences, length;
    u32 *count;        /* [layers, sequences] outlier tokens */
    u32 *hits;         /* [sequences, length] layers in which a token is an outlier */
    const i32 *tokens; /* [sequences, length]; of the run */
    Outliers shown;
    bool infinite;
} Detect;

static int by_value(const void *x, const void *y)
{
    float a = *(const float *)x, b = *(const float *)y;
    return (a > b) - (a < b);
}

static bool observe(void *user, const CalibCall *call)
{
    Detect *d = user;
    u32 layer = d->product[call->op];
    if (!layer) return true;
    i64 rows = call->out->dim[0], cols = call->out->dim[1];
    float *top = xmalloc(2 * (size_t)rows, sizeof *top), *sorted = top + rows;
    for (i64 r = 0; r < rows; r++) {
        sorted[r] = top[r] = wide_absmax(call->out->f + r * cols, cols);
    }
    qsort(sorted, (size_t)rows, sizeof *sorted, by_value);
    float median = sorted[(rows - 1) / 2];
    i64 slot = (layer - 1) * d->sequences + call->sequence;
    for (i64 r = 0; r < rows; r++) {
        float ratio = median > 0 ? top[r] / median : 0;
        if (!isfinite(top[r])) d->infinite = true;
        const i64 at = call->sequence * d->length + r;
        if (call->sequence < d->shown.sequences)
            outliers_add(&d->shown, layer - 1,
                         (OutlierToken){ratio, d->tokens[at], (i32)call->sequence, (i32)r});
        if (!(ratio > (float)THRESHOLD)) continue;
        d->count[slot]++;
        d->hits[at]++;
    }
    free(top);
    return true;
}

/* Runs the model over the first sequences of the text; d->down is set. */
static bool detect(PassCx *cx, Detect *d, i64 sequences, i64 length)
{
    const Sites *s = &d->down;
    i64 layers = s->all.n;
    d->sequences = sequences;
    d->length = length;
    d->product = NEWN(cx->a, u32, cx->m->ops.n);
    d->count = NEWN(cx->a, u32, layers * sequences);
    d->hits = NEWN(cx->a, u32, sequences * length);
    i32 *tokens = NEWN(cx->a, i32, sequences * length);
    d->tokens = tokens;
    d->shown = outliers_new(cx->a, layers, sequences < COMPARED ? sequences : COMPARED);
    for (u32 i = 0; i < s->all.n; i++)
        d->product[pass_def(cx->m, site_source(cx->m, s->all.at[i].x))] = i + 1;
    Calib *run = calib_new(cx, sequences, length);
    bool ok = run != NULL;
    if (ok) calib_half(run);
    if (ok) memcpy(tokens, calib_tokens(run), (size_t)(sequences * length) * sizeof *tokens);
    for (u32 i = 0; ok && i < s->blocks.n; i++) { /* little is kept at the end of a block */
        bool last = i + 1 == s->blocks.n;
        calib_progress(cx, "outlier tokens", i, s->blocks.n);
        ok = calib_run(run, sites_observed(s, i), 0, !last, observe, d);
    }
    calib_progress(cx, "outlier tokens", s->blocks.n, s->blocks.n);
    calib_free(run);
    return ok && (!d->infinite || pass_fail(cx, NULL,
                                            "a value that a down projection reads is not "
                                            "finite on the calibration text"));
}

/* Outliers per sequence: mean of the layer with most of them, rounded up. */
static u32 outlier_count(const Detect *d)
{
    u32 most = 0;
    for (u32 i = 0; i < d->down.all.n; i++) {
        u32 sum = 0;
        for (i64 s = 0; s < d->sequences; s++)
            sum += d->count[i * d->sequences + s];
        most = sum > most ? sum : most;
    }
    return (u32)((most + d->sequences - 1) / d->sequences);
}

/* Of `n` tokens that were outliers somewhere, the most frequent first; equal ones by id. */
static void most_frequent(PassCx *cx, const Detect *d, u32 n, Ids *out)
{
    const i32 *tokens = d->tokens;
    i64 vocab = 1;
    for (i64 i = 0; i < d->sequences * d->length; i++)
        vocab = tokens[i] >= vocab ? tokens[i] + 1 : vocab;
    u32 *seen = NEWN(cx->a, u32, vocab), distinct = 0, total = 0;
    for (i64 i = 0; i < d->sequences * d->length; i++) {
        if (i % d->length == 0 || !d->hits[i]) continue; /* the first token always is one */
        distinct += !seen[tokens[i]];
        seen[tokens[i]] += d->hits[i];
        total += d->hits[i];
    }
    if (distinct == 1 && total * 10 < d->sequences) return; /* one rare token is chance */
    while (out->n < n && out->n < distinct && out->n < PREFIX_MAX - 1) {
        i64 best = 0;
        for (i64 i = 1; i < vocab; i++)
            if (seen[i] > seen[best]) best = i;
        out->id[out->n++] = (i32)best;
        seen[best] = 0;
    }
}

static void choose(PassCx *cx, const Detect *d, Ids *out)
{
    u32 n = outlier_count(d);
    if (!n) return;
    most_frequent(cx, d, n, out);
    i32 start = cx->calib->bos >= 0 ? cx->calib->bos : cx->calib->eos;
    if (start >= 0) out->id[out->n++] = start;
}

/* ---- a prefix given by hand ---- */

static bool read_ids(PassCx *cx, const char *text, Ids *out)
{
    if (strcmp(text, "none") == 0) return true;
    for (const char *p = text; *(p += strspn(p, " ,+"));) {
        Str word = {p, strcspn(p, " ,+")};
        i64 id;
        if (!str_to_i64(word, &id) || id < 0 || id > INT32_MAX)
            return pass_fail(cx, NULL, "'%.*s' in the prefix '%s' is no token id", STRF(word),
                             text);
        if (out->n == PREFIX_MAX)
            return pass_fail(cx, NULL, "the prefix has more than %d tokens", PREFIX_MAX);
        out->id[out->n++] = (i32)id;
        p += word.n;
    }
    return out->n || pass_fail(cx, NULL, "the prefix '%s' has no token ids", text);
}

const char *prefix_given(const PassCx *cx)
{
    const char *ids = pass_word(cx, "ids");
    return cx->calib->prefix ? cx->calib->prefix : *ids ? ids : NULL;
}

static bool check_ids(PassCx *cx, const Ids *ids)
{
    i64 vocab = ir_meta_get_int(cx->m, "vocab", INT32_MAX),
        context = ir_meta_get_int(cx->m, "context", INT32_MAX);
    for (u32 i = 0; i < ids->n; i++)
        if (ids->id[i] < 0 || ids->id[i] >= vocab)
            return pass_fail(cx, NULL, "token %d of the prefix is not below the vocabulary's %lld",
                             ids->id[i], (long long)vocab);
    return ids->n < context ||
           pass_fail(cx, NULL, "the prefix of %u tokens leaves no room in a context of %lld",
                     ids->n, (long long)context);
}

static bool read_given(PassCx *cx, Ids *out)
{
    const char *given = prefix_given(cx);
    return !given || (read_ids(cx, given, out) && check_ids(cx, out));
}

bool prefix_check(PassCx *cx)
{
    Ids ids = {0};
    return read_given(cx, &ids);
}

/* ---- keys and values ---- */

typedef struct Capture {
    PassCx *cx;
    CalibCache *cache;
    const OpId *attention;
    u32 n;
    u16 **k, **v; /* [n] f16, as the operands */
} Capture;

static void narrow(const Tensor *t, u16 *out)
{
    i64 n = t->dim[0] * t->dim[1] * t->dim[2];
    for (i64 i = 0; i < n; i++)
        out[i] = f32_to_f16(t->f[i]);
}

static bool capture(void *user, const CalibCall *call)
{
    Capture *c = user;
    for (u32 i = 0; i < c->n; i++)
        if (call->op == c->attention[i]) {
            narrow(&call->in[1], c->k[i]);
            narrow(&call->in[2], c->v[i]);
        }
    return true;
}

static const char *array_name(PassCx *cx, OpId attention, char which)
{
    return arena_printf(cx->a, "%c.%lld", which,
                        (long long)op_int(op_at(cx->m, attention), A_CACHE));
}

/* Runs the prefix through @main and puts what attentions read. */
static bool put_prefix(PassCx *cx, CalibCache *cache, const OpId *attention, u32 n, const Ids *ids)
{
    Module *m = cx->m;
    Capture c = {cx, cache, attention, n, NEWN(cx->a, u16 *, n), NEWN(cx->a, u16 *, n)};
    for (u32 i = 0; i < n; i++) {
        const Type *k = type_of(m, op_at(m, attention[i])->in[1]);
        c.k[i] = NEWN(cx->a, u16, ids->n * k->dim[1] * k->dim[2]);
        c.v[i] = NEWN(cx->a, u16, ids->n * k->dim[1] * k->dim[2]);
    }
    Calib *run = calib_new_tokens(cx, ids->id, 1, ids->n, 0);
    bool ok = run && calib_run(run, ir_op_position(m, attention[n - 1]) + 1, 0, true, capture, &c);
    calib_free(run);
    for (u32 i = 0; ok && i < n; i++) {
        const Type *k = type_of(m, op_at(m, attention[i])->in[1]);
        const i64 dim[3] = {ids->n, k->dim[1], k->dim[2]};
        for (i64 e = 0; e < dim[0] * dim[1] * dim[2]; e++)
            if ((c.k[i][e] & 0x7c00) == 0x7c00 || (c.v[i][e] & 0x7c00) == 0x7c00)
                return pass_fail(cx, op_at(m, attention[i]),
                                 "a key or value of the prefix does not fit f16");
        calib_put(cache, array_name(cx, attention[i], 'k'), DT_F16, 3, dim, c.k[i]);
        calib_put(cache, array_name(cx, attention[i], 'v'), DT_F16, 3, dim, c.v[i]);
    }
    return ok;
}

/* One of an attention's two constants: from the results, or without a cache pseudorandom. */
static ValueId prefix_constant(PassCx *cx, CalibCache *cache, OpId attention, char which, u32 rows)
{
    enum { STREAMS = 1 << 30 }; /* behind those of weights */
    Module *m = cx->m;
    const Op *op = op_at(m, attention);
    const Type *k = type_of(m, op->in[1]);
    const i64 dim[3] = {rows, k->dim[1], k->dim[2]};
    const char *array = array_name(cx, attention, which),
               *name = arena_printf(cx->a, "prefix.%s", array);
    Builder b = {.m = m, .d = cx->d, .layer = op->layer};
    if (cache) return calib_constant(cache, &b, array, ir_type(m, DT_F16, 3, dim), name);
    const AttrSpec *leaf =
        ATTRS({A_SEED, .i = 0}, {A_SCALE, .f = (double)cx->calib->assumed},
              {A_STREAM, .i = STREAMS + 2 * op_int(op, A_CACHE) + (which == 'v')});
    ValueId x = ir_op(&b, OP_SYNTHETIC, NULL, 0, leaf, ir_type(m, DT_F32, 3, dim),
                      arena_printf(cx->a, "%s.f32", name));
    return x ? ir_op(&b, OP_CAST, INS(x), ATTRS({A_DTYPE, .s = "f16"}), 0, name) : 0;
}

static bool attach(PassCx *cx, CalibCache *cache, OpId attention, u32 rows)
{
    Module *m = cx->m;
    ValueId k = prefix_constant(cx, cache, attention, 'k', rows),
            v = k ? prefix_constant(cx, cache, attention, 'v', rows) : 0;
    if (!v) return false;
    Op *op = op_at(m, attention);
    ValueId *in = NEWN(m->a, ValueId, 6);
    memcpy(in, op->in, 4 * sizeof *in);
    in[4] = k;
    in[5] = v;
    op->in = in;
    op->nin = 6;
    TypeId out[2] = {0};
    cx->changes++;
    return ir_infer(cx->d, m, op, out);
}

/* ---- the pass ---- */

static bool find_attentions(PassCx *cx, u32 fn, OpId **out, u32 *n)
{
    const Fn *f = &cx->m->fns.at[fn];
    *out = NEWN(cx->a, OpId, f->body.n);
    *n = 0;
    for (u32 i = 0; i < f->body.n; i++)
        if (op_at(cx->m, f->body.at[i])->kind == OP_ATTENTION) (*out)[(*n)++] = f->body.at[i];
    return *n || pass_fail(cx, NULL, "the model has no attention");
}

/* What the first run over the text finds: the prefix, unless it is given, and tokens without it. */
static bool measure(PassCx *cx, CalibCache *cache, const Sites *down, const Ids *given,
                    const OpId *attention, u32 n)
{
    CalibBudget b = calib_budget(cx, CALIB_STATISTICS);
    Detect d = {.down = *down};
    Ids ids = given ? *given : (Ids){0};
    if (cx->calib->tokens && down->all.n) {
        if (!detect(cx, &d, given ? COMPARED : b.sequences, b.length)) return false;
        if (!given) choose(cx, &d, &ids);
        outliers_put(cx, cache, "before", &d.shown);
    }
    if (!check_ids(cx, &ids)) return false;
    const i64 one = 1, count = ids.n;
    const i32 ids_n = (i32)ids.n;
    calib_put(cache, "count", DT_I32, 1, &one, &ids_n);
    if (count) calib_put(cache, "ids", DT_I32, 1, &count, ids.id);
    return (!count || put_prefix(cx, cache, attention, n, &ids)) && calib_commit(cache);
}

/* Tokens behind the prefix. */
static bool measure_after(PassCx *cx, const Sites *down)
{
    bool found;
    CalibCache *cache = calib_cache(cx, &found);
    if (!cache) return false;
    if (!found) {
        Detect d = {.down = *down};
        if (!detect(cx, &d, COMPARED, calib_budget(cx, CALIB_STATISTICS).length)) return false;
        outliers_put(cx, cache, "after", &d.shown);
        if (!calib_commit(cache)) return false;
    }
    outliers_report(cx, cache, "after", down);
    return true;
}

static void say(const PassCx *cx, const char *given, const char *ids)
{
    if (cx->d->silent) return;
    if (*ids)
        fprintf(stderr, "pfqc: prefix: %s%s\n", ids, given ? " (given)" : "");
    else
        fprintf(stderr, "pfqc: prefix: none (%s)\n",
                given                    ? "given"
                : cx->calib->assumed > 0 ? "synthetic weights"
                : cx->calib->tokens      ? "the model has no outlier tokens"
                                         : "no calibration text to find outlier tokens in");
}

/* Puts the prefix into the module. */
static bool apply(PassCx *cx, CalibCache *cache, const char *given, const i32 *id, u32 n_ids,
                  const OpId *attention, u32 n)
{
    StrBuf text = {.a = cx->a};
    sb_str(&text, "");
    for (u32 i = 0; i < n_ids; i++)
        sb_printf(&text, "%s%d", i ? " " : "", id[i]);
    say(cx, given, text.p);
    if (!n_ids) return true;
    for (u32 i = 0; i < n; i++)
        if (!attach(cx, cache, attention[i], n_ids)) return false;
    ir_meta_int(cx->m, "prefix", n_ids);
    ir_meta_str(cx->m, "prefix_ids", text.p);
    return true;
}

bool pass_prefix(PassCx *cx)
{
    Sites down;
    OpId *attention;
    u32 n;
    const char *given = prefix_given(cx);
    Ids first = {0};
    if (!read_given(cx, &first) || !sites_find(cx, 1u << SITE_DOWN_IN, false, &down) ||
        !find_attentions(cx, pass_fn_index(cx->m, "main"), &attention, &n))
        return false;
    if (cx->calib->assumed > 0) return apply(cx, NULL, given, first.id, first.n, attention, n);
    bool found;
    CalibCache *cache = calib_cache(cx, &found);
    if (!cache || (!found && !measure(cx, cache, &down, given ? &first : NULL, attention, n)))
        return false;
    Type t = {0};
    const void *count, *ids;
    if (!calib_get(cache, "count", &t, &count))
        return pass_fail(cx, NULL, "cached results do not fit the model; remove the cache");
    bool measured = outliers_report(cx, cache, "before", &down);
    bool some = calib_get(cache, "ids", &t, &ids);
    return apply(cx, cache, given, ids, some ? (u32)type_elems(&t) : 0, attention, n) &&
           (!some || !measured || measure_after(cx, &down));
}
