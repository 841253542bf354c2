/* The plan of one GPU code: which row of codegen/cuda/kernels.def computes each call of the plan,
 * for which numbers of rows, in which phases, and what is loaded. Contract: plan.h. */
#include "codegen/cuda_plan.h"

#include "ir/text.h"

#include <stdio.h>

const char *const cg_cuda_phase_names[PFQ_CUDA_N_PHASES] = {
    [PFQ_CUDA_PREFILL] = "prefill", [PFQ_CUDA_LOGITS] = "logits", [PFQ_CUDA_DECODE] = "decode",
    [PFQ_CUDA_STEP] = "step",       [PFQ_CUDA_BATCH] = "batch",   [PFQ_CUDA_STEPS] = "steps",
    [PFQ_CUDA_SAMPLE] = "sample",
};

/* A phase of a code is made of calls of the plan's phases, one after the other. */
static const struct {
    u32 from[2], n; /* CgPlan.phase */
    u32 bit;        /* IN_* */
    bool each;      /* rows are sequences of their own */
} phases[PFQ_CUDA_N_PHASES] = {
    [PFQ_CUDA_PREFILL] = {{CG_PREFILL}, 1, IN_PREFILL, false},
    [PFQ_CUDA_LOGITS] = {{CG_LOGITS_PHASE}, 1, IN_LOGITS, false},
    [PFQ_CUDA_DECODE] = {{CG_DECODE}, 1, IN_DECODE, true},
    [PFQ_CUDA_BATCH] = {{CG_PREFILL, CG_LOGITS_PHASE}, 2, IN_BATCH, true},
};
/* Decode first, so that what it uses is numbered, and stored, in its order. */
static const u32 order[] = {PFQ_CUDA_DECODE, PFQ_CUDA_PREFILL, PFQ_CUDA_LOGITS, PFQ_CUDA_BATCH};
enum { N_ORDER = sizeof order / sizeof *order };

/* ---- kernels ---- */

static bool same_code(const CgCudaKernel *x, const CgCudaKernel *y)
{
    if (strcmp(x->row->template, y->row->template) != 0 ||
        strcmp(x->row->entry, y->row->entry) != 0 || x->uses != y->uses || x->prelude != y->prelude)
        return false;
    for (u32 i = 0; i < CG_N_CONSTS; i++)
        if (x->val[i] < y->val[i] || x->val[i] > y->val[i]) return false;
    return true;
}

static bool same_launch(const CgLaunch *x, const CgLaunch *y)
{
    return x->block == y->block && x->grid_x == y->grid_x && x->rows == y->rows &&
           x->shared == y->shared && x->per_sm == y->per_sm && x->cluster == y->cluster &&
           x->flags == y->flags && x->work == y->work && x->sync == y->sync;
}

static bool name_taken(const CgCuda *cuda, const char *name)
{
    for (u32 i = 0; i < cuda->kernels.n; i++)
        if (strcmp(cuda->kernels.at[i].name, name) == 0) return true;
    return false;
}

static const char *free_name(const CgCuda *cuda, Arena *a, const char *name)
{
    const char *s = name;
    for (u32 n = 2; name_taken(cuda, s); n++)
        s = arena_printf(a, "%s_%u", name, n);
    return s;
}

u32 cg_cuda_kernel(CgCuda *cuda, CgCode *code, const CgCudaKernel *want)
{
    Arena *a = cuda->plan->a;
    u32 source = CG_NO_KERNEL, i = 0;
    for (; i < cuda->kernels.n; i++) {
        const CgCudaKernel *k = &cuda->kernels.at[i];
        if (!same_code(k, want)) continue;
        if (source == CG_NO_KERNEL) source = k->source;
        if (same_launch(&k->launch, &want->launch)) break;
    }
    if (i == CG_MAX_CUDA_KERNELS) {
        cuda->full = true;
        return 0;
    }
    if (i == cuda->kernels.n) {
        CgCudaKernel k = *want;
        k.name = free_name(cuda, a, want->name);
        k.source = source == CG_NO_KERNEL ? i : source;
        k.calls = 0;
        k.arch = code->arch;
        vec_push(a, &cuda->kernels, k);
    }
    cuda->kernels.at[i].calls += cuda->kernels.at[i].arch == code->arch;
    code->used[i] = true;
    return i;
}

/* The constants that a row's template declares; looked up once. */
u64 cg_cuda_row_uses(const CgCudaRow *row)
{
    static u64 known[CG_N_ROWS + 256]; /* + 1 << 63 */
    const size_t i = row->name ? CG_N_ROWS + (size_t)(row - cg_cuda_fast) : (size_t)row->row;
    if (i >= sizeof known / sizeof *known) return cg_template_uses("cuda", row->template);
    if (!known[i]) known[i] = cg_template_uses("cuda", row->template) | (u64)1 << 63;
    return known[i] & ~((u64)1 << 63);
}

static bool launch_ok(const CgMake *mk, const CgPick *pick, const char *name)
{
    const CgLaunch *l = &pick->launch;
    if (l->block < 1 || l->block > 1024 || l->grid_x < 1 || l->grid_x > INT32_MAX || l->rows < 0 ||
        l->rows > INT32_MAX || l->shared < 0 || l->work < 0 || l->sync < 0)
        return diag_error(mk->d, E_KERNEL, LOC_NONE,
                          "kernel %s cannot be launched: %lld blocks of %lld threads", name,
                          (long long)l->grid_x, (long long)l->block);
    if (mk->code->shared && l->shared > mk->code->shared) {
        diag_error(mk->d, E_KERNEL, LOC_NONE,
                   "kernel %s needs %lld bytes of shared memory, %s has %lld", name,
                   (long long)l->shared, mk->code->arch, (long long)mk->code->shared);
        cg_cuda_note_step(mk->d, mk->p, pick->phase, pick->c->step);
        return false;
    }
    return true;
}

/* ---- which row computes a call ---- */

/* One number for all phases, so that their kernels are the same. */
i64 cg_cuda_capacity(const CgMake *mk)
{
    const i64 chunk = ir_meta_get_int(mk->p->m, "chunk", 1),
              rows = ir_meta_get_int(mk->p->m, "rows", 1);
    return ((chunk > rows ? chunk : rows) + 7) / 8 * 8;
}

/* As pfq_model_slots has it. */
i32 cg_cuda_sequences(const CgMake *mk)
{
    const i64 chunk = ir_meta_get_int(mk->p->m, "chunk", 1),
              rows = ir_meta_get_int(mk->p->m, "rows", 1);
    return (i32)(chunk < rows ? chunk : rows);
}

/* Parts that a row's keys are cut in, at most: of 512 keys, until there are 16. */
static i32 most_parts(const CgMake *mk)
{
    const i64 parts = (ir_meta_get_int(mk->p->m, "context", 1) + 511) / 512;
    return (i32)(parts < 1 ? 1 : parts > 16 ? 16 : parts);
}

/* Integers of 4 bits? */
static bool four_bits(const CgMake *mk, const CgRef *x)
{
    return x->value && type_of(mk->p->m, x->value)->dt == DT_S4;
}

/* All constants of a call in this phase. */
static void constants(const CgMake *mk, u32 phase, const CgCall *c, double val[CG_N_CONSTS])
{
    memcpy(val, c->val, CG_N_CONSTS * sizeof *val);
    val[C_cap] = (double)cg_cuda_capacity(mk);
    val[C_seqs] = cg_cuda_sequences(mk);
    val[C_parts] = most_parts(mk);
    val[C_each] = phases[phase].each;
    val[C_xbits] = four_bits(mk, &c->in[0]) ? 4 : 8;
}

static void add_pick(CgMake *mk, u32 phase, CgPick *pick, const CgCudaRow *row, i32 from, i32 to)
{
    double val[CG_N_CONSTS];
    constants(mk, phase, pick->c, val);
    pick->row = row;
    pick->launch = row->launch(val);
    if (mk->code->major < 9) pick->launch.flags &= ~(i64)PFQ_CUDA_OVERLAP;
    pick->from = from;
    pick->to = to;
    vec_push(mk->a, &mk->pick[phase], *pick);
}

/* Bytes of shared memory that a block may have on every chip that PTX is for. */
enum { LEAST_SHARED = 99 * 1024 };

static bool row_fits(const CgMake *mk, const CgCudaRow *row, u32 phase, const CgPick *pick)
{
    if (row->row != mk->p->kernels.at[pick->c->kernel].row || !(row->phases & phases[phase].bit) ||
        strncmp(mk->code->arch, row->chips, strlen(row->chips)) != 0)
        return false;
    double val[CG_N_CONSTS];
    constants(mk, phase, pick->c, val);
    if (!row->when(val)) return false;
    const CgLaunch l = row->launch(val);
    const CgRef *w = &pick->c->w;
    if (l.shared > (mk->code->shared ? mk->code->shared : LEAST_SHARED)) return false;
    return !(l.tiles && mk->no_tiles[phase][pick->index]) &&
           !(l.half && mk->no_half[phase][pick->index]) &&
           (w->place != CG_WEIGHT || cg_cuda_can_pack(mk->p, w->section, l.w));
}

/* The most rows that a phase is called for, as the runtime has it. */
static i32 most_rows(const CgMake *mk, u32 phase)
{
    const i64 chunk = ir_meta_get_int(mk->p->m, "chunk", 1),
              rows = ir_meta_get_int(mk->p->m, "rows", 1);
    switch (phase) {
    case PFQ_CUDA_PREFILL: return (i32)chunk;
    case PFQ_CUDA_LOGITS: return (i32)rows;
    case PFQ_CUDA_BATCH: return cg_cuda_sequences(mk);
    default: return 1;
    }
}

/* The rows that compute a call: each takes the numbers of rows it names that none before it took,
 * the plain one the rest. */
static bool choose(CgMake *mk, u32 phase, CgPick *pick)
{
    const CgRowId id = mk->p->kernels.at[pick->c->kernel].row;
    const CgCudaRow *plain = &cg_cuda_rows[id];
    const i32 last = most_rows(mk, phase);
    i32 next = 1; /* rows below it are taken */
    for (const CgCudaRow *row = cg_cuda_fast; row->template; row++) {
        const i32 to = row->to && row->to < last ? row->to : last;
        if (!row_fits(mk, row, phase, pick) || to < next || row->from > last) continue;
        if (row->from > next) {
            if (!plain->template) continue;
            add_pick(mk, phase, pick, plain, next, row->from - 1);
            next = row->from;
        }
        add_pick(mk, phase, pick, row, next == 1 ? 0 : next, to == last ? 0 : to);
        if (to == last) return true;
        next = to + 1;
    }
    if (plain->template) {
        add_pick(mk, phase, pick, plain, next == 1 ? 0 : next, 0);
        return true;
    }
    if (mk->told[id]) return false;
    mk->told[id] = true;
    diag_error(mk->d, E_KERNEL, LOC_NONE, "no CUDA kernel computes %s", cg_rows[id].name);
    cg_cuda_note_step(mk->d, mk->p, pick->phase, pick->c->step);
    return false;
}

static bool choose_phase(CgMake *mk, u32 phase)
{
    bool ok = true;
    u32 index = 0;
    mk->pick[phase].n = 0;
    for (u32 i = 0; i < phases[phase].n; i++) {
        const u32 from = phases[phase].from[i];
        const CgPhase *ph = &mk->p->phase[from];
        for (u32 k = 0; k < ph->calls.n; k++) {
            CgPick pick = {.c = &ph->calls.at[k], .phase = from, .index = index++};
            memcpy(pick.in, pick.c->in, sizeof pick.in);
            memcpy(pick.out, pick.c->out, sizeof pick.out);
            ok = choose(mk, phase, &pick) && ok;
        }
    }
    return ok;
}

/* Rows that want tiles or need f16 give way, call by call, where their neighbours do not. */
static bool choose_all(CgMake *mk)
{
    for (u32 p = 0; p < PFQ_CUDA_N_PHASES; p++) {
        for (u32 i = 0; i < phases[p].n; i++)
            mk->n_calls[p] += mk->p->phase[phases[p].from[i]].calls.n;
        mk->no_tiles[p] = NEWN(mk->a, bool, mk->n_calls[p] + 1);
        mk->no_half[p] = NEWN(mk->a, bool, mk->n_calls[p] + 1);
    }
    do {
        bool ok = true;
        for (u32 o = 0; o < N_ORDER; o++)
            ok = choose_phase(mk, order[o]) && ok;
        if (!ok) return false;
    } while (!cg_cuda_tiles(mk) || !cg_cuda_halves(mk));
    return true;
}

/* ---- calls ---- */

/* Of a call of this code: what the plan says, but for what differs between its phases and ours. */
static void operand(const CgMake *mk, u32 phase, u32 plan_phase, CgRef *r)
{
    if (r->place == CG_WEIGHT) *r = cg_cuda_packed(mk->cuda, mk->code, r->section, LAYOUT_IMAGE);
    if (r->place == CG_TOKENS && phase == PFQ_CUDA_BATCH && plan_phase == CG_LOGITS_PHASE)
        r->place = CG_ORDER;
}

static void operands(const CgMake *mk, u32 phase, const CgPick *pick, CgCall *c)
{
    *c = *pick->c;
    memcpy(c->in, pick->in, sizeof c->in);
    memcpy(c->out, pick->out, sizeof c->out);
    for (u32 i = 0; i < CG_IN; i++) {
        operand(mk, phase, pick->phase, &c->in[i]);
        operand(mk, phase, pick->phase, &c->aux[i]);
    }
    if (c->w.place == CG_WEIGHT)
        c->w = cg_cuda_packed(mk->cuda, mk->code, c->w.section, pick->launch.w);
}

/* Rows that the plan's places are sized for. */
static u64 plan_rows(const CgMake *mk, u32 plan_phase)
{
    if (plan_phase == CG_DECODE) return 1;
    return (u64)ir_meta_get_int(mk->p->m, plan_phase == CG_PREFILL ? "chunk" : "rows", 1);
}

static u64 row_bytes(const CgMake *mk, u32 plan_phase, const CgRef *r)
{
    switch (r->place) {
    case CG_ACT:
    case CG_PRIVATE: return r->bytes / plan_rows(mk, plan_phase);
    case CG_LOGITS: return 4 * (u64)ir_meta_get_int(mk->p->m, "vocab", 0);
    default: return 0;
    }
}

static PfqCudaCost cost_of(const CgMake *mk, const CgPick *pick)
{
    const CgCall *c = pick->c;
    const bool attend = mk->p->kernels.at[c->kernel].row == ROW_ATTEND;
    PfqCudaCost cost = {.weights = c->weight_bytes};
    *(attend ? &cost.key_ops : &cost.ops) = c->flops;
    for (u32 i = 0; i < CG_IN; i++) {
        cost.row_bytes +=
            row_bytes(mk, pick->phase, &c->in[i]) / (1 + cg_cuda_half(mk, pick, false, i));
        cost.row_bytes +=
            row_bytes(mk, pick->phase, &c->out[i]) / (1 + cg_cuda_half(mk, pick, true, i));
        if (c->in[i].place == CG_KV) cost.cache_bytes += c->in[i].bytes;
        if (c->out[i].place == CG_KV) cost.row_bytes += c->out[i].bytes;
    }
    return cost;
}

/* Does it read (a linear) or write tiles of 4-bit integers? */
static bool four_bit_tiles(const CgMake *mk, const CgPick *pick)
{
    const bool reads = pick->launch.tiles;
    return (reads || pick->tiles) && four_bits(mk, reads ? &pick->c->in[0] : &pick->c->out[0]);
}

static bool add_call(CgMake *mk, u32 phase, const CgPick *pick)
{
    const CgKernel *plain = &mk->p->kernels.at[pick->c->kernel];
    const CgCudaRow *row = pick->row;
    CgCudaKernel k = {.row = row,
                      .what = cg_rows[plain->row].name,
                      .uses = cg_cuda_row_uses(row),
                      .launch = pick->launch,
                      .phase = pick->phase,
                      .step = pick->c->step};
    double val[CG_N_CONSTS];
    constants(mk, phase, pick->c, val);
    if (pick->tiles) val[C_tiles] = val[C_cap];
    val[C_xshift] = four_bit_tiles(mk, pick) ? 4 : 0;
    val[C_half] = pick->half;
    val[C_overlap] = (pick->launch.flags & PFQ_CUDA_OVERLAP) != 0;
    const CgRef *turns = cg_cuda_turns(mk, phase, pick);
    val[C_turns] = turns != NULL;
    for (u32 i = 0; i < CG_N_CONSTS; i++)
        if (k.uses >> i & 1) k.val[i] = val[i];
    k.name = row->name ? arena_printf(mk->a, "%s_%s", row->name, plain->name)
             : pick->tiles && k.val[C_tiles] > 0 ? arena_printf(mk->a, "%s_tiles", plain->name)
                                                 : plain->name;
    if (!launch_ok(mk, pick, k.name)) return false;
    CgCudaCall call = {
        .from = pick->from, .to = pick->to, .phase = pick->phase, .cost = cost_of(mk, pick)};
    call.kernel = cg_cuda_kernel(mk->cuda, mk->code, &k);
    operands(mk, phase, pick, &call.c);
    if (turns) call.c.aux[7] = *turns;
    vec_push(mk->a, &mk->code->call[phase], call);
    return true;
}

/* ---- sampling ---- */

/* The calls that choose the next token (sample.cu), the same for all models but for the launch. */
static void sample(CgMake *mk)
{
    static const CgCudaRow rows[] = {
        {.name = "sample_runs", .template = "sample.cu", .entry = "pfq_cu_sample_runs"},
        {.name = "sample_choose", .template = "sample.cu", .entry = "pfq_cu_sample_choose"},
    };
    const i64 runs = (ir_meta_get_int(mk->p->m, "vocab", 1) + 255) / 256;
    const u64 work = 40 * (u64)runs * (u64)cg_cuda_sequences(mk);
    const CgLaunch launches[] = {
        {.block = 64, .grid_x = (runs + 7) / 8, .rows = 1, .work = (i64)work},
        {.block = 512, .grid_x = 1, .rows = 1, .work = (i64)work}};
    for (u32 i = 0; i < 2; i++) {
        const CgCudaKernel k = {.row = &rows[i],
                                .what = "sampling",
                                .name = rows[i].name,
                                .launch = launches[i],
                                .phase = CG_NO_PHASE};
        CgCudaCall call = {.phase = CG_DECODE, .kernel = cg_cuda_kernel(mk->cuda, mk->code, &k)};
        call.c = (CgCall){.layer = -1};
        call.c.in[0] = (CgRef){.place = CG_LOGITS};
        call.c.in[1] = (CgRef){.place = CG_SAMPLER};
        call.c.out[0] = (CgRef){.place = CG_TOKENS};
        vec_push(mk->a, &mk->code->call[PFQ_CUDA_SAMPLE], call);
    }
}

bool cg_cuda_plan(Diag *d, CgCuda *cuda, CgCode *code)
{
    const CgPlan *p = cuda->plan;
    CgMake mk = {.d = d, .a = p->a, .cuda = cuda, .code = code, .p = p};
    if (!choose_all(&mk)) return false;
    const bool step = cg_cuda_step_fits(&mk);
    code->packs = p->generated || step;
    for (u32 i = 0; i < PFQ_CUDA_N_PHASES; i++)
        for (u32 k = 0; k < mk.pick[i].n; k++)
            code->packs = code->packs || mk.pick[i].at[k].launch.w != LAYOUT_IMAGE;
    cg_cuda_arena(&mk);
    cg_cuda_place_turns(&mk);
    bool ok = true;
    for (u32 o = 0; ok && o < N_ORDER; o++) {
        cg_cuda_add_turns(&mk, order[o]);
        for (u32 k = 0; ok && k < mk.pick[order[o]].n; k++)
            ok = add_call(&mk, order[o], &mk.pick[order[o]].at[k]);
    }
    if (ok && step) cg_cuda_step(&mk);
    if (ok) sample(&mk);
    if (ok) cg_cuda_loads(cuda, code);
    if (ok && cuda->full) {
        diag_error(d, E_LIMIT, LOC_WHAT("kernels"), "the model has more than %d kernels for GPUs",
                   CG_MAX_CUDA_KERNELS);
        diag_hint(d,
                  "layers alike share theirs: give them the same options, or name fewer targets");
    }
    return ok && !cuda->full;
}
