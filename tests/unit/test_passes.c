#include "passes/passes.h"

#include "ir/text.h"
#include "tests/unit/tiny_llama.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

static const TinyLlama shapes[] = {
    {.layers = 2, .hidden = 64, .heads = 4, .kv_heads = 2, .head_dim = 16, .ffn = 96, .vocab = 100, .tied = true},
    {.layers = 1, .hidden = 72, .heads = 3, .kv_heads = 1, .head_dim = 24, .ffn = 100, .vocab = 33, .bias = true, .window = 3},
    {.layers = 2, .hidden = 48, .heads = 2, .kv_heads = 2, .head_dim = 20, .ffn = 40, .vocab = 50, .qk_norm = true},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };
static const char *const recipes[] = {"float", "w4a16", "w8a8-dynamic"};

static Module *compiled(Diag *d, const TinyLlama *t, const char *recipe)
{
    Module *m = tiny_llama(d, t);
    Recipe r;
    if (!recipe_load(d, d->a, recipe, &r)) return NULL;
    PassOptions o = {.verify_each = true, .print_after = getenv("PFQC_TEST_PRINT")};
    return passes_run(d, m, &r.pipeline, &o) ? m : NULL;
}

static bool kernel_is(const Module *m, const Fn *f, u32 step, const char *name)
{
    return strcmp(ir_cstr(m, f->steps.at[step].kernel), name) == 0;
}

/* ---- every recipe on every shape ---- */

typedef struct Live {
    i64 at, bytes;
    u32 first, last;
    bool used;
} Live;

/* Bytes of a value in the arena, written apart from the pass: strides of ARCHITECTURE.md. */
static i64 bytes_of(const Module *m, ValueId v)
{
    const Type *t = type_of(m, v);
    i64 rows = t->dim[0] == DIM_T ? ir_meta_get_int(m, "chunk", 0) : t->dim[0] == DIM_R ? ir_meta_get_int(m, "rows", 0) : t->dim[0];
    i64 k = 1;
    for (u32 i = 1; i < t->rank; i++) k *= t->dim[i];
    if (t->dt == DT_S8) return rows * ((k + 63) / 64 * 64);
    if (t->dt == DT_S16) return rows * (op_int(def_of(m, v), A_GROUP) ? (k + 31) / 32 * 64 : 2 * ((k + 63) / 64 * 64));
    assert_int_equal(t->dt, DT_F32);
    return rows * k * 4;
}

static void check_memory(const Module *m, u32 fn)
{
    const Fn *f = &m->fns.at[fn];
    Live *live = calloc(m->values.n, sizeof *live);
    for (u32 i = 0; i < f->body.n; i++) {
        const Op *op = op_at(m, f->body.at[i]);
        for (u32 k = 0; k < op->nin; k++) {
            Live *l = &live[op->in[k]];
            if (l->used && op->step > l->last) l->last = op->step;
        }
        const Attr *at = op_attr(op, A_AT);
        for (u32 k = 0; k < op->nout; k++) {
            if (at->ints[k] < 0) continue;
            live[op->out + k] = (Live){at->ints[k], bytes_of(m, op->out + k), op->step, op->step, true};
            if (op->kind == OP_RESHAPE) assert_int_equal(at->ints[k], live[op->in[0]].at);
        }
    }
    for (ValueId a = 1; a < m->values.n; a++) {
        if (!live[a].used) continue;
        assert_int_equal(live[a].at % 64, 0);
        assert_true((u64)(live[a].at + live[a].bytes) <= f->act_bytes);
        for (ValueId b = 1; b < a; b++) {
            bool alias = def_of(m, a)->kind == OP_RESHAPE || def_of(m, b)->kind == OP_RESHAPE;
            if (!live[b].used || alias || live[a].first > live[b].last || live[b].first > live[a].last) continue;
            assert_true(live[a].at + live[a].bytes <= live[b].at || live[b].at + live[b].bytes <= live[a].at);
        }
    }
    free(live);
}

/* A value read in another step than its own has a place; @hidden keeps its own. */
static void check_crossing(const Module *m, u32 fn)
{
    const Fn *f = &m->fns.at[fn];
    for (u32 i = 0; i < f->body.n; i++) {
        const Op *op = op_at(m, f->body.at[i]);
        for (u32 k = 0; k < op->nin; k++) {
            const Op *def = def_of(m, op->in[k]);
            if (def->kind && def->fn == fn && def->step != op->step) assert_true(op_attr(def, A_AT)->ints[op->in[k] - def->out] >= 0);
        }
    }
}

static void test_recipes(void **state)
{
    (void)state;
    for (u32 s = 0; s < N_SHAPES; s++)
        for (u32 r = 0; r < 3; r++) {
            Arena a = {0};
            Diag d;
            diag_init(&d, &a);
            Module *m = compiled(&d, &shapes[s], recipes[r]);
            diag_flush(&d);
            assert_non_null(m);
            assert_int_equal(passes_stage(m), STAGE_PLANNED);
            assert_int_equal(m->fns.n, 4);
            for (u32 f = 1; f < m->fns.n; f++) check_memory(m, f), check_crossing(m, f);
            const char *w = r == 0 ? "f32" : r == 1 ? "u4g32" : "s8";
            const Fn *p = ir_fn(m, "prefill");
            assert_int_equal(p->steps.n, 1 + shapes[s].layers * (r == 0 ? 7 : 9));
            u32 at = 0;
            assert_true(kernel_is(m, p, at++, r == 0 ? "embed.f32" : "embed.s8"));
            assert_true(kernel_is(m, p, at++, r == 0 ? "norm.f32" : r == 1 ? "norm.s16g32" : "norm.s8"));
            assert_true(kernel_is(m, p, at++, arena_printf(&a, "linear.%s.qkv", w)));
            assert_true(kernel_is(m, p, at++, "attend"));
            if (r) assert_true(kernel_is(m, p, at++, r == 1 ? "quant.s16g32" : "quant.s8"));
            assert_true(kernel_is(m, p, at++, arena_printf(&a, "linear.%s.residual", w)));
            arena_free(&a);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_recipes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
