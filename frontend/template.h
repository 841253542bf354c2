/* Chat templates: from the Jinja text that ships with a checkpoint to the blob that
 * runtime/template.h executes.
 *
 * Where they are found: chat_template.jinja (and additional_chat_templates/NAME.jinja), or "chat_template" of tokenizer_config.json (one
 * template, or a list of named ones), or chat_template.json, beside the tokenizer; or
 * tokenizer.chat_template (and .NAME) of a GGUF file. The language is Jinja 3.1 as transformers
 * sets it up; what is not supported is refused at its place in the template
 * (E_TEMPLATE_UNSUPPORTED), as is what Jinja itself would refuse (E_TEMPLATE). All input is
 * hostile. The blob lives in the arena and is deterministic.
 */
#ifndef PFQC_FRONTEND_TEMPLATE_H
#define PFQC_FRONTEND_TEMPLATE_H

#include "frontend/tokenizer.h"
#include "runtime/template.h"

enum { TPL_MAX_TEMPLATES = 16, TPL_MAX_TEXT = 1 << 20, TPL_MAX_NEST = 64 };

typedef struct TplText { /* one named template */
    Str name;            /* "default" */
    const Source *src;
} TplText;

typedef struct TplToken { /* a special token that templates may name */
    Str name, text;       /* "bos_token", "<s>" */
} TplToken;

typedef struct TplSet {
    VEC(TplText) text;
    VEC(TplToken) token;
} TplSet;

typedef struct TplBlob {
    const u8 *data; /* 8-byte aligned; pfq_tpl_open accepts it. NULL: there is no template */
    size_t n;
} TplBlob;

bool fe_template_compile(Diag *d, Arena *a, const TplSet *set, TplBlob *out);

/* The templates of the tokenizer at `tokenizer` (as fe_tokenizer_load takes it), or, if `file` is
 * not NULL, of that file: Jinja text, or a JSON with "chat_template". `tok` gives the special
 * tokens that no file names. out->data is NULL if there are none. */
bool fe_template_load(Diag *d, Arena *a, const char *tokenizer, const char *file,
                      const TokBlob *tok, TplBlob *out);

#endif
