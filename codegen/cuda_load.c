/* Weights of a GPU code: a section of the image, or what a generator makes, in each layout that a
 * call wants, and the launches of pack.cu that bring it there. Contract: plan.h, cuda_plan.h.
 *
 * A code that packs nothing takes the image's data as they are.
 */
#include "codegen/cuda_plan.h"

#include "ir/eval.h"
#include "ir/pack.h"

enum { PACK_S4 = 1, PACK_GATED = 2, PACK_TILES = 4, PACK_BF16 = 8 }; /* pack.cu */

static const CgCudaRow load_rows[] = {
    {.name = "pack", .template = "pack.cu", .entry = "pfq_cu_pack"},
    {.name = "fill", .template = "pack.cu", .entry = "pfq_cu_fill"},
};

typedef struct Shape {
    i64 N, K;
    u32 flags;
} Shape;

/* Packed layouts of the image that a GPU may want otherwise, or made by a generator. */
static const struct {
    const char *name;
    CgLayout fragments;
    u32 flags;
} packable[] = {
    {"s4", LAYOUT_FRAG4, PACK_S4},
    {"s8", LAYOUT_FRAG8, 0},
    {"bf16", LAYOUT_FRAG16, PACK_BF16},
};
enum { N_PACKABLE = sizeof packable / sizeof *packable };

static u32 packable_as(const Module *m, const Op *pack) /* N_PACKABLE: no */
{
    u32 i = 0;
    while (i < N_PACKABLE && strcmp(packable[i].name, op_str(m, pack, A_LAYOUT)) != 0)
        i++;
    return i;
}

static Shape shape_of(const CgPlan *p, u32 section)
{
    const Op *pack = def_of(p->m, p->sections.at[section].value);
    const Type *t = type_of(p->m, pack->in[0]);
    Shape s = {t->dim[0], t->dim[1], packable[packable_as(p->m, pack)].flags};
    if (op_int(pack, A_INTERLEAVE) == 2) s.flags |= PACK_GATED;
    return s;
}

/* fragments.cuh: panels of 64 rows, K to 128, then the scales; bf16: K to 64, no scales. */
static u64 fragment_bytes(const Shape *s)
{
    const u64 n = (u64)s->N,
              rows = s->flags & PACK_GATED ? (n / 2 + 31) / 32 * 64 : (n + 63) / 64 * 64;
    if (s->flags & PACK_BF16) return rows * ((u64)(s->K + 63) / 64 * 128);
    const u64 bits = s->flags & PACK_S4 ? 4 : 8;
    return rows * ((u64)(s->K + 127) / 128 * 16 * bits) + 4 * rows;
}

bool cg_cuda_can_pack(const CgPlan *p, u32 section, CgLayout layout)
{
    const CgSection *s = &p->sections.at[section];
    if (layout == LAYOUT_IMAGE) return true;
    if (s->kind != CG_SEC_PACK) return false;
    const u32 i = packable_as(p->m, def_of(p->m, s->value));
    return i < N_PACKABLE && packable[i].fragments == layout;
}

CgRef cg_cuda_packed(CgCuda *cuda, CgCode *code, u32 section, CgLayout layout)
{
    const CgPlan *p = cuda->plan;
    if (!code->packs) {
        const PfqImageSection *s = &p->image[section];
        return (CgRef){.place = CG_WEIGHT, .section = section, .off = s->offset, .bytes = s->bytes};
    }
    for (u32 i = 0; i < code->packed.n; i++) {
        const CgPacked *k = &code->packed.at[i];
        if (k->section == section && k->layout == layout)
            return (CgRef){
                .place = CG_WEIGHT, .section = section, .off = k->off, .bytes = k->bytes};
    }
    CgPacked k = {.section = section, .layout = layout, .off = code->weight_bytes};
    k.bytes = cg_section_bytes(p, section);
    if (layout != LAYOUT_IMAGE) {
        const Shape s = shape_of(p, section);
        k.bytes = fragment_bytes(&s);
    }
    code->weight_bytes = (k.off + k.bytes + 1023) / 1024 * 1024;
    vec_push(p->a, &code->packed, k);
    return (CgRef){.place = CG_WEIGHT, .section = section, .off = k.off, .bytes = k.bytes};
}

static CgRef number(u64 v)
{
    return (CgRef){.place = CG_VALUE, .off = v};
}

static CgRef number_f(double v)
{
    const float f = (float)v;
    u32 bits;
    memcpy(&bits, &f, sizeof bits);
    return number(bits);
}

static u32 load_kernel(CgCuda *cuda, CgCode *code, const CgCudaRow *row)
{
    const CgCudaKernel k = {.row = row,
                            .what = row->name,
                            .name = arena_printf(cuda->plan->a, "load_%s", row->name),
                            .uses = cg_template_uses("cuda", row->template),
                            .launch = {.block = 256, .grid_x = 1 << 20, .per_sm = 8},
                            .phase = CG_NO_PHASE};
    return cg_cuda_kernel(cuda, code, &k);
}

static void generator(const CgGenerated *g, CgCall *c)
{
    const u64 key = synthetic_key(g->seed, g->stream);
    c->aux[3] = number(key >> 32);
    c->aux[4] = number(key & UINT32_MAX);
    c->aux[5] = number_f(g->scale);
    c->aux[6] = number_f(g->top);
    c->aux[7] = number_f(g->factor);
    c->in[1] = number_f(g->times);
    c->in[2] = number((u64)g->lowest);
}

static void add_load(CgCuda *cuda, CgCode *code, const CgPacked *k)
{
    const CgPlan *p = cuda->plan;
    const CgSection *s = &p->sections.at[k->section];
    CgCudaLoad l = {.section = k->section, .call.kernel = CG_NO_KERNEL};
    CgCall *c = &l.call.c;
    c->out[0] = (CgRef){.place = CG_WEIGHT, .off = k->off, .bytes = k->bytes};
    if (!s->generated) {
        l.from = p->image[k->section].offset;
        l.bytes = p->image[k->section].bytes;
    }
    if (s->generated || k->layout != LAYOUT_IMAGE) {
        const Shape shape = shape_of(p, k->section);
        l.call.kernel = load_kernel(cuda, code, &load_rows[s->generated != NULL]);
        c->aux[0] = number((u64)shape.N);
        c->aux[1] = number((u64)shape.K);
        c->aux[2] = number(shape.flags | (k->layout == LAYOUT_IMAGE ? PACK_TILES : 0));
        if (s->generated)
            generator(s->generated, c);
        else
            c->in[0] = (CgRef){.place = CG_STAGED};
    }
    vec_push(p->a, &code->load, l);
}

void cg_cuda_loads(CgCuda *cuda, CgCode *code)
{
    if (!code->packs) code->weight_bytes = cuda->plan->data_bytes;
    for (u32 i = 0; i < code->packed.n; i++)
        add_load(cuda, code, &code->packed.at[i]);
}

/* ---- weights that a generator makes ---- */

/* s = qparams(w), or times one literal number: what packed scales are multiplied by. */
static const Op *scale_of(const Module *m, ValueId s, double *times)
{
    const Op *op = def_of(m, s);
    *times = 1;
    if (op->kind == OP_MUL && type_elems(type_of(m, op->in[1])) == 1) {
        const Op *by = def_of(m, op->in[1]);
        const Attr *v = by->kind == OP_LITERAL ? op_attr(by, A_VALUES) : NULL;
        if (!v) return NULL;
        *times = v->floats[0];
        op = def_of(m, op->in[0]);
    }
    return op->kind == OP_QPARAMS ? op : NULL;
}

static const CgGenerated *generated(Arena *a, const Op *leaf, const CgGenerated *rest)
{
    CgGenerated *g = NEW(a, CgGenerated);
    *g = *rest;
    g->seed = (u64)op_int(leaf, A_SEED);
    g->stream = (u64)op_int(leaf, A_STREAM);
    g->scale = op_float(leaf, A_SCALE);
    return g;
}

const CgGenerated *cg_generated(Arena *a, const Module *m, const CgSection *s)
{
    const Op *pack = def_of(m, s->value);
    if (s->kind != CG_SEC_PACK || pack->kind != OP_PACK) return NULL;
    const u32 as = packable_as(m, pack);
    if (as == N_PACKABLE) return NULL;
    const Op *q = def_of(m, pack->in[0]);
    CgGenerated g = {0};
    if (packable[as].flags & PACK_BF16) {
        const Op *leaf = def_of(m, q->in[0]);
        if (q->kind != OP_CAST || leaf->kind != OP_SYNTHETIC) return NULL;
        return generated(a, leaf, &g);
    }
    if (q->kind != OP_QUANTIZE) return NULL;
    const Op *scale = scale_of(m, pack->in[1], &g.times), *leaf = def_of(m, q->in[0]);
    if (!scale || scale->out != q->in[1] || scale->in[0] != q->in[0] ||
        leaf->kind != OP_SYNTHETIC || op_int(scale, A_GROUP) || op_int(q, A_GROUP) || op_in(q, 2) ||
        type_of(m, leaf->out)->rank != 2)
        return NULL;
    const DType dt = op_dtype(m, q);
    const DTypeInfo *t = &dtype_info[dt];
    if (dt != op_dtype(m, scale)) return NULL;
    g.top = qparams_top(dt, op_int(scale, A_FULL) != 0);
    g.factor = op_float(scale, A_SCALE);
    g.lowest = op_int(q, A_FULL) ? -t->lo : t->hi;
    return generated(a, leaf, &g);
}
