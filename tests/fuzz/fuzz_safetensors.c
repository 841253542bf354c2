/* A safetensors file from memory: parse, then read the ends of every tensor. */
#include "frontend/safetensors.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Arena a = {0};
    Diag d;
    Safetensors s;
    MappedFile f = {"fuzz.safetensors", data, size};
    diag_init(&d, &a);
    bool ok = st_parse(&d, &a, &f, &s);
    fuzz_verdict(&d, ok, 1);
    u64 total = 0;
    for (u32 i = 0; ok && i < s.n_tensors; i++) {
        const CkTensor *t = &s.tensor[i];
        float x;
        FUZZ_REQUIRE(t->name.n && t->offset + t->bytes <= size);
        total += t->bytes;
        if (t->bytes == 0) continue;
        enc_decode((EncId)t->enc, data + t->offset, 0, 1, &x);
        enc_decode((EncId)t->enc, data + t->offset, ck_elements(t) - 1, 1, &x);
    }
    for (u32 i = 0; ok && i < s.n_meta; i++)
        FUZZ_REQUIRE(utf8_valid(s.meta[i].key) && utf8_valid(s.meta[i].value));
    FUZZ_REQUIRE(!ok || total < size);
    arena_free(&a);
    return 0;
}
