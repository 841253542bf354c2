/* ir/base: arenas, maps, JSON with positions, half floats. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "ir/base/half.h"
#include "ir/base/json.h"

#include <math.h>

static void half_round_trips(void **state)
{
    (void)state;
    for (u32 h = 0; h < 65536; h++) {
        float f = f16_to_f32((u16)h);
        if (isnan(f)) assert_true(isnan(f16_to_f32(f32_to_f16(f))));
        else assert_int_equal(f32_to_f16(f), h);
        float b = bf16_to_f32((u16)h);
        if (!isnan(b)) assert_int_equal(f32_to_bf16(b), h);
    }
    assert_int_equal(f32_to_f16(1.0f + 0x1p-11f), 0x3c00); /* ties to even */
    assert_int_equal(f32_to_f16(1.0f + 3 * 0x1p-11f), 0x3c02);
    assert_int_equal(f32_to_f16(0x1p-25f), 0);
    assert_int_equal(f32_to_f16(65519.f), 0x7bff);
    assert_int_equal(f32_to_f16(65520.f), 0x7c00);
}

static void arena_marks_reset(void **state)
{
    (void)state;
    Arena a = {0};
    char *p = arena_strdup(&a, "keep", 4);
    ArenaMark m = arena_mark(&a);
    for (int i = 0; i < 100; i++) memset(arena_alloc(&a, 10000, 1, 8), 7, 10000);
    arena_reset(&a, m);
    char *q = arena_alloc(&a, 100, 1, 1);
    for (int i = 0; i < 100; i++) assert_int_equal(q[i], 0);
    assert_string_equal(p, "keep");
    arena_free(&a);
    /* A mark far into a block, left behind by blocks that hold little: everything behind the mark is zero again. */
    memset(arena_alloc(&a, 60000, 1, 1), 0xff, 60000);
    m = arena_mark(&a);
    memset(arena_alloc(&a, 5000, 1, 1), 0xff, 5000);
    memset(arena_alloc(&a, 3000, 1, 1), 0xff, 3000);
    arena_reset(&a, m);
    const unsigned char *p2 = arena_alloc(&a, 5000, 1, 1);
    for (int i = 0; i < 5000; i++) assert_int_equal(p2[i], 0);
    arena_free(&a);
}

static void maps_find_what_was_put(void **state)
{
    (void)state;
    Arena a = {0};
    Map m = {.a = &a};
    for (u32 i = 0; i < 5000; i++) *map_put(&m, str_c(arena_printf(&a, "k%u", i)), NULL) = i;
    for (u32 i = 0; i < 5000; i++) assert_int_equal(*map_get(&m, str_c(arena_printf(&a, "k%u", i))), i);
    assert_null(map_get(&m, STR("k5000")));
    assert_string_equal(str_nearest(STR("rmsnrom"), (const char *[]){"linear", "rmsnorm"}, 2), "rmsnorm");
    arena_free(&a);
}

static const Json *parse(Arena *a, Diag *d, Source *src, const char *text)
{
    *src = (Source){"t.json", text, strlen(text)};
    diag_init(d, a);
    d->silent = true;
    return json_parse(d, a, src);
}

static void json_reads_values_and_places(void **state)
{
    (void)state;
    Arena a = {0};
    Diag d;
    Source src;
    const Json *j = parse(&a, &d, &src,
                          "{\"a\": [1, -2.5e3, \"x\\u00e9\"],\n \"b\": {\"c\": null}, \"n\": 9007199254740993}");
    assert_non_null(j);
    const Json *l = json_get(j, "a");
    assert_int_equal(l->n, 3);
    assert_int_equal(l->at[0].i, 1);
    assert_true(fabs(l->at[1].num + 2500) < 1e-9);
    assert_true(str_is(l->at[2].str, "x\xc3\xa9"));
    assert_int_equal(json_get(j, "n")->i, 9007199254740993);
    u32 line, col;
    loc_line_col(json_loc(&src, json_get(json_get(j, "b"), "c")), &line, &col);
    assert_int_equal(line, 2);
    assert_int_equal(col, 13);
    assert_null(json_get(j, "A"));
    arena_free(&a);
}

static void json_refuses(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",    "{",  "[1,]",    "{\"a\":1,}",  "01",    "1.",      "-",    "1e",      "nul", "\"\\u0000\"", "\"\\ud800\"", "\"\\x\"",
        "\"\n\"", "{\"a\":1,\"a\":2}", "1 2", "1e999", "\"\xff\"", "[1 2]", "{1:2}", "\"abc", "+1",        ".5",          "NaN",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        Arena a = {0};
        Diag d;
        Source src;
        if (parse(&a, &d, &src, texts[i])) fail_msg("accepted %s", texts[i]);
        assert_int_equal(d.n_errors, 1);
        arena_free(&a);
    }
    for (size_t n = 128; n <= 129; n++) {
        char deep[400];
        Arena a = {0};
        Diag d;
        Source src;
        memset(deep, '[', n);
        memset(deep + n, ']', n);
        deep[2 * n] = 0;
        assert_int_equal(parse(&a, &d, &src, deep) != NULL, n == 128);
        arena_free(&a);
    }
}

static void floats_print_shortest(void **state)
{
    (void)state;
    Arena a = {0};
    StrBuf b = {.a = &a};
    sb_f64(&b, 1e-5), sb_ch(&b, ' '), sb_f64(&b, 10000), sb_ch(&b, ' '), sb_f32(&b, 0.1f), sb_ch(&b, ' '), sb_f64(&b, 3);
    assert_string_equal(b.p, "1e-05 1e+04 0.1 3.0");
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(half_round_trips),       cmocka_unit_test(arena_marks_reset),
        cmocka_unit_test(maps_find_what_was_put), cmocka_unit_test(json_reads_values_and_places),
        cmocka_unit_test(json_refuses),           cmocka_unit_test(floats_print_shortest),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
