/* weights: integers of the linears' weights, chosen on calibration text (gptq.h has the
 * arithmetic).
 *
 * Inputs are walked in the order of the graph. The run advances to the first linear that reads an
 * input and sums the input's Gram matrix on the way; every linear that reads it is solved, its
 * dequantized weight put in place of the float one, and the run goes on: so an input is what the
 * quantised weights before it make of the text. A second run, of the float model, goes along; what
 * the inputs have drifted from it is partly made up for (option drift). Each runs the model once.
 * Quantisers of values that stand in the graph already are passed by: weights that also make up for
 * these fit the calibration text and no other (SmolLM2-135M W4A4, perplexity of WikiText-2 and of
 * another text: 36.4 and 78 with them, 37.8 and 69 without; without drift 38.9 and 69).
 *
 * method=rtn needs no text. It leaves the same lazy expressions as quantize-weights, so it costs no
 * memory and no time.
 */
#include "passes/calib/calib.h"
#include "passes/gptq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct Weight {
    ValueId w;
    const char *name;
    i32 layer;
    u32 input;       /* index of what it reads */
    u32 first, last; /* places of its linears in the body */
    i64 n, k;
    float *dense; /* dequantized, while the run still reads it */
} Weight;

typedef struct Input {
    ValueId x;
    OpId def;              /* in the body */
    u32 first;             /* place of the first linear that reads it */
    Gram *g;               /* while it is summed */
    const float **without; /* [sequences] its values in the float model; NULL without drift */
} Input;

typedef struct Held { /* what a quantiser of values read, until its result is dequantized */
    ValueId q;
    i64 sequence;
    float *x;
} Held;

typedef struct HeldList { /* of a thread */
    Held at[16];
    u32 n;
} HeldList;

typedef struct Walk {
    PassCx *cx;
    WeightForm f;
    WeightMethod method;
    double damp;
    float drift;
    bool order;
    VEC(Weight) weights;
    VEC(Input) inputs;
    Calib *run, *without; /* of the quantised, of the float model (NULL without drift) */
    HeldList *held;       /* [threads] */
    i64 sequences;
    CalibCache *cache;
} Walk;

/* ---- what is to be done ---- */

static u32 input_of(Walk *k, ValueId x, u32 place)
{
    for (u32 i = 0; i < k->inputs.n; i++)
        if (k->inputs.at[i].x == x) return i;
    vec_push(k->cx->a, &k->inputs, ((Input){.x = x, .def = pass_def(k->cx->m, x), .first = place}));
    return k->inputs.n - 1;
}

static bool add_weight(Walk *k, const Op *op, u32 place)
{
    const Module *m = k->cx->m;
    ValueId w = op->in[1], x = op->in[0];
    for (u32 i = 0; i < k->weights.n; i++)
        if (k->weights.at[i].w == w) {
            k->weights.at[i].last = place;
            return true;
        }
    const Type *t = type_of(m, w);
    if (k->f.group > t->dim[1])
        return pass_fail(k->cx, op, "group %lld is longer than a row of %lld",
                         (long long)k->f.group, (long long)t->dim[1]);
    if (k->method != METHOD_RTN && (t->dim[0] > INT32_MAX || t->dim[1] > 65536))
        return pass_fail(k->cx, op, "%lld columns are too many to solve, expected up to 65536",
                         (long long)t->dim[1]);
    if (k->method != METHOD_RTN && (is_const(m, x) || !pass_def(m, x)))
        return pass_fail(k->cx, op, "its input is not computed in @main");
    vec_push(k->cx->a, &k->weights,
             ((Weight){.w = w,
                       .name = ir_cstr(m, value_at(m, w)->name),
                       .layer = op->layer,
                       .input = input_of(k, x, place),
                       .first = place,
                       .last = place,
                       .n = t->dim[0],
                       .k = t->dim[1]}));
    return true;
}

static bool find_weights(Walk *k)
{
    Module *m = k->cx->m;
    u32 fn = pass_fn_index(m, "main");
    Tail t;
    if (!pass_tail(k->cx, fn, &t)) return false;
    for (u32 i = 0; i < m->fns.at[fn].body.n; i++) {
        const Op *op = op_at(m, m->fns.at[fn].body.at[i]);
        if (op->kind != OP_LINEAR || !is_const(m, op->in[1]) ||
            def_of(m, op->in[1])->kind == OP_DEQUANTIZE)
            continue;
        if (!pass_selected(k->cx, op->out == t.head ? "head" : "layers",
                           ir_cstr(m, value_at(m, op->in[1])->name)))
            continue;
        if (!add_weight(k, op, i)) return false;
    }
    return true;
}

/* ---- solving ---- */

static i64 elems_of(const Tensor *t)
{
    i64 n = 1;
    for (u32 d = 0; d < t->rank; d++)
        n *= t->dim[d];
    return n;
}

/* A quantiser's operand is held until its result is dequantized, and takes that one's place. More
 * than a list holds are left quantised. */
static void pass_by(const Walk *k, const CalibCall *call)
{
    const Op *op = op_at(k->cx->m, call->op);
    HeldList *list = &k->held[call->thread];
    if (op->kind == OP_QUANTIZE && list->n < sizeof list->at / sizeof *list->at) {
        size_t bytes = (size_t)elems_of(&call->in[0]) * sizeof(float);
        Held h = {op->out, call->sequence, xmalloc(bytes, 1)};
        memcpy(h.x, call->in[0].f, bytes);
        list->at[list->n++] = h;
    }
    for (u32 i = 0; op->kind == OP_DEQUANTIZE && i < list->n; i++) {
        Held *h = &list->at[i];
        if (h->q != op->in[0] || h->sequence != call->sequence) continue;
        memcpy(call->out[0].f, h->x, (size_t)elems_of(&call->out[0]) * sizeof(float));
    }
}

/* Forgets what a thread held of other sequences. */
static void forget_held(HeldList *list, i64 sequence)
{
    u32 n = 0;
    for (u32 i = 0; i < list->n; i++)
        if (list->at[i].sequence == sequence)
            list->at[n++] = list->at[i];
        else
            free(list->at[i].x);
    list->n = n;
}

static bool run_float(void *user, const CalibCall *call)
{
    const Walk *k = user;
    forget_held(&k->held[call->thread], call->sequence);
    pass_by(k, call);
    return true;
}

static bool sum_inputs(void *user, const CalibCall *call)
{
    const Walk *k = user;
    const Op *op = op_at(k->cx->m, call->op);
    run_float(user, call);
    for (u32 i = 0; i < k->inputs.n; i++) {
        const Input *in = &k->inputs.at[i];
        if (!in->g || in->def != call->op) continue;
        const Tensor *t = &call->out[in->x - op->out];
        i64 cols = gram_size(in->g), rows = elems_of(t) / cols;
        if (in->without)
            gram_add_drift(in->g, call->thread, t->f, in->without[call->sequence], rows);
        else
            gram_add(in->g, call->thread, t->f, rows, cols);
    }
    return true;
}

/* A run to `end`. */
static bool advance(Walk *k, Calib *run, u32 end, CalibHook *hook)
{
    bool ok = calib_run(run, end, 0, true, hook, k);
    for (u32 i = 0; i < calib_threads(run); i++)
        forget_held(&k->held[i], -1);
    return ok;
}

static const char *array_name(const Walk *k, const Weight *w, const char *suffix)
{
    return arena_printf(k->cx->a, "%s%s", w->name, suffix);
}

static void dequantized(const Walk *k, const Weight *w, const QuantWeight *q, float *out)
{
    const i64 group = k->f.group > 0 ? k->f.group : w->k, groups = weight_groups(&k->f, w->k);
    for (i64 r = 0; r < w->n; r++)
        for (i64 g = 0; g < groups; g++) {
            float s = q->s[r * groups + g], m = q->m ? q->m[r * groups + g] : 0;
            i64 end = (g + 1) * group < w->k ? (g + 1) * group : w->k;
            for (i64 c = g * group; c < end; c++)
                out[r * w->k + c] = (float)q->q[r * w->k + c] * s + m;
        }
}

/* What the weight computes of the calibration inputs against what its error does, in dB. */
static float output_sqnr(const Gram *g, const Weight *w, const float *dense, const double *err,
                         u32 threads)
{
    double signal = gram_energy(g, dense, w->n, threads), noise = 0;
    for (i64 r = 0; r < w->n; r++)
        noise += err[r];
    return noise > 0 && signal > 0 ? (float)(10 * log10(signal / noise)) : 200;
}

static bool solve(Walk *k, Weight *w)
{
    const Input *in = &k->inputs.at[w->input];
    const Gram *g = in->g;
    const u32 threads = calib_threads(k->run);
    const float *dense = calib_weight(k->run, w->w);
    if (!dense) return false;
    const i64 groups = weight_groups(&k->f, w->k), shape[2] = {w->n, w->k}, per[2] = {w->n, groups};
    const size_t elems = (size_t)w->n * (size_t)w->k, ranges = (size_t)w->n * (size_t)groups;
    float *grid = xmalloc(2 * ranges, sizeof *grid);
    QuantWeight q = {.q = xmalloc(elems, 1),
                     .s = grid,
                     .m = k->f.asym ? grid + ranges : NULL,
                     .err = xmalloc((size_t)w->n, sizeof *q.err)};
    w->dense = xmalloc(elems, sizeof *w->dense);
    if (in->without) {
        gram_shift(g, k->drift, dense, w->n, threads, w->dense);
        dense = w->dense;
    }
    weight_solve(g, &k->f, k->method, dense, w->n, w->k, threads, &q);
    float sqnr = output_sqnr(g, w, dense, q.err, threads);
    dequantized(k, w, &q, w->dense);
    calib_override(k->run, w->w, w->dense);
    calib_put(k->cache, array_name(k, w, SUFFIX_Q), DT_S8, 2, shape, q.q);
    calib_put(k->cache, array_name(k, w, SUFFIX_SCALE), DT_F32, 2, per, q.s);
    if (q.m) calib_put(k->cache, array_name(k, w, SUFFIX_MIN), DT_F32, 2, per, q.m);
    calib_put(k->cache, array_name(k, w, ".sqnr"), DT_F32, 0, NULL, &sqnr);
    free(q.q);
    free(q.err);
    free(grid);
    return true;
}

/* Weights behind the run are no longer read. */
static void drop_past(Walk *k, u32 at)
{
    for (u32 i = 0; i < k->weights.n; i++) {
        Weight *w = &k->weights.at[i];
        if (!w->dense || w->last >= at) continue;
        calib_override(k->run, w->w, NULL);
        free(w->dense);
        w->dense = NULL;
    }
}

/* Starts the sums of inputs that are made before `end`; the float model is there already. */
static void open_sums(Walk *k, u32 end)
{
    const Module *m = k->cx->m;
    for (u32 i = 0; i < k->inputs.n; i++) {
        Input *in = &k->inputs.at[i];
        u32 made = ir_op_position(m, in->def);
        if (made < calib_at(k->run) || made >= end) continue;
        i64 cols = type_cols(type_of(m, in->x));
        bool drift = k->without && gram_may_drift(cols);
        in->g = gram_new(cols, calib_threads(k->run), drift);
        if (!drift) continue;
        in->without = NEWN(k->cx->a, const float *, k->sequences);
        for (i64 s = 0; s < k->sequences; s++)
            if (!(in->without[s] = calib_value(k->without, in->x, s)))
                BUG("weights: an input of the float model was not kept");
    }
}

static bool solve_input(Walk *k, u32 i)
{
    Input *in = &k->inputs.at[i];
    if (k->without && !advance(k, k->without, in->first, run_float)) return false;
    open_sums(k, in->first);
    if (!advance(k, k->run, in->first, sum_inputs)) return false;
    drop_past(k, in->first);
    if (!gram_factor(in->g, k->damp, k->order, calib_threads(k->run)))
        return pass_fail(k->cx, def_of(k->cx->m, in->x),
                         "its values on the calibration text are not finite");
    bool ok = true;
    for (u32 j = 0; ok && j < k->weights.n; j++)
        if (k->weights.at[j].input == i) ok = solve(k, &k->weights.at[j]);
    gram_free(in->g);
    in->g = NULL;
    return ok;
}

static bool compute(Walk *k)
{
    PassCx *cx = k->cx;
    CalibBudget b = calib_budget(cx, CALIB_GPTQ);
    i64 have = cx->calib->n / b.length;
    if (cx->calib->tokens && have < b.sequences && have > 0) { /* a shorter text serves too */
        diag_warn(cx->d, LOC_WHAT("pass weights"),
                  "the calibration text gives %lld sequences of %lld tokens, %lld are wanted; "
                  "--calibration FILE names a longer one",
                  (long long)have, (long long)b.length, (long long)b.sequences);
        b.sequences = have;
    }
    k->sequences = b.sequences;
    k->run = calib_new(cx, b.sequences, b.length);
    bool ok = k->run != NULL, drift = ok && k->drift > 0 && k->method == METHOD_GPTQ;
    if (ok) k->held = NEWN(cx->a, HeldList, calib_threads(k->run));
    if (drift) ok = (k->without = calib_new(cx, b.sequences, b.length)) != NULL;
    for (u32 i = 0; ok && i < k->inputs.n; i++) {
        calib_progress(cx, "weights", i, k->inputs.n);
        ok = solve_input(k, i);
    }
    if (ok) calib_progress(cx, "weights", k->inputs.n, k->inputs.n);
    for (u32 i = 0; i < k->inputs.n; i++)
        gram_free(k->inputs.at[i].g);
    if (k->run) drop_past(k, UINT32_MAX);
    calib_free(k->run);
    calib_free(k->without);
    return ok && calib_commit(k->cache);
}

/* ---- applying ---- */

static const char *dtype_of(const WeightForm *f)
{
    return f->bits == 4 ? (f->asym ? "u4" : "s4") : (f->asym ? "u8" : "s8");
}

/* Scale, minimum and integers as expressions of the weight. */
static bool lazy(Walk *k, Builder *b, const Weight *w, ValueId *q, ValueId *s, ValueId *min)
{
    const AttrSpec common[] = {{A_DTYPE, .s = dtype_of(&k->f)},
                               {A_GROUP, .i = k->f.group},
                               {A_FULL, .i = !k->f.asym},
                               {0}},
                   range[] = {common[0], common[1], common[2], {A_ZERO, .i = k->f.zero}, {0}};
    *s = ir_op(b, k->f.asym ? OP_QPARAMS_ASYM : OP_QPARAMS, INS(w->w), range, 0,
               array_name(k, w, SUFFIX_SCALE));
    if (!*s) return false;
    *min = k->f.asym ? *s + 1 : 0; /* the second result */
    *q = ir_op(b, OP_QUANTIZE, INS(w->w, *s, *min), common, 0, array_name(k, w, SUFFIX_Q));
    return *q != 0;
}

static bool solved(Walk *k, Builder *b, const Weight *w, ValueId *q, ValueId *s, ValueId *min)
{
    Module *m = k->cx->m;
    const i64 shape[2] = {w->n, w->k}, per[2] = {w->n, weight_groups(&k->f, w->k)};
    const char *qn = array_name(k, w, SUFFIX_Q), *sn = array_name(k, w, SUFFIX_SCALE);
    const char *mn = array_name(k, w, SUFFIX_MIN);
    DType dt = dtype_by_name(str_c(dtype_of(&k->f)));
    *q = calib_constant(k->cache, b, qn, ir_type(m, dt, 2, shape), qn);
    *s = *q ? calib_constant(k->cache, b, sn, ir_type(m, DT_F32, 2, per), sn) : 0;
    *min = 0;
    if (*s && k->f.asym) {
        *min = calib_constant(k->cache, b, mn, ir_type(m, DT_F32, 2, per), mn);
        if (!*min) return false;
    }
    Type t;
    const void *sqnr;
    if (calib_get(k->cache, array_name(k, w, ".sqnr"), &t, &sqnr))
        ir_meta_float(m, arena_printf(k->cx->a, "sqnr.w.%s", w->name),
                      (double)*(const float *)sqnr);
    return *s != 0;
}

static bool apply(Walk *k, const Weight *w)
{
    Module *m = k->cx->m;
    Builder b = {.m = m, .d = k->cx->d, .layer = w->layer};
    ValueId q, s, min;
    if (!(k->method == METHOD_RTN ? lazy : solved)(k, &b, w, &q, &s, &min)) return false;
    ValueId dq = ir_op(&b, OP_DEQUANTIZE, INS(q, s, min), ATTRS({A_GROUP, .i = k->f.group}), 0,
                       array_name(k, w, SUFFIX_DQ));
    if (!dq) return false;
    const Fn *f = &m->fns.at[pass_fn_index(m, "main")];
    for (u32 i = w->first; i <= w->last; i++) {
        Op *op = op_at(m, f->body.at[i]);
        if (op->kind != OP_LINEAR || op->in[1] != w->w) continue;
        op->in[1] = dq;
        k->cx->changes++;
    }
    return true;
}

/* ---- options ---- */

static void read_options(Walk *k)
{
    const PassCx *cx = k->cx;
    static const char *const methods[] = {"rtn", "clip", "gptq"};
    u32 i = 0;
    while (strcmp(methods[i], pass_word(cx, "method")) != 0)
        i++;
    k->method = cx->calib->assumed > 0 ? METHOD_RTN : (WeightMethod)i;
    k->f = (WeightForm){.bits = (u32)pass_int(cx, "bits"),
                        .asym = pass_int(cx, "asym") != 0,
                        .zero = pass_int(cx, "zero") != 0,
                        .group = pass_int(cx, "group")};
    k->order = pass_int(cx, "order") != 0;
    k->damp = pass_num(cx, "damp");
    k->drift = (float)pass_num(cx, "drift");
}

bool pass_weights(PassCx *cx)
{
    Walk k = {.cx = cx};
    read_options(&k);
    if (!find_weights(&k)) return false;
    bool found = true;
    if (k.method != METHOD_RTN && k.weights.n) {
        k.cache = calib_cache(cx, &found);
        if (!k.cache || (!found && !compute(&k))) return false;
    }
    for (u32 i = 0; i < k.weights.n; i++)
        if (!apply(&k, &k.weights.at[i])) return false;
    return true;
}
