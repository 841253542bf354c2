/* The command line of a compiled binary, from the table options.def.
 *
 * pfq_options_parse fills PfqOptions; strings point into argv or the environment. Errors are usage
 * errors (exit 2): a sentence that names the option or variable, the value and the range.
 */
#ifndef PFQC_RUNTIME_OPTIONS_H
#define PFQC_RUNTIME_OPTIONS_H

#include "runtime/image.h"
#include "runtime/out.h"
#include "runtime/usage.h"

typedef enum PfqCommand {
#define CMD(id, name, operands, min, max, help) PFQ_CMD_##id,
#include "runtime/options.def"
    PFQ_N_COMMANDS
} PfqCommand;

enum { PFQ_LIST_MAX = 16 };

typedef struct PfqTextList { /* of an option that may be given several times */
    const char *at[PFQ_LIST_MAX];
    int n;
    bool from_env; /* what the command line gives replaces it */
} PfqTextList;

typedef struct PfqOptions {
    PfqCommand command;
    int n_operands;
    char **operands;
    /* run */
    const char *prompt; /* NULL if not given; so for all strings */
    int64_t predict;    /* -1: no limit */
    double temp, top_p, min_p;
    int64_t top_k, seed;
    bool special;
    /* chat */
    const char *system, *tools;
    PfqTextList stop;
    /* serve */
    const char *host, *api_key, *deterministic;
    int64_t port, slots, prompt_cache, stall;
    PfqTextList allow_host;
    /* ppl */
    int64_t chunks; /* 0: all */
    bool bos;
    const char *save_logits;
    /* kld */
    const char *base;
    /* eval */
    int64_t limit; /* 0: all */
    const char *delimiter, *log_samples;
    /* bench */
    int64_t n_prompt, n_gen, n_depth, repetitions, batch;
    const char *output;
    bool per_kernel;
    /* logits */
    const char *tokens;
    bool all, decode;
    int64_t top; /* 0: not given */
    /* several */
    const char *trace;
    /* loading */
    int64_t ctx, threads; /* 0: not given */
    const char *device, *cpu, *weights, *cuda_driver, *cuda_code, *cuda_decode;
    int64_t cuda_device;
    bool copy_weights, cuda_sync;
} PfqOptions;

typedef enum PfqParsed { PFQ_PARSED, PFQ_PARSED_HELP, PFQ_PARSED_BAD } PfqParsed;

/* argv[0] is skipped; operands are moved to the front of argv. PFQ_PARSED_HELP: --help was asked
 * for; if that was before any command, *general is set, else o->command tells of which. */
PfqParsed pfq_options_parse(PfqOptions *o, int argc, char **argv, bool *general, PfqErr *err);

void pfq_options_help(PfqOut *out, const char *program, const char *model);
void pfq_options_help_command(PfqOut *out, const char *program, PfqCommand command);

/* The tables as usage.h has them; `summary` says what the program is. In memory that the next call
 * changes. */
const PfqUse *pfq_options_use(const char *program, const char *summary);

const char *pfq_command_name(PfqCommand command);

/* Strict numbers: the whole text, decimal; false if it is none. Too large an integer saturates. */
bool pfq_parse_int(const char *text, int64_t *v);
bool pfq_parse_real(const char *text, double *v);

/* Token ids separated by commas or white space, appended to ids[*n .. cap). A sentence names the
 * first bad one. */
bool pfq_parse_ids(const char *text, int32_t vocab, int32_t *ids, size_t cap, size_t *n,
                   PfqErr *err);

#endif
