/* JSON text from memory: parse; every value must lie inside its parent's text; writing strings back
 * must parse. The runtime's reader must take whatever the compiler's does, and see the same. */
#include "ir/base/json.h"
#include "runtime/json.h"
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

static const PfqJson *same(const PfqJson *r, const Json *v)
{
    static const u8 kinds[] = {
        [JSON_NULL] = 1u << PFQ_JSON_NULL,   [JSON_BOOL] = 1u << PFQ_JSON_BOOL,
        [JSON_NUMBER] = PFQ_JSON_NUMBER,     [JSON_STRING] = 1u << PFQ_JSON_STRING,
        [JSON_ARRAY] = 1u << PFQ_JSON_ARRAY, [JSON_OBJECT] = 1u << PFQ_JSON_OBJECT};
    const PfqJson *child = r + 1;
    FUZZ_REQUIRE(kinds[v->kind] & 1u << r->type);
    if (v->kind == JSON_STRING) FUZZ_REQUIRE(str_eq(v->str, (Str){r->s, r->n}) && r->s[r->n] == 0);
    if (v->kind == JSON_BOOL) FUZZ_REQUIRE(r->b == v->b);
    if (v->kind == JSON_NUMBER)
        FUZZ_REQUIRE(memcmp(&(double){pfq_json_number(r)}, &v->num, 8) == 0);
    if (r->type == PFQ_JSON_INT) FUZZ_REQUIRE(v->is_int && r->i == v->i);
    for (u32 i = 0; i < v->n; i++) {
        if (v->kind == JSON_OBJECT) {
            FUZZ_REQUIRE(str_eq(v->key[i], (Str){child->s, child->n}));
            child++;
        }
        child = same(child, &v->at[i]);
    }
    FUZZ_REQUIRE(child == r + r->span);
    return child;
}

/* The runtime's reader refuses deeper nesting, and takes duplicate keys, NULs and long numbers. */
static void in_the_runtime(const u8 *data, size_t size, const Json *root)
{
    enum { CAP = 1 << 12 };
    static PfqJson nodes[CAP];
    PfqErr err = {""};
    size_t at;
    char *text = malloc(size + 1);
    if (!text) return;
    if (size) memcpy(text, data, size);
    bool ok = pfq_json_parse(text, size, nodes, CAP, &at, &err);
    FUZZ_REQUIRE(at <= size && ok == !*err.text);
    if (ok && root) FUZZ_REQUIRE(same(nodes, root) <= nodes + CAP);
    if (!ok && root) FUZZ_REQUIRE(strstr(err.text, "values"));
    free(text);
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
    in_the_runtime(data, size, root);
    arena_free(&a);
    return 0;
}
