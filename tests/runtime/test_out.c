/* Progress: what is shown, and when. */
#include "runtime/out.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* What is written to standard error, which is a pipe, by one call at `seconds` after the start. */
static const char *shown(PfqProgress p, double seconds, int64_t done)
{
    static char text[512];
    int ends[2];
    const int old = dup(2);
    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], 2);
    close(ends[1]);
    p.start -= seconds;
    p.shown -= seconds;
    pfq_progress(&p, done, 10, "note");
    pfq_progress_end(&p);
    dup2(old, 2);
    close(old);
    const ssize_t n = read(ends[0], text, sizeof text - 1);
    close(ends[0]);
    assert_true(n >= 0);
    text[n] = 0;
    return text;
}

static void lines_and_silence(void **unused)
{
    (void)unused;
    static const struct {
        bool tty, quiet;
        double seconds;
        int64_t done;
        const char *want; /* a part of it; "" for nothing */
    } cases[] = {
        {false, false, 4.9, 5, ""},       {false, false, 6, 5, "5/10  ETA 0:06  note\n"},
        {false, true, 1.9, 5, ""},        {false, true, 6, 5, "5/10  ETA 0:06  note\n"},
        {true, false, 0.2, 5, "\r"},      {true, true, 1.9, 5, ""},
        {true, true, 2.1, 5, "ETA 0:02"}, {true, true, 1.9, 10, ""},
        {true, false, 0, 10, "10/10"},    {true, false, 6, 0, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        PfqProgress p;
        (cases[i].quiet ? pfq_progress_start_quiet : pfq_progress_start)(&p, "loading");
        p.tty = cases[i].tty;
        const char *got = shown(p, cases[i].seconds, cases[i].done);
        assert_true(*cases[i].want ? strstr(got, cases[i].want) != NULL : !*got);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(lines_and_silence)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
