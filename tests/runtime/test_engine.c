/* The engine over the toy model: chunks, blocks of logits, rewinding, limits; and that the token
 * path allocates nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_model.h"
#include "runtime/cpu.h"
#include "runtime/engine.h"
#include "runtime/out.h"
#include "runtime/sample.h"
#include "runtime/tokenizer.h"

/* The linker sends the runtime's allocations here (--wrap). */
static int64_t allocations;
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t m);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t m);
void *__wrap_realloc(void *p, size_t n);

void *__wrap_malloc(size_t n)
{
    allocations++;
    return __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t m)
{
    allocations++;
    return __real_calloc(n, m);
}

void *__wrap_realloc(void *p, size_t n)
{
    allocations++;
    return __real_realloc(p, n);
}

enum { LONG = 40 };
static int32_t text[LONG];

static void open_engine(PfqEngine *e, int threads, int32_t ctx, bool copy)
{
    PfqErr err;
    PfqEngineConfig c = {
        .threads = threads, .ctx = ctx, .weights = "fake_model.weights", .copy = copy};
    for (int i = 0; i < LONG; i++) {
        text[i] = (i * 97 + 5) % 60;
    }
    if (!pfq_engine_open(e, &pfq_model, &c, &err)) {
        fail_msg("%s", err.text);
    }
}

typedef struct Rows {
    float v[LONG][FAKE_VOCAB];
    int32_t n, largest;
} Rows;

static void collect(void *user, int32_t first, int32_t n, const float *logits)
{
    Rows *r = user;
    assert_int_equal(first, r->n);
    memcpy(r->v[first], logits, (size_t)n * sizeof r->v[0]);
    r->n += n;
    r->largest = n > r->largest ? n : r->largest;
}

static void decode_equals_prefill_however_cut(void **state)
{
    (void)state;
    static Rows all;
    PfqErr err;
    for (int threads = 1; threads <= 5; threads += 2) {
        PfqEngine e;
        open_engine(&e, threads, 64, threads == 3);
        all = (Rows){0};
        assert_true(pfq_engine_prefill(&e, text, LONG, PFQ_WANT_ALL, collect, &all, &err));
        assert_int_equal(all.n, LONG);
        assert_int_equal(all.largest, pfq_model.rows);
        pfq_engine_rewind(&e, 0);
        for (int32_t i = 0; i < LONG; i++) {
            assert_memory_equal(pfq_engine_decode(&e, text[i], &err), all.v[i], sizeof all.v[i]);
        }
        for (int32_t cut = 1; cut < LONG; cut += 3) {
            pfq_engine_rewind(&e, 0);
            assert_true(pfq_engine_prefill(&e, text, cut, PFQ_WANT_NONE, NULL, NULL, &err));
            assert_true(
                pfq_engine_prefill(&e, text + cut, LONG - cut, PFQ_WANT_LAST, NULL, NULL, &err));
            assert_memory_equal(e.logits, all.v[LONG - 1], sizeof all.v[0]);
            pfq_engine_rewind(&e, cut); /* keeps what comes before */
            assert_memory_equal(pfq_engine_decode(&e, text[cut], &err), all.v[cut],
                                sizeof all.v[0]);
        }
        pfq_engine_close(&e);
    }
}

/* Sequences of different lengths in slots of one cache, decoded together, alone and in part. */
static void a_batch_is_many_sequences(void **state)
{
    (void)state;
    enum { N = 3 };
    static Rows want[N];
    PfqErr err;
    PfqEngine e;
    PfqEngineConfig c = {.threads = 3, .ctx = 64, .slots = N, .weights = "fake_model.weights"};
    open_engine(&e, 2, 64, false); /* text */
    pfq_engine_close(&e);
    if (!pfq_engine_open(&e, &pfq_model, &c, &err)) {
        fail_msg("%s", err.text);
    }
    for (int32_t s = 0; s < N; s++) { /* sequence s is the text from token s on */
        pfq_engine_seek(&e, s, 0);
        want[s].n = 0;
        assert_true(
            pfq_engine_prefill(&e, text + s, LONG - s, PFQ_WANT_ALL, collect, &want[s], &err));
    }
    for (int32_t i = 0; i < LONG; i++) { /* slot N - 1 - s begins 2 s steps late */
        int32_t tokens[N], n = 0;
        PfqRow rows[N];
        for (int32_t s = 0; s < N; s++) {
            if (i >= 2 * s && i - 2 * s < LONG - s) {
                tokens[n] = text[s + i - 2 * s];
                rows[n++] = (PfqRow){.pos = i - 2 * s, .slot = N - 1 - s};
            }
        }
        assert_true(pfq_engine_batch(&e, tokens, rows, n, NULL, &err));
        for (int32_t r = 0; r < n; r++) {
            assert_memory_equal(e.logits + r * FAKE_VOCAB,
                                want[N - 1 - rows[r].slot].v[rows[r].pos], sizeof want[0].v[0]);
        }
    }
    /* the beginning of another slot's sequence, and then what comes behind it */
    for (int32_t n = 1; n < LONG - 2; n += 7) {
        assert_true(pfq_engine_copy(&e, (PfqRow){.slot = N - 1}, (PfqRow){.slot = 1}, n, &err));
        pfq_engine_seek(&e, 1, n);
        assert_memory_equal(pfq_engine_decode(&e, text[n], &err), want[0].v[n],
                            sizeof want[0].v[0]);
    }
    const PfqRow bad[] = {{.pos = 64, .slot = 0}, {.pos = 0, .slot = N}, {.pos = -1, .slot = 0}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(pfq_engine_batch(&e, text, &bad[i], 1, NULL, &err));
    }
    pfq_engine_close(&e);
    c.slots = 4; /* the toy model makes 3 rows of logits */
    assert_false(pfq_engine_open(&e, &pfq_model, &c, &err));
    assert_non_null(strstr(err.text, "up to 3"));
    pfq_engine_close(&e);
}

static void limits_are_errors(void **state)
{
    (void)state;
    PfqEngine e;
    PfqErr err;
    const int32_t bad[] = {1, FAKE_VOCAB}, negative[] = {-1};
    open_engine(&e, 2, 10, false);
    assert_false(pfq_engine_prefill(&e, text, 11, PFQ_WANT_NONE, NULL, NULL, &err));
    assert_false(pfq_engine_prefill(&e, bad, 2, PFQ_WANT_NONE, NULL, NULL, &err));
    assert_non_null(strstr(err.text, "320"));
    assert_false(pfq_engine_prefill(&e, negative, 1, PFQ_WANT_NONE, NULL, NULL, &err));
    assert_int_equal(e.pos, 0);
    assert_true(pfq_engine_prefill(&e, text, 10, PFQ_WANT_LAST, NULL, NULL, &err));
    assert_null(pfq_engine_decode(&e, 1, &err));
    pfq_engine_close(&e);
    pfq_engine_close(&e);
}

static void open_refuses(void **state)
{
    (void)state;
    PfqEngine e;
    PfqErr err;
    PfqEngineConfig c = {.threads = 1, .ctx = 10, .weights = "fake_model.weights"};
    PfqModel m = pfq_model;
    c.ctx = FAKE_CONTEXT + 1;
    assert_false(pfq_engine_open(&e, &m, &c, &err));
    pfq_engine_close(&e);
    c.ctx = 10;
    m.abi++;
    assert_false(pfq_engine_open(&e, &m, &c, &err));
    pfq_engine_close(&e);
    m = pfq_model;
    m.kv_row_bytes = UINT64_MAX / 8;
    assert_false(pfq_engine_open(&e, &m, &c, &err));
    assert_non_null(strstr(err.text, "overflow"));
    pfq_engine_close(&e);
    m.kv_row_bytes = UINT64_C(1) << 50;
    assert_false(pfq_engine_open(&e, &m, &c, &err));
    assert_non_null(strstr(err.text, "KV cache"));
    pfq_engine_close(&e);
    m = pfq_model;
    m.n_variants = 1; /* the one that no CPU has */
    assert_false(pfq_engine_open(&e, &m, &c, &err));
    assert_non_null(strstr(err.text, "this CPU lacks"));
    pfq_engine_close(&e);
}

/* The right id and checksum over less data: nothing may be read behind its end. */
static void weights_of_another_size_are_refused(void **state)
{
    (void)state;
    const char *path = "rt_test_engine.weights";
    PfqEngine e;
    PfqErr err;
    PfqEngineConfig c = {.threads = 1, .ctx = 10, .weights = path};
    for (uint64_t more = 0; more < 3; more++) { /* none, too little, too much */
        PfqImageSection s = {.name = "bias",
                             .bytes = more * pfq_model.weight_bytes - (more == 1 ? 4 : 0)};
        uint64_t at, bytes, total;
        assert_true(pfq_image_layout(&s, more > 0, &at, &bytes, &total));
        unsigned char *image = __real_calloc(1, total + PFQ_IMAGE_ALIGN);
        assert_non_null(image);
        assert_true(pfq_image_header(&s, more > 0, pfq_model.image_id, image));
        FILE *f = fopen(path, "wb");
        assert_non_null(f);
        assert_int_equal(fwrite(image, 1, total, f), total);
        assert_int_equal(fclose(f), 0);
        free(image);
        assert_false(pfq_engine_open(&e, &pfq_model, &c, &err));
        assert_non_null(strstr(err.text, "its header tells of"));
        pfq_engine_close(&e);
    }
    remove(path);
}

static void token_path_allocates_nothing(void **state)
{
    (void)state;
    static PfqOut out;
    PfqEngine e;
    PfqErr err;
    PfqTokenizer tok;
    PfqSampler s = {.temp = 0.8, .top_p = 0.95, .top_k = 40};
    open_engine(&e, 2, 64, false);
    assert_true(pfq_sampler_init(&s, FAKE_VOCAB));
    assert_null(pfq_tok_open(&tok, pfq_model.tokenizer, pfq_model.tokenizer_bytes));
    pfq_out_init(&out, 1);
    int64_t before = allocations;
    assert_true(before > 0);
    assert_true(pfq_engine_prefill(&e, text, 20, PFQ_WANT_LAST, NULL, NULL, &err));
    const float *logits = e.logits;
    for (int i = 0; i < 40; i++) {
        char buf[16];
        size_t len;
        int32_t id = pfq_sample(&s, logits);
        const char *piece = pfq_tok_piece(&tok, id, false, buf, &len);
        pfq_out_text(&out, piece, len);
        out.n = 0;
        logits = pfq_engine_decode(&e, id, &err);
        assert_non_null(logits);
    }
    assert_int_equal(allocations, before);
    pfq_sampler_free(&s);
    pfq_engine_close(&e);
}

static void text_is_never_half_a_character(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"plain", "plain"},
        {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"\xc3", "\xef\xbf\xbd"},
        {"\xe2\x82", "\xef\xbf\xbd"},
        {"a\x80z\xff", "a\xef\xbf\xbdz\xef\xbf\xbd"},
        {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},                 /* overlong */
        {"\xe0\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* overlong */
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* surrogate */
        {"\xf0\x9f\x98q", "\xef\xbf\xbdq"},
        {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xe2\x82\xc3\xa9", "\xef\xbf\xbd\xc3\xa9"},
    };
    static PfqOut o;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pfq_out_init(&o, 1);
        for (const char *p = cases[i].in; *p; p++) {
            pfq_out_text(&o, p, 1);
        }
        pfq_out_text_end(&o);
        assert_int_equal(o.n, strlen(cases[i].out));
        assert_memory_equal(o.buf, cases[i].out, o.n);
    }
    pfq_out_init(&o, 1);
    pfq_out_json_string(&o, "a\"\\\n\x01\xc3\xa9\xff");
    static const char want[] = "\"a\\\"\\\\\\n\\u0001\xc3\xa9\xef\xbf\xbd\"";
    assert_int_equal(o.n, strlen(want));
    assert_memory_equal(o.buf, want, o.n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_equals_prefill_however_cut),
        cmocka_unit_test(a_batch_is_many_sequences),
        cmocka_unit_test(limits_are_errors),
        cmocka_unit_test(open_refuses),
        cmocka_unit_test(weights_of_another_size_are_refused),
        cmocka_unit_test(token_path_allocates_nothing),
        cmocka_unit_test(text_is_never_half_a_character),
    };
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
