/* pfqc: an ahead-of-time compiler for quantised language models. This file is main: the whole flow.
 */
#include "codegen/codegen.h"
#include "frontend/frontend.h"
#include "inspect/inspect.h"
#include "ir/base/meter.h"
#include "ir/base/options.h"
#include "ir/base/spans.h"
#include "ir/text.h"
#include "passes/calib/ppl.h"
#include "passes/passes.h"
#include "runtime/fields.h"
#include "runtime/options.h"
#include "runtime/usage.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    COMPILE = 1,
    INIT = 2,
    OPT_ = 4,
    EXPLAIN = 8,
    DOC = 16,
    PPL = 32,
    MAN = 64,
    COMPLETION = 128,
    INSPECT = 256,
    DIFF = 512,
    ANY = 1023
};

static const OptRow rows[] = {
#define OPT(name, letter, kind, commands, value, doc)                                              \
    {name, letter, OPT_##kind, commands, value, doc},
#include "options.def"
#undef OPT
};
enum { N_OPTS = sizeof rows / sizeof *rows, MAX_WORDS = 4, MAX_TARGETS = 64 };

typedef struct Cli {
    Diag *d;
    Arena *a;
    OptVal val[N_OPTS];
    const char *word[MAX_WORDS];
    u32 n_words;
} Cli;

static const OptVal *opt(const Cli *c, const char *name)
{
    for (u32 i = 0; i < N_OPTS; i++)
        if (strcmp(rows[i].name, name) == 0) return &c->val[i];
    BUG("no option --%s", name);
}

static const char *opt_str(const Cli *c, const char *name)
{
    return opt(c, name)->s;
}
static bool opt_flag(const Cli *c, const char *name)
{
    return opt(c, name)->set;
}

static int unexpected(Cli *c, u32 word)
{
    return diag_error(c->d, E_USAGE, LOC_WHAT(c->word[word]), "unexpected argument"), 2;
}

static PassOptions pass_options(const Cli *c)
{
    return (PassOptions){
        .verify_each = opt_flag(c, "verify-each"),
        .verify_numerics = opt_flag(c, "verify-numerics"),
        .dump_dir = opt_str(c, "dump-dir"),
        .print_before = opt_str(c, "print-ir-before"),
        .print_after = opt_str(c, "print-ir-after"),
        .stop_after = opt_str(c, "stop-after"),
        .bisect = opt_flag(c, "opt-bisect-limit"),
        .limit = (u32)opt(c, "opt-bisect-limit")->i,
        .reproducer = opt_str(c, "reproducer"),
    };
}

static bool print_module(Cli *c, const Module *m, const char *path)
{
    StrBuf b = {.a = c->a};
    ir_print(m, &b);
    if (path) return io_write_file(c->d, c->a, path, b.p, b.n);
    fputs(b.p, stdout);
    return true;
}

/* The pipeline of --passes, else of the recipe with the changes of --set and --without; then the
 * recipe's name says that it was changed. */
static bool choose_pipeline(Cli *c, const char *recipe, Recipe *out)
{
    const char *text = opt_str(c, "passes"), *set = opt_str(c, "set"),
               *without = opt_str(c, "without");
    if (!text) {
        if (!recipe_load(c->d, c->a, recipe, out)) return false;
        if (set) out->name = arena_printf(c->a, "%s +%s", out->name, set);
        if (without) out->name = arena_printf(c->a, "%s -%s", out->name, without);
        return pipeline_edit(c->d, c->a, set, without, &out->pipeline);
    }
    Source *src = NEW(c->a, Source);
    *src = (Source){"--passes", text, strlen(text)};
    *out = (Recipe){.name = "custom"};
    return pipeline_parse(c->d, c->a, src, &out->pipeline);
}

/* How many targets, 0 after a diagnostic. */
static u32 choose_targets(Cli *c, const FeModel *f, const char **out)
{
    const char *t = opt_str(c, "target");
    u32 n = 0;
    for (; !t && n < f->n_targets && n < MAX_TARGETS; n++)
        out[n] = f->targets[n];
    for (; t && *t && n < MAX_TARGETS; t += strcspn(t, ","), t += *t == ',')
        out[n++] = arena_strdup(c->a, t, strcspn(t, ","));
    if (t ? *t != 0 : n < f->n_targets)
        return diag_error(c->d, E_LIMIT, LOC_WHAT(t ? "--target" : "targets"),
                          "more than %d targets", MAX_TARGETS);
    if (!n) out[n++] = "cpu";
    return n;
}

typedef struct Progress {
    char what[64]; /* is going on since start */
    double start;
    u32 span;
} Progress;

static void progress(void *arg, const char *what, u64 done, u64 total)
{
    Progress *p = arg;
    if (strncmp(p->what, what, sizeof p->what - 1) != 0) {
        snprintf(p->what, sizeof p->what, "%s", what);
        p->start = now_seconds();
        p->span = span_begin(what);
    }
    if (done == total) {
        span_end(p->span, NULL);
        p->span = 0;
        p->what[0] = 0;
    }
    double t = now_seconds() - p->start,
           left = done ? t * (double)(total - done) / (double)done : 0;
    if (!isatty(2)) return;
    fprintf(stderr, "\r\x1b[K%s %3.0f %%, %.0f s left", what,
            total ? 100.0 * (double)done / (double)total : 0, left);
    if (done == total) fputs("\r\x1b[K", stderr);
}

/* What calibrating passes read. Text is read and tokenised only if the pipeline has such a pass. */
static bool calib_source(Cli *c, const FeModel *f, const TokBlob *tok, const Pipeline *p,
                         CalibSource *out)
{
    const char *effort = opt_str(c, "effort"), *prefix = opt_str(c, "prefix");
    const char *given = opt_str(c, "calibration");
    *out = (CalibSource){.bos = -1,
                         .eos = -1,
                         .cache_dir = opt_str(c, "cache"),
                         .threads = (u32)opt(c, "threads")->i,
                         .progress = progress,
                         .progress_arg = NEW(c->a, Progress)};
    if (effort && strcmp(effort, "full") == 0)
        out->effort = EFFORT_FULL;
    else if (effort && strcmp(effort, "fast") != 0)
        return diag_error(c->d, E_USAGE, LOC_WHAT("--effort"), "'%s', expected fast or full",
                          effort);
    if (!prefix && f) prefix = f->calib_prefix;
    if (prefix && !fe_prefix_ids(c->d, c->a, tok, prefix, &out->prefix)) return false;
    if (!pipeline_calibrates(p)) return true;
    if (f && !given) out->assumed = (float)f->calib_max;
    if (out->assumed > 0) {
        fprintf(stderr, "pfqc: synthetic weights: nothing is measured, activations reach %g\n",
                f->calib_max);
        return true;
    }
    if (!given && !tok->data) {
        diag_warn(c->d, LOC_WHAT("calibration"),
                  "there is no tokenizer: random tokens take the place of text");
        return true;
    }
    FeText text;
    const char *const *paths = given ? &given : f->calib_text;
    u32 n = given ? 1 : f->n_calib;
    if (!fe_text_load(c->d, c->a, tok, paths, n, true, &text)) return false;
    out->samples = f->calib_samples;
    out->length = f->calib_length;
    out->seed = f->calib_seed;
    out->tokens = text.tokens;
    out->n = text.n;
    out->bos = text.bos;
    out->eos = text.eos;
    return true;
}

static int compile(Cli *c)
{
    double start = now_seconds();
    FeModel f;
    Recipe recipe;
    const char *targets[MAX_TARGETS];
    if (!c->n_words)
        return diag_error(c->d, E_USAGE, LOC_NONE, "no model.json given"),
               diag_hint(c->d, "pfqc init CHECKPOINT writes one"), 2;
    if (c->n_words > 1) return unexpected(c, 1);
    const i64 step_rows = opt(c, "step-rows")->i;
    if (opt(c, "step-rows")->set && (step_rows < 1 || step_rows > CG_MAX_STEP_ROWS))
        return diag_error(c->d, E_USAGE, LOC_WHAT("--step-rows"), "%lld, expected 1 to %d",
                          (long long)step_rows, CG_MAX_STEP_ROWS),
               2;
    const u32 span = span_begin("model, tokenizer, text");
    bool ok = fe_model_load(c->d, c->a, c->word[0], &f);
    ok &= choose_pipeline(c,
                          ok && !opt(c, "recipe")->set ? f.recipe
                          : opt(c, "recipe")->set      ? opt_str(c, "recipe")
                                                       : "float",
                          &recipe);
    u32 n_targets = ok ? choose_targets(c, &f, targets) : 0;
    if (!n_targets || !cg_check_targets(c->d, c->a, targets, n_targets)) return 1;
    TokBlob tok = {0};
    TplBlob chat = {0};
    if (f.tokenizer &&
        (!fe_tokenizer_load(c->d, c->a, f.tokenizer, &tok) ||
         (f.chat && !fe_template_load(c->d, c->a, f.tokenizer, f.chat_template, &tok, &chat))))
        return 1;
    PassOptions po = pass_options(c);
    StrBuf log = {.a = c->a}, changes = {.a = c->a};
    CalibSource calib;
    if (!calib_source(c, &f, &tok, &recipe.pipeline, &calib)) return 1;
    if (opt_flag(c, "check")) {
        if (!calib_check(c->d, f.m, &recipe.pipeline, &calib)) return 1;
        pipeline_cut(&recipe.pipeline, NULL); /* calibration reads weights */
    }
    span_end(span, NULL);
    po.calib = &calib;
    po.log = &log;
    po.changes = &changes;
    if (!passes_run(c->d, f.m, &recipe.pipeline, &po)) return 1;
    if (po.stop_after) return print_module(c, f.m, NULL) ? 0 : 1;
    if (opt_flag(c, "check"))
        return fprintf(stderr, "pfqc: %s is valid, recipe %s\n", c->word[0], recipe.name), 0;

    CgResult res;
    FeTokenNames names;
    const bool named = fe_token_names(c->a, &tok, &names);
    CgOptions cg = {
        .out_dir = opt_str(c, "output") ? opt_str(c, "output") : "out",
        .targets = targets,
        .n_targets = n_targets,
        .embed_weights = opt_flag(c, "embed-weights") || f.embed_weights,
        .step_rows = (u32)step_rows,
        .cache_dir = opt_str(c, "cache"),
        .threads = (u32)opt(c, "threads")->i,
        .tokenizer = tok.data,
        .tokenizer_bytes = tok.n,
        .chat = chat.data,
        .chat_bytes = chat.n,
        .version = PFQC_VERSION,
        .recipe = recipe.name,
        .passes = log.p,
        .changes = changes.p,
        .token_text = named ? fe_token_text : NULL,
        .token_text_arg = &names,
        .progress = progress,
        .progress_arg = NEW(c->a, Progress),
    };
    if (!cg_compile(c->d, f.m, &cg, &res)) return 1;
    fprintf(stderr,
            "pfqc: %s (%.1f MB%s%s, weights %.1f MB), %u kernels, in %.1f s, peak %.0f MB\n",
            res.binary, (double)res.binary_bytes * 1e-6,
            res.weights ? ", weights beside it" : ", weights inside", "",
            (double)res.weight_bytes * 1e-6, res.n_kernels, now_seconds() - start,
            (double)meter_peak_anon_bytes() * 1e-6);
    return 0;
}

/* The model as the recipe makes it, up to `phases`; NULL after a diagnostic. */
static Module *before_phases(Cli *c, const FeModel *f, const TokBlob *tok, Recipe *r,
                             CalibSource *calib)
{
    PassOptions po = pass_options(c);
    pipeline_cut(&r->pipeline, "phases");
    po.calib = calib;
    if (!calib_source(c, f, tok, &r->pipeline, calib) || !passes_run(c->d, f->m, &r->pipeline, &po))
        return NULL;
    return f->m;
}

/* Perplexity of what the recipe makes of the model, without kernels. */
static int ppl(Cli *c)
{
    FeModel f, other;
    Recipe recipe, against;
    TokBlob tok = {0};
    CalibSource calib;
    FeText text;
    Ppl r;
    Module *ref = NULL;
    MappedFile logits = {0};
    const char *model = c->word[0], *name = opt_str(c, "against");
    if (c->n_words != 2)
        return diag_error(c->d, E_USAGE, LOC_NONE, "ppl takes a model.json and a text file"), 2;
    if (!fe_model_load(c->d, c->a, model, &f) ||
        !choose_pipeline(c, opt(c, "recipe")->set ? opt_str(c, "recipe") : f.recipe, &recipe) ||
        (f.tokenizer && !fe_tokenizer_load(c->d, c->a, f.tokenizer, &tok)) ||
        !fe_text_load(c->d, c->a, &tok, &c->word[1], 1, false, &text))
        return 1;
    const size_t n_name = name ? strlen(name) : 0;
    const bool saved = n_name > 7 && strcmp(name + n_name - 7, ".logits") == 0;
    if (saved && !io_map(c->d, c->a, name, &logits)) return 1;
    if (name && !saved &&
        (!recipe_load(c->d, c->a, name, &against) || !fe_model_load(c->d, c->a, model, &other) ||
         !(ref = before_phases(c, &other, &tok, &against, &calib))))
        return 1;
    if (!before_phases(c, &f, &tok, &recipe, &calib)) return 1;
    calib.tokens = text.tokens;
    calib.n = text.n;
    if (!calib_ppl(c->d, f.m, ref, saved ? &logits : NULL, &calib, opt(c, "context")->i,
                   opt(c, "chunks")->i, &r))
        return 1;
    fprintf(stderr, "pfqc: recipe %s, %.0f tokens/s, peak %.0f MB\n", recipe.name,
            (double)r.run / r.seconds, (double)meter_peak_anon_bytes() * 1e-6);
    if (name) printf("against %s: kl %.6f top1 %.4f\n", name, r.kl, r.top1);
    printf("ppl %.4f se %.4f tokens %lld\n", r.ppl, r.se, (long long)r.tokens);
    return 0;
}

static int init(Cli *c)
{
    if (c->n_words != 1)
        return diag_error(c->d, E_USAGE, LOC_NONE,
                          "init takes one checkpoint: a folder or a .gguf file"),
               2;
    FeInit in = {.checkpoint = c->word[0],
                 .output = opt_str(c, "output") ? opt_str(c, "output") : "model.json",
                 .name = opt_str(c, "name"),
                 .recipe = opt_str(c, "recipe")};
    if (!fe_init(c->d, c->a, &in)) return 1;
    fprintf(stderr, "pfqc: wrote %s\n", in.output);
    return 0;
}

static int opt_ir(Cli *c)
{
    Source *src = NEW(c->a, Source); /* diagnostics point into it until they are printed */
    Recipe r = {0};
    if (c->n_words != 1) return diag_error(c->d, E_USAGE, LOC_NONE, "opt takes one .pfir file"), 2;
    if (!io_read_text(c->d, c->a, c->word[0], 1u << 30, src)) return 1;
    const char *folder = io_dirname(c->a, c->word[0]);
    if (opt_flag(c, "run-reproducer") && !reproducer_read(c->d, c->a, src, &folder, &r.pipeline))
        return 1;
    Module *m = ir_parse(c->d, c->a, src, folder);
    PassOptions po = pass_options(c);
    CalibSource calib;
    TokBlob none = {0};
    if (!m || (opt_str(c, "passes") && !choose_pipeline(c, NULL, &r)) ||
        !calib_source(c, NULL, &none, &r.pipeline, &calib))
        return 1;
    po.calib = &calib;
    if (!passes_run(c->d, m, &r.pipeline, &po)) return 1;
    return print_module(c, m, opt_str(c, "output")) ? 0 : 1;
}

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

/* The module of a model.json, or of the one that init would write for a checkpoint. */
static Module *import(Cli *c, const char *path)
{
    FeModel f;
    if (ends_with(path, ".json")) return fe_model_load(c->d, c->a, path, &f) ? f.m : NULL;
    FeInit in = {.checkpoint = path};
    Source *src = NEW(c->a, Source);
    if (!fe_init(c->d, c->a, &in)) return NULL;
    *src = (Source){"model.json", in.text, strlen(in.text)};
    return fe_model_parse(c->d, c->a, src, ".", &f) ? f.m : NULL;
}

/* Of what a path is: a folder that pfqc wrote, a .pfir, a model.json or a checkpoint. */
static bool open_view(Cli *c, const char *path, View *out)
{
    const bool folder = io_is_dir(path), ours = io_exists(io_join(c->a, path, "plan.json"));
    const bool plan = folder ? ours || !io_exists(io_join(c->a, path, "config.json"))
                             : ends_with(path, "plan.json");
    if (plan || ends_with(path, ".pfir")) return inspect_open(c->d, c->a, path, out);
    Module *m = import(c, path);
    if (m) *out = inspect_module(m);
    return m != NULL;
}

static const InspectForm *choose_form(Cli *c)
{
    const char *name = opt_str(c, "format");
    const InspectForm *f = inspect_form;
    while (name && f->name && strcmp(f->name, name) != 0)
        f++;
    if (f->name) return f;
    diag_error(c->d, E_USAGE, LOC_WHAT("--format"), "'%s', expected html, text, json or dot", name);
    return NULL;
}

/* The page goes beside the plan.json it is made of, since it links to sources there; other forms go
 * to stdout. */
static int inspect(Cli *c)
{
    StrBuf b = {.a = c->a};
    const char *path = opt_str(c, "output"), *in = c->word[0];
    const InspectForm *form = choose_form(c);
    View v;
    if (!form) return 2;
    if (c->n_words != 1)
        return diag_error(
                   c->d, E_USAGE, LOC_NONE,
                   "inspect takes one folder that pfqc wrote, .pfir, model.json or checkpoint"),
               2;
    if (!open_view(c, in, &v)) return 1;
    if (opt_str(c, "trace") && !inspect_times(c->d, c->a, opt_str(c, "trace"), &v)) return 1;
    form->write(c->a, &v, &b);
    if (!path && form != inspect_form) return fputs(b.p, stdout), 0;
    if (!path && v.plan)
        path = io_join(c->a, io_is_dir(in) ? in : io_dirname(c->a, in), "inspect.html");
    if (!path) path = "inspect.html";
    if (!io_write_file(c->d, c->a, path, b.p, b.n)) return 1;
    fprintf(stderr, "pfqc: wrote %s (%.0f kB)\n", path, (double)b.n * 1e-3);
    return 0;
}

static int diff(Cli *c)
{
    StrBuf b = {.a = c->a};
    if (c->n_words != 2)
        return diag_error(c->d, E_USAGE, LOC_NONE, "diff takes two folders that pfqc wrote"), 2;
    if (!inspect_diff(c->d, c->a, c->word[0], c->word[1], &b)) return 1;
    fputs(b.p, stdout);
    return 0;
}

static int explain(Cli *c)
{
    const char *text = c->n_words == 1 ? err_explain(c->word[0]) : NULL;
    if (!text)
        return diag_error(c->d, E_USAGE, LOC_NONE, "explain takes one error code, such as E0105"),
               2;
    printf("%s: %s\n", c->word[0], text);
    return 0;
}

static int doc(Cli *c), man(Cli *c), completion(Cli *c);

static const struct Command {
    const char *name; /* NULL: none, the first word is a model */
    u32 bit;
    int (*run)(Cli *c);
    const char *operands, *help;
} commands[] = {
    {NULL, COMPILE, compile, "MODEL.json", "compile a model into a program"},
    {"init", INIT, init, "CHECKPOINT", "write model.json for an HF folder or a .gguf"},
    {"opt", OPT_, opt_ir, "IN.pfir",
     "run passes on a dump; without --passes: verify it and print it"},
    {"ppl", PPL, ppl, "MODEL.json FILE", "perplexity of a text, before kernels are made"},
    {"inspect", INSPECT, inspect, "PATH",
     "write a page about what was compiled into a folder, or is in a .pfir, model.json or "
     "checkpoint"},
    {"diff", DIFF, diff, "OUT OTHER", "print in what two compiles differ"},
    {"explain", EXPLAIN, explain, "CODE", "what an error code means"},
    {"doc", DOC, doc, "ops|errors|passes|pfqc|program|requests",
     "print a reference page (Markdown)"},
    {"man", MAN, man, "", "print the manual page"},
    {"completion", COMPLETION, completion, PFQ_USE_SHELLS,
     "print a script that completes pfqc's command lines"},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void help(Arena *a, u32 command)
{
    StrBuf b = {.a = a};
    for (u32 i = 0; i < N_COMMANDS; i++)
        if (command == COMPILE || command == commands[i].bit) {
            const char *name = commands[i].name, *operands = commands[i].operands;
            int n = (int)b.n;
            sb_printf(&b, "pfqc %s%s%s", name ? name : "", name && *operands ? " " : "", operands);
            sb_printf(&b, "%*s %s\n", 41 - ((int)b.n - n), "", commands[i].help);
        }
    sb_str(&b, "\n");
    options_help(&b, rows, N_OPTS, command);
    fputs(b.p, stdout);
}

/* ---- reference pages, manual page, completion: from the tables, so that none can drift ---- */

static const PfqUseText texts[] = {
    {"Environment", "Every option NAME can also be given as the variable PFQC_NAME, in capitals "
                    "and with '_' for '-'. The command line wins."},
    {"Exit status", "0: done. 1: an input is wrong; diagnostics on standard error say where and "
                    "why. 2: the command line is wrong. 70: a bug in pfqc."},
    {"Examples", "    %s init SmolLM2-135M-Instruct.Q4_1.gguf -n smollm2\n"
                 "    %s model.json -o out/\n"
                 "    out/smollm2 run -p \"The capital of France is\" -n 12"},
    {"Installing", "cmake --install puts the compiler, its manual page and completion for bash, "
                   "zsh and fish where they belong. By hand:\n\n"
                   "    %s man >~/.local/share/man/man1/%s.1\n"
                   "    %s completion bash >~/.local/share/bash-completion/completions/%s\n"
                   "    %s completion zsh >~/.zfunc/_%s    # a folder of fpath\n"
                   "    %s completion fish >~/.config/fish/completions/%s.fish"},
};

static const PfqUse *use(void)
{
    static PfqUseCommand cmds[N_COMMANDS];
    static PfqUseOption opts[N_OPTS];
    static const PfqUse out = {
        .program = "pfqc",
        .summary = "an ahead-of-time compiler for quantised language models",
        .about = "pfqc compiles one language model, a model.json that names a checkpoint, into one "
                 "program. Results go to standard output, diagnostics and progress to standard "
                 "error.",
        .command = cmds,
        .option = opts,
        .text = texts,
        .n_commands = N_COMMANDS,
        .n_options = N_OPTS,
        .n_texts = sizeof texts / sizeof *texts,
    };
    for (u32 i = 0; i < N_COMMANDS; i++)
        cmds[i] = (PfqUseCommand){commands[i].name ? commands[i].name : "", commands[i].operands,
                                  commands[i].help};
    for (u32 k = 0; k < N_OPTS; k++) {
        const OptRow *r = &rows[k];
        opts[k] = (PfqUseOption){
            .letter = r->letter, .name = r->name, .arg = r->value ? r->value : "", .help = r->doc};
        for (u32 i = 0; i < N_COMMANDS; i++)
            opts[k].commands |= (r->commands & commands[i].bit) ? 1u << i : 0;
    }
    return &out;
}

static const PfqUse *use_of_programs(void)
{
    return pfq_options_use("NAME", "what a compiled program can do");
}

static int print_use(Cli *c, void (*print)(PfqOut *out, const PfqUse *u), const PfqUse *u)
{
    static PfqOut out;
    PfqErr err;
    pfq_out_init(&out, 1);
    print(&out, u);
    if (pfq_out_finish(&out, &err)) return 0;
    return diag_error(c->d, E_FILE_WRITE, LOC_WHAT("stdout"), "%s", err.text), 1;
}

static void requests(PfqOut *out, const PfqUse *u)
{
    (void)u;
    pfq_fields_doc(out);
}

/* A test compares the pages with docs/. */
static int doc(Cli *c)
{
    StrBuf b = {.a = c->a};
    const char *which = c->n_words == 1 ? c->word[0] : "";
    sb_str(&b, "");
    if (strcmp(which, "ops") == 0)
        ir_doc_ops(&b);
    else if (strcmp(which, "errors") == 0)
        diag_doc(&b);
    else if (strcmp(which, "passes") == 0)
        passes_list(&b);
    else if (strcmp(which, "pfqc") == 0)
        return print_use(c, pfq_use_markdown, use());
    else if (strcmp(which, "program") == 0)
        return print_use(c, pfq_use_markdown, use_of_programs());
    else if (strcmp(which, "requests") == 0)
        return print_use(c, requests, NULL);
    else
        return diag_error(c->d, E_USAGE, LOC_NONE,
                          "doc takes one of: ops, errors, passes, pfqc, program, requests"),
               2;
    fputs(b.p, stdout);
    return 0;
}

static int man(Cli *c)
{
    return c->n_words ? unexpected(c, 0) : print_use(c, pfq_use_man, use());
}

static int completion(Cli *c)
{
    static PfqOut out;
    PfqErr err;
    pfq_out_init(&out, 1);
    if (c->n_words != 1 || !pfq_use_completion(&out, use(), c->word[0]))
        return diag_error(c->d, E_USAGE, LOC_NONE, "completion takes one of: bash, zsh, fish"), 2;
    if (pfq_out_finish(&out, &err)) return 0;
    return diag_error(c->d, E_FILE_WRITE, LOC_WHAT("stdout"), "%s", err.text), 1;
}

/* OpenBLAS reads the variable only when it is loaded: the program starts again. */
static void restart_with_better_blas(char **argv)
{
    const char *core = calib_better_blas();
    if (core && setenv("OPENBLAS_CORETYPE", core, 0) == 0) execv("/proc/self/exe", argv);
}

/* Also of a command line that is refused. */
static bool choose_diagnostics(Cli *c)
{
    const char *form = opt_str(c, "diagnostics");
    c->d->json = form && strcmp(form, "json") == 0;
    return !form || c->d->json || strcmp(form, "text") == 0 ||
           diag_error(c->d, E_USAGE, LOC_WHAT("--diagnostics"), "'%s', expected text or json",
                      form);
}

/* The command, and where its time went, however it ended. */
static int run_timed(Cli *c, const struct Command *cmd)
{
    const char *path = opt_str(c, "time-trace");
    StrBuf tree = {.a = c->a}, trace = {.a = c->a};
    if (opt_flag(c, "time-passes") || path) spans_start();
    const u32 span = span_begin(cmd->name ? cmd->name : "compile");
    int status = cmd->run(c);
    span_end(span, NULL);
    spans_tree(&tree);
    if (opt_flag(c, "time-passes")) fputs(tree.p, stderr);
    spans_chrome(&trace);
    if (path && !io_write_file(c->d, c->a, path, trace.p, trace.n)) status = 1;
    return status;
}

int main(int argc, char **argv)
{
    restart_with_better_blas(argv);
    Arena a = {0};
    Diag d;
    diag_init(&d, &a);
    io_install_handlers();
    meter_start();
    const struct Command *cmd = &commands[0];
    for (u32 i = 1; argc > 1 && i < N_COMMANDS; i++)
        if (strcmp(argv[1], commands[i].name) == 0) cmd = &commands[i];
    Cli c = {.d = &d, .a = &a};
    int status = 2;
    bool ok = options_parse(&d, &a, rows, N_OPTS, cmd->bit, argc, argv, cmd->name ? 2 : 1, c.val,
                            c.word, &c.n_words, MAX_WORDS);
    ok &= choose_diagnostics(&c);
    if (ok) {
        if (opt_flag(&c, "help") || argc == 1)
            help(&a, cmd->bit), status = argc == 1 ? 2 : 0;
        else if (opt_flag(&c, "version"))
            puts("pfqc " PFQC_VERSION), status = 0;
        else
            status = run_timed(&c, cmd);
    }
    /* What commands print is checked here, once for all of them. */
    if ((fflush(stdout) != 0 || ferror(stdout)) && status == 0) {
        diag_error(&d, E_FILE_WRITE, LOC_WHAT("stdout"), "cannot write");
        status = 1;
    }
    diag_flush(&d);
    io_discard_outputs();
    arena_free(&a);
    return status;
}
