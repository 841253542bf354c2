/* Steps -> kernel calls: places of operands, sections of weights, barriers, private results, and
 * the walk over a module. What a call of each kernel needs is in bind_ops.c. */
#include "codegen/bind.h"

#include "ir/text.h"

#include <stdio.h>
#include <stdlib.h>

bool b_refuse(Bind *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    const char *why = arena_vprintf(b->a, fmt, ap);
    va_end(ap);
    diag_error(b->d, E_KERNEL, LOC_NONE, "step %u (%s) of @%s: %s", b->step,
               ir_cstr(b->m, b->st->kernel), b->phase->name, why);
    for (u32 i = 0; i < b->n_ops && i < 6; i++)
        diag_note(b->d, "%s", ir_op_text(b->m, op_at(b->m, b->ops[i])));
    return false;
}

/* ---- the ops of the step ---- */

const Op *b_find(const Bind *b, OpKind kind)
{
    for (u32 i = 0; i < b->n_ops; i++)
        if (op_at(b->m, b->ops[i])->kind == kind) return op_at(b->m, b->ops[i]);
    return NULL;
}

const Op *b_find2(const Bind *b, OpKind k1, OpKind k2)
{
    const Op *op = b_find(b, k1);
    return op ? op : b_find(b, k2);
}

bool b_in_step(const Bind *b, ValueId v)
{
    const Op *op = def_of(b->m, v);
    return op->kind != OP_NONE && op->fn == b->phase->fn && op->step == b->step;
}

/* Where a value has its bytes, -1 if nowhere of its own. */
static i64 place_of(const Bind *b, ValueId v)
{
    const Op *op = def_of(b->m, v);
    const Attr *at = op->kind ? op_attr(op, A_AT) : NULL;
    u32 k = v - op->out;
    return at && k < at->n ? at->ints[k] : -1;
}

bool b_is_result(const Bind *b, ValueId v)
{
    for (u32 i = 0; i < b->fn->results.n; i++)
        if (b->fn->results.at[i] == v) return true;
    return false;
}

/* The step's last value that is seen outside it. */
ValueId b_output(const Bind *b)
{
    for (u32 i = b->n_ops; i-- > 0;) {
        const Op *op = op_at(b->m, b->ops[i]);
        for (u32 k = 0; k < op_info[op->kind].nout; k++)
            if (place_of(b, op->out + k) >= 0 || b_is_result(b, op->out + k)) return op->out + k;
    }
    return 0;
}

i64 b_cols(const Bind *b, ValueId v)
{
    return type_cols(type_of(b->m, v));
}

/* ---- places ---- */

/* Bytes of a row of k integers of a quantised activation (ARCHITECTURE.md). */
static u64 quant_row_bytes(const Bind *b, ValueId v, u64 k)
{
    const Op *q = def_of(b->m, v);
    if (type_of(b->m, v)->dt == DT_S16)
        return q->kind && op_int(q, A_GROUP) ? (k + 31) / 32 * 64 : (k + 63) / 64 * 128;
    return (k + 63) / 64 * 64;
}

static u64 value_bytes(const Bind *b, ValueId v)
{
    const Type *t = type_of(b->m, v);
    u64 rows = 1, k = 1;
    for (u32 i = 0; i < t->rank; i++) {
        const i64 n = t->dim[i] == DIM_T ? b->chunk : t->dim[i] == DIM_R ? b->rows : t->dim[i];
        *(i == 0 && t->rank > 1 ? &rows : &k) *= n < 0 ? 0 : (u64)n;
    }
    return rows * (dtype_info[t->dt].is_float ? 4 * k : quant_row_bytes(b, v, k));
}

static bool is_kv(const Bind *b, ValueId v)
{
    const Type *t = type_of(b->m, v);
    return t->rank == 3 && t->dim[1] == DIM_C;
}

static bool find_place(Bind *b, ValueId v, CgRef *r)
{
    const Op *op = def_of(b->m, v);
    if (op->kind == OP_NONE) {
        if (value_at(b->m, v)->index != 0)
            return b_refuse(b, "reads parameter %u in a way no kernel does",
                            value_at(b->m, v)->index);
        *r = (CgRef){.place = CG_TOKENS};
        return true;
    }
    for (u32 i = 0; i < b->priv.n; i++) {
        if (b->priv.at[i].v != v) continue;
        *r = (CgRef){.place = CG_PRIVATE, .off = b->priv.at[i].off, .bytes = b->priv.at[i].bytes};
        return true;
    }
    i64 at = place_of(b, v);
    if (op->kind == OP_STATE && is_kv(b, v)) {
        const Type *t = type_of(b->m, v);
        if (at < 0) return b_refuse(b, "a state has no place");
        *r = (CgRef){.place = CG_KV,
                     .off = (u64)at,
                     .bytes = (u64)(t->dim[0] * t->dim[2]) * dtype_info[t->dt].bits / 8};
        return r->off + r->bytes <= b->p->kv_row_bytes ||
               b_refuse(b, "a state lies outside the KV cache");
    }
    if (at < 0 && b_is_result(b, v)) {
        *r = (CgRef){.place = CG_LOGITS};
        return true;
    }
    if (op->kind == OP_RESHAPE && !is_const(b->m, v))
        return find_place(b, op->in[0], r); /* moves nothing */
    if (at < 0) return b_refuse(b, "a value that it needs has no place");
    *r = (CgRef){.place = CG_ACT, .off = (u64)at, .bytes = value_bytes(b, v)};
    return r->off + r->bytes <= b->p->act_bytes ||
           b_refuse(b, "a value lies outside the activation arena");
}

bool b_place(Bind *b, ValueId v, CgRef *r)
{
    if (!v) return b_refuse(b, "an operand is missing");
    if (!find_place(b, v, r)) return false;
    r->value = v;
    return true;
}

/* ---- constants and sections ---- */

void b_set(Bind *b, CgConstId c, double v)
{
    b->val[c] = v;
}

static CgRef section(Bind *b, ValueId v, CgSectionKind kind)
{
    char key[32];
    int n = snprintf(key, sizeof key, "%u/%d", v, (int)kind);
    bool added;
    u32 *slot = map_put(&b->section_map, (Str){key, (size_t)n}, &added);
    if (added) {
        *slot = b->p->sections.n;
        const CgSection s = {v, kind, ir_cstr(b->m, value_at(b->m, v)->name), 0, NULL};
        vec_push(b->a, &b->p->sections, s);
    }
    return (CgRef){.place = CG_WEIGHT, .section = *slot};
}

u64 cg_section_bytes(const CgPlan *p, u32 section)
{
    const CgSection *s = &p->sections.at[section];
    u64 n = (u64)type_elems(type_of(p->m, s->value));
    if (s->kind == CG_SEC_PACK) return n;
    if (s->kind == CG_SEC_F32) return 4 * n;
    if (s->kind == CG_SEC_F16) return 2 * n;
    return 4 * 2 * ((n / 2 + 15) / 16 * 16);
}

bool b_small_const(Bind *b, ValueId v, CgSectionKind kind, CgRef *r)
{
    if (!is_const(b->m, v)) return b_refuse(b, "an operand must be constant");
    if (!dtype_info[type_of(b->m, v)->dt].is_float)
        return b_refuse(b, "a constant operand must be a float");
    *r = section(b, v, kind);
    return true;
}

bool b_packed(Bind *b)
{
    ValueId w = b->st->weights;
    if (!w || def_of(b->m, w)->kind != OP_PACK) return b_refuse(b, "has no packed weights");
    b->call.w = section(b, w, CG_SEC_PACK);
    return true;
}

/* ---- kernels ---- */

static const char *kernel_name(Bind *b)
{
    StrBuf s = {.a = b->a};
    for (const char *p = ir_cstr(b->m, b->st->kernel); *p; p++)
        sb_ch(&s, (*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9') ? *p : '_');
    if (b->val[C_N] > 0)
        sb_printf(&s, "_%.0fx%.0f", b->val[C_N], b->val[C_K]);
    else if (b->val[C_K] > 0)
        sb_printf(&s, "_%.0f", b->val[C_K]);
    else if (b->val[C_heads] > 0)
        sb_printf(&s, "_%.0fx%.0f", b->val[C_heads], b->val[C_head_dim]);
    for (u32 n = 2;; n++) { /* same shape, other constants: number them */
        bool taken = false;
        for (u32 i = 0; i < b->p->kernels.n; i++)
            taken = taken || strcmp(b->p->kernels.at[i].name, s.p) == 0;
        if (!taken) return s.p;
        if (n > 2) s.n = (size_t)(strrchr(s.p, '_') - s.p);
        sb_printf(&s, "_%u", n);
    }
}

static bool depends(const CgRef *x, const CgRef *y)
{
    if (x->place != y->place || x->place == CG_NONE || x->place == CG_PRIVATE ||
        x->place == CG_WEIGHT)
        return false;
    if (x->place != CG_ACT && x->place != CG_KV) return true;
    return x->off < y->off + y->bytes && y->off < x->off + x->bytes;
}

/* Calls since the last barrier that touch what this one writes, or write what it touches. */
static bool needs_barrier(const CgPhase *ph, const CgCall *c)
{
    for (u32 i = ph->calls.n; i-- > 0;) {
        const CgCall *e = &ph->calls.at[i];
        for (u32 o = 0; o < CG_OUT; o++) {
            for (u32 k = 0; k < CG_IN; k++)
                if (depends(&e->out[o], &c->in[k]) || depends(&c->out[o], &e->in[k])) return true;
            for (u32 k = 0; k < CG_OUT; k++)
                if (depends(&e->out[o], &c->out[k])) return true;
        }
        if (e->barrier) break;
    }
    return false;
}

/* Finishes the call: finds or makes its kernel, notes what it reads, places the barrier. */
bool b_add_call(Bind *b)
{
    const u64 uses = cg_row_uses(b->row);
    CgKernel k = {.row = b->row, .uses = uses};
    StrBuf key = {.a = b->a};
    sb_printf(&key, "%u", (u32)b->row);
    for (u32 i = 0; i < CG_N_CONSTS; i++) {
        if (!(uses >> i & 1)) continue;
        k.val[i] = b->val[i];
        if (!cg_const_info[i].is_float && (k.val[i] < INT32_MIN || k.val[i] > INT32_MAX))
            return b_refuse(b, "constant %s does not fit 32 bits", cg_const_info[i].name);
        sb_ch(&key, ' ');
        sb_f64(&key, k.val[i]);
    }
    bool added;
    u32 *slot = map_put(&b->kernel_map, (Str){key.p, key.n}, &added);
    if (added) {
        *slot = b->p->kernels.n;
        k.name = kernel_name(b);
        vec_push(b->a, &b->p->kernels, k);
        i64 scratch = cg_rows[b->row].scratch((i64)b->val[C_K], (i64)b->val[C_head_dim]);
        u64 bytes = ((u64)(scratch < 0 ? 0 : scratch) + 63) / 64 * 64;
        if (bytes > b->p->kernel_scratch) b->p->kernel_scratch = bytes;
    }
    b->p->kernels.at[*slot].calls++;
    b->call.kernel = *slot;
    b->call.step = b->step;
    b->call.layer = op_at(b->m, b->ops[0])->layer;
    double *val = NEWN(b->a, double, CG_N_CONSTS);
    memcpy(val, b->val, sizeof b->val);
    b->call.val = val;
    b->call.barrier = needs_barrier(b->phase, &b->call);
    b->phase->barriers += b->call.barrier;
    vec_push(b->a, &b->phase->calls, b->call);
    b->call = (CgCall){0};
    return true;
}

/* ---- private results ---- */

static u32 last_use(const Bind *b, ValueId v)
{
    u32 last = b->step;
    for (u32 i = 0; i < b->fn->body.n; i++) {
        const Op *op = op_at(b->m, b->fn->body.at[i]);
        for (u32 k = 0; k < op->nin; k++) {
            if (op->in[k] != v) continue;
            if (op->step > last) last = op->step;
            if (op->kind == OP_RESHAPE || op->kind == OP_STORE)
                return 0; /* seen under another name */
        }
    }
    return b_is_result(b, v) ? 0 : last;
}

/* With one row, a norm or quantiser costs less than a barrier: every thread computes it into its
 * own memory. */
static bool make_private(Bind *b, ValueId v)
{
    if (place_of(b, v) < 0) return true; /* not seen outside */
    const u32 last = last_use(b, v);
    if (!last) return false;
    u64 bytes = (value_bytes(b, v) + 63) / 64 * 64, off = 0;
    for (bool moved = true; moved;) {
        moved = false;
        for (u32 i = 0; i < b->priv.n; i++) {
            const Private *q = &b->priv.at[i];
            if (q->last_step < b->step || off + bytes <= q->off || q->off + q->bytes <= off)
                continue;
            off = q->off + q->bytes;
            moved = true;
        }
    }
    const Private p = {v, off, bytes, last};
    vec_push(b->a, &b->priv, p);
    if (off + bytes > b->priv_bytes) b->priv_bytes = off + bytes;
    return true;
}

void b_try_private(Bind *b)
{
    if (b->phase != &b->p->phase[CG_DECODE]) return;
    const u32 before = b->priv.n;
    bool ok = true;
    for (u32 i = 0; i < b->n_ops; i++) {
        const Op *op = op_at(b->m, b->ops[i]);
        for (u32 k = 0; k < op_info[op->kind].nout; k++)
            ok = ok && make_private(b, op->out + k);
    }
    if (!ok) b->priv.n = before;
    b->call.each = ok && b->priv.n > before;
}

/* ---- the whole module ---- */

static bool bind_fn(Bind *b)
{
    for (u32 i = 0; i < b->fn->body.n;) {
        const u32 step = op_at(b->m, b->fn->body.at[i])->step;
        u32 n = 1;
        while (i + n < b->fn->body.n && op_at(b->m, b->fn->body.at[i + n])->step == step)
            n++;
        if (step == 0 || step > b->fn->steps.n)
            return diag_error(
                b->d, E_KERNEL, LOC_NONE,
                "@%s is not in steps; the passes fuse, layout and memory must run first",
                b->phase->name);
        b->step = step;
        b->st = &b->fn->steps.at[step - 1];
        b->ops = &b->fn->body.at[i];
        b->n_ops = n;
        if (!bind_step(b)) return false;
        i += n;
    }
    return true;
}

/* An embedding reads one row of its weights per token, everything else all of them. */
static void count_weight_reads(CgPlan *p, const CgPhase *ph)
{
    for (u32 i = 0; i < ph->calls.n; i++) {
        CgCall *c = &ph->calls.at[i];
        const CgKernel *k = &p->kernels.at[c->kernel];
        const bool embed = cg_row_is(k->row, "embed");
        for (u32 s = 0; s <= CG_AUX; s++) {
            const CgRef *r = s < CG_AUX ? &c->aux[s] : &c->w;
            if (r->place != CG_WEIGHT) continue;
            const u64 bytes = cg_section_bytes(p, r->section) / (embed ? (u64)k->val[C_N] : 1);
            if (s == CG_AUX) c->weight_bytes = bytes;
            /* A section that several calls of a token read comes from memory once. */
            u64 *read = &p->sections.at[r->section].read_per_token;
            if (ph == &p->phase[CG_DECODE] && *read < bytes) *read = bytes;
        }
    }
}

static bool lay_out_image(Diag *d, CgPlan *p)
{
    p->image = NEWN(p->a, PfqImageSection, p->sections.n + 1);
    for (u32 i = 0; i < p->sections.n; i++) {
        const CgSection *s = &p->sections.at[i];
        size_t n = strlen(s->name), cap = sizeof p->image[i].name - 1;
        memcpy(p->image[i].name, s->name, n < cap ? n : cap);
        p->image[i].bytes = s->generated ? 0 : cg_section_bytes(p, i);
    }
    return pfq_image_layout(p->image, p->sections.n, &p->data_offset, &p->data_bytes,
                            &p->total_bytes) ||
           diag_error(d, E_LIMIT, LOC_WHAT("weights"), "the weight image is too large");
}

bool cg_plan_generate(Diag *d, CgPlan *p)
{
    for (u32 i = 0; i < p->sections.n; i++) {
        CgSection *s = &p->sections.at[i];
        s->generated = cg_generated(p->a, p->m, s);
        p->generated = p->generated || s->generated;
    }
    return !p->generated || lay_out_image(d, p);
}

/* The states of the KV cache, which the pass memory placed one behind the other. */
static bool read_kv(Diag *d, CgPlan *p)
{
    const Module *m = p->m;
    u64 end = 0;
    for (u32 i = 0; i < m->consts.n; i++) {
        const Op *op = op_at(m, m->consts.at[i]);
        const Type *t = type_of(m, op->out);
        const Attr *at = op->kind == OP_STATE ? op_attr(op, A_AT) : NULL;
        if (!at || t->rank != 3 || t->dim[1] != DIM_C) continue;
        const u64 bytes = (u64)t->dim[2] * dtype_info[t->dt].bits / 8;
        const CgKvState s = {(u64)at->ints[0], (u32)t->dim[0], (u32)bytes};
        if (s.off != end || bytes > UINT32_MAX)
            return diag_error(d, E_KERNEL, LOC_NONE, "the states of the KV cache have gaps");
        end += s.heads * bytes;
        vec_push(p->a, &p->kv, s);
    }
    return end == p->kv_row_bytes ||
           diag_error(d, E_KERNEL, LOC_NONE, "the states of the KV cache are not all of it");
}

/* The prefix as the pass left it: a count, and ids separated by spaces. */
static bool read_prefix(Diag *d, CgPlan *p)
{
    const i64 n = ir_meta_get_int(p->m, "prefix", 0), ctx = ir_meta_get_int(p->m, "context", 0);
    if (n < 0 || n > 65535)
        return diag_error(d, E_LIMIT, LOC_NONE, "a prefix of %lld tokens", (long long)n);
    if (n && n >= ctx)
        return diag_error(d, E_LIMIT, LOC_NONE,
                          "a prefix of %lld tokens leaves nothing of the context of %lld",
                          (long long)n, (long long)ctx);
    p->context = ctx - n;
    p->prefix = (u32)n;
    p->prefix_ids = NEWN(p->a, i32, (u32)n + 1);
    const char *s = ir_meta_get_str(p->m, "prefix_ids", "");
    for (u32 i = 0; i < p->prefix; i++) {
        char *end;
        const long id = strtol(s, &end, 10);
        if (end == s || id < 0 || id > INT32_MAX)
            return diag_error(d, E_KERNEL, LOC_NONE, "the module names %u of its %u prefix tokens",
                              i, p->prefix);
        p->prefix_ids[i] = (i32)id;
        s = end;
    }
    return true;
}

bool cg_plan(Diag *d, Arena *a, Module *m, CgPlan *out)
{
    static const char *const names[CG_N_PHASES] = {"prefill", "logits", "decode"};
    *out = (CgPlan){.m = m, .a = a, .kv_row_bytes = (u64)ir_meta_get_int(m, "kv_row_bytes", 0)};
    Bind b = {.d = d,
              .a = a,
              .m = m,
              .p = out,
              .chunk = ir_meta_get_int(m, "chunk", 0),
              .rows = ir_meta_get_int(m, "rows", 0)};
    b.kernel_map.a = b.section_map.a = a;
    for (u32 i = 0; i < CG_N_PHASES; i++) {
        Fn *fn = ir_fn(m, names[i]);
        if (!fn)
            return diag_error(d, E_KERNEL, LOC_NONE,
                              "the module has no @%s; the pass phases must run first", names[i]);
        out->phase[i] = (CgPhase){.name = names[i], .fn = (u32)(fn - m->fns.at)};
        if (fn->act_bytes > out->act_bytes) out->act_bytes = fn->act_bytes;
    }
    if (!read_prefix(d, out) || !read_kv(d, out)) return false;
    if (b.chunk < 1 || b.rows < 1)
        return diag_error(d, E_KERNEL, LOC_NONE, "the module does not say its chunk and rows");
    /* Decode first: sections are numbered, and so stored, in the order in which it streams them. */
    static const u32 order[CG_N_PHASES] = {CG_DECODE, CG_PREFILL, CG_LOGITS_PHASE};
    bool ok = true;
    for (u32 i = 0; i < CG_N_PHASES; i++) {
        b.phase = &out->phase[order[i]];
        b.fn = &m->fns.at[b.phase->fn];
        b.priv.n = 0;
        ok = bind_fn(&b) && ok;
    }
    if (!ok || !lay_out_image(d, out)) return false;
    out->scratch_bytes = out->kernel_scratch + b.priv_bytes;
    for (u32 i = 0; i < CG_N_PHASES; i++)
        count_weight_reads(out, &out->phase[i]);
    for (u32 i = 0; i < out->sections.n; i++)
        out->weight_bytes_per_token += out->sections.at[i].read_per_token;
    return true;
}
