/* The text of answers: detokenising and stop strings. Input: stop strings, each ended by a line
 * end, up to an empty one; then pieces: a byte for the length (mod 8), and the bytes. Whatever the
 * pieces are, the answer is that of the whole given byte by byte, valid UTF-8 and without a stop
 * string. */
#include "runtime/stream.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static void add(PfqStream *s, const uint8_t *p, size_t n)
{
    const size_t before = s->to;
    if (s->stopped) return;
    FUZZ_REQUIRE(pfq_stream_add(s, (const char *)p, n));
    FUZZ_REQUIRE(s->from == before && s->to >= before && s->to <= s->n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char stops[PFQ_MAX_STOPS][PFQ_MAX_STOP + 1];
    const char *stop[PFQ_MAX_STOPS] = {NULL};
    PfqStream pieces = {0}, bytes = {0};
    size_t i = 0;
    int n = 0;
    while (i < size && data[i] != '\n' && n < PFQ_MAX_STOPS) {
        size_t k = 0;
        for (; i < size && data[i] != '\n'; i++)
            if (data[i] && k < PFQ_MAX_STOP) stops[n][k++] = (char)data[i];
        stops[n][k] = 0;
        stop[n] = stops[n];
        n += k > 0;
        i += i < size;
    }
    pfq_stream_start(&pieces, stop, n);
    pfq_stream_start(&bytes, stop, n);
    for (i += i < size; i < size;) {
        const size_t len = data[i] % 8, take = len < size - i - 1 ? len : size - i - 1;
        add(&pieces, data + i + 1, take);
        for (size_t k = 0; k < take; k++)
            add(&bytes, data + i + 1 + k, 1);
        i += 1 + take;
    }
    FUZZ_REQUIRE(pfq_stream_end(&pieces) && pfq_stream_end(&bytes));
    FUZZ_REQUIRE(pieces.stopped == bytes.stopped && pieces.to == bytes.to);
    FUZZ_REQUIRE(pieces.to == 0 || memcmp(pieces.text, bytes.text, pieces.to) == 0);
    FUZZ_REQUIRE(utf8_valid((Str){pieces.text ? pieces.text : "", pieces.to}) || n > 0);
    for (int k = 0; k < n; k++)
        FUZZ_REQUIRE(!pieces.to || !memmem(pieces.text, pieces.to, stop[k], strlen(stop[k])));
    pfq_stream_free(&pieces);
    pfq_stream_free(&bytes);
    return 0;
}
