/* Small models of random shape, written with quantised linears and attention in every form that the
 * recipes use, behind prefixes of random length: @main and the phased, lowered module are the same
 * function. Also what single forms become. */
#include "passes/passes.h"

#include "tests/unit/random.h"
#include "tests/unit/tiny_llama.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "ir/compare.h"
#include "passes/calib/calib.h"

#include <dirent.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- quantising a graph by hand ---- */

typedef enum ScaleKind { SCALE_STATIC, SCALE_DYNAMIC, SCALE_ASYM, SCALE_KINDS } ScaleKind;

typedef struct Form { /* of one quantised value */
    const char *dtype;
    ScaleKind scale;
    i64 group; /* of weights and their activations */
} Form;

typedef struct Quantiser {
    Random r;
    Diag *d;
    Module *m;
    u32 fn;
    i64 prefix;
} Quantiser;

static ValueId literal(Quantiser *z, const char *name, u32 rank, const i64 *dim, double lo,
                       double hi)
{
    Builder c = {.m = z->m, .d = z->d, .layer = -1};
    double v[64];
    i64 n = 1;
    for (u32 i = 0; i < rank; i++)
        n *= dim[i];
    for (i64 i = 0; i < n; i++)
        v[i] = lo + (hi - lo) * (1 + below(&z->r, 1000)) / 1000.0;
    return ir_op(&c, OP_LITERAL, NULL, 0, ATTRS({A_VALUES, .n = (u32)n, .floats = v}),
                 ir_type(z->m, DT_F32, rank, dim), name);
}

/* Scales that the calls compute. A full-range maximum lies on a tie (7.5), which rounding noise
 * would break either way: the clip factor moves it. Those of caches are rounded to f16, as caches
 * keep them. */
static ValueId dynamic_scale(Quantiser *z, Builder *b, ValueId x, const Form *f, bool half)
{
    const AttrSpec *form =
        ATTRS({A_DTYPE, .s = f->dtype}, {A_GROUP, .i = f->group}, {A_SCALE, .f = 0.93},
              {A_FULL, .i = *f->dtype == 's' && strcmp(f->dtype, "s16") ? below(&z->r, 2) : 0});
    ValueId s = ir_op(b, OP_QPARAMS, INS(x), form, 0, NULL);
    return half ? ir_op(b, OP_CAST, INS(s), ATTRS({A_DTYPE, .s = "f16"}), 0, NULL) : s;
}

/* dequantize(quantize(x)) in the form f; a static scale is one number or, for [T,heads,d], one per
 * head. */
static ValueId quantised(Quantiser *z, Builder *b, ValueId x, const Form *f, double range)
{
    const Type *t = type_of(z->m, x);
    const i64 dim[2] = {t->rank == 3 && below(&z->r, 4) ? t->dim[1] : 1, 1};
    bool rows = t->rank == 3, sign = *f->dtype == 's', full = sign && strcmp(f->dtype, "s16") != 0;
    double top = (double)dtype_info[dtype_by_name(str_c(f->dtype))].hi;
    ValueId s = 0, m = 0;
    if (f->scale == SCALE_STATIC) s = literal(z, "static", 2, dim, range / top / 2, range / top);
    if (f->scale == SCALE_STATIC && !sign) m = literal(z, "offset", 2, dim, -range, -range / 2);
    if (f->scale == SCALE_DYNAMIC) s = dynamic_scale(z, b, x, f, rows);
    if (f->scale == SCALE_ASYM) {
        s = ir_op(b, OP_QPARAMS_ASYM, INS(x),
                  ATTRS({A_DTYPE, .s = f->dtype}, {A_GROUP, .i = f->group},
                        {A_SCALE, .f = below(&z->r, 2) ? 1 : 0.9}),
                  0, NULL);
        m = s + 1;
    }
    ValueId q = ir_op(
        b, OP_QUANTIZE, INS(x, s, m),
        ATTRS({A_DTYPE, .s = f->dtype}, {A_GROUP, .i = f->group}, {A_FULL, .i = full}), 0, NULL);
    return ir_op(b, OP_DEQUANTIZE, INS(q, s, m), ATTRS({A_GROUP, .i = f->group}), 0, NULL);
}

static ValueId quantised_weight(Quantiser *z, ValueId w, const Form *f)
{
    Builder c = {.m = z->m, .d = z->d, .layer = -1};
    const AttrSpec *form = ATTRS({A_DTYPE, .s = f->dtype}, {A_GROUP, .i = f->group}),
                   *full = ATTRS({A_DTYPE, .s = f->dtype}, {A_FULL, .i = 1});
    bool asym = f->scale == SCALE_ASYM;
    ValueId s = ir_op(&c, asym ? OP_QPARAMS_ASYM : OP_QPARAMS, INS(w), asym ? form : full, 0,
                      "w.s"),
            m = asym ? s + 1 : 0;
    ValueId q = ir_op(&c, OP_QUANTIZE, INS(w, s, m), asym ? form : full, 0, "w.q");
    return ir_op(&c, OP_DEQUANTIZE, INS(q, s, m), ATTRS({A_GROUP, .i = f->group}), 0, "w.dq");
}

static const struct {
    Form w, x;
} linear_forms[] = {
    {{"s4", SCALE_DYNAMIC, 0}, {"s4", SCALE_STATIC, 0}},
    {{"s4", SCALE_DYNAMIC, 0}, {"s8", SCALE_STATIC, 0}},
    {{"s8", SCALE_DYNAMIC, 0}, {"s8", SCALE_STATIC, 0}},
    {{"s4", SCALE_DYNAMIC, 0}, {"s4", SCALE_DYNAMIC, 0}},
    {{"s8", SCALE_DYNAMIC, 0}, {"s8", SCALE_DYNAMIC, 0}},
    {{"u4", SCALE_ASYM, 16}, {"s16", SCALE_DYNAMIC, 16}},
    {{"u4", SCALE_ASYM, 16}, {"s8", SCALE_DYNAMIC, 0}},
    {{"u4", SCALE_ASYM, 8}, {"s8", SCALE_STATIC, 0}},
};
enum { N_LINEAR = sizeof linear_forms / sizeof *linear_forms };

static void quantise_linear(Quantiser *z, OpId id)
{
    u32 k = below(&z->r, N_LINEAR + 1);
    if (k == N_LINEAR) return;
    Form w = linear_forms[k].w, x = linear_forms[k].x;
    i64 cols = type_cols(type_of(z->m, op_at(z->m, id)->in[1]));
    if (w.group > cols) w.group = x.group = 0;
    Builder b = {.m = z->m, .d = z->d, .fn = z->fn, .before = id, .layer = op_at(z->m, id)->layer};
    ValueId wq = quantised_weight(z, op_at(z->m, id)->in[1], &w),
            xq = quantised(z, &b, op_at(z->m, id)->in[0], &x, 4);
    op_at(z->m, id)->in[0] = xq;
    op_at(z->m, id)->in[1] = wq;
}

static const Form kv_forms[] = {{"s4", SCALE_STATIC, 0},  {"s8", SCALE_STATIC, 0},
                                {"u4", SCALE_STATIC, 0},  {"s4", SCALE_DYNAMIC, 0},
                                {"s8", SCALE_DYNAMIC, 0}, {"u4", SCALE_ASYM, 0},
                                {"u8", SCALE_ASYM, 0}};
enum { N_KV = sizeof kv_forms / sizeof *kv_forms };

/* Another attention in its place, with quantised operands and a prefix. */
static void quantise_attention(Quantiser *z, OpId id)
{
    const Op op = *op_at(z->m, id);
    Builder b = {.m = z->m, .d = z->d, .fn = z->fn, .before = id, .layer = op.layer};
    ValueId in[6] = {op.in[0], op.in[1], op.in[2], op.in[3]};
    const Form q[2] = {{"s8", SCALE_STATIC, 0}, {"s8", SCALE_DYNAMIC, 0}};
    u32 kq = below(&z->r, 3);
    if (kq < 2) in[0] = quantised(z, &b, in[0], &q[kq], 6);
    for (u32 side = 1; side < 3; side++) {
        u32 k = below(&z->r,
                      kq < 2 && side == 1 ? N_KV : N_KV + 1); /* keys or values may stay floats */
        if (k < N_KV) in[side] = quantised(z, &b, in[side], &kv_forms[k], 3);
    }
    const Type *k = type_of(z->m, in[1]);
    const i64 dim[3] = {z->prefix, k->dim[1], k->dim[2]};
    Builder c = {.m = z->m, .d = z->d, .layer = op.layer};
    for (u32 i = 4; z->prefix && i < 6; i++)
        in[i] = ir_op(
            &c, OP_SYNTHETIC, NULL, 0,
            ATTRS({A_SEED, .i = 11}, {A_STREAM, .i = 2 * op.layer + (i64)i}, {A_SCALE, .f = 2}),
            ir_type(z->m, DT_F16, 3, dim), "prefix");
    ValueId y =
        ir_op(&b, OP_ATTENTION, in, z->prefix ? 6 : 4,
              ATTRS({A_CACHE, .i = op_int(&op, A_CACHE)}, {A_SCALE, .f = op_float(&op, A_SCALE)},
                    {A_WINDOW, .i = op_int(&op, A_WINDOW)}),
              0, NULL);
    ir_replace_uses(z->m, op.out, y);
    ir_erase(z->m, id);
}

static void quantise_graph(Quantiser *z)
{
    z->fn = (u32)(ir_fn(z->m, "main") - z->m->fns.at);
    u32 known = z->m->ops.n;
    for (OpId id = 1; id < known; id++) {
        if (op_at(z->m, id)->fn != z->fn) continue;
        OpKind kind = op_at(z->m, id)->kind;
        if (kind == OP_LINEAR) quantise_linear(z, id);
        if (kind == OP_ATTENTION) quantise_attention(z, id);
    }
}

/* ---- the model ---- */

static TinyLlama random_shape(Random *r)
{
    static const i64 dims[] = {4, 6, 8, 10, 12, 16, 20};
    TinyLlama t = {
        .layers = 1 + below(r, 2), .head_dim = dims[below(r, 7)], .kv_heads = 1 + below(r, 3)};
    t.heads = t.kv_heads * (1 + below(r, 4));
    t.hidden = 8 + below(r, 40);
    t.ffn = 9 + below(r, 60);
    t.vocab = 20 + below(r, 60);
    t.window = below(r, 3) ? 0 : 2 + below(r, 4);
    t.tied = below(r, 2);
    t.bias = below(r, 2);
    t.qk_norm = below(r, 2);
    return t;
}

static bool run_with(Diag *d, Module *m, const char *text, const CalibSource *calib)
{
    Source *src = NEW(d->a, Source);
    *src = (Source){"test", text, strlen(text)};
    Pipeline p = {0};
    PassOptions o = {.verify_each = true, .calib = calib};
    return pipeline_parse(d, d->a, src, &p) && passes_run(d, m, &p, &o);
}

static bool run(Diag *d, Module *m, const char *text)
{
    return run_with(d, m, text, NULL);
}

enum { TOKENS = 9 };

static double *logits(Diag *d, Module *m, bool decode, i64 *n)
{
    static const i32 tokens[TOKENS] = {3, 1, 4, 1, 5, 9, 2, 6, 5};
    double *v = compare_logits(d, m, tokens, TOKENS, decode, d->a, n);
    diag_flush(d);
    assert_non_null(v);
    return v;
}

/* What comes before quantising changes nothing but the basis; it puts transforms and slices on the
 * way. */
static const char *const before[] = {
    "canonicalise", "untie,fuse-norm,rotate{seed=3}", "untie,fuse-norm,rotate,merge-linears",
    "untie,fuse-norm,merge-linears", "untie,fuse-norm,rotate{skip=r1+r2,block=4}"};

/* How often each form came up, so that a change of the generator cannot empty the test. */
typedef struct Seen {
    u32 attend, integer_q, integer_k, integer_v, offsets, kept_scales, prefix, window, qlinear,
        static_linear, linear;
} Seen;

static void look(const Module *m, Seen *s)
{
    for (OpId i = 1; i < m->ops.n; i++) {
        const Op *op = op_at(m, i);
        if (!op->fn) continue;
        s->linear += op->kind == OP_LINEAR;
        s->qlinear += op->kind == OP_QLINEAR;
        s->static_linear += op->kind == OP_QLINEAR && is_const(m, op->in[1]);
        if (op->kind != OP_ATTEND) continue;
        bool kept = op_in(op, 5) && def_of(m, op->in[5])->kind == OP_STATE;
        s->attend++;
        s->integer_q += op_in(op, 4) != 0;
        s->integer_k += op_in(op, 5) != 0;
        s->integer_v += op_in(op, 7) != 0;
        s->offsets += op_in(op, 6) || op_in(op, 8);
        s->kept_scales += kept;
        s->prefix += op_in(op, 9) != 0;
        s->window += op_int(op, A_WINDOW) > 0;
    }
}

static void check_graph(u64 seed, Seen *seen)
{
    Arena a = {0};
    Diag d;
    diag_init(&d, &a);
    Quantiser z = {.r = {seed * 2 + 1}, .d = &d};
    TinyLlama t = random_shape(&z.r);
    z.m = tiny_llama(&d, &t);
    bool ok = run(&d, z.m, before[below(&z.r, 5)]);
    z.prefix = below(&z.r, 2) ? 0 : 1 + below(&z.r, 4);
    if (ok) quantise_graph(&z);
    diag_flush(&d);
    if (!ok || d.n_errors) fail_msg("seed %llu", (unsigned long long)seed);
    i64 n, k;
    double *ref = logits(&d, z.m, false, &n);
    ok = run(&d, z.m, "phases{chunk=4,rows=4},lower,cse,dce");
    diag_flush(&d);
    if (!ok) fail_msg("seed %llu", (unsigned long long)seed);
    u32 attends = seen->attend;
    look(z.m, seen);
    assert_int_equal(seen->attend - attends, 2 * t.layers);
    double prefill = compare_values(ref, logits(&d, z.m, false, &k), n).rel,
           decode = compare_values(ref, logits(&d, z.m, true, &k), n).rel;
    if (!(prefill <= 1e-9 && decode <= 1e-9))
        fail_msg("seed %llu: %.1e and %.1e", (unsigned long long)seed, prefill, decode);
    arena_free(&a);
}

static void random_graphs(void **state)
{
    (void)state;
    Seen s = {0};
    for (u64 seed = 0; seed < 200; seed++)
        check_graph(seed, &s);
    const u32 n[] = {s.integer_q, s.integer_k,     s.integer_v,
                     s.offsets,   s.kept_scales,   s.prefix,
                     s.window,    s.static_linear, s.qlinear - s.static_linear,
                     s.linear};
    for (u32 i = 0; i < sizeof n / sizeof *n; i++)
        if (n[i] < 50) fail_msg("form %u came up %u times in %u attentions", i, n[i], s.attend);
}

/* ---- the passes of recipes ---- */

/* Everything of a recipe but what needs text: rounding instead of GPTQ, ranges that are assumed. */
static const char *const recipe[] = {
    "untie,fuse-norm,rotate{seed=1},prefix,merge-linears,static-scales{a=4,kv=4,q=8,max=3},"
    "weights{bits=4,method=rtn}",
    "untie,fuse-norm,rotate,prefix,merge-linears,static-scales{a=8,kv=4,q=8,max=3},"
    "weights{bits=4,method=rtn}",
    "untie,fuse-norm,rotate,prefix,merge-linears,static-scales{a=8,kv=8,q=8,max=3},"
    "weights{bits=8,method=rtn}",
    "untie,fuse-norm,rotate,merge-linears,weights{bits=4,method=rtn},static-scales{a=8,kv=8,q=0,"
    "max=3}",
    "untie,fuse-norm,rotate,prefix,merge-linears,dynamic-scales{a=4,kv=4,clip=0.9,kvclip=0.95,"
    "kvasym},weights{bits=4,method=rtn}",
    "untie,fuse-norm,rotate,merge-linears,dynamic-scales{a=8,kv=8,kvasym},weights{bits=8,"
    "method=rtn}",
};
enum { N_RECIPES = sizeof recipe / sizeof *recipe };
static const char ends[] = ",quantize-weights{bits=8,sym,only=head+embedding},"
                           "quantize-activations{dtype=s16,only=head}";

static void check_recipe(u64 seed, const char *text, const char *cache)
{
    Arena a = {0};
    Diag d;
    diag_init(&d, &a);
    Random r = {seed * 2 + 1};
    TinyLlama t = random_shape(&r);
    t.head_dim = 4 << below(&r, 4); /* a power of two, as the kernel's online transform needs */
    Module *m = tiny_llama(&d, &t);
    const CalibSource source = {.bos = -1,
                                .eos = -1,
                                .threads = 1,
                                .cache_dir = cache,
                                .prefix = below(&r, 3) ? "3 1" : "none"};
    i64 n, k;
    bool ok = run_with(&d, m, arena_printf(&a, "%s%s", text, ends), &source);
    diag_flush(&d);
    if (!ok) fail_msg("seed %llu: %s", (unsigned long long)seed, text);
    double *ref = logits(&d, m, false, &n);
    ok = run_with(&d, m, "phases{chunk=4,rows=4,kv=f16},lower,cse,dce,fuse,layout,memory", &source);
    diag_flush(&d);
    if (!ok) fail_msg("seed %llu: %s", (unsigned long long)seed, text);
    for (OpId i = 1; i < m->ops.n; i++)
        if (op_at(m, i)->fn &&
            (op_at(m, i)->kind == OP_DEQUANTIZE || op_at(m, i)->kind == OP_LINEAR))
            fail_msg("seed %llu: %s leaves an op on floats", (unsigned long long)seed, text);
    double prefill = compare_values(ref, logits(&d, m, false, &k), n).rel,
           decode = compare_values(ref, logits(&d, m, true, &k), n).rel;
    if (!(prefill <= 1e-9 && decode <= 1e-9))
        fail_msg("seed %llu: %s: %.1e and %.1e", (unsigned long long)seed, text, prefill, decode);
    arena_free(&a);
}

static void remove_folder(const char *path)
{
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (*e->d_name != '.') unlinkat(dirfd(dir), e->d_name, 0);
    if (dir) closedir(dir);
    rmdir(path);
}

static void recipes_on_random_shapes(void **state)
{
    (void)state;
    char cache[] = "/tmp/pfqc-graphs-XXXXXX";
    assert_non_null(mkdtemp(cache));
    for (u64 seed = 0; seed < 60; seed++)
        check_recipe(seed, recipe[seed % N_RECIPES], cache);
    remove_folder(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_graphs),
                                       cmocka_unit_test(recipes_on_random_shapes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
