/* The emitted C: out/src/model.c (tables and schedule; those of CUDA are in emit_cuda.c) and one
 * file per specialised kernel. */
#include "codegen/plan.h"

#include "ir/text.h"

/* ---- pieces ---- */

static void c_string(StrBuf *o, const char *s)
{
    sb_ch(o, '"');
    for (; *s; s++) {
        const unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            sb_printf(o, "\\%c", c);
        else if (c < 32 || c > 126 || c == '?')
            sb_printf(o, "\\%03o", c); /* '?': no trigraphs */
        else
            sb_ch(o, (char)c);
    }
    sb_ch(o, '"');
}

void cg_emit_float(StrBuf *o, double v)
{
    const size_t at = o->n;
    sb_f32(o, (float)v);
    sb_str(o, strpbrk(o->p + at, ".en") ? "f" : ".0f");
}

/* Text inside a comment: what could end it is broken up, control characters become spaces. */
void cg_emit_comment(StrBuf *o, const char *s)
{
    for (; *s; s++) {
        const unsigned char c = (unsigned char)*s;
        sb_ch(o, c < 32 || c == 127 ? ' ' : (char)c);
        if ((s[0] == '*' && s[1] == '/') || (s[0] == '/' && s[1] == '*')) sb_ch(o, ' ');
    }
}

static void ref(StrBuf *o, const CgPlan *p, const CgRef *r)
{
    switch (r->place) {
    case CG_NONE: sb_str(o, "NULL"); break;
    case CG_ACT: sb_printf(o, "act + %llu", (unsigned long long)r->off); break;
    case CG_KV: sb_printf(o, "kv + %llu * ctx", (unsigned long long)r->off); break;
    case CG_PRIVATE: sb_printf(o, "own + %llu", (unsigned long long)r->off); break;
    case CG_TOKENS: sb_str(o, "x->tokens"); break;
    case CG_LOGITS: sb_str(o, "x->logits"); break;
    case CG_WEIGHT:
        sb_printf(o, "w + %llu", (unsigned long long)p->image[r->section].offset);
        break;
    case CG_ORDER:
    case CG_STAGED:
    case CG_VALUE:
    case CG_SAMPLER: BUG("an operand of GPUs alone");
    }
}

/* ", .in = {a, b}" up to the last slot used; nothing if none is. */
static void slots(StrBuf *o, const CgPlan *p, const char *name, const CgRef *r, u32 n,
                  CgEmitRef *emit)
{
    while (n && r[n - 1].place == CG_NONE)
        n--;
    if (!n) return;
    sb_printf(o, ", .%s = {", name);
    for (u32 i = 0; i < n; i++) {
        if (i) sb_str(o, ", ");
        emit(o, p, &r[i]);
    }
    sb_ch(o, '}');
}

void cg_emit_operands(StrBuf *o, const CgPlan *p, const CgCall *c, CgEmitRef *emit)
{
    slots(o, p, "in", c->in, CG_IN, emit);
    if (c->w.place != CG_NONE) {
        sb_str(o, ", .w = ");
        emit(o, p, &c->w);
    }
    slots(o, p, "aux", c->aux, CG_AUX, emit);
    slots(o, p, "out", c->out, CG_OUT, emit);
}

/* ---- the schedule ---- */

/* An op for a reader: its text without the attributes that the place of the comment already tells.
 */
static void op_comment(StrBuf *o, Module *m, const Op *op)
{
    const char *text = ir_op_text(m, op), *open = NULL;
    for (const char *p = text; (p = strstr(p, " {")); p++)
        open = p;
    const char *close = open ? strchr(open, '}') : NULL;
    if (!close) {
        cg_emit_comment(o, text);
        return;
    }
    StrBuf keep = {.a = o->a};
    sb_add(&keep, text, (size_t)(open - text));
    bool any = false;
    int depth = 0;
    for (const char *item = open + 2, *p = item; p <= close; p++) {
        depth += (*p == '[') - (*p == ']');
        if (p != close && (depth || *p != ',')) continue;
        if (strncmp(item, "layer =", 7) != 0 && strncmp(item, "at = [-1]", 9) != 0) {
            sb_str(&keep, any ? ", " : " {");
            sb_add(&keep, item, (size_t)(p - item));
            any = true;
        }
        item = p + 2;
    }
    if (any) sb_ch(&keep, '}');
    sb_str(&keep, close + 1);
    cg_emit_comment(o, keep.p);
}

void cg_emit_step_ops(StrBuf *o, Module *m, const CgPhase *ph, u32 step, const char *margin)
{
    const Fn *fn = &m->fns.at[ph->fn];
    sb_printf(o, "step %u: ", step);
    cg_emit_comment(o, ir_cstr(m, fn->steps.at[step - 1].kernel));
    for (u32 i = 0; i < fn->body.n; i++) {
        const Op *op = op_at(m, fn->body.at[i]);
        if (op->step != step) continue;
        sb_printf(o, "\n%s *   ", margin);
        op_comment(o, m, op);
    }
}

void cg_emit_uses(StrBuf *o, const CgPlan *p, const CgPhase *ph, u32 step)
{
    const CgCall *first = NULL;
    i32 lo = -1, hi = -1;
    u32 n = 0;
    for (u32 i = 0; i < ph->calls.n && !first; i++)
        if (ph->calls.at[i].step == step) first = &ph->calls.at[i];
    for (u32 i = 0; first && i < ph->calls.n; i++) {
        const CgCall *c = &ph->calls.at[i];
        if (c->kernel != first->kernel) continue;
        n++;
        if (c->layer < 0) continue;
        lo = lo < 0 ? c->layer : lo;
        hi = c->layer;
    }
    sb_printf(o, " In @%s, ", ph->name);
    if (n > 1) sb_printf(o, "%u times", n);
    if (n > 1 && lo >= 0) sb_printf(o, lo < hi ? " in layers %d to %d" : " in layer %d", lo, hi);
    if (n > 1) sb_str(o, ", first ");
    cg_emit_step_ops(o, p->m, ph, step, "");
}

static void step_comment(StrBuf *o, Module *m, const CgPhase *ph, u32 step)
{
    sb_str(o, "\n    /* ");
    cg_emit_step_ops(o, m, ph, step, "    ");
    sb_str(o, " */\n");
}

static bool uses_place(const CgPhase *ph, CgPlace place)
{
    for (u32 i = 0; i < ph->calls.n; i++) {
        const CgCall *c = &ph->calls.at[i];
        if (c->w.place == place) return true;
        for (u32 k = 0; k < CG_IN; k++)
            if (c->in[k].place == place || c->aux[k].place == place ||
                (k < CG_OUT && c->out[k].place == place))
                return true;
    }
    return false;
}

static bool is_linear(const CgPlan *p, const CgCall *c)
{
    return cg_row_is(p->kernels.at[c->kernel].row, "linear");
}

/* Decode waits for weights from memory, and each linear would begin with a cold start: so every
 * thread, done with its share of one, asks for the beginning of its share of the next before it
 * waits for the others. */
static void emit_ahead(const CgPlan *p, const CgPhase *ph, u32 call, StrBuf *o)
{
    if (!is_linear(p, &ph->calls.at[call])) return;
    for (u32 i = call + 1; i < ph->calls.n; i++) {
        const CgCall *c = &ph->calls.at[i];
        if (!is_linear(p, c)) continue;
        const PfqImageSection *s = &p->image[c->w.section];
        sb_printf(o, "    AHEAD(%llu, %llu);\n", (unsigned long long)s->offset,
                  (unsigned long long)s->bytes);
        return;
    }
}

static void emit_phase(const CgBuild *b, const CgPhase *ph, StrBuf *o)
{
    const CgPlan *p = b->plan;
    sb_printf(o, "\nstatic void %s(const PfqExec *x)\n{\n", ph->name);
    if (uses_place(ph, CG_ACT)) sb_str(o, "    char *const act = x->act;\n");
    if (uses_place(ph, CG_KV))
        sb_str(o, "    char *const kv = x->kv;\n    const size_t ctx = (size_t)x->ctx;\n");
    if (uses_place(ph, CG_WEIGHT)) sb_str(o, "    const char *const w = x->weights;\n");
    if (uses_place(ph, CG_PRIVATE))
        sb_printf(o, "    char *const own = (char *)x->scratch + %llu;\n",
                  (unsigned long long)p->kernel_scratch);
    i32 layer = -1;
    u32 step = 0;
    for (u32 i = 0; i < ph->calls.n; i++) {
        const CgCall *c = &ph->calls.at[i];
        if (c->layer != layer && c->layer >= 0)
            sb_printf(o, "\n    /* ---- layer %d ---- */\n", c->layer);
        layer = c->layer;
        if (c->step != step) step_comment(o, p->m, ph, c->step);
        step = c->step;
        if (c->barrier) sb_str(o, "    pfq_barrier(x->barrier);\n");
        sb_printf(o, "    %s(%s", c->each ? "EACH" : "CALL", p->kernels.at[c->kernel].name);
        cg_emit_operands(o, p, c, ref);
        sb_str(o, ");\n");
        if (ph == &p->phase[CG_DECODE]) emit_ahead(p, ph, i, o);
    }
    sb_str(o, "}\n");
}

static void emit_kernel_names(const CgPlan *p, StrBuf *o)
{
    sb_str(o, "\n/* Kernels, specialised to this model; their sources are in src/kernels and "
              "src/cuda. */\n#define "
              "KERNELS(X)");
    for (u32 i = 0; i < p->kernels.n; i++)
        sb_printf(o, " \\\n    X(%s)", p->kernels.at[i].name);
    sb_str(o,
           "\n\nenum {\n#define X(name) K_##name,\n    KERNELS(X)\n#undef X\n    N_KERNELS\n};\n");
}

static void emit_variants(const CgBuild *b, StrBuf *o)
{
    const CgTargets *t = b->targets;
    for (u32 i = 0; i < t->n_cpu; i++) {
        const char *v = t->cpu[i].variant->name;
        sb_printf(o, "\n#define X(name) PfqKernel %s_##name;\nKERNELS(X)\n#undef X\n", v);
        sb_printf(o,
                  "static PfqKernel *const kernels_%s[N_KERNELS] = {\n#define X(name) %s_##name,\n "
                  "   KERNELS(X)\n#undef X\n};\n",
                  v, v);
    }
    sb_str(o, "\nstatic const PfqVariant variants[] = {\n");
    for (u32 i = 0; i < t->n_cpu; i++) {
        const CgVariant *v = t->cpu[i].variant;
        sb_printf(o, "    {\"%s\", 0x%xu, kernels_%s}, /* tuned for %s */\n", v->name, v->bits,
                  v->name, t->cpu[i].tune);
    }
    sb_str(
        o,
        "};\n\n"
        "/* One kernel call by all threads, each its share; EACH: every thread does all of "
        "it, privately. */\n"
        "#define ARGS(...) &(const PfqArgs){.T = x->T, .pos = x->pos, .ctx = x->ctx, "
        ".rows = x->rows, .slot = x->slot, .scratch = x->scratch, __VA_ARGS__}\n"
        "#define CALL(name, ...) x->kernel[K_##name](ARGS(__VA_ARGS__), x->tid, x->nt)\n"
        "#define EACH(name, ...) x->kernel[K_##name](ARGS(__VA_ARGS__), 0, 1)\n"
        "\n/* Asks for the first 8 KiB of this thread's share of weights that are needed soon. */\n"
        "#define AHEAD(offset, bytes) ahead(x->weights + (offset) + (size_t)(bytes) / "
        "(size_t)x->nt * (size_t)x->tid)\n"
        "static inline void ahead(const char *p)\n{\n"
        "    for (int i = 0; i < 8192; i += 64) __builtin_prefetch(p + i, 0, 2);\n}\n");
}

static void emit_expect(const PfqExpect *e, StrBuf *o)
{
    if (!e) return;
    sb_str(o, "\n/* For self-test: logits that pfqc's reference evaluator computed. */\nstatic "
              "const int32_t expect_tokens[] = {");
    for (i32 i = 0; i < e->n_tokens; i++)
        sb_printf(o, "%s%d", i ? ", " : "", e->tokens[i]);
    sb_str(o, "};\nstatic const int32_t expect_ids[] = {");
    for (i32 i = 0; i < e->n_top; i++)
        sb_printf(o, "%s%d", i ? ", " : "", e->top_ids[i]);
    sb_str(o, "};\nstatic const float expect_logits[] = {");
    for (i32 i = 0; i < e->n_top; i++) {
        if (i) sb_str(o, ", ");
        cg_emit_float(o, (double)e->top_logits[i]);
    }
    sb_printf(
        o,
        "};\nstatic const PfqExpect expect = {%d, expect_tokens, %d, expect_ids, expect_logits, ",
        e->n_tokens, e->n_top);
    cg_emit_float(o, (double)e->tolerance);
    sb_str(o, "};\n");
}

static void field_str(StrBuf *o, const char *name, const char *v)
{
    sb_printf(o, "    .%s = ", name);
    c_string(o, v ? v : "");
    sb_str(o, ",\n");
}

/* The prefix's ids, which the module keeps as text. */
static void emit_prefix(const CgPlan *p, StrBuf *o)
{
    if (!p->prefix) return;
    sb_str(o,
           "\n/* Tokens in front of every sequence; their keys and values are in the weights. */\n"
           "static const int32_t prefix_ids[] = {");
    for (u32 i = 0; i < p->prefix; i++)
        sb_printf(o, "%s%d", i ? ", " : "", p->prefix_ids[i]);
    sb_str(o, "};\n");
}

static void emit_kv(const CgPlan *p, StrBuf *o)
{
    if (!p->kv.n) return;
    sb_str(o, "\n/* Parts of the KV cache: offset times ctx, heads, bytes of a row. */\n"
              "static const PfqKvState kv_states[] = {\n");
    for (u32 i = 0; i < p->kv.n; i++) {
        const CgKvState *s = &p->kv.at[i];
        sb_printf(o, "    {%llu, %u, %u},\n", (unsigned long long)s->off, s->heads, s->bytes);
    }
    sb_str(o, "};\n");
}

static void emit_model(const CgBuild *b, StrBuf *o)
{
    static const char *const numbers[] = {"vocab",    "layers", "hidden", "heads", "kv_heads",
                                          "head_dim", "ffn",    "chunk",  "rows"};
    const CgPlan *p = b->plan;
    const CgOptions *opt = b->opt;
    if (opt->tokenizer) sb_str(o, "\nextern const unsigned char pfq_tokenizer_blob[];\n");
    if (opt->chat) sb_str(o, "\nextern const unsigned char pfq_chat_blob[];\n");
    sb_str(o, "\nconst PfqModel pfq_model = {\n    .abi = PFQ_ABI_VERSION,\n");
    field_str(o, "name", ir_cstr(p->m, p->m->name));
    field_str(o, "recipe", opt->recipe);
    field_str(o, "version", opt->version);
    field_str(o, "arch", ir_meta_get_str(p->m, "arch", ""));
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sb_printf(o, "    .%s = %lld,\n", numbers[i],
                  (long long)ir_meta_get_int(p->m, numbers[i], 0));
    sb_printf(o, "    .context = %lld,\n", (long long)p->context);
    if (p->prefix) sb_printf(o, "    .prefix = %u,\n    .prefix_ids = prefix_ids,\n", p->prefix);
    const struct {
        const char *name;
        u64 v;
    } sizes[] = {
        {"act_bytes", p->act_bytes},
        {"scratch_bytes", p->scratch_bytes},
        {"kv_row_bytes", p->kv_row_bytes},
        {"weight_bytes", p->data_bytes},
        {"weight_bytes_per_token", p->weight_bytes_per_token},
        {"params", (u64)ir_meta_get_int(p->m, "params", 0)},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        sb_printf(o, "    .%s = %lluu,\n", sizes[i].name, (unsigned long long)sizes[i].v);
    if (p->kv.n) sb_printf(o, "    .n_kv = %u,\n    .kv = kv_states,\n", p->kv.n);
    sb_str(o, "    .image_id = {");
    for (u32 i = 0; i < 16; i++)
        sb_printf(o, "%s0x%02x", i ? ", " : "", p->image_id[i]);
    sb_str(o, "},\n    .n_kernels = N_KERNELS,\n");
    if (b->targets->n_cpu)
        sb_printf(o,
                  "    .prefill = prefill,\n    .logits = logits,\n    .decode = decode,\n"
                  "    .n_variants = %u,\n    .variants = variants,\n",
                  b->targets->n_cpu);
    if (b->cuda) sb_str(o, "    .cuda = &cuda,\n");
    if (opt->tokenizer)
        sb_printf(o, "    .tokenizer = pfq_tokenizer_blob,\n    .tokenizer_bytes = %zu,\n",
                  opt->tokenizer_bytes);
    if (opt->chat)
        sb_printf(o, "    .chat = pfq_chat_blob,\n    .chat_bytes = %zu,\n", opt->chat_bytes);
    if (p->expect) sb_str(o, "    .expect = &expect,\n");
    sb_str(o, "};\n");
}

/* The ids of a step's ops, as a dump has them: an op's results, or its mnemonic where it has none.
 */
static void op_ids(StrBuf *o, Module *m, const CgPhase *ph, u32 step, const char **names)
{
    const Fn *fn = &m->fns.at[ph->fn];
    StrBuf ids = {.a = o->a};
    sb_str(&ids, "");
    for (u32 i = 0; i < fn->body.n; i++) {
        const Op *op = op_at(m, fn->body.at[i]);
        if (op->step != step) continue;
        for (u32 k = 0; k < op->nout; k++)
            sb_printf(&ids, "%s%s", ids.n ? " " : "", names[op->out + k]);
        if (op->nout) continue;
        const char *text = ir_op_text(m, op);
        sb_printf(&ids, "%s%.*s", ids.n ? " " : "", (int)strcspn(text, " "), text);
    }
    c_string(o, ids.p);
}

static void emit_steps(const CgPlan *p, StrBuf *o)
{
    sb_str(o, "\n/* What the calls compute, for --trace. */\n");
    for (u32 k = 0; k < CG_N_PHASES; k++) {
        const CgPhase *ph = &p->phase[k];
        const char **names = ir_value_names(p->m, ph->fn, o->a);
        sb_printf(o, "static const PfqStep steps_%s[] = {\n", ph->name);
        for (u32 i = 0; i < ph->calls.n; i++) {
            const CgCall *c = &ph->calls.at[i];
            sb_printf(o, "    {%u, %d, ", c->step, c->layer);
            c_string(o, ir_cstr(p->m, p->m->fns.at[ph->fn].steps.at[c->step - 1].kernel));
            sb_str(o, ", ");
            op_ids(o, p->m, ph, c->step, names);
            sb_str(o, "},\n");
        }
        sb_str(o, "};\n");
    }
    sb_str(o, "const PfqSteps pfq_steps[PFQ_N_PHASES] = {\n");
    for (u32 k = 0; k < CG_N_PHASES; k++)
        sb_printf(o, "    {steps_%s, %u},\n", p->phase[k].name, p->phase[k].calls.n);
    sb_str(o, "};\n");
}

static void emit_schedule(const CgBuild *b, StrBuf *o)
{
    sb_str(o,
           "\n/* For CPUs. Each phase is a straight line of kernel calls on fixed places: act "
           "(activation arena), kv (cache), w (weight\n"
           " * image), own (this thread's memory). Every thread runs all of it; a kernel takes its "
           "share by (tid, nt). A barrier\n"
           " * stands where a call touches what another thread may still be writing or reading. "
           "*/\n");
    emit_variants(b, o);
    for (u32 i = 0; i < CG_N_PHASES; i++)
        emit_phase(b, &b->plan->phase[i], o);
}

void cg_emit_model(const CgBuild *b, StrBuf *o)
{
    const CgPlan *p = b->plan;
    sb_str(o, "/* ");
    cg_emit_comment(o, ir_cstr(p->m, p->m->name));
    sb_str(o,
           ": the schedule, generated by pfqc. abi.h beside this file explains the types. The "
           "comment before a call\n"
           " * is what the call computes, in pfqc's IR; at = its place. */\n#include \"abi.h\"\n");
    emit_kernel_names(p, o);
    if (b->targets->n_cpu) emit_schedule(b, o);
    if (b->cuda) cg_emit_cuda_tables(b, o);
    emit_steps(p, o);
    emit_expect(p->expect, o);
    emit_prefix(p, o);
    emit_kv(p, o);
    emit_model(b, o);
}

/* ---- kernels ---- */

void cg_emit_constants(StrBuf *o, const double *val, u64 which)
{
    for (u32 i = 0; i < CG_N_CONSTS; i++) {
        if (!(which >> i & 1)) continue;
        sb_printf(o, "static const %s %s = ", cg_const_info[i].is_float ? "float" : "int32_t",
                  cg_const_info[i].name);
        if (cg_const_info[i].is_float)
            cg_emit_float(o, val[i]);
        else
            sb_printf(o, "%.0f", val[i]);
        sb_str(o, ";\n");
    }
}

/* What the kernel computes, of the phase that runs for each token where that has it. */
static void emit_first_use(const CgPlan *p, u32 kernel, StrBuf *o)
{
    for (u32 k = CG_N_PHASES; k-- > 0;) {
        const CgPhase *ph = &p->phase[k];
        for (u32 i = 0; i < ph->calls.n; i++) {
            if (ph->calls.at[i].kernel != kernel) continue;
            sb_str(o, " *");
            cg_emit_uses(o, p, ph, ph->calls.at[i].step);
            sb_ch(o, '\n');
            return;
        }
    }
}

void cg_emit_kernel(const CgBuild *b, u32 kernel, StrBuf *o)
{
    const CgKernel *k = &b->plan->kernels.at[kernel];
    const CgRow *row = &cg_rows[k->row];
    sb_printf(o,
              "/* %s: %s with this model's constants, called from %u places. What pfqc compiled; "
              "by hand:\n",
              k->name, row->name, k->calls);
    for (u32 i = 0; i < b->targets->n_cpu; i++) {
        const CgVariant *v = b->targets->cpu[i].variant;
        sb_printf(o, " *   clang -O3 -std=gnu17 -march=%s", v->cpu);
        for (const char *f = v->features; *f; f++) {
            if (*f == '+')
                sb_str(o, " -m");
            else if (*f != ',')
                sb_ch(o, *f);
        }
        sb_printf(o, " -ffp-contract=off -fno-math-errno -S %s.c\n", k->name);
    }
    emit_first_use(b->plan, kernel, o);
    sb_str(o, " */\n#include <stdint.h>\n\n");
    cg_emit_constants(o, k->val, cg_template_uses("cpu", row->template));
    sb_printf(o, "\n#define %s %s\n#include \"../templates/%s\"\n", row->entry, k->name,
              row->template);
}

void cg_emit_template(const char *file, StrBuf *o)
{
    Str text;
    if (!cg_embedded_find(file, &text)) BUG("no template %s", file);
    static const char from[] = "#include \"runtime/abi.h\"", to[] = "#include \"../abi.h\"";
    const char *at = memmem(text.p, text.n, from, sizeof from - 1);
    if (!at) {
        sb_add(o, text.p, text.n);
        return;
    }
    sb_add(o, text.p, (size_t)(at - text.p));
    sb_str(o, to);
    at += sizeof from - 1;
    sb_add(o, at, text.n - (size_t)(at - text.p));
}
