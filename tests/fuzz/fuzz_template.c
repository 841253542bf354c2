/* Chat templates: parser and executor. Input: a template, and after a NUL byte (if any) the context
 * as JSON. A template that is accepted renders within its limits or refuses with a sentence; then
 * its blob is damaged, a byte at a time chosen by the input, and must be refused or do no harm. */
#include "frontend/template.h"
#include "runtime/image.h"
#include "tests/fuzz/fuzz.h"

static const char context[] =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"a <b> \\u00e9\\n\"}, {\"role\": "
    "\"assistant\", \"content\": null, \"tool_calls\": [{\"function\": {\"name\": \"f\", "
    "\"arguments\": {\"x\": [1, 2.5, true]}}}]}], \"tools\": null, \"add_generation_prompt\": "
    "true, "
    "\"s\": \"Hello\", \"l\": [3, 1, 2], \"d\": {\"a\": 1, \"b\": {\"c\": []}}, \"n\": 5}";

static void render(const u8 *blob, size_t n, const char *json, size_t n_json)
{
    static const PfqTplLimits limits = {20000, 1 << 16, 300};
    PfqTemplate t;
    PfqMem m;
    PfqVal c, v;
    PfqErr err = {{0}};
    if (pfq_tpl_open(&t, blob, n)) return;
    pfq_mem_init(&m, 4 << 20);
    if (!pfq_val_json(&m, json, n_json, &c, &err) &&
        !pfq_val_json(&m, context, sizeof context - 1, &c, &err))
        abort();
    if (pfq_tpl_render(&t, 0, c, &limits, 0, &m, &v, &err))
        FUZZ_REQUIRE(v.kind == PFQ_V_STR && v.n <= limits.output && v.s[v.n] == 0);
    else
        FUZZ_REQUIRE(err.text[0]);
    pfq_mem_free(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Arena a = {0};
    Diag d;
    TplBlob b;
    TplSet set = {0};
    const u8 *nul = size ? memchr(data, 0, size) : NULL;
    const size_t n = nul ? (size_t)(nul - data) : size;
    const char *json = nul ? (const char *)nul + 1 : "";
    const size_t n_json = nul ? size - n - 1 : 0;
    Source src = {"t.jinja", (const char *)data, n};
    if (n > 1 << 14) return 0;
    diag_init(&d, &a);
    vec_push(&a, &set.text, ((TplText){STR("default"), &src}));
    const bool ok = fe_template_compile(&d, &a, &set, &b);
    fuzz_verdict(&d, ok, DIAG_MAX);
    if (ok) {
        render(b.data, b.n, json, n_json);
        u8 *copy = malloc(b.n); /* exactly its size, for AddressSanitizer */
        FUZZ_REQUIRE(copy);
        memcpy(copy, b.data, b.n);
        for (size_t i = 0; i + 2 < size && i < 12; i += 3)
            copy[(data[i] | (size_t)data[i + 1] << 8) % b.n] = data[i + 2];
        render(copy, b.n, json, n_json);
        free(copy);
    }
    arena_free(&a);
    return 0;
}
