/* The emitted CUDA: out/src/cuda/NAME.cu, and model.c's tables for the runtime's CUDA back end. */
#include "codegen/plan.h"

#define LL(x) ((unsigned long long)(x))

void cg_emit_cuda_kernel(const CgCuda *cuda, u32 kernel, StrBuf *o)
{
    const CgCudaKernel *k = &cuda->kernels.at[kernel];
    sb_printf(
        o,
        "/* %s: %s with this model's constants, called from %u places. What pfqc compiled; by "
        "hand:\n *   nvcc -std=c++17 -fmad=false -arch=sm_90a -cubin %s.cu\n *",
        k->name, k->what, k->calls, k->name);
    if (k->phase != CG_NO_PHASE)
        cg_emit_uses(o, cuda->plan, &cuda->plan->phase[k->phase], k->step);
    sb_printf(o,
              " */\n#define PFQ_ENTRY\n#define PFQ_WANT_%s , PFQ_GLOBAL\n"
              "#include \"templates/kernel.cuh\"\n\n",
              k->row->entry);
    cg_emit_constants(o, k->val, k->uses);
    if (k->prelude) sb_str(o, k->prelude);
    sb_printf(o, "\n#define %s %s\n#include \"templates/%s\"\n", k->row->entry, k->name,
              k->row->template);
}

/* ---- model.c ---- */

static void ref(StrBuf *o, const CgPlan *p, const CgRef *r)
{
    (void)p;
    switch (r->place) {
    case CG_NONE: sb_str(o, "NONE"); break;
    case CG_ACT: sb_printf(o, "ACT(%llu)", LL(r->off)); break;
    case CG_KV: sb_printf(o, "KV(%llu)", LL(r->off)); break;
    case CG_PRIVATE: sb_printf(o, "OWN(%llu)", LL(r->off)); break;
    case CG_TOKENS: sb_str(o, "TOKENS"); break;
    case CG_LOGITS: sb_str(o, "LOGITS"); break;
    case CG_WEIGHT: sb_printf(o, "W(%llu)", LL(r->off)); break;
    case CG_ORDER: sb_str(o, "ORDER"); break;
    case CG_STAGED: sb_printf(o, "STAGED(%llu)", LL(r->off)); break;
    case CG_VALUE: sb_printf(o, "VALUE(%llu)", LL(r->off)); break;
    case CG_SAMPLER: sb_str(o, "SAMPLER"); break;
    }
}

static void emit_call(const CgCuda *cuda, const CgCudaCall *c, StrBuf *o)
{
    sb_str(o, "{.kernel = ");
    if (c->kernel == CG_NO_KERNEL)
        sb_str(o, "-1");
    else
        sb_printf(o, "G_%s", cuda->kernels.at[c->kernel].name);
    if (c->from) sb_printf(o, ", .from = %d", c->from);
    if (c->to) sb_printf(o, ", .to = %d", c->to);
    if (c->c.step) sb_printf(o, ", .phase = %u, .step = %u", c->phase, c->c.step);
    cg_emit_operands(o, cuda->plan, &c->c, ref);
    if (c->kernel != CG_NO_KERNEL)
        sb_printf(o, ", .cost = {%llu, %llu, %llu, %llu, %llu}", LL(c->cost.ops),
                  LL(c->cost.key_ops), LL(c->cost.weights), LL(c->cost.row_bytes),
                  LL(c->cost.cache_bytes));
    sb_ch(o, '}');
}

/* Calls that every thread of a CPU does for itself are ordinary ones here: what they write has one
 * copy. */
static void emit_calls(const CgCuda *cuda, const CgCode *code, u32 phase, StrBuf *o)
{
    const CgPlan *p = cuda->plan;
    i32 layer = -1;
    u32 step = 0;
    for (u32 i = 0; i < code->call[phase].n; i++) {
        const CgCudaCall *call = &code->call[phase].at[i];
        const CgCall *c = &call->c;
        if (c->layer != layer && c->layer >= 0)
            sb_printf(o, "    /* ---- layer %d ---- */\n", c->layer);
        layer = c->layer;
        if (c->step != step) {
            sb_str(o, "    /* ");
            cg_emit_step_ops(o, p->m, &p->phase[call->phase], c->step, "    ");
            sb_str(o, " */\n");
        }
        step = c->step;
        sb_str(o, "    ");
        emit_call(cuda, call, o);
        sb_str(o, ",\n");
    }
}

static const char *const phase_ids[PFQ_CUDA_N_PHASES] = {"PREFILL", "LOGITS", "DECODE", "STEP",
                                                         "BATCH",   "STEPS",  "SAMPLE"};

/* The tables of all codes; those that are equal exist once, under the name of the first. */
typedef struct Tables {
    const char *text[CG_MAX_GPUS + 1], *name[CG_MAX_GPUS + 1];
    u32 n;
} Tables;

static const char *table(Tables *t, const char *type, const char *what, const char *arch,
                         StrBuf *text, StrBuf *o)
{
    for (u32 i = 0; i < t->n; i++)
        if (strcmp(t->text[i], text->p) == 0) return t->name[i];
    t->text[t->n] = text->p;
    t->name[t->n++] = arena_printf(o->a, "%s_%s", what, arch);
    sb_printf(o, "\nstatic const %s %s_%s[] = {\n%s};\n", type, what, arch, text->p);
    return t->name[t->n - 1];
}

static void emit_kernel(const CgCuda *cuda, const CgCode *code, u32 i, StrBuf *o)
{
    const CgCudaKernel *k = &cuda->kernels.at[i];
    const CgLaunch *l = &k->launch;
    sb_printf(o, "    [G_%s] = {\"%s\", \"%s\", %lld, %lld, %lld, %lld, ", k->name, k->name,
              cuda->kernels.at[k->source].name, (long long)l->block, (long long)l->grid_x,
              (long long)l->rows, (long long)l->shared);
    if (l->per_sm) sb_printf(o, ".per_sm = %lld, ", (long long)l->per_sm);
    if (l->flags) sb_printf(o, ".flags = %lld, ", (long long)l->flags);
    if (l->cluster) sb_printf(o, ".cluster = %lld, ", (long long)l->cluster);
    if (l->work) sb_printf(o, ".work = %llu, ", LL(l->work));
    if (l->sync) sb_printf(o, ".sync = %llu, ", LL(l->sync));
    sb_printf(o, ".image = pfq_cuda_code + %llu, .bytes = %llu},\n", LL(code->at[k->source]),
              LL(code->image[k->source].bytes));
}

static void emit_loads(const CgCuda *cuda, const CgCode *code, StrBuf *o)
{
    for (u32 i = 0; i < code->load.n; i++) {
        const CgCudaLoad *l = &code->load.at[i];
        sb_str(o, "    /* ");
        cg_emit_comment(o, cuda->plan->sections.at[l->section].name);
        sb_printf(o, " */\n    {%llu, %llu, ", LL(l->from), LL(l->bytes));
        emit_call(cuda, &l->call, o);
        sb_str(o, "},\n");
    }
}

/* Of each code: its kernels, loads and phases, and in *init how PfqCudaCode names them. */
static void emit_code(const CgCuda *cuda, u32 c, Tables *tables, StrBuf *init, StrBuf *o)
{
    const CgCode *code = &cuda->code[c];
    StrBuf kernels = {.a = o->a}, loads = {.a = o->a};
    for (u32 i = 0; i < cuda->kernels.n; i++)
        if (code->used[i]) emit_kernel(cuda, code, i, &kernels);
    sb_printf(o, "\nstatic const PfqCudaKernel kernels_%s[N_CUDA_KERNELS] = {\n%s};\n", code->arch,
              kernels.p);
    sb_printf(init, "    {\"%s\", %d, %d, %s, %s, N_CUDA_KERNELS, %u, kernels_%s,\n", code->arch,
              code->major, code->minor, code->exact ? "true" : "false",
              code->ptx ? "true" : "false", code->load.n, code->arch);
    emit_loads(cuda, code, &loads);
    sb_printf(init, "     .load = %s,\n     .phase = {\n",
              code->load.n
                  ? table(&tables[PFQ_CUDA_N_PHASES], "PfqCudaLoad", "load", code->arch, &loads, o)
                  : "NULL");
    for (u32 p = 0; p < PFQ_CUDA_N_PHASES; p++) {
        StrBuf calls = {.a = o->a};
        emit_calls(cuda, code, p, &calls);
        if (!code->call[p].n) continue;
        sb_printf(init, "         [PFQ_CUDA_%s] = {%s, %u},\n", phase_ids[p],
                  table(&tables[p], "PfqCudaCall", cg_cuda_phase_names[p], code->arch, &calls, o),
                  code->call[p].n);
    }
    sb_printf(init,
              "     },\n     .act_bytes = %lluu, .own_bytes = %lluu, .weight_bytes = %lluu},\n",
              LL(code->act_bytes), LL(code->own_bytes), LL(code->weight_bytes));
}

void cg_emit_cuda_tables(const CgBuild *b, StrBuf *o)
{
    const CgCuda *cuda = b->cuda;
    Tables tables[PFQ_CUDA_N_PHASES + 1] = {0};
    StrBuf init = {.a = o->a};
    sb_str(o, "\n/* For GPUs: the calls as tables, in order, each on fixed places: bytes from the "
              "start of the activation arena, the cache\n"
              " * (times ctx), the weights, and what CPU threads keep for themselves. Equal tables "
              "of several chips exist once. */\n"
              "#define NONE {PFQ_AT_NONE, 0}\n#define ACT(off) {PFQ_AT_ACT, off}\n"
              "#define KV(off) {PFQ_AT_KV, off}\n#define OWN(off) {PFQ_AT_OWN, off}\n"
              "#define TOKENS {PFQ_AT_TOKENS, 0}\n#define LOGITS {PFQ_AT_LOGITS, 0}\n"
              "#define W(off) {PFQ_AT_WEIGHT, off}\n#define ORDER {PFQ_AT_ORDER, 0}\n"
              "#define STAGED(off) {PFQ_AT_STAGED, off}\n#define VALUE(v) {PFQ_AT_VALUE, v}\n"
              "#define SAMPLER {PFQ_AT_SAMPLER, 0}\n"
              "\nenum {\n");
    for (u32 i = 0; i < cuda->kernels.n; i++)
        sb_printf(o, "    G_%s,\n", cuda->kernels.at[i].name);
    sb_str(o, "    N_CUDA_KERNELS\n};\n\n/* The kernels' machine code, compiled from src/cuda. "
              "*/\nextern const unsigned char pfq_cuda_code[];\n"
              "\n/* Name, entry, threads of a block, blocks along x, rows of a block, bytes of "
              "shared memory. */");
    for (u32 c = 0; c < cuda->n_codes; c++)
        emit_code(cuda, c, tables, &init, o);
    sb_printf(o,
              "\nstatic const PfqCudaCode cuda_codes[] = {\n%s};\n"
              "static const PfqCuda cuda = {.n_codes = %u, .driver = %d, .code = cuda_codes};\n",
              init.p, cuda->n_codes, cuda->driver);
}

u64 cg_cuda_table_bytes(const CgCuda *cuda, const CgCode *code)
{
    /* A kernel has its entry, two names, and relocations of the three. */
    u64 n = cuda->kernels.n * (sizeof(PfqCudaKernel) + 512) + sizeof(PfqCudaCode);
    for (u32 i = 0; i < PFQ_CUDA_N_PHASES; i++)
        n += code->call[i].n * sizeof(PfqCudaCall);
    return n + code->load.n * sizeof(PfqCudaLoad);
}
