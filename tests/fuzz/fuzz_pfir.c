/* .pfir text from memory: parse; what was accepted verifies, prints, and reads back as the same
 * text. */
#include "ir/text.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Arena a = {0};
    Diag d;
    Source src = {"fuzz.pfir", (const char *)data, size};
    diag_init(&d, &a);
    Module *m = ir_parse(&d, &a, &src, "/nonexistent");
    fuzz_verdict(&d, m != NULL, UINT32_MAX);
    if (m) {
        FUZZ_REQUIRE(ir_verify(&d, m));
        StrBuf once = {.a = &a}, twice = {.a = &a};
        ir_print(m, &once);
        Source again = {"printed.pfir", once.p, once.n};
        Module *m2 = ir_parse(&d, &a, &again, "/nonexistent");
        FUZZ_REQUIRE(m2 && d.n_errors == 0);
        ir_print(m2, &twice);
        FUZZ_REQUIRE(once.n == twice.n && memcmp(once.p, twice.p, once.n) == 0);
    }
    arena_free(&a);
    return 0;
}
