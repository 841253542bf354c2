/* A Hugging Face config.json from memory, for a checkpoint without tensors: the architecture's values are found or
 * refused, never a crash. */
#include "frontend/arch.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Arena a = {0};
    Diag d;
    FeArch arch;
    Checkpoint ck = {.index = {.a = &a}};
    Source src = {"config.json", (const char *)data, size};
    diag_init(&d, &a);
    FeOrigin from = {.config_src = &src, .config = json_parse(&d, &a, &src), .ck = &ck};
    if (from.config && from.config->kind == JSON_OBJECT) fuzz_verdict(&d, fe_arch_open(&d, &a, &from, &arch), 2 * DIAG_MAX);
    arena_free(&a);
    return 0;
}
