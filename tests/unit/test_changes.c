/* What a pass changed: lines that went and came, layers that changed alike told once, all of it
 * bounded. */
#include "passes/changes.h"

#include "ir/base/json.h"
#include "ir/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

static Arena a;

static Module *module(const char *text)
{
    Diag d;
    Source *src = NEW(&a, Source);
    diag_init(&d, &a);
    *src = (Source){"test", text, strlen(text)};
    Module *m = ir_parse(&d, &a, src, ".");
    diag_flush(&d);
    assert_non_null(m);
    return m;
}

/* The object that changes_write makes of two modules, read back. */
static const Json *changes(const char *before, const char *after)
{
    Diag d;
    StrBuf b = {.a = &a};
    Source *src = NEW(&a, Source);
    diag_init(&d, &a);
    sb_str(&b, "{");
    changes_write(&a, changes_snapshot(&a, module(before)), changes_snapshot(&a, module(after)),
                  &b);
    sb_str(&b, "}");
    *src = (Source){"changes", b.p, b.n};
    const Json *j = json_parse(&d, &a, src);
    diag_flush(&d);
    assert_non_null(j);
    return j;
}

static i64 number(const Json *j, const char *key)
{
    return json_get(j, key)->i;
}

static const Json *edit(const Json *j, u32 i)
{
    const Json *edits = json_get(j, "edits");
    assert_true(i < edits->n);
    return &edits->at[i];
}

static void has_line(const Json *e, u32 i, const char *line)
{
    const Json *lines = json_get(e, "lines");
    assert_true(i < lines->n);
    assert_string_equal(lines->at[i].str.p, line);
}

/* Three layers: a silu each, of which `op` is the mnemonic, with another factor of its own. */
static const char *layers(const char *const op[3], bool scaled)
{
    StrBuf b = {.a = &a};
    sb_str(&b, "pfir 1\nmodule @m {layers = 3}\n");
    for (int i = 0; scaled && i < 3; i++)
        sb_printf(&b, "@s.%d = literal {values = [0.%d5], layer = %d} : f32[1]\n", i, i + 1, i);
    sb_str(&b, "func @main(%x.0: f32[T,8]) {\n");
    for (int i = 0; i < 3; i++)
        sb_printf(&b, "  %%x.%d = %s %%x.%d {layer = %d} : f32[T,8]\n", i + 1, op[i], i, i);
    sb_str(&b, "  return %x.3\n}\n");
    return b.p;
}

static void nothing_changed(void **state)
{
    (void)state;
    const char *text = layers((const char *const[]){"silu", "silu", "silu"}, true);
    const Json *j = changes(text, text);
    assert_int_equal(json_get(j, "edits")->n, 0);
    assert_int_equal(number(j, "inserted") + number(j, "removed") + number(j, "changed"), 0);
}

static void alike_once(void **state)
{
    (void)state;
    const Json *j = changes(layers((const char *const[]){"silu", "silu", "silu"}, false),
                            layers((const char *const[]){"gelu", "gelu", "gelu"}, true));
    assert_int_equal(json_get(j, "edits")->n, 2);
    assert_int_equal(number(j, "inserted"), 3);
    assert_int_equal(number(j, "changed"), 3);
    const Json *e = edit(j, 0);
    assert_string_equal(json_get(e, "in")->str.p, "constants"); /* alike but for their floats */
    assert_string_equal(json_get(e, "layers")->str.p, "0-2");
    has_line(e, 0, "+@s.0 = literal {values = [0.15], layer = 0} : f32[1]");
    e = edit(j, 1);
    assert_string_equal(json_get(e, "in")->str.p, "main");
    assert_int_equal(number(e, "alike"), 3);
    assert_int_equal(json_get(e, "lines")->n, 2);
    has_line(e, 0, "-%x.1 = silu %x.0 {layer = 0} : f32[T,8]");
    has_line(e, 1, "+%x.1 = gelu %x.0 {layer = 0} : f32[T,8]");
}

/* Layers that differ in more than their numbers are not alike; those that are need not be
 * neighbours. */
static void unlike_apart(void **state)
{
    (void)state;
    const Json *j = changes(layers((const char *const[]){"silu", "silu", "silu"}, false),
                            layers((const char *const[]){"gelu", "hadamard", "gelu"}, false));
    assert_int_equal(json_get(j, "edits")->n, 2);
    assert_string_equal(json_get(edit(j, 0), "layers")->str.p, "0,2");
    assert_string_equal(json_get(edit(j, 1), "layers")->str.p, "1");
}

static void many_lines(void **state)
{
    (void)state;
    StrBuf x = {.a = &a}, y = {.a = &a};
    sb_str(&x, "pfir 1\nmodule @m\nfunc @main(%x: f32[T,8]) {\n");
    sb_str(&y, x.p);
    for (int i = 0; i < 3000; i++) {
        sb_printf(&x, "  %%a%d = silu %%x : f32[T,8]\n", i);
        sb_printf(&y, "  %%b%d = silu %%x : f32[T,8]\n", i);
    }
    sb_str(&x, "  return %x\n}\n");
    sb_str(&y, "  return %x\n}\n");
    const Json *e = edit(changes(x.p, y.p), 0); /* too many for a table: all went, all came */
    assert_int_equal(number(e, "inserted"), 3000);
    assert_int_equal(number(e, "removed"), 3000);
    assert_int_equal(json_get(e, "lines")->n, 80);
    assert_int_equal(number(e, "left_out"), 6000 - 80);
}

static void least_lines(void **state)
{
    (void)state;
    const char *before =
        "pfir 1\nmodule @m\nfunc @main(%x: f32[T,8]) {\n  %a = silu %x : f32[T,8]\n"
        "  %b = gelu %x : f32[T,8]\n  %c = add %a, %b : f32[T,8]\n  return %c\n}\n";
    const char *after =
        "pfir 1\nmodule @m\nfunc @main(%x: f32[T,8]) {\n  %b = gelu %x : f32[T,8]\n"
        "  %a = silu %x : f32[T,8]\n  %d = mul %a, %b : f32[T,8]\n  %c = add %a, %d : "
        "f32[T,8]\n  return %c\n}\n";
    const Json *j = changes(before, after);
    assert_int_equal(json_get(edit(j, 0), "lines")->n, 5); /* a moved, d new, c changed */
    assert_int_equal(number(j, "inserted"), 1);
    assert_int_equal(number(j, "removed"), 0);
    assert_int_equal(number(j, "changed"), 2);
}

/* A new function is compared with @main where that was; a list of numbers is short. */
static void new_function(void **state)
{
    (void)state;
    const Json *j =
        changes("pfir 1\nmodule @m\nfunc @main(%x: f32[T,8]) {\n  %a = silu %x : "
                "f32[T,8]\n  %b = gelu %a : f32[T,8]\n  return %b\n}\n",
                "pfir 1\nmodule @m\n@l = literal {values = [1, 2, 3, 4, 5, 6]} : f32[6]\n"
                "func @one(%x: f32[T,8]) {\n  %a = silu %x : f32[T,8]\n  return %a\n}\n");
    assert_int_equal(json_get(j, "edits")->n, 2);
    has_line(edit(j, 0), 0, "+@l = literal {values = [1.0, 2.0, 3.0, 4.0, ... 6]} : f32[6]");
    assert_string_equal(json_get(edit(j, 1), "in")->str.p, "one");
    assert_int_equal(json_get(edit(j, 1), "lines")->n, 1);
    has_line(edit(j, 1), 0, "-%b = gelu %a : f32[T,8]");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_changed), cmocka_unit_test(alike_once),
        cmocka_unit_test(unlike_apart),    cmocka_unit_test(many_lines),
        cmocka_unit_test(least_lines),     cmocka_unit_test(new_function),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    arena_free(&a);
    return failed;
}
