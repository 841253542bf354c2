/* The runtime over damaged blobs. Input: one byte chooses a small tokenizer, then patches of three
 * bytes (u16 offset, new value) change its blob; what is left over is text. */
#include "tests/fuzz/fuzz_tokenizer.h"

static const char byte_level[] =
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<e>\",\"special\":true,\"normalized\":false},"
    "{\"id\":8,\"content\":\" "
    "x\",\"special\":false,\"normalized\":true,\"lstrip\":true}],\"normalizer\":{\"type\":\"NFC\"},"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"use_regex\":true},"
    "\"post_processor\":null,"
    "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"unk_token\":\"<e>\","
    "\"vocab\":{\"<e>\":0,\"a\":1,\"b\":2,"
    "\"\xc4\xa0\":3,\"ab\":4,\"\xc4\xa0"
    "a\":5,\"1\":6,\"aa\":7},\"merges\":[\"a b\",\"\xc4\xa0 a\",\"a a\"]}}";
static const char metaspace[] =
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true,\"normalized\":false}],"
    "\"normalizer\":null,"
    "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":"
    "\"first\",\"split\":false},"
    "\"post_processor\":null,\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\","
    "\"prepend_scheme\":\"first\"},"
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<s>\",\"fuse_unk\":true,\"byte_fallback\":true,"
    "\"vocab\":{\"<s>\":0,\"a\":1,\"b\":2,"
    "\"\xe2\x96\x81\":3,\"ab\":4,\"\xe2\x96\x81"
    "a\":5,\"<0xFF>\":6,\"aa\":7},\"merges\":[\"a b\",\"\xe2\x96\x81 a\",\"a a\"]}}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Arena a = {0};
    Diag d;
    TokBlob blob;
    bool first = size > 0 && data[0] % 2 == 0;
    Source src = {"seed.json", first ? byte_level : metaspace,
                  first ? sizeof byte_level - 1 : sizeof metaspace - 1};
    diag_init(&d, &a);
    FUZZ_REQUIRE(fe_tokenizer_from_json(&d, &a, &src, NULL, &blob));
    u8 *copy =
        malloc(blob.n); /* exactly its size, so that AddressSanitizer sees one byte too many */
    FUZZ_REQUIRE(copy);
    memcpy(copy, blob.data, blob.n);
    size_t at = 1;
    for (; at + 3 <= size && at < 64; at += 3)
        copy[(data[at] | (size_t)data[at + 1] << 8) % blob.n] = data[at + 2];
    fuzz_blob(copy, blob.n, (const char *)data + (at < size ? at : size),
              at < size ? size - at : 0);
    free(copy);
    arena_free(&a);
    return 0;
}
