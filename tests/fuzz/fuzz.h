/* What the fuzz harnesses share. A harness is tests/fuzz/fuzz_NAME.c with one
 * LLVMFuzzerTestOneInput; CMake finds it.
 *
 * It is built twice: with replay_main.c in every build (ctest fuzz-replay/NAME: each seed, its
 * truncations, bit flips), and with libFuzzer when PFQC_FUZZ is on (ctest fuzz/NAME:
 * PFQC_FUZZ_SECONDS of fuzzing, 10 by default). Seeds are the files of tests/fuzz/corpus/NAME/ and
 * of every tests/data/ANY/NAME/. Finds are committed as seeds. A harness parses the input from
 * memory, touches everything that a successful parse hands out, and frees it all.
 */
#ifndef PFQC_TESTS_FUZZ_H
#define PFQC_TESTS_FUZZ_H

#include "ir/base/diag.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_REQUIRE(cond)                                                                         \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: violated: %s\n", __FILE__, __LINE__, #cond);                   \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* A parser either succeeds without an error or refuses with 1..most errors that have a text. */
static inline void fuzz_verdict(const Diag *d, bool ok, u32 most)
{
    FUZZ_REQUIRE(ok == (d->n_errors == 0));
    FUZZ_REQUIRE(d->n_errors <= most);
    for (u32 i = 0; i < d->msgs.n; i++)
        FUZZ_REQUIRE(d->msgs.at[i].text && d->msgs.at[i].text[0]);
}

#endif
