/* JSON text from memory: parse; every value must lie inside its parent's text; writing strings back
 * must parse. */
#include "ir/base/json.h"
#include "tests/fuzz/fuzz.h"

static void walk(const Source *src, const Json *v, const Json *parent)
{
    FUZZ_REQUIRE(v->len && (u64)v->off + v->len <= src->n);
    if (parent) FUZZ_REQUIRE(v->off > parent->off && v->off + v->len < parent->off + parent->len);
    if (v->kind == JSON_STRING) FUZZ_REQUIRE(utf8_valid(v->str) && src->text[v->off] == '"');
    if (v->kind == JSON_NUMBER && v->is_int && v->i > -(1ll << 53) && v->i < 1ll << 53)
        FUZZ_REQUIRE((double)v->i <= v->num && (double)v->i >= v->num);
    for (u32 i = 0; i < v->n; i++) {
        walk(src, &v->at[i], v);
        if (v->kind == JSON_OBJECT && strlen(v->key[i].p) == v->key[i].n)
            FUZZ_REQUIRE(json_get(v, v->key[i].p) == &v->at[i]);
    }
}

/* The pull reader must see what the tree holds; cJSON decoded the tree's strings, pfqc's own code
 * these. */
static void pull(JsonPull *j, const Json *v)
{
    JsonKind kind;
    Loc loc;
    Str s;
    bool more;
    FUZZ_REQUIRE(json_pull_peek(j, &kind, &loc) && kind == v->kind && loc.off == v->off);
    if (kind == JSON_STRING) {
        FUZZ_REQUIRE(json_pull_str(j, &s, &loc) && str_eq(s, v->str) && loc.len == v->len);
    } else if (kind == JSON_NUMBER) {
        FUZZ_REQUIRE(json_pull_number(j, &s, &loc) && loc.off == v->off && loc.len == v->len);
    } else if (kind == JSON_BOOL || kind == JSON_NULL) {
        j->p += v->len;
    } else {
        char close = kind == JSON_OBJECT ? '}' : ']';
        j->p++;
        for (u32 i = 0; i < v->n; i++) {
            FUZZ_REQUIRE(json_pull_more(j, i == 0, close, &more) && more);
            if (kind == JSON_OBJECT)
                FUZZ_REQUIRE(json_pull_key(j, &s, &loc) && str_eq(s, v->key[i]));
            pull(j, &v->at[i]);
        }
        FUZZ_REQUIRE(json_pull_more(j, v->n == 0, close, &more) && !more);
    }
}

static void round_trip(Arena *a, const Json *v)
{
    Diag d;
    StrBuf b = {.a = a};
    diag_init(&d, a);
    sb_json_str(&b, v->str);
    Source src = {"string.json", b.p, b.n};
    const Json *again = json_parse(&d, a, &src);
    FUZZ_REQUIRE(again && again->kind == JSON_STRING && str_eq(again->str, v->str));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Arena a = {0};
    Diag d;
    Source src = {"fuzz.json", (const char *)data, size};
    diag_init(&d, &a);
    const Json *root = json_parse(&d, &a, &src);
    fuzz_verdict(&d, root != NULL, 1);
    if (root) {
        JsonPull j;
        walk(&src, root, NULL);
        FUZZ_REQUIRE(json_pull_init(&j, &d, &a, &src));
        pull(&j, root);
        FUZZ_REQUIRE(json_pull_end(&j));
    }
    if (root && root->kind == JSON_STRING) round_trip(&a, root);
    arena_free(&a);
    return 0;
}
