/* The emitted CUDA: out/src/cuda/NAME.cu, and model.c's tables for the runtime's CUDA back end. */
#include "codegen/plan.h"

#define LL(x) ((unsigned long long)(x))

void cg_emit_cuda_kernel(const CgPlan *p, u32 kernel, StrBuf *o)
{
    const CgKernel *k = &p->kernels.at[kernel];
    const CgCudaRow *row = &cg_cuda_rows[k->row];
    const CgPhase *ph;
    const CgCall *call = cg_first_call(p, kernel, &ph);
    sb_printf(
        o,
        "/* %s: %s with this model's constants, called from %u places. What pfqc compiled; by "
        "hand:\n *   nvcc -std=c++17 -fmad=false -arch=sm_90a -cubin %s.cu\n * In @%s, ",
        k->name, cg_rows[k->row].name, k->calls, k->name, ph->name);
    cg_emit_step_ops(o, p->m, ph, call->step, "");
    sb_printf(o,
              " */\n#define PFQ_ENTRY\n#define PFQ_WANT_%s , PFQ_GLOBAL\n"
              "#include \"templates/kernel.cuh\"\n\n",
              row->entry);
    cg_emit_constants(o, k, cg_template_uses("cuda", row->template));
    sb_printf(o, "\n#define %s %s\n#include \"templates/%s\"\n", row->entry, k->name,
              row->template);
}

/* ---- model.c ---- */

static void ref(StrBuf *o, const CgPlan *p, const CgRef *r)
{
    switch (r->place) {
    case CG_NONE: sb_str(o, "NONE"); break;
    case CG_ACT: sb_printf(o, "ACT(%llu)", LL(r->off)); break;
    case CG_KV: sb_printf(o, "KV(%llu)", LL(r->off)); break;
    case CG_PRIVATE: sb_printf(o, "OWN(%llu)", LL(r->off)); break;
    case CG_TOKENS: sb_str(o, "TOKENS"); break;
    case CG_LOGITS: sb_str(o, "LOGITS"); break;
    case CG_WEIGHT: sb_printf(o, "W(%llu)", LL(p->image[r->section].offset)); break;
    }
}

/* Calls that every thread of a CPU does for itself are ordinary ones here: what they write has one
 * copy. */
static void emit_calls(const CgPlan *p, const CgPhase *ph, StrBuf *o)
{
    sb_printf(o, "\nstatic const PfqCudaCall cuda_%s[] = {\n", ph->name);
    i32 layer = -1;
    u32 step = 0;
    for (u32 i = 0; i < ph->calls.n; i++) {
        const CgCall *c = &ph->calls.at[i];
        if (c->layer != layer && c->layer >= 0)
            sb_printf(o, "    /* ---- layer %d ---- */\n", c->layer);
        layer = c->layer;
        if (c->step != step) {
            sb_str(o, "    /* ");
            cg_emit_step_ops(o, p->m, ph, c->step, "    ");
            sb_str(o, " */\n");
        }
        step = c->step;
        sb_printf(o, "    {.kernel = K_%s", p->kernels.at[c->kernel].name);
        cg_emit_operands(o, p, c, ref);
        sb_str(o, "},\n");
    }
    sb_str(o, "};\n");
}

static void emit_kernels(const CgPlan *p, StrBuf *o)
{
    sb_str(o, "\n/* Name, entry, threads of a block, blocks along x, tokens of a block, bytes of "
              "shared memory. */\nstatic const PfqCudaKernel cuda_kernels[N_KERNELS] = {\n");
    for (u32 i = 0; i < p->kernels.n; i++) {
        const CgKernel *k = &p->kernels.at[i];
        const CgLaunch l = cg_launch(k);
        sb_printf(o, "    {\"%s\", \"%s\", %lld, %lld, %lld, %lld},\n", k->name, k->name,
                  (long long)l.block, (long long)l.grid_x, (long long)l.rows, (long long)l.shared);
    }
    sb_str(o, "};\n");
}

static void emit_code(const CgCuda *cuda, StrBuf *o)
{
    sb_str(o, "\n/* The kernels' machine code, compiled from src/cuda. */\n"
              "extern const unsigned char pfq_cuda_code[];\n");
    for (u32 c = 0; c < cuda->n_codes; c++) {
        const CgCode *code = &cuda->code[c];
        sb_printf(o, "static const void *const image_%s[N_KERNELS] = {", code->arch);
        for (u32 i = 0; i < cuda->n_kernels; i++)
            sb_printf(o, "%s\n    pfq_cuda_code + %llu", i ? "," : "", LL(code->at[i]));
        sb_printf(o, "\n};\nstatic const uint64_t bytes_%s[N_KERNELS] = {", code->arch);
        for (u32 i = 0; i < cuda->n_kernels; i++)
            sb_printf(o, "%s%llu", i ? ", " : "", LL(code->image[i].bytes));
        sb_str(o, "};\n");
    }
    sb_str(o, "static const PfqCudaCode cuda_codes[] = {\n");
    for (u32 c = 0; c < cuda->n_codes; c++) {
        const CgCode *code = &cuda->code[c];
        sb_printf(o, "    {\"%s\", %d, %d, %s, %s, image_%s, bytes_%s},\n", code->arch, code->major,
                  code->minor, code->exact ? "true" : "false", code->ptx ? "true" : "false",
                  code->arch, code->arch);
    }
    sb_str(o, "};\n");
}

void cg_emit_cuda_tables(const CgBuild *b, StrBuf *o)
{
    const CgPlan *p = b->plan;
    sb_str(o, "\n/* For GPUs: the calls as tables, in order, each on fixed places: bytes from the "
              "start of the activation arena, the cache\n"
              " * (times ctx), the weight image, and what CPU threads keep for themselves. */\n"
              "#define NONE {PFQ_AT_NONE, 0}\n#define ACT(off) {PFQ_AT_ACT, off}\n"
              "#define KV(off) {PFQ_AT_KV, off}\n#define OWN(off) {PFQ_AT_OWN, off}\n"
              "#define TOKENS {PFQ_AT_TOKENS, 0}\n#define LOGITS {PFQ_AT_LOGITS, 0}\n"
              "#define W(off) {PFQ_AT_WEIGHT, off}\n");
    for (u32 i = 0; i < CG_N_PHASES; i++)
        emit_calls(p, &p->phase[i], o);
    emit_kernels(p, o);
    emit_code(b->cuda, o);
    sb_printf(o,
              "static const PfqCuda cuda = {\n    .n_kernels = N_KERNELS,\n    .n_codes = %u,\n"
              "    .kernel = cuda_kernels,\n    .code = cuda_codes,\n",
              b->cuda->n_codes);
    for (u32 i = 0; i < CG_N_PHASES; i++)
        sb_printf(o, "    .%s = {cuda_%s, %u},\n", p->phase[i].name, p->phase[i].name,
                  p->phase[i].calls.n);
    sb_printf(o, "    .own_bytes = %lluu,\n    .driver = %d,\n};\n",
              LL(p->scratch_bytes - p->kernel_scratch), b->cuda->driver);
}
