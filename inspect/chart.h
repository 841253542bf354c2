/* Charts as SVG inside HTML: no script, colours by classes of page.css, a title for every mark. */
#ifndef PFQC_INSPECT_CHART_H
#define PFQC_INSPECT_CHART_H

#include "ir/base/str.h"

/* Text with <, >, & and quotes escaped. */
void html_text(StrBuf *o, Str s);
/* <name class="class">text</name>; class NULL: none. */
void html_element(StrBuf *o, const char *name, const char *class, Str text);
/* "1.2 MB" */
const char *html_bytes(Arena *a, i64 bytes);

/* Lines over x = 0 .. n - 1, one a series, named at their right end. */
typedef struct ChartSeries {
    Str name;
    const double *y; /* [n]; NAN: no point */
} ChartSeries;
typedef struct ChartLines {
    const char *label, *x, *unit; /* label: what a screen reader says */
    const ChartSeries *series;
    u32 n_series, n;
    bool log; /* y */
} ChartLines;
void chart_lines(StrBuf *o, const ChartLines *c);

/* Boxes in a plane from (0, 0) to (x_most, y_most), y upwards, in bytes. */
typedef struct ChartBox {
    double x0, x1, y0, y1;
    const char *title;
    u32 colour;
} ChartBox;
void chart_boxes(StrBuf *o, const char *label, const char *x, double x_most, double y_most,
                 const ChartBox *box, u32 n);

/* Rows from one number to another on a logarithmic axis, each with its name at the left; upright
 * lines mark numbers. */
typedef struct ChartRow {
    Str name;
    double from, to; /* > 0 */
    const char *title;
    u32 colour;
} ChartRow;
typedef struct ChartMark {
    const char *name;
    double x;
} ChartMark;
void chart_rows(StrBuf *o, const char *label, const char *x, const ChartRow *row, u32 n,
                const ChartMark *mark, u32 n_marks);

#endif
