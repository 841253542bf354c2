/* A line of pipeline text, then a module as .pfir: the pipeline refuses or runs; the passes refuse
 * the module or leave one that is valid and prints and parses the same. */
#include "ir/text.h"
#include "passes/passes.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_calib.h"

enum { MAX_OPS = 400 }; /* larger modules only take longer */

static u32 ops_of(const Module *m)
{
    u32 n = m->consts.n;
    for (u32 f = 1; f < m->fns.n; f++)
        n += m->fns.at[f].body.n;
    return n;
}

static void check_result(Diag *d, Arena *a, Module *m)
{
    StrBuf once = {.a = a}, twice = {.a = a};
    FUZZ_REQUIRE(ir_verify(d, m));
    ir_print(m, &once);
    const Source src = {"dump", once.p, once.n};
    Module *again = ir_parse(d, a, &src, ".");
    FUZZ_REQUIRE(again);
    ir_print(again, &twice);
    FUZZ_REQUIRE(once.n == twice.n && memcmp(once.p, twice.p, once.n) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data, *end = size ? memchr(text, '\n', size) : NULL;
    size_t line = end ? (size_t)(end - text) : size;
    Arena a = {0};
    Diag d;
    diag_init(&d, &a);
    const Source pipe = {"pipeline", text, line};
    Pipeline p = {0};
    bool ok = pipeline_parse(&d, &a, &pipe, &p);
    fuzz_verdict(&d, ok, UINT32_MAX);
    if (ok && end && p.calls.n <= 16) {
        char *rest = arena_strdup(&a, end + 1, size - line - 1);
        const Source src = {"module", rest, size - line - 1};
        Module *m = ir_parse(&d, &a, &src, ".");
        const PassOptions o = {.verify_each = true, .calib = &fuzz_calib};
        if (m && ops_of(m) <= MAX_OPS && fuzz_calib_ok(m, &p) && passes_run(&d, m, &p, &o))
            check_result(&d, &a, m);
    }
    arena_free(&a);
    return 0;
}
