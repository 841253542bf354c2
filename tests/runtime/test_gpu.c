/* The engine on a GPU, over the stub of the CUDA driver: the same logits as on the CPU, and what an
 * error leaves behind. The stub ends the program if anything is not released. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "fake_model.h"
#include "runtime/generate.h"

enum { LONG = 40 };

static bool open_on(PfqEngine *e, const char *device, PfqErr *err)
{
    const PfqEngineConfig c = {.threads = 1,
                               .ctx = LONG,
                               .device = device,
                               .weights = "fake_model.weights",
                               .cuda_driver = "./libstub_driver.so"};
    return pfq_engine_open(e, &pfq_model, &c, err);
}

static void open_engine(PfqEngine *e, const char *device)
{
    PfqErr err;
    if (!open_on(e, device, &err)) {
        fail_msg("%s", err.text);
    }
}

static int32_t token(int32_t i)
{
    return (i * 97 + 5) % 60;
}

typedef struct Rows {
    float v[LONG][FAKE_VOCAB];
    int32_t n;
} Rows;

static void collect(void *user, int32_t first, int32_t n, const float *logits)
{
    Rows *r = user;
    assert_int_equal(first, r->n);
    memcpy(r->v[first], logits, (size_t)n * sizeof r->v[0]);
    r->n += n;
}

/* All logits of the text, by a prefill. */
static void all_rows(PfqEngine *e, Rows *rows)
{
    PfqErr err;
    int32_t text[LONG];
    for (int32_t i = 0; i < LONG; i++) {
        text[i] = token(i);
    }
    rows->n = 0;
    pfq_engine_rewind(e, 0);
    assert_true(pfq_engine_prefill(e, text, LONG, PFQ_WANT_ALL, collect, rows, &err));
}

static void same_logits_as_the_cpu(void **state)
{
    (void)state;
    static Rows cpu, gpu;
    PfqEngine e;
    PfqErr err;
    open_engine(&e, "cpu");
    all_rows(&e, &cpu);
    pfq_engine_close(&e);
    for (int graphs = 0; graphs < 2; graphs++) {
        setenv("PFQ_STUB_GRAPHS", graphs ? "1" : "0", 1);
        open_engine(&e, "cuda");
        all_rows(&e, &gpu);
        assert_memory_equal(&cpu, &gpu, sizeof cpu);
        pfq_engine_rewind(&e, 0);
        for (int32_t i = 0; i < LONG; i++) {
            assert_memory_equal(pfq_engine_decode(&e, token(i), &err), cpu.v[i], sizeof cpu.v[i]);
        }
        assert_null(pfq_engine_decode(&e, 1, &err)); /* full */
        pfq_engine_rewind(&e, 7);
        assert_memory_equal(pfq_engine_decode(&e, token(7), &err), cpu.v[7], sizeof cpu.v[7]);
        pfq_engine_close(&e);
    }
    unsetenv("PFQ_STUB_GRAPHS");
}

/* Sequences of different lengths in slots of one cache, decoded together, alone and in part. */
static void a_batch_is_many_sequences(void **state)
{
    (void)state;
    enum { N = 3 };
    static Rows want[N];
    static float got[N][FAKE_VOCAB];
    PfqEngine e;
    PfqErr err;
    open_engine(&e, "cpu");
    for (int32_t s = 0; s < N; s++) {
        pfq_engine_rewind(&e, 0);
        for (int32_t i = 0; i < LONG; i++) {
            const float *row = pfq_engine_decode(&e, token(i + 7 * s), &err);
            assert_non_null(row);
            memcpy(want[s].v[i], row, sizeof want[s].v[i]);
        }
    }
    pfq_engine_close(&e);
    PfqGpuChoice choice;
    PfqImage image;
    const PfqGpuWish wish = {.driver = "./libstub_driver.so"};
    assert_true(pfq_gpu_choose(&choice, &pfq_model, &wish, &err));
    assert_true(
        pfq_image_open(&image, "fake_model.weights", pfq_model.name, pfq_model.image_id, &err));
    for (int way = 0; way < 8; way++) {
        setenv("PFQ_STUB_GRAPHS", way & 1 ? "1" : "0", 1);
        const PfqGpuConfig c = {.weights = image.data,
                                .logits = got[0],
                                .pinned_bytes = sizeof got[0], /* the first row's alone */
                                .ctx = 64,
                                .slots = N,
                                .rows = N,
                                .alone = way & 2,
                                .plain = way & 4};
        PfqGpu *g = pfq_gpu_open(&choice, &pfq_model, &c, &err);
        assert_non_null(g);
        for (int32_t i = 0; i < LONG; i++) { /* sequence s begins s steps late */
            int32_t tokens[N], n = 0;
            PfqRow rows[N];
            for (int32_t s = 0; s <= i && s < N; s++, n++) {
                tokens[n] = token(i - s + 7 * s);
                rows[n] = (PfqRow){.pos = i - s, .slot = N - 1 - s};
            }
            assert_true(pfq_gpu_batch(g, tokens, rows, n, NULL, got[0], &err));
            for (int32_t s = 0; s < n; s++) {
                assert_memory_equal(got[s], want[s].v[i - s], sizeof got[s]);
            }
        }
        pfq_gpu_close(g);
    }
    unsetenv("PFQ_STUB_GRAPHS");
    pfq_image_close(&image);
}

/* The toy has a step of two rows. One that shall not depend on others is computed by the same
 * kernel however many there are. */
static void few_rows_are_a_step(void **state)
{
    (void)state;
    enum { D = PFQ_CUDA_DECODE, S = PFQ_CUDA_STEPS, B = PFQ_CUDA_BATCH };
    static const struct {
        bool alone, plain;
        int32_t rows, phase[3]; /* of 1, 2, 3 rows */
    } cases[] = {{false, false, 3, {D, S, B}}, {true, false, 3, {B, B, B}},
                 {true, false, 2, {S, S}},     {true, false, 1, {D}},
                 {false, true, 3, {D, B, B}},  {true, true, 2, {B, B}}};
    const PfqGpuWish wish = {.driver = "./libstub_driver.so"};
    PfqGpuChoice choice;
    PfqImage image;
    PfqErr err;
    assert_true(pfq_gpu_choose(&choice, &pfq_model, &wish, &err));
    assert_true(
        pfq_image_open(&image, "fake_model.weights", pfq_model.name, pfq_model.image_id, &err));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const PfqGpuConfig c = {.weights = image.data,
                                .ctx = 64,
                                .slots = 4,
                                .rows = cases[i].rows,
                                .alone = cases[i].alone,
                                .plain = cases[i].plain};
        PfqGpu *g = pfq_gpu_open(&choice, &pfq_model, &c, &err);
        assert_non_null(g);
        for (int32_t n = 1; n <= cases[i].rows; n++) {
            assert_int_equal(pfq_gpu_batch_phase(g, n), cases[i].phase[n - 1]);
        }
        pfq_gpu_close(g);
    }
    pfq_image_close(&image);
}

enum { DRAWN = 3 };

/* Sequences decoded together, each by a sampler of its own; the second wants logits at every third
 * step. */
static void draw(const char *device, int32_t ids[DRAWN][LONG], uint64_t state[DRAWN])
{
    PfqEngine e;
    PfqErr err;
    const PfqEngineConfig c = {.threads = 1,
                               .ctx = LONG,
                               .device = device,
                               .cuda_driver = "./libstub_driver.so",
                               .slots = DRAWN,
                               .weights = "fake_model.weights",
                               .exact = true};
    PfqSampler s[DRAWN] = {{.temp = 1.2, .top_p = 0.9, .top_k = 30, .state = 7},
                           {.temp = 0.7, .top_p = 1, .state = 8},
                           {.temp = 0}};
    PfqDraw draws[DRAWN] = {{0}};
    assert_true(pfq_engine_open(&e, &pfq_model, &c, &err));
    for (int32_t k = 0; k < DRAWN; k++) {
        assert_true(pfq_sampler_init(&s[k], FAKE_VOCAB));
        draws[k].token = token(k);
    }
    for (int32_t i = 0; i < LONG; i++) {
        int32_t tokens[DRAWN];
        PfqRow rows[DRAWN];
        const int32_t n = 1 + i % DRAWN; /* the last ones wait */
        for (int32_t k = 0; k < n; k++) {
            tokens[k] = draws[k].token;
            rows[k] = (PfqRow){.pos = i, .slot = k};
            draws[k].sampler = k == 1 && i % 3 == 1 ? NULL : &s[k];
        }
        assert_true(pfq_engine_batch(&e, tokens, rows, n, draws, &err));
        for (int32_t k = 0; k < n; k++) {
            if (draws[k].token == PFQ_NOT_DRAWN) {
                draws[k].token = pfq_sample(&s[k], e.logits + k * FAKE_VOCAB);
            }
            ids[k][i] = draws[k].token;
        }
    }
    for (int32_t k = 0; k < DRAWN; k++) {
        state[k] = s[k].state;
        pfq_sampler_free(&s[k]);
    }
    pfq_engine_close(&e);
}

static void a_batch_draws_as_the_cpu(void **unused)
{
    (void)unused;
    static int32_t cpu[DRAWN][LONG], gpu[DRAWN][LONG];
    uint64_t here[DRAWN], there[DRAWN];
    draw("cpu", cpu, here);
    static const char *const asks[] = {NULL, "1"};
    for (int i = 0; i < 2; i++) {
        if (asks[i]) {
            setenv("FAKE_ASK", asks[i], 1);
        }
        draw("cuda", gpu, there);
        assert_memory_equal(cpu, gpu, sizeof cpu);
        assert_memory_equal(here, there, sizeof here);
    }
    unsetenv("FAKE_ASK");
}

enum { TURNS = 3, TOLD = 6 };

typedef struct Told {
    int32_t id[TURNS][TOLD], pos[TURNS];
    uint64_t state[TURNS];
} Told;

/* Turns that end before the model does: what was on its way must not show. */
static void tell(const char *device, Told *out)
{
    PfqEngine e;
    PfqErr err;
    PfqSampler s = {.temp = 1.2, .top_p = 0.9, .top_k = 30, .state = 7};
    open_engine(&e, device);
    assert_true(pfq_sampler_init(&s, FAKE_VOCAB));
    for (int32_t t = 0; t < TURNS; t++) {
        const int32_t prompt[] = {token(t), token(t + 9)};
        PfqGen g;
        assert_true(pfq_engine_prefill(&e, prompt, 2, PFQ_WANT_LAST, NULL, NULL, &err));
        assert_true(pfq_gen_start(&g, &e, &s, t == 1 ? TOLD : -1, &err));
        assert_int_equal(g.on_gpu, strcmp(device, "cuda") == 0);
        for (int32_t i = 0; i < TOLD; i++) {
            assert_int_equal(pfq_gen_next(&g, &out->id[t][i], &err), PFQ_GEN_TOKEN);
        }
        out->pos[t] = e.pos;
        out->state[t] = s.state;
    }
    PfqGen g; /* to the end of the context */
    int32_t id, n = 0;
    assert_true(pfq_gen_start(&g, &e, &s, -1, &err));
    while (pfq_gen_next(&g, &id, &err) == PFQ_GEN_TOKEN) {
        n++;
    }
    assert_int_equal(n, LONG - TURNS * (2 + TOLD - 1) + 1);
    assert_int_equal(e.pos, LONG);
    pfq_sampler_free(&s);
    pfq_engine_close(&e);
}

static void generation_is_the_cpus(void **state)
{
    (void)state;
    Told cpu, gpu;
    memset(&cpu, 0, sizeof cpu);
    memset(&gpu, 0, sizeof gpu);
    tell("cpu", &cpu);
    static const char *const asks[] = {NULL, "1", "4"};
    for (int i = 0; i < 3; i++) {
        if (asks[i]) {
            setenv("FAKE_ASK", asks[i], 1);
        }
        tell("cuda", &gpu);
        assert_memory_equal(&cpu, &gpu, sizeof cpu);
    }
    unsetenv("FAKE_ASK");
}

static void an_error_stays(void **state)
{
    (void)state;
    PfqEngine e;
    PfqErr first, second;
    open_engine(&e, "cuda");
    assert_non_null(pfq_engine_decode(&e, 5, &first));
    setenv("PFQ_STUB_FAIL", "cuGraphLaunch:OOM", 1);
    assert_null(pfq_engine_decode(&e, 6, &first));
    unsetenv("PFQ_STUB_FAIL");
    assert_string_equal(first.text,
                        "cuGraphLaunch (decode) failed: CUDA_ERROR_OUT_OF_MEMORY, out of memory");
    assert_null(pfq_engine_decode(&e, 6, &second));
    assert_string_equal(first.text, second.text);
    assert_false(pfq_engine_prefill(&e, (int32_t[]){1}, 1, PFQ_WANT_NONE, NULL, NULL, &second));
    assert_int_equal(e.pos, 1);
    pfq_engine_close(&e);
    open_engine(&e, "cuda"); /* a new one begins afresh */
    assert_non_null(pfq_engine_decode(&e, 5, &first));
    pfq_engine_close(&e);
}

static void a_kernel_is_named(void **state)
{
    (void)state;
    PfqEngine e;
    PfqErr err;
    setenv("PFQ_STUB_FAIL", "cuLaunchKernel:NO_BINARY_FOR_GPU", 1);
    open_engine(&e, "cuda"); /* the recording fails, quietly */
    assert_null(pfq_engine_decode(&e, 5, &err));
    assert_non_null(strstr(err.text, "cuLaunchKernel (kernel 'append', call 0 of decode) failed"));
    pfq_engine_close(&e);
    setenv("PFQ_STUB_FAIL", "cuModuleGetFunction:OOM", 1);
    assert_false(open_on(&e, "cuda", &err));
    assert_non_null(strstr(err.text, "cuModuleGetFunction (kernel 'append', sm_90a) failed"));
    pfq_engine_close(&e);
    pfq_engine_close(&e);
    unsetenv("PFQ_STUB_FAIL");
}

static void a_faulty_kernel_is_named(void **state)
{
    (void)state;
    PfqEngine e;
    PfqErr err;
    PfqEngineConfig c = {.threads = 1,
                         .ctx = LONG,
                         .device = "cuda",
                         .weights = "fake_model.weights",
                         .cuda_driver = "./libstub_driver.so"};
    for (int sync = 0; sync < 2; sync++) {
        c.cuda_sync = sync;
        assert_true(pfq_engine_open(&e, &pfq_model, &c, &err));
        assert_non_null(pfq_engine_decode(&e, 5, &err));
        setenv("PFQ_STUB_FAIL", "cuStreamSynchronize:OOM", 1);
        assert_null(pfq_engine_decode(&e, 5, &err));
        unsetenv("PFQ_STUB_FAIL");
        assert_non_null(strstr(err.text, sync ? "(kernel 'append', call 0 of decode) failed"
                                              : "(a kernel of decode, which --cuda-sync names)"));
        pfq_engine_close(&e);
    }
}

static void sizes_are_checked(void **state)
{
    (void)state;
    PfqEngine e;
    PfqErr err;
    PfqModel m = pfq_model;
    PfqEngineConfig c = {.threads = 1,
                         .ctx = LONG,
                         .device = "cuda",
                         .weights = "fake_model.weights",
                         .cuda_driver = "./libstub_driver.so"};
    m.kv_row_bytes = (uint64_t)1 << 30;
    assert_false(pfq_engine_open(&e, &m, &c, &err));
    assert_string_equal(err.text,
                        "the GPU 'Stub 0' has too little free memory: with a context of 64 "
                        "tokens 65536.0 MiB are needed, 1024.0 MiB are free");
    pfq_engine_close(&e);
    m.kv_row_bytes = UINT64_MAX / 8;
    assert_false(pfq_engine_open(&e, &m, &c, &err));
    assert_non_null(strstr(err.text, "overflow"));
    pfq_engine_close(&e);
    c.device = "tpu";
    assert_false(pfq_engine_open(&e, &m, &c, &err));
    pfq_engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_logits_as_the_cpu), cmocka_unit_test(a_batch_is_many_sequences),
        cmocka_unit_test(few_rows_are_a_step),    cmocka_unit_test(a_batch_draws_as_the_cpu),
        cmocka_unit_test(generation_is_the_cpus), cmocka_unit_test(an_error_stays),
        cmocka_unit_test(a_kernel_is_named),      cmocka_unit_test(a_faulty_kernel_is_named),
        cmocka_unit_test(sizes_are_checked),
    };
    setenv("PFQ_STUB_KERNELS", "./libfake_kernels.so", 1);
    return cmocka_run_group_tests_name("gpu", tests, NULL, NULL);
}
