/* The text form: every op round-trips exactly, every op's rules refuse a breach, damaged text is one diagnostic. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "ir/text.h"

#include <stdio.h>

static Source load(Arena *a, const char *path)
{
    Diag d;
    Source s;
    diag_init(&d, a);
    if (!io_read_text(&d, a, path, 1 << 20, &s)) fail_msg("cannot read %s", path);
    return s;
}

static void every_op_round_trips(void **state)
{
    (void)state;
    Arena a = {0};
    Diag d;
    diag_init(&d, &a);
    Source src = load(&a, "tests/ir/ops.pfir");
    Module *m = ir_parse(&d, &a, &src, ".");
    diag_flush(&d);
    assert_non_null(m);
    StrBuf out = {.a = &a};
    ir_print(m, &out);
    assert_string_equal(out.p, src.text);
    bool seen[OP_COUNT] = {0};
    for (OpId i = 1; i < m->ops.n; i++) seen[op_at(m, i)->kind] = true;
    for (int k = 1; k < OP_COUNT; k++)
        if (!seen[k]) fail_msg("op '%s' has no round-trip test in tests/ir/ops.pfir", op_info[k].mnemonic);
    arena_free(&a);
}

static const char prelude[] =
    "pfir 1\nmodule @bad\nfile 0 \"w.bin\"\n"
    "@w = tensor {enc = \"f32\", file = 0, offset = 0} : f32[8,16]\n"
    "@g = synthetic {scale = 2.0, seed = 1} : f32[16]\n"
    "@k = state : f32[2,C,4]\n@hidden = state : f32[8,16]\n"
    "@freqs = rope_freqs {dim = 4} : f32[2]\n"
    "@s = qparams @w {dtype = \"s8\"} : f32[8,1]\n@q = quantize @w, @s {dtype = \"s8\"} : s8[8,16]\n";

static void every_op_refuses(void **state)
{
    (void)state;
    Arena file_arena = {0};
    Source src = load(&file_arena, "tests/ir/bad_ops.txt");
    bool seen[OP_COUNT] = {0};
    for (const char *p = strstr(src.text, "\n=== ") + 1; p;) {
        const char *nl = strchr(p, '\n'), *end = strstr(nl, "\n=== ");
        const char *colon = strchr(p, ':');
        Arena a = {0};
        Diag d;
        diag_init(&d, &a);
        OpKind kind = op_by_name((Str){p + 4, (size_t)(colon - p - 4)});
        char *want = arena_strdup(&a, colon + 2, (size_t)(nl - colon - 2));
        char *text = arena_printf(&a, "%s%.*s", prelude, (int)(end ? end - nl : (ptrdiff_t)strlen(nl)), nl);
        Source s = {"bad.pfir", text, strlen(text)};
        if (ir_parse(&d, &a, &s, ".")) fail_msg("accepted: %s", text);
        if (d.n_errors != 1 || !strstr(d.msgs.at[0].text, want)) fail_msg("expected '%s', found %u errors: %s", want, d.n_errors, d.msgs.at[0].text);
        seen[kind] = true;
        p = end ? end + 1 : NULL;
        arena_free(&a);
    }
    for (int k = 1; k < OP_COUNT; k++)
        if (!seen[k]) fail_msg("op '%s' has no breach in tests/ir/bad_ops.txt", op_info[k].mnemonic);
    arena_free(&file_arena);
}

/* The name that an op had before it was renamed or erased can be given again. */
static void names_become_free(void **state)
{
    (void)state;
    static const char text[] = /* qparams_asym calls its results @a and @a.1 first */
        "pfir 1\nmodule @m\n@w = synthetic {seed = 1} : f32[8,64]\n"
        "@a, @b = qparams_asym @w {dtype = \"u8\"} : f32[8,1], f32[8,1]\n"
        "@a.1 = cast @w {dtype = \"f16\"} : f16[8,64]\n@z = cast @a.1 {dtype = \"f32\"} : f32[8,64]\n";
    Arena a = {0};
    Diag d;
    diag_init(&d, &a);
    Source src = {"m.pfir", text, sizeof text - 1};
    Module *m = ir_parse(&d, &a, &src, ".");
    diag_flush(&d);
    assert_non_null(m);
    StrBuf out = {.a = &a};
    ir_print(m, &out);
    assert_string_equal(out.p, text);
    Builder b = {.m = m, .d = &d, .layer = -1};
    const OpId last = m->consts.at[m->consts.n - 1];
    const ValueId in = op_at(m, last)->in[0];
    ir_erase(m, last);
    const ValueId v = ir_op(&b, OP_COPY, &in, 1, NULL, 0, "z"), w = ir_op(&b, OP_COPY, &in, 1, NULL, 0, "z");
    assert_string_equal(ir_cstr(m, value_at(m, v)->name), "z");
    assert_string_equal(ir_cstr(m, value_at(m, w)->name), "z.1");
    arena_free(&a);
}

static void truncations_and_flips_are_diagnosed(void **state)
{
    (void)state;
    Arena a = {0};
    Source src = load(&a, "tests/ir/ops.pfir");
    for (size_t n = 0; n < src.n; n++) {
        Arena b = {0};
        Diag d;
        diag_init(&d, &b);
        Source s = {"cut.pfir", arena_strdup(&b, src.text, n), n};
        Module *m = ir_parse(&d, &b, &s, ".");
        assert_true(m ? d.n_errors == 0 : d.n_errors >= 1);
        arena_free(&b);
    }
    for (size_t i = 0; i < src.n * 8; i += 5) {
        Arena b = {0};
        Diag d;
        diag_init(&d, &b);
        char *text = arena_strdup(&b, src.text, src.n);
        text[i / 8] = (char)(text[i / 8] ^ 1 << i % 8);
        Source s = {"flip.pfir", text, src.n};
        Module *m = ir_parse(&d, &b, &s, ".");
        assert_true(m ? d.n_errors == 0 : d.n_errors >= 1);
        if (m) { /* what is accepted must round-trip to itself */
            StrBuf one = {.a = &b}, two = {.a = &b};
            ir_print(m, &one);
            Source again = {"again.pfir", one.p, one.n};
            Module *m2 = ir_parse(&d, &b, &again, ".");
            assert_non_null(m2);
            ir_print(m2, &two);
            assert_string_equal(one.p, two.p);
        }
        arena_free(&b);
    }
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_op_round_trips),
        cmocka_unit_test(every_op_refuses),
        cmocka_unit_test(names_become_free),
        cmocka_unit_test(truncations_and_flips_are_diagnosed),
    };
    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
