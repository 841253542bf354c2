/* The forms of a view, one function each. */
#ifndef PFQC_INSPECT_FORMS_H
#define PFQC_INSPECT_FORMS_H

#include "inspect/inspect.h"

InspectWrite form_html, form_text, form_json, form_dot;

#endif
