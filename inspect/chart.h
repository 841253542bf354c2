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

/* Columns over x = 0 .. n - 1 of a logarithmic axis: shades say how many of something lie where,
 * points are single ones, of which those that are named and find room are labelled. */
typedef struct ChartPoint {
    u32 x;
    double y;         /* > 0 */
    Str name, detail; /* its title */
    bool named;       /* the name is written, where there is room */
} ChartPoint;
typedef struct ChartSpread {
    const char *label, *x, *unit;
    u32 n, bins;
    const i64 *count;   /* [n, bins] */
    double first, step; /* bin b is from first * step^b to first * step^(b + 1) */
    double lo, hi;      /* of the axis */
    double mark;        /* a dashed line; 0: none */
    const char *mark_name;
    const ChartPoint *point; /* [n_points], those first whose names matter most */
    u32 n_points, colour;
} ChartSpread;
void chart_spread(StrBuf *o, const ChartSpread *c);

/* Rows of runs over x = 0 .. n - 1: a box for each stretch of equal words, with the word in it. */
typedef struct ChartRuns {
    const char *label, *x;
    u32 n, n_rows;
    const Str *name;         /* [n_rows] */
    const char *const *word; /* [n_rows, n]; NULL: nothing there */
    u32 (*colour)(const char *word);
} ChartRuns;
void chart_runs(StrBuf *o, const ChartRuns *c);

/* Boxes in a plane, y upwards, in bytes; x is divided into spans one behind the other from 0 on. */
typedef struct ChartBox {
    double x0, x1, y0, y1;
    Str name; /* written where there is room */
    const char *title;
    u32 colour;
} ChartBox;
typedef struct ChartSpan {
    double x0, x1;
    const char *name;
} ChartSpan;
void chart_boxes(StrBuf *o, const char *label, const char *x, const ChartBox *box, u32 n,
                 const ChartSpan *span, u32 n_spans);

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
