/* A toy model for testing the runtime without a compiler: its logits follow a rule that test_cli.py
 * restates.
 *
 *     h(t0..tn) : h = 7; for each token h = (h * 31 + t + 1) mod 2^32, read from the KV cache
 *     logit[v]  = (mix(h, v) & 0xffff) / 8192 + bias[v],  bias[v] = (37 * v mod 128) / 128 from the
 * weight image mix(h, v) = x ^ x >> 15 with x = (h ^ v * 2654435761) * 2246822519 mod 2^32
 *
 * and after some tokens one logit is 100: E -> 0xc3, 0xc3 -> 0xa9 (so that "E" continues with the
 * character U+00E9 in two tokens), 0xa9 and 0xe2 -> EOS, H -> 0xe2 (half a character, then the
 * end); after N all logits are NaN. With FAKE_SLEEP, computing a Z takes so many seconds. All
 * values are exact in f32. A wrong chunk, position, row, barrier or scratch shows in the logits.
 *
 * FAKE_CHAT: with the chat template of that header. FAKE_CUDA: with code for GPUs too, whose
 * kernels are in fake_kernels.c; FAKE_GPU: with no other.
 */
#include "fake_rule.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { APPEND, HASH, HEAD, CHOOSE, N_KERNELS };

/* Where row t is in the arrays that `lo` and `hi` of slot 0 begin. */
static int64_t row_of(const PfqArgs *a, int32_t t)
{
    return a->rows ? (int64_t)(a->slot / 4) * a->rows[t].slot + a->rows[t].pos : a->pos + t;
}

static void append(const PfqArgs *a, int tid, int nt)
{
    const int32_t *tokens = a->in[0];
    int32_t *lo = a->out[0], *hi = a->out[1];
    memset(a->scratch, tid + 1, FAKE_SCRATCH);
    for (int32_t t = tid; t < a->T; t += nt) {
        const int64_t at = row_of(a, t);
        lo[at] = tokens[t];
        if (tokens[t] == 'Z' && getenv("FAKE_SLEEP")) {
            sleep((unsigned)atoi(getenv("FAKE_SLEEP")));
        }
        hi[at] = tokens[t] ^ 0x5555;
    }
}

/* Row of act: hash, last token. */
static void hash(const PfqArgs *a, int tid, int nt)
{
    const int32_t *lo = a->in[0], *hi = a->in[1];
    uint32_t *act = a->out[0];
    for (int32_t t = tid; t < a->T; t += nt) {
        const int64_t at = row_of(a, t), pos = a->rows ? a->rows[t].pos : at;
        act[2 * t] = fake_hash_of(lo + (at - pos), hi + (at - pos), (int32_t)pos);
        act[2 * t + 1] = (uint32_t)lo[at];
    }
}

static void head(const PfqArgs *a, int tid, int nt)
{
    const uint32_t *act = a->in[0];
    const int32_t *rows = a->in[1];
    const float *bias = a->w;
    float *out = a->out[0];
    bool scratch_ok = true;
    for (int i = 0; i < FAKE_SCRATCH; i++) {
        scratch_ok &= ((const char *)a->scratch)[i] == (char)(tid + 1);
    }
    for (int32_t r = 0; r < a->T; r++) {
        const uint32_t *row = act + 2 * (rows ? rows[r] : r);
        for (int32_t v = tid; v < FAKE_VOCAB; v += nt) {
            out[r * FAKE_VOCAB + v] = scratch_ok ? fake_logit(row[0], row[1], v, bias[v]) : NAN;
        }
    }
}

/* ---- phases, as the generator writes them ---- */

static void body(const PfqExec *x)
{
    char *lo = x->kv, *hi = x->kv + 4 * (size_t)x->ctx;
    PfqArgs a = {.in = {x->tokens},
                 .out = {lo, hi},
                 .scratch = x->scratch,
                 .T = x->T,
                 .pos = x->pos,
                 .rows = x->rows,
                 .slot = x->slot,
                 .ctx = x->ctx};
    x->kernel[APPEND](&a, x->tid, x->nt);
    pfq_barrier(x->barrier);
    PfqArgs b = {.in = {lo, hi},
                 .out = {x->act},
                 .scratch = x->scratch,
                 .T = x->T,
                 .pos = x->pos,
                 .rows = x->rows,
                 .slot = x->slot,
                 .ctx = x->ctx};
    x->kernel[HASH](&b, x->tid, x->nt);
    pfq_barrier(x->barrier);
}

static void logits_of(const PfqExec *x, const int32_t *rows)
{
    PfqArgs a = {.in = {x->act, rows},
                 .out = {x->logits},
                 .w = x->weights,
                 .scratch = x->scratch,
                 .T = x->T};
    x->kernel[HEAD](&a, x->tid, x->nt);
}

static void prefill(const PfqExec *x)
{
    body(x);
}

static void logits(const PfqExec *x)
{
    logits_of(x, x->tokens);
}

static void decode(const PfqExec *x)
{
    body(x);
    logits_of(x, NULL);
}

/* ---- tables ---- */

static PfqKernel *const kernels[N_KERNELS] = {append, hash, head};
static const PfqVariant variants[] = {
    {"never", 1u << 30, kernels},
    {"fast", PFQ_CPU_AVX2, kernels},
    {"plain", 0, kernels},
};

enum { EXPECT_TOP = 4 };
static const int32_t expect_tokens[] = {72, 105, 33, 10, 1, 2, 3, 4, 5, 6, 7};
static int32_t expect_ids[EXPECT_TOP];
static float expect_logits[EXPECT_TOP];
static const PfqExpect expect = {.n_tokens = sizeof expect_tokens / sizeof *expect_tokens,
                                 .tokens = expect_tokens,
                                 .n_top = EXPECT_TOP,
                                 .top_ids = expect_ids,
                                 .top_logits = expect_logits,
                                 .tolerance = 1e-4f};

/* Fills the expectation from the rule; FAKE_WRONG_EXPECT shifts it, so that self-test has something
 * to find. */
__attribute__((constructor)) static void record(void)
{
    uint32_t h = 7;
    for (int32_t i = 0; i < expect.n_tokens; i++) {
        h = h * 31 + (uint32_t)expect_tokens[i] + 1;
    }
    for (int32_t i = 0; i < EXPECT_TOP; i++) {
        expect_ids[i] = 50 * i;
        expect_logits[i] =
            fake_mix(h, 50 * i, fake_bias(50 * i)) + (getenv("FAKE_WRONG_EXPECT") ? 0.5f : 0.0f);
    }
}

static const unsigned char tokenizer[] = {'F'};

#if defined FAKE_CUDA || defined FAKE_GPU
#define KV(row)    {PFQ_AT_KV, 4 * (row)}
#define CODE(name) .image = name, .bytes = sizeof name
static const PfqCudaKernel cuda_kernels[N_KERNELS] = {
    {"append", "fake_append", 32, 1, FAKE_ROWS_APPEND, 0, CODE("append")},
    {"hash", "fake_hash", 32, 1, FAKE_ROWS_HASH, FAKE_SHARED, CODE("hash")},
    {"head", "fake_head", FAKE_BLOCK, FAKE_VOCAB / FAKE_BLOCK, FAKE_ROWS_HEAD, 1024, CODE("head")},
    {"choose", "fake_choose", 32, 1, 1, 0, CODE("choose")},
};
/* For n rows alone, or any number (0). */
#define APPEND_CALL(n)                                                                             \
    {                                                                                              \
        APPEND, .from = n, .to = n, .phase = PFQ_PREFILL, .step = 1, .in = {{PFQ_AT_TOKENS, 0}},   \
            .out = {                                                                               \
                KV(0),                                                                             \
                KV(1),                                                                             \
                {PFQ_AT_OWN, 128}                                                                  \
            }                                                                                      \
    }
#define HASH_CALL(n)                                                                               \
    {                                                                                              \
        HASH, .from = n, .to = n, .phase = PFQ_PREFILL, .step = 2,                                 \
            .in = {KV(0), KV(1), {PFQ_AT_OWN, 128}}, .out = {                                      \
                {PFQ_AT_ACT, 0}                                                                    \
            }                                                                                      \
    }
#define HEAD_CALL(n, ...)                                                                          \
    {HEAD,                                                                                         \
     .from = n,                                                                                    \
     .to = n,                                                                                      \
     .phase = PFQ_LOGITS,                                                                          \
     .step = 3,                                                                                    \
     .in = {{PFQ_AT_ACT, 0}, __VA_ARGS__},                                                         \
     .out = {{PFQ_AT_LOGITS, 0}},                                                                  \
     .w = {PFQ_AT_WEIGHT, 0}}
#define ALL_CALLS(n, ...) APPEND_CALL(n), HASH_CALL(n), HEAD_CALL(n, __VA_ARGS__)
static const PfqCudaCall decode_calls[] = {ALL_CALLS(0, {PFQ_AT_NONE, 0})};
static const PfqCudaCall logits_calls[] = {HEAD_CALL(0, {PFQ_AT_TOKENS, 0})};
static const PfqCudaCall batch_calls[] = {ALL_CALLS(0, {PFQ_AT_ORDER, 0})};
static const PfqCudaCall steps_calls[] = {ALL_CALLS(2, {PFQ_AT_ORDER, 0})};
static const PfqCudaCall sample_calls[] = {
    {CHOOSE, .in = {{PFQ_AT_LOGITS, 0}, {PFQ_AT_SAMPLER, 0}}, .out = {{PFQ_AT_TOKENS, 0}}},
};
#define PHASES                                                                                     \
    .phase = {[PFQ_CUDA_PREFILL] = {decode_calls, 2}, [PFQ_CUDA_LOGITS] = {logits_calls, 1},       \
              [PFQ_CUDA_DECODE] = {decode_calls, 3},  [PFQ_CUDA_BATCH] = {batch_calls, 3},         \
              [PFQ_CUDA_STEPS] = {steps_calls, 3},    [PFQ_CUDA_SAMPLE] = {sample_calls, 1}},      \
    .act_bytes = 8 * 8, .own_bytes = 128 + 4 * 8, .weight_bytes = 4 * FAKE_VOCAB
static const PfqCudaCode cuda_codes[] = {
    {"sm_90a", 9, 0, true, false, N_KERNELS, .kernel = cuda_kernels, PHASES},
    {"sm_86", 8, 6, false, false, N_KERNELS, .kernel = cuda_kernels, PHASES},
    {"compute_80", 8, 0, false, true, N_KERNELS, .kernel = cuda_kernels, PHASES},
    {"sm_80", 8, 0, false, false, N_KERNELS, .kernel = cuda_kernels, PHASES},
};
static const PfqCuda cuda = {
    .n_codes = sizeof cuda_codes / sizeof *cuda_codes,
    .code = cuda_codes,
    .driver = 12080,
};
#endif

#ifdef FAKE_CHAT
#include FAKE_CHAT /* fake_chat[]: the blob of the templates, made by tpl_tool */
#endif

static const PfqStep steps[] = {
    {1, -1, "append", "%kv kv_append"}, {2, 0, "hash", "%h \"%last\""}, {3, -1, "head", "%logits"}};
const PfqSteps pfq_steps[PFQ_N_PHASES] = {{steps, 2}, {steps + 2, 1}, {steps, 3}};

const PfqModel pfq_model = {
    .abi = PFQ_ABI_VERSION,
    .name = "fake_model",
    .recipe = "toy",
    .version = "0.0",
    .arch = "fake",
    .vocab = FAKE_VOCAB,
    .context = FAKE_CONTEXT,
    .layers = 2,
    .chunk = 8,
    .rows = 3,
    .act_bytes = 8 * 8,
    .scratch_bytes = FAKE_SCRATCH,
    .kv_row_bytes = 8,
    .n_kv = 2,
    .kv = (const PfqKvState[]){{0, 1, 4}, {4, 1, 4}},
    .weight_bytes = FAKE_VOCAB * 4,
    .weight_bytes_per_token = FAKE_VOCAB * 4,
    .image_id = FAKE_IMAGE_ID,
    .prefill = prefill,
    .logits = logits,
    .decode = decode,
#ifndef FAKE_GPU
    .n_variants = 3,
#endif
#if defined FAKE_CUDA || defined FAKE_GPU
    .cuda = &cuda,
#endif
    .n_kernels = N_KERNELS,
    .variants = variants,
    .tokenizer = tokenizer,
    .tokenizer_bytes = sizeof tokenizer,
#ifdef FAKE_CHAT
    .chat = fake_chat,
    .chat_bytes = sizeof fake_chat,
#endif
    .expect = &expect,
    .params = FAKE_VOCAB,
#ifdef FAKE_PREFIX
    .prefix = 1,
    .prefix_ids = (const int32_t[]){FAKE_PREFIX},
#endif
};
