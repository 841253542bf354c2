/* Architecture descriptions: frontend/arch/NAME.json, embedded in pfqc. The format is
 * docs/arch-json.md.
 *
 * A description says how a family is recognised, where its dimensions and settings stand in a
 * Hugging Face config or in GGUF metadata, what is supported, what the tensors are called, and what
 * the graph is. It may patch another one
 * ("base", RFC 7396). Nothing about a family is written in C.
 * fe_arch_open chooses the description for a checkpoint and evaluates its values; init.c writes
 * model.json from it.
 */
#ifndef PFQC_FRONTEND_ARCH_H
#define PFQC_FRONTEND_ARCH_H

#include "frontend/checkpoint.h"
#include "frontend/expr.h"

/* What an architecture is matched against and reads from: exactly one of config and gguf is set. */
typedef struct FeOrigin {
    const Source *config_src;
    const Json *config; /* config.json of a Hugging Face folder */
    const Gguf *gguf;
    Checkpoint *ck;
} FeOrigin;

typedef struct FeEntry { /* a dim or a let; evaluated when it is first needed */
    const char *name;
    Str expr;
    bool is_dim;
    enum { FE_TODO, FE_BUSY, FE_DONE } state;
    FeVal val;
} FeEntry;

typedef struct FeArch {
    Diag *d;
    Arena *a;
    const FeOrigin *from;
    const char *name;
    const Json *root; /* the description, merged with its bases */
    Map names;        /* dims and lets -> index into entries */
    VEC(FeEntry) entries;
    VEC(const char *) known; /* the same names, for hints */
    bool ok;                 /* no value failed */
    FeEnv env;               /* dims, lets, config.*, gguf.*, exists() and so on */
} FeArch;

/* Finds the description of the checkpoint's family and evaluates dims, lets and requirements.
 * E_ARCH_UNKNOWN, E_CONFIG_UNSUPPORTED. */
bool fe_arch_open(Diag *d, Arena *a, const FeOrigin *from, FeArch *out);

/* The value of a description's key for this origin: "both", else "hf" or "gguf", else the value
 * itself when it is no object with such keys; NULL if there is none. */
const Json *fe_arch_pick(const FeArch *arch, const Json *v);
/* Evaluates an expression of the description. */
bool fe_arch_eval(const FeArch *arch, const char *where, Str text, FeVal *out);

/* Names of the families, in order, as "llama, mistral, ..."; and the descriptions themselves (name,
 * text). */
const char *fe_arch_list(Arena *a);
typedef struct FeArchFile {
    const char *name, *text;
    u64 n;
} FeArchFile;
extern const FeArchFile fe_arch_files[]; /* ends with a NULL name */

#endif
