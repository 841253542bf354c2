/* The tokenizer of a GGUF file from memory. */
#include "tests/fuzz/fuzz_tokenizer.h"

static bool read_gguf(Diag *d, Arena *a, const Source *src, const TokSpecials *sp, TokBlob *out)
{
    MappedFile f = {src->name, (const u8 *)src->text, src->n};
    Gguf g;
    (void)sp;
    return gguf_parse(d, a, &f, &g) && fe_tokenizer_from_gguf(d, a, &g, out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_reader(read_gguf, "tokenizer.gguf", data, size);
    return 0;
}
