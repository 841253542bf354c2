/* The text form of modules (.pfir): printing, parsing, and pieces of it for messages. Grammar:
 * docs/pfir.md. Invariant, tested for every dump: print(parse(t)) == t. The text holds no comments,
 * times or absolute paths. */
#ifndef PFQC_IR_TEXT_H
#define PFQC_IR_TEXT_H

#include "ir/ir.h"

void ir_print(const Module *m, StrBuf *out);
/* NULL after diagnostics (E_IR_SYNTAX, E_IR_VERIFY). File paths in the text are relative to dir. */
Module *ir_parse(Diag *d, Arena *a, const Source *src, const char *dir);

/* For messages; the strings live in the module's arena. */
bool ir_name_char(char c); /* may appear in an unquoted name */
const char *ir_op_text(Module *m, const Op *op);
const char *ir_type_text(Module *m, const Type *t);

/* Of every value of a function, the name that a dump gives it: [m->values.n], NULL for others. */
const char **ir_value_names(const Module *m, u32 fn, Arena *a);

void ir_doc_ops(StrBuf *b); /* docs/ops.md */

#endif
