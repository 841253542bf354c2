/* tokenizer.model from memory: SentencePiece's protobuf, and tiktoken ranks. */
#include "tests/fuzz/fuzz_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool spm = size > 0 && data[0] == '\n';
    fuzz_reader(spm ? fe_tokenizer_from_spm : fe_tokenizer_from_tiktoken, "tokenizer.model", data,
                size);
    return 0;
}
