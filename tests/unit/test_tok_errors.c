/* Every refusal of the tokenizer readers, with its code and the words it must hold; limits; odd
 * inputs to the runtime. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "frontend/tok_build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A tokenizer.json in parts, so that a case can replace one. */
typedef struct Parts {
    const char *added, *normalizer, *pre, *post, *decoder, *options, *vocab, *merges;
} Parts;

static const Parts good = {
    .added = "[{\"id\":6,\"content\":\"<e>\",\"special\":true,\"normalized\":false}]",
    .normalizer = "null",
    .pre = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}",
    .post = "null",
    .decoder = "{\"type\":\"ByteLevel\"}",
    .options = "\"type\":\"BPE\"",
    .vocab = "{\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"\xc4\xa0\":4,\"abc\":5}",
    .merges = "[\"a b\",[\"ab\",\"c\"]]",
};

static const char META_PRE[] = "{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_"
                               "scheme\":\"always\",\"split\":false}";

static bool read_parts(Arena *a, Diag *d, Parts p, TokBlob *out)
{
    Parts g = good;
#define PICK(x) (p.x ? p.x : g.x)
    Source *src = NEW(a, Source);
    src->name = "tokenizer.json";
    src->text = arena_printf(a,
                             "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_"
                             "tokens\":%s,\"normalizer\":%s,"
                             "\"pre_tokenizer\":%s,\"post_processor\":%s,\"decoder\":%s,\"model\":{"
                             "%s,\"vocab\":%s,\"merges\":%s}}",
                             PICK(added), PICK(normalizer), PICK(pre), PICK(post), PICK(decoder),
                             PICK(options), PICK(vocab), PICK(merges));
#undef PICK
    src->n = strlen(src->text);
    diag_init(d, a);
    return fe_tokenizer_from_json(d, a, src, NULL, out);
}

static void must_refuse(Diag *d, bool ok, const char *what, ErrCode code, const char *words)
{
    if (ok) fail_msg("accepted: %s", what);
    assert_int_equal(d->n_errors, 1);
    if (d->msgs.at[0].code != code || !strstr(d->msgs.at[0].text, words))
        fail_msg("%s: got %s \"%s\", expected %s with \"%s\"", what, err_name(d->msgs.at[0].code),
                 d->msgs.at[0].text, err_name(code), words);
}

static void json_refusals(void **state)
{
    (void)state;
    static const struct {
        Parts p;
        ErrCode code;
        const char *words;
    } t[] = {
        {{.options = "\"type\":\"Unigram\""}, E_TOKENIZER_UNSUPPORTED, "Unigram"},
        {{.options = "\"type\":\"BPE\",\"dropout\":0.1"}, E_TOKENIZER_UNSUPPORTED, "dropout"},
        {{.options = "\"type\":\"BPE\",\"continuing_subword_prefix\":\"##\""},
         E_TOKENIZER_UNSUPPORTED,
         "continuing_subword_prefix"},
        {{.options = "\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\""},
         E_TOKENIZER_UNSUPPORTED,
         "end_of_word_suffix"},
        {{.options = "\"type\":\"BPE\",\"novel\":1"}, E_JSON_UNKNOWN, "novel"},
        {{.options = "\"type\":\"BPE\",\"unk_token\":\"<unk>\""}, E_TOKENIZER, "unk_token"},
        {{.options = "\"type\":\"BPE\",\"byte_fallback\":true"},
         E_TOKENIZER_UNSUPPORTED,
         "byte_fallback"},
        {{.normalizer = "{\"type\":\"NFKC\"}"}, E_TOKENIZER_UNSUPPORTED, "NFKC"},
        {{.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]}"},
         E_TOKENIZER_UNSUPPORTED,
         "Lowercase"},
        {{.normalizer = "{\"type\":\"Prepend\",\"prepend\":\"_\"}"},
         E_TOKENIZER_UNSUPPORTED,
         "prepended text '_'"},
        {{.normalizer = "{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"}"},
         E_TOKENIZER_UNSUPPORTED,
         "Prepend"},
        {{.normalizer =
              "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" \"},\"content\":\"\xe2\x96\x81\"}"},
         E_TOKENIZER_UNSUPPORTED,
         "replacement of"},
        {{.pre = "{\"type\":\"Whitespace\"}"}, E_TOKENIZER_UNSUPPORTED, "Whitespace"},
        {{.pre = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\w+|x\"},\"behavior\":"
                 "\"Isolated\",\"invert\":false}"},
         E_TOKENIZER_UNSUPPORTED,
         "\\w+|x"},
        {{.pre = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{N}\"},\"behavior\":"
                 "\"Removed\",\"invert\":false}"},
         E_TOKENIZER_UNSUPPORTED,
         "Removed"},
        {{.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\",\"add_prefix_"
                 "space\":false},"
                 "{\"type\":\"Digits\",\"individual_digits\":true}]}"},
         E_TOKENIZER_UNSUPPORTED,
         "digits"},
        {{.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\"},{\"type\":"
                 "\"ByteLevel\"}]}"},
         E_TOKENIZER_UNSUPPORTED,
         "add_prefix_space"},
        {{.pre = "{\"type\":\"Punctuation\",\"behavior\":\"Isolated\"}"},
         E_TOKENIZER_UNSUPPORTED,
         "Punctuation"},
        {{.pre = "{\"type\":\"Metaspace\",\"replacement\":\"_\"}"}, E_TOKENIZER_UNSUPPORTED, "'_'"},
        {{.pre = "{}"}, E_JSON_MISSING, "type"},
        {{.post = "{\"type\":\"BertProcessing\"}"}, E_TOKENIZER_UNSUPPORTED, "BertProcessing"},
        {{.post = "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\"}},{"
                  "\"SpecialToken\":{\"id\":\"<e>\"}}],"
                  "\"special_tokens\":{}}"},
         E_TOKENIZER_UNSUPPORTED,
         "'<e>'"},
        {{.post = "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<e>\"}}"
                  "],\"special_tokens\":"
                  "{\"<e>\":{\"ids\":[77]}}}"},
         E_TOKENIZER,
         "unknown token"},
        {{.decoder = "null"}, E_TOKENIZER_UNSUPPORTED, "decoder 'null'"},
        {{.decoder = "{\"type\":\"WordPiece\"}"}, E_TOKENIZER_UNSUPPORTED, "WordPiece"},
        {{.pre = META_PRE, .decoder = "{\"type\":\"CTC\"}"}, E_TOKENIZER_UNSUPPORTED, "CTC"},
        {{.merges = "[\"a x\"]"}, E_TOKENIZER, "'x'"},
        {{.merges = "[\"b c\"]"}, E_TOKENIZER, "'bc'"},
        {{.merges = "[\"ab\"]"}, E_TOKENIZER, "left right"},
        {{.merges = "[[\"a\",\"b\",\"c\"]]"}, E_TOKENIZER, "left right"},
        {{.merges = "[7]"}, E_TOKENIZER, "left right"},
        {{.merges = "{}"}, E_JSON_TYPE, "merges"},
        {{.vocab = "{\"a\":0,\"b\":0}", .merges = "[]"}, E_TOKENIZER, "id 0"},
        {{.vocab = "{\"a\":-1}", .merges = "[]"}, E_TOKENIZER, "-1"},
        {{.vocab = "{\"a\":2000000}", .merges = "[]"}, E_TOKENIZER, "2000000"},
        {{.vocab = "{\"a\":0.5}", .merges = "[]"}, E_JSON_TYPE, "integer"},
        {{.vocab = "{}", .merges = "[]", .added = "[]"}, E_TOKENIZER, "no tokens"},
        {{.added = "[{\"id\":0,\"content\":\"<e>\"}]"}, E_TOKENIZER, "'<e>'"},
        {{.added = "[{\"id\":9,\"content\":\"ab\"}]"}, E_TOKENIZER, "'ab'"},
        {{.added = "[{\"id\":6}]"}, E_JSON_MISSING, "content"},
        {{.added = "7"}, E_JSON_TYPE, "added_tokens"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        Arena a = {0};
        Diag d;
        TokBlob blob;
        must_refuse(&d, read_parts(&a, &d, t[i].p, &blob), t[i].words, t[i].code, t[i].words);
        arena_free(&a);
    }
}

/* A small GGUF with `from` replaced by `to`, of the same length, wherever it stands. */
static void refuse_gguf(const char *file, const char *from, const char *to, ErrCode code,
                        const char *words)
{
    Arena a = {0};
    Diag d;
    MappedFile f;
    Gguf g;
    TokBlob blob;
    diag_init(&d, &a);
    assert_true(io_map(&d, &a, arena_printf(&a, "tests/data/tokenizers/%s", file), &f));
    u8 *copy = (u8 *)arena_strdup(&a, (const char *)f.data, f.size);
    u8 *at = memmem(copy, f.size, from, strlen(from));
    assert_non_null(at);
    memcpy(at, to, strlen(to));
    f.data = copy;
    assert_true(gguf_parse(&d, &a, &f, &g));
    must_refuse(&d, fe_tokenizer_from_gguf(&d, &a, &g, &blob), to, code, words);
    arena_free(&a);
}

static void gguf_refusals(void **state)
{
    (void)state;
    refuse_gguf("smollm.gguf", "smollm", "smallm", E_TOKENIZER_UNSUPPORTED, "'smallm'");
    refuse_gguf("smollm.gguf", "gpt2", "bert", E_TOKENIZER_UNSUPPORTED, "'bert'");
    refuse_gguf("smollm.gguf", "ggml.pre", "ggml.prx", E_TOKENIZER_UNSUPPORTED,
                "tokenizer.ggml.pre");
    refuse_gguf("smollm.gguf", "ggml.merges", "ggml.merger", E_FILE_FORMAT, "merges");
    refuse_gguf("smollm.gguf", "ggml.tokens", "ggml.tokenz", E_FILE_FORMAT, "tokens");
    refuse_gguf("smollm.gguf", "\xc4\xa0 t", "\xc4\xa0_t", E_TOKENIZER, "no space");
    refuse_gguf("llama-spm.gguf", "<0x41>", "<0xZZ>", E_TOKENIZER, "<0xNN>");
    refuse_gguf("llama-spm.gguf", "ggml.scores", "ggml.scorez", E_FILE_FORMAT, "scores");
}

/* The content tells that a file is GGUF, whatever its name is. */
static void gguf_by_content(void **state)
{
    (void)state;
    Arena a = {0};
    Diag d;
    MappedFile f;
    TokBlob blob, same;
    char dir[] = "/tmp/pfqc-test-XXXXXX";
    assert_non_null(mkdtemp(dir));
    const char *path = io_join(&a, dir, "blob"), *gguf = "tests/data/tokenizers/smollm.gguf";
    diag_init(&d, &a);
    assert_true(io_map(&d, &a, gguf, &f));
    assert_true(io_write_file(&d, &a, path, f.data, f.size));
    assert_true(fe_tokenizer_load(&d, &a, gguf, &same) && fe_tokenizer_load(&d, &a, path, &blob));
    assert_int_equal(blob.n, same.n);
    assert_memory_equal(blob.data, same.data, same.n);
    assert_true(io_write_file(&d, &a, path, "GGU", 3)); /* not even a magic number */
    must_refuse(&d, fe_tokenizer_load(&d, &a, path, &blob), "GGU", E_JSON_SYNTAX, "");
    unlink(path);
    rmdir(dir);
    arena_free(&a);
}

static bool read_text(bool (*read)(Diag *, Arena *, const Source *, const TokSpecials *, TokBlob *),
                      Diag *d, Arena *a, const char *text, size_t n)
{
    Source *src = NEW(a, Source);
    TokBlob blob;
    *src = (Source){"tokenizer.model", arena_strdup(a, text, n), n};
    diag_init(d, a);
    return read(d, a, src, NULL, &blob);
}

static void model_refusals(void **state)
{
    (void)state;
    Arena a = {0};
    Diag d;
#define SPM(bytes)      read_text(fe_tokenizer_from_spm, &d, &a, bytes, sizeof bytes - 1)
#define TIKTOKEN(bytes) read_text(fe_tokenizer_from_tiktoken, &d, &a, bytes, sizeof bytes - 1)
    must_refuse(&d,
                SPM("\x0a\x03\x0a\x01"
                    "a"),
                "unigram", E_TOKENIZER_UNSUPPORTED, "BPE");
    must_refuse(&d,
                SPM("\x0a\x03\x0a\x01"
                    "a\x12\x02\x18\x02"),
                "squeeze", E_TOKENIZER_UNSUPPORTED, "remove_extra_whitespaces");
    must_refuse(&d,
                SPM("\x0a\x03\x0a\x01"
                    "a\x12\x02\x18\x02\x1a\x03\x12\x01x"),
                "charsmap", E_TOKENIZER_UNSUPPORTED, "identity");
    must_refuse(&d, SPM("\x0a\x7f\x0a"), "cut", E_TOKENIZER, "SentencePiece");
    must_refuse(&d, SPM(""), "empty", E_TOKENIZER, "SentencePiece");
    must_refuse(&d, TIKTOKEN("IQ== 0\nIg== 1\n"), "few ranks", E_TOKENIZER_UNSUPPORTED, "2 ranks");
    must_refuse(&d, TIKTOKEN("IQ== 0\n!!== 1\n"), "base64", E_TOKENIZER, "base64");
    must_refuse(&d, TIKTOKEN("IQ==0\n"), "no rank", E_TOKENIZER, "base64");
#undef SPM
#undef TIKTOKEN
    arena_free(&a);
}

/* Keys of added_tokens_decoder; the second to last has the low 32 bits of a token's id. */
static void added_decoder_ids(void **state)
{
    (void)state;
    static const struct {
        const char *key, *words;
    } t[] = {
        {"0", NULL},
        {"7", "contradicts"},
        {"x", "'x' is not a token id"},
        {"-1", "'-1' is not a token id"},
        {"2097152", "'2097152' is not a token id"},
        {"4294967296", "'4294967296' is not a token id"},
        {"9223372036854775808", "is not a token id"},
    };
    assert_int_equal(PFQ_TOK_MAX_VOCAB, 2097152);
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        Arena a = {0};
        Diag d;
        TokBlob blob;
        Source vocab = {"vocab.json", "{\"a\":0}", 7}, merges = {"merges.txt", "", 0};
        Source src = {.name = "tokenizer_config.json"};
        src.text = arena_printf(&a, "{\"%s\":{\"content\":\"a\",\"special\":true}}", t[i].key);
        src.n = strlen(src.text);
        diag_init(&d, &a);
        TokSpecials sp = {.bos_id = -1, .eos_id = -1, .add_bos = -1, .src = &src};
        sp.added = json_parse(&d, &a, &src);
        bool ok = fe_tokenizer_from_vocab(&d, &a, &vocab, &merges, NULL, "gpt-2", &sp, &blob);
        if (t[i].words)
            must_refuse(&d, ok, t[i].key, E_TOKENIZER, t[i].words);
        else
            assert_true(ok);
        arena_free(&a);
    }
}

/* A token of PFQ_TOK_MAX_PIECE bytes, and of one more. */
static void limits(void **state)
{
    (void)state;
    for (size_t more = 0; more < 2; more++) {
        Arena a = {0};
        Diag d;
        TokBlob blob;
        StrBuf vocab = {.a = &a};
        sb_str(&vocab, "{\"a\":0,\"");
        for (size_t i = 0; i < PFQ_TOK_MAX_PIECE + more; i++)
            sb_ch(&vocab, 'a');
        sb_str(&vocab, "\":1}");
        bool ok =
            read_parts(&a, &d, (Parts){.vocab = vocab.p, .merges = "[]", .added = "[]"}, &blob);
        if (more)
            must_refuse(&d, ok, "long token", E_LIMIT, "65536");
        else
            assert_true(ok);
        arena_free(&a);
    }
    Arena a = {0};
    Diag d;
    TokBuilder b;
    diag_init(&d, &a);
    tokb_init(&b, &d, &a, LOC_NONE, UINT64_MAX);
    assert_true(tokb_token(&b, LOC_NONE, PFQ_TOK_MAX_VOCAB - 1, STR("a"), STR("a"), 0, true));
    must_refuse(&d, tokb_token(&b, LOC_NONE, PFQ_TOK_MAX_VOCAB, STR("b"), STR("b"), 0, true),
                "vocabulary", E_TOKENIZER, "outside");
    arena_free(&a);
}

static void merge_limit(void **state)
{
    (void)state;
    if (!getenv("PFQC_TEST_FULL")) {
        print_message("skipped: 2^22 merges only with PFQC_TEST_FULL\n");
        skip();
    }
    Arena a = {0};
    Diag d;
    TokBuilder b;
    diag_init(&d, &a);
    tokb_init(&b, &d, &a, LOC_NONE, 1);
    for (u32 i = 0; i < PFQ_TOK_MAX_MERGES; i++)
        assert_true(tokb_merge(&b, LOC_NONE, i, i, i, 0, false));
    must_refuse(&d, tokb_merge(&b, LOC_NONE, UINT32_MAX - 1, 0, 0, 0, false), "merges", E_LIMIT,
                "merges");
    arena_free(&a);
}

/* Ids that do not exist, special tokens, empty text, text that is no UTF-8; pieces add up to the
 * decoded text. */
static void runtime_edges(void **state)
{
    (void)state;
    Arena a = {0};
    Diag d;
    TokBlob blob;
    PfqTokenizer t;
    char buf[16];
    size_t len;
    int32_t *ids;
    assert_true(read_parts(&a, &d, good, &blob));
    assert_null(pfq_tok_open(&t, blob.data, blob.n));
    assert_true(blob.n > 8 && (uintptr_t)blob.data % 8 == 0);
    static const int32_t hostile[] = {-1, INT32_MIN, INT32_MAX, 7, 1 << 30};
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        pfq_tok_piece(&t, hostile[i], true, buf, &len);
        assert_int_equal(len, 0);
        assert_false(pfq_tok_is_eog(&t, hostile[i]) || pfq_tok_is_special(&t, hostile[i]));
    }
    char *s = pfq_tok_decode(&t, hostile, 5, true, &len);
    assert_int_equal(len, 0);
    free(s);
    pfq_tok_piece(&t, 6, false, buf, &len);
    assert_int_equal(len, 0);
    assert_memory_equal(pfq_tok_piece(&t, 6, true, buf, &len), "<e>", 3);
    assert_int_equal(pfq_tok_encode(&t, "", 0, PFQ_TOK_BOS, &ids), 0);
    assert_non_null(ids);
    free(ids);
    assert_int_equal(pfq_tok_encode(&t, "abc\xff ab<e>", 10, PFQ_TOK_SPECIAL, &ids),
                     4); /* the byte has no token */
    const int32_t want[] = {5, 4, 3, 6};
    assert_memory_equal(ids, want, sizeof want);
    free(ids);
    assert_string_equal(pfq_tok_open(&t, blob.data, 40), "tokenizer: the blob is truncated");
    assert_string_equal(pfq_tok_open(&t, blob.data, blob.n - 1),
                        "tokenizer: the blob is truncated");
    assert_string_equal(pfq_tok_open(&t, blob.data + 1, blob.n - 1),
                        "tokenizer: the blob is not aligned");
    arena_free(&a);
}

/* A megabyte that is one piece: quadratic merging would take minutes, and the ends must be right
 * too. */
static void long_pieces(void **state)
{
    (void)state;
    Arena a = {0};
    Diag d;
    TokBlob blob;
    PfqTokenizer t;
    enum { N = 1 << 20 };
    char *text = malloc(N);
    assert_non_null(text);
    assert_true(read_parts(&a, &d,
                           (Parts){.vocab = "{\"a\":0,\"aa\":1,\"aaaa\":2,\"b\":3}",
                                   .merges = "[\"a a\",\"aa aa\"]",
                                   .added = "[]"},
                           &blob));
    assert_null(pfq_tok_open(&t, blob.data, blob.n));
    memset(text, 'a', N);
    int32_t *ids;
    assert_int_equal(pfq_tok_encode(&t, text, N, 0, &ids), N / 4);
    assert_true(ids[0] == 2 && ids[N / 4 - 1] == 2);
    free(ids);
    assert_int_equal(pfq_tok_encode(&t, text, N - 1, 0, &ids), N / 4 - 1 + 2);
    free(ids);
    free(text);
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_refusals),  cmocka_unit_test(gguf_refusals),
        cmocka_unit_test(model_refusals), cmocka_unit_test(limits),
        cmocka_unit_test(merge_limit),    cmocka_unit_test(runtime_edges),
        cmocka_unit_test(long_pieces),    cmocka_unit_test(added_decoder_ids),
        cmocka_unit_test(gguf_by_content),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
