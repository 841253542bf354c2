/* tokenizer.json from memory. */
#include "tests/fuzz/fuzz_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_reader(fe_tokenizer_from_json, "tokenizer.json", data, size);
    return 0;
}
