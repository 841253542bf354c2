/* GGUF from memory: parse, then read every value through the typed accessors and the ends of every
 * tensor. */
#include "frontend/gguf.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>

static void read_value(Diag *d, Arena *a, const Gguf *g, const GgufKv *kv)
{
    const char *key = arena_strdup(a, kv->key.p, kv->key.n);
    u64 u;
    i64 i;
    double x;
    bool b;
    Str s;
    size_t total = 0;
    const u8 *p = kv->data;
    if (strlen(key) == kv->key.n) FUZZ_REQUIRE(gguf_find(g, key) == kv);
    gguf_u64(d, g, key, &u), gguf_i64(d, g, key, &i), gguf_f64(d, g, key, &x);
    gguf_bool(d, g, key, &b), gguf_str(d, g, key, &s);
    gguf_num_array(d, g, key), gguf_str_array(d, g, key);
    for (u64 k = 0; k < kv->count; k++) {
        if (kv->elem != GGUF_STRING) {
            x = gguf_elem_f64(kv, k), i = gguf_elem_i64(kv, k);
            if (!isnan(x) && fabs(x) < 0x1p52) FUZZ_REQUIRE(fabs(x - (double)i) < 1);
            continue;
        }
        s = gguf_next_str(&p);
        for (size_t j = 0; j < s.n; j++)
            total += (u8)s.p[j];
    }
    FUZZ_REQUIRE(total < SIZE_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Arena a = {0};
    Diag d;
    Gguf g;
    MappedFile f = {"fuzz.gguf", data, size};
    diag_init(&d, &a);
    bool ok = gguf_parse(&d, &a, &f, &g);
    fuzz_verdict(&d, ok, 1);
    for (u32 i = 0; ok && i < g.n_kv; i++)
        read_value(&d, &a, &g, &g.kv[i]);
    for (u32 i = 0; ok && i < g.n_tensors; i++) {
        const CkTensor *t = &g.tensor[i];
        float x;
        FUZZ_REQUIRE(t->bytes && t->offset + t->bytes <= size);
        enc_decode((EncId)t->enc, data + t->offset, 0, 1, &x);
        enc_decode((EncId)t->enc, data + t->offset, ck_elements(t) - 1, 1, &x);
    }
    arena_free(&a);
    return 0;
}
