/* frontend: safetensors, GGUF and checkpoints of several files; the malformed set; the limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "frontend/checkpoint.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define DATA "tests/data/checkpoints"

typedef struct Fixture {
    Arena a;
    Diag d;
    Checkpoint ck;
} Fixture;

static bool open_paths(Fixture *f, const char *base, const char *const *paths, u32 n)
{
    *f = (Fixture){0};
    diag_init(&f->d, &f->a);
    return ck_open(&f->d, &f->a, base, paths, n, &f->ck);
}

static bool open_one(Fixture *f, const char *base, const char *path)
{
    return open_paths(f, base, &path, 1);
}

static void must_open(Fixture *f, const char *base, const char *path)
{
    if (!open_one(f, base, path)) {
        diag_flush(&f->d);
        fail_msg("%s/%s was refused", base, path);
    }
}

static void done(Fixture *f)
{
    ck_close(&f->ck);
    arena_free(&f->a);
}

/* Exactly one error, with this code, and the text in the message or its hint. */
static void assert_refused(const Fixture *f, const char *what, const char *code, const char *text)
{
    if (f->d.n_errors != 1) fail_msg("%s: %u errors, expected 1", what, f->d.n_errors);
    if (strcmp(err_name(f->d.msgs.at[0].code), code) != 0)
        fail_msg("%s: %s (%s), expected %s", what, err_name(f->d.msgs.at[0].code),
                 f->d.msgs.at[0].text, code);
    if (!strstr(f->d.msgs.at[0].text, text))
        fail_msg("%s: '%s' does not hold '%s'", what, f->d.msgs.at[0].text, text);
}

/* ---- valid files ---- */

static void assert_counts_up(const Checkpoint *ck, const CkTensor *t, bool modulo_2)
{
    float x[64];
    u64 n = ck_elements(t);
    assert_true(n <= 64);
    ck_decode(ck, t, 0, n, x);
    for (u64 i = 0; i < n; i++)
        if (fabsf(x[i] - (float)(modulo_2 ? i % 2 : i)) > 0)
            fail_msg("%.*s[%u] is %g", STRF(t->name), (u32)i, (double)x[i]);
}

static void gguf_all_types(void **state)
{
    (void)state;
    Fixture f;
    must_open(&f, DATA "/gguf", "all-types.gguf");
    const Gguf *g = ck_gguf(&f.ck);
    assert_int_equal(g->version, 3);
    assert_int_equal(g->alignment, 64);
    assert_int_equal(f.ck.n_tensors, 19);
    for (u32 i = 0; i < f.ck.n_tensors; i++) {
        const CkTensor *t = &f.ck.tensor[i];
        const char *dot = memchr(t->name.p, '.', t->name.n);
        Str kind = {dot + 1, t->name.n - (size_t)(dot + 1 - t->name.p)};
        assert_int_equal(t->enc, enc_by_name(kind));
        if (!str_starts(t->name, "quant."))
            assert_counts_up(&f.ck, t, false);
        else
            assert_true(t->rank == 2 && t->dim[0] == 2 && t->dim[1] == 256);
    }
    const CkTensor *deep = ck_find(&f.ck, STR("deep.f32"));
    assert_true(deep->rank == 4 && deep->dim[0] == 2 && deep->dim[1] == 3 && deep->dim[2] == 2 &&
                deep->dim[3] == 2);
    done(&f);
}

static void gguf_metadata_is_typed(void **state)
{
    (void)state;
    Fixture f;
    must_open(&f, DATA "/gguf", "all-types.gguf");
    const Gguf *g = ck_gguf(&f.ck);
    Diag *d = &f.d;
    u64 u;
    i64 i;
    double x;
    bool b;
    Str s;
    assert_true(gguf_u64(d, g, "t.u8", &u) && u == 200);
    assert_true(gguf_i64(d, g, "t.i8", &i) && i == -100);
    assert_true(gguf_u64(d, g, "t.u16", &u) && u == 60000);
    assert_true(gguf_i64(d, g, "t.i16", &i) && i == -30000);
    assert_true(gguf_u64(d, g, "t.u32", &u) && u == 4000000000);
    assert_true(gguf_i64(d, g, "t.i32", &i) && i == -2000000000);
    assert_true(gguf_u64(d, g, "t.u64", &u) && u == UINT64_MAX);
    assert_true(gguf_i64(d, g, "t.i64", &i) && i == INT64_MIN);
    assert_true(gguf_f64(d, g, "t.f32", &x) && fabs(x - 1.5) <= 0);
    assert_true(gguf_f64(d, g, "t.f64", &x) && fabs(x - 0.1) <= 0);
    assert_true(gguf_f64(d, g, "t.u32", &x) && fabs(x - 4e9) <= 0);
    assert_true(gguf_bool(d, g, "t.bool", &b) && b);
    assert_true(gguf_str(d, g, "t.string", &s) && str_is(s, "na\xc3\xafve"));
    const GgufKv *kv = gguf_str_array(d, g, "t.strings");
    const u8 *p = kv->data;
    assert_int_equal(kv->count, 3);
    assert_true(str_is(gguf_next_str(&p), "a") && str_is(gguf_next_str(&p), "") &&
                str_is(gguf_next_str(&p), "b\xc3\xa9"));
    kv = gguf_num_array(d, g, "t.ints");
    assert_true(kv->count == 3 && gguf_elem_i64(kv, 1) == -1 && gguf_elem_i64(kv, 2) == 4);
    kv = gguf_num_array(d, g, "t.floats");
    assert_true(kv->count == 2 && fabs(gguf_elem_f64(kv, 1) + 2) <= 0 &&
                gguf_elem_i64(kv, 1) == -2);
    kv = gguf_num_array(d, g, "t.bools");
    assert_true(kv->count == 2 && gguf_elem_i64(kv, 0) == 1 && gguf_elem_i64(kv, 1) == 0);
    assert_null(gguf_find(g, "t.none"));
    assert_int_equal(d->n_errors, 0);

    assert_false(gguf_u64(d, g, "t.none", &u));
    assert_false(gguf_u64(d, g, "t.i8", &u));  /* negative */
    assert_false(gguf_i64(d, g, "t.u64", &i)); /* beyond 63 bits */
    assert_false(gguf_u64(d, g, "t.f32", &u));
    assert_false(gguf_f64(d, g, "t.string", &x));
    assert_false(gguf_bool(d, g, "t.u8", &b));
    assert_false(gguf_str(d, g, "t.strings", &s));
    assert_null(gguf_str_array(d, g, "t.ints"));
    assert_null(gguf_num_array(d, g, "t.strings"));
    assert_null(gguf_num_array(d, g, "t.u8"));
    assert_int_equal(d->n_errors, 10);
    assert_string_equal(d->msgs.at[6].text,
                        "'t.strings' is an array of type string, expected a string");
    done(&f);
}

static void gguf_version_2(void **state)
{
    (void)state;
    Fixture f;
    must_open(&f, DATA "/gguf", "v2.gguf");
    assert_int_equal(ck_gguf(&f.ck)->version, 2);
    assert_counts_up(&f.ck, ck_find(&f.ck, STR("a")), false);
    done(&f);
}

static void safetensors_all_dtypes(void **state)
{
    (void)state;
    Fixture f;
    must_open(&f, DATA, "safetensors/all-dtypes.safetensors");
    assert_int_equal(f.ck.n_tensors, 18);
    assert_null(ck_gguf(&f.ck));
    for (u32 i = 0; i < f.ck.n_tensors; i++) {
        const CkTensor *t = &f.ck.tensor[i];
        if (!str_is(t->name, "scalar")) assert_counts_up(&f.ck, t, t->enc == ENC_BOOL);
    }
    float five;
    const CkTensor *scalar = ck_find(&f.ck, STR("scalar")), *empty = ck_find(&f.ck, STR("empty"));
    ck_decode(&f.ck, scalar, 0, 1, &five);
    assert_true(scalar->rank == 0 && fabsf(five - 5) <= 0);
    assert_true(empty->rank == 2 && empty->dim[0] == 0 && empty->dim[1] == 4 && empty->bytes == 0);
    assert_int_equal(ck_find(&f.ck, STR("deep"))->rank, 6);
    const Safetensors *s = f.ck.file[0].st;
    bool found = false;
    for (u32 i = 0; i < s->n_meta; i++)
        found |= str_is(s->meta[i].key, "note") &&
                 str_is(s->meta[i].value, "na\xc3\xafve \"quoted\" \\ \t");
    assert_true(found);
    done(&f);
}

static void other_projects_files(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        u32 tensors;
    } files[] = {{"hf-tensor-1d-int32", 1},
                 {"hf-tensor-2d-float64", 1},
                 {"hf-tensor-3d-float32", 1},
                 {"hf-tensor-4d-float32", 1},
                 {"iree-empty", 0},
                 {"iree-multiple", 3},
                 {"iree-single", 1},
                 {"iree-parameter_weight_bias_1", 2},
                 {"iree-parameters_a", 2},
                 {"iree-parameters_b", 2},
                 {"iree-parameters_dynamic", 4}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        Fixture f;
        char path[200];
        snprintf(path, sizeof path, DATA "/safetensors/%s.safetensors", files[i].name);
        must_open(&f, ".", path);
        assert_int_equal(f.ck.n_tensors, files[i].tensors);
        done(&f);
    }
}

static void shards_and_aliases(void **state)
{
    (void)state;
    static const char *const ways[] = {"sharded", "sharded/model.safetensors.index.json"};
    for (int k = 0; k < 2; k++) {
        Fixture f;
        must_open(&f, DATA, ways[k]);
        assert_int_equal(f.ck.n_files, 2);
        assert_int_equal(f.ck.n_tensors, 3);
        assert_string_equal(f.ck.file[0].path, "sharded/model-00001-of-00002.safetensors");
        assert_string_equal(f.ck.file[1].path, "sharded/model-00002-of-00002.safetensors");
        const CkTensor *a = ck_find(&f.ck, STR("a.weight")), *b = ck_find(&f.ck, STR("b.bias"));
        assert_true(a->file == 0 && b->file == 1);
        assert_counts_up(&f.ck, a, false), assert_counts_up(&f.ck, b, false);
        assert_ptr_equal(ck_use(&f.ck, STR("tied.weight")), a);
        assert_null(ck_use(&f.ck, STR("format")));
        assert_true(f.ck.used[0] && !f.ck.used[1] && !f.ck.used[2]);
        done(&f);
    }
    Fixture f;
    const char *both[] = {"sharded", "gguf/v2.gguf"};
    assert_true(open_paths(&f, DATA, both, 2));
    assert_true(f.ck.n_files == 3 && ck_find(&f.ck, STR("a"))->file == 2 && ck_gguf(&f.ck));
    done(&f);
    const char *twice[] = {"gguf/v2.gguf", "gguf/v2.gguf"};
    assert_false(open_paths(&f, DATA, twice, 2));
    assert_refused(&f, "the same file twice", "E0201", "tensor 'a' is also in");
    done(&f);
}

/* ---- malformed files (tests/tools/make_malformed.py) ---- */

static void malformed_files_are_refused(void **state)
{
    (void)state;
    Arena a = {0};
    Diag d;
    Source list;
    u32 n = 0;
    diag_init(&d, &a);
    assert_true(io_read_text(&d, &a, "tests/data/malformed/expected.txt", 1 << 20, &list));
    for (const char *p = list.text, *end = p + list.n; p < end; n++) {
        char name[200], code[16];
        int text = 0;
        const char *eol = memchr(p, '\n', (size_t)(end - p));
        assert_non_null(eol);
        const char *line = arena_strdup(&a, p, (size_t)(eol - p));
        assert_int_equal(sscanf(line, "%199s %15s %n", name, code, &text), 2);
        Fixture f;
        if (open_one(&f, "tests/data/malformed", name)) fail_msg("%s was accepted", name);
        assert_refused(&f, name, code, line + text);
        done(&f);
        p = eol + 1;
    }
    assert_true(n >= 100);
    arena_free(&a);
}

/* ---- folders and indexes ---- */

static char folder[64];

static void put(const char *name, const char *text)
{
    Arena a = {0};
    Diag d;
    diag_init(&d, &a);
    assert_true(io_write_file(&d, &a, arena_printf(&a, "%s/%s", folder, name), text, strlen(text)));
    arena_free(&a);
}

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/pfqc-ck-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    return system(command);
}

static void indexes_are_checked(void **state)
{
    (void)state;
    static const struct {
        const char *index, *code, *text;
    } rows[] = {
        {"{", "E0101", "end of the file"},
        {"[]", "E0102", "an array"},
        {"{}", "E0103", "weight_map"},
        {"{\"weight_map\": []}", "E0102", "an array"},
        {"{\"weight_map\": {\"a\": 1}}", "E0102", "a number"},
        {"{\"weight_map\": {\"a\": \"\"}}", "E0105", "not the name of a file"},
        {"{\"weight_map\": {\"a\": \"..\"}}", "E0105", "not the name of a file"},
        {"{\"weight_map\": {\"a\": \".\"}}", "E0105", "not the name of a file"},
        {"{\"weight_map\": {\"a\": \"../s.safetensors\"}}", "E0105",
         "not the name of a file"}, /* CVE-2024-37032 and kin */
        {"{\"weight_map\": {\"a\": \"/etc/passwd\"}}", "E0105", "not the name of a file"},
        {"{\"weight_map\": {\"a\": \"sub/s.safetensors\"}}", "E0105", "not the name of a file"},
        {"{\"weight_map\": {\"a\": \"s.safetensors\\u0000\"}}", "E0101", "NUL"},
        {"{\"weight_map\": {\"a\": \"none.safetensors\"}}", "E0701", "No such file"},
        {"{\"weight_map\": {\"a\": \"folder\"}}", "E0701", "it is a folder"},
        {"{\"weight_map\": {\"a\": \"fifo\"}}", "E0701",
         "not a regular file"}, /* CVE-2024-39721: must not block */
        {"{\"weight_map\": {\"zz\": \"s.safetensors\"}}", "E0201",
         "tensor 'zz' is in s.safetensors, which does not hold it"},
        {"{\"weight_map\": {\"tensor0\": \"s.safetensors\", \"tensor1\": \"t.safetensors\"}}",
         "E0201", "which does not hold it"},
    };
    Arena a = {0};
    Diag d;
    MappedFile m;
    diag_init(&d, &a);
    assert_true(io_map(&d, &a, DATA "/safetensors/iree-single.safetensors", &m));
    assert_true(
        io_write_file(&d, &a, arena_printf(&a, "%s/s.safetensors", folder), m.data, m.size));
    assert_true(
        io_write_file(&d, &a, arena_printf(&a, "%s/t.safetensors", folder), m.data, m.size));
    assert_int_equal(mkdir(arena_printf(&a, "%s/folder", folder), 0700), 0);
    assert_int_equal(mkfifo(arena_printf(&a, "%s/fifo", folder), 0600), 0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Fixture f;
        put("model.safetensors.index.json", rows[i].index);
        assert_false(open_one(&f, "/tmp", folder));
        assert_refused(&f, rows[i].index, rows[i].code, rows[i].text);
        done(&f);
    }
    put("model.safetensors.index.json",
        "{\"weight_map\": {\"tensor0\": \"s.safetensors\"}, \"other\": 1}");
    Fixture f;
    must_open(&f, folder, ".");
    assert_string_equal(f.ck.file[0].path, "s.safetensors");
    done(&f);
    io_unmap(&m);
    arena_free(&a);
}

static void folders_are_searched(void **state)
{
    (void)state;
    Fixture f;
    assert_false(open_one(&f, DATA, "gguf")); /* two .gguf files */
    assert_refused(&f, "two files", "E0701", "2 .gguf files; name the one to use");
    done(&f);
    assert_false(open_one(&f, ".", "tests/unit"));
    assert_refused(&f, "no checkpoint", "E0701", "holds no model.safetensors");
    done(&f);
    assert_false(open_one(&f, ".", "tests/unit/none"));
    assert_refused(&f, "no file", "E0701", "No such file");
    done(&f);
    const char *bad[] = {"tests/none", "tests/data/malformed/gguf/version-4.gguf"};
    assert_false(open_paths(&f, ".", bad, 2));
    assert_int_equal(f.d.n_errors, 2); /* each bad file is reported */
    done(&f);
    assert_true(open_paths(&f, ".", NULL, 0)); /* a synthetic model has no files */
    assert_null(ck_find(&f.ck, STR("a")));
    done(&f);
}

static void contradicting_aliases_are_refused(void **state)
{
    (void)state;
    static const char *const meta[] = {"{\"a\":\"b\"}", "{\"b\":\"a\",\"c\":\"a\"}",
                                       "{\"c\":\"b\",\"d\":\"c\"}"};
    static const bool ok[] = {false, false, true};
    for (int i = 0; i < 3; i++) {
        Fixture f;
        Arena a = {0};
        Diag d;
        diag_init(&d, &a);
        StrBuf b = {.a = &a};
        sb_add(&b, "\0\0\0\0\0\0\0", 8);
        sb_printf(
            &b,
            "{\"__metadata__\":%s,\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},",
            meta[i]);
        sb_str(&b, "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}");
        b.p[0] = (char)(b.n - 8);
        sb_str(&b, "xy");
        assert_true(
            io_write_file(&d, &a, arena_printf(&a, "%s/alias.safetensors", folder), b.p, b.n));
        assert_int_equal(open_one(&f, folder, "alias.safetensors"), ok[i]);
        if (!ok[i])
            assert_refused(&f, meta[i], "E0201", "another name of");
        else { /* an alias of an alias is an ordinary note */
            assert_ptr_equal(ck_find(&f.ck, STR("c")), ck_find(&f.ck, STR("b")));
            assert_null(ck_find(&f.ck, STR("d")));
        }
        done(&f);
        arena_free(&a);
    }
}

/* The length of a header is the file's first bytes: some lengths look like other formats' magic. */
static void header_lengths_are_not_magic(void **state)
{
    (void)state;
    static const u64 lengths[] = {0x0280, 0x4b50, 0x7b7b};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        Arena a = {0};
        Diag d;
        Fixture f;
        StrBuf b = {.a = &a};
        diag_init(&d, &a);
        sb_add(&b, (const char *)&lengths[i], 8);
        sb_str(&b, "{}");
        while (b.n < 8 + lengths[i])
            sb_ch(&b, ' ');
        assert_true(io_write_file(&d, &a, arena_printf(&a, "%s/any.name", folder), b.p, b.n));
        must_open(&f, folder, "any.name");
        done(&f);
        arena_free(&a);
    }
}

/* ---- limits: at N and at N + 1, over memory that is reserved but hardly touched ---- */

typedef struct Image {
    u8 *p;
    u64 n, cap;
} Image;

static Image image(u64 cap)
{
    void *p =
        mmap(NULL, cap, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    return (Image){p, 0, cap};
}

static void add(Image *m, const void *p, size_t n)
{
    memcpy(m->p + m->n, p, n);
    m->n += n;
}
static void add32(Image *m, u32 v)
{
    add(m, &v, 4);
}
static void add64(Image *m, u64 v)
{
    add(m, &v, 8);
}
static void add_str(Image *m, const char *s)
{
    add64(m, strlen(s));
    add(m, s, strlen(s));
}
static void add_head(Image *m, u64 tensors, u64 keys)
{
    m->n = 0;
    add(m, "GGUF\3\0\0", 8);
    add64(m, tensors), add64(m, keys);
}

static void check_gguf_with(const Image *m, bool ok, ErrCode code, const char *text)
{
    Arena a = {0};
    Diag d;
    Gguf g;
    MappedFile f = {"limit.gguf", m->p, m->n};
    diag_init(&d, &a);
    if (gguf_parse(&d, &a, &f, &g) != ok)
        fail_msg("expected %s: %s", text, ok ? d.msgs.at[0].text : "accepted");
    if (!ok) {
        assert_int_equal(d.n_errors, 1);
        assert_int_equal(d.msgs.at[0].code, code);
        if (!strstr(d.msgs.at[0].text, text))
            fail_msg("'%s' does not hold '%s'", d.msgs.at[0].text, text);
    }
    arena_free(&a);
}

static void check_gguf(const Image *m, bool ok, const char *text)
{
    check_gguf_with(m, ok, E_LIMIT, text);
}

static void gguf_limits(void **state)
{
    (void)state;
    char name[16];
    Image m = image(96 << 20);
    for (u64 n = GGUF_MAX_KV; n <= GGUF_MAX_KV + 1; n++) {
        add_head(&m, 0, n);
        for (u64 i = 0; i < n; i++) {
            snprintf(name, sizeof name, "k%u", (u32)i);
            add_str(&m, name), add32(&m, GGUF_U8), add(&m, "", 1);
        }
        check_gguf(&m, n == GGUF_MAX_KV, "65537 metadata keys");
    }
    for (u64 n = GGUF_MAX_STRING; n <= GGUF_MAX_STRING + 1; n++) {
        add_head(&m, 0, 1);
        add_str(&m, "k"), add32(&m, GGUF_STRING), add64(&m, n);
        m.n += n;
        check_gguf(&m, n == GGUF_MAX_STRING, "67108865 bytes");
    }
    for (u64 n = CK_MAX_TENSORS; n <= CK_MAX_TENSORS + 1; n++) {
        add_head(&m, n, 0);
        for (u64 i = 0; i < n; i++) {
            snprintf(name, sizeof name, "t%u", (u32)i);
            add_str(&m, name), add32(&m, 1), add64(&m, 1), add32(&m, 24), add64(&m, 32 * i);
        }
        m.n = (m.n + 31) / 32 * 32 + 32 * n;
        check_gguf(&m, n == CK_MAX_TENSORS, "1000001 tensors");
    }
    for (u32 n = CK_MAX_NAME; n <= CK_MAX_NAME + 1; n++) {
        add_head(&m, 1, 0);
        add64(&m, n);
        memset(m.p + m.n, 'x', n);
        m.n += n;
        add32(&m, 0), add32(&m, 24), add64(&m, 0); /* rank 0: one element */
        m.n = (m.n + 31) / 32 * 32 + 1;
        check_gguf(&m, n == CK_MAX_NAME, "1025 bytes");
    }
    for (u64 n = GGUF_MAX_KEY; n <= GGUF_MAX_KEY + 1; n++) {
        add_head(&m, 0, 1);
        add64(&m, n);
        memset(m.p + m.n, 'k', n);
        m.n += n;
        add32(&m, GGUF_U8), add(&m, "", 1);
        check_gguf_with(&m, n == GGUF_MAX_KEY, E_FILE_FORMAT, "1 to 65535 bytes");
    }
    for (u32 n = GGUF_MIN_ALIGNMENT / 2; n <= 2 * GGUF_MAX_ALIGNMENT; n *= 2) {
        add_head(&m, 1, 1);
        add_str(&m, "general.alignment"), add32(&m, GGUF_U32), add32(&m, n);
        add_str(&m, "t"), add32(&m, 0), add32(&m, 24), add64(&m, 0);
        m.n = (m.n + n - 1) / n * n + 1;
        check_gguf_with(&m, n >= GGUF_MIN_ALIGNMENT && n <= GGUF_MAX_ALIGNMENT, E_FILE_FORMAT,
                        "general.alignment");
    }
    munmap(m.p, m.cap);
}

static bool parse_st(const Image *m, ErrCode code)
{
    Arena a = {0};
    Diag d;
    Safetensors s;
    MappedFile f = {"limit.safetensors", m->p, m->n};
    diag_init(&d, &a);
    bool ok = st_parse(&d, &a, &f, &s);
    assert_int_equal(d.n_errors, !ok);
    if (!ok) assert_int_equal(d.msgs.at[0].code, code);
    arena_free(&a);
    return ok;
}

static void add_text(Image *m, const char *s)
{
    add(m, s, strlen(s));
}

/* Many entries: one byte each in tensors, or empty strings in __metadata__. */
static void safetensors_counts(void **state)
{
    (void)state;
    char text[100];
    Image m = image(ST_MAX_HEADER);
    for (int meta = 0; meta < 2; meta++) {
        u32 most = meta ? ST_MAX_META : CK_MAX_TENSORS;
        for (u32 n = most; n <= most + 1; n++) {
            m.n = 8;
            add_text(&m, meta ? "{\"__metadata__\":{" : "{");
            for (u32 i = 0; i < n; i++) {
                int k = meta ? snprintf(text, sizeof text, "%s\"%u\":\"\"", i ? "," : "", i)
                             : snprintf(text, sizeof text,
                                        "%s\"%u\":{\"dtype\":\"U8\",\"shape\":[],"
                                        "\"data_offsets\":[%u,%u]}",
                                        i ? "," : "", i, i, i + 1);
                add(&m, text, (size_t)k);
            }
            add_text(&m, meta ? "}}" : "}");
            u64 header = m.n - 8;
            memcpy(m.p, &header, 8);
            if (!meta) m.n += n;
            assert_int_equal(parse_st(&m, E_LIMIT), n == most);
        }
    }
    munmap(m.p, m.cap);
}

static void file_limits(void **state)
{
    (void)state;
    enum { FILES = 4096, INDEX = 64 << 20 };
    static const char *paths[FILES + 1];
    for (u32 i = 0; i <= FILES; i++)
        paths[i] = "iree-empty.safetensors";
    Fixture f;
    assert_true(open_paths(&f, DATA "/safetensors", paths, FILES));
    assert_int_equal(f.ck.n_files, FILES);
    done(&f);
    assert_false(open_paths(&f, DATA "/safetensors", paths, FILES + 1));
    assert_refused(&f, "4097 files", "E0704", "more than 4096 checkpoint files");
    done(&f);
    for (u32 n = INDEX; n <= INDEX + 1; n++) { /* zeros: not JSON, but read */
        char path[100];
        put("model.safetensors.index.json", "");
        snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
        assert_int_equal(truncate(path, n), 0);
        assert_false(open_one(&f, folder, "."));
        assert_refused(&f, "index", n == INDEX ? "E0101" : "E0704",
                       n == INDEX ? "expected a value" : "limit");
        done(&f);
    }
}

static void safetensors_limits(void **state)
{
    (void)state;
    Image m = image(ST_MAX_HEADER + 4096);
    for (u64 n = ST_MAX_HEADER; n <= ST_MAX_HEADER + 1; n++) {
        m.n = 0;
        add64(&m, n);
        add_text(&m, "{}");
        memset(m.p + m.n, ' ', n - 2);
        m.n += n - 2;
        assert_int_equal(parse_st(&m, E_LIMIT), n == ST_MAX_HEADER);
    }
    for (u32 n = CK_MAX_NAME; n <= CK_MAX_NAME + 1; n++) { /* eight dimensions, the most allowed */
        m.n = 8;
        add_text(&m, "{\"");
        memset(m.p + m.n, 'x', n);
        m.n += n;
        add_text(&m, "\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}");
        u64 header = m.n - 8;
        memcpy(m.p, &header, 8);
        m.n++;
        assert_int_equal(parse_st(&m, E_LIMIT), n == CK_MAX_NAME);
    }
    munmap(m.p, m.cap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf_all_types),
        cmocka_unit_test(gguf_metadata_is_typed),
        cmocka_unit_test(gguf_version_2),
        cmocka_unit_test(safetensors_all_dtypes),
        cmocka_unit_test(other_projects_files),
        cmocka_unit_test(shards_and_aliases),
        cmocka_unit_test(malformed_files_are_refused),
        cmocka_unit_test_setup_teardown(indexes_are_checked, make_folder, remove_folder),
        cmocka_unit_test(folders_are_searched),
        cmocka_unit_test_setup_teardown(contradicting_aliases_are_refused, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(header_lengths_are_not_magic, make_folder, remove_folder),
        cmocka_unit_test(gguf_limits),
        cmocka_unit_test(safetensors_counts),
        cmocka_unit_test_setup_teardown(file_limits, make_folder, remove_folder),
        cmocka_unit_test(safetensors_limits),
    };
    return cmocka_run_group_tests_name("checkpoint", tests, NULL, NULL);
}
