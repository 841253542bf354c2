/* `logits`, `info`, `self-test`: the binary about itself. */
#include "runtime/cli.h"
#include "runtime/cpu.h"
#include "runtime/sample.h"
#include "runtime/template.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- logits ---- */

typedef struct LogitsOut {
    PfqOut *out;
    int32_t vocab, k;  /* k: 0 for all logits */
    PfqCandidate *top; /* [k] */
    bool first;
} LogitsOut;

static void print_row(LogitsOut *l, const float *logits)
{
    pfq_out_write(l->out, "[", 1);
    if (l->k) {
        pfq_top(logits, l->vocab, l->k, l->top);
    }
    for (int32_t i = 0; i < (l->k ? l->k : l->vocab); i++) {
        if (i) {
            pfq_out_write(l->out, ", ", 2);
        }
        if (l->k) {
            pfq_out_printf(l->out, "[%d, ", l->top[i].id);
            pfq_out_json_number(l->out, (double)l->top[i].logit);
            pfq_out_write(l->out, "]", 1);
        } else {
            pfq_out_json_number(l->out, (double)logits[i]);
        }
    }
    pfq_out_write(l->out, "]", 1);
}

static void print_rows(void *user, int32_t first, int32_t n, const float *logits)
{
    LogitsOut *l = user;
    (void)first;
    for (int32_t i = 0; i < n; i++) {
        pfq_out_printf(l->out, l->first ? "" : ",\n ");
        l->first = false;
        print_row(l, logits + (size_t)i * (size_t)l->vocab);
    }
}

static bool decode_logits(PfqCli *c, const int32_t *ids, int32_t n, LogitsOut *l)
{
    for (int32_t i = 0; i < n; i++) {
        const float *logits = pfq_engine_decode(&c->engine, ids[i], &c->err);
        if (!logits) {
            return false;
        }
        if (c->opt.all || i == n - 1) {
            print_rows(l, i, 1, logits);
        }
    }
    return true;
}

static bool print_logits(PfqCli *c, const int32_t *ids, int32_t n)
{
    int32_t k = c->opt.top < c->model->vocab ? (int32_t)c->opt.top : c->model->vocab;
    LogitsOut l = {.out = c->out, .vocab = c->model->vocab, .k = k, .first = true};
    if (k && !(l.top = malloc((size_t)k * sizeof *l.top))) {
        return pfq_fail(&c->err, "out of memory for %d logits", k);
    }
    pfq_out_printf(c->out, "{\"tokens\": [");
    for (int32_t i = 0; i < n; i++) {
        pfq_out_printf(c->out, "%s%d", i ? ", " : "", ids[i]);
    }
    pfq_out_printf(c->out, "],\n \"%s\": %s", k ? "top" : "logits", c->opt.all ? "[" : "");
    bool ok = c->opt.decode ? decode_logits(c, ids, n, &l)
                            : pfq_engine_prefill(&c->engine, ids, n,
                                                 c->opt.all ? PFQ_WANT_ALL : PFQ_WANT_LAST,
                                                 print_rows, &l, &c->err);
    pfq_out_printf(c->out, "%s}\n", c->opt.all ? "]" : "");
    free(l.top);
    return ok;
}

bool pfq_cmd_logits(PfqCli *c)
{
    if (!c->opt.tokens) {
        c->usage = true;
        return pfq_fail(&c->err, "'logits' needs token ids (--tokens 1,2,3)");
    }
    size_t cap = strlen(c->opt.tokens) / 2 + 1, n = 0;
    int32_t *ids = malloc(cap * sizeof *ids);
    bool ok = ids ? pfq_parse_ids(c->opt.tokens, c->model->vocab, ids, cap, &n, &c->err)
                  : pfq_fail(&c->err, "out of memory for %zu token ids", cap);
    if (ok && n == 0) {
        ok = pfq_fail(&c->err, "option --tokens: there is no token id in it");
    }
    if (ok && c->opt.ctx && (size_t)c->opt.ctx < n) {
        ok = pfq_fail(&c->err, "%zu tokens do not fit the context of %lld", n,
                      (long long)c->opt.ctx);
    }
    ok = ok && pfq_cli_load(c, c->opt.ctx ? c->opt.ctx : (int64_t)n, true) &&
         print_logits(c, ids, (int32_t)n);
    free(ids);
    return ok;
}

/* ---- info ---- */

static void print_image(PfqCli *c)
{
    PfqImage im;
    PfqErr err;
    pfq_out_printf(c->out, "weights id: ");
    for (int i = 0; i < 16; i++) {
        pfq_out_printf(c->out, "%02x", c->model->image_id[i]);
    }
    if (pfq_image_open(&im, c->opt.weights, c->model->name, c->model->image_id, &err)) {
        pfq_out_printf(c->out, "\nweights: %s%s\nweights sections: %u\n", im.path,
                       im.appended ? " (inside)" : "", im.header->n_sections);
        pfq_image_close(&im);
    } else {
        pfq_out_printf(c->out, "\nweights: not usable: %s\n", err.text);
    }
}

static bool find_gpu(PfqCli *c, PfqGpuChoice *gpu, PfqErr *err)
{
    const PfqGpuWish wish = {c->opt.cuda_driver, (int)c->opt.cuda_device, c->opt.cuda_code};
    return pfq_gpu_choose(gpu, c->model, &wish, err);
}

static void print_gpu(PfqCli *c)
{
    PfqGpuChoice gpu;
    PfqErr err;
    if (find_gpu(c, &gpu, &err)) {
        pfq_out_printf(c->out,
                       "gpu: %s (sm_%d%d, %llu MiB)\ngpu code: %s\n"
                       "gpu weight bytes: %llu\ngpu own bytes: %llu\n",
                       gpu.name, gpu.major, gpu.minor, (unsigned long long)gpu.bytes >> 20,
                       gpu.code->target, (unsigned long long)gpu.code->weight_bytes,
                       (unsigned long long)gpu.code->own_bytes);
    } else {
        pfq_out_printf(c->out, "gpu: not usable: %s\n", err.text);
    }
}

static void print_targets(PfqCli *c)
{
    char have[128];
    PfqErr err;
    uint32_t features = pfq_cpu_features();
    const PfqVariant *chosen = pfq_cpu_variant(c->model, features, c->opt.cpu, &err);
    const PfqCuda *cuda = c->model->cuda;
    pfq_cpu_names(features, have, sizeof have);
    pfq_out_printf(c->out, "targets:");
    for (int32_t i = 0; i < c->model->n_variants; i++) {
        pfq_out_printf(c->out, " %s", c->model->variants[i].name);
    }
    for (int32_t i = 0; cuda && i < cuda->n_codes; i++) {
        pfq_out_printf(c->out, " %s", cuda->code[i].target);
    }
    pfq_out_printf(c->out, "\ncpu features: %s\ncpu variant: %s\n", have,
                   chosen ? chosen->name : err.text);
    if (cuda) {
        print_gpu(c);
    }
}

static void print_prefix(PfqCli *c)
{
    const PfqModel *m = c->model;
    pfq_out_printf(c->out, "prefix:%s", m->prefix ? "" : " none");
    for (int32_t i = 0; i < m->prefix; i++) {
        pfq_out_printf(c->out, " %d", m->prefix_ids[i]);
    }
    pfq_out_printf(c->out, "\n");
}

static void print_chat(PfqCli *c)
{
    PfqTemplate t;
    const char *bad =
        c->model->chat ? pfq_tpl_open(&t, c->model->chat, c->model->chat_bytes) : NULL;
    const char *name;
    size_t n;
    pfq_out_printf(c->out, "chat templates:%s", bad ? " damaged" : c->model->chat ? "" : " none");
    for (int i = 0; c->model->chat && !bad && (name = pfq_tpl_name(&t, i, &n)); i++) {
        pfq_out_printf(c->out, " %.*s", (int)(n < 64 ? n : 64), name);
    }
    pfq_out_printf(c->out, "\n");
}

bool pfq_cmd_info(PfqCli *c)
{
    const PfqModel *m = c->model;
    int threads = c->opt.threads ? (int)c->opt.threads : pfq_engine_threads(m);
    pfq_out_printf(c->out, "model: %s\narchitecture: %s\ncompiler: pfqc %s\nrecipe: %s\n", m->name,
                   m->arch, m->version, m->recipe);
    print_prefix(c);
    pfq_out_printf(
        c->out,
        "parameters: %llu\nvocabulary: %d\n"
        "context: %d\nlayers: %d\nhidden: %d\nheads: %d\nkv heads: %d\nhead dim: %d\nffn: %d\n",
        (unsigned long long)m->params, m->vocab, m->context, m->layers, m->hidden, m->heads,
        m->kv_heads, m->head_dim, m->ffn);
    print_chat(c);
    print_targets(c);
    pfq_out_printf(c->out, "threads: %d\nprefill chunk: %d\n", threads, m->chunk);
    print_image(c);
    pfq_out_printf(c->out,
                   "weights bytes: %llu\nweights bytes per token: %llu\nkv bytes per token: "
                   "%llu\nactivation bytes: %llu\n"
                   "scratch bytes per thread: %llu\nlogits bytes: %llu\n",
                   (unsigned long long)m->weight_bytes,
                   (unsigned long long)m->weight_bytes_per_token,
                   (unsigned long long)m->kv_row_bytes, (unsigned long long)m->act_bytes,
                   (unsigned long long)m->scratch_bytes,
                   (unsigned long long)m->rows * (unsigned long long)m->vocab * sizeof(float));
    return true;
}

/* ---- self-test ---- */

/* Compares logits with the recorded ones; prints the largest difference and the share of the
 * tolerance it uses. */
static bool compare(PfqCli *c, const char *what, const float *logits)
{
    const PfqExpect *x = c->model->expect;
    double worst = 0;
    int32_t at = 0;
    for (int32_t i = 0; i < x->n_top; i++) {
        int32_t id = x->top_ids[i];
        double d = fabs((double)logits[id] - (double)x->top_logits[i]);
        if (!(d <= worst)) { /* also true for NaN */
            worst = d;
            at = id;
        }
    }
    bool ok = worst <= (double)x->tolerance;
    pfq_out_printf(c->out, "%s %s: %s, largest difference %.3g (%.0f %% of what is allowed)\n",
                   c->engine.code, what, ok ? "ok" : "wrong", worst,
                   100 * worst / (double)x->tolerance);
    return ok ||
           pfq_fail(&c->err,
                    "self-test failed: with variant %s, %s, the logit of token %d is off by %.3g, "
                    "%.3g is allowed",
                    c->engine.code, what, at, worst, (double)x->tolerance);
}

static bool test_logits(PfqCli *c)
{
    const PfqExpect *x = c->model->expect;
    PfqEngine *e = &c->engine;
    if (!pfq_engine_prefill(e, x->tokens, x->n_tokens, PFQ_WANT_LAST, NULL, NULL, &c->err) ||
        !compare(c, "prefill", e->logits)) {
        return false;
    }
    pfq_engine_rewind(e, 0);
    for (int32_t i = 0; i < x->n_tokens; i++) {
        if (!pfq_engine_decode(e, x->tokens[i], &c->err)) {
            return false;
        }
    }
    return compare(c, "decode", e->logits);
}

/* Step i of a batch in which sequence s, in the last slot but s, begins s steps late: n rows. */
static int32_t batch_step(const PfqExpect *x, int32_t i, int32_t slots, int32_t *tokens,
                          PfqRow *rows)
{
    int32_t n = 0;
    for (int32_t s = 0; s < slots; s++) {
        if (i >= s && i - s < x->n_tokens) {
            tokens[n] = x->tokens[i - s];
            rows[n++] = (PfqRow){.pos = i - s, .slot = slots - 1 - s};
        }
    }
    return n;
}

/* Where the engine promises it, what else is computed at the same time must not show. */
static bool same_bits(PfqCli *c, const char *what, const float *got, const float *want)
{
    return !c->engine.exact || memcmp(got, want, (size_t)c->model->vocab * sizeof *got) == 0 ||
           pfq_fail(&c->err,
                    "self-test failed: with variant %s, %s gives other bits than what it "
                    "should equal",
                    c->engine.code, what);
}

/* A prompt in two parts. */
static bool test_parts(PfqCli *c, float *whole)
{
    const PfqExpect *x = c->model->expect;
    PfqEngine *e = &c->engine;
    for (int32_t cut = x->n_tokens; cut >= 2; cut--) {
        const int32_t rest = x->n_tokens - cut;
        if (rest == 1) { /* engine.h: is computed otherwise */
            continue;
        }
        pfq_engine_seek(e, 0, 0);
        if (!pfq_engine_prefill(e, x->tokens, cut, PFQ_WANT_LAST, NULL, NULL, &c->err) ||
            (rest &&
             !pfq_engine_prefill(e, x->tokens + cut, rest, PFQ_WANT_LAST, NULL, NULL, &c->err))) {
            return false;
        }
        if (!rest) {
            memcpy(whole, e->logits, (size_t)c->model->vocab * sizeof *whole);
        } else if (!same_bits(c, "a prompt in two parts", e->logits, whole)) {
            return false;
        }
    }
    return true;
}

/* The sequence that is first in a batch is the one that ends first; `alone` are the logits of one
 * in a batch of its own. */
static bool test_batch(PfqCli *c, const float *alone)
{
    const PfqExpect *x = c->model->expect;
    PfqEngine *e = &c->engine;
    const int32_t most = pfq_model_slots(c->model),
                  slots = most < PFQ_TEST_SLOTS ? most : PFQ_TEST_SLOTS;
    for (int32_t i = 0; i < x->n_tokens + slots - 1; i++) {
        int32_t tokens[PFQ_TEST_SLOTS];
        PfqRow rows[PFQ_TEST_SLOTS];
        const int32_t n = batch_step(x, i, slots, tokens, rows);
        if (!pfq_engine_batch(e, tokens, rows, n, NULL, &c->err) ||
            (i + 1 >= x->n_tokens &&
             !(compare(c, "batch", e->logits) && same_bits(c, "a batch", e->logits, alone)))) {
            return false;
        }
    }
    return true;
}

/* A sequence in a batch of its own. */
static bool test_alone(PfqCli *c, float *logits)
{
    const PfqExpect *x = c->model->expect;
    for (int32_t i = 0; i < x->n_tokens; i++) {
        if (!pfq_engine_batch(&c->engine, &x->tokens[i], &(PfqRow){.pos = i}, 1, NULL, &c->err)) {
            return false;
        }
    }
    memcpy(logits, c->engine.logits, (size_t)c->model->vocab * sizeof *logits);
    return true;
}

static bool test_together(PfqCli *c)
{
    float *want = malloc((size_t)c->model->vocab * sizeof *want);
    if (!want) {
        return pfq_fail(&c->err, "out of memory for a row of logits");
    }
    const bool ok = test_alone(c, want) && test_batch(c, want) && test_parts(c, want);
    free(want);
    return ok;
}

/* Decoding by graphs, on a GPU where a step is one kernel. */
static bool test_graph(PfqCli *c)
{
    if (!c->engine.gpu || pfq_gpu_decode_phase(c->engine.gpu) != PFQ_CUDA_STEP) {
        return true;
    }
    pfq_engine_close(&c->engine);
    c->opt.cuda_decode = "graph";
    return pfq_cli_load(c, c->model->expect->n_tokens, false) && test_logits(c) && test_together(c);
}

/* Opens the engine anew, on that device and CPU variant, and tests it. */
static bool test_on(PfqCli *c, const char *device, const char *cpu)
{
    pfq_engine_close(&c->engine);
    c->opt.device = device;
    c->opt.cpu = cpu;
    return pfq_cli_load(c, c->model->expect->n_tokens, false) && test_logits(c) &&
           test_together(c) && test_graph(c);
}

static bool test_variants(PfqCli *c, const char *only)
{
    const uint32_t have = pfq_cpu_features();
    for (int32_t i = 0; i < c->model->n_variants; i++) {
        const PfqVariant *v = &c->model->variants[i];
        if (only && strcmp(only, v->name) != 0) {
            continue;
        }
        if ((v->features & have) != v->features) {
            pfq_out_printf(c->out, "%s: not tested, this CPU lacks it\n", v->name);
        } else if (!test_on(c, "cpu", v->name)) {
            return false;
        }
    }
    return true;
}

/* Only asked for by name must the GPU be there. */
static bool test_gpu(PfqCli *c, bool asked)
{
    PfqGpuChoice gpu;
    PfqErr err;
    if (!asked && !find_gpu(c, &gpu, &err)) {
        pfq_out_printf(c->out, "cuda: not tested, %s\n", err.text);
        return true;
    }
    return test_on(c, "cuda", NULL);
}

bool pfq_cmd_self_test(PfqCli *c)
{
    const PfqModel *m = c->model;
    const char *device = c->opt.device, *cpu = c->opt.cpu;
    const bool gpu = device ? strcmp(device, "cuda") == 0 : m->cuda && !cpu;
    PfqProgress progress;
    if (!pfq_cli_load(c, m->expect ? m->expect->n_tokens : 1, false)) {
        return false;
    }
    pfq_progress_start(&progress, "weights");
    const bool sound = pfq_image_verify(&c->engine.image, &progress, &c->err);
    pfq_progress_end(&progress);
    if (!sound) {
        return false;
    }
    pfq_out_printf(c->out, "weights: ok, %u sections, %llu bytes\n",
                   c->engine.image.header->n_sections,
                   (unsigned long long)c->engine.image.header->data_bytes);
    if (!m->expect) {
        pfq_out_printf(c->out, "expectations: none recorded\nself-test passed\n");
        return true;
    }
    if ((gpu && !test_gpu(c, device != NULL)) || ((!gpu || !device) && !test_variants(c, cpu))) {
        return false;
    }
    pfq_out_printf(c->out, "self-test passed\n");
    return true;
}
