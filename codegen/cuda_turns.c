/* RoPE's cosines and sines as a table [rows][c_rot / 2], which a phase makes once for all layers:
 * angles are reduced in f64, which costs a projection's epilogue more than its products do.
 * Contract: cuda_plan.h.
 */
#include "codegen/cuda_plan.h"

static const CgCudaRow turns_row = {
    .name = "turns", .template = "turns.cu", .entry = "pfq_cu_turns"};

static bool reads_table(const CgPick *pick)
{
    return pick->row->name && pick->c->val[C_rot] > 0 &&
           (i64)pick->c->val[C_epi] == cg_epilogue("qkv") &&
           (cg_cuda_row_uses(pick->row) >> C_turns & 1);
}

/* Would both fill a table alike? */
static bool alike(const CgCall *x, const CgCall *y)
{
    static const CgConstId same[] = {C_rot, C_prefix, C_rope_scale};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        if (x->val[same[i]] < y->val[same[i]] || x->val[same[i]] > y->val[same[i]]) return false;
    return x->aux[1].section == y->aux[1].section;
}

static CgTurns *find(const CgMake *mk, u32 phase, const CgPick *pick)
{
    for (u32 i = 0; reads_table(pick) && i < mk->turns[phase].n; i++)
        if (alike(mk->turns[phase].at[i].like, pick->c)) return &mk->turns[phase].at[i];
    return NULL;
}

/* Tables of different phases lie in one place. */
void cg_cuda_place_turns(CgMake *mk)
{
    const u64 base = (mk->code->act_bytes + 1023) / 1024 * 1024;
    for (u32 p = 0; p < PFQ_CUDA_N_PHASES; p++) {
        u64 at = base;
        for (u32 i = 0; i < mk->pick[p].n; i++) {
            const CgPick *pick = &mk->pick[p].at[i];
            if (!reads_table(pick) || find(mk, p, pick)) continue;
            CgTurns t = {
                .like = pick->c, .phase = pick->phase, .table = {.place = CG_ACT, .off = at}};
            t.table.bytes = (u64)cg_cuda_capacity(mk) * (u64)pick->c->val[C_rot] * 4;
            at += (t.table.bytes + 1023) / 1024 * 1024;
            vec_push(mk->a, &mk->turns[p], t);
        }
        if (at > base && at > mk->code->act_bytes) mk->code->act_bytes = at;
    }
}

const CgRef *cg_cuda_turns(const CgMake *mk, u32 phase, const CgPick *pick)
{
    const CgTurns *t = find(mk, phase, pick);
    return t ? &t->table : NULL;
}

void cg_cuda_add_turns(CgMake *mk, u32 phase)
{
    for (u32 i = 0; i < mk->turns[phase].n; i++) {
        const CgTurns *t = &mk->turns[phase].at[i];
        CgCudaKernel k = {.row = &turns_row,
                          .what = turns_row.name,
                          .name = arena_printf(mk->a, "turns_%lld", (long long)t->like->val[C_rot]),
                          .uses = cg_template_uses("cuda", turns_row.template),
                          .launch = {.block = 256, .grid_x = 1, .rows = 8},
                          .phase = CG_NO_PHASE};
        for (u32 c = 0; c < CG_N_CONSTS; c++)
            if (k.uses >> c & 1) k.val[c] = t->like->val[c];
        CgCudaCall call = {.kernel = cg_cuda_kernel(mk->cuda, mk->code, &k),
                           .phase = t->phase,
                           .c = {.step = t->like->step, .layer = -1, .out = {t->table}}};
        call.c.aux[1] = cg_cuda_packed(mk->cuda, mk->code, t->like->aux[1].section, LAYOUT_IMAGE);
        call.cost.row_bytes = (u64)t->like->val[C_rot] * 4;
        vec_push(mk->a, &mk->code->call[phase], call);
    }
}
