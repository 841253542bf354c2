/* Counters and their text. Contract: metrics.h. */
#include "runtime/metrics.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum Type { COUNTER, GAUGE, SECONDS, TIMES } Type;

static const char *const type_names[] = {
    [COUNTER] = "counter", [GAUGE] = "gauge", [SECONDS] = "counter", [TIMES] = "histogram"};

static const struct {
    Type type;
    const char *name, *help;
} rows[PFQ_N_METRICS] = {
#define METRIC(id, type, name, help) {type, name, help},
#include "runtime/metrics.def"
};

void pfq_metric_add(PfqMetrics *m, PfqMetric metric, int64_t n)
{
    atomic_fetch_add_explicit(&m->at[metric].n, n, memory_order_relaxed);
}

static double bound(int bucket)
{
    return ldexp(1e-3, bucket);
}

void pfq_metric_time(PfqMetrics *m, PfqMetric metric, double seconds)
{
    int i = 0;
    pfq_metric_add(m, metric, llround(1e6 * seconds));
    if (rows[metric].type == TIMES) {
        while (i < PFQ_TIMES_BUCKETS - 1 && seconds > bound(i)) {
            i++;
        }
        atomic_fetch_add_explicit(&m->at[metric].bucket[i], 1, memory_order_relaxed);
    }
}

static void print_times(FILE *f, const PfqMetrics *m, int row)
{
    int64_t n = 0;
    for (int i = 0; i < PFQ_TIMES_BUCKETS; i++) {
        n += m->at[row].bucket[i];
        fprintf(f, "%s_bucket{le=\"", rows[row].name);
        fprintf(f, i < PFQ_TIMES_BUCKETS - 1 ? "%g" : "+Inf", bound(i));
        fprintf(f, "\"} %" PRId64 "\n", n);
    }
    fprintf(f, "%s_sum %.6f\n%s_count %" PRId64 "\n", rows[row].name, 1e-6 * (double)m->at[row].n,
            rows[row].name, n);
}

char *pfq_metrics_text(const PfqMetrics *m, size_t *n)
{
    char *text = NULL;
    FILE *f = open_memstream(&text, n);
    for (int i = 0; f && i < PFQ_N_METRICS; i++) {
        const int name = (int)strcspn(rows[i].name, "{");
        if (*rows[i].help) {
            fprintf(f, "# HELP %.*s %s\n# TYPE %.*s %s\n", name, rows[i].name, rows[i].help, name,
                    rows[i].name, type_names[rows[i].type]);
        }
        if (rows[i].type == TIMES) {
            print_times(f, m, i);
        } else if (rows[i].type == SECONDS) {
            fprintf(f, "%s %.6f\n", rows[i].name, 1e-6 * (double)m->at[i].n);
        } else {
            fprintf(f, "%s %" PRId64 "\n", rows[i].name, (int64_t)m->at[i].n);
        }
    }
    if (!f || fclose(f) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
