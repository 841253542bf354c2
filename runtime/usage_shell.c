/* Completion scripts for bash, zsh and fish. Contract: usage.h.
 *
 * All three know the same: commands, the options of each, and what may stand for a value. Nothing
 * is asked of the program while the user types.
 */
#include "runtime/usage.h"

#include <ctype.h>
#include <string.h>

/* ---- what may stand in a place ---- */

static bool begins(const char *word, size_t n, const char *with)
{
    return n >= strlen(with) && memcmp(word, with, strlen(with)) == 0;
}

PfqUseValues pfq_use_values(const char *arg)
{
    static const char *const files[] = {"FILE",  "PATH",       "OTHER", "TASK",
                                        "MODEL", "CHECKPOINT", "IN."};
    PfqUseValues v = {0};
    size_t have = 0;
    for (const char *p = arg; *p; p += strspn(p, "| ")) {
        const size_t n = strcspn(p, "| ");
        if (islower((unsigned char)*p) && have + n + 2 < sizeof v.words) {
            if (have) {
                v.words[have++] = ' ';
            }
            memcpy(v.words + have, p, n);
            have += n;
        }
        for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
            v.files |= begins(p, n, files[i]);
        }
        v.folders |= begins(p, n, "DIR");
        p += n;
    }
    v.words[have] = 0;
    return v;
}

static bool takes(const PfqUseOption *o, int command)
{
    return o->commands >> command & 1;
}

/* A function's name: letters, digits and underscores. */
static void identifier(PfqOut *out, const char *program)
{
    for (; *program; program++) {
        pfq_out_write(out, isalnum((unsigned char)*program) ? program : "_", 1);
    }
}

/* Inside quotes '...' of a shell; a backslash goes before the characters of `escape`. */
static void quoted(PfqOut *out, const PfqUse *u, const char *text, const char *escape)
{
    for (; *text; text++) {
        if (text[0] == '%' && text[1] == 's') {
            pfq_out_printf(out, "%s", u->program);
            text++;
        } else if (*text == '\'') {
            pfq_out_printf(out, "'\\''");
        } else {
            pfq_out_write(out, "\\", strchr(escape, *text) ? 1 : 0);
            pfq_out_write(out, text, 1);
        }
    }
}

static void command_names(PfqOut *out, const PfqUse *u, const char *between)
{
    const char *sep = "";
    for (int c = 0; c < u->n_commands; c++) {
        if (*u->command[c].name) {
            pfq_out_printf(out, "%s%s", sep, u->command[c].name);
            sep = between;
        }
    }
}

/* What the program does without a command; -1: nothing. */
static int without_command(const PfqUse *u)
{
    for (int c = 0; c < u->n_commands; c++) {
        if (!*u->command[c].name) {
            return c;
        }
    }
    return -1;
}

/* ---- bash ---- */

static void bash_values(PfqOut *out, PfqUseValues v)
{
    if (*v.words) {
        pfq_out_printf(out, " words='%s'", v.words);
    }
    if (v.files || v.folders) {
        pfq_out_printf(out, " files=%s", v.files ? "-f" : "-d");
    }
}

/* A pattern for every option with a value: "COMMAND --name", "COMMAND -l". */
static void bash_option(PfqOut *out, const PfqUse *u, const PfqUseOption *o)
{
    const char *sep = "    ";
    for (int c = 0; c < u->n_commands; c++) {
        if (takes(o, c)) {
            const char *cmd = u->command[c].name;
            pfq_out_printf(out, "%s'%s --%s'", sep, cmd, o->name);
            if (o->letter) {
                pfq_out_printf(out, "|'%s -%c'", cmd, o->letter);
            }
            sep = "|";
        }
    }
    pfq_out_printf(out, ")");
    bash_values(out, pfq_use_values(o->arg));
    pfq_out_printf(out, " ;;\n");
}

static void bash_command(PfqOut *out, const PfqUse *u, int c)
{
    const char *name = u->command[c].name;
    pfq_out_printf(out, "        %s%s)", *name ? name : "''", "");
    bash_values(out, pfq_use_values(u->command[c].operands));
    if (!*name) { /* the first word may be a command */
        pfq_out_printf(out, "; [ \"$COMP_CWORD\" -gt 1 ] || words='");
        command_names(out, u, " ");
        pfq_out_printf(out, "'");
    }
    pfq_out_printf(out, "\n            options='");
    for (int i = 0; i < u->n_options; i++) {
        const PfqUseOption *o = &u->option[i];
        if (takes(o, c)) {
            pfq_out_printf(out, "--%s ", o->name);
            if (o->letter) {
                pfq_out_printf(out, "-%c ", o->letter);
            }
        }
    }
    pfq_out_printf(out, "' ;;\n");
}

static void bash(PfqOut *out, const PfqUse *u)
{
    const int bare = without_command(u);
    pfq_out_printf(out, "# Completion for bash, by '%s completion bash'.\n_", u->program);
    identifier(out, u->program);
    pfq_out_printf(out,
                   "()\n{\n"
                   "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}\n"
                   "    local command=${COMP_WORDS[1]} words= options= files=\n"
                   "    if [ \"$cur\" = = ]; then cur=; elif [ \"$prev\" = = ]; then "
                   "prev=${COMP_WORDS[COMP_CWORD - 2]}; fi\n"
                   "    case $command in ");
    command_names(out, u, "|");
    pfq_out_printf(out, ") ;; *) command= ;; esac\n"
                        "    [ \"$COMP_CWORD\" -gt 1 ] || command=\n"
                        "    case \"$command $prev\" in\n");
    for (int i = 0; i < u->n_options; i++) {
        if (*u->option[i].arg) {
            bash_option(out, u, &u->option[i]);
        }
    }
    pfq_out_printf(out, "    *)\n        case $command in\n");
    for (int c = 0; c < u->n_commands; c++) {
        bash_command(out, u, c);
    }
    if (bare < 0) {
        pfq_out_printf(out, "        '') words='");
        command_names(out, u, " ");
        pfq_out_printf(out, "' options=--help ;;\n");
    }
    pfq_out_printf(out, "        esac\n"
                        "        case $cur in -*) words=$options files= ;; *) "
                        "[ -n \"$words$files\" ] || words=$options ;; esac ;;\n"
                        "    esac\n"
                        "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\"; "
                        "[ -z \"$files\" ] || compgen $files -- \"$cur\")\n"
                        "    [ -z \"$files\" ] || compopt -o filenames 2>/dev/null\n"
                        "}\n"
                        "complete -F _");
    identifier(out, u->program);
    pfq_out_printf(out, " %s\n", u->program);
}

/* ---- zsh ---- */

/* ":NAME:ACTION" of _arguments. */
static void zsh_values(PfqOut *out, const PfqUse *u, const char *arg)
{
    const PfqUseValues v = pfq_use_values(arg);
    pfq_out_printf(out, ":");
    quoted(out, u, arg, ":\\[]");
    if (*v.words && (v.files || v.folders)) {
        pfq_out_printf(out, ":{compadd %s; _files}", v.words);
    } else if (*v.words) {
        pfq_out_printf(out, ":(%s)", v.words);
    } else {
        pfq_out_printf(out, v.files ? ":_files" : v.folders ? ":_files -/" : ": ");
    }
}

static void zsh_option(PfqOut *out, const PfqUse *u, const PfqUseOption *o)
{
    const bool value = *o->arg;
    if (o->letter) {
        pfq_out_printf(out, " \\\n            '(-%c --%s)'{-%c%s,--%s%s}'[", o->letter, o->name,
                       o->letter, value ? "+" : "", o->name, value ? "=" : "");
    } else {
        pfq_out_printf(out, " \\\n            '--%s%s[", o->name, value ? "=" : "");
    }
    quoted(out, u, o->help, ":\\[]");
    pfq_out_printf(out, "]");
    if (value) {
        zsh_values(out, u, o->arg);
    }
    pfq_out_printf(out, "'");
}

static void zsh_arguments(PfqOut *out, const PfqUse *u, int c)
{
    pfq_out_printf(out, "            _arguments -s -S");
    for (int i = 0; i < u->n_options; i++) {
        if (takes(&u->option[i], c)) {
            zsh_option(out, u, &u->option[i]);
        }
    }
    if (*u->command[c].operands) {
        pfq_out_printf(out, " \\\n            '*");
        zsh_values(out, u, u->command[c].operands);
        pfq_out_printf(out, "'");
    }
    pfq_out_printf(out, "\n");
}

static void zsh(PfqOut *out, const PfqUse *u)
{
    const int bare = without_command(u);
    pfq_out_printf(out, "#compdef %s\n# Completion for zsh, by '%s completion zsh'.\n_", u->program,
                   u->program);
    identifier(out, u->program);
    pfq_out_printf(out, "()\n{\n    local -a commands\n    commands=(\n");
    for (int c = 0; c < u->n_commands; c++) {
        if (*u->command[c].name) {
            pfq_out_printf(out, "        '%s:", u->command[c].name);
            quoted(out, u, u->command[c].help, ":\\");
            pfq_out_printf(out, "'\n");
        }
    }
    pfq_out_printf(out, "    )\n"
                        "    if (( CURRENT == 2 )); then\n"
                        "        _describe -t commands command commands\n");
    pfq_out_printf(out, bare < 0 ? "        return\n    fi\n" : "    fi\n");
    pfq_out_printf(out, "    case $words[2] in\n");
    for (int c = 0; c < u->n_commands; c++) {
        if (c != bare) {
            pfq_out_printf(out, "        %s)\n            shift words; (( CURRENT-- ))\n",
                           u->command[c].name);
            zsh_arguments(out, u, c);
            pfq_out_printf(out, "            ;;\n");
        }
    }
    if (bare >= 0) {
        pfq_out_printf(out, "        *)\n");
        zsh_arguments(out, u, bare);
        pfq_out_printf(out, "            ;;\n");
    }
    pfq_out_printf(out, "    esac\n}\n"
                        "if [ \"$funcstack[1]\" = _");
    identifier(out, u->program);
    pfq_out_printf(out, " ]; then _");
    identifier(out, u->program);
    pfq_out_printf(out, " \"$@\"; else compdef _");
    identifier(out, u->program);
    pfq_out_printf(out, " %s; fi\n", u->program);
}

/* ---- fish ---- */

static void fish_values(PfqOut *out, const char *arg)
{
    const PfqUseValues v = pfq_use_values(arg);
    if (v.files) {
        pfq_out_printf(out, " -F");
    }
    if (*v.words) {
        pfq_out_printf(out, " -a '%s'", v.words);
    } else if (v.folders) {
        pfq_out_printf(out, " -a '(__fish_complete_directories)'");
    }
}

/* The condition: one of these commands was written (`bare`: or none). */
static void fish_commands(PfqOut *out, const PfqUse *u, unsigned commands)
{
    const int bare = without_command(u);
    const bool none = bare >= 0 && commands >> bare & 1;
    pfq_out_printf(out, "complete -c %s -n '%s__fish_seen_subcommand_from", u->program,
                   none ? "not " : "");
    for (int c = 0; c < u->n_commands; c++) {
        if (c != bare && (commands >> c & 1) != none) {
            pfq_out_printf(out, " %s", u->command[c].name);
        }
    }
    pfq_out_printf(out, "'");
}

static void fish(PfqOut *out, const PfqUse *u)
{
    pfq_out_printf(out, "# Completion for fish, by '%s completion fish'.\ncomplete -c %s -f\n",
                   u->program, u->program);
    for (int c = 0; c < u->n_commands; c++) {
        const PfqUseCommand *cmd = &u->command[c];
        const PfqUseValues v = pfq_use_values(cmd->operands);
        if (*cmd->name) {
            pfq_out_printf(out, "complete -c %s -n __fish_use_subcommand -a %s -d '", u->program,
                           cmd->name);
            quoted(out, u, cmd->help, "\\");
            pfq_out_printf(out, "'\n");
        }
        if (*v.words || v.files || v.folders) {
            fish_commands(out, u, 1u << c);
            fish_values(out, cmd->operands);
            pfq_out_printf(out, "\n");
        }
    }
    for (int i = 0; i < u->n_options; i++) {
        const PfqUseOption *o = &u->option[i];
        const bool files = pfq_use_values(o->arg).files;
        fish_commands(out, u, o->commands);
        if (o->letter) {
            pfq_out_printf(out, " -s %c", o->letter);
        }
        pfq_out_printf(out, " -l %s%s", o->name, !*o->arg ? "" : files ? " -r" : " -x");
        fish_values(out, o->arg);
        pfq_out_printf(out, " -d '");
        quoted(out, u, o->help, "\\");
        pfq_out_printf(out, "'\n");
    }
}

bool pfq_use_completion(PfqOut *out, const PfqUse *u, const char *shell)
{
    static const struct {
        const char *name;
        void (*print)(PfqOut *out, const PfqUse *u);
    } shells[] = {{"bash", bash}, {"zsh", zsh}, {"fish", fish}};
    for (size_t i = 0; i < sizeof shells / sizeof *shells; i++) {
        if (strcmp(shell, shells[i].name) == 0) {
            shells[i].print(out, u);
            return true;
        }
    }
    return false;
}
