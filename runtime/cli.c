/* Entry point of a compiled binary and the commands about text. Contract: cli.h. */
#include "runtime/cli.h"

#include "runtime/generate.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RUN_ROOM = 4096 }; /* tokens that `run` makes room for when neither -n nor -c says */

static PfqCmd *const handlers[PFQ_N_COMMANDS] = {
    [PFQ_CMD_RUN] = pfq_cmd_run,
    [PFQ_CMD_PPL] = pfq_cmd_ppl,
    [PFQ_CMD_KLD] = pfq_cmd_kld,
    [PFQ_CMD_EVAL] = pfq_cmd_eval,
    [PFQ_CMD_CHAT] = pfq_cmd_chat,
    [PFQ_CMD_PROMPT] = pfq_cmd_prompt,
    [PFQ_CMD_SERVE] = pfq_cmd_serve,
    [PFQ_CMD_BENCH] = pfq_cmd_bench,
    [PFQ_CMD_LOGITS] = pfq_cmd_logits,
    [PFQ_CMD_TOKENIZE] = pfq_cmd_tokenize,
    [PFQ_CMD_DETOKENIZE] = pfq_cmd_detokenize,
    [PFQ_CMD_INFO] = pfq_cmd_info,
    [PFQ_CMD_SELF_TEST] = pfq_cmd_self_test,
    [PFQ_CMD_MAN] = pfq_cmd_man,
    [PFQ_CMD_COMPLETION] = pfq_cmd_completion,
};

void pfq_mean_sd(const double *v, int n, double *mean, double *sd)
{
    double sum = 0, dev = 0;
    for (int i = 0; i < n; i++) {
        sum += v[i];
    }
    *mean = n > 0 ? sum / n : 0;
    for (int i = 0; i < n; i++) {
        dev += (v[i] - *mean) * (v[i] - *mean);
    }
    *sd = n > 1 ? sqrt(dev / (n - 1)) : 0;
}

/* Sequences that the command decodes together. */
static int32_t slots_of(const PfqCli *c)
{
    const int32_t most = pfq_model_slots(c->model);
    return c->opt.command == PFQ_CMD_SERVE       ? (int32_t)c->opt.slots
           : c->opt.command == PFQ_CMD_BENCH     ? (int32_t)c->opt.batch
           : c->opt.command == PFQ_CMD_SELF_TEST ? (most < PFQ_TEST_SLOTS ? most : PFQ_TEST_SLOTS)
                                                 : 1;
}

bool pfq_cli_deterministic(const PfqCli *c)
{
    return !c->opt.deterministic || c->opt.deterministic[0] == 'y';
}

static bool start_trace(PfqCli *c)
{
    PfqEngine *e = &c->engine;
    if (!c->opt.trace) {
        return true;
    }
    c->trace = pfq_trace_start(c->opt.trace, c->model, e->variant, e->gpu_choice.code,
                               e->gpu ? 1 : e->threads, &c->err);
    if (e->gpu && c->opt.command == PFQ_CMD_BENCH) { /* which measures without it, then traces */
        return c->trace != NULL;
    }
    e->trace = c->trace;
    return c->trace && (!e->gpu || pfq_gpu_trace(e->gpu, c->trace, &c->err));
}

/* Once the command is done. */
static bool finish_trace(PfqCli *c, bool ok)
{
    int64_t lost = 0;
    if (c->trace) {
        ok = pfq_trace_finish(c->trace, ok, &lost, &c->err);
    }
    if (lost) {
        pfq_note("%s: the trace is full: the last %lld slices are not in it\n", c->program,
                 (long long)lost);
    }
    return ok;
}

bool pfq_cli_load(PfqCli *c, int64_t ctx, bool sparse)
{
    if (ctx > c->model->context) {
        return pfq_fail(&c->err, "%lld tokens of context are needed, but the model has %d",
                        (long long)ctx, c->model->context);
    }
    PfqEngineConfig config = {.threads = (int)c->opt.threads,
                              .ctx = (int32_t)ctx,
                              .device = c->opt.device,
                              .cpu = c->opt.cpu,
                              .cuda_device = (int)c->opt.cuda_device,
                              .cuda_driver = c->opt.cuda_driver,
                              .cuda_code = c->opt.cuda_code,
                              .cuda_sync = c->opt.cuda_sync,
                              .cuda_graph = c->opt.cuda_decode && c->opt.cuda_decode[0] == 'g',
                              .exact =
                                  c->opt.command == PFQ_CMD_SELF_TEST ||
                                  (c->opt.command == PFQ_CMD_SERVE && pfq_cli_deterministic(c)),
                              .slots = slots_of(c),
                              .spare = c->spare,
                              .weights = c->opt.weights,
                              .sparse = sparse,
                              .copy = c->opt.copy_weights};
    return pfq_engine_open(&c->engine, c->model, &config, &c->err) && start_trace(c);
}

/* Where the engine runs, for people. */
static void where_it_runs(const PfqCli *c, char *out, size_t cap)
{
    const PfqEngine *e = &c->engine;
    if (e->chip) {
        snprintf(out, cap, "%s, %s", e->chip, e->code);
    } else {
        snprintf(out, cap, "%d threads, %s", e->threads, e->code);
    }
}

/* ---- run ---- */

typedef struct RunTimes {
    double start, loaded, prefilled, end;
    int32_t n_prompt;
    int64_t n_new, n_decoded;
    const char *by_host; /* PfqGen.why */
} RunTimes;

static void report_run(const PfqCli *c, const RunTimes *t)
{
    double load = t->loaded - t->start, prompt = t->prefilled - t->loaded,
           gen = t->end - t->prefilled;
    char where[192];
    where_it_runs(c, where, sizeof where);
    pfq_note("%s: load %.0f ms; prompt %d tokens, %.1f tok/s; generated %lld tokens, %.1f tok/s; "
             "%s%s%s\n",
             c->program, 1e3 * load, t->n_prompt, prompt > 0 ? t->n_prompt / prompt : 0,
             (long long)t->n_new, gen > 0 ? (double)t->n_decoded / gen : 0, where,
             t->by_host ? "; tokens chosen by the host, because " : "",
             t->by_host ? t->by_host : "");
}

/* Samples and prints until the model ends, the limit is reached or the context is full. */
static bool generate(PfqCli *c, PfqSampler *s, RunTimes *t)
{
    const int64_t limit = c->opt.predict;
    PfqGen gen;
    PfqGenEnd end = PFQ_GEN_TOKEN;
    if (!pfq_gen_start(&gen, &c->engine, s, limit, &c->err)) {
        return false;
    }
    t->by_host = gen.why;
    while (limit < 0 || t->n_new < limit) {
        char buf[64];
        size_t len;
        int32_t id;
        end = pfq_gen_next(&gen, &id, &c->err);
        if (end != PFQ_GEN_TOKEN) {
            break;
        }
        t->n_decoded += gen.n > 1;
        if (id < 0) {
            return pfq_fail(&c->err, "the model's logits are not finite");
        }
        if (pfq_tok_is_eog(&c->tok, id)) {
            break;
        }
        const char *piece = pfq_tok_piece(&c->tok, id, false, buf, &len);
        pfq_out_text(c->out, piece, len);
        pfq_out_flush(c->out);
        t->n_new++;
        if (c->out->error) {
            break;
        }
    }
    if (end == PFQ_GEN_FAILED) {
        return false;
    }
    if (end == PFQ_GEN_FULL) {
        pfq_note("%s: the context of %d tokens is full\n", c->program, c->engine.ctx);
    }
    pfq_out_text_end(c->out);
    pfq_out_write(c->out, "\n", 1);
    return true;
}

/* The prompt's tokens, malloc'ed. An empty prompt is BOS alone, where there is one. A BOS that the
 * model's prefix already is falls away. */
static int32_t *prompt_tokens(PfqCli *c, int32_t *n)
{
    int32_t *ids = NULL;
    unsigned flags = PFQ_TOK_POLICY | (c->opt.special ? (unsigned)PFQ_TOK_SPECIAL : 0);
    ptrdiff_t got = pfq_tok_encode(&c->tok, c->opt.prompt, strlen(c->opt.prompt), flags, &ids);
    if (got == 0 && c->tok.bos >= 0) {
        free(ids);
        got = pfq_tok_encode(&c->tok, "", 0, PFQ_TOK_BOS, &ids);
    }
    if (got <= 0 || got > INT32_MAX - RUN_ROOM) {
        pfq_fail(&c->err,
                 got < 0 ? "out of memory for the prompt's tokens"
                 : got == 0
                     ? "the prompt is empty and this tokenizer has no BOS token to begin with"
                     : "the prompt is too long");
        free(ids);
        return NULL;
    }
    const int32_t skip = pfq_prompt_skip(c->model, ids, (int32_t)got);
    *n = (int32_t)got - skip;
    memmove(ids, ids + skip, (size_t)*n * sizeof *ids);
    return ids;
}

static bool run_prompt(PfqCli *c, const int32_t *ids, RunTimes *t)
{
    int64_t n = t->n_prompt, want = c->opt.predict >= 0 ? n + c->opt.predict : n + RUN_ROOM;
    int64_t ctx = c->opt.ctx ? c->opt.ctx : want < c->model->context ? want : c->model->context;
    if (n > ctx) {
        return pfq_fail(&c->err, "the prompt has %lld tokens, more than the context of %lld",
                        (long long)n, (long long)ctx);
    }
    PfqSampler s = {.temp = c->opt.temp,
                    .top_p = c->opt.top_p,
                    .min_p = c->opt.min_p,
                    .top_k = (int32_t)c->opt.top_k,
                    .state = (uint64_t)c->opt.seed};
    if (!pfq_sampler_init(&s, c->model->vocab)) {
        return pfq_fail(&c->err, "out of memory for the sampler");
    }
    bool ok = pfq_cli_load(c, ctx, c->opt.predict < 0 || c->opt.ctx > want);
    t->loaded = pfq_now();
    ok = ok && pfq_engine_prefill(&c->engine, ids, t->n_prompt, PFQ_WANT_LAST, NULL, NULL, &c->err);
    t->prefilled = pfq_now();
    ok = ok && generate(c, &s, t);
    t->end = pfq_now();
    pfq_sampler_free(&s);
    return ok;
}

bool pfq_cmd_run(PfqCli *c)
{
    RunTimes t = {.start = pfq_now()};
    if (!c->opt.prompt) {
        c->usage = true;
        return pfq_fail(&c->err, "'run' needs a prompt (-p TEXT)");
    }
    int32_t *ids = prompt_tokens(c, &t.n_prompt);
    if (!ids) {
        return false;
    }
    bool ok = run_prompt(c, ids, &t);
    if (ok) {
        report_run(c, &t);
    }
    free(ids);
    return ok;
}

/* ---- tokenize, detokenize ---- */

bool pfq_cmd_tokenize(PfqCli *c)
{
    int32_t *ids = NULL;
    const char *text = c->opt.operands[0];
    unsigned flags = PFQ_TOK_POLICY | (c->opt.special ? (unsigned)PFQ_TOK_SPECIAL : 0);
    ptrdiff_t n = pfq_tok_encode(&c->tok, text, strlen(text), flags, &ids);
    if (n < 0) {
        return pfq_fail(&c->err, "out of memory for the text's tokens");
    }
    for (ptrdiff_t i = 0; i < n; i++) {
        pfq_out_printf(c->out, "%s%d", i ? " " : "", ids[i]);
    }
    pfq_out_write(c->out, "\n", 1);
    free(ids);
    return true;
}

bool pfq_cmd_detokenize(PfqCli *c)
{
    size_t cap = 0, n = 0, len = 0;
    for (int i = 0; i < c->opt.n_operands; i++) {
        cap += strlen(c->opt.operands[i]) / 2 + 1;
    }
    int32_t *ids = malloc(cap * sizeof *ids);
    bool ok = ids != NULL || pfq_fail(&c->err, "out of memory for %zu token ids", cap);
    for (int i = 0; ok && i < c->opt.n_operands; i++) {
        ok = pfq_parse_ids(c->opt.operands[i], c->model->vocab, ids, cap, &n, &c->err);
    }
    if (ok) {
        char *text = pfq_tok_decode(&c->tok, ids, n, c->opt.special, &len);
        ok = text != NULL || pfq_fail(&c->err, "out of memory for the text of %zu tokens", n);
        if (ok) {
            pfq_out_write(c->out, text, len);
            pfq_out_write(c->out, "\n", 1);
        }
        free(text);
    }
    free(ids);
    return ok;
}

/* ---- man, completion ---- */

static const PfqUse *use(const PfqCli *c)
{
    static char summary[256];
    snprintf(summary, sizeof summary, "the language model %.200s as a program", c->model->name);
    return pfq_options_use(c->program, summary);
}

bool pfq_cmd_man(PfqCli *c)
{
    pfq_use_man(c->out, use(c));
    return true;
}

bool pfq_cmd_completion(PfqCli *c)
{
    const char *shell = c->opt.operands[0];
    c->usage = true;
    return pfq_use_completion(c->out, use(c), shell) ||
           pfq_fail(&c->err, "'%.100s' is not one of %s", shell, PFQ_USE_SHELLS);
}

/* ---- entry ---- */

/* A descriptor 0-2 that is closed would be given to the next file opened, and messages would end up
 * in it. It is filled with /dev/null, opened so that writing to it still fails. */
static void fill_standard_fds(void)
{
    for (int fd = open("/dev/null", O_RDONLY); fd >= 0; fd = open("/dev/null", O_RDONLY)) {
        if (fd > 2) {
            close(fd);
            break;
        }
    }
}

/* Commands that need none. */
static const unsigned without_tokenizer = 1u << PFQ_CMD_LOGITS | 1u << PFQ_CMD_INFO |
                                          1u << PFQ_CMD_SELF_TEST | 1u << PFQ_CMD_BENCH |
                                          1u << PFQ_CMD_MAN | 1u << PFQ_CMD_COMPLETION;

static bool run_command(PfqCli *c)
{
    if (c->model->abi != PFQ_ABI_VERSION) {
        return pfq_fail(&c->err, "the model was generated for runtime ABI %u, this runtime has %u",
                        c->model->abi, PFQ_ABI_VERSION);
    }
    const PfqCommand cmd = c->opt.command;
    if (!c->model->tokenizer) {
        return without_tokenizer >> cmd & 1
                   ? handlers[cmd](c)
                   : pfq_fail(&c->err,
                              "'%s' needs a tokenizer, and this model was compiled without one",
                              pfq_command_name(cmd));
    }
    const char *bad = pfq_tok_open(&c->tok, c->model->tokenizer, c->model->tokenizer_bytes);
    if (bad) {
        return pfq_fail(&c->err, "the tokenizer's tables are damaged: %s", bad);
    }
    return handlers[cmd](c);
}

static const char *last_part(const char *path)
{
    const char *slash = path ? strrchr(path, '/') : NULL;
    return slash ? slash + 1 : path ? path : "model";
}

int pfq_main(int argc, char **argv, const PfqModel *model)
{
    static PfqOut out;
    static PfqCli c;
    bool general, ok = true;
    fill_standard_fds();
    signal(SIGPIPE, SIG_IGN); /* a reader that leaves is an error of write(), with a message */
    pfq_out_init(&out, 1);
    c = (PfqCli){.model = model, .program = last_part(argc > 0 ? argv[0] : NULL), .out = &out};
    switch (pfq_options_parse(&c.opt, argc, argv, &general, &c.err)) {
    case PFQ_PARSED_BAD:
        c.usage = true;
        ok = false;
        break;
    case PFQ_PARSED_HELP:
        if (general) {
            pfq_options_help(&out, c.program, model->name);
        } else {
            pfq_options_help_command(&out, c.program, c.opt.command);
        }
        break;
    case PFQ_PARSED:
        ok = finish_trace(&c, run_command(&c));
        pfq_engine_close(&c.engine);
        break;
    }
    PfqErr write_err;
    if (!pfq_out_finish(&out, &write_err) && ok) {
        c.err = write_err;
        ok = false;
    }
    if (!ok) {
        pfq_note("%s: error: %s\n", c.program, c.err.text);
    }
    return ok ? 0 : c.usage ? 2 : 1;
}
