/* model.json: the sample loads and gives the module it should; every error has its code, place and text. */
#include "frontend/frontend.h"
#include "ir/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_sample(void **state)
{
    (void)state;
    Arena a = {0};
    Diag d;
    FeModel m;
    diag_init(&d, &a);
    bool ok = fe_model_load(&d, &a, "samples/tinystories/model.json", &m) && ir_verify(&d, m.m);
    diag_flush(&d);
    assert_true(ok);
    assert_string_equal(m.name, "tinystories");
    assert_string_equal(m.recipe, FE_DEFAULT_RECIPE);
    assert_string_equal(m.tokenizer, "samples/tinystories/tokenizer.json");
    assert_int_equal(ir_meta_get_int(m.m, "layers", 0), 2);
    assert_int_equal(ir_meta_get_int(m.m, "params", 0), 656000);
    const Fn *f = ir_fn(m.m, "main");
    assert_int_equal(f->body.n, 1 + 2 * 20 + 2);
    assert_int_equal(m.m->consts.n, 2 + 2 * 9 + 1); /* frequencies, tied embedding, weights, final norm */
    fe_model_close(&m);
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sample)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
