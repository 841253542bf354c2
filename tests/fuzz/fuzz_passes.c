/* Every built-in recipe on a module from .pfir text: the passes refuse it with a diagnostic, or
 * leave a module that verifies and whose text reads back. A module of the hostile kind is what
 * `pfqc opt FILE.pfir` meets. */
#include "ir/text.h"
#include "passes/passes.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_calib.h"

static void run_recipe(const Source *src, const char *name)
{
    Arena a = {0};
    Diag d;
    Recipe recipe;
    diag_init(&d, &a);
    Module *m = ir_parse(&d, &a, src, "/nonexistent");
    if (m && recipe_load(&d, &a, name, &recipe) && fuzz_calib_ok(m, &recipe.pipeline)) {
        bool ok = passes_run(&d, m, &recipe.pipeline,
                             &(PassOptions){.verify_each = true, .calib = &fuzz_calib});
        fuzz_verdict(&d, ok, UINT32_MAX);
        if (ok) {
            StrBuf text = {.a = &a};
            FUZZ_REQUIRE(ir_verify(&d, m));
            ir_print(m, &text);
            Source printed = {"printed.pfir", text.p, text.n};
            FUZZ_REQUIRE(ir_parse(&d, &a, &printed, "/nonexistent"));
        }
    }
    arena_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Source src = {"fuzz.pfir", (const char *)data, size};
    for (u32 i = 0; recipe_builtin_name(i); i++)
        run_recipe(&src, recipe_builtin_name(i));
    return 0;
}
