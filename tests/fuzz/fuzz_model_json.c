/* model.json from memory: load; what was accepted is a module that verifies and whose text reads
 * back. Weight files are looked for in a folder that does not exist, so only synthetic models get
 * through. */
#include "frontend/model.h"
#include "ir/text.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Arena a = {0};
    Diag d;
    FeModel model;
    Source src = {"model.json", (const char *)data, size};
    diag_init(&d, &a);
    bool ok = fe_model_parse(&d, &a, &src, "/nonexistent", &model);
    fuzz_verdict(&d, ok, UINT32_MAX);
    if (ok) {
        FUZZ_REQUIRE(ir_verify(&d, model.m) && model.name && model.recipe && model.n_targets);
        StrBuf text = {.a = &a};
        ir_print(model.m, &text);
        Source printed = {"printed.pfir", text.p, text.n};
        FUZZ_REQUIRE(ir_parse(&d, &a, &printed, "/nonexistent"));
    }
    fe_model_close(&model);
    arena_free(&a);
    return 0;
}
