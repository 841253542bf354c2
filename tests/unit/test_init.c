/* `pfqc init`: what it writes, where its paths point, and what it refuses. */
#include "frontend/frontend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define DATA "tests/data/arch/"

typedef struct Fixture {
    Arena a;
    Diag d;
    char dir[32];
    FeInit init;
} Fixture;

static void begin(Fixture *f)
{
    *f = (Fixture){.dir = "/tmp/pfqc-test-XXXXXX"};
    diag_init(&f->d, &f->a);
    assert_non_null(mkdtemp(f->dir));
}

static void end(Fixture *f)
{
    static const char *const files[] = {"config.json", "model.safetensors", "m.gguf", "model.json", "sub/model.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) unlink(io_join(&f->a, f->dir, files[i]));
    rmdir(io_join(&f->a, f->dir, "sub"));
    rmdir(f->dir);
    arena_free(&f->a);
}

static Source read_file(Fixture *f, const char *path)
{
    Source s;
    MappedFile m;
    if (!io_map(&f->d, &f->a, path, &m)) fail_msg("cannot read %s", path);
    s = (Source){path, arena_strdup(&f->a, (const char *)m.data, m.size), m.size};
    io_unmap(&m);
    return s;
}

/* The first `from` of the file becomes `to`. */
static void copy_changed(Fixture *f, const char *path, const char *to_path, const char *from, const char *to)
{
    Source s = read_file(f, path);
    StrBuf b = {.a = &f->a};
    const char *p = from ? memmem(s.text, s.n, from, strlen(from)) : s.text;
    assert_non_null(p);
    size_t before = (size_t)(p - s.text), cut = from ? strlen(from) : 0;
    sb_add(&b, s.text, before);
    if (to) sb_str(&b, to);
    sb_add(&b, p + cut, s.n - before - cut);
    assert_true(io_write_file(&f->d, &f->a, to_path, b.p, b.n));
}

/* A folder like tests/data/arch/CASE with a changed config.json. */
static void folder(Fixture *f, const char *name, const char *from, const char *to)
{
    char real[4096];
    begin(f);
    assert_non_null(realpath(arena_printf(&f->a, DATA "%s/model.safetensors", name), real));
    assert_int_equal(symlink(real, io_join(&f->a, f->dir, "model.safetensors")), 0);
    copy_changed(f, arena_printf(&f->a, DATA "%s/config.json", name), io_join(&f->a, f->dir, "config.json"), from, to);
    f->init.checkpoint = f->dir;
}

static const char *first_error(const Fixture *f)
{
    for (u32 i = 0; i < f->d.msgs.n; i++)
        if (f->d.msgs.at[i].code) return arena_printf(f->d.a, "%s %s", err_name(f->d.msgs.at[i].code), f->d.msgs.at[i].text);
    return "no error";
}

static void test_config(void **state)
{
    (void)state;
    static const struct {
        const char *name, *from, *to, *error, *at; /* at: config.json at the error's place; NULL: not there */
    } rows[] = {
        {"llama-bias", "\"llama\"", "\"lama\"", "E0110 the architecture \"lama\" is not known", "\"lama\""},
        {"llama-bias", "\"model_type\"", "\"model_kind\"", "E0103 the key \"model_type\" is missing", NULL},
        {"llama-bias", "\"silu\"", "\"gelu\"", "E0111 the activation is 'gelu'; llama supports 'silu'", "\"gelu\""},
        {"llama-bias", "\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0}", "E0111 the RoPE scaling type is 'yarn'; supported: default, linear, llama3", "{\"type\""},
        {"phi3", "\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"longrope\"}", "E0111 the checkpoint does not say its factor", NULL},
        {"phi3-partial", "\"rope_type\": \"default\"", "\"rope_type\": \"longrope\", \"factor\": 1.0", "E0111 the RoPE scaling type is 'longrope'", "{"},
        {"llama-bias", "\"rope_scaling\": null", "\"rope_scaling\": {\"factor\": 4.0}", "E0111 rope_scaling does not name its type", "{\"factor\""},
        {"llama-llama3", "\"rope_type\": \"llama3\"", "\"rope_type\": \"dynamic\"", "E0111 the RoPE scaling type is 'dynamic'", "{"},
        {"llama-llama3", "\"high_freq_factor\"", "\"hihg_freq_factor\"", "E0111 the checkpoint does not say its high", NULL},
        {"llama-llama3", "\"rope_parameters\": {", "\"rope_parameters\": {\"full_attention\": {\"rope_theta\": 1.0},", "E0111 RoPE parameters that differ between layers", "{\"full"},
        {"llama-bias", "\"hidden_size\": 32,", "", "E0111 the checkpoint does not say its hidden (config.hidden_size)", NULL},
        {"llama-bias", "\"hidden_size\": 32", "\"hidden_size\": \"32\"", "E0107 hidden is 32 (config.hidden_size), expected a positive integer", NULL},
        {"llama-bias", "\"hidden_size\": 32", "\"hidden_size\": 33", "E0111 33 is not a multiple of 4", NULL},
        {"llama-bias", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "E0111 4 heads are no multiple of 3 key-value heads", "3"},
        {"llama-bias", "\"vocab_size\": 96", "\"vocab_size\": 95", "E0203 tensor \"model.embed_tokens.weight\"", NULL},
        {"llama-bias", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "E0202 the checkpoint has no tensor \"model.layers.2.input_layernorm.weight\"", NULL},
        {"llama-bias", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", "E0205 the checkpoint holds 16 tensors that a llama model does not use: model.layers.1.", NULL},
        {"llama-bias", "\"mlp_bias\": true", "\"mlp_bias\": false", "E0205 the checkpoint holds 6 tensors that a llama model does not use: model.layers.0.mlp.", NULL},
        {"llama-bias", "\"mlp_bias\": true", "\"mlp_bias\": \"yes\"", "E0111 \"mlp_bias\" is neither true nor false", NULL},
        {"llama-linear", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", "E0202 the checkpoint has no tensor \"lm_head.weight\"", NULL},
        {"llama-bias", "\"mlp_bias\": true", "\"mlp_bias\": true, \"quantization_config\": {\"bits\": 4}", "E0111 the checkpoint is already quantised", "{\"bits\""},
        {"llama-bias", "\"mlp_bias\": true", "\"mlp_bias\": true, \"num_local_experts\": 8", "E0111 mixture-of-experts", NULL},
        {"llama-bias", "\"mlp_bias\": true", "\"mlp_bias\": true, \"partial_rotary_factor\": 0.5", "E0111 partial_rotary_factor is 0.5; llama rotates whole heads", "0.5"},
        {"mistral-window", "\"sliding_window\": 7,", "", "E0111 config.json does not say sliding_window (null: none)", NULL},
        {"qwen2-v5", "\"sliding_attention\",", "", "E0111 index 1 of a list of 1", NULL},
        {"llama-bias", "{", "[", "E0101 ", NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Fixture f;
        folder(&f, rows[i].name, rows[i].from, rows[i].to);
        f.init.output = io_join(&f.a, f.dir, "model.json");
        if (fe_init(&f.d, &f.a, &f.init)) fail_msg("%s was accepted", rows[i].to);
        const char *error = first_error(&f);
        if (strncmp(error, rows[i].error, strlen(rows[i].error))) fail_msg("%s: %s, expected %s", rows[i].to, error, rows[i].error);
        for (u32 k = 0; rows[i].at && k < f.d.msgs.n; k++) {
            if (!f.d.msgs.at[k].code) continue;
            Loc loc = f.d.msgs.at[k].loc;
            if (!loc.src || !loc.src->text || strncmp(loc.src->text + loc.off, rows[i].at, strlen(rows[i].at))) fail_msg("%s: the error does not point to %s", error, rows[i].at);
            break;
        }
        if (io_exists(f.init.output)) fail_msg("%s: a model.json was written", error);
        end(&f);
    }
}

/* A copy of gguf-llama to be changed: where `what` first stands in it. */
static char *find_in_gguf(Fixture *f, Source *copy, const char *what)
{
    *copy = read_file(f, DATA "gguf-llama/gguf-llama.gguf");
    char *text = arena_strdup(&f->a, copy->text, copy->n);
    copy->text = text;
    char *p = memmem(text, copy->n, what, strlen(what));
    assert_non_null(p);
    return p;
}

/* What is said of the changed one, which is refused. */
static const char *gguf_error(Fixture *f, const Source *s)
{
    f->init.checkpoint = io_join(&f->a, f->dir, "m.gguf");
    assert_true(io_write_file(&f->d, &f->a, f->init.checkpoint, s->text, s->n));
    assert_false(fe_init(&f->d, &f->a, &f->init));
    return first_error(f);
}

static void test_gguf(void **state)
{
    (void)state;
    static const struct { const char *from, *to, *error; } rows[] = {
        {"llama", "gemma", "E0110 the architecture \"gemma\" is not known"},
        {"llama", "l\033m\xc3", "E0110 the architecture \""},
        {"llama.context_length", "llama.context_lenght", "E0111 the checkpoint does not say its context (gguf.context_length)"},
        {"linear", "yarn\0\0", "E0111 the RoPE scaling type is"},
        {"blk.1.attn_q.weight", "blk.1.attn_q.wieght", "E0202 the checkpoint has no tensor \"blk.1.attn_q.weight\""},
        {"output.weight", "outptu.weight", "E0205 the checkpoint holds 1 tensor that a llama model does not use: outptu.weight"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Fixture f;
        Source s;
        begin(&f);
        memcpy(find_in_gguf(&f, &s, rows[i].from), rows[i].to, strlen(rows[i].from));
        const char *error = gguf_error(&f, &s);
        if (strncmp(error, rows[i].error, strlen(rows[i].error))) fail_msg("%s: %s, expected %s", rows[i].from, error, rows[i].error);
        for (const char *c = error; *c; c++) assert_true((u8)*c >= 0x20);
        end(&f);
    }
}

/* Floats of the metadata that are no numbers: the value's place is at the key's end, behind its type. */
static void test_gguf_floats(void **state)
{
    (void)state;
    static const struct { const char *key; u32 bits; const char *error; } rows[] = {
        {"llama.attention.layer_norm_rms_epsilon", 0x7fc00000, "E0111 \"llama.attention.layer_norm_rms_epsilon\" is nan, expected a finite number"},
        {"llama.rope.freq_base", 0x7f800000, "E0111 \"llama.rope.freq_base\" is inf, expected a finite number"},
        {"llama.rope.freq_base", 0xff800000, "E0111 \"llama.rope.freq_base\" is -inf, expected a finite number"},
        {"llama.rope.scaling.factor", 0x7f800000, "E0111 \"llama.rope.scaling.factor\" is inf, expected a finite number"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Fixture f;
        Source s;
        begin(&f);
        char *p = find_in_gguf(&f, &s, rows[i].key) + strlen(rows[i].key);
        assert_memory_equal(p, "\6\0\0\0", 4); /* f32 */
        memcpy(p + 4, &rows[i].bits, 4);
        assert_string_equal(gguf_error(&f, &s), rows[i].error);
        assert_int_equal(f.d.n_errors, 1);
        end(&f);
    }
}

static void test_missing(void **state)
{
    (void)state;
    Fixture f;
    begin(&f);
    f.init.checkpoint = io_join(&f.a, f.dir, "nothing");
    assert_false(fe_init(&f.d, &f.a, &f.init));
    assert_int_equal(f.d.n_errors, 1);
    f.init.checkpoint = f.dir; /* an empty folder */
    assert_false(fe_init(&f.d, &f.a, &f.init));
    assert_int_equal(f.d.n_errors, 2);
    f.init = (FeInit){.checkpoint = DATA "llama-bias", .name = "a/b"};
    assert_false(fe_init(&f.d, &f.a, &f.init));
    assert_int_equal(f.d.n_errors, 3);
    end(&f);
}

/* Paths count from the output's folder, links keep their name, and the result loads from there. */
static void test_paths(void **state)
{
    (void)state;
    Fixture f;
    folder(&f, "llama-bias", NULL, NULL);
    assert_int_equal(mkdir(io_join(&f.a, f.dir, "sub"), 0755), 0);
    static const char *const outputs[] = {"model.json", "sub/model.json"}, *const weights[] = {"\"weights\": [\"model.safetensors\"]", "\"weights\": [\"../model.safetensors\"]"};
    for (u32 i = 0; i < 2; i++) {
        FeModel m;
        f.init.output = io_join(&f.a, f.dir, outputs[i]);
        bool ok = fe_init(&f.d, &f.a, &f.init) && fe_model_load(&f.d, &f.a, f.init.output, &m);
        diag_flush(&f.d);
        assert_true(ok);
        assert_non_null(strstr(f.init.text, weights[i]));
        assert_non_null(strstr(f.init.text, "\"name\": \"pfqc-test-"));
        fe_model_close(&m);
    }
    end(&f);
}

/* vocab.json and merges.txt: the folder is the tokenizer, also beside the output. */
static void test_vocab(void **state)
{
    (void)state;
    static const char *const outputs[] = {"model.json", "sub/model.json"}, *const want[] = {"\"tokenizer\": \".\"", "\"tokenizer\": \"..\""};
    static const char *const files[] = {"vocab.json", "merges.txt"}, *const texts[] = {"{\"a\": 0}", ""};
    Fixture f;
    folder(&f, "llama-bias", NULL, NULL);
    assert_int_equal(mkdir(io_join(&f.a, f.dir, "sub"), 0755), 0);
    for (u32 n = 0; n <= 2; n++) { /* both files must be there */
        if (n) assert_true(io_write_file(&f.d, &f.a, io_join(&f.a, f.dir, files[n - 1]), texts[n - 1], strlen(texts[n - 1])));
        for (u32 i = 0; i < 2; i++) {
            FeModel m;
            f.init.output = io_join(&f.a, f.dir, outputs[i]);
            bool ok = fe_init(&f.d, &f.a, &f.init) && fe_model_load(&f.d, &f.a, f.init.output, &m);
            diag_flush(&f.d);
            assert_true(ok);
            assert_int_equal(strstr(f.init.text, want[i]) != NULL, n == 2);
            assert_int_equal(m.tokenizer != NULL, n == 2);
            assert_true(n < 2 || io_is_dir(m.tokenizer));
            fe_model_close(&m);
        }
    }
    for (u32 i = 0; i < 2; i++) unlink(io_join(&f.a, f.dir, files[i]));
    end(&f);
}

static void test_names(void **state)
{
    (void)state;
    static const struct { const char *checkpoint, *given, *name; } rows[] = {
        {"samples/tinystories", NULL, "tinystories"},
        {"samples/tinystories/", NULL, "tinystories"},
        {"samples/tinystories/model.safetensors", NULL, "tinystories"},
        {"samples/tinystories", "Tiny_1.5", "Tiny_1.5"},
        {DATA "gguf-llama/gguf-llama.gguf", NULL, "gguf-llama"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Arena a = {0};
        Diag d;
        diag_init(&d, &a);
        FeInit init = {.checkpoint = rows[i].checkpoint, .name = rows[i].given};
        assert_true(fe_init(&d, &a, &init));
        if (!strstr(init.text, arena_printf(&a, "\"name\": \"%s\"", rows[i].name))) fail_msg("%s is not named %s", rows[i].checkpoint, rows[i].name);
        arena_free(&a);
    }
}

/* The samples' model.json are what init writes today. */
static void test_sample(void **state)
{
    (void)state;
    Fixture f;
    begin(&f);
    Source s = read_file(&f, "samples/tinystories/model.json");
    f.init.checkpoint = "samples/tinystories";
    assert_true(fe_init(&f.d, &f.a, &f.init));
    StrBuf b = {.a = &f.a};
    static const char here[] = "samples/tinystories/"; /* it would be written there */
    for (const char *p = f.init.text; *p;) {
        if (strncmp(p, here, sizeof here - 1) == 0) p += sizeof here - 1;
        else sb_ch(&b, *p++);
    }
    assert_string_equal(b.p, s.text);
    end(&f);
}

/* Descriptions are found by name, in order. */
static void test_list(void **state)
{
    (void)state;
    Arena a = {0};
    assert_string_equal(fe_arch_list(&a), "llama, mistral, phi3, qwen2, qwen3");
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config), cmocka_unit_test(test_gguf), cmocka_unit_test(test_missing), cmocka_unit_test(test_paths),
        cmocka_unit_test(test_gguf_floats), cmocka_unit_test(test_vocab), cmocka_unit_test(test_names), cmocka_unit_test(test_sample), cmocka_unit_test(test_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
