/* What this CPU can do, and which of the compiled variants runs on it. Called once, before any
 * kernel. */
#ifndef PFQC_RUNTIME_CPU_H
#define PFQC_RUNTIME_CPU_H

#include "runtime/abi.h"
#include "runtime/image.h"

/* PFQ_CPU_* bits that the CPU has and the operating system saves. Asks the kernel for AMX where
 * present. */
uint32_t pfq_cpu_features(void);

/* Writes the names of the bits, separated by spaces ("none" for 0). */
void pfq_cpu_names(uint32_t features, char *out, size_t cap);

/* The first variant that `have` covers, or the one called `forced` if not NULL; NULL and a sentence
 * if there is none. */
const PfqVariant *pfq_cpu_variant(const PfqModel *m, uint32_t have, const char *forced,
                                  PfqErr *err);

#endif
