/* Exact token ids: the vectors beside the vocabularies in ../shared/data (skipped where that folder
 * is missing; PFQC_DATA names another place), and the whole WikiText-2 text through SmolLM2's
 * tokenizer (PFQC_SMOLLM2, or where scripts/demo put the file). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "frontend/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Fixture {
    Arena a;
    Diag d;
    TokBlob blob;
    PfqTokenizer t;
} Fixture;

static const char *data_path(Arena *a, const char *name)
{
    const char *dir = getenv("PFQC_DATA");
    return io_join(a, dir && *dir ? dir : "../shared/data", name);
}

/* Skips the test with a reason where a file is missing; skip() does not return. */
static void need(Fixture *f, const char *path)
{
    if (io_exists(path)) return;
    print_message("skipped: %s is not here\n", path);
    arena_free(&f->a);
    skip();
}

static void open_or_skip(Fixture *f, const char *path)
{
    need(f, path);
    diag_init(&f->d, &f->a);
    if (!fe_tokenizer_load(&f->d, &f->a, path, &f->blob)) {
        diag_flush(&f->d);
        fail_msg("%s did not load", path);
    }
    assert_null(pfq_tok_open(&f->t, f->blob.data, f->blob.n));
}

static void check_ids(Fixture *f, const char *what, Str text, unsigned flags, const i32 *want,
                      size_t n)
{
    int32_t *ids;
    ptrdiff_t k = pfq_tok_encode(&f->t, text.p, text.n, flags, &ids);
    bool same = k == (ptrdiff_t)n && (n == 0 || memcmp(ids, want, n * sizeof *ids) == 0);
    if (!same) {
        fprintf(stderr, "%s: \"%.*s\"\n  want", what, STRF(text));
        for (size_t i = 0; i < n; i++)
            fprintf(stderr, " %d", want[i]);
        fprintf(stderr, "\n  got ");
        for (ptrdiff_t i = 0; i < k; i++)
            fprintf(stderr, " %d", ids[i]);
        fail_msg("ids differ");
    }
    free(ids);
}

/* Encoding and decoding gives the text back. */
static void check_text(Fixture *f, Str text)
{
    int32_t *ids;
    size_t n;
    ptrdiff_t k = pfq_tok_encode(&f->t, text.p, text.n, PFQ_TOK_SPECIAL, &ids);
    assert_true(k >= 0);
    char *s = pfq_tok_decode(&f->t, ids, (size_t)k, true, &n);
    assert_non_null(s);
    assert_int_equal(n, text.n);
    assert_memory_equal(s, text.p, n);
    free(s);
    free(ids);
}

static Str read_all(Fixture *f, const char *path)
{
    Source src;
    assert_true(io_read_text(&f->d, &f->a, path, 64 << 20, &src));
    return (Str){src.text, src.n};
}

/* The next line of ids, at most `cap`; moves *s past it. */
static size_t line_of_ids(Str *s, i32 *ids, size_t cap)
{
    size_t n = 0, end = 0;
    while (end < s->n && s->p[end] != '\n')
        end++;
    for (size_t i = 0; i < end;) {
        while (i < end && s->p[i] == ' ')
            i++;
        if (i == end) break;
        i32 v = 0;
        for (; i < end && s->p[i] != ' '; i++)
            v = v * 10 + (s->p[i] - '0');
        assert_in_range(n, 0, cap - 1);
        ids[n++] = v;
    }
    s->p += end < s->n ? end + 1 : end;
    s->n -= end < s->n ? end + 1 : end;
    return n;
}

/* 46 texts separated by a marker line; one line of ids for each. */
static void vectors(const char *tokenizer, const char *out_name, const char *const *skip_texts)
{
    static const char marker[] = "\n__ggml_vocab_test__\n";
    Fixture f = {0};
    open_or_skip(&f, data_path(&f.a, tokenizer));
    Str in = read_all(&f, data_path(&f.a, "tokenizer-vectors/ggml-vocab.inp"));
    Str out =
        read_all(&f, data_path(&f.a, arena_printf(&f.a, "tokenizer-vectors/%s.out", out_name)));
    size_t texts = 0;
    while (in.n > 0) {
        const char *end = memmem(in.p, in.n, marker, sizeof marker - 1);
        if (!end) break;
        Str text = {in.p, (size_t)(end - in.p)};
        i32 want[1024];
        size_t n = line_of_ids(&out, want, 1024);
        bool left_out = false;
        for (const char *const *p = skip_texts; p && *p; p++)
            left_out = left_out || memmem(text.p, text.n, *p, strlen(*p));
        if (!left_out) check_ids(&f, tokenizer, text, PFQ_TOK_SPECIAL, want, n);
        check_text(&f, text);
        texts++;
        in.n -= text.n + sizeof marker - 1;
        in.p = end + sizeof marker - 1;
    }
    assert_int_equal(texts, 46);
    arena_free(&f.a);
}

static void vectors_gpt2_gguf(void **s)
{
    (void)s;
    vectors("gguf/ggml-vocab-gpt-2.gguf", "gpt-2", NULL);
}
static void vectors_deepseek(void **s)
{
    (void)s;
    vectors("gguf/ggml-vocab-deepseek-coder.gguf", "deepseek-coder", NULL);
}
static void vectors_spm_gguf(void **s)
{
    (void)s;
    vectors("gguf/ggml-vocab-llama-spm.gguf", "llama-spm", NULL);
}
static void vectors_phi3_gguf(void **s)
{
    (void)s;
    vectors("gguf/ggml-vocab-phi-3.gguf", "phi-3", NULL);
}
static void vectors_phi3_json(void **s)
{
    (void)s;
    vectors("tokenizers/phi-3/tokenizer.json", "phi-3", NULL);
}

static void vectors_qwen2(void **s)
{
    (void)s;
    vectors("tokenizers/qwen2", "qwen2", NULL);
}
static void vectors_llama2(void **s)
{
    (void)s;
    vectors("tokenizers/llama2/tokenizer.model", "llama-spm", NULL);
}
static void vectors_llama3(void **s)
{
    (void)s;
    vectors("tokenizers/llama3/tokenizer.model", "llama-bpe", NULL);
}

/* Phi-2 is GPT-2 with tokens for runs of spaces and tabs added. */
static void vectors_phi2_json(void **s)
{
    static const char *const runs[] = {"  ", "\t\t", NULL};
    (void)s;
    vectors("tokenizers/phi-2/tokenizer.json", "gpt-2", runs);
}

/* ---- small tokenizers of every kind, with ids from the reference libraries
 * (tests/tools/make_tokenizers.py) ---- */

static const Json *json_file(Fixture *f, const char *path)
{
    Source *src = NEW(&f->a, Source);
    assert_true(io_read_text(&f->d, &f->a, path, 64 << 20, src));
    const Json *v = json_parse(&f->d, &f->a, src);
    if (!v) diag_flush(&f->d);
    assert_non_null(v);
    return v;
}

static size_t ids_of(const Json *list, i32 *ids, size_t cap)
{
    assert_in_range(list->n, 0, cap);
    for (u32 i = 0; i < list->n; i++)
        ids[i] = (i32)list->at[i].i;
    return list->n;
}

/* What the reference decodes to; it has U+FFFD where we keep bytes that are no UTF-8. */
static void check_decoded(Fixture *f, const i32 *ids, size_t n, Str want)
{
    size_t len;
    char *s = pfq_tok_decode(&f->t, ids, n, false, &len);
    assert_non_null(s);
    if (!memmem(want.p, want.n, "\xef\xbf\xbd", 3)) {
        if (len != want.n || memcmp(s, want.p, len) != 0)
            fail_msg("decoded to \"%s\", expected \"%.*s\"", s, STRF(want));
    }
    free(s);
}

/* With guards, special tokens spelled out in a text are text; behind it they count. */
static void check_guards(Fixture *f, const char *what, Str text, const i32 *want, size_t n)
{
    char *s = malloc(2 * text.n + 1);
    assert_non_null(s);
    const size_t k = pfq_tok_guard(&f->t, text.p, text.n, s);
    assert_true(k >= text.n && k <= 2 * text.n);
    check_ids(f, what, (Str){s, k}, PFQ_TOK_SPECIAL | PFQ_TOK_GUARDED, want, n);
    free(s);
}

/* But for what characters without a token become. */
static bool has_special(const PfqTokenizer *t, const char *s, size_t n)
{
    int32_t *ids;
    bool found = false;
    ptrdiff_t k = pfq_tok_encode(t, s, n, PFQ_TOK_SPECIAL | PFQ_TOK_GUARDED, &ids);
    for (ptrdiff_t i = 0; i < k; i++)
        found = found || (pfq_tok_is_special(t, ids[i]) && ids[i] != t->unk);
    free(ids);
    return found;
}

/* Every special token, guarded up to each of its bytes: what comes behind must not complete it. */
static void check_cuts(Fixture *f)
{
    for (i32 id = 0; id < f->t.vocab; id++) {
        char buf[64], s[512];
        size_t n;
        const char *p = pfq_tok_piece(&f->t, id, true, buf, &n);
        for (; n > 0 && *p == ' '; n--)
            p++; /* some decoders put it there */
        if (!pfq_tok_is_special(&f->t, id) || n < 2 || n > 200 || !has_special(&f->t, p, n))
            continue;
        for (size_t cut = 1; cut <= n; cut++) {
            size_t k = pfq_tok_guard(&f->t, p, cut, s);
            memcpy(s + k, p + cut, n - cut);
            if (has_special(&f->t, s, k + n - cut))
                fail_msg("token %d is read after a cut at %zu", id, cut);
            memcpy(s + k + n - cut, p, n);
            assert_true(has_special(&f->t, s, k + n - cut + n));
        }
    }
}

static void small_tokenizer(const char *file, const char *ids_name)
{
    enum { MAX_IDS = 1024 };
    Fixture f = {0};
    i32 want[MAX_IDS];
    open_or_skip(&f, arena_printf(&f.a, "tests/data/tokenizers/%s", file));
    const Json *texts = json_file(&f, "tests/data/tokenizers/texts.json");
    const Json *ids =
        json_file(&f, arena_printf(&f.a, "tests/data/tokenizers/%s.ids.json", ids_name));
    const Json *special = json_get(ids, "special"), *plain = json_get(ids, "plain"),
               *decoded = json_get(ids, "decoded");
    assert_int_equal(plain->n, texts->n);
    for (u32 i = 0; i < texts->n; i++) {
        size_t n = ids_of(plain->at + i, want, MAX_IDS);
        check_ids(&f, file, texts->at[i].str, 0, want, n);
        check_guards(&f, file, texts->at[i].str, want, n);
        check_decoded(&f, want, n, decoded->at[i].str);
        if (special->n == 0) continue;
        n = ids_of(special->at + i, want, MAX_IDS);
        check_ids(&f, file, texts->at[i].str, PFQ_TOK_SPECIAL | PFQ_TOK_POLICY, want, n);
    }
    check_cuts(&f);
    arena_free(&f.a);
}

static void small_tokenizers(void **state)
{
    (void)state;
    static const char *const names[] = {
        "gpt2",  "smollm", "prefix", "falcon",          "deepseek-coder",  "deepseek3", "llama3",
        "qwen2", "o200k",  "llama2", "metaspace-first", "metaspace-split", "unknown"};
    char file[64];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(file, sizeof file, "%s.json", names[i]);
        small_tokenizer(file, names[i]);
    }
    small_tokenizer("smollm.gguf", "smollm");
    small_tokenizer("llama-spm.gguf", "llama-spm");
    small_tokenizer("sentencepiece.model", "sentencepiece");
}

/* ---- vectors of swift-transformers: a long text, and short cases with ids and decoded text ----
 */

static void long_text(Fixture *f, const char *name, unsigned flags)
{
    i32 want[1024];
    const Json *v =
        json_file(f, data_path(&f->a, arena_printf(&f->a, "tokenizer-vectors/%s.json", name)));
    size_t n = ids_of(json_get(v, "token_ids"), want, 1024);
    check_ids(f, name, json_get(v, "text")->str, flags, want, n);
    check_decoded(f, want, n, json_get(v, "text")->str);
}

/* The decoded text of these cases went through a clean-up that no tokenizer file asks for; the
 * input is compared. */
static void short_cases(Fixture *f, const char *name)
{
    const Json *all = json_file(f, data_path(&f->a, "tokenizer-vectors/hf-tokenizer_tests.json"));
    const Json *cases = json_get(all, name);
    assert_non_null(cases);
    for (u32 i = 0; i < cases->n; i++) {
        i32 want[256];
        Str text = json_get(cases->at + i, "input")->str;
        size_t n = ids_of(json_get(json_get(cases->at + i, "encoded"), "input_ids"), want, 256);
        check_ids(f, name, text, PFQ_TOK_POLICY | PFQ_TOK_SPECIAL, want, n);
        check_decoded(f, want, n, text);
    }
}

static void hf_llama2(void **state)
{
    (void)state;
    Fixture f = {0};
    open_or_skip(&f, data_path(&f.a, "tokenizers/llama2/tokenizer.model"));
    long_text(&f, "hf-llama_encoded", PFQ_TOK_POLICY);
    short_cases(&f, "coreml-projects/Llama-2-7b-chat-coreml");
    arena_free(&f.a);
}

static void hf_llama3(void **state)
{
    (void)state;
    Fixture f = {0};
    open_or_skip(&f, data_path(&f.a, "tokenizers/llama3/tokenizer.model"));
    long_text(&f, "hf-llama_3.2_encoded", PFQ_TOK_POLICY);
    short_cases(&f, "pcuenq/Llama-3.2-1B-Instruct-tokenizer");
    assert_true(pfq_tok_is_eog(&f.t, 128009) && pfq_tok_is_special(&f.t, 128006));
    arena_free(&f.a);
}

/* GPT-2's folder has no configuration that would name its pre-tokenizer, so it is named here. */
static void hf_gpt2(void **state)
{
    (void)state;
    Fixture f = {0};
    Source vocab, merges;
    const char *dir = data_path(&f.a, "tokenizers/gpt2");
    need(&f, dir);
    diag_init(&f.d, &f.a);
    assert_true(io_read_text(&f.d, &f.a, io_join(&f.a, dir, "vocab.json"), 64 << 20, &vocab));
    assert_true(io_read_text(&f.d, &f.a, io_join(&f.a, dir, "merges.txt"), 64 << 20, &merges));
    assert_true(fe_tokenizer_from_vocab(&f.d, &f.a, &vocab, &merges, NULL, "gpt-2", NULL, &f.blob));
    assert_null(pfq_tok_open(&f.t, f.blob.data, f.blob.n));
    long_text(&f, "hf-gpt2_encoded_tokens", 0);
    short_cases(&f, "distilgpt2");
    TokBlob refused;
    f.d.silent = true;
    assert_false(fe_tokenizer_load(&f.d, &f.a, dir, &refused));
    arena_free(&f.a);
}

static void smollm2_wikitext(void **state)
{
    (void)state;
    Fixture f = {0};
    const char *gguf = getenv("PFQC_SMOLLM2");
    open_or_skip(&f, gguf ? gguf : "build/demo/SmolLM2-135M-Instruct.Q4_1.gguf");
    const char *wiki = data_path(&f.a, "wikitext-2/wiki.test.gptq.txt");
    need(&f, wiki);
    Str text = read_all(&f, wiki);
    int32_t *ids;
    ptrdiff_t n = pfq_tok_encode(&f.t, text.p, text.n, PFQ_TOK_POLICY, &ids);
    assert_int_equal(n, 304978);
    free(ids);
    check_text(&f, text);
    const i32 chat[] = {1, 4093, 198, 19556, 2, 198};
    check_ids(&f, "chat", STR("<|im_start|>user\nHello<|im_end|>\n"), PFQ_TOK_SPECIAL, chat, 6);
    assert_true(pfq_tok_is_eog(&f.t, 2) && pfq_tok_is_eog(&f.t, 0) && !pfq_tok_is_eog(&f.t, 1));
    arena_free(&f.a);
}

/* Phi-3's special tokens swallow white space, which GGUF does not record. */
static void phi3_chat(void **state)
{
    (void)state;
    Fixture f = {0};
    open_or_skip(&f, data_path(&f.a, "gguf/ggml-vocab-phi-3.gguf"));
    const i32 want[] = {1, 32010, 6324, 32007, 32001};
    check_ids(&f, "phi-3 chat", STR("<|user|>\nHi<|end|>\n<|assistant|>\n"),
              PFQ_TOK_SPECIAL | PFQ_TOK_POLICY, want, 5);
    assert_true(pfq_tok_is_eog(&f.t, 32007) && pfq_tok_is_eog(&f.t, 32000));
    arena_free(&f.a);
}

static void tinystories(void **state)
{
    (void)state;
    Fixture f = {0};
    open_or_skip(&f, data_path(&f.a, "tinystories-656k"));
    const i32 want[] = {1, 80, 147, 201, 282, 215, 286, 704, 294, 847};
    check_ids(&f, "tinystories", STR("Once upon a time, there was a little boy named Tim. Tim"),
              PFQ_TOK_POLICY, want, 10);
    assert_true(f.t.add_bos && f.t.bos == 1 && f.t.eos == 2 && pfq_tok_is_eog(&f.t, 2));
    size_t n;
    char *text = pfq_tok_decode(&f.t, want, 10, false, &n);
    assert_string_equal(text, "Once upon a time, there was a little boy named Tim. Tim");
    free(text);
    arena_free(&f.a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_tokenizers),  cmocka_unit_test(vectors_gpt2_gguf),
        cmocka_unit_test(vectors_deepseek),  cmocka_unit_test(vectors_spm_gguf),
        cmocka_unit_test(vectors_phi3_gguf), cmocka_unit_test(vectors_phi3_json),
        cmocka_unit_test(vectors_phi2_json), cmocka_unit_test(vectors_qwen2),
        cmocka_unit_test(vectors_llama2),    cmocka_unit_test(vectors_llama3),
        cmocka_unit_test(hf_llama2),         cmocka_unit_test(hf_llama3),
        cmocka_unit_test(hf_gpt2),           cmocka_unit_test(smollm2_wikitext),
        cmocka_unit_test(tinystories),       cmocka_unit_test(phi3_chat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
