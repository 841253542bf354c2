/* What test_template.py cannot reach: damaged blobs, a small stack, where templates are found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "frontend/template.h"
#include "runtime/image.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char text[] =
    "{% macro m(a, b=1) %}{{ a ~ b }}{% endmacro %}{% for x in l if x %}"
    "{{ m(x) | upper }}{% else %}{% endfor %}{% set y = {'k': [1.5, none]} %}"
    "{{ y.k[1:] if x is defined else bos_token }}";

static bool compile(Arena *a, Diag *d, const char *s, TplBlob *out)
{
    Source *src = NEW(a, Source);
    TplSet set = {0};
    *src = (Source){"t.jinja", s, strlen(s)};
    diag_init(d, a);
    vec_push(a, &set.text, ((TplText){STR("default"), src}));
    vec_push(a, &set.token, ((TplToken){STR("bos_token"), STR("<s>")}));
    return fe_template_compile(d, a, &set, out);
}

static bool render(const TplBlob *b, const char *context, char *out, size_t cap, PfqErr *err)
{
    PfqTemplate t;
    PfqMem m;
    PfqVal c, v;
    const char *bad = pfq_tpl_open(&t, b->data, b->n);
    if (bad) return pfq_fail(err, "%s", bad);
    pfq_mem_init(&m, 1 << 20);
    bool ok = pfq_val_json(&m, context, strlen(context), &c, err) &&
              pfq_tpl_render(&t, 0, c, &(PfqTplLimits){100000, 10000, 300}, 0, &m, &v, err);
    if (ok) snprintf(out, cap, "%.*s", (int)v.n, v.s);
    pfq_mem_free(&m);
    return ok;
}

static void test_blob_is_deterministic(void **state)
{
    Arena a = {0};
    Diag d;
    TplBlob one, two;
    char out[64];
    PfqErr err;
    (void)state;
    assert_true(compile(&a, &d, text, &one) && compile(&a, &d, text, &two));
    assert_int_equal(one.n, two.n);
    assert_memory_equal(one.data, two.data, one.n);
    assert_true(render(&one, "{\"l\": [1, 0, \"b\"]}", out, sizeof out, &err));
    assert_string_equal(out, "11B1<s>");
    assert_true(render(&one, "{\"bos_token\": \"!\"}", out, sizeof out, &err));
    assert_string_equal(out, "!");
    arena_free(&a);
}

/* Every byte of a blob set to other values: refused, or rendered without harm. */
static void test_damaged_blobs(void **state)
{
    static const u8 values[] = {0, 1, 2, 7, 30, 0x7f, 0x80, 0xff};
    Arena a = {0};
    Diag d;
    TplBlob b;
    char out[256];
    PfqErr err;
    int opened = 0;
    (void)state;
    assert_true(compile(&a, &d, text, &b));
    u8 *copy = malloc(b.n);
    for (size_t i = 0; i < b.n; i++)
        for (size_t k = 0; k < sizeof values; k++) {
            memcpy(copy, b.data, b.n);
            copy[i] = values[k];
            const TplBlob bad = {copy, b.n};
            opened += render(&bad, "{\"l\": [1, 2]}", out, sizeof out, &err);
        }
    assert_true(opened > 0);
    for (size_t n = 0; n < b.n; n++) {
        PfqTemplate t;
        u8 *cut = malloc(n + 1);
        memcpy(cut, b.data, n);
        assert_non_null(pfq_tpl_open(&t, cut, n));
        free(cut);
    }
    free(copy);
    arena_free(&a);
}

static void *deep(void *arg)
{
    char out[64];
    static PfqErr err;
    return render(arg, "{\"k\": 1000}", out, sizeof out, &err) ? NULL : err.text;
}

/* The depth limit ends recursion before a thread of 256 KiB runs out of stack. */
static void test_small_stack(void **state)
{
    static const char *const templates[] = {
        "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(k) }}",
        "{% macro m(n) %}{% for i in [1] %}{% if true %}{{ (m(n + 1) ~ 'a') | upper | trim }}{% "
        "endif %}{% endfor %}{% endmacro %}{{ m(k) }}",
        "{% set ns = namespace(s=[]) %}{% for i in range(k) %}{% set ns.s = [ns.s, {'a': ns.s}] "
        "%}{% endfor %}{{ ns.s | tojson }}",
        "{% macro m(l) %}{{ [1] | map('string') | list ~ caller(l) }}{% endmacro %}{% macro r(l) "
        "%}{% call(x) m(l) %}{{ r(x) }}{% endcall %}{% endmacro %}{{ r(1) }}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof templates / sizeof *templates; i++) {
        Arena a = {0};
        Diag d;
        TplBlob b;
        pthread_t thread;
        pthread_attr_t attr;
        void *error;
        assert_true(compile(&a, &d, templates[i], &b));
        pthread_attr_init(&attr);
#ifdef __SANITIZE_ADDRESS__
        pthread_attr_setstacksize(&attr, 4 << 20); /* its frames are larger */
#else
        pthread_attr_setstacksize(&attr, 256 << 10);
#endif
        assert_int_equal(pthread_create(&thread, &attr, deep, &b), 0);
        pthread_join(thread, &error);
        assert_non_null(error);
        if (!strstr(error, "nesting of more than 300"))
            fail_msg("template %zu: %s", i, (char *)error);
        pthread_attr_destroy(&attr);
        arena_free(&a);
    }
}

static void test_json(void **state)
{
    static const char *const bad[] = {"", "[1,]", "\"\\ud800\"", "1e999", "[] []"};
    PfqMem m;
    PfqVal v;
    PfqErr err;
    (void)state;
    pfq_mem_init(&m, 1 << 20);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (pfq_val_json(&m, bad[i], strlen(bad[i]), &v, &err)) fail_msg("accepted: %s", bad[i]);
    const char *good = " {\"a\": [1, -2, 2.5, true, null, \"\\u00e9\\ud83d\\ude00\\n\"], \"b\": 1, "
                       "\"b\": 2, \"big\": 9223372036854775807, \"bigger\": 9223372036854775808} ";
    assert_true(pfq_val_json(&m, good, strlen(good), &v, &err));
    assert_int_equal(v.n, 4);
    assert_int_equal(pfq_val_get(v, "b").i, 2);
    assert_int_equal(pfq_val_get(v, "a").at[1].i, -2);
    assert_string_equal(pfq_val_get(v, "a").at[5].s, "\xc3\xa9\xf0\x9f\x98\x80\n");
    assert_true(pfq_val_get(v, "big").i == INT64_MAX);
    assert_int_equal(pfq_val_get(v, "bigger").kind, PFQ_V_REAL);
    pfq_mem_free(&m);
    pfq_mem_init(&m, 4096);
    char *large = malloc(10000);
    memset(large, ' ', 10000);
    large[0] = large[9999] = '"';
    assert_false(pfq_val_json(&m, large, 10000, &v, &err));
    free(large);
    pfq_mem_free(&m);
}

/* ---- where templates are found ---- */

static char dir[] = "/tmp/pfqc-template-XXXXXX";

static const char *path_of(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void put(const char *name, const char *content)
{
    FILE *f = fopen(path_of(name), "w");
    assert_non_null(f);
    fputs(content, f);
    fclose(f);
}

/* The first template's name and what it renders, or NULL: none. */
static const char *found(const char *file, const char *tools)
{
    static char out[128];
    Arena a = {0};
    Diag d;
    TplBlob b;
    TokBlob none = {0};
    PfqTemplate t;
    PfqMem m;
    PfqVal v;
    PfqErr err;
    diag_init(&d, &a);
    if (!fe_template_load(&d, &a, dir, file, &none, &b)) {
        snprintf(out, sizeof out, "%s", d.msgs.at[0].text);
    } else if (!b.data) {
        snprintf(out, sizeof out, "none");
    } else {
        assert_null(pfq_tpl_open(&t, b.data, b.n));
        pfq_mem_init(&m, 1 << 20);
        assert_true(
            pfq_tpl_render(&t, pfq_tpl_choose(&t, *tools), (PfqVal){0}, NULL, 0, &m, &v, &err));
        snprintf(out, sizeof out, "%.*s", (int)v.n, v.s);
        pfq_mem_free(&m);
    }
    arena_free(&a);
    return out;
}

static void test_where(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(dir));
    assert_string_equal(found(NULL, ""), "none");
    put("tokenizer_config.json", "{\"bos_token\": {\"content\": \"<b>\"}, \"chat_template\": "
                                 "\"config {{ bos_token }}\"}");
    assert_string_equal(found(NULL, ""), "config <b>");
    put("tokenizer_config.json",
        "{\"eos_token\": \"</b>\", \"chat_template\": [{\"name\": \"tool_use\", \"template\": "
        "\"tools\"}, "
        "{\"name\": \"default\", \"template\": \"plain {{ eos_token }}\"}]}");
    assert_string_equal(found(NULL, ""), "plain </b>");
    assert_string_equal(found(NULL, "tools"), "tools");
    put("chat_template.jinja", "file {{ eos_token }}\n");
    assert_string_equal(found(NULL, ""), "file </b>");
    assert_int_equal(mkdir(path_of("additional_chat_templates"), 0700), 0);
    put("additional_chat_templates/tool_use.jinja", "tools too");
    put("additional_chat_templates/ignored", "{{");
    assert_string_equal(found(NULL, "tools"), "tools too");
    assert_string_equal(found(NULL, ""), "file </b>");
    unlink(path_of("additional_chat_templates/tool_use.jinja"));
    unlink(path_of("additional_chat_templates/ignored"));
    rmdir(path_of("additional_chat_templates"));
    put("other.jinja", "other");
    char other[128];
    snprintf(other, sizeof other, "%s", path_of("other.jinja"));
    assert_string_equal(found(other, ""), "other");
    put("other.jinja", "");
    assert_string_equal(found(other, ""), "the file holds no chat template");
    put("chat_template.jinja", "\n{{ nope");
    assert_string_equal(found(NULL, ""), "the tag has no end, expected }}");
    put("tokenizer_config.json", "{\"chat_template\": 5}");
    unlink(path_of("chat_template.jinja"));
    assert_string_equal(found(NULL, ""), "\"chat_template\" is a number, expected text");
    unlink(path_of("tokenizer_config.json"));
    unlink(path_of("other.jinja"));
    rmdir(dir);
}

/* ---- GGUF ---- */

static void le(StrBuf *b, u64 v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        sb_ch(b, (char)(v >> 8 * i));
}

static void gguf_text(StrBuf *b, const char *s)
{
    le(b, strlen(s), 8);
    sb_str(b, s);
}

static void test_gguf(void **state)
{
    Arena a = {0};
    StrBuf b = {.a = &a};
    char path[128];
    (void)state;
    strcpy(dir, "/tmp/pfqc-template-XXXXXX");
    assert_non_null(mkdtemp(dir));
    sb_str(&b, "GGUF");
    le(&b, 3, 4), le(&b, 0, 8), le(&b, 3, 8); /* version, tensors, keys */
    gguf_text(&b, "tokenizer.chat_template");
    le(&b, 8, 4), gguf_text(&b, "plain");
    gguf_text(&b, "tokenizer.chat_templates");
    le(&b, 9, 4), le(&b, 8, 4), le(&b, 2, 8), gguf_text(&b, "tool_use"), gguf_text(&b, "absent");
    gguf_text(&b, "tokenizer.chat_template.tool_use");
    le(&b, 8, 4), gguf_text(&b, "tools");
    while (b.n % 32)
        sb_ch(&b, 0);
    snprintf(path, sizeof path, "%s", path_of("blob")); /* the content tells what it is */
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(b.p, 1, b.n, f), b.n);
    fclose(f);
    Diag d;
    TplBlob blob;
    TokBlob none = {0};
    PfqTemplate t;
    diag_init(&d, &a);
    assert_true(fe_template_load(&d, &a, path, NULL, &none, &blob));
    assert_null(pfq_tpl_open(&t, blob.data, blob.n));
    assert_int_equal(pfq_tpl_find(&t, "default"), 0);
    assert_int_equal(pfq_tpl_find(&t, "tool_use"), 1);
    assert_int_equal(pfq_tpl_find(&t, "absent"), -1);
    unlink(path);
    rmdir(dir);
    arena_free(&a);
}

static void test_size_limit(void **state)
{
    Arena a = {0};
    Diag d;
    TplBlob b;
    (void)state;
    for (size_t n = TPL_MAX_TEXT; n <= TPL_MAX_TEXT + 1; n++) {
        char *s = malloc(n + 1);
        memset(s, 'x', n);
        s[n] = 0;
        assert_true(compile(&a, &d, s, &b) == (n == TPL_MAX_TEXT));
        free(s);
    }
    assert_false(compile(&a, &d, "a\xff", &b));
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blob_is_deterministic),
        cmocka_unit_test(test_damaged_blobs),
        cmocka_unit_test(test_small_stack),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_where),
        cmocka_unit_test(test_gguf),
        cmocka_unit_test(test_size_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
