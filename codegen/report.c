/* plan.json and passes.json: what was decided, for people and tools. No times and no paths, so
 * equal inputs give equal bytes. */
#include "codegen/plan.h"

#include "ir/base/json.h"
#include "ir/text.h"

#define LL(x) ((unsigned long long)(x))

static void key_str(StrBuf *o, const char *key, const char *v)
{
    sb_printf(o, "\"%s\": ", key);
    sb_json_str(o, str_c(v ? v : ""));
}

static void emit_targets(const CgBuild *b, StrBuf *o)
{
    sb_str(o, "  \"targets\": [");
    const CgTargets *all = b->targets;
    for (u32 i = 0; i < all->n_cpu; i++) {
        const CgTarget *t = &all->cpu[i];
        sb_str(o, i ? ",\n    {" : "\n    {");
        key_str(o, "variant", t->variant->name);
        sb_str(o, ", ");
        key_str(o, "cpu", t->variant->cpu);
        sb_str(o, ", ");
        key_str(o, "features", t->variant->features);
        sb_str(o, ", ");
        key_str(o, "tune", t->tune);
        sb_ch(o, '}');
    }
    for (u32 i = 0; b->cuda && i < b->cuda->n_codes; i++) {
        const CgCode *c = &b->cuda->code[i];
        sb_str(o, i || all->n_cpu ? ",\n    {" : "\n    {");
        key_str(o, "cuda", c->arch);
        sb_printf(o, ", \"capability\": \"%d.%d\", \"exact\": %s, ", c->major, c->minor,
                  c->exact ? "true" : "false");
        key_str(o, "code", c->ptx ? "ptx" : "cubin");
        sb_ch(o, '}');
    }
    sb_str(o, "\n  ],\n");
}

static void emit_memory(const CgPlan *p, StrBuf *o)
{
    sb_printf(o,
              "  \"memory\": {\n"
              "    \"activations\": %llu,\n    \"scratch_per_thread\": %llu,\n    \"private_at\": "
              "%llu,\n    \"kv_per_token\": %llu,\n"
              "    \"chunk\": %lld,\n    \"rows\": %lld,\n    \"kv_states\": [",
              LL(p->act_bytes), LL(p->scratch_bytes), LL(p->kernel_scratch), LL(p->kv_row_bytes),
              (long long)ir_meta_get_int(p->m, "chunk", 0),
              (long long)ir_meta_get_int(p->m, "rows", 0));
    bool first = true;
    for (u32 i = 0; i < p->m->consts.n; i++) {
        const Op *op = op_at(p->m, p->m->consts.at[i]);
        const Attr *at = op->kind == OP_STATE ? op_attr(op, A_AT) : NULL;
        if (!at || type_of(p->m, op->out)->rank != 3) continue;
        sb_str(o, first ? "\n      {" : ",\n      {");
        first = false;
        key_str(o, "name", ir_cstr(p->m, value_at(p->m, op->out)->name));
        sb_str(o, ", ");
        key_str(o, "type", ir_type_text(p->m, type_of(p->m, op->out)));
        sb_printf(o, ", \"at\": %lld}", (long long)at->ints[0]);
    }
    sb_str(o, "\n    ]\n  },\n");
}

static void emit_constants(StrBuf *o, const double *val, u64 which)
{
    bool first = true;
    for (u32 c = 0; c < CG_N_CONSTS; c++) {
        if (!(which >> c & 1)) continue;
        sb_printf(o, "%s\"%s\": ", first ? "" : ", ", cg_const_info[c].name + 2);
        first = false;
        if (cg_const_info[c].is_float)
            sb_f64(o, val[c]);
        else
            sb_printf(o, "%.0f", val[c]);
    }
}

/* Registers are the driver's to say. */
static void emit_cuda_kernel(const CgCuda *cuda, u32 kernel, StrBuf *o)
{
    const CgCudaKernel *k = &cuda->kernels.at[kernel];
    const CgLaunch *l = &k->launch;
    sb_str(o, kernel ? ",\n    {" : "\n    {");
    key_str(o, "name", k->name);
    sb_str(o, ", ");
    key_str(o, "kernel", k->what);
    sb_printf(o,
              ", \"template\": \"%s\", \"calls\": %u, \"block\": %lld, \"grid_x\": %lld, "
              "\"rows\": %lld, \"shared\": %lld",
              k->row->template, k->calls, (long long)l->block, (long long)l->grid_x,
              (long long)l->rows, (long long)l->shared);
    if (l->per_sm) sb_printf(o, ", \"per_sm\": %lld", (long long)l->per_sm);
    if (l->cluster) sb_printf(o, ", \"cluster\": %lld", (long long)l->cluster);
    if (k->phase != CG_NO_PHASE)
        sb_printf(o, ", \"phase\": \"%s\", \"step\": %u", cuda->plan->phase[k->phase].name,
                  k->step);
    if (k->source != kernel)
        sb_printf(o, ", \"code_of\": \"%s\"", cuda->kernels.at[k->source].name);
    sb_str(o, ", \"constants\": {");
    emit_constants(o, k->val, k->uses);
    sb_str(o, "}, \"bytes\": {");
    bool first = true;
    for (u32 c = 0; c < cuda->n_codes; c++) {
        if (!cuda->code[c].used[kernel]) continue;
        sb_printf(o, "%s\"%s\": %llu", first ? "" : ", ", cuda->code[c].arch,
                  LL(cuda->code[c].image[k->source].bytes));
        first = false;
    }
    sb_str(o, "}}");
}

static void emit_kernels(const CgBuild *b, StrBuf *o)
{
    const CgPlan *p = b->plan;
    sb_str(o, "  \"kernels\": [");
    for (u32 i = 0; i < p->kernels.n; i++) {
        const CgKernel *k = &p->kernels.at[i];
        sb_str(o, i ? ",\n    {" : "\n    {");
        key_str(o, "name", k->name);
        sb_str(o, ", ");
        key_str(o, "kernel", cg_rows[k->row].name);
        sb_printf(o, ", \"template\": \"%s\", \"calls\": %u, \"constants\": {",
                  cg_rows[k->row].template, k->calls);
        emit_constants(o, k->val, k->uses);
        sb_str(o, "}}");
    }
    sb_str(o, "\n  ],\n");
    if (!b->cuda) return;
    sb_str(o, "  \"cuda_kernels\": [");
    for (u32 i = 0; i < b->cuda->kernels.n; i++)
        emit_cuda_kernel(b->cuda, i, o);
    sb_str(o, "\n  ],\n  \"cuda_decode\": {");
    for (u32 i = 0; i < b->cuda->n_codes; i++) {
        const CgCode *c = &b->cuda->code[i];
        sb_printf(o, "%s\"%s\": \"%s%s%s\"", i ? ", " : "", c->arch,
                  c->call[PFQ_CUDA_STEP].n ? "one kernel" : "a graph of kernels",
                  c->no_step ? ": " : "", c->no_step ? c->no_step : "");
    }
    sb_str(o, "},\n");
}

static void emit_place(StrBuf *o, const CgPlan *p, const char **names, const char *place,
                       const CgRef *r)
{
    sb_printf(o, "[\"%s\", %llu, %llu, \"%s\", ", place, LL(r->off), LL(r->bytes),
              ir_type_text(p->m, type_of(p->m, r->value)));
    const char *constant = ir_cstr(p->m, value_at(p->m, r->value)->name);
    sb_json_str(o, str_c(names[r->value] ? names[r->value] : arena_printf(o->a, "@%s", constant)));
    sb_ch(o, ']');
}

static void emit_refs(StrBuf *o, const CgPlan *p, const char **names, const char *key,
                      const CgRef *r, u32 n)
{
    static const char *const places[] = {"", "act", "kv", "private", "tokens", "logits", "weights"};
    while (n && r[n - 1].place == CG_NONE)
        n--;
    if (!n) return;
    sb_printf(o, ", \"%s\": [", key);
    for (u32 i = 0; i < n; i++) {
        if (i) sb_str(o, ", ");
        if (r[i].place == CG_NONE)
            sb_str(o, "null");
        else if (r[i].place == CG_WEIGHT)
            sb_json_str(o, str_c(p->sections.at[r[i].section].name));
        else if (r[i].place == CG_TOKENS || r[i].place == CG_LOGITS)
            sb_printf(o, "\"%s\"", places[r[i].place]);
        else
            emit_place(o, p, names, places[r[i].place], &r[i]);
    }
    sb_ch(o, ']');
}

static void emit_phase(const CgPlan *p, const CgPhase *ph, bool last, StrBuf *o)
{
    const u32 fn = (u32)(ir_fn(p->m, ph->name) - p->m->fns.at);
    const char **names = ir_value_names(p->m, fn, o->a);
    sb_printf(o, "    \"%s\": {\"barriers\": %u, \"calls\": [", ph->name, ph->barriers);
    for (u32 i = 0; i < ph->calls.n; i++) {
        const CgCall *c = &ph->calls.at[i];
        sb_printf(o, "%s\n      {\"step\": %u, \"layer\": %d, \"kernel\": \"%s\"", i ? "," : "",
                  c->step, c->layer, p->kernels.at[c->kernel].name);
        if (c->barrier) sb_str(o, ", \"barrier\": true");
        if (c->each) sb_str(o, ", \"each_thread\": true");
        sb_printf(o, ", \"%s\": %llu",
                  p->kernels.at[c->kernel].row == ROW_ATTEND ? "flops_per_row_and_key"
                                                             : "flops_per_row",
                  LL(c->flops));
        if (c->w.place == CG_WEIGHT) sb_printf(o, ", \"weight_bytes\": %llu", LL(c->weight_bytes));
        emit_refs(o, p, names, "in", c->in, CG_IN);
        emit_refs(o, p, names, "w", &c->w, 1);
        emit_refs(o, p, names, "aux", c->aux, CG_AUX);
        emit_refs(o, p, names, "out", c->out, CG_OUT);
        sb_ch(o, '}');
    }
    sb_printf(o, "\n    ]}%s\n", last ? "" : ",");
}

static const char *section_layout(const CgPlan *p, const CgSection *s)
{
    if (s->kind == CG_SEC_PACK) return op_str(p->m, def_of(p->m, s->value), A_LAYOUT);
    if (s->kind == CG_SEC_F16) return "f16 vector";
    return s->kind == CG_SEC_F32 ? "f32 vector" : "f32 vector, tiles of two blocks";
}

static void emit_weights(const CgPlan *p, StrBuf *o)
{
    sb_printf(o,
              "  \"weights\": {\n    \"bytes\": %llu,\n    \"read_per_token\": %llu,\n    "
              "\"data_offset\": %llu,\n    \"id\": \"",
              LL(p->data_bytes), LL(p->weight_bytes_per_token), LL(p->data_offset));
    for (u32 i = 0; i < 16; i++)
        sb_printf(o, "%02x", p->image_id[i]);
    sb_str(o, "\",\n    \"sections\": [");
    for (u32 i = 0; i < p->sections.n; i++) {
        const CgSection *s = &p->sections.at[i];
        sb_str(o, i ? ",\n      {" : "\n      {");
        key_str(o, "name", s->name);
        sb_str(o, ", ");
        key_str(o, "layout", section_layout(p, s));
        sb_printf(o, ", \"offset\": %llu, \"bytes\": %llu, \"sum\": \"%016llx\"}",
                  LL(p->image[i].offset), LL(p->image[i].bytes), LL(p->image[i].sum));
    }
    sb_str(o, "\n    ]\n  }\n");
}

static void emit_prefix(const CgBuild *b, StrBuf *o)
{
    const CgPlan *p = b->plan;
    sb_printf(o, "  \"context\": %lld,\n  \"prefix\": [", (long long)p->context);
    for (u32 i = 0; i < p->prefix; i++)
        sb_printf(o, "%s%d", i ? ", " : "", p->prefix_ids[i]);
    sb_str(o, "],\n  \"prefix_text\": [");
    for (u32 i = 0; i < p->prefix && b->opt->token_text; i++) {
        if (i) sb_str(o, ", ");
        sb_json_str(o, b->opt->token_text(b->opt->token_text_arg, p->prefix_ids[i]));
    }
    sb_str(o, "],\n");
}

/* JSON has no infinity: a quantity that is not finite is null. */
static void emit_number(StrBuf *o, Str word)
{
    double v;
    if (str_to_f64(word, &v))
        sb_add(o, word.p, word.n);
    else
        sb_str(o, "null");
}

/* The next number of a text of numbers between spaces; false at its end. */
static bool next_word(const char **text, Str *out)
{
    *text += strspn(*text, " ");
    *out = (Str){*text, strcspn(*text, " ")};
    *text += out->n;
    return out->n != 0;
}

/* A text of numbers as a list; with a group of more than one, a list of lists of so many. */
static void emit_numbers(StrBuf *o, const char *text, u32 group)
{
    Str word;
    sb_ch(o, '[');
    for (u32 i = 0; next_word(&text, &word); i++) {
        if (i) sb_str(o, group > 1 && i % group == 0 ? "], [" : ", ");
        if (!i && group > 1) sb_ch(o, '[');
        emit_number(o, word);
    }
    sb_str(o, group > 1 && o->p[o->n - 1] != '[' ? "]]" : "]");
}

/* What calibration measured: the module's facts whose keys begin with `key` and a dot, as an
 * object: a number, or the numbers of a text by groups. */
static void emit_measured(const CgPlan *p, const char *key, u32 group, StrBuf *o)
{
    const size_t n = strlen(key);
    bool first = true;
    sb_printf(o, "  \"%s\": {", key);
    for (u32 i = 0; i < p->m->meta.n; i++) {
        const KeyVal *kv = &p->m->meta.at[i];
        const char *name = ir_cstr(p->m, kv->key);
        if (strncmp(name, key, n) != 0 || name[n] != '.') continue;
        sb_str(o, first ? "\n    " : ",\n    ");
        first = false;
        sb_json_str(o, str_c(name + n + 1));
        sb_str(o, ": ");
        if (kv->kind == AK_STR)
            emit_numbers(o, ir_cstr(p->m, kv->val.s), group);
        else if (!ir_json_number(o, kv))
            sb_str(o, "null");
    }
    sb_str(o, first ? "},\n" : "\n  },\n");
}

enum { TOKEN_WORDS = 4 }; /* of "outlier_tokens": ratio, id, sequence, position */

/* What the tokens print that "outlier_tokens" has. */
static void emit_token_text(const CgBuild *b, StrBuf *o)
{
    const Module *m = b->plan->m;
    Map seen = {.a = o->a};
    Str word;
    i64 id;
    sb_str(o, "  \"token_text\": {");
    for (u32 i = 0; i < m->meta.n && b->opt->token_text; i++) {
        const KeyVal *kv = &m->meta.at[i];
        if (kv->kind != AK_STR || !str_starts(str_c(ir_cstr(m, kv->key)), "outlier_tokens."))
            continue;
        const char *text = ir_cstr(m, kv->val.s);
        for (u32 k = 0; next_word(&text, &word); k++) {
            bool added;
            if (k % TOKEN_WORDS != 1 || !str_to_i64(word, &id) || id < 0 || id > INT32_MAX)
                continue;
            map_put(&seen, word, &added);
            if (!added) continue;
            sb_printf(o, "%s\"%lld\": ", seen.entries.n > 1 ? ", " : "", (long long)id);
            sb_json_str(o, b->opt->token_text(b->opt->token_text_arg, (i32)id));
        }
    }
    sb_str(o, "},\n");
}

static void emit_names(const CgBuild *b, StrBuf *o)
{
    key_str(o, "pfqc", b->opt->version);
    sb_str(o, ",\n  ");
    key_str(o, "model", ir_cstr(b->plan->m, b->plan->m->name));
    sb_str(o, ",\n  ");
    key_str(o, "recipe", b->opt->recipe);
}

void cg_emit_passes_json(const CgBuild *b, StrBuf *o)
{
    sb_str(o, "{\n  \"changes\": 1,\n  ");
    emit_names(b, o);
    sb_printf(o, ",\n  \"passes\": [%s\n  ]\n}\n", b->opt->changes ? b->opt->changes : "");
}

void cg_emit_plan_json(const CgBuild *b, StrBuf *o)
{
    const CgPlan *p = b->plan;
    sb_str(o, "{\n  \"plan\": 1,\n  ");
    emit_names(b, o);
    sb_printf(o, ",\n  \"passes\": [%s\n  ],\n", b->opt->passes ? b->opt->passes : "");
    emit_prefix(b, o);
    emit_measured(p, "sqnr", 1, o);
    emit_measured(p, "outlier", 1, o);
    emit_measured(p, "outlier_bins", 1, o);
    emit_measured(p, "outlier_tokens", TOKEN_WORDS, o);
    emit_token_text(b, o);
    emit_targets(b, o);
    emit_memory(p, o);
    emit_kernels(b, o);
    sb_str(o, "  \"phases\": {\n");
    for (u32 i = 0; i < CG_N_PHASES; i++)
        emit_phase(p, &p->phase[i], i + 1 == CG_N_PHASES, o);
    sb_str(o, "  },\n");
    emit_weights(p, o);
    sb_str(o, "}\n");
}
