/* model.json -> a module of the IR, and the choices that go with it. The format is
 * docs/model-json.md.
 *
 * fe_model_load reads model.json, the headers of its weight files and nothing else: no weight data,
 * no tokenizer. So it is all that `pfqc --check` needs, and takes well under a second for an 8B
 * model. The module's function is
 * @main(tokens: i32[T], pos: i32[T]) -> f32[T, vocab]; dims become metadata ("L" as "layers"),
 * beside "arch" and "params". As many errors as possible are reported in one run, each with its
 * place in model.json. Everything lives in the arena; the weight files stay mapped until
 * fe_model_close. Not here: making a model.json (init.h), compiling the tokenizer (tok.h), what a
 * recipe does (passes/).
 */
#ifndef PFQC_FRONTEND_MODEL_H
#define PFQC_FRONTEND_MODEL_H

#include "frontend/weights.h"

/* What `pfqc init` writes and what a model.json without "recipe" means. */
#define FE_DEFAULT_RECIPE "prefixquant-w4a8kv4-dynamic"

typedef struct FeModel {
    Module *m;
    FeWeights weights;
    const char *name;           /* of the program: out/NAME */
    const char *dir;            /* folder of model.json: relative paths start there */
    const char *tokenizer;      /* path to open, NULL if the model has none */
    bool chat;                  /* false: make the program without chat templates */
    const char *chat_template;  /* path of one to take; NULL: those beside the tokenizer */
    const char *recipe;         /* name, or path to open when it ends in .json */
    const char *const *targets; /* [n_targets], at least one */
    u32 n_targets;
    const char *const *calib_text; /* [n_calib] paths to open */
    u32 n_calib;
    i64 calib_seed, calib_samples,
        calib_length; /* samples and tokens per sample; 0: the recipe's default */
    double calib_max; /* of synthetic weights: the magnitude that activations are taken to have */
    const char *calib_prefix; /* as --prefix; NULL: not given */
    bool embed_weights;       /* append the weights to the binary */
} FeModel;

bool fe_model_load(Diag *d, Arena *a, const char *path, FeModel *out);
/* The same for a text in memory; relative paths start at dir. */
bool fe_model_parse(Diag *d, Arena *a, const Source *src, const char *dir, FeModel *out);
void fe_model_close(FeModel *model); /* unmaps; also right after a failed load */

bool fe_name_ok(
    Str s); /* a model name: letters, digits, '.', '_', '-', first a letter or digit, at most 64 */

#endif
