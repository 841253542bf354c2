/* What the charts' files share: the frame of a chart of the usual size, its axes. Internal to
 * chart*.c. */
#ifndef PFQC_INSPECT_CHART_INT_H
#define PFQC_INSPECT_CHART_INT_H

#include "inspect/chart.h"

enum {
    WIDTH = 720,
    HEIGHT = 280,
    LEFT = 56,
    RIGHT = 150,
    TOP = 26,
    BOTTOM = 34,
    COLOURS = 8,
    ROW = 22, /* of charts with a name a row */
    NAMES = 230,
    MAX_NAME = 34
};

typedef struct Axis {
    double lo, hi, step; /* log: powers of ten */
    bool log;
} Axis;

Axis axis_of(double lo, double hi, bool log);
double axis_place(const Axis *y, double v); /* from the top of the chart */
void axis_grid(StrBuf *o, const Axis *y, double right,
               const char *(*text)(Arena *a, const Axis *y, double v));
const char *axis_number(Arena *a, const Axis *y, double v);
/* Numbers under x = 0 .. n - 1, some left out; place(user, i) is from the left. */
void axis_x(StrBuf *o, u32 n, double y, double (*place)(const void *user, u32 i), const void *user);

void chart_begin(StrBuf *o, const char *label, double height);
void chart_x_name(StrBuf *o, double middle, double y, const char *name);
double chart_text_width(Str s); /* about: no font is known */
/* The name at the left of a row. */
void chart_row_name(StrBuf *o, double middle, Str name);

#endif
