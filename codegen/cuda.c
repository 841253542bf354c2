/* Kernels for GPUs: what the plan asks of codegen/cuda, compiled by NVRTC. */
#include "codegen/nvrtc.h"
#include "codegen/plan.h"

#include "ir/text.h"

#include <stdlib.h>

CgLaunch cg_launch(const CgKernel *k)
{
    return cg_cuda_rows[k->row].launch((i64)k->val[C_N], (i64)k->val[C_K], (i64)k->val[C_heads],
                                       (i64)k->val[C_kv_heads], (i64)k->val[C_head_dim]);
}

const CgCall *cg_first_call(const CgPlan *p, u32 kernel, const CgPhase **phase)
{
    static const u32 order[CG_N_PHASES] = {CG_DECODE, CG_PREFILL, CG_LOGITS_PHASE};
    for (u32 i = 0; i < CG_N_PHASES; i++) {
        *phase = &p->phase[order[i]];
        for (u32 k = 0; k < (*phase)->calls.n; k++)
            if ((*phase)->calls.at[k].kernel == kernel) return &(*phase)->calls.at[k];
    }
    BUG("kernel %s has no call", p->kernels.at[kernel].name);
}

/* The step that a refused kernel is first called for, and its first ops. */
static void note_step(Diag *d, const CgPlan *p, u32 kernel)
{
    const CgPhase *ph;
    const CgCall *c = cg_first_call(p, kernel, &ph);
    const Fn *fn = &p->m->fns.at[ph->fn];
    diag_note(d, "step %u of @%s", c->step, ph->name);
    for (u32 i = 0, n = 0; i < fn->body.n && n < 6; i++) {
        const Op *op = op_at(p->m, fn->body.at[i]);
        if (op->step != c->step) continue;
        diag_note(d, "%s", ir_op_text(p->m, op));
        n++;
    }
}

/* Every row that the plan uses has a template, and its launch is one that the GPUs can do. */
static bool check_rows(Diag *d, const CgPlan *p, const CgTargets *t)
{
    bool ok = true, told[CG_N_ROWS] = {false};
    for (u32 i = 0; i < p->kernels.n; i++) {
        const CgKernel *k = &p->kernels.at[i];
        if (cg_cuda_rows[k->row].template || told[k->row]) continue;
        told[k->row] = true;
        ok = diag_error(d, E_KERNEL, LOC_NONE, "no CUDA kernel computes %s", cg_rows[k->row].name);
        note_step(d, p, i);
    }
    for (u32 i = 0; ok && i < p->kernels.n; i++) {
        const char *name = p->kernels.at[i].name;
        const CgLaunch l = cg_launch(&p->kernels.at[i]);
        if (l.block < 1 || l.block > 1024 || l.grid_x < 1 || l.grid_x > INT32_MAX || l.rows < 1 ||
            l.rows > INT32_MAX || l.shared < 0)
            return diag_error(d, E_KERNEL, LOC_NONE,
                              "kernel %s cannot be launched: %lld blocks of %lld threads", name,
                              (long long)l.grid_x, (long long)l.block);
        for (u32 g = 0; g < t->n_gpu; g++)
            if (l.shared > t->gpu[g]->shared) {
                ok = diag_error(d, E_KERNEL, LOC_NONE,
                                "kernel %s needs %lld bytes of shared memory, %s has %lld", name,
                                (long long)l.shared, t->gpu[g]->name, (long long)t->gpu[g]->shared);
                note_step(d, p, i);
            }
    }
    return ok;
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
    const NvrtcSource *src; /* [n_kernels] */
    CgCuda *out;
    u32 n_kernels;
} Jobs;

static bool compile_one(void *arg, u32 i)
{
    const Jobs *j = arg;
    CgCode *c = &j->out->code[i / j->n_kernels];
    const u32 k = i % j->n_kernels;
    nvrtc_compile(j->nvrtc, &j->src[k], c->arch, &c->image[k]);
    return !c->image[k].error;
}

static bool compile_all(Diag *d, const CgPlan *p, const Nvrtc *nvrtc, u32 threads, CgCuda *out)
{
    NvrtcSource *src = NEWN(p->a, NvrtcSource, p->kernels.n), headers;
    find_headers(p->a, &headers);
    for (u32 i = 0; i < p->kernels.n; i++) {
        StrBuf text = {.a = p->a};
        cg_emit_cuda_kernel(p, i, &text);
        src[i] = headers;
        src[i].name = arena_printf(p->a, "src/cuda/%s.cu", p->kernels.at[i].name);
        src[i].text = text.p;
    }
    Jobs jobs = {nvrtc, src, out, p->kernels.n};
    cg_parallel(out->n_codes * p->kernels.n, threads, compile_one, &jobs);
    for (u32 c = 0; c < out->n_codes; c++)
        for (u32 i = 0; i < p->kernels.n; i++) {
            const char *error = out->code[c].image[i].error;
            if (!error) continue;
            diag_error(d, E_NVRTC, LOC_NONE, "%s refuses %s for %s", nvrtc_name(nvrtc), src[i].name,
                       out->code[c].arch);
            diag_note(d, "it said:\n%.4000s", error);
            note_step(d, p, i);
            return false;
        }
    return true;
}

static void make_blob(const CgPlan *p, CgCuda *out)
{
    for (u32 c = 0; c < out->n_codes; c++)
        for (u32 i = 0; i < p->kernels.n; i++) {
            out->code[c].at[i] = out->bytes;
            out->bytes += (out->code[c].image[i].bytes + 63) / 64 * 64;
        }
    out->blob = xmalloc(out->bytes + 1, 1);
    memset(out->blob, 0, out->bytes + 1);
    for (u32 c = 0; c < out->n_codes; c++)
        for (u32 i = 0; i < p->kernels.n; i++) {
            CgObject *image = &out->code[c].image[i];
            memcpy(out->blob + out->code[c].at[i], image->data, image->bytes);
        }
}

bool cg_cuda(Diag *d, const CgPlan *p, const CgTargets *t, u32 threads, CgCuda *out)
{
    static const CgCode ptx = {.arch = "compute_80", .major = 8, .minor = 0, .ptx = true};
    *out = (CgCuda){0};
    if (!check_rows(d, p, t)) return false;
    const Nvrtc *nvrtc = nvrtc_open(d, p->a, t);
    if (!nvrtc) return false;
    out->driver = nvrtc_driver(nvrtc);
    for (u32 i = 0; i < t->n_gpu; i++) {
        const CgGpu *g = t->gpu[i];
        out->code[out->n_codes++] =
            (CgCode){.arch = g->name, .major = g->major, .minor = g->minor, .exact = g->exact};
    }
    out->code[out->n_codes++] = ptx;
    out->n_kernels = p->kernels.n;
    for (u32 i = 0; i < out->n_codes; i++) {
        out->code[i].image = NEWN(p->a, CgObject, p->kernels.n);
        out->code[i].at = NEWN(p->a, u64, p->kernels.n);
    }
    if (!compile_all(d, p, nvrtc, threads, out)) return false;
    make_blob(p, out);
    return true;
}

void cg_cuda_free(CgCuda *c)
{
    for (u32 i = 0; i < c->n_codes; i++)
        for (u32 k = 0; k < c->n_kernels; k++)
            cg_object_free(&c->code[i].image[k]);
    free(c->blob);
    *c = (CgCuda){0};
}
