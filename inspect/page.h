/* What the sections of the page share. Internal to inspect/. */
#ifndef PFQC_INSPECT_PAGE_H
#define PFQC_INSPECT_PAGE_H

#include "inspect/graph.h"
#include "inspect/inspect.h"
#include "inspect/plan.h"

typedef struct Page {
    Arena *a;
    StrBuf *o;
    const View *v;
    const Plan *p; /* NULL: there is none */
    Graph *g;      /* of the function that is shown (a token's); NULL: there is no module */
    Map values;    /* of g, by name */
    Map shown;     /* steps that page_graph gave an id, as text */
} Page;

/* s between two pieces of markup, escaped. */
void page_text(Page *g, const char *before, Str s, const char *after);
/* Cells of a table: a number; a bar, part of the row's width (0..1). */
void page_number(Page *g, i64 v);
void page_bar(Page *g, double part);

/* ---- page_layers.c ---- */
const char *page_prefix(Page *g); /* 260 " the", 198 "\n" */
void page_types(Page *g);
void page_quality(Page *g);
void page_outliers(Page *g);

/* ---- page_memory.c ---- */
void page_memory(Page *g);

/* ---- page_passes.c ---- */
void page_passes(Page *g);

/* ---- page_graph.c ---- */
void page_graph(Page *g);
void page_diagram(Page *g);

/* ---- page_kernels.c ---- */
void page_weights(Page *g);
void page_kernels(Page *g);
void page_roofline(Page *g);

#endif
