#include "inspect/plan.h"

#include "ir/base/io.h"
#include "ir/base/json.h"

#include <math.h>

enum { MAX_TEXT = 1 << 28, MAX_CALLS = 1 << 20, MAX_PASSES = 4096 };
static const i64 MOST = (i64)1 << 53;

typedef struct Reader {
    Diag *d;
    Arena *a;
    const Source *src;
    Plan *p;
    Map kernels; /* name -> index */
} Reader;

static bool text(Reader *r, const Json *obj, const char *key, Str *out)
{
    const Json *v = json_need(r->d, r->src, obj, key, JSON_STRING);
    if (v) *out = v->str;
    return v != NULL;
}

static bool count(Reader *r, const Json *obj, const char *key, i64 *out)
{
    return json_need_int(r->d, r->src, obj, key, 0, MOST, out);
}

static bool is_true(const Json *obj, const char *key)
{
    const Json *v = json_get(obj, key);
    return v && v->kind == JSON_BOOL && v->b;
}

static bool bad(Reader *r, const Json *v, const char *expected)
{
    return diag_error(r->d, E_JSON_VALUE, json_loc(r->src, v), "expected %s", expected);
}

/* Calls read(r, element) for the list `key` of obj. */
static bool each(Reader *r, const Json *obj, const char *key,
                 bool (*read)(Reader *r, const Json *v))
{
    const Json *list = json_need(r->d, r->src, obj, key, JSON_ARRAY);
    for (u32 i = 0; list && i < list->n; i++)
        if (!read(r, &list->at[i])) return false;
    return list != NULL;
}

static bool read_prefix(Reader *r, const Json *v)
{
    if (v->kind != JSON_NUMBER || !v->is_int) return bad(r, v, "the id of a token");
    vec_push(r->a, &r->p->prefix, v->i);
    return true;
}

static bool read_prefix_text(Reader *r, const Json *v)
{
    if (v->kind != JSON_STRING) return bad(r, v, "the text of a token");
    vec_push(r->a, &r->p->prefix_text, v->str);
    return true;
}

/* Members that this page can do without. */
static void maybe_text(const Json *obj, const char *key, Str *out)
{
    const Json *v = json_get(obj, key);
    if (v && v->kind == JSON_STRING) *out = v->str;
}

static bool read_cuda(Reader *r, const Json *v)
{
    PlCuda k = {.step = -1};
    const Json *bytes = json_need(r->d, r->src, v, "bytes", JSON_OBJECT);
    if (!bytes || !text(r, v, "name", &k.name) || !text(r, v, "kernel", &k.kind) ||
        !text(r, v, "template", &k.file) || !count(r, v, "calls", &k.calls) ||
        !count(r, v, "block", &k.block) || !count(r, v, "shared", &k.shared))
        return false;
    maybe_text(v, "code_of", &k.code_of);
    maybe_text(v, "phase", &k.phase);
    if (k.phase.n && !count(r, v, "step", &k.step)) return false;
    if (bytes->n && bytes->at[0].is_int) k.bytes = bytes->at[0].i;
    vec_push(r->a, &r->p->cuda, k);
    return true;
}

static bool read_target(Reader *r, const Json *v)
{
    Str name;
    const bool gpu = json_get(v, "cuda") != NULL;
    if (!text(r, v, gpu ? "cuda" : "variant", &name)) return false;
    vec_push(r->a, &r->p->target, name);
    r->p->cpu |= !gpu;
    return true;
}

static bool read_pass(Reader *r, const Json *v)
{
    PlPass p = {0};
    if (!text(r, v, "pass", &p.name) || !text(r, v, "options", &p.options) ||
        !count(r, v, "changes", &p.changes) || !count(r, v, "ops", &p.ops))
        return false;
    if (r->p->pass.n == MAX_PASSES)
        return diag_error(r->d, E_LIMIT, json_loc(r->src, v), "more than %d passes", MAX_PASSES);
    vec_push(r->a, &r->p->pass, p);
    return true;
}

static bool read_kernel(Reader *r, const Json *v)
{
    PlKernel k = {0};
    bool added;
    if (!text(r, v, "name", &k.name) || !text(r, v, "kernel", &k.kind) ||
        !text(r, v, "template", &k.file))
        return false;
    u32 *slot = map_put(&r->kernels, k.name, &added);
    if (!added) return bad(r, v, "each kernel once");
    *slot = r->p->kernel.n;
    vec_push(r->a, &r->p->kernel, k);
    return true;
}

static bool read_section(Reader *r, const Json *v)
{
    PlSection s = {0};
    if (!text(r, v, "name", &s.name) || !text(r, v, "layout", &s.layout) ||
        !count(r, v, "bytes", &s.bytes))
        return false;
    vec_push(r->a, &r->p->section, s);
    return true;
}

/* ---- measured numbers ---- */

Str plan_role(Arena *a, Str name, i64 *layer)
{
    static const char *const skip[] = {"w", "model", "layers", "blk"}, *const end[] = {"weight",
                                                                                       "pack"};
    StrBuf b = {.a = a};
    *layer = -1;
    sb_str(&b, "");
    for (size_t at = 0; at < name.n;) {
        const char *dot = memchr(name.p + at, '.', name.n - at);
        const Str part = {name.p + at, dot ? (size_t)(dot - name.p) - at : name.n - at};
        i64 number;
        bool drop = false;
        for (size_t i = 0; i < sizeof skip / sizeof *skip; i++)
            drop |= str_is(part, skip[i]);
        if (b.n && (str_is(part, end[0]) || str_is(part, end[1]))) break;
        if (*layer < 0 && str_to_i64(part, &number) && number >= 0)
            *layer = number;
        else if (!drop)
            sb_printf(&b, "%s%.*s", b.n ? "." : "", STRF(part));
        at += part.n + 1;
    }
    return (Str){b.p, b.n};
}

/* A number that is null was not finite. */
static bool read_facts(Reader *r, const Json *root, const char *key)
{
    const Json *all = json_need(r->d, r->src, root, key, JSON_OBJECT);
    for (u32 i = 0; all && i < all->n; i++) {
        const Json *v = &all->at[i];
        PlFact f = {.value = v->kind == JSON_NUMBER ? v->num : NAN};
        if (v->kind != JSON_NUMBER && v->kind != JSON_NULL) return bad(r, v, "a number or null");
        f.name = plan_role(r->a, all->key[i], &f.layer);
        if (strcmp(key, "outlier") == 0)
            vec_push(r->a, &r->p->outlier, f);
        else if (str_starts(all->key[i], "w."))
            vec_push(r->a, &r->p->weight_sqnr, f);
        else
            vec_push(r->a, &r->p->sqnr, f);
    }
    return all != NULL;
}

/* ---- tokens beside the median ---- */

static bool read_token(Reader *r, const Json *v, const Json *text, PlToken *out)
{
    bool ok = v->kind == JSON_ARRAY && v->n == 4 &&
              (v->at[0].kind == JSON_NUMBER || v->at[0].kind == JSON_NULL);
    for (u32 i = 1; ok && i < 4; i++)
        ok = v->at[i].is_int && v->at[i].i >= 0;
    if (!ok) return bad(r, v, "[ratio, token, sequence, position]");
    *out = (PlToken){.ratio = v->at[0].kind == JSON_NUMBER ? v->at[0].num : NAN,
                     .id = v->at[1].i,
                     .sequence = v->at[2].i,
                     .position = v->at[3].i};
    maybe_text(text, arena_printf(r->a, "%lld", (long long)out->id), &out->text);
    return true;
}

static bool read_spread(Reader *r, Str key, const Json *bins, const Json *top, const Json *text)
{
    PlTokens t = {0};
    t.when = plan_role(r->a, key, &t.layer);
    if (bins->kind != JSON_ARRAY || bins->n != PL_BINS) return bad(r, bins, "40 counts");
    for (u32 i = 0; i < PL_BINS; i++) {
        if (!bins->at[i].is_int || bins->at[i].i < 0 || bins->at[i].i > MOST)
            return bad(r, &bins->at[i], "a count");
        t.bin[i] = bins->at[i].i;
    }
    if (top && top->kind != JSON_ARRAY) return bad(r, top, "a list of tokens");
    t.n_top = top ? top->n : 0;
    t.top = NEWN(r->a, PlToken, t.n_top);
    for (u32 i = 0; i < t.n_top; i++)
        if (!read_token(r, &top->at[i], text, &t.top[i])) return false;
    if (t.layer >= 0) vec_push(r->a, &r->p->tokens, t);
    return true;
}

/* Plans of older versions have none. */
static bool read_tokens(Reader *r, const Json *root)
{
    const Json *bins = json_get(root, "outlier_bins"), *top = json_get(root, "outlier_tokens"),
               *text = json_get(root, "token_text");
    if (bins && bins->kind != JSON_OBJECT) return bad(r, bins, "an object");
    for (u32 i = 0; bins && i < bins->n; i++) {
        const char *key = arena_strdup(r->a, bins->key[i].p, bins->key[i].n);
        if (!read_spread(r, bins->key[i], &bins->at[i], json_get(top, key), text)) return false;
    }
    return true;
}

/* ---- calls ---- */

static bool read_ref(Reader *r, const Json *v, PlRef *out)
{
    *out = (PlRef){0};
    if (v->kind == JSON_STRING) {
        out->place = v->str;
        return true;
    }
    const bool ok = v->kind == JSON_ARRAY &&
                    (v->n == 4 || (v->n == 5 && v->at[4].kind == JSON_STRING)) &&
                    v->at[0].kind == JSON_STRING && v->at[1].is_int && v->at[2].is_int &&
                    v->at[3].kind == JSON_STRING;
    if (!ok) return bad(r, v, "[place, offset, bytes, type, name]");
    *out = (PlRef){.place = v->at[0].str,
                   .type = v->at[3].str,
                   .name = v->n == 5 ? v->at[4].str : (Str){0},
                   .off = v->at[1].i,
                   .bytes = v->at[2].i};
    return (out->off >= 0 && out->off <= MOST && out->bytes >= 0 && out->bytes <= MOST) ||
           bad(r, v, "an offset and bytes from 0 to 2^53");
}

/* The list `key`, which may be absent, without nulls. */
static bool read_refs(Reader *r, const Json *call, const char *key, PlRef **out, u32 *n)
{
    const Json *list = json_get(call, key);
    *n = 0;
    if (!list) return true;
    if (list->kind != JSON_ARRAY) return bad(r, list, "a list of operands");
    *out = NEWN(r->a, PlRef, list->n);
    for (u32 i = 0; i < list->n; i++)
        if (list->at[i].kind != JSON_NULL && !read_ref(r, &list->at[i], &(*out)[(*n)++]))
            return false;
    return true;
}

static bool read_call(Reader *r, const Json *v, PlCall *c)
{
    Str kernel;
    PlRef *w = NULL;
    u32 n_w;
    c->per_key = json_get(v, "flops_per_row_and_key") != NULL;
    c->barrier = is_true(v, "barrier");
    c->each = is_true(v, "each_thread");
    if (!count(r, v, "step", &c->step) ||
        !json_need_int(r->d, r->src, v, "layer", -1, 1 << 20, &c->layer) ||
        !text(r, v, "kernel", &kernel) ||
        !count(r, v, c->per_key ? "flops_per_row_and_key" : "flops_per_row", &c->flops) ||
        (json_get(v, "weight_bytes") && !count(r, v, "weight_bytes", &c->bytes)) ||
        !read_refs(r, v, "in", &c->in, &c->n_in) || !read_refs(r, v, "out", &c->out, &c->n_out) ||
        !read_refs(r, v, "w", &w, &n_w))
        return false;
    if (n_w) c->w = w[0];
    const u32 *at = map_get(&r->kernels, kernel);
    if (!at) return bad(r, v, "a kernel that \"kernels\" lists");
    c->kernel = *at;
    return true;
}

/* Which call wrote what each call reads, by place and offset. */
static void link_calls(Arena *a, PlPhase *ph)
{
    Map at = {.a = a};
    VEC(PlRef *) out = {0};
    VEC(u32) call = {0};
    for (u32 i = 0; i < ph->n; i++) {
        PlCall *c = &ph->call[i];
        for (u32 k = 0; k < c->n_in; k++) {
            const char *key =
                arena_printf(a, "%.*s %lld", STRF(c->in[k].place), (long long)c->in[k].off);
            const u32 *slot = map_get(&at, str_c(key));
            if (!slot) continue;
            c->in[k].writer = call.at[*slot] + 1;
            out.at[*slot]->last = i;
        }
        for (u32 k = 0; k < c->n_out; k++) {
            const char *key =
                arena_printf(a, "%.*s %lld", STRF(c->out[k].place), (long long)c->out[k].off);
            bool added;
            c->out[k].last = i;
            *map_put(&at, str_c(key), &added) = out.n;
            vec_push(a, &out, &c->out[k]);
            vec_push(a, &call, i);
        }
    }
}

static bool read_phase(Reader *r, const Json *phases, const char *name, PlPhase *ph)
{
    const Json *v = json_need(r->d, r->src, phases, name, JSON_OBJECT);
    const Json *calls = v ? json_need(r->d, r->src, v, "calls", JSON_ARRAY) : NULL;
    if (!calls || !count(r, v, "barriers", &ph->barriers)) return false;
    if (calls->n > MAX_CALLS)
        return diag_error(r->d, E_LIMIT, json_loc(r->src, calls), "more than %d calls", MAX_CALLS);
    ph->name = str_c(name);
    ph->n = calls->n;
    ph->call = NEWN(r->a, PlCall, ph->n);
    for (u32 i = 0; i < ph->n; i++)
        if (!read_call(r, &calls->at[i], &ph->call[i])) return false;
    link_calls(r->a, ph);
    return true;
}

static bool read_all(Reader *r, const Json *root)
{
    static const char *const names[PL_PHASES] = {"prefill", "logits", "decode"};
    Plan *p = r->p;
    i64 format;
    if (!json_need_int(r->d, r->src, root, "plan", 1, 1, &format)) return false;
    const Json *memory = json_need(r->d, r->src, root, "memory", JSON_OBJECT),
               *weights = json_need(r->d, r->src, root, "weights", JSON_OBJECT),
               *phases = json_need(r->d, r->src, root, "phases", JSON_OBJECT);
    bool ok = memory && weights && phases && text(r, root, "pfqc", &p->version) &&
              text(r, root, "model", &p->model) && text(r, root, "recipe", &p->recipe) &&
              count(r, root, "context", &p->context) &&
              count(r, memory, "activations", &p->activations) &&
              count(r, memory, "chunk", &p->chunk) &&
              count(r, memory, "kv_per_token", &p->kv_per_token) &&
              count(r, weights, "bytes", &p->weight_bytes) &&
              count(r, weights, "read_per_token", &p->read_per_token) &&
              each(r, root, "prefix", read_prefix) &&
              (!json_get(root, "prefix_text") || each(r, root, "prefix_text", read_prefix_text)) &&
              (!json_get(root, "cuda_kernels") || each(r, root, "cuda_kernels", read_cuda)) &&
              each(r, root, "targets", read_target) && each(r, root, "passes", read_pass) &&
              each(r, root, "kernels", read_kernel) && each(r, weights, "sections", read_section) &&
              read_facts(r, root, "sqnr") && read_facts(r, root, "outlier") && read_tokens(r, root);
    for (u32 i = 0; ok && i < PL_PHASES; i++)
        ok = read_phase(r, phases, names[i], &p->phase[i]);
    return ok;
}

bool plan_read(Diag *d, Arena *a, const char *path, Plan *out)
{
    Source *src = NEW(a, Source); /* diagnostics point into it */
    if (io_is_dir(path)) path = io_join(a, path, "plan.json");
    if (!io_read_text(d, a, path, MAX_TEXT, src)) {
        diag_hint(d, "inspect takes the folder that pfqc MODEL.json -o wrote");
        return false;
    }
    const Json *root = json_parse(d, a, src);
    Reader r = {.d = d, .a = a, .src = src, .p = out, .kernels = {.a = a}};
    *out = (Plan){.text = {src->text, src->n}};
    return root && read_all(&r, root);
}

u32 plan_layer_end(const PlPhase *ph, u32 from)
{
    u32 i = from;
    while (i < ph->n && ph->call[i].layer == ph->call[from].layer)
        i++;
    return i;
}
