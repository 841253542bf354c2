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

/* Appends one op as a dump has it, without the end of its line. names: ir_value_names of its
 * function, NULL for constants. Lists of more than list_most numbers are shortened to "[1, 2, ...
 * 576]", which is not read back; 0: none is. */
void ir_print_op(const Module *m, const char **names, const Op *op, u32 list_most, StrBuf *b);

/* Appends an integer or a finite float as JSON has it; false for all else. */
bool ir_json_number(StrBuf *b, const KeyVal *kv);

void ir_doc_ops(StrBuf *b); /* docs/ops.md */

#endif
