/* The forms of a view, one function each. */
#ifndef PFQC_INSPECT_FORMS_H
#define PFQC_INSPECT_FORMS_H

#include "inspect/inspect.h"

InspectWrite form_html, form_text, form_json, form_dot;

/* Names come from a file: nothing in them moves a terminal's cursor. */
void text_safe(StrBuf *o, Str s);

/* ---- text_facts.c: tables of the text form ---- */
void text_layers(StrBuf *o, Module *m);
void text_tokens(StrBuf *o, const struct Plan *p);
void text_kernels(StrBuf *o, const View *v);

#endif
