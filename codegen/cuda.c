/* Kernels for GPUs: what the plan asks of codegen/cuda, compiled by NVRTC. */
#include "codegen/kernel_cache.h"
#include "codegen/plan.h"

#include "ir/text.h"

#include <stdlib.h>

void cg_cuda_note_step(Diag *d, const CgPlan *p, u32 phase, u32 step)
{
    if (phase == CG_NO_PHASE) return;
    const CgPhase *ph = &p->phase[phase];
    const Fn *fn = &p->m->fns.at[ph->fn];
    diag_note(d, "step %u of @%s", step, ph->name);
    for (u32 i = 0, n = 0; i < fn->body.n && n < 6; i++) {
        const Op *op = op_at(p->m, fn->body.at[i]);
        if (op->step != step) continue;
        diag_note(d, "%s", ir_op_text(p->m, op));
        n++;
    }
}

/* All files of codegen/cuda, under the names by which emitted sources and they themselves include
 * them: NVRTC takes a name as it is written. */
static void find_headers(Arena *a, NvrtcSource *s)
{
    VEC(const char *) names = {0}, texts = {0};
    const char *name;
    for (u32 i = 0; (name = cg_embedded_name(i)); i++) {
        if (strncmp(name, "cuda/", 5) != 0) continue;
        Str text;
        cg_embedded_find(name, &text);
        const char *copy = arena_strdup(a, text.p, text.n);
        vec_push(a, &names, arena_printf(a, "templates/%s", name + 5));
        vec_push(a, &texts, copy);
        vec_push(a, &names, name + 5);
        vec_push(a, &texts, copy);
    }
    s->n_headers = (int)names.n;
    s->header_names = names.at;
    s->headers = texts.at;
}

typedef struct Jobs {
    const Nvrtc *nvrtc;
    const NvrtcSource *src; /* [kernels.n] */
    CgCuda *out;
    struct Pair {
        CgCode *code;
        u32 kernel;
    } *todo;
} Jobs;

static bool compile_one(void *arg, u32 i)
{
    const Jobs *j = arg;
    const u32 k = j->todo[i].kernel;
    CgCode *c = j->todo[i].code;
    nvrtc_compile(j->nvrtc, &j->src[k], c->arch, &c->image[k]);
    return !c->image[k].error;
}

/* Is the kernel's code compiled for this target? Kernels that share code are compiled once. */
static bool is_source(const CgCuda *cuda, const CgCode *c, u32 kernel)
{
    for (u32 i = 0; i < cuda->kernels.n; i++)
        if (c->used[i] && cuda->kernels.at[i].source == kernel) return true;
    return false;
}

static NvrtcSource *sources(const CgCuda *cuda)
{
    Arena *a = cuda->plan->a;
    NvrtcSource *src = NEWN(a, NvrtcSource, cuda->kernels.n), headers;
    find_headers(a, &headers);
    for (u32 i = 0; i < cuda->kernels.n; i++) {
        StrBuf text = {.a = a};
        cg_emit_cuda_kernel(cuda, i, &text);
        src[i] = headers;
        src[i].name = arena_printf(a, "src/cuda/%s.cu", cuda->kernels.at[i].name);
        src[i].text = text.p;
    }
    return src;
}

/* What is not kept from an earlier compile; those that take longest, which have tables of their own
 * in front, first, so that no thread is left alone with one. */
static u32 find_work(const CgCuda *cuda, const KernelCache *cache, Jobs *jobs)
{
    u32 n = 0;
    for (int first = 1; first >= 0; first--)
        for (u32 c = 0; c < cuda->n_codes; c++)
            for (u32 i = 0; i < cuda->kernels.n; i++) {
                CgCode *code = &cuda->code[c];
                if (!is_source(cuda, code, i) || (cuda->kernels.at[i].prelude != NULL) != first ||
                    kernel_cache_get(cache, &jobs->src[i], code->arch, &code->image[i]))
                    continue;
                jobs->todo[n++] = (struct Pair){code, i};
            }
    return n;
}

/* Right code, but slow: which kernels it hits depends on the version of NVRTC. */
static void warn_serialised(Diag *d, const Nvrtc *nvrtc, const CgCuda *cuda)
{
    const char *name = NULL;
    u32 n = 0;
    for (u32 c = 0; c < cuda->n_codes; c++)
        for (u32 i = 0; i < cuda->kernels.n; i++)
            if (cuda->code[c].image[i].serialised) name = cuda->kernels.at[i].name, n++;
    if (!n) return;
    diag_warn(
        d, LOC_WHAT("nvrtc"),
        "%s finds too few registers in %u kernel%s, such as %s, whose products then wait for one "
        "another",
        nvrtc_name(nvrtc), n, n == 1 ? "" : "s", name);
    diag_hint(d,
              "NVRTC 13.5 does not (a prompt takes 26 ms instead of 33, docs/performance.md): `pip "
              "install -U nvidia-cuda-nvrtc`, and name its folder in PFQC_NVRTC");
}

static bool compile_all(Diag *d, const Nvrtc *nvrtc, const CgOptions *opt, CgCuda *out)
{
    const CgPlan *p = out->plan;
    Jobs jobs = {nvrtc, sources(out), out, NEWN(p->a, struct Pair, out->n_codes * out->kernels.n)};
    const KernelCache *cache = kernel_cache_open(p->a, opt->cache_dir, nvrtc, &jobs.src[0]);
    const u32 n = find_work(out, cache, &jobs);
    cg_parallel(n, opt->threads, compile_one, &jobs);
    for (u32 i = 0; i < n; i++) {
        const CgCode *c = jobs.todo[i].code;
        const u32 k = jobs.todo[i].kernel;
        const char *error = c->image[k].error;
        if (c->image[k].data) kernel_cache_put(cache, &jobs.src[k], c->arch, &c->image[k]);
        if (!error) continue;
        diag_error(d, E_NVRTC, LOC_NONE, "%s refuses %s for %s", nvrtc_name(nvrtc),
                   jobs.src[k].name, c->arch);
        diag_note(d, "it said:\n%.4000s", error);
        cg_cuda_note_step(d, p, out->kernels.at[k].phase, out->kernels.at[k].step);
        return false;
    }
    warn_serialised(d, nvrtc, out);
    return true;
}

static void make_blob(CgCuda *out)
{
    for (u32 c = 0; c < out->n_codes; c++)
        for (u32 i = 0; i < out->kernels.n; i++) {
            out->code[c].at[i] = out->bytes;
            out->bytes += (out->code[c].image[i].bytes + 63) / 64 * 64;
        }
    out->blob = xmalloc(out->bytes + 1, 1);
    memset(out->blob, 0, out->bytes + 1);
    for (u32 c = 0; c < out->n_codes; c++)
        for (u32 i = 0; i < out->kernels.n; i++) {
            const CgObject *image = &out->code[c].image[i];
            if (image->data) memcpy(out->blob + out->code[c].at[i], image->data, image->bytes);
        }
}

bool cg_cuda(Diag *d, const CgPlan *p, const CgTargets *t, const CgOptions *opt, CgCuda *out)
{
    *out = (CgCuda){.plan = p,
                    .code = NEWN(p->a, CgCode, t->n_gpu + 1),
                    .step_rows = opt->step_rows ? (i32)opt->step_rows : CG_STEP_ROWS};
    for (u32 i = 0; i < t->n_gpu; i++) {
        const CgGpu *g = t->gpu[i];
        CgCode *c = &out->code[out->n_codes++];
        c->arch = g->name, c->major = g->major, c->minor = g->minor;
        c->exact = g->exact, c->shared = g->shared;
    }
    CgCode *ptx = &out->code[out->n_codes++];
    ptx->arch = "compute_80", ptx->major = 8, ptx->ptx = true;
    for (u32 i = 0; i < out->n_codes; i++)
        if (!cg_cuda_plan(d, out, &out->code[i])) return false;
    const Nvrtc *nvrtc = nvrtc_open(d, p->a, t);
    if (!nvrtc) return false;
    out->driver = nvrtc_driver(nvrtc);
    if (!compile_all(d, nvrtc, opt, out)) return false;
    make_blob(out);
    return true;
}

void cg_cuda_free(CgCuda *c)
{
    for (u32 i = 0; i < c->n_codes; i++)
        for (u32 k = 0; k < c->kernels.n; k++)
            cg_object_free(&c->code[i].image[k]);
    free(c->blob);
    *c = (CgCuda){0};
}
