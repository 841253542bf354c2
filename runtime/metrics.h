/* Counters of the server, from the table metrics.def. Any thread adds to them; the printed text is
 * of no single moment. A zeroed PfqMetrics is ready. */
#ifndef PFQC_RUNTIME_METRICS_H
#define PFQC_RUNTIME_METRICS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

typedef enum PfqMetric {
#define METRIC(id, type, name, help) PFQ_METRIC_##id,
#include "runtime/metrics.def"
    PFQ_N_METRICS
} PfqMetric;

enum { PFQ_TIMES_BUCKETS = 16 }; /* of a histogram: 1 ms * 2^i, the last is +Inf */

typedef struct PfqMetrics {
    struct {
        _Atomic int64_t n; /* a histogram: of its observations, in microseconds */
        _Atomic int64_t bucket[PFQ_TIMES_BUCKETS];
    } at[PFQ_N_METRICS];
} PfqMetrics;

void pfq_metric_add(PfqMetrics *m, PfqMetric metric, int64_t n); /* COUNTER, GAUGE (also < 0) */
void pfq_metric_time(PfqMetrics *m, PfqMetric metric, double seconds); /* SECONDS, TIMES */

/* The text, malloc'ed, *n bytes; NULL when out of memory. */
char *pfq_metrics_text(const PfqMetrics *m, size_t *n);

#endif
