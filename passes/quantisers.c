#include "passes/quantisers.h"
#include "passes/wide.h"

#include "ir/base/half.h"

#include <math.h>

const char *const site_class_name[SITE_CLASSES] = {"qkv-in",   "o-in", "gu-in", "down-in",
                                                   "other-in", "k",    "v",     "q"};
static const u32 attention_operand[SITE_CLASSES] = {[SITE_K] = 1, [SITE_V] = 2, [SITE_Q] = 0};

/* ---- who reads what ---- */

static bool moves(OpKind k)
{
    return k == OP_RESHAPE || k == OP_HADAMARD || k == OP_COPY || k == OP_CAST ||
           k == OP_QUANTIZE || k == OP_DEQUANTIZE;
}

ValueId site_source(const Module *m, ValueId v)
{
    while (pass_def(m, v) && moves(def_of(m, v)->kind))
        v = def_of(m, v)->in[0];
    return v;
}

static OpKind kind_of(const Module *m, ValueId v)
{
    return pass_def(m, v) ? def_of(m, v)->kind : OP_NONE;
}

/* v is act(gate) * up. */
static bool gated(const Module *m, ValueId v)
{
    if (kind_of(m, v) != OP_MUL) return false;
    for (u32 k = 0; k < 2; k++) {
        OpKind act = kind_of(m, def_of(m, v)->in[k]);
        if (act == OP_SILU || act == OP_GELU) return true;
    }
    return false;
}

/* What a linear's result ends up in, through ops that keep it one projection. */
static SiteClass reader_class(const Module *m, const Uses *u, ValueId y)
{
    SiteClass cls = SITE_OTHER_IN;
    for (u32 i = 0; cls == SITE_OTHER_IN && i < uses_n(u, y); i++) {
        const Op *op = op_at(m, uses_at(u, y, i));
        bool passes = moves(op->kind) || op->kind == OP_SLICE || op->kind == OP_RMSNORM ||
                      op->kind == OP_ROPE || op->kind == OP_SILU || op->kind == OP_GELU;
        if (op->kind == OP_ATTENTION) return SITE_QKV_IN;
        if (op->kind == OP_MUL && !is_const(m, op->in[0]) && !is_const(m, op->in[1]))
            return SITE_GU_IN;
        if (passes && op->in[0] == y) cls = reader_class(m, u, op->out);
    }
    return cls;
}

static SiteClass linear_class(const Module *m, const Uses *u, const Op *op)
{
    ValueId x = site_source(m, op->in[0]);
    if (kind_of(m, x) == OP_ATTENTION) return SITE_O_IN;
    return gated(m, x) ? SITE_DOWN_IN : reader_class(m, u, op->out);
}

/* ---- sites ---- */

typedef struct Finder {
    PassCx *cx;
    Module *m;
    u32 classes;
    bool options;
    Uses uses;
    ValueId head; /* result of the head, which is no site */
    Sites *out;
    Map seen; /* value -> 1: has its site, or none */
} Finder;

static bool reads(const Finder *f, OpId reader, SiteClass cls, ValueId x)
{
    const Op *op = op_at(f->m, reader);
    if (cls >= SITE_K) {
        for (u32 k = 0; k < 3; k++)
            if (op->in[k] == x && k != attention_operand[cls]) return false;
        return op->kind == OP_ATTENTION;
    }
    return op->kind == OP_LINEAR && op->out != f->head && op->in[0] == x && op->in[1] != x;
}

/* Gives the site a copy of its value if others than its readers read it. */
static bool separate(Finder *f, Site *s)
{
    Module *m = f->m;
    bool alone = !f->uses.result[s->x] && pass_def(m, s->x);
    for (u32 i = 0; i < uses_n(&f->uses, s->x); i++)
        alone &= reads(f, uses_at(&f->uses, s->x, i), s->cls, s->x);
    if (alone) return true;
    Builder b = {.m = m, .d = f->cx->d, .fn = f->out->fn, .before = s->reader, .layer = s->layer};
    ValueId y = ir_op(&b, OP_COPY, INS(s->x), NULL, 0, NULL);
    if (!y) return false;
    for (u32 i = 0; i < uses_n(&f->uses, s->x); i++) {
        OpId user = uses_at(&f->uses, s->x, i);
        if (!reads(f, user, s->cls, s->x)) continue;
        op_at(m, user)->in[s->cls >= SITE_K ? attention_operand[s->cls] : 0] = y;
    }
    s->x = y;
    return true;
}

static bool add_site(Finder *f, OpId reader, SiteClass cls)
{
    const Op *op = op_at(f->m, reader);
    ValueId x = op->in[cls >= SITE_K ? attention_operand[cls] : 0];
    if (!(f->classes & 1u << cls) || is_const(f->m, x) || kind_of(f->m, x) == OP_DEQUANTIZE)
        return true;
    Site s = {.cls = cls, .layer = op->layer, .x = x, .reader = reader};
    s.name = arena_printf(f->cx->a, "%s.%d", site_class_name[cls], op->layer);
    if (f->options && !pass_selected(f->cx, site_class_name[cls], s.name)) return true;
    const Type *t = type_of(f->m, x);
    s.heads = cls >= SITE_K ? t->dim[1] : 1;
    s.width = type_cols(t);
    if (f->options && !separate(f, &s)) return false;
    s.def = pass_def(f->m, s.x);
    vec_push(f->cx->a, &f->out->all, s);
    return true;
}

static bool visit(Finder *f, OpId id)
{
    const Op *op = op_at(f->m, id);
    if (op->layer < 0) return true;
    if (op->kind == OP_ATTENTION)
        return add_site(f, id, SITE_Q) && add_site(f, id, SITE_K) && add_site(f, id, SITE_V);
    if (op->kind != OP_LINEAR || op->out == f->head || !is_const(f->m, op->in[1])) return true;
    ValueId x = op->in[0];
    bool added;
    map_put(&f->seen, (Str){(const char *)&x, sizeof x}, &added);
    return !added || add_site(f, id, linear_class(f->m, &f->uses, op));
}

static void sort_sites(const Module *m, Sites *s)
{
    for (u32 i = 0; i < s->all.n; i++)
        s->all.at[i].at = ir_op_position(m, s->all.at[i].def);
    for (u32 i = 1; i < s->all.n; i++)
        for (u32 k = i; k > 0 && s->all.at[k].at < s->all.at[k - 1].at; k--) {
            Site t = s->all.at[k];
            s->all.at[k] = s->all.at[k - 1];
            s->all.at[k - 1] = t;
        }
}

/* ---- blocks ---- */

/* Values of the block that ops behind it read. */
static void find_outs(PassCx *cx, Sites *s, Block *b, const Uses *u, const u32 *position)
{
    const Module *m = cx->m;
    b->out = s->outs.n;
    for (u32 i = b->begin; i < b->end; i++) {
        const Op *op = op_at(m, m->fns.at[s->fn].body.at[i]);
        for (u32 k = 0; k < op->nout; k++) {
            ValueId v = op->out + k;
            bool out = u->result[v];
            for (u32 n = 0; n < uses_n(u, v); n++)
                out |= position[uses_at(u, v, n)] >= b->end;
            if (out) vec_push(cx->a, &s->outs, v);
        }
    }
    b->n_outs = s->outs.n - b->out;
}

static void find_blocks(PassCx *cx, Sites *s)
{
    Module *m = cx->m;
    const Fn *f = &m->fns.at[s->fn];
    Uses u = uses_build(cx->a, m);
    u32 *position = NEWN(cx->a, u32, m->ops.n);
    for (u32 i = 0; i < f->body.n; i++) {
        i32 layer = op_at(m, f->body.at[i])->layer;
        Block *last = s->blocks.n ? &s->blocks.at[s->blocks.n - 1] : NULL;
        position[f->body.at[i]] = i;
        if (layer < 0) continue;
        if (last && last->layer == layer && last->end == i)
            last->end++;
        else
            vec_push(cx->a, &s->blocks, ((Block){.layer = layer, .begin = i, .end = i + 1}));
    }
    u32 site = 0;
    for (u32 i = 0; i < s->blocks.n; i++) {
        Block *b = &s->blocks.at[i];
        b->site = site;
        while (site < s->all.n && s->all.at[site].at < b->end)
            site++;
        b->n_sites = site - b->site;
        find_outs(cx, s, b, &u, position);
    }
}

bool sites_find(PassCx *cx, u32 classes, bool options, Sites *out)
{
    Module *m = cx->m;
    *out = (Sites){.fn = pass_fn_index(m, "main")};
    Tail t;
    if (!pass_tail(cx, out->fn, &t)) return false;
    Finder f = {.cx = cx,
                .m = m,
                .classes = classes,
                .options = options,
                .uses = uses_build(cx->a, m),
                .head = t.head,
                .out = out,
                .seen = {.a = cx->a}};
    u32 n = m->fns.at[out->fn].body.n;
    OpId *body = NEWN(cx->a, OpId, n); /* as it is before copies go in */
    memcpy(body, m->fns.at[out->fn].body.at, n * sizeof *body);
    for (u32 i = 0; i < n; i++)
        if (!visit(&f, body[i])) return false;
    sort_sites(m, out);
    find_blocks(cx, out);
    return true;
}

u32 sites_observed(const Sites *s, u32 block)
{
    const Block *b = &s->blocks.at[block];
    bool last = block + 1 == s->blocks.n && b->n_sites;
    return last ? s->all.at[b->site + b->n_sites - 1].at + 1 : b->end;
}

/* ---- arithmetic ---- */

static float hi_of(const Quantiser *q)
{
    return (float)dtype_info[q->dt].hi;
}

float quantiser_scale(const Quantiser *q, float absmax)
{
    float s = absmax / (float)qparams_top(q->dt, q->full);
    return s > 0 ? s : 1;
}

static float round_f16(float x)
{
    return f16_to_f32(f32_to_f16(x));
}

/* As ev_quantize and ev_dequantize do it, in f32. */
WIDE static void round_trip(const float *x, float *y, i64 n, float s, float m, float lo, float hi)
{
    const float magic = 0x1.8p23f;
    for (i64 i = 0; i < n; i++) {
        float v = (x[i] - m) / s;
        v = v > lo ? v : lo;
        v = v < hi ? v : hi;
        y[i] = ((v + magic) - magic) * s + m;
    }
}

static void head_asym(const Quantiser *q, float factor, const float *x, float *y, i64 n)
{
    float lo = x[0], top = x[0];
    for (i64 i = 1; i < n; i++) {
        lo = x[i] < lo ? x[i] : lo;
        top = x[i] > top ? x[i] : top;
    }
    float s = round_f16(factor * (top - lo) / hi_of(q)), m = round_f16(factor * lo);
    round_trip(x, y, n, s > 0 ? s : 1, m, (float)dtype_info[q->dt].lo, hi_of(q));
}

void quantiser_head(const Quantiser *q, i64 head, float factor, const float *x, float *y)
{
    i64 n = q->site->width;
    if (q->asym) {
        head_asym(q, factor, x, y, n);
        return;
    }
    float s;
    if (q->dynamic) {
        float top = 0;
        for (i64 i = 0; i < n; i++) {
            float v = fabsf(x[i]);
            top = v > top ? v : top;
        }
        s = quantiser_scale(q, factor * top);
    } else
        s = q->init[head] * factor;
    round_trip(x, y, n, s, 0, q->full ? (float)dtype_info[q->dt].lo : -hi_of(q), hi_of(q));
}

void quantiser_apply(const Quantiser *q, float *x, i64 rows)
{
    for (i64 r = 0; r < rows; r++)
        for (i64 h = 0; h < q->site->heads; h++, x += q->site->width)
            quantiser_head(q, h, q->factor[h], x, x);
}

/* ---- ops ---- */

DType quantiser_type(i64 bits, DType four, DType eight)
{
    return bits == 4 ? four : bits == 8 ? eight : DT_NONE;
}

static ValueId static_scale(PassCx *cx, const Quantiser *q)
{
    const Site *s = q->site;
    double *values = NEWN(cx->m->a, double, s->heads);
    for (i64 h = 0; h < s->heads; h++)
        values[h] = (double)(q->init[h] * q->factor[h]);
    Builder b = {.m = cx->m, .d = cx->d, .layer = s->layer};
    return ir_op(&b, OP_LITERAL, NULL, 0, ATTRS({A_VALUES, .n = (u32)s->heads, .floats = values}),
                 ir_type2(cx->m, DT_F32, s->heads, 1),
                 arena_printf(cx->a, "%s%s", s->name, SUFFIX_SCALE));
}

bool quantiser_emit(PassCx *cx, const Quantiser *q)
{
    Module *m = cx->m;
    const Site *s = q->site;
    const Fn *f = &m->fns.at[op_at(m, s->def)->fn];
    u32 at = ir_op_position(m, s->def);
    Builder b = {.m = m,
                 .d = cx->d,
                 .fn = op_at(m, s->def)->fn,
                 .before = at + 1 < f->body.n ? f->body.at[at + 1] : 0,
                 .layer = s->layer};
    const char *name = ir_cstr(m, value_at(m, s->x)->name);
    if (!*name) name = s->name;
    const char *s_name = arena_printf(cx->a, "%s" SUFFIX_SCALE, name),
               *q_name = arena_printf(cx->a, "%s" SUFFIX_Q, name),
               *dq_name = arena_printf(cx->a, "%s" SUFFIX_DQ, name);
    const char *dtype = dtype_info[q->dt].name;
    double clip = rint((double)q->factor[0] * 1e6) / 1e6; /* 0.9, not the f32 nearest to it */
    const AttrSpec *form = ATTRS({A_DTYPE, .s = dtype}, {A_FULL, .i = q->full}),
                   *measure =
                       ATTRS({A_DTYPE, .s = dtype}, {A_FULL, .i = q->full}, {A_SCALE, .f = clip}),
                   *asym = ATTRS({A_DTYPE, .s = dtype}, {A_SCALE, .f = clip});
    ValueId scale = !q->dynamic ? static_scale(cx, q)
                    : q->asym   ? ir_op(&b, OP_QPARAMS_ASYM, INS(s->x), asym, 0, s_name)
                                : ir_op(&b, OP_QPARAMS, INS(s->x), measure, 0, s_name);
    if (!scale) return false;
    ValueId min = q->asym ? scale + 1 : 0;
    ValueId ints = ir_op(&b, OP_QUANTIZE, INS(s->x, scale, min), form, 0, q_name);
    ValueId y = ints ? ir_op(&b, OP_DEQUANTIZE, INS(ints, scale, min), NULL, 0, dq_name) : 0;
    if (!y) return false;
    ir_replace_uses(m, s->x, y);
    op_at(m, pass_def(m, ints))->in[0] = s->x;
    if (q->dynamic) op_at(m, pass_def(m, scale))->in[0] = s->x;
    cx->changes++;
    return true;
}
