/* The commands of a compiled binary. pfq_main is all that main.c calls; the rest is shared by the
 * files that implement commands (cli.c, ppl.c, bench.c, inspect.c).
 *
 * A command returns false with a sentence in cli->err; cli->usage tells that it was the caller's
 * words that were wrong (exit 2 instead of 1). Results go to cli->out, everything else to stderr.
 */
#ifndef PFQC_RUNTIME_CLI_H
#define PFQC_RUNTIME_CLI_H

#include "runtime/engine.h"
#include "runtime/options.h"
#include "runtime/out.h"
#include "runtime/tokenizer.h"
#include "runtime/trace.h"

int pfq_main(int argc, char **argv, const PfqModel *model);

typedef struct PfqCli {
    const PfqModel *model;
    const char *program; /* last part of argv[0] */
    PfqOptions opt;
    PfqTokenizer tok; /* open in every command */
    PfqEngine engine; /* closed by pfq_main */
    int32_t spare;    /* slots of the KV cache that the command wants besides those of sequences */
    PfqTrace *trace;  /* NULL, or finished by pfq_main */
    PfqOut *out;
    PfqErr err;
    bool usage;
} PfqCli;

typedef bool PfqCmd(PfqCli *c);

PfqCmd pfq_cmd_run, pfq_cmd_tokenize, pfq_cmd_detokenize; /* cli.c */
PfqCmd pfq_cmd_man, pfq_cmd_completion;                   /* cli.c */
PfqCmd pfq_cmd_chat, pfq_cmd_prompt;                      /* chat.c */
PfqCmd pfq_cmd_serve;                                     /* serve.c */
PfqCmd pfq_cmd_ppl;                                       /* ppl.c */
PfqCmd pfq_cmd_kld;                                       /* kld.c */
PfqCmd pfq_cmd_eval;                                      /* eval.c */
PfqCmd pfq_cmd_bench;                                     /* bench.c */
PfqCmd pfq_cmd_logits, pfq_cmd_info, pfq_cmd_self_test;   /* inspect.c */

enum { PFQ_TEST_SLOTS = 3 }; /* sequences of self-test's batch, at most */

bool pfq_cli_deterministic(const PfqCli *c); /* --deterministic, which is the default */

/* Opens cli->engine with room for ctx tokens and the options that every loading command has;
 * `sparse` as in engine.h. */
bool pfq_cli_load(PfqCli *c, int64_t ctx, bool sparse);

/* Mean, and standard deviation of a sample (n - 1); 0 for n < 2. */
void pfq_mean_sd(const double *v, int n, double *mean, double *sd);

#endif
