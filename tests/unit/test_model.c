/* model.json: a sample and a synthetic model load and give the module they should; every error has its code, its
 * place in the text and a sentence; an 8B model is checked in well under a second. */
#include "frontend/frontend.h"
#include "ir/eval.h"
#include "ir/text.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

typedef struct Fixture {
    Arena a;
    Diag d;
    FeModel m;
    Source src;
} Fixture;

static bool parse(Fixture *f, const char *text)
{
    *f = (Fixture){.src = {"model.json", text, strlen(text)}};
    diag_init(&f->d, &f->a);
    return fe_model_parse(&f->d, &f->a, &f->src, ".", &f->m);
}

static void must_parse(Fixture *f, const char *text)
{
    bool ok = parse(f, text) && ir_verify(&f->d, f->m.m);
    diag_flush(&f->d);
    assert_true(ok);
}

static void done(Fixture *f)
{
    fe_model_close(&f->m);
    arena_free(&f->a);
}

static void test_sample(void **state)
{
    (void)state;
    Fixture f = {0};
    diag_init(&f.d, &f.a);
    bool ok = fe_model_load(&f.d, &f.a, "samples/tinystories/model.json", &f.m) && ir_verify(&f.d, f.m.m);
    diag_flush(&f.d);
    assert_true(ok);
    assert_string_equal(f.m.name, "tinystories");
    assert_string_equal(f.m.recipe, FE_DEFAULT_RECIPE);
    assert_string_equal(f.m.tokenizer, "samples/tinystories/tokenizer.json");
    assert_int_equal(ir_meta_get_int(f.m.m, "layers", 0), 2);
    assert_int_equal(ir_meta_get_int(f.m.m, "params", 0), 656000);
    const Fn *fn = ir_fn(f.m.m, "main");
    assert_int_equal(fn->body.n, 1 + 2 * 20 + 2);
    assert_int_equal(f.m.m->consts.n, 2 + 2 * 9 + 1); /* frequencies, tied embedding, weights, final norm */
    done(&f);
}

/* One layer of everything the format has, over synthetic weights. */
static const char base[] =
    "{\"pfqc\": 1, \"name\": \"toy\", \"note\": \"all of the format\",\n"
    " \"weights\": {\"synthetic\": 7, \"scale\": 0.25},\n"
    " \"dims\": {\"L\": 2, \"hidden\": 8, \"heads\": 2, \"kv_heads\": 1, \"head_dim\": \"hidden/heads\", \"vocab\": 16, \"context\": 32},\n"
    " \"tensors\": {\"emb\": [\"vocab\", \"hidden\"], \"blk.{l}.qkv\": [\"(heads+2*kv_heads)*head_dim\", \"hidden\"], \"blk.{l}.norm\": [\"hidden\"]},\n"
    " \"graph\": [\n"
    "  {\"id\": \"freqs\", \"op\": \"rope_freqs\", \"dim\": \"head_dim\"},\n"
    "  {\"id\": \"x\", \"op\": \"embedding\", \"in\": [\"tokens\", \"@emb\"]},\n"
    "  {\"repeat\": \"l\", \"count\": \"L\", \"carry\": {\"x\": \"y\"}, \"nodes\": [\n"
    "   {\"id\": \"n\", \"op\": \"rmsnorm\", \"in\": [\"x\", \"@blk.{l}.norm\"], \"eps\": [1e-5, 1e-6]},\n"
    "   {\"id\": \"q\", \"op\": \"linear\", \"in\": [\"n\", {\"op\": \"slice\", \"in\": [\"@blk.{l}.qkv\"], \"axis\": 0, \"begin\": 0, \"end\": \"hidden\"}]},\n"
    "   {\"id\": \"k\", \"op\": \"linear\", \"in\": [\"n\", {\"op\": \"slice\", \"in\": [\"@blk.{l}.qkv\"], \"axis\": 0, \"begin\": \"hidden\", \"end\": \"hidden+head_dim\"}]},\n"
    "   {\"id\": \"qh\", \"op\": \"reshape\", \"in\": [\"q\"], \"shape\": [\"T\", \"heads\", \"head_dim\"]},\n"
    "   {\"id\": \"kh\", \"op\": \"reshape\", \"in\": [\"k\"], \"shape\": [\"T\", \"kv_heads\", \"head_dim\"]},\n"
    "   {\"id\": \"qr\", \"op\": \"rope\", \"in\": [\"qh\", \"pos\", \"freqs\"]},\n"
    "   {\"id\": \"a\", \"op\": \"attention\", \"in\": [\"qr\", \"kh\", \"kh\", \"pos\"], \"cache\": \"l\", \"scale\": \"1/sqrt(head_dim)\", \"window\": [4, 0]},\n"
    "   {\"id\": \"m\", \"op\": \"reshape\", \"in\": [\"a\"], \"shape\": [\"T\", \"hidden\"]},\n"
    "   {\"id\": \"y\", \"op\": \"add\", \"in\": [\"x\", \"m\"]}]},\n"
    "  {\"id\": \"logits\", \"op\": \"linear\", \"in\": [\"x\", \"@emb\", null]}],\n"
    " \"recipe\": \"float\", \"targets\": [\"cpu\", \"cpu:x86-64-v3\"], \"calibration\": {\"text\": [\"a.txt\"], \"prefix\": [3, 0], \"seed\": 3}, \"options\": {\"embed_weights\": true}}\n";

static void test_synthetic(void **state)
{
    (void)state;
    Fixture f;
    must_parse(&f, base);
    assert_int_equal(f.m.n_targets, 2);
    assert_string_equal(f.m.targets[1], "cpu:x86-64-v3");
    assert_string_equal(f.m.calib_text[0], "a.txt");
    assert_int_equal(f.m.calib_seed, 3);
    assert_true(f.m.calib_max == 8);
    assert_string_equal(f.m.calib_prefix, "3,0");
    assert_true(f.m.embed_weights);
    assert_null(f.m.tokenizer);
    StrBuf b = {.a = &f.a};
    ir_print(f.m.m, &b);
    static const char *const lines[] = {
        "@emb = synthetic {scale = 0.25, seed = 7, stream = 1} : f32[16,8]\n",
        "@blk.1.qkv.slice = slice @blk.1.qkv {axis = 0, begin = 0, end = 8, layer = 1} : f32[8,8]\n",
        "%n.1 = rmsnorm %y.0, @blk.1.norm {eps = 1e-06, layer = 1} : f32[T,8]\n",
        "%a.0 = attention %qr.0, %kh.0, %kh.0, %pos {cache = 0, scale = 0.5, window = 4, layer = 0} : f32[T,2,4]\n",
        "%a.1 = attention %qr.1, %kh.1, %kh.1, %pos {cache = 1, scale = 0.5, layer = 1} : f32[T,2,4]\n",
        "%logits = linear %y.1, @emb : f32[T,16]\n",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!strstr(b.p, lines[i])) fail_msg("no line %s in:\n%s", lines[i], b.p);
    Source again = {"toy.pfir", b.p, b.n};
    Module *m = ir_parse(&f.d, &f.a, &again, ".");
    StrBuf c = {.a = &f.a};
    assert_non_null(m);
    ir_print(m, &c);
    assert_string_equal(b.p, c.p);
    Eval *e = eval_new(&f.d, f.m.m, true);
    Tensor t;
    assert_true(eval_model(e, (const i32[]){1, 2, 3}, 3, 0, true, false, &t));
    assert_int_equal(t.dim[0], 3);
    eval_free(e);
    done(&f);
}

/* Every op but `tensor`, which is written "@name", can be written by its mnemonic: an unknown attribute is refused
 * with the op's own list, so the table was reached. */
static void test_every_op(void **state)
{
    (void)state;
    for (int k = 1; k < OP_COUNT; k++) {
        char text[512];
        snprintf(text, sizeof text,
                 "{\"pfqc\": 1, \"name\": \"t\", \"weights\": {\"synthetic\": 1}, \"dims\": {\"vocab\": 4, \"context\": 8},\n"
                 "\"graph\": [{\"id\": \"logits\", \"op\": \"%s\", \"in\": [], \"no_such\": 1}]}", op_info[k].mnemonic);
        Fixture f;
        assert_false(parse(&f, text));
        const char *want = k == OP_TENSOR ? "\"tensor\" cannot be written here" : "unknown key \"no_such\"";
        if (!strstr(f.d.msgs.at[0].text, want)) fail_msg("%s: %s", op_info[k].mnemonic, f.d.msgs.at[0].text);
        done(&f);
    }
}

/* ---- errors ---- */

typedef struct BadModel {
    const char *from, *to; /* the change to the base model */
    const char *code;      /* of the first error */
    const char *text;      /* part of its message */
    const char *at;        /* the source text it points to starts like this; NULL: anywhere */
    const char *hint;      /* part of a hint or note after it, or NULL */
} BadModel;

static const BadModel bad[] = {
    {"\"pfqc\": 1", "\"pfqc\": 2", "E0108", "format version 2", "2,", NULL},
    {"\"pfqc\": 1, ", "", "E0103", "\"pfqc\" is missing", "{", NULL},
    {"\"note\": \"all", "\"nota\": \"all", "E0104", "unknown key \"nota\"", "\"all", "did you mean \"note\""},
    {"\"name\": \"toy\"", "\"name\": \"to/y\"", "E0105", "a name is made of", "\"to/y\"", NULL},
    {"\"name\": \"toy\"", "\"name\": 3", "E0102", "\"name\" is a number, expected a string", "3", NULL},
    {"\"name\": \"toy\"", "\"name\": \"toy\", \"name\": \"b\"", "E0101", "appears twice", NULL, NULL},
    {"\"hidden\": 8", "\"hidden\": 0", "E0107", "\"hidden\" must be an integer from 1", "0,", NULL},
    {"\"hidden\": 8", "\"hidden\": 2.5", "E0107", "\"hidden\" must be an integer", "2.5", NULL},
    {"\"hidden/heads\"", "\"hidden/head\"", "E0105", "unknown name 'head'", "head\"", "did you mean 'heads'"},
    {"\"hidden\": 8", "\"hidden\": 9", "E0105", "9 is not a multiple of 2", "/heads", NULL},
    {"\"vocab\": 16, ", "", "E0107", "the dim \"vocab\" is missing", "{", NULL},
    {"\"kv_heads\": 1", "\"kv_heads\": 3", "E0107", "2 heads are no multiple of 3 kv_heads", "3,", NULL},
    {"\"L\": 2", "\"T\": 2", "E0105", "\"T\" cannot be the name of a dim", "2,", NULL},
    {"\"synthetic\": 7", "\"synthetic\": -7", "E0105", "\"synthetic\" is -7", "-7", NULL},
    {"\"scale\": 0.25", "\"scale\": 0", "E0105", "\"scale\" must be a positive number", "0}", NULL},
    {"\"seed\": 3", "\"max\": 0", "E0105", "\"max\" must be a positive number", "0}", NULL},
    {"\"seed\": 3", "\"max\": 1e31", "E0105", "\"max\" must be a positive number", "1e31}", NULL},
    {"[3, 0]", "[3, -1]", "E0105", "a token id is an integer from 0 on", "-1", NULL},
    {"[3, 0]", "[2.5]", "E0105", "a token id is an integer", "2.5", NULL},
    {"[3, 0]", "7", "E0102", "\"prefix\" is a number, expected a list of token ids or a text", "7,", NULL},
    {"{\"synthetic\": 7, \"scale\": 0.25}", "[]", "E0105", "names no file", "[]", NULL},
    {"{\"synthetic\": 7, \"scale\": 0.25}", "[1]", "E0102", "a weight file is a number", "1]", NULL},
    {"{\"synthetic\": 7, \"scale\": 0.25}", "[\"no/such.gguf\"]", "E0701", "", NULL, NULL},
    {"\"emb\": [\"vocab\", \"hidden\"]", "\"emb\": [\"vocab\", -1]", "E0105", "a dimension must be a positive integer", "-1", NULL},
    {"\"emb\": [\"vocab\", \"hidden\"]", "\"emb\": 3", "E0102", "a shape is an array", "3", NULL},
    {"\"emb\": [\"vocab\", \"hidden\"]", "\"emb\": [2147483647, 2147483647, 2147483647]", "E0107", "does not fit", "[2147", NULL},
    {"\"emb\": [\"vocab\", \"hidden\"], ", "", "E0203", "the shape of the synthetic tensor \"emb\" is not known", "\"@emb\"", "\"tensors\""},
    {"\"dim\": \"head_dim\"", "\"dim\": 3", "E0106", "rope_freqs: dim is 3", "\"rope_freqs\"", NULL},
    {", \"dim\": \"head_dim\"", "", "E0106", "the attribute 'dim' is missing", "\"rope_freqs\"", NULL},
    {"\"dim\": \"head_dim\"", "\"dim\": \"4\", \"thetta\": 3", "E0104", "unknown key \"thetta\"", "3}", "did you mean \"theta\""},
    {"\"op\": \"embedding\"", "\"op\": \"embeding\"", "E0106", "unknown op \"embeding\"", "\"embeding\"", "did you mean \"embedding\""},
    {"\"op\": \"embedding\", ", "", "E0103", "\"op\" is missing", "{\"id\": \"x\"", NULL},
    {"\"op\": \"embedding\"", "\"op\": \"tensor\"", "E0106", "name the tensor as \"@name\"", "\"tensor\"", NULL},
    {"\"id\": \"x\", ", "", "E0103", "\"id\" is missing", "{\"op\"", NULL},
    {"\"id\": \"x\"", "\"id\": \"x.1\"", "E0105", "an id is a name", "\"x.1\"", NULL},
    {"\"id\": \"x\"", "\"id\": \"freqs\"", "E0106", "\"freqs\" is defined twice", "\"freqs\"", NULL},
    {"[\"tokens\", \"@emb\"]", "[\"tokens\"]", "E0106", "embedding: takes 2 to 2 operands, found 1", "\"embedding\"", NULL},
    {"[\"tokens\", \"@emb\"]", "[\"token\", \"@emb\"]", "E0106", "\"token\" is not defined here", "\"token\"", "did you mean \"tokens\""},
    {"[\"tokens\", \"@emb\"]", "[3, \"@emb\"]", "E0102", "an input is a number", "3", NULL},
    {"[\"tokens\", \"@emb\"]", "\"tokens\"", "E0102", "\"in\" is a string, expected an array", "\"tokens\"", NULL},
    {"[\"tokens\", \"@emb\"]", "[\"tokens.1\", \"@emb\"]", "E0106", "\"tokens\" has no result", "\"tokens.1\"", NULL},
    {"\"@blk.{l}.norm\"", "\"@blk.{k}.norm\"", "E0105", "unknown name 'k'", "k}.norm", NULL},
    {"\"@blk.{l}.norm\"", "\"@blk.{l.norm\"", "E0105", "'{' without '}'", "{l.norm", NULL},
    {"[1e-5, 1e-6]", "[1e-5]", "E0105", "\"eps\" lists 1 values for 2 layers", "[1e-5]", NULL},
    {"[1e-5, 1e-6]", "\"small\"", "E0105", "unknown name 'small'", "small", NULL},
    {"[1e-5, 1e-6]", "true", "E0102", "expected a number", "true", NULL},
    {"\"window\": [4, 0]", "\"window\": 1.5", "E0102", "expected an integer", "1.5", NULL},
    {"\"shape\": [\"T\", \"hidden\"]", "\"shape\": 8", "E0102", "found a number, expected an array", "8", NULL},
    {"\"shape\": [\"T\", \"hidden\"]", "\"shape\": [\"T\", \"heads\"]", "E0106", "reshape: shape does not hold the elements of f32[T,2,4]", "\"reshape\"", "in layer 0"},
    {"\"begin\": 0, \"end\": \"hidden\"", "\"begin\": 0, \"end\": 99", "E0106", "slice: slice [0, 99) of a dimension of 16", "\"slice\"", "in layer 0"},
    {"{\"op\": \"slice\", \"in\": [\"@blk.{l}.qkv\"]", "{\"op\": \"slice\", \"in\": [\"n\"]", "E0106", "\"n\" is computed from the tokens", "\"n\"", NULL},
    {"\"count\": \"L\", ", "", "E0103", "\"count\" is missing", "{\"repeat\"", NULL},
    {"\"count\": \"L\"", "\"count\": 0", "E0107", "a repeat runs 1 to 4096 times, found 0", "0,", NULL},
    {"\"count\": \"L\"", "\"cuont\": \"L\"", "E0104", "unknown key \"cuont\"", "\"L\"", "did you mean \"count\""},
    {"\"repeat\": \"l\"", "\"repeat\": \"L\"", "E0105", "the variable of a repeat", "\"L\"", NULL},
    {"\"carry\": {\"x\": \"y\"}", "\"carry\": {\"x\": \"z\"}", "E0106", "\"z\" is not defined here", "\"z\"", NULL},
    {"\"carry\": {\"x\": \"y\"}", "\"carry\": {\"w\": \"y\"}", "E0106", "\"w\" is not defined here", "\"y\"", NULL},
    {"\"carry\": {\"x\": \"y\"}", "\"carry\": {\"x\": \"qh\"}", "E0106", "changes its type from f32[T,8] to f32[T,2,4]", "\"qh\"", NULL},
    {"\"carry\": {\"x\": \"y\"}", "\"carry\": [1]", "E0102", "\"carry\" is an array", "[1]", NULL},
    {"{\"id\": \"y\", \"op\": \"add\"", "{\"repeat\": \"k\", \"count\": 2, \"nodes\": []}, {\"id\": \"y\", \"op\": \"add\"", "E0106", "a repeat inside a repeat", "{\"repeat\": \"k\"", NULL},
    {"\"id\": \"logits\"", "\"id\": \"logit\"", "E0106", "no node has the id \"logits\"", "[", NULL},
    {"\"in\": [\"x\", \"@emb\", null]", "\"in\": [\"x\", \"@blk.0.qkv\"]", "E0106", "\"logits\" has type f32[T,16]", NULL, NULL},
    {"{\"id\": \"logits\"", "{\"id\": \"s\", \"op\": \"store\", \"in\": [\"x\", {\"op\": \"state\", \"type\": [\"f32\", \"T\", \"hidden\"]}]}, {\"id\": \"logits\"", "E0106", "store has no result that an id could name", "\"s\"", NULL},
    {"{\"id\": \"logits\"", "{\"op\": \"store\", \"in\": [\"x\", \"@emb\"]}, {\"id\": \"logits\"", "E0106", "store: ", "\"store\"", NULL},
    {"[\"x\", \"@emb\", null]", "[\"x\", {\"op\": \"store\", \"in\": [\"@emb\", {\"op\": \"state\", \"type\": [\"f32\", \"vocab\", \"hidden\"]}]}, null]", "E0106", "store: is not allowed in the constant region", "\"store\"", NULL},
    {"{\"id\": \"logits\"", "7, {\"id\": \"logits\"", "E0102", "a node is a number", "7", NULL},
    {"\"recipe\": \"float\"", "\"recipe\": 4", "E0102", "\"recipe\" is a number, expected text", "4", NULL},
    {"[\"cpu\", \"cpu:x86-64-v3\"]", "[\"cpu\", 1]", "E0102", "\"targets\" holds a number", "1]", NULL},
    {"\"seed\": 3", "\"seeds\": 3", "E0104", "unknown key \"seeds\"", "3}", "did you mean \"seed\""},
    {"\"embed_weights\": true", "\"embed_weights\": 1", "E0102", "\"embed_weights\" is a number", "1}", NULL},
};

static const char *changed(Arena *a, const char *text, const char *from, const char *to)
{
    const char *p = strstr(text, from);
    if (!p) fail_msg("the model has no %s", from);
    return arena_printf(a, "%.*s%s%s", (int)(p - text), text, to, p + strlen(from));
}

static void check_error(const Fixture *f, const BadModel *b)
{
    if (f->d.n_errors == 0 || !f->d.msgs.n) fail_msg("%s: no error", b->to);
    const struct DiagMsg *m = &f->d.msgs.at[0];
    if (strcmp(err_name(m->code), b->code) || !strstr(m->text, b->text)) fail_msg("%s: %s %s, expected %s %s", b->to, err_name(m->code), m->text, b->code, b->text);
    if (b->at && (m->loc.src != &f->src || strncmp(f->src.text + m->loc.off, b->at, strlen(b->at))))
        fail_msg("%s: the error points to %.20s, expected %s", b->to, m->loc.src == &f->src ? f->src.text + m->loc.off : "nowhere", b->at);
    if (b->hint && (f->d.msgs.n < 2 || !strstr(f->d.msgs.at[1].text, b->hint))) fail_msg("%s: %s: no hint with %s", b->to, m->text, b->hint);
}

static void test_errors(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Arena a = {0};
        Fixture f;
        if (parse(&f, changed(&a, base, bad[i].from, bad[i].to)) && strcmp(bad[i].to, "\"in\": [\"x\", \"@blk.0.qkv\"]")) fail_msg("%s was accepted", bad[i].to);
        if (f.d.n_errors) check_error(&f, &bad[i]);
        /* One mistake is one error, though it is met in every layer; misspelling a definition also breaks its users. */
        if (f.d.n_errors > 3) fail_msg("%s: %u errors", bad[i].to, f.d.n_errors);
        done(&f);
        arena_free(&a);
    }
}

/* Ops without results are nodes without an id, also in a repeat. */
static void test_no_results(void **state)
{
    (void)state;
    static const char store[] = "{\"op\": \"store\", \"in\": [\"x\", {\"op\": \"state\", \"type\": [\"f32\", \"T\", \"hidden\"]}]}, ";
    static const char *const before[] = {"{\"id\": \"logits\"", "{\"id\": \"n\", \"op\": \"rmsnorm\""};
    for (u32 i = 0; i < 2; i++) {
        Arena a = {0};
        Fixture f;
        must_parse(&f, changed(&a, base, before[i], arena_printf(&a, "%s%s", store, before[i])));
        u32 n = 0;
        for (OpId k = 1; k < f.m.m->ops.n; k++) n += op_at(f.m.m, k)->kind == OP_STORE;
        assert_int_equal(n, i ? 2 : 1);
        done(&f);
        arena_free(&a);
    }
}

/* Independent errors are reported together, in order, as file:line:col. */
static void test_many(void **state)
{
    (void)state;
    Arena a = {0};
    const char *text = changed(&a, base, "\"hidden\": 8", "\"hidden\": 8.5");
    text = changed(&a, text, "\"op\": \"rope\"", "\"op\": \"rop\"");
    text = changed(&a, text, "\"op\": \"add\"", "\"op\": \"sub\"");
    text = changed(&a, text, "\"seed\": 3", "\"seed\": \"3\"");
    Fixture f;
    assert_false(parse(&f, text));
    u32 line, col, n = 0;
    const u32 want[][2] = {{19, 119}, {3, 29}, {14, 23}, {17, 22}};
    for (u32 i = 0; i < f.d.msgs.n; i++) {
        if (!f.d.msgs.at[i].code) continue;
        loc_line_col(f.d.msgs.at[i].loc, &line, &col);
        for (u32 k = 0; k < 4; k++) n += line == want[k][0] && col == want[k][1];
    }
    diag_flush(&f.d);
    assert_int_equal(n, 4);
    done(&f);
    arena_free(&a);
}

/* The limits of docs/limits.md, at the limit and one beyond it. */
static const char *limit_text(Arena *a, const char *dims, const char *graph)
{
    return arena_printf(a, "{\"pfqc\": 1, \"name\": \"t\", \"weights\": {\"synthetic\": 1}, \"dims\": {%s\"vocab\": 4, \"context\": 8},\n\"graph\": [%s]}", dims, graph);
}

static void check_limit(const char *what, const char *text, const char *code, const char *part)
{
    Fixture f;
    bool ok = parse(&f, text);
    bool limited = false; /* other errors are not meant here: the small graphs have no logits */
    for (u32 i = 0; i < f.d.msgs.n; i++) limited |= part && f.d.msgs.at[i].code && strstr(f.d.msgs.at[i].text, part) && strcmp(err_name(f.d.msgs.at[i].code), code) == 0;
    for (u32 i = 0; !part && i < f.d.msgs.n; i++) limited |= f.d.msgs.at[i].code == E_LIMIT || strstr(f.d.msgs.at[i].text, "a repeat runs");
    if (limited != (part != NULL)) fail_msg("%s: %s, %s", what, ok ? "accepted" : f.d.msgs.at[0].text, part ? "expected a refusal" : "expected no limit");
    done(&f);
}

static const char *repeat_text(Arena *a, int count, int nodes, int carried)
{
    StrBuf b = {.a = a};
    sb_str(&b, "{\"id\": \"x\", \"op\": \"rope_freqs\", \"dim\": 2}, ");
    for (int i = 0; i < carried; i++) sb_printf(&b, "{\"id\": \"x%d\", \"op\": \"copy\", \"in\": [\"x\"]}, ", i);
    sb_printf(&b, "{\"repeat\": \"l\", \"count\": %d, \"carry\": {", count);
    for (int i = 0; i < carried; i++) sb_printf(&b, "%s\"x%d\": \"x%d\"", i ? ", " : "", i, i);
    sb_str(&b, "}, \"nodes\": [");
    for (int i = 0; i < nodes; i++) sb_printf(&b, "%s{\"id\": \"c%d\", \"op\": \"copy\", \"in\": [\"x\"]}", i ? ", " : "", i);
    sb_str(&b, "]}");
    return limit_text(a, "", b.p);
}

static void test_limits(void **state)
{
    (void)state;
    Arena a = {0};
    check_limit("4096 turns", repeat_text(&a, 4096, 0, 0), NULL, NULL);
    check_limit("4097 turns", repeat_text(&a, 4097, 0, 0), "E0107", "a repeat runs 1 to 4096 times");
    check_limit("64 carried", repeat_text(&a, 1, 0, 64), NULL, NULL);
    check_limit("65 carried", repeat_text(&a, 1, 0, 65), "E0704", "more than 64 carried values");
    check_limit("99999 nodes", repeat_text(&a, 3, 33331, 0), NULL, NULL); /* turns and the node above count */
    check_limit("100001 nodes", repeat_text(&a, 4, 24999, 0), "E0704", "the graph has more than 100000 nodes");
    for (int n = 254; n <= 255; n++) { /* and two more */
        StrBuf b = {.a = &a};
        for (int i = 0; i < n; i++) sb_printf(&b, "\"d%d\": 1, ", i);
        check_limit("dims", limit_text(&a, b.p, ""), "E0704", n == 254 ? NULL : "more than 256 dims");
    }
    for (int n = 4096; n <= 4097; n++) {
        StrBuf b = {.a = &a};
        sb_str(&b, "\"d\": \"1");
        for (int i = 1; i < n; i++) sb_ch(&b, ' ');
        sb_str(&b, "\", ");
        check_limit("expression", limit_text(&a, b.p, ""), "E0105", n == 4096 ? NULL : "an expression of more than 4096 bytes");
    }
    arena_free(&a);
}

/* ---- weight files ---- */

static const char *init_text(Arena *a, const char *checkpoint)
{
    Diag d;
    diag_init(&d, a);
    FeInit init = {.checkpoint = checkpoint};
    if (!fe_init(&d, a, &init)) {
        diag_flush(&d);
        fail_msg("%s was refused", checkpoint);
    }
    return init.text;
}

static void test_tensors(void **state)
{
    (void)state;
    Arena a = {0};
    const char *text = init_text(&a, "tests/data/arch/llama-bias");
    static const BadModel rows[] = {
        {"@model.layers.{l}.mlp.up_proj.weight", "@model.layers.{l}.mlp.pu_proj.weight", "E0202", "the checkpoint has no tensor \"model.layers.0.mlp.pu_proj.weight\"",
         "\"@model.layers.{l}.mlp.pu", "did you mean \"model.layers.0.mlp.up_proj.weight\""},
        {"\"ffn\": 48", "\"ffn\": 50", "E0203", "has shape [48, 32], the model needs [50, 32]", "\"@model.layers.{l}.mlp.gate_proj", NULL},
        {"\"L\": 2", "\"L\": 3", "E0202", "no tensor \"model.layers.2.input_layernorm.weight\"", "\"@model.layers.{l}.input", NULL},
        {"\"@model.layers.{l}.mlp.down_proj.weight\"", "\"@model.norm.weight\"", "E0106", "linear: operand 1 has type f32[32], expected rank 2", "\"linear\"", "in layer 0"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Fixture f;
        assert_false(parse(&f, changed(&a, text, rows[i].from, rows[i].to)));
        check_error(&f, &rows[i]);
        done(&f);
    }
    arena_free(&a);
}

/* A Llama-3-8B checkpoint that is a header and a hole: checked without reading data. */
static void put_tensor(StrBuf *b, u64 *at, const char *name, u64 rows, u64 cols)
{
    u64 n = 2 * rows * (cols ? cols : 1);
    sb_printf(b, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%llu", *at ? "," : "", name, (unsigned long long)rows);
    if (cols) sb_printf(b, ",%llu", (unsigned long long)cols);
    sb_printf(b, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)*at, (unsigned long long)(*at + n));
    *at += n;
}

static void put_8b(Arena *a, const char *path)
{
    static const struct { const char *name; u64 rows, cols; } per[] = {
        {"input_layernorm", 4096, 0}, {"self_attn.q_proj", 4096, 4096}, {"self_attn.k_proj", 1024, 4096}, {"self_attn.v_proj", 1024, 4096}, {"self_attn.o_proj", 4096, 4096},
        {"post_attention_layernorm", 4096, 0}, {"mlp.gate_proj", 14336, 4096}, {"mlp.up_proj", 14336, 4096}, {"mlp.down_proj", 4096, 14336},
    };
    StrBuf b = {.a = a};
    u64 at = 0;
    sb_ch(&b, '{');
    put_tensor(&b, &at, "model.embed_tokens.weight", 128256, 4096);
    for (int l = 0; l < 32; l++)
        for (size_t i = 0; i < sizeof per / sizeof *per; i++) put_tensor(&b, &at, arena_printf(a, "model.layers.%d.%s.weight", l, per[i].name), per[i].rows, per[i].cols);
    put_tensor(&b, &at, "model.norm.weight", 4096, 0);
    put_tensor(&b, &at, "lm_head.weight", 128256, 4096);
    sb_ch(&b, '}');
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    u64 n = b.n;
    assert_true(fd >= 0 && write(fd, &n, 8) == 8 && write(fd, b.p, b.n) == (ssize_t)b.n && ftruncate(fd, (off_t)(8 + b.n + at)) == 0);
    close(fd);
}

static void test_8b(void **state)
{
    (void)state;
    Arena a = {0};
    char dir[] = "/tmp/pfqc-test-XXXXXX";
    assert_non_null(mkdtemp(dir));
    const char *weights = io_join(&a, dir, "model.safetensors"), *config = io_join(&a, dir, "config.json"), *model = io_join(&a, dir, "model.json");
    put_8b(&a, weights);
    static const char text[] = "{\"model_type\": \"llama\", \"hidden_act\": \"silu\", \"hidden_size\": 4096, \"intermediate_size\": 14336, \"num_hidden_layers\": 32,\n"
        "\"num_attention_heads\": 32, \"num_key_value_heads\": 8, \"max_position_embeddings\": 8192, \"rms_norm_eps\": 1e-5, \"rope_theta\": 500000.0, \"vocab_size\": 128256}";
    Diag d;
    diag_init(&d, &a);
    FeInit init = {.checkpoint = dir, .output = model, .name = "llama3-8b"};
    bool ok = io_write_file(&d, &a, config, text, sizeof text - 1) && fe_init(&d, &a, &init);
    FeModel m = {0};
    struct timespec t0, t1;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    ok = ok && fe_model_load(&d, &a, model, &m) && ir_verify(&d, m.m);
    clock_gettime(CLOCK_MONOTONIC, &t1);
    diag_flush(&d);
    const double took = (double)(t1.tv_sec - t0.tv_sec) + 1e-9 * (double)(t1.tv_nsec - t0.tv_nsec);
    print_message("checked an 8B model in %.3f s\n", took);
    unlink(weights), unlink(config), unlink(model), rmdir(dir);
    assert_true(ok && took < 1);
    assert_int_equal(ir_meta_get_int(m.m, "params", 0), 8030261248);
    fe_model_close(&m);
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample), cmocka_unit_test(test_synthetic), cmocka_unit_test(test_every_op), cmocka_unit_test(test_errors),
        cmocka_unit_test(test_no_results),
        cmocka_unit_test(test_many), cmocka_unit_test(test_limits), cmocka_unit_test(test_tensors), cmocka_unit_test(test_8b),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
