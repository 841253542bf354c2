/* Command line parsing and help, from options.def. Contract: options.h. */
#include "runtime/options.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum OptionType { FLAG, INT, REAL, TEXT, LIST, CHOICE } OptionType;

enum { /* sets of commands, as options.def writes them */
#define CMD(id, name, operands, min, max, help) id = 1u << PFQ_CMD_##id,
#include "runtime/options.def"
};

static const struct {
    const char *name, *operands;
    int min, max;
    const char *help;
} commands[] = {
#define CMD(id, name, operands, min, max, help) {name, operands, min, max, help},
#include "runtime/options.def"
};

typedef struct Option {
    unsigned commands;
    char letter;
    const char *name, *arg;
    OptionType type;
    size_t at; /* of the field in PfqOptions */
    double def, min, max;
    const char *help;
} Option;

static const Option options[] = {
#define OPT(commands, letter, name, arg, type, field, def, min, max, help)                         \
    {commands, letter, name, arg, type, offsetof(PfqOptions, field), def, min, max, help},
#include "runtime/options.def"
};

enum { N_OPTIONS = sizeof options / sizeof *options };

const char *pfq_command_name(PfqCommand command)
{
    return commands[command].name;
}

/* ---- values ---- */

bool pfq_parse_int(const char *text, int64_t *v)
{
    const char *p = text + (*text == '-' || *text == '+');
    if (!*p || p[strspn(p, "0123456789")]) {
        return false;
    }
    *v = strtoll(text, NULL, 10); /* saturates on overflow */
    return true;
}

bool pfq_parse_real(const char *text, double *v)
{
    char *end;
    if (!*text ||
        text[strspn(text, "0123456789+-.eE")]) { /* no hexadecimal, no inf or nan, no spaces */
        return false;
    }
    *v = strtod(text, &end);
    return *end == 0;
}

bool pfq_parse_ids(const char *text, int32_t vocab, int32_t *ids, size_t cap, size_t *n,
                   PfqErr *err)
{
    static const char between[] = ", \t\n\r";
    for (const char *p = text + strspn(text, between); *p; p += strspn(p, between)) {
        size_t len = strcspn(p, between);
        char word[32];
        int64_t id;
        snprintf(word, sizeof word, "%.*s", (int)(len < 24 ? len : 24), p);
        if (len > 24 || !pfq_parse_int(word, &id)) {
            return pfq_fail(err, "'%s' is not a token id", word);
        }
        if (id < 0 || id >= vocab) {
            return pfq_fail(err, "token id %s is out of range: the vocabulary has 0 to %d", word,
                            vocab - 1);
        }
        if (*n == cap) {
            return pfq_fail(err, "too many token ids");
        }
        ids[(*n)++] = (int32_t)id;
        p += len;
    }
    return true;
}

static bool is_choice(const char *choices, const char *value)
{
    size_t n = strlen(value);
    for (const char *p = choices; *p; p += strcspn(p, "|"), p += *p == '|') {
        if (strcspn(p, "|") == n && strncmp(p, value, n) == 0) {
            return true;
        }
    }
    return false;
}

static bool add_text(PfqTextList *list, const Option *opt, const char *from, const char *value,
                     PfqErr *err)
{
    const size_t n = strlen(value);
    if ((double)n < opt->min || (double)n > opt->max) {
        return pfq_fail(err, "%s: a text of %zu bytes is out of range (%g to %g)", from, n,
                        opt->min, opt->max);
    }
    if (list->n == PFQ_LIST_MAX) {
        return pfq_fail(err, "%s is given more than %d times", from, PFQ_LIST_MAX);
    }
    list->at[list->n++] = value;
    return true;
}

/* `from` names where the value came from, for messages. */
static bool set_value(PfqOptions *o, const Option *opt, const char *from, const char *value,
                      PfqErr *err)
{
    void *field = (char *)o + opt->at;
    int64_t i = 0;
    double d = 0;
    switch (opt->type) {
    case FLAG: *(bool *)field = true; return true;
    case TEXT: *(const char **)field = value; return true;
    case LIST: return add_text(field, opt, from, value, err);
    case CHOICE:
        *(const char **)field = value;
        return is_choice(opt->arg, value) ||
               pfq_fail(err, "%s: '%s' is not one of %s", from, value, opt->arg);
    case INT:
        if (!pfq_parse_int(value, &i)) {
            return pfq_fail(err, "%s: '%s' is not a whole number", from, value);
        }
        *(int64_t *)field = i;
        d = (double)i;
        break;
    case REAL:
        if (!pfq_parse_real(value, &d)) {
            return pfq_fail(err, "%s: '%s' is not a number", from, value);
        }
        *(double *)field = d;
        break;
    }
    if (!(d >= opt->min && d <= opt->max)) {
        return pfq_fail(err, "%s: %s is out of range (%.16g to %.16g)", from, value, opt->min,
                        opt->max);
    }
    return true;
}

static void env_name(const Option *opt, char *out, size_t cap)
{
    size_t n = (size_t)snprintf(out, cap, "PFQC_%s", opt->name);
    for (size_t i = 0; i < n && i < cap; i++) {
        out[i] = out[i] == '-' ? '_' : (char)toupper((unsigned char)out[i]);
    }
}

static bool from_environment(PfqOptions *o, const Option *opt, PfqErr *err)
{
    char name[64], from[96];
    env_name(opt, name, sizeof name);
    const char *value = getenv(name);
    if (!value) {
        return true;
    }
    snprintf(from, sizeof from, "environment variable %s", name);
    if (opt->type == FLAG) {
        if (strcmp(value, "0") != 0 && strcmp(value, "1") != 0) {
            return pfq_fail(err, "%s: '%s' is not 0 or 1", from, value);
        }
        *(bool *)((char *)o + opt->at) = *value == '1';
        return true;
    }
    if (opt->type == LIST) {
        ((PfqTextList *)((char *)o + opt->at))->from_env = true;
    }
    return set_value(o, opt, from, value, err);
}

static bool set_defaults(PfqOptions *o, PfqErr *err)
{
    for (int i = 0; i < N_OPTIONS; i++) {
        const Option *opt = &options[i];
        if (!(opt->commands & (1u << o->command))) {
            continue;
        }
        if (opt->type == INT) {
            *(int64_t *)((char *)o + opt->at) = (int64_t)opt->def;
        } else if (opt->type == REAL) {
            *(double *)((char *)o + opt->at) = opt->def;
        }
        if (!from_environment(o, opt, err)) {
            return false;
        }
    }
    return true;
}

/* ---- words ---- */

/* Finds the option that a word such as `-p`, `--top-k` or `--top-k=5` names; *value is what follows
 * '='. */
static const Option *find_option(PfqCommand command, const char *word, const char **value)
{
    *value = NULL;
    for (int i = 0; i < N_OPTIONS; i++) {
        const Option *opt = &options[i];
        size_t n = strlen(opt->name);
        if (!(opt->commands & (1u << command))) {
            continue;
        }
        if (opt->letter && word[1] == opt->letter && word[2] == 0) {
            return opt;
        }
        if (word[1] == '-' && strncmp(word + 2, opt->name, n) == 0 &&
            (word[2 + n] == 0 || word[2 + n] == '=')) {
            *value = word[2 + n] ? word + 3 + n : NULL;
            return opt;
        }
    }
    return NULL;
}

static bool parse_option(PfqOptions *o, int argc, char **argv, int *i, PfqErr *err)
{
    const char *word = argv[*i], *value;
    const Option *opt = find_option(o->command, word, &value);
    const char *name = commands[o->command].name;
    if (!opt) {
        return pfq_fail(err, "unknown option '%.100s'; '%s --help' lists the options", word, name);
    }
    if (opt->type == FLAG) {
        return value ? pfq_fail(err, "option --%s takes no value", opt->name)
                     : set_value(o, opt, "", "", err);
    }
    if (!value) {
        if (*i + 1 >= argc) {
            return pfq_fail(err, "option %s needs a value (%s)", word, opt->arg);
        }
        value = argv[++*i];
    }
    char from[64];
    snprintf(from, sizeof from, "option --%s", opt->name);
    PfqTextList *list = opt->type == LIST ? (void *)((char *)o + opt->at) : NULL;
    if (list && list->from_env) {
        *list = (PfqTextList){0};
    }
    return set_value(o, opt, from, value, err);
}

static bool find_command(const char *word, PfqCommand *out, PfqErr *err)
{
    char all[256];
    size_t n = 0;
    for (unsigned c = 0; c < PFQ_N_COMMANDS; c++) {
        if (strcmp(word, commands[c].name) == 0) {
            *out = (PfqCommand)c;
            return true;
        }
        n += (size_t)snprintf(all + n, sizeof all - n, "%s%s", c ? ", " : "", commands[c].name);
    }
    return pfq_fail(err, "unknown command '%.100s'; the commands are %s", word, all);
}

static bool is_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

PfqParsed pfq_options_parse(PfqOptions *o, int argc, char **argv, bool *general, PfqErr *err)
{
    *o = (PfqOptions){0};
    *general = false;
    if (argc < 2) {
        pfq_fail(err, "a command is missing; --help lists the commands");
        return PFQ_PARSED_BAD;
    }
    if (is_help(argv[1]) || strcmp(argv[1], "help") == 0) {
        *general = true;
        return PFQ_PARSED_HELP;
    }
    if (!find_command(argv[1], &o->command, err) || !set_defaults(o, err)) {
        return PFQ_PARSED_BAD;
    }
    o->operands = argv + 1;
    bool only_operands = false;
    for (int i = 2; i < argc; i++) {
        const char *word = argv[i];
        if (only_operands || word[0] != '-' || word[1] == 0) {
            o->operands[o->n_operands++] = argv[i];
        } else if (strcmp(word, "--") == 0) {
            only_operands = true;
        } else if (is_help(word)) {
            return PFQ_PARSED_HELP;
        } else if (!parse_option(o, argc, argv, &i, err)) {
            return PFQ_PARSED_BAD;
        }
    }
    int min = commands[o->command].min, max = commands[o->command].max;
    if (o->n_operands < min) {
        pfq_fail(err, "'%s' needs %s", commands[o->command].name, commands[o->command].operands);
        return PFQ_PARSED_BAD;
    }
    if (max >= 0 && o->n_operands > max) {
        pfq_fail(err, "'%s' does not know what to do with '%.100s'", commands[o->command].name,
                 o->operands[max]);
        return PFQ_PARSED_BAD;
    }
    return PFQ_PARSED;
}

/* ---- help ---- */

void pfq_options_help(PfqOut *out, const char *program, const char *model)
{
    pfq_out_printf(out,
                   "%s: the language model '%s' as a program\n\nusage: %s COMMAND [OPTIONS]\n\n",
                   program, model, program);
    for (int c = 0; c < PFQ_N_COMMANDS; c++) {
        char left[64];
        snprintf(left, sizeof left, "%s %s", commands[c].name, commands[c].operands);
        pfq_out_printf(out, "  %-22s  %s\n", left, commands[c].help);
    }
    pfq_out_printf(out, "\n'%s COMMAND --help' lists the options of a command.\n", program);
}

static void help_option(PfqOut *out, const Option *opt)
{
    char left[64], env[64], letter[8] = "    ", def[32] = "";
    if (opt->letter) {
        snprintf(letter, sizeof letter, "-%c, ", opt->letter);
    }
    snprintf(left, sizeof left, "%s--%s %s", letter, opt->name, opt->arg);
    env_name(opt, env, sizeof env);
    if ((opt->type == INT || opt->type == REAL) && opt->def >= opt->min) {
        snprintf(def, sizeof def, " (default %g)", opt->def);
    }
    pfq_out_printf(out, "  %-27s  %s%s [%s]\n", left, opt->help, def, env);
}

void pfq_options_help_command(PfqOut *out, const char *program, PfqCommand command)
{
    const char *operands = commands[command].operands;
    pfq_out_printf(out, "usage: %s %s [OPTIONS]%s%s\n\n%s\n\n", program, commands[command].name,
                   *operands ? " " : "", operands, commands[command].help);
    for (int i = 0; i < N_OPTIONS; i++) {
        if (options[i].commands & (1u << command)) {
            help_option(out, &options[i]);
        }
    }
    pfq_out_printf(
        out, "\nThe name in brackets is the environment variable that sets the option too.\n");
}

/* ---- usage.h ---- */

static const char about[] =
    "The program holds a language model that pfqc compiled: its code, its tokenizer and, inside or "
    "in a file beside\nit, its weights. Results go to standard output, messages and progress to "
    "standard error.";

static const PfqUseText texts[] = {
    {"Environment",
     "Every option NAME can also be given as the variable PFQC_NAME, in capitals and with '_' for "
     "'-'; flags take 0 or 1.\nThe command line wins."},
    {"Files", "    %s.weights    the weights, if they are not inside the program"},
    {"Exit status", "0: done. 1: it could not be done, for the reason given on standard error. 2: "
                    "the command line is wrong."},
    {"Examples", "Continue a prompt:\n\n"
                 "    %s run -p \"Once upon a time\" -n 50\n\n"
                 "Talk with the model, or let it answer two messages:\n\n"
                 "    %s chat --system \"Be brief.\"\n"
                 "    printf 'Hello\\nAnd in French?\\n' | %s chat\n\n"
                 "Perplexity of a text, and the distance from another program on it:\n\n"
                 "    %s ppl text.txt -c 512\n    %s kld --base other/program text.txt -c 512\n\n"
                 "Score the first 300 examples of a task:\n\n"
                 "    %s eval arc_easy.jsonl --limit 300"},
    {"Tasks",
     "eval reads a JSON object a line, of one of three shapes; other members are ignored:\n\n"
     "    {\"query\": Q, \"choices\": [C, ...], \"gold\": K}\n"
     "    {\"context_options\": [X, ...], \"continuation\": Y, \"gold\": K}\n"
     "    {\"context\": X, \"continuation\": Y}\n\n"
     "The first two are scored by accuracy (acc: the likeliest choice is the gold one; acc_norm: "
     "the likeliest per\ncharacter), the third by accuracy (every token of Y is the likeliest one) "
     "and perplexity of a Y. Tokens and\nscores are those of lm-eval."},
    {"Installing",
     "The manual page and completion are printed by the program, for wherever they belong:\n\n"
     "    %s man >~/.local/share/man/man1/%s.1\n"
     "    %s completion bash >~/.local/share/bash-completion/completions/%s\n"
     "    %s completion zsh >~/.zfunc/_%s    # a folder of fpath\n"
     "    %s completion fish >~/.config/fish/completions/%s.fish"},
};

const PfqUse *pfq_options_use(const char *program, const char *summary)
{
    static PfqUseCommand cmds[PFQ_N_COMMANDS];
    static PfqUseOption opts[N_OPTIONS + 1];
    static PfqUse use;
    for (int i = 0; i < PFQ_N_COMMANDS; i++) {
        cmds[i] = (PfqUseCommand){commands[i].name, commands[i].operands, commands[i].help};
    }
    for (int i = 0; i < N_OPTIONS; i++) {
        const Option *o = &options[i];
        opts[i] = (PfqUseOption){
            .commands = o->commands,
            .letter = o->letter,
            .has_default = (o->type == INT || o->type == REAL) && o->def >= o->min,
            .name = o->name,
            .arg = o->arg,
            .help = o->help,
            .def = o->def,
        };
    }
    opts[N_OPTIONS] = (PfqUseOption){.commands = (1u << PFQ_N_COMMANDS) - 1,
                                     .letter = 'h',
                                     .no_variable = true,
                                     .name = "help",
                                     .arg = "",
                                     .help = "print the command's options"};
    use = (PfqUse){.program = program,
                   .summary = summary,
                   .about = about,
                   .command = cmds,
                   .option = opts,
                   .text = texts,
                   .n_commands = PFQ_N_COMMANDS,
                   .n_options = N_OPTIONS + 1,
                   .n_texts = sizeof texts / sizeof *texts};
    return &use;
}
